//! An app is its whole tree. This includes helpers that left the session, hold its pipe or outlive it, apps that fork
//! away from their launcher, and processes that were started earlier.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use kasm_void::model::exit::Exit;
use kasm_void::model::protocol::StateName;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{FOREVER, NOBODY, NOTHING, Session, alive, children, kill, not_run, until};

/// Writes each earlier helper that is still alive to `${DATA}/doubled`, starts another helper that leaves the session,
/// and keeps running.
const LEAVES_A_HELPER: &str = r#"
for helper in $(cat "$DATA/helper.pids" 2>/dev/null); do
    if [ -e "/proc/$helper" ] && ! grep -q '^State:.Z' "/proc/$helper/status"; then echo "$helper" >>"$DATA/doubled"; fi
done
(setsid "$BIN/helper" &)
echo $$ >>"$DATA/starts"
"#;

/// Notes the app and its run, forks its successor and ends; after that many generations, the last one stays.
const HOPS: &str = r#"
echo "${KASM_VOID_APP#*:}" >>"$DATA/hops"
if [ "${1:-60}" -gt 0 ]; then "$0" $((${1:-60} - 1)) & exit 0; fi
exec sleep infinity
"#;

#[test]
fn a_process_that_forks_and_ends_while_it_is_looked_at_is_gone_before_the_next_run() {
    const RUNS: u64 = 25;
    let manifest = r#"App(command: "${BIN}/hops", restart: Always,
                         backoff: Backoff(first: "1ms", max: "1ms", jitter: 0.0, give_up: Never))"#;
    let session = Session::new().program("hops", HOPS).app("hops", manifest).start();
    session.wait("hops", "has run often", |app| app.run > RUNS);
    let runs: Vec<u64> = session.lines("hops").iter().map(|run| run.parse().expect("a run")).collect();
    assert!(runs.is_sorted(), "an earlier run lives beside a later one: {runs:?}");
}

fn with_helper() -> Session {
    Session::new()
        .stayer("helper")
        .program("web", &format!("{LEAVES_A_HELPER}{FOREVER}"))
        .app("web", r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "10ms"))"#)
        .start()
}

#[test]
fn a_helper_that_left_the_session_is_gone_before_the_respawn() {
    let session = with_helper();
    let web = session.pid("web");
    let helper: i32 = session.wait_lines("helper.pids", 1)[0].parse().expect("a pid");
    kill(web);
    session.next_pid("web", web);
    session.wait_lines("starts", 2);
    assert!(!alive(helper), "helper {helper} outlived its app");
    assert_eq!(session.lines("doubled"), NOTHING);
}

#[test]
fn a_stop_is_done_when_the_whole_tree_is_gone() {
    let session = with_helper();
    session.pid("web");
    session.wait_lines("helper.pids", 1);
    session.ok(&["stop", "web"]);
    assert_eq!(session.processes(), NOBODY);
    assert_eq!(session.find("web").map(|app| app.state), Some(StateName::Stopped));
}

#[test]
fn a_supervisor_without_a_free_descriptor_says_so_and_goes_on_when_it_has_one() {
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#).start();
    let web = session.pid("web");
    let supervisor = rustix::process::Pid::from_raw(session.supervisor_pid());
    let all = getrlimit(Resource::Nofile);
    // No number below 3 is ever free.
    prlimit(supervisor, Resource::Nofile, Rlimit { current: Some(3), ..all }).expect("a limit");
    kill(web);
    until("it says what it cannot do", || {
        session
            .supervisor_output()
            .contains("cannot see what is left of `web`: no file descriptor is free")
            .then_some(())
    });
    prlimit(supervisor, Resource::Nofile, all).expect("the old limit");
    session.next_pid("web", web);
}

