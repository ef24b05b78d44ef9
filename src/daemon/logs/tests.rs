//! Tests of output with real pipes, files and processes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::model::output::pressure;
use rustix::fs::OFlags;

const DEADLINE: Duration = Duration::from_secs(30);

/// A state folder, and the log of `app` in it.
struct Desk {
    dir: TempDir,
    logs: Logs,
}

impl Desk {
    fn new(log: &Log) -> Desk {
        Desk::with_opener(log, writer::opener())
    }

    fn with_opener(log: &Log, opener: Opener) -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::with_opener(dir.path(), opener);
        logs.attach("app", log).unwrap();
        Desk { dir, logs }
    }

    fn file(&self) -> PathBuf {
        self.logs.file("app")
    }

    /// Writes a text that fits into the pipe, because the pipe is not read meanwhile.
    fn print(&self, text: &str) {
        self.input().write_all(text.as_bytes()).unwrap();
    }

    /// The app's end of the pipe.
    fn input(&self) -> File {
        File::from(self.end())
    }

    fn end(&self) -> OwnedFd {
        self.logs.begin_run("app").unwrap().as_fd().try_clone_to_owned().unwrap()
    }

    fn run(&self, script: &str) -> Child {
        let (out, err) = (self.end(), self.end());
        Command::new("sh").args(["-c", script]).stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap()
    }

    /// The file once all output is in it.
    async fn written(&self) -> String {
        self.logs.flush(DEADLINE).await;
        fs::read_to_string(self.file()).unwrap_or_default()
    }
}

fn log(max_size: u64, keep: u32) -> Log {
    Log { max_size, keep, ..Log::default() }
}

async fn ended(mut child: Child) {
    let wait = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert!(tokio::time::timeout(DEADLINE, wait).await.unwrap().unwrap().success());
}

/// Writes from its own thread, as an app does. Ends when everything was taken.
fn flood(mut input: File, bytes: Vec<u8>) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_blocking(move || input.write_all(&bytes).unwrap())
}

async fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let start = Instant::now();
    while !seen() {
        assert!(start.elapsed() < DEADLINE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn fifo(path: &Path) -> File {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// An opener for a disk that is full until `healed`.
fn full_disk(healed: &Arc<AtomicBool>) -> Opener {
    let healed = healed.clone();
    Arc::new(move |path| match healed.load(Ordering::SeqCst) {
        true => file::open(path),
        false => OpenOptions::new().read(true).write(true).open("/dev/full"),
    })
}

fn generations(file: &Path) -> Vec<String> {
    let name = file.file_name().unwrap().to_str().unwrap();
    let entries = fs::read_dir(file.parent().unwrap()).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|other| other.starts_with(name));
    names.sort();
    names.iter().map(|other| other.replacen(name, "", 1)).collect()
}

#[tokio::test]
async fn both_streams_of_a_process_reach_the_file() {
    let desk = Desk::new(&Log::default());
    assert!(!desk.file().exists(), "nothing is opened before there is output");
    ended(desk.run("echo out; echo err >&2")).await;
    assert_eq!(desk.written().await, "out\nerr\n");
    assert_eq!(desk.logs.stats("app"), Stats { bytes: 8, ..Stats::default() });
    assert!(!desk.dir.path().join("out").exists(), "the pipe has no name that could be swept away");
}

#[tokio::test]
async fn lines_stay_whole_across_rotation_in_a_flood() {
    let desk = Desk::new(&log(100_000, 1_000));
    ended(desk.run("seq 1 500000")).await;
    desk.logs.flush(DEADLINE).await;
    let newest = desk.file();
    let older = generations(&newest).len() - 1;
    let mut numbers = 1u64..;
    for n in (0..=older).rev() {
        let file = if n == 0 { newest.clone() } else { format!("{}.{n}", newest.display()).into() };
        let text = fs::read_to_string(file).unwrap();
        assert!(text.len() <= 100_000 && text.ends_with('\n'));
        text.lines().for_each(|line| assert_eq!(line.parse(), Ok(numbers.next().unwrap())));
    }
    assert_eq!(numbers.next(), Some(500_001));
    assert!(older >= 30, "{older}");
}

#[tokio::test]
async fn no_more_files_are_kept_than_asked_for() {
    let desk = Desk::new(&log(1_000, 2));
    ended(desk.run("seq 1 5000")).await;
    desk.logs.flush(DEADLINE).await;
    assert_eq!(generations(&desk.file()), ["", ".1", ".2"]);

    desk.logs.attach("app", &log(1_000, 0)).unwrap();
    ended(desk.run("seq 5001 9000")).await;
    assert!(desk.written().await.ends_with("9000\n"));
    assert_eq!(generations(&desk.file()), [""]);
    assert!(fs::metadata(desk.file()).unwrap().len() <= 1_000);
}

#[tokio::test]
async fn a_helper_that_holds_the_pipe_does_not_matter() {
    let desk = Desk::new(&Log::default());
    let mut helper = desk.run("exec sleep 1000");
    ended(desk.run("echo done")).await;
    assert_eq!(desk.logs.tail("app", 5, Speaker::App), ["done"]);
    assert_eq!(desk.written().await, "done\n");
    helper.kill().unwrap();
    helper.wait().unwrap();
}

#[tokio::test]
async fn the_last_words_are_there_at_once() {
    let desk = Desk::new(&Log::default());
    desk.print("one\ntwo\n\x1b[31mthree");
    assert_eq!(desk.logs.tail("app", 2, Speaker::App), ["two", "\\u{1b}[31mthree"]);
    assert_eq!(desk.logs.tail("nobody", 2, Speaker::App), [""; 0]);
}

#[tokio::test]
async fn output_waits_in_the_pipe_that_the_guard_keeps() {
    let desk = Desk::new(&Log::default());
    desk.print("before\n");
    assert_eq!(desk.written().await, "before\n");
    let kept = desk.logs.pipe("app").unwrap().as_fd().try_clone_to_owned().unwrap();
    let mut input = desk.input();

    let Desk { dir, logs } = desk;
    drop(logs);
    tokio::task::yield_now().await;
    input.write_all(b"while nobody read\n").unwrap();

    let logs = Logs::new(dir.path());
    logs.take_over(BTreeMap::from([("app".into(), kept)]));
    logs.attach("app", &Log::default()).unwrap();
    input.write_all(b"after\n").unwrap();
    let desk = Desk { dir, logs };
    assert_eq!(desk.written().await, "before\nwhile nobody read\nafter\n");
}

/// An app that prints each line it reads from its stdin.
fn echo(desk: &Desk, redirected: &str) -> Child {
    let (out, err) = (desk.end(), desk.end());
    let script = format!("{redirected} while read line; do echo $line >&2; done");
    Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(out).stderr(err).spawn().unwrap()
}

#[tokio::test]
async fn without_a_guard_the_pipe_is_found_through_the_app() {
    // Also when the app has redirected its stdout and stderr.
    for redirected in [
        "",
        "exec >/dev/null;",
        "exec 3>&2 >/dev/null 2>/dev/null; (exec >&3 2>&3; while read line; do echo $line; done);",
    ] {
        let desk = Desk::new(&Log::default());
        let mut app = echo(&desk, redirected);
        writeln!(app.stdin.as_ref().unwrap(), "before").unwrap();
        let file = desk.file();
        until("the first line is written", || fs::read_to_string(&file).is_ok_and(|text| text == "before\n")).await;
        let Desk { dir, logs } = desk;
        drop(logs);
        tokio::task::yield_now().await;
        writeln!(app.stdin.as_ref().unwrap(), "while nobody read").unwrap();

        let logs = Logs::new(dir.path());
        logs.attach("app", &Log::default()).unwrap();
        assert!(logs.adopted("app", app.id() as i32));
        assert!(!logs.adopted("app", app.id() as i32), "once is enough");
        writeln!(app.stdin.as_ref().unwrap(), "after").unwrap();
        let expected = "before\nwhile nobody read\nafter\n";
        until("all of it is written", || fs::read_to_string(&file).is_ok_and(|text| text == expected)).await;
        drop(app.stdin.take());
        ended(app).await;
        drop(logs);
    }
}

#[tokio::test]
async fn the_output_of_an_app_that_was_never_ours_is_left_alone() {
    let desk = Desk::new(&Log::default());
    let (_theirs, end) = std::io::pipe().unwrap();
    let mut sleep = Command::new("sleep").arg("1000").stdout(end).spawn().unwrap();
    assert!(!desk.logs.adopted("app", sleep.id() as i32));
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}

#[tokio::test]
async fn a_supervisor_that_dies_before_it_adopts_leaves_the_pipe_to_the_next() {
    let desk = Desk::new(&Log::default());
    let mut app = desk.run("exec sleep 1000");
    let Desk { dir, logs } = desk;
    drop(logs);
    for _ in 0..2 {
        let logs = Logs::new(dir.path());
        logs.attach("app", &Log::default()).unwrap();
    }
    let logs = Logs::new(dir.path());
    logs.attach("app", &Log::default()).unwrap();
    assert!(logs.adopted("app", app.id() as i32));
    app.kill().unwrap();
    app.wait().unwrap();
}

#[tokio::test]
async fn a_program_that_has_dropped_its_user_may_open_its_stderr() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let desk = Desk::new(&Log::default());
    ended(desk.run("exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c 'echo dropped >/dev/stderr'")).await;
    assert_eq!(desk.written().await, "dropped\n");
    let reads = desk.run("! setpriv --reuid 65534 --regid 65534 --clear-groups sh -c ': </dev/stdout' 2>/dev/null");
    ended(reads).await;
}

#[tokio::test]
async fn a_full_disk_drops_and_counts_and_then_says_so() {
    let healed = Arc::new(AtomicBool::new(false));
    let desk = Desk::with_opener(&Log::default(), full_disk(&healed));
    flood(desk.input(), b"lost line\n".repeat(500_000)).await.unwrap();
    desk.logs.flush(DEADLINE).await;
    let stats = desk.logs.stats("app");
    assert_eq!((stats.bytes, stats.dropped_lines), (5_000_000, 500_000));
    assert!(stats.trouble.unwrap().ends_with("no space left on device"));
    assert_eq!(desk.logs.tail("app", 1, Speaker::App), ["lost line"]);
    assert_eq!(desk.logs.lines("app", 1).await, b"lost line\n");

    healed.store(true, Ordering::SeqCst);
    until("the file is written again", || {
        desk.print("more\n");
        desk.logs.tail("app", 0, Speaker::App);
        desk.logs.stats("app").trouble.is_none()
    })
    .await;
    let text = desk.written().await;
    let dropped = desk.logs.stats("app").dropped_lines;
    let note = format!("[kasm-void: {dropped} lines dropped: no space left on device]\n");
    assert!(text.starts_with(&note), "{text}");
    let written = text[note.len()..].lines().inspect(|line| assert_eq!(*line, "more")).count() as u64;
    assert_eq!(desk.logs.stats("app").bytes, 5_000_000 + 5 * (written + dropped - 500_000));
}

#[tokio::test]
async fn a_log_that_cannot_be_made_is_made_once_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::write(&folder, "a file, so nothing can be made below it, not even by root").unwrap();
    let file = folder.join("app.log");
    let desk = Desk::new(&Log { file: Some(file), ..Log::default() });
    desk.print("lost\n");
    desk.logs.flush(DEADLINE).await;
    assert_eq!(desk.logs.stats("app").dropped_lines, 1);
    fs::remove_file(&folder).unwrap();
    let text = desk.written().await;
    assert!(text.starts_with("[kasm-void: 1 line dropped: cannot create the folder"), "{text}");
    assert_eq!(desk.logs.stats("app").trouble, None);
}

