//! Where the chunk that is being written begins in its file, for the next supervisor: should this one die between
//! writing a chunk and taking it out of the pipe, it would be written twice. One small record an app in one file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::file::numbered;
use super::pipe::Peephole;

/// Bytes of an app's name, filled up with zeros.
const NAME: usize = 64;
const RECORD: usize = NAME + 4 * 8;
/// Taken in advance, so that a full disk does not keep a place from being noted: room for 170 apps.
const ROOM: u64 = 16 << 10;
/// More apps than a session ever has, those that are gone included.
const MOST: usize = 1 << 20;

/// A chunk on its way into a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Device and inode of the file it begins in.
    pub file: (u64, u64),
    pub offset: u64,
    /// Bytes of the chunk; 0: there is none.
    pub length: u64,
}

pub struct Places {
    path: PathBuf,
    file: Option<File>,
    slots: HashMap<Arc<str>, u64>,
    /// What an earlier supervisor was writing when it died.
    left: BTreeMap<Arc<str>, Place>,
    failed: bool,
}

impl Places {
    /// Finds what an earlier supervisor has left at `path`. Opened at once: later there may be no descriptor for it.
    pub fn open(path: PathBuf) -> Places {
        let mut places = Places { path, file: None, slots: HashMap::new(), left: BTreeMap::new(), failed: false };
        if let Err(error) = places.make() {
            places.trouble(&error);
        }
        places
    }

    /// What an earlier supervisor was writing for this app when it died. Stays noted until `clear`.
    pub fn left(&self, app: &str) -> Option<Place> {
        self.left.get(app).copied()
    }

    /// The chunk is about to be written there.
    pub fn mark(&mut self, app: &Arc<str>, place: Place) {
        if let Err(error) = self.write(app, place) {
            self.trouble(&error);
        }
    }

    /// It is written, and out of the pipe.
    pub fn clear(&mut self, app: &str) {
        self.left.remove(app);
        if let (Some(file), Some(slot)) = (&self.file, self.slots.get(app)) {
            let _ = file.write_all_at(&0_u64.to_le_bytes(), slot + (RECORD - 8) as u64); // `mark` has told
        }
    }

    fn trouble(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failed, true) {
            tracing::warn!(
                event = "log.trouble", file = %self.path.display(), %error,
                "cannot note how far logs are written: should the supervisor die, a few lines may be logged twice"
            );
        }
    }

    fn write(&mut self, app: &Arc<str>, place: Place) -> io::Result<()> {
        self.make()?;
        let next = (self.slots.len() * RECORD) as u64;
        let slot = *self.slots.entry(app.clone()).or_insert(next);
        let mut record = [0; RECORD];
        record[..app.len().min(NAME)].copy_from_slice(&app.as_bytes()[..app.len().min(NAME)]);
        for (at, number) in [place.file.0, place.file.1, place.offset, place.length].into_iter().enumerate() {
            record[NAME + at * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
        self.file.as_ref().map_or(Ok(()), |file| file.write_all_at(&record, slot))
    }

    /// The records that are there stay where they are, each until its app's pipe is looked into: a supervisor that
    /// dies before it comes to that leaves them to the next.
    fn make(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).create(true).mode(0o600).custom_flags(flags).open(&self.path)?;
        let mut bytes = Vec::new();
        (&file).take(MOST as u64 + 1).read_to_end(&mut bytes)?;
        let records: Option<Vec<(Arc<str>, Place)>> = bytes.chunks(RECORD).map(record).collect();
        match records {
            Some(records) if bytes.len() <= MOST => {
                for (at, (app, place)) in records.into_iter().enumerate() {
                    self.slots.insert(app.clone(), (at * RECORD) as u64);
                    if place.length > 0 {
                        self.left.insert(app, place);
                    }
                }
            }
            _ => file.set_len(0)?, // none of ours
        }
        let _ = rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, ROOM); // not every file system can
        self.file = Some(file);
        Ok(())
    }
}

/// `None` when it is none.
fn record(record: &[u8]) -> Option<(Arc<str>, Place)> {
    let name = record.get(..NAME)?.split(|byte| *byte == 0).next()?;
    let number = |at: usize| Some(u64::from_le_bytes(record.get(NAME + at * 8..)?.get(..8)?.try_into().ok()?));
    let place = Place { file: (number(0)?, number(1)?), offset: number(2)?, length: number(3)? };
    Some((String::from_utf8(name.to_vec()).ok()?.into(), place))
}

/// Takes out of the pipe what of the chunk is in the log already. If it had been taken out before, what is in the
/// pipe now is something else.
pub fn recover(place: Place, pipe: &OwnedFd, peephole: &Peephole, log: &Path, keep: u32) {
    let Ok(written) = written(place, log, keep) else { return };
    let mut waiting = Vec::with_capacity(written.len());
    // A pipe of many small pieces is shown in more than one look, but always from its head: what is seen of it
    // first decides for all.
    peephole.peek(pipe, &mut waiting);
    if !waiting.is_empty() && written.starts_with(&waiting[..waiting.len().min(written.len())]) {
        peephole.discard(pipe, written.len());
    }
}

