//! One app's pipe and the task that empties it. What is read stays in the pipe until it is in the file, so that
//! a supervisor may die at any moment and the next one finds all that is not written. Never leaves the app
//! waiting for a disk: when the writer is slow the pipe is emptied all the same, and when the queue to it is full
//! because it is stuck, output is counted and dropped, and only the ring keeps it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;

use super::live::{Lines, Live};
use super::pipe::Peephole;
use super::text::{Gap, Ring, count_lines};
use super::writer::{Ahead, CHUNK, Job, Queue, Target, lock};
use crate::host::sys;

/// What a busy pipe is made to hold, as far as the system lets us.
const PIPE: usize = 1 << 20;

/// More than a pipe holds: who reads this much without an end races with a flood.
const DRAIN: usize = 2 * PIPE;

/// Less than this is copied out of the buffer, so that a short line does not hold 256 KiB.
const SMALL: usize = CHUNK / 4;

/// A pipe that gives this much at once is as good as full, and is made larger.
const BUSY: usize = 32 << 10;

/// An app that writes line by line is read no more often than this: one read for many lines.
const PAUSE: Duration = Duration::from_millis(2);

/// A writer that takes longer than this for a chunk is slow: the pipe is emptied before it is done.
const SLOW: Duration = Duration::from_millis(50);

/// The same where everything waits for it: an app has just died, and its last words are wanted.
const SLOW_AT_A_DEATH: Duration = Duration::from_millis(20);

const STUCK: &str = "the disk did not keep up";

pub struct Tap {
    pipe: AsyncFd<OwnedFd>,
    peephole: Arc<Peephole>,
    queue: Arc<Queue>,
    state: Mutex<State>,
    /// The chunk that was read and is still in the pipe, because it is not in the file yet: its number and its
    /// bytes. Held while they are taken out, or they would be read once more.
    ahead: Mutex<Option<(u32, usize)>>,
    written: Notify,
    itself: Weak<Tap>,
}

struct State {
    target: Arc<Target>,
    ring: Ring,
    live: Option<Box<Live>>,
    /// The writer is stuck: what there is no room for is dropped.
    stuck: Option<Gap>,
    bytes: u64,
    /// What came before is of an earlier run.
    run_from: u64,
    grown: bool,
    /// Number of the chunk read last.
    chunk: u32,
}

/// What one read came to.
#[derive(Debug, PartialEq, Eq)]
enum Pumped {
    Bytes(usize),
    Empty,
    /// What was read last is not in the file yet.
    InFlight,
    /// No room in the queue.
    Full,
}

impl State {
    /// Output came: for the ring, and for those who follow.
    fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.ring.push(bytes);
        if let Some(live) = &mut self.live {
            live.feed(&self.target.app, bytes);
            if live.is_idle() {
                self.live = None;
            }
        }
    }

    /// The writer is stuck: from now on output is dropped rather than waited with.
    fn begin_gap(&mut self) {
        if self.stuck.is_some() {
            return;
        }
        self.stuck = Some(Gap::default());
        let Target { app, path, status, .. } = &*self.target;
        let file = path.display();
        tracing::warn!(
            event = "log.trouble",
            %app, %file, error = STUCK,
            "{app}: its log is not written: output is dropped and counted until the disk answers"
        );
        status.set_trouble(Some(format!("cannot write {file}: {STUCK}")));
    }

    fn lose(&mut self, bytes: &[u8]) {
        self.stuck.get_or_insert_default().lose(bytes);
        self.target.status.dropped_lines.fetch_add(count_lines(bytes), Ordering::Relaxed);
    }
}

impl Tap {
    pub fn new(pipe: OwnedFd, peephole: Arc<Peephole>, queue: Arc<Queue>, target: Arc<Target>) -> io::Result<Arc<Tap>> {
        let pipe = sys::async_fd(pipe, Interest::READABLE)?;
        let state = State {
            target,
            ring: Ring::default(),
            live: None,
            stuck: None,
            bytes: 0,
            run_from: 0,
            grown: false,
            chunk: 0,
        };
        Ok(Arc::new_cyclic(|itself| Tap {
            pipe,
            peephole,
            queue,
            state: Mutex::new(state),
            ahead: Mutex::default(),
            written: Notify::new(),
            itself: itself.clone(),
        }))
    }

    /// This chunk is written, or lost for good: it leaves the pipe, unless it has left it before.
    pub fn settle(&self, chunk: u32) {
        self.take_out(|ahead| ahead == chunk);
    }

    /// What was read ahead leaves the pipe though it is not written.
    fn settle_unwritten(&self) {
        self.take_out(|_| true);
    }

