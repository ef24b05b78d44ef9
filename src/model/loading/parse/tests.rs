//! Mistakes of form, and the exact messages for them.

use proptest::prelude::*;

use super::*;
use crate::model::manifest::Manifest;
use crate::model::manifest::hook::HookForm;
use crate::model::manifest::matches::MatchForm;
use crate::model::manifest::workspace::WorkspaceForm;

fn said(text: &str) -> Vec<String> {
    parse::<Manifest>("a.ron", text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// Each row: the text after `App(command: "x", `, and every message about it.
fn check(table: &[(&str, &[&str])]) {
    for (fields, wanted) in table {
        let text = format!("App(command: \"x\", {fields})");
        let wanted: Vec<String> = wanted.iter().map(|line| format!("a.ron:{line}")).collect();
        assert_eq!(said(&text), wanted, "{text}");
    }
}

#[test]
fn a_text_that_is_no_manifest_is_said_to_be_none() {
    let table = [
        (
            "{\"command\": \"x\"}",
            "1:1: this seems to be JSON; it must be RON: the smallest manifest is App(command: \"/usr/bin/xterm\")",
        ),
        ("# why\nApp(command: \"x\")", "1:1: `#` does not begin a comment: write comments after `//`"),
        ("App(command: \"x\", # why\n)", "1:19: `#` does not begin a comment: write comments after `//`"),
        ("App(command: \"x\" # why\n)", "1:18: `#` does not begin a comment: write comments after `//`"),
        ("App(command: \"x\") # why", "1:19: `#` does not begin a comment: write comments after `//`"),
        ("App(command: “x”)", "1:14: these are not the right quotes: use straight ones, as in \"text\""),
        ("App(command: ‘x’)", "1:14: these are not the right quotes: use straight ones, as in \"text\""),
        ("App(command: \"x\",\n args: [\"a\",\n restart: Always)", "2:8: this `[` is not closed: a `]` is missing"),
        ("App(command: \"x\",\n args: [\"a\"\n restart: Always)", "2:8: this `[` is not closed: a `]` is missing"),
        ("App(command: \"x\",\n args: [\"a\")", "2:8: this `[` is not closed: a `]` is missing"),
        ("App(command: \"x\",\n env: {\"A\": \"1\",\n)", "2:7: this `{` is not closed: a `}` is missing"),
        ("App(command: \"x\",\n stop: Stop(signal: \"INT\",", "2:12: this `(` is not closed: a `)` is missing"),
        ("App()", "1:5: the field `command` of `App` is missing (`command`): write `command: …`"),
        ("App(about: \"x\")", "1:15: the field `command` of `App` is missing (`command`): write `command: …`"),
        ("Ap(command: \"x\")", "1:1: this is `Ap`, where `App` belongs: write `App(…)`"),
        ("Workspace()", "1:1: this is `Workspace`, where `App` belongs: write `App(…)`"),
        ("App(command: \"x\" args: [])", "1:18: a `,` is missing"),
        ("App(command \"x\")", "1:12: a `:` is missing after a name"),
        ("App(command: \"x\",, args: [])", "1:18: a value cannot begin like this"),
        ("App(command: \"x\"", "1:4: this `(` is not closed: a `)` is missing"),
        ("App(command: \"x)", "1:14: this text is not closed: a `\"` is missing"),
        ("App(command: \"x\") /* why", "1:25: a comment is not closed"),
        ("App(command: \"x\") y", "1:19: something follows the end of the value"),
        ("#![enable(nonsense)] App(command: \"x\")", "1:11: there is no extension `nonsense`: take it out"),
    ];
    for (text, wanted) in table {
        assert_eq!(said(text), [format!("a.ron:{wanted}")], "{text}");
    }
}

#[test]
fn a_mistyped_name_is_told_what_it_may_have_been() {
    check(&[
        ("backof: Backoff()", &["1:19: there is no field `backof` of `App` (`backof`): did you mean `backoff`?"]),
        (
            "stop: Stop(grac: \"3s\")",
            &["1:30: there is no field `grac` of `Stop` (`stop.grac`): did you mean `grace`?"],
        ),
        (
            "stop: Stop(x: 1)",
            &["1:30: there is no field `x` of `Stop` (`stop.x`): the fields are signal, grace, devtools"],
        ),
        (
            "after: [\"a\", After(app: \"b\"), Befor (app: \"c\")]",
            &["1:49: this is `Befor`, where `After` belongs (`after[2]`): write `After(…)`"],
        ),
        (
            "env_files: [r\"a(\", File(path: \"b\")]",
            &["1:38: this is `File`, where `EnvFile` belongs (`env_files[1]`): write `EnvFile(…)`"],
        ),
        ("restart: Alway", &["1:28: there is no `Alway` here (`restart`): did you mean `Always`?"]),
        ("restart: Sometimes", &["1:28: there is no `Sometimes` here (`restart`): it takes Always, OnFailure, Never"]),
        (
            "prelaunch: [MakDir(path: \"x\")]",
            &["1:31: there is no `MakDir` here (`prelaunch[0]`): did you mean `MakeDir`?"],
        ),
        (
            "ready: Ready(probe: Htp(url: \"x\"))",
            &["1:39: there is no `Htp` here (`ready.probe`): did you mean `Http`?"],
        ),
    ]);
    check(&[
        ("zzz: 1", &["1:19: there is no field `zzz` of `App` (`zzz`): see docs/manifest.md for all fields"]),
        (
            "depends_on: [\"x\"]",
            &["1:19: there is no field `depends_on` of `App` (`depends_on`): write `after: [\"other\"]`"],
        ),
        (
            "working_dir: \"/x\"",
            &["1:19: there is no field `working_dir` of `App` (`working_dir`): write `cwd: \"/path\"`"],
        ),
        (
            "name: \"x\"",
            &["1:19: there is no field `name` of `App` (`name`): an app has the name of its file: NAME.ron"],
        ),
        (
            "StopSignal: \"INT\"",
            &[
                "1:19: there is no field `StopSignal` of `App` (`StopSignal`): write `stop: Stop(signal: \"INT\", grace: \"5s\")`",
            ],
        ),
    ]);
    assert_eq!(
        said("App(comand: \"x\")"),
        ["a.ron:1:5: there is no field `comand` of `App` (`comand`): did you mean `command`?"]
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_told_what_belongs_there() {
    check(&[
        ("args: \"a\"", &["1:25: expected a list of texts such as [\"one\", \"two\"] (`args`)"]),
        ("args: [\"a\", 3]", &["1:31: expected a text in quotes (`args[1]`)"]),
        ("env: [\"A\"]", &["1:24: expected a map such as {\"NAME\": \"value\"} (`env`)"]),
        ("env: {\"A\": 1}", &["1:30: expected a text in quotes (`env.A`)"]),
        ("env: {A: \"1\"}", &["1:25: expected a text in quotes (`env.A`)"]),
        ("env: {\"first\": 1}", &["1:34: expected a text in quotes (`env.first`)"]),
        ("enabled: 3", &["1:28: expected true, false, or a text such as \"${LAUNCH_APP:-1}\" (`enabled`)"]),
        ("restart: \"Always\"", &["1:28: expected Always, OnFailure or Never (`restart`)"]),
        ("restart: 3", &["1:28: expected Always, OnFailure or Never (`restart`)"]),
        ("on_close: 3", &["1:29: expected Restart or Hold (`on_close`)"]),
        ("icon: \"x\"", &["1:25: expected Icon(name: \"…\") (`icon`)"]),
        ("matches: \"x\"", &["1:28: expected Match(cmdline: \"^/usr/bin/xterm\") (`matches`)"]),
        ("log: Log(max_size: 12)", &["1:38: expected a size such as \"10MiB\" (`log.max_size`)"]),
        ("log: Log(keep: -1)", &["1:34: expected a whole number, 0 or more (`log.keep`)"]),
        ("log: Log(tail: 1.5)", &["1:34: expected a whole number, 0 or more (`log.tail`)"]),
        ("log: Log(forward: 1)", &["1:37: expected true or false (`log.forward`)"]),
        ("limits: Limits(nice: 9999999999)", &["1:40: expected a whole number from -20 to 19 (`limits.nice`)"]),
        ("backoff: Backoff(first: 3)", &["1:43: expected a duration such as \"3s\" (`backoff.first`)"]),
        ("backoff: Backoff(factor: \"2\")", &["1:44: expected a number such as 2.0 (`backoff.factor`)"]),
        (
            "backoff: Backoff(give_up: After(3, \"1m\"))",
            &["1:45: expected Never or After(times: 10, within: \"10m\") (`backoff.give_up`)"],
        ),
        (
            "prelaunch: MakeDir(path: \"/x\")",
            &["1:30: expected a list of steps such as [MakeDir(path: \"~/x\")] (`prelaunch`)"],
        ),
        ("prelaunch: [Run(\"x\")]", &["1:31: expected a step such as MakeDir(path: \"~/x\") (`prelaunch[0]`)"]),
        ("about: 'x'", &["1:26: texts are written in double quotes (`about`): write \"x\""]),
        ("about: b\"x\"", &["1:26: expected a text in quotes (`about`)"]),
        (
            "about: \"\\q\"",
            &[
                "1:26: this `\\` is not the beginning of an escape (`about`): write it twice, or write the text as r\"…\"",
            ],
        ),
    ]);
}

#[test]
fn what_is_written_twice_or_not_at_all_is_named() {
    check(&[
        ("command: \"y\"", &["1:19: the field `command` is written twice (`command`): keep one of them"]),
        ("env: {\"A\": \"1\", \"A\": \"2\"}", &["1:35: the key \"A\" is written twice (`env.A`): keep one of them"]),
        (
            "env: {\"A\": \"1\", \"\\u{41}\": \"2\"}",
            &["1:35: the key \"\\u{41}\" is written twice (`env.A`): keep one of them"],
        ),
        (
            "prelaunch: [MakeDir()]",
            &["1:31: the field `path` of `MakeDir` is missing (`prelaunch[0].path`): write `path: …`"],
        ),
        (
            "backoff: Backoff(give_up: After(times: 3))",
            &["1:45: the field `within` of `After` is missing (`backoff.give_up.within`): write `within: …`"],
        ),
    ]);
}

#[test]
fn one_mistake_hides_no_other() {
    check(&[
        // The path that was blanked out is not reported as missing, and the rest is still read.
        (
            "prelaunch: [MakeDir(path: 3), MakeDir()], restart: Alway",
            &[
                "1:45: expected a text in quotes (`prelaunch[0].path`)",
                "1:49: the field `path` of `MakeDir` is missing (`prelaunch[1].path`): write `path: …`",
                "1:70: there is no `Alway` here (`restart`): did you mean `Always`?",
            ],
        ),
        // Elements keep their index when earlier ones are blanked out.
        (
            "prelaunch: [MakDir(path: \"x\"), RemoveDir(path: \"y\"), MakeDir(path: 3)]",
            &[
                "1:31: there is no `MakDir` here (`prelaunch[0]`): did you mean `MakeDir`?",
                "1:50: there is no `RemoveDir` here (`prelaunch[1]`): did you mean `Remove`?",
                "1:86: expected a text in quotes (`prelaunch[2].path`)",
            ],
        ),
        (
            "prelaunch: [MakeDir(pth: \"x\")], args: 1",
            &[
                "1:39: there is no field `pth` of `MakeDir` (`prelaunch[0].pth`): did you mean `path`?",
                "1:57: expected a list of texts such as [\"one\", \"two\"] (`args`)",
            ],
        ),
    ]);
}

#[test]
fn of_a_file_that_is_all_wrong_twenty_mistakes_are_told() {
    let fields: String = (0..50).map(|n| format!("f{n}: 1, ")).collect();
    assert_eq!(said(&format!("App({fields})")).len(), MOST_PROBLEMS);
}

#[test]
fn a_caret_stands_under_the_mistake() {
    let problem = &parse::<Manifest>("a.ron", "App(\n  about: \"é\", comand: \"x\",\n)").unwrap_err()[0];
    assert_eq!((problem.line, problem.column, problem.field.as_str()), (2, 15, "comand"));
    assert_eq!(&problem.source[problem.mark.clone()], "comand");
}

#[test]
fn a_byte_order_mark_moves_nothing() {
    assert!(said("\u{feff}App(command: \"x\")").is_empty());
    assert_eq!(said("\u{feff}App(command: 3)"), said("App(command: 3)"));
}

#[test]
fn a_workspace_is_read_and_faulted_like_an_app() {
    let problems = |text: &str| {
        let found = parse::<WorkspaceForm>("workspace.ron", text).err().unwrap_or_default();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(problems("Workspace(env: {\"A\": \"1\"}, stop_budget: \"9s\")").is_empty());
    assert_eq!(
        problems("Workspace(stop_budget: 9, autostart: 2, stag: [])"),
        [
            "workspace.ron:1:24: expected a duration such as \"3s\" (`stop_budget`)",
            "workspace.ron:1:38: expected true, false, or a text such as \"${AUTOSTART:-1}\" (`autostart`)",
            "workspace.ron:1:41: there is no field `stag` of `Workspace` (`stag`): did you mean `stage`?",
        ]
    );
}

fn any_manifest() -> impl Strategy<Value = Manifest> {
    let texts = || proptest::collection::vec(".*", 0..4);
    let map = proptest::collection::btree_map("[A-Z]{1,4}|.{1,3}", ".*", 0..4);
    let step = prop_oneof![
        ".*".prop_map(|path| HookForm::MakeDir { path, on_failure: Default::default() }),
        (".*", ".*").prop_map(|(from, to)| HookForm::Copy { from, to, on_failure: Default::default() }),
    ];
    let matches = proptest::option::of((".*", proptest::option::of(".*")));
    (texts(), ".*", map, proptest::collection::vec(step, 0..3), matches).prop_map(|(args, about, env, prelaunch, m)| {
        let matches = m.map(|(cmdline, exclude)| MatchForm { cmdline, exclude, same_folder: None, successor: None });
        let smallest = parse::<Manifest>("a.ron", "App(command: \"/usr/bin/x\")").unwrap();
        Manifest { args, about, env, prelaunch, matches, ..smallest }
    })
}

/// Pieces of manifests, right and wrong, in any order.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "command: \"x\",|args: \\[|\\],|prelaunch: \\[|MakeDir\\(|path: |\\),|stop: Stop\\(|Run\\(argv: ",
        "give_up: After\\(|restart: |Always,|Alway,|\"a\",|3,|-1,|1\\.5,|'x',|None,|Some\\(|true,|\\(\\),|b\"x\"",
        "env: \\{|\"A\": |\\},|A: |backoff: Backoff\\(|first: |log: Log\\(|tail: |matches: |/\\* é \\*/|// x\n|r#\"",
        "[(){}\\[\\]:,\"'#é \n]",
    ];
    proptest::collection::vec(piece, 0..25).prop_map(|pieces| format!("App({})", pieces.concat()))
}

proptest! {
    #[test]
    fn what_serialises_parses_back(manifest in any_manifest()) {
        let text = ron::ser::to_string_pretty(&manifest, ron::ser::PrettyConfig::new().struct_names(true)).unwrap();
        prop_assert_eq!(parse::<Manifest>("a.ron", &text), Ok(manifest), "{}", text);
    }

    #[test]
    fn every_refusal_says_something_that_has_a_place(text in any_text()) {
        let found = parse::<Manifest>("a.ron", &text).err();
        for problem in found.iter().flatten() {
            prop_assert!(problem.line > 0 && !problem.message.is_empty(), "{text}: {problem}");
        }
        prop_assert!(found.is_none_or(|problems| (1..=MOST_PROBLEMS).contains(&problems.len())), "{text}");
    }
}
