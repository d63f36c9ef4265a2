//! Secured packets through the ENVELOPE: what they change on the card, and what comes back.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Bench, KIC, KID, KIK};
use sha2::{Digest, Sha256};
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::ids::{Aid, EpochMs, Tar};
use simtide_protocol::poll_date::{MarkFile, MarkPhase};
use simtide_protocol::profile::{Profile, RetryTimerCoding};
use simtide_protocol::scp80::{
    CommandHeader, Counter, Key, KeySet, Kic, Kid, Response, Security, Spi, open_response, seal,
};
use simtide_protocol::script::expanded::{LengthForm, ScriptWriter};
use simtide_protocol::script::{compact, expanded};
use simtide_protocol::sms::{
    Address, Arrival, Deliver, Limits, PacketKind, Reassembly, Reference, SmsPpDownload, Submit, Timestamp,
    UserData, segment,
};
use simtide_protocol::trigger::{Http, SessionParameters};
use simtide_protocol::{patch, ram, rfm, tlv, trigger};

const RAM: Tar = Tar([0, 0, 0]);
const RFM: Tar = Tar([0xB0, 0, 0]);
const RFM_USIM: Tar = Tar([0xB0, 0, 0x10]);
const PATCH: Tar = Tar([0xBF, 0xFF, 0x10]);

/// A platform with one card and its device.
struct Platform {
    bench: Bench,
    counter: u64,
    kic: [u8; 16],
    references: u8,
}

impl Platform {
    fn new() -> Self {
        Self::with(Profile::standard())
    }

    fn with(profile: Profile) -> Self {
        let mut platform = Self { bench: Bench::with(profile), counter: 0, kic: KIC, references: 0 };
        platform.start();
        platform
    }

    /// TERMINAL PROFILE, and an answer to whatever the card asks at first.
    fn start(&mut self) {
        self.bench.transmit("8010000014FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF");
        self.drain();
    }

    /// Fetches and answers all proactive commands; the messages that the card sent.
    fn drain(&mut self) -> Vec<Submit> {
        let mut submits = Vec::new();
        for _ in 0..40 {
            let status =
                StatusWord(u16::from_be_bytes(self.bench.transmit("80F2000C00").try_into().unwrap()));
            let Some(length) = status.proactive_length() else { return submits };
            let fetched = self.bench.send(&[0x80, 0x12, 0x00, 0x00, length as u8]);
            let body = tlv::find(&fetched[..fetched.len() - 2], 0xD0).unwrap();
            let details = tlv::find_comprehension(body, 0x01).unwrap();
            if let Some(tpdu) = tlv::find_comprehension(body, 0x0B) {
                submits.push(Submit::from_bytes(tpdu).unwrap());
            }
            let mut answer = vec![0x81, 0x03];
            answer.extend(details);
            answer.extend([0x82, 0x02, 0x82, 0x81, 0x83, 0x01, 0x00]);
            if details[1] == 0x26 {
                // 2026-11-21 00:00:00 UTC.
                answer.extend([0xA6, 0x07, 0x62, 0x11, 0x12, 0x00, 0x00, 0x00, 0x00]);
            }
            let command = Command::new(0x80, 0x14, 0, 0).with_data(&answer).encode();
            assert!(matches!(self.bench.send(&command).as_slice(), [0x90 | 0x91, _]));
        }
        panic!("the card does not stop asking");
    }

    fn keys(&self) -> KeySet {
        KeySet::new(Some(Key::new(&self.kic).unwrap()), Some(Key::new(&KID).unwrap()))
    }

    fn security() -> Security {
        Security { spi: Spi::new(0x16, 0x39), kic: Kic(0x12), kid: Kid(0x12) }
    }

