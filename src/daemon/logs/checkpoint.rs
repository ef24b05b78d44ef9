//! The checkpoint: what the next supervisor needs so that it neither loses nor repeats a line. Records each app's pipe,
//! and where in the log file the chunk being written begins. A supervisor that dies after writing a chunk, but before
//! taking it out of the pipe, leaves it in both; only the checkpoint shows that. Also records each app's log path, for
//! `kasm-void logs` while no supervisor runs. One small record per app, in one file of the state folder.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use crate::host::layout;
use crate::model::output::stamps::{Stamps, unstamped};

use super::generations::numbered;
use super::pipe::{OutputPipe, PipePeek};

/// Bytes for an app's name, padded with zeros. A free record has no name.
const NAME: usize = 64;
/// Bytes for a log file's path, padded with zeros. A longer path is not recorded.
const PATH: usize = 216;
/// Where the numbers begin, which change with each chunk.
const NUMBERS: usize = NAME + PATH;
const RECORD: usize = NUMBERS + 5 * 8;
/// Bytes allocated in advance, so that a record can be written on a full disk: room for 100 apps.
const ROOM: u64 = 32 << 10;
/// Bytes. A larger file holds more apps than any session has.
const MOST: usize = 1 << 20;
/// How often to check whether the file is still in its folder.
const LOOK: Duration = Duration::from_secs(1);

/// The record of one app's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// The pipe's inode.
    pub pipe: u64,
    /// The chunk being written to the file.
    pub chunk: Chunk,
}

/// A chunk being written to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chunk {
    /// Device and inode of the file it begins in.
    pub file: (u64, u64),
    pub offset: u64,
    /// Bytes of the chunk in the pipe; 0 if there is none.
    pub length: u64,
    /// How its lines are written.
    pub stamps: Stamps,
}

/// In the number that holds the length: the lines are written with times, all of them or all but the first.
const EACH_LINE: u64 = 1 << 63;
/// See [`EACH_LINE`].
const ALL_BUT_FIRST: u64 = 1 << 62;

/// One app's position in the file, and its record.
struct Slot {
    at: u64,
    log: PathBuf,
    record: Record,
}

pub struct Checkpoint {
    path: PathBuf,
    file: Option<File>,
    looked: Instant,
    /// The records in the file.
    records: BTreeMap<Arc<str>, Slot>,
    free: Vec<u64>,
    /// Records of an earlier supervisor, until the app's pipe is known.
    left: BTreeMap<Arc<str>, Record>,
    failed: bool,
}

