//! Addresses: telephone numbers and alphanumeric senders.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::tbcd;

use super::{SmsError, take, take_byte};

/// Most digits of an address (3GPP TS 23.040, 9.1.2.5: 12 octets in all).
const DIGITS_MAX: usize = 20;

/// 3GPP TS 23.040, 9.1.2.5: type of number, numbering plan, and the number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// Type-of-address octet: `91` international, `81` unknown, `D0` alphanumeric.
    pub kind: u8,
    /// The digits (with `*#abc`), or the text of an alphanumeric address.
    pub number: String,
}

impl Address {
    /// Type of address: international number, telephone numbering plan.
    pub const INTERNATIONAL: u8 = 0x91;
    /// Type of address: unknown, telephone numbering plan; short codes are like this.
    pub const UNKNOWN: u8 = 0x81;
    /// Type of address: alphanumeric.
    pub const ALPHANUMERIC: u8 = 0xD0;

    /// A number: international where it starts with a plus, unknown otherwise.
    pub fn number(text: &str) -> Result<Self, SmsError> {
        let (kind, digits) = match text.strip_prefix('+') {
            Some(digits) => (Self::INTERNATIONAL, digits),
            None => (Self::UNKNOWN, text),
        };
        if digits.len() > DIGITS_MAX {
            return Err(SmsError::AddressTooLong("the address"));
        }
        if !digits.bytes().all(|byte| DIGITS.contains(&byte)) {
            return Err(SmsError::AddressCharacter);
        }
        Ok(Self { kind, number: digits.to_owned() })
    }

    /// A text of up to 11 characters of the GSM 7-bit alphabet (letters, digits, blanks, the usual marks).
    pub fn alphanumeric(text: &str) -> Result<Self, SmsError> {
        if text.chars().count() > 11 || text.chars().any(|c| !is_seven_bit(c)) {
            return Err(SmsError::AddressCharacter);
        }
        Ok(Self { kind: Self::ALPHANUMERIC, number: text.to_owned() })
    }

    /// Type of number: bits 5 to 7 of the type-of-address octet.
    pub fn type_of_number(&self) -> u8 {
        (self.kind >> 4) & 0x07
    }

    /// Numbering plan: bits 1 to 4 of the type-of-address octet.
    pub fn numbering_plan(&self) -> u8 {
        self.kind & 0x0F
    }

    fn is_text(&self) -> bool {
        self.type_of_number() == 5
    }

    /// The octets after the type of address.
    fn value(&self) -> Vec<u8> {
        if self.is_text() { pack_septets(&self.number) } else { pack_digits(&self.number) }
    }

    /// Appends the form of a TPDU: length in semi-octets, type, value.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let value = self.value();
        let semi_octets =
            if self.is_text() { (self.number.chars().count() * 7).div_ceil(4) } else { self.number.len() };
        out.extend_from_slice(&[semi_octets as u8, self.kind]);
        out.extend_from_slice(&value);
    }

    /// Reads the form of a TPDU.
    pub(super) fn read(rest: &mut &[u8], what: &'static str) -> Result<Self, SmsError> {
        let semi_octets = usize::from(take_byte(rest, what)?);
        if semi_octets > DIGITS_MAX {
            return Err(SmsError::AddressTooLong(what));
        }
        let kind = take_byte(rest, what)?;
        let value = take(rest, semi_octets.div_ceil(2), what)?;
        let mut address = Self::from_value(kind, value);
        if !address.is_text() {
            address.number.truncate(semi_octets);
        } else {
            let characters = semi_octets * 4 / 7;
            address.number = address.number.chars().take(characters).collect();
        }
        Ok(address)
    }

    /// The form of toolkit and entitlement data objects: type, then digits, without a length
    /// (ETSI TS 102 223, 8.1).
    pub fn to_data_object(&self) -> Vec<u8> {
        let mut out = vec![self.kind];
        out.extend_from_slice(&self.value());
        out
    }

    /// Reads the form of toolkit data objects; an empty one is an empty unknown number.
    pub fn from_data_object(bytes: &[u8]) -> Self {
        match bytes.split_first() {
            Some((kind, value)) => Self::from_value(*kind, value),
            None => Self { kind: Self::UNKNOWN, number: String::new() },
        }
    }

    fn from_value(kind: u8, value: &[u8]) -> Self {
        let value = &value[..value.len().min(DIGITS_MAX / 2)];
        let number = if (kind >> 4) & 0x07 == 5 { unpack_septets(value) } else { tbcd::decode(value) };
        Self { kind, number }
    }
}

