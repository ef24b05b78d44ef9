//! Happy eyeballs (RFC 8305): in which order the addresses of a host are tried, and how long one of them may take before
//! the next is tried beside it.

use core::net::IpAddr;
use core::time::Duration;

/// How long one address may take before the next one is tried too.
pub const HEAD_START: Duration = Duration::from_millis(250);
/// Time limit for a connection, all addresses together.
pub const CONNECTED: Duration = Duration::from_secs(10);
/// How many addresses of a host are tried.
pub const MOST: usize = 8;

/// The addresses in the order in which they are tried: IPv6 first, then the two families in turns, so that a family
/// without a route costs one head start at most.
pub fn order(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let (mut sixes, mut fours): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv6());
    sixes.reverse();
    fours.reverse();
    let mut ordered = Vec::new();
    while ordered.len() < MOST && !(sixes.is_empty() && fours.is_empty()) {
        ordered.extend(sixes.pop());
        ordered.extend(fours.pop());
    }
    ordered.truncate(MOST);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_none_is_forgotten() {
        let order = |texts: &[&str]| {
            let addresses: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            order(&addresses).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order(&["1.1.1.1", "8.8.8.8", "2606::1", "2606::2"]), "2606::1 1.1.1.1 2606::2 8.8.8.8");
        assert_eq!(order(&["1.1.1.1", "8.8.8.8", "9.9.9.9", "2606::1"]), "2606::1 1.1.1.1 8.8.8.8 9.9.9.9");
        assert_eq!(order(&["1.1.1.1"]), "1.1.1.1");
        assert_eq!(order(&[]), "");
        let many: Vec<String> = (0..100).map(|last| format!("1.1.1.{last}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(order(&many).split(' ').count(), MOST);
    }
}