#[test]
fn a_helper_that_holds_the_output_open_hides_no_exit() {
    let body = "setsid sleep infinity &\necho $$ >>\"$DATA/starts\"\nexit 4\n";
    let session = Session::new()
        .program("web", body)
        .app(
            "web",
            r#"App(command: "${BIN}/web", backoff: Backoff(first: "50ms", give_up: After(times: 4, within: "1m")))"#,
        )
        .start();
    let app = session.wait_state("web", StateName::GaveUp);
    assert_eq!(app.last_exit, Some(Exit::Code(4)));
    assert_eq!(session.lines("starts").len(), 4);
    assert_eq!(session.processes(), NOBODY);
}

#[test]
fn a_stop_that_takes_long_names_the_process_that_holds_it_up() {
    let session = Session::new()
        .program("deaf", &format!("trap '' TERM\necho $$ >\"$DATA/deaf\"\n{FOREVER}"))
        .app(
            "deaf",
            r#"App(command: "${BIN}/deaf", stop: Stop(grace: "1h"), ready: Ready(probe: Path(path: "${DATA}/deaf")))"#,
        )
        .start();
    session.wait_state("deaf", StateName::Running);
    let pid = session.pid("deaf");
    let late = session.cli(&["stop", "deaf", "--timeout", "200ms"]);
    assert_eq!(late.code, Some(4), "{late:?}");
    assert!(late.stdout.contains(&format!("alive: pid {pid} (deaf)")), "{late:?}");
    assert!(session.ok(&["status"]).contains(&format!("pid {pid} (deaf)")));
}

#[test]
fn an_app_that_ignores_term_is_killed_after_its_grace() {
    let session = Session::new()
        .program("deaf", &format!("trap '' TERM\n: >\"$DATA/deaf\"\n{FOREVER}"))
        .app(
            "web",
            r#"App(command: "${BIN}/deaf", stop: Stop(signal: "TERM", grace: "300ms"),
            ready: Ready(probe: Path(path: "${DATA}/deaf")))"#,
        )
        .start();
    let pid = session.pid("web");
    let began = Instant::now();
    session.ok(&["stop", "web"]);
    assert!(began.elapsed() >= Duration::from_millis(300), "killed after {:?}", began.elapsed());
    assert!(!alive(pid));
    assert_eq!(session.find("web").and_then(|app| app.last_exit), Some(Exit::StoppedByUs));
}

#[test]
fn an_app_is_asked_with_the_signal_of_its_manifest() {
    let session = Session::new()
        .program(
            "polite",
            "trap 'echo INT >>\"$DATA/asked\"; exit 0' INT\n: >\"$DATA/polite\"\nsleep infinity & wait\n",
        )
        .app(
            "web",
            r#"App(command: "${BIN}/polite", stop: Stop(signal: "INT", grace: "20s"),
            ready: Ready(probe: Path(path: "${DATA}/polite")))"#,
        )
        .start();
    session.pid("web");
    session.ok(&["stop", "web"]);
    assert_eq!(session.lines("asked"), ["INT"]);
}

/// A launcher that starts `${BIN}/daemon` and exits, like desktop apps with an updater.
fn with_daemon() -> Session {
    Session::new()
        .stayer("daemon")
        .program("launcher", "echo $$ >>\"$DATA/launches\"\nsetsid \"$BIN/daemon\" &\nexit 0\n")
        .app(
            "web",
            r#"App(command: "${BIN}/launcher", matches: Match(cmdline: "^/bin/sh ${BIN}/daemon$$"),
            backoff: Backoff(first: "100ms", jitter: 0.0))"#,
        )
}

#[test]
fn an_app_that_forks_away_from_its_launcher_is_the_app() {
    let session = with_daemon().start();
    let daemon = session.wait_lines("daemon.pids", 1)[0].parse().expect("a pid");
    session.wait("web", "runs as the daemon", |app| app.state == StateName::Running && app.pid == Some(daemon));
    assert_eq!(session.lines("launches").len(), 1);

    kill(daemon);
    let second = session.wait_lines("daemon.pids", 2)[1].parse().expect("a pid");
    session.wait("web", "runs as the second daemon", |app| app.state == StateName::Running && app.pid == Some(second));
    assert_eq!(session.lines("launches").len(), 2);
}

