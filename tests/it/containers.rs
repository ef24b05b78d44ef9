//! A container that is stopped or killed and started again on the same disk is a new session. It inherits nothing.

use std::fs;
use std::process::Command;

use kasm_void::model::protocol::StateName;
use rustix::process::Signal;

use crate::harness::{FOREVER, Session, binary, finish, kill, not_run, send, until};

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Stopped,
    Killed,
    /// Told to stop, and killed before it had stopped.
    KilledWhileStopping,
}

/// Starts the session as the first process of a new pid namespace, as a container engine would.
fn start(session: &mut Session) {
    let manifests = session.manifests();
    session.start_supervisor_with(|run| {
        let mut command = Command::new("unshare");
        if !rustix::process::getuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(binary())
            .arg("run")
            .arg(&manifests);
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdin(std::process::Stdio::null());
        let log = fs::File::options().append(true).open(session_log(&manifests)).expect("the log");
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        *run = command;
    });
}

fn session_log(manifests: &std::path::Path) -> std::path::PathBuf {
    manifests.with_file_name("supervisor.log")
}

/// The container's first process, as its pid outside the container.
fn first_process(session: &Session) -> i32 {
    let unshare = session.guard_pid();
    until("the first process of the container", || {
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap_or_default();
        children.split_whitespace().next().and_then(|pid| pid.parse().ok())
    })
}

fn end(session: &mut Session, how: End) {
    let first = first_process(session);
    if how != End::Killed {
        send(first, Signal::TERM);
    }
    if how == End::KilledWhileStopping {
        until("an app was asked to stop", || session.data().join("asked").exists().then_some(()));
    }
    if how != End::Stopped {
        kill(first);
    }
    session.wait_end();
}

