//! The shell of the platform.

pub mod api;
pub mod card_port;
pub mod clock;
pub mod config;
pub mod entitlement;
pub mod fuzz;
pub mod import;
pub mod kill_point;
pub mod metrics;
pub mod registers;
pub mod shell;
pub mod smpp;
pub mod store;
pub mod vault;
