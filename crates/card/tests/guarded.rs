//! A guarded swap: identity 1 is kept until network 2 has authenticated identity 2, and the outcome is told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bench;
mod phone;

use phone::{IMSI_1, IMSI_2, Phone, authenticates, card, identity_1, identity_2, message, tuak};
use simtide_protocol::ids::ChangeId;
use simtide_protocol::personalization::{Notice, Options, Refusal, State, Uplink};
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::Counter;

const GUARDED: Options =
    Options { ask_user: false, agreed: false, guard_s: Some(600), wait_for_service: false };
/// Timer 2 has expired.
const EXPIRED: &str = "80C200000ED70C82028281A40102A503000100";
/// Location status: normal service.
const IN_SERVICE: &str = "80C200000CD60A990103820282819B0100";

fn swapped(options: Options) -> Phone {
    let mut phone = Phone::new();
    assert!(authenticates(&mut phone.bench, &identity_1(), 70));
    assert_eq!(phone.personalize(&message(7, options)).state, State::Staged);
    phone.seen.clear();
    phone.restart();
    assert_eq!(phone.imsi(), IMSI_2);
    assert_eq!(phone.status().state(ChangeId(7)), State::Trial);
    phone
}

fn notice(state: State, digest: [u8; 8]) -> Uplink {
    Uplink::Notice(Notice { card: card(), change: ChangeId(7), state, digest })
}

#[test]
fn network_2_authenticates_and_identity_1_is_gone() {
    let mut phone = swapped(GUARDED);
    // The guard time runs on the device's timer.
    assert!(
        phone.seen.iter().any(|(kind, qualifier, _)| (*kind, *qualifier) == (0x27, 0x00)),
        "{:?}",
        phone.seen
    );
    assert!(!authenticates(&mut phone.bench, &identity_1(), 71), "a stranger's challenge proves nothing");
    assert_eq!(phone.status().state(ChangeId(7)), State::Trial);
    let k1: [u8; 16] = bench::bytes(bench::K);
    let keeps = |phone: &Phone| phone.bench.card.snapshot().windows(16).any(|window| window == k1);
    assert!(keeps(&phone));
    assert!(authenticates(&mut phone.bench, &identity_2(), 1));
    phone.drain();
    assert_eq!(phone.uplink(), (notice(State::Active, identity_2().digest()), Counter::new(1).unwrap()));
    assert!(!keeps(&phone), "identity 1 is wiped");
    // What expires afterwards changes nothing.
    phone.bench.transmit(EXPIRED);
    phone.drain();
    assert!(!phone.reset_wanted);
    phone.restart();
    assert_eq!((phone.imsi().as_str(), phone.status().state(ChangeId(7))), (IMSI_2, State::Active));
}

#[test]
fn identity_1_comes_back_by_itself_when_nobody_authenticates() {
    let mut phone = swapped(GUARDED);
    phone.bench.transmit(EXPIRED);
    phone.drain();
    assert!(phone.reset_wanted);
    assert_eq!(phone.imsi(), IMSI_2, "until the reset");
    phone.restart();
    assert_eq!(phone.imsi(), IMSI_1);
    // With its own sequence numbers: what was used stays used.
    assert!(authenticates(&mut phone.bench, &identity_1(), 71));
    assert_eq!(&phone.file("3F00/7FF0/6F46")[..8], b"\x01Simtide");
    phone.drain();
    assert_eq!(phone.uplink(), (notice(State::Reverted, identity_1().digest()), Counter::new(1).unwrap()));
    assert_eq!(phone.status().state(ChangeId(7)), State::Reverted);
    // The message's second copy does not try again; another change may.
    assert_eq!(phone.personalize(&message(7, GUARDED)).state, State::Reverted);
    assert_eq!(phone.personalize(&message(8, GUARDED)).state, State::Staged);
    let k2 = [0xA5; 16];
    phone.restart();
    phone.bench.transmit(EXPIRED);
    phone.restart();
    assert!(!phone.bench.card.snapshot().windows(16).any(|window| window == k2), "identity 2 is wiped");
}

#[test]
fn the_trial_may_also_wait_for_service() {
    let mut phone = swapped(Options { wait_for_service: true, ..GUARDED });
    // Service without authentication is not this network's.
    phone.bench.transmit(IN_SERVICE);
    assert_eq!(phone.status().state(ChangeId(7)), State::Trial);
    assert!(authenticates(&mut phone.bench, &identity_2(), 1));
    assert_eq!(phone.status().state(ChangeId(7)), State::Trial);
    phone.bench.transmit(IN_SERVICE);
    phone.drain();
    assert_eq!(phone.uplink().0, notice(State::Active, identity_2().digest()));
}

#[test]
fn an_outcome_is_sent_until_the_network_takes_it() {
    let mut phone = swapped(GUARDED);
    phone.sending = 0x21;
    assert!(authenticates(&mut phone.bench, &identity_2(), 1));
    phone.drain();
    assert_eq!(phone.uplink().1, Counter::new(1).unwrap());
    // Power loss in between; the counter goes on.
    phone.bench.restore();
    phone.start();
    assert_eq!(phone.uplink().1, Counter::new(2).unwrap());
    phone.sending = 0x00;
    phone.bench.transmit(EXPIRED);
    phone.drain();
    assert_eq!(phone.uplink(), (notice(State::Active, identity_2().digest()), Counter::new(3).unwrap()));
    phone.restart();
    assert!(phone.received().is_none(), "told once");
}

#[test]
fn a_device_that_starts_again_and_again_gets_identity_1_back() {
    let mut phone = swapped(GUARDED);
    let mut resets = 0;
    while phone.imsi() == IMSI_2 {
        phone.restart();
        resets += 1;
        assert!(resets <= 20);
    }
    assert_eq!(resets, 11);
    phone.submits.clear();
    assert_eq!(phone.status().state(ChangeId(7)), State::Reverted);
}

#[test]
fn a_device_without_timers_counts_by_its_status_commands() {
    let no_timers = hex::decode("3be1ff63110c001818a9001f8208100001").unwrap();
    let mut phone = Phone::of(Profile::standard(), no_timers);
    phone.personalize(&message(7, Options { guard_s: Some(300), ..GUARDED }));
    phone.restart();
    assert_eq!(phone.imsi(), IMSI_2);
    for _ in 0..12 {
        phone.drain();
    }
    assert!(phone.reset_wanted);
    phone.restart();
    assert_eq!(phone.imsi(), IMSI_1);
}

#[test]
fn what_authenticates_after_its_time_is_too_late() {
    let mut phone = swapped(GUARDED);
    phone.bench.transmit(EXPIRED);
    assert!(authenticates(&mut phone.bench, &identity_2(), 1));
    phone.restart();
    assert_eq!(phone.uplink().0, notice(State::Reverted, identity_1().digest()));
    assert_eq!((phone.imsi().as_str(), phone.status().state(ChangeId(7))), (IMSI_1, State::Reverted));
}

#[test]
fn no_other_change_begins_during_a_trial() {
    let mut phone = swapped(GUARDED);
    let refused = phone.personalize(&phone::message_for(8, Options::default(), tuak()));
    assert_eq!(refused.state, State::Refused(Refusal::Busy));
}
