//! Intended takeovers: an upgrade, and the stop of a container. Also machines that refuse system calls.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kasm_void::model::exit::Exit;
use kasm_void::model::protocol::{Identity, StateName};
use rustix::process::Signal;

use crate::harness::{DEADLINE, FOREVER, NOBODY, Session, alive, binary, kill, send, until};

const WEB: &str = r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "10ms"))"#;

fn web() -> Session {
    Session::new().stayer("web").app("web", WEB)
}

/// Installs a copy of the binary as `name` in the session's folder of programs, like a new version.
fn version(session: &Session, name: &str, body: &str) -> String {
    let path = session.bin().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}")).expect("a program");
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&path, executable).expect("an executable program");
    path.to_string_lossy().into_owned()
}

#[test]
fn another_binary_goes_on_and_no_app_notices() {
    let session = web().start();
    let (pid, supervisor) = (session.pid("web"), session.supervisor_pid());
    let copy = session.bin().join("kasm-void-next");
    std::fs::copy(binary(), &copy).expect("a copy");
    let said = session.ok(&["upgrade", &copy.to_string_lossy()]);
    assert!(said.contains("replaced pid"), "{said}");
    assert_eq!(session.pid("web"), pid);
    assert!(!alive(supervisor));
    let next = session.identity();
    assert_eq!((next.after.as_deref(), next.deaths), (Some("upgrade"), 0));
    let exe = std::fs::read_link(format!("/proc/{}/exe", next.pid)).expect("its binary");
    assert_eq!(exe, copy);
    // After a crash, the next supervisor is the same version.
    kill(next.pid);
    until("the next supervisor", || session.try_identity().filter(|again| again.pid != next.pid));
    assert_eq!(session.pid("web"), pid);
}

/// What lies at the path after the upgrade is never started, not even by the guard.
#[test]
fn the_next_supervisor_is_the_binary_that_was_upgraded_to_whatever_its_path_is_now() {
    let session = web().start();
    let pid = session.pid("web");
    let copy = session.bin().join("kasm-void-next");
    std::fs::copy(binary(), &copy).expect("a copy");
    session.ok(&["upgrade", &copy.to_string_lossy()]);
    std::fs::remove_file(&copy).expect("the copy");
    version(&session, "kasm-void-next", "echo started >>\"$DATA/intruder\"\nexit 1\n");
    let before = session.identity();
    kill(before.pid);
    let next = until("the next supervisor", || session.try_identity().filter(|again| again.pid != before.pid));
    let exe = std::fs::read_link(format!("/proc/{}/exe", next.pid)).expect("its binary");
    assert_eq!(exe.to_string_lossy(), format!("{} (deleted)", copy.display()));
    assert_eq!((session.pid("web"), session.lines("intruder").len()), (pid, 0));
}

#[test]
fn a_binary_that_others_may_write_to_is_refused() {
    let session = web().start();
    let before = session.identity();
    let copy = session.bin().join("kasm-void-next");
    std::fs::copy(binary(), &copy).expect("a copy");
    let writable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    std::fs::set_permissions(&copy, writable).expect("chmod");
    let refused = session.cli(&["upgrade", &copy.to_string_lossy()]);
    assert!(refused.code == Some(1) && refused.stderr.contains("may be written by everybody"), "{refused:?}");
    assert_eq!(session.identity().pid, before.pid);
}

#[test]
fn a_binary_that_cannot_take_over_is_not_let_near() {
    let session = web().start();
    let (pid, before) = (session.pid("web"), session.identity());
    let other = version(&session, "other", "echo 'what is takes-over?' >&2\nexit 2\n");
    let refused = session.cli(&["upgrade", &other]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("nothing was changed: what is takes-over?"), "{refused:?}");
    let broken = session.cli(&["upgrade", "/nonexistent/kasm-void"]);
    assert!(broken.stderr.contains("cannot find /nonexistent/kasm-void"), "{broken:?}");
    assert_eq!((session.pid("web"), session.identity().pid), (pid, before.pid));
}

#[test]
fn a_binary_that_does_not_come_up_gives_way_to_the_old_one() {
    let session = web().start();
    let pid = session.pid("web");
    let liar = version(&session, "liar", "[ \"$1\" = takes-over ] && exit 0\nexit 70\n");
    let failed = session.cli(&["upgrade", &liar]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("did not take over: exit code 70; the old version"), "{failed:?}");
    assert_eq!(session.pid("web"), pid);
}

