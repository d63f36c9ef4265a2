//! The card port against real sockets: polls, bad identities, bad HTTP, deadlines, admission.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslVersion};
use simtide_protocol::ids::{CardId, Eid, Iccid};
use simtide_protocol::scp81::{ContentType, Request, Response};
use simtide_server::card_port::{Answer, Busy, CardPort, CardSession, Ended, Found, Psk, Sessions};
use simtide_server::config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

const KEY: [u8; 16] = [0x42; 16];
const FIRST: &str = "POST /poll HTTP/1.1\r\nHost: ota\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\
                     X-Admin-From: a card\r\n\r\n";

#[derive(Clone, Default)]
struct World {
    open: Arc<Mutex<HashSet<CardId>>>,
    ended: Arc<Mutex<Vec<Ended>>>,
    cards: Arc<HashMap<Vec<u8>, CardId>>,
    scripts: usize,
}

struct Visit {
    world: World,
    card: CardId,
    left: usize,
}

impl World {
    fn new(scripts: usize) -> World {
        let cards = (0..4).map(|n| (format!("card-{n}").into_bytes(), card(n))).collect();
        World { cards: Arc::new(cards), scripts, ..World::default() }
    }
}

fn card(n: u32) -> CardId {
    CardId::from(Iccid::with_check_digit(&format!("89001000000000{n:04}")).unwrap())
}

fn eid() -> Eid {
    Eid::with_check_digits("890010000000000000000000000001").unwrap()
}

impl Sessions for World {
    type Session = Visit;

    async fn find(&self, identity: Vec<u8>) -> Option<Found> {
        tokio::task::yield_now().await;
        let card = *self.cards.get(&identity)?;
        Some(Found { card, eid: Some(eid()), psk: Psk::new(KEY.to_vec()) })
    }

    async fn open(&self, card: CardId) -> Result<Visit, Busy> {
        if !self.open.lock().unwrap().insert(card) {
            return Err(Busy);
        }
        Ok(Visit { world: self.clone(), card, left: self.scripts })
    }
}

impl CardSession for Visit {
    async fn request(&mut self, _request: Request) -> Answer {
        if self.left == 0 {
            return Answer::Finish(Response::end());
        }
        self.left -= 1;
        let next = "/next?step=1".parse().unwrap();
        Answer::Continue(Response::script(next, None, ContentType::CommandData, vec![0xAA, 0]))
    }

    async fn ended(self, how: Ended) {
        self.world.open.lock().unwrap().remove(&self.card);
        self.world.ended.lock().unwrap().push(how);
    }
}

fn config() -> config::CardPort {
    config::CardPort { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..config::CardPort::default() }
}

async fn start(config: config::CardPort, world: &World) -> CardPort {
    CardPort::start(config, world.clone()).await.unwrap()
}

fn client(identity: &str, key: [u8; 16], suites: &str) -> SslContext {
    let identity = std::ffi::CString::new(identity).unwrap();
    let mut builder = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
    builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    builder.set_cipher_list(suites).unwrap();
    builder.set_psk_client_callback(move |_, _, out, psk| {
        let identity = identity.as_bytes_with_nul();
        out[..identity.len()].copy_from_slice(identity);
        psk[..16].copy_from_slice(&key);
        Ok(16)
    });
    builder.build()
}

async fn connect(
    address: SocketAddr,
    identity: &str,
    key: [u8; 16],
) -> Result<SslStream<TcpStream>, openssl::ssl::Error> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let context = client(identity, key, "PSK-AES128-CBC-SHA256:PSK-AES128-GCM-SHA256");
    let mut stream = SslStream::new(Ssl::new(&context).unwrap(), tcp).unwrap();
    Pin::new(&mut stream).connect().await?;
    Ok(stream)
}

