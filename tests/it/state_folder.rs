//! A session whose state folder is deleted, opened to others, moved away, or on a full disk.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use kasm_void::model::protocol::StateName;

use crate::harness::{NOBODY, Session, in_own_mounts, kill, until};

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

#[test]
fn what_was_good_is_remembered_though_the_copies_are_deleted_while_it_is_broken() {
    let session = Session::new().stayer("web").stayer("other").app("web", WEB);
    let session = session.app("other", r#"App(command: "${BIN}/other")"#).start();
    let web = session.pid("web");
    until("copies are kept", || (session.keeps_copy("web") && session.keeps_copy("other")).then_some(()));
    session.edit("web", "App(command: ");
    until("it is told", || session.find("web").filter(|web| web.stale.is_some()));
    let harms: [fn(&Session); 2] = [
        |session| fs::remove_dir_all(session.state()).expect("rm -rf"),
        |session| fs::remove_file(session.state().join("last-good.jsonl")).expect("rm"),
    ];
    for harm in harms {
        harm(&session);
        until("the copies are there again", || {
            (session.keeps_copy("web") && session.keeps_copy("other")).then_some(())
        });
        session.crash_supervisor();
        let app = session.wait_state("web", StateName::Running);
        assert!(app.pid == Some(web) && app.stale.is_some(), "{app:#?}");
    }
    kill(web);
    session.next_pid("web", web);
}

/// A small disk that is full, until the returned closure makes room.
fn fill(disk: &std::path::Path) -> impl FnOnce() + use<> {
    use std::io::Write;
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler).expect("room for a name");
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0; 1]).is_ok() {}
    move || fs::remove_file(filler).expect("rm")
}

#[test]
fn a_disk_that_fills_while_the_session_runs_stops_nothing() {
    in_own_mounts("state_folder::a_disk_that_fills_while_the_session_runs_stops_nothing", || {
        let mut session = Session::new();
        let options = ["-t", "tmpfs", "-o", "size=2m,mode=700", "small"];
        let mounted = std::process::Command::new("mount").args(options).arg(session.state()).status().expect("mount");
        assert!(mounted.success(), "{mounted}");
        // It prints much more than there is room for, into a log on the small disk.
        let talker = "i=0\nwhile :; do i=$((i+1)); echo \"line $i\"; echo $i >\"$DATA/said\"; sleep 0.001; done\n";
        session = session
            .stayer("web")
            .stayer("held")
            .stayer("new")
            .program("talker", talker)
            .app("web", WEB)
            .app("held", r#"App(command: "${BIN}/held")"#)
            .app("talker", r#"App(command: "${BIN}/talker", log: Log(max_size: "64KiB", keep: 1))"#)
            .start();
        let (web, talker) = (session.pid("web"), session.pid("talker"));
        session.pid("held");
        session.ok(&["stop", "held"]);
        let free = fill(&session.state());
        let log = session.state().join("logs/talker.log");

        // No app waits, none dies, and it is said.
        until("status says what is lost", || {
            session.ok(&["status"]).contains("the output of talker is not saved").then_some(())
        });
        let said = || session.lines("said").first().and_then(|text| text.parse::<u64>().ok());
        let before = until("it has spoken", said);
        until("it speaks on", || said().filter(|now| *now > before + 50));
        // Crashes, edits and requests go on.
        kill(web);
        let web = session.next_pid("web", web);
        session.edit("new", r#"App(command: "${BIN}/new")"#);
        let new = session.pid("new");
        session.edit("web", "App(command: ");
        until("it is told", || session.find("web").filter(|web| web.stale.is_some()));
        session.edit("web", WEB);
        until("it is mended", || session.find("web").filter(|web| web.stale.is_none()));
        // The next supervisor has the same apps, and knows what was held: the ledger had its room in advance.
        session.crash_supervisor();
        assert_eq!((session.pid("web"), session.pid("talker"), session.pid("new")), (web, talker, new));
        session.wait_state("held", StateName::Stopped);
        assert_eq!(session.lines("held.pids").len(), 1);

        // With room again, lines are written again, whole, and what is missing is noted.
        free();
        until("it is noted", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let (_, after) = text.split_once("[kasm-void: ")?;
            after.contains("line ").then_some(())
        });
        until("the trouble is over", || (!session.ok(&["status"]).contains("is not saved")).then_some(()));
        for line in fs::read_to_string(&log).expect("the log").lines() {
            let whole = line.strip_prefix("line ").is_some_and(|number| number.parse::<u64>().is_ok());
            assert!(whole || line.starts_with("[kasm-void: "), "torn: {line:?}");
        }

        // A session on a full disk ends as any other.
        let _still_full = fill(&session.state());
        session.ok(&["drain"]);
        assert_eq!(session.wait_end().code(), Some(0), "{}", session.supervisor_output());
        assert_eq!(session.processes(), NOBODY);
    });
}

#[test]
fn a_session_begins_on_a_full_disk() {
    in_own_mounts("state_folder::a_session_begins_on_a_full_disk", || {
        let session = Session::new().stayer("web").app("web", WEB);
        let options = ["-t", "tmpfs", "-o", "size=64k,mode=700", "small"];
        let mounted = std::process::Command::new("mount").args(options).arg(session.state()).status().expect("mount");
        assert!(mounted.success(), "{mounted}");
        let free = fill(&session.state());
        let session = session.start();
        let web = session.pid("web");
        kill(web);
        let web = session.next_pid("web", web);
        let doctor = session.cli(&["doctor"]);
        assert!(doctor.code == Some(1) && doctor.stdout.contains("make room"), "{doctor:?}");
        session.crash_supervisor();
        assert_eq!(session.pid("web"), web, "the app is found without a ledger");
        free();
        until("the ledger is written", || session.state().join("ledger.jsonl").exists().then_some(()));
        let doctor = session.cli(&["doctor"]);
        assert!(!doctor.stdout.contains("make room"), "{doctor:?}");
    });
}
