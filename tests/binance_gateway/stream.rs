//! The account's stream: what its consumer sees when the venue misbehaves.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use hotgo::config::BinanceConfig;
use hotgo::gateway::Gateway;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async};
use trading::exchange::{StreamEvent, VenueStatus};

use crate::wire::*;

type Peer = WebSocketStream<TcpStream>;

/// Takes WebSocket connections, answers the subscription, and hands the connection to the test.
struct Feed {
    address: SocketAddr,
    peers: mpsc::Receiver<Peer>,
    _jobs: JoinSet<()>,
}

impl Feed {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, peers) = mpsc::channel(16);
        let mut jobs = JoinSet::new();
        jobs.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let mut peer = accept_async(socket).await.unwrap();
                let request: Value = match peer.next().await {
                    Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
                    _ => continue,
                };
                assert_eq!(request["method"], "userDataStream.subscribe.signature");
                assert_eq!(request["params"]["apiKey"], API_KEY);
                assert_eq!(request["params"]["signature"].as_str().unwrap().len(), 64);
                tell(&mut peer, &json!({"id": request["id"], "status": 200, "result": {"subscriptionId": 0}})).await;
                if sender.send(peer).await.is_err() {
                    return;
                }
            }
        });
        Self { address, peers, _jobs: jobs }
    }

    async fn peer(&mut self) -> Peer {
        timeout(LIMIT, self.peers.recv()).await.expect("a connection in time").unwrap()
    }
}

async fn tell(peer: &mut Peer, message: &Value) {
    peer.send(Message::text(message.to_string())).await.unwrap();
}

/// An executionReport: order `id` is in this state, with `last` just filled and `total` in all.
fn report(id: i64, status: &str, last: &str, total: &str) -> Value {
    let execution = if last == "0" { status } else { "TRADE" };
    json!({"subscriptionId": 0, "event": {
        "e": "executionReport", "E": 1, "s": "BTCUSDT", "c": OURS, "C": "", "S": "BUY", "x": execution, "X": status,
        "i": id, "l": last, "z": total, "L": "87000", "n": "0.1", "N": "BNB", "T": 1, "t": 70 + id, "m": false,
    }})
}

/// The gateway, its stream, and the two ends of it.
struct Scene {
    rig: Rig,
    rest: Server,
    feed: Feed,
    events: mpsc::Receiver<StreamEvent>,
    peer: Peer,
    /// What the venue lists as open.
    open: Arc<Mutex<String>>,
}

impl Scene {
    async fn open(tweak: impl FnOnce(&mut BinanceConfig)) -> Self {
        Self::open_with("[]", tweak).await
    }

    /// The venue lists these orders from the beginning.
    async fn open_with(list: &str, tweak: impl FnOnce(&mut BinanceConfig)) -> Self {
        let open = Arc::new(Mutex::new(list.to_owned()));
        let shown = Arc::clone(&open);
        let rest = Server::start(move |request| {
            request.is("GET /api/v3/openOrders").then(|| ok(shown.lock().unwrap().clone()))
        })
        .await;
        let mut feed = Feed::start().await;
        let rig = Rig::new(rest.address, feed.address, tweak);
        rig.wait_for_time(&rest).await;
        let events = rig.gateway.subscribe().await.unwrap();
        let peer = feed.peer().await;
        let mut scene = Self { rig, rest, feed, events, peer, open };
        assert_eq!(scene.next().await, StreamEvent::Up);
        scene
    }

    async fn next(&mut self) -> StreamEvent {
        timeout(LIMIT, self.events.recv()).await.expect("an event in time").expect("the stream does not end")
    }

    async fn next_report(&mut self) -> (VenueStatus, usize) {
        match self.next().await {
            StreamEvent::Report(report) => (report.status, report.fills.len()),
            other => panic!("{other:?}"),
        }
    }

