//! What a card answers to a command packet: every status, and which answers it signs.

#![allow(clippy::unwrap_used)]

use simtide_protocol::ids::Tar;
use simtide_protocol::scp80::{
    CommandHeader, Counter, Holdings, Key, KeySet, Kic, Kid, OpenError, PaddingOctets, ResponseHeader,
    ResponseStatus, Security, Spi, StoredKeySet, open_response, receive, seal, seal_response,
};

const TAR: Tar = Tar([0xB0, 0x00, 0x10]);
const OPEN_TAR: Tar = Tar([0xB2, 0x00, 0x00]);

struct Card {
    keys: KeySet,
    counter: Counter,
}

impl Holdings for Card {
    fn minimum_level(&self, tar: Tar) -> Option<Spi> {
        match tar {
            TAR => Some(Spi::new(0x06, 0)),
            OPEN_TAR => Some(Spi::new(0, 0)),
            _ => None,
        }
    }

    fn key_set(&self, index: u8) -> Option<StoredKeySet<'_>> {
        (index == 2).then_some(StoredKeySet { keys: &self.keys, counter: self.counter })
    }
}

fn keys() -> KeySet {
    KeySet::new(Some(Key::new(&[0x11; 16]).unwrap()), Some(Key::new(&[0x22; 16]).unwrap()))
}

fn card(counter: u64) -> Card {
    Card { keys: keys(), counter: Counter::new(counter).unwrap() }
}

fn header(spi_1: u8, kic: u8, kid: u8, tar: Tar, counter: u64) -> CommandHeader {
    CommandHeader {
        security: Security { spi: Spi::new(spi_1, 0x39), kic: Kic(kic), kid: Kid(kid) },
        tar,
        counter: Counter::new(counter).unwrap(),
    }
}

/// Status and whether the answer is signed, for a packet sealed with the card's own keys.
fn refusal(header: CommandHeader, card: &Card) -> (ResponseStatus, bool) {
    let packet = seal(&header, &keys(), b"script").unwrap();
    let refused = receive(&packet, card).unwrap().unwrap_err();
    (refused.status, refused.answer_with.is_some())
}

#[test]
fn a_good_command_is_accepted_and_names_the_counter_to_store() {
    let command = header(0x16, 0x22, 0x22, TAR, 8);
    let packet = seal(&command, &keys(), b"script").unwrap();
    let accepted = receive(&packet, &card(7)).unwrap().unwrap();
    assert_eq!(accepted.header, command);
    assert_eq!(accepted.data, b"script");
    assert_eq!((accepted.key_index, accepted.counter), (2, Counter::new(8)));
    let unchecked = seal(&header(0x0E, 0x22, 0x22, TAR, 3), &keys(), b"script").unwrap();
    assert_eq!(receive(&unchecked, &card(7)).unwrap().unwrap().counter, None);
}

#[test]
fn every_refusal_has_its_status_and_strangers_get_no_signature() {
    use ResponseStatus::*;
    let at_7 = card(7);
    assert_eq!(refusal(header(0x16, 0x22, 0x22, TAR, 7), &at_7), (CounterLow, true));
    assert_eq!(refusal(header(0x1E, 0x22, 0x22, TAR, 9), &at_7), (CounterHigh, true));
    assert_eq!(refusal(header(0x1E, 0x22, 0x22, TAR, 7), &at_7), (CounterLow, true));
    assert!(receive(&seal(&header(0x1E, 0x22, 0x22, TAR, 8), &keys(), b"").unwrap(), &at_7).unwrap().is_ok());
    assert_eq!(
        refusal(header(0x16, 0x22, 0x22, TAR, 9), &card(Counter::MAX.value())),
        (CounterBlocked, true)
    );
    assert_eq!(refusal(header(0x16, 0x22, 0x22, Tar([1, 2, 3]), 8), &at_7), (TarUnknown, false));
    assert_eq!(refusal(header(0x12, 0x22, 0x22, TAR, 8), &at_7), (SecurityLevel, false));
    assert_eq!(refusal(header(0x16, 0x32, 0x32, TAR, 8), &at_7), (SecurityError, false));
    assert_eq!(refusal(header(0x16, 0x22, 0x32, TAR, 8), &at_7), (SecurityError, false));
    assert_eq!(refusal(header(0x11, 0x20, 0x25, OPEN_TAR, 7), &at_7), (CounterLow, false));

    let mut damaged = seal(&header(0x16, 0x22, 0x22, TAR, 8), &keys(), b"script").unwrap();
    damaged[20] ^= 1;
    let refused = receive(&damaged, &at_7).unwrap().unwrap_err();
    assert_eq!((refused.status, refused.answer_with), (CheckFailed, None));
    damaged.pop();
    damaged[1] -= 1;
    assert_eq!(receive(&damaged, &at_7).unwrap().unwrap_err().status, CipheringError);
    damaged.pop();
    assert!(matches!(receive(&damaged, &at_7), Err(OpenError::PacketLength { .. })), "no answer is possible");
}

