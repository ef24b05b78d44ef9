//! The guard: decides when a supervisor is started, what it is told, and how the session ends. Pure: it is told
//! the time, and answers each input with effects. `crate::guard` is the shell that carries them out.
//!
//! A session that was told to end goes through three stages, each of which has a deadline:
//!
//! 1. **Draining**: the supervisor stops the apps in order. One that dies meanwhile is replaced, and the next is told
//!    to go on draining.
//! 2. **Terminating**: supervisors cannot do it (they die before they are ready, or again and again). The guard sends
//!    TERM to every process it has.
//! 3. **Killing**: the stop budget is used up, or the supervisor has finished. Whatever is left gets KILL.
//!
//! So the end comes within the stop budget and one second, whatever the supervisor does.

mod message;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

pub use message::{ChildExit, Hello, ToGuard, ToSupervisor, UnknownMessage};

use super::exit::Exit;
use super::manifest::workspace::Workspace;
use super::signal::{HUP, INT, QUIT, TERM};

/// A supervisor that lived this long started well: the next one is started at once.
const STARTED_WELL: Duration = Duration::from_secs(1);

/// The wait after the second early death in a row; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A new binary has this long to take over, and an old supervisor this long to make way for it.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// A supervisor that has said it is finished has this long to exit.
const LAST_STEP: Duration = Duration::from_secs(3);

/// Child exits that are kept for a supervisor that has not heard of them.
const EXITS_KEPT: usize = 4096;

/// How long after the stop budget the guard stops waiting for the supervisor. Together with `KILL_WITHIN` less than
/// the second that is promised.
pub const OVER_BUDGET: Duration = Duration::from_millis(700);

/// After a second request to end, the supervisor has this long, since it only has to kill.
const HURRY: Duration = Duration::from_secs(2);

/// How long the guard kills before it exits all the same: a process may be stuck in the kernel.
const KILL_WITHIN: Duration = Duration::from_millis(250);

/// Between two rounds of killing: what is killed may just have forked.
const KILL_AGAIN: Duration = Duration::from_millis(20);

/// Supervisors that may die while they drain before the guard ends the session itself.
const DEATHS_WHILE_DRAINING: u32 = 3;

/// What the guard is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The session begins. The first input, and only once.
    Began,
    /// The supervisor of [`Effect::Start`] was started.
    Started,
    /// It could not be started, and why.
    NotStarted(String),
    /// The guard received this signal.
    Signalled(i32),
    /// The supervisor sent a message.
    Heard(ToGuard),
    /// The supervisor's end of the line is closed, and all its messages have been heard.
    LineClosed,
    /// The supervisor exited with this status of `wait(2)`. Comes after all its messages.
    SupervisorExited(i32),
    /// Another child exited.
    ChildExited(ChildExit),
    /// The guard has no child at all.
    NoChildren,
    /// It is at least the time that [`Guard::next_moment`] named.
    TimePassed,
}

/// What the shell does, in this order, after it has sent what [`Guard::unsent`] offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start a supervisor from this binary; `None`: from the guard's own.
    Start(Option<String>),
    /// Send this signal to the supervisor.
    Forward(i32),
    KillSupervisor,
    /// Send TERM to every process that descends from the guard.
    TerminateAll,
    /// Send KILL to every process that descends from the guard.
    KillAll,
    /// Collect this child, which has exited.
    Collect(i32),
    /// Keep the descriptor of the message that was just heard as this app's pipe.
    Hold(String),
    /// Close this app's pipe.
    Release(String),
    /// Keep the descriptor of the message that was just heard as the lock of the state folder.
    KeepLock,
    /// Tell this to whoever reads stderr.
    Warn(String),
    /// The session is over: remove what its supervisors wrote down for one another, so that the next session inherits
    /// nothing. A supervisor that ends well has done so; one that was killed has not.
    Forget,
    /// Exit with this code. The last effect of all.
    Exit(u8),
}

