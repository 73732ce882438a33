//! The REST client. Every request goes out at most once: no retry policy, no redirect, no proxy.
//!
//! A request that could not get a connection certainly did not leave ([`Failure::NotSent`]); whatever fails later may have
//! arrived ([`Failure::Lost`]).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, StatusCode, redirect, retry};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};
use trading::time::Timestamp;

use super::classify::Failure;
use super::limiter::{Busy, Class, OrderCounts, Ticket, Weights};
use super::sign::Credentials;
use super::time::VenueClock;
use super::wire::{self, ErrorBody};
use crate::gateway::RequestWindow;

/// A page of a thousand orders is below one megabyte.
const MAX_BODY: usize = 8 << 20;
const POOL_IDLE: Duration = Duration::from_secs(30);
const API_KEY: HeaderName = HeaderName::from_static("x-mbx-apikey");

/// One request.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) params: Vec<(&'static str, String)>,
    pub(super) class: Class,
    pub(super) weight: u32,
    pub(super) signed: Option<Signed<'a>>,
}

/// What makes a request the account's own.
pub(super) struct Signed<'a> {
    pub(super) credentials: &'a Credentials,
    pub(super) orders: &'a Mutex<OrderCounts>,
    /// The request's time by our clock, where it is not the time of signing.
    pub(super) timestamp: Option<Timestamp>,
}

/// The client of one process.
#[derive(Debug)]
pub(super) struct Rest {
    http: Client,
    base: String,
    window: RequestWindow,
    pub(super) clock: Arc<VenueClock>,
    pub(super) weights: Mutex<Weights>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives a request's weight back however it ends, also when its caller goes away.
struct Admitted<'a> {
    rest: &'a Rest,
    orders: Option<&'a Mutex<OrderCounts>>,
    ticket: Ticket,
    used_weight: Option<u32>,
    order_counts: Vec<(Duration, u32)>,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let now = self.rest.clock.now();
        lock(&self.rest.weights).settle(&self.ticket, self.used_weight, now);
        if let Some(orders) = self.orders {
            lock(orders).settle(&self.order_counts, now);
        }
    }
}

