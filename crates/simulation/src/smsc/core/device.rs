//! Devices: coverage, deliveries and their reports, messages that they send.

use std::time::Duration;

use simtide_protocol::ids::{EpochMs, Imsi, Msisdn};
use simtide_protocol::sms::{Address, Deliver, Submit, Timestamp, UserData, Validity, is_seven_bit};

use super::visit::ChallengeAnswer;
use super::{Command, Core, Due, Message, Moment, Origin};
use crate::smsc::air::{FromDevice, Hex, ToDevice};
use crate::smsc::esme::{Delivery, Submission};
use crate::smsc::receipt::State;
use crate::smsc::record::Happened;

/// Longest relative validity of a device's message: 63 weeks (3GPP TS 23.040, 9.2.3.12.1).
const VALIDITY_S_MAX: i64 = 63 * 7 * 86_400;

impl Core {
    /// A device connection has said something.
    pub fn device_said(&mut self, now: Moment, connection: u64, line: FromDevice) {
        match line {
            FromDevice::Attach { imsi, msisdn } => self.ask_attach(now, connection, imsi, msisdn),
            FromDevice::Response { imsi, res, auts, refused } => {
                self.challenge_answered(now, connection, imsi, ChallengeAnswer::of(res, auts, refused));
            }
            FromDevice::Detach { imsi } => {
                self.forget_visit(imsi, connection);
                if let Some(&msisdn) = self.numbers.get(&imsi)
                    && self.is_at(msisdn, connection)
                {
                    self.detach(now, imsi, msisdn);
                }
            }
            FromDevice::Submit { imsi, reference, tpdu } => {
                let result = self.originate(now, connection, imsi, &tpdu.0);
                let ok = result.is_ok();
                if let Err(reason) = result {
                    self.line(connection, ToDevice::Error { reason });
                }
                self.line(connection, ToDevice::Submitted { imsi, reference, ok });
            }
            FromDevice::Report { id, ok, cause, .. } => self.report(now, connection, id, ok, cause),
        }
    }

    /// A device connection is gone: so are all its subscribers.
    pub fn device_lost(&mut self, now: Moment, connection: u64) {
        self.forget_visits_of(connection);
        let gone: Vec<(Imsi, Msisdn)> = self
            .numbers
            .iter()
            .filter(|(_, msisdn)| self.is_at(**msisdn, connection))
            .map(|(&imsi, &msisdn)| (imsi, msisdn))
            .collect();
        for (imsi, msisdn) in gone {
            self.detach(now, imsi, msisdn);
        }
    }

    fn is_at(&self, msisdn: Msisdn, connection: u64) -> bool {
        self.subscribers.get(&msisdn).and_then(|known| known.at).is_some_and(|(at, _)| at == connection)
    }

    pub(super) fn line(&mut self, connection: u64, line: ToDevice) {
        self.commands.push_back(Command::ToDevice(connection, line));
    }

    pub(super) fn attach(&mut self, now: Moment, connection: u64, imsi: Imsi, msisdn: Msisdn) {
        // A subscriber with a new number, or a number with a new subscriber: the older one is gone.
        if let Some(&before) = self.numbers.get(&imsi)
            && before != msisdn
        {
            self.detach(now, imsi, before);
        }
        if let Some((_, other)) = self.subscribers.get(&msisdn).and_then(|known| known.at)
            && other != imsi
        {
            self.numbers.remove(&other);
        }
        self.numbers.insert(imsi, msisdn);
        self.put_back(now, msisdn);
        let known = self.subscribers.entry(msisdn).or_default();
        known.at = Some((connection, imsi));
        known.again_at = None;
        self.line(connection, ToDevice::Attached { imsi });
        self.alert(msisdn);
        self.deliver_next(now, msisdn);
    }

