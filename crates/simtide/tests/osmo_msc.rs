//! Short messages through a switch and a register that others have written: OsmoMSC and OsmoHLR.

#![allow(clippy::unwrap_used)]

#[path = "support/osmocom/mod.rs"]
mod osmocom;

use std::time::Duration;

use osmocom::Network;
use osmocom::phone::Phone;
use simtide_card::{KeySetPersonalization, Personalization, Secret};
use simtide_device::SmsReport;
use simtide_protocol::ids::{EpochMs, Imsi, Msisdn, Tar};
use simtide_protocol::personalization::Identity;
use simtide_protocol::scp80::{
    CommandHeader, Counter, Key, KeySet, Kic, Kid, ResponseStatus, Security, Spi, open_response, seal,
};
use simtide_protocol::script::compact;
use simtide_protocol::sms::{
    Address as SmsAddress, Arrival, Deliver, Limits, PacketKind, Reassembly, Reference, Submit as SmsSubmit,
    UserData, segment,
};
use simtide_server::smpp::{
    Address, DeliveryState, Link, LinkConfig, LinkEvent, LinkHandle, Message, Password, Receipt, Submit,
    Verdict,
};
use tokio::sync::mpsc;

/// Only so that a hanging test ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// The platform's short code.
const SHORT_CODE: &str = "500";

struct Platform {
    link: LinkHandle,
    events: mpsc::Receiver<LinkEvent>,
    receipts: Vec<Receipt>,
    messages: Vec<Message>,
    accepted: Vec<u64>,
}

impl Platform {
    fn start(network: &Network) -> Platform {
        let (sender, events) = mpsc::channel(100);
        let config = LinkConfig {
            host: network.address.to_string(),
            port: osmocom::SMPP,
            system_id: "simtide".into(),
            password: Password::new("simtide"),
            ..LinkConfig::default()
        };
        let link = Link::start(config, sender).unwrap();
        Platform { link, events, receipts: vec![], messages: vec![], accepted: vec![] }
    }

    fn submit(&self, token: u64, destination: Msisdn, parts: &[Vec<u8>]) {
        let submits = parts.iter().zip(token..).map(|(part, token)| Submit {
            source: Address::new(0, 0, SHORT_CODE),
            validity_s: 600,
            group: (parts.len() > 1).then_some(token / 100),
            ..Submit::binary(token, destination, part.clone())
        });
        self.link.submit_all(submits.collect()).unwrap();
    }

    async fn is_up(&mut self) {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("nothing happens");
        assert_eq!(event, Some(LinkEvent::Up));
    }

    /// Waits for one receipt more.
    async fn receipt(&mut self) {
        let before = self.receipts.len();
        while self.receipts.len() == before {
            self.step().await;
        }
    }

    /// The next message from a phone.
    async fn message(&mut self) -> Message {
        while self.messages.is_empty() {
            self.step().await;
        }
        self.messages.remove(0)
    }

