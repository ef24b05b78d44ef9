//! The live view in a real terminal, with real keys.

use std::fs;
use std::io::Write;
use std::num::NonZeroU16;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};

use kasm_void::model::protocol::StateName;

use crate::harness::{Session, binary, until, until_ok};

/// A program on a terminal of its own, made by `script` of bsdutils.
struct Pty {
    script: Child,
    keys: ChildStdin,
    recorded: PathBuf,
    size: (NonZeroU16, NonZeroU16),
}

impl Pty {
    /// Runs shell commands on a terminal of this many rows and columns.
    fn start(session: &Session, commands: &str, (rows, columns): (u16, u16)) -> Pty {
        let recorded = session.data().join(format!("screen-{rows}x{columns}"));
        let commands = format!("stty rows {rows} cols {columns}; {commands}");
        let mut script = session.command("script");
        script.args(["-qfec", &commands]).arg(&recorded).env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
        script.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut script = script.spawn().expect("script, of bsdutils");
        let keys = script.stdin.take().expect("its stdin");
        let size = [rows, columns].map(|side| NonZeroU16::new(side).expect("a size"));
        Pty { script, keys, recorded, size: (size[0], size[1]) }
    }

    /// Starts the live view. When it has ended, the terminal shows its exit code and whether it echoes again.
    fn top(session: &Session, size: (u16, u16)) -> Pty {
        let binary = binary().display().to_string();
        let pid = session.data().join("top.pid").display().to_string();
        let commands = format!(
            "sh -c 'echo $$ >{pid}; exec {binary} top'; echo \"ended with $?\"; stty -a | grep -ow -e -*icanon -e -*echo | tr '\\n' ' '"
        );
        Pty::start(session, &commands, size)
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("a terminal that takes keys");
        self.keys.flush().expect("a terminal that takes keys");
    }

    /// What an emulator of such a terminal shows.
    fn emulator(&self) -> vt100::Parser {
        let bytes = fs::read(&self.recorded).unwrap_or_default();
        // `script` writes a line about itself first.
        let start = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut emulator = vt100::Parser::new(self.size.0, self.size.1, 0);
        emulator.process(&bytes[start..]);
        emulator
    }

    fn screen(&self) -> String {
        self.emulator().screen().contents()
    }

    /// How often these words were written to the terminal.
    fn times_drawn(&self, words: &str) -> usize {
        String::from_utf8_lossy(&fs::read(&self.recorded).unwrap_or_default()).matches(words).count()
    }

    /// Waits until the screen satisfies `is`.
    fn shows(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        until_ok(&format!("the screen shows {what}; it shows\n"), || match self.screen() {
            screen if is(&screen) => Ok(screen),
            screen => Err(screen),
        })
    }

