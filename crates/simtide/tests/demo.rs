//! `simtide demo` from outside: what it reports, and that its report can fail.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

use serde_json::Value;

/// Runs the demo with 300 cards; the exit status says whether every card had everything once.
fn demo(flags: &[&str]) -> (bool, Value) {
    // In memory where the system has it: the play keeps to a clock, and a busy disk has none.
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let outcome = Command::new(env!("CARGO_BIN_EXE_simtide"))
        .args(["demo", "--json", "--cards", "300", "--period-s", "8", "--seed", "7", "--folder"])
        .arg(folder.path().join("demo"))
        .args(flags)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let problem = String::from_utf8_lossy(&outcome.stderr).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{problem}"));
    let figure = std::fs::read_to_string(folder.path().join("demo/figure-1.svg")).unwrap();
    assert!(figure.ends_with("</svg>\n"));
    (outcome.status.success(), report)
}

#[test]
fn a_campaign_runs_against_the_tide() {
    let (complete, report) = demo(&["--never-seen", "20", "--batches", "10"]);
    assert!(complete, "{report}");
    assert_eq!(report["cards"], 300);
    assert_eq!(report["never_seen"], 60);
    assert_eq!(report["effects_on_cards"], serde_json::json!({ "once": 240, "never": 0, "twice": 0 }));
    assert_eq!(report["sms_to_never_seen"], 0);
    // A card that polls while the campaign starts has another date than the demo read: at most one in a hundred.
    let [inversions, sms] = ["order_inversions", "sms"].map(|key| report[key].as_u64().unwrap());
    assert!(inversions * 100 <= sms.max(200), "{report}");
    assert!(report["sessions_peak"].as_u64() <= report["sessions_limit"].as_u64(), "{report}");
    let [polls, triggers] = ["done_by_poll", "done_by_trigger"].map(|key| report[key].as_i64().unwrap());
    assert_eq!(polls + triggers, 240);
    assert!(polls > 0 && triggers > 0, "both ends move: {report}");
    assert_eq!(report["batch_order"].as_str().unwrap().split('-').count(), 10);
    for key in ["sms", "demand_peak", "refused", "wall_s"] {
        assert!(report[key].is_number(), "{key}");
    }
}

#[test]
fn one_byte_changed_on_one_card_is_seen() {
    let (complete, report) = demo(&["--spoil"]);
    assert!(!complete);
    assert_eq!(report["effects_on_cards"]["never"], 1, "{report}");
}

#[test]
fn without_an_smsc_nobody_is_triggered() {
    let (complete, report) = demo(&["--no-smsc"]);
    assert!(complete, "the tide alone reaches everybody: {report}");
    assert_eq!(report["done_by_trigger"], 0, "{report}");
    assert_eq!(report["sms"], 0, "{report}");
}

#[test]
fn every_message_of_a_change_is_opened_and_no_key_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = Command::new(env!("CARGO_BIN_EXE_simtide"))
        .args(["demo", "--change", "--cards", "1", "--moves", "1", "--folder"])
        .arg(folder.path().join("demo"))
        .output()
        .unwrap();
    let text = String::from_utf8(outcome.stdout).unwrap();
    assert!(outcome.status.success(), "{text}{}", String::from_utf8_lossy(&outcome.stderr));
    for said in [
        "command packet, part 1 of",
        "STORE in 2 blocks:",
        "to \"Operator Two\", admin code ****",
        "milenage, K ****, OPc ****",
        "PoR OK",
        ": staged",
        "proved itself with RES ****",
        "register two gives 00102",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let cards = std::fs::read_to_string(folder.path().join("demo/cards.out")).unwrap();
    let is_key = |word: &&str| word.len() >= 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let keys: Vec<&str> = cards.split(|one: char| !one.is_ascii_alphanumeric()).filter(is_key).collect();
    assert!(keys.len() >= 4, "the vendor's file has keys");
    let shown = text.to_lowercase();
    assert!(keys.iter().all(|key| !shown.contains(&key.to_lowercase())), "{text}");
}
