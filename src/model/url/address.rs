//! Decides which addresses are on the public internet. The tables hold the IANA special-purpose registries for IPv4 and
//! IPv6, one row for each entry, and what the registries leave out. Only an address that is known to be global is
//! allowed. Must not know about URLs.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A row: a block of addresses, and whether a page may be opened there. The row with the longest prefix decides.
#[derive(Debug)]
pub struct Block {
    family: Family,
    /// The first address, as a number with the width of its family.
    base: u128,
    bits: u32,
    /// The name in the registry.
    pub name: &'static str,
    /// The document that defines the block.
    pub source: &'static str,
    /// Whether a page there may be opened.
    pub reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// The kind of host that answers at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Everyone on the internet reaches the same page.
    Global,
    /// This machine, this network, or nothing at all.
    Local,
    /// Global in the registry, but the nearest network answers, and that may be ours.
    Nearest,
    /// The last 32 bits are the IPv4 address that is finally reached, so that address decides.
    Embeds,
}

/// An address that is not global, and the row that decided it.
#[derive(Debug)]
pub struct NotGlobal {
    address: IpAddr,
    /// The address that was judged; differs from `address` if it is embedded in it.
    judged: IpAddr,
    block: &'static Block,
}

/// Whether everyone on the internet reaches the same machine by this address.
pub fn judge(address: IpAddr) -> Result<(), NotGlobal> {
    let block = block(address);
    match block.reach {
        Reach::Global => match isatap(address) {
            Some(inner) => judge(inner.into()).map_err(|found| NotGlobal { address, ..found }),
            None => Ok(()),
        },
        Reach::Local | Reach::Nearest => Err(NotGlobal { address, judged: address, block }),
        Reach::Embeds => {
            let inner = Ipv4Addr::from_bits(number(address).1 as u32); // `as` keeps only the last 32 bits
            judge(inner.into()).map_err(|found| NotGlobal { address, ..found })
        }
    }
}

/// The IPv4 address that an ISATAP router takes from the second half of an address (RFC 5214), for any first half.
fn isatap(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [.., kind, mark, high, low] = address.segments();
    let is_isatap = mark == 0x5efe && kind & !0x0200 == 0;
    is_isatap.then(|| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

/// Every row, ordered by address, IPv4 first.
pub fn blocks() -> impl Iterator<Item = &'static Block> {
    V4.iter().chain(V6)
}

fn block(address: IpAddr) -> &'static Block {
    let rows = blocks().filter(|block| block.holds(address));
    rows.max_by_key(|block| block.bits).expect("each family has a row that holds all of it")
}

fn number(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(address) => (Family::V4, address.to_bits().into()),
        IpAddr::V6(address) => (Family::V6, address.to_bits()),
    }
}

impl Block {
    /// Whether the address is in this block.
    pub fn holds(&self, address: IpAddr) -> bool {
        let (family, number) = number(address);
        family == self.family && (number ^ self.base).checked_shr(self.free_bits()).unwrap_or(0) == 0
    }

    /// The number of address bits that are not part of the prefix.
    pub fn free_bits(&self) -> u32 {
        match self.family {
            Family::V4 => 32 - self.bits,
            Family::V6 => 128 - self.bits,
        }
    }

    /// The address at this offset in the block. Offsets beyond the end wrap around.
    #[cfg(test)]
    pub fn address(&self, place: u128) -> IpAddr {
        let open = u128::MAX.checked_shr(128 - self.free_bits()).unwrap_or(0);
        let number = self.base | (place & open);
        match self.family {
            Family::V4 => Ipv4Addr::from_bits(number as u32).into(),
            Family::V6 => Ipv6Addr::from_bits(number).into(),
        }
    }
}

impl NotGlobal {
    /// The same words for the end of a sentence: "10.0.0.1, which is not …".
    pub fn clause(&self) -> String {
        let text = self.to_string();
        let (address, rest) = text.split_once(' ').unwrap_or((&text, ""));
        format!("{address}, which {rest}")
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.family {
            Family::V4 => write!(f, "{}/{}", Ipv4Addr::from_bits(self.base as u32), self.bits),
            Family::V6 => write!(f, "{}/{}", Ipv6Addr::from_bits(self.base), self.bits),
        }
    }
}

