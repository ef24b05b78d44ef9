//! Callers with good tokens, and with every bad one.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use ring::{hmac, signature};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::model::gateway::auth::ClaimRules;

const SECRET: &str = "a secret of more than thirty-two bytes";

fn rules() -> ClaimRules {
    let claim = Some(("role".into(), vec!["staff".into()]));
    ClaimRules { audience: vec!["kasm".into()], issuer: None, claim }
}

fn good() -> Value {
    json!({ "sub": "ada", "aud": "kasm", "exp": 9_999_999_999u64, "role": "staff" })
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with this header and these claims, signed by `sign`.
fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
    let signature = encoded(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn by_secret(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

/// The files of one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Files(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    }

    /// Runs openssl in the folder.
    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        let done = command.args(arguments.split(' ')).current_dir(self.0.path()).output().expect("openssl");
        assert!(done.status.success(), "openssl {arguments}: {done:?}");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.path().join(name)).expect("a file")
    }
}

fn callers(keys: KeyFile) -> Callers {
    Callers::new(None, Some(JwtSettings { keys, rules: rules() }))
}

fn asks(callers: &Callers, token: &str) -> Result<String, String> {
    admitted(callers, &format!("Bearer {token}")).map(|caller| caller.name)
}

fn admitted(callers: &Callers, header: &str) -> Result<Caller, String> {
    callers.admit(Some(header.as_bytes())).map_err(|Unauthorized(why)| why)
}

fn untrusted() -> Result<String, String> {
    Err("the token is not accepted".into())
}

/// An RSA key: its signer, and the public key in PEM.
fn rsa(files: &Files, bits: u32) -> (RsaKeyPair, Vec<u8>) {
    files.openssl(&format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:{bits} -outform DER -out rsa.der"));
    files.openssl("pkey -inform DER -in rsa.der -pubout -out rsa.pem");
    let der = files.read("rsa.der"); // in PKCS#8 or PKCS#1, by the version of openssl
    let key = RsaKeyPair::from_pkcs8(&der).or_else(|_| RsaKeyPair::from_der(&der)).expect("an RSA key");
    (key, files.read("rsa.pem"))
}

fn by_rsa(key: &RsaKeyPair) -> impl Fn(&[u8]) -> Vec<u8> {
    move |message| {
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("a signature");
        signature
    }
}

fn p256() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref(), &random).expect("the same key")
}

fn by_p256(key: &EcdsaKeyPair) -> impl Fn(&[u8]) -> Vec<u8> {
    move |message| key.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
}

#[test]
fn a_shared_secret_opens() {
    let files = Files::new();
    let callers = callers(KeyFile::Secret(files.write("secret", SECRET)));
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    assert_eq!(asks(&callers, &signed(&header, &good(), by_secret(SECRET.as_bytes()))), Ok("ada".into()));
    assert_eq!(asks(&callers, &signed(&header, &good(), by_secret(b"another secret"))), untrusted());
    let old = json!({ "sub": "ada", "aud": "kasm", "exp": 1, "role": "staff" });
    let expired = signed(&header, &old, by_secret(SECRET.as_bytes()));
    assert_eq!(asks(&callers, &expired), Err("the token has expired".into()));
}

#[test]
fn no_header_chooses_how_it_is_checked() {
    let files = Files::new();
    let (key, pem) = rsa(&files, 2048);
    let callers = callers(KeyFile::PublicKey(files.write("key.pem", &pem)));
    assert_eq!(asks(&callers, &signed(&json!({ "alg": "RS256" }), &good(), by_rsa(&key))), Ok("ada".into()));
    // The public key, which everybody knows, as a shared secret.
    for confused in [&pem[..], pem.trim_ascii()] {
        assert_eq!(asks(&callers, &signed(&json!({ "alg": "HS256" }), &good(), by_secret(confused))), untrusted());
    }
    for algorithm in ["none", "None", "NONE", "nOnE", "", "HS512", "RS512", "PS256", "ES256", "EdDSA"] {
        let header = json!({ "alg": algorithm });
        assert_eq!(asks(&callers, &signed(&header, &good(), |_| Vec::new())), untrusted(), "{algorithm}");
        assert_eq!(asks(&callers, &signed(&header, &good(), by_rsa(&key))), untrusted(), "{algorithm}");
    }
    // A key that the token brings along.
    for header in [
        json!({ "alg": "HS256", "jwk": { "kty": "oct", "k": encoded(SECRET) } }),
        json!({ "alg": "RS256", "jku": "https://attacker.example/keys" }),
        json!({ "alg": "RS256", "x5c": [encoded("x")] }),
        json!({ "alg": "RS256", "kid": "../../dev/null" }),
    ] {
        assert_eq!(asks(&callers, &signed(&header, &good(), by_secret(SECRET.as_bytes()))), untrusted(), "{header}");
    }
    let critical = json!({ "alg": "RS256", "crit": ["exp"] });
    assert_eq!(asks(&callers, &signed(&critical, &good(), by_rsa(&key))), untrusted());
}

