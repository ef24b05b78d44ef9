//! The default folder of `run`: the user's own. If it does not exist, the built-in desktop session is written there. An
//! existing folder is never changed.

mod numbers;
mod programs;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::print;
use crate::guard;
use crate::host::handover::Handover;
use crate::host::{home, layout, load};
use crate::model::loading::surroundings::{DEFAULT_PATH, FileKind, on_path};

/// The files of `manifests/desktop`.
const BUILT_IN: &[(&str, &str)] = &[
    ("chromium.ron", include_str!("../../manifests/desktop/chromium.ron")),
    ("display.ron", include_str!("../../manifests/desktop/display.ron")),
    ("novnc.ron", include_str!("../../manifests/desktop/novnc.ron")),
    ("openbox.xml", include_str!("../../manifests/desktop/openbox.xml")),
    ("start.html", include_str!("../../manifests/desktop/start.html")),
    ("status.ron", include_str!("../../manifests/desktop/status.ron")),
    ("terminal.ron", include_str!("../../manifests/desktop/terminal.ron")),
    ("view.html", include_str!("../../manifests/desktop/view.html")),
    ("wm.ron", include_str!("../../manifests/desktop/wm.ron")),
    ("workspace.ron", include_str!("../../manifests/desktop/workspace.ron")),
];

/// Our own program, as people call it.
const OURSELVES: &str = "kasm-void";

/// Variables by name.
type Environment = BTreeMap<String, String>;

/// Runs as the guard of a session. If no folder was `named`, the folder and numbers are chosen first, unless this
/// process is the supervisor of a session that has lost its guard. Also returns in the first supervisor.
pub fn start(state: &Path, named: bool) -> anyhow::Result<guard::Role> {
    let inherited = Handover::inherited();
    let mut environment = Environment::new();
    if !named && inherited.is_none() {
        environment = choose(state)?;
    }
    guard::run(state, environment, inherited)
}

/// Chooses the user's own manifest folder, which is created if it does not exist, and what its session needs to know:
/// free numbers, a browser, and where `kasm-void` is. Says so. Returns the variables for every supervisor of the
/// session; the next supervisor could not choose them again, because it would see our own display as taken.
///
/// # Errors
/// There is no such folder yet, and the built-in session cannot run here or cannot be written.
fn choose(state: &Path) -> anyhow::Result<Environment> {
    let folder = own_folder()?;
    let here = Here::new(&folder);
    let missing = here.missing();
    if here.is_new && !missing.is_empty() {
        bail!(
            "the built-in desktop needs programs that are not installed. Nothing was changed. Install them:\n  {}\nor \
             begin with an app of your own:\n  {OURSELVES} new NAME -- COMMAND",
            here.way_out(&missing)
        );
    }
    if here.is_new {
        unpack(&folder).with_context(|| {
            let folder = folder.display();
            format!("cannot write the built-in desktop to {folder}: name a folder, as in `{OURSELVES} run DIR`")
        })?;
    }
    let mut environment = Environment::new();
    if asks_for_numbers(&folder) {
        environment = numbers::choose(&variable, state)?;
        environment.extend(own_profile(&folder, &environment["DISPLAY_NUMBER"], state));
        environment.extend(here.browser.clone().map(|browser| ("CHROMIUM_BIN".into(), browser)));
        environment.extend(here.path_with_us().map(|path| ("PATH".into(), path)));
    }
    print::complain(&welcome(&here, &missing, &environment, state));
    Ok(environment)
}

/// A browser profile for a session with a state folder of its own: one profile cannot serve two sessions at once.
fn own_profile(folder: &Path, display: &str, state: &Path) -> Option<(String, String)> {
    const NAME: &str = "CHROMIUM_PROFILE";
    let is_own = state != layout::usual_path() && variable(NAME).is_none();
    let profile = folder.with_file_name(format!("chromium-{display}")).display().to_string();
    is_own.then(|| (NAME.into(), profile))
}

/// A variable of our environment; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The user's folder, and what this machine has for its session.
struct Here<'a> {
    folder: &'a Path,
    is_new: bool,
    path: String,
    browser: Option<String>,
    ourselves: Option<PathBuf>,
}

impl<'a> Here<'a> {
    fn new(folder: &'a Path) -> Self {
        let path = variable("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        let browser = variable("CHROMIUM_BIN").or_else(|| programs::browser(&path, &is_program));
        let ourselves = std::env::current_exe().ok();
        Here { folder, is_new: folder.symlink_metadata().is_err(), path, browser, ourselves }
    }

    /// The packages that the session lacks.
    fn missing(&self) -> Vec<&'static str> {
        let has = |manifest: &str| self.is_new || self.folder.join(manifest).exists();
        programs::missing(&has, &self.path, &is_program, self.browser.is_some())
    }

    fn way_out(&self, packages: &[&str]) -> String {
        programs::way_out(packages, &self.path, &is_program, rustix::process::geteuid().is_root())
    }

