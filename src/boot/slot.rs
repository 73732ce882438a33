//! This process's part in an upgrade: when it accepts, and whether it could serve.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::future::join_all;
use shutdown_coordinator::serve::{Inherited, InheritedSocket, Server};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::parts::{Boot, broken, ms};
use super::venues::Venues;
use super::{BootError, limits};
use crate::admin::{SelfTest, SelfTestCheck, UpgradeControl};
use crate::config::{Accept, AccountConfig, PAPER};
use crate::gateway::Gateway;
use crate::gateway::paper::PaperVenue;
use crate::instance::Instances;
use crate::store::migrate::Schema;
use crate::store::{Database, Store};

/// What one check may take: less than a request at the private listener.
const CHECK_TIMEOUT: Duration = Duration::from_secs(4);

/// Whether connections are accepted.
#[derive(Debug, Clone)]
pub(super) struct Accepting {
    told: Arc<watch::Sender<bool>>,
    stop: CancellationToken,
}

impl Accepting {
    /// `stop` ends it.
    fn new(at_once: bool, stop: CancellationToken) -> Self {
        Self { told: Arc::new(watch::Sender::new(at_once)), stop }
    }

    /// From now on.
    pub(super) fn begin(&self) {
        self.told.send_replace(true);
    }

    /// Whether it does at this moment.
    pub(super) fn is_on(&self) -> bool {
        *self.told.borrow() && !self.stop.is_cancelled()
    }

    /// Waits until it begins. False if it was stopped before.
    pub(super) async fn begun(&self) -> bool {
        let mut told = self.told.subscribe();
        let begun = self.stop.run_until_cancelled(told.wait_for(|begun| *begun)).await;
        begun.is_some_and(|begun| begun.is_ok())
    }
}

/// What a self-test tries.
#[derive(Clone)]
pub(super) struct Trial {
    store: Arc<dyn Store>,
    database: Arc<Database>,
    /// Each account's port to its venue.
    venues: Vec<(Arc<dyn Gateway>, AccountConfig)>,
    /// It may live in another process at this moment.
    paper: Option<PaperVenue>,
    router: Router,
}

impl Trial {
    pub(super) fn new(
        boot: &Boot<'_>,
        store: &Arc<dyn Store>,
        gateways: Vec<(Arc<dyn Gateway>, AccountConfig)>,
        venues: &Venues,
        router: &Router,
    ) -> Result<Self, BootError> {
        let database = Arc::new(boot.config.database()?);
        let (store, paper, router) = (Arc::clone(store), venues.paper.clone(), router.clone());
        Ok(Self { store, database, venues: gateways, paper, router })
    }

    pub(super) async fn run(self) -> SelfTest {
        let Self { store, database, venues, paper, router } = self;
        let elsewhere = paper.filter(|paper| paper.host().is_none());
        let store = check("store".to_owned(), async move {
            store.ping().await.map(|()| "takes writes".to_owned()).map_err(|error| error.to_string())
        });
        let schema = check("schema".to_owned(), schema(database));
        let router = check("router".to_owned(), request(router));
        let venues = venues.into_iter().map(|(venue, account)| {
            let elsewhere = elsewhere.clone();
            check(format!("venue:{}", account.label), async move {
                if let Some(paper) = elsewhere.filter(|_| account.venue == PAPER) {
                    return read_elsewhere(paper).await;
                }
                let symbols = venue.symbols().await.map_err(|error| error.to_string())?;
                Ok(format!("answers, with {} symbols", symbols.len()))
            })
        });
        let (store, schema, router, venues) = tokio::join!(store, schema, router, join_all(venues));
        [store, schema, router].into_iter().chain(venues).collect()
    }
}

async fn check(name: String, work: impl Future<Output = Result<String, String>>) -> SelfTestCheck {
    let result = timeout(CHECK_TIMEOUT, work).await;
    let result = result.unwrap_or_else(|_| Err(format!("no answer within {CHECK_TIMEOUT:?}")));
    let ok = result.is_ok();
    let (Ok(detail) | Err(detail)) = result;
    SelfTestCheck { name, ok, detail }
}

