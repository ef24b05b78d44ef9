//! A real display, window manager and Chromium under the shipped manifests, as an unprivileged user.
//!
//! As root, each story runs itself again as such a user, in network, pid and host name namespaces of its own if the machine
//! grants them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kasm_void::cdp::Browser;
use kasm_void::model::exit::Exit;
use kasm_void::model::protocol::StateName;
use serde_json::{Value, json};

use crate::harness::{STAGE, Session, binary, finish, kill, not_run, send, until};

/// The uid of the stories when root runs them. The user need not exist.
const USER: u32 = 61_000;

/// Runs `story`. As root, runs it in another process that is not root. `name` is the test's name.
fn as_a_user(name: &str, story: impl FnOnce()) {
    alone(&format!("desktop::{name}"), story);
}

/// Like [`as_a_user`], for a test in any file: `path` is its full name.
pub fn alone(path: &str, story: impl FnOnce()) {
    alone_in(path, ALONE, story);
}

/// Like [`alone`], with public and private addresses, all ports, and a name server that the story runs at 127.0.0.1.
/// Not run if the machine grants no network namespace.
pub fn on_an_internet(path: &str, story: impl FnOnce()) {
    let is_granted = || rustix::process::geteuid().is_root() && hermetic();
    if std::env::var_os(STAGE).is_none() && !is_granted() {
        return not_run(path, "it needs root and a network of its own");
    }
    alone_in(path, &format!("{INTERNET} && {ALONE}"), story);
}

/// Sets up the addresses, ports and name server of an internet on one machine.
const INTERNET: &str = "for at in 93.184.215.14 10.0.0.1 192.168.1.1; do ip address add $at/32 dev lo; done \
    && echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start \
    && mount -t tmpfs tmpfs /mnt && echo nameserver 127.0.0.1 > /mnt/resolv.conf && echo 127.0.0.1 localhost > /mnt/hosts \
    && mount --bind /mnt/resolv.conf /etc/resolv.conf && mount --bind /mnt/hosts /etc/hosts";

