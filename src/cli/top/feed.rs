//! The live view's sources: the apps, the events, and the output of one app. Each is asked for again
//! when the supervisor is replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::screen::{Said, ScreenInput};
use crate::cli::client::{Client, Waiting};
use crate::cli::events;
use crate::cli::print::plain;
use crate::model::manifest::quantity::Span;
use crate::model::protocol::{Route, Snapshot, Verb};

/// How often memory and CPU are measured.
const EVERY: Duration = Duration::from_secs(1);
/// The shortest time between two snapshots, however much happens.
const SHORTEST: Duration = Duration::from_millis(50);
/// Before the next attempt to reach a supervisor.
const RETRY: Duration = Duration::from_millis(200);
/// How much of an app's output is requested.
const LINES: usize = 1000;
/// How long a change may take.
const PATIENCE: Span = Span::secs(60);

/// Asks the supervisor, and tells the view.
pub struct Feed {
    client: Client,
    view: mpsc::Sender<ScreenInput>,
    output: Option<AbortHandle>,
}

impl Feed {
    /// Starts asking. `view` gets the answers.
    pub fn start(client: &Client, view: mpsc::Sender<ScreenInput>) -> Feed {
        let changed = Arc::new(Notify::new());
        tokio::spawn(apps(client.clone(), view.clone(), changed.clone()));
        tokio::spawn(events(client.clone(), view.clone(), changed));
        Feed { client: client.clone(), view, output: None }
    }

    /// Follows the output of this app, and no longer that of another.
    pub fn follow(&mut self, app: String) {
        let task = tokio::spawn(output(self.client.clone(), self.view.clone(), app));
        if let Some(before) = self.output.replace(task.abort_handle()) {
            before.abort();
        }
    }

    /// Sends a request. Its answer comes as an input of the view.
    pub fn change(&self, app: String, verb: Verb) {
        let (client, view) = (self.client.clone(), self.view.clone());
        tokio::spawn(async move {
            let path = match &verb {
                Verb::Start => Route::Start.path(&[&app]),
                Verb::Stop => Route::Stop.path(&[&app]),
                Verb::Restart => Route::Restart.path(&[&app]),
                Verb::Do(action) => Route::Action.path(&[&app, action]),
                Verb::Signal(number) => Route::Signal.path(&[&app, &number.to_string()]),
            };
            let answer = match client.change(&path, Waiting { wait: true, timeout: PATIENCE }).await {
                Ok(outcome) => Said { done: outcome.done, text: outcome.message },
                Err(error) => Said { done: false, text: format!("{error:#}") },
            };
            let _ = view.send(ScreenInput::Answered(answer)).await; // the view has ended
        });
    }
}

/// Tells the apps when something has changed, and regularly for what is measured.
async fn apps(client: Client, view: mpsc::Sender<ScreenInput>, changed: Arc<Notify>) {
    let began = Instant::now();
    loop {
        let (input, pause) = match client.get::<Snapshot>(&Route::Apps.path(&[])).await {
            Ok(snapshot) => (ScreenInput::Apps(snapshot, began.elapsed()), EVERY),
            Err(error) => (ScreenInput::Lost(format!("{error:#}")), RETRY),
        };
        if view.send(input).await.is_err() {
            return;
        }
        sleep(SHORTEST).await;
        let _ = timeout(pause.saturating_sub(SHORTEST), changed.notified()).await; // either may come first
    }
}

async fn events(client: Client, view: mpsc::Sender<ScreenInput>, changed: Arc<Notify>) {
    loop {
        if let Ok(mut stream) = client.open(&Route::Events.path(&[])).await {
            changed.notify_one();
            let mut rest = Vec::new();
            while let Some(piece) = stream.next().await {
                changed.notify_one();
                rest.extend_from_slice(&piece);
                let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
                let lines: Vec<u8> = rest.drain(..whole).collect();
                for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    if view.send(ScreenInput::Event(event_in_words(line))).await.is_err() {
                        return;
                    }
                }
            }
            changed.notify_one();
        }
        sleep(RETRY).await;
    }
}

fn event_in_words(line: &[u8]) -> String {
    match serde_json::from_slice(line) {
        Ok(event) => anstream::adapter::strip_str(&events::in_words(&event)).to_string(),
        Err(_) => plain(&String::from_utf8_lossy(line)),
    }
}

async fn output(client: Client, view: mpsc::Sender<ScreenInput>, app: String) {
    let path = format!("{}?follow=true&lines={LINES}", Route::Logs.path(&[&app]));
    loop {
        if let Ok(mut stream) = client.open(&path).await {
            let mut first = true;
            // Even an app without output has to replace what is shown.
            let mut bytes = stream.head().await;
            loop {
                let input = ScreenInput::Output { app: app.clone(), first, bytes };
                if view.send(input).await.is_err() {
                    return;
                }
                first = false;
                match stream.next().await {
                    Some(piece) => bytes = piece.to_vec(),
                    None => break,
                }
            }
        }
        sleep(RETRY).await;
    }
}