async fn say(stream: &mut SslStream<TcpStream>, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

/// Waits for a counter of the server to arrive at a value; the test's own time limit is the only deadline.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_poll_without_work_ends_with_204() {
    let world = World::new(0);
    let port = start(config(), &world).await;
    let mut stream = connect(port.address(), "card-1", KEY).await.unwrap();
    assert_eq!(stream.ssl().current_cipher().unwrap().name(), "PSK-AES128-CBC-SHA256");
    let answer = say(&mut stream, FIRST).await;
    assert!(answer.starts_with("HTTP/1.1 204 No Content\r\nX-Admin-Protocol: "), "{answer}");
    assert!(!answer.contains("Content-"), "{answer}");
    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0, "the session ends by close_notify");
    let counters = port.counters();
    until(|| port.open() == 0).await;
    assert_eq!(counters.completed.load(Ordering::Relaxed), 1);
    assert_eq!(*world.ended.lock().unwrap(), [Ended::Completed]);
}

#[tokio::test]
async fn scripts_go_back_and_forth_on_one_connection_in_pieces_of_any_size() {
    let world = World::new(2);
    let port = start(config(), &world).await;
    let mut stream = connect(port.address(), "card-2", KEY).await.unwrap();
    let answer = say(&mut stream, FIRST).await;
    assert!(answer.contains("X-Admin-Next-URI: /next?step=1\r\n") && answer.contains("Content-Length: 2"));
    let head = "POST /next?step=1 HTTP/1.1\r\nHost: ota\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\
                X-Admin-Script-Status: ok\r\nContent-Type: application/vnd.etsi.scp.response-data;version=1.0\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\nAB02\r\n0\r\n\r\n");
    for byte in &chunked.as_bytes()[..chunked.len() - 1] {
        stream.write_all(&[*byte]).await.unwrap();
    }
    assert!(say(&mut stream, "\n").await.starts_with("HTTP/1.1 200"));
    let answer = say(&mut stream, &format!("{head}Content-Length: 4\r\n\r\nAB02")).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
}

#[tokio::test]
async fn both_suites_where_wanted_and_never_one_without_encryption() {
    let world = World::new(0);
    for (gcm, suites, works) in [
        (true, "PSK-AES128-GCM-SHA256", true),
        (false, "PSK-AES128-GCM-SHA256", false),
        (true, "PSK-NULL-SHA256:@SECLEVEL=0", false),
        (true, "PSK-AES128-CBC-SHA:@SECLEVEL=0", false),
    ] {
        let port = start(config::CardPort { gcm, ..config() }, &world).await;
        let tcp = TcpStream::connect(port.address()).await.unwrap();
        let context = client("card-1", KEY, suites);
        let mut stream = SslStream::new(Ssl::new(&context).unwrap(), tcp).unwrap();
        assert_eq!(Pin::new(&mut stream).connect().await.is_ok(), works, "{suites}");
    }
}

/// A ClientHello for 0x00AE, then a key exchange with this identity and a Finished that nobody can have made.
/// Returns what the server sent after the key exchange.
async fn knock(address: SocketAddr, identity: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0, 0xAE, 0, 0xFF, 1, 0]);
    stream.write_all(&handshake(1, &hello)).await.unwrap();
    let mut flight = Vec::new();
    while !flight.ends_with(&[14, 0, 0, 0]) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        flight.push(byte[0]);
    }
    let exchange = [&(identity.len() as u16).to_be_bytes(), identity].concat();
    let mut last = handshake(16, &exchange);
    last.extend([20, 3, 3, 0, 1, 1]);
    last.extend([22, 3, 3, 0, 80]);
    last.extend([0x5A; 80]);
    let _ = stream.write_all(&last).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    rest
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[kind, length[1], length[2], length[3]], body].concat();
    let mut records = Vec::new();
    for piece in message.chunks(1 << 14) {
        records.extend([22, 3, 3]);
        records.extend((piece.len() as u16).to_be_bytes());
        records.extend(piece);
    }
    records
}

