//! One log file on disk: opened at the first line, rotated by size between two lines, and reopened if it was removed or
//! replaced. Only the writer thread uses it, because every call may block.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::generations;
use crate::model::output::rotation::{Kind, limit_without_rotation, next_step, refusal};

/// How often to check whether the file is still in place.
const LOOK: Duration = Duration::from_secs(1);

/// The time before a failed rotation is retried.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

/// Bytes. A longer unfinished line stays in the file when its rest cannot be written.
const LONGEST_TORN: u64 = 256 << 10;

/// The most symlinks followed to reach a log file.
const LINKS: usize = 8;

/// Opens a file for appending.
pub type Opener = Arc<dyn Fn(&Path) -> io::Result<File> + Send + Sync>;

/// A write that failed.
#[derive(Debug)]
pub struct Short {
    /// Bytes that were written before the failure.
    pub written: usize,
    pub error: io::Error,
}

pub struct LogFile {
    path: PathBuf,
    /// Bytes; 0 means no limit.
    max_size: u64,
    keep: u32,
    opener: Opener,
    open: Option<Open>,
    /// Set after a failed rotation: when to retry it.
    unrotatable: Option<Instant>,
}

struct Open {
    file: File,
    /// The file's path with all symlinks followed.
    path: PathBuf,
    id: (u64, u64),
    length: u64,
    /// The last line in it is unfinished.
    mid_line: bool,
    /// It is `/dev/null`.
    null: bool,
    looked: Instant,
}

impl LogFile {
    pub fn new(path: PathBuf, max_size: u64, keep: u32, opener: Opener) -> LogFile {
        LogFile { path, max_size, keep, opener, open: None, unrotatable: None }
    }

    /// Changes the settings for what is written from now on.
    pub fn set(&mut self, path: &Path, max_size: u64, keep: u32) {
        if self.path != path {
            self.path = path.to_owned();
            self.open = None;
        }
        let fewer = keep < self.keep;
        (self.max_size, self.keep, self.unrotatable) = (max_size, keep, None);
        if fewer {
            generations::remove_surplus(&self.path, keep);
        }
    }

    /// The file's device and inode, and its length, which is where the next bytes go. `None` for `/dev/null`.
    pub fn position(&mut self) -> io::Result<Option<((u64, u64), u64)>> {
        let open = self.open()?;
        Ok((!open.null).then_some((open.id, open.length)))
    }

    /// Whether the last line in the file is unfinished.
    pub fn is_mid_line(&mut self) -> io::Result<bool> {
        self.open().map(|open| open.mid_line)
    }

