//! The forecast of the tide: how many own polls are expected when, and which dates keep it flat.
//!
//! A [`Forecast`] is a histogram over the dates of all cards, kept up to date by every change of a date: a commit
//! that gives a card its next date moves it from one slot to another. It is filled once, from the store, at start.
//! What really comes deviates from the dates (phones that are off, retries); the flow controller corrects for that.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::poll_date::following;

/// Slots of a histogram at most: 400 days of ten minutes.
pub const SLOTS_MAX: usize = 57_600;
/// Slots that are looked at to find a quiet one.
const PROBES: u64 = 16;
/// Cards that come for the first time in the same slot and keep it.
const TOGETHER_MAX: u32 = 8;
const DAY_MS: i64 = 86_400_000;

/// Extent and resolution of a forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForecastSettings {
    /// Length of a slot, in seconds.
    pub slot_s: u32,
    /// How far it reaches, in slots: at least one and a half of the longest period.
    pub slots: u32,
}

impl Default for ForecastSettings {
    fn default() -> Self {
        Self { slot_s: 600, slots: 6 * 24 * 60 }
    }
}

/// Why settings are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForecastError {
    /// No slot, or too many.
    #[error("slots is {0}: give 1 to 57600")]
    Slots(u32),
    /// A slot without length.
    #[error("slot_s is 0: give the length of a slot in seconds")]
    SlotLength,
}

impl ForecastSettings {
    /// Checks every range.
    pub fn check(&self) -> Result<(), ForecastError> {
        if self.slots == 0 || self.slots as usize > SLOTS_MAX {
            return Err(ForecastError::Slots(self.slots));
        }
        if self.slot_s == 0 { Err(ForecastError::SlotLength) } else { Ok(()) }
    }
}

/// Expected own polls by time. Dates before or beyond its reach are not counted.
#[derive(Debug, Clone)]
pub struct Forecast {
    slot_ms: i64,
    /// Number of the first slot since the epoch.
    first: i64,
    /// Ring: slot `n` is at `n mod length`.
    counts: Vec<u32>,
}

impl Forecast {
    /// An empty forecast that begins now. Settings outside their range are cut to it.
    pub fn new(settings: ForecastSettings, now: EpochMs) -> Self {
        let slot_ms = i64::from(settings.slot_s.max(1)) * 1_000;
        let slots = (settings.slots as usize).clamp(1, SLOTS_MAX);
        Self { slot_ms, first: now.0.div_euclid(slot_ms), counts: vec![0; slots] }
    }

    /// The beginning of its first slot and the length of a slot in ms: what a store is asked to count from.
    pub fn extent(&self) -> (EpochMs, u64, usize) {
        (EpochMs(self.first * self.slot_ms), self.slot_ms.unsigned_abs(), self.counts.len())
    }

    /// Adds what a store has counted, slot by slot from the first one on.
    pub fn fill(&mut self, counted: &[u64]) {
        for (slot, cards) in (self.first..).zip(counted).take(self.counts.len()) {
            let place = self.place(slot);
            self.counts[place] = self.counts[place].saturating_add(u32::try_from(*cards).unwrap_or(u32::MAX));
        }
    }

    /// A card is expected at this date.
    pub fn add(&mut self, date: EpochMs) {
        if let Some(place) = self.slot_of(date) {
            self.counts[place] = self.counts[place].saturating_add(1);
        }
    }

    /// A card is no longer expected at this date. The slot in progress keeps its count: most of those that leave it
    /// have just come, as expected, and its rate must not sink while they do.
    pub fn remove(&mut self, date: EpochMs) {
        if let Some(place) = self.slot_of(date).filter(|_| date.0.div_euclid(self.slot_ms) > self.first) {
            self.counts[place] = self.counts[place].saturating_sub(1);
        }
    }

    /// A card's date has changed.
    pub fn moved(&mut self, from: EpochMs, to: EpochMs) {
        self.remove(from);
        self.add(to);
    }

    /// Time has passed: slots that are over are forgotten and come back at the far end.
    pub fn advance(&mut self, now: EpochMs) {
        let current = now.0.div_euclid(self.slot_ms);
        let passed = current.saturating_sub(self.first).clamp(0, self.counts.len() as i64);
        for slot in self.first..self.first + passed {
            let place = self.place(slot);
            self.counts[place] = 0;
        }
        self.first = self.first.max(current);
    }

