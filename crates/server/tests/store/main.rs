//! What every back end of the store must do: the same answers as the model over random histories, and the promises of
//! the boundary one by one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by it")]

mod cases;
mod histories;
mod kill;
mod medium;
mod promises;
mod world;
