//! Watches processes that are not our children. Each has a pidfd in one epoll instance. Where pidfds are refused, the
//! processes are looked at every 100 ms instead.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::host::proc::{self, Pid, Process};
use crate::model::app::AppId;

/// How often we look at processes that no descriptor tells us about.
pub(super) const LOOK: Duration = Duration::from_millis(100);

const NO_PIDFD: &str = "pidfd_open is refused here (a seccomp profile?): the end of a process that is not our child is noticed up to 100 ms late; allow pidfd_open and pidfd_send_signal";

const NO_DESCRIPTOR: &str =
    "there was no descriptor left to watch a process with: its end is noticed up to 100 ms late; raise `ulimit -Hn`";

pub(super) struct Watcher {
    epoll: OwnedFd,
    watched: HashMap<Pid, Watched>,
    /// Why some processes can only be looked at now and then.
    blind: Option<&'static str>,
    /// When they are looked at again.
    look: Option<Instant>,
    memory: Option<MemoryEvents>,
}

/// The kernel's file of memory events, which tells when it changes (cgroup v2). At most once in [`MemoryEvents::PAUSE`]:
/// under pressure it would tell a hundred times a second.
struct MemoryEvents {
    file: File,
    /// When the next change is told again. `None`: it is.
    rearm: Option<Instant>,
}

impl MemoryEvents {
    const PAUSE: Duration = Duration::from_secs(1);
    /// No pid.
    const KEY: u64 = u64::MAX;

    fn flags() -> epoll::EventFlags {
        epoll::EventFlags::PRI | epoll::EventFlags::ONESHOT
    }
}

pub(super) struct Watched {
    /// `None`: refused, so the process is looked at now and then.
    pub pidfd: Option<OwnedFd>,
    pub process: Process,
    pub app: AppId,
    /// The run that it leads; `None` for a member of a tree that is being cleared.
    pub leads: Option<u64>,
}

impl Watcher {
    /// `memory`: the kernel's file of memory events, if there is one.
    pub fn new(memory: Option<&File>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let memory = memory.and_then(|file| file.try_clone().ok()).filter(|file| {
            epoll::add(&epoll, file, epoll::EventData::new_u64(MemoryEvents::KEY), MemoryEvents::flags()).is_ok()
        });
        let memory = memory.map(|file| MemoryEvents { file, rearm: None });
        Ok(Watcher { epoll, watched: HashMap::new(), blind: None, look: None, memory })
    }

    /// Readable when a watched process has ended.
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

    /// Watches a process from now on. False: it has already ended.
    pub fn watch(&mut self, process: Process, app: AppId, leads: Option<u64>) -> bool {
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
        // The descriptor is of the process that has the pid now. Only the start time tells that it is the one we saw.
        // One that cannot be seen has none, and is our child, so its pid cannot have been used again.
        let same = |now: Process| now.started == process.started && now.zombie == process.zombie;
        let misses = proc::misses();
        // For want of a descriptor nobody can tell. It was there a moment ago, and is looked at again soon.
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

    /// No more events for a process whose end is known, but whose status is still to come.
    pub fn quiet(&self, pid: Pid) {
        if let Some(pidfd) = self.watched.get(&pid).and_then(|watched| watched.pidfd.as_ref()) {
            let _ = epoll::delete(&self.epoll, pidfd); // or its end would be told for ever
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

    /// If it is time to be told of memory events again. Some may have happened meanwhile.
    pub fn rearm_memory(&mut self, now: Instant) {
        if let Some(memory) = self.memory.as_mut().filter(|memory| memory.rearm.is_some_and(|due| due <= now)) {
            memory.rearm = None;
            let key = epoll::EventData::new_u64(MemoryEvents::KEY);
            let _ = epoll::modify(&self.epoll, &memory.file, key, MemoryEvents::flags()); // then deaths are counted late
        }
    }

    /// If it is time to look at the processes that have no descriptor: those that have ended.
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
