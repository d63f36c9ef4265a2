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
        let is_definite = matches!(fault, F::Refused | F::Conflict | F::NotFound);
        match (self.state, verb) {
            (State::Authorised, Verb::Reserve) if is_definite => {
                // A refusal may be the answer to a second copy of a request that was carried out.
                self.reservation = Reservation::Perhaps;
                self.close(now, State::Failed, Reason::RegisterRefused, out);
            }
            (State::Authorised, Verb::Reserve) => {
                let is_surely_not_done = matches!(fault, F::Unreachable | F::Exhausted);
                // Of an earlier try nobody knows.
                self.reservation = match self.reservation {
                    Reservation::Asked if is_surely_not_done => Reservation::None,
                    _ => Reservation::Perhaps,
                };
            }
            (State::Reserved, Verb::Arm) if is_definite => {
                self.close(now, State::Failed, Reason::RegisterRefused, out);
            }
            (State::Attached, Verb::Withdraw) if self.is_settled() => {
                self.not_taken_away(now, (verb, fault), State::Withdrawn, out);
            }
            (State::Withdrawn, Verb::Retire) => {
                self.not_taken_away(now, (verb, fault), State::Retired, out);
            }
            (state, _) if state.is_closing() => self.not_given_back(verb, fault, out),
            _ => {}
        }
    }

    /// Register 1 has not done it: it is asked again, for ever.
    fn not_taken_away(
        &mut self,
        now: EpochMs,
        (verb, fault): (Verb, RegisterFault),
        next: State,
        out: &mut Out,
    ) {
        match fault {
            RegisterFault::NotFound => {
                if self.is_absent() {
                    self.enter(now, next, out);
                }
            }
            fault => {
                let refuses = matches!(fault, RegisterFault::Refused | RegisterFault::Conflict);
                if refuses || self.tries == ALARM_TRIES {
                    out.push(Command::Alarm(Alarm::RegisterRefuses { verb }));
                }
            }
        }
    }

    /// Register 2 has not taken identity 2 back, or has not said which one it is.
    fn not_given_back(&mut self, verb: Verb, fault: RegisterFault, out: &mut Out) {
        use RegisterFault as F;
        if verb == Verb::Release && matches!(fault, F::NotFound | F::Conflict) {
            if fault == F::Conflict {
                out.push(Command::Alarm(Alarm::RegisterRefuses { verb }));
            }
            if self.is_absent() {
                self.released(out);
            }
        }
        if verb != Verb::Reserve || self.identity.is_some() {
            return;
        }
        let is_given_up = match fault {
            // It holds nothing for this change.
            F::Refused | F::Conflict | F::NotFound | F::Exhausted => self.is_absent(),
            // What it holds nobody can read; it has no access. Its pool has one less, and people know.
            F::Invalid => {
                self.absences = self.absences.saturating_add(1);
                let is_last = u16::from(self.absences) >= TRIES_MAX;
                out.extend(is_last.then_some(Command::Alarm(Alarm::RegisterRefuses { verb })));
                is_last
            }
            F::Unreachable | F::Unknown => false,
        };
        if is_given_up {
            (self.reservation, self.due) = (Reservation::None, None);
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