#[test]
fn an_app_started_by_hand_is_adopted_not_doubled() {
    let session = with_daemon();
    session.by_hand("daemon");
    let by_hand = session.wait_lines("daemon.pids", 1)[0].parse().expect("a pid");
    let session = session.start();
    let app = session.wait_state("web", StateName::Running);
    assert_eq!((app.pid, app.adopted), (Some(by_hand), true));
    assert_eq!(session.lines("launches"), NOTHING);
}

#[test]
fn a_start_adopts_what_was_started_by_hand_a_moment_ago() {
    let session = with_daemon().start();
    session.pid("web");
    session.ok(&["stop", "web"]);
    session.by_hand("daemon");
    let by_hand = session.wait_lines("daemon.pids", 2)[1].parse().expect("a pid");
    session.ok(&["start", "web"]);
    let app = session.wait_state("web", StateName::Running);
    assert_eq!((app.pid, app.adopted), (Some(by_hand), true));
    assert_eq!(session.lines("daemon.pids").len(), 2);
}

/// A session whose app was started by hand before it, and the app's pid.
fn adopted() -> (Session, i32) {
    let session = with_daemon();
    session.by_hand("daemon");
    let by_hand: i32 = session.wait_lines("daemon.pids", 1)[0].parse().expect("a pid");
    let session = session.start();
    assert_eq!(session.pid("web"), by_hand);
    (session, by_hand)
}

#[test]
fn an_adopted_app_that_dies_is_replaced() {
    let (session, by_hand) = adopted();
    kill(by_hand);
    session.next_pid("web", by_hand);
    assert_eq!(session.lines("launches").len(), 1);
}

#[test]
fn an_adopted_app_is_stopped_like_any_other() {
    let (session, by_hand) = adopted();
    session.ok(&["stop", "web"]);
    until("the adopted process is gone", || (!alive(by_hand)).then_some(()));
}

#[test]
fn a_command_line_that_only_contains_the_name_keeps_nothing_alive() {
    let session =
        Session::new().stayer("web").stayer("editor").program("tail", "exec \"$BIN/editor\" \"$BIN/web\"\n").app(
            "web",
            r#"App(command: "${BIN}/web", matches: Match(cmdline: "^/bin/sh ${BIN}/web$$"),
            backoff: Backoff(stable_after: "10ms"))"#,
        );
    session.by_hand("tail");
    session.wait_lines("editor.args", 1);
    let session = session.start();
    let first = session.pid("web");
    kill(first);
    let second = session.next_pid("web", first);
    assert_eq!(session.wait_lines("web.pids", 2), [first.to_string(), second.to_string()]);
    for pid in session.lines("editor.pids") {
        kill(pid.parse().expect("a pid"));
    }
}

/// When a second program is up, the helpers of this one are running.
const RESTARTS_AT_ONCE: &str = r#"backoff: Backoff(stable_after: "10ms", first: "10ms", jitter: 0.0)"#;

