//! A phone with one card and its user, and the platform at the other end of the air.
#![allow(dead_code)]

use crate::bench::{Bench, K, KIC, KID, OPC, bytes};
use simtide_protocol::aka::{AkaFunctions, Functions, Sqn, Vector};
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Imsi, Tar};
use simtide_protocol::milenage::Milenage;
use simtide_protocol::personalization::{
    Answer, Identity, Message, OperatorFiles, Options, Protection, Status, Uplink, commands, read_status,
};
use simtide_protocol::profile::{FilePath, Profile};
use simtide_protocol::scp80::{
    CommandHeader, Counter, Key, KeySet, Kic, Kid, Response, Security, Spi, open_response, seal,
};
use simtide_protocol::script::compact;
use simtide_protocol::sms::{
    Address, Arrival, Deliver, Limits, PacketKind, Reassembly, Reference, SmsPpDownload, Submit, Timestamp,
    UserData, segment,
};
use simtide_protocol::tlv;

pub const PERSONALIZATION: Tar = Tar([0xBF, 0xFF, 0x20]);
pub const UPLINK: Tar = Tar([0xBF, 0xFF, 0x21]);
pub const CODE: [u8; 8] = *b"ADMCODE1";
pub const IMSI_1: &str = "001010000000001";
pub const IMSI_2: &str = "240991234567893";

/// What the user does when asked, in turn: the kind of command, the result, and objects of the answer.
pub type Reply = (u8, u8, Vec<u8>);

pub struct Phone {
    pub bench: Bench,
    pub counter: u64,
    references: u8,
    /// Objects and results for the next questions.
    pub replies: Vec<Reply>,
    /// Result of SEND SHORT MESSAGE.
    pub sending: u8,
    /// What the card asked for, in order: kind, qualifier, text.
    pub seen: Vec<(u8, u8, String)>,
    pub submits: Vec<Submit>,
    /// The terminal profile.
    pub terminal: Vec<u8>,
    /// The phone cannot reset at the moment.
    pub in_a_call: bool,
    /// The card has asked for a reset.
    pub reset_wanted: bool,
}

impl Phone {
    pub fn new() -> Self {
        Self::with(Profile::standard())
    }

    pub fn with(profile: Profile) -> Self {
        Self::of(profile, vec![0xFF; 20])
    }

    pub fn of(profile: Profile, terminal: Vec<u8>) -> Self {
        let mut phone = Self {
            bench: Bench::with(profile),
            counter: 0,
            references: 0,
            replies: Vec::new(),
            sending: 0,
            seen: Vec::new(),
            submits: Vec::new(),
            terminal,
            in_a_call: false,
            reset_wanted: false,
        };
        phone.start();
        phone
    }

    pub fn start(&mut self) {
        let command = Command::new(0x80, 0x10, 0, 0).with_data(&self.terminal).encode();
        self.bench.send(&command);
        self.drain();
    }

    /// Resets the card, as after REFRESH, and starts it.
    pub fn restart(&mut self) {
        self.reset_wanted = false;
        self.bench.reset();
        self.start();
    }

    /// Fetches and answers until nothing waits.
    pub fn drain(&mut self) {
        for _ in 0..60 {
            let answer = self.bench.transmit("80F2000C00");
            let status = StatusWord(u16::from_be_bytes(answer.try_into().unwrap()));
            let Some(length) = status.proactive_length() else { return };
            if !self.exchange(length) {
                return;
            }
        }
        panic!("the card does not stop asking");
    }

    /// One proactive command; `false` where the phone resets instead of answering.
    fn exchange(&mut self, length: usize) -> bool {
        let fetched = self.bench.send(&[0x80, 0x12, 0x00, 0x00, length as u8]);
        let body = tlv::find(&fetched[..fetched.len() - 2], 0xD0).unwrap();
        let &[number, kind, qualifier] = tlv::find_comprehension(body, 0x01).unwrap() else { panic!() };
        let text = tlv::find_comprehension(body, 0x0D).or_else(|| tlv::find_comprehension(body, 0x05));
        let text = text.map(|text| String::from_utf8_lossy(text.get(1..).unwrap_or_default()).into_owned());
        self.seen.push((kind, qualifier, text.unwrap_or_default()));
        let mut answer = vec![0x81, 0x03, number, kind, qualifier, 0x82, 0x02, 0x82, 0x81];
        match kind {
            0x01 if qualifier == 0x04 && self.in_a_call => answer.extend([0x83, 0x02, 0x20, 0x02]),
            0x01 if qualifier == 0x04 => {
                self.reset_wanted = true;
                return false;
            }
            0x13 => {
                self.submits.push(Submit::from_bytes(tlv::find_comprehension(body, 0x0B).unwrap()).unwrap());
                answer.extend([0x83, 0x01, self.sending]);
            }
            0x26 => {
                answer.extend([0x83, 0x01, 0x00, 0xA6, 0x07, 0x62, 0x11, 0x12, 0x00, 0x00, 0x00, 0x00]);
            }
            0x22..=0x24 => {
                let (expected, result, objects) = self.replies.remove(0);
                assert_eq!(kind, expected, "{:?}", self.seen);
                answer.extend([0x83, 0x01, result]);
                answer.extend(objects);
            }
            _ => answer.extend([0x83, 0x01, 0x00]),
        }
        let command = Command::new(0x80, 0x14, 0, 0).with_data(&answer).encode();
        assert!(matches!(self.bench.send(&command).as_slice(), [0x90 | 0x91, _]));
        true
    }

