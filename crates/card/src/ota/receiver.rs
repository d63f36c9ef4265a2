//! From short messages to commands for applications.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use simtide_protocol::apdu::StatusWord;
use simtide_protocol::ids::{EpochMs, Tar};
use simtide_protocol::profile::{Application, Profile};
use simtide_protocol::scp80::{
    Accepted, CommandHeader, Counter, Holdings, KeySet, Refused, ResponseStatus, Spi, StoredKeySet, receive,
};
use simtide_protocol::sms::{Address, Arrival, Deliver, Element, Limits, Reassembly, ReassemblyError};

use super::reply::{Delivery, Reply};

/// The OTA keys of one card.
pub trait Keyring {
    /// The key set with this index, 1 to 15.
    fn key_set(&self, index: u8) -> Option<&KeySet>;
}

/// What the receiver remembers between messages. Parts of messages may be lost with the power; the counters may not,
/// so the card stores them before it lets an application see the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    reassembly: Reassembly<Address>,
    /// By key set index: the highest counter that was accepted.
    counters: BTreeMap<u8, Counter>,
    /// Reference of the last concatenated proof of receipt.
    pub(super) reference: u8,
}

/// What a short message turned out to be.
#[derive(Debug)]
pub enum Reception {
    /// Not a secured packet: for somebody else, or for nobody.
    NotSecured,
    /// One part of several, kept, or known already; the ENVELOPE is answered with `90 00`.
    Incomplete,
    /// A command for an application.
    Command(Command),
    /// A command that no application gets to see; the proof of receipt says why, unless this card is silent.
    Refused {
        /// Why.
        status: ResponseStatus,
        /// What to send.
        delivery: Delivery,
    },
    /// Nothing that could be answered with a proof of receipt; the ENVELOPE is answered with this.
    Unreadable(StatusWord),
}

/// A command for the application with this TAR.
#[derive(Debug)]
pub struct Command {
    /// The application.
    pub tar: Tar,
    /// The secured data: a script, a trigger.
    pub data: Vec<u8>,
    /// How it was protected.
    pub spi: Spi,
    /// Index of the key set that was used.
    pub key_index: u8,
    /// How to answer.
    pub reply: Reply,
}

impl Default for Receiver {
    fn default() -> Self {
        Self { reassembly: Reassembly::new(Limits::CARD), counters: BTreeMap::new(), reference: 0 }
    }
}

impl Receiver {
    /// The highest counter that was accepted with a key set; zero where none was.
    pub fn counter(&self, key_index: u8) -> Counter {
        self.counters.get(&key_index).copied().unwrap_or_default()
    }

    /// Sets the counter of a key set: at personalisation, and after PUT KEY has replaced its keys.
    pub fn set_counter(&mut self, key_index: u8, counter: Counter) {
        self.counters.insert(key_index, counter);
    }

    /// Forgets the parts of incomplete messages.
    pub fn forget_parts(&mut self) {
        self.reassembly = Reassembly::new(Limits::CARD);
    }

    /// Takes a short message that the device has handed over.
    pub fn receive(&mut self, profile: &Profile, keys: &dyn Keyring, deliver: &Deliver) -> Reception {
        if !deliver.has_header {
            return Reception::NotSecured;
        }
        let originator = deliver.originator.clone();
        match self.reassembly.accept(EpochMs::EPOCH, originator, &deliver.user_data.octets) {
            Ok(Arrival::Whole(message)) if message.contains(Element::COMMAND_PACKET) => {
                self.receive_packet(profile, keys, &deliver.originator, &message.data)
            }
            Ok(Arrival::Whole(_)) => Reception::NotSecured,
            Ok(Arrival::Waiting | Arrival::Duplicate) => Reception::Incomplete,
            Err(ReassemblyError::Header(_)) => Reception::Unreadable(StatusWord::WRONG_DATA),
            Err(ReassemblyError::TooLong(_)) => Reception::Unreadable(StatusWord::NO_MEMORY),
        }
    }

    /// Takes a whole command packet, from CPL on; the proof of receipt goes to `originator`.
    pub fn receive_packet(
        &mut self,
        profile: &Profile,
        keys: &dyn Keyring,
        originator: &Address,
        packet: &[u8],
    ) -> Reception {
        let Ok((security, tar)) = CommandHeader::clear_part(packet) else {
            return Reception::Unreadable(StatusWord::WRONG_LENGTH);
        };
        let application = profile.application_by_tar(tar);
        let judged = receive(packet, &Judge { receiver: self, keys, application });
        let behaviour = profile.scp80;
        match judged {
            Err(_) => Reception::Unreadable(StatusWord::WRONG_LENGTH),
            Ok(Ok(Accepted { header, data, key_index, counter })) => {
                let key_index =
                    application.map_or(key_index, |application| agreed_index(key_index, application));
                if let Some(counter) = counter {
                    self.counters.insert(key_index, counter);
                }
                let reply = Reply {
                    security,
                    tar,
                    counter: header.counter,
                    key_index: Some(key_index),
                    originator: originator.clone(),
                    behaviour,
                };
                Reception::Command(Command { tar, data, spi: security.spi, key_index, reply })
            }
            Ok(Err(Refused { status, security, tar, counter, answer_with })) => {
                let answer_with = if behaviour.unprotected_error_por { None } else { answer_with };
                let key_index = answer_with
                    .map(|index| application.map_or(index, |application| agreed_index(index, application)));
                let originator = originator.clone();
                let reply = Reply { security, tar, counter, key_index, originator, behaviour };
                Reception::Refused { status, delivery: reply.refuse(self, keys, status) }
            }
        }
    }
}

/// Indexes and their key sets.
impl Keyring for Vec<(u8, KeySet)> {
    fn key_set(&self, index: u8) -> Option<&KeySet> {
        self.iter().find(|(of, _)| *of == index).map(|(_, keys)| keys)
    }
}

/// Index 0 leaves the key set to agreement: the application's first.
fn agreed_index(index: u8, application: &Application) -> u8 {
    if index == 0 { application.key_sets.first().copied().unwrap_or(0) } else { index }
}

/// What is looked up to judge one packet.
struct Judge<'c> {
    receiver: &'c Receiver,
    keys: &'c dyn Keyring,
    application: Option<&'c Application>,
}

impl Holdings for Judge<'_> {
    fn minimum_level(&self, _tar: Tar) -> Option<Spi> {
        self.application.map(|application| application.minimum_spi)
    }

    fn key_set(&self, index: u8) -> Option<StoredKeySet<'_>> {
        let application = self.application?;
        let index = agreed_index(index, application);
        if !application.key_sets.contains(&index) {
            return None;
        }
        Some(StoredKeySet { keys: self.keys.key_set(index)?, counter: self.receiver.counter(index) })
    }
}
