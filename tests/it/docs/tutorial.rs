//! Runs docs/tutorial.md: each command in order, and compares its output with the page. `…` stands for any text, and a
//! line of its own for any lines.

use std::process::Command;

use super::{Block, blocks, root};
use crate::harness::{Session, binary, finish, until_ok};

/// The note above the block that keeps running while the others are typed.
const BACKGROUND: &str = "<!-- test: background -->";

/// A command with the output that the page shows for it.
struct Step {
    /// The line of the page.
    line: usize,
    command: String,
    expected: Vec<String>,
}

fn steps(block: &Block<'_>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (at, line) in block.lines.iter().enumerate() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { line: block.line + at, command: command.into(), expected: Vec::new() });
            continue;
        }
        let step = steps.last_mut().expect("a block begins with a command");
        match line.strip_prefix("> ").filter(|_| step.expected.is_empty()) {
            Some(more) => step.command.push_str(&format!("\n{more}")),
            None => step.expected.push((*line).into()),
        }
    }
    steps
}

/// Without differences in width: columns are as wide as what is in them.
fn narrow(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether one line is as expected.
fn fits(expected: &str, line: &str) -> bool {
    let (expected, line) = (narrow(expected), narrow(line));
    let mut parts = expected.split('…');
    let first = parts.next().unwrap_or_default().trim_end();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.map(str::trim).collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Whether all lines are as expected.
fn all_fit(expected: &[String], lines: &[&str]) -> bool {
    match (expected.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((any, expected)), _) if any == "…" => (0..=lines.len()).any(|skip| all_fit(expected, &lines[skip..])),
        (Some((first, expected)), Some((line, lines))) => fits(first, line) && all_fit(expected, lines),
        _ => false,
    }
}

/// A command that changes nothing is repeated until the page is right: what it shows may be a moment away.
fn only_looks(command: &str) -> bool {
    ["status", "logs", "why", "plan", "check"].iter().any(|verb| command.starts_with(&format!("kasm-void {verb}")))
}

/// A person's shell: it remembers its folder.
struct Shell<'a> {
    session: &'a Session,
}

impl Shell<'_> {
    /// What the command prints, on both streams.
    fn run(&self, command: &str) -> String {
        let script =
            "cd \"$(cat \"$DATA/pwd\" 2>/dev/null || echo \"$HOME\")\" && { eval \"$1\"; } 2>&1; pwd >\"$DATA/pwd\"";
        let mut shell: Command = self.session.command("sh");
        shell.args(["-c", script, "sh", command]);
        finish(shell).stdout
    }

    fn check(&self, step: &Step) {
        let look = || {
            let printed = self.run(&step.command);
            let lines: Vec<&str> = printed.lines().collect();
            match all_fit(&step.expected, &lines) {
                true => Ok(()),
                false => Err(format!("docs/tutorial.md:{}: {}\nprints\n{printed}", step.line, step.command)),
            }
        };
        match only_looks(&step.command) {
            true => until_ok("the tutorial is right", look),
            false => look().unwrap_or_else(|printed| panic!("{printed}")),
        }
    }
}

#[test]
fn the_tutorial_works_as_it_is_written() {
    let text = std::fs::read_to_string(root().join("docs/tutorial.md")).expect("the tutorial");
    let session = Session::new();
    let config = session.home().join(".config");
    let bin = binary();
    let path = format!("{}:{}", bin.parent().expect("a folder").display(), std::env::var("PATH").expect("PATH"));
    let mut session =
        session.env("XDG_CONFIG_HOME", config.to_str().expect("UTF-8")).env("PATH", &path).env("TZ", "UTC");
    let blocks = blocks(&text);
    let mut ran = 0;
    for block in blocks.iter().filter(|block| block.language == "console") {
        if block.note == BACKGROUND {
            assert_eq!(block.lines, ["$ kasm-void run"]);
            session.start_supervisor_on_its_own_folder();
            continue;
        }
        for step in steps(block) {
            ran += 1;
            Shell { session: &session }.check(&step);
        }
    }
    assert!(ran > 38, "only {ran} commands were run");
    assert!(session.wait_end().success(), "{}", session.supervisor_output());
}

#[test]
fn output_is_compared_line_by_line() {
    let all_fit = |expected: &str, lines: &str| {
        let expected: Vec<String> = expected.lines().map(str::to_owned).collect();
        self::all_fit(&expected, &lines.lines().collect::<Vec<_>>())
    };
    assert!(all_fit("a  b …\n…\nend", "a b    12\nmore\nmore\nend"));
    assert!(all_fit("…\nend", "end"));
    assert!(all_fit("NAME …\nx  Running  …  1  …  last", "NAME  STATE\nx   Running  9  1s  1  2 MiB  last"));
    assert!(!all_fit("a …", "b 12"));
    assert!(!all_fit("a", "a\nb"));
    assert!(!all_fit("a\nb", "a"));
    assert!(!all_fit("a … 1", "a 2"));
}
