//! `gateway`: runs the gateway with settings from a file, or, for a demonstration, for the session of this machine. Its
//! options are the same in every build; a build without the feature `gateway` says how to get one with it.

#[cfg(feature = "gateway")]
mod serve;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
#[cfg(not(feature = "gateway"))]
use anyhow::bail;
use clap::Args;

use super::manifests::tell_problems;
use super::policy::PolicyOptions;
use super::{VerbEnd, print};
use crate::model::gateway::settings::{self, GatewaySettings};
use crate::model::loading::problem::Problem;

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

The page is at /dashboard/kasm/. Settings, routes and costs are in docs/gateway.md. SIGTERM stops the gateway.
A workspace's own binary leaves the gateway out: `cargo build --release --features gateway` builds one with it.";

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
    /// With --demo, the port of the browser's DevTools, on 127.0.0.1 [default: the one in the command of the session's
    /// browser]
    #[arg(long, value_name = "PORT", requires = "demo")]
    cdp_port: Option<u16>,
    #[command(flatten)]
    policy: PolicyOptions,
}

pub async fn run(options: GatewayOptions, state: &Path, json: bool) -> anyhow::Result<VerbEnd> {
    if options.check {
        return match read(&options.config)? {
            Ok(_) if !json => {
                print::say(&format!("{} is right", options.config.display()))?;
                Ok(VerbEnd::Done)
            }
            read => tell_problems((1, read.err().unwrap_or_default()), json),
        };
    }
    serve(options, state, json).await
}

#[cfg(feature = "gateway")]
async fn serve(options: GatewayOptions, state: &Path, json: bool) -> anyhow::Result<VerbEnd> {
    let policy = options.policy.policy().map_err(anyhow::Error::msg)?;
    if options.demo {
        serve::serve_demo(state, options.cdp_port, policy, json).await?;
        return Ok(VerbEnd::Done);
    }
    match read(&options.config)? {
        Ok(settings) => serve::serve(settings, policy, json).await?,
        Err(problems) => {
            let all: Vec<String> = problems.iter().map(print::problem).collect();
            print::complain(&format!("the gateway was not started\n{}", all.join("\n")));
            return Ok(VerbEnd::Refused);
        }
    }
    Ok(VerbEnd::Done)
}

#[cfg(not(feature = "gateway"))]
async fn serve(_: GatewayOptions, _: &Path, _: bool) -> anyhow::Result<VerbEnd> {
    bail!(
        "this binary was built without the gateway, which no workspace needs\n\
         build one with it: cargo build --release --features gateway"
    )
}

/// The settings in a file, or all their mistakes.
fn read(file: &Path) -> anyhow::Result<Result<GatewaySettings, Vec<Problem>>> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("cannot read the settings in {}: name the file with --config", file.display()))?;
    Ok(settings::read(&file.display().to_string(), &text))
}
