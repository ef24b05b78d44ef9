//! App output: whole lines, in order, within the configured size.

use std::fs;

use kasm_void::model::protocol::{Crash, StateName};

use crate::harness::{FOREVER, Session, binary, kill, until};

/// An app's whole log, starting with the oldest rotated file.
fn whole_log(session: &Session, name: &str, keep: u32) -> String {
    let file = |suffix: String| fs::read_to_string(session.data().join(format!("{name}{suffix}"))).unwrap_or_default();
    let rotated: String = (1..=keep).rev().map(|number| file(format!(".{number}"))).collect();
    rotated + &file(String::new())
}

#[test]
fn a_flood_is_rotated_between_lines() {
    let manifest = r#"App(command: "${BIN}/floods", restart: Never,
        log: Log(file: "${DATA}/flood.log", max_size: "64KiB", keep: 3))"#;
    let session = Session::new().program("floods", "exec seq 1000000 1200000\n").app("web", manifest).start();
    session.wait("web", "has ended", |app| app.state == StateName::Stopped && app.run == 1);
    let log = until("the last line is in the log", || {
        Some(whole_log(&session, "flood.log", 3)).filter(|log| log.ends_with("1200000\n"))
    });

    let numbers: Vec<u32> = log.lines().map(|line| line.parse().expect("a whole line")).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "lines are missing or out of order");
    assert!(numbers.len() > 3 * 64 * 1024 / 8 - 10, "only {} lines are left of three full files", numbers.len());
    for suffix in ["", ".1", ".2", ".3"] {
        let size = fs::metadata(session.data().join(format!("flood.log{suffix}"))).expect("a log").len();
        assert!(size <= 64 * 1024, "flood.log{suffix} has {size} bytes");
    }
    assert!(!session.data().join("flood.log.4").exists());
}

#[test]
fn both_outputs_of_an_app_are_in_its_log() {
    let body = "echo to stdout\necho to stderr >&2\nprintf 'no newline at the end'\n";
    let manifest = r#"App(command: "${BIN}/talks", restart: Never, log: Log(file: "${DATA}/talk.log"))"#;
    let session = Session::new().program("talks", body).app("web", manifest).start();
    until("all is in the log", || {
        let log = whole_log(&session, "talk.log", 0);
        ["to stdout", "to stderr", "no newline at the end"].iter().all(|line| log.contains(line)).then_some(())
    });
    let shown = session.ok(&["logs", "web"]);
    assert!(shown.contains("to stdout") && shown.contains("no newline at the end"), "{shown}");
}

#[test]
fn a_log_that_cannot_be_written_blocks_no_app() {
    let manifest = r#"App(command: "${BIN}/floods", restart: Never, log: Log(file: "${DATA}/file/flood.log"))"#;
    let session = Session::new().program("floods", "seq 100000\necho done >\"$DATA/done\"\n").app("web", manifest);
    fs::write(session.data().join("file"), "not a folder").expect("a file");
    let session = session.start();
    session.wait_lines("done", 1);
    until("status tells of the trouble", || {
        session.ok(&["status"]).contains("the output of web is not saved").then_some(())
    });
}

#[test]
fn a_crash_is_noted_in_the_log_of_the_app() {
    let manifest = r#"App(command: "${BIN}/dies", log: Log(file: "${DATA}/dies.log"))"#;
    let session = Session::new().program("dies", "echo last words\nexit 3\n").app("web", manifest).start();
    until("the crash is noted", || {
        let log = whole_log(&session, "dies.log", 0);
        log.starts_with("last words\n[kasm-void: run 1 ended: exit code 3]\n").then_some(())
    });
}

#[test]
fn a_log_of_an_app_that_restarts_goes_on_in_the_same_file() {
    let session = Session::new()
        .program("web", "echo \"run as $$\"\nread _ <>\"$DATA/never\"\n")
        .app(
            "web",
            r#"App(command: "${BIN}/web", log: Log(file: "${DATA}/web.log"), backoff: Backoff(stable_after: "10ms"))"#,
        )
        .start();
    let first = session.pid("web");
    until("the first run has spoken", || whole_log(&session, "web.log", 0).contains("run as").then_some(()));
    kill(first);
    let second = session.next_pid("web", first);
    let both = format!("run as {first}\n[kasm-void: run 1 ended: killed by SIGKILL]\nrun as {second}\n");
    until("both runs are in the log", || (whole_log(&session, "web.log", 0) == both).then_some(()));
}

