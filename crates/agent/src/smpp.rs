//! A subscriber behind SMPP: an SMSC that knows no air interface sees the device as an ESME of its own number, bound as
//! a transceiver. What it delivers becomes an SMS-DELIVER, what the card sends becomes a submit_sm.
//!
//! The answer of the card (user data of a delivery report) has no place in a deliver_sm_resp: ask for proofs of receipt
//! by SMS-SUBMIT on such a line.

use std::collections::HashMap;
use std::time::Duration;

use rusmpp_core::command::borrowed::Command;
use rusmpp_core::decode::borrowed::DecodeWithLength;
use rusmpp_core::encode::{Encode, Length};
use rusmpp_core::pdus::borrowed as pdus;
use rusmpp_core::types::borrowed::{COctetString, OctetString};
use rusmpp_core::values::{DataCoding, EsmClass, InterfaceVersion, Npi, Ton};
use rusmpp_core::{CommandId, CommandStatus};
use simtide_device::SmsReport;
use simtide_protocol::ids::{Imsi, Msisdn};
use simtide_protocol::sms::{Address, Deliver, Submit, Timestamp, UserData};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::clock::real_now;
use crate::network::NetworkEvent;

/// Longest PDU that is read; a longer one means that the stream is out of step.
pub const PDU_BYTES_MAX: usize = 4096;

/// Wait between two attempts to bind, in seconds.
pub const REBIND_S: u64 = 2;

/// Most submissions without an answer.
pub const WINDOW_MAX: usize = 8;

/// ESME_RX_T_APPN: the device could not take the message now.
const TEMPORARY_ERROR: u32 = 0x64;

/// How the device binds.
#[derive(Clone)]
pub struct SmppSettings {
    /// Host and port of the SMSC.
    pub address: String,
    /// system_id; the subscriber's number where none is given.
    pub system_id: Option<String>,
    /// password.
    pub password: String,
}

impl std::fmt::Debug for SmppSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SmppSettings({})", self.address)
    }
}

/// A line that binds when a subscriber attaches, and again whenever it breaks.
#[derive(Debug, Clone)]
pub struct SmppLine {
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
enum Order {
    Attach(Imsi, Option<Msisdn>),
    Detach,
    Submit(u32, Vec<u8>),
    Report(u64, bool),
}

impl SmppLine {
    /// Waits for a subscriber; `tell` is called from the line's task. Has to be called within a runtime.
    pub fn start(settings: SmppSettings, tell: impl Fn(NetworkEvent) + Send + Sync + 'static) -> Self {
        let (orders, inbox) = mpsc::unbounded_channel();
        tokio::spawn(Keeper { settings, inbox, tell }.run());
        Self { orders }
    }

    /// Binds for this subscriber.
    pub fn attach(&self, imsi: Imsi, msisdn: Option<Msisdn>) {
        self.order(Order::Attach(imsi, msisdn));
    }

    /// Unbinds.
    pub fn detach(&self) {
        self.order(Order::Detach);
    }

    /// Sends an SMS-SUBMIT.
    pub fn submit(&self, reference: u32, tpdu: Vec<u8>) {
        self.order(Order::Submit(reference, tpdu));
    }

    /// Answers a delivered message.
    pub fn report(&self, id: u64, report: SmsReport) {
        self.order(Order::Report(id, matches!(report, SmsReport::Accepted(_))));
    }

    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

struct Keeper<T> {
    settings: SmppSettings,
    inbox: mpsc::UnboundedReceiver<Order>,
    tell: T,
}

/// Why a bind has ended.
enum End {
    /// Nobody uses the line any more.
    Dropped,
    /// The subscriber has left.
    Detached,
    /// Another subscriber, or the same one again.
    Attached(Imsi, Option<Msisdn>),
    /// The connection broke, or the SMSC refused.
    Broken,
}

impl<T: Fn(NetworkEvent)> Keeper<T> {
    async fn run(mut self) {
        let mut subscriber = None;
        loop {
            let Some((imsi, msisdn)) = subscriber else {
                match self.inbox.recv().await {
                    Some(Order::Attach(imsi, msisdn)) => subscriber = Some((imsi, msisdn)),
                    Some(_) => {}
                    None => return,
                }
                continue;
            };
            match self.bound(imsi, msisdn).await {
                End::Dropped => return,
                End::Detached => subscriber = None,
                End::Attached(imsi, msisdn) => subscriber = Some((imsi, msisdn)),
                End::Broken => {
                    (self.tell)(NetworkEvent::Down);
                    tokio::time::sleep(Duration::from_secs(REBIND_S)).await;
                }
            }
        }
    }

