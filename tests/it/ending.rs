//! A session that is told to end always ends, once and in time, whatever was killed or frozen before.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use kasm_void::model::protocol::StateName;
use rustix::process::Signal;

use crate::harness::{FOREVER, NOBODY, Session, alive, binary, kill, send, until};

fn web() -> Session {
    Session::new().stayer("web").app("web", r#"App(command: "${BIN}/web")"#)
}

/// Sends `signal` to the guard. Everything must be gone within `budget` plus a second. Returns the exit code.
fn ends(session: &mut Session, signal: Signal, budget: Duration) -> Option<i32> {
    send(session.guard_pid(), signal);
    let began = Instant::now();
    let code = session.wait_end().code();
    let took = began.elapsed();
    // The rest is allowance for a busy machine.
    assert!(took < budget + Duration::from_secs(4), "took {took:?}:\n{}", session.supervisor_output());
    assert_eq!(session.processes(), NOBODY);
    code
}

const DEFAULT_BUDGET: Duration = Duration::from_secs(20);

#[test]
fn a_stop_after_a_death_starts_nothing_again() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut session = web().start();
        session.pid("web");
        session.crash_supervisor();
        assert_eq!(ends(&mut session, signal, DEFAULT_BUDGET), Some(0));
        assert_eq!(session.lines("web.pids").len(), 1, "started again:\n{}", session.supervisor_output());
    }
}

#[test]
fn a_drain_after_an_upgrade_starts_nothing_again() {
    let mut session = web().start();
    session.pid("web");
    session.ok(&["upgrade", &binary().to_string_lossy()]);
    session.ok(&["drain"]);
    assert_eq!(session.wait_end().code(), Some(0));
    assert_eq!(session.lines("web.pids").len(), 1);
    assert_eq!(session.processes(), NOBODY);
}

