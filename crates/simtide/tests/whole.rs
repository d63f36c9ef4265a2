//! The whole system, thin: platform, service centre and a fleet of 20 cards as processes on loopback, an import, one
//! campaign, and its effects read from the cards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use simtide_protocol::card_file::Format;
use simtide_protocol::ids::EpochMs;
use simtide_simulation::reader::Reader;
use simtide_simulation::vendor::Order;

const CARDS: u32 = 20;
const CONFIGURATION: [u16; 2] = [0x7F90, 0x6F04];
/// The cyclic counter that one step increases: it shows how often the campaign ran.
const COUNTER: [u16; 2] = [0x7F90, 0x6F03];

/// A role of the binary, ended with the test.
struct Role {
    child: Child,
    ready: Value,
}

impl Role {
    fn start(arguments: &[&str]) -> Role {
        let mut child = Command::new(env!("CARGO_BIN_EXE_simtide"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        // Whoever prints on must not be stopped by a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Role { child, ready }
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.ready[name].as_str().unwrap().parse().unwrap()
    }

    /// Asks it to end, and waits.
    fn end(mut self) -> std::process::ExitStatus {
        // SAFETY: our own child, not yet waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        self.child.wait().unwrap()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `simtide ARGUMENTS` as a user of the API, answering its JSON.
fn ask(server: &str, token: &str, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_simtide"))
        .args(arguments)
        .args(["--json", "--server", server])
        .env("SIMTIDE_TOKEN", token)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.display().to_string()
}

#[test]
fn twenty_cards_are_imported_called_in_and_updated_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let rate = 5_000;
    let clock = format!("{now_ms}:{now_ms}:{rate}");
    let order = Order {
        seed: 7,
        cards: CARDS,
        network: "00101".to_owned(),
        profile: "standard".parse().unwrap(),
        device_kind: "meter".to_owned(),
        dated: CARDS,
        // A few cards come by themselves while the campaign runs, the last ones a hundred days later.
        first_poll: EpochMs(now_ms + 5_000 * rate),
        spread_ms: 100 * 86_400_000,
    };
    let rows = order.rows().unwrap();
    let cards = write(&folder.path().join("cards.out"), &order.file(Format::Out).unwrap());
    let smsc = Role::start(&[
        "smsc",
        "--smpp",
        "127.0.0.1:0",
        "--air",
        "127.0.0.1:0",
        "--system-id",
        "simtide",
        "--password",
        "secret",
        "--clock",
        &clock,
    ]);
    let config = format!(
        "[data]\nfolder = {:?}\n[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n\
         [flow]\ntick_ms = {}\nsession_initial_ms = {}\nresponse_initial_ms = {}\n\
         [clock]\nrate = {rate}\nreal_anchor_ms = {now_ms}\nvirtual_anchor_ms = {now_ms}\n\
         [[smpp.links]]\nport = {}\nsystem_id = \"simtide\"\npassword = \"secret\"\n",
        folder.path().join("data"),
        50 * rate,
        200 * rate,
        200 * rate,
        smsc.address("smpp").port(),
    );
    let config = write(&folder.path().join("simtide.toml"), &config);
    let trace = folder.path().join("trace.jsonl").display().to_string();
    let platform = Role::start(&["serve", "--config", &config, "--trace", &trace]);
    let server = format!("http://{}", platform.address("api"));
    let token = std::fs::read_to_string(platform.ready["token_file"].as_str().unwrap()).unwrap();

    let import = ask(&server, &token, &["import", "--plain", &cards]);
    assert_eq!((import["imported"].as_u64(), import["refused"].as_u64()), (Some(CARDS.into()), Some(0)));
    let again = ask(&server, &token, &["import", "--plain", &cards]);
    assert_eq!(again["unchanged"].as_u64(), Some(CARDS.into()), "the same file again changes nothing");

    let fleet = Role::start(&[
        "fleet",
        "--cards",
        &cards,
        "--smsc",
        &smsc.address("air").to_string(),
        "--door",
        "127.0.0.1:0",
        "--platform",
        &platform.address("card_port").to_string(),
        "--clock",
        &clock,
        "--power-on-spread-ms",
        "100",
    ]);
    let campaign = json!({
        "name": "whole",
        "content": { "repeatable": false, "variants": { "*": [
            { "do": { "file_update": { "path": "3F00/7F90/6F04", "data": "01020304" } } },
            { "do": { "script": { "commands": ["00A4080C047F906F03", "8032000003000001"] } }, "tar": "B00000" },
        ] } },
        "settings": { "never_seen": "like-others", "validity_s": 50_000, "backoff_s": 50_000,
                      "leave_to_poll_s": 5_000, "overdue_max_s": 100_000_000 },
    });
    let campaign = write(&folder.path().join("campaign.json"), &campaign.to_string());
    let started = ask(&server, &token, &["campaign", "create", &campaign, "--start"]);
    let id = started["id"].as_u64().unwrap().to_string();
    let progress = loop {
        let shown = ask(&server, &token, &["campaign", "show", &id]);
        let count = |name: &str| shown["progress"][name].as_i64().unwrap();
        assert_eq!((count("failed"), count("interrupted")), (0, 0), "{shown}");
        if count("done_by_poll") + count("done_by_trigger") == i64::from(CARDS) {
            break shown["progress"].clone();
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(progress["done_by_trigger"].as_i64().unwrap() > 0, "{progress}");

    let door = fleet.address("door");
    for row in &rows {
        let mut card = Reader::connect(door, row.iccid).unwrap();
        assert_eq!(card.read_binary(&CONFIGURATION, 4).unwrap(), [1, 2, 3, 4], "{}", row.iccid);
        let counter = card.read_record(&COUNTER, 1, 4).unwrap();
        assert_eq!(counter.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte)), 1, "{}", row.iccid);
        let shown = ask(&server, &token, &["cards", "show", &row.iccid.to_string()]);
        assert_eq!(shown["history"][0]["result"], "done", "{shown}");
    }
    let listed = ask(&server, &token, &["cards", "list"]);
    assert_eq!(listed["cards"].as_array().unwrap().len(), CARDS as usize);
    assert!(platform.end().success(), "a platform that is asked to end ends well");
    replay(&trace);
}

/// The recorded run makes the planner decide the same again.
fn replay(trace: &str) {
    let text = std::fs::read_to_string(trace).unwrap();
    let mut lines = text.lines();
    let header = serde_json::from_str(lines.next().unwrap()).unwrap();
    let lines = lines.map(|line| serde_json::from_str(line).unwrap());
    let steps =
        simtide_platform::trace::replay::<simtide_protocol::ids::CardId>(&header, lines.collect::<Vec<_>>());
    assert!(steps.unwrap() > 10);
}
