//! Reads a request to the proxy: a tunnel, a request to pass on, or a question to the proxy itself. Owns what counts as
//! malformed. Only the host and the port of a URL are judged: paths and queries never leave this file, except to the
//! server that they are for.

use crate::model::url::{JudgedUrl, Policy, Refused};

/// A client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyRequest {
    /// `CONNECT host:port`
    Tunnel(WantedHost),
    /// `GET http://host/path`
    Forward {
        /// The host and the port of the URL.
        origin: WantedHost,
        /// The path and the query, as the client wrote them. Begins with `/`.
        path: String,
    },
    /// `GET /healthz` and `GET /metrics`, for probes and scrapes.
    Own(OwnPage),
}

/// A page of the proxy itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnPage {
    /// Whether it runs.
    Health,
    /// The counters.
    Metrics,
}

/// A host and a port, as the client wrote them. They were not judged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedHost(String);

/// A request that is not one for a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A target without scheme and host, as sent to a web server.
    NotForAProxy,
    /// An absolute URL that is not `http:`. For `https:`, clients ask for a tunnel.
    Scheme,
    /// `CONNECT` without a port, or a host with characters that no host has.
    Authority,
    /// `CONNECT` with a body. Its bytes could be taken for the body or for the tunnel's first bytes.
    TunnelBody,
}

/// Reads the first line of a request.
///
/// # Errors
/// Why this is no request for a proxy.
pub fn read(method: &str, target: &str) -> Result<ProxyRequest, Malformed> {
    if method == "CONNECT" {
        let has_port = target.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && is_number(port));
        return if has_port { Ok(ProxyRequest::Tunnel(WantedHost::read(target)?)) } else { Err(Malformed::Authority) };
    }
    if target.starts_with('/') {
        return match (method, target) {
            ("GET", "/healthz") => Ok(ProxyRequest::Own(OwnPage::Health)),
            ("GET", "/metrics") => Ok(ProxyRequest::Own(OwnPage::Metrics)),
            _ => Err(Malformed::NotForAProxy),
        };
    }
    let Some((scheme, rest)) = target.split_once("://") else { return Err(Malformed::NotForAProxy) };
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Malformed::Scheme);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(ProxyRequest::Forward { origin: WantedHost::read(authority)?, path })
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

impl WantedHost {
    /// URL parsers skip tabs and line ends, and take `\` for `/`, so a host with such characters could be read in two ways.
    fn read(authority: &str) -> Result<Self, Malformed> {
        let fine = |byte: u8| byte.is_ascii_graphic() && !b"/\\?#<>\"{}|^`".contains(&byte);
        match !authority.is_empty() && authority.bytes().all(fine) {
            true => Ok(WantedHost(authority.into())),
            false => Err(Malformed::Authority),
        }
    }

    /// Applies every rule of the policy that does not need name resolution.
    ///
    /// # Errors
    /// The rule that refuses this host and port.
    pub fn judge(&self, policy: &Policy) -> Result<JudgedUrl, Refused> {
        policy.judge(&self.url())
    }

    /// The origin as a URL, for audit lines.
    pub fn url(&self) -> String {
        format!("http://{}/", self.0)
    }
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Malformed::NotForAProxy => "this is a proxy: it answers requests with a whole URL, and CONNECT",
            Malformed::Scheme => {
                "only http: URLs can be asked for: for https: and for WebSockets, ask for a tunnel with CONNECT"
            }
            Malformed::Authority => "the host or its port cannot be read",
            Malformed::TunnelBody => "a CONNECT request has no body: send the bytes once the tunnel is open",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(method: &str, target: &str) -> String {
        match read(method, target) {
            Ok(ProxyRequest::Own(page)) => format!("{page:?}"),
            Ok(ProxyRequest::Tunnel(origin)) => match origin.judge(&Policy::default()) {
                Ok(target) => format!("tunnel {}:{}", target.host(), target.port()),
                Err(refused) => format!("refused {}", refused.reason),
            },
            Ok(ProxyRequest::Forward { origin, path }) => match origin.judge(&Policy::default()) {
                Ok(target) => format!("{}:{} {path}", target.host(), target.port()),
                Err(refused) => format!("refused {}", refused.reason),
            },
            Err(malformed) => format!("{malformed:?}"),
        }
    }

    #[test]
    fn a_request_is_a_tunnel_a_page_or_neither() {
        for (method, target, expected) in [
            ("CONNECT", "example.com:443", "tunnel example.com:443"),
            ("CONNECT", "EXAMPLE.com:80", "tunnel example.com:80"),
            ("CONNECT", "[2606:4700::1]:443", "tunnel [2606:4700::1]:443"),
            ("CONNECT", "example.com", "Authority"),
            ("CONNECT", "example.com:", "Authority"),
            ("CONNECT", "example.com:https", "Authority"),
            ("CONNECT", "example.com:4430000", "refused not-a-url"),
            ("CONNECT", "2606:4700::1:443", "refused not-a-url"),
            ("CONNECT", "http://example.com:443", "Authority"),
            ("CONNECT", "/:443", "Authority"),
            ("CONNECT", ":443", "refused not-a-url"),
            ("CONNECT", "127.0.0.1:443", "refused private-address"),
            ("CONNECT", "0x7f.1:443", "refused private-address"),
            ("CONNECT", "example.com:22", "refused port"),
            ("CONNECT", "a@example.com:443", "refused credentials"),
            ("CONNECT", "exam\tple.com:443", "Authority"),
            ("CONNECT", "example.com\\:443", "Authority"),
            ("GET", "http://example.com", "example.com:80 /"),
            ("GET", "http://example.com?q", "example.com:80 /?q"),
            ("GET", "HTTP://example.com:8080/a/../b?c=http://10.0.0.1/", "example.com:8080 /a/../b?c=http://10.0.0.1/"),
            ("GET", "http://example.com/a#b", "example.com:80 /a"),
            ("POST", "http://10.0.0.1/", "refused private-address"),
            ("GET", "http://example.com\\@10.0.0.1/", "Authority"),
            ("GET", "http://example.com@10.0.0.1/", "refused credentials"),
            ("GET", "http://localhost/", "refused reserved-name"),
            ("GET", "http:///a", "Authority"),
            ("GET", "https://example.com/", "Scheme"),
            ("GET", "ws://example.com/", "Scheme"),
            ("GET", "ftp://example.com/", "Scheme"),
            ("GET", "/", "NotForAProxy"),
            ("GET", "/healthz", "Health"),
            ("GET", "/metrics", "Metrics"),
            ("POST", "/metrics", "NotForAProxy"),
            ("GET", "/metrics?x", "NotForAProxy"),
            ("OPTIONS", "*", "NotForAProxy"),
            ("GET", "example.com", "NotForAProxy"),
        ] {
            assert_eq!(judged(method, target), expected, "{method} {target}");
        }
    }

    #[test]
    fn a_long_path_is_not_the_policys_business() {
        let path = "a".repeat(100_000);
        assert!(judged("GET", &format!("http://example.com/{path}")).ends_with(&path));
    }
}
