//! Edits a JSON object inside its text, and leaves every other byte as it is.
//!
//! The text is parsed only to find positions, and the edits are spliced into the original bytes. So numbers,
//! escapes, comments, order and layout survive, because they are never rewritten. Input that the parser cannot
//! handle (unpaired surrogates, deep nesting, bytes that are not UTF-8) is replaced by a mask of the same length
//! before parsing.

use std::collections::BTreeMap;
use std::ops::Range;

use jsonc_parser::ast::{Object, ObjectProp, Value as Node};
use jsonc_parser::common::Ranged;
use jsonc_parser::tokens::{Token, TokenAndRange};
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value};

/// Keys and values, as in a manifest.
pub type Keys = BTreeMap<String, Value>;

/// Why a text cannot be edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotEditable {
    /// Not JSON, even with comments and trailing commas allowed.
    #[error("was not JSON")]
    NotJson,
    /// JSON, but its outermost value has no keys.
    #[error("was not an object")]
    NotAnObject,
}

/// Sets each key of `set`, and each key of `default` that is absent. Objects are merged key by key. Returns `None` if
/// nothing has to change.
pub fn merge(text: &[u8], set: &Keys, default: &Keys) -> Result<Option<Vec<u8>>, NotEditable> {
    let masked = mask(text)?;
    let collect = CollectOptions { comments: CommentCollectionStrategy::AsTokens, tokens: true };
    // Allow everything except missing commas: such a file was cut off or mixed up, and its reader rejects it.
    let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
    let parsed = parse_to_ast(&masked, &collect, &options).map_err(|_| NotEditable::NotJson)?;
    let object = match &parsed.value {
        Some(Node::Object(object)) => object,
        Some(_) => return Err(NotEditable::NotAnObject),
        None => return Err(NotEditable::NotJson),
    };
    let mut editor = Editor { text, tokens: parsed.tokens.as_deref().unwrap_or_default(), edits: Vec::new() };
    editor.object(object, &as_map(set), &as_map(default), &Layout::root(text));
    Ok((!editor.edits.is_empty()).then(|| editor.apply()))
}

/// The text of a new file.
pub fn fresh(set: &Keys, default: &Keys) -> String {
    render(&with_defaults(as_map(set), &as_map(default)), &Layout::root(b""))
}

fn as_map(keys: &Keys) -> Map<String, Value> {
    keys.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn with_defaults(mut object: Map<String, Value>, default: &Map<String, Value>) -> Value {
    for (key, default) in default {
        let value = match (object.get_mut(key).map(Value::take), default) {
            (None, default) => default.clone(),
            (Some(Value::Object(inner)), Value::Object(default)) => with_defaults(inner, default),
            (Some(value), _) => value,
        };
        object.insert(key.clone(), value);
    }
    Value::Object(object)
}

struct Editor<'a> {
    text: &'a [u8],
    tokens: &'a [TokenAndRange<'a>],
    edits: Vec<(Range<usize>, String)>,
}

