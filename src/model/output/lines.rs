//! Splits a stream of bytes into lines.

/// The longest line in bytes. Longer lines are split.
pub const LONGEST: usize = 64 << 10;

/// The last `count` lines of `bytes`. An unfinished last line counts.
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

/// The number of line ends in `bytes`.
pub fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The offset after the first line end.
pub fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1)
}

/// The offset after the last line end.
pub fn last_line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1)
}

/// Splits `lines` into pieces of at most `most` bytes, between lines where possible.
pub fn pieces(mut lines: &[u8], most: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = match lines.len() <= most {
            true => lines.len(),
            false => last_line_end(&lines[..most]).unwrap_or(most),
        };
        let (piece, rest) = lines.split_at(end);
        lines = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Collects incoming bytes into whole lines. Keeps the beginning of a line until its end arrives.
#[derive(Debug, Default)]
pub struct LineBuffer(Vec<u8>);

impl LineBuffer {
    /// Adds `bytes` and returns the lines that are now complete. A line longer than [`LONGEST`] is split.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let end = last_line_end(bytes).unwrap_or(0);
        let mut whole = Vec::new();
        if end > 0 {
            whole = std::mem::take(&mut self.0);
            whole.extend_from_slice(&bytes[..end]);
        }
        self.0.extend_from_slice(&bytes[end..]);
        if self.0.len() >= LONGEST {
            whole.append(&mut self.0);
        }
        whole
    }

    /// Takes the unfinished line. The buffer is empty afterwards.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }

    /// Whether there is no unfinished line.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_lines_include_one_without_an_end() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 2), b"b\nc");
        assert_eq!(last_lines(b"a\n\n\n", 2), b"\n\n");
        assert_eq!(last_lines(b"a\n", 9), b"a\n");
        assert_eq!(last_lines(b"a\n", 0), b"");
    }

    #[test]
    fn pieces_end_with_their_lines() {
        let lines = b"0123456789abcde\n".repeat(LONGEST / 8);
        let told: Vec<&[u8]> = pieces(&lines, LONGEST).collect();
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|piece| piece.ends_with(b"\n")));
        assert_eq!(told.concat(), lines);
    }

    proptest! {
        #[test]
        fn a_buffer_passes_on_every_byte_once_and_whole_lines_only(chunks in prop::collection::vec("[a\n]{0,9}", 0..20)) {
            let mut buffer = LineBuffer::default();
            let mut passed = Vec::new();
            for chunk in &chunks {
                let whole = buffer.push(chunk.as_bytes());
                prop_assert!(whole.is_empty() || whole.ends_with(b"\n"));
                passed.extend(whole);
            }
            passed.extend(buffer.take_rest());
            prop_assert_eq!(passed, chunks.concat().into_bytes());
        }
    }
}
