//! The times that `log.timestamps` puts before the lines of a log file, and how to take them off again.

/// Bytes of a stamp: a time in RFC 3339 with milliseconds, and a blank.
pub const STAMP: usize = "2026-01-02T03:04:05.678Z ".len();

/// Whether a piece of output was written with stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stamps {
    /// As the app wrote it.
    #[default]
    None,
    /// With a stamp before each line.
    EachLine,
    /// With a stamp before each line but the first, whose beginning was written earlier.
    AllButFirst,
}

impl Stamps {
    /// The stamps of output that is written to a file now.
    pub fn of(timestamps: bool, mid_line: bool) -> Stamps {
        match (timestamps, mid_line) {
            (false, _) => Stamps::None,
            (true, false) => Stamps::EachLine,
            (true, true) => Stamps::AllButFirst,
        }
    }

    /// The most bytes that `length` bytes of output take with these stamps.
    pub fn most(self, length: u64) -> u64 {
        match self {
            Stamps::None => length,
            Stamps::EachLine | Stamps::AllButFirst => length.saturating_mul(STAMP as u64 + 1),
        }
    }

    fn before_first(self) -> bool {
        self == Stamps::EachLine
    }
}

/// Puts `stamp` before the lines of `bytes`. With [`Stamps::None`], they stay as they are.
pub fn stamped(bytes: &[u8], stamps: Stamps, stamp: &str) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes.len() + 4 * STAMP);
    for (at, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if stamps != Stamps::None && (at > 0 || stamps.before_first()) {
            all.extend_from_slice(stamp.as_bytes());
        }
        all.extend_from_slice(line);
    }
    all
}

/// Takes the stamps off. Also returns the length of an unfinished stamp at the end.
pub fn unstamped(bytes: Vec<u8>, stamps: Stamps) -> (Vec<u8>, usize) {
    if stamps == Stamps::None {
        return (bytes, 0);
    }
    let (mut all, mut torn) = (Vec::with_capacity(bytes.len()), 0);
    for (at, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let text = if at > 0 || stamps.before_first() { line.get(STAMP..) } else { Some(line) };
        match text {
            Some(text) => all.extend_from_slice(text),
            None => torn = line.len(),
        }
    }
    (all, torn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: &str = "2026-01-02T03:04:05.678Z ";

    #[test]
    fn each_line_begins_with_its_time() {
        let told = |text: &str, stamps| String::from_utf8(stamped(text.as_bytes(), stamps, NOW)).unwrap();
        assert_eq!(told("one\n\ntwo", Stamps::EachLine), format!("{NOW}one\n{NOW}\n{NOW}two"));
        assert_eq!(told("end\ntwo\n", Stamps::AllButFirst), format!("end\n{NOW}two\n"));
        assert_eq!(told("one\n", Stamps::None), "one\n");
        assert_eq!(told("", Stamps::EachLine), "");
    }

    proptest! {
        /// However much of a piece was written, what it says is what the app had written so far.
        #[test]
        fn stamps_come_off_wherever_the_writing_ended(
            lines in proptest::collection::vec("[a-c ]{0,4}", 0..6),
            whole: bool,
            mid_line: bool,
            end: prop::sample::Index,
        ) {
            let text = lines.join("\n") + if whole { "\n" } else { "" };
            let stamps = Stamps::of(true, mid_line);
            let mut written = stamped(text.as_bytes(), stamps, NOW);
            prop_assert!(written.len() as u64 <= stamps.most(text.len() as u64));
            written.truncate(end.index(written.len() + 1));
            let (said, torn) = unstamped(written.clone(), stamps);
            prop_assert!(text.as_bytes().starts_with(&said));
            written.truncate(written.len() - torn);
            written.extend(stamped(&text.as_bytes()[said.len()..], Stamps::of(true, !ends_line(&written, mid_line)), NOW));
            prop_assert_eq!(unstamped(written, stamps), (text.into_bytes(), 0), "the next one goes on from there");
        }
    }

    fn ends_line(written: &[u8], mid_line: bool) -> bool {
        written.last().map_or(!mid_line, |last| *last == b'\n')
    }
}
