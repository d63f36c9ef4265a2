//! `simtide demo --no-coverage` from outside: what it reports, and what its cards show.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

use serde_json::{Value, json};

fn demo(flags: &[&str]) -> (bool, String, String) {
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let outcome = Command::new(env!("CARGO_BIN_EXE_simtide"))
        .args(["demo", "--no-coverage", "--folder"])
        .arg(folder.path().join("demo"))
        .args(flags)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (outcome.status.success(), text(&outcome.stdout), text(&outcome.stderr))
}

#[test]
fn every_card_gets_the_campaign_once_by_the_bearer_that_reaches_it() {
    let (complete, text, problem) =
        demo(&["--json", "--cards", "60", "--without-coverage", "40", "--seed", "3"]);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{problem}"));
    assert!(complete, "{report}");
    assert_eq!(report["effects_on_cards"], json!({ "once": 60, "never": 0, "twice": 0 }));
    assert_eq!((&report["cards"], &report["without_coverage"]), (&json!(60), &json!(24)));
    // The campaign: 36 by poll, 24 over IP. Every fifth card: a delivery of its own, by SMS where there is coverage. Three
    // cards without coverage have moved to another operator.
    let by = |bearer: &str| report["delivered_by"][bearer].as_u64().unwrap();
    assert_eq!(by("poll"), 36, "{report}");
    assert_eq!((by("sms"), by("ip")), (8, 24 + 4 + 3), "{report}");
    let keys: Vec<_> = report.as_object().unwrap().keys().cloned().collect();
    let mut wanted = ["cards", "without_coverage", "delivered_by", "effects_on_cards", "proofs", "wall_s"];
    wanted.sort_unstable();
    let mut found = keys.clone();
    found.sort_unstable();
    assert_eq!(found, wanted);
    assert!(report["proofs"].as_u64() > Some(24 + 12), "{report}");
}

#[test]
fn one_message_is_shown_in_its_layers() {
    let (complete, text, problem) = demo(&["--cards", "20", "--seed", "5"]);
    assert!(complete, "{text}{problem}");
    for (view, begins) in [
        ("the network sees", "eyJ"),
        ("the device sees and hands to its card", "80C2"),
        ("the card sees and executes", "00A4"),
    ] {
        let line = text.lines().find(|line| line.contains(view)).unwrap_or_else(|| panic!("{view}: {text}"));
        let shown = line.rsplit_once("  ").unwrap().1;
        assert!(shown.starts_with(begins), "{line}");
    }
}
