//! Those who want each line as it comes: followers, and the supervisor's own log (`log.forward`).
//! Exists only while somebody wants it, because looking at lines costs what mere copying does not.

use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::text::{count_lines, last_line_end, readable};

/// A line longer than this is told in pieces, and so is a batch to a follower.
const PIECE: usize = 64 << 10;

/// Pieces kept for a follower that is slow; then it loses the oldest.
const BEHIND: usize = 32;

/// Lines forwarded in each [`WINDOW`].
const LINES: u64 = 100;
const WINDOW: Duration = Duration::from_secs(1);

/// Whole lines, as the app wrote them.
pub type Lines = hyper::body::Bytes;

#[derive(Default)]
pub struct Live {
    /// The line that has no end yet.
    partial: Vec<u8>,
    followers: Option<broadcast::Sender<Lines>>,
    forward: Option<Forward>,
}

impl Live {
    pub fn follow(&mut self) -> broadcast::Receiver<Lines> {
        self.followers.get_or_insert_with(|| broadcast::channel(BEHIND).0).subscribe()
    }

    pub fn set_forward(&mut self, on: bool) {
        match on {
            true => drop(self.forward.get_or_insert_default()),
            false => self.forward = None,
        }
    }

    /// Nobody wants lines.
    pub fn is_idle(&self) -> bool {
        self.forward.is_none() && self.followers.as_ref().is_none_or(|followers| followers.receiver_count() == 0)
    }

    pub fn feed(&mut self, app: &str, bytes: &[u8]) {
        match last_line_end(bytes) {
            Some(end) if self.partial.is_empty() => {
                self.tell(app, &bytes[..end]);
                self.partial.extend(&bytes[end..]);
            }
            Some(end) => {
                self.partial.extend(&bytes[..end]);
                self.end_line(app);
                self.partial.extend(&bytes[end..]);
            }
            None => self.partial.extend(bytes),
        }
        if self.partial.len() >= PIECE {
            self.end_line(app);
        }
    }

    /// Tells the last line though it has no end: there is no more to come.
    pub fn end_line(&mut self, app: &str) {
        let lines = std::mem::take(&mut self.partial);
        self.tell(app, &lines);
    }

    /// A line of the supervisor's own, for followers alone.
    pub fn note(&mut self, line: &str) {
        if let Some(followers) = &self.followers {
            // No receiver is no trouble.
            let _ = followers.send(format!("{line}\n").into_bytes().into());
        }
    }

    /// When lines that were not forwarded are to be told, though no more output comes.
    pub fn deadline(&self) -> Option<Instant> {
        self.forward.as_ref().filter(|forward| forward.dropped > 0).map(|forward| forward.ends)
    }

    pub fn tick(&mut self, app: &str) {
        if let Some(forward) = &mut self.forward {
            forward.turn(app, Instant::now());
        }
    }

    fn tell(&mut self, app: &str, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if let Some(followers) = &self.followers {
            for piece in pieces(lines) {
                let _ = followers.send(Lines::copy_from_slice(piece));
            }
        }
        if let Some(forward) = &mut self.forward {
            forward.tell(app, lines);
        }
    }
}

/// `lines` in pieces of [`PIECE`] bytes at most, split between lines where that can be.
fn pieces(mut lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let most = lines.len().min(PIECE);
        let end = if most == lines.len() { most } else { last_line_end(&lines[..most]).unwrap_or(most) };
        let (piece, rest) = lines.split_at(end);
        lines = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The app's lines in the supervisor's log, no more of them than somebody can read.
struct Forward {
    ends: Instant,
    told: u64,
    dropped: u64,
}

impl Default for Forward {
    fn default() -> Self {
        Forward { ends: Instant::now() + WINDOW, told: 0, dropped: 0 }
    }
}

impl Forward {
    fn tell(&mut self, app: &str, lines: &[u8]) {
        self.turn(app, Instant::now());
        let mut rest = lines;
        while !rest.is_empty() && self.told < LINES {
            let end = super::text::line_end(rest).unwrap_or(rest.len());
            tracing::info!(event = "app.output", app, line = readable(&rest[..end]));
            self.told += 1;
            rest = &rest[end..];
        }
        self.dropped += count_lines(rest) + u64::from(rest.last().is_some_and(|last| *last != b'\n'));
    }

    /// Begins a new window once this one is over.
    fn turn(&mut self, app: &str, now: Instant) {
        if now < self.ends {
            return;
        }
        if self.dropped > 0 {
            let line = format!("dropped {} lines", self.dropped);
            tracing::info!(event = "app.output", app, dropped = self.dropped, line);
        }
        *self = Forward { ends: now + WINDOW, told: 0, dropped: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: Lines) -> String {
        String::from_utf8(lines.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_follower_gets_whole_lines() {
        let mut live = Live::default();
        let mut lines = live.follow();
        live.feed("app", b"one\ntw");
        live.feed("app", b"o\nthree");
        live.end_line("app");
        assert_eq!(text(lines.recv().await.unwrap()), "one\n");
        assert_eq!(text(lines.recv().await.unwrap()), "two\n");
        assert_eq!(text(lines.recv().await.unwrap()), "three");
        drop(lines);
        assert!(live.is_idle());
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_lost() {
        let mut live = Live::default();
        let mut lines = live.follow();
        for n in 0..BEHIND + 3 {
            live.feed("app", format!("{n}\n").as_bytes());
        }
        assert_eq!(lines.recv().await, Err(broadcast::error::RecvError::Lagged(3)));
        assert_eq!(text(lines.recv().await.unwrap()), "3\n");
    }

    /// Takes the supervisor's log.
    #[derive(Clone, Default)]
    struct Page(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_forwarded_in_part_and_the_rest_counted() {
        let page = Page::default();
        let writer = page.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _log = tracing::subscriber::set_default(log);
        let mut live = Live::default();
        live.set_forward(true);
        live.feed("app", &b"hello\x1b\n".repeat(250));
        let deadline = live.deadline().unwrap();
        tokio::time::sleep_until(deadline).await;
        live.tick("app");
        assert_eq!(live.deadline(), None);
        live.feed("app", b"later\n");

        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 102);
        assert!(lines.iter().all(|line| line.contains("app.output") && line.contains("app=\"app\"")));
        assert!(lines[99].contains("hello") && !lines[99].contains('\x1b'));
        assert!(lines[100].contains("dropped 150 lines"));
        assert!(lines[101].contains("later"));
    }

    #[test]
    fn pieces_end_with_their_lines() {
        let lines = b"0123456789abcde\n".repeat(PIECE / 8);
        let told: Vec<&[u8]> = pieces(&lines).collect();
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|piece| piece.ends_with(b"\n")));
        assert_eq!(told.concat(), lines);
    }
}
