//! Card ports: where a device finds its card.
//!
//! | address | what stands behind it |
//! |---|---|
//! | `soft:PROFILE[:STATE]` | a card in this process, personalised by a profile; its state in a file |
//! | `vpcd:ADDRESS` | a listening virtual reader; a software card connects |
//! | `pcsc:READER` | a card reader of this machine (built with the feature `pcsc`) |
//! | `at:DEVICE` | the card in a modem, by AT+CSIM |
//!
//! A port blocks its caller: a foreign card may take seconds. [`thread::PortThread`] gives each port a thread of its own.

pub mod at;
#[cfg(feature = "pcsc")]
pub mod pcsc;
pub mod soft;
pub mod thread;
pub mod vpcd;

use std::path::PathBuf;
use std::str::FromStr;

/// A card that can be reset and spoken to.
pub trait CardPort: Send {
    /// Powers the card anew and gives its ATR.
    fn reset(&mut self) -> Result<Vec<u8>, PortError>;

    /// Hands a command APDU to the card; `response` is replaced by data, SW1 and SW2.
    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError>;
}

/// Why a port gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The line to the card failed.
    #[error("the card port failed: {0}; check that the card is in place")]
    Io(#[from] std::io::Error),
    /// What came back is no answer of a card.
    #[error("the card port answered with {bytes} bytes that are no card answer")]
    NoAnswer {
        /// How many bytes came.
        bytes: usize,
    },
    /// The modem refused.
    #[error("the modem refused the command: {0}; it may keep the card for itself")]
    Modem(String),
    /// The state of a software card cannot be used.
    #[error("the state of the card cannot be used: {0}")]
    State(String),
    /// The reader's own words.
    #[error("the reader says: {0}")]
    Reader(String),
}

/// The address of a port, as it is written on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortAddress {
    /// A card in this process.
    Soft {
        /// Path of the profile, or `standard` for the one that is built in.
        profile: String,
        /// Where its state is kept.
        state: Option<PathBuf>,
    },
    /// A listening virtual reader.
    Vpcd(String),
    /// A reader of this machine.
    Pcsc(String),
    /// A modem's device file.
    At(PathBuf),
}

impl FromStr for PortAddress {
    type Err = BadPortAddress;

    fn from_str(text: &str) -> Result<Self, BadPortAddress> {
        let bad = || BadPortAddress(text.to_owned());
        let (scheme, rest) = text.split_once(':').ok_or_else(bad)?;
        if rest.is_empty() {
            return Err(bad());
        }
        Ok(match scheme {
            "soft" => match rest.split_once(':') {
                Some((profile, state)) if !profile.is_empty() && !state.is_empty() => {
                    Self::Soft { profile: profile.to_owned(), state: Some(state.into()) }
                }
                Some(_) => return Err(bad()),
                None => Self::Soft { profile: rest.to_owned(), state: None },
            },
            "vpcd" => Self::Vpcd(rest.to_owned()),
            "pcsc" => Self::Pcsc(rest.to_owned()),
            "at" => Self::At(rest.into()),
            _ => return Err(bad()),
        })
    }
}

/// A text that names no card port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no card port: use soft:PROFILE[:STATE], vpcd:ADDRESS, pcsc:READER or at:DEVICE")]
pub struct BadPortAddress(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parsed = |text: &str| text.parse::<PortAddress>();
        assert_eq!(
            parsed("soft:standard"),
            Ok(PortAddress::Soft { profile: "standard".to_owned(), state: None })
        );
        assert_eq!(
            parsed("soft:a.toml:card.state"),
            Ok(PortAddress::Soft { profile: "a.toml".to_owned(), state: Some("card.state".into()) })
        );
        assert_eq!(parsed("vpcd:127.0.0.1:35963"), Ok(PortAddress::Vpcd("127.0.0.1:35963".to_owned())));
        assert_eq!(parsed("at:/dev/ttyUSB2"), Ok(PortAddress::At("/dev/ttyUSB2".into())));
        for wrong in ["", "soft", "soft:", "soft::x", "soft:x:", "usb:1"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
