//! Runs one session of the real binary in its own folders, and owns the only way to wait for something. Dropping a
//! session drains it, and fails the story if a process is left.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kasm_void::cli::client::Client;
use kasm_void::model::protocol::{AppStatus, Identity, Snapshot, StateName};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

#[path = "../not_run.rs"]
mod not_run;
pub use not_run::not_run;

/// Names the folder where the desktop stories put copies of their files, for a user who may not read the source tree.
pub const STAGE: &str = "KASM_VOID_STAGE";

/// The built `kasm-void`.
pub fn binary() -> PathBuf {
    match std::env::var_os(STAGE) {
        Some(stage) => Path::new(&stage).join("kasm-void"),
        None => env!("CARGO_BIN_EXE_kasm-void").into(),
    }
}

/// Longer than any working step takes, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The last line of a program that keeps running: it blocks without a child process, and TERM ends it.
pub const FOREVER: &str = "read _ <>\"$DATA/never\"\n";

/// No process and no line; most stories end by comparing with these.
pub const NOBODY: [i32; 0] = [];
pub const NOTHING: [&str; 0] = [];

/// Calls `look` until it returns a value.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    until_ok(what, || look().ok_or_else(String::new))
}

/// Calls `look` until it succeeds. At the deadline, fails with its last error. Every story waits through this.
pub fn until_ok<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        match look() {
            Ok(answer) => return answer,
            Err(seen) => assert!(Instant::now() < end, "after {DEADLINE:?} still not: {what} {seen}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A command's output and exit code.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A session being built (`new` to `start`) and then a running one.
pub struct Session {
    root: TempDir,
    env: Vec<(String, String)>,
    folders: Vec<PathBuf>,
    supervisor: Option<Child>,
}

impl Session {
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("kasm-void-").tempdir().expect("a folder for the session");
        let session = Session { root, env: Vec::new(), folders: Vec::new(), supervisor: None };
        for folder in [session.state(), session.manifests(), session.bin(), session.data(), session.home()] {
            fs::create_dir(&folder).expect("the session's folders");
        }
        fs::set_permissions(session.state(), fs::Permissions::from_mode(0o700)).expect("a private state folder");
        let made = Command::new("mkfifo").arg(session.data().join("never")).status().expect("mkfifo");
        assert!(made.success(), "mkfifo: {made}");
        session
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Whether the supervisor has kept a copy of this manifest for its successor.
    pub fn keeps_copy(&self, name: &str) -> bool {
        let copies = std::fs::read_to_string(self.state().join("last-good.jsonl")).unwrap_or_default();
        copies.lines().any(|line| line.starts_with(&format!("[\"{name}\",")))
    }

    pub fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    pub fn manifests(&self) -> PathBuf {
        self.root().join("manifests")
    }

    /// The folder of programs; `${BIN}` in manifests and programs.
    pub fn bin(&self) -> PathBuf {
        self.root().join("bin")
    }

    /// The folder where programs record what they did; `${DATA}` in manifests and programs.
    pub fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    pub fn home(&self) -> PathBuf {
        self.root().join("home")
    }

    /// Writes a shell script to `${BIN}/name`. Its command line is `/bin/sh ${BIN}/name`.
    pub fn program(self, name: &str, body: &str) -> Self {
        let path = self.bin().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("an executable program");
        self
    }

    /// The program that most stories supervise: it writes its pid and arguments to `${DATA}/name.pids` and
    /// `${DATA}/name.args`, and keeps running.
    pub fn stayer(self, name: &str) -> Self {
        let body = format!("echo $$ >>\"$DATA/{name}.pids\"\necho \"$*\" >>\"$DATA/{name}.args\"\n{FOREVER}");
        self.program(name, &body)
    }

    pub fn app(self, name: &str, manifest: &str) -> Self {
        self.edit(name, manifest);
        self
    }

    pub fn workspace(self, text: &str) -> Self {
        self.app("workspace", text)
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Adds a manifest folder after the session's own.
    pub fn folder(mut self, folder: PathBuf) -> Self {
        self.folders.push(folder);
        self
    }

    /// Starts the supervisor and waits until it answers.
    pub fn start(mut self) -> Self {
        self.start_supervisor();
        self
    }

    pub fn start_supervisor(&mut self) {
        self.start_supervisor_with(|_| {});
    }

    /// Applies `change` to the command before it starts the supervisor.
    pub fn start_supervisor_with(&mut self, change: impl FnOnce(&mut Command)) {
        self.start_command(Vec::new(), self.all_folders(), change);
    }

    /// Starts the supervisor as `kasm-void run`, without folders.
    pub fn start_supervisor_on_its_own_folder(&mut self) {
        self.start_command(Vec::new(), Vec::new(), |_| {});
    }

    fn all_folders(&self) -> Vec<PathBuf> {
        [vec![self.manifests()], self.folders.clone()].concat()
    }

    fn start_command(&mut self, wrapper: Vec<String>, folders: Vec<PathBuf>, change: impl FnOnce(&mut Command)) {
        let log = fs::File::options().create(true).append(true).open(self.supervisor_log()).expect("a log");
        let words: Vec<OsString> = wrapper.into_iter().map(OsString::from).chain([binary().into()]).collect();
        let mut run = self.command(&words[0]);
        run.args(&words[1..]).arg("run").args(folders);
        run.stdout(log.try_clone().expect("a second handle")).stderr(log);
        change(&mut run);
        self.supervisor = Some(run.spawn().expect("the built binary"));
        until("the supervisor answers `status`", || {
            if let Ok(Some(status)) = self.supervisor.as_mut().expect("just started").try_wait() {
                panic!("the supervisor ended at once, {status}:\n{}", self.supervisor_output());
            }
            (self.cli(&["status", "--json"]).code == Some(0)).then_some(())
        });
    }

    /// Starts the supervisor through another program, which executes it.
    pub fn start_supervisor_under(&mut self, wrapper: &[&str]) {
        let wrapped = wrapper.iter().map(|word| word.to_string()).collect();
        self.start_command(wrapped, self.all_folders(), |_| {});
    }

    /// A command in the session's environment.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("KASM_VOID_STATE", self.state())
            .env(COOKIE, self.root())
            .env("BIN", self.bin())
            .env("DATA", self.data())
            .env("HOME", self.home())
            .env_remove("RUST_LOG")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs `kasm-void ARGS…` to its end.
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut command = self.command(binary());
        command.args(args);
        finish(command)
    }

    /// Runs `kasm-void ARGS…`, which must succeed. Returns its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert_eq!(output.code, Some(0), "kasm-void {args:?}: {output:?}");
        output.stdout
    }

    /// The identity of the supervisor; `None` while none answers.
    pub fn try_identity(&self) -> Option<Identity> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(Client::new(&self.state()).get("/v1/supervisor")).ok()
    }

    pub fn identity(&self) -> Identity {
        until("a supervisor answers", || self.try_identity())
    }

    pub fn status(&self) -> Snapshot {
        let text = self.ok(&["status", "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("status --json is not a Snapshot: {error}: {text}"))
    }

    pub fn find(&self, name: &str) -> Option<AppStatus> {
        self.status().apps.into_iter().find(|app| app.name == name)
    }

    /// Waits until `is` holds for an app; `what` describes it in the failure message.
    pub fn wait(&self, name: &str, what: &str, is: impl Fn(&AppStatus) -> bool) -> AppStatus {
        until_ok(&format!("`{name}` {what}; it is"), || match self.find(name) {
            Some(app) if is(&app) => Ok(app),
            seen => Err(format!("{seen:#?}")),
        })
    }

    pub fn wait_state(&self, name: &str, state: StateName) -> AppStatus {
        self.wait(name, &format!("is {state}"), |app| app.state == state)
    }

    /// Waits until an app runs. Returns its pid.
    pub fn pid(&self, name: &str) -> i32 {
        self.wait_state(name, StateName::Running).pid.expect("a running app has a pid")
    }

    /// Waits until an app runs with a pid other than `old`. Returns it.
    pub fn next_pid(&self, name: &str, old: i32) -> i32 {
        let back = self.wait(name, &format!("runs, not as {old}"), |app| {
            app.state == StateName::Running && app.pid.is_some_and(|pid| pid != old)
        });
        back.pid.expect("just looked")
    }

    /// Writes a manifest like a careless editor: truncates the file, then fills it.
    pub fn edit(&self, name: &str, manifest: &str) {
        let mut file = fs::File::create(self.manifests().join(format!("{name}.ron"))).expect("a manifest");
        file.write_all(manifest.as_bytes()).expect("a whole manifest");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.manifests().join(format!("{name}.ron"))).expect("a manifest to remove");
    }

    /// The lines that a program wrote to `${DATA}/name`; empty if the file does not exist.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.data().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until `${DATA}/name` has at least `count` lines.
    pub fn wait_lines(&self, name: &str, count: usize) -> Vec<String> {
        until(&format!("{count} lines in {name}"), || Some(self.lines(name)).filter(|lines| lines.len() >= count))
    }

    /// Starts `${BIN}/name` as a person would: in its own session, and not as our child.
    pub fn by_hand(&self, name: &str) {
        let mut command = self.command("setsid");
        command.arg("--fork").arg(self.bin().join(name)).stdout(Stdio::null()).stderr(Stdio::null());
        let started = command.status().expect("setsid of util-linux");
        assert!(started.success(), "setsid: {started}");
    }

    /// Live processes of this session, without kasm-void's own.
    pub fn processes(&self) -> Vec<i32> {
        // The order matters: when a process ends, its executable disappears no later than its environment.
        pids().filter(|pid| !is_ours(*pid) && self.has_cookie(*pid)).collect()
    }

    pub fn guard_pid(&self) -> i32 {
        self.supervisor.as_ref().expect("a running session").id() as i32
    }

    /// The pid of the current supervisor.
    pub fn supervisor_pid(&self) -> i32 {
        until("a supervisor", || self.supervisor_now())
    }

    fn supervisor_now(&self) -> Option<i32> {
        self.supervisors().first().copied()
    }

    /// The children of the guard that have a supervisor's name: one, and the half-started apps of one that was killed.
    pub fn supervisors(&self) -> Vec<i32> {
        children(self.guard_pid()).into_iter().filter(|pid| is_supervisor(*pid)).collect()
    }

    /// Kills the supervisor with SIGKILL and waits until the next one answers.
    pub fn crash_supervisor(&self) {
        let first = self.supervisor_pid();
        kill(first);
        until("another supervisor", || self.supervisor_now().filter(|pid| *pid != first));
        until("the next supervisor answers", || (self.cli(&["status", "--json"]).code == Some(0)).then_some(()));
    }

    /// Waits until the session has a guard again. Returns its pid.
    pub fn guarded_again(&self) -> i32 {
        until("a guard that lives", || self.try_identity()?.guard.filter(|guard| alive(*guard)))
    }

    /// Kills only the guard; its supervisor takes its place.
    pub fn kill_guard(&mut self) {
        let mut guard = self.supervisor.take().expect("a running session");
        guard.kill().expect("kill");
        guard.wait().expect("a reaped guard");
    }

    /// Kills the guard and the supervisor, so that nothing starts another one.
    pub fn kill_supervisor(&mut self) {
        let supervisor = self.supervisor_pid();
        send(supervisor, Signal::STOP); // otherwise it would take the guard's place
        self.kill_guard();
        kill(supervisor);
        until("the supervisor is gone", || (!alive(supervisor)).then_some(()));
    }

    /// Sends Ctrl-C. Returns the exit status and the time it took.
    pub fn interrupt(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        send(self.supervisor.as_ref().expect("a running supervisor").id() as i32, Signal::INT);
        (self.wait_end(), began.elapsed())
    }

    /// Waits until the supervisor ends by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let supervisor = self.supervisor.as_mut().expect("a running supervisor");
        let status = until("the supervisor ends", || supervisor.try_wait().expect("wait"));
        self.supervisor = None;
        status
    }

    fn supervisor_log(&self) -> PathBuf {
        self.root().join("supervisor.log")
    }

    /// The supervisor's output so far.
    pub fn supervisor_output(&self) -> String {
        fs::read_to_string(self.supervisor_log()).unwrap_or_default()
    }

    fn has_cookie(&self, pid: i32) -> bool {
        environ(pid).contains(&format!("{COOKIE}={}", self.root().display()))
    }

    /// Guard and supervisor hide their environment, so they are found by descent.
    fn all_processes(&self) -> Vec<i32> {
        let guard = self.supervisor.as_ref().map(|guard| guard.id() as i32);
        let ours = |pid: i32| self.has_cookie(pid) || guard.is_some_and(|guard| descends(pid, guard));
        pids().filter(|pid| ours(*pid)).collect()
    }
}

