//! Queries to the X display: whether it is up, whether a window exists, maximise a window. Each query uses its own
//! connection on a blocking thread, with a deadline on every wait. So a stopped server blocks nothing, and a cancelled
//! hook leaves no client behind.

mod client;
mod windows;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::host::clock::from_now;
use crate::model::hooks::maximize::Maximized;
use crate::model::manifest::pattern::Pattern;
use client::{DisplayClient, DisplayError, QueryLimits};

/// A display, and the file that holds its key.
#[derive(Debug, Clone, Default)]
pub struct Screen {
    pub display: Option<String>,
    pub authority: Option<PathBuf>,
}

/// Time between two attempts to reach a server that is not up yet.
const RETRY: Duration = Duration::from_millis(100);

/// Succeeds if the server accepts a client.
///
/// # Errors
/// Says in words why not; the same holds for the functions below.
pub async fn is_up(screen: &Screen, within: Duration) -> Result<(), String> {
    ask(screen, within, |_| Ok(())).await
}

/// Like [`is_up`], but retries until the server is up or the time is over.
pub async fn wait_up(screen: &Screen, within: Duration) -> Result<(), String> {
    let deadline = from_now(within);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match is_up(screen, left.max(RETRY)).await {
            Ok(()) => return Ok(()),
            Err(why) if left < RETRY => return Err(format!("{why}, after {}", humantime::format_duration(within))),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// How long ago somebody used the mouse or the keyboard. `None` if the server does not know.
pub async fn idle(screen: &Screen, within: Duration) -> Result<Option<Duration>, String> {
    ask(screen, within, DisplayClient::idle).await
}

/// Succeeds if a visible window of this class exists now.
pub async fn window_exists(screen: &Screen, class: &Pattern, within: Duration) -> Result<(), String> {
    let class = class.clone();
    ask(screen, within, move |client| match client.windows_of(&class)?.is_empty() {
        true => Err(DisplayError::Said(format!("no window of class `{class}`"))),
        false => Ok(()),
    })
    .await
}

/// Like [`window_exists`], but waits for the window, without polling.
pub async fn wait_window(screen: &Screen, class: &Pattern, within: Duration) -> Result<(), String> {
    let class = class.clone();
    ask(screen, within, move |client| {
        let there = || Ok((!client.windows_of(&class)?.is_empty()).then_some(()));
        client.until(there)?.ok_or_else(|| DisplayError::Said(no_window(&class, within)))
    })
    .await
}

/// For as long as `within`, maximises and raises each window of this class once. Calls `progress` for each.
pub async fn maximize(
    screen: &Screen,
    class: &Pattern,
    within: Duration,
    progress: impl Fn(&str) + Send + 'static,
) -> Result<(), String> {
    let class = class.clone();
    ask(screen, within, move |client| match client.maximize(&class, progress)? {
        Maximized::Windows(_) => Ok(()),
        Maximized::NoWindow => Err(DisplayError::Said(no_window(&class, within))),
        Maximized::Ignored => Err(DisplayError::Said("the window manager did not maximise the window".into())),
    })
    .await
}

fn no_window(class: &Pattern, within: Duration) -> String {
    format!("no window of class `{class}` within {}", humantime::format_duration(within))
}

/// Runs one query on its own thread.
async fn ask<T: Send + 'static>(
    screen: &Screen,
    within: Duration,
    question: impl FnOnce(&DisplayClient) -> Result<T, DisplayError> + Send + 'static,
) -> Result<T, String> {
    let screen = screen.clone();
    // When the future is dropped, its end of the pair is dropped too, and that wakes the thread.
    let (_asking, cancelled) = UnixStream::pair().map_err(|error| format!("cannot ask the X server: {error}"))?;
    let limits = QueryLimits { deadline: from_now(within), cancelled };
    let answer = tokio::task::spawn_blocking(move || {
        let display =
            screen.display.as_deref().ok_or("DISPLAY is not set: set it in `env` of workspace.ron or of the app")?;
        let client = DisplayClient::open(display, screen.authority.as_deref(), within, limits)?;
        question(&client).map_err(|failed| failed.words(display, within))
    });
    answer.await.unwrap_or_else(|panic| Err(format!("internal error: {panic}")))
}

#[cfg(test)]
mod tests;
