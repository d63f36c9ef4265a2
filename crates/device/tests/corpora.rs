//! The fuzz targets of this crate on their corpora, on damaged seeds, and on random bytes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../../fuzz/replay.rs"]
mod replay;

use proptest::prelude::*;
use simtide_device::fuzz;

const TARGETS: replay::Targets = &[
    ("device_proactive", fuzz::device_proactive),
    ("device_card_answers", fuzz::device_card_answers),
    ("device_queue", fuzz::device_queue),
    ("device_client", fuzz::device_client),
];

/// A card that starts well and then says what it likes.
fn session() -> impl Strategy<Value = Vec<u8>> {
    let object = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..12)).prop_map(|(tag, value)| {
        let mut object = vec![tag, value.len() as u8];
        object.extend(value);
        object
    });
    let known = prop::sample::select(vec![
        0x01, 0x03, 0x05, 0x13, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x40, 0x43,
    ]);
    let command =
        (known, any::<u8>(), prop::collection::vec(object, 0..5)).prop_map(|(kind, qualifier, objects)| {
            let mut body = vec![0x81, 0x03, 0x01, kind, qualifier, 0x82, 0x02, 0x81, 0x21];
            body.extend(objects.concat());
            let mut answer = vec![0xD0];
            simtide_protocol::tlv::push_length(&mut answer, body.len());
            answer.extend(body);
            answer.extend([0x91, 0x20]);
            answer
        });
    prop::collection::vec(command, 0..20).prop_map(|answers| {
        let mut data: Vec<u8> = [0x02, 0x90, 0x00].repeat(11);
        data.extend([0x02, 0x91, 0x20]);
        for answer in answers {
            data.push(answer.len() as u8);
            data.extend(answer);
        }
        data
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_session(data in session()) {
        fuzz::device_card_answers(&data);
    }
}
