//! Checks invariants continuously, and compares the output of the apps with their logs. Owns the sampling of the process
//! table and the counting of lines.

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

/// Samples the process table continuously, in its own thread.
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
                    let _ = tell.send(doubled); // if the receiver is gone, the run has failed already
                }
                samples += 1;
                std::thread::sleep(BETWEEN_SAMPLES);
            }
            samples
        });
        Sampler { done, seen, thread: Some(thread) }
    }

    /// The first violation, if there was one.
    pub fn verdict(&self) -> Option<String> {
        self.seen.try_recv().ok()
    }

    /// Stops the thread. Returns the number of samples.
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

/// Finds two live leaders of one app. Reading the table takes time, so the one seen first must still be alive.
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

/// Compares the output of `counts`, run by run, with its log.
pub struct Lines {
    log: PathBuf,
    said: PathBuf,
    /// Bytes of the log read so far.
    read: u64,
    /// The last number of each run in the log.
    kept: BTreeMap<String, u64>,
    /// Runs, by pid, whose last output may be lost.
    unheard: Vec<i32>,
    total: u64,
}

impl Lines {
    pub fn new(data: &Path) -> Self {
        let (log, said) = (data.join("counts.log"), data.join("said"));
        Lines { log, said, read: 0, kept: BTreeMap::new(), unheard: Vec::new(), total: 0 }
    }

    /// The number of lines read from the log.
    pub fn counted(&self) -> u64 {
        self.total
    }

    /// Reads new lines of the log. An error names the first line that is out of sequence.
    pub fn read_on(&mut self) -> Result<(), String> {
        let text = self.new_text();
        // Skip the supervisor's notes about exits, in brackets, and the shell's messages about killed commands.
        for line in text
            .lines()
            .map(without_time)
            .filter(|line| !line.starts_with(|c: char| c == '[' || c.is_ascii_alphabetic()))
        {
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

    /// The output in the pipe of this process may be lost: it died together with the whole container, or while neither
    /// guard nor supervisor was alive.
    pub fn unheard(&mut self, pid: i32) {
        self.unheard.push(pid);
    }

    /// The whole session was killed: no run had time to be heard to its end.
    pub fn unheard_all(&mut self) {
        let runs = fs::read_dir(&self.said).expect("what was said").flatten();
        let pid = |run: fs::DirEntry| run.file_name().to_str()?.rsplit('-').next()?.parse::<i32>().ok();
        self.unheard.extend(runs.filter_map(pid));
    }

    /// A session is over. The next one may use the same pids.
    pub fn session_ended(&mut self) -> Result<(), String> {
        self.read_on()?;
        self.all_kept(None)?;
        self.unheard.clear();
        Ok(())
    }

    /// Whole lines that were added since the last call.
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

    /// Checks that the log has every line recorded by finished runs. Forgets those runs.
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

/// A line without the time that `log.timestamps` puts before it.
fn without_time(line: &str) -> &str {
    const TIME: &str = "2026-01-02T03:04:05.678Z ";
    let shape = |text: &str| text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
    match line.get(..TIME.len()) {
        Some(head) if shape(head) == shape(TIME) => &line[TIME.len()..],
        _ => line,
    }
}
