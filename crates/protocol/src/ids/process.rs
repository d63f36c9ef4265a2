//! What names something that lasts: a change of operator, a delivery.

use super::{IdError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// A subscription change (saga): 8 bytes on the wire, the idempotency key at registers, 16 hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChangeId(pub u64);

/// A delivery to one card: 8 bytes on the wire, 16 hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub u64);

macro_rules! eight_bytes {
    ($name:ident, $what:literal) => {
        impl $name {
            /// The eight bytes, most significant first.
            pub const fn to_bytes(self) -> [u8; 8] {
                self.0.to_be_bytes()
            }

            /// From eight bytes, most significant first.
            pub const fn from_bytes(bytes: [u8; 8]) -> Self {
                Self(u64::from_be_bytes(bytes))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if text.len() != 16 {
                    return Err(IdError::Length {
                        what: $what,
                        found: text.len(),
                        unit: "characters",
                        expected: "16 hex digits",
                    });
                }
                if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(IdError::Character { what: $what, expected: "a hex digit" });
                }
                u64::from_str_radix(text, 16)
                    .map(Self)
                    .map_err(|_| IdError::Range { what: $what, expected: "16 hex digits" })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}

eight_bytes!(ChangeId, "change id");
eight_bytes!(DeliveryId, "delivery id");
serde_as_text!(ChangeId, DeliveryId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_hex_digits_both_ways() {
        let change = ChangeId(0x0102_0304_0506_0708);
        assert_eq!(change.to_string(), "0102030405060708");
        assert_eq!("0102030405060708".parse(), Ok(change));
        assert_eq!(ChangeId::from_bytes(change.to_bytes()), change);
        assert_eq!("ffffffffffffffff".parse(), Ok(DeliveryId(u64::MAX)));
        for wrong in ["", "1", "010203040506070g", "+102030405060708", "01020304050607081"] {
            assert!(wrong.parse::<ChangeId>().is_err(), "{wrong}");
        }
    }
}
