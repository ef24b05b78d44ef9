//! Text that grows at its end, such as an app's output: the last lines, how far up it is scrolled, and a search.

use std::collections::VecDeque;

use crate::cli::print::plain_output;

/// Older lines are forgotten.
const MOST_LINES: usize = 5000;
/// A longer line is shown in parts, in bytes.
const LONGEST_LINE: usize = 16 << 10;

/// Lines of text, safe to show.
#[derive(Debug, Default)]
pub struct Scrollback {
    lines: VecDeque<String>,
    /// The bytes of the unfinished last line.
    rest: Vec<u8>,
    /// How many lines are below the last one on the screen; 0 shows what comes.
    below: usize,
    search: Option<String>,
    /// How many lines are below the one that was found last.
    found: Option<usize>,
}

impl Scrollback {
    pub fn with_search(search: Option<String>) -> Self {
        Scrollback { search, ..Scrollback::default() }
    }

    /// Forgets the text; keeps the search.
    pub fn clear(&mut self) {
        *self = Scrollback::with_search(self.search.take());
    }

    /// Adds output as it arrives, in pieces.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(part);
            if part.ends_with(b"\n") || self.rest.len() > LONGEST_LINE {
                let line = std::mem::take(&mut self.rest);
                self.push_line(plain_output(line.strip_suffix(b"\n").unwrap_or(&line)));
            }
        }
    }

    /// Adds a whole line, which must be safe to show.
    pub fn push_line(&mut self, line: String) {
        self.lines.push_back(line);
        // What is on the screen stays there while somebody reads further up.
        if self.below > 0 {
            self.below += 1;
        }
        self.found = self.found.map(|below| below + 1);
        if self.lines.len() > MOST_LINES {
            self.lines.pop_front();
            self.below = self.below.min(MOST_LINES - 1);
            self.found = self.found.filter(|below| *below < MOST_LINES);
        }
    }

    /// The lines on the screen and above it, last one first. A line that is not finished counts.
    pub fn upwards(&self) -> impl Iterator<Item = String> {
        let rest = Some(plain_output(&self.rest)).filter(|_| self.below == 0 && !self.rest.is_empty());
        rest.into_iter().chain(self.lines.iter().rev().skip(self.below).cloned())
    }

    /// How many lines are below the last one on the screen.
    pub fn below(&self) -> usize {
        self.below
    }

    /// Scrolls up by this many lines, or down if it is negative.
    pub fn scroll(&mut self, up: isize) {
        self.found = None;
        self.below = self.below.saturating_add_signed(up).min(self.lines.len().saturating_sub(1));
    }

    /// The text that is searched for.
    pub fn search(&self) -> Option<String> {
        self.search.clone()
    }

    pub fn search_for(&mut self, text: Option<String>) {
        self.search = text;
        self.found = None;
    }

    /// Scrolls to the next newer or older line that contains the searched text. Returns false if there is none.
    pub fn find(&mut self, newer: bool) -> bool {
        let Some(text) = &self.search else { return false };
        let contains = |below: &usize| !matches(&self.lines[self.lines.len() - 1 - below], text).is_empty();
        let found = match newer {
            true => (0..self.found.unwrap_or(self.below)).rev().find(contains),
            false => (self.found.map_or(self.below, |found| found + 1)..self.lines.len()).find(contains),
        };
        if let Some(found) = found {
            (self.below, self.found) = (found, Some(found));
        }
        found.is_some()
    }
}

/// Where `line` contains `text`, in bytes. Capital letters count only if `text` has some.
pub fn matches(line: &str, text: &str) -> Vec<std::ops::Range<usize>> {
    if text.is_empty() {
        return Vec::new();
    }
    let exact = text.chars().any(char::is_uppercase);
    // Only ASCII letters are folded, so that no position moves.
    let (within, wanted) =
        if exact { (line.into(), text.into()) } else { (line.to_ascii_lowercase(), text.to_ascii_lowercase()) };
    within.match_indices(&wanted).map(|(at, found)| at..at + found.len()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &Scrollback, count: usize) -> Vec<String> {
        let mut lines: Vec<String> = text.upwards().take(count).collect();
        lines.reverse();
        lines
    }

    #[test]
    fn output_arrives_in_pieces_and_a_prompt_shows() {
        let mut text = Scrollback::default();
        text.push_bytes(b"one\ntw");
        text.push_bytes(b"o\n\x1b[31mPass");
        text.push_bytes(b"word: ");
        assert_eq!(shown(&text, 9), ["one", "two", "Password: "]);
    }

    #[test]
    fn what_is_read_stays_while_more_arrives() {
        let mut text = Scrollback::default();
        (0..10).for_each(|i| text.push_line(i.to_string()));
        text.scroll(3);
        assert_eq!(shown(&text, 2), ["5", "6"]);
        text.push_line("10".into());
        assert_eq!(shown(&text, 2), ["5", "6"]);
        text.scroll(isize::MAX);
        assert_eq!(shown(&text, 2), ["0"]);
        text.scroll(isize::MIN);
        assert_eq!(shown(&text, 1), ["10"]);
    }

    #[test]
    fn old_lines_are_forgotten() {
        let mut text = Scrollback::default();
        text.push_line("first".into());
        text.scroll(1);
        (0..2 * MOST_LINES).for_each(|i| text.push_line(i.to_string()));
        text.scroll(isize::MAX);
        assert_eq!(shown(&text, 1), [MOST_LINES.to_string()]);
        text.push_bytes(&vec![b'x'; 3 * LONGEST_LINE]);
        assert!(text.rest.len() <= LONGEST_LINE * 3);
    }

    #[test]
    fn a_search_goes_up_and_down() {
        let mut text = Scrollback::default();
        ["Error one", "x", "error two", "y"].into_iter().for_each(|line| text.push_line(line.into()));
        assert!(!text.find(false), "nothing is searched for");
        text.search_for(Some("error".into()));
        assert!(text.find(false) && shown(&text, 1) == ["error two"]);
        assert!(text.find(false) && shown(&text, 1) == ["Error one"]);
        assert!(!text.find(false) && shown(&text, 1) == ["Error one"]);
        assert!(text.find(true) && shown(&text, 1) == ["error two"]);
        text.push_line("error three".into());
        text.scroll(isize::MIN);
        assert!(text.find(false) && shown(&text, 1) == ["error three"]);
        assert!(text.find(false) && shown(&text, 1) == ["error two"]);
        assert_eq!(matches("Error error", "Error").len(), 1);
        assert_eq!(matches("Error error", "error"), [0..5, 6..11]);
    }
}