    /// Own polls expected from `from` on for `length_ms`, as a rate per day, parts of slots in proportion.
    pub fn due_per_day(&self, from: EpochMs, length_ms: i64) -> u64 {
        let length_ms = length_ms.max(1);
        let until = from.plus_ms(length_ms).0;
        let (mut at, mut cards) = (from.0, 0.0);
        while at < until {
            let end = (at.div_euclid(self.slot_ms) + 1).saturating_mul(self.slot_ms).min(until);
            if let Some(place) = self.slot_of(EpochMs(at)) {
                cards += f64::from(self.counts[place]) * (end - at) as f64 / self.slot_ms as f64;
            } else if at.div_euclid(self.slot_ms) >= self.first {
                break;
            }
            at = end;
        }
        (cards * DAY_MS as f64 / length_ms as f64).round() as u64
    }

    /// A quiet date in a window: for cards that have no place in the tide yet, whose period changes, or that are
    /// given notice of a window. `seed` (any hash of the card) decides which slots are compared and where in the slot
    /// the date lies, so that equal cards do not get equal dates. The caller adds the date when it is committed.
    pub fn quiet_date(&self, earliest: EpochMs, latest: EpochMs, seed: u64) -> EpochMs {
        let span = latest.ms_since(earliest).max(0).unsigned_abs() + 1;
        let date = |probe: u64| earliest.plus_ms((mix(seed.wrapping_add(probe)) % span) as i64);
        let load = |date: &EpochMs| self.slot_of(*date).map_or(0, |place| self.counts[place]);
        (0..PROBES).map(date).min_by_key(load).unwrap_or(earliest)
    }

    fn place(&self, slot: i64) -> usize {
        slot.rem_euclid(self.counts.len() as i64) as usize
    }

    fn slot_of(&self, date: EpochMs) -> Option<usize> {
        let slot = date.0.div_euclid(self.slot_ms);
        let inside = slot >= self.first && slot - self.first < self.counts.len() as i64;
        inside.then(|| self.place(slot))
    }
}

/// The date that a card is given when it calls: it keeps its place in the tide. One that has never been in contact
/// (`planned` is `None`) shows its place by when it comes, unless many come at once, as after an import. Those, and
/// cards whose period has changed so that the planned date lies beyond the next one and a half periods, get a quiet
/// date.
pub fn next_date(
    forecast: &Forecast,
    planned: Option<EpochMs>,
    period_s: u32,
    now: EpochMs,
    seed: u64,
) -> EpochMs {
    let period_ms = i64::from(period_s) * 1_000;
    let on_its_own = now.plus_ms(period_ms);
    match planned.map(|planned| following(planned, period_s, now)) {
        None if forecast.slot_of(on_its_own).is_some_and(|place| forecast.counts[place] < TOGETHER_MAX) => {
            on_its_own
        }
        Some(date) if period_s == 0 || date.ms_since(now) <= period_ms + period_ms / 2 => date,
        _ => forecast.quiet_date(now.plus_ms(period_ms / 2), now.plus_ms(period_ms + period_ms / 2), seed),
    }
}