/// The state of one session's guard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Guard {
    /// What supervisors are started from; `None`: the guard's own binary.
    binary: Option<String>,
    /// A new binary that has not taken over yet.
    trial: Option<String>,
    supervisor: Option<Supervisor>,
    respawn: Respawn,
    /// Apps whose pipe is held.
    pipes: BTreeSet<String>,
    /// Exits since the last supervisor took over, oldest first.
    exits: VecDeque<ChildExit>,
    /// A supervisor has taken over once: from then on a dead one is replaced.
    begun: bool,
    /// How long the supervisor may take to stop all apps.
    stop_budget: Duration,
    /// A reload was asked for while the supervisor was not ready.
    reload: bool,
    ending: Option<Ending>,
    exited: bool,
}

/// When the next supervisor is started, and what it is told about the ones before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Respawn {
    due: Option<Duration>,
    deaths: u32,
    /// Deaths in a row that came before the supervisor had started well.
    early: u32,
    cause: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Supervisor {
    began: Duration,
    briefing: Briefing,
    /// How many of the exits it has been told.
    told: usize,
    /// How many it had been told when it was told to go.
    told_at_go: usize,
    line_closed: bool,
    ready: bool,
    /// It was asked to end the session.
    asked: bool,
    /// It has said that it drains, or was told so when it began.
    draining: bool,
    /// It was asked a second time.
    hurried: bool,
    finished: Option<u8>,
    /// When it is killed if it is still there, or still not ready.
    leave_by: Option<Duration>,
}

/// How far a new supervisor has been told what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Briefing {
    Hello,
    /// These pipes are still to be passed.
    Pipes(Vec<String>),
    Exits,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ending {
    began: Duration,
    /// What the session ends with when no supervisor reports another code.
    code: u8,
    /// The signal that asked for it.
    signal: i32,
    /// When it was asked for again.
    hurried: Option<Duration>,
    /// Supervisors that have died since.
    deaths: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Draining,
    Terminating,
    Killing { again: Duration, until: Duration },
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            binary: None,
            trial: None,
            supervisor: None,
            respawn: Respawn::default(),
            pipes: BTreeSet::new(),
            exits: VecDeque::new(),
            begun: false,
            stop_budget: Workspace::default().stop_budget,
            reload: false,
            ending: None,
            exited: false,
        }
    }
}

impl Guard {
    /// The guard of a session whose guard died, and whose supervisor took its place. It holds the pipes of these apps.
    pub fn resumed(deaths: u32, pipes: BTreeSet<String>) -> Guard {
        let cause = "the guard died, and its supervisor took its place".into();
        Guard { begun: true, pipes, respawn: Respawn { deaths, cause, ..Respawn::default() }, ..Guard::default() }
    }

    /// Takes one input at `now`, a time since any fixed origin.
    pub fn handle(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.exited {
            return effects;
        }
        match input {
            Input::Began => self.respawn.due = Some(now),
            Input::Started | Input::TimePassed => {}
            Input::NotStarted(why) => self.not_started(now, why, &mut effects),
            Input::Signalled(HUP) => self.reload(&mut effects),
            Input::Signalled(signal @ (INT | QUIT | TERM)) => self.end(now, signal, &mut effects),
            Input::Signalled(_) => {}
            Input::Heard(message) => self.heard(now, message, &mut effects),
            Input::LineClosed => self.line_closed(),
            Input::SupervisorExited(status) => self.supervisor_exited(now, status, &mut effects),
            Input::ChildExited(exit) => self.child_exited(exit, &mut effects),
            Input::NoChildren => self.no_children(&mut effects),
        }
        self.keep_deadlines(now, &mut effects);
        effects
    }

    /// When [`Input::TimePassed`] is wanted, if no other input comes before.
    pub fn next_moment(&self) -> Option<Duration> {
        let ending = self.ending.as_ref().map(|ending| match ending.stage {
            Stage::Killing { again, until } => again.min(until),
            Stage::Draining | Stage::Terminating => self.kill_at(ending),
        });
        let leave_by = self.supervisor.as_ref().and_then(|supervisor| supervisor.leave_by);
        self.respawn.due.into_iter().chain(ending).chain(leave_by).min()
    }

