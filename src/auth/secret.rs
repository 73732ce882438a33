//! Secrets that this server makes: random, shown once, kept as a hash.

use std::fmt;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::signature::stored_hash;

/// A secret of 256 random bits as text. It is shown to its owner once; only [`Secret::hash`] is kept.
///
/// SHA-256 is the right hash for it, and a slow password hash would be the wrong one: guessing 256 random bits is
/// hopeless however fast the hash is, and every request pays for it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Makes a new one: `prefix` and 64 hexadecimal digits.
    pub fn random(prefix: &str) -> Self {
        let bytes: [u8; 32] = rand::random();
        Self(format!("{prefix}{}", hex(&bytes)))
    }

    /// What is stored instead of it.
    pub fn hash(&self) -> String {
        sha256_hex(&self.0)
    }

    /// What is stored instead of one that signs.
    pub(super) fn signing_hash(&self) -> String {
        stored_hash(&self.0)
    }

    /// The text, to be shown once.
    pub fn into_text(self) -> String {
        self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// SHA-256 in lower-case hex.
pub fn sha256_hex(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Whether `given` is the secret behind `hash`. Takes the same time whether there is a hash or not, and wherever the two
/// differ, so that an answer's timing tells nothing.
pub(crate) fn matches(given: &str, hash: Option<&str>) -> bool {
    const NOBODY: &str = "no secret has this hash: it is not sixty-four hexadecimal digits";
    let given = sha256_hex(given);
    bool::from(given.as_bytes().ct_eq(hash.unwrap_or(NOBODY).as_bytes()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_256_bits_and_matches_only_its_own_hash() {
        let (one, other) = (Secret::random("hg_"), Secret::random("hg_"));
        assert_eq!(one.0.len(), 3 + 64);
        assert_ne!(one, other);
        assert!(matches(&one.0, Some(&one.hash())));
        assert!(!matches(&one.0, Some(&other.hash())));
        assert!(!matches(&one.0, None));
        assert!(!format!("{one:?}").contains(&one.0));
    }

    #[test]
    fn the_hash_is_plain_sha_256() {
        assert_eq!(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn no_secret_can_match_the_stand_in_for_an_absent_hash() {
        assert!(!matches("no secret has this hash: it is not sixty-four hexadecimal digits", None));
    }
}
