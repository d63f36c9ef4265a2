//! The proof of receipt, and the two ways that it can take.

use simtide_protocol::apdu::StatusWord;
use simtide_protocol::ids::Tar;
use simtide_protocol::profile::{PorPadding, Scp80Behaviour};
use simtide_protocol::scp80::{
    Counter, KeySet, PaddingOctets, PorRequest, ResponseHeader, ResponseStatus, Security, response_capacity,
    seal_response,
};
use simtide_protocol::sms::{Address, PacketKind, Reference, Submit, USER_DATA_SIZE_MAX, UserData, segment};

use super::receiver::{Keyring, Receiver};

/// Most octets of user data in an SMS-DELIVER-REPORT (3GPP TS 23.040, 9.2.2.1a: RP-ACK).
const REPORT_SIZE_MAX: usize = 131;
/// Short messages that a proof of receipt takes at most.
pub const MESSAGES_MAX: usize = 4;
/// Largest response packet: as many short messages.
const PACKET_SIZE_MAX: usize = 132 + (MESSAGES_MAX - 1) * 134;
/// `02 71 00` before a response in one message.
const HEADER_SIZE: usize = 3;

/// How a command wants to be answered, and whether.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub(super) security: Security,
    pub(super) tar: Tar,
    pub(super) counter: Counter,
    /// The key set that protects the answer; `None`: it goes in the clear.
    pub(super) key_index: Option<u8>,
    pub(super) originator: Address,
    pub(super) behaviour: Scp80Behaviour,
}

/// What the card gives the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Response data of the ENVELOPE: the user data of the SMS-DELIVER-REPORT. Empty: none.
    pub report: Vec<u8>,
    /// Status word of the ENVELOPE, unless a proactive command waits (`91xx`).
    pub status: StatusWord,
    /// Messages for SEND SHORT MESSAGE, in their order.
    pub submits: Vec<Submit>,
}

impl Delivery {
    /// Nothing to send, and this status word.
    pub fn silent(status: StatusWord) -> Self {
        Self { report: Vec::new(), status, submits: Vec::new() }
    }
}

impl Reply {
    /// How many bytes an application may answer so that the proof of receipt takes at most what this card sends.
    /// Where none is wanted there is no limit worth a name, and the same number comes out.
    pub fn capacity(&self, keys: &dyn Keyring) -> usize {
        let no_keys = KeySet::new(None, None);
        let packet = if self.behaviour.single_sms_por {
            let user_data =
                if self.security.spi.por_by_submit() { USER_DATA_SIZE_MAX } else { REPORT_SIZE_MAX };
            user_data - HEADER_SIZE
        } else {
            PACKET_SIZE_MAX
        };
        response_capacity(packet, &self.security, self.key_set(keys).unwrap_or(&no_keys))
    }

    /// Answers with what the application said.
    pub fn answer(&self, receiver: &mut Receiver, keys: &dyn Keyring, data: &[u8]) -> Delivery {
        let data = &data[..data.len().min(self.capacity(keys))];
        self.deliver(receiver, keys, ResponseStatus::PorOk, data)
    }

    /// Answers with a status other than "ok": the application found no memory, or needs more time.
    pub fn answer_status(
        &self,
        receiver: &mut Receiver,
        keys: &dyn Keyring,
        status: ResponseStatus,
    ) -> Delivery {
        self.deliver(receiver, keys, status, &[])
    }

    /// Answers the ENVELOPE with 0B; the proof proper is to follow from [`Reply::answer_later`].
    pub fn announce(&self, keys: &dyn Keyring) -> Delivery {
        if self.is_wanted(ResponseStatus::PorOk) {
            self.announcement(keys)
        } else {
            Delivery::silent(StatusWord::OK)
        }
    }

    /// Says nothing yet, or that the proof proper is to follow, as the command asked for its way: for an application that
    /// has to wait for somebody. [`Reply::answer_later`] follows.
    pub fn postpone(&self, keys: &dyn Keyring) -> Delivery {
        if self.security.spi.por_by_submit() && !self.behaviour.announces_por_by_submit {
            Delivery::silent(StatusWord::OK)
        } else {
            self.announce(keys)
        }
    }

