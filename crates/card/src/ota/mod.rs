//! The card's receiver of secured packets over SMS (ETSI TS 102 225, 3GPP TS 31.115).
//!
//! ```text
//! ENVELOPE (SMS-PP DOWNLOAD) ── Receiver::receive ──> Reception
//!                                                      ├ Command ── the application runs its data ── Reply::answer ─┐
//!                                                      ├ Refused ───────────────────────────────────────────────────┤
//!                                                      └ Incomplete, NotSecured, Unreadable: a status word only     │
//! ENVELOPE response data, SEND SHORT MESSAGE  <────────────────────────────────────────────────────── Delivery ─────┘
//! ```
//!
//! The counter of an accepted command is stored before its application sees anything. A card has no clock: parts of
//! a concatenated message wait until they are complete or newer messages need their place.

mod receiver;
mod reply;

pub use receiver::{Command, Keyring, Receiver, Reception};
pub use reply::{Delivery, MESSAGES_MAX, Reply};

#[cfg(test)]
mod tests;
