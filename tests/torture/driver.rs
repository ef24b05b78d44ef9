//! Drives the run: mistreats the session in the order that the seed gives, with quiet points in between. If a check fails,
//! prints what was done last.

mod ending;
mod state;

use std::collections::VecDeque;
use std::fmt;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kasm_void::model::protocol::{AppStatus, Snapshot};
use rustix::process::Signal;

use crate::cast::{self, Kind, STRAY};
use crate::deaths::{self, Before};
use crate::expect::{Disk, Part};
use crate::harness::until_ok;
use crate::sight::{self, Process};
use crate::stage::{How, Stage, signal};
use crate::wire;
use crate::witness::{Lines, Sampler};

/// How many of the last actions a failed run prints: more than one round has.
const REMEMBERED: usize = 80;
/// More descriptors than a supervisor of all these apps needs at rest. A leak exceeds this sooner or later.
const MOST_DESCRIPTORS: usize = 120;

pub struct Driver {
    random: fastrand::Rng,
    stage: Stage,
    parts: Vec<Part>,
    sampler: Sampler,
    lines: Lines,
    began: Instant,
    done: VecDeque<String>,
    tally: Tally,
    frozen: Vec<i32>,
    supervisor_frozen: Option<i32>,
    babbling: Vec<UnixStream>,
    racing: Vec<(usize, JoinHandle<()>)>,
    supervised: bool,
    guarded: bool,
    /// The disk may be full, or the supervisor short of descriptors.
    starved: bool,
    /// The state folder was harmed, and may not be restored yet.
    harmed: bool,
    /// Daemons of `escapes` that init got from a guard that died. Nothing ties them to the session any more.
    lost: Vec<Process>,
    containers: bool,
    /// Bytes of the supervisor's log at the last quiet point.
    log_before: usize,
}

/// Counts of one run.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub actions: u64,
    pub quiet_points: u64,
    pub supervisors_killed: u64,
    pub guards_killed: u64,
    pub processes_killed: u64,
    pub sessions_ended: u64,
    /// Sessions that the guard ended at the end of the stop budget.
    pub killed_in_time: u64,
    pub containers: u64,
    pub folders_harmed: u64,
    /// Apps that were compared before and after a death.
    pub compared: u64,
    pub lines: u64,
    pub samples: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} actions, {} quiet points; killed: {} supervisors, {} guards, {} other processes; {} sessions ended \
             ({} at the end of their budget); {} containers; {} times the state folder harmed; {} apps compared before and after; {} lines counted; looked {} times for a second tree",
            self.actions,
            self.quiet_points,
            self.supervisors_killed,
            self.guards_killed,
            self.processes_killed,
            self.sessions_ended,
            self.killed_in_time,
            self.containers,
            self.folders_harmed,
            self.compared,
            self.lines,
            self.samples
        )
    }
}

impl Driver {
    pub fn new(seed: u64, small_disk: bool) -> Self {
        let mut stage = Stage::new(small_disk);
        let mut random = fastrand::Rng::with_seed(seed);
        let containers = small_disk; // the same rights allow both
        stage.contained = containers && random.u32(..3) == 0;
        stage.revive();
        Driver {
            random,
            parts: cast::all().map(Part::new).collect(),
            sampler: Sampler::start(stage.root()),
            lines: Lines::new(&stage.data()),
            stage,
            began: Instant::now(),
            done: VecDeque::new(),
            tally: Tally::default(),
            frozen: Vec::new(),
            supervisor_frozen: None,
            babbling: Vec::new(),
            racing: Vec::new(),
            supervised: true,
            guarded: true,
            starved: false,
            harmed: false,
            lost: Vec::new(),
            containers,
            log_before: 0,
        }
    }

    /// Runs rounds of mistreatment and quiet until the time is over.
    pub fn run(mut self, length: Duration) -> Tally {
        self.quiet();
        while self.began.elapsed() < length {
            for _ in 0..self.random.u32(10..40) {
                self.act();
                self.check_what_never_is();
                std::thread::sleep(Duration::from_millis(self.random.u64(..60)));
            }
            self.quiet();
        }
        self.end()
    }

