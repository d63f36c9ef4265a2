//! A change of operator on the card: the message, the user's word, the swap, power loss at every byte.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bench;
mod phone;

use bench::Bench;
use phone::{
    CODE, IMSI_1, IMSI_2, Phone, authenticates, card, identity_1, identity_2, inkey, message, message_for,
    read, script_of, tuak,
};
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::card_file::Secret;
use simtide_protocol::ids::{ChangeId, Imsi};
use simtide_protocol::personalization::{
    Answer, Message, OperatorFile, Options, Protection, Refusal, State, Uplink, commands, identity_digest,
    read_identity,
};
use simtide_protocol::profile::Profile;
use simtide_protocol::script::{compact, expanded};
use simtide_protocol::tlv;

/// What devices write while they are in a network, and what has to be gone: path, what network 1 left, what is there
/// after the swap (filled with FF).
const VOLATILE: [(&str, &str, &str); 14] = [
    ("3F00/7FF0/6F7E", "1122334400F11000010000", "FFFFFFFFFFFFFF0000FF01"),
    ("3F00/7FF0/6F73", "112233445566770F11000010100", "FFFFFFFFFFFFFFFFFFFF0000FF01"),
    ("3F00/7FF0/6FE3", "0BF600F110000101112233440F11000010000", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFF000001"),
    ("3F00/7FF0/6F08", "02AAAA", "07"),
    ("3F00/7FF0/6F09", "02BBBB", "07"),
    ("3F00/7FF0/6FE4", "A034", ""),
    ("3F00/7FF0/6F7B", "00F120", ""),
    ("3F00/7FF0/6F5B", "000001000001", "F00000F00000"),
    ("3F00/7FF0/6FC4", "A00102", ""),
    ("3F00/7F20/6F20", "AABBCCDDEEFF001103", "FFFFFFFFFFFFFFFF07"),
    ("3F00/7F20/6F52", "AABBCCDDEEFF001103", "FFFFFFFFFFFFFFFF07"),
    ("3F00/7FF0/5FC0/4F01", "0001", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000001"),
    ("3F00/7FF0/5FC0/4F03", "A011", ""),
    ("3F00/7FF0/5FC0/4F05", "8020", ""),
];

/// The device has been in network 1: it has authenticated and has written its files.
fn used_in_network_1(phone: &mut Phone) {
    assert!(authenticates(&mut phone.bench, &identity_1(), 1_000));
    for (path, left, _) in VOLATILE {
        let left = hex::decode(left.get(..left.len() / 2 * 2).unwrap()).unwrap();
        read(&mut phone.bench, path);
        let records = phone.bench.profile.file(&path.parse().unwrap()).unwrap().structure.records();
        let command = match records {
            Some((size, _)) => {
                let mut record = left.clone();
                record.resize(size.into(), 0xFF);
                Command::new(0x00, 0xDC, 0x01, 0x04).with_data(&record).encode()
            }
            None => Command::new(0x00, 0xD6, 0x00, 0x00).with_data(&left).encode(),
        };
        assert_eq!(phone.bench.send(&command), [0x90, 0x00], "{path}");
    }
}

fn answer(change: u64, state: State) -> Answer {
    Answer { change: ChangeId(change), state, agreed: false }
}

#[test]
fn identity_2_comes_with_the_reset_after_the_proof() {
    let mut phone = Phone::new();
    used_in_network_1(&mut phone);
    let message = message(7, Options::default());
    phone.seen.clear();
    assert_eq!(phone.personalize(&message), answer(7, State::Staged));
    // The proof went first, in as many messages as it takes; then the card asked for the reset.
    let kinds: Vec<_> = phone.seen.iter().map(|(kind, qualifier, _)| (*kind, *qualifier)).collect();
    assert_eq!(kinds.first().map(|(kind, _)| *kind), Some(0x13), "{kinds:?}");
    assert_eq!(kinds.last(), Some(&(0x01, 0x04)));
    assert!(phone.reset_wanted);
    // Until then the phone that carries the proof is identity 1's.
    assert_eq!(phone.imsi(), IMSI_1);
    assert!(authenticates(&mut phone.bench, &identity_1(), 1_001));
    assert!(!authenticates(&mut phone.bench, &identity_2(), 1));

    phone.restart();
    assert_eq!(phone.imsi(), IMSI_2);
    // The array of sequence numbers is new: a low number of register 2 is fresh.
    assert!(authenticates(&mut phone.bench, &identity_2(), 1));
    assert!(!authenticates(&mut phone.bench, &identity_1(), 1_002));
    for (path, _, expected) in VOLATILE {
        let found = phone.file(path);
        let mut expected = hex::decode(expected).unwrap();
        expected.resize(found.len(), 0xFF);
        assert_eq!(hex::encode(found), hex::encode(expected), "{path}");
    }
    let status = phone.status();
    assert_eq!(status.state(ChangeId(7)), State::Active);
    assert_eq!(status.digest, identity_2().digest());
}

#[test]
fn a_proof_that_the_network_does_not_take_goes_again_before_the_reset() {
    let mut phone = Phone::new();
    phone.sending = 0x21;
    phone.deliver(&phone::script(&message(7, Options::default()), Protection::AdminCode, &CODE));
    phone.drain();
    let sent = std::mem::take(&mut phone.submits);
    assert!(!sent.is_empty() && !phone.reset_wanted);
    phone.sending = 0x00;
    phone.bench.transmit("80C200000ED70C82028281A40102A503001000");
    phone.drain();
    assert_eq!(phone.submits, sent);
    assert!(phone.reset_wanted);
    assert_eq!(phone.answer().unwrap(), answer(7, State::Staged));

    // A network that takes nothing at all does not keep the card for ever.
    let mut phone = Phone::new();
    phone.sending = 0x21;
    phone.deliver(&phone::script(&message(7, Options::default()), Protection::AdminCode, &CODE));
    phone.drain();
    let mut pauses = 0;
    while !phone.reset_wanted {
        phone.bench.transmit("80C200000ED70C82028281A40102A503001000");
        phone.drain();
        pauses += 1;
        assert!(pauses <= 9);
    }
    assert_eq!(pauses, 5);
}

/// The power goes over the proof: identity 1 is still there to say that identity 2 has come, and says it in a message of
/// its own.
#[test]
fn a_proof_that_the_power_took_is_given_again_before_the_swap() {
    let mut phone = Phone::new();
    phone.deliver(&phone::script(&message(7, Options::default()), Protection::AdminCode, &CODE));
    phone.bench.restore();
    assert_eq!(whole_identity(&mut phone.bench, 2_000), 1);
    phone.sending = 0x21;
    phone.start();
    assert!(!phone.reset_wanted, "nothing has left");
    phone.bench.restore();
    phone.sending = 0x00;
    phone.submits.clear();
    phone.start();
    match phone.uplink().0 {
        Uplink::Notice(notice) => {
            assert_eq!((notice.change, notice.state), (ChangeId(7), State::Staged));
            assert_eq!(notice.digest, identity_1().digest());
        }
        Uplink::Request(_) => panic!("nobody asked"),
    }
    assert!(phone.reset_wanted);
    phone.restart();
    assert_eq!(whole_identity(&mut phone.bench, 3_000), 2);
    assert!(phone.received().is_none());

    // A card without a number to write to starts anew and goes on.
    let mut profile = Profile::standard();
    profile.personalization.service_number = String::new();
    let mut phone = Phone::with(profile);
    phone.deliver(&phone::script(&message(7, Options::default()), Protection::AdminCode, &CODE));
    phone.bench.restore();
    phone.start();
    assert!(phone.reset_wanted && phone.submits.is_empty());
    phone.restart();
    assert_eq!(whole_identity(&mut phone.bench, 3_000), 2);
}

#[test]
fn the_files_of_operator_2_replace_those_of_operator_1() {
    let mut phone = Phone::new();
    let mut message = message(7, Options::default());
    message.files.push(OperatorFile::SuciCalculation, vec![0xA0, 0x01, 0x02]);
    message.files.push(OperatorFile::OperatorNetworkSelector, vec![0x42, 0xF0, 0x10, 0x40, 0x00]);
    message.files.push(OperatorFile::PublicIdentity, vec![0x80, 0x01, b'2']);
    message.files.push(OperatorFile::Other("3F00/7FF0/6F3E".parse().unwrap()), vec![0x22; 4]);
    phone.personalize(&message);
    phone.restart();
    let starts = |phone: &mut Phone, path: &str, expected: &str| {
        let found = hex::encode(phone.file(path));
        assert!(found.starts_with(expected), "{path}: {found}");
        assert!(found[expected.len()..].bytes().all(|digit| digit == b'f'), "{path}: {found}");
    };
    starts(&mut phone, "3F00/7FF0/6FAD", "00000002");
    starts(&mut phone, "3F00/7FF0/6F78", "0008");
    starts(&mut phone, "3F00/7F20/6F78", "0008");
    starts(&mut phone, "3F00/7FF0/6F46", "015365636f6e64");
    starts(&mut phone, "3F00/7FF0/6FD9", "42f099");
    starts(&mut phone, "3F00/7FF0/6F62", "42f099ffff");
    starts(&mut phone, "3F00/7FF0/6F61", "42f0104000");
    starts(&mut phone, "3F00/7FF0/6F3E", "22222222");
    starts(&mut phone, "3F00/7FF0/5FC0/4F07", "a00102");
    starts(&mut phone, "3F00/7FF0/5FC0/4F0A", "f0ff0000");
    starts(&mut phone, "3F00/7FF2/6F03", &hex::encode(b"\x80\x21ims.mnc099.mcc240.3gppnetwork.org"));
    let msisdn = hex::encode(phone.file("3F00/7FF0/6F40"));
    assert_eq!(&msisdn[msisdn.len() - 28..], "07916407214365f7ffffffffffff");
    let smsp = hex::encode(phone.file("3F00/7FF0/6F42"));
    assert_eq!(&smsp[smsp.len() - 56..], "fdffffffffffffffffffffffff07916407000000f0ffffffffffffff");
    let impi = phone.file("3F00/7FF2/6F02");
    assert!(impi[2..].starts_with(b"240991234567893@ims.mnc099.mcc240"));
    let impu = phone.file("3F00/7FF2/6F04");
    assert!(impu[2..].starts_with(b"sip:240991234567893@ims"));
    assert_eq!(phone.bench.transmit("00B2020400")[..3], [0x80, 0x01, b'2']);

    // What a later operator does not bring is cleared.
    let mut bare = self::message(8, Options::default());
    bare.files = Default::default();
    phone.personalize(&bare);
    phone.restart();
    starts(&mut phone, "3F00/7FF0/6FAD", "00000002");
    starts(&mut phone, "3F00/7FF0/6F78", "0008");
    starts(&mut phone, "3F00/7FF0/5FC0/4F0A", "f0ff0000");
    for path in [
        "3F00/7FF0/6F46",
        "3F00/7FF0/6F40",
        "3F00/7FF0/6F42",
        "3F00/7FF0/6F61",
        "3F00/7FF0/6F3E",
        "3F00/7FF2/6F02",
        "3F00/7FF2/6F04",
    ] {
        starts(&mut phone, path, "");
    }
}

/// Exactly one whole identity: EF.IMSI, both directories, and the keys behind AUTHENTICATE belong together.
fn whole_identity(bench: &mut Bench, seq: u64) -> u8 {
    let imsi = Imsi::from_file(&read(bench, "3F00/7FF0/6F07")).unwrap().to_string();
    assert_eq!(read(bench, "3F00/7FF0/6F07"), read(bench, "3F00/7F20/6F07"));
    let (one, two) = (authenticates(bench, &identity_1(), seq), authenticates(bench, &identity_2(), seq));
    let spn = read(bench, "3F00/7FF0/6F46");
    match (imsi.as_str(), one, two) {
        (IMSI_1, true, false) if spn.starts_with(b"\x01Simtide") => 1,
        (IMSI_2, false, true) if spn.starts_with(b"\x01Second") => 2,
        mixed => panic!("a mix: {mixed:?}"),
    }
}

/// The whole change, its journal cut at every byte; every card that comes of it has one whole identity and becomes
/// identity 2 in the end, by itself or by the second copy of the message. With `guarded` it may also go back.
fn cut_everywhere(options: Options, after: impl Fn(&mut Phone)) -> [usize; 3] {
    let mut phone = Phone::new();
    let first = phone.bench.journal.len();
    let message = message(7, options);
    phone.personalize(&message);
    phone.restart();
    after(&mut phone);
    let (journal, profile) = (phone.bench.journal.clone(), phone.bench.profile.clone());
    let mut found = [0; 3];
    for cut in first..=journal.len() {
        let card = simtide_card::Card::restore(profile.clone(), &journal[..cut]).unwrap();
        // A shell cuts off what is not whole before it appends.
        let journal = journal[..simtide_card::whole_journal(&journal[..cut])].to_vec();
        let mut bench = Bench { profile: profile.clone(), card, journal };
        bench.reset();
        let identity = whole_identity(&mut bench, 2_000);
        found[usize::from(identity)] += 1;
        // And once more: a swap that was carried out is not carried out again.
        bench.restore();
        assert_eq!(whole_identity(&mut bench, 3_000), identity, "cut at {cut}");
    }
    found[0] = journal.len() + 1 - first;
    found
}

#[test]
fn power_may_fail_at_every_byte() {
    let [cuts, one, two] = cut_everywhere(Options::default(), |_| {});
    println!("{cuts} cuts: {one} cards with identity 1, {two} with identity 2, none with a mix");
    assert!(one > 0 && two > 0 && one + two == cuts);
}

#[test]
fn power_may_fail_at_every_byte_of_a_guarded_swap_that_goes_back() {
    let guarded = Options { guard_s: Some(600), ..Options::default() };
    let [cuts, one, two] = cut_everywhere(guarded, |phone| {
        // Timer 2 has expired.
        phone.bench.transmit("80C200000ED70C82028281A40102A503000100");
        phone.drain();
        assert!(phone.reset_wanted);
        phone.restart();
        assert_eq!(whole_identity(&mut phone.bench, 1_500), 1);
    });
    println!("{cuts} cuts: {one} cards with identity 1, {two} with identity 2, none with a mix");
    assert!(one > 0 && two > 0 && one + two == cuts);
}

#[test]
fn the_second_copy_changes_nothing_and_is_answered_the_same() {
    let mut phone = Phone::new();
    let message = message(7, Options::default());
    phone.in_a_call = true;
    assert_eq!(phone.personalize(&message), answer(7, State::Staged));
    assert_eq!(phone.personalize(&message), answer(7, State::Staged));
    assert_eq!(phone.imsi(), IMSI_1);
    phone.in_a_call = false;
    // The card asks again after a pause.
    phone.bench.transmit("80C200000ED70C82028281A40102A503001000");
    phone.drain();
    assert!(phone.reset_wanted);
    phone.restart();
    assert!(authenticates(&mut phone.bench, &identity_2(), 5));
    let digest = phone.status().digest;
    assert_eq!(phone.personalize(&message), answer(7, State::Active));
    assert!(!phone.reset_wanted);
    phone.restart();
    assert_eq!(phone.status().digest, digest);
    // The array of sequence numbers did not start anew.
    phone.bench.transmit("00A4040C07A0000000871002");
    assert!(authenticates(&mut phone.bench, &identity_2(), 6));
    // A refusal is remembered too, and not counted again.
    let wrong =
        phone.personalize_by(&self::message(8, Options::default()), Protection::AdminCode, b"WRONG!!!");
    assert_eq!(wrong, answer(8, State::Refused(Refusal::WrongCode)));
    let left = phone.status().attempts_left;
    let again =
        phone.personalize_by(&self::message(8, Options::default()), Protection::AdminCode, b"WRONG!!!");
    assert_eq!((again, phone.status().attempts_left), (wrong, left));
}

#[test]
fn wrong_codes_are_counted_across_power_loss_and_lock() {
    for protection in [Protection::AdminCode, Protection::DerivedKeys] {
        let mut profile = Profile::standard();
        profile.personalization.protection = protection;
        let mut phone = Phone::with(profile);
        for attempt in 1..=4 {
            let refused =
                phone.personalize_by(&message(attempt, Options::default()), protection, b"ADMCODE2");
            assert_eq!(refused.state, State::Refused(Refusal::WrongCode));
            phone.bench.restore();
            phone.start();
            assert_eq!(phone.status().attempts_left, 5 - attempt as u8);
        }
        // A right code gives all attempts back.
        let right = phone.personalize_by(&message(10, Options::default()), protection, &CODE);
        assert_eq!(right.state, State::Staged);
        phone.restart();
        for attempt in 11..=15 {
            phone.personalize_by(&message(attempt, Options::default()), protection, b"ADMCODE2");
        }
        let locked = phone.personalize_by(&message(20, Options::default()), protection, &CODE);
        assert_eq!(locked, answer(20, State::Refused(Refusal::Locked)));
        assert_eq!((phone.status().attempts_left, phone.imsi().as_str()), (0, IMSI_2));
        // Nobody reads under the code either.
        phone.deliver(&read_identity(&CODE));
        phone.drain();
        let proof = phone.proof().unwrap();
        assert_eq!(compact::Response::decode(&proof.data).unwrap().status, StatusWord::BLOCKED);
    }
}

#[test]
fn a_card_is_not_talked_into_the_other_protection() {
    let mut profile = Profile::standard();
    profile.personalization.protection = Protection::DerivedKeys;
    let mut phone = Phone::with(profile);
    let refused = phone.personalize_by(&message(7, Options::default()), Protection::AdminCode, &CODE);
    assert_eq!(refused, answer(7, State::Refused(Refusal::Unsupported)));
    let staged = phone.personalize_by(&message(8, Options::default()), Protection::DerivedKeys, &CODE);
    assert_eq!(staged, answer(8, State::Staged));
    phone.restart();
    assert_eq!(phone.imsi(), IMSI_2);
}

#[test]
fn the_user_decides_and_the_proof_waits_for_it() {
    let ask = Options { ask_user: true, ..Options::default() };
    let mut phone = Phone::new();
    phone.replies = vec![inkey(true)];
    phone.seen.clear();
    let yes = phone.personalize(&message(1, ask));
    assert_eq!(yes, Answer { agreed: true, ..answer(1, State::Staged) });
    assert_eq!(phone.seen[0].2, "Change to operator Second operator?");
    let kinds: Vec<_> = phone.seen.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [0x22, 0x13, 0x01], "question, proof, reset");

    for (result, refusal) in [
        ((0x22, 0x00, vec![0x8D, 0x02, 0x04, 0x00]), Refusal::UserSaidNo),
        ((0x22, 0x10, vec![]), Refusal::UserSaidNo),
        ((0x22, 0x12, vec![]), Refusal::NoAnswer),
        ((0x22, 0x30, vec![]), Refusal::NoDisplay),
    ] {
        let mut phone = Phone::new();
        phone.replies = vec![result];
        assert_eq!(phone.personalize(&message(1, ask)), answer(1, State::Refused(refusal)));
        assert!(!phone.reset_wanted);
        phone.restart();
        assert_eq!(phone.imsi(), IMSI_1);
    }
    // A display that is busy is asked again.
    let mut phone = Phone::new();
    phone.replies = vec![(0x22, 0x20, vec![]), inkey(true)];
    assert_eq!(phone.personalize(&message(1, ask)).state, State::Staged);
}

#[test]
fn without_display_the_agreement_comes_with_the_message() {
    let no_display = hex::decode("3301e842110c0007a800001f8260000001").unwrap();
    let ask = Options { ask_user: true, ..Options::default() };
    let mut phone = Phone::of(Profile::standard(), no_display.clone());
    assert_eq!(phone.personalize(&message(1, ask)), answer(1, State::Refused(Refusal::NoDisplay)));
    let agreed = Options { agreed: true, ..ask };
    assert_eq!(phone.personalize(&message(2, agreed)), answer(2, State::Staged));
}

#[test]
fn a_device_switched_off_over_the_question_has_been_asked_nothing() {
    let ask = Options { ask_user: true, ..Options::default() };
    let mut phone = Phone::new();
    phone.deliver(&phone::script(&message(1, ask), Protection::AdminCode, &CODE));
    // The question is on the display; a fence sees it.
    phone.bench.restore();
    phone.start();
    let status = phone.status();
    assert_eq!((status.state(ChangeId(1)), status.digest), (State::Unknown, identity_1().digest()));
    // The platform sends it again.
    phone.replies = vec![inkey(true)];
    assert_eq!(phone.personalize(&message(1, ask)).state, State::Staged);
}

#[test]
fn while_the_user_is_asked_others_are_answered() {
    let ask = Options { ask_user: true, ..Options::default() };
    let mut phone = Phone::new();
    phone.deliver(&phone::script(&message(1, ask), Protection::AdminCode, &CODE));
    phone.deliver(&phone::script(&message(2, ask), Protection::AdminCode, &CODE));
    phone.deliver(&simtide_protocol::personalization::read_status());
    phone.replies = vec![inkey(false)];
    phone.drain();
    let proofs: Vec<_> = std::iter::from_fn(|| phone.proof()).collect();
    // `proof` takes all that is there: the first one is the second message's.
    assert_eq!(proofs.len(), 1);
    let busy = Answer::parse(&compact::Response::decode(&proofs[0].data).unwrap().data).unwrap();
    assert_eq!(busy, answer(2, State::Refused(Refusal::Busy)));
    assert_eq!(phone.status().state(ChangeId(1)), State::Refused(Refusal::UserSaidNo));
    assert_eq!(phone.status().state(ChangeId(2)), State::Unknown);
}

#[test]
fn one_change_at_a_time() {
    let mut phone = Phone::new();
    phone.in_a_call = true;
    phone.personalize(&message(1, Options::default()));
    let other = message_for(2, Options::default(), tuak());
    assert_eq!(phone.personalize(&other), answer(2, State::Refused(Refusal::Busy)));
    phone.in_a_call = false;
    phone.restart();
    assert_eq!(phone.imsi(), IMSI_2);
    assert_eq!(phone.personalize(&other), answer(2, State::Staged), "busy is not remembered");
    phone.restart();
    assert!(authenticates(&mut phone.bench, &tuak(), 1), "TUAK");
    assert_eq!(phone.status().digest, tuak().digest());
}

#[test]
fn a_third_change_brings_the_first_identity_back() {
    let mut phone = Phone::new();
    for (change, identity) in [(1, identity_2()), (2, tuak()), (3, identity_1())] {
        let digest = identity.digest();
        let imsi = identity.imsi;
        phone.personalize(&message_for(change, Options::default(), identity));
        phone.restart();
        assert_eq!((phone.status().digest, phone.imsi()), (digest, imsi.to_string()));
    }
    let status = phone.status();
    assert_eq!(status.changes.len(), 3);
    assert_eq!(
        status.digest,
        identity_digest(&identity_1().imsi, &bench::bytes::<16>(bench::K), &bench::bytes::<16>(bench::OPC))
    );
}

#[test]
fn what_does_not_fit_is_refused_before_anything_changes() {
    let mut phone = Phone::new();
    let with = |change, file, content| {
        let mut message = message(change, Options::default());
        message.files.push(file, content);
        message
    };
    let other = |path: &str| OperatorFile::Other(path.parse().unwrap());
    for (message, refusal) in [
        (with(1, OperatorFile::ServiceProviderName, vec![0; 18]), Refusal::Malformed),
        (with(2, other("3F00/7FF0/6FFF"), vec![0]), Refusal::Unsupported),
        (with(3, other("3F00/7FF0/6F07"), vec![0; 9]), Refusal::Malformed),
        (with(4, other("3F00/7F20/6F07"), vec![0; 9]), Refusal::Malformed),
    ] {
        assert_eq!(phone.personalize(&message).state, State::Refused(refusal));
    }
    assert_eq!(phone.status().attempts_left, 5, "the code was right");
    phone.restart();
    assert_eq!(whole_identity(&mut phone.bench, 10), 1);
}

#[test]
fn parts_that_are_missing_twice_or_out_of_order() {
    let mut phone = Phone::new();
    let sealed = message(1, Options::default())
        .seal(Protection::AdminCode, &card(), &Secret::new(&CODE).unwrap())
        .unwrap();
    let blocks = commands(&sealed);
    assert!(blocks.len() > 1);
    // The last block alone, and a block after a gap.
    for script in [&blocks[1..], &[blocks[0].clone(), blocks[0].clone()][..]] {
        let mut script: Vec<u8> = script.concat();
        script.pop();
        phone.deliver(&script);
        phone.drain();
        phone.proof().unwrap();
        assert_eq!(phone.status().state(ChangeId(1)), State::Unknown);
    }
    let twice = [&blocks[0][..], &blocks[0], &blocks[1]].concat();
    phone.deliver(&twice);
    phone.drain();
    assert_eq!(phone.answer().unwrap().state, State::Staged);
    // Damage inside is seen where the code does not protect the body: the parser refuses or the values fit.
    let mut phone = Phone::new();
    phone.deliver(&script_of(&sealed[..sealed.len() - 1]));
    phone.drain();
    let answer = compact::Response::decode(&phone.proof().unwrap().data).unwrap();
    assert_eq!(answer.status, StatusWord::WRONG_DATA);
}

#[test]
fn the_expanded_format_of_a_poll_works_too() {
    let mut phone = Phone::new();
    let sealed = message(1, Options::default())
        .seal(Protection::AdminCode, &card(), &Secret::new(&CODE).unwrap())
        .unwrap();
    let mut script = expanded::ScriptWriter::new(expanded::LengthForm::Definite);
    for command in commands(&sealed) {
        script.command_bytes(&command);
    }
    phone.deliver(&script.finish().unwrap());
    phone.drain();
    let response = expanded::Response::decode(&phone.proof().unwrap().data).unwrap();
    assert_eq!(Answer::parse(&response.responses.last().unwrap().data).unwrap(), answer(1, State::Staged));
    phone.restart();
    assert_eq!(phone.imsi(), IMSI_2);
}

#[test]
fn the_identity_is_read_under_the_code_only() {
    let mut phone = Phone::new();
    phone.deliver(&read_identity(&CODE));
    phone.drain();
    let answer = compact::Response::decode(&phone.proof().unwrap().data).unwrap();
    assert_eq!(tlv::find(&answer.data, 0x80), Some(card().as_bytes()));
    assert_eq!(tlv::find(&answer.data, 0x81), Some(&identity_1().imsi.to_file()[..]));
    assert_eq!(tlv::find(&answer.data, 0x8E), Some(&identity_1().digest()[..]));
    phone.deliver(&read_identity(b"ADMCODE2"));
    phone.drain();
    let answer = compact::Response::decode(&phone.proof().unwrap().data).unwrap();
    assert_eq!((answer.status, answer.data.len()), (StatusWord(0x63C4), 0));
}

/// Nobody else writes EF.IMSI: an IMSI without its key would be a mix.
#[test]
fn file_management_does_not_write_the_imsi() {
    let mut phone = Phone::new();
    let adm1 = Command::new(0x00, 0x20, 0x00, 0x0A).with_data(&CODE).encode();
    assert_eq!(phone.bench.send(&adm1), [0x90, 0x00]);
    for path in ["3F00/7FF0/6F07", "3F00/7F20/6F07"] {
        read(&mut phone.bench, path);
        let update = Command::new(0x00, 0xD6, 0x00, 0x00).with_data(&[0x08; 9]).encode();
        assert_eq!(phone.bench.send(&update), [0x69, 0x82]);
    }
}

/// K, OPc and admin code of a message that was refused are found nowhere on the card.
#[test]
fn what_is_refused_leaves_nothing_behind() {
    let mut phone = Phone::new();
    let message: Message = message(1, Options { ask_user: true, ..Options::default() });
    phone.replies = vec![inkey(false)];
    phone.personalize(&message);
    for secret in [[0xA5; 16], [0x5A; 16]] {
        assert!(!phone.bench.journal.windows(16).any(|window| window == secret));
    }
    // Where it is carried out, K of identity 1 is gone from the card's state.
    let mut phone = Phone::new();
    phone.personalize(&self::message(2, Options::default()));
    phone.restart();
    let k: [u8; 16] = bench::bytes(bench::K);
    assert!(!phone.bench.card.snapshot().windows(16).any(|window| window == k));
}
