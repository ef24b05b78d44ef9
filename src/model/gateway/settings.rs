//! The gateway's settings: the form that people write (`gateway.ron`) and the checked type.

use core::fmt;
use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::auth::ClaimRules;
use super::{NAME_RULE, is_workspace_name};
use crate::model::loading::index::Index;
use crate::model::loading::parse::{FileForm, parse};
use crate::model::loading::problem::Problem;

/// The address to listen on unless the settings name one.
pub const LISTEN: &str = "0.0.0.0:9996";
/// The label that names the workspace of a Service or Deployment, unless the settings name another.
pub const LABEL: &str = "kasm-void.kbve.com/workspace";

/// `gateway.ron`, as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename = "Gateway", deny_unknown_fields)]
pub struct GatewayForm {
    /// The address and port to listen on.
    #[serde(default = "listen")]
    listen: String,
    /// How many requests a caller may send a second, over some seconds.
    #[serde(default = "requests_per_second")]
    requests_per_second: u32,
    /// Workspaces by address.
    #[serde(default)]
    workspaces: BTreeMap<String, FixedForm>,
    /// Workspaces of a cluster.
    kubernetes: Option<KubernetesForm>,
    /// A file with bearer tokens.
    tokens: Option<PathBuf>,
    /// JSON web tokens that are accepted.
    jwt: Option<JwtForm>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "Workspace", deny_unknown_fields)]
struct FixedForm {
    launcher: String,
    metrics: Option<String>,
    token: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "Kubernetes", deny_unknown_fields)]
struct KubernetesForm {
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default = "label")]
    label: String,
    tokens: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "Jwt", deny_unknown_fields)]
struct JwtForm {
    secret: Option<PathBuf>,
    public_key: Option<PathBuf>,
    jwks: Option<PathBuf>,
    audience: Vec<String>,
    issuer: Option<String>,
    claim: Option<ClaimForm>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "Claim", deny_unknown_fields)]
struct ClaimForm {
    name: String,
    values: Vec<String>,
}

fn listen() -> String {
    LISTEN.into()
}

fn requests_per_second() -> u32 {
    20
}

fn label() -> String {
    LABEL.into()
}

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySettings {
    /// The address and port to listen on.
    pub listen: SocketAddr,
    /// For each caller. Five seconds' worth may come at once.
    pub requests_per_second: u32,
    /// Workspaces by address, by name.
    pub workspaces: BTreeMap<String, FixedWorkspace>,
    /// Where to look for further workspaces.
    pub kubernetes: Option<KubernetesSettings>,
    /// A file with bearer tokens, a line each.
    pub tokens: Option<PathBuf>,
    /// JSON web tokens that are accepted.
    pub jwt: Option<JwtSettings>,
}

/// A workspace that the settings name by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedWorkspace {
    /// The launcher's address.
    pub launcher: Endpoint,
    /// The address of the metrics.
    pub metrics: Option<Endpoint>,
    /// Where the launcher's token is.
    pub token: TokenSource,
}

/// Where an HTTP server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP port.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// Not 0.
        port: u16,
    },
    /// The path of a socket.
    Unix(PathBuf),
}

/// Where the token of a workspace's launcher comes from. It is never kept in settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A file, read each time.
    File(PathBuf),
    /// A key of a Secret.
    Secret {
        /// The Secret's namespace.
        namespace: String,
        /// The Secret's name.
        name: String,
        /// The key in it.
        key: String,
    },
    /// Nothing names one.
    None,
}

/// How workspaces are found in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesSettings {
    /// Empty: the namespace of the gateway itself.
    pub namespaces: Vec<String>,
    /// The key of the label whose value is the name of the workspace.
    pub label: String,
    /// A folder with a token file for each workspace, instead of Secrets.
    pub tokens: Option<PathBuf>,
}

/// Which JSON web tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSettings {
    /// Where the keys are.
    pub keys: KeyFile,
    /// The claims that a token must have.
    pub rules: ClaimRules,
}

/// The file with the key or keys; it is read again when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFile {
    /// A shared secret.
    Secret(PathBuf),
    /// A public key in PEM: RSA, or a curve P-256.
    PublicKey(PathBuf),
    /// A set of public keys in JSON (RFC 7517).
    Jwks(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Endpoint {
    /// Reads `HOST:PORT`, `[IPV6]:PORT` or `unix:/PATH`.
    pub fn read(text: &str) -> Result<Endpoint, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Endpoint::Unix(path.into())),
                false => Err("the path of a socket begins with `/`".into()),
            };
        }
        let wrong = || "write `HOST:PORT`, `[IPV6]:PORT` or `unix:/PATH`".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(literal)) if literal.parse::<core::net::Ipv6Addr>().is_ok() => literal,
            Some(_) => return Err(wrong()),
            None => host,
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        let has_colon = host.contains(':') && host.parse::<core::net::Ipv6Addr>().is_err();
        match host.is_empty() || has_colon || !host.bytes().all(is_plain) {
            true => Err(wrong()),
            false => Ok(Endpoint::Tcp { host: host.into(), port }),
        }
    }
}

