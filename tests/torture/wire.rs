//! Talks to the control socket without the client: quickly, concurrently, and with invalid requests.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The control socket, and how long to wait for the supervisor to read or write.
pub struct Socket {
    pub path: PathBuf,
    pub patience: Duration,
}

/// Returns the status and the body, or an error if the answer was incomplete.
pub fn ask(socket: &Socket, method: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = open(socket)?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: torture\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let mut lengths =
        head.lines().filter_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    match status {
        Some(status) if lengths.next() == Some(body.len()) => Ok((status, body.to_owned())),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends something that is not a request. The connection stays open until the returned value is dropped.
pub fn babble(socket: &Socket, random: &mut fastrand::Rng) -> io::Result<UnixStream> {
    let mut stream = open(socket)?;
    let noise: Vec<u8> = match random.u32(..5) {
        0 => (0..random.usize(1..4000)).map(|_| random.u8(..)).collect(),
        1 => b"POST /v1/drain HTTP/1.1\r\nHost: tor".to_vec(),
        2 => format!("GET /v1/apps HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n", "x".repeat(20_000)).into_bytes(),
        3 => b"POST /v1/reload HTTP/1.1\r\nHost: t\r\nContent-Length: 99\r\n\r\n{\"a\":".to_vec(),
        _ => "GET /livez HTTP/1.1\r\nHost: t\r\n\r\n".repeat(50).into_bytes(),
    };
    let _ = stream.write_all(&noise); // the supervisor may close the connection first
    Ok(stream)
}

fn open(socket: &Socket) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(&socket.path)?;
    stream.set_read_timeout(Some(socket.patience))?;
    stream.set_write_timeout(Some(socket.patience))?;
    Ok(stream)
}
