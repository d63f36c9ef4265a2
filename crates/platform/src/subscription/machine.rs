//! What an event makes of a change.

use simtide_protocol::ids::{EpochMs, Imsi};

use super::change::{
    Change, FENCE_VALIDITY_S, GIVE_BACK_WITHIN_S, PAUSE_S_MAX, QUEUE_WITHIN_S, Reservation, SEND_VALIDITY_S,
    SENDS_MAX, STEPS_MAX, TRIES_MAX,
};
use super::polls::InPoll;
use super::settings::{Bearer, ConsentRule};
use super::types::{
    Alarm, CardRefusal, Command, Event, Notice, PacketKind, Party, Reason, State, UserText, Verb,
};

/// Milliseconds after the end of a packet's validity in which a proof may still be under way.
pub(super) const GRACE_MS: i64 = 10 * 60_000;
/// Milliseconds until a packet that found no place is reserved again.
pub(super) const QUEUE_AGAIN_MS: i64 = 60_000;
/// Milliseconds until a card that was busy is sent the message again.
pub(super) const BUSY_MS: i64 = 10 * 60_000;
/// Milliseconds that a user who is being asked has, before the card is asked again.
pub(super) const ASKING_MS: i64 = 15 * 60_000;
/// Milliseconds after the proof in which a device attaches, before the card is asked.
pub(super) const ATTACH_WITHIN_MS: i64 = 3_600_000;
/// Fences after which a card counts as not heard of, and tries of other effects after which people are told.
pub(super) const ALARM_TRIES: u16 = 10;
/// How often a register must say that an identity is not there: replicas lag.
pub(super) const ABSENCES: u8 = 2;

pub(super) type Out = Vec<Command>;

impl Change {
    /// Takes an event in. Every event is possible in every state, once or repeatedly, in any order.
    pub fn handle(&mut self, now: EpochMs, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        if !self.is_open() {
            return out;
        }
        match event {
            Event::Tick => self.tick(now, &mut out),
            Event::Restarted => self.restarted(now, &mut out),
            Event::Resolve => self.resolve(now, &mut out),
            Event::Cancel => self.cancel(now, &mut out),
            Event::Consent { granted } => self.consent(now, granted, &mut out),
            Event::Acknowledged(notice) => self.acknowledged(now, notice, &mut out),
            Event::Reserved { change, card, identity, owned, taken_by } => {
                self.reserved(now, (change, card), identity, owned, taken_by, &mut out);
            }
            Event::Did { verb, imsi } => self.did(now, verb, imsi, &mut out),
            Event::DidNot { verb, fault } => self.did_not(now, verb, fault, &mut out),
            Event::Seen { imsi, known, attached, by } => self.seen(now, imsi, known, attached, by, &mut out),
            // The answer to a commit; nobody else gives counters.
            Event::Queued { kind, counter } => {
                if self.packets.asked == Some(kind) {
                    self.queued(now, kind, counter);
                }
            }
            Event::NotQueued { kind } => self.not_queued(now, kind, &mut out),
            Event::Lost { kind, counter } => self.lost(now, kind, counter, &mut out),
            Event::Proof { kind: PacketKind::Personalization, counter, says } => {
                self.answered(now, counter, says, &mut out);
            }
            Event::Proof { kind: PacketKind::Fence, counter, says } => {
                self.fenced(now, counter, says, &mut out);
            }
            Event::Report(says) => self.says(now, says, false, &mut out),
            Event::PollOpened => self.poll_opened(now),
            Event::PollEnded { says } => self.poll_ended(now, says, &mut out),
            Event::OnlyByPoll => self.only_by_poll(now, &mut out),
        }
        self.keep_alarms(now, &out);
        out
    }

    pub(super) fn enter(&mut self, now: EpochMs, state: State, out: &mut Out) {
        self.note(now, state);
        self.effect(now, out);
    }

    pub(super) fn note(&mut self, now: EpochMs, state: State) {
        self.state = state;
        if self.steps.len() >= STEPS_MAX {
            self.steps.remove(1);
        }
        self.steps.push((now, state));
        (self.tries, self.absences, self.due, self.fence_due) = (0, 0, None, None);
    }

    /// Ends without success; what register 2 may hold goes back.
    pub(super) fn close(&mut self, now: EpochMs, state: State, reason: Reason, out: &mut Out) {
        self.reason = Some(reason);
        self.notice_due = None;
        if self.evidence.way.is_on_device() {
            let text = match (state, reason) {
                (State::Cancelled, _) => Some(UserText::Cancelled),
                (_, Reason::ConsentDenied | Reason::RegisterRefused) => Some(UserText::NotPossible),
                // The user was there.
                (_, Reason::Card(CardRefusal::UserNo)) => None,
                _ => Some(UserText::Failed),
            };
            out.extend(text.map(Command::Tell));
        }
        self.enter(now, state, out);
    }

