//! What an SMSC sends: answers to binds and submits, receipts, messages from phones.

use std::time::Duration;

use rusmpp_core::CommandId;
use simtide_protocol::ids::Msisdn;

use super::Machine;
use crate::smpp::bind::{Bind, InFlight, Role, State, Waiting};
use crate::smpp::delivery;
use crate::smpp::event::{Answer, Connection, LinkEvent, Message, Refusal, StopReason, Submit, Verdict};
use crate::smpp::link::Command;
use crate::smpp::receipt;
use crate::smpp::wire::{self, Header, status};

/// Receipts that came before the answer to their submit and wait for it; one more is reported without its token.
const EARLY_RECEIPTS_MAX: usize = 1_000;

impl Machine {
    /// The bind of a connection, unless the connection is an earlier one.
    pub(super) fn current(&self, connection: Connection) -> Option<usize> {
        let bind = self.binds.get(connection.bind)?;
        (bind.attempt == connection.attempt && bind.is_connected()).then_some(connection.bind)
    }

    pub(super) fn read(&mut self, now: Duration, i: usize, bytes: &[u8]) {
        self.binds[i].heard_at = now;
        self.binds[i].asked_at = None;
        let attempt = self.binds[i].attempt;
        let mut frames = std::mem::take(&mut self.binds[i].frames);
        frames.push(bytes);
        loop {
            match frames.next_pdu() {
                Ok(Some(pdu)) => self.pdu(now, i, pdu),
                Ok(None) => break,
                Err(_) => {
                    self.figures.faults += 1;
                    let out = &mut self.binds[i].out;
                    wire::write_header(out, CommandId::GenericNack, status::INVALID_COMMAND_LENGTH, 0);
                    self.disconnect(now, i);
                }
            }
            // A PDU may have ended the connection; what follows it belongs to nobody.
            if self.binds[i].attempt != attempt || !self.binds[i].is_connected() {
                return;
            }
        }
        self.binds[i].frames = frames;
    }

    fn pdu(&mut self, now: Duration, i: usize, pdu: &[u8]) {
        let header = Header::of(pdu);
        match (self.binds[i].state, header.id) {
            (_, CommandId::EnquireLink) => {
                wire::write_header(&mut self.binds[i].out, CommandId::EnquireLinkResp, 0, header.sequence);
            }
            (State::Binding { sequence, .. }, id) if is_bind_answer(id) || id == CommandId::GenericNack => {
                if header.sequence == sequence || header.sequence == 0 {
                    self.bind_answered(now, i, id, header.status);
                }
            }
            (State::Bound | State::Unbinding { .. }, CommandId::SubmitSmResp | CommandId::GenericNack) => {
                self.submit_answered(now, i, header, pdu);
            }
            (State::Bound | State::Unbinding { .. }, CommandId::DeliverSm | CommandId::DataSm) => {
                self.delivery(i, header, pdu)
            }
            (State::Bound | State::Unbinding { .. }, CommandId::AlertNotification) => {
                match wire::read_alert(pdu) {
                    Some(subscriber) => self.report(LinkEvent::Alert { subscriber }),
                    None => self.figures.faults += 1,
                }
            }
            (_, CommandId::Unbind) => {
                wire::write_header(&mut self.binds[i].out, CommandId::UnbindResp, 0, header.sequence);
                self.disconnect(now, i);
            }
            (State::Unbinding { .. }, CommandId::UnbindResp) => self.disconnect(now, i),
            (_, CommandId::EnquireLinkResp | CommandId::UnbindResp) => {}
            (_, id @ (CommandId::DeliverSm | CommandId::DataSm)) => {
                let out = &mut self.binds[i].out;
                wire::write_deliver_answer(out, id, status::INVALID_BIND_STATUS, header.sequence);
            }
            (_, id) => {
                self.figures.faults += 1;
                // A request that we do not know is refused; an answer to nothing is dropped.
                if u32::from(id) & 0x8000_0000 == 0 && id != CommandId::AlertNotification {
                    let out = &mut self.binds[i].out;
                    wire::write_header(
                        out,
                        CommandId::GenericNack,
                        status::INVALID_COMMAND_ID,
                        header.sequence,
                    );
                }
            }
        }
    }

