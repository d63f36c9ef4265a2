//! Cards and their devices as arrays: who there is, when they are on, when they poll.

use super::scenario::{Scenario, Spread};

/// Minutes of a day.
pub(super) const DAY: i32 = 1_440;
/// A minute that never comes.
pub(super) const NEVER: i32 = i32::MAX;

/// What becomes of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Never = 0,
    LongDead = 1,
    DiedLately = 2,
    OffAtStart = 3,
    AlwaysOn = 4,
    OffAtNight = 5,
    Sporadic = 6,
}

const KINDS: [Kind; 7] = [
    Kind::Never,
    Kind::LongDead,
    Kind::DiedLately,
    Kind::OffAtStart,
    Kind::AlwaysOn,
    Kind::OffAtNight,
    Kind::Sporadic,
];
/// Bits of the state byte.
const KIND: u8 = 0b0000_0111;
const DONE: u8 = 0b0000_1000;
const OPEN_TRIGGER: u8 = 0b0001_0000;
const STORED: u8 = 0b0010_0000;

/// All cards: five bytes each.
pub(super) struct Fleet {
    /// Planned date of the next own poll, in minutes from the start of the campaign.
    pub(super) next_poll: Vec<i32>,
    state: Vec<u8>,
    seed: u64,
    scenario: Scenario,
    period: i32,
}

/// What a random number is for: two purposes never share one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Draw {
    Kind = 1,
    Date = 2,
    Off = 3,
    On = 4,
    Window = 5,
    Back = 6,
    Works = 7,
    Delay = 8,
    Retry = 9,
    Order = 10,
}

impl Fleet {
    /// The fleet at `begin` (the warm-up lies before 0), each card with its date within the next period.
    pub(super) fn new(cards: u32, period: i32, begin: i32, seed: u64, scenario: &Scenario) -> Self {
        let mut fleet =
            Self { next_poll: Vec::new(), state: Vec::new(), seed, scenario: scenario.clone(), period };
        fleet.state = (0..cards).map(|card| fleet.kind_drawn(card) as u8).collect();
        let stride = stride(u64::from(cards));
        fleet.next_poll = (0..cards).map(|card| fleet.first_date(card, cards, stride, begin)).collect();
        fleet
    }

    pub(super) fn len(&self) -> u32 {
        // Made from a u32.
        self.state.len() as u32
    }

    pub(super) fn kind(&self, card: u32) -> Kind {
        KINDS[usize::from(self.state[card as usize] & KIND).min(6)]
    }

    /// In the field and alive: what percentages refer to.
    pub(super) fn is_active(&self, card: u32) -> bool {
        self.state[card as usize] & KIND >= Kind::OffAtStart as u8
    }

    pub(super) fn is_done(&self, card: u32) -> bool {
        self.state[card as usize] & DONE != 0
    }

    /// Marks it done; `false` where it was already.
    pub(super) fn set_done(&mut self, card: u32) -> bool {
        let state = &mut self.state[card as usize];
        let new = *state & DONE == 0;
        *state |= DONE;
        new
    }

    pub(super) fn has_open_trigger(&self, card: u32) -> bool {
        self.state[card as usize] & OPEN_TRIGGER != 0
    }

    /// Opens a trigger; `stored`: its device is off.
    pub(super) fn open_trigger(&mut self, card: u32, stored: bool) {
        self.state[card as usize] |= if stored { OPEN_TRIGGER | STORED } else { OPEN_TRIGGER };
    }

    /// Closes its trigger; answers whether one was open, and whether it had been stored.
    pub(super) fn close_trigger(&mut self, card: u32) -> Option<bool> {
        let state = &mut self.state[card as usize];
        let before = *state;
        *state &= !(OPEN_TRIGGER | STORED);
        (before & OPEN_TRIGGER != 0).then_some(before & STORED != 0)
    }

    /// The minute from `at` on in which its device is on.
    pub(super) fn next_on(&self, card: u32, at: i32) -> i32 {
        match self.kind(card) {
            Kind::AlwaysOn => at,
            Kind::OffAtNight => self.next_morning(card, at),
            Kind::Sporadic => self.next_window(card, at),
            Kind::OffAtStart => {
                let [least, most] = self.scenario.day.off_days;
                let days = least + (most - least) * self.share(card, Draw::Back, 0);
                at.max((days * f64::from(DAY)) as i32)
            }
            Kind::Never | Kind::LongDead | Kind::DiedLately => NEVER,
        }
    }

