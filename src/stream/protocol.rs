//! What is said besides events: the clients' requests, our answers, and how a session ends.

use std::collections::BTreeMap;

use axum::extract::ws::{CloseFrame, Utf8Bytes};
use serde::{Deserialize, Serialize};
use trading::ids::{AccountId, Seq};

use super::wire::text;
use crate::notice::NoticeOut;
use crate::store::Role;

/// What a client may say. Anything else, unknown fields included, is answered by an error and changes nothing.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// Who it is.
    Auth { token: String },
    /// Follow an account: everything after `since_seq`, or from now on.
    Subscribe { account: AccountId, since_seq: Option<Seq> },
    /// Stop following one account, or all.
    Unsubscribe { account: Option<AccountId> },
    /// Is anybody there.
    Ping {},
}

/// For each account, the last event that was sent: where to resume.
pub(super) type Resume = BTreeMap<i64, i64>;

/// What the server says.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Reply<'a> {
    Welcome { role: Role, ping_interval_ms: u64, max_message_bytes: usize },
    Subscribed { account: AccountId, from_seq: Seq, head_seq: Seq },
    Unsubscribed { accounts: Vec<AccountId> },
    Pong,
    Resync { account: AccountId, reason: ResyncReason, head_seq: Option<Seq>, oldest_seq: Option<Seq> },
    Notices { items: Vec<NoticeOut> },
    Draining { reason: Option<Drain>, resume: &'a Resume },
    Error { code: ErrorCode, detail: &'a str, account: Option<AccountId> },
}

impl Reply<'_> {
    pub(super) fn text(&self) -> Utf8Bytes {
        text(self)
    }
}

/// Why an account cannot be followed from where the client stands. It is not followed any more; the client reads the state
/// anew and then subscribes from its present head.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ResyncReason {
    /// The ledger's newest event is older than what the client has seen: the ledger went back.
    Ahead,
    /// The ledger does not hold events that old any more.
    TooOld,
}

/// What was wrong with a request.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ErrorCode {
    /// It is not a request.
    BadRequest,
    /// There is no such account.
    NotFound,
}

/// Why the server goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    /// It stops: Close 1001.
    Stop,
    /// A successor takes over: Close 1012.
    Upgrade,
}

/// Close codes (RFC 6455 section 7.4.1; 1012 and 1013 from IANA's registry).
pub(super) mod code {
    pub(crate) const GOING_AWAY: u16 = 1001;
    pub(crate) const UNSUPPORTED: u16 = 1003;
    pub(crate) const POLICY: u16 = 1008;
    pub(crate) const TOO_LARGE: u16 = 1009;
    pub(crate) const RESTART: u16 = 1012;
    pub(crate) const TRY_AGAIN: u16 = 1013;
}

/// RFC 6455 section 5.5 allows control frames 125 bytes; two are the code.
const REASON_LIMIT: usize = 123;

/// Whether the whole map fits into the reason of a Close.
pub(super) fn fits_reason(resume: &Resume) -> bool {
    reason_of(resume).len() <= REASON_LIMIT
}

fn reason_of(resume: &Resume) -> Utf8Bytes {
    #[derive(Serialize)]
    struct Reason<'a> {
        resume: &'a Resume,
    }
    text(&Reason { resume })
}

/// A Close whose reason is `{"resume":{"<account>":<seq>}}`, or `{"resume_accounts":<count>}` if that is too long, or
/// words if nothing was followed.
pub(super) fn close_frame(code: u16, words: &'static str, resume: &Resume) -> CloseFrame {
    let reason = if resume.is_empty() {
        Utf8Bytes::from_static(words)
    } else if fits_reason(resume) {
        reason_of(resume)
    } else {
        format!(r#"{{"resume_accounts":{}}}"#, resume.len()).into()
    };
    CloseFrame { code, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_close_always_fits_a_control_frame() {
        let one = Resume::from([(1, 42)]);
        assert_eq!(close_frame(code::RESTART, "", &one).reason, r#"{"resume":{"1":42}}"#);
        let many: Resume = (0..50).map(|account| (i64::MAX - account, i64::MAX)).collect();
        assert_eq!(close_frame(code::RESTART, "", &many).reason, r#"{"resume_accounts":50}"#);
        for count in 0..50 {
            let resume: Resume = (0..count).map(|account| (account, 1_000_000)).collect();
            assert!(close_frame(code::RESTART, "words", &resume).reason.len() <= REASON_LIMIT);
        }
    }

    #[test]
    fn a_request_with_an_unknown_field_is_no_request() {
        assert!(serde_json::from_str::<Request>(r#"{"op":"ping"}"#).is_ok());
        assert!(serde_json::from_str::<Request>(r#"{"op":"subscribe","account":1}"#).is_ok());
        for bad in [
            r#"{"op":"ping","x":1}"#,
            r#"{"op":"subscribe","account":1,"since":2}"#,
            r#"{"op":"subscribe"}"#,
            r#"{"op":"subscribe","account":1.5}"#,
            r#"{"op":"subscribe","account":1e400}"#,
            r#"{"op":"order"}"#,
            "[]",
            "",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
