//! A campaign whose content is a change of operator: how many changes it begins, and when it stops by itself.
//!
//! Who is next is [`super::Walk`]'s; every card then has a change of its own ([`super::Change`]), whose evidence names the
//! campaign. This decides only how many more may begin now. The shell gives it the counts of the changes that the
//! campaign began and carries out the answer.
//!
//! | counts since the campaign was last started by a user | answer |
//! |---|---|
//! | the share of failures, or the number of unknown outcomes, at a threshold | `Pause`: a user looks, and starts it again |
//! | fewer ended than the canary | `Begin(n)`: never more than are missing to the canary |
//! | as many open as allowed | `Begin(0)` |
//! | less | `Begin(n)`: as many as the rate has earned, never more than the room |

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::change::Change;
use super::types::{CardRefusal, Reason, State};

/// Changes that may be open in one campaign at most.
pub const BULK_OPEN_MAX: u32 = 100_000;
/// Changes that one campaign may begin per minute at most.
pub const BULK_PER_MINUTE_MAX: u32 = 60_000;

/// Rate and thresholds of such a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BulkSettings {
    /// Changes begun per minute, at most [`BULK_PER_MINUTE_MAX`].
    pub per_minute_max: u32,
    /// Changes open at the same time, at most [`BULK_OPEN_MAX`].
    pub open_max: u32,
    /// The first so many are watched: no others begin before they have ended. 0: none.
    pub canary: u32,
    /// Pause when more than so many of a hundred ended changes have failed; 100: never.
    pub failed_percent_max: u8,
    /// Pause at once at so many whose outcome is unknown.
    pub unknown_max: u32,
}

impl Default for BulkSettings {
    fn default() -> BulkSettings {
        BulkSettings {
            per_minute_max: 600,
            open_max: 10_000,
            canary: 20,
            failed_percent_max: 5,
            unknown_max: 1_000,
        }
    }
}

/// A setting outside its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("limits.{setting} is {found}: give {least} to {most}")]
pub struct BulkSettingsError {
    setting: &'static str,
    found: u32,
    least: u32,
    most: u32,
}

impl BulkSettings {
    /// Checks every range.
    ///
    /// # Errors
    /// The first setting outside its range.
    pub fn check(&self) -> Result<(), BulkSettingsError> {
        let ranges = [
            ("per_minute_max", self.per_minute_max, 1, BULK_PER_MINUTE_MAX),
            ("open_max", self.open_max, 1, BULK_OPEN_MAX),
            ("canary", self.canary, 0, self.open_max),
            ("failed_percent_max", self.failed_percent_max.into(), 0, 100),
            ("unknown_max", self.unknown_max, 1, BULK_OPEN_MAX),
        ];
        let wrong = ranges.into_iter().find(|(_, found, least, most)| !(least..=most).contains(&found));
        wrong.map_or(Ok(()), |(setting, found, least, most)| {
            Err(BulkSettingsError { setting, found, least, most })
        })
    }
}

/// What has become of one change, as a campaign counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Open, and not in any of the following states.
    UnderWay,
    /// Nobody can say whether the card took identity 2.
    Unknown,
    /// Ended with identity 2 on the card.
    Done,
    /// The user has said no, or nothing.
    Declined,
    /// The card has refused: a wrong admin code, a message that it cannot execute.
    Refused,
    /// The guarded card has returned.
    Reverted,
    /// Failed on this side of the card.
    Failed,
    /// Somebody has cancelled it.
    Cancelled,
}

impl Fate {
    /// Of a change in this state, ended or ending for this reason.
    pub fn of(state: State, reason: Option<Reason>) -> Fate {
        match state {
            State::Done => Fate::Done,
            State::Refused => match reason {
                Some(Reason::Card(CardRefusal::UserNo | CardRefusal::UserSilent)) => Fate::Declined,
                _ => Fate::Refused,
            },
            State::Reverted => Fate::Reverted,
            State::Failed => Fate::Failed,
            State::Cancelled => Fate::Cancelled,
            State::Unknown => Fate::Unknown,
            State::Requested
            | State::Authorised
            | State::Reserved
            | State::Armed
            | State::Sent
            | State::Applied
            | State::Attached
            | State::Withdrawn
            | State::Retired => Fate::UnderWay,
        }
    }
}

impl Change {
    /// How a campaign counts it.
    pub fn fate(&self) -> Fate {
        Fate::of(self.state, self.reason)
    }
}

/// The changes of a campaign, by what has become of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BulkCounts {
    /// As [`Fate::UnderWay`].
    pub under_way: u64,
    /// As [`Fate::Unknown`].
    pub unknown: u64,
    /// As [`Fate::Done`].
    pub done: u64,
    /// As [`Fate::Declined`].
    pub declined: u64,
    /// As [`Fate::Refused`].
    pub refused: u64,
    /// As [`Fate::Reverted`].
    pub reverted: u64,
    /// As [`Fate::Failed`].
    pub failed: u64,
    /// As [`Fate::Cancelled`].
    pub cancelled: u64,
}

