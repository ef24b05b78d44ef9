//! Plan: compares the known apps with the wanted manifests. Gives the difference as steps for the supervisor and as
//! lines for people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::app::{App, Hooks, Program};
use crate::model::loading::check::Checked;
use crate::model::manifest::matches::{FolderFlag, Matcher};
use crate::model::manifest::pattern::Pattern;
use crate::model::manifest::restart::RestartPolicy;
use crate::model::protocol::{PlanReport, PlanStep};

/// The difference between two versions of an app: the strongest effect, and the names of the fields that have it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// No setting differs.
    None,
    /// Applies to the running app.
    Live(Vec<&'static str>),
    /// Applies at the next start.
    NextStart(Vec<&'static str>),
    /// Stops and starts the app.
    Restart(Vec<&'static str>),
}

/// One step from what runs to what the manifests say.
#[derive(Debug, Clone, PartialEq)]
pub enum PlannedChange {
    /// A new manifest.
    Appear(Arc<App>),
    /// A new version of a known manifest.
    Change(Arc<App>, Change),
    /// A known manifest that was deleted.
    Vanish(String),
}

/// How a changed field takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TakesEffect {
    /// At once, without a restart.
    Live,
    /// At the next start.
    NextStart,
    /// By a restart.
    Restart,
}

/// The settings that differ, by their name in the manifest. Destructures every field of an app: a forgotten one does
/// not compile.
fn differences(old: &App, new: &App) -> Vec<(&'static str, TakesEffect)> {
    let App {
        name: _,
        about,
        enabled,
        program,
        matcher,
        after,
        hooks: Hooks { prelaunch, postlaunch, prestop, poststop, actions },
        ready,
        health,
        policy: RestartPolicy { restart, on_close, backoff, on_give_up },
        stop,
        log,
        max_rss,
        icon,
        warnings,
        env_files: _, // what differs for the app is in its variables
    } = old;
    let Program {
        argv,
        last,
        env: _,
        from_files: _,
        env_hidden,
        cwd,
        nice,
        oom_score_adj,
        user,
        group,
        umask,
        rlimits,
        pty,
    } = program;
    let (own, of_files) = changed_variables(program, &new.program);
    let program = &new.program;
    let is_limited = (program.nice, program.oom_score_adj);
    [
        ("about", TakesEffect::Live, *about != new.about),
        ("enabled", TakesEffect::Live, *enabled != new.enabled),
        ("command", TakesEffect::Restart, argv.first() != program.argv.first()),
        ("args", TakesEffect::Restart, argv.get(1..) != program.argv.get(1..)),
        ("env", TakesEffect::Restart, own || *env_hidden != program.env_hidden),
        ("env_files", TakesEffect::Restart, of_files),
        ("cwd", TakesEffect::Restart, *cwd != program.cwd),
        ("limits", TakesEffect::Restart, (*nice, *oom_score_adj) != is_limited),
        ("user", TakesEffect::Restart, *user != program.user),
        ("group", TakesEffect::Restart, *group != program.group),
        ("umask", TakesEffect::Restart, *umask != program.umask),
        ("rlimits", TakesEffect::Restart, *rlimits != program.rlimits),
        ("pty", TakesEffect::Restart, *pty != program.pty),
        ("matches", TakesEffect::Restart, patterns(matcher.as_ref()) != patterns(new.matcher.as_ref())),
        ("matches.successor", TakesEffect::Live, successor(matcher.as_ref()) != successor(new.matcher.as_ref())),
        ("after", TakesEffect::Live, *after != new.after),
        ("prelaunch", TakesEffect::NextStart, *prelaunch != new.hooks.prelaunch),
        ("ready", TakesEffect::NextStart, *ready != new.ready),
        ("health", TakesEffect::Live, *health != new.health),
        ("postlaunch", TakesEffect::NextStart, *postlaunch != new.hooks.postlaunch),
        ("prestop", TakesEffect::Live, *prestop != new.hooks.prestop),
        ("poststop", TakesEffect::Live, *poststop != new.hooks.poststop),
        ("restart", TakesEffect::Live, *restart != new.policy.restart),
        ("on_close", TakesEffect::Live, *on_close != new.policy.on_close),
        ("backoff", TakesEffect::Live, *backoff != new.policy.backoff),
        ("on_give_up", TakesEffect::Live, *on_give_up != new.policy.on_give_up),
        ("stop", TakesEffect::Live, *stop != new.stop),
        ("log", TakesEffect::Live, *log != new.log),
        ("limits.max_rss", TakesEffect::Live, *max_rss != new.max_rss),
        ("actions", TakesEffect::Live, *actions != new.hooks.actions),
        ("icon", TakesEffect::Live, *icon != new.icon),
        ("warnings", TakesEffect::Live, *warnings != new.warnings),
        ("args_last", TakesEffect::Live, *last != program.last),
    ]
    .into_iter()
    .filter(|(.., differs)| *differs)
    .map(|(name, effect, _)| (name, effect))
    .collect()
}

/// Whether variables differ that come from the manifests, and whether some differ that come from env files.
fn changed_variables(old: &Program, new: &Program) -> (bool, bool) {
    let names = old.env.keys().chain(new.env.keys());
    let changed: Vec<&String> = names.filter(|name| old.env.get(*name) != new.env.get(*name)).collect();
    let of_file = |name: &&String| old.from_files.contains(*name) || new.from_files.contains(*name);
    (changed.iter().any(|name| !of_file(name)), changed.iter().any(of_file))
}

/// The parts of a matcher that decide which process is the app.
fn patterns(matcher: Option<&Matcher>) -> Option<(&Pattern, Option<&Pattern>, Option<&FolderFlag>)> {
    matcher.map(|Matcher { cmdline, exclude, same_folder, successor: _ }| {
        (cmdline, exclude.as_ref(), same_folder.as_ref())
    })
}

fn successor(matcher: Option<&Matcher>) -> Option<Duration> {
    matcher.map(|matcher| matcher.successor)
}

/// The difference between two versions. Comments, order and formatting do not count.
pub fn change(old: &App, new: &App) -> Change {
    let differing = differences(old, new);
    let Some(heaviest) = differing.iter().map(|(_, effect)| *effect).max() else { return Change::None };
    let names = differing.iter().filter(|(_, effect)| *effect == heaviest).map(|(name, _)| *name).collect();
    match heaviest {
        TakesEffect::Live => Change::Live(names),
        TakesEffect::NextStart => Change::NextStart(names),
        TakesEffect::Restart => Change::Restart(names),
    }
}

/// A hash of everything an app is started with. If the hash of a new version differs, the running app is restarted.
/// The hash of a running app is saved in the state folder. The next supervisor compares it, and that may be another
/// version of this program. So the hashed text is defined here, with a line for each value that is not the default: a
/// new setting does not change the hash until it is used.
pub fn program(app: &App) -> u64 {
    let Program {
        argv,
        last: _,
        env,
        from_files: _,
        env_hidden,
        cwd,
        nice,
        oom_score_adj,
        user,
        group,
        umask,
        rlimits,
        pty,
    } = &app.program;
    let mut hash = Fnv::default();
    argv.iter().for_each(|word| hash.line("argv", word));
    env.iter().for_each(|(name, value)| hash.line("env", &format!("{name}={value}")));
    env_hidden.iter().for_each(|name| hash.line("env_hidden", name));
    cwd.iter().for_each(|folder| hash.line("cwd", &folder.to_string_lossy()));
    nice.iter().for_each(|nice| hash.line("nice", &nice.to_string()));
    oom_score_adj.iter().for_each(|score| hash.line("oom_score_adj", &score.to_string()));
    user.iter().for_each(|user| hash.line("user", user));
    group.iter().for_each(|group| hash.line("group", group));
    umask.iter().for_each(|umask| hash.line("umask", &format!("{umask:o}")));
    rlimits.iter().for_each(|(resource, limit)| hash.line(resource.name(), &limit.to_string()));
    if *pty {
        hash.line("pty", "true");
    }
    if let Some(Matcher { cmdline, exclude, same_folder, successor: _ }) = &app.matcher {
        hash.line("matches", cmdline.as_str());
        exclude.iter().for_each(|exclude| hash.line("exclude", exclude.as_str()));
        same_folder.iter().for_each(|same| hash.line("same_folder", &same.flag)); // the folder is in `argv`
    }
    hash.0
}

/// FNV-1a over lines. Each line has its length, so that a value cannot look like another line.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn line(&mut self, name: &str, value: &str) {
        for byte in format!("{name} {} {value}\n", value.len()).bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// The steps from the known apps to the wanted ones. Deleted apps come first; each group is in order of name. An app
/// whose manifest is broken stays as it is.
pub fn plan(known: &BTreeMap<String, Arc<App>>, wanted: &Checked) -> Vec<PlannedChange> {
    let stays = |name: &String| wanted.apps.contains_key(name) || wanted.stale.contains_key(name);
    let gone = known.keys().filter(|name| !stays(name)).map(|name| PlannedChange::Vanish(name.clone()));
    let others = wanted.apps.values().filter_map(|app| match known.get(&app.name) {
        None => Some(PlannedChange::Appear(app.clone())),
        Some(old) => Some(change(old, app))
            .filter(|change| *change != Change::None)
            .map(|change| PlannedChange::Change(app.clone(), change)),
    });
    gone.chain(others).collect()
}

impl Change {
    /// Whether an app that has given up should be tried again.
    pub fn is_worth_another_try(&self) -> bool {
        /// The live fields that decide about starts.
        const POLICY: [&str; 4] = ["restart", "backoff", "health", "limits.max_rss"];
        match self {
            Change::None => false,
            Change::Live(fields) => fields.iter().any(|field| POLICY.contains(field)),
            Change::NextStart(_) | Change::Restart(_) => true,
        }
    }
}

/// The steps of [`plan`] in words, and the problems that block others.
pub fn report(known: &BTreeMap<String, Arc<App>>, wanted: &Checked, steps: &[PlannedChange]) -> PlanReport {
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

fn line(known: &BTreeMap<String, Arc<App>>, step: &PlannedChange) -> PlanStep {
    let (sign, app, text) = match step {
        PlannedChange::Appear(app) if app.enabled => ('+', &app.name, "start".to_string()),
        PlannedChange::Appear(app) => ('+', &app.name, "known, disabled".to_string()),
        PlannedChange::Vanish(name) => ('-', name, "stop".to_string()),
        PlannedChange::Change(app, _) if !app.enabled && known[&app.name].enabled => {
            ('-', &app.name, "stop (disabled)".into())
        }
        PlannedChange::Change(app, _) if app.enabled && !known[&app.name].enabled => {
            ('+', &app.name, "start (enabled)".into())
        }
        PlannedChange::Change(app, Change::Restart(fields)) => {
            ('~', &app.name, format!("restart ({} changed)", fields.join(", ")))
        }
        PlannedChange::Change(app, Change::NextStart(fields)) => {
            ('·', &app.name, format!("at its next start ({})", fields.join(", ")))
        }
        PlannedChange::Change(app, Change::Live(fields)) => ('·', &app.name, format!("live ({})", fields.join(", "))),
        PlannedChange::Change(app, Change::None) => ('=', &app.name, "unchanged".into()),
    };
    PlanStep { sign, app: app.clone(), text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::manifest::pattern::{Case, Pattern};
    use crate::model::manifest::rlimits::{Resource, Rlimit};

    fn browser() -> App {
        let pattern = |text| Pattern::new(text, Case::Sensitive).unwrap();
        let mut app = App::new("browser", &["/usr/bin/web", "--profile", "a b"]);
        app.program.env = [("LANG".to_owned(), "C".to_owned())].into();
        app.program.env_hidden = ["TOKEN".to_owned()].into();
        app.program.cwd = Some("/tmp".into());
        app.program.nice = Some(5);
        app.program.oom_score_adj = Some(300);
        app.matcher = Some(Matcher {
            cmdline: pattern("^/usr/bin/web"),
            exclude: Some(pattern("--type=")),
            same_folder: None,
            successor: Matcher::SUCCESSOR,
        });
        app
    }

    /// These hashes are saved in the state folders of running sessions. A supervisor that computes different ones would
    /// restart all their apps when it takes over.
    #[test]
    fn every_version_of_this_program_computes_the_same_hash() {
        assert_eq!(program(&App::new("web", &["/usr/bin/web"])), 7_654_045_883_016_454_986);
        assert_eq!(program(&browser()), 7_594_781_475_161_586_539);
    }

    #[test]
    fn whatever_restarts_an_app_changes_its_hash_and_nothing_else_does() {
        type Edit = fn(&mut App);
        let edits: [Edit; 18] = [
            |app| app.program.argv[0].push('2'),
            |app| app.program.argv = vec!["/usr/bin/web".into(), "--profile".into(), "a".into(), "b".into()],
            |app| app.program.env.clear(),
            |app| app.program.env_hidden.clear(),
            |app| app.program.cwd = None,
            |app| app.program.nice = None,
            |app| app.program.oom_score_adj = Some(301),
            |app| app.program.user = Some("web".into()),
            |app| app.program.group = Some("video".into()),
            |app| app.program.umask = Some(0),
            |app| app.program.pty = true,
            |app| app.program.rlimits = [(Resource::Core, Rlimit { soft: Some(0), hard: None })].into(),
            |app| app.matcher = None,
            |app| app.matcher.as_mut().unwrap().exclude = None,
            |app| app.about.push('x'),
            |app| app.max_rss = Some(1 << 30),
            |app| app.stop.signal = 2,
            |app| app.log.keep = 1,
        ];
        let before = browser();
        for (i, edit) in edits.iter().enumerate() {
            let mut after = before.clone();
            edit(&mut after);
            let restarts = matches!(change(&before, &after), Change::Restart(_));
            assert_eq!(program(&before) != program(&after), restarts, "edit {i}: {:?}", change(&before, &after));
        }
    }

    #[test]
    fn a_changed_variable_is_told_by_where_it_comes_from() {
        let with = |value: &str, from_files: &[&str]| {
            let mut app = browser();
            app.program.env.insert("KEY".into(), value.into());
            app.program.from_files = from_files.iter().map(ToString::to_string).collect();
            app
        };
        let before = with("1", &["KEY"]);
        assert_eq!(change(&before, &with("2", &["KEY"])), Change::Restart(vec!["env_files"]));
        assert_eq!(change(&before, &browser()), Change::Restart(vec!["env_files"]));
        assert_eq!(change(&with("1", &[]), &with("2", &[])), Change::Restart(vec!["env"]));
        assert_eq!(change(&before, &with("1", &[])), Change::None, "the app gets the same from another place");
    }
}
