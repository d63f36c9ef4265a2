//! One campaign at work; the states are told in [`super::engine`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::engine::{Absentees, Batch, Chosen, Command, PAGE_ROWS_MAX, page_rows};
use super::line::{Milestones, Phase, Step, next_step};
use super::{Candidate, Cursor, Lane, Settings};

/// What of a run outlives a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved<C> {
    /// How it runs.
    pub settings: Settings,
    /// Where it is.
    pub phase: Phase,
    /// Whether it waits for a resume.
    pub paused: bool,
    /// Where each lane stands: the last place taken (`None`: the top), and whether it has ended.
    pub lanes: Vec<(Lane, Option<Cursor<C>>, bool)>,
    /// When the pass before was where.
    pub before: Milestones,
    /// When this pass was where.
    pub here: Milestones,
    /// Batches that have left.
    pub batches: u64,
    /// Cards chosen.
    pub triggered: u64,
    /// Of them, cards that had called meanwhile.
    pub passed_over: u64,
    /// When the last trigger left.
    pub last_trigger: Option<EpochMs>,
    /// Results so far.
    pub done: u64,
    /// Failed results so far.
    pub failed: u64,
}

impl<C> Saved<C> {
    /// Adds lanes that it does not know, at their tops: an operator has joined.
    pub fn widen(&mut self, lanes: &[Lane]) {
        for lane in lanes {
            if !self.lanes.iter().any(|(known, ..)| known == lane) {
                self.lanes.push((*lane, None, false));
            }
        }
    }
}

/// One campaign at work.
#[derive(Debug, Clone)]
pub(super) struct Run<C> {
    number: u32,
    /// `lanes` in it is a copy of where the lanes of the run stood when something last left.
    kept: Saved<C>,
    lanes: Vec<LaneState<C>>,
    /// The heads of all lanes that show one, the next of the line on top.
    heads: BinaryHeap<Reverse<(Cursor<C>, usize)>>,
    /// Lanes that have not ended and show no head: nothing leaves while there is one.
    unread: usize,
    generation: u32,
    rows: u16,
    chosen: Vec<(usize, Cursor<C>, Chosen<C>)>,
    credit: u32,
    owed: f64,
    /// Not before this moment, by the backoff or between two sweeps.
    wait: Option<EpochMs>,
    absentees: Absentees,
    over: bool,
}

#[derive(Debug, Clone)]
struct LaneState<C> {
    lane: Lane,
    waiting: VecDeque<Candidate<C>>,
    /// The last place taken or skipped.
    position: Option<Cursor<C>>,
    /// Where the next page begins.
    below: Option<Cursor<C>>,
    requested: bool,
    ended: bool,
}

impl<C: Copy + Ord> Run<C> {
    pub(super) fn started(number: u32, settings: Settings, lanes: Vec<Lane>) -> Self {
        let saved = Saved {
            settings,
            phase: Phase::Pass(1),
            paused: false,
            lanes: lanes.into_iter().map(|lane| (lane, None, false)).collect(),
            before: Milestones::default(),
            here: Milestones::default(),
            batches: 0,
            triggered: 0,
            passed_over: 0,
            last_trigger: None,
            done: 0,
            failed: 0,
        };
        Self::restored(number, saved)
    }

