//! `main venue`, the simulated exchange as a process of its own, as whoever trades there meets it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{CLEAN, Client, eventually, within};
use futures_util::StreamExt as _;
use hyper::Method;
use ring::hmac;
use serde_json::{Value, json};
use shutdown_coordinator::testkit::{Exit, Process, Signal};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

const LIMIT: Duration = Duration::from_secs(20);
const KEY: &str = "KEY1";
const SECRET: &str = "a secret";

/// One process.
struct Venue {
    process: Process,
    address: SocketAddr,
    data_dir: PathBuf,
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
    command.args(["venue", "--data-dir"]).arg(dir).args(["--key", &format!("main:{KEY}:{SECRET}")]).args(arguments);
    command.current_dir(dir.parent().unwrap());
    command
}

impl Venue {
    async fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut process = Process::start(command(dir, arguments)).unwrap().patience(LIMIT);
        let address =
            |line: &str| line.strip_prefix("venue listening on http://").map(|rest| rest.trim().parse().unwrap());
        let address = process.find_line("where it listens", address).await.unwrap();
        Self { process, address, data_dir: dir.to_owned() }
    }

    fn client(&self) -> Client {
        Client::tcp(self.address, None)
    }

    fn control(&self) -> Client {
        Client::unix(&self.data_dir.join("venue.sock"))
    }

    async fn place(&self, id: &str) -> (u16, Value) {
        place(&self.client(), id).await.unwrap()
    }

    async fn stop(mut self) {
        self.process.signal(Signal::Term).unwrap();
        assert_eq!(self.process.exit_within(LIMIT).await.unwrap(), CLEAN, "{}", self.process.stderr());
    }
}

fn now_ms() -> u128 {
    #[expect(clippy::disallowed_methods, reason = "a client has a clock of its own")]
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

fn sign(text: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), text.as_bytes());
    tag.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

async fn signed(client: &Client, method: Method, path: &str, text: &str) -> Option<(u16, Value)> {
    let text = format!("{text}&recvWindow=60000&timestamp={}", now_ms());
    let path = format!("/api/v3/{path}?{text}&signature={}", sign(&text));
    let answer = client.request(method, &path, &[("x-mbx-apikey", KEY)], None).await.ok()?;
    Some((answer.status, answer.json()))
}

/// An order that rests.
async fn place(client: &Client, id: &str) -> Option<(u16, Value)> {
    let text =
        format!("symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.0001&price=50000&newClientOrderId={id}");
    signed(client, Method::POST, "order", &text).await
}

async fn query(client: &Client, id: &str) -> (u16, Value) {
    signed(client, Method::GET, "order", &format!("symbol=BTCUSDT&origClientOrderId={id}")).await.unwrap()
}

async fn websocket(venue: &Venue, path: &str) -> WebSocketStream<TcpStream> {
    let stream = within(LIMIT, "a connection", TcpStream::connect(venue.address)).await.unwrap();
    let handshake = client_async(format!("ws://{}{path}", venue.address), stream);
    within(LIMIT, "a websocket", handshake).await.unwrap().0
}

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::Builder::new().prefix("hotgo-").tempdir().unwrap();
    let path = directory.path().join("venue");
    (directory, path)
}

