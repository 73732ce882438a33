//! Redis and what goes over it, where it is configured.

use std::sync::Arc;
use std::time::Duration;

use super::BootError;
use super::parts::Boot;
use crate::auth::{AskRedis, Authenticator, RedisMemory};
use crate::bus::{Alone, Bus, RedisBus};
use crate::http::{RateLimits, RedisTally, StoreTally, Tally, share};
use crate::instance::Instances;
use crate::redis::{Heartbeat, Redis};
use crate::signals::{Commands, IntakeClosed, IntakeGate, IntakeGuard, StreamIntake, StreamIntakeDeps};
use crate::store::Store;

/// One command of Redis; nothing if it does not answer.
fn ask(redis: &Redis) -> AskRedis {
    let redis = redis.clone();
    Arc::new(move |command| {
        let redis = redis.clone();
        Box::pin(async move { redis.query(&command).await.ok() })
    })
}

impl Boot<'_> {
    /// Redis, if it is configured. Nothing waits for it: it may come later, and go.
    pub(super) fn redis(&self) -> Result<Option<Redis>, BootError> {
        let config = &self.config.redis;
        let Some(redis) = Redis::open(config)? else { return Ok(None) };
        tracing::info!(address = %redis.address(), "Redis is used");
        let about = serde_json::json!({ "pid": std::process::id(), "build": crate::build_info::BUILD_ID });
        let heartbeat = Heartbeat::new(redis.clone(), &config.prefix, &self.instance, about.to_string());
        let stop = self.handle.token(self.phases.close_stores);
        let closing = redis.clone();
        self.run(self.phases.close_stores, "redis", async move {
            heartbeat.run(stop).await;
            closing.close();
        })?;
        Ok(Some(redis))
    }

    /// The way to other instances.
    pub(super) fn bus(&self, redis: Option<&Redis>) -> Result<Arc<dyn Bus>, BootError> {
        let Some(redis) = redis else { return Ok(Arc::new(Alone::default())) };
        let (bus, publisher, listener) = RedisBus::new(redis, &self.config.redis.prefix, &self.instance);
        let stop = self.handle.token(self.phases.close_stores);
        self.run(self.phases.close_stores, "bus publisher", publisher.run(stop.clone()))?;
        self.run(self.phases.close_stores, "bus listener", listener.run(stop))?;
        Ok(Arc::new(bus))
    }

    /// With what requests are remembered and counted over all instances: Redis, and the database where it is a server. What one
    /// does not answer the next one is asked.
    pub(super) fn rate_limits(
        &self,
        redis: Option<&Redis>,
        store: &Arc<dyn Store>,
    ) -> Result<Arc<RateLimits>, BootError> {
        let rates = Arc::new(RateLimits::new(&self.config.server, self.clock));
        let mut places: Vec<Arc<dyn Tally>> = Vec::new();
        if let Some(redis) = redis {
            places.push(Arc::new(RedisTally::new(ask(redis), &self.config.redis.prefix)));
        }
        if self.is_server() {
            places.push(Arc::new(StoreTally(Arc::clone(store))));
        }
        if !places.is_empty() {
            let stop = self.handle.token(self.phases.close_streams);
            self.run(self.phases.close_streams, "request counters", share(Arc::clone(&rates), places, stop))?;
        }
        Ok(rates)
    }

    /// Who is let in. Nonces are in the database; Redis knows many of them sooner.
    pub(super) fn authenticator(&self, redis: Option<&Redis>, store: &Arc<dyn Store>) -> Authenticator {
        let auth = Authenticator::new(Arc::clone(store));
        match redis {
            Some(redis) => auth.with_memory(Arc::new(RedisMemory::new(ask(redis), &self.config.redis.prefix))),
            None => auth,
        }
    }

    /// Whether signals are taken: until their phase begins, which waits for those that were let in. One whose accounts were
    /// handed over goes on as long as somebody is connected: its successor decides.
    pub(super) fn intake(&self, instances: &Instances) -> IntakeGate {
        let signals = self.handle.gate(self.phases.stop_new_signals, "signals");
        let late = self.handle.gate(self.phases.close_stores, "signals for the successor");
        let instances = instances.clone();
        IntakeGate::new(move || {
            let entered = signals.enter().ok();
            let entered = entered.or_else(|| late.enter().ok().filter(|_| instances.is_handed_over()));
            entered.map(IntakeGuard::new).ok_or(IntakeClosed)
        })
    }

    /// Takes signals from a stream, if one is configured.
    pub(super) fn signals_from_redis(
        &self,
        redis: Option<&Redis>,
        commands: &Commands,
        gate: &IntakeGate,
    ) -> Result<(), BootError> {
        let (Some(redis), Some(config)) = (redis, &self.config.redis.signals) else { return Ok(()) };
        let intake = StreamIntake::new(StreamIntakeDeps {
            redis: redis.clone(),
            config: config.clone(),
            instance: Arc::clone(&self.instance),
            commands: commands.clone(),
            gate: gate.clone(),
            clock: self.clock,
            ttl: Duration::from_millis(self.config.trading.signal_ttl_ms),
            finish: Duration::from_millis(self.config.shutdown.stop_signals_ms / 2),
        });
        let stop = self.handle.token(self.phases.stop_new_signals);
        self.run(self.phases.stop_new_signals, "signals from redis", intake.run(stop))?;
        Ok(())
    }
}