impl BulkCounts {
    /// Counts one change.
    pub fn add(&mut self, fate: Fate) {
        *match fate {
            Fate::UnderWay => &mut self.under_way,
            Fate::Unknown => &mut self.unknown,
            Fate::Done => &mut self.done,
            Fate::Declined => &mut self.declined,
            Fate::Refused => &mut self.refused,
            Fate::Reverted => &mut self.reverted,
            Fate::Failed => &mut self.failed,
            Fate::Cancelled => &mut self.cancelled,
        } += 1;
    }

    /// Those that have not ended.
    pub fn open(&self) -> u64 {
        self.under_way + self.unknown
    }

    /// Those that have.
    pub fn ended(&self) -> u64 {
        self.done + self.declined + self.refused + self.reverted + self.failed + self.cancelled
    }

    /// Those that have come since, where these are later counts of the same campaign.
    fn since(&self, before: &BulkCounts) -> BulkCounts {
        BulkCounts {
            under_way: self.under_way,
            unknown: self.unknown.saturating_sub(before.unknown),
            done: self.done.saturating_sub(before.done),
            declined: self.declined.saturating_sub(before.declined),
            refused: self.refused.saturating_sub(before.refused),
            reverted: self.reverted.saturating_sub(before.reverted),
            failed: self.failed.saturating_sub(before.failed),
            cancelled: self.cancelled.saturating_sub(before.cancelled),
        }
    }

    /// A user who says no is no failure of the campaign's, and neither is a change that was cancelled.
    fn failed_percent(&self) -> u64 {
        let failed = self.refused + self.reverted + self.failed;
        (failed * 100).div_ceil(self.ended().max(1))
    }
}

/// Why a campaign of changes has stopped by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BulkPause {
    /// Too many failed.
    Failures,
    /// Of too many nobody knows what became.
    Unknown,
}

impl BulkPause {
    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            BulkPause::Failures => "failures",
            BulkPause::Unknown => "unknown",
        }
    }
}

/// What the campaign does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkStep {
    /// So many may begin.
    Begin(u32),
    /// None, until a user has looked.
    Pause(BulkPause),
}

/// How fast a campaign of changes goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bulk {
    settings: BulkSettings,
    /// What a user has seen when it was last started: thresholds are about what comes after.
    accepted: BulkCounts,
    /// Time up to which the rate is used up.
    paid_until: EpochMs,
}

/// Ended changes below which their share says nothing.
const SAMPLE_MIN: u64 = 20;
/// Longest time that the rate is saved up, in milliseconds: a pause does not end in a flood.
const SAVED_MS_MAX: i64 = 5_000;

impl Bulk {
    /// From now on.
    pub fn new(now: EpochMs, settings: BulkSettings, accepted: BulkCounts) -> Bulk {
        Bulk { settings, accepted, paid_until: now }
    }

    /// How many more may begin.
    pub fn tick(&self, now: EpochMs, counts: &BulkCounts) -> BulkStep {
        let settings = &self.settings;
        let fresh = counts.since(&self.accepted);
        let canary = u64::from(settings.canary);
        if fresh.unknown >= u64::from(settings.unknown_max.max(1)) {
            return BulkStep::Pause(BulkPause::Unknown);
        }
        let sample = if canary == 0 { SAMPLE_MIN } else { SAMPLE_MIN.min(canary) };
        let is_sample = fresh.ended() >= sample;
        if is_sample && fresh.failed_percent() > u64::from(settings.failed_percent_max) {
            return BulkStep::Pause(BulkPause::Failures);
        }
        let room = if fresh.ended() < canary {
            canary.saturating_sub(fresh.ended() + counts.open())
        } else {
            u64::from(settings.open_max.min(BULK_OPEN_MAX)).saturating_sub(counts.open())
        };
        let saved_ms = now.ms_since(self.paid_until).clamp(0, self.saved_ms_max());
        let earned = saved_ms * i64::from(settings.per_minute_max) / 60_000;
        BulkStep::Begin(room.min(earned.unsigned_abs()).try_into().unwrap_or(u32::MAX))
    }

    /// So many have begun.
    pub fn begun(&mut self, now: EpochMs, count: u32) {
        let oldest = now.plus_ms(-self.saved_ms_max());
        let from = self.paid_until.max(oldest);
        let cost_ms = i64::from(count) * 60_000 / i64::from(self.settings.per_minute_max.max(1));
        self.paid_until = from.plus_ms(cost_ms);
    }

