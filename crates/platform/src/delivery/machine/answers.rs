//! What the card's answers make of a delivery.

use simtide_protocol::ids::EpochMs;

use super::{Command, Delivery, Polled, State};
use crate::delivery::bearer::{Bearer, Bearers, Presence, Settings};
use crate::delivery::milestone::Milestone;
use crate::delivery::packing::{Portion, PortionFailing};
use crate::delivery::status::ScriptAnswer;

impl Delivery {
    pub(super) fn proof(
        &mut self,
        now: EpochMs,
        by: Bearer,
        answer: ScriptAnswer,
        presence: &Presence,
        settings: &Settings,
    ) -> Vec<Command> {
        let (Some(packet), Some(portion)) = (&self.under_way, self.portion().cloned()) else {
            return Vec::new();
        };
        if answer.is_provisional() {
            return Vec::new();
        }
        // What carried it: where only one bearer had a copy, that one; else the one that brought the proof.
        let carrier = match (packet.sms_copies > 0, packet.ip_copy) {
            (true, false) => Bearer::Sms,
            (false, true) => Bearer::Ip,
            _ => by,
        };
        let good = answer.is_good(&portion);
        self.milestones.add(now, Milestone::Proof { by, answer });
        self.under_way = None;
        if self.state == State::Unproven {
            // The rest was not sent in time; what is known is told.
            let last = usize::from(self.place) + 1 >= self.portions.len();
            return match (good, last) {
                (true, true) => self.close(now, State::Proven { by: carrier }),
                (true, false) => Vec::new(),
                (false, _) => self.close(now, State::Refused { answer }),
            };
        }
        if let Some(failure) = self.undoing {
            return self.close(now, State::Refused { answer: failure });
        }
        let step = match (good, &portion.failing) {
            (true, _) => 1,
            (false, PortionFailing::GoOn(step)) if answer.was_executed() => (*step).max(1),
            (false, PortionFailing::Undo(..)) if answer.was_executed() => {
                self.undo_after(usize::from(self.place));
                self.undoing = Some(answer);
                1
            }
            (false, _) => return self.close(now, State::Refused { answer }),
        };
        self.place = self.place.saturating_add(step);
        if usize::from(self.place) >= self.portions.len() {
            return self.close(now, State::Proven { by: carrier });
        }
        // What reached the card is the best guess for the next packet.
        self.state = State::Requested;
        self.turn = None;
        self.tried = Bearers::NONE;
        if by == Bearer::Ip && self.bearers.contains(Bearer::Ip) {
            let until = now.plus_s(settings.ip_wait_s.into()).min(self.limit);
            self.turn = Some((Bearer::Ip, until));
            return self.wake(until);
        }
        self.look(now, presence, settings)
    }

    /// After the portion at this place nothing follows but what undoes it.
    pub(super) fn undo_after(&mut self, place: usize) {
        let Some(portion) = self.portions.get(place).cloned() else { return };
        if let PortionFailing::Undo(undo, commands) = portion.failing.clone() {
            self.portions.truncate(place + 1);
            let failing = PortionFailing::Stop;
            self.portions.push(Portion { data: undo, commands, failing, ..portion });
        }
    }

    pub(super) fn polled(
        &mut self,
        now: EpochMs,
        outcome: Polled,
        presence: &Presence,
        settings: &Settings,
    ) -> Vec<Command> {
        if self.state != State::Polling {
            return Vec::new();
        }
        match outcome {
            Polled::Done => self.close(now, State::Proven { by: Bearer::Poll }),
            Polled::Failed(answer) => self.close(now, State::Refused { answer }),
            Polled::Broken { marked } => {
                self.state = State::Requested;
                self.milestones.add(now, Milestone::FailedBy { bearer: Bearer::Poll });
                if marked && !self.repeatable {
                    // Only a poll can read the mark that says what was executed.
                    self.bearers = Bearers::NONE.with(Bearer::Poll);
                }
                self.look(now, presence, settings)
            }
        }
    }
}
