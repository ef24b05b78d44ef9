//! Lets callers in: reads the files of tokens and keys, which may change at any time, and checks signatures. What a token
//! must say is decided by `model::gateway::auth`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Serialize;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use super::crypto;
use crate::host::secret;
use crate::host::sync::lock;
use crate::launcher::token::bearer;
use crate::model::gateway::auth::{self, KeyFacts, KeyKind, NamedToken};
use crate::model::gateway::settings::{JwtSettings, KeyFile};

/// The longest file of keys, in bytes.
const LONGEST: u64 = 256 << 10;
/// The shortest secret in bytes: as long as the hash, as RFC 7518 demands.
const SHORTEST_SECRET: usize = 32;

/// Somebody who was let in. Rates and audit lines keep the two kinds apart: a signed token may name its subject like a
/// caller of the token file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    pub name: String,
    /// The kind of its proof: `token` or `jwt`.
    pub by: &'static str,
}

/// Everybody who is let in.
pub struct Callers {
    tokens: Option<Watched<Vec<NamedToken>>>,
    jwt: Option<(Watched<Keys>, JwtSettings)>,
}

/// Why a caller is not let in, for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unauthorized(pub String);

impl Callers {
    pub fn new(tokens: Option<PathBuf>, jwt: Option<JwtSettings>) -> Self {
        crypto::install();
        let tokens = tokens.map(|path| Watched::new(path, read_tokens));
        let jwt = jwt.map(|jwt| match jwt.keys.clone() {
            KeyFile::Secret(path) => (Watched::new(path, read_secret), jwt),
            KeyFile::PublicKey(path) => (Watched::new(path, read_public_key), jwt),
            KeyFile::Jwks(path) => (Watched::new(path, read_jwks), jwt),
        });
        Callers { tokens, jwt }
    }

    /// Logs what is wrong with the files. They may become right later.
    pub fn warn_at_start(&self) {
        let _ = self.tokens.as_ref().map(Watched::get);
        let _ = self.jwt.as_ref().map(|(keys, _)| keys.get());
    }

    /// The caller who sent this `Authorization` header.
    pub fn admit(&self, header: Option<&[u8]>) -> Result<Caller, Unauthorized> {
        let refuse = |why: &str| Err(Unauthorized(why.into()));
        let Some(sent) = header.and_then(bearer).filter(|sent| !sent.is_empty()) else {
            return refuse("send a bearer token in the header Authorization");
        };
        if let Some(tokens) = self.tokens.as_ref().and_then(Watched::get) {
            // All are compared, so that the time says nothing about the position.
            let mut found = None;
            for one in tokens.iter() {
                if bool::from(one.token.as_bytes().ct_eq(sent)) {
                    found = Some(one.name.clone());
                }
            }
            if let Some(name) = found {
                return Ok(Caller { name, by: "token" });
            }
        }
        match &self.jwt {
            Some((keys, settings)) if sent.iter().filter(|byte| **byte == b'.').count() == 2 => {
                let Some(keys) = keys.get() else { return refuse("the gateway cannot read its keys") };
                let name = keys.admit(sent, settings).map_err(Unauthorized)?;
                Ok(Caller { name, by: "jwt" })
            }
            _ => refuse("the token is not accepted"),
        }
    }
}

/// Keys, with what is known of each.
#[derive(Debug)]
struct Keys {
    facts: Vec<KeyFacts>,
    keys: Vec<DecodingKey>,
}

impl Keys {
    fn of(all: Vec<(KeyFacts, DecodingKey)>) -> Keys {
        let (facts, keys) = all.into_iter().unzip();
        Keys { facts, keys }
    }

    fn admit(&self, token: &[u8], settings: &JwtSettings) -> Result<String, String> {
        // Without a signature that is right, nothing in the token is repeated to the caller.
        let untrusted = || "the token is not accepted".to_owned();
        let header = jsonwebtoken::decode_header(token).map_err(|_| untrusted())?;
        if header.crit.is_some() {
            return Err(untrusted()); // it names extensions that must be understood, and none is
        }
        let fitting = auth::fitting(&self.facts, &word(&header.alg), header.kid.as_deref());
        let claims = fitting.into_iter().find_map(|at| checked(token, &self.keys[at], self.facts[at].kind));
        let claims = claims.ok_or_else(untrusted)?;
        auth::judge(&settings.rules, &claims, now()).map_err(|fault| fault.to_string())
    }
}

/// The claims, if the signature is right.
fn checked(token: &[u8], key: &DecodingKey, kind: KeyKind) -> Option<Map<String, Value>> {
    let mut form = Validation::new(match kind {
        KeyKind::Secret => Algorithm::HS256,
        KeyKind::Rsa => Algorithm::RS256,
        KeyKind::P256 => Algorithm::ES256,
    });
    // The claims are judged by `model::gateway::auth`.
    form.required_spec_claims.clear();
    (form.validate_exp, form.validate_nbf, form.validate_aud) = (false, false, false);
    jsonwebtoken::decode(token, key, &form).ok().map(|token| token.claims)
}

