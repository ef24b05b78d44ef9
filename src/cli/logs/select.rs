//! Which lines of a log are shown, and in which order: by their time and by a pattern. A line's time is known if the
//! line begins with one, or is a JSON object that holds one; a line without a time belongs to the one before it.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use regex_lite::Regex;
use serde_json::Value;

use crate::cli::print::plain_output;
use crate::model::manifest::quantity::Span;

/// The keys of a JSON line that may hold its time.
const KEYS: [&str; 4] = ["ts", "time", "timestamp", "@timestamp"];

/// The first moment to show: `10m` ago, or a time in RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Since(pub SystemTime);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(Span(ago)) = text.parse() {
            return Ok(Since(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)));
        }
        let whole = if text.len() == "2026-01-02".len() { format!("{text}T00:00:00Z") } else { text.into() };
        let time = time_at_start(whole.as_bytes()).filter(|(_, length)| *length == whole.len());
        time.map(|(time, _)| Since(time)).ok_or_else(|| {
            format!("`{text}` is no time: write how long ago, as in `10m`, or a time as in `2026-01-02T15:04:05Z`")
        })
    }
}

/// The lines to show.
#[derive(Debug, Default)]
pub struct Selection {
    pub since: Option<Since>,
    pub pattern: Option<Regex>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    pub time: Option<SystemTime>,
    /// The offset in bytes of the text after the line's own time.
    pub text: usize,
    pub bytes: Vec<u8>,
}

/// Reads the lines of one log in order.
#[derive(Debug, Default)]
pub struct LineTimes {
    last: Option<SystemTime>,
}

impl LineTimes {
    /// A line that was read from a file.
    pub fn past(&mut self, bytes: &[u8]) -> LogLine {
        let own = time_of(bytes);
        self.last = own.map(|(time, _)| time).or(self.last);
        LogLine { time: self.last, text: own.map_or(0, |(_, length)| length), bytes: bytes.into() }
    }

    /// A line that has just arrived.
    pub fn now(&mut self, bytes: &[u8]) -> LogLine {
        let own = time_of(bytes);
        let time = own.map_or_else(SystemTime::now, |(time, _)| time);
        self.last = Some(time);
        LogLine { time: Some(time), text: own.map_or(0, |(_, length)| length), bytes: bytes.into() }
    }

    /// Whether any line so far had a time.
    pub fn known(&self) -> bool {
        self.last.is_some()
    }
}

impl Selection {
    pub fn takes(&self, line: &LogLine) -> bool {
        let late_enough = self.since.is_none_or(|Since(since)| line.time.is_some_and(|time| time >= since));
        late_enough && self.matches(line)
    }

    /// Whether the pattern matches, regardless of the time.
    pub fn matches(&self, line: &LogLine) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(&plain_output(&line.bytes)))
    }
}

/// The lines of several logs in the order of their times, each with the index of its log. Lines without a time come
/// first, log after log.
pub fn merged(logs: Vec<Vec<LogLine>>) -> Vec<(usize, LogLine)> {
    let mut lines: Vec<(usize, LogLine)> =
        logs.into_iter().enumerate().flat_map(|(log, lines)| lines.into_iter().map(move |line| (log, line))).collect();
    lines.sort_by_key(|(_, line)| line.time); // stable: lines of one log stay in order unless their times do not
    lines
}

/// The time of a line, and the length of the text that tells it if the line begins with it.
fn time_of(line: &[u8]) -> Option<(SystemTime, usize)> {
    if line.starts_with(b"{") {
        let object: Value = serde_json::from_slice(line).ok()?;
        let text = KEYS.iter().find_map(|key| object[*key].as_str())?;
        return Some((time_at_start(text.as_bytes())?.0, 0));
    }
    if let Some(rest) = line.strip_prefix(b"[") {
        return Some((time_at_start(rest)?.0, 0));
    }
    let (time, length) = time_at_start(line)?;
    Some((time, length + line[length..].iter().take_while(|byte| **byte == b' ').count().min(1)))
}

/// An RFC 3339 time with a zone at the start of a text, and its length.
fn time_at_start(text: &[u8]) -> Option<(SystemTime, usize)> {
    const SHAPE: &[u8] = b"0000-00-00T00:00:00";
    let head = text.get(..SHAPE.len())?;
    let fits = head.iter().zip(SHAPE).all(|(found, shape)| match shape {
        b'0' => found.is_ascii_digit(),
        b'T' => matches!(found, b'T' | b' '),
        shape => found == shape,
    });
    if !fits {
        return None;
    }
    let digits = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut end = SHAPE.len();
    if matches!(text.get(end), Some(b'.' | b',')) {
        end += 1 + digits(end + 1);
    }
    let fraction = std::str::from_utf8(text.get(SHAPE.len() + 1..end).unwrap_or_default()).ok()?;
    let (ahead, zone) = zone(&text[end..])?;
    let head = std::str::from_utf8(head).ok()?.replace(' ', "T");
    let utc = humantime::parse_rfc3339(&format!("{head}Z")).ok()?;
    let nanoseconds: u64 = format!("{fraction:0<9.9}").parse().ok()?;
    let utc = utc + Duration::from_nanos(nanoseconds);
    let offset = Duration::from_secs(ahead.unsigned_abs());
    let time = if ahead < 0 { utc.checked_add(offset) } else { utc.checked_sub(offset) };
    Some((time?, end + zone))
}