#[test]
fn the_doctor_finds_what_is_broken_and_nothing_else() {
    let mut session = web().start();
    session.pid("web");
    let fine = session.cli(&["doctor", "--json"]);
    assert_eq!(fine.code, Some(0), "{fine:?}");
    session.kill_guard();
    session.guarded_again();
    let told = session.cli(&["doctor"]);
    assert!(
        told.code == Some(0) && told.stdout.contains("the guard died, and its supervisor took its place"),
        "{told:?}"
    );
    session.ok(&["drain"]);
    let nobody = session.cli(&["doctor"]);
    assert!(nobody.code == Some(1) && nobody.stdout.contains("no supervisor is running"), "{nobody:?}");
}

/// `kasm-void init` as a container's entry point: it runs a script that starts the session and keeps running.
fn container(session: &Session, script: &str) -> Child {
    let entry = version(session, "entry", script);
    let mut command = session.command(binary());
    command.args(["init", "--grace", "20s", "--", &entry]).env("MANIFESTS", session.manifests());
    command.env("KASM_VOID", binary()).spawn().expect("init")
}

fn end(mut init: Child) -> Option<i32> {
    let pid = init.id() as i32;
    let ended = until("init ends", || init.try_wait().expect("wait"));
    assert!(!alive(pid));
    ended.code()
}

#[test]
fn a_containers_stop_drains_the_apps_before_its_entry_point() {
    let polite = format!("trap 'echo web >>\"$DATA/order\"; exit 0' INT\n: >\"$DATA/up\"\n{FOREVER}");
    let manifest =
        r#"App(command: "${BIN}/web", stop: Stop(signal: "INT"), ready: Ready(probe: Path(path: "${DATA}/up")))"#;
    let session = Session::new().program("web", &polite).app("web", manifest);
    let script = "trap 'echo entry >>\"$DATA/order\"; exit 3' TERM\n\"$KASM_VOID\" run \"$MANIFESTS\" >\"$DATA/log\" 2>&1 &\nwhile :; do sleep 0.05; done\n";
    let init = container(&session, script);
    until("the session is up", || session.try_identity());
    session.wait_state("web", StateName::Running);
    send(init.id() as i32, Signal::TERM);
    assert_eq!(end(init), Some(3), "the code is the entry point's");
    assert_eq!(session.lines("order"), ["web", "entry"]);
}

/// As a preStop hook does. The container's log holds JSON lines only, so `init` has nothing to add.
#[test]
fn a_container_that_was_drained_before_its_stop_says_nothing_more() {
    let session = web();
    let script =
        "trap 'exit 0' TERM\n\"$KASM_VOID\" run \"$MANIFESTS\" >\"$DATA/log\" 2>&1 &\nwhile :; do sleep 0.05; done\n";
    let entry = version(&session, "entry", script);
    let mut init = session.command(binary());
    init.args(["init", "--grace", "20s", "--", &entry])
        .env("MANIFESTS", session.manifests())
        .env("KASM_VOID", binary());
    let said = std::fs::File::create(session.data().join("said")).expect("a file");
    init.stdout(said.try_clone().expect("a second handle")).stderr(said);
    let init = init.spawn().expect("init");
    until("the session is up", || session.try_identity());
    session.ok(&["drain"]);
    send(init.id() as i32, Signal::TERM);
    assert_eq!((end(init), session.lines("said").len()), (Some(0), 0), "{:?}", session.lines("said"));
}

#[test]
fn a_stop_can_count_as_success_but_a_failure_cannot() {
    let session = Session::new();
    let up = ": >\"$DATA/up\"\n";
    let polite = version(&session, "polite", &format!("trap 'exit 3' TERM\n{up}while :; do sleep 0.05; done\n"));
    let deaf = version(&session, "deaf", &format!("trap '' TERM\n{up}{FOREVER}"));
    let failing = version(&session, "failing", "exit 7\n");
    let start = |entry: &str| {
        let _ = std::fs::remove_file(session.data().join("up")); // left by the previous run
        let mut command = session.command(binary());
        command.args(["init", "--zero-when-stopped", "--", entry]).env("KASM_VOID_GRACE", "2s");
        command.spawn().expect("init")
    };
    for (entry, code) in [(&polite, 0), (&deaf, 128 + 9)] {
        let init = start(entry);
        until("the entry point runs", || session.data().join("up").exists().then_some(()));
        send(init.id() as i32, Signal::TERM);
        assert_eq!(end(init), Some(code), "{entry}");
    }
    assert_eq!(end(start(&failing)), Some(7));
}

