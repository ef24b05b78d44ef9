//! Bad input of every kind: each problem is reported with a fix, and running apps are not affected.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use kasm_void::model::protocol::StateName;

use crate::harness::{Session, until};

/// One good app, and one file for each kind of mistake.
fn among_bad_files() -> Session {
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#);
    let folder = session.manifests();
    fs::write(folder.join("nested.ron"), "(".repeat(10_000)).expect("nested");
    fs::write(folder.join("latin.ron"), b"App(command: \"/bin/caf\xe9\")").expect("latin");
    fs::write(folder.join("empty.ron"), "").expect("empty");
    fs::write(folder.join("field.ron"), "App(\n  command: \"/bin/true\",\n  restrat: Always,\n)").expect("field");
    fs::write(folder.join("type.ron"), "App(command: 7)").expect("type");
    fs::write(folder.join("program.ron"), "App(command: \"/nowhere/program\")").expect("program");
    fs::write(folder.join("cycle.ron"), "App(command: \"/bin/true\", after: [\"cycle\"])").expect("cycle");
    fs::create_dir(folder.join("folder.ron")).expect("a folder with a manifest's name");
    // A sparse file: all zeroes, no disk space.
    fs::File::create(folder.join("big.ron")).and_then(|file| file.set_len(50 << 20)).expect("big");
    let made = Command::new("mkfifo").arg(folder.join("fifo.ron")).status().expect("mkfifo");
    assert!(made.success());
    session.folder("/nowhere/manifests".into())
}

const BAD: &[&str] = &[
    "nested.ron",
    "latin.ron",
    "empty.ron",
    "field.ron",
    "type.ron",
    "program.ron",
    "cycle.ron",
    "big.ron",
    "fifo.ron",
];

#[test]
fn a_session_among_bad_files_runs_the_good_one_and_names_the_others() {
    let session = among_bad_files().start();
    session.pid("web");
    let problems = session.status().problems.join("\n");
    for file in BAD {
        assert!(problems.contains(file), "{file} is not named:\n{problems}");
    }
    assert!(problems.contains("/nowhere/manifests"), "the missing folder is not named:\n{problems}");
}

#[test]
fn bad_files_that_come_later_disturb_nothing() {
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#).start();
    let pid = session.pid("web");
    for (name, text) in [("nested", "(".repeat(10_000)), ("words", "not a manifest".into())] {
        session.edit(name, &text);
        until(&format!("{name}.ron is named"), || {
            session.status().problems.iter().any(|problem| problem.contains(name)).then_some(())
        });
        session.remove(name);
    }
    assert_eq!(session.pid("web"), pid);
}

#[test]
fn check_tells_all_problems_of_all_files_at_once() {
    let session = among_bad_files();
    let folder = session.manifests();
    let output = session.cli(&["check", folder.to_str().expect("UTF-8")]);
    assert_eq!(output.code, Some(1), "{output:?}");
    let said = output.stdout + &output.stderr;
    for file in BAD {
        assert!(said.contains(file), "{file} is not named:\n{said}");
    }
    assert!(said.contains("field.ron:3:3"), "no place:\n{said}");
    assert!(said.contains("restart"), "no way out for `restrat`:\n{said}");
}

#[test]
fn check_of_good_manifests_is_content() {
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#);
    session.ok(&["check", session.manifests().to_str().expect("UTF-8")]);
}

#[test]
fn a_good_check_says_how_many_files_it_read_and_a_missing_folder_is_an_error() {
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#);
    let said = session.ok(&["check", session.manifests().to_str().expect("UTF-8")]);
    assert_eq!(said.trim(), "1 file checked: no problems");
    let missing = session.cli(&["check", "/nowhere/manifests"]);
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!((missing.stdout + &missing.stderr).contains("/nowhere/manifests"));
}