    /// A number from 0 to below 1.
    pub(super) fn share(&self, card: u32, draw: Draw, salt: u64) -> f64 {
        (self.random(card, draw, salt) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number between two, both included.
    pub(super) fn between(&self, card: u32, draw: Draw, salt: u64, [least, most]: [u16; 2]) -> i32 {
        let span = u64::from(most.saturating_sub(least)) + 1;
        i32::from(least) + (self.random(card, draw, salt) % span) as i32
    }

    pub(super) fn random(&self, card: u32, draw: Draw, salt: u64) -> u64 {
        let value = self.seed ^ (u64::from(card) << 8 | draw as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mix(mix(value).wrapping_add(salt))
    }

    fn kind_drawn(&self, card: u32) -> Kind {
        let fleet = &self.scenario.fleet;
        let mut drawn = self.share(card, Draw::Kind, 0);
        for (share, kind) in [
            (fleet.never_active, Kind::Never),
            (fleet.long_dead, Kind::LongDead),
            (fleet.died_lately, Kind::DiedLately),
            (fleet.off_at_start, Kind::OffAtStart),
        ] {
            if drawn < share {
                return kind;
            }
            drawn -= share;
        }
        match self.share(card, Draw::Kind, 1) {
            night if night < fleet.off_at_night => Kind::OffAtNight,
            other if other < fleet.off_at_night + fleet.sporadic => Kind::Sporadic,
            _ => Kind::AlwaysOn,
        }
    }

    fn first_date(&self, card: u32, cards: u32, stride: u64, begin: i32) -> i32 {
        let place = match self.scenario.fleet.polls {
            // Neighbours in the list do not poll one after the other: a stride that meets every place once.
            Spread::Even => u64::from(card) * stride % u64::from(cards),
            Spread::Random => (self.share(card, Draw::Date, 0) * f64::from(cards)) as u64,
        };
        // A period is at most 400 days, a share of it fits.
        let date = (place * self.period as u64 / u64::from(cards)) as i32;
        let place = place as f64 / f64::from(cards);
        match self.kind(card) {
            // Missed up to a year ago, at least one period ago.
            Kind::LongDead => -self.period - (place * 365.0 * f64::from(DAY)) as i32 - 1,
            Kind::DiedLately => date,
            Kind::Never => NEVER,
            _ => begin + date,
        }
    }

    fn next_morning(&self, card: u32, at: i32) -> i32 {
        let day = &self.scenario.day;
        let off = self.between(card, Draw::Off, 0, day.off);
        let on = self.between(card, Draw::On, 0, day.on);
        let time = (at + i32::from(day.start)).rem_euclid(DAY);
        // From `off` of one day to `on` of the next; `off` may lie after midnight.
        let (slept, night) = ((time - off).rem_euclid(DAY), (on - off).rem_euclid(DAY));
        if slept < night { at + night - slept } else { at }
    }

    fn next_window(&self, card: u32, at: i32) -> i32 {
        let day = &self.scenario.day;
        let (every, length) = (i32::from(day.sporadic_every), i32::from(day.sporadic_for));
        let shifted = at + (self.random(card, Draw::Off, 1) % every as u64) as i32;
        let (block, inside) = (shifted.div_euclid(every), shifted.rem_euclid(every));
        let opens =
            |block: i32| (self.random(card, Draw::Window, block as u64) % (every - length) as u64) as i32;
        match opens(block) {
            opening if inside < opening => at + opening - inside,
            opening if inside < opening + length => at,
            _ => at + every - inside + opens(block + 1),
        }
    }
}

/// A stride without a common divisor with the number of cards, about 0.618 of it.
fn stride(cards: u64) -> u64 {
    let divisor = |mut left: u64, mut right: u64| {
        while right != 0 {
            (left, right) = (right, left % right);
        }
        left
    };
    let golden = (cards as f64 * 0.618_033_988) as u64;
    (golden.max(1)..).find(|stride| divisor(*stride, cards) == 1).unwrap_or(1)
}

/// Spreads a number over all bits (finalizer of SplitMix64).
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realistic(cards: u32) -> Fleet {
        Fleet::new(cards, 20 * DAY, 0, 7, &Scenario::parse(Scenario::REALISTIC).unwrap())
    }

    #[test]
    fn shares_are_those_of_the_scenario() {
        let fleet = realistic(100_000);
        let share = |kind| (0..100_000).filter(|card| fleet.kind(*card) == kind).count() as f64 / 1e5;
        for (kind, expected) in [
            (Kind::Never, 0.12),
            (Kind::LongDead, 0.03),
            (Kind::DiedLately, 0.02),
            (Kind::OffAtStart, 0.02),
            (Kind::OffAtNight, 0.81 * 0.3),
            (Kind::Sporadic, 0.081),
        ] {
            assert!((share(kind) - expected).abs() < 0.005, "{kind:?} {}", share(kind));
        }
    }

    #[test]
    fn a_device_that_comes_on_is_on_then() {
        let fleet = realistic(2_000);
        let mut slept = 0;
        for card in (0..2_000).filter(|card| fleet.is_active(*card)) {
            for at in (0..30 * DAY).step_by(331) {
                let on = fleet.next_on(card, at);
                assert!(on >= at && fleet.next_on(card, on) == on, "{:?} {at} {on}", fleet.kind(card));
                slept += u32::from(on > at);
            }
        }
        assert!(slept > 10_000);
    }

    #[test]
    fn even_polls_are_even() {
        let scenario = Scenario::parse(Scenario::IDEAL).unwrap();
        let fleet = Fleet::new(28_800, 20 * DAY, 0, 7, &scenario);
        let mut dates = fleet.next_poll.clone();
        dates.sort_unstable();
        assert!(dates.iter().zip(0..).all(|(date, place)| *date == place));
    }
}
