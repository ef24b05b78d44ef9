//! Place: where in a manifest's text a field stands. The text is indexed only when there is a problem to
//! place.

use std::cell::OnceCell;
use std::ops::Range;

use super::index::Index;
use super::problem::Problem;
use super::source::Source;

pub struct Place<'a> {
    file: &'a str,
    text: &'a str,
    index: OnceCell<Option<Index>>,
}

impl<'a> Place<'a> {
    pub fn new(source: &'a Source) -> Self {
        Place { file: &source.file, text: source.text.as_deref().unwrap_or_default(), index: OnceCell::new() }
    }

    /// At the field's value, or at the nearest one above it that is written down.
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        let span = self.index().and_then(|index| Some(index.closest(path)?.value.clone()));
        self.at(span, message).field(path)
    }

    /// Within the field's string; `span` counts in the string's own bytes.
    pub fn problem_within(&self, path: &str, span: Range<usize>, message: impl Into<String>) -> Problem {
        let entry = self.index().and_then(|index| index.find(path)).filter(|entry| entry.plain > 0);
        match entry {
            Some(entry) => {
                let start = entry.value.start + entry.plain;
                self.at(Some(start + span.start..start + span.end), message).field(path)
            }
            None => self.problem(path, message),
        }
    }

    fn at(&self, span: Option<Range<usize>>, message: impl Into<String>) -> Problem {
        match span {
            Some(span) => Problem::at(self.file, self.text, span.start + self.mark()..span.end + self.mark(), message),
            None => Problem::whole(self.file, message),
        }
    }

    fn index(&self) -> Option<&Index> {
        self.index.get_or_init(|| Index::of(&self.text[self.mark()..]).ok()).as_ref()
    }

    /// Bytes of the byte order mark, which some editors write.
    fn mark(&self) -> usize {
        self.text.len() - self.text.trim_start_matches('\u{feff}').len()
    }
}