    fn end(mut self) -> Tally {
        self.stage.end();
        let left = self.left();
        assert!(left.is_empty(), "the drain left {left:#?}");
        self.lines.read_on().and_then(|()| self.lines.all_kept(None)).unwrap_or_else(|why| panic!("lines: {why}"));
        self.check_what_never_is();
        self.tally.lines = self.lines.counted();
        self.tally.samples = self.sampler.end();
        self.tally
    }

    /// Live processes that the end of the session should have ended.
    fn left(&self) -> Vec<Process> {
        let mut left = sight::processes(self.stage.root());
        left.retain(|process| !self.lost.iter().any(|lost| (lost.pid, lost.started) == (process.pid, process.started)));
        left
    }

    /// The guard is about to be killed.
    fn lose_strays(&mut self) {
        let strays =
            sight::processes(self.stage.root()).into_iter().filter(|process| process.app.as_deref() == Some(STRAY));
        self.lost.extend(strays);
    }

    /// The supervisor's log of this round, without the app that comes and goes all the time.
    fn log_of_round(&self) -> String {
        let log = self.stage.log();
        let round = log.get(self.log_before..).unwrap_or(&log);
        let told = round.split_inclusive('\n').filter(|line| !line.contains("\"app\":\"dies\""));
        told.collect()
    }

    fn note(&mut self, what: String) {
        if self.done.len() == REMEMBERED {
            self.done.pop_front();
        }
        self.done.push_back(format!("{:>9.3} {what}", self.began.elapsed().as_secs_f64()));
    }

    fn act(&mut self) {
        self.tally.actions += 1;
        match self.random.u32(..100) {
            0..22 => self.kill_something(),
            22..27 => self.freeze_something(),
            27..29 => self.freeze_supervisor(),
            29..30 => self.freeze_guard(),
            30..35 => self.kill_supervisor(),
            35..37 => self.kill_guard(),
            37..38 => self.kill_both(),
            38..59 => self.edit(),
            59..75 => self.request(),
            75..80 => self.race(),
            80..86 => self.ask_around(),
            86..89 => self.babble(),
            89..92 => self.harm_state(),
            92..95 => self.trouble_disk(),
            95..98 => self.trouble_descriptors(),
            _ => self.end_session(),
        }
    }

    fn kill_something(&mut self) {
        let signals = [Signal::KILL, Signal::KILL, Signal::TERM, Signal::SEGV];
        let how = signals[self.random.usize(..signals.len())];
        if let Some(process) = self.any_process() {
            self.note(format!("kill {} of {:?} with {how:?}", process.pid, process.app));
            self.tally.processes_killed += 1;
            signal(process.pid, how);
        }
    }

    fn freeze_something(&mut self) {
        if self.random.bool()
            && let Some(pid) = self.frozen.pop()
        {
            signal(pid, Signal::CONT);
        }
        if let Some(process) = self.any_process() {
            let how = self.any_stop();
            self.note(format!("stop {} of {:?} with {how:?}", process.pid, process.app));
            self.frozen.push(process.pid);
            signal(process.pid, how);
        }
    }

    fn any_process(&mut self) -> Option<Process> {
        let mut all = sight::processes(self.stage.root());
        all.retain(|process| process.app.is_some());
        all.sort_by_key(|process| process.started);
        (!all.is_empty()).then(|| all.swap_remove(self.random.usize(..all.len())))
    }

    fn freeze_supervisor(&mut self) {
        let Some(pid) = self.stage.supervisor() else { return };
        let (how, pause) = (self.any_stop(), self.any_pause());
        self.note(format!("freeze the supervisor {pid} for {pause:?} with {how:?}"));
        signal(pid, how);
        self.supervisor_frozen = Some(pid);
        for _ in 0..self.random.u32(..3) {
            self.kill_something();
        }
        std::thread::sleep(pause);
        match self.random.u32(..4) {
            0 => self.kill_supervisor(),
            _ => self.thaw_supervisor(),
        }
    }