impl fmt::Display for NotGlobal {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let NotGlobal { address, judged, block } = self;
        write!(f, "{address}")?;
        if judged != address {
            write!(f, " leads to {judged}, which")?;
        }
        write!(f, " is not on the public internet: {block} is \"{}\" ({})", block.name, block.source)
    }
}

const fn v4(base: [u8; 4], bits: u32, name: &'static str, source: &'static str, reach: Reach) -> Block {
    Block { family: Family::V4, base: u32::from_be_bytes(base) as u128, bits, name, source, reach }
}

/// `head` holds the first groups; the remaining ones are 0.
const fn v6(head: &[u16], bits: u32, name: &'static str, source: &'static str, reach: Reach) -> Block {
    let mut groups = [0; 8];
    let mut at = 0;
    while at < head.len() {
        groups[at] = head[at];
        at += 1;
    }
    let [a, b, c, d, e, f, g, h] = groups;
    let base = Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits();
    Block { family: Family::V6, base, bits, name, source, reach }
}

use Reach::{Embeds, Global, Local, Nearest};

/// The IANA IPv4 Special-Purpose Address Registry, plus multicast and one cloud address that looks public.
const V4: &[Block] = &[
    v4([0, 0, 0, 0], 0, "everything else", "RFC 791", Global),
    v4([0, 0, 0, 0], 8, "This network", "RFC 791", Local),
    v4([0, 0, 0, 0], 32, "This host on this network", "RFC 1122", Local),
    v4([10, 0, 0, 0], 8, "Private-Use", "RFC 1918", Local),
    v4([100, 64, 0, 0], 10, "Shared Address Space", "RFC 6598", Local),
    v4([127, 0, 0, 0], 8, "Loopback", "RFC 1122", Local),
    v4([161, 26, 0, 0], 16, "IBM Cloud's services, behind every machine there", "not in a registry", Local),
    v4([166, 8, 0, 0], 14, "IBM Cloud's services, behind every machine there", "not in a registry", Local),
    v4([168, 63, 129, 16], 32, "Azure's host, behind every machine there", "not in a registry", Local),
    v4([169, 254, 0, 0], 16, "Link Local", "RFC 3927", Local),
    v4([172, 16, 0, 0], 12, "Private-Use", "RFC 1918", Local),
    v4([192, 0, 0, 0], 24, "IETF Protocol Assignments", "RFC 6890", Local),
    v4([192, 0, 0, 0], 29, "IPv4 Service Continuity Prefix", "RFC 7335", Local),
    v4([192, 0, 0, 8], 32, "IPv4 dummy address", "RFC 7600", Local),
    v4([192, 0, 0, 9], 32, "Port Control Protocol Anycast", "RFC 7723", Nearest),
    v4([192, 0, 0, 10], 32, "Traversal Using Relays around NAT Anycast", "RFC 8155", Nearest),
    v4([192, 0, 0, 170], 32, "NAT64/DNS64 Discovery", "RFC 7050", Local),
    v4([192, 0, 0, 171], 32, "NAT64/DNS64 Discovery", "RFC 7050", Local),
    v4([192, 0, 2, 0], 24, "Documentation (TEST-NET-1)", "RFC 5737", Local),
    v4([192, 31, 196, 0], 24, "AS112-v4", "RFC 7535", Nearest),
    v4([192, 52, 193, 0], 24, "AMT", "RFC 7450", Nearest),
    v4([192, 88, 99, 0], 24, "Deprecated (6to4 Relay Anycast)", "RFC 7526", Local),
    v4([192, 88, 99, 2], 32, "6a44-relay anycast address", "RFC 6751", Local),
    v4([192, 168, 0, 0], 16, "Private-Use", "RFC 1918", Local),
    v4([192, 175, 48, 0], 24, "Direct Delegation AS112 Service", "RFC 7534", Nearest),
    v4([198, 18, 0, 0], 15, "Benchmarking", "RFC 2544", Local),
    v4([198, 51, 100, 0], 24, "Documentation (TEST-NET-2)", "RFC 5737", Local),
    v4([199, 36, 153, 4], 30, "Google Cloud's services, as its machines reach them", "not in a registry", Local),
    v4([199, 36, 153, 8], 30, "Google Cloud's services, as its machines reach them", "not in a registry", Local),
    v4([203, 0, 113, 0], 24, "Documentation (TEST-NET-3)", "RFC 5737", Local),
    v4([224, 0, 0, 0], 4, "Multicast", "RFC 5771", Local),
    v4([240, 0, 0, 0], 4, "Reserved", "RFC 1112", Local),
    v4([255, 255, 255, 255], 32, "Limited Broadcast", "RFC 919", Local),
];

