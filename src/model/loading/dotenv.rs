//! Reads env files, by the rules of Docker Compose where it has one. Its rules are in `docs/manifest.md`. A message names
//! the line and the variable, and never repeats other text of the file: that may be a secret.

use std::collections::BTreeMap;

use crate::model::loading::interpolate::{self, interpolate_value};
use crate::model::loading::parse::without_mark;

/// The most bytes for all values of one app: more than any program accepts.
const MOST_BYTES: usize = 4 << 20;

/// What is wrong with an env file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line, from 1, on which the variable begins.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
    /// How to fix it; may be empty.
    pub help: String,
}

/// The variables of several env files. A later one wins.
pub struct Variables<'a> {
    values: BTreeMap<String, String>,
    /// Looks up a variable of the environment that the app inherits.
    inherited: &'a dyn Fn(&str) -> Option<String>,
    bytes: usize,
}

impl<'a> Variables<'a> {
    /// No variables yet.
    pub fn new(inherited: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Variables { values: BTreeMap::new(), inherited, bytes: 0 }
    }

    /// Adds the variables of one file. Its values may name variables of the lines above, of earlier files, and of the
    /// environment.
    ///
    /// # Errors
    /// The first mistake. The variables above it are added.
    pub fn read(&mut self, text: &str) -> Result<(), Mistake> {
        let text = without_mark(text).replace("\r\n", "\n");
        let mut cursor = Cursor { rest: &text, line: 1 };
        while let Some(entry) = cursor.entry()? {
            let value = match entry.value {
                Written::Not => (self.inherited)(entry.name),
                Written::Literal(value) => Some(value),
                Written::Expanded(value) => Some(self.expanded(&value, entry.line)?),
            };
            let Some(value) = value else { continue };
            self.bytes += value.len();
            if value.len() > interpolate::MOST_BYTES || self.bytes > MOST_BYTES || value.contains('\0') {
                let message = match value.contains('\0') {
                    true => format!("`{}` holds a NUL byte, which cannot be given to a program", entry.name),
                    false => format!("`{}` is longer than any program accepts", entry.name),
                };
                return Err(Mistake { line: entry.line, message, help: String::new() });
            }
            self.values.insert(entry.name.into(), value);
        }
        Ok(())
    }

    /// All variables, by name.
    pub fn into_values(self) -> BTreeMap<String, String> {
        self.values
    }

    fn expanded(&self, value: &str, line: usize) -> Result<String, Mistake> {
        let mut look_up = |name: &str| Ok(self.values.get(name).cloned().or_else(|| (self.inherited)(name)));
        let failed = |failed: interpolate::Failed| Mistake { line, message: failed.message, help: failed.help };
        interpolate_value(value, &mut look_up).map_err(failed)
    }
}

/// One variable as written.
struct Entry<'a> {
    name: &'a str,
    line: usize,
    value: Written,
}

enum Written {
    /// Only the name: the value is the inherited one.
    Not,
    /// In single quotes.
    Literal(String),
    /// Without quotes or in double quotes: variables are replaced.
    Expanded(String),
}

