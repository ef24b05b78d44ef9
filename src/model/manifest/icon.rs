//! Icons: turns a manifest's `icon` into desktop entries, one for the app and one for each action it names. Owns the
//! command of a click and the quoting of desktop entries. Writes no file.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::model::manifest::fields::Fields;
use crate::model::spelling::closest;

/// A desktop icon.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Icon {
    /// The text below the icon.
    pub name: String,
    /// A name from the icon theme or the path of an image; may be empty.
    #[serde(default)]
    pub icon: String,
    /// Menu categories, as in a desktop entry.
    #[serde(default)]
    pub categories: Vec<String>,
    /// A click while the app is up runs its command line once more, with these after `args`. Without it such a click
    /// does nothing.
    #[serde(default)]
    pub again: Option<Vec<String>>,
    /// Actions that have an icon of their own, with the icon's name.
    #[serde(default)]
    pub actions: BTreeMap<String, String>,
}

impl Icon {
    /// `actions` are the actions that the app has.
    pub fn check<H>(self, fields: &mut Fields<'_>, actions: &BTreeMap<String, H>) -> Icon {
        let Icon { name, icon, categories, again, actions: shown } = self;
        for action in shown.keys().filter(|action| !actions.contains_key(*action)) {
            let near = closest(action, actions.keys().map(String::as_str));
            let help = near.map_or("add it to `actions`".into(), |near| format!("did you mean `{near}`?"));
            fields.mismatch("actions", format!("no action is called `{action}`"), help);
        }
        Icon { name, icon, categories, again: again.map(|words| fields.texts("again", words)), actions: shown }
    }
}

/// A desktop entry: its file name and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesktopEntry {
    /// The file's name, ending in `.desktop`.
    pub file: String,
    /// The whole content of the file.
    pub text: String,
}

/// The entries of an app. `through` is a program that runs `kasm-void` for a click and shows the result. Its arguments
/// are the icon's name and then the arguments of `kasm-void`.
pub fn entries(app: &str, about: &str, icon: &Icon, through: Option<&str>) -> Vec<DesktopEntry> {
    let own = DesktopEntry {
        file: format!("{app}.desktop"),
        text: entry(app, icon, (&icon.name, about), &exec(through, &["show", app])),
    };
    let actions = icon.actions.iter().map(|(action, name)| DesktopEntry {
        file: format!("{app}-{action}.desktop"),
        text: entry(app, icon, (name, ""), &exec(through, &["do", app, action])),
    });
    std::iter::once(own).chain(actions).collect()
}

fn entry(app: &str, icon: &Icon, (name, comment): (&str, &str), exec: &str) -> String {
    let mut text = String::from("[Desktop Entry]\nType=Application\nVersion=1.0\n");
    let mut line = |key: &str, value: &str| {
        if !value.is_empty() {
            writeln!(text, "{key}={}", escaped(value)).expect("a string takes everything");
        }
    };
    line("Name", name);
    line("Comment", comment);
    line("Exec", exec);
    line("Icon", &icon.icon);
    line("Categories", &icon.categories.iter().map(|category| format!("{category};")).collect::<String>());
    line("Terminal", "false");
    line("X-KasmVoid-App", app);
    text
}

fn exec(through: Option<&str>, words: &[&str]) -> String {
    let before = match through {
        Some(program) => vec![quoted(program), "%c".into()],
        None => vec!["kasm-void".into()],
    };
    before.into_iter().chain(words.iter().map(|word| quoted(word))).collect::<Vec<_>>().join(" ")
}

/// Quotes a word for `Exec`, which has its own quoting rules and needs `%%` for `%`.
fn quoted(word: &str) -> String {
    let word = word.replace('%', "%%");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word;
    }
    let inside: String =
        word.chars().flat_map(|c| ['\\'].into_iter().filter(move |_| "\"`$\\".contains(c)).chain([c])).collect();
    format!("\"{inside}\"")
}

/// Escapes a value so that it fits on one line.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn browser() -> Icon {
        Icon {
            name: "The Browser".into(),
            icon: "web-browser".into(),
            categories: vec!["Network".into(), "WebBrowser".into()],
            again: None,
            actions: [("reload".to_owned(), "Reload it".to_owned())].into(),
        }
    }

    #[test]
    fn an_app_has_an_icon_and_one_for_each_action_it_names() {
        let made = entries("browser", "one\ntwo", &browser(), None);
        assert_eq!(
            made.iter().map(|entry| &*entry.file).collect::<Vec<_>>(),
            ["browser.desktop", "browser-reload.desktop"]
        );
        assert_eq!(
            made[0].text,
            "[Desktop Entry]\nType=Application\nVersion=1.0\nName=The Browser\nComment=one\\ntwo\n\
             Exec=kasm-void show browser\nIcon=web-browser\nCategories=Network;WebBrowser;\nTerminal=false\n\
             X-KasmVoid-App=browser\n"
        );
        assert!(made[1].text.contains("\nName=Reload it\nExec=kasm-void do browser reload\n"), "{}", made[1].text);
    }

    #[test]
    fn a_program_in_between_is_told_the_name_first() {
        let made = entries("browser", "one\ntwo", &browser(), Some("/opt/my tools/100%$x"));
        assert!(made[0].text.contains("\nExec=\"/opt/my tools/100%%\\\\$x\" %c show browser\n"), "{}", made[0].text);
    }
}
