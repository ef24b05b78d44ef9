//! The last good text of each manifest. Used by a supervisor that finds a manifest broken and has never seen it good;
//! it is not read otherwise. All of them are in one file, a line each, since a file each would cost more than starting
//! the app. Written on another thread, since a disk may be slow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::host::{layout, load};
use crate::model::loading::source::Source;

/// The copies of one session.
pub struct Copies {
    store: Arc<Store>,
    /// The hash of the last text to keep, by name.
    known: BTreeMap<String, u64>,
    /// The copies of manifests that are not good now, as far as there are any. If the file is deleted, these are all
    /// there is of them.
    of_broken: BTreeMap<String, Option<String>>,
}

struct Store {
    file: PathBuf,
    /// Copies that are still to be written, by name. `None` removes the copy. A later text replaces an earlier one.
    pending: Mutex<BTreeMap<String, Option<String>>>,
    /// Whether the last write failed. Held while the file is written, so that writers take turns.
    failed: Mutex<bool>,
}

/// The time after a failure before the rest is retried: the disk may have room by then.
const RETRY: Duration = Duration::from_secs(1);

impl Copies {
    /// Opens the copies in a state folder.
    pub fn open(state: &Path) -> Copies {
        let store = Store { file: layout::last_good(state), pending: Mutex::default(), failed: Mutex::default() };
        Copies { store: Arc::new(store), known: BTreeMap::new(), of_broken: BTreeMap::new() }
    }

    /// The last good version of each manifest, by name.
    pub fn read(&self) -> BTreeMap<String, Source> {
        let (file, folder) = (self.store.file.display().to_string(), load::folder_of(&self.store.file));
        let source = |(name, text): (String, String)| {
            (name.clone(), Source { name, file: file.clone(), folder: folder.clone(), text: Ok(text) })
        };
        lines(&self.store.file).into_iter().filter_map(|(_, line)| copy(&line)).map(source).collect()
    }

    /// Keeps the texts of `good`, by name. The copies of `unchanged` stay. With `complete`, the copies of all other names
    /// are removed, because they have no manifest.
    pub fn keep(&mut self, good: &[(&str, &str)], unchanged: &BTreeSet<&str>, complete: bool) {
        let hash = |text: &str| BuildHasherDefault::<DefaultHasher>::default().hash_one(text);
        let mut changed = Vec::new();
        for (name, text) in good {
            let hash = hash(text);
            if self.known.get(*name) != Some(&hash) {
                self.known.insert((*name).into(), hash);
                changed.push(((*name).to_owned(), (*text).to_owned()));
            }
        }
        self.remember(unchanged);
        let named: BTreeSet<&str> = good.iter().map(|(name, _)| *name).chain(unchanged.iter().copied()).collect();
        let gone: Vec<String> =
            self.known.keys().filter(|name| complete && !named.contains(name.as_str())).cloned().collect();
        for name in &gone {
            self.known.remove(name);
        }
        if changed.is_empty() && gone.is_empty() {
            return;
        }
        let mut pending = self.store.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.extend(changed.into_iter().map(|(name, text)| (name, Some(text))));
        pending.extend(gone.into_iter().map(|name| (name, None)));
        drop(pending);
        tokio::spawn(self.store.clone().write_all());
    }

    /// Keeps the copies of these in memory, and of no others.
    fn remember(&mut self, broken: &BTreeSet<&str>) {
        self.of_broken.retain(|name, _| broken.contains(name.as_str()));
        let new: Vec<&str> = broken.iter().filter(|name| !self.of_broken.contains_key(**name)).copied().collect();
        if !new.is_empty() {
            let mut kept = self.read();
            let text = |name: &str| (name.to_owned(), kept.remove(name).and_then(|source| source.text.ok()));
            let new: Vec<(String, Option<String>)> = new.into_iter().map(text).collect();
            self.of_broken.extend(new);
        }
    }

