//! Probes: how the supervisor asks whether an app is there (`ready`), still well (`health`), or whether
//! something it needs is (`WaitFor`). Owns their types and defaults; `daemon::probes` asks.

use serde::{Deserialize, Serialize};

use crate::model::manifest::quantity::Span;

/// What can be asked for, once; the asker repeats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Target {
    /// The X server named by DISPLAY accepts clients.
    Display,
    /// A window whose WM_CLASS (instance or class) matches this regex, ignoring case, is mapped.
    Window { class: String },
    /// A TCP connection to `host:port` succeeds.
    Tcp { address: String },
    /// A GET of this `http://` URL answers with a status below 400.
    Http { url: String },
    /// A connection to this unix stream socket succeeds.
    UnixSocket { path: String },
    /// This file or folder exists.
    Path { path: String },
    /// This command exits 0.
    Command { argv: Vec<String> },
}

impl Target {
    /// Calls `visit` with each interpolated string and its field path below this target.
    pub fn each_string(&mut self, visit: &mut dyn FnMut(&str, &mut String)) {
        match self {
            Target::Display => {}
            Target::Window { class } => visit("class", class),
            Target::Tcp { address } => visit("address", address),
            Target::Http { url } => visit("url", url),
            Target::UnixSocket { path } | Target::Path { path } => visit("path", path),
            Target::Command { argv } => {
                for (i, word) in argv.iter_mut().enumerate() {
                    visit(&format!("argv[{i}]"), word);
                }
            }
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Display => f.write_str("the X display"),
            Target::Window { class } => write!(f, "a window of class `{class}`"),
            Target::Tcp { address } => write!(f, "tcp {address}"),
            Target::Http { url } => f.write_str(url),
            Target::UnixSocket { path } => write!(f, "unix socket {path}"),
            Target::Path { path } => f.write_str(path),
            Target::Command { argv } => write!(f, "`{}`", argv.join(" ")),
        }
    }
}

/// When a started app counts as `Running`. Without one it does as soon as it is spawned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    pub probe: Target,
    /// Not ready by then: the app is stopped and counts as crashed, class `NotReady`.
    #[serde(default = "half_a_minute")]
    pub within: Span,
}

/// Asked again and again while an app runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    pub probe: Target,
    #[serde(default = "ten_seconds")]
    pub every: Span,
    /// An answer later than this is a failure.
    #[serde(default = "five_seconds")]
    pub timeout: Span,
    /// So many failures in a row restart the app, class `Unhealthy`.
    #[serde(default = "three")]
    pub failures: u32,
    /// Failures so soon after the app became ready do not count.
    #[serde(default)]
    pub grace: Span,
}

fn half_a_minute() -> Span {
    Span::secs(30)
}

fn ten_seconds() -> Span {
    Span::secs(10)
}

fn five_seconds() -> Span {
    Span::secs(5)
}

fn three() -> u32 {
    3
}
