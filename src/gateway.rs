//! The gateway: many workspaces on one page. Forwards URLs to their launchers, shows their state as it changes, and
//! starts and stops them. `model::gateway` decides; this carries it out, and knows neither supervisor nor browser.

mod audit;
mod board;
mod callers;
mod cluster;
mod counts;
mod crypto;
mod events;
mod forward;
mod http;
mod page;
mod probing;
mod token_store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::http::bind;
use crate::model::gateway::list::WorkspaceList;
use crate::model::gateway::settings::GatewaySettings;
use crate::model::url::Policy;
use board::Board;
use callers::Callers;
use cluster::ClusterClient;
use forward::WorkspaceClient;
use http::Gateway;
use token_store::TokenStore;

/// Time limit for the last replies at shutdown.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Serves until SIGINT or SIGTERM. `listening` gets the address once clients can connect.
pub async fn run(settings: GatewaySettings, policy: Policy, listening: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    let GatewaySettings { listen, requests_per_second, workspaces, kubernetes, tokens, jwt } = settings;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let listener = bind(listen)
        .with_context(|| format!("cannot listen on {listen}: choose another address with `listen` in the settings"))?;
    let listen = listener.local_addr()?;
    let cluster = match kubernetes {
        Some(settings) => Some(Arc::new(ClusterClient::new(settings).await?)),
        None => None,
    };
    let watches = cluster.as_ref().map(|cluster| cluster.watches());
    let board = Arc::new(Board::new(WorkspaceList::new(workspaces, watches)));
    if let Some(cluster) = &cluster {
        cluster.watch(&board);
    }
    let forwarder = Arc::new(WorkspaceClient::default());
    tokio::spawn(probing::run(board.clone(), forwarder.clone()));
    let tokens_of_workspaces = TokenStore::new(cluster.clone());
    let callers = Arc::new(Callers::new(tokens, jwt));
    callers.warn_at_start();
    let gateway = Gateway::new(board, forwarder, tokens_of_workspaces, cluster, callers, policy, requests_per_second);
    let server = http::serve(listener, gateway);
    tracing::info!(event = "gateway.listening", address = %listen, "ready on {listen}");
    listening(listen);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.close(LAST_ANSWERS).await;
    tracing::info!(event = "gateway.ended", "the gateway has stopped");
    Ok(())
}
