//! The table of apps in the live view.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::super::screen::LiveView;
use crate::cli::print::{self, cut, cut_middle, duration, plain, state_style};
use crate::cli::status::{self, urgency};
use crate::model::protocol::{AppStatus, StateName};

const CHOSEN: Style = Style::new().add_modifier(Modifier::REVERSED);
const FAINT: Style = Style::new().add_modifier(Modifier::DIM);

const NAME: &str = "NAME";
/// The columns between the name and the note, with their widths. All but the state are aligned to the right.
const COLUMNS: [(&str, usize); 5] = [("STATE", 8), ("UPTIME", 7), ("RESTARTS", 8), ("MEMORY", 9), ("CPU", 6)];
const NOTE: &str = "NOTE";
const GAP: &str = "  ";
/// Names are not cut to less than this.
const SHORTEST_NAME: usize = 12;
/// The note keeps this much before names are cut.
const SHORTEST_NOTE: usize = 16;

/// The header, and the rows around the chosen app.
pub fn lines(screen: &LiveView, width: usize, rows: usize) -> Vec<Line<'static>> {
    let apps = &screen.apps;
    let others: usize = COLUMNS.iter().map(|(_, width)| width + GAP.len()).sum();
    let widest = apps.visible().map(|app| plain(&app.name).width()).max().unwrap_or(0).max(NAME.len());
    let room = width.saturating_sub(others);
    let name_width = widest.min(room.saturating_sub(SHORTEST_NOTE + GAP.len()).max(SHORTEST_NAME));
    let note_width = room.saturating_sub(name_width + GAP.len());
    let heads = COLUMNS.map(|(name, _)| name.to_string());
    let mut lines = vec![row((NAME, name_width), &heads, (NOTE, note_width), Style::new()).style(FAINT)];
    let position = apps.position().unwrap_or(0);
    let above = (position + 1).saturating_sub(rows);
    for (at, app) in apps.visible().enumerate().skip(above).take(rows) {
        let style = styled(state_style(app.state, app.failures));
        let line = row((&plain(&app.name), name_width), &cells(screen, app), (&note(app), note_width), style);
        lines.push(if at == position { filled_line(line, width).style(CHOSEN) } else { line });
    }
    if apps.len() == 0 {
        let text = match apps.text() {
            "" => "no apps yet: `kasm-void new NAME -- COMMAND` writes a first manifest".into(),
            filter => format!("no app's name contains {}", plain(filter)),
        };
        lines.push(Line::from(Span::styled(text, FAINT)));
    }
    lines
}

fn filled_line(mut line: Line<'static>, width: usize) -> Line<'static> {
    line.spans.push(Span::raw(" ".repeat(width.saturating_sub(line.width()))));
    line
}

fn row(
    (name, name_width): (&str, usize),
    cells: &[String; COLUMNS.len()],
    (note, note_width): (&str, usize),
    state: Style,
) -> Line<'static> {
    let name = cut_middle(name, name_width);
    let fill = " ".repeat(name_width.saturating_sub(name.width()));
    let mut spans = vec![Span::raw(name + &fill)];
    for (at, (cell, (_, width))) in cells.iter().zip(COLUMNS).enumerate() {
        spans.push(Span::raw(GAP));
        let fill = " ".repeat(width.saturating_sub(cell.width()));
        spans.push(match at {
            0 => Span::styled(format!("{cell}{fill}"), state),
            _ => Span::raw(format!("{fill}{cell}")),
        });
    }
    spans.push(Span::raw(format!("{GAP}{}", cut(note, note_width))));
    Line::from(spans)
}

fn cells(screen: &LiveView, app: &AppStatus) -> [String; COLUMNS.len()] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        app.state.to_string(),
        or_dash(app.uptime_ms.map(duration)),
        app.restarts.to_string(),
        or_dash(app.memory_bytes.map(print::bytes)),
        or_dash(screen.apps.cpu(app).filter(|_| app.pid.is_some()).map(percent)),
    ]
}

fn percent(percent: f64) -> String {
    if percent < 99.95 { format!("{percent:.1}%") } else { format!("{percent:.0}%") }
}

/// The most important fact about an app that the other columns do not show.
fn note(app: &AppStatus) -> String {
    let exit = app.last_exit.as_ref().map(|exit| plain(&exit.to_string()));
    let detail = status::detail(app);
    match app.state {
        StateName::Backoff => {
            let wait = app.next_retry_ms.map_or(String::new(), |wait| format!("next start in {}", duration(wait)));
            [wait].into_iter().chain(exit).collect::<Vec<_>>().join("; ")
        }
        StateName::GaveUp | StateName::Crashed => exit.unwrap_or(detail),
        _ if urgency(app) == status::DOUBTFUL => "see below".into(),
        StateName::Running if !detail.is_empty() => format!("{detail}; {}", plain(&app.about)),
        StateName::Running => plain(&app.about),
        StateName::Starting | StateName::Stopping | StateName::Stopped => detail,
    }
}

/// The same style for the other library.
fn styled(style: anstyle::Style) -> Style {
    let colour = match style.get_fg_color() {
        Some(anstyle::Color::Ansi(anstyle::AnsiColor::Green)) => Some(Color::Green),
        Some(anstyle::Color::Ansi(anstyle::AnsiColor::Yellow)) => Some(Color::Yellow),
        Some(anstyle::Color::Ansi(anstyle::AnsiColor::Red)) => Some(Color::Red),
        _ => None,
    };
    let mut other = Style { fg: colour, ..Style::new() };
    if style.get_effects().contains(anstyle::Effects::BOLD) {
        other = other.add_modifier(Modifier::BOLD);
    }
    if style.get_effects().contains(anstyle::Effects::DIMMED) {
        other = other.add_modifier(Modifier::DIM);
    }
    other
}
