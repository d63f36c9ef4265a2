//! What has happened to a delivery, with times, for those who look.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{EpochMs, ServiceNumber};

use super::bearer::Bearer;
use super::machine::State;
use super::status::ScriptAnswer;

/// Milestones that are kept; of more, the latest half.
pub const MILESTONES_MAX: usize = 128;

/// One thing that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Milestone {
    /// It was asked for.
    Requested,
    /// Another packet of the card was open.
    Waits,
    /// A packet was reserved and sealed with this counter.
    Sealed {
        /// The counter.
        counter: u64,
    },
    /// A copy left.
    SentBy {
        /// With what.
        bearer: Bearer,
    },
    /// A bearer gave it up.
    FailedBy {
        /// Which.
        bearer: Bearer,
    },
    /// The network says that the short messages have reached the device.
    Reached,
    /// The device has it on its disk.
    Fetched,
    /// The card's proof of a packet.
    Proof {
        /// What brought it.
        by: Bearer,
        /// Where it was addressed to: the originating address that the card had been given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<ServiceNumber>,
        /// What it says.
        answer: ScriptAnswer,
    },
    /// It is over.
    Closed {
        /// How.
        state: State,
    },
}

/// Milestones in their order, at most [`MILESTONES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Milestones(Vec<(EpochMs, Milestone)>);

impl Milestones {
    /// Adds one.
    pub fn add(&mut self, at: EpochMs, milestone: Milestone) {
        if self.0.len() >= MILESTONES_MAX {
            // The first says when it was asked for.
            self.0.drain(1..=MILESTONES_MAX / 2);
        }
        self.0.push((at, milestone));
    }

    /// All that are kept.
    pub fn all(&self) -> &[(EpochMs, Milestone)] {
        &self.0
    }

    /// When something of this kind happened last.
    pub fn last(&self, of_kind: impl Fn(&Milestone) -> bool) -> Option<EpochMs> {
        self.0.iter().rev().find(|(_, milestone)| of_kind(milestone)).map(|(at, _)| *at)
    }
}
