//! Measures the cost of supervision: `cargo bench`. Compares kasm-void with the supervisors that Debian packages and with a
//! bare loop (the floor), in one run. Peers that are not installed are named and left out.
//!
//! The service is this program itself under another argument: it writes its number and the time of its
//! first line into a FIFO and sleeps. A latency is the time from just before the kill to that time, on one clock, so it
//! includes no time of the harness. Every row starts the same program, so compare the ratios.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};

const KILLS: usize = 40;
const MANY: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("service") => service(&arguments[2], &arguments[3]),
        Some("floor") => floor(&arguments[2], &arguments[3]),
        _ => {
            measure_all();
            measure_restoring();
        }
    }
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn service(fifo: &str, number: &str) {
    let begun = now();
    let record = [number.parse::<u64>().unwrap(), u64::from(std::process::id()), begun];
    let bytes: Vec<u8> = record.iter().flat_map(|word| word.to_ne_bytes()).collect();
    OpenOptions::new().write(true).open(fifo).unwrap().write_all(&bytes).unwrap();
    loop {
        std::thread::park();
    }
}

/// The minimum: wait, start again.
fn floor(fifo: &str, services: &str) {
    let start = |number: usize| command(fifo, number).spawn().unwrap();
    let mut children: BTreeMap<u32, usize> = (0..services.parse().unwrap()).map(|n| (start(n).id(), n)).collect();
    loop {
        let ended = rustix::process::wait(rustix::process::WaitOptions::empty()).unwrap();
        let Some((pid, _)) = ended else { continue };
        if let Some(number) = children.remove(&(pid.as_raw_nonzero().get() as u32)) {
            children.insert(start(number).id(), number);
        }
    }
}

fn command(fifo: &str, number: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["service", fifo, &number.to_string()]);
    command
}

/// One supervisor: how its services are configured, and how it is started.
struct Peer {
    name: &'static str,
    program: &'static str,
    /// How long a service must live to be restarted without a wait.
    throttle: Duration,
    configure: fn(&Path, &[String]),
    start: fn(&Path, &Path, usize) -> Command,
}

const PEERS: &[Peer] = &[
    Peer {
        name: "floor",
        program: "/proc/self/exe",
        throttle: Duration::ZERO,
        configure: |_, _| (),
        start: |_, fifo, services| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["floor", fifo.to_str().unwrap(), &services.to_string()]);
            command
        },
    },
    Peer {
        name: "kasm-void",
        program: env!("CARGO_BIN_EXE_kasm-void"),
        throttle: Duration::from_millis(150),
        configure: |root, services| {
            for (n, service) in services.iter().enumerate() {
                let words: Vec<String> = service.split(' ').map(|word| format!("{word:?}")).collect();
                let text = format!(
                    "App(command: {}, args: [{}], backoff: Backoff(stable_after: \"100ms\", give_up: Never))",
                    words[0],
                    words[1..].join(", ")
                );
                write(&root.join(format!("manifests/svc{n}.ron")), &text);
            }
        },
        start: |root, _, _| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_kasm-void"));
            command.arg("--state").arg(root.join("state")).arg("run").arg(root.join("manifests"));
            command
        },
    },
    Peer {
        name: "runit",
        program: "runsvdir",
        throttle: Duration::from_millis(1_100),
        configure: |root, services| {
            for (n, service) in services.iter().enumerate() {
                script(&root.join(format!("svc/svc{n}/run")), service);
            }
        },
        start: |root, _, _| {
            let mut command = Command::new("runsvdir");
            command.arg(root.join("svc"));
            command
        },
    },
    Peer {
        name: "s6",
        program: "s6-svscan",
        throttle: Duration::from_millis(1_100),
        configure: |root, services| {
            for (n, service) in services.iter().enumerate() {
                // It restarts a service at once only if the service has reported that it is ready.
                script(&root.join(format!("svc/svc{n}/run")), &format!("sh -c 'echo >&3; exec 3>&-; exec {service}'"));
                write(&root.join(format!("svc/svc{n}/notification-fd")), "3\n");
            }
        },
        start: |root, _, _| {
            let mut command = Command::new("s6-svscan");
            command.arg(root.join("svc"));
            command
        },
    },
    Peer {
        name: "supervisord",
        program: "supervisord",
        throttle: Duration::ZERO,
        configure: |root, services| {
            let mut text = format!("[supervisord]\nlogfile={0}/log\npidfile={0}/pid\n", root.display());
            for (n, service) in services.iter().enumerate() {
                text += &format!(
                    "[program:svc{n}]\ncommand={service}\nstartsecs=0\nautorestart=true\nstdout_logfile=NONE\nstderr_logfile=NONE\n"
                );
            }
            write(&root.join("supervisord.conf"), &text);
        },
        start: |root, _, _| {
            let mut command = Command::new("supervisord");
            command.arg("-n").arg("-c").arg(root.join("supervisord.conf"));
            command
        },
    },
];

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

