//! Words: RON's errors in plain words. Owns the description of what each field expects, with an example. No name of a
//! Rust type and no message of RON leaves this file.

use ron::error::Error;

use crate::model::spelling::closest;
use crate::model::synonyms::synonym;

/// The message and the help; the help may be empty. `path` is the field that the error is about.
pub fn words(code: &Error, path: &str) -> (String, String) {
    let of = |outer: &Option<String>| of(outer, path);
    match code {
        Error::NoSuchStructField { expected, found, outer } => {
            let help = peers_word(found, outer.as_deref()).map(str::to_owned);
            let help = help.unwrap_or_else(|| suggest(found, expected, "the fields are"));
            (format!("there is no field `{found}`{}", of(outer)), help)
        }
        Error::NoSuchEnumVariant { expected, found, .. } => {
            (format!("there is no `{found}` here"), suggest(found, expected, "it takes"))
        }
        Error::MissingStructField { field, outer } => {
            (format!("the field `{field}`{} is missing", of(outer)), format!("write `{field}: …`"))
        }
        Error::DuplicateStructField { field, .. } => {
            (format!("the field `{field}` is written twice"), "keep one of them".into())
        }
        Error::ExpectedDifferentStructName { expected, found } => wrong_struct(found, expected),
        Error::ExpectedNamedStructLike(name) if path.is_empty() => (format!("expected `{name}(…)`"), String::new()),
        Error::NoSuchExtension(name) => (format!("there is no extension `{name}`"), "take it out".into()),
        Error::ExceededRecursionLimit => ("this is nested too deeply".into(), "at most 64 levels are allowed".into()),
        Error::InvalidEscape(_) => {
            ("this `\\` is not the beginning of an escape".into(), "write it twice, or write the text as r\"…\"".into())
        }
        // The message comes from the field's own type and is already in plain words.
        Error::Message(text) => (text.clone(), String::new()),
        _ if path.is_empty() => ("this cannot be read".into(), String::new()),
        _ => (format!("expected {}", expected(path)), String::new()),
    }
}

/// The message and the help for a struct with another struct's name, or with none that is known.
pub fn wrong_struct(found: &str, expected: &str) -> (String, String) {
    (format!("this is `{found}`, where `{expected}` belongs"), format!("write `{expected}(…)`"))
}

/// The struct at or around this path, if a text may be written in its place. RON does not know the name of such a struct.
pub fn beside_text(path: &str) -> Option<&'static str> {
    match path.split_once('[')?.0 {
        "after" => Some("After"),
        "env_files" => Some("EnvFile"),
        _ => None,
    }
}

fn of(outer: &Option<String>, path: &str) -> String {
    beside_text(path).or(outer.as_deref()).map_or_else(String::new, |outer| format!(" of `{outer}`"))
}

fn suggest(found: &str, expected: &[&'static str], otherwise: &str) -> String {
    match closest(found, expected.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if expected.len() > MOST_NAMES => "see docs/manifest.md for all fields".into(),
        None => format!("{otherwise} {}", expected.join(", ")),
    }
}

/// Nobody would read a longer list of names.
const MOST_NAMES: usize = 10;

/// Help for a name that other supervisors use for a field of `App`.
fn peers_word(found: &str, outer: Option<&str>) -> Option<&'static str> {
    match outer {
        Some("App") if found.eq_ignore_ascii_case("name") => Some("an app has the name of its file: NAME.ron"),
        Some("App") => synonym(found).map(|synonym| synonym.advice),
        _ => None,
    }
}

const TEXT: &str = "a text in quotes";
const STEP: &str = "a step such as MakeDir(path: \"~/x\")";
const STEPS: &str = "a list of steps such as [MakeDir(path: \"~/x\")]";

