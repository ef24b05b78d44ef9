//! `new`: writes a first manifest, for a command or for the program of a desktop entry.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::json;

use super::print::{say, say_json};
use super::{VerbEnd, session};
use crate::model::desktop_entry::{self, Launcher};
use crate::model::manifest::name;

/// The program that the manifest describes.
pub enum NewFrom {
    /// A program and its arguments.
    Command(Vec<String>),
    /// A desktop entry.
    Entry(PathBuf),
}

/// The place for the new manifest.
pub struct NewManifest {
    /// The app's name. Without one, the desktop entry gives it.
    pub name: Option<String>,
    /// The folder; without one, the user's own.
    pub folder: Option<PathBuf>,
    /// Whether an existing manifest is replaced.
    pub force: bool,
}

/// Writes a first manifest.
///
/// # Errors
/// The name is not allowed or taken, the desktop entry starts no program, or the file cannot be written.
pub fn new(origin: NewFrom, target: NewManifest, json: bool) -> anyhow::Result<VerbEnd> {
    let NewManifest { name, folder, force } = target;
    let folder = folder.map_or_else(session::own_folder, Ok)?;
    let (launcher, proposed) = match origin {
        NewFrom::Command(argv) => (Launcher { argv, ..Launcher::default() }, None),
        NewFrom::Entry(file) => (read(&file)?, Some(name_of(&file))),
    };
    let name = name.or(proposed).context("the app needs a name: `kasm-void new NAME -- COMMAND`")?;
    let text = manifest(&name, &launcher)?;
    let file = folder.join(format!("{name}.ron"));
    write(&file, &text, force)?;
    if json {
        say_json(&json!({ "file": file }))?;
    } else {
        let (shown, folder) = (file.display(), folder.display());
        say(&format!("wrote {shown}: review it, then run `kasm-void check {folder}`"))?;
    }
    Ok(VerbEnd::Done)
}

fn read(file: &Path) -> anyhow::Result<Launcher> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    desktop_entry::read(&text).map_err(|why| anyhow!("{} is not a desktop entry of a program: {why}", file.display()))
}

/// A name for the app of a desktop entry: `mousepad` for `org.xfce.Mousepad.desktop`.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let last = stem.rsplit('.').next().unwrap_or_default();
    let letters = last.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' });
    letters.collect::<String>().trim_matches('-').to_owned()
}

fn write(file: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!force);
    match options.open(file).and_then(|mut file| file.write_all(text.as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!("{} already exists: choose another name, or overwrite it with --force", file.display())
        }
        written => written.with_context(|| format!("cannot write {}", file.display())),
    }
}

/// The manifest's text, with the most common fields as comments.
fn manifest(name: &str, launcher: &Launcher) -> anyhow::Result<String> {
    ensure!(name::is_allowed(name), "`{name}` cannot be the name of an app: {}", name::RULE);
    ensure!(name != name::WORKSPACE, "`{name}` is the session's own manifest: choose another name");
    let Launcher { name: label, comment, argv, cwd, icon, categories, terminal } = launcher;
    // A desktop starts such a program in its own terminal, which is not known here.
    let in_terminal = ["xterm".to_owned(), "-e".to_owned()].into_iter().filter(|_| *terminal);
    let argv: Vec<String> = in_terminal.chain(argv.iter().cloned()).collect();
    let (program, args) = argv.split_first().context("a manifest needs a command: `kasm-void new NAME -- COMMAND`")?;
    let program = absolute(program)?;
    let mut text = String::from("// See docs/manifest.md for every field and its default.\nApp(\n");
    let about = if comment.is_empty() { label } else { comment };
    if !about.is_empty() {
        text.push_str(&format!("    about: {},\n", quoted(about)?));
    }
    text.push_str(&format!("    command: {},\n", quoted(&program)?));
    if !args.is_empty() {
        let words: Vec<String> = args.iter().map(|arg| quoted(arg)).collect::<anyhow::Result<_>>()?;
        text.push_str(&format!("    args: [\n        {},\n    ],\n", words.join(",\n        ")));
    }
    if let Some(cwd) = cwd {
        text.push_str(&format!("    cwd: {},\n", quoted(cwd)?));
    }
    if !label.is_empty() {
        let categories: Vec<String> = categories.iter().map(|word| quoted(word)).collect::<anyhow::Result<_>>()?;
        let (label, icon) = (quoted(label)?, quoted(icon)?);
        text.push_str("    prelaunch: [WaitFor(what: Display, timeout: \"30s\")],\n");
        text.push_str(&format!(
            "    icon: Icon(name: {label}, icon: {icon}, categories: [{}]),\n",
            categories.join(", ")
        ));
    }
    text.push('\n');
    text.push_str(&TEACHING.replace("PROGRAM", &pattern(&program)));
    Ok(text)
}