#[tokio::test]
async fn it_takes_orders_tells_of_them_misbehaves_on_demand_and_stops_clean() {
    let (_directory, dir) = directory();
    let venue = Venue::start(&dir, &["--allow-faults"]).await;
    let mut stream = websocket(&venue, "/ws-api/v3").await;
    let timestamp = now_ms();
    let signature = sign(&format!("apiKey={KEY}&timestamp={timestamp}"));
    let params = json!({ "apiKey": KEY, "timestamp": u64::try_from(timestamp).unwrap(), "signature": signature });
    let subscribe = json!({ "id": 1, "method": "userDataStream.subscribe.signature", "params": params });
    futures_util::SinkExt::send(&mut stream, Message::text(subscribe.to_string())).await.unwrap();
    let mut next = async || loop {
        match within(LIMIT, "a message", stream.next()).await {
            Some(Ok(Message::Text(text))) => return Some(serde_json::from_str::<Value>(&text).unwrap()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    };
    assert_eq!(next().await.unwrap()["status"], 200);
    assert_eq!(venue.place("mine").await.0, 200);
    assert_eq!(next().await.unwrap()["event"]["c"], "mine");
    let mut prices = websocket(&venue, "/ws/btcusdt@bookTicker").await;
    assert!(matches!(within(LIMIT, "a price", prices.next()).await, Some(Ok(Message::Text(_)))));
    let refused = venue.control().post("/faults", &json!({ "nonsense": 1 })).await.unwrap();
    assert_eq!(refused.status, 422);
    venue.control().post("/faults", &json!({ "reject": { "code": -1013, "reason": "no", "times": 1 } })).await.unwrap();
    assert_eq!(venue.place("no").await.1["code"], -1013);
    assert_eq!(venue.control().get("/faults").await.unwrap().json()["fired"]["reject"], 1);
    // An answer that is held back does not hold up the end.
    venue.control().post("/faults", &json!({ "hold_answers": {} })).await.unwrap();
    let mut held = JoinSet::new();
    let client = venue.client();
    held.spawn(async move { place(&client, "held").await });
    let fired =
        async || (venue.control().get("/faults").await.unwrap().json()["fired"]["hold_answers"] == 1).then_some(());
    eventually(LIMIT, "the answer is held", fired).await;
    venue.stop().await;
    assert_eq!(within(LIMIT, "the held request ends", held.join_next()).await.unwrap().unwrap().unwrap().0, 503);
    let mut last = Value::Null;
    while let Some(message) = next().await {
        last = message;
    }
    assert_eq!(last["event"]["e"], "serverShutdown");
}

#[tokio::test]
async fn a_venue_that_is_killed_and_started_again_has_everything_that_it_answered() {
    let (_directory, dir) = directory();
    let arguments = ["--order-limit", "1000000", "--weight-limit", "1000000"];
    let mut venue = Venue::start(&dir, &arguments).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for sender in 0..4 {
        let (client, answered) = (venue.client(), Arc::clone(&answered));
        senders.spawn(async move {
            let mut ids = Vec::new();
            for n in 0.. {
                let id = format!("s{sender}n{n}");
                match place(&client, &id).await {
                    Some((200, _)) => ids.push(id),
                    // The symbol's limit of open orders is reached: cancel, which is answered too.
                    Some((400, _)) => drop(
                        signed(
                            &client,
                            Method::DELETE,
                            "order",
                            &format!("symbol=BTCUSDT&origClientOrderId={}", ids.pop().unwrap()),
                        )
                        .await,
                    ),
                    Some((status, body)) => panic!("{status}: {body}"),
                    None => return ids,
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
            ids
        });
    }
    eventually(LIMIT, "some are answered", async || (answered.load(Ordering::Relaxed) > 40).then_some(())).await;
    assert_eq!(venue.process.kill().await.unwrap(), Exit::Signal(9));
    let mut ids = Vec::new();
    while let Some(sent) = within(LIMIT, "the senders end", senders.join_next()).await {
        ids.extend(sent.unwrap());
    }
    let venue = Venue::start(&dir, &arguments).await;
    for id in &ids {
        let (status, order) = query(&venue.client(), id).await;
        assert_eq!((status, &order["clientOrderId"]), (200, &json!(id)), "{order}");
    }
    let lines = std::fs::read_to_string(dir.join("requests.jsonl")).unwrap();
    assert!(lines.lines().count() > ids.len());
    venue.stop().await;
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let (_directory, dir) = directory();
    let venue = Venue::start(&dir, &[]).await;
    let mut second = Process::start(command(&dir, &[])).unwrap();
    assert_eq!(second.exit_within(LIMIT).await.unwrap(), Exit::Code(4), "{}", second.stderr());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&dir).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    let refused = venue.control().post("/faults", &json!({ "hold_answers": {} })).await.unwrap();
    assert_eq!(refused.status, 422, "faults were not allowed");
    venue.stop().await;
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_a_wrong_command_line() {
    let (directory, dir) = directory();
    let pem = directory.path().join("key.pem");
    let good = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
    std::fs::write(&pem, good).unwrap();
    let key = format!("second:KEY2:@{}", pem.display());
    Venue::start(&dir, &["--key", &key]).await.stop().await;
    std::fs::write(&pem, "no key").unwrap();
    for bad in
        [key.as_str(), "second:KEY2:@/nowhere/key.pem", "second:KEY2", "second:KEY 2:x", ":KEY2:x", "second:KEY1:x"]
    {
        let mut process = Process::start(command(&dir, &["--key", bad])).unwrap();
        assert_eq!(process.exit_within(LIMIT).await.unwrap(), Exit::Code(2), "{bad}");
    }
    let mut homeless = Command::new(env!("CARGO_BIN_EXE_main"));
    homeless.args(["venue", "--key", "main:KEY1:x"]).current_dir(directory.path());
    assert_eq!(Process::start(homeless).unwrap().exit_within(LIMIT).await.unwrap(), Exit::Code(2));
}

async fn main_command(arguments: &[&str], data_dir: &Path, ledger: &Path) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_main"));
    command.args(arguments).arg("--data-dir").arg(data_dir).env("HOTGO__VENUE__PAPER__LEDGER", ledger);
    let output = within(LIMIT, "the command ends", command.kill_on_drop(true).output()).await.unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn an_order_without_a_committed_row_is_refused_and_the_audit_calls_it_lost() {
    let (directory, dir) = directory();
    let server = directory.path().join("server");
    let ledger = dir.join("venue.ledger");
    let database = server.join("hotgo.db");
    let venue = Venue::start(&dir, &["--witness", database.to_str().unwrap()]).await;
    let (early, late) = ("h00000000000000000000000001", "h00000000000000000000000002");
    assert_eq!(venue.place(early).await.1["code"], -9000, "there is not even a database");
    assert_eq!(main_command(&["migrate", "up"], &server, &ledger).await.0, 0);
    assert_eq!(venue.place(late).await.1["code"], -9000);
    let mut connection = rusqlite::Connection::open(&database).unwrap();
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    let transaction = connection.transaction().unwrap();
    let id = "h00000000000000000000000003";
    let insert = "INSERT INTO hg_trading_order VALUES (?, 1, 10001, 1, 0, 0, 'BTCUSDT', 'buy', 'limit', '50000', NULL, 'gtc', \
                  '0.0001', 'SENDING', 'NONE', 1, 1, 1, 1, NULL, NULL, '0', '0', '0', NULL, 1, 1, 1)";
    transaction.execute(insert, [id]).unwrap();
    assert_eq!(venue.place(id).await.1["code"], -9000, "written, but not committed");
    transaction.execute("DELETE FROM hg_trading_order", []).unwrap();
    let id = "h00000000000000000000000004";
    transaction.execute(insert, [id]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(venue.place(id).await.0, 200, "its row is committed");
    connection.execute("DELETE FROM hg_trading_order", []).unwrap();
    drop(connection);
    venue.stop().await;
    let (code, text) = main_command(&["audit", "--settle", "0"], &server, &ledger).await;
    assert_eq!(code, 8, "{text}");
    for lost in [early, late] {
        assert!(
            text.contains(&format!("C1 lost: account main: order {lost} was sent before its row was committed")),
            "{text}"
        );
    }
}
