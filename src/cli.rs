//! Speaks: the command line. Owns its words, its help and how each verb ends; asks the supervisor through
//! `client` and decides nothing itself. One file because it is the list of all verbs with their words.

pub mod change;
pub mod check_url;
pub mod client;
pub mod doctor;
pub mod follow;
pub mod health;
pub mod icons;
pub mod manifests;
pub mod nav_shim;
pub mod open;
pub mod plan;
pub mod policy;
pub mod print;
pub mod session;
pub mod status;
pub mod upgrade;
pub mod why;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::daemon;
use crate::host::link::Line;
use crate::host::{journal, layout};
use crate::init;
use crate::model::manifest::quantity::Span;
use crate::model::protocol::Route;
use change::Which;
use client::{Client, Waiting};
use policy::PolicyOptions;

/// How a verb ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ended {
    Done,
    Refused,
    TimedOut,
    /// The supervisor has run, and ended with this code.
    Ran(ExitCode),
}

impl Ended {
    /// Of two that were asked for together: a refusal weighs more than a wait that took too long.
    pub fn and(self, other: Ended) -> Ended {
        match (self, other) {
            (Ended::Done, other) | (other, Ended::Done) => other,
            (Ended::TimedOut, Ended::TimedOut) => Ended::TimedOut,
            _ => Ended::Refused,
        }
    }
}