#[tokio::test]
async fn a_hung_disk_never_blocks_the_app() {
    let dir = tempfile::tempdir().unwrap();
    let disk = fifo(&dir.path().join("disk"));
    let nonblocking =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(dir.path().join("disk"));
    let mut disk_end = nonblocking.unwrap();
    let input = Arc::new(disk);
    let opener: Opener = Arc::new(move |_| input.try_clone());
    let desk = Desk::with_opener(&log(0, 0), opener);
    // Far more than pipe, queue and disk hold together. The app can write it all only if some is dropped.
    let all = 40 << 20;
    flood(desk.input(), b"0123456789abcde\n".repeat(all / 16)).await.unwrap();
    desk.logs.tail("app", 0, Speaker::App);
    let stats = desk.logs.stats("app");
    assert_eq!(stats.bytes, all as u64);
    assert!(stats.dropped_lines > 0);
    assert!(stats.trouble.unwrap().ends_with("the disk did not keep up"));

    let logs = desk.logs.clone();
    let flushed = tokio::spawn(async move { logs.flush(DEADLINE).await });
    let mut text = Vec::new();
    let mut block = vec![0; 1 << 20];
    until("the disk took everything", || {
        while let Ok(n) = disk_end.read(&mut block) {
            text.extend(&block[..n]);
        }
        flushed.is_finished()
    })
    .await;
    while let Ok(n) = disk_end.read(&mut block) {
        text.extend(&block[..n]);
    }
    let stats = desk.logs.stats("app");
    let text = String::from_utf8(text).unwrap();
    // On a busy machine the writer may count as stuck more than once; each time is noted.
    let noted =
        text.lines().filter_map(|line| line.strip_prefix("[kasm-void: ")?.split_once(" line")?.0.parse::<u64>().ok());
    assert_eq!(noted.sum::<u64>(), stats.dropped_lines);
    let written = text.lines().filter(|line| *line == "0123456789abcde").count() as u64;
    assert_eq!(written + stats.dropped_lines, all as u64 / 16);
    assert_eq!(stats.trouble, None);
}

