//! Arguments: the program as an absolute path, and its arguments: `args`, or the override of them.
//!
//! Fixed arguments hold for both. An override may give a flag another value than `args` does, as in `--user-data-dir=/tmp/p`. Hooks, patterns and
//! probes must follow the value in use. So if `args` sets a kept flag from a var, the var takes its value from the
//! override.

use std::collections::BTreeMap;

use crate::model::loading::surroundings::Surroundings;
use crate::model::manifest::fields::Fields;
use crate::model::manifest::fixed::{FixedArgs, Removed};

/// The program as an absolute path.
pub fn program(command: String, enabled: bool, fields: &mut Fields<'_>, around: &Surroundings<'_>) -> String {
    let command = fields.text("command", command);
    if command.is_empty() {
        fields.error("command", "the command is empty", "name a program");
    } else if let Some((program, rest)) = with_arguments(&command, around) {
        let args = rest.split_whitespace().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let help = format!("write `command: {program:?}, args: [{args}]`");
        fields.error("command", "this is a program with arguments", help);
    } else if command.starts_with('/') {
        if enabled && !around.is_program(&command) {
            let message = format!("`{command}` does not exist, or may not be executed");
            fields.warning("command", message, "it is started anyway, since a hook may create it");
        }
    } else if command.contains('/') {
        let message = format!("`{command}` is a relative path");
        let beside = command.strip_prefix("./").unwrap_or(&command);
        let help =
            format!("use an absolute path, `${{here}}/{beside}` for a file beside the manifest, or a program on PATH");
        fields.error("command", message, help);
    } else {
        match around.on_path(&command) {
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

/// Splits a program from its arguments if both were written as one string. A path may contain spaces.
fn with_arguments<'a>(command: &'a str, around: &Surroundings<'_>) -> Option<(&'a str, &'a str)> {
    let is_program = |name: &str| match name.starts_with('/') {
        true => around.is_program(name),
        false => !name.contains('/') && around.on_path(name).is_ok(),
    };
    let (program, rest) = command.split_once(char::is_whitespace)?;
    (!is_program(command) && is_program(program)).then_some((program, rest))
}

/// The words of the variable named by `args_from`, if it is set and not empty.
pub struct Override {
    /// The variable's name.
    name: String,
    /// `None` if its quotes do not match.
    words: Option<Vec<String>>,
}

impl Override {
    /// The override of the variable that `args_from` names.
    pub fn of(args_from: Option<&String>, around: &Surroundings<'_>) -> Option<Self> {
        let name = args_from?;
        let text = around.env.get(name).filter(|text| !text.trim().is_empty())?;
        Some(Override { name: name.clone(), words: shlex::split(text) })
    }

    /// The vars that take their value from the override: `args` sets a kept flag from the var, as in
    /// `--user-data-dir=${profile}`, and the override sets that flag too.
    pub fn vars(&self, args: &[String], args_kept: &[String]) -> BTreeMap<String, String> {
        let Some(words) = &self.words else { return BTreeMap::new() };
        let var = |flag: &String| {
            let written = value_of(args, flag)?;
            let name = written.strip_prefix("${")?.strip_suffix('}')?;
            Some((name.to_owned(), value_of(words, flag)?.to_owned()))
        };
        args_kept.iter().filter_map(var).collect()
    }
}

/// `args`, or the override with the kept flags added, and the fixed arguments before them.
pub fn arguments(
    args: Vec<String>,
    (args_kept, fixed): (&[String], &FixedArgs),
    overridden: Option<Override>,
    fields: &mut Fields<'_>,
) -> Vec<String> {
    let source = overridden.as_ref().map_or("args".to_owned(), |overridden| overridden.name.clone());
    let (words, removed) = fixed.apply(chosen(args, args_kept, overridden, fields));
    for Removed { word, instead } in removed {
        let (message, help) = match instead {
            Some(own) => (format!("`{source}` has `{word}`, where `{own}` is fixed"), "the fixed argument is used"),
            None => (format!("`{source}` has `{word}`"), "it is left out, because it would cancel fixed arguments"),
        };
        fields.warning("args_fixed", message, help);
    }
    words
}

fn chosen(
    args: Vec<String>,
    args_kept: &[String],
    overridden: Option<Override>,
    fields: &mut Fields<'_>,
) -> Vec<String> {
    let args = fields.texts("args", args);
    let Some(Override { name, words }) = overridden else { return args };
    let Some(mut words) = words else {
        let message = format!("the words of `{name}` cannot be told apart: a quote is not closed");
        fields.warning("args_from", message, "`args` is used instead");
        return args;
    };
    let mut added = Vec::new();
    for flag in args_kept {
        let own = kept(&args, flag);
        if words.iter().any(|word| is_flag(word, flag)) {
            warn_of_another(flag, (value_of(&args, flag), value_of(&words, flag)), &name, fields);
            continue;
        }
        if !own.is_empty() {
            added.push(flag.as_str());
        }
        words.extend(own.iter().cloned());
    }
    if !added.is_empty() {
        let message = format!("`{name}` does not set {}", added.join(", "));
        fields.warning("args_kept", message, "taken from `args`");
    }
    words
}

/// Something else may rely on the value in `args`. A value written as `--flag=${var}` never differs, because the var
/// has the override's value.
fn warn_of_another(flag: &str, values: (Option<&str>, Option<&str>), name: &str, fields: &mut Fields<'_>) {
    let (Some(own), Some(other)) = values else { return };
    if own != other {
        let message = format!("`{name}` sets {flag} to `{other}`, where `args` has `{own}`");
        fields.warning("args_kept", message, "make them agree, or write `args` as FLAG=${var} with a var that follows");
    }
}

/// The value of a flag in a command line: the text after `=`, or the next word. If the flag is repeated, the last
/// one counts.
fn value_of<'a>(words: &'a [String], flag: &str) -> Option<&'a str> {
    let at = words.iter().rposition(|word| is_flag(word, flag))?;
    match words[at][flag.len()..].strip_prefix('=') {
        Some(value) => Some(value),
        None => words.get(at + 1).map(String::as_str).filter(|next| !next.starts_with('-')),
    }
}

/// `--flag` or `--flag=value`.
fn is_flag(word: &str, flag: &str) -> bool {
    word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// The flag as written in `args`, with its value if that is a separate word.
fn kept<'a>(args: &'a [String], flag: &str) -> &'a [String] {
    let Some(at) = args.iter().position(|word| is_flag(word, flag)) else { return &[] };
    let has_value = args[at] == flag && args.get(at + 1).is_some_and(|next| !next.starts_with('-'));
    &args[at..=at + usize::from(has_value)]
}
