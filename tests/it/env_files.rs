//! Files with variables for an app: read with the manifest, watched, and shown to nobody.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{FOREVER, NOTHING, Session, until};

/// A program that writes down what it was given.
const TELLS: &str = "echo $$ >>\"$DATA/web.pids\"\necho \"$KEY $MODE ${TOKEN-hidden}\" >>\"$DATA/web.env\"\n";

/// A session whose `web` has a file beside its manifest and one in a folder of its own, which is returned.
fn session() -> (Session, PathBuf) {
    let session = Session::new()
        .program("web", &format!("{TELLS}{}", FOREVER))
        .workspace(r#"Workspace(env: {"MODE": "common"}, env_hidden: ["TOKEN"])"#)
        .app("web", r#"App(command: "${BIN}/web", env_files: ["web.env", "${SECRETS}/web.env"])"#);
    let secrets = session.root().join("secrets");
    fs::create_dir(&secrets).expect("a folder of secrets");
    fs::write(session.manifests().join("web.env"), "KEY=none\nMODE=own # not common\nTOKEN=t0ken\n").expect("a file");
    let session = session.env("SECRETS", &secrets.display().to_string());
    (session, secrets.join("web.env"))
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).expect("a new file");
    fs::rename(new, file).expect("in its place");
}

fn wait_for(session: &Session, line: &str) {
    until(&format!("`web` was started with {line}"), || {
        (session.lines("web.env").last().map(String::as_str) == Some(line)).then_some(())
    });
}

#[test]
fn an_app_follows_its_env_files_and_nobody_is_shown_what_is_in_them() {
    let (session, secret) = session();
    replace(&secret, "KEY='s3cr3t one'\n");
    let session = session.start();
    wait_for(&session, "s3cr3t one own hidden");

    replace(&secret, "# the same, written in another way\nexport KEY=\"s3cr3t one\"\n");
    session.ok(&["reload"]);
    assert_eq!(session.lines("web.env").len(), 1, "nothing has changed for the app");

    replace(&secret, "KEY='s3cr3t two'\n");
    wait_for(&session, "s3cr3t two own hidden");

    let pid = session.pid("web");
    replace(&secret, "KEY='s3cr3t three\n");
    let app = session.wait("web", "has a broken file", |app| app.stale.is_some());
    let problem = app.stale.expect("just waited for it");
    assert!(problem.contains("secrets/web.env, line 1: the quote is not closed"), "{problem}");
    assert_eq!(app.pid, Some(pid), "it keeps what it has");

    let told = [session.ok(&["inspect", "web"]), session.ok(&["status"]), session.supervisor_output()].concat();
    assert!(told.contains("KEY"), "inspect names it: {told}");
    assert!(!told.contains("s3cr3t"), "{told}");
    let ledger = fs::read_dir(session.state()).expect("the state folder").flatten().map(|entry| entry.path());
    for file in ledger.filter(|path| path.is_file()) {
        let text = fs::read(&file).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains("s3cr3t"), "{}", file.display());
    }
}

#[test]
fn an_app_waits_for_an_env_file_that_is_missing() {
    let (session, secret) = session();
    let session = session.start();
    let check = session.cli(&["check", &session.manifests().display().to_string()]);
    assert_eq!(check.code, Some(1), "{check:?}");
    assert!(check.stdout.contains("does not exist") && check.stdout.contains("optional: true"), "{check:?}");
    assert_eq!(session.lines("web.env"), NOTHING);

    replace(&secret, "KEY=now\n");
    wait_for(&session, "now own hidden");
}

#[test]
fn an_env_file_that_others_may_write_is_refused() {
    let (session, secret) = session();
    replace(&secret, "KEY=now\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o666)).expect("open to all");
    let session = session.start();
    let problems = session.status().problems.join("\n");
    assert!(problems.contains("may be written by everybody"), "{problems}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("closed");
    wait_for(&session, "now own hidden");
}
