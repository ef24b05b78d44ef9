//! Decides whether the lock of a browser profile may be removed. Gathers nothing: the facts come from
//! `daemon::files::profile_lock`.
//!
//! A browser locks its profile with a symlink to `HOST-PID`. It takes over a stale lock of its own host by itself, but
//! refuses to start if the lock names another host. That happens whenever a profile on a volume moves to another
//! container. So we remove locks of other hosts, unless a browser there is still using the profile. We remove a lock of
//! our own host only if its process is certainly not a browser, because two browsers destroy a shared profile.

use std::fmt;

/// The owner that a lock names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockOwner<'a> {
    /// The name of the host where the browser runs.
    pub host: &'a str,
    /// The browser's pid there; greater than 0.
    pub pid: i32,
}

impl<'a> LockOwner<'a> {
    /// Reads `HOST-PID`. A host name may contain a `-` itself.
    pub fn parse(target: &'a str) -> Option<Self> {
        let (host, pid) = target.rsplit_once('-')?;
        let pid = pid.parse().ok().filter(|pid| *pid > 0)?;
        (!host.is_empty()).then_some(LockOwner { host, pid })
    }
}

/// Facts about a profile and its lock.
#[derive(Debug, Clone)]
pub struct ProfileFacts<'a> {
    /// The target of the lock symlink; `None` if there is no lock.
    pub lock: Option<&'a str>,
    /// The name of this host.
    pub host: &'a str,
    /// A process accepts connections on the profile's socket. It must be on this machine.
    pub answers: bool,
    /// The process whose pid the lock names, if it names this host.
    pub process: HolderProcess,
    /// Some process has databases of the profile open and locked. It may be in another container that shares the folder,
    /// where nothing else shows it.
    pub in_use: bool,
}

/// A process of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderProcess {
    /// There is no process with this pid, or it is a zombie.
    Gone,
    /// It is alive, but we may not inspect it.
    Hidden,
    /// It is alive, and we know this about it.
    Alive {
        /// It runs the app's program, or one of the same file name.
        same_program: bool,
        /// It belongs to the app, by pattern or cookie.
        of_app: bool,
        /// It has files of the profile open.
        uses_profile: bool,
    },
}

/// The decision about the lock of a profile, and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProfileVerdict {
    /// Leave it: somebody holds it.
    Keep(ProfileHolder),
    /// Remove it: nobody does.
    Remove(Stale),
}

/// The holder of a lock that must stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProfileHolder {
    /// The process with this pid.
    Pid(i32),
    /// An unknown process that answers on the profile's socket.
    Unnamed,
    /// A browser in another container or on another machine, with this host name.
    Elsewhere(String),
}

impl fmt::Display for ProfileHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProfileHolder::Pid(pid) => write!(f, "pid {pid} holds them"),
            ProfileHolder::Unnamed => f.write_str("a running browser answers on the profile's socket"),
            ProfileHolder::Elsewhere(host) => {
                write!(f, "a browser on host `{host}`, which cannot be seen from here, is using the profile")
            }
        }
    }
}

/// Why a lock is stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stale {
    /// There is no lock, only the other files of one.
    NoLock,
    /// The lock names no owner.
    Unreadable(String),
    /// It was left on the host of this name, which is not this one.
    OtherHost(String),
    /// No process has this pid.
    Gone(i32),
    /// Another process now has the pid.
    OtherProgram(i32),
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stale::NoLock => f.write_str("nobody holds them"),
            Stale::Unreadable(lock) => write!(f, "`{lock}` names no owner"),
            Stale::OtherHost(host) => write!(f, "left on host `{host}`"),
            Stale::Gone(pid) => write!(f, "pid {pid} is gone"),
            Stale::OtherProgram(pid) => write!(f, "pid {pid} is another program now"),
        }
    }
}

