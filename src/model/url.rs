//! The URL policy: decides which URLs may be opened in the shared browser, and explains each refusal. The only place
//! for this, used by the launcher, for its redirects, and by `kasm-void check-url`. Must not resolve names: the caller
//! does that and passes the addresses in.

mod address;
mod name;
mod private;

use core::fmt;
use core::net::IpAddr;

use name::HostPattern;
use private::PrivateHost;
use serde::Serialize;
use url::{Host, ParseError, Url};

/// Longest URL in characters, both as given and as navigated to.
pub const LONGEST: usize = 2048;
/// The ports of the default policy.
pub const PORTS: [u16; 4] = [80, 443, 8080, 8443];

/// Decides which URLs may be opened.
#[derive(Debug, Clone)]
pub struct Policy {
    ports: Vec<u16>,
    /// Names that are refused, together with all names below them.
    refused: Vec<String>,
    /// If there are any, everything else is refused.
    allowed: Vec<HostPattern>,
    /// Names that count as public suffixes, in addition to the public list.
    public: Vec<String>,
    /// Private hosts that may be opened on purpose.
    private: Vec<PrivateHost>,
    /// Ports of this machine that are never opened, not even on purpose.
    own_ports: Vec<u16>,
    /// Ports on this machine from which a test serves pages.
    loopback: Vec<u16>,
}

/// A URL that passed [`Policy::judge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedUrl {
    url: Url,
    /// Known to be allowed without resolving the name.
    settled: bool,
}

/// Why a URL may not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The rule that refuses it.
    pub reason: Reason,
    /// A sentence. Never contains the path, query or credentials of the URL.
    pub text: String,
}

/// The reason for a refusal: one word for each rule, in the order of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The text is longer than [`LONGEST`].
    TooLong,
    /// The text is not a URL.
    NotAUrl,
    /// The scheme is neither `http` nor `https`.
    Scheme,
    /// The URL contains a user name or a password.
    Credentials,
    /// The port belongs to kasm-void or to the browser's DevTools, on this machine.
    OwnPort,
    /// The port is not one of those that may be used.
    Port,
    /// The host is an address that is not global.
    PrivateAddress,
    /// The host is not a name that a browser would look up.
    BadName,
    /// No public name server answers for the name.
    ReservedName,
    /// The name has no dot, so it names something on this network.
    SingleLabel,
    /// The name does not end in a public suffix.
    UnknownSuffix,
    /// The configuration refuses the name or a parent of it.
    Suffix,
    /// The configuration has an allow list, and the host is not on it.
    NotAllowed,
    /// The name has no address.
    Unresolved,
    /// The name resolves to an address that is not global.
    ResolvesPrivate,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            ports: PORTS.into(),
            refused: Vec::new(),
            allowed: Vec::new(),
            public: Vec::new(),
            private: Vec::new(),
            own_ports: Vec::new(),
            loopback: Vec::new(),
        }
    }
}

impl Policy {
    /// A policy from command-line words. Without `ports` it has the default ones. `refuse` holds names that are refused
    /// together with all names below them. `allow` holds hosts and `*.suffix`; if there are any, everything else is
    /// refused.
    pub fn new(ports: &[String], refuse: &[String], allow: &[String]) -> Result<Policy, String> {
        let mut policy = Policy::default();
        if !ports.is_empty() {
            policy.ports = ports.iter().map(|word| port(word)).collect::<Result<_, _>>()?;
        }
        policy.refused = refuse.iter().map(|word| name::suffix(word)).collect::<Result<_, _>>()?;
        policy.allowed = allow.iter().map(|word| allowed(word)).collect::<Result<_, _>>()?;
        Ok(policy)
    }