fn script(file: &Path, line: &str) {
    write(file, &format!("#!/bin/sh\nexec {line}\n"));
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A running supervisor and the reports of its services. Dropping it ends them.
struct Fleet {
    root: tempfile::TempDir,
    fifo: File,
    supervisor: Child,
    begun: u64,
    latest: BTreeMap<u64, (i32, u64)>,
}

impl Fleet {
    fn start(peer: &Peer, services: usize) -> Fleet {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        let fifo = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let own = std::env::current_exe().unwrap();
        let lines: Vec<String> =
            (0..services).map(|n| format!("{} service {} {n}", own.display(), path.display())).collect();
        (peer.configure)(root.path(), &lines);
        let output = File::create(root.path().join("output")).unwrap();
        let begun = now();
        let supervisor = (peer.start)(root.path(), &path, services)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut fleet = Fleet { root, fifo, supervisor, begun, latest: BTreeMap::new() };
        fleet.wait(&(0..services as u64).collect::<Vec<_>>(), begun);
        fleet
    }

    /// The time when the last of these services had started after `since`.
    fn wait(&mut self, services: &[u64], since: u64) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read();
            let newer = services.iter().filter_map(|n| self.latest.get(n).map(|(_, at)| *at).filter(|at| *at > since));
            let started: Vec<u64> = newer.collect();
            if started.len() == services.len() {
                return started.into_iter().max().unwrap();
            }
            let said = || fs::read_to_string(self.root.path().join("output")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{} of {} started; it said: {}", started.len(), services.len(), said());
            let mut fds = [rustix::event::PollFd::new(&self.fifo, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 })).unwrap();
        }
    }

    fn read(&mut self) {
        let mut bytes = [0; 24 * 512];
        while let Ok(length @ 1..) = self.fifo.read(&mut bytes) {
            for record in bytes[..length].chunks_exact(24) {
                let word = |n: usize| u64::from_ne_bytes(record[8 * n..8 * n + 8].try_into().unwrap());
                self.latest.insert(word(0), (word(1) as i32, word(2)));
            }
        }
    }

    fn kill(&self, services: &[u64]) -> u64 {
        let before = now();
        for service in services {
            kill(self.latest[service].0);
        }
        before
    }

    /// Milliseconds from the kill of these services to the start of the last successor.
    fn respawn(&mut self, services: &[u64], throttle: Duration) -> f64 {
        let young = services.iter().map(|n| self.latest[n].1).max().unwrap();
        let old_enough = Duration::from_nanos(young) + throttle + Duration::from_millis(20);
        std::thread::sleep(old_enough.saturating_sub(Duration::from_nanos(now())));
        let killed = self.kill(services);
        (self.wait(services, killed) - killed) as f64 / 1e6
    }

    /// Milliseconds from the supervisor's death to the restart of a service that died with it. By then everything is
    /// supervised again.
    fn restored(&mut self) -> f64 {
        // A supervisor that dies soon after its start is restarted only after a wait.
        std::thread::sleep(Duration::from_millis(1200));
        let services = self.latest.values().map(|(pid, _)| *pid).collect::<Vec<_>>();
        let supervisor = children(self.supervisor.id() as i32).into_iter().find(|pid| !services.contains(pid));
        let before = now();
        kill(supervisor.expect("a guard that has a supervisor"));
        self.kill(&[0]);
        (self.wait(&[0], before) - before) as f64 / 1e6
    }

    /// The memory of the supervisor's own processes in KiB (PSS).
    fn memory(&self) -> u64 {
        let own = std::env::current_exe().unwrap();
        let is_service = |pid: &i32| {
            fs::read_link(format!("/proc/{pid}/exe")).ok() == Some(own.clone())
                && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(7).any(|w| w == b"service"))
        };
        tree(self.supervisor.id() as i32).iter().filter(|pid| !is_service(pid)).map(|pid| pss(*pid)).sum()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // The supervisor first, otherwise it would restart what is killed.
        let mut all = tree(self.supervisor.id() as i32);
        all.extend(self.latest.values().map(|(pid, _)| *pid));
        all.into_iter().for_each(kill);
        let _ = self.supervisor.wait();
        self.read();
        self.latest.values().for_each(|(pid, _)| kill(*pid));
    }
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL); // it may be gone already
    }
}

