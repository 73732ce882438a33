//! What is refused, and how it is named.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::{World, request};

#[tokio::test]
async fn every_kind_of_bad_signal_is_refused_by_its_field_and_changes_nothing() {
    let world = World::new().await;
    let (robot, _) = world.robot("r").await;
    let before = world.submitted();
    let signal = |rest: &str| format!(r#"{{"robot":{robot},"action":"buy"{rest}}}"#);
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let table: &[(String, u16, &str, Option<&str>)] = &[
        ("{".into(), 400, "malformed-json", None),
        ("not json".into(), 400, "malformed-json", None),
        (signal(r#","qty":NaN"#), 400, "malformed-json", None),
        (signal(r#","qty":"1""#) + "x", 400, "malformed-json", None),
        (deep.clone(), 400, "too-deep", None),
        (signal(&format!(r#","x":{deep}"#)), 400, "too-deep", None),
        (" ".repeat(70_000), 413, "body-too-large", None),
        ("[]".into(), 422, "invalid-field", Some(".")),
        (format!(r#"[{robot},"buy","1",null,null,null]"#), 422, "invalid-field", Some(".")),
        (signal(r#","order":["limit","1",null]"#), 422, "invalid-field", Some("order")),
        ("1".into(), 422, "invalid-field", Some(".")),
        ("{}".into(), 422, "invalid-field", Some("robot")),
        (r#"{"robot":"1","action":"buy"}"#.into(), 422, "invalid-field", Some("robot")),
        (r#"{"robot":1.5,"action":"buy"}"#.into(), 422, "invalid-field", Some("robot")),
        (r#"{"robot":1}"#.into(), 422, "invalid-field", Some("action")),
        (r#"{"robot":1,"action":"hold"}"#.into(), 422, "invalid-field", Some("action")),
        (signal(r#","surprise":1"#), 422, "invalid-field", Some("surprise")),
        (signal(r#","qty":"1","qty":"2""#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":0.1"#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":1"#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":1e308"#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":1e999"#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":"NaN""#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":"Infinity""#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":"1e308""#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":"-1""#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":"0""#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":"0.000000001""#), 422, "invalid-field", Some("qty")),
        (signal(r#","qty":"99999999999999999999999999999999""#), 422, "invalid-field", Some("qty")),
        (signal(r#","order":{"type":"limit"}"#), 422, "invalid-field", Some("order.price")),
        (signal(r#","order":{"type":"limit","price":"-1"}"#), 422, "invalid-field", Some("order.price")),
        (signal(r#","order":{"type":"limit","price":"1","x":1}"#), 422, "invalid-field", Some("order.x")),
        (signal(r#","order":{"type":"market","price":"1"}"#), 422, "invalid-field", Some("order.price")),
        (signal(r#","order":{"type":"stop_limit","price":"1"}"#), 422, "invalid-field", Some("order.stop_price")),
        (signal(r#","order":{"price":"1"}"#), 422, "invalid-field", Some("order.type")),
        (signal(r#","order":{"type":"post_only","price":"1"},"tif":"ioc""#), 422, "invalid-field", Some("tif")),
        (signal(r#","tif":"gtc""#), 422, "invalid-field", Some("tif")),
        (signal(r#","expires_in_ms":0"#), 422, "invalid-field", Some("expires_in_ms")),
        (signal(r#","expires_in_ms":-1"#), 422, "invalid-field", Some("expires_in_ms")),
        (format!(r#"{{"robot":{robot},"action":"close","qty":"1"}}"#), 422, "invalid-field", Some("qty")),
        (r#"{"robot":999999999,"action":"buy"}"#.into(), 404, "not-found", None),
        (r#"{"robot":-5,"action":"buy"}"#.into(), 404, "not-found", None),
        (r#"{"robot":9223372036854775807,"action":"buy"}"#.into(), 404, "not-found", None),
    ];
    for (body, status, kind, field) in table {
        let answer = world.post("/api/signals", "bad", body).await;
        let shown: String = body.chars().take(90).collect();
        assert_eq!(
            answer.problem(),
            (*status, (*kind).to_owned(), field.map(str::to_owned)),
            "{shown} {}",
            answer.text
        );
    }
    assert_eq!(world.submitted(), before, "nothing reached an engine");
}

#[tokio::test]
async fn every_kind_of_bad_robot_is_refused_by_its_field() {
    let world = World::new().await;
    let robot = |patch: Value| {
        let mut body = json!({"name": "x", "symbol": "BTCUSDT", "config": {"kind": "follower", "default_qty": "1"}});
        body.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        body.to_string()
    };
    let table = [
        (json!({"name": ""}), "name"),
        (json!({"name": "a\u{7}b"}), "name"),
        (json!({"name": "x".repeat(65)}), "name"),
        (json!({"symbol": "btc/usdt"}), "symbol"),
        (json!({"symbol": 7}), "symbol"),
        (json!({"config": {}}), "config.kind"),
        (json!({"config": {"kind": "martingale"}}), "config.kind"),
        (json!({"config": {"kind": "follower"}}), "config.default_qty"),
        (json!({"config": {"kind": "follower", "default_qty": "0"}}), "config.default_qty"),
        (json!({"config": {"kind": "follower", "default_qty": "1", "levels": 3}}), "config.levels"),
        (json!({"config": {"kind": "grid", "lower": "1", "upper": "2", "levels": -1, "qty": "1"}}), "config.levels"),
        (json!({"config": {"kind": "dca", "quote_per_step": "5", "interval_ms": "x"}}), "config.interval_ms"),
        (json!({"limits": {"max_order_notional": "NaN"}}), "limits.max_order_notional"),
        (json!({"limits": {"max_order_notional": 5}}), "limits.max_order_notional"),
        (json!({"limits": {"none": 5}}), "limits.none"),
        (json!({"stop_policy": "explode"}), "stop_policy"),
        (json!({"start": "yes"}), "start"),
        (json!({"webhook_hash": "00"}), "webhook_hash"),
    ];
    for (patch, field) in table {
        let answer = world.post("/api/robots", "bad", &robot(patch.clone())).await;
        assert_eq!(answer.problem(), (422, "invalid-field".into(), Some(field.into())), "{patch} {}", answer.text);
    }
    assert_eq!(world.post("/api/robots", "bad", &robot(json!({"account": 99}))).await.problem().0, 404);
    assert_eq!(world.submitted(), 0);
}

#[tokio::test]
async fn bad_query_strings_and_paths_are_refused_by_their_field() {
    let world = World::new().await;
    for (path, field) in [
        ("/api/orders?limit=0", "limit"),
        ("/api/orders?limit=1001", "limit"),
        ("/api/orders?limit=-1", "limit"),
        ("/api/orders?limit=x", "limit"),
        ("/api/orders?live=maybe", "live"),
        ("/api/orders?cursor=x", "cursor"),
        ("/api/orders?cursor=1.'%20OR%201=1", "cursor"),
        ("/api/orders?surprise=1", "surprise"),
        ("/api/orders?limit=1&limit=2", "limit"),
        ("/api/fills?cursor=x", "cursor"),
        ("/api/events?since_seq=-1", "since_seq"),
        ("/api/robots/abc", "id"),
        ("/api/robots/1.5", "id"),
        ("/api/robots/%ff", "id"),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.problem(), (422, "invalid-field".into(), Some(field.into())), "{path} {}", answer.text);
    }
    for path in ["/api/robots/5", "/api/orders/h'--", "/api/balances?account=7", "/api/signals/key:x/y"] {
        assert_eq!(world.get(path).await.problem().0, 404, "{path}");
    }
}

#[tokio::test]
async fn bodies_must_be_declared_as_json_and_arrive() {
    let world = World::new().await;
    let bare = |body| {
        let builder = Request::post("/api/signals").header("authorization", format!("Bearer {}", world.trader));
        builder.body(body).unwrap()
    };
    assert_eq!(world.send(bare(Body::from("{}"))).await.problem().0, 415);
    let mut slow = bare(Body::from_stream(futures_util::stream::pending::<Result<String, std::io::Error>>()));
    slow.headers_mut().insert("content-type", "application/json; charset=utf-8".parse().unwrap());
    assert_eq!(world.send(slow).await.problem().0, 408);
}

#[tokio::test]
async fn a_key_that_is_not_visible_ascii_is_refused() {
    let world = World::new().await;
    for key in ["", "a b", &"x".repeat(129)] {
        let answer = world.post("/api/signals", key, "{}").await;
        assert_eq!(answer.problem(), (422, "invalid-field".into(), Some("Idempotency-Key".into())), "{key:?}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("robot"),
        Just("action"),
        Just("buy"),
        Just("close"),
        Just("qty"),
        Just("order"),
        Just("type"),
        Just("limit"),
        Just("price"),
        Just("id"),
        Just("secret"),
        Just("name"),
        Just("symbol"),
        Just("BTCUSDT"),
        Just("config"),
        Just("kind"),
        Just("grid"),
        Just("reason"),
        Just("account"),
        Just("1"),
        Just("10001"),
        Just("0.01"),
        Just("\u{0}"),
        Just("💥"),
    ];
    let text = prop_oneof![3 => word.prop_map(str::to_owned), 1 => ".{0,12}"].boxed();
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        Just(Value::from(10001)),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            4 => prop::collection::btree_map(text.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn random_bodies_never_give_a_5xx() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(async {
        let world = World::new().await;
        world.robot("r").await;
        world
    });
    let paths = [
        "/api/signals",
        "/api/robots",
        "/api/webhook/10001",
        "/api/webhook/10001/x",
        "/api/robots/10001/stop",
        "/api/robots/10001/halt",
        "/api/kill",
        "/api/keys",
        "/api/shutdown",
        "/api/shutdown/rehearsal",
    ];
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    let body = prop_oneof![4 => any_json().prop_map(|it| it.to_string().into_bytes()), 1 => bytes];
    proptest!(ProptestConfig::with_cases(300), |(body in body, path in prop::sample::select(paths.to_vec()))| {
        let mut request = request(Method::POST, path, Some(&world.admin), None, "{}");
        *request.body_mut() = Body::from(body.clone());
        let answer = runtime.block_on(world.send(request));
        prop_assert!(answer.status < StatusCode::INTERNAL_SERVER_ERROR, "{} {} {}", path, answer.status, answer.text);
    });
}
