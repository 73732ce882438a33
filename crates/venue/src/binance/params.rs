//! Parameters as Binance takes them: by name from query and body, each at most once, none that nobody reads.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use rust_decimal::Decimal;
use trading::ids::{ClientOrderId, VenueOrderId};
use trading::market::Symbol;
use trading::money::ParseMoneyError;
use trading::time::Timestamp;

use super::error::ApiError;
use crate::exchange::{MAX_AHEAD, Refusal};

/// A request may ask for a window up to this.
const MAX_RECV_WINDOW_MS: u64 = 60_000;
/// Above this a timestamp is in microseconds: in milliseconds it would be the year 5138.
const MICROSECONDS_FROM: i64 = 100_000_000_000_000;

/// The parameters that have not been read yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Params {
    left: BTreeMap<String, String>,
    sent: usize,
}

/// When a request was made, and how long it is good for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Validity {
    pub(super) timestamp: Timestamp,
    pub(super) recv_window: Duration,
}

impl Validity {
    /// Refuses with -1021 outside of it.
    pub(super) fn check(self, now: Timestamp) -> Result<(), Refusal> {
        crate::exchange::check_time(self.timestamp, self.recv_window, now)
    }
}

impl Params {
    /// Of a query and a form. What is in both is taken from the query.
    pub(super) fn parse(query: &str, body: &str) -> Result<Self, ApiError> {
        let mut left = form(query)?;
        for (name, value) in form(body)? {
            left.entry(name).or_insert(value);
        }
        Ok(Self::of(left))
    }

    pub(super) fn of(left: BTreeMap<String, String>) -> Self {
        Self { sent: left.len(), left }
    }

    /// What a parameter says, without reading it.
    pub(super) fn peek(&self, name: &str) -> Option<&str> {
        self.left.get(name).map(String::as_str)
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.left.remove(name) {
            Some(value) if value.is_empty() => Err(ApiError::bad(-1105, format!("Parameter '{name}' was empty."))),
            other => Ok(other),
        }
    }

    pub(super) fn required(&mut self, name: &str) -> Result<String, ApiError> {
        self.left.remove(name).filter(|value| !value.is_empty()).ok_or_else(|| ApiError::missing(name))
    }

    /// An integer from zero on.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let value = if digits { text.parse().ok() } else { None };
        value.map(Some).ok_or_else(|| illegal(name, "^[0-9]{1,20}$"))
    }

    /// How many rows are asked for: 1 to 1000, 500 if nothing is said.
    pub(super) fn limit(&mut self) -> Result<usize, ApiError> {
        match self.number("limit")? {
            None => Ok(500),
            Some(limit) => match usize::try_from(limit) {
                Ok(limit @ 1..=1000) => Ok(limit),
                _ => Err(ApiError::invalid("limit")),
            },
        }
    }

    /// A price or a quantity.
    pub(super) fn decimal<T: FromStr<Err = ParseMoneyError>>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|error| match error {
            ParseMoneyError::NotDecimal(_) => illegal(name, r"^([0-9]{1,20})(\.[0-9]{1,20})?$"),
            ParseMoneyError::TooPrecise(_) => {
                ApiError::bad(-1111, format!("Parameter '{name}' has too much precision."))
            }
            ParseMoneyError::NotPositive(_) => ApiError::bad(-1013, format!("Invalid {name}.")),
            ParseMoneyError::TooLarge(_) => ApiError::bad(-1108, format!("Parameter '{name}' overflowed.")),
        })
    }

    pub(super) fn symbol(&mut self) -> Result<Symbol, ApiError> {
        self.required("symbol")?.parse().map_err(|_| ApiError::bad(-1121, "Invalid symbol."))
    }

    pub(super) fn symbol_if_sent(&mut self) -> Result<Option<Symbol>, ApiError> {
        if self.peek("symbol").is_some() { self.symbol().map(Some) } else { Ok(None) }
    }

    pub(super) fn client_id(&mut self, name: &str) -> Result<Option<ClientOrderId>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".:/_-".contains(&byte);
        if text.len() > 36 || !text.bytes().all(allowed) {
            return Err(illegal(name, r"^[\.A-Z\:/a-z0-9_-]{1,36}$"));
        }
        Ok(Some(ClientOrderId::from_venue(text)))
    }

    pub(super) fn order_id(&mut self) -> Result<Option<VenueOrderId>, ApiError> {
        Ok(self.number("orderId")?.map(VenueOrderId))
    }

    /// `timestamp` and `recvWindow`, or the default window.
    pub(super) fn validity(&mut self, default: Duration) -> Result<Validity, ApiError> {
        let text = self.required("timestamp")?;
        let timestamp = timestamp(&text).ok_or_else(|| illegal("timestamp", "^[0-9]{1,20}$"))?;
        let Some(text) = self.text("recvWindow")? else { return Ok(Validity { timestamp, recv_window: default }) };
        let ms = Decimal::from_str_exact(&text).ok().filter(|ms| ms.scale() <= 3 && !ms.is_sign_negative());
        let ms = ms.ok_or_else(|| ApiError::invalid("recvWindow"))?;
        if ms > Decimal::from(MAX_RECV_WINDOW_MS) {
            let msg = "'recvWindow' contains unexpected value. Cannot be greater than 60000.";
            return Err(ApiError::bad(-1102, msg));
        }
        let micros = u64::try_from(ms * Decimal::ONE_THOUSAND).map_err(|_| ApiError::invalid("recvWindow"))?;
        Ok(Validity { timestamp, recv_window: Duration::from_micros(micros) })
    }

    /// The time that a request gives for itself, if it is one at all.
    pub(super) fn stated_timestamp(&self) -> Option<Timestamp> {
        self.peek("timestamp").and_then(timestamp)
    }

    /// Refuses what nobody has read.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        if self.left.is_empty() {
            return Ok(());
        }
        let (sent, read) = (self.sent, self.sent - self.left.len());
        let msg = format!("Not all sent parameters were read; read '{read}' parameter(s) but was sent '{sent}'.");
        Err(ApiError::bad(-1104, msg))
    }
}

fn form(text: &str) -> Result<BTreeMap<String, String>, ApiError> {
    let mut parsed = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        if parsed.insert(name.into_owned(), value.into_owned()).is_some() {
            return Err(ApiError::bad(-1101, "Duplicate values for a parameter detected."));
        }
    }
    Ok(parsed)
}

fn illegal(name: &str, range: &str) -> ApiError {
    ApiError::bad(-1100, format!("Illegal characters found in parameter '{name}'; legal range is '{range}'."))
}

/// In milliseconds or microseconds, not so far away that adding a window overflows.
fn timestamp(text: &str) -> Option<Timestamp> {
    let number: i64 = text.parse().ok().filter(|number| *number >= 0)?;
    let micros = number >= MICROSECONDS_FROM;
    Some(if micros { Timestamp::from_micros(number) } else { Timestamp::from_millis(number) })
        .filter(|at| *at < Timestamp::from_micros(i64::MAX).before(MAX_AHEAD))
}
