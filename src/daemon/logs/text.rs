//! Bytes as lines: what is kept, cut, counted and shown. Pure.

use std::collections::VecDeque;
use std::fmt::Write;

/// The most output kept in memory for one app.
pub const RING: usize = 64 << 10;

/// A line shown to a person is cut after this many bytes.
const SHOWN: usize = 8 << 10;

/// The last output of an app, [`RING`] bytes at most, allocated as it comes.
#[derive(Default)]
pub struct Ring {
    bytes: VecDeque<u8>,
    /// The oldest line has lost its beginning.
    cut: bool,
}

impl Ring {
    pub fn push(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(RING)..];
        let over = (self.bytes.len() + new.len()).saturating_sub(RING);
        self.cut |= over > 0 || new.len() < bytes.len();
        self.bytes.drain(..over);
        self.bytes.extend(new);
    }

    /// The last `count` lines, whole ones unless a single line fills the ring.
    pub fn last_lines(&mut self, count: usize) -> &[u8] {
        let bytes = &*self.bytes.make_contiguous();
        let whole = match self.cut {
            true => line_end(bytes).filter(|end| *end < bytes.len()).unwrap_or(0),
            false => 0,
        };
        last_lines(&bytes[whole..], count)
    }
}

/// Lines that were thrown away since the last one that was not.
#[derive(Default)]
pub struct Gap {
    pub lines: u64,
    /// The end of the last line thrown away is still to come.
    inside: bool,
}

impl Gap {
    pub fn lose(&mut self, bytes: &[u8]) {
        self.lines += count_lines(bytes);
        if let Some(last) = bytes.last() {
            self.inside = *last != b'\n';
        }
    }

    /// What of `bytes` begins with a whole line; the rest is counted as lost.
    pub fn resume<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if !self.inside {
            return bytes;
        }
        let Some(end) = line_end(bytes) else { return &[] };
        self.lines += 1;
        self.inside = false;
        &bytes[end..]
    }
}

/// The last `count` lines of `bytes`; a last line without an end counts.
pub fn last_lines(bytes: &[u8], count: usize) -> &[u8] {
    if count == 0 {
        return &[];
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let breaks = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match breaks.map(|(at, _)| at).nth(count - 1) {
        Some(at) => &bytes[at + 1..],
        None => bytes,
    }
}

/// Line ends in `bytes`.
pub fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Just behind the first line end.
pub fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1)
}

/// Just behind the last line end.
pub fn last_line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1)
}

/// A line as it may be printed on a terminal or put into another log: no control characters, no change
/// of writing direction, no more than 8 KiB.
pub fn readable(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => shown.push(c),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => shown.extend(c.escape_unicode()),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    if line.len() > SHOWN {
        // Writing into a String cannot fail.
        let _ = write!(shown, "… ({} bytes more)", line.len() - SHOWN);
    }
    shown
}

/// Each line of `bytes`, as [`readable`].
pub fn readable_lines(bytes: &[u8]) -> Vec<String> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(readable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest_whole_lines() {
        let mut ring = Ring::default();
        for n in 0..20_000 {
            ring.push(format!("line {n}\n").as_bytes());
        }
        let kept = ring.last_lines(usize::MAX);
        assert!(kept.len() <= RING && kept.len() > RING - 16);
        assert!(kept.starts_with(b"line "));
        assert_eq!(ring.last_lines(2), b"line 19998\nline 19999\n");
    }

    #[test]
    fn a_line_larger_than_the_ring_is_cut_not_lost() {
        let mut ring = Ring::default();
        ring.push(&[b'x'; 3 * RING]);
        assert_eq!(ring.last_lines(1).len(), RING);
        ring.push(b"end\nnext");
        assert_eq!(ring.last_lines(1), b"next");
    }

    #[test]
    fn a_small_output_costs_little_memory() {
        let mut ring = Ring::default();
        ring.push(b"hello\n");
        assert!(ring.bytes.capacity() < 128);
    }

    #[test]
    fn the_last_lines_include_one_without_an_end() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 2), b"b\nc");
        assert_eq!(last_lines(b"a\n\n\n", 2), b"\n\n");
        assert_eq!(last_lines(b"a\n", 9), b"a\n");
        assert_eq!(last_lines(b"a\n", 0), b"");
    }

    #[test]
    fn a_gap_swallows_the_rest_of_the_line_it_began_in() {
        let mut gap = Gap::default();
        gap.lose(b"one\ntwo\nthr");
        assert_eq!(gap.resume(b"e"), b"");
        assert_eq!(gap.resume(b"e\nfour\n"), b"four\n");
        assert_eq!(gap.lines, 3);
        assert_eq!(gap.resume(b"five\n"), b"five\n");
    }

    #[test]
    fn shown_lines_cannot_play_tricks_on_a_terminal() {
        assert_eq!(readable(b"\x1b[2Jred\x07\tok\r\n"), "\\u{1b}[2Jred\\u{7}\tok");
        assert_eq!(readable(b"bad \xff utf-8"), "bad \u{fffd} utf-8");
        assert_eq!(readable("a\u{202e}b\u{85}".as_bytes()), "a\\u{202e}b\\u{85}");
        assert!(readable(&[b'y'; 10_000]).ends_with("y… (1808 bytes more)"));
    }
}
