//! Roles of the binary as processes in a folder of their own, and the command line as their user.

#![allow(dead_code, reason = "each test uses its part")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use simtide_protocol::card_file::Format;
use simtide_protocol::ids::EpochMs;
use simtide_simulation::vendor::Order;

const SIMTIDE: &str = env!("CARGO_BIN_EXE_simtide");

/// An operator with a register of its own.
const HOME: &str =
    "id_mno = \"HOME\"\ndisplay_name = \"Home\"\nmcc = \"001\"\nmnc = \"01\"\n[register]\nkind = \"own\"\n";

/// Writes an operator as `home.toml`, and a vendor's file of its cards as `cards.csv`; answers their ICCIDs.
pub fn operator_with_cards(folder: &Path, seed: u64, cards: u32) -> Vec<String> {
    operator_with(folder, seed, cards, "standard")
}

/// The same with cards of another profile.
pub fn operator_with(folder: &Path, seed: u64, cards: u32, profile: &str) -> Vec<String> {
    let order = Order {
        seed,
        cards,
        network: "00101".into(),
        profile: profile.parse().unwrap(),
        device_kind: "meter".into(),
        dated: 0,
        first_poll: EpochMs(0),
        spread_ms: 0,
    };
    std::fs::write(folder.join("home.toml"), HOME).unwrap();
    std::fs::write(folder.join("cards.csv"), order.file(Format::Csv).unwrap()).unwrap();
    order.rows().unwrap().iter().map(|row| row.iccid.to_string()).collect()
}

/// A process that ends with the test.
pub struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a role that says on its first line where it listens.
pub fn server(folder: &Path, arguments: &[&str]) -> (Ended, Value) {
    let mut child = command(folder, arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    let child = Ended(child);
    let mut lines = BufReader::new(output).lines();
    let ready = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    // Whoever prints on must not be stopped by a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (child, ready)
}

/// Starts a role that says nothing.
pub fn silent(folder: &Path, arguments: &[&str]) -> Ended {
    Ended(command(folder, arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Where something listens, by its name in the line of a role that is ready.
pub fn address(ready: &Value, name: &str) -> SocketAddr {
    ready[name].as_str().unwrap().parse().unwrap()
}

/// The command line as a user of the API; what it prints.
pub fn client(folder: &Path, api: &str, arguments: &[&str]) -> String {
    let done = output(folder, api, arguments);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&done.stderr));
    text
}

/// The same where it fails: what it says on standard error.
pub fn refused(folder: &Path, api: &str, arguments: &[&str]) -> String {
    let done = output(folder, api, arguments);
    assert!(!done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stdout));
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn output(folder: &Path, api: &str, arguments: &[&str]) -> Output {
    command(folder, arguments).env("SIMTIDE_SERVER", api).output().unwrap()
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(SIMTIDE);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}
