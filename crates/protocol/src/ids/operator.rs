//! What names an operator to a user: IdMNO.

use super::{IdError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// Longest IdMNO, in characters.
const LENGTH_MAX: usize = 16;

/// IdMNO: the code of an operator in menus, on leaflets and in requests: 1 to 16 letters and digits of ASCII, which are
/// upper case however they are typed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdMno(Box<str>);

impl IdMno {
    /// The code as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdMno {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if !(1..=LENGTH_MAX).contains(&text.len()) {
            return Err(IdError::Length {
                what: "IdMNO",
                found: text.len(),
                unit: "characters",
                expected: "1 to 16",
            });
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(IdError::Character { what: "IdMNO", expected: "a letter or digit of ASCII" });
        }
        Ok(Self(text.to_ascii_uppercase().into()))
    }
}

impl fmt::Display for IdMno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(IdMno);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_typed_in_any_case() {
        assert_eq!("op2".parse::<IdMno>(), "OP2".parse());
        for wrong in ["", "OP 2", "12345678901234567", "\u{d6}"] {
            assert!(wrong.parse::<IdMno>().is_err(), "{wrong}");
        }
    }
}
