//! Speaks the DevTools protocol with the browser on this machine: one websocket, flat sessions, replies matched by
//! their number, events kept apart. Knows no page and no policy.
//!
//! Whatever the browser says about itself, only its port on 127.0.0.1 is ever connected to.

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

/// For one question to be answered. What a page has to do takes longer, what the browser has to do does not.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer to a plain request, and longest message, once its strings are shortened.
const LIST_BYTES: usize = 4 << 20;
const MESSAGE_BYTES: usize = 16 << 20;
/// Events that wait to be read while a reply is waited for.
const WAITING: usize = 10_000;
/// The websocket handshake asks for 16 bytes. They keep caches apart, and there is none on this way.
const KEY: &str = "a2FzbS12b2lkLWxhdW5jaA==";

/// Something that happened, in a session or (when there is none) in the browser.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub session: Option<String>,
    pub method: String,
    pub params: Value,
}

/// What the browser says next.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    Reply { id: u64, result: Result<Value, String> },
    Event(Event),
}

/// The tabs in the order in which they were used, the last one first, as far as the browser says so.
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

/// A conversation with the whole browser.
pub struct Browser {
    socket: WebSocketStream<Shortened<TokioIo<Upgraded>>>,
    last: u64,
    waiting: VecDeque<Incoming>,
}

impl Browser {
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

    /// Tells the browser, or the page of a session, to do something; the reply comes with this number.
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

    /// As [`Browser::send`], and waits for the reply. What comes before it is told by [`Browser::next`] later.
    pub async fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Result<Value, Fault> {
        let asked = self.send(session, method, params).await?;
        let answer = async {
            loop {
                match self.read().await? {
                    Incoming::Reply { id, result } if id == asked => {
                        return result.map_err(|text| Fault::Refused { method: method.into(), text });
                    }
                    Incoming::Reply { .. } => {} // to what nobody waits for any more
                    event => self.keep(event)?,
                }
            }
        };
        timeout(PATIENCE, answer).await.unwrap_or(Err(Fault::Mute))
    }

    /// What the browser says next, whenever that is. Nothing is lost when nobody waits for it to the end.
    pub async fn next(&mut self) -> Result<Incoming, Fault> {
        match self.waiting.pop_front() {
            Some(incoming) => Ok(incoming),
            None => self.read().await,
        }
    }

    fn keep(&mut self, incoming: Incoming) -> Result<(), Fault> {
        if self.waiting.len() >= WAITING {
            return Err(Fault::Broken("it tells more than anybody can take in".into()));
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

/// None of what is neither reply nor event: a later browser may say more. Public for the fuzz targets.
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
        Said { method: Some(method), params, session, .. } => Some(Incoming::Event(Event { session, method, params })),
        _ => None,
    })
}

/// Pages name their frames and windows with halves of characters, which Chromium passes on and no reader of JSON
/// takes. Whoever names them must not end the conversation.
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

/// Turns a connection into a websocket. The stream below is ours, so that long messages can be shortened on the way.
async fn upgrade(port: u16, path: &str) -> Result<TokioIo<Upgraded>, Fault> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(dial(port).await?)).await.map_err(broken)?;
    tokio::spawn(connection.with_upgrades()); // ends with the stream; its errors are the stream's as well
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
        let connection = tokio::spawn(connection); // its errors are the answer's as well
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
