//! A DevTools protocol client for the browser on this machine: one websocket, flat sessions, replies matched by number,
//! events queued. Knows nothing about pages or the policy.
//!
//! Connects only to the browser's port on 127.0.0.1, whatever address the browser announces.

pub mod shorten;

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, StatusCode, Uri};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, Limits, Message, WebSocketStream};

pub use crate::model::visit::Fault;
use shorten::{Shortened, Strings};

/// Time limit for a reply from the browser. Only commands that wait for a page take longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest reply to a plain request and longest message in bytes, after their strings are shortened.
const LIST_BYTES: usize = 4 << 20;
const MESSAGE_BYTES: usize = 16 << 20;
/// Longest queue of events while waiting for a reply.
const WAITING: usize = 10_000;
/// The 16 bytes that the websocket handshake requires. They may be constant, because there is no cache in between.
const KEY: &str = "a2FzbS12b2lkLWxhdW5jaA==";

/// An event of a session, or of the browser itself if `session` is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct CdpEvent {
    /// The session it happened in.
    pub session: Option<String>,
    /// Its name, such as `Page.frameNavigated`.
    pub method: String,
    /// Its details, with long strings shortened.
    pub params: Value,
}

/// A message from the browser.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// The answer to a command.
    Reply {
        /// The number that the command was sent with.
        id: u64,
        /// The error is the browser's text.
        result: Result<Value, String>,
    },
    /// Something has happened.
    Event(CdpEvent),
}

/// The ids of the tabs in order of use, the last used first. Empty if the browser does not answer.
pub async fn recent(port: u16) -> Vec<String> {
    get(port, "/json/list").await.map(|list| ids(&list)).unwrap_or_default()
}

/// The ids in a list of targets. Public for the fuzz targets.
pub fn ids(list: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Listed {
        id: String,
    }
    let listed: Vec<Listed> = serde_json::from_slice(list).unwrap_or_default();
    listed.into_iter().map(|target| target.id).collect()
}

/// A connection to the whole browser.
pub struct Browser {
    socket: WebSocketStream<Shortened<TokioIo<Upgraded>>>,
    last: u64,
    waiting: VecDeque<Incoming>,
}

impl Browser {
    /// Connects to the browser on this port of this machine.
    pub async fn connect(port: u16) -> Result<Browser, Fault> {
        #[derive(Deserialize)]
        struct Version {
            #[serde(rename = "webSocketDebuggerUrl")]
            socket: String,
        }
        let version: Version = serde_json::from_slice(&get(port, "/json/version").await?).map_err(broken)?;
        let told: Uri = version.socket.parse().map_err(|_| Fault::Broken("it names no socket".into()))?;
        let stream = timeout(PATIENCE, upgrade(port, told.path())).await.unwrap_or(Err(Fault::Mute))?;
        let limits = Limits::default().max_payload_len(Some(MESSAGE_BYTES));
        let socket = ClientBuilder::new().limits(limits).take_over(Shortened::new(stream, MESSAGE_BYTES));
        Ok(Browser { socket, last: 0, waiting: VecDeque::new() })
    }

    /// Sends a command to the browser, or to the page of a session. Returns the number that its reply will have.
    pub async fn send(&mut self, session: Option<&str>, method: &str, params: Value) -> Result<u64, Fault> {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let sent = timeout(PATIENCE, self.socket.send(Message::text(command.to_string()))).await;
        sent.unwrap_or(Err(tokio_websockets::Error::AlreadyClosed)).map_err(broken)?;
        Ok(self.last)
    }

    /// Like [`Browser::send`], and waits for the reply. Events that arrive before it are queued for [`Browser::next`].
    pub async fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Result<Value, Fault> {
        let asked = self.send(session, method, params).await?;
        let answer = async {
            loop {
                match self.read().await? {
                    Incoming::Reply { id, result } if id == asked => {
                        return result.map_err(|text| Fault::Refused { method: method.into(), text });
                    }
                    Incoming::Reply { .. } => {} // to a command whose caller no longer waits
                    event => self.keep(event)?,
                }
            }
        };
        timeout(PATIENCE, answer).await.unwrap_or(Err(Fault::Mute))
    }

    /// The next message, however long it takes. Cancel safe: dropping this loses no message.
    pub async fn next(&mut self) -> Result<Incoming, Fault> {
        match self.waiting.pop_front() {
            Some(incoming) => Ok(incoming),
            None => self.read().await,
        }
    }

