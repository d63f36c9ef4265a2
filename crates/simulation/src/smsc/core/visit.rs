//! Attach with a register behind: the part of a VLR (3GPP TS 23.012; the lines to the register are GSUP).
//!
//! | stage | awaits | next |
//! |---|---|---|
//! | `Vectors` | vectors from the register | `Challenged` |
//! | `Challenged` | the right RES from the card | `Location` |
//! | `Challenged` | AUTS from the card, once | `Vectors` |
//! | `Location` | the subscriber's data, then the result | attached |
//!
//! Everything else, and nothing within `answer_timeout_s`, ends the visit with a refusal.

use std::time::Duration;

use simtide_protocol::aka::Vector;
use simtide_protocol::gsup::{Body, CancelType, Domain, Message, Procedure};
use simtide_protocol::ids::{Imsi, Msisdn};
use subtle::ConstantTimeEq;

use super::{Command, Core, Due, Moment};
use crate::smsc::air::{Hex, ToDevice};
use crate::smsc::record::{Entry, Happened};

/// Most attaches under way together; one more is told to come again.
const VISITS_MAX: usize = 65_536;

/// Causes of a refusal (3GPP TS 24.008, 10.5.3.6).
mod cause {
    /// The card's answer is wrong.
    pub const ILLEGAL_SUBSCRIBER: u8 = 0x03;
    /// This network has no agreement with the subscriber's.
    pub const NETWORK_NOT_ALLOWED: u8 = 0x0B;
    /// The register does not answer.
    pub const NETWORK_FAILURE: u8 = 0x11;
    /// The card finds the network not genuine.
    pub const MAC_FAILURE: u8 = 0x14;
    /// The card finds every number too old.
    pub const SYNCHRONISATION_FAILURE: u8 = 0x15;
    /// Too many at a time.
    pub const CONGESTION: u8 = 0x16;
}

/// An attach under way.
#[derive(Debug)]
pub(super) struct Visit {
    number: u64,
    connection: u64,
    msisdn: Option<Msisdn>,
    stage: Stage,
    resynchronised: bool,
}

enum Stage {
    Vectors,
    Challenged { rand: [u8; 16], xres: [u8; 8] },
    Location,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vectors => "Vectors",
            Self::Challenged { .. } => "Challenged",
            Self::Location => "Location",
        })
    }
}

/// What the card said to a challenge.
pub(super) enum ChallengeAnswer {
    Res(Vec<u8>),
    Auts([u8; 14]),
    Refused(Vec<u8>),
}

impl ChallengeAnswer {
    /// Exactly one of the three keys of the line.
    pub fn of(res: Option<Hex>, auts: Option<Hex>, refused: Option<Hex>) -> Option<Self> {
        match (res, auts, refused) {
            (Some(res), None, None) => Some(Self::Res(res.0)),
            (None, Some(auts), None) => auts.0.try_into().ok().map(Self::Auts),
            (None, None, Some(status)) => Some(Self::Refused(status.0)),
            _ => None,
        }
    }
}

impl Core {
    /// A device wants in.
    pub(super) fn ask_attach(&mut self, now: Moment, connection: u64, imsi: Imsi, msisdn: Option<Msisdn>) {
        if self.settings.plmn.is_some_and(|plmn| !plmn.is_home_of(&imsi, None)) {
            return self.refuse(now, connection, imsi, cause::NETWORK_NOT_ALLOWED);
        }
        if self.settings.register.is_none() {
            return match msisdn {
                Some(msisdn) => self.attach(now, connection, imsi, msisdn),
                None => {
                    let reason = "without a register the attach has to say the number".to_owned();
                    self.line(connection, ToDevice::Error { reason });
                }
            };
        }
        if self.visits.get(&imsi).is_some_and(|visit| visit.connection == connection) {
            // Said twice: the first one goes on.
            return;
        }
        if !self.register_stands {
            return self.refuse(now, connection, imsi, cause::NETWORK_FAILURE);
        }
        if self.visits.len() >= VISITS_MAX {
            return self.refuse(now, connection, imsi, cause::CONGESTION);
        }
        self.visits_total += 1;
        let number = self.visits_total;
        let visit = Visit { number, connection, msisdn, stage: Stage::Vectors, resynchronised: false };
        self.visits.insert(imsi, visit);
        let timeout = Duration::from_secs(self.settings.answer_timeout_s.into());
        self.by_real.insert((now.real + timeout, Due::VisitLate(imsi, number)));
        let domain = Some(Domain::CircuitSwitched);
        self.ask_register(imsi, Body::SendAuthInfo { domain, resynchronisation: None });
    }

