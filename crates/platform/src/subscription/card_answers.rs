//! What becomes of packets, what the card answers, and what a change believes of it.

use simtide_protocol::ids::EpochMs;

use super::change::{Change, SEND_VALIDITY_S};
use super::machine::{ASKING_MS, ATTACH_WITHIN_MS, BUSY_MS, GRACE_MS, Out, QUEUE_AGAIN_MS, pause_ms};
use super::types::{Alarm, CardRefusal, CardSays, Command, PacketKind, Reason, State};

impl Change {
    pub(super) fn queued(&mut self, now: EpochMs, kind: PacketKind, counter: u64) {
        if self.packets.asked == Some(kind) {
            self.packets.asked = None;
        }
        let is_new = self.packets.last.is_none_or(|last| counter > last);
        if kind == PacketKind::Personalization && is_new {
            self.packets.last = Some(counter);
            self.packets.live = Some(counter);
            if self.state == State::Sent {
                self.due = Some(now.plus_ms(i64::from(SEND_VALIDITY_S) * 1_000 + GRACE_MS));
            }
        }
    }

    pub(super) fn not_queued(&mut self, now: EpochMs, kind: PacketKind, out: &mut Out) {
        if self.packets.asked != Some(kind) {
            return;
        }
        self.packets.asked = None;
        match kind {
            PacketKind::Personalization if self.state == State::Sent && self.may_be_in_session() => {
                // Only the packet has not left: a session carries the message, or has left it behind.
                self.packets.sent = self.packets.sent.saturating_sub(1);
                if !self.is_in_session() {
                    self.unknown(now, out);
                }
            }
            PacketKind::Personalization if self.state == State::Sent => {
                // Nothing has left: as if it had not been tried.
                self.packets.sent = self.packets.sent.saturating_sub(1);
                self.steps.pop();
                self.state = State::Armed;
                self.packets.waits = self.packets.waits.saturating_add(1);
                // 64 s first.
                self.due = Some(now.plus_ms(pause_ms(self.packets.waits.saturating_add(5))));
                if self.give_up {
                    self.close(now, State::Cancelled, Reason::Cancelled, out);
                }
            }
            PacketKind::Personalization => {}
            PacketKind::Fence => {
                self.packets.fences = self.packets.fences.saturating_sub(1);
                self.fence_due = Some(now.plus_ms(QUEUE_AGAIN_MS));
            }
        }
    }

    pub(super) fn lost(&mut self, now: EpochMs, kind: PacketKind, counter: u64, out: &mut Out) {
        match kind {
            PacketKind::Personalization => {
                if self.state == State::Sent && self.packets.live == Some(counter) {
                    self.unknown(now, out);
                }
            }
            PacketKind::Fence => {
                let again = now.plus_ms(pause_ms(self.packets.fences));
                self.fence_due = self.fence_due.map(|due| due.min(again));
            }
        }
    }

    pub(super) fn unknown(&mut self, now: EpochMs, out: &mut Out) {
        self.enter(now, State::Unknown, out);
        self.fence(now, out);
    }

    /// The card's answer to the personalization message itself.
    pub(super) fn answered(&mut self, now: EpochMs, counter: u64, says: CardSays, out: &mut Out) {
        self.queued(now, PacketKind::Personalization, counter);
        let is_last = self.packets.last == Some(counter);
        if !is_last && matches!(says, CardSays::Silent | CardSays::Asking | CardSays::Untouched(_)) {
            // An older message, dead by its counter.
            return;
        }
        if is_last && !matches!(says, CardSays::Silent | CardSays::Asking | CardSays::Untouched(None)) {
            // Executed once: a second copy is refused by its counter.
            self.packets.live = None;
        }
        self.says(now, says, is_last && self.packets.live.is_none(), out);
    }

