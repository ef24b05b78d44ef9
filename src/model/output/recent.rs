//! The last output of an app, in memory. It is shown with a crash, and when the log file cannot be read.

use std::collections::VecDeque;

use super::lines::{last_lines, line_end};

/// The most bytes kept for one app.
pub const MOST: usize = 64 << 10;

/// The last output, at most [`MOST`] bytes. Memory is allocated as output arrives.
#[derive(Default)]
pub struct Recent {
    bytes: VecDeque<u8>,
    /// The beginning of the oldest line is missing.
    cut: bool,
    /// Total bytes of output seen.
    seen: u64,
    /// The value of `seen` when the current run began.
    run_began: u64,
}

impl Recent {
    /// Appends output, and discards the oldest beyond [`MOST`] bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.seen += bytes.len() as u64;
        let new = &bytes[bytes.len().saturating_sub(MOST)..];
        let over = (self.bytes.len() + new.len()).saturating_sub(MOST);
        self.cut |= over > 0 || new.len() < bytes.len();
        self.bytes.drain(..over);
        self.bytes.extend(new);
    }

    /// Marks the beginning of a new run.
    pub fn begin_run(&mut self) {
        self.run_began = self.seen;
    }

    /// Total bytes of output seen, kept or not.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The last `count` lines. A line is only cut if it is longer than the whole buffer.
    pub fn last_lines(&mut self, count: usize) -> &[u8] {
        let bytes = &*self.bytes.make_contiguous();
        let whole = match self.cut {
            true => line_end(bytes).filter(|end| *end < bytes.len()).unwrap_or(0),
            false => 0,
        };
        last_lines(&bytes[whole..], count)
    }

    /// The last `count` lines of the current run.
    pub fn last_lines_of_run(&mut self, count: usize) -> &[u8] {
        let own = usize::try_from(self.seen - self.run_began).unwrap_or(usize::MAX);
        let lines = self.last_lines(count);
        &lines[lines.len().saturating_sub(own)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_lines_are_kept() {
        let mut recent = Recent::default();
        for n in 0..20_000 {
            recent.push(format!("line {n}\n").as_bytes());
        }
        let kept = recent.last_lines(usize::MAX);
        assert!(kept.len() <= MOST && kept.len() > MOST - 16);
        assert!(kept.starts_with(b"line "));
        assert_eq!(recent.last_lines(2), b"line 19998\nline 19999\n");
    }

    #[test]
    fn a_line_longer_than_all_that_is_kept_is_cut_not_lost() {
        let mut recent = Recent::default();
        recent.push(&[b'x'; 3 * MOST]);
        assert_eq!(recent.last_lines(1).len(), MOST);
        recent.push(b"end\nnext");
        assert_eq!(recent.last_lines(1), b"next");
    }

    #[test]
    fn a_small_output_costs_little_memory() {
        let mut recent = Recent::default();
        recent.push(b"hello\n");
        assert!(recent.bytes.capacity() < 128);
    }

    #[test]
    fn lines_of_an_earlier_run_are_not_those_of_this_one() {
        let mut recent = Recent::default();
        recent.push(b"one\ntwo\n");
        recent.begin_run();
        assert_eq!(recent.last_lines_of_run(5), b"");
        recent.push(b"three\n");
        assert_eq!(recent.last_lines_of_run(5), b"three\n");
        assert_eq!(recent.seen(), 14);
        assert_eq!(recent.last_lines(2), b"two\nthree\n");
    }
}
