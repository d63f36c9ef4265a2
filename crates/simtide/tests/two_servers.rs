//! First and second server as processes of their own: a platform, an entitlement server in front of it, and a device
//! without coverage. One delivery goes to its card and is proven; the effect is read from the card's own state.

#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use simtide_protocol::card_file::Format;
use simtide_protocol::ids::EpochMs;
use simtide_simulation::vendor::Order;

const SIMTIDE: &str = env!("CARGO_BIN_EXE_simtide");

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a role that says on its first line where it listens.
fn server(folder: &Path, arguments: &[&str]) -> (Ended, Value) {
    let mut child = Command::new(SIMTIDE)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    let child = Ended(child);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).unwrap();
    (child, serde_json::from_str(&line).unwrap())
}

fn client(folder: &Path, api: &str, arguments: &[&str]) -> String {
    let done = Command::new(SIMTIDE)
        .args(arguments)
        .current_dir(folder)
        .env("SIMTIDE_SERVER", api)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&done.stderr));
    text
}

#[test]
fn a_delivery_goes_through_an_entitlement_server_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ports = "[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(folder.join("simtide.toml"), ports).unwrap();
    let home = "id_mno = \"HOME\"\ndisplay_name = \"Home\"\nmcc = \"001\"\nmnc = \"01\"\n[register]\nkind = \"own\"\n";
    std::fs::write(folder.join("home.toml"), home).unwrap();
    let order = Order {
        seed: 5,
        cards: 3,
        network: "00101".into(),
        profile: "standard".parse().unwrap(),
        device_kind: "meter".into(),
        dated: 0,
        first_poll: EpochMs(0),
        spread_ms: 0,
    };
    std::fs::write(folder.join("cards.csv"), order.file(Format::Csv).unwrap()).unwrap();
    let card = order.rows().unwrap()[1].iccid.to_string();

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
    let device = Command::new(SIMTIDE)
        .args(["agent", "--card", "soft:standard:card.bin", "--cards", "cards.csv", "--iccid", &card])
        .args(["--entitlement", &url, "--queue", "queue"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let device = Ended(device);

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
