//! JSON from outside: one parser with one set of answers.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, DeserializeOwned, Deserializer, IgnoredAny, Visitor};

use super::problem::{Invalid, Problem, shorten};

/// How deep a body may be nested. Ours need four levels.
const MAX_DEPTH: usize = 16;

/// Parses a body. First it must be JSON (else 400), then it must be a `T` (else 422 with the field's path).
///
/// # Errors
/// [`Problem::Malformed`], [`Problem::TooDeep`] or [`Problem::Invalid`].
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let malformed = |detail: String| Problem::Malformed { detail };
    std::str::from_utf8(bytes).map_err(|error| malformed(format!("it is not UTF-8 ({error})")))?;
    // Depth first: then no later step meets a nesting that it must worry about.
    if depth(bytes) > MAX_DEPTH {
        return Err(Problem::TooDeep { limit: MAX_DEPTH });
    }
    serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| malformed(error.to_string()))?;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut deserializer)
        .map(|Object(value)| value)
        .map_err(|error| invalid(error.path(), &error.inner().to_string()))
}

/// Names the field of an error by its path, and tells what is accepted where the error says so.
pub(super) fn invalid(path: &serde_path_to_error::Path, message: &str) -> Problem {
    let message = message.rsplit_once(" at line ").map_or(message, |(before, _)| before);
    let mut field = path.to_string();
    // An error about a field that is absent is reported at its parent, so its name is only in the message.
    if let Some(name) = quoted(message, "missing field `") {
        field = if field == "." { name.to_owned() } else { format!("{field}.{name}") };
    } else if let Some(name) = quoted(message, "unknown field `").or_else(|| quoted(message, "duplicate field `")) {
        if field == "." {
            name.clone_into(&mut field);
        } else if !field.ends_with(name) {
            field = format!("{field}.{name}");
        }
    }
    let accepted = message.split_once(", expected ").map(|(_, accepted)| shorten(accepted));
    Problem::Invalid(Invalid { field: shorten(&field), detail: shorten(message), given: None, accepted })
}

fn quoted<'a>(message: &'a str, opening: &str) -> Option<&'a str> {
    message.strip_prefix(opening)?.split_once('`').map(|(name, _)| name)
}

/// How deep brackets are nested outside of strings. Right for any JSON, and good enough for what is not JSON.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A `T` that is written as a JSON object. Serde alone would also take an array of a struct's fields in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: de::Deserialize<'de>> de::Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: de::Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Object)
    }
}

/// A value that is written as a JSON string and parsed by its own [`FromStr`]: decimals and symbols.
///
/// JSON numbers are refused, since many writers round them on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text<T>(pub T);

impl<'de, T> de::Deserialize<'de> for Text<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor(PhantomData))
    }
}

struct TextVisitor<T>(PhantomData<T>);

impl<T> Visitor<'_> for TextVisitor<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    type Value = Text<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string such as \"0.01\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map(Text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Err(a_number(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Err(a_number(number))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        Err(a_number(number))
    }
}

fn a_number<E: de::Error>(number: impl fmt::Display) -> E {
    E::custom(format_args!("`{number}` is a JSON number: write it as a string, such as \"0.01\""))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use trading::money::Qty;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only parsed")]
        inner: Option<Object<Inner>>,
        #[expect(dead_code, reason = "only parsed")]
        qty: Text<Qty>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only parsed")]
        price: Text<Qty>,
    }

    fn field_of(body: &str) -> String {
        match parse::<Outer>(body.as_bytes()).unwrap_err() {
            Problem::Invalid(invalid) => invalid.field,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn what_is_json_but_makes_no_sense_is_named_by_its_path() {
        assert_eq!(field_of(r"{}"), "qty");
        assert_eq!(field_of(r#"{"qty":"NaN"}"#), "qty");
        assert_eq!(field_of(r#"{"qty":1e308}"#), "qty");
        assert_eq!(field_of(r#"{"qty":1e400}"#), "qty");
        assert_eq!(field_of(r#"{"qty":"1","qty":"2"}"#), "qty");
        assert_eq!(field_of(r#"{"qty":"1","foo":1}"#), "foo");
        assert_eq!(field_of(r#"{"qty":"1","inner":{}}"#), "inner.price");
        assert_eq!(field_of(r#"{"qty":"1","inner":{"price":"-1"}}"#), "inner.price");
        assert_eq!(field_of(r#"{"qty":"1","inner":{"price":"1","foo":[]}}"#), "inner.foo");
        assert_eq!(field_of(r#"{"qty":"\ud800"}"#), "qty");
        assert_eq!(field_of(r#"{"qty":"1","inner":["1"]}"#), "inner");
        assert_eq!(field_of(r#"[null,"1"]"#), ".");
    }

    #[test]
    fn what_is_not_json_is_malformed_wherever_the_fault_is() {
        for bad in ["", "{", r#"{"qty":NaN}"#, r#"{"foo":1,"qty":}"#, "{} {}", "\u{feff}{}", r#"{"qty":"1",}"#] {
            assert!(matches!(parse::<Outer>(bad.as_bytes()), Err(Problem::Malformed { .. })), "{bad}");
        }
        assert!(matches!(parse::<Outer>(&[b'"', 0xff, b'"']), Err(Problem::Malformed { .. })));
    }

    #[test]
    fn deep_nesting_is_counted_outside_of_strings_only() {
        let deep = "[".repeat(100_000);
        assert!(matches!(parse::<Outer>(deep.as_bytes()), Err(Problem::TooDeep { .. })));
        assert_eq!(depth(br#"{"a":"[[[[\"[[[","b":[{}]}"#), 3);
    }
}
