//! `Stage`: maintains shipped files in a folder that people also edit. Owns the record of what was shipped last, a
//! plain copy below `~/.local/state/kasm-void/staged`. A file that is unchanged since it was shipped is updated, or
//! removed if it is no longer shipped. A file that somebody edited or removed is left as it is.
//!
//! A file that has the name of a shipped file, but no record, is replaced once if it differs: an older image
//! without records left it there. The old file is kept below `~/.local/state/kasm-void/replaced`.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::{Folder, MAX_DEPTH, kind};
use super::write::{Finish, replace};
use super::{Around, Done, cannot};
use crate::model::spelling::counted;

/// Bytes. Launchers and scripts are never larger.
const MAX_SIZE: u64 = 16 << 20;

pub(super) fn stage(from: &Path, to: &Path, around: &Around) -> Done {
    let what = || format!("stage `{}` in `{}`", from.display(), to.display());
    let source = Folder::open(from).map_err(|error| cannot(format!("read `{}`", from.display()), error))?;
    let records = around.home.join(".local/state/kasm-void");
    let recorded = records.join("staged").join(to.strip_prefix("/").unwrap_or(to));
    let replaced = records.join("replaced").join(to.strip_prefix("/").unwrap_or(to));
    // If the whole folder is gone, as on a new volume, everything is copied again.
    let anew = fs::lstat(to).is_err();
    let made = |path: &Path, mode| {
        DirBuilder::new().recursive(true).mode(mode).create(path)?;
        Ok::<_, io::Error>(Folder::open(path)?)
    };
    let target = made(to, 0o755).map_err(|error| cannot(what(), error))?;
    let record = made(&recorded, 0o700).map_err(|error| cannot(what(), error))?;
    let mut staging = Staging { around, anew, replaced, brought: 0, removed: 0, kept: Vec::new() };
    staging.folder(Some(&source), &target, &record, 0)?;
    Ok(staging.told(to))
}

struct Staging<'a> {
    around: &'a Around<'a>,
    anew: bool,
    replaced: PathBuf,
    brought: usize,
    removed: usize,
    /// Where replaced files are kept.
    kept: Vec<PathBuf>,
}

/// The kind of file that has a name in one of the three folders.
#[derive(PartialEq)]
enum Entry {
    Nothing,
    File {
        content: Vec<u8>,
        mode: u32,
    },
    Folder,
    /// A link, a device, a file that is too large or that we may not read. We never change these.
    Other,
}

impl Entry {
    fn is_content_of(&self, other: &Entry) -> bool {
        matches!((self, other), (Entry::File { content: a, .. }, Entry::File { content: b, .. }) if a == b)
    }
}