#[test]
fn each_real_start_is_told_once_in_the_supervisors_log() {
    let session = Session::new()
        .stayer("web")
        .app("discord", r#"App(command: "${BIN}/web", backoff: Backoff(stable_after: "10ms"))"#)
        .start();
    let first = session.pid("discord");
    kill(first);
    session.next_pid("discord", first);
    session.wait_lines("web.pids", 2);
    assert_eq!(session.supervisor_output().matches("launching discord").count(), 2);
}

/// The supervisor's JSON log lines, without incomplete ones.
fn supervisor_lines(session: &Session) -> Vec<serde_json::Value> {
    session.supervisor_output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn the_last_words_survive_probes_that_run_until_the_crash() {
    let body = "echo fatal\nuntil [ \"$(wc -l <\"$DATA/probed\")\" -ge 5 ]; do sleep 0.05; done\nexit 3\n";
    let probe = "echo probed >>\"$DATA/probed\"\nfor n in 1 2 3 4 5 6 7 8 9; do echo chatter; done\n";
    let manifest = r#"App(command: "${BIN}/dies", restart: Never, log: Log(file: "${DATA}/web.log"),
        health: Health(probe: Command(argv: ["${BIN}/probe"]), every: "50ms", timeout: "10s"))"#;
    let session = Session::new().program("dies", body).program("probe", probe).app("web", manifest);
    fs::write(session.data().join("probed"), "").expect("no probe yet");
    let session = session.start();
    session.wait("web", "has crashed", |app| app.state == StateName::Stopped && app.run == 1);
    let crashes: Vec<Crash> = serde_json::from_str(&session.ok(&["why", "web", "--json"])).expect("crashes");
    assert_eq!(crashes[0].tail, ["fatal"]);
    let log = whole_log(&session, "web.log", 0);
    assert!(log.contains("chatter\n"), "what probes print is in the log too: {log}");
}

#[test]
fn a_hook_that_fails_is_told_with_what_it_printed() {
    let manifest = r#"App(command: "${BIN}/web", restart: Never,
        prelaunch: [Run(argv: ["${BIN}/hook"])])"#;
    let session =
        Session::new().stayer("web").program("hook", "echo no profile\nexit 4\n").app("web", manifest).start();
    session.wait("web", "has failed", |app| app.last_exit.is_some());
    let why = session.ok(&["why", "web"]);
    assert!(why.contains("no profile"), "{why}");
}

#[test]
fn a_log_line_of_the_apps_own_passes_through_with_its_level_and_event() {
    let body = r#"echo '{"level":"warn","msg":"refused","event":"launcher.request","host":"a.example","app":"other"}'
echo 'https://a.example/?token=s3cr3t'
exec sleep 1000
"#;
    let manifest = r#"App(command: "${BIN}/talks", log: Log(forward: true))"#;
    let quiet = r#"App(command: "${BIN}/quiet", restart: Never)"#;
    let session = Session::new()
        .program("talks", body)
        .program("quiet", "echo unsaid; exit 3\n")
        .app("web", manifest)
        .app("quiet", quiet)
        .start();
    let line = until("the app's line is on stdout", || {
        supervisor_lines(&session).into_iter().find(|line| line["event"] == "launcher.request")
    });
    assert_eq!((&line["level"], &line["msg"], &line["app"]), (&"warn".into(), &"refused".into(), &"web".into()));
    assert_eq!(line["host"], "a.example");
    until("other lines are passed on as text", || {
        let lines = supervisor_lines(&session);
        let line = lines.into_iter().find(|line| line["event"] == "app.output")?;
        (line["level"] == "info" && line["app"] == "web").then_some(())
    });
    // Output is not forwarded unless the manifest asks for it, not even with a crash.
    until("the crash is told", || supervisor_lines(&session).into_iter().find(|line| line["event"] == "app.crashed"));
    assert!(!session.supervisor_output().contains("unsaid"));
    assert!(session.ok(&["why", "quiet"]).contains("unsaid"));
}

