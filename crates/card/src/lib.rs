//! The secure element.

pub mod secure_channel;
pub mod toolkit;
