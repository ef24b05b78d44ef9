//! Connects to unix sockets without ever waiting, to find out whether a process accepts connections there.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connects to the socket at this path. The stream is non-blocking.
///
/// # Errors
/// `WouldBlock` when a process listens but its queue is full (it is stopped, or overloaded); `ConnectionRefused`
/// or `NotFound` when nothing listens.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    connect_to(&SocketAddrUnix::new(path)?)
}

/// Like [`connect`], but to an abstract name, which has no file.
///
/// # Errors
/// Those of [`connect`].
pub fn connect_abstract(name: &[u8]) -> io::Result<UnixStream> {
    connect_to(&SocketAddrUnix::new_abstract_name(name)?)
}

fn connect_to(address: &SocketAddrUnix) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let end = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&end, address)?;
    Ok(end.into())
}

/// Whether a process accepts connections. True also for a stopped process: the kernel queues connections.
pub fn answers(connected: &io::Result<UnixStream>) -> bool {
    match connected {
        Ok(_) => true,
        Err(error) => error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_listener_answers_until_it_is_gone_even_with_a_full_queue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(!answers(&connect(&path)));
        let listener = UnixListener::bind(&path).unwrap();
        let mut held = Vec::new();
        loop {
            let stream = connect(&path);
            assert!(answers(&stream));
            match stream {
                Ok(stream) => held.push(stream),
                Err(_) => break,
            }
        }
        drop(listener);
        assert!(path.exists() && !answers(&connect(&path)));
    }
}
