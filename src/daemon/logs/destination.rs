//! Where one app's output goes, and the account of what does not get there.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::host::sync::lock;
use crate::model::output::losses::{Losses, Recovered, Stage};

/// An app's log file and its settings; made anew when they change.
pub struct Destination {
    pub app: Arc<str>,
    pub path: PathBuf,
    /// Bytes; 0: no limit.
    pub max_size: u64,
    pub keep: u32,
    pub account: Arc<Account>,
}

/// One app's output on its way to the file. Shared by the reader and the writer.
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

    /// Returns how much was queued until now.
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
    /// Why output is being dropped now.
    pub fn trouble(&self) -> Option<String> {
        let losses = lock(&self.account.losses);
        losses.cause().map(|cause| format!("cannot write {}: {cause}", self.path.display()))
    }

    /// Output is dropped from now on; told once for each trouble.
    pub fn begin_trouble(&self, stage: Stage, cause: &str) {
        if lock(&self.account.losses).begin(stage, cause) {
            let (app, file) = (&self.app, self.path.display());
            tracing::warn!(
                event = "log.trouble", %app, %file, error = cause,
                "{app}: cannot write {file}: {cause}; output is dropped and counted until it can be written again"
            );
        }
    }

    /// This stage works again.
    pub fn end_trouble(&self, stage: Stage) {
        let Some(Recovered { cause, lines }) = lock(&self.account.losses).end(stage) else { return };
        let (app, file) = (&self.app, self.path.display());
        tracing::info!(
            event = "log.recovered", %app, %file, error = cause, dropped_lines = lines,
            "{app}: {file} is written again; {lines} lines were dropped"
        );
    }
}
