//! The X display: is it up, is a window there, maximise it. Each question is one connection of its own on a
//! blocking thread, with a deadline on every wait, so that a stopped server holds up nobody and a cancelled
//! hook leaves no client behind.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use x11rb::connection::Connection;
use x11rb::errors::{ConnectError, ConnectionError, ReplyError};
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ChangeWindowAttributesAux, ClientMessageEvent, ConnectionExt as _, EventMask, MapState, Window,
};
use x11rb::rust_connection::{DefaultStream, PollMode, RustConnection, Stream};
use x11rb::utils::RawFdContainer;

use super::timers::from_now;
use crate::model::manifest::pattern::Pattern;

/// Which display, and the file that holds the key to it.
#[derive(Debug, Clone, Default)]
pub struct Screen {
    pub display: Option<String>,
    pub authority: Option<PathBuf>,
}

/// Between two attempts to reach a server that is not there yet.
const RETRY: Duration = Duration::from_millis(100);
/// How soon a cancelled question ends.
const CANCEL_CHECK: Duration = Duration::from_millis(200);

/// The server accepts a client.
pub async fn is_up(screen: &Screen, within: Duration) -> Result<(), String> {
    ask(screen, within, |_| Ok(())).await
}

/// As [`is_up`], asked until it is or the time is over.
pub async fn wait_up(screen: &Screen, within: Duration) -> Result<(), String> {
    let deadline = from_now(within);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match is_up(screen, left.max(RETRY)).await {
            Ok(()) => return Ok(()),
            Err(why) if left < RETRY => return Err(format!("{why}, after {}", humantime::format_duration(within))),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// A mapped window whose class or instance matches is there now.
pub async fn window_exists(screen: &Screen, class: &Pattern, within: Duration) -> Result<(), String> {
    let (class, missing) = (class.clone(), format!("no window of class `{class}`"));
    ask(screen, within, move |session| session.find(&class)?.map(|_| ()).ok_or(Failed::Said(missing.clone()))).await
}

/// As [`window_exists`], waiting for it without polling.
pub async fn wait_window(screen: &Screen, class: &Pattern, within: Duration) -> Result<(), String> {
    let (class, missing) = (class.clone(), no_window(class, within));
    ask(screen, within, move |session| session.wait_for(&class, &missing).map(|_| ())).await
}

/// Waits for the window and for a window manager, maximises and raises it. Says what it did.
pub async fn maximize(screen: &Screen, class: &Pattern, within: Duration) -> Result<String, String> {
    let (class, missing) = (class.clone(), no_window(class, within));
    ask(screen, within, move |session| session.maximize(&class, &missing)).await
}

fn no_window(class: &Pattern, within: Duration) -> String {
    format!("no window of class `{class}` within {}", humantime::format_duration(within))
}

/// Why a question was not answered.
enum Failed {
    /// Said already.
    Said(String),
    Connection(ConnectionError),
    Reply(ReplyError),
}

impl From<ConnectionError> for Failed {
    fn from(error: ConnectionError) -> Self {
        Failed::Connection(error)
    }
}

impl From<ReplyError> for Failed {
    fn from(error: ReplyError) -> Self {
        match error {
            ReplyError::ConnectionError(error) => Failed::Connection(error),
            other => Failed::Reply(other),
        }
    }
}

impl Failed {
    fn timed_out(&self) -> bool {
        matches!(self, Failed::Connection(ConnectionError::IoError(error)) if error.kind() == io::ErrorKind::TimedOut)
    }

    fn words(self, display: &str, within: Duration) -> String {
        match self {
            Failed::Said(words) => words,
            ref failed if failed.timed_out() => {
                format!("the X server at {display} did not answer within {}", humantime::format_duration(within))
            }
            Failed::Connection(error) => format!("the X server at {display} went away: {error}"),
            Failed::Reply(error) => format!("the X server at {display} refused: {error:?}"),
        }
    }
}

/// Runs one question on a thread of its own.
async fn ask<T: Send + 'static>(
    screen: &Screen,
    within: Duration,
    question: impl FnOnce(&Session) -> Result<T, Failed> + Send + 'static,
) -> Result<T, String> {
    let (screen, cancelled) = (screen.clone(), Arc::new(AtomicBool::new(false)));
    let limits = Limits { deadline: from_now(within), cancelled: cancelled.clone() };
    let _cancel = CancelOnDrop(cancelled);
    let answer = tokio::task::spawn_blocking(move || {
        let display =
            screen.display.as_deref().ok_or("DISPLAY is not set: set it in `env` of workspace.ron or of the app")?;
        let session = Session::open(display, screen.authority.as_deref(), within, limits)?;
        question(&session).map_err(|failed| failed.words(display, within))
    });
    answer.await.unwrap_or_else(|panic| Err(format!("internal error: {panic}")))
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Limits {
    deadline: Instant,
    cancelled: Arc<AtomicBool>,
}

/// A stream that waits no longer than it may.
struct Bounded {
    stream: DefaultStream,
    limits: Limits,
}

impl Stream for Bounded {
    fn poll(&self, mode: PollMode) -> io::Result<()> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, mode.readable());
        flags.set(PollFlags::OUT, mode.writable());
        loop {
            let left = self.limits.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.limits.cancelled.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let slice = left.min(CANCEL_CHECK);
            let slice = Timespec { tv_sec: 0, tv_nsec: i64::from(slice.subsec_nanos()) };
            match poll(&mut [PollFd::new(&self.stream, flags)], Some(&slice)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
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

struct Session {
    connection: RustConnection<Bounded>,
    root: Window,
}

impl Session {
    fn open(display: &str, authority: Option<&Path>, within: Duration, limits: Limits) -> Result<Session, String> {
        let (number, screen) = parse_display(display)?;
        let socket = PathBuf::from(format!("/tmp/.X11-unix/X{number}"));
        let stream = connect(&socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!("no X server at {display}"),
            io::ErrorKind::WouldBlock => format!("the X server at {display} accepts nobody"),
            _ => format!("cannot reach the X server at {display}: {error}"),
        })?;
        let (stream, _) = DefaultStream::from_unix_stream(stream).map_err(|error| error.to_string())?;
        let (name, key) = authority.and_then(|file| key_for(file, number)).unwrap_or_default();
        let connection =
            RustConnection::connect_to_stream_with_auth_info(Bounded { stream, limits }, screen, name, key);
        let connection = connection.map_err(|error| refusal(error, display, authority, within))?;
        let root =
            connection.setup().roots.get(screen).ok_or_else(|| format!("{display} has no screen {screen}"))?.root;
        Ok(Session { connection, root })
    }

    fn atom(&self, name: &str) -> Result<Atom, Failed> {
        Ok(self.connection.intern_atom(false, name.as_bytes())?.reply()?.atom)
    }

    fn words(&self, window: Window, property: &str, kind: AtomEnum) -> Result<Vec<u32>, Failed> {
        let atom = self.atom(property)?;
        let reply = self.connection.get_property(false, window, atom, kind, 0, 4096)?.reply()?;
        Ok(reply.value32().map(Iterator::collect).unwrap_or_default())
    }

    /// The windows a person sees, oldest first: those the window manager lists, then those on the root that
    /// it does not manage (all of them without one, and any that opened while it was starting).
    fn windows(&self) -> Result<Vec<Window>, Failed> {
        let mut windows = self.words(self.root, "_NET_CLIENT_LIST", AtomEnum::WINDOW)?;
        for child in self.connection.query_tree(self.root)?.reply()?.children {
            let state = self.connection.get_window_attributes(child)?.reply();
            if !windows.contains(&child) && state.is_ok_and(|state| state.map_state == MapState::VIEWABLE) {
                windows.push(child);
            }
        }
        Ok(windows)
    }

    fn find(&self, class: &Pattern) -> Result<Option<Window>, Failed> {
        for window in self.windows()? {
            let asked = self.connection.get_property(false, window, AtomEnum::WM_CLASS, AtomEnum::STRING, 0, 1024)?;
            let names = match asked.reply() {
                Ok(reply) => reply.value,
                Err(ReplyError::X11Error(_)) => continue, // closed meanwhile
                Err(error) => return Err(error.into()),
            };
            let mut names = names.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            if names.any(|name| !name.is_empty() && class.is_match(&name)) {
                return Ok(Some(window));
            }
        }
        Ok(None)
    }

    fn listen(&self, window: Window, mask: EventMask) -> Result<(), Failed> {
        let attributes = ChangeWindowAttributesAux::new().event_mask(mask);
        self.connection.change_window_attributes(window, &attributes)?;
        Ok(())
    }

    /// Looks again whenever something on the display has changed.
    fn until<T>(&self, missing: &str, mut look: impl FnMut() -> Result<Option<T>, Failed>) -> Result<T, Failed> {
        self.listen(self.root, EventMask::PROPERTY_CHANGE | EventMask::SUBSTRUCTURE_NOTIFY)?;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            self.connection.wait_for_event().map_err(|error| match Failed::from(error) {
                failed if failed.timed_out() => Failed::Said(missing.into()),
                failed => failed,
            })?;
            while self.connection.poll_for_event()?.is_some() {}
        }
    }

    fn wait_for(&self, class: &Pattern, missing: &str) -> Result<Window, Failed> {
        self.until(missing, || self.find(class))
    }

    fn manager(&self) -> Result<Option<Window>, Failed> {
        Ok(self.words(self.root, "_NET_SUPPORTING_WM_CHECK", AtomEnum::WINDOW)?.first().copied())
    }

    fn maximize(&self, class: &Pattern, missing: &str) -> Result<String, Failed> {
        let window = self.wait_for(class, missing)?;
        self.until("no window manager is running, so nothing can be maximised", || self.manager())?;
        let (horizontal, vertical) =
            (self.atom("_NET_WM_STATE_MAXIMIZED_HORZ")?, self.atom("_NET_WM_STATE_MAXIMIZED_VERT")?);
        const ADD: u32 = 1;
        const FROM_A_PAGER: u32 = 2;
        self.listen(window, EventMask::PROPERTY_CHANGE)?;
        self.tell_manager(window, "_NET_WM_STATE", [ADD, horizontal, vertical, FROM_A_PAGER, 0])?;
        self.tell_manager(window, "_NET_ACTIVE_WINDOW", [FROM_A_PAGER, 0, 0, 0, 0])?;
        self.until("the window manager did not maximise the window", || {
            let state = self.words(window, "_NET_WM_STATE", AtomEnum::ATOM)?;
            Ok((state.contains(&horizontal) && state.contains(&vertical)).then_some(()))
        })?;
        Ok("maximised its window".into())
    }

    fn tell_manager(&self, window: Window, message: &str, data: [u32; 5]) -> Result<(), Failed> {
        let event = ClientMessageEvent::new(32, window, self.atom(message)?, data);
        let to = EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY;
        self.connection.send_event(false, self.root, to, event)?;
        self.connection.flush()?;
        Ok(())
    }
}

/// `:N` or `:N.S`, also with `unix` before the colon. Other hosts are not ours to supervise.
fn parse_display(text: &str) -> Result<(u16, usize), String> {
    let wrong = || format!("DISPLAY is `{text}`: only a display of this machine can be used, as in \":1\"");
    let (host, rest) = text.rsplit_once(':').ok_or_else(wrong)?;
    if !matches!(host, "" | "unix" | "localhost") {
        return Err(wrong());
    }
    let (number, screen) = rest.split_once('.').unwrap_or((rest, "0"));
    Ok((number.parse().map_err(|_| wrong())?, screen.parse().map_err(|_| wrong())?))
}

/// Never waits: a stopped server whose queue is full answers `WouldBlock`.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let end = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&end, &SocketAddrUnix::new(socket)?)?;
    Ok(end.into())
}

fn refusal(error: ConnectError, display: &str, authority: Option<&Path>, within: Duration) -> String {
    match error {
        ConnectError::SetupFailed(_) | ConnectError::SetupAuthenticate(_) => {
            let file = authority.map_or_else(|| "none".into(), |file| file.display().to_string());
            format!("the X server at {display} refuses us: the key in XAUTHORITY ({file}) is missing or wrong")
        }
        ConnectError::IoError(error) if error.kind() == io::ErrorKind::TimedOut => {
            format!("the X server at {display} did not answer within {}", humantime::format_duration(within))
        }
        other => format!("cannot talk to the X server at {display}: {other}"),
    }
}

/// The key for this display in an Xauthority file: records of a family, then address, number, name and
/// key, each with its length in two bytes, most significant first.
fn key_for(file: &Path, display: u16) -> Option<(Vec<u8>, Vec<u8>)> {
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
        let (_address, number, name, key) = (field()?, field()?, field()?, field()?);
        if number.is_empty() || number == display.to_string().as_bytes() {
            return Some((name, key));
        }
    }
}

#[cfg(test)]
mod tests;
