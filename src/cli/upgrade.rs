//! `upgrade`: hands the session over to another binary. Checks that the new binary can take over before anything is
//! stopped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::client::{Client, NoAnswer};
use super::print::{GOOD, plain, say, say_json};
use super::{VerbEnd, manifests};
use crate::daemon;
use crate::model::ledger::VERSION;
use crate::model::manifest::quantity::Span;
use crate::model::protocol::{Answer, Identity, Route};

/// Between two checks whether the next supervisor answers.
const LOOK: Duration = Duration::from_millis(50);

/// Hands the session over to a supervisor from `binary` (default: this one), and waits up to `limit` until it answers.
pub async fn upgrade(client: &Client, binary: Option<PathBuf>, limit: Span, json: bool) -> anyhow::Result<VerbEnd> {
    let binary = match binary {
        Some(binary) => binary,
        None => std::env::current_exe().context("cannot find the path of this binary: name one")?,
    };
    let binary = binary.canonicalize().with_context(|| format!("cannot find {}", binary.display()))?;
    let before: Identity = client.get(&Route::Supervisor.path(&[])).await?;
    try_out(&binary, &before)?;
    let asked = super::client::Waiting { wait: true, timeout: limit };
    let answer: Answer = client.change(&Route::Upgrade.path(&[&binary.to_string_lossy()]), asked).await?;
    ensure!(answer.done, "{}", answer.message);
    let after = next(client, &before, limit).await?;
    let taken_over = after.after.as_deref() == Some("upgrade");
    if json {
        say_json(&after)?;
    }
    if !taken_over {
        bail!(
            "{}; the old version (pid {}) is running again, no app was restarted",
            after.after.unwrap_or_default(),
            after.pid
        );
    }
    if !json {
        let (from, to) = (plain(&before.version), plain(&after.version));
        say(&format!(
            "{GOOD}ok{GOOD:#} upgraded: pid {} ({to}) replaced pid {} ({from}); no app was restarted",
            after.pid, before.pid
        ))?;
    }
    Ok(VerbEnd::Done)
}

/// Asks the new binary whether it can take over the session.
fn try_out(binary: &Path, before: &Identity) -> anyhow::Result<()> {
    let said = binary.display();
    let mut command = Command::new(binary);
    command.args(["takes-over", "--ledger", &before.ledger.to_string(), "--"]).args(&before.folders);
    let output = command.output().with_context(|| format!("cannot run {said}"))?;
    let text = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    ensure!(output.status.success(), "{said} cannot take over; nothing was changed: {}", plain(text.trim()));
    Ok(())
}

async fn next(client: &Client, before: &Identity, limit: Span) -> anyhow::Result<Identity> {
    let until = Instant::now() + limit.0;
    loop {
        tokio::time::sleep(LOOK).await;
        // No supervisor answers during the change.
        if let Ok(now) = client.get::<Identity>(&Route::Supervisor.path(&[])).await
            && now.pid != before.pid
        {
            return Ok(now);
        }
        if Instant::now() > until {
            return Err(NoAnswer(format!("no supervisor has answered within {limit}: see its log")).into());
        }
    }
}

/// Checks whether this binary could take over a session: it must read the same ledger version and accept the manifests.
pub fn takes_over(ledger: u32, folders: &[PathBuf], json: bool) -> anyhow::Result<VerbEnd> {
    let ours = VERSION;
    ensure!(
        ledger == ours,
        "it reads state of version {ours}, but the running supervisor writes version {ledger}: drain the session, then start the new binary"
    );
    manifests::tell_problems(daemon::check(folders), json)
}
