//! The one thread that touches log files, and the queue that leads to it. A disk that is full, hung or
//! read-only is felt here and nowhere else: the loop only ever puts something into the queue.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::file::{LogFile, Opener, Short};
use super::places::{Place, Places};
use super::tap::Tap;
use super::text::Gap;

/// The most that is read from a pipe at once.
pub const CHUNK: usize = 256 << 10;

/// Output waiting to be written, of all apps together.
const BUDGET: usize = 8 << 20;

/// What an app with nothing in the queue may put there though the budget is used up by others.
const RESERVE: usize = 4 << 10;

/// What a queued piece costs beside its bytes.
const OVERHEAD: usize = 256;

/// A writer that finishes nothing for this long is stuck.
const STUCK: Duration = Duration::from_secs(1);

/// A file that could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Spare buffers are freed after this long without output.
const IDLE: Duration = Duration::from_secs(1);

/// Where an app's output goes; made anew when its settings change.
pub struct Target {
    pub app: Arc<str>,
    pub path: PathBuf,
    pub max_size: u64,
    pub keep: u32,
    pub status: Arc<Status>,
}

/// What the writer tells about one app.
#[derive(Default)]
pub struct Status {
    /// Bytes in the queue.
    queued: AtomicUsize,
    pub dropped_lines: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Status {
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    pub fn set_trouble(&self, trouble: Option<String>) {
        *lock(&self.trouble) = trouble;
    }
}

/// A chunk that was read and is still in its pipe.
pub struct Ahead {
    pub tap: Arc<Tap>,
    /// Its number, counted by the tap.
    pub chunk: u32,
}

pub enum Job {
    Output(Arc<Target>, Vec<u8>, Option<Ahead>),
    /// Lines dropped before they came into the queue, and why.
    Lost(Arc<Target>, u64, &'static str),
    Note(Arc<Target>, String),
    /// The last lines of the files, `None` when they cannot be had.
    Lines(Arc<Target>, usize, oneshot::Sender<Option<Vec<u8>>>),
    /// Everything queued before is written, as far as it can be.
    Sync(oneshot::Sender<()>),
    Close(Arc<str>),
}

/// The loop's end of the queue. The thread is started by the first job and ends with the queue.
pub struct Queue {
    shared: Arc<Shared>,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
}

struct Shared {
    opener: Opener,
    places: Arc<Mutex<Places>>,
    queued: AtomicUsize,
    /// Jobs done: how a slow writer is told from a stuck one.
    done: AtomicU64,
    room: Notify,
    /// Buffers of [`CHUNK`] bytes, the one used last on top: it is still in the processor's cache.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Queue {
    pub fn new(opener: Opener, places: Arc<Mutex<Places>>) -> Queue {
        let shared = Shared {
            opener,
            places,
            queued: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            room: Notify::new(),
            spare: Mutex::default(),
        };
        Queue { shared: Arc::new(shared), jobs: Mutex::default() }
    }

    /// Puts `job` into the queue; gives it back when there is no writer to take it.
    pub fn push(&self, job: Job) -> Result<(), Job> {
        let mut jobs = lock(&self.jobs);
        if jobs.is_none() {
            *jobs = start(&self.shared);
        }
        let Some(jobs) = &*jobs else { return Err(job) };
        if let Job::Output(target, bytes, _) = &job {
            self.shared.queued.fetch_add(cost(bytes), Ordering::Relaxed);
            target.status.queued.fetch_add(cost(bytes), Ordering::Relaxed);
        }
        jobs.send(job).map_err(|mpsc::SendError(job)| job)
    }

    /// Whether anything was ever queued.
    pub fn is_started(&self) -> bool {
        lock(&self.jobs).is_some()
    }

    /// Bytes an app may queue now.
    pub fn allowance(&self, status: &Status) -> usize {
        self.within(BUDGET, status)
    }

    /// The same for output that cannot wait: the last words of an app.
    pub fn urgent_allowance(&self, status: &Status) -> usize {
        self.within(2 * BUDGET, status)
    }

    fn within(&self, budget: usize, status: &Status) -> usize {
        let queued = self.shared.queued.load(Ordering::Relaxed);
        allowance(budget, queued, status.queued.load(Ordering::Relaxed))
    }

