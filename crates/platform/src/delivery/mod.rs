//! Delivery: what reaches which card, and what proves it.

mod packet;

pub use packet::{Blocked, Change, Evidence, PARTS_MAX, Packet, PacketState, Purpose, fenced_by, may_send};
