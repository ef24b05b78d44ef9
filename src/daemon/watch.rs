//! Reports when something in the manifest folders, or in files that manifests name, may have changed. Owns the choice of watched folders, the settling of
//! bursts, and the polling where inotify is unavailable or unreliable. Must not read a manifest or judge a change: a
//! false alarm costs one comparison, a missed change costs a reload.
//!
//! A watch follows an inode, not a path. It reports nothing once its folder was replaced, and nothing about a link that
//! was re-pointed. So each folder is watched together with its parent, each link on the way through the folder that
//! holds it, and a missing folder through its nearest existing ancestor. All of that is worked out again after every
//! change. A grandparent that is renamed, or covered by a mount, is not noticed.
//!
//! An idle watch costs nothing. If a parent is busy with other files, that wakes notify's thread, which drops the
//! event; the loop is not woken.

mod poll;
mod route;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep, timeout_at};

use poll::{fingerprint, untrusted};
use route::{Identities, Interests, Route, concerns};

/// A burst of changes ends after this much silence: its writer may not have finished, or a deleted file may be written
/// again.
const SETTLE: Duration = Duration::from_millis(100);
/// The same after an event that says that the writer has finished: a file was closed, or renamed into its place. Long
/// enough for the next file of the same `cp`. A writer that pauses longer between two files is applied in two parts.
const SETTLE_FINISHED: Duration = Duration::from_millis(10);
/// A burst that does not end is reported after this time.
const SETTLE_CAP: Duration = Duration::from_secs(2);
/// How often to check the folders if inotify does not help.
const POLL: Duration = Duration::from_secs(2);
/// How often to retry at once if folders are swapped while watches are set up.
const MAX_AIMS: usize = 8;

/// Watches until dropped.
pub struct Watch {
    changes: mpsc::Receiver<()>,
    task: JoinHandle<()>,
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
    dirty: Arc<Dirty>,
    watching: Arc<Mutex<Watching>>,
}

/// Watches `folders`, which need not exist. Every change after this returns is reported, so start before the first
/// load. Needs a tokio runtime.
pub fn start(folders: Vec<PathBuf>) -> Watch {
    start_with(folders, notify::recommended_watcher)
}

impl Watch {
    /// Returns once something may have changed since the last call, and the burst has settled. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The task ends only if it panics, which was reported. The loop's other work continues.
            std::future::pending::<()>().await;
        }
    }

    /// Watches these files too, which need not exist, and no other files outside the folders. If they are new, they count
    /// as changed: they may have been, before they were watched.
    pub fn also(&self, files: &BTreeSet<PathBuf>) {
        let mut watched = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if *watched != *files {
            watched.clone_from(files);
            self.dirty.set(true);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
        // On another thread, because it waits for notify's.
        let watching = Arc::clone(&self.watching);
        spawn_blocking(move || watching.lock().unwrap_or_else(PoisonError::into_inner).end());
    }
}

type Handler = Box<dyn FnMut(notify::Result<Event>) + Send>;
type Open = fn(Handler) -> notify::Result<RecommendedWatcher>;

fn start_with(folders: Vec<PathBuf>, open: Open) -> Watch {
    let (tell, changes) = mpsc::channel(1);
    let lookout = Lookout::new(folders, open);
    let (files, dirty) = (Arc::clone(&lookout.files), Arc::clone(&lookout.dirty));
    let watching = Arc::clone(&lookout.watching);
    Watch { changes, task: tokio::spawn(follow(lookout, tell)), files, dirty, watching }
}

async fn follow(mut lookout: Lookout, tell: mpsc::Sender<()>) {
    let dirty = Arc::clone(&lookout.dirty);
    loop {
        if lookout.polls() {
            tokio::select! {
                () = dirty.wakes.notified() => settle(&dirty).await,
                () = sleep(POLL) => {}
            }
        } else {
            dirty.wakes.notified().await;
            settle(&dirty).await;
        }
        let before = lookout.seen;
        let Ok(aimed) = spawn_blocking(move || lookout.aimed()).await else { return };
        lookout = aimed;
        // Report only after the new watches are set: earlier changes are part of the load that follows.
        if before.is_none() || before != lookout.seen {
            // A full channel already holds a pending change, which stands for this one too.
            let _ = tell.try_send(());
        }
    }
}

