//! The queue to the writer thread. The loop puts jobs into it and never waits for a disk.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::destination::{Account, Destination};
use super::pipe::InPipe;
use crate::host::sync::lock;
use crate::model::output::pressure::{BUDGET, CHUNK, allowance};

/// The cost of a queued piece in addition to its bytes.
const OVERHEAD: usize = 256;

/// A writer that finishes no job for this long counts as stuck.
const STUCK: Duration = Duration::from_secs(1);

pub enum Job {
    /// Output of an app, and the chunk of its pipe that it came from.
    Output(Arc<Destination>, Vec<u8>, Option<InPipe>),
    /// Whole lines of a hook or a probe of this app.
    CommandLines(Arc<Destination>, Vec<u8>),
    /// Lines dropped before they came into the queue, and why.
    Lost(Arc<Destination>, u64, &'static str),
    Note(Arc<Destination>, String),
    /// Asks for the last lines of the files. The reply is `None` if they cannot be read.
    Lines(Arc<Destination>, usize, oneshot::Sender<Option<Vec<u8>>>),
    /// Replies when everything queued before is written, as far as possible.
    Sync(oneshot::Sender<()>),
    Close(Arc<str>),
}

impl Job {
    /// The account that is charged for the job's room in the queue, and how much.
    fn cost(&self) -> Option<(&Account, usize)> {
        match self {
            // A large piece occupies a whole buffer, however full it is.
            Job::Output(destination, bytes, _) | Job::CommandLines(destination, bytes) => {
                Some((&destination.account, bytes.capacity() + OVERHEAD))
            }
            _ => None,
        }
    }
}

/// The loop's end of the queue.
pub struct Queue {
    shared: Arc<Shared>,
    start: Start,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
}

/// Starts the writer at its end of the queue. Called by the first job.
pub type Start = Box<dyn Fn(Arc<Shared>, mpsc::Receiver<Job>) -> std::io::Result<()> + Send + Sync>;

/// State shared by both ends of the queue.
#[derive(Default)]
pub struct Shared {
    queued: AtomicUsize,
    /// The number of finished jobs. It distinguishes a slow writer from a stuck one.
    done: AtomicU64,
    room: Notify,
    /// Buffers of [`CHUNK`] bytes; the one used last is on top, because it is still in the processor's cache.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Queue {
    pub fn new(start: Start) -> Queue {
        Queue { shared: Arc::default(), start, jobs: Mutex::default() }
    }

    /// Puts `job` into the queue. Returns it if there is no writer to take it.
    pub fn push(&self, job: Job) -> Result<(), Job> {
        let mut jobs = lock(&self.jobs);
        if jobs.is_none() {
            let (sender, receiver) = mpsc::channel();
            match (self.start)(self.shared.clone(), receiver) {
                Ok(()) => *jobs = Some(sender),
                Err(error) => tracing::warn!(
                    event = "log.trouble",
                    %error,
                    "cannot start the thread that writes logs; retrying with the next output"
                ),
            }
        }
        let Some(jobs) = &*jobs else { return Err(job) };
        if let Some((account, cost)) = job.cost() {
            self.shared.queued.fetch_add(cost, Ordering::Relaxed);
            account.enqueued(cost);
        }
        jobs.send(job).map_err(|mpsc::SendError(job)| job)
    }

    /// Whether anything was ever queued.
    pub fn is_started(&self) -> bool {
        lock(&self.jobs).is_some()
    }

    /// How many bytes an app may queue now. `urgent` is for output that cannot wait: the last of an app.
    pub fn allowance(&self, account: &Account, urgent: bool) -> usize {
        let budget = if urgent { 2 * BUDGET } else { BUDGET };
        allowance(budget, self.shared.queued.load(Ordering::Relaxed), account.queued())
    }

    /// Waits until the app may queue something. Returns `false` if the writer is stuck.
    pub async fn room(&self, account: &Account) -> bool {
        let mut done = self.shared.done.load(Ordering::Relaxed);
        loop {
            let mut freed = pin!(self.shared.room.notified());
            freed.as_mut().enable();
            if self.allowance(account, false) > 0 {
                return true;
            }
            if tokio::time::timeout(STUCK, freed).await.is_err() {
                let now = self.shared.done.load(Ordering::Relaxed);
                if now == done {
                    return false;
                }
                done = now;
            }
        }
    }

    /// An empty buffer for `room` bytes.
    pub fn buffer(&self, room: usize) -> Vec<u8> {
        if room < CHUNK {
            return Vec::with_capacity(room);
        }
        lock(&self.shared.spare).pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    /// Takes a buffer back for reuse.
    pub fn spare(&self, buffer: Vec<u8>) {
        self.shared.take_back(buffer);
    }
}

impl Shared {
    /// Marks the job as done and frees its room.
    pub fn finish(&self, job: Job) {
        if let Some((account, cost)) = job.cost() {
            let before = self.queued.fetch_sub(cost, Ordering::Relaxed);
            let own = account.dequeued(cost);
            // Not after each job: wake a reader when there is room for several chunks.
            if own == cost || before - cost <= BUDGET / 2 {
                self.room.notify_waiters();
            }
        }
        if let Job::Output(_, bytes, _) = job {
            self.take_back(bytes);
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Frees the spare buffers.
    pub fn slim_down(&self) {
        *lock(&self.spare) = Vec::new();
    }

    fn take_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == CHUNK {
            buffer.clear();
            lock(&self.spare).push(buffer);
        }
    }
}
