//! Campaigns: what is urgent and runs against the tide of polls.
//!
//! [`Campaign`] is what a user asks for.

mod types;

pub use types::{
    ATTEMPTS_MAX, BATCH_MAX, Campaign, CampaignError, CampaignState, Candidate, Cursor, Lane, NeverSeen,
    Order, Settings, Thresholds,
};
