//! Which headers a proxy passes on. Headers that are meant for the next hop only end here (RFC 9110, 7.6.1).

/// Headers that belong to one connection, whatever `Connection` says. `Transfer-Encoding` and `Content-Length` are made
/// anew from the body. `Host` is made anew from the judged URL.
const OF_ONE_HOP: [&str; 10] = [
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a header ends at the proxy. `name` is in lower case; `connections` are the values of the `Connection` headers.
pub fn ends_here(name: &str, connections: &[&str]) -> bool {
    let named = |value: &&str| value.split(',').any(|option| option.trim().eq_ignore_ascii_case(name));
    // `Connection: Content-Length` would make the next server read the body as another request.
    let may_be_named = !matches!(name, "content-length" | "cookie" | "authorization");
    OF_ONE_HOP.contains(&name) || (may_be_named && connections.iter().any(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_one_hop_ends_here() {
        for (name, ends) in [
            ("proxy-authorization", true),
            ("proxy-connection", true),
            ("transfer-encoding", true),
            ("upgrade", true),
            ("te", true),
            ("x-hop", true),
            ("x-hop-2", true),
            ("x-ho", false),
            ("accept", false),
            ("cookie", false),
            ("authorization", false),
            ("content-length", false),
        ] {
            let connections = ["close, X-Hop ", "x-hop-2,authorization,Content-Length"];
            assert_eq!(ends_here(name, &connections), ends, "{name}");
        }
    }
}
