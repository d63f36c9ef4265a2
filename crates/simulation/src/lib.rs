//! The world around the platform.
pub mod fleet;
pub mod model;
pub mod reader;
pub mod smsc;
pub mod vendor;
