//! The ways of a proof, with processes on loopback: the card answers the ENVELOPE; its proof goes back over IP, or, where
//! IP is lost between the answer and the server, by short message through the service centre, or both. It counts once.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/gate.rs"]
mod gate;
#[path = "support/processes.rs"]
mod processes;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gate::Gate;
use processes::{address, client, operator_with, server, silent};
use serde_json::Value;
use simtide_protocol::profile::STANDARD_TEXT;

const ANY: &str = "127.0.0.1:0";
/// Cards that answer in the ENVELOPE's answer: PoR with CC, ciphered, not by SMS-SUBMIT.
const PROFILE: &str = "answering";
/// Seconds of the device in a real one: its pauses pass quickly.
const RATE: u32 = 20;

/// The profile at the platform; there is no command for that.
fn put_profile(folder: &Path, api: &str) {
    let text = STANDARD_TEXT.replace("name = \"standard\"", &format!("name = \"{PROFILE}\""));
    let text = text.replace("spi = \"1639\"", "spi = \"1619\"");
    assert!(text.contains("\"1619\"") && text.contains(PROFILE), "the standard profile has changed");
    std::fs::write(folder.join("profile.toml"), &text).unwrap();
    let token = std::fs::read_to_string(folder.join("simtide-data/admin.token")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request =
        reqwest::Client::new().post(format!("{api}/v1/profiles")).bearer_auth(token.trim()).body(text);
    let answer = runtime.block_on(async { request.send().await.unwrap() });
    assert_eq!(answer.status(), 201);
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(60), "{what} within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_proof_goes_by_ip_or_by_sms_or_both_and_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let card = operator_with(folder, 9, 1, PROFILE).remove(0);
    let smsc = ["smsc", "--smpp", ANY, "--air", ANY, "--system-id", "simtide", "--password", "secret"];
    let (_smsc, smsc) = server(folder, &smsc);
    let config = format!(
        "[card_port]\nlisten = \"{ANY}\"\n[api]\nlisten = \"{ANY}\"\n[entitlement]\nlisten = \"{ANY}\"\n\
         [second_interface]\noriginating_address = \"+436605001\"\n\
         [[smpp.links]]\nport = {}\nsystem_id = \"simtide\"\npassword = \"secret\"\n",
        address(&smsc, "smpp").port()
    );
    std::fs::write(folder.join("simtide.toml"), config).unwrap();
    let (_platform, ready) = server(folder, &["serve", "--config", "simtide.toml"]);
    let api = format!("http://{}", address(&ready, "api"));
    put_profile(folder, &api);
    client(folder, &api, &["operators", "put", "home", "home.toml"]);
    client(folder, &api, &["import", "--plain", "--register", "home", "cards.csv"]);
    let send = |data: &str| {
        let update = format!("00D60000{:02X}{data}", data.len() / 2);
        let content = ["--tar", "B00000", "--apdu", "00A4080C047F906F04", "--apdu", &update];
        let sent = client(
            folder,
            &api,
            &[&["delivery", "send", &card, "--bearers", "ip", "--json"], &content[..]].concat(),
        );
        let sent: Value = serde_json::from_str(&sent).unwrap();
        sent["id"].as_str().unwrap().to_owned()
    };
    let proofs = |delivery: &str| {
        let shown = client(folder, &api, &["delivery", "show", delivery]);
        shown.lines().filter(|line| line.contains("proof by")).map(str::to_owned).collect::<Vec<_>>()
    };

    // Over IP: the device names the address that it had set.
    let first = send("C0FFEE01");
    let gate = Gate::to(address(&ready, "entitlement"));
    let (url, air) = (format!("http://{}", gate.address), format!("air:{}", address(&smsc, "air")));
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let clock = format!("{now_ms}:{now_ms}:{RATE}");
    let around =
        ["--smsc", &air, "--entitlement", &url, "--queue", "queue", "--no-display", "--clock", &clock];
    let soft = ["--card", "soft:profile.toml:card.bin", "--cards", "cards.csv", "--iccid", &card];
    let after = ["--sms-after-s", "20"];
    let _device = silent(folder, &[&["agent"], &soft[..], &around, &after].concat());
    let text = client(folder, &api, &["delivery", "watch", &first]);
    assert!(text.contains("proof by ip to 436605001: ") && text.contains("proven"), "{text}");
    let journal = || std::fs::read(folder.join("queue/queue.journal")).unwrap();
    let said = |what: &str| journal().windows(what.len()).filter(|at| *at == what.as_bytes()).count();
    until("the proof is acknowledged", || said("{\"acknowledged\"") == 1);

    // IP lasts for the query and for the read receipt; what the card answers then finds no way.
    gate.lets_through(2);
    let second = send("C0FFEE02");
    let text = client(folder, &api, &["delivery", "watch", &second]);
    for line in ["sent by ip", "on its disk", "proof by sms to 436605001: ", "proven"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    until("it is noted that the service centre has it", || said("{\"taken\"") == 1);
    assert_eq!(said("{\"acknowledged\""), 1, "nothing has gone over IP");
    let (proven, card_shown) = (proofs(&second), client(folder, &api, &["cards", "show", &card]));
    assert_eq!(proven.len(), 1, "{proven:?}");

    // IP is back: the same proof comes that way too, and is told from a new one.
    gate.lets_all_through();
    until("the server has it over IP too", || said("{\"acknowledged\"") == 2);
    assert_eq!(proofs(&second), proven);
    assert_eq!(client(folder, &api, &["cards", "show", &card]), card_shown);
    let state = std::fs::read(folder.join("card.bin")).unwrap();
    assert!(
        state.windows(4).any(|bytes| bytes == [0xC0, 0xFF, 0xEE, 0x02]),
        "read from the card's own state"
    );
}