#[tokio::test]
async fn a_slow_disk_costs_no_protection_while_the_pipe_has_room() {
    let dir = tempfile::tempdir().unwrap();
    let input = Arc::new(fifo(&dir.path().join("disk")));
    // A disk that is hung from the start.
    let end = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(dir.path().join("disk"));
    let mut end = end.unwrap();
    while end.write(&[b'x'; 4096]).is_ok() {}
    let desk = Desk::with_opener(&log(0, 0), Arc::new(move |_| input.try_clone()));
    let began = Instant::now();
    desk.print("first\n");
    until("the first line is read", || desk.logs.stats("app").bytes == 6).await;
    desk.print("second\n");
    until("the second line is read too", || desk.logs.stats("app").bytes == 13).await;
    assert!(began.elapsed() >= pressure::SLOW, "{:?}", began.elapsed());

    let (mut text, mut block) = (Vec::new(), vec![0; 1 << 20]);
    until("the disk took both lines", || {
        while let Ok(bytes) = end.read(&mut block) {
            text.extend(&block[..bytes]);
        }
        text.ends_with(b"first\nsecond\n")
    })
    .await;
}

#[tokio::test]
async fn garbage_passes_unchanged() {
    let desk = Desk::new(&Log::default());
    let garbage: Vec<u8> = (0..300_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    flood(desk.input(), garbage.clone()).await.unwrap();
    desk.logs.flush(DEADLINE).await;
    assert_eq!(fs::read(desk.file()).unwrap(), garbage);
    let shown = desk.logs.tail("app", 100, Speaker::App).concat();
    assert!(!shown.chars().any(|c| c.is_control() && c != '\t'));
}

#[tokio::test]
async fn an_endless_line_is_cut_but_nothing_of_it_is_lost() {
    let desk = Desk::new(&log(1 << 20, 20));
    let line = vec![b'x'; 10 << 20];
    flood(desk.input(), [&line[..], b"\nend\n"].concat()).await.unwrap();
    desk.logs.flush(DEADLINE).await;
    let files = generations(&desk.file());
    let sizes = files.iter().map(|n| fs::metadata(format!("{}{n}", desk.file().display())).unwrap().len());
    let sizes: Vec<u64> = sizes.collect();
    assert_eq!(sizes.iter().sum::<u64>(), (10 << 20) + 5);
    assert!(sizes.iter().all(|size| *size <= (1 << 20) + (64 << 10)), "{sizes:?}");
    assert_eq!(desk.logs.tail("app", 1, Speaker::App), ["end"]);
}

#[tokio::test]
async fn settings_change_while_the_app_runs() {
    let desk = Desk::new(&Log::default());
    desk.print("old\n");
    assert_eq!(desk.written().await, "old\n");
    let old = desk.file();
    let new = desk.dir.path().join("elsewhere/new.log");
    desk.logs.attach("app", &Log { file: Some(new.clone()), ..Log::default() }).unwrap();
    desk.print("new\n");
    assert_eq!(desk.written().await, "new\n");
    assert_eq!(desk.file(), new);
    assert_eq!(fs::read_to_string(old).unwrap(), "old\n");
}

#[tokio::test]
async fn lines_come_from_rotated_files_too() {
    let desk = Desk::new(&log(100, 3));
    ended(desk.run("seq 1 100")).await;
    let lines = String::from_utf8(desk.logs.lines("app", 60).await).unwrap();
    assert_eq!(lines, (41..=100).map(|n| format!("{n}\n")).collect::<String>());
    assert_eq!(desk.logs.lines("app", 0).await, b"");
}

#[tokio::test]
async fn following_goes_on_where_the_lines_end() {
    let desk = Desk::new(&Log::default());
    desk.print("1\n2\n");
    let past = desk.logs.lines("app", 10);
    let mut future = desk.logs.follow("app").unwrap();
    desk.print("3\n");
    assert_eq!(past.await, b"1\n2\n");
    assert_eq!(&*future.recv().await.unwrap(), b"3\n");
}

#[tokio::test]
async fn a_note_has_a_line_of_its_own() {
    let desk = Desk::new(&Log::default());
    desk.print("no end");
    desk.logs.note("app", "exited with code 1");
    desk.print("next\n");
    assert_eq!(desk.written().await, "no end\n[kasm-void: exited with code 1]\nnext\n");
}

#[tokio::test]
async fn a_deleted_file_is_made_again_at_the_next_rotation() {
    let desk = Desk::new(&log(1_000, 1));
    desk.print("gone\n");
    desk.written().await;
    fs::remove_file(desk.file()).unwrap();
    ended(desk.run("seq 1 1000")).await;
    assert!(desk.written().await.ends_with("1000\n"));
}

#[tokio::test]
async fn a_log_of_another_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let trap = dir.path().join("trap");
    drop(fifo(&trap));
    let desk = Desk::new(&Log { file: Some(trap.clone()), ..Log::default() });
    desk.print("secret\n");
    desk.logs.flush(DEADLINE).await;
    assert!(desk.logs.stats("app").trouble.unwrap().contains("not a regular file"));
}

