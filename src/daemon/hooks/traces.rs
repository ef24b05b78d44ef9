//! Looks for traces of what ended an app: a person who closed its window, or something else.

use std::time::Duration;

use tokio::time::timeout;

use super::HookRunner;
use crate::daemon::{display, files};
use crate::model::machine::Traces;
use crate::model::manifest::hook::{Locks, Step};

/// How long a display or a disk may take to answer.
const WITHIN: Duration = Duration::from_secs(1);

impl HookRunner {
    /// Looks for the traces. Anything that does not answer in time counts as unknown, except the display: it counts as gone.
    pub async fn find_traces(&self) -> Traces {
        let (display, lock) = tokio::join!(self.idle(), self.lock());
        match display {
            Ok(idle) => Traces { display: true, idle, lock },
            Err(_) => Traces { display: false, idle: None, lock },
        }
    }

    /// How long nobody has used the display, if the app has one and the display knows.
    async fn idle(&self) -> Result<Option<Duration>, String> {
        match self.screen.display {
            Some(_) => display::idle(&self.screen, WITHIN).await,
            None => Ok(None),
        }
    }

    /// Whether a lock was left on a profile that the app clears of locks before its start.
    async fn lock(&self) -> bool {
        let profile = |step: &Step| match step {
            Step::ClearLocks { locks: Locks::Profile { dir, .. } } => Some(dir.clone()),
            _ => None,
        };
        let profiles: Vec<_> = self.app.hooks.prelaunch.iter().filter_map(|hook| profile(&hook.step)).collect();
        if profiles.is_empty() {
            return false;
        }
        let hostname = self.hostname.clone();
        let look = tokio::task::spawn_blocking(move || profiles.iter().any(|dir| files::left_locked(dir, &hostname)));
        timeout(WITHIN, look).await.is_ok_and(|left| left.unwrap_or(false))
    }
}