impl FileForm for GatewayForm {
    const SMALLEST: &str = "the smallest one for a cluster is \
        Gateway(kubernetes: Kubernetes(), tokens: \"/run/secrets/kasm-void/tokens\")";
}

/// Reads `gateway.ron`: settings, or all problems at once.
pub fn read(file: &str, text: &str) -> Result<GatewaySettings, Vec<Problem>> {
    let form: GatewayForm = parse(file, text)?;
    let mut check = Check { file, text, index: Index::of(text).unwrap_or_default(), problems: Vec::new() };
    let settings = check.settings(form);
    check.problems.sort_by_key(|problem| (problem.line, problem.column));
    settings.filter(|_| check.problems.is_empty()).ok_or(check.problems)
}

struct Check<'a> {
    file: &'a str,
    text: &'a str,
    index: Index,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn settings(&mut self, form: GatewayForm) -> Option<GatewaySettings> {
        let GatewayForm { listen, requests_per_second, workspaces, kubernetes, tokens, jwt } = form;
        if workspaces.is_empty() && kubernetes.is_none() {
            self.problem(
                "",
                "no workspace can be found",
                "name some in `workspaces`, or write `kubernetes: Kubernetes()`",
            );
        }
        if tokens.is_none() && jwt.is_none() {
            self.problem("", "no caller could be let in", "name a file of bearer tokens in `tokens`, or keys in `jwt`");
        }
        let tokens = tokens.inspect(|path| self.absolute("tokens", path));
        let listen = listen.parse();
        if listen.is_err() {
            self.problem("listen", "this is not an address and a port", "for example \"0.0.0.0:9996\"");
        }
        if !(1..=100_000).contains(&requests_per_second) {
            self.problem("requests_per_second", "this is out of range", "write a number from 1 to 100000");
        }
        let workspaces = workspaces.into_iter().filter_map(|(name, form)| self.workspace(name, form)).collect();
        let kubernetes = kubernetes.map(|form| self.kubernetes(form));
        let jwt = jwt.and_then(|form| self.jwt(form));
        Some(GatewaySettings { listen: listen.ok()?, requests_per_second, workspaces, kubernetes, tokens, jwt })
    }

    fn workspace(&mut self, name: String, form: FixedForm) -> Option<(String, FixedWorkspace)> {
        let FixedForm { launcher, metrics, token } = form;
        let path = format!("workspaces.{name}");
        if !is_workspace_name(&name) {
            self.problem(&path, "this cannot be the name of a workspace", NAME_RULE);
        }
        let launcher = self.endpoint(&format!("{path}.launcher"), &launcher);
        let metrics = metrics.map(|metrics| self.endpoint(&format!("{path}.metrics"), &metrics));
        self.absolute(&format!("{path}.token"), &token);
        let metrics = match metrics {
            Some(metrics) => Some(metrics?),
            None => None,
        };
        Some((name, FixedWorkspace { launcher: launcher?, metrics, token: TokenSource::File(token) }))
    }

    fn endpoint(&mut self, path: &str, text: &str) -> Option<Endpoint> {
        Endpoint::read(text).map_err(|help| self.problem(path, "this is not an address and a port", &help)).ok()
    }

    fn kubernetes(&mut self, form: KubernetesForm) -> KubernetesSettings {
        let KubernetesForm { namespaces, label, tokens } = form;
        for (at, namespace) in namespaces.iter().enumerate() {
            if !is_workspace_name(namespace) || namespace.bytes().any(|byte| byte.is_ascii_uppercase()) {
                let path = format!("kubernetes.namespaces[{at}]");
                self.problem(&path, "this cannot be a namespace", "use lower-case letters, digits and hyphens");
            }
        }
        if !is_label(&label) {
            self.problem("kubernetes.label", "this cannot be the key of a label", &format!("for example \"{LABEL}\""));
        }
        let tokens = tokens.inspect(|path| self.absolute("kubernetes.tokens", path));
        KubernetesSettings { namespaces, label, tokens }
    }

    fn jwt(&mut self, form: JwtForm) -> Option<JwtSettings> {
        let JwtForm { secret, public_key, jwks, audience, issuer, claim } = form;
        if audience.is_empty() {
            self.problem("jwt.audience", "a token for anybody would be accepted", "name what must be in `aud`");
        }
        if claim.as_ref().is_some_and(|claim| claim.values.is_empty()) {
            self.problem("jwt.claim.values", "no token could have this claim", "name the values that are accepted");
        }
        for (field, path) in [("secret", &secret), ("public_key", &public_key), ("jwks", &jwks)] {
            path.iter().for_each(|path| self.absolute(&format!("jwt.{field}"), path));
        }
        let keys = match (secret, public_key, jwks) {
            (Some(path), None, None) => KeyFile::Secret(path),
            (None, Some(path), None) => KeyFile::PublicKey(path),
            (None, None, Some(path)) => KeyFile::Jwks(path),
            _ => {
                let help = "write `secret` (HS256), `public_key` (RS256 or ES256), or `jwks` (a set of public keys)";
                self.problem("jwt", "exactly one file of keys is needed", help);
                return None;
            }
        };
        let claim = claim.map(|ClaimForm { name, values }| (name, values));
        Some(JwtSettings { keys, rules: ClaimRules { audience, issuer, claim } })
    }

    fn absolute(&mut self, path: &str, file: &std::path::Path) {
        if !file.is_absolute() {
            self.problem(path, "this is not an absolute path", "begin it with `/`");
        }
    }

    fn problem(&mut self, path: &str, message: &str, help: &str) {
        let problem = match self.index.closest(path) {
            Some(entry) if !path.is_empty() => Problem::at(self.file, self.text, entry.whole(), message),
            _ => Problem::whole(self.file, message),
        };
        self.problems.push(problem.field(path).help(help));
    }
}

