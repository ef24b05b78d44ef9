//! The language server, spoken to as an editor does.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Session, binary, finish, not_run, until};

/// An editor with its language server.
struct Editor {
    server: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    last: u64,
    /// Diagnostics that were told and not looked at, by URI.
    diagnostics: Vec<(String, Value)>,
}

impl Editor {
    fn start(session: &Session, folders: &[String]) -> Editor {
        let mut command = session.command(binary());
        command.arg("lsp").args(folders).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.spawn().expect("the built binary");
        let (to, from) = (server.stdin.take().expect("stdin"), server.stdout.take().expect("stdout"));
        let mut editor = Editor { server, to, from: BufReader::new(from), last: 0, diagnostics: Vec::new() };
        let asked = editor.ask("initialize", &json!({ "capabilities": {} }));
        assert_eq!(asked["capabilities"]["hoverProvider"], true, "{asked}");
        editor.tell("initialized", &json!({}));
        editor
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        write!(self.to, "Content-Length: {}\r\n\r\n{text}", text.len()).expect("a server that reads");
        self.to.flush().expect("a server that reads");
    }

    fn receive(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).expect("a header") > 0, "the server has ended");
            match line.trim() {
                "" => break,
                header => {
                    if let Some(value) = header.strip_prefix("Content-Length: ") {
                        length = value.parse().expect("a length");
                    }
                }
            }
        }
        let mut text = vec![0; length];
        self.from.read_exact(&mut text).expect("a whole message");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn tell(&mut self, method: &str, params: &Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        let id = self.last;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let message = self.receive();
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{message}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, message: &Value) {
        if message["method"] == "textDocument/publishDiagnostics" {
            let uri = message["params"]["uri"].as_str().expect("a URI").to_owned();
            self.diagnostics.retain(|(known, _)| *known != uri);
            self.diagnostics.push((uri, message["params"]["diagnostics"].clone()));
        }
    }

    /// Waits for the next diagnostics of this file.
    fn problems(&mut self, uri: &str) -> Vec<Value> {
        loop {
            if let Some(at) = self.diagnostics.iter().position(|(known, _)| known == uri) {
                return self.diagnostics.remove(at).1.as_array().expect("a list").clone();
            }
            let message = self.receive();
            self.note(&message);
        }
    }

    fn open(&mut self, uri: &str, text: &str) {
        let document = json!({ "uri": uri, "languageId": "ron", "version": 1, "text": text });
        self.tell("textDocument/didOpen", &json!({ "textDocument": document }));
    }

    fn change(&mut self, uri: &str, text: &str) {
        let params = json!({ "textDocument": { "uri": uri, "version": 2 }, "contentChanges": [{ "text": text }] });
        self.tell("textDocument/didChange", &params);
    }

    /// Asks about the place of `|` in a text of one line.
    fn at(&mut self, method: &str, uri: &str, marked: &str) -> Value {
        self.change(uri, &marked.replacen('|', "", 1));
        let character = marked[..marked.find('|').expect("a mark")].encode_utf16().count();
        let position = json!({ "line": 0, "character": character });
        self.ask(method, &json!({ "textDocument": { "uri": uri }, "position": position }))
    }

    fn leave(mut self) {
        self.ask("shutdown", &Value::Null);
        self.tell("exit", &Value::Null);
        let status = until("the server ends", || self.server.try_wait().expect("wait"));
        assert!(status.success(), "{status}");
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        // Already reaped if the story went well.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn uri(file: &Path) -> String {
    format!("file://{}", file.canonicalize().unwrap_or(file.into()).display())
}

fn labels(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|item| item["label"].as_str()).collect()
}

