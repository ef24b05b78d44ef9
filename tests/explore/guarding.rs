//! The guard in the explored world: feeds the real `model::guard` and carries out its effects, as `src/guard.rs` does.

use std::collections::BTreeSet;

use kasm_void::model::guard::{ChildExit, Guard, GuardEffect, GuardInput, ToGuard};
use kasm_void::model::signal::{INT, TERM};
use kasm_void::model::tree::Pid;

use crate::kernel::{KILL, Program};
use crate::supervising::Supervising;
use crate::upgrading::Version;
use crate::world::{Bug, Line, World};

#[derive(Debug, Clone, Hash)]
pub struct Guarding {
    pub pid: Pid,
    /// What it is executed from itself.
    pub version: Version,
    pub guard: Guard,
    /// Signals that it has not taken yet.
    pub signals: BTreeSet<i32>,
    /// The supervisor that it has to collect, and whether it has seen the end of the line.
    pub child: Option<(Pid, bool)>,
}

impl World {
    /// Somebody starts `kasm-void run`.
    pub fn run(&mut self) -> Result<(), String> {
        let pid = self.kernel.start(self.shell(), Program::Guard, true);
        self.promises.begun(false);
        self.promises.installed();
        self.begin_to_guard((pid, Version::Installed), Guard::default(), BTreeSet::new())
    }

    /// `signals`: what ended the session and came too late for the supervisor that becomes this guard.
    pub fn begin_to_guard(
        &mut self,
        (pid, version): (Pid, Version),
        guard: Guard,
        signals: BTreeSet<i32>,
    ) -> Result<(), String> {
        self.guard = Some(Guarding { pid, version, guard, signals: BTreeSet::new(), child: None });
        if !signals.is_empty() {
            self.promises.told(self.now);
        }
        signals.into_iter().try_for_each(|signal| self.tell_guard(GuardInput::Signalled(signal)))?;
        self.tell_guard(GuardInput::Began)
    }

    /// The first thing that the guard would find to do, in the order of its loop.
    fn work(&self) -> Option<Work> {
        let guarding = self.guard.as_ref()?;
        if let Some(signal) = guarding.signals.first() {
            return Some(Work::Signal(*signal));
        }
        if let Some((pid, closed)) = guarding.child {
            if !self.line.up.is_empty() {
                return Some(Work::Hear);
            }
            if !closed && self.kernel.get(pid).is_some_and(|running| running.status.is_some()) {
                return Some(Work::LineClosed);
            }
        }
        let dead = self.kernel.children(guarding.pid).find_map(|child| Some((child.process.pid, child.status?)));
        if let Some((pid, status)) = dead {
            return Some(Work::Reap(pid, status));
        }
        guarding.guard.next_moment().filter(|due| *due <= self.now).map(|_| Work::Time)
    }

    pub fn guard_has_work(&self) -> bool {
        self.work().is_some()
    }

    pub fn guard_acts(&mut self) -> Result<(), String> {
        let Some(work) = self.work() else { return Ok(()) };
        match work {
            Work::Signal(signal) => {
                self.guard.iter_mut().for_each(|guarding| guarding.signals.retain(|its| *its != signal));
                if matches!(signal, TERM | INT) {
                    self.promises.told(self.now);
                }
                self.tell_guard(GuardInput::Signalled(signal))?;
            }
            Work::Hear => {
                if let Some(message) = self.line.up.pop_front() {
                    if message == ToGuard::Ready {
                        self.promises.begun(true);
                    }
                    self.tell_guard(GuardInput::Heard(message))?;
                }
            }
            Work::LineClosed => {
                self.guard.iter_mut().for_each(|guarding| guarding.child = guarding.child.map(|(pid, _)| (pid, true)));
                self.tell_guard(GuardInput::LineClosed)?;
            }
            Work::Reap(pid, status) => self.reap(pid, status)?,
            Work::Time => self.tell_guard(GuardInput::TimePassed)?,
        }
        let childless = self.guard.as_ref().is_some_and(|guarding| self.kernel.children(guarding.pid).next().is_none());
        if childless { self.tell_guard(GuardInput::NoChildren) } else { Ok(()) }
    }