    pub(super) fn detach(&mut self, now: Moment, imsi: Imsi, msisdn: Msisdn) {
        self.numbers.remove(&imsi);
        if let Some(known) = self.subscribers.get_mut(&msisdn) {
            known.at = None;
        }
        self.put_back(now, msisdn);
    }

    /// What was on the air is the oldest message again, unless its validity ended meanwhile.
    fn put_back(&mut self, now: Moment, subscriber: Msisdn) {
        let Some(known) = self.subscribers.get_mut(&subscriber) else { return };
        let Some((id, number)) = known.on_air.take() else { return };
        known.queue.push_front(number);
        self.on_air.remove(&id);
        if self.messages.get(&number).is_some_and(|message| message.expires <= now.clock) {
            self.expire(now, number);
        }
    }

    /// Sends the oldest message to a subscriber who is there and has none on the air.
    pub(super) fn deliver_next(&mut self, now: Moment, subscriber: Msisdn) {
        let Some(known) = self.subscribers.get_mut(&subscriber) else { return };
        let Some((connection, imsi)) = known.at else { return };
        if known.on_air.is_some() || known.again_at.is_some_and(|at| at > now.clock) {
            return;
        }
        let Some(number) = known.queue.pop_front() else { return };
        let more = !known.queue.is_empty();
        let Some(message) = self.messages.get(&number) else {
            return self.deliver_next(now, subscriber);
        };
        self.deliveries_total += 1;
        let id = self.deliveries_total;
        known.on_air = Some((id, number));
        self.on_air.insert(id, subscriber);
        let timeout = Duration::from_secs(self.settings.answer_timeout_s.into());
        self.by_real.insert((now.real + timeout, Due::ReportMissing(subscriber, id)));
        let sm = message.sm.clone();
        let tpdu = Hex(deliver(&sm, now.clock, more).to_bytes());
        let sc = self.settings.address.clone();
        self.record(now, Happened::Delivered, number, &sm);
        self.line(connection, ToDevice::Deliver { imsi, id, sc, tpdu });
    }

    fn report(&mut self, now: Moment, connection: u64, id: u64, ok: bool, cause: Option<u8>) {
        let subscriber = self.on_air.get(&id).copied().filter(|&msisdn| self.is_at(msisdn, connection));
        let Some(subscriber) = subscriber else {
            return self
                .line(connection, ToDevice::Error { reason: format!("no delivery {id} is open here") });
        };
        if !ok && cause.is_some_and(is_temporary) {
            return self.not_now(now, subscriber);
        }
        let Some(known) = self.subscribers.get_mut(&subscriber) else { return };
        let Some((_, number)) = known.on_air.take() else { return };
        self.on_air.remove(&id);
        if ok {
            self.figures.delivered += 1;
        }
        self.finish(now, number, if ok { State::Delivered } else { State::Undeliverable });
        self.deliver_next(now, subscriber);
    }

    /// The message on the air waits for another try.
    pub(super) fn not_now(&mut self, now: Moment, subscriber: Msisdn) {
        let retry = now.clock.plus_s(self.settings.retry_s.into());
        self.put_back(now, subscriber);
        if let Some(known) = self.subscribers.get_mut(&subscriber) {
            known.again_at = Some(retry);
            self.by_clock.insert((retry, Due::Retry(subscriber)));
        }
    }

