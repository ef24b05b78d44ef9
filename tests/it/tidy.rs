//! House rules that the compiler and clippy cannot check. Each test reads the source tree as text and lists every
//! place that breaks its rule.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use kasm_void::model::manifest::Manifest;
use kasm_void::model::manifest::workspace::WorkspaceForm;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` with this suffix, by name.
fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("a text file")));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {ending} in {folder}");
    found
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/")
}

/// The lines of a source file that are compiled into the product, numbered.
fn product(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    shipped
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn the_model_touches_nothing() {
    let banned = [
        "tokio::",
        "rustix::",
        "libc::",
        "std::fs",
        "std::env",
        "std::net",
        "std::process",
        "std::thread",
        "std::io",
        "Instant::now",
        "SystemTime",
        "crate::host",
        "crate::daemon",
        "crate::cli",
        "crate::launcher",
        "crate::http",
        "println!",
        "tracing::",
        "fastrand",
        "std::os",
        "async ",
        // State that can change behind a shared reference.
        "RefCell",
        "Mutex",
        "RwLock",
        "Atomic",
        "OnceLock",
        "LazyLock",
        "static mut",
        "thread_local",
        // A stored closure could do anything. Functions may borrow one.
        "Box<dyn",
        "Rc<dyn",
        "Arc<dyn",
    ];
    let mut found = Vec::new();
    for (name, text) in files("src/model", ".rs").into_iter().filter(|(name, _)| !is_test(name)) {
        for (line, code) in product(&text) {
            found
                .extend(banned.iter().filter(|word| code.contains(*word)).map(|word| format!("{name}:{line}: {word}")));
        }
    }
    assert!(found.is_empty(), "the model decides and touches nothing:\n{}", found.join("\n"));
}

#[test]
fn files_of_the_daemon_do_not_import_one_another() {
    // The parts of the event loop, which combine the others.
    let the_loop = ["answer", "jobs", "manifests", "offline", "perform", "startup"];
    let composed = [("hooks", ["display", "files", "probes", "process"])];
    let all: Vec<(String, String)> = files("src/daemon", ".rs");
    let room = |name: &str| name["src/daemon/".len()..].split(['/', '.']).next().unwrap_or_default().to_owned();
    let rooms: Vec<String> = all.iter().map(|(name, _)| room(name)).collect();

    let mut found = Vec::new();
    for (name, text) in all.iter().filter(|(name, _)| !the_loop.contains(&room(name).as_str())) {
        let own = room(name);
        let beside = name.matches('/').count() == 2;
        for (line, code) in product(text).filter(|(_, code)| code.contains("use ")) {
            for other in rooms.iter().filter(|other| **other != own) {
                let named = imports(code, "crate::daemon::", other) || (beside && imports(code, "super::", other));
                let may = composed.iter().any(|(file, others)| *file == own && others.contains(&other.as_str()));
                if named && !may {
                    found.push(format!("{name}:{line}: {other}"));
                }
            }
        }
    }
    found.dedup();
    assert!(found.is_empty(), "each file of the daemon does one thing alone:\n{}", found.join("\n"));
}

/// Whether this line contains `use PREFIXname…` or `use PREFIX{…, name, …}`.
fn imports(code: &str, prefix: &str, name: &str) -> bool {
    let Some((_, path)) = code.split_once(prefix) else { return false };
    path.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        .any(|word| word == name || word.strip_prefix(name).is_some_and(|rest| rest.starts_with("::")))
        && (path.starts_with('{') || path.starts_with(name))
}

const LONGEST_FILE: usize = 400;

#[test]
fn a_long_file_gives_its_reason() {
    let mut found = Vec::new();
    for (name, text) in files("src", ".rs").into_iter().filter(|(name, _)| !is_test(name)) {
        let lines = product(&text).count();
        let header = text.lines().take_while(|line| line.starts_with("//!"));
        let excused = header.into_iter().any(|line| line.contains("One file because "));
        if lines > LONGEST_FILE && !excused {
            found.push(format!("{name}: {lines} lines"));
        }
    }
    assert!(
        found.is_empty(),
        "more than {LONGEST_FILE} lines of product code: split the file, or write `One file because …` at its top:\n{}",
        found.join("\n")
    );
}

const MOST_FIELDS: usize = 14;

#[test]
fn a_type_with_many_fields_gives_its_reason() {
    let (mut found, mut seen) = (Vec::new(), 0);
    for (name, text) in files("src", ".rs").into_iter().filter(|(name, _)| !is_test(name)) {
        let lines: Vec<&str> = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let declared = line.strip_prefix("pub ").or(line.strip_prefix("pub(crate) ")).unwrap_or(line);
            if !(declared.starts_with("struct ") && declared.ends_with('{')) {
                continue;
            }
            seen += 1;
            let body = lines[at + 1..].iter().take_while(|line| **line != "}");
            let is_field = |line: &&&str| {
                let code = line.strip_prefix("    ").unwrap_or_default();
                !code.starts_with([' ', '/', '#']) && code.contains(": ")
            };
            let fields = body.filter(is_field).count();
            let above = lines[..at].iter().rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
            if fields > MOST_FIELDS && !above.into_iter().any(|line| line.contains("One type because ")) {
                found.push(format!("{name}:{}: {fields} fields", at + 1));
            }
        }
    }
    assert!(seen > 100, "the types are not found");
    assert!(
        found.is_empty(),
        "more than {MOST_FIELDS} fields: split the type, or write `One type because …` above it:\n{}",
        found.join("\n")
    );
}

#[test]
fn modules_do_not_import_one_another_in_a_circle() {
    let module = |name: &str| {
        let path = name.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::");
        if matches!(path.as_str(), "lib" | "main") { String::new() } else { path }
    };
    let sources = files("src", ".rs").into_iter().filter(|(name, _)| !is_test(name));
    let modules: BTreeMap<String, String> = sources.map(|(name, text)| (module(&name), code(&text))).collect();
    let graph = imports::graph(&modules);
    assert!(graph.values().map(BTreeSet::len).sum::<usize>() > modules.len(), "the imports are not found: {graph:#?}");
    let found: Vec<_> = imports::cycles(&graph);
    let edges = |circle: &BTreeSet<String>| {
        let uses =
            |module: &String| format!("  {module} uses {:?}", graph[module].intersection(circle).collect::<Vec<_>>());
        circle.iter().map(uses).collect::<Vec<_>>().join("\n")
    };
    let told: Vec<String> = found.iter().map(edges).collect();
    assert!(told.is_empty(), "modules that import one another in a circle:\n{}", told.join("\n\n"));
}

/// A source file without its tests and comments.
fn code(text: &str) -> String {
    let lines = product(text).map(|(_, line)| line.split(" // ").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn no_two_public_types_have_one_name() {
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in files("src", ".rs").into_iter().filter(|(name, _)| !is_test(name)) {
        for (_, line) in product(&text) {
            let Some(rest) = line.trim_start().strip_prefix("pub ") else { continue };
            let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
            let Some(rest) = kinds.iter().find_map(|kind| rest.strip_prefix(kind)) else { continue };
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            types.entry(rest[..end].to_owned()).or_default().insert(name.clone());
        }
    }
    assert!(types.len() > 100, "the public types are not found: {types:?}");
    types.retain(|_, files| files.len() > 1);
    assert!(types.is_empty(), "one name, more than one public type:\n{types:#?}");
}

#[test]
fn stories_wait_for_events_and_none_is_skipped() {
    let mut found = Vec::new();
    let stories = files("tests/it", ".rs")
        .into_iter()
        .filter(|(name, _)| !matches!(name.as_str(), "tests/it/harness.rs" | "tests/it/tidy.rs"));
    for (name, text) in stories {
        for (at, line) in text.lines().enumerate() {
            let waits = ["thread::sleep", "time::sleep", "#[ignore"].into_iter().find(|word| line.contains(word));
            // A test that returns early without saying why.
            let ends = Some("return;").filter(|word| line.strip_prefix("        ") == Some(word));
            if let Some(word) = waits.or(ends) {
                found.push(format!("{name}:{}: {word}", at + 1));
            }
        }
    }
    assert!(
        found.is_empty(),
        "a story waits with `until`, and says `not_run` where it cannot run:\n{}",
        found.join("\n")
    );
}

#[test]
fn each_file_says_what_it_owns() {
    let mut silent = Vec::new();
    for (name, text) in files("src", ".rs").into_iter().chain(files("tests", ".rs")) {
        if !text.starts_with("//! ") {
            silent.push(name);
        }
    }
    assert!(silent.is_empty(), "no `//!` header: {silent:?}");
}

