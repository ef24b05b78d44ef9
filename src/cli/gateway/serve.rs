//! Runs the gateway: with settings, or for the session of this machine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use ring::rand::{SecureRandom, SystemRandom};

use crate::cli::client::Client;
use crate::cli::print;
use crate::gateway;
use crate::host::journal::{Format, Journal};
use crate::host::layout;
use crate::http::bind;
use crate::launcher::http::Service;
use crate::launcher::navigate::Navigator;
use crate::launcher::token::{Token, VARIABLES};
use crate::model::gateway::settings::{Endpoint, FixedWorkspace, GatewaySettings, TokenSource};
use crate::model::protocol::{Inspection, Route, Snapshot};
use crate::model::url::Policy;

/// The address of the demonstration's page, if the port is free.
const DEMO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9996);
/// The port of DevTools, if no app of the session names one.
const CDP_PORT: u16 = 9222;
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Runs the gateway with these settings.
pub async fn serve(settings: GatewaySettings, policy: Policy, json: bool) -> anyhow::Result<()> {
    let _journal = journal(json)?;
    gateway::run(settings, policy, |_| {}).await
}

/// Runs the gateway for the session of this machine, with a launcher of its own, on loopback.
pub async fn serve_demo(state: &Path, cdp_port: Option<u16>, policy: Policy, json: bool) -> anyhow::Result<()> {
    let client = Client::new(state);
    let cdp_port = match cdp_port {
        Some(port) => port,
        None => browser_port(&client).await?.unwrap_or(CDP_PORT),
    };
    let folder = tempfile::Builder::new().prefix("kasm-void-gateway-").tempdir().context("cannot make a folder")?;
    let (caller, workspace) = (random_token()?, random_token()?);
    let token = written(folder.path().join("token"), &workspace)?;
    let tokens = Some(written(folder.path().join("tokens"), &format!("demo {caller}\n"))?);
    let _journal = journal(json)?;
    let navigator = Navigator::new(cdp_port, policy.clone());
    let listener = bind(ANY_PORT).context("cannot listen for the launcher")?;
    let port = listener.local_addr()?.port();
    let variable = |name: &str| (name == VARIABLES[0]).then(|| OsString::from(workspace.clone()));
    let server = Service::new(navigator.clone(), Token::new(variable)).serve(listener);
    let session = FixedWorkspace {
        launcher: Endpoint::Tcp { host: Ipv4Addr::LOCALHOST.to_string(), port },
        metrics: Some(Endpoint::Unix(layout::control_socket(state))),
        token: TokenSource::File(token),
    };
    let listen = if TcpListener::bind(DEMO).is_ok() { DEMO } else { ANY_PORT };
    let workspaces = BTreeMap::from([("session".to_owned(), session)]);
    let settings = GatewaySettings { listen, requests_per_second: 20, workspaces, kubernetes: None, tokens, jwt: None };
    let told = |address| {
        // A reader that has left does not end the demonstration.
        let _ = print::say(&format!("\n  look  http://{address}/dashboard/kasm/#token={caller}\n  stop  Ctrl-C\n"));
    };
    gateway::run(settings, policy, told).await?;
    navigator.close().await;
    server.close(Duration::from_secs(1)).await;
    Ok(())
}

/// The port of DevTools of the session's first browser. Each session on a machine has its own.
async fn browser_port(client: &Client) -> anyhow::Result<Option<u16>> {
    let Snapshot { apps, .. } = client.get(Route::Apps.info().path).await?;
    for app in apps {
        let Inspection { program, .. } = client.get(&Route::Inspect.path(&[&app.name])).await?;
        let named = program.argv.iter().find_map(|word| word.strip_prefix("--remote-debugging-port="));
        if let Some(port) = named.and_then(|port| port.parse().ok()) {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| anyhow::anyhow!("the system has no random numbers for a token"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that only we can read, in a folder that only we can enter.
fn written(path: PathBuf, text: &str) -> anyhow::Result<PathBuf> {
    fs::write(&path, text)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn journal(json: bool) -> anyhow::Result<Journal> {
    Journal::start(if json { Format::Json } else { Format::Auto }, None)
}
