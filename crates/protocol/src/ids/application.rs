//! What names an application on a card, and a card profile.

use super::{IdError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// Toolkit application reference: whom a secured packet is for (ETSI TS 101 220, 6.3). Shown as six hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tar(pub [u8; 3]);

impl FromStr for Tar {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 3];
        if text.len() != 6 {
            return Err(IdError::Length {
                what: "TAR",
                found: text.len(),
                unit: "hex digits",
                expected: "6",
            });
        }
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| IdError::Character { what: "TAR", expected: "a hex digit" })?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Tar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode_upper(self.0))
    }
}

/// Application identifier: 5 to 16 bytes, the first five the registered provider (ISO/IEC 7816-4, 12.3.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aid {
    bytes: [u8; 16],
    length: u8,
}

impl Aid {
    /// The bytes, 5 to 16.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The registered application provider identifier: the first five bytes.
    pub fn rid(&self) -> &[u8] {
        &self.bytes[..5]
    }

    /// The proprietary extension: what follows the provider.
    pub fn pix(&self) -> &[u8] {
        &self.as_bytes()[5..]
    }

    /// Whether a partial identifier selects this one (ETSI TS 102 221, 11.1.1: truncated AID).
    pub fn starts_with(&self, partial: &[u8]) -> bool {
        self.as_bytes().starts_with(partial)
    }
}

impl TryFrom<&[u8]> for Aid {
    type Error = IdError;

    fn try_from(value: &[u8]) -> Result<Self, IdError> {
        if !(5..=16).contains(&value.len()) {
            return Err(IdError::Length {
                what: "AID",
                found: value.len(),
                unit: "bytes",
                expected: "5 to 16",
            });
        }
        let mut bytes = [0; 16];
        bytes[..value.len()].copy_from_slice(value);
        // At most 16, checked above.
        Ok(Self { bytes, length: value.len() as u8 })
    }
}

impl FromStr for Aid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if !(10..=32).contains(&text.len()) || !text.len().is_multiple_of(2) {
            return Err(IdError::Length {
                what: "AID",
                found: text.len(),
                unit: "hex digits",
                expected: "10 to 32, an even number",
            });
        }
        let bytes =
            hex::decode(text).map_err(|_| IdError::Character { what: "AID", expected: "a hex digit" })?;
        Self::try_from(bytes.as_slice())
    }
}

impl fmt::Display for Aid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode_upper(self.as_bytes()))
    }
}

/// The name of a card profile: 1 to 64 of `a-z 0-9 . _ -`, as it stands in files and in the import.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileName(Box<str>);

impl ProfileName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProfileName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if !(1..=64).contains(&text.len()) {
            return Err(IdError::Length {
                what: "profile name",
                found: text.len(),
                unit: "characters",
                expected: "1 to 64",
            });
        }
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if !text.bytes().all(allowed) {
            return Err(IdError::Character { what: "profile name", expected: "one of a-z 0-9 . _ -" });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

serde_as_text!(Tar, Aid, ProfileName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_is_six_hex_digits() {
        assert_eq!("b00010".parse(), Ok(Tar([0xB0, 0x00, 0x10])));
        assert_eq!(Tar([0xB0, 0x00, 0x10]).to_string(), "B00010");
        for wrong in ["B0001", "B000100", "B0001G", ""] {
            assert!(wrong.parse::<Tar>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn aid_has_provider_and_extension() {
        let aid: Aid = "A000000151000000".parse().unwrap();
        assert_eq!(aid.rid(), [0xA0, 0, 0, 1, 0x51]);
        assert_eq!(aid.pix(), [0, 0, 0]);
        assert!(aid.starts_with(&[0xA0, 0, 0]) && !aid.starts_with(&[0xA1]));
        assert_eq!(aid.to_string(), "A000000151000000");
        for wrong in ["A0000001", "A00000015", "A0000001510000000000000000000000FF", "zz00000151"] {
            assert!(wrong.parse::<Aid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn profile_names_are_plain() {
        assert_eq!("standard".parse::<ProfileName>().unwrap().as_str(), "standard");
        for wrong in ["", "Standard", "a b", "a/b"] {
            assert!(wrong.parse::<ProfileName>().is_err(), "{wrong}");
        }
    }
}
