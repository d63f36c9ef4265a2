//! The phone side of an MME: SGsAP (3GPP TS 29.118) with the short-message layers of a phone above it (3GPP TS
//! 24.011), as far as short messages need them.

use std::collections::VecDeque;
use std::time::Duration;

use simtide_protocol::ids::Imsi;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Only so that a hanging test ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// Message types of SGsAP.
const PAGING_REQUEST: u8 = 0x01;
const SERVICE_REQUEST: u8 = 0x06;
const DOWNLINK_UNITDATA: u8 = 0x07;
const UPLINK_UNITDATA: u8 = 0x08;
const LOCATION_UPDATE_REQUEST: u8 = 0x09;
const LOCATION_UPDATE_ACCEPT: u8 = 0x0A;
const TMSI_REALLOCATION_COMPLETE: u8 = 0x0C;
const RESET_INDICATION: u8 = 0x15;
const RESET_ACK: u8 = 0x16;

/// Information elements of SGsAP.
const IE_IMSI: u8 = 0x01;
const IE_LAI: u8 = 0x04;
const IE_MME_NAME: u8 = 0x09;
const IE_UPDATE_TYPE: u8 = 0x0A;
const IE_MOBILE_IDENTITY: u8 = 0x0E;
const IE_NAS: u8 = 0x16;
const IE_SERVICE: u8 = 0x20;
const SERVICE_SMS: u8 = 0x02;

/// Protocol discriminator of short messages, first transaction of the side that sends.
const SMS: u8 = 0x09;
/// Bit of the transaction identifier: the other side began it.
const FROM_OTHER_SIDE: u8 = 0x80;
const CP_DATA: u8 = 0x01;
const CP_ACK: u8 = 0x04;

/// What the network did to a phone.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// The location update was accepted.
    Attached,
    /// RP-DATA: to be answered.
    Sms(Sms),
    /// The answer to a message of the phone.
    Submitted {
        /// RP-ACK; otherwise RP-ERROR with its cause.
        result: Result<(), u8>,
    },
}

/// A message for a phone.
#[derive(Debug, PartialEq)]
pub struct Sms {
    /// For whom.
    pub imsi: Imsi,
    /// RP-OA without its length: address of the service centre.
    pub service_centre: Vec<u8>,
    /// SMS-DELIVER.
    pub tpdu: Vec<u8>,
    /// Transaction identifier and protocol discriminator of answers.
    discriminator: u8,
    /// RP message reference.
    reference: u8,
}

/// An MME with any number of phones.
pub struct Mme {
    stream: TcpStream,
    events: VecDeque<Event>,
    next_reference: u8,
}

impl Mme {
    /// An MME over a connection to the switch.
    pub fn new(stream: TcpStream) -> Mme {
        Mme { stream, events: VecDeque::new(), next_reference: 1 }
    }

    /// Attaches a phone, and waits until the network knows it.
    pub async fn attach(&mut self, imsi: Imsi) {
        let lai = [0x00, 0xF1, 0x10, 0x00, 0x01];
        let name = mme_name();
        let elements: [(u8, &[u8]); 4] =
            [(IE_IMSI, &identity(imsi)), (IE_MME_NAME, &name), (IE_UPDATE_TYPE, &[0x01]), (IE_LAI, &lai)];
        self.send(LOCATION_UPDATE_REQUEST, &elements).await;
        let event = self.event().await;
        assert_eq!(event, Event::Attached);
    }

    /// The next message for one of the phones.
    pub async fn sms(&mut self) -> Sms {
        match self.event().await {
            Event::Sms(sms) => sms,
            other => panic!("{other:?}"),
        }
    }

    /// RP-ACK of a phone, with the TP-User-Data of its delivery report where it has one.
    pub async fn acknowledge(&mut self, sms: &Sms, report: Option<&[u8]>) {
        let mut rp = vec![0x02, sms.reference];
        if let Some(report) = report {
            rp.extend_from_slice(&[0x41, report.len() as u8]);
            rp.extend_from_slice(report);
        }
        self.uplink(sms.imsi, sms.discriminator, &rp).await;
    }

    /// A message of a phone, SMS-SUBMIT, and what the network says to it. Messages for phones wait meanwhile.
    pub async fn submit(&mut self, imsi: Imsi, tpdu: &[u8]) -> Result<(), u8> {
        let reference = self.next_reference;
        self.next_reference = self.next_reference.wrapping_add(1);
        // RP-DATA: no RP-OA, RP-DA a service centre in international form, RP-UD.
        let mut rp = vec![0x00, reference, 0x00, 0x05, 0x91, 0x34, 0x66, 0x04, 0x00, tpdu.len() as u8];
        rp.extend_from_slice(tpdu);
        self.uplink(imsi, SMS, &rp).await;
        let mut others = VecDeque::new();
        loop {
            match self.event().await {
                Event::Submitted { result } => {
                    others.append(&mut self.events);
                    self.events = others;
                    return result;
                }
                other => others.push_back(other),
            }
        }
    }

