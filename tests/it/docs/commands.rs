//! Every `kasm-void …` in README.md, docs/ and the help texts is given to the parser of the real command line.

use clap::CommandFactory;
use clap::error::ErrorKind;
use kasm_void::cli::Cli;

use super::{Page, blocks, pages, prose, root};

/// Where a command ends, and another program or a comment begins.
const ENDS: [&str; 8] = ["|", ">", ">>", "<", "&&", ";", "#", "&"];

/// The words of a command line up to its end, without quotes. A comment of two spaces ends it too.
fn words(line: &str) -> Option<Vec<String>> {
    let line = line.split("  ").next().unwrap_or_default();
    let words = shlex::split(line)?;
    let end = words.iter().position(|word| ENDS.contains(&word.as_str()) || word.starts_with("<("));
    let words = words[..end.unwrap_or(words.len())].iter().map(|word| word.trim_end_matches(';').to_owned());
    // Brackets mark what may be left out, and dots what is repeated or left to the reader.
    let words = words.map(|word| word.trim_matches(['[', ']']).trim_end_matches("...").to_owned());
    Some(words.filter(|word| !word.is_empty() && word != "…").collect())
}

/// Why clap does not take this command; `None` if it does.
fn refused(words: &[String]) -> Option<clap::Error> {
    match Cli::command().try_get_matches_from(words) {
        Err(error) if !matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Some(error),
        _ => None,
    }
}

/// Our commands within one line of a shell: after `$`, after an operator, or inside `$(…)`.
fn ours(line: &str) -> Vec<&str> {
    let starts = line.match_indices("kasm-void").map(|(at, _)| at);
    let command = |at: &usize| {
        let before = line[..*at].trim_end();
        let begins = before.is_empty() || before.ends_with(['$', '|', ';', '(', '&']);
        begins && line[*at..].starts_with("kasm-void ")
    };
    starts.filter(command).map(|at| line[at..].trim_end_matches(')')).collect()
}

fn check_blocks(page: &Page, wrong: &mut Vec<String>) -> usize {
    let mut seen = 0;
    for block in blocks(&page.text).iter().filter(|block| ["sh", "console", ""].contains(&block.language)) {
        for (at, line) in block.lines.iter().enumerate() {
            let shown = match block.language {
                "console" => line.strip_prefix("$ ").unwrap_or_default(),
                _ => line,
            };
            for command in ours(shown.trim_end_matches('\\')) {
                seen += 1;
                let Some(words) = words(command) else { continue }; // a quote goes on in the next line
                if let Some(error) = refused(&words) {
                    wrong.push(format!("{}:{}: {command}: {error}", page.path, block.line + at));
                }
            }
        }
    }
    seen
}

/// A command in running text may leave out what it needs, but nothing in it may be unknown.
fn check_prose(page: &Page, wrong: &mut Vec<String>) -> usize {
    let text = prose(&page.text).replace('\n', " ");
    let spans = text.split('`').skip(1).step_by(2).filter(|span| span.starts_with("kasm-void "));
    let mut seen = 0;
    for span in spans {
        seen += 1;
        let Some(words) = words(span) else { continue };
        let incomplete = |error: &clap::Error| {
            // SHELL or TIME stands for a value.
            let named = [ErrorKind::InvalidValue, ErrorKind::ValueValidation];
            let missing = [ErrorKind::MissingRequiredArgument, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
            named.contains(&error.kind()) || missing.contains(&error.kind())
        };
        if let Some(error) = refused(&words).filter(|error| !incomplete(error)) {
            wrong.push(format!("{}: `{span}`: {error}", page.path));
        }
    }
    seen
}

#[test]
fn every_command_that_is_shown_is_understood() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in pages().iter().filter(|page| page.path != "CHANGELOG.md") {
        seen += check_blocks(page, &mut wrong) + check_prose(page, &mut wrong);
    }
    assert!(seen > 60, "only {seen} commands were found: is the search broken?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_example_in_the_help_is_understood() {
    let mut cli = Cli::command();
    cli.build();
    let helps = std::iter::once(&cli).chain(cli.get_subcommands()).filter_map(|verb| verb.get_after_help());
    let lines: Vec<String> =
        helps.flat_map(|help| help.to_string().lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let commands: Vec<&str> = lines.iter().flat_map(|line| ours(line)).collect();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        let words = words(command).expect("whole quotes");
        assert!(refused(&words).is_none(), "{command}: {}", refused(&words).expect("just looked"));
    }
}

#[test]
fn every_script_that_is_shown_exists() {
    let mut seen = 0;
    for page in pages().iter().filter(|page| page.path != "CHANGELOG.md") {
        for block in blocks(&page.text).iter().filter(|block| block.language == "sh") {
            let scripts =
                block.lines.iter().filter_map(|line| line.split_whitespace().find(|word| !word.contains('=')));
            for script in scripts.filter(|word| word.contains('/') && word.ends_with(".sh") && !word.contains(':')) {
                seen += 1;
                assert!(root().join(script).is_file(), "{}:{}: there is no {script}", page.path, block.line);
            }
        }
    }
    assert!(seen > 3, "only {seen} scripts were found: is the search broken?");
}

#[test]
fn a_mistyped_command_is_found() {
    let page = |text: &str| Page { path: "x.md".into(), text: text.into() };
    let faults = |text: &str| {
        let mut wrong = Vec::new();
        check_blocks(&page(text), &mut wrong);
        check_prose(&page(text), &mut wrong);
        wrong.len()
    };
    assert_eq!(faults("```sh\nkasm-void status | less   # a table\nDIR=x kasm-void check [DIR...]\n```\n"), 0);
    assert_eq!(faults("Use `kasm-void logs` and\n`kasm-void status --json`.\n"), 0);
    assert_eq!(faults("```console\n$ kasm-void statsu\nkasm-void shows this\n```\n"), 1);
    assert_eq!(faults("```sh\nkasm-void why\n```\n"), 1, "a command to type needs its arguments");
    assert_eq!(faults("Use `kasm-void logs --folow`."), 1);
}
