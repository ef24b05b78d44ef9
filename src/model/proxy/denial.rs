//! Requests that are not served: status, the word for audit lines and metrics, and the page that people read. Owns the
//! words about what an operator can change.

use core::fmt::Write;

use super::request::Malformed;
use crate::model::url::{Reason, Refused};

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// It is no request for a proxy.
    Malformed(Malformed),
    /// By the policy. Also a name that could not be resolved.
    Refused(Refused),
    /// No address of the host could be connected to. Each with its error, as text.
    Unreachable(String),
    /// No address of the host answered in time.
    Late,
    /// The server's answer could not be read, or it closed the connection.
    Broken(String),
    /// The next proxy refused the tunnel, or could not be reached.
    Upstream(String),
    /// As many tunnels are open as this proxy serves at a time.
    Full,
}

impl Denial {
    /// The HTTP status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Denial::Malformed(_) => 400,
            Denial::Refused(refused) if refused.reason == Reason::Unresolved => 502,
            Denial::Refused(_) => 403,
            Denial::Unreachable(_) | Denial::Broken(_) | Denial::Upstream(_) => 502,
            Denial::Full => 503,
            Denial::Late => 504,
        }
    }

    /// One word for audit lines and metrics: the policy's rule, or what failed.
    pub fn word(&self) -> String {
        match self {
            Denial::Malformed(_) => "malformed".into(),
            Denial::Refused(refused) => refused.reason.to_string(),
            Denial::Unreachable(_) => "unreachable".into(),
            Denial::Late => "late".into(),
            Denial::Broken(_) => "broken".into(),
            Denial::Upstream(_) => "upstream".into(),
            Denial::Full => "full".into(),
        }
    }

    /// Whether the policy refused the host, as opposed to a failure of the network.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Denial::Refused(refused) if refused.reason != Reason::Unresolved)
    }

    /// Whether a browser gets an answer. If no connection could be opened, it does not: with the proxy's page it would take
    /// a site that is down for one that is shown.
    pub fn is_answered(&self, wants_a_page: bool) -> bool {
        let is_known_here = matches!(self, Denial::Malformed(_) | Denial::Refused(_) | Denial::Full);
        is_known_here || !wants_a_page
    }

    /// The value of the `Proxy-Status` header (RFC 9209).
    pub fn proxy_status(&self) -> String {
        let error = match self {
            Denial::Malformed(_) => "http_request_error",
            Denial::Refused(refused) => match refused.reason {
                Reason::Unresolved => "dns_error",
                Reason::PrivateAddress | Reason::ResolvesPrivate | Reason::OwnPort => "destination_ip_prohibited",
                _ => "http_request_denied",
            },
            Denial::Unreachable(_) => "connection_refused",
            Denial::Late => "connection_timeout",
            Denial::Broken(_) => "http_response_incomplete",
            Denial::Upstream(_) => "proxy_configuration_error",
            Denial::Full => "connection_limit_reached",
        };
        format!("kasm-void; error={error}; details=\"{}\"", self.word())
    }

    /// The reason, as a sentence. Contains no path, query or credentials.
    pub fn text(&self) -> String {
        match self {
            Denial::Malformed(malformed) => malformed.to_string(),
            Denial::Refused(refused) => refused.to_string(),
            Denial::Unreachable(why) => format!("no connection could be opened: {why}"),
            Denial::Late => "no address of the host answered in time".into(),
            Denial::Broken(why) => format!("the server's answer could not be read: {why}"),
            Denial::Upstream(why) => format!("the next proxy did not open the connection: {why}"),
            Denial::Full => {
                "as many tunnels are open as this proxy serves at a time; one has to be closed first".into()
            }
        }
    }

    /// The way out, if there is one.
    fn way_out(&self) -> Option<&'static str> {
        let Denial::Refused(refused) = self else { return None };
        match refused.reason {
            Reason::PrivateAddress
            | Reason::ReservedName
            | Reason::SingleLabel
            | Reason::UnknownSuffix
            | Reason::ResolvesPrivate => Some(
                "This workspace opens public sites only. If people should reach this host on purpose, an operator can list \
                 it in URL_POLICY_PRIVATE.",
            ),
            Reason::Port => Some("An operator can allow more ports in URL_POLICY_PORTS."),
            Reason::Suffix => Some("An operator has refused this name in URL_POLICY_REFUSE."),
            Reason::NotAllowed => Some("An operator can add the host to PROXY_ALLOW."),
            Reason::Unresolved => Some("Check how the name is spelled. If it is right, its name server may be down."),
            Reason::TooLong
            | Reason::NotAUrl
            | Reason::Scheme
            | Reason::Credentials
            | Reason::OwnPort
            | Reason::BadName => None,
        }
    }

    /// The answer's body for programs: one line, then what can be done.
    pub fn plain(&self) -> String {
        let way_out = self.way_out().map(|text| format!("{text}\n")).unwrap_or_default();
        format!("{}: {}\n{way_out}", self.word(), self.text())
    }

    /// The answer's body for people: a whole page without scripts, images or links. `host` is as the client wrote it.
    pub fn page(&self, host: &str) -> String {
        let title = if self.is_refusal() { "This page is not opened here" } else { "This page cannot be opened" };
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n{STYLE}\n<main>\n\
             <h1>{title}</h1>\n<p class=\"host\">{}</p>\n<p>{}.</p>\n",
            escaped(host),
            escaped(&self.text()),
        );
        if let Some(way_out) = self.way_out() {
            let _ = writeln!(page, "<p>{}</p>", escaped(way_out)); // writing to a string cannot fail
        }
        let _ = writeln!(page, "<p class=\"rule\">Rule: <code>{}</code></p>\n</main>", escaped(&self.word()));
        page
    }
}