impl Editor<'_> {
    fn object(&mut self, object: &Object<'_>, set: &Map<String, Value>, default: &Map<String, Value>, outer: &Layout) {
        let layout = self.layout(object, outer);
        let none = Map::new();
        let below = |keys: &Map<String, Value>, key: &str| keys.get(key).and_then(Value::as_object).cloned();
        let Value::Object(wanted) = with_defaults(set.clone(), default) else { return };
        let mut added = Map::new();
        for (key, wanted) in wanted {
            let found = find(object, &key).map(|member| &member.value);
            match (found, below(set, &key), below(default, &key)) {
                (None, ..) => drop(added.insert(key, wanted)),
                (Some(Node::Object(inner)), Some(set), default) => {
                    self.object(inner, &set, default.as_ref().unwrap_or(&none), &layout);
                }
                (Some(Node::Object(inner)), None, Some(default)) if !set.contains_key(&key) => {
                    self.object(inner, &none, &default, &layout);
                }
                (Some(found), ..) if set.contains_key(&key) && !self.is(found, &wanted) => {
                    self.edits.push((range(found), render(&wanted, &layout)));
                }
                (Some(_), ..) => {}
            }
        }
        self.add(object, &added, &layout);
    }

    /// Whether the value is already equal to this, in any spelling.
    fn is(&self, found: &Node<'_>, wanted: &Value) -> bool {
        let Ok(found) = serde_json::from_slice::<Value>(&self.text[range(found)]) else { return false };
        match (&found, wanted) {
            (Value::Number(found), Value::Number(wanted)) if found.is_f64() || wanted.is_f64() => {
                found.as_f64() == wanted.as_f64()
            }
            _ => found == *wanted,
        }
    }

    /// Adds new members after the last one.
    fn add(&mut self, object: &Object<'_>, added: &Map<String, Value>, layout: &Layout) {
        if added.is_empty() {
            return;
        }
        let close = range(object).end - 1;
        let mut separator = "";
        let mut trailing_comma = false;
        if let Some(last) = object.properties.last() {
            let end = range(last).end;
            trailing_comma = self.next_token(end).is_some_and(|token| matches!(token.token, Token::Comma));
            if !trailing_comma {
                self.edits.push((end..end, ",".into()));
            }
            separator = layout.gap();
        }
        // Insert after comments, because a comment belongs to the member before it.
        let at = range(object).start + 1 + trimmed(&self.text[range(object).start + 1..close]);
        let mut text = String::new();
        for (i, (key, value)) in added.iter().enumerate() {
            match &layout.lines {
                Some(lines) => text += &format!("{}{}", lines.newline, lines.indent),
                None => text += if i == 0 { separator } else { layout.gap() },
            }
            text += &format!("{}{}{}", Value::from(key.as_str()), layout.colon, render(value, layout));
            if i + 1 < added.len() || trailing_comma {
                text.push(',');
            }
        }
        if let Some(lines) = layout.lines.as_ref().filter(|_| !self.text[at..close].contains(&b'\n')) {
            text += &format!("{}{}", lines.newline, lines.outer_indent);
        }
        self.edits.push((at..at, text));
    }

    fn next_token(&self, from: usize) -> Option<&TokenAndRange<'_>> {
        let first = self.tokens.partition_point(|token| token.range.start < from);
        let comment =
            |token: &&TokenAndRange<'_>| matches!(token.token, Token::CommentLine(_) | Token::CommentBlock(_));
        self.tokens[first..].iter().find(|token| !comment(token))
    }

    /// The layout of this object's members. An empty object uses the layout of the enclosing object.
    fn layout(&self, object: &Object<'_>, outer: &Layout) -> Layout {
        let open = range(object).start + 1;
        let Some(first) = object.properties.first() else {
            let layout = outer.inner();
            // Nothing may follow a line comment on the same line.
            let fits = layout.lines.is_some() || !self.text[range(object)].contains(&b'\n');
            return if fits { layout } else { Layout::default() };
        };
        let colon = &self.text[range(&first.name).end..range(&first.value).start];
        let plain = colon.iter().all(|byte| matches!(byte, b':' | b' '));
        let colon = if plain { String::from_utf8_lossy(colon).into_owned() } else { ": ".into() };
        let before = &self.text[open..range(first).start];
        let tail = &self.text[range(object.properties.last().unwrap_or(first)).end..range(object).end];
        let lines = match before.iter().rposition(|byte| *byte == b'\n') {
            Some(at) if before[at + 1..].iter().all(|byte| matches!(byte, b' ' | b'\t')) => {
                let indent = String::from_utf8_lossy(&before[at + 1..]).into_owned();
                let newline = if before[..at].ends_with(b"\r") { "\r\n" } else { "\n" };
                let outer_indent = outer.member_indent();
                let unit = indent.strip_prefix(&*outer_indent).filter(|unit| !unit.is_empty()).unwrap_or("  ").into();
                Some(Lines { newline, indent, outer_indent, unit })
            }
            // A line comment comes before the brace, so the new member needs its own line.
            None if !tail.contains(&b'\n') => None,
            _ => outer.inner().lines.or_else(|| Layout::default().lines),
        };
        Layout { lines, colon }
    }

    fn apply(mut self) -> Vec<u8> {
        self.edits.sort_by_key(|(range, _)| range.start); // stable: two edits at one place keep their order
        let mut edited = Vec::with_capacity(self.text.len() + 64);
        let mut done = 0;
        for (range, text) in self.edits {
            edited.extend_from_slice(&self.text[done..range.start]);
            edited.extend_from_slice(text.as_bytes());
            done = range.end;
        }
        edited.extend_from_slice(&self.text[done..]);
        edited
    }
}

/// If several members have the same name, the last one counts, as for every reader.
fn find<'a, 'b>(object: &'a Object<'b>, key: &str) -> Option<&'a ObjectProp<'b>> {
    object.properties.iter().rev().find(|member| member.name.as_str() == key)
}

fn range(node: &impl Ranged) -> Range<usize> {
    node.range().start..node.range().end
}

/// The length without trailing white space.
fn trimmed(bytes: &[u8]) -> usize {
    bytes.trim_ascii_end().len()
}

/// The layout of an object's members.
#[derive(Debug, Clone)]
struct Layout {
    /// `None` if all members are on one line.
    lines: Option<Lines>,
    colon: String,
}

