//! The command packet: what the platform sends.

use crate::ids::Tar;

use super::PACKET_SIZE_MAX;
use super::algorithms::{Check, CheckError, decrypt, encrypt};
use super::counter::Counter;
use super::keys::{CipherAlgorithm, Key, KeyError, KeySet, Kic, Kid};
use super::spi::Spi;

/// CPL, CHL, SPI, KIc, KID, TAR: what is never ciphered.
const CLEAR_SIZE: usize = 10;
/// CNTR and PCNTR.
pub(super) const COUNTER_AND_PCNTR_SIZE: usize = 6;
/// CHL counts SPI, KIc, KID, TAR, CNTR, PCNTR and the check value.
const CHL_WITHOUT_CHECK: usize = 13;

/// How command and proof of receipt are protected: what a card learns from the head of a packet, and what a
/// platform remembers of it to open the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Security {
    /// What is protected, and how.
    pub spi: Spi,
    /// Key and algorithm for ciphering.
    pub kic: Kic,
    /// Key and algorithm for RC and CC.
    pub kid: Kid,
}

/// ETSI TS 102 225, 5.1: the command header without its lengths and check value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandHeader {
    /// SPI, KIc and KID.
    pub security: Security,
    /// The application that the secured data is for.
    pub tar: Tar,
    /// Replay counter; carried, but without meaning, where the counter mode is `None`.
    pub counter: Counter,
}

/// A command packet that passed its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its header.
    pub header: CommandHeader,
    /// The secured data, without padding.
    pub data: Vec<u8>,
}

/// Why a packet cannot be sealed; the caller's mistake each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A key or an algorithm does not fit.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A digital signature was asked for.
    #[error("digital signatures (DS) are not supported by any card: ask for RC or CC in the SPI")]
    DigitalSignature,
    /// More data than [`PACKET_SIZE_MAX`] allows.
    #[error(
        "the packet would have {size} bytes, more than the {PACKET_SIZE_MAX} that are allowed: split the script"
    )]
    TooLong {
        /// Bytes it would have.
        size: usize,
    },
}

/// Why a packet does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short for a header.
    #[error("the packet ends after {found} bytes, before its header does: at least {expected} are needed")]
    Truncated {
        /// Bytes there are.
        found: usize,
        /// Bytes a header needs.
        expected: usize,
    },
    /// CPL or RPL is not the length of what follows it.
    #[error(
        "{field} announces {announced} bytes and {found} follow: is a part missing, or the length itself?"
    )]
    PacketLength {
        /// `CPL` or `RPL`.
        field: &'static str,
        /// What it says.
        announced: usize,
        /// What there is.
        found: usize,
    },
    /// CHL or RHL does not fit the check value that SPI, KID and key set ask for.
    #[error(
        "{field} is {found:02x} where SPI, KID and key set make it {expected:02x}: CMAC length or CRC differ?"
    )]
    HeaderLength {
        /// `CHL` or `RHL`.
        field: &'static str,
        /// What it says.
        found: u8,
        /// What it should be.
        expected: usize,
    },
    /// A key or an algorithm does not fit.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A digital signature was asked for.
    #[error("digital signatures (DS) are not supported")]
    DigitalSignature,
    /// What is ciphered is not a whole number of blocks.
    #[error("{size} ciphered bytes are not a whole number of {block}-byte blocks: wrong algorithm in KIc?")]
    Ciphering {
        /// Bytes that are ciphered.
        size: usize,
        /// Block size in bytes.
        block: usize,
    },
    /// The redundancy check differs.
    #[error("the redundancy check (RC) differs: damaged, wrong CRC, or deciphered with the wrong KIc key")]
    RedundancyCheck,
    /// The cryptographic checksum differs.
    #[error("the cryptographic checksum (CC) differs: damaged, or one of the keys is wrong")]
    CryptographicChecksum,
    /// PCNTR announces more padding than there is data.
    #[error("PCNTR announces {padding} bytes of padding and only {data} bytes follow the header")]
    Padding {
        /// What it says.
        padding: u8,
        /// What there is.
        data: usize,
    },
    /// The status of a proof of receipt is none that is defined.
    #[error("status {0:02x} is not defined for a proof of receipt")]
    Status(u8),
    /// The packet is longer than [`PACKET_SIZE_MAX`].
    #[error("the packet has {0} bytes, more than the {PACKET_SIZE_MAX} that are allowed")]
    TooLong(usize),
}

