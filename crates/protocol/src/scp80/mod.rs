//! SCP80: secured packets between platform and card (ETSI TS 102 225; over SMS 3GPP TS 31.115).
//!
//! A command is sealed by [`seal`] and opened by [`open`]; its proof of receipt (PoR) is sealed by the card with
//! [`seal_response`] and opened by [`open_response`]. The codec seals what it is asked to; what a platform may ask
//! for is said by [`policy`], what a card accepts by [`receive`].
//!
//! | file | holds |
//! |---|---|
//! | `spi.rs` | the security parameters: what protects the command, what the proof of receipt must look like |
//! | `keys.rs` | KIc and KID octets, keys, key sets |
//! | `algorithms.rs` | ciphers, MACs, CRCs, all with zero IV and zero padding |
//! | `counter.rs` | the replay counter |
//! | `command.rs`, `response.rs` | the two packets |
//! | `policy.rs` | what the platform refuses to send |
//! | `receive.rs` | what the card answers to a command |

mod algorithms;
mod command;
mod counter;
mod keys;
pub mod policy;
mod receive;
mod response;
mod spi;

pub use algorithms::{crc16, crc32};
pub use command::{CommandHeader, OpenError, Opened, SealError, Security, open, seal};
pub use counter::Counter;
pub use keys::{CipherAlgorithm, CmacLength, Crc, Key, KeyError, KeySet, Kic, Kid, MacAlgorithm};
pub use receive::{Accepted, Holdings, Refused, StoredKeySet, receive};
pub use response::{
    PaddingOctets, RESPONSE_UDH, Response, ResponseHeader, ResponseStatus, open_response, response_capacity,
    response_tar, seal_response,
};
pub use spi::{CounterMode, Integrity, PorRequest, Spi};

/// Largest secured packet in bytes: what 255 concatenated SMS carry is more, but no card's buffer is.
pub const PACKET_SIZE_MAX: usize = 8192;
