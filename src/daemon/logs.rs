//! The apps' output: a pipe for each app that outlives us, a task that empties it, and one thread that
//! writes it to files. Decides nothing about apps, and never makes one wait for a disk.

mod file;
mod live;
mod pipe;
mod places;
mod tap;
mod text;
mod writer;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::{broadcast, oneshot};
use tokio::task::AbortHandle;

use self::file::Opener;
pub use self::live::Lines;
use self::pipe::Peephole;
use self::places::Places;
use self::tap::Tap;
pub use self::text::readable;
use self::writer::{Job, Queue, Status, Target, lock};
use crate::model::manifest::log::Log;

/// Who asks for lines waits no longer than this for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// The output of all apps. Cheap to clone.
#[derive(Clone)]
pub struct Logs(Arc<Inner>);

struct Inner {
    state: PathBuf,
    queue: Arc<Queue>,
    peephole: OnceLock<Arc<Peephole>>,
    places: Arc<Mutex<Places>>,
    apps: Mutex<BTreeMap<String, Attached>>,
    /// Pipes of an earlier supervisor that no app has asked for yet.
    inherited: Mutex<BTreeMap<String, OwnedFd>>,
}

struct Attached {
    tap: Arc<Tap>,
    input: Arc<OwnedFd>,
    reader: AbortHandle,
}

/// What became of an app's output since this supervisor began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes the app wrote.
    pub bytes: u64,
    /// Lines that are not in the file.
    pub dropped_lines: u64,
    /// Why output is being dropped now.
    pub trouble: Option<String>,
}

impl Logs {
    /// `state`: the supervisor's folder; pipes are in `out/` there, files without a path in `logs/`.
    pub fn new(state: &Path) -> Logs {
        Logs::with_opener(state, writer::opener())
    }

    fn with_opener(state: &Path, opener: Opener) -> Logs {
        let places = Arc::new(Mutex::new(Places::open(state.join("out.places"))));
        let queue = Arc::new(Queue::new(opener, places.clone()));
        Logs(Arc::new(Inner {
            state: state.to_owned(),
            queue,
            peephole: OnceLock::new(),
            places,
            apps: Mutex::default(),
            inherited: Mutex::default(),
        }))
    }

    /// These pipes were made by an earlier supervisor, by app. Each is used when its app is attached.
    pub fn take_over(&self, pipes: BTreeMap<String, OwnedFd>) {
        *lock(&self.0.inherited) = pipes;
    }

