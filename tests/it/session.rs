//! A session from start to end: order, environment, secrets, and Ctrl-C.

use std::time::Duration;

use kasm_void::model::protocol::StateName;

use crate::harness::{DEADLINE, FOREVER, NOBODY, Session, binary, environ, finish, until};

#[test]
fn ctrl_c_leaves_no_process() {
    let mut session = Session::new()
        .stayer("web")
        .stayer("helper")
        .program("deaf", &format!("trap '' TERM INT HUP\n(setsid \"$BIN/helper\" &)\n: >\"$DATA/deaf\"\n{FOREVER}"))
        .app("web", r#"App(command: "${BIN}/web")"#)
        .app("deaf", r#"App(command: "${BIN}/deaf", stop: Stop(grace: "200ms"), ready: Ready(probe: Path(path: "${DATA}/deaf")))"#)
        .start();
    session.pid("web");
    session.pid("deaf");
    let (status, _) = session.interrupt();
    assert_eq!(status.code(), Some(0), "{}", session.supervisor_output());
    assert_eq!(session.processes(), NOBODY);
}

#[test]
fn what_people_edit_in_the_built_in_session_survives_ctrl_c() {
    // None of its programs is found.
    let mut session = Session::new().env("XDG_CONFIG_HOME", "").env("PATH", "/nowhere").stayer("web");
    let folder = session.home().join(".config/kasm-void/manifests");
    std::fs::create_dir_all(&folder).expect("the folder of the session");
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/desktop")).expect("the tree") {
        let file = file.expect("a file of it");
        std::fs::copy(file.path(), folder.join(file.file_name())).expect("a copy");
    }
    session.start_supervisor_on_its_own_folder();
    let terminal = folder.join("terminal.ron");
    let edited = std::fs::read_to_string(&terminal).expect("a manifest") + "// mine\n";
    std::fs::write(&terminal, &edited).expect("an edit in place");
    std::fs::write(folder.join("web.ron"), r#"App(command: "${BIN}/web")"#).expect("an app of their own");
    std::fs::remove_file(folder.join("status.ron")).expect("an app that they do not want");
    session.pid("web");
    let (status, _) = session.interrupt();
    assert_eq!(status.code(), Some(0), "{}", session.supervisor_output());
    let as_left = || {
        assert_eq!(std::fs::read_to_string(&terminal).expect("the edited manifest"), edited);
        assert!(folder.join("web.ron").exists() && !folder.join("status.ron").exists());
    };
    as_left();
    session.start_supervisor_on_its_own_folder();
    session.pid("web");
    as_left();
}

#[test]
fn a_drain_ends_within_its_budget_whatever_the_apps_do() {
    let mut session = Session::new()
        .workspace(r#"Workspace(stop_budget: "1s")"#)
        .program("deaf", &format!("trap '' TERM INT HUP\n: >\"$DATA/deaf\"\n{FOREVER}"))
        .app(
            "deaf",
            r#"App(command: "${BIN}/deaf", stop: Stop(grace: "10m"), ready: Ready(probe: Path(path: "${DATA}/deaf")))"#,
        )
        .start();
    session.pid("deaf");
    let (status, took) = session.interrupt();
    assert_eq!(status.code(), Some(0), "{}", session.supervisor_output());
    assert!(took >= Duration::from_secs(1) && took < DEADLINE, "{took:?}");
    assert_eq!(session.processes(), NOBODY);
}

#[test]
fn the_drain_verb_ends_the_session() {
    let mut session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#).start();
    session.pid("web");
    session.ok(&["drain"]);
    assert_eq!(session.processes(), NOBODY);
    assert_eq!(session.wait_end().code(), Some(0));
}

#[test]
fn apps_start_in_order_once_the_one_before_is_ready() {
    let session = Session::new()
        .program("display", &format!("sleep 0.3\necho display >>\"$DATA/order\"\n: >\"$DATA/ready\"\n{FOREVER}"))
        .program("browser", &format!("echo browser >>\"$DATA/order\"\n{FOREVER}"))
        .app("a-browser", r#"App(command: "${BIN}/browser", after: ["display"])"#)
        .app("display", r#"App(command: "${BIN}/display", ready: Ready(probe: Path(path: "${DATA}/ready")))"#)
        .start();
    session.pid("a-browser");
    assert_eq!(session.wait_lines("order", 2), ["display", "browser"]);
}

#[test]
fn a_hidden_variable_reaches_only_the_app_that_names_it() {
    let session = Session::new()
        .stayer("web")
        .stayer("launcher")
        .env("URL_LAUNCHER_TOKEN", "hunter2")
        .env("OPEN", "to all")
        .workspace(r#"Workspace(env: { "SESSION": "this" }, env_hidden: ["URL_LAUNCHER_TOKEN"])"#)
        .app("web", r#"App(command: "${BIN}/web", env: { "OWN": "${OPEN}" })"#)
        .app("launcher", r#"App(command: "${BIN}/launcher", env_secret: ["URL_LAUNCHER_TOKEN"])"#)
        .start();
    session.pid("web");
    session.pid("launcher");
    let of = |name: &str| {
        let pid = session.wait_lines(&format!("{name}.pids"), 1)[0].parse().expect("a pid");
        environ(pid)
    };
    let (web, launcher) = (of("web"), of("launcher"));
    for variable in ["SESSION=this", "OWN=to all", "OPEN=to all"] {
        assert!(web.iter().any(|have| have == variable), "no {variable} in {web:?}");
    }
    assert!(!web.iter().any(|have| have.contains("hunter2")), "{web:?}");
    assert!(launcher.iter().any(|have| have == "URL_LAUNCHER_TOKEN=hunter2"), "{launcher:?}");
    assert!(!session.supervisor_output().contains("hunter2"));
}

#[test]
fn arguments_from_the_environment_are_shell_words_and_keep_what_must_stay() {
    let manifest = r#"App(command: "${BIN}/web", args: ["--one", "--user-data-dir=/profile"],
        args_from: "WEB_ARGS", args_kept: ["--user-data-dir"], args_last: ["${START:-https://kbve.com}"])"#;
    let session = Session::new()
        .program("web", &format!("for word in \"$@\"; do echo \"$word\" >>\"$DATA/words\"; done\n{FOREVER}"))
        .env("WEB_ARGS", "--agent='a b' --two")
        .env("START", "")
        .app("web", manifest)
        .start();
    session.pid("web");
    let words = session.wait_lines("words", 4);
    assert_eq!(words, ["--agent=a b", "--two", "--user-data-dir=/profile", "https://kbve.com"]);
}

#[test]
fn a_session_without_autostart_waits_to_be_asked() {
    let session = Session::new()
        .stayer("web")
        .workspace(r#"Workspace(stage: [MakeDir(path: "${DATA}/staged")], autostart: false)"#)
        .app("web", r#"App(command: "${BIN}/web")"#)
        .start();
    until("the session is staged", || session.data().join("staged").exists().then_some(()));
    let app = session.find("web").expect("the app is listed");
    assert_eq!((app.state, app.run), (StateName::Stopped, 0));
    session.ok(&["start", "web"]);
    session.pid("web");
}

#[test]
fn an_app_that_may_end_the_session_ends_it_with_its_code() {
    let manifest = r#"App(command: "${BIN}/dies", on_give_up: EndSession(code: 7),
        backoff: Backoff(first: "10ms", give_up: After(times: 2, within: "1m")))"#;
    // It dies only when told to, so that the session is up before that.
    let session = Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#);
    let mut session =
        session.program("dies", "until [ -e \"$DATA/die\" ]; do sleep 0.02; done\nexit 3\n").app("dies", manifest);
    let die = session.data().join("die");
    session.start_supervisor();
    session.pid("web");
    std::fs::write(&die, "now").expect("a file");
    assert_eq!(session.wait_end().code(), Some(7), "{}", session.supervisor_output());
    assert_eq!(session.processes(), NOBODY);
}

#[test]
fn a_desktop_that_cannot_run_here_is_not_begun() {
    let session = Session::new();
    let config = session.home().join(".config");
    let mut run = session.command(binary());
    run.arg("run").env("XDG_CONFIG_HOME", &config).env("PATH", session.bin());
    let output = finish(run);
    assert_eq!(output.code, Some(1), "{output:?}");
    for part in ["Nothing was changed", "tigervnc-standalone-server", "chromium", "kasm-void new NAME"] {
        assert!(output.stderr.contains(part), "no {part} in {output:?}");
    }
    assert!(!config.exists(), "something was written");
}

#[test]
fn a_display_that_is_in_use_is_refused_before_anything_starts() {
    let session = Session::new();
    let config = session.home().join(".config");
    let manifests = config.join("kasm-void/manifests");
    std::fs::create_dir_all(&manifests).expect("a folder");
    std::fs::write(manifests.join("workspace.ron"), "Workspace(vars: {\"display\": \":${DISPLAY_NUMBER}\"})")
        .expect("a file");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its number").port().to_string();
    let mut run = session.command(binary());
    run.arg("run").env("XDG_CONFIG_HOME", &config).env("DISPLAY_NUMBER", "4242").env("NOVNC_PORT", &port);
    let output = finish(run);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains(&format!("port {port} (NOVNC_PORT) is in use")), "{output:?}");
}

#[test]
fn the_session_script_explains_its_options() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/image/session.sh");
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(script);
        command.args(args);
        finish(command)
    };
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0), "{help:?}");
    for option in ["--display", "--port", "--state", "--help"] {
        assert!(help.stdout.contains(option), "no {option} in {help:?}");
    }
    for (args, part) in [
        (&["--display", "x"][..], "--display takes a number"),
        (&["--port=", "x"], "--port takes a number"),
        (&["--state"], "--state takes a folder"),
        (&["--dispaly", "7"], "there is no option `--dispaly`"),
    ] {
        let refused = run(args);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(part), "{refused:?}");
    }
}

#[test]
fn apps_of_somebody_without_a_home_start_in_the_root_folder() {
    let session = Session::new()
        .env("HOME", "/no/such/home")
        .program("web", &format!("pwd >\"$DATA/web.pwd\"\n{FOREVER}"))
        .app("web", r#"App(command: "${BIN}/web")"#)
        .start();
    assert_eq!(session.wait_lines("web.pwd", 1), ["/"]);
}
