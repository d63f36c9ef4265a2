//! First and second server as processes of their own: a platform, an entitlement server in front of it, and a device
//! without coverage. One delivery goes to its card and is proven; the effect is read from the card's own state.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/processes.rs"]
mod processes;

use std::time::{Duration, Instant};

use processes::{client, operator_with_cards, server, silent};
use serde_json::Value;

#[test]
fn a_delivery_goes_through_an_entitlement_server_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ports = "[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(folder.join("simtide.toml"), ports).unwrap();
    let card = operator_with_cards(folder, 5, 3).remove(1);

    let (_platform, ready) = server(folder, &["serve", "--config", "simtide.toml"]);
    let api = format!("http://{}", ready["api"].as_str().unwrap());
    client(folder, &api, &["operators", "put", "home", "home.toml"]);
    client(folder, &api, &["import", "--plain", "--register", "home", "cards.csv"]);
    let second = ["entitlement", "--platform", &api, "--token-file", "simtide-data/admin.token"];
    let (_second, ready) = server(folder, &[&second[..], &["--listen", "127.0.0.1:0"]].concat());
    let url = format!("http://{}", ready["entitlement"].as_str().unwrap());

    let apdus = ["--apdu", "00A4080C047F906F04", "--apdu", "00D6000004C0FFEE5A"];
    let send = ["delivery", "send", &card, "--tar", "B00000", "--bearers", "ip", "--json"];
    let sent: Value = serde_json::from_str(&client(folder, &api, &[&send[..], &apdus].concat())).unwrap();
    let delivery = sent["id"].as_str().unwrap().to_owned();
    let card_of = ["--card", "soft:standard:card.bin", "--cards", "cards.csv", "--iccid", &card];
    let device =
        silent(folder, &[&["agent"], &card_of[..], &["--entitlement", &url, "--queue", "queue"]].concat());

    let since = Instant::now();
    let shown = loop {
        let shown = client(folder, &api, &["delivery", "show", &delivery, "--json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        if shown["state"] == "proven" {
            break shown;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "no proof within a minute: {shown}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(shown["delivered_by"], "ip", "{shown}");
    assert!(shown["fetched_at"].is_string(), "{shown}");
    drop(device);
    let state = std::fs::read(folder.join("card.bin")).unwrap();
    let written = state.windows(4).any(|bytes| bytes == [0xC0, 0xFF, 0xEE, 0x5A]);
    assert!(written, "the card's file holds what was sent");
}