    /// Envelopes of a sealed command.
    fn envelopes(&mut self, tar: Tar, data: &[u8]) -> Vec<Vec<u8>> {
        self.counter += 1;
        let counter = Counter::new(self.counter).unwrap();
        let header = CommandHeader { security: Self::security(), tar, counter };
        let packet = seal(&header, &self.keys(), data).unwrap();
        self.references += 1;
        let parts = segment(&packet, PacketKind::Command, Reference::after(self.references)).unwrap();
        parts
            .into_iter()
            .map(|part| {
                let user_data = UserData::from_octets(part).unwrap();
                let sender = Address::number("1234").unwrap();
                let deliver = Deliver::data_download(sender.clone(), Timestamp([0x22; 7]), user_data);
                let download = SmsPpDownload { service_centre: Some(sender), tpdu: deliver.to_bytes() };
                Command::new(0x80, 0xC2, 0, 0).with_data(&download.to_bytes()).encode()
            })
            .collect()
    }

    /// Sends a command and opens its proof of receipt.
    fn send(&mut self, tar: Tar, data: &[u8]) -> Response {
        let keys = self.keys();
        for envelope in self.envelopes(tar, data) {
            let answer = self.bench.send(&envelope);
            assert!(matches!(answer.as_slice(), [0x90 | 0x91, _]), "{}", hex::encode(answer));
        }
        let mut reassembly = Reassembly::new(Limits::PLATFORM);
        for submit in self.drain() {
            let arrival = reassembly.accept(EpochMs::EPOCH, (), &submit.user_data.octets).unwrap();
            if let Arrival::Whole(message) = arrival {
                return open_response(&message.data, &Self::security(), &keys).unwrap();
            }
        }
        panic!("no proof of receipt");
    }

    /// A compact script, which has to end well.
    fn compact(&mut self, tar: Tar, commands: &[Vec<u8>]) -> compact::Response {
        let response = self.send(tar, &without_le(commands));
        assert!(response.authenticated);
        compact::Response::decode(&response.data).unwrap()
    }

    fn expanded(&mut self, tar: Tar, commands: &[Vec<u8>]) -> expanded::Response {
        let mut script = ScriptWriter::new(LengthForm::Definite);
        commands.iter().for_each(|command| script.command_bytes(command));
        let response = self.send(tar, &script.finish().unwrap());
        expanded::Response::decode(&response.data).unwrap()
    }

    fn read(&mut self, path: &str) -> Vec<u8> {
        let profile = Profile::standard();
        let path = profile.file(&path.parse().unwrap()).unwrap().path.clone();
        self.bench.send(&rfm::select(&path, None));
        let mut content = self.bench.transmit("00B0000000");
        content.truncate(content.len() - 2);
        content
    }
}

fn without_le(commands: &[Vec<u8>]) -> Vec<u8> {
    let mut script = compact::Script::new();
    commands.iter().for_each(|bytes| script.push(&Command::parse(bytes).unwrap()));
    script.finish().unwrap()
}

fn aid(text: &str) -> Aid {
    text.parse().unwrap()
}

#[test]
fn files_are_written_and_read_by_compact_scripts() {
    let mut platform = Platform::new();
    let path = "3F00/7F90/6F04".parse().unwrap();
    let mut script = vec![rfm::select(&path, None)];
    script.extend(rfm::update_binary(0, b"tide").unwrap());
    let answer = platform.compact(RFM, &script);
    assert_eq!((answer.executed, answer.status), (2, StatusWord::OK));
    assert_eq!(platform.read("3F00/7F90/6F04")[..5], *b"tide\xFF");

    let answer = platform.compact(RFM, &[rfm::select(&path, None), rfm::read_binary(0, 4).unwrap()]);
    assert_eq!((answer.executed, answer.data.as_slice()), (2, &b"tide"[..]));

    // An error ends the script.
    let missing = "3F00/7F90/6FFF".parse().unwrap();
    let answer = platform.compact(RFM, &[rfm::select(&missing, None), rfm::select(&path, None)]);
    assert_eq!((answer.executed, answer.status), (1, StatusWord::NOT_FOUND));
}

