//! Lists, in pages.

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;

const DEFAULT: u32 = 100;
const MAX: u32 = 1000;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give this as `cursor` to get what follows; null at the end.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A list that always fits into one page.
    pub(crate) fn whole<D>(items: Vec<D>) -> Self
    where
        T: From<D>,
    {
        Self { items: items.into_iter().map(T::from).collect(), next: None }
    }

    /// A page of at most `limit` items; there may be more if it is full. `cursor` names the place after an item.
    pub(crate) fn of<D>(items: Vec<D>, limit: u32, cursor: impl Fn(&D) -> String) -> Self
    where
        T: From<D>,
    {
        let full = u32::try_from(items.len()).is_ok_and(|len| len >= limit);
        let next = items.last().filter(|_| full).map(cursor);
        Self { items: items.into_iter().map(T::from).collect(), next }
    }
}

/// How many items a page should have.
pub(crate) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked.unwrap_or(DEFAULT) {
        fits @ 1..=MAX => Ok(fits),
        given => Err(Problem::out_of_range("limit", &given, format!("1 to {MAX}"))),
    }
}
