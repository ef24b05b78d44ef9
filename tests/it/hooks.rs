//! Hooks: profile locks, seeded settings, and hooks that hang or fail.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use kasm_void::model::exit::Exit;
use kasm_void::model::protocol::StateName;
use serde_json::json;

use crate::harness::{FOREVER, NOTHING, Session, alive, binary, kill, until};

const CLEARS_LOCKS: &str = r#"App(command: "${BIN}/web", matches: Match(cmdline: "^/bin/sh ${BIN}/web$$"),
    prelaunch: [MakeDir(path: "${DATA}/profile"), ClearLocks(dir: "${DATA}/profile", kind: Chromium)])"#;

/// A session whose profile is locked by `owner`.
fn locked_by(owner: &str) -> Session {
    let session = Session::new().stayer("web").app("web", CLEARS_LOCKS);
    let profile = session.data().join("profile");
    fs::create_dir(&profile).expect("a profile");
    symlink(owner, profile.join("SingletonLock")).expect("a lock");
    symlink("/tmp/nowhere/SingletonSocket", profile.join("SingletonSocket")).expect("a socket link");
    fs::write(profile.join("Preferences"), "{}").expect("a profile with something in it");
    session
}

fn lock(session: &Session) -> PathBuf {
    session.data().join("profile/SingletonLock")
}

fn locked(session: &Session) -> bool {
    lock(session).symlink_metadata().is_ok()
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Chromium's lock is a link to a text that names no file.
#[test]
fn a_dangling_link_is_there_for_a_hook_and_for_a_probe() {
    let session = Session::new()
        .program("web", &format!("ln -s nobody-1 \"$DATA/ready\"\n{FOREVER}"))
        .app(
            "web",
            r#"App(command: "${BIN}/web", ready: Ready(probe: Path(path: "${DATA}/ready")),
                prelaunch: [WaitFor(what: Path(path: "${DATA}/lock"))])"#,
        )
        .start();
    session.wait_state("web", StateName::Starting);
    symlink("nobody-1", session.data().join("lock")).expect("a link to nothing");
    session.wait_state("web", StateName::Running);
}

#[test]
fn a_lock_of_another_host_is_cleared() {
    let session = locked_by("pod-a-32").start();
    session.pid("web");
    assert!(!locked(&session));
    assert!(session.data().join("profile/SingletonSocket").symlink_metadata().is_err());
    assert!(session.data().join("profile/Preferences").exists());
}

#[test]
fn a_lock_of_a_dead_process_is_cleared() {
    let mut dead = std::process::Command::new("true").spawn().expect("true");
    dead.wait().expect("an end");
    let session = locked_by(&format!("{}-{}", host(), dead.id())).start();
    session.pid("web");
    assert!(!locked(&session));
}

#[test]
fn a_lock_of_a_process_that_is_another_app_is_cleared() {
    let session = locked_by(&format!("{}-{}", host(), std::process::id())).start();
    session.pid("web");
    assert!(!locked(&session));
}

#[test]
fn the_lock_of_a_live_browser_is_left_alone() {
    let session = locked_by("replaced below");
    session.by_hand("web");
    let owner = session.wait_lines("web.pids", 1)[0].clone();
    fs::remove_file(lock(&session)).expect("the first lock");
    symlink(format!("{}-{owner}", host()), lock(&session)).expect("a live lock");
    let session = session.start();
    assert_eq!(session.pid("web").to_string(), owner);
    assert!(locked(&session));
}

#[test]
fn the_lock_of_a_live_browser_that_the_pattern_does_not_know_is_left_alone() {
    let session = locked_by("replaced below");
    session.edit("web", &CLEARS_LOCKS.replace("${BIN}/web$$", "${BIN}/web --another-spelling$$"));
    session.by_hand("web");
    let owner = session.wait_lines("web.pids", 1)[0].clone();
    fs::remove_file(lock(&session)).expect("the first lock");
    symlink(format!("{}-{owner}", host()), lock(&session)).expect("a live lock");
    let session = session.start();
    session.pid("web");
    let holder = fs::read_link(lock(&session)).expect("the lock is there");
    assert_eq!(holder.to_string_lossy(), format!("{}-{owner}", host()));
    kill(owner.parse().expect("a pid"));
}

