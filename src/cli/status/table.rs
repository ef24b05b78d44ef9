//! The table of `status`: one line per app, never wider than the terminal. If space is short, notes are cut first, to a
//! few columns, then the middle of long names.

use unicode_width::UnicodeWidthStr;

use super::detail;
use crate::cli::print::{self, DIM, cut, cut_middle, duration, plain, state_style};
use crate::model::exit::Exit;
use crate::model::protocol::{AppStatus, StateName};

const HEADER: [&str; 6] = ["NAME", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY"];
const NOTE: &str = "NOTE";
/// Columns between two columns.
const GAP: usize = 2;
/// Names are not cut to less than this, in columns.
const SHORTEST_NAME: usize = 12;
/// Notes that would be cut to less than this are left out, in columns. `see below` fits.
const SHORTEST_NOTE: usize = 9;

/// The lines for `apps`, header first, for a terminal of `width` columns, or `None` for no limit.
pub fn lines(apps: &[&AppStatus], width: Option<usize>) -> Vec<String> {
    let rows: Vec<[String; 6]> = apps.iter().map(|app| row(app)).collect();
    let header = HEADER.map(str::to_owned);
    let widest = |column: usize| rows.iter().chain([&header]).map(|row| row[column].width()).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..HEADER.len()).map(widest).collect();
    let others: usize = widths[1..].iter().map(|width| width + GAP).sum();
    let notes: Vec<String> = apps.iter().map(|app| note(app)).collect();
    let for_notes = if notes.iter().any(|note| !note.is_empty()) { GAP + SHORTEST_NOTE } else { 0 };
    if let Some(width) = width {
        widths[0] = widths[0].min(width.saturating_sub(others + for_notes).max(SHORTEST_NAME));
    }
    let note_room = width.map(|width| width.saturating_sub(widths[0] + others + GAP));
    let has_notes = note_room.is_none_or(|room| room >= SHORTEST_NOTE) && notes.iter().any(|note| !note.is_empty());
    let note = |text: &str| match note_room {
        _ if !has_notes => String::new(),
        Some(room) => cut(text, room),
        None => text.into(),
    };
    let mut lines = vec![format!("{DIM}{}{DIM:#}", line(&header, &widths, &note(NOTE), |state| state))];
    for ((app, row), text) in apps.iter().zip(&rows).zip(&notes) {
        let style = state_style(app.state, app.failures);
        lines.push(line(row, &widths, &note(text), |state| format!("{style}{state}{style:#}")));
    }
    lines
}

/// Builds one line. `colour` is applied after the width is measured, because colour codes have no width.
fn line(row: &[String; 6], widths: &[usize], note: &str, colour: impl Fn(String) -> String) -> String {
    let mut text = String::new();
    for (column, cell) in row.iter().enumerate() {
        let cell = if column == 0 { cut_middle(cell, widths[0]) } else { cell.clone() };
        let fill = " ".repeat(widths[column].saturating_sub(cell.width()));
        let cell = if column == 1 { colour(cell) } else { cell };
        match column {
            // Numbers are aligned to the right.
            2.. => text.push_str(&format!("{fill}{cell}")),
            _ => text.push_str(&format!("{cell}{fill}")),
        }
        text.push_str(&" ".repeat(GAP));
    }
    text.push_str(note);
    text.trim_end().to_owned()
}

fn row(app: &AppStatus) -> [String; 6] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        plain(&app.name),
        app.state.to_string(),
        or_dash(app.pid.map(|pid| pid.to_string())),
        or_dash(app.uptime_ms.map(duration)),
        app.restarts.to_string(),
        or_dash(app.memory_bytes.map(print::bytes)),
    ]
}

/// The text of the last column, the most important part first.
fn note(app: &AppStatus) -> String {
    let in_words = matches!(
        app.state,
        StateName::GaveUp | StateName::Crashed | StateName::Backoff | StateName::Starting | StateName::Stopping
    ) && (!app.detail.is_empty() || app.last_exit.is_some());
    let told = |exit: &&Exit| match app.state {
        StateName::Running => app.restarts > 0,
        // "by hand", "done" and "failed" say it already.
        StateName::Stopped => {
            let says_it = matches!(exit, Exit::StoppedByUs | Exit::Clean) || app.is_failed_job();
            !says_it || app.detail.is_empty()
        }
        _ => true,
    };
    let exit = app.last_exit.as_ref().filter(|_| !in_words).filter(told);
    let parts = [
        app.next_retry_ms.map(|wait| format!("next start in {}", duration(wait))),
        in_words.then(|| "see below".into()),
        (!in_words).then(|| detail(app)),
        exit.map(|exit| format!("last exit: {}", plain(&exit.to_string()))),
        (!in_words).then(|| plain(&app.about)),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::print::BAD;
    use crate::cli::tests::app;

    #[test]
    fn colours_change_no_letter() {
        let mut odd = app("Running", StateName::GaveUp);
        odd.last_exit = Some(Exit::NotReady("GaveUp \x1b[2J".into()));
        let lines = lines(&[&odd], None);
        assert!(lines[1].contains(&format!("Running  {BAD}GaveUp{BAD:#}")), "{lines:?}");
        assert!(!lines[1].contains("\x1b[2J"), "{lines:?}");
    }

    fn any_app() -> impl Strategy<Value = AppStatus> {
        let numbers = (0i32..5_000_000, any::<u32>(), 0u64..100_000, any::<bool>());
        ("[a-z0-9-]{1,63}", prop::sample::select(StateName::ALL), numbers, ".{0,90}", ".{0,90}").prop_map(
            |(name, state, (pid, uptime, restarts, adopted), detail, about)| AppStatus {
                pid: Some(pid),
                adopted,
                uptime_ms: Some(u64::from(uptime) * 10),
                restarts,
                last_exit: Some(Exit::HookFailed(detail.clone())),
                memory_bytes: Some(u64::from(uptime)),
                detail,
                about,
                ..app(&name, state)
            },
        )
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(apps in prop::collection::vec(any_app(), 1..6), width in 80usize..200) {
            let apps: Vec<&AppStatus> = apps.iter().collect();
            for line in lines(&apps, Some(width)) {
                let text = anstream::adapter::strip_str(&line).to_string();
                prop_assert!(text.width() <= width, "{} > {width}: {text}", text.width());
            }
        }
    }

    #[test]
    fn a_long_name_leaves_some_columns_to_the_notes() {
        let failed = AppStatus { detail: "failed: exit code 3".into(), ..app("migrate", StateName::Stopped) };
        let lines = lines(&[&app(&"n".repeat(63), StateName::Running), &failed], Some(80));
        assert!(lines[2].ends_with("failed: …"), "{lines:?}");
    }
}