    async fn assert_down_and_up(&mut self) {
        assert_eq!(self.next().await, StreamEvent::Down);
        assert_eq!(self.next().await, StreamEvent::Up);
    }
}

#[tokio::test]
async fn the_first_event_is_up_and_reports_follow() {
    let mut scene = Scene::open(|_| {}).await;
    tell(&mut scene.peer, &json!({"subscriptionId": 0, "event": {"e": "balanceUpdate", "E": 1}})).await;
    tell(&mut scene.peer, &report(1, "NEW", "0", "0")).await;
    tell(&mut scene.peer, &report(1, "FILLED", "0.2", "0.2")).await;
    assert_eq!(scene.next_report().await, (VenueStatus::New, 0));
    assert_eq!(scene.next_report().await, (VenueStatus::Filled, 1));
}

#[tokio::test]
async fn a_subscription_that_is_refused_is_an_error_and_not_a_silent_stream() {
    let rest = Server::start(|_| None).await;
    let rig = Rig::new(rest.address, rest.address, |_| {});
    rig.wait_for_time(&rest).await;
    assert!(rig.gateway.subscribe().await.is_err());
}

#[tokio::test]
async fn a_lost_connection_is_told_and_made_again() {
    let Scene { rig, rest, mut feed, mut events, mut peer, open } = Scene::open(|_| {}).await;
    for _ in 0..3 {
        drop(peer);
        peer = feed.peer().await;
        for expected in [StreamEvent::Down, StreamEvent::Up] {
            assert_eq!(timeout(LIMIT, events.recv()).await.unwrap(), Some(expected));
        }
    }
    let mut scene = Scene { rig, rest, feed, events, peer, open };
    tell(&mut scene.peer, &report(1, "NEW", "0", "0")).await;
    assert_eq!(scene.next_report().await, (VenueStatus::New, 0));
}

#[tokio::test]
async fn a_terminated_subscription_is_made_again() {
    let mut scene = Scene::open(|_| {}).await;
    tell(&mut scene.peer, &json!({"subscriptionId": 0, "event": {"e": "eventStreamTerminated", "E": 1}})).await;
    scene.assert_down_and_up().await;
    scene.peer = scene.feed.peer().await;
    tell(&mut scene.peer, &report(1, "NEW", "0", "0")).await;
    assert_eq!(scene.next_report().await, (VenueStatus::New, 0));
}

#[tokio::test]
async fn a_connection_on_which_not_even_pings_are_heard_is_dead() {
    let mut scene = Scene::open(|config| config.silence_ms = 300).await;
    let pings = async {
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
        for _ in 0..20 {
            tick.tick().await;
            scene.peer.send(Message::Ping(Vec::new().into())).await.unwrap();
        }
    };
    pings.await;
    assert!(scene.events.try_recv().is_err(), "pings are signs of life");
    scene.assert_down_and_up().await;
}

#[tokio::test]
async fn a_missing_fill_shows_in_the_next_total() {
    let mut scene = Scene::open(|_| {}).await;
    tell(&mut scene.peer, &report(1, "PARTIALLY_FILLED", "0.1", "0.1")).await;
    tell(&mut scene.peer, &report(1, "PARTIALLY_FILLED", "0.1", "0.3")).await;
    assert_eq!(scene.next_report().await, (VenueStatus::PartiallyFilled, 1));
    assert_eq!(scene.next_report().await, (VenueStatus::PartiallyFilled, 1), "the report itself is not lost");
    scene.assert_down_and_up().await;
    tell(&mut scene.peer, &report(2, "NEW", "0", "0")).await;
    assert_eq!(scene.next_report().await, (VenueStatus::New, 0), "the connection is the same");
}

/// Order 1 is open.
fn listed() -> String {
    json!([{"symbol": "BTCUSDT", "orderId": 1, "clientOrderId": OURS, "executedQty": "0", "status": "NEW", "side": "BUY"}])
        .to_string()
}

