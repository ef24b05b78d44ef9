//! `matches`: recognises a live process as an app, however it was started. Form, check and comparison.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;
use crate::model::manifest::pattern::{Case, Pattern};

/// If an updater takes longer than this, the app is down for so long that somebody should look.
const SUCCESSOR: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60 * 60);

/// `Match(…)` as written. A live process of our user is this app if its command line (arguments joined by single
/// spaces) matches `cmdline` and not `exclude`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "Match", deny_unknown_fields)]
pub struct MatchForm {
    /// Regex over the command line.
    pub cmdline: String,
    /// Regex. A process whose command line matches it is a helper, never the app.
    #[serde(default)]
    pub exclude: Option<String>,
    /// A flag that names a folder, as in `--user-data-dir`. A process matches only if its own flag names the same
    /// folder as the app's arguments do, however either is spelled.
    #[serde(default)]
    pub same_folder: Option<String>,
    /// How long the app may be missing after its leader exited with 0, while part of its tree is alive: for a launcher
    /// that forks, or an updater that starts the new version. 1 s by default.
    #[serde(default)]
    pub successor: Option<String>,
}

impl MatchForm {
    /// `argv` is the app's program and arguments.
    pub fn check(self, argv: &[String], fields: &mut Fields<'_>) -> Matcher {
        let MatchForm { cmdline, exclude, same_folder, successor } = self;
        if cmdline.is_empty() {
            let help = "begin it with the program's path, as in \"^/usr/bin/xterm\"";
            fields.error("cmdline", "an empty pattern matches every process", help);
        }
        Matcher {
            cmdline: fields.pattern("cmdline", cmdline, Case::Sensitive),
            exclude: exclude.map(|text| fields.pattern("exclude", text, Case::Sensitive)),
            same_folder: same_folder.and_then(|flag| folder_of(flag, argv, fields)),
            successor: fields.duration("successor", successor, Matcher::SUCCESSOR, SUCCESSOR),
        }
    }
}

fn folder_of(flag: String, argv: &[String], fields: &mut Fields<'_>) -> Option<FolderFlag> {
    let flag = fields.text("same_folder", flag);
    let folder = value_of(argv, &flag).filter(|folder| folder.starts_with('/')).map(PathBuf::from);
    if folder.is_none() {
        let message = format!("the app's arguments have no `{flag}` with an absolute path");
        fields.error("same_folder", message, "add the flag to `args`, or leave `same_folder` out");
    }
    folder.map(|folder| FolderFlag { flag, folder })
}

/// The value of a flag in a command line: the text after `=`, or the next word. If the flag is repeated, the last
/// one counts.
pub fn value_of<'a>(words: &'a [String], flag: &str) -> Option<&'a str> {
    words.iter().enumerate().rev().find_map(|(at, word)| match word.strip_prefix(flag)? {
        "" => words.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    })
}

/// The compiled `matches`.
#[derive(Debug, Clone, PartialEq)]
pub struct Matcher {
    /// Matches the command line of the app's leader.
    pub cmdline: Pattern,
    /// Matches the command lines of its helpers.
    pub exclude: Option<Pattern>,
    /// The folder that the leader's flag must name.
    pub same_folder: Option<FolderFlag>,
    /// How long to wait for a successor of the leader.
    pub successor: Duration,
}

/// A flag and the folder that it names for the app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FolderFlag {
    /// The flag, such as `--user-data-dir`.
    pub flag: String,
    /// The absolute path that the app's arguments give it.
    pub folder: PathBuf,
}

impl Matcher {
    /// The default of `successor`.
    pub const SUCCESSOR: Duration = Duration::from_secs(1);

    /// `cmdline` is the process's arguments joined by single spaces. Does not check `same_folder`, which needs the file
    /// system.
    pub fn is(&self, cmdline: &str) -> bool {
        self.cmdline.is_match(cmdline) && !self.exclude.as_ref().is_some_and(|exclude| exclude.is_match(cmdline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_read_in_both_spellings_and_the_last_one_counts() {
        let value = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            value_of(&words, "--dir").map(str::to_owned)
        };
        assert_eq!(value("web --dir=/a").as_deref(), Some("/a"));
        assert_eq!(value("web --dir /a").as_deref(), Some("/a"));
        assert_eq!(value("web --dir=/a --dir=b/").as_deref(), Some("b/"));
        assert_eq!(value("web --dir="), Some(String::new()));
        for none in ["web", "web --dir", "web --dirs=/a", "web dir=/a"] {
            assert_eq!(value(none), None, "{none}");
        }
    }
}
