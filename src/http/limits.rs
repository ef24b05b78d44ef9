//! The limits of a listener: how many clients, how much they may send, and how long they may take.

use std::time::Duration;

/// The limits of one listener.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// How many clients may be connected at a time.
    pub connections: u32,
    /// How many of them may connect from one address. At the limit, an idle client is disconnected for the next one.
    /// `None`: any number; when all connections are taken, the next client waits.
    pub per_address: Option<u32>,
    /// How many connections are reserved for clients that the [`Gate`](crate::http::Gate) knows.
    pub reserved: u32,
    /// Time limit for the head of a request, and for the next request on a kept-alive connection.
    pub head: Duration,
    /// Longest head of a request, in bytes.
    pub head_bytes: usize,
    /// How many headers a request may have.
    pub headers: usize,
    /// Time limit for the body of a request.
    pub body: Duration,
    /// Longest body of a request, in bytes.
    pub body_bytes: usize,
    /// Time limit for a client to read more of its response.
    pub stalled: Duration,
}

impl ListenerLimits {
    /// Limits for clients of our own user. A reader may pause for a while (`logs -f | less`).
    pub const LOCAL: ListenerLimits = ListenerLimits {
        connections: 256,
        per_address: None,
        reserved: 0,
        head: Duration::from_secs(10),
        head_bytes: HEAD_BYTES,
        headers: HEADERS,
        body: Duration::from_secs(5),
        body_bytes: 64 << 10,
        stalled: Duration::from_secs(600),
    };
    /// Limits for clients on the network.
    pub const NETWORK: ListenerLimits = ListenerLimits {
        connections: 64,
        per_address: Some(16),
        reserved: 8,
        head: Duration::from_secs(5),
        head_bytes: HEAD_BYTES,
        headers: HEADERS,
        body: Duration::from_secs(5),
        body_bytes: 64 << 10,
        stalled: Duration::from_secs(10),
    };
}

/// How many headers a client may send, and how long its head may be, if nothing else is said.
pub(super) const HEADERS: usize = 32;
pub(super) const HEAD_BYTES: usize = 8 << 10;
