//! Files against a model that is nothing but bytes: whatever is written in whatever order is read, before and after
//! power loss, and what is refused changes nothing.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::Bench;
use proptest::prelude::*;
use simtide_protocol::apdu::{Command, Response, StatusWord};

/// EF.CONFIGURATION: transparent, 64 bytes. EF.ADN: 10 records of 28. EF.COUNTER: cyclic, 3 of 4.
#[derive(Debug, Clone)]
enum Step {
    Update { offset: u8, bytes: Vec<u8> },
    Read { offset: u8, length: u8 },
    UpdateRecord { record: u8, byte: u8 },
    Increase { by: u32 },
    PowerLoss,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..80, prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(offset, bytes)| Step::Update { offset, bytes }),
        (0_u8..80, 1_u8..80).prop_map(|(offset, length)| Step::Read { offset, length }),
        (0_u8..13, any::<u8>()).prop_map(|(record, byte)| Step::UpdateRecord { record, byte }),
        prop_oneof![0_u32..1_000, any::<u32>()].prop_map(|by| Step::Increase { by }),
        Just(Step::PowerLoss),
    ]
}

struct Model {
    configuration: Vec<u8>,
    numbers: Vec<[u8; 28]>,
    counter: [u32; 3],
}

fn send(bench: &mut Bench, command: Command<'_>) -> Response {
    Response::parse(&bench.send(&command.encode())).unwrap()
}

fn select(bench: &mut Bench, path: [u8; 4]) {
    let response = send(bench, Command::new(0x00, 0xA4, 0x08, 0x0C).with_data(&path));
    assert_eq!(response.status, StatusWord::OK);
}

fn present_adm1(bench: &mut Bench) {
    let response = send(bench, Command::new(0x00, 0x20, 0x00, 0x0A).with_data(b"ADMCODE1"));
    assert_eq!(response.status, StatusWord::OK);
}

fn update(bench: &mut Bench, model: &mut Model, offset: u8, bytes: &[u8]) {
    select(bench, [0x7F, 0x90, 0x6F, 0x04]);
    let response = send(bench, Command::new(0x00, 0xD6, 0x00, offset).with_data(bytes));
    let place = usize::from(offset);
    match model.configuration.get_mut(place..place + bytes.len()) {
        Some(place) => {
            assert_eq!(response.status, StatusWord::OK);
            place.copy_from_slice(bytes);
        }
        None => assert_eq!(response.status, StatusWord::OUT_OF_RANGE),
    }
}

fn read(bench: &mut Bench, model: &Model, offset: u8, length: u8) {
    select(bench, [0x7F, 0x90, 0x6F, 0x04]);
    let response = send(bench, Command::new(0x00, 0xB0, 0x00, offset).with_le(length.into()));
    let rest = model.configuration.get(usize::from(offset)..).unwrap_or_default();
    if rest.is_empty() {
        assert_eq!(response.status, StatusWord::OUT_OF_RANGE);
    } else if rest.len() < usize::from(length) {
        assert_eq!(response.status, StatusWord::wrong_le(rest.len() as u8));
    } else {
        assert_eq!(response, Response::ok(rest[..usize::from(length)].to_vec()));
    }
}

fn update_record(bench: &mut Bench, model: &mut Model, record: u8, byte: u8) {
    select(bench, [0x7F, 0x10, 0x6F, 0x3A]);
    let response = send(bench, Command::new(0x00, 0xDC, record, 0x04).with_data(&[byte; 28]));
    match model.numbers.get_mut(usize::from(record).wrapping_sub(1)) {
        Some(place) => {
            assert_eq!(response.status, StatusWord::OK);
            *place = [byte; 28];
        }
        None => assert_eq!(response.status, StatusWord::RECORD_NOT_FOUND),
    }
}

fn increase(bench: &mut Bench, model: &mut Model, by: u32) {
    select(bench, [0x7F, 0x90, 0x6F, 0x03]);
    let response =
        send(bench, Command::new(0x80, 0x32, 0x00, 0x00).with_data(&by.to_be_bytes()).with_le(256));
    match model.counter[0].checked_add(by) {
        Some(sum) => {
            assert_eq!(response, Response::ok([sum.to_be_bytes(), by.to_be_bytes()].concat()));
            model.counter.rotate_right(1);
            model.counter[0] = sum;
        }
        None => assert_eq!(response.status, StatusWord::MAXIMUM_REACHED),
    }
}

fn compare(bench: &mut Bench, model: &Model) {
    select(bench, [0x7F, 0x90, 0x6F, 0x04]);
    assert_eq!(send(bench, Command::new(0x00, 0xB0, 0, 0).with_le(256)).data, model.configuration);
    select(bench, [0x7F, 0x10, 0x6F, 0x3A]);
    for (number, record) in (1..).zip(&model.numbers) {
        assert_eq!(send(bench, Command::new(0x00, 0xB2, number, 0x04).with_le(28)).data, record);
    }
    select(bench, [0x7F, 0x90, 0x6F, 0x03]);
    for (number, value) in (1..).zip(model.counter) {
        assert_eq!(send(bench, Command::new(0x00, 0xB2, number, 0x04).with_le(4)).data, value.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn files_do_what_bytes_do(steps in prop::collection::vec(step(), 1..40)) {
        let mut bench = Bench::new();
        present_adm1(&mut bench);
        let mut model = Model { configuration: vec![0xFF; 64], numbers: vec![[0xFF; 28]; 10], counter: [0; 3] };
        for step in steps {
            match step {
                Step::Update { offset, bytes } => update(&mut bench, &mut model, offset, &bytes),
                Step::Read { offset, length } => read(&mut bench, &model, offset, length),
                Step::UpdateRecord { record, byte } => update_record(&mut bench, &mut model, record, byte),
                Step::Increase { by } => increase(&mut bench, &mut model, by),
                Step::PowerLoss => {
                    bench.restore();
                    present_adm1(&mut bench);
                }
            }
        }
        compare(&mut bench, &model);
    }
}
