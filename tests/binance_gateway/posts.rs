//! One POST per order, whatever happens to it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hotgo::gateway::Gateway;
use ring::hmac;
use tokio::time::Instant;
use trading::exchange::{CancelResult, SendResult};

use crate::wire::*;

/// Sends one order to a server that does this with it. Returns the result and how often the POST arrived.
async fn send_to(reply: Reply) -> (SendResult, usize) {
    let server = Server::start(move |request| request.is("POST ").then(|| reply.clone())).await;
    let rig = Rig::to(&server).await;
    let result = rig.gateway.send(&order()).await;
    (result, server.seen("POST ").len())
}

fn raw(text: &str) -> Reply {
    Reply::Bytes(text.as_bytes().to_vec())
}

#[tokio::test]
async fn an_accepted_order_is_posted_once_signed_over_exactly_what_was_sent() {
    let server = Server::start(|request| request.is("POST ").then(|| ok(filled(OURS)))).await;
    let rig = Rig::to(&server).await;
    let order = order();
    let SendResult::Accepted(report) = rig.gateway.send(&order).await else { panic!("not accepted") };
    assert_eq!(report.fills.len(), 1);
    let posts = server.seen("POST ");
    let [post] = &posts[..] else { panic!("{posts:?}") };
    assert_eq!(post.line, "POST /api/v3/order");
    assert!(post.head.to_lowercase().contains(&format!("x-mbx-apikey: {API_KEY}").to_lowercase()), "{}", post.head);
    assert!(post.head.contains("application/x-www-form-urlencoded"), "{}", post.head);
    let (payload, signature) = post.body.rsplit_once("&signature=").unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, payload.as_bytes());
    let expected = tag.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    assert_eq!(signature, expected);
    assert_eq!(post.param("recvWindow").unwrap(), "2000");
    assert_eq!(post.param("newClientOrderId").unwrap(), OURS);
}

#[tokio::test]
async fn whatever_befalls_a_post_that_was_sent_it_is_unknown_and_is_not_repeated() {
    let cut_body = format!("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}", filled(OURS));
    let too_large = format!("HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n{}", "x".repeat(9_000_000));
    let redirect = |status| Reply::Answer(status, vec![("Location", "/api/v3/order".to_owned())], String::new());
    let cases = [
        ("silence", Reply::Silence),
        ("a reset", Reply::Reset),
        ("the end of the connection", raw("")),
        ("half a head", raw("HTTP/1.1 200 OK\r\nContent-Le")),
        ("half a body", raw(&cut_body)),
        ("no HTTP", raw("SSH-2.0-OpenSSH_9.6\r\n\r\n")),
        ("a body that is too large", raw(&too_large)),
        ("no JSON", ok("<html>")),
        ("an empty body", ok("")),
        ("a fill that makes no sense", ok(filled(OURS).replace("87000.00000000", "-1"))),
        ("another order's answer", ok(filled("h9999999999abcdefghjkmnpqrs"))),
        ("a server error", error(500, -1000, "An unknown error occurred while processing the request.")),
        ("a bad gateway", Reply::Answer(502, Vec::new(), "<html>".to_owned())),
        ("busy", error(503, -1008, "Server is currently overloaded with other requests.")),
        ("a gateway time-out", error(504, -1007, "Timeout waiting for response from backend server.")),
        ("an unexpected response", error(400, -1006, "Execution status unknown.")),
        ("a firewall", Reply::Answer(403, Vec::new(), "<html>".to_owned())),
        ("a duplicate", error(400, -2010, "Duplicate order sent.")),
        ("a code of next year", error(400, -1999, "?")),
        ("a redirect that keeps the method", redirect(307)),
        ("a permanent redirect", redirect(308)),
        ("a redirect", redirect(301)),
    ];
    for (what, reply) in cases {
        let (result, posts) = send_to(reply).await;
        assert!(matches!(result, SendResult::Unknown { .. }), "{what}: {result:?}");
        assert_eq!(posts, 1, "{what}: {result:?}");
    }
}

#[tokio::test]
async fn a_documented_refusal_is_definitive_and_is_not_repeated() {
    for (status, code, message) in [
        (400, -2010, "Account has insufficient balance for requested action."),
        (400, -1013, "Filter failure: LOT_SIZE"),
        (400, -1022, "Signature for this request is not valid."),
        (401, -2015, "Invalid API-key, IP, or permissions for action."),
        (429, -1015, "Too many new orders."),
    ] {
        let (result, posts) = send_to(error(status, code, message)).await;
        let expected = SendResult::Refused { code, reason: message.to_owned() };
        assert_eq!((result, posts), (expected, 1));
    }
}

#[tokio::test]
async fn without_a_connection_an_order_was_certainly_not_sent() {
    let mut server = Server::start(|_| None).await;
    let rig = Rig::to(&server).await;
    server.stop().await;
    let result = rig.gateway.send(&order()).await;
    assert!(matches!(result, SendResult::NotSent { .. }), "{result:?}");
    assert!(server.seen("POST ").is_empty());
}

#[tokio::test]
async fn before_the_venues_clock_is_known_nothing_is_signed() {
    let server = Server::start(|request| request.is("GET /api/v3/time").then_some(Reply::Silence)).await;
    let rig = Rig::new(server.address, server.address, |_| {});
    let result = rig.gateway.send(&order()).await;
    assert!(matches!(&result, SendResult::NotSent { reason } if reason.contains("clock")), "{result:?}");
    assert!(server.seen("POST ").is_empty());
}

