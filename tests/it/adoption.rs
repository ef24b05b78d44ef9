//! The supervisor dies at any moment: no app is restarted, doubled or forgotten, and no output is lost.

use crate::harness::{FOREVER, Session, alive, kill, until};

const WEB: &str = r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "0s"))"#;

#[test]
fn apps_outlive_their_supervisor_and_are_adopted_by_the_next() {
    let mut session = Session::new().stayer("web").stayer("other").app("web", WEB);
    session.edit("other", r#"App(command: "${BIN}/other")"#);
    session.start_supervisor();
    let pids = (session.pid("web"), session.pid("other"));
    session.kill_supervisor();
    session.start_supervisor();
    assert_eq!((session.pid("web"), session.pid("other")), pids);
    let app = session.find("web").expect("the app");
    assert!(app.adopted, "{app:#?}");
    assert_eq!(session.lines("web.pids").len(), 1);
}

#[test]
fn an_adopted_app_is_watched_and_comes_back() {
    let mut session = Session::new().stayer("web").app("web", WEB).start();
    let first = session.pid("web");
    session.kill_supervisor();
    session.start_supervisor();
    assert_eq!(session.pid("web"), first);
    kill(first);
    session.next_pid("web", first);
    assert_eq!(session.wait_lines("web.pids", 2).len(), 2);
}

#[test]
fn an_app_that_died_with_the_supervisor_is_started_again() {
    let mut session = Session::new().stayer("web").app("web", WEB).start();
    let first = session.pid("web");
    session.kill_supervisor();
    kill(first);
    session.start_supervisor();
    session.next_pid("web", first);
}

#[test]
fn helpers_of_an_app_that_died_meanwhile_are_swept() {
    let body = format!("(setsid \"$BIN/helper\" &)\necho $$ >>\"$DATA/web.pids\"\n{FOREVER}");
    let mut session = Session::new().stayer("helper").program("web", &body).app("web", WEB).start();
    let first = session.pid("web");
    let helper: i32 = session.wait_lines("helper.pids", 1)[0].parse().expect("a pid");
    session.kill_supervisor();
    kill(first);
    session.start_supervisor();
    session.next_pid("web", first);
    until("the first helper is gone", || (!alive(helper)).then_some(()));
}

#[test]
fn helpers_of_an_adopted_app_are_gone_before_the_respawn() {
    let body = format!("(setsid \"$BIN/helper\" &)\necho $$ >>\"$DATA/web.pids\"\n{FOREVER}");
    let mut session = Session::new().stayer("helper").program("web", &body).app("web", WEB).start();
    let first = session.pid("web");
    let helper: i32 = session.wait_lines("helper.pids", 1)[0].parse().expect("a pid");
    session.kill_supervisor();
    session.start_supervisor();
    assert_eq!(session.pid("web"), first);
    kill(first);
    session.wait_lines("web.pids", 2);
    assert!(!alive(helper), "helper {helper} outlived the adopted app");
}

#[test]
fn no_line_of_output_is_lost_while_nobody_supervises() {
    // Each number is first written where the story sees it, then said.
    let body =
        "number=0\nwhile :; do number=$((number + 1)); echo $number >>\"$DATA/said\"; echo $number; sleep 0.02; done\n";
    let manifest = r#"App(command: "${BIN}/counts", log: Log(file: "${DATA}/count.log"))"#;
    let mut session = Session::new().program("counts", body).app("counts", manifest).start();
    let pid = session.pid("counts");
    session.wait_lines("said", 10);
    session.kill_supervisor();
    let before = session.lines("said").len();
    session.wait_lines("said", before + 20);
    assert!(alive(pid), "the app died with its supervisor");
    session.start_supervisor();
    assert_eq!(session.pid("counts"), pid);

    let said = session.lines("said").len();
    let logged = session.wait_lines("count.log", said);
    let expected: Vec<String> = (1..=logged.len()).map(|number| number.to_string()).collect();
    assert_eq!(logged, expected);
}