#[test]
fn the_usim_is_the_root_of_its_own_file_management() {
    let mut platform = Platform::new();
    let root = "3F00/7FF0".parse().unwrap();
    let path = "3F00/7FF0/6F46".parse().unwrap();
    let mut script = vec![rfm::select(&path, Some(&root))];
    script.extend(rfm::update_binary(1, b"Tides").unwrap());
    let answer = platform.expanded(RFM_USIM, &script);
    assert_eq!(answer.responses.len(), 2);
    assert!(answer.failed().is_none());
    assert_eq!(platform.read("3F00/7FF0/6F46")[1..6], *b"Tides");
    // A file that is never to be updated.
    let path = "3F00/2FE2".parse().unwrap();
    let mut script = vec![rfm::select(&path, Some(&root))];
    script.extend(rfm::update_binary(0, &[0]).unwrap());
    assert_eq!(platform.expanded(RFM_USIM, &script).failed(), Some((1, StatusWord::SECURITY_STATUS)));
}

#[test]
fn a_command_acts_once() {
    let mut platform = Platform::new();
    let path = "3F00/7F90/6F03".parse().unwrap();
    let script = without_le(&[rfm::select(&path, None), rfm::increase([0, 0, 1])]);
    let envelopes = platform.envelopes(RFM, &script);
    for _ in 0..3 {
        for envelope in &envelopes {
            platform.bench.send(envelope);
        }
        platform.drain();
        platform.bench.restore();
        platform.start();
    }
    platform.bench.send(&rfm::select(&path, None));
    assert_eq!(platform.bench.transmit("00B2010404"), [0, 0, 0, 1, 0x90, 0]);
}

#[test]
fn an_applet_is_loaded_listed_replaced_and_deleted() {
    let mut platform = Platform::new();
    let (package, module, instance) = (aid("A00000000102"), aid("A0000000010203"), aid("A0000000010204"));
    let mut load_file = hex::decode("010013decaffed0102040003010700000000000000000000").unwrap();
    load_file.extend(vec![0x5A; 600]);
    let install = ram::install(&ram::Installation {
        load_file: &package,
        module: &module,
        instance: &instance,
        privileges: &[0],
        parameters: &[],
    })
    .unwrap();
    let mut script = vec![ram::install_for_load(&package, None, &[]).unwrap()];
    script.extend(ram::load(&load_file).unwrap());
    script.push(install.clone());
    script.push(ram::store_mark(&MarkFile { campaign: 7, step: 1, phase: MarkPhase::Done }));
    // In several packets, as the blocks of a load file come over SMS.
    for part in script.chunks(2) {
        let answer = platform.expanded(RAM, part);
        assert!(answer.failed().is_none(), "{answer:?}");
    }
    platform.bench.restore();
    platform.start();

    let answer = platform.expanded(RAM, &[ram::get_status(ram::StatusScope::LoadFilesAndModules, false)]);
    let data = &answer.responses[0].data;
    let entry = tlv::find(data, 0xE3).unwrap();
    assert_eq!(tlv::find(entry, 0x4F), Some(package.as_bytes()));
    assert_eq!(tlv::find(entry, 0xCE), Some(&[3, 0][..]));
    assert_eq!(tlv::find(entry, 0xDF54), Some(&Sha256::digest(&load_file)[..]));
    assert_eq!(tlv::find(entry, 0x84), Some(module.as_bytes()));
    assert_eq!(platform.read("3F00/7F90/6F02"), hex::decode("0000000701020000").unwrap());
    let mut select = vec![0x00, 0xA4, 0x04, 0x0C, 7];
    select.extend(instance.as_bytes());
    assert_eq!(platform.bench.send(&select), [0x90, 0x00]);

    // The same AIDs again are refused, as long as they exist.
    let again = platform.expanded(RAM, std::slice::from_ref(&install));
    assert_eq!(again.failed(), Some((0, StatusWord::CONDITIONS)));
    let kept = platform.expanded(RAM, &[ram::delete(&package, false)]);
    assert_eq!(kept.failed(), Some((0, StatusWord::CONDITIONS)));
    let gone = platform.expanded(RAM, &[ram::delete(&package, true), ram::get_data(0xDF53)]);
    assert_eq!(gone.responses[1].data, [0xDF, 0x53, 2, 0, 1]);
    let none = platform.expanded(RAM, &[ram::get_status(ram::StatusScope::Applications, false)]);
    assert_eq!(none.failed(), Some((0, StatusWord::REFERENCE_NOT_FOUND)));
    assert_eq!(platform.bench.send(&select), [0x6A, 0x82]);
}