struct Cursor<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Cursor<'a> {
    /// The next variable.
    fn entry(&mut self) -> Result<Option<Entry<'a>>, Mistake> {
        loop {
            self.blanks();
            match self.rest.chars().next() {
                None => return Ok(None),
                Some('#' | '\n') => self.end_line(),
                Some(_) => return self.variable().map(Some),
            }
        }
    }

    fn variable(&mut self) -> Result<Entry<'a>, Mistake> {
        let line = self.line;
        if let Some(rest) = self.rest.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])) {
            self.rest = rest;
            self.blanks();
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let name = &self.rest[..self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len())];
        self.rest = &self.rest[name.len()..];
        self.blanks();
        let value = match self.rest.chars().next() {
            _ if name.is_empty() => None,
            Some('=' | ':') => {
                self.rest = &self.rest[1..];
                Some(self.value()?)
            }
            None | Some('\n' | '#') => Some(Written::Not),
            Some(_) => None,
        };
        let help = "a name has letters, digits, `_`, `.` and `-`; a value of several lines needs quotes";
        let mistake = || Mistake { line, message: "this is not `NAME=value`".into(), help: help.into() };
        Ok(Entry { name, line, value: value.ok_or_else(mistake)? })
    }

    fn value(&mut self) -> Result<Written, Mistake> {
        let is_spaced = self.blanks();
        Ok(match self.rest.chars().next() {
            Some('\'') => Written::Literal(self.quoted('\'', literal)?),
            Some('"') => Written::Expanded(self.quoted('"', escaped)?),
            _ => Written::Expanded(self.unquoted(is_spaced)),
        })
    }

    /// The rest of the line, without a comment. Only a `#` behind a blank begins one.
    fn unquoted(&mut self, is_spaced: bool) -> String {
        let line = &self.rest[..self.rest.find('\n').unwrap_or(self.rest.len())];
        self.rest = &self.rest[line.len()..];
        let begins = |at: &usize| line[..*at].chars().next_back().map_or(is_spaced, char::is_whitespace);
        let comment = line.match_indices('#').map(|(at, _)| at).find(begins);
        line[..comment.unwrap_or(line.len())].trim_end().into()
    }

    /// A text in quotes. `escape` says what a backslash and the character behind it stand for.
    fn quoted(&mut self, quote: char, escape: fn(char, &mut String)) -> Result<String, Mistake> {
        let line = self.line;
        let mistake = |message: &str, help: String| Mistake { line, message: message.into(), help };
        let mut value = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        let end = loop {
            match chars.next() {
                None => return Err(mistake("the quote is not closed", format!("a `{quote}` is missing"))),
                Some((at, c)) if c == quote => break at + 1,
                Some((_, '\\')) => match chars.next() {
                    Some((_, c)) => escape(c, &mut value),
                    None => value.push('\\'),
                },
                Some((_, c)) => value.push(c),
            }
        };
        self.line += self.rest[..end].matches('\n').count();
        self.rest = &self.rest[end..];
        self.blanks();
        match self.rest.chars().next() {
            None | Some('\n' | '#') => Ok(value),
            Some(_) => {
                let help = format!("a quote within the value is written `\\{quote}`");
                Err(mistake("something follows the closing quote", help))
            }
        }
    }

    /// Skips white space within the line. Returns whether there was any.
    fn blanks(&mut self) -> bool {
        let rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() && c != '\n');
        let any = rest.len() < self.rest.len();
        self.rest = rest;
        any
    }

    /// Skips to the beginning of the next line.
    fn end_line(&mut self) {
        match self.rest.split_once('\n') {
            Some((_, rest)) => (self.rest, self.line) = (rest, self.line + 1),
            None => self.rest = "",
        }
    }
}

/// In single quotes only the quote itself is escaped.
fn literal(c: char, value: &mut String) {
    if c != '\'' {
        value.push('\\');
    }
    value.push(c);
}

