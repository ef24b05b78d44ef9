//! If the supervisor dies, at any moment, no app is restarted, doubled or forgotten, and no output is lost.

use std::process::{Command, Stdio};

use kasm_void::model::exit::Exit;
use kasm_void::model::protocol::StateName;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::harness::{FOREVER, NOBODY, Session, alive, binary, children, in_own_pids, kill, spawn_as, until};

const WEB: &str = r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "10ms"))"#;

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

/// Holds a lease on a file: whoever opens it, also by exec, waits until our stdin ends.
const LEASE: &str = r#"import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDONLY)
signal.signal(signal.SIGIO, lambda *_: print("asked for", file=open(os.environ["DATA"] + "/lease", "a")))
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", file=open(os.environ["DATA"] + "/lease", "a"))
sys.stdin.read()
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
"#;

#[test]
fn an_app_that_was_half_started_when_the_supervisor_died_is_not_started_twice() {
    let session = Session::new().stayer("web").start();
    let mut lease = session.command("python3");
    lease.args(["-c", LEASE]).arg(session.bin().join("web")).stdin(Stdio::piped());
    let mut lease = lease.spawn().expect("python3");
    session.wait_lines("lease", 1);
    let first = session.supervisor_pid();
    session.edit("web", WEB);
    // It has forked, and its exec waits for the lease.
    session.wait_lines("lease", 2);
    let half_started = children(first);
    kill(first);
    let next = until("the next supervisor", || {
        session.supervisors().into_iter().find(|pid| *pid != first && !half_started.contains(pid))
    });
    // It sleeps between two looks. One that started the app again would not: its own exec would wait for the lease.
    until("it waits for the half-started app", || (naps(next) >= 5).then_some(()));
    drop(lease.stdin.take());
    let web = session.pid("web");
    assert!(
        session.find("web").is_some_and(|app| app.adopted) && half_started.contains(&web),
        "{half_started:?} {web}"
    );
    assert_eq!(session.lines("web.pids"), [web.to_string()]);
    lease.wait().expect("the lease has ended");
}

/// How often a process has gone to sleep.
fn naps(pid: i32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok());
    count.unwrap_or_default()
}

