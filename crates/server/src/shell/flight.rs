//! Packets under way, in memory: where each stands, what the flow controller is told, whose validity has ended.
//!
//! The rows in the store are the truth; this is their index while the process lives, read from them at its start.
//! What evidence makes of a packet is decided by [`delivery::Packet`].

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use simtide_platform::delivery::{self, Change, Evidence, Purpose};
use simtide_platform::flow::{InFlight, Seen};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::scp80::{PorRequest, Spi};

use super::delivery::presence::Sightings;
use crate::store::{self, Origin, PacketChange, PacketKey, PacketState};
use tokio::sync::mpsc;

/// Packets whose validity has ended that are handled at once.
pub const DUE_MAX: usize = 1_000;

/// What evidence has made of a packet: its row is to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Why it exists.
    pub origin: Origin,
    /// Where it stands now.
    pub state: PacketState,
    /// The SMSC's ids, by part.
    pub message_ids: Vec<String>,
}

impl Moved {
    /// How its row is to be changed.
    pub fn change(self, key: PacketKey) -> PacketChange {
        PacketChange { key, state: self.state, message_ids: self.message_ids, deadline: None }
    }
}

#[derive(Debug)]
struct Flying {
    packet: delivery::Packet,
    origin: Origin,
    /// The SMSC keeps it for a device that is off.
    stored: bool,
    /// Where it waits to be sent, until the SMSC has answered.
    waits: Option<Waits>,
    message_ids: Vec<String>,
}

/// A place in the queue of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// The link, by its place in the configuration.
    pub link: usize,
    /// The message.
    pub token: u64,
}

/// All packets under way, and what has happened since the last tick.
#[derive(Debug, Default)]
pub struct Flight {
    packets: Mutex<Packets>,
    /// Sessions begun by cards on their own.
    pub polled: AtomicU32,
    /// Sessions begun in answer to a trigger.
    pub arrived: AtomicU32,
    /// Triggers given up.
    pub expired: AtomicU32,
    /// Submissions that an SMSC throttled.
    pub throttled: AtomicU32,
    /// What short messages tell of where cards can be reached.
    pub sightings: Arc<Sightings>,
    /// Told of triggers that are settled while they may still wait in a link.
    withdrawals: OnceLock<mpsc::UnboundedSender<Waits>>,
}

#[derive(Debug, Default)]
struct Packets {
    flying: HashMap<PacketKey, Flying>,
    deadlines: BTreeSet<(EpochMs, PacketKey)>,
}

impl Flight {
    /// Where to tell that a message is not wanted any more. Once per process.
    pub fn withdraws_at(&self, withdrawals: mpsc::UnboundedSender<Waits>) {
        let _ = self.withdrawals.set(withdrawals);
    }

    /// The packet's message waits in the queue of a link.
    pub fn waits(&self, key: PacketKey, waits: Waits) {
        if let Some(flying) = self.lock().flying.get_mut(&key) {
            flying.waits = Some(waits);
        }
    }

    /// A packet as its row says; `parts` short messages carry it.
    pub fn takes_off(&self, row: &store::Packet, parts: u8) {
        let reserved =
            delivery::Packet::reserved(purpose(row), row.key.key_set, row.key.counter, parts, row.deadline);
        let copies = u8::from(row.state != PacketState::Queued);
        let flying = Flying {
            packet: reserved.restored(to_machine(row.state), copies),
            origin: row.origin,
            stored: false,
            waits: None,
            message_ids: row.message_ids.clone(),
        };
        let mut packets = self.lock();
        if let Some(before) = packets.flying.insert(row.key, flying) {
            // It leaves again, with another validity.
            packets.deadlines.remove(&(before.packet.deadline, row.key));
        }
        packets.deadlines.insert((row.deadline, row.key));
    }

