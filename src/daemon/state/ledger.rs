//! The ledger: the state that outlives a supervisor, as lines of JSON beside the socket. Each turn of the loop appends
//! what has changed. Owns the file, its limits and its recovery; `model::ledger` owns the lines and what they mean.

mod format;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use crate::host::layout;
use crate::model::exit::ExitRecord;
use crate::model::ledger::{CRASHES, Inherited, Line, VERSION};
use crate::model::machine::SavedApp;
use crate::model::protocol::Crash;
use crate::model::supervisor::SessionState;
use crate::model::tree::Pid;
pub use format::parse;
use format::text;

/// Bytes. A ledger is rewritten when it is larger than this and four times its useful content. The space is reserved in
/// advance, so that the ledger can be written while the disk is full.
const ENOUGH: u64 = 256 << 10;
/// Bytes. A larger file is not a ledger.
const MOST: u64 = 256 << 20;
/// Bytes of memory that are kept for the lines of the next turn.
const SPARE: usize = 4 << 10;
/// The time after a failed write before the next attempt.
const AGAIN: Duration = Duration::from_secs(1);

/// The ledger of the running supervisor.
pub struct Ledger {
    path: PathBuf,
    file: Option<File>,
    /// Bytes in the file.
    length: u64,
    /// Bytes from which on the file may have to be rewritten. Found out anew only then, since it takes all lines.
    enough: u64,
    /// When a rewrite failed. The existing file keeps growing.
    overdue: Option<Instant>,
    head: String,
    session: Option<SessionState>,
    /// The current line of each app, and how its leader ended, if that is not in the line.
    apps: BTreeMap<String, Box<str>>,
    crashes: BTreeMap<String, VecDeque<String>>,
    /// Lines for the next write.
    pending: String,
    trouble: Option<Instant>,
}

impl Ledger {
    /// Reads what an earlier supervisor of this session left in the state folder, and continues its ledger. The text
    /// says why an existing ledger could not be used. For `session`, see `host::session`.
    pub fn open(state: &Path, session: &str) -> (Ledger, Inherited, Option<String>) {
        let path = layout::ledger(state);
        let (inherited, refused) = match read(&path, session) {
            Ok(inherited) => (inherited, None),
            Err(why) => (Inherited::default(), Some(set_aside(&path, &why))),
        };
        let mut ledger = Ledger {
            path,
            file: None,
            length: 0,
            enough: ENOUGH,
            overdue: None,
            head: text(&Line::Head { version: VERSION, session: session.into() }),
            session: None,
            apps: BTreeMap::new(),
            crashes: BTreeMap::new(),
            pending: String::new(),
            trouble: None,
        };
        ledger.take(&inherited);
        (ledger, inherited, refused)
    }

    /// Keeps inherited state in the ledger until it is known to be over.
    fn take(&mut self, inherited: &Inherited) {
        let mut current = String::new();
        for line in inherited.lines() {
            match &line {
                Line::Head { .. } | Line::Gone(_) => {}
                Line::Session(session) => self.session = Some(*session),
                Line::App { name, .. } => {
                    self.apps.insert(name.clone(), text(&line).into());
                    current.clone_from(name);
                }
                Line::Ended { .. } => {
                    let known = self.apps.entry(current.clone()).or_default();
                    *known = format!("{known}{}", text(&line)).into();
                }
                Line::Crash { app, crash } => self.crash(app, crash),
            }
        }
        self.pending.clear();
        if let Err(error) = self.rewrite()
            && self.go_on().is_err()
        {
            self.failed(&error);
        }
    }

    /// Continues the existing file, if there is no room for a new one.
    fn go_on(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).append(true).custom_flags(libc::O_NOFOLLOW).open(&self.path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // Half a line, left by a supervisor that was killed while writing, would corrupt the next one.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
        if whole < bytes.len() as u64 {
            file.set_len(whole)?;
            make_room(&file);
        }
        (self.file, self.length, self.overdue) = (Some(file), whole, Some(Instant::now()));
        Ok(())
    }

    /// Records the state of an app. `leader` is its pid and start time.
    pub fn app(&mut self, name: &str, leader: Option<(Pid, u64)>, saved: SavedApp) {
        let line = text(&Line::App { name: name.into(), leader, saved });
        if self.apps.get(name).is_some_and(|known| **known == *line) {
            return;
        }
        self.pending.push_str(&line);
        match self.apps.get_mut(name) {
            Some(known) => *known = line.into(),
            None => drop(self.apps.insert(name.into(), line.into())),
        }
    }

