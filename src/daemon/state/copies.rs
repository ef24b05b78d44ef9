//! The last good text of each manifest. Used by a supervisor that finds a manifest broken and has never seen it good;
//! it is not read otherwise. Written on another thread, since a disk may be slow.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::host::layout;
use crate::model::loading::source::Source;

/// The copies of one state folder.
pub struct Copies {
    folder: Arc<Folder>,
    /// The hash of the last text to keep, by name.
    known: BTreeMap<String, u64>,
}

struct Folder {
    state: PathBuf,
    /// What is still to be written, by name. `None` removes the copy. A later text replaces an earlier one.
    pending: Mutex<BTreeMap<String, Option<String>>>,
    /// Whether the last write failed. Held while files are written, so that writers take turns.
    failed: Mutex<bool>,
}

/// The time after a failure before the rest is retried: the disk may have room by then.
const RETRY: Duration = Duration::from_secs(1);

impl Copies {
    /// Opens the copies, which have their own folder inside the state folder.
    pub fn open(state: &Path) -> Copies {
        let folder = Folder { state: state.into(), pending: Mutex::default(), failed: Mutex::default() };
        Copies { folder: Arc::new(folder), known: BTreeMap::new() }
    }

    /// The last good version of this manifest, if it is known.
    pub fn of(&self, name: &str) -> Option<Source> {
        let file = self.folder.file(name);
        let text = fs::read_to_string(&file).ok()?;
        Some(Source { name: name.into(), file: file.display().to_string(), text: Ok(text) })
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
        let named: BTreeSet<&str> = good.iter().map(|(name, _)| *name).chain(unchanged.iter().copied()).collect();
        let gone: Vec<String> =
            self.known.keys().filter(|name| complete && !named.contains(name.as_str())).cloned().collect();
        for name in &gone {
            self.known.remove(name);
        }
        if changed.is_empty() && gone.is_empty() {
            return;
        }
        let mut pending = self.folder.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.extend(changed.into_iter().map(|(name, text)| (name, Some(text))));
        pending.extend(gone.into_iter().map(|name| (name, None)));
        drop(pending);
        tokio::spawn(self.folder.clone().write_all());
    }

    /// Call this when the files were deleted. Everything that is good is written again.
    pub fn write_again(&mut self) {
        self.known.clear();
    }

    /// Deletes all copies, so that no later supervisor continues from them.
    pub fn forget(&self) {
        self.folder.pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // If this fails, a broken manifest may get this old version later.
        let _ = fs::remove_dir_all(layout::last_good_folder(&self.folder.state));
    }
}

impl Folder {
    fn file(&self, name: &str) -> PathBuf {
        layout::last_good(&self.state, name)
    }

    /// Writes until nothing is pending.
    async fn write_all(self: Arc<Self>) {
        loop {
            let folder = self.clone();
            match spawn_blocking(move || folder.write()).await {
                Ok(false) => tokio::time::sleep(RETRY).await,
                Ok(true) | Err(_) => return,
            }
        }
    }

    /// Writes everything pending. Returns whether all of it could be written. Threads may run in any order: the first
    /// one also writes what later ones were started for.
    fn write(&self) -> bool {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let mut trouble = None;
        for (name, text) in pending {
            let written = match &text {
                Some(text) => self.replace(&name, text),
                None => fs::remove_file(self.file(&name)).or(Ok(())), // the file may never have been written
            };
            if let Err(error) = written {
                // No copy is better than an outdated one, which would restart the app in an old version.
                let _ = fs::remove_file(self.file(&name));
                self.pending.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert(text);
                trouble = Some(error);
            }
        }
        if let Some(error) = &trouble
            && !*failed
        {
            tracing::warn!(
                event = "state.trouble", file = %layout::last_good_folder(&self.state).display(), %error,
                "cannot keep copies of the manifests: if the supervisor dies while a manifest is broken, its app is left alone until the manifest is fixed"
            );
        }
        *failed = trouble.is_some();
        !*failed
    }

    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.file(name);
        // After a restart of the supervisor most copies are already there.
        if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(layout::last_good_folder(&self.state))?;
        let new = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(new, path)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn text(copies: &Copies, name: &str) -> Option<String> {
        copies.of(name)?.text.ok()
    }

    async fn written(copies: &Copies, what: impl Fn(&Copies) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !what(copies) {
            assert!(Instant::now() < deadline, "not written: {:?}", copies.folder.pending);
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
            copies.folder.write(); // as if the last writer ran first
            go.send(()).unwrap();
            let _ = busy.await;
            spawn_blocking(|| ()).await.unwrap(); // behind the writers
            assert_eq!(text(&copies, "a"), Some("two".into()));
            assert_eq!(copies.of("b"), None);
        });
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later_and_no_older_copy_stays() {
        let state = tempfile::tempdir().unwrap();
        let mut copies = Copies::open(state.path());
        copies.keep(&[("a", "one"), ("b", "one")], &BTreeSet::new(), true);
        written(&copies, |copies| copies.of("b").is_some()).await;
        let in_the_way = copies.folder.file("a").with_extension("new");
        fs::create_dir(&in_the_way).unwrap();
        copies.keep(&[("a", "two"), ("b", "two")], &BTreeSet::new(), true);
        written(&copies, |copies| copies.of("a").is_none() && text(copies, "b") == Some("two".into())).await;
        fs::remove_dir(&in_the_way).unwrap();
        written(&copies, |copies| text(copies, "a") == Some("two".into())).await;
    }

    #[tokio::test]
    async fn the_next_supervisor_of_the_session_finds_what_was_good() {
        let state = tempfile::tempdir().unwrap();
        let mut copies = Copies::open(state.path());
        copies.keep(&[("a", "one"), ("b", "one")], &BTreeSet::new(), true);
        written(&copies, |copies| copies.of("b").is_some()).await;
        copies.keep(&[("a", "two")], &BTreeSet::from(["b"]), true);
        written(&copies, |copies| text(copies, "a") == Some("two".into())).await;
        let mut next = Copies::open(state.path());
        assert_eq!(text(&next, "a"), Some("two".into()));
        assert_eq!(text(&next, "b"), Some("one".into()), "broken now, and good once");
        next.keep(&[("a", "two"), ("b", "one")], &BTreeSet::new(), true);
        next.keep(&[("a", "two")], &BTreeSet::new(), true);
        written(&next, |copies| copies.of("b").is_none()).await;
        next.forget();
        assert_eq!(Copies::open(state.path()).of("a"), None, "another session");
    }
}
