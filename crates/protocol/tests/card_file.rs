//! Card vendor files: both formats there and back, and every way in which they arrive broken.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use proptest::prelude::*;
use simtide_protocol::card_file::*;
use simtide_protocol::ids::{Eid, EpochMs, Iccid};

fn secret(byte: u8, length: usize) -> Secret {
    let bytes: Vec<u8> = (0..length).map(|place| byte.wrapping_mul(31).wrapping_add(place as u8)).collect();
    Secret::new(&bytes).unwrap()
}

fn transport_key(index: u32) -> TransportKey {
    let part = secret(0x11, 16);
    let check = key_check_value(&part);
    TransportKey::combine(index, &[part], &check).unwrap()
}

fn card(number: u8) -> CardRow {
    let mut row = CardRow::new(Iccid::with_check_digit(&format!("898821100000000{number:03}")).unwrap());
    row.imsi = Some(format!("0010100000000{number:02}").parse().unwrap());
    row.msisdn = Some(format!("4366400000{number:02}").parse().unwrap());
    row.profile = Some("standard".parse().unwrap());
    row.ki = Some(secret(number, 16));
    row.opc = Some(secret(number + 50, 16));
    row.key_sets = vec![KeySetRow {
        index: 1,
        kic: secret(number + 100, 16),
        kic_algorithm: KeyAlgorithm::Aes,
        kid: secret(number + 110, 24),
        kid_algorithm: KeyAlgorithm::TripleDes,
        kik: Some(secret(number + 120, 32)),
        counter: 7,
    }];
    row.psk_identity = format!("card-{number}").into_bytes();
    row.psk = Some(secret(number + 130, 16));
    row.admin_code = Some(secret(number + 140, 8));
    row.pin1 = Secret::new(b"1234");
    row.puk1 = Secret::new(b"12345678");
    row.device_kind = Some("meter".into());
    row.tags = vec!["north".into(), "pilot".into()];
    row.next_poll = Some(EpochMs::from_seconds(1_700_000_000));
    row
}

fn file(format: Format, cards: &[CardRow], encrypted: bool) -> String {
    let writer = Writer::new(
        format,
        WriterSettings {
            customer: "Example".into(),
            kind: "PLUG-IN".into(),
            batch: "7".into(),
            quantity: cards.len() as u64,
            first: cards.first().and_then(|card| Some((card.imsi?, card.iccid))),
            columns: Writer::all_columns(1),
            transport_key: encrypted.then(|| transport_key(3)),
            ..WriterSettings::default()
        },
    );
    let rows: String = cards.iter().map(|card| writer.row(card).unwrap().to_string()).collect();
    writer.header() + &rows
}

fn plain_allowed() -> Settings {
    Settings { plain_text_allowed: true, ..Settings::default() }
}

fn with_key() -> Settings {
    Settings { transport_keys: vec![transport_key(3)], ..Settings::default() }
}

type Read = (Vec<CardRow>, Vec<(u64, RowError)>);

fn read(bytes: &[u8], settings: Settings, chunk: usize) -> Result<Read, FileError> {
    let mut reader = Reader::new(settings);
    let (mut rows, mut refused) = (Vec::new(), Vec::new());
    for part in bytes.chunks(chunk) {
        reader.feed(part);
        while let Some(item) = reader.next_item()? {
            match item {
                Item::Row { row, .. } => rows.push(*row),
                Item::Refused { line, error } => refused.push((line, error)),
            }
        }
    }
    let summary = reader.finish()?;
    assert_eq!((summary.rows, summary.refused), (rows.len() as u64, refused.len() as u64));
    Ok((rows, refused))
}

#[test]
fn both_formats_come_back_plain_and_encrypted() {
    let mut cards: Vec<CardRow> = (1..=5).map(card).collect();
    cards[1].eid = Some(Eid::with_check_digits("890490321234512345123456789012").unwrap());
    cards[1].form = Form::Euicc;
    cards[2].psk_identity = vec![0x80, 0x0A, 0x00, 0xFF];
    cards[3].last_update = Some(EpochMs(1_600_000_000_500));
    for format in [Format::Out, Format::Csv] {
        let plain = file(format, &cards, false);
        let sealed = file(format, &cards, true);
        assert!(!sealed.contains(&hex::encode_upper(cards[0].ki.as_ref().unwrap().as_bytes())));
        for chunk in [1, 7, 64, 1 << 20] {
            assert_eq!(read(plain.as_bytes(), plain_allowed(), chunk).unwrap(), (cards.clone(), vec![]));
            assert_eq!(read(sealed.as_bytes(), with_key(), chunk).unwrap(), (cards.clone(), vec![]));
        }
    }
    assert_eq!(cards[1].card_id().to_string(), "89049032123451234512345678901235");
}

