//! Hooks, probes and stage steps of the explored supervisor: which are under way, how they end, and when their answer is
//! taken.

use kasm_void::model::app::AppId;
use kasm_void::model::supervisor::{AppEvent, Input, Traces};

use crate::supervising::{Cut, Looping};
use crate::world::{Bug, World};

/// Something under way for an app, or for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Job {
    pub app: AppId,
    pub errand: Errand,
    /// The run that it belongs to.
    pub run: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Errand {
    /// The `stage` steps of the session.
    Stage,
    Hooks,
    Prestop,
    Poststop,
    Ready,
    Health,
    Traces,
}

/// A job that has ended and whose answer is not taken yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    job: Job,
    good: bool,
}

impl Looping {
    /// A new job takes the place of an earlier one of its kind.
    pub fn begin(&mut self, app: AppId, errand: Errand, run: u64) {
        self.jobs.retain(|job| job.app != app || is_hooks(job.errand) != is_hooks(errand));
        self.jobs.insert(Job { app, errand, run });
    }

    pub fn cancel_hooks(&mut self, app: AppId) {
        self.jobs.retain(|job| job.app != app || !is_hooks(job.errand));
    }

    pub fn cancel_probe(&mut self, app: AppId) {
        self.jobs.retain(|job| job.app != app || is_hooks(job.errand));
    }

    /// The last answer to a health probe of this app was bad.
    pub fn is_unwell(&self, app: AppId) -> bool {
        self.unwell.contains(&app)
    }
}

fn is_hooks(errand: Errand) -> bool {
    matches!(errand, Errand::Hooks | Errand::Prestop | Errand::Poststop)
}

impl World {
    /// The job ends, and its answer is taken at once.
    pub fn job_ends(&mut self, job: Job, good: bool) -> Result<(), Cut> {
        let answer = self.answer_of(job, good)?;
        let input = self.input_of(answer)?;
        self.turn(vec![input])
    }

    /// The job ends. Its answer waits in the queue of the loop, where nobody can cancel it.
    pub fn job_ends_late(&mut self, job: Job) -> Result<(), Cut> {
        let answer = self.answer_of(job, true)?;
        self.looping()?.answers.push_back(answer);
        Ok(())
    }

    /// `good` decides about hooks. What a probe finds depends on the leader.
    fn answer_of(&mut self, job: Job, good: bool) -> Result<Answer, Cut> {
        self.looping()?.jobs.remove(&job);
        let number = self.looping()?.hands.number(job.app);
        let leader =
            number.and_then(|number| self.kernel.leader(number)).map(|leader| (leader.process.pid, leader.ill));
        let good = match (job.errand, leader) {
            (Errand::Ready | Errand::Health, Some((_, ill))) => !ill,
            (Errand::Ready | Errand::Health, None) => false,
            _ => good,
        };
        match (job.errand, number, leader) {
            (Errand::Hooks, Some(number), _) if good => self.promises.prepared(number, job.run),
            (Errand::Prestop, Some(number), _) => self.promises.prestopped(number, job.run),
            (Errand::Poststop, Some(number), _) => self.promises.poststopped(number, job.run)?,
            (Errand::Ready, _, Some((pid, _))) if good => self.promises.answered_ready(pid),
            (Errand::Stage, ..) => self.promises.staged(),
            _ => {}
        }
        Ok(Answer { job, good })
    }

    fn input_of(&mut self, Answer { job: Job { app, errand, run }, good }: Answer) -> Result<Input, Cut> {
        let any_run = self.has_bug(Bug::AnswersOfAnyRun);
        let looping = self.looping()?;
        let run = match any_run {
            true => looping.run(app).unwrap_or(run),
            false => run,
        };
        if errand == Errand::Health {
            match good {
                true => looping.unwell.remove(&app),
                false => looping.unwell.insert(app),
            };
        }
        let event = match (errand, good) {
            (Errand::Stage, _) => return Ok(Input::Staged), // whether it has succeeded or not
            (Errand::Hooks | Errand::Prestop | Errand::Poststop, true) => AppEvent::HooksDone { run },
            (Errand::Hooks | Errand::Prestop | Errand::Poststop, false) => {
                AppEvent::HookFailed { run, why: "it failed".into() }
            }
            (Errand::Ready | Errand::Health, true) => AppEvent::ProbePassed { run },
            (Errand::Ready | Errand::Health, false) => AppEvent::ProbeFailed { run, why: "no answer".into() },
            (Errand::Traces, _) => {
                AppEvent::TracesFound { run, traces: Traces { display: true, idle: None, lock: false } }
            }
        };
        Ok(Input::Happened(app, event))
    }

    /// The next answer in the queue.
    pub fn take_answer(&mut self) -> Result<Option<Input>, Cut> {
        let Some(answer) = self.looping()?.answers.pop_front() else { return Ok(None) };
        self.input_of(answer).map(Some)
    }
}
