//! The host of a secure element: toolkit engine, channels, timers, short messages, prompts.
//!
//! A [`Device`] is a machine without I/O: [`Device::handle`] takes the time and an event, [`Device::next_command`]
//! says what to do, [`Device::next_deadline`] when to come back. The same events at the same times give the same
//! commands. Its state table stands at [`device`].

pub mod client;
pub mod device;
pub mod fuzz;
pub mod inbound;
pub mod outbound;
pub mod proactive;
pub mod queues;
pub mod registration;
pub mod sat;
pub mod text;

mod application;
mod authenticate;
mod channel;
mod event;
mod execute;
mod inbox;
mod kind;
mod prompt;
mod response;
mod startup;
mod timers;

pub use authenticate::{AkaAnswer, Authentication, CHALLENGES_MAX};
pub use channel::{CHANNELS_MAX, RECEIVE_BUFFER_BYTES_MAX, SEND_BUFFER_BYTES_MAX};
pub use device::{BUSY_ATTEMPTS_MAX, BUSY_RETRY_S, Device, FETCHES_PER_SESSION_MAX, FOLLOW_UPS_MAX};
pub use event::{Command, Event, LinkId, Menu, Notice, Prompt, SmsReport, UserAction};
pub use inbox::INBOX_MAX;
pub use kind::{Kind, Location, Pin, Settings, UnknownKind};
pub use registration::Registration;
pub use startup::CardFiles;
