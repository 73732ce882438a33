//! API keys, and the signatures made with their secrets (`rest-api.md`, "Request Security").

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{hmac, signature};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;

use crate::record::Label;

/// What comes before the 32 bytes of an Ed25519 key in its `SubjectPublicKeyInfo` (RFC 8410).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No PEM text with a public key.
    #[error("not a public key in PEM: {0}")]
    Pem(String),
    /// A public key of another kind.
    #[error("not an Ed25519 public key")]
    NotEd25519,
    /// An HMAC secret without a single character.
    #[error("the secret is empty")]
    Empty,
}

/// What a signature is checked with.
#[derive(Clone)]
pub struct Verifier(Kind);

#[derive(Clone)]
enum Kind {
    Hmac(hmac::Key),
    Ed25519(Vec<u8>),
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Hmac(_) => "Verifier(hmac)",
            Kind::Ed25519(_) => "Verifier(ed25519)",
        })
    }
}

impl Verifier {
    /// Of a shared secret: signatures are HMAC-SHA256 in hex.
    pub fn hmac(secret: &str) -> Result<Self, KeyError> {
        if secret.is_empty() {
            return Err(KeyError::Empty);
        }
        Ok(Self(Kind::Hmac(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))))
    }

    /// Of an Ed25519 public key in PEM: signatures are in base64.
    pub fn ed25519_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|error| KeyError::Pem(error.to_string()))?;
        let key = der.as_ref().strip_prefix(&ED25519_PREFIX).filter(|key| key.len() == 32);
        key.map(|key| Self(Kind::Ed25519(key.to_vec()))).ok_or(KeyError::NotEd25519)
    }

    /// Whether `signature` is one of `payload`.
    pub fn verifies(&self, payload: &[u8], signature: &str) -> bool {
        match &self.0 {
            Kind::Hmac(key) => unhex(signature).is_some_and(|tag| hmac::verify(key, payload, &tag).is_ok()),
            Kind::Ed25519(key) => STANDARD.decode(signature).is_ok_and(|signature| {
                signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(payload, &signature).is_ok()
            }),
        }
    }
}

/// Hex digits of either case, as Binance takes them.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// The accounts by their API keys.
#[derive(Debug, Clone, Default)]
pub struct Keys(BTreeMap<String, Key>);

/// One API key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) account: Label,
    pub(super) verifier: Verifier,
}

impl Keys {
    /// Adds a key. False if there is one of this name already.
    #[must_use]
    pub fn add(&mut self, account: &str, api_key: &str, verifier: Verifier) -> bool {
        self.0.insert(api_key.to_owned(), Key { account: account.into(), verifier }).is_none()
    }

    /// The accounts that have keys.
    pub fn accounts(&self) -> impl Iterator<Item = &Label> {
        self.0.values().map(|key| &key.account)
    }

    pub(super) fn get(&self, api_key: &str) -> Option<&Key> {
        self.0.get(api_key)
    }
}

/// What was signed: the query and the body as they were sent, without the signature, one directly after the other.
pub(super) fn signed_payload(query: &str, body: &str) -> String {
    let without =
        |text: &str| text.split('&').filter(|pair| !pair.starts_with("signature=")).collect::<Vec<_>>().join("&");
    without(query) + &without(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j";
    const ORDER: &str = "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559";

    #[test]
    fn the_documented_hmac_examples_verify() {
        let verifier = Verifier::hmac(SECRET).unwrap();
        let documented = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71";
        assert!(verifier.verifies(ORDER.as_bytes(), documented));
        assert!(verifier.verifies(ORDER.as_bytes(), &documented.to_uppercase()), "hex of either case");
        assert!(!verifier.verifies(ORDER.to_lowercase().as_bytes(), documented));
        let encoded = ORDER.replace("LTCBTC", "%EF%BC%91%EF%BC%92%EF%BC%93%EF%BC%94%EF%BC%95%EF%BC%96");
        let documented = "e1353ec6b14d888f1164ae9af8228a3dbd508bc82eb867db8ab6046442f33ef3";
        assert!(verifier.verifies(encoded.as_bytes(), documented), "over what was sent, not what it decodes to");
        let socket = "apiKey=vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A&price=52000.00&\
            quantity=0.01000000&recvWindow=100&side=SELL&symbol=BTCUSDT&timeInForce=GTC&timestamp=1645423376532&type=LIMIT";
        assert!(
            verifier.verifies(socket.as_bytes(), "aa1b5712c094bc4e57c05a1a5c1fd8d88dcd628338ea863fec7b88e59fe2db24")
        );
    }

    #[test]
    fn what_is_no_signature_does_not_verify() {
        let verifier = Verifier::hmac(SECRET).unwrap();
        for bad in ["", "c", "zz", "c8db", "é8", "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b7"] {
            assert!(!verifier.verifies(ORDER.as_bytes(), bad), "{bad}");
        }
        assert_eq!(Verifier::hmac("").unwrap_err(), KeyError::Empty);
    }

    #[test]
    fn the_payload_is_query_and_body_as_sent_without_the_signature() {
        let (query, body) = ("symbol=LTCBTC&side=BUY", "quantity=1&timestamp=1&signature=ab");
        assert_eq!(signed_payload(query, body), "symbol=LTCBTC&side=BUYquantity=1&timestamp=1");
        assert_eq!(signed_payload("a=%2F+b&signature=x%3D", ""), "a=%2F+b");
    }

    #[test]
    fn the_example_key_of_rfc_8410_is_taken() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let verifier = Verifier::ed25519_pem(pem.as_bytes()).unwrap();
        assert!(!verifier.verifies(ORDER.as_bytes(), "") && !verifier.verifies(ORDER.as_bytes(), &"A".repeat(88)));
    }

    #[test]
    fn a_key_that_is_not_ed25519_is_refused() {
        assert!(matches!(Verifier::ed25519_pem(b"nothing"), Err(KeyError::Pem(_))));
        let other = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
        assert_eq!(Verifier::ed25519_pem(other.as_bytes()).unwrap_err(), KeyError::NotEd25519);
    }
}
