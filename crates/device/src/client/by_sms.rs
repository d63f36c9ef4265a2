//! What waits in the outbound queue while IP stays away leaves by short message: the same proof, to the originating
//! address that the SAT module had set (3GPP TS 31.115, 4.3).
//!
//! | state | what it waits for | accepted | next |
//! |---|---|---|---|
//! | `None` | IP away for the set time, coverage, an answer that no service centre has taken, the end of a pause | [`Client::send_by_sms`] | `Sending` |
//! | `Sending` | the service centre's answer for one part | `Submitted` | `Sending` (next part), `None` (taken, or refused: a pause) |
//! | | the network | `Coverage(false)` | `None`: from the first part again |
//!
//! An answer that a service centre has taken does not leave by short message again; it stays in the queue and goes over
//! IP when that is back, until the server has acknowledged it. Whichever comes first counts, the other changes nothing.

use std::collections::VecDeque;

use simtide_protocol::ids::EpochMs;
use simtide_protocol::scp80::RESPONSE_UDH;
use simtide_protocol::second_layer::UplinkContent;
use simtide_protocol::sms::{Address, PacketKind, Reference, Submit, UserData, segment};

use super::schedule::{JITTER_PERCENT, RETRY_S_MAX};
use super::{Client, ClientNotice, Command, Random};
use crate::outbound::Pending;

/// First pause after a service centre has not taken a message, in seconds; it doubles up to [`RETRY_S_MAX`].
pub const SMS_RETRY_S_MIN: u32 = 60;

/// The way back by short message.
#[derive(Debug, Default)]
pub(super) struct BySms {
    /// The network has registered the device.
    covered: bool,
    /// IP has been away since a while; by then for too long.
    due: Option<EpochMs>,
    /// No message leaves before.
    not_before: Option<EpochMs>,
    failures: u32,
    sending: Option<Box<Sending>>,
    /// The number of the last message.
    last: u32,
    /// The last reference of parts.
    parts: u8,
}

/// An answer whose parts are with the service centre one after the other.
#[derive(Debug)]
struct Sending {
    n: u64,
    reference: u32,
    rest: VecDeque<Vec<u8>>,
}

impl Client {
    /// An exchange with the server came to nothing.
    pub(super) fn ip_is_away(&mut self, now: EpochMs, random: u32) {
        let wait_s = self.settings.sms_after_s;
        if wait_s > 0 && self.by_sms.due.is_none() {
            self.by_sms.due = Some(later(now, wait_s, random));
        }
    }

    /// The server has answered as it should.
    pub(super) fn ip_is_back(&mut self) {
        self.by_sms.due = None;
    }

    pub(super) fn coverage(&mut self, covered: bool) {
        self.by_sms.covered = covered;
        if !covered {
            self.by_sms.sending = None;
        }
    }

    /// What was under way was another card's.
    pub(super) fn forget_messages(&mut self) {
        let BySms { covered, last, parts, .. } = std::mem::take(&mut self.by_sms);
        self.by_sms = BySms { covered, last, parts, ..BySms::default() };
    }

    /// When the next message may leave, where one waits.
    pub(super) fn next_message_at(&self) -> Option<EpochMs> {
        let BySms { covered: true, due: Some(due), not_before, sending: None, .. } = &self.by_sms else {
            return None;
        };
        self.queues.outbound().unsent_of(self.card?.key).next()?;
        Some(not_before.map_or(*due, |at| at.max(*due)))
    }

    /// Sends the oldest answer, one at a time.
    pub(super) fn send_by_sms(&mut self, now: EpochMs) {
        self.by_sms.keep_near(now, self.settings.sms_after_s);
        if self.next_message_at().is_none_or(|at| at > now) {
            return;
        }
        let Some(card) = self.card else { return };
        let reference = Reference::after(self.by_sms.parts);
        let as_messages = |uplink: &Pending| Some((uplink.n, messages(&uplink.content, reference)?));
        let first = self.queues.outbound().unsent_of(card.key).find_map(as_messages);
        let Some((n, rest)) = first else { return };
        self.by_sms.parts = self.by_sms.parts.wrapping_add(1).max(1);
        self.by_sms.sending = Some(Box::new(Sending { n, reference: 0, rest }));
        self.send_part();
    }

    fn send_part(&mut self) {
        let Some(sending) = self.by_sms.sending.as_mut() else { return };
        let Some(mut tpdu) = sending.rest.pop_front() else { return };
        self.by_sms.last = self.by_sms.last.wrapping_add(1);
        sending.reference = self.by_sms.last;
        if let Some(reference) = tpdu.get_mut(1) {
            // TP-MR counts modulo 256 (3GPP TS 23.040, 9.2.3.6).
            *reference = sending.reference.to_be_bytes()[3];
        }
        self.commands.push_back(Command::SubmitSms { reference: sending.reference, tpdu });
    }

    /// The service centre has answered for a message.
    pub(super) fn submitted(&mut self, now: EpochMs, random: Random<'_>, reference: u32, accepted: bool) {
        let ours = self.by_sms.sending.take_if(|sending| sending.reference == reference);
        let (Some(sending), Some(card)) = (ours, self.card) else { return };
        if !accepted {
            let doubled_s = SMS_RETRY_S_MIN.saturating_mul(1 << self.by_sms.failures.min(16));
            self.by_sms.failures = self.by_sms.failures.saturating_add(1);
            let pause_s = doubled_s.min(RETRY_S_MAX);
            self.by_sms.not_before = Some(later(now, pause_s, super::number(random)));
        } else if sending.rest.is_empty() {
            (self.by_sms.failures, self.by_sms.not_before) = (0, None);
            self.queues.taken(card.key, sending.n);
            self.commands.push_back(Command::Notice(ClientNotice::SentBySms(sending.n)));
        } else {
            self.by_sms.sending = Some(sending);
            self.send_part();
        }
    }
}

impl BySms {
    /// A clock that was set back must not keep an answer for years.
    fn keep_near(&mut self, now: EpochMs, wait_s: u32) {
        let far = now.plus_s(2 * i64::from(wait_s.max(RETRY_S_MAX)));
        for at in [&mut self.due, &mut self.not_before] {
            if at.is_some_and(|at| at > far) {
                *at = Some(now);
            }
        }
    }
}

/// So many seconds from now, and up to [`JITTER_PERCENT`] more: a server that is away for all is not left by all at once.
fn later(now: EpochMs, seconds: u32, random: u32) -> EpochMs {
    let jitter_ms = u64::from(random) % (u64::from(seconds) * 10 * u64::from(JITTER_PERCENT) + 1);
    now.plus_s(seconds.into()).plus_ms(jitter_ms as i64)
}

/// The SMS-SUBMITs that say this: a card's own as it is, a proof as the card would have sent it. `None` where it cannot be
/// one.
fn messages(content: &UplinkContent, reference: Reference) -> Option<VecDeque<Vec<u8>>> {
    let (address, packet) = match content {
        UplinkContent::Submit { tpdu } => return Some([tpdu.clone()].into()),
        UplinkContent::Proof { originating_address, packet, .. } => (originating_address, packet),
    };
    let address = Address::number(address).ok()?;
    let packet = packet.strip_prefix(&RESPONSE_UDH).unwrap_or(packet);
    let parts = segment(packet, PacketKind::Response, reference).ok()?;
    let message = |octets| {
        let user_data = UserData::from_octets(octets).ok()?;
        Some(Submit::with_header(0, address.clone(), user_data).to_bytes())
    };
    parts.into_iter().map(message).collect()
}
