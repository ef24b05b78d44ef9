//! An app with a terminal of its own, held by a process of its tree.

use kasm_void::model::protocol::StateName;

use crate::harness::{Session, alive, kill, send, until};
use rustix::process::Signal;

/// A program that describes its terminal, and then tells each line that it is asked for.
const ACTOR: &str = r#"
[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo "$(stty size) $TERM" >"$DATA/actor.terminal"
echo $$ >>"$DATA/actor.pids"
trap 'echo ends; exit 7' TERM
trap 'kill -SEGV $$' USR1
printf '\033[31mred\033[0m\n'
while read -r line <>"$DATA/never"; do echo "$line"; done
"#;

fn session() -> Session {
    let manifest = r#"App(command: "${BIN}/actor", pty: true, restart: OnFailure, backoff: Backoff(first: "10ms", stable_after: "10ms"))"#;
    Session::new().program("actor", ACTOR).app("actor", manifest)
}

fn wait_output(session: &Session, line: &str) {
    wait_for(session, "actor", line);
}

fn wait_for(session: &Session, app: &str, line: &str) {
    let file = session.state().join(format!("logs/{app}.log"));
    until(&format!("the log has {line}"), || {
        // Not `lines()`, which would hide that a terminal has changed the end of a line.
        std::fs::read_to_string(&file).ok()?.split('\n').any(|one| one == line).then_some(())
    });
}

#[test]
fn an_app_has_a_terminal_that_outlives_supervisor_and_guard() {
    let mut session = session().start();
    let leader = session.pid("actor");
    let program: i32 = session.wait_lines("actor.pids", 1)[0].parse().expect("a pid");
    assert_ne!(leader, program);
    assert_eq!(session.lines("actor.terminal"), ["24 80 xterm-256color"]);
    wait_output(&session, "\u{1b}[31mred\u{1b}[0m");

    session.crash_supervisor();
    session.kill_supervisor();
    assert!(alive(program), "without supervisor and guard");
    std::fs::write(session.data().join("never"), "meanwhile\n").expect("a line");
    session.start_supervisor();
    assert_eq!((session.pid("actor"), session.lines("actor.pids").len()), (leader, 1));
    wait_output(&session, "meanwhile");

    session.ok(&["stop", "actor"]);
    assert!(!alive(program) && !alive(leader));
    wait_output(&session, "ends");
}

#[test]
fn its_end_is_that_of_its_program() {
    let session = session().start();
    let first = session.pid("actor");
    let program: i32 = session.wait_lines("actor.pids", 1)[0].parse().expect("a pid");
    send(first, Signal::USR1);
    let second = session.next_pid("actor", first);
    session.wait_lines("actor.pids", 2);
    assert!(!alive(program));
    let why = session.ok(&["why", "actor"]);
    assert!(why.contains("SIGSEGV"), "{why}");
    kill(second);
    session.next_pid("actor", second);
    let pids = session.wait_lines("actor.pids", 3);
    assert!(!alive(pids[1].parse().expect("a pid")), "a program without a terminal is not left behind");
}

#[test]
fn what_it_writes_last_is_logged() {
    let session = Session::new()
        .program("web", "seq 1 20000\necho \"the end of $KASM_VOID_APP\"\n")
        .app("web", r#"App(command: "${BIN}/web", pty: true, backoff: Backoff(first: "1ms", max: "1ms", jitter: 0.0))"#)
        .start();
    for run in 1..=5 {
        wait_for(&session, "web", &format!("the end of web:{run}"));
    }
}

#[test]
fn a_program_that_is_missing_is_said_and_not_only_logged() {
    let session = Session::new()
        .program("late", "")
        .app("late", r#"App(command: "${BIN}/gone", pty: true, backoff: Backoff(first: "1h", max: "1h"))"#)
        .start();
    session.wait_state("late", StateName::Backoff);
    let why = session.ok(&["why", "late"]);
    assert!(why.contains("does not exist, or may not be executed"), "{why}");
}
