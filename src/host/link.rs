//! The line between the guard and its supervisor. Each message is one packet, so it is never read in part, with at most
//! one descriptor attached. Owns the transport; `model::guard` owns the messages.

use std::fmt::Display;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::model::guard::UnknownMessage;

pub use super::marks::GUARD;
use super::null;

/// Bytes; more than any message has.
const PACKET: usize = 8 << 10;

/// The result of reading from the line.
#[derive(Debug)]
pub enum Heard<T> {
    /// A message, and the descriptor that came with it.
    Message(T, Option<OwnedFd>),
    /// There is no message now.
    Nothing,
    /// The other end is closed, and everything it sent has been read.
    Closed,
}

/// One end of the line. Sending and reading never block.
pub struct Link(OwnedFd);

impl Link {
    /// Both ends, close-on-exec.
    pub fn pair() -> io::Result<(Link, Link)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Link(ours), Link(theirs)))
    }

    /// The supervisor's end, if a guard has started us. It was our stdin, which is now `/dev/null`.
    pub fn of_our_guard() -> Option<Link> {
        let guard: i32 = std::env::var(GUARD).ok()?.parse().ok()?;
        if rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get()) != Some(guard) {
            return None; // the variable was inherited from some other process
        }
        let line = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).ok()?;
        let null = null::open().ok()?;
        rustix::stdio::dup2_stdin(&null).ok()?;
        Some(Link(line))
    }

    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message, with a descriptor if it has one. Fails with `WouldBlock` if there is no room now.
    pub fn send(&self, message: &impl Display, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let text = message.to_string();
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

    /// Reads the next message. An error means that the packet is not a message of this version; the next one may be.
    pub fn hear<T: FromStr<Err = UnknownMessage>>(&self) -> Result<Heard<T>, UnknownMessage> {
        let mut packet = [0; PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut packet)], &mut ancillary, flags) {
                Ok(received) if received.bytes == 0 => return Ok(Heard::Closed),
                Ok(received) => break received,
                Err(rustix::io::Errno::AGAIN) => return Ok(Heard::Nothing),
                // The other end was closed with messages unread. This is reported once, before the packets that it sent
                // and that are still queued here.
                Err(rustix::io::Errno::CONNRESET | rustix::io::Errno::INTR) => {}
                Err(_) => return Ok(Heard::Closed),
            }
        };
        let fd = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let text = String::from_utf8_lossy(&packet[..received.bytes]);
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(UnknownMessage(text.chars().take(64).collect()));
        }
        Ok(Heard::Message(text.parse()?, fd))
    }

    /// Waits until there is room to send something, for no longer than `within`.
    pub fn wait_for_room(&self, within: Duration) {
        let time = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
        // On any result, `send` finds out.
        let _ = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], Some(&time));
    }

    /// Waits until there is something to hear.
    pub fn wait(&self, seconds: u32) {
        let time = Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        // On any result, `hear` finds out.
        let _ = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&time));
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::guard::{ToGuard, ToSupervisor};

    #[test]
    fn a_descriptor_travels_with_its_message() {
        let (one, other) = Link::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        one.send(&ToSupervisor::Pipe("web".into()), Some(null.as_fd())).unwrap();
        one.send(&ToSupervisor::Go, None).unwrap();
        let heard = other.hear::<ToSupervisor>().unwrap();
        assert!(matches!(&heard, Heard::Message(ToSupervisor::Pipe(app), Some(_)) if app == "web"), "{heard:?}");
        let heard = other.hear::<ToSupervisor>().unwrap();
        assert!(matches!(heard, Heard::Message(ToSupervisor::Go, None)), "{heard:?}");
    }

    #[test]
    fn silence_the_end_and_nonsense_are_told_apart() {
        let (one, other) = Link::pair().unwrap();
        assert!(matches!(other.hear::<ToGuard>().unwrap(), Heard::Nothing));
        one.send(&"ended of the world", None).unwrap();
        assert!(other.hear::<ToSupervisor>().unwrap_err().to_string().contains("of the world"));
        one.send(&"x".repeat(PACKET + 1), None).unwrap();
        assert!(other.hear::<ToSupervisor>().is_err());
        drop(one);
        assert!(matches!(other.hear::<ToGuard>().unwrap(), Heard::Closed));
    }

    /// If a supervisor closes the line with messages unread, the kernel reports a reset before the supervisor's last
    /// messages.
    #[test]
    fn the_last_messages_of_an_end_that_has_not_read_everything_are_heard() {
        for unread in 0..3 {
            let (guard, supervisor) = Link::pair().unwrap();
            for _ in 0..unread {
                guard.send(&ToSupervisor::Go, None).unwrap();
            }
            supervisor.send(&ToGuard::Draining(7), None).unwrap();
            supervisor.send(&ToGuard::Finished(7), None).unwrap();
            drop(supervisor);
            for expected in [ToGuard::Draining(7), ToGuard::Finished(7)] {
                let heard = guard.hear::<ToGuard>().unwrap();
                assert!(matches!(&heard, Heard::Message(message, None) if *message == expected), "{unread}: {heard:?}");
            }
            assert!(matches!(guard.hear::<ToGuard>().unwrap(), Heard::Closed));
        }
    }
}
