//! Output on a terminal: no text from outside controls the terminal, tables fit its width, and prompts appear.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use kasm_void::model::protocol::StateName;

use crate::harness::{Session, binary, until};

/// Characters that control a terminal, or that reverse the text after them.
const UNSAFE: [char; 5] = ['\u{1b}', '\u{9b}', '\u{202e}', '\u{200f}', '\u{7}'];

const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\u{202e}\u{200f}\u{7}";

fn has_nothing_unsafe(what: &str, text: &str) {
    let found: Vec<char> = UNSAFE.into_iter().filter(|c| text.contains(*c)).collect();
    assert!(found.is_empty(), "{what} shows {found:?}: {text:?}");
}

#[test]
fn names_and_texts_of_manifests_command_no_terminal() {
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#);
    let broken = format!("App(\n    about: \"{HOSTILE}\", comand: \"{HOSTILE}\",\n)");
    fs::write(session.manifests().join(format!("{HOSTILE}.ron")), &broken).expect("a file of that name");
    session.edit("other", &broken);
    let checked = session.cli(&["check", &session.manifests().display().to_string()]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    has_nothing_unsafe("check", &(checked.stdout + &checked.stderr));
    let checked = session.cli(&["check", "--json", &session.manifests().display().to_string()]);
    has_nothing_unsafe("check --json", &checked.stdout);
    let misused = session.cli(&["status", "--", HOSTILE, "--"]);
    has_nothing_unsafe("wrong usage", &(misused.stdout + &misused.stderr));

    let mut session = session;
    session.start_supervisor_with(|command| {
        command.args(["--log-format", "text"]);
    });
    session.pid("web");
    until("the broken files are told", || session.supervisor_output().contains("comand").then_some(()));
    has_nothing_unsafe("the log", &session.supervisor_output());
    let status = session.cli(&["status"]);
    has_nothing_unsafe("status", &status.stdout);
    has_nothing_unsafe("status --json", &session.cli(&["status", "--json"]).stdout);
}

#[test]
fn status_fits_eighty_columns_and_names_the_way_back() {
    let long = "a".repeat(63);
    let dies = r#"App(about: "dies again and again", command: "${BIN}/dies",
        backoff: Backoff(first: "10ms", jitter: 0.0, give_up: After(times: 2, within: "1h")))"#;
    let session = Session::new()
        .stayer(&long)
        .program("dies", "exit 3\n")
        .app(&long, &format!(r#"App(about: "a name as long as names may be", command: "${{BIN}}/{long}")"#))
        .app("web", dies)
        .start();
    session.wait_state("web", StateName::GaveUp);
    session.pid(&long);
    let mut narrow = session.command(binary());
    let output = narrow.arg("status").env("COLUMNS", "80").output().expect("status");
    let text = String::from_utf8(output.stdout).expect("text");
    let (table, notes) = text.split_once("\n\n").expect("a table and what is below it");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("web ") && line.contains("GaveUp")), "{table}");
    assert!(notes.contains("`kasm-void start web` starts it again"), "{notes}");
    assert!(session.ok(&["why", "web"]).contains("`kasm-void start web` starts it again"));
    assert!(session.ok(&["status"]).contains("a name as long as names may be"), "about is not shown");
}

#[test]
fn a_prompt_without_a_line_end_is_shown_on_a_terminal() {
    let body = "printf 'begun\\nPassword: '\nread _ <>\"$DATA/never\"\n";
    let session = Session::new().program("asks", body).app("web", r#"App(command: "${BIN}/asks")"#).start();
    session.pid("web");
    let screen = session.data().join("screen");
    let follow = format!("exec {} logs web -f", binary().display());
    let mut terminal = session.command("script");
    terminal.args(["-qfec", &follow]).arg(&screen).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    let mut terminal = terminal.spawn().expect("script, of bsdutils");
    until("the prompt is on the screen", || {
        let shown = fs::read_to_string(&screen).unwrap_or_default();
        (shown.contains("begun") && shown.contains("Password: ")).then_some(())
    });
    terminal.kill().expect("kill");
    terminal.wait().expect("a reaped terminal");
}
