//! A thousand apps, far more than any desktop has: they start, crash and restart together.

use std::collections::BTreeSet;

use kasm_void::model::exit::Exit;
use kasm_void::model::protocol::{AppStatus, Snapshot, StateName};
use rustix::process::Signal;

use crate::harness::{Session, kill, send, until, until_ok};

const MANY: usize = 1000;

/// Waits until all apps run, with no pid from `old`. Returns their pids.
fn all_up(session: &Session, old: &BTreeSet<i32>) -> BTreeSet<i32> {
    let running = |status: &Snapshot| -> BTreeSet<i32> {
        let up = status.apps.iter().filter(|app| app.state == StateName::Running);
        up.filter_map(|app| app.pid).filter(|pid| !old.contains(pid)).collect()
    };
    until_ok(&format!("{MANY} apps run; it is only"), || {
        let up = running(&session.status());
        if up.len() == MANY { Ok(up) } else { Err(up.len().to_string()) }
    })
}

#[test]
fn a_thousand_apps_start_crash_and_come_back_together() {
    let mut session = Session::new();
    for number in 0..MANY {
        let manifest = r#"App(command: "/bin/sleep", args: ["infinity"], backoff: Backoff(stable_after: "10ms"))"#;
        session = session.app(&format!("app-{number:04}"), manifest);
    }
    let session = session.start();
    let first = all_up(&session, &BTreeSet::new());
    first.iter().for_each(|pid| kill(*pid));
    let second = all_up(&session, &first);

    let alive: BTreeSet<i32> = session.processes().into_iter().collect();
    assert_eq!(alive, second, "not exactly one process for each app");
    let told = session.status().apps;
    assert!(told.iter().all(|app| (app.run, app.restarts) == (2, 1)), "{told:#?}");

    // All of them end while no supervisor runs: more than the guard can report in one message.
    let supervisor = session.supervisor_pid();
    send(supervisor, Signal::STOP);
    second.iter().for_each(|pid| kill(*pid));
    kill(supervisor);
    until("the next supervisor answers", || (session.cli(&["status"]).code == Some(0)).then_some(()));
    all_up(&session, &second);
    let told = session.status().apps;
    let is_right = |app: &AppStatus| (app.run, app.restarts, &app.last_exit) == (3, 2, &Some(Exit::Signal(9)));
    assert!(told.iter().all(is_right), "{told:#?}");
}
