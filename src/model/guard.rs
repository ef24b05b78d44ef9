//! The guard: decides when to start a supervisor, which messages to send it, and how the session ends. Pure: it takes
//! inputs with the current time and returns effects. `crate::guard` carries them out.
//!
//! A session that was asked to end goes through three stages. Each stage has a deadline:
//!
//! 1. **Draining**: the supervisor stops the apps in order. If it dies, the guard starts another one, which continues
//!    the drain.
//! 2. **Terminating**: no supervisor can finish the drain, because they die before they are ready, or too often. The
//!    guard sends TERM to all its descendants.
//! 3. **Killing**: the stop budget is used up, or the supervisor has finished. The guard kills all remaining processes.
//!
//! So the session ends within the stop budget plus one second, whatever the supervisor does.

mod message;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

pub use message::{ChildExit, Hello, ToGuard, ToSupervisor, UnknownMessage};

use super::exit::Exit;
use super::manifest::workspace::Workspace;
use super::signal::{HUP, INT, QUIT, TERM};

/// A supervisor that lived this long started well. If it dies, the next one is started at once.
const STARTED_WELL: Duration = Duration::from_secs(1);

/// The wait after the second early death in a row; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A new binary has this long to take over, and the old supervisor has this long to exit before it.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// A supervisor that has reported `Finished` has this long to exit.
const LAST_STEP: Duration = Duration::from_secs(3);

/// How many child exits are kept for the next supervisor.
const EXITS_KEPT: usize = 4096;

/// How long after the stop budget the guard stops waiting for the supervisor. Together with `KILL_WITHIN` this must be
/// less than the promised second.
pub const OVER_BUDGET: Duration = Duration::from_millis(700);

/// After a second request to end, the supervisor has this long. It then only has to kill.
const HURRY: Duration = Duration::from_secs(2);

/// How long the guard keeps killing before it exits anyway: a process may be stuck in the kernel.
const KILL_WITHIN: Duration = Duration::from_millis(250);

/// The wait between two rounds of killing: a killed process may just have forked.
const KILL_AGAIN: Duration = Duration::from_millis(20);

/// Supervisors that may die while they drain before the guard ends the session itself.
const DEATHS_WHILE_DRAINING: u32 = 3;

/// An input of the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardInput {
    /// The session begins. This is the first input and comes once.
    Began,
    /// The supervisor of [`GuardEffect::Start`] was started.
    Started,
    /// The supervisor could not be started, for this reason.
    NotStarted(String),
    /// The guard received this signal.
    Signalled(i32),
    /// The supervisor sent a message.
    Heard(ToGuard),
    /// The supervisor closed its end of the connection, and all its messages have been read.
    LineClosed,
    /// The supervisor exited with this `wait(2)` status. Comes after all its messages.
    SupervisorExited(i32),
    /// Another child exited.
    ChildExited(ChildExit),
    /// The guard has no children.
    NoChildren,
    /// The time that [`Guard::next_moment`] returned has come.
    TimePassed,
}

/// A task for `crate::guard`. Tasks are performed in order, after all messages of [`Guard::unsent`] are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardEffect {
    /// Start a supervisor from this binary; `None` means the guard's own.
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
    /// Keep the descriptor of the current message as this app's pipe.
    Hold(String),
    /// Close this app's pipe.
    Release(String),
    /// Keep the descriptor of the current message as the lock of the state folder.
    KeepLock,
    /// Write this warning to stderr.
    Warn(String),
    /// The session is over: remove the saved state of its supervisors, so that the next session inherits nothing. A
    /// supervisor that exits cleanly has done this; one that was killed has not.
    Forget,
    /// Exit with this code. Always the last effect.
    Exit(u8),
}

