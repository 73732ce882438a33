//! Who is asking: API keys to principals.
//!
//! Deliberately absent: users, passwords and sessions. A person or a program holds an API key; whoever holds it is it.

pub(crate) mod api;
mod replay;
mod secret;
mod service;
pub mod signature;

pub use replay::{AskRedis, Memory, RedisMemory};
pub(crate) use secret::matches;
pub use secret::{Secret, sha256_hex};
pub use service::{AuthError, Authenticator, NewKey, Principal};
