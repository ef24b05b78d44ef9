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
