//! The commands of the personalization application.
//!
//! | command | P1 P2 | data | answers |
//! |---|---|---|---|
//! | `80 5C` STORE | `00` more follow, `80` the last; block number, from 0 | a part of the message | to the last: [`super::Answer`] |
//! | `80 CA` GET STATUS | `DF 60` | none | [`super::Status`] |
//! | `80 56` READ IDENTITY | `00 00` | admin code (8) | card id, EF.IMSI, digest of the identity |
//! | `80 DA` PUT OPERATORS | `DF 61` | the list of the card's menu | none |
//! | `80 CA` GET OFFER | `DF 61` | none | [`super::Offer`] |
//! | `80 5E` SEAL REQUEST | `00 00` | [`super::Wish`] | a packet of [`super::Uplink`], for the device to send |
//! | `80 54` SHOW TEXT | `00 00` | UTF-8 text | none |

use super::message::{ADMIN_CODE_BYTES, MESSAGE_BYTES_MAX};
use crate::apdu::{Command, StatusWord};

/// The data object that GET STATUS asks for.
pub const STATUS_TAG: u16 = 0xDF60;
/// The data object that PUT OPERATORS replaces, and that GET OFFER asks for.
const OPERATORS_TAG: u16 = 0xDF61;
/// Bytes of the message in one STORE.
pub const BLOCK_BYTES: usize = 255;
/// Longest text that the card shows, in bytes of UTF-8.
pub const TEXT_BYTES_MAX: usize = 200;
/// P1 of the last STORE.
const LAST: u8 = 0x80;

/// One command, read by the card.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PersonalizationCommand<'a> {
    /// The next part of a message; block 0 forgets what came before.
    Store {
        /// From 0.
        block: u8,
        /// Whether the message ends here.
        last: bool,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// What the card remembers of changes.
    ReadStatus,
    /// Card id, IMSI and digest, for who knows the admin code.
    ReadIdentity {
        /// Presented.
        admin_code: &'a [u8; ADMIN_CODE_BYTES],
    },
    /// Another list of operators for the menu.
    PutOperators {
        /// See [`super::decode_operators`].
        list: &'a [u8],
    },
    /// IdSC, service number, operators.
    ReadOffer,
    /// The device's own application asks for a sealed request.
    SealWish {
        /// See [`super::Wish`].
        wish: &'a [u8],
    },
    /// Shows the user a text: what became of a request.
    ShowText {
        /// The text.
        text: &'a str,
    },
}

impl<'a> PersonalizationCommand<'a> {
    /// Reads a command.
    ///
    /// # Errors
    /// The status word that answers what is no command of this application.
    pub fn parse(command: &Command<'a>) -> Result<Self, StatusWord> {
        if command.cla & 0xF0 != 0x80 {
            return Err(StatusWord::CLASS);
        }
        match (command.ins, command.p1, command.p2) {
            (0x5C, p1 @ (0 | LAST), block) if !command.data.is_empty() => {
                Ok(Self::Store { block, last: p1 == LAST, bytes: command.data })
            }
            (0x5C, 0 | LAST, _) => Err(StatusWord::WRONG_LENGTH),
            (0xCA, 0xDF, 0x60) => Ok(Self::ReadStatus),
            (0xCA, 0xDF, 0x61) => Ok(Self::ReadOffer),
            (0xCA, ..) => Err(StatusWord::REFERENCE_NOT_FOUND),
            (0x56, 0, 0) => {
                let admin_code = command.data.try_into().map_err(|_| StatusWord::WRONG_LENGTH)?;
                Ok(Self::ReadIdentity { admin_code })
            }
            (0xDA, 0xDF, 0x61) => Ok(Self::PutOperators { list: command.data }),
            (0xDA, ..) => Err(StatusWord::REFERENCE_NOT_FOUND),
            (0x5E, 0, 0) => Ok(Self::SealWish { wish: command.data }),
            (0x54, 0, 0) => {
                let text = std::str::from_utf8(command.data).map_err(|_| StatusWord::WRONG_DATA)?;
                if text.is_empty() || text.len() > TEXT_BYTES_MAX {
                    return Err(StatusWord::WRONG_LENGTH);
                }
                Ok(Self::ShowText { text })
            }
            (0x5C | 0x56 | 0x54 | 0x5E, ..) => Err(StatusWord::WRONG_P1_P2),
            _ => Err(StatusWord::INSTRUCTION),
        }
    }
}