#[test]
fn a_recycled_pid_is_nobodys() {
    in_own_pids("adoption::a_recycled_pid_is_nobodys", || {
        let mut session = Session::new().stayer("web").app("web", WEB).start();
        let web = session.pid("web");
        session.kill_supervisor();
        kill(web);
        until("its pid is free", || (!std::path::Path::new(&format!("/proc/{web}")).exists()).then_some(()));
        let mut stranger = spawn_as(web, Command::new("/bin/sleep").arg("infinity").env_clear());
        session.start_supervisor();
        let next = session.next_pid("web", web);
        let app = session.find("web").expect("the app");
        assert!(!app.adopted && app.last_exit.is_some(), "{app:#?}");
        session.ok(&["restart", "web"]);
        session.next_pid("web", next);
        session.ok(&["stop", "web"]);
        assert!(alive(web), "the stranger with the app's old pid was killed");
        stranger.kill().expect("kill");
        stranger.wait().expect("a reaped stranger");
    });
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
    // Each number is first written to a file that the story reads, then printed.
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

#[test]
fn no_line_of_a_flood_is_lost_or_doubled_when_the_supervisor_is_killed_again_and_again() {
    let body = "number=0\nwhile ! [ -e \"$DATA/enough\" ]; do number=$((number + 1)); echo $number; [ $((number % 30)) != 0 ] || sleep 0.005; done\necho $number >\"$DATA/said\"\nread _ <>\"$DATA/never\"\n";
    let manifest = r#"App(command: "${BIN}/counts", log: Log(file: "${DATA}/count.log", max_size: "1GiB"))"#;
    let session = Session::new().program("counts", body).app("counts", manifest).start();
    let pid = session.pid("counts");
    // Only a few times: a supervisor that keeps dying is restarted with growing waits.
    for _ in 0..5 {
        session.crash_supervisor();
    }
    std::fs::write(session.data().join("enough"), "").expect("the end of the flood");
    let said: usize = session.wait_lines("said", 1)[0].parse().expect("a number");
    let logged = session.wait_lines("count.log", said);
    let wrong = logged.iter().enumerate().find(|(at, line)| line.parse() != Ok(at + 1));
    assert_eq!((wrong, logged.len(), session.pid("counts")), (None, said, pid));
}

#[test]
fn a_supervisor_that_is_killed_is_back_by_itself_and_nobody_notices() {
    let session = Session::new().stayer("web").stayer("other").app("web", WEB).app("other", WEB_OTHER).start();
    let (web, other) = (session.pid("web"), session.pid("other"));
    let before = session.find("web").expect("the app");
    for _ in 0..3 {
        session.crash_supervisor();
        assert_eq!((session.pid("web"), session.pid("other")), (web, other));
    }
    let after = session.find("web").expect("the app");
    assert_eq!((after.run, after.restarts), (before.run, before.restarts));
    assert!(after.uptime_ms > before.uptime_ms, "{before:?} {after:?}");
    assert_eq!(session.lines("web.pids").len(), 1);
}

const WEB_OTHER: &str = r#"App(command: "${BIN}/other")"#;

#[test]
fn a_held_app_stays_held_under_the_next_supervisor() {
    let session = Session::new().stayer("web").app("web", WEB).start();
    session.pid("web");
    session.ok(&["stop", "web"]);
    session.crash_supervisor();
    let app = session.wait_state("web", StateName::Stopped);
    assert_eq!(app.detail, "by hand");
}

#[test]
fn a_disabled_app_that_was_started_by_hand_goes_on() {
    let disabled = r#"App(command: "${BIN}/web", enabled: false)"#;
    let session = Session::new().stayer("web").app("web", disabled).start();
    session.ok(&["start", "web"]);
    let web = session.pid("web");
    session.crash_supervisor();
    assert_eq!(session.pid("web"), web);
    assert_eq!(session.lines("web.pids").len(), 1);
}

#[test]
fn counts_and_causes_survive_the_supervisor() {
    let session = Session::new().stayer("web").app("web", WEB).start();
    let mut pid = session.pid("web");
    for _ in 0..3 {
        kill(pid);
        pid = session.next_pid("web", pid);
    }
    let before = session.find("web").expect("the app");
    session.crash_supervisor();
    assert_eq!(session.pid("web"), pid);
    let after = session.find("web").expect("the app");
    assert_eq!((after.restarts, after.run, after.last_exit), (3, before.run, before.last_exit));
    assert_eq!(session.ok(&["why", "web"]).matches("killed by SIGKILL").count(), 3);
    assert_eq!(session.supervisor_output().matches("+ web start").count(), 1, "an app that goes on is not started");
}

#[test]
fn an_exit_after_the_supervisors_death_is_told_with_its_real_status() {
    let body = "echo $$ >>\"$DATA/web.pids\"\nread code <>\"$DATA/never\"\nexit \"$code\"\n";
    let manifest = r#"App(command: "${BIN}/web", backoff: Backoff(first: "1h", max: "1h", stable_after: "1h"))"#;
    let session = Session::new().program("web", body).app("web", manifest).start();
    session.pid("web");
    session.crash_supervisor();
    std::fs::write(session.data().join("never"), "7\n").expect("the app reads");
    let app = session.wait_state("web", StateName::Backoff);
    assert_eq!(app.last_exit, Some(Exit::Code(7)));
}

#[test]
fn an_exit_while_nobody_supervises_is_told_with_its_real_status() {
    let manifest = r#"App(command: "${BIN}/web", backoff: Backoff(first: "1h", max: "1h", stable_after: "1h"))"#;
    let session = Session::new().stayer("web").app("web", manifest).start();
    let web = session.pid("web");
    let supervisor = session.supervisor_pid();
    crate::harness::send(supervisor, rustix::process::Signal::STOP);
    kill(web);
    kill(supervisor);
    until("the next supervisor answers", || (session.cli(&["status"]).code == Some(0)).then_some(()));
    let app = session.wait_state("web", StateName::Backoff);
    assert_eq!(app.last_exit, Some(Exit::Signal(9)));
}

#[test]
fn apps_that_die_with_the_supervisor_have_their_real_status_too() {
    let mut session = Session::new();
    let names: Vec<String> = (0..20).map(|number| format!("web-{number}")).collect();
    for name in &names {
        let manifest = r#"App(command: "/bin/sleep", args: ["infinity"], backoff: Backoff(first: "1h", max: "1h", stable_after: "1h"))"#;
        session = session.app(name, manifest);
    }
    let session = session.start();
    session.pid(&names[names.len() - 1]);
    let pids: Vec<i32> = session.status().apps.iter().map(|app| app.pid.expect("all run")).collect();
    kill(session.supervisor_pid());
    for pid in pids {
        kill(pid);
        // One after the other, so that they die at different moments of the supervisor's restart.
        until("it is dead", || (!alive(pid)).then_some(()));
    }
    until("the next supervisor answers", || (session.cli(&["status"]).code == Some(0)).then_some(()));
    let all_down = until("all are down", || {
        let apps = session.status().apps;
        apps.iter().all(|app| app.state == StateName::Backoff).then_some(apps)
    });
    assert!(all_down.iter().all(|app| app.last_exit == Some(Exit::Signal(9))), "{all_down:#?}");
}

#[test]
fn a_wait_goes_on_where_it_was() {
    let manifest = r#"App(command: "/bin/false", backoff: Backoff(first: "1h", max: "1h", jitter: 0.0))"#;
    let session = Session::new().app("web", manifest).start();
    let before = session.wait_state("web", StateName::Backoff).next_retry_ms.expect("a wait");
    session.crash_supervisor();
    let app = session.wait_state("web", StateName::Backoff);
    let after = app.next_retry_ms.expect("a wait");
    assert!(after <= before && app.run == 1 && app.detail == "retry 1", "{before} then {app:#?}");
}

#[test]
fn a_guard_that_was_killed_is_replaced_and_no_app_notices() {
    let talker = "i=0\nwhile :; do echo \"line $i\"; i=$((i+1)); sleep 0.01; done\n";
    let mut session = Session::new().stayer("web").app("web", WEB).program("talker", talker);
    session = session.app("talker", r#"App(command: "${BIN}/talker")"#).start();
    let (web, talker) = (session.pid("web"), session.pid("talker"));
    session.kill_guard();
    let guard = session.guarded_again();
    assert_eq!((session.pid("web"), session.pid("talker")), (web, talker));
    assert_eq!(session.find("web").map(|app| (app.run, app.restarts)), Some((1, 0)));
    kill(web);
    let web = session.next_pid("web", web);
    assert_eq!(session.find("web").and_then(|app| app.last_exit), Some(Exit::Signal(9)), "the guard tells it");
    kill(guard);
    until("the guard is gone", || (!alive(guard)).then_some(()));
    session.guarded_again();
    assert_eq!((session.pid("web"), session.pid("talker")), (web, talker));
    // The new guard does everything that a guard does.
    let identity = session.identity();
    kill(identity.pid);
    let next = until("the next supervisor", || session.try_identity().filter(|next| next.pid != identity.pid));
    assert_eq!(next.guard, identity.guard);
    session.ok(&["upgrade", &binary().to_string_lossy()]);
    assert_eq!((session.pid("web"), session.pid("talker")), (web, talker));
    kill(web);
    session.next_pid("web", web);
    let second = session.command(binary()).arg("run").arg(session.manifests()).output().expect("a second run");
    assert!(String::from_utf8_lossy(&second.stderr).contains("another supervisor"), "{second:?}");
    session.ok(&["drain"]);
    assert_eq!(session.processes(), NOBODY);
    let text = std::fs::read_to_string(session.state().join("logs/talker.log")).expect("a log");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("line ")).collect();
    assert!(lines.iter().enumerate().all(|(at, line)| *line == format!("line {at}")), "lost or doubled: {text}");
}

#[test]
fn a_supervisor_without_a_free_descriptor_takes_the_place_of_its_guard() {
    let talker = "i=0\nwhile :; do echo \"line $i\"; i=$((i+1)); sleep 0.01; done\n";
    let mut session = Session::new().program("talker", talker);
    session = session.app("talker", r#"App(command: "${BIN}/talker")"#).start();
    let talker = session.pid("talker");
    let supervisor = Pid::from_raw(session.supervisor_pid());
    let all = getrlimit(Resource::Nofile);
    prlimit(supervisor, Resource::Nofile, Rlimit { current: Some(3), ..all }).expect("a limit");
    session.kill_guard();
    session.guarded_again();
    assert_eq!(session.pid("talker"), talker);
    session.ok(&["drain"]);
    let text = std::fs::read_to_string(session.state().join("logs/talker.log")).expect("a log");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("line ")).collect();
    assert!(lines.iter().enumerate().all(|(at, line)| *line == format!("line {at}")), "lost or doubled: {text}");
}

#[test]
fn a_ledger_that_is_not_ours_is_said_and_the_apps_are_found_all_the_same() {
    let mut session = Session::new().stayer("web").app("web", WEB).start();
    let web = session.pid("web");
    session.kill_supervisor();
    std::fs::write(session.state().join("ledger.jsonl"), "not ours\n").expect("garbage");
    session.start_supervisor();
    assert_eq!(session.pid("web"), web);
    assert!(session.supervisor_output().contains("ledger.jsonl.bad"), "{}", session.supervisor_output());
}

#[test]
fn a_manifest_that_is_broken_when_the_supervisor_dies_keeps_its_last_good_version() {
    let held = r#"App(command: "${BIN}/held")"#;
    let session = Session::new().stayer("web").stayer("held").app("web", WEB).app("held", held);
    let session = session.workspace("Workspace()").start();
    let web = session.pid("web");
    session.ok(&["stop", "held"]);
    until("all are kept", || ["web", "held", "workspace"].iter().all(|name| session.keeps_copy(name)).then_some(()));
    for file in ["web", "held", "workspace"] {
        session.edit(file, "App(command: ");
    }
    until("it is told", || session.find("web").filter(|web| web.stale.is_some()));
    session.crash_supervisor();
    let app = session.wait_state("web", StateName::Running);
    assert!(app.pid == Some(web) && app.stale.is_some(), "{app:#?}");
    kill(web);
    session.next_pid("web", web);
    assert_eq!(session.find("held").map(|app| app.state), Some(StateName::Stopped));
    session.ok(&["start", "held"]);
    session.wait_state("held", StateName::Running);
}

#[test]
fn an_app_whose_manifest_went_meanwhile_is_stopped_as_it_wants_to_be() {
    let body = "trap 'echo last words; exit' INT\nwhile :; do read _ <>\"$DATA/never\"; done\n";
    let manifest = r#"App(command: "${BIN}/web", stop: Stop(signal: "INT"), log: Log(file: "${DATA}/web.log"))"#;
    let mut session = Session::new().program("web", body).app("web", manifest).start();
    let web = session.pid("web");
    until("the manifest is kept", || session.keeps_copy("web").then_some(()));
    session.kill_supervisor();
    session.remove("web");
    session.start_supervisor();
    until("the app is gone", || (!alive(web)).then_some(()));
    until("it is forgotten", || session.find("web").is_none().then_some(()));
    assert_eq!(session.wait_lines("web.log", 1), ["last words"]);
}

#[test]
fn a_folder_is_the_same_in_every_spelling() {
    let manifest = r#"App(command: "${BIN}/web", args: ["--dir=${DATA}/profile"],
        matches: Match(cmdline: "^/bin/sh ${BIN}/web ", same_folder: "--dir"))"#;
    for (spelled, is_it) in [
        ("--dir=DATA/profile/", true),
        ("--dir=DATA/./profile", true),
        ("--dir DATA/link", true),
        ("--dir=profile", true),
        ("--dir=DATA/other", false),
        ("--dir=DATA/profile --dir=DATA/other", false),
        ("--dirs=DATA/profile", false),
    ] {
        let session = Session::new().stayer("web").app("web", manifest);
        for folder in ["profile", "other"] {
            std::fs::create_dir(session.data().join(folder)).expect("a folder");
        }
        std::os::unix::fs::symlink("profile", session.data().join("link")).expect("a link");
        let words = spelled.replace("DATA", session.data().to_str().expect("UTF-8"));
        let mut by_hand = session.command("setsid");
        by_hand.arg("--fork").arg(session.bin().join("web")).args(words.split(' ')).current_dir(session.data());
        assert!(by_hand.status().expect("setsid of util-linux").success());
        let owner = session.wait_lines("web.pids", 1)[0].clone();
        let session = session.start();
        assert_eq!(session.pid("web").to_string() == owner, is_it, "{spelled}");
        if !is_it {
            crate::harness::kill(owner.parse().expect("a pid"));
        }
    }
}

#[test]
fn an_app_that_is_disabled_while_every_record_is_lost_is_stopped() {
    let mut session = Session::new().stayer("web").app("web", WEB).start();
    let web = session.pid("web");
    session.kill_supervisor();
    std::fs::remove_dir_all(session.state()).expect("rm -rf");
    session.edit("web", r#"App(command: "${BIN}/web", enabled: false)"#);
    session.start_supervisor();
    until("it is stopped", || (!alive(web)).then_some(()));
    session.wait_state("web", StateName::Stopped);
}
