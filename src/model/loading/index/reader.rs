//! Reads a RON text from its first byte to its last, and notes where each field is.

use std::collections::HashSet;
use std::ops::Range;

use super::{Index, IndexEntry, Unreadable};

const NO_VALUE: &str = "a value is missing";
const NO_COMMA: &str = "a `,` is missing";
const BAD_VALUE: &str = "a value cannot begin like this";

/// The deepest nesting that is accepted; ron's own limit is lower.
const DEPTH: usize = 256;

/// Quotation marks that editors and web pages write instead of `"`.
const CURLY: &str = "“”„‟«»‘’‚‛`´";

/// The index of a whole text.
pub(super) fn read(text: &str) -> Result<Index, Unreadable> {
    let mut reader = Reader { text, at: 0, depth: 0, index: Index::default() };
    reader.attributes()?;
    reader.value("")?;
    reader.space()?;
    match reader.at == text.len() {
        true => Ok(reader.index),
        false => Err(reader.unexpected("something follows the end of the value")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    index: Index,
}

type Read<T = ()> = Result<T, Unreadable>;

impl<'a> Reader<'a> {
    fn error(&self, what: &'static str) -> Unreadable {
        Unreadable { at: self.at, what, help: "" }
    }

    /// A better error for `#` used as a comment and for curly quotation marks; otherwise `what`.
    fn unexpected(&self, what: &'static str) -> Unreadable {
        match self.peek() {
            Some('#') => Unreadable { help: "write comments after `//`", ..self.error("`#` does not begin a comment") },
            Some(c) if CURLY.contains(c) => {
                Unreadable { help: "use straight ones, as in \"text\"", ..self.error("these are not the right quotes") }
            }
            _ => self.error(what),
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, token: &str) -> bool {
        let taken = self.rest().starts_with(token);
        if taken {
            self.at += token.len();
        }
        taken
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Skips white space and comments; block comments nest.
    fn space(&mut self) -> Read {
        loop {
            self.take_while(|c| c.is_whitespace() || matches!(c, '\u{200e}' | '\u{200f}'));
            if self.take("//") {
                self.take_while(|c| c != '\n');
            } else if self.take("/*") {
                self.block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn block_comment(&mut self) -> Read {
        let mut open = 1;
        while open > 0 {
            if self.take("/*") {
                open += 1;
            } else if self.take("*/") {
                open -= 1;
            } else {
                self.at += self.peek().ok_or_else(|| self.error("a comment is not closed"))?.len_utf8();
            }
        }
        Ok(())
    }

    /// `#![enable(…)]`
    fn attributes(&mut self) -> Read {
        self.space()?;
        while self.rest().starts_with("#![") {
            let rest = self.rest();
            let end = rest.find(']').ok_or_else(|| self.error("an attribute is not closed"))?;
            self.at += end + 1;
            self.space()?;
        }
        Ok(())
    }

    /// Reads any value and indexes its children below `path`. Returns the number of bytes before the text of a string
    /// without escapes, or else 0.
    fn value(&mut self, path: &str) -> Read<usize> {
        self.space()?;
        match self.peek().ok_or_else(|| self.error(NO_VALUE))? {
            '(' => self.nested(path, Self::parenthesis).map(|()| 0),
            '[' => self.nested(path, Self::list).map(|()| 0),
            '{' => self.nested(path, Self::map).map(|()| 0),
            '"' => self.string(),
            '\'' => self.character(),
            c if CURLY.contains(c) => Err(self.unexpected("")),
            c if c.is_ascii_digit() || matches!(c, '+' | '-' | '.') => self.number().map(|()| 0),
            c if begins_name(c) => self.named(path),
            _ => Err(self.unexpected(BAD_VALUE)),
        }
    }

    fn nested(&mut self, path: &str, read: fn(&mut Self, &str) -> Read) -> Read {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.error("this is nested too deeply"));
        }
        let opened = self.at;
        self.at += 1;
        read(self, path).map_err(|unreadable| self.unclosed(opened, unreadable))?;
        self.depth -= 1;
        Ok(())
    }

    /// If brackets do not match, point at the opening one: that helps more than the place where the parser failed.
    fn unclosed(&mut self, opened: usize, unreadable: Unreadable) -> Unreadable {
        let (close, what, help) = match self.text.as_bytes()[opened] {
            b'(' => (')', "this `(` is not closed", "a `)` is missing"),
            b'[' => (']', "this `[` is not closed", "a `]` is missing"),
            _ => ('}', "this `{` is not closed", "a `}` is missing"),
        };
        let is_left_open = match self.peek() {
            None => true,
            Some(c) if ")]}".contains(c) => c != close,
            // A field's name in a list: the list should have ended before it.
            Some(':') => close == ']',
            Some(_) => close == ']' && self.field_name().is_ok_and(|name| name.is_some()),
        };
        match [NO_VALUE, NO_COMMA, BAD_VALUE].contains(&unreadable.what) && is_left_open {
            true => Unreadable { at: opened, what, help },
            false => unreadable,
        }
    }

    /// Reads a name and its content, or a string or character with a prefix.
    fn named(&mut self, path: &str) -> Read<usize> {
        let prefixed = |marks: &[&str]| marks.iter().any(|mark| self.rest().starts_with(mark));
        if prefixed(&["r\"", "r#\"", "r##", "br\"", "br#"]) {
            return self.raw_string();
        }
        if prefixed(&["b\"", "b'"]) {
            self.at += 1;
            if self.peek() == Some('"') {
                self.string()?
            } else {
                self.character()?
            };
            return Ok(0);
        }
        self.identifier();
        let end = self.at;
        self.space()?;
        if self.peek() == Some('(') {
            self.nested(path, Self::parenthesis)?;
        } else {
            self.at = end;
        }
        Ok(0)
    }

    fn identifier(&mut self) {
        self.take("r#");
        self.take_while(is_of_name);
    }

    /// Reads the content after `(`: named fields, elements, or nothing.
    fn parenthesis(&mut self, path: &str) -> Read {
        let mut position = 0;
        let first = self.index.entries.len();
        loop {
            self.space()?;
            if self.take(")") {
                break;
            }
            match self.field_name()? {
                Some(key) => {
                    let name = self.text[key.clone()].trim_start_matches("r#").to_string();
                    let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                    self.entry(path, key)?;
                }
                None => self.element(format!("{path}[{position}]"))?,
            }
            position += 1;
            self.separator(')')?;
        }
        if position == 1 {
            self.flatten(path, first);
        }
        Ok(())
    }

    /// A variant around one value, as in `Some(…)`, is not a level of its own. So its entry, which is the last one, is
    /// removed, and its children move up.
    fn flatten(&mut self, path: &str, first: usize) {
        let alone = format!("{path}[0]");
        if self.index.entries.pop_if(|entry| entry.path == alone).is_none() {
            return;
        }
        for entry in &mut self.index.entries[first..] {
            if let Some(below) = entry.path.strip_prefix(&alone) {
                let below = if path.is_empty() { below.trim_start_matches('.') } else { below };
                entry.path = format!("{path}{below}");
            }
        }
    }

    /// Reads `name :`. Anything else is not consumed.
    fn field_name(&mut self) -> Read<Option<Range<usize>>> {
        let start = self.at;
        if self.peek().is_some_and(begins_name) {
            self.identifier();
            let end = self.at;
            self.space()?;
            if self.take(":") {
                return Ok(Some(start..end));
            }
        }
        self.at = start;
        Ok(None)
    }

    /// Reads an element in parentheses. A bare name with something after it was meant to be a field.
    fn element(&mut self, path: String) -> Read {
        let start = self.at;
        self.entry(path, 0..0)?;
        let named = self.text[start..].starts_with(begins_name) && self.text[start..self.at].ends_with(is_of_name);
        let end = self.at;
        self.space()?;
        match self.peek() {
            None | Some(',' | ')') => Ok(()),
            Some(_) if named => Err(Unreadable { at: end, what: "a `:` is missing after a name", help: "" }),
            Some(_) => Ok(()),
        }
    }

    fn list(&mut self, path: &str) -> Read {
        let mut position = 0;
        loop {
            self.space()?;
            if self.take("]") {
                return Ok(());
            }
            self.entry(format!("{path}[{position}]"), 0..0)?;
            position += 1;
            self.separator(']')?;
        }
    }

    fn map(&mut self, path: &str) -> Read {
        let mut seen = HashSet::new();
        loop {
            self.space()?;
            if self.take("}") {
                return Ok(());
            }
            let start = self.at;
            let before = self.index.entries.len();
            self.value("")?;
            self.index.entries.truncate(before);
            let key = start..self.at;
            let name = key_name(&self.text[key.clone()]);
            if !seen.insert(name.clone()) {
                self.index.doubled.push(key.clone());
            }
            self.space()?;
            if !self.take(":") {
                return Err(self.error("a `:` is missing after a key"));
            }
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            self.entry(path, key)?;
            self.separator('}')?;
        }
    }

    fn entry(&mut self, path: String, key: Range<usize>) -> Read {
        self.space()?;
        let start = self.at;
        let plain = self.value(&path)?;
        self.index.entries.push(IndexEntry { path, key, value: start..self.at, plain });
        Ok(())
    }

    fn separator(&mut self, close: char) -> Read {
        self.space()?;
        match self.take(",") || self.peek() == Some(close) {
            true => Ok(()),
            false => Err(self.unexpected(NO_COMMA)),
        }
    }

    /// Reads from the first quote.
    fn string(&mut self) -> Read<usize> {
        let open = Unreadable { help: "a `\"` is missing", ..self.error("this text is not closed") };
        self.at += 1;
        let mut plain = 1;
        loop {
            match self.peek().ok_or_else(|| open.clone())? {
                '"' => break,
                '\\' => {
                    plain = 0;
                    self.at += 1;
                    self.at += self.peek().map_or(0, char::len_utf8);
                }
                c => self.at += c.len_utf8(),
            }
        }
        self.at += 1;
        Ok(plain)
    }

    fn raw_string(&mut self) -> Read<usize> {
        let start = self.at;
        self.take("b");
        self.take("r");
        let hashes = self.take_while(|c| c == '#');
        if !self.take("\"") {
            // An identifier such as `r#type`.
            self.at = start;
            self.identifier();
            return Ok(0);
        }
        let plain = self.at - start;
        let end = format!("\"{hashes}");
        let length =
            self.rest().find(&end).ok_or_else(|| Unreadable { at: start, ..self.error("this text is not closed") })?;
        self.at += length + end.len();
        Ok(plain)
    }

    fn character(&mut self) -> Read<usize> {
        self.at += 1;
        loop {
            match self.peek().ok_or_else(|| self.error("a character is not closed"))? {
                '\\' => {
                    self.at += 1;
                    self.at += self.peek().map_or(0, char::len_utf8);
                }
                '\'' if !self.rest().starts_with("''") => break,
                c => self.at += c.len_utf8(),
            }
        }
        self.at += 1;
        Ok(0)
    }

    fn number(&mut self) -> Read {
        self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-'));
        Ok(())
    }
}

/// Accepts more than RON does, which follows Unicode's tables.
fn begins_name(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic() || !c.is_ascii() && !c.is_whitespace()
}

fn is_of_name(c: char) -> bool {
    begins_name(c) || c.is_ascii_digit() || matches!(c, '.' | '+' | '-')
}

/// The same key can be spelled in several ways, as in `"A"`, `"\u{41}"` and `r"A"`.
fn key_name(written: &str) -> String {
    ron::from_str(written).unwrap_or_else(|_| written.into())
}
