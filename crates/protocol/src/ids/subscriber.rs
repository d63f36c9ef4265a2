//! What names a subscriber: IMSI and MSISDN.

use super::digits::Digits;
use super::{IdError, serde_as_text, tbcd};
use std::fmt;
use std::str::FromStr;

/// International mobile subscriber identity: 6 to 15 digits, country (3), network (2 or 3), subscriber (3GPP TS
/// 23.003, 2.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Imsi(Digits<8>);

impl Imsi {
    /// Mobile country code, three digits.
    pub fn mcc(&self) -> String {
        self.part(0, 3)
    }

    /// Mobile network code of two or three digits; which of the two, EF.AD of the card says.
    pub fn mnc(&self, digits: u8) -> String {
        self.part(3, usize::from(digits))
    }

    /// The content of EF.IMSI: length, then digits with swapped nibbles behind the parity (3GPP TS 31.102, 4.2.2).
    pub fn to_file(&self) -> [u8; 9] {
        let text = self.to_string();
        let mut coded = [0xFF; 9];
        coded[0] = (text.len() / 2 + 1) as u8;
        let mut nibbles = Vec::with_capacity(16);
        nibbles.push(if text.len().is_multiple_of(2) { 0x01 } else { 0x09 });
        nibbles.extend(text.bytes().map(|byte| byte - b'0'));
        for (place, pair) in nibbles.chunks(2).enumerate() {
            coded[1 + place] = pair[0] | (pair.get(1).copied().unwrap_or(0x0F) << 4);
        }
        coded
    }

    /// Reads the content of EF.IMSI.
    pub fn from_file(coded: &[u8]) -> Result<Self, IdError> {
        let length = usize::from(coded.first().copied().unwrap_or_default());
        let Some(digits) = coded.get(1..1 + length).filter(|digits| digits.len() <= 8 && !digits.is_empty())
        else {
            return Err(IdError::Length {
                what: "EF.IMSI",
                found: coded.len(),
                unit: "bytes",
                expected: "9, the first one the length of the rest",
            });
        };
        tbcd::decode(digits).get(1..).unwrap_or_default().parse()
    }

    fn part(&self, from: usize, count: usize) -> String {
        self.0.iter().skip(from).take(count).map(|digit| char::from(b'0' + digit)).collect()
    }
}

impl FromStr for Imsi {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if !(6..=15).contains(&text.len()) {
            return Err(IdError::Length {
                what: "IMSI",
                found: text.len(),
                unit: "digits",
                expected: "6 to 15 (nearly always 15)",
            });
        }
        Digits::parse("IMSI", text).map(Self)
    }
}

impl fmt::Display for Imsi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An international telephone number: 5 to 15 digits, country code first (ITU-T E.164). Shown without a plus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Msisdn(Digits<8>);

impl FromStr for Msisdn {
    type Err = IdError;

    /// Accepts a plus in front.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix('+').unwrap_or(text);
        if !(5..=15).contains(&digits.len()) {
            return Err(IdError::Length {
                what: "MSISDN",
                found: digits.len(),
                unit: "digits",
                expected: "5 to 15 with the country code, without leading zeros",
            });
        }
        if digits.starts_with('0') {
            return Err(IdError::Range {
                what: "MSISDN",
                expected: "write the country code first, not the national or international prefix",
            });
        }
        Digits::parse("MSISDN", digits).map(Self)
    }
}

impl fmt::Display for Msisdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that a card's messages are addressed to: a short code or a telephone number, 1 to 20 digits (3GPP TS
/// 23.040, 9.1.2.5). Shown without a plus, which short messages carry beside the digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceNumber(Digits<10>);

impl FromStr for ServiceNumber {
    type Err = IdError;

    /// Accepts a plus in front.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix('+').unwrap_or(text);
        if !(1..=20).contains(&digits.len()) {
            return Err(IdError::Length {
                what: "service number",
                found: digits.len(),
                unit: "digits",
                expected: "1 to 20, with or without a plus in front",
            });
        }
        Digits::parse("service number", digits).map(Self)
    }
}

impl fmt::Display for ServiceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

serde_as_text!(Imsi, Msisdn, ServiceNumber);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imsi_as_the_file_holds_it() {
        let imsi: Imsi = "001010000000001".parse().unwrap();
        assert_eq!(hex::encode(imsi.to_file()), "080910100000000010");
        assert_eq!(Imsi::from_file(&imsi.to_file()), Ok(imsi));
        assert_eq!((imsi.mcc(), imsi.mnc(2)), ("001".into(), "01".into()));
        let even: Imsi = "00101000000001".parse().unwrap();
        assert_eq!(Imsi::from_file(&even.to_file()), Ok(even));
        assert!(Imsi::from_file(&[]).is_err());
        assert!(Imsi::from_file(&[0xFF; 9]).is_err());
    }

    #[test]
    fn numbers_with_and_without_plus() {
        let number: Msisdn = "+436641234567".parse().unwrap();
        assert_eq!(number.to_string(), "436641234567");
        for wrong in ["", "0664123456", "+43 664", "1234567890123456", "12a45"] {
            assert!(wrong.parse::<Msisdn>().is_err(), "{wrong}");
        }
        assert!("0010100000000011".parse::<Imsi>().is_err());
        for (text, shown) in
            [("+43660500", "43660500"), ("1", "1"), ("01234567890123456789", "01234567890123456789")]
        {
            assert_eq!(text.parse::<ServiceNumber>().unwrap().to_string(), shown);
        }
        for wrong in ["", "+", "12*3", "012345678901234567890"] {
            assert!(wrong.parse::<ServiceNumber>().is_err(), "{wrong}");
        }
    }
}
