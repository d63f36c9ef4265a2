//! Targets for the change of operator: the message, the answer, what a card sends by itself.

use crate::apdu::Command;
use crate::card_file::Secret;
use crate::ids::{CardId, ChangeId, Iccid, Tar};
use crate::personalization::{
    Answer, Message, PersonalizationCommand, Protection, Sealed, Status, Uplink, UplinkHead,
    decode_operators, encode_operators,
};
use crate::scp80::{Counter, Key, KeySet, Kic, Kid};

const CODE: [u8; 8] = *b"12345678";
const TAR: Tar = Tar([0xBF, 0xFF, 0x21]);

fn card() -> Option<CardId> {
    Iccid::with_check_digit("898821100000000001").ok().map(CardId::from)
}

/// A sealed message, the body of one, an answer, a status, a list, a command: what reads is written and reads again the
/// same, and survives both protections.
pub fn personalization_message(data: &[u8]) {
    let (Some(card), Some(code)) = (card(), Secret::new(&CODE)) else { return };
    if let Some(sealed) = Sealed::parse(data) {
        let _ = sealed.open(&card, &CODE);
    }
    if let Ok(message) = Message::of_body(ChangeId(1), data) {
        for protection in [Protection::AdminCode, Protection::DerivedKeys] {
            // A message that only just fits is too long with the other protection around it.
            let Ok(sealed) = message.seal(protection, &card, &code) else { continue };
            let opened = Sealed::parse(&sealed).map(|sealed| sealed.open(&card, &CODE));
            assert_eq!(opened, Some(Ok(message.clone())), "what was sealed opens the same");
        }
    }
    if let Ok(answer) = Answer::parse(data) {
        assert_eq!(Answer::parse(&answer.encode()), Ok(answer));
    }
    if let Ok(status) = Status::parse(data) {
        assert_eq!(Status::parse(&status.encode()), Ok(status));
    }
    if let Ok(operators) = decode_operators(data) {
        let written = encode_operators(&operators);
        assert_eq!(written.and_then(|written| decode_operators(&written)), Ok(operators));
    }
    if let Ok(command) = Command::parse(data) {
        let _ = PersonalizationCommand::parse(&command);
    }
}

/// A packet of a card, and its content in the clear.
pub fn personalization_uplink(data: &[u8]) {
    let (Ok(kic), Ok(kid)) = (Key::new(&[0x11; 16]), Key::new(&[0x22; 16])) else { return };
    let keys = KeySet::new(Some(kic), Some(kid));
    let _ = UplinkHead::of(data);
    let _ = Uplink::open(data, TAR, &keys);
    let Ok(uplink) = Uplink::parse(data) else { return };
    assert_eq!(Uplink::parse(&uplink.encode()).as_ref(), Ok(&uplink), "what was written reads the same");
    if let Ok(packet) = uplink.seal(TAR, Kic(0x12), Kid(0x12), Counter::MAX, &keys) {
        assert_eq!(Uplink::open(&packet, TAR, &keys), Ok((uplink, Counter::MAX)), "and opens the same");
    }
}
