//! Decides which callers are let in, by the lines of a token file or the claims of a JSON web token. The signature is checked
//! elsewhere, with a key that is chosen here; the header of a token never chooses how it is checked.

use serde_json::{Map, Value};

use crate::model::plain;

/// A token with fewer characters can be guessed.
pub const SHORT: usize = 16;
/// The longest token in bytes, as in a request's head.
pub const LONGEST: usize = 4096;
/// How far apart the clocks of the gateway and of who signed a token may be, in seconds.
pub const LEEWAY: f64 = 30.0;

/// One line of a token file.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedToken {
    /// The name of the caller who uses it, for audit lines.
    pub name: String,
    /// The token that the caller sends.
    pub token: String,
}

/// Without the token.
impl core::fmt::Debug for NamedToken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("NamedToken").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads a token file: `NAME TOKEN` in each line; empty lines and lines that begin with `#` do not count. A line with one
/// word is a token whose name is `token`. The error never contains a token.
pub fn tokens(text: &str) -> Result<Vec<NamedToken>, String> {
    let mut found: Vec<NamedToken> = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let (name, token) = match words[..] {
            [token] => ("token", token),
            [name, token] => (name, token),
            _ => return Err(format!("line {number} has {} words: write `NAME TOKEN`", words.len())),
        };
        if token.len() < SHORT {
            return Err(format!("the token in line {number} has fewer than {SHORT} characters, so it can be guessed"));
        }
        if token.len() > LONGEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("the token in line {number} cannot be sent in a header"));
        }
        found.push(NamedToken { name: shown(name), token: token.into() });
    }
    match found.is_empty() {
        true => Err("it holds no token: write `NAME TOKEN` lines".into()),
        false => Ok(found),
    }
}

/// The kinds of keys, each with the one algorithm that it is used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A shared secret: HS256.
    Secret,
    /// An RSA public key: RS256.
    Rsa,
    /// A public key on the curve P-256: ES256.
    P256,
}

impl KeyKind {
    /// The algorithm, as in a token's header.
    pub fn algorithm(self) -> &'static str {
        match self {
            KeyKind::Secret => "HS256",
            KeyKind::Rsa => "RS256",
            KeyKind::P256 => "ES256",
        }
    }
}

/// The algorithm and the name of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// Which algorithm it is used with.
    pub kind: KeyKind,
    /// Its name in a set of keys.
    pub id: Option<String>,
}

/// The keys that a token with this header may be checked with, as positions in `keys`. A key is only used with its own
/// algorithm, so a public key is never taken for a secret, and `none` fits no key.
pub fn fitting(keys: &[KeyFacts], algorithm: &str, id: Option<&str>) -> Vec<usize> {
    let fits = |key: &KeyFacts| {
        let named = match (id, key.id.as_deref()) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        named && key.kind.algorithm() == algorithm
    };
    keys.iter().enumerate().filter(|(_, key)| fits(key)).map(|(at, _)| at).collect()
}

/// The claims that a token must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRules {
    /// One of these must be in `aud`.
    pub audience: Vec<String>,
    /// `iss`, if it must have a value.
    pub issuer: Option<String>,
    /// A claim that must have one of these values.
    pub claim: Option<(String, Vec<String>)>,
}

/// Why a token is refused although its signature is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimFault {
    /// `exp` is missing or not a number.
    #[error("the token has no expiry (`exp`)")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come, or is not a number.
    #[error("the token is not valid yet")]
    NotYet,
    /// `aud` names none of the audiences.
    #[error("the token is for another audience")]
    Audience,
    /// `iss` is another one.
    #[error("the token is from another issuer")]
    Issuer,
    /// This claim is missing, or has none of the values.
    #[error("the token lacks the claim `{0}`")]
    Claim(String),
}

