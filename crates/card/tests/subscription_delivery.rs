//! A message of a change on its way through short messages: late, lost, twice, in any order.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bench;
mod phone;

use phone::{CODE, IMSI_1, IMSI_2, Phone, message, script};
use simtide_protocol::ids::ChangeId;
use simtide_protocol::personalization::{Answer, Options, Protection, State};
use simtide_protocol::scp80::ResponseStatus;

/// The envelopes of a message that is sealed now and arrives when somebody lets it.
fn sealed(phone: &mut Phone, change: u64) -> Vec<Vec<u8>> {
    let envelopes =
        phone.envelopes(&script(&message(change, Options::default()), Protection::AdminCode, &CODE));
    assert!(envelopes.len() >= 3, "several short messages");
    envelopes
}

#[test]
fn after_the_fence_the_old_message_is_dead() {
    let mut phone = Phone::new();
    let old = sealed(&mut phone, 7);
    // The platform does not know whether it came: it reads the status with a higher counter.
    assert_eq!(phone.status().state(ChangeId(7)), State::Unknown);
    for envelope in &old {
        phone.bench.send(envelope);
    }
    phone.drain();
    let proof = phone.proof().unwrap();
    assert_eq!((proof.authenticated, proof.header.status), (true, ResponseStatus::CounterLow));
    phone.restart();
    assert_eq!((phone.status().state(ChangeId(7)), phone.imsi().as_str()), (State::Unknown, IMSI_1));
    // The same change in a new packet is carried out.
    assert_eq!(phone.personalize(&message(7, Options::default())).state, State::Staged);
}

#[test]
fn parts_in_any_order_and_twice_give_one_change() {
    for order in [[2, 1, 0], [0, 2, 1], [1, 0, 2]] {
        let mut phone = Phone::new();
        let parts = sealed(&mut phone, 7);
        let rest: Vec<usize> = (3..parts.len()).collect();
        for place in order.iter().chain(&order[..2]).chain(&rest).copied() {
            phone.bench.send(&parts[place]);
        }
        phone.drain();
        let answer = phone.answer().expect("a proof");
        assert_eq!(answer, Answer { change: ChangeId(7), state: State::Staged, agreed: false });
        phone.restart();
        assert_eq!(phone.imsi(), IMSI_2);
    }
}

#[test]
fn without_one_part_nothing_happens() {
    let mut phone = Phone::new();
    let count = sealed(&mut phone, 7).len();
    for missing in 0..count {
        let mut phone = Phone::new();
        for (place, part) in sealed(&mut phone, 7).iter().enumerate() {
            if place != missing {
                phone.bench.send(part);
            }
        }
        phone.drain();
        assert!(phone.submits.is_empty());
        phone.restart();
        assert_eq!(phone.imsi(), IMSI_1);
    }
}

#[test]
fn power_between_the_parts_loses_the_message_and_nothing_else() {
    let mut phone = Phone::new();
    let parts = sealed(&mut phone, 7);
    phone.bench.send(&parts[0]);
    phone.bench.restore();
    phone.start();
    for part in &parts[1..] {
        phone.bench.send(part);
    }
    phone.drain();
    assert!(phone.submits.is_empty());
    // The same bytes again are whole, and were never seen.
    for part in &parts {
        phone.bench.send(part);
    }
    phone.drain();
    assert_eq!(phone.answer().unwrap().state, State::Staged);
}