impl Rest {
    pub(super) fn new(
        base: &str,
        tls: rustls::ClientConfig,
        window: RequestWindow,
        clock: Arc<VenueClock>,
        reserve_percent: u32,
    ) -> Result<Self, reqwest::Error> {
        let builder = Client::builder()
            .http1_only()
            .tcp_nodelay(true)
            // Shorter than a venue keeps a silent connection: the fewer of them die under a POST, the better.
            .pool_idle_timeout(POOL_IDLE)
            .retry(retry::never())
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            // Half of the time is left for the answer; a connect that fails by then is certain not to have sent.
            .connect_timeout(window.request_timeout / 2)
            .tls_backend_preconfigured(tls);
        let weights = Mutex::new(Weights::new(reserve_percent));
        Ok(Self { http: builder.build()?, base: base.trim_end_matches('/').to_owned(), window, clock, weights })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Sends the request once, and reads its answer within the request time-out. An entry does not wait for budget.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<T, Failure> {
        let deadline = Instant::now() + self.window.request_timeout;
        let mut admitted = self.admitted(&call, deadline).await.map_err(|busy| Failure::NotSent(busy.to_string()))?;
        let request = self.request(&call)?;
        let exchange = self.exchange(request, &mut admitted);
        let (status, body) = timeout_at(deadline, exchange)
            .await
            .unwrap_or_else(|_| Err(Failure::Lost("no answer in time".to_owned())))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| Failure::Lost(format!("unreadable answer (HTTP {}): {error}", status.as_u16())));
        }
        let failure = Self::failure(status, &body);
        if matches!(failure, Failure::Error { code: Some(-1021), .. }) {
            self.clock.doubt();
        }
        Err(failure)
    }

    async fn admitted<'a>(&'a self, call: &Call<'a>, deadline: Instant) -> Result<Admitted<'a>, Busy> {
        loop {
            match self.admit(call) {
                Ok(admitted) => return Ok(admitted),
                Err(busy) if call.class == Class::Entry || Instant::now() + busy.wait >= deadline => return Err(busy),
                Err(busy) => sleep(busy.wait).await,
            }
        }
    }

    /// Takes budget for something that goes another way than through [`Rest::call`], waiting for it if need be.
    pub(super) async fn wait_for_budget(&self, class: Class, weight: u32) -> Result<(), Busy> {
        let deadline = Instant::now() + self.window.request_timeout;
        let call = Call { method: Method::GET, path: "", params: Vec::new(), class, weight, signed: None };
        self.admitted(&call, deadline).await.map(drop)
    }

    fn admit<'a>(&'a self, call: &Call<'a>) -> Result<Admitted<'a>, Busy> {
        let now = self.clock.now();
        let orders = call.signed.as_ref().map(|signed| signed.orders).filter(|_| call.class == Class::Entry);
        let ticket = lock(&self.weights).admit(call.class, call.weight, now)?;
        if let Some(Err(busy)) = orders.map(|orders| lock(orders).admit(now)) {
            lock(&self.weights).cancel(&ticket);
            return Err(busy);
        }
        Ok(Admitted { rest: self, orders, ticket, used_weight: None, order_counts: Vec::new() })
    }

    fn request(&self, call: &Call<'_>) -> Result<reqwest::Request, Failure> {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&call.params);
        let mut headers = HeaderMap::new();
        if let Some(signed) = &call.signed {
            let ours = signed.timestamp.unwrap_or_else(|| self.clock.ours());
            let unknown = || Failure::NotSent("the venue's clock is not known yet".to_owned());
            let timestamp = self.clock.at_venue(ours).ok_or_else(unknown)?;
            query.append_pair("recvWindow", &self.window.recv_window.as_millis().to_string());
            query.append_pair("timestamp", &timestamp.millis().to_string());
            headers.insert(API_KEY, signed.credentials.header());
        }
        let mut params = query.finish();
        if let Some(signed) = &call.signed {
            let signature = signed.credentials.sign(&params);
            params.push_str("&signature=");
            params.extend(form_urlencoded::byte_serialize(signature.as_bytes()));
        }
        let url = format!("{}{}", self.base, call.path);
        let request = if call.method == Method::POST {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(reqwest::header::CONTENT_TYPE, form);
            self.http.post(url).body(params)
        } else if params.is_empty() {
            self.http.request(call.method.clone(), url)
        } else {
            self.http.request(call.method.clone(), format!("{url}?{params}"))
        };
        request.headers(headers).build().map_err(|error| Failure::NotSent(words(error)))
    }

    /// The one exchange on the wire.
    async fn exchange(
        &self,
        request: reqwest::Request,
        admitted: &mut Admitted<'_>,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        let mut answer = self.http.execute(request).await.map_err(|error| {
            if error.is_connect() || error.is_builder() {
                Failure::NotSent(words(error))
            } else {
                Failure::Lost(words(error))
            }
        })?;
        self.note(answer.status(), answer.headers(), admitted);
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| Failure::Lost(words(error)))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(Failure::Lost("the answer is too large".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((answer.status(), body))
    }

    /// What the headers say of the budget, before anything can go wrong with the body.
    fn note(&self, status: StatusCode, headers: &HeaderMap, admitted: &mut Admitted<'_>) {
        let number = |value: &HeaderValue| value.to_str().ok()?.trim().parse::<u32>().ok();
        admitted.used_weight = headers.get("x-mbx-used-weight-1m").and_then(number);
        admitted.order_counts = headers
            .iter()
            .filter_map(|(name, value)| {
                let text = name.as_str().strip_prefix("x-mbx-order-count-")?.to_ascii_uppercase();
                let letter = text.chars().next_back()?;
                let count = text.strip_suffix(letter)?.parse().ok()?;
                Some((wire::interval(letter, count)?, number(value)?))
            })
            .collect();
        if matches!(status.as_u16(), 418 | 429) {
            let seconds = headers.get(reqwest::header::RETRY_AFTER).and_then(number);
            let wait = seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
            tracing::warn!(status = status.as_u16(), retry_after = ?wait, "the venue told us to stop sending");
            lock(&self.weights).ban(wait, self.clock.now());
        }
    }

    fn failure(status: StatusCode, body: &[u8]) -> Failure {
        if status.as_u16() < 400 {
            return Failure::Lost(format!("unexpected answer (HTTP {})", status.as_u16()));
        }
        let (code, message) = match serde_json::from_slice::<ErrorBody>(body) {
            Ok(ErrorBody { code, msg }) => (Some(code), msg.chars().take(200).collect()),
            Err(_) => (None, "an error without a code".to_owned()),
        };
        Failure::Error { status: status.as_u16(), code, message }
    }
}

/// An error with its causes and without the URL, which holds a signature.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
