//! The task that empties one app's pipe into the queue. What is read stays in the pipe until it is in the file, so if
//! the supervisor dies, the next one finds everything that is not written. Never makes the app wait for a disk.
//! `model::output::pressure` decides when output is let go or dropped for that.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::destination::Destination;
use super::followers::{Followers, Piece};
use super::forwarding::Forwarding;
use super::pipe::{BUSY, GROWN, InPipe, OutputPipe};
use super::queue::{Job, Queue};
use crate::host::sync::lock;
use crate::model::output::lines::count_lines;
use crate::model::output::losses::{Gap, Stage};
use crate::model::output::pressure::{Admission, CHUNK, admission};
use crate::model::output::recent::Recent;

/// More bytes than a pipe holds. A drain that reads this much is racing with a flood.
const DRAIN: u64 = 2 * GROWN as u64;

/// Fewer bytes than this are copied out of the buffer, so that a short line does not hold 256 KiB.
const SMALL: usize = CHUNK / 4;

/// The shortest time between two reads from an app that writes line by line, so that one read takes many lines.
const PAUSE: Duration = Duration::from_millis(2);

const STUCK: &str = "the disk did not keep up";

pub struct Reader {
    pipe: Arc<OutputPipe>,
    queue: Arc<Queue>,
    state: Mutex<State>,
}

struct State {
    destination: Arc<Destination>,
    recent: Recent,
    followers: Option<Box<Followers>>,
    forwarding: Option<Box<Forwarding>>,
    /// Set while output is dropped because the queue was full for too long.
    dropping: Option<Gap>,
}

/// The result of one read.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Bytes(usize),
    Empty,
    /// The last chunk is not in the file yet.
    InFlight,
    /// The queue has no room.
    Full,
}

impl Reader {
    pub fn new(pipe: Arc<OutputPipe>, queue: Arc<Queue>, destination: Arc<Destination>, forward: bool) -> Arc<Reader> {
        let recent = Recent::default();
        let forwarding = forward.then(Box::default);
        let state = State { destination, recent, followers: None, forwarding, dropping: None };
        Arc::new(Reader { pipe, queue, state: Mutex::new(state) })
    }

