//! Clients that follow an app's output. Exists only while there are any: finding lines costs time that plain copying
//! does not.

use std::time::{Duration, SystemTime};

use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::model::output::lines::{LONGEST, LineBuffer, pieces};
use crate::model::output::stamps::{Stamps, stamped};

/// How many pieces a slow client may lag behind before it loses the oldest.
const BEHIND: usize = 32;

/// An unfinished line, such as a prompt, is sent after this long without more output.
const QUIET: Duration = Duration::from_millis(100);

/// Output as the app wrote it: whole lines, except for an unfinished last line.
pub type Piece = hyper::body::Bytes;

pub struct Followers {
    sender: broadcast::Sender<Piece>,
    buffer: LineBuffer,
    /// The last piece sent ends in the middle of a line.
    mid_line: bool,
    /// Whether lines are sent with their times, as in the file.
    timestamps: bool,
    /// When to send the buffered line although it is unfinished.
    due: Option<Instant>,
}

impl Followers {
    /// `mid_line`: the output so far ends in the middle of a line.
    pub fn new(mid_line: bool) -> Followers {
        let (sender, buffer) = (broadcast::channel(BEHIND).0, LineBuffer::default());
        Followers { sender, buffer, mid_line, timestamps: false, due: None }
    }

    /// Whether lines are sent with their times from now on.
    pub fn set(&mut self, timestamps: bool) {
        self.timestamps = timestamps;
    }

    /// Adds a client, which gets output from now on.
    pub fn follow(&mut self) -> broadcast::Receiver<Piece> {
        self.send_rest();
        self.sender.subscribe()
    }

    /// Whether all clients have left.
    pub fn is_idle(&self) -> bool {
        self.sender.receiver_count() == 0
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        let lines = self.buffer.push(bytes);
        self.send(&lines);
        self.due = (!self.buffer.is_empty()).then(|| Instant::now() + QUIET);
    }

    /// Sends the last line even if it is unfinished.
    pub fn send_rest(&mut self) {
        let rest = self.buffer.take_rest();
        self.send(&rest);
        self.due = None;
    }

    /// Sends whole lines that are not the app's. Ends the app's line first.
    pub fn interrupt(&mut self, lines: &[u8]) {
        self.send_rest();
        if self.mid_line {
            self.send_as_it_is(b"\n");
        }
        self.send(lines);
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    pub fn tick(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.send_rest();
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        match Stamps::of(self.timestamps, self.mid_line) {
            Stamps::None => self.send_as_it_is(bytes),
            stamps => {
                let now = format!("{} ", humantime::format_rfc3339_millis(SystemTime::now()));
                self.send_as_it_is(&stamped(bytes, stamps, &now));
            }
        }
    }

    fn send_as_it_is(&mut self, bytes: &[u8]) {
        for piece in pieces(bytes, LONGEST) {
            self.mid_line = !piece.ends_with(b"\n");
            let _ = self.sender.send(Piece::copy_from_slice(piece)); // the last client may have disconnected
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(piece: Piece) -> String {
        String::from_utf8(piece.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_client_gets_whole_lines() {
        let mut followers = Followers::new(false);
        let mut pieces = followers.follow();
        followers.feed(b"one\ntw");
        followers.feed(b"o\nthree");
        followers.send_rest();
        assert_eq!(text(pieces.recv().await.unwrap()), "one\n");
        assert_eq!(text(pieces.recv().await.unwrap()), "two\n");
        assert_eq!(text(pieces.recv().await.unwrap()), "three");
        drop(pieces);
        assert!(followers.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_prompt_is_sent_once_it_is_quiet() {
        let mut followers = Followers::new(false);
        let mut pieces = followers.follow();
        followers.feed(b"Password: ");
        followers.tick(Instant::now());
        assert!(pieces.try_recv().is_err());
        tokio::time::sleep_until(followers.due().unwrap()).await;
        followers.tick(Instant::now());
        assert_eq!(text(pieces.recv().await.unwrap()), "Password: ");
        assert_eq!(followers.due(), None);
        followers.feed(b"secret\n");
        assert_eq!(text(pieces.recv().await.unwrap()), "secret\n");
    }

    #[tokio::test]
    async fn lines_of_others_do_not_tear_a_prompt() {
        let mut followers = Followers::new(false);
        let mut pieces = followers.follow();
        followers.feed(b"$ ");
        followers.interrupt(b"hook\n");
        let mut all = String::new();
        while let Ok(piece) = pieces.try_recv() {
            all.push_str(&text(piece));
        }
        assert_eq!(all, "$ \nhook\n");
    }

    #[tokio::test]
    async fn a_slow_client_is_told_what_it_lost() {
        let mut followers = Followers::new(false);
        let mut pieces = followers.follow();
        for n in 0..BEHIND + 3 {
            followers.feed(format!("{n}\n").as_bytes());
        }
        assert_eq!(pieces.recv().await, Err(broadcast::error::RecvError::Lagged(3)));
        assert_eq!(text(pieces.recv().await.unwrap()), "3\n");
    }
}