/// In double quotes. What is no escape stays as it is.
fn escaped(c: char, value: &mut String) {
    match c {
        'n' => value.push('\n'),
        'r' => value.push('\r'),
        't' => value.push('\t'),
        '"' | '\\' => value.push(c),
        '$' => value.push_str("$$"), // as interpolation writes a dollar sign
        _ => value.extend(['\\', c]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variables of a file, in an environment with `OUTER`.
    fn read(text: &str) -> Result<Vec<(String, String)>, String> {
        let inherited = |name: &str| (name == "OUTER").then(|| "outer".to_owned());
        let mut variables = Variables::new(&inherited);
        match variables.read(text) {
            Ok(()) => Ok(variables.into_values().into_iter().collect()),
            Err(Mistake { line, message, .. }) => Err(format!("line {line}: {message}")),
        }
    }

    #[test]
    fn a_value_is_what_docker_compose_makes_of_it() {
        let table = [
            ("A=1", "1"),
            ("  A = 1  ", "1"),
            ("A: 1", "1"),
            ("export A=1", "1"),
            ("export\tA='1'", "1"),
            ("A=", ""),
            ("A= # nothing", ""),
            ("A=#1", "#1"),
            ("A=1 # one", "1"),
            ("A=1# one", "1# one"),
            ("A=\"1 # one\" # two", "1 # one"),
            ("A='1'# one", "1"),
            ("A=a b\tc", "a b\tc"),
            ("A=x=y:z", "x=y:z"),
            ("A='$OUTER ${OUTER}'", "$OUTER ${OUTER}"),
            ("A='let\\'s go'", "let's go"),
            ("A='a\\tb\\\\'", "a\\tb\\\\"),
            ("A=a\\tb", "a\\tb"),
            ("A=\"a\\tb\\n\\r\\\\\"", "a\tb\n\r\\"),
            ("A=\"{\\\"k\\\": \\x}\"", "{\"k\": \\x}"),
            ("A=\"two\nlines\"", "two\nlines"),
            ("A='two\n # lines'\n", "two\n # lines"),
            ("A=$OUTER-${OUTER}", "outer-outer"),
            ("A=\"$OUTER\"", "outer"),
            ("A=\"\\$OUTER $$OUTER\"", "$OUTER $OUTER"),
            ("A=${UNSET:-d} ${OUTER:+is set}", "d is set"),
            ("A=p@$$w0rd$", "p@$w0rd$"),
            ("A=1\nA=2", "2"),
            ("A=1\r\n\r\n# x\r\n", "1"),
            ("\u{feff}A=1", "1"),
            ("A=\"1\r\n2\"", "1\n2"),
            ("A=1\nA=${A}2", "12"),
        ];
        for (text, wanted) in table {
            assert_eq!(read(text), Ok(vec![("A".into(), wanted.into())]), "{text:?}");
        }
    }

    #[test]
    fn a_name_alone_passes_on_what_is_inherited() {
        assert_eq!(read("OUTER\nUNSET\nexport OUTER # again"), Ok(vec![("OUTER".into(), "outer".into())]));
        assert_eq!(read("OUTER=1\nA=$OUTER").map(|all| all[0].1.clone()), Ok("1".into()), "the line above wins");
        assert_eq!(read("\n \n# A=1\n"), Ok(vec![]));
        assert_eq!(read("export=1").map(|all| all[0].0.clone()), Ok("export".into()));
    }

    #[test]
    fn a_mistake_is_told_by_its_line_and_never_by_its_text() {
        let table = [
            ("A=1\nthe s3cr3t", "line 2: this is not `NAME=value`"),
            ("=s3cr3t", "line 1: this is not `NAME=value`"),
            ("A='1\n2'\nB=\"s3cr3t\nC=1", "line 3: the quote is not closed"),
            ("A='s3cr3t' s3cr3t", "line 1: something follows the closing quote"),
            ("A=s3cr3t$UNSET", "line 1: `UNSET` is not set"),
            ("A=s3cr3t${OUTER%x}", "line 1: this is not understood in `${…}`"),
            ("A=${s3cr3t", "line 1: `${` is not closed"),
            ("A='\0'", "line 1: `A` holds a NUL byte, which cannot be given to a program"),
        ];
        for (text, wanted) in table {
            assert_eq!(read(text), Err(wanted.into()), "{text:?}");
        }
    }

    #[test]
    fn values_that_double_each_other_do_not_fill_the_memory() {
        let doubling: String = (1..40).map(|n| format!("A{n}=\"${{A{}}}${{A{}}}\"\n", n - 1, n - 1)).collect();
        let said = read(&format!("A0=0123456789\n{doubling}")).unwrap_err();
        assert!(said.contains("longer than 128 KiB"), "{said}");
        let many: String = (0..200).map(|n| format!("A{n}='{}'\n", "x".repeat(64 << 10))).collect();
        assert_eq!(read(&many), Err("line 65: `A64` is longer than any program accepts".into()));
    }
}
