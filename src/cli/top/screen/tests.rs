//! What keys and answers do to the live view.

use proptest::prelude::*;

use super::*;
use crate::cli::tests::app;
use crate::model::protocol::StateName;

pub fn key(code: KeyCode) -> ScreenInput {
    ScreenInput::Key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn control(letter: char) -> ScreenInput {
    ScreenInput::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL))
}

fn apps(names: &[&str]) -> ScreenInput {
    let app =
        |name: &&str| AppStatus { actions: vec!["reload".into(), "reset".into()], ..app(name, StateName::Running) };
    let snapshot = Snapshot { apps: names.iter().map(app).collect(), ..Snapshot::default() };
    ScreenInput::Apps(snapshot, Duration::ZERO)
}

fn screen() -> LiveView {
    let mut screen = LiveView::new((80, 24));
    assert_eq!(screen.take(apps(&["a", "b"])), [ScreenRequest::Follow("a".into())]);
    screen
}

fn typed(screen: &mut LiveView, text: &str) -> Vec<ScreenRequest> {
    text.chars().flat_map(|letter| screen.take(key(KeyCode::Char(letter)))).collect()
}

fn change(app: &str, verb: Verb) -> ScreenRequest {
    ScreenRequest::Change { app: app.into(), verb }
}

fn output(app: &str, first: bool, text: &str) -> ScreenInput {
    ScreenInput::Output { app: app.into(), first, bytes: text.into() }
}

fn lower(screen: &LiveView) -> Vec<String> {
    screen.lower().upwards().collect()
}

#[test]
fn keys_act_on_the_chosen_app() {
    let mut screen = screen();
    assert_eq!(typed(&mut screen, "r"), [change("a", Verb::Restart)]);
    assert_eq!(screen.take(key(KeyCode::Down)), [ScreenRequest::Follow("b".into())]);
    assert_eq!(typed(&mut screen, "s"), [change("b", Verb::Start)]);
    assert_eq!(screen.take(key(KeyCode::Down)), [], "there is no app below");
}

#[test]
fn a_stop_is_confirmed() {
    let mut screen = screen();
    assert_eq!(typed(&mut screen, "xn"), []);
    assert_eq!(screen.mode, Mode::Browse);
    assert_eq!(typed(&mut screen, "xy"), [change("a", Verb::Stop)]);
    assert_eq!(typed(&mut screen, "x"), []);
    screen.take(apps(&["b"]));
    assert_eq!(typed(&mut screen, "y"), [], "the app in question is gone");
}

#[test]
fn actions_are_chosen_from_the_manifest() {
    let mut screen = screen();
    typed(&mut screen, "a");
    screen.take(key(KeyCode::Right));
    screen.take(key(KeyCode::Right));
    assert_eq!(screen.take(key(KeyCode::Enter)), [change("a", Verb::Do("reset".into()))]);
    screen.take(ScreenInput::Apps(
        Snapshot { apps: vec![app("a", StateName::Running)], ..Snapshot::default() },
        Duration::ZERO,
    ));
    typed(&mut screen, "a");
    assert_eq!(screen.mode, Mode::Browse);
    assert!(screen.answer.as_ref().is_some_and(|answer| answer.text.contains("no actions")));
}

#[test]
fn output_of_another_app_is_not_shown() {
    let mut screen = screen();
    screen.take(output("a", true, "one\n"));
    screen.take(output("b", true, "two\n"));
    assert_eq!(lower(&screen), ["one"]);
    screen.take(key(KeyCode::Down));
    assert_eq!(lower(&screen), [""; 0]);
    screen.take(output("a", false, "late\n"));
    screen.take(output("b", true, "two\n"));
    assert_eq!(lower(&screen), ["two"]);
    screen.take(output("b", true, "again\n"));
    assert_eq!(lower(&screen), ["again"], "a new supervisor sends everything again");
}

#[test]
fn events_are_a_key_away() {
    let mut screen = screen();
    screen.take(ScreenInput::Event("app.launching a".into()));
    assert_eq!(lower(&screen), [""; 0]);
    typed(&mut screen, "e");
    assert_eq!(lower(&screen), ["app.launching a"]);
    screen.take(key(KeyCode::Tab));
    assert_eq!(screen.shown, Shown::Output);
}

