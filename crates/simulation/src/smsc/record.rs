//! What a service centre did, one line of JSON each.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::air::Hex;

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, on the clock of the service centre.
    pub time: EpochMs,
    /// What.
    pub event: Happened,
    /// The service centre's number of the message; 0 where there is none.
    pub id: u64,
    /// Who sent it.
    pub source: String,
    /// For whom.
    pub destination: String,
    /// TP-UD with its UDH.
    pub user_data: Hex,
}

/// What happened to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// A submit_sm came and was accepted.
    Submitted,
    /// A submit_sm came and was refused for its rate.
    Throttled,
    /// A submit_sm came and was refused for another reason.
    Refused,
    /// A submit_sm came and the connection was dropped without an answer.
    Dropped,
    /// A device sent an SMS-SUBMIT.
    Originated,
    /// A message went to a device.
    Delivered,
    /// The device acknowledged.
    Acknowledged,
    /// The device refused.
    Failed,
    /// The message was given up.
    Expired,
    /// A receipt was queued for the platform.
    Receipt,
    /// A message from a device was taken by the platform.
    Taken,
    /// A card was asked to prove itself. Here and below the source is the identity.
    Challenged,
    /// A register let a subscriber in; the destination is its number.
    Attached,
    /// An attach was refused; the destination is the cause (3GPP TS 24.008, 10.5.3.6) in hexadecimal digits.
    Rejected,
    /// A register took a subscriber away; the destination is its number.
    Withdrawn,
}
