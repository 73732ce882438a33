//! Money is decimal. A price, a quantity and an amount are different types, so that they cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The largest number of digits after the point that is accepted from outside. Every venue we know uses at most 8.
pub const MAX_SCALE: u32 = 8;
/// Prices and quantities from outside stay below this, so that no product or sum of them can overflow a [`Decimal`].
pub const MAX_VALUE: Decimal = Decimal::from_parts(1_000_000_000, 0, 0, false, 0);

/// Why a text is not a price or a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMoneyError {
    /// Not a plain decimal number such as `0.015` (exponents, NaN and infinities are refused).
    #[error("`{0}` is not a plain decimal number such as 0.015")]
    NotDecimal(String),
    /// Zero or negative where a positive number is needed.
    #[error("`{0}` is not above zero")]
    NotPositive(String),
    /// More than [`MAX_SCALE`] digits after the point.
    #[error("`{0}` has more than {MAX_SCALE} digits after the point")]
    TooPrecise(String),
    /// Not below [`MAX_VALUE`].
    #[error("`{0}` is not below {MAX_VALUE}")]
    TooLarge(String),
}

fn parse_positive(text: &str) -> Result<Decimal, ParseMoneyError> {
    let shown = || text.chars().take(40).collect::<String>();
    let plain =
        !text.is_empty() && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-');
    if !plain {
        return Err(ParseMoneyError::NotDecimal(shown()));
    }
    let value = Decimal::from_str_exact(text).map_err(|_| ParseMoneyError::NotDecimal(shown()))?;
    if value <= Decimal::ZERO {
        return Err(ParseMoneyError::NotPositive(shown()));
    }
    if value.normalize().scale() > MAX_SCALE {
        return Err(ParseMoneyError::TooPrecise(shown()));
    }
    if value >= MAX_VALUE {
        return Err(ParseMoneyError::TooLarge(shown()));
    }
    Ok(value.normalize())
}

macro_rules! decimal_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(Decimal);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(Decimal::ZERO);

            /// Wraps a number that comes from arithmetic inside the system. Text from outside goes through [`FromStr`].
            pub fn new(value: Decimal) -> Self {
                Self(value.normalize())
            }

            /// The bare number.
            pub fn get(self) -> Decimal {
                self.0
            }

            /// Whether it is exactly zero.
            pub fn is_zero(self) -> bool {
                self.0.is_zero()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl std::ops::Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self::new(self.0 + other.0)
            }
        }

        impl std::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                *self = *self + other;
            }
        }

        impl std::ops::Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self::new(self.0 - other.0)
            }
        }

        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
                iter.fold(Self::ZERO, |a, b| a + b)
            }
        }
    };
}

decimal_newtype! {
    /// A price: quote asset for one unit of the base asset. Above zero when it comes from outside.
    Price
}
decimal_newtype! {
    /// A quantity of the base asset. Above zero when it comes from outside; zero occurs inside (nothing filled yet).
    Qty
}
decimal_newtype! {
    /// A signed amount of some asset: a notional, a fee, a balance, a profit.
    Amount
}

impl FromStr for Price {
    type Err = ParseMoneyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_positive(text).map(Self)
    }
}

impl FromStr for Qty {
    type Err = ParseMoneyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_positive(text).map(Self)
    }
}

impl FromStr for Amount {
    type Err = ParseMoneyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Decimal::from_str_exact(text)
            .map(Self::new)
            .map_err(|_| ParseMoneyError::NotDecimal(text.chars().take(40).collect()))
    }
}

/// Reads back what this system wrote: any decimal. Numbers from clients arrive as text and go through [`FromStr`].
macro_rules! deserialize_trusted {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Decimal::from_str_exact(&text).map(Self::new).map_err(de::Error::custom)
            }
        }
    )*};
}
deserialize_trusted!(Price, Qty, Amount);

impl Price {
    /// What `qty` costs at this price, in the quote asset.
    pub fn notional(self, qty: Qty) -> Amount {
        Amount::new(self.0 * qty.0)
    }
}

impl Qty {
    /// The same number as a signed amount of the base asset.
    pub fn amount(self) -> Amount {
        Amount(self.0)
    }

    /// The largest multiple of `step` that is not above this quantity. `step` zero leaves it as it is.
    #[must_use]
    pub fn floor_to(self, step: Qty) -> Qty {
        if step.is_zero() {
            return self;
        }
        Qty::new(self.0 - self.0 % step.0)
    }
}

impl Price {
    /// The largest multiple of `tick` that is not above this price. `tick` zero leaves it as it is.
    #[must_use]
    pub fn floor_to(self, tick: Price) -> Price {
        if tick.is_zero() {
            return self;
        }
        Price::new(self.0 - self.0 % tick.0)
    }
}

impl std::ops::Neg for Amount {
    type Output = Self;
    fn neg(self) -> Self {
        Self::new(-self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_a_plain_positive_decimal_or_an_error() {
        assert_eq!("0.0100".parse::<Qty>().unwrap().to_string(), "0.01");
        for bad in ["", "NaN", "inf", "1e3", "1e308", "0x10", "1_000", " 1", "+1", "--1", ".", "1.2.3"] {
            assert!(matches!(bad.parse::<Qty>(), Err(ParseMoneyError::NotDecimal(_))), "{bad}");
        }
        for bad in ["0", "-1", "-0.1", "0.000"] {
            assert!(matches!(bad.parse::<Price>(), Err(ParseMoneyError::NotPositive(_))), "{bad}");
        }
        assert!(matches!("0.000000001".parse::<Qty>(), Err(ParseMoneyError::TooPrecise(_))));
        assert!(matches!("1000000000".parse::<Qty>(), Err(ParseMoneyError::TooLarge(_))));
        assert!("99999999999999999999999999999".parse::<Qty>().is_err());
    }

    #[test]
    fn floor_to_a_step_never_rounds_up() {
        let qty: Qty = "0.0199".parse().unwrap();
        assert_eq!(qty.floor_to("0.001".parse().unwrap()).to_string(), "0.019");
        assert_eq!(qty.floor_to(Qty::ZERO), qty);
    }

    #[test]
    fn what_is_written_is_canonical_and_reads_back() {
        let amount = Amount::new(Decimal::new(-12300, 4));
        let text = serde_json::to_string(&amount).unwrap();
        assert_eq!(text, "\"-1.23\"");
        assert_eq!(serde_json::from_str::<Amount>(&text).unwrap(), amount);
    }
}
