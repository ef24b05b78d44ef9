//! Counts output that could not be kept: how many lines, where in the stream, and why.

use super::lines::{count_lines, line_end};
use crate::model::spelling::counted;

/// A stage at which output can get stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The queue to the writer is full because the disk is too slow.
    Queue,
    /// The file cannot be written.
    File,
}

/// The losses of one app. A problem begins when the first stage fails, and ends when no stage fails any more.
#[derive(Debug, Default)]
pub struct Losses {
    /// Since the supervisor began.
    dropped: u64,
    /// Since the problem began.
    in_trouble: u64,
    queue: Option<String>,
    file: Option<String>,
}

/// A problem that is over.
#[derive(Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The reason of the loss.
    pub cause: String,
    /// Lines lost.
    pub lines: u64,
}

impl Losses {
    /// Records that this stage fails because of `cause`. Returns true if no stage was failing before.
    pub fn begin(&mut self, stage: Stage, cause: &str) -> bool {
        let news = self.cause().is_none();
        *self.at(stage) = Some(cause.into());
        news
    }

    /// Records that this stage works again.
    pub fn end(&mut self, stage: Stage) -> Option<Recovered> {
        let cause = self.at(stage).take()?;
        match self.cause() {
            Some(_) => None,
            None => Some(Recovered { cause, lines: std::mem::take(&mut self.in_trouble) }),
        }
    }

    /// Counts dropped lines.
    pub fn drop_lines(&mut self, lines: u64) {
        self.dropped += lines;
        self.in_trouble += lines;
    }

    /// Lines dropped since the supervisor began.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Why output is currently being dropped.
    pub fn cause(&self) -> Option<&str> {
        self.file.as_deref().or(self.queue.as_deref())
    }

    /// Whether this stage is failing.
    pub fn is_failing(&self, stage: Stage) -> bool {
        match stage {
            Stage::Queue => self.queue.is_some(),
            Stage::File => self.file.is_some(),
        }
    }

    fn at(&mut self, stage: Stage) -> &mut Option<String> {
        match stage {
            Stage::Queue => &mut self.queue,
            Stage::File => &mut self.file,
        }
    }
}

/// A gap in a stream: the lines dropped since the last kept line. The stream resumes with a whole line.
#[derive(Debug, Default)]
pub struct Gap {
    lines: u64,
    /// The end of the last dropped line has not arrived yet.
    inside_a_line: bool,
}

impl Gap {
    /// Drops `bytes`. Returns the number of line ends among them.
    pub fn drop(&mut self, bytes: &[u8]) -> u64 {
        let lines = count_lines(bytes);
        self.lines += lines;
        if let Some(last) = bytes.last() {
            self.inside_a_line = *last != b'\n';
        }
        lines
    }

    /// Adds lines that were dropped earlier in the stream.
    pub fn add(&mut self, lines: u64) {
        self.lines += lines;
    }

    /// The part of `bytes` that begins with a whole line, and the number of lines dropped before it.
    pub fn resume<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], u64) {
        if !self.inside_a_line {
            return (bytes, 0);
        }
        let Some(end) = line_end(bytes) else { return (&[], 0) };
        self.lines += 1;
        self.inside_a_line = false;
        (&bytes[end..], 1)
    }

    /// Dropped lines that no note in the file mentions yet.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Records that the file now has a note about these lines.
    pub fn told(&mut self) {
        self.lines = 0;
    }
}

/// The note that replaces dropped lines in a log file.
pub fn note(lines: u64, cause: &str) -> String {
    format!("[kasm-void: {} dropped: {cause}]", counted(lines, "line"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_gap_swallows_the_rest_of_the_line_it_began_in() {
        let mut gap = Gap::default();
        assert_eq!(gap.drop(b"one\ntwo\nthr"), 2);
        assert_eq!(gap.resume(b"e"), (&b""[..], 0));
        assert_eq!(gap.resume(b"e\nfour\n"), (&b"four\n"[..], 1));
        assert_eq!(gap.lines(), 3);
        assert_eq!(gap.resume(b"five\n"), (&b"five\n"[..], 0));
    }

    #[test]
    fn a_trouble_begins_once_and_ends_when_no_stage_fails() {
        let mut losses = Losses::default();
        assert!(losses.begin(Stage::Queue, "slow"));
        losses.drop_lines(3);
        assert!(!losses.begin(Stage::File, "full"));
        assert!(!losses.begin(Stage::File, "still full"));
        losses.drop_lines(4);
        assert_eq!(losses.end(Stage::File), None);
        assert_eq!(losses.cause(), Some("slow"));
        assert_eq!(losses.end(Stage::Queue), Some(Recovered { cause: "slow".into(), lines: 7 }));
        assert_eq!((losses.end(Stage::Queue), losses.cause(), losses.dropped()), (None, None, 7));
        assert!(losses.begin(Stage::File, "full again"));
        assert_eq!(losses.end(Stage::File), Some(Recovered { cause: "full again".into(), lines: 0 }));
    }

    #[test]
    fn notes_count_in_words() {
        assert_eq!(note(1, "no space left"), "[kasm-void: 1 line dropped: no space left]");
        assert_eq!(note(2, "x"), "[kasm-void: 2 lines dropped: x]");
    }

    proptest! {
        /// Every line end is either kept or counted.
        #[test]
        fn no_line_is_forgotten(chunks in prop::collection::vec(("[a\n]{0,6}", any::<bool>()), 0..30)) {
            let (mut gap, mut kept) = (Gap::default(), String::new());
            for (chunk, writable) in &chunks {
                let (whole, _) = gap.resume(chunk.as_bytes());
                match *writable {
                    true => kept.push_str(std::str::from_utf8(whole).unwrap()),
                    false => { gap.drop(whole); }
                }
            }
            let all: String = chunks.iter().map(|(chunk, _)| chunk.as_str()).collect();
            prop_assert_eq!(count_lines(kept.as_bytes()) + gap.lines(), count_lines(all.as_bytes()));
        }
    }
}
