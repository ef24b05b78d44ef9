//! The one place that decides what may be shown on a terminal. A character that could control the terminal or change
//! the direction of text is escaped, whatever the source of the text.

use std::fmt::Write;

/// A line shown to a person is cut after this many bytes.
const LONGEST: usize = 8 << 10;

/// Whether a terminal would obey this character, or show the text after it in another order.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text on one line: every unsafe character is escaped (`\n`, `\u{1b}`), including tabs and line ends.
pub fn text(text: &str) -> String {
    written_out(text, |_| false)
}

/// A line of an app's output: like [`text`], but tabs stay, the line end is removed, and a line is cut at 8 KiB.
pub fn line(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST)]);
    let mut shown = written_out(&text, |c| c == '\t');
    if line.len() > LONGEST {
        // Writing into a String cannot fail.
        let _ = write!(shown, "… ({} bytes more)", line.len() - LONGEST);
    }
    shown
}

/// Each line of `bytes`, escaped by [`line()`].
pub fn lines(bytes: &[u8]) -> Vec<String> {
    bytes.split_inclusive(|byte| *byte == b'\n').map(line).collect()
}

/// Our own text for a terminal: line ends, tabs and colours (`ESC [ … m`) stay; any other unsafe character is escaped.
/// This is the last filter before a terminal, in case foreign text was not escaped earlier.
pub fn styled(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        shown.push_str(&written_out(&rest[..at], |c| matches!(c, '\n' | '\t')));
        let colour = colour(&rest[at..]);
        match colour {
            0 => shown.push_str(&written_out("\x1b", |_| false)),
            _ => shown.push_str(&rest[at..at + colour]),
        }
        rest = &rest[at + colour.max(1)..];
    }
    shown.push_str(&written_out(rest, |c| matches!(c, '\n' | '\t')));
    shown
}

/// The length of the colour sequence at the start of `text`; 0 if there is none.
fn colour(text: &str) -> usize {
    let Some(arguments) = text.strip_prefix("\x1b[") else { return 0 };
    match arguments.find(|c: char| !(c.is_ascii_digit() || c == ';')) {
        Some(end) if arguments[end..].starts_with('m') => end + 3,
        _ => 0,
    }
}

/// JSON with every unsafe character as `\uXXXX`. It still parses to the same value.
pub fn json(json: &str) -> String {
    let mut written = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            // White space outside of strings; inside strings JSON has escaped it already.
            '\n' | '\t' => written.push(c),
            // All unsafe characters are in the Basic Multilingual Plane, so one unit is enough.
            c if is_unsafe(c) => drop(write!(written, "\\u{:04x}", u32::from(c))),
            c => written.push(c),
        }
    }
    written
}

/// Source text to show with marks at byte offsets. Unsafe characters are replaced by others of the same length.
pub fn source(text: &str) -> String {
    let replaced = |c: char| match c {
        '\n' | '\t' => c,
        c if !is_unsafe(c) => c,
        c => match c.len_utf8() {
            1 => '?',
            2 => '\u{b7}',
            _ => '\u{fffd}',
        },
    };
    text.chars().map(replaced).collect()
}

fn written_out(text: &str, stays: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if !is_unsafe(c) || stays(c) => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.extend(c.escape_unicode()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_cannot_command_a_terminal() {
        assert_eq!(text("a\x1b[2Jb\r\u{9b}1m\u{202e}é\t漢"), "a\\u{1b}[2Jb\\r\\u{9b}1m\\u{202e}é\\t漢");
        assert_eq!(text("\u{200f}\u{2028}"), "\\u{200f}\\u{2028}");
    }

    #[test]
    fn lines_of_output_keep_their_tabs() {
        assert_eq!(line(b"\x1b[2Jred\x07\tok\r\n"), "\\u{1b}[2Jred\\u{7}\tok");
        assert_eq!(line(b"bad \xff utf-8"), "bad \u{fffd} utf-8");
        assert_eq!(line("a\u{202e}b\u{85}".as_bytes()), "a\\u{202e}b\\u{85}");
        assert!(line(&[b'y'; 10_000]).ends_with("y… (1808 bytes more)"));
    }

    #[test]
    fn only_our_colours_pass_the_last_filter() {
        assert_eq!(styled("\x1b[1;31mred\x1b[0m\n\tnext"), "\x1b[1;31mred\x1b[0m\n\tnext");
        assert_eq!(styled("\x1b[2J\x1b]0;title\x07\x1b"), "\\u{1b}[2J\\u{1b}]0;title\\u{7}\\u{1b}");
        assert_eq!(styled("\u{9b}31m\u{202e}"), "\\u{9b}31m\\u{202e}");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(given in any::<String>()) {
            prop_assert!(!text(&given).chars().any(is_unsafe));
            prop_assert!(!line(given.as_bytes()).chars().any(|c| is_unsafe(c) && c != '\t'));
            let shown = styled(&given);
            prop_assert!(!shown.chars().any(|c| is_unsafe(c) && !matches!(c, '\n' | '\t' | '\x1b')));
            for (at, _) in shown.match_indices('\x1b') {
                prop_assert!(colour(&shown[at..]) > 0);
            }
        }

        #[test]
        fn json_stays_the_same_value(given in any::<String>(), tail in "[\u{85}\u{9b}\u{202e}\u{2066}x]{0,5}") {
            let value = serde_json::Value::String(given + &tail);
            let written = json(&value.to_string());
            prop_assert!(!written.chars().any(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), value);
        }

        #[test]
        fn marks_in_a_source_stay_where_they_are(given in any::<String>()) {
            let shown = source(&given);
            prop_assert_eq!(shown.len(), given.len());
            let starts = |text: &str| text.char_indices().map(|(at, _)| at).collect::<Vec<_>>();
            prop_assert_eq!(starts(&shown), starts(&given));
            prop_assert!(!shown.chars().any(|c| is_unsafe(c) && !matches!(c, '\n' | '\t')));
        }
    }
}