    /// Adds public suffixes. The public list is compiled in, and new suffixes may appear later.
    pub fn with_public(mut self, names: &[String]) -> Result<Policy, String> {
        self.public = names.iter().map(|word| name::suffix(word)).collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Allows pages of this machine at this port. Only for tests that serve pages themselves: no configuration,
    /// argument or variable leads here.
    pub fn also_loopback(mut self, port: u16) -> Policy {
        self.loopback.push(port);
        self
    }

    /// Applies every rule that does not need name resolution.
    pub fn judge(&self, raw: &str) -> Result<JudgedUrl, Refused> {
        let target = self.judge_frame(raw)?;
        match self.is_exempt(&target) || self.is_private_on_purpose(&target) {
            true => Ok(target),
            false => self.judge_listed(target.plain_host()).map(|()| target),
        }
    }

    /// Like [`Policy::judge`], for a frame in a page that may be opened. The allow list covers what people open, not
    /// what such a page embeds. Every other rule applies.
    pub fn judge_frame(&self, raw: &str) -> Result<JudgedUrl, Refused> {
        let url = parse(raw)?;
        let target = JudgedUrl { url, settled: false };
        if self.is_exempt(&target) {
            return Ok(JudgedUrl { settled: true, ..target });
        }
        self.judge_own_port(&target)?;
        if self.is_private_on_purpose(&target) {
            self.judge_refused(target.plain_host())?;
            return Ok(JudgedUrl { settled: true, ..target });
        }
        self.judge_port(target.port())?;
        match target.literal() {
            Some(address) => judge_literal(address)?,
            None => self.judge_name(target.plain_host())?,
        }
        Ok(JudgedUrl { settled: target.literal().is_some(), ..target })
    }

    /// Judges the address that answered a request for this URL. If its port is not the URL's, it belongs to a proxy and
    /// says nothing about the server.
    pub fn judge_remote(&self, raw: &str, remote: IpAddr, port: u16) -> Result<(), Refused> {
        let Ok(target) = parse(raw).map(|url| JudgedUrl { url, settled: false }) else { return Ok(()) };
        if target.port() != port || self.is_exempt(&target) || self.is_private_on_purpose(&target) {
            return Ok(());
        }
        address::judge(remote).map_err(|why| {
            refused(Reason::ResolvesPrivate, format!("`{}` was answered by {}", shortened(target.host()), why.clause()))
        })
    }

    /// Judges all addresses that a name resolved to. One that is not global refuses the name, because the browser may
    /// use any of them.
    pub fn judge_addresses(&self, target: &JudgedUrl, addresses: &[IpAddr]) -> Result<(), Refused> {
        let Some(name) = target.name() else { return Ok(()) };
        if addresses.is_empty() {
            return Err(Refused::unresolved(target, "it has no address"));
        }
        for address in addresses {
            address::judge(*address).map_err(|why| {
                refused(Reason::ResolvesPrivate, format!("`{}` resolves to {}", shortened(name), why.clause()))
            })?;
        }
        Ok(())
    }

    fn is_exempt(&self, target: &JudgedUrl) -> bool {
        let here = match target.literal() {
            Some(address) => address.is_loopback(),
            None => target.host() == "localhost",
        };
        here && self.loopback.contains(&target.port())
    }

    fn judge_port(&self, port: u16) -> Result<(), Refused> {
        if self.ports.contains(&port) {
            return Ok(());
        }
        let ports: Vec<String> = self.ports.iter().take(8).map(u16::to_string).collect();
        Err(refused(Reason::Port, format!("port {port} is not one of the allowed ports ({})", ports.join(", "))))
    }

    fn judge_name(&self, name: &str) -> Result<(), Refused> {
        name::judge(name).map_err(|(reason, why)| refused(reason, format!("`{}` {why}", shortened(name))))?;
        if !name::has_public_suffix(name) && !self.public.iter().any(|suffix| name::is_below(name, suffix)) {
            let why = "ends in no public suffix, so only a name server of the local network could know it";
            return Err(refused(Reason::UnknownSuffix, format!("`{}` {why}", shortened(name))));
        }
        self.judge_refused(name)
    }

    fn judge_refused(&self, name: &str) -> Result<(), Refused> {
        match self.refused.iter().find(|suffix| name::is_below(name, suffix)) {
            Some(suffix) => Err(refused(
                Reason::Suffix,
                format!("`{}` is refused here, like all names of `{}`", shortened(name), shortened(suffix)),
            )),
            None => Ok(()),
        }
    }

    fn judge_listed(&self, host: &str) -> Result<(), Refused> {
        if self.allowed.is_empty() || self.allowed.iter().any(|pattern| pattern.holds(host)) {
            return Ok(());
        }
        Err(refused(Reason::NotAllowed, format!("`{}` is not on the allow list", shortened(host))))
    }
}

impl JudgedUrl {
    /// The only URL to navigate to: another parser may read the given text differently.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The host, for audit lines.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The port that will be used, given or implied by the scheme.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    /// The name whose addresses must still be judged, spelled as the browser will resolve it. `None` if the host is an
    /// address.
    pub fn name(&self) -> Option<&str> {
        (!self.settled).then(|| self.host())
    }