#[test]
fn an_entry_point_that_ends_ends_the_container_with_its_code_and_its_apps() {
    let session = web();
    let script = "setsid \"$KASM_VOID\" run \"$MANIFESTS\" >\"$DATA/log\" 2>&1 &\nwhile ! [ -e \"$DATA/web.pids\" ]; do sleep 0.02; done\nexit 7\n";
    let init = container(&session, script);
    assert_eq!(end(init), Some(7));
    let web: i32 = session.lines("web.pids")[0].parse().expect("a pid");
    assert!(!alive(web), "the app outlived its container");
}

#[test]
fn an_entry_point_that_ignores_its_stop_is_killed_within_the_grace() {
    let session = Session::new();
    let entry = version(&session, "deaf", &format!("trap '' TERM\n: >\"$DATA/deaf\"\n{FOREVER}"));
    let mut command = session.command(binary());
    let init = command.args(["init", "--grace", "2s", "--", &entry]).spawn().expect("init");
    until("the entry point is deaf", || session.data().join("deaf").exists().then_some(()));
    let began = Instant::now();
    send(init.id() as i32, Signal::TERM);
    assert_eq!(end(init), Some(128 + 9));
    assert!(began.elapsed() < DEADLINE / 2, "took {:?}", began.elapsed());
}

const RUN_IN_BACKGROUND: &str = "trap 'exit 3' TERM\n\"$KASM_VOID\" run \"$MANIFESTS\" >\"$DATA/log\" 2>&1 &\n: >\"$DATA/entry\"\nwhile :; do sleep 0.05; done\n";