    /// Takes an SMS-SUBMIT; the error is what is wrong with it.
    fn originate(&mut self, now: Moment, connection: u64, imsi: Imsi, tpdu: &[u8]) -> Result<(), String> {
        let source = self.numbers.get(&imsi).copied().ok_or("the subscriber is not attached")?;
        if !self.is_at(source, connection) {
            return Err("the subscriber is attached over another connection".to_owned());
        }
        let submit = Submit::from_bytes(tpdu).map_err(|error| error.to_string())?;
        let destination = submit.destination.number.clone();
        let sm = Submission {
            source_ton: 1,
            source_npi: 1,
            source: source.to_string(),
            destination: destination.clone(),
            esm_class: if submit.has_header { 0x40 } else { 0 },
            protocol_id: submit.pid,
            data_coding: submit.dcs,
            validity: String::new(),
            registered_delivery: 0,
            reference: Some(submit.reference.into()),
            user_data: submit.user_data.octets.clone(),
        };
        self.figures.originated += 1;
        self.record(now, Happened::Originated, 0, &sm);
        let account = self.settings.accounts.iter().find(|account| account.addresses.contains(&destination));
        if let Some(account) = account {
            let system_id = account.system_id.clone();
            self.forward(now, &system_id, &submit, sm);
            return Ok(());
        }
        let subscriber =
            destination.parse::<Msisdn>().ok().filter(|number| self.subscribers.contains_key(number));
        if let Some(subscriber) = subscriber {
            let lives_s = validity_s(submit.validity, now.clock).unwrap_or(self.settings.validity_s.into());
            let expires = now.clock.plus_s(lives_s);
            self.store(
                now,
                Message { origin: Origin::Nobody, sm, subscriber, submitted: now.clock, expires },
            );
            return Ok(());
        }
        let default = self.settings.accounts.iter().find(|account| account.addresses.is_empty());
        let system_id = default.ok_or("nobody has this destination")?.system_id.clone();
        self.forward(now, &system_id, &submit, sm);
        Ok(())
    }

    fn forward(&mut self, now: Moment, system_id: &str, submit: &Submit, sm: Submission) {
        if self.chance(self.faults.lose_permille) {
            return;
        }
        let delivery = Delivery {
            source: (sm.source_ton, sm.source_npi, sm.source),
            destination: (
                submit.destination.type_of_number(),
                submit.destination.numbering_plan(),
                sm.destination,
            ),
            esm_class: sm.esm_class,
            protocol_id: sm.protocol_id,
            data_coding: sm.data_coding,
            user_data: sm.user_data,
            receipted_message_id: None,
            message_state: None,
            reference: sm.reference,
        };
        if self.chance(self.faults.duplicate_permille) {
            self.send(now, system_id, delivery.clone());
        }
        self.send(now, system_id, delivery);
    }
}

/// Causes after which a device can take the message later (3GPP TS 23.040, 9.2.3.22): memory full, busy.
fn is_temporary(cause: u8) -> bool {
    matches!(cause, 0xD0 | 0xD3 | 0xD4)
}

/// The SMS-DELIVER of a message. A 7-bit coding comes unpacked over SMPP; it goes out as the octets it is, coded F4.
fn deliver(sm: &Submission, now: EpochMs, more_messages: bool) -> Deliver {
    let octets = sm.user_data.clone();
    Deliver {
        more_messages,
        status_report: false,
        reply_path: false,
        has_header: sm.esm_class & 0x40 != 0,
        originator: originator(sm),
        pid: sm.protocol_id,
        dcs: if is_seven_bit(sm.data_coding) { 0xF4 } else { sm.data_coding },
        timestamp: Timestamp::from_epoch(now),
        user_data: UserData { length: octets.len() as u8, octets },
    }
}

fn originator(sm: &Submission) -> Address {
    let address = match sm.source_ton {
        5 => Address::alphanumeric(&sm.source),
        1 if !sm.source.starts_with('+') => Address::number(&format!("+{}", sm.source)),
        _ => Address::number(&sm.source),
    };
    // An address that the air interface cannot carry is left empty rather than the message lost.
    address.unwrap_or(Address { kind: Address::UNKNOWN, number: String::new() })
}

fn validity_s(validity: Validity, now: EpochMs) -> Option<i64> {
    let seconds = match validity {
        Validity::Absolute(until) => until.to_epoch()?.ms_since(now) / 1_000,
        other => i64::try_from(other.seconds()?).ok()?,
    };
    Some(seconds.clamp(0, VALIDITY_S_MAX))
}