    /// The address, if the host is one.
    pub fn literal(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }

    fn plain_host(&self) -> &str {
        self.host().strip_suffix('.').unwrap_or(self.host())
    }
}

impl Refused {
    /// The refusal of a target whose name could not be resolved.
    pub fn unresolved(target: &JudgedUrl, why: &str) -> Self {
        refused(Reason::Unresolved, format!("`{}` cannot be resolved: {why}", shortened(target.host())))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl core::error::Error for Refused {}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.serialize(f)
    }
}

/// The host of a URL that may have been refused, for audit lines.
pub fn host(raw: &str) -> Option<String> {
    Url::parse(raw).ok()?.host_str().map(shortened)
}

fn parse(raw: &str) -> Result<Url, Refused> {
    judge_length(raw)?;
    let url = Url::parse(raw).map_err(|error| not_a_url(because(error)))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused(Reason::Scheme, format!("{} cannot be opened: only http and https can", scheme(&url))));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused(Reason::Credentials, "a URL with a user name or a password cannot be opened"));
    }
    judge_length(url.as_str())?;
    Ok(url)
}

fn judge_length(url: &str) -> Result<(), Refused> {
    match url.chars().count() {
        ..=LONGEST => Ok(()),
        length => {
            Err(refused(Reason::TooLong, format!("the URL has {length} characters; at most {LONGEST} are allowed")))
        }
    }
}

fn because(error: ParseError) -> &'static str {
    match error {
        ParseError::RelativeUrlWithoutBase => "it does not begin with https:// or http://",
        ParseError::EmptyHost => "it names no host",
        ParseError::IdnaError | ParseError::InvalidDomainCharacter => {
            "its host has characters, or punycode, that no host can have"
        }
        ParseError::InvalidPort => "its port is not a number up to 65535",
        ParseError::InvalidIpv4Address => "its host looks like an IPv4 address but is not one",
        ParseError::InvalidIpv6Address => "its host looks like an IPv6 address but is not one",
        _ => "no browser could read it",
    }
}

fn judge_literal(literal: IpAddr) -> Result<(), Refused> {
    address::judge(literal).map_err(|why| refused(Reason::PrivateAddress, why.to_string()))
}

/// Names the scheme only if it is a known one: in `user:password@host` the user name is in its place.
fn scheme(url: &Url) -> String {
    let known = "about blob chrome data file filesystem ftp javascript mailto view-source ws wss";
    match known.split(' ').find(|word| *word == url.scheme()) {
        Some(word) => format!("a {word}: URL"),
        None => "a URL of this kind".into(),
    }
}

fn port(word: &str) -> Result<u16, String> {
    match word.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{word}` is not a port: use a number from 1 to 65535")),
    }
}

/// Reads a word of the allow list. Fails if no URL could ever match it.
fn allowed(word: &str) -> Result<HostPattern, String> {
    let pattern = HostPattern::read(word)?;
    let against = match &pattern {
        HostPattern::Below(suffix) => name::judge(&format!("x.{suffix}")).err().map(|(_, why)| format!("it {why}")),
        HostPattern::Host(host) => match Policy::default().judge(&format!("http://{host}/")) {
            Err(refused) if refused.reason != Reason::UnknownSuffix => Some(refused.text), // suffixes can be configured
            _ => None,
        },
    };
    match against {
        Some(why) => Err(format!("`{word}` would never be opened: {why}")),
        None => Ok(pattern),
    }
}

fn not_a_url(why: &str) -> Refused {
    refused(Reason::NotAUrl, format!("this is not a URL that can be opened: {why}"))
}

fn refused(reason: Reason, text: impl Into<String>) -> Refused {
    Refused { reason, text: text.into() }
}

/// Shortens a host so that the message stays readable: callers cut replies at 512 bytes.
fn shortened(host: &str) -> String {
    match host.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &host[..end]),
        None => host.into(),
    }
}

#[cfg(test)]
mod tests;
