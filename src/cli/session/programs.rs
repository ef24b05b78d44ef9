//! The programs of the built-in session, and the Debian packages that have them.

use std::path::Path;

use crate::model::loading::surroundings::on_path;

/// The names of Chromium and its kin, in the order of preference.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];

/// Each program with the manifest that runs it and its package. A path stands for a file.
const NEEDS: [(&str, &str, &str); 8] = [
    ("display.ron", "Xtigervnc", "tigervnc-standalone-server"),
    ("wm.ron", "openbox", "openbox"),
    ("wm.ron", "wmctrl", "wmctrl"),
    ("novnc.ron", "websockify", "websockify"),
    ("novnc.ron", "/usr/share/novnc/core/rfb.js", "novnc"),
    ("terminal.ron", "xterm", "xterm"),
    ("status.ron", "xterm", "xterm"),
    ("chromium.ron", "chromium", "chromium"),
];

/// The browser to run: the first of [`BROWSERS`] that is on `path`.
pub fn browser(path: &str, is_program: &dyn Fn(&str) -> bool) -> Option<String> {
    BROWSERS.iter().find_map(|name| on_path(name, path, is_program))
}

/// The packages whose programs are missing. `has` says whether the session has that manifest, and `browser` whether a
/// browser was found.
pub fn missing(
    has: &dyn Fn(&str) -> bool,
    path: &str,
    is_program: &dyn Fn(&str) -> bool,
    browser: bool,
) -> Vec<&'static str> {
    let is_there = |what: &str| match what {
        "chromium" => browser,
        file if file.starts_with('/') => Path::new(file).exists(),
        name => on_path(name, path, is_program).is_some(),
    };
    let absent = NEEDS.iter().filter(|(manifest, what, _)| has(manifest) && !is_there(what));
    let mut packages: Vec<_> = absent.map(|(_, _, package)| *package).collect();
    packages.dedup();
    packages
}

/// How to get these packages here.
pub fn way_out(packages: &[&str], path: &str, is_program: &dyn Fn(&str) -> bool, root: bool) -> String {
    let packages = packages.join(" ");
    match on_path("apt-get", path, is_program) {
        Some(_) if root => format!("apt-get install {packages}"),
        Some(_) => format!("sudo apt-get install {packages}"),
        None => format!("install what matches these Debian packages: {packages}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: &dyn Fn(&str) -> bool = &|_| true;
    const NOTHING: &dyn Fn(&str) -> bool = &|_| false;

    #[test]
    fn only_what_the_session_runs_can_be_missing() {
        let all = missing(EVERYTHING, "/bin", NOTHING, false);
        assert!(["openbox", "xterm", "chromium"].iter().all(|package| all.contains(package)), "{all:?}");
        assert_eq!(all.iter().filter(|package| **package == "xterm").count(), 1, "{all:?}");
        assert_eq!(missing(&|manifest| manifest == "wm.ron", "/bin", NOTHING, false), ["openbox", "wmctrl"]);
        assert_eq!(
            missing(&|manifest| manifest == "wm.ron", "/bin", &|file| file == "/bin/wmctrl", false),
            ["openbox"]
        );
        assert!(missing(NOTHING, "/bin", NOTHING, false).is_empty());
    }

    #[test]
    fn any_browser_of_the_family_will_do() {
        assert_eq!(browser("/a:/b", &|file| file == "/b/google-chrome").as_deref(), Some("/b/google-chrome"));
        assert_eq!(browser("/a:/b", &|_| true).as_deref(), Some("/a/chromium"));
        assert_eq!(browser("/a:/b", NOTHING), None);
        assert!(missing(&|manifest| manifest == "chromium.ron", "/b", NOTHING, true).is_empty());
    }

    #[test]
    fn the_way_out_is_one_that_this_machine_has() {
        assert_eq!(way_out(&["a", "b"], "/bin", EVERYTHING, true), "apt-get install a b");
        assert_eq!(way_out(&["a"], "/bin", EVERYTHING, false), "sudo apt-get install a");
        assert!(way_out(&["a"], "/bin", NOTHING, true).contains("Debian packages: a"));
    }
}
