//! Prints a log that arrives in pieces: unchanged into a pipe, line by line, or on a terminal.

use crate::cli::print::{pass_on, plain_output, say, say_part};

/// A longer line is shown in parts, in bytes.
const LONGEST_LINE: usize = 64 << 10;

/// The destination of the log, which arrives in pieces.
pub trait Output {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()>;

    /// Called after the last piece.
    fn end(&mut self) -> anyhow::Result<()>;
}

/// Output to a pipe or a file, unchanged.
pub struct Raw;

impl Output for Raw {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        pass_on(piece)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Output line by line.
pub struct Lines<F> {
    show: F,
    rest: Vec<u8>,
}

impl<F: FnMut(&[u8]) -> anyhow::Result<()>> Lines<F> {
    pub fn new(show: F) -> Self {
        Lines { show, rest: Vec::new() }
    }
}

impl<F: FnMut(&[u8]) -> anyhow::Result<()>> Output for Lines<F> {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            (self.show)(&line[..line.len() - 1])?;
        }
        match self.rest.len() > LONGEST_LINE {
            true => self.end(),
            false => Ok(()),
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => Ok(()),
            rest => (self.show)(&rest),
        }
    }
}

/// Output on a terminal. An unfinished line, such as a prompt, is shown as far as it has arrived.
#[derive(Default)]
pub struct LogScreen {
    /// The unfinished last line.
    rest: Vec<u8>,
    /// The part of it that is on the screen.
    shown: String,
}

impl Output for LogScreen {
    fn take(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.rest.extend_from_slice(piece);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.show(&line[..end])?;
        }
        if self.rest.len() > LONGEST_LINE {
            return self.end();
        }
        let text = plain_output(settled(&self.rest));
        if let Some(more) = text.strip_prefix(&*self.shown).filter(|more| !more.is_empty()) {
            say_part(more)?;
            self.shown = text;
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => Ok(()),
            rest => self.show(&rest),
        }
    }
}

impl LogScreen {
    /// Shows a whole line, or the rest of it if its beginning is on the screen already.
    fn show(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let text = plain_output(line);
        let shown = std::mem::take(&mut self.shown);
        match text.strip_prefix(&*shown) {
            Some(more) => say(more),
            None => say(&format!("\n{text}")),
        }
    }
}

/// The part of an unfinished line that will not change when more arrives: without an incomplete character or colour
/// sequence at its end.
fn settled(bytes: &[u8]) -> &[u8] {
    let begun = bytes.iter().rposition(|byte| *byte == b'\x1b');
    let begun = begun.filter(|at| !bytes[at + 1..].iter().any(u8::is_ascii_alphabetic));
    let bytes = &bytes[..begun.unwrap_or(bytes.len())];
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_line_is_shown_without_what_may_change() {
        for (bytes, shown) in [
            (&b"Password: "[..], &b"Password: "[..]),
            (b"red \x1b[3", b"red "),
            (b"red \x1b[31m", b"red \x1b[31m"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}".as_bytes()),
            (&"caf\u{e9}".as_bytes()[..4], b"caf"),
            (b"10%\r", b"10%"),
            (b"\xff?", b"\xff?"),
        ] {
            assert_eq!(settled(bytes), shown, "{bytes:?}");
        }
    }

    #[test]
    fn whatever_was_shown_is_a_beginning_of_the_whole_line() {
        let line = "a\x1b[1mb\x1b[0m\tcaf\u{e9} \u{202e}\u{9b}c".as_bytes();
        for end in 0..=line.len() {
            let shown = plain_output(settled(&line[..end]));
            assert!(plain_output(line).starts_with(&shown), "{end}: {shown:?}");
        }
    }
}
