//! The files of one log: `app.log` is the newest, then `app.log.1`, `app.log.2` and so on. Renames and reads them.
//! Never touches a file that is not ours.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::model::output::lines::{LONGEST, count_lines, last_lines};
use crate::model::output::rotation::{FileFacts, Kind, refusal};

/// The most bytes that are read back from files.
const READ_BACK: u64 = 8 << 20;

/// The facts about a file that decide whether output may go there.
pub fn facts(is: &fs::Metadata) -> FileFacts {
    let kind = match is.file_type() {
        kind if kind.is_file() => Kind::Regular,
        kind if kind.is_char_device() && is.rdev() == libc::makedev(1, 3) => Kind::Null,
        _ => Kind::Other,
    };
    FileFacts { kind, uid: is.uid(), links: is.nlink() }
}

/// The `n`th file of a log; 0 is the newest.
pub fn numbered(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// `file.2` becomes `file.3`, `file.1` becomes `file.2`, `file` becomes `file.1`; at most `keep` numbered ones stay.
pub fn shift(path: &Path, keep: u32) -> io::Result<()> {
    remove_surplus(path, keep);
    let mut free = keep;
    for n in 1..=keep {
        if !is_ours(&numbered(path, n))? {
            free = n;
            break;
        }
    }
    for n in (0..free).rev() {
        fs::rename(numbered(path, n), numbered(path, n + 1))?;
    }
    Ok(())
}

/// Removes `file.<keep + 1>` and so on, up to the first that is missing or not ours.
pub fn remove_surplus(path: &Path, keep: u32) {
    for n in keep.saturating_add(1)..u32::MAX {
        let file = numbered(path, n);
        if !is_ours(&file).unwrap_or(false) || fs::remove_file(file).is_err() {
            break;
        }
    }
}

/// Whether the file exists. An error if it is not ours: files of other users are not replaced.
fn is_ours(file: &Path) -> io::Result<bool> {
    let is = match fs::symlink_metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    // A rename does no harm to an older file's other hard links.
    let facts = FileFacts { links: 1, ..facts(&is) };
    match refusal(&facts, rustix::process::geteuid().as_raw()) {
        Some(why) => Err(io::Error::other(format!("{}: {why}", file.display()))),
        None => Ok(true),
    }
}

/// The last `count` lines of a log with `keep` numbered files, at most 8 MiB.
pub fn read_last_lines(path: &Path, keep: u32, count: usize) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for n in 0..=keep {
        let wanted = count - count_lines(&lines) as usize;
        let room = READ_BACK - lines.len() as u64;
        let older = match read_back(&numbered(path, n), wanted, room) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && n > 0 => break,
            other => other?,
        };
        lines.splice(..0, older);
        if count_lines(&lines) as usize >= count || lines.len() as u64 >= READ_BACK {
            break;
        }
    }
    Ok(last_lines(&lines, count).to_vec())
}

/// The last `count` lines of one file, at most `most` bytes.
fn read_back(path: &Path, count: usize, most: u64) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let is = file.metadata()?;
    if !is.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let most = most.min(is.len());
    let mut window = (LONGEST as u64).min(most);
    loop {
        let bytes = read_window(&mut file, is.len() - window, window)?;
        let lines = last_lines(&bytes, count);
        if lines.len() < bytes.len() || window == most {
            return Ok(lines.to_vec());
        }
        window = (window * 4).min(most);
    }
}

fn read_window(file: &mut File, from: u64, window: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::with_capacity(window as usize);
    file.take(window).read_to_end(&mut bytes)?;
    Ok(bytes)
}
