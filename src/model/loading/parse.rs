//! From a file's text to a manifest, or to all that is wrong with its form. RON stops at the first mistake;
//! each is blanked out where it stands and the rest is read again, so that a person sees them all at once.

use std::collections::HashSet;
use std::ops::Range;

use ron::error::{Error, SpannedError};
use ron::extensions::Extensions;
use serde::de::DeserializeOwned;

use crate::model::loading::foreign;
use crate::model::loading::index::{Entry, Index, Unreadable};
use crate::model::loading::problem::Problem;
use crate::model::spelling::closest;

mod words;

/// A larger file is no manifest.
pub const MOST_BYTES: usize = 1 << 20;
/// Nesting beyond this is refused.
const DEPTH: usize = 64;
/// So many mistakes are told of one file.
pub const MOST_PROBLEMS: usize = 20;

/// Reads one file. With problems there is no value; positions are those an editor shows.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Vec<Problem>> {
    let Read { value, problems } = read(file, text);
    value.filter(|_| problems.is_empty()).ok_or(problems)
}

/// One file as far as it could be read.
pub struct Read<T> {
    /// Without the fields that have mistakes; `None` when they cannot be left out.
    pub value: Option<T>,
    /// What is wrong with its form.
    pub problems: Vec<Problem>,
}

/// Reads as much of one file as can be read.
pub fn read<T: DeserializeOwned>(file: &str, text: &str) -> Read<T> {
    if text.len() > MOST_BYTES {
        let problem = Problem::whole(file, "the file is larger than 1 MiB").help("no manifest is: is it another file?");
        return Read { value: None, problems: vec![problem] };
    }
    let text = without_mark(text);
    if let Some(problem) = no_manifest(file, text) {
        return Read { value: None, problems: vec![problem] };
    }
    let form = Form { file, text, index: Index::of(text) };
    let mut problems = form.doubled_keys();
    let mut rest = text.to_string();
    // Whose absence is not the person's mistake: blanked here, or written with another name.
    let mut excused = HashSet::new();
    let mut value = None;
    while problems.len() < MOST_PROBLEMS {
        let error = match options().from_str::<T>(&rest) {
            Ok(read) => {
                value = Some(read);
                break;
            }
            Err(error) => error,
        };
        let mistake = form.mistake(&error, &rest);
        if !mistake.missing.as_ref().is_some_and(|field| excused.contains(field)) {
            problems.push(form.problem(&mistake));
        }
        excused.extend(mistake.meant);
        let Some(blanked) = mistake.blank else { break };
        excused.insert(mistake.path);
        if !cut(&mut rest, blanked) {
            break;
        }
    }
    problems.sort_by_key(|problem| (problem.line, problem.column));
    problems.dedup();
    Read { value, problems }
}

/// A file of another format, or of none.
fn no_manifest(file: &str, text: &str) -> Option<Problem> {
    const SMALLEST: &str = "the smallest manifest is App(command: \"/usr/bin/xterm\")";
    if foreign::is_empty(text) {
        return Some(Problem::whole(file, "the file is empty").help(SMALLEST));
    }
    let format = foreign::format(text)?;
    let at = text.len() - text.trim_start().len();
    Some(Problem::at(file, text, at..at + 1, format!("this seems to be {format}; a manifest is RON")).help(SMALLEST))
}

/// Some editors write a byte order mark and show none.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn options() -> ron::Options {
    ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME).with_recursion_limit(DEPTH)
}

/// One file's text and where its fields stand. Blanking moves nothing, so this stays true of what is left.
struct Form<'a> {
    file: &'a str,
    text: &'a str,
    index: Result<Index, Unreadable>,
}

/// One of RON's errors in our words.
struct Mistake {
    span: Range<usize>,
    path: String,
    message: String,
    help: String,
    /// The path of the required field that is not there.
    missing: Option<String>,
    /// The path of the field that an unknown name was meant to be.
    meant: Option<String>,
    /// What to take out so that the rest can be read; nothing when it is everything.
    blank: Option<Range<usize>>,
}

