//! Resolve: fills in one manifest's variables, finds its program, puts its arguments together and checks
//! every value that has a range.

use std::collections::BTreeMap;

use regex_lite::Regex;

use crate::model::app::{App, Matcher};
use crate::model::loading::check::Surroundings;
use crate::model::loading::place::Place;
use crate::model::loading::problem::{Problem, closest};
use crate::model::loading::scope::Scope;
use crate::model::manifest::hook::Hook;
use crate::model::manifest::probe::Target;
use crate::model::manifest::quantity::Span;
use crate::model::manifest::switch;
use crate::model::manifest::{Manifest, Workspace};
use crate::model::signal::signal_number;

/// Smaller log files would be rotated more often than they are read.
const LEAST_LOG: u64 = 4096;

/// The app, as far as it could be made, and all that is wrong with it.
pub fn app(
    name: &str,
    mut manifest: Manifest,
    workspace: &Workspace,
    place: &Place<'_>,
    around: &Surroundings<'_>,
) -> (App, Vec<Problem>) {
    let outer = |name: &str| workspace.vars.get(name).or_else(|| around.env.get(name)).cloned();
    let mut scope = Scope::new(std::mem::take(&mut manifest.vars), &outer, around.home, place);
    manifest.each_string(&mut |path, text| scope.fill(path, text));
    let mut problems = Vec::new();
    let enabled = is_on(&manifest.enabled, ("enabled", "the app stays enabled"), place, &mut problems);
    let argv = argv(&manifest, enabled, place, around, &mut problems);
    let matcher = matcher(&manifest, place, &mut problems);
    let stop_signal = signal_number(&manifest.stop.signal)
        .map_err(|message| problems.push(place.problem("stop.signal", message)))
        .unwrap_or(15);
    check_values(&manifest, place, &mut problems);
    check_environment(&manifest.env, place, &mut problems);
    let mut env = workspace.env.clone();
    env.extend(manifest.env.clone());
    let env_hidden = workspace.env_hidden.iter().filter(|name| !manifest.env_secret.contains(name)).cloned().collect();
    manifest.vars = scope.conclude(&mut problems);
    let app = App { name: name.into(), manifest, enabled, argv, env, env_hidden, stop_signal, matcher };
    (app, problems)
}

pub fn workspace(
    mut workspace: Workspace,
    place: &Place<'_>,
    around: &Surroundings<'_>,
) -> Result<Workspace, Vec<Problem>> {
    let outer = |name: &str| around.env.get(name).cloned();
    let mut scope = Scope::new(std::mem::take(&mut workspace.vars), &outer, around.home, place);
    workspace.each_string(&mut |path, text| scope.fill(path, text));
    let mut problems = Vec::new();
    check_hooks("stage", &workspace.stage, place, &mut problems);
    check_environment(&workspace.env, place, &mut problems);
    if switch::read(&workspace.autostart).is_none() {
        problems.push(place.problem("autostart", not_a_switch(&workspace.autostart)).help(switch::HELP));
    }
    if let Some(address) = workspace.metrics.as_ref().filter(|address| !address.is_empty() && !is_address(address)) {
        problems
            .push(place.problem("metrics", format!("`{address}` is not an address")).help("write \"127.0.0.1:9102\""));
    }
    workspace.vars = scope.conclude(&mut problems);
    if problems.iter().any(Problem::is_error) { Err(problems) } else { Ok(workspace) }
}

fn not_a_switch(text: &str) -> String {
    format!("`{text}` is neither on nor off")
}

/// Somebody who mistypes a switch wants the app rather than none.
fn is_on(text: &str, (path, then): (&str, &str), place: &Place<'_>, problems: &mut Vec<Problem>) -> bool {
    switch::read(text).unwrap_or_else(|| {
        let message = format!("{}; {then}", not_a_switch(text));
        problems.push(place.problem(path, message).help(switch::HELP).warning());
        true
    })
}

fn argv(
    manifest: &Manifest,
    enabled: bool,
    place: &Place<'_>,
    around: &Surroundings<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let mut argv = vec![program(&manifest.command, enabled, place, around, problems)];
    argv.extend(arguments(manifest, place, around, problems));
    argv.extend(manifest.args_last.iter().cloned());
    argv
}

/// The program as an absolute path.
fn program(
    command: &str,
    enabled: bool,
    place: &Place<'_>,
    around: &Surroundings<'_>,
    problems: &mut Vec<Problem>,
) -> String {
    if command.is_empty() {
        problems.push(place.problem("command", "the command is empty").help("name a program"));
    } else if command.starts_with('/') {
        if enabled && !(around.executable)(command) {
            let message = format!("`{command}` is not there, or may not be executed");
            let help = "it is tried all the same: a hook may put it there";
            problems.push(place.problem("command", message).help(help).warning());
        }
    } else if command.contains('/') {
        let message = format!("`{command}` is relative to no folder");
        problems.push(place.problem("command", message).help("write an absolute path, or a name on PATH"));
    } else {
        let path = around.env.get("PATH").map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
        let folders = path.split(':').filter(|folder| folder.starts_with('/'));
        let found = folders.map(|folder| format!("{folder}/{command}")).find(|file| (around.executable)(file));
        if let Some(file) = found {
            return file;
        }
        if enabled {
            let help = format!("install it, or write its absolute path; looked in {path}");
            problems.push(place.problem("command", format!("no program `{command}` on PATH")).help(help));
        }
    }
    command.into()
}