    /// Records that an app is gone, with all its crashes.
    pub fn gone(&mut self, name: &str) {
        self.crashes.remove(name);
        if self.apps.remove(name).is_some() {
            self.pending.push_str(&text(&Line::Gone(name.into())));
        }
    }

    /// Records the state of the session.
    pub fn session(&mut self, session: SessionState) {
        if self.session.replace(session) != Some(session) {
            self.pending.push_str(&text(&Line::Session(session)));
        }
    }

    /// Records a crash; the oldest one makes room.
    pub fn crash(&mut self, app: &str, crash: &Crash) {
        let line = text(&Line::Crash { app: app.into(), crash: crash.clone() });
        self.pending.push_str(&line);
        let kept = self.crashes.entry(app.into()).or_default();
        if kept.len() == CRASHES {
            kept.pop_front();
        }
        kept.push_back(line);
    }

    /// Records a leader's exit, and writes it at once: after the process is collected, its exit cannot be learned
    /// again.
    pub fn ended(&mut self, ended: ExitRecord) {
        let ExitRecord { pid, status, peak } = ended;
        self.pending.push_str(&text(&Line::Ended { pid, status, peak }));
        self.write();
    }

    /// Writes what this turn has changed.
    pub fn write(&mut self) {
        if self.pending.is_empty() && self.trouble.is_none() {
            return;
        }
        let written = match self.file.is_some() {
            true if self.is_long() && self.rewrite().is_ok() => Ok(()),
            true => self.append(),
            false if self.trouble.is_some_and(|since| since.elapsed() < AGAIN) => return self.pending.clear(),
            false => self.rewrite(),
        };
        match written {
            Ok(()) if self.trouble.take().is_some() => {
                tracing::info!(event = "state.recovered", "the state of the session is saved again");
            }
            Ok(()) => {}
            Err(error) => self.failed(&error),
        }
    }

    fn is_long(&mut self) -> bool {
        let length = self.length + self.pending.len() as u64;
        let tried = self.overdue.is_some_and(|since| since.elapsed() < AGAIN);
        if length <= self.enough || tried {
            return false;
        }
        self.enough = enough(&self.all());
        length > self.enough
    }

    fn append(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(self.pending.as_bytes())?;
        self.length += self.pending.len() as u64;
        self.pending.clear();
        self.pending.shrink_to(SPARE); // a start writes all apps at once
        Ok(())
    }

    /// Rewrites the whole ledger. Readers see the old or the new file, never a part.
    fn rewrite(&mut self) -> io::Result<()> {
        self.overdue = Some(Instant::now());
        let all = self.all();
        let file = replace(&self.path, &all)?;
        (self.file, self.length, self.enough, self.overdue) = (Some(file), all.len() as u64, enough(&all), None);
        self.pending.clear();
        Ok(())
    }

    fn all(&self) -> String {
        let session = self.session.map(|session| text(&Line::Session(session)));
        let crashes = self.crashes.values().flatten();
        let crashes = crashes.map(String::as_str);
        let lines = std::iter::once(&self.head).chain(&session).map(String::as_str);
        lines.chain(self.apps.values().map(|line| &**line)).chain(crashes).collect()
    }

    /// Removes the file after a failed write, since its content would be outdated. A supervisor that finds no ledger
    /// looks for the apps among the processes.
    fn failed(&mut self, error: &io::Error) {
        self.pending.clear(); // the next try writes everything
        self.file = None;
        let _ = fs::remove_file(&self.path); // if the disk is read-only, this fails too
        if self.trouble.replace(Instant::now()).is_none() {
            let file = self.path.display();
            tracing::warn!(
                event = "state.trouble", %file, %error,
                "cannot write {file}: {error}; if the supervisor dies, the next one still finds the apps, but not what was held, counted or waited for"
            );
        }
    }

    /// When to call [`Ledger::write`] again although nothing has changed: the last write has failed.
    pub fn next(&self) -> Option<Instant> {
        self.trouble.map(|since| since + AGAIN)
    }

    /// Whether the file being written was removed.
    pub fn was_removed(&self) -> bool {
        self.file.is_some() && !self.path.exists()
    }

    /// Writes everything into a new file.
    pub fn renew(&mut self) {
        self.file = None;
        self.trouble = None;
        if self.rewrite().is_err() {
            self.trouble = Some(Instant::now());
        }
    }