    fn take_out(&self, which: impl Fn(u32) -> bool) {
        let mut ahead = lock(&self.ahead);
        if let Some((_, bytes)) = ahead.take_if(|(chunk, _)| which(*chunk)) {
            self.peephole.discard(self.pipe.get_ref(), bytes);
        }
        drop(ahead);
        self.written.notify_one();
    }

    fn is_ahead(&self) -> bool {
        lock(&self.ahead).is_some()
    }

    async fn wait_until_written(&self) {
        if tokio::time::timeout(SLOW, self.written.notified()).await.is_err() {
            self.settle_unwritten();
        }
    }

    fn wait_at_a_death(&self) {
        let until = std::time::Instant::now() + SLOW_AT_A_DEATH;
        while self.is_ahead() {
            if std::time::Instant::now() > until {
                return self.settle_unwritten();
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// Reads until the runtime ends.
    pub async fn run(self: Arc<Tap>) {
        let mut last = None;
        loop {
            let deadline = self.state().live.as_ref().and_then(|live| live.deadline());
            let ready = match deadline {
                None => self.pipe.readable().await,
                Some(at) => match tokio::time::timeout_at(at, self.pipe.readable()).await {
                    Ok(ready) => ready,
                    Err(_) => {
                        self.tick();
                        continue;
                    }
                },
            };
            let Ok(mut ready) = ready else { return };
            match self.pump() {
                Pumped::Empty => ready.clear_ready(),
                Pumped::Bytes(n) => {
                    let now = Instant::now();
                    match last.replace(now) {
                        Some(before) if n < BUSY && now - before < 2 * PAUSE => tokio::time::sleep(PAUSE).await,
                        // A flood must not keep the loop from its other work.
                        _ => tokio::task::yield_now().await,
                    }
                }
                Pumped::InFlight => self.wait_until_written().await,
                Pumped::Full => self.wait_for_room().await,
            }
        }
    }

    /// Reads what is in the pipe now, without waiting for anything.
    pub fn drain(&self) {
        let mut read = 0;
        while read <= DRAIN {
            match self.pump_or_drop() {
                Pumped::Bytes(n) => read += n,
                Pumped::InFlight => self.wait_at_a_death(),
                Pumped::Empty | Pumped::Full => break,
            }
        }
    }

    /// As [`Tap::drain`], but waits for the writer rather than dropping anything.
    pub async fn drain_slowly(&self) {
        let mut read = 0;
        while read <= DRAIN {
            match self.pump() {
                Pumped::Bytes(n) => read += n,
                Pumped::Empty => break,
                Pumped::InFlight => self.wait_until_written().await,
                Pumped::Full => self.wait_for_room().await,
            }
        }
        let target = self.target();
        let in_a_gap = self.state().stuck.is_some();
        if in_a_gap && self.queue.room(&target.status).await {
            self.end_gap(&mut self.state());
        }
    }

    pub fn set(&self, target: Arc<Target>, forward: bool) {
        let mut state = self.state();
        state.target = target;
        if forward || state.live.is_some() {
            state.live.get_or_insert_default().set_forward(forward);
        }
    }

    pub fn follow(&self) -> broadcast::Receiver<Lines> {
        self.state().live.get_or_insert_default().follow()
    }

    pub fn target(&self) -> Arc<Target> {
        self.state().target.clone()
    }

    /// Bytes read from the pipe.
    pub fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// The last lines of output, as the app wrote them.
    pub fn last_lines(&self, count: usize) -> Vec<u8> {
        self.state().ring.last_lines(count).to_vec()
    }

    /// What comes from now on is of another run.
    pub fn begin_run(&self) {
        let state = &mut *self.state();
        state.run_from = state.bytes;
    }

    /// The last lines of this run's output.
    pub fn last_words(&self, count: usize) -> Vec<u8> {
        let state = &mut *self.state();
        let own = (state.bytes - state.run_from) as usize;
        let lines = state.ring.last_lines(count);
        let earlier = lines.len().saturating_sub(own);
        lines[earlier..].to_vec()
    }

    /// A line that still has no end will get none: its process is gone.
    pub fn end_line(&self) {
        let state = &mut *self.state();
        if let Some(live) = &mut state.live {
            live.end_line(&state.target.app);
        }
    }

    /// A line of our own, behind all output so far.
    pub fn note(&self, text: &str) {
        self.drain();
        let state = &mut *self.state();
        if let Some(live) = &mut state.live {
            live.end_line(&state.target.app);
            live.note(&format!("[kasm-void: {text}]"));
        }
        if self.queue.allowance(&state.target.status) > 0 {
            // As with output, without a writer there is no file.
            let _ = self.queue.push(Job::Note(state.target.clone(), text.to_owned()));
        }
    }

    async fn wait_for_room(&self) {
        let target = self.target();
        if !self.queue.room(&target.status).await {
            self.state().begin_gap();
        }
    }

    fn pump(&self) -> Pumped {
        let state = &mut *self.state();
        match self.queue.allowance(&state.target.status) {
            0 if state.stuck.is_none() => Pumped::Full,
            room => self.read(state, room),
        }
    }

    fn pump_or_drop(&self) -> Pumped {
        let state = &mut *self.state();
        let status = &state.target.status;
        let room = match state.stuck {
            None => self.queue.urgent_allowance(status),
            // More in the queue would not be written either.
            Some(_) => self.queue.allowance(status),
        };
        if room == 0 {
            state.begin_gap();
        }
        self.read(state, room)
    }

    /// Reads once: into the queue when there is room for it there, else only into the ring.
    fn read(&self, state: &mut State, room: usize) -> Pumped {
        // What will not be written, or not now, must not fill the pipe.
        let keeps = room > 0 && state.stuck.is_none();
        if self.is_ahead() {
            match keeps {
                true => return Pumped::InFlight,
                false => self.settle_unwritten(),
            }
        }
        let mut buffer = if room < CHUNK && room > 0 { Vec::with_capacity(room) } else { self.queue.buffer() };
        let bytes = match keeps {
            true => self.peephole.peek(self.pipe.get_ref(), &mut buffer),
            false => rustix::io::retry_on_intr(|| {
                rustix::io::read(self.pipe.get_ref(), rustix::buffer::spare_capacity(&mut buffer))
            })
            .unwrap_or(0),
        };
        if bytes == 0 {
            self.queue.spare(buffer);
            return Pumped::Empty;
        }
        if bytes >= BUSY && !state.grown {
            state.grown = true;
            // Refused beyond the user's share of pipe memory: the pipe then stays as it is.
            let _ = rustix::pipe::fcntl_setpipe_size(self.pipe.get_ref(), PIPE);
            self.peephole.grow(PIPE);
        }
        state.take(&buffer);
        if room == 0 {
            state.lose(&buffer);
            self.queue.spare(buffer);
        } else {
            let ahead = keeps.then(|| self.look_ahead(state, bytes)).flatten();
            self.enqueue(state, buffer, ahead);
        }
        Pumped::Bytes(bytes)
    }

    /// Notes that these bytes stay in the pipe.
    fn look_ahead(&self, state: &mut State, bytes: usize) -> Option<Ahead> {
        let tap = self.itself.upgrade()?;
        state.chunk = state.chunk.wrapping_add(1);
        *lock(&self.ahead) = Some((state.chunk, bytes));
        Some(Ahead { tap, chunk: state.chunk })
    }

    fn enqueue(&self, state: &mut State, mut buffer: Vec<u8>, ahead: Option<Ahead>) {
        if let Some(gap) = &mut state.stuck {
            let lines = gap.lines;
            let lost = buffer.len() - gap.resume(&buffer).len();
            state.target.status.dropped_lines.fetch_add(gap.lines - lines, Ordering::Relaxed);
            buffer.drain(..lost);
            if buffer.is_empty() {
                return self.queue.spare(buffer);
            }
            self.end_gap(state);
        }
        if buffer.len() < SMALL && buffer.capacity() == CHUNK {
            let small = buffer.as_slice().to_vec();
            self.queue.spare(std::mem::replace(&mut buffer, small));
        }
        if let Err(Job::Output(target, lost, _)) = self.queue.push(Job::Output(state.target.clone(), buffer, ahead)) {
            target.status.dropped_lines.fetch_add(count_lines(&lost), Ordering::Relaxed);
            self.settle_unwritten();
        }
    }

    /// The writer works again: says what is missing.
    fn end_gap(&self, state: &mut State) {
        let Some(gap) = state.stuck.take() else { return };
        let Target { app, path, status, .. } = &*state.target;
        status.set_trouble(None);
        tracing::info!(event = "log.recovered", %app, file = %path.display(), error = STUCK, dropped_lines = gap.lines, "{app}: its log is written again; {} lines were dropped", gap.lines);
        if gap.lines > 0 {
            // Without a writer there is no file to say it in.
            let _ = self.queue.push(Job::Lost(state.target.clone(), gap.lines, STUCK));
        }
    }

    fn tick(&self) {
        let state = &mut *self.state();
        if let Some(live) = &mut state.live {
            live.tick(&state.target.app);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}
