//! The addresses of a name, as this machine's resolver tells them (`/etc/hosts`, search domains, name servers:
//! the browser asks the same ones), within a deadline. Decides nothing: the policy judges what was found.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::model::url::{Policy, Refused, Target};

/// Longest wait for all name servers together.
const DEADLINE: Duration = Duration::from_secs(1);

/// The C library's resolver cannot be interrupted: a look-up that nobody waits for any more holds its thread for
/// as long as the name servers are mute. This many may.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

/// Asks for the addresses of the target's name, when it has one, and has them judged; tells those that passed.
pub async fn judge(policy: &Policy, target: &Target) -> Result<Vec<IpAddr>, Refused> {
    let Some(name) = target.name() else { return Ok(Vec::new()) };
    let found = resolve(name, target.port()).await.map_err(|why| Refused::unresolved(target, &why))?;
    policy.judge_addresses(target, &found)?;
    Ok(found)
}

/// All addresses of `name`, IPv4 and IPv6, without doubles. The error says why there are none.
pub async fn resolve(name: &str, port: u16) -> Result<Vec<IpAddr>, String> {
    let name = name.to_owned();
    within(DEADLINE, move || (name.as_str(), port).to_socket_addrs().map(|found| found.map(|at| at.ip()).collect()))
        .await
}

/// On a thread of its own and not tokio's, for which the end of a runtime would wait.
async fn within(
    deadline: Duration,
    look_up: impl FnOnce() -> io::Result<Vec<IpAddr>> + Send + 'static,
) -> Result<Vec<IpAddr>, String> {
    let answer = async {
        let permit = LOOKUPS.acquire().await.map_err(|closed| closed.to_string())?;
        let (reply, answer) = oneshot::channel();
        let look = move || {
            let _ = reply.send(look_up()); // whoever asked may not wait any more
            drop(permit);
        };
        std::thread::Builder::new()
            .name("resolver".into())
            .spawn(look)
            .map_err(|error| format!("no thread to ask on: {error}"))?;
        let found = answer.await.map_err(|_| "the resolver crashed".to_owned())?;
        found.map_err(|error| reason(&error))
    };
    let mut found = timeout(deadline, answer)
        .await
        .unwrap_or_else(|_| Err(format!("no name server answered within {deadline:?}")))?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The resolver's own words, without those of the standard library around them.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_knows_itself() {
        let found = resolve("localhost", 80).await.expect("localhost");
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_is_an_error_in_words() {
        let why = resolve("no-such-name.invalid", 80).await.expect_err("it cannot exist");
        assert!(!why.is_empty() && !why.contains("lookup address information"), "{why}");
    }

    #[tokio::test]
    async fn addresses_are_told_once() {
        let twice = || Ok(vec!["::1".parse().unwrap(), "1.1.1.1".parse().unwrap(), "::1".parse().unwrap()]);
        let found = within(DEADLINE, twice).await.expect("two addresses");
        assert_eq!(found, ["1.1.1.1", "::1"].map(|address| address.parse::<IpAddr>().unwrap()));
    }

    #[tokio::test]
    async fn mute_name_servers_are_waited_for_no_longer_than_the_deadline() {
        let (never, mute) = std::sync::mpsc::channel::<()>();
        let why = within(Duration::from_millis(10), move || {
            let _ = mute.recv();
            Ok(Vec::new())
        });
        assert_eq!(why.await.expect_err("nobody answered"), "no name server answered within 10ms");
        drop(never);
    }
}