    fn keep(&mut self, incoming: Incoming) -> Result<(), Fault> {
        if self.waiting.len() >= WAITING {
            return Err(Fault::Broken("it sent too many events before its reply".into()));
        }
        self.waiting.push_back(incoming);
        Ok(())
    }

    async fn read(&mut self) -> Result<Incoming, Fault> {
        loop {
            let message = match self.socket.next().await {
                Some(message) => message.map_err(broken)?,
                None => return Err(Fault::Broken("it has closed the connection".into())),
            };
            if let Some(text) = message.as_text()
                && let Some(incoming) = understood(text)?
            {
                return Ok(incoming);
            }
        }
    }
}

/// Parses a message. `None` if it is neither reply nor event, as a later browser may send. Public for the fuzz targets.
pub fn understood(text: &str) -> Result<Option<Incoming>, Fault> {
    #[derive(Deserialize)]
    struct Said {
        id: Option<u64>,
        method: Option<String>,
        #[serde(default)]
        params: Value,
        #[serde(rename = "sessionId")]
        session: Option<String>,
        #[serde(default)]
        result: Value,
        error: Option<Complaint>,
    }
    #[derive(Deserialize)]
    struct Complaint {
        #[serde(default)]
        message: String,
    }
    let said: Said = serde_json::from_str(text).or_else(|_| serde_json::from_str(&mended(text))).map_err(broken)?;
    Ok(match said {
        Said { id: Some(id), result, error, .. } => {
            Some(Incoming::Reply { id, result: error.map_or(Ok(result), |error| Err(error.message)) })
        }
        Said { method: Some(method), params, session, .. } => {
            Some(Incoming::Event(CdpEvent { session, method, params }))
        }
        _ => None,
    })
}

/// Replaces unpaired surrogates. Pages can put them into the names of frames and windows. Chromium passes them on, but
/// no JSON parser accepts them, and no page may break the connection.
fn mended(text: &str) -> String {
    let escape = |at: usize| u16::from_str_radix(text.get(at..at + 6)?.strip_prefix("\\u")?, 16).ok();
    let (mut out, mut from, mut at) = (String::new(), 0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        at += match escape(at) {
            Some(0xD800..=0xDBFF) if matches!(escape(at + 6), Some(0xDC00..=0xDFFF)) => 12,
            Some(0xD800..=0xDFFF) => {
                out.push_str(&text[from..at]);
                out.push_str("\\ufffd");
                from = at + 6;
                6
            }
            Some(_) => 6,
            None => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    out + &text[from..]
}

/// Opens a websocket. Its stream is returned, so that long messages can be shortened while they are read.
async fn upgrade(port: u16, path: &str) -> Result<TokioIo<Upgraded>, Fault> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(dial(port).await?)).await.map_err(broken)?;
    tokio::spawn(connection.with_upgrades()); // ends with the stream, which also reports its errors
    let request = Request::get(path)
        .header("host", format!("127.0.0.1:{port}"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY);
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).map_err(broken)?).await.map_err(broken)?;
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => Ok(TokioIo::new(hyper::upgrade::on(response).await.map_err(broken)?)),
        status => Err(Fault::Broken(format!("it answers {status} instead of opening a websocket"))),
    }
}

async fn get(port: u16, path: &str) -> Result<Vec<u8>, Fault> {
    let answer = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(dial(port).await?)).await.map_err(broken)?;
        let connection = tokio::spawn(connection); // its errors are also in the response
        let request = Request::get(path).header("host", format!("127.0.0.1:{port}")).header("connection", "close");
        let request = request.body(Empty::<Bytes>::new()).map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let (mut body, mut strings, mut text) = (response.into_body(), Strings::default(), Vec::new());
        while let Some(frame) = body.frame().await {
            strings.shorten(frame.map_err(broken)?.data_ref().map(Bytes::as_ref).unwrap_or_default(), &mut text);
            if text.len() > LIST_BYTES {
                return Err(Fault::Broken("its answer is too long".into()));
            }
        }
        connection.abort();
        Ok(text)
    };
    timeout(PATIENCE, answer).await.unwrap_or(Err(Fault::Mute))
}

async fn dial(port: u16) -> Result<TcpStream, Fault> {
    let connected = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    let stream = connected.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Absent,
        _ => broken(error),
    })?;
    stream.set_nodelay(true).map_err(broken)?;
    Ok(stream)
}

fn broken(why: impl ToString) -> Fault {
    Fault::Broken(why.to_string())
}

#[cfg(test)]
mod tests;
