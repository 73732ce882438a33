//! `requests.jsonl`: one line for every request that was received, whatever became of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::Serialize;
use tokio::sync::mpsc;

use super::error::ApiError;

/// How many lines may wait; further requests wait for room before they are answered.
const QUEUE: usize = 4096;
const BATCH: usize = 256;

/// One request.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Line {
    /// When it arrived by the venue's clock, in microseconds.
    pub(super) at: i64,
    pub(super) account: Option<String>,
    /// The HTTP method, or `WS`.
    pub(super) method: String,
    /// The path, or the method of the WebSocket API.
    pub(super) path: String,
    pub(super) client_id: Option<String>,
    /// The request's own time in microseconds.
    pub(super) timestamp: Option<i64>,
    /// The status of the answer, as it was decided; absent if the request was lost.
    pub(super) status: Option<u16>,
    /// Binance's code, if it was an error.
    pub(super) code: Option<i32>,
    /// The faults of the network that hit it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) faults: Vec<&'static str>,
}

impl Line {
    pub(super) fn refused(&mut self, refusal: &ApiError) {
        self.status = Some(refusal.status.as_u16());
        self.code = Some(refusal.refusal.code);
    }
}

/// Where lines go.
#[derive(Debug, Clone)]
pub(super) struct RequestLog(mpsc::Sender<Line>);

impl RequestLog {
    /// Waits while the disk does not keep up. Cancel safety: the line is written as a whole or not at all.
    pub(super) async fn write(&self, line: Line) {
        if self.0.send(line).await.is_err() {
            tracing::warn!("requests.jsonl is closed; a request was not noted");
        }
    }
}

/// Writes the lines. Ends once the server and all its requests are gone.
#[derive(Debug)]
#[must_use = "requests wait until it runs"]
pub struct RequestWriter {
    lines: mpsc::Receiver<Line>,
    file: File,
}

pub(super) fn open(path: &Path) -> io::Result<(RequestLog, RequestWriter)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let (sender, lines) = mpsc::channel(QUEUE);
    Ok((RequestLog(sender), RequestWriter { lines, file }))
}

impl RequestWriter {
    /// Runs on this thread. It blocks, so never call it on a worker of a runtime.
    ///
    /// # Errors
    /// When the file cannot be written. Requests are not noted from then on.
    pub fn run_blocking(mut self) -> io::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut text = Vec::new();
        while self.lines.blocking_recv_many(&mut batch, BATCH) > 0 {
            text.clear();
            for line in batch.drain(..) {
                serde_json::to_writer(&mut text, &line)?;
                text.push(b'\n');
            }
            self.file.write_all(&text)?;
        }
        Ok(())
    }
}
