//! What goes into a link and what comes out of it.

use std::fmt;

use rusmpp_core::CommandId;
use simtide_protocol::ids::Msisdn;
use thiserror::Error;

/// Longest TP-UD of one short message, UDH included (3GPP TS 23.040, 9.2.3.24).
pub const SHORT_MESSAGE_BYTES_MAX: usize = 140;

/// An SMPP address: type of number, numbering plan, and digits or text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Type of number (SMPP 3.4, 5.2.5): 0 unknown, 1 international, 5 alphanumeric.
    pub ton: u8,
    /// Numbering plan (SMPP 3.4, 5.2.6): 0 unknown, 1 E.164.
    pub npi: u8,
    /// At most 20 characters.
    pub digits: String,
}

impl Address {
    /// An address from its three fields.
    pub fn new(ton: u8, npi: u8, digits: &str) -> Self {
        Address { ton, npi, digits: digits.to_owned() }
    }
}

/// One short message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    /// The caller's name for it; comes back in every event about it.
    pub token: u64,
    /// Who sends: the platform's own number or short code.
    pub source: Address,
    /// The subscriber.
    pub destination: Msisdn,
    /// esm_class (SMPP 3.4, 5.2.12): 0x40 UDHI, 0x42 UDHI in transaction mode.
    pub esm_class: u8,
    /// protocol_id: 0x7F for (U)SIM data download.
    pub protocol_id: u8,
    /// data_coding: 0xF6 class 2, 8 bit.
    pub data_coding: u8,
    /// TP-UD with its UDH, at most 140 bytes.
    pub short_message: Vec<u8>,
    /// How long the SMSC may keep it, in seconds; 0 leaves it to the SMSC. At most 99 days.
    pub validity_s: u32,
    /// registered_delivery (SMPP 3.4, 5.2.17): 1 final receipt, 0x11 also "stored".
    pub registered_delivery: u8,
    /// user_message_reference (0204), sent always.
    pub user_message_reference: u16,
    /// Parts of one message carry the same group: they go in the order of their submission, on one bind, each after
    /// the one before was accepted. When a part is refused or its outcome is unknown, the rest is refused too.
    pub group: Option<u64>,
}

impl Submit {
    /// A binary message for the card: UDHI, PID 7F, DCS F6, final receipt, validity left to the SMSC.
    pub fn binary(token: u64, destination: Msisdn, short_message: Vec<u8>) -> Self {
        Submit {
            token,
            source: Address::new(0, 0, ""),
            destination,
            esm_class: 0x40,
            protocol_id: 0x7F,
            data_coding: 0xF6,
            short_message,
            validity_s: 0,
            registered_delivery: 1,
            user_message_reference: token as u16,
            group: None,
        }
    }
}

/// Why a short message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubmitError {
    /// The link's queue is full.
    #[error("the queue of the SMPP link is full: send less, or raise queue_max")]
    Full,
    /// The link has stopped.
    #[error("the SMPP link has stopped: see its Stopped event for the reason")]
    Stopped,
    /// The message is longer than one short message.
    #[error("a short message holds at most 140 bytes with its UDH: cut it into parts")]
    TooLong,
}

/// What happened on a link.
#[derive(Debug, Clone, PartialEq)]
pub enum LinkEvent {
    /// The SMSC has taken the message.
    Accepted {
        /// From [`Submit::token`].
        token: u64,
        /// The SMSC's id, as it came; some SMSCs always give the same text.
        message_id: String,
    },
    /// The message was not taken, and will not be sent.
    Refused {
        /// From [`Submit::token`].
        token: u64,
        /// Who refused and why.
        cause: Refusal,
        /// Whether the same message may be taken later.
        temporary: bool,
    },
    /// The message left, and the link was lost or no answer came: it may or may not have been taken.
    Unknown {
        /// From [`Submit::token`].
        token: u64,
    },
    /// The SMSC asked for less: the link has slowed down by itself and keeps the message.
    Throttled {
        /// The rate in force now, in short messages per second.
        rate_per_s: f64,
    },
    /// A receipt about a message.
    Receipt(Receipt),
    /// A message from a phone. The SMSC keeps it until it is answered ([`super::LinkHandle::answer`]), but the phone
    /// waits meanwhile: some SMSCs tell it after 5 s that the message was not taken.
    Message(Message),
    /// A subscriber who was absent is back (alert_notification).
    Alert {
        /// The subscriber.
        subscriber: Address,
    },
    /// The first bind that can send is up.
    Up,
    /// The last bind that could send is gone; the link reconnects by itself.
    Down,
    /// The link has ended for good.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

/// Who refused a message and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The SMSC, with this command_status.
    Smsc(u32),
    /// It waited longer than `queue_wait_s`.
    Waited,
    /// An earlier part of the same group was refused, or its outcome is unknown.
    Group,
    /// The link stopped before it was sent.
    Stopped,
    /// It was withdrawn while it waited.
    Withdrawn,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Smsc(status) => write!(f, "refused by the SMSC, command_status 0x{status:08X}"),
            Refusal::Waited => f.write_str("waited too long for the link"),
            Refusal::Group => f.write_str("an earlier part of the same message was not sent"),
            Refusal::Stopped => f.write_str("the link stopped"),
            Refusal::Withdrawn => f.write_str("withdrawn before it was sent"),
        }
    }
}

