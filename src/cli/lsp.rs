//! `lsp`: a language server for manifests, over stdin and stdout. `check` finds the problems and `model::editor` the
//! words; this file speaks the protocol.

mod documents;

use std::path::PathBuf;

use anyhow::Context;
use lsp_server::{Connection, Message, Notification, Request, Response};
use serde_json::{Value, json};

use super::VerbEnd;
use crate::model::editor::{self, Suggestion};
use documents::{Document, Documents, Encoding};

/// The kinds of words in the protocol's numbers: a field, a value.
const FIELD: u8 = 5;
const VALUE: u8 = 12;

/// Serves one editor until it leaves. `folders` are the manifest folders of the session, in the order of `run`; a file
/// elsewhere is checked together with its own folder.
pub fn serve(folders: Vec<PathBuf>) -> anyhow::Result<VerbEnd> {
    let (connection, threads) = Connection::stdio();
    let served = talk(&connection, folders);
    drop(connection); // the writing thread ends with it
    served.and(threads.join().context("cannot talk to the editor"))?;
    Ok(VerbEnd::Done)
}

fn talk(connection: &Connection, folders: Vec<PathBuf>) -> anyhow::Result<()> {
    let (id, asked) = connection.initialize_start()?;
    let offered = asked["capabilities"]["general"]["positionEncodings"].as_array();
    let utf8 = offered.is_some_and(|offered| offered.iter().any(|one| one == "utf-8"));
    let encoding = if utf8 { Encoding::Utf8 } else { Encoding::Utf16 };
    connection.initialize_finish(id, abilities(encoding))?;
    let mut documents = Documents::new(folders, encoding);
    while let Ok(message) = connection.receiver.recv() {
        let mut next = Some(message);
        // After fast typing, only the last version of the text is checked.
        while let Some(message) = next {
            match message {
                Message::Request(request) => {
                    if connection.handle_shutdown(&request)? {
                        return Ok(());
                    }
                    connection.sender.send(answer(&documents, request).into())?;
                }
                Message::Notification(told) => take(&mut documents, &told),
                Message::Response(_) => {} // nothing was asked
            }
            next = connection.receiver.try_recv().ok();
        }
        for (uri, diagnostics) in documents.new_diagnostics() {
            let params = json!({ "uri": uri, "diagnostics": diagnostics });
            let told = Notification { method: "textDocument/publishDiagnostics".into(), params };
            connection.sender.send(told.into())?;
        }
    }
    Ok(())
}

fn abilities(encoding: Encoding) -> Value {
    json!({
        "capabilities": {
            "positionEncoding": encoding.name(),
            "textDocumentSync": { "openClose": true, "change": 1, "save": true },
            "hoverProvider": true,
            "completionProvider": { "triggerCharacters": ["(", "[", "\"", "{"] },
            "definitionProvider": true,
        },
        "serverInfo": { "name": "kasm-void", "version": env!("CARGO_PKG_VERSION") },
    })
}

fn take(documents: &mut Documents, told: &Notification) {
    let params = &told.params;
    let uri = params["textDocument"]["uri"].as_str().unwrap_or_default();
    match told.method.as_str() {
        "textDocument/didOpen" => documents.open(uri, params["textDocument"]["text"].as_str().unwrap_or_default()),
        "textDocument/didChange" => {
            let last = params["contentChanges"].as_array().and_then(|changes| changes.last());
            if let Some(text) = last.and_then(|change| change["text"].as_str()) {
                documents.change(uri, text);
            }
        }
        "textDocument/didClose" => documents.close(uri),
        "textDocument/didSave" | "workspace/didChangeWatchedFiles" => documents.read_again(),
        _ => {}
    }
}

fn answer(documents: &Documents, Request { id, method, params }: Request) -> Response {
    let uri = params["textDocument"]["uri"].as_str().unwrap_or_default();
    let found = documents.get(uri).map(|document| (document, document.byte(&params["position"])));
    let result = match (method.as_str(), found) {
        ("textDocument/hover", Some((document, at))) => hover(document, at),
        ("textDocument/completion", Some((document, at))) => completion(documents, document, at),
        ("textDocument/definition", Some((document, at))) => definition(documents, document, at),
        ("textDocument/hover" | "textDocument/completion" | "textDocument/definition", None) => Value::Null,
        _ => {
            let code = lsp_server::ErrorCode::MethodNotFound as i32;
            return Response::new_err(id, code, format!("kasm-void does not know {method}"));
        }
    };
    Response::new_ok(id, result)
}

fn hover(document: &Document, at: usize) -> Value {
    let Some((word, text)) = editor::hover(&document.text, at) else { return Value::Null };
    json!({ "contents": { "kind": "markdown", "value": text }, "range": document.range(word) })
}

fn completion(documents: &Documents, document: &Document, at: usize) -> Value {
    let (sources, variables) = (documents.sources(document), documents.variables());
    let (replaced, words) = editor::complete(&document.app(), &document.text, at, sources, variables);
    let range = document.range(replaced);
    let item = |Suggestion { text, about }: Suggestion| {
        let kind = if text.ends_with(": ") { FIELD } else { VALUE };
        json!({
            "label": text.trim_end_matches(": "),
            "kind": kind,
            "documentation": about,
            "textEdit": { "range": range, "newText": text },
        })
    };
    words.into_iter().map(item).collect()
}

fn definition(documents: &Documents, document: &Document, at: usize) -> Value {
    let named = editor::named_app(&document.text, at);
    let file = named.and_then(|app| documents.file_of(document, &app));
    file.map_or(Value::Null, |uri| {
        let start = json!({ "line": 0, "character": 0 });
        json!({ "uri": uri, "range": { "start": start, "end": start } })
    })
}
