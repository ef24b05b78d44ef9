//! The default folder of `run`: the user's own. If it does not exist, the built-in desktop session is written there. An
//! existing folder is never changed.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::print;
use crate::guard;
use crate::host::handover::Handover;
use crate::host::{home, marks, proc, socket};

/// The files of `manifests/desktop`.
const BUILT_IN: &[(&str, &str)] = &[
    ("chromium.ron", include_str!("../../manifests/desktop/chromium.ron")),
    ("display.ron", include_str!("../../manifests/desktop/display.ron")),
    ("novnc.ron", include_str!("../../manifests/desktop/novnc.ron")),
    ("terminal.ron", include_str!("../../manifests/desktop/terminal.ron")),
    ("wm.ron", include_str!("../../manifests/desktop/wm.ron")),
    ("workspace.ron", include_str!("../../manifests/desktop/workspace.ron")),
];

/// The variables with the built-in session's numbers, each with its offset from the display number.
const NUMBERS: [(&str, u16); 4] = [("DISPLAY_NUMBER", 0), ("VNC_PORT", 5900), ("NOVNC_PORT", 6073), ("CDP_PORT", 9215)];
const FIRST_DISPLAY: u16 = 7;
const LAST_DISPLAY: u16 = 99;

/// Variables by name.
type Environment = BTreeMap<String, String>;

/// Runs as the guard of a session. If no folder was `named`, the folder and numbers are chosen first, unless this
/// process is the supervisor of a session that has lost its guard.
pub fn start(state: &Path, named: bool) -> anyhow::Result<ExitCode> {
    let inherited = Handover::inherited();
    let mut environment = Environment::new();
    if !named && inherited.is_none() {
        let chosen = choose(state)?;
        print::complain(&chosen.said);
        environment = chosen.environment;
    }
    guard::run(state, environment, inherited)
}

/// The settings chosen for a session without named folders.
struct Chosen {
    /// The message for the user who started it.
    said: String,
    /// For every supervisor of the session. Chosen once, because the next one would see our own display as taken.
    environment: Environment,
}

/// Chooses the user's own manifest folder, which is created if it does not exist, and free numbers for its session.
fn choose(state: &Path) -> anyhow::Result<Chosen> {
    let folder = own_folder()?;
    let unpacked = unpack(&folder).with_context(|| {
        format!("cannot write the built-in session to {}: name a folder, as in `kasm-void run DIR`", folder.display())
    })?;
    let mut said = match unpacked {
        true => format!(
            "no manifest folder was named: the built-in desktop session was written to {}, where you can edit it",
            folder.display()
        ),
        false => format!("supervising {}", folder.display()),
    };
    let mut environment = Environment::new();
    if asks_for_numbers(&folder) {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        environment = free_numbers(&given, &|number| display(number, state), &port_is_free)?;
        if folder.join("novnc.ron").exists() {
            let port = &environment["NOVNC_PORT"];
            said.push_str(&format!(
                "; open http://127.0.0.1:{port}/vnc.html?autoconnect=true&reconnect=true&resize=scale"
            ));
        }
    }
    Ok(Chosen { said, environment })
}

/// The default manifest folder of `run`, `check` and `new`:
/// `$XDG_CONFIG_HOME/kasm-void/manifests`, or the same in `~/.config`.
///
/// # Errors
/// The user has no home folder.
pub fn own_folder() -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || home::folder(variable("HOME").as_ref().and_then(|home| home.to_str()));
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(Path::new(&home()?).join(".config")));
    let config = config.context("cannot find the manifests without a home folder: name a folder, or set HOME")?;
    Ok(config.join("kasm-void/manifests"))
}

/// Writes the session in one step, unless `folder` exists. Returns whether it was written.
fn unpack(folder: &Path) -> std::io::Result<bool> {
    if folder.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let aside = tempfile::Builder::new().prefix(".manifests-").tempdir_in(parent)?;
    BUILT_IN.iter().try_for_each(|(name, text)| fs::write(aside.path().join(name), text))?;
    // Fails if another process has written there meanwhile: a folder that is not empty is never replaced.
    fs::rename(aside.keep(), folder)?;
    Ok(true)
}

/// Whether the workspace takes its display number from the environment, as the built-in one does.
fn asks_for_numbers(folder: &Path) -> bool {
    fs::read_to_string(folder.join("workspace.ron")).is_ok_and(|text| text.contains("${DISPLAY_NUMBER"))
}

/// Whether a display is in use, and by which session.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Display {
    Free,
    Taken,
    /// Used by an X server of this session that has outlived its supervisor and guard.
    Ours,
}

