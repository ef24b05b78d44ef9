//! `nav-shim`: runs the URL launcher with the settings from its options and the environment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::VerbEnd;
use super::policy::PolicyOptions;
use crate::host::journal::{Format, Journal};
use crate::host::{layout, marks, privacy};
use crate::launcher;

#[derive(Debug, Args)]
pub struct NavShimOptions {
    /// The port to listen on
    #[arg(long, env = "NAV_SHIM_PORT", hide_env_values = true, default_value_t = 9998)]
    port: u16,
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    listen: IpAddr,
    /// The port of the browser's DevTools, on 127.0.0.1
    #[arg(long, value_name = "PORT", env = "CDP_PORT", hide_env_values = true, default_value_t = 9222)]
    cdp_port: u16,
    #[command(flatten)]
    policy: PolicyOptions,
}

/// Runs the launcher. As an app of a session, it also serves the session's user through the state folder.
pub async fn run(options: NavShimOptions, json: bool) -> anyhow::Result<VerbEnd> {
    privacy::hide();
    let NavShimOptions { port, listen, cdp_port, policy } = options;
    let policy = policy.policy().map_err(anyhow::Error::msg)?.with_own_ports(&[port, cdp_port]);
    let _journal = Journal::start(if json { Format::Json } else { Format::Auto }, None)?;
    let state = std::env::var_os(marks::APP).and(std::env::var_os(marks::STATE)).map(PathBuf::from);
    let socket = state.map(|state| layout::launcher_socket(&state));
    launcher::run(launcher::LauncherOptions { listen: SocketAddr::new(listen, port), cdp_port, policy, socket })
        .await?;
    Ok(VerbEnd::Done)
}