impl Staging<'_> {
    /// Handles every name that we ship now or shipped last. `source` is `None` if we no longer ship the folder.
    fn folder(
        &mut self,
        source: Option<&Folder>,
        target: &Folder,
        record: &Folder,
        depth: usize,
    ) -> Result<(), String> {
        if depth >= MAX_DEPTH {
            return Err(format!("cannot stage `{}`: nested too deep", target.path.display()));
        }
        let mut names: BTreeSet<OsString> = entries(record)?.into_iter().collect();
        if let Some(source) = source {
            names.extend(entries(source)?);
        }
        for name in names {
            if (self.around.cancelled)() {
                return Err(format!("cancelled while staging `{}`", target.path.display()));
            }
            let ours = source.map_or(Ok(Entry::Nothing), |source| look(source, &name))?;
            match (ours, look(record, &name)?) {
                (Entry::Other, _) => {
                    let path = source.map_or_else(PathBuf::new, |source| source.path.join(&name));
                    return Err(format!("cannot stage `{}`: it is not a file or folder: ship one", path.display()));
                }
                (Entry::Folder, recorded) => {
                    if recorded != Entry::Folder && recorded != Entry::Nothing {
                        self.file(&Entry::Nothing, &recorded, (target, record), &name)?;
                    }
                    self.subfolder(source, target, record, &name, depth)?;
                }
                (ours, Entry::Folder) => {
                    self.subfolder(None, target, record, &name, depth)?;
                    if ours != Entry::Nothing {
                        self.file(&ours, &Entry::Nothing, (target, record), &name)?;
                    }
                }
                (ours, recorded) => self.file(&ours, &recorded, (target, record), &name)?,
            }
        }
        Ok(())
    }

    fn subfolder(
        &mut self,
        source: Option<&Folder>,
        target: &Folder,
        record: &Folder,
        name: &OsStr,
        depth: usize,
    ) -> Result<(), String> {
        let failed = |error: Errno| cannot(format!("stage `{}`", target.path.join(name).display()), error);
        let inner = source.map(|source| source.enter(name)).transpose().map_err(failed)?;
        if inner.is_some() {
            make_folder(record, name).map_err(failed)?;
        }
        let known = record.enter(name).map_err(failed)?;
        let there = match target.enter(name) {
            Err(Errno::NOENT) if inner.is_some() && (self.anew || entries(&known)?.is_empty()) => {
                make_folder(target, name).map_err(failed)?;
                target.enter(name).map_err(failed)?
            }
            // Somebody removed or replaced the folder. Leave it alone.
            Err(Errno::NOENT | Errno::NOTDIR) if inner.is_some() => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return std::fs::remove_dir_all(&known.path)
                    .map_err(|error| cannot(format!("remove `{}`", known.path.display()), error));
            }
            entered => entered.map_err(failed)?,
        };
        self.folder(inner.as_ref(), &there, &known, depth + 1)?;
        if inner.is_none() {
            // Fails if people put something into the folder; then it stays.
            let _ = fs::unlinkat(&target.fd, name, AtFlags::REMOVEDIR);
            fs::unlinkat(&record.fd, name, AtFlags::REMOVEDIR).map_err(failed)?;
        }
        Ok(())
    }

    /// Updates the file first, then the record. If we die in between, the next run does the same again.
    fn file(
        &mut self,
        ours: &Entry,
        recorded: &Entry,
        (target, record): (&Folder, &Folder),
        name: &OsStr,
    ) -> Result<(), String> {
        let failed = |error: io::Error| cannot(format!("stage `{}`", target.path.join(name).display()), error);
        let there = look(target, name)?;
        let known = *recorded != Entry::Nothing;
        let untouched = there.is_content_of(recorded);
        match ours {
            Entry::File { content, mode } => {
                let wanted = match there {
                    Entry::Nothing => !known || self.anew,
                    _ => untouched || !known,
                };
                if wanted && there != *ours {
                    if !untouched && !there.is_content_of(ours) && there != Entry::Nothing {
                        self.keep(target, name).map_err(failed)?;
                    }
                    put(target, name, content, *mode).map_err(failed)?;
                    self.brought += 1;
                }
                // An edited file is compared with the version it was edited from.
                if (wanted || there.is_content_of(ours)) && !ours.is_content_of(recorded) {
                    put(record, name, content, 0o600).map_err(failed)?;
                }
            }
            _ => {
                if untouched {
                    fs::unlinkat(&target.fd, name, AtFlags::empty()).map_err(|error| failed(error.into()))?;
                    self.removed += 1;
                }
                fs::unlinkat(&record.fd, name, AtFlags::empty()).map_err(|error| failed(error.into()))?;
            }
        }
        Ok(())
    }

    /// Moves aside a file that is in the way and has no record.
    fn keep(&mut self, target: &Folder, name: &OsStr) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.replaced)?;
        let shelf = Folder::open(&self.replaced)?;
        fs::renameat(&target.fd, name, &shelf.fd, name)?;
        self.kept.push(shelf.path.join(name));
        Ok(())
    }

    fn told(&self, to: &Path) -> String {
        let files = |count: usize| counted(count as u64, "file");
        let mut parts = Vec::new();
        if self.brought > 0 {
            parts.push(format!("brought {} to `{}`", files(self.brought), to.display()));
        }
        if self.removed > 0 {
            parts.push(format!("removed {} from `{}` (no longer shipped)", files(self.removed), to.display()));
        }
        parts.extend(self.kept.iter().map(|path| format!("the replaced file is kept as `{}`", path.display())));
        parts.join(", ")
    }
}

fn entries(folder: &Folder) -> Result<Vec<OsString>, String> {
    folder.entries().map_err(|error| cannot(format!("read `{}`", folder.path.display()), error))
}

fn look(folder: &Folder, name: &OsStr) -> Result<Entry, String> {
    let failed = |error: io::Error| cannot(format!("read `{}`", folder.path.join(name).display()), error);
    let Some(found) = folder.look(name).map_err(|error| failed(error.into()))? else { return Ok(Entry::Nothing) };
    match kind(&found) {
        FileType::Directory => return Ok(Entry::Folder),
        FileType::RegularFile if found.st_size as u64 <= MAX_SIZE => {}
        _ => return Ok(Entry::Other),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::openat(&folder.fd, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ACCESS | Errno::LOOP) => return Ok(Entry::Other),
        Err(error) => return Err(failed(error.into())),
    };
    let mut content = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut content).map_err(failed)?;
    Ok(Entry::File { content, mode: found.st_mode & 0o777 })
}

fn put(folder: &Folder, name: &OsStr, content: &[u8], mode: u32) -> io::Result<()> {
    let finish = Finish { mode: Mode::from_raw_mode(mode), owner: None, durable: false };
    replace(folder, name, &finish, |file| io::Write::write_all(file, content))
}

fn make_folder(parent: &Folder, name: &OsStr) -> Result<(), Errno> {
    match fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}