#[test]
fn only_tests_open_pages_of_this_machine() {
    let mut found = Vec::new();
    for (name, text) in files("src", ".rs").into_iter().filter(|(name, _)| !is_test(name)) {
        let lines = product(&text).filter(|(_, code)| code.contains("also_loopback") && !code.contains("pub fn "));
        found.extend(lines.map(|(line, _)| format!("{name}:{line}")));
    }
    assert!(found.is_empty(), "loopback is let through the URL policy of the product: {found:?}");
}

#[test]
fn unsafe_code_is_in_one_place() {
    let mut found = Vec::new();
    for (name, text) in files("src", ".rs") {
        if name != "src/host/sys.rs" && name != "src/host/sys/spawn.rs" {
            found.extend(
                product(&text)
                    .filter(|(_, code)| code.contains("unsafe ") || code.contains("allow(unsafe_code)"))
                    .map(|(line, _)| format!("{name}:{line}")),
            );
        }
    }
    assert!(found.is_empty(), "unsafe code outside src/host/sys: {found:?}");
}

#[test]
fn each_manifest_field_is_in_the_reference() {
    let reference = fs::read_to_string(root().join("docs/manifest.md")).expect("docs/manifest.md");
    let named = named_in_code(&reference);
    let mut missing = Vec::new();
    let settings = files("src/model/manifest", ".rs").into_iter().filter(|(name, _)| !is_test(name));
    for (file, text) in settings.chain(files("src/model", "manifest.rs")) {
        let words = fields_and_variants(&text).into_iter().filter(|word| !named.contains(word.as_str()));
        missing.extend(words.map(|word| format!("{file}: {word}")));
    }
    assert!(missing.is_empty(), "not as `code` in docs/manifest.md:\n{}", missing.join("\n"));
}

