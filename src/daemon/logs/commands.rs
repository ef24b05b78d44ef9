//! The output of one app's hooks and probes. It comes through its own pipe, so that it is never taken for the app's
//! output, and goes into the app's log in whole lines.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::pipe::OutputPipe;
use super::reader::Reader;
use crate::host::sync::lock;
use crate::model::output::lines::LineBuffer;
use crate::model::output::pressure::CHUNK;
use crate::model::output::recent::Recent;

/// After this long, an unfinished line is treated as finished.
const QUIET: Duration = Duration::from_millis(200);

/// The most bytes that one drain reads. A command that prints faster is flooding.
const DRAIN: u64 = 1 << 20;

pub struct Commands {
    pipe: Arc<OutputPipe>,
    app: Arc<Reader>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The run these commands belong to.
    run: Option<u64>,
    buffer: LineBuffer,
    recent: Recent,
}

impl Commands {
    /// `app` reads the app's own output.
    pub fn new(pipe: Arc<OutputPipe>, app: Arc<Reader>) -> Arc<Commands> {
        Arc::new(Commands { pipe, app, state: Mutex::default() })
    }

    pub fn pipe(&self) -> &Arc<OutputPipe> {
        &self.pipe
    }

    /// Call this before starting a command of this run.
    pub fn begin(&self, run: u64) {
        let mut state = lock(&self.state);
        if state.run.replace(run) != Some(run) {
            state.recent.begin_run();
        }
    }

    /// Reads until it is aborted.
    pub async fn run(self: Arc<Commands>) {
        loop {
            let waits = !lock(&self.state).buffer.is_empty();
            let ready = match waits {
                false => self.pipe.readable().await,
                true => match tokio::time::timeout(QUIET, self.pipe.readable()).await {
                    Ok(ready) => ready,
                    Err(_) => {
                        self.end_line();
                        continue;
                    }
                },
            };
            let Ok(mut ready) = ready else { return };
            match self.read() {
                0 => ready.clear_ready(),
                _ => tokio::task::yield_now().await,
            }
        }
    }

    /// Reads what is in the pipe now.
    pub fn drain(&self) {
        let mut read = 0;
        while read <= DRAIN {
            match self.read() {
                0 => break,
                bytes => read += bytes,
            }
        }
    }

    /// Treats an unfinished last line as finished.
    pub fn end_line(&self) {
        let mut rest = lock(&self.state).buffer.take_rest();
        if !rest.is_empty() {
            rest.push(b'\n');
            self.app.command_lines(rest);
        }
    }

    /// The last lines printed by commands of this run.
    pub fn last_lines_of_run(&self, count: usize) -> Vec<u8> {
        lock(&self.state).recent.last_lines_of_run(count).to_vec()
    }

    /// Returns the number of bytes.
    fn read(&self) -> u64 {
        let mut buffer = Vec::with_capacity(CHUNK);
        self.pipe.read(&mut buffer);
        let lines = {
            let mut state = lock(&self.state);
            state.recent.push(&buffer);
            state.buffer.push(&buffer)
        };
        if !lines.is_empty() {
            self.app.command_lines(lines);
        }
        buffer.len() as u64
    }
}
