//! The verbs for manifests that need no supervisor: `check` and `new`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::print::{problem, say, say_json};
use super::{VerbEnd, session};
use crate::daemon;
use crate::model::loading::problem::{Problem, Severity};
use crate::model::manifest::name;

/// Prints every mistake in the manifests of these folders. A missing folder is an error here, although a running
/// supervisor waits for it.
pub fn check(mut folders: Vec<PathBuf>, json: bool) -> anyhow::Result<VerbEnd> {
    if folders.is_empty() {
        folders.push(session::own_folder()?);
    }
    let (files, mut problems) = daemon::check(&folders);
    let is_folder = |problem: &&mut Problem| folders.iter().any(|folder| Path::new(&problem.file) == folder);
    for missing in problems.iter_mut().filter(is_folder) {
        missing.severity = Severity::Error;
        missing.help = "name the folder that holds the manifests".into();
    }
    tell_problems((files, problems), json)
}

/// Prints the number of files and their problems. The result is `Refused` if any problem is an error.
pub fn tell_problems((files, problems): (usize, Vec<Problem>), json: bool) -> anyhow::Result<VerbEnd> {
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    if json {
        say_json(&json!({ "ok": errors == 0, "files": files, "problems": problems }))?;
    } else {
        for found in &problems {
            say(&format!("{}\n", problem(found)))?;
        }
        say(&summary(files, errors, problems.len() - errors))?;
    }
    Ok(if errors == 0 { VerbEnd::Done } else { VerbEnd::Refused })
}

fn summary(files: usize, errors: usize, warnings: usize) -> String {
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let found = match (errors, warnings) {
        (0, 0) => "no problems".into(),
        (0, _) => counted(warnings, "warning"),
        (_, 0) => counted(errors, "error"),
        _ => format!("{}, {}", counted(errors, "error"), counted(warnings, "warning")),
    };
    format!("{} checked: {found}", counted(files, "file"))
}

/// Writes a first manifest for `command` into `folder`.
pub fn new(
    name: &str,
    command: &[String],
    folder: Option<PathBuf>,
    force: bool,
    json: bool,
) -> anyhow::Result<VerbEnd> {
    let folder = folder.map_or_else(session::own_folder, Ok)?;
    let text = manifest(name, command)?;
    let file = folder.join(format!("{name}.ron"));
    write(&file, &text, force)?;
    if json {
        say_json(&json!({ "file": file }))?;
    } else {
        let (shown, folder) = (file.display(), folder.display());
        say(&format!("wrote {shown}: review it, then run `kasm-void check {folder}`"))?;
    }
    Ok(VerbEnd::Done)
}

fn write(file: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!force);
    match options.open(file).and_then(|mut file| file.write_all(text.as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} already exists: choose another name, or overwrite it with --force", file.display())
        }
        written => written.with_context(|| format!("cannot write {}", file.display())),
    }
}

/// The manifest's text, with the most common fields as comments.
fn manifest(name: &str, command: &[String]) -> anyhow::Result<String> {
    ensure!(name::is_allowed(name), "`{name}` cannot be the name of an app: {}", name::RULE);
    ensure!(name != name::WORKSPACE, "`{name}` is the session's own manifest: choose another name");
    let (program, args) =
        command.split_first().context("a manifest needs a command: `kasm-void new NAME -- COMMAND`")?;
    let program = ron::to_string(&literal(&absolute(program)?))?;
    let mut text = String::from("// See docs/manifest.md for every field and its default.\nApp(\n");
    text.push_str(&format!("    command: {program},\n"));
    if !args.is_empty() {
        let words: Vec<String> = args.iter().map(|arg| ron::to_string(&literal(arg))).collect::<Result<_, _>>()?;
        text.push_str(&format!("    args: [\n        {},\n    ],\n", words.join(",\n        ")));
    }
    text.push('\n');
    text.push_str(TEACHING);
    Ok(text)
}

/// Escapes `text` so that the app receives exactly these characters.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// Makes a path absolute. A bare name stays as it is: it is looked up in PATH at each start.
fn absolute(program: &str) -> anyhow::Result<String> {
    if !program.contains('/') {
        return Ok(program.into());
    }
    let path: PathBuf = std::path::absolute(program).with_context(|| format!("cannot make `{program}` absolute"))?;
    path.into_os_string().into_string().ok().with_context(|| format!("the path of `{program}` is not UTF-8"))
}

