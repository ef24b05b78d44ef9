//! Who is connected to a listener. Owns how many may be, in all and from one address, and who has to leave
//! when the next one comes. Reads and writes no byte.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::Peer;

/// The seats of one listener.
#[derive(Clone)]
pub struct Seats {
    free: Arc<Semaphore>,
    all: u32,
    per_address: Option<u32>,
    roster: Arc<Roster>,
}

/// A seat that is taken; dropping it frees it.
pub struct Seat {
    number: u64,
    leave: Arc<Notify>,
    roster: Arc<Roster>,
    _permit: OwnedSemaphorePermit,
}

/// While it is there, nobody takes the seat away.
pub struct Working {
    number: u64,
    roster: Arc<Roster>,
}

#[derive(Default)]
struct Roster(Mutex<Guests>);

#[derive(Default)]
struct Guests {
    next: u64,
    by_number: BTreeMap<u64, Guest>,
}

struct Guest {
    address: Option<IpAddr>,
    /// Since when he is waited for, as a count of all arrivals and answers; none while he is served.
    idle: Option<u64>,
    leave: Arc<Notify>,
}

impl Seats {
    pub fn new(all: u32, per_address: Option<u32>) -> Self {
        Seats { free: Arc::new(Semaphore::new(all as usize)), all, per_address, roster: Arc::default() }
    }

    /// A seat for a new client, when it must be that of another one. None when its address has its share and all
    /// of them are served. Waits while everybody is.
    pub async fn take(&self, peer: Peer) -> Option<Seat> {
        let address = match peer {
            Peer::Unix { .. } => None,
            Peer::Tcp(address) => Some(network(address.ip())),
        };
        if let Some(most) = self.per_address {
            let mut guests = self.roster.lock();
            let here = |guest: &Guest| guest.address == address;
            if guests.by_number.values().filter(|guest| here(guest)).count() >= most as usize && !guests.dismiss(here) {
                return None;
            }
            if guests.by_number.len() >= self.all as usize {
                guests.dismiss(|_| true);
            }
        }
        let permit = self.free.clone().acquire_owned().await.ok()?;
        let leave = Arc::new(Notify::new());
        let number = self.roster.lock().arrived(address, leave.clone());
        Some(Seat { number, leave, roster: self.roster.clone(), _permit: permit })
    }

    pub async fn all_free(&self) {
        let _ = self.free.acquire_many(self.all).await; // it is never closed
    }
}

impl Seat {
    /// Returns when another client needs it more.
    pub async fn lost(&self) {
        self.leave.notified().await;
    }

    /// His request has come in whole, and is answered from now on.
    pub fn working(&self) -> Working {
        if let Some(guest) = self.roster.lock().by_number.get_mut(&self.number) {
            guest.idle = None;
        }
        Working { number: self.number, roster: self.roster.clone() }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.roster.lock().by_number.remove(&self.number);
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut guests = self.roster.lock();
        let now = guests.tick();
        if let Some(guest) = guests.by_number.get_mut(&self.number) {
            guest.idle = Some(now);
        }
    }
}

impl Roster {
    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn arrived(&mut self, address: Option<IpAddr>, leave: Arc<Notify>) -> u64 {
        let number = self.tick();
        self.by_number.insert(number, Guest { address, idle: Some(number), leave });
        number
    }

    /// Sends away who is waited for longest among these; false when all of them are served.
    fn dismiss(&mut self, among: impl Fn(&Guest) -> bool) -> bool {
        let idle = self.by_number.iter().filter(|(_, guest)| among(guest));
        let longest = idle.filter_map(|(number, guest)| Some((guest.idle?, *number))).min();
        let guest = longest.and_then(|(_, number)| self.by_number.remove(&number));
        guest.inspect(|guest| guest.leave.notify_one()).is_some()
    }
}

/// The address, or all of the IPv6 network that one client has to itself.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn from(address: &str) -> Peer {
        Peer::Tcp(SocketAddr::new(address.parse().unwrap(), 1))
    }

    fn left(seat: &Seat) -> bool {
        let lost = std::pin::pin!(seat.lost());
        futures_util::FutureExt::now_or_never(lost).is_some()
    }

    #[tokio::test]
    async fn who_waits_longest_leaves_for_the_next_of_his_address() {
        let seats = Seats::new(9, Some(2));
        let first = seats.take(from("192.0.2.1")).await.unwrap();
        let second = seats.take(from("192.0.2.1")).await.unwrap();
        let other = seats.take(from("192.0.2.2")).await.unwrap();
        drop(first.working()); // he has just been answered
        let third = seats.take(from("192.0.2.1")).await.unwrap();
        assert_eq!([&first, &second, &other, &third].map(left), [false, true, false, false]);
    }

    #[tokio::test]
    async fn who_is_served_stays_and_the_next_of_his_address_is_sent_away() {
        let seats = Seats::new(9, Some(1));
        let first = seats.take(from("192.0.2.1")).await.unwrap();
        let working = first.working();
        assert!(seats.take(from("192.0.2.1")).await.is_none());
        drop(working);
        assert!(seats.take(from("192.0.2.1")).await.is_some() && left(&first));
    }

    #[tokio::test]
    async fn a_full_house_makes_room_for_a_new_address() {
        let seats = Seats::new(2, Some(2));
        let first = seats.take(from("192.0.2.1")).await.unwrap();
        let second = seats.take(from("192.0.2.2")).await.unwrap();
        let next = tokio::spawn({
            let seats = seats.clone();
            async move { seats.take(from("192.0.2.3")).await.is_some() }
        });
        first.lost().await;
        drop(first);
        assert!(next.await.unwrap() && !left(&second));
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
