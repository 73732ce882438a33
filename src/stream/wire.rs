//! Text frames.

use axum::extract::ws::Utf8Bytes;
use serde::Serialize;
use trading::event::Recorded;
use trading::ids::AccountId;

use crate::orders::EventOut;

/// The text frame of one event: what `GET /api/events` gives for it, with `op` and `account`.
pub(super) fn event_frame(account: AccountId, recorded: &Recorded) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Frame {
        op: &'static str,
        account: i64,
        #[serde(flatten)]
        event: EventOut,
    }
    text(&Frame { op: "event", account: account.0, event: EventOut::new(account, recorded) })
}

/// A value as the text of a frame.
pub(super) fn text(value: &impl Serialize) -> Utf8Bytes {
    match serde_json::to_string(value) {
        Ok(text) => text.into(),
        Err(error) => {
            // Only maps with keys that are no strings can fail, and there are none. A client that sees this resumes.
            tracing::error!(%error, "a frame could not be serialised");
            Utf8Bytes::from_static(r#"{"op":"error","code":"internal","detail":"a frame could not be serialised"}"#)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use trading::event::Event;
    use trading::ids::{Epoch, Seq};
    use trading::time::Timestamp;

    use super::*;

    #[test]
    fn a_frame_is_the_event_as_http_shows_it_with_op_and_account() {
        let at = Timestamp::from_micros(1_000);
        let recorded = Recorded { seq: Seq(42), at, event: Event::Started { epoch: Epoch(3) } };
        let frame: Value = serde_json::from_str(&event_frame(AccountId(1), &recorded)).unwrap();
        let mut shown = serde_json::to_value(EventOut::new(AccountId(1), &recorded)).unwrap();
        assert_eq!(shown, json!({"seq": 42, "at_us": 1_000, "event": "started", "data": {"epoch": 3}}));
        shown["op"] = json!("event");
        shown["account"] = json!(1);
        assert_eq!(frame, shown);
    }
}
