//! Platforms: binds, submits, deliveries.

use std::time::Duration;

use rusmpp_core::CommandId;
use simtide_protocol::ids::Msisdn;

use super::{Bound, Command, Core, Due, Message, Moment, OUTBOX_MAX, Origin, Session};
use crate::smsc::esme::{self, Bind, Delivery, Inbound, Request, Submission, status};
use crate::smsc::receipt;
use crate::smsc::record::Happened;

/// Longest TP-UD (3GPP TS 23.040, 9.2.3.24).
const USER_DATA_BYTES_MAX: usize = 140;

impl Core {
    /// A platform has connected.
    pub fn platform_connected(&mut self, session: u64) {
        self.sessions.insert(session, Session::default());
    }

    /// A platform's connection is gone.
    pub fn platform_lost(&mut self, now: Moment, session: u64) {
        let Some(gone) = self.sessions.remove(&session) else { return };
        let Some(bound) = gone.bound else { return };
        // What it had not acknowledged goes to its next bind, oldest first.
        let mut unanswered: Vec<(u32, Delivery)> = gone.window.into_iter().collect();
        unanswered.sort_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
        let outbox = self.outboxes.entry(bound.system_id.clone()).or_default();
        for (_, delivery) in unanswered {
            outbox.push_front(delivery);
        }
        self.flush(now, &bound.system_id);
    }

