//! Short messages: what platform, service centre, device and card exchange (3GPP TS 23.040, TS 31.115).
//!
//! | file | holds |
//! |---|---|
//! | `address.rs` | telephone numbers and alphanumeric senders |
//! | `timestamp.rs` | service-centre time stamp and validity period |
//! | `tpdu.rs` | SMS-DELIVER, SMS-SUBMIT |
//! | `report.rs` | the reports to both, SMS-STATUS-REPORT |
//! | `udh.rs` | user data header and its information elements |
//! | `segment.rs` | secured packets cut into short messages |
//! | `reassembly.rs` | short messages put together again |
//! | `envelope.rs` | ENVELOPE (SMS-PP DOWNLOAD), by which a device hands a message to its card |

mod address;
mod envelope;
mod reassembly;
mod report;
mod segment;
mod timestamp;
mod tpdu;
mod udh;

pub use address::Address;
pub use envelope::SmsPpDownload;
pub use reassembly::{Arrival, Assembled, Limits, Reassembly, ReassemblyError};
pub use report::{DeliverReport, StatusReport, SubmitReport};
pub use segment::{PacketKind, Reference, SegmentError, segment};
pub use timestamp::{Timestamp, Validity};
pub use tpdu::{Deliver, Submit, UserData, is_seven_bit};
pub use udh::{Concatenation, Element, UserDataHeader};

/// Most octets in the user data of one short message, its header included (3GPP TS 23.040, 9.2.3.24).
pub const USER_DATA_SIZE_MAX: usize = 140;

/// TP-PID of messages for the card: (U)SIM data download (3GPP TS 23.040, 9.2.3.9).
pub const PID_DATA_DOWNLOAD: u8 = 0x7F;

/// TP-DCS of messages for the card: 8-bit data, class 2 (3GPP TS 23.038, 4).
pub const DCS_CLASS_2: u8 = 0xF6;

/// Why bytes are not a short message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SmsError {
    /// It ends too early.
    #[error("the message ends inside {0}: is a part of it missing?")]
    Truncated(&'static str),
    /// It is of another type than it should be.
    #[error("message type {found} where {expected} belongs: TP-MTI or direction is wrong")]
    MessageType {
        /// The type that was wanted.
        expected: &'static str,
        /// TP-MTI as it came.
        found: u8,
    },
    /// An address has more digits than exist.
    #[error("{0} has more than 20 digits")]
    AddressTooLong(&'static str),
    /// A character that no address can carry.
    #[error("an address may contain digits, *, #, a, b and c, or up to 11 characters of the GSM alphabet")]
    AddressCharacter,
    /// The header reaches beyond the user data.
    #[error("the user data header announces {announced} bytes and {found} follow")]
    HeaderTooLong {
        /// UDHL.
        announced: usize,
        /// Bytes there are.
        found: usize,
    },
    /// An information element reaches beyond its header.
    #[error("information element {id:02x} reaches beyond the user data header")]
    Element {
        /// Its identifier.
        id: u8,
    },
    /// TP-UDL is more than a message can carry.
    #[error("TP-UDL announces {0} octets, more than the 140 that a message carries")]
    UserDataTooLong(usize),
    /// A number in a concatenation element that cannot be.
    #[error("part {number} of {total}: parts count from 1 to the total")]
    PartNumber {
        /// Number of this part.
        number: u8,
        /// Number of all parts.
        total: u8,
    },
    /// An ENVELOPE is not an SMS-PP download.
    #[error("not an ENVELOPE (SMS-PP DOWNLOAD): tag D1 with a TPDU (8B) is expected")]
    Envelope,
}

/// Takes `count` bytes off the front.
fn take<'a>(rest: &mut &'a [u8], count: usize, what: &'static str) -> Result<&'a [u8], SmsError> {
    let (taken, after) = rest.split_at_checked(count).ok_or(SmsError::Truncated(what))?;
    *rest = after;
    Ok(taken)
}

/// Takes one byte off the front.
fn take_byte(rest: &mut &[u8], what: &'static str) -> Result<u8, SmsError> {
    take(rest, 1, what).map(|taken| taken[0])
}