fn response(status: ResponseStatus) -> ResponseHeader {
    ResponseHeader { tar: TAR, counter: Counter::new(8).unwrap(), status }
}

fn security(spi_2: u8) -> Security {
    Security { spi: Spi::new(0x16, spi_2), kic: Kic(0x22), kid: Kid(0x22) }
}

#[test]
fn padding_with_80_reads_like_padding_with_00() {
    for padding in [PaddingOctets::Zeros, PaddingOctets::EightyThenZeros] {
        for size in 0..40 {
            let data = vec![0x5A; size];
            let sealed =
                seal_response(&response(ResponseStatus::PorOk), &security(0x39), &keys(), &data, padding)
                    .unwrap();
            let opened = open_response(&sealed, &security(0x39), &keys()).unwrap();
            assert!(opened.authenticated && opened.data == data);
        }
    }
}

#[test]
fn a_plain_answer_to_a_request_for_a_protected_one_is_reported_but_proves_nothing() {
    let plain = seal_response(
        &response(ResponseStatus::CounterLow),
        &security(0x01),
        &KeySet::new(None, None),
        &[],
        PaddingOctets::Zeros,
    )
    .unwrap();
    for asked in [0x39, 0x29, 0x31] {
        let opened = open_response(&plain, &security(asked), &keys()).unwrap();
        assert_eq!(opened.header.status, ResponseStatus::CounterLow);
        assert!(!opened.authenticated);
    }
}

#[test]
fn a_signed_answer_that_was_not_ciphered_although_asked_is_authenticated() {
    let signed = seal_response(
        &response(ResponseStatus::PorOk),
        &security(0x29),
        &keys(),
        &[1, 0x90, 0],
        PaddingOctets::Zeros,
    )
    .unwrap();
    let opened = open_response(&signed, &security(0x39), &keys()).unwrap();
    assert!(opened.authenticated && opened.data == [1, 0x90, 0]);
}

#[test]
fn malformed_answers_are_clear_errors() {
    let open = |packet: &str| open_response(&hex::decode(packet).unwrap(), &security(0x01), &keys());
    assert!(matches!(open("000F0AB0001000000000010000016E00"), Err(OpenError::PacketLength { .. })));
    assert!(matches!(open("000E09B0001000000000010000016E00"), Err(OpenError::HeaderLength { .. })));
    assert!(matches!(open("000E0BB0001000000000010000016E00"), Err(OpenError::HeaderLength { .. })));
    assert!(matches!(
        open("000E0AB0001000000000010400016E00"),
        Err(OpenError::Padding { padding: 4, data: 3 })
    ));
    assert!(matches!(open("000E0AB000100000000001000D016E00"), Err(OpenError::Status(0x0D))));
    assert!(matches!(open("000E0AB00010000000000100FF016E00"), Err(OpenError::Status(0xFF))));
    assert!(matches!(open("00040AB00010"), Err(OpenError::Truncated { .. })));
    assert!(matches!(open(""), Err(OpenError::Truncated { .. })));
}
