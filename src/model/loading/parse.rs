//! Turns a file's text into a manifest, or into all mistakes of form. RON stops at the first mistake. So each mistake
//! is blanked out in place and the rest is read again, to report all of them at once.

use std::collections::HashSet;
use std::ops::Range;

use ron::error::{Error, SpannedError};
use ron::extensions::Extensions;
use serde::de::DeserializeOwned;

use crate::model::loading::foreign;
use crate::model::loading::index::{Index, IndexEntry, Unreadable};
use crate::model::loading::problem::Problem;
use crate::model::manifest::Manifest;
use crate::model::manifest::workspace::WorkspaceForm;
use crate::model::spelling::closest;

mod words;

/// The largest file that is accepted as a manifest.
pub const MOST_BYTES: usize = 1 << 20;
/// The deepest nesting that is accepted.
const DEPTH: usize = 64;
/// The most mistakes that are reported for one file.
pub const MOST_PROBLEMS: usize = 20;

/// The form of one file, in RON.
pub trait FileForm: DeserializeOwned {
    /// A sentence with the smallest such file, for people whose file is empty or in another format.
    const SMALLEST: &str;
}

impl FileForm for Manifest {
    const SMALLEST: &str = "the smallest manifest is App(command: \"/usr/bin/xterm\")";
}

impl FileForm for WorkspaceForm {
    const SMALLEST: &str = "the smallest one is Workspace()";
}

/// Reads one file. If there are problems, there is no value. Positions are the ones that an editor shows.
pub fn parse<T: FileForm>(file: &str, text: &str) -> Result<T, Vec<Problem>> {
    let Read { value, problems } = read(file, text);
    value.filter(|_| problems.is_empty()).ok_or(problems)
}

/// The result of reading one file, as complete as possible.
pub struct Read<T> {
    /// The value without the fields that have mistakes; `None` if they cannot be left out.
    pub value: Option<T>,
    /// The mistakes of form.
    pub problems: Vec<Problem>,
}

/// Reads as much of one file as can be read.
pub fn read<T: FileForm>(file: &str, text: &str) -> Read<T> {
    if text.len() > MOST_BYTES {
        let problem = Problem::whole(file, "the file is larger than 1 MiB")
            .help("nothing that is written by hand is that large; is this the right file?");
        return Read { value: None, problems: vec![problem] };
    }
    let text = without_mark(text);
    if let Some(problem) = other_format(file, text, T::SMALLEST) {
        return Read { value: None, problems: vec![problem] };
    }
    let form = Form { file, text, index: Index::of(text) };
    let mut problems = [form.doubled_keys(), form.wrong_names()].concat();
    let mut rest = text.to_string();
    // Fields that are not reported as missing: they were blanked out here, or written with a wrong name.
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

/// The problem with a file that is empty or in another format.
fn other_format(file: &str, text: &str, smallest: &str) -> Option<Problem> {
    if foreign::is_empty(text) {
        return Some(Problem::whole(file, "the file is empty").help(smallest));
    }
    let format = foreign::format(text)?;
    let at = text.len() - text.trim_start().len();
    Some(Problem::at(file, text, at..at + 1, format!("this seems to be {format}; it must be RON")).help(smallest))
}

/// Removes the byte order mark, which some editors write but do not show.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn options() -> ron::Options {
    ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME).with_recursion_limit(DEPTH)
}

/// One file's text and the positions of its fields. Blanking moves nothing, so the positions stay valid.
struct Form<'a> {
    file: &'a str,
    text: &'a str,
    index: Result<Index, Unreadable>,
}

/// One of RON's errors in plain words.
struct Mistake {
    span: Range<usize>,
    path: String,
    message: String,
    help: String,
    /// The path of the required field that is missing.
    missing: Option<String>,
    /// The path of the field that was probably meant by an unknown name.
    meant: Option<String>,
    /// The range to blank out so that the rest can be read; `None` if that would be everything.
    blank: Option<Range<usize>>,
}

