//! PID 1 of a container whose entry point is another program: decides what its signals mean and how the container
//! ends. Pure: it takes inputs with the current time and returns effects. `crate::init` carries them out.
//!
//! A container that is asked to stop goes through these stages within its grace:
//!
//! 1. **Draining**: the supervisor stops the apps in order.
//! 2. **Stopping**: the command gets TERM. If the drain took too long, all other processes get it too, which makes the
//!    session's guard hurry.
//! 3. **Killing**: all remaining processes get KILL.

use std::time::Duration;

use super::signal::{HUP, INT, QUIT, TERM, USR1, USR2, WINCH};

/// The part of the grace that is reserved for everything after the drain.
const AFTER_THE_DRAIN: Duration = Duration::from_secs(3);

/// The part of the grace that is reserved for the kernel, after everything was killed.
const AFTER_THE_KILL: Duration = Duration::from_millis(500);

/// After a second request to stop, processes have this long before they are killed. The guard needs less.
const HURRY: Duration = Duration::from_millis(2500);

/// The wait before a drain is requested again, after a request that failed.
const DRAIN_AGAIN: Duration = Duration::from_millis(100);

/// The wait between two rounds of killing: a killed process may just have forked.
const KILL_AGAIN: Duration = Duration::from_millis(20);

/// An input of PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitInput {
    /// This signal was received.
    Signalled(i32),
    /// The command exited with this `wait(2)` status.
    CommandExited(i32),
    /// The request of [`InitEffect::Drain`] has ended, or could not be made.
    DrainEnded {
        /// Every app is down.
        succeeded: bool,
        /// The state folder is locked, so a session goes on in it.
        taken: bool,
    },
    /// There are no children.
    NoChildren,
    /// The time that [`Init::next_moment`] returned has come.
    TimePassed,
}

/// A task for `crate::init`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitEffect {
    /// Ask the supervisor to drain, and report [`InitInput::DrainEnded`].
    Drain,
    /// Ask the supervisor to read its manifests again.
    Reload,
    /// Send this signal to the command.
    Forward(i32),
    /// Send this signal to the command, but only if the command catches it. Otherwise it would die.
    ForwardIfCaught(i32),
    /// Send TERM to every process.
    TerminateAll,
    /// Send KILL to every process.
    KillAll,
    /// Exit with this code. Always the last effect.
    Exit(u8),
}

/// The state of PID 1.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Init {
    /// The time from the first request to stop until everything has ended.
    grace: Duration,
    /// An orderly stop counts as success, whatever the command's exit code.
    zero_when_stopped: bool,
    /// How the command exited.
    status: Option<i32>,
    ending: Option<Ending>,
    exited: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ending {
    began: Duration,
    /// The stop was requested; the command did not end by itself.
    asked: bool,
    /// The time of the second request.
    hurried: Option<Duration>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// `again`: when to request the drain again.
    Draining {
        again: Option<Duration>,
    },
    Stopping,
    Killing {
        again: Duration,
        command_was_killed: bool,
    },
}

impl Init {
    /// `grace` is the time from the first request to stop until everything has ended. With `zero_when_stopped`, an
    /// orderly stop counts as success, whatever the command's exit code.
    pub fn new(grace: Duration, zero_when_stopped: bool) -> Init {
        Init { grace, zero_when_stopped, status: None, ending: None, exited: false }
    }

    /// Handles one input. `now` is the time since any fixed origin.
    pub fn handle(&mut self, now: Duration, input: InitInput) -> Vec<InitEffect> {
        let mut effects = Vec::new();
        if self.exited {
            return effects;
        }
        match input {
            InitInput::Signalled(INT | QUIT | TERM) => self.stop(now, &mut effects),
            InitInput::Signalled(HUP) => effects.extend([InitEffect::ForwardIfCaught(HUP), InitEffect::Reload]),
            InitInput::Signalled(signal @ (USR1 | USR2 | WINCH)) => effects.push(InitEffect::ForwardIfCaught(signal)),
            InitInput::Signalled(_) => {}
            InitInput::CommandExited(status) => self.command_exited(now, status, &mut effects),
            // Its supervisor is about to be replaced, and the next one can be asked.
            InitInput::DrainEnded { succeeded: false, taken: true } => self.not_drained(now),
            // It is done, or there is no session to drain.
            InitInput::DrainEnded { .. } => self.drained(now, &mut effects),
            InitInput::NoChildren => self.no_children(&mut effects),
            InitInput::TimePassed => {}
        }
        self.keep_deadlines(now, &mut effects);
        effects
    }

