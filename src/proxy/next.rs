//! Speaks to the next proxy, where the network has one: asks it for tunnels, and logs in.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, Version, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::model::proxy::denial::Denial;
use crate::model::proxy::upstream::Upstream;
use crate::model::url::JudgedUrl;

/// Time limit for the next proxy to open a tunnel. It has to connect first.
const OPENED: Duration = Duration::from_secs(20);

/// Asks the next proxy for a tunnel. Returns its connection, and the first bytes of the server if some came already.
///
/// # Errors
/// Why the next proxy did not open it.
pub async fn tunnel(
    upstream: &Upstream,
    stream: TcpStream,
    target: &JudgedUrl,
) -> Result<(TcpStream, Vec<u8>), Denial> {
    let asked = ask(upstream, stream, target);
    let answer = timeout(OPENED, asked).await.unwrap_or_else(|_| Err("it did not answer in time".into()));
    answer.map_err(Denial::Upstream)
}

async fn ask(upstream: &Upstream, stream: TcpStream, target: &JudgedUrl) -> Result<(TcpStream, Vec<u8>), String> {
    let authority = format!("{}:{}", target.host(), target.port());
    let mut request = Request::builder().method(Method::CONNECT).uri(&authority).version(Version::HTTP_11);
    request = request.header(header::HOST, &authority);
    if let Some(login) = authorization(upstream) {
        request = request.header(header::PROXY_AUTHORIZATION, login);
    }
    let request = request.body(Body::empty()).map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        connection.abort();
        return Err(format!("it answered {}", response.status()));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| error.to_string())?;
    let parts =
        upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| "the connection is of another kind".to_owned())?;
    Ok((parts.io.into_inner(), parts.read_buf.into()))
}

/// The value of `Proxy-Authorization`, if the next proxy asks for a login.
pub fn authorization(upstream: &Upstream) -> Option<HeaderValue> {
    let (user, password) = upstream.login.as_ref()?;
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).ok()?;
    value.set_sensitive(true);
    Some(value)
}
