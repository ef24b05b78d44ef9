//! Hooks: the built-in steps around a start or a stop (`prelaunch`, `postlaunch`, `prestop`, `poststop`, `actions`, and
//! `stage` of the workspace).
//! Forms, defaults and checks; performs nothing itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;
use crate::model::manifest::pattern::{Case, Pattern};
use crate::model::manifest::probe::{LIMIT, Target, TargetForm};
use crate::model::manifest::switch::{on, switch};

/// One hook as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Hook", deny_unknown_fields)]
#[expect(missing_docs, reason = "the settings of a step are described in docs/manifest.md; here they are texts")]
pub enum HookForm {
    /// Waits until a probe succeeds.
    WaitFor {
        what: TargetForm,
        #[serde(default)]
        timeout: Option<String>,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Runs a command to its end; exit code 0 is success. Its output goes into the app's log.
    Run {
        argv: Vec<String>,
        /// A missing program is success, not failure.
        #[serde(default)]
        if_present: bool,
        #[serde(default)]
        timeout: Option<String>,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Makes a folder and its parents; an existing one is left as it is.
    MakeDir {
        path: String,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Copies a file, or a folder and its content, overwriting what is there.
    Copy {
        from: String,
        to: String,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Keeps shipped files (`from`) up to date in a folder that people may change (`to`). Unchanged files are updated
    /// or removed; files that people edited or removed stay so.
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
    /// Removes everything in a folder, but not the folder; follows no symlink.
    ClearDir {
        path: String,
        #[serde(default)]
        on_failure: OnFailure,
    },
    /// Removes stale locks.
    ClearLocks {
        /// The browser's profile folder; none for an X display.
        #[serde(default)]
        dir: Option<String>,
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
    /// Maximises each new window whose class matches, once, for the time `within`.
    Maximize {
        /// Regex over the window's WM_CLASS (instance or class), ignoring case.
        class: String,
        #[serde(default)]
        within: Option<String>,
        /// A switch like the app's own; when it is off, the hook does nothing and succeeds.
        #[serde(default = "on", deserialize_with = "switch")]
        enabled: String,
        #[serde(default = "go_on")]
        on_failure: OnFailure,
    },
}

fn go_on() -> OnFailure {
    OnFailure::Continue
}

/// The effect of a failed hook on the start that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnFailure {
    /// The start has failed: the app is `Crashed` with class `HookFailed`.
    #[default]
    Fail,
    /// A warning is logged and the next step runs.
    Continue,
}

/// The kind of lock: where it is and how it names its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// `SingletonLock` (a symlink to `HOST-PID`), `SingletonSocket`, `SingletonCookie` in a profile folder.
    Chromium,
    /// The same names. An Electron app silently exits 0 if the lock is held.
    Electron,
    /// `/tmp/.X1-lock` and the socket of the display that DISPLAY names.
    X11,
}

/// The locks that `ClearLocks` clears.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "a step is its form with compiled values")]
pub enum Locks {
    /// The lock of a browser's profile.
    Profile { dir: PathBuf, browser: BrowserKind },
    /// The lock and the socket of the display that DISPLAY names.
    Display,
}

/// How a browser reports that its profile is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrowserKind {
    /// Exits 21.
    Chromium,
    /// Exits 0.
    Electron,
}

/// One checked hook. Hooks run in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Hook {
    /// What to do.
    pub step: Step,
    /// How long the hook may take before it counts as failed.
    pub timeout: Duration,
    /// The effect of a failure or a timeout.
    pub on_failure: OnFailure,
}

/// What a hook does; [`HookForm`] describes each one. Every path is absolute.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "a step is its form with compiled values")]
pub enum Step {
    WaitFor { what: Target },
    Run { argv: Vec<String>, if_present: bool },
    MakeDir { path: PathBuf },
    Copy { from: PathBuf, to: PathBuf },
    Stage { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    ClearDir { path: PathBuf },
    ClearLocks { locks: Locks },
    SeedJson { file: PathBuf, set: BTreeMap<String, serde_json::Value>, default: BTreeMap<String, serde_json::Value> },
    Maximize { class: Pattern, enabled: bool },
}

/// The default limit, also for file steps, which cannot set one. It leaves time for a slow disk.
const HALF_A_MINUTE: Duration = Duration::from_secs(30);
const MAXIMIZE_WITHIN: Duration = Duration::from_secs(20);

impl HookForm {
    /// Compiles the step: interpolates its texts, and reports paths, patterns and times that cannot be used.
    pub fn check(self, fields: &mut Fields<'_>) -> Hook {
        let step = |step, on_failure| Hook { step, timeout: HALF_A_MINUTE, on_failure };
        match self {
            HookForm::WaitFor { what, timeout, on_failure } => Hook {
                step: Step::WaitFor { what: fields.within("what", |fields| what.check(fields)) },
                timeout: fields.duration("timeout", timeout, HALF_A_MINUTE, LIMIT),
                on_failure,
            },
            HookForm::Run { argv, if_present, timeout, on_failure } => Hook {
                step: Step::Run { argv: fields.command("argv", argv), if_present },
                timeout: fields.duration("timeout", timeout, HALF_A_MINUTE, LIMIT),
                on_failure,
            },
            HookForm::Maximize { class, within, enabled, on_failure } => Hook {
                step: Step::Maximize {
                    class: fields.pattern("class", class, Case::Ignored),
                    enabled: fields.switch("enabled", enabled, "the step runs"),
                },
                timeout: fields.duration("within", within, MAXIMIZE_WITHIN, LIMIT),
                on_failure,
            },
            HookForm::MakeDir { path, on_failure } => {
                step(Step::MakeDir { path: fields.path("path", path) }, on_failure)
            }
            HookForm::Copy { from, to, on_failure } => {
                step(Step::Copy { from: fields.path("from", from), to: fields.path("to", to) }, on_failure)
            }
            HookForm::Stage { from, to, on_failure } => {
                step(Step::Stage { from: fields.path("from", from), to: fields.path("to", to) }, on_failure)
            }
            HookForm::Remove { path, on_failure } => step(Step::Remove { path: fields.path("path", path) }, on_failure),
            HookForm::ClearDir { path, on_failure } => {
                step(Step::ClearDir { path: fields.path("path", path) }, on_failure)
            }
            HookForm::ClearLocks { dir, kind, on_failure } => {
                step(Step::ClearLocks { locks: locks(dir, kind, fields) }, on_failure)
            }
            HookForm::SeedJson { file, set, default, on_failure } => step(
                Step::SeedJson {
                    file: fields.path("file", file),
                    set: json("set", set, fields),
                    default: json("default", default, fields),
                },
                on_failure,
            ),
        }
    }
}

fn locks(dir: Option<String>, kind: LockKind, fields: &mut Fields<'_>) -> Locks {
    let browser = match kind {
        LockKind::Chromium => BrowserKind::Chromium,
        LockKind::Electron => BrowserKind::Electron,
        LockKind::X11 => {
            if dir.is_some() {
                fields.error("dir", "an X display has no profile folder", "leave `dir` out: DISPLAY names the display");
            }
            return Locks::Display;
        }
    };
    if dir.is_none() {
        fields.error("", format!("`ClearLocks` of kind `{kind:?}` has no `dir`"), "name the profile folder");
    }
    Locks::Profile { dir: dir.map(|dir| fields.path("dir", dir)).unwrap_or_default(), browser }
}

/// Interpolates every text in the value, at any depth.
fn json(
    field: &str,
    values: BTreeMap<String, serde_json::Value>,
    fields: &mut Fields<'_>,
) -> BTreeMap<String, serde_json::Value> {
    let filled = |(key, value)| {
        let value = json_value(&format!("{field}.{key}"), value, fields);
        (key, value)
    };
    values.into_iter().map(filled).collect()
}

fn json_value(path: &str, value: serde_json::Value, fields: &mut Fields<'_>) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => fields.text(path, text).into(),
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(i, item)| json_value(&format!("{path}[{i}]"), item, fields)).collect()
        }
        Value::Object(members) => members
            .into_iter()
            .map(|(key, value)| {
                let value = json_value(&format!("{path}.{key}"), value, fields);
                (key, value)
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other,
    }
}

impl Step {
    /// The step's name, as in manifests.
    pub fn name(&self) -> &'static str {
        match self {
            Step::WaitFor { .. } => "WaitFor",
            Step::Run { .. } => "Run",
            Step::MakeDir { .. } => "MakeDir",
            Step::Copy { .. } => "Copy",
            Step::Stage { .. } => "Stage",
            Step::Remove { .. } => "Remove",
            Step::ClearDir { .. } => "ClearDir",
            Step::ClearLocks { .. } => "ClearLocks",
            Step::SeedJson { .. } => "SeedJson",
            Step::Maximize { .. } => "Maximize",
        }
    }
}
