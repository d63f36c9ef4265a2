//! Bytes that stand in JSON as hex digits.

use std::fmt;
use std::str::FromStr;

/// Bytes, in JSON a text of hex digits; blanks between bytes are allowed.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct HexBytes(pub Vec<u8>);

/// Why a text is no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// A byte has two digits.
    #[error("{0} hex digits: give an even number, two for each byte")]
    Odd(usize),
    /// Something else than a hex digit.
    #[error("character {0} is no hex digit: use 0-9 and A-F")]
    Digit(usize),
}

impl FromStr for HexBytes {
    type Err = HexError;

    fn from_str(text: &str) -> Result<Self, HexError> {
        if let Some(place) = text.bytes().position(|byte| byte != b' ' && !byte.is_ascii_hexdigit()) {
            return Err(HexError::Digit(place + 1));
        }
        let digits: String = text.chars().filter(|character| *character != ' ').collect();
        hex::decode(&digits).map(Self).map_err(|_| HexError::Odd(digits.len()))
    }
}

impl fmt::Debug for HexBytes {
    /// The size only: contents may be keys or personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HexBytes({} bytes)", self.0.len())
    }
}

impl serde::Serialize for HexBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode_upper(&self.0))
    }
}

impl<'de> serde::Deserialize<'de> for HexBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl serde::de::Visitor<'_> for Digits {
            type Value = HexBytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text of hex digits, two for each byte")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<HexBytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Digits)
    }
}
