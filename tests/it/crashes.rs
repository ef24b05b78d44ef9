//! Apps that exit by themselves: they are restarted with the waits of their policy, and the cause is reported.

use std::time::{Duration, Instant};

use kasm_void::model::exit::Exit;
use kasm_void::model::protocol::{Crash, StateName};

use crate::harness::{FOREVER, NOBODY, Session, in_own_mounts, kill, until_ok};

/// Exits at once. Five retries, after 50, 100, 200, 200 and 200 ms.
const DIES_AT_ONCE: &str = r#"App(command: "${BIN}/dies", backoff: Backoff(
    first: "50ms", factor: 2.0, max: "200ms", jitter: 0.0, stable_after: "1m",
    give_up: After(times: 6, within: "1m"),
))"#;

#[test]
fn an_app_killed_by_sigkill_is_back() {
    let session = Session::new()
        .stayer("web")
        .app("web", r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "10ms"))"#)
        .start();
    let first = session.pid("web");
    kill(first);
    let second = session.next_pid("web", first);
    assert_eq!(session.wait_lines("web.pids", 2), [first.to_string(), second.to_string()]);

    let app = session.find("web").expect("still there");
    assert_eq!((app.last_exit, app.restarts, app.run), (Some(Exit::Signal(9)), 1, 2));
    let why = session.ok(&["why", "web"]);
    assert!(why.contains("SIGKILL"), "{why}");
}

#[test]
fn starts_ends_and_dead_supervisors_leave_no_descriptor_and_no_zombie() {
    let manifest = r#"App(command: "${BIN}/dies", prelaunch: [Run(argv: ["true"])], poststop: [Run(argv: ["true"])],
        backoff: Backoff(first: "1ms", max: "1ms", jitter: 0.0, stable_after: "1m"))"#;
    let body = "echo run >>\"$DATA/runs\"\n(sleep 0.1 &)\nexit 3\n"; // it leaves an orphan
    let mut session = Session::new().program("dies", body).app("dies", manifest).start();
    session.wait_lines("runs", 20);
    let identity = session.identity();
    let (supervisor, guard) = (identity.pid, identity.guard.expect("a guard"));
    let before = (descriptors(supervisor), descriptors(guard));
    session.wait_lines("runs", 80);
    until_ok("what 60 starts have opened is closed:", || at_most(before.0 + 6, descriptors(supervisor)));
    until_ok("every ended child is collected:", || at_most(0, zombies_of(supervisor)));
    for _ in 0..8 {
        let identity = session.identity();
        kill(identity.pid);
        until_ok("the next supervisor", || match session.try_identity().filter(|next| next.pid != identity.pid) {
            Some(_) => Ok(()),
            None => Err(String::new()),
        });
    }
    until_ok("what 8 supervisors needed is closed:", || at_most(before.1 + 3, descriptors(guard)));
    until_ok("the guard has collected every child:", || at_most(0, zombies_of(guard)));
    session.ok(&["drain"]);
    session.wait_end();
}

