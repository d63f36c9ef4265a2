//! The operator's decisions.

pub mod audience;
pub mod campaign;
pub mod card;
pub mod content;
pub mod delivery;
pub mod flow;
pub mod forecast;
pub mod fuzz;
pub mod poll;
pub mod subscription;
pub mod trace;
