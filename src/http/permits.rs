//! Connection permits: how many clients may connect to a listener in total and per address, and which one is
//! disconnected for the next. Does no I/O.
//!
//! Many connections from a few addresses must not push out other clients. So the client to disconnect is one from the
//! address with the most connections. Some permits are reserved for known clients, which are never disconnected for
//! strangers.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::Peer;
use crate::host::sync::lock;

/// The permits of one listener.
#[derive(Clone)]
pub struct Permits {
    free: Arc<Semaphore>,
    all: u32,
    /// How many of them are only for known clients.
    reserved: u32,
    per_address: Option<u32>,
    clients: Clients,
}

/// One client's permit to be connected. Dropping it returns the permit.
pub struct Permit {
    number: u64,
    revoked: Arc<Notify>,
    clients: Clients,
    _permit: OwnedSemaphorePermit,
}

/// While it exists, the client's permit is not revoked.
pub struct Busy {
    number: u64,
    clients: Clients,
}

#[derive(Clone, Default)]
struct Clients(Arc<Mutex<Connected>>);

#[derive(Default)]
struct Connected {
    /// A counter of arrivals and finished responses.
    ticks: u64,
    by_number: BTreeMap<u64, Client>,
}

struct Client {
    address: Option<IpAddr>,
    known: bool,
    /// The tick at which the client became idle, or `None` while a request is served.
    idle: Option<u64>,
    revoked: Arc<Notify>,
}

impl Permits {
    pub fn new(all: u32, reserved: u32, per_address: Option<u32>) -> Self {
        let free = Arc::new(Semaphore::new(all as usize));
        Permits { free, all, reserved, per_address, clients: Clients::default() }
    }

    /// Takes a permit for a new client. If there is none, disconnects an idle client. Returns `None` if the new client
    /// is over a limit and no other can be disconnected for it. Waits while all clients are being served.
    pub async fn take(&self, peer: Peer, known: bool) -> Option<Permit> {
        let address = match peer {
            Peer::Unix { .. } => None,
            Peer::Tcp(address) => Some(network(address.ip())),
        };
        if let Some(most) = self.per_address {
            let mut connected = self.clients.lock();
            let here = |client: &Client| client.address == address;
            let strangers = |client: &Client| !client.known;
            if connected.count(here) >= most as usize && !connected.revoke_idle(address, here) {
                return None;
            }
            let for_strangers = (self.all - self.reserved) as usize;
            if !known && connected.count(strangers) >= for_strangers && !connected.revoke_idle(address, strangers) {
                return None;
            }
            if connected.by_number.len() >= self.all as usize && !connected.revoke_idle(address, strangers) && known {
                connected.revoke_idle(address, |_| true);
            }
        }
        let permit = self.free.clone().acquire_owned().await.ok()?;
        let revoked = Arc::new(Notify::new());
        let number = self.clients.lock().arrived(address, known, revoked.clone());
        Some(Permit { number, revoked, clients: self.clients.clone(), _permit: permit })
    }

    /// Returns when no client is connected.
    pub async fn all_free(&self) {
        let _ = self.free.acquire_many(self.all).await; // the semaphore is never closed
    }
}

impl Permit {
    /// Returns when the permit was given to another client.
    pub async fn revoked(&self) {
        self.revoked.notified().await;
    }

    /// Marks the client as busy, once its whole request has arrived.
    pub fn busy(&self) -> Busy {
        if let Some(client) = self.clients.lock().by_number.get_mut(&self.number) {
            client.idle = None;
        }
        Busy { number: self.number, clients: self.clients.clone() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.clients.lock().by_number.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut connected = self.clients.lock();
        let now = connected.tick();
        if let Some(client) = connected.by_number.get_mut(&self.number) {
            client.idle = Some(now);
        }
    }
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, Connected> {
        lock(&self.0)
    }
}

impl Connected {
    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    fn count(&self, which: impl Fn(&Client) -> bool) -> usize {
        self.by_number.values().filter(|client| which(client)).count()
    }

    fn arrived(&mut self, address: Option<IpAddr>, known: bool, revoked: Arc<Notify>) -> u64 {
        let number = self.tick();
        self.by_number.insert(number, Client { address, known, idle: Some(number), revoked });
        number
    }

