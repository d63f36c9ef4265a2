//! Terminal responses: what the device says about a proactive command (ETSI TS 102 223, 6.8 and 8.12).

use simtide_protocol::ids::EpochMs;
use simtide_protocol::tlv::{ComprehensionReader, TlvError, find_comprehension};

/// The general result (ETSI TS 102 223, 8.12), as far as the card behaves differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeneralResult {
    /// 00 to 0F: done, perhaps with a difference.
    Done,
    /// 10: the user ended the session.
    EndedByUser,
    /// 11: the user went back.
    Backward,
    /// 12: the user did not answer.
    NoAnswer,
    /// 20, 21, 26: the device, the network or the user's agent cannot at the moment: worth another try.
    TryAgain(u8),
    /// 22: the user said no.
    UserRefused,
    /// 30 to 32: the device does not know the command or what it carries.
    NotSupported(u8),
    /// 3A: error of the bearer independent protocol, with its cause (8.12.11).
    BearerError(u8),
    /// Any other failure.
    Failed(u8),
}

/// A terminal response, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalResponse<'a> {
    /// Number of the command that it answers.
    pub number: u8,
    /// Type of that command.
    pub kind: u8,
    /// Qualifier of that command.
    pub qualifier: u8,
    /// How it ended.
    pub result: GeneralResult,
    body: &'a [u8],
}

impl<'a> TerminalResponse<'a> {
    /// Reads the data of TERMINAL RESPONSE.
    pub fn parse(body: &'a [u8]) -> Result<Self, TlvError> {
        for object in ComprehensionReader::new(body) {
            object?;
        }
        let details = find_comprehension(body, 0x01).ok_or(TlvError::Tag)?;
        let &[number, kind, qualifier] = details else { return Err(TlvError::Length) };
        let (general, information) =
            find_comprehension(body, 0x03).and_then(|result| result.split_first()).ok_or(TlvError::Length)?;
        let information = information.first().copied().unwrap_or_default();
        let result = match *general {
            0x00..=0x0F => GeneralResult::Done,
            0x10 => GeneralResult::EndedByUser,
            0x11 => GeneralResult::Backward,
            0x12 => GeneralResult::NoAnswer,
            0x20 | 0x21 | 0x26 => GeneralResult::TryAgain(information),
            0x22 => GeneralResult::UserRefused,
            code @ 0x30..=0x32 => GeneralResult::NotSupported(code),
            0x3A => GeneralResult::BearerError(information),
            code => GeneralResult::Failed(code),
        };
        Ok(Self { number, kind, qualifier, result, body })
    }

    /// Whether the command was done.
    pub fn is_done(&self) -> bool {
        self.result == GeneralResult::Done
    }

    /// The value of a data object, by its tag without comprehension bit.
    pub fn find(&self, tag: u16) -> Option<&'a [u8]> {
        find_comprehension(self.body, tag)
    }

    /// The identifier of the chosen item (tag 10).
    pub fn item(&self) -> Option<u8> {
        self.find(0x10)?.first().copied()
    }

    /// What the user typed (tag 0D): 8-bit and UCS2 text as it is, packed 7-bit text unpacked.
    pub fn text(&self) -> Option<String> {
        let (coding, text) = self.find(0x0D)?.split_first()?;
        match coding {
            0x08 => {
                let units = text.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                Some(char::decode_utf16(units).map(|unit| unit.unwrap_or('?')).collect())
            }
            0x00 => Some(unpack_septets(text)),
            _ => Some(text.iter().map(|byte| char::from(*byte)).collect()),
        }
    }

    /// Channel number 1 to 7, where OPEN CHANNEL gave one (tag 38).
    pub fn channel(&self) -> Option<u8> {
        self.find(0x38)?.first().map(|status| status & 0x07).filter(|channel| *channel != 0)
    }

    /// What RECEIVE DATA brought (tag 36).
    pub fn channel_data(&self) -> Option<&'a [u8]> {
        self.find(0x36)
    }

    /// How many bytes still wait (RECEIVE DATA) or how many fit (SEND DATA); 255 means 255 or more (tag 37).
    pub fn channel_data_length(&self) -> Option<u8> {
        self.find(0x37)?.first().copied()
    }

    /// Date and time of the device (tag 26), as UTC; a device that does not know its time zone counts as UTC.
    pub fn date_time(&self) -> Option<EpochMs> {
        let &[year, month, day, hour, minute, second, zone] = self.find(0x26)? else { return None };
        let number = |octet: u8| -> Option<u8> {
            let (tens, ones) = (octet & 0x0F, octet >> 4);
            (tens <= 9 && ones <= 9).then_some(tens * 10 + ones)
        };
        let year = 2_000 + i64::from(number(year)?);
        let local = EpochMs::from_civil(
            year,
            number(month)?,
            number(day)?,
            number(hour)?,
            number(minute)?,
            number(second)?,
        )?;
        if zone == 0xFF {
            return Some(local);
        }
        // 3GPP TS 23.040, 9.2.3.11: quarters of an hour, bit 4 of the octet is the sign.
        let quarters = i64::from(number(zone & !0x08)?);
        let offset_s = quarters * 900 * if zone & 0x08 != 0 { -1 } else { 1 };
        Some(local.plus_s(-offset_s))
    }

    /// What is left of a timer, in seconds (tag 25).
    pub fn timer_left_s(&self) -> Option<u32> {
        super::envelope::timer_seconds(self.find(0x25)?)
    }
}