#[tokio::test]
async fn a_trusted_symlink_is_followed_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (link, real) = (dir.path().join("app.log"), dir.path().join("real.log"));
    std::os::unix::fs::symlink("real.log", &link).unwrap();
    let desk = Desk::new(&Log { file: Some(link.clone()), ..log(100, 1) });
    ended(desk.run("seq 1 100")).await;
    assert!(desk.written().await.ends_with("100\n"));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(generations(&real), ["", ".1"]);
}

#[tokio::test]
async fn an_app_that_is_gone_leaves_its_lines_but_no_pipe() {
    let desk = Desk::new(&Log::default());
    let file = desk.file();
    desk.print("last\n");
    desk.logs.detach("app");
    desk.logs.flush(DEADLINE).await;
    assert_eq!(fs::read_to_string(file).unwrap(), "last\n");
    assert!(desk.logs.pipe("app").is_none());
}

#[tokio::test]
async fn the_next_run_gets_a_blocking_pipe_whatever_the_last_one_did() {
    let desk = Desk::new(&Log::default());
    rustix::fs::fcntl_setfl(desk.end(), OFlags::RDWR | OFlags::NONBLOCK).unwrap();
    let flags = rustix::fs::fcntl_getfl(desk.end()).unwrap();
    assert!(!flags.contains(OFlags::NONBLOCK));
}

