//! `top`: the live view of the apps. `screen` decides, `draw` draws, `feed` asks the supervisor, `terminal` owns the
//! terminal; this file passes inputs between them.

mod apps;
mod draw;
mod feed;
mod screen;
mod scrollback;
mod terminal;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::VerbEnd;
use super::client::Client;
use crate::host::terminal::{colours_wanted, shows_ascii_only};
use crate::model::protocol::{Route, Snapshot};
use draw::Abilities;
use feed::Feed;
use screen::{LiveView, ScreenInput, ScreenRequest};
use terminal::LiveTerminal;

/// The time between two draws, so that a talkative app does not keep the terminal busy.
const FRAME: Duration = Duration::from_millis(33);
/// The time in which the kernel stops a process that asked for it.
const STOPPING: Duration = Duration::from_millis(100);

/// Shows the apps until the person quits.
///
/// # Errors
/// There is no terminal, or no supervisor at the beginning. One that disappears later is waited for.
pub async fn top(client: &Client, json: bool) -> anyhow::Result<VerbEnd> {
    ensure!(!json, "`top` has no JSON: use `kasm-void status --watch --json`");
    if !stdout().is_terminal() || std::env::var_os("TERM").is_none_or(|kind| kind.is_empty() || kind == "dumb") {
        bail!("`top` needs a terminal: use `kasm-void status --watch`");
    }
    let apps: Snapshot = client.get(&Route::Apps.path(&[])).await?;
    let (view, mut inputs) = mpsc::channel(256);
    view.send(ScreenInput::Apps(apps, Duration::ZERO)).await.context("the view has ended")?;
    let mut signals = Signals::new()?;
    let mut continued = signal(SignalKind::from_raw(libc::SIGCONT))?;
    let abilities = Abilities { colour: colours_wanted(), unicode: !shows_ascii_only() };
    let mut terminal = LiveTerminal::take(abilities).context("cannot use the terminal")?;
    let mut screen = LiveView::new(terminal::size());
    let mut feed = Feed::start(client, view.clone());
    read_keys(view);
    let mut draw_at = None; // only when the apps are known, or it would say that there are none
    loop {
        let input = tokio::select! {
            biased;
            code = signals.ended() => return Ok(VerbEnd::Ran(ExitCode::from(code))),
            _ = continued.recv() => {
                terminal.retake()?;
                ScreenInput::Resized(terminal::size().0, terminal::size().1)
            }
            () = sleep_until(draw_at.unwrap_or_else(Instant::now)), if draw_at.is_some() => {
                terminal.draw(&screen)?;
                draw_at = None;
                continue;
            }
            input = inputs.recv() => input.context("the terminal is gone")?,
        };
        if let ScreenInput::Resized(columns, rows) = input {
            terminal.resize((columns, rows))?;
        }
        for request in screen.take(input) {
            match request {
                ScreenRequest::Change { app, verb } => feed.change(app, verb),
                ScreenRequest::Follow(app) => feed.follow(app),
                ScreenRequest::Redraw => terminal.forget()?,
                ScreenRequest::Suspend => {
                    terminal.suspend();
                    // A process without a shell above it is not stopped, and so not continued.
                    sleep(STOPPING).await;
                    terminal.retake()?;
                }
                ScreenRequest::Quit => return Ok(VerbEnd::Done),
            }
        }
        draw_at = draw_at.or(Some(Instant::now() + FRAME));
    }
}

/// Passes keys and sizes on, on a thread of its own: they can only be waited for by blocking. It ends with the process.
fn read_keys(view: mpsc::Sender<ScreenInput>) {
    std::thread::spawn(move || {
        loop {
            let input = match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => ScreenInput::Key(key),
                Ok(Event::Resize(columns, rows)) if columns > 0 && rows > 0 => ScreenInput::Resized(columns, rows),
                Ok(_) => continue,
                Err(_) => ScreenInput::NoMoreKeys,
            };
            let last = matches!(input, ScreenInput::NoMoreKeys);
            if view.blocking_send(input).is_err() || last {
                return;
            }
        }
    });
}

/// The signals that end the view.
struct Signals {
    terminate: Signal,
    hang_up: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The exit code that shells give to the signal that ends the view.
    async fn ended(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.quit.recv() => SignalKind::quit(),
        };
        128 + kind.as_raw_value() as u8
    }
}