#[test]
fn another_program_on_the_port_is_not_the_app() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    for target in [format!("Tcp(address: \"{address}\", own: true)"), format!("Tcp(address: \"{address}\")")] {
        let manifest = format!(
            r#"App(command: "${{BIN}}/web", backoff: Backoff(give_up: After(times: 1, within: "1m")),
                ready: Ready(probe: {target}, within: "500ms"))"#
        );
        let session = Session::new().stayer("web").app("web", &manifest).start();
        if target.contains("own") {
            let app = session.wait_state("web", StateName::GaveUp);
            let Some(Exit::NotReady(why)) = &app.last_exit else { panic!("{app:#?}") };
            assert!(why.contains(&format!("{address} is answered by pid {}", std::process::id())), "{why}");
        } else {
            session.pid("web");
        }
    }
}

#[test]
fn an_app_that_answers_itself_is_ready() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let manifest = format!(
        r#"App(command: "{}", args: ["nav-shim"], env: {{ "NAV_SHIM_PORT": "{}", "NAV_SHIM_HOST": "127.0.0.1" }},
            ready: Ready(probe: Http(url: "http://{free}/healthz", own: true), within: "30s"))"#,
        binary().display(),
        free.port()
    );
    let session = Session::new().app("launcher", &manifest).start();
    session.pid("launcher");
}

/// Listens at the port in its first argument. Perl writes a title over its arguments and environment, as many servers do.
const TITLED: &str = r#"exec perl -e '
    use IO::Socket::INET;
    my $at = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 9, ReuseAddr => 1) or die;
    $0 = "x" x 3000;
    while (my $client = $at->accept) { close $client }' "$1"
"#;

/// Listens there too. Nobody may look into it, not even its own user.
const HIDDEN: &str = r#"exec python3 -c '
import ctypes, socket, sys
at = socket.create_server(("127.0.0.1", int(sys.argv[1])))
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
while True: at.accept()[0].close()' "$1"
"#;

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

fn ready_by_port(program: &str, port: u16, within: &str) -> String {
    format!(
        r#"App(command: "${{BIN}}/{program}", args: ["{port}"], backoff: Backoff(give_up: After(times: 1, within: "1m")),
            ready: Ready(probe: Tcp(address: "127.0.0.1:{port}", own: true), within: "{within}"))"#
    )
}

/// Starts the supervisor without the right to look into what hides, which root would have.
fn start_without_sight(session: &mut Session) {
    match rustix::process::geteuid().is_root() {
        true => {
            session.start_supervisor_under(&["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"])
        }
        false => session.start_supervisor(),
    }
}

#[test]
fn an_app_that_hides_answers_itself_all_the_same() {
    for (how, program) in [("title", TITLED), ("hidden", HIDDEN), ("helper", "\"$BIN/listens\" \"$1\" & wait\n")] {
        let mut session = Session::new().program("listens", TITLED).program("web", program);
        session = session.app("web", &ready_by_port("web", free_port(), "30s"));
        start_without_sight(&mut session);
        let app = session.wait("web", "is ready, or has given up", |app| {
            matches!(app.state, StateName::Running | StateName::GaveUp)
        });
        assert_eq!(app.state, StateName::Running, "{how}: {:?}", app.last_exit);
    }
}

