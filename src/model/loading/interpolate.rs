//! Interpolation: `${VAR}`, `${VAR:-default}`, `${VAR-default}`, `${VAR:+text}`, `${VAR:?message}`, `$$`, and `~` for
//! the home folder at the beginning of a text or of a default. As in sh, with the colon an empty variable counts as
//! unset, and defaults may nest. A `$` before anything else stands for itself, so regexes need no escaping.
//!
//! The values of env files differ in two ways, as Docker Compose reads them: `$VAR` is a variable too, and `~` stands
//! for itself.

use std::ops::Range;

use crate::model::manifest::fields::Insert;

/// A variable that could not be replaced, and its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The range in the text, in bytes.
    pub span: Range<usize>,
    /// What is wrong there.
    pub message: String,
    /// How to fix it; may be empty.
    pub help: String,
}

/// The deepest nesting of defaults that is accepted.
const DEPTH: usize = 16;
/// Linux accepts no longer argument. Without a limit, texts that double each other would fill the memory.
pub const MOST_BYTES: usize = 128 << 10;

/// Returns the text with everything replaced. `look_up` returns a variable's value; its error is a message.
pub fn interpolate(
    text: &str,
    home: Option<&str>,
    insert: Insert,
    look_up: &mut dyn FnMut(&str) -> Result<Option<String>, String>,
) -> Result<String, Failed> {
    let dialect = Dialect::Manifest { home: home.map(|home| home.trim_end_matches('/')) };
    Reader { text, at: 0, dialect, insert, skipping: false, look_up }.until_end(false, 0)
}

/// Like [`interpolate`], for a value in an env file.
pub fn interpolate_value(
    text: &str,
    look_up: &mut dyn FnMut(&str) -> Result<Option<String>, String>,
) -> Result<String, Failed> {
    Reader { text, at: 0, dialect: Dialect::EnvFile, insert: Insert::AsIs, skipping: false, look_up }
        .until_end(false, 0)
}

/// Where the text comes from.
#[derive(Clone, Copy)]
enum Dialect<'a> {
    /// A text of a manifest. `~` is the home folder, if there is one.
    Manifest { home: Option<&'a str> },
    /// A value in an env file.
    EnvFile,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    dialect: Dialect<'a>,
    insert: Insert,
    /// Inside an unused default: it must be well formed, but its variables need not be set.
    skipping: bool,
    look_up: &'a mut dyn FnMut(&str) -> Result<Option<String>, String>,
}

/// The operator after the name in `${NAME…}`.
enum Form {
    Value,
    Default { colon: bool },
    Alternative { colon: bool },
    Required { colon: bool },
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn failed(&self, from: usize, message: impl Into<String>, help: impl Into<String>) -> Failed {
        Failed { span: from..self.at.max(from + 1).min(self.text.len()), message: message.into(), help: help.into() }
    }

    /// Reads to the end of the text, or to the brace that closes it.
    fn until_end(&mut self, in_braces: bool, depth: usize) -> Result<String, Failed> {
        let start = self.at;
        let mut out = String::new();
        if let Dialect::Manifest { home } = self.dialect
            && let Some(behind) = self.rest().strip_prefix('~')
            && (behind.is_empty() || behind.starts_with('/') || in_braces && behind.starts_with('}'))
        {
            self.at += 1;
            let home = self.home_folder(home, start)?;
            out.push_str(&self.inserted(home, depth));
        }
        while let Some(c) = self.rest().chars().next() {
            if in_braces && c == '}' {
                break;
            }
            if self.rest().starts_with("$$") {
                out.push('$');
                self.at += 2;
            } else if self.rest().starts_with("${") {
                let value = self.reference(depth)?;
                out.push_str(&self.inserted(value, depth));
            } else if let Some(name) = self.bare_name() {
                out.push_str(&self.bare(&name)?);
            } else {
                out.push(c);
                self.at += c.len_utf8();
            }
            if out.len() > MOST_BYTES {
                let message = "this is longer than 128 KiB when it is filled in";
                return Err(self.failed(start, message, "no program takes a longer argument"));
            }
        }
        Ok(out)
    }

    /// The home folder, for `~`.
    fn home_folder(&self, home: Option<&str>, start: usize) -> Result<String, Failed> {
        match home {
            Some(home) => Ok(home.into()),
            None if self.skipping => Ok(String::new()),
            None => {
                let message = "there is no home folder: HOME is not set, and /etc/passwd has no entry for this user";
                Err(self.failed(start, message, "set HOME, or write an absolute path"))
            }
        }
    }

