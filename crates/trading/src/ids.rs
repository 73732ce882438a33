//! Identifiers. Each is a type of its own, so that they cannot be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_id! {
    /// A trading account at a venue. Given by the store.
    AccountId(i64)
}
number_id! {
    /// A robot. The account's engine gives it: `account * 10_000 + n`, unique over all accounts.
    RobotId(i64)
}
number_id! {
    /// The lease's fencing number: whoever takes an account adds one.
    Epoch(i64)
}
number_id! {
    /// The number of an event within its account: 1, 2, 3 without gaps.
    Seq(i64)
}
number_id! {
    /// The venue's number of an order, unique per symbol.
    VenueOrderId(i64)
}
number_id! {
    /// The venue's number of a trade, unique and growing per symbol.
    TradeId(i64)
}

/// How many robots an account can have ever had.
pub const ROBOTS_PER_ACCOUNT: i64 = 10_000;

impl RobotId {
    /// The account that this robot belongs to.
    pub fn account(self) -> AccountId {
        AccountId(self.0.div_euclid(ROBOTS_PER_ACCOUNT))
    }

    /// The `n`-th robot of `account`, counted from 1. `None` when the account's numbers are used up.
    pub fn nth(account: AccountId, n: i64) -> Option<Self> {
        if n <= 0 || n >= ROBOTS_PER_ACCOUNT {
            return None;
        }
        account.0.checked_mul(ROBOTS_PER_ACCOUNT)?.checked_add(n).map(Self)
    }
}

/// Names one order of a robot: the `leg`-th order of its `decision`-th decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderKey {
    /// Counts the robot's decisions from 1.
    pub decision: i64,
    /// Counts the orders of one decision from 0.
    pub leg: i32,
}

/// The id that we give an order and the venue repeats to us.
///
/// Ours are `h` and 26 Crockford base32 characters of
/// `SHA-256(namespace | account | robot | decision | leg | generation)`: 27 characters of `[0-9a-z]`, which every venue
/// accepts. The lease epoch is no part of it: a successor derives the same id for the same decision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientOrderId(String);

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DIGITS: usize = 26;

impl ClientOrderId {
    /// Derives the id of one order. `namespace` keeps two installations at one venue account apart.
    pub fn derive(namespace: &str, robot: RobotId, key: OrderKey, generation: i32) -> Self {
        let mut hash = Sha256::new();
        hash.update(namespace.as_bytes());
        for part in [robot.account().0, robot.0, key.decision, i64::from(key.leg), i64::from(generation)] {
            hash.update(b"|");
            hash.update(part.to_be_bytes());
        }
        let mut text = String::with_capacity(DIGITS + 1);
        text.push('h');
        let (mut bits, mut held) = (0_u32, 0_u32);
        for byte in hash.finalize() {
            if text.len() > DIGITS {
                break;
            }
            bits = (bits << 8) | u32::from(byte);
            held += 8;
            while held >= 5 && text.len() <= DIGITS {
                held -= 5;
                let digit = usize::try_from((bits >> held) & 31).unwrap_or(0);
                text.push(CROCKFORD.get(digit).map_or('0', |c| char::from(*c)));
            }
            bits &= (1 << held) - 1;
        }
        Self(text)
    }

    /// Takes an id as a venue reports it, ours or foreign.
    pub fn from_venue(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether it has the shape of the ids that this system derives.
    pub fn has_our_shape(&self) -> bool {
        self.0.len() == DIGITS + 1 && self.0.starts_with('h') && self.0.bytes().skip(1).all(|b| CROCKFORD.contains(&b))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientOrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_order_id_is_stable_distinct_and_acceptable_to_venues() {
        let robot = RobotId::nth(AccountId(7), 3).unwrap();
        let id = |decision, leg, generation| ClientOrderId::derive("ns", robot, OrderKey { decision, leg }, generation);
        assert_eq!(id(1, 0, 0), id(1, 0, 0));
        assert_eq!(id(1, 0, 0).as_str().len(), 27);
        assert!(id(1, 0, 0).has_our_shape());
        let all = [
            id(1, 0, 0),
            id(2, 0, 0),
            id(1, 1, 0),
            id(1, 0, 1),
            ClientOrderId::derive("other", robot, OrderKey { decision: 1, leg: 0 }, 0),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
        assert!(!ClientOrderId::from_venue("web_123").has_our_shape());
    }

    #[test]
    fn a_robot_id_knows_its_account() {
        assert_eq!(RobotId::nth(AccountId(1), 1), Some(RobotId(10_001)));
        assert_eq!(RobotId(10_001).account(), AccountId(1));
        assert_eq!(RobotId::nth(AccountId(1), 10_000), None);
        assert_eq!(RobotId::nth(AccountId(i64::MAX), 1), None);
    }
}