#[test]
fn the_operating_system_is_replaced_whole_or_not_at_all() {
    let mut platform = Platform::new();
    let image = vec![0xA5; 700];
    let digest = Sha256::digest(&image).into();
    let script = patch::commands(0x0200, &image, &digest).unwrap();
    let version = |platform: &mut Platform| {
        let answer = platform.expanded(PATCH, &[vec![0x80, 0xCA, 0xDF, 0x52, 0x00]]);
        answer.responses[0].data[3..].to_vec()
    };
    assert_eq!(version(&mut platform), [0, 0, 1, 0, 0, 0]);

    // A block is missing, the digest is wrong, power fails in between.
    let mut missing = script.clone();
    missing.remove(2);
    assert!(platform.expanded(PATCH, &missing).failed().is_some());
    let wrong = patch::commands(0x0200, &image, &[0; 32]).unwrap();
    assert_eq!(platform.expanded(PATCH, &wrong).failed(), Some((wrong.len() - 1, StatusWord::WRONG_DATA)));
    let early = [script[0].clone(), script[1].clone(), script[4].clone()];
    assert_eq!(platform.expanded(PATCH, &early).failed(), Some((2, StatusWord::CONDITIONS)));
    assert!(platform.expanded(PATCH, &script[..3]).failed().is_none());
    platform.bench.restore();
    platform.start();
    assert_eq!(platform.expanded(PATCH, &script[3..]).failed(), Some((0, StatusWord::CONDITIONS)));
    assert_eq!(version(&mut platform), [0, 0, 1, 0, 0, 0]);

    assert!(platform.expanded(PATCH, &script).failed().is_none());
    assert_eq!(version(&mut platform), [0, 0, 2, 0, 0, 1]);
    platform.bench.restore();
    platform.start();
    assert_eq!(version(&mut platform), [0, 0, 2, 0, 0, 1]);
}

#[test]
fn a_mark_stands_around_a_patch_in_the_same_script() {
    let mut platform = Platform::new();
    let image = [0x5A; 300];
    let mark = |phase| ram::store_mark(&MarkFile { campaign: 7, step: 2, phase });
    let mut script = vec![mark(MarkPhase::Begun)];
    script.extend(patch::commands(2, &image, &Sha256::digest(image).into()).unwrap());
    script.push(mark(MarkPhase::Done));
    let response = platform.expanded(PATCH, &script);
    assert_eq!((response.responses.len(), response.failed()), (script.len(), None));
    let read = platform.read("3F00/7F90/6F02");
    assert_eq!(MarkFile::decode(&read).unwrap(), MarkFile { campaign: 7, step: 2, phase: MarkPhase::Done });
}

#[test]
fn session_parameters_are_stored_in_blocks_and_read() {
    let mut platform = Platform::new();
    let coding = RetryTimerCoding::SemiOctets;
    let http = Http { host: "h".repeat(150), agent: "a".repeat(150), uri: "/poll".into() };
    let parameters = SessionParameters { http: Some(http), ..SessionParameters::default() };
    let mut script = trigger::stored_parameters_commands(&parameters, coding).unwrap();
    assert_eq!(script.len(), 2);
    let last = script[1].clone();
    assert_eq!(platform.expanded(RAM, &[last]).failed(), Some((0, StatusWord::WRONG_P1_P2)));
    // What was stored goes beyond one answer of GET DATA with a short Le: only its beginning is compared here.
    script.push(trigger::read_stored_parameters());
    let response = platform.expanded(RAM, &script);
    assert_eq!(response.failed(), None);
    assert_eq!(response.responses[2].data[..3], [0x85, 0x82, 0x01]);
}