#[tokio::test]
async fn a_stranger_cannot_tell_which_cards_exist() {
    const BAD_RECORD_MAC: [u8; 7] = [21, 3, 3, 0, 2, 2, 20];
    let world = World::new(0);
    let port = start(config(), &world).await;
    for identity in [&b"card-1"[..], b"card-9", b"", b"card-1\0", b"a\0b", &[b'x'; 256], &[0xFF; 90]] {
        assert_eq!(knock(port.address(), identity).await, BAD_RECORD_MAC, "{}", identity.len());
    }
    for length in [257, 1000, 65_535] {
        let answer = knock(port.address(), &vec![b'x'; length]).await;
        assert!(answer.is_empty() || answer.starts_with(&[21, 3, 3, 0, 2, 2]), "{length}: {answer:?}");
    }
    // The same through a real client: a wrong key and an unknown identity.
    let wrong_key = connect(port.address(), "card-1", [1; 16]).await.unwrap_err().to_string();
    let unknown = connect(port.address(), "nobody", KEY).await.unwrap_err().to_string();
    assert_eq!(wrong_key, unknown);
    assert!(connect(port.address(), "card-1", KEY).await.is_ok(), "the port still serves");
}

#[tokio::test]
async fn bad_http_is_answered_and_closed() {
    let world = World::new(5);
    let port = start(config(), &world).await;
    let admin = "X-Admin-Protocol: globalplatform-remote-admin/1.0\r\n";
    let cases = [
        format!("POST / HTTP/1.1\r\n{admin}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        format!("POST / HTTP/1.1\r\n{admin}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{admin}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
        format!("POST / HTTP/1.1\r\n{admin}Content-Length: 99999999999\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{admin}\r\n"),
        "\0\0\0\0\r\n\r\n".to_owned(),
        format!("POST / HTTP/1.1\r\nX: {}", "a".repeat(9000)),
    ];
    for case in &cases {
        let mut stream = connect(port.address(), "card-1", KEY).await.unwrap();
        let answer = say(&mut stream, case).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(status.starts_with('4') || status.starts_with('5'), "{case:.60}: {answer}");
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap_or(0), 0, "closed");
    }
    let counters = port.counters();
    until(|| counters.bad_request.load(Ordering::Relaxed) == cases.len() as u64).await;
}

#[tokio::test]
async fn x_admin_from_of_another_card_is_counted_and_refused_where_wanted() {
    let other = Eid::with_check_digits("890010000000000000000000000002").unwrap();
    for (mismatch, status) in [(config::Mismatch::Log, "204"), (config::Mismatch::Refuse, "403")] {
        let world = World::new(0);
        let port = start(config::CardPort { admin_from_mismatch: mismatch, ..config() }, &world).await;
        for (eid, expected, counted) in [(eid(), "204", 0), (other, status, 1)] {
            let mut stream = connect(port.address(), "card-1", KEY).await.unwrap();
            let request = FIRST.replace("a card", &format!("//se-id/eid/{eid};//aa-id/aid/A000000559/10"));
            let answer = say(&mut stream, &request).await;
            assert!(answer.contains(expected), "{answer}");
            assert_eq!(port.counters().admin_from_mismatch.load(Ordering::Relaxed), counted);
            until(|| port.open() == 0).await;
        }
    }
}

/// `openssl s_client` as a card that polls.
#[tokio::test]
async fn a_foreign_tls_client_polls() {
    let world = World::new(0);
    let port = start(config(), &world).await;
    let client = tokio::process::Command::new("openssl")
        .args(["s_client", "-quiet", "-tls1_2", "-cipher", "PSK-AES128-CBC-SHA256", "-connect"])
        .arg(port.address().to_string())
        .args(["-psk_identity", "card-1", "-psk", &hex::encode(KEY)])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut client = match client {
        Ok(client) => client,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: no openssl command ({error}); install it");
            return;
        }
        Err(error) => panic!("no openssl command: {error}"),
    };
    let mut input = client.stdin.take().unwrap();
    input.write_all(FIRST.as_bytes()).await.unwrap();
    let output = client.wait_with_output().await.unwrap();
    drop(input);
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(answer.starts_with("HTTP/1.1 204 No Content\r\n"), "{answer}");
}

