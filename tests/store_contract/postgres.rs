//! The contract on PostgreSQL, and what is PostgreSQL's own: lost connections, a server that stands still, transfers.

use std::time::Duration;

use hotgo::store::Store;
use hotgo::store::postgres::{OpenOptions, PostgresStore, Server};
use hotgo::store::sqlite::OpenError;
use tokio::task::JoinSet;

use crate::postgres_server::Postgres;

const DEADLINE: Duration = Duration::from_secs(30);

/// A store with its writer running, on a server of its own.
pub(crate) struct Running {
    pub(crate) store: PostgresStore,
    writer: JoinSet<()>,
    pub(crate) server: Option<Postgres>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        let server = Postgres::start();
        let mut running = Self::open(&server.url(), OpenOptions::default()).await.unwrap();
        running.server = Some(server);
        running
    }

    pub(crate) async fn open(url: &str, options: OpenOptions) -> Result<Self, OpenError> {
        let (store, writer) = PostgresStore::open(&Server::new(url, None).unwrap(), options).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.run());
        Ok(Self { store, writer: tasks, server: None })
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &self.store
    }

    /// Closes, and checks that the writer ends.
    pub(crate) async fn stop(mut self) {
        self.store.close().await;
        tokio::time::timeout(DEADLINE, self.writer.join_next()).await.unwrap().unwrap().unwrap();
    }
}

crate::suite::contract!(Running::start);
