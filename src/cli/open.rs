//! `open`: asks the launcher of this session to show a page, and prints the result. All decisions are the launcher's.
//!
//! The launcher of a session serves its own user on a socket in the state folder, without a token. Any other launcher on
//! this machine is asked on its TCP port, with the token, after a check that the port is not another user's: whoever
//! listens there gets the token.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::body::Bytes;
use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::VerbEnd;
use super::client::NoAnswer;
use super::print::{DIM, plain, say, say_json};
use crate::host::{layout, listener};
use crate::launcher::token::{FILE, Token, VARIABLES};

/// No launcher listens on the port.
#[derive(Debug, thiserror::Error)]
#[error("no launcher is running (nothing listens on 127.0.0.1:{0}): start it with `kasm-void start nav-shim`")]
pub struct NoLauncher(pub u16);

/// The launcher answers within 8 s, whatever the browser does.
const PATIENCE: Duration = Duration::from_secs(10);
const REPLY_BYTES: usize = 64 << 10;

/// Asks the launcher of the session in the folder `state`, else the one on `port`.
///
/// # Errors
/// No launcher is running, it does not answer, the port is another user's, or there is no token for it.
pub async fn open(url: &str, state: &Path, port: u16, json: bool) -> anyhow::Result<VerbEnd> {
    let late = |_| NoAnswer(format!("the launcher has not answered within {} seconds", PATIENCE.as_secs()));
    let asked = async {
        match UnixStream::connect(layout::launcher_socket(state)).await {
            Ok(stream) => ask(url, stream, None).await,
            Err(_) => ask_on_port(url, port).await,
        }
    };
    let (status, reply) = timeout(PATIENCE, asked).await.map_err(late)??;
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

async fn ask_on_port(url: &str, port: u16) -> anyhow::Result<(StatusCode, Value)> {
    let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    let stream = connected.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => NoLauncher(port).into(),
        _ => anyhow::Error::new(error).context(format!("cannot reach the launcher on 127.0.0.1:{port}")),
    })?;
    let token = Token::new(|name| std::env::var_os(name)).get().map_err(anyhow::Error::msg)?;
    let token = token
        .with_context(|| format!("no token for the launcher: set {FILE}, {} or {}", VARIABLES[0], VARIABLES[1]))?;
    // Looked up after we are connected, so that the answer is about the one that we are connected to.
    is_ours(port, &listener::users(stream.peer_addr()?), rustix::process::getuid().as_raw())?;
    ask(url, stream, Some(&token)).await
}

/// Refuses a port on which another user than we or root listens.
fn is_ours(port: u16, users: &[u32], own: u32) -> anyhow::Result<()> {
    match users.iter().find(|user| ![0, own].contains(user)) {
        Some(other) => bail!(
            "port {port} belongs to uid {other}, who would get the launcher's token: run this as that user, or name the \
             launcher's port with --launcher-port"
        ),
        None => Ok(()),
    }
}

async fn ask(
    url: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    token: Option<&str>,
) -> anyhow::Result<(StatusCode, Value)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection); // ends with the response, which also reports its errors
    let mut request = Request::post("/open").header(header::HOST, "127.0.0.1");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(json!({ "url": url }).to_string())))
        .map_err(|_| anyhow!("the token contains characters that are not allowed in a header"))?;
    let response = sender.send_request(request).await.context("the launcher closed the connection")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), REPLY_BYTES).collect().await;
    let Ok(body) = body.map(|body| body.to_bytes()) else { bail!("the launcher closed the connection") };
    let reply = serde_json::from_slice(&body)
        .context("cannot read the launcher's answer: another program may listen on its port")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_to_our_own_user_and_to_root_alone() {
        for (users, ours) in [(&[1000][..], true), (&[0], true), (&[], true), (&[1001], false), (&[1000, 65534], false)]
        {
            assert_eq!(is_ours(9998, users, 1000).is_ok(), ours, "{users:?}");
        }
        let said = is_ours(9998, &[1001], 1000).unwrap_err().to_string();
        assert!(said.contains("uid 1001") && said.contains("--launcher-port"), "{said}");
    }
}
