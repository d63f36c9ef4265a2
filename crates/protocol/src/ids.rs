//! Identifiers: what names a card, a subscriber, an application, a moment.
//!
//! All of them are small, `Copy` where they fit, ordered, and appear in files and in JSON as strings. Parsing
//! checks everything that can be checked without a database (length, digits, check digits); the errors say
//! what was expected.

mod application;
mod card;
mod digits;
mod moment;
mod network;
mod operator;
mod process;
mod subscriber;

pub use application::{Aid, ProfileName, Tar};
pub use card::{Bucket, CardId, Eid, Iccid};
pub use moment::EpochMs;
pub use network::Plmn;
pub use operator::IdMno;
pub use process::{ChangeId, DeliveryId};
pub use subscriber::{Imsi, Msisdn, ServiceNumber};

pub mod tbcd;

/// Why a text or a byte string is not the identifier that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The identifier has the wrong number of digits, characters or bytes.
    #[error("{what} has {found} {unit}: give {expected}")]
    Length {
        /// Which identifier.
        what: &'static str,
        /// How long it is.
        found: usize,
        /// What is counted: digits, bytes, characters.
        unit: &'static str,
        /// The lengths that are allowed.
        expected: &'static str,
    },
    /// A character that this identifier cannot contain.
    #[error("{what} contains a character that is not {expected}: remove or correct it")]
    Character {
        /// Which identifier.
        what: &'static str,
        /// What is allowed.
        expected: &'static str,
    },
    /// The check digit or digits at the end do not belong to the digits before them.
    #[error("{what} ends in check digits {found} where {expected} belong: a digit is mistyped or missing")]
    CheckDigits {
        /// Which identifier.
        what: &'static str,
        /// The digits at the end.
        found: String,
        /// The digits that would fit.
        expected: String,
    },
    /// The value lies outside the range that can be represented.
    #[error("{what} is out of range: {expected}")]
    Range {
        /// Which identifier.
        what: &'static str,
        /// What is allowed.
        expected: &'static str,
    },
}

/// `Display` as the JSON and TOML form, `FromStr` as the way back.
macro_rules! serde_as_text {
    ($($name:ty),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("text that names a ", stringify!($name)))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )+};
}
pub(crate) use serde_as_text;