    /// Takes evidence in; `None` where nothing changes or the packet is not under way.
    pub fn evidence(&self, key: PacketKey, now: EpochMs, evidence: Evidence) -> Option<Moved> {
        let mut packets = self.lock();
        let flying = packets.flying.get_mut(&key)?;
        let change = flying.packet.apply(now, evidence);
        self.sighted(key, now, evidence, change);
        let waits = flying.waits;
        if matches!(evidence, Evidence::Delivered { .. }) {
            flying.stored = false;
        }
        let moved = Moved {
            origin: flying.origin,
            state: from_machine(flying.packet.state),
            message_ids: flying.message_ids.clone(),
        };
        match change {
            Change::Nothing => {
                // A command past its validity stays open, but is not due again.
                if evidence == Evidence::Deadline {
                    let deadline = flying.packet.deadline;
                    packets.deadlines.remove(&(deadline, key));
                }
                None
            }
            Change::From(_) => {
                if evidence == Evidence::Deadline {
                    let deadline = flying.packet.deadline;
                    packets.deadlines.remove(&(deadline, key));
                }
                Some(moved)
            }
            Change::Settled(_) => {
                let deadline = flying.packet.deadline;
                packets.deadlines.remove(&(deadline, key));
                packets.flying.remove(&key);
                drop(packets);
                // Its card has come, or it is given up: it must not leave any more.
                if let (Evidence::Called | Evidence::Abandon, Some(waits), Some(withdrawals)) =
                    (evidence, waits, self.withdrawals.get())
                {
                    // Nobody withdraws while the platform ends.
                    let _ = withdrawals.send(waits);
                }
                let given_up = matches!(moved.origin, Origin::Trigger(_))
                    && !matches!(moved.state, PacketState::Proven(_));
                if given_up {
                    self.expired.fetch_add(1, Ordering::Relaxed);
                }
                Some(moved)
            }
        }
    }

    /// Whether the card's device seems to have coverage.
    fn sighted(&self, key: PacketKey, now: EpochMs, evidence: Evidence, change: Change) {
        match evidence {
            Evidence::Undeliverable => {
                self.sightings.note(key.card, |sighting| sighting.sms_failed = Some(now));
            }
            Evidence::Deadline if matches!(change, Change::From(_) | Change::Settled(_)) => {
                self.sightings.note(key.card, |sighting| sighting.sms_failed = Some(now));
            }
            // Who has not been missed need not be remembered.
            Evidence::Delivered { .. } => self.sightings.reached(&key.card, now),
            _ => {}
        }
    }

    /// Whether a packet is under way.
    pub fn contains(&self, key: PacketKey) -> bool {
        self.lock().flying.contains_key(&key)
    }

    /// Why a packet under way exists.
    pub fn origin(&self, key: PacketKey) -> Option<Origin> {
        self.lock().flying.get(&key).map(|flying| flying.origin)
    }

    /// The row was settled before the packet could leave.
    pub fn forget(&self, key: PacketKey) {
        let mut packets = self.lock();
        if let Some(flying) = packets.flying.remove(&key) {
            packets.deadlines.remove(&(flying.packet.deadline, key));
        }
    }

    /// The SMSC has given a part this id.
    pub fn message_id(&self, key: PacketKey, part: usize, parts: usize, id: String) {
        if let Some(flying) = self.lock().flying.get_mut(&key) {
            flying.waits = None;
            flying.message_ids.resize(parts, String::new());
            if let Some(place) = flying.message_ids.get_mut(part) {
                *place = id;
            }
        }
    }

    /// The SMSC keeps it for a device that is off.
    pub fn stored(&self, key: PacketKey) {
        if let Some(flying) = self.lock().flying.get_mut(&key) {
            flying.stored = true;
        }
    }

    /// Packets whose validity has ended.
    pub fn due(&self, now: EpochMs) -> Vec<PacketKey> {
        let packets = self.lock();
        let ended = packets.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        ended.take(DUE_MAX).map(|(_, key)| *key).collect()
    }

    /// Triggers under way, by what is known of them.
    pub fn in_flight(&self) -> InFlight {
        let packets = self.lock();
        let mut counts = InFlight::default();
        for flying in packets.flying.values().filter(|flying| matches!(flying.origin, Origin::Trigger(_))) {
            match flying.packet.state {
                _ if flying.stored => counts.stored += 1,
                delivery::PacketState::Accepted => counts.accepted += 1,
                delivery::PacketState::Delivered => counts.delivered += 1,
                _ => counts.submitted += 1,
            }
        }
        counts
    }