impl From<CheckError> for SealError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Key(error) => SealError::Key(error),
            CheckError::DigitalSignature => SealError::DigitalSignature,
        }
    }
}

impl From<CheckError> for OpenError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::Key(error) => OpenError::Key(error),
            CheckError::DigitalSignature => OpenError::DigitalSignature,
        }
    }
}

impl OpenError {
    /// Which check failed, as one word for tools: `length`, `header`, `key`, `ds`, `ciphering`, `rc`, `cc`,
    /// `padding` or `status`.
    pub const fn check(&self) -> &'static str {
        match self {
            OpenError::Truncated { .. } | OpenError::PacketLength { .. } | OpenError::TooLong(_) => "length",
            OpenError::HeaderLength { .. } => "header",
            OpenError::Key(_) => "key",
            OpenError::DigitalSignature => "ds",
            OpenError::Ciphering { .. } => "ciphering",
            OpenError::RedundancyCheck => "rc",
            OpenError::CryptographicChecksum => "cc",
            OpenError::Padding { .. } => "padding",
            OpenError::Status(_) => "status",
        }
    }
}

impl CommandHeader {
    /// The part of a command packet that is never ciphered, nothing of it checked but the lengths.
    pub fn clear_part(packet: &[u8]) -> Result<(Security, Tar), OpenError> {
        let [cpl_high, cpl_low, _chl, spi_1, spi_2, kic, kid, tar_1, tar_2, tar_3, rest @ ..] = packet else {
            return Err(OpenError::Truncated {
                found: packet.len(),
                expected: CLEAR_SIZE + COUNTER_AND_PCNTR_SIZE,
            });
        };
        if packet.len() > PACKET_SIZE_MAX {
            return Err(OpenError::TooLong(packet.len()));
        }
        let announced = usize::from(u16::from_be_bytes([*cpl_high, *cpl_low]));
        if announced != packet.len() - 2 {
            return Err(OpenError::PacketLength { field: "CPL", announced, found: packet.len() - 2 });
        }
        if rest.len() < COUNTER_AND_PCNTR_SIZE {
            return Err(OpenError::Truncated {
                found: packet.len(),
                expected: CLEAR_SIZE + COUNTER_AND_PCNTR_SIZE,
            });
        }
        let security = Security { spi: Spi::new(*spi_1, *spi_2), kic: Kic(*kic), kid: Kid(*kid) };
        Ok((security, Tar([*tar_1, *tar_2, *tar_3])))
    }
}

/// Seals `data` into a command packet, from CPL to the last byte of padding (ETSI TS 102 225, 5.1).
///
/// Seals what it is asked to, whatever it is worth: see [`super::policy`] for what a platform may ask.
pub fn seal(header: &CommandHeader, keys: &KeySet, data: &[u8]) -> Result<Vec<u8>, SealError> {
    let Security { spi, kic, kid } = header.security;
    let check = Check::new(spi.integrity(), kid, keys)?;
    let cipher = if spi.ciphered() { Some(keys.cipher(kic)?) } else { None };
    let check_size = check.size();
    let unpadded = COUNTER_AND_PCNTR_SIZE + check_size + data.len();
    let padding = padding_size(cipher, unpadded);
    let size = CLEAR_SIZE + unpadded + padding;
    if size > PACKET_SIZE_MAX {
        return Err(SealError::TooLong { size });
    }

    let mut packet = Vec::with_capacity(size);
    packet.extend_from_slice(&((size - 2) as u16).to_be_bytes());
    packet.push((CHL_WITHOUT_CHECK + check_size) as u8);
    packet.extend_from_slice(&spi.to_bytes());
    packet.extend_from_slice(&[kic.0, kid.0]);
    packet.extend_from_slice(&header.tar.0);
    packet.extend_from_slice(&header.counter.to_bytes());
    packet.push(padding as u8);
    complete(&mut packet, &[], CLEAR_SIZE, &check, cipher, data, size);
    Ok(packet)
}