#[test]
fn a_hidden_program_on_the_port_is_not_the_app() {
    // The second app hides too, but as another user than the one who listens.
    let elsewhere = "exec setpriv --reuid 65534 --clear-groups sleep 1000\n";
    for program in [Some("read _ <>\"$DATA/never\"\n"), rustix::process::geteuid().is_root().then_some(elsewhere)] {
        let Some(program) = program else { continue };
        let port = free_port();
        let mut session = Session::new().program("web", program).program("other", HIDDEN);
        session.edit("web", &ready_by_port("web", port, "1h"));
        let listener = if program == elsewhere { setpriv_66() } else { session.command("sh") };
        let mut listener = started_on(listener, &session, port);
        start_without_sight(&mut session);
        session.wait("web", "is not ready, and says why", |app| {
            app.state == StateName::Starting && app.detail.contains("is answered by a hidden process of uid")
        });
        listener.kill().expect("kill");
        listener.wait().expect("a reaped listener");
    }
}

/// A shell as a user who is neither us nor the app's.
fn setpriv_66() -> std::process::Command {
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65533", "--clear-groups", "sh"]);
    command
}

/// Runs [`HIDDEN`] in this shell, and waits until it listens and hides.
fn started_on(mut shell: std::process::Command, session: &Session, port: u16) -> std::process::Child {
    // Not below the session's folder, which other users may not enter, and without its variables.
    let child = shell.args(["-c", HIDDEN, "sh", &port.to_string()]).env_remove("KASM_VOID_STORY").spawn();
    let child = child.expect("a listener");
    until("it listens and hides", || {
        let _ = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        let owner = fs::metadata(format!("/proc/{}/fd", child.id())).ok()?;
        (std::os::unix::fs::MetadataExt::uid(&owner) == 0 && session.root().exists()).then_some(())
    });
    child
}

#[test]
fn a_locked_profile_is_told_whichever_supervisor_started_the_browser() {
    // Another exit code, or another kind of program, is what it is.
    for (kind, code, told) in
        [("Chromium", 21, Exit::ProfileLocked), ("Chromium", 22, Exit::Code(22)), ("Electron", 21, Exit::Code(21))]
    {
        let manifest = format!(
            r#"App(command: "${{BIN}}/browser", prelaunch: [ClearLocks(dir: "${{DATA}}", kind: {kind})],
                backoff: Backoff(first: "1h", max: "1h", stable_after: "1h"))"#
        );
        for supervisor_dies in [false, true] {
            let body = "read code <>\"$DATA/never\"\nexit \"$code\"\n";
            let session = Session::new().program("browser", body).app("web", &manifest).start();
            session.pid("web");
            if supervisor_dies {
                session.crash_supervisor();
                session.pid("web");
            }
            fs::write(session.data().join("never"), format!("{code}\n")).expect("the app reads");
            let app = session.wait_state("web", StateName::Backoff);
            assert_eq!(app.last_exit, Some(told.clone()), "{kind}, exit code {code}, adopted: {supervisor_dies}");
        }
    }
}

const SEEDS: &str = r#"App(command: "${BIN}/web", prelaunch: [
    MakeDir(path: "${DATA}/discord"),
    SeedJson(file: "${DATA}/discord/settings.json",
        set: { "SKIP_HOST_UPDATE": true }, default: { "IS_MAXIMIZED": true, "IS_MINIMIZED": false }),
])"#;

/// Starts an app with `before` as its settings file. Returns the file after the start.
fn seeded(before: Option<&str>) -> (Session, String) {
    let session = Session::new().stayer("web").app("web", SEEDS);
    let folder = session.data().join("discord");
    fs::create_dir(&folder).expect("a folder");
    if let Some(before) = before {
        fs::write(folder.join("settings.json"), before).expect("settings");
    }
    let session = session.start();
    session.pid("web");
    let after = fs::read_to_string(folder.join("settings.json")).expect("seeded settings");
    (session, after)
}

#[test]
fn missing_settings_are_made() {
    let (_session, after) = seeded(None);
    let settings: serde_json::Value = serde_json::from_str(&after).expect("JSON");
    assert_eq!(settings, json!({"SKIP_HOST_UPDATE": true, "IS_MAXIMIZED": true, "IS_MINIMIZED": false}));
}

