//! What the platform knows of a card while it decides: its state and what it has had of the started campaigns.

use simtide_protocol::ids::{CardId, EpochMs, Iccid, Imsi};

/// Whether campaigns concern a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CardState {
    /// In use, or ready for it.
    #[default]
    Active,
    /// Kept out of campaigns for the time being; its own polls are still answered.
    Suspended,
    /// Gone for good: its polls are refused.
    Retired,
}

impl CardState {
    /// Whether campaigns concern the card.
    pub const fn takes_part(self) -> bool {
        matches!(self, CardState::Active)
    }

    /// Code in rows.
    pub fn code(self) -> u8 {
        match self {
            CardState::Active => 0,
            CardState::Suspended => 1,
            CardState::Retired => 2,
        }
    }

    /// State of a code, `None` for an unknown one.
    pub fn from_code(code: u8) -> Option<CardState> {
        [CardState::Active, CardState::Suspended, CardState::Retired].get(usize::from(code)).copied()
    }
}

/// Which of the started campaigns a card has had, like TCP's selective acknowledgement.
///
/// Campaigns are numbered 1, 2, 3, ... at their start. All numbers up to `base` are settled for the card, and bit i
/// of `mask` says that number `base + 1 + i` is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Applied {
    /// Everything up to here is settled.
    pub base: u32,
    /// Which of the next 64 are done.
    pub mask: u64,
}

impl Applied {
    /// A card that has everything up to this number settled, and nothing after it.
    pub fn up_to(base: u32) -> Applied {
        Applied { base, mask: 0 }
    }

    /// Whether this campaign has nothing left to do on the card.
    pub fn has(self, number: u32) -> bool {
        match number.checked_sub(self.base) {
            None | Some(0) => true,
            Some(distance @ 1..=64) => self.mask >> (distance - 1) & 1 == 1,
            Some(_) => false,
        }
    }

    /// Notes a campaign as done. A number more than 64 above the base cannot be noted: `false`, nothing changes.
    #[must_use]
    pub fn mark(&mut self, number: u32) -> bool {
        match number.checked_sub(self.base) {
            None | Some(0) => true,
            Some(distance @ 1..=64) => {
                self.mask |= 1 << (distance - 1);
                self.advance(self.mask.trailing_ones());
                true
            }
            Some(_) => false,
        }
    }

    /// Settles everything up to this number, done or not.
    pub fn settle(&mut self, number: u32) {
        self.advance(number.saturating_sub(self.base));
        self.advance(self.mask.trailing_ones());
    }

    fn advance(&mut self, by: u32) {
        self.base += by;
        self.mask = self.mask.checked_shr(by).unwrap_or(0);
    }
}

/// Tags of a card: one bit per tag, with the names that the bits stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags<'a> {
    /// Bit i is set: the card has the tag `names[i]`.
    pub bits: u64,
    /// The tenant's tags, at most 64.
    pub names: &'a [String],
}

impl Tags<'_> {
    /// Whether the card has this tag; a name that nobody has defined is on no card.
    pub fn contains(&self, tag: &str) -> bool {
        self.names.iter().take(64).position(|name| name == tag).is_some_and(|bit| self.bits >> bit & 1 == 1)
    }
}

/// The facts about a card that a filter or an offer needs, lent by whoever holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardView<'a> {
    /// The card.
    pub id: CardId,
    /// The operator that the card belongs to now, as numbered in the directory.
    pub operator: u32,
    /// Name of its profile.
    pub profile: &'a str,
    /// Kind of the device that it sits in: `phone`, `vehicle`, `meter`, ...; empty where unknown.
    pub kind: &'a str,
    /// Tags that the import or a user gave it.
    pub tags: Tags<'a>,
    /// ICCID, where known.
    pub iccid: Option<Iccid>,
    /// IMSI, where known.
    pub imsi: Option<Imsi>,
    /// The last contact; `None`: never.
    pub last_update: Option<EpochMs>,
    /// The date of its next own poll.
    pub next_poll: EpochMs,
    /// What it has had.
    pub applied: Applied,
    /// Whether campaigns concern it.
    pub state: CardState,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_set(
            base in 0u32..5,
            steps in proptest::collection::vec((any::<bool>(), 0u32..90), 0..40),
        ) {
            let mut applied = Applied::up_to(base);
            let mut model: BTreeSet<u32> = (0..=base).collect();
            for (settle, number) in steps {
                if settle {
                    applied.settle(number);
                    model.extend(0..=number);
                } else if applied.mark(number) {
                    model.insert(number);
                }
            }
            for number in 0..200 {
                prop_assert_eq!(applied.has(number), model.contains(&number), "{}", number);
            }
        }
    }

    #[test]
    fn base_moves_over_what_is_done() {
        let mut applied = Applied::default();
        assert!(applied.has(0) && !applied.has(1));
        assert!(applied.mark(2));
        assert_eq!(applied, Applied { base: 0, mask: 0b10 });
        assert!(applied.mark(1));
        assert_eq!(applied, Applied { base: 2, mask: 0 });
        assert!(applied.mark(66) && !applied.mark(67));
        applied.settle(65);
        assert_eq!(applied, Applied::up_to(66));
        applied.settle(200);
        assert_eq!(applied, Applied::up_to(200));
    }

    #[test]
    fn all_sixty_four_at_once() {
        let mut applied = Applied::default();
        for number in (1..=64).rev() {
            assert!(applied.mark(number));
        }
        assert_eq!(applied, Applied::up_to(64));
    }
}
