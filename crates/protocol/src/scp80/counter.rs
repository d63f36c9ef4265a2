//! The replay counter: five bytes, only ever upwards.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// ETSI TS 102 225, 5.1.4: CNTR, 40 bits. [`Counter::MAX`] blocks the key set for good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Counter(u64);

impl Counter {
    /// The first value, and what packets without a counter carry.
    pub const ZERO: Counter = Counter(0);
    /// `FF FF FF FF FF`: a card that has reached it accepts nothing more on this key set.
    pub const MAX: Counter = Counter(0xFF_FFFF_FFFF);
    /// How far a platform jumps after a restore from backup, so that no counter goes out twice.
    pub const RESTORE_JUMP: u64 = 1 << 20;

    /// `None` above 40 bits.
    pub const fn new(value: u64) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The number.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// Five bytes, most significant first.
    pub const fn to_bytes(self) -> [u8; 5] {
        let [_, _, _, a, b, c, d, e] = self.0.to_be_bytes();
        [a, b, c, d, e]
    }

    /// `steps` further, or `None` where that reaches or passes the blocked value, which is never sent.
    pub const fn advance(self, steps: u64) -> Option<Self> {
        match self.0.checked_add(steps) {
            Some(value) if value < Self::MAX.0 => Some(Self(value)),
            _ => None,
        }
    }

    /// One further; `None` when the counter is used up.
    pub const fn next(self) -> Option<Self> {
        self.advance(1)
    }

    /// Whether the key set is used up.
    pub const fn is_blocked(self) -> bool {
        self.0 == Self::MAX.0
    }
}

impl From<[u8; 5]> for Counter {
    fn from([a, b, c, d, e]: [u8; 5]) -> Self {
        Self(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]))
    }
}

/// As a number.
impl Serialize for Counter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Counter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        Self::new(value).ok_or_else(|| D::Error::custom("a replay counter has 40 bits at most"))
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counter({:010X})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_bits_and_no_more() {
        assert_eq!(Counter::new(0xFF_FFFF_FFFF), Some(Counter::MAX));
        assert_eq!(Counter::new(0x100_0000_0000), None);
        assert_eq!(Counter::from([0, 0, 0, 0x12, 0xCD]).value(), 0x12CD);
        assert_eq!(Counter::from([0xFF, 0xAB, 0, 0xFF, 0]).to_bytes(), [0xFF, 0xAB, 0, 0xFF, 0]);
    }

    #[test]
    fn the_blocked_value_is_never_allocated() {
        let last = Counter::new(0xFF_FFFF_FFFE).unwrap();
        assert_eq!(Counter::new(0xFF_FFFF_FFFD).unwrap().next(), Some(last));
        assert_eq!(last.next(), None);
        assert_eq!(Counter::MAX.next(), None);
        assert_eq!(Counter::ZERO.advance(u64::MAX), None);
        assert!(Counter::MAX.is_blocked() && !last.is_blocked());
    }
}
