//! The secure element.

pub mod ota;
pub mod secure_channel;
pub mod toolkit;
