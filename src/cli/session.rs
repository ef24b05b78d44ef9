//! The folders `run` takes when it is given none: the user's own, else a desktop session built in.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::host::home;

/// The files of `manifests/desktop`.
const BUILT_IN: &[(&str, &str)] = &[
    ("chromium.ron", include_str!("../../manifests/desktop/chromium.ron")),
    ("display.ron", include_str!("../../manifests/desktop/display.ron")),
    ("novnc.ron", include_str!("../../manifests/desktop/novnc.ron")),
    ("terminal.ron", include_str!("../../manifests/desktop/terminal.ron")),
    ("wm.ron", include_str!("../../manifests/desktop/wm.ron")),
    ("workspace.ron", include_str!("../../manifests/desktop/workspace.ron")),
];

/// Which folders to supervise, and a sentence about the choice.
pub fn folders(state: &Path) -> anyhow::Result<(PathBuf, String)> {
    if let Some(own) = own_folder().ok().filter(|folder| folder.is_dir()) {
        let said = format!("supervising {}", own.display());
        return Ok((own, said));
    }
    let folder = state.join("manifests");
    unpack(&folder).with_context(|| format!("cannot write the built-in session into {}", folder.display()))?;
    let said = format!(
        "no manifests were named, so this is the built-in desktop session: look at http://127.0.0.1:6080/vnc.html, edit {}",
        folder.display()
    );
    Ok((folder, said))
}

/// The folder of manifests that `run`, `check` and `new` use when none is named:
/// `$XDG_CONFIG_HOME/kasm-void/manifests`, or the same in `~/.config`.
///
/// # Errors
/// The user has no home folder.
pub fn own_folder() -> anyhow::Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || home::folder(variable("HOME").as_ref().and_then(|home| home.to_str()));
    let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(Path::new(&home()?).join(".config")));
    let config = config.context("there is no home folder to look for manifests in: name a folder, or set HOME")?;
    Ok(config.join("kasm-void/manifests"))
}

/// What is there already may have been edited: it stays.
fn unpack(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    BUILT_IN.iter().try_for_each(|(name, text)| std::fs::write(folder.join(name), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_session_is_the_one_in_the_tree() {
        let tree = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/desktop")).unwrap();
        let mut names: Vec<String> = tree.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, BUILT_IN.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn an_edited_session_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("manifests");
        unpack(&folder).unwrap();
        std::fs::write(folder.join("terminal.ron"), "mine").unwrap();
        unpack(&folder).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("terminal.ron")).unwrap(), "mine");
    }
}
