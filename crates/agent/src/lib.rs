//! The shell of device and card: card ports, connections, the line to the network, TLS.

pub mod air;
pub mod channel;
pub mod clock;
pub mod links;
pub mod port;
pub mod vpcd;