    pub fn keys() -> KeySet {
        KeySet::new(Some(Key::new(&KIC).unwrap()), Some(Key::new(&KID).unwrap()))
    }

    fn security() -> Security {
        Security { spi: Spi::new(0x16, 0x39), kic: Kic(0x12), kid: Kid(0x12) }
    }

    /// Hands a sealed command over; the proofs are among `submits` afterwards.
    pub fn deliver(&mut self, data: &[u8]) {
        for envelope in self.envelopes(data) {
            let answer = self.bench.send(&envelope);
            assert!(matches!(answer.as_slice(), [0x90 | 0x91, _]), "{}", hex::encode(answer));
        }
    }

    pub fn envelopes(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        self.counter += 1;
        let counter = Counter::new(self.counter).unwrap();
        let header = CommandHeader { security: Self::security(), tar: PERSONALIZATION, counter };
        self.packet(&seal(&header, &Self::keys(), data).unwrap())
    }

    pub fn packet(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.references += 1;
        let parts = segment(packet, PacketKind::Command, Reference::after(self.references)).unwrap();
        let envelope = |part| {
            let user_data = UserData::from_octets(part).unwrap();
            let sender = Address::number("1234").unwrap();
            let deliver = Deliver::data_download(sender.clone(), Timestamp([0x22; 7]), user_data);
            let download = SmsPpDownload { service_centre: Some(sender), tpdu: deliver.to_bytes() };
            Command::new(0x80, 0xC2, 0, 0).with_data(&download.to_bytes()).encode()
        };
        parts.into_iter().map(envelope).collect()
    }

    /// The whole message in what the card has sent since the last call.
    pub fn received(&mut self) -> Option<Vec<u8>> {
        let mut reassembly = Reassembly::new(Limits::PLATFORM);
        self.submits.drain(..).find_map(|submit| {
            assert_eq!(submit.destination, Address::number("1234").unwrap());
            match reassembly.accept(EpochMs::EPOCH, (), &submit.user_data.octets).unwrap() {
                Arrival::Whole(message) => Some(message.data),
                _ => None,
            }
        })
    }

    pub fn proof(&mut self) -> Option<Response> {
        let packet = self.received()?;
        Some(open_response(&packet, &Self::security(), &Self::keys()).unwrap())
    }

    pub fn uplink(&mut self) -> (Uplink, Counter) {
        let packet = self.received().expect("the card has sent something");
        Uplink::open(&packet, UPLINK, &Self::keys()).unwrap()
    }

    /// Sends a message and reads what the proof says.
    pub fn personalize(&mut self, message: &Message) -> Answer {
        self.personalize_by(message, Protection::AdminCode, &CODE)
    }

    pub fn personalize_by(&mut self, message: &Message, protection: Protection, code: &[u8; 8]) -> Answer {
        self.deliver(&script(message, protection, code));
        self.drain();
        self.answer().expect("a proof")
    }

    pub fn answer(&mut self) -> Option<Answer> {
        let proof = self.proof()?;
        assert!(proof.authenticated);
        let answer = compact::Response::decode(&proof.data).unwrap();
        assert_eq!(answer.status, StatusWord::OK);
        Some(Answer::parse(&answer.data).unwrap())
    }

    pub fn status(&mut self) -> Status {
        self.deliver(&read_status());
        self.drain();
        let proof = self.proof().unwrap();
        Status::parse(&compact::Response::decode(&proof.data).unwrap().data).unwrap()
    }

    pub fn imsi(&mut self) -> String {
        Imsi::from_file(&self.file("3F00/7FF0/6F07")).unwrap().to_string()
    }

