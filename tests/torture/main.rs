//! The torture suite: random mistreatment of a session of the real binary, which must recover correctly.
//!
//! `cargo test --test torture -- --minutes 30 --seed 7`. Without arguments it takes half a minute and always uses
//! the same seeds, so that no test run depends on luck. `--minutes` alone uses a new seed.
//! This file owns the command line; `driver` owns the mistreatment.

mod cast;
mod deaths;
mod driver;
mod expect;
#[allow(dead_code)] // the integration tests use all of it
#[path = "../it/harness.rs"]
mod harness;
mod sight;
mod stage;
mod wire;
mod witness;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use driver::Driver;

const NAME: &str = "torture";
/// How long one seed runs by default.
const BY_DEFAULT: Duration = Duration::from_secs(15);
/// The seeds of every test run.
const SEEDS: [u64; 2] = [1, 7711];
/// Set for the process that runs in its own mount namespace.
const ALONE: &str = "KASM_VOID_TORTURE_ALONE";

struct Arguments {
    length: Duration,
    seeds: Vec<u64>,
    /// A test runner asks for the list of tests.
    list: bool,
    /// Whether the filters of a test runner select this test.
    wanted: bool,
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("torture: {why}; --minutes N and --seed N are what it takes");
            return ExitCode::from(2);
        }
    };
    if arguments.list && arguments.wanted {
        println!("{NAME}: test");
    }
    if !arguments.list && arguments.wanted {
        let small_disk = has_own_mounts(&arguments.seeds);
        arguments.seeds.into_iter().for_each(|seed| torture(arguments.length, seed, small_disk));
    }
    ExitCode::SUCCESS
}

/// Whether this process may mount file systems. If only a new namespace allows it, this process is started again there and
/// this function does not return.
fn has_own_mounts(seeds: &[u64]) -> bool {
    let has = std::env::var_os(ALONE).is_some();
    if !has {
        let why = if may_mount() { alone(seeds).to_string() } else { "it needs root that may mount".into() };
        harness::not_run("torture with a full disk", &why);
    }
    has
}

fn torture(length: Duration, seed: u64, small_disk: bool) {
    println!("torture: seed {seed}, {length:?}, {}", if small_disk { "full disks too" } else { "no full disks" });
    let failed = Failed { seed };
    let tally = Driver::new(seed, small_disk).run(length);
    std::mem::forget(failed);
    println!("torture: seed {seed} came out right: {tally}");
}

/// Dropped when a run fails.
struct Failed {
    seed: u64,
}

impl Drop for Failed {
    fn drop(&mut self) {
        eprintln!("torture: seed {0} failed: `cargo test --test torture -- --seed {0}` does the same again", self.seed);
    }
}

fn may_mount() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--mount", "--propagation", "private", "mount", "-t", "tmpfs", "torture", "/mnt"]);
    let root = rustix::process::geteuid().is_root();
    root && probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Runs this program again in its own mount namespace. Returns only if that is not possible.
fn alone(seeds: &[u64]) -> std::io::Error {
    let Ok(program) = std::env::current_exe() else { return std::io::ErrorKind::NotFound.into() };
    let mut again = Command::new("unshare");
    again.args(["--mount", "--propagation", "private"]).arg(program).args(std::env::args().skip(1));
    // Pass the seeds chosen here on, whether they were given or are new.
    again.args(seeds.iter().flat_map(|seed| ["--seed".to_owned(), seed.to_string()])).env(ALONE, "1").exec()
}

/// Also accepts the arguments of test runners, and ignores those that it does not know.
fn arguments(words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { length: BY_DEFAULT, seeds: Vec::new(), list: false, wanted: true };
    let mut filters = Vec::new();
    let mut timed = false;
    let mut words = words;
    while let Some(word) = words.next() {
        let mut number = |what: &str| {
            let text = words.next().ok_or_else(|| format!("{what} needs a number"))?;
            text.parse::<f64>().map(|number| (number, text.clone())).map_err(|_| format!("{what} {text} is no number"))
        };
        match word.as_str() {
            "--minutes" => {
                timed = true;
                arguments.length =
                    Duration::try_from_secs_f64(number("--minutes")?.0 * 60.0).map_err(|error| error.to_string())?
            }
            "--seed" => {
                let seed = number("--seed")?.1.parse().map_err(|_| "--seed is a whole number")?;
                arguments.seeds.retain(|given| *given != seed);
                arguments.seeds.push(seed);
            }
            "--list" => arguments.list = true,
            "--ignored" => arguments.wanted = false,
            "--format" | "--test-threads" | "--color" | "--skip" => drop(words.next()),
            flag if flag.starts_with('-') => {}
            filter => filters.push(filter.to_owned()),
        }
    }
    if arguments.seeds.is_empty() {
        arguments.seeds = if timed { vec![fastrand::u64(..)] } else { SEEDS.to_vec() };
    }
    arguments.wanted &= filters.is_empty() || filters.iter().any(|filter| NAME.contains(filter.as_str()));
    Ok(arguments)
}
