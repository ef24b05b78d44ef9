//! The terminal our output goes to, if it goes to one.

use std::io::{IsTerminal, stdout};

/// Columns of the terminal; `None` when stdout is none, so that a pipe gets whole lines. `$COLUMNS` goes first: `watch`
/// sets it.
pub fn width() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let size = || {
        let size = stdout().is_terminal().then(|| rustix::termios::tcgetwinsize(stdout()).ok())??;
        // Some terminals do not say.
        Some(if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
    };
    told.filter(|columns| *columns > 0).or_else(size)
}
