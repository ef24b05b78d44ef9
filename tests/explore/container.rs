//! PID 1 of the explored container: feeds the real `model::init` and carries out its effects, as `src/init.rs` does. Also
//! owns what a container promises to those who stop it.

use std::collections::BTreeSet;
use std::time::Duration;

use kasm_void::model::init::{Init, InitEffect, InitInput};
use kasm_void::model::signal::TERM;
use kasm_void::model::supervisor::{DrainCause, Input};
use kasm_void::model::tree::Pid;

use crate::kernel::{KILL, OUTSIDE, Program};
use crate::supervising::Cut;
use crate::world::{Bug, World};

/// The entry point that PID 1 starts.
#[derive(Debug, Clone, Copy)]
pub struct EntryPoint {
    /// It ignores TERM.
    pub deaf: bool,
    /// `--zero-when-stopped`
    pub zero_when_stopped: bool,
}

/// The time from the first request to stop until everything has ended, as it is by default.
const GRACE: Duration = Duration::from_secs(10);

/// After a second request, a container ends within this time.
const HURRIED: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Hash)]
pub struct Container {
    init: Init,
    /// Signals that it has not taken yet.
    pub signals: BTreeSet<i32>,
    command: Pid,
    /// `kasm-void drain`, while it runs.
    drain: Option<Client>,
    /// A supervisor has stopped every app, and answered.
    drained: bool,
    /// When the end began: it was told to stop, or its command had ended.
    ending: Option<Duration>,
    /// It was told to stop before its command had ended.
    told: bool,
    /// When it was told to stop a second time.
    hurried: Option<Duration>,
    /// How the command ended, once that is collected.
    status: Option<i32>,
    /// Everything was killed before that.
    killed: bool,
}

#[derive(Debug, Clone, Copy, Hash)]
struct Client {
    pid: Pid,
    /// The supervisor that has accepted its request.
    asked: Option<Pid>,
}

/// The work that waits for PID 1.
#[derive(Debug, Clone, Copy)]
enum Work {
    Signal(i32),
    Reap(Pid, i32),
    Time,
}

impl World {
    /// The container is started: its PID 1, the entry point, and a daemon that nobody waits for.
    pub fn begin_container(&mut self) {
        let Some(EntryPoint { zero_when_stopped, .. }) = self.story.entry_point else { return };
        self.kernel.begin_with_init();
        let command = self.kernel.start(OUTSIDE, Program::EntryPoint, true);
        self.kernel.start(OUTSIDE, Program::Stranger, true);
        self.container = Some(Container {
            init: Init::new(GRACE, zero_when_stopped),
            signals: BTreeSet::new(),
            command,
            drain: None,
            drained: false,
            ending: None,
            told: false,
            hurried: None,
            status: None,
            killed: false,
        });
    }

    /// The parent of whatever a person starts.
    pub fn shell(&self) -> Pid {
        self.container.as_ref().map_or(OUTSIDE, |container| container.command)
    }

    /// Whether somebody is there who would start `kasm-void run` again. An entry point does so only if the session was not
    /// ended in order.
    pub fn has_shell(&self) -> bool {
        let Some(container) = &self.container else { return true };
        let entry_point = self.kernel.get(container.command);
        entry_point.is_some_and(|it| it.status.is_none() && !it.asked) && !container.drained
    }

    pub fn container_is_ending(&self) -> bool {
        self.container.as_ref().is_some_and(|container| container.ending.is_some())
    }

    pub fn next_moment_of_the_container(&self) -> Option<Duration> {
        self.container.as_ref().and_then(|container| container.init.next_moment())
    }

    /// The entry point and the daemon.
    pub fn others(&self) -> impl Iterator<Item = Pid> {
        let others = self.kernel.alive().filter(|it| matches!(it.program, Program::EntryPoint | Program::Stranger));
        others.map(|running| running.process.pid)
    }

    fn work_of_init(&self) -> Option<Work> {
        let container = self.container.as_ref()?;
        if let Some(signal) = container.signals.first() {
            return Some(Work::Signal(*signal));
        }
        let known = |pid: Pid| pid == container.command || container.drain.is_some_and(|drain| drain.pid == pid);
        let collects = |pid: Pid| known(pid) || !self.has_bug(Bug::OrphansNotCollected);
        let mut dead = self.kernel.children(OUTSIDE).filter_map(|child| Some((child.process.pid, child.status?)));
        if let Some((pid, status)) = dead.find(|(pid, _)| collects(*pid)) {
            return Some(Work::Reap(pid, status));
        }
        container.init.next_moment().filter(|due| *due <= self.now).map(|_| Work::Time)
    }

