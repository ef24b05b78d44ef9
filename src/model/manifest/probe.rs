//! Probes: how the supervisor checks whether an app is ready (`ready`), is still healthy (`health`), or can use
//! something that it needs (`WaitFor`). Forms, defaults and checks; does not probe.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::{A_DAY, Fields};
use crate::model::manifest::pattern::{Case, Pattern};

/// A shorter limit would always fail, and a shorter pause would probe all the time.
pub(super) const LIMIT: RangeInclusive<Duration> = Duration::from_millis(10)..=A_DAY;
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=A_DAY;
const FAILURES: RangeInclusive<u32> = 1..=1_000;

/// A probe target as written. One probe asks once; the caller repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "Target", deny_unknown_fields)]
#[expect(missing_docs, reason = "the text of each variant names its field")]
pub enum TargetForm {
    /// The X server named by DISPLAY accepts clients.
    Display,
    /// A window whose WM_CLASS (instance or class) matches this regex, ignoring case, is mapped.
    Window { class: String },
    /// A TCP connection to `host:port` succeeds.
    Tcp {
        address: String,
        /// Whether only an answer from a process of this app counts.
        #[serde(default)]
        own: bool,
    },
    /// A GET of this `http://` URL answers with a status below 400.
    Http {
        url: String,
        /// Whether only an answer from a process of this app counts.
        #[serde(default)]
        own: bool,
    },
    /// A connection to this unix stream socket succeeds.
    UnixSocket { path: String },
    /// This file or folder exists.
    Path { path: String },
    /// This command exits 0.
    Command { argv: Vec<String> },
}

/// A probe target. One probe asks once; the caller repeats it.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the text of each variant names its field")]
pub enum Target {
    /// The X server named by DISPLAY accepts clients.
    Display,
    /// A window whose WM_CLASS (instance or class) matches is mapped.
    Window { class: Pattern },
    /// A TCP connection to `host:port` succeeds; with `own`, to a process of this app.
    Tcp { address: String, own: bool },
    /// A GET of this `http://` URL answers with a status below 400; with `own`, from a process of this app.
    Http { url: String, own: bool },
    /// A connection to this unix stream socket succeeds.
    UnixSocket { path: PathBuf },
    /// This file or folder exists.
    Path { path: PathBuf },
    /// This command exits 0.
    Command { argv: Vec<String> },
}

impl TargetForm {
    /// Interpolates the texts, and reports addresses, URLs and patterns that cannot be used.
    pub fn check(self, fields: &mut Fields<'_>) -> Target {
        match self {
            TargetForm::Display => Target::Display,
            TargetForm::Window { class } => Target::Window { class: fields.pattern("class", class, Case::Ignored) },
            TargetForm::Tcp { address, own } => Target::Tcp { address: checked_address(address, fields), own },
            TargetForm::Http { url, own } => Target::Http { url: checked_url(url, fields), own },
            TargetForm::UnixSocket { path } => Target::UnixSocket { path: fields.path("path", path) },
            TargetForm::Path { path } => Target::Path { path: fields.path("path", path) },
            TargetForm::Command { argv } => Target::Command { argv: fields.command("argv", argv) },
        }
    }
}

fn checked_address(address: String, fields: &mut Fields<'_>) -> String {
    let address = fields.text("address", address);
    if !is_address(&address) {
        fields.error("address", format!("`{address}` is not an address"), "write \"127.0.0.1:9222\"");
    }
    address
}

fn checked_url(url: String, fields: &mut Fields<'_>) -> String {
    let url = fields.text("url", url);
    let host = url.strip_prefix("http://");
    if !host.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?', '#'])) {
        let help = "write \"http://127.0.0.1:9222/path\"; https is not supported";
        fields.error("url", format!("`{url}` is not a URL that can be probed"), help);
    }
    url
}

/// `host:port`
pub(super) fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Display => f.write_str("the X display"),
            Target::Window { class } => write!(f, "a window of class `{class}`"),
            Target::Tcp { address, .. } => write!(f, "tcp {address}"),
            Target::Http { url, .. } => f.write_str(url),
            Target::UnixSocket { path } => write!(f, "unix socket {}", path.display()),
            Target::Path { path } => write!(f, "{}", path.display()),
            Target::Command { argv } => write!(f, "`{}`", argv.join(" ")),
        }
    }
}

/// `Ready(…)` as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "Ready", deny_unknown_fields)]
pub struct ReadyForm {
    /// What is asked.
    pub probe: TargetForm,
    /// An app that is not ready in this time is stopped and counts as crashed, class `NotReady`.
    #[serde(default)]
    pub within: Option<String>,
}

/// When a started app counts as `Running`. An app without this does as soon as it is spawned.
#[derive(Debug, Clone, PartialEq)]
pub struct Ready {
    /// What is asked.
    pub probe: Target,
    /// An app that is not ready in this time is stopped and counts as crashed, class `NotReady`.
    pub within: Duration,
}

impl ReadyForm {
    /// Fills in the default of `within` (30 s) and reports what is out of range.
    pub fn check(self, fields: &mut Fields<'_>) -> Ready {
        let ReadyForm { probe, within } = self;
        Ready {
            probe: fields.within("probe", |fields| probe.check(fields)),
            within: fields.duration("within", within, Duration::from_secs(30), LIMIT),
        }
    }
}

/// `Health(…)` as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "Health", deny_unknown_fields)]
pub struct HealthForm {
    /// What is asked.
    pub probe: TargetForm,
    /// The pause between an answer and the next probe. 10 s by default.
    #[serde(default)]
    pub every: Option<String>,
    /// A probe that takes longer than this fails.
    #[serde(default)]
    pub timeout: Option<String>,
    /// This many failures in a row restart the app, class `Unhealthy`.
    #[serde(default)]
    pub failures: Option<u32>,
    /// Failures within this time after the app became ready do not count.
    #[serde(default)]
    pub grace: Option<String>,
}

/// A check that is repeated while an app runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// What is asked.
    pub probe: Target,
    /// The pause between an answer and the next probe.
    pub every: Duration,
    /// A probe that takes longer than this fails.
    pub timeout: Duration,
    /// This many failures in a row restart the app, class `Unhealthy`.
    pub failures: u32,
    /// Failures within this time after the app became ready do not count.
    pub grace: Duration,
}

impl HealthForm {
    /// Fills in defaults and reports values that are out of range.
    pub fn check(self, fields: &mut Fields<'_>) -> Health {
        let HealthForm { probe, every, timeout, failures, grace } = self;
        Health {
            probe: fields.within("probe", |fields| probe.check(fields)),
            every: fields.duration("every", every, Duration::from_secs(10), LIMIT),
            timeout: fields.duration("timeout", timeout, Duration::from_secs(5), LIMIT),
            failures: fields.number("failures", failures.unwrap_or(3), FAILURES),
            grace: fields.duration("grace", grace, Duration::ZERO, GRACE),
        }
    }
}
