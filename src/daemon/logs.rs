//! The apps' output: a pipe for each app that outlives the supervisor, a task that empties it, and one thread that
//! writes files. Makes no decisions about apps, and never makes an app wait for a disk. A line passes through `pipe`,
//! `reader`, `queue`, `writer`, `outlet` and `file`; beside them are `followers`, `forwarding` and `checkpoint`. A file
//! uses only those above it in the list of modules.

mod generations;
mod pipe;

mod checkpoint;
mod destination;
mod file;
mod followers;
mod forwarding;

mod outlet;
mod queue;

mod reader;
mod writer;

mod commands;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{broadcast, oneshot};
use tokio::task::AbortHandle;

use self::checkpoint::Checkpoint;
use self::commands::Commands;
use self::destination::{Account, Destination};
use self::file::Opener;
pub use self::followers::Piece;
pub use self::pipe::OutputPipe;
use self::pipe::PipePeek;
use self::queue::{Job, Queue};
use self::reader::Reader;
use crate::host::layout;
use crate::host::sync::lock;
use crate::model::manifest::log::Log;
use crate::model::plain;

/// How long a client that asks for lines waits for the disk.
const PATIENCE: Duration = Duration::from_secs(2);

/// The output of all apps. Cheap to clone.
#[derive(Clone)]
pub struct Logs(Arc<Inner>);

struct Inner {
    state: PathBuf,
    queue: Arc<Queue>,
    peek: OnceLock<Arc<PipePeek>>,
    checkpoint: Arc<Mutex<Checkpoint>>,
    apps: Mutex<BTreeMap<String, Attached>>,
    /// Pipes of an earlier supervisor whose app is not attached yet.
    inherited: Mutex<BTreeMap<String, OwnedFd>>,
}

/// An app whose output is read.
struct Attached {
    reader: Arc<Reader>,
    task: AbortHandle,
    /// The pipe for hooks and probes, made when the first one runs.
    commands: Option<(Arc<Commands>, AbortHandle)>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.task.abort();
        if let Some((_, task)) = &self.commands {
            task.abort();
        }
    }
}

/// The source of the last lines that are reported with a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    App,
    /// Its hooks and probes.
    Commands,
}

/// Statistics of an app's output since this supervisor began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes read from the app.
    pub bytes: u64,
    /// Lines that are not in the file.
    pub dropped_lines: u64,
    /// Why output is being dropped, if it is.
    pub trouble: Option<String>,
}

impl Logs {
    /// `state` is the state folder. It holds the checkpoint and, in `logs/`, the files of apps whose manifest names no
    /// path.
    pub fn new(state: &Path) -> Logs {
        Logs::with_opener(state, writer::opener())
    }

    fn with_opener(state: &Path, opener: Opener) -> Logs {
        let checkpoint = Arc::new(Mutex::new(Checkpoint::open(state)));
        let queue = Arc::new(Queue::new(writer::starter(opener, checkpoint.clone())));
        let (state, peek) = (state.to_owned(), OnceLock::new());
        Logs(Arc::new(Inner { state, queue, peek, checkpoint, apps: Mutex::default(), inherited: Mutex::default() }))
    }

    /// Takes the pipes that an earlier supervisor made, by app. Each is used when its app is attached.
    pub fn take_over(&self, pipes: BTreeMap<String, OwnedFd>) {
        *lock(&self.0.inherited) = pipes;
    }

