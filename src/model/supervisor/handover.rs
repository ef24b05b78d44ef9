//! Leaving a session that goes on: when this process makes way for another supervisor, or takes the guard's place.

use super::{AskId, Effect, Supervisor, Turn};
use crate::model::protocol::{Answer, Refusal};

/// The message for people when the guard has died during a drain.
const UNGUARDED: &str =
    "the guard has died while the session is ending: if the supervisor dies too, nothing restarts it";

/// Why this process ends without stopping the apps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Leave {
    /// The guard starts the next supervisor from the binary at this path.
    ForUpgrade(String),
    /// The guard has died. This process becomes the guard and starts the next supervisor, so that the apps stay
    /// children of the same process.
    ToBecomeGuard,
}

impl Supervisor {
    /// A sentence about the session while it has no guard.
    pub fn trouble(&self) -> Option<&'static str> {
        self.unguarded.then_some(UNGUARDED)
    }

    /// A drain ends without a guard; any other session needs one.
    pub(super) fn guard_lost(&mut self, turn: &mut Turn<'_>) {
        self.unguarded = true;
        if self.drain.is_none() && !self.will_drain() {
            turn.push(Effect::Leave(Leave::ToBecomeGuard));
        }
    }

    pub(super) fn upgrade(&self, ask: AskId, binary: String, turn: &mut Turn<'_>) {
        let obstacle = match (self.unguarded, self.drain.is_some()) {
            (true, _) => Some(UNGUARDED),
            (false, true) => Some("the session is ending"),
            (false, false) => None,
        };
        let message = match obstacle {
            Some(why) => format!("cannot upgrade to {binary}: {why}"),
            None => format!("making way for {binary}"),
        };
        let refusal = obstacle.map(|_| Refusal::WrongState);
        turn.push(Effect::Answer(ask, Answer { app: String::new(), done: refusal.is_none(), message, refusal }));
        if refusal.is_none() {
            turn.push(Effect::Leave(Leave::ForUpgrade(binary)));
        }
    }
}
