//! The world of the model as a file: what cards, devices and the network do.

use serde::Deserialize;

/// A world. See the comments in `scenarios/*.toml`, whose values are the defaults of the two built-in worlds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Which cards there are.
    pub fleet: FleetShares,
    /// When devices are on.
    pub day: Day,
    /// What becomes of a trigger.
    pub trigger: TriggerPath,
    /// How a session goes.
    pub session: Session,
    /// How the platform is configured.
    pub platform: Platform,
}

/// Which cards there are, as shares.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetShares {
    /// Of all cards: imported, never in contact.
    pub never_active: f64,
    /// Of all cards: missed their poll long ago.
    pub long_dead: f64,
    /// Of all cards: their next poll lies ahead but will not come.
    pub died_lately: f64,
    /// Of all cards: off when the campaign starts.
    pub off_at_start: f64,
    /// Of the rest: phones that are off at night.
    pub off_at_night: f64,
    /// Of the rest: devices that are rarely on.
    pub sporadic: f64,
    /// How the dates are spread over the period.
    pub polls: Spread,
}

/// How dates are spread over the period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// The same number every minute.
    Even,
    /// Each card at its own random time.
    Random,
}

/// When devices are on: minutes after local midnight, and durations in minutes where not said otherwise.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Day {
    /// When the campaign starts.
    pub start: u16,
    /// When phones go off, between these two; past 1440: after midnight.
    pub off: [u16; 2],
    /// When they come on again, between these two.
    pub on: [u16; 2],
    /// A sporadic device is on once in so many minutes,
    pub sporadic_every: u16,
    /// for so many minutes.
    pub sporadic_for: u16,
    /// Devices that are off at the start come back after so many days, between these two.
    pub off_days: [f64; 2],
    /// An overdue poll comes within so many minutes after switching on.
    pub poll_within: u16,
}

/// What becomes of a trigger; times in minutes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerPath {
    /// Share that brings a session at all.
    pub works: f64,
    /// From sending to the session, at most.
    pub within: u16,
    /// How long the network keeps a message that has no end of its own.
    pub kept_for: u16,
    /// From switching on to the session, at most.
    pub fires_within: u16,
}

/// How a session goes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Duration in seconds.
    pub duration_s: u32,
    /// Minutes until a refused card tries again, between these two.
    pub retry_after: [u16; 2],
    /// How often it does.
    pub retries: u8,
}

/// How the platform is configured.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// Share of the session limit that is planned.
    pub plan_margin: f64,
    /// Buckets that the cards are spread over.
    pub buckets: u16,
    /// Days before the campaign in which the tide is watched.
    pub warm_up_days: u16,
    /// Triggers that leave together.
    pub batch_size: u32,
    /// Pause before the next attempt, in seconds.
    pub backoff_s: u32,
    /// Own poll so near that the card is left to it, in seconds.
    pub leave_to_poll_s: u32,
    /// How late a poll may be before it counts as missed, in seconds.
    pub poll_grace_s: u32,
    /// End of validity of a trigger where the policy sets one, in seconds.
    pub validity_s: u32,
}

/// Why a scenario is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScenarioError {
    /// Not TOML, or a key is missing, unknown or of the wrong type.
    #[error("{0}")]
    Syntax(String),
    /// A value outside its range.
    #[error("{key} in the scenario: give {expected}")]
    Range {
        /// The key.
        key: &'static str,
        /// What is possible.
        expected: &'static str,
    },
}

impl Scenario {
    /// A perfect world.
    pub const IDEAL: &str = include_str!("../../scenarios/ideal.toml");
    /// A world as networks see it.
    pub const REALISTIC: &str = include_str!("../../scenarios/realistic.toml");

    /// Reads a scenario file.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self =
            toml::from_str(text).map_err(|error| ScenarioError::Syntax(error.to_string()))?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let ensure =
            |holds, key, expected| if holds { Ok(()) } else { Err(ScenarioError::Range { key, expected }) };
        let (fleet, day) = (&self.fleet, &self.day);
        let apart = [fleet.never_active, fleet.long_dead, fleet.died_lately, fleet.off_at_start];
        let rest = [fleet.off_at_night, fleet.sporadic];
        let shares =
            |shares: &[f64]| shares.iter().all(|share| *share >= 0.0) && shares.iter().sum::<f64>() <= 1.0;
        ensure(shares(&apart) && shares(&rest), "fleet", "shares of 0 to 1 that do not exceed 1 together")?;
        ensure(day.start < 1_440, "day.start", "0 to 1439")?;
        ensure(day.off[0] <= day.off[1] && day.off[1] <= 2_880, "day.off", "two times, at most 2880")?;
        ensure(day.on[0] <= day.on[1] && day.on[1] < 1_440, "day.on", "two times, at most 1439")?;
        let sporadic = day.sporadic_for > 0 && day.sporadic_for < day.sporadic_every;
        ensure(sporadic, "day.sporadic_for", "at least 1 and less than sporadic_every")?;
        let back = day.off_days[0] >= 0.0 && day.off_days[0] <= day.off_days[1] && day.off_days[1] <= 1_000.0;
        ensure(back, "day.off_days", "two durations, at most 1000")?;
        ensure((0.0..=1.0).contains(&self.trigger.works), "trigger.works", "a share of 0 to 1")?;
        ensure(self.trigger.within > 0, "trigger.within", "at least 1")?;
        let retry = self.session.retry_after;
        ensure(retry[0] > 0 && retry[0] <= retry[1], "session.retry_after", "two durations, at least 1")?;
        ensure((1..=86_400).contains(&self.session.duration_s), "session.duration_s", "1 to 86400")?;
        let platform = &self.platform;
        ensure((0.05..=1.0).contains(&platform.plan_margin), "platform.plan_margin", "0.05 to 1")?;
        ensure((1..=1_024).contains(&platform.buckets), "platform.buckets", "1 to 1024")?;
        ensure(platform.warm_up_days <= 30, "platform.warm_up_days", "at most 30")?;
        ensure((60..=604_800).contains(&platform.validity_s), "platform.validity_s", "60 to 604800")
    }
}