    /// When to send [`InitInput::TimePassed`], unless another input comes first.
    pub fn next_moment(&self) -> Option<Duration> {
        let ending = self.ending.as_ref()?;
        Some(match ending.stage {
            Stage::Draining { again } => {
                let until = self.drain_until(ending).min(self.kill_at(ending));
                again.map_or(until, |again| until.min(again))
            }
            Stage::Stopping => self.kill_at(ending),
            Stage::Killing { again, .. } => again.min(self.exit_at(ending)),
        })
    }

    fn stop(&mut self, now: Duration, effects: &mut Vec<InitEffect>) {
        match &mut self.ending {
            None => self.begin_to_end(now, true, effects),
            Some(ending) if ending.hurried.is_some() => {}
            Some(ending) => {
                ending.hurried = Some(now);
                if !matches!(ending.stage, Stage::Killing { .. }) {
                    self.terminate_all(effects);
                }
            }
        }
    }

    fn command_exited(&mut self, now: Duration, status: i32, effects: &mut Vec<InitEffect>) {
        self.status = Some(status);
        match self.ending.as_ref().map(|ending| ending.stage) {
            // The apps are still drained.
            None => self.begin_to_end(now, false, effects),
            Some(Stage::Stopping) => self.kill(now, effects),
            Some(Stage::Draining { .. } | Stage::Killing { .. }) => {}
        }
    }

    fn begin_to_end(&mut self, now: Duration, asked: bool, effects: &mut Vec<InitEffect>) {
        let stage = Stage::Draining { again: None };
        self.ending = Some(Ending { began: now, asked, hurried: None, stage });
        effects.push(InitEffect::Drain);
    }

    fn drained(&mut self, now: Duration, effects: &mut Vec<InitEffect>) {
        let draining = |ending: &&mut Ending| matches!(ending.stage, Stage::Draining { .. });
        let Some(ending) = self.ending.as_mut().filter(draining) else { return };
        ending.stage = Stage::Stopping;
        match self.status {
            Some(_) => self.kill(now, effects),
            None => effects.push(InitEffect::Forward(TERM)),
        }
    }

    fn not_drained(&mut self, now: Duration) {
        if let Some(Ending { stage: Stage::Draining { again }, .. }) = &mut self.ending {
            *again = Some(now.saturating_add(DRAIN_AGAIN));
        }
    }

    fn terminate_all(&mut self, effects: &mut Vec<InitEffect>) {
        if let Some(ending) = &mut self.ending {
            ending.stage = Stage::Stopping;
            effects.push(InitEffect::TerminateAll);
        }
    }

    fn kill(&mut self, now: Duration, effects: &mut Vec<InitEffect>) {
        let command_was_killed = self.status.is_none();
        if let Some(ending) = &mut self.ending {
            ending.stage = Stage::Killing { again: now.saturating_add(KILL_AGAIN), command_was_killed };
            effects.push(InitEffect::KillAll);
        }
    }

    fn no_children(&mut self, effects: &mut Vec<InitEffect>) {
        if matches!(self.ending, Some(Ending { stage: Stage::Killing { .. }, .. })) {
            self.exit(effects);
        }
    }

    fn exit(&mut self, effects: &mut Vec<InitEffect>) {
        self.exited = true;
        let in_order = matches!(
            &self.ending,
            Some(Ending { asked: true, stage: Stage::Killing { command_was_killed: false, .. }, .. })
        );
        effects.push(InitEffect::Exit(match self.status {
            _ if in_order && self.zero_when_stopped => 0,
            Some(status) => code_of(status),
            None => code_of(9), // it was killed but has not exited
        }));
    }

    /// When a drain has taken too long and all other processes are asked to end.
    fn drain_until(&self, ending: &Ending) -> Duration {
        let most = self.grace.saturating_sub(AFTER_THE_DRAIN).max(self.grace / 2);
        ending.began.saturating_add(most)
    }

    /// When all remaining processes are killed.
    fn kill_at(&self, ending: &Ending) -> Duration {
        let in_time = ending.began.saturating_add(self.grace.saturating_sub(AFTER_THE_KILL));
        ending.hurried.map_or(in_time, |hurried| in_time.min(hurried.saturating_add(HURRY)))
    }