#[test]
fn a_flood_of_forwarded_lines_is_counted() {
    let body =
        "for n in $(seq 500); do echo \"{\\\"level\\\":\\\"info\\\",\\\"msg\\\":\\\"$n\\\"}\"; done\nexec sleep 1000\n";
    let session = Session::new()
        .program("talks", body)
        .app("web", r#"App(command: "${BIN}/talks", log: Log(forward: true))"#)
        .start();
    let told = until("the rest is counted", || {
        let lines = supervisor_lines(&session);
        let dropped: u64 = lines.iter().filter_map(|line| line["dropped"].as_u64()).sum();
        let passed = lines.iter().filter(|line| line["app"] == "web" && line.get("event").is_none()).count() as u64;
        (passed + dropped == 500).then_some(dropped)
    });
    assert!(told > 0);
}

#[test]
fn logs_and_causes_are_shown_though_no_supervisor_runs() {
    let body = "echo out of paper\nexit 3\n";
    let waits = r#"App(command: "${BIN}/dies", log: Log(file: "${DATA}/web.log"),
        backoff: Backoff(first: "10m", max: "10m"))"#;
    let default = r#"App(command: "${BIN}/dies", backoff: Backoff(first: "10m", max: "10m"))"#;
    let mut session = Session::new().program("dies", body).app("web", waits).app("other", default).start();
    for app in ["web", "other"] {
        session.wait_state(app, StateName::Backoff);
        until("the crash is noted", || session.ok(&["logs", app]).contains("run 1 ended").then_some(()));
    }
    session.kill_supervisor();
    for app in ["web", "other"] {
        let logs = session.cli(&["logs", app]);
        assert_eq!(logs.code, Some(0), "{logs:?}");
        assert_eq!(logs.stdout, "out of paper\n[kasm-void: run 1 ended: exit code 3]\n");
        assert!(logs.stderr.contains("no supervisor is running"), "{logs:?}");
        let why = session.cli(&["why", app]);
        assert!(why.code == Some(0) && why.stdout.contains("out of paper"), "{why:?}");
    }
    assert_eq!(session.cli(&["logs", "nobody"]).code, Some(3));
    assert_eq!(session.cli(&["why", "nobody"]).code, Some(3));
    session.start_supervisor();
}

/// Prints a line for each word it reads, and ends when it reads `end`. Its helper has its output open.
const ECHOES: &str = r#"
setsid sleep 1000 &
while read word <>"$DATA/never"; do
    echo "$word"
    [ "$word" != end ] || exit 3
done
"#;

fn tell(session: &Session, word: &str) {
    fs::write(session.data().join("never"), format!("{word}\n")).expect("the app reads");
}

#[test]
fn last_words_that_no_supervisor_heard_are_found_through_a_helper() {
    let manifest = r#"App(command: "${BIN}/echoes", log: Log(file: "${DATA}/web.log"))"#;
    let mut session = Session::new().program("echoes", ECHOES).app("web", manifest).start();
    let web = session.pid("web");
    tell(&session, "first");
    until("the first line is written", || (whole_log(&session, "web.log", 0) == "first\n").then_some(()));
    session.kill_supervisor();
    tell(&session, "end");
    // Collected, too: an uncollected leader is found as itself.
    until("the app is gone", || (!std::path::Path::new(&format!("/proc/{web}")).exists()).then_some(()));
    session.start_supervisor();
    session.next_pid("web", web);
    until("its last line is written", || whole_log(&session, "web.log", 0).starts_with("first\nend\n").then_some(()));
}

#[test]
fn output_is_read_on_though_guard_and_supervisor_and_every_record_are_gone() {
    let manifest = r#"App(command: "${BIN}/echoes", log: Log(file: "${DATA}/web.log"))"#;
    let mut session = Session::new().program("echoes", ECHOES).app("web", manifest).start();
    let web = session.pid("web");
    tell(&session, "first");
    until("the first line is written", || (whole_log(&session, "web.log", 0) == "first\n").then_some(()));
    session.kill_supervisor();
    fs::remove_dir_all(session.state()).expect("rm -rf");
    tell(&session, "second");
    session.start_supervisor();
    assert_eq!(session.pid("web"), web);
    tell(&session, "third");
    until("all of it is written", || whole_log(&session, "web.log", 0).ends_with("second\nthird\n").then_some(()));
}

