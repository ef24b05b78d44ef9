//! The ledger: what outlives a supervisor, as lines of JSON beside the socket. Each turn of the loop appends
//! what it has changed; the last line about an app is the one that counts. Owns the form, its bounds and its
//! recovery; must not know what becomes of it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

use crate::host::layout;
use crate::host::proc::{Leader, Pid};
use crate::host::sys::Ended;
use crate::model::machine::SavedApp;
use crate::model::protocol::Crash;
use crate::model::supervisor::{SavedSession, SessionState};

/// Of the form; another one is not read.
pub const VERSION: u32 = 2;
/// A ledger is written anew when it is this large, and four times what it has to say. The room is taken in
/// advance: what happens while the disk is full is written down all the same.
const ENOUGH: u64 = 256 << 10;
/// More than any session has to say: what is larger is none of ours.
const MOST: u64 = 256 << 20;
/// Crashes kept of each app.
const CRASHES: usize = 10;
/// After a write that failed, the next is tried no sooner.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Head {
        version: u32,
        /// See `host::session`.
        #[serde(default)]
        session: String,
    },
    Session(SessionState),
    App {
        name: String,
        leader: Option<(Pid, u64)>,
        saved: SavedApp,
    },
    Gone(String),
    /// A leader has ended; what that means comes in a later line.
    Ended {
        pid: Pid,
        status: i32,
        peak: u64,
    },
    Crash {
        app: String,
        crash: Crash,
    },
}

/// What an earlier supervisor has left.
#[derive(Debug, Default, PartialEq)]
pub struct Inherited {
    pub session: SavedSession,
    pub leaders: BTreeMap<String, Leader>,
    /// By app: pid and start time of the leader it had last. That one may be gone, and its session not empty.
    pub sessions: BTreeMap<String, (Pid, u64)>,
    /// Oldest first.
    pub crashes: Vec<(String, Crash)>,
    /// There was a ledger, of a session that is over: nothing of it is inherited.
    pub another_session: bool,
}

pub struct Ledger {
    path: PathBuf,
    file: Option<File>,
    /// Bytes in the file.
    length: u64,
    /// When writing it anew failed; the one that is there goes on growing.
    overdue: Option<Instant>,
    head: String,
    session: Option<SessionState>,
    /// The line that counts of each app.
    apps: BTreeMap<String, String>,
    crashes: BTreeMap<String, VecDeque<String>>,
    /// For the next write.
    pending: String,
    trouble: Option<Instant>,
}

impl Ledger {
    /// Reads what an earlier supervisor of this session left in the state folder, and continues its ledger. The text
    /// says why something that was there could not be used. `session`: see `host::session`.
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

    /// What is not known to be over yet stays written down.
    fn take(&mut self, inherited: &Inherited) {
        self.session = Some(inherited.session.session);
        for (name, saved) in &inherited.session.apps {
            let leader = inherited.leaders.get(name).map(|leader| (leader.pid, leader.started));
            let line = Line::App { name: name.clone(), leader, saved: saved.clone() };
            self.apps.insert(name.clone(), text(&line));
        }
        for (app, crash) in &inherited.crashes {
            self.crash(app, crash);
        }
        self.pending.clear();
        if let Err(error) = self.rewrite()
            && self.go_on().is_err()
        {
            self.failed(&error);
        }
    }

    /// There is no room for a new file: the one that was found goes on.
    fn go_on(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).append(true).custom_flags(libc::O_NOFOLLOW).open(&self.path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // Half a line, of one who was killed while writing it, would spoil the next one.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end as u64 + 1);
        if whole < bytes.len() as u64 {
            file.set_len(whole)?;
            make_room(&file);
        }
        (self.file, self.length, self.overdue) = (Some(file), whole, Some(Instant::now()));
        Ok(())
    }

    /// Where an app is now. `started`: of its leader.
    pub fn app(&mut self, name: &str, leader: Option<(Pid, u64)>, saved: SavedApp) {
        let line = text(&Line::App { name: name.into(), leader, saved });
        if self.apps.get(name) == Some(&line) {
            return;
        }
        self.pending.push_str(&line);
        match self.apps.get_mut(name) {
            Some(known) => *known = line,
            None => drop(self.apps.insert(name.into(), line)),
        }
    }

