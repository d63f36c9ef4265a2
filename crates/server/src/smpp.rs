//! SMPP 3.4 links to SMSCs, as an ESME.
//!
//! One [`LinkConfig`] is one account at one SMSC: several binds, a window per bind, one pace for all of them that slows
//! down when the SMSC throttles, reconnection, receipts matched to what was sent. [`Link::start`] runs it;
//! [`link::Machine`] is the same without sockets and clock.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use simtide_server::smpp::{Link, LinkConfig, LinkEvent, Submit};
//! let (events, mut happened) = tokio::sync::mpsc::channel(1_000);
//! let link = Link::start(LinkConfig::default(), events)?;
//! link.submit(Submit::binary(1, "436641234567".parse()?, vec![0x02, 0x70, 0x00]))?;
//! while let Some(event) = happened.recv().await {
//!     if let LinkEvent::Accepted { token, message_id } = event {
//!         println!("{token} is {message_id}");
//!     }
//! }
//! # Ok(()) }
//! ```

mod bind;
mod config;
mod delivery;
mod event;
pub mod link;
mod pace;
mod receipt;
mod shell;
mod wire;

pub use config::{BindMode, ConfigError, LinkConfig, Password, TlsConfig};
pub use event::{
    Address, Answer, Connection, DeliveryState, LinkEvent, Message, Receipt, Refusal,
    SHORT_MESSAGE_BYTES_MAX, StopReason, Submit, SubmitError, Verdict,
};
pub use link::Figures;
pub use shell::{Link, LinkHandle, StartError};
