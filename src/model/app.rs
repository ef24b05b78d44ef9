//! The checked app: a manifest with everything interpolated, resolved and in range. After `check` made
//! one, no code asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use regex_lite::Regex;

use crate::model::manifest::{Manifest, Workspace};
use crate::model::protocol::CommandLine;

/// One app, ready to be supervised.
#[derive(Debug, Clone, PartialEq)]
pub struct App {
    /// The manifest's file name without `.ron`.
    pub name: String,
    /// As written, with every string interpolated.
    pub manifest: Manifest,
    pub enabled: bool,
    /// The program (an absolute path) and all its arguments, overrides applied.
    pub argv: Vec<String>,
    /// Variables set over the supervisor's own environment: the workspace's, then the manifest's.
    pub env: BTreeMap<String, String>,
    /// Variables taken out of it: the workspace's `env_hidden` less the manifest's `env_secret`.
    pub env_hidden: BTreeSet<String>,
    /// Signal number of `stop.signal`.
    pub stop_signal: i32,
    pub matcher: Option<Matcher>,
}

impl App {
    /// How it is started once more, beside one that is up.
    pub fn command_line(&self) -> CommandLine {
        let last = self.manifest.args_last.clone();
        let argv = self.argv[..self.argv.len().saturating_sub(last.len())].to_vec();
        let again = self.manifest.icon.as_ref().and_then(|icon| icon.again.clone());
        CommandLine { argv, last, again, env: self.env.clone(), env_hidden: self.env_hidden.clone() }
    }

    /// Whoever runs the session's own steps: it has the workspace's environment and no process.
    pub fn of_workspace(workspace: &Workspace) -> Self {
        App {
            env: workspace.env.clone(),
            env_hidden: workspace.env_hidden.iter().cloned().collect(),
            ..App::without_manifest("workspace")
        }
    }

    /// What is left of an app whose manifest is gone: enough to stop it.
    pub fn without_manifest(name: &str) -> Self {
        App {
            name: name.into(),
            manifest: Manifest::new(name),
            enabled: false,
            argv: Vec::new(),
            env: BTreeMap::new(),
            env_hidden: BTreeSet::new(),
            stop_signal: 15,
            matcher: None,
        }
    }
}

/// The compiled `matches`.
#[derive(Clone)]
pub struct Matcher {
    pub cmdline: Regex,
    pub exclude: Option<Regex>,
}

impl Matcher {
    /// `cmdline`: the process's arguments joined by single spaces.
    pub fn is(&self, cmdline: &str) -> bool {
        self.cmdline.is_match(cmdline) && !self.exclude.as_ref().is_some_and(|exclude| exclude.is_match(cmdline))
    }

    fn patterns(&self) -> (&str, Option<&str>) {
        (self.cmdline.as_str(), self.exclude.as_ref().map(Regex::as_str))
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.patterns() == other.patterns()
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.patterns(), f)
    }
}