    /// Waits until the view has ended with this code, and checks that it left the terminal as it was.
    fn given_back(mut self, code: u8) {
        let ended = format!("ended with {code}");
        let screen = self.shows("the end", |screen| screen.contains(&ended) && screen.contains("icanon echo"));
        assert!(!screen.contains("-icanon") && !screen.contains("-echo"), "{screen}");
        let emulator = self.emulator();
        assert!(!emulator.screen().alternate_screen() && !emulator.screen().hide_cursor());
        assert!(!screen.contains("kasm-void ·"), "the view is still on the screen: {screen}");
        until("the terminal ends", || self.script.try_wait().expect("wait"));
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // The group holds only `script`; its terminal disappears with it.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn two_apps() -> Session {
    let body = "echo \"hello from $$\"\n[ \"$1\" = again ] && exit 3\nread _ <>\"$DATA/never\"\n";
    let manifest = |about: &str| format!(r#"App(command: "${{BIN}}/says", about: "{about}", args: ["{about}"])"#);
    let session = Session::new().program("says", body).app("one", &manifest("first")).app("two", &manifest("second"));
    let session = session.start();
    session.pid("one");
    session.pid("two");
    session
}

#[test]
fn an_operator_sees_an_app_die_and_come_back_and_restarts_it() {
    let session = two_apps();
    let mut pty = Pty::top(&session, (24, 80));
    let first = session.pid("one");
    pty.shows("both apps and the output of the first", |screen| {
        screen.contains("2 running") && screen.contains(&format!("hello from {first}"))
    });
    assert_eq!(pty.times_drawn("no apps yet"), 0, "there were two from the beginning");
    crate::harness::kill(first);
    let second = session.next_pid("one", first);
    pty.shows("the next run", |screen| {
        screen.contains(&format!("hello from {second}")) && screen.contains("run 1 ended")
    });
    pty.press("r");
    let third = session.next_pid("one", second);
    pty.shows("the answer and the third run", |screen| {
        screen.contains(&format!("hello from {third}")) && screen.contains("`one` is running")
    });
    pty.press("j");
    let other = session.pid("two");
    pty.shows("the other app's output", |screen| screen.contains(&format!("hello from {other}")));
    pty.press("x");
    pty.shows("a question", |screen| screen.contains("Stop two?"));
    pty.press("y");
    session.wait_state("two", StateName::Stopped);
    pty.press("e");
    pty.shows("the events", |screen| screen.contains("app.state") && screen.contains("to=Stopped"));
    pty.press("q");
    pty.given_back(0);
    assert_eq!(session.pid("one"), third, "the app keeps running");
}

#[test]
fn the_view_outlives_its_supervisor_and_waits_for_the_next() {
    let mut session = two_apps();
    let pid = session.pid("one");
    let mut pty = Pty::top(&session, (50, 200));
    pty.shows("both apps", |screen| screen.contains("2 running"));
    session.crash_supervisor();
    pty.press("r");
    let next = session.next_pid("one", pid);
    pty.shows("the output after the restart", |screen| screen.contains(&format!("hello from {next}")));
    session.kill_supervisor();
    pty.shows("that there is none", |screen| screen.contains("no supervisor is running"));
    session.start_supervisor();
    pty.shows("both apps again", |screen| screen.contains("2 running"));
    pty.press("\u{3}");
    pty.given_back(0);
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    let session = two_apps();
    for (signal, code) in [(rustix::process::Signal::TERM, 143), (rustix::process::Signal::HUP, 129)] {
        let pty = Pty::top(&session, (10, 40));
        pty.shows("an app", |screen| screen.contains("Running"));
        let pid = until("its pid", || session.lines("top.pid").last()?.parse().ok());
        crate::harness::send(pid, signal);
        pty.given_back(code);
        fs::remove_file(session.data().join("top.pid")).expect("a file to remove");
    }
}

#[test]
fn a_suspended_view_comes_back_and_is_drawn_again_when_asked() {
    let session = two_apps();
    let top = format!("{} top", binary().display());
    let commands = format!(
        "bash -c 'set -m; {top}; echo \"stopped with $?\"; fg; echo \"ended with $?\"; stty -a | grep -ow -e -*icanon -e -*echo | tr \"\\n\" \" \"'"
    );
    let mut pty = Pty::start(&session, &commands, (24, 80));
    pty.shows("both apps", |screen| screen.contains("2 running"));
    let draws = |pty: &Pty| pty.times_drawn("2 running");
    let before = draws(&pty);
    pty.press("\u{c}"); // Ctrl-L
    until("it is drawn again", || (draws(&pty) > before).then_some(()));
    let before = draws(&pty);
    pty.press("\u{1a}"); // Ctrl-Z
    until("it is drawn again after `fg`", || (draws(&pty) > before).then_some(()));
    pty.shows("both apps again", |screen| screen.contains("2 running"));
    assert!(pty.times_drawn("stopped with 148") == 1, "the shell has not seen it stop: {}", pty.screen());
    pty.press("q");
    pty.given_back(0);
}

#[test]
fn without_a_terminal_or_a_supervisor_it_says_so() {
    let session = Session::new();
    let mut pty = Pty::top(&session, (24, 80));
    let screen = pty.shows("the end", |screen| screen.contains("ended with"));
    assert!(screen.contains("ended with 3") && screen.contains("no supervisor is running"), "{screen}");
    pty.keys.flush().expect("an open pipe");
    let output = session.cli(&["top"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("needs a terminal") && output.stderr.contains("status --watch"), "{output:?}");
}
