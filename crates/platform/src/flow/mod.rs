//! The flow controller: how many triggers may leave now, so that the sessions they cause, together with the
//! tide of polls, use what the server can take and never more.
//!
//! One [`Flow`] stands for one session limit. It knows no card: at every tick it is told the [`Load`] and answers
//! with a number. Nothing in it depends on a unit of time: ticks may be 100 ms or hours apart, and the duration
//! of a session and the response time of a trigger are measured (Little's law: what is inside, divided by what
//! comes in per time).
//!
//! The closed loop, per tick:
//!
//! | seen | consequence |
//! |---|---|
//! | sessions open | session duration D = open / arrivals; more open than planned: the excess is taken off |
//! | own polls expected | rate taken off, corrected by how many really came, now and at this hour of earlier days |
//! | triggers in flight | more than half again of what the rate explains: the network is late, wait for it |
//! | triggers stored for devices that are off | they come in a wave: fewer, then none until it has come |
//! | expired against arrived | the share of triggers that brings a session: the others are made up for |
//! | refusals | brake at once, recover slowly; those refused are expected back |
//!
//! [`Policy::Open`] is the scheme without feedback: limit minus forecast. It is there to be compared with.

mod estimate;

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use estimate::{Hours, Mean, Ratio};

/// Milliseconds of a day: expected polls are told per day.
const DAY_MS: f64 = 86_400_000.0;
/// Ticks whose spacing the typical spacing remembers.
const SPACING_TICKS: f64 = 16.0;
/// A late tick counts at most so many times the typical spacing: a stopped clock is no free capacity.
const LATE_TICKS_MAX: f64 = 4.0;
/// How far the triggers in flight may exceed what rate and response time explain.
const IN_FLIGHT_EXCESS: f64 = 1.5;
/// Share of what the plan takes within a retry time that may wait at the SMSC for devices that are off.
const STORED_SHARE: f64 = 0.5;
/// Sessions that outweigh what is assumed of their duration.
const SESSIONS_REMEMBERED: f64 = 50.0;
/// The session duration is a mean over so many session durations: a campaign changes it from one minute to the next.
const SESSION_MEMORY: f64 = 8.0;
/// But over no fewer sessions than this.
const SESSIONS_IN_MEMORY: f64 = 200.0;
/// The lowest share of triggers bringing a session that is made up for.
const YIELD_MIN: f64 = 0.75;
/// The brake never closes entirely: without a trigger nobody would notice that the way is free again.
const BRAKE_MIN: f64 = 0.02;
/// The brake recovers within so many of the longest time constants of the loop.
const BRAKE_RECOVERY: f64 = 8.0;

/// Settings of a flow controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowSettings {
    /// Sessions that the server takes at the same time.
    pub sessions_max: u32,
    /// The share of them that is planned, 0.05 to 1. At 1 the retries of refused cards make it run away.
    pub plan_margin: f64,
    /// How long a session takes until that is measured, in ms.
    pub session_initial_ms: u32,
    /// How long a trigger takes to bring its session or to expire, until that is measured, in ms.
    pub response_initial_ms: u32,
    /// After how long a refused card tries again, on average, in ms.
    pub retry_ms: u32,
    /// With feedback or without.
    pub policy: Policy,
}

impl Default for FlowSettings {
    fn default() -> Self {
        Self {
            sessions_max: 1_000,
            plan_margin: 0.95,
            session_initial_ms: 30_000,
            response_initial_ms: 120_000,
            retry_ms: 35 * 60_000,
            policy: Policy::ClosedLoop,
        }
    }
}

/// What the controller reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// To everything that it sees.
    #[default]
    ClosedLoop,
    /// To the forecast only: limit minus expected polls, with the initial session duration.
    Open,
}

/// What the controller is told at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Load {
    /// Sessions open now.
    pub open: u32,
    /// Own polls that the cards' dates let expect until the next tick, as a rate per day.
    pub polls_due_per_day: u64,
    /// Triggers under way now.
    pub in_flight: InFlight,
    /// What has happened since the last tick.
    pub seen: Seen,
}

/// Triggers under way, by what is known of their delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InFlight {
    /// Reserved or handed to the SMSC, which has not answered.
    pub submitted: u32,
    /// Taken by the SMSC, nothing more known.
    pub accepted: u32,
    /// Delivered to the device, whose card has not called yet.
    pub delivered: u32,
    /// Kept by the SMSC for a device that is off.
    pub stored: u32,
}

/// What has happened since the last tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seen {
    /// Sessions begun by cards on their own.
    pub polled: u32,
    /// Sessions begun in answer to a trigger.
    pub arrived: u32,
    /// Triggers given up: refused, expired at the SMSC, or without a session at the end of their validity.
    pub expired: u32,
    /// Connections refused because all permits were taken.
    pub refused: u32,
    /// Submissions that an SMSC throttled.
    pub throttled: u32,
}

