//! Campaigns: what is urgent and runs against the tide of polls.
//!
//! [`Campaign`] is what a user asks for, [`Engine`] works campaigns off card by card, and [`Planner`] joins the
//! engine with the flow controller that all campaigns share. Cards are named by any ordered value: the server
//! uses [`simtide_protocol::ids::CardId`], a model of millions of cards their index.

mod content;
mod engine;
mod line;
mod planner;
mod run;
mod types;

pub use content::{
    BulkConsent, CampaignContent, ChangeOperator, ChangeOperatorError, OPERATOR_NAME_BYTES_MAX,
};
pub use engine::{Absentees, Batch, Chosen, Command, Engine, Event, PAGE_ROWS_MAX, Verb};
pub use line::{Absence, Milestones, Phase, absence, is_below};
pub use planner::{Input, Planner};
pub use run::Saved;
pub use types::{
    ATTEMPTS_MAX, BATCH_MAX, Campaign, CampaignError, CampaignState, Candidate, Cursor, Lane, NeverSeen,
    Order, Settings, Thresholds,
};

#[cfg(test)]
mod tests;
