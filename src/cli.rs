//! The command line: all verbs, their help texts, and their exit codes. Asks the supervisor through `client` and makes
//! no decisions about apps. One file because it is the list of all verbs with their help.

mod change;
mod check_url;
pub mod client;
pub mod complete;
mod doctor;
mod events;
mod explain;
mod gateway;
mod health;
mod icons;
mod inspect;
mod logs;
mod lsp;
mod man;
mod manifests;
mod nav_shim;
mod new;
pub mod open;
mod plan;
mod policy;
pub mod print;
mod proxy;
mod retire;
mod session;
mod status;
mod top;
mod upgrade;
mod wait;
mod why;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use crate::daemon;
use crate::guard::Role;
use crate::host::link::Link;
use crate::host::{journal, layout};
use crate::init;
use crate::model::manifest::quantity::Span;
use crate::model::protocol::Route;
use crate::pty;
use change::Which;
use client::{Client, Waiting};
use logs::LogOptions;
use new::{NewFrom, NewManifest};
use policy::PolicyOptions;

/// How a verb ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum VerbEnd {
    /// Everything was done: exit code 0.
    Done,
    /// Something was refused or has failed: exit code 1.
    Refused,
    /// It was not done in time and goes on: exit code 4.
    TimedOut,
    /// The supervisor has run and exited with this code.
    Ran(ExitCode),
}

impl VerbEnd {
    /// Combines the results of two requests: a refusal outweighs a timeout.
    pub fn and(self, other: VerbEnd) -> VerbEnd {
        match (self, other) {
            (VerbEnd::Done, other) | (other, VerbEnd::Done) => other,
            (VerbEnd::TimedOut, VerbEnd::TimedOut) => VerbEnd::TimedOut,
            _ => VerbEnd::Refused,
        }
    }
}