#[test]
fn an_editor_sees_problems_meanings_and_words_while_typing() {
    let session = Session::new().stayer("web").app("display", r#"App(command: "${BIN}/web")"#);
    session.edit("web", r#"App(command: "${BIN}/web")"#);
    let web = uri(&session.manifests().join("web.ron"));
    let mut editor = Editor::start(&session, &[]);
    editor.open(&web, r#"App(about: "café 😀", comand: "${BIN}/web")"#);
    let problems = editor.problems(&web);
    assert_eq!(problems.len(), 1, "{problems:?}");
    // Columns are counted in UTF-16.
    assert_eq!(problems[0]["range"]["start"], json!({ "line": 0, "character": 22 }), "{problems:?}");
    assert!(
        problems[0]["message"].as_str().is_some_and(|text| text.contains("did you mean `command`?")),
        "{problems:?}"
    );

    editor.change(&web, r#"App(command: "${BIN}/web", after: ["display"])"#);
    assert!(editor.problems(&web).is_empty());
    editor.change(&web, r#"App(command: "${BIN}/web", after: ["dispaly"])"#);
    assert!(editor.problems(&web)[0]["message"].as_str().is_some_and(|text| text.contains("dispaly")));

    let hover = editor.at("textDocument/hover", &web, r#"App(command: "x", stop: Stop(gr|ace: "5s"))"#);
    assert!(hover["contents"]["value"].as_str().is_some_and(|text| text.contains("how long to wait")), "{hover}");
    let words = editor.at("textDocument/completion", &web, r#"App(command: "x", re|)"#);
    assert!(labels(&words).contains(&"restart") && !labels(&words).contains(&"command"), "{words}");
    let words = editor.at("textDocument/completion", &web, r#"App(command: "x", after: ["|"])"#);
    assert_eq!(labels(&words), ["display"], "and not the app itself");
    let place = editor.at("textDocument/definition", &web, r#"App(command: "x", after: ["dis|play"])"#);
    assert_eq!(place["uri"], uri(&session.manifests().join("display.ron")));

    // A new file is checked before it is saved. What it names is known once that is saved.
    let new = uri(&session.manifests()) + "/new.ron";
    editor.open(&new, r#"App(command: "${BIN}/web", after: ["later"])"#);
    assert_eq!(editor.problems(&new).len(), 1);
    fs::write(session.manifests().join("later.ron"), r#"App(command: "${BIN}/web")"#).expect("a manifest");
    editor.tell("textDocument/didSave", &json!({ "textDocument": { "uri": new } }));
    assert!(editor.problems(&new).is_empty());
    editor.leave();
}

#[test]
fn apps_of_other_folders_are_known_where_the_folders_are_named() {
    let session = Session::new().stayer("web").app("display", r#"App(command: "${BIN}/web")"#);
    let mine = session.home().join("mine");
    fs::create_dir(&mine).expect("a folder");
    let text = r#"App(command: "${BIN}/web", after: ["display"])"#;
    fs::write(mine.join("web.ron"), text).expect("a manifest");
    let web = uri(&mine.join("web.ron"));
    let both = [session.manifests(), mine.clone()].map(|folder| folder.display().to_string());
    for (folders, problems) in [(&both[..0], 1), (&both[..], 0)] {
        let mut editor = Editor::start(&session, folders);
        editor.open(&web, text);
        assert_eq!(editor.problems(&web).len(), problems, "{folders:?}");
        editor.leave();
    }
}

#[test]
fn the_other_manifests_are_as_on_the_disk_once_they_are_closed_or_saved() {
    let session = Session::new().stayer("web").app("display", r#"App(command: "${BIN}/web")"#);
    session.edit("web", r#"App(command: "${BIN}/web")"#);
    let [web, display] = ["web", "display"].map(|name| uri(&session.manifests().join(format!("{name}.ron"))));
    let mut editor = Editor::start(&session, &[]);
    editor.open(&web, r#"App(command: "${BIN}/web", after: ["display"])"#);
    assert!(editor.problems(&web).is_empty());
    // A circle, as long as it is only in the editor. The newcomer of the two is told.
    editor.open(&display, r#"App(command: "${BIN}/web", after: ["web"])"#);
    let told = [editor.problems(&web), editor.problems(&display)].concat();
    assert!(told[0]["message"].as_str().is_some_and(|text| text.contains("wait for each other")), "{told:?}");
    editor.tell("textDocument/didClose", &json!({ "textDocument": { "uri": display } }));
    assert!(editor.problems(&display).is_empty() && editor.problems(&web).is_empty());
    // A program that is missing is a warning until it is there, whichever file is typed in.
    editor.change(&web, r#"App(command: "${BIN}/later")"#);
    assert_eq!(editor.problems(&web).len(), 1);
    symlink(session.bin().join("web"), session.bin().join("later")).expect("a program");
    editor.tell("textDocument/didSave", &json!({ "textDocument": { "uri": web } }));
    assert!(editor.problems(&web).is_empty());
    editor.leave();
}

/// The Lua of the docs for a Neovim that is older than 0.11, as Debian and Ubuntu have it.
fn set_up_of_the_docs() -> String {
    let docs = include_str!("../../docs/editors.md");
    let (_, section) = docs.split_once("## Neovim 0.7 to 0.10").expect("a section for older Neovims");
    let (_, lua) = section.split_once("```lua\n").expect("its Lua");
    lua.split("```").next().expect("split gives one").into()
}

#[test]
fn a_person_in_neovim_sees_what_is_wrong_and_what_fits() {
    if Command::new("nvim").arg("--version").output().is_err() {
        return not_run("manifests in Neovim", "it needs the package neovim");
    }
    let session = Session::new().app("display", r#"App(command: "/bin/sleep", args: ["9"])"#).app(
        "web",
        "App(\n    comand: \"/bin/sleep\",\n    stop: Stop(grace: \"5s\"),\n    after: [\"dispaly\"],\n)\n",
    );
    let (init, story, shown) =
        (session.home().join("init.lua"), session.home().join("story.lua"), session.data().join("shown"));
    fs::write(&init, set_up_of_the_docs()).expect("a set-up");
    fs::write(&story, include_str!("lsp/neovim.lua")).expect("a story");
    symlink(binary(), session.bin().join("kasm-void")).expect("the binary on PATH");
    let path = format!("{}:{}", session.bin().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = session.command("nvim");
    command.env("PATH", path).env("SHOWN", &shown).env("TERM", "xterm").env("XDG_RUNTIME_DIR", session.data());
    command.args(["--headless", "-n", "-u"]).arg(&init).arg("-S").arg(&story).arg(session.manifests().join("web.ron"));
    let output = finish(command);
    let text = fs::read_to_string(&shown).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        shown["mistake"],
        json!([1, 4, "there is no field `comand` of `App`\ndid you mean `command`?"]),
        "{shown}"
    );
    assert_eq!(shown["next"], json!([3, 12, "no app is called `dispaly`\ndid you mean `display`?"]), "{shown}");
    assert!(shown["meaning"].as_str().is_some_and(|text| text.contains("how long to wait")), "{shown}");
    assert_eq!(shown["words"], json!(["display"]), "{shown}");
}
