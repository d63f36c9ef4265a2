//! Short messages through a switch and a register that others have written: OsmoMSC and OsmoHLR.

#![allow(clippy::unwrap_used)]

#[path = "support/osmocom/mod.rs"]
mod osmocom;

use std::time::Duration;

use osmocom::Network;
use simtide_protocol::ids::{Imsi, Msisdn};
use simtide_protocol::sms::{
    Address as SmsAddress, Deliver, PacketKind, Reference, Submit as SmsSubmit, UserData, segment,
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
        let before = platform.receipts.len();
        while platform.receipts.len() == before {
            platform.step().await;
        }
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
