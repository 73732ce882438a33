//! All routes under one roof.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use tower::util::MapFutureLayer;
use utoipa_axum::router::OpenApiRouter;

use super::extract::BodyLimits;
use super::health::{self, HealthSnapshot, HealthState};
use super::layers::{self, RequestLimits};
use super::meters::Meters;
use super::problem::Problem;
use super::rate::{self, RateLimits};
use super::shutdown::{self, ShutdownControl, ShutdownState};
use super::{idempotency, openapi};
use crate::auth::{self, Authenticator};
use crate::clock::Clock;
use crate::config::{ServerConfig, TradingConfig};
use crate::engines::Engines;
use crate::signals::{Commands, IntakeGate};
use crate::store::Store;
use crate::{instance, notice, orders, robots, signals};

/// What the API is made of.
pub struct Deps {
    /// What is committed.
    pub store: Arc<dyn Store>,
    /// How the engines stand.
    pub engines: Arc<dyn Engines>,
    /// Who decides.
    pub commands: Commands,
    /// Who may ask.
    pub auth: Arc<Authenticator>,
    /// How the server stands. Called for each health request: it must only read.
    pub health: Arc<dyn Fn() -> HealthSnapshot + Send + Sync>,
    /// Who else is here.
    pub instances: instance::api::Seen,
    /// Whether new signals are taken.
    pub intake: IntakeGate,
    /// The shutdown.
    pub shutdown: Arc<dyn ShutdownControl>,
    /// Now.
    pub clock: Clock,
    /// How many requests are let in.
    pub rates: Arc<RateLimits>,
    /// Time and size limits.
    pub server: ServerConfig,
    /// How long a signal lives.
    pub trading: TradingConfig,
    /// Which build runs.
    pub build_id: Arc<str>,
    /// Routes of others that authenticate by themselves: the websocket.
    pub extra: Router,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").field("build_id", &self.build_id).finish_non_exhaustive()
    }
}

/// The whole API.
pub fn router(deps: Deps) -> Router {
    let limits = limits(&deps.server);
    let meters = Meters::new();
    let health = HealthState {
        snapshot: deps.health.clone(),
        clock: deps.clock,
        started_at: deps.clock.now(),
        build_id: deps.build_id.clone(),
    };
    let door = auth::api::Door { authenticator: deps.auth.clone(), rates: deps.rates.clone(), clock: deps.clock };
    let rates = deps.rates.clone();
    let extra = deps.extra.clone();
    let (health, health_document) = health::routes::<()>(health).split_for_parts();
    let health = health.method_not_allowed_fallback(health::method_not_allowed);
    let (open, protected) = features(deps);
    let open = open.route_layer(from_fn_with_state(rates, rate::count_refused));
    let protected = protected.route_layer(from_fn_with_state(door, auth::api::authenticated));
    let (layered, mut document) =
        OpenApiRouter::with_openapi(openapi::description()).merge(open).merge(protected).split_for_parts();
    document.merge(health_document);
    layered
        .merge(openapi::page())
        .merge(extra)
        .fallback(async || Problem::NotFound("path".into()))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(Extension(openapi::finish(document)))
        .layer(DefaultBodyLimit::max(limits.body.bytes))
        .layer(from_fn_with_state(limits, layers::outermost))
        .merge(health)
        .layer(MapFutureLayer::new(move |answer| meters.clone().measure(answer)))
}

fn limits(server: &ServerConfig) -> RequestLimits {
    RequestLimits {
        timeout: Duration::from_millis(server.request_timeout_ms),
        body: BodyLimits { timeout: Duration::from_millis(server.body_timeout_ms), bytes: server.body_limit_bytes },
    }
}

/// The features' routes: those that are open to all, and those that need a token.
fn features(deps: Deps) -> (OpenApiRouter, OpenApiRouter) {
    let Deps { store, engines, commands, auth, instances, intake, shutdown, clock, rates, trading, .. } = deps;
    let signals = signals::api::SignalsState {
        commands: commands.clone(),
        store: store.clone(),
        intake,
        clock,
        rates,
        ttl: Duration::from_millis(trading.signal_ttl_ms),
    };
    let robots = robots::api::RobotsState { commands: commands.clone(), store: store.clone() };
    let orders = orders::api::OrdersState {
        commands,
        store: store.clone(),
        engines: engines.clone(),
        instances: instances.clone(),
    };
    let keys = auth::api::KeysState { authenticator: auth, store: store.clone(), clock };
    let notices = notice::NoticesState { store: store.clone(), clock };
    let shutdown = ShutdownState { control: shutdown, engines, store, clock };

    let with_keys = signals::api::routes(signals.clone())
        .merge(robots::api::routes(robots))
        .merge(orders::api::routes(orders))
        .route_layer(from_fn(idempotency::layer));
    let protected = with_keys
        .merge(auth::api::routes(keys))
        .merge(instance::api::routes(instances))
        .merge(notice::routes(notices))
        .merge(shutdown::routes(shutdown))
        .merge(openapi::routes());
    (signals::webhook::routes(signals), protected)
}
