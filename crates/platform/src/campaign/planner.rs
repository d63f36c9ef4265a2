//! The planner: the flow controller and the engine as one machine, so that the server and a model of the world
//! drive both in the same way, and a recorded run can be replayed.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::{Command, Engine, Event, Saved, Verb};
use crate::flow::{Flow, FlowSettings, Load};

/// What happens to the planner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input<C> {
    /// Time has passed: the load now. Ticks come at regular intervals, also while no campaign runs: that is when
    /// the tide is learned.
    Tick(Load),
    /// Anything for the engine but a tick.
    Event(Event<C>),
}

/// Flow controller and engine.
#[derive(Debug, Clone)]
pub struct Planner<C> {
    flow: Flow,
    engine: Engine<C>,
}

impl<C: Copy + Ord> Planner<C> {
    /// A planner without campaigns.
    pub fn new(settings: FlowSettings) -> Self {
        Self { flow: Flow::new(settings), engine: Engine::default() }
    }

    /// Takes an input and answers what is to be done, in order.
    pub fn handle(&mut self, now: EpochMs, input: Input<C>) -> Vec<Command<C>> {
        match input {
            Input::Tick(load) => {
                self.flow.save_up_for(self.engine.batch_max());
                let triggers = self.flow.tick(now, &load);
                self.engine.handle(now, Event::Tick { triggers });
            }
            Input::Event(event) => {
                match event {
                    Event::Taken { passed_over, .. } => self.flow.returned(passed_over),
                    Event::Verb { verb: Verb::Start { .. } | Verb::Restore(_) | Verb::Resume, .. } => {
                        self.flow.new_content();
                    }
                    _ => {}
                }
                self.engine.handle(now, event);
            }
        }
        let mut commands = Vec::new();
        while let Some(command) = self.engine.next_command() {
            if let Command::Trigger { cards, .. } = &command {
                // At most PAGE_ROWS_MAX cards per command.
                self.flow.sent(now, cards.len() as u32);
            }
            commands.push(command);
        }
        commands
    }

    /// A user's wish for one campaign.
    pub fn verb(&mut self, now: EpochMs, campaign: u32, verb: Verb<C>) -> Vec<Command<C>> {
        self.handle(now, Input::Event(Event::Verb { campaign, verb }))
    }

    /// What a later process needs to go on with a campaign; `None` where it does not run.
    pub fn saved(&self, campaign: u32) -> Option<Saved<C>> {
        self.engine.saved(campaign)
    }

    /// The flow controller, for figures to show.
    pub fn flow(&self) -> &Flow {
        &self.flow
    }
}
