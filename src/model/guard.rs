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

mod briefing;
mod ending;
mod input;
mod message;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

pub use ending::OVER_BUDGET;
pub use input::{Binary, GuardEffect, GuardInput};
pub use message::{ChildExit, Hello, ToGuard, ToSupervisor, UnknownMessage};

use self::briefing::Briefing;
use self::ending::{Ending, Stage};
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

/// The guard of one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Guard {
    /// The binary to start supervisors from; `None` means the guard's own.
    binary: Option<Binary>,
    /// A new binary that has not taken over yet.
    trial: Option<Binary>,
    /// How many binaries there have been.
    upgrades: u32,
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

/// The supervisor that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Supervisor {
    began: Duration,
    briefing: Briefing,
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

impl Default for Guard {
    fn default() -> Self {
        Guard {
            binary: None,
            trial: None,
            upgrades: 0,
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
            // A child that has ended is collected all the same: until then, the kernel reports it again and again.
            let ended =
                if let GuardInput::ChildExited(exit) = &input { Some(GuardEffect::Collect(exit.pid)) } else { None };
            return ended.into_iter().collect();
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
        let leave_by = self.supervisor.as_ref().and_then(|supervisor| supervisor.leave_by);
        self.respawn.due.into_iter().chain(self.next_moment_of_the_end()).chain(leave_by).min()
    }

    /// Whether a supervisor may yet be started from the binary of this number.
    pub fn needs(&self, number: u32) -> bool {
        self.binary.iter().chain(&self.trial).any(|binary| binary.number == number)
    }

    /// The next message for the supervisor. Once it is sent, call [`Guard::sent`] and then this again. If it cannot be
    /// sent now, call this again when there is room.
    pub fn unsent(&self) -> Option<ToSupervisor> {
        let supervisor = self.supervisor.as_ref().filter(|supervisor| !supervisor.line_closed)?;
        let hello = || Hello {
            deaths: self.respawn.deaths,
            cause: self.respawn.cause.clone(),
            draining: self.ending.as_ref().filter(|_| supervisor.draining).map(|ending| ending.code),
        };
        supervisor.briefing.next(hello, &self.exits).or_else(|| self.end_to_tell())
    }

    /// Records that the message from [`Guard::unsent`] was sent.
    pub fn sent(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            match supervisor.briefing.is_done(self.exits.len()) {
                true => supervisor.asked = true, // it was `End`
                false => supervisor.briefing.sent(&self.pipes, self.exits.len()),
            }
        }
    }

    fn start(&mut self, now: Duration, effects: &mut Vec<GuardEffect>) {
        let draining = self.ending.is_some();
        self.respawn.due = None;
        self.supervisor = Some(Supervisor {
            began: now,
            briefing: Briefing::default(),
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
            return self.replace(now, format!("the new binary {} {why}", binary.path), true);
        }
        if let Some(binary) = self.binary.take() {
            let path = binary.path;
            effects.push(GuardEffect::Warn(format!("{path} {why}; continuing with the guard's own binary")));
            return self.replace(now, format!("{path} {why}"), true);
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
            ToGuard::Upgrade(path) => {
                supervisor.leave_by = Some(now.saturating_add(TAKE_OVER));
                self.upgrades += 1;
                self.trial = Some(Binary { path, number: self.upgrades });
                effects.push(GuardEffect::HoldBinary(self.upgrades));
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
        self.exits.drain(..supervisor.briefing.read_up_to_go());
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
                supervisor.briefing.oldest_exit_dropped();
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
            Some(Binary { path, .. }) => {
                self.replace(now, format!("the new binary {path} did not take over: {exit}"), true);
            }
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

    fn keep_deadlines(&mut self, now: Duration, effects: &mut Vec<GuardEffect>) {
        if !self.exited {
            self.keep_deadlines_of_the_end(now, effects);
        }
        if self.exited {
            return;
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
