//! The database that is configured, and what ends with it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shutdown_coordinator::Reason;
use tokio::time::MissedTickBehavior;

use super::BootError;
use super::hooks::late;
use super::parts::Boot;
use crate::config::Migrate;
use crate::store::postgres::{self, PostgresStore, Server as DatabaseServer};
use crate::store::sqlite::{OpenOptions, SqliteStore};
use crate::store::{Database, Store};

const STORE_PROBE: Duration = Duration::from_millis(500);
const DISK_PROBE: Duration = Duration::from_millis(50);

impl Boot<'_> {
    pub(super) async fn store(&self) -> Result<Arc<dyn Store>, BootError> {
        match &self.database {
            Database::Sqlite(path) => self.sqlite(path).await,
            Database::Postgres(server) => self.postgres(server).await,
        }
    }

    /// Whether the database file's own lock proves that no other living process writes it. A server has no such lock.
    pub(super) fn is_alone(&self) -> bool {
        !self.is_server() && !self.config.instance.share
    }

    /// Whether instances on other hosts may use the database.
    pub(super) fn is_server(&self) -> bool {
        matches!(self.database, Database::Postgres(_))
    }

    async fn sqlite(&self, path: &Path) -> Result<Arc<dyn Store>, BootError> {
        let migrate = self.config.store.migrate == Migrate::AtBoot;
        let options = OpenOptions { migrate, share: self.config.instance.share, ..OpenOptions::default() };
        let (store, writer) = SqliteStore::open(path, options).await?;
        self.close_at_the_end(Arc::new(store.clone()), writer.run())?;
        self.end_with_the_disk(store.clone())?;
        Ok(Arc::new(store))
    }

    async fn postgres(&self, server: &DatabaseServer) -> Result<Arc<dyn Store>, BootError> {
        let migrate = self.config.store.migrate == Migrate::AtBoot && !self.beside;
        let options = postgres::OpenOptions { migrate, ..postgres::OpenOptions::default() };
        let (store, writer) = PostgresStore::open(server, options).await?;
        tracing::info!(%server, "using PostgreSQL");
        let store: Arc<dyn Store> = Arc::new(store);
        self.close_at_the_end(Arc::clone(&store), writer.run())?;
        Ok(store)
    }

    fn close_at_the_end(
        &self,
        store: Arc<dyn Store>,
        writer: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), BootError> {
        self.handle.on(self.phases.close_stores, "store", move |_| async move { store.close().await }).map_err(late)?;
        self.run(self.phases.close_stores, "store writer", writer)?;
        Ok(())
    }

    /// After an I/O error of the disk nobody knows what is durable before the file is opened anew: the process ends, and its
    /// supervisor starts the next one.
    fn end_with_the_disk(&self, store: SqliteStore) -> Result<(), BootError> {
        let (handle, stop) = (self.handle.clone(), self.handle.begun());
        self.run(self.phases.announce, "disk probe", async move {
            let mut tick = tokio::time::interval(DISK_PROBE);
            tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while stop.run_until_cancelled(tick.tick()).await.is_some() {
                if store.is_broken() {
                    handle.trigger(Reason::Error("the disk failed: only a new start can tell what is durable".into()));
                }
            }
        })?;
        Ok(())
    }

    /// Asks the store twice a second, so that a health request need not.
    pub(super) fn watch_store(&self, store: &Arc<dyn Store>) -> Result<Arc<AtomicBool>, BootError> {
        let well = Arc::new(AtomicBool::new(true));
        let (store, seen, stop) = (Arc::clone(store), Arc::clone(&well), self.handle.token(self.phases.persist_state));
        self.run(self.phases.persist_state, "store probe", async move {
            let mut tick = tokio::time::interval(STORE_PROBE);
            tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
            while stop.run_until_cancelled(tick.tick()).await.is_some() {
                let Some(answer) = stop.run_until_cancelled(store.ping()).await else { break };
                if seen.swap(answer.is_ok(), Ordering::Relaxed) != answer.is_ok() {
                    tracing::warn!(well = answer.is_ok(), "the store changed");
                }
            }
        })?;
        Ok(well)
    }
}