#[test]
fn byte_order_mark_and_crlf_change_nothing() {
    for format in [Format::Out, Format::Csv] {
        let cards = vec![card(1), card(2)];
        let text = format!("\u{feff}{}", file(format, &cards, false).replace('\n', "\r\n"));
        assert_eq!(read(text.as_bytes(), plain_allowed(), 5).unwrap(), (cards, vec![]));
    }
}

#[test]
fn vendor_spelling_is_understood() {
    let text = "*****\n* HEADER\n*****\nCustomer : Example Mobile\nQuantity: 1\nTransport_Key: 0\nSpecial: kept out\n\
        ****\nVar_In_List:\nIMSI:   001010000000001\nSer_nb: 8988211000000000011F\n**\n\
        Var_Out: Ser Nb / imsi/ PIN1/PUK1 /ACC/ADM1/Ki\n\
        8988211000000000011F   001010000000001\t1234 12345678 0001 87654321 000102030405060708090a0b0c0d0e0f\n";
    let mut reader = Reader::new(plain_allowed());
    reader.feed(text.as_bytes());
    let Some(Item::Row { line: 14, row }) = reader.next_item().unwrap() else { panic!("no row") };
    assert_eq!(row.admin_code, Secret::new(b"87654321"));
    assert_eq!(row.ki, Secret::new(&(0..16).collect::<Vec<u8>>()));
    assert_eq!(reader.header().customer.as_deref(), Some("Example Mobile"));
    assert_eq!(reader.header().columns_ignored, ["ACC"]);
    assert_eq!(reader.finish(), Ok(Summary { rows: 1, refused: 0 }));
}

#[test]
fn plain_text_is_refused_unless_asked_for() {
    for format in [Format::Out, Format::Csv] {
        let text = file(format, &[card(1)], false);
        assert_eq!(read(text.as_bytes(), Settings::default(), 100), Err(FileError::PlainText));
    }
    let harmless = "iccid,imsi\n8988211000000000011,001010000000001\n";
    assert_eq!(read(harmless.as_bytes(), Settings::default(), 100).unwrap().0.len(), 1);
}

#[test]
fn wrong_and_missing_transport_keys_are_found_by_their_check_value() {
    let text = file(Format::Out, &[card(1)], true);
    assert_eq!(read(text.as_bytes(), Settings::default(), 100), Err(FileError::TransportKeyMissing(3)));
    let other = secret(0x12, 16);
    let check = key_check_value(&other);
    let wrong = TransportKey::combine(3, &[other], &check).unwrap();
    let settings = Settings { transport_keys: vec![wrong], ..Settings::default() };
    assert!(matches!(
        read(text.as_bytes(), settings, 100),
        Err(FileError::TransportKeyWrong { index: 3, .. })
    ));
}

#[test]
fn single_columns_have_their_own_key() {
    let mut only_psk = CardRow::new(card(1).iccid);
    only_psk.psk = card(1).psk;
    let writer = Writer::new(
        Format::Csv,
        WriterSettings {
            columns: vec![Column::Iccid, Column::Psk],
            transport_key: Some(transport_key(9)),
            ..WriterSettings::default()
        },
    );
    let line = writer.row(&only_psk).unwrap();
    let text = format!("iccid,psk\n{}", *line);
    let settings = Settings { column_keys: vec![(Column::Psk, transport_key(9))], ..Settings::default() };
    assert_eq!(read(text.as_bytes(), settings, 10).unwrap().0, [only_psk]);
}

#[test]
fn truncated_anywhere_is_never_a_complete_file() {
    for format in [Format::Out, Format::Csv] {
        let text = file(format, &[card(1), card(2)], true);
        for length in 0..text.len() {
            assert!(read(&text.as_bytes()[..length], with_key(), 4096).is_err(), "{format:?} {length}");
        }
    }
    let without_quantity = "iccid,imsi\n8988211000000000011,001010000000001";
    assert_eq!(read(without_quantity.as_bytes(), Settings::default(), 9), Err(FileError::Truncated));
}

#[test]
fn count_unlike_the_header() {
    for format in [Format::Out, Format::Csv] {
        let text = file(format, &[card(1), card(2)], true).replace("Quantity: 2", "Quantity: 3");
        assert_eq!(read(text.as_bytes(), with_key(), 99), Err(FileError::Quantity { found: 2, expected: 3 }));
    }
}

#[test]
fn another_first_card_than_announced() {
    let text = file(Format::Out, &[card(1), card(2)], true);
    let first_row = text.lines().position(|line| line.starts_with("8988")).unwrap();
    let lines: Vec<&str> =
        text.lines().enumerate().filter(|(n, _)| *n != first_row).map(|(_, l)| l).collect();
    assert_eq!(read((lines.join("\n") + "\n").as_bytes(), with_key(), 99), Err(FileError::FirstCard));
}

