//! Starts the parts, in the order in which each needs the one before, and registers how each ends.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use shutdown_coordinator::serve::Inherited;
use shutdown_coordinator::systemd::Systemd;
use shutdown_coordinator::{Gate, PhaseId, Reason, ShutdownHandle, Task};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trading::ids::AccountId;

use super::hooks::{self, Led, Outside};
use super::reload::{LastReload, Reloader};
use super::slot::{Trial, listener, upgrade_control};
use super::venues::{Venues, fault_control};
use super::views::Views;
use super::{BootError, DataDir, HttpOptions, Phases, demo};
use crate::admin::{self, AdminSocket, AdminState, Loopback, UpgradeControl};
use crate::auth::{Authenticator, Secret};
use crate::bus::{Bus, Message};
use crate::clock::Clock;
use crate::config::{AccountConfig, Config, PAPER};
use crate::engines::{EngineRegistry, Engines, Ports};
use crate::gateway::Gateway;
use crate::gateway::paper::{PaperError, PaperVenue};
use crate::http::{self, RateLimits};
use crate::instance::inbox::Inbox;
use crate::instance::{self, Instances};
use crate::market::{MarketHub, MarketRunner, symbol_info};
use crate::notice::Notices;
use crate::signals::{Commands, IntakeGate, Remote};
use crate::store::{Database, InstanceRow, Store};
use crate::stream::{self, Hub, StreamDeps};

/// The reason of a shutdown that a successor is there for.
const UPGRADE: &str = "upgrade";

pub(super) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What the process was given besides its configuration.
pub(super) struct Given<'a> {
    pub(super) options: &'a HttpOptions,
    pub(super) data_dir: &'a DataDir,
    pub(super) listeners: Vec<Inherited>,
}

/// What every part is tied to.
pub(super) struct Boot<'a> {
    pub(super) config: &'a Config,
    /// Another process serves on this data directory: what is its own stays so until it is handed over.
    pub(super) beside: bool,
    pub(super) handle: &'a ShutdownHandle,
    pub(super) phases: Phases,
    pub(super) clock: Clock,
    /// This process, among all that ever ran.
    pub(super) instance: Arc<str>,
    /// Where it serves.
    address: SocketAddr,
    build_id: &'a str,
    pub(super) database: Database,
}

/// Starts everything. When it returns, requests are served at the address it returns; accounts become ready on their own.
///
/// Cancel safety: what was started is registered with the coordinator, so a shutdown that begins meanwhile ends it.
pub(super) async fn start(
    config: &Config,
    Given { options, data_dir, listeners }: Given<'_>,
    handle: &ShutdownHandle,
    phases: Phases,
    systemd: &Systemd,
    metrics: PrometheusHandle,
) -> Result<(SocketAddr, Arc<EngineRegistry>), BootError> {
    let beside = data_dir.has_others();
    // Sockets before anything serious, so that a taken port costs nothing.
    let (public, address) = listener(config.server.bind, listeners).await?;
    let private = private(config, beside).await?;
    let clock = Clock::start();
    let instance = format!("{}-{}-{}", instance_name(config), std::process::id(), clock.now().micros()).into();
    let (build_id, database) = (options.build_id.as_str(), config.database()?);
    let boot = Boot { config, beside, handle, phases, clock, instance, address, build_id, database };

    let store = boot.store().await?;
    let redis = boot.redis()?;
    let bus = boot.bus(redis.as_ref())?;
    // The demo trades an account of its own instead of the configured ones: it must not touch them.
    let accounts = if options.demo { vec![AccountConfig::paper(demo::LABEL)] } else { config.trading.accounts.clone() };
    let venues = boot.venues(&accounts).await?;
    let (prices, go) = boot.market(venues.paper.clone(), options.replay)?;
    let hub = Arc::new(Hub::with_bus(config.stream.session_queue, Arc::clone(&bus)));
    let (draining, drain_notice) = watch::channel(None);
    let wanted = venues.gateways(accounts).await?;
    let (registry, instances, accounts) =
        boot.engines(&wanted, &store, &venues, &prices, &hub, (draining, &bus)).await?;
    boot.want_paper(&venues, &wanted, &accounts, &instances)?;

    let auth = boot.authenticator(redis.as_ref(), &store);
    let first_token = auth.first_admin_token(boot.clock.now()).await?;
    let sessions = handle.gate(phases.close_streams, "websockets");
    let last_reload = boot.reload(options, &registry, systemd)?;
    let intake = boot.intake(&instances);
    let accepting = boot.accepting();
    let views = Views {
        handle: handle.clone(),
        registry: Arc::clone(&registry),
        store_is_well: boot.watch_store(&store)?,
        clock: boot.clock,
        build_id: options.build_id.as_str().into(),
        sessions: sessions.clone(),
        redis: redis.clone(),
        last_reload,
        instances: instances.clone(),
        accepting: accepting.clone(),
        hub: Arc::clone(&hub),
    };
    let commands = boot.commands(&store, &registry, &bus, &hub)?;
    boot.signals_from_redis(redis.as_ref(), &commands, &intake)?;
    let websockets = boot.websockets(Arc::clone(&hub), &store, &auth, sessions, drain_notice);
    let rates = boot.rate_limits(redis.as_ref(), &store)?;
    let front = Front { commands, auth, rates, intake };
    let router = boot.api(&store, &registry, &instances, &views, front, websockets);
    let trial = Trial::new(&boot, &store, wanted, &venues, &router)?;
    let upgrade = upgrade_control(&accepting, &instances, trial);
    let notices = boot.notices(&store, hub)?;
    boot.admin(private, &views, (venues.paper, upgrade, notices), metrics)?;
    boot.serve(router, public, accepting)?;
    introduce(first_token, address);
    if options.demo {
        boot.demo(&store, Arc::clone(&registry), &accounts, go).await?;
    }
    if options.replay {
        boot.stop_after(prices.finished())?;
    }
    Ok((address, registry))
}

