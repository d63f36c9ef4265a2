//! Command scripts and their answers (ETSI TS 102 226, 5): what is inside a secured packet or the body of an
//! SCP81 message.
//!
//! - Compact format: C-APDUs one after the other; the answer tells how many ran, and the last one's status word
//!   and data. [`compact`]
//! - Expanded format: C-APDUs and actions as TLVs, of definite (`AA`) or indefinite (`AE`) length; the answer holds
//!   every R-APDU. [`expanded`]
//!
//! The platform builds with [`expanded::ScriptWriter`] and [`compact::Script`], and reads with
//! [`expanded::Response`] and [`compact::Response`]. A card iterates [`compact::Commands`] or
//! [`expanded::Items`] and answers with [`compact::Response`] or [`expanded::ResponseWriter`].

pub mod compact;
pub mod expanded;

/// Longest script or response that is read or written, in bytes: what a body of SCP81 may hold at most.
pub const SCRIPT_BYTES_MAX: usize = 64 * 1024;

/// Most commands in one script.
pub const COMMANDS_MAX: usize = 1024;

/// Why a script or a response cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// Longer than [`SCRIPT_BYTES_MAX`].
    #[error("the script has {0} bytes: split it, {SCRIPT_BYTES_MAX} are the most")]
    TooLarge(usize),
    /// More commands than [`COMMANDS_MAX`].
    #[error("the script has more than {COMMANDS_MAX} commands: split it")]
    TooMany,
    /// A command is no C-APDU.
    #[error("command {0} of the script is no C-APDU: {1}")]
    Command(usize, crate::apdu::ApduError),
    /// The outermost tag is none of a script or response in this format.
    #[error(
        "the first tag is {0:02X}, which no script of the expanded format has: expected AA, AE, AB or AF"
    )]
    Tag(u8),
    /// A length or value is cut off, or something stands where it cannot.
    #[error("the script is cut off or malformed after {0} bytes")]
    Malformed(usize),
    /// There are no bytes.
    #[error("the script is empty")]
    Empty,
}