    fn reap(&mut self, pid: Pid, status: i32) -> Result<(), String> {
        let Some(guarding) = &mut self.guard else { return Ok(()) };
        if guarding.child.take_if(|(child, _)| *child == pid).is_some() {
            self.kernel.collect(pid);
            return self.tell_guard(GuardInput::SupervisorExited(status));
        }
        let started = self.kernel.get(pid).map_or(0, |running| running.process.started);
        self.tell_guard(GuardInput::ChildExited(ChildExit { pid, started, status, peak: 0 }))
    }

    fn tell_guard(&mut self, input: GuardInput) -> Result<(), String> {
        let Some(guarding) = &mut self.guard else { return Ok(()) };
        let effects = guarding.guard.handle(self.now, input);
        self.send_to_supervisor();
        effects.into_iter().try_for_each(|effect| self.perform_for_guard(effect))
    }

    fn send_to_supervisor(&mut self) {
        let Some(guarding) = &mut self.guard else { return };
        if self.supervisor.is_none() {
            return; // nobody is at the other end
        }
        while let Some(message) = guarding.guard.unsent() {
            self.line.down.push_back(message);
            guarding.guard.sent();
        }
    }

    fn perform_for_guard(&mut self, effect: GuardEffect) -> Result<(), String> {
        let Some((own, version)) = self.guard.as_ref().map(|guarding| (guarding.pid, guarding.version)) else {
            return Ok(());
        };
        match effect {
            GuardEffect::Start(Some(binary))
                if self.has_bug(Bug::UpgradeForgotten) && !self.promises.is_new(&binary) =>
            {
                self.start_supervisor(own, version)?
            }
            GuardEffect::Start(binary) => self.start_supervisor(own, binary.as_ref().map_or(version, Version::of))?,
            GuardEffect::KillSupervisor if self.has_bug(Bug::HungBinaryNotKilled) => {}
            GuardEffect::Forward(signal) => self.signal_supervisor(signal),
            GuardEffect::KillSupervisor => self.supervisor_dies(KILL),
            GuardEffect::TerminateAll => self.signal_all(own, TERM),
            GuardEffect::KillAll => self.signal_all(own, KILL),
            GuardEffect::Collect(pid) => self.kernel.collect(pid),
            GuardEffect::Forget => self.disk.ledger = None,
            GuardEffect::Exit(code) => {
                let left = self.kernel.descendants(own);
                self.exit = Some(code);
                self.guard = None;
                self.kernel.dies(own, i32::from(code) << 8);
                self.promises.ended(self, &left)?;
            }
            GuardEffect::Hold(_)
            | GuardEffect::Release(_)
            | GuardEffect::HoldBinary(_)
            | GuardEffect::KeepLock
            | GuardEffect::Warn(_) => {}
        }
        Ok(())
    }

    fn start_supervisor(&mut self, own: Pid, version: Version) -> Result<(), String> {
        if version == Version::Broken {
            return self.tell_guard(GuardInput::NotStarted("it cannot be executed".into()));
        }
        if self.kernel.alive().any(|running| running.program == Program::Supervisor) {
            return Err("there are two supervisors".into());
        }
        let pid = self.kernel.start(own, Program::Supervisor, false);
        (self.line, self.supervisor) = (Line::default(), Some(Supervising::new(pid, version)));
        self.guard.iter_mut().for_each(|guarding| guarding.child = Some((pid, false)));
        self.promises.supervisor_started();
        self.tell_guard(GuardInput::Started)
    }

    fn signal_all(&mut self, own: Pid, signal: i32) {
        for pid in self.kernel.descendants(own) {
            match self.supervisor.as_ref().is_some_and(|supervisor| supervisor.pid == pid) {
                true if signal == KILL => self.supervisor_dies(KILL),
                true => self.signal_supervisor(signal),
                false => self.kernel.signal(pid, signal, &self.story.deaf),
            }
        }
    }

    /// Somebody kills the guard.
    pub fn guard_dies(&mut self) {
        let Some(Guarding { pid, .. }) = self.guard.take() else { return };
        self.line.up.clear();
        self.kernel.dies(pid, KILL);
        self.promises.guard_died(self.now);
        if self.supervisor.is_none() {
            self.promises.nobody_is_left(&self.disk);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Work {
    Signal(i32),
    Hear,
    LineClosed,
    Reap(Pid, i32),
    Time,
}
