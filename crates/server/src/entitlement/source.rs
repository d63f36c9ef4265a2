//! The second interface: what the secure element manager offers to the entitlement server.
//!
//! The platform implements [`DeliverySource`] in process; a server that runs as a process of its own speaks to the
//! same methods over HTTP. Sealed packets pass through, nothing here can open them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use simtide_protocol::ids::{CardId, Imsi};
use simtide_protocol::second_layer::{ItemId, Known, UplinkContent, Verdict};

/// What a method of the second interface answers with.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// Where packets for devices come from, and where receipts and proofs go. Every method may be called again with the
/// same arguments: nothing happens twice.
pub trait DeliverySource: Send + Sync {
    /// The card that a subscriber's identity is on now; `None` where there is none.
    fn subscriber(&self, imsi: Imsi) -> Answer<'_, Option<CardId>>;

    /// What waits for a card, in the order in which it should get it; at most
    /// [`ITEMS_MAX`](simtide_protocol::second_layer::ITEMS_MAX) are handed on, the rest at the next query. An item is
    /// offered again until it was [`fetched`](DeliverySource::fetched), and again when its proof does not come.
    /// `known` is what the device says the card has.
    fn waiting<'a>(&'a self, card: CardId, known: &'a Known) -> Answer<'a, Vec<Waiting>>;

    /// Read receipts: these items lie in the device's inbound queue, on its disk. Durable before it answers. Ids that
    /// are not the card's are passed over.
    fn fetched(&self, card: CardId, items: Vec<ItemId>) -> Answer<'_, ()>;

    /// What the card has sent: a proof of receipt, or a short message. Durable before it answers.
    fn uplink(&self, card: CardId, uplink: UplinkContent) -> Answer<'_, Verdict>;

    /// A subscriber's card has just proven itself to its register's vector: an operator may let that count as its attach.
    fn authenticated(&self, _imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Where a cloud push reaches the device of a card, as it told with its request; `None`: it wants none.
    fn push_address(&self, card: CardId, address: Option<PushAddress>) -> Answer<'_, ()>;
}

/// A sealed packet that waits for a card.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// Names it in receipts and proofs.
    pub id: ItemId,
    /// The SCP80 command packet, from its CPL on.
    #[serde(with = "super::base64_bytes")]
    pub packet: Vec<u8>,
    /// TP-OA that the device is to set; `None`: the wrapper is made behind the second interface, and the entitlement
    /// server sets its own address.
    pub originating_address: Option<String>,
    /// Whether the card answers with a proof that is waited for.
    pub proof_wanted: bool,
}

/// Where a cloud push goes (GSMA TS.43, `notif_token` and `notif_action`).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushAddress {
    /// The token that the push service gave the device.
    pub token: String,
    /// 1 GCM, 2 FCM, 3 WNS, 4 APNS.
    pub action: u8,
}

/// Why the second interface did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Out of reach or overloaded; the device is told to come again.
    #[error("the secure element manager does not answer: {0}; it is asked again with the next request")]
    Unavailable(String),
    /// It answered something that this version does not understand, or refused this server.
    #[error("the secure element manager refused: {0}; check the platform's address and token")]
    Refused(String),
}

/// A source in memory, for tests and measurements.
#[derive(Default)]
pub struct MemorySource {
    inner: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    subscribers: HashMap<Imsi, CardId>,
    waiting: HashMap<CardId, BTreeMap<ItemId, Waiting>>,
    fetched: HashMap<CardId, Vec<ItemId>>,
    uplinks: HashMap<CardId, Vec<UplinkContent>>,
    push: HashMap<CardId, PushAddress>,
    known: HashSet<(CardId, UplinkContentKey)>,
}

/// What makes two uplinks the same: the bytes, and whether they are a proof.
type UplinkContentKey = (bool, Vec<u8>);

impl MemorySource {
    /// The subscriber is on this card.
    pub fn put_subscriber(&self, imsi: Imsi, card: CardId) {
        self.inner().subscribers.insert(imsi, card);
    }

    /// Something waits for a card.
    pub fn put_waiting(&self, card: CardId, item: Waiting) {
        self.inner().waiting.entry(card).or_default().insert(item.id.clone(), item);
    }

    /// Read receipts so far.
    pub fn fetched_items(&self, card: CardId) -> Vec<ItemId> {
        self.inner().fetched.get(&card).cloned().unwrap_or_default()
    }

    /// What the card has sent so far, each once.
    pub fn uplinks(&self, card: CardId) -> Vec<UplinkContent> {
        self.inner().uplinks.get(&card).cloned().unwrap_or_default()
    }

    /// Where a push reaches the card's device.
    pub fn push_of(&self, card: CardId) -> Option<PushAddress> {
        self.inner().push.get(&card).cloned()
    }

    fn inner(&self) -> MutexGuard<'_, Memory> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeliverySource for MemorySource {
    fn subscriber(&self, imsi: Imsi) -> Answer<'_, Option<CardId>> {
        let card = self.inner().subscribers.get(&imsi).copied();
        Box::pin(async move { Ok(card) })
    }

    fn waiting<'a>(&'a self, card: CardId, _known: &'a Known) -> Answer<'a, Vec<Waiting>> {
        let items = self.inner().waiting.get(&card).map(|items| items.values().cloned().collect());
        Box::pin(async move { Ok(items.unwrap_or_default()) })
    }

    fn fetched(&self, card: CardId, items: Vec<ItemId>) -> Answer<'_, ()> {
        let mut inner = self.inner();
        for id in items {
            if inner.waiting.get_mut(&card).is_some_and(|waiting| waiting.remove(&id).is_some()) {
                inner.fetched.entry(card).or_default().push(id);
            }
        }
        Box::pin(async { Ok(()) })
    }

    fn uplink(&self, card: CardId, uplink: UplinkContent) -> Answer<'_, Verdict> {
        let key = match &uplink {
            UplinkContent::Proof { packet, .. } => (true, packet.clone()),
            UplinkContent::Submit { tpdu } => (false, tpdu.clone()),
        };
        let mut inner = self.inner();
        let verdict = if inner.known.insert((card, key)) {
            inner.uplinks.entry(card).or_default().push(uplink);
            Verdict::Accepted
        } else {
            Verdict::Repeated
        };
        Box::pin(async move { Ok(verdict) })
    }

    fn push_address(&self, card: CardId, address: Option<PushAddress>) -> Answer<'_, ()> {
        let mut inner = self.inner();
        match address {
            Some(address) => inner.push.insert(card, address),
            None => inner.push.remove(&card),
        };
        Box::pin(async { Ok(()) })
    }
}
