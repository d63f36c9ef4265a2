//! A platform's packets into the receiver, and what comes back.

use simtide_protocol::apdu::StatusWord;
use simtide_protocol::ids::{EpochMs, Tar};
use simtide_protocol::profile::{PorPadding, Profile};
use simtide_protocol::scp80::{
    CommandHeader, Counter, Key, KeySet, Kic, Kid, Response, ResponseStatus, Security, Spi, open_response,
    seal,
};
use simtide_protocol::sms::{
    Address, Arrival, Deliver, Element, Limits, PacketKind, Reassembly, Reference, Submit, Timestamp,
    UserData, segment,
};

use super::*;

const TAR: Tar = Tar([0xB0, 0x00, 0x00]);

fn keys() -> KeySet {
    KeySet::new(Some(Key::new(&[0x11; 16]).unwrap()), Some(Key::new(&[0x22; 16]).unwrap()))
}

/// A card, and what the platform knows of it.
struct Bench {
    profile: Profile,
    keyring: Vec<(u8, KeySet)>,
    receiver: Receiver,
    security: Security,
    counter: u64,
}

impl Bench {
    fn new(spi: [u8; 2]) -> Self {
        Self {
            profile: Profile::standard(),
            keyring: vec![(1, keys())],
            receiver: Receiver::default(),
            security: Security { spi: Spi::from(spi), kic: Kic(0x12), kid: Kid(0x12) },
            counter: 5,
        }
    }

    fn header(&self) -> CommandHeader {
        CommandHeader { security: self.security, tar: TAR, counter: Counter::new(self.counter).unwrap() }
    }

    fn messages(&self, header: &CommandHeader, data: &[u8]) -> Vec<Deliver> {
        let packet = seal(header, &keys(), data).unwrap();
        deliveries(&packet)
    }

    fn receive(&mut self, deliver: &Deliver) -> Reception {
        self.receiver.receive(&self.profile, &self.keyring, deliver)
    }

    fn send(&mut self, header: &CommandHeader, data: &[u8]) -> Reception {
        let mut last = Reception::NotSecured;
        for message in self.messages(header, data) {
            last = self.receive(&message);
        }
        last
    }

    fn open(&self, user_data: &[&[u8]]) -> Response {
        let mut reassembly = Reassembly::new(Limits::PLATFORM);
        for part in user_data {
            if let Arrival::Whole(message) = reassembly.accept(EpochMs::EPOCH, (), part).unwrap() {
                assert!(message.contains(Element::RESPONSE_PACKET));
                return open_response(&message.data, &self.security, &keys()).unwrap();
            }
        }
        panic!("parts are missing");
    }

    fn open_submits(&self, submits: &[Submit]) -> Response {
        assert!(submits.iter().all(|submit| submit.destination == sender() && submit.has_header));
        let parts: Vec<&[u8]> = submits.iter().map(|submit| submit.user_data.octets.as_slice()).collect();
        self.open(&parts)
    }
}

fn sender() -> Address {
    Address::number("1234").unwrap()
}

fn deliveries(packet: &[u8]) -> Vec<Deliver> {
    let parts = segment(packet, PacketKind::Command, Reference::after(0)).unwrap();
    let deliver =
        |part| Deliver::data_download(sender(), Timestamp([0x22; 7]), UserData::from_octets(part).unwrap());
    parts.into_iter().map(deliver).collect()
}

fn command(reception: Reception) -> Command {
    match reception {
        Reception::Command(command) => command,
        other => panic!("{other:?}"),
    }
}