    /// Long enough for one change at least.
    fn saved_ms_max(&self) -> i64 {
        SAVED_MS_MAX.max(60_000_i64 / i64::from(self.settings.per_minute_max.max(1)) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(open: u64, done: u64, failed: u64) -> BulkCounts {
        BulkCounts { under_way: open, done, failed, ..BulkCounts::default() }
    }

    fn bulk(settings: BulkSettings) -> Bulk {
        Bulk::new(EpochMs(0), settings, BulkCounts::default())
    }

    #[test]
    fn the_rate_holds_over_any_pattern_of_ticks() {
        for per_minute_max in [7, 600, 60_000] {
            let mut bulk = bulk(BulkSettings { per_minute_max, canary: 0, ..BulkSettings::default() });
            let mut begun = 0_u32;
            for step in 1..=600 {
                let now = EpochMs(step * 100);
                let BulkStep::Begin(count) = bulk.tick(now, &counts(0, 0, 0)) else { panic!("paused") };
                bulk.begun(now, count);
                begun += count;
            }
            assert!((per_minute_max * 99 / 100..=per_minute_max).contains(&begun), "{begun}");
        }
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let bulk = bulk(BulkSettings { canary: 0, ..BulkSettings::default() });
        // After an hour of silence five seconds of the rate are saved, no more.
        assert_eq!(bulk.tick(EpochMs(4_000_000), &counts(0, 0, 0)), BulkStep::Begin(50));
    }

    #[test]
    fn room_canary_and_thresholds() {
        let bulk = bulk(BulkSettings::default());
        let now = EpochMs(60_000);
        let step = |counts| bulk.tick(now, &counts);
        assert_eq!(step(counts(0, 0, 0)), BulkStep::Begin(20));
        assert_eq!(step(counts(20, 0, 0)), BulkStep::Begin(0), "the canary is under way");
        assert_eq!(step(counts(1, 19, 0)), BulkStep::Begin(0));
        assert_eq!(step(counts(0, 20, 0)), BulkStep::Begin(50));
        assert_eq!(step(counts(9_990, 20, 0)), BulkStep::Begin(10));
        assert_eq!(step(counts(10_000, 20, 0)), BulkStep::Begin(0));
        assert_eq!(step(counts(0, 18, 2)), BulkStep::Pause(BulkPause::Failures));
        assert_eq!(step(counts(0, 95, 5)), BulkStep::Begin(50));
        assert_eq!(
            step(counts(0, 9_499, 501)),
            BulkStep::Pause(BulkPause::Failures),
            "5.01 % are more than 5 %"
        );
        let declined = BulkCounts { declined: 50, cancelled: 50, ..BulkCounts::default() };
        assert_eq!(step(declined), BulkStep::Begin(50), "users may say no");
        let refused = BulkCounts { refused: 2, done: 18, ..BulkCounts::default() };
        assert_eq!(step(refused), BulkStep::Pause(BulkPause::Failures), "cards may not");
        let unknown = BulkCounts { unknown: 1_000, done: 50, ..BulkCounts::default() };
        assert_eq!(step(unknown), BulkStep::Pause(BulkPause::Unknown));
    }

    #[test]
    fn without_a_canary_one_failure_is_no_share() {
        let bulk = bulk(BulkSettings { canary: 0, ..BulkSettings::default() });
        assert_eq!(bulk.tick(EpochMs(60_000), &counts(0, 0, 1)), BulkStep::Begin(50));
        assert_eq!(bulk.tick(EpochMs(60_000), &counts(0, 0, 20)), BulkStep::Pause(BulkPause::Failures));
    }

    #[test]
    fn what_a_user_has_seen_pauses_no_second_time() {
        let seen = BulkCounts { unknown: 1_000, done: 10, refused: 10, ..BulkCounts::default() };
        let settings = BulkSettings { open_max: 5_000, ..BulkSettings::default() };
        let resumed = Bulk::new(EpochMs(0), settings, seen);
        let now = EpochMs(60_000);
        assert_eq!(
            resumed.tick(now, &seen),
            BulkStep::Begin(0),
            "another canary, when the open ones are settled"
        );
        let settled = BulkCounts { unknown: 0, done: 1_010, ..seen };
        assert_eq!(resumed.tick(now, &settled), BulkStep::Begin(50));
        let again = BulkCounts { refused: 90, ..settled };
        assert_eq!(resumed.tick(now, &again), BulkStep::Pause(BulkPause::Failures));
    }

    #[test]
    fn every_state_and_reason_counts_once() {
        let mut all = BulkCounts::default();
        State::ALL.into_iter().for_each(|state| all.add(Fate::of(state, None)));
        assert_eq!((all.open(), all.ended(), all.refused), (10, 5, 1));
        for (refusal, fate) in [
            (CardRefusal::UserNo, Fate::Declined),
            (CardRefusal::UserSilent, Fate::Declined),
            (CardRefusal::WrongCode, Fate::Refused),
            (CardRefusal::NoDisplay, Fate::Refused),
        ] {
            assert_eq!(Fate::of(State::Refused, Some(Reason::Card(refusal))), fate);
        }
    }

    #[test]
    fn settings_have_ranges() {
        assert_eq!(BulkSettings::default().check(), Ok(()));
        let wrong = |settings: BulkSettings| settings.check().unwrap_err().to_string();
        let zero = BulkSettings { per_minute_max: 0, ..BulkSettings::default() };
        assert_eq!(wrong(zero), "limits.per_minute_max is 0: give 1 to 60000");
        let canary = BulkSettings { open_max: 10, canary: 11, ..BulkSettings::default() };
        assert_eq!(wrong(canary), "limits.canary is 11: give 0 to 10");
    }
}