    /// Asks for what the state waits for, once more.
    pub(super) fn effect(&mut self, now: EpochMs, out: &mut Out) {
        self.tries = self.tries.saturating_add(1);
        self.due = Some(now.plus_ms(pause_ms(self.tries)));
        match self.state {
            State::Requested => self.ask_operator_1(now, out),
            State::Authorised if self.tries > TRIES_MAX => {
                self.close(now, State::Failed, Reason::RegisterFailed, out);
            }
            State::Authorised => {
                self.reservation = match self.reservation {
                    Reservation::None => Reservation::Asked,
                    _ => Reservation::Perhaps,
                };
                out.push(Command::Reserve);
            }
            State::Reserved if self.tries > TRIES_MAX => {
                self.close(now, State::Failed, Reason::RegisterFailed, out);
            }
            State::Reserved => out.extend(self.imsi_2().map(Command::Arm)),
            State::Armed if self.terms.bearer == Bearer::Poll && now < self.poll_within(now) => {
                self.due = Some(self.poll_within(now));
            }
            State::Armed => self.send(now, out),
            State::Sent => {}
            State::Unknown | State::Applied => out.extend(self.imsi_2().map(Command::Watch)),
            State::Attached if !self.is_settled() => out.extend(self.imsi_2().map(Command::Watch)),
            State::Attached => out.push(Command::Withdraw(self.imsi)),
            State::Withdrawn => out.push(Command::Retire(self.imsi)),
            State::Retired if self.acknowledged => self.done(now, out),
            // The notice has its own time.
            State::Retired | State::Done => self.due = None,
            State::Refused | State::Reverted | State::Failed | State::Cancelled => self.give_back(now, out),
        }
    }

    fn ask_operator_1(&mut self, now: EpochMs, out: &mut Out) {
        let end = self.began_at().plus_ms(i64::from(self.terms.consent_within_s) * 1_000);
        match self.terms.consent {
            ConsentRule::InformAfter => self.enter(now, State::Authorised, out),
            _ if now >= end => self.close(now, State::Failed, Reason::ConsentMissing, out),
            rule => {
                self.due = self.due.map(|due| due.min(end));
                out.push(match rule {
                    ConsentRule::Ask => Command::AskConsent,
                    _ => Command::InformOperator1(Notice::Before),
                });
            }
        }
    }

    fn send(&mut self, now: EpochMs, out: &mut Out) {
        if self.packets.sent >= SENDS_MAX {
            self.close(now, State::Failed, Reason::NotDelivered, out);
            return;
        }
        self.note(now, State::Sent);
        self.packets.sent += 1;
        self.packets.asked = Some(PacketKind::Personalization);
        self.due = Some(now.plus_ms(i64::from(SEND_VALIDITY_S) * 1_000 + GRACE_MS));
        out.push(Command::SendPersonalization { attempt: self.packets.sent, validity_s: SEND_VALIDITY_S });
    }

    /// Register 2 gets identity 2 back. Where it is not known what it holds, it is asked: the same change gets the same
    /// identity, or a refusal. A register that never answers does not keep the card from its next change: the identity is
    /// on no card, its pool has one less, and people are told.
    fn give_back(&mut self, now: EpochMs, out: &mut Out) {
        let closed_at = self.steps.last().map_or(now, |(at, _)| *at);
        let is_over = now >= closed_at.plus_ms(i64::from(GIVE_BACK_WITHIN_S) * 1_000);
        match (self.reservation, self.identity) {
            (Reservation::None, _) => self.due = None,
            _ if is_over => (self.reservation, self.due) = (Reservation::None, None),
            (_, Some(identity)) => out.push(Command::Release(identity.imsi)),
            (_, None) => out.push(Command::Reserve),
        }
        if self.tries == ALARM_TRIES || is_over {
            out.push(Command::Alarm(Alarm::RegisterRefuses { verb: Verb::Release }));
        }
    }

    /// A harmless packet with a higher counter; none while it is not known what came of the last one.
    pub(super) fn fence(&mut self, now: EpochMs, out: &mut Out) {
        if self.packets.asked.is_some() {
            self.fence_due = Some(now.plus_ms(QUEUE_AGAIN_MS));
            return;
        }
        self.packets.fences = self.packets.fences.saturating_add(1);
        self.packets.asked = Some(PacketKind::Fence);
        let number = self.packets.fences;
        let second_is_known = self.identity.is_some_and(|identity| identity.msisdn.is_some());
        // Where the card is likely first; the other network every other time.
        let likely_second = self.state != State::Unknown;
        let over =
            if second_is_known && (number % 2 == 1) == likely_second { Party::Second } else { Party::First };
        let validity_s = FENCE_VALIDITY_S;
        out.push(Command::Fence { attempt: number.min(u16::from(u8::MAX)) as u8, over, validity_s });
        if number.is_multiple_of(ALARM_TRIES) {
            out.push(Command::Alarm(Alarm::NotHeard));
        }
        // Later ones come rarer, but never less than once a day.
        let rest_ms = i64::from(number.min(3)) * i64::from(FENCE_VALIDITY_S) * 1_000;
        self.fence_due = Some(now.plus_ms(i64::from(FENCE_VALIDITY_S) * 1_000 + rest_ms));
    }

