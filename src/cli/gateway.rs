//! `gateway`: runs the gateway with settings from a file, or, for a demonstration, for the session of this machine.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ring::rand::{SecureRandom, SystemRandom};

use super::client::Client;
use super::policy::PolicyOptions;
use super::{VerbEnd, print};
use crate::gateway;
use crate::host::journal::{Format, Journal};
use crate::host::layout;
use crate::http::bind;
use crate::launcher::http::Service;
use crate::launcher::navigate::Navigator;
use crate::launcher::token::{Token, VARIABLES};
use crate::model::gateway::settings::{self, Endpoint, FixedWorkspace, GatewaySettings, TokenSource};
use crate::model::protocol::{Identity, Route};
use crate::model::url::Policy;

/// The address of the demonstration's page, if the port is free.
const DEMO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9996);
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The text below the options in the help.
pub const HELP: &str = "\
Examples:
  kasm-void gateway --config gateway.ron --check
  kasm-void gateway --config gateway.ron
  kasm-void gateway --demo                   show the session of this machine

A workspace by address, and callers with a bearer token from a file of `NAME TOKEN` lines:
  Gateway(
      listen: \"127.0.0.1:9996\",
      workspaces: { \"desk\": Workspace(launcher: \"127.0.0.1:9998\", token: \"/run/desk-token\") },
      tokens: \"/run/gateway-tokens\",
  )

The page is at /dashboard/kasm/. Settings, routes and costs are in docs/gateway.md. SIGTERM stops the gateway.";

#[derive(Debug, Args)]
pub struct GatewayOptions {
    /// The settings
    #[arg(long, value_name = "FILE", default_value = "/etc/kasm-void/gateway.ron")]
    config: PathBuf,
    /// Check the settings without starting anything
    #[arg(long)]
    check: bool,
    /// Show the session of this machine, to its own user, with a token that is valid until the gateway ends
    #[arg(long, conflicts_with_all = ["config", "check"])]
    demo: bool,
    /// With --demo, the port of the browser's DevTools, on 127.0.0.1
    #[arg(long, value_name = "PORT", env = "CDP_PORT", hide_env_values = true, default_value_t = 9222)]
    cdp_port: u16,
    #[command(flatten)]
    policy: PolicyOptions,
}

pub async fn run(options: GatewayOptions, state: &Path, json: bool) -> anyhow::Result<VerbEnd> {
    let GatewayOptions { config, check, demo, cdp_port, policy } = options;
    let policy = policy.policy().map_err(anyhow::Error::msg)?;
    let format = if json { Format::Json } else { Format::Auto };
    if demo {
        return run_demo(state, cdp_port, policy, format).await;
    }
    let settings = read(&config)?;
    if check {
        print::say(&format!("{} is right", config.display()))?;
        return Ok(VerbEnd::Done);
    }
    let _journal = Journal::start(format, None)?;
    gateway::run(settings, policy, |_| {}).await?;
    Ok(VerbEnd::Done)
}

/// Runs the gateway for the session of this machine, with a launcher of its own, on loopback.
async fn run_demo(state: &Path, cdp_port: u16, policy: Policy, format: Format) -> anyhow::Result<VerbEnd> {
    let _: Identity = Client::new(state).get(Route::Supervisor.info().path).await?;
    let folder = tempfile::Builder::new().prefix("kasm-void-gateway-").tempdir().context("cannot make a folder")?;
    let (caller, workspace) = (random_token()?, random_token()?);
    let token = written(folder.path().join("token"), &workspace)?;
    let tokens = Some(written(folder.path().join("tokens"), &format!("demo {caller}\n"))?);
    let _journal = Journal::start(format, None)?;
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
    server.close(std::time::Duration::from_secs(1)).await;
    Ok(VerbEnd::Done)
}

fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| anyhow::anyhow!("the system has no random numbers for a token"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that only we can read, in a folder that only we can enter.
fn written(path: PathBuf, text: &str) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(&path, text)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn read(file: &Path) -> anyhow::Result<GatewaySettings> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("cannot read the settings in {}: name the file with --config", file.display()))?;
    match settings::read(&file.display().to_string(), &text) {
        Ok(settings) => Ok(settings),
        Err(problems) => {
            let all: Vec<String> = problems.iter().map(print::problem).collect();
            bail!("the gateway was not started\n{}", all.join("\n"))
        }
    }
}