/// The IANA IPv6 Special-Purpose Address Registry, plus the blocks that RFC 4291 and its predecessors reserve.
const V6: &[Block] = &[
    v6(&[], 0, "outside of 2000::/3, the global unicast space", "RFC 4291", Local),
    v6(&[], 96, "IPv4-compatible, deprecated", "RFC 4291", Local),
    v6(&[], 128, "Unspecified Address", "RFC 4291", Local),
    v6(&[0, 0, 0, 0, 0, 0, 0, 1], 128, "Loopback Address", "RFC 4291", Local),
    v6(&[0, 0, 0, 0, 0, 0xffff], 96, "IPv4-mapped Address", "RFC 4291", Embeds),
    v6(&[0, 0, 0, 0, 0xffff], 96, "IPv4-translated, obsolete", "RFC 2765", Local),
    v6(&[0x64, 0xff9b], 96, "IPv4-IPv6 Translat.", "RFC 6052", Embeds),
    v6(&[0x64, 0xff9b, 1], 48, "IPv4-IPv6 Translat., local use", "RFC 8215", Local),
    v6(&[0x100], 64, "Discard-Only Address Block", "RFC 6666", Local),
    v6(&[0x100, 0, 0, 1], 64, "Dummy IPv6 Prefix", "RFC 9780", Local),
    v6(&[0x2000], 3, "everything else", "RFC 4291", Global),
    v6(&[0x2001], 23, "IETF Protocol Assignments", "RFC 2928", Local),
    v6(&[0x2001], 32, "TEREDO", "RFC 4380", Local),
    v6(&[0x2001, 1, 0, 0, 0, 0, 0, 1], 128, "Port Control Protocol Anycast", "RFC 7723", Nearest),
    v6(&[0x2001, 1, 0, 0, 0, 0, 0, 2], 128, "Traversal Using Relays around NAT Anycast", "RFC 8155", Nearest),
    v6(&[0x2001, 1, 0, 0, 0, 0, 0, 3], 128, "DNS-SD Service Registration Protocol Anycast", "RFC 9665", Nearest),
    v6(&[0x2001, 2, 0], 48, "Benchmarking", "RFC 5180", Local),
    v6(&[0x2001, 3], 32, "AMT", "RFC 7450", Nearest),
    v6(&[0x2001, 4, 0x112], 48, "AS112-v6", "RFC 7535", Nearest),
    v6(&[0x2001, 0x10], 28, "Deprecated (previously ORCHID)", "RFC 4843", Local),
    v6(&[0x2001, 0x20], 28, "ORCHIDv2", "RFC 7343", Global),
    v6(&[0x2001, 0x30], 28, "Drone Remote ID Protocol Entity Tags", "RFC 9374", Global),
    v6(&[0x2001, 0xdb8], 32, "Documentation", "RFC 3849", Local),
    v6(&[0x2002], 16, "6to4", "RFC 3056", Local),
    v6(&[0x2620, 0x4f, 0x8000], 48, "Direct Delegation AS112 Service", "RFC 7534", Nearest),
    v6(&[0x3ffe], 16, "6bone, given back", "RFC 3701", Local),
    v6(&[0x3fff], 20, "Documentation", "RFC 9637", Local),
    v6(&[0x5f00], 16, "Segment Routing (SRv6) SIDs", "RFC 9602", Local),
    v6(&[0xfc00], 7, "Unique-Local", "RFC 4193", Local),
    v6(&[0xfe80], 10, "Link-Local Unicast", "RFC 4291", Local),
    v6(&[0xfec0], 10, "Site-Local Unicast, deprecated", "RFC 3879", Local),
    v6(&[0xff00], 8, "Multicast", "RFC 4291", Local),
];
