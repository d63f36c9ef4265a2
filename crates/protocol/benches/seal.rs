//! What sealing one command packet costs beside its bare cryptography.
//!
//! Bare: the two AES key schedules, the CMAC over the packet and the CBC over its ciphered part, on the same bytes.
//! Keys differ from packet to packet, as they do from card to card. Prints the ratio to the limit.

#![allow(clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use aes::Aes128Enc;
use cipher::{Array, BlockModeEncrypt, KeyInit, KeyIvInit};
use cmac::{Cmac, Mac};
use simtide_protocol::ids::Tar;
use simtide_protocol::scp80::{CommandHeader, Counter, Key, KeySet, Kic, Kid, Security, Spi, seal};

/// What sealing may cost at most, as a multiple of the bare cryptography.
const RATIO_MAX: f64 = 1.5;
/// Key sets that take turns.
const CARDS: usize = 1024;
/// Packets per measurement.
const PACKETS: usize = 50_000;
/// Measurements; the fastest counts, as the one least disturbed.
const ROUNDS: usize = 15;
/// A SELECT, and as much as one SMS carries with AES and a CMAC of 8 bytes.
const DATA_SIZES: [usize; 2] = [7, 98];

struct Card {
    kic: [u8; 16],
    kid: [u8; 16],
    keys: KeySet,
}

#[expect(clippy::expect_used, reason = "16 bytes are a key, and the counter is small")]
fn main() {
    let cards: Vec<Card> = (0..CARDS)
        .map(|card| {
            let kic = std::array::from_fn(|at| (card * 7 + at) as u8);
            let kid = std::array::from_fn(|at| (card * 13 + at) as u8 ^ 0x5A);
            let key = |bytes: &[u8; 16]| Key::new(bytes).expect("a key");
            Card { kic, kid, keys: KeySet::new(Some(key(&kic)), Some(key(&kid))) }
        })
        .collect();
    let header = CommandHeader {
        security: Security { spi: Spi::new(0x16, 0x39), kic: Kic(0x12), kid: Kid(0x12) },
        tar: Tar([0xB0, 0x00, 0x10]),
        counter: Counter::new(77).expect("a counter"),
    };
    println!("seal one command packet (AES-128-CBC, AES-CMAC, counter), limit {RATIO_MAX}:");
    for size in DATA_SIZES {
        compare(&cards, &header, &vec![0xA5; size]);
    }
}

#[expect(clippy::expect_used, reason = "what is sealed once is sealed again")]
fn compare(cards: &[Card], header: &CommandHeader, data: &[u8]) {
    let mut bytes = seal(header, &cards[0].keys, data).expect("a packet");
    let (mut sealing, mut bare) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        sealing = sealing.min(timed(cards, |card| {
            black_box(seal(black_box(header), &card.keys, black_box(data)).expect("a packet"));
        }));
        bare = bare.min(timed(cards, |card| bare_cryptography(card, black_box(&mut bytes))));
    }
    let per_packet_ns = |whole: Duration| whole.as_nanos() / PACKETS as u128;
    let ratio = sealing.as_secs_f64() / bare.as_secs_f64();
    println!(
        "  {:3} bytes of data: sealing {:5} ns, bare cryptography {:5} ns, ratio {ratio:.2}: {}",
        data.len(),
        per_packet_ns(sealing),
        per_packet_ns(bare),
        verdict(ratio)
    );
}

fn verdict(ratio: f64) -> &'static str {
    if ratio <= RATIO_MAX { "kept" } else { "EXCEEDED" }
}

fn timed(cards: &[Card], mut work: impl FnMut(&Card)) -> Duration {
    let start = Instant::now();
    for card in cards.iter().cycle().take(PACKETS) {
        work(card);
    }
    start.elapsed()
}

/// CMAC over all but the check value, CBC over all from the counter on.
fn bare_cryptography(card: &Card, packet: &mut [u8]) {
    let mut mac = Cmac::<Aes128Enc>::new(&card.kid.into());
    mac.update(&packet[..16]);
    mac.update(&packet[24..]);
    black_box(mac.finalize().into_bytes());
    let mut cipher = cbc::Encryptor::<Aes128Enc>::new(&card.kic.into(), &Default::default());
    cipher.encrypt_blocks(Array::slice_as_chunks_mut(&mut packet[10..]).0);
    black_box(packet);
}
