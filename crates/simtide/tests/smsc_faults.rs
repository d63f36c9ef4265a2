//! A service centre that throttles, drops the link with a full window, duplicates, reorders, delays and loses, under the
//! whole system: the campaign still ends, and every card shows it once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "support/stage/mod.rs"]
mod stage;

use std::collections::{BTreeMap, BTreeSet};

use simtide_simulation::smsc::{Entry, Happened};
use stage::{COUNTER, Plan, Stage};

const CARDS: u32 = 60;
/// The last ones have never left the shop.
const NEVER_SEEN: u32 = 12;

/// Two campaigns over a service centre with these faults; what it has recorded.
fn play(faults: &str, link: &str) -> Vec<Entry> {
    // A card that is not there keeps no message for long: campaign time is fast.
    let smsc = format!("answer_timeout_s = 2\n[faults]\nseed = 7\n{faults}\n");
    let in_field = CARDS - NEVER_SEEN;
    let link = link.to_owned();
    let stage = Stage::start(Plan { cards: CARDS, in_field, period_s: 10.0, smsc, link, ..Plan::default() });
    stage.meet_all_cards();
    for name in ["first", "second"] {
        stage.run_campaign(name);
    }
    for row in stage.in_field() {
        assert_eq!(
            stage.counter(row, &COUNTER),
            2,
            "card {}: {}\n{}",
            row.iccid,
            stage.card(row),
            stage.log()
        );
    }
    let peak = stage.sessions_peak.get();
    assert!(peak <= u64::from(stage.plan.sessions_max), "{peak} sessions were open");
    let record = stage.record();
    let called: BTreeSet<&str> = messages(&record).map(|entry| digits(&entry.destination)).collect();
    for row in &stage.rows[in_field as usize..] {
        let number = row.msisdn.unwrap().to_string();
        assert!(!called.contains(digits(&number)), "a card that was never seen got a message");
    }
    assert!(!called.is_empty(), "nobody was called");
    record
}

/// What came from the platform, taken or not.
fn messages(record: &[Entry]) -> impl Iterator<Item = &Entry> {
    record.iter().filter(|entry| {
        matches!(
            entry.event,
            Happened::Submitted | Happened::Throttled | Happened::Refused | Happened::Dropped
        )
    })
}

fn count(record: &[Entry], event: Happened) -> usize {
    record.iter().filter(|entry| entry.event == event).count()
}

fn digits(number: &str) -> &str {
    number.trim_start_matches('+')
}

#[test]
fn a_service_centre_that_throttles() {
    let record = play("throttle_above_per_s = 10\nthrottle_by_nack = true", "rate_per_s = 1000");
    assert!(count(&record, Happened::Throttled) > 0, "nothing was throttled");
}

#[test]
fn a_link_that_is_lost_with_a_full_window() {
    for delivers in [false, true] {
        let faults = format!("drop_at_submit = 20\ndrop_window = 8\ndrop_delivers = {delivers}");
        let record = play(&faults, "rate_per_s = 1000\nwindow = 8\nreconnect_s_min = 1");
        let dropped = count(&record, Happened::Dropped);
        assert!(dropped > 0, "no link was lost");
    }
}

#[test]
fn messages_that_come_twice_late_and_in_another_order() {
    let faults =
        "duplicate_permille = 300\nreorder_permille = 300\ndelay_ms = 50\nreceipt_before_answer = true";
    let record = play(faults, "rate_per_s = 1000");
    // A counter is never given twice, so the same bytes are copies.
    let mut delivered: BTreeMap<&[u8], usize> = BTreeMap::new();
    for entry in record.iter().filter(|entry| entry.event == Happened::Delivered) {
        *delivered.entry(&entry.user_data.0).or_default() += 1;
    }
    assert!(delivered.values().any(|times| *times > 1), "nothing came twice");
}

#[test]
fn messages_and_receipts_that_never_come() {
    let record = play("lose_permille = 300\nlose_receipts_permille = 300", "rate_per_s = 1000");
    let (taken, brought) = (count(&record, Happened::Submitted), count(&record, Happened::Delivered));
    assert!(brought < taken, "nothing was lost: {taken} taken, {brought} brought");
}