/// Its consumer saw it open when the stream came up, and the very next event is lost.
#[tokio::test]
async fn an_order_of_before_that_vanishes_as_soon_as_the_stream_is_up_is_found_by_the_sweep() {
    let mut scene = Scene::open_with(&listed(), |config| config.reconcile_ms = 100).await;
    *scene.open.lock().unwrap() = "[]".to_owned();
    scene.assert_down_and_up().await;
}

#[tokio::test]
async fn an_order_that_vanished_without_a_word_is_found_by_the_sweep() {
    let mut scene = Scene::open(|config| config.reconcile_ms = 100).await;
    eventually("a first list", || scene.rest.seen("GET /api/v3/openOrders").len() >= 3).await;
    *scene.open.lock().unwrap() = listed();
    tell(&mut scene.peer, &report(1, "NEW", "0", "0")).await;
    assert_eq!(scene.next_report().await, (VenueStatus::New, 0));
    let swept = scene.rest.seen("GET /api/v3/openOrders").len() + 5;
    eventually("more lists", || scene.rest.seen("GET /api/v3/openOrders").len() >= swept).await;
    assert!(scene.events.try_recv().is_err(), "list and stream agree");
    *scene.open.lock().unwrap() = "[]".to_owned();
    scene.assert_down_and_up().await;
    let swept = scene.rest.seen("GET /api/v3/openOrders").len() + 5;
    eventually("more lists", || scene.rest.seen("GET /api/v3/openOrders").len() >= swept).await;
    assert!(scene.events.try_recv().is_err(), "one gap is told once");
}

#[tokio::test]
async fn a_connection_is_replaced_before_it_ends_and_nothing_is_told() {
    let mut scene = Scene::open(|_| {}).await;
    tell(&mut scene.peer, &json!({"event": {"e": "serverShutdown", "E": 1}})).await;
    let mut successor = scene.feed.peer().await;
    // The new one is subscribed; the old one still lives, and both are heard.
    tell(&mut scene.peer, &report(1, "NEW", "0", "0")).await;
    assert_eq!(scene.next_report().await, (VenueStatus::New, 0));
    tell(&mut successor, &report(1, "PARTIALLY_FILLED", "0.1", "0.1")).await;
    assert_eq!(scene.next_report().await, (VenueStatus::PartiallyFilled, 1));
    // The old one is let go by itself.
    let ended = async { while let Some(Ok(_)) = scene.peer.next().await {} };
    timeout(LIMIT, ended).await.expect("the old connection is closed");
    tell(&mut successor, &report(1, "FILLED", "0.1", "0.2")).await;
    assert_eq!(scene.next_report().await, (VenueStatus::Filled, 1));
}

#[tokio::test]
async fn a_connection_is_replaced_when_its_time_has_come() {
    let mut scene = Scene::open(|config| config.rotate_ms = 200).await;
    let _successor = scene.feed.peer().await;
    assert!(scene.events.try_recv().is_err());
}

#[tokio::test]
async fn a_slow_consumer_is_told_that_it_missed_something() {
    const MANY: i64 = 3_000;
    let mut scene = Scene::open(|_| {}).await;
    for id in 0..MANY {
        tell(&mut scene.peer, &report(id, "NEW", "0", "0")).await;
    }
    let mut reports = 0;
    loop {
        match scene.next().await {
            StreamEvent::Report(_) => reports += 1,
            StreamEvent::Down => break,
            StreamEvent::Up => panic!("up twice"),
        }
    }
    assert!(reports < MANY, "{reports}");
    assert_eq!(scene.next().await, StreamEvent::Up);
}

#[tokio::test]
async fn nobody_who_listens_ends_the_connection() {
    let mut scene = Scene::open(|_| {}).await;
    let Scene { events, peer, .. } = &mut scene;
    events.close();
    let ended = async { while let Some(Ok(_)) = peer.next().await {} };
    timeout(LIMIT, ended).await.expect("the connection is closed");
    drop(scene.rig);
}
