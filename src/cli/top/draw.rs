//! Draws the live view: the apps, below them the output of one or the events, and what the keys do. Reads the state and
//! changes nothing.

mod table;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::screen::{LiveView, Mode, Rows, Shown};
use super::scrollback::{Scrollback, matches};
use crate::cli::print::{cut, plain};
use crate::cli::status;
use crate::model::protocol::StateName;

/// The abilities of the terminal.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    pub colour: bool,
    pub unicode: bool,
}

const TITLE: Style = Style::new().add_modifier(Modifier::REVERSED);
const KEY: Style = Style::new().add_modifier(Modifier::BOLD);
const TROUBLE: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const FOUND: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything.
pub fn draw(screen: &LiveView, abilities: Abilities, frame: &mut Frame<'_>) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let Rows { apps, lower } = screen.rows();
    let mut rows = Rest { area, next: 0 };
    rows.line(buffer, title(screen, area.width.into()).style(TITLE));
    if screen.mode == Mode::Help {
        let left = usize::from(area.height.saturating_sub(2));
        HELP.iter().take(left).for_each(|(keys, what)| rows.line(buffer, help_line(keys, what)));
    } else {
        table::lines(screen, area.width.into(), apps.into()).into_iter().for_each(|line| rows.line(buffer, line));
        rows.next = apps + 2;
        rows.line(buffer, lower_title(screen, area.width.into()).style(TITLE));
        let text = lower_lines(screen.lower(), area.width.into(), lower.into());
        text.into_iter().for_each(|line| rows.line(buffer, line));
    }
    rows.next = area.height.saturating_sub(1);
    rows.line(buffer, footer(screen, area.width.into()));
    restrict(buffer, abilities);
}

/// The rows that are not drawn yet.
struct Rest {
    area: Rect,
    next: u16,
}

impl Rest {
    /// Draws a line over the whole width, if there is room for it.
    fn line(&mut self, buffer: &mut Buffer, line: Line<'_>) {
        if self.next < self.area.height {
            line.render(Rect { y: self.area.y + self.next, height: 1, ..self.area }, buffer);
            self.next += 1;
        }
    }
}

/// Takes away what the terminal cannot show.
fn restrict(buffer: &mut Buffer, abilities: Abilities) {
    for cell in &mut buffer.content {
        if !abilities.colour {
            (cell.fg, cell.bg) = (Color::Reset, Color::Reset);
        }
        if !abilities.unicode && !cell.symbol().is_ascii() {
            let plain = match cell.symbol() {
                "…" => "~",
                "·" | "─" => "-",
                _ => "?",
            };
            cell.set_symbol(plain);
        }
    }
}

/// How many apps are in which state, and what concerns the whole session.
fn title(screen: &LiveView, width: usize) -> Line<'static> {
    let snapshot = screen.apps.snapshot();
    if let Some(why) = &screen.lost {
        return filled(Span::styled(format!(" {}", plain(why)), TROUBLE), width);
    }
    let names = [
        (StateName::GaveUp, "gave up"),
        (StateName::Crashed, "crashed"),
        (StateName::Backoff, "waiting for a retry"),
        (StateName::Stopping, "stopping"),
        (StateName::Starting, "starting"),
        (StateName::Running, "running"),
        (StateName::Stopped, "stopped"),
    ];
    let count = |state| snapshot.apps.iter().filter(|app| app.state == state).count();
    let counts = names.into_iter().map(|(state, name)| (count(state), name)).filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, name)| format!("{count} {name}")).collect();
    let mut text = format!(" kasm-void · {}", if counts.is_empty() { "no apps".into() } else { counts.join(", ") });
    if !screen.apps.text().is_empty() {
        text.push_str(&format!(" · {} shown", screen.apps.len()));
    }
    if snapshot.staging {
        text.push_str(" · the steps of workspace.ron are running");
    }
    if snapshot.draining {
        text.push_str(" · stopping everything");
    }
    match snapshot.problems.len() {
        0 => {}
        1 => text.push_str(&format!(" · {}", plain(&snapshot.problems[0]))),
        count => text.push_str(&format!(" · {count} problems: {}", plain(&snapshot.problems[0]))),
    }
    filled(Span::raw(text), width)
}

/// One line of this width, so that its style covers it.
fn filled(span: Span<'static>, width: usize) -> Line<'static> {
    let text = cut(&span.content, width);
    let fill = " ".repeat(width.saturating_sub(text.width()));
    Line::from(Span::styled(text + &fill, span.style))
}

/// The title of the lower part, and the facts about the selected app.
fn lower_title(screen: &LiveView, width: usize) -> Line<'static> {
    let mut parts = match (screen.shown, screen.selected()) {
        (Shown::Events, _) => vec!["events".to_string()],
        (Shown::Output, None) => vec!["output".to_string()],
        (Shown::Output, Some(app)) => {
            let mut parts = vec![format!("output of {}", plain(&app.name))];
            parts.extend(status::notes(app).iter().map(|note| anstream::adapter::strip_str(note).to_string()));
            parts
        }
    };
    if let Some(text) = screen.lower().search() {
        parts.insert(1, format!("/{}", plain(&text)));
    }
    if screen.lower().below() > 0 {
        parts.insert(1, format!("{} more lines below", screen.lower().below()));
    }
    let text = parts.iter().flat_map(|part| part.lines()).map(str::trim).collect::<Vec<_>>().join(" · ");
    filled(Span::raw(format!(" {text}")), width)
}