    /// The problem with the ledger, and how to fix it.
    pub fn trouble(&self) -> Option<String> {
        let file = self.path.display();
        self.trouble.map(|_| format!("{file} cannot be written: if the supervisor dies, what was held, counted or waited for is forgotten; make room there"))
    }

    /// Removes the ledger when the session is over, so that nothing continues from it.
    pub fn close(&mut self) {
        self.file = None;
        let _ = fs::remove_file(&self.path); // if it fails, the next supervisor finds that none of its processes is alive
    }
}

/// The length in bytes of a ledger that has this useful content and is not yet rewritten.
fn enough(content: &str) -> u64 {
    ENOUGH.max(4 * content.len() as u64)
}

fn make_room(file: &File) {
    let _ = rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, ENOUGH); // not every file system can
}

/// Replaces the file, and returns it open for appending.
fn replace(path: &Path, text: &str) -> io::Result<File> {
    let new = path.with_extension("new");
    let open = || {
        let _ = fs::remove_file(&new); // left by a supervisor that died while writing it
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(&new)
    };
    let mut file = open()?;
    make_room(&file);
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, path));
    written.inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(file)
}

/// The last crashes of an app, oldest first, as the last supervisor of this folder recorded them, in any session. For a
/// client while no supervisor runs.
pub fn crashes(state: &Path, app: &str) -> Result<Vec<Crash>, String> {
    let Some(text) = text_of(&layout::ledger(state))? else { return Ok(Vec::new()) };
    let head = text.lines().next().and_then(|line| serde_json::from_str(line).ok());
    let Some(Line::Head { session, .. }) = head else { return Err("its first line is not a ledger header".into()) };
    let found = parse(&text, &session)?;
    Ok(found.crashes.into_iter().filter(|(name, _)| name == app).map(|(_, crash)| crash).collect())
}

/// Reads the ledger for this session. The error says why it cannot be used.
fn read(path: &Path, session: &str) -> Result<Inherited, String> {
    text_of(path)?.map_or_else(|| Ok(Inherited::default()), |text| parse(&text, session))
}