#[tokio::test]
async fn what_a_command_prints_is_in_the_log_but_not_among_the_apps_last_lines() {
    let desk = Desk::new(&Log::default());
    let app = desk.input();
    (&app).write_all(b"fatal\n").unwrap();
    for run in [1, 1] {
        let pipe = desk.logs.command_pipe("app", run).unwrap();
        File::from(pipe.as_fd().try_clone_to_owned().unwrap()).write_all("probed\n".repeat(30).as_bytes()).unwrap();
    }
    assert_eq!(desk.logs.tail("app", 5, Speaker::App), ["fatal"]);
    assert_eq!(desk.logs.tail("app", 2, Speaker::Commands), ["probed", "probed"]);
    let text = desk.written().await;
    assert_eq!((text.matches("fatal\n").count(), text.matches("probed\n").count()), (1, 60));
    desk.logs.command_pipe("app", 2).unwrap();
    assert_eq!(desk.logs.tail("app", 5, Speaker::Commands), [""; 0], "they were of an earlier run");
}

#[tokio::test]
async fn a_command_never_tears_a_line_of_the_app() {
    let desk = Desk::new(&Log::default());
    let commands = desk.logs.command_pipe("app", 1).unwrap();
    let commands = File::from(commands.as_fd().try_clone_to_owned().unwrap());
    let lines = flood(desk.input(), "0123456789abcdefghi\n".repeat(200_000).into_bytes());
    let mut said = 0;
    while !lines.is_finished() {
        (&commands).write_all(b"probe\n").unwrap();
        said += 1;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    (&commands).write_all(b"no end").unwrap();
    lines.await.unwrap();
    let text = desk.written().await;
    let count = |wanted: &str| text.lines().filter(|line| *line == wanted).count();
    assert_eq!((count("0123456789abcdefghi"), count("probe"), count("no end")), (200_000, said, 1));
    assert_eq!(text.lines().count(), 200_000 + said + 1);
}

#[tokio::test]
async fn a_prompt_without_an_end_reaches_a_follower() {
    let desk = Desk::new(&Log::default());
    let mut pieces = desk.logs.follow("app").unwrap();
    desk.print("Password: ");
    let piece = tokio::time::timeout(DEADLINE, pieces.recv()).await.unwrap().unwrap();
    assert_eq!(&*piece, b"Password: ");
}

#[tokio::test]
async fn a_log_is_for_its_owner_alone() {
    let desk = Desk::new(&log(100, 2));
    ended(desk.run("seq 1 100")).await;
    desk.logs.flush(DEADLINE).await;
    for n in generations(&desk.file()) {
        let mode = fs::metadata(format!("{}{n}", desk.file().display())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{n}");
    }
}

/// Only root can give a file away.
fn gives_away(file: &Path) -> bool {
    std::os::unix::fs::chown(file, Some(65534), None).is_ok()
}

#[tokio::test]
async fn a_rotated_file_of_somebody_else_costs_no_line() {
    let desk = Desk::new(&log(1_000, 2));
    let theirs = PathBuf::from(format!("{}.1", desk.file().display()));
    fs::create_dir_all(theirs.parent().unwrap()).unwrap();
    fs::write(&theirs, "theirs\n").unwrap();
    if !gives_away(&theirs) {
        return;
    }
    ended(desk.run("seq 1 500")).await;
    let all: String = (1..=500).map(|n| format!("{n}\n")).collect();
    assert_eq!(desk.written().await, all, "the log was emptied, or lost lines");
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs\n");
    assert_eq!(desk.logs.stats("app").trouble, None);
    // The granted size is used up. From here on new lines are dropped; old ones are not deleted.
    ended(desk.run("seq 501 5000")).await;
    let text = desk.written().await;
    assert!(text.starts_with(&all) && text.len() <= 3_100, "{}", text.len());
    let stats = desk.logs.stats("app");
    assert!(stats.trouble.unwrap().contains("cannot be rotated"));
    let whole = text.lines().filter(|line| line.parse::<u32>().is_ok()).count() as u64;
    assert_eq!(whole + stats.dropped_lines, 5_000);
    fs::remove_file(&theirs).unwrap();
}

#[tokio::test]
async fn a_second_name_of_another_file_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (precious, trap) = (dir.path().join("precious"), dir.path().join("app.log"));
    fs::write(&precious, "precious\n").unwrap();
    fs::hard_link(&precious, &trap).unwrap();
    for keep in [0, 3] {
        let desk = Desk::new(&Log { file: Some(trap.clone()), ..log(10, keep) });
        desk.print("one line that is long enough to rotate\nand another\n");
        desk.logs.flush(DEADLINE).await;
        assert!(desk.logs.stats("app").trouble.unwrap().contains("hard links"));
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious\n");
    }
}

#[tokio::test]
async fn a_file_that_gets_a_second_name_later_is_not_emptied() {
    let desk = Desk::new(&log(100, 0));
    desk.print("begun\n");
    desk.written().await;
    let backup = desk.dir.path().join("backup");
    fs::hard_link(desk.file(), &backup).unwrap();
    ended(desk.run("seq 1 100")).await;
    desk.logs.flush(DEADLINE).await;
    assert!(fs::read_to_string(&backup).unwrap().starts_with("begun\n1\n2\n"));
}

#[tokio::test]
async fn dev_null_as_a_log_is_no_trouble() {
    let desk = Desk::new(&Log { file: Some("/dev/null".into()), ..log(100, 2) });
    ended(desk.run("seq 1 1000")).await;
    desk.logs.flush(DEADLINE).await;
    assert_eq!(desk.logs.stats("app"), Stats { bytes: 3893, ..Stats::default() });
    assert_eq!(desk.logs.tail("app", 1, Speaker::App), ["1000"]);
    assert_eq!(desk.logs.lines("app", 1).await, b"1000\n");
    assert!(!Path::new("/dev/null.1").exists());
}

#[tokio::test]
async fn keeping_four_billion_files_renames_only_those_there_are() {
    let desk = Desk::new(&log(1_000, 4_000_000_000));
    ended(desk.run("seq 1 2000")).await;
    desk.logs.flush(DEADLINE).await;
    assert_eq!(generations(&desk.file()).len(), 9);
}

#[tokio::test]
async fn to_look_at_the_pipe_changes_nothing() {
    let desk = Desk::new(&Log::default());
    let mut app = desk.run("echo fatal; exec sleep 1000");
    until("it has said so", || desk.logs.tail("app", 5, Speaker::App) == ["fatal"]).await;
    desk.logs.pipe("app").unwrap();
    desk.logs.attach("app", &log(1_000, 1)).unwrap();
    assert_eq!(desk.logs.tail("app", 5, Speaker::App), ["fatal"], "a change of the manifest is no new run");
    let Desk { dir, logs } = desk;
    drop(logs);
    let logs = Logs::new(dir.path());
    logs.attach("app", &Log::default()).unwrap();
    logs.pipe("app").unwrap();
    assert!(logs.adopted("app", app.id() as i32), "the app's own pipe was forgotten");
    app.kill().unwrap();
    app.wait().unwrap();
}