#[tokio::test]
async fn one_session_per_card() {
    let world = World::new(5);
    let port = start(config(), &world).await;
    let mut first = connect(port.address(), "card-1", KEY).await.unwrap();
    assert!(say(&mut first, FIRST).await.contains("200 OK"));
    let mut second = connect(port.address(), "card-1", KEY).await.unwrap();
    assert!(say(&mut second, FIRST).await.contains(" 503 "));
    let mut other = connect(port.address(), "card-2", KEY).await.unwrap();
    assert!(say(&mut other, FIRST).await.contains("200 OK"));
    drop(first);
    until(|| world.ended.lock().unwrap().contains(&Ended::Broken)).await;
    let mut third = connect(port.address(), "card-1", KEY).await.unwrap();
    assert!(say(&mut third, FIRST).await.contains("200 OK"));
}

#[tokio::test]
async fn silence_ends_in_every_state() {
    let world = World::new(5);
    let limits =
        config::CardPort { handshake_deadline_s: 1, idle_deadline_s: 1, body_deadline_s: 1, ..config() };
    let port = start(limits, &world).await;
    let mut silent = TcpStream::connect(port.address()).await.unwrap();
    silent.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
    let mut idle = connect(port.address(), "card-1", KEY).await.unwrap();
    let mut slow = connect(port.address(), "card-2", KEY).await.unwrap();
    slow.write_all(&FIRST.as_bytes()[..40]).await.unwrap();
    let mut between = connect(port.address(), "card-3", KEY).await.unwrap();
    assert!(say(&mut between, FIRST).await.contains("200 OK"));
    assert_eq!(silent.read(&mut [0; 10]).await.unwrap_or(0), 0);
    for stream in [&mut idle, &mut slow, &mut between] {
        assert_eq!(stream.read(&mut [0; 10]).await.unwrap_or(0), 0);
    }
    until(|| port.open() == 0).await;
    let counters = port.counters();
    assert_eq!(counters.handshake_late.load(Ordering::Relaxed), 1);
    assert_eq!(counters.late.load(Ordering::Relaxed), 3);
    assert_eq!(*world.ended.lock().unwrap(), [Ended::Late]);
}

#[tokio::test]
async fn more_connections_than_sessions_wait_and_are_reset() {
    let world = World::new(5);
    let limits =
        config::CardPort { sessions_max: 2, admission_wait_ms: 200, admission_queue_max: 1, ..config() };
    let port = start(limits, &world).await;
    let first = connect(port.address(), "card-1", KEY).await.unwrap();
    let _second = connect(port.address(), "card-2", KEY).await.unwrap();
    let mut line = TcpStream::connect(port.address()).await.unwrap();
    // The reset may come before connect has looked.
    if let Ok(mut closed) = TcpStream::connect(port.address()).await {
        assert!(closed.read(&mut [0; 1]).await.is_err(), "reset, not closed");
    }
    assert!(line.read(&mut [0; 1]).await.is_err(), "reset after the wait");
    let counters = port.counters();
    assert_eq!((counters.refused.load(Ordering::Relaxed), port.open()), (2, 2));
    drop(first);
    let third = connect(port.address(), "card-3", KEY).await;
    assert!(third.is_ok(), "a session that becomes free within the wait is given");
}

#[tokio::test]
async fn stopping_lets_a_dialogue_end_and_a_silent_card_go() {
    let world = World::new(1);
    let port = start(config(), &world).await;
    let address = port.address();
    let mut idle = connect(address, "card-1", KEY).await.unwrap();
    let mut busy = connect(address, "card-2", KEY).await.unwrap();
    assert!(say(&mut busy, FIRST).await.contains("200 OK"));
    let stopping = tokio::spawn(async move { port.stop(Duration::from_secs(60)).await });
    assert_eq!(idle.read(&mut [0; 10]).await.unwrap_or(0), 0);
    let head = "POST /next HTTP/1.1\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\
                X-Admin-Script-Status: ok\r\nContent-Length: 0\r\n\r\n";
    assert!(say(&mut busy, head).await.contains(" 204 "));
    stopping.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
