//! One log file on disk: opened at the first line, rotated by size between two lines, found again when
//! somebody took it away. Only the writer thread comes here, for every call may block.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::text::{last_line_end, last_lines, line_end};

/// A file may grow this much over its size to end the line it is in; a longer line is cut.
const LINE: u64 = 64 << 10;

/// How often we look whether the file is still where it was.
const LOOK: Duration = Duration::from_secs(1);

/// The most that is read back from files.
const READ_BACK: u64 = 8 << 20;

/// Symlinks followed to reach a log file.
const LINKS: usize = 8;

/// Opens the file to append to.
pub type Opener = Arc<dyn Fn(&Path) -> io::Result<File> + Send + Sync>;

/// A write that failed.
#[derive(Debug)]
pub struct Short {
    /// Bytes that are in the file all the same.
    pub written: usize,
    pub error: io::Error,
}

pub struct LogFile {
    path: PathBuf,
    /// 0: no limit.
    max_size: u64,
    keep: u32,
    opener: Opener,
    open: Option<Open>,
}

struct Open {
    file: File,
    /// Where the file really is, all symlinks followed.
    path: PathBuf,
    id: (u64, u64),
    len: u64,
    /// The last line in it has no end yet.
    mid_line: bool,
    looked: Instant,
}

impl LogFile {
    pub fn new(path: PathBuf, max_size: u64, keep: u32, opener: Opener) -> LogFile {
        LogFile { path, max_size, keep, opener, open: None }
    }

    /// New settings for what is written from now on.
    pub fn set(&mut self, path: &Path, max_size: u64, keep: u32) {
        if self.path != path {
            self.path = path.to_owned();
            self.open = None;
        }
        let fewer = keep < self.keep;
        (self.max_size, self.keep) = (max_size, keep);
        if fewer {
            remove_surplus(&self.path, keep);
        }
    }

    /// Device and inode of the file, and how long it is: where the next bytes go.
    pub fn place(&mut self) -> io::Result<((u64, u64), u64)> {
        self.open()?;
        let open = self.open.as_ref().ok_or_else(|| io::Error::other("it is not open"))?;
        Ok((open.id, open.len))
    }

    /// Appends `bytes`, rotating between two lines where the file would grow beyond its size.
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), Short> {
        let all = bytes.len();
        while !bytes.is_empty() {
            let written = all - bytes.len();
            self.open().map_err(|error| Short { written, error })?;
            let Some(open) = &mut self.open else { break };
            let cut = cut(bytes, open.len, self.max_size, open.mid_line);
            let (now, later) = bytes.split_at(cut.upto);
            if let Err(short) = open.write(now) {
                self.open = None;
                return Err(Short { written: written + short.written, error: short.error });
            }
            if cut.rotate {
                self.rotate().map_err(|error| Short { written: all - later.len(), error })?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Appends a line of our own, on a line of its own.
    pub fn append_line(&mut self, line: &str) -> Result<(), Short> {
        self.open().map_err(|error| Short { written: 0, error })?;
        let begin = if self.open.as_ref().is_some_and(|open| open.mid_line) { "\n" } else { "" };
        self.append(format!("{begin}{line}\n").as_bytes())
    }

    /// The last `count` lines, from the rotated files too, 8 MiB at most.
    pub fn last_lines(&self, count: usize) -> io::Result<Vec<u8>> {
        let path = follow_links(&self.path)?;
        let mut lines = Vec::new();
        for n in 0..=self.keep {
            let wanted = count - super::text::count_lines(&lines) as usize;
            let room = READ_BACK - lines.len() as u64;
            let older = match read_back(&numbered(&path, n), wanted, room) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && n > 0 => break,
                other => other?,
            };
            lines.splice(..0, older);
            if super::text::count_lines(&lines) as usize >= count || lines.len() as u64 >= READ_BACK {
                break;
            }
        }
        Ok(last_lines(&lines, count).to_vec())
    }

    /// Opens the file, or opens it again when it is no longer the one at its path.
    fn open(&mut self) -> io::Result<()> {
        if let Some(open) = &mut self.open {
            if open.looked.elapsed() < LOOK || open.is_in_place() {
                return Ok(());
            }
            self.open = None;
        }
        let path = follow_links(&self.path)?;
        let file = (self.opener)(&path)?;
        let is = file.metadata()?;
        let (id, len) = ((is.dev(), is.ino()), is.len());
        let mid_line = len > 0 && last_byte(&file, len) != Some(b'\n');
        self.open = Some(Open { file, path, id, len, mid_line, looked: Instant::now() });
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if !open.is_in_place() {
            return Ok(());
        }
        if self.keep > 0 {
            match shift(&open.path, self.keep) {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(
                    event = "log.trouble",
                    file = %open.path.display(), %error,
                    "cannot rename the log file, so it is emptied instead: make its folder writable"
                ),
            }
        }
        open.file.set_len(0)?;
        open.len = 0;
        self.open = Some(open);
        Ok(())
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
        self.len += bytes.len() as u64;
        if let Some(last) = bytes.last() {
            self.mid_line = *last != b'\n';
        }
        Ok(())
    }

    /// The file at the path is still this one; its length is read again, for somebody may have cut it.
    fn is_in_place(&mut self) -> bool {
        self.looked = Instant::now();
        let (Ok(ours), Ok(there)) = (self.file.metadata(), fs::symlink_metadata(&self.path)) else { return false };
        self.len = ours.len();
        (ours.dev(), ours.ino()) == (there.dev(), there.ino())
    }
}

/// Opens `path` to append, making it and its folders. The owner of the file must be us or root: in a
/// folder open to all, such as `/tmp`, anybody may have put something there first.
pub fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot make the folder {}: {error}", folder.display()))
        })?;
    }
    // Nonblocking, or the open of somebody's FIFO would wait for a reader.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o644).custom_flags(flags).open(path)?;
    let is = file.metadata()?;
    if !is.is_file() {
        return Err(io::Error::other("it is not a regular file: remove it or give another `log.file`"));
    }
    if !trusted(&is) {
        let uid = is.uid();
        return Err(io::Error::other(format!("it belongs to uid {uid}: remove it or give another `log.file`")));
    }
    Ok(file)
}

