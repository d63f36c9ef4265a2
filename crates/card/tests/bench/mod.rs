//! One card of the standard profile, with known keys.
#![allow(dead_code)]

use simtide_card::secure_channel::NoChannels;
use simtide_card::{Card, Environment, KeySetPersonalization, Personalization, PskPersonalization, Secret};
use simtide_protocol::personalization::Identity;
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::{Counter, Key};
use std::sync::Arc;

pub fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

pub const K: &str = "465b5ce8b199b49faa5f0a2ee238a6bc";
pub const OPC: &str = "cd63cb71954a9f4e48a5994e37a02baf";
pub const KIC: [u8; 16] = [0x11; 16];
pub const KID: [u8; 16] = [0x22; 16];
pub const KIK: [u8; 16] = [0x33; 16];

pub fn personalization() -> Personalization {
    Personalization {
        iccid: "8988211000000000011".parse().unwrap(),
        eid: None,
        identity: Identity::milenage("001010000000001".parse().unwrap(), &bytes(K), &bytes(OPC)).unwrap(),
        msisdn: Some("436641234567".parse().unwrap()),
        key_sets: vec![KeySetPersonalization {
            index: 1,
            kic: Key::new(&KIC).unwrap(),
            kid: Key::new(&KID).unwrap(),
            kik: Some(Key::new(&KIK).unwrap()),
            counter: Counter::ZERO,
        }],
        psk: Some(PskPersonalization {
            identity: b"8988211000000000011".to_vec(),
            key: Key::new(&[0x44; 16]).unwrap(),
        }),
        adm1: Secret::new(*b"ADMCODE1"),
        pin1: simtide_card::pin("1234"),
        puk1: simtide_card::pin("12345678"),
        files: Vec::new(),
    }
}

pub struct Bench {
    pub profile: Arc<Profile>,
    pub card: Card,
    /// All journal records since personalisation.
    pub journal: Vec<u8>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(Profile::standard())
    }

    pub fn with(profile: Profile) -> Self {
        let profile = Arc::new(profile);
        let card = Card::personalised(profile.clone(), &personalization());
        let mut bench = Self { profile, card, journal: Vec::new() };
        bench.store();
        bench.reset();
        bench
    }

    pub fn store(&mut self) {
        self.journal.extend(self.card.take_changes().unwrap_or_default());
    }

    pub fn reset(&mut self) -> Vec<u8> {
        let answer = with_environment(|environment| self.card.reset(environment));
        self.store();
        answer
    }

    /// Power off, and the card that the journal tells of.
    pub fn restore(&mut self) {
        self.card = Card::restore(self.profile.clone(), &self.journal).unwrap();
        self.reset();
    }

    pub fn send(&mut self, command: &[u8]) -> Vec<u8> {
        let answer = with_environment(|environment| self.card.transmit(environment, command));
        self.store();
        answer
    }

    pub fn transmit(&mut self, command: &str) -> Vec<u8> {
        self.send(&hex::decode(command).unwrap())
    }
}

pub fn with_environment<R>(act: impl FnOnce(&mut Environment<'_>) -> R) -> R {
    let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
    act(&mut Environment { channels: &NoChannels, random: &mut random })
}