    /// The card behind a device has answered.
    pub(super) fn challenge_answered(
        &mut self,
        now: Moment,
        connection: u64,
        imsi: Imsi,
        answer: Option<ChallengeAnswer>,
    ) {
        let visit = self.visits.get_mut(&imsi).filter(|visit| visit.connection == connection);
        let Some((visit, Stage::Challenged { rand, xres })) = visit.map(|visit| {
            let stage = std::mem::replace(&mut visit.stage, Stage::Location);
            (visit, stage)
        }) else {
            let reason = format!("no challenge of {imsi} is open here");
            return self.line(connection, ToDevice::Error { reason });
        };
        let domain = Some(Domain::CircuitSwitched);
        let refusal = match answer {
            Some(ChallengeAnswer::Res(res)) if bool::from(res.ct_eq(&xres)) => {
                return self.ask_register(imsi, Body::UpdateLocation { domain });
            }
            Some(ChallengeAnswer::Auts(auts)) if !visit.resynchronised => {
                visit.resynchronised = true;
                visit.stage = Stage::Vectors;
                let resynchronisation = Some((rand, auts));
                return self.ask_register(imsi, Body::SendAuthInfo { domain, resynchronisation });
            }
            Some(ChallengeAnswer::Res(_)) => cause::ILLEGAL_SUBSCRIBER,
            Some(ChallengeAnswer::Auts(_)) => cause::SYNCHRONISATION_FAILURE,
            // 3GPP TS 31.102, 7.1.2: authentication error, incorrect MAC.
            Some(ChallengeAnswer::Refused(status)) if status == [0x98, 0x62] => cause::MAC_FAILURE,
            Some(ChallengeAnswer::Refused(_)) | None => cause::NETWORK_FAILURE,
        };
        self.end_visit(now, imsi, refusal);
    }

    /// The register has said something.
    pub fn register_said(&mut self, now: Moment, message: Message) {
        let imsi = message.imsi;
        match message.body {
            Body::AuthInfo(vectors) => self.challenge(now, imsi, vectors),
            Body::InsertData { msisdn, .. } => self.subscriber_data(now, imsi, msisdn),
            Body::Done(Procedure::UpdateLocation) => self.located(now, imsi),
            Body::Failed { procedure: Procedure::SendAuthInfo | Procedure::UpdateLocation, cause } => {
                self.end_visit(now, imsi, cause);
            }
            Body::LocationCancel { cancel, .. } => {
                self.cancelled(now, imsi, Procedure::LocationCancel, cancel);
            }
            Body::DeleteData { .. } => {
                self.cancelled(now, imsi, Procedure::DeleteData, CancelType::Withdrawn);
            }
            // Results of what is never asked, and requests that are the register's to answer.
            Body::Done(_)
            | Body::Failed { .. }
            | Body::SendAuthInfo { .. }
            | Body::UpdateLocation { .. }
            | Body::Purge { .. } => {}
        }
    }

    /// The line to the register stands, or is gone: then nobody gets in.
    pub fn register_stands(&mut self, now: Moment, stands: bool) {
        self.register_stands = stands;
        if !stands {
            let waiting: Vec<Imsi> = self.visits.keys().copied().collect();
            for imsi in waiting {
                self.end_visit(now, imsi, cause::NETWORK_FAILURE);
            }
        }
    }

    pub(super) fn visit_late(&mut self, now: Moment, imsi: Imsi, number: u64) {
        if self.visits.get(&imsi).is_some_and(|visit| visit.number == number) {
            self.end_visit(now, imsi, cause::NETWORK_FAILURE);
        }
    }

    /// The device has gone before the attach was through.
    pub(super) fn forget_visit(&mut self, imsi: Imsi, connection: u64) {
        if self.visits.get(&imsi).is_some_and(|visit| visit.connection == connection) {
            self.visits.remove(&imsi);
        }
    }

    pub(super) fn forget_visits_of(&mut self, connection: u64) {
        self.visits.retain(|_, visit| visit.connection != connection);
    }