impl Form<'_> {
    /// RON silently uses the last of them.
    fn doubled_keys(&self) -> Vec<Problem> {
        let Ok(index) = &self.index else { return Vec::new() };
        let problem = |key: &Range<usize>| {
            let name = &self.text[key.clone()];
            let path = index.around(key.start).map(|entry| entry.path.clone()).unwrap_or_default();
            self.at(key.clone(), format!("the key {name} is written twice")).field(path).help("keep one of them")
        };
        index.doubled.iter().take(MOST_PROBLEMS).map(problem).collect()
    }

    /// RON accepts any name for a struct that may also be written as a text.
    fn wrong_names(&self) -> Vec<Problem> {
        let Ok(index) = &self.index else { return Vec::new() };
        let problem = |entry: &IndexEntry| {
            let right = words::beside_text(&entry.path).filter(|_| entry.path.ends_with(']'))?;
            let value = &self.text[entry.value.clone()];
            let (name, rest) = value.split_at(value.find(|c: char| !c.is_alphanumeric() && c != '_')?);
            let is_wrong = rest.trim_start().starts_with('(') && !name.is_empty() && name != right;
            let (message, help) = words::wrong_struct(name, right);
            let span = entry.value.start..entry.value.start + name.len();
            is_wrong.then(|| self.at(span, message).field(&entry.path).help(help))
        };
        index.entries().iter().filter_map(problem).take(MOST_PROBLEMS).collect()
    }

    fn at(&self, span: Range<usize>, message: String) -> Problem {
        Problem::at(self.file, self.text, span, message)
    }

    fn problem(&self, mistake: &Mistake) -> Problem {
        let path = mistake.missing.as_ref().unwrap_or(&mistake.path);
        self.at(mistake.span.clone(), mistake.message.clone()).field(path).help(mistake.help.clone())
    }

    /// `rest` is the text in which RON found the error.
    fn mistake(&self, error: &SpannedError, rest: &str) -> Mistake {
        // For brackets and commas, the place where the index stopped helps more than RON's message.
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

    /// RON reads a text in single quotes as one character.
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

    /// If an element in parentheses is written where fields belong, its parent has the wrong form.
    fn lifted<'e>(&self, entry: &'e IndexEntry, index: &'e Index) -> &'e IndexEntry {
        let above = entry.path.strip_suffix(']').and_then(|path| path.rsplit_once('[')).map(|(above, _)| above);
        let above = above.and_then(|path| index.find(path));
        above.filter(|above| !self.text[above.value.clone()].starts_with('[')).unwrap_or(entry)
    }
}

impl Mistake {
    /// A mistake outside of any field.
    fn nowhere(at: usize) -> Self {
        let (path, message, help) = Default::default();
        Mistake { span: at..at + 1, path, message, help, missing: None, meant: None, blank: None }
    }
}

/// A mistake in this field; the field is blanked out.
fn about(error: &SpannedError, span: Range<usize>, entry: Option<&IndexEntry>) -> Mistake {
    let path = entry.map(|entry| entry.path.clone()).unwrap_or_default();
    let (message, help) = words::words(&error.code, &path);
    Mistake { span, path, message, help, missing: None, meant: None, blank: entry.map(IndexEntry::whole) }
}

/// A field is missing in this value; the whole value is blanked out.
fn missing(error: &SpannedError, span: Range<usize>, holder: Option<&IndexEntry>, field: &str) -> Mistake {
    let mistake = about(error, span, holder);
    let path = if mistake.path.is_empty() { field.into() } else { format!("{}.{field}", mistake.path) };
    let span = holder.map_or(mistake.span, |holder| holder.value.clone());
    Mistake { missing: Some(path), span, ..mistake }
}

fn sibling(path: &str, name: &str) -> String {
    path.rsplit_once('.').map_or_else(|| name.into(), |(parent, _)| format!("{parent}.{name}"))
}

/// For these errors, RON's span is only the variant's name, and the name is what is wrong.
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

/// Blanks out a range and the comma after it; every other byte keeps its place. Returns whether anything was removed.
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