/// Whether this can be the key of a label, with or without a prefix.
fn is_label(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').unwrap_or(("x", key));
    let is_made_of = |text: &str, more: &[u8]| {
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        ends(text.bytes().next())
            && ends(text.bytes().last())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    prefix.len() <= 253 && name.len() <= 63 && is_made_of(prefix, b"-.") && is_made_of(name, b"-._")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_laptop_and_a_cluster() {
        let text = r#"Gateway(
            listen: "127.0.0.1:9000",
            workspaces: { "desk": Workspace(launcher: "127.0.0.1:9998", metrics: "unix:/run/x", token: "/run/token") },
            tokens: "/run/tokens",
        )"#;
        let settings = read("gateway.ron", text).unwrap();
        assert_eq!(settings.listen, "127.0.0.1:9000".parse().unwrap());
        let desk = &settings.workspaces["desk"];
        assert_eq!(desk.launcher, Endpoint::Tcp { host: "127.0.0.1".into(), port: 9998 });
        assert_eq!(desk.metrics, Some(Endpoint::Unix("/run/x".into())));

        let text = r#"Gateway(
            kubernetes: Kubernetes(),
            jwt: Jwt(jwks: "/run/jwks", audience: ["kasm"], claim: Claim(name: "role", values: ["staff"])),
        )"#;
        let settings = read("gateway.ron", text).unwrap();
        assert_eq!((settings.listen, settings.kubernetes.unwrap().label), (LISTEN.parse().unwrap(), LABEL.into()));
        assert_eq!(settings.jwt.unwrap().keys, KeyFile::Jwks("/run/jwks".into()));
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_places() {
        let text = r#"Gateway(
  listen: "here",
  workspaces: { "a b": Workspace(launcher: "nowhere", token: "token") },
  kubernetes: Kubernetes(namespaces: ["Kasm"], label: "x y"),
  requests_per_second: 0,
  jwt: Jwt(audience: [], secret: "/a", jwks: "/b", claim: Claim(name: "role", values: [])),
)"#;
        let problems = read("gateway.ron", text).unwrap_err();
        let found: Vec<(usize, &str)> = problems.iter().map(|one| (one.line, one.field.as_str())).collect();
        let wanted = [
            (2, "listen"),
            (3, "workspaces.a b"),
            (3, "workspaces.a b.launcher"),
            (3, "workspaces.a b.token"),
            (4, "kubernetes.namespaces[0]"),
            (4, "kubernetes.label"),
            (5, "requests_per_second"),
            (6, "jwt"),
            (6, "jwt.audience"),
            (6, "jwt.claim.values"),
        ];
        assert_eq!(found, wanted, "{problems:#?}");
        assert!(problems.iter().all(|one| !one.help.is_empty()));
    }

    #[test]
    fn nothing_to_show_and_nobody_to_let_in_are_mistakes() {
        let messages: Vec<String> = read("g", "Gateway()").unwrap_err().into_iter().map(|one| one.message).collect();
        assert_eq!(messages, ["no workspace can be found", "no caller could be let in"]);
        for other in ["", "listen: 1", "{\"listen\": 1}"] {
            let found = read("g", other).unwrap_err();
            assert!(found[0].help.contains("Gateway(kubernetes"), "{found:?}");
        }
        let smallest = GatewayForm::SMALLEST.split_once(" is ").unwrap().1;
        assert!(read("g", smallest).is_ok(), "{smallest}");
        let unknown = read("g", "Gateway(token: \"/x\")").unwrap_err();
        assert!(unknown[0].help.contains("`tokens`"), "{unknown:?}");
    }

    #[test]
    fn endpoints() {
        for (text, shown) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:80", "[::1]:80"),
            ("kasm-vpn.kasm.svc:9998", "kasm-vpn.kasm.svc:9998"),
            ("unix:/run/a b", "unix:/run/a b"),
        ] {
            assert_eq!(Endpoint::read(text).map(|one| one.to_string()), Ok(shown.to_owned()));
        }
        for text in ["", "a", ":1", "a:", "a:0", "a:65536", "http://a:1", "a b:1", "[x]:1", "unix:x", "::1:x", "a@b:1"]
        {
            assert!(Endpoint::read(text).is_err(), "{text}");
        }
    }
}
