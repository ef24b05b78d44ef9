//! Two sessions on one home, as two containers that share a volume: one browser at a time uses a profile.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use kasm_void::model::protocol::StateName;

use crate::harness::{FOREVER, Session, alive, kill, until};

/// A session whose browser uses this profile.
fn on(profile: &Path) -> Session {
    let manifest = r#"App(
        command: "${BIN}/web",
        prelaunch: [MakeDir(path: "${PROFILE}"), ClearLocks(dir: "${PROFILE}", kind: Chromium)],
        backoff: Backoff(first: "20ms", factor: 1.0, jitter: 0.0, give_up: Never),
    )"#;
    Session::new().env("PROFILE", &profile.to_string_lossy()).stayer("web").app("web", manifest)
}

/// Waits until the session has been refused the profile once more.
fn refused_again(session: &Session) {
    let count = |session: &Session| session.supervisor_output().matches("is in use by").count();
    let before = count(session);
    until("the profile is refused again", || (count(session) > before).then_some(()));
    assert_eq!(session.lines("web.pids").len(), 0, "no second browser was started");
}

#[test]
fn a_profile_has_one_browser_however_its_session_fares() {
    let home = tempfile::tempdir().expect("a shared home");
    let profile = home.path().join("profile");
    let lock = profile.join("SingletonLock");
    fs::create_dir(&profile).expect("a profile");
    symlink("pod-z-4711", &lock).expect("the lock of a dead container");

    let mut one = on(&profile).start();
    let web = one.pid("web");
    assert!(lock.symlink_metadata().is_err(), "a lock that nobody has claimed is stale");
    symlink("pod-one-32", &lock).expect("the lock of the browser that runs");

    let two = on(&profile).start();
    refused_again(&two);
    two.wait_state("web", StateName::Backoff);
    one.crash_supervisor();
    refused_again(&two);
    one.kill_supervisor();
    refused_again(&two);
    assert!(alive(web) && lock.symlink_metadata().is_ok());
    kill(web);
    two.pid("web");
    assert!(lock.symlink_metadata().is_err());
    drop(one);
}

#[test]
fn a_profile_that_cannot_be_claimed_is_used_as_before() {
    let home = tempfile::tempdir().expect("a home");
    let profile = home.path().join("profile");
    fs::create_dir_all(profile.join("kasm-void.lock")).expect("something in the way");
    let session = on(&profile).start();
    session.pid("web");
}

#[test]
fn a_helper_that_inherited_the_claim_does_not_keep_its_app_from_the_next_start() {
    let home = tempfile::tempdir().expect("a home");
    let body = format!("echo $$ >>\"$DATA/web.pids\"\nsleep 1000 &\n{FOREVER}");
    let session = on(&home.path().join("profile")).program("web", &body).start();
    let first = session.pid("web");
    kill(first);
    session.next_pid("web", first);
}