    fn tick(&mut self, now: EpochMs, out: &mut Out) {
        if self.notice_due.is_some_and(|due| due <= now) {
            self.tell_operator_1(now, out);
        }
        if self.fence_due.is_some_and(|due| due <= now) {
            if self.state == State::Applied {
                out.push(Command::Alarm(Alarm::NotSeen));
            }
            self.fence(now, out);
        }
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        match self.state {
            // Nobody has said what came of the commit: that is certain at the next start at the latest.
            State::Sent if self.packets.asked.is_some() => self.due = Some(now.plus_ms(QUEUE_AGAIN_MS)),
            State::Sent => self.unknown(now, out),
            State::Armed if self.waits_too_long(now) => {
                self.close(now, State::Failed, Reason::NotDelivered, out);
            }
            _ => self.effect(now, out),
        }
    }

    fn waits_too_long(&self, now: EpochMs) -> bool {
        let since = match self.terms.bearer {
            Bearer::Sms => self.armed_at,
            Bearer::Poll => Some(self.poll_within(now)),
        };
        since.is_some_and(|at| now >= at.plus_ms(i64::from(QUEUE_WITHIN_S) * 1_000))
    }

    fn restarted(&mut self, now: EpochMs, out: &mut Out) {
        if self.notice_due.is_some() {
            self.tell_operator_1(now, out);
        }
        match self.state {
            // No session has outlived the process.
            State::Sent if self.packets.in_poll == InPoll::Message => self.poll_ended(now, None, out),
            // The packet's row tells.
            State::Sent | State::Armed => {}
            _ => {
                // A pause that was long stays long.
                let tries = self.tries;
                self.effect(now, out);
                self.tries = self.tries.min(tries.max(1));
            }
        }
    }

    pub(super) fn resolve(&mut self, now: EpochMs, out: &mut Out) {
        self.tries = 0;
        match self.state {
            State::Sent if self.packets.asked.is_none() => self.unknown(now, out),
            State::Sent => {}
            State::Armed => {
                // It waits for no poll any more.
                self.terms.bearer = Bearer::Sms;
                self.effect(now, out);
            }
            State::Unknown | State::Applied => {
                self.effect(now, out);
                self.fence(now, out);
            }
            State::Attached if !self.is_settled() => {
                self.effect(now, out);
                self.fence(now, out);
            }
            _ => self.effect(now, out),
        }
    }

    fn cancel(&mut self, now: EpochMs, out: &mut Out) {
        match self.state {
            _ if self.may_be_cancelled() => self.close(now, State::Cancelled, Reason::Cancelled, out),
            State::Sent | State::Unknown => {
                self.give_up = true;
                self.resolve(now, out);
            }
            _ => {}
        }
    }

    fn consent(&mut self, now: EpochMs, granted: bool, out: &mut Out) {
        if self.state != State::Requested || self.terms.consent != ConsentRule::Ask {
            return;
        }
        if granted {
            self.enter(now, State::Authorised, out);
        } else {
            self.close(now, State::Failed, Reason::ConsentDenied, out);
        }
    }

    fn acknowledged(&mut self, now: EpochMs, notice: Notice, out: &mut Out) {
        match notice {
            Notice::Before => {
                if self.state == State::Requested && self.terms.consent == ConsentRule::InformBefore {
                    self.enter(now, State::Authorised, out);
                }
            }
            Notice::After => {
                let settled = self.state == State::Attached && self.is_settled();
                if settled || matches!(self.state, State::Withdrawn | State::Retired) {
                    (self.acknowledged, self.notice_due) = (true, None);
                    if self.state == State::Retired {
                        self.done(now, out);
                    }
                }
            }
        }
    }

    /// Nothing leads back: identity 2 is the card's subscription, and register 1 may go.
    pub(super) fn settle(&mut self, now: EpochMs, out: &mut Out) {
        out.extend(self.identity.map(Command::Adopt));
        (self.tries, self.fence_due) = (0, None);
        self.tell_operator_1(now, out);
        self.effect(now, out);
    }

    fn tell_operator_1(&mut self, now: EpochMs, out: &mut Out) {
        self.notices = self.notices.saturating_add(1);
        self.notice_due = Some(now.plus_ms(pause_ms(self.notices)));
        out.push(Command::InformOperator1(Notice::After));
        if self.notices == ALARM_TRIES {
            out.push(Command::Alarm(Alarm::NotAcknowledged));
        }
    }

    fn done(&mut self, now: EpochMs, out: &mut Out) {
        self.note(now, State::Done);
        let kept = self.identity.and_then(|identity| identity.msisdn);
        let msisdn = self.msisdn.filter(|number| Some(*number) != kept);
        out.push(Command::ForgetAliases { imsi: self.imsi, msisdn });
    }

    pub(super) fn imsi_2(&self) -> Option<Imsi> {
        self.identity.map(|identity| identity.imsi)
    }

    /// The card cannot go back to identity 1 by itself.
    pub(super) fn is_settled(&self) -> bool {
        self.terms.guard_s.is_none() || self.committed
    }
}

/// 2, 4, 8, ... seconds, at most [`PAUSE_S_MAX`].
pub(super) fn pause_ms(tries: u16) -> i64 {
    (1_000_i64 << tries.min(16)).min(i64::from(PAUSE_S_MAX) * 1_000)
}
