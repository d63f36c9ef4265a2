//! The outbound queue: proofs of receipt and short messages of the card on their way back over IP, kept until the server
//! has acknowledged them. Where IP stays away they leave by short message too ([`crate::client`]). Durable form:
//! [`crate::queues`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use simtide_protocol::second_layer::{Uplink, UplinkContent};

use crate::inbound::CardKey;

/// Most uplinks that wait, of all cards that have lain in the device. A card's message that finds no room is refused, and
/// the card keeps it.
pub const OUTBOUND_MAX: usize = 512;

/// Something that a card has sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The device's number of it; rises and is never given twice.
    pub n: u64,
    /// Who sent it: only a session of this card carries it.
    pub card: CardKey,
    /// What it is.
    pub content: UplinkContent,
    /// A service centre has taken it too: it leaves by short message once, and over IP until it is acknowledged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_sms: bool,
}

/// The queue, oldest first.
#[derive(Debug, Default)]
pub struct Outbound {
    waiting: VecDeque<Pending>,
    /// The last number given.
    last: u64,
}

impl Outbound {
    /// What waits of this card, oldest first, as it goes into a message.
    pub fn of(&self, card: CardKey) -> impl Iterator<Item = Uplink> {
        let own = self.waiting.iter().filter(move |pending| pending.card == card);
        own.map(|pending| Uplink { n: pending.n, content: pending.content.clone() })
    }

    /// Whether something of this card waits.
    pub fn has_any_of(&self, card: CardKey) -> bool {
        self.waiting.iter().any(|pending| pending.card == card)
    }

    /// What of this card no service centre has taken, oldest first.
    pub fn unsent_of(&self, card: CardKey) -> impl Iterator<Item = &Pending> {
        self.waiting.iter().filter(move |pending| pending.card == card && !pending.by_sms)
    }

    /// Everything, for a snapshot.
    pub fn all(&self) -> impl Iterator<Item = &Pending> {
        self.waiting.iter()
    }

    /// How many wait, of all cards.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether one more fits.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < OUTBOUND_MAX
    }

    /// The oldest that a service centre has taken: where there is no room, it may go.
    pub(crate) fn dispensable(&self) -> Option<&Pending> {
        self.waiting.iter().find(|pending| pending.by_sms)
    }

    /// The last number given.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The next number.
    pub(crate) fn next(&self) -> u64 {
        self.last + 1
    }

    pub(crate) fn push(&mut self, pending: Pending) {
        self.last = self.last.max(pending.n);
        self.waiting.push_back(pending);
    }

    /// Numbers up to this one have been given.
    pub(crate) fn given(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// A service centre has taken it.
    pub(crate) fn taken(&mut self, card: CardKey, n: u64) {
        let taken = |pending: &&mut Pending| pending.card == card && pending.n == n;
        if let Some(pending) = self.waiting.iter_mut().find(taken) {
            pending.by_sms = true;
        }
    }

    pub(crate) fn acknowledged(&mut self, card: CardKey, n: &[u64]) {
        self.waiting.retain(|pending| pending.card != card || !n.contains(&pending.n));
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }
}