    /// Makes or finds the app's pipe and reads it from now on; for an app that is attached already, the
    /// settings are the ones for all output that comes. Call it within the runtime.
    pub fn attach(&self, app: &str, log: &Log) -> io::Result<()> {
        let mut apps = lock(&self.0.apps);
        if let Some(attached) = apps.get(app) {
            let old = attached.tap.target();
            attached.tap.set(self.target(old.app.clone(), log, old.status.clone()), log.forward);
            return Ok(());
        }
        let said = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot make a pipe for the output of `{app}`: {error}"))
        };
        let inherited = lock(&self.0.inherited).remove(app);
        let pipe = match inherited.and_then(|pipe| pipe::inherited(&pipe).ok()) {
            Some(pipe) => pipe,
            None => self.open_pipe(app).map_err(said)?,
        };
        let target = self.target(app.into(), log, Arc::default());
        let peephole = self.peephole().map_err(said)?;
        let mut places = lock(&self.0.places);
        if let Some(place) = places.left(app) {
            places::recover(place, &pipe.output, &peephole, &target.path, target.keep);
            places.clear(app);
        }
        drop(places);
        let tap = Tap::new(pipe.output, peephole, self.0.queue.clone(), target.clone()).map_err(said)?;
        tap.set(target, log.forward);
        let reader = tokio::spawn(tap.clone().run()).abort_handle();
        apps.insert(app.to_owned(), Attached { tap, input: Arc::new(pipe.input), reader });
        Ok(())
    }

    /// The app's pipe, for the guard to keep open.
    pub fn descriptor(&self, app: &str) -> Option<Arc<OwnedFd>> {
        Some(lock(&self.0.apps).get(app)?.input.clone())
    }

    /// What the app gets as stdout and stderr. Ask again for each run.
    pub fn pipe(&self, app: &str) -> Option<Arc<OwnedFd>> {
        let apps = lock(&self.0.apps);
        let Attached { tap, input, .. } = apps.get(app)?;
        tap.begin_run();
        // The last run may have made it nonblocking (as Node.js does) and the next would lose output.
        let _ = rustix::fs::fcntl_setfl(input, OFlags::RDWR);
        Some(input.clone())
    }

    /// The last `lines` lines of what this run of the app has written up to now, fit to be shown. For an app that
    /// has just died: nothing waits here, and a last line without an end is taken as ended.
    pub fn tail(&self, app: &str, lines: usize) -> Vec<String> {
        let Some(tap) = self.tap(app) else { return Vec::new() };
        tap.drain();
        tap.end_line();
        text::readable_lines(&tap.last_words(lines))
    }

    /// The last `lines` lines as they are in the files, those written up to this call included; from
    /// memory, which holds less, when the disk does not answer. A `follow` right after this call (before
    /// the future is awaited) goes on exactly where these end.
    pub fn lines(&self, app: &str, lines: usize) -> impl Future<Output = Vec<u8>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let in_memory = self.tap(app).map(|tap| {
            tap.drain();
            // Without a writer the reply is dropped, which is an answer.
            let _ = self.0.queue.push(Job::Lines(tap.target(), lines, reply));
            tap.last_lines(lines)
        });
        async move {
            match tokio::time::timeout(PATIENCE, answer).await {
                Ok(Ok(Some(lines))) => lines,
                _ => in_memory.unwrap_or_default(),
            }
        }
    }

    /// Lines as they come. A reader that is too slow loses the oldest and gets `Lagged`.
    pub fn follow(&self, app: &str) -> Option<broadcast::Receiver<Lines>> {
        Some(self.tap(app)?.follow())
    }

    /// Where the app's output is written.
    #[cfg(test)]
    pub fn file(&self, app: &str) -> PathBuf {
        match self.tap(app) {
            Some(tap) => tap.target().path.clone(),
            None => self.default_file(app),
        }
    }

    pub fn stats(&self, app: &str) -> Stats {
        let Some(tap) = self.tap(app) else { return Stats::default() };
        let status = &tap.target().status;
        let dropped_lines = status.dropped_lines.load(Ordering::Relaxed);
        Stats { bytes: tap.bytes(), dropped_lines, trouble: status.trouble() }
    }

    /// Adds `[kasm-void: text]` to the app's log, behind its output so far.
    pub fn note(&self, app: &str, text: &str) {
        if let Some(tap) = self.tap(app) {
            tap.note(text);
        }
    }

    /// The app is no more: what it wrote is kept, its pipe goes.
    pub fn detach(&self, app: &str) {
        let Some(attached) = lock(&self.0.apps).remove(app) else { return };
        attached.tap.drain();
        attached.reader.abort();
        if self.0.queue.is_started() {
            // A writer that ended has closed its files.
            let _ = self.0.queue.push(Job::Close(app.into()));
        }
        let path = self.pipe_path(app);
        if let Err(error) = pipe::remove(&path) {
            tracing::warn!(event = "log.trouble", app, pipe = %path.display(), %error, "cannot remove the app's output pipe");
        }
    }

    /// Everything apps have written up to now is in their files, or `within` is over.
    pub async fn flush(&self, within: Duration) {
        let taps: Vec<_> = lock(&self.0.apps).values().map(|attached| attached.tap.clone()).collect();
        let written = async {
            for tap in taps {
                tap.drain_slowly().await;
            }
            let (reply, answer) = oneshot::channel();
            if self.0.queue.is_started() && self.0.queue.push(Job::Sync(reply)).is_ok() {
                // A writer that ended has written all it will.
                let _ = answer.await;
            }
        };
        if tokio::time::timeout(within, written).await.is_err() {
            tracing::warn!(
                event = "log.trouble",
                "not all output is in the log files: the disk did not take it in {within:?}"
            );
        }
    }

    fn peephole(&self) -> io::Result<Arc<Peephole>> {
        match self.0.peephole.get() {
            Some(peephole) => Ok(peephole.clone()),
            None => {
                let made = Arc::new(Peephole::new()?);
                Ok(self.0.peephole.get_or_init(|| made).clone())
            }
        }
    }

    fn tap(&self, app: &str) -> Option<Arc<Tap>> {
        lock(&self.0.apps).get(app).map(|attached| attached.tap.clone())
    }

    fn open_pipe(&self, app: &str) -> io::Result<pipe::Pipe> {
        let path = self.pipe_path(app);
        pipe::named(&path).or_else(|error| {
            tracing::warn!(
                event = "log.trouble", app, pipe = %path.display(), %error,
                "cannot make a named pipe for the app's output: what is in it is lost should the supervisor die"
            );
            pipe::anonymous()
        })
    }

    fn target(&self, app: Arc<str>, log: &Log, status: Arc<Status>) -> Arc<Target> {
        let path = log.file.as_ref().map_or_else(|| self.default_file(&app), PathBuf::from);
        Arc::new(Target { app, path, max_size: log.max_size, keep: log.keep, status })
    }

    fn pipe_path(&self, app: &str) -> PathBuf {
        self.0.state.join("out").join(app)
    }

    fn default_file(&self, app: &str) -> PathBuf {
        self.0.state.join("logs").join(format!("{app}.log"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for attached in lock(&self.apps).values() {
            attached.reader.abort();
        }
    }
}

#[cfg(test)]
mod tests;