    /// Number of packets under way.
    pub fn len(&self) -> usize {
        self.lock().flying.len()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has happened since the last call; `refused` is the card port's.
    pub fn seen(&self, refused: u32) -> Seen {
        let take = |counter: &AtomicU32| counter.swap(0, Ordering::Relaxed);
        Seen {
            polled: take(&self.polled),
            arrived: take(&self.arrived),
            expired: take(&self.expired),
            refused,
            throttled: take(&self.throttled),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Packets> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a row's packet is for, as the decisions name it.
pub fn purpose(row: &store::Packet) -> Purpose {
    let [first, second] = row.spi.to_be_bytes();
    match row.origin {
        Origin::Trigger(_) => Purpose::Trigger,
        Origin::Request if Spi::new(first, second).por() != PorRequest::Always => Purpose::Unproven,
        Origin::Command(_) | Origin::Request | Origin::Change(_) | Origin::Delivery(_) => Purpose::Command,
    }
}

/// A row's state as the decisions name it.
pub fn to_machine(state: PacketState) -> delivery::PacketState {
    use delivery::PacketState as To;
    match state {
        PacketState::Queued => To::Queued,
        PacketState::Submitted => To::Submitted,
        PacketState::Accepted => To::Accepted,
        PacketState::Delivered => To::Delivered,
        PacketState::Unknown => To::Unknown,
        PacketState::Proven(status) => To::Proven(status),
        PacketState::Refused(status) => To::Refused(status),
        PacketState::Expired => To::Expired,
        PacketState::Abandoned => To::Abandoned,
    }
}

/// A state of the decisions as rows name it.
pub fn from_machine(state: delivery::PacketState) -> PacketState {
    use delivery::PacketState as From;
    match state {
        From::Queued => PacketState::Queued,
        From::Submitted => PacketState::Submitted,
        From::Accepted => PacketState::Accepted,
        From::Delivered => PacketState::Delivered,
        From::Unknown => PacketState::Unknown,
        From::Proven(status) => PacketState::Proven(status),
        From::Refused(status) => PacketState::Refused(status),
        From::Expired => PacketState::Expired,
        From::Abandoned => PacketState::Abandoned,
    }
}

#[cfg(test)]
mod tests {
    use simtide_protocol::ids::{CardId, Iccid, Tar};

    use super::*;
    use crate::store::CampaignId;

    fn row(counter: u64, origin: Origin) -> store::Packet {
        let card = CardId::from("8988211000000000011".parse::<Iccid>().unwrap());
        store::Packet {
            key: PacketKey { card, key_set: 1, counter },
            origin,
            tar: Tar([0; 3]),
            spi: 0x1639,
            state: PacketState::Queued,
            at: EpochMs(0),
            deadline: EpochMs(1_000),
            message_ids: Vec::new(),
            data: Vec::new(),
        }
    }

    #[test]
    fn a_trigger_lands_once_and_a_command_stays_after_its_validity() {
        let flight = Flight::default();
        let trigger = row(1, Origin::Trigger(CampaignId(1)));
        let command = row(2, Origin::Request);
        for one in [&trigger, &command] {
            flight.takes_off(one, 1);
            flight.evidence(one.key, EpochMs(1), Evidence::Submitting).unwrap();
        }
        assert_eq!(flight.in_flight().submitted, 1);
        assert_eq!(flight.due(EpochMs(999)), []);
        assert_eq!(flight.due(EpochMs(1_000)).len(), 2);
        let ended = flight.evidence(trigger.key, EpochMs(1_000), Evidence::Deadline).unwrap();
        assert_eq!(ended.state, PacketState::Expired);
        assert!(flight.evidence(trigger.key, EpochMs(1_000), Evidence::Called).is_none());
        let open = flight.evidence(command.key, EpochMs(1_000), Evidence::Deadline).unwrap();
        assert_eq!(open.state, PacketState::Unknown);
        assert_eq!((flight.due(EpochMs(2_000)).len(), flight.len()), (0, 1));
        let proven = flight.evidence(command.key, EpochMs(3_000), Evidence::Proof { status: 0 }).unwrap();
        assert_eq!(proven.state, PacketState::Proven(0));
        assert_eq!((flight.len(), flight.seen(0).expired), (0, 1));
        let unproven = store::Packet { spi: 0x1600, ..row(3, Origin::Request) };
        flight.takes_off(&unproven, 1);
        flight.evidence(unproven.key, EpochMs(1), Evidence::Submitting).unwrap();
        let ended = flight.evidence(unproven.key, EpochMs(1_000), Evidence::Deadline).unwrap();
        assert_eq!((ended.state, flight.len(), flight.seen(0).expired), (PacketState::Expired, 0, 0));
    }
}