#[test]
fn keys_are_replaced_under_the_key_encryption_key() {
    let mut platform = Platform::new();
    let new = [0x77; 16];
    // AES-CBC with a zero IV of one block is AES of the block.
    let encrypted = aes_block(&KIK, &new);
    let check = aes_block(&new, &[1; 16]);
    let block = |check_value| ram::KeyBlock { key_type: 0x88, encrypted: &encrypted, check_value };
    let wrong = ram::put_key(1, 1, 1, &[block([0; 3])]).unwrap();
    assert_eq!(platform.expanded(RAM, &[wrong]).failed(), Some((0, StatusWord::WRONG_DATA)));
    let right = ram::put_key(1, 1, 1, &[block([check[0], check[1], check[2]])]).unwrap();
    let answer = platform.expanded(RAM, &[right]);
    assert_eq!(answer.responses[0].data, [1, check[0], check[1], check[2]]);
    // From now on the new key counts, and the counter starts anew.
    platform.kic = new;
    platform.counter = 0;
    assert!(platform.expanded(RAM, &[ram::get_data(0xE0)]).failed().is_none());
}

fn aes_block(key: &[u8; 16], block: &[u8; 16]) -> [u8; 16] {
    use cipher::{Array, BlockCipherEncrypt, KeyInit};
    let mut block = Array::from(*block);
    aes::Aes128::new(&Array::from(*key)).encrypt_block(&mut block);
    block.into()
}

#[test]
fn a_card_may_tell_its_device_which_files_have_changed() {
    let mut profile = Profile::standard();
    profile.scp80.refresh_after_update = true;
    let mut platform = Platform::with(profile);
    let path = "3F00/7F90/6F04".parse().unwrap();
    let mut script = vec![rfm::select(&path, None)];
    script.extend(rfm::update_binary(0, b"tide").unwrap());
    for envelope in platform.envelopes(RFM, &without_le(&script)) {
        platform.bench.send(&envelope);
    }
    // The proof of receipt leaves first.
    let proof = platform.bench.transmit("8012000000");
    assert_eq!(tlv::find_comprehension(tlv::find(&proof, 0xD0).unwrap(), 0x01).unwrap()[1], 0x13);
    platform.bench.transmit("801400000C810305130082028281830100");
    let refresh = platform.bench.transmit("8012000000");
    // REFRESH, file change notification, one file.
    assert_eq!(hex::encode(&refresh[..refresh.len() - 2]), "d0128103060101820281829207013f007f906f04");
}

#[test]
fn response_data_waits_on_cards_that_keep_it() {
    let mut profile = Profile::standard();
    profile.keeps_response_data = true;
    let mut bench = Bench::with(profile);
    let answer = bench.transmit("00A40000022FE2");
    assert_eq!(answer, [0x61, 0x19]);
    assert_eq!(bench.transmit("00C0000010").split_off(16), [0x61, 0x09]);
    assert_eq!(bench.transmit("00C0000009").split_off(9), [0x90, 0x00]);
    assert_eq!(bench.transmit("00C0000001"), [0x69, 0x85]);
    assert_eq!(bench.transmit("00B000000A").len(), 12);
}

#[test]
fn a_busy_toolkit_says_so() {
    let mut platform = Platform::new();
    let mut answers = Vec::new();
    for _ in 0..40 {
        for envelope in platform.envelopes(RFM, &without_le(&[rfm::select(&"3F00".parse().unwrap(), None)])) {
            answers.push(platform.bench.send(&envelope));
        }
    }
    assert_eq!(answers.last().unwrap(), &[0x93, 0x00]);
}

