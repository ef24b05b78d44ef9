//! Resolves names with the machine's own settings (`/etc/hosts`, `/etc/resolv.conf` with its search domains), within a
//! deadline. Dropping a look-up cancels it. The policy judges the addresses, not this module.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::{DnsError, NetError};
use tokio::time::timeout;

use crate::model::url::{JudgedUrl, Policy, Refused};

/// Time limit for all name servers together.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long an answer is cached. A page requests the same few names many times.
const REMEMBERED: Duration = Duration::from_secs(5);
/// The resolver's configuration files.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Resolves names, with at most one look-up per name at a time.
pub struct Resolver {
    deadline: Duration,
    client: Mutex<Option<(Stamp, TokioResolver)>>,
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// When the configuration files were last written.
type Stamp = [Option<SystemTime>; FILES.len()];

impl Default for Resolver {
    fn default() -> Self {
        Resolver::within(DEADLINE)
    }
}

impl Resolver {
    /// A resolver with this time limit for all name servers together.
    pub fn within(deadline: Duration) -> Self {
        Resolver { deadline, client: Mutex::default(), busy: Mutex::default() }
    }

    /// All addresses of the target's host, judged by the policy. The address itself, if the host is one.
    ///
    /// # Errors
    /// The policy's refusal; also if the name cannot be resolved.
    pub async fn locate(&self, policy: &Policy, target: &JudgedUrl) -> Result<Vec<IpAddr>, Refused> {
        if let Some(address) = target.literal() {
            return Ok(vec![address]);
        }
        let found = self.addresses(target.host()).await.map_err(|why| Refused::unresolved(target, &why))?;
        policy.judge_addresses(target, &found)?;
        Ok(found)
    }

    /// Resolves the target's name, if it has one, and checks all addresses with the policy.
    pub async fn judge(&self, policy: &Policy, target: &JudgedUrl) -> Result<Vec<IpAddr>, Refused> {
        let Some(name) = target.name() else { return Ok(Vec::new()) };
        let found = self.addresses(name).await.map_err(|why| Refused::unresolved(target, &why))?;
        policy.judge_addresses(target, &found)?;
        Ok(found)
    }

    /// All IPv4 and IPv6 addresses of `name`, without duplicates. The error says why there are none.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let late = |_| Err(format!("no name server answered within {:?}", self.deadline));
        timeout(self.deadline, self.look_up(name)).await.unwrap_or_else(late)
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let turn = self.turn(name);
        let _turn = turn.lock().await; // a second look-up waits here, then finds the answer in the cache
        let found = self.client()?.lookup_ip(name).await.map_err(|error| reason(&error))?;
        let mut found: Vec<IpAddr> = found.iter().collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = busy.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        busy.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        busy.insert(name.into(), Arc::downgrade(&turn));
        turn
    }

    /// The DNS client, rebuilt whenever the configuration files have changed.
    fn client(&self) -> Result<TokioResolver, String> {
        let stamp = FILES.map(|file| fs::metadata(file).and_then(|file| file.modified()).ok());
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = client.as_ref()
            && *of == stamp
        {
            return Ok(client.clone());
        }
        let unreadable = |error: NetError| format!("cannot read {}: {error}", FILES[0]);
        let mut builder = TokioResolver::builder_tokio().map_err(unreadable)?;
        let options = builder.options_mut();
        options.timeout = (self.deadline / 3).max(DEADLINE); // a lost packet is sent again
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.positive_max_ttl = Some(REMEMBERED);
        options.negative_max_ttl = Some(DEADLINE);
        options.max_active_requests = 1024;
        let built = builder.build().map_err(unreadable)?;
        *client = Some((stamp, built.clone()));
        Ok(built)
    }
}

fn reason(error: &NetError) -> String {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(_)) => "it has no address".into(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_knows_itself() {
        let found = Resolver::default().addresses("localhost").await.expect("localhost");
        assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    #[tokio::test]
    async fn a_name_that_cannot_exist_is_an_error_in_words() {
        let why = Resolver::default().addresses("no-such-name.invalid").await.expect_err("it cannot exist");
        assert!(!why.is_empty() && why.len() < 200, "{why}");
    }

    #[tokio::test]
    async fn one_name_is_looked_up_once_at_a_time() {
        let resolver = Resolver::default();
        let (first, second) = (resolver.turn("a.com"), resolver.turn("a.com"));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &resolver.turn("b.com")));
        drop((first, second));
        drop(resolver.turn("c.com"));
        assert!(resolver.busy.lock().unwrap().len() <= 1, "unused names are not forgotten");
    }
}
