//! Packets that an operator has sealed itself and hands in ready: the platform carries them as they are, and never sees
//! what is in them.
//!
//! Their clear part says how they are protected and who receives them; their counters come with them, because a proof
//! counts only where it names its command's. They wait in a record of the vault: no sealed packet lies in the store
//! beside it.

use serde::{Deserialize, Serialize};
use simtide_platform::delivery::{
    Bearer, Bearers, Handed, PORTIONS_MAX, PackError, Portion, Urgency, is_strong,
};
use simtide_protocol::ids::{CardId, DeliveryId, Tar};
use simtide_protocol::scp80::{CommandHeader, Counter, OpenError};
use zeroize::Zeroizing;

use super::record::Record;
use super::{Deliveries, DeliveryRefused};
use crate::shell::core::Core;
use crate::shell::sealing::SealingError;
use crate::store::{CASE_SEALED_BYTES_MAX, Card, CaseKind, Packet, TenantId};

/// Bytes of one packet at most: what a card reassembles.
pub const READY_BYTES_MAX: usize = 4_096;
/// What the vault adds to a record, at most.
const VAULT_BYTES: usize = 64;

/// A packet as it is handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyPacket {
    /// The SCP80 command packet, from its CPL on.
    pub packet: Vec<u8>,
    /// The counter in it.
    pub counter: u64,
}

/// What is to be carried.
#[derive(Debug, Clone)]
pub struct HandedIn {
    /// The card.
    pub card: CardId,
    /// The packets, in their order.
    pub packets: Vec<ReadyPacket>,
    /// What may carry them.
    pub bearers: Bearers,
    /// How much waiting a short message is worth.
    pub urgency: Urgency,
    /// How long it is tried, in seconds; `None`: as configured.
    pub validity_s: Option<u32>,
}

/// Why ready packets are not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReadyRefused {
    /// How many.
    #[error("{0} packets: give 1 to {PORTIONS_MAX}")]
    Count(usize),
    /// No packet.
    #[error("packet {0} is no command packet: {1}")]
    Packet(usize, OpenError),
    /// How long.
    #[error("packet {0} has {1} bytes: give at most {READY_BYTES_MAX}")]
    TooLong(usize, usize),
    /// All together.
    #[error(
        "the packets have {0} bytes together, which is too much for one delivery: hand them in as several"
    )]
    TooMuch(usize),
    /// Two key sets.
    #[error("packet {0} is ciphered by key set {1} and checked by key set {2}: use one for both")]
    KeySets(usize, u8, u8),
    /// The counters.
    #[error(
        "packet {0} has counter {1}: the last one given of its key set is {2}, and counters must rise; seal it anew"
    )]
    Counter(usize, u64, u64),
    /// A poll.
    #[error("a poll cannot carry sealed packets: name sms or ip")]
    Poll,
}

/// What is known of a ready packet without opening it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyHead {
    tar: [u8; 3],
    key_set: u8,
    spi: u16,
    counter: u64,
    bytes: u16,
}

impl ReadyHead {
    fn of(number: usize, ready: &ReadyPacket) -> Result<ReadyHead, DeliveryRefused> {
        let ReadyPacket { packet, counter } = ready;
        if packet.len() > READY_BYTES_MAX {
            return Err(ReadyRefused::TooLong(number, packet.len()).into());
        }
        let (security, tar) =
            CommandHeader::clear_part(packet).map_err(|error| ReadyRefused::Packet(number, error))?;
        let (key_set, kid) = (security.kic.index(), security.kid.index());
        if key_set != kid {
            return Err(ReadyRefused::KeySets(number, key_set, kid).into());
        }
        let spi = u16::from_be_bytes(security.spi.to_bytes());
        if !is_strong(security.spi) {
            return Err(PackError::Weak(spi, key_set).into());
        }
        Ok(ReadyHead { tar: tar.0, key_set, spi, counter: *counter, bytes: packet.len() as u16 })
    }

