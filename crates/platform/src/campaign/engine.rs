//! The engine: works campaigns off, card by card, in their order.
//!
//! ## States of a run
//!
//! | state | accepts | does | becomes |
//! |---|---|---|---|
//! | Pass(p) | Tick, Page, Taken, Pause, Stop, AudienceGrew | triggers the head of the line while it is allowed to; waits for the backoff of the head | Pass(p+1) at the end of the line; NeverSeen or Sweep after the last pass |
//! | NeverSeen | the same | triggers cards never seen, once (setting `never_seen = last`) | Sweep |
//! | Sweep | the same | looks whether anybody is still expected | Sweep again later; Finished |
//! | Paused | Resume, Stop, Page (dropped), Taken | nothing | the state before, from the top of the line |
//!
//! A pass gives each card at most one trigger, so passes are attempts. A line is the merge of all lanes by
//! [`Cursor`]; nothing leaves before every lane has shown its head, so the order holds over all buckets.
//! The first pass ends where the tide is met: at cards whose own poll is imminent. Later passes begin at the
//! top and find exactly those that stayed silent, and those that have missed their poll meanwhile.
//!
//! The backoff costs no row per card: as a pass goes down the line, it notes at which time it was where
//! (milestones), and the next pass waits at each place until its time plus the backoff has come.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::run::{Run, Saved};
use super::{Candidate, Cursor, Lane, Order, Settings};

/// Campaigns that run at the same time: the bits of a card's mask.
pub const CAMPAIGNS_RUNNING_MAX: usize = 64;

/// Rows of a page at most.
pub const PAGE_ROWS_MAX: u16 = 1_000;
/// Candidates that all lanes of a campaign hold together, about.
const CANDIDATES_HELD: usize = 200_000;
/// Rows of a page at least.
const PAGE_ROWS_MIN: usize = 16;

/// What happens to the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event<C> {
    /// So many triggers may leave now, over all campaigns.
    Tick {
        /// From the flow controller.
        triggers: u32,
    },
    /// The answer to [`Command::NextPage`].
    Page {
        /// As asked.
        campaign: u32,
        /// As asked.
        generation: u32,
        /// As asked.
        lane: Lane,
        /// In the order of the lane; none that the campaign does not concern, see [`Candidate`].
        candidates: Vec<Candidate<C>>,
        /// Where the next page begins: below this; `None`: the lane has ended. Rows that were left out move it.
        next: Option<Cursor<C>>,
    },
    /// The answer to [`Command::Trigger`], after the commit.
    Taken {
        /// As sent.
        campaign: u32,
        /// Number of the batch.
        batch: u64,
        /// As sent.
        lane: Lane,
        /// Cards that were triggered.
        taken: u32,
        /// Cards that had called meanwhile, or to which another packet is open.
        passed_over: u32,
    },
    /// Results of dialogues, for the thresholds.
    Results {
        /// Which campaign.
        campaign: u32,
        /// Cards done.
        done: u32,
        /// Cards failed.
        failed: u32,
    },
    /// What a user wants.
    Verb {
        /// Which campaign.
        campaign: u32,
        /// What.
        verb: Verb<C>,
    },
}

/// What a user wants of a campaign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb<C> {
    /// Begin.
    Start {
        /// How it runs.
        settings: Settings,
        /// The lanes that its audience can stand in.
        lanes: Vec<Lane>,
    },
    /// Go on where a process that has ended left off.
    Restore(Box<Saved<C>>),
    /// Let nothing leave until further notice.
    Pause,
    /// Go on, from the top of the line.
    Resume,
    /// End.
    Stop,
    /// Cards have joined: look at the line from the top again.
    AudienceGrew {
        /// The lanes that its audience can stand in now; those it knows already are not lost.
        lanes: Vec<Lane>,
    },
}

/// What the engine wants done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command<C> {
    /// Read the next candidates of a lane.
    NextPage {
        /// For which campaign: its audience, its number.
        campaign: u32,
        /// Echoed: pages asked for before the line was begun anew are dropped.
        generation: u32,
        /// The lane.
        lane: Lane,
        /// Its order.
        order: Order,
        /// Candidates strictly below; `None`: from the top.
        below: Option<Cursor<C>>,
        /// At most so many, at most [`PAGE_ROWS_MAX`]. Fewer are fine, even none, as long as `next` moves on.
        rows: u16,
    },
    /// Take these cards and send them a trigger. One batch consists of one such command per lane concerned.
    Trigger {
        /// For which campaign.
        campaign: u32,
        /// 1 for the first attempt.
        pass: u8,
        /// The batch that it belongs to.
        batch: Batch,
        /// All cards are in it.
        lane: Lane,
        /// The cards, in the order of the line.
        cards: Vec<Chosen<C>>,
        /// Where the lane stands afterwards, to be committed with the cards.
        cursor: Cursor<C>,
        /// How long the network may try, in seconds.
        validity_s: u32,
    },
    /// Nothing happens before this moment: a tick is due then at the latest.
    WakeAt(EpochMs),
    /// Keep [`Engine::saved`] of this campaign.
    Save {
        /// Which.
        campaign: u32,
    },
    /// A threshold has paused the campaign.
    Paused {
        /// Which.
        campaign: u32,
        /// Cards failed.
        failed: u64,
        /// Cards done.
        done: u64,
    },
    /// Nobody is expected any more.
    Finished {
        /// Which.
        campaign: u32,
        /// Who is missing.
        absentees: Absentees,
    },
}

/// Triggers that leave together: when and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// 1, 2, 3, ... within the campaign.
    pub number: u64,
    /// Cards in it, over all lanes.
    pub size: u32,
    /// When it left.
    pub at: EpochMs,
}

