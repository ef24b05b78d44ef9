//! The messages between the guard and its supervisor, and their text form. Each message is one packet. A descriptor
//! that belongs to it is sent along with the text.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A message from the guard to a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ToSupervisor {
    /// The first message. Carries the lock of the state folder.
    Hello(Hello),
    /// The output pipe of this app, received from an earlier supervisor. Carries the descriptor.
    Pipe(String),
    /// An orphan that had become the guard's child exited.
    Exited(ChildExit),
    /// Everything that a new supervisor needs has been sent.
    Go,
    /// End the session. Sent to a supervisor that is not ready, which a signal would kill.
    End,
}

/// The history of the session: the supervisors before this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Hello {
    /// How many supervisors of this session have died.
    pub deaths: u32,
    /// Why the last one ended; empty for the first.
    pub cause: String,
    /// The session is ending with this exit code: stop all apps and start none.
    pub draining: Option<u8>,
}

/// The exit of a process that was not the supervisor's own child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChildExit {
    /// The pid, which may have a new owner by now.
    pub pid: i32,
    /// Clock ticks since boot: with the pid, it identifies the process.
    pub started: u64,
    /// The status from `wait(2)`.
    pub status: i32,
    /// Peak resident memory in bytes.
    pub peak: u64,
}

/// A message from a supervisor to the guard.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ToGuard {
    /// The supervisor has taken over. From here on the guard may send it signals.
    Ready,
    /// How long it may take to stop all apps. Sent before `Ready` and whenever it changes.
    StopBudget(Duration),
    /// The session is ending with this exit code.
    Draining(u8),
    /// Keep this app's output pipe open if the supervisor dies. Carries the descriptor.
    Hold(String),
    /// The app is gone: close its pipe.
    Release(String),
    /// The state folder and its lock were created again. Carries the new lock.
    Lock,
    /// Start this binary once the current supervisor has ended. Carries its descriptor; the path is for people.
    Upgrade(String),
    /// The session is over: end with this code.
    Finished(u8),
}

impl fmt::Display for ToSupervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ToSupervisor::Hello(Hello { deaths, cause, draining: None }) => write!(f, "hello {deaths} - {cause}"),
            ToSupervisor::Hello(Hello { deaths, cause, draining: Some(code) }) => {
                write!(f, "hello {deaths} {code} {cause}")
            }
            ToSupervisor::Pipe(app) => write!(f, "pipe {app}"),
            ToSupervisor::Exited(ChildExit { pid, started, status, peak }) => {
                write!(f, "exited {pid} {started} {status} {peak}")
            }
            ToSupervisor::Go => f.write_str("go"),
            ToSupervisor::End => f.write_str("end"),
        }
    }
}

impl FromStr for ToSupervisor {
    type Err = UnknownMessage;

    fn from_str(text: &str) -> Result<Self, UnknownMessage> {
        let parse = || {
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            Some(match word {
                "hello" => {
                    let mut words = rest.splitn(3, ' ');
                    let deaths = words.next()?.parse().ok()?;
                    let draining = match words.next()? {
                        "-" => None,
                        code => Some(code.parse().ok()?),
                    };
                    ToSupervisor::Hello(Hello { deaths, cause: words.next()?.into(), draining })
                }
                "pipe" => ToSupervisor::Pipe(rest.into()),
                "exited" => {
                    let mut words = rest.split(' ');
                    ToSupervisor::Exited(ChildExit {
                        pid: words.next()?.parse().ok()?,
                        started: words.next()?.parse().ok()?,
                        status: words.next()?.parse().ok()?,
                        peak: words.next()?.parse().ok()?,
                    })
                }
                "go" => ToSupervisor::Go,
                "end" => ToSupervisor::End,
                _ => return None,
            })
        };
        parse().ok_or_else(|| UnknownMessage(text.into()))
    }
}

