//! The commands of the README do what it says.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use simtide_protocol::card_file::Format;
use simtide_protocol::ids::EpochMs;
use simtide_simulation::vendor::Order;

const SIMTIDE: &str = env!("CARGO_BIN_EXE_simtide");

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).unwrap()
}

/// The fenced block of a language after a heading.
fn block(text: &str, heading: &str, language: &str) -> String {
    let after = text.split_once(heading).unwrap().1;
    let fenced = after.split_once(&format!("```{language}\n")).unwrap().1;
    fenced.split_once("```").unwrap().0.to_owned()
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_two_commands_are_those_of_the_script() {
    let commands = block(&readme(), "## Two commands", "sh");
    let script = fs::read_to_string(root().join("run")).unwrap();
    for line in commands.lines() {
        let verb = line.strip_prefix("./run ").unwrap().split_whitespace().next().unwrap();
        assert!(script.contains(&format!("\n  {verb})\n")), "./run has no {verb}");
    }
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.contains("./run test"));
}

#[test]
fn every_role_of_the_table_exists() {
    let help = Command::new(SIMTIDE).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let table = readme().split_once("## What is in the box").unwrap().1.to_owned();
    let table = table.split("## ").next().unwrap();
    let mut roles = 0;
    for role in table.split("`simtide ").skip(1) {
        let role = role.split('`').next().unwrap();
        assert!(help.contains(&format!("\n  {role} ")), "simtide {role} does not exist");
        roles += 1;
    }
    assert!(roles >= 10);
}

#[test]
fn a_first_campaign() {
    let folder = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(root().join("simtide.toml")).unwrap();
    let config = config.replace("127.0.0.1:8443", "127.0.0.1:0").replace("127.0.0.1:8080", "127.0.0.1:0");
    // Decisions every half second, so that nobody waits a minute for this test.
    let config = config.replace("tick_ms = 60000", "tick_ms = 500");
    fs::write(folder.path().join("simtide.toml"), config).unwrap();
    let order = Order {
        seed: 3,
        cards: 12,
        network: "00101".into(),
        profile: "standard".parse().unwrap(),
        device_kind: "meter".into(),
        dated: 0,
        first_poll: EpochMs(0),
        spread_ms: 0,
    };
    fs::write(folder.path().join("cards.csv"), order.file(Format::Csv).unwrap()).unwrap();
    let heading = "## A first campaign";
    fs::write(folder.path().join("update.json"), block(&readme(), heading, "json")).unwrap();

    let commands = block(&readme(), heading, "sh");
    let mut commands = commands.lines().map(|line| line.split(" #").next().unwrap().trim());
    let words = |line: &str| line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let serve = commands.next().unwrap();
    let mut server = Command::new(SIMTIDE)
        .args(words(serve))
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = server.stdout.take().unwrap();
    let server = Server(server);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = format!("http://{}", ready["api"].as_str().unwrap());

    let mut last = String::new();
    for line in commands {
        let outcome = Command::new(SIMTIDE)
            .args(words(line))
            .current_dir(folder.path())
            .env("SIMTIDE_SERVER", &address)
            .output()
            .unwrap();
        last = String::from_utf8_lossy(&[outcome.stdout, outcome.stderr].concat()).into_owned();
        assert!(outcome.status.success(), "{line}: {last}");
    }
    // No card of this file has ever been in contact: the campaign ends at once, and says whom it is waiting for.
    assert!(last.contains("never seen") && last.contains("12"), "{last}");
    drop(server);
}