/// What a field expects. In a map with free keys, the map decides and not the key.
fn expected(path: &str) -> &'static str {
    let element = path.ends_with(']');
    let path = path.rfind('[').filter(|_| element).map_or(path, |at| &path[..at]);
    let (parents, field) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = parents.rsplit('.').next().unwrap_or_default();
    match (parent, element) {
        ("env" | "vars", _) => return TEXT,
        ("set" | "default", _) => return "a text, a number, true, false, a list or a map",
        ("actions", false) => return STEPS,
        ("actions", true) => return STEP,
        _ => {}
    }
    match (field, element) {
        ("prelaunch" | "postlaunch" | "prestop" | "poststop" | "stage", true) => STEP,
        ("after", true) => "the name of an app, or After(app: \"…\", until: Running)",
        ("env_files", true) => "a path in quotes, or EnvFile(path: \"app.env\", optional: true)",
        ("args_fixed", true) => "Fixed(args: [\"--flag=value\"])",
        ("warnings", true) => "Warning(unless: \"${LAUNCH_APP:-1}\", text: \"…\")",
        ("prelaunch" | "postlaunch" | "prestop" | "poststop" | "stage", false) => STEPS,
        (
            "args" | "args_kept" | "args_last" | "argv" | "without" | "env_secret" | "env_hidden" | "locked"
            | "categories",
            false,
        ) => "a list of texts such as [\"one\", \"two\"]",
        ("after", false) => "a list such as [\"display\", After(app: \"db\", until: Running)]",
        (_, true) => TEXT,
        ("first" | "max" | "stable_after" | "within" | "timeout" | "every" | "grace" | "stop_budget", _) => {
            "a duration such as \"3s\""
        }
        ("max_size" | "max_rss", _) => "a size such as \"10MiB\"",
        ("umask", _) => "an octal text in quotes, such as \"0027\"",
        ("core" | "data" | "fsize" | "memlock" | "stack", _) => "0, a size such as \"64MiB\", or \"unlimited\"",
        ("cpu" | "nofile" | "nproc" | "rtprio", _) => "a whole number, or a text such as \"1024:4096\"",
        ("nice", _) => "a whole number from -20 to 19",
        ("oom_score_adj", _) => "a whole number from -1000 to 1000",
        ("keep" | "tail", _) => "a whole number, 0 or more",
        ("failures" | "times", _) => "a whole number, 1 or more",
        ("code", _) => "an exit code such as 1",
        ("factor" | "jitter", _) => "a number such as 2.0",
        ("forward" | "timestamps" | "if_present" | "follow" | "optional" | "pty", _) => "true or false",
        _ => expected_form(field),
    }
}

/// The fields that hold a form of their own.
fn expected_form(field: &str) -> &'static str {
    match field {
        "enabled" | "unless" => "true, false, or a text such as \"${LAUNCH_APP:-1}\"",
        "autostart" => "true, false, or a text such as \"${AUTOSTART:-1}\"",
        "env_files" => "a list such as [\"app.env\"]",
        "env" | "vars" => "a map such as {\"NAME\": \"value\"}",
        "set" | "default" => "a map such as {\"key\": true}",
        "actions" => "a map such as {\"reset\": [MakeDir(path: \"~/x\")]}",
        "restart" => "Always, OnFailure or Never",
        "until" => "Running, Started or Succeeded",
        "on_close" => "Restart or Hold",
        "on_give_up" => "Hold or EndSession(code: 1)",
        "on_failure" => "Fail or Continue",
        "kind" => "Chromium or Electron",
        "give_up" => "Never or After(times: 10, within: \"10m\")",
        "probe" | "what" => {
            "Display or one of Window(class: …), Tcp(address: …), Http(url: …), UnixSocket(path: …), Path(path: …), Command(argv: …)"
        }
        "matches" => "Match(cmdline: \"^/usr/bin/xterm\")",
        "ready" => "Ready(probe: …)",
        "health" => "Health(probe: …)",
        "backoff" => "fields in parentheses, as in Backoff(first: \"3s\")",
        "stop" => "fields in parentheses, as in Stop(signal: \"INT\")",
        "log" => "fields in parentheses, as in Log(keep: 3)",
        "rlimits" => "fields in parentheses, as in Rlimits(nofile: 65536)",
        "limits" => "fields in parentheses, as in Limits(nice: 5)",
        "icon" => "Icon(name: \"…\")",
        "args_fixed" => "a list such as [Fixed(args: [\"--flag=value\"])]",
        "warnings" => "a list such as [Warning(unless: \"${LAUNCH_APP:-1}\", text: \"…\")]",
        _ => TEXT,
    }
}
