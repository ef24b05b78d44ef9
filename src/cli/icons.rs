//! `icons` writes desktop entries for apps. `show` runs when such an icon is clicked.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::json;

use super::VerbEnd;
use super::change;
use super::client::{Client, Waiting};
use super::print::{problem, say, say_json};
use crate::host::{load, marks};
use crate::model::loading::check::WORKSPACE;
use crate::model::loading::parse::parse;
use crate::model::loading::problem::Problem;
use crate::model::loading::source::Source;
use crate::model::manifest::Manifest;
use crate::model::manifest::icon::{self, DesktopEntry};
use crate::model::protocol::{AppStatus, CommandLine, Route, StateName};

/// Writes the desktop entries of all manifests into `into`. A broken manifest loses only its own icons.
pub fn write(folders: &[PathBuf], into: &Path, through: Option<&str>, json: bool) -> anyhow::Result<VerbEnd> {
    std::fs::create_dir_all(into).with_context(|| format!("cannot create the folder {}", into.display()))?;
    let mut ended = VerbEnd::Done;
    let mut written = Vec::new();
    for source in load::load(folders).sources.iter().filter(|source| source.name != WORKSPACE) {
        match manifest(source) {
            Ok(manifest) => {
                let Manifest { about, icon: Some(icon), .. } = &manifest else { continue };
                for entry in icon::entries(&source.name, about, icon, through) {
                    written.push(put(into, &entry)?);
                }
            }
            Err(problems) => {
                ended = VerbEnd::Refused;
                problems.iter().for_each(|found| anstream::eprintln!("{}", problem(found)));
            }
        }
    }
    match json {
        true => say_json(&json!({ "files": written }))?,
        false => say(&format!("wrote {} icons to {}", written.len(), into.display()))?,
    }
    Ok(ended)
}

fn manifest(source: &Source) -> Result<Manifest, Vec<Problem>> {
    let text = source.text.as_deref().map_err(|why| vec![Problem::whole(&source.file, why.clone())])?;
    parse(&source.file, text)
}

/// Writes an entry as an executable file; desktops ask for confirmation before they start any other.
fn put(into: &Path, DesktopEntry { file, text }: &DesktopEntry) -> anyhow::Result<PathBuf> {
    let file = into.join(file);
    std::fs::write(&file, text)
        .and_then(|()| std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Starts the app. If it is running and its icon has `again`, runs its command line once more, so that the running app
/// shows itself. `more` replaces `args_last`.
pub async fn show(
    client: &Client,
    app: &str,
    more: &[String],
    waiting: Waiting,
    json: bool,
) -> anyhow::Result<VerbEnd> {
    let status: AppStatus = client.get(&Route::App.path(&[app])).await?;
    if status.state != StateName::Running {
        let started = change::each(client, change::Which::Named(vec![app.into()]), Route::Start, waiting, json).await?;
        if started != VerbEnd::Done || more.is_empty() {
            return Ok(started);
        }
    }
    let command: CommandLine = client.get(&Route::Command.path(&[app])).await?;
    let Some(again) = &command.again else {
        ensure!(more.is_empty(), "cannot pass arguments to `{app}`, which is running: its icon has no `again`");
        say_shown(app, "is already running", json)?;
        return Ok(VerbEnd::Done);
    };
    let last = if more.is_empty() { &command.last } else { more };
    run(&command, again, last).with_context(|| format!("cannot show `{app}`: cannot start {}", command.argv[0]))?;
    say_shown(app, "was told to show itself", json)?;
    Ok(VerbEnd::Done)
}

/// Starts a second process, which passes its arguments to the running app and exits. If the running app exits at that
/// moment, the second process becomes the app: it has the same environment, and the supervisor adopts it.
fn run(command: &CommandLine, again: &[String], last: &[String]) -> std::io::Result<()> {
    let mut process = Command::new(&command.argv[0]);
    process.args(&command.argv[1..]).args(again).args(last).process_group(0);
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).envs(&command.env);
    for name in command.env_hidden.iter().map(String::as_str).chain(OF_THE_CALLER) {
        process.env_remove(name);
    }
    process.spawn().map(drop)
}

/// Variables that mark the caller as a process of its own app. The new process does not belong to that app.
const OF_THE_CALLER: [&str; 4] = [marks::APP, marks::PLACE, marks::LEADER, marks::HOOK];

fn say_shown(app: &str, what: &str, json: bool) -> anyhow::Result<()> {
    match json {
        true => say_json(&json!({ "app": app, "done": true, "message": format!("`{app}` {what}") })),
        false => say(&format!("`{app}` {what}")),
    }
}
