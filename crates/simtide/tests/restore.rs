//! Yesterday's backup: the platform is killed, its folder replaced by a copy that knows nothing of what was sent since,
//! and started as docs/operations.md says. The card, which has seen later counters, still obeys.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/processes.rs"]
mod processes;

use std::path::Path;
use std::process::Command;

use processes::{Ended, address, client, operator_with_cards, server, silent};
use serde_json::Value;

const ANY: &str = "127.0.0.1:0";

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Updates the card's configuration by short messages, and waits for its proof; what the operator sees.
fn update(folder: &Path, platform: &(Ended, Value), card: &str, data: &str) -> String {
    let api = format!("http://{}", address(&platform.1, "api"));
    let update = format!("00D60000{:02X}{data}", data.len() / 2);
    let content = ["--tar", "B00000", "--apdu", "00A4080C047F906F04", "--apdu", &update, "--repeatable"];
    let how = ["--bearers", "sms", "--watch"];
    client(folder, &api, &[&["delivery", "send", card], &content[..], &how].concat())
}

/// The counter that a delivery was sealed with.
fn counter(text: &str) -> u64 {
    let after = text.split("sealed with counter ").nth(1).unwrap_or_else(|| panic!("{text}"));
    after
        .split_whitespace()
        .next()
        .unwrap()
        .trim_end_matches(|end: char| !end.is_ascii_digit())
        .parse()
        .unwrap()
}

#[test]
fn cards_obey_a_platform_that_was_restored_from_yesterdays_backup() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let card = operator_with_cards(path, 9, 1).remove(0);
    let smsc = ["smsc", "--smpp", ANY, "--air", ANY, "--system-id", "simtide", "--password", "secret"];
    let smsc = server(path, &smsc);
    let config = format!(
        "[card_port]\nlisten = \"{ANY}\"\n[api]\nlisten = \"{ANY}\"\n\
         [[smpp.links]]\nport = {}\nsystem_id = \"simtide\"\npassword = \"secret\"\n",
        address(&smsc.1, "smpp").port()
    );
    std::fs::write(path.join("simtide.toml"), config).unwrap();
    let serve = ["serve", "--config", "simtide.toml"];
    let platform = server(path, &serve);
    let api = format!("http://{}", address(&platform.1, "api"));
    client(path, &api, &["operators", "put", "home", "home.toml"]);
    client(path, &api, &["import", "--plain", "--register", "home", "cards.csv"]);
    let air = format!("air:{}", address(&smsc.1, "air"));
    let soft = ["agent", "--card", "soft:standard:card.bin", "--cards", "cards.csv", "--iccid", &card];
    let _device = silent(path, &[&soft[..], &["--smsc", &air, "--no-display"]].concat());

    let first = counter(&update(path, &platform, &card, "C0FFEE01"));
    // The backup: a copy of the folder while nothing runs.
    drop(platform);
    let (data, backup) = (path.join("simtide-data"), path.join("backup"));
    copy(&data, &backup);
    let platform = server(path, &serve);
    let second = counter(&update(path, &platform, &card, "C0FFEE02"));
    let third = counter(&update(path, &platform, &card, "C0FFEE03"));
    assert!(first < second && second < third);
    drop(platform);

    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    let platform = server(path, &[&serve[..], &["--restored"]].concat());
    let after = update(path, &platform, &card, "C0FFEE04");
    assert!(after.contains("proven") && counter(&after) > third + 1_000_000, "{after}");
    let state = std::fs::read(path.join("card.bin")).unwrap();
    assert!(
        state.windows(4).any(|bytes| bytes == [0xC0, 0xFF, 0xEE, 0x04]),
        "read from the card's own state"
    );
}
