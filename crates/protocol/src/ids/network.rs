//! What names a network: PLMN.

use super::{IdError, Imsi, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// Public land mobile network: country code (3 digits) and network code (2 or 3), written `001-01` (3GPP TS 23.003,
/// 12.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Plmn {
    mcc: [u8; 3],
    mnc: [u8; 3],
    mnc_digits: u8,
}

impl Plmn {
    /// Whether an identity belongs to this network. `mnc_digits` is what the card says of its network code (EF.AD); a card
    /// that says nothing is believed to have as many as this network.
    pub fn is_home_of(&self, imsi: &Imsi, mnc_digits: Option<u8>) -> bool {
        mnc_digits.is_none_or(|digits| digits == self.mnc_digits)
            && imsi.mcc().as_bytes() == self.mcc
            && imsi.mnc(self.mnc_digits).as_bytes() == self.mnc_bytes()
    }

    fn mnc_bytes(&self) -> &[u8] {
        &self.mnc[..usize::from(self.mnc_digits)]
    }
}

impl FromStr for Plmn {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong =
            IdError::Range { what: "PLMN", expected: "MCC-MNC with 3 and 2 or 3 digits, as in 001-01" };
        let Some((country, network)) = text.split_once('-') else { return Err(wrong) };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let (Ok(mcc), 2 | 3) = (<[u8; 3]>::try_from(country.as_bytes()), network.len()) else {
            return Err(wrong);
        };
        if !digits(country) || !digits(network) {
            return Err(wrong);
        }
        let mut mnc = [0; 3];
        mnc[..network.len()].copy_from_slice(network.as_bytes());
        Ok(Self { mcc, mnc, mnc_digits: network.len() as u8 })
    }
}

impl fmt::Display for Plmn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |digits: &[u8]| digits.iter().map(|digit| char::from(*digit)).collect::<String>();
        write!(f, "{}-{}", text(&self.mcc), text(self.mnc_bytes()))
    }
}

serde_as_text!(Plmn);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_networks() {
        let imsi: Imsi = "001010000000001".parse().unwrap();
        let home = |text: &str, digits| text.parse::<Plmn>().unwrap().is_home_of(&imsi, digits);
        assert!(home("001-01", None) && home("001-01", Some(2)) && home("001-010", None));
        assert!(!home("001-01", Some(3)) && !home("001-010", Some(2)) && !home("001-02", None));
        assert!(!home("002-01", Some(2)));
        assert_eq!("310-410".parse::<Plmn>().unwrap().to_string(), "310-410");
        for wrong in ["", "00101", "001-1", "001-0001", "01-01", "001-0a", "001-\u{00B9}1"] {
            assert!(wrong.parse::<Plmn>().is_err(), "{wrong}");
        }
    }
}
