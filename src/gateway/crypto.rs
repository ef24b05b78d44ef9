//! The cryptography behind JSON web tokens: HS256, RS256 and ES256 by ring, which the TLS of the Kubernetes client uses
//! too. Nothing is ever signed here.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::{hmac, signature as schemes};
use signature::Verifier;

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: no_signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Makes ring the cryptography of this process's tokens.
pub fn install() {
    let _ = PROVIDER.install_default(); // it is the only one, so a second call changes nothing
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

/// A verifier for this algorithm, if the key is one of its family.
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let check = match (algorithm, key.family(), key.kind()) {
        (Algorithm::HS256, AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(secret)) => {
            Check::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret))
        }
        (Algorithm::RS256, AlgorithmFamily::Rsa, DecodingKeyKind::SecretOrDer(der)) => Check::RsaDer(der.clone()),
        (Algorithm::RS256, AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            Check::Rsa { n: n.clone(), e: e.clone() }
        }
        (Algorithm::ES256, AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) => Check::Point(point.clone()),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(Checker { algorithm: *algorithm, check }))
}

struct Checker {
    algorithm: Algorithm,
    check: Check,
}

enum Check {
    Secret(hmac::Key),
    /// An `RSAPublicKey` in DER.
    RsaDer(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point on the curve P-256.
    Point(Vec<u8>),
}

impl JwtVerifier for Checker {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Checker {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> core::result::Result<(), signature::Error> {
        // At least 2048 bits: shorter RSA keys can be broken.
        let rsa = &schemes::RSA_PKCS1_2048_8192_SHA256;
        let verdict = match &self.check {
            Check::Secret(key) => hmac::verify(key, message, signed),
            Check::RsaDer(der) => schemes::UnparsedPublicKey::new(rsa, der).verify(message, signed),
            Check::Rsa { n, e } => schemes::RsaPublicKeyComponents { n, e }.verify(rsa, message, signed),
            Check::Point(point) => {
                schemes::UnparsedPublicKey::new(&schemes::ECDSA_P256_SHA256_FIXED, point).verify(message, signed)
            }
        };
        verdict.map_err(|_| signature::Error::new())
    }
}
