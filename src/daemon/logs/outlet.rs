//! One app's log file as the writer uses it. Counts what cannot be written, and notes the gap in the file once it can
//! be written again.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::checkpoint::Chunk;
use super::destination::Destination;
use super::file::{LogFile, Opener, Short};
use crate::model::output::lines::{count_lines, line_end};
use crate::model::output::losses::{Gap, Stage, note};
use crate::model::output::stamps::{Stamps, stamped};

/// The time before a failed write is retried.
const RETRY: Duration = Duration::from_secs(1);

/// The most bytes of hook and probe output that wait for the app's line to end.
const ASIDE: usize = 256 << 10;

pub struct Outlet {
    destination: Arc<Destination>,
    file: LogFile,
    failing: Option<Failing>,
    /// Whole lines of hooks and probes that wait for the app's line to end.
    aside: Vec<u8>,
}

struct Failing {
    cause: String,
    /// Dropped lines not yet noted in the file.
    gap: Gap,
    retry: Instant,
}

impl Outlet {
    pub fn new(destination: Arc<Destination>, opener: Opener) -> Outlet {
        let file = LogFile::new(destination.path.clone(), destination.max_size, destination.keep, opener);
        Outlet { destination, file, failing: None, aside: Vec::new() }
    }

    /// Switches to this destination.
    pub fn set(&mut self, destination: &Arc<Destination>) {
        if Arc::ptr_eq(&self.destination, destination) {
            return;
        }
        self.file.set(&destination.path, destination.max_size, destination.keep);
        self.destination = destination.clone();
        if let Some(failing) = &mut self.failing {
            failing.retry = Instant::now();
        }
    }

    /// Where a chunk of `length` bytes would be written. `None` for `/dev/null`, and while writes fail.
    pub fn place(&mut self, length: usize) -> Option<Chunk> {
        if self.failing.is_some() {
            return None;
        }
        let (file, offset) = self.file.position().ok()??;
        let stamps = Stamps::of(self.destination.timestamps, self.file.is_mid_line().ok()?);
        Some(Chunk { file, offset, length: length as u64, stamps })
    }

    pub fn output(&mut self, bytes: &[u8]) {
        let Some(failing) = &mut self.failing else { return self.write(bytes) };
        if Instant::now() < failing.retry {
            return self.lose(bytes);
        }
        let (whole, lost) = failing.gap.resume(bytes);
        self.destination.account.drop_lines(lost);
        if !whole.is_empty() && self.tell_gap() {
            self.write(whole);
        } else {
            self.lose(whole);
        }
    }

    /// Takes lines of a hook or probe. They wait for the app's line to end.
    pub fn command_lines(&mut self, lines: &[u8]) {
        if self.aside.len() + lines.len() > ASIDE {
            return self.destination.account.drop_lines(count_lines(lines));
        }
        self.aside.extend_from_slice(lines);
        if !self.file.is_mid_line().unwrap_or(false) {
            self.write_aside();
        }
    }

    /// Where in `bytes` to insert the waiting lines. `None` if there are none, or no line ends there.
    pub fn interruption(&self, bytes: &[u8]) -> Option<usize> {
        if self.aside.is_empty() { None } else { line_end(bytes) }
    }

    /// Writes the waiting lines. Ends the app's line first.
    pub fn write_aside(&mut self) {
        if self.aside.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.aside);
        if self.failing.is_some() {
            return self.output(&lines);
        }
        let lines = self.dated(&lines, false);
        if let Err(short) = self.file.append_lines(&lines) {
            let lost = &lines[short.written.min(lines.len())..];
            self.failed(&short);
            self.lose(lost);
        }
    }

    /// Takes note of lines that were dropped before this point of the stream.
    pub fn lost(&mut self, lines: u64, cause: &str) {
        if let Some(failing) = &mut self.failing {
            return failing.gap.add(lines);
        }
        if let Err(short) = self.append_own(&note(lines, cause)) {
            self.failed(&short);
            self.lost(lines, cause);
        }
    }

    pub fn note(&mut self, text: &str) {
        self.write_aside();
        if self.failing.is_some() {
            return;
        }
        if let Err(short) = self.append_own(&format!("[kasm-void: {text}]")) {
            self.failed(&short);
        }
    }

    /// The last lines in the file. `None` if the file cannot be read or lines are missing from it.
    pub fn lines(&mut self, count: usize) -> Option<Vec<u8>> {
        self.write_aside();
        if self.failing.is_some() {
            return None;
        }
        self.file.last_lines(count).ok()
    }

    /// Writes what still waits, and notes what was lost. Called last.
    pub fn settle(&mut self) {
        self.write_aside();
        if self.failing.is_some() && self.tell_gap() {
            self.recovered();
        }
    }

    /// The bytes as they go into the file.
    fn dated<'a>(&self, bytes: &'a [u8], mid_line: bool) -> Cow<'a, [u8]> {
        match Stamps::of(self.destination.timestamps, mid_line) {
            Stamps::None => Cow::Borrowed(bytes),
            stamps => {
                let now = format!("{} ", humantime::format_rfc3339_millis(SystemTime::now()));
                Cow::Owned(stamped(bytes, stamps, &now))
            }
        }
    }

    /// Appends a line of our own.
    fn append_own(&mut self, text: &str) -> Result<(), Short> {
        let line = format!("{text}\n");
        self.file.append_lines(&self.dated(line.as_bytes(), false))
    }

    fn write(&mut self, bytes: &[u8]) {
        let mid_line = self.destination.timestamps && self.file.is_mid_line().unwrap_or(false);
        let bytes = &*self.dated(bytes, mid_line);
        match self.file.append_output(bytes) {
            Ok(()) => self.recovered(),
            Err(short) => {
                self.failed(&short);
                self.lose(&bytes[short.written..]);
            }
        }
    }

    /// Notes the gap in the file. Returns whether that worked.
    fn tell_gap(&mut self) -> bool {
        let Some(failing) = &mut self.failing else { return true };
        failing.retry = Instant::now() + RETRY;
        if failing.gap.lines() > 0 {
            let text = note(failing.gap.lines(), &failing.cause);
            if let Err(short) = self.append_own(&text) {
                self.failed(&short);
                return false;
            }
            if let Some(failing) = &mut self.failing {
                failing.gap.told();
            }
        }
        true
    }

    fn lose(&mut self, bytes: &[u8]) {
        if let Some(failing) = &mut self.failing {
            self.destination.account.drop_lines(failing.gap.drop(bytes));
        }
    }

    fn failed(&mut self, short: &Short) {
        let cause = cause(&short.error);
        let retry = Instant::now() + RETRY;
        self.destination.begin_trouble(Stage::File, &cause);
        match &mut self.failing {
            Some(failing) => (failing.cause, failing.retry) = (cause, retry),
            None => self.failing = Some(Failing { cause, gap: Gap::default(), retry }),
        }
    }

    fn recovered(&mut self) {
        if self.failing.take().is_some() {
            self.destination.end_trouble(Stage::File);
        }
    }
}

/// The error as a part of a sentence, such as "no space left on device".
fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_part_of_a_sentence() {
        assert_eq!(cause(&std::io::Error::from_raw_os_error(libc::ENOSPC)), "no space left on device");
    }
}