    fn bind_answered(&mut self, now: Duration, i: usize, id: CommandId, code: u32) {
        if code == status::OK && is_bind_answer(id) {
            self.binds[i].state = State::Bound;
            self.binds[i].failures = 0;
            if self.binds[i].can_send() && !self.up {
                self.up = true;
                self.report(LinkEvent::Up);
            }
            return;
        }
        self.figures.faults += 1;
        let fatal =
            matches!(code, status::BIND_FAILED | status::INVALID_PASSWORD | status::INVALID_SYSTEM_ID);
        let others = self.binds.iter().any(|bind| bind.state == State::Bound);
        if !fatal {
            self.disconnect(now, i);
        } else if others && self.binds[i].role != Role::Receiver {
            // The account allows fewer binds than configured: those that stand go on.
            self.commands.push_back(Command::Close(self.binds[i].connection(i)));
            self.binds[i].state = State::Stopped;
        } else {
            self.shutdown(now, StopReason::Bind(code));
        }
    }

    fn submit_answered(&mut self, now: Duration, i: usize, header: Header, pdu: &[u8]) {
        let Some(in_flight) = self.binds[i].answered(header.sequence) else {
            self.figures.faults += 1;
            return;
        };
        let InFlight { waiting, sent_at } = in_flight;
        let code = match (header.id, header.status) {
            // A nack without a status is still a refusal.
            (CommandId::GenericNack, status::OK) => status::UNKNOWN_ERROR,
            (_, code) => code,
        };
        match code {
            status::OK => self.accepted(now, i, waiting.submit, wire::read_message_id(pdu)),
            status::THROTTLED | status::QUEUE_FULL if self.stopping.is_none() => {
                self.figures.throttled += 1;
                if self.pace.throttled(now, sent_at) {
                    let rate_per_s = self.pace.rate_per_s().unwrap_or_default();
                    self.report(LinkEvent::Throttled { rate_per_s });
                }
                self.pending += 1;
                if waiting.submit.group.is_some() {
                    self.binds[i].held.push_back(waiting);
                } else {
                    self.again.push_back(waiting);
                }
            }
            code => self.refuse(waiting.submit, Refusal::Smsc(code), is_temporary(code)),
        }
        self.maybe_unbind(now, i);
    }

    fn accepted(&mut self, now: Duration, i: usize, submit: Submit, message_id: String) {
        self.figures.accepted += 1;
        self.pace.accepted(now);
        let destination = submit.destination.to_string();
        self.matcher.accepted(submit.token, &message_id, &destination, submit.user_message_reference);
        self.report(LinkEvent::Accepted { token: submit.token, message_id });
        self.release_early(submit.destination);
        let Some(key) = submit.group else { return };
        let Some(group) = self.groups.get_mut(&key) else { return };
        match group.pop_front() {
            Some(next) => self.binds[i].held.push_back(Waiting { submit: next, since: now }),
            None => {
                self.groups.remove(&key);
            }
        }
    }

    /// Reports a message as refused, with all later parts of its group.
    pub(super) fn refuse(&mut self, submit: Submit, cause: Refusal, temporary: bool) {
        self.figures.refused += 1;
        self.report(LinkEvent::Refused { token: submit.token, cause, temporary });
        self.end_group(&submit, temporary);
        self.release_early(submit.destination);
    }

    fn end_group(&mut self, submit: &Submit, temporary: bool) {
        let Some(group) = submit.group.and_then(|key| self.groups.remove(&key)) else { return };
        for part in group {
            self.pending -= 1;
            self.figures.refused += 1;
            self.report(LinkEvent::Refused { token: part.token, cause: Refusal::Group, temporary });
        }
    }

