//! Resolve: turns a form into its checked type. Lets each setting check its own fields, and decides what depends on
//! several fields or on the workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::model::app::{App, Hooks, Program};
use crate::model::loading::arguments::{Override, arguments, program};
use crate::model::loading::interpolate::interpolate;
use crate::model::loading::locator::Locator;
use crate::model::loading::problem::Problem;
use crate::model::loading::scope::Scope;
use crate::model::loading::surroundings::{FileKind, Surroundings};
use crate::model::loading::variables;
use crate::model::manifest::after::AfterForm;
use crate::model::manifest::fields::{Fields, Finding, Insert, Whole};
use crate::model::manifest::hook::{Hook, HookForm, Step};
use crate::model::manifest::limits::Limits;
use crate::model::manifest::log::{Log, LogForm};
use crate::model::manifest::restart::RestartPolicy;
use crate::model::manifest::workspace::{Workspace, WorkspaceForm};
use crate::model::manifest::{Manifest, env_files, environment, fixed, umask, user, warning};
use crate::model::spelling::closest;

/// The app, as complete as possible, and all its problems.
pub fn app(
    name: &str,
    (mut manifest, whole): (Manifest, Whole),
    workspace: &Workspace,
    locator: &Locator<'_>,
    around: &Surroundings<'_>,
) -> (App, Vec<Problem>) {
    let outer = |name: &str| workspace.vars.get(name).cloned().or_else(|| built_in_or_env(name, locator, around));
    let overridden = Override::of(manifest.args_from.as_ref(), around);
    let fixed = overridden.as_ref().map(|words| words.vars(&manifest.args, &manifest.args_kept)).unwrap_or_default();
    let vars = std::mem::take(&mut manifest.vars);
    let own = home(&manifest, &outer, around);
    let mut scope = Scope::new((vars, fixed), &outer, own.as_deref().or(around.home), (locator, whole));
    let mut fill_in = |path: &str, text, insert| scope.fill_in(path, text, insert);
    let mut fields = Fields::new(&mut fill_in, whole);
    let app = checked((name, locator.folder()), (manifest, overridden), workspace, &mut fields, around);
    let mut problems = placed(fields.into_findings(), locator);
    scope.conclude(&mut problems);
    (app, problems)
}

/// Takes every field of a manifest apart: a forgotten field does not compile. `folder` is the manifest's.
fn checked(
    (name, folder): (&str, &str),
    (manifest, overridden): (Manifest, Option<Override>),
    workspace: &Workspace,
    fields: &mut Fields<'_>,
    around: &Surroundings<'_>,
) -> App {
    let Manifest {
        about,
        enabled,
        vars: _, // used by the scope
        command,
        args,
        args_from: _, // used to read the override
        args_kept,
        args_fixed,
        args_last,
        env,
        env_files,
        env_secret,
        cwd,
        user,
        group,
        umask,
        rlimits,
        pty,
        matches,
        after,
        prelaunch,
        ready,
        health,
        postlaunch,
        prestop,
        poststop,
        restart,
        on_close,
        backoff,
        on_give_up,
        stop,
        log,
        limits,
        actions,
        icon,
        warnings,
    } = manifest;
    let enabled = fields.switch("enabled", enabled, "the app stays enabled");
    let last = args_last.len();
    let mut argv = vec![program(command, enabled, fields, around)];
    let fixed = fixed::check(args_fixed, fields);
    argv.extend(arguments(args, (&args_kept, &fixed), overridden, fields));
    argv.extend(fields.texts("args_last", args_last));
    let Limits { nice, oom_score_adj, max_rss } = fields.within("limits", |fields| limits.check(fields));
    warn_of_unhidden(&env_secret, &workspace.env_hidden, fields);
    let env_hidden = workspace.env_hidden.iter().filter(|name| !env_secret.contains(name)).cloned().collect();
    let env_files = env_files::check(env_files, folder, fields);
    let (of_files, env_files) = variables::of_files(env_files, &env_hidden, fields, around);
    let own = environment::check(env, fields);
    let from_files = of_files.keys().filter(|name| !own.contains_key(*name)).cloned().collect();
    let mut env = workspace.env.clone();
    env.extend(of_files.into_iter().chain(own));
    let matcher = matches.map(|form| fields.within("matches", |fields| form.check(&argv, fields)));
    let (user, group) = user::check(user, group, fields);
    warn_of_user(user.as_deref(), group.as_deref(), fields, around);
    let program = Program {
        argv,
        last,
        env,
        from_files,
        env_hidden,
        cwd: cwd.map(|folder| fields.path("cwd", folder)),
        nice,
        oom_score_adj,
        user,
        group,
        umask: umask.and_then(|umask| umask::check(umask, fields)),
        rlimits: fields.within("rlimits", |fields| rlimits.check(fields)),
        pty,
    };
    let backoff = fields.within("backoff", |fields| backoff.check(fields));
    let hooks = Hooks {
        prelaunch: hooks("prelaunch", prelaunch, fields),
        postlaunch: hooks("postlaunch", postlaunch, fields),
        prestop: hooks("prestop", prestop, fields),
        poststop: hooks("poststop", poststop, fields),
        actions: actions
            .into_iter()
            .map(|(name, list)| {
                let list = hooks(&format!("actions.{name}"), list, fields);
                (name, list)
            })
            .collect(),
    };
    warn_of_missing(program.cwd.as_deref(), &hooks.prelaunch, fields, around);
    App {
        name: name.into(),
        about: fields.text("about", about),
        enabled,
        program,
        matcher,
        after: after.into_iter().map(AfterForm::check).collect(),
        ready: ready.map(|form| fields.within("ready", |fields| form.check(fields))),
        health: health.map(|form| fields.within("health", |fields| form.check(fields))),
        policy: RestartPolicy { restart, on_close, backoff, on_give_up },
        stop: fields.within("stop", |fields| stop.check(fields)),
        log: fields.within("log", |fields| checked_log(log, fields, around)),
        max_rss,
        icon: icon.map(|icon| fields.within("icon", |fields| icon.check(fields, &hooks.actions))),
        warnings: warning::check(warnings, fields),
        env_files,
        hooks,
    }
}

