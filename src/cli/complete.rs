//! Completion in shells. The words come from this binary each time, so the names of apps are those of the running
//! supervisor.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::Shell;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::Shells;
use tokio::time::timeout;

use super::client::Client;
use super::print::plain;
use crate::host::layout;
use crate::model::protocol::{Route, Snapshot};
use crate::model::reference;

/// The variable by which the shell's script asks for words.
pub const VARIABLE: &str = "KASM_VOID_COMPLETE";

/// A supervisor that has not answered by now is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// The script that asks this binary for words.
pub fn script(shell: Shell) -> anyhow::Result<Vec<u8>> {
    let mut script = Vec::new();
    let name = shell.to_string();
    if let Some(known) = Shells::builtins().completer(&name) {
        known.write_registration(VARIABLE, "kasm-void", "kasm-void", "kasm-void", &mut script)?;
    }
    Ok(script)
}

/// The names of the apps that begin with `word`. None if no supervisor answers.
pub fn apps(word: &OsStr) -> Vec<CompletionCandidate> {
    let word = word.to_string_lossy();
    // A shell shows the words as they are, so a name that could control the terminal is not offered.
    let fits = |name: &str| name.starts_with(&*word) && plain(name) == name;
    let apps = snapshot().unwrap_or_default().apps.into_iter().filter(|app| fits(&app.name));
    apps.map(|app| {
        let help = if app.about.is_empty() { app.state.to_string() } else { plain(&app.about) };
        CompletionCandidate::new(app.name).help(Some(help.into()))
    })
    .collect()
}

/// The actions of all apps that begin with `word`.
pub fn actions(word: &OsStr) -> Vec<CompletionCandidate> {
    let word = word.to_string_lossy();
    let mut actions: Vec<String> =
        snapshot().unwrap_or_default().apps.into_iter().flat_map(|app| app.actions).collect();
    actions.retain(|action| action.starts_with(&*word) && plain(action) == *action);
    actions.sort();
    actions.dedup();
    actions.into_iter().map(CompletionCandidate::new).collect()
}

/// The fields that `explain` knows.
pub fn fields(word: &OsStr) -> Vec<CompletionCandidate> {
    let word = word.to_string_lossy();
    let entries = reference::entries().into_iter().filter(|entry| entry.path().starts_with(&*word));
    entries.map(|entry| CompletionCandidate::new(entry.path()).help(Some(entry.summary().into()))).collect()
}

fn snapshot() -> Option<Snapshot> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let client = Client::new(&layout::default_path());
    runtime.block_on(async { timeout(PATIENCE, client.get(&Route::Apps.path(&[]))).await.ok()?.ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_a_script() {
        for shell in <Shell as clap::ValueEnum>::value_variants() {
            let script = String::from_utf8(script(*shell).unwrap()).unwrap();
            assert!(script.contains(VARIABLE), "{shell}: {script}");
        }
    }

    #[test]
    fn fields_are_completed() {
        let found: Vec<_> = fields(OsStr::new("stop.")).iter().map(|one| one.get_value().to_owned()).collect();
        assert_eq!(found, ["stop.signal", "stop.grace", "stop.devtools"]);
    }
}
