//! A moment: milliseconds since 1970-01-01T00:00:00Z.

use super::{IdError, serde_as_text};
use std::fmt;
use std::str::FromStr;

/// Milliseconds since the Unix epoch, UTC, without leap seconds. In JSON an RFC 3339 text with `Z`.
///
/// Arithmetic saturates: no date, however absurd, overflows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EpochMs(pub i64);

impl EpochMs {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// A moment given in whole seconds.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000))
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// The moment so many milliseconds later (earlier, where negative).
    #[must_use]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// The moment so many seconds later (earlier, where negative).
    #[must_use]
    pub const fn plus_s(self, seconds: i64) -> Self {
        self.plus_ms(seconds.saturating_mul(1_000))
    }

    /// Milliseconds from `earlier` to here; negative where `earlier` is later.
    pub const fn ms_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Year, month 1-12, day 1-31, hour, minute, second, in UTC.
    pub const fn civil(self) -> (i64, u8, u8, u8, u8, u8) {
        let seconds = self.seconds();
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days from 0000-03-01, in eras of 400 years, so that the leap day is the last of a year.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year_of_era + era * 400 + (month <= 2) as i64;
        let time = ((second / 3_600) as u8, (second / 60 % 60) as u8, (second % 60) as u8);
        (year, month as u8, day as u8, time.0, time.1, time.2)
    }

    /// The moment of a civil date and time in UTC; `None` where there is no such day or the year is not 1970-9999.
    pub fn from_civil(year: i64, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> Option<Self> {
        let plausible = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
        if !plausible || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (year_of, month_of) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
        let era = year_of.div_euclid(400);
        let year_of_era = year_of.rem_euclid(400);
        let day_of_year = (153 * i64::from(month_of) + 2) / 5 + i64::from(day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let clock = i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second);
        let moment = Self::from_seconds(days * 86_400 + clock);
        // 31 April and the like come out as another day.
        (moment.civil().2 == day).then_some(moment)
    }
}

impl FromStr for EpochMs {
    type Err = IdError;

    /// `YYYY-MM-DDThh:mm:ssZ`, with up to three decimals of a second, or a bare date.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong =
            IdError::Range { what: "date", expected: "write YYYY-MM-DDThh:mm:ssZ, in UTC, 1970 to 9999" };
        parse(text).ok_or(wrong)
    }
}

fn parse(text: &str) -> Option<EpochMs> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok()
    };
    let separators =
        |places: &[(usize, u8)]| places.iter().all(|(at, byte)| text.as_bytes().get(*at) == Some(byte));
    let small = |range| number(range).and_then(|value| u8::try_from(value).ok());
    if !separators(&[(4, b'-'), (7, b'-')]) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, small(5..7)?, small(8..10)?);
    if text.len() == 10 {
        return EpochMs::from_civil(year, month, day, 0, 0, 0);
    }
    if !separators(&[(10, b'T'), (13, b':'), (16, b':')]) {
        return None;
    }
    let moment = EpochMs::from_civil(year, month, day, small(11..13)?, small(14..16)?, small(17..19)?)?;
    match text.get(19..)? {
        "Z" => Some(moment),
        fraction => {
            let decimals = fraction.strip_prefix('.')?.strip_suffix('Z')?;
            if decimals.is_empty() || decimals.len() > 3 {
                return None;
            }
            let value = number(20..20 + decimals.len())?;
            Some(moment.plus_ms(value * 10_i64.pow(3 - decimals.len() as u32)))
        }
    }
}

impl fmt::Display for EpochMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day, hour, minute, second) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match self.0.rem_euclid(1_000) {
            0 => f.write_str("Z"),
            ms => write!(f, ".{ms:03}Z"),
        }
    }
}

serde_as_text!(EpochMs);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_294_967_295, "2106-02-07T06:28:15Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(EpochMs::from_seconds(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(EpochMs::from_seconds(seconds)));
        }
        assert_eq!("2023-11-14".parse(), Ok(EpochMs::from_civil(2023, 11, 14, 0, 0, 0).unwrap()));
        assert_eq!("1970-01-01T00:00:00.25Z".parse(), Ok(EpochMs(250)));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for wrong in [
            "",
            "2023-02-29",
            "2023-04-31T00:00:00Z",
            "10000-01-01",
            "2023-11-14T24:00:00Z",
            "2023-11-14T10:00:00",
            "äää",
        ] {
            assert!(wrong.parse::<EpochMs>().is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reads_back_what_it_shows(ms in 0_i64..253_402_300_799_999) {
            let moment = EpochMs(ms);
            proptest::prop_assert_eq!(moment.to_string().parse(), Ok(moment));
        }
    }
}
