//! Time stamps of service centres and validity periods.

use crate::ids::EpochMs;

/// 3GPP TS 23.040, 9.2.3.11: year, month, day, hour, minute, second, time zone, in swapped semi-octets. Kept as it
/// came, whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timestamp(pub [u8; 7]);

/// 3GPP TS 23.040, 9.2.3.12: how long a service centre keeps trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Validity {
    /// The service centre decides.
    #[default]
    None,
    /// From acceptance on, coded: see [`Validity::relative`].
    Relative(u8),
    /// Until a moment.
    Absolute(Timestamp),
    /// The enhanced format, as it came.
    Enhanced([u8; 7]),
}

impl Timestamp {
    /// A moment in UTC. Only years 1970 to 2069 can be told apart.
    pub fn from_epoch(moment: EpochMs) -> Self {
        let (year, month, day, hour, minute, second) = moment.civil();
        let semi = |value: u8| ((value % 10) << 4) | (value / 10);
        let year = year.rem_euclid(100) as u8;
        Self([semi(year), semi(month), semi(day), semi(hour), semi(minute), semi(second), 0])
    }

    /// The moment it names, or `None` where it names none. Years 70 to 99 are of the last century.
    pub fn to_epoch(self) -> Option<EpochMs> {
        let [year, month, day, hour, minute, second, zone] = self.0;
        let two = |octet: u8| {
            let (tens, ones) = (octet & 0x0F, octet >> 4);
            (tens <= 9 && ones <= 9).then_some(tens * 10 + ones)
        };
        let year = i64::from(two(year)?);
        let year = if year >= 70 { 1900 + year } else { 2000 + year };
        // Bit 3 of the first semi-octet is the sign of the time zone, counted in quarters of an hour.
        let quarters = i64::from(two(zone & !0x08)?) * if zone & 0x08 == 0 { 1 } else { -1 };
        let local =
            EpochMs::from_civil(year, two(month)?, two(day)?, two(hour)?, two(minute)?, two(second)?)?;
        Some(local.plus_s(-quarters * 15 * 60))
    }
}

impl Validity {
    /// The shortest relative period that is at least `seconds`; 63 weeks at most.
    pub fn relative(seconds: u64) -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        const WEEK: u64 = 7 * DAY;
        let code = if seconds <= 12 * HOUR {
            seconds.div_ceil(5 * MINUTE).max(1) - 1
        } else if seconds <= DAY {
            143 + (seconds - 12 * HOUR).div_ceil(30 * MINUTE)
        } else if seconds <= 30 * DAY {
            166 + seconds.div_ceil(DAY)
        } else {
            192 + seconds.div_ceil(WEEK).min(63)
        };
        Validity::Relative(code as u8)
    }

    /// Seconds of a relative period; `None` for the other formats.
    pub fn seconds(self) -> Option<u64> {
        let Validity::Relative(code) = self else { return None };
        let code = u64::from(code);
        Some(match code {
            0..=143 => (code + 1) * 5 * 60,
            144..=167 => 12 * 3600 + (code - 143) * 30 * 60,
            168..=196 => (code - 166) * 86_400,
            _ => (code - 192) * 7 * 86_400,
        })
    }

    /// Bits 4 and 5 of the first octet of an SMS-SUBMIT.
    pub(super) fn format_bits(self) -> u8 {
        match self {
            Validity::None => 0x00,
            Validity::Enhanced(_) => 0x08,
            Validity::Relative(_) => 0x10,
            Validity::Absolute(_) => 0x18,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_and_its_time_zone() {
        let stamp = Timestamp([0x62, 0x11, 0x12, 0x90, 0x03, 0x00, 0x40]);
        let moment = EpochMs::from_civil(2026, 11, 21, 9, 30, 0).unwrap();
        assert_eq!(stamp.to_epoch(), Some(moment.plus_s(-3600)), "one hour east");
        let west = Timestamp([0x62, 0x11, 0x12, 0x90, 0x03, 0x00, 0x48]);
        assert_eq!(west.to_epoch(), Some(moment.plus_s(3600)));
        assert_eq!(Timestamp::from_epoch(moment).to_epoch(), Some(moment));
        assert_eq!(Timestamp([0xFF; 7]).to_epoch(), None);
    }

    #[test]
    fn relative_periods_never_come_out_shorter() {
        for seconds in [0, 1, 300, 301, 43_200, 43_201, 86_400, 86_401, 2_592_000, 2_592_001, 38_102_400] {
            let period = Validity::relative(seconds);
            assert!(period.seconds().unwrap() >= seconds, "{seconds}: {period:?}");
        }
        assert_eq!(Validity::relative(86_400), Validity::Relative(167));
        assert_eq!(Validity::relative(172_800), Validity::Relative(168));
        assert_eq!(Validity::relative(u64::MAX), Validity::Relative(255));
    }
}
