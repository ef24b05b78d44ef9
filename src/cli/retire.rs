//! `retire`: moves what the older workspace image left in a home aside. The image's `workspace.ron` runs it at each start.
//! `model::predecessor` decides which files those are. `doctor` looks at a home through it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::VerbEnd;
use super::print::{complain, plain};
use crate::model::predecessor::{FILES, OldFile, Whereabouts, report};

/// Bytes; longer than any of the files.
const LONGEST: u64 = 64 << 10;

/// The folder in the home to which the image's `workspace.ron` moves the files.
const KEPT: &str = ".local/share/kasm-void/predecessor";

/// Moves the files from `home` to `kept`. A file that is already there gets a number. Running it again changes nothing.
pub fn retire(home: &Path, kept: &Path) -> VerbEnd {
    let mut ended = VerbEnd::Done;
    for (file, _) in look(home).into_iter().filter(|(_, is)| *is == Whereabouts::Stale) {
        if let Err(error) = set_aside(&home.join(file.path), &kept.join(file.path)) {
            complain(&plain(&format!("cannot move {} to {}: {error}", file.path, kept.display())));
            ended = VerbEnd::Refused;
        }
    }
    ended
}

/// `doctor`'s notes about this home, each with whether a person should do something.
pub fn examine(home: &Path) -> Vec<(bool, String)> {
    let aside = home.join(KEPT);
    let kept = ["Desktop", "scripts"].iter().filter_map(|folder| fs::read_dir(aside.join(folder)).ok());
    report(&look(home), kept.map(Iterator::count).sum(), &aside.display().to_string())
}

fn look(home: &Path) -> Vec<(OldFile, Whereabouts)> {
    FILES.map(|file| (file, file.whereabouts(text(&home.join(file.path)).as_deref()))).into()
}

/// The text of a regular file. A link is not ours to move.
fn text(path: &Path) -> Option<String> {
    path.symlink_metadata().ok().filter(fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn set_aside(from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let numbered = |number: usize| PathBuf::from(format!("{}.~{number}~", to.display()));
    let free = std::iter::once(to.to_owned()).chain((1..).map(numbered)).find(|path| path.symlink_metadata().is_err());
    fs::rename(from, free.unwrap_or_else(|| to.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does the same as the older image at each of its starts.
    fn predecessor_boots(home: &Path) {
        for (path, text) in [
            ("Desktop/LaunchURL.desktop", "Name=Open URL\nExec=/home/kasm-user/scripts/launch-url.sh"),
            ("Desktop/Terminal.desktop", "Exec=xfce4-terminal"),
            ("scripts/launch-url.sh", "zenity --title='Open URL in CloakBrowser'"),
        ] {
            fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
            fs::write(home.join(path), text).unwrap();
        }
    }

    #[test]
    fn a_home_goes_there_twice_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        let kept = home.join(KEPT);
        assert!(examine(home).is_empty());
        predecessor_boots(home);
        fs::write(home.join("Desktop/Discord.desktop"), "Exec=mine").unwrap();
        std::os::unix::fs::symlink("/nowhere", home.join("Desktop/ResetDiscord.desktop")).unwrap();
        let before = examine(home);
        assert!(before[0].1.contains("scripts/launch-url.sh") && before[1].1.contains("Discord.desktop"), "{before:?}");
        for _ in 0..2 {
            assert_eq!(retire(home, &kept), VerbEnd::Done);
            assert!(!home.join("Desktop/LaunchURL.desktop").exists() && kept.join("scripts/launch-url.sh").exists());
            assert_eq!(fs::read_to_string(home.join("Desktop/Discord.desktop")).unwrap(), "Exec=mine");
            assert!(home.join("Desktop/ResetDiscord.desktop").is_symlink());
            let after = examine(home);
            assert!(after.len() == 2 && after[1].1.starts_with("3 files"), "{after:?}");
        }
        predecessor_boots(home); // somebody has gone back, and comes again
        assert_eq!(retire(home, &kept), VerbEnd::Done);
        assert!(kept.join("scripts/launch-url.sh.~1~").exists() && !home.join("scripts/launch-url.sh").exists());
    }

    #[test]
    fn what_cannot_be_moved_is_told_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        predecessor_boots(folder.path());
        fs::write(folder.path().join("kept"), "a file in the way").unwrap();
        assert_eq!(retire(folder.path(), &folder.path().join("kept")), VerbEnd::Refused);
        assert!(folder.path().join("scripts/launch-url.sh").exists());
    }
}
