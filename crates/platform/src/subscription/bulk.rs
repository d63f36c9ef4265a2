//! A campaign whose content is a change of operator: how many changes it begins, and when it stops by itself.
//!
//! Who is next is the audience's and the campaign's order, as for every campaign; every card then has a change of its own
//! ([`super::Change`]). This decides only how many more may begin now. The shell gives it the counts of the changes that
//! the campaign began (their evidence names it: [`super::Way::Campaign`]) and carries out the answer.
//!
//! | counts | answer |
//! |---|---|
//! | the share of failures, or alarms, at a threshold | `Pause`: a user looks, and starts it again |
//! | as many open as allowed | `Begin(0)` |
//! | less | `Begin(n)`: as many as the rate has earned, never more than the room or what is left |

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::types::State;

/// Changes that may be open in one campaign at most.
pub const BULK_OPEN_MAX: u32 = 100_000;

/// Settings of such a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BulkSettings {
    /// Changes begun per minute.
    pub per_minute_max: u32,
    /// Changes open at the same time, at most [`BULK_OPEN_MAX`].
    pub open_max: u32,
    /// The first so many are watched: no others begin before they have ended.
    pub canary: u32,
    /// Pause when so many of a hundred ended changes were without success.
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

/// The changes of a campaign, by what has become of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BulkCounts {
    /// Open, and not in any of the following states.
    pub under_way: u32,
    /// Nobody can say whether the card took identity 2.
    pub unknown: u32,
    /// Ended with identity 2 on the card.
    pub done: u64,
    /// The card has refused.
    pub refused: u64,
    /// The guarded card has returned.
    pub reverted: u64,
    /// Failed or cancelled.
    pub failed: u64,
}

impl BulkCounts {
    /// Counts one change.
    pub fn add(&mut self, state: State) {
        match state {
            State::Done => self.done += 1,
            State::Refused => self.refused += 1,
            State::Reverted => self.reverted += 1,
            State::Failed | State::Cancelled => self.failed += 1,
            State::Unknown => self.unknown = self.unknown.saturating_add(1),
            _ => self.under_way = self.under_way.saturating_add(1),
        }
    }

    /// Those that have not ended.
    pub fn open(&self) -> u32 {
        self.under_way.saturating_add(self.unknown)
    }

    /// Those that have.
    pub fn ended(&self) -> u64 {
        self.done + self.refused + self.reverted + self.failed
    }

    fn failed_percent(&self) -> u64 {
        // A user who says no is no failure of the campaign's.
        let failed = self.reverted + self.failed;
        (failed * 100).checked_div(self.ended()).unwrap_or(0)
    }
}

/// Why a campaign of changes stops by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BulkPause {
    /// Too many failed.
    Failures,
    /// Of too many nobody knows what became.
    Unknown,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bulk {
    settings: BulkSettings,
    /// Time up to which the rate is used up.
    paid_until: EpochMs,
}

/// Ended changes below which their share says nothing.
const SAMPLE_MIN: u64 = 20;
/// Longest time that the rate is saved up, in milliseconds: a pause does not end in a flood.
const SAVED_MS_MAX: i64 = 5_000;

impl Bulk {
    /// From now on.
    pub fn new(now: EpochMs, settings: BulkSettings) -> Bulk {
        Bulk { settings, paid_until: now }
    }

    /// How many more may begin.
    pub fn tick(&self, now: EpochMs, counts: &BulkCounts) -> BulkStep {
        let settings = &self.settings;
        if counts.unknown >= settings.unknown_max.max(1) {
            return BulkStep::Pause(BulkPause::Unknown);
        }
        let sample = SAMPLE_MIN.min(u64::from(settings.canary).max(1));
        if counts.ended() >= sample && counts.failed_percent() > u64::from(settings.failed_percent_max) {
            return BulkStep::Pause(BulkPause::Failures);
        }
        let begun = counts.ended() + u64::from(counts.open());
        let canary = u64::from(settings.canary);
        let room = if counts.ended() < canary {
            canary.saturating_sub(begun).min(u64::from(u32::MAX)) as u32
        } else {
            settings.open_max.min(BULK_OPEN_MAX).saturating_sub(counts.open())
        };
        let saved_ms = now.ms_since(self.paid_until).clamp(0, SAVED_MS_MAX);
        let earned = saved_ms * i64::from(settings.per_minute_max) / 60_000;
        BulkStep::Begin(room.min(u32::try_from(earned).unwrap_or(0)))
    }

    /// So many have begun.
    pub fn begun(&mut self, now: EpochMs, count: u32) {
        let oldest = now.plus_ms(-SAVED_MS_MAX);
        let from = self.paid_until.max(oldest);
        let cost_ms = i64::from(count) * 60_000 / i64::from(self.settings.per_minute_max.max(1));
        self.paid_until = from.plus_ms(cost_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(open: u32, done: u64, failed: u64) -> BulkCounts {
        BulkCounts { under_way: open, done, failed, ..BulkCounts::default() }
    }

    #[test]
    fn the_rate_holds_over_any_pattern_of_ticks() {
        let settings = BulkSettings { per_minute_max: 600, canary: 0, ..BulkSettings::default() };
        let mut bulk = Bulk::new(EpochMs(0), settings);
        let mut begun = 0_u32;
        for step in 1..=600 {
            let now = EpochMs(step * 100);
            let BulkStep::Begin(count) = bulk.tick(now, &counts(0, 0, 0)) else { panic!("paused") };
            bulk.begun(now, count);
            begun += count;
        }
        assert!((595..=600).contains(&begun), "{begun}");
        // After an hour of silence five seconds of the rate are saved, no more.
        assert_eq!(bulk.tick(EpochMs(4_000_000), &counts(0, 0, 0)), BulkStep::Begin(50));
    }

    #[test]
    fn room_canary_and_thresholds() {
        let bulk = Bulk::new(EpochMs(0), BulkSettings::default());
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
        let refused = BulkCounts { refused: 50, done: 50, ..BulkCounts::default() };
        assert_eq!(step(refused), BulkStep::Begin(50), "users may say no");
        let unknown = BulkCounts { unknown: 1_000, done: 50, ..BulkCounts::default() };
        assert_eq!(step(unknown), BulkStep::Pause(BulkPause::Unknown));
    }

    #[test]
    fn every_state_counts_once() {
        let mut all = BulkCounts::default();
        State::ALL.into_iter().for_each(|state| all.add(state));
        assert_eq!((all.open(), all.ended()), (10, 5));
    }
}
