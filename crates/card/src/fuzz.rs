//! Targets that take any bytes: none may panic, each checks what must always hold. Their corpora are replayed by
//! `tests/corpora.rs`.

use crate::secure_channel::NoChannels;
use crate::storage::Storage;
use crate::{Card, Environment, KeySetPersonalization, Personalization, Secret, whole_journal};
use simtide_protocol::ids::Iccid;
use simtide_protocol::personalization::Identity;
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::{Counter, Key};
use std::sync::{Arc, LazyLock};

static PROFILE: LazyLock<Arc<Profile>> = LazyLock::new(|| Arc::new(Profile::standard()));

/// Commands, each behind its length in one byte: every one is answered with a status word, and the journal always
/// tells the card as it is.
pub fn card_apdus(data: &[u8]) {
    let Some(mut card) = card() else { return };
    let mut journal = card.take_changes().unwrap_or_default();
    with_environment(|environment| card.reset(environment));
    let mut rest = data;
    while let Some((length, after)) = rest.split_first() {
        let (command, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        let answer = with_environment(|environment| card.transmit(environment, command));
        assert!(answer.len() >= 2, "every command is answered");
        journal.extend(card.take_changes().unwrap_or_default());
    }
    let restored = Card::restore(PROFILE.clone(), &journal).map(|card| card.snapshot());
    assert_eq!(restored.as_ref(), Ok(&card.snapshot()), "the journal tells the card");
}

/// The first octet chooses an application, the rest is a script or trigger for it: the answer keeps to its limit.
pub fn card_scripts(data: &[u8]) {
    let Some((choice, script)) = data.split_first() else { return };
    let Some(mut card) = card() else { return };
    with_environment(|environment| card.reset(environment));
    let applications = PROFILE.applications.as_slice();
    let application = &applications[usize::from(*choice) % applications.len()];
    let capacity = 200;
    let answer = with_environment(|environment| card.run(environment, application, script, capacity));
    assert!(answer.len() <= capacity, "{} bytes are more than fit", answer.len());
    let restored = Card::restore(PROFILE.clone(), &card.snapshot()).map(|card| card.snapshot());
    assert_eq!(restored.as_ref(), Ok(&card.snapshot()), "a snapshot tells the card");
}

/// A journal of any bytes: it is refused, or gives entries that a snapshot tells again.
pub fn card_journal(data: &[u8]) {
    let whole = whole_journal(data);
    assert!(whole <= data.len());
    if let Ok(storage) = Storage::restore(data) {
        let again = Storage::restore(&storage.snapshot()).map(|again| again.snapshot());
        assert_eq!(again.as_ref(), Ok(&storage.snapshot()), "a snapshot tells the entries");
    }
    if let Ok(mut card) = Card::restore(PROFILE.clone(), data) {
        with_environment(|environment| card.reset(environment));
        let select = [0x00, 0xA4, 0x04, 0x04, 0x07, 0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02];
        assert!(with_environment(|environment| card.transmit(environment, &select)).len() >= 2);
    }
}

/// A card with keys of zeros.
fn card() -> Option<Card> {
    let key = || Key::new(&[0; 16]).ok();
    let personalization = Personalization {
        iccid: Iccid::with_check_digit("898821100000000001").ok()?,
        eid: None,
        identity: Identity::milenage("001010000000001".parse().ok()?, &[1; 16], &[2; 16]).ok()?,
        msisdn: None,
        key_sets: vec![KeySetPersonalization {
            index: 1,
            kic: key()?,
            kid: key()?,
            kik: key(),
            counter: Counter::ZERO,
        }],
        psk: None,
        adm1: Secret::new(*b"ADMCODE1"),
        pin1: crate::pin("1234"),
        puk1: crate::pin("12345678"),
        files: Vec::new(),
    };
    Some(Card::personalised(PROFILE.clone(), &personalization))
}

fn with_environment<R>(act: impl FnOnce(&mut Environment<'_>) -> R) -> R {
    act(&mut Environment { channels: &NoChannels, random: &mut |buffer| buffer.fill(0) })
}