    pub(super) fn restored(number: u32, saved: Saved<C>) -> Self {
        let mut run = Self {
            number,
            lanes: Vec::new(),
            heads: BinaryHeap::new(),
            unread: 0,
            generation: 0,
            rows: page_rows(saved.lanes.len()),
            chosen: Vec::new(),
            credit: 0,
            owed: 0.0,
            wait: None,
            absentees: Absentees::default(),
            over: false,
            kept: saved,
        };
        run.begin_line();
        run
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn saved(&self) -> Saved<C> {
        self.kept.clone()
    }

    pub(super) fn batch_size(&self) -> u32 {
        self.kept.settings.batch_size
    }

    pub(super) fn weight(&self) -> u64 {
        u64::from(self.kept.settings.weight)
    }

    pub(super) fn credit(&self) -> u32 {
        self.credit
    }

    pub(super) fn owed(&self) -> f64 {
        self.owed
    }

    pub(super) fn drop_credit(&mut self) {
        self.credit = 0;
    }

    /// Whether it could use triggers now.
    pub(super) fn is_hungry(&self) -> bool {
        !self.kept.paused && self.wait.is_none() && self.kept.phase != Phase::Sweep
    }

    /// Its share of what may leave, rounded down; what is cut off is owed.
    pub(super) fn grant(&mut self, fresh: u64, weights: u64) -> u64 {
        let exact = fresh as f64 * self.weight() as f64 / weights as f64;
        let whole = exact.floor();
        self.owed += exact - whole;
        self.credit = self.credit.saturating_add(whole as u32);
        whole as u64
    }

    pub(super) fn grant_one(&mut self) {
        self.owed -= 1.0;
        self.credit = self.credit.saturating_add(1);
    }

    /// What the store has passed over leaves room for others at once: where much of a page has called since it was
    /// read, the line would otherwise fall behind the tide.
    pub(super) fn taken(&mut self, now: EpochMs, passed_over: u32, commands: &mut VecDeque<Command<C>>) {
        self.kept.passed_over += u64::from(passed_over);
        if passed_over > 0 && self.is_hungry() {
            self.credit = self.credit.saturating_add(passed_over);
            self.advance(now, commands);
        }
    }

    pub(super) fn results(&mut self, done: u32, failed: u32, commands: &mut VecDeque<Command<C>>) {
        self.kept.done += u64::from(done);
        self.kept.failed += u64::from(failed);
        let thresholds = self.kept.settings.thresholds;
        let results = self.kept.done + self.kept.failed;
        let too_many = self.kept.failed * 100 >= results * u64::from(thresholds.failed_percent);
        let counts = thresholds.failed_percent < 100 && results >= u64::from(thresholds.results_min);
        if counts && too_many && !self.kept.paused {
            let (failed, done) = (self.kept.failed, self.kept.done);
            commands.push_back(Command::Paused { campaign: self.number, failed, done });
            self.pause(commands);
        }
    }

    pub(super) fn pause(&mut self, commands: &mut VecDeque<Command<C>>) {
        if !self.kept.paused {
            self.kept.paused = true;
            self.credit = 0;
            commands.push_back(Command::Save { campaign: self.number });
        }
    }

    pub(super) fn resume(&mut self, now: EpochMs, commands: &mut VecDeque<Command<C>>) {
        if self.kept.paused {
            self.kept.paused = false;
            self.look_again(now, commands);
        }
    }

    /// Adds lanes; a look at the whole line follows.
    pub(super) fn widen(&mut self, lanes: &[Lane]) {
        self.kept.widen(lanes);
        self.rows = page_rows(self.kept.lanes.len());
    }

    /// Looks at the whole line again, because cards may stand in it above the cursor: after a pause, or when
    /// cards have joined. Who has had a trigger in this pass keeps its backoff.
    pub(super) fn look_again(&mut self, now: EpochMs, commands: &mut VecDeque<Command<C>>) {
        if self.kept.phase == Phase::Sweep {
            self.kept.phase = Phase::Pass(self.kept.settings.attempts);
        }
        let here = std::mem::take(&mut self.kept.here);
        self.kept.before.overlay(&here);
        self.begin_at_top();
        commands.push_back(Command::Save { campaign: self.number });
        self.advance(now, commands);
    }

    /// Takes a page in; `false` where nobody waits for it any more.
    pub(super) fn page(
        &mut self,
        generation: u32,
        lane: Lane,
        candidates: Vec<Candidate<C>>,
        next: Option<Cursor<C>>,
    ) -> bool {
        let Some(index) = self.lanes.iter().position(|state| state.lane == lane && state.requested) else {
            return false;
        };
        if generation != self.generation {
            return false;
        }
        let state = &mut self.lanes[index];
        state.requested = false;
        let stuck = candidates.is_empty() && next == state.below;
        let headless = state.waiting.is_empty();
        state.waiting.extend(candidates.into_iter().take(usize::from(PAGE_ROWS_MAX)));
        // A page that brings nothing and does not move on ends the lane: or it would be asked for for ever.
        state.ended = next.is_none() || stuck;
        state.below = next;
        if headless {
            match state.waiting.front() {
                Some(head) => {
                    self.heads.push(Reverse((head.place, index)));
                    self.unread -= 1;
                }
                None if state.ended => self.unread -= 1,
                None => {}
            }
        }
        true
    }

    /// Ends the waiting where its time has come.
    pub(super) fn wake(&mut self, now: EpochMs) {
        if self.wait.is_some_and(|until| until <= now) {
            self.wait = None;
            if self.kept.phase == Phase::Sweep {
                self.begin_at_top();
            }
        }
    }

    /// Goes on as far as pages, allowance and time let it.
    pub(super) fn advance(&mut self, now: EpochMs, commands: &mut VecDeque<Command<C>>) {
        self.wake(now);
        if self.kept.paused || self.over || self.wait.is_some() {
            return;
        }
        while self.wait.is_none() && !self.over {
            self.request(commands);
            if self.unread > 0 {
                break;
            }
            let head = self.heads.peek().map(|Reverse((_, index))| *index);
            let candidate = head.and_then(|index| self.lanes[index].waiting.front());
            let step = next_step(&self.kept, now, candidate);
            match (step, head) {
                (Step::Skip, Some(index)) => drop(self.pop(index, commands)),
                (Step::Count(absence), Some(index)) => {
                    self.absentees.count(absence);
                    self.pop(index, commands);
                }
                (Step::Choose, Some(index)) => {
                    if self.chosen.len() >= self.target() {
                        break;
                    }
                    self.choose(index, commands);
                }
                (Step::Wait(until), _) => {
                    self.leave(now, self.chosen.len(), commands);
                    self.wait = Some(until);
                    commands.push_back(Command::WakeAt(until));
                }
                (Step::End | Step::Skip | Step::Count(_) | Step::Choose, _) => {
                    self.leave(now, self.chosen.len(), commands);
                    self.next_phase(commands);
                }
            }
        }
        let size = self.batch_size() as usize;
        self.leave(now, self.chosen.len() / size * size, commands);
        if !self.is_hungry() {
            self.credit = 0;
        }
    }

    /// How many may be chosen: full batches only.
    fn target(&self) -> usize {
        (self.credit / self.batch_size() * self.batch_size()) as usize
    }

    /// Asks for the next page of every lane that has fallen dry; the others are asked for when they are popped.
    fn request(&mut self, commands: &mut VecDeque<Command<C>>) {
        if self.unread == 0 {
            return;
        }
        for index in 0..self.lanes.len() {
            self.request_lane(index, 0, commands);
        }
    }

    fn request_lane(&mut self, index: usize, left_max: usize, commands: &mut VecDeque<Command<C>>) {
        let state = &mut self.lanes[index];
        if state.ended || state.requested || state.waiting.len() > left_max {
            return;
        }
        state.requested = true;
        commands.push_back(Command::NextPage {
            campaign: self.number,
            generation: self.generation,
            lane: state.lane,
            order: self.kept.settings.order,
            below: state.below,
            rows: self.rows,
        });
    }

    fn pop(&mut self, index: usize, commands: &mut VecDeque<Command<C>>) -> Option<Candidate<C>> {
        let state = &mut self.lanes[index];
        let candidate = state.waiting.pop_front()?;
        state.position = Some(candidate.place);
        self.heads.pop();
        match state.waiting.front() {
            Some(head) => self.heads.push(Reverse((head.place, index))),
            None if !state.ended => self.unread += 1,
            None => {}
        }
        self.request_lane(index, usize::from(self.rows / 4), commands);
        Some(candidate)
    }

    fn choose(&mut self, index: usize, commands: &mut VecDeque<Command<C>>) {
        if let Some(candidate) = self.pop(index, commands) {
            let rank = self.kept.triggered + self.chosen.len() as u64;
            let chosen = Chosen { card: candidate.place.card, rank, last_update: candidate.last_update };
            self.chosen.push((index, candidate.place, chosen));
        }
    }

    /// Sends so many of the chosen away, in batches.
    fn leave(&mut self, now: EpochMs, count: usize, commands: &mut VecDeque<Command<C>>) {
        let size = if self.batch_size() == 1 { count } else { self.batch_size() as usize };
        let leaving: Vec<_> = self.chosen.drain(..count).collect();
        for batch in leaving.chunks(size.max(1)) {
            self.leave_batch(now, batch, commands);
        }
        if let (Some((_, first, _)), Some((_, last, _))) = (leaving.first(), leaving.last()) {
            self.kept.here.note(first.key, last.key, now);
            self.kept.last_trigger = Some(now);
        }
        if self.chosen.is_empty() {
            for (kept, state) in self.kept.lanes.iter_mut().zip(&self.lanes) {
                *kept = (state.lane, state.position, state.ended && state.waiting.is_empty());
            }
        }
    }

    fn leave_batch(
        &mut self,
        now: EpochMs,
        cards: &[(usize, Cursor<C>, Chosen<C>)],
        commands: &mut VecDeque<Command<C>>,
    ) {
        self.kept.batches += 1;
        self.kept.triggered += cards.len() as u64;
        // At most BATCH_MAX or what a tick allows, both u32.
        self.credit = self.credit.saturating_sub(cards.len() as u32);
        let batch = Batch { number: self.kept.batches, size: cards.len() as u32, at: now };
        let pass = self.kept.phase.pass(&self.kept.settings);
        let mut by_lane: Vec<&(usize, Cursor<C>, Chosen<C>)> = cards.iter().collect();
        by_lane.sort_by_key(|(index, _, _)| *index);
        for group in by_lane.chunk_by(|left, right| left.0 == right.0) {
            for part in group.chunks(usize::from(PAGE_ROWS_MAX)) {
                let Some((index, cursor, _)) = part.last() else { continue };
                commands.push_back(Command::Trigger {
                    campaign: self.number,
                    pass,
                    batch,
                    lane: self.lanes[*index].lane,
                    cards: part.iter().map(|(_, _, chosen)| *chosen).collect(),
                    cursor: *cursor,
                    validity_s: self.kept.settings.validity_s,
                });
            }
        }
    }

    fn next_phase(&mut self, commands: &mut VecDeque<Command<C>>) {
        match self.kept.phase.after(&self.kept.settings) {
            Some(phase) => {
                if let Phase::Pass(_) = phase {
                    let here = std::mem::take(&mut self.kept.here);
                    self.kept.before.overlay(&here);
                }
                self.kept.phase = phase;
                self.begin_at_top();
                commands.push_back(Command::Save { campaign: self.number });
            }
            None => {
                self.over = true;
                let absentees = self.absentees;
                commands.push_back(Command::Finished { campaign: self.number, absentees });
            }
        }
    }

    fn begin_at_top(&mut self) {
        for (_, position, ended) in &mut self.kept.lanes {
            (*position, *ended) = (None, false);
        }
        self.begin_line();
    }

    /// Begins to read every lane where it was left; pages that are still on their way will be dropped.
    fn begin_line(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.chosen.clear();
        self.heads.clear();
        self.wait = None;
        self.absentees = Absentees::default();
        self.lanes = self
            .kept
            .lanes
            .iter()
            .map(|(lane, position, ended)| LaneState {
                lane: *lane,
                waiting: VecDeque::new(),
                position: *position,
                below: *position,
                requested: false,
                ended: *ended,
            })
            .collect();
        self.unread = self.lanes.iter().filter(|state| !state.ended).count();
    }
}