    /// Appends `bytes`. Rotates between two lines when the file would exceed its size.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), Short> {
        let all = bytes.len();
        while !bytes.is_empty() {
            let written = all - bytes.len();
            let limit = self.limit();
            let open = self.open().map_err(|error| Short { written, error })?;
            let limit = if open.null { 0 } else { limit };
            let step = next_step(bytes, open.length, limit, open.mid_line);
            let (now, later) = bytes.split_at(step.write);
            if let Err(short) = open.write(now) {
                self.open = None;
                return Err(Short { written: written + short.written, error: short.error });
            }
            if step.rotate {
                self.rotate().map_err(|error| Short { written: all - later.len(), error })?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Appends output of the app. If not all of it fits, the line that this tears is taken out of the file again, also
    /// what earlier calls wrote of it: its rest is lost, so it counts as lost as a whole.
    pub fn append_output(&mut self, bytes: &[u8]) -> Result<(), Short> {
        self.append(bytes).map_err(|short| self.without_torn_line(short))
    }

    /// Appends whole lines of our own. Ends the app's last line first.
    pub fn append_lines(&mut self, lines: &[u8]) -> Result<(), Short> {
        let mid_line = self.is_mid_line().map_err(|error| Short { written: 0, error })?;
        if mid_line {
            self.append(b"\n")?;
        }
        self.append(lines).map_err(|short| self.without_torn_line(short))
    }

    fn without_torn_line(&mut self, short: Short) -> Short {
        let removed = self.remove_torn_line().unwrap_or(0); // a file that cannot be cut keeps the half line
        Short { written: short.written.saturating_sub(removed), ..short }
    }

    /// Removes the unfinished line at the end of the file. Returns its length in bytes.
    fn remove_torn_line(&mut self) -> io::Result<usize> {
        let open = self.open()?;
        if open.null || !open.mid_line {
            return Ok(0);
        }
        let from = open.length.saturating_sub(LONGEST_TORN);
        let mut end = vec![0; (open.length - from) as usize];
        open.file.read_exact_at(&mut end, from)?;
        let start = match end.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => from + at as u64 + 1,
            None if from == 0 => 0,
            None => return Ok(0),
        };
        open.file.set_len(start)?;
        let removed = open.length - start;
        (open.length, open.mid_line) = (start, false);
        Ok(removed as usize)
    }

    /// The last `count` lines, including rotated files; at most 8 MiB.
    pub fn last_lines(&self, count: usize) -> io::Result<Vec<u8>> {
        read_last_lines(&self.path, self.keep, count)
    }

    /// How large the file may grow now, in bytes; 0 means no limit.
    fn limit(&self) -> u64 {
        match self.unrotatable {
            Some(again) if Instant::now() < again => limit_without_rotation(self.max_size, self.keep),
            _ => self.max_size,
        }
    }

    /// Opens the file, or reopens it if it is no longer the file at its path.
    fn open(&mut self) -> io::Result<&mut Open> {
        self.open.take_if(|open| open.looked.elapsed() >= LOOK && !open.is_in_place());
        if self.open.is_none() {
            let path = follow_links(&self.path)?;
            let file = (self.opener)(&path)?;
            let is = file.metadata()?;
            let (id, length) = ((is.dev(), is.ino()), is.len());
            let mid_line = length > 0 && last_byte(&file, length) != Some(b'\n');
            let null = generations::facts(&is).kind == Kind::Null;
            self.open = Some(Open { file, path, id, length, mid_line, null, looked: Instant::now() });
        }
        self.open.as_mut().ok_or_else(|| io::Error::other("it is not open"))
    }

    /// Begins a new file. If that fails, the old file grows up to the total size granted to all files of the log.
    /// Nothing that was written is deleted to make room.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if !open.is_in_place() {
            return Ok(());
        }
        if self.keep == 0 {
            open.empty()?;
            self.open = Some(open);
            return Ok(());
        }
        let Err(error) = generations::shift(&open.path, self.keep) else {
            self.unrotatable = None;
            return Ok(());
        };
        let full = open.length >= limit_without_rotation(self.max_size, self.keep);
        let news = self.unrotatable.replace(Instant::now() + ROTATE_AGAIN).is_none();
        if news {
            tracing::warn!(
                event = "log.trouble", file = %open.path.display(), %error,
                "cannot rotate {}: {error}; it grows up to {} bytes instead",
                open.path.display(), limit_without_rotation(self.max_size, self.keep)
            );
        }
        self.open = Some(open);
        if full {
            Err(io::Error::new(error.kind(), format!("it is full and cannot be rotated: {error}")))
        } else {
            Ok(())
        }
    }
}

impl Open {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Short> {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => return Err(Short { written, error: io::ErrorKind::WriteZero.into() }),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Short { written, error }),
            }
        }
        self.length += bytes.len() as u64;
        if let Some(last) = bytes.last() {
            self.mid_line = *last != b'\n';
        }
        Ok(())
    }

    /// Whether the file at the path is still this one. Also reads its length again, because it may have been truncated.
    fn is_in_place(&mut self) -> bool {
        self.looked = Instant::now();
        let (Ok(ours), Ok(there)) = (self.file.metadata(), fs::symlink_metadata(&self.path)) else { return false };
        self.length = ours.len();
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    }

    /// Truncates the file, unless it is no longer ours alone.
    fn empty(&mut self) -> io::Result<()> {
        refuse(&self.file)?;
        self.file.set_len(0)?;
        (self.length, self.mid_line) = (0, false);
        Ok(())
    }
}

/// Opens `path` for appending. Creates it and its folders, accessible only to the owner. Refuses a file that is not
/// ours alone.
pub fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot create the folder {}: {error}", folder.display()))
        })?;
    }
    // Without O_NONBLOCK, opening a FIFO would wait for a reader.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    refuse(&file)?;
    Ok(file)
}

/// The last `count` lines of the log at `path` and of at most `keep` rotated files, at most 8 MiB.
pub fn read_last_lines(path: &Path, keep: u32, count: usize) -> io::Result<Vec<u8>> {
    generations::read_last_lines(&follow_links(path)?, keep, count)
}

fn refuse(file: &File) -> io::Result<()> {
    let facts = generations::facts(&file.metadata()?);
    match refusal(&facts, rustix::process::geteuid().as_raw()) {
        Some(why) => Err(io::Error::other(why)),
        None => Ok(()),
    }
}

/// Follows symlinks that we or root own, and refuses others. Returns the final path.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    let us = rustix::process::geteuid().as_raw();
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::symlink_metadata(&path) {
            Ok(is) if is.is_symlink() && is.uid() != 0 && is.uid() != us => {
                let (path, uid) = (path.display(), is.uid());
                return Err(io::Error::other(format!("{path} is a symlink of uid {uid}, which is not followed")));
            }
            Ok(is) if is.is_symlink() => {
                let to = fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("/")).join(to);
            }
            _ => return Ok(path),
        }
    }
    Err(io::Error::other("too many symlinks"))
}

fn last_byte(file: &File, length: u64) -> Option<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, length - 1).ok().map(|()| byte[0])
}
