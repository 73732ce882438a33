//! The WebSocket API at `/ws-api/v3` (`web-socket-api.md`), as far as the account's stream needs it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use trading::time::Timestamp;

use super::error::{ApiError, ErrorBody, server_error};
use super::events::{event, server_shutdown, terminated};
use super::params::Params;
use super::plan::Plan;
use super::requests::Line;
use super::socket::{Over, Socket, bounded};
use super::{App, general};
use crate::exchange::Refusal;
use crate::faults::Request;
use crate::host::Delivery;
use crate::record::Label;

/// How many events may wait for one connection.
const EVENTS: usize = 1024;
const CONNECT_WEIGHT: u32 = 2;

/// A request frame.
#[derive(Debug, Deserialize)]
struct Frame {
    #[serde(default)]
    id: Value,
    method: String,
    #[serde(default)]
    params: Map<String, Value>,
}

pub(super) async fn connect(State(app): State<Arc<App>>, upgrade: WebSocketUpgrade, request: HttpRequest) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let from = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0.ip());
    let (_, weighed) = app.usage().weigh(from, CONNECT_WEIGHT, app.host.now());
    if let Err(refusal) = weighed {
        return refusal.into_response();
    }
    let show_limits = !request.uri().query().is_some_and(|query| query.contains("returnRateLimits=false"));
    let tasks = app.tasks.clone();
    let token = tasks.token();
    bounded(upgrade).on_upgrade(move |socket| async move {
        let (sender, events) = mpsc::channel(EVENTS);
        let session = Session {
            app,
            from,
            show_limits,
            sender,
            reset: CancellationToken::new(),
            subscriptions: BTreeMap::new(),
            next: 0,
        };
        session.run(Socket::new(socket), events).await;
        drop(token);
    })
}

struct Session {
    app: Arc<App>,
    from: IpAddr,
    show_limits: bool,
    sender: mpsc::Sender<Delivery>,
    /// Cancelled when the connection is to be broken off.
    reset: CancellationToken,
    /// By the venue's number of the subscription: ours, and whose it is.
    subscriptions: BTreeMap<u64, (u32, Label)>,
    next: u32,
}

/// What to say to a request, and what after that.
struct Reply {
    result: Result<Value, ApiError>,
    events: Vec<Value>,
}

impl From<Result<Value, ApiError>> for Reply {
    fn from(result: Result<Value, ApiError>) -> Self {
        Self { result, events: Vec::new() }
    }
}

