//! The SAT module: hands sealed packets from the inbound queue to the card as short messages that the network could have
//! sent, so that a card that knows nothing of IP takes them.
//!
//! It sets the originating address, cuts the packet into SMS-DELIVERs (3GPP TS 31.115, 4), and gives them to the
//! [`Device`](crate::Device) one after the other; the device makes the ENVELOPEs and deals with 91xx, 61xx, 9300 and
//! REFRESH as with any message.
//!
//! | state | what it waits for | accepted | next |
//! |---|---|---|---|
//! | `Resting` | a packet | `deliver` | `Handing` |
//! | `Handing` | the report on one part | `reported` | `Handing` (next part), `Settling`, `Resting` |
//! | `Settling` | the card's own messages, until the device is idle | `idle` | `Resting` |

use std::collections::VecDeque;

use simtide_protocol::ids::EpochMs;
use simtide_protocol::second_layer::{Item, ItemId};
use simtide_protocol::sms::{
    Address, Deliver, PacketKind, Reference, SegmentError, SmsError, Submit, Timestamp, UserData, segment,
};

use crate::event::SmsReport;
use crate::inbound::CardKey;

/// The messages of this module have ids from here on; those of the network are below.
const IDS_FROM: u64 = 1 << 63;

/// TP-FCS of a card that was busy, or of a device that lost it: the packet waits.
const CAUSE_BUSY: u8 = 0xD4;
/// TP-FCS: the device's own queue was full.
const CAUSE_MEMORY: u8 = 0xD3;

/// Hands one packet at a time to the card.
#[derive(Debug, Default)]
pub struct Sat {
    state: State,
    /// The last reference of parts.
    reference: u8,
    /// The last id of a message.
    last: u64,
    /// The originating address of the last packet: what the card sends there belongs to this bearer.
    address: Option<Address>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Resting,
    Handing(Handing),
    Settling(Handed),
}

#[derive(Debug)]
struct Handing {
    handed: Handed,
    /// The message that the device has now.
    id: u64,
    /// What follows it.
    parts: VecDeque<Vec<u8>>,
}

/// Which packet of which card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// The card.
    pub card: CardKey,
    /// The item.
    pub item: ItemId,
}

/// A message for the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Comes back in the report.
    pub id: u64,
    /// The SMS-DELIVER.
    pub tpdu: Vec<u8>,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It is no report on what is being handed over.
    Foreign,
    /// The next part.
    Next(Part),
    /// The card has answered: what it said, empty where it said nothing. The packet is done with.
    Answered(Handed, Vec<u8>),
    /// The card took it without an answer of its own: its messages may follow until it is idle.
    Settling,
    /// Nobody took it: it waits in the queue.
    Waits(Handed),
    /// The card refused it without a word, which nobody upstream can match: it is done with.
    Refused(Handed, u8),
}

/// Why a packet cannot become short messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SatError {
    /// The originating address.
    #[error("the originating address cannot be set: {0}")]
    Address(SmsError),
    /// The packet.
    #[error("the packet cannot be cut into short messages: {0}")]
    Packet(SegmentError),
}

impl Sat {
    /// Whether a packet can be handed over.
    pub fn is_resting(&self) -> bool {
        matches!(self.state, State::Resting)
    }

    /// The packet that is with the card.
    pub fn current(&self) -> Option<&Handed> {
        match &self.state {
            State::Resting => None,
            State::Handing(handing) => Some(&handing.handed),
            State::Settling(handed) => Some(handed),
        }
    }

    /// Starts to hand a packet over; the first part is for the device. Only while resting.
    pub fn deliver(&mut self, now: EpochMs, card: CardKey, item: &Item) -> Result<Part, SatError> {
        let address = Address::number(&item.originating_address).map_err(SatError::Address)?;
        // Parts of two packets never share a reference.
        let reference = Reference::after(self.reference);
        self.reference = self.reference.wrapping_add(1).max(1);
        let user_data = segment(&item.packet, PacketKind::Command, reference).map_err(SatError::Packet)?;
        let timestamp = Timestamp::from_epoch(now);
        let mut parts = VecDeque::with_capacity(user_data.len());
        for octets in user_data {
            let user_data = UserData::from_octets(octets).map_err(SatError::Address)?;
            parts.push_back(Deliver::data_download(address.clone(), timestamp, user_data).to_bytes());
        }
        self.address = Some(address);
        let first = parts.pop_front().unwrap_or_default();
        let part = self.part(first);
        let handed = Handed { card, item: item.id.clone() };
        self.state = State::Handing(Handing { handed, id: part.id, parts });
        Ok(part)
    }

    /// What the device says of a message.
    pub fn reported(&mut self, id: u64, report: &SmsReport, proof_wanted: bool) -> Progress {
        match std::mem::take(&mut self.state) {
            State::Handing(handing) if handing.id == id => self.part_reported(handing, report, proof_wanted),
            other => {
                self.state = other;
                Progress::Foreign
            }
        }
    }

    fn part_reported(&mut self, mut handing: Handing, report: &SmsReport, proof_wanted: bool) -> Progress {
        match report {
            SmsReport::Accepted(answer) => match handing.parts.pop_front() {
                Some(tpdu) => {
                    let part = self.part(tpdu);
                    handing.id = part.id;
                    self.state = State::Handing(handing);
                    Progress::Next(part)
                }
                None if answer.is_empty() && proof_wanted => {
                    self.state = State::Settling(handing.handed);
                    Progress::Settling
                }
                None => Progress::Answered(handing.handed, answer.clone()),
            },
            SmsReport::Refused { cause: CAUSE_BUSY | CAUSE_MEMORY, data } if data.is_empty() => {
                Progress::Waits(handing.handed)
            }
            SmsReport::Refused { cause, data } if data.is_empty() => {
                Progress::Refused(handing.handed, *cause)
            }
            SmsReport::Refused { data, .. } => Progress::Answered(handing.handed, data.clone()),
        }
    }

