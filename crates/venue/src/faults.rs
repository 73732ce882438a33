//! The ways in which the venue can be made to misbehave, and how often each of them did.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de};
use trading::time::Timestamp;

use crate::exchange::Refusal;

/// Which requests a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Requests for new orders.
    #[default]
    Post,
    /// Requests for cancellation.
    Cancel,
    /// Queries by client id.
    Query,
    /// These three and every other read.
    All,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A new order.
    Post,
    /// A cancellation.
    Cancel,
    /// One order.
    Query,
    /// Balances, open orders, fills.
    Read,
}

impl Scope {
    fn covers(self, request: Request) -> bool {
        match self {
            Scope::All => true,
            Scope::Post => request == Request::Post,
            Scope::Cancel => request == Request::Cancel,
            Scope::Query => request == Request::Query,
        }
    }
}

/// A fault without a measure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switch {
    /// Which requests it is for.
    pub on: Scope,
    /// How many more times it fires. Without end if absent.
    pub times: Option<u32>,
}

/// A fault that lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// How long, in milliseconds.
    pub ms: u64,
    /// Which requests it is for.
    #[serde(default)]
    pub on: Scope,
    /// How many more times it fires. Without end if absent.
    #[serde(default)]
    pub times: Option<u32>,
}

/// Requests for new orders are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reject {
    /// The code of the refusal, such as -1013.
    pub code: i32,
    /// Its words.
    pub reason: String,
    /// How many more times it fires. Without end if absent.
    #[serde(default)]
    pub times: Option<u32>,
}

/// A fault that is counted in events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Times {
    /// How many more times it fires. Without end if absent.
    pub times: Option<u32>,
}

/// Requests are answered with a server error, which proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerError {
    /// 500 to 599.
    #[serde(deserialize_with = "five_hundreds")]
    pub status: u16,
    /// Whether the request does what it asks for all the same.
    pub processed: bool,
    /// Which requests it is for.
    #[serde(default)]
    pub on: Scope,
    /// How many more times it fires. Without end if absent.
    #[serde(default)]
    pub times: Option<u32>,
}

/// Requests are refused as too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// 429 (too many), or 418 (banned).
    #[serde(deserialize_with = "limit_status")]
    pub status: u16,
    /// What `Retry-After` says, in seconds.
    pub retry_after: u32,
    /// Which requests it is for.
    #[serde(default)]
    pub on: Scope,
    /// How many more times it fires. Without end if absent.
    #[serde(default)]
    pub times: Option<u32>,
}

fn five_hundreds<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    let status = u16::deserialize(from)?;
    let fits = (500..600).contains(&status);
    if fits { Ok(status) } else { Err(de::Error::custom("server_error.status is not 500 to 599")) }
}

fn limit_status<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    let status = u16::deserialize(from)?;
    if matches!(status, 418 | 429) { Ok(status) } else { Err(de::Error::custom("limit.status is not 429 or 418")) }
}

/// How the venue misbehaves. The default is not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Requests are lost on the way: they do nothing, and no answer comes.
    pub drop_requests: Option<Switch>,
    /// Requests arrive late, also when nobody waits for the answer any more.
    pub delay_processing: Option<Delay>,
    /// Requests do what they ask for, and no answer comes.
    pub drop_answers: Option<Switch>,
    /// Answers come late.
    pub delay_answers: Option<Delay>,
    /// Answers are kept back until this is unset.
    pub hold_answers: Option<Switch>,
    /// New orders are refused.
    pub reject: Option<Reject>,
    /// New orders are accepted, and answered with "Duplicate order sent."
    pub say_duplicate: Option<Switch>,
    /// Queries find nothing, whatever there is.
    pub query_says_none: Option<Switch>,
    /// Fills are shown late: reports say how much is filled at once, the fills themselves follow.
    pub withhold_fills: Option<Delay>,
    /// The next event of an account's stream cuts it; the stream is back after this time, and what happened is lost.
    pub cut_stream: Option<Delay>,
    /// Of the answer come the head and half the body, then the connection breaks. At the server only.
    pub cut_body: Option<Switch>,
    /// Answers are a server error instead. At the server only.
    pub server_error: Option<ServerError>,
    /// Requests are refused as too many. At the server only.
    pub limit: Option<Limit>,
    /// The next events of an account's stream never arrive, and nothing says so. At the server only.
    pub stream_gap: Option<Times>,
    /// The next event of an account's stream breaks the connections that it was for. At the server only.
    pub disconnect: Option<Times>,
    /// How far the venue's clock is ahead, in milliseconds; behind if negative.
    pub clock_skew_ms: i64,
}

