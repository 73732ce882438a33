//! Signed requests: whoever only sees them, or the database, or both at different times, cannot make one.
//!
//! # What a client does
//!
//! With the key's id and its token, both from `POST /api/keys` with `"signed": true`, for each request (and anew for each
//! attempt: a nonce is taken once):
//!
//! 1. `message`: these lines, joined by `\n`, none after the last: `HOTGO1`; the method; the path; the query without `?`, as
//!    it is sent; the header `Idempotency-Key`, or nothing; the time in milliseconds since the Unix epoch; a nonce of 16 to 64
//!    letters, digits, `-` or `_`; SHA-256 of the body in lower-case hex.
//! 2. `client_key = SHA-256(token)`; `stored_key = SHA-256(client_key)`, both of 32 bytes.
//! 3. `signature = client_key XOR HMAC-SHA-256(stored_key, message)`.
//! 4. Headers `X-Hotgo-Key` (the id), `X-Hotgo-Timestamp`, `X-Hotgo-Nonce`, `X-Hotgo-Signature` (lower-case hex).
//!
//! For the token `hg_` with 64 times `a`, `POST /api/signals?x=1` with `Idempotency-Key: s-1` and the body `{"a":1}`, at
//! 1790000000000 with the nonce `0123456789abcdef`, the message is
//!
//! ```text
//! HOTGO1
//! POST
//! /api/signals
//! x=1
//! s-1
//! 1790000000000
//! 0123456789abcdef
//! 015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862
//! ```
//!
//! and the signature `b1d9759bbba5d4f03284f183e1c4da902e8b57092cfdc2b892ac545005655e08`.
//!
//! # Why so
//!
//! A plain HMAC needs its secret at both ends, so that a copy of the database could sign. This is the proof of SCRAM (RFC
//! 5802, section 3): the server keeps `stored_key`, from which nobody gets back to `client_key`; from a valid signature it
//! recovers `client_key` and checks that it hashes to `stored_key`. Whoever has the database cannot sign; whoever sees
//! requests cannot either; only both together could. It needs no master key, so every instance checks with the database
//! alone. The idempotency key is signed too, since it decides whether a repeated wish is carried out again.

use ring::hmac;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use trading::time::Timestamp;

use super::secret::hex;

/// How far a request's time may be from ours, in either direction: 5 s.
pub(super) const WINDOW_US: i64 = 5_000_000;

const MAX_KEY_BYTES: usize = 64;

/// What a signed request says about itself. Nothing of it is true before it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Which key.
    pub key_id: String,
    /// When it was signed.
    pub at: Timestamp,
    /// Its nonce.
    pub nonce: String,
    signature: [u8; 32],
}

impl Signed {
    /// From the headers' values; `None` if one of them makes no sense.
    pub(super) fn parse(key_id: &str, at: &str, nonce: &str, signature: &str) -> Option<Self> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let fits = (1..=MAX_KEY_BYTES).contains(&key_id.len()) && plain(key_id);
        if !fits || !(16..=64).contains(&nonce.len()) || !plain(nonce) || !at.bytes().all(|byte| byte.is_ascii_digit())
        {
            return None;
        }
        let at = Timestamp::from_micros(at.parse::<i64>().ok()?.checked_mul(1000)?);
        Some(Self { key_id: key_id.to_owned(), at, nonce: nonce.to_owned(), signature: unhex(signature)? })
    }

    /// Whether it was signed just now, by this clock.
    pub(super) fn is_timely(&self, now: Timestamp) -> bool {
        self.at.micros().abs_diff(now.micros()) <= WINDOW_US.unsigned_abs()
    }

    /// Whether it was signed by the key with this stored hash. Takes the same time whether there is one or not.
    pub(super) fn is_by(&self, stored_hash: Option<&str>, message: &[u8]) -> bool {
        let stored_key = stored_hash.and_then(unhex);
        let known = stored_key.is_some();
        let stored_key = stored_key.unwrap_or_default();
        let client_key = xor(self.signature, &mac(&stored_key, message));
        bool::from(sha256(&client_key).ct_eq(&stored_key)) && known
    }
}

/// A request, as it is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signable<'a> {
    /// In capitals.
    pub method: &'a str,
    /// From `/` up to the query.
    pub path: &'a str,
    /// Without `?`.
    pub query: &'a str,
    /// The header; empty if there is none.
    pub idempotency_key: &'a [u8],
    /// All of it.
    pub body: &'a [u8],
}

impl Signable<'_> {
    /// What is signed. No part can hold a line break, so that different requests have different messages.
    pub fn message(&self, at: Timestamp, nonce: &str) -> Vec<u8> {
        let millis = (at.micros() / 1000).to_string();
        let body = hex(&sha256(self.body));
        let parts: [&[u8]; 8] = [
            b"HOTGO1",
            self.method.as_bytes(),
            self.path.as_bytes(),
            self.query.as_bytes(),
            self.idempotency_key,
            millis.as_bytes(),
            nonce.as_bytes(),
            body.as_bytes(),
        ];
        parts.join(&b'\n')
    }
}

/// The client's part: the signature of a message, in hex.
pub fn sign(token: &str, message: &[u8]) -> String {
    let client_key = sha256(token.as_bytes());
    hex(&xor(client_key, &mac(&sha256(&client_key), message)))
}