/// An app whose helper writes its pid to `${DATA}/helper.pids`, hides as `hides` says, and keeps running.
fn with_hidden_helper(hides: &str) -> Session {
    Session::new()
        .program("web", &format!("{hides}\necho $$ >>\"$DATA/starts\"\n{FOREVER}"))
        .app("web", &format!(r#"App(command: "${{BIN}}/web", {RESTARTS_AT_ONCE})"#))
        .start()
}

/// Waits for this many helpers. Returns their pids.
fn helpers(session: &Session, count: usize) -> Vec<i32> {
    session.wait_lines("helper.pids", count).iter().map(|pid| pid.parse().expect("a pid")).collect()
}

/// Ways in which a helper removes its app's marks or leaves its session. Each writes the helper's pid and keeps running.
/// Perl overwrites its arguments and environment with a title, as gunicorn, nginx and postgres do.
const HIDES: &[(&str, &str)] = &[
    (
        "writes a title",
        r#"perl -e '$0 = "x" x 3000; open F, ">>", "$ENV{DATA}/helper.pids"; print F "$$\n"; close F; sleep 1000' &"#,
    ),
    (
        "writes a title after a fork",
        r#"perl -e 'my $file = "$ENV{DATA}/helper.pids"; if (fork == 0) { $0 = "x" x 3000; open F, ">>", $file; print F "$$\n"; close F; sleep 1000 } wait' &"#,
    ),
    (
        "clears its environment",
        r#"env -i DATA="$DATA" sh -c 'echo $$ >>"$DATA/helper.pids"; exec env -i sleep 1000' &"#,
    ),
    (
        "clears it in a session of its own",
        r#"setsid env -i DATA="$DATA" sh -c 'echo $$ >>"$DATA/helper.pids"; exec env -i sleep 1000' &"#,
    ),
    (
        "clears it in a session of its own, without our pipe",
        r#"setsid env -i DATA="$DATA" sh -c 'echo $$ >>"$DATA/helper.pids"; exec env -i sleep 1000' >/dev/null 2>&1 &"#,
    ),
    (
        "may not be looked into",
        r#"setsid python3 -c 'import ctypes, os, time
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
print(os.getpid(), file=open(os.environ["DATA"] + "/helper.pids", "a"), flush=True)
time.sleep(1000)' &"#,
    ),
];

#[test]
fn a_helper_that_hides_is_gone_before_the_respawn() {
    for (what, hides) in HIDES {
        let session = with_hidden_helper(hides);
        let web = session.pid("web");
        let helper = helpers(&session, 1)[0];
        kill(web);
        session.next_pid("web", web);
        session.wait_lines("starts", 2);
        assert!(!alive(helper), "one that {what} outlived its app");
        let second = helpers(&session, 2)[1];
        session.ok(&["stop", "web"]);
        assert!(!alive(second), "one that {what} outlived a stop");
    }
}

#[test]
fn a_helper_that_hides_is_found_by_the_next_supervisor_and_by_status() {
    for (what, hides) in HIDES {
        let session = with_hidden_helper(hides);
        let web = session.pid("web");
        let helper = helpers(&session, 1)[0];
        session.crash_supervisor();
        assert_eq!(session.pid("web"), web);
        kill(web);
        session.next_pid("web", web);
        session.wait_lines("starts", 2);
        assert!(!alive(helper), "one that {what} outlived its adopted app");
    }
}

#[test]
fn a_daemon_that_left_everything_behind_is_its_apps_when_no_other_can_have_started_it() {
    // The helper's parent exits before the app does. Then only its history as an orphan ties it to the app.
    let hides = r#"(setsid env -i DATA="$DATA" sh -c 'echo $$ >>"$DATA/helper.pids"; exec env -i sleep 1000' >/dev/null 2>&1 &)
while ! [ -s "$DATA/helper.pids" ]; do sleep 0.01; done"#;
    let session = with_hidden_helper(hides);
    let web = session.pid("web");
    let helper = helpers(&session, 1)[0];
    kill(web);
    session.next_pid("web", web);
    assert!(!alive(helper), "it outlived its app");
}

/// Runs `story` if it may start programs as another user.
fn as_root(what: &str, story: impl FnOnce()) {
    match rustix::process::geteuid().is_root() {
        true => story(),
        false => not_run(what, "it needs root"),
    }
}

#[test]
fn as_root_an_app_that_became_another_user_is_one_app_and_ends() {
    as_root("trees::as_root_an_app_that_became_another_user_is_one_app_and_ends", || {
        let body = "echo $$ >>\"$DATA/web.pids\"\nexec setpriv --reuid 65534 --clear-groups sh -c \"trap '' TERM; while :; do sleep .1; done\"\n";
        let session = Session::new()
            .program("web", body)
            .app("web", r#"App(command: "${BIN}/web", stop: Stop(grace: "200ms"))"#)
            .start();
        let first = session.pid("web");
        session.ok(&["restart", "web"]);
        let second = session.next_pid("web", first);
        assert!(!alive(first), "two copies: {first} and {second}");
        session.ok(&["stop", "web"]);
        assert!(!alive(second), "{second} is not stopped");
    });
}

#[test]
fn as_root_a_helper_that_became_another_user_goes_with_its_app() {
    as_root("trees::as_root_a_helper_that_became_another_user_goes_with_its_app", || {
        let hides =
            r#"setsid setpriv --reuid 65534 --clear-groups sh -c 'echo $$; exec sleep 1000' >>"$DATA/helper.pids" &"#;
        let session = with_hidden_helper(hides);
        let web = session.pid("web");
        let helper = helpers(&session, 1)[0];
        kill(web);
        session.next_pid("web", web);
        assert!(!alive(helper), "it outlived its app");
    });
}

#[test]
fn a_pattern_never_matches_kasm_void_itself() {
    // The session's folder has the app's name, so the command lines of guard, supervisor and clients contain it.
    // No other program of this machine has this name.
    let session = Session::new().stayer("qzxapp");
    let manifest =
        format!(r#"App(command: "${{BIN}}/qzxapp", matches: Match(cmdline: "{}|qzxapp"))"#, session.root().display());
    let session = session.app("qzxapp", &manifest).start();
    let pid = session.pid("qzxapp");
    assert!(pid != session.guard_pid() && pid != session.supervisor_pid(), "adopted ourselves");
    assert_eq!(session.wait_lines("qzxapp.pids", 1), [pid.to_string()]);

    // Nor does it match a client that waits for this start.
    session.ok(&["stop", "qzxapp"]);
    session.ok(&["start", "qzxapp"]);
    let pids = session.wait_lines("qzxapp.pids", 2);
    assert_eq!(session.pid("qzxapp").to_string(), pids[1]);
    session.ok(&["stop", "qzxapp"]);
    assert!(alive(session.guard_pid()), "the session ended with the app");
}

#[test]
fn a_person_who_starts_an_app_by_its_name_is_not_the_app() {
    // An unanchored pattern also matches the command line of `kasm-void start editor`, and the shell it is typed in.
    let session = Session::new()
        .stayer("editor")
        .app("editor", r#"App(command: "${BIN}/editor", matches: Match(cmdline: "editor", exclude: "sh -c"))"#)
        .start();
    session.pid("editor");
    session.ok(&["stop", "editor"]);
    for count in 2..5 {
        session.ok(&["start", "editor"]);
        let pids = session.wait_lines("editor.pids", count);
        assert_eq!(session.pid("editor").to_string(), pids[count - 1]);
        session.ok(&["stop", "editor"]);
    }
}

#[test]
fn a_process_that_may_not_be_signalled_is_named_and_nothing_is_called_stopped() {
    as_root("trees::a_process_that_may_not_be_signalled_is_named_and_nothing_is_called_stopped", || {
        let mut session = Session::new()
            .program("web", "exec setpriv --reuid 65534 --clear-groups sleep 1000\n")
            .app("web", r#"App(command: "${BIN}/web", stop: Stop(grace: "100ms"))"#);
        // Root without the right to signal other users' processes, as in a container without capabilities.
        session.start_supervisor_under(&["setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill"]);
        let pid = session.pid("web");
        until("it has become another user", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("Uid:\t65534").then_some(())
        });
        let late = session.cli(&["stop", "web", "--timeout", "1s"]);
        assert_eq!(late.code, Some(4), "{late:?}");
        let reason = format!("pid {pid} (sleep), which runs as uid 65534 and may not be signalled by us");
        assert!(session.ok(&["status"]).contains(&reason), "{}", session.ok(&["status"]));
        let doctor = session.cli(&["doctor"]);
        assert!(doctor.code == Some(1) && doctor.stdout.contains(&reason), "{doctor:?}");
        assert_eq!(session.find("web").map(|app| app.state), Some(StateName::Stopping));
        kill(pid);
        session.wait_state("web", StateName::Stopped);
    });
}

#[test]
fn a_process_of_no_app_is_listed_by_doctor_and_gone_after_a_drain() {
    // Only when nobody looks at processes: a look that finds it below its app would remember it.
    let daemon = r#"read _ <"$DATA/go"
(setsid env -i DATA="$DATA" sh -c 'echo $$ >>"$DATA/helper.pids"; exec env -i sleep 1000' >/dev/null 2>&1 &)
"#;
    let mut session = Session::new()
        .program("web", &format!("{daemon}{FOREVER}"))
        .stayer("other")
        .app("web", r#"App(command: "${BIN}/web")"#)
        .app("other", r#"App(command: "${BIN}/other")"#);
    let go = session.data().join("go");
    assert!(Command::new("mkfifo").arg(&go).status().expect("mkfifo").success());
    session = session.start();
    session.wait_state("web", StateName::Running);
    session.wait_state("other", StateName::Running);
    let supervisor = session.supervisor_pid();
    fs::write(&go, "\n").expect("write");
    let stray = helpers(&session, 1)[0];
    until("it is left to the supervisor", || children(supervisor).contains(&stray).then_some(()));
    let doctor = until("doctor lists it", || {
        Some(session.cli(&["doctor"])).filter(|doctor| doctor.stdout.contains("belongs to no app"))
    });
    assert!(doctor.stdout.contains(&format!("pid {stray} (sleep) belongs to no app")), "{doctor:?}");
    assert!(alive(stray));
    session.ok(&["drain"]);
    session.wait_end();
    until("it is gone with the session", || (!alive(stray)).then_some(()));
}

#[test]
fn two_containers_that_share_a_pid_namespace_leave_each_others_apps_alone() {
    as_root("trees::two_containers_that_share_a_pid_namespace_leave_each_others_apps_alone", || {
        let session = Session::new()
            .stayer("web")
            .app(
                "web",
                &format!(r#"App(command: "${{BIN}}/web", matches: Match(cmdline: "/web$"), {RESTARTS_AT_ONCE})"#),
            )
            .start();
        let first = session.pid("web");
        // The same paths, another mount namespace, and another folder behind the path of the state folder.
        let script = r#"mount -t tmpfs -o mode=700 tmpfs "$KASM_VOID_STATE" && exec "$0" run "$1""#;
        let mut second = session.command("unshare");
        second.args(["--mount", "sh", "-c", script]).arg(crate::harness::binary()).arg(session.manifests());
        second.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut second = second.spawn().expect("unshare of util-linux");
        let pids = session.wait_lines("web.pids", 2);
        let others: i32 = pids[1].parse().expect("a pid");
        assert_eq!(pids[0], first.to_string());

        kill(first);
        let third = session.next_pid("web", first);
        assert_eq!(session.wait_lines("web.pids", 3)[2], third.to_string(), "it took the other container's app");
        session.ok(&["restart", "web"]);
        session.wait_lines("web.pids", 4);
        assert!(alive(others), "it ended the other container's app");

        crate::harness::send(second.id() as i32, rustix::process::Signal::TERM);
        second.wait().expect("the second container ends");
        assert!(!alive(others) && session.find("web").is_some_and(|app| app.state == StateName::Running));
    });
}

#[test]
fn as_root_a_program_that_gave_up_its_uid_can_open_dev_stderr() {
    as_root("trees::as_root_a_program_that_gave_up_its_uid_can_open_dev_stderr", || {
        let session = Session::new()
            .program("web", "setpriv --reuid 65534 --clear-groups sh -c 'echo said >/dev/stderr'\nexit 0\n")
            .app("web", r#"App(command: "${BIN}/web", restart: Never)"#)
            .start();
        session.wait_state("web", StateName::Stopped);
        until("its line is in the log", || session.ok(&["logs", "web"]).contains("said").then_some(()));
    });
}

#[test]
fn what_a_start_script_has_open_does_not_reach_an_app() {
    let mut session = Session::new()
        .program("web", &format!("ls -l /proc/$$/fd >\"$DATA/open\"\n{FOREVER}"))
        .program("entry", "exec 9>\"$DATA/start.lock\"\nflock 9\nexec \"$@\"\n")
        .app("web", r#"App(command: "${BIN}/web", ready: Ready(probe: Path(path: "${DATA}/open")))"#);
    let entry = session.bin().join("entry");
    session.start_supervisor_under(&[&entry.display().to_string()]);
    session.pid("web");
    let open = session.lines("open");
    assert!(!open.is_empty() && !open.iter().any(|line| line.contains("start.lock")), "{open:#?}");
}

#[test]
fn memory_that_an_apps_processes_share_counts_once() {
    // Five processes share 40 MiB.
    let body = r#"exec python3 -c 'import os, time
shared = b"x" * (40 << 20)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(1000)
open(os.environ["DATA"] + "/forked", "w")
time.sleep(1000)'
"#;
    let session = Session::new()
        .program("web", body)
        .app("web", r#"App(command: "${BIN}/web", ready: Ready(probe: Path(path: "${DATA}/forked")))"#)
        .start();
    session.pid("web");
    let bytes = session.find("web").and_then(|app| app.memory_bytes).expect("its memory");
    assert!((40 << 20..110 << 20).contains(&bytes), "{} MiB", bytes >> 20);
}

#[test]
fn the_peak_of_a_small_app_is_not_the_supervisors_own() {
    let session = Session::new()
        .app("web", r#"App(command: "/bin/sleep", args: ["1000"], backoff: Backoff(first: "1h", max: "1h"))"#)
        .start();
    kill(session.pid("web"));
    let why = until("the crash is told", || Some(session.ok(&["why", "web"])).filter(|why| why.contains("SIGKILL")));
    assert!(!why.contains("peak memory"), "{why}");
}

/// Starts a helper that records TERM before it ends, and keeps running.
const LEAVES_A_POLITE_HELPER: &str = r#"
setsid sh -c 'trap "echo asked >>\"$DATA/asked\"; exit 0" TERM; echo $$ >>"$DATA/polite.pids"; while :; do sleep .05; done' &
"#;

#[test]
fn the_helpers_of_a_crashed_app_are_asked_before_they_are_killed() {
    let session = Session::new()
        .program("web", &format!("{LEAVES_A_POLITE_HELPER}{FOREVER}"))
        .app("web", r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "10ms"))"#)
        .start();
    let web = session.pid("web");
    session.wait_lines("polite.pids", 1);
    kill(web);
    session.next_pid("web", web);
    session.wait_lines("asked", 1);
}

#[test]
fn a_leader_that_asks_back_after_int_is_asked_again_with_term() {
    let asks_back = r#"
trap 'echo int >>"$DATA/signals"' INT
trap 'echo term >>"$DATA/signals"; exit 0' TERM
echo $$ >>"$DATA/pids"
while :; do sleep .05; done
"#;
    let session = Session::new()
        .program("web", asks_back)
        .app("web", r#"App(command: "${BIN}/web", stop: Stop(signal: "INT", grace: "20s"))"#)
        .start();
    session.pid("web");
    session.wait_lines("pids", 1);
    session.ok(&["stop", "web"]);
    assert_eq!(session.lines("signals"), ["int", "term"], "it was killed instead");
}

#[test]
fn an_updater_that_outlives_its_app_may_finish() {
    let updates = r#"
if [ -e "$DATA/updated" ]; then exec "$BIN/new"; fi
setsid sh -c 'trap "echo killed >>\"$DATA/outcome\"; exit 1" TERM; sleep 3; echo done >>"$DATA/outcome"; touch "$DATA/updated"; exec "$BIN/new"' &
echo $$ >>"$DATA/starts"
sleep .2
"#;
    let session = Session::new()
        .stayer("new")
        .program("web", updates)
        .app(
            "web",
            r#"App(command: "${BIN}/web", matches: Match(cmdline: "^/bin/sh .*/bin/(web|new)$", successor: "60s"))"#,
        )
        .start();
    let outcome = session.wait_lines("outcome", 1);
    assert_eq!(outcome, ["done"]);
    let new: i32 = session.wait_lines("new.pids", 1)[0].parse().expect("a pid");
    session.wait("web", "is the new version", |app| app.state == StateName::Running && app.pid == Some(new));
    assert_eq!(session.lines("starts").len(), 1, "the update was interrupted by another start");
}

#[test]
fn helpers_of_an_app_that_crashed_are_asked_first_and_killed_soon() {
    let polite = "trap 'echo TERM >>\"$DATA/asked\"; exit 0' TERM\n: >\"$DATA/polite\"\nsleep 1000 & wait\n";
    let deaf = "trap '' TERM\necho $$ >>\"$DATA/helper.pids\"\nwhile :; do sleep 0.1; done\n";
    let session = Session::new()
        .program("polite", polite)
        .program("deaf", deaf)
        .program("web", &format!("\"$BIN/polite\" &\n\"$BIN/deaf\" &\n{FOREVER}"))
        .app("web", &format!(r#"App(command: "${{BIN}}/web", {RESTARTS_AT_ONCE})"#))
        .start();
    let web = session.pid("web");
    let deaf = helpers(&session, 1)[0];
    until("the polite one is there", || session.data().join("polite").exists().then_some(()));
    kill(web);
    session.next_pid("web", web);
    assert_eq!(session.lines("asked"), ["TERM"]);
    assert!(!alive(deaf), "what ignores TERM outlived the crash");
}

#[test]
fn a_helper_that_hides_is_found_even_if_the_supervisor_dies_while_it_is_swept() {
    let hides = r#"perl -e '$SIG{TERM} = "IGNORE"; my $file = "$ENV{DATA}/helper.pids"; $0 = "x" x 3000; open F, ">>", $file; print F "$$\n"; close F; sleep 1 while 1' &"#;
    let session = with_hidden_helper(hides);
    let web = session.pid("web");
    let helper = helpers(&session, 1)[0];
    kill(web);
    session.crash_supervisor();
    session.next_pid("web", web);
    assert!(!alive(helper), "it outlived its app");
}

/// A server with four workers, each in its own session and behind a title.
const PREFORK: &str = r#"exec perl -e '
use POSIX;
for (1 .. 4) {
    next if fork;
    POSIX::setsid();
    open my $pids, ">>", "$ENV{DATA}/workers";
    syswrite $pids, "$$\n";
    close $pids;
    $0 = "x" x 3000;
    sleep 1000 while 1;
}
sleep 1000 while 1'
"#;

#[test]
fn workers_of_a_server_never_pile_up() {
    let session = Session::new()
        .program("web", PREFORK)
        .app("web", &format!(r#"App(command: "${{BIN}}/web", {RESTARTS_AT_ONCE})"#))
        .start();
    let living = || session.lines("workers").iter().filter(|pid| alive(pid.parse().expect("a pid"))).count();
    for killed in 1..4 {
        let web = session.pid("web");
        session.wait_lines("workers", 4 * killed);
        kill(web);
        session.next_pid("web", web);
        session.wait_lines("workers", 4 * (killed + 1));
        assert_eq!(living(), 4, "workers of an earlier server live on");
    }
    session.ok(&["stop", "web"]);
    assert_eq!(living(), 0);
}

#[test]
fn as_root_the_memory_of_a_helper_that_became_another_user_counts() {
    as_root("trees::as_root_the_memory_of_a_helper_that_became_another_user_counts", || {
        let body = format!(
            "setsid setpriv --reuid 65534 --clear-groups sh -c 'hoard=$(head -c 60000000 /dev/zero | tr \"\\0\" x); exec <&-; while :; do sleep 1; done' &\n{FOREVER}"
        );
        let manifest = r#"App(command: "${BIN}/web", limits: Limits(max_rss: "30MiB"))"#;
        let session = Session::new().program("web", &body).app("web", manifest).start();
        let app = session.wait("web", "was stopped for its memory", |app| app.last_exit.is_some());
        assert!(matches!(app.last_exit, Some(Exit::TooMuchMemory(bytes)) if bytes > 30 << 20), "{app:#?}");
    });
}