    /// The name in `$NAME`, where that is a variable.
    fn bare_name(&self) -> Option<String> {
        let behind = self.rest().strip_prefix('$').filter(|_| matches!(self.dialect, Dialect::EnvFile))?;
        let name = &behind[..length_of_name(behind)];
        (!name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())).then(|| name.into())
    }

    /// Reads `$NAME`.
    fn bare(&mut self, name: &str) -> Result<String, Failed> {
        let start = self.at;
        self.at += 1 + name.len();
        if self.skipping {
            return Ok(String::new());
        }
        let help = "set it, or write `$$` for a dollar sign";
        self.value_of(name, start)?.ok_or_else(|| self.failed(start, format!("`{name}` is not set"), help))
    }

    /// A value in the form in which it is inserted. A value nested in a default is escaped together with the default.
    fn inserted(&self, value: String, depth: usize) -> String {
        match self.insert {
            Insert::Escaped if depth == 0 => regex_lite::escape(&value),
            Insert::Escaped | Insert::AsIs | Insert::Script => value,
        }
    }

    /// Reads from `${`.
    fn reference(&mut self, depth: usize) -> Result<String, Failed> {
        let start = self.at;
        if depth > DEPTH {
            return Err(self.failed(start, "defaults are nested too deeply", ""));
        }
        self.at += 2;
        let name = self.rest()[..length_of_name(self.rest())].to_string();
        self.at += name.len();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.failed(start, "a variable's name is missing after `${`", "write `$$` for a dollar sign"));
        }
        let form = self.form(start)?;
        let value = if self.skipping { None } else { self.value_of(&name, start)? };
        let full = value.as_ref().is_some_and(|value| !value.is_empty());
        let counts = |colon: bool| if colon { full } else { value.is_some() };
        let word = match form {
            Form::Value => String::new(),
            Form::Default { colon } => self.word(counts(colon), depth)?,
            Form::Alternative { colon } => self.word(!counts(colon), depth)?,
            Form::Required { colon } => self.word(counts(colon), depth)?,
        };
        if !self.rest().starts_with('}') {
            return Err(self.failed(start, "`${` is not closed", "a `}` is missing"));
        }
        self.at += 1;
        match (form, value) {
            _ if self.skipping => Ok(String::new()),
            (Form::Value, Some(value)) => Ok(value),
            (Form::Value, None) => {
                let help = format!("set it, or give a default: `${{{name}:-…}}`");
                Err(self.failed(start, format!("`{name}` is not set"), help))
            }
            (Form::Default { colon }, Some(value)) if !colon || full => Ok(value),
            (Form::Required { colon }, Some(value)) if !colon || full => Ok(value),
            (Form::Required { .. }, _) => {
                let message = if word.is_empty() { "it must be set" } else { &word };
                Err(self.failed(start, format!("`{name}`: {message}"), "set it in the supervisor's environment"))
            }
            (Form::Default { .. } | Form::Alternative { .. }, _) => Ok(word),
        }
    }

    fn value_of(&mut self, name: &str, start: usize) -> Result<Option<String>, Failed> {
        (self.look_up)(name).map_err(|message| self.failed(start, message, ""))
    }

    /// The text after the operator, up to the closing brace; empty if it is not used.
    fn word(&mut self, unwanted: bool, depth: usize) -> Result<String, Failed> {
        let skipping = self.skipping || unwanted;
        let outside = std::mem::replace(&mut self.skipping, skipping);
        let word = self.until_end(true, depth + 1);
        let skipped = std::mem::replace(&mut self.skipping, outside);
        word.map(|word| if skipped { String::new() } else { word })
    }

    fn form(&mut self, start: usize) -> Result<Form, Failed> {
        if self.rest().is_empty() || self.rest().starts_with('}') {
            return Ok(Form::Value);
        }
        let (sign, form) = match self.rest().as_bytes() {
            [b':', b'-', ..] => (":-", Form::Default { colon: true }),
            [b':', b'+', ..] => (":+", Form::Alternative { colon: true }),
            [b':', b'?', ..] => (":?", Form::Required { colon: true }),
            [b'-', ..] => ("-", Form::Default { colon: false }),
            [b'+', ..] => ("+", Form::Alternative { colon: false }),
            [b'?', ..] => ("?", Form::Required { colon: false }),
            _ => {
                let help = "it takes `${VAR}`, `${VAR:-default}`, `${VAR:+text}` or `${VAR:?message}`";
                return Err(self.failed(start, "this is not understood in `${…}`", help));
            }
        };
        self.at += sign.len();
        Ok(form)
    }
}