/// Whether a live process is the ancestor, or a descendant of it.
fn descends(pid: i32, ancestor: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let (state, parent) = (fields.next(), fields.next().and_then(|parent| parent.parse().ok()));
    match parent {
        Some(parent) if state != Some("Z") => pid == ancestor || (parent > 1 && descends(parent, ancestor)),
        _ => false,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the supervisor's log ---\n{}", self.supervisor_output());
        } else if self.supervisor.is_some() {
            let drained = catch_unwind(AssertUnwindSafe(|| self.interrupt().0));
            let left = self.processes();
            kill_all(|| self.all_processes());
            let said = self.supervisor_output();
            let status = drained.unwrap_or_else(|panic| resume_unwind(panic));
            assert!(status.success(), "the drain at the end of the story ended with {status}:\n{said}");
            assert!(left.is_empty(), "the drain left processes {left:?}:\n{said}");
        }
        kill_all(|| self.all_processes());
        if let Some(mut supervisor) = self.supervisor.take() {
            let _ = supervisor.wait();
        }
    }
}

/// A variable in the environment of every process of a session.
const COOKIE: &str = "KASM_VOID_STORY";

/// Set for a test that runs in namespaces of its own.
const ALONE: &str = "KASM_VOID_ALONE";

/// Runs `story` as root in its own pid namespace, where no other program starts processes. To do so, the test runs itself
/// again there. `path` is the test's full name. If this is not possible, the story is reported as not run.
pub fn in_own_pids(path: &str, story: impl FnOnce()) {
    // A shell is pid 1, because it collects the orphans.
    let pids = ["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", "\"$@\"; exit $?", "sh"];
    alone(path, &pids, "true", story);
}