    /// Answers by SMS-SUBMIT, whatever was asked for: after [`Reply::announce`] or [`Reply::postpone`].
    pub fn answer_later(&self, receiver: &mut Receiver, keys: &dyn Keyring, data: &[u8]) -> Vec<Submit> {
        if !self.is_wanted(ResponseStatus::PorOk) {
            return Vec::new();
        }
        let data = &data[..data.len().min(self.capacity(keys))];
        self.submits(receiver, &self.seal(keys, ResponseStatus::PorOk, data))
    }

    /// Answers a command that no application got to see.
    pub(super) fn refuse(
        &self,
        receiver: &mut Receiver,
        keys: &dyn Keyring,
        status: ResponseStatus,
    ) -> Delivery {
        if self.behaviour.silent_on_security_error {
            return Delivery::silent(StatusWord::WARNING);
        }
        self.deliver(receiver, keys, status, &[])
    }

    fn deliver(
        &self,
        receiver: &mut Receiver,
        keys: &dyn Keyring,
        status: ResponseStatus,
        data: &[u8],
    ) -> Delivery {
        if !self.is_wanted(status) {
            return Delivery::silent(StatusWord::OK);
        }
        let packet = self.seal(keys, status, data);
        if self.security.spi.por_by_submit() {
            let mut delivery = if self.behaviour.announces_por_by_submit {
                self.announcement(keys)
            } else {
                Delivery::silent(StatusWord::OK)
            };
            delivery.submits = self.submits(receiver, &packet);
            return delivery;
        }
        if HEADER_SIZE + packet.len() <= REPORT_SIZE_MAX {
            return Delivery { report: in_one_message(&packet), ..Delivery::silent(StatusWord::OK) };
        }
        // ETSI TS 102 226: what does not fit the report follows in messages of its own.
        Delivery { submits: self.submits(receiver, &packet), ..self.announcement(keys) }
    }

    fn is_wanted(&self, status: ResponseStatus) -> bool {
        match self.security.spi.por() {
            PorRequest::Always => true,
            PorRequest::OnError => status != ResponseStatus::PorOk,
            PorRequest::None | PorRequest::Reserved => false,
        }
    }

    fn announcement(&self, keys: &dyn Keyring) -> Delivery {
        let packet = self.seal(keys, ResponseStatus::ResponseFollows, &[]);
        Delivery { report: in_one_message(&packet), ..Delivery::silent(StatusWord::OK) }
    }

    fn key_set<'k>(&self, keys: &'k dyn Keyring) -> Option<&'k KeySet> {
        self.key_index.and_then(|index| keys.key_set(index))
    }

    /// Seals as asked; in the clear where there is no key for that, or none that strangers should see used.
    fn seal(&self, keys: &dyn Keyring, status: ResponseStatus, data: &[u8]) -> Vec<u8> {
        let header = ResponseHeader { tar: self.tar, counter: self.counter, status };
        let padding = match self.behaviour.por_padding {
            PorPadding::Zeros => PaddingOctets::Zeros,
            PorPadding::Iso => PaddingOctets::EightyThenZeros,
        };
        let protected = self
            .key_set(keys)
            .and_then(|key_set| seal_response(&header, &self.security, key_set, data, padding).ok());
        protected.unwrap_or_else(|| {
            let mut plain = self.security;
            // ETSI TS 102 225, 5.1.1: bits 3 to 5 of the second octet, what protects the answer.
            plain.spi.second &= !0x1C;
            // Invariant: nothing but a missing key or too much data can fail, and neither is here.
            seal_response(&header, &plain, &KeySet::new(None, None), data, padding).unwrap_or_default()
        })
    }

    fn submits(&self, receiver: &mut Receiver, packet: &[u8]) -> Vec<Submit> {
        let reference = Reference::after(receiver.reference);
        let parts = segment(packet, PacketKind::Response, reference).unwrap_or_default();
        if parts.len() > 1
            && let Reference::Narrow(used) = reference
        {
            receiver.reference = used.get();
        }
        parts
            .into_iter()
            .filter_map(|part| UserData::from_octets(part).ok())
            .map(|user_data| Submit::with_header(0, self.originator.clone(), user_data))
            .collect()
    }
}

/// The user data of a response that fits one message.
fn in_one_message(packet: &[u8]) -> Vec<u8> {
    [&simtide_protocol::scp80::RESPONSE_UDH[..], packet].concat()
}