/// Judges the claims of a token whose signature is right, `now` seconds after 1970. Returns who it is for: `sub`, made fit
/// for a log line.
pub fn judge(rules: &ClaimRules, claims: &Map<String, Value>, now: f64) -> Result<String, ClaimFault> {
    let expiry = claims.get("exp").and_then(Value::as_f64).ok_or(ClaimFault::NoExpiry)?;
    if now >= expiry + LEEWAY {
        return Err(ClaimFault::Expired);
    }
    match claims.get("nbf").map(Value::as_f64) {
        None => {}
        Some(Some(begin)) if now >= begin - LEEWAY => {}
        Some(_) => return Err(ClaimFault::NotYet),
    }
    if !claims.get("aud").is_some_and(|aud| has_one_of(aud, &rules.audience)) {
        return Err(ClaimFault::Audience);
    }
    if let Some(issuer) = &rules.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(ClaimFault::Issuer);
    }
    if let Some((name, values)) = &rules.claim {
        let words = |value: &Value| name == "scope" && value.as_str().is_some_and(|text| is_scope(text, values));
        if !claims.get(name).is_some_and(|value| has_one_of(value, values) || words(value)) {
            return Err(ClaimFault::Claim(name.clone()));
        }
    }
    Ok(shown(claims.get("sub").and_then(Value::as_str).unwrap_or("unnamed")))
}

/// Whether a claim is one of these values, or a list with one of them. `true` is written as `"true"`.
fn has_one_of(claim: &Value, wanted: &[String]) -> bool {
    let is = |text: &str| wanted.iter().any(|one| one == text);
    match claim {
        Value::String(text) => is(text),
        Value::Bool(flag) => is(if *flag { "true" } else { "false" }),
        Value::Array(all) => all.iter().any(|one| one.as_str().is_some_and(is)),
        _ => false,
    }
}

/// Whether one of the words of `scope` is wanted; RFC 8693 separates them by spaces.
fn is_scope(text: &str, wanted: &[String]) -> bool {
    text.split(' ').any(|word| wanted.iter().any(|one| one == word))
}

