//! Market streams at `/ws/<stream>` and `/stream?streams=` (`web-socket-streams.md`): `bookTicker` and `trade`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::sleep_until;
use trading::market::Market;

use super::App;
use super::events::server_shutdown;
use super::socket::{Over, Socket, bounded};
use super::wire::Number;
use crate::host::Published;

/// More streams than this are not taken by one connection.
const STREAMS: usize = 1024;

#[derive(Debug, Deserialize)]
pub(super) struct Names {
    #[serde(default)]
    streams: String,
}

#[derive(Debug, Deserialize)]
struct Command {
    method: String,
    #[serde(default)]
    params: Vec<String>,
    #[serde(default)]
    id: Value,
}

pub(super) async fn combined(
    State(app): State<Arc<App>>,
    Query(names): Query<Names>,
    upgrade: WebSocketUpgrade,
) -> Response {
    open(app, &names.streams, true, upgrade)
}

pub(super) async fn raw(State(app): State<Arc<App>>, Path(name): Path<String>, upgrade: WebSocketUpgrade) -> Response {
    open(app, &name, false, upgrade)
}

fn open(app: Arc<App>, names: &str, combined: bool, upgrade: WebSocketUpgrade) -> Response {
    let names = names.split('/').filter(|name| !name.is_empty()).take(STREAMS).map(str::to_owned).collect();
    let events = app.host.market();
    let token = app.tasks.token();
    bounded(upgrade).on_upgrade(move |socket| async move {
        // Its outcome is that the connection is over.
        let _over = run(&app, Socket::new(socket), events, names, combined).await;
        drop(token);
    })
}

async fn run(
    app: &App,
    mut socket: Socket,
    mut events: broadcast::Receiver<Published>,
    mut names: BTreeSet<String>,
    combined: bool,
) -> Result<(), Over> {
    loop {
        let until = socket.until;
        tokio::select! {
            biased;
            () = app.stop.cancelled() => {
                let event = server_shutdown(app.host.now());
                let event = if combined { json!({ "stream": "!serverShutdown", "data": event }) } else { event };
                socket.send(&event).await?;
                socket.close("the venue stops").await;
                return Ok(());
            }
            () = sleep_until(until) => {
                socket.close("24 hours are over").await;
                return Ok(());
            }
            event = events.recv() => match event {
                Ok(event) => {
                    let (name, data) = payload(&event);
                    if names.contains(&name) {
                        let message = if combined { json!({ "stream": name, "data": data }) } else { data };
                        socket.send(&message).await?;
                    }
                }
                // Prices are not a record: whoever falls behind goes on with the newest.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(Over),
            },
            text = socket.next() => {
                let answer = obey(&mut names, &text?);
                socket.send(&answer).await?;
            }
        }
    }
}

fn obey(names: &mut BTreeSet<String>, text: &str) -> Value {
    let command = match serde_json::from_str::<Command>(text) {
        Ok(command) => command,
        Err(error) if error.is_data() => return json!({ "code": 2, "msg": format!("Invalid request: {error}") }),
        Err(error) => return json!({ "code": 3, "msg": format!("Invalid JSON: {error}") }),
    };
    let result = match command.method.as_str() {
        "SUBSCRIBE" if names.len().saturating_add(command.params.len()) <= STREAMS => {
            names.extend(command.params);
            Value::Null
        }
        "UNSUBSCRIBE" => {
            names.retain(|name| !command.params.contains(name));
            Value::Null
        }
        "LIST_SUBSCRIPTIONS" => json!(names),
        "SUBSCRIBE" => return json!({ "code": 2, "msg": "Invalid request: too many parameters", "id": command.id }),
        other => {
            let msg = format!("Invalid request: unknown variant `{other}`");
            return json!({ "code": 2, "msg": msg, "id": command.id });
        }
    };
    json!({ "result": result, "id": command.id })
}

/// The stream that an event belongs to, and the event.
fn payload(event: &Published) -> (String, Value) {
    let symbol = event.market.symbol().as_str();
    let stream = |name: &str| format!("{}@{name}", symbol.to_ascii_lowercase());
    match &*event.market {
        Market::Quote(quote) => (
            stream("bookTicker"),
            json!({
                "u": event.id,
                "s": symbol,
                "b": Number(quote.bid.get()),
                "B": Number(quote.bid_qty.get()),
                "a": Number(quote.ask.get()),
                "A": Number(quote.ask_qty.get()),
            }),
        ),
        Market::Trade(trade) => (
            stream("trade"),
            json!({
                "e": "trade",
                "E": trade.at.millis(),
                "s": symbol,
                "t": event.id,
                "p": Number(trade.price.get()),
                "q": Number(trade.qty.get()),
                "T": trade.at.millis(),
                "m": trade.buyer_is_maker,
                "M": true,
            }),
        ),
    }
}
