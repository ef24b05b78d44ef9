//! The terminal that our output goes to, if any.

use std::io::{IsTerminal, stdout};

/// The terminal's columns. `None` if stdout is not a terminal, so that a pipe gets whole lines. `$COLUMNS` takes
/// precedence, since `watch` sets it.
pub fn width() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let size = || {
        let size = stdout().is_terminal().then(|| rustix::termios::tcgetwinsize(stdout()).ok())??;
        // Some terminals report 0.
        Some(if size.ws_col == 0 { 80 } else { usize::from(size.ws_col) })
    };
    told.filter(|columns| *columns > 0).or_else(size)
}
