//! The world around the platform.
pub mod reader;
pub mod smsc;
pub mod vendor;