/// Runs `story` as root in its own mount namespace, where it may mount anything.
pub fn in_own_mounts(path: &str, story: impl FnOnce()) {
    let mounts = ["--mount", "--propagation", "private"];
    alone(path, &mounts, "mount -t tmpfs tmpfs /mnt", story);
}

/// Runs this test again under `unshare` with these arguments, if `check` succeeds there.
fn alone(path: &str, namespaces: &[&str], check: &str, story: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return story();
    }
    let unshare = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(namespaces).args(command).env(ALONE, "1").stdin(Stdio::null());
        unshare
    };
    if !rustix::process::geteuid().is_root() || finish(unshare(&["sh", "-c", check])).code != Some(0) {
        return not_run(path, "it needs root and namespaces of its own");
    }
    let this = std::env::current_exe().expect("this test");
    let mut again = unshare(&[this.to_str().expect("UTF-8"), "--exact", path, "--nocapture"]);
    let output = again.output().expect("the story in a namespace of its own");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{}:\n{said}", output.status);
}

/// Starts `command` with this pid. Needs its own pid namespace; elsewhere another process could take the pid first.
pub fn spawn_as(pid: i32, command: &mut Command) -> Child {
    until(&format!("a process with pid {pid}"), || {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).expect("root may say which pid is next");
        let mut child = command.spawn().expect("a program");
        if child.id() as i32 == pid {
            return Some(child);
        }
        child.kill().expect("kill");
        child.wait().expect("a reaped child");
        None
    })
}