/// An algorithm as it is written in a token.
fn word(algorithm: &impl Serialize) -> String {
    serde_json::to_value(algorithm).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn read_tokens(path: &Path) -> Result<Vec<NamedToken>, String> {
    let named = path.display().to_string();
    auth::tokens(&secret::read_whole(path, &named)?).map_err(|why| format!("{named}: {why}"))
}

fn read_secret(path: &Path) -> Result<Keys, String> {
    let secret = secret::read(path, &path.display().to_string())?;
    if secret.len() < SHORTEST_SECRET {
        return Err(format!("the secret in {} has fewer than {SHORTEST_SECRET} bytes", path.display()));
    }
    let facts = KeyFacts { kind: KeyKind::Secret, id: None };
    Ok(Keys::of(vec![(facts, DecodingKey::from_secret(secret.as_bytes()))]))
}

fn read_public_key(path: &Path) -> Result<Keys, String> {
    let pem = read_public(path)?;
    let rsa = DecodingKey::from_rsa_pem(pem.as_bytes()).map(|key| (KeyKind::Rsa, key));
    let found = rsa.or_else(|_| DecodingKey::from_ec_pem(pem.as_bytes()).map(|key| (KeyKind::P256, key)));
    let (kind, key) =
        found.map_err(|_| format!("{} holds no public key in PEM, of RSA or the curve P-256", path.display()))?;
    if kind == KeyKind::P256 && key.try_get_as_bytes().is_ok_and(|point| point.len() != 65) {
        return Err(format!("the key in {} is on another curve than P-256", path.display()));
    }
    Ok(Keys::of(vec![(KeyFacts { kind, id: None }, key)]))
}

fn read_jwks(path: &Path) -> Result<Keys, String> {
    let named = path.display();
    // The parser's own words may quote the file, and a secret may have been put there by mistake.
    let set: JwkSet = serde_json::from_str(&read_public(path)?).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("{named} is not a set of keys in JSON (RFC 7517): line {line}, column {column}")
    })?;
    let keys: Vec<_> = set.keys.iter().filter_map(usable).collect();
    match keys.is_empty() {
        true => Err(format!("{named} holds no key for signatures with RS256 or ES256")),
        false => Ok(Keys::of(keys)),
    }
}

/// A public key for signatures. Secrets do not belong into a public set, so they are skipped.
fn usable(jwk: &Jwk) -> Option<(KeyFacts, DecodingKey)> {
    let kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => KeyKind::Rsa,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => KeyKind::P256,
        _ => return None,
    };
    let for_this = jwk.common.key_algorithm.is_none_or(|named| word(&named) == kind.algorithm());
    let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|one| *one == PublicKeyUse::Signature);
    if !for_this || !for_signatures {
        return None;
    }
    Some((KeyFacts { kind, id: jwk.common.key_id.clone() }, DecodingKey::from_jwk(jwk).ok()?))
}

/// Reads a file that everybody may read, but that is not endless.
fn read_public(path: &Path) -> Result<String, String> {
    let named = path.display();
    let length = fs::metadata(path).map_err(|error| format!("cannot read {named}: {error}"))?;
    if !length.is_file() || length.len() > LONGEST {
        return Err(format!("{named} is not a file of at most {LONGEST} bytes"));
    }
    fs::read_to_string(path).map_err(|error| format!("cannot read {named}: {error}"))
}

/// The content of a file, read again whenever the file changes.
struct Watched<T> {
    path: PathBuf,
    read: fn(&Path) -> Result<T, String>,
    last: Mutex<Option<(Stamp, Option<Arc<T>>)>>,
}

/// Changes with every way to replace or write a file: device, inode, size, and the times of its text and its mode.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

impl<T> Watched<T> {
    fn new(path: PathBuf, read: fn(&Path) -> Result<T, String>) -> Self {
        Watched { path, read, last: Mutex::default() }
    }

    /// The current content; `None` if it cannot be used, which is logged once.
    fn get(&self) -> Option<Arc<T>> {
        let stamp = stamp(&self.path);
        let mut last = lock(&self.last);
        if let Some((of, said)) = last.as_ref()
            && *of == stamp
        {
            return said.clone();
        }
        let said = match (self.read)(&self.path) {
            Ok(said) => Some(Arc::new(said)),
            Err(why) => {
                tracing::warn!(event = "gateway.keys_refused", "callers that need this file are refused: {why}");
                None
            }
        };
        *last = Some((stamp, said.clone()));
        said
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    let changed = (found.mtime(), found.mtime_nsec());
    Some((found.dev(), found.ino(), found.size(), changed, (found.ctime(), found.ctime_nsec())))
}

#[cfg(test)]
mod tests;