#[test]
fn settings_of_the_person_are_kept_in_their_order() {
    let (_session, after) =
        seeded(Some(r#"{"zoom": 1.5, "IS_MAXIMIZED": false, "SKIP_HOST_UPDATE": false, "a": [1]}"#));
    let kept = r#"{"zoom": 1.5, "IS_MAXIMIZED": false, "SKIP_HOST_UPDATE": true, "a": [1], "IS_MINIMIZED": false}"#;
    assert_eq!(after, kept);
}

#[test]
fn settings_that_only_their_owner_understands_are_kept() {
    let deep = "[".repeat(200) + &"]".repeat(200);
    let mine = format!("\"id\": 123456789012345678901234567890,\n  \"name\": \"\\ud83d\",\n  \"deep\": {deep}");
    let (session, after) = seeded(Some(&format!("{{\n  // mine\n  {mine}\n}}\n")));
    let seeds = "\"SKIP_HOST_UPDATE\": true,\n  \"IS_MAXIMIZED\": true,\n  \"IS_MINIMIZED\": false";
    assert_eq!(after, format!("{{\n  // mine\n  {mine},\n  {seeds}\n}}\n"));
    assert!(!session.data().join("discord/settings.json.bad").exists());
}

#[test]
fn unreadable_settings_are_kept_aside_and_replaced() {
    let (session, after) = seeded(Some("{\"zoom\": 1.5, "));
    assert!(after.contains("\"SKIP_HOST_UPDATE\": true"), "{after}");
    let bad = fs::read_to_string(session.data().join("discord/settings.json.bad")).expect("the old file");
    assert_eq!(bad, "{\"zoom\": 1.5, ");
}

#[test]
fn settings_that_cannot_be_written_fail_the_start_by_name() {
    let manifest = r#"App(command: "${BIN}/web", backoff: Backoff(give_up: After(times: 1, within: "1m")),
        prelaunch: [SeedJson(file: "${DATA}/file/settings.json", set: { "a": true })])"#;
    let session = Session::new().stayer("web").app("web", manifest);
    fs::write(session.data().join("file"), "not a folder").expect("a file");
    let session = session.start();
    let app = session.wait_state("web", StateName::GaveUp);
    let Some(Exit::HookFailed(why)) = &app.last_exit else { panic!("{app:#?}") };
    assert!(why.contains("settings.json"), "the file is not named: {why}");
    assert_eq!(session.lines("web.pids"), NOTHING);
}

#[test]
fn a_failed_step_that_may_fail_keeps_no_app_down() {
    let manifest = r#"App(command: "${BIN}/web",
        prelaunch: [SeedJson(file: "${DATA}/file/settings.json", set: { "a": true }, on_failure: Continue)])"#;
    let session = Session::new().stayer("web").app("web", manifest);
    fs::write(session.data().join("file"), "not a folder").expect("a file");
    session.start().pid("web");
}

#[test]
fn a_step_that_hangs_fails_the_start_after_its_timeout() {
    let manifest = r#"App(command: "${BIN}/web", backoff: Backoff(give_up: After(times: 1, within: "1m")),
        prelaunch: [Run(argv: ["${BIN}/hangs"], timeout: "300ms")])"#;
    let session = Session::new().stayer("web").stayer("hangs").app("web", manifest).start();
    let app = session.wait_state("web", StateName::GaveUp);
    let Some(Exit::HookFailed(why)) = &app.last_exit else { panic!("{app:#?}") };
    assert!(why.contains("hangs"), "the step is not named: {why}");
    until("the step's process is gone", || session.processes().is_empty().then_some(()));
    assert_eq!(session.lines("web.pids"), NOTHING);
}