/// An app with an hour of grace that never ends by itself.
fn deaf() -> Session {
    let manifest =
        r#"App(command: "${BIN}/deaf", stop: Stop(grace: "1h"), ready: Ready(probe: Path(path: "${DATA}/deaf")))"#;
    let session = Session::new().workspace(r#"Workspace(stop_budget: "1h")"#);
    session.program("deaf", &format!("trap '' TERM\n: >\"$DATA/deaf\"\n{FOREVER}")).app("deaf", manifest)
}

#[test]
fn a_drain_that_takes_longer_than_the_grace_is_hurried() {
    let session = deaf();
    let entry = version(&session, "entry", RUN_IN_BACKGROUND);
    let mut command = session.command(binary());
    command.args(["init", "--grace", "4s", "--", &entry]).env("MANIFESTS", session.manifests());
    let init = command.env("KASM_VOID", binary()).spawn().expect("init");
    until("the session is up", || session.try_identity());
    session.wait_state("deaf", StateName::Running);
    let began = Instant::now();
    send(init.id() as i32, Signal::TERM);
    assert_eq!(end(init), Some(3));
    assert!(began.elapsed() < Duration::from_secs(8), "took {:?}", began.elapsed());
    assert_eq!(session.processes(), NOBODY);
}

#[test]
fn a_second_stop_of_a_container_hurries_and_ends_everything() {
    let session = deaf();
    let entry = version(&session, "entry", RUN_IN_BACKGROUND);
    let mut command = session.command(binary());
    command.args(["init", "--grace", "1h", "--", &entry]).env("MANIFESTS", session.manifests());
    let init = command.env("KASM_VOID", binary()).spawn().expect("init");
    until("the session is up", || session.try_identity());
    session.wait_state("deaf", StateName::Running);
    send(init.id() as i32, Signal::TERM);
    until("it drains", || session.status().draining.then_some(()));
    send(init.id() as i32, Signal::TERM);
    assert_eq!(end(init), Some(3));
    assert_eq!(session.processes(), NOBODY);
}

#[test]
fn signals_that_would_end_the_entry_point_do_not_and_hup_reloads() {
    let session = Session::new().stayer("web").app("web", WEB);
    let init = container(&session, RUN_IN_BACKGROUND);
    let pid = init.id() as i32;
    until("the session is up", || session.try_identity());
    session.pid("web");
    for signal in [Signal::USR1, Signal::USR2, Signal::ALARM, Signal::PROF, Signal::HUP] {
        send(pid, signal);
    }
    session.wait_state("web", StateName::Running);
    send(pid, Signal::QUIT);
    assert_eq!(end(init), Some(3), "the entry point was asked with TERM, after everything else");
    assert_eq!(session.lines("web.pids").len(), 1);
}

#[test]
fn an_entry_point_that_catches_a_signal_gets_it() {
    let session = Session::new();
    let script = "trap 'echo USR1 >>\"$DATA/heard\"' USR1\ntrap 'exit 0' TERM\n: >\"$DATA/entry\"\nwhile :; do sleep 0.05; done\n";
    let init = container(&session, script);
    until("the entry point listens", || session.data().join("entry").exists().then_some(()));
    send(init.id() as i32, Signal::USR1);
    session.wait_lines("heard", 1);
    send(init.id() as i32, Signal::TERM);
    assert_eq!(end(init), Some(0));
}

#[test]
fn a_stop_of_a_container_whose_supervisor_just_died_drains_all_the_same() {
    let polite = format!("trap 'echo web >>\"$DATA/order\"; exit 0' INT\n: >\"$DATA/up\"\n{FOREVER}");
    let manifest =
        r#"App(command: "${BIN}/web", stop: Stop(signal: "INT"), ready: Ready(probe: Path(path: "${DATA}/up")))"#;
    let session = Session::new().program("web", &polite).app("web", manifest);
    let init = container(&session, RUN_IN_BACKGROUND);
    let supervisor = until("the session is up", || session.try_identity()).pid;
    session.wait_state("web", StateName::Running);
    kill(supervisor);
    send(init.id() as i32, Signal::TERM);
    assert_eq!(end(init), Some(3));
    assert_eq!(session.lines("order"), ["web"], "it was stopped with its own signal");
}

/// Makes `pidfd_open` fail for the command, as in some container runtimes.
#[expect(unsafe_code, reason = "a filter is set between fork and exec")]
fn without_pidfd(command: &mut Command) {
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| libc::sock_filter { code, jt, jf, k };
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let mut filter = [
        instruction((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, 0),
        instruction((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, libc::SYS_pidfd_open as u32),
        instruction((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, refused),
        instruction((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: between fork and exec, only two system calls are made, on memory that was allocated before.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

#[test]
fn where_pidfds_are_refused_everything_still_works_and_the_doctor_says_so() {
    let mut session = web();
    session.by_hand("web");
    let by_hand: i32 = session.wait_lines("web.pids", 1)[0].parse().expect("a pid");
    let manifest = r#"App(command: "${BIN}/web", matches: Match(cmdline: "^/bin/sh ${BIN}/web$$"),
        backoff: Backoff(stable_after: "10ms"))"#;
    session.edit("web", manifest);
    session.start_supervisor_with(without_pidfd);
    assert_eq!(session.pid("web"), by_hand);
    kill(by_hand);
    let second = session.next_pid("web", by_hand);
    // It is now a child of the guard, which reports its exit.
    session.crash_supervisor();
    assert_eq!(session.pid("web"), second);
    kill(second);
    session.next_pid("web", second);
    assert_eq!(session.find("web").and_then(|app| app.last_exit), Some(Exit::Signal(9)));
    let identity: Identity = session.identity();
    assert!(identity.troubles.iter().any(|trouble| trouble.contains("pidfd_open is refused")), "{identity:?}");
    session.ok(&["stop", "web"]);
}

/// An entry point that removes the password from the environment, as KASM's does, and then starts the launcher.
#[test]
fn the_vnc_password_reaches_the_launcher_past_an_entry_point_that_removes_it() {
    let entry = r#"unset VNC_PW; printf '%s|%s' "$(cat "$URL_LAUNCHER_TOKEN_FILE" 2>/dev/null)" "$URL_LAUNCHER_TOKEN" >"$DATA/token""#;
    for (environment, expected) in [
        (&[("VNC_PW", "the password")][..], "the password|"),
        (&[("VNC_PW", "the password"), ("URL_LAUNCHER_TOKEN", "its own")], "|its own"),
        (&[("VNC_PW", "the password"), ("URL_LAUNCHER_TOKEN_FILE", "/nowhere")], "|"),
        (&[("VNC_PW", "")], "|"),
    ] {
        let session = Session::new();
        let mut command = session.command(binary());
        for name in ["VNC_PW", "URL_LAUNCHER_TOKEN", "URL_LAUNCHER_TOKEN_FILE"] {
            command.env_remove(name);
        }
        command.args(["init", "--", "sh", "-c", entry]).envs(environment.iter().copied());
        assert_eq!(end(command.spawn().expect("init")), Some(0));
        assert_eq!(std::fs::read_to_string(session.data().join("token")).expect("what the entry point saw"), expected);
    }
}
