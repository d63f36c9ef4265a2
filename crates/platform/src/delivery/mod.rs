//! Delivery: what reaches which card, by which bearer, and what proves it.

mod bearer;
mod machine;
mod milestone;
mod packet;
mod packing;
mod status;
#[cfg(test)]
mod tests;
mod waiting;

pub use bearer::{Bearer, Bearers, Brought, Presence, Settings, Urgency, order};
pub use machine::{Cause, Command, Delivery, Event, Polled, State, UnderWay, Wish};
pub use milestone::{MILESTONES_MAX, Milestone, Milestones};
pub use packet::{Blocked, Change, Evidence, PARTS_MAX, Packet, PacketState, Purpose, fenced_by, may_send};
pub use packing::{Handed, Marks, PORTIONS_MAX, PackError, Portion, PortionFailing, is_strong, pack, script};
pub use status::ScriptAnswer;
pub use waiting::{Available, Known, Waiting, compare_versions, has_all, versions_on, waiting};