/// How often each fault fired since the venue was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fired {
    /// Requests lost.
    pub drop_requests: u64,
    /// Requests processed late.
    pub delay_processing: u64,
    /// Answers lost.
    pub drop_answers: u64,
    /// Answers that came late.
    pub delay_answers: u64,
    /// Answers kept back.
    pub hold_answers: u64,
    /// Orders refused.
    pub reject: u64,
    /// Orders called duplicates.
    pub say_duplicate: u64,
    /// Queries that were denied an order that exists or not.
    pub query_says_none: u64,
    /// Reports whose fills were withheld.
    pub withhold_fills: u64,
    /// Streams cut.
    pub cut_stream: u64,
    /// Answers cut in half.
    pub cut_body: u64,
    /// Answers replaced by server errors.
    pub server_error: u64,
    /// Requests refused as too many.
    pub limit: u64,
    /// Events lost.
    pub stream_gap: u64,
    /// Events that broke a connection.
    pub disconnect: u64,
    /// Requests judged by a clock that was wrong.
    pub clock_skew_ms: u64,
}

/// The faults that are set, and their counts.
#[derive(Debug, Clone, Default)]
pub struct Injector {
    faults: Faults,
    fired: Fired,
}

/// Uses up one time of a limited fault. `None` when it is used up.
fn spend(times: &mut Option<u32>, count: &mut u64) -> Option<()> {
    if let Some(left) = times {
        *left = left.checked_sub(1)?;
    }
    *count += 1;
    Some(())
}

fn switch(fault: Option<&mut Switch>, request: Request, count: &mut u64) -> bool {
    fault.filter(|f| f.on.covers(request)).and_then(|f| spend(&mut f.times, count)).is_some()
}

fn delay(fault: Option<&mut Delay>, request: Request, count: &mut u64) -> Option<Duration> {
    let fault = fault.filter(|f| f.on.covers(request))?;
    spend(&mut fault.times, count).map(|()| Duration::from_millis(fault.ms))
}

