//! Stories of output, with real pipes, files and processes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

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

    /// Little enough for the pipe, for nobody reads it meanwhile.
    fn print(&self, text: &str) {
        self.input().write_all(text.as_bytes()).unwrap();
    }

    /// The app's end of the pipe.
    fn input(&self) -> File {
        File::from(self.end())
    }

    fn end(&self) -> OwnedFd {
        self.logs.pipe("app").unwrap().try_clone().unwrap()
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

/// Writes from a thread of its own, as an app does; ends when all of it was taken.
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

/// An opener of a disk that is full until `healed`.
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
    let mode = fs::metadata(desk.dir.path().join("out/app")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
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
    assert_eq!(desk.logs.tail("app", 5), ["done"]);
    assert_eq!(desk.written().await, "done\n");
    helper.kill().unwrap();
    helper.wait().unwrap();
}

#[tokio::test]
async fn the_last_words_are_there_at_once() {
    let desk = Desk::new(&Log::default());
    desk.print("one\ntwo\n\x1b[31mthree");
    assert_eq!(desk.logs.tail("app", 2), ["two", "\\u{1b}[31mthree"]);
    assert_eq!(desk.logs.tail("nobody", 2), [""; 0]);
}

#[tokio::test]
async fn output_waits_in_the_pipe_for_the_next_supervisor() {
    let Desk { dir, logs } = Desk::new(&Log::default());
    let desk = Desk { dir, logs };
    desk.print("before\n");
    assert_eq!(desk.written().await, "before\n");
    let mut input = desk.input();

    let Desk { dir, logs } = desk;
    drop(logs);
    tokio::task::yield_now().await;
    input.write_all(b"while nobody read\n").unwrap();

    let logs = Logs::new(dir.path());
    logs.attach("app", &Log::default()).unwrap();
    input.write_all(b"after\n").unwrap();
    let desk = Desk { dir, logs };
    assert_eq!(desk.written().await, "before\nwhile nobody read\nafter\n");
}

#[tokio::test]
async fn what_is_not_a_fifo_makes_way() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("out/app"), "in the way").unwrap();
    let logs = Logs::new(dir.path());
    logs.attach("app", &Log::default()).unwrap();
    assert!(fs::symlink_metadata(dir.path().join("out/app")).unwrap().file_type().is_fifo());
}

#[tokio::test]
async fn without_a_folder_for_pipes_output_is_captured_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("out"), "a file, not a folder").unwrap();
    let logs = Logs::new(dir.path());
    logs.attach("app", &Log::default()).unwrap();
    let desk = Desk { dir, logs };
    desk.print("hello\n");
    assert_eq!(desk.written().await, "hello\n");
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
    assert_eq!(desk.logs.tail("app", 1), ["lost line"]);
    assert_eq!(desk.logs.lines("app", 1).await, b"lost line\n");

    healed.store(true, Ordering::SeqCst);
    until("the file is written again", || {
        desk.print("more\n");
        desk.logs.tail("app", 0);
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
    assert!(text.starts_with("[kasm-void: 1 line dropped: cannot make the folder"), "{text}");
    assert_eq!(desk.logs.stats("app").trouble, None);
}

#[tokio::test]
async fn a_hung_disk_never_blocks_the_app() {
    let dir = tempfile::tempdir().unwrap();
    let disk = pipe::named(&dir.path().join("disk")).unwrap();
    let mut disk_end = File::from(disk.output);
    let input = Arc::new(disk.input);
    let opener: Opener = Arc::new(move |_| Ok(File::from(input.try_clone()?)));
    let desk = Desk::with_opener(&log(0, 0), opener);
    // Far more than pipe, queue and disk hold together: it is all taken only if some is dropped.
    let all = 40 << 20;
    flood(desk.input(), b"0123456789abcde\n".repeat(all / 16)).await.unwrap();
    desk.logs.tail("app", 0);
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
    // On a busy machine the disk may be given up more than once; each time is noted.
    let noted =
        text.lines().filter_map(|line| line.strip_prefix("[kasm-void: ")?.split_once(" line")?.0.parse::<u64>().ok());
    assert_eq!(noted.sum::<u64>(), stats.dropped_lines);
    let written = text.lines().filter(|line| *line == "0123456789abcde").count() as u64;
    assert_eq!(written + stats.dropped_lines, all as u64 / 16);
    assert_eq!(stats.trouble, None);
}

#[tokio::test]
async fn garbage_passes_unchanged() {
    let desk = Desk::new(&Log::default());
    let garbage: Vec<u8> = (0..300_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    flood(desk.input(), garbage.clone()).await.unwrap();
    desk.logs.flush(DEADLINE).await;
    assert_eq!(fs::read(desk.file()).unwrap(), garbage);
    let shown = desk.logs.tail("app", 100).concat();
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
    assert_eq!(desk.logs.tail("app", 1), ["end"]);
}

#[tokio::test]
async fn settings_change_while_the_app_runs() {
    let desk = Desk::new(&Log::default());
    desk.print("old\n");
    assert_eq!(desk.written().await, "old\n");
    let old = desk.file();
    let new = desk.dir.path().join("elsewhere/new.log");
    desk.logs.attach("app", &Log { file: Some(new.to_str().unwrap().into()), ..Log::default() }).unwrap();
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
    drop(pipe::named(&trap).unwrap());
    let desk = Desk::new(&Log { file: Some(trap.to_str().unwrap().into()), ..Log::default() });
    desk.print("secret\n");
    desk.logs.flush(DEADLINE).await;
    assert!(desk.logs.stats("app").trouble.unwrap().contains("not a regular file"));
}

#[tokio::test]
async fn a_trusted_symlink_is_followed_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (link, real) = (dir.path().join("app.log"), dir.path().join("real.log"));
    std::os::unix::fs::symlink("real.log", &link).unwrap();
    let desk = Desk::new(&Log { file: Some(link.to_str().unwrap().into()), ..log(100, 1) });
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
    assert!(!desk.dir.path().join("out/app").exists());
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