/// Decides whether the lock of a profile may be removed.
pub fn judge(facts: &ProfileFacts<'_>) -> ProfileVerdict {
    let owner = facts.lock.and_then(LockOwner::parse);
    if facts.answers {
        let holder = owner.filter(|owner| owner.host == facts.host).map(|owner| ProfileHolder::Pid(owner.pid));
        return ProfileVerdict::Keep(holder.unwrap_or(ProfileHolder::Unnamed));
    }
    let stale = match (owner, facts.lock) {
        (Some(owner), _) if owner.host != facts.host => Stale::OtherHost(owner.host.into()),
        (Some(LockOwner { pid, .. }), _) => match facts.process {
            HolderProcess::Gone => Stale::Gone(pid),
            HolderProcess::Alive { same_program: false, of_app: false, uses_profile: false } => {
                Stale::OtherProgram(pid)
            }
            HolderProcess::Hidden | HolderProcess::Alive { .. } => {
                return ProfileVerdict::Keep(ProfileHolder::Pid(pid));
            }
        },
        (None, Some(lock)) => Stale::Unreadable(lock.into()),
        (None, None) => Stale::NoLock,
    };
    match facts.in_use {
        // Containers may also share their host name.
        true => ProfileVerdict::Keep(ProfileHolder::Elsewhere(owner.map_or(facts.host, |owner| owner.host).into())),
        false => ProfileVerdict::Remove(stale),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn process() -> impl Strategy<Value = HolderProcess> {
        let alive = (any::<bool>(), any::<bool>(), any::<bool>());
        prop_oneof![
            Just(HolderProcess::Gone),
            Just(HolderProcess::Hidden),
            alive.prop_map(|(same_program, of_app, uses_profile)| HolderProcess::Alive {
                same_program,
                of_app,
                uses_profile
            }),
        ]
    }

    fn host() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(vec!["pod-b", "pod", "pod-b-", "-", "pod-b-32", "näh"])
    }

    proptest! {
        #[test]
        fn the_lock_of_a_live_browser_is_never_removed(
            ours in host(), pid in 1..i32::MAX, process in process(), answers in any::<bool>(),
        ) {
            let lock = format!("{ours}-{pid}");
            let verdict = judge(&ProfileFacts { lock: Some(&lock), host: ours, answers, process, in_use: false });
            let certainly_no_browser = process == HolderProcess::Gone
                || process == HolderProcess::Alive { same_program: false, of_app: false, uses_profile: false };
            prop_assert_eq!(verdict == ProfileVerdict::Keep(ProfileHolder::Pid(pid)), answers || !certainly_no_browser);
        }

        #[test]
        fn the_lock_of_another_host_is_removed_whatever_has_its_pid_here(
            ours in host(), theirs in host(), pid in 1..i32::MAX, process in process(),
        ) {
            prop_assume!(ours != theirs);
            let lock = format!("{theirs}-{pid}");
            let facts = ProfileFacts { lock: Some(&lock), host: ours, answers: false, process, in_use: false };
            prop_assert_eq!(judge(&facts), ProfileVerdict::Remove(Stale::OtherHost(theirs.into())));
            let elsewhere = ProfileHolder::Elsewhere(theirs.into());
            prop_assert_eq!(judge(&ProfileFacts { in_use: true, ..facts }), ProfileVerdict::Keep(elsewhere));
        }

        #[test]
        fn nothing_is_removed_while_the_profile_is_in_use(
            lock in proptest::option::of("(pod|pod-b|-)?-?[0-9]{0,3}"), process in process(), answers in any::<bool>(),
        ) {
            let facts = ProfileFacts { lock: lock.as_deref(), host: "pod-b", answers, process, in_use: true };
            prop_assert!(matches!(judge(&facts), ProfileVerdict::Keep(_)));
        }

        #[test]
        fn nothing_is_removed_while_the_socket_answers(lock in proptest::option::of(".{0,12}"), process in process()) {
            let facts = ProfileFacts { lock: lock.as_deref(), host: "pod-b", answers: true, process, in_use: false };
            prop_assert!(matches!(judge(&facts), ProfileVerdict::Keep(_)));
        }

        #[test]
        fn a_lock_that_names_nobody_stops_nobody(lock in "[a-z/.]{0,8}(-|-0|--|-x|-99999999999)?", process in process()) {
            let facts = ProfileFacts { lock: Some(&lock), host: "pod-b", answers: false, process, in_use: false };
            prop_assert_eq!(judge(&facts), ProfileVerdict::Remove(Stale::Unreadable(lock.clone())));
        }
    }
}
