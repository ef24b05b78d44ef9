//! What another program of the same user can learn from the guard, the supervisor, the launcher and PID 1. It may not read
//! their memory, environment or files, and nothing that we do depends on that.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use kasm_void::model::protocol::StateName;

use crate::desktop::alone;
use crate::harness::{FOREVER, Session, binary, environ, finish, not_run, send, until};

const TOKEN: &str = "0123456789abcdef-the-token";

/// A launcher without a browser, on a free port.
fn launcher(port: u16) -> String {
    format!(
        r#"App(
            command: "{}", args: ["nav-shim", "--listen", "127.0.0.1", "--port", "{port}", "--cdp-port", "9"],
            env_secret: ["URL_LAUNCHER_TOKEN", "URL_LAUNCHER_TOKEN_FILE", "VNC_PW"],
            ready: Ready(probe: Http(url: "http://127.0.0.1:{port}/healthz", own: true), within: "30s"),
        )"#,
        binary().display()
    )
}

const HIDDEN: &str = r#"Workspace(env_hidden: ["URL_LAUNCHER_TOKEN", "URL_LAUNCHER_TOKEN_FILE", "VNC_PW"])"#;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// What a program of the same user reads of this process.
fn seen_of(pid: i32) -> Vec<&'static str> {
    let reads = |file: &str| fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|text| !text.is_empty());
    let mut seen: Vec<_> = ["environ", "maps", "auxv"].into_iter().filter(|file| reads(file)).collect();
    seen.extend(fs::File::open(format!("/proc/{pid}/mem")).is_ok().then_some("mem"));
    seen.extend(fs::read_dir(format!("/proc/{pid}/fd")).is_ok().then_some("fd"));
    seen.extend(fs::read_link(format!("/proc/{pid}/exe")).is_ok().then_some("exe"));
    seen
}

/// The HTTP status of a request to open a page.
fn asks(port: u16, token: &str) -> String {
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        "--data",
        r#"{"url":"http://1.1.1.1/"}"#,
    ]);
    curl.args(["--header", &format!("Authorization: Bearer {token}"), &format!("http://127.0.0.1:{port}/open")]);
    finish(curl).stdout
}

#[test]
fn our_processes_cannot_be_looked_into_and_work_all_the_same() {
    alone("privacy::our_processes_cannot_be_looked_into_and_work_all_the_same", || {
        let port = free_port();
        let mut session = Session::new()
            .env("URL_LAUNCHER_TOKEN", TOKEN)
            .workspace(HIDDEN)
            .stayer("web")
            .app("web", r#"App(command: "${BIN}/web", limits: Limits(oom_score_adj: 300))"#)
            .app("launcher", &launcher(port))
            .start();
        let (web, launcher) = (session.pid("web"), session.pid("launcher"));
        for pid in [session.guard_pid(), session.supervisor_pid(), launcher] {
            assert_eq!(seen_of(pid), [""; 0], "{pid}");
        }
        // The app hides nothing, so the look above could see something.
        assert!(seen_of(web).contains(&"environ") && seen_of(web).contains(&"mem"));
        assert!(!environ(web).iter().any(|entry| entry.contains(TOKEN)));
        let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a score");
        assert_eq!((score(web).trim(), score(session.supervisor_pid()).trim()), ("300", "0"));
        assert_eq!((asks(port, TOKEN), asks(port, "wrong")), ("503".into(), "401".into()));

        // A supervisor that may not look into its launcher still knows it.
        session.crash_supervisor();
        assert_eq!((session.pid("web"), session.pid("launcher")), (web, launcher));
        session.kill_guard();
        let guard = session.guarded_again();
        assert_eq!((seen_of(guard), session.pid("launcher")), (vec![], launcher));
        assert_eq!(asks(port, TOKEN), "503");
        session.ok(&["restart", "launcher"]);
        session.wait_state("launcher", StateName::Running);
        assert_eq!(asks(port, TOKEN), "503");
        session.ok(&["drain"]);
    });
}

/// Like KASM's: removes the password from the environment, then starts the session.
const ENTRY: &str = "unset VNC_PW\n\"$KASM_VOID\" run \"$MANIFESTS\" >\"$DATA/log\" 2>&1\n";

#[test]
fn the_password_reaches_the_launcher_through_pid_1_and_no_other_app() {
    alone("privacy::the_password_reaches_the_launcher_through_pid_1_and_no_other_app", || {
        let port = free_port();
        let web = format!("ls -l /proc/self/fd >\"$DATA/open\"\n{FOREVER}");
        let session = Session::new()
            .workspace(HIDDEN)
            .program("web", &web)
            .app("web", r#"App(command: "${BIN}/web")"#)
            .app("launcher", &launcher(port))
            .program("entry", ENTRY);
        let mut init = session.command(binary());
        init.args(["init", "--grace", "20s", "--"]).arg(session.bin().join("entry"));
        init.env("MANIFESTS", session.manifests()).env("KASM_VOID", binary()).env("VNC_PW", TOKEN);
        let mut init = init.spawn().expect("init");
        until("the session is up", || session.try_identity());
        let (web, launcher) = (session.pid("web"), session.pid("launcher"));
        assert_eq!((seen_of(init.id() as i32), seen_of(launcher)), (vec![], vec![]));
        assert_eq!((asks(port, TOKEN), asks(port, "wrong")), ("503".into(), "401".into()));
        let environment = environ(web).join("\n");
        assert!(!environment.contains(TOKEN) && !environment.contains("TOKEN_FILE"), "{environment}");
        let open = session.wait_lines("open", 1).join("\n");
        assert!(!open.contains("memfd"), "{open}");
        // The next supervisor hands it on as the first one did.
        session.ok(&["restart", "launcher"]);
        assert_eq!(asks(port, TOKEN), "503");
        // The session's own user needs no token.
        let opened = session.cli(&["open", "--launcher-port", "9", "http://1.1.1.1/"]);
        assert!(opened.code == Some(1) && opened.stderr.contains("cdp unreachable"), "{opened:?}");
        send(init.id() as i32, rustix::process::Signal::TERM);
        until("init ends", || init.try_wait().expect("wait"));
    });
}

#[test]
fn the_token_is_not_given_to_another_user_who_has_the_port() {
    if !rustix::process::geteuid().is_root() {
        return not_run(
            "privacy::the_token_is_not_given_to_another_user_who_has_the_port",
            "only root has other users",
        );
    }
    let port = free_port().to_string();
    // Through a descriptor, because the other user may not be able to reach the binary's folder.
    let stranger = r#"exec 3<"$KASM_VOID" >"$DATA/heard" 2>&1
        exec setpriv --reuid 65534 --clear-groups /proc/self/fd/3 nav-shim --listen 127.0.0.1 --port "$PORT" --cdp-port 9"#;
    let session = Session::new()
        .env("URL_LAUNCHER_TOKEN", TOKEN)
        .env("KASM_VOID", &binary().to_string_lossy())
        .env("PORT", &port)
        .program("stranger", stranger);
    session.by_hand("stranger");
    let heard = || session.lines("heard").join("\n");
    until("the stranger listens", || heard().contains("ready to open pages").then_some(()));
    let asked = session.cli(&["open", "--launcher-port", &port, "http://1.1.1.1/"]);
    assert!(asked.code == Some(1) && asked.stderr.contains("belongs to uid 65534"), "{asked:?}");
    assert!(
        asks(port.parse().expect("a port"), "another") == "401" && heard().matches("launcher.request").count() == 1,
        "{}",
        heard()
    );
}