impl Injector {
    /// Replaces all faults. The counts go on.
    pub fn set(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The faults as they are now: `times` shrinks as they fire.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// How often each of them fired.
    pub fn fired(&self) -> Fired {
        self.fired
    }

    /// Whether this request is lost.
    pub fn drops_request(&mut self, request: Request) -> bool {
        switch(self.faults.drop_requests.as_mut(), request, &mut self.fired.drop_requests)
    }

    /// How late this request arrives.
    pub fn delays_processing(&mut self, request: Request) -> Option<Duration> {
        delay(self.faults.delay_processing.as_mut(), request, &mut self.fired.delay_processing)
    }

    /// Whether the answer to this request is lost.
    pub fn drops_answer(&mut self, request: Request) -> bool {
        switch(self.faults.drop_answers.as_mut(), request, &mut self.fired.drop_answers)
    }

    /// How late the answer to this request comes.
    pub fn delays_answer(&mut self, request: Request) -> Option<Duration> {
        delay(self.faults.delay_answers.as_mut(), request, &mut self.fired.delay_answers)
    }

    /// Whether the answer to this request is kept back.
    pub fn holds_answer(&mut self, request: Request) -> bool {
        switch(self.faults.hold_answers.as_mut(), request, &mut self.fired.hold_answers)
    }

    /// Whether a new order is refused, and how.
    pub fn rejects(&mut self) -> Option<Refusal> {
        let fault = self.faults.reject.as_mut()?;
        spend(&mut fault.times, &mut self.fired.reject)?;
        Some(Refusal { code: fault.code, reason: fault.reason.clone() })
    }

    /// Whether a new order that was accepted is called a duplicate.
    pub fn says_duplicate(&mut self) -> Option<Refusal> {
        let fires = switch(self.faults.say_duplicate.as_mut(), Request::Post, &mut self.fired.say_duplicate);
        fires.then(Refusal::duplicate)
    }

    /// Whether a query is told that there is no such order.
    pub fn hides_order(&mut self) -> bool {
        let fault = self.faults.query_says_none.as_mut();
        fault.and_then(|fault| spend(&mut fault.times, &mut self.fired.query_says_none)).is_some()
    }

    /// How long the fills of a report with fills are withheld.
    pub fn withholds_fills(&mut self) -> Option<Duration> {
        let fault = self.faults.withhold_fills.as_mut()?;
        spend(&mut fault.times, &mut self.fired.withhold_fills).map(|()| Duration::from_millis(fault.ms))
    }

    /// How long a stream that has an event to deliver is cut.
    pub fn cuts_stream(&mut self) -> Option<Duration> {
        let fault = self.faults.cut_stream.as_mut()?;
        spend(&mut fault.times, &mut self.fired.cut_stream).map(|()| Duration::from_millis(fault.ms))
    }

    /// Whether lists of orders are empty: as long as queries find none.
    pub fn hides_orders(&mut self) -> bool {
        let hides = self.faults.query_says_none.as_ref().is_some_and(|fault| fault.times != Some(0));
        self.fired.query_says_none += u64::from(hides);
        hides
    }

    /// Whether half of the answer to this request is lost, and its connection with it.
    pub fn cuts_body(&mut self, request: Request) -> bool {
        switch(self.faults.cut_body.as_mut(), request, &mut self.fired.cut_body)
    }

    /// Whether this request is answered with a server error: its status, and whether it does what it asks for.
    pub fn errs(&mut self, request: Request) -> Option<(u16, bool)> {
        let fault = self.faults.server_error.as_mut().filter(|fault| fault.on.covers(request))?;
        spend(&mut fault.times, &mut self.fired.server_error).map(|()| (fault.status, fault.processed))
    }

    /// Whether this request is one too many: with which status, and after how many seconds the next is welcome.
    pub fn limits(&mut self, request: Request) -> Option<(u16, u32)> {
        let fault = self.faults.limit.as_mut().filter(|fault| fault.on.covers(request))?;
        spend(&mut fault.times, &mut self.fired.limit).map(|()| (fault.status, fault.retry_after))
    }

    /// Whether an event of an account's stream is lost.
    pub fn loses_event(&mut self) -> bool {
        let fault = self.faults.stream_gap.as_mut();
        fault.and_then(|fault| spend(&mut fault.times, &mut self.fired.stream_gap)).is_some()
    }

    /// Whether an event of an account's stream breaks its connections.
    pub fn disconnects(&mut self) -> bool {
        let fault = self.faults.disconnect.as_mut();
        fault.and_then(|fault| spend(&mut fault.times, &mut self.fired.disconnect)).is_some()
    }

    /// What the venue's clock shows when it is `now`.
    pub fn skewed(&self, now: Timestamp) -> Timestamp {
        let skew = Duration::from_millis(self.faults.clock_skew_ms.unsigned_abs());
        if self.faults.clock_skew_ms < 0 { now.before(skew) } else { now.after(skew) }
    }

    /// Counts a request that is judged by a clock that is wrong.
    pub(crate) fn judges_by_clock(&mut self) {
        self.fired.clock_skew_ms += u64::from(self.faults.clock_skew_ms != 0);
    }
}
