//! From a file's text to a manifest, or to all that is wrong with its form. RON stops at the first mistake;
//! each is blanked out where it stands and the rest is read again, so that a person sees them all at once.

use std::ops::Range;

use ron::error::{Error, SpannedError};
use ron::extensions::Extensions;
use serde::de::DeserializeOwned;

use super::index::Index;
use super::problem::{Problem, closest};

/// A larger file is no manifest.
pub const MOST_BYTES: usize = 1 << 20;
/// Nesting beyond this is refused.
const DEPTH: usize = 64;
/// So many mistakes of form are told of one file.
const MOST_PROBLEMS: usize = 20;

/// Reads one file. With problems there is no value; positions are those of `text`.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Vec<Problem>> {
    if text.len() > MOST_BYTES {
        let message = format!("the file is {} bytes long", text.len());
        return Err(vec![Problem::whole(file, message).help("a manifest is 1 MiB at most")]);
    }
    let options = ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME).with_recursion_limit(DEPTH);
    let mut problems = doubled_keys(file, text);
    let mut rest = text.trim_start_matches('\u{feff}').to_string();
    let shift = text.len() - rest.len();
    let mut blanked: Vec<String> = Vec::new();
    while problems.len() < MOST_PROBLEMS {
        let error = match options.from_str::<T>(&rest) {
            Ok(value) if problems.is_empty() => return Ok(value),
            Ok(_) => break,
            Err(error) => error,
        };
        let mistake = Mistake::of(&error, &rest);
        let consequence = mistake.missing.as_ref().is_some_and(|field| blanked.contains(field));
        if !consequence {
            problems.push(mistake.problem(file, text, shift));
        }
        blanked.extend(mistake.meant.map(String::from));
        match blank(&mut rest, &mistake) {
            Some(field) if !consequence => blanked.push(field),
            _ => break,
        }
    }
    problems.sort_by_key(|problem| (problem.line, problem.column));
    problems.dedup();
    Err(problems)
}

/// RON takes the last of them without a word.
fn doubled_keys(file: &str, text: &str) -> Vec<Problem> {
    let Ok(index) = Index::of(text.trim_start_matches('\u{feff}')) else { return Vec::new() };
    let shift = text.len() - text.trim_start_matches('\u{feff}').len();
    let problem = |key: &Range<usize>| {
        let span = key.start + shift..key.end + shift;
        let name = &text[span.clone()];
        Problem::at(file, text, span.clone(), format!("the key {name} is written twice")).help("keep one of them")
    };
    index.doubled.iter().map(problem).collect()
}

/// One of RON's errors in our words.
struct Mistake {
    span: Range<usize>,
    path: String,
    message: String,
    help: String,
    /// The required field that is not there.
    missing: Option<String>,
    /// The field that an unknown name was meant to be.
    meant: Option<&'static str>,
}

impl Mistake {
    fn of(error: &SpannedError, text: &str) -> Mistake {
        let span = bytes(text, error);
        let index = Index::of(text);
        let path =
            index.as_ref().ok().and_then(|index| Some(index.around(span.start)?.path.clone())).unwrap_or_default();
        let (message, help) = words(&error.code, &path);
        let about_the_key = matches!(
            error.code,
            Error::NoSuchStructField { .. } | Error::NoSuchEnumVariant { .. } | Error::DuplicateStructField { .. }
        );
        let value = index.as_ref().ok().and_then(|index| Some(index.around(span.start)?.value.clone()));
        let span = value.filter(|_| !about_the_key).unwrap_or(span);
        // Whoever mistyped a name did not forget it.
        let meant = match &error.code {
            Error::NoSuchStructField { expected, found, .. } => closest(found, expected.iter().copied()),
            _ => None,
        };
        let missing = match &error.code {
            Error::MissingStructField { field, .. } => Some(field.to_string()),
            _ => None,
        };
        // What RON says of brackets and commas is true, but where the text stops making sense says more.
        match index {
            Err(unreadable) => Mistake {
                span: unreadable.at..unreadable.at + 1,
                path,
                message: unreadable.what.into(),
                help: String::new(),
                missing,
                meant,
            },
            _ => Mistake { span, path, message, help, missing, meant },
        }
    }

