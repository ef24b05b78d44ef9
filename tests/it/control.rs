//! The command line and the control socket: verbs, exit codes, racing clients, and abuse of the socket.

use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use kasm_void::model::exit::Exit;
use kasm_void::model::protocol::{Answer, Inspection, Snapshot, StateName};

use crate::harness::{DEADLINE, FOREVER, NOBODY, NOTHING, Session, binary, until};

fn one_app() -> Session {
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web", about: "The web")"#).start();
    session.pid("web");
    session
}

/// An app that uses its whole grace to stop, and writes to `${DATA}/doubled` if a second copy is alive.
fn slow_to_stop(grace: &str) -> Session {
    let body = format!(
        "trap '' TERM\nmkdir \"$DATA/alive\" 2>/dev/null || {{ read -r other <\"$DATA/alive/pid\"; kill -0 \"$other\" 2>/dev/null && echo \"$other\" >>\"$DATA/doubled\"; }}\n\
         echo $$ >\"$DATA/alive/pid\"\necho $$ >>\"$DATA/starts\"\n: >\"$DATA/ready\"\n{FOREVER}"
    );
    let manifest = format!(
        r#"App(command: "${{BIN}}/slow", stop: Stop(grace: "{grace}"), ready: Ready(probe: Path(path: "${{DATA}}/ready")))"#
    );
    let session = Session::new().program("slow", &body).app("web", &manifest).start();
    session.pid("web");
    session
}

#[test]
fn verbs_do_what_they_say_and_wait_for_it() {
    let session = one_app();
    let first = session.pid("web");
    session.ok(&["stop", "web"]);
    assert_eq!(session.find("web").map(|app| app.state), Some(StateName::Stopped));
    assert_eq!(session.processes(), NOBODY);
    session.ok(&["start", "web"]);
    let second = session.find("web").expect("the app");
    assert_eq!(second.state, StateName::Running);
    session.ok(&["restart", "web"]);
    let third = session.find("web").expect("the app");
    assert_eq!(third.state, StateName::Running);
    assert!(third.pid != second.pid && second.pid != Some(first));
}

#[test]
fn a_signal_reaches_the_app() {
    let session = one_app();
    session.ok(&["signal", "web", "USR1"]);
    session.wait("web", "has ended by the signal", |app| app.last_exit == Some(Exit::Signal(10)));
}

#[test]
fn status_is_a_table_for_people() {
    let table = one_app().ok(&["status"]);
    assert!(table.contains("web") && table.contains("Running"), "{table}");
    assert!(!table.contains('\u{1b}'), "colour without a terminal: {table:?}");
}

