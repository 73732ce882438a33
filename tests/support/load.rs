//! Load: a bounded number of senders that note each signal they got a 2xx for, before they send the next.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Client;
use super::server::{Robot, signal_body};

/// Signals under keys that never repeat, and a file of those that were answered: one JSON object a line, as
/// `main audit --answered` reads it.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    prefix: Arc<str>,
    next: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    file: Arc<Mutex<File>>,
    path: PathBuf,
}

impl Load {
    /// Notes into this file.
    pub(crate) fn new(path: &Path, prefix: &str) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        Self {
            prefix: prefix.into(),
            next: Arc::default(),
            answered: Arc::default(),
            file: Arc::new(Mutex::new(file)),
            path: path.to_owned(),
        }
    }

    /// The file of answered signals.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// How many were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Sends `count` signals from `senders` senders at once, and ends early when the server is gone.
    pub(crate) async fn run(&self, client: &Client, robot: &Robot, senders: u64, count: u64) {
        let mut tasks = JoinSet::new();
        for _ in 0..senders {
            let (load, client, robot) = (self.clone(), client.clone(), robot.clone());
            tasks.spawn(async move {
                for _ in 0..count.div_ceil(senders) {
                    if load.send(&client, &robot).await.is_none() {
                        return;
                    }
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    }

    /// Sends one. `None` if the connection failed.
    pub(crate) async fn send(&self, client: &Client, robot: &Robot) -> Option<super::Answer> {
        self.send_body(client, &signal_body(robot.id)).await
    }

    /// Sends one of another kind. `None` if the connection failed.
    pub(crate) async fn send_body(&self, client: &Client, body: &Value) -> Option<super::Answer> {
        let key = format!("{}-{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed));
        let answer = client.post_keyed("/api/signals", &key, body).await.ok()?;
        assert!(answer.status < 500 || matches!(answer.status, 503 | 507), "a {} under load", answer.status);
        if answer.is_success() {
            self.note(&answer.json());
        }
        Some(answer)
    }

    /// Notes an answered signal, under the names that its answer has for it.
    pub(crate) fn note(&self, answer: &Value) {
        let line = json!({"source": answer["source"], "dedup_key": answer["key"]});
        writeln!(self.file.lock().unwrap(), "{line}").unwrap();
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}