/// `text` as RON, so that the app receives exactly these characters.
fn quoted(text: &str) -> anyhow::Result<String> {
    Ok(ron::to_string(&text.replace('$', "$$"))?)
}

/// A pattern for the program's command line, inside a RON text in a comment.
fn pattern(program: &str) -> String {
    let escaped = regex_lite::escape(program).replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
    if program.contains('/') { escaped } else { format!("([^ ]*/)?{escaped}") }
}

/// Makes a path absolute. A bare name stays as it is: it is looked up in PATH at each start.
fn absolute(program: &str) -> anyhow::Result<String> {
    if !program.contains('/') {
        return Ok(program.into());
    }
    let path: PathBuf = std::path::absolute(program).with_context(|| format!("cannot make `{program}` absolute"))?;
    path.into_os_string().into_string().ok().with_context(|| format!("the path of `{program}` is not UTF-8"))
}

const TEACHING: &str = r#"    // How to recognize a process of this app that something else started (a desktop icon, an earlier supervisor):
    // matches: Match(cmdline: "^PROGRAM( |$)", exclude: "--type="),

    // Steps before every start; each has a timeout and a setting for its failure:
    // prelaunch: [WaitFor(what: Display, timeout: "30s")],

    // When the app is ready after its start, and whether it still works later:
    // ready: Ready(probe: Tcp(address: "127.0.0.1:9222"), within: "30s"),
    // health: Health(probe: Tcp(address: "127.0.0.1:9222"), every: "10s", failures: 3),

    // Always | OnFailure | Never; and what happens when a user closes it: Restart | Hold
    // restart: Always,
    // on_close: Restart,
    // backoff: Backoff(first: "1s", factor: 2.0, max: "30s", give_up: Never),

    // The signal that stops it, and the time until it is killed:
    // stop: Stop(signal: "TERM", grace: "5s"),

    // Variables from a file; and another user, if kasm-void runs as root:
    // env_files: ["NAME.env"],
    // user: "www-data",

    // log: Log(max_size: "10MiB", keep: 3),
    // limits: Limits(max_rss: "2GiB"),
)
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::loading::parse::parse;
    use crate::model::manifest::Manifest;

    fn parsed(text: &str) -> Manifest {
        parse("a.ron", text).unwrap_or_else(|problems| panic!("{problems:?}:\n{text}"))
    }

    fn command(words: &[&str]) -> Launcher {
        Launcher { argv: words.iter().map(|word| word.to_string()).collect(), ..Launcher::default() }
    }

    #[test]
    fn the_written_manifest_starts_the_same_command() {
        let text = manifest("a", &command(&["xterm", "-e", "say \"hi\" \\ \n$HOME", "é"])).unwrap();
        let manifest = parsed(&text);
        assert_eq!(manifest.command, "xterm");
        assert_eq!(manifest.args, ["-e", "say \"hi\" \\ \n$$HOME", "é"]);
        assert!(manifest.prelaunch.is_empty() && manifest.icon.is_none(), "nothing is known about its windows");
    }

    #[test]
    fn what_it_teaches_is_right() {
        for program in ["/bin/true", "c++", "/opt/\"my\" \\app (1)/x"] {
            let text = manifest("a", &command(&[program])).unwrap();
            let is_field = |line: &str| line.split_once(": ").is_some_and(|(name, _)| !name.contains([' ', '/']));
            let fields = text.lines().map(|line| match line.trim().strip_prefix("// ") {
                Some(field) if is_field(field) => field,
                _ => line,
            });
            let uncommented = parsed(&fields.collect::<Vec<_>>().join("\n"));
            assert!(uncommented.health.is_some() && uncommented.limits.max_rss.is_some());
            assert_eq!(uncommented.prelaunch.len(), 1);
            let pattern = regex_lite::Regex::new(&uncommented.matches.unwrap().cmdline).unwrap();
            assert!(pattern.is_match(&format!("{program} --flag")) && !pattern.is_match(&format!("grep {program}")));
        }
    }

    #[test]
    fn a_desktop_entry_becomes_an_app_with_an_icon() {
        let launcher = Launcher {
            name: "Mousepad".into(),
            comment: "Simple Text Editor".into(),
            cwd: Some("/srv".into()),
            icon: "org.xfce.mousepad".into(),
            categories: vec!["Utility".into()],
            ..command(&["mousepad", "--x"])
        };
        let manifest = parsed(&manifest("a", &launcher).unwrap());
        let icon = manifest.icon.unwrap();
        assert_eq!((icon.name.as_str(), icon.icon.as_str()), ("Mousepad", "org.xfce.mousepad"));
        assert_eq!((manifest.about.as_str(), manifest.cwd.as_deref()), ("Simple Text Editor", Some("/srv")));
        assert_eq!(manifest.prelaunch.len(), 1, "it waits for the display");
    }

    #[test]
    fn a_program_of_the_terminal_gets_one() {
        let vim = Launcher { name: "Vim".into(), terminal: true, ..command(&["vim"]) };
        let manifest = parsed(&manifest("vim", &vim).unwrap());
        assert_eq!((manifest.command.as_str(), &manifest.args[..]), ("xterm", &["-e".into(), "vim".into()][..]));
    }

    #[test]
    fn the_name_of_a_desktop_entry_is_that_of_its_program() {
        for (file, name) in [
            ("/usr/share/applications/org.xfce.mousepad.desktop", "mousepad"),
            ("chromium.desktop", "chromium"),
            ("org.gnome.Text Editor.desktop", "text-editor"),
            ("com.Ünal.desktop", "nal"),
        ] {
            assert_eq!(name_of(Path::new(file)), name);
        }
    }

    #[test]
    fn every_desktop_entry_of_this_machine_becomes_a_manifest_or_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir("/usr/share/applications").into_iter().flatten().flatten() {
            let to = || NewManifest { name: None, folder: Some(folder.path().into()), force: true };
            match new(NewFrom::Entry(entry.path()), to(), true) {
                Ok(_) => {
                    let file = folder.path().join(format!("{}.ron", name_of(&entry.path())));
                    parsed(&std::fs::read_to_string(file).unwrap());
                }
                Err(why) => assert!(why.to_string().contains("is not a desktop entry of a program"), "{why}"),
            }
        }
    }

    #[test]
    fn a_relative_program_is_written_so_that_it_holds_everywhere() {
        let manifest = parsed(&manifest("a", &command(&["./run.sh"])).unwrap());
        assert!(Path::new(&manifest.command).is_absolute(), "{}", manifest.command);
    }

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        for name in ["", "../a", "a/b", ".a", "-a", "a b", "workspace", "a.ron"] {
            assert!(manifest(name, &command(&["x"])).is_err(), "{name}");
        }
    }

    #[test]
    fn a_manifest_is_not_written_over_unless_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("deep/manifests");
        let write = |program: &str, force| {
            let target = NewManifest { name: Some("a".into()), folder: Some(dir.clone()), force };
            new(NewFrom::Command(vec![program.into()]), target, true)
        };
        write("first", false).unwrap();
        let error = write("second", false).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        assert!(std::fs::read_to_string(dir.join("a.ron")).unwrap().contains("first"));
        write("third", true).unwrap();
        assert_eq!(parsed(&std::fs::read_to_string(dir.join("a.ron")).unwrap()).command, "third");
    }
}
