//! Hooks: the built-in steps an app needs around its start (`prelaunch`, `postlaunch`, `actions`, and
//! `stage` of the workspace). Owns their types, defaults and words; `daemon::hooks` performs them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::manifest::probe::Target;
use crate::model::manifest::quantity::Span;
use crate::model::manifest::switch::{on, switch};

/// One step. Steps run in order; each has a time limit and says what its failure means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Hook {
    /// Waits until something is there.
    WaitFor {
        what: Target,
        #[serde(default = "half_a_minute")]
        timeout: Span,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Runs a command to its end; exit code 0 is success. Its output goes into the app's log.
    Run {
        argv: Vec<String>,
        /// A missing program is success, not failure.
        #[serde(default)]
        if_present: bool,
        #[serde(default = "half_a_minute")]
        timeout: Span,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Makes a folder and its parents; an existing one is left as it is.
    MakeDir {
        path: String,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Copies a file, or a folder with all in it, over what is there.
    Copy {
        from: String,
        to: String,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Keeps a folder of ours (`from`) in a folder that people change (`to`): what they left as it was shipped is
    /// refreshed or removed, what they edited or removed stays so.
    Stage {
        from: String,
        to: String,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Removes a file or an empty folder; a missing one is success.
    Remove {
        path: String,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Removes all that a folder holds, not the folder; follows no symlink.
    ClearDir {
        path: String,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Removes the profile locks that a dead browser, or one on another host, has left in `dir`.
    ClearLocks {
        dir: String,
        kind: LockKind,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Merges keys into a JSON object file: `set` always, `default` only where the key is absent.
    SeedJson {
        file: String,
        #[serde(default)]
        set: BTreeMap<String, serde_json::Value>,
        #[serde(default)]
        default: BTreeMap<String, serde_json::Value>,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Maximises the app's first window whose class matches.
    Maximize {
        /// Regex over the window's WM_CLASS (instance or class), ignoring case.
        class: String,
        #[serde(default = "twenty_seconds")]
        within: Span,
        /// A switch as the app's own; off is success.
        #[serde(default = "on", deserialize_with = "switch")]
        enabled: String,
        #[serde(default = "go_on")]
        on_failure: OnFailure,
    },
}

/// What a failed hook means for the start it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnFailure {
    /// The start has failed: the app is `Crashed` with class `HookFailed`.
    #[default]
    Fail,
    /// A warning is logged and the next step runs.
    Continue,
}

/// Whose profile locks: where they are and how they name their owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// `SingletonLock` (a symlink to `HOST-PID`), `SingletonSocket`, `SingletonCookie`.
    Chromium,
    /// The same names; an Electron app exits 0 without a word when it finds them held.
    Electron,
}

/// Limits of steps that name none: file steps on a slow disk, for one.
pub const FILE_STEP_TIMEOUT: Span = Span::secs(30);

fn half_a_minute() -> Span {
    Span::secs(30)
}

fn twenty_seconds() -> Span {
    Span::secs(20)
}

fn go_on() -> OnFailure {
    OnFailure::Continue
}

impl Hook {
    /// The step's name as manifests write it.
    pub fn name(&self) -> &'static str {
        match self {
            Hook::WaitFor { .. } => "WaitFor",
            Hook::Run { .. } => "Run",
            Hook::MakeDir { .. } => "MakeDir",
            Hook::Copy { .. } => "Copy",
            Hook::Stage { .. } => "Stage",
            Hook::Remove { .. } => "Remove",
            Hook::ClearDir { .. } => "ClearDir",
            Hook::ClearLocks { .. } => "ClearLocks",
            Hook::SeedJson { .. } => "SeedJson",
            Hook::Maximize { .. } => "Maximize",
        }
    }

    /// How long the step may take before it counts as failed.
    pub fn timeout(&self) -> Span {
        match self {
            Hook::WaitFor { timeout, .. } | Hook::Run { timeout, .. } => *timeout,
            Hook::Maximize { within, .. } => *within,
            _ => FILE_STEP_TIMEOUT,
        }
    }

    pub fn on_failure(&self) -> OnFailure {
        match self {
            Hook::WaitFor { on_failure, .. }
            | Hook::Run { on_failure, .. }
            | Hook::MakeDir { on_failure, .. }
            | Hook::Copy { on_failure, .. }
            | Hook::Stage { on_failure, .. }
            | Hook::Remove { on_failure, .. }
            | Hook::ClearDir { on_failure, .. }
            | Hook::ClearLocks { on_failure, .. }
            | Hook::SeedJson { on_failure, .. }
            | Hook::Maximize { on_failure, .. } => *on_failure,
        }
    }

    /// Calls `visit` with each interpolated string and its field path below this hook (`argv[0]`).
    pub fn each_string(&mut self, visit: &mut dyn FnMut(&str, &mut String)) {
        match self {
            Hook::WaitFor { what, .. } => what.each_string(&mut |path, text| visit(&format!("what.{path}"), text)),
            Hook::Run { argv, .. } => {
                for (i, word) in argv.iter_mut().enumerate() {
                    visit(&format!("argv[{i}]"), word);
                }
            }
            Hook::MakeDir { path, .. } | Hook::Remove { path, .. } | Hook::ClearDir { path, .. } => visit("path", path),
            Hook::Copy { from, to, .. } | Hook::Stage { from, to, .. } => {
                visit("from", from);
                visit("to", to);
            }
            Hook::ClearLocks { dir, .. } => visit("dir", dir),
            Hook::SeedJson { file, set, default, .. } => {
                visit("file", file);
                for (map, values) in [("set", set), ("default", default)] {
                    for (key, value) in values {
                        if let serde_json::Value::String(text) = value {
                            visit(&format!("{map}.{key}"), text);
                        }
                    }
                }
            }
            Hook::Maximize { class, enabled, .. } => {
                visit("class", class);
                visit("enabled", enabled);
            }
        }
    }
}
