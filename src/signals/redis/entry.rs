//! Entries of the stream: how they come from Redis, and what they ask for.

use std::time::Duration;

use redis::Value;
use trading::command::{Command, Wish};
use trading::time::Timestamp;

use super::super::wire::StreamedIn;
use crate::http::{Problem, parse_json, text};

/// The field that holds the signal.
const FIELD: &[u8] = b"signal";
/// More than any signal needs.
const MAX_BYTES: usize = 16 * 1024;
const MAX_ID_CHARS: usize = 128;

/// Names and values, in their order.
pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;
/// An entry's id and fields.
pub(super) type Found = (String, Fields);

/// An entry as it stands on the stream, and how often it was delivered, this time included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) fields: Fields,
    pub(super) deliveries: u32,
    /// How long it has stood there, by Redis's own clock.
    pub(super) age: Duration,
}

impl Entry {
    /// What it asks for. Its time begins when it was put on the stream, not when it was read.
    pub(super) fn command(&self, source: &str, now: Timestamp, ttl: Duration) -> Result<Command, String> {
        let mut signals = self.fields.iter().filter(|(name, _)| name == FIELD);
        let (Some((_, json)), None) = (signals.next(), signals.next()) else {
            return Err("it must have one field `signal`".to_owned());
        };
        if json.len() > MAX_BYTES {
            return Err(format!("its signal is longer than {MAX_BYTES} bytes"));
        }
        let refused = |problem: Problem| problem.to_string();
        let signal: StreamedIn = parse_json(json).map_err(refused)?;
        let dedup_key = signal.id.clone();
        text("id", &dedup_key, MAX_ID_CHARS).map_err(refused)?;
        let arrived = now.before(self.age);
        let signal = signal.parse(arrived, ttl).map_err(refused)?;
        Ok(Command { source: source.to_owned(), dedup_key, wish: Wish::Signal(signal) })
    }
}

/// The entries in the answer of XREADGROUP for one stream.
pub(super) fn read_reply(reply: Value) -> Vec<Found> {
    let mut streams = array(reply).into_iter();
    let mut stream = array(streams.next().unwrap_or(Value::Nil)).into_iter();
    entries(stream.nth(1).unwrap_or(Value::Nil))
}

/// Where to go on, and the entries, in the answer of XAUTOCLAIM.
pub(super) fn claim_reply(reply: Value) -> (String, Vec<Found>) {
    let mut parts = array(reply).into_iter();
    let next = parts.next().and_then(string).unwrap_or_else(|| "0-0".to_owned());
    (next, entries(parts.next().unwrap_or(Value::Nil)))
}

/// What has another shape is left out: one odd entry must not keep the others from being read.
fn entries(reply: Value) -> Vec<Found> {
    let entry = |value: Value| {
        let mut parts = array(value).into_iter();
        let id = string(parts.next()?)?;
        let mut words = array(parts.next().unwrap_or(Value::Nil)).into_iter().map(bytes);
        let mut fields = Vec::new();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            fields.push((name, value));
        }
        Some((id, fields))
    };
    array(reply).into_iter().filter_map(entry).collect()
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    }
}

fn string(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)).ok().filter(|text| !text.is_empty())
}

/// The milliseconds in an id such as `1700000000000-0`.
pub(super) fn millis_of(id: &str) -> u64 {
    id.split('-').next().and_then(|millis| millis.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use trading::ids::RobotId;
    use trading::signal::Signal;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
    const TTL: Duration = Duration::from_secs(30);

    fn entry(signal: &str, age: Duration) -> Entry {
        let fields = vec![(b"from".to_vec(), b"\xff".to_vec()), (FIELD.to_vec(), signal.as_bytes().to_vec())];
        Entry { id: "1-0".to_owned(), fields, deliveries: 1, age }
    }

    fn signal(text: &str, age: Duration) -> Result<Signal, String> {
        let Wish::Signal(signal) = entry(text, age).command("stream:s", NOW, TTL)?.wish else { panic!("no signal") };
        Ok(signal)
    }

    #[test]
    fn an_entry_is_a_signal_whose_time_began_on_the_stream() {
        let text = r#"{"id": "a-1", "robot": 10001, "action": "buy", "qty": "0.5"}"#;
        let command = entry(text, Duration::ZERO).command("stream:s", NOW, TTL).unwrap();
        assert_eq!((command.source.as_str(), command.dedup_key.as_str()), ("stream:s", "a-1"));
        let signal = signal(text, Duration::from_secs(10)).unwrap();
        assert_eq!(signal.robot, RobotId(10_001));
        assert_eq!(signal.expires_at, Some(NOW.after(Duration::from_secs(20))));
    }

    #[test]
    fn what_rest_would_refuse_is_refused_with_the_same_words() {
        for (text, word) in [
            ("", "not JSON"),
            ("[]", "object"),
            (r#"{"robot": 1, "action": "buy"}"#, "id"),
            (r#"{"id": "", "robot": 1, "action": "buy"}"#, "id"),
            (r#"{"id": "a", "robot": 1, "action": "dance"}"#, "action"),
            (r#"{"id": "a", "robot": 1, "action": "buy", "qty": 1}"#, "qty"),
            (r#"{"id": "a", "robot": 1, "action": "buy", "else": 1}"#, "else"),
            (r#"{"id": "a", "robot": 1, "action": "close", "qty": "1"}"#, "qty"),
        ] {
            let refusal = signal(text, Duration::ZERO).unwrap_err();
            assert!(refusal.contains(word), "{text}: {refusal}");
        }
        let nothing = Entry { fields: Vec::new(), ..entry("", Duration::ZERO) };
        assert!(nothing.command("stream:s", NOW, TTL).is_err());
    }

    #[test]
    fn a_reply_of_any_shape_is_read_as_far_as_it_goes() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let good = Value::Array(vec![bulk("1-0"), Value::Array(vec![bulk("f"), bulk("v")])]);
        let reply = |entries| Value::Array(vec![Value::Array(vec![bulk("s"), Value::Array(entries)])]);
        let fields = vec![(b"f".to_vec(), b"v".to_vec())];
        let entries = vec![good.clone(), Value::Nil, Value::Array(vec![bulk("2-0"), Value::Nil])];
        assert_eq!(read_reply(reply(entries)), [("1-0".to_owned(), fields.clone()), ("2-0".to_owned(), Vec::new())]);
        assert_eq!(read_reply(Value::Nil), []);
        let claimed = Value::Array(vec![bulk("5-0"), Value::Array(vec![good]), Value::Array(vec![])]);
        assert_eq!(claim_reply(claimed), ("5-0".to_owned(), vec![("1-0".to_owned(), fields)]));
        assert_eq!(claim_reply(Value::Int(1)), ("0-0".to_owned(), Vec::new()));
        assert_eq!((millis_of("17-3"), millis_of("x")), (17, 0));
    }
}