#[test]
fn a_filter_is_typed_and_left() {
    let mut screen = screen();
    assert_eq!(typed(&mut screen, "fb"), [ScreenRequest::Follow("b".into())]);
    assert_eq!((screen.apps.len(), &screen.mode), (1, &Mode::Filter));
    screen.take(key(KeyCode::Enter));
    assert_eq!((screen.apps.len(), &screen.mode), (1, &Mode::Browse));
    screen.take(key(KeyCode::Esc));
    assert_eq!(screen.apps.len(), 2);
    typed(&mut screen, "fxyz");
    screen.take(control('u'));
    assert_eq!((screen.apps.len(), screen.apps.text()), (2, ""));
    screen.take(key(KeyCode::Esc));
    assert_eq!(screen.mode, Mode::Browse);
}

#[test]
fn a_search_says_when_nothing_is_found() {
    let mut screen = screen();
    screen.take(output("a", true, "an Error\nfine\n"));
    typed(&mut screen, "/error");
    screen.take(key(KeyCode::Enter));
    assert_eq!((lower(&screen), &screen.answer), (vec!["an Error".to_string()], &None));
    typed(&mut screen, "N");
    assert!(screen.answer.as_ref().is_some_and(|answer| answer.text == "no older line contains error"));
    screen.take(key(KeyCode::Esc));
    assert_eq!(screen.lower().search(), None);
    typed(&mut screen, "n");
    assert!(screen.answer.as_ref().is_some_and(|answer| answer.text.contains("type /")));
}

#[test]
fn any_mode_can_be_quit() {
    for keys in ["", "x", "a", "f", "/", "?"] {
        let mut screen = screen();
        typed(&mut screen, keys);
        assert_eq!(screen.take(control('c')), [ScreenRequest::Quit], "after {keys:?}");
    }
    assert_eq!(screen().take(key(KeyCode::Char('q'))), [ScreenRequest::Quit]);
    assert_eq!(screen().take(control('z')), [ScreenRequest::Suspend]);
    assert_eq!(screen().take(ScreenInput::NoMoreKeys), [ScreenRequest::Quit]);
}

#[test]
fn a_lost_supervisor_is_told_until_one_answers() {
    let mut screen = screen();
    screen.take(ScreenInput::Lost("no supervisor is running".into()));
    assert!(screen.lost.is_some() && screen.apps.len() == 2, "the last state stays in view");
    screen.take(apps(&["a"]));
    assert!(screen.lost.is_none() && screen.apps.len() == 1);
}

fn any_input() -> impl Strategy<Value = ScreenInput> {
    let keys = prop::sample::select(
        "qsxralefznNgGkjbyYh?/[] \u{e9}"
            .chars()
            .map(KeyCode::Char)
            .chain([
                KeyCode::Up,
                KeyCode::Down,
                KeyCode::PageUp,
                KeyCode::PageDown,
                KeyCode::Home,
                KeyCode::End,
                KeyCode::Enter,
                KeyCode::Esc,
                KeyCode::Tab,
                KeyCode::Backspace,
            ])
            .collect::<Vec<_>>(),
    );
    prop_oneof![
        8 => keys.prop_map(key),
        1 => prop::sample::subsequence(vec!["a", "b", "c", "d"], 0..=4).prop_map(|names| apps(&names)),
        1 => (0u16..200, 0u16..60).prop_map(|(columns, rows)| ScreenInput::Resized(columns, rows)),
        1 => "[ab\n\t\u{1b}]{0,40}".prop_map(|text| output("a", false, &text)),
        1 => Just(ScreenInput::Lost("gone".into())),
    ]
}

proptest! {
    /// Whatever happens in whatever order, the view can be drawn at any size, and acts only on apps that exist.
    #[test]
    fn no_order_of_keys_and_answers_is_too_much(inputs in prop::collection::vec(any_input(), 0..60)) {
        let mut screen = LiveView::new((80, 24));
        for input in inputs {
            for request in screen.take(input) {
                if let ScreenRequest::Change { app, .. } | ScreenRequest::Follow(app) = request {
                    prop_assert!(screen.apps.knows(&app));
                }
            }
            let rows = screen.rows();
            prop_assert!(rows.apps + rows.lower <= screen.size.1);
        }
        crate::cli::top::draw::tests::text(&screen);
    }
}