    fn portion(&self) -> Portion {
        let handed = Handed { counter: self.counter, bytes: self.bytes };
        Portion::handed_in(Tar(self.tar), self.key_set, self.spi, handed)
    }
}

/// The portions of ready packets: one for each.
pub(super) fn portions(heads: &[ReadyHead]) -> Vec<Portion> {
    heads.iter().map(ReadyHead::portion).collect()
}

impl Deliveries {
    /// Takes packets that are sealed already. Answers their delivery's record as it is durable.
    ///
    /// # Errors
    /// They cannot be carried, or the proof of their receipt could not be read.
    pub async fn hand_in(&self, tenant: TenantId, handed: HandedIn) -> Result<Record, DeliveryRefused> {
        let HandedIn { card, packets, bearers, urgency, validity_s } = handed;
        if bearers.contains(Bearer::Poll) {
            return Err(ReadyRefused::Poll.into());
        }
        let receiver = self.receiver(tenant, card, bearers).await?;
        let limit = self.limit(validity_s)?;
        let card = &receiver.card;
        let heads = self.heads(card, &packets)?;
        let mut record = self.ready_record(card, heads, bearers, urgency, limit);
        self.check_keys(card, &record)?;
        let bytes = packets.iter().map(|one| 2 + one.packet.len()).sum::<usize>();
        if bytes + VAULT_BYTES > CASE_SEALED_BYTES_MAX {
            return Err(ReadyRefused::TooMuch(bytes).into());
        }
        let mut plain = Zeroizing::new(Vec::with_capacity(bytes));
        for ReadyPacket { packet, .. } in &packets {
            plain.extend_from_slice(&(packet.len() as u16).to_be_bytes());
            plain.extend_from_slice(packet);
        }
        let sealed = self.core.keyring.seal_delivery(record.machine.id, &card.record, &plain);
        record.sealed = sealed.map_err(SealingError::from)?;
        self.begin(receiver, record).await
    }

    /// What the packets say of themselves, held against the card's counters.
    fn heads(&self, card: &Card, packets: &[ReadyPacket]) -> Result<Vec<ReadyHead>, DeliveryRefused> {
        if !(1..=PORTIONS_MAX).contains(&packets.len()) {
            return Err(ReadyRefused::Count(packets.len()).into());
        }
        let mut heads: Vec<ReadyHead> = Vec::with_capacity(packets.len());
        for (number, packet) in (1..).zip(packets) {
            let head = ReadyHead::of(number, packet)?;
            let known = card.counters.iter().find(|(key_set, _)| *key_set == head.key_set);
            let given = known.ok_or(SealingError::KeySet(head.key_set))?.1;
            let before = heads.iter().rev().find(|one| one.key_set == head.key_set);
            let last = before.map_or(given, |one| one.counter.max(given));
            if head.counter <= last || Counter::new(head.counter).is_none() {
                return Err(ReadyRefused::Counter(number, head.counter, last).into());
            }
            heads.push(head);
        }
        Ok(heads)
    }
}

/// The bytes of a ready packet, as they were handed in.
pub(in crate::shell) async fn ready(
    core: &Core,
    card: &Card,
    packet: &Packet,
    delivery: DeliveryId,
) -> Result<Vec<u8>, SealingError> {
    let row = core.store.case_of(card.record.id, CaseKind::Delivery, delivery.0).await?;
    let row = row.ok_or(SealingError::Ready)?;
    let record = Record::read(&row)?;
    let plain = core.keyring.open_delivery(delivery, &card.record, &record.sealed)?;
    let mut rest = &plain[..];
    for head in &record.ready {
        let (length, after) = rest.split_first_chunk::<2>().ok_or(SealingError::Ready)?;
        let (bytes, after) =
            after.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(SealingError::Ready)?;
        if (head.key_set, head.counter) == (packet.key.key_set, packet.key.counter) {
            return Ok(bytes.to_vec());
        }
        rest = after;
    }
    Err(SealingError::Ready)
}