/// Opens a command packet: deciphers it, verifies its check value, takes the padding off (ETSI TS 102 225, 5.1).
///
/// The check value is verified before PCNTR is looked at. The counter is not checked here: [`super::receive`] does.
pub fn open(packet: &[u8], keys: &KeySet) -> Result<Opened, OpenError> {
    let (security, tar) = CommandHeader::clear_part(packet)?;
    let check = Check::new(security.spi.integrity(), security.kid, keys)?;
    let expected = CHL_WITHOUT_CHECK + check.size();
    if usize::from(packet[2]) != expected {
        return Err(OpenError::HeaderLength { field: "CHL", found: packet[2], expected });
    }
    let mut packet = packet.to_vec();
    if security.spi.ciphered() {
        let cipher = keys.cipher(security.kic)?;
        decipher(&mut packet[CLEAR_SIZE..], cipher)?;
    }
    let data_at = CLEAR_SIZE + COUNTER_AND_PCNTR_SIZE + check.size();
    verify(&check, &[], &packet, data_at)?;
    let (counter, pcntr) = counter_and_pcntr(&packet[CLEAR_SIZE..]);
    let data = without_padding(&packet[data_at..], pcntr)?.to_vec();
    Ok(Opened { header: CommandHeader { security, tar, counter }, data })
}

/// Appends check value, data and zero padding up to `size` to a packet that ends with its header, and ciphers all
/// from `ciphered_from` on. `prefix` is what the check value covers before the packet.
pub(super) fn complete(
    packet: &mut Vec<u8>,
    prefix: &[u8],
    ciphered_from: usize,
    check: &Check<'_>,
    cipher: Option<(CipherAlgorithm, &Key)>,
    data: &[u8],
    size: usize,
) {
    let check_at = packet.len();
    let data_at = check_at + check.size();
    packet.resize(data_at, 0);
    packet.extend_from_slice(data);
    packet.resize(size, 0);
    let value = check.compute(&[prefix, &packet[..check_at], &packet[data_at..]]);
    packet[check_at..data_at].copy_from_slice(&value[..data_at - check_at]);
    if let Some((algorithm, key)) = cipher {
        encrypt(algorithm, key, &mut packet[ciphered_from..]);
    }
}

/// Reads CNTR and PCNTR at the start of a deciphered body, which has at least their size.
pub(super) fn counter_and_pcntr(body: &[u8]) -> (Counter, u8) {
    (Counter::from([body[0], body[1], body[2], body[3], body[4]]), body[5])
}

/// How many bytes of padding make `unpadded` whole blocks of the cipher.
pub(super) fn padding_size(cipher: Option<(CipherAlgorithm, &Key)>, unpadded: usize) -> usize {
    cipher.map_or(0, |(algorithm, _)| unpadded.next_multiple_of(algorithm.block_size()) - unpadded)
}

/// Deciphers in place what must be whole blocks.
pub(super) fn decipher(body: &mut [u8], (algorithm, key): (CipherAlgorithm, &Key)) -> Result<(), OpenError> {
    let block = algorithm.block_size();
    if !body.len().is_multiple_of(block) {
        return Err(OpenError::Ciphering { size: body.len(), block });
    }
    decrypt(algorithm, key, body);
    Ok(())
}

/// Verifies the check value that ends at `data_at` over `prefix` and all of the packet but itself.
pub(super) fn verify(
    check: &Check<'_>,
    prefix: &[u8],
    packet: &[u8],
    data_at: usize,
) -> Result<(), OpenError> {
    let Some(data) = packet.get(data_at..) else {
        return Err(OpenError::Truncated { found: packet.len(), expected: data_at });
    };
    let check_at = data_at - check.size();
    if check.verify(&[prefix, &packet[..check_at], data], &packet[check_at..data_at]) {
        Ok(())
    } else if matches!(check, Check::Crc(_)) {
        Err(OpenError::RedundancyCheck)
    } else {
        Err(OpenError::CryptographicChecksum)
    }
}

/// The data before the padding that PCNTR announces; what the padding consists of is nobody's business.
pub(super) fn without_padding(data: &[u8], pcntr: u8) -> Result<&[u8], OpenError> {
    data.len()
        .checked_sub(usize::from(pcntr))
        .map(|size| &data[..size])
        .ok_or(OpenError::Padding { padding: pcntr, data: data.len() })
}
