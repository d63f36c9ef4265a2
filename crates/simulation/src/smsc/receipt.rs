//! Texts of the service centre: message ids, receipts, validity.

use simtide_protocol::ids::EpochMs;

use super::settings::IdStyle;

/// What became of a message, towards the platform (SMPP 3.4, 5.2.28).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Stored, the phone is absent.
    Enroute,
    /// Acknowledged by the phone.
    Delivered,
    /// Validity ended.
    Expired,
    /// Refused by the phone for good.
    Undeliverable,
}

impl State {
    /// message_state (0427).
    pub fn number(self) -> u8 {
        match self {
            State::Enroute => 1,
            State::Delivered => 2,
            State::Expired => 3,
            State::Undeliverable => 5,
        }
    }

    fn text(self) -> &'static str {
        match self {
            State::Enroute => "ENROUTE",
            State::Delivered => "DELIVRD",
            State::Expired => "EXPIRED",
            State::Undeliverable => "UNDELIV",
        }
    }
}

/// The id of a message in the answer to its submit.
pub fn id_in_answer(style: IdStyle, number: u64) -> String {
    match style {
        IdStyle::Decimal => number.to_string(),
        IdStyle::Hex | IdStyle::HexThenDecimal => format!("{number:08X}"),
        IdStyle::Uuid => uuid(number),
        IdStyle::NotImplemented => "msg_id_not_implemented".to_owned(),
    }
}

/// The id of a message in its receipt; `None` where it has none.
pub fn id_in_receipt(style: IdStyle, number: u64) -> Option<String> {
    match style {
        IdStyle::Decimal | IdStyle::HexThenDecimal => Some(format!("{number:010}")),
        IdStyle::Hex => Some(format!("{number:X}")),
        IdStyle::Uuid => Some(uuid(number)),
        IdStyle::NotImplemented => None,
    }
}

/// A UUID of version 4 in form; it only has to be unique here.
fn uuid(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        mixed >> 32,
        mixed >> 16 & 0xFFFF,
        mixed >> 4 & 0xFFF,
        mixed & 0xFFF,
        number
    )
}

/// The text of a receipt (SMPP 3.4, appendix B).
pub fn text(id: Option<&str>, state: State, submitted: EpochMs, done: EpochMs) -> String {
    let date = |moment: EpochMs| {
        let (year, month, day, hour, minute, _) = moment.civil();
        format!("{:02}{month:02}{day:02}{hour:02}{minute:02}", year.rem_euclid(100))
    };
    let delivered = u8::from(state == State::Delivered);
    let error = if state == State::Undeliverable { "027" } else { "000" };
    let id = id.map(|id| format!("id:{id} ")).unwrap_or_default();
    format!(
        "{id}sub:001 dlvrd:{delivered:03} submit date:{} done date:{} stat:{} err:{error} text:",
        date(submitted),
        date(done),
        state.text()
    )
}

/// Until when a validity_period lasts (SMPP 3.4, 7.1.1): `YYMMDDhhmmss000R` from now on, or `YYMMDDhhmmsstnnp`. Empty
/// is `None`, and so is what cannot be read (the error).
pub fn expiry(validity: &str, now: EpochMs) -> Result<Option<EpochMs>, ()> {
    if validity.is_empty() {
        return Ok(None);
    }
    let bytes = validity.as_bytes();
    if bytes.len() != 16 || !bytes[..15].iter().all(u8::is_ascii_digit) {
        return Err(());
    }
    let number = |at: usize| (bytes[at] - b'0') * 10 + (bytes[at + 1] - b'0');
    let [years, months, days, hours, minutes, seconds] = [0, 2, 4, 6, 8, 10].map(number);
    if bytes[15] == b'R' {
        let days = i64::from(years) * 365 + i64::from(months) * 30 + i64::from(days);
        let seconds = ((days * 24 + i64::from(hours)) * 60 + i64::from(minutes)) * 60 + i64::from(seconds);
        return Ok(Some(now.plus_s(seconds)));
    }
    let quarters = i64::from(number(13));
    let offset_s = match bytes[15] {
        b'+' => quarters * 900,
        b'-' => -quarters * 900,
        _ => return Err(()),
    };
    let local =
        EpochMs::from_civil(2000 + i64::from(years), months, days, hours, minutes, seconds).ok_or(())?;
    Ok(Some(local.plus_s(-offset_s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_in_both_formats() {
        let now = EpochMs::from_seconds(1_000_000_000);
        assert_eq!(expiry("", now), Ok(None));
        assert_eq!(expiry("000000001000000R", now), Ok(Some(now.plus_s(600))));
        assert_eq!(expiry("000001020304000R", now), Ok(Some(now.plus_s(86_400 + 2 * 3_600 + 184))));
        assert_eq!(expiry("010909034640004+", now), Ok(Some(now.plus_s(2 * 3_600 - 3_600))));
        for wrong in ["1", "000000001000000X", "0000000010000R00", "019909034640004+"] {
            assert_eq!(expiry(wrong, now), Err(()), "{wrong}");
        }
    }

    #[test]
    fn ids_differ_between_messages_and_agree_between_answer_and_receipt() {
        assert_eq!(id_in_answer(IdStyle::Hex, 0xA7), "000000A7");
        assert_eq!(id_in_receipt(IdStyle::Hex, 0xA7).unwrap(), "A7");
        assert_eq!(id_in_receipt(IdStyle::HexThenDecimal, 0xA7).unwrap(), "0000000167");
        assert_eq!(id_in_answer(IdStyle::Uuid, 1).len(), 36);
        assert_ne!(id_in_answer(IdStyle::Uuid, 1), id_in_answer(IdStyle::Uuid, 2));
        assert_eq!(id_in_answer(IdStyle::NotImplemented, 1), id_in_answer(IdStyle::NotImplemented, 2));
    }

    #[test]
    fn the_text_of_a_receipt() {
        let moment = EpochMs::from_seconds(1_000_000_000);
        assert_eq!(
            text(Some("7"), State::Delivered, moment, moment.plus_s(60)),
            "id:7 sub:001 dlvrd:001 submit date:0109090146 done date:0109090147 stat:DELIVRD err:000 text:"
        );
    }
}
