//! One poll of a card: what it gets, and the machine that leads the session.
//!
//! | state | accepts | gives | next |
//! |---|---|---|---|
//! | (new) | [`Dialogue::open`] | Commit(begun, attempt) | Committing |
//! | Committing | Committed | Send(mark reading), Send(step), Send(date) or Finish | Reading, Running, Dating, Over |
//! | Reading: EF.MARK is asked for | Scripted | Commit(outcomes, attempt) or Send(step) | Committing, Running |
//! | Running: a script of a step is on the card | Scripted | Send(next script or undo), Commit(attempt), Commit(ended) | Running, Committing |
//! | Dating: the date is on its way | Scripted | Commit(ended) | Committing |
//! | any | Broken | Commit(ended, broken) | Over |
//! | Over | anything | nothing | Over |
//!
//! Every state but Over waits without a deadline of its own: the shell bounds the session and gives Broken.
//!
//! Rules (the invariants of the trust page in brackets):
//! - Nothing is sent before the session's first commit, which reserves the next poll date (C5).
//! - A step that is not repeatable is committed as an attempt before it is sent (C1). Its scripts write "begun" into
//!   the card's mark first and "done" last. After a break the mark is read before anything else runs, also for a
//!   campaign that is paused now, because the next script would overwrite it.
//! - A campaign counts as applied when the answer to its last script has arrived, and not before. A session that
//!   breaks records what was answered to the end before; the campaign under way is recorded as nothing.
//! - What is known to be done and not repeatable is durable before the next step is sent.
//! - The date of the next poll is part of the last script where that manages files, and a script of its own where it
//!   has to be written and could not be.

mod offer;
mod record;
mod script;
#[cfg(test)]
mod tests;

pub use offer::{CAMPAIGNS_PER_POLL_MAX, CardRow, CardRowStatus, Offer, StartedCampaign, Work, offer};
pub use record::{
    Attempt, CampaignOutcome, Command, Ended, Event, Failure, FailureCause, Outcome, PollRecord, Script,
};

use crate::content::{Failing, PreparedStep};
use script::{Layout, Wrapping};
pub(crate) use script::{mark_reading, mark_script};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::poll_date::{self, MarkPhase};
use simtide_protocol::profile::Profile;
use simtide_protocol::scp81::ScriptStatus;
use std::sync::Arc;

/// What a session begins with.
#[derive(Debug, Clone)]
pub struct Opened {
    /// What the card gets.
    pub offer: Offer,
    /// What kind of card it is.
    pub profile: Arc<Profile>,
    /// Now.
    pub now: EpochMs,
    /// The date that stands in the card's EF.POLL, as far as the platform knows; `None` for a card that has never
    /// been in contact.
    pub planned: Option<EpochMs>,
    /// The date that it is to be given.
    pub next_poll: EpochMs,
    /// By how much the card's clock at the end of the session may differ from `now`, in seconds: a date that the
    /// card's own rule gives for all of these clocks is not written.
    pub clock_tolerance_s: u32,
    /// `X-Admin-Resume`: the card's last dialogue broke, so nobody knows which date it has. What else was left open
    /// is known from its rows, whether the card says so or not.
    pub resume: bool,
}

/// The machine of one session.
#[derive(Debug)]
pub struct Dialogue {
    profile: Arc<Profile>,
    work: Vec<Work>,
    settled: u32,
    left_over: Vec<u32>,
    next_poll: EpochMs,
    /// What the card's own rule gives, where it is certain.
    by_rule: Option<EpochMs>,
    /// What it most likely gives.
    likely: EpochMs,
    dated: bool,
    date_tried: bool,
    state: State,
    place: Place,
    /// To be committed with the next commit.
    pending: PollRecord,
    /// The attempt that is durable for the step under way.
    attempted: bool,
    /// The first failure that was let go by, of the campaign under way.
    let_go: Option<Failure>,
}

/// Where the session stands in its work.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    work: usize,
    step: usize,
    script: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Committing(Next),
    Reading,
    Running(Layout),
    /// An undo script is on the card; the failure that led to it.
    Undoing(Failure, Layout),
    Dating(Layout),
    Over,
}

/// What follows a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    Run,
    Date,
    Finish,
}

impl Dialogue {
    /// Begins a session; the command is always a commit.
    pub fn open(opened: Opened) -> (Self, Command) {
        let Opened { offer, profile, now, planned, next_poll, clock_tolerance_s, resume } = opened;
        let period_s = profile.poll.period_s;
        let by_rule = planned
            .filter(|_| !resume)
            .and_then(|date| poll_date::following_for_any_clock(date, period_s, now, clock_tolerance_s));
        let nothing = offer.nothing.into_iter().map(|(campaign, number)| CampaignOutcome {
            campaign,
            number,
            outcome: Outcome::Nothing,
        });
        let mut dialogue = Self {
            likely: planned.map_or(next_poll, |date| poll_date::following(date, period_s, now)),
            by_rule,
            profile,
            work: offer.work,
            settled: offer.settled,
            left_over: offer.left_over,
            next_poll,
            dated: false,
            date_tried: false,
            state: State::Over,
            place: Place::default(),
            pending: PollRecord {
                begun: Some(next_poll),
                outcomes: nothing.collect(),
                ..PollRecord::default()
            },
            attempted: false,
            let_go: None,
        };
        let command =
            if dialogue.work.iter().any(|work| work.unanswered.is_some() && !work.content.repeatable) {
                dialogue.commit(Next::Read)
            } else {
                dialogue.work.retain(|work| work.runs);
                dialogue.advance()
            };
        (dialogue, command)
    }

