//! Output for people: colours, readable numbers, problems with their source line. Text from elsewhere is escaped by
//! `plain` when it is put into a line. Every line is escaped once more by [`styled`] before it is written.

use std::io::{self, Write};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::host::terminal;
use crate::model::loading::problem::{Problem, Severity};
use crate::model::machine::CRASH_LOOP;
pub use crate::model::plain::text as plain;
use crate::model::plain::{json, source, styled};
use crate::model::protocol::StateName;

/// As it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// On its way.
pub const BUSY: Style = AnsiColor::Yellow.on_default();
/// In need of attention.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Less important than the rest.
pub const DIM: Style = Style::new().dimmed();

/// The program that read our output has exited, as in `kasm-void logs x | head`.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output has exited")]
pub struct ReaderLeft;

/// Writes a line to stdout, in colour if stdout is a terminal that supports it.
pub fn say(line: &str) -> anyhow::Result<()> {
    let line = styled(line);
    // Our own two signs beyond ASCII, each one column wide.
    let line = if terminal::shows_ascii_only() { line.replace('…', "~").replace('·', "-") } else { line };
    written(writeln!(anstream::stdout(), "{line}"))
}

/// Writes a part of a line to stdout.
pub fn say_part(part: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout();
    written(write!(out, "{}", styled(part)).and_then(|()| out.flush()))
}

/// Writes a line to stderr. A failure is ignored, because there is nowhere left to report it.
pub fn complain(line: &str) {
    let _ = writeln!(anstream::stderr(), "kasm-void: {}", styled(line));
}

/// Writes one JSON value, on one line.
pub fn say_json(value: &impl Serialize) -> anyhow::Result<()> {
    say_json_text(&serde_json::to_string(value)?)
}

/// Writes text that is already JSON.
pub fn say_json_text(text: &str) -> anyhow::Result<()> {
    written(writeln!(io::stdout(), "{}", json(text)))
}

/// Writes bytes unchanged. Not for a terminal.
pub fn pass_on(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderLeft.into()),
        other => Ok(other?),
    }
}

/// A line of an app's output without its colours. Tabs stay; the rest is escaped as by [`plain`].
pub fn plain_output(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    let colourless = anstream::adapter::strip_str(&text).to_string();
    colourless.split('\t').map(plain).collect::<Vec<_>>().join("\t")
}

/// The colour of an app's state. An app in a crash loop has the same colour as one that gave up.
pub fn state_style(state: StateName, failures: u32) -> Style {
    match state {
        StateName::Starting | StateName::Backoff if failures >= CRASH_LOOP => BAD,
        StateName::Running => GOOD,
        StateName::Starting | StateName::Stopping | StateName::Backoff => BUSY,
        StateName::Crashed | StateName::GaveUp => BAD,
        StateName::Stopped => DIM,
    }
}

/// A duration in its two largest units: `3d 4h`, `2m 5s`, `900ms`.
pub fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let units = [("d", seconds / 86_400), ("h", seconds / 3600 % 24), ("m", seconds / 60 % 60), ("s", seconds % 60)];
    match units.iter().position(|(_, count)| *count > 0) {
        None => format!("{milliseconds}ms"),
        Some(first) => {
            let shown = units[first..].iter().take(2).filter(|(_, count)| *count > 0);
            shown.map(|(unit, count)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
        }
    }
}

/// A size in KiB, MiB or GiB, with one decimal.
pub fn bytes(count: u64) -> String {
    let (unit, size) = match count {
        0..=0xfffff => ("KiB", 10),
        0x100000..=0x3fffffff => ("MiB", 20),
        _ => ("GiB", 30),
    };
    format!("{:.1} {unit}", count as f64 / (1u64 << size) as f64)
}

/// A timestamp of the API as `2026-01-02 03:04:05 UTC`.
pub fn utc(time: &str) -> String {
    match time.split_once('T').zip(time.strip_suffix('Z')) {
        Some(((day, clock), _)) if clock.len() >= 8 => format!("{} {} UTC", plain(day), plain(&clock[..8])),
        _ => plain(time),
    }
}

/// Cuts `text` to `most` columns.
pub fn cut(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.into();
    }
    let mut shown = String::new();
    for c in text.chars() {
        if shown.width() + c.width().unwrap_or(0) >= most {
            break;
        }
        shown.push(c);
    }
    shown + "…"
}