/// The guard of one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The binary to start supervisors from; `None` means the guard's own.
    binary: Option<String>,
    /// A new binary that has not taken over yet.
    trial: Option<String>,
    supervisor: Option<Supervisor>,
    respawn: Respawn,
    /// Apps whose pipe the guard holds open.
    pipes: BTreeSet<String>,
    /// Exits since the last supervisor took over, oldest first.
    exits: VecDeque<ChildExit>,
    /// A supervisor has become ready once. From then on a dead one is replaced.
    begun: bool,
    /// How long the supervisor may take to stop all apps.
    stop_budget: Duration,
    /// A reload was requested while the supervisor was not ready.
    reload: bool,
    ending: Option<Ending>,
    exited: bool,
}

/// When to start the next supervisor, and what to tell it about earlier ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Respawn {
    due: Option<Duration>,
    deaths: u32,
    /// Supervisors in a row that died before they had started well.
    early: u32,
    cause: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Supervisor {
    began: Duration,
    briefing: Briefing,
    /// How many of `exits` were sent to it.
    told: usize,
    /// How many of `exits` had been sent when `Go` was sent.
    told_at_go: usize,
    line_closed: bool,
    ready: bool,
    /// It was asked to end the session.
    asked: bool,
    /// It has reported that it drains, or was started to continue a drain.
    draining: bool,
    /// It was asked to end the session a second time.
    hurried: bool,
    finished: Option<u8>,
    /// The time at which it is killed unless it has exited, or has become ready.
    leave_by: Option<Duration>,
}

