//! The run: minute by minute, cards call, are served or refused, and the planner sends triggers.

use std::collections::VecDeque;

use simtide_platform::campaign::{
    Chosen, Command, Cursor, Event, Input, NeverSeen, Order, Planner, Settings, Verb,
};
use simtide_platform::flow::{self, FlowSettings, InFlight, Load, Seen};
use simtide_platform::forecast::{Forecast, ForecastSettings};
use simtide_platform::trace::Line as TraceLine;
use simtide_protocol::ids::EpochMs;
use simtide_protocol::poll_date::following;

use super::agenda::{Agenda, Attempt, Origin};
use super::fleet::{DAY, Draw, Fleet, NEVER};
use super::line::{Line, moment};
use super::report::{Days, Hour, Milestones};
use super::{Options, Policy, Recording};

/// The campaign's number.
const CAMPAIGN: u32 = 1;

pub(super) struct World<'a> {
    options: &'a Options,
    pub(super) limit: u32,
    period: i32,
    pub(super) fleet: Fleet,
    agenda: Agenda,
    forecast: Forecast,
    planner: Planner<u32>,
    recording: Option<Recording<'a>>,
    line: Option<Line>,
    seen: Seen,
    in_flight: InFlight,
    /// Sessions served and attempts made in the last minutes, as many as a session lasts.
    recent: VecDeque<(f64, f64)>,
    finished: bool,
    last_place: Option<Cursor<u32>>,
    pub(super) active: u64,
    milestones: Milestones,
    pub(super) figures: Figures,
}

/// What is counted from the start of the campaign on.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    pub(super) sms: u64,
    pub(super) sms_to_inactive: u64,
    pub(super) inversions: u64,
    pub(super) sessions_peak: f64,
    pub(super) demand_peak: f64,
    pub(super) refused: u64,
    pub(super) hours: Vec<Hour>,
}

impl<'a> World<'a> {
    pub(super) fn new(options: &'a Options, recording: Option<Recording<'a>>) -> Self {
        let scenario = &options.scenario;
        let period = (options.period_days * f64::from(DAY)).round() as i32;
        let begin = -i32::from(scenario.platform.warm_up_days) * DAY;
        let end = (options.days * f64::from(DAY)).round() as i32;
        let fleet = Fleet::new(options.cards, period, begin, options.seed, scenario);
        let active = (0..fleet.len()).filter(|card| fleet.is_active(*card)).count() as u64;
        let limit = options.sessions_limit(active);
        let slots = (period / 10 * 2).max(1) as u32;
        let mut forecast = Forecast::new(ForecastSettings { slot_s: 600, slots }, moment(begin));
        fleet.next_poll.iter().filter(|date| **date != NEVER).for_each(|date| forecast.add(moment(*date)));
        let settings = FlowSettings {
            sessions_max: limit,
            plan_margin: options.plan_margin(),
            session_initial_ms: scenario.session.duration_s * 1_000,
            policy: if options.policy == Policy::Seed {
                flow::Policy::Open
            } else {
                flow::Policy::ClosedLoop
            },
            ..FlowSettings::default()
        };
        let planner = Planner::new(settings);
        let window = scenario.session.duration_s.div_ceil(60) as usize;
        Self {
            agenda: Agenda::new(&fleet, begin, end),
            recent: VecDeque::from(vec![(0.0, 0.0); window]),
            options,
            limit,
            period,
            fleet,
            forecast,
            planner,
            recording,
            line: None,
            seen: Seen::default(),
            in_flight: InFlight::default(),
            finished: false,
            last_place: None,
            active,
            milestones: Milestones::default(),
            figures: Figures::default(),
        }
    }

    pub(super) fn flow_settings(&self) -> &FlowSettings {
        self.planner.flow().settings()
    }

    pub(super) fn days(&self) -> Days {
        self.milestones.days()
    }

    /// Share of the active cards that are done.
    pub(super) fn progress(&self) -> f64 {
        self.milestones.done() as f64 / self.active.max(1) as f64
    }