    pub fn init_has_work(&self) -> bool {
        self.work_of_init().is_some()
    }

    pub fn init_acts(&mut self) -> Result<(), String> {
        let Some(work) = self.work_of_init() else { return Ok(()) };
        match work {
            Work::Signal(signal) => self.signal_is_taken(signal)?,
            Work::Reap(pid, status) => self.collected(pid, status)?,
            Work::Time => self.tell_init(InitInput::TimePassed)?,
        }
        let childless = self.kernel.children(OUTSIDE).next().is_none();
        if childless { self.tell_init(InitInput::NoChildren) } else { Ok(()) }
    }

    fn signal_is_taken(&mut self, signal: i32) -> Result<(), String> {
        let (now, ignored) = (self.now, self.has_bug(Bug::SecondStopIgnored));
        let Some(container) = &mut self.container else { return Ok(()) };
        container.signals.remove(&signal);
        match container.ending {
            None => (container.ending, container.told) = (Some(now), true),
            Some(_) => {
                container.hurried.get_or_insert(now);
                if ignored {
                    return Ok(());
                }
            }
        }
        self.tell_init(InitInput::Signalled(signal))
    }

    fn collected(&mut self, pid: Pid, status: i32) -> Result<(), String> {
        self.kernel.collect(pid);
        let (now, any) = (self.now, self.has_bug(Bug::AnyChildIsTheCommand));
        let Some(container) = &mut self.container else { return Ok(()) };
        if pid == container.command {
            container.ending.get_or_insert(now);
            container.status = Some(status);
        }
        if container.drain.take_if(|drain| drain.pid == pid).is_some() {
            let taken = self.is_taken() && !self.has_bug(Bug::FailedDrainIsNoSession);
            return self.tell_init(InitInput::DrainEnded { succeeded: status == 0, taken });
        }
        if any || pid == container.command { self.tell_init(InitInput::CommandExited(status)) } else { Ok(()) }
    }

    /// The state folder is locked.
    fn is_taken(&self) -> bool {
        let by_supervisor = self.supervisor.as_ref().is_some_and(|supervisor| supervisor.looping.is_some());
        by_supervisor || self.guard.is_some() && self.promises.has_begun()
    }

    fn tell_init(&mut self, input: InitInput) -> Result<(), String> {
        let now = self.now;
        let Some(container) = &mut self.container else { return Ok(()) };
        let effects = container.init.handle(now, input);
        effects.into_iter().try_for_each(|effect| self.perform_for_init(effect))
    }

    fn perform_for_init(&mut self, effect: InitEffect) -> Result<(), String> {
        match effect {
            InitEffect::Drain if self.has_bug(Bug::CommandAskedFirst) => {
                self.tell_init(InitInput::DrainEnded { succeeded: true, taken: true })
            }
            InitEffect::Drain => {
                self.promises.end_asked();
                let pid = self.kernel.start(OUTSIDE, Program::Client, true);
                self.container.iter_mut().for_each(|it| it.drain = Some(Client { pid, asked: None }));
                Ok(())
            }
            InitEffect::Forward(signal) => {
                if self.is_taken() && self.kernel.alive().any(|running| running.program.is_app()) {
                    return Err("the entry point is asked to end before the apps are down".into());
                }
                let command = self.container.as_ref().map(|container| container.command);
                command.into_iter().for_each(|command| self.signal_any(command, signal));
                Ok(())
            }
            InitEffect::TerminateAll => {
                self.everything_is_signalled(TERM);
                Ok(())
            }
            InitEffect::KillAll => {
                self.container.iter_mut().for_each(|container| container.killed |= container.status.is_none());
                self.everything_is_signalled(KILL);
                Ok(())
            }
            InitEffect::Exit(code) => self.container_ends(code),
            InitEffect::Reload | InitEffect::ForwardIfCaught(_) => Ok(()),
        }
    }

    fn everything_is_signalled(&mut self, signal: i32) {
        self.promises.end_asked();
        if self.guard.is_some() || self.supervisor.is_some() {
            self.promises.told(self.now);
        }
        // CONT comes with TERM.
        self.supervisor.iter_mut().for_each(|supervisor| supervisor.frozen = false);
        self.kernel.descendants(OUTSIDE).into_iter().for_each(|pid| self.signal_any(pid, signal));
    }

