//! The line between the guard and its supervisor: one packet a message, so that none is ever read in part.
//! Owns the words of both and their written form; must not know what they lead to.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// In the environment of a supervisor: the pid of its guard, whose line is its stdin.
pub const GUARD: &str = "KASM_VOID_GUARD";

/// More than any path or message of ours.
const PACKET: usize = 8 << 10;

/// What the guard says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToSupervisor {
    /// First of all, with the lock of the state folder. `deaths`: of supervisors before this one; `cause`: of the
    /// last.
    Hello { deaths: u32, cause: String },
    /// A process that had become the guard's child has ended.
    Ended(Passing),
    /// All that was missed has been told.
    Go,
}

/// How a process ended that was not the supervisor's own child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passing {
    pub pid: i32,
    /// Clock ticks since boot.
    pub started: u64,
    /// As `wait(2)` gives it.
    pub status: i32,
    /// Peak resident bytes.
    pub peak: u64,
}

/// What the supervisor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuard {
    /// Everything is taken over; signals are welcome from here on.
    Ready,
    /// Keep this app's output pipe open, whoever dies.
    Hold(String),
    Release(String),
    /// Go on with this binary when I am gone.
    Upgrade(String),
    /// The session is over: end with this code.
    Finished(u8),
}

impl ToSupervisor {
    fn written(&self) -> String {
        match self {
            ToSupervisor::Hello { deaths, cause } => format!("hello {deaths} {cause}"),
            ToSupervisor::Ended(Passing { pid, started, status, peak }) => {
                format!("ended {pid} {started} {status} {peak}")
            }
            ToSupervisor::Go => "go".into(),
        }
    }
}

impl FromStr for ToSupervisor {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "hello" => {
                let (deaths, cause) = rest.split_once(' ').unwrap_or((rest, ""));
                Ok(ToSupervisor::Hello { deaths: number(deaths, text)?, cause: cause.into() })
            }
            "ended" => {
                let mut numbers = rest.split(' ');
                let mut next = || numbers.next().unwrap_or_default();
                Ok(ToSupervisor::Ended(Passing {
                    pid: number(next(), text)?,
                    started: number(next(), text)?,
                    status: number(next(), text)?,
                    peak: number(next(), text)?,
                }))
            }
            "go" => Ok(ToSupervisor::Go),
            _ => Err(unknown(text)),
        }
    }
}

impl ToGuard {
    fn written(&self) -> String {
        match self {
            ToGuard::Ready => "ready".into(),
            ToGuard::Hold(app) => format!("hold {app}"),
            ToGuard::Release(app) => format!("release {app}"),
            ToGuard::Upgrade(binary) => format!("upgrade {binary}"),
            ToGuard::Finished(code) => format!("finished {code}"),
        }
    }
}

impl FromStr for ToGuard {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "ready" => Ok(ToGuard::Ready),
            "hold" => Ok(ToGuard::Hold(rest.into())),
            "release" => Ok(ToGuard::Release(rest.into())),
            "upgrade" => Ok(ToGuard::Upgrade(rest.into())),
            "finished" => Ok(ToGuard::Finished(number(rest, text)?)),
            _ => Err(unknown(text)),
        }
    }
}

fn number<T: FromStr>(word: &str, text: &str) -> io::Result<T> {
    word.parse().map_err(|_| unknown(text))
}

fn unknown(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a message between guard and supervisor: {text:?}"))
}

/// What was heard.
#[derive(Debug)]
pub enum Heard<T> {
    Message(T, Option<OwnedFd>),
    Nothing,
    /// The other end is closed.
    Closed,
}

/// One end. Nothing here ever waits for the other.
pub struct Line(OwnedFd);

impl Line {
    pub fn pair() -> io::Result<(Line, Line)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Line(ours), Line(theirs)))
    }

    /// The supervisor's end, if a guard has started us. Takes our stdin for it.
    pub fn of_our_guard() -> Option<Line> {
        let guard: i32 = std::env::var(GUARD).ok()?.parse().ok()?;
        if rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(guard) {
            return None; // inherited by way of somebody else
        }
        let line = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()?;
        let null = std::fs::File::open("/dev/null").ok()?;
        rustix::stdio::dup2_stdin(&null).ok()?;
        Some(Line(line))
    }

    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    pub fn tell_supervisor(&self, message: &ToSupervisor, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send(&message.written(), fd)
    }

    pub fn tell_guard(&self, message: &ToGuard) -> io::Result<()> {
        self.send(&message.written(), None)
    }

    fn send(&self, text: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| sendmsg(&self.0, &[IoSlice::new(text.as_bytes())], &mut ancillary, flags))?;
        Ok(())
    }

    /// What the other end has said, if it is a message at all.
    pub fn hear<T: FromStr<Err = io::Error>>(&self) -> io::Result<Heard<T>> {
        let mut packet = [0; PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received =
            rustix::io::retry_on_intr(|| recvmsg(&self.0, &mut [IoSliceMut::new(&mut packet)], &mut ancillary, flags));
        let received = match received {
            Ok(received) if received.bytes == 0 => return Ok(Heard::Closed),
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN) => return Ok(Heard::Nothing),
            Err(rustix::io::Errno::CONNRESET) => return Ok(Heard::Closed),
            Err(error) => return Err(error.into()),
        };
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let text = String::from_utf8_lossy(&packet[..received.bytes]);
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(unknown(&text[..64]));
        }
        Ok(Heard::Message(text.parse()?, fd))
    }

    /// Waits until there is something to hear.
    pub fn wait(&self, seconds: u32) {
        let time = Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        // Whatever comes of it, `hear` tells.
        let _ = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&time));
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass<T: FromStr<Err = io::Error>>(send: impl Fn(&Line) -> io::Result<()>) -> Heard<T> {
        let (one, other) = Line::pair().unwrap();
        send(&one).unwrap();
        other.hear().unwrap()
    }

    #[test]
    fn every_message_arrives_as_it_was_meant() {
        let ended = Passing { pid: 7, started: 1 << 40, status: 0x8b, peak: 1 << 33 };
        let hello = ToSupervisor::Hello { deaths: 3, cause: "killed by SIGKILL, after all".into() };
        for message in [hello, ToSupervisor::Ended(ended), ToSupervisor::Go] {
            let heard = pass::<ToSupervisor>(|line| line.tell_supervisor(&message, None));
            assert!(matches!(&heard, Heard::Message(same, None) if *same == message), "{heard:?}");
        }
        let path = "/opt/kasm void/new binary".to_string();
        for message in [ToGuard::Ready, ToGuard::Hold("web".into()), ToGuard::Upgrade(path), ToGuard::Finished(7)] {
            let heard = pass::<ToGuard>(|line| line.tell_guard(&message));
            assert!(matches!(&heard, Heard::Message(same, None) if *same == message), "{heard:?}");
        }
    }

    #[test]
    fn a_descriptor_travels_along() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let heard = pass::<ToSupervisor>(|line| line.tell_supervisor(&ToSupervisor::Go, Some(null.as_fd())));
        assert!(matches!(heard, Heard::Message(ToSupervisor::Go, Some(_))), "{heard:?}");
    }

    #[test]
    fn silence_the_end_and_nonsense_are_told_apart() {
        let (one, other) = Line::pair().unwrap();
        assert!(matches!(other.hear::<ToGuard>().unwrap(), Heard::Nothing));
        one.send("ended of the world", None).unwrap();
        assert!(other.hear::<ToSupervisor>().unwrap_err().to_string().contains("of the world"));
        drop(one);
        assert!(matches!(other.hear::<ToGuard>().unwrap(), Heard::Closed));
    }
}