    /// Starts reading the app's output, through the pipe that the guard kept or a new one. If the app is already
    /// attached, only changes the settings for future output. Must be called within the runtime.
    pub fn attach(&self, app: &str, log: &Log) -> io::Result<()> {
        let mut apps = lock(&self.0.apps);
        if let Some(Attached { reader, .. }) = apps.get(app) {
            let old = reader.destination();
            reader.set(self.destination(old.app.clone(), log, old.account.clone()), log.forward);
            return Ok(());
        }
        let said = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot create a pipe for the output of `{app}`: {error}"))
        };
        let peek = self.peek().map_err(said)?;
        let inherited = lock(&self.0.inherited).remove(app);
        let fd = inherited.map_or_else(pipe::make, Ok).map_err(said)?;
        let pipe = OutputPipe::new(fd, peek).map_err(said)?;
        let destination = self.destination(app.into(), log, Arc::default());
        apps.insert(app.to_owned(), self.read(pipe, destination, log.forward));
        Ok(())
    }

    /// Call this when an app that was already running is adopted. The app may write into a pipe that we do not have,
    /// because its supervisor died together with its guard. If so, opens that pipe through the app and reads it from now
    /// on, in place of the app's new pipe, and returns true.
    pub fn adopted(&self, app: &str, leader: i32) -> bool {
        let Some(id) = self.pipe_left(app).or_else(|| self.foreign_pipe_of(leader)) else { return false };
        let found = pipe::find(id, &[leader]).or_else(|_| pipe::find(id, &pipe::everyone()));
        match found.and_then(|fd| self.read_instead(app, fd)) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    event = "log.trouble", app, pid = leader, %error,
                    "{app}: cannot read the output of pid {leader}, which an earlier supervisor started: {error}; restart it to see its output"
                );
                false
            }
        }
    }

    /// Like [`Logs::adopted`], when the leader is gone, and only these processes of its tree are left: its last output may
    /// be in a pipe that they have open.
    pub fn remains(&self, app: &str, processes: &[i32]) -> bool {
        let Some(id) = self.pipe_left(app) else { return false };
        pipe::find(id, processes).and_then(|fd| self.read_instead(app, fd)).is_ok()
    }

    fn read_instead(&self, app: &str, fd: OwnedFd) -> io::Result<()> {
        let mut apps = lock(&self.0.apps);
        let attached = apps.get_mut(app).ok_or_else(|| io::Error::other("its output is not read"))?;
        let pipe = OutputPipe::new(fd, self.peek()?)?;
        let (destination, forward) = (attached.reader.destination(), attached.reader.is_forwarding());
        *attached = self.read(pipe, destination, forward);
        Ok(())
    }

    /// The pipe that an earlier supervisor has recorded for the app, if it is not the one that we read.
    fn pipe_left(&self, app: &str) -> Option<u64> {
        Some(lock(&self.0.checkpoint).left(app)?.pipe)
    }

    /// A pipe that a supervisor made as the output of this process, if no app's pipe is that one: the record was deleted.
    fn foreign_pipe_of(&self, pid: i32) -> Option<u64> {
        let id = pipe::output_of(pid)?;
        lock(&self.0.apps).values().all(|attached| attached.reader.pipe().id() != id).then_some(id)
    }

    fn read(&self, pipe: Arc<OutputPipe>, destination: Arc<Destination>, forward: bool) -> Attached {
        let mut checkpoint = lock(&self.0.checkpoint);
        let left = checkpoint.left(&destination.app);
        if let (Some(left), Ok(peek)) = (left, self.peek()) {
            checkpoint::recover(left, &pipe, &peek, &destination.path, destination.keep);
        }
        // If the record names another pipe, an app may still write into that one. Keep the record until the new pipe is
        // used.
        if left.is_none_or(|left| left.pipe == pipe.id()) {
            checkpoint.attached(&destination.app, pipe.id(), &destination.path);
        }
        drop(checkpoint);
        let reader = Reader::new(pipe, self.0.queue.clone(), destination, forward);
        let task = tokio::spawn(reader.clone().run()).abort_handle();
        Attached { reader, task, commands: None }
    }

    /// The pipes of all apps, for the process that is to hold them.
    pub fn descriptors(&self) -> BTreeMap<String, OwnedFd> {
        let apps = lock(&self.0.apps);
        let pipe = |(app, attached): (&String, &Attached)| {
            Some((app.clone(), attached.reader.pipe().as_fd().try_clone_to_owned().ok()?))
        };
        apps.iter().filter_map(pipe).collect()
    }

    /// The app's output pipe, for inspection only. To start a program, use [`Logs::begin_run`].
    pub fn pipe(&self, app: &str) -> Option<Arc<OutputPipe>> {
        Some(self.reader(app)?.pipe().clone())
    }

    /// Begins a run of the app. Returns the pipe for its program's stdout and stderr.
    pub fn begin_run(&self, app: &str) -> Option<Arc<OutputPipe>> {
        let reader = self.reader(app)?;
        reader.begin_run();
        reader.pipe().make_blocking();
        let destination = reader.destination();
        lock(&self.0.checkpoint).attached(&destination.app, reader.pipe().id(), &destination.path);
        Some(reader.pipe().clone())
    }

    /// The pipe for the stdout and stderr of a hook or probe of this run.
    pub fn command_pipe(&self, app: &str, run: u64) -> io::Result<Arc<OutputPipe>> {
        let mut apps = lock(&self.0.apps);
        let attached = apps.get_mut(app).ok_or_else(|| io::Error::other("its output is not read"))?;
        if attached.commands.is_none() {
            let pipe = OutputPipe::new(pipe::make()?, self.peek()?)?;
            let commands = Commands::new(pipe, attached.reader.clone());
            let task = tokio::spawn(commands.clone().run()).abort_handle();
            attached.commands = Some((commands, task));
        }
        let (commands, _) = attached.commands.as_ref().ok_or_else(|| io::Error::other("it was just made"))?;
        commands.begin(run);
        commands.pipe().make_blocking();
        Ok(commands.pipe().clone())
    }

    /// The last `lines` lines of this run, escaped for display. For an app that has just died: does not wait for the
    /// disk, and treats an unfinished last line as finished.
    pub fn tail(&self, app: &str, lines: usize, speaker: Speaker) -> Vec<String> {
        let Some((reader, commands)) = self.both(app) else { return Vec::new() };
        if let Some(commands) = &commands {
            commands.drain();
            commands.end_line();
        }
        reader.drain();
        reader.end_line();
        plain::lines(&match speaker {
            Speaker::App => reader.last_lines_of_run(lines),
            Speaker::Commands => commands.map(|commands| commands.last_lines_of_run(lines)).unwrap_or_default(),
        })
    }

    /// The last `lines` lines from the files, including everything written before this call. If the disk does not
    /// answer, they come from memory, which holds fewer. A `follow` right after this call (before awaiting the future)
    /// continues exactly where these lines end.
    pub fn lines(&self, app: &str, lines: usize) -> impl Future<Output = Vec<u8>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let in_memory = self.both(app).map(|(reader, commands)| {
            if let Some(commands) = commands {
                commands.drain();
            }
            reader.drain();
            // Without a writer the reply is dropped, and the lines come from memory.
            let _ = self.0.queue.push(Job::Lines(reader.destination(), lines, reply));
            reader.last_lines(lines)
        });
        async move {
            match tokio::time::timeout(PATIENCE, answer).await {
                Ok(Ok(Some(lines))) => lines,
                _ => in_memory.unwrap_or_default(),
            }
        }
    }

    /// Follows the app's output. A client that is too slow loses the oldest pieces and gets `Lagged`.
    pub fn follow(&self, app: &str) -> Option<broadcast::Receiver<Piece>> {
        Some(self.reader(app)?.follow())
    }

    /// Where the app's output is written.
    pub fn file(&self, app: &str) -> PathBuf {
        match self.reader(app) {
            Some(reader) => reader.destination().path.clone(),
            None => default_file(&self.0.state, app),
        }
    }

    pub fn stats(&self, app: &str) -> Stats {
        let Some(reader) = self.reader(app) else { return Stats::default() };
        let destination = reader.destination();
        let dropped_lines = destination.account.dropped_lines();
        Stats { bytes: reader.bytes(), dropped_lines, trouble: destination.trouble() }
    }

    /// Adds `[kasm-void: text]` to the app's log, after its output so far.
    pub fn note(&self, app: &str, text: &str) {
        if let Some(reader) = self.reader(app) {
            reader.note(text);
        }
    }

    /// Forgets an app that is gone. Its output so far is kept; its pipe is closed.
    pub fn detach(&self, app: &str) {
        let Some(attached) = lock(&self.0.apps).remove(app) else { return };
        if let Some((commands, _)) = &attached.commands {
            commands.drain();
            commands.end_line();
        }
        attached.reader.drain();
        if self.0.queue.is_started() {
            // A writer that has ended has closed its files.
            let _ = self.0.queue.push(Job::Close(app.into()));
        }
        lock(&self.0.checkpoint).remove(app);
    }

    /// Waits until everything the apps have written is in their files, or `within` is over.
    pub async fn flush(&self, within: Duration) {
        let names: Vec<String> = lock(&self.0.apps).keys().cloned().collect();
        let written = async {
            for (reader, commands) in names.iter().filter_map(|name| self.both(name)) {
                if let Some(commands) = commands {
                    commands.drain();
                    commands.end_line();
                }
                reader.drain_slowly().await;
            }
            let (reply, answer) = oneshot::channel();
            if self.0.queue.is_started() && self.0.queue.push(Job::Sync(reply)).is_ok() {
                // A writer that has ended has written all it will.
                let _ = answer.await;
            }
        };
        if tokio::time::timeout(within, written).await.is_err() {
            tracing::warn!(
                event = "log.trouble",
                "not all output is in the log files: the disk did not take it within {within:?}"
            );
        }
    }

    fn peek(&self) -> io::Result<Arc<PipePeek>> {
        match self.0.peek.get() {
            Some(peek) => Ok(peek.clone()),
            None => {
                let made = Arc::new(PipePeek::new()?);
                Ok(self.0.peek.get_or_init(|| made).clone())
            }
        }
    }

    fn reader(&self, app: &str) -> Option<Arc<Reader>> {
        self.both(app).map(|(reader, _)| reader)
    }

    fn both(&self, app: &str) -> Option<(Arc<Reader>, Option<Arc<Commands>>)> {
        let apps = lock(&self.0.apps);
        let attached = apps.get(app)?;
        Some((attached.reader.clone(), attached.commands.as_ref().map(|(commands, _)| commands.clone())))
    }

    fn destination(&self, app: Arc<str>, log: &Log, account: Arc<Account>) -> Arc<Destination> {
        let path = log.file.clone().unwrap_or_else(|| default_file(&self.0.state, &app));
        let (max_size, keep, timestamps) = (log.max_size, log.keep, log.timestamps);
        Arc::new(Destination { app, path, max_size, keep, timestamps, account })
    }
}

/// The log file of an app whose manifest names none.
fn default_file(state: &Path, app: &str) -> PathBuf {
    layout::log(state, app)
}

/// The apps of the last supervisor whose logs can be read when no supervisor runs. `state` is its folder.
pub fn recorded(state: &Path) -> Vec<String> {
    checkpoint::recorded(state)
}

/// Reads the last `lines` lines of an app's log files when no supervisor runs; at most 8 MiB. `state` is the folder of
/// the last supervisor.
pub fn read_files(state: &Path, app: &str, lines: usize) -> io::Result<Vec<u8>> {
    let path = checkpoint::log_of(state, app).unwrap_or_else(|| default_file(state, app));
    file::read_last_lines(&path, u32::MAX, lines)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests;
