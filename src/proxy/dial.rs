//! Opens connections: judges the host, looks its name up once, judges every address, and connects to one of those. No
//! other code of the proxy opens a connection.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::next;
use crate::model::proxy::denial::Denial;
use crate::model::proxy::race::{CONNECTED, HEAD_START, order};
use crate::model::proxy::request::WantedHost;
use crate::model::proxy::upstream::Upstream;
use crate::model::url::{JudgedUrl, Policy};
use crate::resolver::Resolver;

/// Time limit for all name servers together. A browser waits longer than the launcher's callers do.
const RESOLVED: Duration = Duration::from_secs(5);
/// A peer that has vanished is noticed after about two minutes: this silence, and six probes without an answer.
const SILENCE: Duration = Duration::from_secs(60);
const BETWEEN_PROBES: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;

/// Opens connections for one policy.
pub struct Dialer {
    policy: Policy,
    resolver: Resolver,
    upstream: Option<Upstream>,
}

impl Dialer {
    pub fn new(policy: Policy, upstream: Option<Upstream>) -> Arc<Self> {
        Arc::new(Dialer { policy, resolver: Resolver::within(RESOLVED), upstream })
    }

    /// Whether connections lead to another proxy.
    pub fn upstream(&self) -> Option<&Upstream> {
        self.upstream.as_ref()
    }

    /// Applies every rule that needs no name resolution.
    ///
    /// # Errors
    /// The policy's refusal.
    pub fn judge(&self, origin: &WantedHost) -> Result<JudgedUrl, Denial> {
        origin.judge(&self.policy).map_err(Denial::Refused)
    }

    /// Opens a connection to a host that [`Dialer::judge`] has allowed. With an upstream proxy, a tunnel through it.
    ///
    /// # Errors
    /// The policy's refusal of an address, or why no connection could be opened.
    pub async fn tunnel(&self, target: &JudgedUrl) -> Result<(TcpStream, Vec<u8>), Denial> {
        let addresses = self.addresses(target).await?;
        match &self.upstream {
            Some(upstream) => next::tunnel(upstream, self.to_upstream(upstream).await?, target).await,
            None => Ok((race(&addresses, target.port()).await?, Vec::new())),
        }
    }

    /// Opens a connection for requests to this host. With an upstream proxy, a connection to that proxy.
    ///
    /// # Errors
    /// As [`Dialer::tunnel`].
    pub async fn connect(&self, target: &JudgedUrl) -> Result<TcpStream, Denial> {
        let addresses = self.addresses(target).await?;
        match &self.upstream {
            Some(upstream) => self.to_upstream(upstream).await,
            None => race(&addresses, target.port()).await,
        }
    }

    /// The addresses of a host, all of them judged. Looks its name up once.
    async fn addresses(&self, target: &JudgedUrl) -> Result<Vec<IpAddr>, Denial> {
        let addresses = self.resolver.locate(&self.policy, target).await.map_err(Denial::Refused)?;
        for address in &addresses {
            self.policy.judge_dial(target, *address, || is_ours(*address)).map_err(Denial::Refused)?;
        }
        Ok(addresses)
    }

    /// The upstream is the operator's choice and may be anywhere, so it is not judged. Only this proxy cannot be its own
    /// upstream: each connection would open the next one, until none is left.
    async fn to_upstream(&self, upstream: &Upstream) -> Result<TcpStream, Denial> {
        let addresses = match upstream.host().parse() {
            Ok(address) => vec![address],
            Err(_) => self
                .resolver
                .addresses(upstream.host())
                .await
                .map_err(|why| Denial::Upstream(format!("`{}` cannot be resolved: {why}", upstream.host())))?,
        };
        if addresses.iter().any(|address| self.policy.is_own(*address, upstream.port, || is_ours(*address))) {
            let why = format!("{upstream} is this workspace itself, so PROXY_UPSTREAM has to name another proxy");
            return Err(Denial::Upstream(why));
        }
        race(&addresses, upstream.port).await.map_err(|denial| Denial::Upstream(denial.text()))
    }
}

/// Connects to the first address that answers. Dropping it cancels all attempts.
async fn race(addresses: &[IpAddr], port: u16) -> Result<TcpStream, Denial> {
    let mut waiting = order(addresses).into_iter();
    let mut running = JoinSet::new();
    let mut failed = String::from("the host has no address");
    let connected = timeout(CONNECTED, async {
        loop {
            match waiting.next() {
                Some(address) => drop(running.spawn(connect(SocketAddr::new(address, port)))),
                None if running.is_empty() => return Err(Denial::Unreachable(std::mem::take(&mut failed))),
                None => {}
            }
            let is_last = waiting.len() == 0;
            tokio::select! {
                Some(ended) = running.join_next() => match ended {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => failed = error,
                    Err(_) => {} // it was cancelled
                },
                () = sleep(HEAD_START), if !is_last => {}
            }
        }
    });
    connected.await.unwrap_or(Err(Denial::Late))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connected = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        socket.set_keepalive(true)?;
        sockopt::set_tcp_keepidle(&socket, SILENCE)?;
        sockopt::set_tcp_keepintvl(&socket, BETWEEN_PROBES)?;
        sockopt::set_tcp_keepcnt(&socket, PROBES)?;
        socket.connect(address).await
    };
    connected.await.map_err(|error: io::Error| format!("{}: {error}", address.ip()))
}

/// Whether this is an address of this machine. Asks the kernel which of its own addresses it would use to reach it; no
/// packet is sent.
fn is_ours(address: IpAddr) -> bool {
    let from: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let chosen = UdpSocket::bind(from).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    chosen.is_ok_and(|chosen| chosen.ip().to_canonical() == address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_knows_its_own_addresses() {
        for (address, ours) in [("127.0.0.1", true), ("127.9.9.9", false), ("8.8.8.8", false)] {
            // 127.9.9.9 is reached from 127.0.0.1; the policy knows loopback by itself.
            assert_eq!(is_ours(address.parse().unwrap()), ours, "{address}");
        }
    }

    #[tokio::test]
    async fn an_address_that_refuses_costs_no_head_start() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let addresses: Vec<IpAddr> = ["127.0.0.2", "127.0.0.3", "127.0.0.1"].map(|text| text.parse().unwrap()).into();
        let stream = race(&addresses, port).await.expect("one of them listens");
        assert_eq!(stream.peer_addr().unwrap().ip(), addresses[2]);
        drop(listener);
        let denial = race(&addresses, port).await.expect_err("none listens");
        assert!(matches!(&denial, Denial::Unreachable(why) if why.contains("refused")), "{denial:?}");
        assert_eq!(race(&[], port).await.err(), Some(Denial::Unreachable("the host has no address".into())));
    }
}
