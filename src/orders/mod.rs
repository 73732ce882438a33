//! Orders, fills, positions, balances and events over HTTP, and the account's kill switch.

mod accounts;
pub(crate) mod api;
mod events;
mod wire;

pub use events::EventOut;
pub use wire::{BalanceOut, FillOut, OrderOut, PositionOut};

use trading::ids::AccountId;

use crate::http::Problem;
use crate::store::Store;

/// The account that is meant: the one given if it exists, or the only one.
pub(crate) async fn which_account(store: &dyn Store, given: Option<i64>) -> Result<AccountId, Problem> {
    let accounts = store.accounts().await?;
    match given.map(AccountId) {
        Some(id) if accounts.iter().any(|account| account.id == id) => Ok(id),
        Some(_) => Err(Problem::NotFound("account".into())),
        None => match accounts.as_slice() {
            [only] => Ok(only.id),
            _ => Err(Problem::invalid("account", "it is needed: there is not exactly one account")),
        },
    }
}