    /// The card's answer to a fence. It is one only if its counter is above those of all personalization packets.
    pub(super) fn fenced(&mut self, now: EpochMs, counter: u64, says: CardSays, out: &mut Out) {
        if self.packets.asked == Some(PacketKind::Fence) {
            self.packets.asked = None;
        }
        let holds = self.packets.last.is_none_or(|last| counter > last)
            && self.packets.asked != Some(PacketKind::Personalization);
        if holds && says != CardSays::Asking {
            self.packets.live = None;
        }
        self.says(now, says, holds, out);
    }

    /// What the card says; `is_final`: no message of this change can make it untrue.
    pub(super) fn says(&mut self, now: EpochMs, says: CardSays, is_final: bool, out: &mut Out) {
        let is_final = is_final && !self.may_be_in_session();
        let may_be_on_card = matches!(self.state, State::Sent | State::Unknown);
        match says {
            CardSays::Staged | CardSays::Active if may_be_on_card => self.applied(now, out),
            CardSays::Committed if self.terms.guard_s.is_some() => self.commits(now, out),
            CardSays::Reverted if self.terms.guard_s.is_some() => self.reverts(now, is_final, out),
            CardSays::Untouched(refusal) if may_be_on_card && is_final => self.untouched(now, refusal, out),
            CardSays::Untouched(_) | CardSays::Silent if self.state == State::Sent => self.unknown(now, out),
            CardSays::Asking if self.state == State::Sent => self.due = Some(now.plus_ms(ASKING_MS)),
            CardSays::Asking if self.state == State::Unknown => {
                self.fence_due = Some(now.plus_ms(ASKING_MS));
            }
            _ => {}
        }
    }

    fn applied(&mut self, now: EpochMs, out: &mut Out) {
        self.enter(now, State::Applied, out);
        let guard_ms = i64::from(self.terms.guard_s.unwrap_or_default()) * 1_000;
        self.fence_due = Some(now.plus_ms(ATTACH_WITHIN_MS.max(guard_ms + GRACE_MS)));
    }

    fn commits(&mut self, now: EpochMs, out: &mut Out) {
        match self.state {
            State::Sent | State::Unknown => {
                self.committed = true;
                self.packets.live = None;
                self.applied(now, out);
            }
            State::Applied => self.committed = true,
            State::Attached if !self.is_settled() => {
                self.committed = true;
                self.settle(now, out);
            }
            _ => {}
        }
    }

    fn reverts(&mut self, now: EpochMs, is_final: bool, out: &mut Out) {
        let may_revert = !self.committed
            && matches!(self.state, State::Sent | State::Unknown | State::Applied | State::Attached);
        let may_come = self.packets.live.is_some() || self.may_be_in_session();
        match may_come {
            _ if !may_revert => {}
            // A message may have been reserved that nobody has told of yet; a fence will ask again.
            _ if self.packets.asked == Some(PacketKind::Personalization) => {}
            true if !is_final => {
                if self.state != State::Unknown {
                    self.unknown(now, out);
                }
            }
            _ => self.close(now, State::Reverted, Reason::Reverted, out),
        }
    }

    fn untouched(&mut self, now: EpochMs, refusal: Option<CardRefusal>, out: &mut Out) {
        match refusal {
            Some(refusal) if !refusal.is_passing() => {
                if matches!(refusal, CardRefusal::WrongCode | CardRefusal::Locked) {
                    out.push(Command::Alarm(Alarm::WrongAdminCode));
                }
                self.close(now, State::Refused, Reason::Card(refusal), out);
            }
            Some(_) => self.not_taken(now, BUSY_MS, out),
            None => self.not_taken(now, 0, out),
        }
    }

    /// The card has identity 1 and no message of this change can be executed any more: once more, or the end.
    fn not_taken(&mut self, now: EpochMs, after_ms: i64, out: &mut Out) {
        if self.give_up {
            self.close(now, State::Cancelled, Reason::Cancelled, out);
        } else if after_ms == 0 {
            self.enter(now, State::Armed, out);
        } else {
            self.note(now, State::Armed);
            self.due = Some(now.plus_ms(after_ms));
        }
    }
}