impl Checkpoint {
    /// Reads what an earlier supervisor left in the folder `state`. Opens the file at once, since later there may be no
    /// descriptor for it.
    pub fn open(state: &Path) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            path: layout::checkpoint(state),
            file: None,
            looked: Instant::now(),
            records: BTreeMap::new(),
            free: Vec::new(),
            left: BTreeMap::new(),
            failed: false,
        };
        if let Err(error) = checkpoint.load() {
            checkpoint.trouble(&error);
        }
        checkpoint
    }

    /// The record of an earlier supervisor for this app, until [`Checkpoint::attached`] is called.
    pub fn left(&self, app: &str) -> Option<Record> {
        self.left.get(app).copied()
    }

    /// Records that the app's output comes through this pipe and goes into this file from now on. Replaces the record
    /// of an earlier supervisor.
    pub fn attached(&mut self, app: &Arc<str>, pipe: u64, log: &Path) {
        let was_left = self.left.remove(app).is_some();
        let same = |slot: &Slot| slot.record.pipe == pipe && slot.log == log;
        if was_left || !self.records.get(app).is_some_and(same) {
            let at = self.slot(app);
            let slot = Slot { at, log: log.to_owned(), record: Record { pipe, chunk: Chunk::default() } };
            self.records.insert(app.clone(), slot);
            self.write(app, 0);
        }
    }

    /// Records that the chunk is about to be written.
    pub fn begin(&mut self, app: &Arc<str>, pipe: u64, chunk: Chunk) {
        let record = Record { pipe, chunk };
        if let Some(slot) = self.records.get_mut(app) {
            slot.record = record;
            return self.write(app, NUMBERS);
        }
        let slot = Slot { at: self.slot(app), log: PathBuf::new(), record };
        self.records.insert(app.clone(), slot);
        self.write(app, 0);
    }

    /// Records that the chunk is written and out of the pipe.
    pub fn end(&mut self, app: &str) {
        if let (Some(file), Some(slot)) = (&self.file, self.records.get_mut(app)) {
            slot.record.chunk.length = 0;
            let _ = file.write_all_at(&0_u64.to_le_bytes(), slot.at + (RECORD - 8) as u64); // reported by `begin`
        }
    }

    /// Frees the record of an app that is gone.
    pub fn remove(&mut self, app: &str) {
        self.left.remove(app);
        let Some(slot) = self.records.remove(app) else { return };
        self.free.push(slot.at);
        if let Some(file) = &self.file {
            let _ = file.write_all_at(&[0; RECORD], slot.at); // a record that stays matches no pipe
        }
    }

    /// The position of the app's record, or of a free one.
    fn slot(&mut self, app: &str) -> u64 {
        let next = ((self.records.len() + self.free.len()) * RECORD) as u64;
        let known = self.records.get(app).map(|slot| slot.at);
        known.or_else(|| self.free.pop()).unwrap_or(next)
    }

    /// Writes the app's record, starting at byte `from`.
    fn write(&mut self, app: &str, from: usize) {
        let Some(slot) = self.records.get(app) else { return };
        let (at, bytes) = (slot.at, bytes(app, slot));
        match self.put_in_place().and_then(|file| file.write_all_at(&bytes[from..], at + from as u64)) {
            Ok(()) => self.failed = false,
            Err(error) => self.trouble(&error),
        }
    }

    fn trouble(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::warn!(
                event = "log.trouble", file = %self.path.display(), %error,
                "cannot note how far logs are written: if the supervisor dies now, a few lines may be logged twice"
            );
        }
    }

    /// The file at the path, written again if it was removed.
    fn put_in_place(&mut self) -> io::Result<&File> {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            let gone = |file: &File| file.metadata().is_ok_and(|is| is.nlink() == 0);
            self.file.take_if(|file| gone(file));
        }
        if self.file.is_none() {
            let file = open(&self.path)?;
            for (app, slot) in &self.records {
                file.write_all_at(&bytes(app, slot), slot.at)?;
            }
            self.file = Some(file);
        }
        self.file.as_ref().ok_or_else(|| io::Error::other("it is not open"))
    }

    /// Loads the existing records and leaves each in place until its app's pipe is known. So if this supervisor dies
    /// before that, the next one still finds them.
    fn load(&mut self) -> io::Result<()> {
        let file = open(&self.path)?;
        match read(&file)? {
            None => file.set_len(0)?, // not a checkpoint file
            Some(records) => {
                for (app, slot) in records {
                    if app.is_empty() {
                        self.free.push(slot.at);
                        continue;
                    }
                    self.left.insert(app.clone(), slot.record);
                    self.records.insert(app, slot);
                }
            }
        }
        self.file = Some(file);
        Ok(())
    }
}

/// The apps whose logs the supervisor of the folder `state` recorded last, by name.
pub fn recorded(state: &Path) -> Vec<String> {
    let records = open_to_read(state).and_then(|file| read(&file)).ok().flatten().unwrap_or_default();
    let mut names: Vec<String> = records.iter().map(|(name, _)| name.to_string()).collect();
    names.retain(|name| !name.is_empty());
    names.sort();
    names
}

fn open_to_read(state: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(layout::checkpoint(state))
}

/// The log path last recorded for the app by the supervisor of the folder `state`, if any.
pub fn log_of(state: &Path, app: &str) -> Option<PathBuf> {
    let (_, slot) = read(&open_to_read(state).ok()?).ok()??.into_iter().find(|(name, _)| &**name == app)?;
    Some(slot.log).filter(|log| !log.as_os_str().is_empty())
}