    /// Meanwhile, no process collects children or starts the next supervisor.
    fn freeze_guard(&mut self) {
        let Some(pid) = self.stage.guard() else { return };
        let (how, pause) = (self.any_stop(), self.any_pause());
        self.note(format!("freeze the guard {pid} for {pause:?} with {how:?}"));
        signal(pid, how);
        for _ in 0..self.random.u32(..3) {
            self.kill_something();
        }
        std::thread::sleep(pause);
        signal(pid, Signal::CONT);
    }

    /// A shell's Ctrl-Z, and what a terminal sends to a job in the background, stop a process too.
    fn any_stop(&mut self) -> Signal {
        [Signal::STOP, Signal::STOP, Signal::TSTP, Signal::TTIN][self.random.usize(..4)]
    }

    /// Sometimes long enough for every deadline between guard and supervisor.
    fn any_pause(&mut self) -> Duration {
        let most = if self.random.u32(..8) == 0 { 3_000 } else { 250 };
        Duration::from_millis(self.random.u64(1..most))
    }

    fn thaw_supervisor(&mut self) {
        if let Some(pid) = self.supervisor_frozen.take() {
            signal(pid, Signal::CONT);
        }
    }

    /// Kills the supervisor, does damage while it is gone, and makes sure that another one is up.
    fn kill_supervisor(&mut self) {
        let Some(pid) = self.stage.supervisor() else { return };
        self.note(format!("kill -9 the supervisor {pid}"));
        self.tally.supervisors_killed += 1;
        let before = self.remember();
        signal(pid, Signal::KILL);
        self.await_end(pid);
        self.survive(before);
    }

    /// Kills the supervisor and its guard, so that neither can replace the other.
    fn kill_both(&mut self) {
        let (Some(guard), Some(supervisor)) = (self.stage.guard(), self.stage.supervisor()) else { return };
        if self.stage.contained {
            return; // nothing outlives the first process of a container
        }
        self.note(format!("kill -9 the guard {guard} and the supervisor {supervisor}"));
        self.tally.supervisors_killed += 1;
        self.tally.guards_killed += 1;
        let before = self.remember();
        self.lose_strays();
        signal(supervisor, Signal::STOP);
        for pid in [guard, supervisor] {
            signal(pid, Signal::KILL);
            self.await_end(pid);
        }
        self.guarded = false;
        self.survive(before);
    }

    fn await_end(&self, pid: i32) {
        until_ok("it is gone:", || match self.stage.supervising().iter().any(|one| one.pid == pid) {
            true => Err(format!("pid {pid}")),
            false => Ok(()),
        });
    }

    /// The supervisor has just died. Does more damage, and makes sure that another one is up and knows what it knew.
    fn survive(&mut self, before: Vec<Before>) {
        let counting = self.counting().filter(|_| !self.guarded);
        self.parts.iter_mut().for_each(Part::supervisor_died);
        self.supervised = false;
        for _ in 0..self.random.u32(..4) {
            match self.random.u32(..4) {
                0 => self.edit(),
                _ => self.kill_something(),
            }
            std::thread::sleep(Duration::from_millis(self.random.u64(..40)));
        }
        self.revive();
        self.parts.iter_mut().for_each(Part::supervisor_began);
        // The pipe of a process that died while nobody had it open is gone.
        counting.filter(|process| !process.is_there()).into_iter().for_each(|gone| self.lines.unheard(gone.inner));
        self.compare_unless_harmed(before);
    }

    /// A supervisor that starts without the state folder may know only what it sees. It makes the folder again, unless the
    /// disk is full.
    fn compare_unless_harmed(&mut self, before: Vec<Before>) {
        match self.harmed {
            true => self.parts.iter_mut().for_each(Part::forgotten),
            false => self.compare(before),
        }
        self.harmed &= self.starved;
    }