    /// Reads until it is aborted.
    pub async fn run(self: Arc<Reader>) {
        let mut last = None;
        loop {
            let ready = match self.due() {
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
            match self.read(false) {
                Outcome::Empty => ready.clear_ready(),
                Outcome::Bytes(n) => {
                    let now = Instant::now();
                    match last.replace(now) {
                        Some(before) if n < BUSY && now - before < 2 * PAUSE => tokio::time::sleep(PAUSE).await,
                        // A flood must not block the loop's other work.
                        _ => tokio::task::yield_now().await,
                    }
                }
                Outcome::InFlight => self.pipe.until_taken_out().await,
                Outcome::Full => self.wait_for_room().await,
            }
        }
    }

    /// Reads what is in the pipe now. Waits only for the chunk in flight, and only briefly.
    pub fn drain(&self) {
        let from = self.bytes();
        while self.bytes() - from <= DRAIN {
            match self.read(true) {
                Outcome::Bytes(_) => {}
                Outcome::InFlight => self.pipe.until_taken_out_at_a_death(),
                Outcome::Empty | Outcome::Full => break,
            }
        }
    }

    /// Like [`Reader::drain`], but waits for the writer instead of dropping output.
    pub async fn drain_slowly(&self) {
        let from = self.bytes();
        while self.bytes() - from <= DRAIN {
            match self.read(false) {
                Outcome::Bytes(_) => {}
                Outcome::Empty => break,
                Outcome::InFlight => self.pipe.until_taken_out().await,
                Outcome::Full => self.wait_for_room().await,
            }
        }
        let dropping = self.state().dropping.is_some();
        if dropping && self.queue.room(&self.destination().account).await {
            self.end_gap(&mut self.state());
        }
    }

    /// Changes the destination of future output.
    pub fn set(&self, destination: Arc<Destination>, forward: bool) {
        let mut state = self.state();
        if let Some(followers) = &mut state.followers {
            followers.set(destination.timestamps);
        }
        state.destination = destination;
        match forward {
            true => drop(state.forwarding.get_or_insert_default()),
            false => state.forwarding = None,
        }
    }

    pub fn follow(&self) -> broadcast::Receiver<Piece> {
        let state = &mut *self.state();
        let mid_line = state.recent.last_lines(1).last().is_some_and(|last| *last != b'\n');
        let followers = state.followers.get_or_insert_with(|| Box::new(Followers::new(mid_line)));
        followers.set(state.destination.timestamps);
        followers.follow()
    }

    /// Whether lines are forwarded to the supervisor's own log.
    pub fn is_forwarding(&self) -> bool {
        self.state().forwarding.is_some()
    }

    pub fn pipe(&self) -> &Arc<OutputPipe> {
        &self.pipe
    }

    pub fn destination(&self) -> Arc<Destination> {
        self.state().destination.clone()
    }

    /// Bytes read from the pipe.
    pub fn bytes(&self) -> u64 {
        self.state().recent.seen()
    }

    /// Output from now on belongs to a new run.
    pub fn begin_run(&self) {
        self.state().recent.begin_run();
    }

    /// The last lines of output, as the app wrote them.
    pub fn last_lines(&self, count: usize) -> Vec<u8> {
        self.state().recent.last_lines(count).to_vec()
    }

    /// The last lines of this run's output.
    pub fn last_lines_of_run(&self, count: usize) -> Vec<u8> {
        self.state().recent.last_lines_of_run(count).to_vec()
    }

    /// Treats an unfinished last line as finished: its process is gone.
    pub fn end_line(&self) {
        let state = &mut *self.state();
        if let Some(followers) = &mut state.followers {
            followers.send_rest();
        }
        if let Some(forwarding) = &mut state.forwarding {
            forwarding.end_line(&state.destination.app);
        }
    }

    /// Takes whole lines of a hook or probe. They go into the app's log, but are not the app's output.
    pub fn command_lines(&self, lines: Vec<u8>) {
        let state = &mut *self.state();
        if let Some(followers) = &mut state.followers {
            followers.interrupt(&lines);
        }
        let account = &state.destination.account;
        if self.queue.allowance(account, false) == 0 {
            return account.drop_lines(count_lines(&lines));
        }
        if let Err(Job::CommandLines(destination, lost)) =
            self.queue.push(Job::CommandLines(state.destination.clone(), lines))
        {
            destination.account.drop_lines(count_lines(&lost));
        }
    }

    /// Adds a line of our own after all output so far.
    pub fn note(&self, text: &str) {
        self.drain();
        let state = &mut *self.state();
        if let Some(followers) = &mut state.followers {
            followers.interrupt(format!("[kasm-void: {text}]\n").as_bytes());
        }
        if self.queue.allowance(&state.destination.account, false) > 0 {
            // As with output, without a writer there is no file.
            let _ = self.queue.push(Job::Note(state.destination.clone(), text.to_owned()));
        }
    }

    async fn wait_for_room(&self) {
        let destination = self.destination();
        if !self.queue.room(&destination.account).await {
            begin_gap(&mut self.state());
        }
    }

    /// Reads once. `urgent`: output that does not fit the queue is dropped instead of left waiting.
    fn read(&self, urgent: bool) -> Outcome {
        let state = &mut *self.state();
        // While output is dropped, queueing more would not get it written.
        let room = self.queue.allowance(&state.destination.account, urgent && state.dropping.is_none());
        let admission = admission(room, state.dropping.is_some(), urgent);
        if admission == Admission::Wait {
            return Outcome::Full;
        }
        if self.pipe.is_in_flight() {
            match admission {
                Admission::Queue { protected: true } => return Outcome::InFlight,
                // Output that is not written now must not fill the pipe.
                _ => self.pipe.let_go(),
            }
        }
        let mut buffer = self.queue.buffer(if room == 0 { CHUNK } else { room });
        let in_pipe = match admission {
            Admission::Queue { protected: true } => self.pipe.read_protected(&mut buffer),
            _ => {
                self.pipe.read(&mut buffer);
                None
            }
        };
        let bytes = buffer.len();
        if bytes == 0 {
            self.queue.spare(buffer);
            return Outcome::Empty;
        }
        state.take(&buffer);
        match admission {
            Admission::Queue { .. } => self.enqueue(state, buffer, in_pipe),
            _ => {
                state.lose(&buffer);
                self.queue.spare(buffer);
            }
        }
        Outcome::Bytes(bytes)
    }

    fn enqueue(&self, state: &mut State, mut buffer: Vec<u8>, in_pipe: Option<InPipe>) {
        if let Some(gap) = &mut state.dropping {
            let (whole, lost_lines) = gap.resume(&buffer);
            let lost = buffer.len() - whole.len();
            state.destination.account.drop_lines(lost_lines);
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
        if let Err(Job::Output(destination, lost, _)) =
            self.queue.push(Job::Output(state.destination.clone(), buffer, in_pipe))
        {
            destination.account.drop_lines(count_lines(&lost));
            self.pipe.let_go();
        }
    }

    /// Call this when the writer works again. Notes what is missing.
    fn end_gap(&self, state: &mut State) {
        let Some(gap) = state.dropping.take() else { return };
        state.destination.end_trouble(Stage::Queue);
        if gap.lines() > 0 {
            // Without a writer there is no file to note it in.
            let _ = self.queue.push(Job::Lost(state.destination.clone(), gap.lines(), STUCK));
        }
    }

    fn due(&self) -> Option<Instant> {
        let state = self.state();
        let followers = state.followers.as_ref().and_then(|followers| followers.due());
        let forwarding = state.forwarding.as_ref().and_then(|forwarding| forwarding.due());
        followers.into_iter().chain(forwarding.map(Instant::from_std)).min()
    }

    fn tick(&self) {
        let state = &mut *self.state();
        if let Some(followers) = &mut state.followers {
            followers.tick(Instant::now());
        }
        if let Some(forwarding) = &mut state.forwarding {
            forwarding.tick(&state.destination.app);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Call this when the writer is stuck. From now on output is dropped instead of left waiting.
fn begin_gap(state: &mut State) {
    if state.dropping.is_none() {
        state.dropping = Some(Gap::default());
        state.destination.begin_trouble(Stage::Queue, STUCK);
    }
}

impl State {
    /// Passes output to memory, followers and forwarding.
    fn take(&mut self, bytes: &[u8]) {
        self.recent.push(bytes);
        self.followers.take_if(|followers| followers.is_idle());
        if let Some(followers) = &mut self.followers {
            followers.feed(bytes);
        }
        if let Some(forwarding) = &mut self.forwarding {
            forwarding.feed(&self.destination.app, bytes);
        }
    }

    fn lose(&mut self, bytes: &[u8]) {
        begin_gap(self);
        if let Some(gap) = &mut self.dropping {
            self.destination.account.drop_lines(gap.drop(bytes));
        }
    }
}