/// An app and its record.
type Named = (Arc<str>, Slot);

/// Reads all records; `None` if the file is not a checkpoint. Records without a name are free.
fn read(file: &File) -> io::Result<Option<Vec<Named>>> {
    let mut found = Vec::new();
    file.take(MOST as u64 + 1).read_to_end(&mut found)?;
    let slots = found.chunks(RECORD).enumerate().map(|(n, bytes)| slot((n * RECORD) as u64, bytes));
    Ok(slots.collect::<Option<Vec<_>>>().filter(|_| found.len() <= MOST))
}

fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut open = OpenOptions::new();
    let file = open.read(true).write(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, ROOM); // not every file system can
    Ok(file)
}

fn bytes(app: &str, Slot { log, record: Record { pipe, chunk }, .. }: &Slot) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let name = &app.as_bytes()[..app.len().min(NAME)];
    record[..name.len()].copy_from_slice(name);
    let path = log.as_os_str().as_bytes();
    if path.len() <= PATH {
        record[NAME..][..path.len()].copy_from_slice(path);
    }
    let stamps = match chunk.stamps {
        Stamps::None => 0,
        Stamps::EachLine => EACH_LINE,
        Stamps::AllButFirst => ALL_BUT_FIRST,
    };
    let numbers = [*pipe, chunk.file.0, chunk.file.1, chunk.offset, chunk.length | stamps];
    for (at, number) in numbers.into_iter().enumerate() {
        record[NUMBERS + at * 8..][..8].copy_from_slice(&number.to_le_bytes());
    }
    record
}

/// Returns `None` if the bytes are not a record.
fn slot(at: u64, record: &[u8]) -> Option<Named> {
    let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next()?).into_owned());
    let name = String::from_utf8(record.get(..NAME)?.split(|byte| *byte == 0).next()?.to_vec()).ok()?;
    let log = PathBuf::from(text(record.get(NAME..NUMBERS)?)?);
    let number = |n: usize| Some(u64::from_le_bytes(record.get(NUMBERS + n * 8..)?.get(..8)?.try_into().ok()?));
    let length = number(4)?;
    let stamps = match length & (EACH_LINE | ALL_BUT_FIRST) {
        EACH_LINE => Stamps::EachLine,
        ALL_BUT_FIRST => Stamps::AllButFirst,
        _ => Stamps::None,
    };
    let length = length & !(EACH_LINE | ALL_BUT_FIRST);
    let chunk = Chunk { file: (number(1)?, number(2)?), offset: number(3)?, length, stamps };
    Some((name.into(), Slot { at, log, record: Record { pipe: number(0)?, chunk } }))
}

/// Takes out of the pipe those bytes of the chunk that are already in the log. If the pipe's head does not match the
/// log, the chunk was taken out before.
pub fn recover(left: Record, pipe: &OutputPipe, peek: &PipePeek, log: &Path, keep: u32) {
    if left.pipe != pipe.id() || left.chunk.length == 0 {
        return;
    }
    let Ok(in_file) = written(left.chunk, log, keep) else { return };
    let (mut written, torn) = unstamped(in_file, left.chunk.stamps);
    written.truncate(usize::try_from(left.chunk.length).unwrap_or(usize::MAX));
    let mut waiting = Vec::with_capacity(written.len().max(1));
    // A pipe of many small pieces takes several peeks, each from the head. The first peek decides.
    peek.peek(pipe, &mut waiting);
    if !waiting.is_empty() && written.starts_with(&waiting[..waiting.len().min(written.len())]) {
        peek.discard(pipe, written.len());
        if torn > 0 {
            let _ = cut(log, torn as u64); // half a time stays before the line
        }
    }
}

/// Takes the last bytes out of the file.
fn cut(log: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(log)?;
    file.set_len(file.metadata()?.len().saturating_sub(bytes))
}