    pub(super) fn is_over(&self) -> bool {
        self.finished || (self.line.is_some() && self.milestones.done() == self.active)
    }

    pub(super) fn minute(&mut self, minute: i32) {
        if minute == 0 {
            self.start_campaign();
        }
        if minute >= 0 && minute % 60 == 0 {
            self.figures.hours.push(Hour::default());
        }
        let mut attempts = Vec::new();
        let expiries = self.agenda.due(minute, &mut attempts);
        attempts.retain(|attempt| self.is_valid(minute, attempt));
        let own = attempts.iter().filter(|attempt| attempt.origin == Origin::Own).count();
        let wanted = attempts.len();
        let served = wanted.min(self.room());
        self.shuffle_first(minute, &mut attempts, served);
        let done = attempts[..served].iter().filter(|attempt| self.serve(minute, attempt)).count();
        for attempt in &attempts[served..] {
            self.refuse(minute, *attempt);
        }
        for card in expiries {
            self.expire(card);
        }
        self.count(minute, served, wanted, own);
        if self.line.is_some() {
            self.milestones.add(minute, done as u64, self.active);
        }
        self.tick(minute);
    }

    fn start_campaign(&mut self) {
        let buckets = self.options.scenario.platform.buckets;
        let line = Line::new(&self.fleet, self.options.policy, self.period, buckets);
        let (settings, lanes) = (self.settings(), line.lanes());
        self.line = Some(line);
        let commands = self.handle(
            moment(0),
            Input::Event(Event::Verb { campaign: CAMPAIGN, verb: Verb::Start { settings, lanes } }),
        );
        self.work(0, commands);
    }

    fn settings(&self) -> Settings {
        let (platform, policy) = (&self.options.scenario.platform, self.options.policy);
        let kept_s = u32::from(self.options.scenario.trigger.kept_for) * 60;
        Settings {
            order: if policy == Policy::ClosedLoop { Order::NextPoll } else { Order::LastUpdate },
            attempts: self.options.attempts,
            backoff_s: platform.backoff_s,
            batch_size: platform.batch_size,
            never_seen: if policy.knows_dates() { NeverSeen::Never } else { NeverSeen::LikeOthers },
            validity_s: if policy == Policy::Seed { kept_s } else { platform.validity_s },
            leave_to_poll_s: platform.leave_to_poll_s,
            poll_grace_s: platform.poll_grace_s,
            overdue_max_s: (self.period.max(1) as u32).saturating_mul(60),
            ..Settings::default()
        }
    }

    /// An attempt that is still to be made in this minute; one whose device is off is put off.
    fn is_valid(&mut self, minute: i32, attempt: &Attempt) -> bool {
        let card = attempt.card;
        let own = attempt.origin == Origin::Own;
        if own && self.fleet.next_poll[card as usize] > minute {
            return false;
        }
        let on = self.fleet.next_on(card, minute);
        if on > minute {
            if on != NEVER {
                let day = &self.options.scenario.day;
                let within = if own { day.poll_within } else { self.options.scenario.trigger.fires_within };
                let delay = self.fleet.between(card, Draw::Delay, on as u64, [0, within]);
                self.agenda.attempt(on + delay, *attempt);
            }
            return false;
        }
        true
    }

    /// How many sessions can begin in this minute.
    fn room(&self) -> usize {
        let minutes = self.recent.len() as f64;
        let per_window =
            f64::from(self.limit) * 60.0 * minutes / f64::from(self.options.scenario.session.duration_s);
        let used: f64 = self.recent.iter().skip(1).map(|(served, _)| served).sum();
        (per_window - used).max(0.0) as usize
    }

    /// Who is served where not all can be: drawn by lot.
    fn shuffle_first(&self, minute: i32, attempts: &mut [Attempt], served: usize) {
        if served < attempts.len() {
            for place in 0..served {
                let left = (attempts.len() - place) as u64;
                let drawn =
                    self.fleet.random(place as u32, Draw::Order, (minute as u64).wrapping_add(1)) % left;
                attempts.swap(place, place + drawn as usize);
            }
        }
    }

