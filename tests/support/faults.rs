//! Making the venue misbehave.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Server, eventually};

impl Server {
    /// Replaces the venue's faults; see `venue::faults::Faults`. An empty object is no fault.
    pub(crate) async fn set_faults(&self, faults: Value) {
        self.admin().post("/faults", &faults).await.unwrap().ok();
    }

    /// The venue goes silent: it takes requests and answers none.
    pub(crate) async fn silence_venue(&self) {
        self.set_faults(json!({"hold_answers": {"on": "all"}, "cut_stream": {"ms": 86_400_000}})).await;
    }

    /// How often a fault fired. One that never did proves nothing.
    pub(crate) async fn fired(&self, fault: &str) -> u64 {
        let answer = self.admin().get("/faults").await.unwrap().ok();
        let count = answer.pointer(&format!("/fired/{fault}")).and_then(Value::as_u64);
        count.unwrap_or_else(|| panic!("no count of {fault} in {answer}"))
    }

    /// Waits until a fault has fired.
    pub(crate) async fn wait_fired(&self, fault: &str) {
        let fired = async || (self.fired(fault).await > 0).then_some(());
        eventually(Duration::from_secs(5), format!("{fault} fires"), fired).await;
    }
}
