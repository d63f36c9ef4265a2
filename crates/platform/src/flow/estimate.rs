//! Estimates that forget: what was long ago counts less.

use simtide_protocol::ids::EpochMs;

/// A mean of the last so many values.
#[derive(Debug, Clone)]
pub(super) struct Mean {
    values: f64,
    mean: f64,
    memory: f64,
}

impl Mean {
    pub(super) fn new(memory: f64) -> Self {
        Self { values: 0.0, mean: 0.0, memory }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.values = (self.values + 1.0).min(self.memory);
        self.mean += (value - self.mean) / self.values;
    }

    pub(super) fn value(&self) -> f64 {
        self.mean
    }
}

/// A quotient of two sums, with a value to begin with that counts as so many observations.
#[derive(Debug, Clone)]
pub(super) struct Ratio {
    above: f64,
    below: f64,
    /// Below this the initial value is mixed in.
    weight: f64,
    initial: f64,
}

impl Ratio {
    pub(super) fn new(initial: f64, weight: f64) -> Self {
        Self { above: 0.0, below: 0.0, weight, initial }
    }

    /// Adds to both sums and forgets that share of what was there.
    pub(super) fn add(&mut self, above: f64, below: f64, forget: f64) {
        self.above = self.above * (1.0 - forget) + above;
        self.below = self.below * (1.0 - forget) + below;
    }

    pub(super) fn value(&self) -> f64 {
        // The initial value fades as observations come, and comes back only where they stop.
        let initial = (self.weight - self.below).max(self.weight / 50.0);
        (self.above + self.initial * initial) / (self.below + initial)
    }
}

/// Slots of a day.
const SLOTS: usize = 48;
const SLOT_MS: i64 = 86_400_000 / SLOTS as i64;

/// How many of the due polls really come, by time of day: phones that are off at night come in the morning.
#[derive(Debug, Clone)]
pub(super) struct Hours {
    slots: [Ratio; SLOTS],
    current: usize,
}

impl Default for Hours {
    fn default() -> Self {
        Self { slots: std::array::from_fn(|_| Ratio::new(1.0, 50.0)), current: SLOTS }
    }
}

impl Hours {
    /// The factor at a moment, between the middles of the slots around it.
    pub(super) fn at(&self, now: EpochMs) -> f64 {
        let place = now.0.rem_euclid(86_400_000) as f64 / SLOT_MS as f64 - 0.5;
        let before = place.floor();
        let share = place - before;
        let slot = |number: f64| self.slots[(number as i64).rem_euclid(SLOTS as i64) as usize].value();
        slot(before) * (1.0 - share) + slot(before + 1.0) * share
    }

    pub(super) fn add(&mut self, now: EpochMs, seen: f64, due: f64) {
        let slot = (now.0.rem_euclid(86_400_000) / SLOT_MS) as usize;
        // A third is forgotten per day, at the first tick of a slot.
        let forget = if slot == self.current { 0.0 } else { 1.0 / 3.0 };
        self.current = slot;
        self.slots[slot].add(seen, due, forget);
    }
}