/// GSM 7-bit text (3GPP TS 23.038, 6.1.2.1), for the characters that it shares with ASCII.
fn unpack_septets(packed: &[u8]) -> String {
    let count = packed.len() * 8 / 7;
    let mut text = String::with_capacity(count);
    for place in 0..count {
        let bit = place * 7;
        let low = u16::from(packed[bit / 8]);
        let high = u16::from(packed.get(bit / 8 + 1).copied().unwrap_or_default());
        let septet = ((low | high << 8) >> (bit % 8)) as u8 & 0x7F;
        // A last septet of zeros is what fills the octet.
        if septet == 0 && place + 1 == count {
            break;
        }
        text.push(char::from(septet));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed<R>(hex: &str, check: impl FnOnce(TerminalResponse<'_>) -> R) -> R {
        let bytes = hex::decode(hex.replace(' ', "")).unwrap();
        check(TerminalResponse::parse(&bytes).unwrap())
    }

    #[test]
    fn date_and_time_zone() {
        // 2026-11-21 13:05:09, two hours ahead of UTC, then five hours behind.
        let ahead = "8103012603 8202 8281 830100 a607 62111231509080";
        parsed(ahead, |response| {
            assert_eq!(response.date_time().unwrap().to_string(), "2026-11-21T11:05:09Z");
        });
        let behind = "810301260382028281830100 a607 6211123150900a";
        parsed(behind, |response| {
            assert_eq!(response.date_time().unwrap().to_string(), "2026-11-21T18:05:09Z");
        });
        parsed("810301260382028281830100 a607 621112315090ff", |response| {
            assert_eq!(response.date_time().unwrap().to_string(), "2026-11-21T13:05:09Z");
        });
    }

    #[test]
    fn channels_items_texts() {
        parsed("810301400182028281 8301 00 b8028100 350103 39020578", |response| {
            assert_eq!((response.is_done(), response.channel()), (true, Some(1)));
        });
        parsed("0103 014200 02028281 030100 b602aabb b70103", |response| {
            assert_eq!(response.channel_data(), Some(&[0xAA, 0xBB][..]));
            assert_eq!(response.channel_data_length(), Some(3));
        });
        parsed("810301240082028281 830100 900102", |response| assert_eq!(response.item(), Some(2)));
        parsed("810301230082028281 830100 8d0504 31323334", |response| {
            assert_eq!(response.text().as_deref(), Some("1234"));
        });
        parsed("810301230082028281 830100 8d0500 31d98c06", |response| {
            assert_eq!(response.text().as_deref(), Some("1234"));
        });
        parsed("810301400182028281 83023a01", |response| {
            assert_eq!(response.result, GeneralResult::BearerError(1));
        });
    }

    #[test]
    fn what_is_no_terminal_response() {
        for wrong in
            ["", "810301", "81030126038202828183", "8103012603820282818300", "8102012682028281830100"]
        {
            assert!(TerminalResponse::parse(&hex::decode(wrong).unwrap()).is_err(), "{wrong}");
        }
    }
}