    fn kill_guard(&mut self) {
        if self.stage.contained {
            return self.kill_container();
        }
        let Some(pid) = self.stage.guard() else { return };
        self.note(format!("kill -9 the guard {pid}"));
        self.tally.guards_killed += 1;
        let before = self.remember();
        self.lose_strays();
        signal(pid, Signal::KILL);
        self.await_end(pid);
        // The supervisor takes the guard's place and starts another supervisor.
        self.parts.iter_mut().for_each(Part::supervisor_died);
        until_ok("another guard", || self.stage.guard().ok_or_else(|| format!("{:?}", self.stage.supervising())));
        self.revive();
        self.compare_unless_harmed(before);
    }

    /// Records what must be the same after a death; empty if the supervisor does not answer now.
    fn remember(&self) -> Vec<Before> {
        let asked = Instant::now();
        let Ok(status) = self.status() else { return Vec::new() };
        deaths::before(&self.parts, &status, (asked, Instant::now()), &sight::processes(self.stage.root()))
    }

    fn compare(&mut self, before: Vec<Before>) {
        if before.is_empty() {
            return; // there was no answer before, so there may be none now
        }
        self.tally.compared += before.len() as u64;
        let racing: Vec<usize> = self.racing.iter().map(|(at, _)| *at).collect();
        until_ok("every app is what it was before the death:", || {
            let asked = Instant::now();
            let status = self.status()?;
            let asked = (asked, Instant::now());
            let wrong = |before: &Before| {
                let part = &self.parts[before.part()];
                before.broken_by(part, part.is_calm() && !racing.contains(&before.part()), &status, asked)
            };
            let wrong: Vec<String> = before.iter().filter_map(wrong).collect();
            if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:#?}")) }
        });
    }

    fn revive(&mut self) {
        self.stage.revive();
        (self.supervised, self.guarded) = (true, self.stage.guard().is_some());
        self.note(format!("the supervisor is {:?}", self.stage.supervisor()));
    }

    fn any_part(&mut self) -> usize {
        self.random.usize(..self.parts.len())
    }

    fn edit(&mut self) {
        let at = self.any_part();
        let (kind, mut edition) = (self.parts[at].kind, self.parts[at].edition);
        let how = [How::Plainly, How::RenamedOver, How::InPieces][self.random.usize(..3)];
        match self.random.u32(..10) {
            0..3 => edition.version += 1,
            3..5 => edition.remark += 1,
            5..6 => edition.enabled = !edition.enabled,
            6..8 => return self.break_manifest(at, how),
            8..9 if kind != Kind::Mounted => return self.remove_manifest(at),
            _ => {} // the same text again, or the first one after a removal
        }
        self.note(format!("write {} as {edition:?} {how:?}", kind.name()));
        let changed = edition != self.parts[at].edition || self.parts[at].disk != Disk::Good;
        self.stage.write(kind, &kind.manifest(edition), how);
        self.parts[at].written(edition);
        if self.starved {
            self.parts[at].unkept();
        }
        if changed {
            self.edited(at);
        }
    }

    fn break_manifest(&mut self, at: usize, how: How) {
        let (kind, edition) = (self.parts[at].kind, self.parts[at].edition);
        let good = kind.manifest(edition);
        let text = match self.random.u32(..4) {
            0 => good[..self.random.usize(good.find('(').unwrap_or(0)..good.len() - 2)].to_owned(),
            1 => good.replace("give_up: Never", "give_up: Newer"),
            2 => good.replace("about:", "abuot:"),
            _ => good.replace("enabled: true", "after: [\"nobody\"]").replace("enabled: false", "after: [\"nobody\"]"),
        };
        self.note(format!("break {} {how:?}", kind.name()));
        self.stage.write(kind, &text, how);
        self.parts[at].broken();
        self.edited(at);
    }

    fn remove_manifest(&mut self, at: usize) {
        let kind = self.parts[at].kind;
        self.note(format!("remove {}", kind.name()));
        self.stage.remove(kind);
        self.parts[at].removed();
        self.edited(at);
    }

    fn edited(&mut self, at: usize) {
        if self.supervised {
            self.parts[at].edited_lately();
        }
    }