    /// The next message for the supervisor. Call [`Guard::sent`] when it is on its way, and ask again; when it cannot
    /// be sent now, ask again when there is room.
    pub fn unsent(&self) -> Option<ToSupervisor> {
        let supervisor = self.supervisor.as_ref().filter(|supervisor| !supervisor.line_closed)?;
        let exit = || self.exits.get(supervisor.told).copied().map(ToSupervisor::Exited);
        match &supervisor.briefing {
            Briefing::Hello => Some(ToSupervisor::Hello(Hello {
                deaths: self.respawn.deaths,
                cause: self.respawn.cause.clone(),
                draining: self.ending.as_ref().filter(|_| supervisor.draining).map(|ending| ending.code),
            })),
            Briefing::Pipes(apps) => apps.last().cloned().map(ToSupervisor::Pipe),
            Briefing::Exits => exit().or(Some(ToSupervisor::Go)),
            Briefing::Done => exit(),
        }
    }

    /// The message that [`Guard::unsent`] offered is on its way.
    pub fn sent(&mut self) {
        let Some(supervisor) = &mut self.supervisor else { return };
        let pipes = |apps: Vec<String>| if apps.is_empty() { Briefing::Exits } else { Briefing::Pipes(apps) };
        match &mut supervisor.briefing {
            Briefing::Hello => supervisor.briefing = pipes(self.pipes.iter().rev().cloned().collect()),
            Briefing::Pipes(apps) => {
                apps.pop();
                supervisor.briefing = pipes(std::mem::take(apps));
            }
            Briefing::Exits if supervisor.told == self.exits.len() => {
                supervisor.briefing = Briefing::Done;
                supervisor.told_at_go = supervisor.told;
            }
            Briefing::Exits | Briefing::Done => supervisor.told += 1,
        }
    }

    fn start(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let draining = self.ending.is_some();
        self.respawn.due = None;
        self.supervisor = Some(Supervisor {
            began: now,
            briefing: Briefing::Hello,
            told: 0,
            told_at_go: 0,
            line_closed: false,
            ready: false,
            asked: draining,
            draining,
            hurried: false,
            finished: None,
            leave_by: self.trial.is_some().then(|| now.saturating_add(TAKE_OVER)),
        });
        effects.push(Effect::Start(self.trial.clone().or_else(|| self.binary.clone())));
    }

    fn not_started(&mut self, now: Duration, why: String, effects: &mut Vec<Effect>) {
        self.supervisor = None;
        let why = format!("cannot be started: {why}");
        if let Some(binary) = self.trial.take() {
            return self.replace(now, format!("the new binary {binary} {why}"), true);
        }
        if let Some(binary) = self.binary.take() {
            effects.push(Effect::Warn(format!("{binary} {why}; continuing with the guard's own binary")));
            return self.replace(now, format!("{binary} {why}"), true);
        }
        effects.push(Effect::Warn(format!("the supervisor {why}")));
        match &self.ending {
            _ if !self.begun => self.give_up(now, 1, effects),
            Some(_) => self.terminate(effects),
            None => self.replace(now, why, false),
        }
    }

    fn reload(&mut self, effects: &mut Vec<Effect>) {
        match &self.supervisor {
            Some(supervisor) if supervisor.ready => effects.push(Effect::Forward(HUP)),
            // It may have read the manifests already. The next one, where there is none, has not.
            Some(_) => self.reload = true,
            None => {}
        }
    }

    fn end(&mut self, now: Duration, signal: i32, effects: &mut Vec<Effect>) {
        match &mut self.ending {
            None => self.begin_to_end(now, 0, signal),
            Some(ending) => drop(ending.hurried.get_or_insert(now)),
        }
        match self.ending.as_ref().map(|ending| (ending.stage, ending.hurried)) {
            Some((Stage::Terminating, Some(_))) => self.kill(now, effects),
            _ => self.press(effects),
        }
    }

    fn begin_to_end(&mut self, now: Duration, code: u8, signal: i32) {
        let stage = Stage::Draining;
        self.ending.get_or_insert(Ending { began: now, code, signal, hurried: None, deaths: 0, stage });
        // Nobody who wants the end wants to wait for a start first.
        self.respawn.due = self.respawn.due.map(|_| now);
    }

    /// Asks the supervisor for what it has not been asked for. One that is not ready would die of a signal.
    fn press(&mut self, effects: &mut Vec<Effect>) {
        let (Some(ending), Some(supervisor)) = (&self.ending, &mut self.supervisor) else { return };
        if !supervisor.ready {
            return;
        }
        if !supervisor.asked {
            supervisor.asked = true;
            effects.push(Effect::Forward(ending.signal));
        } else if ending.hurried.is_some() && supervisor.draining && !supervisor.hurried {
            supervisor.hurried = true; // only now: two equal signals that are pending are one
            effects.push(Effect::Forward(ending.signal));
        }
    }

