//! Against a real X server and window manager.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use x11rb::connection::Connection;
use x11rb::properties::WmSizeHints;
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ConnectionExt as _, CreateWindowAux, EventMask, MOTION_NOTIFY_EVENT, PropMode,
    Window, WindowClass,
};
use x11rb::protocol::xtest::ConnectionExt as _;
use x11rb::wrapper::ConnectionExt as _;

use super::*;
use crate::host::display::Address;
use crate::model::manifest::pattern::Case;

const SOON: Duration = Duration::from_secs(20);

fn class(text: &str) -> Pattern {
    Pattern::new(text, Case::Ignored).unwrap()
}

/// An Xvfb and the programs that run on it. Both end with the test.
struct Server {
    screen: Screen,
    processes: Vec<Child>,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let mut child = Command::new("Xvfb")
            // Without -noreset the server resets when its last client leaves, and drops clients that connect
            // meanwhile.
            .args(["-displayfd", "1", "-noreset", "-screen", "0", "800x600x24", "-nolisten", "tcp"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs Xvfb: tests/setup.sh installs it");
        let mut number = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut number).unwrap();
        let screen = Screen { display: Some(format!(":{}", number.trim())), authority: None };
        Server { screen, processes: vec![child] }
    }

    fn run(&mut self, program: &str, arguments: &[&str]) {
        let display = self.screen.display.as_deref().unwrap();
        let child = Command::new(program).args(arguments).env("DISPLAY", display).stderr(Stdio::null()).spawn();
        self.processes.push(child.unwrap_or_else(|_| panic!("this test needs {program}: tests/setup.sh installs it")));
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.processes[0]);
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Server {
    /// A server with a window manager that is ready.
    async fn managed() -> Server {
        let mut server = Server::start(&[]);
        is_up(&server.screen, SOON).await.unwrap();
        server.run("openbox", &["--sm-disable"]);
        // The window manager announces itself before it is ready, and never shows a window opened in between.
        let deadline = Instant::now() + SOON;
        let app = App::new(&server);
        while wait_window(&server.screen, &class("discord"), Duration::from_millis(200)).await.is_err() {
            assert!(Instant::now() < deadline, "the window manager shows no window");
            app.open(false, None);
        }
        server
    }

    /// Maximises windows of class `discord` until the guard is dropped.
    fn maximizer(&self) -> (tokio::task::JoinHandle<Result<(), String>>, tokio::sync::mpsc::UnboundedReceiver<()>) {
        let (screen, (told, progress)) = (self.screen.clone(), tokio::sync::mpsc::unbounded_channel());
        let step = async move {
            maximize(&screen, &class("^discord$"), SOON, move |_| told.send(()).unwrap_or_default()).await
        };
        (tokio::spawn(step), progress)
    }
}

/// An app that opens and closes windows of class `discord`.
struct App(x11rb::rust_connection::RustConnection);

impl App {
    fn new(server: &Server) -> Self {
        App(x11rb::connect(server.screen.display.as_deref()).unwrap().0)
    }

    fn open(&self, fixed: bool, kind: Option<&str>) -> Window {
        let (connection, root) = (&self.0, self.0.setup().roots[0].root);
        let window = connection.generate_id().unwrap();
        let values = CreateWindowAux::new();
        connection
            .create_window(0, window, root, 10, 10, 300, 200, 0, WindowClass::COPY_FROM_PARENT, 0, &values)
            .unwrap();
        let text = AtomEnum::STRING;
        connection
            .change_property8(PropMode::REPLACE, window, AtomEnum::WM_CLASS, text, b"discord\0Discord\0")
            .unwrap();
        if fixed {
            let size = Some((300, 200));
            let hints = WmSizeHints { min_size: size, max_size: size, ..WmSizeHints::default() };
            hints.set_normal_hints(connection, window).unwrap();
        }
        if let Some(kind) = kind {
            let value = [self.atom(&format!("_NET_WM_WINDOW_TYPE_{kind}"))];
            let name = self.atom("_NET_WM_WINDOW_TYPE");
            connection.change_property32(PropMode::REPLACE, window, name, AtomEnum::ATOM, &value).unwrap();
        }
        connection.map_window(window).unwrap();
        connection.sync().unwrap();
        window
    }