/// One line each; the rest of the file is imported.
#[test]
fn bad_rows_are_refused_one_by_one_with_a_reason() {
    let head = "iccid,imsi,msisdn,kic1,kid1,admin_code,tags\n";
    let good = "8988211000000000011,001010000000001,,,,,\n";
    for (row, wanted) in [
        ("8988211000000000010,,,,,,", "mistyped"),
        (",001010000000001,,,,,", "iccid is empty"),
        ("8988211000000000011,00101000000000123,,,,,", "imsi"),
        ("8988211000000000011,,=cmd|x,,,,", "msisdn contains a formula"),
        ("8988211000000000011,,@SUM(A1),,,,", "formula"),
        ("8988211000000000011,,-1+2,,,,", "formula"),
        ("8988211000000000011,,,000102030405060708090a0b0c0d0e0f,,,", "kid1 is empty"),
        ("8988211000000000011,,,00010203,000102030405060708090a0b0c0d0e0f,,", "kic1: give 16, 24 or 32"),
        ("8988211000000000011,,,0001020304050607080g0a0b0c0d0e0f,,,", "kic1: give 16"),
        (
            "8988211000000000011,,,000102030405060708090a0b0c0d0e0f,000102030405060708090a0b0c0d0e0f,,",
            "kid1 equals another key",
        ),
        ("8988211000000000011,,,,,123,", "admin_code"),
        ("8988211000000000011,,,,,,a*b", "tags"),
        ("8988211000000000011,,,,,,a|-b", "tags: give words"),
        ("8988211000000000011,,,,,", "6 cells where 7"),
        ("\"8988211000000000011,,,,,,", "quoted"),
    ] {
        let text = format!("{head}{row}\n{good}");
        let (rows, refused) = read(text.as_bytes(), plain_allowed(), 50).unwrap();
        assert_eq!((rows.len(), refused.len()), (1, 1), "{row}");
        assert_eq!(refused[0].0, 2);
        let message = refused[0].1.to_string();
        assert!(message.contains(wanted), "{row}: {message}");
    }
}

#[test]
fn no_message_contains_a_key() {
    let key = "00112233445566778899aabbccddee"; // one byte short
    let text = format!("iccid,ki,psk\n8988211000000000011,{key},{key}\n");
    let (_, refused) = read(text.as_bytes(), plain_allowed(), 50).unwrap();
    assert!(!format!("{:?} {}", refused, refused[0].1).contains("00112233"));
    assert!(!format!("{:?}", card(1)).to_lowercase().contains(&hex::encode(card(1).ki.unwrap().as_bytes())));
}

#[test]
fn header_mistakes_are_told() {
    for (text, wanted) in [
        ("", FileError::NoColumns),
        ("imsi,ki\n", FileError::NoIccid),
        ("iccid,ICCID\n", FileError::ColumnTwice("iccid".into())),
        ("Customer: X\n", FileError::NoColumns),
    ] {
        assert_eq!(read(text.as_bytes(), plain_allowed(), 50), Err(wanted), "{text}");
    }
    for text in
        ["Customer: X\nno colon\n", "# Quantity: many\niccid\n", "\u{1}\u{fffd}\n", "# KCV: 12\niccid\n"]
    {
        assert!(read(text.as_bytes(), plain_allowed(), 50).is_err(), "{text}");
    }
}

#[test]
fn semicolons_tabs_and_quotes_separate_too() {
    for separator in [",", ";", "\t"] {
        let text = "iccid|tags|psk_identity\n8988211000000000011|\"a|b\"|\"x \"\"y\"\"\"\n";
        let text = text.replace('|', separator).replace(&format!("a{separator}b"), "a b");
        let (rows, refused) = read(text.as_bytes(), plain_allowed(), 8).unwrap();
        assert_eq!(refused, []);
        assert_eq!(
            (rows[0].tags.join("+"), rows[0].psk_identity.as_slice()),
            ("a+b".into(), &b"x \"y\""[..])
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), chunk in 1_usize..50) {
        let _ = read(&bytes, with_key(), chunk);
    }

    #[test]
    fn one_changed_byte_never_panics(place in 0_usize..900, byte in any::<u8>(), csv in any::<bool>()) {
        let format = if csv { Format::Csv } else { Format::Out };
        let mut bytes = file(format, &[card(1), card(2)], true).into_bytes();
        let place = place % bytes.len();
        bytes[place] = byte;
        let _ = read(&bytes, with_key(), 100);
    }
}