#[test]
fn each_manifest_field_can_be_explained() {
    let forms = |name: &str, text: &str| -> Vec<String> {
        let (_, form) = text.split_once(&format!("pub struct {name} {{")).expect("the form");
        let (form, _) = form.split_once("\n}").expect("its end");
        let fields = form.lines().filter_map(|line| line.strip_prefix("    pub ")?.split_once(':'));
        fields.map(|(field, _)| field.to_owned()).collect()
    };
    let mut paths = Vec::new();
    for (file, form, parent) in [
        ("manifest.rs", "Manifest", ""),
        ("workspace.rs", "WorkspaceForm", "workspace."),
        ("after.rs", "ConditionForm", "after."),
        ("backoff.rs", "BackoffForm", "backoff."),
        ("stop.rs", "StopForm", "stop."),
        ("log.rs", "LogForm", "log."),
        ("limits.rs", "LimitsForm", "limits."),
        ("rlimits.rs", "RlimitsForm", "rlimits."),
        ("matches.rs", "MatchForm", "matches."),
        ("icon.rs", "Icon", "icon."),
    ] {
        let sources = files("src/model/manifest", ".rs").into_iter().chain(files("src/model", "manifest.rs"));
        let (_, text) = sources.into_iter().find(|(name, _)| name.ends_with(&format!("/{file}"))).expect(file);
        paths.extend(forms(form, &text).iter().map(|field| format!("{parent}{field}")));
    }
    assert!(paths.len() > 50, "the fields are not found: {paths:?}");
    let hooks = kasm_void::model::reference::explain("hooks").expect("the hooks").fields;
    assert!(hooks.len() > 8, "{hooks:?}");
    let unknown: Vec<String> =
        paths.iter().filter_map(|path| kasm_void::model::reference::explain(path).err()).collect();
    assert!(unknown.is_empty(), "kasm-void explain does not know:\n{}", unknown.join("\n"));
}

#[test]
fn each_promise_names_the_tests_that_hold_it() {
    let document = fs::read_to_string(root().join("docs/reliability.md")).expect("docs/reliability.md");
    let (_, promises) = document.split_once("## The promises").expect("the promises");
    let (table, _) = promises.split_once("\n## ").expect("what comes behind them");
    let sources: String =
        ["src", "tests"].into_iter().flat_map(|folder| files(folder, ".rs")).map(|(_, text)| text).collect();
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise")).collect();
    assert!(rows.len() > 20, "the table is not found");
    let mut found = Vec::new();
    for row in rows {
        let tests: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let exists =
            |test: &&&str| test.rsplit_once("::").is_none_or(|(_, name)| sources.contains(&format!("fn {name}(")));
        found.extend(tests.iter().filter(|test| !exists(test)).map(|test| format!("there is no test `{test}`")));
        if !tests.iter().any(|test| *test == "torture" || test.contains("::")) {
            found.push(format!("no test: {row}"));
        }
    }
    assert!(found.is_empty(), "docs/reliability.md:\n{}", found.join("\n"));
}

#[test]
fn each_row_of_the_contract_names_a_test_that_exists() {
    let text = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (document, stories) = (text("docs/contract.md"), text("tests/image/stories.sh"));
    let sources: String =
        ["src", "tests"].into_iter().flat_map(|folder| files(folder, ".rs")).map(|(_, text)| text).collect();
    let scripts = ["try.sh", "pipeline"]; // the document's head says where they are
    let exists = |test: &str| match (test.strip_prefix("stories "), test.rsplit_once("::")) {
        (Some(story), _) => stories.contains(&format!("\n{story}() {{")),
        (None, Some((_, name))) => sources.contains(&format!("fn {name}(")),
        (None, None) => scripts.contains(&test) || root().join(test).is_file(),
    };
    let rows: Vec<&str> =
        document.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |")).collect();
    assert!(rows.len() > 40, "the tables are not found");
    let wrong = rows.iter().filter(|row| {
        let column = row.trim_end_matches(" |").rsplit_once(" | ").map_or("", |(_, tests)| tests);
        let mut tests = column.split('`').skip(1).step_by(2).peekable();
        column != "not in this image" && (tests.peek().is_none() || !tests.all(&exists))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), [&""; 0]);
}

