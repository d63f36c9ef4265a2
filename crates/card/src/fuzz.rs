//! Targets that take any bytes: none may panic, each checks what must always hold. Their corpora are replayed by
//! `tests/corpora.rs`.

use crate::secure_channel::NoChannels;
use crate::storage::Storage;
use crate::{Card, Environment, KeySetPersonalization, Personalization, Secret, whole_journal};
use simtide_protocol::ids::{ChangeId, Iccid};
use simtide_protocol::personalization::{Identity, Message, commands};
use simtide_protocol::profile::{ApplicationKind, Profile};
use simtide_protocol::scp80::{Counter, Key};
use simtide_protocol::script::expanded::{LengthForm, ScriptWriter};
use simtide_protocol::tlv::push;
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

/// The body of a personalization message under the right code: the card becomes what it says with the next reset, or
/// stays what it is, and the journal always tells it.
pub fn card_personalization(data: &[u8]) {
    let (Some(mut card), Some(application)) = (card(), PROFILE.application(ApplicationKind::Personalization))
    else {
        return;
    };
    let mut journal = card.take_changes().unwrap_or_default();
    with_environment(|environment| card.reset(environment));
    let first = card.digest();
    let mut sealed = Vec::new();
    push(&mut sealed, 0x80, &[1]);
    push(&mut sealed, 0x81, &[7; 8]);
    push(&mut sealed, 0x82, b"ADMCODE1");
    push(&mut sealed, 0xA4, data);
    let mut script = ScriptWriter::new(LengthForm::Definite);
    commands(&sealed).iter().for_each(|command| script.command_bytes(command));
    let Ok(script) = script.finish() else { return };
    with_environment(|environment| card.run(environment, application, &script, 1_024));
    assert_eq!(card.digest(), first, "nothing changes before the reset");
    // The device answers nothing; the proof goes with the answer to the script.
    card.session().toolkit.start(&[]);
    card.settle_applet();
    let said = Message::of_body(ChangeId::from_bytes([7; 8]), data);
    for _ in 0..2 {
        with_environment(|environment| card.reset(environment));
        journal.extend(card.take_changes().unwrap_or_default());
        let now = card.digest();
        let becomes = said.as_ref().is_ok_and(|message| message.identity.digest() == now);
        assert!(now == first || becomes, "one whole identity or the other");
    }
    let restored = Card::restore(PROFILE.clone(), &journal).map(|card| card.snapshot());
    assert_eq!(restored.as_ref(), Ok(&card.snapshot()), "the journal tells the card");
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
