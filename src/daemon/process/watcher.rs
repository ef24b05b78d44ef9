//! Watches processes that are not our children. Each has a pidfd in one epoll instance. If pidfds are refused, the
//! processes are polled every 100 ms instead.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::process::{PidfdFlags, pidfd_open};

use super::clues::Led;
use crate::host::proc::{self, Pid, Process};
use crate::model::app::AppId;

/// How often to look at processes that have no pidfd.
pub(super) const LOOK: Duration = Duration::from_millis(100);

const NO_PIDFD: &str = "pidfd_open is refused here (a seccomp profile?): the end of a process that is not our child is noticed up to 100 ms late; allow pidfd_open and pidfd_send_signal";

const NO_DESCRIPTOR: &str =
    "there was no descriptor left to watch a process with: its end is noticed up to 100 ms late; raise `ulimit -Hn`";

pub(super) struct Watcher {
    epoll: OwnedFd,
    watched: HashMap<Pid, Watched>,
    /// Why some processes are polled, if any are.
    blind: Option<&'static str>,
    /// When to poll them next.
    look: Option<Instant>,
    memory: Option<MemoryEvents>,
}

/// The kernel's file of memory events, which reports when it changes (cgroup v2). Events are limited to one per
/// [`MemoryEvents::PAUSE`]: under pressure there would be a hundred per second.
struct MemoryEvents {
    file: File,
    /// When to listen for the next change. `None` while listening.
    rearm: Option<Instant>,
}

impl MemoryEvents {
    const PAUSE: Duration = Duration::from_secs(1);
    /// The epoll key of the file; no pid has this value.
    const KEY: u64 = u64::MAX;

    fn flags() -> epoll::EventFlags {
        epoll::EventFlags::PRI | epoll::EventFlags::ONESHOT
    }
}

pub(super) struct Watched {
    /// `None` if it was refused; then the process is polled.
    pub pidfd: Option<OwnedFd>,
    pub process: Process,
    pub app: AppId,
    /// `None` for a member of a tree that is being cleared.
    pub leads: Option<Led>,
}

impl Watcher {
    /// `memory`: the kernel's file of memory events, if it exists.
    pub fn new(memory: Option<&File>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let memory = memory.and_then(|file| file.try_clone().ok()).filter(|file| {
            epoll::add(&epoll, file, epoll::EventData::new_u64(MemoryEvents::KEY), MemoryEvents::flags()).is_ok()
        });
        let memory = memory.map(|file| MemoryEvents { file, rearm: None });
        Ok(Watcher { epoll, watched: HashMap::new(), blind: None, look: None, memory })
    }

    /// A descriptor that is readable when a watched process has ended.
    pub fn wakes(&self) -> io::Result<OwnedFd> {
        self.epoll.try_clone()
    }

    pub fn trouble(&self) -> Option<&'static str> {
        self.blind
    }

    pub fn next(&self) -> Option<Instant> {
        let memory = self.memory.as_ref().and_then(|memory| memory.rearm);
        self.look.into_iter().chain(memory).min()
    }

    pub fn get(&self, pid: Pid) -> Option<&Watched> {
        self.watched.get(&pid)
    }

    /// Watches a process from now on. Returns false if it has already ended.
    pub fn watch(&mut self, process: Process, app: AppId, leads: Option<Led>) -> bool {
        if let Some(watched) = self.watched.get_mut(&process.pid) {
            watched.leads = leads.or(watched.leads);
            return true;
        }
        let Some(pid) = rustix::process::Pid::from_raw(process.pid) else { return false };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            Err(rustix::io::Errno::SRCH) => return false,
            Err(error) => {
                let full = matches!(error, rustix::io::Errno::MFILE | rustix::io::Errno::NFILE);
                self.blind = Some(if full { NO_DESCRIPTOR } else { NO_PIDFD });
                self.look.get_or_insert_with(|| Instant::now() + LOOK);
                None
            }
        };
        // The pidfd belongs to the process that has the pid now. Only the start time shows whether that is the one we
        // saw. A process that could not be seen has no start time; it is our child, so its pid cannot have been reused.
        let same = |now: Process| now.started == process.started && now.zombie == process.zombie;
        let misses = proc::misses();
        // Without a free descriptor we cannot tell. It existed a moment ago, and is checked again soon.
        let unseen = || proc::misses() != misses;
        let same = process.started == 0 || proc::process(process.pid).map_or_else(unseen, same);
        let data = epoll::EventData::new_u64(process.pid as u64);
        let added = |pidfd| epoll::add(&self.epoll, pidfd, data, epoll::EventFlags::IN).is_ok();
        if !same || !pidfd.as_ref().is_none_or(added) {
            return false;
        }
        self.watched.insert(process.pid, Watched { pidfd, process, app, leads });
        true
    }

    /// Stops events of a process that has ended but whose status is not known yet.
    pub fn quiet(&self, pid: Pid) {
        if let Some(pidfd) = self.watched.get(&pid).and_then(|watched| watched.pidfd.as_ref()) {
            let _ = epoll::delete(&self.epoll, pidfd); // or epoll would report its end again and again
        }
    }

    pub fn remove(&mut self, pid: Pid) -> Option<Watched> {
        self.quiet(pid);
        self.watched.remove(&pid)
    }

    /// Watched processes that have ended since the last call.
    pub fn ended(&mut self) -> Vec<Pid> {
        let mut events = Vec::with_capacity(64);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)).is_err() {
            return Vec::new();
        }
        let keys = events.iter().map(|event| event.data.u64());
        if let Some(memory) = self.memory.as_mut().filter(|_| keys.clone().any(|key| key == MemoryEvents::KEY)) {
            memory.rearm = Some(Instant::now() + MemoryEvents::PAUSE);
        }
        keys.filter(|key| *key != MemoryEvents::KEY).map(|key| key as Pid).collect()
    }

    /// Listens for memory events again, if it is time. Some may have happened meanwhile.
    pub fn rearm_memory(&mut self, now: Instant) {
        if let Some(memory) = self.memory.as_mut().filter(|memory| memory.rearm.is_some_and(|due| due <= now)) {
            memory.rearm = None;
            let key = epoll::EventData::new_u64(MemoryEvents::KEY);
            let _ = epoll::modify(&self.epoll, &memory.file, key, MemoryEvents::flags()); // else kills are counted late
        }
    }

    /// If it is time to poll, returns the processes without a pidfd that have ended.
    pub fn looked_at(&mut self, now: Instant) -> Vec<Pid> {
        if self.look.take_if(|due| *due <= now).is_none() {
            return Vec::new();
        }
        let unheard = self.watched.values().filter(|watched| watched.pidfd.is_none()).map(|watched| watched.process);
        let (lives, ended): (Vec<Process>, Vec<Process>) =
            unheard.partition(|process| proc::lives(process.pid, process.started));
        if !lives.is_empty() {
            self.look = Some(now + LOOK);
        }
        ended.into_iter().map(|process| process.pid).collect()
    }
}