    /// One connection from its bind to its end.
    async fn bound(&mut self, imsi: Imsi, msisdn: Option<Msisdn>) -> End {
        let Ok(mut stream) = TcpStream::connect(&self.settings.address).await else { return End::Broken };
        let _ = stream.set_nodelay(true);
        let own = msisdn.map(|number| number.to_string()).unwrap_or_default();
        let system_id = self.settings.system_id.clone().unwrap_or_else(|| own.clone());
        let mut session = Session { imsi, own, window: HashMap::new(), sequence: 1 };
        if stream.write_all(&bind(&system_id, &self.settings.password)).await.is_err() {
            return End::Broken;
        }
        let (mut reader, mut writer) = stream.split();
        let mut buffer = Vec::new();
        let mut piece = [0; 1024];
        loop {
            let mut out = Vec::new();
            tokio::select! {
                biased;
                order = self.inbox.recv() => match order {
                    None => return End::Dropped,
                    Some(Order::Detach) => return End::Detached,
                    Some(Order::Attach(imsi, msisdn)) => return End::Attached(imsi, msisdn),
                    Some(Order::Submit(reference, tpdu)) => session.submit(reference, &tpdu, &mut out, &self.tell),
                    Some(Order::Report(id, accepted)) => deliver_answer(&mut out, id, accepted),
                },
                read = reader.read(&mut piece) => match read {
                    Ok(count) if count > 0 => {
                        buffer.extend_from_slice(&piece[..count]);
                        while let Some(pdu) = next_pdu(&mut buffer) {
                            match pdu {
                                Ok(pdu) if session.take(&pdu, &mut out, &self.tell) => {}
                                _ => return End::Broken,
                            }
                        }
                    }
                    _ => return End::Broken,
                },
            }
            if !out.is_empty() && writer.write_all(&out).await.is_err() {
                return End::Broken;
            }
        }
    }
}

/// One bind.
struct Session {
    imsi: Imsi,
    own: String,
    /// By sequence number: the device's references of submissions without an answer.
    window: HashMap<u32, u32>,
    sequence: u32,
}

impl Session {
    fn submit(&mut self, reference: u32, tpdu: &[u8], out: &mut Vec<u8>, tell: &impl Fn(NetworkEvent)) {
        let submit = Submit::from_bytes(tpdu).ok().filter(|_| self.window.len() < WINDOW_MAX);
        let Some(submit) = submit else {
            return tell(NetworkEvent::Submitted { imsi: self.imsi, reference, accepted: false });
        };
        self.sequence = self.sequence % 0x7FFF_FFFF + 1;
        self.window.insert(self.sequence, reference);
        let (source, destination) = (terminated(&self.own), terminated(&submit.destination.number));
        let pdu = pdus::SubmitSm::<1>::builder()
            .source_addr_ton(Ton::International)
            .source_addr_npi(Npi::Isdn)
            .source_addr(COctetString::new(&source).unwrap_or_default())
            .dest_addr_ton(Ton::from(submit.destination.type_of_number()))
            .dest_addr_npi(Npi::from(submit.destination.numbering_plan()))
            .destination_addr(COctetString::new(&destination).unwrap_or_default())
            .esm_class(EsmClass::from(if submit.has_header { 0x40 } else { 0x00 }))
            .protocol_id(submit.pid)
            .data_coding(DataCoding::from(submit.dcs))
            .short_message(OctetString::new(&submit.user_data.octets).unwrap_or_default())
            .build();
        write(out, 0, self.sequence, pdu);
    }

