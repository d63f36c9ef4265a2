//! Where cards can be reached, as far as this process has seen: what became of short messages, and who has asked on
//! the second interface. It is a guess that only orders the bearers; it is forgotten with the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use simtide_platform::delivery::Presence;
use simtide_protocol::ids::{CardId, EpochMs};

use crate::entitlement::source::PushAddress;
use simtide_protocol::second_layer::Known;

/// Cards that are remembered.
const CARDS_MAX: usize = 1_000_000;

/// What has been seen of cards.
#[derive(Debug, Default)]
pub struct Sightings(Mutex<BTreeMap<CardId, Sighting>>);

/// What has been seen of one card.
#[derive(Debug, Clone, Default)]
pub struct Sighting {
    /// The last short message that reached its device.
    pub sms_reached: Option<EpochMs>,
    /// The last short message that did not.
    pub sms_failed: Option<EpochMs>,
    /// The last authenticated request on the second interface.
    pub ip_seen: Option<EpochMs>,
    /// Where a push reaches its device.
    pub push: Option<PushAddress>,
    /// What its device says that it has.
    pub known: Known,
    /// The latest campaign of which its device was told by the platform's own initiative.
    pub told_of: u32,
}

impl Sightings {
    /// Notes something about a card.
    pub fn note(&self, card: CardId, change: impl FnOnce(&mut Sighting)) {
        let mut cards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cards.len() >= CARDS_MAX && !cards.contains_key(&card) {
            // A guess that is forgotten costs a short message.
            cards.clear();
        }
        change(cards.entry(card).or_default());
    }

    /// A short message has reached the device of a card that had been missed.
    pub fn reached(&self, card: &CardId, now: EpochMs) {
        let mut cards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sighting) = cards.get_mut(card) {
            sighting.sms_reached = Some(now);
        }
    }

    /// The next cards whose devices a push reaches, after this one.
    pub fn pushable(&self, after: Option<CardId>, cards_max: usize) -> Vec<CardId> {
        let cards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let reachable = cards.range((from, Bound::Unbounded)).filter(|(_, one)| one.push.is_some());
        reachable.map(|(card, _)| *card).take(cards_max).collect()
    }

    /// What is known of a card.
    pub fn of(&self, card: &CardId) -> Sighting {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(card).cloned().unwrap_or_default()
    }
}

impl Sighting {
    /// As decisions want it.
    pub fn presence(&self, sms: bool, ip: bool, next_poll: Option<EpochMs>) -> Presence {
        let Sighting { sms_reached, sms_failed, ip_seen, .. } = *self;
        Presence { sms, ip, sms_reached, sms_failed, ip_seen, next_poll }
    }
}
