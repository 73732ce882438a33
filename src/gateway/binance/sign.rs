//! An account's key: its public half, and what signs requests with the secret half.

use std::fmt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::header::HeaderValue;
use ring::hmac;
use ring::signature::Ed25519KeyPair;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

/// A secret file holds one key; anything larger is another file.
const MAX_FILE: u64 = 16 * 1024;

/// Why an account's key cannot be used. Never tells any of its content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// Others may read the file.
    #[error("others can read it (mode {0:04o}): chmod 600")]
    Exposed(u32),
    /// The file holds neither an HMAC secret nor an Ed25519 key.
    #[error("holds no secret: {0}")]
    Content(&'static str),
    /// The API key is no header value.
    #[error("the API key holds characters that cannot be sent")]
    ApiKey,
}

/// An account's key. Its secret half shows in no log and no debug output.
pub struct Credentials {
    api_key: String,
    header: HeaderValue,
    signer: Signer,
}

enum Signer {
    Hmac(hmac::Key),
    Ed25519(Box<Ed25519KeyPair>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.kind())
    }
}

impl Credentials {
    /// Reads the secret half from a file that nobody else can read.
    pub fn load(api_key: &str, path: &Path) -> Result<Self, SecretError> {
        let mut file = std::fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Exposed(mode));
        }
        let mut text = String::new();
        Read::by_ref(&mut file).take(MAX_FILE + 1).read_to_string(&mut text)?;
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE) {
            return Err(SecretError::Content("it is too large"));
        }
        Self::new(api_key, &text)
    }

    /// From the secret half's text, which tells its kind: a PEM block is an Ed25519 key, anything else an HMAC secret.
    pub fn new(api_key: &str, secret: &str) -> Result<Self, SecretError> {
        let mut header = HeaderValue::from_str(api_key).map_err(|_| SecretError::ApiKey)?;
        header.set_sensitive(true);
        let secret = secret.trim();
        let signer = if secret.contains("-----BEGIN") {
            let der = PrivatePkcs8KeyDer::from_pem_slice(secret.as_bytes())
                .map_err(|_| SecretError::Content("the PEM block is no PRIVATE KEY (unencrypted PKCS#8)"))?;
            // OpenSSL leaves out the public half, which PKCS#8 allows.
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
                .map_err(|_| SecretError::Content("the private key is not an Ed25519 one"))?;
            Signer::Ed25519(Box::new(pair))
        } else if !secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic()) {
            Signer::Hmac(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
        } else {
            return Err(SecretError::Content("it is empty, or more than one word"));
        };
        Ok(Self { api_key: api_key.to_owned(), header, signer })
    }

    /// `HMAC-SHA256` or `Ed25519`.
    pub fn kind(&self) -> &'static str {
        match self.signer {
            Signer::Hmac(_) => "HMAC-SHA256",
            Signer::Ed25519(_) => "Ed25519",
        }
    }

    /// The public half.
    pub(super) fn api_key(&self) -> &str {
        &self.api_key
    }

    /// The public half, as the header `X-MBX-APIKEY` carries it.
    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// The signature as the API wants it: hex of an HMAC, base64 of an Ed25519 signature. Not yet percent-encoded.
    pub(super) fn sign(&self, payload: &str) -> String {
        match &self.signer {
            Signer::Hmac(key) => {
                let tag = hmac::sign(key, payload.as_bytes());
                tag.as_ref().iter().fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}"))
            }
            Signer::Ed25519(pair) => BASE64.encode(pair.sign(payload.as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ring::signature::{ED25519, KeyPair, UnparsedPublicKey};

    use super::*;

    /// The example of the API's documentation ("SIGNED Endpoint Examples for POST /api/v3/order", HMAC keys).
    #[test]
    fn an_hmac_signature_is_the_documented_one() {
        let secret = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j";
        let credentials = Credentials::new("vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A", secret);
        let payload = "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000\
                       &timestamp=1499827319559";
        assert_eq!(
            credentials.unwrap().sign(payload),
            "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
        );
    }

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64.encode(der))
    }

    #[test]
    fn an_ed25519_key_signs_whether_or_not_its_file_holds_the_public_half() {
        let with_public = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        // PKCS#8 version 1, as OpenSSL writes it: RFC 8410, section 10.3.
        let mut without_public = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
        without_public.extend([7; 32]);
        for der in [with_public.as_ref(), &without_public] {
            let public = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).unwrap();
            let credentials = Credentials::new("key", &pem(der)).unwrap();
            assert_eq!(credentials.kind(), "Ed25519");
            let signature = BASE64.decode(credentials.sign("a=1&b=2")).unwrap();
            let public = UnparsedPublicKey::new(&ED25519, public.public_key().as_ref());
            public.verify(b"a=1&b=2", &signature).unwrap();
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_shown() {
        let rsa = "-----BEGIN RSA PRIVATE KEY-----\nc2VjcmV0\n-----END RSA PRIVATE KEY-----";
        for bad in ["", " \n", "two words", rsa, &pem(b"secret")] {
            let error = Credentials::new("key", bad).unwrap_err();
            assert!(!format!("{error:?} {error}").contains("c2Vj"), "{error}");
        }
        let credentials = Credentials::new("the-api-key", "the-secret").unwrap();
        let shown = format!("{credentials:?} {:?}", credentials.header());
        assert!(!shown.contains("the-secret") && !shown.contains("the-api-key"), "{shown}");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"secret\n").unwrap();
        let allow = |mode| std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        allow(0o600);
        assert_eq!(Credentials::load("key", file.path()).unwrap().kind(), "HMAC-SHA256");
        for mode in [0o604, 0o640, 0o666] {
            allow(mode);
            assert!(matches!(Credentials::load("key", file.path()), Err(SecretError::Exposed(seen)) if seen == mode));
        }
    }
}