    /// Whether nothing more can come of this session.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes what has happened. An event that the state does not expect is a mistake of the shell and ends the session
    /// as broken.
    pub fn handle(&mut self, event: Event) -> Option<Command> {
        match (self.state, event) {
            (State::Over, _) => None,
            (State::Committing(next), Event::Committed) => Some(self.committed(next)),
            (State::Reading, Event::Scripted { status, body }) => Some(self.mark_read(status, &body)),
            (State::Running(layout), Event::Scripted { status, body }) => {
                Some(self.step_answered(layout, status, &body))
            }
            (State::Undoing(failure, layout), Event::Scripted { status, body }) => {
                let undone = script::read(layout, status, &body, false).content.is_ok();
                Some(self.campaign_over(Outcome::Failed(failure, Some(undone))))
            }
            (State::Dating(layout), Event::Scripted { status, body }) => {
                self.dated = script::read(layout, status, &body, false).dated;
                Some(self.advance())
            }
            (_, Event::Broken | Event::Committed | Event::Scripted { .. }) => Some(self.broken()),
        }
    }

    fn commit(&mut self, next: Next) -> Command {
        self.state = State::Committing(next);
        Command::Commit(std::mem::take(&mut self.pending))
    }

    /// Runs `next` at once, or after a commit where something has to be durable before.
    fn commit_before(&mut self, next: Next) -> Command {
        if self.pending.begun.is_some() || !self.pending.attempts.is_empty() {
            self.commit(next)
        } else {
            self.committed(next)
        }
    }

    fn committed(&mut self, next: Next) -> Command {
        match next {
            Next::Read => match script::of_mark(&self.profile) {
                Some(script) => {
                    self.state = State::Reading;
                    Command::Send(script)
                }
                None => self.mark_read(ScriptStatus::UnknownApplication, &[]),
            },
            Next::Run => self.send_step(),
            Next::Date => match script::of_date(&self.profile, self.next_poll) {
                Some((script, layout)) => {
                    self.state = State::Dating(layout);
                    Command::Send(script)
                }
                None => self.advance(),
            },
            Next::Finish => {
                self.state = State::Over;
                Command::Finish
            }
        }
    }

    /// Goes to the next script, or to the end.
    fn advance(&mut self) -> Command {
        if let Some(work) = self.work.get(self.place.work) {
            if !work.content.repeatable && !self.attempted {
                // At most 64 steps.
                let step = self.place.step as u8;
                self.pending.attempts.push(Attempt { campaign: work.campaign, step });
                self.attempted = true;
            }
            return self.commit_before(Next::Run);
        }
        let must_date = !self.dated && !self.follows_rule() && !self.date_tried;
        if must_date {
            self.date_tried = true;
            return self.commit_before(Next::Date);
        }
        self.pending.ended = Some(self.end(false));
        self.commit(Next::Finish)
    }

    /// Whether the card comes to the reserved date by itself. Cards know whole seconds.
    fn follows_rule(&self) -> bool {
        self.by_rule.is_some_and(|date| date.seconds() == self.next_poll.seconds())
    }

    fn end(&self, broken: bool) -> Ended {
        let not_offered =
            self.work.iter().skip(self.place.work).filter(|work| work.runs).map(|work| work.campaign);
        let not_offered = not_offered.chain(self.left_over.iter().copied()).collect();
        // A card that was not given its date goes by its own rule.
        let own = (!broken && !self.dated && !self.follows_rule()).then_some(self.likely);
        Ended { broken, settled: self.settled, next_poll: own, not_offered }
    }

    fn broken(&mut self) -> Command {
        self.state = State::Over;
        self.pending.ended = Some(self.end(true));
        Command::Commit(std::mem::take(&mut self.pending))
    }

    fn step(&self) -> Option<(&Work, &PreparedStep)> {
        let work = self.work.get(self.place.work)?;
        Some((work, work.content.steps.get(self.place.step)?))
    }