/// Why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// We were asked to.
    Requested,
    /// The SMSC refused the bind with this command_status (0x0D, 0x0E or 0x0F): trying again would lock the account.
    Bind(u32),
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StopReason::Requested => f.write_str("stopped on request"),
            StopReason::Bind(0x0D) => {
                f.write_str("the SMSC refused the bind: ask whether the account may bind so often")
            }
            StopReason::Bind(0x0E) => f.write_str("the SMSC refused the password: check password"),
            StopReason::Bind(0x0F) => f.write_str("the SMSC does not know this account: check system_id"),
            StopReason::Bind(status) => write!(f, "the SMSC refused the bind, command_status 0x{status:08X}"),
        }
    }
}

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The message it is about, where this link accepted it since its start; else look `ids` or `reference` up.
    pub token: Option<u64>,
    /// What the id may have been in the answer to the submit, likeliest first: as written, then the same number in
    /// hexadecimal or decimal. Lower case, without leading zeros. Empty where the SMSC gives none.
    pub ids: Vec<String>,
    /// The subscriber to whom the message went.
    pub subscriber: Address,
    /// user_message_reference (0204); some SMSCs return only its low 8 bits.
    pub reference: Option<u16>,
    /// What became of the message.
    pub state: DeliveryState,
    /// The SMSC's own error text or network error code, where it gives one.
    pub error: Option<String>,
}

/// What became of a message (SMPP 3.4, 5.2.28).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// On its way, or stored because the phone is absent.
    Enroute,
    /// The phone has acknowledged it.
    Delivered,
    /// Its validity ended before the phone came.
    Expired,
    /// Deleted at the SMSC.
    Deleted,
    /// It can never be delivered.
    Undeliverable,
    /// Taken by someone else on behalf of the subscriber.
    Accepted,
    /// The SMSC cannot say.
    Unknown,
    /// Rejected.
    Rejected,
}

impl DeliveryState {
    /// Whether no further receipt about the message will follow.
    pub fn is_final(self) -> bool {
        self != DeliveryState::Enroute
    }
}

/// A message from a phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What to hand to [`super::LinkHandle::answer`] once the message is stored.
    pub answer: Answer,
    /// The phone.
    pub source: Address,
    /// Our number or short code.
    pub destination: Address,
    /// Whether `user_data` begins with a UDH (esm_class 0x40).
    pub udhi: bool,
    /// protocol_id.
    pub protocol_id: u8,
    /// data_coding; binary messages come with 02, 04, F5 or F6.
    pub data_coding: u8,
    /// TP-UD, with its UDH where `udhi`.
    pub user_data: Vec<u8>,
}

/// Names one message that waits for its answer. An answer after the connection was lost does nothing: the SMSC
/// delivers the message again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub(super) connection: Connection,
    /// deliver_sm or data_sm: how it came.
    pub(super) request: CommandId,
    pub(super) sequence: u32,
}

/// One connection of one bind: events of an earlier connection are recognised and ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Index of the bind within the link.
    pub bind: usize,
    /// Counts the connections of that bind.
    pub attempt: u32,
}

/// How to answer a message from a phone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored: the SMSC forgets it.
    Taken,
    /// Not now: the SMSC delivers it again.
    Later,
    /// Never: the SMSC drops it.
    Refused,
}