    fn heard(&mut self, now: Duration, message: ToGuard, effects: &mut Vec<Effect>) {
        let Some(supervisor) = &mut self.supervisor else { return };
        match message {
            ToGuard::Ready => self.ready(effects),
            ToGuard::StopBudget(budget) => self.stop_budget = budget,
            ToGuard::Draining(code) => {
                supervisor.asked = true;
                supervisor.draining = true;
                self.begin_to_end(now, code, TERM);
                self.press(effects);
            }
            ToGuard::Hold(app) => {
                self.pipes.insert(app.clone());
                effects.push(Effect::Hold(app));
            }
            ToGuard::Release(app) => {
                self.pipes.remove(&app);
                effects.push(Effect::Release(app));
            }
            ToGuard::Lock => effects.push(Effect::KeepLock),
            ToGuard::Upgrade(binary) => {
                supervisor.leave_by = Some(now.saturating_add(TAKE_OVER));
                self.trial = Some(binary);
            }
            ToGuard::Finished(code) => {
                supervisor.finished = Some(code);
                supervisor.leave_by = Some(now.saturating_add(LAST_STEP));
            }
        }
    }

    fn ready(&mut self, effects: &mut Vec<Effect>) {
        let Some(supervisor) = &mut self.supervisor else { return };
        if std::mem::replace(&mut supervisor.ready, true) {
            return;
        }
        self.begun = true;
        // It has heard everything up to `Go`; what was sent after that it may not have read yet.
        self.exits.drain(..supervisor.told_at_go);
        supervisor.told -= supervisor.told_at_go;
        supervisor.told_at_go = 0;
        if let Some(binary) = self.trial.take() {
            self.binary = Some(binary);
            supervisor.leave_by = None;
        }
        if std::mem::take(&mut self.reload) {
            effects.push(Effect::Forward(HUP));
        }
        self.press(effects);
    }

