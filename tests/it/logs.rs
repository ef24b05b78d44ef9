//! What apps say: whole lines, in order, within the size that was asked for.

use std::fs;

use kasm_void::model::protocol::StateName;

use crate::harness::{Session, kill, until};

/// All of an app's log, the oldest rotated file first.
fn whole_log(session: &Session, name: &str, keep: u32) -> String {
    let file = |suffix: String| fs::read_to_string(session.data().join(format!("{name}{suffix}"))).unwrap_or_default();
    let rotated: String = (1..=keep).rev().map(|number| file(format!(".{number}"))).collect();
    rotated + &file(String::new())
}

#[test]
fn a_flood_is_rotated_between_lines() {
    let manifest = r#"App(command: "${BIN}/floods", restart: Never,
        log: Log(file: "${DATA}/flood.log", max_size: "64KiB", keep: 3))"#;
    let session = Session::new().program("floods", "exec seq 1000000 1200000\n").app("web", manifest).start();
    session.wait("web", "has ended", |app| app.state == StateName::Stopped && app.run == 1);
    let log = until("the last line is in the log", || {
        Some(whole_log(&session, "flood.log", 3)).filter(|log| log.ends_with("1200000\n"))
    });

    let numbers: Vec<u32> = log.lines().map(|line| line.parse().expect("a whole line")).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "lines are missing or out of order");
    assert!(numbers.len() > 3 * 64 * 1024 / 8 - 10, "only {} lines are left of three full files", numbers.len());
    for suffix in ["", ".1", ".2", ".3"] {
        let size = fs::metadata(session.data().join(format!("flood.log{suffix}"))).expect("a log").len();
        assert!(size <= 64 * 1024, "flood.log{suffix} has {size} bytes");
    }
    assert!(!session.data().join("flood.log.4").exists());
}

#[test]
fn both_outputs_of_an_app_are_in_its_log() {
    let body = "echo to stdout\necho to stderr >&2\nprintf 'no newline at the end'\n";
    let manifest = r#"App(command: "${BIN}/talks", restart: Never, log: Log(file: "${DATA}/talk.log"))"#;
    let session = Session::new().program("talks", body).app("web", manifest).start();
    until("all is in the log", || {
        let log = whole_log(&session, "talk.log", 0);
        ["to stdout", "to stderr", "no newline at the end"].iter().all(|line| log.contains(line)).then_some(())
    });
    let shown = session.ok(&["logs", "web"]);
    assert!(shown.contains("to stdout") && shown.contains("no newline at the end"), "{shown}");
}

#[test]
fn a_log_that_cannot_be_written_blocks_no_app() {
    let manifest = r#"App(command: "${BIN}/floods", restart: Never, log: Log(file: "${DATA}/file/flood.log"))"#;
    let session = Session::new().program("floods", "seq 100000\necho done >\"$DATA/done\"\n").app("web", manifest);
    fs::write(session.data().join("file"), "not a folder").expect("a file");
    let session = session.start();
    session.wait_lines("done", 1);
    until("status tells of the trouble", || {
        session.ok(&["status"]).contains("output of web is not kept").then_some(())
    });
}

#[test]
fn a_crash_is_noted_in_the_log_of_the_app() {
    let manifest = r#"App(command: "${BIN}/dies", log: Log(file: "${DATA}/dies.log"))"#;
    let session = Session::new().program("dies", "echo last words\nexit 3\n").app("web", manifest).start();
    until("the crash is noted", || {
        let log = whole_log(&session, "dies.log", 0);
        log.starts_with("last words\n[kasm-void: run 1 ended: exit code 3]\n").then_some(())
    });
}

#[test]
fn a_log_of_an_app_that_restarts_goes_on_in_the_same_file() {
    let session = Session::new()
        .program("web", "echo \"run as $$\"\nread _ <>\"$DATA/never\"\n")
        .app(
            "web",
            r#"App(command: "${BIN}/web", log: Log(file: "${DATA}/web.log"), backoff: Backoff(stable_after: "0s"))"#,
        )
        .start();
    let first = session.pid("web");
    until("the first run has spoken", || whole_log(&session, "web.log", 0).contains("run as").then_some(()));
    kill(first);
    let second = session.next_pid("web", first);
    let both = format!("run as {first}\n[kasm-void: run 1 ended: killed by SIGKILL]\nrun as {second}\n");
    until("both runs are in the log", || (whole_log(&session, "web.log", 0) == both).then_some(()));
}

#[test]
fn each_real_start_is_told_once_in_the_supervisors_log() {
    let session = Session::new()
        .stayer("web")
        .app("discord", r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "0s"))"#)
        .start();
    let first = session.pid("discord");
    kill(first);
    session.next_pid("discord", first);
    session.wait_lines("web.pids", 2);
    assert_eq!(session.supervisor_output().matches("launching discord").count(), 2);
}
