//! Recorded runs of the planner: every input with its time and with what the planner wanted done. A replay runs
//! the planner again and demands the same, which proves that a recording from the server and one from the model
//! were made by the same product.
//!
//! A trace is lines of JSON: a [`Header`], then [`Line`]s.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use crate::campaign::{Command, Input, Planner};
use crate::flow::FlowSettings;

/// Version of the format that this code writes and reads.
pub const VERSION: u32 = 1;

/// The first line of a trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// What the planner was made with.
    pub flow: FlowSettings,
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line<C> {
    /// When.
    pub now: EpochMs,
    /// What happened.
    pub input: Input<C>,
    /// What the planner answered.
    pub commands: Vec<Command<C>>,
}

/// Why a replay fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The trace was written by another version.
    #[error("the trace has version {0}, this program reads version 1: record it again")]
    Version(u32),
    /// The planner answered something else.
    #[error("step {step} at {now}: recorded {recorded}, now {replayed}")]
    Diverged {
        /// Which line, the first after the header is 1.
        step: usize,
        /// Its time.
        now: EpochMs,
        /// What the trace says.
        recorded: String,
        /// What the planner wants now.
        replayed: String,
    },
}

/// Runs a recorded run again; answers the number of steps, or the first one that came out differently.
pub fn replay<C>(header: &Header, lines: impl IntoIterator<Item = Line<C>>) -> Result<usize, ReplayError>
where
    C: Copy + Ord + std::fmt::Debug,
{
    if header.version != VERSION {
        return Err(ReplayError::Version(header.version));
    }
    let mut planner = Planner::new(header.flow.clone());
    let mut steps = 0;
    for Line { now, input, commands } in lines {
        steps += 1;
        let replayed = planner.handle(now, input);
        if replayed != commands {
            let (recorded, replayed) = first_difference(&commands, &replayed);
            return Err(ReplayError::Diverged { step: steps, now, recorded, replayed });
        }
    }
    Ok(steps)
}

/// A planner that records what it does.
#[derive(Debug, Clone)]
pub struct Recorder<C> {
    planner: Planner<C>,
}

impl<C: Copy + Ord> Recorder<C> {
    /// A planner without campaigns, and the header of its trace.
    pub fn new(settings: FlowSettings) -> (Self, Header) {
        let header = Header { version: VERSION, flow: settings.clone() };
        (Self { planner: Planner::new(settings) }, header)
    }

    /// Like [`Planner::handle`]; the line holds the commands and belongs into the trace.
    pub fn handle(&mut self, now: EpochMs, input: Input<C>) -> Line<C>
    where
        C: Clone,
    {
        let commands = self.planner.handle(now, input.clone());
        Line { now, input, commands }
    }

    /// The planner.
    pub fn planner(&self) -> &Planner<C> {
        &self.planner
    }
}

fn first_difference<T: std::fmt::Debug + PartialEq>(left: &[T], right: &[T]) -> (String, String) {
    let place = left.iter().zip(right).take_while(|(left, right)| left == right).count();
    let show = |side: &[T]| {
        let text = side.get(place).map_or_else(|| "nothing".into(), |item| format!("{item:?}"));
        text.chars().take(400).collect()
    };
    (show(left), show(right))
}
