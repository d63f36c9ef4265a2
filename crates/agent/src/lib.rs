//! The shell of device and card: card ports, connections, the line to the network, TLS.

pub mod air;
pub mod channel;
pub mod clock;
pub mod entitlement;
pub mod fuzz;
pub mod host;
pub mod links;
pub mod network;
pub mod personalization;
pub mod port;
pub mod runner;
pub mod smpp;
pub mod vpcd;
