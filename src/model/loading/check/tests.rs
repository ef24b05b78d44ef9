//! Good and bad manifests, and the exact messages for them.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::accounts;
use crate::model::loading::problem::Severity;
use crate::model::loading::surroundings::FileKind;
use crate::model::manifest::env_files::Unread;
use crate::model::manifest::hook::Step;
use crate::model::plan::{self, Change};

/// Checks files by name, on a machine with /usr/bin/web and with `tool` on PATH.
pub(super) fn check_with(checker: &mut Checker, env: &[(&str, &str)], files: &[(&str, &str)]) -> Checked {
    let source = |(name, text): &(&str, &str)| Source {
        name: name.to_string(),
        file: format!("{name}.ron"),
        folder: "/manifests".into(),
        text: Ok(text.to_string()),
    };
    let sources: Vec<Source> = files.iter().map(source).collect();
    let mut env: BTreeMap<String, String> = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    env.insert("PATH".into(), "/usr/bin:/bin".into());
    let look = |file: &str| match file {
        "/usr/bin/web" | "/bin/tool" | "/usr/local/bin/kasm-void" => FileKind::Program,
        "/opt/cloakbrowser/cloakbrowser" | "/usr/share/discord/Discord" => FileKind::Program,
        "/tmp" | "/home/me" => FileKind::Folder,
        "/dev/null" | "/run/fifo" => FileKind::Special,
        _ => FileKind::Nothing,
    };
    let read = |file: &str| match file {
        "/manifests/app.env" => Ok(Some("# what it needs\nKEY=1\nexport LANG=de\nTOKEN='s3cr3t'\n".into())),
        "/home/me/more.env" => Ok(Some("KEY=2\nBOTH=$KEY-$PATH\n".into())),
        "/manifests/bad.env" => Ok(Some("A=1\nB=\"s3cr3t".into())),
        "/manifests/ours.env" => Ok(Some("KASM_VOID_APP=web".into())),
        "/run/fifo" => Err("is a FIFO".to_owned().into()),
        _ => Ok(None),
    };
    let run_as = |user: &str, group: Option<&str>| {
        let (passwd, groups) = ("web:x:1001:1001::/srv/web:/bin/sh\nme:x:1000:1000::/home/me:\n", "video:x:44:\n");
        accounts::run_as(passwd, groups, user, group)
    };
    checker.check(
        &sources,
        true,
        &Surroundings { env: &env, home: Some("/home/me"), look: &look, read: &read, run_as: &run_as, uid: 1000 },
    )
}

fn check(files: &[(&str, &str)]) -> Checked {
    check_with(&mut Checker::default(), &[], files)
}

pub(super) fn said(checked: &Checked) -> Vec<String> {
    checked.problems.iter().map(ToString::to_string).collect()
}

fn one(text: &str, env: &[(&str, &str)]) -> App {
    let checked = check_with(&mut Checker::default(), env, &[("web", text)]);
    assert!(checked.stale.is_empty(), "{:?}", said(&checked));
    App::clone(&checked.apps["web"])
}