/// `args`, or what overrides them with the flags that must stay.
fn arguments(
    manifest: &Manifest,
    place: &Place<'_>,
    around: &Surroundings<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let given = manifest.args_from.as_ref().and_then(|name| Some((name, around.env.get(name)?)));
    let Some((name, text)) = given.filter(|(_, text)| !text.trim().is_empty()) else { return manifest.args.clone() };
    let Some(mut words) = shlex::split(text) else {
        let message = format!("the words of `{name}` cannot be told apart: a quote is not closed");
        problems.push(place.problem("args_from", message).help("`args` is used as it is").warning());
        return manifest.args.clone();
    };
    let mut added = Vec::new();
    for flag in &manifest.args_kept {
        if !words.iter().any(|word| is_flag(word, flag)) {
            let own = kept(&manifest.args, flag);
            if !own.is_empty() {
                added.push(flag.as_str());
            }
            words.extend(own);
        }
    }
    if !added.is_empty() {
        let message = format!("`{name}` does not set {}", added.join(", "));
        problems.push(place.problem("args_kept", message).help("taken from `args`").warning());
    }
    words
}

/// `--flag` or `--flag=value`.
fn is_flag(word: &str, flag: &str) -> bool {
    word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// The flag as it stands in `args`, with its value if that is a word of its own.
fn kept(args: &[String], flag: &str) -> Vec<String> {
    let Some(at) = args.iter().position(|word| is_flag(word, flag)) else { return Vec::new() };
    let value = args.get(at + 1).filter(|next| args[at] == flag && !next.starts_with('-'));
    args[at..=at].iter().chain(value).cloned().collect()
}

fn matcher(manifest: &Manifest, place: &Place<'_>, problems: &mut Vec<Problem>) -> Option<Matcher> {
    let matches = manifest.matches.as_ref()?;
    let cmdline = regex(&matches.cmdline, "matches.cmdline", place, problems);
    let exclude = matches.exclude.as_ref().map(|text| regex(text, "matches.exclude", place, problems));
    if matches.cmdline.is_empty() {
        let help = "begin it with the program's path, as in \"^/usr/bin/xterm\"";
        problems.push(place.problem("matches.cmdline", "an empty pattern matches every process").help(help));
    }
    Some(Matcher {
        cmdline: cmdline?,
        exclude: match exclude {
            Some(None) => return None,
            other => other.flatten(),
        },
    })
}

fn regex(text: &str, path: &str, place: &Place<'_>, problems: &mut Vec<Problem>) -> Option<Regex> {
    let made = Regex::new(text);
    made.map_err(|error| problems.push(place.problem(path, format!("this is not a regex: {error}")))).ok()
}

fn check_values(manifest: &Manifest, place: &Place<'_>, problems: &mut Vec<Problem>) {
    for (field, message) in manifest.backoff.problems() {
        problems.push(place.problem(&format!("backoff.{field}"), message));
    }
    let mut range = |path: &str, value: Option<i32>, least: i32, most: i32| {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            problems
                .push(place.problem(path, format!("{value} is out of range")).help(format!("use {least} to {most}")));
        }
    };
    range("limits.nice", manifest.limits.nice, -20, 19);
    range("limits.oom_score_adj", manifest.limits.oom_score_adj, -1000, 1000);
    if manifest.log.max_size.0 < LEAST_LOG {
        let message = format!("{} is too little for a log file", manifest.log.max_size);
        problems.push(place.problem("log.max_size", message).help("use \"4KiB\" or more"));
    }
    if let Some(file) = manifest.log.file.as_ref().filter(|file| !file.starts_with('/')) {
        problems.push(
            place.problem("log.file", format!("`{file}` is relative to no folder")).help("write an absolute path"),
        );
    }
    if let Some(cwd) = &manifest.cwd {
        absolute("cwd", cwd, place, problems);
    }
    if let Some(ready) = &manifest.ready {
        check_target("ready.probe", &ready.probe, place, problems);
        takes_time("ready.within", ready.within, place, problems);
    }
    if let Some(health) = &manifest.health {
        check_target("health.probe", &health.probe, place, problems);
        if health.failures == 0 {
            problems
                .push(place.problem("health.failures", "0 failures would restart a healthy app").help("use 1 or more"));
        }
        takes_time("health.every", health.every, place, problems);
        takes_time("health.timeout", health.timeout, place, problems);
    }
    for action in manifest.icon.iter().flat_map(|icon| icon.actions.keys()) {
        if !manifest.actions.contains_key(action) {
            let known: Vec<&str> = manifest.actions.keys().map(String::as_str).collect();
            let help = closest(action, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            let help = help.unwrap_or_else(|| "add it to `actions`".into());
            problems.push(place.problem("icon.actions", format!("no action is called `{action}`")).help(help));
        }
    }
    check_hooks("prelaunch", &manifest.prelaunch, place, problems);
    check_hooks("postlaunch", &manifest.postlaunch, place, problems);
    for (action, hooks) in &manifest.actions {
        check_hooks(&format!("actions.{action}"), hooks, place, problems);
    }
}

fn check_hooks(list: &str, hooks: &[Hook], place: &Place<'_>, problems: &mut Vec<Problem>) {
    for (i, hook) in hooks.iter().enumerate() {
        let path = format!("{list}[{i}]");
        match hook {
            Hook::WaitFor { what, timeout, .. } => {
                check_target(&format!("{path}.what"), what, place, problems);
                takes_time(&format!("{path}.timeout"), *timeout, place, problems);
            }
            Hook::Run { argv, timeout, .. } => {
                check_command(&format!("{path}.argv"), argv, place, problems);
                takes_time(&format!("{path}.timeout"), *timeout, place, problems);
            }
            Hook::Maximize { class, within, enabled, .. } => {
                is_on(enabled, (&format!("{path}.enabled"), "it is done"), place, problems);
                takes_time(&format!("{path}.within"), *within, place, problems);
                regex(class, &format!("{path}.class"), place, problems);
            }
            Hook::MakeDir { path: folder, .. }
            | Hook::Remove { path: folder, .. }
            | Hook::ClearDir { path: folder, .. } => {
                absolute(&format!("{path}.path"), folder, place, problems);
            }
            Hook::Copy { from, to, .. } | Hook::Stage { from, to, .. } => {
                absolute(&format!("{path}.from"), from, place, problems);
                absolute(&format!("{path}.to"), to, place, problems);
            }
            Hook::ClearLocks { dir, .. } => absolute(&format!("{path}.dir"), dir, place, problems),
            Hook::SeedJson { file, .. } => absolute(&format!("{path}.file"), file, place, problems),
        }
    }
}

fn takes_time(path: &str, span: Span, place: &Place<'_>, problems: &mut Vec<Problem>) {
    if span.0.is_zero() {
        problems.push(place.problem(path, "this takes no time").help("use \"1s\" or more"));
    }
}

fn absolute(path: &str, file: &str, place: &Place<'_>, problems: &mut Vec<Problem>) {
    if !file.starts_with('/') {
        let help = "write an absolute path, or begin it with `~/`";
        problems.push(place.problem(path, format!("`{file}` is relative to no folder")).help(help));
    }
}

fn check_command(path: &str, argv: &[String], place: &Place<'_>, problems: &mut Vec<Problem>) {
    if argv.first().is_none_or(String::is_empty) {
        problems.push(place.problem(path, "the command is empty").help("name a program"));
    }
}

fn check_target(path: &str, target: &Target, place: &Place<'_>, problems: &mut Vec<Problem>) {
    match target {
        Target::Display => {}
        Target::Window { class } => {
            regex(class, &format!("{path}.class"), place, problems);
        }
        Target::Tcp { address } if !is_address(address) => {
            let message = format!("`{address}` is not an address");
            problems.push(place.problem(&format!("{path}.address"), message).help("write \"127.0.0.1:9222\""));
        }
        Target::Http { url } if !has_host(url) => {
            let message = format!("`{url}` is not a URL that can be asked");
            problems.push(
                place
                    .problem(&format!("{path}.url"), message)
                    .help("write \"http://127.0.0.1:9222/path\"; https is not spoken"),
            );
        }
        Target::UnixSocket { path: file } | Target::Path { path: file } => {
            absolute(&format!("{path}.path"), file, place, problems);
        }
        Target::Command { argv } => check_command(&format!("{path}.argv"), argv, place, problems),
        Target::Tcp { .. } | Target::Http { .. } => {}
    }
}

fn has_host(url: &str) -> bool {
    url.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?', '#']))
}

/// `host:port`
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn check_environment(env: &BTreeMap<String, String>, place: &Place<'_>, problems: &mut Vec<Problem>) {
    for name in env.keys() {
        let path = format!("env.{name}");
        if name.is_empty() || name.contains(['=', '\0']) {
            problems.push(place.problem(&path, format!("`{name}` cannot be the name of a variable")));
        } else if name.starts_with("KASM_VOID_") {
            let message = format!("`{name}` is the supervisor's own");
            problems
                .push(place.problem(&path, message).help("names that begin with KASM_VOID_ tell whose process it is"));
        }
    }
}
