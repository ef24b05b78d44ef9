//! One connection to an X server. Every wait ends at a deadline, or when the query is cancelled. Knows why a server
//! could not be reached; the queries themselves are in `windows`.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use x11rb::connection::{Connection, RequestConnection as _};
use x11rb::errors::{ConnectError, ConnectionError, ReplyError};
use x11rb::protocol::screensaver::{self, ConnectionExt as _};
use x11rb::protocol::xproto::Window;
use x11rb::rust_connection::{DefaultStream, PollMode, RustConnection, Stream};
use x11rb::utils::RawFdContainer;

use crate::host::display::{Address, connect, key};

/// Why a query failed.
pub enum DisplayError {
    /// An error that is already in words.
    Said(String),
    TimedOut,
    Connection(ConnectionError),
    Reply(ReplyError),
}

impl From<ConnectionError> for DisplayError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::IoError(error) if error.kind() == io::ErrorKind::TimedOut => DisplayError::TimedOut,
            other => DisplayError::Connection(other),
        }
    }
}

impl From<ReplyError> for DisplayError {
    fn from(error: ReplyError) -> Self {
        match error {
            ReplyError::ConnectionError(error) => error.into(),
            other => DisplayError::Reply(other),
        }
    }
}

impl DisplayError {
    pub fn words(self, display: &str, within: Duration) -> String {
        match self {
            DisplayError::Said(words) => words,
            DisplayError::TimedOut => no_answer(display, within),
            DisplayError::Connection(error) => format!("the X server at {display} went away: {error}"),
            DisplayError::Reply(ReplyError::X11Error(error)) => {
                format!("the X server at {display} refused a request: {:?}", error.error_kind)
            }
            DisplayError::Reply(error) => format!("the X server at {display} refused a request: {error}"),
        }
    }
}

fn no_answer(display: &str, within: Duration) -> String {
    format!("the X server at {display} did not answer within {}", humantime::format_duration(within))
}

/// How long a query may wait.
pub struct QueryLimits {
    pub deadline: Instant,
    /// Becomes readable when the query is cancelled.
    pub cancelled: UnixStream,
}

/// A stream whose reads and writes respect the limits.
pub struct Bounded {
    stream: DefaultStream,
    limits: QueryLimits,
}

impl Stream for Bounded {
    fn poll(&self, mode: PollMode) -> io::Result<()> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, mode.readable());
        flags.set(PollFlags::OUT, mode.writable());
        loop {
            let left = self.limits.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
            let mut waiting = [PollFd::new(&self.stream, flags), PollFd::new(&self.limits.cancelled, PollFlags::IN)];
            match poll(&mut waiting, Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) if !waiting[1].revents().is_empty() => return Err(io::ErrorKind::TimedOut.into()),
                other => return other.map(|_| ()).map_err(io::Error::from),
            }
        }
    }

    fn read(&self, buf: &mut [u8], fds: &mut Vec<RawFdContainer>) -> io::Result<usize> {
        self.stream.read(buf, fds)
    }

    fn write(&self, buf: &[u8], fds: &mut Vec<RawFdContainer>) -> io::Result<usize> {
        self.stream.write(buf, fds)
    }
}

/// A client of the display.
pub struct DisplayClient {
    pub connection: RustConnection<Bounded>,
    pub root: Window,
}

impl DisplayClient {
    pub fn open(
        display: &str,
        authority: Option<&Path>,
        within: Duration,
        limits: QueryLimits,
    ) -> Result<Self, String> {
        let address = Address::parse(display)?;
        let stream = connect(address).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!("no X server at {display}"),
            io::ErrorKind::WouldBlock => format!("the X server at {display} does not accept connections"),
            _ => format!("cannot reach the X server at {display}: {error}"),
        })?;
        let (stream, _) = DefaultStream::from_unix_stream(stream).map_err(|error| error.to_string())?;
        let (name, data) = authority.and_then(|file| key(file, address.number)).unwrap_or_default();
        let bounded = Bounded { stream, limits };
        let connection = RustConnection::connect_to_stream_with_auth_info(bounded, address.screen, name, data)
            .map_err(|error| refusal(error, display, authority, within))?;
        let root = connection.setup().roots.get(address.screen);
        let root = root.ok_or_else(|| format!("{display} has no screen {}", address.screen))?.root;
        Ok(DisplayClient { connection, root })
    }
}

impl DisplayClient {
    /// How long ago somebody used the mouse or the keyboard. `None` without the extension that tells.
    pub fn idle(&self) -> Result<Option<Duration>, DisplayError> {
        if self.connection.extension_information(screensaver::X11_EXTENSION_NAME)?.is_none() {
            return Ok(None);
        }
        let told = self.connection.screensaver_query_info(self.root)?.reply()?;
        Ok(Some(Duration::from_millis(told.ms_since_user_input.into())))
    }
}

fn refusal(error: ConnectError, display: &str, authority: Option<&Path>, within: Duration) -> String {
    match error {
        ConnectError::SetupFailed(_) | ConnectError::SetupAuthenticate(_) => {
            let file = authority.map_or_else(|| "none".into(), |file| file.display().to_string());
            format!("the X server at {display} refuses us: the key in XAUTHORITY ({file}) is missing or wrong")
        }
        ConnectError::IoError(error) if error.kind() == io::ErrorKind::TimedOut => no_answer(display, within),
        other => format!("cannot talk to the X server at {display}: {other}"),
    }
}
