//! SMPP 3.4 PDUs as bytes: framing, headers, and the few PDUs that an ESME sends.
//!
//! Fields are written by the codec, apart from submit_sm, which is written for every message. Headers are read here,
//! because an SMSC that leaves a body out must not cost an answer.

use std::io::Write as _;

use rusmpp_core::command::borrowed::Command;
use rusmpp_core::decode::borrowed::DecodeWithLength;
use rusmpp_core::encode::{Encode, Length};
use rusmpp_core::pdus::borrowed as pdus;
use rusmpp_core::types::borrowed::COctetString;
use rusmpp_core::values::{InterfaceVersion, Npi, Ton};
use rusmpp_core::{CommandId, CommandStatus};

use super::event::{Address, SHORT_MESSAGE_BYTES_MAX, Submit};

/// Length of the PDU header (SMPP 3.4, 3.2).
pub const HEADER_BYTES: usize = 16;
/// Longest PDU that is read; a longer one means that the stream is out of step.
pub const PDU_BYTES_MAX: usize = 8_192;
/// Status codes of SMPP 3.4, 5.1.3.
pub mod status {
    /// ESME_ROK.
    pub const OK: u32 = 0x00;
    /// ESME_RINVCMDLEN.
    pub const INVALID_COMMAND_LENGTH: u32 = 0x02;
    /// ESME_RINVCMDID.
    pub const INVALID_COMMAND_ID: u32 = 0x03;
    /// ESME_RINVBNDSTS.
    pub const INVALID_BIND_STATUS: u32 = 0x04;
    /// ESME_RSYSERR.
    pub const SYSTEM_ERROR: u32 = 0x08;
    /// ESME_RBINDFAIL.
    pub const BIND_FAILED: u32 = 0x0D;
    /// ESME_RINVPASWD.
    pub const INVALID_PASSWORD: u32 = 0x0E;
    /// ESME_RINVSYSID.
    pub const INVALID_SYSTEM_ID: u32 = 0x0F;
    /// ESME_RMSGQFUL.
    pub const QUEUE_FULL: u32 = 0x14;
    /// ESME_RSUBMITFAIL.
    pub const SUBMIT_FAILED: u32 = 0x45;
    /// ESME_RTHROTTLED.
    pub const THROTTLED: u32 = 0x58;
    /// ESME_RX_T_APPN.
    pub const TEMPORARY_APPLICATION: u32 = 0x64;
    /// ESME_RINVOPTPARSTREAM.
    pub const INVALID_TLV_STREAM: u32 = 0xC0;
    /// ESME_RDELIVERYFAILURE.
    pub const DELIVERY_FAILURE: u32 = 0xFE;
    /// ESME_RUNKNOWNERR.
    pub const UNKNOWN_ERROR: u32 = 0xFF;
}

/// Cuts a byte stream into PDUs, however the network has split it.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    read: usize,
}

/// A command_length that no PDU can have: the stream cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthError(
    /// The command_length as received.
    pub u32,
);

impl Frames {
    /// Adds what the network brought.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole PDU, header included; `None` while it is not complete.
    pub fn next_pdu(&mut self) -> Result<Option<&[u8]>, LengthError> {
        let rest = &self.buffer[self.read..];
        let Some(prefix) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix);
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if !(HEADER_BYTES..=PDU_BYTES_MAX).contains(&bytes) {
            return Err(LengthError(length));
        }
        if rest.len() < bytes {
            return Ok(None);
        }
        let start = self.read;
        self.read += bytes;
        Ok(Some(&self.buffer[start..self.read]))
    }
}

/// The header of a PDU (SMPP 3.4, 3.2), without its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// command_id.
    pub id: CommandId,
    /// command_status.
    pub status: u32,
    /// sequence_number.
    pub sequence: u32,
}

impl Header {
    /// Reads the header of a whole PDU.
    ///
    /// The PDU comes from [`Frames`], which lets nothing shorter than a header through.
    pub fn of(pdu: &[u8]) -> Header {
        let word = |at: usize| {
            pdu.get(at..at + 4).map_or(0, |b| b.iter().fold(0, |word, &b| word << 8 | u32::from(b)))
        };
        Header { id: CommandId::from(word(4)), status: word(8), sequence: word(12) }
    }
}

