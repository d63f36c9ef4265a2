//! The inbound queue: sealed packets that the client module has fetched and that wait for their card.
//!
//! An item belongs to the card that lay in the device when it was fetched and never reaches another one. It is forgotten
//! only when the card's answer is stored. Durable form: [`crate::queues`].

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{EpochMs, Iccid, Imsi};
use simtide_protocol::second_layer::{Item, ItemId};

/// Most items that wait, of all cards that have lain in the device.
pub const INBOUND_MAX: usize = 256;
/// Most bytes of their packets together.
pub const INBOUND_BYTES_MAX: usize = 1 << 20;
/// Most read receipts that wait to be sent or acknowledged.
pub const RECEIPTS_MAX: usize = 512;

/// Which card something belongs to: its number, or its subscriber where the number cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CardKey {
    /// EF.ICCID.
    Iccid(Iccid),
    /// EF.IMSI.
    Imsi(Imsi),
}

/// An item with what the device adds to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// The card that it is for.
    pub card: CardKey,
    /// The sealed packet and its wrapper.
    pub item: Item,
    /// When it was fetched.
    pub at: EpochMs,
}

/// The queue, in the order in which the cards are to get the items, and the read receipts that are owed for them.
#[derive(Debug, Default)]
pub struct Inbound {
    waiting: VecDeque<Queued>,
    bytes: usize,
    receipts: VecDeque<(CardKey, ItemId)>,
}

impl Inbound {
    /// What waits for this card, the next one first.
    pub fn of(&self, card: CardKey) -> impl Iterator<Item = &Queued> {
        self.waiting.iter().filter(move |queued| queued.card == card)
    }

    /// Everything, for a snapshot.
    pub fn all(&self) -> impl Iterator<Item = &Queued> {
        self.waiting.iter()
    }

    /// How many items wait, of all cards.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Read receipts that are owed for this card's items.
    pub fn receipts_of(&self, card: CardKey) -> impl Iterator<Item = &ItemId> {
        self.receipts.iter().filter(move |(owner, _)| *owner == card).map(|(_, id)| id)
    }

    /// All receipts that are owed.
    pub fn receipts(&self) -> impl Iterator<Item = &(CardKey, ItemId)> {
        self.receipts.iter()
    }

    /// Whether an item with this id waits for this card.
    pub fn contains(&self, card: CardKey, id: &ItemId) -> bool {
        self.of(card).any(|queued| queued.item.id == *id)
    }

    /// Whether other items of the same delivery wait: ids are `<delivery>-<n>`.
    pub fn has_more_of_delivery(&self, card: CardKey, id: &ItemId) -> bool {
        let delivery = delivery_of(id);
        self.of(card).any(|queued| queued.item.id != *id && delivery_of(&queued.item.id) == delivery)
    }

    /// Whether there is room for one more packet of this length. Without it the item is not taken, no receipt is sent, and
    /// the server offers it again.
    pub fn has_room(&self, packet_bytes: usize) -> bool {
        self.waiting.len() < INBOUND_MAX
            && self.bytes + packet_bytes <= INBOUND_BYTES_MAX
            && self.receipts.len() < RECEIPTS_MAX
    }

    pub(crate) fn push(&mut self, queued: Queued) {
        self.bytes += queued.item.packet.len();
        self.waiting.push_back(queued);
    }

    /// A receipt is owed.
    pub(crate) fn owe(&mut self, card: CardKey, id: ItemId) {
        if !self.receipts.iter().any(|(owner, owed)| *owner == card && *owed == id) {
            self.receipts.push_back((card, id));
        }
    }

    pub(crate) fn receipted(&mut self, card: CardKey, ids: &[ItemId]) {
        self.receipts.retain(|(owner, owed)| *owner != card || !ids.contains(owed));
        if self.receipts.is_empty() {
            self.receipts = VecDeque::new();
        }
    }

    pub(crate) fn remove(&mut self, card: CardKey, id: &ItemId) -> Option<Queued> {
        let place = self.waiting.iter().position(|queued| queued.card == card && queued.item.id == *id)?;
        let queued = self.waiting.remove(place)?;
        self.bytes = self.bytes.saturating_sub(queued.item.packet.len());
        if self.waiting.is_empty() {
            // A device at rest holds no buffers.
            self.waiting = VecDeque::new();
        }
        Some(queued)
    }
}

/// The delivery that an item belongs to.
fn delivery_of(id: &ItemId) -> &str {
    id.as_str().rsplit_once('-').map_or(id.as_str(), |(delivery, _)| delivery)
}