/// How many seconds a zone is ahead of UTC, and the length of its text: `Z`, `+02:00` or `+0200`.
fn zone(text: &[u8]) -> Option<(i64, usize)> {
    let sign = match text.first()? {
        b'Z' => return Some((0, 1)),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let colon = usize::from(text.get(3) == Some(&b':'));
    let number = |from: usize| std::str::from_utf8(text.get(from..from + 2)?).ok()?.parse::<u8>().ok();
    let (hours, minutes) = (number(1)?, number(3 + colon)?);
    Some((sign * (i64::from(hours) * 3600 + i64::from(minutes) * 60), 5 + colon))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn times_are_found_where_programs_write_them() {
        for (line, time, text) in [
            ("2026-01-02T03:04:05Z up", "2026-01-02T03:04:05Z", "up"),
            ("2026-01-02 03:04:05.678Z up", "2026-01-02T03:04:05.678Z", "up"),
            ("2026-01-02T03:04:05,5+02:00 up", "2026-01-02T01:04:05.5Z", "up"),
            ("2026-01-02T03:04:05-0130", "2026-01-02T04:34:05Z", ""),
            ("[2026-01-02T03:04:05Z] up", "2026-01-02T03:04:05Z", "[2026-01-02T03:04:05Z] up"),
            (
                r#"{"ts":"2026-01-02T03:04:05Z","msg":1}"#,
                "2026-01-02T03:04:05Z",
                r#"{"ts":"2026-01-02T03:04:05Z","msg":1}"#,
            ),
            (
                r#"{"@timestamp":"2026-01-02T03:04:05.1Z"}"#,
                "2026-01-02T03:04:05.1Z",
                r#"{"@timestamp":"2026-01-02T03:04:05.1Z"}"#,
            ),
        ] {
            let found = LineTimes::default().past(line.as_bytes());
            assert_eq!((found.time, &line[found.text..]), (Some(at(time)), text), "{line}");
        }
        // Without a zone nobody knows which hour it was.
        for line in [
            "",
            "up",
            "2026-01-02T03:04:05 up",
            "2026-13-02T03:04:05Z",
            "[x",
            "{",
            r#"{"ts":5}"#,
            "2026-01-02T03:04:05+é",
        ] {
            assert_eq!(LineTimes::default().past(line.as_bytes()).time, None, "{line}");
        }
    }

    #[test]
    fn a_line_without_a_time_belongs_to_the_one_before() {
        let mut times = LineTimes::default();
        let mut of = |line: &str| times.past(line.as_bytes()).time;
        assert_eq!(of("starting"), None);
        assert_eq!(of("2026-01-02T03:04:05Z error"), Some(at("2026-01-02T03:04:05Z")));
        assert_eq!(of("  at line 3"), Some(at("2026-01-02T03:04:05Z")));
    }

    #[test]
    fn since_is_a_span_a_day_or_a_time() {
        let ago: Since = "10m".parse().unwrap();
        let passed = SystemTime::now().duration_since(ago.0).unwrap();
        assert!(passed >= Duration::from_secs(600) && passed < Duration::from_secs(660));
        assert_eq!("2026-01-02".parse::<Since>().unwrap().0, at("2026-01-02T00:00:00Z"));
        assert_eq!("2026-01-02T03:04:05+01:00".parse::<Since>().unwrap().0, at("2026-01-02T02:04:05Z"));
        for wrong in ["", "yesterday", "2026-01-02T03:04:05", "2026-01-02T03:04:05Zx", "5"] {
            assert!(wrong.parse::<Since>().unwrap_err().contains("10m"), "{wrong}");
        }
    }

    #[test]
    fn several_logs_are_put_in_the_order_of_their_times() {
        let lines = |texts: &[&str]| {
            let mut times = LineTimes::default();
            texts.iter().map(|text| times.past(text.as_bytes())).collect::<Vec<_>>()
        };
        let first = lines(&["no time", "2026-01-02T03:04:05Z a", "more of a", "2026-01-02T03:04:07Z c"]);
        let second = lines(&["2026-01-02T03:04:06Z b"]);
        let order: Vec<String> = merged(vec![first, second])
            .iter()
            .map(|(log, line)| format!("{log} {}", plain_output(&line.bytes[line.text..])))
            .collect();
        assert_eq!(order, ["0 no time", "0 a", "0 more of a", "1 b", "0 c"]);
    }

    #[test]
    fn a_selection_takes_what_is_late_enough_and_matches() {
        let mut times = LineTimes::default();
        let mut line = |text: &str| times.past(text.as_bytes());
        let (untimed, old, new) =
            (line("error"), line("2026-01-02T03:04:05Z error"), line("2026-01-02T03:04:07Z \x1b[31mErr\x1b[0mor"));
        let since = Some(Since(at("2026-01-02T03:04:06Z")));
        let both = Selection { since, pattern: Some(Regex::new("(?i)error").unwrap()) };
        assert_eq!([&untimed, &old, &new].map(|line| both.takes(line)), [false, false, true]);
        let all = Selection::default();
        assert_eq!([&untimed, &old, &new].map(|line| all.takes(line)), [true, true, true]);
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in prop::collection::vec(any::<u8>(), 0..60), tail in "[0-9TZ:.+ -]{0,12}") {
            LineTimes::default().past(&line);
            let line = [b"2026-01-02T03:04:05", tail.as_bytes()].concat();
            let found = LineTimes::default().past(&line);
            prop_assert!(found.text <= line.len());
        }
    }
}