fn alone_in(path: &str, setup: &str, story: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        not_run(&format!("{path} in a network and host of its own"), "that needs root");
        return story();
    }
    let stage = stage();
    let mut command = match hermetic() {
        true => {
            let mut command = Command::new("unshare");
            command.args(["--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]);
            command.args(["sh", "-c", setup, "sh"]);
            command
        }
        false => {
            not_run(&format!("{path} in a network and host of its own"), "this machine grants root no namespaces");
            Command::new("env")
        }
    };
    command.args(["setpriv", &format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
    command.args(["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]);
    command.args(["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "SHELL=/bin/sh"]);
    command.arg(format!("{STAGE}={}", stage.path().display()));
    command.arg(stage.path().join("it")).args(["--exact", path, "--nocapture"]);
    let output = finish_slowly(command);
    keep_pictures(&stage.path().join("pictures"));
    assert_eq!(output.0, Some(0), "{}", output.1);
    assert!(output.1.contains("1 passed"), "the story did not run:\n{}", output.1);
}

/// Sets up its own loopback (with the cloud metadata address), host name and /tmp (where X keeps its locks), and runs the
/// arguments as a command.
const ALONE: &str = "hostname pod-b && ip link set lo up && ip address add 169.254.169.254/32 dev lo && mount -t tmpfs -o mode=1777 tmpfs /tmp \
    && mkdir -m 1777 /tmp/.X11-unix && exec \"$@\"";

fn hermetic() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", ALONE, "sh", "true"]);
    finish(command).code == Some(0)
}

/// Copies all files that a story needs to a folder outside /tmp that any user can read.
fn stage() -> tempfile::TempDir {
    let stage = tempfile::Builder::new().prefix("kasm-void-").tempdir_in("/var/tmp").expect("a stage");
    let path = stage.path();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::copy(std::env::current_exe().expect("this test"), path.join("it")).expect("a copy of the tests");
    fs::copy(binary(), path.join("kasm-void")).expect("a copy of the binary");
    fs::create_dir_all(path.join("manifests/desktop")).expect("a folder");
    for entry in fs::read_dir(manifests()).expect("the shipped manifests").flatten() {
        fs::copy(entry.path(), path.join("manifests/desktop").join(entry.file_name())).expect("a manifest");
    }
    fs::create_dir(path.join("pictures")).expect("a folder");
    chown(path.join("pictures"), Some(USER), Some(USER)).expect("chown");
    stage
}

fn manifests() -> PathBuf {
    staged("manifests/desktop").unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/desktop"))
}

/// The folder for screenshots; they end up in target/tmp.
fn pictures() -> PathBuf {
    staged("pictures").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into())
}

fn staged(path: &str) -> Option<PathBuf> {
    std::env::var_os(STAGE).map(|stage| Path::new(&stage).join(path))
}

fn keep_pictures(from: &Path) {
    for entry in fs::read_dir(from).expect("the pictures").flatten() {
        fs::copy(entry.path(), Path::new(env!("CARGO_TARGET_TMPDIR")).join(entry.file_name())).expect("a picture");
    }
}

/// A whole story may take several deadlines.
fn finish_slowly(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("the story as a user");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

/// Without our own network namespace, other displays of this machine may use any number.
fn display_number() -> u32 {
    10 + std::process::id() % 500
}

/// The DevTools port of the session's browser.
pub fn cdp_port() -> u16 {
    8000 + display_number() as u16
}

/// The port of the page that shows the display.
fn novnc_port() -> u16 {
    7000 + display_number() as u16
}

/// The shipped session with only these apps. It is not started yet.
pub fn desktop(apps: &[&str]) -> Session {
    let number = display_number();
    let mut session = Session::new()
        .env("DISPLAY_NUMBER", &number.to_string())
        .env("VNC_PORT", &(5900 + number).to_string())
        .env("NOVNC_PORT", &novnc_port().to_string())
        .env("CDP_PORT", &cdp_port().to_string())
        .env("DISPLAY", &format!(":{number}"));
    for name in ["workspace"].iter().chain(apps) {
        session = session.app(name, &shipped(name));
    }
    // What lies beside the manifests: the page, and the places of windows.
    for entry in fs::read_dir(manifests()).expect("the shipped manifests").flatten() {
        let is_beside = entry.path().extension().is_some_and(|ending| ending != "ron");
        let copy = || fs::copy(entry.path(), session.manifests().join(entry.file_name()));
        is_beside.then(copy).transpose().expect("a copy");
    }
    session
}

fn shipped(name: &str) -> String {
    fs::read_to_string(manifests().join(format!("{name}.ron"))).expect("a shipped manifest")
}

pub const BROWSER: &[&str] = &["display", "wm", "chromium"];

/// Runs a program on the session's display. Returns its stdout if it succeeded.
pub fn on_display(session: &Session, argv: &[&str]) -> Option<String> {
    let mut command = session.command(argv[0]);
    command.args(&argv[1..]);
    let output = finish(command);
    (output.code == Some(0)).then_some(output.stdout)
}

/// Waits for a window with this lower-case text in its class or title. Returns its id.
pub fn window(session: &Session, class: &str) -> String {
    until(&format!("a window of {class}"), || {
        let windows = on_display(session, &["wmctrl", "-lx"])?;
        let line = windows.lines().find(|line| line.to_lowercase().contains(class))?;
        line.split_whitespace().next().map(str::to_owned)
    })
}

fn wait_maximised(session: &Session, class: &str) {
    until(&format!("a maximised window of class {class}"), || {
        let id = window(session, class);
        let state = on_display(session, &["xprop", "-id", &id, "_NET_WM_STATE"])?;
        (state.contains("MAXIMIZED_VERT") && state.contains("MAXIMIZED_HORZ")).then_some(())
    });
}

/// Takes a screenshot once the window is no longer empty.
fn picture(session: &Session, name: &str) {
    let file = pictures().join(name);
    until("a screenshot with something on it", || {
        on_display(session, &["scrot", "--overwrite", file.to_str().expect("UTF-8")])?;
        (fs::metadata(&file).ok()?.len() > 25_000).then_some(())
    });
}

/// The place of a window on the screen: left, top, right, bottom.
fn place(session: &Session, id: &str) -> Option<[i32; 4]> {
    let text = on_display(session, &["xwininfo", "-id", id])?;
    let number = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name))?;
        line.rsplit(' ').next()?.parse::<i32>().ok()
    };
    let (left, top) = (number("Absolute upper-left X")?, number("Absolute upper-left Y")?);
    Some([left, top, left + number("Width")?, top + number("Height")?])
}

/// `kasm-void run` of a new user. The display's numbers are given, so that the story knows them.
#[test]
fn the_first_session_is_a_whole_desktop_on_which_nothing_covers_anything() {
    as_a_user("the_first_session_is_a_whole_desktop_on_which_nothing_covers_anything", || {
        let mut session = desktop(&[]);
        session.start_supervisor_on_its_own_folder();
        session.ok(&["check"]);
        for name in ["display", "wm", "novnc", "chromium", "status", "terminal"] {
            session.pid(name);
        }
        let names = ["try it - chromium", "status.xterm", "terminal.xterm"];
        until("three windows side by side", || {
            let places: Vec<_> = names.iter().filter_map(|name| place(&session, &window(&session, name))).collect();
            let apart = |a: &[i32; 4], b: &[i32; 4]| a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
            let is_alone = |at: usize| places[at + 1..].iter().all(|other| apart(&places[at], other));
            (places.len() == 3 && (0..3).all(is_alone)).then_some(())
        });
        picture(&session, "session.png");
        assert!(session.supervisor_output().contains(&format!("http://127.0.0.1:{}", novnc_port())));
        let (status, _) = session.interrupt();
        assert_eq!(status.code(), Some(0), "{}", session.supervisor_output());
        assert_eq!(session.processes(), crate::harness::NOBODY);
    });
}

#[test]
fn a_closed_browser_window_is_back() {
    as_a_user("a_closed_browser_window_is_back", || {
        let session = desktop(BROWSER).start();
        let first = session.pid("chromium");
        let id = window(&session, "chromium");
        on_display(&session, &["wmctrl", "-i", "-c", &id]).expect("the window is closed");
        session.next_pid("chromium", first);
        window(&session, "chromium");
        assert_eq!(session.find("chromium").and_then(|app| app.last_exit), Some(Exit::Clean));
    });
}

#[test]
fn a_killed_browser_is_back() {
    as_a_user("a_killed_browser_is_back", || {
        let session = desktop(BROWSER).start();
        let first = session.pid("chromium");
        window(&session, "chromium");
        kill(first);
        session.next_pid("chromium", first);
        window(&session, "try it - chromium");
        assert_eq!(session.find("chromium").and_then(|app| app.last_exit), Some(Exit::Signal(9)));
    });
}

#[test]
fn a_dead_display_takes_its_apps_along_and_brings_them_back() {
    as_a_user("a_dead_display_takes_its_apps_along_and_brings_them_back", || {
        let session = desktop(&["display", "wm", "terminal"]).start();
        let (display, terminal) = (session.pid("display"), session.pid("terminal"));
        kill(display);
        session.next_pid("display", display);
        session.next_pid("terminal", terminal);
        window(&session, "xterm");
    });
}

/// The first tab of a browser.
struct Tab {
    runtime: tokio::runtime::Runtime,
    browser: Browser,
    session: String,
}

impl Tab {
    /// Connects as soon as the browser answers.
    fn of(port: u16) -> Tab {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (browser, session) = until("a browser answers", || runtime.block_on(Tab::connect(port)));
        Tab { runtime, browser, session }
    }

    async fn connect(port: u16) -> Option<(Browser, String)> {
        let mut browser = Browser::connect(port).await.ok()?;
        let targets = browser.call(None, "Target.getTargets", json!({})).await.ok()?;
        let page = targets["targetInfos"].as_array()?.iter().find(|target| target["type"] == "page")?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.call(None, "Target.attachToTarget", attach).await.ok()?;
        Some((browser, attached["sessionId"].as_str()?.into()))
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.runtime.block_on(self.browser.call(Some(&self.session), method, params)).unwrap_or_default()
    }

    fn value_of(&mut self, script: &str) -> Value {
        let params = json!({ "expression": script, "userGesture": true });
        self.call("Runtime.evaluate", params)["result"]["value"].take()
    }

    fn wait_true(&mut self, script: &str) {
        until(script, || (self.value_of(script) == true).then_some(()));
    }
}

#[test]
fn the_page_shows_the_display_again_when_it_is_back() {
    as_a_user("the_page_shows_the_display_again_when_it_is_back", || {
        let session = desktop(&["display", "novnc"]).start();
        let (display, _) = (session.pid("display"), session.pid("novnc"));
        let port = cdp_port();
        let mut viewer = session.command("chromium");
        viewer.args(["--headless", "--no-sandbox", "--disable-gpu"]);
        viewer.arg(format!("--user-data-dir={}", session.home().join("viewer").display()));
        viewer.arg(format!("--remote-debugging-port={port}")).arg(format!("http://127.0.0.1:{}/", novnc_port()));
        let mut viewer = viewer.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("chromium");
        let shown = "document.getElementById('note')?.hidden === true && document.querySelector('canvas') !== null";
        let mut tab = Tab::of(port);
        tab.wait_true(shown);
        // The page is not loaded again: it remembers this.
        tab.value_of(
            "new MutationObserver(() => { window.wasAway = true })
                .observe(document.getElementById('note'), { attributes: true })",
        );
        kill(display);
        session.next_pid("display", display);
        tab.wait_true(&format!("window.wasAway === true && {shown}"));
        viewer.kill().expect("kill");
        viewer.wait().expect("wait");
    });
}

/// Opens a page that asks "Leave site?" and types into it, because a page may ask only after input.
fn leave_something_unsaved(port: u16) {
    const PAGE: &str =
        "data:text/html,<title>unsaved</title><input id=i><script>onbeforeunload=e=>e.preventDefault()</script>";
    let mut tab = Tab::of(port);
    tab.call("Page.navigate", json!({ "url": PAGE }));
    until("something is typed", || {
        let typed = tab.value_of("document.title=='unsaved' && (document.getElementById('i').focus(), i.value)");
        if typed == "" {
            tab.call("Input.dispatchKeyEvent", json!({ "type": "keyDown", "text": "x", "key": "x" }));
        }
        typed.as_str().is_some_and(|typed| !typed.is_empty()).then_some(())
    });
}

#[test]
fn a_browser_with_unsaved_changes_is_stopped_without_loss() {
    as_a_user("a_browser_with_unsaved_changes_is_stopped_without_loss", || {
        let session = desktop(BROWSER).start();
        session.pid("chromium");
        leave_something_unsaved(cdp_port());
        session.ok(&["stop", "chromium"]);
        let profile = session.home().join(".config/kasm-void/chromium");
        let preferences = fs::read_to_string(profile.join("Default/Preferences")).expect("preferences");
        assert!(!preferences.contains("\"exit_type\":\"Crashed\""), "it was killed:\n{}", session.supervisor_output());
        assert!(profile.join("SingletonLock").symlink_metadata().is_err(), "it left its lock");
    });
}

#[test]
fn a_display_comes_up_whoever_has_the_pid_of_its_old_lock() {
    as_a_user("a_display_comes_up_whoever_has_the_pid_of_its_old_lock", || {
        let session = desktop(&["display"]);
        let number = display_number();
        fs::write(format!("/tmp/.X{number}-lock"), format!("{:>10}\n", std::process::id())).expect("an old lock");
        fs::create_dir_all("/tmp/.X11-unix").expect("a folder");
        drop(std::os::unix::net::UnixListener::bind(format!("/tmp/.X11-unix/X{number}")).expect("an old socket"));
        session.start().pid("display");
    });
}

#[test]
fn an_app_that_does_not_maximise_itself_is_maximised() {
    as_a_user("an_app_that_does_not_maximise_itself_is_maximised", || {
        let session = desktop(&["display", "wm"]);
        let terminal = shipped("terminal").replacen("App(", "App(postlaunch: [Maximize(class: \"xterm\")],", 1);
        session.edit("terminal", &terminal);
        wait_maximised(&session.start(), "xterm");
    });
}

/// A session whose browser finds a lock of another host.
fn locked_by_another_host(chromium: &str) -> (Session, PathBuf) {
    let session = desktop(&["display", "wm"]);
    session.edit("chromium", chromium);
    let profile = session.home().join(".config/kasm-void/chromium");
    fs::create_dir_all(&profile).expect("a profile");
    symlink("pod-a-32", profile.join("SingletonLock")).expect("a lock");
    (session.start(), profile.join("SingletonLock"))
}

#[test]
fn a_lock_of_another_host_does_not_stop_the_browser() {
    as_a_user("a_lock_of_another_host_does_not_stop_the_browser", || {
        let (session, lock) = locked_by_another_host(&shipped("chromium"));
        session.pid("chromium");
        let owner = fs::read_link(lock).expect("its own lock");
        assert_ne!(owner, Path::new("pod-a-32"));
    });
}

#[test]
fn without_the_hook_a_lock_of_another_host_stops_the_browser() {
    as_a_user("without_the_hook_a_lock_of_another_host_stops_the_browser", || {
        let clear = "ClearLocks(dir: \"${profile}\", kind: Chromium),";
        let manifest = shipped("chromium");
        assert!(manifest.contains(clear), "the hook is written otherwise now:\n{manifest}");
        let manifest = manifest.replace(clear, "").replace("within: \"30s\")", "within: \"10s\")").replacen(
            "App(",
            "App(backoff: Backoff(give_up: After(times: 1, within: \"1m\")),",
            1,
        );
        let (session, lock) = locked_by_another_host(&manifest);
        let app = session.wait_state("chromium", StateName::GaveUp);
        // With a dialog program on PATH, Chromium waits behind a dialog for ever; without one, it exits with code 21.
        assert!(app.last_exit.as_ref().is_some_and(Exit::unexpected), "{app:#?}");
        assert_eq!(fs::read_link(lock).expect("the lock"), Path::new("pod-a-32"));
    });
}

/// Moves the mouse, as a person does.
fn move_the_mouse(session: &Session) {
    use x11rb::connection::Connection as _;
    use x11rb::protocol::{xproto::MOTION_NOTIFY_EVENT, xtest::ConnectionExt as _};
    let display = format!(":{}", display_number());
    until("the mouse moves", || {
        let (client, screen) = x11rb::connect(Some(&display)).ok()?;
        let root = client.setup().roots.get(screen)?.root;
        client.xtest_fake_input(MOTION_NOTIFY_EVENT, 0, 0, root, 9, 9, 0).ok()?.check().ok()
    });
    session.pid("display");
}

#[test]
fn a_browser_stays_closed_only_if_a_person_closed_it() {
    as_a_user("a_browser_stays_closed_only_if_a_person_closed_it", || {
        let session = desktop(&["display", "wm"]);
        session.edit("chromium", &shipped("chromium").replacen("App(", "App(on_close: Hold,", 1));
        let session = session.start();
        let first = session.pid("chromium");
        window(&session, "chromium");
        // From outside, as `docker exec … kill` does. It exits with 0 then, too.
        send(first, rustix::process::Signal::TERM);
        session.next_pid("chromium", first);
        assert_eq!(session.find("chromium").and_then(|app| app.last_exit), Some(Exit::Clean));
        let id = window(&session, "chromium");
        // Nobody closes a window in the first half second.
        until("the window has been there for a while", || {
            session.find("chromium").filter(|app| app.state == StateName::Running && app.uptime_ms >= Some(2000))
        });
        move_the_mouse(&session);
        on_display(&session, &["wmctrl", "-i", "-c", &id]).expect("the window is closed");
        let app = session.wait_state("chromium", StateName::Stopped);
        assert_eq!(app.detail, "window closed");
    });
}
