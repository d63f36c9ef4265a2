//! Which card of a campaign of changes is next.
//!
//! Cards come in the order of their buckets and ids, which nothing moves: neither a poll nor the change itself makes the
//! campaign meet a card twice or not at all. A card whose turn it is not yet (another change of it is open) is met again
//! in the next pass.
//!
//! | state | `next` | `looked`, `met` | next |
//! |---|---|---|---|
//! | Walking | `Cards` or `Page` after the last card | the place moves; cards to be met again are counted | Walking; at the end of the last bucket Resting, Ended, or from the first card where cards have joined |
//! | Resting until a time | `Wait`; from then on as Walking | | Walking, from the first card |
//! | Ended | `End` | | Walking, by `again` |

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{Bucket, CardId, EpochMs};

use super::request::Refusal;
use crate::audience::Audience;

/// Time between two passes, in milliseconds.
pub const PASS_PAUSE_MS: i64 = 10 * 60_000;

/// Where a campaign of changes is among its cards. Kept now and then: what has begun since is known by its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Walk {
    /// The bucket; for a list of cards always the first.
    bucket: u16,
    /// The last card looked at.
    after: Option<CardId>,
    /// Cards of this pass that are to be met again.
    left_over: u64,
    /// Cards have joined, perhaps where this pass has been.
    joined: bool,
    /// The next pass begins then.
    rests_until: Option<EpochMs>,
    /// Every card was met.
    ended: bool,
}

/// Where the next cards are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// These, of the audience's own list.
    Cards(Vec<CardId>),
    /// The cards of a bucket after this one.
    Page {
        /// The bucket.
        bucket: Bucket,
        /// `None`: from the first.
        after: Option<CardId>,
    },
    /// Nowhere, for the time being.
    Wait,
    /// Nowhere.
    End,
}

/// What came of meeting a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Met {
    /// A change of this campaign has begun.
    Begun,
    /// Nothing is to be done: a change of this campaign was there, or the card is with the operator already.
    Settled,
    /// It cannot change its operator: kept, and never tried again.
    NotPossible,
    /// Not now: to be met again.
    Later,
}

impl Refusal {
    /// What a refused request means for the campaign that asked.
    pub const fn met(self) -> Met {
        match self {
            Refusal::SameOperator | Refusal::UnknownCard => Met::Settled,
            Refusal::NoAgreement | Refusal::Locked | Refusal::NoIdentity | Refusal::NotPossible => {
                Met::NotPossible
            }
            Refusal::Open(_)
            | Refusal::Suspended
            | Refusal::NotActive
            | Refusal::UnknownOperator
            | Refusal::Replayed
            | Refusal::Forbidden => Met::Later,
        }
    }
}

impl Walk {
    /// Where the next cards are, at most `count` where they are a list.
    pub fn next(&self, now: EpochMs, audience: &Audience, count: usize) -> Look {
        if self.ended {
            return Look::End;
        }
        if self.rests_until.is_some_and(|until| now < until) {
            return Look::Wait;
        }
        match audience {
            Audience::Cards(cards) => {
                let rest = cards.iter().filter(|card| self.after.is_none_or(|after| **card > after));
                Look::Cards(rest.take(count).copied().collect())
            }
            _ => Look::Page { bucket: Bucket(self.bucket), after: self.after },
        }
    }

    /// A card was met.
    pub fn met(&mut self, card: CardId, met: Met) {
        (self.after, self.rests_until) = (Some(card), None);
        if met == Met::Later {
            self.left_over += 1;
        }
    }

    /// All cards up to this one were looked at.
    pub fn passed(&mut self, card: CardId) {
        (self.after, self.rests_until) = (Some(card), None);
    }

    /// Nothing follows in this bucket, of `buckets`; for a list: nothing follows.
    pub fn end_of_bucket(&mut self, now: EpochMs, audience: &Audience, buckets: u16) {
        (self.after, self.rests_until) = (None, None);
        self.bucket += 1;
        if self.bucket < buckets && !matches!(audience, Audience::Cards(_)) {
            return;
        }
        self.bucket = 0;
        let joined = std::mem::take(&mut self.joined);
        match std::mem::take(&mut self.left_over) {
            0 => self.ended = !joined,
            _ => self.rests_until = Some(now.plus_ms(PASS_PAUSE_MS)),
        }
    }