/// The C-APDUs that carry a sealed message. The last one has an Le: in a compact script it has to end the script
/// ([`crate::script::compact::Script::finish_with`]), in an expanded one it may stand anywhere.
pub fn commands(message: &[u8]) -> Vec<Vec<u8>> {
    // A message that is sealed is within its limit, and its blocks can be numbered.
    let message = &message[..message.len().min(MESSAGE_BYTES_MAX)];
    let blocks = message.chunks(BLOCK_BYTES);
    let count = blocks.len();
    (0..)
        .zip(blocks)
        .map(|(number, block)| {
            let last = usize::from(number) + 1 == count;
            let command = Command::new(0x80, 0x5C, if last { LAST } else { 0 }, number).with_data(block);
            if last { command.with_le(256).encode() } else { command.encode() }
        })
        .collect()
}

/// GET STATUS: harmless, and with a higher counter it makes every older packet of its key set dead.
pub fn read_status() -> Vec<u8> {
    let [p1, p2] = STATUS_TAG.to_be_bytes();
    Command::new(0x80, 0xCA, p1, p2).with_le(256).encode()
}

/// GET OFFER, for the device's own application: the application is selected by its AID before.
pub fn read_offer() -> Vec<u8> {
    let [p1, p2] = OPERATORS_TAG.to_be_bytes();
    Command::new(0x80, 0xCA, p1, p2).with_le(256).encode()
}

/// SEAL REQUEST, for the device's own application: the answer is a command packet that goes to the platform as it is, in
/// short messages or over IP.
pub fn seal_wish(wish: &super::Wish) -> Vec<u8> {
    Command::new(0x80, 0x5E, 0, 0).with_data(&wish.encode()).with_le(256).encode()
}

/// READ IDENTITY under the admin code.
pub fn read_identity(admin_code: &[u8; ADMIN_CODE_BYTES]) -> zeroize::Zeroizing<Vec<u8>> {
    zeroize::Zeroizing::new(Command::new(0x80, 0x56, 0, 0).with_data(admin_code).with_le(256).encode())
}

/// SHOW TEXT, cut to [`TEXT_BYTES_MAX`] bytes at a character.
pub fn show_text(text: &str) -> Vec<u8> {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Command::new(0x80, 0x54, 0, 0).with_data(&text.as_bytes()[..end]).encode()
}

/// PUT OPERATORS with a list of [`super::encode_operators`].
pub fn put_operators(list: &[u8]) -> Vec<u8> {
    let [p1, p2] = OPERATORS_TAG.to_be_bytes();
    Command::new(0x80, 0xDA, p1, p2).with_data(list).encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_any_size_reads_back() {
        for size in [1, 254, 255, 256, 510, 511, MESSAGE_BYTES_MAX] {
            let message: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let mut read = Vec::new();
            let script = commands(&message);
            for (place, bytes) in script.iter().enumerate() {
                let command = Command::parse(bytes).unwrap();
                match PersonalizationCommand::parse(&command) {
                    Ok(PersonalizationCommand::Store { block, last, bytes }) => {
                        assert_eq!(usize::from(block), place);
                        assert_eq!(last, place + 1 == script.len());
                        assert_eq!(command.le.is_some(), last);
                        read.extend_from_slice(bytes);
                    }
                    _ => panic!("{place}"),
                }
            }
            assert_eq!(read, message);
        }
    }

    #[test]
    fn the_other_commands_read_back() {
        let parse = |bytes: &[u8], check: &dyn Fn(PersonalizationCommand<'_>) -> bool| {
            let command = Command::parse(bytes).unwrap();
            assert!(PersonalizationCommand::parse(&command).is_ok_and(check), "{}", hex::encode(bytes));
        };
        parse(&read_status(), &|command| matches!(command, PersonalizationCommand::ReadStatus));
        parse(&read_identity(b"12345678"), &|command| {
            matches!(command, PersonalizationCommand::ReadIdentity { admin_code: b"12345678" })
        });
        parse(
            &show_text(&"\u{20ac}".repeat(99)),
            &|command| matches!(command, PersonalizationCommand::ShowText { text } if text.len() == 198),
        );
        parse(&put_operators(&[1]), &|command| {
            matches!(command, PersonalizationCommand::PutOperators { list: [1] })
        });
        for (wrong, status) in [
            ("005c800001aa", StatusWord::CLASS),
            ("805c400001aa", StatusWord::WRONG_P1_P2),
            ("805c8000", StatusWord::WRONG_LENGTH),
            ("80cadf5200", StatusWord::REFERENCE_NOT_FOUND),
            ("80560000021234", StatusWord::WRONG_LENGTH),
            ("8054000002c328", StatusWord::WRONG_DATA),
            ("80aa0000", StatusWord::INSTRUCTION),
        ] {
            let bytes = hex::decode(wrong).unwrap();
            let command = Command::parse(&bytes).unwrap();
            assert_eq!(PersonalizationCommand::parse(&command).err(), Some(status), "{wrong}");
        }
    }
}