    fn request(&mut self) {
        let at = self.any_part();
        let name = self.parts[at].kind.name();
        let (verb, up) = [("start", true), ("stop", false), ("restart", true), ("stop", false), ("do/tidy", true)]
            [self.random.usize(..5)];
        let path = format!("/v1/apps/{name}/{verb}?wait=false");
        let answer = wire::ask(&self.stage.socket(), "POST", &path).map(|(code, _)| code);
        self.note(format!("{verb} {name}: {answer:?}"));
        match (answer, up) {
            (Ok(200..300), true) => self.parts[at].asked_up(),
            (Ok(200..300), false) => self.parts[at].asked_down(),
            (Ok(_), _) => {} // refused, so nothing has changed
            (Err(_), _) => self.parts[at].asked_who_knows_what(),
        }
    }

    /// Lets clients ask for different things of one app at once. Each waits until its request is done.
    fn race(&mut self) {
        let at = self.any_part();
        let name = self.parts[at].kind.name();
        let verbs = ["stop", "start", "restart", "stop", "signal/CONT"];
        let count = self.random.usize(2..4);
        let chosen: Vec<&str> = (0..count).map(|_| verbs[self.random.usize(..verbs.len())]).collect();
        self.note(format!("at once for {name}: {chosen:?}"));
        self.parts[at].asked_who_knows_what();
        for verb in chosen {
            let (socket, path) = (self.stage.socket(), format!("/v1/apps/{name}/{verb}"));
            let client = std::thread::spawn(move || drop(wire::ask(&socket, "POST", &path)));
            self.racing.push((at, client));
        }
    }

    fn ask_around(&mut self) {
        let questions =
            [("GET", "/v1/apps"), ("GET", "/v1/plan"), ("POST", "/v1/reload"), ("GET", "/metrics"), ("GET", "/readyz")];
        let (method, path) = questions[self.random.usize(..questions.len())];
        let answer = wire::ask(&self.stage.socket(), method, path).map(|(code, _)| code);
        self.note(format!("{method} {path}: {answer:?}"));
    }

    fn babble(&mut self) {
        self.note("talk nonsense to the control socket".into());
        if let Ok(open) = wire::babble(&self.stage.socket(), &mut self.random) {
            self.babbling.push(open);
        }
        if self.babbling.len() > 20 {
            self.babbling.remove(0);
        }
    }

    fn trouble_disk(&mut self) {
        self.starved = true;
        match self.random.bool() {
            true => self.stage.fill_disk(),
            false => self.stage.free_disk(),
        }
        self.note("the disk of the state folder is full, or free again".into());
    }

    fn trouble_descriptors(&mut self) {
        self.starved = true;
        let spare = self.random.bool().then(|| self.random.u64(..4));
        self.note(format!("the supervisor is left {spare:?} descriptors"));
        self.stage.limit_descriptors(spare);
    }

    /// Ends all faults and lets every action take effect. Then everything must be as expected.
    fn quiet(&mut self) {
        self.note("quiet".into());
        self.end_faults();
        self.settle();
        self.make_certain();
        self.settle();
        self.parts.iter_mut().for_each(Part::calmed);
        self.check_state();
        self.check_machine();
        self.check_lines();
        self.check_what_never_is();
        self.tally.quiet_points += 1;
        self.log_before = self.stage.log().len();
    }

    fn end_faults(&mut self) {
        self.thaw_supervisor();
        for pid in self.frozen.drain(..) {
            signal(pid, Signal::CONT);
        }
        self.stage.free_disk();
        self.stage.limit_descriptors(None);
        self.starved = false;
        self.babbling.clear();
        self.revive();
        for (at, client) in self.racing.drain(..) {
            client.join().expect("a client that asks");
            self.parts[at].asked_who_knows_what();
        }
    }

    /// Waits until each app is as expected.
    fn settle(&self) {
        until_ok("everything is as it should be:", || {
            let status = self.status()?;
            let processes = sight::processes(self.stage.root());
            let wrong: Vec<String> = self.parts.iter().filter_map(|part| wrong(part, &status, &processes)).collect();
            if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:#?}\n{status:#?}\n{processes:#?}")) }
        });
    }

