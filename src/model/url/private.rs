//! Exceptions from the policy for this network: private hosts that may be opened on purpose, and ports of this machine
//! that never are. Both lists are empty by default.

use core::net::IpAddr;

use super::name::{self, HostPattern};
use super::{JudgedUrl, Policy, Reason, Refused, refused};

/// An entry of the list: `grafana.internal`, `*.corp.example`, `10.0.0.5`, `[fd00::5]`, each with a port if wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateHost {
    hosts: HostPattern,
    /// The only port that may be opened. `None`: the ports of the policy.
    port: Option<u16>,
}

impl PrivateHost {
    /// Reads one entry.
    ///
    /// # Errors
    /// A sentence with the entry, if no host can be meant.
    pub fn read(word: &str) -> Result<Self, String> {
        let (host, port) = match word.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(super::port(port)?)),
            _ => (word, None),
        };
        Ok(PrivateHost { hosts: HostPattern::read(host)?, port })
    }

    /// Whether this entry opens `host` at `port`. `usual` are the ports of the policy.
    pub fn opens(&self, host: &str, port: u16, usual: &[u16]) -> bool {
        let at = match self.port {
            Some(own) => own == port,
            None => usual.contains(&port),
        };
        at && self.hosts.holds(host)
    }
}

impl Policy {
    /// Allows private hosts on purpose, each with a port if wanted (`grafana.internal`, `*.corp.example`, `10.0.0.5:3000`).
    ///
    /// # Errors
    /// A sentence about the first word that names no host.
    pub fn with_private(mut self, hosts: &[String]) -> Result<Policy, String> {
        self.private = hosts.iter().map(|word| PrivateHost::read(word)).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Refuses these ports of this machine, whatever else is allowed.
    pub fn with_own_ports(mut self, ports: &[u16]) -> Policy {
        self.own_ports.extend(ports);
        self
    }

    /// Judges an address before a connection to it is opened for this URL. `is_ours` says whether the address is one of this
    /// machine. The name's addresses were judged before.
    ///
    /// # Errors
    /// If the port is one of this machine's own.
    pub fn judge_dial(
        &self,
        target: &JudgedUrl,
        address: IpAddr,
        is_ours: impl FnOnce() -> bool,
    ) -> Result<(), Refused> {
        match self.is_own(address, target.port(), is_ours) {
            true => Err(own_port(target.port())),
            false => Ok(()),
        }
    }

    /// Whether this is one of the workspace's own ports on this machine. `is_ours` says whether the address is one of this
    /// machine.
    pub fn is_own(&self, address: IpAddr, port: u16, is_ours: impl FnOnce() -> bool) -> bool {
        self.own_ports.contains(&port) && (is_here(address) || is_ours())
    }

    pub(super) fn is_private_on_purpose(&self, target: &JudgedUrl) -> bool {
        self.private.iter().any(|entry| entry.opens(target.plain_host(), target.port(), &self.ports))
    }

    pub(super) fn judge_own_port(&self, target: &JudgedUrl) -> Result<(), Refused> {
        let here = match target.literal() {
            Some(address) => is_here(address),
            None => name::is_below(target.plain_host(), "localhost"),
        };
        match here && self.own_ports.contains(&target.port()) {
            true => Err(own_port(target.port())),
            false => Ok(()),
        }
    }
}

/// Whether a connection to this address stays on this machine, whatever its network is.
fn is_here(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified()
}

fn own_port(port: u16) -> Refused {
    let text =
        format!("port {port} of this machine belongs to the workspace itself: its services or the browser's DevTools");
    refused(Reason::OwnPort, text)
}