/// Runs a command to its end. Fails the story if the command hangs.
pub fn finish(mut command: Command) -> Output {
    let what = format!("{command:?}");
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(command.output()));
    let output = result
        .recv_timeout(DEADLINE)
        .unwrap_or_else(|_| panic!("after {DEADLINE:?} still runs: {what}"))
        .unwrap_or_else(|error| panic!("cannot run {what}: {error}"));
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn send(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid is not 0");
    kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot send {signal:?} to {pid:?}: {error}"));
}

/// `kill -9`
pub fn kill(pid: i32) {
    send(pid, Signal::KILL);
}

/// Whether the process exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X'])))
}

/// The environment that a process was started with, as `NAME=value`; empty if it is gone.
pub fn environ(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The children of a process with one thread.
pub fn children(pid: i32) -> Vec<i32> {
    let pids = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether this child of a guard is its supervisor, which has a name of its own.
fn is_supervisor(pid: i32) -> bool {
    is_ours(pid) && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "kasm-supervisor\n")
}

fn is_ours(pid: i32) -> bool {
    match fs::read_link(format!("/proc/{pid}/exe")) {
        Ok(exe) => exe == binary(),
        // Ours hide it from other processes of the user.
        Err(_) => fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| ["kasm-void", "kasm-supervisor"].contains(&name.trim_end())),
    }
}

/// Kills repeatedly, because a killed process may have just forked.
fn kill_all(left: impl Fn() -> Vec<i32>) {
    until("all processes of the session are gone", || {
        let left = left();
        for pid in &left {
            if let Some(pid) = Pid::from_raw(*pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        left.is_empty().then_some(())
    });
}
