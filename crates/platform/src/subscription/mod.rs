//! A card changes its operator: who may ask, what is agreed, and the machine that leads one change to its end.
//!
//! | file | holds |
//! |---|---|
//! | `settings.rs` | what the platform knows of an operator, what two operators have agreed on |
//! | `request.rs` | requests with the user's agreement, and whether a change may begin |
//! | `types.rs` | states, events, commands |
//! | `change.rs` | one change: its record |
//! | `machine.rs` | what an event makes of it: time, effects, people |
//! | `register_answers.rs` | the same for what registers answer |
//! | `card_answers.rs` | the same for packets and what the card says: the fence |
//! | `polls.rs` | the same for polls of the card |
//! | `bulk.rs`, `walk.rs` | a campaign of changes: rate, canary, thresholds; which card is next |
//!
//! The shell's rule: load the change, [`Change::handle`] the event, **one durable commit** of the new record with the
//! commands that are operations of it ([`Command::is_in_commit`]), then the other commands; what comes of each is an
//! event again. A command may be carried out twice, or not at all when the process ends: every one is idempotent, and
//! [`Event::Restarted`] and [`Event::Tick`] ask again for what is still missing.

mod bulk;
mod card_answers;
mod change;
mod machine;
mod polls;
mod register_answers;
mod request;
mod settings;
mod types;
mod walk;

pub use bulk::*;
pub use change::*;
pub use polls::{POLL_WITHIN_S, PollWork};
pub use request::*;
pub use settings::*;
pub use types::*;
pub use walk::*;
