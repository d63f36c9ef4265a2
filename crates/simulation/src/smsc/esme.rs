//! SMPP 3.4 as a service centre speaks it: cutting the stream, reading binds and submits, writing answers and
//! deliver_sm. Written apart from the platform's own link, so that each tests the other.

use rusmpp_core::command::borrowed::Command;
use rusmpp_core::decode::borrowed::DecodeWithLength;
use rusmpp_core::encode::{Encode, Length};
use rusmpp_core::pdus::borrowed as pdus;
use rusmpp_core::tlvs::borrowed::{MessageDeliveryRequestTlvValue as Parameter, TlvValue};
use rusmpp_core::types::borrowed::{COctetString, OctetString};
use rusmpp_core::values::{
    DataCoding, EsmClass, InterfaceVersion, MessageState, Npi, Ton, UserMessageReference,
};
use rusmpp_core::{CommandId, CommandStatus};

/// Longest PDU that is read.
pub const PDU_BYTES_MAX: usize = 8_192;
const HEADER_BYTES: usize = 16;

/// Status codes (SMPP 3.4, 5.1.3) that a service centre answers with.
pub mod status {
    /// ESME_ROK.
    pub const OK: u32 = 0x00;
    /// ESME_RINVMSGLEN.
    pub const MESSAGE_LENGTH: u32 = 0x01;
    /// ESME_RINVCMDLEN.
    pub const COMMAND_LENGTH: u32 = 0x02;
    /// ESME_RINVCMDID.
    pub const COMMAND_ID: u32 = 0x03;
    /// ESME_RINVBNDSTS.
    pub const BIND_STATUS: u32 = 0x04;
    /// ESME_RALYBND.
    pub const ALREADY_BOUND: u32 = 0x05;
    /// ESME_RINVDSTADR.
    pub const DESTINATION: u32 = 0x0B;
    /// ESME_RBINDFAIL.
    pub const BIND_FAILED: u32 = 0x0D;
    /// ESME_RINVPASWD.
    pub const PASSWORD: u32 = 0x0E;
    /// ESME_RINVSYSID.
    pub const SYSTEM_ID: u32 = 0x0F;
    /// ESME_RMSGQFUL.
    pub const QUEUE_FULL: u32 = 0x14;
    /// ESME_RTHROTTLED.
    pub const THROTTLED: u32 = 0x58;
    /// ESME_RX_T_APPN.
    pub const TEMPORARY_APPLICATION: u32 = 0x64;
    /// ESME_RINVEXPIRY.
    pub const EXPIRY: u32 = 0x62;
    /// ESME_RDELIVERYFAILURE.
    pub const DELIVERY_FAILURE: u32 = 0xFE;
}

/// What a platform sent.
#[derive(Debug)]
pub enum Request {
    /// bind_transceiver, bind_transmitter, bind_receiver.
    Bind(Bind),
    /// submit_sm.
    Submit(Submission),
    /// enquire_link.
    EnquireLink,
    /// unbind.
    Unbind,
    /// deliver_sm_resp.
    DeliverAnswer,
    /// Any other answer: nothing to do.
    Answer,
    /// A request that is not supported.
    Other,
    /// A PDU that cannot be read; the status says why.
    Broken(u32),
}

/// A bind.
#[derive(Debug)]
pub struct Bind {
    /// May submit.
    pub sends: bool,
    /// Gets deliver_sm.
    pub receives: bool,
    /// Who.
    pub system_id: String,
    /// The password offered.
    pub password: String,
}

/// A submit_sm.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Type of number of the source.
    pub source_ton: u8,
    /// Numbering plan of the source.
    pub source_npi: u8,
    /// The source.
    pub source: String,
    /// The destination.
    pub destination: String,
    /// esm_class.
    pub esm_class: u8,
    /// protocol_id.
    pub protocol_id: u8,
    /// data_coding.
    pub data_coding: u8,
    /// validity_period as it came.
    pub validity: String,
    /// registered_delivery.
    pub registered_delivery: u8,
    /// user_message_reference.
    pub reference: Option<u16>,
    /// short_message or message_payload.
    pub user_data: Vec<u8>,
}

