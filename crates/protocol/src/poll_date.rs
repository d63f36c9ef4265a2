//! When a card contacts the platform next, and what it remembers of a campaign: EF.POLL and EF.MARK.
//!
//! Both files are defined by this project (`docs/card-profile.md`). The rule by which a card moves its own date
//! is the same function on both sides, so the platform only writes a date that differs from it.

use crate::ids::EpochMs;

/// Size of EF.POLL in bytes.
pub const POLL_FILE_SIZE: usize = 16;
/// Size of EF.MARK in bytes.
pub const MARK_FILE_SIZE: usize = 8;
/// The version in the first byte of EF.POLL.
const POLL_FILE_VERSION: u8 = 0x01;

/// The date of the poll that follows a poll at `now`, where nobody wrote another one.
///
/// A card keeps its place in the tide: its planned date moves on by whole periods until it lies at least half a
/// period ahead. A planned date that still does stays. With a period of 0 s the card has no polls of its own, and
/// the planned date stays what it is.
pub fn following(planned: EpochMs, period_s: u32, now: EpochMs) -> EpochMs {
    let period_ms = i64::from(period_s) * 1_000;
    // Rounded up, so that "at least half a period" holds to the millisecond.
    let earliest = now.plus_ms(period_ms / 2);
    let short_by = earliest.ms_since(planned);
    if period_ms == 0 || short_by <= 0 {
        return planned;
    }
    let periods = short_by.saturating_add(period_ms - 1) / period_ms;
    planned.plus_ms(periods.saturating_mul(period_ms))
}

/// The same, if it does not depend on whose clock is read: `None` where a clock that differs by up to
/// `tolerance_s` would come to another date, so that the date should be written instead of left to the rule.
pub fn following_for_any_clock(
    planned: EpochMs,
    period_s: u32,
    now: EpochMs,
    tolerance_s: u32,
) -> Option<EpochMs> {
    let tolerance_s = i64::from(tolerance_s);
    let early = following(planned, period_s, now.plus_s(-tolerance_s));
    (early == following(planned, period_s, now.plus_s(tolerance_s))).then_some(early)
}

/// Why the content of EF.POLL or EF.MARK cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PollFileError {
    /// The content has another size than the file.
    #[error("{file} has {expected} bytes, {found} were given")]
    Size {
        /// Which file.
        file: &'static str,
        /// Its size in bytes.
        expected: usize,
        /// The size of the content.
        found: usize,
    },
    /// The first byte of EF.POLL names a layout that is not known here.
    #[error("EF.POLL has version {0:02X}, known is 01: personalise the file again")]
    Version(u8),
    /// The phase of EF.MARK is none of 00, 01, 02.
    #[error("EF.MARK has phase {0:02X}, known are 00 none, 01 begun, 02 done")]
    Phase(u8),
}

/// The content of EF.POLL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollFile {
    /// The planned date of the next poll, seconds since 1970-01-01T00:00:00Z; 0 means at the first chance.
    pub next_s: u32,
    /// The period of polls in seconds; 0: the card makes no polls of its own.
    pub period_s: u32,
    /// How long the card waits before it tries again after a poll that failed, in seconds.
    pub retry_delay_s: u16,
    /// How often it tries again before it waits for the next period.
    pub retries: u8,
}

impl PollFile {
    /// The planned date of the next poll.
    pub fn next(&self) -> EpochMs {
        EpochMs::from_seconds(i64::from(self.next_s))
    }

    /// The same with another planned date, cut to what four bytes can hold (1970 to 2106).
    #[must_use]
    pub fn with_next(self, next: EpochMs) -> Self {
        Self { next_s: u32::try_from(next.seconds().max(0)).unwrap_or(u32::MAX), ..self }
    }

    /// The bytes of the file: version, date, period, delay, retries, four reserved.
    pub fn encode(&self) -> [u8; POLL_FILE_SIZE] {
        let mut file = [0; POLL_FILE_SIZE];
        file[0] = POLL_FILE_VERSION;
        file[1..5].copy_from_slice(&self.next_s.to_be_bytes());
        file[5..9].copy_from_slice(&self.period_s.to_be_bytes());
        file[9..11].copy_from_slice(&self.retry_delay_s.to_be_bytes());
        file[11] = self.retries;
        file
    }

    /// Reads the bytes of the file; the reserved ones are ignored.
    pub fn decode(file: &[u8]) -> Result<Self, PollFileError> {
        let [version, a, b, c, d, e, f, g, h, i, j, retries, _, _, _, _] = *file else {
            return Err(PollFileError::Size { file: "EF.POLL", expected: POLL_FILE_SIZE, found: file.len() });
        };
        if version != POLL_FILE_VERSION {
            return Err(PollFileError::Version(version));
        }
        Ok(Self {
            next_s: u32::from_be_bytes([a, b, c, d]),
            period_s: u32::from_be_bytes([e, f, g, h]),
            retry_delay_s: u16::from_be_bytes([i, j]),
            retries,
        })
    }
}

