//! First and second server as processes of their own: a platform, an entitlement server in front of it, and a device
//! without coverage. Deliveries go to its card and are proven; the effect is read from the card's own state. The second
//! one comes to wait when the device has no reason to ask for a day: the platform's push wakes it.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/processes.rs"]
mod processes;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use processes::{client, operator_with_cards, server, silent};
use serde_json::Value;

/// A free port of loopback for who cannot say which one it took.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Delivers bytes to a file of the card over IP, until they are proven.
fn deliver(folder: &Path, api: &str, card: &str, data: &str, meanwhile: impl FnOnce()) {
    let update = format!("00D60000{:02X}{data}", data.len() / 2);
    let apdus = ["--apdu", "00A4080C047F906F04", "--apdu", &update];
    let send = ["delivery", "send", card, "--tar", "B00000", "--bearers", "ip", "--json"];
    let sent: Value = serde_json::from_str(&client(folder, api, &[&send[..], &apdus].concat())).unwrap();
    let delivery = sent["id"].as_str().unwrap().to_owned();
    meanwhile();
    let since = Instant::now();
    let shown = loop {
        let shown = client(folder, api, &["delivery", "show", &delivery, "--json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        if shown["state"] == "proven" {
            break shown;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "no proof within a minute: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(shown["delivered_by"], "ip", "{shown}");
    assert!(shown["fetched_at"].is_string(), "{shown}");
}

#[test]
fn deliveries_go_through_an_entitlement_server_of_its_own_and_a_push_wakes_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let woken = free_address();
    std::fs::write(folder.join("push.key"), "a secret that the push service shares").unwrap();
    let config = format!(
        "[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n[entitlement]\nseparate = true\n\
         push_url = \"http://{woken}/push\"\npush_secret_file = \"push.key\"\n"
    );
    std::fs::write(folder.join("simtide.toml"), config).unwrap();
    let card = operator_with_cards(folder, 5, 3).remove(1);

    let (_platform, ready) = server(folder, &["serve", "--config", "simtide.toml"]);
    let api = format!("http://{}", ready["api"].as_str().unwrap());
    client(folder, &api, &["operators", "put", "home", "home.toml"]);
    client(folder, &api, &["import", "--plain", "--register", "home", "cards.csv"]);
    let second = ["entitlement", "--platform", &api, "--token-file", "simtide-data/admin.token"];
    let (_second, ready) = server(folder, &[&second[..], &["--listen", "127.0.0.1:0"]].concat());
    let url = format!("http://{}", ready["entitlement"].as_str().unwrap());

    let mut device = None;
    deliver(folder, &api, &card, "C0FFEE5A", || {
        let card_of = ["--card", "soft:standard:card.bin", "--cards", "cards.csv", "--iccid", &card];
        let way = ["--entitlement", &url, "--queue", "queue"];
        let push = ["--notif-token", "device-7", "--notified-at", &woken];
        device = Some(silent(folder, &[&["agent"], &card_of[..], &way, &push].concat()));
    });
    deliver(folder, &api, &card, "C0FFEE5B", || {});
    drop(device);
    let state = std::fs::read(folder.join("card.bin")).unwrap();
    let written = state.windows(4).any(|bytes| bytes == [0xC0, 0xFF, 0xEE, 0x5B]);
    assert!(written, "the card's file holds what was sent");
}