const TEACHING: &str = r#"    // How to recognize a process of this app that something else started (a desktop icon, an earlier supervisor):
    // matches: Match(cmdline: "^/usr/bin/program", exclude: "--type="),

    // Steps before every start; each has a timeout and a setting for its failure:
    // prelaunch: [WaitFor(what: Display, timeout: "30s")],

    // When the app is ready after its start, and whether it still works later:
    // ready: Ready(probe: Tcp(address: "127.0.0.1:9222"), within: "30s"),
    // health: Health(probe: Tcp(address: "127.0.0.1:9222"), every: "10s", failures: 3),

    // Always | OnFailure | Never; and what happens when a user closes it: Restart | Hold
    // restart: Always,
    // on_close: Restart,
    // backoff: Backoff(first: "1s", factor: 2.0, max: "30s", give_up: Never),

    // The signal that stops it, and the time until it is killed:
    // stop: Stop(signal: "TERM", grace: "5s"),

    // log: Log(max_size: "10MiB", keep: 3),
    // limits: Limits(max_rss: "2GiB"),
)
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::Manifest;

    fn parsed(text: &str) -> Manifest {
        let options = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
        options.from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| word.to_string()).collect()
    }

    #[test]
    fn the_written_manifest_starts_the_same_command() {
        let text = manifest("a", &words(&["xterm", "-e", "say \"hi\" \\ \n$HOME", "é"])).unwrap();
        let manifest = parsed(&text);
        assert_eq!(manifest.command, "xterm");
        assert_eq!(manifest.args, ["-e", "say \"hi\" \\ \n$$HOME", "é"]);
    }

    #[test]
    fn what_it_teaches_is_right() {
        let text = manifest("a", &words(&["/bin/true"])).unwrap();
        let is_field = |line: &str| line.split_once(": ").is_some_and(|(name, _)| !name.contains([' ', '/']));
        let fields = text.lines().map(|line| match line.trim().strip_prefix("// ") {
            Some(field) if is_field(field) => field,
            _ => line,
        });
        let uncommented = parsed(&fields.collect::<Vec<_>>().join("\n"));
        assert!(uncommented.health.is_some() && uncommented.matches.is_some() && uncommented.limits.max_rss.is_some());
        assert_eq!(uncommented.prelaunch.len(), 1);
    }

    #[test]
    fn a_relative_program_is_written_so_that_it_holds_everywhere() {
        let manifest = parsed(&manifest("a", &words(&["./run.sh"])).unwrap());
        assert!(Path::new(&manifest.command).is_absolute(), "{}", manifest.command);
    }

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        for name in ["", "../a", "a/b", ".a", "-a", "a b", "workspace", "a.ron"] {
            assert!(manifest(name, &words(&["x"])).is_err(), "{name}");
        }
    }

    #[test]
    fn a_folder_that_does_not_exist_is_an_error() {
        let missing = tempfile::tempdir().unwrap().path().join("nowhere");
        assert_eq!(check(vec![missing], true).unwrap(), VerbEnd::Refused);
    }

    #[test]
    fn a_manifest_is_not_written_over_unless_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("deep/manifests");
        new("a", &words(&["first"]), Some(dir.clone()), false, true).unwrap();
        let error = new("a", &words(&["second"]), Some(dir.clone()), false, true).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert!(std::fs::read_to_string(dir.join("a.ron")).unwrap().contains("first"));
        new("a", &words(&["third"]), Some(dir.clone()), true, true).unwrap();
        assert_eq!(parsed(&std::fs::read_to_string(dir.join("a.ron")).unwrap()).command, "third");
    }

    #[test]
    fn only_errors_refuse() {
        let (error, warning) = (Problem::whole("a.ron", "no"), Problem::whole("a.ron", "hm").warning());
        assert_eq!(tell_problems((1, vec![warning.clone()]), true).unwrap(), VerbEnd::Done);
        assert_eq!(tell_problems((2, vec![warning, error]), true).unwrap(), VerbEnd::Refused);
        assert_eq!(summary(3, 0, 0), "3 files checked: no problems");
        assert_eq!(summary(1, 2, 1), "1 file checked: 2 errors, 1 warning");
    }
}