async fn schema(database: Arc<Database>) -> Result<String, String> {
    let steps = match &*database {
        Database::Sqlite(path) => Schema::sqlite().accepts(path).await,
        Database::Postgres(server) => Schema::postgres().accepts_server(server).await,
    };
    steps.map(|()| "is one that this build works on".to_owned()).map_err(|error| error.to_string())
}

/// Whether the ledger that another process has could be taken over from it.
async fn read_elsewhere(paper: PaperVenue) -> Result<String, String> {
    let read = tokio::task::spawn_blocking(move || paper.read_ahead()).await.map_err(|error| error.to_string())?;
    read.map(|()| "lives in another process; its ledger can be read".to_owned()).map_err(|error| error.to_string())
}

/// A request as a client would make it.
async fn request(router: Router) -> Result<String, String> {
    let request = Request::get("/api/health/live").body(Body::empty()).map_err(|error| error.to_string())?;
    let answer = router.oneshot(request).await.map_err(|error| error.to_string())?;
    match answer.status() {
        StatusCode::OK => Ok("answers".to_owned()),
        other => Err(format!("answers {other}")),
    }
}

/// The listener that was handed over, which others accept from too, or one of this process's own.
/// With its address, and whether it was handed over.
pub(super) async fn listener(
    address: SocketAddr,
    inherited: Vec<Inherited>,
) -> Result<((TcpListener, bool), SocketAddr), BootError> {
    let failed = |source| BootError::Bind { address, source };
    let mut inherited = inherited.into_iter();
    let (listener, shared) = match (inherited.next().map(|one| one.socket), inherited.next()) {
        (None, _) => (TcpListener::bind(address).await.map_err(failed)?, false),
        (Some(InheritedSocket::Tcp(listener)), None) => (TcpListener::from_std(listener).map_err(failed)?, true),
        _ => return Err(broken("LISTEN_FDS", &"one TCP listener is expected")),
    };
    let address = listener.local_addr().map_err(failed)?;
    Ok(((listener, shared), address))
}

/// What the private socket may ask of this process.
pub(super) fn upgrade_control(accepting: &Accepting, instances: &Instances, trial: Trial) -> UpgradeControl {
    let (accepting, to, back) = (accepting.clone(), instances.clone(), instances.clone());
    UpgradeControl {
        accept: Arc::new(move || accepting.begin()),
        hand_over: Arc::new(move |heir| {
            let to = to.clone();
            Box::pin(async move { to.hand_over(&heir).await.map_err(|error| error.to_string()) })
        }),
        take_back: Arc::new(move || back.take_back().map_err(|error| error.to_string())),
        self_test: Arc::new(move || Box::pin(trial.clone().run())),
    }
}

impl Boot<'_> {
    pub(super) fn accepting(&self) -> Accepting {
        let at_once = self.config.server.accept == Accept::AtOnce;
        Accepting::new(at_once, self.handle.token(self.phases.stop_accepting))
    }

    pub(super) fn serve(
        &self,
        router: axum::Router,
        (listener, shared): (TcpListener, bool),
        accepting: Accepting,
    ) -> Result<(), BootError> {
        let config = &self.config.server;
        // Whoever is connected goes on being answered during the drain (health, orders, and 503 to new signals), each
        // answer the last on its connection.
        let server = Server::new(self.handle, self.phases.stop_accepting, router)
            .keep_connections_until(self.phases.close_streams)
            .connection_limit(limits::connections(config.max_connections))
            .header_read_timeout(ms(config.header_timeout_ms))
            .write_timeout(ms(config.write_timeout_ms))
            .idle_timeout(ms(config.idle_timeout_ms))
            .shared_listener(shared)
            .linger(ms(self.config.shutdown.linger_ms));
        if accepting.is_on() {
            return server.serve_tcp(listener).map(drop).map_err(|_| BootError::Stopped);
        }
        self.run(self.phases.stop_accepting, "word to accept", async move {
            // A shutdown that comes first leaves the listener to whoever shares it.
            if accepting.begun().await && server.serve_tcp(listener).is_ok() {
                tracing::info!("accepting");
            }
        })?;
        Ok(())
    }
}
