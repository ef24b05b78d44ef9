//! Probes that need only the network or the file system. Each tries once and gives up after its time limit.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

/// Succeeds if a TCP connection can be made. Returns the address it was made to.
pub async fn tcp(address: &str, within: Duration) -> Result<SocketAddr, String> {
    limited(within, async { peer(&connect(address).await?) }).await
}

/// Succeeds if a connection to a unix stream socket can be made.
pub async fn unix_socket(path: &Path, within: Duration) -> Result<(), String> {
    let connected =
        async { UnixStream::connect(path).await.map_err(|error| format!("{}: {}", kind(&error), path.display())) };
    limited(within, connected).await.map(|_| ())
}

/// Succeeds if the path exists, even as a dangling link. Runs on its own thread, because a dead mount would block the
/// loop.
pub async fn path(path: &Path, within: Duration) -> Result<(), String> {
    let path = path.to_owned();
    let exists = async {
        let looked = tokio::task::spawn_blocking(move || match std::fs::symlink_metadata(&path) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{}: {}", kind(&error), path.display())),
        });
        looked.await.unwrap_or_else(|panic| Err(format!("internal error: {panic}")))
    };
    limited(within, exists).await
}

/// Succeeds if a GET returns a status below 400. Returns the address it was sent to. Does not follow redirects or read
/// the body.
pub async fn http(url: &str, within: Duration) -> Result<SocketAddr, String> {
    limited(within, get(url)).await
}

async fn get(url: &str) -> Result<SocketAddr, String> {
    let uri: Uri = url.parse().map_err(|error| format!("`{url}` is not a URL: {error}"))?;
    let host = uri.host().ok_or_else(|| format!("`{url}` names no host"))?;
    let address = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    let stream = connect(&address).await?;
    let peer = peer(&stream)?;
    let failed = |error: hyper::Error| format!("no valid HTTP answer from {address}: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", uri.authority().map_or(host, |authority| authority.as_str()))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request);
    tokio::pin!(connection, response);
    let response = tokio::select! {
        response = &mut response => response,
        // A server may answer and then close the connection.
        _ = &mut connection => response.await,
    }
    .map_err(failed)?;
    match response.status().as_u16() {
        ..400 => Ok(peer),
        status => Err(format!("status {status} from {url}")),
    }
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("{}: {address}", kind(&error)))
}

fn peer(stream: &TcpStream) -> Result<SocketAddr, String> {
    stream.peer_addr().map_err(|error| kind(&error))
}

async fn limited<T>(within: Duration, asked: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let answer = tokio::time::timeout(within, asked).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {}", humantime::format_duration(within))))
}

/// The error in words, without its number.
fn kind(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    const SOON: Duration = Duration::from_secs(20);

    /// A server that answers each request with these bytes, or never answers.
    async fn server(answer: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                if let Some(answer) = answer {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                } else {
                    held.push(stream);
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn http_is_judged_by_its_status() {
        let table = [
            (Some("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), Ok(())),
            (Some("HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n"), Ok(())),
            (Some("HTTP/1.1 503 No\r\n\r\n"), Err("status 503")),
            (Some("SSH-2.0-x\r\n"), Err("no valid HTTP answer")),
            (Some(""), Err("127.0.0.1")),
        ];
        for (answer, wanted) in table {
            let got = http(&format!("http://{}/json/version", server(answer).await), SOON).await;
            match wanted {
                Ok(()) => assert!(got.is_ok(), "{answer:?}: {got:?}"),
                Err(words) => assert!(got.as_ref().is_err_and(|got| got.contains(words)), "{answer:?}: {got:?}"),
            }
        }
    }

    #[tokio::test]
    async fn whoever_never_answers_is_given_up() {
        let address = server(None).await;
        let error = http(&format!("http://{address}/"), Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error, "no answer within 50ms");
        tcp(&address, SOON).await.unwrap();
    }

    #[tokio::test]
    async fn absences_are_said_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let missing = format!("no such file or directory: {}", socket.display());
        assert_eq!(unix_socket(&socket, SOON).await.unwrap_err(), missing);
        assert_eq!(path(&socket, SOON).await.unwrap_err(), missing);
        let _listener = UnixListener::bind(&socket).unwrap();
        unix_socket(&socket, SOON).await.unwrap();
        path(&socket, SOON).await.unwrap();
        let refused = tcp("127.0.0.1:1", SOON).await.unwrap_err();
        assert_eq!(refused, "connection refused: 127.0.0.1:1");
    }
}