    fn close(&self, window: Window) {
        self.0.destroy_window(window).unwrap();
        self.0.sync().unwrap();
    }

    /// Restores a window, as a double click on its title bar does.
    fn shrink(&self, window: Window) {
        let vertical = self.atom("_NET_WM_STATE_MAXIMIZED_VERT");
        let horizontal = self.atom("_NET_WM_STATE_MAXIMIZED_HORZ");
        let data = [0, vertical, horizontal, 2, 0];
        let event = ClientMessageEvent::new(32, window, self.atom("_NET_WM_STATE"), data);
        let to = EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY;
        self.0.send_event(false, self.0.setup().roots[0].root, to, event).unwrap();
        self.0.sync().unwrap();
    }

    fn is_maximised(&self, window: Window) -> bool {
        let name = self.atom("_NET_WM_STATE");
        let state = self.0.get_property(false, window, name, AtomEnum::ATOM, 0, 100).unwrap().reply().unwrap();
        let vertical = self.atom("_NET_WM_STATE_MAXIMIZED_VERT");
        state.value32().is_some_and(|mut state| state.any(|atom| atom == vertical))
    }

    fn atom(&self, name: &str) -> u32 {
        self.0.intern_atom(false, name.as_bytes()).unwrap().reply().unwrap().atom
    }
}

async fn next(progress: &mut tokio::sync::mpsc::UnboundedReceiver<()>) {
    tokio::time::timeout(SOON, progress.recv()).await.expect("a window is maximised").expect("the step goes on");
}

#[tokio::test]
async fn the_window_behind_a_splash_is_maximised() {
    let server = Server::managed().await;
    let error = window_exists(&server.screen, &class("discord"), SOON).await.unwrap_err();
    assert_eq!(error, "no window of class `discord`");
    let (_step, mut progress) = server.maximizer();
    let app = App::new(&server);
    for (fixed, kind) in [(true, None), (false, Some("SPLASH")), (false, Some("DIALOG"))] {
        let splash = app.open(fixed, kind);
        wait_window(&server.screen, &class("discord"), SOON).await.unwrap();
        let window = app.open(false, None);
        next(&mut progress).await;
        assert!(app.is_maximised(window) && !app.is_maximised(splash));
        app.close(splash);
        app.close(window);
    }
}

#[tokio::test]
async fn windows_that_close_at_any_moment_do_no_harm() {
    let server = Server::managed().await;
    let (step, mut progress) = server.maximizer();
    let app = App::new(&server);
    for _ in 0..30 {
        app.close(app.open(false, None));
    }
    while progress.try_recv().is_ok() {}
    assert!(!step.is_finished(), "{:?}", step.await);
    let window = app.open(false, None);
    while !app.is_maximised(window) {
        next(&mut progress).await;
    }
}

#[tokio::test]
async fn a_window_that_a_person_makes_smaller_stays_so_until_it_is_asked_for_again() {
    let server = Server::managed().await;
    let (step, mut progress) = server.maximizer();
    let app = App::new(&server);
    let first = app.open(false, None);
    next(&mut progress).await;
    app.shrink(first);
    // Windows are handled in order: when a later one is maximised, the smaller one has been looked at too.
    let second = app.open(false, None);
    next(&mut progress).await;
    assert!(app.is_maximised(second) && !app.is_maximised(first));
    step.abort();
    let (_step, mut progress) = server.maximizer();
    next(&mut progress).await; // the second one is already
    next(&mut progress).await;
    assert!(app.is_maximised(first));
}

#[tokio::test]
async fn without_a_window_or_a_window_manager_the_reason_is_told() {
    let mut server = Server::start(&[]);
    server.run("xterm", &[]);
    wait_window(&server.screen, &class("xterm"), SOON).await.unwrap();
    let ignore = |_: &str| {};
    let error = maximize(&server.screen, &class("xterm"), Duration::from_millis(300), ignore).await.unwrap_err();
    assert!(error.contains("no window manager"), "{error}");
    drop(server);
    let server = Server::managed().await;
    let error = maximize(&server.screen, &class("xterm"), Duration::from_millis(300), ignore).await.unwrap_err();
    assert_eq!(error, "no window of class `xterm` within 300ms");
}

#[tokio::test]
async fn a_server_is_found_without_its_socket_file() {
    let server = Server::start(&[]);
    let display = server.screen.display.as_deref().unwrap();
    fs::remove_file(Address::parse(display).unwrap().socket()).unwrap();
    is_up(&server.screen, SOON).await.unwrap();
}

#[tokio::test]
async fn a_stopped_server_holds_up_nobody() {
    let server = Server::start(&[]);
    server.signal(Signal::STOP);
    let error = is_up(&server.screen, Duration::from_millis(300)).await.unwrap_err();
    server.signal(Signal::CONT);
    assert!(error.contains("did not answer within 300ms"), "{error}");
    is_up(&server.screen, SOON).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_told_from_an_absence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority");
    let record = |number: &str, key: &[u8]| {
        let mut bytes = vec![1, 0];
        for field in [b"host".as_slice(), number.as_bytes(), b"MIT-MAGIC-COOKIE-1", key] {
            bytes.extend((field.len() as u16).to_be_bytes());
            bytes.extend(field);
        }
        bytes
    };
    fs::write(&file, record("", b"0123456789abcdef")).unwrap();
    let mut server = Server::start(&["-auth", file.to_str().unwrap()]);
    server.screen.authority = Some(file.clone());
    is_up(&server.screen, SOON).await.unwrap();
    let wrong = folder.path().join("wrong");
    fs::write(&wrong, record("", b"fedcba9876543210")).unwrap();
    server.screen.authority = Some(wrong);
    let error = is_up(&server.screen, SOON).await.unwrap_err();
    assert!(error.contains("refuses us") && error.contains("XAUTHORITY"), "{error}");

    let nowhere = Screen { display: Some(":63211".into()), authority: None };
    assert_eq!(is_up(&nowhere, SOON).await.unwrap_err(), "no X server at :63211");
    let unset = is_up(&Screen::default(), SOON).await.unwrap_err();
    assert!(unset.contains("DISPLAY is not set"), "{unset}");
}

#[tokio::test]
async fn a_cancelled_wait_leaves_no_client_behind() {
    let server = Server::start(&["-maxclients", "64"]);
    for _ in 0..200 {
        let never = class("never");
        let waiting = wait_window(&server.screen, &never, SOON);
        assert!(tokio::time::timeout(Duration::from_millis(5), waiting).await.is_err());
    }
    // Each of them ends within the cancel check; then the server takes clients again.
    wait_up(&server.screen, SOON).await.unwrap();
}

#[tokio::test]
async fn a_display_knows_when_it_was_last_used() {
    let server = Server::start(&[]);
    let told = async || idle(&server.screen, SOON).await.unwrap().expect("Xvfb has the extension");
    let deadline = Instant::now() + SOON;
    while told().await < Duration::from_millis(300) {
        assert!(Instant::now() < deadline, "it is never idle");
    }
    let began = Instant::now();
    let app = App::new(&server);
    app.0.xtest_fake_input(MOTION_NOTIFY_EVENT, 0, 0, app.0.setup().roots[0].root, 9, 9, 0).unwrap().check().unwrap();
    assert!(told().await <= began.elapsed() + Duration::from_millis(20), "a person moves the mouse");
}