/// Spreads a number over all bits (finalizer of SplitMix64).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000;

    fn hourly(slots: u32, now: i64) -> Forecast {
        Forecast::new(ForecastSettings { slot_s: 3_600, slots }, EpochMs(now))
    }

    #[test]
    fn counts_by_slot_in_proportion() {
        let mut forecast = hourly(24, 0);
        for _ in 0..60 {
            forecast.add(EpochMs(HOUR + 5));
        }
        assert_eq!(forecast.due_per_day(EpochMs(0), HOUR), 0);
        assert_eq!(forecast.due_per_day(EpochMs(HOUR), HOUR), 60 * 24);
        assert_eq!(forecast.due_per_day(EpochMs(HOUR / 2), HOUR), 30 * 24);
        assert_eq!(forecast.due_per_day(EpochMs(0), 100 * HOUR), 14);
        forecast.moved(EpochMs(HOUR + 5), EpochMs(3 * HOUR));
        assert_eq!(forecast.due_per_day(EpochMs(3 * HOUR), HOUR), 24);
    }

    #[test]
    fn what_is_over_is_forgotten_and_the_ring_reaches_further() {
        let mut forecast = hourly(24, 0);
        forecast.add(EpochMs(0));
        forecast.add(EpochMs(24 * HOUR));
        assert_eq!(forecast.due_per_day(EpochMs(24 * HOUR), HOUR), 0, "beyond its reach");
        forecast.advance(EpochMs(HOUR));
        forecast.add(EpochMs(24 * HOUR));
        assert_eq!(forecast.due_per_day(EpochMs(24 * HOUR), HOUR), 24);
        assert_eq!(forecast.due_per_day(EpochMs(0), HOUR), 0);
        forecast.advance(EpochMs(1_000 * HOUR));
        assert_eq!(forecast.due_per_day(EpochMs(1_000 * HOUR), 24 * HOUR), 0);
    }

    #[test]
    fn the_slot_in_progress_keeps_its_rate_while_its_cards_come() {
        let mut forecast = hourly(24, 0);
        (0..60).for_each(|minute| forecast.add(EpochMs(HOUR + minute * 60_000)));
        forecast.advance(EpochMs(HOUR));
        (0..40).for_each(|minute| forecast.moved(EpochMs(HOUR + minute * 60_000), EpochMs(100 * HOUR)));
        assert_eq!(forecast.due_per_day(EpochMs(HOUR + 40 * 60_000), 60_000), 60 * 24);
    }

    #[test]
    fn filled_from_a_store() {
        let mut forecast = hourly(3, 10 * HOUR);
        assert_eq!(forecast.extent(), (EpochMs(10 * HOUR), HOUR.unsigned_abs(), 3));
        forecast.fill(&[1, 2, 3, 4]);
        assert_eq!(forecast.due_per_day(EpochMs(10 * HOUR), 3 * HOUR), 48);
    }

    #[test]
    fn cards_without_a_place_come_flat() {
        let (period_s, now) = (20 * 86_400, EpochMs::from_seconds(1_800_000_000));
        let settings = ForecastSettings { slot_s: 86_400, slots: 40 };
        let mut forecast = Forecast::new(settings, now);
        for card in 0..20_000 {
            forecast.add(next_date(&forecast, None, period_s, now, card));
        }
        let day = |day: i64| forecast.due_per_day(now.plus_s(86_400 * day), DAY_MS);
        assert!((0..9).all(|early| day(early) == 0));
        let busy: Vec<u64> = (11..29).map(day).collect();
        let (least, most) = (busy.iter().min().unwrap(), busy.iter().max().unwrap());
        assert!(most - least <= 40, "{busy:?}");
    }

    #[test]
    fn a_first_contact_by_itself_shows_the_place() {
        let now = EpochMs::from_seconds(1_800_000_000);
        let forecast = Forecast::new(ForecastSettings { slot_s: 600, slots: 4_320 }, now);
        assert_eq!(next_date(&forecast, None, 20 * 86_400, now, 1), now.plus_s(20 * 86_400));
    }

    #[test]
    fn a_card_with_a_place_keeps_it() {
        let forecast = hourly(24, 0);
        let day = |day: i64| EpochMs::from_seconds(day * 86_400);
        assert_eq!(next_date(&forecast, Some(day(100)), 20 * 86_400, day(85), 1), day(100));
        assert_eq!(next_date(&forecast, Some(day(100)), 20 * 86_400, day(95), 1), day(120));
        // The period was 40 days and is now 10: the old date is too far away.
        let date = next_date(&forecast, Some(day(140)), 10 * 86_400, day(105), 1);
        assert!(date >= day(110) && date <= day(120));
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_count(
            dates in proptest::collection::vec(0i64..40, 0..60),
            start in 0i64..30,
            length in 1i64..12,
        ) {
            let mut forecast = hourly(24, 0);
            dates.iter().for_each(|date| forecast.add(EpochMs(date * HOUR)));
            let inside = dates.iter().filter(|date| **date < 24 && (start..start + length).contains(*date)).count();
            let expected = (inside as f64 * 24.0 / length as f64).round() as u64;
            prop_assert_eq!(forecast.due_per_day(EpochMs(start * HOUR), length * HOUR), expected);
        }

        #[test]
        fn quiet_dates_lie_in_their_window(earliest in any::<i64>(), span in 0i64..1_000_000, seed in any::<u64>()) {
            let forecast = hourly(24, 0);
            let (earliest, latest) = (EpochMs(earliest), EpochMs(earliest).plus_ms(span));
            let date = forecast.quiet_date(earliest, latest, seed);
            prop_assert!(date >= earliest && date <= latest);
        }
    }
}