async fn settle(dirty: &Dirty) {
    let cap = Instant::now() + SETTLE_CAP;
    loop {
        let now = Instant::now();
        let quiet = (now + dirty.silence()).min(cap);
        if now >= cap || timeout_at(quiet, dirty.wakes.notified()).await.is_err() {
            return;
        }
    }
}

/// Something may have changed.
#[derive(Default)]
struct Dirty {
    wakes: Notify,
    /// The last event said that its writer has finished.
    finished: AtomicBool,
}

impl Dirty {
    fn set(&self, finished: bool) {
        self.finished.store(finished, Ordering::Relaxed);
        self.wakes.notify_one();
    }

    /// The silence after which the burst is over.
    fn silence(&self) -> Duration {
        if self.finished.load(Ordering::Relaxed) { SETTLE_FINISHED } else { SETTLE }
    }
}

/// The watches.
#[derive(Default)]
struct Watching {
    watcher: Option<RecommendedWatcher>,
    /// The folders watched now.
    folders: Identities,
    ended: bool,
}

impl Watching {
    /// Removes all watches, for good. To close an inotify instance that has one takes the kernel 5 to 20 ms.
    fn end(&mut self) {
        self.ended = true;
        let Some(watcher) = &mut self.watcher else { return };
        for folder in std::mem::take(&mut self.folders).into_keys() {
            let _ = watcher.unwatch(&folder); // fails if the watch was removed together with its folder
        }
    }
}

/// The watches and their purpose.
struct Lookout {
    folders: Vec<PathBuf>,
    /// Single files that are watched too.
    files: Arc<Mutex<BTreeSet<PathBuf>>>,
    open: Open,
    watching: Arc<Mutex<Watching>>,
    interests: Arc<Mutex<Interests>>,
    dirty: Arc<Dirty>,
    /// The fingerprint of the folders. Only set while polling.
    seen: Option<u64>,
    warned: bool,
}

impl Lookout {
    fn new(folders: Vec<PathBuf>, open: Open) -> Self {
        let folders =
            folders.iter().map(|folder| std::path::absolute(folder).unwrap_or_else(|_| folder.clone())).collect();
        let lookout = Lookout {
            folders,
            files: Arc::default(),
            open,
            watching: Arc::default(),
            interests: Arc::default(),
            dirty: Arc::default(),
            seen: None,
            warned: false,
        };
        lookout.aimed()
    }

    fn polls(&self) -> bool {
        self.seen.is_some()
    }

    /// Sets watches on what exists now, and polls if they do not suffice.
    fn aimed(mut self) -> Self {
        let mut lack = self.open_watcher().err();
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut route = Route::to(&self.folders, &files);
        for _ in 0..MAX_AIMS {
            if lack.is_none() {
                lack = self.aim(&route).err();
            }
            let now = Route::to(&self.folders, &files);
            if now == route {
                break;
            }
            // Something was swapped between reading the folders and watching them.
            route = now;
            self.dirty.set(false);
        }
        let lack = lack.or_else(|| route.found.iter().find_map(|found| untrusted(found)));
        self.seen = lack.is_some().then(|| fingerprint(&self.folders, &files));
        self.warn_once(lack);
        self
    }

    fn open_watcher(&self) -> Result<(), String> {
        let mut watching = self.watching();
        if watching.watcher.is_some() {
            return Ok(());
        }
        let (interests, dirty) = (Arc::clone(&self.interests), Arc::clone(&self.dirty));
        let handler = move |event| {
            if stirs(&interests.lock().unwrap_or_else(PoisonError::into_inner), &event) {
                dirty.set(event.as_ref().is_ok_and(finishes));
            }
        };
        watching.watcher = Some((self.open)(Box::new(handler)).map_err(|error| refused(&error))?);
        Ok(())
    }

    fn aim(&self, route: &Route) -> Result<(), String> {
        self.interests.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&route.interests);
        let Watching { watcher: Some(watcher), folders, ended: false } = &mut *self.watching() else { return Ok(()) };
        for (path, id) in std::mem::take(folders) {
            if route.ids.get(&path) != Some(&id) {
                // Fails if the watch was removed together with its folder.
                let _ = watcher.unwatch(&path);
            }
        }
        let mut result = Ok(());
        // Watch all of them, not only new ones: a recreated folder may get the same inode number.
        for (path, id) in &route.ids {
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    folders.insert(path.clone(), *id);
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => result = Err(format!("`{}`: {}", path.display(), refused(&error))),
            }
        }
        result
    }

    fn watching(&self) -> MutexGuard<'_, Watching> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn_once(&mut self, lack: Option<String>) {
        if let Some(reason) = lack
            && !self.warned
        {
            self.warned = true;
            tracing::warn!(
                event = "watch.polling",
                reason,
                "cannot watch the manifest folders; checking them every 2 s"
            );
        }
    }
}

