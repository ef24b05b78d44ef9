//! What the live view looks like.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::screen::{Said, ScreenInput};
use super::*;
use crate::cli::tests::app;
use crate::model::exit::Exit;
use crate::model::protocol::{AppStatus, Snapshot};

const ALL: Abilities = Abilities { colour: true, unicode: true };

fn drawn(screen: &LiveView, abilities: Abilities) -> Buffer {
    let (columns, rows) = screen.size;
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(screen, abilities, frame)).unwrap();
    terminal.backend().buffer().clone()
}

/// The screen as text, without the spaces at the ends of lines.
pub fn text(screen: &LiveView) -> String {
    lines_of(&drawn(screen, ALL))
}

fn lines_of(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let rows = buffer.content.chunks(width);
    let rows = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_string());
    rows.collect::<Vec<_>>().join("\n")
}

fn apps() -> Vec<AppStatus> {
    let browser = AppStatus {
        about: "Chromium".into(),
        pid: Some(1234),
        uptime_ms: Some(3 * 3_600_000 + 240_000),
        restarts: 2,
        memory_bytes: Some(327_155_712),
        cpu_ms: Some(0),
        ..app("browser", StateName::Running)
    };
    let dies = AppStatus {
        restarts: 7,
        last_exit: Some(Exit::Code(3)),
        next_retry_ms: Some(12_000),
        detail: "retry 3".into(),
        ..app("dies", StateName::Backoff)
    };
    let gave_up = AppStatus { last_exit: Some(Exit::Code(3)), restarts: 5, ..app("zeta", StateName::GaveUp) };
    vec![browser, dies, gave_up]
}

fn screen(size: (u16, u16)) -> LiveView {
    let mut screen = LiveView::new(size);
    let mut apps = apps();
    screen.take(ScreenInput::Apps(Snapshot { apps: apps.clone(), ..Snapshot::default() }, Duration::ZERO));
    apps[0].cpu_ms = Some(1234);
    screen.take(ScreenInput::Apps(Snapshot { apps, ..Snapshot::default() }, Duration::from_secs(1)));
    screen.take(ScreenInput::Output { app: "zeta".into(), first: true, bytes: b"one\ntwo\tthree\n".to_vec() });
    screen
}

#[test]
fn eighty_columns_show_apps_output_and_keys() {
    let expected = "
 kasm-void · 1 gave up, 1 waiting for a retry, 1 running
NAME     STATE      UPTIME  RESTARTS     MEMORY     CPU  NOTE
zeta     GaveUp          -         5          -       -  exit code 3
dies     Backoff         -         7          -       -  next start in 12s; exi…
browser  Running     3h 4m         2  312.0 MiB    123%  Chromium
 output of zeta · zeta gave up: exit code 3 · `kasm-void start zeta` starts it …
one
two     three





q quit  ? help  s start  x stop  r restart  l output  e events  / search";
    let mut screen = screen((80, 14));
    assert_eq!(format!("\n{}", text(&screen)), expected, "{}", text(&screen));
    screen.take(ScreenInput::Answered(Said { done: true, text: "zeta is running".into() }));
    assert!(text(&screen).ends_with("\nzeta is running"), "{}", text(&screen));
}

#[test]
fn the_help_fits_eighty_columns() {
    for (keys, what) in HELP {
        assert!(help_line(keys, what).width() <= 80, "{what}");
    }
}

#[test]
fn a_job_that_failed_says_so_in_its_row() {
    let failed = AppStatus { detail: "failed: exit code 3".into(), ..app("migrate", StateName::Stopped) };
    let mut screen = LiveView::new((80, 24));
    screen.take(ScreenInput::Apps(Snapshot { apps: vec![failed], ..Snapshot::default() }, Duration::ZERO));
    assert!(text(&screen).contains("failed: exit code 3"), "{}", text(&screen));
}

#[test]
fn every_size_is_drawn() {
    for (columns, rows) in [(0, 0), (1, 1), (20, 5), (40, 8), (80, 24), (200, 50)] {
        let mut screen = screen((columns, rows));
        for keys in ["", "?", "?", "x", "n", "f", "web", "\u{1b}"] {
            keys.chars().for_each(|letter| {
                let code = match letter {
                    '\u{1b}' => ratatui::crossterm::event::KeyCode::Esc,
                    letter => ratatui::crossterm::event::KeyCode::Char(letter),
                };
                screen.take(ScreenInput::Key(code.into()));
            });
            text(&screen);
        }
    }
}

#[test]
fn a_terminal_without_unicode_or_colour_gets_none() {
    let mut screen = screen((80, 24));
    screen.take(ScreenInput::Output { app: "zeta".into(), first: true, bytes: "caf\u{e9} \u{6f22}\n".into() });
    let buffer = drawn(&screen, Abilities { colour: false, unicode: false });
    assert!(lines_of(&buffer).is_ascii(), "{}", lines_of(&buffer));
    assert!(lines_of(&buffer).contains("exi~") && lines_of(&buffer).contains("caf? ?"), "{}", lines_of(&buffer));
    assert!(buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let colourful = drawn(&screen, ALL);
    assert!(colourful.content.iter().any(|cell| cell.fg == Color::Red), "trouble is red");
}

#[test]
fn text_of_others_commands_no_terminal() {
    let mut hostile = app("web", StateName::Running);
    hostile.about = "a\u{1b}[2J\u{9b}31m\u{202e}".into();
    hostile.stale = Some("x\u{1b}[2J".into());
    let mut screen = LiveView::new((120, 20));
    let problems = vec!["\u{1b}]0;title\u{7}".into()];
    screen.take(ScreenInput::Apps(Snapshot { apps: vec![hostile], problems, ..Snapshot::default() }, Duration::ZERO));
    let output = "\u{1b}[2J\u{9b}31m\u{202e}\u{7}\r\n".into();
    screen.take(ScreenInput::Output { app: "web".into(), first: true, bytes: output });
    let text = text(&screen);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
}

#[test]
fn long_lines_are_wrapped_and_what_is_searched_for_stands_out() {
    assert_eq!(wrapped("abcdef", 4), ["abcd", "ef"]);
    assert_eq!(wrapped("漢漢漢", 5), ["漢漢", "漢"]);
    assert_eq!(wrapped("", 5), [""]);
    assert_eq!(without_tabs("a\tb"), "a       b");
    let spans: Vec<(String, bool)> =
        marked("an error", "ERR").spans.iter().map(|span| (span.content.to_string(), span.style == FOUND)).collect();
    assert_eq!(spans, [("an error".to_string(), false)]);
    let spans = marked("an error", "err").spans;
    assert_eq!((&*spans[1].content, spans[1].style), ("err", FOUND));
}

#[test]
fn a_long_list_follows_the_chosen_app() {
    let apps: Vec<AppStatus> = (0..50).map(|i| app(&format!("app-{i:02}"), StateName::Running)).collect();
    let mut screen = LiveView::new((80, 24));
    screen.take(ScreenInput::Apps(Snapshot { apps, ..Snapshot::default() }, Duration::ZERO));
    assert!(text(&screen).contains("app-09") && !text(&screen).contains("app-10"));
    for _ in 0..12 {
        screen.take(ScreenInput::Key(ratatui::crossterm::event::KeyCode::Down.into()));
    }
    assert!(text(&screen).contains("app-12") && !text(&screen).contains("app-02"), "{}", text(&screen));
}
