//! Whether a customer had written an order down before it was sent.

use std::fmt::Debug;

use async_trait::async_trait;
use trading::ids::ClientOrderId;

use crate::exchange::Refusal;

/// The code of a refusal for want of a committed row. No real venue has it.
pub const UNWITNESSED: i32 = -9000;

/// The customer's database cannot be read now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the witness cannot look: {0}")]
pub struct Blind(pub String);

/// Looks into the customer's database, from outside.
#[async_trait]
pub trait Witness: Debug + Send + Sync {
    /// Whether a row with this client id is committed at this moment.
    ///
    /// Cancel safety: looking changes nothing.
    async fn is_committed(&self, client_id: &ClientOrderId) -> Result<bool, Blind>;
}

/// The refusal of an order that its sender had not written down.
pub(crate) fn unwitnessed(client_id: &ClientOrderId) -> Refusal {
    Refusal::new(UNWITNESSED, format!("order {client_id} was sent before its row was committed"))
}
