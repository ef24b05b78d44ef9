//! A thousand apps, far more than any desktop has: they start, crash and restart together.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

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

/// Writes down the app's name and run, its score, and the signals that it ignores.
const FINDS: &str = r#"echo "$KASM_VOID_APP" $(cat /proc/$$/oom_score_adj) $(grep SigIgn /proc/$$/status)
exec sleep infinity
"#;

#[test]
fn apps_that_start_together_each_get_what_is_theirs() {
    const APPS: usize = 60;
    let score = |number: usize| if number % 7 == 3 { 100 + number } else { 0 };
    let fails = |number: usize| number % 5 == 4;
    let mut session = Session::new().program("finds", FINDS);
    fs::write(session.bin().join("garbage"), "garbage").expect("a file");
    fs::set_permissions(session.bin().join("garbage"), Permissions::from_mode(0o755)).expect("a mode");
    for number in 0..APPS {
        let program = if fails(number) { "garbage" } else { "finds" };
        let limits = match score(number) {
            0 => String::new(),
            score => format!("limits: Limits(oom_score_adj: {score}), "),
        };
        let manifest = format!(r#"App(command: "${{BIN}}/{program}", {limits}restart: Never)"#);
        session = session.app(&format!("app-{number:02}"), &manifest);
    }
    let session = session.start();
    for run in 1..=2 {
        for number in 0..APPS {
            let name = format!("app-{number:02}");
            if fails(number) {
                let app = session.wait(&name, "has failed", |app| app.run == run && app.last_exit.is_some());
                let Some(Exit::SpawnFailed(why)) = app.last_exit else { panic!("{name}: {:?}", app.last_exit) };
                assert!(why.contains("garbage` is neither a program nor a script"), "{why}");
                continue;
            }
            session.wait_state(&name, StateName::Running);
            until_ok(&format!("run {run} of {name} has found what is its own, and no other; but"), || {
                let log = session.ok(&["logs", &name]);
                let found: Vec<&str> = log.lines().filter(|line| line.contains("SigIgn")).collect();
                let last = found.last().filter(|_| found.len() == run as usize).ok_or(&log)?;
                let (own, ignored) = last.rsplit_once(" SigIgn: ").ok_or(&log)?;
                // The C library keeps signals 32 and 33 to itself, and cannot change them.
                let ignored = u64::from_str_radix(ignored, 16).map_err(|error| error.to_string())? & !(3 << 31);
                let is_right = own == format!("{name}:{run} {}", score(number)) && ignored == 0;
                if is_right { Ok(()) } else { Err(log) }
            });
        }
        if run == 1 {
            let all: Vec<String> = (0..APPS).map(|number| format!("app-{number:02}")).collect();
            let all: Vec<&str> = ["restart"].into_iter().chain(all.iter().map(String::as_str)).collect();
            session.cli(&all); // says which apps cannot start
        }
    }
    let own = fs::read_to_string(format!("/proc/{}/oom_score_adj", session.supervisor_pid())).expect("a score");
    assert_eq!(own.trim(), "0");
}

#[test]
fn apps_that_end_with_their_parent_live_as_long_as_the_supervisor() {
    let manifest = r#"App(command: "setpriv", args: ["--pdeathsig", "KILL", "sleep", "infinity"], restart: Never,
                         backoff: Backoff(stable_after: "10ms"))"#;
    let mut session = Session::new();
    let names: Vec<String> = (0..20).map(|number| format!("app-{number:02}")).collect();
    for name in &names {
        session = session.app(name, manifest);
    }
    let session = session.start();
    let sleeps = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep");
    for name in &names {
        session.wait(name, "asks for the signal and sleeps", |app| app.pid.is_some_and(sleeps));
    }
    session.ok(&["reload"]);
    let died: Vec<_> = session.status().apps.into_iter().filter(|app| app.state != StateName::Running).collect();
    assert!(died.is_empty(), "{died:#?}");
}

#[test]
fn a_supervisor_has_room_for_thousands_of_descriptors_before_it_has_threads() {
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#).start();
    session.wait_state("web", StateName::Running);
    let status = fs::read_to_string(format!("/proc/{}/status", session.supervisor_pid())).expect("a status");
    let places = status.lines().find_map(|line| line.strip_prefix("FDSize:")).and_then(|text| text.trim().parse().ok());
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    assert!(places >= Some(limit.min(4096)), "{places:?} of {limit}");
}