    /// Whether `kasm-void` in a shell is this binary.
    fn is_on_path(&self) -> bool {
        let real = |path: &Path| path.canonicalize().ok();
        let found = on_path(OURSELVES, &self.path, is_program).and_then(|file| real(Path::new(&file)));
        found.is_some() && found == self.ourselves.as_deref().and_then(real)
    }

    /// PATH for the session, if terminals on the desktop would not find this binary.
    fn path_with_us(&self) -> Option<String> {
        let folder = self.ourselves.as_deref()?.parent()?;
        (!self.is_on_path()).then(|| format!("{}:{}", folder.display(), self.path))
    }

    /// How to call this binary from the shell that started it.
    fn called(&self) -> String {
        match &self.ourselves {
            Some(path) if !self.is_on_path() => path.display().to_string(),
            _ => OURSELVES.into(),
        }
    }
}

fn is_program(file: &str) -> bool {
    load::look(file) == FileKind::Program
}

/// The next steps for the user who started the session.
fn welcome(here: &Here<'_>, missing: &[&str], environment: &Environment, state: &Path) -> String {
    let folder = here.folder.display();
    let mut said = match here.is_new {
        true => format!("wrote the built-in desktop to {folder}\n"),
        false => format!("supervising {folder}\n"),
    };
    let mut line = |what: &str, text: &str| said.push_str(&format!("\n  {what:<8}{text}"));
    if !missing.is_empty() {
        line("missing", &format!("{}: {}", missing.join(", "), here.way_out(missing)));
    }
    if let Some(port) = environment.get("NOVNC_PORT").filter(|_| here.folder.join("novnc.ron").exists()) {
        line("look", &format!("http://127.0.0.1:{port}"));
        if variable("SSH_CONNECTION").is_some() {
            line("", &format!("from your own machine, through: ssh -L {port}:127.0.0.1:{port} HOST"));
        }
    }
    let other = if state == layout::usual_path() { String::new() } else { format!(" --state {}", state.display()) };
    line("ask", &format!("{}{other} status", here.called()));
    line("change", &format!("{folder}/*.ron: the running apps follow"));
    line("stop", "Ctrl-C\n");
    said
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

/// Writes the session in one step, unless `folder` exists.
fn unpack(folder: &Path) -> std::io::Result<()> {
    if folder.symlink_metadata().is_ok() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let aside = tempfile::Builder::new().prefix(".manifests-").tempdir_in(parent)?;
    BUILT_IN.iter().try_for_each(|(name, text)| fs::write(aside.path().join(name), text))?;
    // Fails if another process has written there meanwhile: a folder that is not empty is never replaced.
    fs::rename(aside.keep(), folder)
}

/// Whether the workspace takes its display number from the environment, as the built-in one does.
fn asks_for_numbers(folder: &Path) -> bool {
    fs::read_to_string(folder.join("workspace.ron")).is_ok_and(|text| text.contains("${DISPLAY_NUMBER"))
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
        unpack(&folder).unwrap();
        fs::write(folder.join("terminal.ron"), "mine").unwrap();
        fs::remove_file(folder.join("wm.ron")).unwrap();
        unpack(&folder).unwrap();
        assert_eq!(fs::read_to_string(folder.join("terminal.ron")).unwrap(), "mine");
        assert!(!folder.join("wm.ron").exists(), "what somebody removed stays away");
        let left: Vec<_> = fs::read_dir(home.path().join("kasm-void")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        // An empty folder, a file and a dangling link are left alone too.
        let link = home.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        unpack(&link).unwrap();
        assert!(link.is_symlink());
    }

    fn here(folder: &Path, is_new: bool) -> Here<'_> {
        let ourselves = Some("/opt/kasm-void".into());
        Here { folder, is_new, path: "/nowhere".into(), browser: None, ourselves }
    }

    #[test]
    fn the_welcome_names_the_page_the_folder_and_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        unpack(&folder.path().join("m")).unwrap();
        let path = folder.path().join("m");
        let here = here(&path, true);
        let environment = Environment::from([("NOVNC_PORT".into(), "6081".into())]);
        let said = welcome(&here, &["openbox"], &environment, Path::new("/state"));
        for part in ["wrote the built-in", "http://127.0.0.1:6081", "openbox", "/opt/kasm-void --state /state status"] {
            assert!(said.contains(part), "no {part} in {said}");
        }
        fs::remove_file(path.join("novnc.ron")).unwrap();
        let said = welcome(&here, &[], &environment, &layout::usual_path());
        assert!(!said.contains("6081") && !said.contains("--state"), "{said}");
    }

    #[test]
    fn the_session_finds_this_binary_whatever_its_name_is_on_path() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join(OURSELVES);
        fs::write(&binary, "").unwrap();
        let mut here = here(folder.path(), false);
        assert_eq!(here.path_with_us().unwrap(), "/opt:/nowhere");
        fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        here.path = format!("{}:/nowhere", folder.path().display());
        assert_eq!(here.called(), "/opt/kasm-void", "another binary of that name comes first");
        here.ourselves = Some(binary);
        assert_eq!((here.path_with_us(), here.called()), (None, OURSELVES.into()));
    }
}