/// Reads the chunk's bytes, with their stamps, from the file it began in and from later files of the log.
fn written(chunk: Chunk, log: &Path, keep: u32) -> io::Result<Vec<u8>> {
    let is_it = |n: &u32| fs::metadata(numbered(log, *n)).is_ok_and(|is| (is.dev(), is.ino()) == chunk.file);
    let there = |n: &u32| *n == 0 || numbered(log, *n).exists();
    let Some(first) = (0..=keep).take_while(there).find(is_it) else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    for n in (0..=first).rev() {
        let mut file = File::open(numbered(log, n))?;
        if n == first {
            file.seek(SeekFrom::Start(chunk.offset))?;
        }
        file.take(chunk.stamps.most(chunk.length) - bytes.len() as u64).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::super::pipe;
    use super::*;

    /// The pipe and the log that a dead supervisor left.
    struct Scene {
        dir: tempfile::TempDir,
        pipe: Arc<OutputPipe>,
        peek: Arc<PipePeek>,
    }

    impl Scene {
        fn new(in_pipe: &str, in_log: &str) -> Scene {
            let dir = tempfile::tempdir().unwrap();
            let peek = Arc::new(PipePeek::new().unwrap());
            let pipe = OutputPipe::new(pipe::make().unwrap(), peek.clone()).unwrap();
            File::from(pipe.as_fd().try_clone_to_owned().unwrap()).write_all(in_pipe.as_bytes()).unwrap();
            fs::write(dir.path().join("log"), in_log).unwrap();
            Scene { dir, pipe, peek }
        }

        fn log(&self) -> PathBuf {
            self.dir.path().join("log")
        }

        fn record(&self, offset: u64, length: u64) -> Record {
            let is = fs::metadata(self.log()).unwrap();
            Record {
                pipe: self.pipe.id(),
                chunk: Chunk { file: (is.dev(), is.ino()), offset, length, stamps: Stamps::None },
            }
        }

        /// What the next supervisor finds in the pipe.
        fn left(&self, record: Record) -> String {
            recover(record, &self.pipe, &self.peek, &self.log(), 3);
            let mut left = Vec::with_capacity(1 << 16);
            self.peek.peek(&*self.pipe, &mut left);
            String::from_utf8(left).unwrap()
        }
    }

    #[tokio::test]
    async fn what_is_written_and_still_in_the_pipe_is_taken_out() {
        let scene = Scene::new("3\n4\n5\n", "1\n2\n3\n4\n");
        assert_eq!(scene.left(scene.record(4, 4)), "5\n");
    }

    #[tokio::test]
    async fn what_is_half_written_is_taken_out_by_half() {
        let scene = Scene::new("333\n444\n", "1\n2\n333\n4");
        assert_eq!(scene.left(scene.record(4, 8)), "44\n");
    }

    #[tokio::test]
    async fn what_was_not_written_at_all_stays() {
        let scene = Scene::new("3\n4\n", "1\n2\n");
        assert_eq!(scene.left(scene.record(4, 4)), "3\n4\n");
    }

    #[tokio::test]
    async fn what_was_taken_out_already_is_not_taken_out_of_what_follows() {
        let scene = Scene::new("5\n6\n", "1\n2\n3\n4\n");
        assert_eq!(scene.left(scene.record(4, 4)), "5\n6\n");
    }

    #[tokio::test]
    async fn a_chunk_that_went_on_in_the_next_file_is_found_in_both() {
        let scene = Scene::new("3\n4\n5\n", "1\n2\n3\n");
        let record = scene.record(4, 6);
        fs::rename(scene.log(), numbered(&scene.log(), 1)).unwrap();
        fs::write(scene.log(), "4\n").unwrap();
        assert_eq!(scene.left(record), "5\n");
    }

    #[tokio::test]
    async fn another_file_or_another_pipe_tells_nothing() {
        let scene = Scene::new("3\n4\n", "1\n2\n3\n4\n");
        let record = scene.record(4, 4);
        let other_file = Record { chunk: Chunk { file: (0, 0), ..record.chunk }, ..record };
        assert_eq!(scene.left(other_file), "3\n4\n");
        assert_eq!(scene.left(Record { pipe: record.pipe + 1, ..record }), "3\n4\n");
    }

    #[tokio::test]
    async fn times_in_the_log_are_not_taken_for_output() {
        let at = "2026-01-02T03:04:05.678Z ";
        let written = format!("{at}1\n{at}2\n{at}3\n{at}4\n");
        // How much of lines 3 and 4 was written, and what is left in the pipe.
        for (end, left) in [(0, "3\n4\n"), (at.len() + 2, "4\n"), (2 * at.len() + 3, "\n"), (2 * at.len() + 4, "")] {
            let offset = 2 * (at.len() + 2);
            let scene = Scene::new("3\n4\n", &written[..offset + end]);
            let mut record = scene.record(offset as u64, 4);
            record.chunk.stamps = Stamps::EachLine;
            assert_eq!(scene.left(record), left, "{end}");
        }
        // The supervisor died while it wrote a time.
        let scene = Scene::new("3\n4\n", &written[..2 * (at.len() + 2) + 7]);
        let mut record = scene.record(2 * (at.len() as u64 + 2), 4);
        record.chunk.stamps = Stamps::EachLine;
        assert_eq!(scene.left(record), "3\n4\n");
        assert_eq!(fs::read_to_string(scene.log()).unwrap(), format!("{at}1\n{at}2\n"));
    }

    fn record_of(pipe: u64, length: u64) -> Record {
        Record { pipe, chunk: Chunk { file: (1, 2), offset: 3, length, stamps: Stamps::EachLine } }
    }

    #[test]
    fn each_app_keeps_its_record_until_its_pipe_is_known_whoever_dies_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let log = Path::new("/logs/web.log");
        let mut first = Checkpoint::open(dir.path());
        for (app, pipe) in [("web", 10), ("other", 11), ("done", 12), ("gone", 13)] {
            first.attached(&app.into(), pipe, log);
            first.begin(&app.into(), pipe, record_of(pipe, 4).chunk);
        }
        first.end("done");
        first.remove("gone");
        // This supervisor dies before it has attached `other`.
        let mut second = Checkpoint::open(dir.path());
        assert_eq!((second.left("web"), second.left("gone")), (Some(record_of(10, 4)), None));
        assert_eq!(second.left("done").map(|record| (record.pipe, record.chunk.length)), Some((12, 0)));
        second.attached(&"web".into(), 20, log);
        assert_eq!(second.left("web"), None);
        second.begin(&"new".into(), 21, record_of(21, 7).chunk);
        let third = Checkpoint::open(dir.path());
        assert_eq!(third.left("web"), Some(Record { pipe: 20, chunk: Chunk::default() }));
        assert_eq!((third.left("other"), third.left("new")), (Some(record_of(11, 4)), Some(record_of(21, 7))));
        assert_eq!(log_of(dir.path(), "web").as_deref(), Some(log));
        assert_eq!((log_of(dir.path(), "gone"), log_of(dir.path(), "new")), (None, None));
        fs::write(layout::checkpoint(dir.path()), "none of ours").unwrap();
        assert_eq!(log_of(dir.path(), "web"), None);
        assert_eq!(Checkpoint::open(dir.path()).left("other"), None);
    }

    #[test]
    fn a_checkpoint_that_was_removed_is_written_anew_with_all_apps() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        let log = Path::new("/logs/app.log");
        fs::create_dir(&folder).unwrap();
        let mut checkpoint = Checkpoint::open(&folder);
        checkpoint.attached(&"web".into(), 10, log);
        fs::remove_dir_all(&folder).unwrap();
        checkpoint.looked = Instant::now().checked_sub(LOOK).unwrap();
        checkpoint.attached(&"other".into(), 11, log);
        assert!(checkpoint.failed, "there is no folder to write it into");
        fs::create_dir(&folder).unwrap();
        checkpoint.attached(&"third".into(), 12, log);
        let next = Checkpoint::open(&folder);
        let pipes = ["web", "other", "third"].map(|app| next.left(app).map(|left| left.pipe));
        assert_eq!(pipes, [Some(10), Some(11), Some(12)]);
    }
}
