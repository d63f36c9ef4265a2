//! Secured packets all the way: sealed by a platform, handed over by a device in ENVELOPE, executed, answered by SEND
//! SHORT MESSAGE or in the ENVELOPE's answer, and the effect read from the card.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use simtide_card::secure_channel::NoChannels;
use simtide_card::{Card, Environment, KeySetPersonalization, Personalization, Secret};
use simtide_protocol::ids::{EpochMs, Tar};
use simtide_protocol::personalization::Identity;
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::{
    CommandHeader, Counter, Key, KeySet, Kic, Kid, Response, ResponseStatus, Security, Spi, open_response,
    seal,
};
use simtide_protocol::script::compact;
use simtide_protocol::sms::{
    Address, Arrival, Deliver, Limits, PacketKind, Reassembly, Reference, SmsPpDownload, Submit, Timestamp,
    UserData, segment,
};
use simtide_protocol::tlv::{Reader, find_comprehension};

const RFM: Tar = Tar([0xB0, 0x00, 0x00]);
/// SELECT of DF.SIMTIDE and EF.CONFIGURATION.
const SELECT: &str = "00a4000c027f90 00a4000c026f04";

fn key(byte: u8) -> Key {
    Key::new(&[byte; 16]).unwrap()
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

fn personalization() -> Personalization {
    Personalization {
        iccid: "8943010000000000019".parse().unwrap(),
        eid: None,
        identity: Identity::milenage("001010000000001".parse().unwrap(), &[1; 16], &[2; 16]).unwrap(),
        msisdn: None,
        key_sets: vec![KeySetPersonalization {
            index: 1,
            kic: key(0x11),
            kid: key(0x22),
            kik: None,
            counter: Counter::ZERO,
        }],
        psk: None,
        adm1: Secret::new([3; 8]),
        pin1: None,
        puk1: None,
        files: Vec::new(),
    }
}

/// A card in a device that does nothing of its own, and the platform that knows its keys.
struct World {
    card: Card,
    journal: Vec<u8>,
    sent: Vec<Submit>,
    security: Security,
}

impl World {
    fn new(second_of_spi: u8) -> Self {
        let card = Card::personalised(Arc::new(Profile::standard()), &personalization());
        let security = Security { spi: Spi::new(0x16, second_of_spi), kic: Kic(0x12), kid: Kid(0x12) };
        let mut world = Self { card, journal: Vec::new(), sent: Vec::new(), security };
        world.power_on();
        world
    }

    fn power_on(&mut self) {
        let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
        self.card.reset(&mut Environment { channels: &NoChannels, random: &mut random });
        let answer = self.transmit(&[&[0x80, 0x10, 0x00, 0x00, 0x14][..], &[0xFF; 20]].concat());
        self.serve_toolkit(answer);
    }

    /// Power fails after the last command; the card comes back from its journal.
    fn lose_power(&mut self) {
        self.card = Card::restore(Arc::new(Profile::standard()), &self.journal).unwrap();
        self.power_on();
    }

    fn transmit(&mut self, command: &[u8]) -> Vec<u8> {
        let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
        let answer =
            self.card.transmit(&mut Environment { channels: &NoChannels, random: &mut random }, command);
        self.journal.extend(self.card.take_changes().unwrap_or_default());
        answer
    }

    /// Fetches what the card wants until it wants nothing; messages are kept, everything is answered well.
    fn serve_toolkit(&mut self, mut answer: Vec<u8>) {
        while let [.., 0x91, length] = answer[..] {
            let mut fetched = self.transmit(&[0x80, 0x12, 0x00, 0x00, length]);
            fetched.truncate(fetched.len() - 2);
            let body = Reader::new(&fetched).next().unwrap().unwrap().value.to_vec();
            if let Some(tpdu) = find_comprehension(&body, 0x0B) {
                self.sent.push(Submit::from_bytes(tpdu).unwrap());
            }
            let details = find_comprehension(&body, 0x01).unwrap();
            let response = [&[0x81, 0x03], details, &[0x82, 0x02, 0x82, 0x81, 0x83, 0x01, 0x00]].concat();
            answer =
                self.transmit(&[&[0x80, 0x14, 0x00, 0x00, response.len() as u8], &response[..]].concat());
        }
    }

    fn messages(&self, counter: u64, script: &[u8]) -> Vec<Vec<u8>> {
        let header =
            CommandHeader { security: self.security, tar: RFM, counter: Counter::new(counter).unwrap() };
        let keys = KeySet::new(Some(key(0x11)), Some(key(0x22)));
        let packet = seal(&header, &keys, script).unwrap();
        let parts = segment(&packet, PacketKind::Command, Reference::after(counter as u8)).unwrap();
        parts
            .into_iter()
            .map(|part| {
                let user_data = UserData::from_octets(part).unwrap();
                let sender = Address::number("1234").unwrap();
                Deliver::data_download(sender, Timestamp([0x22; 7]), user_data).to_bytes()
            })
            .collect()
    }

    /// Response data and status word of the ENVELOPE; what the card then wants is done.
    fn deliver(&mut self, tpdu: &[u8]) -> (Vec<u8>, u16) {
        let mut answer = self.envelope(tpdu);
        let status = u16::from_be_bytes([answer[answer.len() - 2], answer[answer.len() - 1]]);
        self.serve_toolkit(answer.clone());
        answer.truncate(answer.len() - 2);
        (answer, status)
    }

    /// The answer to the ENVELOPE.
    fn envelope(&mut self, tpdu: &[u8]) -> Vec<u8> {
        let service_centre = Some(Address::number("+4917000000").unwrap());
        let data = SmsPpDownload { service_centre, tpdu: tpdu.to_vec() }.to_bytes();
        self.transmit(&[&[0x80, 0xC2, 0x00, 0x00, data.len() as u8], &data[..], &[0x00]].concat())
    }

    fn send(&mut self, counter: u64, script: &[u8]) {
        for message in self.messages(counter, script) {
            self.deliver(&message);
        }
    }

    /// Opens the proof of receipt in these user data.
    fn open(&self, parts: &[Vec<u8>]) -> Response {
        let keys = KeySet::new(Some(key(0x11)), Some(key(0x22)));
        let mut reassembly = Reassembly::new(Limits::PLATFORM);
        for part in parts {
            if let Arrival::Whole(whole) = reassembly.accept(EpochMs::EPOCH, (), part).unwrap() {
                return open_response(&whole.data, &self.security, &keys).unwrap();
            }
        }
        panic!("no proof in {} messages", parts.len());
    }

    fn proof(&mut self) -> Response {
        let parts: Vec<_> = self.sent.drain(..).map(|submit| submit.user_data.octets).collect();
        self.open(&parts)
    }

    /// EF.CONFIGURATION, read over the card's own interface.
    fn configuration(&mut self) -> Vec<u8> {
        for select in ["00a4000c023f00", "00a4000c027f90", "00a4000c026f04"] {
            assert_eq!(self.transmit(&bytes(select)), [0x90, 0x00]);
        }
        let mut content = self.transmit(&bytes("00b0000040"));
        content.truncate(64);
        content
    }
}

#[test]
fn a_file_update_is_executed_once_and_proven_by_submit() {
    let mut world = World::new(0x39);
    let script = bytes(&format!("{SELECT} 00d6000004 01020304"));
    world.send(1, &script);
    let proof = world.proof();
    assert!(proof.authenticated && proof.header.status == ResponseStatus::PorOk);
    let answer = compact::Response::decode(&proof.data).unwrap();
    assert_eq!((answer.executed, answer.status.0), (3, 0x9000));
    assert_eq!(world.configuration()[..5], [1, 2, 3, 4, 0xFF]);

    world.send(1, &bytes(&format!("{SELECT} 00d6000004 09090909")));
    let proof = world.proof();
    assert!(proof.authenticated && proof.header.status == ResponseStatus::CounterLow);
    assert_eq!(world.configuration()[..5], [1, 2, 3, 4, 0xFF]);
}

#[test]
fn the_counter_survives_power_loss() {
    let mut world = World::new(0x39);
    // The journal holds what happened since personalisation.
    world.journal = world.card.snapshot();
    world.send(7, &bytes(&format!("{SELECT} 00d6000001 07")));
    world.sent.clear();
    world.lose_power();
    assert_eq!(world.configuration()[0], 7);
    world.send(7, &bytes(&format!("{SELECT} 00d6000001 09")));
    assert_eq!(world.proof().header.status, ResponseStatus::CounterLow);
    world.send(8, &bytes(&format!("{SELECT} 00d6000001 08")));
    assert_eq!(world.proof().header.status, ResponseStatus::PorOk);
    assert_eq!(world.configuration()[0], 8);
}

#[test]
fn a_long_script_arrives_backwards_and_twice() {
    let mut world = World::new(0x39);
    let content: Vec<u8> = (0..64).collect();
    let update =
        |at: u8| format!("00d600{:02x}20{}", at * 32, hex::encode(&content[usize::from(at) * 32..][..32]));
    let script =
        bytes(&format!("{SELECT} {} {} {} {} {}", update(1), update(0), update(1), update(0), update(1)));
    let messages = world.messages(3, &script);
    assert_eq!(messages.len(), 2);
    for at in [1, 1] {
        assert_eq!(world.deliver(&messages[at]), (Vec::new(), 0x9000));
        assert!(world.sent.is_empty(), "nothing is executed before it is whole");
    }
    world.deliver(&messages[0]);
    assert_eq!(world.configuration(), content);
    assert_eq!(world.proof().header.counter.value(), 3);
}

#[test]
fn the_proof_comes_in_the_report_and_in_several_messages() {
    let mut world = World::new(0x19);
    let read = bytes(&format!("{SELECT} 00b0000010"));
    let messages = world.messages(1, &read);
    let (report, status) = world.deliver(&messages[0]);
    assert_eq!(status, 0x9000);
    let proof = world.open(&[report]);
    assert_eq!(compact::Response::decode(&proof.data).unwrap().data, [0xFF; 16]);

    // EF.NETPAR has 128 bytes: too many for the report, and for one message.
    let read = bytes("00a4000c027ff0 00a4000c026fc4 00b0000080");
    let messages = world.messages(2, &read);
    let (report, _) = world.deliver(&messages[0]);
    assert_eq!(world.open(&[report]).header.status, ResponseStatus::ResponseFollows);
    assert_eq!(world.sent.len(), 2);
    let proof = world.proof();
    assert!(proof.authenticated && proof.data.len() == 3 + 128);
}

#[test]
fn a_command_of_another_sender_is_not_executed() {
    let mut world = World::new(0x39);
    let mut message = world.messages(1, &bytes(&format!("{SELECT} 00d6000001 07")))[0].clone();
    let last = message.len() - 1;
    message[last] ^= 1;
    world.deliver(&message);
    let proof = world.proof();
    assert_eq!((proof.header.status, proof.authenticated), (ResponseStatus::CheckFailed, false));
    assert_eq!(world.configuration()[0], 0xFF);
}

#[test]
fn a_card_that_is_busy_takes_no_command_whose_proof_it_could_not_send() {
    let mut world = World::new(0x39);
    // EF.NETPAR twice, in an expanded script: the proof takes three messages, and the queue holds 16.
    let script = bytes("aa20 220700a4000c027ff0 220700a4000c026fc4 220500b0000080 220500b0000080");
    let mut last = Vec::new();
    let mut busy = None;
    for counter in 1..20 {
        let messages = world.messages(counter, &script);
        let answer = world.envelope(&messages[0]);
        if answer[..] == [0x93, 0x00] {
            busy = Some((counter, messages));
            break;
        }
        last = answer;
    }
    let (counter, messages) = busy.expect("the queue has an end");
    world.serve_toolkit(last);
    assert_eq!(
        world.sent.len() as u64,
        3 * (counter - 1),
        "every command that was taken has its whole proof"
    );
    for taken in 1..counter {
        let parts: Vec<_> = world.sent.drain(..3).map(|submit| submit.user_data.octets).collect();
        let proof = world.open(&parts);
        assert_eq!((proof.header.counter.value(), proof.header.status), (taken, ResponseStatus::PorOk));
    }
    // The one that was turned away has not been seen by the receiver: it is good when it comes again.
    world.deliver(&messages[0]);
    assert_eq!(world.proof().header.status, ResponseStatus::PorOk);
}