    /// The device has nothing under way: what the card wanted to send has been sent.
    pub fn idle(&mut self) -> Option<Handed> {
        match std::mem::take(&mut self.state) {
            State::Settling(handed) => Some(handed),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// The card is gone; what was being handed over stays in the queue.
    pub fn card_gone(&mut self) {
        self.state = State::Resting;
        self.address = None;
    }

    /// Whether a message of the card is addressed to where its last packet came from.
    pub fn is_addressed(&self, submit: &[u8]) -> bool {
        let Some(address) = &self.address else { return false };
        Submit::from_bytes(submit).is_ok_and(|submit| submit.destination.number == address.number)
    }

    /// Whether this id is one of this module's.
    pub fn owns(id: u64) -> bool {
        id >= IDS_FROM
    }

    fn part(&mut self, tpdu: Vec<u8>) -> Part {
        self.last = self.last.wrapping_add(1) & !IDS_FROM;
        Part { id: IDS_FROM | self.last, tpdu }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simtide_protocol::sms::UserDataHeader;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    fn card() -> CardKey {
        CardKey::Iccid("8988211000000000011".parse().unwrap())
    }

    fn item(bytes: usize) -> Item {
        Item {
            id: "00000000000000a1-1".parse().unwrap(),
            packet: (0..bytes).map(|at| at as u8).collect(),
            originating_address: "+436640001234".into(),
            proof_wanted: true,
        }
    }

    #[test]
    fn parts_carry_the_packet_and_its_address() {
        let mut sat = Sat::default();
        let item = item(500);
        let handed = Handed { card: card(), item: item.id.clone() };
        let mut part = sat.deliver(NOW, card(), &item).unwrap();
        let mut packet = Vec::new();
        let progress = loop {
            let deliver = Deliver::from_bytes(&part.tpdu).unwrap();
            assert!(deliver.is_for_card() && deliver.has_header && Sat::owns(part.id));
            assert_eq!((deliver.originator.kind, deliver.originator.number.as_str()), (0x91, "436640001234"));
            let (header, body) = UserDataHeader::split(&deliver.user_data.octets).unwrap();
            assert_eq!(header.contains(0x70), packet.is_empty());
            packet.extend_from_slice(body);
            assert_eq!(sat.reported(part.id + 9, &SmsReport::Accepted(Vec::new()), true), Progress::Foreign);
            match sat.reported(part.id, &SmsReport::Accepted(Vec::new()), true) {
                Progress::Next(next) => part = next,
                other => break other,
            }
        };
        assert_eq!(packet, item.packet);
        assert_eq!(progress, Progress::Settling);
        assert_eq!(sat.current(), Some(&handed));
        assert_eq!(sat.idle(), Some(handed));
        assert!(sat.is_resting() && sat.idle().is_none());
    }

    #[test]
    fn what_the_card_says_decides() {
        let of = |report: SmsReport, wanted: bool| {
            let mut sat = Sat::default();
            let part = sat.deliver(NOW, card(), &item(20)).unwrap();
            sat.reported(part.id, &report, wanted)
        };
        let handed = Handed { card: card(), item: item(0).id };
        let refused = |cause, data: &[u8]| SmsReport::Refused { cause, data: data.to_vec() };
        assert_eq!(of(SmsReport::Accepted(vec![2]), true), Progress::Answered(handed.clone(), vec![2]));
        assert_eq!(of(SmsReport::Accepted(vec![]), false), Progress::Answered(handed.clone(), vec![]));
        assert_eq!(of(refused(0xD4, &[]), true), Progress::Waits(handed.clone()));
        assert_eq!(of(refused(0xD3, &[]), true), Progress::Waits(handed.clone()));
        assert_eq!(of(refused(0xD5, &[]), true), Progress::Refused(handed.clone(), 0xD5));
        assert_eq!(of(refused(0xD5, &[2, 0x71]), true), Progress::Answered(handed, vec![2, 0x71]));
    }

    #[test]
    fn what_cannot_be_a_message_is_refused() {
        let mut sat = Sat::default();
        let mut wrong = item(20);
        wrong.originating_address = "nobody".into();
        assert!(matches!(sat.deliver(NOW, card(), &wrong), Err(SatError::Address(_))));
        assert!(matches!(sat.deliver(NOW, card(), &item(255 * 134)), Err(SatError::Packet(_))));
        assert!(sat.is_resting());
    }

    #[test]
    fn messages_to_the_originating_address_are_known() {
        let mut sat = Sat::default();
        let submit = |number: &str| {
            let data = UserData::from_octets(vec![0]).unwrap();
            Submit::with_header(1, Address::number(number).unwrap(), data).to_bytes()
        };
        assert!(!sat.is_addressed(&submit("+436640001234")));
        sat.deliver(NOW, card(), &item(20)).unwrap();
        assert!(sat.is_addressed(&submit("+436640001234")) && sat.is_addressed(&submit("436640001234")));
        assert!(!sat.is_addressed(&submit("+436640001235")) && !sat.is_addressed(&[]));
        sat.card_gone();
        assert!(!sat.is_addressed(&submit("+436640001234")));
    }
}