    /// Takes a PDU of the SMSC; `false` where the bind is over.
    fn take(&mut self, pdu: &[u8], out: &mut Vec<u8>, tell: &impl Fn(NetworkEvent)) -> bool {
        let word =
            |at: usize| pdu.get(at..at + 4).map_or(0, |w| w.iter().fold(0, |n, b| n << 8 | u32::from(*b)));
        let (id, status, sequence) = (CommandId::from(word(4)), word(8), word(12));
        match id {
            CommandId::BindTransceiverResp if status == 0 => tell(NetworkEvent::Attached { imsi: self.imsi }),
            CommandId::BindTransceiverResp => {
                tracing::warn!(status, "the SMSC refuses the bind; check number and password");
                return false;
            }
            CommandId::Unbind => return false,
            CommandId::EnquireLink => header(out, CommandId::EnquireLinkResp, sequence),
            CommandId::SubmitSmResp | CommandId::GenericNack => {
                if let Some(reference) = self.window.remove(&sequence) {
                    tell(NetworkEvent::Submitted { imsi: self.imsi, reference, accepted: status == 0 });
                }
            }
            CommandId::DeliverSm => match delivered(&pdu[HEADER_BYTES..]) {
                Some((service_center, tpdu)) => {
                    tell(NetworkEvent::Deliver {
                        imsi: self.imsi,
                        id: sequence.into(),
                        service_center,
                        tpdu,
                    });
                }
                None => deliver_answer(out, sequence.into(), false),
            },
            _ => {}
        }
        true
    }
}

const HEADER_BYTES: usize = 16;

/// The first whole PDU of the buffer; an error where no PDU can have the length it names.
pub(crate) fn next_pdu(buffer: &mut Vec<u8>) -> Option<Result<Vec<u8>, ()>> {
    let length = usize::try_from(u32::from_be_bytes(*buffer.first_chunk()?)).unwrap_or(usize::MAX);
    if !(HEADER_BYTES..=PDU_BYTES_MAX).contains(&length) {
        return Some(Err(()));
    }
    (buffer.len() >= length).then(|| Ok(buffer.drain(..length).collect()))
}

/// A deliver_sm as an SMS-DELIVER, with the empty address of a service centre that SMPP does not name.
pub(crate) fn delivered(body: &[u8]) -> Option<(String, Vec<u8>)> {
    let (message, _) = pdus::DeliverSm::<16>::decode(body, body.len()).ok()?;
    let source = message.source_addr.as_str();
    let ton = u8::from(message.source_addr_ton);
    let originator = match ton {
        // Alphanumeric (SMPP 3.4, 5.2.5).
        5 => Address::alphanumeric(source).ok()?,
        1 => Address::number(&format!("+{source}")).ok()?,
        _ => Address::number(source).ok()?,
    };
    let user_data = UserData::from_octets(message.short_message().bytes().to_vec()).ok()?;
    let deliver = Deliver {
        more_messages: false,
        status_report: false,
        reply_path: false,
        has_header: u8::from(message.esm_class) & 0x40 != 0,
        originator,
        pid: message.protocol_id,
        dcs: message.data_coding.into(),
        timestamp: Timestamp::from_epoch(real_now()),
        user_data,
    };
    Some((String::new(), deliver.to_bytes()))
}

fn bind(system_id: &str, password: &str) -> Vec<u8> {
    let (system_id, password) = (terminated(system_id), zeroize::Zeroizing::new(terminated(password)));
    let mut out = Vec::new();
    let pdu = pdus::BindTransceiver::new(
        COctetString::new(&system_id).unwrap_or_default(),
        COctetString::new(&password).unwrap_or_default(),
        COctetString::null(),
        InterfaceVersion::Smpp3_4,
        Ton::Unknown,
        Npi::Unknown,
        COctetString::null(),
    );
    write(&mut out, 0, 1, pdu);
    out
}

fn deliver_answer(out: &mut Vec<u8>, id: u64, accepted: bool) {
    let status = if accepted { 0 } else { TEMPORARY_ERROR };
    // Ids are sequence numbers of the SMSC.
    write(out, status, id as u32, pdus::DeliverSmResp::<1>::default());
}

fn write<'a>(out: &mut Vec<u8>, status: u32, sequence: u32, pdu: impl Into<pdus::Pdu<'a, 1>>) {
    let command = Command::new(CommandStatus::from(status), sequence, pdu);
    let bytes = 4 + command.length();
    let start = out.len();
    out.resize(start + bytes, 0);
    out[start..start + 4].copy_from_slice(&(bytes as u32).to_be_bytes());
    command.encode(&mut out[start + 4..]);
}

fn header(out: &mut Vec<u8>, id: CommandId, sequence: u32) {
    for word in [HEADER_BYTES as u32, u32::from(id), 0, sequence] {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn read_pdu(stream: &mut TcpStream) -> Vec<u8> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).await.unwrap();
        let mut pdu = vec![0; u32::from_be_bytes(length) as usize];
        pdu[..4].copy_from_slice(&length);
        stream.read_exact(&mut pdu[4..]).await.unwrap();
        pdu
    }