/// The journal of a card under way, cut at every byte, gives a card from before or after a command.
#[test]
fn power_may_fail_at_any_byte() {
    let mut platform = Platform::new();
    let path = "3F00/7F90/6F04".parse().unwrap();
    let mut states = vec![(platform.bench.journal.len(), platform.bench.card.snapshot())];
    for step in 0..4_u8 {
        let mut script = vec![rfm::select(&path, None)];
        script.extend(rfm::update_binary(0, &[step; 16]).unwrap());
        script.push(rfm::select(&"3F00/7F90/6F03".parse().unwrap(), None));
        script.push(rfm::increase([0, 0, 1]));
        for envelope in platform.envelopes(RFM, &without_le(&script)) {
            platform.bench.send(&envelope);
            states.push((platform.bench.journal.len(), platform.bench.card.snapshot()));
        }
        platform.drain();
        states.push((platform.bench.journal.len(), platform.bench.card.snapshot()));
    }
    let profile = platform.bench.profile.clone();
    for cut in states[0].0..=platform.bench.journal.len() {
        let journal = &platform.bench.journal[..cut];
        let restored = simtide_card::Card::restore(profile.clone(), journal).unwrap().snapshot();
        let before = states.iter().rev().find(|(length, _)| *length <= cut).unwrap();
        assert!(
            states.iter().any(|(_, state)| *state == restored),
            "cut at {cut} gives a state that never was"
        );
        // No further than the last whole command, no less than the one before it.
        assert!(simtide_card::whole_journal(journal) >= before.0);
    }
}

/// ETSI TS 102 226, 5.2.1.4: a later script goes on where the one before has selected.
#[test]
fn chained_scripts_share_their_selection() {
    let mut platform = Platform::new();
    let path = "3F00/7F90/6F04".parse().unwrap();
    let script = |chaining: u8, command: &[u8]| {
        let mut script = ScriptWriter::new(LengthForm::Definite);
        script.item(expanded::Item::Chaining(&[chaining]));
        script.command_bytes(command);
        script.finish().unwrap()
    };
    let mut send = |script: Vec<u8>| expanded::Response::decode(&platform.send(RFM, &script).data).unwrap();
    let read = rfm::read_binary(0, 4).unwrap();
    let update = rfm::update_binary(0, b"tide").unwrap().remove(0);
    assert_eq!(send(script(0x02, &read)).chaining, Some(vec![0x01]), "no script was before");
    assert!(send(script(0x01, &rfm::select(&path, None))).failed().is_none());
    assert!(send(script(0x02, &update)).failed().is_none());
    assert_eq!(send(script(0x03, &read)).responses[0].data, b"tide");
    assert_eq!(send(script(0x03, &read)).chaining, Some(vec![0x01]), "the chain has ended");
    assert_eq!(send(script(0x11, &read)).chaining, Some(vec![0x02]), "a reset ends every chain");
}

/// Clause 5.2.1.2: a script may ask for REFRESH; the proof leaves before it.
#[test]
fn a_script_may_ask_for_refresh() {
    for (qualifier, done) in [(0x00, true), (0x04, true), (0x03, false)] {
        let mut platform = Platform::new();
        let mut script = ScriptWriter::new(LengthForm::Definite);
        script.item(expanded::Item::ImmediateAction(&[0x81, 0x03, 0x01, 0x01, qualifier]));
        script.command_bytes(&rfm::select(&"3F00".parse().unwrap(), None));
        for envelope in platform.envelopes(RFM, &script.finish().unwrap()) {
            platform.bench.send(&envelope);
        }
        let mut kinds = Vec::new();
        while let [0x91, length] = platform.bench.transmit("80F2000C00")[..] {
            let fetched = platform.bench.send(&[0x80, 0x12, 0x00, 0x00, length]);
            let body = tlv::find(&fetched[..fetched.len() - 2], 0xD0).unwrap();
            let details = tlv::find_comprehension(body, 0x01).unwrap().to_vec();
            kinds.push((details[1], details[2]));
            let answer = [&[0x81, 0x03][..], &details, &[0x82, 0x02, 0x82, 0x81, 0x83, 0x01, 0x00]].concat();
            platform.bench.send(&Command::new(0x80, 0x14, 0, 0).with_data(&answer).encode());
            if kinds.len() > 8 {
                break;
            }
        }
        let refresh = kinds.iter().position(|kind| *kind == (0x01, qualifier));
        let proof = kinds.iter().position(|(kind, _)| *kind == 0x13);
        assert_eq!(refresh.is_some(), done, "{kinds:?}");
        assert!(refresh.is_none() || proof < refresh, "{kinds:?}");
    }
}
