//! Checks the targets of probes and of `WaitFor`, once or until they are available.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::command::{Request, supervisor_ends};
use super::{HookRunner, not_within};
use crate::daemon::{display, probes};
use crate::host::listener;
use crate::host::proc;
use crate::model::manifest::probe::Target;
use crate::model::tree::Listeners;

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
        let listeners = tokio::task::spawn_blocking(move || listener::of(peer)).await;
        let listeners = listeners.map_err(|panic| format!("internal error: {panic}"))?;
        let Ok(at) = listeners else { return Ok(()) }; // a kernel that does not tell who listens
        let (answer, listens) = oneshot::channel();
        let request = Request::Listens { id: self.id, at: at.clone(), answer };
        self.requests.send(request).map_err(|_| supervisor_ends())?;
        match listens.await.map_err(|_| supervisor_ends())? {
            true => Ok(()),
            false => Err(foreign(peer, &at)),
        }
    }
}

fn foreign(peer: SocketAddr, at: &Listeners) -> String {
    let who = match (at.pids.iter().find_map(|pid| proc::in_words(*pid)), at.hidden.first()) {
        (Some(process), _) => format!("{process}, which is not this app's"),
        (None, Some(user)) => format!("a hidden process of uid {user}, which is not this app's"),
        (None, None) => "no process of this machine that can be seen".into(),
    };
    format!("{peer} is answered by {who}: stop it, or use another port")
}