    pub fn gone(&mut self, name: &str) {
        self.crashes.remove(name);
        if self.apps.remove(name).is_some() {
            self.pending.push_str(&text(&Line::Gone(name.into())));
        }
    }

    pub fn session(&mut self, session: SessionState) {
        if self.session.replace(session) != Some(session) {
            self.pending.push_str(&text(&Line::Session(session)));
        }
    }

    pub fn crash(&mut self, app: &str, crash: &Crash) {
        let line = text(&Line::Crash { app: app.into(), crash: crash.clone() });
        self.pending.push_str(&line);
        let kept = self.crashes.entry(app.into()).or_default();
        if kept.len() == CRASHES {
            kept.pop_front();
        }
        kept.push_back(line);
    }

    /// Written at once: when the process is collected, nobody else can say any more how it ended.
    pub fn ended(&mut self, ended: Ended) {
        let Ended { pid, status, peak } = ended;
        self.pending.push_str(&text(&Line::Ended { pid, status, peak }));
        self.write();
    }

    /// What this turn has changed.
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
                tracing::info!(event = "state.recovered", "the state of the session is written down again");
            }
            Ok(()) => {}
            Err(error) => self.failed(&error),
        }
    }

    fn is_long(&self) -> bool {
        let length = self.length + self.pending.len() as u64;
        let tried = self.overdue.is_some_and(|since| since.elapsed() < AGAIN);
        length > ENOUGH && !tried && length > 4 * self.all().len() as u64
    }

    fn append(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(self.pending.as_bytes())?;
        self.length += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// The whole of it, in one step for whoever reads.
    fn rewrite(&mut self) -> io::Result<()> {
        self.overdue = Some(Instant::now());
        let all = self.all();
        let file = replace(&self.path, &all)?;
        (self.file, self.length, self.overdue) = (Some(file), all.len() as u64, None);
        self.pending.clear();
        Ok(())
    }

    fn all(&self) -> String {
        let session = self.session.map(|session| text(&Line::Session(session)));
        let crashes = self.crashes.values().flatten();
        let lines = std::iter::once(&self.head).chain(&session).chain(self.apps.values()).chain(crashes);
        lines.map(String::as_str).collect()
    }

    /// From now on what is in the file would be wrong: who finds none looks for the apps themselves.
    fn failed(&mut self, error: &io::Error) {
        self.pending.clear(); // the next try writes everything
        self.file = None;
        let _ = fs::remove_file(&self.path); // where nothing can be written, this may fail too
        if self.trouble.replace(Instant::now()).is_none() {
            let file = self.path.display();
            tracing::warn!(
                event = "state.trouble", %file, %error,
                "cannot write {file}: {error}; should the supervisor die, the next one finds the apps all the same, but not what was held, counted or waited for"
            );
        }
    }

    /// Whether somebody has removed the file that is being written.
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

    /// What it cannot do, with the way out.
    pub fn trouble(&self) -> Option<String> {
        let file = self.path.display();
        self.trouble.map(|_| format!("{file} cannot be written: should the supervisor die, what was held, counted or waited for is forgotten; make room there"))
    }

    /// The session is over: nobody is to go on from here.
    pub fn close(&mut self) {
        self.file = None;
        let _ = fs::remove_file(&self.path); // at worst the next one finds that nobody it names is alive
    }
}

fn text(line: &Line) -> String {
    let mut text = serde_json::to_string(line).unwrap_or_default(); // strings and numbers alone cannot fail
    text.push('\n');
    text
}

fn make_room(file: &File) {
    let _ = rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, ENOUGH); // not every file system can
}

/// The file, open to append to.
fn replace(path: &Path, text: &str) -> io::Result<File> {
    let new = path.with_extension("new");
    let open = || {
        let _ = fs::remove_file(&new); // of one who died while writing it
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(&new)
    };
    let mut file = open()?;
    make_room(&file);
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, path));
    written.inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(file)
}

