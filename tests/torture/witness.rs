//! Watches: what must never be seen, not even for a moment, and what the apps said against what was kept of it.
//! Owns the sampling of the process table and the counting of lines.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::sight::{self, Process};

/// Looks at the process table again and again, in a thread of its own.
pub struct Sampler {
    done: Arc<AtomicBool>,
    seen: Receiver<String>,
    thread: Option<JoinHandle<u64>>,
}

const BETWEEN_SAMPLES: Duration = Duration::from_millis(15);

impl Sampler {
    pub fn start(root: &Path) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (tell, seen) = channel();
        let (root, stop) = (root.to_owned(), done.clone());
        let thread = std::thread::spawn(move || {
            let mut samples = 0;
            while !stop.load(Ordering::Relaxed) {
                if let Some(doubled) = doubled(&sight::processes(&root)) {
                    let _ = tell.send(doubled); // nobody listens any more: the run has failed already
                }
                samples += 1;
                std::thread::sleep(BETWEEN_SAMPLES);
            }
            samples
        });
        Sampler { done, seen, thread: Some(thread) }
    }

    /// What should not have been.
    pub fn verdict(&self) -> Option<String> {
        self.seen.try_recv().ok()
    }

    /// How often it looked.
    pub fn end(&mut self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().expect("the sampler looks to the end"))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Two live leaders of one app. The table is not read in one moment: who was seen first must be there still.
fn doubled(processes: &[Process]) -> Option<String> {
    let mut leaders: HashMap<&str, &Process> = HashMap::new();
    for process in processes.iter().filter(|process| process.leader) {
        let Some(app) = process.app.as_deref() else { continue };
        if let Some(other) = leaders.insert(app, process)
            && other.is_there()
            && process.is_there()
        {
            return Some(format!("two live leaders of `{app}`: {other:?} and {process:?}"));
        }
    }
    None
}

/// What `counts` has said, run by run, against its log.
pub struct Lines {
    log: PathBuf,
    said: PathBuf,
    /// Of the log, read so far.
    read: u64,
    /// The last number of each run in the log.
    kept: BTreeMap<String, u64>,
    /// Runs, by pid, whose last words nobody may have kept.
    unheard: Vec<i32>,
    total: u64,
}

impl Lines {
    pub fn new(data: &Path) -> Self {
        let (log, said) = (data.join("counts.log"), data.join("said"));
        Lines { log, said, read: 0, kept: BTreeMap::new(), unheard: Vec::new(), total: 0 }
    }

    /// Lines seen in the log.
    pub fn counted(&self) -> u64 {
        self.total
    }

    /// Reads on in the log. An error says which line is not the one behind the last.
    pub fn read_on(&mut self) -> Result<(), String> {
        let text = self.new_text();
        // The supervisor notes each end in brackets, and the shell tells in words which of its commands was killed.
        for line in text.lines().filter(|line| !line.starts_with(|c: char| c == '[' || c.is_ascii_alphabetic())) {
            let parsed = line.split_once(' ').and_then(|(run, number)| Some((run, number.parse::<u64>().ok()?)));
            let (run, number) = parsed.ok_or_else(|| format!("no line that was ever written: {line:?}"))?;
            let last = self.kept.entry(run.to_owned()).or_default();
            if number != *last + 1 {
                return Err(format!("behind line {last} of run {run} comes line {number}"));
            }
            *last = number;
            self.total += 1;
        }
        Ok(())
    }

    /// Neither guard nor supervisor was alive: should this process have died then, what was in its pipe died with it.
    pub fn unheard(&mut self, pid: i32) {
        self.unheard.push(pid);
    }

    /// Whole lines that were not there when this was called last.
    fn new_text(&mut self) -> String {
        let mut text = String::new();
        if let Ok(mut log) = fs::File::open(&self.log) {
            log.seek(SeekFrom::Start(self.read)).expect("a place in the log");
            log.read_to_string(&mut text).expect("text in the log");
        }
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        self.read += text.len() as u64;
        text
    }

    /// Everything that runs which are over have noted is in the log. Forgets those runs.
    pub fn all_kept(&mut self, alive: Option<i32>) -> Result<(), String> {
        for entry in fs::read_dir(&self.said).expect("what was said").flatten() {
            let run = entry.file_name().to_string_lossy().into_owned();
            let is = |pid: &i32| run.ends_with(&format!("-{pid}"));
            if alive.as_ref().is_some_and(is) {
                continue;
            }
            let noted = fs::read_to_string(entry.path()).unwrap_or_default().lines().count() as u64;
            let kept = self.kept.get(&run).copied().unwrap_or(0);
            if kept < noted && !self.unheard.iter().any(is) {
                return Err(format!("run {run} wrote {noted} lines, and its log ends at {kept}"));
            }
            fs::remove_file(entry.path()).expect("a run that is over");
        }
        Ok(())
    }
}