    fn problem(&self, file: &str, text: &str, shift: usize) -> Problem {
        let span = self.span.start + shift..self.span.end + shift;
        let path = match &self.missing {
            Some(field) if self.path.is_empty() => field.clone(),
            Some(field) => format!("{}.{field}", self.path),
            None => self.path.clone(),
        };
        Problem::at(file, text, span, self.message.clone()).field(path).help(self.help.clone())
    }
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

fn words(code: &Error, path: &str) -> (String, String) {
    let suggest = |found: &str, expected: &[&'static str], what: &str| {
        let near = closest(found, expected.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        near.unwrap_or_else(|| format!("{what} {}", expected.join(", ")))
    };
    match code {
        Error::NoSuchStructField { expected, found, outer } => {
            let of = outer.as_ref().map_or_else(String::new, |outer| format!(" of `{outer}`"));
            (format!("there is no field `{found}`{of}"), suggest(found, expected, "the fields are"))
        }
        Error::NoSuchEnumVariant { expected, found, .. } => {
            (format!("there is no `{found}` here"), suggest(found, expected, "it takes"))
        }
        Error::MissingStructField { field, outer } => {
            let of = outer.as_ref().map_or_else(String::new, |outer| format!(" of `{outer}`"));
            (format!("the field `{field}`{of} is missing"), format!("write `{field}: …`"))
        }
        Error::DuplicateStructField { field, .. } => {
            (format!("the field `{field}` is written twice"), "keep one of them".into())
        }
        Error::InvalidValueForType { expected, found } => {
            (format!("this is {}, where {} belongs", plain(found), plain(expected)), example(path))
        }
        Error::ExpectedDifferentStructName { expected, found } => {
            (format!("this is `{found}`, where `{expected}` belongs"), format!("write `{expected}(…)`"))
        }
        Error::ExpectedString => ("a text in quotes belongs here".into(), example(path)),
        Error::ExpectedArray => ("a list `[…]` belongs here".into(), example(path)),
        Error::ExpectedMap => ("a map `{…}` belongs here".into(), example(path)),
        Error::ExpectedBoolean => ("`true` or `false` belongs here".into(), String::new()),
        Error::ExpectedInteger | Error::ExpectedFloat => ("a number belongs here".into(), String::new()),
        Error::ExpectedNamedStructLike(name) => {
            (format!("fields in parentheses, `{name}(field: …)`, belong here"), String::new())
        }
        Error::ExpectedStructLike | Error::ExpectedStructLikeEnd => {
            ("fields in parentheses, `(field: …)`, belong here".into(), String::new())
        }
        Error::ExceededRecursionLimit => ("this is nested too deeply".into(), format!("{DEPTH} levels are the most")),
        Error::Message(text) => (text.clone(), String::new()),
        other => (other.to_string(), String::new()),
    }
}

/// Rust's words in a person's.
fn plain(words: &str) -> String {
    words
        .replace("the string", "the text")
        .replace("the floating point number", "the number")
        .replace("the unsigned integer", "the number")
        .replace("the signed integer", "the number")
        .replace("the integer", "the number")
        .replace("a string", "a text in quotes")
        .replace("a sequence", "a list `[…]`")
        .replace("a map", "a map `{…}`")
        .replace("the boolean", "the truth value")
}

/// How a field of this name is written, where its type alone does not tell.
fn example(path: &str) -> String {
    let field = path.rsplit('.').next().unwrap_or(path);
    let text = match field {
        "first" | "max" | "stable_after" | "within" | "timeout" | "every" | "grace" | "stop_budget" => {
            "as in \"3s\" or \"500ms\""
        }
        "max_size" | "max_rss" => "as in \"10MiB\"",
        "args" | "after" | "argv" | "env_secret" | "env_hidden" | "args_last" | "args_kept" => {
            "as in [\"one\", \"two\"]"
        }
        "env" | "vars" => "as in {\"NAME\": \"value\"}",
        _ => "",
    };
    text.into()
}

/// Takes the field with the mistake out of the text, every byte in its place. Its path; `None` when there is
/// nothing that could be taken out.
fn blank(text: &mut String, mistake: &Mistake) -> Option<String> {
    let index = Index::of(text).ok()?;
    let entry = index.around(mistake.span.start)?;
    if mistake.missing.is_some() {
        // The whole value that lacks it goes.
        return cut(text, entry.whole()).then(|| entry.path.clone());
    }
    let path = entry.path.clone();
    let last = path.rsplit('.').next().unwrap_or(&path).to_string();
    cut(text, entry.whole()).then_some(last)
}

/// Blanks a range and the comma behind it.
fn cut(text: &mut String, range: Range<usize>) -> bool {
    let rest = &text[range.end..];
    let comma = rest.find(|c: char| !c.is_whitespace()).filter(|at| rest[*at..].starts_with(','));
    let end = comma.map_or(range.end, |at| range.end + at + 1);
    if range.is_empty() {
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
mod tests {
    use super::*;
    use crate::model::manifest::Manifest;
    use proptest::prelude::*;

    fn said(text: &str) -> Vec<String> {
        parse::<Manifest>("a.ron", text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mistakes_of_form_are_said_with_their_way_out() {
        let table = [
            ("App(comand: \"x\")", "1:5: there is no field `comand` of `App` (`comand`): did you mean `command`?"),
            (
                "App(command: \"x\", backof: Backoff())",
                "1:19: there is no field `backof` of `App` (`backof`): did you mean `backoff`?",
            ),
            (
                "App(command: \"x\", restart: Alway)",
                "1:28: there is no `Alway` here (`restart`): did you mean `Always`?",
            ),
            ("App(command: \"x\", args: \"a\")", "1:25: a list `[…]` belongs here (`args`): as in [\"one\", \"two\"]"),
            ("App(command: 3)", "1:14: a text in quotes belongs here (`command`)"),
            ("App()", "1:5: the field `command` of `App` is missing (`command`): write `command: …`"),
            (
                "App(command: \"x\", command: \"y\")",
                "1:19: the field `command` is written twice (`command`): keep one of them",
            ),
            (
                "App(command: \"x\", env: {\"A\": \"1\", \"A\": \"2\"})",
                "1:35: the key \"A\" is written twice: keep one of them",
            ),
            (
                "App(command: \"x\", backoff: Backoff(first: \"3\"))",
                "1:43: `3` is not a duration (time unit needed, for example 3sec or 3ms): write a number and a unit, as in \"500ms\", \"3s\" or \"1m 30s\" (`backoff.first`)",
            ),
            (
                "App(command: \"x\", prelaunch: [MakDir(path: \"x\")])",
                "1:31: there is no `MakDir` here (`prelaunch[0]`): did you mean `MakeDir`?",
            ),
            (
                "App(command: \"x\", prelaunch: [MakeDir()])",
                "1:31: the field `path` of `MakeDir` is missing (`prelaunch[0].path`): write `path: …`",
            ),
            ("Ap(command: \"x\")", "1:1: this is `Ap`, where `App` belongs: write `App(…)`"),
            ("App(command: \"x\" args: [])", "1:18: a `,` is missing"),
            ("App(command: \"x\"", "1:17: the text ends before a bracket is closed"),
            ("", "1:1: a value is missing"),
            ("{\"command\": \"x\"}", "1:1: fields in parentheses, `App(field: …)`, belong here"),
        ];
        for (text, wanted) in table {
            assert_eq!(said(text), [format!("a.ron:{wanted}")], "{text}");
        }
    }

    #[test]
    fn a_byte_order_mark_moves_nothing() {
        assert!(said("\u{feff}App(command: \"x\")").is_empty());
        assert_eq!(said("\u{feff}App(command: 3)")[0], "a.ron:1:15: a text in quotes belongs here (`command`)");
    }

    proptest! {
        #[test]
        fn what_serialises_parses_back(args in proptest::collection::vec(".*", 0..4), about in ".*") {
            let manifest = Manifest { args, about, ..Manifest::new("/usr/bin/x") };
            let text = ron::ser::to_string_pretty(&manifest, ron::ser::PrettyConfig::new().struct_names(true)).unwrap();
            prop_assert_eq!(parse::<Manifest>("a.ron", &text), Ok(manifest), "{}", text);
        }
    }
}