/// The last crashes of an app, oldest first, as the supervisor of this folder wrote them down last, in whatever session
/// that was. For a client while no supervisor runs.
pub fn crashes(state: &Path, app: &str) -> Result<Vec<Crash>, String> {
    let Some(text) = text_of(&layout::ledger(state))? else { return Ok(Vec::new()) };
    let head = text.lines().next().and_then(|line| serde_json::from_str(line).ok());
    let Some(Line::Head { session, .. }) = head else { return Err("its first line is not ours".into()) };
    let found = parse(&text, &session)?;
    Ok(found.crashes.into_iter().filter(|(name, _)| name == app).map(|(_, crash)| crash).collect())
}

/// What is there for this session. The error says what is wrong with what is there.
fn read(path: &Path, session: &str) -> Result<Inherited, String> {
    text_of(path)?.map_or_else(|| Ok(Inherited::default()), |text| parse(&text, session))
}

/// `None`: there is no ledger.
fn text_of(path: &Path) -> Result<Option<String>, String> {
    let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match open {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let is = file.metadata().map_err(|error| error.to_string())?;
    if !is.is_file() || is.len() > MOST {
        return Err(format!("it is no ledger of ours ({} bytes)", is.len()));
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(Some(text))
}

/// The text of a ledger, as [`Ledger::open`] takes it in this session. Public for the fuzz targets.
pub fn parse(text: &str, session: &str) -> Result<Inherited, String> {
    let mut lines = text.split_inclusive('\n').enumerate();
    match lines.next().map(|(_, line)| serde_json::from_str(line)) {
        Some(Ok(Line::Head { version: VERSION, session: its })) if its == session => {}
        // No process in it is alive, and nobody wants any more what was wanted then.
        Some(Ok(Line::Head { version: VERSION, .. })) => {
            return Ok(Inherited { another_session: true, ..Inherited::default() });
        }
        Some(Ok(Line::Head { version, .. })) => return Err(format!("its version is {version}, and ours {VERSION}")),
        Some(_) => return Err("its first line is not ours".into()),
        None => return Err("it is empty".into()),
    }
    let mut inherited = Inherited::default();
    let mut apps = BTreeMap::new();
    for (number, line) in lines {
        match serde_json::from_str(line) {
            Ok(line) => take(&mut inherited, &mut apps, line),
            Err(_) if !line.ends_with('\n') => {} // whoever wrote it was killed on the way
            Err(error) => return Err(format!("line {}: {error}", number + 1)),
        }
    }
    inherited.session.apps = apps;
    Ok(inherited)
}

fn take(inherited: &mut Inherited, apps: &mut BTreeMap<String, SavedApp>, line: Line) {
    match line {
        Line::Head { .. } => {}
        Line::Session(session) => inherited.session.session = session,
        Line::App { name, leader, saved } => {
            match leader {
                Some((pid, started)) => {
                    inherited.leaders.insert(name.clone(), Leader { pid, started, ended: None });
                    inherited.sessions.insert(name.clone(), (pid, started));
                }
                None => drop(inherited.leaders.remove(&name)),
            }
            apps.insert(name, saved);
        }
        Line::Gone(name) => {
            apps.remove(&name);
            inherited.leaders.remove(&name);
            inherited.sessions.remove(&name);
            inherited.crashes.retain(|(app, _)| *app != name);
        }
        Line::Ended { pid, status, peak } => {
            let its = inherited.leaders.values_mut().filter(|leader| leader.pid == pid);
            its.for_each(|leader| leader.ended = Some(Ended { pid, status, peak }));
        }
        Line::Crash { app, crash } => {
            let of_app = |(name, _): &&(String, Crash)| *name == app;
            if inherited.crashes.iter().filter(of_app).count() == CRASHES
                && let Some(oldest) = inherited.crashes.iter().position(|(name, _)| *name == app)
            {
                inherited.crashes.remove(oldest);
            }
            inherited.crashes.push((app, crash));
        }
    }
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
        ledger.ended(Ended { pid: 70, status: 9, peak: 4096 });
        let inherited = reopened(folder.path());
        assert_eq!(inherited.session.apps, BTreeMap::from([("web".into(), saved(3))]));
        assert!(inherited.session.session.staged);
        let ended = Some(Ended { pid: 70, status: 9, peak: 4096 });
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
