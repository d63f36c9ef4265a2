//! The response packet: the card's proof of receipt (PoR).

use std::fmt;

use crate::ids::Tar;

use super::PACKET_SIZE_MAX;
use super::algorithms::Check;
use super::command::{
    COUNTER_AND_PCNTR_SIZE, OpenError, SealError, Security, complete, counter_and_pcntr, decipher,
    padding_size, verify, without_padding,
};
use super::counter::Counter;
use super::keys::KeySet;

/// User data header of a response in one SMS. RC and CC cover it on every bearer, also where the header that really
/// went out was another (segmented, or not over SMS at all).
pub const RESPONSE_UDH: [u8; 3] = [0x02, 0x71, 0x00];

/// RPL, RHL and TAR: what is never ciphered.
const CLEAR_SIZE: usize = 6;
/// RHL counts TAR, CNTR, PCNTR, status and the check value.
const RHL_WITHOUT_CHECK: usize = 10;
/// Where the status stands.
const STATUS_AT: usize = CLEAR_SIZE + COUNTER_AND_PCNTR_SIZE;

/// ETSI TS 102 225, 5.2: the response header without its lengths and check value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResponseHeader {
    /// The application that answers.
    pub tar: Tar,
    /// The counter of the command that is answered.
    pub counter: Counter,
    /// What became of it.
    pub status: ResponseStatus,
}

/// ETSI TS 102 225, 5.2: Response Status Code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ResponseStatus {
    /// `00`: the command was accepted; what its application answered is in the data.
    PorOk = 0x00,
    /// `01`: RC, CC or DS failed.
    CheckFailed = 0x01,
    /// `02`: the counter is not higher than the card's.
    CounterLow = 0x02,
    /// `03`: the counter is too far ahead of the card's.
    CounterHigh = 0x03,
    /// `04`: the counter has reached its end.
    CounterBlocked = 0x04,
    /// `05`: the packet could not be deciphered.
    CipheringError = 0x05,
    /// `06`: a security error of no other kind.
    SecurityError = 0x06,
    /// `07`: the card has no room for the command.
    NoMemory = 0x07,
    /// `08`: the card needs more time.
    MoreTime = 0x08,
    /// `09`: no application has this TAR.
    TarUnknown = 0x09,
    /// `0A`: the application asks for more protection.
    SecurityLevel = 0x0A,
    /// `0B`: the response proper will follow in an SMS-SUBMIT.
    ResponseFollows = 0x0B,
    /// `0C`: the response proper will follow over USSD.
    ResponseFollowsUssd = 0x0C,
}

/// What a card fills the last block of a ciphered response with; decoders trust PCNTR only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PaddingOctets {
    /// `00 00 ..`.
    #[default]
    Zeros,
    /// `80 00 ..`, which some cards send with AES.
    EightyThenZeros,
}

/// A proof of receipt that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its header.
    pub header: ResponseHeader,
    /// The application's answer, without padding.
    pub data: Vec<u8>,
    /// A cryptographic checksum was asked for, came, and is right. Without it the response is hearsay: to be
    /// reported, and nothing is to be moved because of it.
    pub authenticated: bool,
}

impl ResponseStatus {
    /// The octet on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// One line in plain words.
    pub const fn text(self) -> &'static str {
        match self {
            ResponseStatus::PorOk => "PoR OK",
            ResponseStatus::CheckFailed => "RC, CC or DS failed",
            ResponseStatus::CounterLow => "CNTR low",
            ResponseStatus::CounterHigh => "CNTR high",
            ResponseStatus::CounterBlocked => "CNTR blocked",
            ResponseStatus::CipheringError => "ciphering error",
            ResponseStatus::SecurityError => "unidentified security error",
            ResponseStatus::NoMemory => "insufficient memory to process the command",
            ResponseStatus::MoreTime => "more time is needed to process the command",
            ResponseStatus::TarUnknown => "TAR unknown",
            ResponseStatus::SecurityLevel => "insufficient security level",
            ResponseStatus::ResponseFollows => "response data will follow in an SMS-SUBMIT",
            ResponseStatus::ResponseFollowsUssd => "response data will follow over USSD",
        }
    }
}

impl TryFrom<u8> for ResponseStatus {
    type Error = OpenError;

    fn try_from(code: u8) -> Result<Self, OpenError> {
        Ok(match code {
            0x00 => ResponseStatus::PorOk,
            0x01 => ResponseStatus::CheckFailed,
            0x02 => ResponseStatus::CounterLow,
            0x03 => ResponseStatus::CounterHigh,
            0x04 => ResponseStatus::CounterBlocked,
            0x05 => ResponseStatus::CipheringError,
            0x06 => ResponseStatus::SecurityError,
            0x07 => ResponseStatus::NoMemory,
            0x08 => ResponseStatus::MoreTime,
            0x09 => ResponseStatus::TarUnknown,
            0x0A => ResponseStatus::SecurityLevel,
            0x0B => ResponseStatus::ResponseFollows,
            0x0C => ResponseStatus::ResponseFollowsUssd,
            _ => return Err(OpenError::Status(code)),
        })
    }
}