#[test]
fn an_unknown_app_is_refused_with_what_was_meant() {
    let session = one_app();
    let output = session.cli(&["stop", "wbe"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    let said = output.stdout + &output.stderr;
    assert!(said.contains("wbe") && said.contains("web"), "{said}");

    let output = session.cli(&["stop", "wbe", "--json"]);
    let answer: Answer = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert!(!answer.done);
}

#[test]
fn an_unknown_action_is_refused() {
    let output = one_app().cli(&["do", "web", "reset"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!((output.stdout + &output.stderr).contains("reset"));
}

#[test]
fn wrong_usage_ends_with_2_and_no_supervisor_with_3() {
    let session = Session::new();
    assert_eq!(session.cli(&["stopp", "web"]).code, Some(2));
    let output = session.cli(&["status"]);
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(output.stderr.contains("kasm-void run"), "no way out: {}", output.stderr);
}

#[test]
fn a_stop_that_takes_longer_than_its_client_waits_ends_with_4() {
    let session = slow_to_stop("2s");
    let output = session.cli(&["stop", "web", "--timeout", "100ms"]);
    assert_eq!(output.code, Some(4), "{output:?}");
    session.wait_state("web", StateName::Stopped);
}

#[test]
fn a_client_that_does_not_wait_is_answered_at_once() {
    let session = slow_to_stop("2s");
    session.ok(&["stop", "web", "--no-wait"]);
    assert_eq!(session.find("web").map(|app| app.state), Some(StateName::Stopping));
    session.wait_state("web", StateName::Stopped);
}

#[test]
fn a_stop_overtakes_a_restart_that_is_under_way() {
    let session = slow_to_stop("1s");
    session.ok(&["restart", "web", "--no-wait"]);
    session.wait_state("web", StateName::Stopping);
    session.ok(&["stop", "web"]);
    assert_eq!(session.find("web").map(|app| app.state), Some(StateName::Stopped));
    assert_eq!(session.lines("starts").len(), 1);
}

#[test]
fn clients_that_race_never_double_an_app() {
    let session = slow_to_stop("300ms");
    std::thread::scope(|scope| {
        for verb in ["stop", "restart", "start", "restart", "stop", "start"] {
            let session = &session;
            scope.spawn(move || {
                for _ in 0..3 {
                    session.cli(&[verb, "web"]);
                }
            });
        }
    });
    session.ok(&["stop", "web"]);
    assert_eq!(session.find("web").map(|app| app.state), Some(StateName::Stopped));
    assert_eq!(session.lines("doubled"), NOTHING);
    assert_eq!(session.processes(), NOBODY);
}

#[test]
fn a_wait_ends_when_the_state_is_reached_or_cannot_be() {
    let mut session = Session::new()
        .stayer("web")
        .program("job", "read _ <\"$DATA/gate\"\nexit $(cat \"$DATA/code\")\n")
        .app("web", r#"App(command: "${BIN}/web")"#)
        .app("job", r#"App(command: "${BIN}/job", restart: Never)"#);
    let made = std::process::Command::new("mkfifo").arg(session.data().join("gate")).status().expect("mkfifo");
    assert!(made.success());
    std::fs::write(session.data().join("code"), "0").expect("a file");
    // It may be started before the supervisor.
    let mut early = follower(&session, "early", &["wait", "web", "--for", "running"]);
    session.start_supervisor();
    assert!(until("web runs", || early.try_wait().expect("wait")).success());
    assert_eq!(session.lines("early.out"), ["ok `web` is running"]);

    let late = session.cli(&["wait", "job", "--for", "succeeded", "--timeout", "50ms"]);
    assert_eq!((late.code, late.stdout.trim()), (Some(4), "failed `job` is not done within 50ms: it is Running"));
    let open_gate = || std::fs::write(session.data().join("gate"), "go\n").expect("the job reads");
    let mut job = follower(&session, "job", &["wait", "job", "--for", "succeeded", "--json"]);
    open_gate();
    assert!(until("the job is done", || job.try_wait().expect("wait")).success());
    let outcome: Answer = serde_json::from_str(&session.lines("job.out")[0]).expect("JSON");
    assert!(outcome.done, "{outcome:?}");

    std::fs::write(session.data().join("code"), "3").expect("a file");
    session.ok(&["start", "job"]);
    open_gate();
    let failed = session.cli(&["wait", "job", "--for", "succeeded"]);
    assert_eq!((failed.code, failed.stdout.trim()), (Some(1), "failed `job` will not be done: it ended: exit code 3"));
    session.ok(&["wait", "job", "--for", "stopped"]);
    let unknown = session.cli(&["wait", "webb", "--for", "running"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("did you mean `web`?"), "{unknown:?}");
    // The supervisor has not read its manifest yet.
    session.edit("new", r#"App(command: "${BIN}/web")"#);
    session.ok(&["wait", "new", "--for", "running"]);
    let nobody = Session::new().cli(&["wait", "--for", "running", "--timeout", "50ms"]);
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
}

#[test]
fn a_watched_status_is_printed_when_something_changes() {
    let mut session = one_app();
    let mut watch = follower(&session, "watch", &["status", "--watch", "--json"]);
    session.wait_lines("watch.out", 1);
    session.ok(&["stop", "web"]);
    let states = |session: &Session| -> Vec<StateName> {
        let snapshots = session.lines("watch.out");
        let snapshots = snapshots.iter().filter_map(|line| serde_json::from_str::<Snapshot>(line).ok());
        snapshots.map(|snapshot| snapshot.apps[0].state).collect()
    };
    until("the stop is shown", || (states(&session).last() == Some(&StateName::Stopped)).then_some(()));
    session.crash_supervisor();
    session.ok(&["start", "web"]);
    until("the next supervisor is watched", || (states(&session).last() == Some(&StateName::Running)).then_some(()));
    assert!(session.interrupt().0.success());
    assert!(until("the watch ends", || watch.try_wait().expect("wait")).success());
}

#[test]
fn inspect_shows_what_an_app_runs_with_and_no_secret() {
    let forks = "cat <>\"$DATA/never\" &\nread _ <>\"$DATA/never\"\n";
    let manifest = r#"App(command: "${BIN}/forks", args: ["a b"], env: { "TOKEN": "s3cret" }, cwd: "${DATA}",
        limits: Limits(nice: 3, max_rss: "1GiB"))"#;
    let session = Session::new().program("forks", forks).app("web", manifest).start();
    let pid = session.pid("web");
    let seen = until("both processes", || {
        let seen: Inspection = serde_json::from_str(&session.ok(&["inspect", "web", "--json"])).expect("an inspection");
        (seen.processes.len() == 2).then_some(seen)
    });
    assert_eq!(seen.program.argv, [session.bin().join("forks").display().to_string(), "a b".into()]);
    assert_eq!((seen.processes[0].pid, seen.processes[1].parent), (pid, pid));
    assert_eq!(seen.manifest, Some(session.manifests().join("web.ron").display().to_string()));
    assert_eq!(
        (seen.program.env, seen.program.nice, seen.max_rss),
        (vec!["TOKEN".to_string()], Some(3), Some(1 << 30))
    );
    let text = session.ok(&["inspect", "web"]);
    assert!(text.contains("'a b'") && text.contains("TOKEN") && text.contains("nice 3"), "{text}");
    assert!(!text.contains("s3cret") && !session.ok(&["inspect", "web", "--json"]).contains("s3cret"));
    let unknown = session.cli(&["inspect", "webb"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("did you mean `web`?"), "{unknown:?}");
}

#[test]
fn bash_completes_the_names_of_apps() {
    let session = one_app();
    let bin = binary().parent().expect("a folder").display().to_string();
    let script = r#"
        PATH="$1:$PATH"; source <(kasm-void completions bash)
        words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _clap_complete_kasm_void kasm-void "${@: -1}"; echo "${COMPREPLY[*]}"; }
        words kasm-void restart w; words kasm-void explain stop.g; words kasm-void insp"#;
    let output = session.command("bash").args(["-c", script, "bash", &bin]).output().expect("bash");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = shown.lines().map(str::trim).collect();
    assert_eq!(words, ["web", "stop.grace", "inspect"], "{output:?}");
}

#[test]
fn explain_tells_what_a_field_means_without_a_supervisor() {
    let session = Session::new();
    assert!(session.ok(&["explain", "stop.grace"]).contains("how long to wait"));
    assert!(session.ok(&["explain"]).contains("prelaunch"));
    let wrong = session.cli(&["explain", "comand"]);
    assert_eq!(
        (wrong.code, wrong.stderr.trim()),
        (Some(1), "kasm-void: no field is called `comand`: did you mean `command`?")
    );
}

#[test]
fn events_tell_what_happens() {
    let session = one_app();
    let mut follow = session.command(binary());
    let file = std::fs::File::create(session.data().join("events")).expect("a file");
    let mut client = follow.args(["events", "--json"]).stdout(file).spawn().expect("a client");
    // The client may not be connected yet, so cause events until it prints one.
    until("an event of `web`", || {
        session.ok(&["restart", "web"]);
        session.lines("events").iter().any(|line| line.contains("\"web\"")).then_some(())
    });
    for line in session.lines("events") {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event.is_object(), "{line}");
    }
    client.kill().expect("kill");
    client.wait().expect("a reaped client");
}

/// Bytes to send, and the status that refuses them. `None`: the request is incomplete and gets no answer.
fn garbage() -> Vec<(String, Option<u16>)> {
    let stop = "POST /v1/apps/web/stop HTTP/1.1\r\n";
    let host = "Host: x\r\n";
    let far_too_long = "A".repeat(1 << 20);
    [
        // Not HTTP.
        ("\0\u{1}\u{2}garbage".to_owned(), Some(400)),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".into(), Some(400)),
        ("GET\r\n\r\n".into(), Some(400)),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), None),
        // Ambiguous.
        (format!("{stop}\r\n"), Some(400)),
        (format!("{stop}{host}{host}\r\n"), Some(400)),
        (format!("{stop}{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), Some(411)),
        (format!("{stop}{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"), Some(411)),
        // Too large.
        (format!("GET /v1/apps HTTP/1.1\r\n{host}X: {far_too_long}"), Some(431)),
        (format!("{stop}{host}Content-Length: 999999999999\r\n\r\n{{\"a"), Some(408)),
        // Not served.
        (format!("POST /v1/apps/../../etc HTTP/1.1\r\n{host}\r\n"), Some(404)),
        (format!("DELETE /v1/apps/web HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), Some(405)),
        (format!("GET /v1/apps/web/stop HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), Some(405)),
        (format!("POST /v1/apps/web/stop?wait=perhaps HTTP/1.1\r\n{host}Connection: close\r\n\r\n"), Some(400)),
        // Cut off.
        (format!("{stop}Host: x"), None),
        (format!("{stop}{host}Content-Length: 50\r\n\r\n{{\"a"), None),
    ]
    .into()
}

#[test]
fn garbage_on_the_control_socket_is_refused_and_changes_nothing() {
    let session = one_app();
    let before = session.find("web").expect("the app");
    let path = socket(&session);
    for (said, wanted) in garbage() {
        let shown: String = said.chars().take(80).collect();
        let answer = said_to(&path, said.as_bytes(), wanted.is_none());
        let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        // A client that sends half a request and leaves may get an answer or none.
        let fine = status == wanted || (wanted.is_none() && status == Some(400));
        assert!(fine, "{shown:?}: {answer:?}");
    }
    let silent: Vec<UnixStream> = (0..50).map(|_| UnixStream::connect(&path).expect("one more client")).collect();
    let after = session.find("web").expect("the app");
    assert_eq!((after.state, after.pid, after.run), (StateName::Running, before.pid, before.run));
    drop(silent);
    session.ok(&["restart", "web"]);
}

/// Sends bytes, and then closes the sending side if `cut_off`. Returns everything received until the connection is closed.
fn said_to(socket: &Path, said: &[u8], cut_off: bool) -> String {
    let mut stream = UnixStream::connect(socket).expect("the control socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    // The server may close before everything is written; its answer can still be read.
    let _ = stream.write_all(said);
    if cut_off {
        stream.shutdown(std::net::Shutdown::Write).expect("half a connection");
    }
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("neither an answer nor an end: {error}"),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn the_control_socket_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let session = one_app();
    let mode = socket(&session).metadata().expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// The only socket in the state folder.
fn socket(session: &Session) -> PathBuf {
    let entries = std::fs::read_dir(session.state()).expect("the state folder").flatten();
    let is_socket = |path: &PathBuf| path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    entries.map(|entry| entry.path()).find(is_socket).expect("a control socket in the state folder")
}

#[test]
fn metrics_are_served_where_the_workspace_says() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let session = Session::new()
        .workspace(&format!(r#"Workspace(metrics: "{address}")"#))
        .stayer("web")
        .app("web", r#"App(command: "${BIN}/web")"#)
        .start();
    session.pid("web");
    let mut stream = until("somebody listens", || std::net::TcpStream::connect(address).ok());
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("content-type: application/openmetrics-text"), "{answer}");
    assert!(answer.contains("kasm_void_app_up{app=\"web\"} 1"), "{answer}");
}

/// Starts `kasm-void ARGS…` in the background, with its output in `${DATA}/name.out` and `${DATA}/name.err`.
fn follower(session: &Session, name: &str, args: &[&str]) -> std::process::Child {
    let file = |end: &str| std::fs::File::create(session.data().join(format!("{name}.{end}"))).expect("a file");
    let mut command = session.command(binary());
    command.args(args).stdout(file("out")).stderr(file("err")).spawn().expect("the built binary")
}

#[test]
fn followers_go_on_with_the_next_supervisor_and_end_with_the_session() {
    let counts = "i=0\nwhile sleep .02; do i=$((i + 1)); echo $i; done\n";
    let mut session = Session::new().program("web", counts).app("web", r#"App(command: "${BIN}/web")"#).start();
    let mut logs = follower(&session, "logs", &["logs", "web", "-f"]);
    let mut events = follower(&session, "events", &["events"]);
    session.wait_lines("logs.out", 5);
    for change in ["killed", "upgraded"] {
        match change {
            "killed" => session.crash_supervisor(),
            _ => drop(session.ok(&["upgrade"])),
        }
        let shown = session.lines("logs.out").len();
        session.wait_lines("logs.out", shown + 5);
    }
    for name in ["logs.err", "events.err"] {
        let said = session.wait_lines(name, 2);
        assert!(said[0].contains("restarted") && said[1].contains("upgraded"), "{name}: {said:?}");
    }
    session.ok(&["restart", "web"]);
    until("a start is told", || {
        session.lines("events.out").iter().any(|line| line.contains("app.launching")).then_some(())
    });
    assert!(session.interrupt().0.success());
    for follower in [&mut logs, &mut events] {
        let status = until("the follower ends", || follower.try_wait().expect("wait"));
        assert!(status.success(), "{status}");
    }
    let lines: Vec<u32> = session.lines("logs.out").iter().filter_map(|line| line.parse().ok()).collect();
    let restart = lines.iter().skip(1).position(|number| *number == 1).map_or(lines.len(), |at| at + 1);
    let expected: Vec<u32> = (1..=restart as u32).collect();
    assert_eq!(lines[..restart], expected, "a line is missing, or was shown twice");
}