    /// Answers whether the campaign was done in it.
    fn serve(&mut self, minute: i32, attempt: &Attempt) -> bool {
        let card = attempt.card;
        let called = self.close_trigger(card);
        let own = attempt.origin == Origin::Own && !called;
        if called {
            self.seen.arrived += 1;
        } else {
            self.seen.polled += 1;
        }
        let planned = self.fleet.next_poll[card as usize];
        let period_s = (self.period * 60) as u32;
        let next = following(moment(planned), period_s, moment(minute));
        if next != moment(planned) {
            let date = planned + (next.ms_since(moment(planned)) / 60_000) as i32;
            self.fleet.next_poll[card as usize] = date;
            self.forecast.moved(moment(planned), next);
            self.agenda.attempt(date, Attempt { card, origin: Origin::Own, refused: 0 });
        }
        let done = self.line.is_some() && self.fleet.set_done(card);
        if done && let Some(hour) = self.figures.hours.last_mut() {
            *(if own { &mut hour.done_by_poll } else { &mut hour.done_by_trigger }) += 1;
        }
        done
    }

    fn refuse(&mut self, minute: i32, attempt: Attempt) {
        let session = &self.options.scenario.session;
        let Attempt { card, origin, refused } = attempt;
        self.seen.refused += 1;
        let after = if refused < session.retries {
            self.fleet.between(card, Draw::Retry, minute as u64, session.retry_after)
        } else if origin == Origin::Own {
            // It gives up until its next date; the platform still knows the old one.
            let missed = minute - self.fleet.next_poll[card as usize];
            self.period - missed.rem_euclid(self.period)
        } else {
            return;
        };
        let refused = if refused < session.retries { refused + 1 } else { 0 };
        self.agenda.attempt(minute + after, Attempt { card, origin, refused });
    }

    fn expire(&mut self, card: u32) {
        self.seen.expired += u32::from(self.close_trigger(card));
    }

    fn close_trigger(&mut self, card: u32) -> bool {
        let closed = self.fleet.close_trigger(card);
        match closed {
            Some(true) => self.in_flight.stored -= 1,
            Some(false) => self.in_flight.accepted -= 1,
            None => {}
        }
        closed.is_some()
    }

    fn count(&mut self, minute: i32, served: usize, wanted: usize, own: usize) {
        self.recent.pop_front();
        self.recent.push_back((served as f64, wanted as f64));
        let minutes = self.recent.len() as f64 * 60.0;
        let share = f64::from(self.options.scenario.session.duration_s) / minutes;
        let (served, demand) = self.recent.iter().fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
        if minute < 0 {
            return;
        }
        let figures = &mut self.figures;
        figures.sessions_peak = figures.sessions_peak.max(served * share);
        figures.demand_peak = figures.demand_peak.max(demand * share);
        figures.refused += u64::from(self.seen.refused);
        if let Some(hour) = figures.hours.last_mut() {
            hour.minutes += 1;
            hour.demand += demand * share;
            hour.demand_max = hour.demand_max.max(demand * share);
            hour.polls += own as f64 * f64::from(self.options.scenario.session.duration_s) / 60.0;
        }
    }

    fn tick(&mut self, minute: i32) {
        let now = moment(minute + 1);
        self.forecast.advance(now);
        let minutes = self.recent.len() as f64;
        let served: f64 = self.recent.iter().map(|(served, _)| served).sum();
        let open = served * f64::from(self.options.scenario.session.duration_s) / (minutes * 60.0);
        let load = Load {
            open: open.round() as u32,
            polls_due_per_day: self.forecast.due_per_day(now, 60_000),
            in_flight: self.in_flight,
            seen: std::mem::take(&mut self.seen),
        };
        let commands = self.handle(now, Input::Tick(load));
        self.work(minute, commands);
    }