#[test]
fn the_smallest_manifest_is_one_line() {
    let app = one(r#"App(command: "/usr/bin/web")"#, &[]);
    assert_eq!((app.program.argv, app.enabled, app.stop.signal), (vec!["/usr/bin/web".to_string()], true, 15));
}

#[test]
fn what_is_wrong_with_a_value_is_said_with_its_place_and_the_way_out() {
    let table = [
        (
            r#"App(command: "nothing")"#,
            "web.ron:1:14: no program `nothing` on PATH (`command`): install it, or write its absolute path; looked in /usr/bin:/bin",
        ),
        (
            r#"App(command: "./web")"#,
            "web.ron:1:14: `./web` is a relative path (`command`): use an absolute path, `${here}/web` for a file beside the manifest, or a program on PATH",
        ),
        (
            r#"App(command: "/usr/bin/web", args: ["a", "${X}"])"#,
            "web.ron:1:43: `X` is not set (`args[1]`): set it, or give a default: `${X:-…}`",
        ),
        (
            r#"App(command: "tool", vars: {"a": "${b}", "b": "${a}"}, args: ["${a}"])"#,
            "web.ron:1:48: these refer to each other: a -> b -> a (`vars.b`)",
        ),
        (
            r#"App(command: "tool", stop: Stop(signal: "KIL"))"#,
            "web.ron:1:41: `KIL` is not a signal: use a name as in \"TERM\" or \"INT\", or a number from 1 to 31 (`stop.signal`)",
        ),
        (
            r#"App(command: "tool", matches: Match(cmdline: "(("))"#,
            "web.ron:1:46: this is not a regex: REGEX (`matches.cmdline`)",
        ),
        (
            r#"App(command: "tool", postlaunch: [Maximize(class: "[")])"#,
            "web.ron:1:51: this is not a regex: REGEX (`postlaunch[0].class`)",
        ),
        (
            r#"App(command: "tool", cwd: "x")"#,
            "web.ron:1:27: `x` is a relative path (`cwd`): use an absolute path, or one that begins with `~/`",
        ),
        (
            r#"App(command: "tool", ready: Ready(probe: Display, within: "0s"))"#,
            "web.ron:1:59: 0s is out of range (`ready.within`): use 10ms to 1day",
        ),
        (
            r#"App(command: "tool", health: Health(probe: Display, every: "0s"))"#,
            "web.ron:1:60: 0s is out of range (`health.every`): use 10ms to 1day",
        ),
        (
            r#"App(command: "tool", health: Health(probe: Display, failures: 0))"#,
            "web.ron:1:63: 0 is out of range (`health.failures`): use 1 to 1000",
        ),
        (
            r#"App(command: "tool", prelaunch: [WaitFor(what: Tcp(address: "x"))])"#,
            "web.ron:1:61: `x` is not an address (`prelaunch[0].what.address`): write \"127.0.0.1:9222\"",
        ),
        (
            r#"App(command: "tool", prelaunch: [Run(argv: [])])"#,
            "web.ron:1:44: the command is empty (`prelaunch[0].argv`): name a program",
        ),
        (r#"App(command: "", prelaunch: [])"#, "web.ron:1:14: the command is empty (`command`): name a program"),
        (
            r#"App(command: "tool", limits: Limits(oom_score_adj: 1001))"#,
            "web.ron:1:52: 1001 is out of range (`limits.oom_score_adj`): use -1000 to 1000",
        ),
        (
            r#"App(command: "tool", env: {"A=B": "x"})"#,
            "web.ron:1:35: `A=B` cannot be the name of a variable (`env.A=B`)",
        ),
        (
            r#"App(command: "tool", about: "a\0b")"#,
            "web.ron:1:29: a text with a NUL byte cannot be given to a program (`about`)",
        ),
        (
            r#"App(command: "tool", args: ["${X:?give me X}"])"#,
            "web.ron:1:30: `X`: give me X (`args[0]`): set it in the supervisor's environment",
        ),
        (
            r#"App(command: "tool", args: ["é\t${X}"])"#,
            "web.ron:1:29: `X` is not set (`args[0]`): set it, or give a default: `${X:-…}`",
        ),
        (
            r#"App(command: "tool", after: ["web"])"#,
            "web.ron:1:29: these wait for each other: web -> web (`after`): take one of them out of the circle",
        ),
        (
            r#"App(command: "tool", after: ["wep"])"#,
            "web.ron:1:30: no app is called `wep` (`after[0]`): there is no other app",
        ),
        (
            r#"App(command: "tool", backoff: Backoff(factor: 0.5))"#,
            "web.ron:1:47: 0.5 is out of range (`backoff.factor`): use 1 to 100",
        ),
        (
            r#"App(command: "tool", backoff: Backoff(first: "1m", max: "1s"))"#,
            "web.ron:1:46: the first wait (1m) is longer than `max` (1s) (`backoff.first`)",
        ),
        (
            r#"App(command: "tool", backoff: Backoff(first: "3"))"#,
            "web.ron:1:46: `3` is not a duration (time unit needed, for example 3sec or 3ms): write a number and a unit, as in \"500ms\", \"3s\" or \"1m 30s\" (`backoff.first`)",
        ),
        (
            r#"App(command: "tool 10 -v")"#,
            "web.ron:1:14: this is a program with arguments (`command`): write `command: \"tool\", args: [\"10\", \"-v\"]`",
        ),
        (
            r#"App(command: "/usr/bin/web --app")"#,
            "web.ron:1:14: this is a program with arguments (`command`): write `command: \"/usr/bin/web\", args: [\"--app\"]`",
        ),
        (
            r#"App(command: "tool", cwd: "/usr/bin/web")"#,
            "web.ron:1:27: `/usr/bin/web` is not a folder (`cwd`): name the folder to start in",
        ),
        (
            r#"App(command: "tool", log: Log(file: "/dev/null"))"#,
            "web.ron:1:37: `/dev/null` is not a regular file and cannot be rotated (`log.file`): name a file; `forward: true` also writes each line to the supervisor's stdout",
        ),
        (
            r#"App(command: "tool", log: Log(file: "/tmp"))"#,
            "web.ron:1:37: `/tmp` is a folder (`log.file`): name a file in it",
        ),
        (
            r#"App(command: "tool", limits: Limits(nice: 40))"#,
            "web.ron:1:43: 40 is out of range (`limits.nice`): use -20 to 19",
        ),
        (
            r#"App(command: "tool", ready: Ready(probe: Http(url: "https://x")))"#,
            "web.ron:1:52: `https://x` is not a URL that can be probed (`ready.probe.url`): write \"http://127.0.0.1:9222/path\"; https is not supported",
        ),
        (
            r#"App(command: "tool", env: {"KASM_VOID_APP": "x"})"#,
            "web.ron:1:45: `KASM_VOID_APP` is reserved for the supervisor (`env.KASM_VOID_APP`): choose a name that does not begin with KASM_VOID_",
        ),
        (
            r#"App(command: "tool", prelaunch: [MakeDir(path: "x")])"#,
            "web.ron:1:48: `x` is a relative path (`prelaunch[0].path`): use an absolute path, or one that begins with `~/`",
        ),
        (
            r#"App(command: "tool", log: Log(max_size: "1KiB"))"#,
            "web.ron:1:41: 1KiB is out of range (`log.max_size`): use 4KiB to 1TiB",
        ),
    ];
    for (text, wanted) in table {
        let checked = check(&[("web", text)]);
        let (before, behind) = wanted.split_once("REGEX").unwrap_or((wanted, ""));
        let lines = said(&checked);
        let [line] = &lines[..] else { panic!("{text}: {lines:?}") };
        let same = if behind.is_empty() { line == wanted } else { line.starts_with(before) && line.ends_with(behind) };
        assert!(same, "{text}\n  said   {line}\n  wanted {wanted}");
        assert!(checked.apps.is_empty() && checked.stale.contains_key("web"), "{text}");
    }
}

/// Harmful values, one field each. Every one is refused, and the message names the allowed range.
#[test]
fn values_out_of_range_are_refused_and_the_range_is_named() {
    let endless = "18446744073709551615s";
    let stop = |grace: &str| format!("stop: Stop(grace: {grace:?})");
    let backoff = |field: &str, value: &str| format!("backoff: Backoff({field}: {value:?})");
    let health = |field: &str, value: &str| format!("health: Health(probe: Display, {field}: {value:?})");
    let table = [
        (stop(endless), "stop.grace", "use 0s to 1h"),
        (stop("61m"), "stop.grace", "use 0s to 1h"),
        (backoff("first", "0s"), "backoff.first", "use 1ms to 1day"),
        (backoff("max", "0s"), "backoff.max", "use 1ms to 1day"),
        (backoff("max", endless), "backoff.max", "use 1ms to 1day"),
        (backoff("stable_after", "0s"), "backoff.stable_after", "use 1ms to 1day"),
        ("backoff: Backoff(factor: NaN)".into(), "backoff.factor", "use 1 to 100"),
        ("backoff: Backoff(factor: inf)".into(), "backoff.factor", "use 1 to 100"),
        ("backoff: Backoff(jitter: 1.5)".into(), "backoff.jitter", "use 0 to 1"),
        ("backoff: Backoff(give_up: After(times: 0, within: \"1m\"))".into(), "backoff.give_up.times", "use 1 to 1000"),
        (
            "backoff: Backoff(give_up: After(times: 1, within: \"0s\"))".into(),
            "backoff.give_up.within",
            "use 1s to 30days",
        ),
        (health("every", "0s"), "health.every", "use 10ms to 1day"),
        (health("timeout", endless), "health.timeout", "use 10ms to 1day"),
        (health("grace", endless), "health.grace", "use 0s to 1day"),
        ("ready: Ready(probe: Display, within: \"2days\")".into(), "ready.within", "use 10ms to 1day"),
        ("prelaunch: [WaitFor(what: Display, timeout: \"0s\")]".into(), "prelaunch[0].timeout", "use 10ms to 1day"),
        ("log: Log(keep: 4000000000)".into(), "log.keep", "use 0 to 100"),
        ("log: Log(tail: 4000000000)".into(), "log.tail", "use 0 to 1000"),
        ("log: Log(max_size: \"1B\")".into(), "log.max_size", "use 4KiB to 1TiB"),
        ("log: Log(max_size: \"9999TiB\")".into(), "log.max_size", "use 4KiB to 1TiB"),
        ("limits: Limits(max_rss: \"1kB\")".into(), "limits.max_rss", "use 1MiB to 16TiB"),
    ];
    for (field, path, range) in table {
        let found = check(&[("web", &format!("App(command: \"tool\", {field})"))]);
        let out: Vec<_> =
            found.problems.iter().filter(|problem| problem.message.ends_with("is out of range")).collect();
        let said = out.iter().map(|problem| (problem.field.as_str(), problem.help.as_str())).collect::<Vec<_>>();
        assert!(said.contains(&(path, range)), "{field}: {:?}", self::said(&found));
        assert!(found.apps.is_empty(), "{field}");
    }
    let workspace = check(&[("workspace", &format!("Workspace(stop_budget: {endless:?})"))]);
    assert!(said(&workspace)[0].ends_with("(`stop_budget`): use 100ms to 1h"), "{:?}", said(&workspace));
}

#[test]
fn a_manifest_knows_its_own_folder_unless_it_or_the_workspace_names_another() {
    let args = |files: &[(&str, &str)]| {
        let checked = check_with(&mut Checker::default(), &[("here", "/from/env")], files);
        assert!(said(&checked).is_empty(), "{:?}", said(&checked));
        checked.apps["web"].program.argv[1..].to_vec()
    };
    let web = ("web", r#"App(command: "tool", args: ["${here}/x", "${there:-}"])"#);
    assert_eq!(args(&[web]), ["/manifests/x", ""]);
    assert_eq!(
        args(&[web, ("workspace", r#"Workspace(vars: {"there": "${here}/y"})"#)]),
        ["/manifests/x", "/manifests/y"]
    );
    assert_eq!(args(&[web, ("workspace", r#"Workspace(vars: {"here": "/other"})"#)]), ["/other/x", ""]);
    let own = ("web", r#"App(command: "tool", vars: {"here": "/own"}, args: ["${here}/x", "${there:-}"])"#);
    assert_eq!(args(&[own]), ["/own/x", ""]);
}

#[test]
fn durations_and_sizes_take_variables() {
    let text = r#"App(command: "tool", vars: {"grace": "9"}, stop: Stop(grace: "${grace}s"), log: Log(max_size: "${SIZE:-1}MiB"))"#;
    let app = one(text, &[("SIZE", "2")]);
    assert_eq!((app.stop.grace.as_secs(), app.log.max_size), (9, 2 << 20));
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let table = [
        (
            r#"App(command: "tool", args: ["$HOME/x"])"#,
            "web.ron:1:30: `$HOME` stays as it is: no shell reads this (`args[0]`): write `${HOME}`, or `$$HOME` for a dollar sign",
        ),
        (
            r#"App(command: "tool", env: {"DAY": "$(date)"})"#,
            "web.ron:1:36: `$(date)` stays as it is: no shell reads this (`env.DAY`): run a shell: args: [\"-c\", \"…\"]; or write `$$` for a dollar sign",
        ),
        (
            r#"App(command: "tool", args: ["--dir=~/x"])"#,
            "web.ron:1:36: `~` stays as it is: no shell reads this (`args[0]`): write `${HOME}`: `~` is the home folder at the beginning of a text only",
        ),
        (
            r#"App(command: "tool", cwd: "/later")"#,
            "web.ron:1:27: the folder `/later` does not exist (`cwd`): create it, or add MakeDir(path: \"/later\") to `prelaunch`",
        ),
        (
            r#"App(command: "tool", env_secret: ["TOKENS"])"#,
            "web.ron:1:35: `TOKENS` is not hidden from apps (`env_secret[0]`): did you mean `TOKEN`?",
        ),
    ];
    for (text, wanted) in table {
        let files = [("web", text), ("workspace", r#"Workspace(env_hidden: ["TOKEN"])"#)];
        let checked = check_with(&mut Checker::default(), &[("HOME", "/home/me")], &files);
        assert_eq!(said(&checked), [wanted], "{text}");
        assert!(checked.apps.contains_key("web"), "{text}");
    }
    for fine in [
        r#"App(command: "tool", args: ["-c", "echo $HOME $(date)"])"#,
        r#"App(command: "tool", args: ["$$HOME", "$NF", "~/x"])"#,
        r#"App(command: "tool", prelaunch: [Run(argv: ["sh", "-ec", "cd $HOME"])])"#,
        r#"App(command: "tool", cwd: "/later", prelaunch: [MakeDir(path: "/later/deep")])"#,
        r#"App(command: "tool", cwd: "/tmp", matches: Match(cmdline: "^$HOME"))"#,
    ] {
        let checked = check_with(&mut Checker::default(), &[("HOME", "/home/me")], &[("web", fine)]);
        assert_eq!(said(&checked), Vec::<String>::new(), "{fine}");
    }
}

#[test]
fn a_value_in_a_pattern_matches_itself() {
    let text = r#"App(command: "tool", vars: {"home": "/home/c++ (me)"}, matches: Match(cmdline: "^${home}/[a-z]+$", exclude: "${X:-a.b}"))"#;
    let matcher = one(text, &[]).matcher.unwrap();
    assert!(matcher.is("/home/c++ (me)/web"), "{matcher:?}");
    assert!(!matcher.is("/home/ccc me/web"), "{matcher:?}");
    let exclude = matcher.exclude.unwrap();
    assert!(exclude.is_match("a.b") && !exclude.is_match("axb"), "{exclude:?}");
}

#[test]
fn all_problems_of_all_files_are_told_at_once() {
    let two = r#"App(
    arg: ["${x}"],
    command: "tool",
    restart: Alway,
    backoff: Backoff(first: "3", max: 3),
)"#;
    let checked = check(&[
        ("a", two),
        ("b", r#"App(command: "nothing", limits: Limits(nice: 99))"#),
        ("c", r#"App(command: "tool")"#),
    ]);
    let places: Vec<(&str, usize)> =
        checked.problems.iter().map(|problem| (problem.file.as_str(), problem.line)).collect();
    assert_eq!(
        places,
        [("a.ron", 2), ("a.ron", 4), ("a.ron", 5), ("a.ron", 5), ("b.ron", 1), ("b.ron", 1)],
        "{:#?}",
        said(&checked)
    );
    assert!(checked.apps.contains_key("c"));
}

#[test]
fn a_failed_string_hides_no_other_mistake_and_has_no_consequences() {
    let table: [(&str, &[&str]); 4] = [
        (
            r#"App(command: "tool", args: ["${X}"], limits: Limits(nice: 40))"#,
            &[
                "1:30: `X` is not set (`args[0]`): set it, or give a default: `${X:-…}`",
                "1:59: 40 is out of range (`limits.nice`): use -20 to 19",
            ],
        ),
        (
            r#"App(command: "${X}/web", cwd: "${X}")"#,
            &[
                "1:15: `X` is not set (`command`): set it, or give a default: `${X:-…}`",
                "1:32: `X` is not set (`cwd`): set it, or give a default: `${X:-…}`",
            ],
        ),
        (
            r#"App(command: "${p}", vars: {"p": "${q}", "q": "${Z}"}, cwd: "${p}")"#,
            &["1:48: `Z` is not set (`vars.q`): set it, or give a default: `${Z:-…}`"],
        ),
        (
            r#"App(command: "tool", vars: {"a": "${b}", "b": "${c}", "c": "${b}"}, stop: Stop(signal: "${a}"))"#,
            &["1:61: these refer to each other: b -> c -> b (`vars.c`)"],
        ),
    ];
    for (text, wanted) in table {
        let wanted: Vec<String> = wanted.iter().map(|line| format!("web.ron:{line}")).collect();
        assert_eq!(said(&check(&[("web", text)])), wanted, "{text}");
    }
}

#[test]
fn texts_that_grow_without_end_are_refused() {
    let doubling: String = (0..60).map(|n| format!(r#""v{n:02}": "${{v{:02}}}${{v{:02}}}", "#, n + 1, n + 1)).collect();
    let doubling = format!(r#"App(command: "tool", vars: {{{doubling} "v60": "xx"}}, about: "${{v00}}")"#);
    let row: String = (0..20_000).map(|n| format!(r#""v{n:05}": "${{v{:05}}}", "#, n + 1)).collect();
    let row = format!(r#"App(command: "tool", vars: {{{row} "v20000": ""}})"#);
    let many = format!(
        r#"App(command: "tool", vars: {{"v": "{}"}}, args: [{}])"#,
        "x".repeat(100 << 10),
        r#""${v}","#.repeat(1_000)
    );
    for (text, wanted) in [
        (doubling, "this is longer than 128 KiB when it is filled in"),
        (row, "more than 64 vars refer to each other in a row"),
        (many, "the texts up to here are longer than 4 MiB when they are filled in"),
    ] {
        let checked = check(&[("web", &text)]);
        assert!(said(&checked)[0].contains(wanted), "{:?}", said(&checked)[0]);
        assert!(checked.apps.is_empty());
    }
}

#[test]
fn of_a_manifest_that_is_all_wrong_twenty_problems_are_told() {
    let text = format!(r#"App(command: "tool", args: [{}])"#, r#""${X}","#.repeat(100_000));
    let checked = check(&[("web", &text)]);
    assert_eq!((checked.problems.len(), checked.apps.len()), (20, 0));
}

#[test]
fn a_broken_file_keeps_its_last_good_version_and_the_others_apply() {
    let mut checker = Checker::default();
    let good = r#"App(command: "tool")"#;
    check_with(&mut checker, &[], &[("a", good), ("b", good)]);
    let checked = check_with(&mut checker, &[], &[("a", "App(command"), ("b", r#"App(command: "/usr/bin/web")"#)]);
    assert_eq!(checked.apps["a"].program.argv, ["/bin/tool"]);
    assert_eq!(checked.apps["b"].program.argv, ["/usr/bin/web"]);
    assert_eq!(checked.stale.keys().collect::<Vec<_>>(), ["a"]);
    let mended = check_with(&mut checker, &[], &[("a", good), ("b", good)]);
    assert!(mended.stale.is_empty() && mended.problems.is_empty());
    assert!(check_with(&mut checker, &[], &[("b", good)]).apps.keys().eq(["b"]));
}

#[test]
fn after_takes_names_and_conditions() {
    let text =
        r#"App(command: "tool", after: ["a", After(app: "b"), After(app: "c", until: Succeeded, follow: true)])"#;
    let plain = r#"App(command: "tool", restart: OnFailure)"#;
    let checked = check(&[("web", text), ("a", plain), ("b", plain), ("c", plain)]);
    assert_eq!(said(&checked), [""; 0]);
    let after: Vec<String> = checked.apps["web"].after.iter().map(ToString::to_string).collect();
    assert_eq!(after, ["a", "b (until Running)", "c (until Succeeded, followed)"]);
}

#[test]
fn mistakes_in_a_condition_are_told_at_their_place() {
    let told = |after: &str| said(&check(&[("web", &format!(r#"App(command: "tool", after: [{after}])"#))]));
    assert_eq!(
        told(r#"After(until: Running)"#),
        ["web.ron:1:30: the field `app` of `After` is missing (`after[0].app`): write `app: …`"]
    );
    assert_eq!(
        told(r#"After(app: "web2", untl: Running)"#),
        ["web.ron:1:49: there is no field `untl` of `After` (`after[0].untl`): did you mean `until`?"]
    );
    assert_eq!(
        told(r#"After(app: "web2", until: Ready)"#),
        ["web.ron:1:56: there is no `Ready` here (`after[0].until`): it takes Running, Started, Succeeded"]
    );
    assert_eq!(
        told(r#"After("web2")"#),
        ["web.ron:1:30: expected the name of an app, or After(app: \"…\", until: Running) (`after[0]`)"]
    );
    assert_eq!(
        told(r#"3"#),
        ["web.ron:1:30: expected the name of an app, or After(app: \"…\", until: Running) (`after[0]`)"]
    );
}

#[test]
fn nobody_waits_for_the_success_of_an_app_that_is_always_restarted() {
    let waits = r#"App(command: "tool", after: [After(app: "job", until: Succeeded)])"#;
    let (job, service) = (r#"App(command: "tool", restart: Never)"#, r#"App(command: "tool")"#);
    let message = "`web` waits for the success of `job`, which is restarted after every exit";
    let checked = check(&[("web", waits), ("job", service)]);
    let expected = format!("web.ron:1:55: {message} (`after[0].until`): write `restart: OnFailure` in job.ron");
    assert_eq!(said(&checked), [expected]);
    let mut checker = Checker::default();
    assert_eq!(said(&check_with(&mut checker, &[], &[("web", waits), ("job", job)])), [""; 0]);
    let edited = check_with(&mut checker, &[], &[("web", waits), ("job", service)]);
    assert_eq!(said(&edited), [format!("job.ron: {message} (`restart`): write `OnFailure` or `Never`")]);
}

#[test]
fn a_circle_is_named_once_and_stops_its_apps() {
    let app = |after: &str| format!(r#"App(command: "tool", after: ["{after}"])"#);
    let checked = check(&[("a", &app("b")), ("b", &app("c")), ("c", &app("a"))]);
    assert_eq!(
        said(&checked),
        ["a.ron:1:29: these wait for each other: a -> b -> c -> a (`after`): take one of them out of the circle"]
    );
}

fn after(checked: &Checked) -> Vec<(&str, Vec<&str>)> {
    checked
        .apps
        .iter()
        .map(|(name, app)| (name.as_str(), app.after.iter().map(|after| after.app.as_str()).collect()))
        .collect()
}

#[test]
fn a_circle_with_a_running_app_holds_the_newcomer_back() {
    let plain = r#"App(command: "tool")"#;
    let waits = |other: &str| format!(r#"App(command: "tool", after: ["{other}"])"#);
    let mut checker = Checker::default();
    check_with(&mut checker, &[], &[("a", &waits("b")), ("b", plain)]);
    let checked = check_with(&mut checker, &[], &[("a", &waits("b")), ("b", &waits("a"))]);
    assert_eq!(
        said(&checked),
        ["b.ron:1:29: these wait for each other: a -> b -> a (`after`): take one of them out of the circle"]
    );
    assert_eq!(after(&checked), [("a", vec!["b"]), ("b", vec![])]);
}

#[test]
fn a_version_kept_for_another_mistake_closes_no_circle() {
    let plain = r#"App(command: "tool")"#;
    let mut checker = Checker::default();
    check_with(&mut checker, &[], &[("a", r#"App(command: "tool", after: ["b"])"#), ("b", plain)]);
    let broken = r#"App(command: "tool", after: [], restart: Alway)"#;
    let checked = check_with(&mut checker, &[], &[("a", broken), ("b", r#"App(command: "tool", after: ["a"])"#)]);
    assert_eq!(after(&checked), [("a", vec!["b"]), ("b", vec![])]);
    assert!(checked.stale.keys().eq(["a", "b"]), "{:?}", checked.stale);
}

#[test]
fn two_circles_are_both_named_and_who_only_waits_for_them_is_not() {
    let waits = |other: &str| format!(r#"App(command: "tool", after: [{other}])"#);
    let checked = check(&[
        ("a", &waits(r#""b""#)),
        ("b", &waits(r#""a", "c""#)),
        ("c", &waits(r#""b""#)),
        ("d", &waits(r#""a""#)),
    ]);
    let told: Vec<&str> = checked.problems.iter().map(|problem| problem.message.as_str()).collect();
    assert!(told.contains(&"these wait for each other: a -> b -> a"), "{told:?}");
    assert!(told.iter().any(|message| message.contains("c -> b") || message.contains("b -> c")), "{told:?}");
    assert!(checked.apps.contains_key("d"));
}

#[test]
fn a_pattern_stays_with_the_app_that_has_it() {
    let app = |pattern: &str| format!(r#"App(command: "tool", matches: Match(cmdline: "{pattern}"))"#);
    let mut checker = Checker::default();
    check_with(&mut checker, &[], &[("b", &app("^/bin/tool"))]);
    let checked = check_with(&mut checker, &[], &[("a", &app("^/bin/tool")), ("b", &app("^/bin/tool"))]);
    assert_eq!(
        said(&checked),
        [
            "a.ron:1:46: `b` has the same pattern (`matches.cmdline`): one process cannot be two apps: make one pattern narrower"
        ]
    );
    assert!(checked.apps.keys().eq(["b"]));
}

#[test]
fn an_unknown_name_in_after_is_told_what_it_may_have_been() {
    let checked =
        check(&[("browser", r#"App(command: "tool")"#), ("web", r#"App(command: "tool", after: ["browsr"])"#)]);
    assert_eq!(said(&checked), ["web.ron:1:30: no app is called `browsr` (`after[0]`): did you mean `browser`?"]);
}

#[test]
fn two_apps_with_one_pattern_are_told_apart_by_a_person() {
    let text = r#"App(command: "tool", matches: Match(cmdline: "^/bin/tool"))"#;
    let checked = check(&[("a", text), ("b", text)]);
    assert!(said(&checked)[0].starts_with("b.ron:1:46: `a` has the same pattern"), "{:?}", said(&checked));
    assert_eq!((checked.apps.len(), checked.stale.len()), (1, 1));
}

#[test]
fn a_step_that_can_be_switched_off_is_done_when_nobody_says_so() {
    let text = r#"App(command: "tool", postlaunch: [Maximize(class: "x", enabled: "perhaps")])"#;
    assert_eq!(
        said(&check(&[("a", text)])),
        [
            "a.ron:1:65: `perhaps` is neither on nor off; the step runs (`postlaunch[0].enabled`): use 1, true, yes or on; 0, false, no or off"
        ]
    );
    let off = r#"App(command: "tool", postlaunch: [Maximize(class: "x", enabled: "${MAXIMIZE:-false}")])"#;
    let checked = check(&[("a", off)]);
    let step = &checked.apps["a"].hooks.postlaunch[0].step;
    assert!(matches!(step, Step::Maximize { enabled: false, .. }), "{step:?}");
}

#[test]
fn an_icon_for_an_action_needs_the_action() {
    let text = r#"App(command: "tool", actions: {"reset": []}, icon: Icon(name: "T", actions: {"rset": "Reset T"}))"#;
    assert_eq!(
        said(&check(&[("a", text)])),
        ["a.ron:1:77: no action is called `rset` (`icon.actions`): did you mean `reset`?"]
    );
}

#[test]
fn a_switch_that_is_neither_on_nor_off_is_reported_and_the_default_holds() {
    for (value, on, warned) in [("0", false, 0), ("off", false, 0), ("", true, 0), ("Yes", true, 0), ("2", true, 1)] {
        let text = r#"App(command: "tool", enabled: "${LAUNCH:-1}")"#;
        let checked = check_with(&mut Checker::default(), &[("LAUNCH", value)], &[("web", text)]);
        assert_eq!((checked.apps["web"].enabled, checked.problems.len()), (on, warned), "{value:?}");
    }
    assert!(!one(r#"App(command: "tool", enabled: false)"#, &[]).enabled);
}

const BROWSER: &str = r#"App(
    command: "tool",
    vars: { "profile": "${CLOAK_USER_DATA_DIR:-~/.config/cloak}" },
    args: ["--no-sandbox", "--user-data-dir=${profile}", "--port", "9222"],
    args_from: "CLOAK_APP_ARGS",
    args_kept: ["--user-data-dir", "--port"],
    args_last: ["${START_URL:-https://kbve.com}"],
)"#;

#[test]
fn an_override_replaces_the_arguments_and_loses_no_flag_that_must_stay() {
    let default = one(BROWSER, &[]);
    assert_eq!(
        default.program.argv[1..],
        ["--no-sandbox", "--user-data-dir=/home/me/.config/cloak", "--port", "9222", "https://kbve.com"]
    );
    assert_eq!(one(BROWSER, &[("CLOAK_APP_ARGS", ""), ("START_URL", "")]).program.argv, default.program.argv);
    let env = [("CLOAK_APP_ARGS", r#"--user-agent="Mozilla 5" --port=1"#)];
    let checked = check_with(&mut Checker::default(), &env, &[("web", BROWSER)]);
    assert_eq!(
        checked.apps["web"].program.argv[1..],
        ["--user-agent=Mozilla 5", "--port=1", "--user-data-dir=/home/me/.config/cloak", "https://kbve.com"]
    );
    assert_eq!(
        said(&checked),
        [
            "web.ron:6:16: `CLOAK_APP_ARGS` sets --port to `1`, where `args` has `9222` (`args_kept`): make them agree, or write `args` as FLAG=${var} with a var that follows",
            "web.ron:6:16: `CLOAK_APP_ARGS` does not set --user-data-dir (`args_kept`): taken from `args`",
        ]
    );
    let unclosed = [("CLOAK_APP_ARGS", "--a 'b")];
    let checked = check_with(&mut Checker::default(), &unclosed, &[("web", BROWSER)]);
    assert_eq!(checked.apps["web"].program.argv, default.program.argv);
    assert_eq!(checked.problems[0].severity, Severity::Warning);
}

const FOLLOWING: &str = r#"App(
    command: "tool",
    vars: {"profile": "~/.config/web", "cache": "${profile}/Cache", "port": "9222"},
    args: ["--user-data-dir=${profile}", "--port=${port}", "--debug=1"],
    args_from: "WEB_ARGS",
    args_kept: ["--user-data-dir", "--port", "--debug"],
    matches: Match(cmdline: "--user-data-dir=${profile}( |$$)"),
    prelaunch: [MakeDir(path: "${cache}")],
    ready: Ready(probe: Http(url: "http://127.0.0.1:${port}/")),
)"#;

#[test]
fn hooks_patterns_and_probes_follow_the_flags_that_an_override_sets() {
    let follows = |words: &str| {
        let checked = check_with(&mut Checker::default(), &[("WEB_ARGS", words)], &[("web", FOLLOWING)]);
        let app = checked.apps["web"].clone();
        let Step::MakeDir { path } = app.hooks.prelaunch[0].step.clone() else { panic!("{app:?}") };
        let folder = path.display().to_string();
        let cmdline = app.program.argv.join(" ");
        assert!(app.matcher.as_ref().unwrap().is(&cmdline), "{cmdline}: {:?}", app.matcher);
        (folder, app.ready.as_ref().unwrap().probe.to_string(), said(&checked))
    };
    let (folder, url, _) = follows("--user-data-dir=/tmp/a+b --port=1 --user-data-dir=/tmp/$c");
    assert_eq!((folder.as_str(), url.as_str()), ("/tmp/$c/Cache", "http://127.0.0.1:1/"));
    let (folder, url, said) = follows("--user-data-dir=/home/me/.config/web --debug=2");
    assert_eq!((folder.as_str(), url.as_str()), ("/home/me/.config/web/Cache", "http://127.0.0.1:9222/"));
    assert_eq!(
        said,
        [
            "web.ron:6:16: `WEB_ARGS` sets --debug to `2`, where `args` has `1` (`args_kept`): make them agree, or write `args` as FLAG=${var} with a var that follows",
            "web.ron:6:16: `WEB_ARGS` does not set --port (`args_kept`): taken from `args`",
        ]
    );
    let (_, _, said) = follows("--user-data-dir=/tmp --port=9333 --debug=1");
    assert!(
        said.iter().any(|line| line.starts_with(
            "web.ron:3:77: the override of `args` sets this to `9333`, where it would be `9222` (`vars.port`)"
        )),
        "{said:?}"
    );
}

#[test]
fn no_app_starts_before_it_is_known_which_variables_are_secrets() {
    let mut checker = Checker::default();
    let app = ("web", r#"App(command: "tool")"#);
    let broken = check_with(&mut checker, &[], &[app, ("workspace", "Workspace(env_hiden: [])")]);
    assert!(broken.apps.is_empty() && broken.stale.contains_key("web"));
    assert!(broken.stale["web"].to_string().contains("env_hiden"));
    let mended = check_with(&mut checker, &[], &[app, ("workspace", r#"Workspace(env_hidden: ["TOKEN"])"#)]);
    assert!(mended.apps["web"].program.env_hidden.contains("TOKEN"));
    let broken_again = check_with(&mut checker, &[], &[app, ("workspace", "Workspace(")]);
    assert!(broken_again.apps["web"].program.env_hidden.contains("TOKEN"), "its last good version holds");
}

#[test]
fn a_variable_that_any_layer_hides_is_hidden_and_what_an_overlay_drops_is_said() {
    let image = r#"Workspace(env_hidden: ["TOKEN"], vars: {"ports": "80", "a": "b"}, env: {"LANG": "C"}, stop_budget: "9s",
        stage: [MakeDir(path: "/x")])"#;
    let user = r#"Workspace(env_hidden: ["OWN"], vars: {"a": "c"})"#;
    let checked = check(&[("workspace", image), ("workspace", user), ("web", r#"App(command: "tool")"#)]);
    assert!(checked.apps["web"].program.env_hidden.iter().eq(["OWN", "TOKEN"]), "{:?}", checked.apps["web"].program);
    assert_eq!(checked.workspace.vars["a"], "c");
    assert_eq!(
        said(&checked),
        [
            "workspace.ron: this replaces workspace.ron, and leaves out `vars.ports`, `env.LANG`, `stage`, `stop_budget`: copy what is still needed; variables that either of them hides stay hidden"
        ]
    );
    let broken = check(&[("workspace", "Workspace("), ("workspace", user), ("web", r#"App(command: "tool")"#)]);
    assert!(broken.apps.is_empty(), "nobody knows what the broken layer hides");
}

#[test]
fn a_session_whose_own_manifest_goes_keeps_its_secrets() {
    let mut checker = Checker::default();
    let app = ("web", r#"App(command: "tool")"#);
    let before = check_with(&mut checker, &[], &[app, ("workspace", r#"Workspace(env_hidden: ["TOKEN"])"#)]);
    let gone = check_with(&mut checker, &[], &[app]);
    assert_eq!(plan::plan(&before.apps, &gone), [], "no app is restarted");
    assert!(gone.apps["web"].program.env_hidden.contains("TOKEN"));
    assert!(said(&gone)[0].starts_with("workspace.ron: the session's own manifest is gone"), "{:?}", said(&gone));
    let without = check(&[app]);
    assert!(said(&without).is_empty(), "there never was one");
}

#[test]
fn what_is_out_of_sight_is_not_gone() {
    let mut checker = Checker::default();
    let text = r#"App(command: "tool")"#;
    check_with(&mut checker, &[], &[("a", text), ("b", text)]);
    let env = BTreeMap::from([("PATH".to_string(), "/usr/bin:/bin".to_string())]);
    let around = Surroundings {
        env: &env,
        home: Some("/home/me"),
        look: &|_| FileKind::Program,
        read: &|_| Ok(None),
        run_as: &|_, _| Err("nobody".into()),
        uid: 0,
    };
    let seen = Source { name: "a".into(), file: "a.ron".into(), folder: "/manifests".into(), text: Ok(text.into()) };
    let names = |checked: Checked| checked.apps.into_keys().collect::<Vec<_>>();
    assert_eq!(names(checker.check(std::slice::from_ref(&seen), false, &around)), ["a", "b"]);
    assert_eq!(names(checker.check(&[seen], true, &around)), ["a"]);
}

#[test]
fn secrets_are_hidden_from_every_app_that_does_not_name_them() {
    let workspace = r#"Workspace(env: {"LANG": "C"}, env_hidden: ["TOKEN", "VNC_PW"])"#;
    let files = [
        ("workspace", workspace),
        ("a", r#"App(command: "tool")"#),
        ("b", r#"App(command: "tool", env_secret: ["TOKEN"])"#),
    ];
    let checked = check(&files);
    let hidden = |name: &str| checked.apps[name].program.env_hidden.iter().cloned().collect::<Vec<_>>();
    assert_eq!((hidden("a"), hidden("b")), (vec!["TOKEN".to_string(), "VNC_PW".into()], vec!["VNC_PW".to_string()]));
    assert_eq!(checked.apps["a"].program.env["LANG"], "C");
}

#[test]
fn variables_come_from_env_files_in_their_order_and_env_wins() {
    let text = r#"App(command: "tool", env_files: ["app.env", EnvFile(path: "~/more.env"), EnvFile(path: "no.env", optional: true)],
        env: {"LANG": "fr"})"#;
    let files = [("web", text), ("workspace", r#"Workspace(env: {"KEY": "0", "ALL": "1"}, env_hidden: ["TOKEN"])"#)];
    let program = &check(&files).apps["web"].program;
    let variables: Vec<(&str, &str)> =
        program.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(variables, [("ALL", "1"), ("BOTH", "2-/usr/bin:/bin"), ("KEY", "2"), ("LANG", "fr")]);
    assert!(program.from_files.iter().eq(["BOTH", "KEY"]), "{:?}", program.from_files);
    let secret = one(r#"App(command: "tool", env_files: ["app.env"])"#, &[]);
    assert_eq!(secret.program.env["TOKEN"], "s3cr3t", "nothing hides it");
}

#[test]
fn what_is_wrong_with_an_env_file_is_said_without_its_text() {
    let table = [
        (
            "no.env",
            "web.ron:1:34: `/manifests/no.env` does not exist (`env_files[0]`): create it; if it may be missing, write EnvFile(path: \"…\", optional: true)",
        ),
        (
            "bad.env",
            "web.ron:1:34: /manifests/bad.env, line 2: the quote is not closed (`env_files[0]`): a `\"` is missing",
        ),
        ("/run/fifo", "web.ron:1:34: `/run/fifo` is a FIFO (`env_files[0]`)"),
        (
            "ours.env",
            "web.ron:1:33: they set `KASM_VOID_APP`, which is reserved for the supervisor (`env_files`): remove it there",
        ),
        ("${X}", "web.ron:1:35: `X` is not set (`env_files[0]`): set it, or give a default: `${X:-…}`"),
        ("", "web.ron:1:34: the path is empty (`env_files[0]`): name a file"),
    ];
    for (path, wanted) in table {
        let text = format!(r#"App(command: "tool", env_files: ["{path}"])"#);
        let said = said(&check(&[("web", &text)]));
        assert_eq!(said.first().map(String::as_str), Some(wanted), "{path}");
    }
    for (element, wanted) in [
        ("EnvFile(file: \"a\")", "there is no field `file` of `EnvFile`"),
        ("EnvFile(optional: true)", "the field `path` of `EnvFile` is missing"),
        ("EnvFile()", "the field `path` of `EnvFile` is missing"),
        ("1", "expected a path in quotes, or EnvFile(path: \"app.env\", optional: true)"),
        ("EnvFile(path: \"a\", optional: 1)", "expected true or false"),
    ] {
        let text = format!(r#"App(command: "tool", env_files: [{element}])"#);
        let said = said(&check(&[("web", &text)]));
        assert!(said.iter().any(|line| line.contains(wanted)), "{said:?}");
    }
}

#[test]
fn an_env_file_that_changes_is_read_again_and_a_broken_one_keeps_the_app() {
    let env = BTreeMap::from([("PATH".to_string(), "/bin".to_string())]);
    let source = |name: &str, text: &str| Source {
        name: name.into(),
        file: format!("{name}.ron"),
        folder: "/manifests".into(),
        text: Ok(text.into()),
    };
    let sources =
        [source("a", r#"App(command: "tool", env_files: ["a.env"])"#), source("b", r#"App(command: "tool")"#)];
    let mut checker = Checker::default();
    let mut check = |read: Result<Option<String>, Unread>| {
        let read = |_: &str| read.clone();
        let run_as = |_: &str, _: Option<&str>| Err("nobody".into());
        let around =
            Surroundings { env: &env, home: None, look: &|_| FileKind::Program, read: &read, run_as: &run_as, uid: 0 };
        checker.check(&sources, true, &around)
    };
    let before = check(Ok(Some("KEY=1".into())));
    assert!(before.env_files.iter().eq(["/manifests/a.env"]) && !before.look_again);
    assert!(Arc::ptr_eq(&before.apps["a"], &check(Ok(Some("KEY=1".into()))).apps["a"]), "nothing changed");
    let after = check(Ok(Some("KEY=2".into())));
    let steps = plan::report(&before.apps, &after, &plan::plan(&before.apps, &after)).steps;
    assert_eq!(steps.iter().map(|step| step.text.as_str()).collect::<Vec<_>>(), ["restart (env_files changed)"]);
    let gone = check(Ok(None));
    assert_eq!(gone.apps["a"].program.env["KEY"], "2", "its last good version");
    assert!(gone.stale.contains_key("a") && gone.env_files.len() == 1, "it is watched for");
    let lack = check(Err(Unread { reason: "cannot be read: too many open files".into(), may_pass: true }));
    assert!(lack.look_again && lack.apps["a"].program.env["KEY"] == "2");
    assert!(check(Ok(Some("KEY=2".into()))).stale.is_empty());
}

#[test]
fn an_app_of_another_user_has_that_users_home() {
    let text = r#"App(command: "tool", user: "web", group: "video", umask: "0027", cwd: "~/site",
        prelaunch: [MakeDir(path: "~/site")], rlimits: Rlimits(nofile: 65536, core: "0:unlimited", data: "1GiB"))"#;
    let checked = check(&[("web", text)]);
    let program = &checked.apps["web"].program;
    assert_eq!((program.user.as_deref(), program.group.as_deref()), (Some("web"), Some("video")));
    assert_eq!((program.umask, program.cwd.as_deref()), (Some(0o27), Some(std::path::Path::new("/srv/web/site"))));
    let limits: Vec<String> = program.rlimits.iter().map(|(what, limit)| format!("{what:?} {limit}")).collect();
    assert_eq!(limits, ["Core 0:unlimited", "Data 1073741824", "OpenFiles 65536"]);
    assert_eq!(
        said(&checked),
        [
            "web.ron:1:28: only root can start an app as another user, and kasm-void runs as uid 1000 (`user`): run kasm-void as root, or leave `user` out"
        ]
    );
    let own = one(r#"App(command: "tool", user: "${WHO:-1000}", vars: {"x": "~"}, args: ["${x}"])"#, &[]);
    assert_eq!(own.program.argv[1], "/home/me");
}

#[test]
fn what_is_no_user_and_no_limit_is_said() {
    let table = [
        (
            r#"user: "webb""#,
            "web.ron:1:28: there is no user `webb` on this machine: did you mean `web`? (`user`): until then it cannot be started",
        ),
        (r#"user: """#, "web.ron:1:28: the name is empty (`user`): name a user, or leave the field out"),
        (r#"group: "web""#, "web.ron:1:29: `group` needs `user` (`group`): name the user too, by name or number"),
        (
            r#"umask: "0888""#,
            "web.ron:1:29: `0888` is not a umask (`umask`): write octal digits, as in \"0022\" or \"077\"",
        ),
        (r#"umask: 27"#, "web.ron:1:29: expected an octal text in quotes, such as \"0027\" (`umask`)"),
        (
            r#"rlimits: Rlimits(nofile: "many")"#,
            "web.ron:1:47: `many` is not a limit (`rlimits.nofile`): write 1024, \"unlimited\", or two of them as in \"SOFT:HARD\"",
        ),
        (
            r#"rlimits: Rlimits(core: "2:1")"#,
            "web.ron:1:45: `2:1`: the soft limit is above the hard one (`rlimits.core`): write \"SOFT:HARD\"",
        ),
        (
            r#"rlimits: Rlimits(nofile: "unlimited")"#,
            "web.ron:1:47: open files cannot be unlimited (`rlimits.nofile`): write a number; the kernel allows fs.nr_open at most",
        ),
        (
            r#"rlimits: Rlimits(cpu: -1)"#,
            "web.ron:1:44: expected a whole number, or a text such as \"1024:4096\" (`rlimits.cpu`)",
        ),
        (
            r#"ulimits: 5"#,
            "web.ron:1:22: there is no field `ulimits` of `App` (`ulimits`): write `rlimits: Rlimits(nofile: 65536)`",
        ),
    ];
    for (field, wanted) in table {
        let said = said(&check(&[("web", &format!(r#"App(command: "tool", {field})"#))]));
        assert_eq!(said.first().map(String::as_str), Some(wanted), "{field}");
    }
}

#[test]
fn a_missing_absolute_program_is_a_warning_and_none_for_a_disabled_app() {
    let checked = check(&[("web", r#"App(command: "/opt/none")"#)]);
    assert!(checked.stale.is_empty() && checked.problems[0].severity == Severity::Warning);
    assert!(check(&[("web", r#"App(command: "/opt/none", enabled: false)"#)]).problems.is_empty());
}

#[test]
fn bad_texts_are_refused_whole() {
    let deep = format!("App(command: {})", "(".repeat(10_000));
    let large = " ".repeat(50 << 20);
    for (text, wanted) in [
        (deep.as_str(), "nested too deeply"),
        (&large, "larger than 1 MiB"),
        ("", "the file is empty"),
        ("\0\0", "web.ron"),
    ] {
        let lines = said(&check(&[("web", text)]));
        assert!(lines[0].contains(wanted), "{lines:?}");
    }
    let unnamed = check(&[("we b", r#"App(command: "tool")"#)]);
    assert!(said(&unnamed)[0].starts_with("we b.ron: `we b` cannot be the name of an app"), "{:?}", said(&unnamed));
}

#[test]
fn a_change_in_one_of_a_thousand_files_makes_one_app_anew() {
    let text = |n: usize, about: &str| (format!("app{n:04}"), format!(r#"App(command: "tool", about: "{about}")"#));
    let mut files: Vec<(String, String)> = (0..1_000).map(|n| text(n, "")).collect();
    let mut checker = Checker::default();
    let mut check = |files: &[(String, String)], env: &[(&str, &str)]| {
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        check_with(&mut checker, env, &files)
    };
    let before = check(&files, &[]);
    files[500] = text(500, "new");
    let after = check(&files, &[]);
    let made_anew = |before: &Checked, after: &Checked| {
        let anew = |name: &&String| !Arc::ptr_eq(&before.apps[*name], &after.apps[*name]);
        after.apps.keys().filter(anew).cloned().collect::<Vec<_>>()
    };
    assert_eq!(made_anew(&before, &after), ["app0500"]);
    assert_eq!(
        made_anew(&after, &check(&files, &[("LANG", "C")])).len(),
        1_000,
        "the environment is part of every app"
    );
}

#[test]
fn what_was_missing_is_looked_for_again() {
    let source = [Source {
        name: "web".into(),
        file: "web.ron".into(),
        folder: "/manifests".into(),
        text: Ok(r#"App(command: "late")"#.into()),
    }];
    let env = BTreeMap::from([("PATH".to_string(), "relative::/bin".to_string())]);
    let mut checker = Checker::default();
    let mut check = |there: bool| {
        let look = |file: &str| if there && file.ends_with("/late") { FileKind::Program } else { FileKind::Nothing };
        let around = Surroundings {
            env: &env,
            home: Some("/home/me"),
            look: &look,
            read: &|_| Ok(None),
            run_as: &|_, _| Err("nobody".into()),
            uid: 0,
        };
        checker.check(&source, true, &around)
    };
    assert!(check(false).stale.contains_key("web"));
    // Only absolute folders of PATH count: a relative one would name another program in another working folder.
    assert_eq!(check(true).apps["web"].program.argv, ["/bin/late"]);
}

#[test]
fn a_plan_of_what_is_there_already_has_no_steps() {
    let files = [("a", r#"App(command: "tool")"#), ("b", r#"App(command: "/opt/none", enabled: false)"#)];
    let mut checker = Checker::default();
    let known = check_with(&mut checker, &[], &files).apps;
    let again = check_with(&mut checker, &[], &files);
    assert_eq!(plan::plan(&known, &again), []);
    let report = plan::report(&known, &again, &plan::plan(&known, &again));
    assert_eq!((report.steps.len(), report.unchanged), (0, 2));
    // If the file of a known app breaks, nothing is stopped.
    let broken = check_with(&mut checker, &[], &[("a", "App("), files[1]]);
    assert_eq!(plan::plan(&known, &broken), []);
}

#[test]
fn comments_order_and_form_change_nothing() {
    let a = one(r#"App(command: "tool", args: ["a"], restart: Always, env: {"A": "1", "B": "2"})"#, &[]);
    let b = one("// why\nApp(env: {\"B\":\"2\",\"A\":\"1\"},\n  args: [\"${X:-a}\",], command: \"tool\")", &[]);
    assert_eq!(plan::change(&a, &b), Change::None);
}

#[test]
fn each_change_takes_effect_as_the_table_of_fields_says() {
    let base = r#"App(command: "tool")"#;
    let table = [
        (r#"App(command: "/usr/bin/web")"#, Change::Restart(vec!["command"])),
        (r#"App(command: "tool", args: ["a"], about: "x")"#, Change::Restart(vec!["args"])),
        (r#"App(command: "tool", backoff: Backoff(first: "9s"))"#, Change::Live(vec!["backoff"])),
        (r#"App(command: "tool", about: "x", stop: Stop(signal: "INT"))"#, Change::Live(vec!["about", "stop"])),
        (r#"App(command: "tool", prelaunch: [MakeDir(path: "/x")], about: "x")"#, Change::NextStart(vec!["prelaunch"])),
        (r#"App(command: "tool", limits: Limits(max_rss: "1GiB"))"#, Change::Live(vec!["limits.max_rss"])),
        (r#"App(command: "tool", limits: Limits(nice: 1))"#, Change::Restart(vec!["limits"])),
    ];
    for (text, wanted) in table {
        assert_eq!(plan::change(&one(base, &[]), &one(text, &[])), wanted, "{text}");
    }
}

#[test]
fn a_plan_reads_like_a_plan() {
    let mut checker = Checker::default();
    let before = check_with(
        &mut checker,
        &[],
        &[
            ("a", r#"App(command: "tool")"#),
            ("b", r#"App(command: "tool")"#),
            ("c", r#"App(command: "tool")"#),
            ("d", r#"App(command: "tool")"#),
        ],
    );
    let files = [
        ("a", r#"App(command: "tool", args: ["x"])"#),
        ("b", r#"App(command: "tool", backoff: Backoff(first: "2s"))"#),
        ("d", r#"App(command: "tool")"#),
        ("e", r#"App(command: "tool")"#),
        ("f", "App("),
    ];
    let after = check_with(&mut checker, &[], &files);
    let report = plan::report(&before.apps, &after, &plan::plan(&before.apps, &after));
    let lines: Vec<String> =
        report.steps.iter().map(|step| format!("{} {} {}", step.sign, step.app, step.text)).collect();
    assert_eq!(lines[..4], ["~ a restart (args changed)", "· b live (backoff)", "- c stop", "+ e start"]);
    assert!(lines[4].starts_with("! f broken, not applied: f.ron:1:"), "{}", lines[4]);
    assert_eq!(report.unchanged, 1);
}

const FIELDS: [&str; 7] = [
    "command: \"tool\"",
    "args: [\"a\", \"b c\",]",
    "env: {\"A\": \"1\", \"B\": \"2\"}",
    "restart: OnFailure",
    "prelaunch: [MakeDir(path: \"~/x\")]",
    "backoff: Backoff(first: \"1500ms\", max: \"1m\")",
    "matches: Match(cmdline: \"^/bin/tool\")",
];

proptest! {
    #[test]
    fn no_order_of_fields_or_comments_between_them_is_a_change(
        fields in Just(FIELDS.to_vec()).prop_shuffle(),
        between in proptest::collection::vec(" |\n\t|/\\* \\( \\*/|// [a-z(\"]{0,9}\n", FIELDS.len()),
    ) {
        let text: String = fields.iter().zip(&between).map(|(field, space)| format!("{space}{field}{space},")).collect();
        let plain = one(&format!("App({})", FIELDS.join(", ")), &[]);
        prop_assert_eq!(plan::change(&plain, &one(&format!("App({text})"), &[])), Change::None);
    }

    #[test]
    fn no_text_makes_it_panic(text in "(App\\()?[a-z_]{0,8}[:( ]{0,3}[\"a-z${}\\[\\](),:0-9é\\n]{0,60}\\)?") {
        check(&[("web", &text)]);
    }
}
