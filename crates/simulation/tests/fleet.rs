//! A small fleet on a fast clock, against a platform and an SMSC written for the test: every card polls at its date,
//! a trigger calls one in, the effects are read from the cards through their door.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVersion};
use simtide_agent::clock::{Clock, real_now};
use simtide_protocol::apdu::Command;
use simtide_protocol::card_file::{CardRow, Format};
use simtide_protocol::ids::{EpochMs, Iccid};
use simtide_protocol::poll_date::PollFile;
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::{CommandHeader, Counter, Key, KeySet, Kic, Kid, Security, Spi, seal};
use simtide_protocol::sms::{Address, Deliver, PacketKind, Reference, Timestamp, UserData, segment};
use simtide_simulation::fleet::{FirstPoll, Fleet, Settings};
use simtide_simulation::reader::{Reader, ReaderError};
use simtide_simulation::vendor::Order;

const CARDS: u32 = 12;
const DATED: u32 = 10;
/// Twenty days in ten seconds.
const RATE: f64 = 172_800.0;
/// 2027-01-01T00:00:00Z.
const VIRTUAL_START: EpochMs = EpochMs(1_798_761_600_000);
const PERIOD_MS: i64 = 20 * 86_400_000;

fn order() -> Order {
    Order {
        seed: 11,
        cards: CARDS,
        network: "00101".into(),
        profile: "standard".parse().unwrap(),
        device_kind: "meter".into(),
        dated: DATED,
        first_poll: VIRTUAL_START.plus_ms(PERIOD_MS / 20),
        spread_ms: PERIOD_MS / 4,
    }
}

/// Polls by identity.
type Polls = Arc<Mutex<BTreeMap<String, u32>>>;

/// A card port that has no work for anybody.
fn platform(rows: &[CardRow]) -> (SocketAddr, Polls) {
    let keys: BTreeMap<Vec<u8>, Vec<u8>> = rows
        .iter()
        .map(|row| (row.iccid.to_string().into_bytes(), row.psk.as_ref().unwrap().as_bytes().to_vec()))
        .collect();
    let mut context = SslContextBuilder::new(SslMethod::tls_server()).unwrap();
    context.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    context.set_cipher_list("PSK-AES128-CBC-SHA256").unwrap();
    let index = Ssl::new_ex_index::<String>().unwrap();
    context.set_psk_server_callback(move |ssl, identity, psk| {
        let identity = identity.unwrap_or_default();
        let Some(key) = keys.get(identity) else { return Ok(0) };
        ssl.set_ex_data(index, String::from_utf8_lossy(identity).into_owned());
        psk[..key.len()].copy_from_slice(key);
        Ok(key.len())
    });
    let context = context.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let polls = Polls::default();
    let counted = polls.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (context, counted) = (context.clone(), counted.clone());
            std::thread::spawn(move || {
                if let Some(identity) = serve(&context, stream.unwrap(), index) {
                    *counted.lock().unwrap().entry(identity).or_default() += 1;
                }
            });
        }
    });
    (address, polls)
}

fn serve(
    context: &SslContext,
    stream: TcpStream,
    index: openssl::ex_data::Index<Ssl, String>,
) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut stream = SslStream::new(Ssl::new(context).ok()?, stream).ok()?;
    stream.accept().ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let end = b"HTTP/1.1 204 No Content\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\r\n";
    stream.write_all(end).ok()?;
    let identity = stream.ssl().ex_data(index).cloned();
    let _ = stream.read_to_end(&mut Vec::new());
    identity
}

/// An SMSC: gives what it hears, and the line to speak on.
fn smsc() -> (SocketAddr, Receiver<String>, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, lines) = channel();
    let (opened, streams) = channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        opened.send(stream.try_clone().unwrap()).unwrap();
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if heard.send(line).is_err() {
                return;
            }
        }
    });
    (address, lines, streams)
}