/// Reads the message_id of a submit_sm_resp or data_sm_resp; an absent body is an empty id.
pub fn read_message_id(pdu: &[u8]) -> String {
    let body = &pdu[HEADER_BYTES..];
    let end = body.iter().position(|&b| b == 0).unwrap_or(body.len());
    lenient_text(&body[..end.min(64)])
}

/// Reads the address of the subscriber in an alert_notification (SMPP 3.4, 4.12.1).
pub fn read_alert(pdu: &[u8]) -> Option<Address> {
    let body = &pdu[HEADER_BYTES..];
    let (alert, _) = pdus::AlertNotification::decode(body, body.len()).ok()?;
    Some(Address::new(alert.source_addr_ton.into(), alert.source_addr_npi.into(), alert.source_addr.as_str()))
}

/// Text up to a NUL, if there is one; what is not printable becomes `?`.
pub(super) fn lenient_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    bytes[..end].iter().map(|&b| if (0x20..0x7F).contains(&b) { b as char } else { '?' }).collect()
}

/// Writes one PDU behind what `out` holds.
fn write<'a>(out: &mut Vec<u8>, status: u32, sequence: u32, pdu: impl Into<pdus::Pdu<'a, 1>>) {
    let command = Command::new(CommandStatus::from(status), sequence, pdu);
    let bytes = 4 + command.length();
    let start = out.len();
    out.resize(start + bytes, 0);
    out[start..start + 4].copy_from_slice(&(bytes as u32).to_be_bytes());
    command.encode(&mut out[start + 4..]);
}

/// Writes a PDU that is only a header.
pub fn write_header(out: &mut Vec<u8>, id: CommandId, status: u32, sequence: u32) {
    for word in [HEADER_BYTES as u32, u32::from(id), status, sequence] {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// What a bind says about us.
pub struct Credentials<'a> {
    /// bind_transceiver, bind_transmitter or bind_receiver.
    pub id: CommandId,
    /// system_id, at most 15 characters.
    pub system_id: &'a str,
    /// password, at most 8 characters.
    pub password: &'a str,
    /// system_type, at most 12 characters.
    pub system_type: &'a str,
}

/// Writes a bind (SMPP 3.4, 4.1). Texts that are too long are left empty: [`super::LinkConfig::check`] refuses them.
pub fn write_bind(out: &mut Vec<u8>, sequence: u32, credentials: &Credentials<'_>) {
    let system_id = terminated(credentials.system_id);
    let password = zeroize::Zeroizing::new(terminated(credentials.password));
    let system_type = terminated(credentials.system_type);
    macro_rules! bind {
        ($kind:ident) => {
            pdus::$kind::new(
                COctetString::new(&system_id).unwrap_or_default(),
                COctetString::new(&password).unwrap_or_default(),
                COctetString::new(&system_type).unwrap_or_default(),
                InterfaceVersion::Smpp3_4,
                Ton::Unknown,
                Npi::Unknown,
                COctetString::null(),
            )
        };
    }
    match credentials.id {
        CommandId::BindTransmitter => write(out, 0, sequence, bind!(BindTransmitter)),
        CommandId::BindReceiver => write(out, 0, sequence, bind!(BindReceiver)),
        _ => write(out, 0, sequence, bind!(BindTransceiver)),
    }
}

/// Writes a submit_sm (SMPP 3.4, 4.4.1) with its user_message_reference.
///
/// By hand and in place: it is written for every message, and the codec would copy its fields several times.
pub fn write_submit(out: &mut Vec<u8>, sequence: u32, submit: &Submit) {
    let start = out.len();
    write_header(out, CommandId::SubmitSm, 0, sequence);
    // service_type; then the source, which is at most 20 characters.
    out.extend_from_slice(&[0x00, submit.source.ton, submit.source.npi]);
    let source = submit.source.digits.as_bytes();
    out.extend(source.iter().take(20).filter(|&&byte| byte != 0));
    // The destination is international, E.164.
    out.extend_from_slice(&[0x00, 0x01, 0x01]);
    // Writing to memory does not fail.
    let _ = write!(out, "{}\0", submit.destination);
    // priority_flag and schedule_delivery_time are 0.
    out.extend_from_slice(&[submit.esm_class, submit.protocol_id, 0x00, 0x00]);
    out.extend_from_slice(&relative_validity(submit.validity_s));
    // replace_if_present_flag and sm_default_msg_id are 0.
    out.extend_from_slice(&[submit.registered_delivery, 0x00, submit.data_coding, 0x00]);
    let message = &submit.short_message[..submit.short_message.len().min(SHORT_MESSAGE_BYTES_MAX)];
    out.push(message.len() as u8);
    out.extend_from_slice(message);
    let [high, low] = submit.user_message_reference.to_be_bytes();
    out.extend_from_slice(&[0x02, 0x04, 0x00, 0x02, high, low]);
    let bytes = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&bytes.to_be_bytes());
}

