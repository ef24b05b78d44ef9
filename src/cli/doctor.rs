//! `doctor`: checks the machine, the home and the session for problems, and says how to fix them.

mod home;

use std::fs;
use std::path::Path;

use super::VerbEnd;
use super::client::{Client, NoSupervisor};
use super::print::{BAD, BUSY, GOOD, plain, say, say_json};
use crate::host::{proc, sys};
use crate::model::protocol::{Identity, Route, Snapshot};
use crate::model::spelling::counted;

/// The result of one check.
#[derive(serde::Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    /// The finding, and how to fix it if it is a problem.
    text: String,
}

#[derive(Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Fine,
    /// Works, but with limits.
    Doubtful,
    Broken,
}

/// Prints all findings. The result is `Refused` if anything is broken.
pub async fn doctor(client: &Client, state: &Path, json: bool) -> anyhow::Result<VerbEnd> {
    let mut found = of_the_machine(state);
    found.extend(home::of_the_home());
    found.extend(of_the_supervisor(client).await?);
    let broken = found.iter().any(|finding| finding.verdict == Verdict::Broken);
    if json {
        say_json(&found)?;
    } else {
        for Finding { what, verdict, text } in &found {
            let (style, sign) = match verdict {
                Verdict::Fine => (GOOD, "ok"),
                Verdict::Doubtful => (BUSY, "doubtful"),
                Verdict::Broken => (BAD, "broken"),
            };
            say(&format!("{style}{sign:8}{style:#} {what}: {}", plain(text)))?;
        }
    }
    Ok(if broken { VerbEnd::Refused } else { VerbEnd::Done })
}

async fn of_the_supervisor(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let identity: Identity = match client.get(&Route::Supervisor.path(&[])).await {
        Ok(identity) => identity,
        Err(error) if error.is::<NoSupervisor>() => {
            return Ok(vec![finding("supervisor", Verdict::Broken, error.to_string())]);
        }
        Err(error) => return Err(error),
    };
    let snapshot: Snapshot = client.get(&Route::Apps.path(&[])).await?;
    let mut found = Vec::new();
    let Identity { version, pid, guard, deaths, after, troubles, strays, restored, .. } = identity;
    let text = match (guard, &after) {
        (Some(guard), None) => format!("version {version}, pid {pid}, guarded by pid {guard}"),
        (Some(guard), Some(after)) => {
            format!(
                "version {version}, pid {pid}, guarded by pid {guard}; {deaths} supervisors died in this session; started after: {after}"
            )
        }
        (None, _) => format!("version {version}, pid {pid}"),
    };
    let verdict = if deaths == 0 { Verdict::Fine } else { Verdict::Doubtful };
    found.push(finding("supervisor", verdict, text));
    found.extend(troubles.into_iter().map(|trouble| finding("supervisor", Verdict::Broken, trouble)));
    found.extend(strays.into_iter().map(|stray| {
        let text =
            format!("{stray} belongs to no app and will be killed when the session ends: stop it, or run it as an app");
        finding("processes", Verdict::Doubtful, text)
    }));
    if restored > 0 {
        let text = format!(
            "deleted or changed {} while the session ran, and restored: exclude it from the program that cleans up there",
            counted(restored.into(), "time")
        );
        found.push(finding("state folder", Verdict::Doubtful, text));
    }
    found.extend(snapshot.problems.into_iter().map(|problem| finding("manifests", Verdict::Doubtful, problem)));
    for app in &snapshot.apps {
        found.extend(
            app.warnings.iter().map(|text| finding("warning", Verdict::Doubtful, format!("{}: {text}", app.name))),
        );
        if let Some(trouble) = &app.log_trouble {
            found.push(finding("logs", Verdict::Broken, format!("{}: {trouble}", app.name)));
        }
    }
    Ok(found)
}

fn of_the_machine(state: &Path) -> Vec<Finding> {
    vec![processes(), pidfd(), descriptors(), watches(), room(state)]
}

fn finding(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding { what, verdict, text: text.into() }
}

fn processes() -> Finding {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    match (proc::process(own), proc::children(own)) {
        (Some(_), Some(_)) => finding("processes", Verdict::Fine, "/proc is readable"),
        (Some(_), None) => finding(
            "processes",
            Verdict::Doubtful,
            "the kernel does not list children (CONFIG_PROC_CHILDREN): all processes are scanned whenever an app exits",
        ),
        (None, _) => finding(
            "processes",
            Verdict::Broken,
            "/proc cannot be read: running apps are not found and their trees are not swept; mount it",
        ),
    }
}

fn pidfd() -> Finding {
    match sys::pidfd_works() {
        true => finding("pidfd", Verdict::Fine, "process exits are noticed at once"),
        false => finding(
            "pidfd",
            Verdict::Doubtful,
            "pidfd_open is refused (a seccomp profile?): the exit of a process that is not a child of the supervisor is noticed up to 100 ms late",
        ),
    }
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    match limit {
        Some(limit) if limit < 1024 => finding(
            "descriptors",
            Verdict::Doubtful,
            format!("at most {limit} open files, and each app needs three: raise `ulimit -Hn`"),
        ),
        Some(limit) => finding("descriptors", Verdict::Fine, format!("at most {limit} open files")),
        None => finding("descriptors", Verdict::Fine, "no limit on open files"),
    }
}

fn watches() -> Finding {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?.trim().parse().ok()
    };
    match (number("max_user_instances"), number("max_user_watches")) {
        (Some(instances), Some(watches)) if instances >= 16 && watches >= 1024 => {
            finding("inotify", Verdict::Fine, format!("{instances} instances, {watches} watches"))
        }
        (Some(instances), Some(watches)) => finding(
            "inotify",
            Verdict::Doubtful,
            format!(
                "{instances} instances and {watches} watches, shared by all programs of the user: when they are used up, the manifests are polled every 2 s"
            ),
        ),
        _ => finding("inotify", Verdict::Doubtful, "not available: the manifests are polled every 2 s"),
    }
}

fn room(state: &Path) -> Finding {
    let folder = state.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(folder) {
        Ok(is) if is.f_bavail * is.f_frsize < 1 << 20 => finding(
            "state folder",
            Verdict::Broken,
            format!("less than 1 MiB is free on {}: free some space", folder.display()),
        ),
        Ok(is) => finding(
            "state folder",
            Verdict::Fine,
            format!("{} MiB free on {}", (is.f_bavail * is.f_frsize) >> 20, folder.display()),
        ),
        Err(error) => finding("state folder", Verdict::Broken, format!("{}: {error}", folder.display())),
    }
}