    /// When PID 1 exits, even if processes are left.
    fn exit_at(&self, ending: &Ending) -> Duration {
        self.kill_at(ending).saturating_add(AFTER_THE_KILL)
    }

    fn keep_deadlines(&mut self, now: Duration, effects: &mut Vec<InitEffect>) {
        let Some(ending) = self.ending.as_ref().filter(|_| !self.exited) else { return };
        match ending.stage {
            Stage::Draining { .. } | Stage::Stopping if self.kill_at(ending) <= now => self.kill(now, effects),
            Stage::Draining { .. } if self.drain_until(ending) <= now => self.terminate_all(effects),
            Stage::Draining { again: Some(again) } if again <= now => {
                effects.push(InitEffect::Drain);
                self.ending.iter_mut().for_each(|it| it.stage = Stage::Draining { again: None });
            }
            Stage::Killing { .. } if self.exit_at(ending) <= now => self.exit(effects),
            Stage::Killing { again, command_was_killed } if again <= now => {
                effects.push(InitEffect::KillAll);
                let again = now.saturating_add(KILL_AGAIN);
                self.ending.iter_mut().for_each(|it| it.stage = Stage::Killing { again, command_was_killed });
            }
            _ => {}
        }
    }
}

/// The exit code that a shell reports for a `wait(2)` status.
fn code_of(status: i32) -> u8 {
    match status & 0x7f {
        0 => (status >> 8) as u8,
        signal => 128 + signal as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DRAINED: InitInput = InitInput::DrainEnded { succeeded: true, taken: true };
    const NOT_NOW: InitInput = InitInput::DrainEnded { succeeded: false, taken: true };

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The behaviour of a simulated container.
    #[derive(Debug, Clone)]
    struct Container {
        /// How long the command takes to obey TERM, and its status; `None` if it ignores TERM.
        command: Option<(u64, i32)>,
        /// How long the drain takes; `None` if it never ends.
        drain: Option<u64>,
        /// How many drain requests fail before one is accepted.
        silent: u8,
        /// Processes that outlive both and ignore TERM.
        rest: bool,
    }

    fn container() -> impl Strategy<Value = Container> {
        let command = prop::option::of((0..4000_u64, prop_oneof![Just(0), Just(3 << 8), Just(15)]));
        (command, prop::option::of(0..12_000_u64), 0..3_u8, any::<bool>())
            .prop_map(|(command, drain, silent, rest)| Container { command, drain, silent, rest })
    }

    struct World {
        now: Duration,
        init: Init,
        container: Container,
        command_ends: Option<(Duration, i32)>,
        command_alive: bool,
        drain_ends: Option<Duration>,
        draining: bool,
        not_drained: bool,
        exit: Option<u8>,
        seen: Vec<InitEffect>,
    }

    impl World {
        fn new(container: Container, grace: Duration, zero_when_stopped: bool) -> World {
            World {
                now: Duration::ZERO,
                init: Init::new(grace, zero_when_stopped),
                container,
                command_ends: None,
                command_alive: true,
                drain_ends: None,
                draining: false,
                not_drained: false,
                exit: None,
                seen: Vec::new(),
            }
        }

        fn tell(&mut self, input: InitInput) {
            for effect in self.init.handle(self.now, input) {
                assert_eq!(self.exit, None, "{effect:?} after the end");
                self.seen.push(effect);
                match effect {
                    InitEffect::Drain if self.container.silent > 0 => {
                        self.container.silent -= 1;
                        self.not_drained = true;
                    }
                    InitEffect::Drain => {
                        assert!(!std::mem::replace(&mut self.draining, true), "drained twice");
                        self.drain_ends = self.container.drain.map(|span| self.now + ms(span));
                    }
                    InitEffect::Forward(_) | InitEffect::TerminateAll => {
                        let ends = self.container.command.map(|(span, status)| (self.now + ms(span), status));
                        self.command_ends = self.command_ends.or(ends);
                    }
                    InitEffect::KillAll => {
                        self.container.rest = false;
                        self.drain_ends = Some(self.now);
                        if self.command_alive {
                            self.command_ends = Some((self.now, 9));
                        }
                    }
                    InitEffect::Exit(code) => self.exit = Some(code),
                    InitEffect::Reload | InitEffect::ForwardIfCaught(_) => {}
                }
            }
        }

        fn pass(&mut self, span: Duration) {
            let end = self.now + span;
            while self.now < end && self.exit.is_none() {
                self.now = (self.now + ms(5)).min(end);
                if let Some((_, status)) = self.command_ends.filter(|(at, _)| *at <= self.now && self.command_alive) {
                    self.command_alive = false;
                    self.tell(InitInput::CommandExited(status));
                }
                if std::mem::take(&mut self.not_drained) {
                    self.tell(NOT_NOW);
                }
                if self.drain_ends.take_if(|at| *at <= self.now).is_some() {
                    self.tell(DRAINED);
                }
                self.tell(InitInput::TimePassed);
                if !self.command_alive && !self.container.rest && self.drain_ends.is_none() {
                    self.tell(InitInput::NoChildren);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_container_that_is_told_to_stop_stops_within_its_grace(
            container in container(), grace in 600..15_000_u64, stop in prop_oneof![Just(INT), Just(QUIT), Just(TERM)],
            noise in prop::collection::vec(1..64_i32, 0..6), zero in any::<bool>(),
        ) {
            let mut world = World::new(container.clone(), ms(grace), zero);
            for signal in noise.iter().filter(|signal| ![INT, QUIT, TERM].contains(signal)) {
                world.tell(InitInput::Signalled(*signal));
                world.pass(ms(10));
            }
            prop_assert!(world.exit.is_none() && !world.draining, "ended by {noise:?}");
            world.tell(InitInput::Signalled(stop));
            world.pass(ms(grace + 20));
            let code = world.exit.expect("an end within the grace");
            if let (Some((span, status)), Some(drain)) = (container.command, container.drain)
                && drain + 350 < grace.saturating_sub(3000).max(grace / 2)
                && drain + span + 900 < grace
            {
                prop_assert_eq!(code, if zero { 0 } else { code_of(status) });
            }
        }

        #[test]
        fn a_second_stop_makes_it_short(container in container(), between in 0..3000_u64) {
            let mut world = World::new(container, ms(60_000), false);
            world.tell(InitInput::Signalled(TERM));
            world.pass(ms(between));
            world.tell(InitInput::Signalled(TERM));
            world.pass(HURRY + AFTER_THE_KILL + ms(20));
            prop_assert!(world.exit.is_some());
        }

        #[test]
        fn the_apps_are_drained_before_the_command_is_asked(container in container()) {
            let mut world = World::new(container.clone(), ms(10_000), false);
            world.tell(InitInput::Signalled(TERM));
            world.pass(ms(20_000));
            let asked = world.seen.iter().position(|effect| matches!(effect, InitEffect::Forward(TERM) | InitEffect::TerminateAll));
            prop_assert_eq!(world.seen.first(), Some(&InitEffect::Drain));
            prop_assert!(asked.is_some());
            if container.drain.is_some_and(|drain| drain < 6_600) {
                prop_assert_eq!(world.seen[asked.unwrap_or(0)], InitEffect::Forward(TERM));
            }
        }

        #[test]
        fn a_command_that_ends_by_itself_ends_the_container_with_its_code(
            drain in 0..1000_u64, rest in any::<bool>(), code in any::<u8>(),
        ) {
            let mut world = World::new(Container { command: None, drain: Some(drain), silent: 0, rest }, ms(10_000), true);
            world.command_alive = false;
            world.tell(InitInput::CommandExited(i32::from(code) << 8));
            world.pass(ms(drain + 100));
            prop_assert_eq!(world.exit, Some(code), "a command that fails is not a stop in order");
        }
    }

    #[test]
    fn a_failed_drain_is_asked_for_again_only_while_a_session_goes_on() {
        let mut init = Init::new(ms(10_000), false);
        init.handle(ms(0), InitInput::Signalled(TERM));
        assert_eq!(init.handle(ms(1), NOT_NOW), []);
        assert_eq!(init.handle(ms(1) + DRAIN_AGAIN, InitInput::TimePassed), [InitEffect::Drain]);
        let no_session = InitInput::DrainEnded { succeeded: false, taken: false };
        assert_eq!(init.handle(ms(200), no_session), [InitEffect::Forward(TERM)], "the command is asked next");
    }

    #[test]
    fn a_grace_of_for_ever_does_not_overflow() {
        let mut init = Init::new(Duration::MAX, false);
        assert_eq!(init.handle(ms(5), InitInput::Signalled(TERM)), [InitEffect::Drain]);
        assert!(init.next_moment().is_some());
    }
}
