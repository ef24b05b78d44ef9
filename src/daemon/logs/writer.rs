//! The only thread that touches log files. If a disk is full, hung or read-only, only this thread is affected.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::destination::Destination;
use super::file::{self, Opener};
use super::outlet::Outlet;
use super::pipe::InPipe;
use super::queue::{Job, Shared, Start};
use crate::host::sync::lock;

/// After this long without output, spare buffers are freed and waiting lines are written.
const IDLE: Duration = Duration::from_secs(1);

/// Returns the function with which the queue starts its writer.
pub fn starter(opener: Opener, checkpoint: Arc<Mutex<Checkpoint>>) -> Start {
    Box::new(move |shared, queue| {
        let writer = Writer { shared, opener: opener.clone(), checkpoint: checkpoint.clone(), outlets: HashMap::new() };
        let thread = std::thread::Builder::new().name("logs".into()).stack_size(256 << 10);
        thread.spawn(move || writer.run(&queue)).map(|_| ())
    })
}

/// The opener used outside of tests.
pub fn opener() -> Opener {
    Arc::new(|path: &Path| -> io::Result<std::fs::File> { file::open(path) })
}

struct Writer {
    shared: Arc<Shared>,
    opener: Opener,
    checkpoint: Arc<Mutex<Checkpoint>>,
    outlets: HashMap<Arc<str>, Outlet>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Some(job) = self.next(queue) {
            let job = self.work(job);
            self.shared.finish(job);
        }
    }

    fn next(&mut self, queue: &mpsc::Receiver<Job>) -> Option<Job> {
        match queue.recv_timeout(IDLE) {
            Ok(job) => return Some(job),
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        self.shared.slim_down();
        self.outlets.values_mut().for_each(Outlet::write_aside);
        queue.recv().ok()
    }

    /// Performs the job and returns it.
    fn work(&mut self, mut job: Job) -> Job {
        match &mut job {
            Job::Output(destination, bytes, in_pipe) => self.output(destination, bytes, in_pipe.as_ref()),
            Job::CommandLines(destination, lines) => self.outlet(destination).command_lines(lines),
            Job::Lost(destination, lines, cause) => self.outlet(destination).lost(*lines, cause),
            Job::Note(destination, text) => self.outlet(destination).note(text),
            Job::Lines(destination, count, reply) => {
                let (count, (dead, _)) = (*count, tokio::sync::oneshot::channel());
                let lines = self.outlet(destination).lines(count);
                let _ = std::mem::replace(reply, dead).send(lines); // the client may have disconnected
            }
            Job::Sync(reply) => {
                self.outlets.values_mut().for_each(Outlet::settle);
                let (dead, _) = tokio::sync::oneshot::channel();
                let _ = std::mem::replace(reply, dead).send(()); // the client may have disconnected
            }
            Job::Close(app) => {
                if let Some(mut outlet) = self.outlets.remove(app) {
                    outlet.settle();
                }
            }
        }
        job
    }

    fn output(&mut self, destination: &Arc<Destination>, bytes: &[u8], in_pipe: Option<&InPipe>) {
        let Some(at) = self.outlet(destination).interruption(bytes) else {
            return self.write(destination, bytes, in_pipe);
        };
        let (first, rest) = bytes.split_at(at);
        self.write(destination, first, in_pipe);
        self.outlet(destination).write_aside();
        self.write(destination, rest, in_pipe);
    }

    /// Writes the bytes first, then takes them out of the pipe. Whenever we die, at least one of the two has them.
    fn write(&mut self, destination: &Arc<Destination>, bytes: &[u8], in_pipe: Option<&InPipe>) {
        let Some(in_pipe) = in_pipe else { return self.outlet(destination).output(bytes) };
        if let Some(chunk) = self.outlet(destination).place(bytes.len()) {
            lock(&self.checkpoint).begin(&destination.app, in_pipe.pipe(), chunk);
        }
        self.outlet(destination).output(bytes);
        in_pipe.take_out(bytes.len());
        lock(&self.checkpoint).end(&destination.app);
    }

    fn outlet(&mut self, destination: &Arc<Destination>) -> &mut Outlet {
        let new = || Outlet::new(destination.clone(), self.opener.clone());
        let outlet = self.outlets.entry(destination.app.clone()).or_insert_with(new);
        outlet.set(destination);
        outlet
    }
}