impl fmt::Display for ResponseStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// Seals a response packet, from RPL to the last byte of padding, as the command's SPI asks for it
/// (ETSI TS 102 225, 5.2).
pub fn seal_response(
    header: &ResponseHeader,
    security: &Security,
    keys: &KeySet,
    data: &[u8],
    padding_octets: PaddingOctets,
) -> Result<Vec<u8>, SealError> {
    let check = Check::new(security.spi.por_integrity(), security.kid, keys)?;
    let cipher = if security.spi.por_ciphered() { Some(keys.cipher(security.kic)?) } else { None };
    let unpadded = COUNTER_AND_PCNTR_SIZE + 1 + check.size() + data.len();
    let padding = padding_size(cipher, unpadded);
    let size = CLEAR_SIZE + unpadded + padding;
    if size > PACKET_SIZE_MAX {
        return Err(SealError::TooLong { size });
    }

    let mut packet = Vec::with_capacity(size);
    packet.extend_from_slice(&((size - 2) as u16).to_be_bytes());
    packet.push((RHL_WITHOUT_CHECK + check.size()) as u8);
    packet.extend_from_slice(&header.tar.0);
    packet.extend_from_slice(&header.counter.to_bytes());
    packet.extend_from_slice(&[padding as u8, header.status.code()]);
    let mut padded;
    let data = match padding_octets {
        PaddingOctets::EightyThenZeros if padding > 0 => {
            padded = data.to_vec();
            padded.push(0x80);
            &padded
        }
        _ => data,
    };
    complete(&mut packet, &RESPONSE_UDH, CLEAR_SIZE, &check, cipher, data, size);
    Ok(packet)
}

/// How many bytes of data a response packet of at most `packet_size` bytes can carry, protected as `security` asks for
/// it. Without the keys for that it is counted as one in the clear.
pub fn response_capacity(packet_size: usize, security: &Security, keys: &KeySet) -> usize {
    let check = Check::new(security.spi.por_integrity(), security.kid, keys).map_or(0, |check| check.size());
    let body = packet_size.saturating_sub(CLEAR_SIZE);
    let cipher = keys.cipher(security.kic).ok().filter(|_| security.spi.por_ciphered());
    let body = cipher.map_or(body, |(algorithm, _)| body - body % algorithm.block_size());
    body.saturating_sub(COUNTER_AND_PCNTR_SIZE + 1 + check)
}

/// Opens a response packet, from RPL on, to a command that was sealed with `security` (ETSI TS 102 225, 5.2).
///
/// Where the command asked for a protected response and the card answered in the clear, as cards do on errors, the
/// answer is read as it stands and is not authenticated. A CC that came and is wrong is an error.
pub fn open_response(packet: &[u8], security: &Security, keys: &KeySet) -> Result<Response, OpenError> {
    let tar = check_lengths(packet)?;
    let check = Check::new(security.spi.por_integrity(), security.kid, keys)?;
    let expected = RHL_WITHOUT_CHECK + check.size();
    let found = packet[2];
    if usize::from(found) != expected {
        if usize::from(found) == RHL_WITHOUT_CHECK {
            return read(packet, tar, STATUS_AT + 1, false);
        }
        return Err(OpenError::HeaderLength { field: "RHL", found, expected });
    }
    if !security.spi.por_ciphered() {
        return checked(packet, tar, &check);
    }
    let mut deciphered = packet.to_vec();
    let result = decipher(&mut deciphered[CLEAR_SIZE..], keys.cipher(security.kic)?)
        .and_then(|()| checked(&deciphered, tar, &check));
    match result {
        Ok(response) => Ok(response),
        // The same response in the clear: with a CC it proves itself, without one only an error is believable.
        Err(error) => match checked(packet, tar, &check) {
            Ok(plain) if plain.authenticated || is_plain_error(packet) => Ok(plain),
            _ => Err(error),
        },
    }
}

/// TAR of a response packet whose RPL and RHL can be true, to find the requests that it may answer.
pub fn response_tar(packet: &[u8]) -> Result<Tar, OpenError> {
    check_lengths(packet)
}

fn check_lengths(packet: &[u8]) -> Result<Tar, OpenError> {
    if packet.len() > PACKET_SIZE_MAX {
        return Err(OpenError::TooLong(packet.len()));
    }
    let [rpl_high, rpl_low, rhl, tar_1, tar_2, tar_3, ..] = packet else {
        return Err(OpenError::Truncated { found: packet.len(), expected: STATUS_AT + 1 });
    };
    let announced = usize::from(u16::from_be_bytes([*rpl_high, *rpl_low]));
    if announced != packet.len() - 2 {
        return Err(OpenError::PacketLength { field: "RPL", announced, found: packet.len() - 2 });
    }
    if packet.len() <= STATUS_AT {
        return Err(OpenError::Truncated { found: packet.len(), expected: STATUS_AT + 1 });
    }
    if usize::from(*rhl) < RHL_WITHOUT_CHECK {
        return Err(OpenError::HeaderLength { field: "RHL", found: *rhl, expected: RHL_WITHOUT_CHECK });
    }
    Ok(Tar([*tar_1, *tar_2, *tar_3]))
}

/// Verifies and reads a response that is in the clear by now.
fn checked(packet: &[u8], tar: Tar, check: &Check<'_>) -> Result<Response, OpenError> {
    let data_at = STATUS_AT + 1 + check.size();
    verify(check, &RESPONSE_UDH, packet, data_at)?;
    read(packet, tar, data_at, matches!(check, Check::Mac(..)))
}

fn read(packet: &[u8], tar: Tar, data_at: usize, authenticated: bool) -> Result<Response, OpenError> {
    let (counter, pcntr) = counter_and_pcntr(&packet[CLEAR_SIZE..]);
    let status = ResponseStatus::try_from(packet[STATUS_AT])?;
    let data = without_padding(&packet[data_at..], pcntr)?.to_vec();
    Ok(Response { header: ResponseHeader { tar, counter, status }, data, authenticated })
}

/// A response in the clear that reports an error and carries nothing else.
fn is_plain_error(packet: &[u8]) -> bool {
    packet[STATUS_AT] != ResponseStatus::PorOk.code() && packet[STATUS_AT - 1] == 0
}
