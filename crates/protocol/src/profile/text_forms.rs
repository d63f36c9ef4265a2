//! How byte strings stand in a profile: as hex text.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

pub(super) mod hex_bytes {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode_upper(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(&text).map_err(|_| D::Error::custom("expected an even number of hex digits"))
    }
}

/// A type of one byte, written as two hex digits.
macro_rules! hex_byte {
    ($module:ident, $type:ty) => {
        pub(super) mod $module {
            use super::*;

            pub(crate) fn serialize<S: Serializer>(value: &$type, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&format!("{:02X}", value.0))
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = String::deserialize(deserializer)?;
                let mut byte = [0];
                hex::decode_to_slice(&text, &mut byte)
                    .map_err(|_| D::Error::custom("expected two hex digits"))?;
                let [byte] = byte;
                Ok(<$type>::from(Byte(byte)))
            }
        }
    };
}

/// One byte on its way into a type of its own.
pub(super) struct Byte(u8);

impl From<Byte> for crate::scp80::Kic {
    fn from(byte: Byte) -> Self {
        Self(byte.0)
    }
}

impl From<Byte> for crate::scp80::Kid {
    fn from(byte: Byte) -> Self {
        Self(byte.0)
    }
}

hex_byte!(hex_kic, crate::scp80::Kic);
hex_byte!(hex_kid, crate::scp80::Kid);

pub(super) mod hex_spi {
    use super::*;
    use crate::scp80::Spi;

    pub(crate) fn serialize<S: Serializer>(spi: &Spi, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode_upper(spi.to_bytes()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Spi, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 2];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| D::Error::custom("an SPI is four hex digits"))?;
        Ok(Spi::new(bytes[0], bytes[1]))
    }
}

pub(super) mod cmac_bytes {
    use super::*;
    use crate::scp80::CmacLength;

    pub(crate) fn serialize<S: Serializer>(length: &CmacLength, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(length.bytes() as u64)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CmacLength, D::Error> {
        match u8::deserialize(deserializer)? {
            4 => Ok(CmacLength::Four),
            8 => Ok(CmacLength::Eight),
            _ => Err(D::Error::custom("a CMAC has 4 or 8 bytes")),
        }
    }
}