#[test]
fn logs_of_several_apps_are_put_in_order_and_filtered() {
    let says = "cat \"$DATA/$1.lines\"\nread _ <>\"$DATA/never\"\n";
    let manifest = |name: &str| format!(r#"App(command: "${{BIN}}/says", args: ["{name}"])"#);
    let mut session =
        Session::new().program("says", says).app("one", &manifest("one")).app("other", &manifest("other"));
    let lines = |session: &Session, app: &str, text: &str| {
        fs::write(session.data().join(format!("{app}.lines")), text).expect("a file");
    };
    lines(&session, "one", "2026-01-02T03:04:05Z first\n  more of it\n2026-01-02T03:04:09Z last error\n");
    lines(&session, "other", "{\"ts\":\"2026-01-02T03:04:07Z\",\"msg\":\"middle\"}\n");
    session.start_supervisor();
    let in_order = [
        "one   | 2026-01-02T03:04:05Z first",
        "one   |   more of it",
        "other | {\"ts\":\"2026-01-02T03:04:07Z\",\"msg\":\"middle\"}",
        "one   | 2026-01-02T03:04:09Z last error",
    ];
    let shown = |session: &Session, args: &[&str]| -> Vec<String> {
        session.ok(&[&["logs"], args].concat()).lines().map(String::from).collect()
    };
    until("both have written", || (shown(&session, &[]) == in_order).then_some(()));
    assert_eq!(shown(&session, &["--since", "2026-01-02T03:04:06Z"]), in_order[2..]);
    assert_eq!(shown(&session, &["one", "--grep", "FIRST|error"]), ["2026-01-02T03:04:09Z last error"]);
    assert_eq!(
        shown(&session, &["-n", "1", "-t"]),
        [
            "other | 2026-01-02T03:04:07.000Z {\"ts\":\"2026-01-02T03:04:07Z\",\"msg\":\"middle\"}",
            "one   | 2026-01-02T03:04:09.000Z last error",
        ]
    );
    let mut follow = session.command(binary());
    let file = fs::File::create(session.data().join("followed")).expect("a file");
    let mut follow = follow.args(["logs", "-f", "--grep", "again"]).stdout(file).spawn().expect("a client");
    lines(&session, "other", "again\nnot this\n");
    // The client may not be connected yet, so let the app write until it prints a line.
    until("the new line is followed", || {
        session.ok(&["restart", "other"]);
        session.lines("followed").iter().any(|line| line == "other | again").then_some(())
    });
    assert!(!session.lines("followed").iter().any(|line| line.contains("not this")));
    follow.kill().expect("kill");
    follow.wait().expect("a reaped client");

    session.kill_supervisor();
    let offline = session.cli(&["logs", "one", "other", "--since", "2026-01-02T03:04:08Z"]);
    assert_eq!((offline.code, offline.stdout.lines().next()), (Some(0), Some(in_order[3])), "{offline:?}");
    assert!(offline.stderr.contains("no supervisor is running"), "{offline:?}");
    assert!(session.ok(&["logs", "--grep", "middle"]).contains(in_order[2]));
    session.start_supervisor();
}

#[test]
fn since_says_when_nobody_knows_the_time_of_a_line() {
    let session = Session::new()
        .program("says", "echo hello\nread _ <>\"$DATA/never\"\n")
        .app("web", r#"App(command: "${BIN}/says")"#)
        .start();
    until("it has written", || session.ok(&["logs", "web"]).contains("hello").then_some(()));
    let output = session.cli(&["logs", "web", "--since", "10m"]);
    assert!(output.stdout.is_empty() && output.stderr.contains("carry no time"), "{output:?}");
    assert_eq!(session.cli(&["logs", "web", "--since", "yesterday"]).code, Some(2));
    assert_eq!(session.cli(&["logs", "web", "--grep", "("]).code, Some(2));
}

#[test]
fn lines_begin_with_their_time_if_the_manifest_says_so() {
    let body = format!("echo one\nprintf 'half '\nuntil [ -e \"$DATA/go\" ]; do sleep .1; done\necho done\n{FOREVER}");
    let manifest = r#"App(command: "${BIN}/talks", log: Log(file: "${DATA}/talks.log", timestamps: true))"#;
    let session = Session::new().program("talks", &body).app("talks", manifest).start();
    let file = || fs::read_to_string(session.data().join("talks.log")).unwrap_or_default();
    until("the beginning of a line is written", || file().ends_with("half ").then_some(()));
    let old = session.identity().pid;
    kill(old);
    until("the next supervisor answers", || session.try_identity().filter(|now| now.pid != old));
    fs::write(session.data().join("go"), "").expect("a file");
    until("the line is complete", || file().ends_with("done\n").then_some(()));
    let lines: Vec<String> = file().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, text) in lines.iter().zip(["one", "half done"]) {
        let (time, said) = line.split_once(' ').expect("a time");
        assert!(humantime::parse_rfc3339(time).is_ok() && time.len() == 24, "{line}");
        assert_eq!(said, text);
    }
    let since = |span: &str| session.ok(&["logs", "talks", "--since", span]);
    assert!(since("1h").contains("half done"), "{}", since("1h"));
    assert_eq!(since("2200-01-01"), "");
}