/// The home folder of the user that the app runs as: its `~`.
fn home(manifest: &Manifest, outer: &dyn Fn(&str) -> Option<String>, around: &Surroundings<'_>) -> Option<String> {
    let filled = |text: &String| interpolate(text, None, Insert::AsIs, &mut |name| Ok(outer(name))).ok();
    let user = manifest.user.as_ref().and_then(filled)?;
    (around.run_as)(&user, manifest.group.as_ref().and_then(filled).as_deref()).ok().map(|run_as| run_as.home)
}

/// A manifest may be checked on another machine than the one that it is for, so this is no error.
fn warn_of_user(user: Option<&str>, group: Option<&str>, fields: &mut Fields<'_>, around: &Surroundings<'_>) {
    let Some(user) = user.filter(|user| !user.is_empty()) else { return };
    match (around.run_as)(user, group) {
        Err(why) => fields.warning("user", why, "until then it cannot be started"),
        Ok(run_as) if around.uid != 0 && run_as.uid != around.uid => {
            let message =
                format!("only root can start an app as another user, and kasm-void runs as uid {}", around.uid);
            fields.warning("user", message, "run kasm-void as root, or leave `user` out");
        }
        Ok(_) => {}
    }
}

/// A folder that a hook creates need not exist yet.
fn warn_of_missing(cwd: Option<&Path>, prelaunch: &[Hook], fields: &mut Fields<'_>, around: &Surroundings<'_>) {
    let makes = |folder: &Path| {
        prelaunch.iter().any(|hook| matches!(&hook.step, Step::MakeDir { path } if path.starts_with(folder)))
    };
    let Some(folder) = cwd.filter(|folder| folder.is_absolute() && !makes(folder)) else { return };
    let shown = folder.display();
    match (around.look)(&folder.to_string_lossy()) {
        FileKind::Folder => {}
        FileKind::Nothing => {
            let help = format!("create it, or add MakeDir(path: \"{shown}\") to `prelaunch`");
            fields.warning("cwd", format!("the folder `{shown}` does not exist"), help);
        }
        _ => fields.error("cwd", format!("`{shown}` is not a folder"), "name the folder to start in"),
    }
}

/// Only a regular file can be rotated.
fn checked_log(form: LogForm, fields: &mut Fields<'_>, around: &Surroundings<'_>) -> Log {
    let log = form.check(fields);
    let file = log.file.as_ref().map(|file| file.to_string_lossy());
    match file.map(|file| ((around.look)(&file), file)) {
        Some((FileKind::Folder, file)) => {
            fields.error("file", format!("`{file}` is a folder"), "name a file in it");
        }
        Some((FileKind::Special, file)) => {
            let help = "name a file; `forward: true` also writes each line to the supervisor's stdout";
            fields.error("file", format!("`{file}` is not a regular file and cannot be rotated"), help);
        }
        _ => {}
    }
    log
}

/// Listing a variable that is not hidden has no effect, so it is probably a mistake.
fn warn_of_unhidden(env_secret: &[String], hidden: &BTreeSet<String>, fields: &mut Fields<'_>) {
    for (i, name) in env_secret.iter().enumerate().filter(|(_, name)| !hidden.contains(*name)) {
        let help = match closest(name, hidden.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "add it to `env_hidden` in workspace.ron, or take it out here".into(),
        };
        fields.warning(&format!("env_secret[{i}]"), format!("`{name}` is not hidden from apps"), help);
    }
}

fn hooks(list: &str, forms: Vec<HookForm>, fields: &mut Fields<'_>) -> Vec<Hook> {
    fields.each(list, forms, |fields, hook| hook.check(fields))
}

/// The session's settings, as complete as possible, and all their problems.
pub fn workspace(
    (mut form, whole): (WorkspaceForm, Whole),
    locator: &Locator<'_>,
    around: &Surroundings<'_>,
) -> (Workspace, Vec<Problem>) {
    let outer = |name: &str| built_in_or_env(name, locator, around);
    let mut scope =
        Scope::new((std::mem::take(&mut form.vars), BTreeMap::new()), &outer, around.home, (locator, whole));
    let mut fill_in = |path: &str, text, insert| scope.fill_in(path, text, insert);
    let mut fields = Fields::new(&mut fill_in, whole);
    let workspace = form.check(&mut fields);
    let mut problems = placed(fields.into_findings(), locator);
    let vars = scope.conclude(&mut problems);
    (Workspace { vars, ..workspace }, problems)
}

/// The variable that every manifest has: the folder of its file.
const HERE: &str = "here";

fn built_in_or_env(name: &str, locator: &Locator<'_>, around: &Surroundings<'_>) -> Option<String> {
    if name == HERE { Some(locator.folder().into()) } else { around.env.get(name).cloned() }
}

fn placed(findings: Vec<Finding>, locator: &Locator<'_>) -> Vec<Problem> {
    let placed = |Finding { path, message, help, warning }| {
        let problem = locator.problem(&path, message).help(help);
        if warning { problem.warning() } else { problem }
    };
    findings.into_iter().map(placed).collect()
}
