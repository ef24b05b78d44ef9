//! Arguments: the program as an absolute path, and the words it is given: `args`, or what overrides them.

use crate::model::loading::surroundings::Surroundings;
use crate::model::manifest::fields::Fields;

/// Where programs are looked for when there is no PATH, as shells do.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The program as an absolute path.
pub fn program(command: String, enabled: bool, fields: &mut Fields<'_>, around: &Surroundings<'_>) -> String {
    let command = fields.text("command", command);
    if command.is_empty() {
        fields.error("command", "the command is empty", "name a program");
    } else if command.starts_with('/') {
        if enabled && !(around.executable)(&command) {
            let message = format!("`{command}` does not exist, or may not be executed");
            fields.warning("command", message, "it is started anyway, since a hook may create it");
        }
    } else if command.contains('/') {
        let message = format!("`{command}` is a relative path");
        fields.error("command", message, "use an absolute path, or the name of a program on PATH");
    } else {
        match on_path(&command, around) {
            Ok(file) => return file,
            Err(path) if enabled => {
                let help = format!("install it, or write its absolute path; looked in {path}");
                fields.error("command", format!("no program `{command}` on PATH"), help);
            }
            Err(_) => {}
        }
    }
    command
}

/// The first executable of that name in an absolute folder of PATH; else the PATH that was searched. A relative
/// folder would mean another program elsewhere.
fn on_path<'a>(name: &str, around: &Surroundings<'a>) -> Result<String, &'a str> {
    let path = around.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let folders = path.split(':').filter(|folder| folder.starts_with('/'));
    folders.map(|folder| format!("{folder}/{name}")).find(|file| (around.executable)(file)).ok_or(path)
}

/// `args`, or what overrides them with the flags that must stay.
pub fn arguments(
    args: Vec<String>,
    (args_from, args_kept): (Option<String>, Vec<String>),
    fields: &mut Fields<'_>,
    around: &Surroundings<'_>,
) -> Vec<String> {
    let args = fields.texts("args", args);
    let given = args_from.as_ref().and_then(|name| Some((name, around.env.get(name)?)));
    let Some((name, text)) = given.filter(|(_, text)| !text.trim().is_empty()) else { return args };
    let Some(mut words) = shlex::split(text) else {
        let message = format!("the words of `{name}` cannot be told apart: a quote is not closed");
        fields.warning("args_from", message, "`args` is used as it is");
        return args;
    };
    let mut added = Vec::new();
    for flag in &args_kept {
        if !words.iter().any(|word| is_flag(word, flag)) {
            let own = kept(&args, flag);
            if !own.is_empty() {
                added.push(flag.as_str());
            }
            words.extend(own);
        }
    }
    if !added.is_empty() {
        let message = format!("`{name}` does not set {}", added.join(", "));
        fields.warning("args_kept", message, "taken from `args`");
    }
    words
}

/// `--flag` or `--flag=value`.
fn is_flag(word: &str, flag: &str) -> bool {
    word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// The flag as it stands in `args`, with its value if that is a word of its own.
fn kept(args: &[String], flag: &str) -> Vec<String> {
    let Some(at) = args.iter().position(|word| is_flag(word, flag)) else { return Vec::new() };
    let value = args.get(at + 1).filter(|next| args[at] == flag && !next.starts_with('-'));
    args[at..=at].iter().chain(value).cloned().collect()
}