impl Form<'_> {
    /// RON takes the last of them without a word.
    fn doubled_keys(&self) -> Vec<Problem> {
        let Ok(index) = &self.index else { return Vec::new() };
        let problem = |key: &Range<usize>| {
            let name = &self.text[key.clone()];
            let path = index.around(key.start).map(|entry| entry.path.clone()).unwrap_or_default();
            self.at(key.clone(), format!("the key {name} is written twice")).field(path).help("keep one of them")
        };
        index.doubled.iter().take(MOST_PROBLEMS).map(problem).collect()
    }

    fn at(&self, span: Range<usize>, message: String) -> Problem {
        Problem::at(self.file, self.text, span, message)
    }

    fn problem(&self, mistake: &Mistake) -> Problem {
        let path = mistake.missing.as_ref().unwrap_or(&mistake.path);
        self.at(mistake.span.clone(), mistake.message.clone()).field(path).help(mistake.help.clone())
    }

    /// `rest`: the text in which RON found the error.
    fn mistake(&self, error: &SpannedError, rest: &str) -> Mistake {
        // What RON says of brackets and commas is true, but where the text stops making sense says more.
        let index = match &self.index {
            Ok(index) => index,
            Err(unreadable) => return self.unreadable(unreadable),
        };
        let span = bytes(rest, error);
        match &error.code {
            Error::MissingStructField { field, .. } => missing(error, span.clone(), index.holding(span.start), field),
            Error::NoSuchStructField { expected, found, .. } => {
                let entry = index.around(span.start);
                let meant = closest(found, expected.iter().copied());
                let meant = meant.zip(entry).map(|(meant, entry)| sibling(&entry.path, meant));
                Mistake { meant, ..about(error, span, entry) }
            }
            Error::DuplicateStructField { .. } => about(error, span.clone(), index.around(span.start)),
            _ => {
                let entry = index.around(span.start).map(|entry| self.lifted(entry, index));
                let whole = entry.filter(|entry| !is_variant(&error.code) && !entry.key.contains(&span.start));
                let mistake = about(error, whole.map_or(span, |entry| entry.value.clone()), entry);
                self.requoted(mistake)
            }
        }
    }

    /// A text in single quotes is one character to RON.
    fn requoted(&self, mistake: Mistake) -> Mistake {
        match self.text.get(mistake.span.clone()).and_then(|text| text.strip_prefix('\'')?.strip_suffix('\'')) {
            Some(text) => {
                let message = "texts are written in double quotes".into();
                Mistake { message, help: format!("write \"{}\"", text.replace('"', "\\\"")), ..mistake }
            }
            None => mistake,
        }
    }

    fn unreadable(&self, unreadable: &Unreadable) -> Mistake {
        let Unreadable { at, what, help } = unreadable;
        Mistake { message: (*what).into(), help: (*help).into(), ..Mistake::nowhere(*at) }
    }

    /// An element in parentheses stands where fields should: what holds it has the wrong form.
    fn lifted<'e>(&self, entry: &'e Entry, index: &'e Index) -> &'e Entry {
        let above = entry.path.strip_suffix(']').and_then(|path| path.rsplit_once('[')).map(|(above, _)| above);
        let above = above.and_then(|path| index.find(path));
        above.filter(|above| !self.text[above.value.clone()].starts_with('[')).unwrap_or(entry)
    }
}

impl Mistake {
    /// One that is in no field.
    fn nowhere(at: usize) -> Self {
        let (path, message, help) = Default::default();
        Mistake { span: at..at + 1, path, message, help, missing: None, meant: None, blank: None }
    }
}

/// A mistake in this field; the field is what has to go.
fn about(error: &SpannedError, span: Range<usize>, entry: Option<&Entry>) -> Mistake {
    let path = entry.map(|entry| entry.path.clone()).unwrap_or_default();
    let (message, help) = words::words(&error.code, &path);
    Mistake { span, path, message, help, missing: None, meant: None, blank: entry.map(Entry::whole) }
}

/// A field is missing in this value; the whole value has to go.
fn missing(error: &SpannedError, span: Range<usize>, holder: Option<&Entry>, field: &str) -> Mistake {
    let mistake = about(error, span, holder);
    let path = if mistake.path.is_empty() { field.into() } else { format!("{}.{field}", mistake.path) };
    let span = holder.map_or(mistake.span, |holder| holder.value.clone());
    Mistake { missing: Some(path), span, ..mistake }
}

fn sibling(path: &str, name: &str) -> String {
    path.rsplit_once('.').map_or_else(|| name.into(), |(parent, _)| format!("{parent}.{name}"))
}

/// RON's span is the variant's name alone, and that is what is wrong.
fn is_variant(code: &Error) -> bool {
    matches!(code, Error::NoSuchEnumVariant { .. })
}

/// RON counts lines and characters from 1.
fn bytes(text: &str, error: &SpannedError) -> Range<usize> {
    let at = |line: usize, column: usize| {
        let start = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum::<usize>();
        let rest = &text[start.min(text.len())..];
        start + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(offset, _)| offset)
    };
    let start = at(error.span.start.line, error.span.start.col);
    start..at(error.span.end.line, error.span.end.col).max(start)
}

/// Blanks a range and the comma behind it, every other byte in its place. Whether anything went.
fn cut(text: &mut String, range: Range<usize>) -> bool {
    let rest = &text[range.end..];
    let comma = rest.find(|c: char| !c.is_whitespace()).filter(|at| rest[*at..].starts_with(','));
    let end = comma.map_or(range.end, |at| range.end + at + 1);
    if text[range.start..end].trim().is_empty() {
        return false;
    }
    let blank: String = text[range.start..end]
        .chars()
        .flat_map(|c| {
            let width = if c == '\n' { 0 } else { c.len_utf8() };
            std::iter::repeat_n(' ', width).chain((c == '\n').then_some('\n'))
        })
        .collect();
    text.replace_range(range.start..end, &blank);
    true
}

#[cfg(test)]
mod tests;
