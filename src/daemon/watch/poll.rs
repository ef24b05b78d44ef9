//! For folders whose changes inotify does not report: which they are, and whether one has changed since the last look.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::fs::read_dir;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names the file system if its content can change without this kernel's knowledge. That is the reason to poll.
pub(super) fn untrusted(path: &Path) -> Option<String> {
    const REMOTE: [(u32, &str); 9] = [
        (0x6969, "NFS"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "FUSE"),
        (0x517b, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x00c3_6400, "Ceph"),
        (0x5346_414f, "AFS"),
        (0x7375_7245, "Coda"),
    ];
    // The magic number has 32 bits, but the field's width differs between machines.
    let kind = rustix::fs::statfs(path).ok()?.f_type as u32;
    let (_, name) = REMOTE.iter().find(|(magic, _)| *magic == kind)?;
    Some(format!("`{}` is on {name}, which does not report changes made elsewhere", path.display()))
}

/// A value that changes with any name, size, time or link target in the folders, and with these files.
pub(super) fn fingerprint(folders: &[PathBuf], files: &BTreeSet<PathBuf>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for folder in folders {
        let mut entries: Vec<PathBuf> = read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        entries.sort();
        stamp(folder).hash(&mut hasher);
        for path in entries {
            stamp(&path).hash(&mut hasher);
            path.hash(&mut hasher);
        }
    }
    for file in files {
        stamp(file).hash(&mut hasher);
        file.hash(&mut hasher);
    }
    hasher.finish()
}

/// Inode, size, and the times of the last change of content and inode.
fn stamp(path: &Path) -> Option<(u64, u64, [i64; 4])> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()]))
}
