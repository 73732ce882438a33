//! Guides. There is no code here.

/// Moving a service to this crate, with the same service before and after.
// Its programs need axum, so they are tested with the feature only.
#[cfg_attr(any(not(doctest), feature = "axum"), doc = "")]
#[cfg_attr(any(not(doctest), feature = "axum"), doc = include_str!("../docs/migration.md"))]
pub mod migration {}

/// What is new in each version.
#[doc = ""]
#[doc = include_str!("../CHANGELOG.md")]
pub mod changelog {}
