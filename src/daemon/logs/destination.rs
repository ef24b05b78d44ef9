//! The destination of one app's output, and the count of output that is dropped on the way.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::host::sync::lock;
use crate::model::output::losses::{Losses, Recovered, Stage};
use crate::model::spelling::counted;

/// An app's log file and its settings. Replaced when they change.
pub struct Destination {
    pub app: Arc<str>,
    pub path: PathBuf,
    /// Bytes; 0 means no limit.
    pub max_size: u64,
    pub keep: u32,
    /// Each line begins with a time.
    pub timestamps: bool,
    pub account: Arc<Account>,
}

/// Counts one app's output on its way to the file. Shared by the reader and the writer.
#[derive(Default)]
pub struct Account {
    /// Bytes in the queue.
    queued: AtomicUsize,
    losses: Mutex<Losses>,
}

impl Account {
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    pub fn enqueued(&self, cost: usize) {
        self.queued.fetch_add(cost, Ordering::Relaxed);
    }

    /// Returns how many bytes were queued before.
    pub fn dequeued(&self, cost: usize) -> usize {
        self.queued.fetch_sub(cost, Ordering::Relaxed)
    }

    pub fn dropped_lines(&self) -> u64 {
        lock(&self.losses).dropped()
    }

    pub fn drop_lines(&self, lines: u64) {
        if lines > 0 {
            lock(&self.losses).drop_lines(lines);
        }
    }
}

impl Destination {
    /// Why output is being dropped, if it is.
    pub fn trouble(&self) -> Option<String> {
        let losses = lock(&self.account.losses);
        losses.cause().map(|cause| format!("cannot write {}: {cause}", self.path.display()))
    }

    /// Call this when a stage begins to drop output. Logs a warning once per trouble.
    pub fn begin_trouble(&self, stage: Stage, cause: &str) {
        if lock(&self.account.losses).begin(stage, cause) {
            let (app, file) = (&self.app, self.path.display());
            tracing::warn!(
                event = "log.trouble", %app, %file, error = cause,
                "{app}: cannot write {file}: {cause}; output is dropped and counted until it can be written again"
            );
        }
    }

    /// Call this when the stage works again.
    pub fn end_trouble(&self, stage: Stage) {
        let Some(Recovered { cause, lines }) = lock(&self.account.losses).end(stage) else { return };
        let (app, file) = (&self.app, self.path.display());
        tracing::info!(
            event = "log.recovered", %app, %file, error = cause, dropped_lines = lines,
            "{app}: {file} is written again; dropped {}", counted(lines, "line")
        );
    }
}