/// How much of what a new supervisor needs has been sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Briefing {
    Hello,
    /// These pipes still have to be sent.
    Pipes(Vec<String>),
    Exits,
    Done,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ending {
    began: Duration,
    /// The exit code of the session, unless a supervisor reports another one.
    code: u8,
    /// The signal that requested the end.
    signal: i32,
    /// The time of the second request.
    hurried: Option<Duration>,
    /// Supervisors that have died since the first request.
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
    /// A guard for a session whose guard died, so that its supervisor becomes the guard. It holds the pipes of these
    /// apps.
    pub fn resumed(deaths: u32, pipes: BTreeSet<String>) -> Guard {
        let cause = "the guard died, and its supervisor took its place".into();
        Guard { begun: true, pipes, respawn: Respawn { deaths, cause, ..Respawn::default() }, ..Guard::default() }
    }

    /// Handles one input. `now` is the time since any fixed origin.
    pub fn handle(&mut self, now: Duration, input: GuardInput) -> Vec<GuardEffect> {
        let mut effects = Vec::new();
        if self.exited {
            return effects;
        }
        match input {
            GuardInput::Began => self.respawn.due = Some(now),
            GuardInput::Started | GuardInput::TimePassed => {}
            GuardInput::NotStarted(why) => self.not_started(now, why, &mut effects),
            GuardInput::Signalled(HUP) => self.reload(&mut effects),
            GuardInput::Signalled(signal @ (INT | QUIT | TERM)) => self.end(now, signal, &mut effects),
            GuardInput::Signalled(_) => {}
            GuardInput::Heard(message) => self.heard(now, message, &mut effects),
            GuardInput::LineClosed => self.line_closed(),
            GuardInput::SupervisorExited(status) => self.supervisor_exited(now, status, &mut effects),
            GuardInput::ChildExited(exit) => self.child_exited(exit, &mut effects),
            GuardInput::NoChildren => self.no_children(&mut effects),
        }
        self.keep_deadlines(now, &mut effects);
        effects
    }

    /// When to send [`GuardInput::TimePassed`], unless another input comes first.
    pub fn next_moment(&self) -> Option<Duration> {
        let ending = self.ending.as_ref().map(|ending| match ending.stage {
            Stage::Killing { again, until } => again.min(until),
            Stage::Draining | Stage::Terminating => self.kill_at(ending),
        });
        let leave_by = self.supervisor.as_ref().and_then(|supervisor| supervisor.leave_by);
        self.respawn.due.into_iter().chain(ending).chain(leave_by).min()
    }

    /// The next message for the supervisor. Once it is sent, call [`Guard::sent`] and then this again. If it cannot be
    /// sent now, call this again when there is room.
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

    /// Records that the message from [`Guard::unsent`] was sent.
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

    fn start(&mut self, now: Duration, effects: &mut Vec<GuardEffect>) {
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
        effects.push(GuardEffect::Start(self.trial.clone().or_else(|| self.binary.clone())));
    }

    fn not_started(&mut self, now: Duration, why: String, effects: &mut Vec<GuardEffect>) {
        self.supervisor = None;
        let why = format!("cannot be started: {why}");
        if let Some(binary) = self.trial.take() {
            return self.replace(now, format!("the new binary {binary} {why}"), true);
        }
        if let Some(binary) = self.binary.take() {
            effects.push(GuardEffect::Warn(format!("{binary} {why}; continuing with the guard's own binary")));
            return self.replace(now, format!("{binary} {why}"), true);
        }
        effects.push(GuardEffect::Warn(format!("the supervisor {why}")));
        match &self.ending {
            _ if !self.begun => self.give_up(now, 1, effects),
            Some(_) => self.terminate(effects),
            None => self.replace(now, why, false),
        }
    }

    fn reload(&mut self, effects: &mut Vec<GuardEffect>) {
        match &self.supervisor {
            Some(supervisor) if supervisor.ready => effects.push(GuardEffect::Forward(HUP)),
            // It may have read the manifests already, so reload once it is ready. Without a supervisor, the next one
            // reads them anyway.
            Some(_) => self.reload = true,
            None => {}
        }
    }

    fn end(&mut self, now: Duration, signal: i32, effects: &mut Vec<GuardEffect>) {
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
        // The session is ending, so do not delay the next start.
        self.respawn.due = self.respawn.due.map(|_| now);
    }

    /// Sends the supervisor the requests to end that it has not received yet. A signal would kill one that is not
    /// ready.
    fn press(&mut self, effects: &mut Vec<GuardEffect>) {
        let (Some(ending), Some(supervisor)) = (&self.ending, &mut self.supervisor) else { return };
        if !supervisor.ready {
            return;
        }
        if !supervisor.asked {
            supervisor.asked = true;
            effects.push(GuardEffect::Forward(ending.signal));
        } else if ending.hurried.is_some() && supervisor.draining && !supervisor.hurried {
            supervisor.hurried = true; // only now, because two pending signals of one kind merge into one
            effects.push(GuardEffect::Forward(ending.signal));
        }
    }

    fn heard(&mut self, now: Duration, message: ToGuard, effects: &mut Vec<GuardEffect>) {
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
                effects.push(GuardEffect::Hold(app));
            }
            ToGuard::Release(app) => {
                self.pipes.remove(&app);
                effects.push(GuardEffect::Release(app));
            }
            ToGuard::Lock => effects.push(GuardEffect::KeepLock),
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

    fn ready(&mut self, effects: &mut Vec<GuardEffect>) {
        let Some(supervisor) = &mut self.supervisor else { return };
        if std::mem::replace(&mut supervisor.ready, true) {
            return;
        }
        self.begun = true;
        // It has read everything up to `Go`. It may not have read what was sent after that.
        self.exits.drain(..supervisor.told_at_go);
        supervisor.told -= supervisor.told_at_go;
        supervisor.told_at_go = 0;
        if let Some(binary) = self.trial.take() {
            self.binary = Some(binary);
            supervisor.leave_by = None;
        }
        if std::mem::take(&mut self.reload) {
            effects.push(GuardEffect::Forward(HUP));
        }
        self.press(effects);
    }

    fn line_closed(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.line_closed = true;
        }
    }

    fn child_exited(&mut self, exit: ChildExit, effects: &mut Vec<GuardEffect>) {
        if self.exits.len() == EXITS_KEPT {
            self.exits.pop_front();
            if let Some(supervisor) = &mut self.supervisor {
                supervisor.told = supervisor.told.saturating_sub(1);
                supervisor.told_at_go = supervisor.told_at_go.saturating_sub(1);
            }
        }
        self.exits.push_back(exit);
        // Collect it after the message is sent: once the process is gone, the supervisor can rely on the message.
        effects.push(GuardEffect::Collect(exit.pid));
    }

    fn supervisor_exited(&mut self, now: Duration, status: i32, effects: &mut Vec<GuardEffect>) {
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
            // It failed to start and has reported why.
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

    /// Decides when the next supervisor is due.
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

    fn count_death_while_ending(&mut self, was_ready: bool, effects: &mut Vec<GuardEffect>) {
        let Some(ending) = self.ending.as_mut().filter(|ending| ending.stage == Stage::Draining) else { return };
        ending.deaths += 1;
        if !was_ready || ending.deaths >= DEATHS_WHILE_DRAINING {
            let cause = &self.respawn.cause;
            effects.push(GuardEffect::Warn(format!(
                "the supervisor cannot end the session ({cause}); asking every process to end"
            )));
            self.terminate(effects);
        }
    }

    fn terminate(&mut self, effects: &mut Vec<GuardEffect>) {
        self.respawn.due = None;
        if let Some(ending) = &mut self.ending {
            ending.stage = Stage::Terminating;
            effects.push(GuardEffect::TerminateAll);
        }
    }

    /// Ends the session with this code and kills all its processes.
    fn give_up(&mut self, now: Duration, code: u8, effects: &mut Vec<GuardEffect>) {
        self.begin_to_end(now, code, TERM);
        if let Some(ending) = &mut self.ending {
            ending.code = code;
        }
        self.kill(now, effects);
    }

    fn kill(&mut self, now: Duration, effects: &mut Vec<GuardEffect>) {
        self.respawn.due = None;
        if let Some(ending) = &mut self.ending {
            let (again, until) = (now.saturating_add(KILL_AGAIN), now.saturating_add(KILL_WITHIN));
            ending.stage = Stage::Killing { again, until };
            effects.push(GuardEffect::KillAll);
        }
    }

    fn no_children(&mut self, effects: &mut Vec<GuardEffect>) {
        let Some(Ending { stage: Stage::Terminating | Stage::Killing { .. }, code, .. }) = self.ending else { return };
        if self.supervisor.is_none() {
            self.exit(code, effects);
        }
    }

    fn exit(&mut self, code: u8, effects: &mut Vec<GuardEffect>) {
        self.exited = true;
        // If no supervisor ever became ready, keep the state of the earlier session for a version that can read it.
        effects.extend(self.begun.then_some(GuardEffect::Forget));
        effects.push(GuardEffect::Exit(code));
    }

    /// When the guard stops waiting and kills everything.
    fn kill_at(&self, ending: &Ending) -> Duration {
        let in_time = ending.began.saturating_add(self.stop_budget).saturating_add(OVER_BUDGET);
        ending.hurried.map_or(in_time, |hurried| in_time.min(hurried.saturating_add(HURRY)))
    }

    fn keep_deadlines(&mut self, now: Duration, effects: &mut Vec<GuardEffect>) {
        if self.exited {
            return;
        }
        let stage = self.ending.as_ref().map(|ending| (ending.stage, self.kill_at(ending), ending.code));
        match stage {
            Some((Stage::Killing { until, .. }, _, code)) if until <= now => return self.exit(code, effects),
            Some((Stage::Killing { again, until }, ..)) if again <= now => {
                effects.push(GuardEffect::KillAll);
                let again = now.saturating_add(KILL_AGAIN);
                self.ending.iter_mut().for_each(|ending| ending.stage = Stage::Killing { again, until });
            }
            Some((Stage::Draining | Stage::Terminating, kill_at, _)) if kill_at <= now => {
                effects.push(GuardEffect::Warn("the session did not end in time: killing every process of it".into()));
                self.give_up(now, 1, effects);
            }
            _ => {}
        }
        if let Some(supervisor) = &mut self.supervisor
            && supervisor.leave_by.take_if(|leave_by| *leave_by <= now).is_some()
        {
            effects.push(GuardEffect::KillSupervisor);
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