#[test]
fn new_and_check_use_the_folder_that_run_supervises() {
    let session = Session::new().env("XDG_CONFIG_HOME", "");
    session.ok(&["new", "tool", "--", "/bin/true"]);
    assert!(session.home().join(".config/kasm-void/manifests/tool.ron").exists());
    assert_eq!(session.ok(&["check"]).trim(), "1 file checked: no problems");
}

#[test]
fn a_manifest_that_others_may_write_to_starts_nothing() {
    let session = Session::new()
        .stayer("web")
        .stayer("open")
        .app("web", r#"App(command: "${BIN}/web")"#)
        .app("open", r#"App(command: "${BIN}/open")"#);
    let file = session.manifests().join("open.ron");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("chmod");
    let session = session.start();
    session.pid("web");
    let problems = session.status().problems.join("\n");
    assert!(problems.contains("open.ron: may be written by everybody"), "{problems}");
    assert!(session.find("open").is_none_or(|app| app.pid.is_none()));
    let pid = session.pid("web");

    fs::set_permissions(session.manifests(), fs::Permissions::from_mode(0o777)).expect("chmod");
    session.edit("web", r#"App(command: "${BIN}/web", args: ["of somebody else"])"#);
    let refused = session.cli(&["reload"]);
    let said = refused.stdout + &refused.stderr + &session.status().problems.join("\n");
    assert!(said.contains("`chmod o-w` it"), "{said}");
    assert_eq!(session.pid("web"), pid, "its app stays as it is");
    fs::set_permissions(session.manifests(), fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn a_second_instance_on_the_same_state_folder_is_refused() {
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#).start();
    let pid = session.pid("web");
    let output = session.cli(&["run", session.manifests().to_str().expect("UTF-8")]);
    assert_eq!(output.code, Some(1), "{output:?}");
    let state = session.state();
    assert!(output.stderr.contains(state.to_str().expect("UTF-8")), "the folder is not named: {}", output.stderr);
    assert_eq!(session.pid("web"), pid);
    assert_eq!(session.lines("web.pids").len(), 1);
}

#[test]
fn a_state_folder_that_others_may_enter_is_refused() {
    let session = Session::new();
    fs::set_permissions(session.state(), fs::Permissions::from_mode(0o755)).expect("chmod");
    refused(&session);
}

#[test]
fn a_state_folder_of_somebody_else_is_refused() {
    let session = Session::new();
    match chown(session.state(), Some(12_345), Some(12_345)) {
        Ok(()) => refused(&session),
        // Not root: folders of root belong to another user.
        Err(_) => refused(&session.env("KASM_VOID_STATE", "/usr")),
    }
}

#[test]
fn a_state_folder_that_is_a_link_is_refused() {
    let session = Session::new();
    let elsewhere = session.root().join("elsewhere");
    fs::rename(session.state(), &elsewhere).expect("rename");
    std::os::unix::fs::symlink(&elsewhere, session.state()).expect("a link");
    refused(&session);
}

fn refused(session: &Session) {
    let output = session.cli(&["run", session.manifests().to_str().expect("UTF-8")]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("state"), "the state folder is not named: {}", output.stderr);
}

#[test]
fn an_unknown_switch_value_is_a_problem_and_the_default_holds() {
    let session = Session::new()
        .stayer("web")
        .env("LAUNCH_WEB", "maybe")
        .app("web", r#"App(command: "${BIN}/web", enabled: "${LAUNCH_WEB:-1}")"#)
        .start();
    session.pid("web");
    let problems = session.status().problems.join("\n");
    assert!(problems.contains("maybe"), "{problems}");
}

#[test]
fn a_switch_that_is_off_keeps_the_app_down() {
    for value in ["0", "false", "no", "off"] {
        let session = Session::new()
            .stayer("web")
            .env("LAUNCH_WEB", value)
            .app("web", r#"App(command: "${BIN}/web", enabled: "${LAUNCH_WEB:-1}")"#)
            .start();
        let app = session.find("web").expect("a disabled app is listed");
        assert_eq!((app.state, app.run), (StateName::Stopped, 0), "LAUNCH_WEB={value}");
    }
}
