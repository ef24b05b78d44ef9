//! X displays of this machine: where a display is, which key opens it, and whether a server listens there. Does not
//! speak the X protocol.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::socket;

/// A display of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub number: u16,
    pub screen: usize,
}

impl Address {
    /// Reads `:N` or `:N.S`, also with `unix` or `localhost` before the colon.
    ///
    /// # Errors
    /// Displays of other machines are refused, because we do not supervise them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("DISPLAY is `{text}`: only a display of this machine can be used, as in \":1\"");
        let (host, rest) = text.rsplit_once(':').ok_or_else(wrong)?;
        if !matches!(host, "" | "unix" | "localhost") {
            return Err(wrong());
        }
        let (number, screen) = rest.split_once('.').unwrap_or((rest, "0"));
        let number = number.parse().map_err(|_| wrong())?;
        Ok(Address { number, screen: screen.parse().map_err(|_| wrong())? })
    }

    /// The lock file, which holds the server's pid.
    pub fn lock(&self) -> PathBuf {
        format!("/tmp/.X{}-lock", self.number).into()
    }

    /// The server's socket file.
    pub fn socket(&self) -> PathBuf {
        format!("/tmp/.X11-unix/X{}", self.number).into()
    }
}

/// Connects to the display without waiting: to its socket file, or else to the abstract socket with the same name. A
/// server has both, and keeps the abstract one if /tmp is cleaned or not shared.
///
/// # Errors
/// The error of [`socket::connect`] for the socket file.
pub fn connect(address: Address) -> io::Result<UnixStream> {
    let path = address.socket();
    socket::connect(&path).or_else(|error| match error.kind() {
        io::ErrorKind::WouldBlock => Err(error),
        _ => match socket::connect_abstract(path.as_os_str().as_encoded_bytes()) {
            Err(other) if other.kind() == io::ErrorKind::WouldBlock => Err(other),
            connected => connected.map_err(|_| error),
        },
    })
}

/// Reads the name and data of a display's key from an Xauthority file. The file holds records of a family, then
/// address, number, name and data, each with its length in two bytes, most significant first.
pub fn key(file: &Path, display: u16) -> Option<(Vec<u8>, Vec<u8>)> {
    let bytes = fs::read(file).ok()?;
    let mut rest = bytes.as_slice();
    loop {
        rest = rest.get(2..)?;
        let mut field = || {
            let length = usize::from(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?));
            let value = rest.get(2..2 + length)?;
            rest = &rest[2 + length..];
            Some(value.to_vec())
        };
        let (_address, number, name, data) = (field()?, field()?, field()?, field()?);
        if number.is_empty() || number == display.to_string().as_bytes() {
            return Some((name, data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_are_read_as_x_reads_them() {
        for (text, number, screen) in [(":1", 1, 0), (":1.2", 1, 2), ("unix:10", 10, 0), ("localhost:3", 3, 0)] {
            assert_eq!(Address::parse(text), Ok(Address { number, screen }), "{text}");
        }
        for text in ["", "1", "host:0", ":x", ":-1", ":1.x"] {
            assert!(Address::parse(text).unwrap_err().contains("only a display of this machine"), "{text}");
        }
    }
}