    #[tokio::test]
    async fn binds_delivers_and_submits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (events, mut heard) = mpsc::unbounded_channel();
        let settings = SmppSettings { address, system_id: None, password: "secret".to_owned() };
        let line = SmppLine::start(settings, move |event| {
            let _ = events.send(event);
        });
        let imsi: Imsi = "001010000000001".parse().unwrap();
        line.attach(imsi, "436601234".parse().ok());
        let (mut smsc, _) = listener.accept().await.unwrap();
        let bind = read_pdu(&mut smsc).await;
        assert_eq!(bind[4..8], [0, 0, 0, 9]);
        assert!(bind[16..].starts_with(b"436601234\0secret\0"));
        smsc.write_all(&hex::decode("000000118000000900000000000000015300").unwrap()[..17]).await.unwrap();
        assert_eq!(heard.recv().await, Some(NetworkEvent::Attached { imsi }));
        // deliver_sm: from +4366, PID 7F, DCS F6, UDHI.
        let body = "00 0101 3433363600 0101 34333636303132333400 40 7F 00 00 00 00 00 F6 00 03 027000";
        let body = hex::decode(body.replace(' ', "")).unwrap();
        let mut pdu = ((16 + body.len()) as u32).to_be_bytes().to_vec();
        pdu.extend(hex::decode("000000050000000000000007").unwrap());
        pdu.extend(body);
        smsc.write_all(&pdu).await.unwrap();
        let Some(NetworkEvent::Deliver { id: 7, tpdu, .. }) = heard.recv().await else {
            panic!("no delivery")
        };
        let deliver = Deliver::from_bytes(&tpdu).unwrap();
        assert!(deliver.is_for_card() && deliver.has_header);
        assert_eq!(deliver.originator, Address::number("+4366").unwrap());
        line.report(7, SmsReport::Accepted(Vec::new()));
        let answer = read_pdu(&mut smsc).await;
        assert_eq!(hex::encode(&answer[4..16]), "800000050000000000000007");
        let user_data = UserData::from_octets(vec![0x02, 0x71, 0x00]).unwrap();
        let submit = Submit::with_header(1, Address::number("4711").unwrap(), user_data);
        line.submit(5, submit.to_bytes());
        let sent = read_pdu(&mut smsc).await;
        assert_eq!(sent[4..8], [0, 0, 0, 4]);
        assert!(sent.windows(3).any(|window| window == [0x02, 0x71, 0x00]));
        let mut response = hex::decode("0000001180000004000000000000").unwrap();
        response.extend(&sent[14..16]);
        response.push(0);
        smsc.write_all(&response).await.unwrap();
        assert_eq!(heard.recv().await, Some(NetworkEvent::Submitted { imsi, reference: 5, accepted: true }));
        drop(smsc);
        assert_eq!(heard.recv().await, Some(NetworkEvent::Down));
    }

    #[test]
    fn impossible_lengths_end_the_stream() {
        for length in [0_u32, 15, PDU_BYTES_MAX as u32 + 1, u32::MAX] {
            assert!(matches!(next_pdu(&mut length.to_be_bytes().to_vec()), Some(Err(()))));
        }
        assert!(next_pdu(&mut vec![0, 0]).is_none());
    }
}