    fn handle(&mut self, now: EpochMs, input: Input<u32>) -> Vec<Command<u32>> {
        let recorded = self.recording.is_some().then(|| input.clone());
        let commands = self.planner.handle(now, input);
        if let (Some(recording), Some(input)) = (&mut self.recording, recorded) {
            recording(TraceLine { now, input, commands: commands.clone() });
        }
        commands
    }

    /// Does what the planner wants, until it wants nothing more.
    fn work(&mut self, minute: i32, commands: Vec<Command<u32>>) {
        let mut waiting = VecDeque::from(commands);
        let mut first_pass = Vec::new();
        while let Some(command) = waiting.pop_front() {
            let event = match command {
                Command::NextPage { campaign, generation, lane, below, rows, .. } => {
                    let Some(line) = &self.line else { continue };
                    let (candidates, next) = line.page(&self.fleet, minute, lane, below, usize::from(rows));
                    Event::Page { campaign, generation, lane, candidates, next }
                }
                Command::Trigger { pass, batch, lane, cards, validity_s, .. } => {
                    let sent = self.trigger(minute, &cards, validity_s);
                    let taken = sent.len() as u32;
                    if pass == 1 {
                        first_pass.extend(sent);
                    }
                    let passed_over = cards.len() as u32 - taken;
                    Event::Taken { campaign: CAMPAIGN, batch: batch.number, lane, taken, passed_over }
                }
                Command::Finished { .. } => {
                    self.finished = true;
                    continue;
                }
                Command::WakeAt(_) | Command::Save { .. } | Command::Paused { .. } => continue,
            };
            let more = self.handle(moment(minute + 1), Input::Event(event));
            waiting.extend(more);
        }
        first_pass.sort_unstable();
        self.check_order(&first_pass);
    }

    /// Counts what left against the order of the policy: by its key, the largest first.
    fn check_order(&mut self, leaving: &[(u64, u32)]) {
        for (_, place) in leaving {
            let Some(line) = &self.line else { return };
            let here = line.place(&self.fleet, *place);
            self.figures.inversions += u64::from(self.last_place.is_some_and(|last| here < last));
            self.last_place = Some(here);
        }
    }

    /// Sends to those who have not called meanwhile and have no open trigger, as a store takes them; answers their
    /// ranks and places.
    fn trigger(&mut self, minute: i32, cards: &[Chosen<u32>], validity_s: u32) -> Vec<(u64, u32)> {
        let mut sent = Vec::with_capacity(cards.len());
        for chosen in cards {
            let Some(card) = self.line.as_ref().map(|line| line.card(chosen.card)) else { continue };
            if !self.fleet.is_done(card) && !self.fleet.has_open_trigger(card) {
                sent.push((chosen.rank, chosen.card));
                self.send(minute, card, (validity_s / 60) as i32);
            }
        }
        sent
    }

    fn send(&mut self, minute: i32, card: u32, validity: i32) {
        self.figures.sms += 1;
        if let Some(hour) = self.figures.hours.last_mut() {
            hour.sms += 1;
        }
        self.figures.sms_to_inactive += u64::from(!self.fleet.is_active(card));
        let on = self.fleet.next_on(card, minute);
        self.fleet.open_trigger(card, on > minute);
        *(if on > minute { &mut self.in_flight.stored } else { &mut self.in_flight.accepted }) += 1;
        self.agenda.expiry(minute + validity.max(1), card);
        let path = &self.options.scenario.trigger;
        if self.fleet.share(card, Draw::Works, minute as u64) >= path.works {
            return;
        }
        let kept = validity.min(i32::from(path.kept_for));
        let after = if on == minute {
            self.fleet.between(card, Draw::Delay, minute as u64, [1, path.within])
        } else if on != NEVER && on - minute <= kept {
            on - minute + self.fleet.between(card, Draw::Delay, minute as u64, [1, path.fires_within.max(1)])
        } else {
            return;
        };
        self.agenda.attempt(minute + after, Attempt { card, origin: Origin::Trigger, refused: 0 });
    }
}