fn at_most(most: usize, there: usize) -> Result<(), String> {
    if there <= most { Ok(()) } else { Err(format!("{there} are there, and at most {most} should be")) }
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn zombies_of(parent: i32) -> usize {
    let stats = std::fs::read_dir("/proc").expect("/proc").flatten();
    let stats = stats.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let is = |stat: &String| {
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let mut fields = after.split_ascii_whitespace();
        fields.next() == Some("Z") && fields.next() == Some(&parent.to_string())
    };
    stats.filter(is).count()
}

#[test]
fn a_crash_is_told_with_the_last_words_of_its_own_run() {
    let body = "[ -e \"$DATA/said\" ] && exit 4\n: >\"$DATA/said\"\necho out of paper\nexit 3\n";
    let manifest =
        r#"App(command: "${BIN}/prints", backoff: Backoff(first: "10ms", give_up: After(times: 2, within: "1h")))"#;
    let session = Session::new().program("prints", body).app("prints", manifest).start();
    session.wait_state("prints", StateName::GaveUp);
    let crashes = session.ok(&["why", "prints", "--json"]);
    let crashes: Vec<Crash> = serde_json::from_str(&crashes).expect("crashes as JSON");
    let told: Vec<(Exit, Vec<String>)> = crashes.into_iter().map(|crash| (crash.exit, crash.tail)).collect();
    assert_eq!(told, [(Exit::Code(3), vec!["out of paper".into()]), (Exit::Code(4), Vec::new())]);
}

#[test]
fn a_stable_app_does_not_wait_out_its_backoff() {
    let session = Session::new()
        .stayer("web")
        .app("web", r#"App(command: "${BIN}/web", backoff: Backoff(first: "10m", max: "10m", stable_after: "10ms"))"#)
        .start();
    let first = session.pid("web");
    kill(first);
    session.next_pid("web", first);
}

#[test]
fn every_exit_code_is_told_as_it_was() {
    let mut session = Session::new().program("ends", "exit \"$1\"\n");
    for code in 0..=255 {
        let manifest = format!(r#"App(command: "${{BIN}}/ends", args: ["{code}"], restart: Never)"#);
        session = session.app(&format!("exit-{code}"), &manifest);
    }
    let session = session.start();
    let apps = until_ok("all 256 have ended; not yet", || {
        let (ended, not): (Vec<_>, Vec<_>) =
            session.status().apps.into_iter().partition(|app| app.state == StateName::Stopped && app.run == 1);
        if not.is_empty() && ended.len() == 256 { Ok(ended) } else { Err(format!("{not:#?}")) }
    });
    for app in apps {
        let code: i32 = app.name.strip_prefix("exit-").and_then(|code| code.parse().ok()).expect("a code");
        match app.last_exit.expect("an app that ended has an exit") {
            Exit::Clean => assert_eq!(code, 0),
            // The meaning of this exit code for Chromium.
            Exit::ProfileLocked => assert_eq!(code, 21),
            exit => assert_eq!(exit, Exit::Code(code)),
        }
    }
    for code in [1, 127, 255] {
        let why = session.ok(&["why", &format!("exit-{code}")]);
        assert!(why.contains(&format!("exit code {code}")), "{why}");
    }
}

#[test]
fn an_app_that_dies_at_once_is_tried_at_its_pace_and_given_up() {
    let began = Instant::now();
    let session =
        Session::new().program("dies", "echo $$ >>\"$DATA/starts\"\nexit 3\n").app("web", DIES_AT_ONCE).start();
    let app = session.wait_state("web", StateName::GaveUp);
    assert!(began.elapsed() >= Duration::from_millis(750), "five retries took only {:?}", began.elapsed());
    assert_eq!(app.last_exit, Some(Exit::Code(3)));
    assert_eq!(session.lines("starts").len(), 6);
    assert_eq!(session.processes(), NOBODY);
}

#[test]
fn a_start_by_hand_forgets_that_the_app_was_given_up() {
    let session =
        Session::new().program("dies", "echo $$ >>\"$DATA/starts\"\nexit 3\n").app("web", DIES_AT_ONCE).start();
    session.wait_state("web", StateName::GaveUp);
    session.cli(&["start", "web", "--no-wait"]);
    session.wait_lines("starts", 12);
    session.wait_state("web", StateName::GaveUp);
    assert_eq!(session.lines("starts").len(), 12);
}

#[test]
fn a_corrected_manifest_brings_a_given_up_app_back() {
    let session = Session::new().stayer("web").program("dies", "exit 3\n").app("web", DIES_AT_ONCE).start();
    session.wait_state("web", StateName::GaveUp);
    session.edit("web", r#"App(command: "${BIN}/web")"#);
    session.pid("web");
}

#[test]
fn a_waiting_app_says_when_it_is_tried_again() {
    let manifest = r#"App(command: "${BIN}/dies", backoff: Backoff(first: "10m", max: "10m", jitter: 0.0))"#;
    let session = Session::new().program("dies", "echo x >>\"$DATA/starts\"\nexit 3\n").app("web", manifest).start();
    let app = session.wait_state("web", StateName::Backoff);
    let left = app.next_retry_ms.expect("a time for the next try");
    assert!((1..=600_000).contains(&left), "{left} ms");

    session.cli(&["start", "web", "--no-wait"]);
    session.wait_lines("starts", 2);
}

#[test]
fn an_app_closed_by_its_person_stays_closed_when_asked_to() {
    let session = Session::new()
        .program("closes", "sleep 0.8\necho closed >>\"$DATA/closed\"\nexit 0\n")
        .app("web", r#"App(command: "${BIN}/closes", on_close: Hold)"#)
        .start();
    let app = session.wait("web", "is held", |app| app.state == StateName::Stopped);
    assert_eq!(app.last_exit, Some(Exit::Clean));
    assert_eq!(session.lines("closed").len(), 1);
}

#[test]
fn an_app_that_ends_at_once_was_closed_by_nobody() {
    let body = "echo up >>\"$DATA/ups\"\n[ $(wc -l <\"$DATA/ups\") -lt 3 ] || exec sleep 1000\n";
    let manifest = r#"App(command: "${BIN}/web", on_close: Hold, backoff: Backoff(first: "10ms", max: "10ms"))"#;
    let session = Session::new().program("web", body).app("web", manifest).start();
    session.wait_lines("ups", 3);
    session.pid("web");
}

#[test]
fn a_program_that_daemonises_is_told_the_way_out() {
    let session = Session::new()
        .stayer("daemon")
        .program("web", "setsid \"$BIN/daemon\" >/dev/null 2>&1 &\nexit 0\n")
        .app("web", r#"App(command: "${BIN}/web", backoff: Backoff(first: "1h", max: "1h"))"#)
        .start();
    session.wait_state("web", StateName::Backoff);
    let why = session.ok(&["why", "web"]);
    assert!(why.contains("`matches`"), "the fix is not named: {why}");
}

/// In a mount namespace of its own, a file stands in for the kernel's count of out-of-memory kills. A real count needs a
/// memory cgroup that a test may limit, and no test may assume that.
#[test]
fn a_kill_that_the_kernel_counts_is_told_as_out_of_memory() {
    in_own_mounts("crashes::a_kill_that_the_kernel_counts_is_told_as_out_of_memory", || {
        let mount = |arguments: &[&str]| {
            let mounted = std::process::Command::new("mount").args(arguments).status().expect("mount");
            assert!(mounted.success(), "mount {arguments:?}: {mounted}");
        };
        mount(&["-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"]);
        let count = |kills: u32| {
            let text = format!("low 0\nhigh 0\nmax 9\noom {kills}\noom_kill {kills}\n");
            std::fs::write("/sys/fs/cgroup/memory.events", text).expect("a count");
        };
        count(3);
        let fat = "hoard=$(head -c 60000000 /dev/zero | tr '\\0' x)\n: >\"$DATA/$1\"\n".to_owned() + FOREVER;
        let app = |name: &str| {
            format!(
                r#"App(command: "${{BIN}}/fat", args: ["{name}"], ready: Ready(probe: Path(path: "${{DATA}}/{name}")),
                    backoff: Backoff(first: "1h", max: "1h", stable_after: "1h"))"#
            )
        };
        let session = Session::new().program("fat", &fat).app("victim", &app("victim")).app("other", &app("other"));
        let session = session.start();
        let (victim, other) = (session.pid("victim"), session.pid("other"));
        count(4);
        kill(victim);
        let ended = session.wait_state("victim", StateName::Backoff);
        assert_eq!(ended.last_exit, Some(Exit::OutOfMemory));
        kill(other);
        let ended = session.wait_state("other", StateName::Backoff);
        assert_eq!(ended.last_exit, Some(Exit::Signal(9)), "the kernel killed one process, not two");
    });
}

#[test]
fn an_app_whose_program_is_removed_says_so_and_the_others_run() {
    let session = Session::new()
        .stayer("web")
        .stayer("other")
        .app("web", r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "10ms", give_up: After(times: 2, within: "1m")))"#)
        .app("other", r#"App(command: "${BIN}/other")"#)
        .start();
    let (web, other) = (session.pid("web"), session.pid("other"));
    std::fs::remove_file(session.bin().join("web")).expect("the program");
    kill(web);
    let app = session.wait_state("web", StateName::GaveUp);
    let Some(Exit::SpawnFailed(why)) = &app.last_exit else { panic!("{app:#?}") };
    assert!(why.contains("/web"), "the program is not named: {why}");
    assert_eq!(session.pid("other"), other);
}

#[test]
fn a_crash_is_told_with_the_last_lines_the_app_said() {
    let body = "for line in 1 2 3 4 5 6 7; do echo \"line $line\"; done\nexit 9\n";
    let manifest = r#"App(command: "${BIN}/talks", restart: Never, log: Log(tail: 3))"#;
    let session = Session::new().program("talks", body).app("web", manifest).start();
    session.wait("web", "has ended", |app| app.last_exit == Some(Exit::Code(9)));
    let why = session.ok(&["why", "web"]);
    assert!(why.contains("line 5") && why.contains("line 7") && !why.contains("line 4"), "{why}");
}

#[test]
fn an_app_that_is_never_ready_is_stopped_and_tried_again() {
    let manifest = r#"App(command: "${BIN}/web",
        ready: Ready(probe: Path(path: "${DATA}/ready"), within: "200ms"),
        backoff: Backoff(first: "50ms", give_up: After(times: 2, within: "1m")))"#;
    let session = Session::new().stayer("web").app("web", manifest).start();
    let app = session.wait_state("web", StateName::GaveUp);
    assert!(matches!(app.last_exit, Some(Exit::NotReady(_))), "{app:#?}");
    assert_eq!(session.processes(), NOBODY);

    std::fs::write(session.data().join("ready"), "").expect("a file");
    session.ok(&["start", "web"]);
    session.pid("web");
}

#[test]
fn an_unhealthy_app_is_restarted() {
    let manifest = r#"App(command: "${BIN}/web",
        health: Health(probe: Path(path: "${DATA}/well"), every: "50ms", timeout: "1s", failures: 2),
        backoff: Backoff(stable_after: "10ms", give_up: Never))"#;
    let session = Session::new().program("web", &format!(": >\"$DATA/well\"\n{FOREVER}")).app("web", manifest).start();
    let sick = session.pid("web");
    std::fs::remove_file(session.data().join("well")).expect("a healthy app");
    session.next_pid("web", sick);
    let app = session.find("web").expect("still there");
    assert!(matches!(app.last_exit, Some(Exit::Unhealthy(_))), "{app:#?}");
}

#[test]
fn an_app_that_needs_too_much_memory_is_restarted_before_the_pod_is_killed() {
    let body = "hoard=$(head -c 60000000 /dev/zero | tr '\\0' x)\n".to_owned() + FOREVER;
    let manifest = r#"App(command: "${BIN}/hoarder", limits: Limits(max_rss: "30MiB"))"#;
    let session = Session::new().program("hoarder", &body).app("web", manifest).start();
    let app = session.wait("web", "was stopped for its memory", |app| app.last_exit.is_some());
    assert!(matches!(app.last_exit, Some(Exit::TooMuchMemory(bytes)) if bytes > 30 << 20), "{app:#?}");
    assert!(session.ok(&["why", "web"]).contains("too much memory"));
}