    /// The content of a file, as the platform's file management reads it: whole, or its first record.
    pub fn file(&mut self, path: &str) -> Vec<u8> {
        read(&mut self.bench, path)
    }

    pub fn menu(&mut self) {
        self.bench.transmit("80C2000009D30782020181900101");
        self.drain();
    }
}

/// Yes or no to GET INKEY.
pub fn inkey(yes: bool) -> Reply {
    (0x22, 0x00, vec![0x8D, 0x02, 0x04, u8::from(yes)])
}

pub fn script(message: &Message, protection: Protection, code: &[u8; 8]) -> Vec<u8> {
    let sealed = message.seal(protection, &card(), &Secret::new(code).unwrap()).unwrap();
    script_of(&sealed)
}

pub fn script_of(sealed: &[u8]) -> Vec<u8> {
    let commands = commands(sealed);
    let (last, first) = commands.split_last().unwrap();
    let mut script = compact::Script::new();
    for command in first {
        script.push(&Command::parse(command).unwrap());
    }
    script.finish_with(&Command::parse(last).unwrap()).unwrap()
}

pub fn card() -> CardId {
    "8988211000000000011".parse().unwrap()
}

pub fn identity_1() -> Identity {
    Identity::milenage(IMSI_1.parse().unwrap(), &bytes(K), &bytes(OPC)).unwrap()
}

pub fn identity_2() -> Identity {
    Identity::milenage(IMSI_2.parse().unwrap(), &[0xA5; 16], &[0x5A; 16]).unwrap()
}

pub fn tuak() -> Identity {
    let secret = |byte| Secret::new(&[byte; 32]).unwrap();
    let algorithm = AuthenticationAlgorithm::Tuak;
    Identity::new("240990000000001".parse().unwrap(), algorithm, secret(7), secret(8)).unwrap()
}

/// A change to identity 2 with the files of its operator.
pub fn message(change: u64, options: Options) -> Message {
    message_for(change, options, identity_2())
}

pub fn message_for(change: u64, options: Options, identity: Identity) -> Message {
    let msisdn = "46701234567".parse().unwrap();
    let files = OperatorFiles::of_subscription(&identity.imsi, 2, Some(&msisdn))
        .with_service_provider_name("Second")
        .with_service_centre(&"46700000000".parse().unwrap())
        .with_home_network("240", "99");
    Message {
        change: ChangeId(change),
        options,
        operator_name: "Second operator".into(),
        service_number: None,
        identity,
        files,
    }
}

pub fn read(bench: &mut Bench, path: &str) -> Vec<u8> {
    let path: FilePath = path.parse().unwrap();
    let definition = bench.profile.file(&path).unwrap().clone();
    let select = Command::new(0x00, 0xA4, 0x08, 0x0C);
    let answer = bench.send(&select.with_data(&path.to_select_data()).encode());
    assert_eq!(answer, [0x90, 0x00], "{path}");
    let command = match definition.structure.records() {
        Some(_) => Command::new(0x00, 0xB2, 0x01, 0x04),
        None => Command::new(0x00, 0xB0, 0x00, 0x00),
    };
    let mut content = bench.send(&command.with_le(256).encode());
    content.truncate(content.len() - 2);
    content
}

/// AUTHENTICATE with a vector of this subscriber and number: whether the card answers with its RES.
pub fn authenticates(bench: &mut Bench, identity: &Identity, seq: u64) -> bool {
    let functions = identity.functions().unwrap();
    let sqn = Sqn::from_parts(seq, 3);
    let vector = vector(&functions, sqn);
    bench.transmit("00A4040C07A0000000871002");
    let data = [&[16][..], &vector.rand, &[16], &vector.autn].concat();
    let answer = bench.send(&Command::new(0x00, 0x88, 0x00, 0x81).with_data(&data).with_le(256).encode());
    match answer.as_slice() {
        [0xDB, 8, rest @ ..] => rest.starts_with(&vector.xres),
        [0x98, 0x62] => false,
        other => panic!("{}", hex::encode(other)),
    }
}

fn vector(functions: &Functions, sqn: Sqn) -> Vector {
    match functions {
        Functions::Milenage(milenage) => vector_of::<Milenage>(milenage, sqn),
        Functions::Tuak(tuak) => vector_of(tuak, sqn),
    }
}

fn vector_of<F: AkaFunctions>(functions: &F, sqn: Sqn) -> Vector {
    Vector::new(functions, [0x42; 16], sqn, [0x80, 0x00])
}