/// The flow controller of one session limit.
#[derive(Debug, Clone)]
pub struct Flow {
    settings: FlowSettings,
    last: Option<EpochMs>,
    /// Typical time between ticks, in ms.
    spacing: Mean,
    /// Session milliseconds over sessions.
    session: Ratio,
    /// Trigger milliseconds in flight over triggers resolved.
    response: Ratio,
    /// Of those in flight since something last came of one.
    in_flight_ms: f64,
    /// Arrived over resolved.
    yielded: Ratio,
    /// Polls seen over polls due, of the last hour or so.
    polls: Ratio,
    /// The same by hour of the day, of the last days.
    hours: Hours,
    /// Refused cards that will try again.
    refused: f64,
    brake: f64,
    /// Triggers that may leave; what a batch waits for is saved up here.
    allowance: f64,
    /// The largest batch that someone saves up for.
    batch: u32,
    rate_per_ms: f64,
}

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FlowError {
    /// No session allowed.
    #[error("sessions_max is 0: give at least 1")]
    NoSessions,
    /// Margin out of range.
    #[error("plan_margin is {0}: give 0.05 to 1 (0.95 leaves room for retries)")]
    Margin(f64),
    /// A duration of zero.
    #[error("{0} is 0: give the expected duration in ms")]
    NoDuration(&'static str),
}

impl FlowSettings {
    /// Checks every range.
    pub fn check(&self) -> Result<(), FlowError> {
        if self.sessions_max == 0 {
            return Err(FlowError::NoSessions);
        }
        if !(0.05..=1.0).contains(&self.plan_margin) {
            return Err(FlowError::Margin(self.plan_margin));
        }
        for (name, value) in [
            ("session_initial_ms", self.session_initial_ms),
            ("response_initial_ms", self.response_initial_ms),
            ("retry_ms", self.retry_ms),
        ] {
            if value == 0 {
                return Err(FlowError::NoDuration(name));
            }
        }
        Ok(())
    }

    /// Sessions that are planned for.
    fn planned(&self) -> f64 {
        f64::from(self.sessions_max) * self.plan_margin
    }
}

impl Flow {
    /// A controller that has seen nothing yet.
    pub fn new(settings: FlowSettings) -> Self {
        let (session, response) =
            (f64::from(settings.session_initial_ms), f64::from(settings.response_initial_ms));
        Self {
            last: None,
            spacing: Mean::new(SPACING_TICKS),
            session: Ratio::new(session, SESSIONS_REMEMBERED),
            response: Ratio::new(response, 50.0),
            in_flight_ms: 0.0,
            yielded: Ratio::new(0.95, 100.0),
            polls: Ratio::new(1.0, 20.0),
            hours: Hours::default(),
            refused: 0.0,
            brake: 1.0,
            allowance: 0.0,
            batch: 1,
            rate_per_ms: 0.0,
            settings,
        }
    }

    /// The settings.
    pub fn settings(&self) -> &FlowSettings {
        &self.settings
    }

    /// Mean duration of a session as measured, in ms.
    pub fn session_ms(&self) -> f64 {
        self.session.value()
    }

    /// Tells the largest batch that someone saves up for: so much may gather before it leaves.
    pub fn save_up_for(&mut self, batch: u32) {
        self.batch = batch.max(1);
    }

    /// How many triggers may leave now. What is not sent stays allowed, up to a batch.
    pub fn tick(&mut self, now: EpochMs, load: &Load) -> u32 {
        let Some(last) = self.last.replace(now) else { return 0 };
        let elapsed = now.ms_since(last).max(0) as f64;
        if elapsed == 0.0 {
            return self.allowed();
        }
        let elapsed = match self.spacing.value() {
            0.0 => elapsed,
            usual => elapsed.min(LATE_TICKS_MAX * usual),
        };
        self.spacing.add(elapsed);
        self.rate_per_ms = match self.settings.policy {
            Policy::ClosedLoop => self.closed_loop(now, elapsed, load),
            Policy::Open => self.open_loop(load),
        };
        if self.rate_per_ms <= 0.0 {
            return 0;
        }
        // What nobody wanted is not kept: it would leave in one burst when a line begins again.
        let saved_max = self.rate_per_ms * elapsed + f64::from(self.batch);
        self.allowance = (self.allowance + self.rate_per_ms * elapsed).min(saved_max);
        self.allowed()
    }

    /// So many triggers have left.
    pub fn sent(&mut self, _now: EpochMs, triggers: u32) {
        self.allowance -= f64::from(triggers);
    }

    /// So many of them did not leave after all: their cards had called meanwhile.
    pub fn returned(&mut self, triggers: u32) {
        self.allowance += f64::from(triggers);
    }

    /// From now on sessions carry something else: how long the ones before took says little. Until that is measured
    /// they are taken to last as the settings say, or as measured where that is longer.
    pub fn new_content(&mut self) {
        let initial = self.session.value().max(f64::from(self.settings.session_initial_ms));
        self.session = Ratio::new(initial, SESSIONS_REMEMBERED);
    }

    fn allowed(&self) -> u32 {
        // Saturates: a float to integer cast does.
        self.allowance.max(0.0) as u32
    }

    fn open_loop(&self, load: &Load) -> f64 {
        self.settings.planned() / f64::from(self.settings.session_initial_ms)
            - load.polls_due_per_day as f64 / DAY_MS
    }

    fn closed_loop(&mut self, now: EpochMs, elapsed: f64, load: &Load) -> f64 {
        self.measure(now, elapsed, load);
        let session = self.session.value();
        let polls = load.polls_due_per_day as f64 / DAY_MS * self.hours.at(now) * self.polls.value();
        let retries = self.refused / f64::from(self.settings.retry_ms);
        // Open sessions do not show more than the limit, attempts do.
        let wanted = load.seen.attempts() * session / session.max(elapsed);
        let excess =
            (wanted.max(f64::from(load.open)) - self.settings.planned()).max(0.0) / session.max(elapsed);
        let free = self.settings.planned() / session - polls - retries - excess;
        if free <= 0.0 {
            return 0.0;
        }
        // What the network keeps for devices that are off comes in a wave when they are on again.
        let wave_max = STORED_SHARE * self.settings.planned() / session * f64::from(self.settings.retry_ms);
        let calm = (2.0 - f64::from(load.in_flight.stored) / wave_max).clamp(0.0, 1.0);
        let wanted = free / self.yielded.value().clamp(YIELD_MIN, 1.0) * self.brake * calm;
        let in_flight = load.in_flight.moving();
        let response = self.response.value();
        // At least what one tick sends is in flight, however quick the answers are.
        let explained = wanted * response.max(elapsed);
        let late = (in_flight - IN_FLIGHT_EXCESS * explained).max(0.0);
        (wanted - late / response.max(elapsed)).max(0.0)
    }

    /// Takes in what has happened since the last tick.
    fn measure(&mut self, now: EpochMs, elapsed: f64, load: &Load) {
        let seen = &load.seen;
        let begun = f64::from(seen.polled) + f64::from(seen.arrived);
        // Not so short that too few sessions are left in it.
        let lasting = elapsed / (SESSION_MEMORY * self.session.value().max(1.0));
        let forget = lasting.min(begun / SESSIONS_IN_MEMORY).max(1.0 / 256.0);
        self.session.add(f64::from(load.open) * elapsed, begun, forget);
        let resolved = f64::from(seen.arrived) + f64::from(seen.expired);
        // Time in flight counts when something has come of it: a network that stands still is not a slow one.
        let response = self.response.value();
        self.in_flight_ms += load.in_flight.moving() * elapsed;
        if resolved > 0.0 {
            let counted = self.in_flight_ms.min(LATE_TICKS_MAX * resolved * response.max(elapsed));
            self.response.add(counted, resolved, 1.0 / 512.0);
            self.in_flight_ms = 0.0;
        }
        self.yielded.add(f64::from(seen.arrived), resolved, 1.0 / 64.0);

        let due = load.polls_due_per_day as f64 / DAY_MS * elapsed;
        let hour = self.hours.at(now);
        let hour_ms = 3_600_000.0;
        let forget = elapsed / (elapsed + f64::max(hour_ms, 8.0 * elapsed));
        self.polls.add(f64::from(seen.polled) + f64::from(seen.refused), due * hour, forget);
        self.hours.add(now, f64::from(seen.polled), due);

        let longest = self.session.value().max(self.response.value()).max(elapsed);
        let back = 1.0 - (-elapsed / f64::from(self.settings.retry_ms)).exp();
        self.refused += f64::from(seen.refused) - self.refused * back;
        self.brake = (self.brake + elapsed / (BRAKE_RECOVERY * longest)).min(1.0);
        if seen.refused > 0 {
            let share = f64::from(seen.refused) / seen.attempts();
            self.brake *= (1.0 - 2.0 * share).max(0.5);
        }
        if seen.throttled > 0 {
            self.brake *= 0.9;
        }
        self.brake = self.brake.max(BRAKE_MIN);
    }
}

impl Seen {
    /// Connections made, served or refused.
    fn attempts(&self) -> f64 {
        f64::from(self.polled) + f64::from(self.arrived) + f64::from(self.refused)
    }
}

impl InFlight {
    /// Those that can bring a session at any moment.
    fn moving(&self) -> f64 {
        f64::from(self.submitted) + f64::from(self.accepted) + f64::from(self.delivered)
    }
}

#[cfg(test)]
mod tests;
