//! What registers answer, and what a change makes of it.

use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Imsi};

use super::change::{Change, Reservation, TRIES_MAX};
use super::machine::{ABSENCES, ALARM_TRIES, GRACE_MS, Out};
use super::types::{Alarm, Command, Identity, Reason, RegisterFault, SeenBy, State, Verb};

impl Change {
    pub(super) fn reserved(
        &mut self,
        now: EpochMs,
        named: (ChangeId, Option<CardId>),
        identity: Identity,
        owned: bool,
        taken_by: Option<CardId>,
        out: &mut Out,
    ) {
        let awaited = self.state == State::Authorised
            || (self.state.is_closing() && self.identity.is_none() && self.reservation != Reservation::None);
        if !awaited {
            return;
        }
        // Another request's answer is none.
        if named.0 != self.id || named.1.is_some_and(|card| card != self.card) {
            self.did_not(now, Verb::Reserve, RegisterFault::Invalid, out);
            return;
        }
        if let Some(by) = taken_by {
            // Giving it back would take it from the other card.
            self.reservation = Reservation::None;
            out.push(Command::Alarm(Alarm::IdentityTaken { imsi: identity.imsi, by }));
            match self.state {
                State::Authorised => self.close(now, State::Failed, Reason::IdentityTaken, out),
                _ => self.due = None,
            }
            return;
        }
        self.identity = Some(identity);
        self.reservation = Reservation::Held;
        match self.state {
            State::Authorised if owned => self.enter(now, State::Reserved, out),
            State::Authorised => self.close(now, State::Failed, Reason::ForeignIdentity, out),
            _ => self.effect(now, out),
        }
    }

    pub(super) fn did(&mut self, now: EpochMs, verb: Verb, imsi: Imsi, out: &mut Out) {
        let is_second = self.imsi_2() == Some(imsi);
        match (self.state, verb) {
            (State::Reserved, Verb::Arm) if is_second => {
                self.armed_at = Some(now);
                self.enter(now, State::Armed, out);
            }
            (State::Attached, Verb::Withdraw) if self.is_settled() && imsi == self.imsi => {
                self.enter(now, State::Withdrawn, out);
            }
            (State::Withdrawn, Verb::Retire) if imsi == self.imsi => self.enter(now, State::Retired, out),
            (state, Verb::Release) if state.is_closing() && is_second => self.released(out),
            _ => {}
        }
    }

    fn released(&mut self, out: &mut Out) {
        self.reservation = Reservation::None;
        self.due = None;
        if let Some(Identity { imsi, msisdn }) = self.identity {
            out.push(Command::ForgetAliases {
                imsi,
                msisdn: msisdn.filter(|number| Some(*number) != self.msisdn),
            });
        }
    }

    pub(super) fn did_not(&mut self, now: EpochMs, verb: Verb, fault: RegisterFault, out: &mut Out) {
        use RegisterFault as F;
        let refuses = matches!(fault, F::Refused | F::Conflict);
        match (self.state, verb, fault) {
            (State::Authorised, Verb::Reserve, F::Refused | F::Conflict | F::NotFound) => {
                // A refusal may be the answer to a second copy of a request that was carried out.
                self.reservation = Reservation::Perhaps;
                self.close(now, State::Failed, Reason::RegisterRefused, out);
            }
            (State::Authorised, Verb::Reserve, F::Unreachable | F::Exhausted) => {
                // Of an earlier try nobody knows.
                if self.reservation == Reservation::Asked {
                    self.reservation = Reservation::None;
                }
            }
            (State::Authorised, Verb::Reserve, _) => self.reservation = Reservation::Perhaps,
            (State::Reserved, Verb::Arm, F::Refused | F::Conflict | F::NotFound) => {
                self.close(now, State::Failed, Reason::RegisterRefused, out);
            }
            (State::Attached, Verb::Withdraw, F::NotFound) if self.is_settled() => {
                if self.is_absent() {
                    self.enter(now, State::Withdrawn, out);
                }
            }
            (State::Withdrawn, Verb::Retire, F::NotFound) => {
                if self.is_absent() {
                    self.enter(now, State::Retired, out);
                }
            }
            (State::Attached | State::Withdrawn, Verb::Withdraw | Verb::Retire, _) => {
                if refuses || self.tries == ALARM_TRIES {
                    out.push(Command::Alarm(Alarm::RegisterRefuses { verb }));
                }
            }
            (state, Verb::Release, F::NotFound | F::Conflict) if state.is_closing() => {
                if fault == F::Conflict {
                    out.push(Command::Alarm(Alarm::RegisterRefuses { verb }));
                }
                if self.is_absent() {
                    self.released(out);
                }
            }
            // It holds nothing for this change.
            (state, Verb::Reserve, F::Refused | F::Conflict | F::NotFound | F::Exhausted)
                if state.is_closing() && self.identity.is_none() =>
            {
                if self.is_absent() {
                    (self.reservation, self.due) = (Reservation::None, None);
                }
            }
            // What it holds nobody can read; it has no access. Its pool has one less, and people know.
            (state, Verb::Reserve, F::Invalid) if state.is_closing() && self.identity.is_none() => {
                self.absences = self.absences.saturating_add(1);
                if u16::from(self.absences) >= TRIES_MAX {
                    (self.reservation, self.due) = (Reservation::None, None);
                    out.push(Command::Alarm(Alarm::RegisterRefuses { verb }));
                }
            }
            _ => {}
        }
    }

    /// A register says that the identity is not there, or not this change's: it counts when it says so twice.
    fn is_absent(&mut self) -> bool {
        self.absences = self.absences.saturating_add(1);
        self.absences >= ABSENCES
    }

    pub(super) fn seen(
        &mut self,
        now: EpochMs,
        imsi: Imsi,
        known: bool,
        attached: bool,
        by: SeenBy,
        out: &mut Out,
    ) {
        let may_be_on_card = matches!(self.state, State::Sent | State::Unknown | State::Applied)
            || (self.state == State::Attached && !self.is_settled());
        if self.imsi_2() != Some(imsi) || !may_be_on_card {
            return;
        }
        let counts = by == SeenBy::Register || self.terms.eap_aka_counts_as_seen;
        if attached && counts && self.state != State::Attached {
            // Only the card has K2: the message was executed.
            self.packets.live = None;
            self.note(now, State::Attached);
            if self.is_settled() {
                self.settle(now, out);
            } else {
                let guard_ms = i64::from(self.terms.guard_s.unwrap_or_default()) * 1_000;
                self.fence_due = Some(now.plus_ms(guard_ms + GRACE_MS));
            }
        } else if !known && by == SeenBy::Register {
            out.push(Command::Alarm(Alarm::IdentityLost));
            out.push(Command::Arm(imsi));
        }
    }
}
