//! Facts about a run when its program is started or adopted, which help to classify its exit.

use crate::model::app::App;

#[derive(Clone, Copy, Default)]
pub(super) struct SpawnClues {
    /// It is a Chromium: its manifest clears the locks of one.
    pub locks: bool,
    /// The app's `oom_score_adj`, if it differs from ours.
    pub oom_score_adj: Option<i32>,
}

impl SpawnClues {
    pub fn of(app: &App) -> Self {
        SpawnClues { locks: app.clears_chromium_locks(), oom_score_adj: app.program.oom_score_adj }
    }
}

/// The run that a process leads.
#[derive(Clone, Copy)]
pub(super) struct Led {
    pub run: u64,
    pub clues: SpawnClues,
}
