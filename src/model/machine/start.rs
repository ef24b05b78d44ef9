//! The steps of a start: which state comes first, what is asked on the way, and what watches a running app.

use std::sync::Arc;

use super::effect::{AppEffect, Context, Report};
use super::parts::{Pid, ProbeKind, Timer};
use super::{MEMORY_POLL, Machine, State};
use crate::model::app::App;

impl Machine {
    /// The first state of the next run. At the first start, the app is looked for before it waits: a supervisor that
    /// died before it could save that may have started it.
    pub(super) fn start(&mut self, action: Option<String>, cx: &Context<'_>) -> State {
        self.run += 1;
        match cx.blocked && self.looked {
            true => State::waiting(action),
            false => self.look(action, cx),
        }
    }

    /// Like `start`, but forgets earlier failures.
    pub(super) fn start_afresh(&mut self, action: Option<String>, cx: &Context<'_>) -> State {
        self.history.forget();
        self.start(action, cx)
    }

    /// Begins with the look-up if it can find anything; the rest of the start follows its answer.
    pub(super) fn look(&mut self, action: Option<String>, cx: &Context<'_>) -> State {
        match self.app.matcher.is_some() || !self.looked {
            true => State::looking(action),
            false => self.prepare(action, cx),
        }
    }

    /// No process of the app is alive.
    pub(super) fn prepare(&self, action: Option<String>, cx: &Context<'_>) -> State {
        if cx.blocked {
            return State::waiting(action);
        }
        match self.app.hooks.prelaunch.is_empty() && action.is_none() {
            true => State::spawning(),
            false => State::hooks(action),
        }
    }

    /// The leader is alive: the app is running at once, or once the ready probe passes.
    pub(super) fn alive(&mut self, pid: Pid, adopted: bool, cx: &mut Context<'_>) -> State {
        self.launched = true;
        cx.report(match adopted {
            true => Report::Adopted { run: self.run, pid },
            false => Report::Launched { run: self.run, pid },
        });
        match self.app.ready {
            Some(_) => State::probing(pid, adopted, String::new()),
            None => State::running(pid, adopted, cx.now, 0),
        }
    }

    pub(super) fn look_up(&self, by_marks: bool, cx: &mut Context<'_>) {
        cx.push(AppEffect::LookUp { run: self.run, app: self.app.clone(), by_marks });
    }

    /// An app that is to be down may be up all the same: an earlier supervisor started it, and its record was lost. Looks
    /// once for what carries the app's marks. A process that only matches the pattern is somebody's own.
    pub(super) fn look_for_lost(&mut self, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.looked, true) {
            let app = Arc::new(App { matcher: None, ..(*self.app).clone() });
            cx.push(AppEffect::LookUp { run: self.run, app, by_marks: true });
        }
    }

    pub(super) fn probe(&self, kind: ProbeKind, cx: &mut Context<'_>) {
        cx.push(AppEffect::Probe { run: self.run, app: self.app.clone(), kind });
    }

    pub(super) fn arm_health(&self, cx: &mut Context<'_>) {
        if let Some(health) = &self.app.health {
            cx.arm(self.run, Timer::Health, health.every);
        }
    }

    pub(super) fn arm_memory(&self, cx: &mut Context<'_>) {
        if self.app.max_rss.is_some() {
            cx.arm(self.run, Timer::Memory, MEMORY_POLL);
        }
    }

    pub(super) fn disarm_watch(&self, cx: &mut Context<'_>) {
        if self.app.health.is_some() {
            cx.push(AppEffect::CancelProbe);
        }
        cx.disarm(Timer::Health);
        cx.disarm(Timer::Memory);
    }
}
