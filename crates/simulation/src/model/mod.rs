//! A model of millions of cards on a virtual clock, in steps of a minute, which drives the product's own planner:
//! the same [`simtide_platform::campaign::Planner`] that the server runs gets its pages and its load from arrays
//! instead of a store and sockets.
//!
//! Nothing is random but by the seed: the same options give the same report.

mod agenda;
mod fleet;
mod line;
mod plot;
mod report;
mod scenario;
mod world;

pub use plot::svg;
pub use report::{Days, Hour, Report};
pub use scenario::{Day, FleetShares, Platform, Scenario, ScenarioError, Session, Spread, TriggerPath};

use simtide_platform::trace;

use world::World;

/// The most cards of a model: 50 bytes of memory each.
pub const CARDS_MAX: u32 = 100_000_000;
/// The longest period and the longest run, in days.
pub const DAYS_MAX: f64 = 400.0;

/// Who is triggered when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// In random order, by a platform that knows no dates, with flow control.
    Random,
    /// The longest without contact first, by a platform that knows no other dates, with flow control.
    Oldest,
    /// The scheme as first described: latest last update first, session limit minus expected polls, no feedback.
    Seed,
    /// What the product does: latest next poll first, closed loop.
    ClosedLoop,
}

impl Policy {
    fn knows_dates(self) -> bool {
        matches!(self, Self::Seed | Self::ClosedLoop)
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Cards in the platform, 1 to [`CARDS_MAX`].
    pub cards: u32,
    /// Period of the polls, in days.
    pub period_days: f64,
    /// How long the run may take, in days.
    pub days: f64,
    /// Session limit over what the tide takes on average.
    pub capacity: f64,
    /// Who is triggered when.
    pub policy: Policy,
    /// Triggers per card at most.
    pub attempts: u8,
    /// Seed of everything random.
    pub seed: u64,
    /// Overrides the scenario's margin.
    pub plan_margin: Option<f64>,
    /// The world.
    pub scenario: Scenario,
}

/// Why a run is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{option} is out of range: give {expected}")]
pub struct OptionsError {
    /// The option.
    pub option: &'static str,
    /// What is possible.
    pub expected: &'static str,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Days since the start of the campaign; negative while the tide is only watched.
    pub day: f64,
    /// Share of the active cards that are done.
    pub done: f64,
    /// Triggers sent.
    pub sms: u64,
}

/// Receives every step of the planner.
pub type Recording<'a> = &'a mut dyn FnMut(trace::Line<u32>);

impl Options {
    fn check(&self) -> Result<(), OptionsError> {
        let ensure =
            |holds, option, expected| if holds { Ok(()) } else { Err(OptionsError { option, expected }) };
        ensure((1..=CARDS_MAX).contains(&self.cards), "--cards", "1 to 100000000")?;
        ensure((0.02..=DAYS_MAX).contains(&self.period_days), "--period", "0.02 to 400 days")?;
        ensure((0.02..=DAYS_MAX).contains(&self.days), "--days", "0.02 to 400 days")?;
        ensure((0.1..=1_000.0).contains(&self.capacity), "--capacity", "0.1 to 1000")?;
        ensure((1..=16).contains(&self.attempts), "--attempts", "1 to 16")?;
        ensure((0.05..=1.0).contains(&self.plan_margin()), "--plan-margin", "0.05 to 1")
    }

    fn plan_margin(&self) -> f64 {
        self.plan_margin.unwrap_or(self.scenario.platform.plan_margin)
    }

    /// Sessions: capacity times what the active cards take on average, at least one.
    fn sessions_limit(&self, active: u64) -> u32 {
        let load =
            active as f64 * f64::from(self.scenario.session.duration_s) / (self.period_days * 86_400.0);
        (load * self.capacity).round().max(1.0) as u32
    }

    /// What the planner of this run is made with; the header of its trace.
    fn header(&self, world: &World) -> trace::Header {
        trace::Header { version: trace::VERSION, flow: world.flow_settings().clone() }
    }
}

/// Runs the model; `progress` is called about every hour of the virtual clock.
pub fn run(options: &Options, progress: &mut dyn FnMut(Progress)) -> Result<Report, OptionsError> {
    run_world(options, None, progress).map(|(report, _)| report)
}

/// The same, and every step of the planner goes to `recording`; answers the header of the trace too.
pub fn run_recorded<'a>(
    options: &'a Options,
    recording: Recording<'a>,
) -> Result<(Report, trace::Header), OptionsError> {
    run_world(options, Some(recording), &mut |_| ())
}

fn run_world<'a>(
    options: &'a Options,
    recording: Option<Recording<'a>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Report, trace::Header), OptionsError> {
    options.check()?;
    let started = std::time::Instant::now();
    let mut world = World::new(options, recording);
    let minutes = -i32::from(options.scenario.platform.warm_up_days) * fleet::DAY
        ..(options.days * f64::from(fleet::DAY)).round() as i32;
    for minute in minutes {
        world.minute(minute);
        if minute % 60 == 0 {
            let day = f64::from(minute) / f64::from(fleet::DAY);
            progress(Progress { day, done: world.progress(), sms: world.figures.sms });
        }
        if world.is_over() {
            break;
        }
    }
    let header = options.header(&world);
    let (days, active, limit) = (world.days(), world.active, world.limit);
    let figures = world.figures;
    let report = Report {
        cards: options.cards,
        active: active as u32,
        sms: figures.sms,
        sms_per_active: figures.sms as f64 / active.max(1) as f64,
        sms_to_inactive: figures.sms_to_inactive,
        days,
        order_inversions: figures.inversions,
        sessions_peak: figures.sessions_peak,
        sessions_limit: limit,
        demand_peak: figures.demand_peak,
        refused: figures.refused,
        wall_s: started.elapsed().as_secs_f64(),
        memory_bytes_max: report::memory_bytes_max(),
        hours: figures.hours,
    };
    Ok((report, header))
}

#[cfg(test)]
mod tests;