impl Session {
    async fn run(mut self, mut socket: Socket, mut events: mpsc::Receiver<Delivery>) {
        let (reset, stop) = (self.reset.clone(), self.app.stop.clone());
        loop {
            let until = socket.until;
            let happened = tokio::select! {
                biased;
                // Without a Close: that is what a broken connection looks like.
                () = reset.cancelled() => return,
                () = stop.cancelled() => {
                    if socket.send(&json!({ "event": server_shutdown(self.app.host.now()) })).await.is_ok() {
                        socket.close("the venue stops").await;
                    }
                    return;
                }
                () = sleep_until(until) => return socket.close("24 hours are over").await,
                Some(delivery) = events.recv() => self.tell(&mut socket, &delivery).await,
                text = socket.next() => match text {
                    Ok(text) => self.take(&mut socket, &text).await,
                    Err(over) => Err(over),
                },
            };
            if happened.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, socket: &mut Socket, (id, update): &Delivery) -> Result<(), Over> {
        // One that was ended meanwhile hears nothing more.
        let Some((subscription, _)) = self.subscriptions.get(id) else { return Ok(()) };
        let event = event(update, self.app.host.now());
        socket.send(&json!({ "subscriptionId": subscription, "event": event })).await
    }

    /// Answers one request, as far as the faults let it.
    async fn take(&mut self, socket: &mut Socket, text: &str) -> Result<(), Over> {
        let mut line = Line { at: self.app.host.now().micros(), method: "WS".into(), ..Line::default() };
        let Ok(frame) = serde_json::from_str::<Frame>(text) else {
            let refusal = ApiError::bad(-1135, "Invalid JSON Request");
            line.refused(&refusal);
            self.app.requests.write(line).await;
            return socket.send(&answer(&Value::Null, &Err(refusal), None, self.app.host.now())).await;
        };
        let plan = Plan::of(&mut self.app.host.injector(), Request::Read);
        line.faults = plan.names();
        line.path.clone_from(&frame.method);
        if plan.lost {
            self.app.requests.write(line).await;
            return Ok(());
        }
        if let Some(late) = plan.late {
            sleep(late).await;
        }
        let (used, weighed) = self.app.usage().weigh(self.from, weight(&frame.method), self.app.host.now());
        let mut reply = match weighed.and(plan.forced()) {
            Ok(()) => self.perform(&frame, &mut line).await?,
            Err(refusal) => Err(refusal).into(),
        };
        if let Some((status, true)) = plan.error {
            reply.result = Err(server_error(status));
        }
        match &reply.result {
            Ok(_) => line.status = Some(StatusCode::OK.as_u16()),
            Err(refusal) => line.refused(refusal),
        }
        self.app.requests.write(line).await;
        let asked = frame.params.get("returnRateLimits").and_then(Value::as_bool);
        let limits = asked.unwrap_or(self.show_limits).then(|| json!([self.app.limits.weight(Some(used))]));
        let answer = answer(&frame.id, &reply.result, limits, self.app.host.now());
        self.depart(socket, &plan, answer, reply.events).await
    }

    /// The way back.
    async fn depart(&self, socket: &mut Socket, plan: &Plan, answer: Value, events: Vec<Value>) -> Result<(), Over> {
        if plan.answer_lost {
            return Ok(());
        }
        if plan.answer_cut {
            return Err(Over);
        }
        if !self.app.way_back(plan).await {
            return Ok(());
        }
        socket.send(&answer).await?;
        for event in &events {
            socket.send(event).await?;
        }
        Ok(())
    }

    async fn perform(&mut self, frame: &Frame, line: &mut Line) -> Result<Reply, Over> {
        let mut parameters = match parameters(&frame.params) {
            Ok(parameters) => parameters,
            Err(refusal) => return Ok(Err(refusal).into()),
        };
        parameters.remove("returnRateLimits");
        let reply = match frame.method.trim_start_matches("v3/") {
            "ping" => Ok(json!({})).into(),
            "time" => Ok(general::time(&self.app)).into(),
            "userDataStream.subscribe.signature" => {
                let payload = signed(&frame.params);
                match self.subscribe(Params::of(parameters), &payload, line).await {
                    // The stream is cut: there is nobody to talk to.
                    Ok(None) => return Err(Over),
                    Ok(Some(id)) => Ok(json!({ "subscriptionId": id })).into(),
                    Err(refusal) => Err(refusal).into(),
                }
            }
            "userDataStream.unsubscribe" => self.unsubscribe(Params::of(parameters)).await,
            "session.subscriptions" => {
                let ids = self.subscriptions.values().map(|(id, _)| json!({ "subscriptionId": id }));
                Ok(ids.collect()).into()
            }
            _ => Err(ApiError::bad(-1020, "This operation is not supported.")).into(),
        };
        Ok(reply)
    }

    /// `None` while a fault keeps the stream down.
    async fn subscribe(&mut self, mut params: Params, payload: &str, line: &mut Line) -> Result<Option<u32>, ApiError> {
        let api_key = params.required("apiKey")?;
        let unknown = || Refusal::new(-2015, "Invalid API-key, IP, or permissions for action.");
        let key = self.app.keys.get(&api_key).ok_or_else(unknown)?.clone();
        line.account = Some(key.account.to_string());
        line.timestamp = params.stated_timestamp().map(Timestamp::micros);
        let signature = params.required("signature")?;
        if !key.verifier.verifies(payload.as_bytes(), &signature) {
            return Err(ApiError::bad(-1022, "Signature for this request is not valid."));
        }
        let validity = params.validity(self.app.recv_window)?;
        params.finish()?;
        if self.subscriptions.values().any(|(_, account)| *account == key.account) {
            return Err(ApiError::bad(-2035, "User Data Stream subscription already active."));
        }
        let (account, sender, reset) = (key.account.clone(), self.sender.clone(), self.reset.clone());
        let listening = self.app.read(validity, move |core, _| Ok(core.listen(account, sender, reset)));
        let Some(listening) = listening.await? else { return Ok(None) };
        let id = self.next;
        self.next = self.next.saturating_add(1);
        self.subscriptions.insert(listening, (id, key.account));
        Ok(Some(id))
    }

    async fn unsubscribe(&mut self, mut params: Params) -> Reply {
        let wanted = match params.number("subscriptionId").and_then(|wanted| params.finish().map(|()| wanted)) {
            Ok(wanted) => wanted,
            Err(refusal) => return Err(refusal).into(),
        };
        let ending: BTreeMap<u64, (u32, Label)> = self
            .subscriptions
            .extract_if(.., |_, (id, _)| wanted.is_none_or(|wanted| i64::from(*id) == wanted))
            .collect();
        if ending.is_empty() {
            return Err(ApiError::bad(-2036, "User Data Stream subscription not active.")).into();
        }
        let numbers: Vec<u64> = ending.keys().copied().collect();
        let ended = self.app.ask(move |core, _| {
            for number in numbers {
                core.unlisten(number);
            }
            Ok(())
        });
        let result = ended.await.map(|()| json!({}));
        let now = self.app.host.now();
        let events = ending.values().map(|(id, _)| json!({ "subscriptionId": id, "event": terminated(now) })).collect();
        Reply { result, events }
    }
}

fn weight(method: &str) -> u32 {
    if method.contains("userDataStream") || method.contains("session.") { 2 } else { 1 }
}

fn answer(id: &Value, result: &Result<Value, ApiError>, limits: Option<Value>, now: Timestamp) -> Value {
    let mut answer = match result {
        Ok(result) => json!({ "id": id, "status": 200, "result": result }),
        Err(refusal) => {
            let mut error = json!(ErrorBody::from(&refusal.refusal));
            if let (Some(seconds), Some(error)) = (refusal.retry_after, error.as_object_mut()) {
                let until = now.after(Duration::from_secs(seconds.into()));
                error.insert("data".into(), json!({ "serverTime": now.millis(), "retryAfter": until.millis() }));
            }
            json!({ "id": id, "status": refusal.status.as_u16(), "error": error })
        }
    };
    if let (Some(limits), Some(answer)) = (limits, answer.as_object_mut()) {
        answer.insert("rateLimits".into(), limits);
    }
    answer
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn parameters(params: &Map<String, Value>) -> Result<BTreeMap<String, String>, ApiError> {
    let text = |(name, value): (&String, &Value)| {
        text_of(value).map(|text| (name.clone(), text)).ok_or_else(|| ApiError::invalid(name))
    };
    params.iter().map(text).collect()
}

/// What is signed: all parameters but the signature, sorted by name.
fn signed(params: &Map<String, Value>) -> String {
    let sorted: BTreeMap<&String, String> = params
        .iter()
        .filter(|(name, _)| *name != "signature")
        .filter_map(|(name, value)| Some((name, text_of(value)?)))
        .collect();
    sorted.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}