    fn status(&self) -> Result<Snapshot, String> {
        let (code, body) =
            wire::ask(&self.stage.socket(), "GET", "/v1/apps").map_err(|error| format!("no status: {error}"))?;
        serde_json::from_str(&body).map_err(|error| format!("status {code}, {error}: {body}"))
    }

    /// Starts every app that may rightly be up or down, as a new edition.
    fn make_certain(&mut self) {
        for at in 0..self.parts.len() {
            if self.parts[at].is_certain() {
                continue;
            }
            let (kind, mut edition) = (self.parts[at].kind, self.parts[at].edition);
            edition.version += 1;
            edition.enabled = true;
            self.stage.write(kind, &kind.manifest(edition), How::RenamedOver);
            self.parts[at].written(edition);
            until_ok(&format!("`{}` can be restarted:", kind.name()), || {
                let loaded = wire::ask(&self.stage.socket(), "POST", "/v1/reload");
                let path = format!("/v1/apps/{}/restart", kind.name());
                match wire::ask(&self.stage.socket(), "POST", &path) {
                    Ok((200, _)) => Ok(()),
                    // It may exit by itself during the wait.
                    Ok((502, _)) if kind.comes_and_goes() => Ok(()),
                    answer => Err(format!("{loaded:?} {answer:?}")),
                }
            });
            self.parts[at].certain();
        }
    }

    /// Checks that processes and descriptors do not pile up, and that no zombie is left.
    fn check_machine(&self) {
        // A child that has not called exec yet looks like its supervisor.
        let all = until_ok("there is one supervisor and one guard:", || {
            let all = self.stage.supervising();
            let guards = all.iter().filter(|process| !process.guarded).count();
            if all.len() == 2 && guards == 1 { Ok(all) } else { Err(format!("{all:#?}")) }
        });
        for process in &all {
            until_ok(&format!("all ended children of {} are collected:", process.pid), || {
                let zombies = sight::zombies_of(process.pid);
                if zombies.is_empty() { Ok(()) } else { Err(format!("{zombies:?}")) }
            });
            let open = sight::descriptors(process.pid);
            assert!(open <= MOST_DESCRIPTORS, "{} has {open} descriptors", process.pid);
        }
    }

    fn check_lines(&mut self) {
        let counting = self.counting().map(|process| process.inner);
        let lines = &mut self.lines;
        until_ok("every line is in the log:", || {
            lines.read_on().unwrap_or_else(|why| panic!("lines: {why}"));
            lines.all_kept(counting)
        });
    }

    /// The leader of `counts`.
    fn counting(&self) -> Option<Process> {
        let mut alive = sight::processes(self.stage.root()).into_iter().filter(|one| one.leader);
        alive.find(|one| one.app.as_deref() == Some(Kind::Counts.name()))
    }

    fn check_what_never_is(&self) {
        let doubled = self.stage.lines("doubled");
        assert!(doubled.is_empty(), "two trees of one app: {doubled:?}");
        if let Some(seen) = self.sampler.verdict() {
            panic!("{seen}");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the supervisor's log since the last quiet point ---\n{}", self.log_of_round());
            eprintln!("--- what was done last ---");
            self.done.iter().for_each(|done| eprintln!("{done}"));
            self.parts.iter().for_each(|part| eprintln!("{part:?}"));
        }
    }
}

fn wrong(part: &Part, status: &Snapshot, processes: &[Process]) -> Option<String> {
    let name = part.kind.name();
    let status: Option<&AppStatus> = status.apps.iter().find(|app| app.name == name);
    let of_app = |process: &&Process| process.app.as_deref() == Some(name);
    let tree = processes.iter().filter(of_app).count();
    let pid = status.and_then(|status| status.pid);
    let leader = processes.iter().filter(of_app).find(|process| Some(process.inner) == pid);
    let expected = part.expected();
    let why = expected.broken_by(part.kind, status, tree, leader.map(|leader| leader.argv.as_slice()))?;
    Some(format!("{name}: {why} (expected: {expected:?})"))
}