    /// Whether the file was deleted.
    pub fn were_removed(&self) -> bool {
        !self.known.is_empty() && !self.store.file.exists()
    }

    /// Call this when the file was deleted. Writes the copies of broken manifests again. Those of good ones follow at the
    /// next [`Copies::keep`].
    pub fn write_again(&mut self) {
        self.known.clear();
        let lost = self.of_broken.iter().filter_map(|(name, text)| Some((name.clone(), Some(text.clone()?))));
        self.store.pending.lock().unwrap_or_else(PoisonError::into_inner).extend(lost);
        tokio::spawn(self.store.clone().write_all());
    }

    /// Deletes all copies, so that no later supervisor continues from them.
    pub fn forget(&self) {
        self.store.pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let _ = fs::remove_file(&self.store.file); // if this fails, a broken manifest may get this old version later
    }
}

/// The lines of the file, each with its offset in bytes. The last one may be torn.
fn lines(file: &Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut offset = 0;
    let place = |line: &str| {
        let at = offset;
        offset += line.len() as u64;
        (at, line.to_string())
    };
    text.split_inclusive('\n').map(place).collect()
}

/// Name and text of one line. A line that was blanked is nobody's.
fn copy(line: &str) -> Option<(String, String)> {
    serde_json::from_str(line).ok()
}

impl Store {
    /// Writes until nothing is pending.
    async fn write_all(self: Arc<Self>) {
        loop {
            let store = self.clone();
            match spawn_blocking(move || store.write()).await {
                Ok(false) => tokio::time::sleep(RETRY).await,
                Ok(true) | Err(_) => return,
            }
        }
    }

