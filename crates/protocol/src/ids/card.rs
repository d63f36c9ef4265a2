//! What names a secure element: ICCID, EID, and the card id made from either.

use super::digits::Digits;
use super::{IdError, serde_as_text, tbcd};
use std::fmt;
use std::str::FromStr;

/// Integrated circuit card identifier: 18 to 20 digits, the last one the Luhn check digit (ITU-T E.118).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iccid(Digits<10>);

impl Iccid {
    /// The content of EF.ICCID: ten bytes, nibbles swapped, filled with `F` (ETSI TS 102 221, 13.2).
    pub fn to_file(&self) -> [u8; 10] {
        let mut coded = *self.0.packed();
        tbcd::swap_nibbles(&mut coded);
        coded
    }

    /// Reads the content of EF.ICCID.
    pub fn from_file(coded: &[u8]) -> Result<Self, IdError> {
        let mut packed = <[u8; 10]>::try_from(coded).map_err(|_| IdError::Length {
            what: "EF.ICCID",
            found: coded.len(),
            unit: "bytes",
            expected: "10",
        })?;
        tbcd::swap_nibbles(&mut packed);
        Self::checked(Digits::from_packed("ICCID", packed)?)
    }

    /// Completes 17 to 19 digits by their Luhn check digit.
    pub fn with_check_digit(digits: &str) -> Result<Self, IdError> {
        let body = Digits::<10>::parse("ICCID", digits)?;
        format!("{digits}{}", luhn(body.iter())).parse()
    }

    fn checked(digits: Digits<10>) -> Result<Self, IdError> {
        let count = digits.len();
        if !(18..=20).contains(&count) {
            return Err(IdError::Length {
                what: "ICCID",
                found: count,
                unit: "digits",
                expected: "18 to 20, an F pad may follow",
            });
        }
        let found = digits.iter().next_back().unwrap_or_default();
        let expected = luhn(digits.iter().take(count - 1).collect::<Vec<_>>().into_iter());
        if found != expected {
            return Err(IdError::CheckDigits {
                what: "ICCID",
                found: found.to_string(),
                expected: expected.to_string(),
            });
        }
        Ok(Self(digits))
    }
}

impl FromStr for Iccid {
    type Err = IdError;

    /// Accepts one or two `F` at the end, as vendor files pad it.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.trim_end_matches(['F', 'f']);
        if text.len() > 20 || text.len() - digits.len() > 2 {
            return Err(IdError::Length {
                what: "ICCID",
                found: text.len(),
                unit: "digits",
                expected: "18 to 20, an F pad may follow",
            });
        }
        Self::checked(Digits::parse("ICCID", digits)?)
    }
}

impl fmt::Display for Iccid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The Luhn digit that completes these digits.
fn luhn(digits: impl DoubleEndedIterator<Item = u8>) -> u8 {
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let doubled = u32::from(digit) * if place % 2 == 0 { 2 } else { 1 };
            doubled / 10 + doubled % 10
        })
        .sum();
    // A remainder of a division by ten fits a byte.
    ((10 - sum % 10) % 10) as u8
}

/// Identifier of an embedded secure element: 32 digits, the last two a check modulo 97 (GSMA SGP.02, 2.2.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Eid(Digits<16>);

impl Eid {
    /// The 16 bytes as they stand on the card and in a PSK identity, digits in reading order.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.packed()
    }

    /// Takes the 16 bytes of an EID.
    pub fn from_bytes(packed: [u8; 16]) -> Result<Self, IdError> {
        Self::checked(Digits::from_packed("EID", packed)?)
    }

    /// Completes 30 digits by their two check digits.
    pub fn with_check_digits(digits: &str) -> Result<Self, IdError> {
        let body = Digits::<16>::parse("EID", &format!("{digits}00"))?;
        format!("{digits}{:02}", 98 - remainder_97(body.iter())).parse()
    }

    fn checked(digits: Digits<16>) -> Result<Self, IdError> {
        let count = digits.len();
        if count != 32 {
            return Err(IdError::Length { what: "EID", found: count, unit: "digits", expected: "32" });
        }
        if remainder_97(digits.iter()) != 1 {
            let found: String = digits.iter().skip(30).map(|digit| char::from(b'0' + digit)).collect();
            let base = remainder_97(digits.iter().take(30).collect::<Vec<_>>().into_iter().chain([0, 0]));
            return Err(IdError::CheckDigits { what: "EID", found, expected: format!("{:02}", 98 - base) });
        }
        Ok(Self(digits))
    }
}

impl FromStr for Eid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() > 32 {
            return Err(IdError::Length { what: "EID", found: text.len(), unit: "digits", expected: "32" });
        }
        Self::checked(Digits::parse("EID", text)?)
    }
}

impl fmt::Display for Eid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn remainder_97(digits: impl Iterator<Item = u8>) -> u32 {
    digits.fold(0, |rest, digit| (rest * 10 + u32::from(digit)) % 97)
}

/// What the platform knows a card by: its ICCID, or the EID of an embedded element. At most 16 bytes, inline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CardId {
    bytes: [u8; 16],
    length: u8,
}

impl CardId {
    /// The bytes that stand in the store: 10 packed digits of an ICCID, or the 16 of an EID.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The ICCID, where the card is known by it.
    pub fn iccid(&self) -> Option<Iccid> {
        let packed = <[u8; 10]>::try_from(self.as_bytes()).ok()?;
        Digits::from_packed("ICCID", packed).ok().map(Iccid)
    }