/// A card chosen for a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen<C> {
    /// The card.
    pub card: C,
    /// Its place among all that the campaign has chosen, from 0: the order in which triggers are submitted.
    pub rank: u64,
    /// The last contact when the page was read: another one now means that it has called meanwhile.
    pub last_update: Option<EpochMs>,
}

/// Cards that a finished campaign has not reached, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Absentees {
    /// Never been in contact.
    pub never_seen: u64,
    /// Off or dead for longer than triggers are sent.
    pub overdue: u64,
    /// Called in as often as allowed, silent, and their own date has passed.
    pub silent: u64,
}

/// Works all running campaigns off, sharing what may leave by their weights.
#[derive(Debug, Clone)]
pub struct Engine<C> {
    runs: Vec<Run<C>>,
    commands: VecDeque<Command<C>>,
}

impl<C: Copy + Ord> Default for Engine<C> {
    fn default() -> Self {
        Self { runs: Vec::new(), commands: VecDeque::new() }
    }
}

impl<C: Copy + Ord> Engine<C> {
    /// Takes an event in; what follows is read by [`Engine::next_command`].
    pub fn handle(&mut self, now: EpochMs, event: Event<C>) {
        match event {
            Event::Tick { triggers } => self.tick(now, triggers),
            Event::Page { campaign, generation, lane, candidates, next } => {
                self.with(campaign, |run, commands| {
                    if run.page(generation, lane, candidates, next) {
                        run.advance(now, commands);
                    }
                });
            }
            Event::Taken { campaign, passed_over, .. } => {
                self.with(campaign, |run, commands| run.taken(now, passed_over, commands));
            }
            Event::Results { campaign, done, failed } => {
                self.with(campaign, |run, commands| run.results(done, failed, commands));
            }
            Event::Verb { campaign, verb } => self.verb(now, campaign, verb),
        }
        self.runs.retain(|run| !run.is_over());
    }

    /// The next thing to do, in order; `None` until the next event.
    pub fn next_command(&mut self) -> Option<Command<C>> {
        self.commands.pop_front()
    }

    /// What a later process needs to go on with a campaign; `None` where it does not run.
    pub fn saved(&self, campaign: u32) -> Option<Saved<C>> {
        self.runs.iter().find(|run| run.number() == campaign).map(Run::saved)
    }

    /// The largest batch of all running campaigns.
    pub fn batch_max(&self) -> u32 {
        self.runs.iter().map(Run::batch_size).max().unwrap_or(1)
    }

    /// Whether any campaign could use more triggers now.
    pub fn is_hungry(&self) -> bool {
        self.runs.iter().any(Run::is_hungry)
    }

    fn with(&mut self, campaign: u32, change: impl FnOnce(&mut Run<C>, &mut VecDeque<Command<C>>)) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.number() == campaign) {
            change(run, &mut self.commands);
        }
    }

    fn verb(&mut self, now: EpochMs, campaign: u32, verb: Verb<C>) {
        let known = self.runs.iter().any(|run| run.number() == campaign);
        let room = self.runs.len() < CAMPAIGNS_RUNNING_MAX;
        let new = match verb {
            Verb::Start { settings, lanes } => Run::started(campaign, settings, lanes),
            Verb::Restore(saved) => Run::restored(campaign, *saved),
            Verb::Pause => return self.with(campaign, |run, commands| run.pause(commands)),
            Verb::Resume => return self.with(campaign, |run, commands| run.resume(now, commands)),
            Verb::AudienceGrew { lanes } => {
                return self.with(campaign, |run, commands| {
                    run.widen(&lanes);
                    run.look_again(now, commands);
                });
            }
            Verb::Stop => return self.runs.retain(|run| run.number() != campaign),
        };
        // A second start changes nothing: whoever repeats a verb after a lost answer gets what runs already.
        if !known && room {
            self.runs.push(new);
            self.commands.push_back(Command::Save { campaign });
            self.with(campaign, |run, commands| run.advance(now, commands));
        }
    }

    /// Shares what may leave. What a run has saved up for its batch stays its own.
    fn tick(&mut self, now: EpochMs, triggers: u32) {
        self.runs.iter_mut().for_each(|run| run.wake(now));
        let saved: u64 = self.runs.iter().map(|run| u64::from(run.credit())).sum();
        let mut fresh = u64::from(triggers);
        if saved > fresh {
            // The flow has shrunk: nobody keeps anything.
            self.runs.iter_mut().for_each(Run::drop_credit);
        } else {
            fresh -= saved;
        }
        let weights: u64 = self.runs.iter().filter(|run| run.is_hungry()).map(Run::weight).sum();
        if weights > 0 {
            let mut rest = fresh;
            for run in self.runs.iter_mut().filter(|run| run.is_hungry()) {
                // Each share is rounded down, so they do not exceed the whole.
                rest = rest.saturating_sub(run.grant(fresh, weights));
            }
            self.grant_rest(rest);
        }
        for run in &mut self.runs {
            run.advance(now, &mut self.commands);
        }
    }

    /// What rounding left over goes to those who have been rounded down most.
    fn grant_rest(&mut self, rest: u64) {
        for _ in 0..rest {
            let most = self
                .runs
                .iter_mut()
                .filter(|run| run.is_hungry())
                .max_by(|a, b| a.owed().total_cmp(&b.owed()));
            if let Some(run) = most {
                run.grant_one();
            }
        }
    }
}

/// Rows of a page, so that many lanes do not hold more than a few lanes would.
pub(super) fn page_rows(lanes: usize) -> u16 {
    // At most PAGE_ROWS_MAX, which fits.
    (CANDIDATES_HELD / lanes.max(1)).clamp(PAGE_ROWS_MIN, usize::from(PAGE_ROWS_MAX)) as u16
}
