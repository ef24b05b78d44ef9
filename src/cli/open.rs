//! `open`: asks the launcher on this machine to show a page, and prints the result. All decisions are the launcher's.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::body::Bytes;
use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::VerbEnd;
use super::client::NoAnswer;
use super::print::{DIM, plain, say, say_json};
use crate::launcher::token::{FILE, Token, VARIABLES};

/// No launcher listens on the port.
#[derive(Debug, thiserror::Error)]
#[error("no launcher is running (nothing listens on 127.0.0.1:{0}): start it with `kasm-void start nav-shim`")]
pub struct NoLauncher(pub u16);

/// The launcher answers within 8 s, whatever the browser does.
const PATIENCE: Duration = Duration::from_secs(10);
const REPLY_BYTES: usize = 64 << 10;

pub async fn open(url: &str, port: u16, json: bool) -> anyhow::Result<VerbEnd> {
    let token = Token::new(|name| std::env::var_os(name)).get().map_err(anyhow::Error::msg)?;
    let token = token
        .with_context(|| format!("no token for the launcher: set {FILE}, {} or {}", VARIABLES[0], VARIABLES[1]))?;
    let late = |_| NoAnswer(format!("the launcher has not answered within {} seconds", PATIENCE.as_secs()));
    let (status, reply) = timeout(PATIENCE, ask(url, port, &token)).await.map_err(late)??;
    if json {
        say_json(&reply)?;
    } else if status.is_success() {
        let outcome = reply["outcome"].as_str().unwrap_or("done").replace('_', " ");
        say(&format!("opened {}{DIM} ({}){DIM:#}", plain(url), plain(&outcome)))?;
    }
    match status {
        StatusCode::GATEWAY_TIMEOUT if json => Ok(VerbEnd::TimedOut),
        StatusCode::GATEWAY_TIMEOUT => Err(NoAnswer(format!("{} is still loading", plain(url))).into()),
        _ if status.is_success() => Ok(VerbEnd::Done),
        _ if json => Ok(VerbEnd::Refused),
        _ => Err(complaint(status, &reply)),
    }
}

async fn ask(url: &str, port: u16, token: &str) -> anyhow::Result<(StatusCode, Value)> {
    let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    let stream = connected.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => NoLauncher(port).into(),
        _ => anyhow::Error::new(error).context(format!("cannot reach the launcher on 127.0.0.1:{port}")),
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection); // ends with the response, which also reports its errors
    let request = Request::post("/open")
        .header(header::HOST, format!("127.0.0.1:{port}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(json!({ "url": url }).to_string())))
        .map_err(|_| anyhow!("the token contains characters that are not allowed in a header"))?;
    let response = sender.send_request(request).await.context("the launcher closed the connection")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), REPLY_BYTES).collect().await;
    let Ok(body) = body.map(|body| body.to_bytes()) else { bail!("the launcher closed the connection") };
    let reply = serde_json::from_slice(&body)
        .with_context(|| format!("cannot read the answer from 127.0.0.1:{port}: another program may listen there"))?;
    Ok((status, reply))
}

fn complaint(status: StatusCode, reply: &Value) -> anyhow::Error {
    let error = plain(reply["error"].as_str().unwrap_or("no reason given"));
    match (status, reply["reason"].as_str()) {
        (StatusCode::UNAUTHORIZED, _) => anyhow!("the launcher does not accept this token: use the launcher's own"),
        (StatusCode::SERVICE_UNAVAILABLE, _) => anyhow!("{error}: the browser is not running, or has just started"),
        (_, Some(reason)) => anyhow!("{error}: {}", plain(reason)),
        _ => anyhow!(error),
    }
}