fn refused(reception: Reception) -> (ResponseStatus, Delivery) {
    match reception {
        Reception::Refused { status, delivery } => (status, delivery),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_command_reaches_its_application_once_and_its_proof_goes_by_submit() {
    let mut bench = Bench::new([0x16, 0x39]);
    let header = bench.header();
    let received = command(bench.send(&header, b"script"));
    assert_eq!((received.tar, received.data.as_slice(), received.key_index), (TAR, &b"script"[..], 1));
    assert_eq!(bench.receiver.counter(1), header.counter);
    let delivery = received.reply.answer(&mut bench.receiver, &bench.keyring, &[1, 0x90, 0]);
    assert_eq!((delivery.report.len(), delivery.status), (0, StatusWord::OK));
    let response = bench.open_submits(&delivery.submits);
    assert!(response.authenticated && response.data == [1, 0x90, 0]);
    assert_eq!(response.header.counter, header.counter);

    let (status, delivery) = refused(bench.send(&header, b"script"));
    assert_eq!(status, ResponseStatus::CounterLow);
    assert!(bench.open_submits(&delivery.submits).authenticated, "the second copy is answered with proof");
}

#[test]
fn the_proof_goes_into_the_report_where_that_was_asked_for() {
    let mut bench = Bench::new([0x16, 0x19]);
    let header = bench.header();
    let received = command(bench.send(&header, b"script"));
    let short = received.reply.answer(&mut bench.receiver, &bench.keyring, &[1, 0x90, 0]);
    assert!(short.submits.is_empty());
    assert_eq!(bench.open(&[&short.report]).data, [1, 0x90, 0]);

    let long = received.reply.answer(&mut bench.receiver, &bench.keyring, &[7; 120]);
    assert_eq!(bench.open(&[&long.report]).header.status, ResponseStatus::ResponseFollows);
    assert_eq!(bench.open_submits(&long.submits).data, [7; 120]);
}

#[test]
fn a_long_answer_takes_several_messages_and_a_longer_one_is_cut() {
    let mut bench = Bench::new([0x16, 0x39]);
    let header = bench.header();
    let received = command(bench.send(&header, b"script"));
    let capacity = received.reply.capacity(&bench.keyring);
    for references in [1, 2] {
        let delivery = received.reply.answer(&mut bench.receiver, &bench.keyring, &vec![7; capacity + 9]);
        assert_eq!(delivery.submits.len(), 4);
        assert_eq!(delivery.submits[0].user_data.octets[3], references);
        assert_eq!(bench.open_submits(&delivery.submits).data, vec![7; capacity]);
    }
    bench.profile.scp80.single_sms_por = true;
    bench.counter = 6;
    let header = bench.header();
    let received = command(bench.send(&header, b"script"));
    let delivery = received.reply.answer(&mut bench.receiver, &bench.keyring, &[7; 400]);
    assert_eq!(delivery.submits.len(), 1);
    assert_eq!(bench.open_submits(&delivery.submits).data.len(), received.reply.capacity(&bench.keyring));
}

#[test]
fn por_only_when_asked_for() {
    for (second, on_success, on_error) in [(0x38, 0, 0), (0x3A, 0, 1), (0x3B, 0, 0), (0x39, 1, 1)] {
        let mut bench = Bench::new([0x16, second]);
        let header = bench.header();
        let received = command(bench.send(&header, b"script"));
        let delivery = received.reply.answer(&mut bench.receiver, &bench.keyring, &[]);
        assert_eq!((delivery.submits.len(), delivery.report.len()), (on_success, 0));
        let (_, delivery) = refused(bench.send(&header, b"script"));
        assert_eq!((delivery.submits.len(), delivery.report.len()), (on_error, 0));
    }
}

#[test]
fn an_announced_proof_follows() {
    let mut bench = Bench::new([0x16, 0x19]);
    let header = bench.header();
    let received = command(bench.send(&header, b"script"));
    let announced = received.reply.announce(&bench.keyring);
    assert_eq!(bench.open(&[&announced.report]).header.status, ResponseStatus::ResponseFollows);
    let submits = received.reply.answer_later(&mut bench.receiver, &bench.keyring, &[1, 0x90, 0]);
    assert_eq!(bench.open_submits(&submits).data, [1, 0x90, 0]);
}

#[test]
fn foreign_behaviour_is_a_switch_of_the_profile() {
    let mut bench = Bench::new([0x16, 0x39]);
    bench.profile.scp80.announces_por_by_submit = true;
    bench.profile.scp80.por_padding = PorPadding::Iso;
    let header = bench.header();
    let received = command(bench.send(&header, b"script"));
    let delivery = received.reply.answer(&mut bench.receiver, &bench.keyring, &[1, 0x90, 0]);
    assert_eq!(bench.open(&[&delivery.report]).header.status, ResponseStatus::ResponseFollows);
    assert_eq!(bench.open_submits(&delivery.submits).data, [1, 0x90, 0]);

    bench.profile.scp80.unprotected_error_por = true;
    let (status, delivery) = refused(bench.send(&header, b"script"));
    assert_eq!(status, ResponseStatus::CounterLow);
    assert!(!bench.open_submits(&delivery.submits).authenticated);

    bench.profile.scp80.silent_on_security_error = true;
    let (_, delivery) = refused(bench.send(&header, b"script"));
    assert_eq!(delivery, Delivery::silent(StatusWord::WARNING));
}

#[test]
fn every_security_failure_has_its_status() {
    let status = |bench: &mut Bench, header: &CommandHeader| {
        let (status, delivery) = refused(bench.send(header, b"script"));
        assert_eq!(bench.open_submits(&delivery.submits).header.status, status);
        status
    };
    let mut bench = Bench::new([0x16, 0x39]);
    let good = bench.header();
    let with = |spi_1, index: u8| CommandHeader {
        security: Security { spi: Spi::new(spi_1, 0x39), kic: Kic(index << 4 | 2), kid: Kid(index << 4 | 2) },
        ..good
    };
    assert_eq!(status(&mut bench, &CommandHeader { tar: Tar([9; 3]), ..good }), ResponseStatus::TarUnknown);
    assert_eq!(status(&mut bench, &with(0x12, 1)), ResponseStatus::SecurityLevel);
    assert_eq!(status(&mut bench, &with(0x16, 2)), ResponseStatus::SecurityError);
    bench.receiver.set_counter(1, Counter::new(2).unwrap());
    assert_eq!(status(&mut bench, &with(0x1E, 1)), ResponseStatus::CounterHigh);
    assert_eq!(
        status(&mut bench, &CommandHeader { counter: Counter::ZERO, ..good }),
        ResponseStatus::CounterLow
    );
    bench.receiver.set_counter(1, Counter::MAX);
    assert_eq!(status(&mut bench, &good), ResponseStatus::CounterBlocked);
    bench.receiver.set_counter(1, Counter::ZERO);

    let mut packet = seal(&good, &keys(), b"script").unwrap();
    packet[20] ^= 1;
    let (check, _) = refused(bench.receive(&deliveries(&packet)[0]));
    assert_eq!(check, ResponseStatus::CheckFailed);
    packet.pop();
    packet[1] -= 1;
    let (ciphering, _) = refused(bench.receive(&deliveries(&packet)[0]));
    assert_eq!(ciphering, ResponseStatus::CipheringError);
    assert_eq!(bench.receiver.counter(1), Counter::ZERO, "no refusal moves the counter");
    packet.pop();
    let reception = bench.receive(&deliveries(&packet)[0]);
    assert!(matches!(reception, Reception::Unreadable(StatusWord::WRONG_LENGTH)));
}

#[test]
fn long_commands_arrive_in_any_order() {
    let mut bench = Bench::new([0x16, 0x00]);
    let header = bench.header();
    let script: Vec<u8> = (0..600).map(|at| at as u8).collect();
    let messages = bench.messages(&header, &script);
    for at in [4, 1, 1, 3] {
        assert!(matches!(bench.receive(&messages[at]), Reception::Incomplete));
    }
    assert!(matches!(bench.receive(&messages[0]), Reception::Incomplete));
    assert_eq!(command(bench.receive(&messages[2])).data, script);
}

#[test]
fn a_key_set_of_another_application_is_refused() {
    let mut bench = Bench::new([0x16, 0x39]);
    bench.keyring.push((2, keys()));
    bench.security.kic = Kic(0x22);
    bench.security.kid = Kid(0x22);
    let header = bench.header();
    assert_eq!(refused(bench.send(&header, b"script")).0, ResponseStatus::SecurityError);
    let application = bench.profile.applications.iter_mut().find(|application| application.tar == TAR);
    application.unwrap().key_sets.push(2);
    assert_eq!(command(bench.send(&header, b"script")).key_index, 2);
}

#[test]
fn implicit_key_index_means_the_first_of_the_application() {
    let mut bench = Bench::new([0x16, 0x39]);
    bench.security.kic = Kic(0x02);
    bench.security.kid = Kid(0x02);
    let header = bench.header();
    let received = command(bench.send(&header, b"script"));
    assert_eq!(received.key_index, 1);
    assert_eq!(bench.receiver.counter(1), header.counter);
    let delivery = received.reply.answer(&mut bench.receiver, &bench.keyring, &[]);
    assert!(bench.open_submits(&delivery.submits).authenticated);
}

#[test]
fn other_messages_are_left_alone() {
    let mut bench = Bench::new([0x16, 0x39]);
    let user_data = UserData::from_octets(vec![0x02, 0x71, 0x00, 0x01]).unwrap();
    let mut deliver = Deliver::data_download(sender(), Timestamp([0; 7]), user_data);
    assert!(matches!(bench.receive(&deliver), Reception::NotSecured));
    deliver.has_header = false;
    assert!(matches!(bench.receive(&deliver), Reception::NotSecured));
    deliver.has_header = true;
    deliver.user_data = UserData::from_octets(vec![0x09, 0x70]).unwrap();
    assert!(matches!(bench.receive(&deliver), Reception::Unreadable(StatusWord::WRONG_DATA)));
}
