//! Apps that wait for others before they start, and apps that follow others.

use kasm_void::model::protocol::StateName;

use crate::harness::{NOTHING, Session, kill, until};

#[test]
fn an_app_waits_for_the_job_that_must_succeed_first() {
    let session = Session::new()
        .stayer("web")
        .program("migrate", "[ -e \"$DATA/schema\" ]\n")
        .app("migrate", r#"App(command: "${BIN}/migrate", restart: Never)"#)
        .app("web", r#"App(command: "${BIN}/web", after: [After(app: "migrate", until: Succeeded)])"#)
        .start();
    session.wait("web", "says what it waits for", |app| app.detail.contains("it ended: exit code 1"));
    let start = session.cli(&["start", "web"]);
    assert_eq!(start.code, Some(1), "{start:?}");
    assert!(start.stdout.contains("kasm-void why migrate"), "{start:?}");
    let why = session.ok(&["why", "web"]);
    assert!(why.contains("waiting for migrate to succeed"), "{why}");
    assert_eq!(session.lines("web.pids"), NOTHING);

    std::fs::write(session.data().join("schema"), "").expect("a schema");
    session.ok(&["start", "migrate"]);
    session.pid("web");
}

/// Writes `+NAME` when it starts and `-NAME` when it is asked to end. In between, the file `NAME` is there.
fn service(name: &str) -> String {
    format!(
        "trap 'rm \"$DATA/{name}\"; echo -{name} >>\"$DATA/order\"; exit' TERM\n\
         echo +{name} >>\"$DATA/order\"\n>\"$DATA/{name}\"\nwhile :; do sleep .1; done\n"
    )
}

#[test]
fn an_app_that_follows_another_ends_before_it_and_starts_after_it() {
    let web = r#"App(command: "${BIN}/web", after: [After(app: "db", follow: true)])"#;
    let ready = r#"ready: Ready(probe: Path(path: "${DATA}/db"))"#;
    let db = |more: &str| format!(r#"App(command: "${{BIN}}/db", {ready}, {more})"#);
    let session = Session::new()
        .program("db", &service("db"))
        .program("web", &service("web"))
        .app("db", &db(""))
        .app("web", web)
        .start();
    let order = |lines: &[&str]| {
        until("the order is complete", || (session.lines("order").len() >= lines.len()).then_some(()));
        assert_eq!(session.lines("order"), lines);
    };
    let told = ["+db", "+web", "-web", "-db", "+db", "+web", "-web", "-db", "+db", "+web"];
    order(&told[..2]);
    session.ok(&["restart", "db"]);
    order(&told[..6]);
    session.pid("web");
    session.edit("db", &db(r#"args: ["--new"]"#));
    order(&told);
    let old = session.pid("web");
    kill(session.pid("db"));
    session.next_pid("web", old);
    let crashed = session.lines("order");
    assert!(crashed[10..].contains(&"-web".to_string()), "{crashed:?}");

    session.ok(&["stop", "db"]);
    let web = session.wait("web", "waits for db", |app| app.detail.contains("which is stopped (by hand)"));
    assert_eq!((web.state, web.pid), (StateName::Starting, None));
    session.ok(&["start", "db"]);
    session.pid("web");
}
