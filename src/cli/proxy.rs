//! `proxy`: runs the guard proxy with the settings from its options and the environment.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;

use super::VerbEnd;
use super::policy::PolicyOptions;
use crate::host::journal::{Format, Journal};
use crate::host::privacy;
use crate::model::proxy::upstream::Upstream;
use crate::proxy::{self, ProxyOptions};

#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// The port to listen on, on 127.0.0.1
    #[arg(long, env = "PROXY_PORT", hide_env_values = true, default_value_t = 9997)]
    port: u16,
    /// Another proxy that opens every connection: http://HOST:PORT. Put a login into the variable, not into the option
    #[arg(long, value_name = "URL", env = "PROXY_UPSTREAM", hide_env_values = true, value_parser = upstream)]
    upstream: Option<Next>,
    #[command(flatten)]
    policy: PolicyOptions,
}

/// The next proxy, or none for an empty variable.
#[derive(Debug, Clone)]
struct Next(Option<Upstream>);

fn upstream(text: &str) -> Result<Next, String> {
    match text.trim() {
        "" => Ok(Next(None)),
        text => Upstream::read(text).map(|upstream| Next(Some(upstream))),
    }
}

pub async fn run(options: ProxyArgs, json: bool) -> anyhow::Result<VerbEnd> {
    let ProxyArgs { port, upstream, policy } = options;
    privacy::hide(); // the next proxy's login
    let private = policy.private_hosts();
    let policy = policy.policy().map_err(anyhow::Error::msg)?.with_own_ports(&[port]);
    let _journal = Journal::start(if json { Format::Json } else { Format::Auto }, None)?;
    if !private.is_empty() {
        let hosts = private.join(" ");
        tracing::warn!(event = "proxy.private_hosts", hosts, "pages reach these private hosts on purpose: {hosts}");
    }
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    proxy::run(ProxyOptions { listen, policy, upstream: upstream.and_then(|Next(upstream)| upstream) }).await?;
    Ok(VerbEnd::Done)
}