    /// The next event; paging, transactions and resets are handled here.
    pub async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let message =
                tokio::time::timeout(PATIENCE, self.receive()).await.expect("the network is silent");
            self.handle(&message).await;
        }
    }

    /// Returns when the switch has something to say: [`Mme::take_in`] takes it.
    pub async fn readable(&self) {
        // Readiness alone may be stale, and whoever reads then waits.
        self.stream.peek(&mut [0]).await.unwrap();
    }

    /// One message of the switch.
    pub async fn take_in(&mut self) {
        let message = self.receive().await;
        self.handle(&message).await;
    }

    /// The next event, if there is one already.
    pub fn next(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    async fn handle(&mut self, message: &[u8]) {
        let (kind, elements) = (message[0], elements(&message[1..]));
        let element = |tag: u8| elements.iter().find(|(t, _)| *t == tag).map(|(_, value)| *value);
        let imsi = element(IE_IMSI).map(from_identity);
        match (kind, imsi) {
            (LOCATION_UPDATE_ACCEPT, Some(imsi)) => {
                if element(IE_MOBILE_IDENTITY).is_some() {
                    self.send(TMSI_REALLOCATION_COMPLETE, &[(IE_IMSI, &identity(imsi))]).await;
                }
                self.events.push_back(Event::Attached);
            }
            (PAGING_REQUEST, Some(imsi)) => {
                let elements: [(u8, &[u8]); 2] = [(IE_IMSI, &identity(imsi)), (IE_SERVICE, &[SERVICE_SMS])];
                self.send(SERVICE_REQUEST, &elements).await;
            }
            (DOWNLINK_UNITDATA, Some(imsi)) => {
                let nas = element(IE_NAS).expect("a unitdata without its NAS message");
                self.nas(imsi, nas).await;
            }
            (RESET_INDICATION, _) => self.send(RESET_ACK, &[(IE_MME_NAME, &mme_name())]).await,
            _ => {}
        }
    }

    /// CP layer: [discriminator, message, length, RP message].
    async fn nas(&mut self, imsi: Imsi, nas: &[u8]) {
        let [discriminator, CP_DATA, length, rp @ ..] = nas else { return };
        assert_eq!(rp.len(), usize::from(*length), "CP-User-Data");
        let answer = discriminator ^ FROM_OTHER_SIDE;
        self.unitdata(imsi, &[answer, CP_ACK]).await;
        match rp {
            [0x01, reference, rest @ ..] => {
                let (service_centre, rest) = value(rest);
                let (_, rest) = value(rest);
                let (tpdu, rest) = value(rest);
                assert!(rest.is_empty(), "RP-DATA");
                self.events.push_back(Event::Sms(Sms {
                    imsi,
                    service_centre: service_centre.to_vec(),
                    tpdu: tpdu.to_vec(),
                    discriminator: answer,
                    reference: *reference,
                }));
            }
            [0x03, ..] => self.events.push_back(Event::Submitted { result: Ok(()) }),
            [0x05, _, _, cause, ..] => self.events.push_back(Event::Submitted { result: Err(*cause) }),
            other => panic!("RP message {other:02x?}"),
        }
    }

    async fn uplink(&mut self, imsi: Imsi, discriminator: u8, rp: &[u8]) {
        let nas = [&[discriminator, CP_DATA, rp.len() as u8], rp].concat();
        self.unitdata(imsi, &nas).await;
    }

    async fn unitdata(&mut self, imsi: Imsi, nas: &[u8]) {
        self.send(UPLINK_UNITDATA, &[(IE_IMSI, &identity(imsi)), (IE_NAS, nas)]).await;
    }

    async fn send(&mut self, kind: u8, elements: &[(u8, &[u8])]) {
        let mut message = vec![kind];
        for (tag, value) in elements {
            message.extend_from_slice(&[*tag, value.len() as u8]);
            message.extend_from_slice(value);
        }
        let frame = [&(message.len() as u32).to_be_bytes()[..], &message].concat();
        self.stream.write_all(&frame).await.unwrap();
    }

    async fn receive(&mut self) -> Vec<u8> {
        let length = self.stream.read_u32().await.expect("the switch has closed the connection");
        let mut message = vec![0; length as usize];
        self.stream.read_exact(&mut message).await.unwrap();
        message
    }
}

fn elements(mut rest: &[u8]) -> Vec<(u8, &[u8])> {
    let mut elements = Vec::new();
    while let [tag, after @ ..] = rest {
        let (content, after) = value(after);
        elements.push((*tag, content));
        rest = after;
    }
    elements
}

/// A length and so many octets.
fn value(rest: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = rest.split_first().expect("a length");
    rest.split_at(usize::from(*length))
}

/// 3GPP TS 24.008, 10.5.1.4: mobile identity, an IMSI of 15 digits.
fn identity(imsi: Imsi) -> Vec<u8> {
    let digits: Vec<u8> = imsi.to_string().bytes().map(|digit| digit - b'0').collect();
    let rest = digits[1..].chunks(2).map(|pair| pair[1] << 4 | pair[0]);
    std::iter::once(digits[0] << 4 | 0x09).chain(rest).collect()
}

fn from_identity(identity: &[u8]) -> Imsi {
    let mut digits = vec![identity[0] >> 4];
    digits.extend(identity[1..].iter().flat_map(|octet| [octet & 0x0F, octet >> 4]));
    let text: String =
        digits.iter().filter(|&&digit| digit < 10).map(|digit| char::from(b'0' + digit)).collect();
    text.parse().unwrap()
}

/// 3GPP TS 29.118, 9.4.13: 55 octets.
fn mme_name() -> Vec<u8> {
    let labels = ["mmec01", "mmegi0001", "mme", "epc", "mnc001", "mcc001", "3gppnetwork", "org"];
    labels.iter().flat_map(|label| std::iter::once(label.len() as u8).chain(label.bytes())).collect()
}