    /// The EID, where the card is known by it.
    pub fn eid(&self) -> Option<Eid> {
        let packed = <[u8; 16]>::try_from(self.as_bytes()).ok()?;
        Digits::from_packed("EID", packed).ok().map(Eid)
    }
}

impl From<Iccid> for CardId {
    fn from(iccid: Iccid) -> Self {
        let mut bytes = [0; 16];
        bytes[..10].copy_from_slice(iccid.0.packed());
        Self { bytes, length: 10 }
    }
}

impl From<Eid> for CardId {
    fn from(eid: Eid) -> Self {
        Self { bytes: *eid.0.packed(), length: 16 }
    }
}

impl TryFrom<&[u8]> for CardId {
    type Error = IdError;

    /// Reads the bytes of [`CardId::as_bytes`], with all checks.
    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        if let Ok(packed) = <[u8; 10]>::try_from(bytes) {
            Iccid::checked(Digits::from_packed("ICCID", packed)?).map(Self::from)
        } else if let Ok(packed) = <[u8; 16]>::try_from(bytes) {
            Eid::from_bytes(packed).map(Self::from)
        } else {
            Err(IdError::Length {
                what: "card id",
                found: bytes.len(),
                unit: "bytes",
                expected: "10 for an ICCID or 16 for an EID",
            })
        }
    }
}

impl FromStr for CardId {
    type Err = IdError;

    /// 32 digits are an EID, everything else has to be an ICCID.
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() == 32 {
            text.parse::<Eid>().map(Self::from)
        } else {
            text.parse::<Iccid>().map(Self::from)
        }
    }
}

impl fmt::Display for CardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.iccid(), self.eid()) {
            (Some(iccid), _) => iccid.fmt(f),
            (None, Some(eid)) => eid.fmt(f),
            (None, None) => f.pad(""),
        }
    }
}

/// The part of the cards that a server owns by one lease; work is spread by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Bucket(pub u16);

impl Bucket {
    /// The bucket of a card among `buckets`, a power of two: FNV-1a (64 bits) of the card id's bytes, masked.
    pub fn of(card: &CardId, buckets: u16) -> Self {
        let hash = card.as_bytes().iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        // The mask leaves no more than 16 bits.
        Self((hash & u64::from(buckets.saturating_sub(1))) as u16)
    }
}

serde_as_text!(Iccid, Eid, CardId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iccid_of_every_length_with_its_check_digit() {
        let iccid: Iccid = "8988211000000000011".parse().unwrap();
        assert_eq!(iccid.to_string(), "8988211000000000011");
        assert_eq!("8988211000000000011F".parse(), Ok(iccid));
        assert_eq!(hex::encode(iccid.to_file()), "988812010000000010f1");
        assert_eq!(Iccid::from_file(&iccid.to_file()), Ok(iccid));
        for body in ["89882110000000001", "898821100000000001", "8988211000000000013"] {
            let complete = Iccid::with_check_digit(body).unwrap();
            assert_eq!(complete.to_string().len(), body.len() + 1);
            assert_eq!(Iccid::from_file(&complete.to_file()), Ok(complete));
        }
    }

    #[test]
    fn iccid_that_is_wrong_is_refused_with_what_would_be_right() {
        let message = "8988211000000000012".parse::<Iccid>().unwrap_err().to_string();
        assert!(message.contains("where 1 belong") && message.contains("mistyped"), "{message}");
        for wrong in [
            "",
            "1",
            "89882110000000000",
            "898821100000000001100",
            "89882110000000000x0",
            "FFFFFFFFFFFFFFFFFF",
        ] {
            assert!(wrong.parse::<Iccid>().is_err(), "{wrong}");
        }
        assert!(Iccid::from_file(&[0x98; 9]).is_err());
        assert!(Iccid::from_file(&[0xFA; 10]).is_err());
    }

    #[test]
    fn eid_with_its_check_digits() {
        let eid: Eid = "89049032123451234512345678901235".parse().unwrap();
        assert_eq!(Eid::with_check_digits("890490321234512345123456789012"), Ok(eid));
        assert_eq!(Eid::from_bytes(*eid.as_bytes()), Ok(eid));
        let wrong = "89049032123451234512345678901236".parse::<Eid>();
        assert!(matches!(wrong, Err(IdError::CheckDigits { expected, .. }) if expected == "35"));
        assert!("8904903212345123451234567890123".parse::<Eid>().is_err());
    }

    #[test]
    fn card_id_is_either_and_reads_back_from_its_bytes() {
        for text in ["8988211000000000011", "89049032123451234512345678901235"] {
            let card: CardId = text.parse().unwrap();
            assert_eq!(card.to_string(), text);
            assert_eq!(CardId::try_from(card.as_bytes()), Ok(card));
            assert_eq!(serde_json::from_str::<CardId>(&serde_json::to_string(&card).unwrap()).unwrap(), card);
        }
        assert!(CardId::try_from(&[0_u8; 3][..]).is_err());
    }

    #[test]
    fn buckets_spread_and_never_change() {
        let card: CardId = "8988211000000000011".parse().unwrap();
        assert_eq!(Bucket::of(&card, 1), Bucket(0));
        let first = Bucket::of(&card, 64);
        assert!(first.0 < 64);
        assert_eq!(first, Bucket::of(&card, 64));
        let mut seen = [0; 16];
        for number in 0..1600 {
            let card = CardId::from(Iccid::with_check_digit(&format!("8988211{number:011}")).unwrap());
            seen[usize::from(Bucket::of(&card, 16).0)] += 1;
        }
        assert!(seen.iter().all(|count| (50..200).contains(count)), "{seen:?}");
    }
}
