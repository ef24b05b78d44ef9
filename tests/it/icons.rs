//! Desktop icons: their files, what a click does, and that the image's icons match its manifests.

use std::fs;
use std::path::Path;

use crate::harness::{Session, until};

/// Records each of its starts. Only the first one keeps running.
const SINGLE: &str =
    "echo \"$*\" >>\"$DATA/starts\"\nmkdir \"$DATA/first\" 2>/dev/null || exit 0\nread _ <>\"$DATA/never\"\n";

fn single(icon: &str) -> Session {
    let manifest = format!(
        r#"App(command: "${{BIN}}/web", args: ["--profile"], args_last: ["start"], icon: Icon(name: "Web", {icon}))"#
    );
    let session = Session::new().program("web", SINGLE).app("web", &manifest).start();
    session.pid("web");
    session
}

fn starts(session: &Session, count: usize) -> Vec<String> {
    until("so many starts", || {
        let text = fs::read_to_string(session.data().join("starts")).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
}

#[test]
fn a_click_on_an_app_that_is_up_shows_it() {
    let session = single(r#"again: ["--new-window"]"#);
    let pid = session.pid("web");
    session.ok(&["show", "web"]);
    starts(&session, 2);
    session.ok(&["show", "web", "other"]);
    assert_eq!(
        starts(&session, 3),
        ["--profile start", "--profile --new-window start", "--profile --new-window other"]
    );
    assert_eq!(session.pid("web"), pid);
}

#[test]
fn a_click_on_an_app_that_is_down_starts_it() {
    let session = single("");
    session.ok(&["stop", "web"]);
    fs::remove_dir(session.data().join("first")).unwrap();
    session.ok(&["show", "web"]);
    session.pid("web");
    assert!(session.ok(&["show", "web"]).contains("is already running"));
    assert_eq!(starts(&session, 2), ["--profile start", "--profile start"]);
}

#[test]
fn a_broken_manifest_costs_its_own_icons() {
    let session = Session::new()
        .app("good", r#"App(command: "/bin/true", icon: Icon(name: "Good"))"#)
        .app("plain", r#"App(command: "/bin/true")"#)
        .app("broken", "App(comand: 1)")
        .start();
    let into = session.data().join("icons");
    let output = session.cli(&["icons", session.manifests().to_str().unwrap(), "--into", into.to_str().unwrap()]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("did you mean `command`"), "{output:?}");
    assert_eq!(names(&into), ["good.desktop"]);
}

/// `BLESS=1` writes the icons.
#[test]
fn the_images_icons_are_those_of_its_manifests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shipped = root.join("image/rootfs/opt/kasm-void/Desktop");
    let made = tempfile::tempdir().unwrap();
    let into = if std::env::var_os("BLESS").is_some() { shipped.clone() } else { made.path().to_owned() };
    let (manifests, into) = (root.join("manifests"), into.to_str().unwrap().to_owned());
    let session = Session::new();
    session.ok(&[
        "icons",
        manifests.to_str().unwrap(),
        "--into",
        &into,
        "--through",
        "/opt/kasm-void/scripts/click.sh",
    ]);
    let written_by_hand = ["open-url.desktop", "terminal.desktop"];
    let mut wanted: Vec<String> = names(Path::new(&into));
    for name in &wanted {
        let text = |folder: &Path| fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(text(&shipped), text(Path::new(&into)), "{name}: run this test with BLESS=1");
    }
    wanted.extend(written_by_hand.map(str::to_owned));
    wanted.sort();
    wanted.dedup();
    assert_eq!(names(&shipped), wanted, "an icon without a manifest");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
