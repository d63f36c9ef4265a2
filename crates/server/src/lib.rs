//! The shell of the platform.

pub mod kill_point;
pub mod store;