/// Where `path` leads, through symlinks placed by us or by root; others are refused.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::symlink_metadata(&path) {
            Ok(is) if is.is_symlink() && !trusted(&is) => {
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

fn trusted(is: &Metadata) -> bool {
    is.uid() == 0 || is.uid() == rustix::process::geteuid().as_raw()
}

/// How much of a chunk goes into the file now, and whether it is rotated behind it.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    upto: usize,
    rotate: bool,
}

fn cut(bytes: &[u8], len: u64, max_size: u64, mid_line: bool) -> Cut {
    let within = |limit: u64| usize::try_from(limit.saturating_sub(len)).unwrap_or(usize::MAX).min(bytes.len());
    let room = within(max_size);
    if max_size == 0 || room == bytes.len() {
        return Cut { upto: bytes.len(), rotate: false };
    }
    if let Some(upto) = last_line_end(&bytes[..room]) {
        return Cut { upto, rotate: true };
    }
    if len > 0 && !mid_line {
        return Cut { upto: 0, rotate: true };
    }
    // A line is under way and does not fit: it may end a little beyond the size.
    let room = within(max_size.saturating_add(LINE));
    match line_end(&bytes[..room]) {
        Some(upto) => Cut { upto, rotate: true },
        None => Cut { upto: room, rotate: room < bytes.len() },
    }
}

/// `file.2` becomes `file.3`, `file.1` becomes `file.2`, `file` becomes `file.1`.
fn shift(path: &Path, keep: u32) -> io::Result<()> {
    remove_surplus(path, keep);
    for n in (0..keep).rev() {
        match fs::rename(numbered(path, n), numbered(path, n + 1)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes `file.<keep + 1>` and on, up to the first that is not there.
fn remove_surplus(path: &Path, keep: u32) {
    for n in keep.saturating_add(1)..u32::MAX {
        if fs::remove_file(numbered(path, n)).is_err() {
            break;
        }
    }
}

pub fn numbered(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

fn last_byte(file: &File, len: u64) -> Option<u8> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, len - 1).ok().map(|()| byte[0])
}

/// The last `count` lines of one file, `most` bytes at most.
fn read_back(path: &Path, count: usize, most: u64) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let is = file.metadata()?;
    if !is.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let most = most.min(is.len());
    let mut window = LINE.min(most);
    loop {
        file.seek(SeekFrom::Start(is.len() - window))?;
        let mut bytes = Vec::with_capacity(window as usize);
        (&file).take(window).read_to_end(&mut bytes)?;
        let lines = last_lines(&bytes, count);
        if lines.len() < bytes.len() || window == most {
            return Ok(lines.to_vec());
        }
        window = (window * 4).min(most);
    }
}
