//! What a round does to the server and to its venue. The order is fixed, so that a run that is long enough has done all of it;
//! the moments come from the seed.

use serde_json::Value;

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGKILL at a moment of its own.
    Kill,
    /// SIGKILL while an order is held at this point of its life.
    KillAt(&'static str),
    /// SIGKILL right before this call of `fdatasync`, counted from the start of the process.
    KillAtSync,
    /// SIGTERM under load, and SIGKILL during the drain.
    KillInDrain,
    /// SIGKILL, and again during the recovery.
    KillInRecovery,
    /// SIGKILL of the venue, then of the server; the venue comes back first.
    KillWithVenue,
    /// SIGSTOP until its lease has ended, on again, SIGKILL.
    KillAfterFreeze,
    /// SIGTERM at a moment of its own.
    Term,
    /// SIGTERM twice.
    TermTwice,
    /// SIGTERM while an order is held at this point; it is let go once the drain has begun, or never.
    TermAt(&'static str, bool),
}

use End::{
    Kill, KillAfterFreeze, KillAt, KillAtSync, KillInDrain, KillInRecovery, KillWithVenue, Term, TermAt, TermTwice,
};

/// Every end, some more often. Its length shares no divisor with that of [`WEAKNESSES`], so that every pair comes up.
pub(crate) const ENDS: [End; 37] = [
    Kill,
    KillAt("p0"),
    KillAt("p1"),
    TermAt("p0", true),
    KillAt("p2"),
    Kill,
    KillAtSync,
    KillAt("p3"),
    KillInRecovery,
    TermAt("p1", true),
    KillAt("p4"),
    KillAt("p5"),
    Kill,
    TermAt("p2", true),
    KillAt("p6"),
    KillAt("p7"),
    KillInDrain,
    Term,
    KillWithVenue,
    TermAt("p3", true),
    Kill,
    TermAt("p4", true),
    KillAtSync,
    KillAfterFreeze,
    TermAt("p5", true),
    Kill,
    TermAt("p6", true),
    KillInRecovery,
    TermAt("p7", true),
    Kill,
    TermTwice,
    TermAt("p4", false),
    KillInDrain,
    TermAt("p5", false),
    Kill,
    TermAt("p6", false),
    KillAt("p4"),
];

impl End {
    /// What it is called in the tally.
    pub(crate) fn name(self) -> String {
        match self {
            Kill => "SIGKILL at random".into(),
            KillAt(point) => format!("SIGKILL at {point}"),
            KillAtSync => "SIGKILL at the n-th fdatasync".into(),
            KillInDrain => "SIGKILL in the drain".into(),
            KillInRecovery => "SIGKILL in the recovery".into(),
            KillWithVenue => "SIGKILL with the venue".into(),
            KillAfterFreeze => "SIGSTOP past the lease, SIGKILL".into(),
            Term => "SIGTERM at random".into(),
            TermTwice => "SIGTERM twice".into(),
            TermAt(point, true) => format!("SIGTERM at {point}"),
            TermAt(point, false) => format!("SIGTERM at {point}, held for good"),
        }
    }

    /// How many SIGKILLs the server gets.
    pub(crate) fn kills(self) -> u64 {
        match self {
            Term | TermTwice | TermAt(..) => 0,
            KillInRecovery => 2,
            _ => 1,
        }
    }
}

/// How the venue misbehaves meanwhile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weakness {
    /// Which count of the venue shows that it fired. Empty: it behaves.
    pub(crate) fault: &'static str,
    /// See `venue::faults::Faults`.
    json: &'static str,
}

const fn weak(fault: &'static str, json: &'static str) -> Weakness {
    Weakness { fault, json }
}

/// Times are for a venue that takes requests for 300 ms and a server that waits for 400 ms.
pub(crate) const WEAKNESSES: [Weakness; 24] = [
    weak("", "{}"),
    weak("drop_answers", r#"{"drop_answers": {"on": "post", "times": 3}}"#),
    weak("delay_processing", r#"{"delay_processing": {"ms": 150, "on": "post", "times": 5}}"#),
    weak("drop_requests", r#"{"drop_requests": {"on": "post", "times": 3}}"#),
    weak("delay_answers", r#"{"delay_answers": {"ms": 30, "on": "all"}}"#),
    weak("cut_stream", r#"{"cut_stream": {"ms": 50, "times": 1}}"#),
    weak("hold_answers", r#"{"hold_answers": {"on": "post", "times": 4}}"#),
    weak("cut_body", r#"{"cut_body": {"on": "post", "times": 3}}"#),
    weak("server_error", r#"{"server_error": {"status": 503, "processed": true, "on": "post", "times": 3}}"#),
    weak("say_duplicate", r#"{"say_duplicate": {"on": "post", "times": 3}}"#),
    weak("stream_gap", r#"{"stream_gap": {"times": 5}}"#),
    weak("reject", r#"{"reject": {"code": -1015, "reason": "Too many new orders.", "times": 3}}"#),
    weak("", "{}"),
    weak("delay_processing", r#"{"delay_processing": {"ms": 350, "on": "post", "times": 5}}"#),
    weak("server_error", r#"{"server_error": {"status": 502, "processed": false, "on": "post", "times": 3}}"#),
    weak("disconnect", r#"{"disconnect": {"times": 1}}"#),
    weak("withhold_fills", r#"{"withhold_fills": {"ms": 100, "times": 10}}"#),
    weak("limit", r#"{"limit": {"status": 429, "retry_after": 1, "on": "all", "times": 1}}"#),
    weak(
        "query_says_none",
        r#"{"drop_answers": {"on": "post", "times": 2}, "query_says_none": {"on": "query", "times": 6}}"#,
    ),
    weak("drop_answers", r#"{"drop_answers": {"on": "cancel", "times": 3}}"#),
    weak("reject", r#"{"reject": {"code": -1007, "reason": "Timeout waiting for response.", "times": 3}}"#),
    weak("clock_skew_ms", r#"{"clock_skew_ms": 150}"#),
    weak("drop_answers", r#"{"drop_answers": {"on": "all", "times": 6}}"#),
    weak("drop_requests", r#"{"drop_requests": {"on": "all", "times": 6}}"#),
];

impl Weakness {
    /// What the venue is told.
    pub(crate) fn faults(&self) -> Value {
        serde_json::from_str(self.json).unwrap()
    }
}
