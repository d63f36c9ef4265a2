//! The lines of the air interface (docs/air-interface.md), as the device's side defines them.

pub use simtide_agent::air::lines::{FromDevice, Hex, LINE_BYTES_MAX, ToDevice};
