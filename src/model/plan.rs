//! Plan: what differs between the apps that are known and the manifests that are wanted, as steps that the
//! supervisor takes and as lines that people read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::app::App;
use crate::model::loading::check::Checked;
use crate::model::protocol::{PlanReport, PlanStep};

/// What differs between two versions of an app, by the heaviest field; the fields' names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    None,
    /// Takes effect on the running app.
    Live(Vec<&'static str>),
    /// Takes effect at its next start.
    NextStart(Vec<&'static str>),
    /// Stops and starts it.
    Restart(Vec<&'static str>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A manifest nobody knew.
    Appear(Arc<App>),
    /// Another version of a known one.
    Change(Arc<App>, Change),
    /// A known one that is gone.
    Vanish(String),
}

/// How a changed field takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    Live,
    NextStart,
    Restart,
}

type Differs = fn(&App, &App) -> bool;

/// Every field of a manifest, how a change of it takes effect, and whether it has changed.
pub const FIELDS: &[(&str, Effect, Differs)] = &[
    ("about", Effect::Live, |a, b| a.manifest.about != b.manifest.about),
    ("enabled", Effect::Live, |a, b| a.enabled != b.enabled),
    ("command", Effect::Restart, |a, b| a.argv.first() != b.argv.first()),
    ("args", Effect::Restart, |a, b| a.argv.get(1..) != b.argv.get(1..)),
    ("env", Effect::Restart, |a, b| a.env != b.env || a.env_hidden != b.env_hidden),
    ("cwd", Effect::Restart, |a, b| a.manifest.cwd != b.manifest.cwd),
    ("matches", Effect::Restart, |a, b| a.manifest.matches != b.manifest.matches),
    ("after", Effect::Live, |a, b| a.manifest.after != b.manifest.after),
    ("prelaunch", Effect::NextStart, |a, b| a.manifest.prelaunch != b.manifest.prelaunch),
    ("ready", Effect::NextStart, |a, b| a.manifest.ready != b.manifest.ready),
    ("health", Effect::Live, |a, b| a.manifest.health != b.manifest.health),
    ("postlaunch", Effect::NextStart, |a, b| a.manifest.postlaunch != b.manifest.postlaunch),
    ("restart", Effect::Live, |a, b| a.manifest.restart != b.manifest.restart),
    ("on_close", Effect::Live, |a, b| a.manifest.on_close != b.manifest.on_close),
    ("backoff", Effect::Live, |a, b| a.manifest.backoff != b.manifest.backoff),
    ("on_give_up", Effect::Live, |a, b| a.manifest.on_give_up != b.manifest.on_give_up),
    ("stop", Effect::Live, |a, b| a.manifest.stop != b.manifest.stop),
    ("log", Effect::Live, |a, b| a.manifest.log != b.manifest.log),
    ("limits", Effect::Restart, |a, b| spawn_limits(a) != spawn_limits(b)),
    ("limits.max_rss", Effect::Live, |a, b| a.manifest.limits.max_rss != b.manifest.limits.max_rss),
    ("actions", Effect::Live, |a, b| a.manifest.actions != b.manifest.actions),
    ("icon", Effect::Live, |a, b| a.manifest.icon != b.manifest.icon),
];

fn spawn_limits(app: &App) -> (Option<i32>, Option<i32>) {
    (app.manifest.limits.nice, app.manifest.limits.oom_score_adj)
}

/// Stands for all that an app is started with: of two versions that differ in it one is restarted for the
/// other. The same in every version of this program, for it outlives the one that asked (FNV-1a).
pub fn program(app: &App) -> u64 {
    let manifest = &app.manifest;
    let parts = (&app.argv, &app.env, &app.env_hidden, &manifest.cwd, &manifest.matches, spawn_limits(app));
    let text = format!("{parts:?}");
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// What differs. A change of comments, order or formatting is none.
pub fn change(old: &App, new: &App) -> Change {
    let differing: Vec<_> = FIELDS.iter().filter(|(_, _, differs)| differs(old, new)).collect();
    let Some(heaviest) = differing.iter().map(|(_, effect, _)| *effect).max() else { return Change::None };
    let names = differing.iter().filter(|(_, effect, _)| *effect == heaviest).map(|(name, ..)| *name).collect();
    match heaviest {
        Effect::Live => Change::Live(names),
        Effect::NextStart => Change::NextStart(names),
        Effect::Restart => Change::Restart(names),
    }
}

/// From the apps that are known to those that are wanted, in order of name; those that go, first. An app
/// whose manifest is broken stays as it is.
pub fn plan(known: &BTreeMap<String, Arc<App>>, wanted: &Checked) -> Vec<Step> {
    let stays = |name: &String| wanted.apps.contains_key(name) || wanted.stale.contains_key(name);
    let gone = known.keys().filter(|name| !stays(name)).map(|name| Step::Vanish(name.clone()));
    let others = wanted.apps.values().filter_map(|app| match known.get(&app.name) {
        None => Some(Step::Appear(app.clone())),
        Some(old) => Some(change(old, app))
            .filter(|change| *change != Change::None)
            .map(|change| Step::Change(app.clone(), change)),
    });
    gone.chain(others).collect()
}

/// The steps in words, and the problems that keep others from being taken.
pub fn report(known: &BTreeMap<String, Arc<App>>, wanted: &Checked) -> PlanReport {
    let steps = plan(known, wanted);
    let mut lines: Vec<PlanStep> = steps.iter().map(|step| line(known, step)).collect();
    lines.extend(wanted.stale.iter().map(|(app, problem)| {
        let kept = if wanted.apps.contains_key(app) { "its last good version stays" } else { "not applied" };
        PlanStep { sign: '!', app: app.clone(), text: format!("broken, {kept}: {problem}") }
    }));
    lines.sort_by(|a, b| a.app.cmp(&b.app));
    let touched = |name: &String| lines.iter().any(|step| step.app == *name);
    let unchanged = wanted.apps.keys().filter(|name| known.contains_key(*name) && !touched(name)).count();
    PlanReport { steps: lines, unchanged, problems: wanted.problems.iter().map(ToString::to_string).collect() }
}

fn line(known: &BTreeMap<String, Arc<App>>, step: &Step) -> PlanStep {
    let (sign, app, text) = match step {
        Step::Appear(app) if app.enabled => ('+', &app.name, "start".to_string()),
        Step::Appear(app) => ('+', &app.name, "known, disabled".to_string()),
        Step::Vanish(name) => ('-', name, "stop".to_string()),
        Step::Change(app, _) if !app.enabled && known[&app.name].enabled => ('-', &app.name, "stop (disabled)".into()),
        Step::Change(app, _) if app.enabled && !known[&app.name].enabled => ('+', &app.name, "start (enabled)".into()),
        Step::Change(app, Change::Restart(fields)) => {
            ('~', &app.name, format!("restart ({} changed)", fields.join(", ")))
        }
        Step::Change(app, Change::NextStart(fields)) => {
            ('·', &app.name, format!("at its next start ({})", fields.join(", ")))
        }
        Step::Change(app, Change::Live(fields)) => ('·', &app.name, format!("live ({})", fields.join(", "))),
        Step::Change(app, Change::None) => ('=', &app.name, "unchanged".into()),
    };
    PlanStep { sign, app: app.clone(), text }
}