fn desktop() -> Session {
    let slow = format!("trap ': >\"$DATA/asked\"; sleep 2; exit 0' TERM\n: >\"$DATA/listens\"\n{FOREVER}");
    Session::new()
        .workspace(r#"Workspace(stage: [Run(argv: ["sh", "-c", "echo staged >>${DATA}/staged"])])"#)
        .stayer("web")
        .stayer("held")
        .program("fails", "echo up >>\"$DATA/fails.ups\"\nexit 3\n")
        .program("slow", &slow)
        .app("web", r#"App(command: "${BIN}/web")"#)
        .app("held", r#"App(command: "${BIN}/held")"#)
        .app(
            "fails",
            r#"App(command: "${BIN}/fails", backoff: Backoff(first: "10ms", give_up: After(times: 2, within: "1m")))"#,
        )
        .app("slow", r#"App(command: "${BIN}/slow", ready: Ready(probe: Path(path: "${DATA}/listens")))"#)
}

#[test]
fn nothing_that_yesterdays_session_wanted_is_inherited() {
    for (first, second) in
        [(End::Killed, End::Stopped), (End::KilledWhileStopping, End::Killed), (End::Stopped, End::KilledWhileStopping)]
    {
        let mut session = desktop();
        for (times, how) in [(1, first), (2, second), (3, End::Stopped)] {
            let _ = fs::remove_file(session.data().join("asked"));
            start(&mut session);
            for app in ["web", "held", "slow"] {
                let app = session.wait_state(app, StateName::Running);
                assert_eq!((app.restarts, app.last_exit), (0, None), "{}, after {first:?}", app.name);
            }
            assert_eq!(session.wait_lines("staged", times).len(), times, "staged once in each session");
            assert!(!session.status().draining);
            // It has given up or is about to, so it was tried in this session.
            let fails = session.wait_state("fails", StateName::GaveUp);
            assert_eq!(
                session.lines("fails.ups").len() as u64,
                fails.run * times as u64,
                "as often as in each session"
            );
            session.ok(&["stop", "held"]);
            end(&mut session, how);
        }
    }
}

#[test]
fn what_is_broken_today_was_never_good_in_todays_session() {
    let mut session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#);
    start(&mut session);
    session.pid("web");
    until("a copy is kept", || session.keeps_copy("web").then_some(()));
    end(&mut session, End::Killed);
    session.edit("web", "App(command: ");
    start(&mut session);
    until("it is told", || session.supervisor_output().contains("manifest.broken").then_some(()));
    assert!(session.find("web").is_none_or(|app| app.pid.is_none()), "{:?}", session.find("web"));
    end(&mut session, End::Stopped);
}

/// The rest of a container's own: its host name and its pids. Runs the words that follow.
fn container(name: &str) -> Vec<String> {
    let words = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"];
    let script = format!("hostname {name} && exec \"$@\"");
    words.into_iter().map(str::to_owned).chain([script, "sh".into()]).collect()
}

fn start_in(session: &mut Session, container: &[String]) {
    let words: Vec<&str> = container.iter().map(String::as_str).collect();
    session.start_supervisor_under(&words);
}

fn as_root(what: &str, story: impl FnOnce()) {
    match rustix::process::geteuid().is_root() {
        true => story(),
        false => not_run(what, "it needs root, which may name hosts"),
    }
}

#[test]
fn a_state_folder_belongs_to_one_container_at_a_time() {
    as_root("containers::a_state_folder_belongs_to_one_container_at_a_time", || {
        let mut session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#);
        start_in(&mut session, &container("pod-a"));
        let first = session.pid("web");
        session.ok(&["stop", "web"]);
        let second = container("pod-b");
        let mut run = session.command(&second[0]);
        run.args(&second[1..]).arg(binary()).arg("run").arg(session.manifests());
        let refused = finish(run);
        let said = &refused.stderr;
        assert!(refused.code == Some(1) && said.contains("another supervisor (in another container)"), "{refused:?}");
        let app = session.find("web").expect("the first container answers");
        assert_eq!((app.state, session.lines("web.pids").len()), (StateName::Stopped, 1), "{first} was its only run");
        // When the first one is gone, nothing is in the way.
        end(&mut session, End::Killed);
        start_in(&mut session, &second);
        session.pid("web");
        end(&mut session, End::Stopped);
    });
}

/// Locks its profile as Chromium does: with a link to its host and pid, and with a lock on a database.
const BROWSER: &str = r#"exec python3 -c '
import fcntl, os, socket, sys, time
profile = sys.argv[1]
os.makedirs(profile + "/Default/Local Storage/leveldb", exist_ok=True)
database = open(profile + "/Default/Local Storage/leveldb/LOCK", "w")
fcntl.lockf(database, fcntl.LOCK_EX)
os.symlink(f"{socket.gethostname()}-{os.getpid()}", profile + "/SingletonLock")
time.sleep(1000)' "$1"
"#;

#[test]
fn a_profile_that_a_browser_in_another_container_uses_is_left_alone() {
    as_root("containers::a_profile_that_a_browser_in_another_container_uses_is_left_alone", || {
        let home = tempfile::tempdir().expect("a volume");
        let profile = home.path().join("profile");
        let lock = profile.join("SingletonLock");
        let manifest = format!(
            r#"App(command: "${{BIN}}/browser", args: ["{0}"],
                prelaunch: [MakeDir(path: "{0}"), ClearLocks(dir: "{0}", kind: Chromium)],
                ready: Ready(probe: Path(path: "{0}/SingletonLock")), backoff: Backoff(first: "100ms", max: "100ms"))"#,
            profile.display()
        );
        // Our container has another host name, or even the same one.
        for ours in ["pod-b", "pod-a"] {
            let mut session = Session::new().program("browser", BROWSER).app("web", &manifest);
            let theirs = container("pod-a");
            let mut browser = session.command(&theirs[0]);
            browser.args(&theirs[1..]).arg(session.bin().join("browser")).arg(&profile);
            let mut browser = browser.env_remove("KASM_VOID_STORY").spawn().expect("a browser of no session");
            let theirs = until("its lock", || fs::read_link(&lock).ok());
            start_in(&mut session, &container(ours));
            let refused = session.wait("web", "may not use the profile", |app| app.last_exit.is_some());
            let why = refused.last_exit.map(|exit| exit.to_string()).unwrap_or_default();
            assert!(why.contains("a browser on host `pod-a`, which cannot be seen from here"), "{why}");
            assert_eq!(fs::read_link(&lock).expect("the lock"), theirs);
            // The app comes up by itself when the other browser is gone, though that has left its lock.
            browser.kill().expect("kill");
            browser.wait().expect("a reaped container");
            session.pid("web");
            end(&mut session, End::Killed);
            fs::remove_file(&lock).expect("the lock of a killed browser");
        }
    });
}