fn length_of_name(text: &str) -> usize {
    text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(text: &str) -> Result<String, String> {
        let mut look_up = |name: &str| {
            Ok(match name {
                "NAME" => Some("value".to_string()),
                "EMPTY" => Some(String::new()),
                _ => None,
            })
        };
        interpolate(text, Some("/home/me/"), Insert::AsIs, &mut look_up)
            .map_err(|failed| format!("{} at {:?}", failed.message, failed.span))
    }

    #[test]
    fn every_form_does_what_sh_does() {
        let table = [
            ("a ${NAME} b", "a value b"),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${UNSET-d}", "d"),
            ("${UNSET:-${NAME}/x}", "value/x"),
            ("${UNSET:-${OTHER:-${NAME}}}", "value"),
            ("${NAME:+0}", "0"),
            ("${UNSET:+0}", ""),
            ("${NAME:?gone}", "value"),
            ("${EMPTY?gone}", ""),
            ("$$NAME $$${NAME}", "$NAME $value"),
            ("^a$|b$", "^a$|b$"),
            ("~/x", "/home/me/x"),
            ("~", "/home/me"),
            ("~other/x ~/y", "~other/x ~/y"),
            ("--dir=${UNSET:-~/x}", "--dir=/home/me/x"),
            ("${UNSET:-a b:c}", "a b:c"),
            ("${NAME:-${UNSET}}", "value"),
            ("${NAME:-${UNSET:?gone}}x", "valuex"),
            ("${UNSET:+${UNSET}}", ""),
            ("${UNSET:-${NAME:-${UNSET}}}", "value"),
        ];
        for (text, wanted) in table {
            assert_eq!(filled(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn in_an_env_file_a_name_needs_no_braces_and_a_tilde_is_a_tilde() {
        let mut look_up = |name: &str| Ok((name == "NAME").then(|| "value".to_owned()));
        let mut filled = |text| interpolate_value(text, &mut look_up).map_err(|failed| failed.message);
        let table = [
            ("$NAME/x $NAME", Ok("value/x value")),
            ("a$$NAME $5 $ $-", Ok("a$NAME $5 $ $-")),
            ("${UNSET:-$NAME}", Ok("value")),
            ("${NAME:-$UNSET}", Ok("value")),
            ("${NAME:+$UNSET}", Err("`UNSET` is not set")),
            ("~/x", Ok("~/x")),
        ];
        for (text, wanted) in table {
            assert_eq!(filled(text).as_deref().map_err(String::as_str), wanted, "{text}");
        }
    }

    #[test]
    fn without_a_home_folder_only_texts_that_need_one_fail() {
        let filled = |text| interpolate(text, None, Insert::AsIs, &mut |_| Ok(Some("x".into())));
        let message = "there is no home folder: HOME is not set, and /etc/passwd has no entry for this user";
        for text in ["~/x", "~", "a${X:+~/x}"] {
            assert_eq!(filled(text).unwrap_err().message, message, "{text}");
        }
        assert_eq!(filled("a~/${X:-~/y}").unwrap(), "a~/x");
    }

    #[test]
    fn what_cannot_be_filled_in_is_pointed_at() {
        let table = [
            ("x ${UNSET} y", "`UNSET` is not set at 2..10"),
            ("${UNSET:?no home}", "`UNSET`: no home at 0..17"),
            ("${EMPTY:?}", "`EMPTY`: it must be set at 0..10"),
            ("${UNSET?no home}", "`UNSET`: no home at 0..16"),
            ("${NAME", "`${` is not closed at 0..6"),
            ("${NAME:-${}}", "a variable's name is missing after `${` at 8..10"),
            ("${UNSET:-${OTHER}}", "`OTHER` is not set at 9..17"),
            ("${}", "a variable's name is missing after `${` at 0..2"),
            ("${NAME%x}", "this is not understood in `${…}` at 0..6"),
        ];
        for (text, wanted) in table {
            assert_eq!(filled(text), Err(wanted.to_string()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_plain_text_stays(text in "[a-z${}:?+~é -]{0,30}") {
            let result = filled(&text);
            if !text.contains('$') && !text.starts_with('~') {
                prop_assert_eq!(result, Ok(text));
            }
        }
    }
}