/// A PDU with its header.
#[derive(Debug)]
pub struct Inbound {
    /// command_id.
    pub id: CommandId,
    /// command_status.
    pub status: u32,
    /// sequence_number.
    pub sequence: u32,
    /// The rest.
    pub request: Request,
}

/// Takes the next PDU off the front of `stream`; the error is a command_length that cannot be.
pub fn next(stream: &mut Vec<u8>) -> Result<Option<Inbound>, u32> {
    let Some(prefix) = stream.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*prefix);
    let bytes = length as usize;
    if !(HEADER_BYTES..=PDU_BYTES_MAX).contains(&bytes) {
        return Err(length);
    }
    if stream.len() < bytes {
        return Ok(None);
    }
    let pdu: Vec<u8> = stream.drain(..bytes).collect();
    let word = |at: usize| u32::from_be_bytes([pdu[at], pdu[at + 1], pdu[at + 2], pdu[at + 3]]);
    let id = CommandId::from(word(4));
    let request = read(id, &pdu[HEADER_BYTES..]);
    Ok(Some(Inbound { id, status: word(8), sequence: word(12), request }))
}

fn read(id: CommandId, body: &[u8]) -> Request {
    match id {
        CommandId::BindTransceiver | CommandId::BindTransmitter | CommandId::BindReceiver => {
            // The three binds have the same fields.
            match pdus::BindTransceiver::decode(body, body.len()) {
                Ok((bind, _)) => Request::Bind(Bind {
                    sends: id != CommandId::BindReceiver,
                    receives: id != CommandId::BindTransmitter,
                    system_id: bind.system_id.as_str().to_owned(),
                    password: bind.password.as_str().to_owned(),
                }),
                Err(_) => Request::Broken(status::COMMAND_LENGTH),
            }
        }
        CommandId::SubmitSm => match pdus::SubmitSm::<16>::decode(body, body.len()) {
            Ok((sm, _)) => Request::Submit(submission(&sm)),
            Err(_) => Request::Broken(status::COMMAND_LENGTH),
        },
        CommandId::EnquireLink => Request::EnquireLink,
        CommandId::Unbind => Request::Unbind,
        CommandId::DeliverSmResp => Request::DeliverAnswer,
        id if u32::from(id) & 0x8000_0000 != 0 => Request::Answer,
        _ => Request::Other,
    }
}

fn submission(sm: &pdus::SubmitSm<'_, 16>) -> Submission {
    let mut reference = None;
    let mut user_data = sm.short_message().bytes().to_vec();
    for tlv in sm.tlvs() {
        match tlv.value() {
            Some(TlvValue::UserMessageReference(value)) => reference = Some(value.value),
            Some(TlvValue::MessagePayload(payload)) if user_data.is_empty() => {
                user_data = payload.value.bytes().to_vec();
            }
            _ => {}
        }
    }
    Submission {
        source_ton: sm.source_addr_ton.into(),
        source_npi: sm.source_addr_npi.into(),
        source: sm.source_addr.as_str().to_owned(),
        destination: sm.destination_addr.as_str().to_owned(),
        esm_class: sm.esm_class.into(),
        protocol_id: sm.protocol_id,
        data_coding: sm.data_coding.into(),
        validity: sm.validity_period.as_str().to_owned(),
        registered_delivery: sm.registered_delivery.into(),
        reference,
        user_data,
    }
}

/// A deliver_sm to be written.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// From whom: type of number, numbering plan, digits.
    pub source: (u8, u8, String),
    /// For whom.
    pub destination: (u8, u8, String),
    /// esm_class.
    pub esm_class: u8,
    /// protocol_id.
    pub protocol_id: u8,
    /// data_coding.
    pub data_coding: u8,
    /// short_message.
    pub user_data: Vec<u8>,
    /// receipted_message_id.
    pub receipted_message_id: Option<String>,
    /// message_state.
    pub message_state: Option<u8>,
    /// user_message_reference.
    pub reference: Option<u16>,
}