    pub(super) fn unknown(&mut self, submit: Submit) {
        self.figures.unknown += 1;
        self.report(LinkEvent::Unknown { token: submit.token });
        self.end_group(&submit, true);
        self.release_early(submit.destination);
    }

    fn delivery(&mut self, i: usize, header: Header, pdu: &[u8]) {
        let Header { id: request, sequence, .. } = header;
        let read = if request == CommandId::DataSm {
            delivery::read_data(pdu)
        } else {
            delivery::read_delivery(pdu)
        };
        let delivery = match read {
            Ok(delivery) => delivery,
            Err(code) => {
                self.figures.faults += 1;
                return wire::write_deliver_answer(&mut self.binds[i].out, request, code, sequence);
            }
        };
        let Some(mut receipt) = receipt::read(&delivery) else {
            self.figures.messages += 1;
            let answer = Answer { connection: self.binds[i].connection(i), request, sequence };
            return self.report(LinkEvent::Message(Message {
                answer,
                udhi: delivery.esm_class & delivery::UDHI != 0,
                source: delivery.source,
                destination: delivery.destination,
                protocol_id: delivery.protocol_id,
                data_coding: delivery.data_coding,
                user_data: delivery.user_data,
            }));
        };
        // A lost receipt costs a little knowledge and no message, so it is answered without waiting for anybody.
        wire::write_deliver_answer(&mut self.binds[i].out, request, status::OK, sequence);
        self.figures.receipts += 1;
        receipt.token = self.matcher.find(&receipt);
        let is_early = receipt.token.is_none() && self.is_in_flight(&receipt.subscriber.digits);
        if is_early && self.early.len() < EARLY_RECEIPTS_MAX {
            self.early.push(receipt);
        } else {
            self.report(LinkEvent::Receipt(receipt));
        }
    }

    fn is_in_flight(&self, subscriber: &str) -> bool {
        self.binds.iter().flat_map(Bind::window).any(|in_flight| {
            receipt::tail(&in_flight.waiting.submit.destination.to_string()) == receipt::tail(subscriber)
        })
    }

    /// A submit to this subscriber has its outcome: receipts that came before it may be matched now.
    fn release_early(&mut self, destination: Msisdn) {
        if self.early.is_empty() {
            return;
        }
        let destination = &destination.to_string();
        for mut receipt in std::mem::take(&mut self.early) {
            if receipt::tail(&receipt.subscriber.digits) == receipt::tail(destination) {
                receipt.token = self.matcher.find(&receipt);
                if receipt.token.is_none() && self.is_in_flight(destination) {
                    self.early.push(receipt);
                } else {
                    self.report(LinkEvent::Receipt(receipt));
                }
            } else {
                self.early.push(receipt);
            }
        }
    }

    pub(super) fn answer(&mut self, answer: Answer, verdict: Verdict) {
        let Some(i) = self.current(answer.connection) else { return };
        let code = match verdict {
            Verdict::Taken => status::OK,
            Verdict::Later => status::TEMPORARY_APPLICATION,
            Verdict::Refused => status::SYSTEM_ERROR,
        };
        wire::write_deliver_answer(&mut self.binds[i].out, answer.request, code, answer.sequence);
    }
}

fn is_bind_answer(id: CommandId) -> bool {
    matches!(
        id,
        CommandId::BindTransceiverResp | CommandId::BindTransmitterResp | CommandId::BindReceiverResp
    )
}

/// Whether the same submit may be taken later. Codes that only one vendor knows (0x400 and above) may.
fn is_temporary(code: u32) -> bool {
    matches!(
        code,
        status::INVALID_BIND_STATUS
            | status::SYSTEM_ERROR
            | status::QUEUE_FULL
            | status::SUBMIT_FAILED
            | status::THROTTLED
            | status::TEMPORARY_APPLICATION
            | status::DELIVERY_FAILURE
            | status::UNKNOWN_ERROR
            | 0x400..
    )
}