    /// Revokes the permit of one idle client `among` these for an arriving one: at the address with the most
    /// connections, counting the arriving one, the client that has been idle longest. False if all of them are being
    /// served.
    fn revoke_idle(&mut self, arriving: Option<IpAddr>, among: impl Fn(&Client) -> bool) -> bool {
        let mut held: HashMap<Option<IpAddr>, usize> = HashMap::from([(arriving, 1)]);
        self.by_number.values().for_each(|client| *held.entry(client.address).or_default() += 1);
        let idle = self.by_number.iter().filter(|(_, client)| among(client));
        let ranked =
            idle.filter_map(|(number, client)| Some((held[&client.address], u64::MAX - client.idle?, *number)));
        let client = ranked.max().and_then(|(_, _, number)| self.by_number.remove(&number));
        client.inspect(|client| client.revoked.notify_one()).is_some()
    }
}

/// The IPv4 address, or the /64 network of an IPv6 address, since one client usually has all of it.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn from(address: &str) -> Peer {
        Peer::Tcp(SocketAddr::new(address.parse().unwrap(), 1))
    }

    fn is_revoked(permit: &Permit) -> bool {
        let revoked = std::pin::pin!(permit.revoked());
        revoked.now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_idlest_client_of_an_address_leaves_for_the_next_of_it() {
        let permits = Permits::new(9, 0, Some(2));
        let first = permits.take(from("192.0.2.1"), false).await.unwrap();
        let second = permits.take(from("192.0.2.1"), false).await.unwrap();
        let other = permits.take(from("192.0.2.2"), false).await.unwrap();
        drop(first.busy()); // it has just been answered
        let third = permits.take(from("192.0.2.1"), false).await.unwrap();
        assert_eq!([&first, &second, &other, &third].map(is_revoked), [false, true, false, false]);
    }

    #[tokio::test]
    async fn a_client_that_is_served_stays_and_the_next_of_its_address_is_refused() {
        let permits = Permits::new(9, 0, Some(1));
        let first = permits.take(from("192.0.2.1"), false).await.unwrap();
        let busy = first.busy();
        assert!(permits.take(from("192.0.2.1"), false).await.is_none());
        drop(busy);
        assert!(permits.take(from("192.0.2.1"), false).await.is_some() && is_revoked(&first));
    }

    #[tokio::test]
    async fn a_full_listener_makes_room_for_a_new_address() {
        let permits = Permits::new(2, 0, Some(2));
        let first = permits.take(from("192.0.2.1"), false).await.unwrap();
        let second = permits.take(from("192.0.2.2"), false).await.unwrap();
        let next = tokio::spawn({
            let permits = permits.clone();
            async move { permits.take(from("192.0.2.3"), false).await.is_some() }
        });
        first.revoked().await;
        drop(first);
        assert!(next.await.unwrap() && !is_revoked(&second));
    }

    #[tokio::test]
    async fn a_known_client_finds_a_place_among_strangers_and_keeps_it() {
        let permits = Permits::new(4, 1, Some(4));
        let mut strangers = Vec::new();
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            strangers.push(permits.take(from(address), false).await.unwrap());
        }
        let known = permits.take(from("192.0.2.9"), true).await.unwrap();
        assert!(!strangers.iter().any(is_revoked), "the reserved place was free");
        let next = permits.take(from("192.0.2.4"), false);
        let (next, ()) = tokio::join!(next, async {
            strangers[0].revoked().await;
            drop(strangers);
        });
        assert!(next.is_some() && !is_revoked(&known));
    }

    proptest! {
        /// However many connections a few addresses open, a client that is alone at its address is not disconnected.
        #[test]
        fn a_crowd_at_few_addresses_pushes_out_nobody_else(
            crowd in proptest::collection::vec(0..8u8, 1..400),
            at in any::<proptest::sample::Index>(),
        ) {
            let permits = Permits::new(64, 8, Some(16));
            let (mut open, mut caller) = (Vec::new(), None);
            for (number, address) in crowd.iter().enumerate() {
                let mut take = |peer| {
                    let mut taken = std::pin::pin!(permits.take(peer, false));
                    let first = taken.as_mut().now_or_never();
                    open.retain(|permit| !is_revoked(permit)); // disconnected clients free their permits
                    first.or_else(|| taken.now_or_never()).expect("nobody waits while others are idle")
                };
                if number == at.index(crowd.len()) {
                    caller = take(from("198.51.100.1"));
                }
                let taken = take(from(&format!("192.0.2.{address}")));
                open.extend(taken);
            }
            prop_assert!(caller.is_some_and(|caller| !is_revoked(&caller)), "the caller was pushed out");
        }
    }

    #[test]
    fn a_client_is_all_of_its_network() {
        for (address, expected) in
            [("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::")]
        {
            assert_eq!(network(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap());
        }
    }
}