#[derive(Parser)]
#[command(name = "kasm-void", version, about, after_help = AFTER, max_term_width = 100)]
pub struct Cli {
    /// The supervisor's state folder, where its control socket is [default: $KASM_VOID_STATE, else
    /// $XDG_RUNTIME_DIR/kasm-void, else /tmp/kasm-void-UID]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Answer in JSON, for scripts
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

const AFTER: &str = "\
First steps:
  kasm-void new discord -- /usr/bin/discord    write ~/.config/kasm-void/manifests/discord.ron
  kasm-void check                              find every mistake in the manifests
  kasm-void run                                supervise the apps in that folder
  kasm-void status                             what runs, since when, what happens next
  kasm-void why discord                        how it ended the last times, and its last words

Exit codes:
  0 done   1 refused or failed   2 wrong usage   3 no supervisor is running   4 timed out";

#[derive(Subcommand)]
enum Verb {
    /// Supervise the apps of these manifest folders
    #[command(after_help = RUN)]
    Run {
        /// Manifest folders; a file in a later one replaces the file of the same name in an earlier one
        /// [default: ~/.config/kasm-void/manifests; when there is none, a desktop session is written there first]
        #[arg(value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// The supervisor's own log on stdout: readable on a terminal and JSON elsewhere, or always the same
        #[arg(long, value_enum, default_value_t)]
        log_format: LogFormat,
        /// Also write the supervisor's log into daily files in this folder
        #[arg(long, value_name = "DIR")]
        log_dir: Option<PathBuf>,
    },
    /// Find every mistake in the manifests, and start nothing
    Check {
        /// Manifest folders, as `run` takes them [default: ~/.config/kasm-void/manifests]
        #[arg(value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// Show what a reload would do now: + start, ~ restart, · change in place, - stop, ! kept back
    Plan {
        /// What a supervisor started now on these folders would do; asks none
        #[arg(long, value_name = "DIR", num_args = 1..)]
        offline: Vec<PathBuf>,
    },
    /// Write a first manifest for a command
    #[command(after_help = NEW)]
    New {
        /// The app's name: the manifest is NAME.ron
        name: String,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
        /// The folder to write it into [default: ~/.config/kasm-void/manifests, where `run` looks]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Write over a manifest that is there
        #[arg(long)]
        force: bool,
    },
    /// Write the desktop icons of manifests
    #[command(after_help = "Example:\n  kasm-void icons manifests --into ~/Desktop")]
    Icons {
        /// Manifest folders, as `run` takes them
        #[arg(value_name = "DIR", required = true)]
        folders: Vec<PathBuf>,
        /// The folder to write them into
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
        /// A program that carries a click out: it is given the icon's name and the words for kasm-void
        #[arg(long, value_name = "PROGRAM")]
        through: Option<String>,
    },
    /// Tell whether the launcher would open these URLs, and if not, why
    #[command(after_help = CHECK_URL)]
    CheckUrl {
        /// URLs; `-` reads more from stdin, one a line
        #[arg(value_name = "URL", required = true)]
        urls: Vec<String>,
        /// Judge what the URLs say, and ask no name server
        #[arg(long)]
        no_resolve: bool,
        #[command(flatten)]
        policy: PolicyOptions,
    },
    /// Open a page on the shared screen, by way of the launcher
    #[command(after_help = OPEN)]
    Open {
        url: String,
        /// Where the launcher listens on this machine
        #[arg(long, value_name = "PORT", env = "NAV_SHIM_PORT", hide_env_values = true, default_value_t = 9998)]
        launcher_port: u16,
    },
    /// Be the launcher: open pages on the shared screen for whoever asks over HTTP with the token
    #[command(after_help = NAV_SHIM)]
    NavShim(nav_shim::Options),
    #[command(flatten)]
    Ask(Ask),
    /// Look for what keeps the supervisor from keeping its promises
    Doctor,
    /// Be PID 1 of a container: start a command, collect orphans, and drain the apps before the command is stopped
    #[command(after_help = INIT)]
    Init {
        /// From the first signal to the end, whatever happens
        #[arg(long, value_name = "TIME", env = "KASM_VOID_GRACE", default_value = "10s")]
        grace: Span,
        /// A stop in good order is no failure, whatever code the command has for it
        #[arg(long)]
        zero_when_stopped: bool,
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Whether this binary could go on with a session; `upgrade` asks it
    #[command(hide = true)]
    TakesOver {
        #[arg(long)]
        ledger: u32,
        #[arg(last = true)]
        folders: Vec<PathBuf>,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  source <(kasm-void completions bash)")]
    Completions { shell: clap_complete::Shell },
}

/// The verbs that ask a supervisor.
#[derive(Subcommand)]
enum Ask {
    /// Show the apps: state, uptime, restarts, last exit, memory, next start
    Status {
        /// Only these
        #[arg(value_name = "APP")]
        apps: Vec<String>,
    },
    /// Start apps; one that waits for its next try is started at once
    Start(Change),
    /// Stop apps; they stay down until somebody starts them
    Stop(Change),
    /// Stop and start apps
    Restart(Change),
    /// Start an app, or show the one that is up, as a click on its icon does
    #[command(after_help = "Examples:\n  kasm-void show discord\n  kasm-void show cloakbrowser https://kbve.com")]
    Show {
        app: String,
        /// What to hand to it, in place of its own last arguments
        #[arg(value_name = "ARG")]
        more: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop an app, run an action of its manifest, start it
    #[command(after_help = "Example:\n  kasm-void do cloakbrowser reload")]
    Do {
        app: String,
        action: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Send a signal to an app's main process
    #[command(after_help = "Examples:\n  kasm-void signal discord USR1\n  kasm-void signal discord 10")]
    Signal {
        app: String,
        /// A name with or without SIG, or a number
        #[arg(value_parser = known_signal)]
        signal: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Read the manifests again and apply what has changed, as a change on disk does by itself
    Reload {
        #[command(flatten)]
        wait: Wait,
    },
    /// Show an app's output
    #[command(after_help = "Examples:\n  kasm-void logs discord -f\n  kasm-void logs discord -n 1000 | grep ERROR")]
    Logs {
        app: String,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines to begin with
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
    },
    /// Show what happens, as it happens
    Events,
    /// Tell how an app ended the last times, with its last words
    Why {
        app: String,
        /// How many of the last ends
        #[arg(short = 'n', long, default_value_t = 5)]
        last: usize,
    },
    /// Ask whether the supervisor answers, or whether every app is up: for probes of Docker and Kubernetes
    Health {
        /// Every app runs, or is down because somebody wants it so
        #[arg(long)]
        ready: bool,
        /// The supervisor answers (this is the default)
        #[arg(long, conflicts_with = "ready")]
        live: bool,
    },
    /// Go on with another version of kasm-void; no app notices
    #[command(after_help = UPGRADE)]
    Upgrade {
        /// The binary to go on with [default: this one]
        #[arg(value_name = "BINARY")]
        binary: Option<PathBuf>,
        /// Wait no longer than this
        #[arg(long, value_name = "TIME", default_value = "60s")]
        timeout: Span,
    },
    /// Stop every app in order, then the supervisor
    Drain {
        #[command(flatten)]
        wait: Wait,
    },
}

const RUN: &str = "\
Examples:
  kasm-void run manifests
  kasm-void run /usr/share/kasm-void/manifests /etc/kasm-void/manifests ~/.config/kasm-void

Changed manifests are applied while it runs. SIGTERM stops every app in order and ends it.";

const INIT: &str = "\
Example, in a Dockerfile:
  ENTRYPOINT [\"kasm-void\", \"init\", \"--\", \"/dockerstartup/vnc_startup.sh\"]

On SIGTERM every app is stopped with its own signal, so that profiles are closed and no lock is left; then the
command gets SIGTERM. A second SIGTERM hurries: what is left is killed. SIGHUP reloads the manifests. The exit code is the command's; with --zero-when-stopped it
is 0 after a stop that had nothing to kill.";

const UPGRADE: &str = "\
Examples:
  kasm-void upgrade /opt/kasm-void-1.1/kasm-void
  ./kasm-void upgrade                            this one takes over

The new binary is tried first: it has to read what the old one leaves, and to find no fault with the manifests.
If it does not come up, the old one goes on.";

const NEW: &str = "\
Examples:
  kasm-void new terminal -- xterm -maximized
  kasm-void new discord --dir manifests -- /usr/bin/discord --no-sandbox";

const CHECK_URL: &str = "\
Examples:
  kasm-void check-url https://example.com http://127.1
  kasm-void check-url --no-resolve --json - < urls.txt
  kasm-void check-url --allow 'example.com *.example.org' https://www.example.org

A line for each URL: allowed, with what would be opened and its addresses, or refused, and why.
The options and variables are those of the launcher; all rules are in docs/security.md.

Exit codes:
  0 all are allowed   1 one or more are refused   2 wrong usage";

const OPEN: &str = "\
Example:
  kasm-void open https://example.com

The token is the launcher's: from the file that $URL_LAUNCHER_TOKEN_FILE names, else $URL_LAUNCHER_TOKEN, else
$VNC_PW.

Exit codes:
  0 the page is shown   1 it is not, and why   2 wrong usage   3 no launcher is running   4 still loading";

const NAV_SHIM: &str = "\
Example:
  URL_LAUNCHER_TOKEN_FILE=/run/secrets/launcher kasm-void nav-shim --port 9998

  curl -H \"Authorization: Bearer $TOKEN\" -d '{\"url\": \"https://example.com\"}' http://HOST:9998/open
  curl http://HOST:9998/healthz

The token is read from the file that $URL_LAUNCHER_TOKEN_FILE names, anew for each request, else from
$URL_LAUNCHER_TOKEN, else $VNC_PW; without one, nobody may open anything. All replies are in docs/launcher.md.
SIGTERM ends it.";

#[derive(Args)]
struct Change {
    #[arg(value_name = "APP", required_unless_present = "all", conflicts_with = "all")]
    apps: Vec<String>,
    /// Every app
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args)]
struct Wait {
    /// Wait until it is done (this is the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Only ask for it
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    /// Wait no longer than this
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Span,
}

impl From<Wait> for Waiting {
    fn from(wait: Wait) -> Waiting {
        Waiting { wait: !wait.no_wait, timeout: wait.timeout }
    }
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum LogFormat {
    #[default]
    Auto,
    Json,
    Text,
}

impl From<LogFormat> for journal::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Auto => journal::Format::Auto,
            LogFormat::Json => journal::Format::Json,
            LogFormat::Text => journal::Format::Text,
        }
    }
}

fn known_signal(text: &str) -> Result<String, String> {
    crate::model::signal::signal_number(text).map(|number| number.to_string())
}

/// Carries out the command line; clap itself ends wrong usage with code 2.
pub fn run(cli: Cli) -> anyhow::Result<Ended> {
    let Cli { state, json, verb } = cli;
    let state = state.unwrap_or_else(layout::default_path);
    match verb {
        Verb::Run { mut folders, log_format, log_dir } => {
            let named = !folders.is_empty();
            let Some(line) = Line::of_our_guard() else { return session::start(&state, named).map(Ended::Ran) };
            if !named {
                folders.push(session::own_folder()?);
            }
            let log_format = if json { journal::Format::Json } else { log_format.into() };
            daemon::run(daemon::Options { folders, state, log_format, log_dir }, line).map(Ended::Ran)
        }
        Verb::Check { folders } => manifests::check(folders, json),
        Verb::Plan { offline } if !offline.is_empty() => plan::tell_plan(&daemon::plan(&offline), json),
        Verb::Plan { .. } => asking(plan::plan(&Client::new(&state), json)),
        Verb::New { name, command, dir, force } => manifests::new(&name, &command, dir, force, json),
        Verb::Icons { folders, into, through } => icons::write(&folders, &into, through.as_deref(), json),
        Verb::CheckUrl { urls, no_resolve, policy } => {
            asking(check_url::check(&policy.policy().map_err(anyhow::Error::msg)?, &urls, !no_resolve, json))
        }
        Verb::Init { grace, zero_when_stopped, command } => {
            init::run(&command, &state, grace.0, zero_when_stopped).map(Ended::Ran)
        }
        Verb::TakesOver { ledger, folders } => upgrade::takes_over(ledger, &folders, json),
        Verb::Doctor => asking(doctor::doctor(&Client::new(&state), &state, json)),
        Verb::Open { url, launcher_port } => asking(open::open(&url, launcher_port, json)),
        Verb::NavShim(options) => asking(nav_shim::run(options, json)),
        Verb::Ask(question) => asking(ask(question, &Client::new(&state), json)),
        Verb::Completions { shell } => completions(shell),
    }
}

fn asking(question: impl Future<Output = anyhow::Result<Ended>>) -> anyhow::Result<Ended> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(question)
}

async fn ask(question: Ask, client: &Client, json: bool) -> anyhow::Result<Ended> {
    match question {
        Ask::Status { apps } => status::status(client, &apps, json).await,
        Ask::Why { app, last } => why::why(client, &app, last, json).await,
        Ask::Health { ready, .. } => health::health(client, ready, json).await,
        Ask::Start(asked) => change_apps(client, asked, Route::Start, json).await,
        Ask::Stop(asked) => change_apps(client, asked, Route::Stop, json).await,
        Ask::Restart(asked) => change_apps(client, asked, Route::Restart, json).await,
        Ask::Show { app, more, wait } => icons::show(client, &app, &more, wait.into(), json).await,
        Ask::Do { app, action, wait } => change::one(client, &app, (Route::Action, &action), wait.into(), json).await,
        Ask::Signal { app, signal, wait } => {
            change::one(client, &app, (Route::Signal, &signal), wait.into(), json).await
        }
        Ask::Reload { wait } => change::reload(client, wait.into(), json).await,
        Ask::Drain { wait } => change::drain(client, wait.into(), json).await,
        Ask::Logs { app, follow, lines } => follow::logs(client, &app, (follow, lines), json).await,
        Ask::Events => follow::events(client, json).await,
        Ask::Upgrade { binary, timeout } => upgrade::upgrade(client, binary, timeout, json).await,
    }
}

async fn change_apps(client: &Client, asked: Change, route: Route, json: bool) -> anyhow::Result<Ended> {
    let which = if asked.all { Which::All } else { Which::Named(asked.apps) };
    change::each(client, which, route, asked.wait.into(), json).await
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Ended> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kasm-void", &mut script);
    print::pass_on(&script)?;
    Ok(Ended::Done)
}

#[cfg(test)]
mod tests;