    fn challenge(&mut self, now: Moment, imsi: Imsi, vectors: Vec<Vector>) {
        let Some(visit) = self.visits.get_mut(&imsi) else { return };
        let (Stage::Vectors, Some(vector)) = (&visit.stage, vectors.first()) else { return };
        visit.stage = Stage::Challenged { rand: vector.rand, xres: vector.xres };
        let (rand, autn) = (Hex(vector.rand.to_vec()), Hex(vector.autn.to_vec()));
        let connection = visit.connection;
        self.line(connection, ToDevice::Challenge { imsi, rand, autn });
        self.note(now, Happened::Challenged, imsi, String::new());
    }

    /// The number may change while the subscriber is attached, too.
    fn subscriber_data(&mut self, now: Moment, imsi: Imsi, msisdn: Option<Msisdn>) {
        self.ask_register(imsi, Body::Done(Procedure::InsertData));
        if let Some(visit) = self.visits.get_mut(&imsi) {
            visit.msisdn = msisdn.or(visit.msisdn);
            return;
        }
        let before = self.numbers.get(&imsi).copied();
        let connection = before.and_then(|before| self.subscribers.get(&before)?.at).map(|(at, _)| at);
        if let (Some(msisdn), Some(connection)) = (msisdn, connection)
            && before != Some(msisdn)
        {
            self.attach(now, connection, imsi, msisdn);
        }
    }

    fn located(&mut self, now: Moment, imsi: Imsi) {
        let Some(visit) = self.visits.get(&imsi).filter(|visit| matches!(visit.stage, Stage::Location))
        else {
            return;
        };
        let (connection, Some(msisdn)) = (visit.connection, visit.msisdn) else {
            // Neither the register nor the card knows a number: nothing could be delivered.
            return self.end_visit(now, imsi, cause::NETWORK_FAILURE);
        };
        self.visits.remove(&imsi);
        self.note(now, Happened::Attached, imsi, msisdn.to_string());
        self.attach(now, connection, imsi, msisdn);
    }

    /// The subscriber is elsewhere, or has no subscription any more.
    fn cancelled(&mut self, now: Moment, imsi: Imsi, procedure: Procedure, cancel: CancelType) {
        self.ask_register(imsi, Body::Done(procedure));
        self.end_visit(now, imsi, cause::NETWORK_NOT_ALLOWED);
        let Some(&msisdn) = self.numbers.get(&imsi) else { return };
        let connection = self.subscribers.get(&msisdn).and_then(|known| known.at).map(|(at, _)| at);
        self.detach(now, imsi, msisdn);
        self.note(now, Happened::Withdrawn, imsi, msisdn.to_string());
        if let (Some(connection), CancelType::Withdrawn) = (connection, cancel) {
            self.line(connection, ToDevice::Detached { imsi, cause: cause::NETWORK_NOT_ALLOWED });
        }
    }

    fn end_visit(&mut self, now: Moment, imsi: Imsi, cause: u8) {
        if let Some(visit) = self.visits.remove(&imsi) {
            self.refuse(now, visit.connection, imsi, cause);
        }
    }

    fn refuse(&mut self, now: Moment, connection: u64, imsi: Imsi, cause: u8) {
        self.figures.rejected += 1;
        // Who fails here is not the one who is attached, or not any more.
        if let Some(&msisdn) = self.numbers.get(&imsi)
            && self
                .subscribers
                .get(&msisdn)
                .and_then(|known| known.at)
                .is_some_and(|(at, _)| at == connection)
        {
            self.detach(now, imsi, msisdn);
        }
        self.note(now, Happened::Rejected, imsi, format!("{cause:02x}"));
        self.line(connection, ToDevice::Rejected { imsi, cause });
    }

    fn ask_register(&mut self, imsi: Imsi, body: Body) {
        self.commands.push_back(Command::ToRegister(Message { imsi, body }.encode()));
    }

    /// What happened to an attach: the identity stands as source, what matters as destination.
    fn note(&mut self, now: Moment, event: Happened, imsi: Imsi, destination: String) {
        self.commands.push_back(Command::Record(Entry {
            time: now.clock,
            event,
            id: 0,
            source: imsi.to_string(),
            destination,
            user_data: Hex(Vec::new()),
        }));
    }
}

#[cfg(test)]
mod tests;
