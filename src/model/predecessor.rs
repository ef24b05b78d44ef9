//! The older workspace image, and the files it copied into every home: icons and scripts that would stand beside ours,
//! one of which opens addresses past the policy. Decides which of them may be moved aside, and what `doctor` says of a
//! home. A file that a person has changed to do something else is never touched.

use crate::model::spelling::counted;

/// A file that the older image copied into the home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldFile {
    /// Its path below the home.
    pub path: &'static str,
    /// A text in it that shows what it does.
    does: &'static str,
}

const fn old(path: &'static str, does: &'static str) -> OldFile {
    OldFile { path, does }
}

/// All of them.
pub const FILES: [OldFile; 10] = [
    old("Desktop/CloakBrowser.desktop", "Exec=/opt/cloakbrowser/cloakbrowser"),
    old("Desktop/Discord.desktop", "/scripts/seed-discord-config.sh"),
    old("Desktop/LaunchURL.desktop", "/scripts/launch-url.sh"),
    old("Desktop/ReloadCloak.desktop", "/scripts/reload-cloak.sh"),
    old("Desktop/ResetDiscord.desktop", "/scripts/reset-discord.sh"),
    old("Desktop/Terminal.desktop", "Exec=xfce4-terminal"),
    old("scripts/launch-url.sh", "Open URL in CloakBrowser"),
    old("scripts/reload-cloak.sh", "[reload-cloak]"),
    old("scripts/reset-discord.sh", "[reset-discord]"),
    old("scripts/seed-discord-config.sh", "[seed-discord-config]"),
];

/// Where such a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the home, and it still does what it did.
    Stale,
    /// In the home, but it does something else.
    Changed,
    /// Not in the home.
    Gone,
}

impl OldFile {
    /// `text`: its content in the home; `None` if there is no such file.
    pub fn whereabouts(&self, text: Option<&str>) -> Whereabouts {
        match text {
            None => Whereabouts::Gone,
            Some(text) if text.contains(self.does) => Whereabouts::Stale,
            Some(_) => Whereabouts::Changed,
        }
    }
}

/// Notes about a home, each with whether a person should do something. `found`: where each file of [`FILES`] is.
/// `kept`: how many files were moved to the folder `aside`. Empty if the older image was never here.
pub fn report(found: &[(OldFile, Whereabouts)], kept: usize, aside: &str) -> Vec<(bool, String)> {
    let of =
        |wanted| -> Vec<&str> { found.iter().filter(|(_, is)| *is == wanted).map(|(file, _)| file.path).collect() };
    let (stale, changed) = (of(Whereabouts::Stale), of(Whereabouts::Changed));
    let mut said = Vec::new();
    if !stale.is_empty() {
        said.push((
            true,
            format!(
                "still has files of the older image ({}): the next start of the session moves them to {aside}",
                stale.join(", ")
            ),
        ));
    }
    if !changed.is_empty() {
        said.push((
            true,
            format!(
                "has files with names of the older image that were changed by hand, so they stay ({}): remove those that you do not want",
                changed.join(", ")
            ),
        ));
    }
    if kept > 0 {
        let (files, were) = (counted(kept as u64, "file"), if kept == 1 { "was" } else { "were" });
        let text =
            format!("{files} of the older image {were} moved to {aside}: remove that folder when you will not go back");
        said.push((false, text));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_moved_for_what_it_does_and_not_for_its_name() {
        let icon = FILES[2];
        assert_eq!(icon.whereabouts(Some("Exec=/home/kasm-user/scripts/launch-url.sh\n")), Whereabouts::Stale);
        assert_eq!(icon.whereabouts(Some("Exec=/usr/bin/mousepad\n")), Whereabouts::Changed);
        assert_eq!(icon.whereabouts(None), Whereabouts::Gone);
    }

    #[test]
    fn a_home_that_the_older_image_never_saw_is_not_spoken_of() {
        let gone = FILES.map(|file| (file, Whereabouts::Gone));
        assert_eq!(report(&gone, 0, "aside"), []);
        let one = [(FILES[0], Whereabouts::Stale), (FILES[6], Whereabouts::Changed)];
        let said = report(&one, 3, "aside");
        assert_eq!(said.iter().map(|(todo, _)| *todo).collect::<Vec<_>>(), [true, true, false]);
        assert!(said[0].1.contains("CloakBrowser.desktop") && said[1].1.contains("launch-url.sh"), "{said:?}");
        assert!(said[2].1.contains("3 files"), "{said:?}");
    }
}
