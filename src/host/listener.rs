//! Finds out who listens on a TCP port of this machine: the processes, and the users.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::proc;
use crate::model::tree::Listeners;

/// `TCP_LISTEN` of the kernel's `tcp_states.h`.
const LISTEN: &str = "0A";

/// The processes that listen where a connection to `address` arrives.
///
/// # Errors
/// The kernel does not list its sockets.
pub fn of(address: SocketAddr) -> io::Result<Listeners> {
    let sockets = sockets(address)?;
    let mut listeners = Listeners::default();
    if sockets.is_empty() {
        return Ok(listeners);
    }
    let mut open = HashSet::new();
    for process in proc::table().processes {
        let files = proc::open_files(process.pid).unwrap_or_default();
        let its: Vec<u64> = files.iter().filter_map(|file| inode(file.to_str()?)).collect();
        if sockets.iter().any(|socket| its.contains(&socket.inode)) {
            listeners.pids.push(process.pid);
            open.extend(its);
        }
    }
    let hidden = sockets.iter().filter(|socket| !open.contains(&socket.inode));
    listeners.hidden.extend(hidden.map(|socket| socket.user));
    Ok(listeners)
}

/// The users whose sockets listen where a connection to `address` arrives. A user of another user namespace has the
/// kernel's overflow id, 65534.
pub fn users(address: SocketAddr) -> Vec<u32> {
    sockets(address).unwrap_or_default().iter().map(|socket| socket.user).collect()
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Listening {
    local: SocketAddr,
    /// The user who made it.
    user: u32,
    inode: u64,
}

/// The inode of an open file that is a socket.
fn inode(file: &str) -> Option<u64> {
    file.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The sockets that listen on exactly this address, else those that listen on all addresses.
fn sockets(address: SocketAddr) -> io::Result<Vec<Listening>> {
    let ipv4 = fs::read_to_string("/proc/self/net/tcp")?;
    let ipv6 = fs::read_to_string("/proc/self/net/tcp6").unwrap_or_default(); // a machine without IPv6
    let lines = ipv4.lines().chain(ipv6.lines());
    let listening: Vec<Listening> =
        lines.filter_map(listening).filter(|socket| socket.local.port() == address.port()).collect();
    let at = |wanted: &dyn Fn(IpAddr) -> bool| -> Vec<Listening> {
        listening.iter().filter(|socket| wanted(socket.local.ip().to_canonical())).copied().collect()
    };
    let exact = at(&|ip| ip == address.ip().to_canonical());
    Ok(if exact.is_empty() { at(&|ip| ip.is_unspecified()) } else { exact })
}

/// One line of `/proc/net/tcp`, if it is a listening socket.
fn listening(line: &str) -> Option<Listening> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, state, user, inode) = (fields.get(1)?, fields.get(3)?, fields.get(7)?, fields.get(9)?);
    if *state != LISTEN {
        return None;
    }
    let (ip, port) = address.split_once(':')?;
    // Words of four bytes, each in the machine's byte order.
    let words: Option<Vec<u32>> =
        (0..ip.len() / 8).map(|i| u32::from_str_radix(ip.get(i * 8..i * 8 + 8)?, 16).ok()).collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    let local = SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?);
    Some(Listening { local, user: user.parse().ok()?, inode: inode.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn we_are_found_behind_our_port_by_whatever_address_it_is_asked() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(bound) else { continue }; // a machine without IPv6
            let port = listener.local_addr().unwrap().port();
            let asked = if bound == "[::1]:0" { "::1" } else { "127.0.0.1" };
            let address = SocketAddr::new(asked.parse().unwrap(), port);
            let own = Listeners { pids: vec![std::process::id() as proc::Pid], hidden: Vec::new() };
            assert_eq!(of(address).unwrap(), own, "{bound}");
            assert_eq!(users(address), [rustix::process::getuid().as_raw()], "{bound}");
            drop(listener);
            assert_eq!(of(address).unwrap(), Listeners::default());
        }
    }

    #[test]
    fn an_address_of_its_own_goes_before_all_addresses() {
        let own = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = own.local_addr().unwrap().port();
        let found = sockets(SocketAddr::from(([127, 0, 0, 2], port))).unwrap();
        let us = rustix::process::geteuid().as_raw();
        assert_eq!(found.iter().map(|socket| socket.user).collect::<Vec<_>>(), [us]);
        assert!(sockets(SocketAddr::from(([127, 0, 0, 3], port))).unwrap().is_empty());
    }
}
