//! Texts on their way: PostgreSQL keeps every character but NUL.
//!
//! NUL becomes U+E000 and `0`, and U+E000, of the private use area and so hardly ever there, becomes two of itself. Every text
//! that is sent passes [`escape`], every text that comes passes [`unescape`].

use std::borrow::Cow;

const MARK: char = '\u{E000}';

pub(in crate::store) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', MARK]) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => escaped.extend([MARK, '0']),
            MARK => escaped.extend([MARK, MARK]),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains(MARK) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            MARK => plain.push(if rest.next() == Some('0') { '\0' } else { MARK }),
            other => plain.push(other),
        }
    }
    Cow::Owned(plain)
}

/// The same for the texts within JSON, where NUL is written `\u0000`.
pub(super) fn escape_json(json: String) -> String {
    if !json.contains("\\u0000") && !json.contains(MARK) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 8);
    let mut rest = json.as_str();
    while let Some(at) = rest.find(['\\', MARK]) {
        let (plain, special) = rest.split_at(at);
        escaped.push_str(plain);
        rest = if let Some(after) = special.strip_prefix("\\u0000") {
            escaped.extend([MARK, '0']);
            after
        } else if let Some(after) = special.strip_prefix(MARK) {
            escaped.extend([MARK, MARK]);
            after
        } else {
            // A backslash, and what it quotes.
            let mut quoted = special.char_indices().map(|(at, _)| at).skip(2);
            let (pair, after) = special.split_at(quoted.next().unwrap_or(special.len()));
            escaped.push_str(pair);
            after
        };
    }
    escaped.push_str(rest);
    escaped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::{escape, escape_json, unescape};

    proptest! {
        #[test]
        fn every_text_comes_back_as_it_was_sent(texts in proptest::collection::vec("[\\x00\u{E000}\\\\u0a\"é]{0,12}", 0..4)) {
            for text in &texts {
                prop_assert!(!escape(text).contains('\0'));
                let sent = escape(text);
                prop_assert_eq!(&unescape(&sent), text);
            }
            let json = escape_json(serde_json::to_string(&texts).unwrap());
            let sent: Vec<String> = serde_json::from_str(&json).unwrap();
            prop_assert!(sent.iter().all(|text| !text.contains('\0')));
            let back: Vec<_> = sent.iter().map(|text| unescape(text).into_owned()).collect();
            prop_assert_eq!(back, texts);
        }
    }
}