    /// Writes everything pending. Returns whether it could be written. Threads may run in any order: the first one also
    /// writes what later ones were started for.
    fn write(&self) -> bool {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let mut copies: BTreeMap<String, String> =
            lines(&self.file).iter().filter_map(|(_, line)| copy(line)).collect();
        let mut changed = false;
        for (name, text) in &pending {
            let before = match text {
                Some(text) => copies.insert(name.clone(), text.clone()),
                None => copies.remove(name),
            };
            changed |= before != *text;
        }
        // After a restart of the supervisor, the file holds most of it already.
        let written = if changed { self.replace(&copies) } else { Ok(()) };
        if let Err(error) = &written {
            self.blank(&pending);
            let mut later = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, text) in pending {
                later.entry(name).or_insert(text);
            }
            if !*failed {
                tracing::warn!(
                    event = "state.trouble", file = %self.file.display(), %error,
                    "cannot keep copies of the manifests: if the supervisor dies while a manifest is broken, its app is left alone until the manifest is fixed"
                );
            }
        }
        *failed = written.is_err();
        !*failed
    }

    fn replace(&self, copies: &BTreeMap<String, String>) -> io::Result<()> {
        let mut text = String::new();
        for copy in copies {
            text += &serde_json::to_string(&copy)?;
            text.push('\n');
        }
        let new = self.file.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(new, &self.file)
    }

    /// Overwrites the lines of names that have another text now, which takes no space on a full disk. No copy is better than
    /// an outdated one, which would restart the app in an old version.
    fn blank(&self, latest: &BTreeMap<String, Option<String>>) {
        let Ok(file) = OpenOptions::new().write(true).open(&self.file) else { return };
        let is_outdated =
            |(name, text): (String, String)| latest.get(&name).is_some_and(|latest| latest.as_ref() != Some(&text));
        for (at, line) in lines(&self.file) {
            if copy(&line).is_some_and(is_outdated) {
                let _ = file.write_at(" ".repeat(line.trim_end().len()).as_bytes(), at); // it is retried soon
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn text(copies: &Copies, name: &str) -> Option<String> {
        copies.read().remove(name)?.text.ok()
    }

    async fn written(copies: &Copies, what: impl Fn(&Copies) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !what(copies) {
            assert!(Instant::now() < deadline, "not written: {:?}", copies.store.pending);
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn writers_that_run_in_any_order_leave_the_latest_texts() {
        let state = tempfile::tempdir().unwrap();
        // Keep the only blocking thread busy until both writers are waiting.
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        runtime.block_on(async {
            let busy = spawn_blocking(move || wait.recv());
            let mut copies = Copies::open(state.path());
            copies.keep(&[("a", "one"), ("b", "one")], &BTreeSet::new(), true);
            copies.keep(&[("a", "two")], &BTreeSet::new(), true);
            copies.store.write(); // as if the last writer ran first
            go.send(()).unwrap();
            let _ = busy.await;
            spawn_blocking(|| ()).await.unwrap(); // behind the writers
            assert_eq!(text(&copies, "a"), Some("two".into()));
            assert_eq!(text(&copies, "b"), None);
        });
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later_and_no_older_copy_stays() {
        let state = tempfile::tempdir().unwrap();
        let mut copies = Copies::open(state.path());
        copies.keep(&[("a", "one"), ("b", "one"), ("c", "one")], &BTreeSet::new(), true);
        written(&copies, |copies| text(copies, "c").is_some()).await;
        let in_the_way = copies.store.file.with_extension("new");
        fs::create_dir(&in_the_way).unwrap();
        copies.keep(&[("a", "two"), ("c", "one")], &BTreeSet::new(), true);
        written(&copies, |copies| text(copies, "a").is_none() && text(copies, "b").is_none()).await;
        assert_eq!(text(&copies, "c"), Some("one".into()), "it has not changed");
        fs::remove_dir(&in_the_way).unwrap();
        written(&copies, |copies| text(copies, "a") == Some("two".into())).await;
        assert_eq!(text(&copies, "b"), None);
        assert_eq!(text(&copies, "c"), Some("one".into()));
    }

    #[tokio::test]
    async fn a_next_supervisor_that_cannot_write_keeps_the_copies_that_are_still_right() {
        let state = tempfile::tempdir().unwrap();
        let mut copies = Copies::open(state.path());
        copies.keep(&[("a", "one"), ("b", "one")], &BTreeSet::new(), true);
        written(&copies, |copies| text(copies, "b").is_some()).await;
        fs::create_dir(copies.store.file.with_extension("new")).unwrap();
        let mut next = Copies::open(state.path());
        next.keep(&[("a", "two"), ("b", "one")], &BTreeSet::new(), true);
        written(&next, |copies| text(copies, "a").is_none()).await;
        assert_eq!(text(&next, "b"), Some("one".into()));
    }

    #[test]
    fn a_torn_or_blank_line_costs_no_other_copy() {
        let state = tempfile::tempdir().unwrap();
        let copies = Copies::open(state.path());
        fs::write(&copies.store.file, "           \n[\"a\",\"one\"]\n[\"b\",\"tw").unwrap();
        assert_eq!(text(&copies, "a"), Some("one".into()));
        assert_eq!(copies.read().len(), 1);
    }

    #[tokio::test]
    async fn the_next_supervisor_of_the_session_finds_what_was_good() {
        let state = tempfile::tempdir().unwrap();
        let mut copies = Copies::open(state.path());
        copies.keep(&[("a", "one"), ("b", "one")], &BTreeSet::new(), true);
        written(&copies, |copies| text(copies, "b").is_some()).await;
        copies.keep(&[("a", "two")], &BTreeSet::from(["b"]), true);
        written(&copies, |copies| text(copies, "a") == Some("two".into())).await;
        let mut next = Copies::open(state.path());
        assert_eq!(text(&next, "a"), Some("two".into()));
        assert_eq!(text(&next, "b"), Some("one".into()), "broken now, and good once");
        next.keep(&[("a", "two"), ("b", "one")], &BTreeSet::new(), true);
        next.keep(&[("a", "two")], &BTreeSet::new(), true);
        written(&next, |copies| text(copies, "b").is_none()).await;
        next.forget();
        assert_eq!(text(&Copies::open(state.path()), "a"), None, "another session");
    }
}