async fn private(config: &Config, beside: bool) -> Result<(AdminSocket, Option<Loopback>), BootError> {
    let socket = AdminSocket::bind(&config.admin_socket()).await?;
    let loopback = match config.admin.bind {
        Some(address) => Some(Loopback::bind(address, beside).await?),
        None => None,
    };
    Ok((socket, loopback))
}

/// What every request meets first.
struct Front {
    commands: Commands,
    auth: Authenticator,
    rates: Arc<RateLimits>,
    intake: IntakeGate,
}

fn introduce(first_token: Option<String>, address: SocketAddr) {
    if let Some(token) = first_token {
        announce(&format!("admin token (shown once): {token}"));
    }
    announce(&format!("listening on http://{address}"));
}

#[expect(clippy::print_stdout, reason = "the lines that people and scripts wait for")]
pub(super) fn announce(line: &str) {
    use std::io::Write;
    println!("{line}");
    // A closed standard output is no reason not to trade.
    let _unheard = std::io::stdout().flush();
}

/// What people call this process.
fn instance_name(config: &Config) -> String {
    let host = || nix::unistd::gethostname().ok()?.into_string().ok();
    config.instance.name.clone().or_else(host).unwrap_or_else(|| "main".to_owned())
}

impl Boot<'_> {
    /// Runs a future until its phase, which waits for it.
    pub(super) fn run<F>(
        &self,
        phase: PhaseId,
        name: impl Into<String>,
        future: F,
    ) -> Result<Task<F::Output>, BootError>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.handle.spawn(phase, name.into(), future).map_err(|_| BootError::Stopped)
    }

    /// Reloads the configuration at each SIGHUP, until a shutdown begins. Returns what came of the last time.
    fn reload(
        &self,
        options: &HttpOptions,
        registry: &Arc<EngineRegistry>,
        systemd: &Systemd,
    ) -> Result<watch::Receiver<Option<LastReload>>, BootError> {
        let (last, seen) = watch::channel(None);
        let Some(reload) = options.reload.clone() else { return Ok(seen) };
        let reloader = Reloader {
            reload,
            config: self.config.clone(),
            registry: Arc::clone(registry),
            systemd: systemd.clone(),
            clock: self.clock,
            last,
        };
        let (asked, stop) = (self.handle.reloads(), self.handle.begun());
        self.run(self.phases.announce, "reloads", async move {
            stop.run_until_cancelled(reloader.run(asked)).await;
        })?;
        Ok(seen)
    }

    /// Prices move until the streams close: a drain may have to sell at market.
    /// They begin at the word that comes with them, if that is to be waited for.
    fn market(&self, venue: Option<PaperVenue>, wait: bool) -> Result<(MarketHub, CancellationToken), BootError> {
        let go = CancellationToken::new();
        if !wait {
            go.cancel();
        }
        let begin = go.clone();
        let stop = self.handle.token(self.phases.close_streams);
        let (runner, hub) = MarketRunner::open(&self.config.market, &self.config.venue.binance, self.clock)?;
        self.run(self.phases.close_streams, "market feed", async move {
            if stop.run_until_cancelled(begin.cancelled()).await.is_none() {
                return;
            }
            if let Err(error) = runner.run(venue, stop).await {
                tracing::error!(%error, "market data ended");
            }
        })?;
        Ok((hub, go))
    }

    async fn engines(
        &self,
        wanted: &[(Arc<dyn Gateway>, AccountConfig)],
        store: &Arc<dyn Store>,
        venues: &Venues,
        prices: &MarketHub,
        hub: &Arc<Hub>,
        outside: (watch::Sender<Option<stream::Drain>>, &Arc<dyn Bus>),
    ) -> Result<(Arc<EngineRegistry>, Instances, Vec<(AccountId, String)>), BootError> {
        let (mut accounts, mut elsewhere) = (Vec::new(), BTreeSet::new());
        for (gateway, wanted) in wanted {
            let account = store.ensure_account(&wanted.venue, &wanted.label).await?;
            if let Some(paper) = venues.paper.as_ref().filter(|_| wanted.venue == PAPER)
                && let Some(ledger) = paper.ledger_id().map_err(PaperError::from)?
                && store.bind_ledger(account.id, &ledger).await? != ledger
            {
                elsewhere.insert(account.id);
            }
            let ports = Ports {
                store: Arc::clone(store),
                gateway: Arc::clone(gateway),
                market: prices.clone(),
                hub: Arc::clone(hub),
                clock: self.clock,
                namespace: self.config.trading.namespace.clone(),
                limits: self.config.trading.limits.clone(),
                owner: Arc::clone(&self.instance),
                lease_ttl: ms(self.config.trading.lease_ttl_ms),
                hand_over: ms(self.config.instance.hand_over_ms.min(self.config.shutdown.order_drain_ms)),
                predecessor_is_dead: self.is_alone(),
            };
            accounts.push((account, ports));
        }
        let able = accounts.iter().map(|(account, _)| account.id).filter(|id| !elsewhere.contains(id)).collect();
        let named: Vec<_> = accounts.iter().map(|(account, _)| (account.id, account.label.clone())).collect();
        let (registry, drivers) = EngineRegistry::new(accounts, self.config.trading.queue);
        for (account, label) in named.iter().filter(|(account, _)| elsewhere.contains(account)) {
            let reason = format!("account {label} trades in the paper ledger of another data directory");
            tracing::warn!("{reason}");
            registry.set_reason(*account, &reason);
        }
        let mut tasks = Vec::new();
        for driver in drivers {
            let label = driver.account().label.clone();
            let task = self.run(self.phases.persist_state, format!("engine:{label}"), driver.run())?;
            tasks.push((label, task));
        }
        let (draining, bus) = outside;
        let instances = self.instances(able, store, &registry, bus)?;
        let outside = Outside { draining, instances: instances.clone(), bus: Arc::clone(bus) };
        let led = Led { registry: Arc::clone(&registry), drivers: tasks, outside };
        hooks::register(self.handle, self.phases, led)?;
        Ok((registry, instances, named))
    }

    /// It says that it lives until all that it owned is given up.
    fn instances(
        &self,
        accounts: Vec<AccountId>,
        store: &Arc<dyn Store>,
        registry: &Arc<EngineRegistry>,
        bus: &Arc<dyn Bus>,
    ) -> Result<Instances, BootError> {
        let row = InstanceRow {
            id: Arc::clone(&self.instance),
            name: instance_name(self.config),
            address: self.address.to_string(),
            build_id: self.build_id.to_owned(),
            accounts,
            draining: false,
            standby: self.beside,
            successor: None,
            started_at: self.clock.now(),
        };
        let ttl = ms(self.config.trading.lease_ttl_ms);
        let settings = instance::Settings { row, ttl, shares: self.config.instance.share, alone: self.is_alone() };
        let told = Arc::clone(bus);
        let tell = move || told.publish(Message::Instances);
        let instances = Instances::new(settings, Arc::clone(store), Arc::clone(registry), tell);
        let stop = self.handle.token(self.phases.close_streams);
        let news = instances.clone().hear(bus.subscribe(), stop.clone());
        self.run(self.phases.close_streams, "news of instances", news)?;
        self.run(self.phases.close_streams, "instances", instances.clone().run(stop))?;
        Ok(instances)
    }

    fn admin(
        &self,
        (socket, loopback): (AdminSocket, Option<Loopback>),
        views: &Views,
        (paper, upgrade, notices): (Option<PaperVenue>, UpgradeControl, Notices),
        metrics: PrometheusHandle,
    ) -> Result<(), BootError> {
        let (status, shown) = (views.clone(), views.clone());
        let (plan, trigger, gauges) = (self.handle.clone(), self.handle.clone(), self.handle.clone());
        let last_shutdown = self.config.data_dir.join(super::LAST_SHUTDOWN);
        let state = AdminState {
            status: Arc::new(move || status.status()),
            plan: Arc::new(move || serde_json::to_value(plan.plan()).unwrap_or_default()),
            shutdown: Arc::new(move |reason| {
                let reason = if reason == UPGRADE { Reason::Upgrade } else { Reason::Manual(reason) };
                trigger.trigger(reason) == shutdown_coordinator::Trigger::Started
            }),
            metrics,
            publish_metrics: Arc::new(move || {
                gauges.publish_metrics();
                admin::metrics::publish(&shown.status(), &shown.health());
                admin::metrics::publish_event_lag(shown.hub.lag());
                admin::metrics::publish_last_shutdown(&last_shutdown);
            }),
            faults: paper.filter(|_| self.config.venue.paper.allow_faults).map(fault_control),
            upgrade: Some(upgrade),
            notices: Some(notices),
        };
        // It answers until everything else is closed: this is where one looks when a shutdown takes long.
        let stop = self.handle.token(self.phases.close_stores);
        let serving = admin::serve(socket, loopback, state, stop);
        self.run(self.phases.close_stores, "private listener", async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the private listener ended");
            }
        })?;
        Ok(())
    }

    /// The way of commands and events between the instances: theirs for accounts that are traded here, and ours for
    /// accounts that are not.
    fn commands(
        &self,
        store: &Arc<dyn Store>,
        registry: &Arc<EngineRegistry>,
        bus: &Arc<dyn Bus>,
        hub: &Arc<Hub>,
    ) -> Result<Commands, BootError> {
        let engines: Arc<dyn Engines> = Arc::<EngineRegistry>::clone(registry);
        let remote = Remote {
            bus: Arc::clone(bus),
            hub: Arc::clone(hub),
            clock: self.clock,
            room: u32::try_from(self.config.trading.queue).unwrap_or(u32::MAX),
            wait: ms(self.config.instance.remote_wait_ms.min(self.config.server.request_timeout_ms / 2)),
            // Whoever still waits is told that it is pending, so that the shutdown need not wait for others.
            stop: self.handle.token(self.phases.stop_accepting),
        };
        let commands = Commands::new(Arc::clone(store), Arc::clone(&engines)).with_remote(remote);
        let inbox = Inbox {
            store: Arc::clone(store),
            engines: Arc::clone(&engines),
            commands: commands.clone(),
            bus: Arc::clone(bus),
            clock: self.clock,
        };
        let stop = self.handle.token(self.phases.stop_new_signals);
        self.run(self.phases.stop_new_signals, "inbox", inbox.run(stop))?;
        let stop = self.handle.token(self.phases.close_streams);
        let others = stream::follow_others(Arc::clone(hub), Arc::clone(bus), Arc::clone(store), engines, stop);
        self.run(self.phases.close_streams, "events of other instances", others)?;
        Ok(commands)
    }

    /// Tells websockets of notices, whichever instance stored them.
    fn notices(&self, store: &Arc<dyn Store>, hub: Arc<Hub>) -> Result<Notices, BootError> {
        let notices = Notices::new(Arc::clone(store), hub, self.clock);
        let stop = self.handle.token(self.phases.close_streams);
        self.run(self.phases.close_streams, "notices", notices.clone().run(stop))?;
        Ok(notices)
    }

    fn websockets(
        &self,
        hub: Arc<Hub>,
        store: &Arc<dyn Store>,
        auth: &Authenticator,
        sessions: Gate,
        draining: watch::Receiver<Option<stream::Drain>>,
    ) -> axum::Router {
        // None is let in once the listener closes; those that are in stay until their streams close.
        let admission = self.handle.gate(self.phases.stop_accepting, "websocket upgrades");
        stream::routes(StreamDeps {
            settings: stream::Settings::new(
                &self.config.stream,
                ms(self.config.shutdown.close_streams_ms),
                self.config.server.allowed_origins.clone(),
            ),
            hub,
            store: Arc::clone(store),
            auth: auth.clone(),
            admit: Arc::new(move || {
                let _admitted = admission.enter().ok()?;
                let guard: stream::Guard = Box::new(sessions.enter().ok()?);
                Some(guard)
            }),
            draining,
            close: self.handle.token(self.phases.close_streams),
        })
    }

    fn api(
        &self,
        store: &Arc<dyn Store>,
        registry: &Arc<EngineRegistry>,
        instances: &Instances,
        views: &Views,
        front: Front,
        websockets: axum::Router,
    ) -> axum::Router {
        let Front { commands, auth, rates, intake } = front;
        let health = views.clone();
        let engines: Arc<dyn Engines> = Arc::<EngineRegistry>::clone(registry);
        http::router(http::Deps {
            store: Arc::clone(store),
            engines,
            commands,
            auth: Arc::new(auth),
            health: Arc::new(move || health.health()),
            instances: instances.seen(),
            intake,
            shutdown: Arc::new(views.clone()),
            clock: self.clock,
            rates,
            server: self.config.server.clone(),
            trading: self.config.trading.clone(),
            build_id: Arc::clone(&views.build_id),
            extra: websockets,
        })
    }

    /// Makes the demo's robots once the demo account trades. A second start finds them made.
    async fn demo(
        &self,
        store: &Arc<dyn Store>,
        registry: Arc<EngineRegistry>,
        accounts: &[(AccountId, String)],
        go: CancellationToken,
    ) -> Result<(), BootError> {
        let Some((account, _)) = accounts.iter().find(|(_, label)| label == demo::LABEL).cloned() else {
            return Ok(());
        };
        let Some(symbol) = self.config.market.symbols.first() else { return Ok(()) };
        let info = symbol_info(symbol)?;
        let secret = Secret::random("");
        let is_new = store.robots(Some(account)).await?.is_empty();
        let commands = demo::commands(&info.symbol, symbol.start_price, &secret.hash());
        // Looks first whether they were made by an earlier start.
        let intake = Commands::new(Arc::clone(store), Arc::<EngineRegistry>::clone(&registry));
        let stop = self.handle.token(self.phases.stop_new_signals);
        self.run(self.phases.stop_new_signals, "demo robots", async move {
            let making = async {
                registry.ready(Duration::from_millis(10)).await;
                for command in commands {
                    if let Err(error) = intake.decide(account, command).await {
                        tracing::warn!(%error, "a demo robot was not made");
                    }
                }
                if is_new {
                    let robot = trading::ids::RobotId::nth(account, 1).map_or(0, |robot| robot.0);
                    announce(&format!("demo webhook (shown once): /api/webhook/{robot}/{}", secret.into_text()));
                }
            };
            stop.run_until_cancelled(making).await;
            go.cancel();
        })?;
        Ok(())
    }

    /// Stops the server when the replay has ended.
    fn stop_after(&self, mut finished: watch::Receiver<bool>) -> Result<(), BootError> {
        let (handle, stop) = (self.handle.clone(), self.handle.begun());
        self.run(self.phases.announce, "end of the replay", async move {
            let ended = finished.wait_for(|finished| *finished);
            if stop.run_until_cancelled(ended).await.is_some() {
                handle.trigger(Reason::Manual("the replay has ended".into()));
            }
        })?;
        Ok(())
    }
}

pub(super) fn broken(key: &'static str, error: &dyn std::fmt::Display) -> BootError {
    BootError::Setting { key, problem: error.to_string() }
}