/// Returns `None` if there is no ledger.
fn text_of(path: &Path) -> Result<Option<String>, String> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match open {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let is = file.metadata().map_err(|error| error.to_string())?;
    if !is.is_file() || is.len() > MOST {
        return Err(format!("it is not a ledger ({} bytes)", is.len()));
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(Some(text))
}

fn set_aside(path: &Path, why: &str) -> String {
    let aside = path.with_extension("jsonl.bad");
    let kept = match fs::rename(path, &aside) {
        Ok(()) => format!("it is kept as {}", aside.display()),
        Err(error) => format!("it cannot be moved away ({error})"),
    };
    format!("{} cannot be used: {why}; {kept}, and apps are looked for among the processes", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::exit::Exit;
    use crate::model::ledger::Leader;

    const SESSION: &str = "this session";

    fn saved(run: u64) -> SavedApp {
        let text = r#"{"run":0,"restarts":2,"last_exit":null,"enabled":true,"history":{"attempt":1,"early":[]},"program":7,
            "state":{"Up":{"pid":70,"since":{"secs":1,"nanos":0}}}}"#;
        let mut saved: SavedApp = serde_json::from_str(text).unwrap();
        saved.run = run;
        saved
    }

    fn crash(run: u64) -> Crash {
        Crash {
            at: "2026-01-01T00:00:00.000Z".into(),
            run,
            pid: Some(70),
            exit: Exit::Signal(9),
            reason: "killed by SIGKILL".into(),
            uptime_ms: Some(5),
            peak_memory_bytes: None,
            tail: vec!["last words".into()],
            hint: None,
        }
    }

    fn reopened(folder: &Path) -> Inherited {
        let (_, inherited, refused) = Ledger::open(folder, SESSION);
        assert_eq!(refused, None);
        inherited
    }

    #[test]
    fn what_was_written_is_there_for_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, nothing, refused) = Ledger::open(folder.path(), SESSION);
        assert_eq!((nothing, refused), (Inherited::default(), None));
        ledger.session(SessionState { staged: true, draining: None });
        ledger.app("web", Some((70, 1234)), saved(3));
        ledger.app("other", None, saved(1));
        ledger.gone("other");
        ledger.crash("web", &crash(2));
        ledger.write();
        ledger.ended(ExitRecord { pid: 70, status: 9, peak: 4096 });
        let inherited = reopened(folder.path());
        assert_eq!(inherited.session.apps, BTreeMap::from([("web".into(), saved(3))]));
        assert!(inherited.session.session.staged);
        let ended = Some(ExitRecord { pid: 70, status: 9, peak: 4096 });
        assert_eq!(inherited.leaders["web"], Leader { pid: 70, started: 1234, ended });
        assert_eq!(inherited.crashes, [("web".into(), crash(2))]);
    }

    #[test]
    fn nothing_of_another_session_is_inherited() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, ..) = Ledger::open(folder.path(), SESSION);
        ledger.session(SessionState { staged: true, draining: Some(0) });
        ledger.app("web", Some((70, 1234)), saved(3));
        ledger.crash("web", &crash(2));
        ledger.write();
        let (_, inherited, refused) = Ledger::open(folder.path(), "the container was started again");
        assert_eq!((inherited, refused), (Inherited { another_session: true, ..Inherited::default() }, None));
        assert!(Ledger::open(folder.path(), SESSION).1.another_session, "it was forgotten for good");
    }

    #[test]
    fn it_stays_small_whatever_happens_and_keeps_the_last_crashes() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, ..) = Ledger::open(folder.path(), SESSION);
        for run in 0..5_000 {
            ledger.app("web", None, saved(run));
            ledger.crash("web", &crash(run));
            ledger.write();
        }
        let size = fs::metadata(folder.path().join("ledger.jsonl")).unwrap().len();
        assert!(size < 2 * ENOUGH, "{size} bytes");
        let inherited = reopened(folder.path());
        assert_eq!(inherited.session.apps["web"].run, 4_999);
        let runs: Vec<u64> = inherited.crashes.iter().map(|(_, crash)| crash.run).collect();
        assert_eq!(runs, (4_990..5_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_that_was_being_written_is_as_if_it_had_not_been() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, ..) = Ledger::open(folder.path(), SESSION);
        ledger.app("web", None, saved(3));
        ledger.write();
        ledger.app("web", None, saved(4));
        ledger.write();
        let path = folder.path().join("ledger.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 9]).unwrap();
        assert_eq!(reopened(folder.path()).session.apps["web"].run, 3);
    }

    #[test]
    fn what_is_not_ours_is_said_and_set_aside() {
        let head = |version| format!("{{\"Head\":{{\"version\":{version},\"session\":\"{SESSION}\"}}}}\n");
        for (text, why) in [
            ("garbage\n".to_string(), "first line"),
            (String::new(), "empty"),
            (head(99), "version is 99"),
            ("{\"Head\":{\"version\":1,\"boot\":\"b\"}}\n".into(), "version is 1"),
            (head(VERSION) + "{\"App\":1}\n", "line 2"),
        ] {
            assert!(parse(&text, SESSION).unwrap_err().contains(why), "{text}");
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("ledger.jsonl"), &text).unwrap();
            let (_, inherited, refused) = Ledger::open(folder.path(), SESSION);
            assert_eq!(inherited, Inherited::default());
            assert!(refused.unwrap().contains("ledger.jsonl.bad"));
            assert_eq!(fs::read_to_string(folder.path().join("ledger.jsonl.bad")).unwrap(), text);
        }
    }

    #[test]
    fn a_full_disk_costs_only_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, ..) = Ledger::open(folder.path(), SESSION);
        ledger.file = Some(OpenOptions::new().append(true).open("/dev/full").unwrap());
        ledger.app("web", None, saved(3));
        ledger.write();
        assert!(ledger.trouble.is_some());
        assert!(!ledger.path.exists(), "what would be wrong is gone");
        assert!(ledger.next().is_some_and(|next| next <= Instant::now() + AGAIN), "it is tried again by itself");
        ledger.trouble = Some(Instant::now() - AGAIN);
        ledger.write();
        assert!(ledger.trouble.is_none());
        assert_eq!(reopened(folder.path()).session.apps["web"].run, 3);
    }

    #[test]
    fn without_room_for_another_file_the_one_that_is_there_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ledger, ..) = Ledger::open(folder.path(), SESSION);
        ledger.app("web", None, saved(3));
        ledger.write();
        let in_the_way = folder.path().join("ledger.new");
        fs::create_dir_all(in_the_way.join("no file")).unwrap();
        let mut text = fs::read_to_string(&ledger.path).unwrap();
        text.push_str("{\"half a line");
        fs::write(&ledger.path, text).unwrap();
        let (mut next, ..) = Ledger::open(folder.path(), SESSION);
        next.app("web", None, saved(4));
        next.write();
        assert!(next.trouble.is_none());
        assert_eq!(reopened(folder.path()).session.apps["web"].run, 4);
    }
}