impl fmt::Display for ToGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ToGuard::Ready => f.write_str("ready"),
            ToGuard::StopBudget(budget) => write!(f, "stop-budget {}", budget.as_millis()),
            ToGuard::Draining(code) => write!(f, "draining {code}"),
            ToGuard::Hold(app) => write!(f, "hold {app}"),
            ToGuard::Release(app) => write!(f, "release {app}"),
            ToGuard::Lock => f.write_str("lock"),
            ToGuard::Upgrade(binary) => write!(f, "upgrade {binary}"),
            ToGuard::Finished(code) => write!(f, "finished {code}"),
        }
    }
}

impl FromStr for ToGuard {
    type Err = UnknownMessage;

    fn from_str(text: &str) -> Result<Self, UnknownMessage> {
        let parse = || {
            let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
            Some(match word {
                "ready" => ToGuard::Ready,
                "stop-budget" => ToGuard::StopBudget(milliseconds(rest)?),
                "draining" => ToGuard::Draining(rest.parse().ok()?),
                "hold" => ToGuard::Hold(rest.into()),
                "release" => ToGuard::Release(rest.into()),
                "lock" => ToGuard::Lock,
                "upgrade" => ToGuard::Upgrade(rest.into()),
                "finished" => ToGuard::Finished(rest.parse().ok()?),
                _ => return None,
            })
        };
        parse().ok_or_else(|| UnknownMessage(text.into()))
    }
}

/// Parses milliseconds. Values beyond 64 bits are capped.
fn milliseconds(text: &str) -> Option<Duration> {
    let number: u128 = text.parse().ok()?;
    Some(Duration::from_millis(u64::try_from(number).unwrap_or(u64::MAX)))
}

/// The packet is not a message of this version.
#[derive(Debug, thiserror::Error)]
#[error("not a message between guard and supervisor: {0:?}")]
pub struct UnknownMessage(pub String);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to_supervisor() -> impl Strategy<Value = ToSupervisor> {
        let hello = (any::<u32>(), "[ -~]{0,40}", any::<Option<u8>>())
            .prop_map(|(deaths, cause, draining)| ToSupervisor::Hello(Hello { deaths, cause, draining }));
        let exited = any::<(i32, u64, i32, u64)>()
            .prop_map(|(pid, started, status, peak)| ToSupervisor::Exited(ChildExit { pid, started, status, peak }));
        let bare = prop_oneof![Just(ToSupervisor::Go), Just(ToSupervisor::End)];
        prop_oneof![hello, exited, bare, "[a-z-]{1,63}".prop_map(ToSupervisor::Pipe)]
    }

    fn to_guard() -> impl Strategy<Value = ToGuard> {
        prop_oneof![
            Just(ToGuard::Ready),
            Just(ToGuard::Lock),
            any::<u32>().prop_map(|millis| ToGuard::StopBudget(Duration::from_millis(millis.into()))),
            any::<u8>().prop_map(ToGuard::Draining),
            any::<u8>().prop_map(ToGuard::Finished),
            "[a-z-]{1,63}".prop_map(ToGuard::Hold),
            "[a-z-]{1,63}".prop_map(ToGuard::Release),
            "/[ -~]{0,80}".prop_map(ToGuard::Upgrade),
        ]
    }

    proptest! {
        #[test]
        fn every_message_is_read_as_it_was_written(down in to_supervisor(), up in to_guard(), noise in ".{0,40}") {
            prop_assert_eq!(down.to_string().parse::<ToSupervisor>().unwrap(), down);
            prop_assert_eq!(up.to_string().parse::<ToGuard>().unwrap(), up);
            let _ = (noise.parse::<ToSupervisor>(), noise.parse::<ToGuard>()); // an error at worst
        }
    }

    #[test]
    fn a_budget_beyond_64_bits_is_the_longest_there_is() {
        let budget = ToGuard::StopBudget(Duration::MAX).to_string().parse::<ToGuard>().unwrap();
        assert_eq!(budget, ToGuard::StopBudget(Duration::from_millis(u64::MAX)));
    }
}
