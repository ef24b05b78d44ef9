//! A server against hostile and broken clients, which send raw bytes.

use std::time::Duration;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::limits::{HEAD_BYTES, HEADERS};
use super::*;

const DEADLINE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(100);

const LIMITS: ListenerLimits = ListenerLimits {
    connections: 4,
    per_address: None,
    reserved: 0,
    head: SHORT,
    head_bytes: HEAD_BYTES,
    headers: HEADERS,
    body: SHORT,
    body_bytes: 1000,
    stalled: SHORT,
};

struct Place {
    folder: tempfile::TempDir,
    server: Server,
}

impl Place {
    fn serving(limits: ListenerLimits, router: Router) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        Place { server: serve(listener, router, limits), folder }
    }

    fn new(limits: ListenerLimits) -> Self {
        let router = Router::new().route("/", get(async || "hello")).route("/body", post(async |body: Bytes| body));
        Self::serving(limits, router)
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("s")).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn says(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        to_the_end(&mut stream).await
    }
}

async fn to_the_end(stream: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut text)).await.expect("the server leaves the connection open");
    // A server that closes before it has read everything resets the connection.
    assert!(read.is_ok() || read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    String::from_utf8_lossy(&text).into_owned()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn what_is_not_http_is_refused_and_does_no_harm() {
    let place = Place::new(LIMITS);
    for noise in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"SSH-2.0-x\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"\xff\xfe"]
    {
        let answer = place.says(noise).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert!(place.says(GET).await.ends_with("hello"));
}

#[tokio::test]
async fn requests_of_two_meanings_are_refused() {
    let place = Place::new(LIMITS);
    for (head, status) in [
        ("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", "411"),
        ("POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3", "411"),
        ("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4", "400"),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: y", "400"),
        ("GET / HTTP/1.1\r\nAccept: x", "400"),
    ] {
        let answer = place.says(format!("{head}\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
        assert!(answer.contains("connection: close"), "{head}: {answer}");
    }
}

#[tokio::test]
async fn errors_are_json_and_say_why() {
    let answer = Place::new(LIMITS).says("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n").await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let error: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(error["error"], "the request has more than one Host header");
}

#[tokio::test]
async fn long_heads_are_refused() {
    let place = Place::new(LIMITS);
    let many = "A: b\r\n".repeat(HEADERS + 1);
    let big = format!("A: {}\r\n", "b".repeat(HEAD_BYTES));
    for headers in [many, big] {
        let answer = place.says(format!("GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
}

#[tokio::test]
async fn who_does_not_finish_a_head_is_cut_off() {
    let place = Place::new(LIMITS);
    for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let answer = place.says(begun).await;
        assert!(!answer.contains("200"), "{answer}");
    }
}

#[tokio::test]
async fn who_keeps_a_connection_without_asking_is_cut_off() {
    assert!(Place::new(LIMITS).says(GET).await.ends_with("hello"));
}

#[tokio::test]
async fn bodies_have_a_deadline_and_a_size() {
    let place = Place::new(LIMITS);
    let late = place.says("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").await;
    assert!(late.starts_with("HTTP/1.1 408"), "{late}");
    let long = format!("POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n{}", "a".repeat(1001));
    let long = place.says(long).await;
    assert!(long.starts_with("HTTP/1.1 413"), "{long}");
}

#[tokio::test]
async fn one_client_too_many_waits_for_a_permit() {
    let limits = ListenerLimits { connections: 1, head: DEADLINE, ..LIMITS };
    let place = Place::new(limits);
    let mut first = place.connect().await;
    first.write_all(GET.as_bytes()).await.unwrap();
    first.read_exact(&mut [0; 15]).await.unwrap();

    let mut second = place.connect().await;
    second.write_all(GET.as_bytes()).await.unwrap();
    let unanswered = timeout(SHORT, second.read_u8()).await;
    assert!(unanswered.is_err(), "the second client was served beside the first");

    drop(first);
    let answered = timeout(DEADLINE, second.read_u8()).await;
    assert_eq!(answered.expect("the permit was not passed on").unwrap(), b'H');
}

#[tokio::test]
async fn two_hundred_clients_at_once_are_all_answered() {
    let place = Place::new(ListenerLimits { connections: 16, head: DEADLINE, ..LIMITS });
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let mut stream = place.connect().await;
        clients.spawn(async move {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            to_the_end(&mut stream).await
        });
    }
    let answers = clients.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.ends_with("hello")).count(), 200);
}

/// An endless response that reports when it is dropped.
fn endless(left: mpsc::UnboundedSender<()>) -> Router {
    struct Leaving(mpsc::UnboundedSender<()>);
    impl Drop for Leaving {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    impl Leaving {
        fn more(self) -> Pieces {
            Pieces::new(async { Some((Bytes::from_static(&[b'x'; 4096]), self.more())) })
        }
    }
    Router::new().route("/", get(async move || Body::new(Leaving(left.clone()).more())))
}

#[tokio::test]
async fn who_takes_no_bytes_is_cut_off() {
    let (left, mut leaves) = mpsc::unbounded_channel();
    let place = Place::serving(LIMITS, endless(left));
    let mut stream = place.connect().await;
    stream.write_all(GET.as_bytes()).await.unwrap();
    timeout(DEADLINE, leaves.recv()).await.expect("the answer goes on for a reader who does not read");
}

#[tokio::test]
async fn closing_finishes_the_answer_under_way() {
    let (asked, mut asks) = mpsc::unbounded_channel();
    let (go_on, gate) = watch::channel(false);
    let router = Router::new().route(
        "/",
        get(async move || {
            asked.send(()).unwrap();
            gate.clone().wait_for(|open| *open).await.unwrap();
            "finished"
        }),
    );
    let Place { folder, server } = Place::serving(LIMITS, router);
    let mut stream = UnixStream::connect(folder.path().join("s")).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    asks.recv().await.unwrap();
    let closed = tokio::spawn(server.close(DEADLINE));
    go_on.send(true).unwrap();
    assert!(to_the_end(&mut stream).await.ends_with("finished"));
    closed.await.unwrap();
    assert!(UnixStream::connect(folder.path().join("s")).await.is_err(), "a closed server listens");
}

#[tokio::test]
async fn a_reply_that_nobody_reads_holds_little_memory() {
    let listener = bind(([127, 0, 0, 1], 0).into()).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = TcpListener::accept(&listener).await.unwrap();
    // The kernel doubles what it is told, for its own bookkeeping.
    assert_eq!(rustix::net::sockopt::socket_send_buffer_size(&accepted).unwrap(), 2 * SEND_BUFFER as usize);
}