/// The names in a document's code spans and code blocks. The same words in prose do not count.
fn named_in_code(document: &str) -> BTreeSet<&str> {
    // A code block has three backticks on each side. Three is odd, like one, so splitting works for both.
    let code = document.split('`').skip(1).step_by(2);
    code.flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_')).collect()
}

#[test]
fn only_names_in_code_are_named() {
    let named = named_in_code("the command is `stop: Stop(signal)`\n```ron\nApp(args: [])\n```\nand `env`");
    assert_eq!(
        named.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>(),
        ["App", "Stop", "args", "env", "ron", "signal", "stop"]
    );
}

/// The fields and variants of every type that is read from a manifest.
fn fields_and_variants(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for (_, line) in product(text) {
        let code = line.trim();
        if code.starts_with("#[derive(") {
            inside = code.contains("Deserialize");
        } else if line == "}" {
            inside = false;
        } else if inside && line.starts_with("    ") && !code.starts_with('#') {
            let name = code.trim_start_matches("pub ");
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
            names.push(name[..end].to_owned());
        }
    }
    names.retain(|name| !name.is_empty());
    // Exits appear only in output, not in manifests, and so does the policy's memory of them.
    let told = [
        "attempt",
        "early",
        "Clean",
        "Code",
        "Signal",
        "OutOfMemory",
        "ProfileLocked",
        "HookFailed",
        "SpawnFailed",
        "NotReady",
    ];
    let also_told = ["Unhealthy", "TooMuchMemory", "StoppedByUs", "Unknown"];
    names.retain(|name| !told.contains(&name.as_str()) && !also_told.contains(&name.as_str()));
    names
}

#[test]
fn all_shipped_manifests_are_read() {
    let ron = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
    for (name, text) in files("manifests", ".ron") {
        let read = match name.ends_with("workspace.ron") {
            true => ron.from_str::<WorkspaceForm>(&text).map(|_| ()),
            false => ron.from_str::<Manifest>(&text).map(|_| ()),
        };
        read.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn no_shipped_browser_covers_the_screen_after_a_crash() {
    let browsers = files("manifests", ".ron").into_iter().filter(|(_, text)| text.contains("kind: Chromium"));
    let mut seen = 0;
    for (name, text) in browsers {
        assert!(text.contains("\"--hide-crash-restore-bubble\""), "{name}: `Restore pages?` would cover the screen");
        seen += 1;
    }
    assert!(seen > 1, "there are two browsers");
}

#[test]
fn the_manifest_in_the_cluster_is_read() {
    let text = fs::read_to_string(root().join("image/kubernetes/base/manifests.yaml")).expect("the ConfigMap");
    let (_, written) = text.split_once(".ron: |\n").expect("a manifest in it");
    kasm_void::model::loading::parse::parse::<Manifest>("monitor.ron", written).expect("a manifest without a mistake");
}

#[test]
fn there_is_one_version() {
    let said = |file: &str, before: &str| {
        let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let said: Vec<String> = text.lines().filter_map(|line| line.trim().strip_prefix(before)).map(version).collect();
        assert!(!said.is_empty(), "{file} has no line that begins with {before}");
        said
    };
    let built = said("image/version.toml", "version = ").remove(0);
    let published = said("image/version.toml", "published = ").remove(0);
    for (file, before, wanted) in [
        ("Cargo.toml", "version = ", &built),
        ("image/Dockerfile", "ARG VERSION=", &built),
        ("image/kubernetes/base/deployment.yaml", "image: ghcr.io/kbve/kasm-void:", &published),
    ] {
        for said in said(file, before) {
            let (tag, _digest) = said.split_once('@').unwrap_or((&said, ""));
            assert_eq!(tag, wanted, "{file} and image/version.toml differ; image/publish.sh sets the Deployment's");
        }
    }
}

fn version(text: &str) -> String {
    text.trim_matches('"').to_owned()
}

#[test]
fn scripts_are_executable() {
    use std::os::unix::fs::PermissionsExt;
    let shipped = ["tests", "image"].into_iter().flat_map(|folder| files(folder, ".sh")).map(|(name, _)| name);
    for script in shipped.chain([".ci/run".to_owned()]) {
        let path = root().join(&script);
        let mode = fs::metadata(&path).unwrap_or_else(|error| panic!("{script}: {error}")).permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script}");
    }
}