/// A name from outside, fit for a log line and short.
fn shown(name: &str) -> String {
    plain::text(name).chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rules() -> ClaimRules {
        ClaimRules {
            audience: vec!["kasm".into()],
            issuer: Some("https://id.example".into()),
            claim: Some(("role".into(), vec!["staff".into(), "admin".into()])),
        }
    }

    fn claims(change: impl FnOnce(&mut Map<String, Value>)) -> Map<String, Value> {
        let good = json!({
            "sub": "ada", "exp": 1100, "nbf": 900, "aud": "kasm", "iss": "https://id.example", "role": "staff",
        });
        let Value::Object(mut claims) = good else { unreachable!() };
        change(&mut claims);
        claims
    }

    fn verdict(now: f64, change: impl FnOnce(&mut Map<String, Value>)) -> Result<String, ClaimFault> {
        judge(&rules(), &claims(change), now)
    }

    #[test]
    fn a_good_token_names_its_subject() {
        assert_eq!(verdict(1000.0, |_| {}), Ok("ada".into()));
        assert_eq!(verdict(1000.0, |claims| drop(claims.remove("nbf"))), Ok("ada".into()));
        assert_eq!(verdict(1000.0, |claims| drop(claims.insert("aud".into(), json!(["x", "kasm"])))), Ok("ada".into()));
        assert_eq!(verdict(1000.0, |claims| drop(claims.insert("role".into(), json!(["admin"])))), Ok("ada".into()));
        assert_eq!(verdict(1000.0, |claims| drop(claims.remove("sub"))), Ok("unnamed".into()));
        assert_eq!(verdict(1000.0, |claims| drop(claims.insert("exp".into(), json!(1000.5)))), Ok("ada".into()));
    }

    #[test]
    fn times_are_kept_with_some_leeway() {
        for (now, wanted) in [
            (869.0, Err(ClaimFault::NotYet)),
            (870.0, Ok("ada".into())),
            (1129.9, Ok("ada".into())),
            (1130.0, Err(ClaimFault::Expired)),
        ] {
            assert_eq!(verdict(now, |_| {}), wanted, "{now}");
        }
    }

    #[test]
    fn each_claim_is_asked_for() {
        for (name, value, wanted) in [
            ("exp", json!(null), ClaimFault::NoExpiry),
            ("exp", json!("9999999999"), ClaimFault::NoExpiry),
            ("exp", json!(-1e300), ClaimFault::Expired),
            ("nbf", json!("soon"), ClaimFault::NotYet),
            ("nbf", json!(1e300), ClaimFault::NotYet),
            ("aud", json!(null), ClaimFault::Audience),
            ("aud", json!("kasm2"), ClaimFault::Audience),
            ("aud", json!([]), ClaimFault::Audience),
            ("aud", json!({"kasm": true}), ClaimFault::Audience),
            ("iss", json!("https://id.example/"), ClaimFault::Issuer),
            ("iss", json!(["https://id.example"]), ClaimFault::Issuer),
            ("role", json!(null), ClaimFault::Claim("role".into())),
            ("role", json!("staffer"), ClaimFault::Claim("role".into())),
            ("role", json!([["staff"]]), ClaimFault::Claim("role".into())),
        ] {
            assert_eq!(
                verdict(1000.0, |claims| drop(claims.insert(name.into(), value.clone()))),
                Err(wanted),
                "{name} {value}"
            );
        }
    }

    #[test]
    fn only_a_scope_is_a_list_of_words() {
        let scope = ClaimRules { claim: Some(("scope".into(), vec!["kasm:open".into()])), ..rules() };
        let asked =
            |name: &str, value: &str| judge(&scope, &claims(|all| drop(all.insert(name.into(), json!(value)))), 1000.0);
        assert!(asked("scope", "read kasm:open").is_ok());
        assert!(asked("scope", "read kasm:opening").is_err());
        assert_eq!(verdict(1000.0, |all| drop(all.insert("aud".into(), json!("kasm x")))), Err(ClaimFault::Audience));
    }

    proptest! {
        #[test]
        fn a_key_is_only_used_with_its_own_algorithm(
            kinds in proptest::collection::vec(0..3usize, 0..6),
            algorithm in "none|None|NONE|HS256|HS384|RS256|ES256|PS256|",
            id in proptest::option::of("[ab]"),
        ) {
            let kind = |n: &usize| [KeyKind::Secret, KeyKind::Rsa, KeyKind::P256][*n];
            let keys: Vec<_> = kinds.iter().map(|n| KeyFacts { kind: kind(n), id: Some("a".into()) }).collect();
            for at in fitting(&keys, &algorithm, id.as_deref()) {
                prop_assert_eq!(keys[at].kind.algorithm(), algorithm.as_str());
                prop_assert!(id.as_deref() != Some("b"));
            }
        }
    }

    #[test]
    fn a_token_file_has_names() {
        let text = "# who may\n\ndashboard 0123456789abcdef\n  ada\tfedcba9876543210  \n00000000000000000000\n";
        let found = tokens(text).unwrap();
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["dashboard", "ada", "token"]);
        assert_eq!(found[1].token, "fedcba9876543210");
        assert!(!format!("{found:?}").contains("fedcba"));
    }

    #[test]
    fn a_mistake_in_a_token_file_is_told_without_the_token() {
        for (text, wanted) in [
            ("", "no token"),
            ("# nothing\n", "no token"),
            ("a s3cr3t", "line 1 has fewer than 16"),
            ("a b s3cr3ts3cr3ts3cr3t", "line 1 has 3 words"),
            ("a s3cr3ts3cr3ts3cr3té", "cannot be sent"),
        ] {
            let why = tokens(text).unwrap_err();
            assert!(why.contains(wanted) && !why.contains("s3cr3t"), "{text}: {why}");
        }
    }
}