#[test]
fn a_changed_token_is_refused() {
    let files = Files::new();
    let callers = callers(KeyFile::Secret(files.write("secret", SECRET)));
    let token = signed(&json!({ "alg": "HS256" }), &good(), by_secret(SECRET.as_bytes()));
    assert_eq!(asks(&callers, &token), Ok("ada".into()));
    let parts: Vec<&str> = token.split('.').collect();
    let admin = encoded(json!({ "sub": "root", "aud": "kasm", "exp": 9_999_999_999u64, "role": "staff" }).to_string());
    for changed in [
        format!("{}.{admin}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        format!("{token}."),
        format!("{token}x"),
        format!("{}.{}.{}", parts[1], parts[0], parts[2]),
        "..".into(),
        "a.b.c".into(),
    ] {
        assert_eq!(asks(&callers, &changed), untrusted(), "{changed}");
    }
}

#[test]
fn a_set_of_keys_has_one_for_each_algorithm() {
    let files = Files::new();
    let ((rsa, _), p256) = (rsa(&files, 2048), p256());
    let public = signature::RsaPublicKeyComponents::<Vec<u8>>::from(rsa.public());
    let (x, y) = p256.public_key().as_ref()[1..].split_at(32);
    let set = json!({ "keys": [
        { "kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256", "n": encoded(&public.n), "e": encoded(&public.e) },
        { "kty": "EC", "kid": "two", "crv": "P-256", "x": encoded(x), "y": encoded(y) },
        { "kty": "oct", "kid": "three", "k": encoded(SECRET) },
        { "kty": "unheard-of", "kid": "four" },
    ] });
    let callers = callers(KeyFile::Jwks(files.write("jwks", set.to_string())));
    let header = |algorithm: &str, id: Option<&str>| match id {
        Some(id) => json!({ "alg": algorithm, "kid": id }),
        None => json!({ "alg": algorithm }),
    };
    for id in [Some("one"), None] {
        assert_eq!(asks(&callers, &signed(&header("RS256", id), &good(), by_rsa(&rsa))), Ok("ada".into()), "{id:?}");
    }
    for id in [Some("two"), None] {
        assert_eq!(asks(&callers, &signed(&header("ES256", id), &good(), by_p256(&p256))), Ok("ada".into()), "{id:?}");
    }
    assert_eq!(asks(&callers, &signed(&header("RS256", Some("two")), &good(), by_rsa(&rsa))), untrusted());
    assert_eq!(asks(&callers, &signed(&header("ES256", Some("five")), &good(), by_p256(&p256))), untrusted());
    // A secret has no place in a public set.
    assert_eq!(asks(&callers, &signed(&header("HS256", None), &good(), by_secret(SECRET.as_bytes()))), untrusted());
}

#[test]
fn a_subject_that_is_called_like_a_token_is_somebody_else() {
    let files = Files::new();
    let tokens = files.write("tokens", "ada 0123456789abcdef\n");
    let keys = KeyFile::Secret(files.write("secret", SECRET));
    let callers = Callers::new(Some(tokens), Some(JwtSettings { keys, rules: rules() }));
    let token = signed(&json!({ "alg": "HS256" }), &good(), by_secret(SECRET.as_bytes()));
    let [by_token, by_jwt] =
        ["0123456789abcdef", &token].map(|token| admitted(&callers, &format!("Bearer {token}")).expect("let in"));
    assert_eq!((by_token.name.as_str(), by_token.by), ("ada", "token"));
    assert_eq!((by_jwt.name.as_str(), by_jwt.by), ("ada", "jwt"));
}

#[test]
fn a_secret_in_the_place_of_a_set_of_keys_is_not_repeated() {
    let files = Files::new();
    for text in [&*format!("\"{SECRET}\""), SECRET, &format!("{{\"keys\": \"{SECRET}\"}}")] {
        let why = read_jwks(&files.write("jwks", text)).expect_err("it is no set of keys");
        assert!(why.contains("is not a set of keys") && !why.contains(SECRET), "{why}");
    }
}

#[test]
fn a_key_that_is_too_weak_opens_nothing() {
    let files = Files::new();
    let short = callers(KeyFile::Secret(files.write("secret", "short")));
    assert!(asks(&short, &signed(&json!({ "alg": "HS256" }), &good(), by_secret(b"short"))).is_err());
    let p384 = "ecparam -name secp384r1 -genkey -noout -out p384.key";
    files.openssl(p384);
    files.openssl("ec -in p384.key -pubout -out p384.pem");
    let why = read_public_key(&files.0.path().join("p384.pem")).expect_err("it is on another curve");
    assert!(why.contains("P-256"), "{why}");
}

#[test]
fn a_file_of_tokens_may_change_at_any_time() {
    let files = Files::new();
    let path = files.write("tokens", "dashboard 0123456789abcdef\nada fedcba9876543210\n");
    let callers = Callers::new(Some(path.clone()), None);
    let header = |text: &str| admitted(&callers, text).map(|caller| caller.name);
    assert_eq!(header("bearer  0123456789abcdef "), Ok("dashboard".into()));
    assert_eq!(header("Bearer fedcba9876543210"), Ok("ada".into()));
    for other in ["Bearer fedcba987654321", "Basic fedcba9876543210", "Bearer ", "", "Bearer a.b.c"] {
        assert!(header(other).is_err(), "{other}");
    }
    assert_eq!(callers.admit(None).map_err(|Unauthorized(why)| why.contains("bearer token")), Err(true));
    files.write("tokens", "ada 0000000000000000\n");
    assert_eq!(header("Bearer 0000000000000000"), Ok("ada".into()));
    assert!(header("Bearer fedcba9876543210").is_err());
    // As a mounted Secret changes: another file in its place.
    let next = files.write("next", "eve 1111111111111111\n");
    fs::rename(next, &path).expect("a rename");
    assert_eq!(header("Bearer 1111111111111111"), Ok("eve".into()));
    fs::remove_file(&path).expect("it was there");
    assert!(header("Bearer 1111111111111111").is_err());
}