    fn line_closed(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.line_closed = true;
        }
    }

    fn child_exited(&mut self, exit: ChildExit, effects: &mut Vec<Effect>) {
        if self.exits.len() == EXITS_KEPT {
            self.exits.pop_front();
            if let Some(supervisor) = &mut self.supervisor {
                supervisor.told = supervisor.told.saturating_sub(1);
                supervisor.told_at_go = supervisor.told_at_go.saturating_sub(1);
            }
        }
        self.exits.push_back(exit);
        // After the message: whoever finds the process gone can be sure that the message is there.
        effects.push(Effect::Collect(exit.pid));
    }

    fn supervisor_exited(&mut self, now: Duration, status: i32, effects: &mut Vec<Effect>) {
        let Some(supervisor) = self.supervisor.take() else { return };
        self.reload = false;
        let exit = exit_of(status);
        if let Some(Ending { stage: Stage::Killing { .. }, code, .. }) = &mut self.ending {
            *code = supervisor.finished.unwrap_or(*code);
            return;
        }
        if let Some(code) = supervisor.finished {
            return self.give_up(now, code, effects);
        }
        if !self.begun && !matches!(exit, Exit::Signal(_)) {
            // It could not begin, and has said why.
            return self.give_up(now, code_of(&exit), effects);
        }
        match self.trial.take() {
            Some(binary) if supervisor.ready => {
                self.trial = Some(binary); // it made way
                self.replace(now, "upgrade".into(), true);
            }
            Some(binary) => self.replace(now, format!("the new binary {binary} did not take over: {exit}"), true),
            None => {
                self.respawn.deaths += 1;
                self.replace(now, exit.to_string(), now.saturating_sub(supervisor.began) >= STARTED_WELL);
                self.count_death_while_ending(supervisor.ready, effects);
            }
        }
    }

    /// There is no supervisor: when is the next one due?
    fn replace(&mut self, now: Duration, cause: String, started_well: bool) {
        let Respawn { due, early, .. } = &mut self.respawn;
        *early = if started_well { 0 } else { *early + 1 };
        let wait = match *early {
            _ if self.ending.is_some() => Duration::ZERO,
            0 | 1 => Duration::ZERO,
            more => FIRST_WAIT.saturating_mul(1 << (more - 2).min(10)).min(LONGEST_WAIT),
        };
        *due = Some(now.saturating_add(wait));
        self.respawn.cause = cause;
        if self.ending.as_ref().is_some_and(|ending| ending.stage != Stage::Draining) {
            self.respawn.due = None;
        }
    }

    fn count_death_while_ending(&mut self, was_ready: bool, effects: &mut Vec<Effect>) {
        let Some(ending) = self.ending.as_mut().filter(|ending| ending.stage == Stage::Draining) else { return };
        ending.deaths += 1;
        if !was_ready || ending.deaths >= DEATHS_WHILE_DRAINING {
            let cause = &self.respawn.cause;
            effects.push(Effect::Warn(format!(
                "the supervisor cannot end the session ({cause}); asking every process to end"
            )));
            self.terminate(effects);
        }
    }

    fn terminate(&mut self, effects: &mut Vec<Effect>) {
        self.respawn.due = None;
        if let Some(ending) = &mut self.ending {
            ending.stage = Stage::Terminating;
            effects.push(Effect::TerminateAll);
        }
    }

    /// The session is over with this code, and nothing of it may stay.
    fn give_up(&mut self, now: Duration, code: u8, effects: &mut Vec<Effect>) {
        self.begin_to_end(now, code, TERM);
        if let Some(ending) = &mut self.ending {
            ending.code = code;
        }
        self.kill(now, effects);
    }

    fn kill(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.respawn.due = None;
        if let Some(ending) = &mut self.ending {
            let (again, until) = (now.saturating_add(KILL_AGAIN), now.saturating_add(KILL_WITHIN));
            ending.stage = Stage::Killing { again, until };
            effects.push(Effect::KillAll);
        }
    }

    fn no_children(&mut self, effects: &mut Vec<Effect>) {
        let Some(Ending { stage: Stage::Terminating | Stage::Killing { .. }, code, .. }) = self.ending else { return };
        if self.supervisor.is_none() {
            self.exit(code, effects);
        }
    }

    fn exit(&mut self, code: u8, effects: &mut Vec<Effect>) {
        self.exited = true;
        // What a session left that this one could not follow is for one that can.
        effects.extend(self.begun.then_some(Effect::Forget));
        effects.push(Effect::Exit(code));
    }

    /// When the guard stops waiting for anybody.
    fn kill_at(&self, ending: &Ending) -> Duration {
        let in_time = ending.began.saturating_add(self.stop_budget).saturating_add(OVER_BUDGET);
        ending.hurried.map_or(in_time, |hurried| in_time.min(hurried.saturating_add(HURRY)))
    }

    fn keep_deadlines(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.exited {
            return;
        }
        let stage = self.ending.as_ref().map(|ending| (ending.stage, self.kill_at(ending), ending.code));
        match stage {
            Some((Stage::Killing { until, .. }, _, code)) if until <= now => return self.exit(code, effects),
            Some((Stage::Killing { again, until }, ..)) if again <= now => {
                effects.push(Effect::KillAll);
                let again = now.saturating_add(KILL_AGAIN);
                self.ending.iter_mut().for_each(|ending| ending.stage = Stage::Killing { again, until });
            }
            Some((Stage::Draining | Stage::Terminating, kill_at, _)) if kill_at <= now => {
                effects.push(Effect::Warn("the session did not end in time: killing every process of it".into()));
                self.give_up(now, 1, effects);
            }
            _ => {}
        }
        if let Some(supervisor) = &mut self.supervisor
            && supervisor.leave_by.take_if(|leave_by| *leave_by <= now).is_some()
        {
            effects.push(Effect::KillSupervisor);
        }
        if self.supervisor.is_none() && self.respawn.due.is_some_and(|due| due <= now) {
            self.start(now, effects);
        }
    }
}

/// A status of `wait(2)`.
fn exit_of(status: i32) -> Exit {
    match (status & 0x7f, (status >> 8) & 0xff) {
        (0, 0) => Exit::Clean,
        (0, code) => Exit::Code(code),
        (signal, _) => Exit::Signal(signal),
    }
}

fn code_of(exit: &Exit) -> u8 {
    match exit {
        Exit::Code(code) => *code as u8,
        _ => 0,
    }
}
