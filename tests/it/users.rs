//! A supervisor of root starts apps as their own users, and acts as these users for them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use kasm_void::model::protocol::StateName;

use crate::harness::{FOREVER, Session, alive, kill, not_run};

/// The user `nobody` and the group `daemon`, which every Linux has under these numbers.
const NOBODY: u32 = 65534;
const DAEMON: u32 = 1;

/// A session of root into which other users may look.
fn open_session() -> Session {
    let session = Session::new();
    let open = |path: &std::path::Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    open(session.root(), 0o711);
    open(&session.data(), 0o777);
    open(&session.data().join("never"), 0o666);
    session
}

fn as_root(story: &str, tell: impl FnOnce()) {
    match rustix::process::geteuid().is_root() {
        true => tell(),
        false => not_run(story, "it needs root"),
    }
}

#[test]
fn an_app_and_its_hooks_run_as_its_user() {
    as_root("users::an_app_and_its_hooks_run_as_its_user", || {
        let web = r#"{ id -u; id -g; id -G; umask; ulimit -Sn; ulimit -Hn; ulimit -Hc; pwd; } >"$DATA/web.who"
echo "$HOME $USER $LOGNAME ${SHELL##*/}" >>"$DATA/web.who"
echo $$ >>"$DATA/web.pids"
echo hello
"#;
        let manifest = r#"App(
            command: "${BIN}/web",
            user: "nobody",
            group: "daemon",
            umask: "0027",
            rlimits: Rlimits(nofile: "512:600", core: 0),
            env: { "LOGNAME": "own" },
            cwd: "${DATA}/made",
            prelaunch: [MakeDir(path: "${DATA}/made"), Run(argv: ["${BIN}/hook"])],
        )"#;
        let session = open_session()
            .program("web", &format!("{web}{FOREVER}"))
            .program("hook", "id -u >\"$DATA/hook.who\"\n")
            .app("web", manifest)
            .start();
        let pid = session.pid("web");
        session.wait_lines("web.pids", 1);
        let made = session.data().join("made");
        let who = session.lines("web.who");
        assert_eq!(who[..7], ["65534", "1", "1", "0027", "512", "600", "0"]);
        assert_eq!(who[7..], [made.display().to_string(), "/nonexistent nobody own nologin".into()]);
        assert_eq!(session.lines("hook.who"), ["65534"]);
        let owner = |name: &str| fs::metadata(session.data().join(name)).map(|file| (file.uid(), file.gid()));
        assert_eq!(owner("made").expect("made by the hook"), (NOBODY, DAEMON));
        let file = fs::metadata(session.data().join("web.pids")).expect("made by the app");
        assert_eq!((file.uid(), file.mode() & 0o777), (NOBODY, 0o640));
        let told = session.ok(&["inspect", "web"]);
        assert!(told.contains("nobody, group daemon") && told.contains("umask 0027"), "{told}");

        session.crash_supervisor();
        assert_eq!(session.pid("web"), pid, "the next supervisor knows it");
        assert!(session.ok(&["logs", "web"]).contains("hello"));
        kill(pid);
        let next = session.next_pid("web", pid);
        session.ok(&["stop", "web"]);
        assert!(!alive(next));
    });
}

