//! What a campaign is made of, and what its engine is told about cards.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{Bucket, EpochMs};

use crate::audience::{Audience, AudienceError};

/// The largest batch of triggers.
pub const BATCH_MAX: u32 = 100_000;
/// The most attempts per card.
pub const ATTEMPTS_MAX: u8 = 16;

/// One campaign: a row, whatever the number of cards. The content (the steps) stands beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// The key of the row.
    pub id: u32,
    /// Its place in the log of started campaigns of the tenant, given at the start; marks on cards carry it.
    pub number: Option<u32>,
    /// Whose campaign it is.
    pub tenant: u32,
    /// What users call it.
    pub name: String,
    /// Whom it concerns.
    pub audience: Audience,
    /// How it runs.
    pub settings: Settings,
    /// Where it stands.
    pub state: CampaignState,
}

/// Where a campaign stands.
///
/// | state | accepts | becomes |
/// |---|---|---|
/// | Draft | start | Running |
/// | Running | pause; a threshold; stop; the line is worked off | Paused; Paused; Stopped; Finished |
/// | Paused | resume; stop | Running; Stopped |
/// | Finished | stop | Stopped |
/// | Stopped | nothing | |
///
/// Polls are offered the content while it is Running, and of a Finished one too: absentees that come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignState {
    /// Can be changed; concerns nobody yet.
    Draft,
    /// Triggers leave, polls are offered the content.
    Running,
    /// Nothing leaves, polls are offered nothing of it; everything is remembered.
    Paused,
    /// Ended by a user.
    Stopped,
    /// Ended by itself: every card is done or an absentee.
    Finished,
}

impl CampaignState {
    /// Whether a poll gets the content.
    pub const fn is_offered(self) -> bool {
        matches!(self, Self::Running | Self::Finished)
    }

    /// The name in rows and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }

    /// The state of a name, `None` for an unknown one.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Draft, Self::Running, Self::Paused, Self::Stopped, Self::Finished]
            .into_iter()
            .find(|state| state.name() == name)
    }
}

/// How a campaign runs. Every value has a default; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Who is triggered first.
    pub order: Order,
    /// Triggers per card at most, the first one included: 1 to 16.
    pub attempts: u8,
    /// How long a card that stayed silent is left in peace before the next attempt, in seconds; doubled for
    /// each further attempt.
    pub backoff_s: u32,
    /// Triggers that leave together; the engine saves up until a batch is full or the line is at its end.
    pub batch_size: u32,
    /// What happens with cards that have never been in contact.
    pub never_seen: NeverSeen,
    /// Share of the free capacity against other running campaigns: 1 to 1,000.
    pub weight: u16,
    /// How long the network may keep a trigger for a phone that is off, in seconds. Short, so that a trigger
    /// does not fire long after its slot.
    pub validity_s: u32,
    /// A card whose own poll is at most so far away is left to that poll, in seconds.
    pub leave_to_poll_s: u32,
    /// How long after its date a poll counts as late and not as missed, in seconds.
    pub poll_grace_s: u32,
    /// Cards that have missed their poll by more than this are no longer triggered, in seconds: they are off or
    /// dead, and if they come back they poll by themselves.
    pub overdue_max_s: u32,
    /// When the campaign pauses by itself.
    pub thresholds: Thresholds,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            order: Order::NextPoll,
            attempts: 3,
            backoff_s: 6 * 3_600,
            batch_size: 1,
            never_seen: NeverSeen::Never,
            weight: 1,
            validity_s: 15 * 60,
            leave_to_poll_s: 3_600,
            poll_grace_s: 2 * 3_600,
            overdue_max_s: 20 * 86_400,
            thresholds: Thresholds::default(),
        }
    }
}

/// Who is triggered first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Latest next poll first: whose own contact is furthest away.
    #[default]
    NextPoll,
    /// Latest last update first.
    LastUpdate,
}

/// What happens with cards that have never been in contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NeverSeen {
    /// They get no trigger. When they appear they poll and are served.
    #[default]
    Never,
    /// They are triggered after all attempts at the others.
    Last,
    /// They stand in the line where their dates put them.
    LikeOthers,
}

/// When a campaign pauses by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Percentage of failed results that pauses the campaign; 100: never.
    pub failed_percent: u8,
    /// Results that must have come before the percentage counts.
    pub results_min: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { failed_percent: 100, results_min: 100 }
    }
}

/// Why a campaign's settings are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CampaignError {
    /// A setting outside its range.
    #[error("{setting} is {found}: give {expected}")]
    OutOfRange {
        /// The key.
        setting: &'static str,
        /// What was given.
        found: u32,
        /// What is possible.
        expected: &'static str,
    },
    /// The audience is not possible.
    #[error(transparent)]
    Audience(#[from] AudienceError),
}

impl Settings {
    /// Checks every range.
    pub fn check(&self) -> Result<(), CampaignError> {
        let range = |setting, found: u32, range: std::ops::RangeInclusive<u32>, expected| {
            if range.contains(&found) {
                Ok(())
            } else {
                Err(CampaignError::OutOfRange { setting, found, expected })
            }
        };
        range("attempts", self.attempts.into(), 1..=ATTEMPTS_MAX.into(), "1 to 16")?;
        range("batch_size", self.batch_size, 1..=BATCH_MAX, "1 to 100000")?;
        range("weight", self.weight.into(), 1..=1_000, "1 to 1000")?;
        range("validity_s", self.validity_s, 60..=7 * 86_400, "60 to 604800 (a week)")?;
        range("failed_percent", self.thresholds.failed_percent.into(), 1..=100, "1 to 100")
    }
}

/// One line of waiting cards: those of one bucket and one operator, which a store reads by one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lane {
    /// The bucket.
    pub bucket: Bucket,
    /// The operator.
    pub operator: u32,
}

/// A place in a lane: the date that the campaign's [`Order`] names, the latest first, then the card, the
/// smallest first. "Below" means strictly after. Cards without that date stand at the end, with a key before
/// every date.
///
/// Places are ordered as they are read: what is read first is the smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cursor<C> {
    /// The date that orders the lane, in JSON as milliseconds: it can lie before every date.
    #[serde(with = "milliseconds")]
    pub key: EpochMs,
    /// Breaks ties.
    pub card: C,
}

impl<C: Ord> Ord for Cursor<C> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.key.cmp(&self.key).then_with(|| self.card.cmp(&other.card))
    }
}

impl<C: Ord> PartialOrd for Cursor<C> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A card of a lane that belongs to the audience, has not had the campaign, and is excluded by nothing else
/// (opted out, failed for good).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate<C> {
    /// Its place.
    pub place: Cursor<C>,
    /// The last contact; `None`: never.
    pub last_update: Option<EpochMs>,
    /// The date of its next own poll.
    pub next_poll: EpochMs,
}

/// A moment as a number, for keys that are no dates.
pub(super) mod milliseconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use simtide_protocol::ids::EpochMs;

    pub fn serialize<S: Serializer>(moment: &EpochMs, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(moment.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EpochMs, D::Error> {
        i64::deserialize(deserializer).map(EpochMs)
    }
}