/// Finds the first free display whose ports are free too. Numbers that are `given` are used without a check.
fn free_numbers(
    given: &dyn Fn(&str) -> Option<String>,
    display: &dyn Fn(u16) -> Display,
    port_is_free: &dyn Fn(u16) -> bool,
) -> anyhow::Result<Environment> {
    let named = given("DISPLAY_NUMBER").and_then(|number| number.parse::<u16>().ok());
    let ports_are_free = |number: u16| {
        NUMBERS[1..].iter().all(|(name, base)| given(name).is_some() || port_is_free(base.saturating_add(number)))
    };
    let usable = |number: &u16| match display(*number) {
        Display::Ours => true,
        Display::Free => ports_are_free(*number),
        Display::Taken => false,
    };
    let Some(number) = named.or_else(|| (FIRST_DISPLAY..=LAST_DISPLAY).find(usable)) else {
        bail!(
            "displays :{FIRST_DISPLAY} to :{LAST_DISPLAY} or their ports are all taken: name a free one in DISPLAY_NUMBER"
        );
    };
    let value = |name: &str, base: u16| given(name).unwrap_or_else(|| base.saturating_add(number).to_string());
    Ok(NUMBERS.iter().map(|(name, base)| (name.to_string(), value(name, *base))).collect())
}

fn display(number: u16, state: &Path) -> Display {
    let lock = fs::read_to_string(format!("/tmp/.X{number}-lock")).unwrap_or_default();
    let owner = lock.trim().parse().ok().and_then(proc::process).filter(|owner| !owner.zombie);
    if let Some(owner) = owner {
        let environment = proc::environment(owner.pid);
        let is = |name: &str, what: &dyn Fn(&str) -> bool| {
            proc::variable(&environment, name).is_some_and(|value| what(&value))
        };
        let ours =
            is(marks::APP, &|app| app.starts_with("display:")) && is(marks::STATE, &|its| Path::new(its) == state);
        return if ours { Display::Ours } else { Display::Taken };
    }
    let path = format!("/tmp/.X11-unix/X{number}");
    let answers = socket::answers(&socket::connect(Path::new(&path)))
        || socket::answers(&socket::connect_abstract(path.as_bytes()));
    if answers { Display::Taken } else { Display::Free }
}

fn port_is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_session_is_the_one_in_the_tree() {
        let tree = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/desktop")).unwrap();
        let mut names: Vec<String> = tree.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, BUILT_IN.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_there_is_never_written_over() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("kasm-void/manifests");
        assert!(unpack(&folder).unwrap());
        fs::write(folder.join("terminal.ron"), "mine").unwrap();
        fs::remove_file(folder.join("wm.ron")).unwrap();
        assert!(!unpack(&folder).unwrap());
        assert_eq!(fs::read_to_string(folder.join("terminal.ron")).unwrap(), "mine");
        assert!(!folder.join("wm.ron").exists(), "what somebody removed stays away");
        let left: Vec<_> = fs::read_dir(home.path().join("kasm-void")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        // An empty folder, a file and a dangling link are left alone too.
        let link = home.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(!unpack(&link).unwrap());
    }

    #[test]
    fn numbers_are_free_ones_of_one_display() {
        let numbers = |given: &[(&str, &str)], taken: &[u16], ours: &[u16], ports: &[u16]| {
            let given = |name: &str| given.iter().find(|(its, _)| *its == name).map(|(_, value)| value.to_string());
            let display = |number| match (taken.contains(&number), ours.contains(&number)) {
                (_, true) => Display::Ours,
                (true, _) => Display::Taken,
                _ => Display::Free,
            };
            let chosen = free_numbers(&given, &display, &|port| !ports.contains(&port)).unwrap();
            NUMBERS.map(|(name, _)| chosen[name].parse::<u16>().unwrap())
        };
        assert_eq!(numbers(&[], &[], &[], &[]), [7, 5907, 6080, 9222]);
        assert_eq!(numbers(&[], &[7], &[], &[]), [8, 5908, 6081, 9223]);
        assert_eq!(numbers(&[], &[], &[], &[6080, 9223]), [9, 5909, 6082, 9224]);
        assert_eq!(numbers(&[("NOVNC_PORT", "7000")], &[], &[], &[6080]), [7, 5907, 7000, 9222]);
        assert_eq!(numbers(&[("DISPLAY_NUMBER", "30")], &[30], &[], &[]), [30, 5930, 6103, 9245]);
        assert_eq!(numbers(&[], &[], &[9], &[6080, 6081, 6082]), [9, 5909, 6082, 9224], "ours holds its own ports");
        let all = free_numbers(&|_| None, &|_| Display::Taken, &|_| true);
        assert!(all.unwrap_err().to_string().contains("DISPLAY_NUMBER"));
    }
}
