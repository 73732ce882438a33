//! The HTTP API: what is common to all routes. The routes themselves live beside their features, in `api.rs`.
//!
//! Deliberately absent: sessions and cookies (a token in a header cannot be forged by another site), CORS (no other origin
//! may read answers), versions in paths.

mod extract;
mod health;
pub(crate) mod idempotency;
mod json;
mod layers;
mod meters;
mod openapi;
pub(crate) mod page;
mod problem;
pub(crate) mod rate;
mod router;
mod share;
mod shutdown;

pub(crate) use extract::{Json, OptionalJson, Params, Query, UndeclaredJson, peek_body};
pub use health::{Check, HealthSnapshot, HealthStatus};
pub(crate) use json::{Object, Text, parse as parse_json};
pub use problem::{Invalid, Problem};
pub use rate::{RateLimits, STOPPING};
pub use router::{Deps, router};
pub use share::{RedisTally, StoreTally, Tally, share};
pub use shutdown::{
    Blocker, PhaseState, PlannedPhase, Rehearsal, ShutdownControl, ShutdownPlan, ShutdownStage, ShutdownStatus,
    ShutdownTrigger,
};

use std::time::Duration;

/// Whether a client's words for people fit: 1 to `max` characters, none of them a control character.
pub(crate) fn text(field: &str, given: &str, max: usize) -> Result<(), Problem> {
    let count = given.chars().count();
    if (1..=max).contains(&count) && !given.chars().any(char::is_control) {
        return Ok(());
    }
    let accepted = format!("1 to {max} characters without control characters");
    Err(Problem::out_of_range(field, &given.escape_debug(), accepted))
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
