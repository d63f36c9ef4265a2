//! The rules of the line: what happens with the card at its head.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::engine::Absentees;
use super::run::Saved;
use super::types::milliseconds;
use super::{Candidate, Cursor, NeverSeen, Order, Settings};

/// Milestones kept per pass.
const MILESTONES_MAX: usize = 4_096;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The n-th attempt, from 1.
    Pass(u8),
    /// The attempt at cards that have never been in contact.
    NeverSeen,
    /// All attempts are made: is anybody still expected?
    Sweep,
}

impl Phase {
    /// What follows; `None`: the end.
    pub(super) fn after(self, settings: &Settings) -> Option<Self> {
        match self {
            Self::Pass(pass) if pass < settings.attempts => Some(Self::Pass(pass + 1)),
            Self::Pass(_) if settings.never_seen == NeverSeen::Last => Some(Self::NeverSeen),
            Self::Pass(_) | Self::NeverSeen => Some(Self::Sweep),
            Self::Sweep => None,
        }
    }

    /// The number of the attempt.
    pub(super) fn pass(self, settings: &Settings) -> u8 {
        match self {
            Self::Pass(pass) => pass,
            Self::NeverSeen => 1,
            Self::Sweep => settings.attempts,
        }
    }
}

/// Why a card is missing at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Absence {
    /// Never been in contact.
    NeverSeen,
    /// It has missed its own poll by more than triggers are sent for: off or dead.
    Overdue,
    /// Called in as often as allowed, and its own date has passed too.
    Silent,
}

impl Absentees {
    pub(super) fn count(&mut self, absence: Absence) {
        match absence {
            Absence::NeverSeen => self.never_seen += 1,
            Absence::Overdue => self.overdue += 1,
            Absence::Silent => self.silent += 1,
        }
    }
}

/// Why a card that has not had the campaign is not expected any more; `None` while it is. For lists of absentees.
pub fn absence<C>(settings: &Settings, now: EpochMs, candidate: &Candidate<C>) -> Option<Absence> {
    let missed_ms = now.ms_since(candidate.next_poll);
    if candidate.last_update.is_none() {
        (settings.never_seen != NeverSeen::LikeOthers || missed_ms > ms(settings.poll_grace_s))
            .then_some(Absence::NeverSeen)
    } else if missed_ms <= ms(settings.poll_grace_s) {
        None
    } else if missed_ms > ms(settings.overdue_max_s) {
        Some(Absence::Overdue)
    } else {
        Some(Absence::Silent)
    }
}

/// What happens with the head of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is passed by.
    Skip,
    /// It gets a trigger.
    Choose,
    /// It is missing.
    Count(Absence),
    /// The whole line waits, so that its order holds.
    Wait(EpochMs),
    /// The line ends here.
    End,
}

/// The rule for the head; no head: the line is at its end.
pub(super) fn next_step<C: Copy + Ord>(run: &Saved<C>, now: EpochMs, head: Option<&Candidate<C>>) -> Step {
    match (run.phase, head) {
        (Phase::Pass(pass), Some(head)) => in_pass(run, pass, now, head),
        (Phase::NeverSeen, Some(head)) if head.last_update.is_none() => Step::Choose,
        (Phase::NeverSeen, Some(_)) => Step::Skip,
        (Phase::Pass(_) | Phase::NeverSeen, None) => Step::End,
        (Phase::Sweep, head) => in_sweep(run, now, head),
    }
}

fn in_pass<C: Copy + Ord>(run: &Saved<C>, pass: u8, now: EpochMs, head: &Candidate<C>) -> Step {
    let settings = &run.settings;
    let by_date = settings.order == Order::NextPoll;
    let missed_ms = now.ms_since(head.next_poll);
    if head.last_update.is_none() {
        if settings.never_seen != NeverSeen::LikeOthers {
            // By last update they stand together at the end of the line.
            return if by_date { Step::Skip } else { Step::End };
        }
    } else if missed_ms >= -ms(settings.leave_to_poll_s) {
        // Its own poll is imminent, just due, or missed.
        let hopeless = missed_ms > ms(settings.overdue_max_s);
        let triggered = pass > 1 && missed_ms > ms(settings.poll_grace_s) && !hopeless;
        if !triggered {
            return if by_date && (pass == 1 || hopeless) { Step::End } else { Step::Skip };
        }
    }
    let backoff = ms(settings.backoff_s) << pass.saturating_sub(2).min(16);
    match run.before.at(head.place.key).map(|at| at.plus_ms(backoff)) {
        Some(ready) if pass > 1 && ready > now => Step::Wait(ready),
        _ => Step::Choose,
    }
}

/// The sweep stops at the first card that is still expected: by date that is the last one to come.
fn in_sweep<C: Copy + Ord>(run: &Saved<C>, now: EpochMs, head: Option<&Candidate<C>>) -> Step {
    let settings = &run.settings;
    // A trigger of the last batch may still be answered.
    let answered = run.last_trigger.map(|at| at.plus_s(i64::from(settings.validity_s)));
    if let Some(until) = answered.filter(|until| *until > now) {
        return Step::Wait(until);
    }
    let Some(head) = head else { return Step::End };
    match absence(settings, now, head) {
        Some(absence) => Step::Count(absence),
        None => {
            let expected = head.next_poll.plus_ms(ms(settings.poll_grace_s) + 1);
            let patience = ms(settings.leave_to_poll_s).max(expected.ms_since(now) / 8).max(1_000);
            Step::Wait(expected.min(now.plus_ms(patience)))
        }
    }
}

fn ms(seconds: u32) -> i64 {
    i64::from(seconds) * 1_000
}

/// When a pass was where in the line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Milestones {
    /// Where it began; what stands above has joined later.
    top: Option<Milestone>,
    /// Keys going down, times going up.
    steps: Vec<Milestone>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Milestone {
    #[serde(with = "milliseconds")]
    key: EpochMs,
    at: EpochMs,
}

impl Milestones {
    /// Everything in the line from the first to the last of these keys has been triggered by now.
    pub(super) fn note(&mut self, first: EpochMs, last: EpochMs, at: EpochMs) {
        self.top.get_or_insert(Milestone { key: first, at });
        match self.steps.last_mut() {
            Some(before) if before.key <= last => before.at = at,
            _ => self.steps.push(Milestone { key: last, at }),
        }
        if self.steps.len() > MILESTONES_MAX {
            // The later one of each pair stays, the last one in any case: a card waits too long rather than too short.
            let mut after = self.steps.len();
            self.steps.retain(|_| {
                after -= 1;
                after.is_multiple_of(2)
            });
        }
    }

    /// When a card of this key was triggered at the latest; `None`: it was not.
    pub(super) fn at(&self, key: EpochMs) -> Option<EpochMs> {
        if self.top.is_none_or(|top| key > top.key) {
            return None;
        }
        self.steps.get(self.steps.partition_point(|step| step.key > key)).map(|step| step.at)
    }

    /// Puts a later pass over this one: as far as it came, its times count.
    pub(super) fn overlay(&mut self, later: &Self) {
        if let Some(reached) = later.steps.last() {
            let rest = self.steps.partition_point(|step| step.key >= reached.key);
            let below = self.steps.split_off(rest);
            self.steps = later.steps.clone();
            self.steps.extend(below);
            let higher = |left: Milestone, right: Milestone| if left.key >= right.key { left } else { right };
            self.top = self.top.into_iter().chain(later.top).reduce(higher);
        }
    }
}

/// Whether one place of a lane lies strictly below another: what a store compares.
pub fn is_below<C: Ord>(place: &Cursor<C>, above: &Cursor<C>) -> bool {
    place > above
}
