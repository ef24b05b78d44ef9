//! A session whose state folder is deleted, opened to others, moved away, or on a full disk.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use kasm_void::model::protocol::StateName;

use crate::harness::{NOBODY, Session, kill, until};

const WEB: &str = r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "10ms"))"#;

fn session() -> Session {
    let talker = "i=0\nwhile :; do echo \"line $i\"; i=$((i+1)); sleep 0.01; done\n";
    Session::new()
        .stayer("web")
        .stayer("held")
        .program("talker", talker)
        .app("web", WEB)
        .app("held", r#"App(command: "${BIN}/held")"#)
        .app("talker", r#"App(command: "${BIN}/talker", log: Log(file: "${DATA}/talker.log"))"#)
        .start()
}

/// Checks that the session works as before.
fn works(session: &Session, web: i32, talker: i32) {
    until("the session can be controlled", || session.try_identity());
    assert_eq!((session.pid("web"), session.pid("talker")), (web, talker), "no app noticed");
    let mode = fs::metadata(session.state()).expect("the state folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let second = session.command(crate::harness::binary()).arg("run").arg(session.manifests()).output().expect("a run");
    assert!(String::from_utf8_lossy(&second.stderr).contains("another supervisor"), "{second:?}");
    let doctor = session.cli(&["doctor"]);
    assert!(doctor.stdout.contains("state folder: deleted or changed"), "{doctor:?}");
    // The ledger is written again, so the next supervisor knows what was wanted.
    session.wait_state("held", StateName::Stopped);
    session.crash_supervisor();
    assert_eq!((session.pid("web"), session.pid("talker")), (web, talker));
    session.wait_state("held", StateName::Stopped);
    assert_eq!(session.lines("held.pids").len(), 1);
}

fn ends(mut session: Session) {
    session.ok(&["drain"]);
    assert_eq!(session.wait_end().code(), Some(0), "{}", session.supervisor_output());
    assert_eq!(session.processes(), NOBODY);
    let text = fs::read_to_string(session.data().join("talker.log")).expect("a log");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("line ")).collect();
    assert!(lines.iter().enumerate().all(|(at, line)| *line == format!("line {at}")), "lost or doubled: {text}");
}

#[test]
fn a_folder_that_is_deleted_or_opened_is_restored() {
    let session = session();
    let (web, talker) = (session.pid("web"), session.pid("talker"));
    session.pid("held");
    session.ok(&["stop", "held"]);
    fs::remove_dir_all(session.state()).expect("rm -rf");
    works(&session, web, talker);
    fs::set_permissions(session.state(), Permissions::from_mode(0o2775)).expect("chmod");
    let mode = || fs::metadata(session.state()).map(|is| is.permissions().mode() & 0o777).unwrap_or(0);
    until("the mode is changed back", || (mode() == 0o700).then_some(()));
    works(&session, web, talker);
    fs::rename(session.state(), session.root().join("moved")).expect("mv");
    works(&session, web, talker);
    fs::remove_file(session.state().join("control.sock")).expect("rm");
    works(&session, web, talker);
    ends(session);
}

#[test]
fn a_supervisor_that_starts_without_the_folder_finds_everything_again() {
    let session = session();
    let (web, talker) = (session.pid("web"), session.pid("talker"));
    // The folder is deleted, and the supervisor is killed before it restores it: held apps are forgotten, running ones are not.
    let supervisor = session.supervisor_pid();
    fs::remove_dir_all(session.state()).expect("rm -rf");
    kill(supervisor);
    until("the next supervisor answers", || session.try_identity().filter(|next| next.pid != supervisor));
    assert_eq!((session.pid("web"), session.pid("talker")), (web, talker));
    ends(session);
}

#[test]
fn a_file_in_its_place_is_left_alone_and_said() {
    let session = session();
    let (web, talker) = (session.pid("web"), session.pid("talker"));
    fs::remove_dir_all(session.state()).expect("rm -rf");
    // The folder may be restored by now; replace it by a file in any case.
    until("a file is in its place", || {
        let _ = fs::remove_dir_all(session.state());
        fs::write(session.state(), "somebody's").ok()
    });
    until("it is said", || session.supervisor_output().contains("state folder cannot be used").then_some(()));
    let supervisor = session.supervisor_pid();
    kill(supervisor);
    until("another supervisor is there without it", || {
        session.supervisor_output().contains("cannot open the control socket").then_some(())
    });
    assert_eq!(fs::read_to_string(session.state()).expect("the file"), "somebody's");
    fs::remove_file(session.state()).expect("rm");
    until("the session can be controlled", || session.try_identity());
    assert_eq!((session.pid("web"), session.pid("talker")), (web, talker));
    ends(session);
}
