//! The operator's decisions.

pub mod card;
