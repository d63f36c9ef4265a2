//! The secure element, in software: a UICC with files, authentication, toolkit, remote management and an agent that
//! polls by itself. It does no I/O and knows no time but the device's.
//!
//! [`Card`] takes command APDUs and answers them. What survives power loss leaves as journal records
//! ([`Card::take_changes`]); TLS and random bytes are lent to it ([`Environment`]).
//!
//! | module | holds |
//! |---|---|
//! | `card` | dispatch of commands, logical channels, reset |
//! | `storage` | entries and journal: what survives power loss |
//! | `files` | file system of the profile with the card's own changes |
//! | `pins`, `authenticate`, `keys` | codes, Milenage and TUAK, OTA and TLS keys |
//! | `gsm` | the class byte A0 of old devices |
//! | `toolkit` | proactive commands, terminal responses, envelopes |
//! | `ota`, `messages` | secured packets and their proofs of receipt |
//! | `applications` | scripts: remote file and application management, vendor patch |
//! | `subscription` | another identity over the air, the menu that asks for it |
//! | `poll` | the agent that keeps the dates of contact |

mod administration;
mod applications;
mod authenticate;
mod card;
mod channel;
mod fetcher;
mod files;
pub mod fuzz;
mod gsm;
mod keys;
mod messages;
pub mod ota;
mod personalization;
mod pins;
mod poll;
pub mod secure_channel;
mod storage;
mod subscription;
mod terminal;
pub mod toolkit;

pub use card::{CHANNELS, Card};
pub use personalization::{KeySetPersonalization, Personalization, PskPersonalization, Secret, pin};
pub use poll::SessionFailure;
pub use secure_channel::Environment;
pub use storage::{JournalError, whole_journal};
