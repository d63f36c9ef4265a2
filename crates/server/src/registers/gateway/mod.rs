//! The register gateway: the entity in the operator's network that speaks mutual TLS to the platform and the native
//! protocol to the register. Its protocol is in `docs/registers.md`.

pub mod certificates;
pub mod client;
pub mod message;
pub mod report;
pub mod server;
pub mod transport;

pub use client::Gateway;
pub use report::Reporter;
pub use server::Served;
pub use transport::TransportKey;