/// Whether an event matters. A read does not: we read the files ourselves.
fn stirs(interests: &Interests, event: &notify::Result<Event>) -> bool {
    let Ok(event) = event else { return true };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(|path| concerns(interests, path))
}

/// Whether the writer of a file has finished with it.
fn finishes(event: &Event) -> bool {
    matches!(
        event.kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))
    )
}

fn is_gone(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        }
        _ => false,
    }
}

fn refused(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => "inotify watches are used up: raise fs.inotify.max_user_watches".into(),
        notify::ErrorKind::Io(error) if error.raw_os_error() == Some(libc::EMFILE) => {
            "inotify instances are used up: raise fs.inotify.max_user_instances".into()
        }
        _ => format!("inotify refuses: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, create_dir_all, read_dir, remove_dir_all, remove_file, rename, write};
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    use tokio::time::timeout;

    use super::*;

    /// A watched folder `m` inside a temporary folder.
    struct Ground {
        dir: tempfile::TempDir,
        watch: Watch,
    }

    impl Ground {
        fn new(prepare: impl FnOnce(&Path)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            prepare(dir.path());
            let watch = start(vec![dir.path().join("m")]);
            Ground { dir, watch }
        }

        fn with_file() -> Self {
            Ground::new(|dir| {
                create_dir(dir.join("m")).unwrap();
                write(dir.join("m/a.ron"), "1").unwrap();
            })
        }

        fn at(&self, path: &str) -> PathBuf {
            self.dir.path().join(path)
        }

        async fn told(&mut self) {
            timeout(Duration::from_secs(20), self.watch.changed()).await.expect("a change was not told");
        }

        async fn calm(&mut self) {
            while !self.silent().await {}
        }

        /// Whether nothing is reported for a while, which is longer than the settling, so that a stray event is seen.
        async fn silent(&mut self) -> bool {
            timeout(SETTLE * 5, self.watch.changed()).await.is_err()
        }

        /// Checks that the change is reported, and so is the next one in the folder that exists then.
        async fn told_and_still_watched(&mut self) {
            self.told().await;
            self.still_watched().await;
        }

        async fn still_watched(&mut self) {
            self.calm().await;
            write(self.at("m/next.ron"), "next").unwrap();
            self.told().await;
        }
    }

    /// Whether this process has an inotify watch on the folder.
    fn is_watched(folder: &Path) -> bool {
        let inode = std::fs::metadata(folder).unwrap().ino();
        let watch = format!("ino:{inode:x} ");
        let instances = read_dir("/proc/self/fdinfo").unwrap().flatten();
        instances.filter_map(|fd| std::fs::read_to_string(fd.path()).ok()).any(|text| text.contains(&watch))
    }

    #[tokio::test]
    async fn a_watch_that_ends_leaves_no_work_for_the_exit() {
        let Ground { dir, watch } = Ground::with_file();
        let folders = [dir.path().to_owned(), dir.path().join("m")];
        assert!(folders.iter().all(|folder| is_watched(folder)));
        drop(watch);
        let gone = async {
            while folders.iter().any(|folder| is_watched(folder)) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), gone).await.expect("a watch is left");
    }

    #[tokio::test]
    async fn a_file_written_in_place_is_told() {
        let mut ground = Ground::with_file();
        write(ground.at("m/a.ron"), "2").unwrap();
        ground.told_and_still_watched().await;
    }

    #[tokio::test]
    async fn a_file_renamed_over_is_told_each_time() {
        let mut ground = Ground::with_file();
        for _ in 0..2 {
            write(ground.at("new"), "2").unwrap();
            rename(ground.at("new"), ground.at("m/a.ron")).unwrap();
            ground.told().await;
            ground.calm().await;
        }
    }

    #[tokio::test]
    async fn new_and_deleted_files_are_told() {
        let mut ground = Ground::with_file();
        write(ground.at("m/b.ron"), "").unwrap();
        ground.told().await;
        ground.calm().await;
        remove_file(ground.at("m/b.ron")).unwrap();
        ground.told_and_still_watched().await;
    }

    #[tokio::test]
    async fn a_config_map_swap_is_told_each_time() {
        let mut ground = Ground::new(|dir| {
            create_dir_all(dir.join("m/..v1")).unwrap();
            write(dir.join("m/..v1/a.ron"), "1").unwrap();
            symlink("..v1", dir.join("m/..data")).unwrap();
            symlink("..data/a.ron", dir.join("m/a.ron")).unwrap();
        });
        for version in 2..4 {
            create_dir(ground.at(&format!("m/..v{version}"))).unwrap();
            write(ground.at(&format!("m/..v{version}/a.ron")), "2").unwrap();
            symlink(format!("..v{version}"), ground.at("m/..tmp")).unwrap();
            rename(ground.at("m/..tmp"), ground.at("m/..data")).unwrap();
            remove_dir_all(ground.at(&format!("m/..v{}", version - 1))).unwrap();
            ground.told().await;
            ground.calm().await;
        }
        ground.still_watched().await;
    }

    #[tokio::test]
    async fn a_folder_removed_and_made_again_is_watched_again() {
        let mut ground = Ground::with_file();
        remove_dir_all(ground.at("m")).unwrap();
        ground.told().await;
        ground.calm().await;
        create_dir(ground.at("m")).unwrap();
        ground.told_and_still_watched().await;
    }

    #[tokio::test]
    async fn a_folder_removed_and_made_again_at_once_is_watched_again() {
        let mut ground = Ground::with_file();
        remove_dir_all(ground.at("m")).unwrap();
        create_dir(ground.at("m")).unwrap();
        ground.told_and_still_watched().await;
    }

    #[tokio::test]
    async fn a_folder_replaced_by_another_is_watched_again() {
        let mut ground = Ground::with_file();
        create_dir(ground.at("other")).unwrap();
        rename(ground.at("m"), ground.at("old")).unwrap();
        rename(ground.at("other"), ground.at("m")).unwrap();
        ground.told_and_still_watched().await;
        ground.calm().await;
        write(ground.at("old/a.ron"), "2").unwrap();
        assert!(ground.silent().await, "the folder renamed away is nobody's business");
    }

    #[tokio::test]
    async fn a_link_pointed_elsewhere_is_told_and_its_target_watched() {
        let mut ground = Ground::new(|dir| {
            create_dir_all(dir.join("far/one")).unwrap();
            create_dir_all(dir.join("far/two")).unwrap();
            symlink("far/one", dir.join("m")).unwrap();
        });
        write(ground.at("far/one/a.ron"), "1").unwrap();
        ground.told().await;
        ground.calm().await;
        symlink("far/two", ground.at("new")).unwrap();
        rename(ground.at("new"), ground.at("m")).unwrap();
        ground.told_and_still_watched().await;
    }

    #[tokio::test]
    async fn a_missing_folder_is_watched_for() {
        let mut ground = Ground::new(|_| ());
        create_dir(ground.at("m")).unwrap();
        ground.told_and_still_watched().await;
    }

    #[tokio::test]
    async fn a_folder_whose_parents_are_missing_is_watched_for() {
        let dir = tempfile::tempdir().unwrap();
        let watch = start(vec![dir.path().join("a/b/m")]);
        let mut ground = Ground { dir, watch };
        create_dir_all(ground.at("a/b/m")).unwrap();
        ground.told().await;
        ground.calm().await;
        write(ground.at("a/b/m/a.ron"), "").unwrap();
        ground.told().await;
    }

    #[tokio::test]
    async fn a_linked_manifest_edited_where_it_lies_is_told() {
        let mut ground = Ground::new(|dir| {
            create_dir_all(dir.join("m")).unwrap();
            create_dir_all(dir.join("dotfiles")).unwrap();
            write(dir.join("dotfiles/a.ron"), "1").unwrap();
            symlink("../dotfiles/a.ron", dir.join("m/a.ron")).unwrap();
        });
        write(ground.at("dotfiles/a.ron"), "2").unwrap();
        ground.told().await;
        ground.calm().await;
        write(ground.at("dotfiles/b.ron"), "2").unwrap();
        assert!(ground.silent().await, "its neighbours are nobody's business");
    }

    #[tokio::test]
    async fn a_file_elsewhere_is_watched_while_it_is_named() {
        let mut ground = Ground::with_file();
        let file = ground.at("secrets/app.env");
        ground.watch.also(&BTreeSet::from([file.clone()]));
        ground.told().await;
        ground.calm().await;
        create_dir(ground.at("secrets")).unwrap();
        write(&file, "A=1").unwrap();
        ground.told().await;
        ground.calm().await;
        write(ground.at("new"), "A=2").unwrap();
        rename(ground.at("new"), &file).unwrap();
        ground.told().await;
        ground.calm().await;
        write(ground.at("secrets/other.env"), "A=2").unwrap();
        assert!(ground.silent().await, "its neighbours are nobody's business");
        ground.watch.also(&BTreeSet::new());
        ground.told().await;
        ground.calm().await;
        write(&file, "A=3").unwrap();
        assert!(ground.silent().await, "no manifest names it any more");
    }

    #[tokio::test]
    async fn a_busy_parent_and_a_reader_wake_nobody() {
        let mut ground = Ground::with_file();
        for i in 0..200 {
            write(ground.at(&format!("noise{}", i % 7)), "noise").unwrap();
            let _ = std::fs::read(ground.at("m/a.ron")).unwrap();
            let _ = read_dir(ground.at("m")).unwrap().count();
        }
        assert!(ground.silent().await);
        ground.still_watched().await;
    }

    #[tokio::test]
    async fn a_burst_is_told_in_few_words() {
        let mut ground = Ground::with_file();
        for i in 0..500 {
            write(ground.at(&format!("m/{i}.ron")), "x").unwrap();
        }
        let mut times = 0;
        while !ground.silent().await {
            times += 1;
        }
        // A busy machine may pause between two writes for longer than a burst does.
        assert!((1..=100).contains(&times), "500 writes were told {times} times");
    }

    #[tokio::test(start_paused = true)]
    async fn changes_that_never_end_are_told_at_the_cap() {
        let dirty = Arc::new(Dirty::default());
        let noise = tokio::spawn({
            let dirty = Arc::clone(&dirty);
            async move {
                loop {
                    dirty.set(false);
                    sleep(SETTLE / 2).await;
                }
            }
        });
        let start = Instant::now();
        settle(&dirty).await;
        noise.abort();
        assert_eq!(start.elapsed(), SETTLE_CAP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_finished_change_is_told_sooner_than_one_that_may_go_on() {
        for (events, silence) in [
            (vec![true], SETTLE_FINISHED),
            (vec![false], SETTLE),
            (vec![false, true], SETTLE_FINISHED),
            (vec![true, false], SETTLE),
        ] {
            let dirty = Dirty::default();
            events.iter().for_each(|finished| dirty.set(*finished));
            dirty.wakes.notified().await;
            let start = Instant::now();
            settle(&dirty).await;
            assert_eq!(start.elapsed(), silence, "{events:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_inotify_the_folders_are_polled() {
        let dir = tempfile::tempdir().unwrap();
        let refuse: Open = |_| Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
        let mut watch = start_with(vec![dir.path().to_owned()], refuse);
        assert!(timeout(POLL * 3, watch.changed()).await.is_err(), "nothing changed");
        write(dir.path().join("a.ron"), "").unwrap();
        timeout(POLL * 3, watch.changed()).await.expect("the poll missed a new file");
        write(dir.path().join("a.ron"), "longer").unwrap();
        timeout(POLL * 3, watch.changed()).await.expect("the poll missed a change");
        let elsewhere = tempfile::tempdir().unwrap();
        watch.also(&BTreeSet::from([elsewhere.path().join("app.env")]));
        timeout(POLL * 3, watch.changed()).await.expect("the poll missed a new name");
        write(elsewhere.path().join("app.env"), "A=1").unwrap();
        timeout(POLL * 3, watch.changed()).await.expect("the poll missed a file elsewhere");
    }

    #[test]
    fn errors_and_lost_events_are_changes() {
        let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert!(stirs(&Interests::new(), &Ok(overflow)));
        assert!(stirs(&Interests::new(), &Err(notify::Error::generic("lost"))));
    }

    #[test]
    fn links_in_a_circle_end() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let route = Route::to(&[dir.path().join("a")], &BTreeSet::new());
        assert!(route.found.is_empty());
        assert!(concerns(&route.interests, &dir.path().join("b")));
    }
}
