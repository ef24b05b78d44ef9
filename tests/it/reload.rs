//! Manifests that change while the session runs: changes are applied, and unchanged apps are not affected.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use kasm_void::model::protocol::{PlanReport, StateName};

use crate::harness::{Session, alive, kill, until};

fn web(argument: &str) -> String {
    format!(r#"App(command: "${{BIN}}/web", args: ["{argument}"], backoff: Backoff(stable_after: "10ms"))"#)
}

fn other(argument: &str) -> String {
    format!(r#"App(command: "${{BIN}}/other", args: ["{argument}"])"#)
}

/// A session with `web` and `other` running, each with the argument `one`.
fn two_apps() -> Session {
    let session =
        Session::new().stayer("web").stayer("other").app("web", &web("one")).app("other", &other("one")).start();
    session.pid("web");
    session.pid("other");
    session
}

/// Waits until `web` was started with this argument.
fn wait_argument(session: &Session, argument: &str) {
    until(&format!("`web` runs with {argument}"), || {
        (session.lines("web.args").last().map(String::as_str) == Some(argument)).then_some(())
    });
}

#[test]
fn a_file_written_in_place_is_applied() {
    let session = two_apps();
    let untouched = session.pid("other");
    session.edit("web", &web("two"));
    wait_argument(&session, "two");
    assert_eq!(session.pid("other"), untouched);
}

#[test]
fn a_file_renamed_over_the_old_one_is_applied() {
    let session = two_apps();
    for argument in ["two", "three"] {
        let new = session.manifests().join(".web.ron.swp");
        fs::write(&new, web(argument)).expect("a new manifest");
        fs::rename(&new, session.manifests().join("web.ron")).expect("rename");
        wait_argument(&session, argument);
    }
}

#[test]
fn a_mounted_config_map_is_applied_when_its_link_is_swapped() {
    let session = Session::new().stayer("web");
    let folder = session.manifests();
    let version = |name: &str, manifest: &str| {
        fs::create_dir(folder.join(name)).expect("a version");
        fs::write(folder.join(name).join("web.ron"), manifest).expect("a manifest");
        symlink(name, folder.join("..data_tmp")).expect("a link");
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("the swap");
    };
    version("..2026_01", &web("one"));
    symlink("..data/web.ron", folder.join("web.ron")).expect("the file's link");
    let session = session.start();
    wait_argument(&session, "one");
    for (name, argument) in [("..2026_02", "two"), ("..2026_03", "three")] {
        version(name, &web(argument));
        wait_argument(&session, argument);
    }
}

#[test]
fn a_folder_removed_and_made_again_is_still_watched() {
    let session = two_apps();
    fs::remove_dir_all(session.manifests()).expect("remove the folder");
    fs::create_dir(session.manifests()).expect("make it again");
    session.edit("web", &web("two"));
    wait_argument(&session, "two");
    session.edit("web", &web("three"));
    wait_argument(&session, "three");
}

#[test]
fn an_edit_that_changes_nothing_restarts_nothing() {
    let session = two_apps();
    let (untouched, changed) = (session.pid("web"), session.pid("other"));
    let same = r#"// a comment
        App(
            backoff: Backoff(stable_after: "10ms"), // another order
            args: ["one",],
            command: "${BIN}/web",
        )"#;
    session.edit("web", same);
    session.edit("other", &other("two"));
    session.next_pid("other", changed);
    session.ok(&["reload"]);
    assert_eq!(session.pid("web"), untouched);
    assert_eq!(session.lines("web.pids").len(), 1);
}

#[test]
fn a_broken_file_keeps_its_last_good_version_and_the_others_apply() {
    let session = two_apps();
    let (web_pid, other_pid) = (session.pid("web"), session.pid("other"));
    session.edit("web", "App(\n    comand: \"/bin/true\",\n)");
    session.edit("other", &other("two"));
    session.next_pid("other", other_pid);

    let app = session.wait("web", "is stale", |app| app.stale.is_some());
    let problem = app.stale.expect("just waited for it");
    assert!(problem.contains("web.ron:2:") && problem.contains("comand"), "{problem}");
    assert_eq!((app.state, app.pid), (StateName::Running, Some(web_pid)));
    let table = session.ok(&["status"]);
    assert!(table.contains("web.ron:2:"), "the problem is not in the table:\n{table}");

    kill(web_pid);
    let back = session.next_pid("web", web_pid);
    assert_eq!(session.lines("web.args"), ["one", "one"]);

    session.edit("web", &web("one"));
    session.wait("web", "is no longer stale", |app| app.stale.is_none());
    assert_eq!(session.pid("web"), back);
}

#[test]
fn a_new_policy_is_applied_to_the_running_app() {
    let session = two_apps();
    let pid = session.pid("web");
    session.edit("web", r#"App(command: "${BIN}/web", args: ["one"], restart: Never)"#);
    session.ok(&["reload"]);
    assert_eq!(session.pid("web"), pid);
    kill(pid);
    session.wait_state("web", StateName::Stopped);
    assert_eq!(session.lines("web.pids").len(), 1);
}

#[test]
fn a_new_file_is_a_new_app() {
    let session = two_apps();
    let before = (session.pid("web"), session.pid("other"));
    fs::copy(session.bin().join("web"), session.bin().join("third")).expect("a third program");
    session.edit("third", r#"App(command: "${BIN}/third")"#);
    until("the third app is known", || session.find("third"));
    session.pid("third");
    assert_eq!((session.pid("web"), session.pid("other")), before);
}

#[test]
fn a_deleted_file_stops_its_app() {
    let session = two_apps();
    let (web_pid, other_pid) = (session.pid("web"), session.pid("other"));
    session.remove("web");
    until("`web` is gone", || session.find("web").is_none().then_some(()));
    assert!(!alive(web_pid));
    assert_eq!(session.pid("other"), other_pid);
}

#[test]
fn a_manual_stop_survives_a_reload() {
    let session = two_apps();
    let changed = session.pid("other");
    session.ok(&["stop", "web"]);
    session.edit("web", &web("two"));
    session.edit("other", &other("two"));
    session.next_pid("other", changed);
    session.ok(&["reload"]);
    assert_eq!(session.find("web").map(|app| app.state), Some(StateName::Stopped));
    assert_eq!(session.lines("web.pids").len(), 1);
}

#[test]
fn an_app_that_is_disabled_stops_and_one_that_is_enabled_starts() {
    let session = two_apps();
    session.edit("web", r#"App(command: "${BIN}/web", args: ["one"], enabled: false)"#);
    session.wait_state("web", StateName::Stopped);
    session.edit("web", &web("one"));
    session.pid("web");
}

#[test]
fn a_later_folder_wins_by_file_name() {
    let session = Session::new().stayer("web").app("web", &web("image"));
    let person = session.root().join("person");
    fs::create_dir(&person).expect("a second folder");
    fs::write(person.join("web.ron"), web("person")).expect("a manifest");
    let session = session.folder(person.clone()).start();
    wait_argument(&session, "person");
    fs::remove_file(person.join("web.ron")).expect("the second manifest");
    wait_argument(&session, "image");
}

#[test]
fn an_app_that_is_down_goes_with_its_manifest() {
    let session = two_apps();
    session.ok(&["stop", "web"]);
    session.remove("web");
    until("nobody knows it any more", || session.find("web").is_none().then_some(()));
    let refused = session.cli(&["start", "web"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
}

#[test]
fn a_plan_tells_what_is_kept_back_and_why() {
    let session = two_apps();
    let calm: PlanReport = serde_json::from_str(&session.ok(&["plan", "--json"])).expect("a PlanReport");
    assert_eq!((calm.steps, calm.unchanged), (vec![], 2));

    session.edit("web", "App(comand: \"/bin/true\")");
    session.wait("web", "is stale", |app| app.stale.is_some());
    let output = session.cli(&["plan", "--json"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    let plan: PlanReport = serde_json::from_str(&output.stdout).expect("a PlanReport");
    let steps: Vec<(char, &str)> = plan.steps.iter().map(|step| (step.sign, step.app.as_str())).collect();
    assert_eq!((steps, plan.unchanged), (vec![('!', "web")], 1));
    assert!(plan.problems.iter().any(|problem| problem.contains("comand")), "{:?}", plan.problems);
}

#[test]
fn a_manifest_that_is_away_for_a_moment_stops_nothing() {
    let session = two_apps();
    let manifest = session.manifests().join("web.ron");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let mut argument = 0;
    // On a busy machine the file may be missing for too long; then try again.
    loop {
        let pid = session.pid("web");
        let away = Instant::now();
        session.remove("web");
        argument += 1;
        let other = session.pid("other");
        session.edit("other", &format!(r#"App(command: "${{BIN}}/other", args: ["{argument}"])"#));
        session.wait("other", "has been seen without the other file", |app| app.pid.is_some_and(|pid| pid != other));
        fs::write(&manifest, &text).expect("the manifest is back");
        if away.elapsed() < Duration::from_millis(900) {
            assert_eq!(session.find("web").and_then(|app| app.pid), Some(pid));
            break;
        }
        session.wait("web", "runs again", |app| app.pid.is_some());
    }
}

#[test]
fn secrets_stay_hidden_when_the_sessions_own_manifest_goes() {
    let session = Session::new()
        .stayer("web")
        .workspace(r#"Workspace(env_hidden: ["URL_LAUNCHER_TOKEN"])"#)
        .app("web", r#"App(command: "${BIN}/web")"#)
        .start();
    let pid = session.pid("web");
    session.remove("workspace");
    until("it is missed", || {
        session.status().problems.iter().any(|problem| problem.contains("manifest is gone")).then_some(())
    });
    assert_eq!(session.pid("web"), pid);
}
