//! Decides from a name alone whether it can be on the public internet, and reads the host patterns of a policy. Expects
//! names from the URL parser: lower case and ASCII. Must not know about URLs or addresses.

use url::Host;

use super::Reason;

/// A name for which no public name server answers, nor for any name below it.
#[derive(Debug)]
pub struct Reserved {
    /// The name itself; every name below it is reserved too.
    pub suffix: &'static str,
    /// Its purpose.
    pub what: &'static str,
    /// The document that reserves it.
    pub source: &'static str,
}

const fn reserved(suffix: &'static str, what: &'static str, source: &'static str) -> Reserved {
    Reserved { suffix, what, source }
}

/// `example.com`, `example.net` and `example.org` are not listed: RFC 6761 lets software treat them like any other
/// name, and they show a public page.
pub const RESERVED: &[Reserved] = &[
    reserved("localhost", "this machine", "RFC 6761"),
    reserved("localdomain", "this machine or network", "by custom"),
    reserved("local", "the local network", "RFC 6762"),
    reserved("cluster.local", "the services of the cluster", "Kubernetes"),
    reserved("svc", "the services of the cluster", "Kubernetes"),
    reserved("internal", "a private network", "ICANN 2024-07-29"),
    reserved("intranet", "a private network", "RFC 6762, appendix G"),
    reserved("private", "a private network", "RFC 6762, appendix G"),
    reserved("corp", "a private network", "RFC 6762, appendix G"),
    reserved("home", "a private network", "RFC 6762, appendix G"),
    reserved("lan", "a private network", "RFC 6762, appendix G"),
    reserved("home.arpa", "the home network", "RFC 8375"),
    reserved("arpa", "the internet's own machinery", "RFC 3172"),
    reserved("onion", "Tor, which this browser does not speak", "RFC 7686"),
    reserved("alt", "names that are not for the name system", "RFC 9476"),
    reserved("test", "tests: no public server answers, so only a private one could", "RFC 6761"),
    reserved("invalid", "nothing, for ever: only a private server could answer", "RFC 6761"),
    reserved("example", "documentation: only a private server could answer", "RFC 6761"),
    reserved("metadata.google.internal", "the secrets of a machine in a cloud", "Google Cloud"),
    reserved("metadata.goog", "the secrets of a machine in a cloud", "Google Cloud"),
    reserved("metadata.tencentyun.com", "the secrets of a machine in a cloud", "Tencent Cloud"),
    reserved("metadata.packet.net", "the secrets of a machine in a cloud", "Equinix Metal"),
    reserved("metadata.platformequinix.com", "the secrets of a machine in a cloud", "Equinix Metal"),
];

/// Longest label, and longest name without its last dot (RFC 1035).
const LABEL: usize = 63;
const NAME: usize = 253;

/// Refuses a name for reasons that need no name server. `name` has no trailing dot.
pub fn judge(name: &str) -> Result<(), (Reason, String)> {
    well_formed(name).map_err(|why| (Reason::BadName, why))?;
    if let Some(row) = RESERVED.iter().filter(|row| is_below(name, row.suffix)).max_by_key(|row| row.suffix.len()) {
        let Reserved { suffix, what, source } = row;
        let text = if name == *suffix {
            format!("is for {what} ({source})")
        } else {
            format!("is below .{suffix}, which is for {what} ({source})")
        };
        return Err((Reason::ReservedName, text));
    }
    if !name.contains('.') {
        return Err((Reason::SingleLabel, "is a name of the local network: a public name has a dot".into()));
    }
    Ok(())
}

/// Whether the name ends in a suffix of the public suffix list.
pub fn has_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes()).is_some_and(|suffix| suffix.is_known())
}

fn well_formed(name: &str) -> Result<(), String> {
    let spelled = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.len() > NAME {
        return Err(format!("is longer than a name can be ({NAME} characters)"));
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err("has two dots in a row, or one at its start".into());
        }
        if label.len() > LABEL {
            return Err(format!("has a part longer than {LABEL} characters"));
        }
        if let Some(odd) = label.chars().find(|c| !spelled(*c)) {
            return Err(format!("has a character that names cannot have ({odd:?})"));
        }
    }
    Ok(())
}

/// Whether `name` is `suffix` or a name below it.
pub fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// An entry of the allow list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Exactly this host, a name or an address.
    Host(String),
    /// `*.suffix`: every name below it, at any depth, but not the suffix itself.
    Below(String),
}

impl HostPattern {
    /// Reads an entry: a host, or `*.` and a name. The error says what is wrong with it.
    pub fn read(word: &str) -> Result<Self, String> {
        match word.strip_prefix("*.") {
            Some(suffix) => Ok(HostPattern::Below(name_of(suffix)?)),
            None => host(word).map(|host| HostPattern::Host(host.to_string())),
        }
    }

    /// Whether the entry allows this host.
    pub fn holds(&self, host: &str) -> bool {
        match self {
            HostPattern::Host(own) => host == own,
            HostPattern::Below(suffix) => host != suffix && is_below(host, suffix),
        }
    }
}

/// Reads an entry of the refuse list. `corp.net`, `.corp.net` and `*.corp.net` mean the same.
pub fn suffix(word: &str) -> Result<String, String> {
    name_of(word.strip_prefix("*.").or(word.strip_prefix('.')).unwrap_or(word))
}

fn name_of(word: &str) -> Result<String, String> {
    match host(word)? {
        Host::Domain(name) => Ok(name),
        Host::Ipv4(_) | Host::Ipv6(_) => Err(format!("`{word}` is an address, and a name is needed here")),
    }
}

/// The host as the URL parser would return it, without a trailing dot.
fn host(word: &str) -> Result<Host, String> {
    let wrong = |why: &str| format!("`{word}` is not a host: {why}");
    if word.contains("://") {
        return Err(wrong("leave out the scheme and the path, as in `example.com`"));
    }
    let found =
        Host::parse(word).map_err(|_| wrong("it has characters that hosts cannot have, perhaps a port or a path"))?;
    let Host::Domain(name) = found else { return Ok(found) };
    let name = name.strip_suffix('.').unwrap_or(&name);
    well_formed(name).map_err(|why| wrong(&format!("it {why}")))?;
    Ok(Host::Domain(name.into()))
}
