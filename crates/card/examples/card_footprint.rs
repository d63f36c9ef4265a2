//! What a card at rest costs: resident memory of this process with 10,000 cards minus that with none, per card.
//!
//! `cargo run --package simtide-card --example card_footprint` prints it for cards that are off, and for cards that were
//! reset and have polled by.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use simtide_card::secure_channel::NoChannels;
use simtide_card::{Card, Environment, KeySetPersonalization, Personalization, PskPersonalization, Secret};
use simtide_protocol::ids::Iccid;
use simtide_protocol::personalization::Identity;
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::{Counter, Key};
use std::sync::Arc;

const CARDS: usize = 10_000;
/// What a card in a fleet may cost at most.
const LIMIT_BYTES: usize = 32 * 1024;

fn main() {
    let profile = Arc::new(Profile::standard());
    // What the first card brings into memory is no cost of the cards.
    drop(card(&profile, CARDS));
    let none = resident_bytes();
    let mut cards: Vec<Card> = (0..CARDS).map(|number| card(&profile, number)).collect();
    print("off", none);
    for card in &mut cards {
        let mut environment = Environment { channels: &NoChannels, random: &mut |buffer| buffer.fill(0x5A) };
        card.reset(&mut environment);
        card.transmit(&mut environment, &hex("8010000014FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"));
        card.transmit(&mut environment, &hex("00A4040C07A0000000871002"));
        card.transmit(&mut environment, &hex("801200000F"));
        card.transmit(&mut environment, &hex("801400000C810301050082028281830100"));
        card.take_changes();
    }
    print("on", none);
}

fn print(state: &str, none: usize) {
    let per_card = resident_bytes().saturating_sub(none) / CARDS;
    println!("{state}: {per_card} bytes per card ({CARDS} cards), limit {LIMIT_BYTES}");
    assert!(per_card <= LIMIT_BYTES, "a card costs more than {LIMIT_BYTES} bytes");
}

fn card(profile: &Arc<Profile>, number: usize) -> Card {
    let key = || Key::new(&[number as u8; 16]).unwrap();
    let personalization = Personalization {
        iccid: Iccid::with_check_digit(&format!("8988211{number:011}")).unwrap(),
        eid: None,
        identity: Identity::milenage(format!("00101{number:010}").parse().unwrap(), &[1; 16], &[2; 16])
            .unwrap(),
        msisdn: format!("43664{number:07}").parse().ok(),
        key_sets: vec![KeySetPersonalization {
            index: 1,
            kic: key(),
            kid: key(),
            kik: Some(key()),
            counter: Counter::ZERO,
        }],
        psk: Some(PskPersonalization { identity: format!("8988211{number:012}").into_bytes(), key: key() }),
        adm1: Secret::new(*b"ADMCODE1"),
        pin1: None,
        puk1: None,
        files: Vec::new(),
    };
    let mut card = Card::personalised(profile.clone(), &personalization);
    card.take_changes();
    card
}

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}
