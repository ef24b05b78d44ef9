//! Checks the targets of probes and of `WaitFor`, once or until they are available.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{HookRunner, not_within};
use crate::daemon::{display, probes, process};
use crate::host::listener;
use crate::host::proc::{self, Pid};
use crate::model::app::App;
use crate::model::manifest::probe::Target;

/// The interval between two checks of a target that sends no change events.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl HookRunner {
    /// Checks the target once.
    ///
    /// # Errors
    /// Says in words why the target is not available; the same holds below.
    pub async fn probe(&self, target: &Target, within: Duration) -> Result<(), String> {
        match target {
            Target::Display => display::is_up(&self.screen, within).await,
            Target::Window { class } => display::window_exists(&self.screen, class, within).await,
            Target::Tcp { address, own } => {
                let peer = probes::tcp(address, within).await?;
                self.answered_by_us(peer, *own).await
            }
            Target::Http { url, own } => {
                let peer = probes::http(url, within).await?;
                self.answered_by_us(peer, *own).await
            }
            Target::UnixSocket { path } => probes::unix_socket(path, within).await,
            Target::Path { path } => probes::path(path, within).await,
            Target::Command { argv } => self.command(argv, within).await,
        }
    }

    /// Checks the target until it is available.
    pub(super) async fn wait_for(&self, what: &Target, within: Duration) -> Result<(), String> {
        match what {
            Target::Display => display::wait_up(&self.screen, within).await,
            Target::Window { class } => display::wait_window(&self.screen, class, within).await,
            _ => {
                let deadline = Instant::now() + within;
                let mut last = format!("{what} was not there");
                let asking = async {
                    while let Err(why) = self.probe(what, within).await {
                        last = why;
                        sleep(LOOK_AGAIN).await;
                    }
                };
                let there = timeout_at(deadline, asking).await;
                there.map_err(|_| format!("{}: {last}", not_within(within)))
            }
        }
    }

    /// With `own`, an answer from another program does not count.
    pub(super) async fn answered_by_us(&self, peer: SocketAddr, own: bool) -> Result<(), String> {
        if !own {
            return Ok(());
        }
        let app = self.app.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let listeners = listener::of(peer);
            // A process that we may not inspect (it dropped its user, or hides its memory) may be the app.
            match listeners.is_empty() || listeners.iter().any(|pid| is_in_tree(&app, *pid)) {
                true => Ok(()),
                false => Err(foreign(peer, &listeners)),
            }
        });
        answer.await.unwrap_or_else(|panic| Err(format!("internal error: {panic}")))
    }
}

/// Whether the process or one of its ancestors belongs to the app.
fn is_in_tree(app: &App, pid: Pid) -> bool {
    let parent = |pid: &Pid| proc::process(*pid).map(|process| process.parent).filter(|parent| *parent > 1);
    std::iter::successors(Some(pid), parent).any(|pid| process::belongs(app, pid))
}

fn foreign(peer: SocketAddr, listeners: &[Pid]) -> String {
    let who = match listeners.iter().find_map(|pid| proc::in_words(*pid)) {
        Some(process) => format!("{process}, which is not this app's"),
        None => "a process that is not this app's".into(),
    };
    format!("{peer} is answered by {who}: stop it, or use another port")
}