/// What is stored of a key that signs: SHA-256 of SHA-256 of its token, in hex.
pub(super) fn stored_hash(token: &str) -> String {
    hex(&sha256(&sha256(token.as_bytes())))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn mac(key: &[u8; 32], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

fn xor(mut one: [u8; 32], other: &hmac::Tag) -> [u8; 32] {
    one.iter_mut().zip(other.as_ref()).for_each(|(one, other)| *one ^= other);
    one
}

/// 32 bytes from 64 lower-case hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_790_000_000_000);
    const NONCE: &str = "0123456789abcdef";

    fn token() -> String {
        format!("hg_{}", "a".repeat(64))
    }

    fn example() -> Signable<'static> {
        Signable { method: "POST", path: "/api/signals", query: "x=1", idempotency_key: b"s-1", body: br#"{"a":1}"# }
    }

    fn signed(signature: &str) -> Signed {
        Signed::parse("6b1f0a2c3d4e5f60", "1790000000000", NONCE, signature).unwrap()
    }

    #[test]
    fn the_example_of_the_documentation_is_right() {
        let documentation: Vec<&str> =
            include_str!("signature.rs").lines().filter_map(|line| line.strip_prefix("//! ")).collect();
        let message = String::from_utf8(example().message(AT, NONCE)).unwrap();
        let written: Vec<&str> = documentation
            .iter()
            .copied()
            .skip_while(|line| *line != "HOTGO1")
            .take_while(|line| *line != "```")
            .collect();
        assert_eq!(written.join("\n"), message);
        let signature = sign(&token(), message.as_bytes());
        assert!(documentation.contains(&format!("and the signature `{signature}`.").as_str()), "{signature}");
        let guide = include_str!("../../docs/security.md");
        assert!(guide.contains(&format!("# {signature}")), "{signature}");
    }

    #[test]
    fn a_signature_is_of_one_key_and_one_message() {
        let message = example().message(AT, NONCE);
        let (hash, other) = (stored_hash(&token()), stored_hash("hg_other"));
        let good = signed(&sign(&token(), &message));
        assert!(good.is_by(Some(&hash), &message));
        for (hash, message) in [
            (Some(other.as_str()), message.as_slice()),
            (Some(hash.as_str()), b"another message"),
            (Some("revoked:6b1f0a2c3d4e5f60"), message.as_slice()),
            (None, message.as_slice()),
        ] {
            assert!(!good.is_by(hash, message), "{hash:?}");
        }
    }

    #[test]
    fn each_part_changes_the_message() {
        let one = example();
        let different = [
            Signable { method: "GET", ..one }.message(AT, NONCE),
            Signable { path: "/api/signal", ..one }.message(AT, NONCE),
            Signable { query: "", ..one }.message(AT, NONCE),
            Signable { idempotency_key: b"", ..one }.message(AT, NONCE),
            Signable { body: b"{}", ..one }.message(AT, NONCE),
            one.message(Timestamp::from_millis(1_790_000_000_001), NONCE),
            one.message(AT, "0123456789abcdeg"),
            one.message(AT, NONCE),
        ];
        let distinct: std::collections::BTreeSet<_> = different.iter().collect();
        assert_eq!(distinct.len(), different.len());
    }

    /// From what the database holds no signature can be made: neither the stored hash nor anything that signs with it.
    #[test]
    fn the_database_holds_nothing_that_signs() {
        let message = example().message(AT, NONCE);
        let hash = stored_hash(&token());
        let stored_key = unhex(&hash).unwrap();
        let forged = [
            sign(&hash, &message),
            hash.clone(),
            hex(mac(&stored_key, &message).as_ref()),
            hex(&xor(stored_key, &mac(&stored_key, &message))),
        ];
        for signature in forged {
            assert!(!signed(&signature).is_by(Some(&hash), &message), "{signature}");
        }
    }

    #[test]
    fn five_seconds_are_in_time_and_more_are_not() {
        let signature = "0".repeat(64);
        for (off_us, timely) in [
            (0, true),
            (5_000_000, true),
            (-5_000_000, true),
            (5_000_001, false),
            (-5_000_001, false),
            (i64::MIN, false),
        ] {
            let now = Timestamp::from_micros(AT.micros().saturating_add(off_us));
            assert_eq!(signed(&signature).is_timely(now), timely, "{off_us}");
        }
    }

    #[test]
    fn headers_that_make_no_sense_are_refused() {
        let (key, at, signature) = ("6b1f0a2c3d4e5f60", "1790000000000", "0".repeat(64));
        assert!(Signed::parse(key, at, NONCE, &signature).is_some());
        let (long, upper) = ("x".repeat(65), "A".repeat(64));
        for (key, at, nonce, signature) in [
            ("", at, NONCE, signature.as_str()),
            (long.as_str(), at, NONCE, &signature),
            ("a b", at, NONCE, &signature),
            (key, "", NONCE, &signature),
            (key, "-1", NONCE, &signature),
            (key, "+1", NONCE, &signature),
            (key, "9223372036854775807", NONCE, &signature),
            (key, "99999999999999999999999", NONCE, &signature),
            (key, at, "short", &signature),
            (key, at, &long, &signature),
            (key, at, "0123456789abcde\n", &signature),
            (key, at, NONCE, ""),
            (key, at, NONCE, "0"),
            (key, at, NONCE, &upper),
            (key, at, NONCE, &signature[1..]),
        ] {
            assert_eq!(Signed::parse(key, at, nonce, signature), None, "{key} {at} {nonce} {signature}");
        }
    }
}
