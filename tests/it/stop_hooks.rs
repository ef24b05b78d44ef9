//! Steps before an app is asked to end, and after its end.

use kasm_void::model::protocol::StateName;

use crate::harness::{FOREVER, Session, alive, kill, until};

const WEB: &str = r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "1ms"),
    prestop: [Run(argv: ["${BIN}/before"], timeout: "1h")], poststop: [Run(argv: ["${BIN}/after"])])"#;

/// The app and its steps write what happens to `${DATA}/order`. The step before a stop waits for `${DATA}/go`.
fn session() -> Session {
    Session::new()
        .program(
            "web",
            "trap 'echo TERM >>\"$DATA/order\"; exit' TERM\necho up >>\"$DATA/order\"\nwhile :; do sleep .1; done\n",
        )
        .program("before", "echo prestop >>\"$DATA/order\"\nuntil [ -e \"$DATA/go\" ]; do sleep .1; done\n")
        .program("after", "echo \"poststop $KASM_VOID_EXIT $KASM_VOID_EXIT_STATUS\" >>\"$DATA/order\"\n")
        .app("web", WEB)
}

fn go(session: &Session) {
    std::fs::write(session.data().join("go"), "").expect("a file");
}

fn order(session: &Session, expected: &[&str]) {
    until("the order is complete", || (session.lines("order").len() >= expected.len()).then_some(()));
    let lines: Vec<String> = session.lines("order").iter().map(|line| line.trim_end().to_owned()).collect();
    assert_eq!(lines, expected);
}

#[test]
fn steps_run_before_a_stop_and_after_every_end() {
    let session = session().start();
    go(&session);
    let told = ["up", "prestop", "TERM", "poststop StoppedByUs", "up", "poststop Signal 9", "up"];
    order(&session, &told[..1]);
    session.ok(&["stop", "web"]);
    order(&session, &told[..4]);
    session.ok(&["start", "web"]);
    order(&session, &told[..5]);
    kill(session.pid("web"));
    order(&session, &told);
}

#[test]
fn a_supervisor_that_dies_during_these_steps_is_replaced_by_one_that_runs_them() {
    let session = session().start();
    order(&session, &["up"]);
    session.ok(&["stop", "web", "--no-wait"]);
    order(&session, &["up", "prestop"]);
    let old = session.identity().pid;
    kill(old);
    order(&session, &["up", "prestop", "prestop"]);
    go(&session);
    session.wait_state("web", StateName::Stopped);
    order(&session, &["up", "prestop", "prestop", "TERM", "poststop StoppedByUs"]);
}

#[test]
fn a_step_that_hangs_does_not_outlast_the_budget() {
    let mut session = session().workspace(r#"Workspace(stop_budget: "1s")"#).start();
    order(&session, &["up"]);
    session.ok(&["drain"]);
    assert!(session.wait_end().success());
    order(&session, &["up", "prestop"]);
}

#[test]
fn what_a_step_after_the_end_leaves_in_the_background_ends_before_the_app_is_down() {
    let leaves = "setsid \"$BIN/left\" &\nuntil [ -s \"$DATA/left.pids\" ]; do sleep .1; done\n";
    let session = Session::new()
        .stayer("web")
        .program("left", &format!("echo $$ >>\"$DATA/left.pids\"\n{FOREVER}"))
        .program("after", leaves)
        .app("web", r#"App(command: "${BIN}/web", poststop: [Run(argv: ["${BIN}/after"])])"#)
        .start();
    session.pid("web");
    session.ok(&["stop", "web"]);
    let left: i32 = session.wait_lines("left.pids", 1)[0].parse().expect("a pid");
    assert!(!alive(left));
}
