//! Place: finds the position of a field in a manifest's text. The text is indexed only if there is a problem.

use std::cell::{Cell, OnceCell};
use std::ops::Range;

use crate::model::loading::index::Index;
use crate::model::loading::parse::{MOST_PROBLEMS, without_mark};
use crate::model::loading::problem::Problem;
use crate::model::loading::source::Source;

/// Finds fields in one source.
pub struct Locator<'a> {
    file: &'a str,
    folder: &'a str,
    text: &'a str,
    index: OnceCell<Option<Index>>,
    placed: Cell<usize>,
}

impl<'a> Locator<'a> {
    /// Locates fields in this source.
    pub fn new(source: &'a Source) -> Self {
        Locator {
            file: &source.file,
            folder: &source.folder,
            text: without_mark(source.text.as_deref().unwrap_or_default()),
            index: OnceCell::new(),
            placed: Cell::new(0),
        }
    }

    /// The folder of the manifest, for `${here}`.
    pub fn folder(&self) -> &str {
        self.folder
    }

    /// Adds problems that were found earlier to the count.
    pub fn after(self, problems: usize) -> Self {
        self.placed.set(problems);
        self
    }

    /// A problem at the field's value, or at its closest parent that is present in the text.
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        let index = self.index().filter(|_| !self.is_full());
        let span = index.and_then(|index| Some(index.closest(path)?.value.clone()));
        self.at(span, message).field(path)
    }

    /// A problem within the field's string; `span` is in bytes of that string.
    pub fn problem_within(&self, path: &str, span: Range<usize>, message: impl Into<String>) -> Problem {
        let index = self.index().filter(|_| !self.is_full());
        let entry = index.and_then(|index| index.find(path)).filter(|entry| entry.plain > 0);
        match entry {
            Some(entry) => {
                let start = entry.value.start + entry.plain;
                self.at(Some(start + span.start..start + span.end), message).field(path)
            }
            None => self.problem(path, message),
        }
    }

    /// Whether the limit of reported problems is reached. Without a limit, finding the place of every problem in a
    /// large broken file would take minutes.
    pub fn is_full(&self) -> bool {
        self.placed.get() >= MOST_PROBLEMS
    }

    fn at(&self, span: Option<Range<usize>>, message: impl Into<String>) -> Problem {
        self.placed.set(self.placed.get() + 1);
        match span {
            Some(span) => Problem::at(self.file, self.text, span, message),
            None => Problem::whole(self.file, message),
        }
    }

    fn index(&self) -> Option<&Index> {
        self.index.get_or_init(|| Index::of(self.text).ok()).as_ref()
    }
}
