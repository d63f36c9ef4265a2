//! `simtide agent --entitlement`: the real program with a card in software, a real entitlement server over sockets; then
//! the same through `simtide agent --relay` as the helper on a local line.

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::{CardId, Iccid, Tar};
use simtide_protocol::scp80::{
    CommandHeader, Counter, Key, KeySet, Kic, Kid, ResponseStatus, Security, Spi, open_response, seal,
};
use simtide_protocol::second_layer::UplinkContent;
use simtide_server::clock::Clock;
use simtide_server::entitlement::config::Entitlement;
use simtide_server::entitlement::source::{MemorySource, Waiting};
use simtide_server::entitlement::vectors::OneRegister;
use simtide_server::entitlement::{Server, Service};
use simtide_server::registers::memory::MemoryRegister;
use simtide_server::registers::{Register, Subscriber};

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn simtide(arguments: &[&str]) -> Ended {
    let child = Command::new(env!("CARGO_BIN_EXE_simtide"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Ended(child)
}

fn security() -> Security {
    Security { spi: Spi::new(0x16, 0x19), kic: Kic(0x12), kid: Kid(0x12) }
}

/// OTA keys of the test card.
fn keys() -> KeySet {
    KeySet::new(Some(Key::new(&[0x31; 16]).unwrap()), Some(Key::new(&[0x41; 16]).unwrap()))
}

fn waiting(name: &str, counter: u64) -> Waiting {
    // SELECT of EF.CONFIGURATION, UPDATE BINARY; long enough for several short messages.
    let select = "00a4000c027f9000a4000c026f04".repeat(20);
    let script = hex::decode(format!("{select}00d6000002c0de")).unwrap();
    let counter = Counter::new(counter).unwrap();
    let header = CommandHeader { security: security(), tar: Tar([0xB0, 0x00, 0x00]), counter };
    Waiting {
        id: name.parse().unwrap(),
        packet: seal(&header, &keys(), &script).unwrap(),
        originating_address: Some("+43660500".to_owned()),
        proof_wanted: true,
    }
}

/// Waits until the card has sent so many messages.
async fn uplinks(source: &MemorySource, card: CardId, count: usize) -> Vec<UplinkContent> {
    let since = Instant::now();
    loop {
        let uplinks = source.uplinks(card);
        if uplinks.len() >= count {
            return uplinks;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "no proof within a minute");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn assert_proven(uplink: &UplinkContent, name: &str) {
    let UplinkContent::Proof { id: Some(id), packet, .. } = uplink else { panic!("{uplink:?}") };
    assert_eq!(id.as_str(), name);
    let response = open_response(packet.strip_prefix(&[2, 0x71, 0]).unwrap(), &security(), &keys()).unwrap();
    assert_eq!(response.header.status, ResponseStatus::PorOk);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A certificate for 127.0.0.1, signed by itself.
fn self_signed(certificate: &Path, key: &Path) {
    let status = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=entitlement", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", text(key)])
        .args(["-out", text(certificate)])
        .stderr(Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "openssl is missing: install the package openssl");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_delivers_over_https_and_through_a_helper() {
    let card: CardId = "8988211000000000011".parse::<Iccid>().unwrap().into();
    let imsi = "001010000000001".parse().unwrap();
    let register = MemoryRegister::new("register", "00101", 0);
    let subscriber = Subscriber {
        card,
        imsi,
        algorithm: AuthenticationAlgorithm::Milenage,
        k: Secret::new(&[0x11; 16]).unwrap(),
        opc: Secret::new(&[0x22; 16]).unwrap(),
        msisdn: None,
    };
    register.provision(subscriber).await.unwrap();
    let source = Arc::new(MemorySource::default());
    source.put_subscriber(imsi, card);
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    self_signed(&certificate, &key);
    let config = Entitlement {
        listen: "127.0.0.1:0".to_owned(),
        tls_certificate: certificate.clone(),
        tls_key: key,
        ..Entitlement::default()
    };
    let vectors = Arc::new(OneRegister(Arc::new(register)));
    let server = Server::start(Service::new(config, Clock::REAL, source.clone(), vectors)).await.unwrap();
    let url = format!("https://{}/", server.address());
    let (queue, state) = (folder.path().join("queue"), folder.path().join("card.state"));
    let card_port = format!("soft:standard:{}", text(&state));
    let server_flags = ["--entitlement", &url, "--entitlement-ca", text(&certificate)];
    let mut agent = vec!["agent", "--card", &card_port, "--no-display", "--queue", text(&queue)];
    agent.extend(server_flags);

    source.put_waiting(card, waiting("00000000000000c1-1", 1));
    let running = simtide(&agent);
    assert_proven(&uplinks(&source, card, 1).await[0], "00000000000000c1-1");
    assert_eq!(source.fetched_items(card).len(), 1);
    drop(running);

    // The same card and the same queue, and now only a line to another machine.
    source.put_waiting(card, waiting("00000000000000c2-1", 2));
    let line = format!("unix:{}", text(&folder.path().join("line")));
    let mut helper = vec!["agent", "--relay", &line];
    helper.extend(server_flags);
    let _helper = simtide(&helper);
    let mut through = agent.clone();
    through.extend(["--over", &line]);
    let _running = simtide(&through);
    assert_proven(&uplinks(&source, card, 2).await[1], "00000000000000c2-1");
    server.stop();
}
