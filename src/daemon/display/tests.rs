//! Against a real X server and window manager.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::model::manifest::pattern::Case;

const SOON: Duration = Duration::from_secs(20);

fn class(text: &str) -> Pattern {
    Pattern::new(text, Case::Ignored).unwrap()
}

/// An Xvfb of its own and the programs that run on it. It ends with the test.
struct Server {
    screen: Screen,
    processes: Vec<Child>,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let mut child = Command::new("Xvfb")
            // Without -noreset the server starts over when its last client leaves, and drops whoever comes meanwhile.
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

#[tokio::test]
async fn a_window_is_waited_for_and_maximised() {
    let mut server = Server::start(&[]);
    is_up(&server.screen, SOON).await.unwrap();
    let error = window_exists(&server.screen, &class("XTerm"), SOON).await.unwrap_err();
    assert_eq!(error, "no window of class `XTerm`");
    server.run("openbox", &["--sm-disable"]);
    let managed = |session: &Session| session.until("no window manager", || session.manager()).map(|_| ());
    ask(&server.screen, SOON, managed).await.unwrap();
    let screen = server.screen.clone();
    let maximised = tokio::spawn(async move { maximize(&screen, &class("^xterm$"), SOON).await });
    server.run("xterm", &[]);
    assert_eq!(maximised.await.unwrap().unwrap(), "maximised its window");
    window_exists(&server.screen, &class("xterm"), SOON).await.unwrap();
}

#[tokio::test]
async fn without_a_window_manager_nothing_can_be_maximised() {
    let mut server = Server::start(&[]);
    server.run("xterm", &[]);
    wait_window(&server.screen, &class("xterm"), SOON).await.unwrap();
    // Long enough to find the window, even on a busy machine.
    let error = maximize(&server.screen, &class("xterm"), Duration::from_secs(3)).await.unwrap_err();
    assert!(error.contains("no window manager"), "{error}");
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

#[test]
fn displays_are_read_as_x_reads_them() {
    for (text, wanted) in [(":1", (1, 0)), (":1.2", (1, 2)), ("unix:10", (10, 0))] {
        assert_eq!(parse_display(text), Ok(wanted), "{text}");
    }
    for text in ["", "1", "host:0", ":x"] {
        assert!(parse_display(text).unwrap_err().contains("only a display of this machine"), "{text}");
    }
}