    /// Waits for one event and files it.
    async fn step(&mut self) {
        let event =
            tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("nothing happens").unwrap();
        match event {
            LinkEvent::Accepted { token, .. } => self.accepted.push(token),
            LinkEvent::Receipt(receipt) => self.receipts.push(receipt),
            LinkEvent::Message(message) => {
                self.link.answer(message.answer, Verdict::Taken);
                self.messages.push(message);
            }
            // This switch announces every phone that a message has reached.
            LinkEvent::Alert { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_trigger_and_a_command_in_two_parts_pass_a_real_switch() {
    if let Some(missing) = osmocom::missing() {
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let mut network = Network::start().await;
    let imsi: Imsi = "001010000000001".parse().unwrap();
    let msisdn: Msisdn = "436641234567".parse().unwrap();
    network.subscribe(imsi, msisdn).await;
    let mut mme = network.mme().await;
    mme.attach(imsi).await;
    let mut platform = Platform::start(&network);
    platform.is_up().await;

    let trigger = segment(&[0xA5; 40], PacketKind::Command, Reference::after(0)).unwrap();
    let command = segment(&[0x5A; 180], PacketKind::Command, Reference::after(1)).unwrap();
    assert_eq!((trigger.len(), command.len()), (1, 2));
    platform.submit(1_000, msisdn, &trigger);
    platform.submit(2_000, msisdn, &command);
    for expected in trigger.iter().chain(&command) {
        let sms = mme.sms().await;
        let deliver = Deliver::from_bytes(&sms.tpdu).unwrap();
        assert_eq!(sms.imsi, imsi);
        assert_eq!((deliver.pid, deliver.dcs, deliver.has_header), (0x7F, 0xF6, true));
        assert_eq!(deliver.originator.number, SHORT_CODE);
        assert_eq!(hex::encode(&deliver.user_data.octets), hex::encode(expected));
        mme.acknowledge(&sms, None).await;
        platform.receipt().await;
    }
    let receipts: Vec<_> = platform.receipts.iter().map(|r| (r.token, r.state)).collect();
    assert_eq!(
        receipts,
        [1_000, 2_000, 2_001].map(|token| (Some(token), DeliveryState::Delivered)),
        "{}",
        network.logs()
    );
    assert_eq!(platform.accepted, [1_000, 2_000, 2_001]);

    // What the phone writes to the short code arrives at the platform.
    let user_data = [0x02, 0x71, 0x00, 0x00, 0x0A, 0xB0, 0x00, 0x10];
    let destination = SmsAddress::number(SHORT_CODE).unwrap();
    let mut submit =
        SmsSubmit::with_header(3, destination, UserData::from_octets(user_data.to_vec()).unwrap());
    submit.dcs = 0xF6;
    // The switch acknowledges to the phone when the platform has taken the message.
    let tpdu = submit.to_bytes();
    let (answer, message) = tokio::join!(mme.submit(imsi, &tpdu), platform.message());
    assert_eq!(answer, Ok(()), "{}", network.logs());
    assert_eq!(
        (message.source.digits.as_str(), message.destination.digits.as_str()),
        ("436641234567", SHORT_CODE)
    );
    assert!(message.udhi);
    assert_eq!(hex::encode(&message.user_data), hex::encode(user_data));
}

fn key(byte: u8) -> Key {
    Key::new(&[byte; 16]).unwrap()
}

fn personalization(imsi: Imsi) -> Personalization {
    let keys =
        KeySetPersonalization { index: 1, kic: key(0x11), kid: key(0x22), kik: None, counter: Counter::ZERO };
    Personalization {
        iccid: "8943010000000000019".parse().unwrap(),
        eid: None,
        identity: Identity::milenage(imsi, &[1; 16], &[2; 16]).unwrap(),
        msisdn: None,
        key_sets: vec![keys],
        psk: None,
        adm1: Secret::new([3; 8]),
        pin1: None,
        puk1: None,
        files: Vec::new(),
    }
}

/// SELECT of DF.SIMTIDE and EF.CONFIGURATION, UPDATE BINARY of all of it in halves, the first twice, READ BINARY: too long
/// for one message.
fn script(content: &[u8; 64]) -> Vec<u8> {
    let (first, second) = content.split_at(32);
    [
        &hex::decode("00a4000c027f9000a4000c026f04").unwrap()[..],
        &[0x00, 0xD6, 0x00, 0x00, 32],
        first,
        &[0x00, 0xD6, 0x00, 32, 32],
        second,
        &[0x00, 0xD6, 0x00, 0x00, 32],
        first,
        &[0x00, 0xB0, 0x00, 0x00, 0x10],
    ]
    .concat()
}

#[tokio::test]
async fn a_command_reaches_a_card_and_its_proof_of_receipt_comes_back_through_a_real_switch() {
    if let Some(missing) = osmocom::missing() {
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let imsi: Imsi = "001010000000002".parse().unwrap();
    let msisdn: Msisdn = "436641234568".parse().unwrap();
    let mut network = Network::start().await;
    network.subscribe(imsi, msisdn).await;
    let mut phone = Phone::start(&personalization(imsi), EpochMs(1_795_254_307_000));
    assert_eq!(phone.imsi, Some(imsi), "the identity that the card gave to the device");
    let mut mme = network.mme().await;
    mme.attach(imsi).await;
    phone.attached();
    let mut platform = Platform::start(&network);
    platform.is_up().await;

    let content: [u8; 64] = std::array::from_fn(|i| i as u8);
    let keys = KeySet::new(Some(key(0x11)), Some(key(0x22)));
    let security = Security { spi: Spi::new(0x16, 0x39), kic: Kic(0x12), kid: Kid(0x12) };
    let tar = Tar([0xB0, 0x00, 0x00]);
    let header = CommandHeader { security, tar, counter: Counter::new(7).unwrap() };
    let packet = seal(&header, &keys, &script(&content)).unwrap();
    let parts = segment(&packet, PacketKind::Command, Reference::after(8)).unwrap();
    assert_eq!(parts.len(), 2);
    platform.submit(300, msisdn, &parts);
    for (id, _) in parts.iter().enumerate() {
        let sms = mme.sms().await;
        let report = phone.deliver(id as u64, &sms);
        assert!(matches!(report, SmsReport::Accepted(_)), "{report:?}");
        mme.acknowledge(&sms, None).await;
        platform.receipt().await;
    }
    let receipts: Vec<_> = platform.receipts.iter().map(|r| (r.token, r.state)).collect();
    assert_eq!(receipts, [300, 301].map(|token| (Some(token), DeliveryState::Delivered)));

    // The proof leaves the card by SEND SHORT MESSAGE, to the address that the command came from.
    let (reference, tpdu) = phone.outgoing.pop_front().expect("the card sends no proof of receipt");
    let (answer, message) = tokio::join!(mme.submit(imsi, &tpdu), platform.message());
    assert_eq!(answer, Ok(()), "{}", network.logs());
    phone.submitted(reference, true);
    assert!(phone.outgoing.is_empty());
    assert_eq!(message.source.digits, msisdn.to_string());
    let mut reassembly = Reassembly::new(Limits::PLATFORM);
    let whole = reassembly.accept(EpochMs::EPOCH, (), &message.user_data).unwrap();
    let Arrival::Whole(whole) = whole else { panic!("one message holds it") };
    let proof = open_response(&whole.data, &security, &keys).unwrap();
    assert!(proof.authenticated);
    assert_eq!((proof.header.status, proof.header.tar), (ResponseStatus::PorOk, tar));
    assert_eq!(proof.header.counter.value(), 7);
    let done = compact::Response::decode(&proof.data).unwrap();
    assert_eq!((done.executed, done.status.0, done.data.as_slice()), (6, 0x9000, &content[..16]));

    // The effect, read from the card.
    for select in ["00a4000c023f00", "00a4000c027f90", "00a4000c026f04"] {
        assert_eq!(phone.transmit(&hex::decode(select).unwrap()), [0x90, 0x00]);
    }
    assert_eq!(phone.transmit(&[0x00, 0xB0, 0x00, 0x00, 0x40])[..64], content);
}
