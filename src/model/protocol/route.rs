//! The one table of routes. The server, the client, the listing in a 404 and `docs/control.md` are derived from it.

/// The HTTP method of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Changes nothing.
    Get,
    /// Changes something.
    Post,
}

impl Method {
    /// The method as it is written in a request.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
        }
    }
}

/// The description of a route, for the server, the client and the docs.
#[derive(Debug, Clone, Copy)]
pub struct RouteInfo {
    /// The only method that it takes.
    pub method: Method,
    /// The path, with `{name}` for each argument.
    pub path: &'static str,
    /// The command that uses it.
    pub verb: &'static str,
    /// What it does, for the docs.
    pub description: &'static str,
}

/// Header of a log response: how many of its bytes existed at the time of the request.
pub const HEAD_BYTES: &str = "kasm-void-head-bytes";

macro_rules! routes {
    ($($name:ident: $method:ident $path:literal, $verb:literal, $description:literal;)*) => {
        /// All routes of the control socket.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Route {
            $(#[doc = $description] $name,)*
        }

        impl Route {
            /// Every route, in the order of the docs.
            pub const ALL: &'static [Route] = &[$(Route::$name),*];

            /// Its method, path and description.
            pub fn info(self) -> RouteInfo {
                match self {
                    $(Route::$name => RouteInfo {
                        method: Method::$method,
                        path: $path,
                        verb: $verb,
                        description: $description,
                    },)*
                }
            }
        }
    };
}

routes! {
    Apps: Get "/v1/apps", "status", "the state of every app";
    App: Get "/v1/apps/{app}", "why", "the state of one app";
    Start: Post "/v1/apps/{app}/start", "start", "`?wait=true&timeout=30s`";
    Stop: Post "/v1/apps/{app}/stop", "stop", "the same";
    Restart: Post "/v1/apps/{app}/restart", "restart", "the same";
    Action: Post "/v1/apps/{app}/do/{action}", "do", "an action of its manifest; the same";
    Signal: Post "/v1/apps/{app}/signal/{signal}", "signal", "a signal to its leader, by name or number";
    Logs: Get "/v1/apps/{app}/logs", "logs", "its output: `?lines=100&follow=true`";
    Crashes: Get "/v1/apps/{app}/crashes", "why", "its last ten crashes, oldest first";
    Command: Get "/v1/apps/{app}/command", "show", "the command that starts it, and the arguments that show it while it is up";
    Inspect: Get "/v1/apps/{app}/inspect", "inspect", "everything about it: status, manifest file, what it is started with, processes, crashes";
    Events: Get "/v1/events", "events", "one JSON object per line; a slow client receives the number of events it lost";
    Plan: Get "/v1/plan", "plan", "what a reload would do: steps, and the number of unchanged apps";
    Reload: Post "/v1/reload", "reload", "reads the manifests now; answers with the changes";
    Drain: Post "/v1/drain", "drain", "stops everything; answered when everything is down";
    Supervisor: Get "/v1/supervisor", "doctor", "version, pids of supervisor and guard, and how often and why supervisors have died";
    Upgrade: Post "/v1/upgrade/{binary}", "upgrade", "the path of the binary, percent-encoded; answered before the change";
    Live: Get "/livez", "health --live", "200 while the main loop responds";
    Ready: Get "/readyz", "health --ready", "200 when the session is staged and the conditions of `ready` in `workspace.ron` hold; without `ready`, when every app runs or is down on purpose";
    Metrics: Get "/metrics", "", "OpenMetrics";
}

impl Route {
    /// Whether it is also served on the metrics address of `workspace.ron`.
    pub fn is_public(self) -> bool {
        matches!(self, Route::Live | Route::Ready | Route::Metrics)
    }

    /// The path with these arguments in place of the `{name}`s, in order.
    pub fn path(self, arguments: &[&str]) -> String {
        let mut arguments = arguments.iter();
        let segments = self.info().path.split('/').map(|segment| match segment.starts_with('{') {
            true => encoded(arguments.next().copied().unwrap_or_default()),
            false => segment.to_string(),
        });
        segments.collect::<Vec<_>>().join("/")
    }

    /// All routes in one sentence.
    pub fn listing() -> String {
        let all = Route::ALL.iter().map(|route| format!("{} {}", route.info().method.name(), route.info().path));
        format!("there are {}", all.collect::<Vec<_>>().join(", "))
    }
}

/// Encodes a name as a path segment.
fn encoded(name: &str) -> String {
    let mut segment = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => segment.push(byte.into()),
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_cannot_leave_their_segment() {
        assert_eq!(Route::Action.path(&["web", "clear cache"]), "/v1/apps/web/do/clear%20cache");
        assert_eq!(Route::App.path(&["../drain?x=1#y"]), "/v1/apps/..%2Fdrain%3Fx%3D1%23y");
        assert_eq!(Route::Upgrade.path(&["/usr/bin/é"]), "/v1/upgrade/%2Fusr%2Fbin%2F%C3%A9");
    }

    #[test]
    fn no_two_routes_are_one() {
        let mut all: Vec<_> = Route::ALL.iter().map(|route| route.info().path).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), Route::ALL.len());
    }

    /// `BLESS=1 cargo test the_routes_in_the_docs` rewrites them.
    #[test]
    fn the_routes_in_the_docs_are_these() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/control.md");
        let text = std::fs::read_to_string(file).unwrap();
        let (before, rest) = text.split_once("| route | command | |\n").expect("the table of routes");
        let (_, after) = rest.split_once("\n\n").expect("text after the table");
        let rows = Route::ALL.iter().map(|route| {
            let RouteInfo { method, path, verb, description } = route.info();
            let verb = if verb.is_empty() { String::new() } else { format!("`{verb}`") };
            format!("| `{} {path}` | {verb} | {description} |", method.name())
        });
        let table = ["|---|---|---|".to_string()].into_iter().chain(rows).collect::<Vec<_>>().join("\n");
        let written = format!("{before}| route | command | |\n{table}\n\n{after}");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(file, &written).unwrap();
        }
        assert!(
            std::fs::read_to_string(file).unwrap() == written,
            "the routes in docs/control.md are not those served"
        );
    }
}