/// The command line.
#[derive(Parser)]
#[command(name = "kasm-void", version, about, after_help = AFTER, max_term_width = 100)]
pub struct Cli {
    /// The supervisor's state folder, which holds its control socket [default: $KASM_VOID_STATE, else
    /// $XDG_RUNTIME_DIR/kasm-void, else /tmp/kasm-void-UID]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print JSON, for scripts
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
  kasm-void status                             show the apps, their uptime, and their next start
  kasm-void why discord                        show why it last exited, with its last output

Exit codes:
  0 done   1 refused or failed   2 wrong usage   3 no supervisor is running   4 timed out";

#[derive(Subcommand)]
enum Verb {
    /// Supervise the apps in these manifest folders
    #[command(after_help = RUN)]
    Run {
        /// Manifest folders; if two folders hold the same file name, the later folder wins
        /// [default: ~/.config/kasm-void/manifests; if it does not exist, a desktop session is written there first]
        #[arg(value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Format of the supervisor's log on stdout; `auto` is text on a terminal and JSON otherwise
        #[arg(long, value_enum, default_value_t)]
        log_format: LogFormat,
        /// Also write the supervisor's log to daily files in this folder
        #[arg(long, value_name = "DIR")]
        log_dir: Option<PathBuf>,
    },
    /// Check the manifests for mistakes without starting anything
    Check {
        /// Manifest folders, as for `run` [default: ~/.config/kasm-void/manifests]
        #[arg(value_name = "DIR")]
        folders: Vec<PathBuf>,
    },
    /// Show what a reload would do now: + start, ~ restart, · change in place, - stop, ! kept back
    Plan {
        /// Show what a new supervisor would do with these folders, without asking a running one
        #[arg(long, value_name = "DIR", num_args = 1..)]
        offline: Vec<PathBuf>,
    },
    /// Write a first manifest, for a command or for a program of the desktop's menu
    #[command(after_help = NEW)]
    New {
        /// The app's name: the manifest is NAME.ron
        #[arg(required_unless_present = "from")]
        name: Option<String>,
        /// The program and its arguments
        #[arg(last = true, required_unless_present = "from", conflicts_with = "from", value_name = "COMMAND")]
        command: Vec<String>,
        /// A desktop entry, which names the program, its arguments, its icon and, if you give none, the app
        #[arg(long, value_name = "FILE.desktop")]
        from: Option<PathBuf>,
        /// The folder to write the manifest to [default: ~/.config/kasm-void/manifests, where `run` looks]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Overwrite an existing manifest
        #[arg(long)]
        force: bool,
    },
    /// Write desktop icons for the apps that define one
    #[command(after_help = "Example:\n  kasm-void icons manifests --into ~/Desktop")]
    Icons {
        /// Manifest folders, as for `run`
        #[arg(value_name = "DIR", required = true)]
        folders: Vec<PathBuf>,
        /// The folder to write the icons to
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
        /// A program to run on a click; its arguments are the icon's name and the arguments for kasm-void
        #[arg(long, value_name = "PROGRAM")]
        through: Option<String>,
    },
    /// Check whether the launcher would open these URLs, and why not
    #[command(after_help = CHECK_URL)]
    CheckUrl {
        /// URLs; `-` reads URLs from stdin, one per line
        #[arg(value_name = "URL", required = true)]
        urls: Vec<String>,
        /// Check the URLs only, without resolving their names
        #[arg(long)]
        no_resolve: bool,
        #[command(flatten)]
        policy: PolicyOptions,
    },
    /// Open a page on the shared screen through the launcher
    #[command(after_help = OPEN)]
    Open {
        url: String,
        /// The launcher's port on this machine
        #[arg(long, value_name = "PORT", env = "NAV_SHIM_PORT", hide_env_values = true, default_value_t = 9998)]
        launcher_port: u16,
    },
    /// Run the URL launcher: open pages on the shared screen for HTTP clients that have the token
    #[command(after_help = NAV_SHIM)]
    NavShim(nav_shim::NavShimOptions),
    /// Run the guard proxy: the browser's only way out, which refuses private hosts
    #[command(after_help = PROXY)]
    Proxy(proxy::ProxyArgs),
    /// Run the gateway: many workspaces on one page, for people and dashboards
    #[command(after_help = gateway::HELP)]
    Gateway(gateway::GatewayOptions),
    #[command(flatten)]
    Ask(Ask),
    /// Show what a manifest field, a hook or a probe target means
    #[command(after_help = EXPLAIN)]
    Explain {
        /// As in a manifest, for example `backoff` or `stop.grace` [default: the fields of an app]
        #[arg(value_name = "FIELD", default_value = "", hide_default_value = true, add = fields())]
        field: String,
    },
    /// Check this machine and session for problems
    Doctor,
    /// Run as PID 1 of a container: start a command, reap orphans, and drain the apps before stopping the command
    #[command(after_help = INIT)]
    Init {
        /// Time limit for the whole shutdown, from the first signal
        #[arg(long, value_name = "TIME", env = "KASM_VOID_GRACE", default_value = "10s")]
        grace: Span,
        /// Exit with 0 after a clean stop, whatever the command's exit code
        #[arg(long)]
        zero_when_stopped: bool,
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Check whether this binary could take over a session; used by `upgrade`
    #[command(hide = true)]
    TakesOver {
        #[arg(long)]
        ledger: u32,
        #[arg(last = true)]
        folders: Vec<PathBuf>,
    },
    /// Run a command on a terminal of its own; used for apps with `pty: true`
    #[command(hide = true)]
    Pty {
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Move what the older workspace image left in a home aside; used by the image's `workspace.ron`
    #[command(hide = true)]
    Retire { home: PathBuf, kept: PathBuf },
    /// Serve an editor with problems, explanations and completion for manifests, in the Language Server Protocol
    #[command(after_help = LSP)]
    Lsp {
        /// Manifest folders, as for `run`; a file elsewhere is checked together with its own folder
        #[arg(value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Talk over stdin and stdout; it always does
        #[arg(long, hide = true)]
        stdio: bool,
    },
    /// Print a completion script for a shell; it completes the names of apps too
    #[command(after_help = COMPLETIONS)]
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, or write a page for each verb into a folder
    #[command(after_help = "Examples:\n  kasm-void man | man -l -\n  kasm-void man ~/.local/share/man/man1")]
    Man {
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
}

/// The verbs that need a running supervisor.
#[derive(Subcommand)]
enum Ask {
    /// Show the apps: state, uptime, restarts, last exit, memory, next start
    Status {
        /// Show only these apps
        #[arg(value_name = "APP", add = apps())]
        apps: Vec<String>,
        /// Show it again whenever something changes, until the session ends
        #[arg(short, long)]
        watch: bool,
    },
    /// Wait until apps run, are stopped, or are done
    #[command(after_help = WAIT)]
    Wait {
        /// The apps [default: all]
        #[arg(value_name = "APP", add = apps())]
        apps: Vec<String>,
        /// What to wait for
        #[arg(long = "for", value_name = "STATE", value_enum)]
        awaited: wait::Awaited,
        /// Give up waiting after this time
        #[arg(long, value_name = "TIME", default_value = "60s")]
        timeout: Span,
    },
    /// Watch the apps live: state, memory, CPU, output, events; start, stop and restart them by key
    #[command(after_help = TOP)]
    Top,
    /// Start apps; an app that waits for its next retry starts at once
    Start(Change),
    /// Stop apps; they stay down until you start them
    Stop(Change),
    /// Stop and start apps
    Restart(Change),
    /// Start an app, or show it if it is already running, as a click on its icon does
    #[command(after_help = "Examples:\n  kasm-void show discord\n  kasm-void show cloakbrowser https://kbve.com")]
    Show {
        #[arg(add = apps())]
        app: String,
        /// Arguments that replace the app's `args_last`
        #[arg(value_name = "ARG")]
        more: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop an app, run an action from its manifest, and start the app again
    #[command(after_help = "Example:\n  kasm-void do cloakbrowser reload")]
    Do {
        #[arg(add = apps())]
        app: String,
        #[arg(add = ArgValueCompleter::new(complete::actions))]
        action: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Send a signal to an app's main process
    #[command(after_help = "Examples:\n  kasm-void signal discord USR1\n  kasm-void signal discord 10")]
    Signal {
        #[arg(add = apps())]
        app: String,
        /// A signal name, with or without SIG, or a number
        #[arg(value_parser = known_signal)]
        signal: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Read the manifests again and apply the changes now; the supervisor also does this when a file changes
    Reload {
        #[command(flatten)]
        wait: Wait,
    },
    /// Show the output of apps
    #[command(after_help = LOGS)]
    Logs(Logs),
    /// Show everything about an app: manifest, command, variables, processes, limits, last crashes
    Inspect {
        #[arg(value_name = "APP", add = apps())]
        app: String,
    },
    /// Print events as they happen
    Events,
    /// Show why an app last exited, with its last output
    Why {
        #[arg(add = apps())]
        app: String,
        /// How many of the last exits to show
        #[arg(short = 'n', long, default_value_t = 5)]
        last: usize,
    },
    /// Check whether the supervisor answers or the session is ready, for Docker and Kubernetes probes
    Health {
        /// Check whether the session is ready: every app is running or stopped on purpose, or as `workspace.ron` says
        #[arg(long)]
        ready: bool,
        /// Check whether the supervisor answers (the default)
        #[arg(long, conflicts_with = "ready")]
        live: bool,
    },
    /// Switch to another kasm-void binary without stopping apps
    #[command(after_help = UPGRADE)]
    Upgrade {
        /// The binary to switch to [default: this one]
        #[arg(value_name = "BINARY")]
        binary: Option<PathBuf>,
        /// Give up waiting after this time
        #[arg(long, value_name = "TIME", default_value = "60s")]
        timeout: Span,
    },
    /// Stop all apps in order, then the supervisor
    Drain {
        #[command(flatten)]
        wait: Wait,
    },
}

const RUN: &str = "\
Examples:
  kasm-void run manifests
  kasm-void run /usr/share/kasm-void/manifests /etc/kasm-void/manifests ~/.config/kasm-void

Changed manifests are applied at once. On SIGTERM, the supervisor stops all apps in order and exits.";

const WAIT: &str = "\
Examples:
  kasm-void wait browser --for running
  kasm-void wait migrate --for succeeded --timeout 10m && kasm-void start server

If no supervisor is running yet, it waits for one. It ends at once when the state cannot be reached any more: the app
gave up, or a job has failed.

Exit codes:
  0 reached   1 it will not be reached   2 wrong usage   3 no supervisor   4 not within the time";

const EXPLAIN: &str = "\
Examples:
  kasm-void explain                 the fields of an app
  kasm-void explain stop.grace
  kasm-void explain WaitFor         a hook
  kasm-void explain workspace       the fields of workspace.ron
  kasm-void explain depends_on      another supervisor's name for a field";

const LSP: &str = "\
An editor starts it by itself; docs/editors.md has the settings for VS Code, Helix and Neovim. Name the folders in the order
of `run` if a session has several, so that apps in other folders are known.";

const COMPLETIONS: &str = "\
Examples:
  source <(kasm-void completions bash)
  kasm-void completions fish > ~/.config/fish/completions/kasm-void.fish";

const LOGS: &str = "\
Examples:
  kasm-void logs discord -f
  kasm-void logs discord -n 1000 | grep ERROR
  kasm-void logs                                every app
  kasm-void logs browser proxy --since 10m --grep 'refused|timed out'

The lines of several apps have the app's name before them, and are in the order of their times as far as these are known.
A line's time is known if the line begins with one, as in 2026-01-02T15:04:05Z, or is a JSON object with `ts`, `time` or
`timestamp`. A line without a time belongs to the one before. If no supervisor is running, the log files are read.";

const TOP: &str = "\
Keys:
  Up Down  choose an app      s start   x stop   r restart   a actions   f filter
  l e      output or events   Enter whole screen   PgUp PgDn scroll   / search
  ?        all keys           q quit; the apps keep running

It needs a terminal; `docker exec -it CONTAINER kasm-void top` has one. NO_COLOR switches the colours off.";

const INIT: &str = "\
Example, in a Dockerfile:
  ENTRYPOINT [\"kasm-void\", \"init\", \"--\", \"/dockerstartup/vnc_startup.sh\"]

On SIGTERM, each app is stopped with its own signal, so that it can close its profile and remove its locks. Then the
command gets SIGTERM. A second SIGTERM kills everything that is left. SIGHUP reloads the manifests. The exit code is
the command's; with --zero-when-stopped it is 0 after a stop in which nothing had to be killed.";

const UPGRADE: &str = "\
Examples:
  kasm-void upgrade /opt/kasm-void-1.1/kasm-void
  ./kasm-void upgrade                            switch to this binary

The new binary is checked first: it must be able to read the session's state and accept the manifests. If it does not
come up, the old binary takes over again.";

const NEW: &str = "\
Examples:
  kasm-void new terminal -- xterm -maximized
  kasm-void new discord --dir manifests -- /usr/bin/discord --no-sandbox
  kasm-void new --from /usr/share/applications/chromium.desktop";

const CHECK_URL: &str = "\
Examples:
  kasm-void check-url https://example.com http://127.1
  kasm-void check-url --no-resolve --json - < urls.txt
  kasm-void check-url --allow 'example.com *.example.org' https://www.example.org

Prints one line per URL: `allowed` with the URL that would be opened and its addresses, or `refused` with the reason.
The options and variables are the launcher's. All rules are in docs/security.md.

Exit codes:
  0 all URLs are allowed   1 at least one is refused   2 wrong usage";

const OPEN: &str = "\
Example:
  kasm-void open https://example.com

The launcher of the session needs no token from its own user. Another launcher on this machine is asked on its port, with
its token: from the file named by $URL_LAUNCHER_TOKEN_FILE, else from $URL_LAUNCHER_TOKEN, else from $VNC_PW.

Exit codes:
  0 the page is shown   1 it is not   2 wrong usage   3 no launcher is running   4 still loading";

const NAV_SHIM: &str = "\
Example:
  URL_LAUNCHER_TOKEN_FILE=/run/secrets/launcher kasm-void nav-shim --port 9998

  curl -H \"Authorization: Bearer $TOKEN\" -d '{\"url\": \"https://example.com\"}' http://HOST:9998/open
  curl http://HOST:9998/healthz

The token is read from the file named by $URL_LAUNCHER_TOKEN_FILE, again for each request, else from
$URL_LAUNCHER_TOKEN, else from $VNC_PW. Without a token, every request to open a page is refused. All replies are in
docs/launcher.md. SIGTERM stops the launcher.";

const PROXY: &str = "\
Example:
  kasm-void proxy --port 9997
  chromium --proxy-server=http://127.0.0.1:9997 '--proxy-bypass-list=<-loopback>'

Every host is judged by the launcher's policy (kasm-void check-url explains it), its name is looked up once, and only an \
address that was judged is connected to. GET /healthz and /metrics are for probes. More is in docs/proxy.md. SIGTERM stops \
the proxy.";

#[derive(Args)]
struct Change {
    #[arg(value_name = "APP", required_unless_present = "all", conflicts_with = "all", add = apps())]
    apps: Vec<String>,
    /// All apps
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Args)]
struct Logs {
    /// The apps [default: all]
    #[arg(value_name = "APP", add = apps())]
    apps: Vec<String>,
    /// Keep printing new output
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines to print first [default: 100; with --since or --grep, all that they take]
    #[arg(short = 'n', long)]
    lines: Option<usize>,
    /// Only lines from this time on: how long ago, as in 10m, or a time as in 2026-01-02T15:04:05Z
    #[arg(long, value_name = "TIME")]
    since: Option<logs::select::Since>,
    /// Only lines that this regular expression matches; (?i) before it ignores case
    #[arg(long, value_name = "REGEX", value_parser = pattern)]
    grep: Option<regex_lite::Regex>,
    /// Show when each line was written, where that is known
    #[arg(short, long)]
    timestamps: bool,
}

impl Logs {
    fn parts(self) -> (Vec<String>, LogOptions) {
        let Logs { apps, follow, lines, since, grep, timestamps } = self;
        (apps, LogOptions { follow, lines, since, pattern: grep, times: timestamps })
    }
}

fn pattern(text: &str) -> Result<regex_lite::Regex, String> {
    regex_lite::Regex::new(text).map_err(|error| format!("`{text}` is not a regular expression: {error}"))
}

#[derive(Args)]
struct Wait {
    /// Wait until the change is done (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return at once, without waiting for the change
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    /// Give up waiting after this time
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

/// Runs the verb. Wrong usage never gets here: clap exits with code 2.
pub fn run(cli: Cli) -> anyhow::Result<VerbEnd> {
    let Cli { state, json, verb } = cli;
    let begins = matches!(verb, Verb::Run { .. } | Verb::Init { .. } | Verb::TakesOver { .. });
    let place = if begins { layout::default_path } else { layout::session_path };
    let state = state.unwrap_or_else(place);
    match verb {
        Verb::Run { mut folders, log_format, log_dir } => {
            let named = !folders.is_empty();
            let role = match Link::of_our_guard() {
                Some(line) => Role::Supervisor(line),
                None => session::start(&state, named)?,
            };
            let line = match role {
                Role::Supervisor(line) => line,
                Role::Guard(code) => return Ok(VerbEnd::Ran(code)),
            };
            if !named {
                folders.push(session::own_folder()?);
            }
            // People read these paths in other folders.
            let folders = folders.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
            let log_format = if json { journal::Format::Json } else { log_format.into() };
            daemon::run(daemon::RunOptions { folders, state, log_format, log_dir }, line).map(VerbEnd::Ran)
        }
        Verb::Check { folders } => manifests::check(folders, json),
        Verb::Plan { offline } if !offline.is_empty() => plan::tell_plan(&daemon::plan(&offline), json),
        Verb::Plan { .. } => asking(plan::plan(&Client::new(&state), json)),
        Verb::New { name, command, from, dir, force } => {
            let origin = from.map_or(NewFrom::Command(command), NewFrom::Entry);
            new::new(origin, NewManifest { name, folder: dir, force }, json)
        }
        Verb::Icons { folders, into, through } => icons::write(&folders, &into, through.as_deref(), json),
        Verb::CheckUrl { urls, no_resolve, policy } => {
            asking(check_url::check(&policy.policy().map_err(anyhow::Error::msg)?, &urls, !no_resolve, json))
        }
        Verb::Init { grace, zero_when_stopped, command } => {
            init::run(&command, &state, grace.0, zero_when_stopped).map(VerbEnd::Ran)
        }
        Verb::Pty { command } => pty::run(&command).map(VerbEnd::Ran),
        Verb::TakesOver { ledger, folders } => upgrade::takes_over(ledger, &folders, json),
        Verb::Retire { home, kept } => Ok(retire::retire(&home, &kept)),
        Verb::Explain { field } => explain::explain(&field, json),
        Verb::Doctor => asking(doctor::doctor(&Client::new(&state), &state, json)),
        Verb::Open { url, launcher_port } => asking(open::open(&url, &state, launcher_port, json)),
        Verb::NavShim(options) => asking(nav_shim::run(options, json)),
        Verb::Proxy(options) => asking(proxy::run(options, json)),
        Verb::Gateway(options) => asking(gateway::run(options, &state, json)),
        Verb::Ask(question) => asking(ask(question, &Client::new(&state), json)),
        Verb::Lsp { folders, stdio: _ } => lsp::serve(folders),
        Verb::Completions { shell } => {
            print::pass_on(&complete::script(shell)?)?;
            Ok(VerbEnd::Done)
        }
        Verb::Man { folder } => man::man(Cli::command(), folder.as_deref()),
    }
}

fn asking(question: impl Future<Output = anyhow::Result<VerbEnd>>) -> anyhow::Result<VerbEnd> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(question)
}

async fn ask(question: Ask, client: &Client, json: bool) -> anyhow::Result<VerbEnd> {
    match question {
        Ask::Status { apps, watch: false } => status::status(client, &apps, json).await,
        Ask::Status { apps, watch: true } => status::watch::watch(client, &apps, json).await,
        Ask::Wait { apps, awaited, timeout } => wait::wait(client, &apps, awaited, timeout, json).await,
        Ask::Top => top::top(client, json).await,
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
        Ask::Logs(options) => {
            let (apps, options) = options.parts();
            logs::logs(client, apps, options, json).await
        }
        Ask::Inspect { app } => inspect::inspect(client, &app, json).await,
        Ask::Events => events::events(client, json).await,
        Ask::Upgrade { binary, timeout } => upgrade::upgrade(client, binary, timeout, json).await,
    }
}

async fn change_apps(client: &Client, asked: Change, route: Route, json: bool) -> anyhow::Result<VerbEnd> {
    let which = if asked.all { Which::All } else { Which::Named(asked.apps) };
    change::each(client, which, route, asked.wait.into(), json).await
}

fn apps() -> ArgValueCompleter {
    ArgValueCompleter::new(complete::apps)
}

fn fields() -> ArgValueCompleter {
    ArgValueCompleter::new(complete::fields)
}

#[cfg(test)]
mod tests;
