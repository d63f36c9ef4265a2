//! What the card's answers make of a delivery.

use simtide_protocol::ids::EpochMs;
use simtide_protocol::poll_date::{MarkFile, MarkPhase};

use super::{Command, Delivery, Polled, State};
use crate::delivery::bearer::{Bearer, Bearers, Brought, Presence, Settings};
use crate::delivery::milestone::Milestone;
use crate::delivery::packing::{Portion, PortionFailing};
use crate::delivery::status::ScriptAnswer;

/// Counters in a row that the card may have had before; then the stored one is behind the card's.
const COUNTERS_LOW_MAX: u8 = 5;

impl Delivery {
    pub(super) fn proof(
        &mut self,
        now: EpochMs,
        Brought { by, to }: Brought,
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
        self.milestones.add(now, Milestone::Proof { by, to, answer });
        if answer.is_counter_low() && self.undoing.is_none() && portion.handed.is_none() {
            return self.had_before(now, by, presence, settings);
        }
        self.under_way = None;
        if self.state == State::Unproven {
            let good = answer.is_good(&portion) && !self.asking;
            // The rest was not sent in time; what is known is told.
            let last = usize::from(self.place) + 1 >= self.portions.len();
            return match (good, last) {
                (true, true) => self.close(now, State::Proven { by: carrier }),
                (true, false) => Vec::new(),
                (false, _) if self.asking => Vec::new(),
                (false, _) => self.close(now, State::Refused { answer }),
            };
        }
        if let Some(failure) = self.undoing {
            return self.close(now, State::Refused { answer: failure });
        }
        // A mark that cannot be asked for: nothing tells.
        let answer = if self.asking { ScriptAnswer::INTERRUPTED } else { answer };
        self.went(now, by, carrier, answer, presence, settings)
    }

    /// What follows the answer to the portion in turn.
    fn went(
        &mut self,
        now: EpochMs,
        by: Bearer,
        carrier: Bearer,
        answer: ScriptAnswer,
        presence: &Presence,
        settings: &Settings,
    ) -> Vec<Command> {
        let Some(portion) = self.portion().cloned() else { return Vec::new() };
        let good = answer.is_good(&portion);
        (self.asking, self.counters_low) = (false, 0);
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
        self.next(now, by, presence, settings)
    }

    /// The next packet. What reached the card is the best guess for what reaches it again.
    fn next(&mut self, now: EpochMs, by: Bearer, presence: &Presence, settings: &Settings) -> Vec<Command> {
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

    /// The card has had the packet before. No copy of it can have an effect any more, and one of them may have had it:
    /// where its proof may still come by short message, that is waited for.
    fn had_before(
        &mut self,
        now: EpochMs,
        by: Bearer,
        presence: &Presence,
        settings: &Settings,
    ) -> Vec<Command> {
        let Some(packet) = self.under_way.as_mut().filter(|_| self.state != State::Unproven) else {
            return Vec::new();
        };
        packet.had_before = true;
        let waits = packet.sms_until.filter(|until| *until > now);
        match waits {
            Some(until) => {
                self.turn = Some((Bearer::Sms, until));
                self.wake(until)
            }
            None => self.answer_lost(now, by, presence, settings),
        }
    }

    /// Whether the card has had the packet, and its proof is not waited for any longer.
    pub(super) fn is_answer_lost(&self, now: EpochMs) -> bool {
        let packet = self.under_way.as_ref().filter(|packet| packet.had_before);
        packet.is_some_and(|packet| packet.sms_until.is_none_or(|until| until <= now))
    }

    /// The proof is lost: the power went between the card's answer and the device's disk, or the network lost it.
    /// Repeatable content is sent once more, with a new counter; of other content the card's mark tells.
    pub(super) fn answer_lost(
        &mut self,
        now: EpochMs,
        by: Bearer,
        presence: &Presence,
        settings: &Settings,
    ) -> Vec<Command> {
        self.counters_low = self.counters_low.saturating_add(1);
        let abandon = self.under_way.take().map(|_| Command::Abandon);
        let marks = self.portion().is_some_and(|portion| portion.marks.is_some());
        let follows = if self.counters_low >= COUNTERS_LOW_MAX {
            self.close(now, State::Refused { answer: ScriptAnswer::COUNTER_LOW })
        } else if self.repeatable || marks {
            self.asking = !self.repeatable;
            self.next(now, by, presence, settings)
        } else {
            self.went(now, by, by, ScriptAnswer::INTERRUPTED, presence, settings)
        };
        abandon.into_iter().chain(follows).collect()
    }

    /// The card's mark decides what became of the portion whose answer is lost.
    pub(super) fn marked(
        &mut self,
        now: EpochMs,
        Brought { by, to }: Brought,
        mark: Option<MarkFile>,
        presence: &Presence,
        settings: &Settings,
    ) -> Vec<Command> {
        let portion = self.portion().filter(|_| self.asking && self.under_way.is_some());
        let Some((step, marks)) = portion.and_then(|portion| Some((portion.step, portion.marks.clone()?)))
        else {
            return Vec::new();
        };
        self.under_way = None;
        let of_step = mark.map(|mark| match mark {
            // Marks of others, and of steps before this one, say that it has not begun.
            MarkFile { campaign, step: at, .. } if campaign != marks.number || at < step => MarkPhase::None,
            MarkFile { step: at, .. } if at > step => MarkPhase::Done,
            mark => mark.phase,
        });
        let answer = match of_step {
            Some(MarkPhase::Done) => ScriptAnswer::OK,
            Some(MarkPhase::Begun) | None => ScriptAnswer::INTERRUPTED,
            Some(MarkPhase::None) => {
                self.asking = false;
                return self.next(now, by, presence, settings);
            }
        };
        self.milestones.add(now, Milestone::Proof { by, to, answer });
        self.went(now, by, by, answer, presence, settings)
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
