//! `log.forward`: decides which lines of an app go to the supervisor's log, and in which form.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::plain;

/// The most lines forwarded in each [`WINDOW`].
pub const LINES: u64 = 100;
/// The period of the rate limit.
pub const WINDOW: Duration = Duration::from_secs(1);

/// A JSON line longer than this many bytes is forwarded as truncated text, so that each line of the supervisor's log
/// stays under 16 KiB.
const LONGEST_JSON: usize = 15 << 10;

/// A forwarded line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// A structured log line: one JSON object with `level` and `msg`, to which `app` was added.
    Entry {
        /// From `level`.
        level: Level,
        /// From `msg`.
        message: String,
        /// The object with all its fields, on one line.
        json: String,
    },
    /// Any other line, with control characters escaped.
    Text(String),
}

/// The level of a line in the supervisor's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `error` and everything above it.
    Error,
    /// `warn`.
    Warn,
    /// Includes lower levels: an app that writes them with `log.forward` on wants them forwarded.
    Info,
}

/// Converts one line of `app`. `now` is the timestamp for a line without one. The field `app` is always overwritten, so
/// that no app can write lines in the name of another.
pub fn pass(app: &str, line: &[u8], now: &str) -> Passed {
    entry(app, line, now).unwrap_or_else(|| Passed::Text(plain::line(line)))
}

fn entry(app: &str, line: &[u8], now: &str) -> Option<Passed> {
    let line = line.trim_ascii();
    if line.len() > LONGEST_JSON || !line.starts_with(b"{") {
        return None;
    }
    let mut object: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let message = object.get("msg")?.as_str()?.to_owned();
    let level = level(object.get("level")?.as_str()?);
    object.insert("app".into(), app.into());
    object.entry("ts").or_insert_with(|| now.into());
    // Escaping may have made it longer.
    let json = plain::json(&Value::Object(object).to_string());
    (json.len() <= LONGEST_JSON).then_some(Passed::Entry { level, message, json })
}

/// Maps the level names of common loggers.
fn level(name: &str) -> Level {
    match name.to_ascii_lowercase().as_str() {
        "error" | "err" | "fatal" | "critical" | "crit" | "alert" | "emerg" | "panic" => Level::Error,
        "warn" | "warning" => Level::Warn,
        _ => Level::Info,
    }
}

/// Counts the lines that one app has forwarded in the current window.
#[derive(Debug, Default)]
pub struct ForwardRate {
    /// When the window ends, as a time since an origin that the caller chose.
    ends: Duration,
    passed: u64,
    dropped: u64,
}

impl ForwardRate {
    /// Whether one more line may be forwarded. Counts it as dropped if not. Call [`ForwardRate::turn`] first.
    pub fn admit(&mut self) -> bool {
        let admitted = self.passed < LINES;
        match admitted {
            true => self.passed += 1,
            false => self.dropped += 1,
        }
        admitted
    }

    /// Begins a new window if the last one is over. Returns how many lines the last one dropped, if any.
    pub fn turn(&mut self, now: Duration) -> Option<u64> {
        if now < self.ends {
            return None;
        }
        let before = std::mem::replace(self, ForwardRate { ends: now + WINDOW, ..ForwardRate::default() });
        (before.dropped > 0).then_some(before.dropped)
    }

    /// When to report dropped lines, even if no more output arrives.
    pub fn due(&self) -> Option<Duration> {
        (self.dropped > 0).then_some(self.ends)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "2026-01-02T03:04:05.678Z";

    fn written(line: &str) -> Option<(Level, String)> {
        match pass("shim", line.as_bytes(), NOW) {
            Passed::Entry { level, json, .. } => Some((level, json)),
            Passed::Text(_) => None,
        }
    }

    #[test]
    fn a_log_line_of_the_apps_own_keeps_its_level_and_its_fields() {
        let line = r#"{"ts":"then","level":"warn","msg":"refused","event":"launcher.request","status":400}"#;
        let (level, text) = written(line).unwrap();
        assert_eq!(level, Level::Warn);
        assert_eq!(text, line.replace('}', r#","app":"shim"}"#));
        assert_eq!(written("  {\"msg\":\"x\",\"level\":\"FATAL\"}\r\n").unwrap().0, Level::Error);
        assert_eq!(written(r#"{"msg":"x","level":"notice"}"#).unwrap().0, Level::Info);
    }

    #[test]
    fn nobody_speaks_in_another_apps_name() {
        let (_, text) = written(r#"{"app":"browser","level":"info","msg":"x"}"#).unwrap();
        assert_eq!(text, format!(r#"{{"app":"shim","level":"info","msg":"x","ts":"{NOW}"}}"#));
    }

    #[test]
    fn anything_else_is_text() {
        for line in [
            "plain",
            "",
            "[1]",
            "{}",
            r#"{"level":"info"}"#,
            r#"{"level":3,"msg":"x"}"#,
            r#"{"level":"info","msg":"x""#,
        ] {
            assert_eq!(pass("a", line.as_bytes(), NOW), Passed::Text(line.into()), "{line}");
        }
        let long = format!(r#"{{"level":"info","msg":"{}"}}"#, "x".repeat(20 << 10));
        assert!(matches!(pass("a", long.as_bytes(), NOW), Passed::Text(text) if text.len() < 9 << 10));
        assert_eq!(pass("a", b"\x1b[2Jx\n", NOW), Passed::Text("\\u{1b}[2Jx".into()));
    }

    #[test]
    fn a_line_that_grows_when_it_is_escaped_stays_short() {
        let line = format!(r#"{{"level":"info","msg":"{}"}}"#, "\u{9b}".repeat(7_000));
        assert!(line.len() < LONGEST_JSON && written(&line).is_none());
    }

    #[test]
    fn what_is_too_much_is_counted_and_told_once() {
        let mut rate = ForwardRate::default();
        let at = Duration::from_secs;
        assert_eq!(rate.turn(at(10)), None);
        let admitted = (0..250).filter(|_| rate.admit()).count();
        assert_eq!((admitted, rate.due()), (100, Some(at(11))));
        assert_eq!(rate.turn(at(10)), None);
        assert_eq!(rate.turn(at(11)), Some(150));
        assert_eq!((rate.due(), rate.turn(at(20))), (None, None));
        assert!(rate.admit());
    }

    proptest! {
        #[test]
        fn any_line_is_one_line_of_bounded_length(line in prop::collection::vec(any::<u8>(), 0..300)) {
            let text = match pass("a", &line, NOW) {
                Passed::Entry { json, .. } => json,
                Passed::Text(text) => text,
            };
            prop_assert!(!text.contains('\n') && text.len() < 16 << 10);
        }
    }
}