/// The message that calls this card in.
fn trigger(row: &CardRow, counter: u64) -> String {
    let profile = Profile::standard();
    let agent = profile.application(simtide_protocol::profile::ApplicationKind::AdminAgent).unwrap();
    let set = &row.key_sets[0];
    let keys = KeySet::new(Key::new(set.kic.as_bytes()).ok(), Key::new(set.kid.as_bytes()).ok());
    let header = CommandHeader {
        security: Security { spi: Spi::new(0x16, 0x00), kic: Kic(0x12), kid: Kid(0x12) },
        tar: agent.tar,
        counter: Counter::new(counter).unwrap(),
    };
    let packet = seal(&header, &keys, &[0x81, 0x00]).unwrap();
    let parts = segment(&packet, PacketKind::Command, Reference::after(0)).unwrap();
    let user_data = UserData::from_octets(parts[0].clone()).unwrap();
    let sender = Address::number("12345").unwrap();
    hex::encode(Deliver::data_download(sender, Timestamp::from_epoch(VIRTUAL_START), user_data).to_bytes())
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < Duration::from_secs(60), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn next_poll(door: SocketAddr, row: &CardRow) -> EpochMs {
    let mut reader = Reader::connect(door, row.iccid).unwrap();
    let file = reader.read_binary(&[0x7F90, 0x6F01], 16).unwrap();
    PollFile::decode(&file).unwrap().next()
}

fn settings(folder: &Path, platform: SocketAddr, smsc: SocketAddr, traced: Iccid) -> Settings {
    let cards = folder.join("cards.out");
    std::fs::write(&cards, order().file(Format::Out).unwrap()).unwrap();
    let mut profile = Profile::standard();
    profile.administration.address = platform.ip();
    profile.administration.port = platform.port();
    Settings {
        cards,
        profiles: vec![Arc::new(profile)],
        count_max: u64::MAX,
        smsc: Some(smsc.to_string()),
        networks: Vec::new(),
        lines: 1,
        clock: Clock { real_anchor_ms: real_now().0, virtual_anchor_ms: VIRTUAL_START.0, rate: RATE },
        latency: Duration::from_millis(2),
        uncovered: None,
        power_on_spread: Duration::from_millis(50),
        first_poll: FirstPoll::File,
        traced: vec![traced],
        trace_file: Some(folder.join("apdu.log")),
    }
}

#[test]
fn cards_poll_at_their_dates_and_when_they_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let rows = order().rows().unwrap();
    let (platform, polls) = platform(&rows);
    let (smsc, heard, lines) = smsc();
    let settings = settings(folder.path(), platform, smsc, rows[9].iccid);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (fleet, door) = runtime.block_on(async {
        let fleet = Fleet::start(&settings).unwrap();
        let door = fleet.open_door("127.0.0.1:0".parse().unwrap()).await.unwrap();
        (fleet, door)
    });
    // Everybody in the field attaches; the two in the shop do not.
    let mut speak = lines.recv().unwrap();
    let mut attached = BTreeSet::new();
    while attached.len() < DATED as usize {
        let line = heard.recv().unwrap();
        assert!(line.contains("\"attach\""), "{line}");
        attached.insert(line);
    }
    for row in &rows[..DATED as usize] {
        writeln!(speak, "{{\"type\":\"attached\",\"imsi\":\"{}\"}}", row.imsi.unwrap()).unwrap();
    }
    assert!(matches!(Reader::connect(door, rows[11].iccid), Err(ReaderError::NoCard(_))));
    // The last card is called in long before its date.
    let called = &rows[9];
    let line = format!(
        "{{\"type\":\"deliver\",\"imsi\":\"{}\",\"id\":7,\"sc\":\"+43660\",\"tpdu\":\"{}\"}}",
        called.imsi.unwrap(),
        trigger(called, 1)
    );
    writeln!(speak, "{line}").unwrap();
    // A line that came up late makes a device say twice that it is here.
    let answer = heard.iter().find(|line| !line.contains("\"attach\"")).unwrap();
    assert_eq!(answer, r#"{"type":"report","id":7,"ok":true}"#);
    wait_until("the session of the card that was called", || {
        polls.lock().unwrap().contains_key(&called.iccid.to_string())
    });
    assert!(polls.lock().unwrap().len() < DATED as usize, "the others wait for their dates");
    wait_until("the polls of all cards in the field", || polls.lock().unwrap().len() == DATED as usize);
    // Each card moved its own date by one period and kept its place.
    for row in &rows[..DATED as usize] {
        let first = row.next_poll.unwrap();
        wait_until("the new date", || next_poll(door, row) > first);
        assert_eq!(next_poll(door, row).seconds(), first.plus_ms(PERIOD_MS).seconds());
    }
    // A change from outside, as another party would make it, is seen by the next reader.
    let mut reader = Reader::connect(door, called.iccid).unwrap();
    reader
        .transmit(
            Command::new(0x00, 0x20, 0x00, 0x0A).with_data(called.admin_code.as_ref().unwrap().as_bytes()),
        )
        .unwrap();
    reader.select(&[0x7F90, 0x6F04]).unwrap();
    reader.transmit(Command::new(0x00, 0xD6, 0x00, 0x00).with_data(&[0xAB])).unwrap();
    let mut other = Reader::connect(door, called.iccid).unwrap();
    assert_eq!(other.read_binary(&[0x7F90, 0x6F04], 1).unwrap(), [0xAB]);
    // The session that the trigger drew stands in the card's record: OPEN CHANNEL and SEND DATA were fetched.
    let record = std::fs::read_to_string(folder.path().join("apdu.log")).unwrap();
    for kind in ["40", "43"] {
        // FETCH, and command details with this type.
        let fetched = |line: &str| {
            line.contains("\"command\":\"8012") && line.split("8103").any(|rest| rest.get(2..4) == Some(kind))
        };
        assert!(record.lines().any(fetched), "no proactive command {kind} in the record");
    }
    let status = fleet.status();
    assert_eq!((status.cards, status.in_field, status.on, status.attached), (12, 10, 10, 10));
    wait_until("the end of all sessions", || fleet.status().sessions_open == 0);
    runtime.block_on(async { fleet.switch_off() });
    assert_eq!(fleet.status().attached, 0);
    runtime.shutdown_background();
}