    /// Cards have joined, perhaps where it has been already: one more pass.
    pub fn again(&mut self) {
        if self.ended || self.rests_until.is_some() {
            *self = Walk::default();
        } else {
            self.joined = true;
        }
    }

    /// Whether every card was met.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const BUCKETS: u16 = 4;

    fn card(number: u64) -> CardId {
        CardId::from(
            simtide_protocol::ids::Iccid::with_check_digit(&format!("89882110{number:010}")).unwrap(),
        )
    }

    /// Meets all cards, `at_once` of them in a look; those in `later` are not ready in the first pass.
    fn walk(
        audience: &Audience,
        cards: &BTreeSet<CardId>,
        at_once: usize,
        later: &BTreeSet<CardId>,
    ) -> Vec<CardId> {
        let (mut walk, mut now, mut begun) = (Walk::default(), EpochMs(0), Vec::new());
        let mut is_first_pass = true;
        for _ in 0..1_000 {
            // The place is kept and read again at every step, as by processes that end.
            walk = serde_json::from_str(&serde_json::to_string(&walk).unwrap()).unwrap();
            let of_bucket = |bucket: Bucket, after: Option<CardId>| {
                let own = cards.iter().filter(move |card| Bucket::of(card, BUCKETS) == bucket);
                own.filter(move |card| after.is_none_or(|after| **card > after)).copied().take(at_once)
            };
            let found: Vec<CardId> = match walk.next(now, audience, at_once) {
                Look::Cards(cards) => cards,
                Look::Page { bucket, after } => of_bucket(bucket, after).collect(),
                Look::Wait => {
                    is_first_pass = false;
                    now = now.plus_ms(PASS_PAUSE_MS);
                    continue;
                }
                Look::End => return begun,
            };
            for card in &found {
                let waits = is_first_pass && later.contains(card);
                let known = begun.contains(card);
                let met = if waits {
                    Met::Later
                } else if known {
                    Met::Settled
                } else {
                    Met::Begun
                };
                if met == Met::Begun {
                    begun.push(*card);
                }
                walk.met(*card, met);
            }
            if found.len() < at_once {
                walk.end_of_bucket(now, audience, BUCKETS);
            }
        }
        panic!("no end: {walk:?}");
    }

    #[test]
    fn every_card_is_met_once_and_those_that_wait_are_met_again() {
        let cards: BTreeSet<CardId> = (0..50).map(card).collect();
        let later: BTreeSet<CardId> = [3, 4, 40].map(card).into();
        let listed = Audience::Cards((10..20).map(card).collect());
        for at_once in [1, 7, 100] {
            for later in [&BTreeSet::new(), &later] {
                let begun = walk(&Audience::Everyone, &cards, at_once, later);
                assert_eq!((begun.len(), begun.into_iter().collect::<BTreeSet<_>>()), (50, cards.clone()));
            }
            assert_eq!(walk(&listed, &cards, at_once, &BTreeSet::new()).len(), 10);
        }
    }

    #[test]
    fn cards_that_join_are_met() {
        let everyone = Audience::Everyone;
        let mut walk = Walk::default();
        walk.met(card(5), Met::Begun);
        walk.again();
        let under_way = Look::Page { bucket: Bucket(0), after: Some(card(5)) };
        assert_eq!(walk.next(EpochMs(0), &everyone, 1), under_way, "the pass goes on");
        (0..BUCKETS).for_each(|_| walk.end_of_bucket(EpochMs(0), &everyone, BUCKETS));
        assert_eq!(walk.next(EpochMs(0), &everyone, 1), Look::Page { bucket: Bucket(0), after: None });
        (0..BUCKETS).for_each(|_| walk.end_of_bucket(EpochMs(0), &everyone, BUCKETS));
        assert!(walk.has_ended());
        assert_eq!(walk.next(EpochMs(0), &everyone, 1), Look::End);
        walk.again();
        assert_eq!(walk.next(EpochMs(0), &everyone, 1), Look::Page { bucket: Bucket(0), after: None });
    }
}