fn write<'a, const N: usize>(
    out: &mut Vec<u8>,
    status: u32,
    sequence: u32,
    pdu: impl Into<pdus::Pdu<'a, N>>,
) {
    let command = Command::new(CommandStatus::from(status), sequence, pdu);
    let start = out.len();
    let bytes = 4 + command.length();
    out.resize(start + bytes, 0);
    out[start..start + 4].copy_from_slice(&(bytes as u32).to_be_bytes());
    command.encode(&mut out[start + 4..]);
}

/// Writes a PDU that is only a header.
pub fn write_header(out: &mut Vec<u8>, id: u32, status: u32, sequence: u32) {
    for word in [HEADER_BYTES as u32, id, status, sequence] {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// Writes the answer to a bind.
pub fn write_bind_answer(out: &mut Vec<u8>, id: CommandId, status: u32, sequence: u32) {
    if status != status::OK {
        return write_header(out, u32::from(id) | 0x8000_0000, status, sequence);
    }
    let name = COctetString::new(b"simtide\0").unwrap_or_default();
    let version = Some(InterfaceVersion::Smpp3_4);
    match id {
        CommandId::BindTransmitter => {
            write::<1>(out, status, sequence, pdus::BindTransmitterResp::new(name, version))
        }
        CommandId::BindReceiver => {
            write::<1>(out, status, sequence, pdus::BindReceiverResp::new(name, version))
        }
        _ => write::<1>(out, status, sequence, pdus::BindTransceiverResp::new(name, version)),
    }
}

/// Writes the answer to a submit_sm; a refusal has no body (SMPP 3.4, 4.4.2).
pub fn write_submit_answer(out: &mut Vec<u8>, status: u32, sequence: u32, id: &str) {
    if status != status::OK {
        return write_header(out, CommandId::SubmitSmResp.into(), status, sequence);
    }
    let id = terminated(id);
    let answer =
        pdus::SubmitSmResp::<1>::builder().message_id(COctetString::new(&id).unwrap_or_default()).build();
    write(out, status, sequence, answer);
}

/// Writes a deliver_sm.
pub fn write_delivery(out: &mut Vec<u8>, sequence: u32, delivery: &Delivery) {
    let source = terminated(&delivery.source.2);
    let destination = terminated(&delivery.destination.2);
    let id = delivery.receipted_message_id.as_deref().map(terminated);
    let mut sm = pdus::DeliverSm::<4>::builder()
        .source_addr_ton(Ton::from(delivery.source.0))
        .source_addr_npi(Npi::from(delivery.source.1))
        .source_addr(COctetString::new(&source).unwrap_or_default())
        .dest_addr_ton(Ton::from(delivery.destination.0))
        .dest_addr_npi(Npi::from(delivery.destination.1))
        .destination_addr(COctetString::new(&destination).unwrap_or_default())
        .esm_class(EsmClass::from(delivery.esm_class))
        .protocol_id(delivery.protocol_id)
        .data_coding(DataCoding::from(delivery.data_coding))
        .short_message(OctetString::new(&delivery.user_data).unwrap_or_default())
        .build();
    // Four places, three parameters at most: they fit by construction.
    if let Some(id) = id.as_ref().and_then(|id| COctetString::new(id).ok()) {
        let _ = sm.push_tlv(Parameter::ReceiptedMessageId(id));
    }
    if let Some(state) = delivery.message_state {
        let _ = sm.push_tlv(Parameter::MessageState(MessageState::from(state)));
    }
    if let Some(reference) = delivery.reference {
        let _ = sm.push_tlv(Parameter::UserMessageReference(UserMessageReference::new(reference)));
    }
    write(out, status::OK, sequence, sm);
}

/// Writes an alert_notification: the subscriber is back.
pub fn write_alert(out: &mut Vec<u8>, sequence: u32, subscriber: &str, esme: &str) {
    let (subscriber, esme) = (terminated(subscriber), terminated(esme));
    let alert = pdus::AlertNotification::new(
        Ton::International,
        Npi::Isdn,
        COctetString::new(&subscriber).unwrap_or_default(),
        Ton::Unknown,
        Npi::Unknown,
        COctetString::new(&esme).unwrap_or_default(),
        None,
    );
    write::<1>(out, status::OK, sequence, alert);
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}