/// It takes a while to end, so that there is time to kill something meanwhile.
fn slow() -> Session {
    let slow = format!("trap ': >\"$DATA/asked\"; sleep 1; exit 0' TERM\necho up >>\"$DATA/slow.ups\"\n{FOREVER}");
    let session = Session::new().program("slow", &slow);
    session.app("slow", r#"App(command: "${BIN}/slow", ready: Ready(probe: Path(path: "${DATA}/slow.ups")))"#).start()
}

#[test]
fn a_supervisor_killed_while_it_drains_is_followed_by_one_that_drains_on() {
    enum By {
        Signal,
        Verb,
        /// Killed as soon as the request has been answered.
        VerbJustAnswered,
    }
    for by in [By::Signal, By::Verb, By::VerbJustAnswered] {
        let mut session = slow();
        session.wait_state("slow", StateName::Running);
        match by {
            By::Signal => send(session.guard_pid(), Signal::TERM),
            By::Verb | By::VerbJustAnswered => drop(session.ok(&["drain", "--no-wait"])),
        }
        if !matches!(by, By::VerbJustAnswered) {
            until("the app is asked", || session.data().join("asked").exists().then_some(()));
        }
        kill(session.supervisor_pid());
        assert_eq!(session.wait_end().code(), Some(0), "{}", session.supervisor_output());
        assert_eq!(session.lines("slow.ups").len(), 1, "started again:\n{}", session.supervisor_output());
        assert_eq!(session.processes(), NOBODY);
    }
}

#[test]
fn a_frozen_supervisor_does_not_hold_up_the_end() {
    let budget = Duration::from_secs(1);
    let mut session = web().workspace(r#"Workspace(stop_budget: "1s")"#).start();
    session.pid("web");
    send(session.supervisor_pid(), Signal::STOP);
    assert_eq!(ends(&mut session, Signal::TERM, budget), Some(1), "the apps were not stopped in order");
}

#[test]
fn a_session_that_was_killed_by_its_guard_leaves_nothing_to_the_next() {
    let mut session = web().start();
    let held = session.pid("web");
    session.ok(&["stop", "web"]);
    assert!(!alive(held));
    send(session.supervisor_pid(), Signal::STOP);
    send(session.guard_pid(), Signal::TERM);
    send(session.guard_pid(), Signal::TERM);
    session.wait_end();
    session.start_supervisor();
    session.pid("web");
}

#[test]
fn a_second_request_is_enough_whatever_the_budget() {
    let mut session = web().workspace(r#"Workspace(stop_budget: "1h")"#).start();
    session.pid("web");
    send(session.supervisor_pid(), Signal::STOP);
    send(session.guard_pid(), Signal::TERM);
    assert_eq!(ends(&mut session, Signal::INT, Duration::from_secs(2)), Some(1));
}

#[test]
fn a_supervisor_that_cannot_start_does_not_hold_up_the_end() {
    // Each later supervisor finds a ledger that it may not even move away, or no state folder.
    type Harm = fn(&Session);
    let harms: [(&str, Harm); 3] = [
        ("mode", |session| fs::set_permissions(session.state(), fs::Permissions::from_mode(0o750)).expect("chmod")),
        ("gone", |session| fs::remove_dir_all(session.state()).expect("rm")),
        ("file", |session| {
            fs::remove_dir_all(session.state()).expect("rm");
            fs::write(session.state(), "").expect("a file in its place");
        }),
    ];
    for (what, harm) in harms {
        let mut session = web().start();
        session.pid("web");
        harm(&session);
        kill(session.supervisor_pid());
        let code = ends(&mut session, Signal::TERM, DEFAULT_BUDGET);
        assert_eq!(code, Some(0), "{what}: {}", session.supervisor_output());
        assert_eq!(session.lines("web.pids").len(), 1, "{what}: started again");
    }
}

#[test]
fn signals_that_mean_nothing_here_do_nothing() {
    let session = web().start();
    let (pid, guard, supervisor) = (session.pid("web"), session.guard_pid(), session.supervisor_pid());
    for signal in [Signal::USR1, Signal::USR2, Signal::ALARM, Signal::VTALARM, Signal::PROF, Signal::PIPE, Signal::IO] {
        send(guard, signal);
        send(supervisor, signal);
    }
    send(guard, Signal::HUP);
    send(supervisor, Signal::HUP);
    assert_eq!((session.pid("web"), session.guard_pid(), session.supervisor_pid()), (pid, guard, supervisor));
    assert!(alive(guard) && alive(supervisor));
}

#[test]
fn the_supervisor_ends_the_session_on_sigquit_too() {
    let mut session = web().start();
    session.pid("web");
    send(session.supervisor_pid(), Signal::QUIT);
    assert_eq!(session.wait_end().code(), Some(0));
    assert_eq!(session.lines("web.pids").len(), 1);
}

#[test]
fn whatever_the_stage_left_is_gone_at_the_end() {
    let stage = r#"Workspace(stage: [
        Run(argv: ["sh", "-c", "setsid ${BIN}/daemon >/dev/null 2>&1 & :"]),
        Run(argv: ["${BIN}/step"], timeout: "10m"),
    ])"#;
    let mut session = web().stayer("daemon").stayer("step").workspace(stage).start();
    session.wait_lines("step.pids", 1);
    session.wait_lines("daemon.pids", 1);
    assert_eq!(ends(&mut session, Signal::TERM, DEFAULT_BUDGET), Some(0));
    assert_eq!(session.lines("web.pids").len(), 0, "an app was started while the session was ending");
}

#[test]
fn children_of_the_script_that_became_the_guard_are_left_alone() {
    let mut session = web().stayer("bystander");
    let manifests = session.manifests();
    session.start_supervisor_with(|run| {
        let script = "\"$BIN/bystander\" >/dev/null 2>&1 & exec \"$0\" run \"$1\"";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).arg(binary()).arg(&manifests);
        command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        *run = command;
    });
    session.pid("web");
    let bystander: i32 = session.wait_lines("bystander.pids", 1)[0].parse().expect("a pid");
    send(session.guard_pid(), Signal::TERM);
    assert_eq!(session.wait_end().code(), Some(0));
    assert!(alive(bystander));
    kill(bystander);
}

#[test]
fn a_session_ends_whole_though_its_guard_and_supervisor_were_replaced() {
    let budget = Duration::from_secs(1);
    let hidden =
        r#"setsid env -i DATA="$DATA" sh -c 'echo $$ >>"$DATA/helper.pids"; exec env -i sleep 1000' >/dev/null 2>&1 &"#;
    let mut session = Session::new()
        .program("web", &format!("echo $$ >>\"$DATA/web.pids\"\n{hidden}\n{FOREVER}"))
        .app("web", r#"App(command: "${BIN}/web")"#)
        .workspace(r#"Workspace(stop_budget: "1s")"#)
        .start();
    let web = session.pid("web");
    let helper: i32 = session.wait_lines("helper.pids", 1)[0].parse().expect("a pid");
    session.kill_supervisor();
    session.start_supervisor();
    assert_eq!(session.pid("web"), web);
    send(session.supervisor_pid(), Signal::STOP);
    // The app is no descendant of the new guard, its supervisor cannot stop it, and its helper has no marks.
    assert_eq!(ends(&mut session, Signal::TERM, budget), Some(1));
    assert!(!alive(web) && !alive(helper));
}