    /// A platform has sent bytes.
    pub fn platform_bytes(&mut self, now: Moment, session: u64, bytes: &[u8]) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.stream.extend_from_slice(bytes);
        while let Some(known) = self.sessions.get_mut(&session) {
            match esme::next(&mut known.stream) {
                Ok(Some(inbound)) => self.pdu(now, session, inbound),
                Ok(None) => return,
                Err(_) => {
                    let nack = CommandId::GenericNack.into();
                    esme::write_header(&mut known.out, nack, status::COMMAND_LENGTH, 0);
                    return self.close(now, session);
                }
            }
        }
    }

    /// Writes what is left, closes, and forgets.
    fn close(&mut self, now: Moment, session: u64) {
        if let Some(known) = self.sessions.get_mut(&session) {
            let out = std::mem::take(&mut known.out);
            self.commands.push_back(Command::ToPlatform(session, out));
            self.commands.push_back(Command::ClosePlatform(session));
            self.platform_lost(now, session);
        }
    }

    fn pdu(&mut self, now: Moment, session: u64, inbound: Inbound) {
        let Inbound { id, status: code, sequence, request } = inbound;
        let Some(known) = self.sessions.get_mut(&session) else { return };
        match request {
            Request::Bind(bind) => self.bind(now, session, id, sequence, bind),
            Request::Submit(sm) => self.submit(now, session, sequence, sm),
            Request::EnquireLink => {
                esme::write_header(&mut known.out, CommandId::EnquireLinkResp.into(), status::OK, sequence);
            }
            Request::Unbind => {
                esme::write_header(&mut known.out, CommandId::UnbindResp.into(), status::OK, sequence);
                self.close(now, session);
            }
            Request::DeliverAnswer => {
                self.deliver_answered(now, session, sequence, code != status::TEMPORARY_APPLICATION);
            }
            Request::Answer => {}
            Request::Other => {
                let nack = CommandId::GenericNack.into();
                esme::write_header(&mut known.out, nack, status::COMMAND_ID, sequence);
            }
            Request::Broken(code) => {
                esme::write_header(&mut known.out, u32::from(id) | 0x8000_0000, code, sequence);
            }
        }
    }

    fn bind(&mut self, now: Moment, session: u64, id: CommandId, sequence: u32, bind: Bind) {
        let account = self.settings.accounts.iter().find(|account| account.system_id == bind.system_id);
        let bound_already = self
            .sessions
            .values()
            .filter(|session| session.bound.as_ref().is_some_and(|b| b.system_id == bind.system_id))
            .count();
        let Some(known) = self.sessions.get_mut(&session) else { return };
        let code = match account {
            _ if known.bound.is_some() => status::ALREADY_BOUND,
            None => status::SYSTEM_ID,
            Some(account) if account.password != bind.password => status::PASSWORD,
            Some(account) if bound_already >= account.binds_max => status::BIND_FAILED,
            Some(_) => status::OK,
        };
        esme::write_bind_answer(&mut known.out, id, code, sequence);
        if code == status::OK {
            let Bind { sends, receives, system_id, .. } = bind;
            known.bound = Some(Bound { system_id: system_id.clone(), sends, receives });
            self.flush(now, &system_id);
        }
    }

    fn submit(&mut self, now: Moment, session: u64, sequence: u32, sm: Submission) {
        self.submits += 1;
        if self.is_throttled(now, session, sequence, &sm) {
            return;
        }
        let message = match self.message(now, session, sequence, &sm) {
            Ok(message) => message,
            Err(code) => {
                self.record(now, Happened::Refused, 0, &sm);
                if let Some(known) = self.sessions.get_mut(&session) {
                    esme::write_submit_answer(&mut known.out, code, sequence, "");
                }
                return;
            }
        };
        if self.faults.drop_at_submit.is_some() && self.withhold(now, session, message.clone()) {
            return;
        }
        self.figures.submitted += 1;
        self.record(now, Happened::Submitted, self.messages_total + 1, &sm);
        let answers_later = matches!(message.origin, Origin::Platform { answer: Some(_), .. });
        let id = receipt::id_in_answer(self.settings.message_ids, self.messages_total + 1);
        if let Some(known) = self.sessions.get_mut(&session)
            && !answers_later
        {
            esme::write_submit_answer(&mut known.out, status::OK, sequence, &id);
        }
        self.store(now, message);
    }

    /// The message of a submit, or the status that refuses it.
    fn message(&mut self, now: Moment, session: u64, sequence: u32, sm: &Submission) -> Result<Message, u32> {
        let bound = self.sessions.get(&session).and_then(|known| known.bound.as_ref());
        let Some(bound) = bound.filter(|bound| bound.sends) else { return Err(status::BIND_STATUS) };
        let subscriber: Msisdn = sm.destination.parse().map_err(|_| status::DESTINATION)?;
        if sm.user_data.len() > USER_DATA_BYTES_MAX {
            return Err(status::MESSAGE_LENGTH);
        }
        if self.messages.len() >= self.settings.messages_max {
            return Err(status::QUEUE_FULL);
        }
        let expires = receipt::expiry(&sm.validity, now.clock).map_err(|()| status::EXPIRY)?;
        let is_transaction = sm.esm_class & 0x03 == 0x02;
        let system_id = bound.system_id.clone();
        let is_absent = self.subscribers.get(&subscriber).is_none_or(|known| known.at.is_none());
        if is_transaction && is_absent {
            self.subscribers.entry(subscriber).or_default().awaited_by.insert(system_id);
            return Err(status::DELIVERY_FAILURE);
        }
        let answers_later = is_transaction || self.faults.receipt_before_answer;
        Ok(Message {
            origin: Origin::Platform { system_id, answer: answers_later.then_some((session, sequence)) },
            sm: sm.clone(),
            subscriber,
            submitted: now.clock,
            expires: expires.unwrap_or(now.clock.plus_s(self.settings.validity_s.into())),
        })
    }

    fn is_throttled(&mut self, now: Moment, session: u64, sequence: u32, sm: &Submission) -> bool {
        let Some(limit) = self.faults.throttle_above_per_s else { return false };
        while self.recent.front().is_some_and(|&at| at + Duration::from_secs(1) <= now.real) {
            self.recent.pop_front();
        }
        if self.recent.len() < limit as usize {
            self.recent.push_back(now.real);
            return false;
        }
        self.figures.throttled += 1;
        self.record(now, Happened::Throttled, 0, sm);
        let code =
            if self.faults.throttle_status == 0 { status::THROTTLED } else { self.faults.throttle_status };
        if let Some(known) = self.sessions.get_mut(&session) {
            let id =
                if self.faults.throttle_by_nack { CommandId::GenericNack } else { CommandId::SubmitSmResp };
            esme::write_header(&mut known.out, id.into(), code, sequence);
        }
        true
    }

    /// Keeps the answers before a planned loss of the connection, and drops it at its submit.
    fn withhold(&mut self, now: Moment, session: u64, message: Message) -> bool {
        let Some(at) = self.faults.drop_at_submit else { return false };
        if self.submits > at || self.submits + self.faults.drop_window.max(1) <= at {
            return false;
        }
        self.record(now, Happened::Dropped, 0, &message.sm);
        if self.faults.drop_delivers {
            self.store(now, message);
        }
        if self.submits == at {
            self.faults.drop_at_submit = None;
            self.commands.push_back(Command::DropPlatform(session));
            self.platform_lost(now, session);
        }
        true
    }

    /// Answers a submit whose answer waited for the device.
    pub(super) fn answer_transaction(&mut self, number: u64, delivered: bool) {
        let Some(message) = self.messages.get_mut(&number) else { return };
        let Origin::Platform { answer, .. } = &mut message.origin else { return };
        let Some((session, sequence)) = answer.take() else { return };
        let Some(known) = self.sessions.get_mut(&session) else { return };
        let code = if delivered { status::OK } else { status::DELIVERY_FAILURE };
        let id = receipt::id_in_answer(self.settings.message_ids, number);
        esme::write_submit_answer(&mut known.out, code, sequence, &id);
    }

    /// Hands a delivery to an account, now or when it binds.
    pub(super) fn send(&mut self, now: Moment, system_id: &str, delivery: Delivery) {
        let outbox = self.outboxes.entry(system_id.to_owned()).or_default();
        if outbox.len() >= OUTBOX_MAX {
            outbox.pop_front();
        }
        outbox.push_back(delivery);
        self.flush(now, system_id);
    }

    /// Writes what an account's binds have room for, evenly.
    fn flush(&mut self, now: Moment, system_id: &str) {
        let Some(outbox) = self.outboxes.get_mut(system_id) else { return };
        let timeout = Duration::from_secs(self.settings.answer_timeout_s.into());
        while !outbox.is_empty() {
            let free = self.sessions.iter_mut().filter(|(_, session)| {
                let receives = session.bound.as_ref().is_some_and(|b| b.receives && b.system_id == system_id);
                receives && session.window.len() < self.settings.window
            });
            let Some((&id, session)) = free.min_by_key(|(_, session)| session.window.len()) else { return };
            let Some(delivery) = outbox.pop_front() else { return };
            session.sequence = session.sequence % 0x7FFF_FFFF + 1;
            esme::write_delivery(&mut session.out, session.sequence, &delivery);
            session.window.insert(session.sequence, delivery);
            self.by_real.insert((now.real + timeout, Due::AnswerMissing(id, session.sequence)));
        }
    }

    /// A deliver_sm was answered (or its answer is missing); what was not taken is sent again.
    pub(super) fn deliver_answered(&mut self, now: Moment, session: u64, sequence: u32, taken: bool) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        let Some(delivery) = known.window.remove(&sequence) else { return };
        let Some(bound) = &known.bound else { return };
        let system_id = bound.system_id.clone();
        if !taken {
            self.outboxes.entry(system_id.clone()).or_default().push_back(delivery);
        } else if delivery.esm_class & 0x3C == 0 {
            let sm = Submission {
                source_ton: delivery.source.0,
                source_npi: delivery.source.1,
                source: delivery.source.2,
                destination: delivery.destination.2,
                esm_class: delivery.esm_class,
                protocol_id: delivery.protocol_id,
                data_coding: delivery.data_coding,
                validity: String::new(),
                registered_delivery: 0,
                reference: None,
                user_data: delivery.user_data,
            };
            self.record(now, Happened::Taken, 0, &sm);
        }
        self.flush(now, &system_id);
    }

    /// Tells every account that waits for a subscriber that it is back.
    pub(super) fn alert(&mut self, subscriber: Msisdn) {
        let Some(known) = self.subscribers.get_mut(&subscriber) else { return };
        let digits = subscriber.to_string();
        for system_id in std::mem::take(&mut known.awaited_by) {
            let session = self.sessions.values_mut().find(|session| {
                session.bound.as_ref().is_some_and(|b| b.receives && b.system_id == system_id)
            });
            if let Some(session) = session {
                session.sequence = session.sequence % 0x7FFF_FFFF + 1;
                esme::write_alert(&mut session.out, session.sequence, &digits, &system_id);
            }
        }
    }
}
