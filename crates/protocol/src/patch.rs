//! The vendor's patch script: an operating-system image, its version and its digest (ours: `docs/card-profile.md`).
//!
//! | command | P1 P2 | data |
//! |---|---|---|
//! | `80 50` BEGIN | `00 00` | version (4), length of the image (4), SHA-256 of the image (32) |
//! | `80 52` DATA | block number, from 0 | 1 to 239 bytes of the image |
//! | `80 54` COMMIT | `00 00` | none |
//! | `80 CA` GET DATA | `DF 52` | answers DF52 { version (4), number of patches committed (2) } |

use crate::apdu::{Command, StatusWord};

/// Data object with the version of the operating system and the number of patches.
pub const VERSION_TAG: u32 = 0xDF52;
/// Bytes of the image in one block.
pub const BLOCK_BYTES: usize = 239;
/// Largest image in bytes.
pub const IMAGE_BYTES_MAX: usize = 64 * 1024;

/// One command of a patch script, read by the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatchCommand<'a> {
    /// Announces an image; what was announced before is forgotten.
    Begin {
        /// The version that the image brings.
        version: u32,
        /// Its length in bytes.
        length: u32,
        /// Its SHA-256.
        digest: [u8; 32],
    },
    /// The next bytes of the image.
    Data {
        /// Number of the block, from 0.
        block: u16,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// Replaces the operating system, if the image is whole.
    Commit,
}

/// An image that no script carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the image has {0} bytes: give 1 to {IMAGE_BYTES_MAX}")]
pub struct ImageError(usize);

/// The C-APDUs that replace the operating system by an image; `digest` is its SHA-256.
pub fn commands(version: u32, image: &[u8], digest: &[u8; 32]) -> Result<Vec<Vec<u8>>, ImageError> {
    if image.is_empty() || image.len() > IMAGE_BYTES_MAX {
        return Err(ImageError(image.len()));
    }
    let begin = [&version.to_be_bytes()[..], &(image.len() as u32).to_be_bytes(), digest].concat();
    let mut commands = vec![Command::new(0x80, 0x50, 0, 0).with_data(&begin).encode()];
    for (number, block) in (0_u16..).zip(image.chunks(BLOCK_BYTES)) {
        let [p1, p2] = number.to_be_bytes();
        commands.push(Command::new(0x80, 0x52, p1, p2).with_data(block).encode());
    }
    commands.push(vec![0x80, 0x54, 0x00, 0x00, 0x00]);
    Ok(commands)
}

impl<'a> PatchCommand<'a> {
    /// Reads a command.
    ///
    /// # Errors
    /// The status word that answers what is no command of a patch script.
    pub fn parse(command: &Command<'a>) -> Result<Self, StatusWord> {
        match (command.ins, command.p1, command.p2) {
            (0x50, 0, 0) => {
                let (version, rest) = command.data.split_first_chunk().ok_or(StatusWord::WRONG_LENGTH)?;
                let (length, digest) = rest.split_first_chunk().ok_or(StatusWord::WRONG_LENGTH)?;
                let digest = digest.try_into().map_err(|_| StatusWord::WRONG_LENGTH)?;
                Ok(Self::Begin {
                    version: u32::from_be_bytes(*version),
                    length: u32::from_be_bytes(*length),
                    digest,
                })
            }
            (0x52, p1, p2) if !command.data.is_empty() => {
                Ok(Self::Data { block: u16::from_be_bytes([p1, p2]), bytes: command.data })
            }
            (0x52, ..) => Err(StatusWord::WRONG_LENGTH),
            (0x54, 0, 0) => Ok(Self::Commit),
            (0x50 | 0x54, ..) => Err(StatusWord::WRONG_P1_P2),
            _ => Err(StatusWord::INSTRUCTION),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_reads_back() {
        let image = vec![0x5A; 500];
        let script = commands(0x0102, &image, &[7; 32]).unwrap();
        assert_eq!(script.len(), 5);
        let read: Vec<_> = script.iter().map(|bytes| Command::parse(bytes).unwrap()).collect();
        let read: Vec<_> = read.iter().map(|command| PatchCommand::parse(command).unwrap()).collect();
        assert_eq!(read[0], PatchCommand::Begin { version: 0x0102, length: 500, digest: [7; 32] });
        assert!(matches!(read[3], PatchCommand::Data { block: 2, bytes } if bytes.len() == 22));
        assert_eq!(read[4], PatchCommand::Commit);
        assert!(commands(1, &[], &[0; 32]).is_err());
        assert!(commands(1, &vec![0; IMAGE_BYTES_MAX + 1], &[0; 32]).is_err());
    }
}
