//! A card's state on disk: what was answered is kept, a cut at any byte leaves a whole card, a damaged journal is refused.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use simtide_agent::personalization::of_test_card;
use simtide_agent::port::soft::SoftPort;
use simtide_agent::port::{CardPort, PortError};
use simtide_card::secure_channel::NoChannels;
use simtide_protocol::profile::Profile;

fn port(path: &Path) -> Result<SoftPort, PortError> {
    let profile = Arc::new(Profile::standard());
    let personalization = of_test_card(&profile);
    SoftPort::durable(path, &profile, || personalization, Arc::new(NoChannels))
}

fn ask(port: &mut SoftPort, command: &str) -> String {
    let mut response = Vec::new();
    port.transmit(&hex::decode(command).unwrap(), &mut response).unwrap();
    hex::encode_upper(response)
}

/// Presents ADM 1 and selects EF.CONFIGURATION.
fn opened(path: &Path) -> SoftPort {
    let mut port = port(path).unwrap();
    port.reset().unwrap();
    assert_eq!(ask(&mut port, "0020000A083132333435363738"), "9000");
    assert_eq!(ask(&mut port, "00A4080C047F906F04"), "9000");
    port
}

fn content(path: &Path) -> String {
    ask(&mut opened(path), "00B0000002")
}

#[test]
fn what_was_answered_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("card.state");
    assert_eq!(ask(&mut opened(&path), "00D6000002C0DE"), "9000");
    assert_eq!(content(&path), "C0DE9000");
    // Opening again starts the journal anew, without loss.
    assert_eq!(content(&path), "C0DE9000");
}

#[test]
fn a_cut_at_any_byte_leaves_a_whole_card() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("card.state");
    let mut port = opened(&path);
    let before = std::fs::read(&path).unwrap().len();
    assert_eq!(ask(&mut port, "00D6000002AAAA"), "9000");
    assert_eq!(ask(&mut port, "00D6000002BBBB"), "9000");
    drop(port);
    let whole = std::fs::read(&path).unwrap();
    assert!(whole.len() > before);
    let mut seen = std::collections::BTreeSet::new();
    for cut in before..=whole.len() {
        let copy = folder.path().join("cut.state");
        std::fs::write(&copy, &whole[..cut]).unwrap();
        seen.insert(content(&copy));
        // And it goes on from there.
        assert_eq!(ask(&mut opened(&copy), "00D6000002CCCC"), "9000");
        assert_eq!(content(&copy), "CCCC9000");
    }
    let expected = ["AAAA9000", "BBBB9000", "FFFF9000"].map(str::to_owned);
    assert_eq!(seen, expected.into());
}

#[test]
fn a_damaged_journal_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("card.state");
    let mut first = opened(&path);
    assert_eq!(ask(&mut first, "00D6000002AAAA"), "9000");
    drop(first);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40] ^= 0x01;
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(port(&path), Err(PortError::State(_))));
}

#[test]
fn a_card_whose_state_cannot_be_stored_answers_no_more() {
    // A journal on a device that is always full.
    if !Path::new("/dev/full").exists() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("card.state.new");
    std::os::unix::fs::symlink("/dev/full", &link).unwrap();
    assert!(matches!(port(&folder.path().join("card.state")), Err(PortError::State(_))));
}