/// The one place where the library below would send again by itself: a kept-alive connection that dies as it is used.
#[tokio::test]
async fn a_kept_alive_connection_that_dies_carries_an_order_once_or_not_at_all() {
    for round in 0..20 {
        let server = Server::start(move |request| match request.line.as_str() {
            "POST /api/v3/order" => Some(Reply::Reset),
            line if line.starts_with("GET /api/v3/openOrders") && round % 2 == 0 => {
                Some(Reply::AnswerAndClose("[]".to_owned()))
            }
            line if line.starts_with("GET /api/v3/openOrders") => Some(ok("[]")),
            _ => None,
        })
        .await;
        let rig = Rig::to(&server).await;
        rig.gateway.open_orders().await.unwrap();
        // At once, so that the end of the connection is met in every state that it can be in.
        let result = rig.gateway.send(&order()).await;
        let posts = server.seen("POST ");
        match result {
            SendResult::Unknown { .. } => assert!(posts.len() <= 1, "round {round}: {posts:?}"),
            SendResult::NotSent { .. } => assert!(posts.is_empty(), "round {round}"),
            other => panic!("round {round}: {other:?}"),
        }
        let kept_alive = server.seen("GET /api/v3/openOrders").last().unwrap().connection;
        assert!(
            round % 2 == 0 || posts[0].connection == kept_alive,
            "round {round}: the connection was not used again"
        );
    }
}

#[tokio::test]
async fn the_orders_time_is_sent_as_the_venues_clock_shows_it() {
    const AHEAD_MS: i64 = 3_600_000;
    let server = Server::start(|request| match request.line.as_str() {
        "GET /api/v3/time" => Some(ok(format!(r#"{{"serverTime":{}}}"#, now().millis() + AHEAD_MS))),
        "POST /api/v3/order" => Some(ok(filled(OURS))),
        _ => None,
    })
    .await;
    let rig = Rig::to(&server).await;
    let order = order();
    rig.gateway.send(&order).await;
    let sent: i64 = server.seen("POST ")[0].param("timestamp").unwrap().parse().unwrap();
    let error = sent - (order.timestamp.millis() + AHEAD_MS);
    assert!(error.abs() <= 2_000, "off by {error} ms: more than half of the longest round trip that counts");
}

#[tokio::test]
async fn a_refused_timestamp_has_the_clock_measured_again() {
    let server = Server::start(|request| {
        request.is("POST ").then(|| error(400, -1021, "Timestamp for this request is outside of the recvWindow."))
    })
    .await;
    let rig = Rig::to(&server).await;
    let before = server.seen("GET /api/v3/time").len();
    let result = rig.gateway.send(&order()).await;
    assert!(matches!(result, SendResult::Refused { code: -1021, .. }), "{result:?}");
    eventually("the time is asked for", || server.seen("GET /api/v3/time").len() > before).await;
}

#[tokio::test]
async fn after_a_429_nothing_reaches_the_wire_until_retry_after() {
    for status in [429, 418] {
        let refused = AtomicUsize::new(0);
        let server = Server::start(move |request| match request.line.split('?').next().unwrap() {
            "POST /api/v3/order" => {
                refused.fetch_add(1, Ordering::Relaxed);
                let body = r#"{"code":-1003,"msg":"Too many requests"}"#.to_owned();
                Some(Reply::Answer(status, vec![("Retry-After", "3".to_owned())], body))
            }
            "GET /api/v3/openOrders" => Some(ok("[]")),
            _ => None,
        })
        .await;
        let rig = Rig::to(&server).await;
        assert!(matches!(rig.gateway.send(&order()).await, SendResult::Refused { code: -1003, .. }));
        let banned_at = Instant::now();
        let arrived = server.requests().len();
        let result = rig.gateway.send(&order()).await;
        assert!(matches!(&result, SendResult::NotSent { reason } if reason.contains("stop sending")), "{result:?}");
        // The rest would have to wait for longer than a request may take.
        assert!(rig.gateway.open_orders().await.is_err());
        let cancel = rig.gateway.cancel(&order().symbol, &order().client_id).await;
        assert!(matches!(cancel, CancelResult::Unknown { .. }), "{cancel:?}");
        assert_eq!(server.requests().len(), arrived, "nothing was sent");
        let opened = async { while rig.gateway.open_orders().await.is_err() {} };
        tokio::time::timeout(LIMIT, opened).await.unwrap();
        assert!(banned_at.elapsed() >= Duration::from_secs(3), "{:?}", banned_at.elapsed());
    }
}

#[tokio::test]
async fn an_entry_without_budget_is_not_sent_while_a_cancel_still_is() {
    let server = Server::start(|request| match request.line.split('?').next().unwrap() {
        "GET /api/v3/exchangeInfo" => Some(ok(r#"{"rateLimits":[{"rateLimitType":"REQUEST_WEIGHT",
            "interval":"MINUTE","intervalNum":1,"limit":300}],"symbols":[]}"#)),
        // The headers say that others at this address have used almost everything.
        "GET /api/v3/account" => {
            Some(Reply::Answer(200, vec![("X-MBX-USED-WEIGHT-1M", "260".to_owned())], r#"{"balances":[]}"#.to_owned()))
        }
        "DELETE /api/v3/order" => Some(error(400, -2011, "Unknown order sent.")),
        _ => None,
    })
    .await;
    let rig = Rig::to(&server).await;
    rig.gateway.symbols().await.unwrap();
    // A minute of the venue may begin in between; then it is used up again.
    for _ in 0..2 {
        rig.gateway.balances().await.unwrap_or_default();
        let result = rig.gateway.send(&order()).await;
        if matches!(&result, SendResult::NotSent { reason } if reason.contains("weight")) {
            let cancel = rig.gateway.cancel(&order().symbol, &order().client_id).await;
            assert_eq!(cancel, CancelResult::UnknownOrder);
            assert!(server.seen("POST ").is_empty());
            return;
        }
    }
    panic!("the entry was sent");
}
