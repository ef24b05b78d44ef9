//! The one list of workspaces, shared by watches, probes and clients; and who looks at it. Decides nothing.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::host::sync::lock;
use crate::model::gateway::list::{ListInput, WorkspaceList};

/// How long somebody who asked for the list once counts as looking at it.
const LOOKING: Duration = Duration::from_secs(30);

/// The list, with a signal for each change.
pub struct Board {
    list: Mutex<WorkspaceList>,
    changed: watch::Sender<u64>,
    lookers: watch::Sender<Lookers>,
}

/// The clients that look at the list.
#[derive(Debug, Clone, Copy, Default)]
struct Lookers {
    pages: usize,
    asked: Option<Instant>,
}

impl Lookers {
    fn any(self) -> bool {
        self.pages > 0 || self.asked.is_some_and(|asked| asked.elapsed() < LOOKING)
    }
}

/// While it exists, a page looks at the list.
pub struct Looking(Arc<Board>);

impl Looking {
    pub fn board(&self) -> &Board {
        &self.0
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.lookers.send_modify(|lookers| lookers.pages -= 1);
    }
}

impl Board {
    pub fn new(list: WorkspaceList) -> Self {
        Board { list: Mutex::new(list), changed: watch::channel(0).0, lookers: watch::channel(Lookers::default()).0 }
    }

    /// Takes news, and wakes every client if they see a difference.
    pub fn learn(&self, input: ListInput) {
        let version = {
            let mut list = lock(&self.list);
            if !list.handle(input) {
                return;
            }
            list.version()
        };
        self.changed.send_replace(version);
    }

    pub fn with<T>(&self, look: impl FnOnce(&WorkspaceList) -> T) -> T {
        look(&lock(&self.list))
    }

    /// Signals each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A page looks at the list from now on.
    pub fn look(self: &Arc<Self>) -> Looking {
        self.lookers.send_modify(|lookers| lookers.pages += 1);
        Looking(self.clone())
    }

    /// Somebody has asked for the list once.
    pub fn asked(&self) {
        self.lookers.send_modify(|lookers| lookers.asked = Some(Instant::now()));
    }

    /// How many pages look at the list.
    pub fn pages(&self) -> usize {
        self.lookers.borrow().pages
    }

    /// Returns once somebody looks at the list.
    pub async fn looked_at(&self) {
        let _ = self.lookers.subscribe().wait_for(|lookers| lookers.any()).await; // the sender is ours
    }
}
