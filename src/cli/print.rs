//! What a terminal sees: colours, numbers as people read them, problems with their source line. All text
//! that comes from apps or files passes through `plain` before a terminal gets it.

use std::io::{self, Write};

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::model::loading::problem::{Problem, Severity};
use crate::model::protocol::StateName;

pub const GOOD: Style = AnsiColor::Green.on_default();
pub const BUSY: Style = AnsiColor::Yellow.on_default();
pub const BAD: Style = AnsiColor::Red.on_default().bold();
pub const DIM: Style = Style::new().dimmed();

/// Whoever read our output does not read any more (`kasm-void logs x | head`).
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output has left")]
pub struct ReaderLeft;

/// Writes a line to stdout; colours only where they are wanted.
pub fn say(line: &str) -> anyhow::Result<()> {
    written(writeln!(anstream::stdout(), "{line}"))
}

/// Writes one JSON value, on one line.
pub fn say_json(value: &impl Serialize) -> anyhow::Result<()> {
    let line = serde_json::to_string(value)?;
    written(writeln!(io::stdout(), "{line}"))
}

/// Writes bytes as they are.
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

/// Text without a byte that a terminal would obey: control characters and bidirectional overrides are
/// written out.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.extend(c.escape_unicode()),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// A line of an app's output: its colours are taken out, tabs stay, and the rest is as [`plain`].
pub fn plain_output(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line));
    let colourless = anstream::adapter::strip_str(&text).to_string();
    colourless.split('\t').map(plain).collect::<Vec<_>>().join("\t")
}

pub fn state_style(state: StateName) -> Style {
    match state {
        StateName::Running => GOOD,
        StateName::Starting | StateName::Stopping | StateName::Backoff => BUSY,
        StateName::Crashed | StateName::GaveUp => BAD,
        StateName::Stopped => DIM,
    }
}

/// The two largest units: `3d 4h`, `2m 5s`, `900ms`.
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

pub fn bytes(count: u64) -> String {
    let (unit, size) = match count {
        0..=0xfffff => ("KiB", 10),
        0x100000..=0x3fffffff => ("MiB", 20),
        _ => ("GiB", 30),
    };
    format!("{:.1} {unit}", count as f64 / (1u64 << size) as f64)
}

/// No longer than `most` characters.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.into(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

/// A problem as compilers show it: where, the source line with a caret, and the way out.
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
            title.element(Snippet::source(&problem.source).line_start(line).path(&file).annotation(caret))
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
    fn nothing_from_outside_commands_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\r\u{9b}1m\u{202e}é\t漢"), "a\\u{1b}[2Jb\\r\\u{9b}1m\\u{202e}é\\t漢");
        assert_eq!(plain_output(b"\x1b[31mred\x1b[0m\x1b]0;title\x07 \xff\x08\tx\r"), "red \u{fffd}\tx");
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
        let text = "App(about: \"\x1b[2J\u{202e}\", x: 1)";
        let at = text.find("x: 1").unwrap();
        let shown = problem(&Problem::at("a.ron", text, at..at + 1, "unknown field `x`"));
        assert!(!shown.contains("\x1b[2J") && !shown.contains('\u{202e}'), "{shown:?}");
    }
}
