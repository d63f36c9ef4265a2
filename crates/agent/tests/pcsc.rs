//! Our card in the hands of foreign tools: pcscd with the virtual reader vpcd, and `scriptor` of pcsc-tools as the
//! program that reads and updates it.
//!
//! Needs `pcscd`, `vsmartcard-vpcd` and `pcsc-tools`, and the right to start pcscd. Without them the test ends early,
//! unless `CI=true` says that this is a failure.

#![allow(clippy::unwrap_used)]

#[cfg(feature = "pcsc")]
#[path = "ip/server.rs"]
mod server;
#[cfg(feature = "pcsc")]
#[path = "ip/world.rs"]
mod world;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use simtide_agent::channel::OpensslChannels;
use simtide_agent::personalization::of_test_card;
use simtide_agent::port::soft::SoftPort;
use simtide_agent::vpcd::present;
use simtide_card::Card;
use simtide_protocol::profile::Profile;

const DRIVER: &str = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so";

/// Ends what was started here.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Asked first: a daemon that is killed leaves its socket behind.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let since = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && since.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn missing() -> Option<&'static str> {
    let found = |name: &str| {
        ["/usr/sbin", "/usr/bin", "/usr/local/bin"].iter().any(|folder| Path::new(folder).join(name).exists())
    };
    match () {
        () if !found("pcscd") => Some("pcscd"),
        () if !found("scriptor") => Some("pcsc-tools"),
        () if !Path::new(DRIVER).exists() => Some("vsmartcard-vpcd"),
        () if UnixStream::connect("/run/pcscd/pcscd.comm").is_ok() => {
            Some("a machine where no pcscd runs yet")
        }
        () => None,
    }
}

/// Starts pcscd with one virtual reader at this port.
fn pcscd(folder: &Path, port: u16) -> Ended {
    let reader = format!(
        "FRIENDLYNAME \"Simtide test\"\nDEVICENAME /dev/null:0x{port:04X}\nLIBPATH {DRIVER}\nCHANNELID 0x{port:04X}\n"
    );
    std::fs::write(folder.join("reader.conf"), reader).unwrap();
    let log = std::fs::File::create(folder.join("pcscd.log")).unwrap();
    let child = Command::new("pcscd")
        .args(["--foreground", "--config"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Ended(child)
}

/// A port for the virtual reader, which listens at the next one too: it has two slots.
fn free_port() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

fn connected(port: u16) -> TcpStream {
    let since = Instant::now();
    loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            return stream;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "the virtual reader does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the foreign program prints after these commands.
fn scriptor(commands: &[&str]) -> String {
    let since = Instant::now();
    loop {
        let mut child = Command::new("scriptor")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all((commands.join("\n") + "\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The reader needs a moment to notice its card.
        if text.contains("< ") || since.elapsed() > Duration::from_secs(20) {
            return text + &String::from_utf8_lossy(&output.stderr);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// There is one pcscd on a machine.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn a_pcsc_client_reads_and_updates_the_card() {
    let _one = ONE.lock();
    if let Some(part) = missing() {
        let required = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!required, "{part} is missing");
        eprintln!("skipped: {part} is missing");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let daemon = pcscd(folder.path(), port);
    let reader = connected(port);
    let hang_up = reader.try_clone().unwrap();
    let profile = Arc::new(Profile::standard());
    let card = Card::personalised(profile.clone(), &of_test_card(&profile));
    let mut card = SoftPort::volatile(card, Arc::new(OpensslChannels::new().unwrap()));
    let presented = std::thread::spawn(move || present(reader, &mut card));
    let said = scriptor(&[
        "00 A4 00 0C 02 3F 00",
        "00 A4 00 0C 02 2F E2",
        "00 B0 00 00 0A",
        // ADM 1, then EF.CONFIGURATION by its path: updated and read back.
        "00 20 00 0A 08 31 32 33 34 35 36 37 38",
        "00 A4 08 0C 04 7F 90 6F 04",
        "00 D6 00 00 02 C0 DE",
        "00 B0 00 00 02",
    ]);
    let log = std::fs::read_to_string(folder.path().join("pcscd.log")).unwrap_or_default();
    assert!(said.contains("98 88 12 01 00 00 00 00 10 F1 90 00"), "{said}\n{log}");
    assert!(said.contains("C0 DE 90 00"), "{said}");
    hang_up.shutdown(std::net::Shutdown::Both).unwrap();
    drop(daemon);
    let _ = presented.join().unwrap();
}

/// A delivery over IP whose card lies in a reader of the system: our device asks pcscd, pcscd its virtual reader.
#[cfg(feature = "pcsc")]
#[test]
fn a_delivery_through_a_reader_of_the_system() {
    use std::sync::Mutex;

    use simtide_agent::port::CardPort;
    use simtide_agent::port::pcsc::PcscPort;

    let _one = ONE.lock();
    if let Some(part) = missing() {
        let required = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!required, "{part} is missing");
        eprintln!("skipped: {part} is missing");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let daemon = pcscd(folder.path(), port);
    let stream = connected(port);
    let hang_up = stream.try_clone().unwrap();
    let mut card = world::test_card();
    let presented = std::thread::spawn(move || {
        let _ = present(stream, &mut card);
        world::configuration(&mut card, 3)
    });
    let since = Instant::now();
    // The reader needs a moment to notice its card.
    let mut reader = loop {
        if let Ok(mut reader) = PcscPort::open("Simtide test")
            && reader.reset().is_ok()
        {
            break reader;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "the reader has no card");
        std::thread::sleep(Duration::from_millis(50));
    };
    let items = vec![world::item("00000000000000d1-1", world::packet(1, world::BY_REPORT, "aabbcc", 40))];
    let server = Arc::new(Mutex::new(server::Server { sqn: 1000, items, ..server::Server::default() }));
    let mut world = world::World::new(&server, None, world::START);
    assert!(world.run(&mut reader));
    let proofs = server.lock().unwrap().proofs();
    assert_eq!(proofs.len(), 1);
    let status = world::opened(&proofs[0].1, world::BY_REPORT).header.status;
    assert_eq!(status, simtide_protocol::scp80::ResponseStatus::PorOk);
    drop(reader);
    hang_up.shutdown(std::net::Shutdown::Both).unwrap();
    drop(daemon);
    assert_eq!(presented.join().unwrap(), "aabbcc");
}
