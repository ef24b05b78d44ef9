//! Speaks the DevTools protocol with the browser on this machine: one websocket, flat sessions, replies matched
//! by their number, events kept apart. Knows no page and no policy.
//!
//! Whatever the browser says about itself, only its port on 127.0.0.1 is ever connected to.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, Uri};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, Limits, MaybeTlsStream, Message, WebSocketStream};

/// For one question to be answered. What a page has to do takes longer, what the browser has to do does not.
const PATIENCE: Duration = Duration::from_secs(3);
/// A list of some thousand tabs.
const LIST_BYTES: usize = 4 << 20;
/// The largest we are sent are requests with a form's whole body.
const MESSAGE_BYTES: usize = 16 << 20;
/// Events that nobody has asked for yet; the browser sends some hundred for a busy page.
const WAITING: usize = 10_000;

/// Why the browser did not do as it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nobody listens on the port.
    #[error("cdp unreachable")]
    Absent,
    /// It listens and says nothing.
    #[error("the browser does not answer")]
    Mute,
    /// It has closed the connection, or said what is not the protocol.
    #[error("the browser has broken off: {0}")]
    Broken(String),
    /// It refused.
    #[error("the browser refused {method}: {text}")]
    Refused { method: String, text: String },
}

/// A tab, as the browser lists it.
#[derive(Debug, Clone, Deserialize)]
pub struct Tab {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub url: String,
}

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

/// All tabs that show pages, the one used last first.
pub async fn tabs(port: u16) -> Result<Vec<Tab>, Fault> {
    shown(&get(port, "/json/list").await?)
}

/// The browser's list, without what nobody sees. Public for the fuzz targets.
pub fn shown(list: &[u8]) -> Result<Vec<Tab>, Fault> {
    let mut tabs: Vec<Tab> = serde_json::from_slice(list).map_err(broken)?;
    tabs.retain(|tab| tab.kind == "page" && !tab.url.starts_with("devtools:"));
    Ok(tabs)
}

/// A conversation with the whole browser.
pub struct Browser {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
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
        let uri: Uri = format!("ws://127.0.0.1:{port}{}", told.path()).parse().map_err(broken)?;
        let opened = async {
            let builder = ClientBuilder::from_uri(uri).limits(Limits::default().max_payload_len(Some(MESSAGE_BYTES)));
            let stream = MaybeTlsStream::Plain(dial(port).await?);
            Ok(builder.connect_on(stream).await.map_err(broken)?.0)
        };
        let socket = timeout(PATIENCE, opened).await.unwrap_or(Err(Fault::Mute))?;
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

async fn get(port: u16, path: &str) -> Result<Bytes, Fault> {
    let answer = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(dial(port).await?)).await.map_err(broken)?;
        let connection = tokio::spawn(connection); // its errors are the answer's as well
        let request = Request::get(path).header("host", format!("127.0.0.1:{port}")).header("connection", "close");
        let request = request.body(Empty::<Bytes>::new()).map_err(broken)?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let body = Limited::new(response.into_body(), LIST_BYTES).collect().await.map_err(broken)?.to_bytes();
        connection.abort();
        Ok(body)
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