    /// Waits until the app may queue something; `false` when the writer is stuck.
    pub async fn room(&self, status: &Status) -> bool {
        let mut done = self.shared.done.load(Ordering::Relaxed);
        loop {
            let mut freed = pin!(self.shared.room.notified());
            freed.as_mut().enable();
            if self.allowance(status) > 0 {
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

    /// An empty buffer for [`CHUNK`] bytes.
    pub fn buffer(&self) -> Vec<u8> {
        lock(&self.shared.spare).pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    /// Takes a buffer back.
    pub fn spare(&self, buffer: Vec<u8>) {
        self.shared.take_back(buffer);
    }
}

impl Shared {
    fn take_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() == CHUNK {
            buffer.clear();
            lock(&self.spare).push(buffer);
        }
    }

    /// A job is done: `cost` is free again.
    fn finish(&self, status: &Status, cost: usize) {
        let before = self.queued.fetch_sub(cost, Ordering::Relaxed);
        let own = status.queued.fetch_sub(cost, Ordering::Relaxed);
        // Not at each job: readers are woken to find room for several chunks.
        if own == cost || before - cost <= BUDGET / 2 {
            self.room.notify_waiters();
        }
    }
}

fn allowance(budget: usize, queued: usize, own: usize) -> usize {
    if queued < budget {
        CHUNK
    } else if own == 0 {
        RESERVE
    } else {
        0
    }
}

/// A large piece holds a whole buffer, however full.
fn cost(bytes: &Vec<u8>) -> usize {
    bytes.capacity() + OVERHEAD
}

fn start(shared: &Arc<Shared>) -> Option<mpsc::Sender<Job>> {
    let (jobs, queue) = mpsc::channel();
    let writer = Writer { shared: shared.clone(), outlets: HashMap::new() };
    let thread = std::thread::Builder::new().name("logs".into()).stack_size(256 << 10);
    match thread.spawn(move || writer.run(&queue)) {
        Ok(_) => Some(jobs),
        Err(error) => {
            tracing::warn!(event = "log.trouble", %error, "cannot start the thread that writes logs; tried again at the next output");
            None
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    outlets: HashMap<Arc<str>, Outlet>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Some(job) = self.next(queue) {
            self.work(job);
            self.shared.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn next(&self, queue: &mpsc::Receiver<Job>) -> Option<Job> {
        match queue.recv_timeout(IDLE) {
            Ok(job) => return Some(job),
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        *lock(&self.shared.spare) = Vec::new();
        queue.recv().ok()
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Output(target, bytes, ahead) => {
                match ahead {
                    Some(ahead) => self.output_once(&target, &bytes, &ahead),
                    None => self.outlet(&target).output(&bytes),
                }
                let cost = cost(&bytes);
                self.shared.take_back(bytes);
                self.shared.finish(&target.status, cost);
            }
            Job::Lost(target, lines, cause) => self.outlet(&target).lost(lines, cause),
            Job::Note(target, text) => self.outlet(&target).note(&text),
            Job::Lines(target, count, reply) => {
                // Whoever asked may have gone.
                let _ = reply.send(self.outlet(&target).lines(count));
            }
            Job::Sync(reply) => {
                self.outlets.values_mut().for_each(Outlet::settle);
                let _ = reply.send(());
            }
            Job::Close(app) => {
                if let Some(mut outlet) = self.outlets.remove(&app) {
                    outlet.settle();
                }
            }
        }
    }

    /// Written first, and then out of the pipe: whenever we die, one of the two has it.
    fn output_once(&mut self, target: &Arc<Target>, bytes: &[u8], ahead: &Ahead) {
        if let Some((file, offset)) = self.outlet(target).place() {
            lock(&self.shared.places).mark(&target.app, Place { file, offset, length: bytes.len() as u64 });
        }
        self.outlet(target).output(bytes);
        ahead.tap.settle(ahead.chunk);
        lock(&self.shared.places).clear(&target.app);
    }

    fn outlet(&mut self, target: &Arc<Target>) -> &mut Outlet {
        let new = || Outlet {
            target: target.clone(),
            file: LogFile::new(target.path.clone(), target.max_size, target.keep, self.shared.opener.clone()),
            trouble: None,
        };
        let outlet = self.outlets.entry(target.app.clone()).or_insert_with(new);
        if !Arc::ptr_eq(&outlet.target, target) {
            outlet.file.set(&target.path, target.max_size, target.keep);
            outlet.target = target.clone();
            if let Some(trouble) = &mut outlet.trouble {
                trouble.retry = Instant::now();
            }
        }
        outlet
    }
}

/// One app's file, and what became of what could not be written to it.
struct Outlet {
    target: Arc<Target>,
    file: LogFile,
    trouble: Option<Trouble>,
}

struct Trouble {
    cause: String,
    /// Not told in the file yet.
    gap: Gap,
    /// Lines lost since it began.
    lines: u64,
    retry: Instant,
}

impl Outlet {
    /// Where the next bytes go; `None` when they go nowhere, or may.
    fn place(&mut self) -> Option<((u64, u64), u64)> {
        if self.trouble.is_some() { None } else { self.file.place().ok() }
    }

    fn output(&mut self, bytes: &[u8]) {
        let Some(trouble) = &mut self.trouble else { return self.write(bytes) };
        if Instant::now() < trouble.retry {
            return self.lose(bytes);
        }
        let skipped = trouble.gap.lines;
        let whole = trouble.gap.resume(bytes);
        self.count(trouble_lines(&self.trouble) - skipped);
        if !whole.is_empty() && self.tell_gap() {
            self.write(whole);
        } else {
            self.lose(whole);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match self.file.append(bytes) {
            Ok(()) => self.recovered(),
            Err(short) => {
                let lost = &bytes[short.written..];
                self.failed(short);
                self.lose(lost);
            }
        }
    }

    fn lost(&mut self, lines: u64, cause: &str) {
        match &mut self.trouble {
            Some(trouble) => trouble.gap.lines += lines,
            None => {
                if let Err(short) = self.file.append_line(&dropped(lines, cause)) {
                    self.failed(short);
                    self.lost(lines, cause);
                }
            }
        }
    }

    fn note(&mut self, text: &str) {
        if self.trouble.is_some() {
            return;
        }
        if let Err(short) = self.file.append_line(&format!("[kasm-void: {text}]")) {
            self.failed(short);
        }
    }

    fn lines(&self, count: usize) -> Option<Vec<u8>> {
        if self.trouble.is_some() {
            return None;
        }
        self.file.last_lines(count).ok()
    }

    /// The last chance to say what was lost.
    fn settle(&mut self) {
        if self.trouble.is_some() && self.tell_gap() {
            self.recovered();
        }
    }

    /// Says in the file what is missing; whether that worked.
    fn tell_gap(&mut self) -> bool {
        let Some(trouble) = &mut self.trouble else { return true };
        trouble.retry = Instant::now() + RETRY;
        if trouble.gap.lines > 0 {
            if let Err(short) = self.file.append_line(&dropped(trouble.gap.lines, &trouble.cause)) {
                self.failed(short);
                return false;
            }
            trouble.gap.lines = 0;
        }
        true
    }

    fn lose(&mut self, bytes: &[u8]) {
        let before = trouble_lines(&self.trouble);
        if let Some(trouble) = &mut self.trouble {
            trouble.gap.lose(bytes);
        }
        self.count(trouble_lines(&self.trouble) - before);
    }

    fn count(&mut self, lines: u64) {
        self.target.status.dropped_lines.fetch_add(lines, Ordering::Relaxed);
        if let Some(trouble) = &mut self.trouble {
            trouble.lines += lines;
        }
    }

    fn failed(&mut self, short: Short) {
        let cause = cause(&short.error);
        let retry = Instant::now() + RETRY;
        let Target { app, path, status, .. } = &*self.target;
        status.set_trouble(Some(format!("cannot write {}: {cause}", path.display())));
        if let Some(trouble) = &mut self.trouble {
            (trouble.cause, trouble.retry) = (cause, retry);
            return;
        }
        tracing::warn!(
            event = "log.trouble", %app, file = %path.display(), error = %short.error,
            "{app}: cannot write its log: output is dropped and counted until {} can be written again", path.display()
        );
        self.trouble = Some(Trouble { cause, gap: Gap::default(), lines: 0, retry });
    }

    fn recovered(&mut self) {
        let Some(trouble) = self.trouble.take() else { return };
        let Target { app, path, status, .. } = &*self.target;
        status.set_trouble(None);
        tracing::info!(
            event = "log.recovered", %app, file = %path.display(), error = %trouble.cause, dropped_lines = trouble.lines,
            "{app}: its log is written again; {} lines were dropped", trouble.lines
        );
    }
}

fn trouble_lines(trouble: &Option<Trouble>) -> u64 {
    trouble.as_ref().map_or(0, |trouble| trouble.gap.lines)
}

fn dropped(lines: u64, cause: &str) -> String {
    let lines = if lines == 1 { "1 line".into() } else { format!("{lines} lines") };
    format!("[kasm-void: {lines} dropped: {cause}]")
}

/// The error as part of a sentence: "no space left on device".
fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// A panic elsewhere does not make what is behind the lock wrong.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The opener of real life.
pub fn opener() -> Opener {
    Arc::new(|path: &Path| -> io::Result<File> { super::file::open(path) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_little_room_for_others() {
        assert_eq!(allowance(BUDGET, 0, 0), CHUNK);
        assert_eq!(allowance(BUDGET, BUDGET - 1, BUDGET - 1), CHUNK);
        assert_eq!(allowance(BUDGET, BUDGET, 0), RESERVE);
        assert_eq!(allowance(BUDGET, BUDGET, 1), 0);
    }

    #[test]
    fn errors_read_as_part_of_a_sentence() {
        assert_eq!(cause(&io::Error::from_raw_os_error(libc::ENOSPC)), "no space left on device");
        assert_eq!(dropped(1, "x"), "[kasm-void: 1 line dropped: x]");
    }
}
