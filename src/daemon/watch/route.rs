//! Which folders to watch to see every change that concerns the manifest folders, and which names in them matter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{read_dir, read_link, symlink_metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The most links followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;

pub(super) type Interests = BTreeMap<PathBuf, Interest>;

/// Maps a path to its device and inode.
pub(super) type Identities = BTreeMap<PathBuf, (u64, u64)>;

/// The names in a watched folder whose change matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Interest {
    All,
    Names(BTreeSet<OsString>),
}

/// The folders to watch to see every change that concerns the manifest folders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) interests: Interests,
    /// The manifest folders and single files that exist, with links resolved.
    pub(super) found: Vec<PathBuf>,
    pub(super) ids: Identities,
}

impl Route {
    /// The route to these manifest folders and single files, as it is now.
    pub(super) fn to(folders: &[PathBuf], files: &BTreeSet<PathBuf>) -> Self {
        let mut route = Route::default();
        for file in files {
            let found = route.walk(file);
            route.found.extend(found);
        }
        for folder in folders {
            if let Some(real) = route.walk(folder) {
                route.whole(real);
            }
        }
        route.ids = route.interests.keys().filter_map(|path| Some((path.clone(), identity(path)?))).collect();
        route
    }

    /// Follows `path` as the kernel does, and notes each name whose change would lead elsewhere. Returns the final
    /// path, if it exists.
    fn walk(&mut self, path: &Path) -> Option<PathBuf> {
        let mut rest: VecDeque<OsString> = names(path);
        let mut here = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            match symlink_metadata(&next) {
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    self.name_of(&here);
                    return None;
                }
                Err(_) => {
                    self.name(&here, &name);
                    return None;
                }
                Ok(found) if found.is_symlink() => {
                    self.name(&here, &name);
                    links += 1;
                    let target = read_link(&next).ok().filter(|_| links <= MAX_LINKS)?;
                    if target.is_absolute() {
                        here = PathBuf::from("/");
                    }
                    names(&target).into_iter().rev().for_each(|name| rest.push_front(name));
                }
                Ok(_) => here = next,
            }
        }
        self.name_of(&here);
        Some(here)
    }

    /// Adds a manifest folder: everything in it, and the targets of linked manifests.
    fn whole(&mut self, folder: PathBuf) {
        let entries = read_dir(&folder).into_iter().flatten().flatten();
        let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        for link in links.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "ron")) {
            self.walk(&link);
        }
        self.interests.insert(folder.clone(), Interest::All);
        self.found.push(folder);
    }

    fn name_of(&mut self, path: &Path) {
        if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
            self.name(folder, name);
        }
    }

    fn name(&mut self, folder: &Path, name: &OsStr) {
        let interest = self.interests.entry(folder.to_owned()).or_insert_with(|| Interest::Names(BTreeSet::new()));
        if let Interest::Names(names) = interest {
            names.insert(name.to_owned());
        }
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

pub(super) fn concerns(interests: &Interests, path: &Path) -> bool {
    if interests.contains_key(path) {
        return true;
    }
    match path.parent().and_then(|folder| interests.get(folder)) {
        Some(Interest::All) => true,
        Some(Interest::Names(names)) => path.file_name().is_some_and(|name| names.contains(name)),
        None => false,
    }
}