/// Shown with a plus where it is international.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plus = if self.type_of_number() == 1 { "+" } else { "" };
        write!(f, "{plus}{}", self.number)
    }
}

const DIGITS: &[u8; 15] = b"0123456789*#abc";

fn pack_digits(digits: &str) -> Vec<u8> {
    let nibble = |byte: u8| DIGITS.iter().position(|digit| *digit == byte).map_or(0x0F, |at| at as u8);
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| nibble(pair[0]) | pair.get(1).map_or(0xF0, |b| nibble(*b) << 4))
        .collect()
}

/// The printable characters that stand at the same place in ASCII and in the GSM 7-bit default alphabet
/// (3GPP TS 23.038, 6.2.1).
fn is_seven_bit(character: char) -> bool {
    matches!(character, ' '..='#' | '%'..='?' | 'A'..='Z' | 'a'..='z')
}

fn pack_septets(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.chars() {
        bits |= (u32::from(character) & 0x7F) << count;
        count += 7;
        while count >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            count -= 8;
        }
    }
    if count > 0 {
        out.push(bits as u8);
    }
    out
}

/// Characters that this alphabet shares with ASCII as they are, all others as a question mark.
fn unpack_septets(octets: &[u8]) -> String {
    let mut out = String::new();
    let (mut bits, mut count) = (0_u32, 0);
    for octet in octets {
        bits |= u32::from(*octet) << count;
        count += 8;
        while count >= 7 {
            let character = char::from((bits & 0x7F) as u8);
            out.push(if is_seven_bit(character) { character } else { '?' });
            bits >>= 7;
            count -= 7;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(address: &Address) -> String {
        let mut out = Vec::new();
        address.write(&mut out);
        let mut rest = &out[..];
        assert_eq!(&Address::read(&mut rest, "test").unwrap(), address);
        assert!(rest.is_empty());
        hex::encode(out)
    }

    #[test]
    fn numbers_of_odd_and_even_length() {
        assert_eq!(written(&Address::number("12345678").unwrap()), "088121436587");
        assert_eq!(written(&Address::number("+436641234567").unwrap()), "0c91346614325476");
        assert_eq!(written(&Address::number("123").unwrap()), "038121f3");
        assert_eq!(written(&Address::number("*#a").unwrap()), "0381bafc");
        assert_eq!(written(&Address::number("").unwrap()), "0081");
        assert!(Address::number("123456789012345678901").is_err());
        assert!(Address::number("12x").is_err());
    }

    #[test]
    fn alphanumeric_senders() {
        assert_eq!(written(&Address::alphanumeric("Simtide").unwrap())[..4], *"0dd0");
        assert_eq!(written(&Address::alphanumeric("Tide").unwrap()), "07d0d434b90c");
        assert!(Address::alphanumeric("twelve chars").is_err());
    }

    #[test]
    fn data_objects_have_no_length() {
        let address = Address::number("+12345").unwrap();
        assert_eq!(hex::encode(address.to_data_object()), "912143f5");
        assert_eq!(Address::from_data_object(&address.to_data_object()), address);
        assert_eq!(Address::from_data_object(&[]).number, "");
        assert_eq!(address.to_string(), "+12345");
    }
}
