//! API keys: made, and recognised.

use std::sync::Arc;

use trading::time::Timestamp;

use super::replay::{Memory, Replay};
use super::secret::{Secret, sha256_hex};
use super::signature::{Signable, Signed};
use crate::store::{ApiKey, Role, Store, StoreError};

/// Longer texts are no tokens of ours and are not even hashed.
const MAX_TOKEN_BYTES: usize = 128;
const TOKEN_PREFIX: &str = "hg_";

/// Whoever sends a request: the holder of an API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The API key's id: not a secret, good for logs and audit.
    pub key_id: Arc<str>,
    /// What people call the key.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
}

impl Principal {
    /// The source of the commands that this principal sends: `key:<id>`.
    pub fn source(&self) -> String {
        format!("key:{}", self.key_id)
    }
}

/// Why a token was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthError {
    /// No API key is this token.
    #[error("the token is not valid")]
    Invalid,
    /// The keys could not be read; the token may be valid.
    #[error("the token could not be checked")]
    Unavailable(#[source] StoreError),
}

/// A key that was just made. The token exists here and nowhere else.
#[derive(Debug)]
pub struct NewKey {
    /// What is stored.
    pub key: ApiKey,
    /// What its owner sends. Shown once.
    pub token: Secret,
}

/// Recognises tokens and signatures. Keeps nothing: a key that is revoked is refused at the next request.
#[derive(Debug, Clone)]
pub struct Authenticator {
    store: Arc<dyn Store>,
    replay: Replay,
}

impl Authenticator {
    /// Over the keys in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { replay: Replay::new(Arc::clone(&store), None), store }
    }

    /// With a quick memory for nonces: Redis. The store decides with it and without it.
    #[must_use]
    pub fn with_memory(self, memory: Arc<dyn Memory>) -> Self {
        Self { replay: Replay::new(Arc::clone(&self.store), Some(memory)), ..self }
    }

    /// Whose token this is.
    ///
    /// The look-up goes by the token's SHA-256, so its timing tells at most something about hashes of random numbers,
    /// which does not help to find one. Cancel safe: it only reads.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] for a token that no key has, [`AuthError::Unavailable`] if the store did not answer.
    pub async fn authenticate(&self, token: &str) -> Result<Principal, AuthError> {
        if !token.starts_with(TOKEN_PREFIX) || token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid);
        }
        let hash = sha256_hex(token);
        let key = self.store.api_key(&hash).await.map_err(AuthError::Unavailable)?.ok_or(AuthError::Invalid)?;
        Ok(Principal { key_id: key.id.into(), name: key.name.into(), role: key.role })
    }

    /// Who signed this request. It may be a replay: see [`Authenticator::is_first_use`]. Cancel safe: it only reads.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] unless it was signed just now, by a key that signs; [`AuthError::Unavailable`] if the store did
    /// not answer.
    pub async fn verify(&self, signed: &Signed, request: Signable<'_>, now: Timestamp) -> Result<Principal, AuthError> {
        let refused = |why: &str| {
            tracing::debug!(key = %signed.key_id, why, "a signed request was refused");
            AuthError::Invalid
        };
        if !signed.is_timely(now) {
            return Err(refused("its time is not now"));
        }
        let key = self.store.api_key_by_id(&signed.key_id).await.map_err(AuthError::Unavailable)?;
        let key = key.filter(|key| key.signed && key.revoked_at.is_none());
        let message = request.message(signed.at, &signed.nonce);
        if !signed.is_by(key.as_ref().map(|key| key.hash.as_str()), &message) {
            return Err(refused("the signature does not match"));
        }
        let key = key.ok_or(AuthError::Invalid)?;
        Ok(Principal { key_id: key.id.into(), name: key.name.into(), role: key.role })
    }

    /// Whether a verified request is seen for the first time, by any instance, ever. Cancelled, it may have used up the nonce.
    ///
    /// # Errors
    /// What the store says. The nonce may be used up: the client signs its next attempt anew.
    pub async fn is_first_use(&self, signed: &Signed) -> Result<bool, StoreError> {
        self.replay.is_first(signed).await
    }

    /// Whether the key of somebody recognised earlier has not been revoked since. Cancel safe: it only reads.
    ///
    /// # Errors
    /// What the store says.
    pub async fn is_still_valid(&self, principal: &Principal) -> Result<bool, StoreError> {
        let keys = self.store.api_keys().await?;
        Ok(keys.iter().any(|key| *key.id == *principal.key_id && key.revoked_at.is_none()))
    }

    /// Makes a key that is sent as a bearer token, and stores its hash.
    ///
    /// # Errors
    /// What the store says. Cancelled or failed, it may leave a key behind whose token nobody knows.
    pub async fn create_key(&self, name: &str, role: Role, now: Timestamp) -> Result<NewKey, StoreError> {
        let token = Secret::random(TOKEN_PREFIX);
        let hash = token.hash();
        self.store_key(token, hash, false, name, role, now).await
    }

    /// Makes a key that signs its requests, and stores what its signatures are checked with. The token itself is never
    /// sent. As a bearer token it lets nobody in: the hash that is stored is another one.
    ///
    /// # Errors
    /// As [`Authenticator::create_key`].
    pub async fn create_signing_key(&self, name: &str, role: Role, now: Timestamp) -> Result<NewKey, StoreError> {
        let token = Secret::random(TOKEN_PREFIX);
        let hash = token.signing_hash();
        self.store_key(token, hash, true, name, role, now).await
    }

    async fn store_key(
        &self,
        token: Secret,
        hash: String,
        signed: bool,
        name: &str,
        role: Role,
        now: Timestamp,
    ) -> Result<NewKey, StoreError> {
        // The first digits of the hash name the key: unique without asking, and no way back to the token.
        let id = hash.chars().take(16).collect();
        let key = ApiKey { id, name: name.to_owned(), hash, signed, role, created_at: now, revoked_at: None };
        self.store.add_api_key(&key).await?;
        Ok(NewKey { key, token })
    }

    /// Makes the first admin key of a new installation and gives its token, to be printed once. `None` if there is a
    /// key already. Called once at start, by the one process that owns the store.
    ///
    /// # Errors
    /// What the store says.
    pub async fn first_admin_token(&self, now: Timestamp) -> Result<Option<String>, StoreError> {
        if self.store.has_api_keys().await? {
            return Ok(None);
        }
        let made = self.create_key("first admin", Role::Admin, now).await?;
        Ok(Some(made.token.into_text()))
    }
}