#[test]
fn a_stop_cancels_a_step_that_hangs() {
    let manifest = r#"App(command: "${BIN}/web", prelaunch: [Run(argv: ["${BIN}/hangs"], timeout: "10m")])"#;
    let session = Session::new().stayer("web").stayer("hangs").app("web", manifest).start();
    let step: i32 = session.wait_lines("hangs.pids", 1)[0].parse().expect("a pid");
    assert_eq!(session.find("web").map(|app| app.state), Some(StateName::Starting));
    session.ok(&["stop", "web"]);
    assert!(!alive(step), "the step outlived the stop");
    assert_eq!(session.find("web").map(|app| app.state), Some(StateName::Stopped));
    assert_eq!(session.lines("web.pids"), NOTHING);
}

#[test]
fn an_action_runs_its_steps_between_stop_and_start() {
    let manifest = r#"App(command: "${BIN}/web", actions: { "reset": [ClearDir(path: "${DATA}/cache")] })"#;
    let session = Session::new().stayer("web").app("web", manifest);
    fs::create_dir_all(session.data().join("cache/deep")).expect("a cache");
    fs::write(session.data().join("cache/deep/entry"), "x").expect("a cache entry");
    fs::write(session.data().join("kept"), "x").expect("a file elsewhere");
    symlink(session.data().join("kept"), session.data().join("cache/link")).expect("a link out of the cache");
    let session = session.start();
    let first = session.pid("web");
    session.ok(&["do", "web", "reset"]);
    session.next_pid("web", first);
    assert_eq!(fs::read_dir(session.data().join("cache")).expect("the folder stays").count(), 0);
    assert!(session.data().join("kept").exists(), "a link was followed out of the folder");
}

#[test]
fn a_session_is_not_ready_before_it_is_staged() {
    let session = Session::new()
        .stayer("web")
        .program("wait", "until [ -e \"$DATA/go\" ]; do sleep 0.02; done\n")
        .workspace(r#"Workspace(stage: [Run(argv: ["${BIN}/wait"])])"#)
        .app("web", r#"App(command: "${BIN}/web")"#)
        .start();
    let early = session.cli(&["health", "--ready"]);
    assert_eq!((early.code, early.stdout.trim()), (Some(1), "not ready: staging the session"));
    assert!(session.ok(&["status"]).contains("apps start after them"));
    std::fs::write(session.data().join("go"), "").expect("the way out");
    session.pid("web");
    session.ok(&["health", "--ready"]);
}

#[test]
fn a_hooks_command_is_found_on_the_apps_own_path() {
    let session = Session::new()
        .program("prepare", ": >\"$DATA/prepared\"\n")
        .stayer("web")
        .app(
            "web",
            r#"App(command: "${BIN}/web", env: {"PATH": "${BIN}:/usr/bin:/bin"}, prelaunch: [
                Run(argv: ["prepare"], if_present: true, timeout: "30s"),
                Run(argv: ["prepare"], timeout: "30s"),
            ])"#,
        )
        .start();
    session.pid("web");
    assert!(session.data().join("prepared").exists());
}

/// If one app is broken, the desktop stays reachable, so that people can repair it.
#[test]
fn a_session_that_names_what_it_needs_is_ready_without_every_app() {
    let session = Session::new()
        .workspace(r#"Workspace(ready: [Path(path: "${DATA}/there")])"#)
        .app("broken", r#"App(command: "/bin/false", backoff: Backoff(first: "1h", max: "1h"))"#)
        .start();
    session.wait_state("broken", StateName::Backoff);
    let early = session.cli(&["health", "--ready"]);
    assert!(early.code == Some(1) && early.stdout.contains("data/there"), "{early:?}");
    assert!(!early.stdout.contains("broken"), "{early:?}");
    std::fs::write(session.data().join("there"), "").expect("what the session needs");
    session.ok(&["health", "--ready"]);
    session.edit("workspace", "Workspace()");
    until("every app counts again", || {
        let now = session.cli(&["health", "--ready"]);
        (now.code == Some(1) && now.stdout.contains("broken is Backoff")).then_some(())
    });
}