/// Readable at any width, in light and dark.
const STYLE: &str = "<meta name=\"viewport\" content=\"width=device-width\">\n<style>\
    :root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif }\
    main { max-width: 40rem; margin: 12vh auto; padding: 0 1.5rem }\
    h1 { font-size: 1.6rem; line-height: 1.2 }\
    .host { font-weight: 600; overflow-wrap: anywhere }\
    .rule { opacity: .75; font-size: .95rem }\
    </style>";

/// The header that keeps the page from loading or running anything.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors *";

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::proxy::request::{ProxyRequest, read};
    use crate::model::url::Policy;

    fn denial(target: &str) -> Denial {
        match read("GET", target) {
            Ok(ProxyRequest::Forward { origin, .. }) => {
                Denial::Refused(origin.judge(&Policy::default()).expect_err(target))
            }
            Ok(_) => panic!("{target} is none to pass on"),
            Err(malformed) => Denial::Malformed(malformed),
        }
    }

    #[test]
    fn a_page_says_the_host_the_rule_and_what_an_operator_can_change() {
        let page = denial("http://169.254.169.254/latest/s3cr3t?s3cr3t").page("169.254.169.254");
        for part in
            ["169.254.169.254", "<code>private-address</code>", "Link Local", "URL_POLICY_PRIVATE", "not opened here"]
        {
            assert!(page.contains(part), "{part} is not in:\n{page}");
        }
        assert!(!page.contains("s3cr3t") && !page.contains("<script"), "{page}");
        let plain = denial("http://example.com:22/").plain();
        assert!(plain.starts_with("port: port 22 is not one of") && plain.contains("URL_POLICY_PORTS"), "{plain}");
    }

    #[test]
    fn no_host_writes_the_page() {
        let page = Denial::Unreachable("<b>\u{1b}\n".into()).page("\"><script>alert(1)</script>");
        assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains('\u{1b}'), "{page}");
    }

    #[test]
    fn each_denial_has_a_status_and_an_error_type() {
        let unresolved = Policy::default().judge("http://example.com/").expect("a page");
        for (denial, status, error) in [
            (denial("http://10.0.0.1/"), 403, "destination_ip_prohibited"),
            (denial("http://a.internal/"), 403, "http_request_denied"),
            (denial("/"), 400, "http_request_error"),
            (Denial::Refused(Refused::unresolved(&unresolved, "no server")), 502, "dns_error"),
            (Denial::Unreachable("no route".into()), 502, "connection_refused"),
            (Denial::Late, 504, "connection_timeout"),
            (Denial::Broken("closed".into()), 502, "http_response_incomplete"),
            (Denial::Upstream("403".into()), 502, "proxy_configuration_error"),
        ] {
            assert_eq!(denial.status(), status, "{denial:?}");
            let header = denial.proxy_status();
            assert!(header.starts_with(&format!("kasm-void; error={error}; details=\"")), "{header}");
            assert!(!denial.text().is_empty() && !denial.plain().contains("\n\n"), "{denial:?}");
        }
    }
}