#[derive(Debug, Clone)]
struct Lines {
    newline: &'static str,
    /// Before each member.
    indent: String,
    /// Before the closing brace.
    outer_indent: String,
    /// One level of nesting.
    unit: String,
}

impl Default for Layout {
    fn default() -> Self {
        let lines = Lines { newline: "\n", indent: "  ".into(), outer_indent: String::new(), unit: "  ".into() };
        Layout { lines: Some(lines), colon: ": ".into() }
    }
}

impl Layout {
    /// The layout around the outermost object of this text.
    fn root(text: &[u8]) -> Self {
        let newline = if text.windows(2).any(|two| two == b"\r\n") { "\r\n" } else { "\n" };
        let lines = Lines { newline, indent: String::new(), outer_indent: String::new(), unit: "  ".into() };
        Layout { lines: Some(lines), colon: ": ".into() }
    }

    /// The layout of an object that is one of these members.
    fn inner(&self) -> Self {
        let lines = self.lines.as_ref().map(|lines| Lines {
            indent: format!("{}{}", lines.indent, lines.unit),
            outer_indent: lines.indent.clone(),
            ..lines.clone()
        });
        Layout { lines, colon: self.colon.clone() }
    }

    fn member_indent(&self) -> String {
        self.lines.as_ref().map(|lines| lines.indent.clone()).unwrap_or_default()
    }

    /// The space after the comma between two members on one line.
    fn gap(&self) -> &'static str {
        if self.colon.ends_with(' ') { " " } else { "" }
    }
}

/// Formats a value as a member of this layout.
fn render(value: &Value, layout: &Layout) -> String {
    let Some(lines) = &layout.lines else { return value.to_string() };
    let mut bytes = Vec::new();
    let pretty = PrettyFormatter::with_indent(lines.unit.as_bytes());
    let written = value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, pretty));
    debug_assert!(written.is_ok(), "a JSON value has a text: {written:?}");
    // Line breaks inside strings are escaped, so all of these are between values.
    String::from_utf8_lossy(&bytes).replace('\n', &format!("{}{}", lines.newline, lines.indent))
}

/// Deeper containers are only checked for matching brackets, because the parser recurses.
const DEEPEST: usize = 100;

/// The text for the parser, with every byte at its original position.
fn mask(text: &[u8]) -> Result<String, NotEditable> {
    let mut masked = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        masked.extend_from_slice(chunk.valid().as_bytes());
        masked.extend(chunk.invalid().iter().map(|_| b'?'));
    }
    if masked.starts_with("\u{feff}".as_bytes()) {
        masked[..3].fill(b' ');
    }
    let mut open = Vec::new();
    let mut at = 0;
    while at < masked.len() {
        let (start, deep) = (at, open.len() > DEEPEST);
        let mut hide = deep;
        match masked[at] {
            quote @ (b'"' | b'\'') => at = mask_string(&mut masked, at, quote),
            b'/' => at += comment(&masked[at..]),
            bracket @ (b'{' | b'[') => {
                open.push(bracket);
                hide = open.len() > DEEPEST + 1;
                at += 1;
            }
            bracket @ (b'}' | b']') => {
                if open.pop() != Some(if bracket == b'}' { b'{' } else { b'[' }) {
                    return Err(NotEditable::NotJson);
                }
                hide = open.len() > DEEPEST;
                at += 1;
            }
            _ => at += 1,
        }
        if hide {
            masked[start..at].fill(b' ');
        }
    }
    String::from_utf8(masked).map_err(|_| NotEditable::NotJson)
}

/// Hides unpaired surrogates in a string. Returns the position after the string.
fn mask_string(masked: &mut [u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < masked.len() {
        match masked[at] {
            b'\\' => match (surrogate(&masked[at..]), masked.get(at + 6..).and_then(surrogate)) {
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => at += 12,
                (Some(_), _) => {
                    masked[at..at + 6].copy_from_slice(b"\\uF8FF");
                    at += 6;
                }
                (None, _) => at += 2,
            },
            byte => {
                at += 1;
                if byte == quote {
                    break;
                }
            }
        }
    }
    at.min(masked.len())
}

/// The code of a `\uXXXX` escape in the surrogate range.
fn surrogate(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let code = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (0xD800..=0xDFFF).contains(&code).then_some(code)
}

/// The length of the comment that begins here; 1 for a slash that begins no comment.
fn comment(bytes: &[u8]) -> usize {
    let end = match bytes.get(1) {
        Some(b'/') => bytes.iter().position(|byte| *byte == b'\n'),
        Some(b'*') => bytes.windows(2).skip(2).position(|two| two == b"*/").map(|at| at + 4),
        _ => Some(1),
    };
    end.unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests;
