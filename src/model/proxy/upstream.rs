//! The next proxy, for networks whose only way out is one: how it is written.

use url::{Host, Url};

/// Another proxy that opens every connection. It resolves names again, so it needs a policy of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream {
    host: String,
    /// Its port.
    pub port: u16,
    /// User name and password, if it asks for them.
    pub login: Option<(String, String)>,
}

impl Upstream {
    /// Reads `http://HOST:PORT` or `http://USER:PASSWORD@HOST:PORT`.
    ///
    /// # Errors
    /// A sentence without the text itself, because it may contain a password.
    pub fn read(text: &str) -> Result<Upstream, String> {
        let url = Url::parse(text).map_err(|_| "this is no URL: write http://HOST:PORT".to_owned())?;
        if url.scheme() != "http" {
            return Err("only an http: proxy can be used: write http://HOST:PORT".into());
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("leave out everything behind the port: write http://HOST:PORT".into());
        }
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err("it names no host: write http://HOST:PORT".into()),
        };
        let decoded = |text: &str| percent_decoded(text);
        let login = (!url.username().is_empty())
            .then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
        Ok(Upstream { host, port: url.port_or_known_default().unwrap_or(80), login })
    }

    /// The host: a name, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }
}

/// Without the login, so that it can be logged.
impl core::fmt::Display for Upstream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl core::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Upstream({self})")
    }
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_proxy_is_a_host_and_a_port() {
        for (text, shown, login) in [
            ("http://proxy.corp:3128", "proxy.corp:3128", None),
            ("http://proxy", "proxy:80", None),
            ("http://10.0.0.1:3128/", "10.0.0.1:3128", None),
            ("http://[fd00::1]:3128", "[fd00::1]:3128", None),
            ("http://me:p%40ss@proxy:3128", "proxy:3128", Some(("me", "p@ss"))),
        ] {
            let upstream = Upstream::read(text).expect(text);
            assert_eq!(upstream.to_string(), shown);
            let found = upstream.login.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
            assert_eq!(found, login, "{text}");
            assert!(!format!("{upstream:?}").contains("ss"), "{upstream:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for text in
            ["me:s3cr3t@proxy:3128", "https://s3cr3t@proxy", "socks5://proxy:1080", "http://proxy:3128/s3cr3t", ""]
        {
            let why = Upstream::read(text).expect_err(text);
            assert!(why.contains("http://HOST:PORT") && !why.contains("s3cr3t"), "{text}: {why}");
        }
    }
}
