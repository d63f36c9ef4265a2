//! `simtide register-gateway` as an operator runs it: files of the link, a pool, the own centre, killed and started again.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use simtide_protocol::card_file::Format;
use simtide_protocol::gsup::ipa::Frame;
use simtide_protocol::gsup::{Body, Domain, Message, Procedure};
use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Imsi};
use simtide_server::registers::gateway::{Gateway, TransportKey};
use simtide_server::registers::{AttachReport, PoolState, Register, RegisterError, Seen};
use simtide_simulation::vendor::Order;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A gateway that ends with its owner.
struct Process {
    child: Child,
    ready: Value,
}

impl Process {
    fn start(folder: &Path, kill_at: Option<&str>, more: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_simtide"));
        command.current_dir(folder).args(["register-gateway", "--listen", "127.0.0.1:0"]).args(more);
        if let Some(place) = kill_at {
            command.env("SIMTIDE_KILL_AT", place);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Process { child, ready: serde_json::from_str(&line).unwrap() }
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.ready[name].as_str().unwrap().parse().unwrap()
    }

    fn client(&self, folder: &Path) -> Gateway {
        let file = |name: &str| folder.join("register-link").join(name);
        let transport = std::fs::read_to_string(file("transport.key")).unwrap();
        let transport = Arc::new(TransportKey::read(&transport).unwrap());
        let address = self.address("gateway").to_string();
        let (authority, certificate, key) =
            (file("authority.pem"), file("platform.pem"), file("platform.key"));
        Gateway::new(&address, &authority, &certificate, &key, transport).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn simtide(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_simtide"))
        .current_dir(folder)
        .arg("register-gateway")
        .args(arguments)
        .output()
        .unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// A folder with the files of a link and a pool of `count` identities.
fn folder(count: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (made, text) = simtide(folder.path(), &["certificates", "--name", "127.0.0.1"]);
    assert!(made, "{text}");
    let range = ["pool", "--first", "001020000000001", "--count", count, "--msisdn-first", "43660000001"];
    for added in [count.parse::<u64>().unwrap(), 0] {
        let (made, text) = simtide(folder.path(), &range);
        assert!(made && serde_json::from_str::<Value>(&text).unwrap()["added"] == added, "{text}");
    }
    folder
}

fn card() -> CardId {
    "8988211000000000011".parse().unwrap()
}

async fn frame(stream: &mut TcpStream, received: &mut Vec<u8>) -> Frame {
    loop {
        if let Some((frame, length)) = Frame::split(received).unwrap() {
            received.drain(..length);
            return frame;
        }
        let mut chunk = [0; 512];
        let read = stream.read(&mut chunk).await.unwrap();
        assert_ne!(read, 0, "closed");
        received.extend_from_slice(&chunk[..read]);
    }
}

/// A network element that attaches one identity.
async fn attach(gsup: SocketAddr, imsi: Imsi) {
    let (mut stream, mut received) = (TcpStream::connect(gsup).await.unwrap(), Vec::new());
    let mut next = Some(Body::UpdateLocation { domain: Some(Domain::CircuitSwitched) });
    loop {
        match frame(&mut stream, &mut received).await {
            Frame::IdGet(asked) => {
                stream.write_all(&Frame::here_is("vlr-1", &asked).encode()).await.unwrap();
            }
            Frame::Gsup(content) => match Message::decode(&content).unwrap().body {
                Body::InsertData { .. } => next = Some(Body::Done(Procedure::InsertData)),
                Body::Done(Procedure::UpdateLocation) => return,
                other => panic!("{other:?}"),
            },
            _ => {}
        }
        if let Some(body) = next.take() {
            let message = Message { imsi, body }.encode();
            stream.write_all(&Frame::Gsup(message).encode()).await.unwrap();
        }
    }
}

/// A platform that takes one report and answers.
async fn report(listener: TcpListener) -> (String, AttachReport) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    loop {
        let mut chunk = [0; 2048];
        let read = stream.read(&mut chunk).await.unwrap();
        request.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if let Ok(report) = serde_json::from_str(body) {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            return (head.to_owned(), report);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_its_own_centre_from_its_files_to_the_report() {
    let folder = folder("3");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let platform = format!("http://{}", listener.local_addr().unwrap());
    std::fs::write(folder.path().join("token"), "operator-token\n").unwrap();
    let more =
        ["--gsup", "127.0.0.1:0", "--platform", &platform, "--operator", "two", "--token-file", "token"];
    let gateway = Process::start(folder.path(), None, &more);
    let register = gateway.client(folder.path());
    let identity = register.reserve(ChangeId(1), card()).await.ok().unwrap();
    assert_eq!(identity.msisdn, Some("43660000001".parse().unwrap()));
    register.arm(ChangeId(1), identity.imsi).await.unwrap();
    attach(gateway.address("gsup"), identity.imsi).await;
    assert_eq!(register.watch(identity.imsi).await, Ok(Seen { known: true, attached: true }));
    let (head, told) = report(listener).await;
    assert!(head.starts_with("POST /v1/registers/two/attached HTTP/1.1"), "{head}");
    assert!(head.to_lowercase().contains("authorization: bearer operator-token"), "{head}");
    assert_eq!(told, AttachReport { imsi: identity.imsi, card: Some(card()) });
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_commit_a_change_has_one_identity_and_the_same_keys() {
    let folder = folder("3");
    let calm = Process::start(folder.path(), None, &[]);
    let first = calm.client(folder.path()).reserve(ChangeId(1), card()).await.ok().unwrap();
    drop(calm);
    for (place, done) in [("pool.commit.before:1", false), ("pool.commit.after:1", true)] {
        let change = ChangeId(if done { 3 } else { 2 });
        let dying = Process::start(folder.path(), Some(place), &[]);
        let lost = dying.client(folder.path()).reserve(change, card()).await;
        assert!(matches!(lost.err(), Some(RegisterError::Unknown(_))), "{place}");
        drop(dying);
        let risen = Process::start(folder.path(), None, &[]);
        let register = risen.client(folder.path());
        let reserved = register.pool().await.unwrap().reserved;
        assert_eq!(reserved, 1 + u64::from(done), "{place}");
        let again = register.reserve(change, card()).await.ok().unwrap();
        assert_eq!(register.pool().await.unwrap().reserved, 2, "one change, one identity");
        let before = register.reserve(ChangeId(1), card()).await.ok().unwrap();
        assert!(before.imsi == first.imsi && before.k == first.k && before.opc == first.opc);
        register.release(change, again.imsi).await.unwrap();
        drop(risen);
        // The release, too: at its first commit and at its second.
        let change = ChangeId(change.0 + 100);
        let calm = Process::start(folder.path(), None, &[]);
        let identity = calm.client(folder.path()).reserve(change, card()).await.ok().unwrap();
        drop(calm);
        for nth in ["pool.commit.after:1", "pool.commit.before:2"] {
            let dying = Process::start(folder.path(), Some(nth), &[]);
            let lost = dying.client(folder.path()).release(change, identity.imsi).await;
            assert!(matches!(lost, Err(RegisterError::Unknown(_)) | Ok(())), "{lost:?}");
        }
        let risen = Process::start(folder.path(), None, &[]);
        let register = risen.client(folder.path());
        register.release(change, identity.imsi).await.unwrap();
        let state = PoolState { free: 2, reserved: 1, assigned: 0, retired: 0 };
        assert_eq!(register.pool().await, Ok(state));
    }
}

#[test]
fn what_cannot_be_served_says_what_to_do() {
    let folder = folder("1");
    for (arguments, expected) in [
        (&["--backend", "osmo-hlr", "--ctrl", "10.0.0.1:4259"][..], "loopback"),
        (&["--backend", "pyhss", "--rest", "http://hss.example.org"][..], "write it as"),
        (&["--gsup", "0.0.0.0:0"][..], "loopback"),
        (&["--link", "nowhere"][..], "docs/registers.md"),
        (&["--platform", "http://127.0.0.1:1"][..], "--operator"),
        (&["pool", "--import", "nowhere.csv"][..], "nowhere.csv"),
        (&["certificates", "--name", "127.0.0.1"][..], "authority.pem"),
    ] {
        let (served, text) = simtide(folder.path(), arguments);
        assert!(!served && text.contains(expected), "{arguments:?}: {text}");
    }
}

/// The platform of an import, as a role of the binary.
fn serve(folder: &Path) -> Process {
    let config =
        "[data]\nfolder = \"data\"\n[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n";
    std::fs::write(folder.join("simtide.toml"), config).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_simtide"))
        .current_dir(folder)
        .args(["serve", "--config", "simtide.toml"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Process { child, ready: serde_json::from_str(&line).unwrap() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_writes_its_subscriptions_through_the_gateway() {
    let folder = folder("2");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let gateway = Process::start(folder.path(), None, &[]);
    let platform = serve(folder.path());
    let base = format!("http://{}", platform.address("api"));
    let token = std::fs::read_to_string(path("data/admin.token")).unwrap();
    let http = reqwest::Client::new();
    let operator = |transport: &str| {
        let settings = serde_json::json!({
            "id_mno": "00101", "display_name": "One", "mcc": "001", "mnc": "01", "transport_key": transport,
            "register": {
                "kind": "gateway", "addresses": { "gateway": gateway.address("gateway").to_string() },
                "ca": path("register-link/authority.pem"), "certificate": path("register-link/platform.pem"),
                "key": path("register-link/platform.key"),
            },
        });
        http.put(format!("{base}/v1/operators/one")).bearer_auth(token.trim()).json(&settings).send()
    };
    let cards = Order {
        seed: 7,
        cards: 20,
        network: "00101".to_owned(),
        profile: "standard".parse().unwrap(),
        device_kind: "meter".to_owned(),
        dated: 0,
        first_poll: EpochMs(1_900_000_000_000),
        spread_ms: 60_000,
    };
    std::fs::write(path("cards.out"), cards.file(Format::Out).unwrap()).unwrap();
    let import = || {
        let output = Command::new(env!("CARGO_BIN_EXE_simtide"))
            .args(["import", &path("cards.out"), "--plain", "--json", "--register", "one", "--server", &base])
            .args(["--token-file", &path("data/admin.token")])
            .output()
            .unwrap();
        let text = String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap();
        (output.status.success(), text)
    };
    // Another transport key than the gateway's: nothing is written, and the report says why.
    assert!(operator(&"ab01".repeat(16)).await.unwrap().status().is_success());
    let (well, text) = import();
    assert!(!well && text.contains("transport key"), "{text}");
    let register = gateway.client(folder.path());
    assert_eq!(register.pool().await.unwrap().assigned, 0);
    let transport = std::fs::read_to_string(path("register-link/transport.key")).unwrap();
    assert!(operator(transport.trim()).await.unwrap().status().is_success());
    for _ in 0..2 {
        let (well, text) = import();
        assert!(well, "{text}");
        assert_eq!(register.pool().await.unwrap().assigned, 20);
    }
    for row in cards.rows().unwrap() {
        assert_eq!(register.watch(row.imsi.unwrap()).await, Ok(Seen { known: true, attached: false }));
    }
    let shown = http.get(format!("{base}/v1/operators/one")).bearer_auth(token.trim()).send().await.unwrap();
    let shown = shown.text().await.unwrap();
    assert!(!shown.contains(transport.trim()), "a transport key is never shown");
}