fn tree(root: i32) -> Vec<i32> {
    let mut all = vec![root];
    let mut next = 0;
    while next < all.len() {
        all.extend(children(all[next]));
        next += 1;
    }
    all
}

fn children(pid: i32) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn pss(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn installed(peer: &Peer) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Path::new(peer.program).is_absolute()
        || std::env::split_paths(&path).any(|folder| folder.join(peer.program).is_file())
}

type Measure<'a> = &'a dyn Fn(&Peer) -> f64;

fn measure_all() {
    let all: Vec<u64> = (0..MANY as u64).collect();
    let columns: [(&str, Measure<'_>); 5] = [
        ("respawn ms", &|peer| {
            let mut fleet = Fleet::start(peer, 5);
            median((0..KILLS).map(|n| fleet.respawn(&[n as u64 % 5], peer.throttle)).collect())
        }),
        ("100 killed ms", &|peer| {
            let mut fleet = Fleet::start(peer, MANY);
            median((0..5).map(|_| fleet.respawn(&all, peer.throttle)).collect())
        }),
        ("start 100 ms", &|peer| {
            let once = |_| {
                let mut fleet = Fleet::start(peer, MANY);
                (fleet.wait(&all, fleet.begun) - fleet.begun) as f64 / 1e6
            };
            median((0..3).map(once).collect())
        }),
        ("KiB, 1 app", &|peer| settled_memory(peer, 1)),
        ("KiB, 100", &|peer| settled_memory(peer, MANY)),
    ];
    println!("| | {} |", columns.map(|(name, _)| format!("{name} | ×")).join(" | "));
    println!("|---|{}", "---|".repeat(columns.len() * 2));
    let mut floor: Vec<f64> = Vec::new();
    for peer in PEERS {
        if !installed(peer) {
            eprintln!("{}: not installed (apt-get install runit s6 supervisor)", peer.name);
            continue;
        }
        let values: Vec<f64> = columns.iter().map(|(_, measure)| measure(peer)).collect();
        if floor.is_empty() {
            floor.clone_from(&values);
        }
        let cells = values.iter().zip(&floor).map(|(value, least)| format!("{value:.2} | {:.2}", value / least));
        println!("| {} | {} |", peer.name, cells.collect::<Vec<_>>().join(" | "));
    }
}

/// No peer can do this.
fn measure_restoring() {
    let peer = PEERS.iter().find(|peer| peer.name == "kasm-void").expect("ourselves");
    for services in [10, 1000] {
        let mut fleet = Fleet::start(peer, services);
        let all = (0..5).map(|_| fleet.restored()).collect();
        println!("kill -9 of the supervisor of {services} apps -> all supervised again: {:.1} ms", median(all));
    }
}

/// Measured two seconds after the last start.
fn settled_memory(peer: &Peer, services: usize) -> f64 {
    let fleet = Fleet::start(peer, services);
    std::thread::sleep(Duration::from_secs(2));
    fleet.memory() as f64
}