/// The bytes of the chunk that are in the file it began in, and in those that were begun while it was written.
fn written(place: Place, log: &Path, keep: u32) -> io::Result<Vec<u8>> {
    let is_it = |n: &u32| fs::metadata(numbered(log, *n)).is_ok_and(|is| (is.dev(), is.ino()) == place.file);
    let Some(first) = (0..=keep).find(is_it) else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    for n in (0..=first).rev() {
        let mut file = File::open(numbered(log, n))?;
        if n == first {
            file.seek(SeekFrom::Start(place.offset))?;
        }
        file.take(place.length - bytes.len() as u64).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::pipe;
    use super::*;

    /// A supervisor has died: what the app's pipe holds, and what the log does.
    struct Scene {
        dir: tempfile::TempDir,
        pipe: pipe::Pipe,
    }

    impl Scene {
        fn new(in_pipe: &str, in_log: &str) -> Scene {
            let dir = tempfile::tempdir().unwrap();
            let pipe = pipe::named(&dir.path().join("out")).unwrap();
            File::from(pipe.input.try_clone().unwrap()).write_all(in_pipe.as_bytes()).unwrap();
            fs::write(dir.path().join("log"), in_log).unwrap();
            Scene { dir, pipe }
        }

        fn log(&self) -> PathBuf {
            self.dir.path().join("log")
        }

        fn place(&self, offset: u64, length: u64) -> Place {
            let is = fs::metadata(self.log()).unwrap();
            Place { file: (is.dev(), is.ino()), offset, length }
        }

        /// What the next supervisor finds in the pipe.
        fn left(&self, place: Place) -> String {
            let peephole = Peephole::new().unwrap();
            recover(place, &self.pipe.output, &peephole, &self.log(), 3);
            let mut left = Vec::with_capacity(1 << 16);
            peephole.peek(&self.pipe.output, &mut left);
            String::from_utf8(left).unwrap()
        }
    }

    #[test]
    fn what_is_written_and_still_in_the_pipe_is_taken_out() {
        let scene = Scene::new("3\n4\n5\n", "1\n2\n3\n4\n");
        assert_eq!(scene.left(scene.place(4, 4)), "5\n");
    }

    #[test]
    fn what_is_half_written_is_taken_out_by_half() {
        let scene = Scene::new("333\n444\n", "1\n2\n333\n4");
        assert_eq!(scene.left(scene.place(4, 8)), "44\n");
    }

    #[test]
    fn what_was_not_written_at_all_stays() {
        let scene = Scene::new("3\n4\n", "1\n2\n");
        assert_eq!(scene.left(scene.place(4, 4)), "3\n4\n");
    }

    #[test]
    fn what_was_taken_out_already_is_not_taken_out_of_what_follows() {
        let scene = Scene::new("5\n6\n", "1\n2\n3\n4\n");
        assert_eq!(scene.left(scene.place(4, 4)), "5\n6\n");
    }

    #[test]
    fn a_chunk_that_went_on_in_the_next_file_is_found_in_both() {
        let scene = Scene::new("3\n4\n5\n", "1\n2\n3\n");
        let place = scene.place(4, 6);
        fs::rename(scene.log(), numbered(&scene.log(), 1)).unwrap();
        fs::write(scene.log(), "4\n").unwrap();
        assert_eq!(scene.left(place), "5\n");
    }

    #[test]
    fn a_log_that_is_another_file_by_now_tells_nothing() {
        let scene = Scene::new("3\n4\n", "1\n2\n3\n4\n");
        let place = Place { file: (0, 0), ..scene.place(4, 4) };
        assert_eq!(scene.left(place), "3\n4\n");
    }

    #[test]
    fn each_app_keeps_its_place_until_it_is_cleared_whoever_dies_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.places");
        let place = |length| Place { file: (1, 2), offset: 3, length };
        let mut first = Places::open(path.clone());
        first.mark(&"web".into(), place(4));
        first.mark(&"other".into(), place(5));
        first.mark(&"done".into(), place(6));
        first.clear("done");
        // This one dies before it has looked at `other`.
        let mut second = Places::open(path.clone());
        assert_eq!((second.left("web"), second.left("done")), (Some(place(4)), None));
        second.clear("web");
        second.mark(&"new".into(), place(7));
        let third = Places::open(path.clone());
        let left = ["web", "other", "done", "new"].map(|app| third.left(app));
        assert_eq!(left, [None, Some(place(5)), None, Some(place(7))]);
        fs::write(&path, "none of ours").unwrap();
        assert_eq!(Places::open(path).left("other"), None);
    }
}