#[test]
fn an_app_whose_user_is_missing_is_not_started_as_another() {
    as_root("users::an_app_whose_user_is_missing_is_not_started_as_another", || {
        let session = open_session()
            .stayer("web")
            .app("web", r#"App(command: "${BIN}/web", user: "no-such-user", backoff: Backoff(first: "1h", max: "1h"))"#)
            .start();
        session.wait_state("web", StateName::Backoff);
        let why = session.ok(&["why", "web"]);
        assert!(why.contains("there is no user `no-such-user` on this machine"), "{why}");
        assert_eq!(session.lines("web.pids"), crate::harness::NOTHING);
        let check = session.cli(&["check", &session.manifests().display().to_string()]);
        assert_eq!(check.code, Some(0), "a warning: {check:?}");
        assert!(check.stdout.contains("there is no user `no-such-user`"), "{check:?}");
    });
}

#[test]
fn a_database_its_migration_and_its_server_start_in_order_each_as_its_user_with_its_settings() {
    as_root("users::a_database_its_migration_and_its_server_start_in_order_each_as_its_user_with_its_settings", || {
        let tells = "echo \"${0##*/} $(id -u) $(id -g) $SETTING\" >>\"$DATA/order\"\n";
        let session = open_session();
        let order = session.data().join("order");
        fs::write(&order, "").expect("a file that all of them write to");
        fs::set_permissions(&order, Permissions::from_mode(0o666)).expect("chmod");
        let write = |name: &str, text: &str| fs::write(session.manifests().join(name), text).expect("a file");
        write("db.env", "SETTING=tables\n");
        write("server.env", "SETTING='port 80' # no longer 8080\n");
        let session = session
            .program("db", &format!("{tells}: >\"$DATA/up\"\n{FOREVER}"))
            .program("migrate", &format!("{tells}[ -e \"$DATA/up\" ]\n"))
            .program("server", &format!("{tells}{FOREVER}"))
            .app(
                "db",
                r#"App(command: "${BIN}/db", user: "nobody", group: "daemon", env_files: ["db.env"],
                    prelaunch: [Remove(path: "${DATA}/up")],
                    ready: Ready(probe: Path(path: "${DATA}/up"), within: "30s"))"#,
            )
            .start();
        session.wait_state("db", StateName::Running);
        session.edit(
            "server",
            r#"App(command: "${BIN}/server", user: "daemon", env_files: ["server.env"],
                after: [After(app: "migrate", until: Succeeded), After(app: "db", follow: true)])"#,
        );
        session.edit(
            "migrate",
            r#"App(command: "${BIN}/migrate", user: "nobody", env_files: ["db.env"], restart: Never,
                after: [After(app: "db")])"#,
        );
        session.ok(&["reload"]);
        let server = session.pid("server");
        session.wait_state("server", StateName::Running);
        let order = ["db 65534 1 tables", "migrate 65534 65534 tables", "server 1 1 port 80"];
        assert_eq!(session.wait_lines("order", 3), order);

        session.ok(&["restart", "db"]);
        session.next_pid("server", server);
        assert_eq!(session.wait_lines("order", 5)[3..], [order[0], order[2]], "the migration was done before");
    });
}

#[test]
fn a_terminal_belongs_to_the_user_of_its_app() {
    as_root("users::a_terminal_belongs_to_the_user_of_its_app", || {
        let shell = r#"echo "$(id -u) $(stat -c %u "$(tty)") $HOME" >"$DATA/shell.who"
trap 'echo ends; exit' TERM
echo $$ >>"$DATA/shell.pids"
while read -r line <>"$DATA/never"; do echo "$line"; done
"#;
        let session = open_session()
            .program("shell", shell)
            .app("shell", r#"App(command: "${BIN}/shell", user: "nobody", pty: true)"#)
            .start();
        let leader = session.pid("shell");
        let program: i32 = session.wait_lines("shell.pids", 1)[0].parse().expect("a pid");
        assert_eq!(session.lines("shell.who"), ["65534 65534 /nonexistent"]);
        let owner = |pid: i32| fs::metadata(format!("/proc/{pid}")).map(|process| process.uid());
        assert_eq!((owner(leader).ok(), owner(program).ok()), (Some(NOBODY), Some(NOBODY)));

        session.crash_supervisor();
        assert_eq!(session.pid("shell"), leader, "the next supervisor knows it");
        session.ok(&["stop", "shell"]);
        assert!(!alive(leader) && !alive(program));
        assert!(session.ok(&["logs", "shell"]).contains("ends"));
    });
}

#[test]
fn a_program_that_its_user_may_not_execute_is_not_put_on_a_terminal() {
    as_root("users::a_program_that_its_user_may_not_execute_is_not_put_on_a_terminal", || {
        let session = open_session().program("own", FOREVER);
        fs::set_permissions(session.bin().join("own"), Permissions::from_mode(0o700)).expect("chmod");
        let backoff = r#"backoff: Backoff(first: "1h", max: "1h")"#;
        let session = session
            .app("own", &format!(r#"App(command: "${{BIN}}/own", user: "nobody", pty: true, {backoff})"#))
            .start();
        session.wait_state("own", StateName::Backoff);
        let why = session.ok(&["why", "own"]);
        assert!(why.contains("may not be executed by this user"), "{why}");
    });
}