    fn signal_any(&mut self, pid: Pid, signal: i32) {
        let Some(program) = self.kernel.get(pid).map(|running| running.program) else { return };
        let deaf = self.story.entry_point.is_some_and(|entry_point| entry_point.deaf);
        match program {
            Program::Guard if signal == KILL => self.guard_dies(),
            Program::Guard => self.guard.iter_mut().for_each(|guarding| guarding.signals.extend([signal])),
            Program::Supervisor if signal == KILL => self.supervisor_dies(KILL),
            Program::Supervisor => self.signal_supervisor(signal),
            Program::App { .. } => self.kernel.signal(pid, signal, &self.story.deaf),
            Program::EntryPoint if signal != KILL => self.kernel.asks(pid, deaf),
            Program::Init | Program::EntryPoint | Program::Stranger | Program::Client => self.kernel.dies(pid, signal),
        }
    }

    /// Whether `kasm-void drain` gets on: a supervisor accepts its request, or it gets its answer, or will get none. A
    /// frozen supervisor keeps it waiting.
    pub fn client_has_work(&self) -> bool {
        let Some(container) = &self.container else { return false };
        let Some(Client { pid, asked }) = container.drain else { return false };
        let alive = self.kernel.get(pid).is_some_and(|running| running.status.is_none());
        let supervisor = self.supervisor.as_ref();
        alive
            && match asked {
                None => supervisor.is_none_or(|supervisor| !supervisor.frozen),
                Some(asked) => container.drained || supervisor.is_none_or(|supervisor| supervisor.pid != asked),
            }
    }

    pub fn session_is_drained(&mut self) {
        self.container.iter_mut().for_each(|container| container.drained = true);
    }

    pub fn client_acts(&mut self) -> Result<(), Cut> {
        let Some(Container { drain: Some(Client { pid, asked }), drained, .. }) = self.container else {
            return Ok(());
        };
        match (asked, self.supervisor.as_ref().filter(|supervisor| supervisor.is_looping())) {
            (None, Some(supervisor)) => {
                let asked = Some(supervisor.pid);
                self.promises.end_asked();
                self.container.iter_mut().for_each(|it| it.drain = Some(Client { pid, asked }));
                self.turn(vec![Input::DrainAsked { code: 0, cause: DrainCause::Request }])
            }
            _ => {
                self.kernel.dies(pid, if asked.is_some() && drained { 0 } else { 1 << 8 });
                Ok(())
            }
        }
    }

    fn container_ends(&mut self, code: u8) -> Result<(), String> {
        let Some(Container { command, ending, told, status, killed, .. }) = self.container.take() else {
            return Ok(());
        };
        if ending.is_none() {
            return Err("the container ends, and nobody has told it to, and its entry point runs".into());
        }
        if let Some(left) = self.kernel.alive().find(|running| running.program != Program::Init) {
            return Err(format!("the container has ended, and {:?} is alive", left.program));
        }
        let status = status.or_else(|| self.kernel.get(command)?.status).unwrap_or(KILL);
        let zero = self.story.entry_point.is_some_and(|entry_point| entry_point.zero_when_stopped);
        let right = match status & 0x7f {
            _ if zero && told && !killed => 0,
            0 => (status >> 8) as u8,
            signal => 128 + signal as u8,
        };
        self.exit.get_or_insert(code);
        match code == right {
            true => Ok(()),
            false => Err(format!("the container ends with {code}, and should with {right}")),
        }
    }

    /// The promises that a container keeps at any moment.
    pub fn container_is_in_time(&self) -> Result<(), String> {
        let Some(Container { ending: Some(began), hurried, .. }) = self.container else { return Ok(()) };
        let by = hurried.map_or(began + GRACE, |hurried| (began + GRACE).min(hurried + HURRIED));
        match self.now > by {
            true => Err("the container has to end, and is still there after its grace".into()),
            false => Ok(()),
        }
    }

    /// The promises that a container keeps when nothing more happens.
    pub fn container_is_at_rest(&self) -> Result<(), String> {
        if self.container_is_ending() {
            return Err("the container has to end, and does not".into());
        }
        match self.kernel.children(OUTSIDE).find(|child| child.status.is_some() && self.container.is_some()) {
            Some(zombie) => Err(format!("{:?} has ended, and PID 1 does not collect it", zombie.program)),
            None => Ok(()),
        }
    }
}
