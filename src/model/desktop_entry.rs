//! Reads a desktop entry, as in `/usr/share/applications`, for `kasm-void new --from`. The writing side is
//! `manifest::icon`.

use std::collections::BTreeMap;

/// The parts of a desktop entry that a manifest is made from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Launcher {
    /// The visible name.
    pub name: String,
    /// One line about the program; may be empty.
    pub comment: String,
    /// The program and its arguments, without the places for files and URLs.
    pub argv: Vec<String>,
    /// The working folder.
    pub cwd: Option<String>,
    /// A name from the icon theme or the path of an image; may be empty.
    pub icon: String,
    /// Menu categories.
    pub categories: Vec<String>,
    /// Whether the program wants a terminal.
    pub terminal: bool,
}

/// Reads the text of a desktop entry.
///
/// # Errors
/// The text is no entry of a program, with the reason in words.
pub fn read(text: &str) -> Result<Launcher, String> {
    let keys = main_group(text)?;
    let value = |key: &str| keys.get(key).map(|value| unescaped(value)).unwrap_or_default();
    match value("Type").as_str() {
        "Application" => {}
        "" => return Err("it has no `Type`".into()),
        other => return Err(format!("it is of the type `{other}`, and only an `Application` starts a program")),
    }
    if let Some(app) = keys.get("X-KasmVoid-App") {
        return Err(format!("it is an icon of kasm-void itself, for the app `{app}`"));
    }
    let exec = keys.get("Exec").ok_or("it has no `Exec`")?;
    let argv = words(&unescaped(exec), &value("Name"), &value("Icon"))?;
    if argv.is_empty() {
        return Err("its `Exec` is empty".into());
    }
    Ok(Launcher {
        name: value("Name"),
        comment: value("Comment"),
        argv,
        cwd: Some(value("Path")).filter(|path| !path.is_empty()),
        icon: value("Icon"),
        categories: value("Categories").split(';').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
        terminal: value("Terminal") == "true",
    })
}

/// The keys of `[Desktop Entry]`, without translations. Other groups are the entry's actions.
fn main_group(text: &str) -> Result<BTreeMap<&str, &str>, String> {
    let lines = text.lines().map(str::trim).skip_while(|line| *line != "[Desktop Entry]").skip(1);
    let keys: BTreeMap<_, _> = lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim_end(), value.trim_start()))
        .collect();
    if keys.is_empty() { Err("it has no group `[Desktop Entry]`".into()) } else { Ok(keys) }
}

/// A value of the type string: `\s`, `\n`, `\t`, `\r` and `\\` are escapes.
fn unescaped(value: &str) -> String {
    let mut out = String::new();
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, false) => out.push(letter),
            (_, true) => match letters.next() {
                Some('s') => out.push(' '),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some('\\') => out.push('\\'),
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            },
        }
    }
    out
}

/// The words of `Exec`. Field codes stand in words of their own or within one; those for files and URLs become nothing,
/// as for a click on the icon.
fn words(exec: &str, name: &str, icon: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = exec.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' if !quoted => words.extend(word.take()),
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(letters.next()),
            '%' => match letters.next() {
                Some('%') => word.get_or_insert_default().push('%'),
                Some('c') => word.get_or_insert_default().push_str(name),
                Some('i') if !icon.is_empty() => words.extend(["--icon".into(), icon.to_owned()]),
                Some(_) | None => {}
            },
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    if quoted { Err("a `\"` in its `Exec` is not closed".into()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::manifest::icon::{self, Icon};

    const MOUSEPAD: &str = "\
# a comment
[Desktop Entry]
Name=Mousepad
Name[de]=Texteditor
Comment=Simple Text Editor
Exec=mousepad %U
Icon=org.xfce.mousepad
Terminal=false
Type=Application
Categories=Utility;TextEditor;GTK;
Path=/srv/texts

[Desktop Action new-window]
Name=New Window
Exec=mousepad --new-window
";

    #[test]
    fn a_program_with_everything() {
        let mousepad = Launcher {
            name: "Mousepad".into(),
            comment: "Simple Text Editor".into(),
            argv: vec!["mousepad".into()],
            cwd: Some("/srv/texts".into()),
            icon: "org.xfce.mousepad".into(),
            categories: ["Utility", "TextEditor", "GTK"].map(str::to_owned).to_vec(),
            terminal: false,
        };
        assert_eq!(read(MOUSEPAD), Ok(mousepad));
    }

    #[test]
    fn the_words_of_exec_have_rules_of_their_own() {
        let argv = |exec: &str| {
            let text = format!("[Desktop Entry]\nType=Application\nName=The App\nIcon=i\nExec={exec}\n");
            read(&text).map(|launcher| launcher.argv)
        };
        let ok = |words: &[&str]| Ok(words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        assert_eq!(argv("/usr/bin/app --new %f --x=%u"), ok(&["/usr/bin/app", "--new", "--x="]));
        assert_eq!(argv(r#""/opt/My App/app" "a \\"b\\" \\$c" 100%%"#), ok(&["/opt/My App/app", "a \"b\" $c", "100%"]));
        assert_eq!(argv("app  -t  %c %i -e"), ok(&["app", "-t", "The App", "--icon", "i", "-e"]));
        assert_eq!(argv(r#"sh -c "echo ''""#), ok(&["sh", "-c", "echo ''"]));
        assert_eq!(argv("app \"\""), ok(&["app", ""]));
        assert!(argv("app \"x").unwrap_err().contains("not closed"));
        assert!(argv("%U").unwrap_err().contains("empty"));
    }

    #[test]
    fn what_starts_no_program_is_refused_with_the_reason() {
        for (text, part) in [
            ("", "no group"),
            ("App(command: \"x\")", "no group"),
            ("[Desktop Entry]\nName=x\nExec=x\n", "no `Type`"),
            ("[Desktop Entry]\nType=Link\nURL=https://example.com\n", "`Link`"),
            ("[Desktop Entry]\nType=Application\nDBusActivatable=true\n", "no `Exec`"),
            ("[Desktop Entry]\nType=Application\nExec=kasm-void show a\nX-KasmVoid-App=a\n", "for the app `a`"),
        ] {
            assert!(read(text).unwrap_err().contains(part), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_we_write_ourselves_reads_back(name in "[^\\p{C}\\s]{1,9}", through in "/[^\\p{C}]{1,12}") {
            let icon = Icon { name: name.clone(), ..Icon::default() };
            let entry = icon::entries("app", "", &icon, Some(&through)).remove(0);
            let text = entry.text.replace("X-KasmVoid-App=app", "");
            let launcher = read(&text).unwrap();
            prop_assert_eq!(launcher.argv, vec![through, name.clone(), "show".into(), "app".into()], "{}", text);
            prop_assert_eq!(launcher.name, name);
        }

        #[test]
        fn no_text_makes_it_stumble(text in "(\\[Desktop Entry\\]\n)?((Type|Exec|Name)=[^\n]*\n){0,4}") {
            drop(read(&text));
        }
    }
}