    fn send_step(&mut self) -> Command {
        let Place { work: work_place, step: step_place, script: script_place } = self.place;
        let Some((work, step)) = self.step() else { return self.next_campaign() };
        let Some(commands) = step.scripts.get(script_place) else { return self.next_step() };
        let last_script = script_place + 1 == step.scripts.len();
        let last_of_all =
            last_script && step_place + 1 == work.content.steps.len() && work_place + 1 == self.work.len();
        let mark = |phase| script::mark(work.number, step_place as u8, phase);
        let marked = !work.content.repeatable;
        let wrapping = Wrapping {
            begun: (marked && script_place == 0).then(|| mark(MarkPhase::Begun)),
            done: (marked && last_script).then(|| mark(MarkPhase::Done)),
            date: last_of_all.then_some(self.next_poll),
        };
        match script::of_step(&self.profile, step, commands, wrapping) {
            Some((script, layout)) => {
                self.state = State::Running(layout);
                Command::Send(script)
            }
            None => self.step_failed(FailureCause::Unreadable),
        }
    }

    fn step_answered(&mut self, layout: Layout, status: ScriptStatus, body: &[u8]) -> Command {
        let finds_nothing =
            self.place.script == 0 && self.step().is_some_and(|(_, step)| step.first_may_find_nothing);
        let verdict = script::read(layout, status, body, finds_nothing);
        self.dated |= verdict.dated;
        match verdict.content {
            Err(cause) => self.step_failed(cause),
            Ok(()) => {
                self.place.script += 1;
                let more = self.step().is_some_and(|(_, step)| self.place.script < step.scripts.len());
                if more { self.advance() } else { self.next_step() }
            }
        }
    }

    fn step_failed(&mut self, cause: FailureCause) -> Command {
        let failure = Failure { step: self.place.step as u8, cause };
        match self.step().map(|(_, step)| step.failing.clone()) {
            Some(Failing::GoOn) => {
                self.let_go.get_or_insert(failure);
                self.next_step()
            }
            Some(Failing::Undo(_)) => self.send_undo(failure),
            Some(Failing::Stop) | None => self.campaign_over(Outcome::Failed(failure, None)),
        }
    }

    fn send_undo(&mut self, failure: Failure) -> Command {
        let sent = self.step().and_then(|(_, step)| match &step.failing {
            Failing::Undo(commands) => script::of_step(&self.profile, step, commands, Wrapping::default()),
            Failing::Stop | Failing::GoOn => None,
        });
        match sent {
            Some((script, layout)) => {
                self.state = State::Undoing(failure, layout);
                Command::Send(script)
            }
            None => self.campaign_over(Outcome::Failed(failure, Some(false))),
        }
    }

    fn next_step(&mut self) -> Command {
        self.place.step += 1;
        self.place.script = 0;
        self.attempted = false;
        if self.step().is_some() { self.advance() } else { self.next_campaign() }
    }

    fn next_campaign(&mut self) -> Command {
        let let_go = self.let_go.take();
        self.campaign_over(Outcome::Done(let_go))
    }

    /// Notes what became of the campaign under way and goes to the next one.
    fn campaign_over(&mut self, outcome: Outcome) -> Command {
        if let Some(work) = self.work.get(self.place.work) {
            self.pending.outcomes.push(CampaignOutcome {
                campaign: work.campaign,
                number: work.number,
                outcome,
            });
        }
        self.let_go = None;
        self.attempted = false;
        self.place.script = 0;
        self.place.work += 1;
        self.place.step = self.first_step();
        self.advance()
    }

    /// The step with which the campaign under way begins: those before it are settled.
    fn first_step(&self) -> usize {
        let work = self.work.get(self.place.work);
        work.filter(|work| !work.content.repeatable).and_then(|work| work.unanswered).map_or(0, usize::from)
    }

    /// Decides what became of the steps that were sent before and never answered.
    fn mark_read(&mut self, status: ScriptStatus, body: &[u8]) -> Command {
        let Some(mark) = script::read_mark(status, body) else {
            // The mark decides, and it cannot be read: nothing that depends on it runs in this session.
            self.left_over
                .extend(self.work.iter().filter(|work| !work.content.repeatable).map(|work| work.campaign));
            self.work.retain(|work| work.content.repeatable && work.runs);
            return self.advance();
        };
        let PollRecord { outcomes, attempts, .. } = &mut self.pending;
        self.work.retain_mut(|work| {
            let Some(step) = work.unanswered.filter(|_| !work.content.repeatable) else { return work.runs };
            let over = |outcome| CampaignOutcome { campaign: work.campaign, number: work.number, outcome };
            // Marks of other campaigns, and of steps before this one, say that this step has not begun.
            if mark.campaign != work.number || mark.step < step {
                return work.runs;
            }
            match mark.phase {
                MarkPhase::None => work.runs,
                MarkPhase::Begun => {
                    outcomes.push(over(Outcome::Interrupted { step: mark.step }));
                    false
                }
                MarkPhase::Done if usize::from(mark.step) + 1 >= work.content.steps.len() => {
                    outcomes.push(over(Outcome::Done(None)));
                    false
                }
                MarkPhase::Done => {
                    // Durable before another script overwrites the mark that says so.
                    attempts.push(Attempt { campaign: work.campaign, step: mark.step + 1 });
                    work.unanswered = Some(mark.step + 1);
                    work.runs
                }
            }
        });
        self.place.step = self.first_step();
        self.advance()
    }
}
