//! `nav-shim`: runs the URL launcher with the settings from its options and the environment.

use std::net::{IpAddr, SocketAddr};

use clap::Args;

use super::VerbEnd;
use super::policy::PolicyOptions;
use crate::host::journal::{Format, Journal};
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

pub async fn run(options: NavShimOptions, json: bool) -> anyhow::Result<VerbEnd> {
    let NavShimOptions { port, listen, cdp_port, policy } = options;
    let policy = policy.policy().map_err(anyhow::Error::msg)?;
    let _journal = Journal::start(if json { Format::Json } else { Format::Auto }, None)?;
    launcher::run(launcher::LauncherOptions { listen: SocketAddr::new(listen, port), cdp_port, policy }).await?;
    Ok(VerbEnd::Done)
}