/// Cuts `name` to `most` columns. Keeps its beginning and its end, which identify it best.
pub fn cut_middle(name: &str, most: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if name.width() <= most {
        return name.into();
    }
    let end = (most - 1) / 2;
    let begin = most - 1 - end;
    letters[..begin].iter().chain(&['…']).chain(&letters[letters.len() - end..]).collect()
}

/// A problem as compilers show it: position, source line with a caret, and help.
pub fn problem(problem: &Problem) -> String {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let (message, help, field) = (plain(&problem.message), plain(&problem.help), plain(&problem.field));
    let file = plain(&problem.file);
    let title = level.primary_title(&message);
    let mut group = match problem.line {
        0 => title.element(Origin::path(&file)),
        line => {
            let label = (!field.is_empty()).then_some(&field);
            let caret = AnnotationKind::Primary.span(problem.mark.clone()).label(label);
            title.element(Snippet::source(source(&problem.source)).line_start(line).path(&file).annotation(caret))
        }
    };
    if !help.is_empty() {
        group = group.element(Level::HELP.message(&help));
    }
    Renderer::styled().render(&[group])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_of_an_app_are_taken_out_of_its_lines() {
        assert_eq!(plain_output(b"\x1b[31mred\x1b[0m\x1b]0;title\x07 \xff\x08\tx\r"), "red \u{fffd}\tx");
    }

    #[test]
    fn times_say_that_they_are_utc() {
        assert_eq!(utc("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04:05 UTC");
        assert_eq!(utc("soon\x1b"), "soon\\u{1b}");
    }

    #[test]
    fn durations_show_their_two_largest_units() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1s"),
            (61_000, "1m 1s"),
            (3_600_000, "1h"),
            (3_601_000, "1h"),
            (90_000_000, "1d 1h"),
            (86_400_000 * 400, "400d"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn sizes_have_one_decimal() {
        for (count, text) in [(0, "0.0 KiB"), (1536, "1.5 KiB"), (300 << 20, "300.0 MiB"), (5 << 30, "5.0 GiB")] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!((cut("éééé", 4), cut("ééééé", 4)), ("éééé".into(), "ééé…".into()));
    }

    #[test]
    fn a_long_name_keeps_its_beginning_and_its_end() {
        assert_eq!(cut_middle("browser-of-the-second-team", 12), "browse…-team");
        assert_eq!(cut_middle("browser", 12), "browser");
    }

    fn shown(found: &Problem) -> String {
        anstream::adapter::strip_str(&problem(found)).to_string()
    }

    #[test]
    fn a_problem_shows_its_place_and_the_way_out() {
        let text = "App(\n    comand: \"x\",\n)\n";
        let at = text.find("comand").unwrap();
        let found = Problem::at("manifests/a.ron", text, at..at + 6, "unknown field `comand`");
        let found = found.field("comand").help("did you mean `command`?");
        let expected = "\
error: unknown field `comand`
 --> manifests/a.ron:2:5
  |
2 |     comand: \"x\",
  |     ^^^^^^ comand
  |
  = help: did you mean `command`?";
        assert_eq!(shown(&found), expected);
    }

    #[test]
    fn a_problem_with_the_file_itself_shows_the_file() {
        let found = Problem::whole("manifests", "cannot read the folder").help("make it").warning();
        assert_eq!(shown(&found), "warning: cannot read the folder\n--> manifests\n = help: make it");
    }

    #[test]
    fn a_hostile_source_line_stays_text() {
        let text = "App(about: \"\x1b[2J\u{9b}31m\u{202e}\u{200f}\u{61c}é\", x: 1)";
        let at = text.find("x: 1").unwrap();
        let found = problem(&Problem::at("a\u{9b}.ron", text, at..at + 1, "unknown field `x\u{9b}`"));
        let commands = ['\u{9b}', '\u{202e}', '\u{200f}', '\u{61c}'];
        assert!(!found.contains("\x1b[2J") && !found.contains(commands), "{found:?}");
        // The caret still stands below the field: what is replaced keeps its place.
        let found = anstream::adapter::strip_str(&found).to_string();
        let column = |needle: &str| {
            let line = found.lines().find(|line| line.contains(needle)).unwrap();
            line[..line.find(needle).unwrap()].chars().count()
        };
        assert_eq!(column("x: 1"), column("^"), "{found}");
    }
}