/// The last lines that fit, long ones wrapped.
fn lower_lines(text: &Scrollback, width: usize, rows: usize) -> Vec<Line<'static>> {
    let search = text.search().unwrap_or_default();
    let mut lines: Vec<Line<'static>> = Vec::new();
    for line in text.upwards() {
        if lines.len() >= rows {
            break;
        }
        let parts = wrapped(&without_tabs(&line), width);
        lines.extend(parts.into_iter().rev().map(|part| marked(&part, &search)));
    }
    lines.truncate(rows);
    lines.reverse();
    lines
}

/// A line in parts that fit the width; one part if it is empty.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut used = 0;
    for letter in line.chars() {
        let wide = letter.width().unwrap_or(0);
        if used + wide > width && used > 0 {
            parts.push(String::new());
            used = 0;
        }
        used += wide;
        if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    parts
}

fn without_tabs(line: &str) -> String {
    let mut text = String::new();
    let mut column = 0;
    for letter in line.chars() {
        match letter {
            '\t' => {
                let fill = 8 - column % 8;
                text.push_str(&" ".repeat(fill));
                column += fill;
            }
            letter => {
                text.push(letter);
                column += letter.width().unwrap_or(0);
            }
        }
    }
    text
}

/// A line in which the searched text stands out.
fn marked(line: &str, search: &str) -> Line<'static> {
    let mut spans = Vec::new();
    let mut from = 0;
    for found in matches(line, search) {
        spans.push(Span::raw(line[from..found.start].to_string()));
        spans.push(Span::styled(line[found.clone()].to_string(), FOUND));
        from = found.end;
    }
    spans.push(Span::raw(line[from..].to_string()));
    Line::from(spans)
}

/// The keys of the last line, the most important first: a narrow terminal shows as many as fit.
const KEYS: &[(&str, &str)] = &[
    ("q", "quit"),
    ("?", "help"),
    ("s", "start"),
    ("x", "stop"),
    ("r", "restart"),
    ("l", "output"),
    ("e", "events"),
    ("/", "search"),
    ("f", "filter"),
    ("a", "actions"),
    ("Enter", "zoom"),
];

fn footer(screen: &LiveView, width: usize) -> Line<'static> {
    let keys = |keys: &[(&str, &str)]| {
        let mut spans = Vec::new();
        let mut used = 0;
        for (key, what) in keys {
            used += key.width() + what.width() + 3;
            if used <= width + 2 {
                spans.extend([Span::styled(key.to_string(), KEY), Span::raw(format!(" {what}  "))]);
            }
        }
        Line::from(spans)
    };
    match &screen.mode {
        Mode::Browse => match &screen.answer {
            Some(answer) => {
                let style = if answer.done { Style::new() } else { TROUBLE };
                Line::from(Span::styled(cut(&plain(&answer.text), width), style))
            }
            None => keys(KEYS),
        },
        Mode::ConfirmStop(app) => Line::from(vec![
            Span::styled(format!("Stop {}? ", plain(app)), TROUBLE),
            Span::styled("y", KEY),
            Span::raw(" stop it; any other key leaves it running"),
        ]),
        Mode::ChooseAction { app, actions, chosen } => {
            let mut spans = vec![Span::raw(format!("{}: ", plain(app)))];
            for (at, action) in actions.iter().enumerate() {
                let style = if at == *chosen { TITLE } else { Style::new() };
                spans.extend([Span::styled(format!(" {} ", plain(action)), style), Span::raw(" ")]);
            }
            spans.extend([
                Span::styled("Enter", KEY),
                Span::raw(" run  "),
                Span::styled("Esc", KEY),
                Span::raw(" back"),
            ]);
            Line::from(spans)
        }
        Mode::Filter => prompt("Show apps whose name contains: ", screen.apps.text(), width),
        Mode::Search(text) => prompt("/", text, width),
        Mode::Help => keys(&[("any key", "back")]),
    }
}

/// A line of text that is being typed, with its end in view.
fn prompt(label: &str, text: &str, width: usize) -> Line<'static> {
    let text = plain(text);
    let room = width.saturating_sub(label.width() + 1);
    let hidden = text.width().saturating_sub(room);
    let shown: String = text.chars().skip(hidden).collect();
    Line::from(vec![Span::styled(label.to_string(), KEY), Span::raw(shown), Span::styled(" ", TITLE)])
}

/// Every key.
const HELP: &[(&str, &str)] = &[
    ("", ""),
    ("Up Down, k j", "choose an app; [ and ] move by a page"),
    ("s", "start it; one that waits for its next retry starts at once"),
    ("x", "stop it, after a question"),
    ("r", "restart it"),
    ("a", "run an action of its manifest"),
    ("f", "show only the apps whose name contains a text"),
    ("", ""),
    ("l", "show the app's output below"),
    ("e", "show events below; Tab changes between the two"),
    ("Enter, z", "give the lower part the whole screen, and back"),
    ("PgUp PgDn, b Space", "scroll the lower part; Home and End go to its ends"),
    ("/", "search in it; n finds the next newer line, N an older one"),
    ("Esc", "leave the search, the whole screen, the filter"),
    ("", ""),
    ("Ctrl-L", "draw the screen again"),
    ("Ctrl-Z", "suspend"),
    ("q, Ctrl-C", "quit; the apps keep running"),
    ("", ""),
    ("CPU", "percent of one CPU, of the app and everything it started"),
];

fn help_line(keys: &str, what: &str) -> Line<'static> {
    Line::from(vec![Span::styled(format!("  {keys:20}"), KEY), Span::raw(what.to_string())])
}

#[cfg(test)]
pub mod tests;
