//! `log.forward`: copies an app's lines into the supervisor's own log. `model::output::pass` decides which lines, and
//! in which form.

use std::time::{Duration, Instant, SystemTime};

use crate::model::output::lines::LineBuffer;
use crate::model::output::pass::{ForwardRate, Level, Passed, pass};
use crate::model::spelling::counted;

pub struct Forwarding {
    began: Instant,
    buffer: LineBuffer,
    rate: ForwardRate,
}

impl Default for Forwarding {
    fn default() -> Self {
        Forwarding { began: Instant::now(), buffer: LineBuffer::default(), rate: ForwardRate::default() }
    }
}

impl Forwarding {
    pub fn feed(&mut self, app: &str, bytes: &[u8]) {
        let lines = self.buffer.push(bytes);
        self.forward(app, &lines);
    }

    /// Treats an unfinished last line as finished: its process is gone.
    pub fn end_line(&mut self, app: &str) {
        let rest = self.buffer.take_rest();
        self.forward(app, &rest);
    }

    /// When to report dropped lines.
    pub fn due(&self) -> Option<Instant> {
        self.rate.due().map(|due| self.began + due)
    }

    pub fn tick(&mut self, app: &str) {
        self.tell_dropped(app, self.began.elapsed());
    }

    fn forward(&mut self, app: &str, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        self.tell_dropped(app, self.began.elapsed());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if self.rate.admit() {
                tell(app, line);
            }
        }
    }

    fn tell_dropped(&mut self, app: &str, now: Duration) {
        if let Some(dropped) = self.rate.turn(now) {
            let lines = counted(dropped, "line");
            tracing::warn!(event = "app.output", app, dropped, "{app}: dropped {lines} of output");
        }
    }
}

fn tell(app: &str, line: &[u8]) {
    let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    match pass(app, line, &now) {
        Passed::Text(text) => tracing::info!(event = "app.output", app, "{text}"),
        Passed::Entry { level, message, json: entry } => match level {
            Level::Error => tracing::error!(entry, "{message}"),
            Level::Warn => tracing::warn!(entry, "{message}"),
            Level::Info => tracing::info!(entry, "{message}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Captures the supervisor's log.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_is_forwarded_in_part_and_the_rest_counted() {
        let page = Page::default();
        let writer = page.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _log = tracing::subscriber::set_default(log);
        let mut forwarding = Forwarding::default();
        forwarding.feed("app", &b"hello\x1b\n".repeat(250));
        std::thread::sleep(forwarding.due().unwrap().saturating_duration_since(Instant::now()));
        forwarding.tick("app");
        assert_eq!(forwarding.due(), None);
        forwarding.feed("app", b"later\n");

        let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 102);
        assert!(lines.iter().all(|line| line.contains("app.output") && line.contains("app=\"app\"")));
        assert!(lines[99].contains("hello") && !lines[99].contains('\x1b'));
        assert!(lines[100].contains("dropped 150 lines"));
        assert!(lines[101].contains("later"));
    }
}
