//! Asks the workspaces how they are, while somebody looks at the list: their metrics where they serve some, else
//! whether the launcher answers. When nobody looks, nothing is asked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::board::Board;
use super::forward::WorkspaceClient;
use crate::model::gateway::list::ListInput;

/// From one round to the next. A round that takes longer is followed at once by the next.
const EVERY: Duration = Duration::from_secs(5);
/// From a change of the list to the question to those that have come up.
const SOON: Duration = Duration::from_millis(100);
/// How many workspaces are asked at a time.
const AT_ONCE: usize = 32;

/// Runs for ever.
pub async fn run(board: Arc<Board>, forwarder: Arc<WorkspaceClient>) {
    loop {
        board.looked_at().await;
        let next = Instant::now() + EVERY;
        let mut changes = board.changes();
        round(&board, &forwarder, true).await;
        loop {
            tokio::select! {
                () = sleep_until(next) => break,
                _ = changes.changed() => {} // the sender lives as long as the board
            }
            sleep(SOON).await; // most changes come in bursts
            round(&board, &forwarder, false).await;
        }
    }
}

/// Asks all workspaces, or only those that have just come up.
async fn round(board: &Arc<Board>, forwarder: &Arc<WorkspaceClient>, all: bool) {
    let mut waiting: VecDeque<String> = board.with(|list| list.to_probe(all)).into();
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < AT_ONCE
            && let Some(workspace) = waiting.pop_front()
        {
            let Some(reachable) = board.with(|list| list.reachable(&workspace)) else { continue };
            let (board, forwarder) = (board.clone(), forwarder.clone());
            asked.spawn(async move {
                if let Some(answer) = forwarder.probe(&reachable).await {
                    board.learn(ListInput::Probed { workspace, answer });
                }
            });
        }
        if asked.join_next().await.is_none() {
            return;
        }
    }
}