/// How far a step that is not repeatable has come on the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum MarkPhase {
    /// No step has been marked.
    #[default]
    None,
    /// The step's script has begun; whether it ended is not known.
    Begun,
    /// The step's script has run to its end.
    Done,
}

/// The content of EF.MARK: the last step of a campaign that is not repeatable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct MarkFile {
    /// The campaign's number.
    pub campaign: u32,
    /// The step within the campaign, from 0.
    pub step: u8,
    /// How far that step has come.
    pub phase: MarkPhase,
}

impl MarkFile {
    /// The bytes of the file: campaign, step, phase, two reserved.
    pub fn encode(&self) -> [u8; MARK_FILE_SIZE] {
        let [a, b, c, d] = self.campaign.to_be_bytes();
        let phase = match self.phase {
            MarkPhase::None => 0x00,
            MarkPhase::Begun => 0x01,
            MarkPhase::Done => 0x02,
        };
        [a, b, c, d, self.step, phase, 0, 0]
    }

    /// Reads the bytes of the file; the reserved ones are ignored.
    pub fn decode(file: &[u8]) -> Result<Self, PollFileError> {
        let [a, b, c, d, step, phase, _, _] = *file else {
            return Err(PollFileError::Size { file: "EF.MARK", expected: MARK_FILE_SIZE, found: file.len() });
        };
        let phase = match phase {
            0x00 => MarkPhase::None,
            0x01 => MarkPhase::Begun,
            0x02 => MarkPhase::Done,
            other => return Err(PollFileError::Phase(other)),
        };
        Ok(Self { campaign: u32::from_be_bytes([a, b, c, d]), step, phase })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_S: u32 = 86_400;

    fn day(day: i64) -> EpochMs {
        EpochMs::from_seconds(day * i64::from(DAY_S))
    }

    #[test]
    fn a_card_keeps_its_place_in_the_tide() {
        let period = 20 * DAY_S;
        // On time, a little late, called in early, called in very early.
        assert_eq!(following(day(100), period, day(100)), day(120));
        assert_eq!(following(day(100), period, day(101)), day(120));
        assert_eq!(following(day(100), period, day(91)), day(120));
        assert_eq!(following(day(100), period, day(90)), day(100));
        assert_eq!(following(day(100), period, day(85)), day(100));
        // Overdue by several periods.
        assert_eq!(following(day(100), period, day(165)), day(180));
        assert_eq!(following(day(100), 0, day(165)), day(100));
    }

    #[test]
    fn near_the_border_of_two_dates_the_rule_is_not_left_to_two_clocks() {
        let period = 20 * DAY_S;
        assert_eq!(following_for_any_clock(day(100), period, day(100), 300), Some(day(120)));
        assert_eq!(following_for_any_clock(day(100), period, day(90), 300), None);
    }

    #[test]
    fn files_as_documented() {
        let file = PollFile { next_s: 0x6553_F100, period_s: 20 * DAY_S, retry_delay_s: 600, retries: 3 };
        assert_eq!(hex::encode(file.encode()), "016553f100001a5e0002580300000000");
        assert_eq!(PollFile::decode(&file.encode()), Ok(file));
        assert_eq!(file.with_next(EpochMs(i64::MAX)).next_s, u32::MAX);
        assert_eq!(file.with_next(EpochMs(-1)).next_s, 0);
        assert!(PollFile::decode(&[1; 15]).is_err());
        assert_eq!(PollFile::decode(&[0xFF; 16]), Err(PollFileError::Version(0xFF)));

        let mark = MarkFile { campaign: 7, step: 2, phase: MarkPhase::Begun };
        assert_eq!(hex::encode(mark.encode()), "0000000702010000");
        assert_eq!(MarkFile::decode(&mark.encode()), Ok(mark));
        assert_eq!(MarkFile::decode(&[0xFF; 8]), Err(PollFileError::Phase(0xFF)));
    }

    proptest::proptest! {
        #[test]
        fn the_next_date_is_the_first_that_is_half_a_period_ahead(
            planned in 0_i64..4_000_000_000, now in 0_i64..4_000_000_000, period_s in 1_u32..10_000_000,
        ) {
            let (planned, now) = (EpochMs::from_seconds(planned), EpochMs::from_seconds(now));
            let (next, period_ms) = (following(planned, period_s, now), i64::from(period_s) * 1_000);
            proptest::prop_assert_eq!(next.ms_since(planned) % period_ms, 0);
            proptest::prop_assert!(next >= planned && next.ms_since(now) >= period_ms / 2);
            proptest::prop_assert!(next == planned || next.ms_since(now) < period_ms + period_ms / 2);
        }
    }
}