/// Writes a deliver_sm_resp or data_sm_resp (SMPP 3.4, 4.6.2, 4.7.2): its message_id is one NUL.
pub fn write_deliver_answer(out: &mut Vec<u8>, request: CommandId, status: u32, sequence: u32) {
    if request == CommandId::DataSm {
        write(out, status, sequence, pdus::DataSmResp::<1>::default());
    } else {
        write(out, status, sequence, pdus::DeliverSmResp::<1>::default());
    }
}

fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
    bytes
}

/// A validity of so many seconds as `YYMMDDhhmmss000R` and NUL (SMPP 3.4, 7.1.1.2); 0 leaves it to the SMSC.
///
/// Months and years are of different lengths to different SMSCs, so the longest validity is 99 days.
fn relative_validity(seconds: u32) -> Vec<u8> {
    if seconds == 0 {
        return vec![0];
    }
    let seconds = seconds.min(99 * 86_400 + 86_399);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    format!("0000{days:02}{hours:02}{minutes:02}{:02}000R\0", seconds % 60).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submit() -> Submit {
        Submit {
            source: Address::new(0, 0, "12345"),
            validity_s: 93_784,
            user_message_reference: 0x1234,
            ..Submit::binary(7, "436641234567".parse().unwrap(), vec![0x02, 0x70, 0x00, 0xAA])
        }
    }

    #[test]
    fn submit_sm_octet_by_octet() {
        let mut out = Vec::new();
        write_submit(&mut out, 3, &submit());
        assert_eq!(
            hex::encode(out),
            concat!(
                "0000004c00000004", // command_length, submit_sm
                "0000000000000003", // status, sequence
                "00",               // service_type
                "0000313233343500", // source
                "01013433363634313233343536",
                "3700",   // destination
                "407f00", // esm_class, protocol_id, priority
                "00",     // schedule
                "3030303030313032303330343030305200",
                "0100f600",     // registered_delivery, replace, data_coding, default id
                "04027000aa",   // short_message
                "020400021234", // user_message_reference
            )
        );
    }

    #[test]
    fn the_codec_reads_our_submit() {
        let mut out = Vec::new();
        write_submit(&mut out, 3, &submit());
        let body = &out[HEADER_BYTES..];
        let (sm, read) = pdus::SubmitSm::<1>::decode(body, body.len()).unwrap();
        assert_eq!(read, body.len());
        assert_eq!((sm.source_addr.as_str(), sm.destination_addr.as_str()), ("12345", "436641234567"));
        assert_eq!(sm.short_message().bytes(), [0x02, 0x70, 0x00, 0xAA]);
        assert_eq!(sm.tlvs().len(), 1);
    }

    #[test]
    fn validity_keeps_seconds_and_knows_its_longest() {
        assert_eq!(relative_validity(0), b"\0");
        assert_eq!(relative_validity(59), b"000000000059000R\0");
        assert_eq!(relative_validity(u32::MAX), b"000099235959000R\0");
    }

    #[test]
    fn frames_are_found_however_the_stream_is_split() {
        let mut stream = Vec::new();
        write_submit(&mut stream, 1, &submit());
        write_header(&mut stream, CommandId::EnquireLink, 0, 2);
        for cut in 0..=stream.len() {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                frames.push(part);
                while let Some(pdu) = frames.next_pdu().unwrap() {
                    found.push(Header::of(pdu).sequence);
                }
            }
            assert_eq!(found, [1, 2], "cut at {cut}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [0, 15, PDU_BYTES_MAX as u32 + 1, u32::MAX] {
            let mut frames = Frames::default();
            frames.push(&length.to_be_bytes());
            assert_eq!(frames.next_pdu(), Err(LengthError(length)));
        }
    }
}
