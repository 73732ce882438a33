//! The route for instances: who is here, and who trades what.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::View;
use crate::http::page::Page;
use crate::store::{Instance, LeaseRow};

/// This instance, and what it knows of all of them.
#[derive(Debug, Clone)]
pub struct Seen {
    /// This one's id.
    pub id: Arc<str>,
    /// As last seen.
    pub view: watch::Receiver<View>,
}

pub(crate) fn routes<S: Clone + Send + Sync + 'static>(state: Seen) -> OpenApiRouter<S> {
    OpenApiRouter::new().routes(routes!(instances)).with_state(state)
}

/// A process that trades on this database.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Instance)]
struct InstanceOut {
    /// Unique per start of a process.
    #[schema(example = "desk-1-4711-1790000000000000")]
    id: String,
    /// What people call it.
    #[schema(example = "desk-1")]
    name: String,
    /// Where it serves.
    #[schema(example = "127.0.0.1:8000")]
    address: String,
    /// Which build it runs.
    build_id: String,
    /// Whether it is the one that answers.
    this: bool,
    /// Whether it gives up its accounts and takes none.
    draining: bool,
    /// When it started, in microseconds since the Unix epoch, by its own clock.
    started_at_us: i64,
    /// When it counts as dead unless it is heard of again.
    expires_in_ms: u64,
    /// The accounts that it is able to trade.
    able: Vec<i64>,
    /// The accounts that it trades.
    accounts: Vec<OwnedOut>,
}

/// An account that an instance trades.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OwnedAccount)]
struct OwnedOut {
    /// Its number.
    account: i64,
    /// Since which take-over.
    epoch: i64,
}

/// Instances
///
/// All that live, with the accounts that each trades, as this one last saw them.
#[utoipa::path(get, path = "/api/instances", tag = "instances", responses(
    (status = 200, description = "They", body = Page<InstanceOut>),
))]
async fn instances(State(Seen { id, view }): State<Seen>) -> Answer<Page<InstanceOut>> {
    let view = view.borrow();
    let items = view.living.iter().map(|instance| instance_out(instance, &id, view.leases.values()));
    Answer(Page { items: items.collect(), next: None })
}

fn instance_out<'a>(instance: &Instance, this: &Arc<str>, leases: impl Iterator<Item = &'a LeaseRow>) -> InstanceOut {
    let row = &instance.row;
    let owned = leases.filter(|lease| lease.owner == row.id && !lease.remaining.is_zero());
    InstanceOut {
        id: row.id.to_string(),
        name: row.name.clone(),
        address: row.address.clone(),
        build_id: row.build_id.clone(),
        this: row.id == *this,
        draining: row.draining,
        started_at_us: row.started_at.micros(),
        expires_in_ms: ms(instance.remaining),
        able: row.accounts.iter().map(|account| account.0).collect(),
        accounts: owned.map(|lease| OwnedOut { account: lease.account.0, epoch: lease.epoch.0 }).collect(),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
