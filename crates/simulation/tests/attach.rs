//! Cards prove themselves against a real OsmoHLR, through the SMSC of their network.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use simtide_agent::clock::{Clock, real_now};
use simtide_protocol::card_file::{CardRow, Format};
use simtide_protocol::gsup::ipa::Frame;
use simtide_protocol::ids::EpochMs;
use simtide_protocol::profile::Profile;
use simtide_simulation::fleet::{FirstPoll, Fleet, Settings};
use simtide_simulation::smsc::{self, Entry, Happened, Smsc};
use simtide_simulation::vendor::Order;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[path = "../../simtide/tests/support/hlr/mod.rs"]
mod hlr;

use hlr::Hlr;

/// Attempts are made again after 15 s of virtual time.
const RATE: f64 = 60.0;
const PATIENCE: Duration = Duration::from_secs(60);

fn order() -> Order {
    Order {
        seed: 3,
        cards: 4,
        network: "00101".into(),
        profile: "standard".parse().unwrap(),
        device_kind: "phone".into(),
        dated: 4,
        first_poll: EpochMs(real_now().0 + 400 * 86_400_000),
        spread_ms: 1_000,
    }
}

/// CTRL of the register.
struct Control {
    stream: TcpStream,
    requests: u32,
}

impl Control {
    async fn connect(hlr: &Hlr) -> Control {
        Control { stream: TcpStream::connect(hlr.ctrl()).await.unwrap(), requests: 0 }
    }

    async fn ask(&mut self, what: &str) -> String {
        self.requests += 1;
        let (verb, rest) = what.split_once(' ').unwrap();
        let text = format!("{verb} {} {rest}", self.requests);
        self.stream.write_all(&Frame::Ctrl(text.into_bytes()).encode()).await.unwrap();
        let mut received = Vec::new();
        loop {
            if let Ok(Some((Frame::Ctrl(answer), _))) = Frame::split(&received) {
                return String::from_utf8(answer).unwrap();
            }
            assert!(self.stream.read_buf(&mut received).await.unwrap() > 0);
        }
    }

    async fn set(&mut self, what: &str) {
        let answer = self.ask(&format!("SET {what}")).await;
        assert!(answer.starts_with("SET_REPLY"), "{what}: {answer}");
    }

    async fn subscribe(&mut self, row: &CardRow, k: &str, msisdn: &str) {
        let (imsi, opc) = (row.imsi.unwrap(), hex::encode(row.opc.as_ref().unwrap().as_bytes()));
        self.set(&format!("subscriber.create {imsi}")).await;
        self.set(&format!("subscriber.by-imsi-{imsi}.msisdn {msisdn}")).await;
        self.set(&format!("subscriber.by-imsi-{imsi}.aud3g milenage,{k},opc,{opc}")).await;
    }

    /// What the register writes for the network element where the subscriber is; empty where there is none.
    async fn vlr_number(&mut self, row: &CardRow) -> String {
        let info = self.ask(&format!("GET subscriber.by-imsi-{}.info-all", row.imsi.unwrap())).await;
        let line = info.lines().find_map(|line| line.strip_prefix("vlr_number"));
        line.unwrap_or_default().trim().to_owned()
    }
}

fn k_of(row: &CardRow) -> String {
    hex::encode(row.ki.as_ref().unwrap().as_bytes())
}

async fn start_smsc(hlr: &Hlr, air: SocketAddr, record: &Path) -> Smsc {
    let settings = smsc::Settings {
        register: format!("gsup:{}", hlr.gsup()).parse().ok(),
        plmn: "001-01".parse().ok(),
        ..smsc::Settings::default()
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let began = Instant::now();
    loop {
        // The address of one that has just ended is free when its tasks are gone.
        match Smsc::start(settings.clone(), any, air, Clock::REAL, Some(record.to_owned())).await {
            Ok(smsc) => return smsc,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the record holds such an entry for this card.
async fn wait_for(
    record: &Path,
    row: &CardRow,
    event: Happened,
    destination: &str,
    log: &dyn Fn() -> String,
) {
    let began = Instant::now();
    let source = row.imsi.unwrap().to_string();
    loop {
        let entries = entries(record);
        let fits = |entry: &&Entry| entry.source == source && entry.event == event;
        if entries.iter().filter(fits).any(|entry| entry.destination == destination) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "no {event:?} {destination} in {entries:#?}\n{}", log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn entries(record: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    // The last line may be on its way.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cards_prove_themselves_against_osmo_hlr() {
    if let Some(missing) = hlr::missing() {
        println!("skipped: {missing}");
        return;
    }
    let hlr = Hlr::start().await;
    let log = || hlr.log();
    let mut control = Control::connect(&hlr).await;
    let rows = order().rows().unwrap();
    let [genuine, wrong_key, unknown, second] = &rows[..] else { panic!() };
    control.subscribe(genuine, &k_of(genuine), "43660000001").await;
    control.subscribe(wrong_key, &"00".repeat(16), "43660000002").await;
    control.subscribe(second, &k_of(second), "43660000003").await;

    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("first.jsonl");
    let smsc = start_smsc(&hlr, "127.0.0.1:0".parse().unwrap(), &record).await;
    let cards = folder.path().join("cards.out");
    std::fs::write(&cards, order().file(Format::Out).unwrap()).unwrap();
    let fleet = Fleet::start(&Settings {
        cards,
        profiles: vec![Arc::new(Profile::standard())],
        count_max: u64::MAX,
        smsc: None,
        networks: vec![("001-01".parse().unwrap(), smsc.air.to_string())],
        lines: 1,
        clock: Clock { real_anchor_ms: real_now().0, virtual_anchor_ms: real_now().0, rate: RATE },
        latency: Duration::ZERO,
        uncovered: None,
        power_on_spread: Duration::from_millis(10),
        first_poll: FirstPoll::File,
        traced: Vec::new(),
        trace_file: None,
    })
    .unwrap();

    // The register's number is the subscriber's, whatever the card has.
    wait_for(&record, genuine, Happened::Attached, "43660000001", &log).await;
    wait_for(&record, second, Happened::Attached, "43660000003", &log).await;
    // The card finds the network not genuine; nobody knows the last one.
    wait_for(&record, wrong_key, Happened::Rejected, "14", &log).await;
    wait_for(&record, unknown, Happened::Rejected, "02", &log).await;
    assert_ne!(control.vlr_number(genuine).await, "");
    assert_eq!(control.vlr_number(wrong_key).await, "");
    assert_eq!(smsc.figures().attached, 2);

    // The register begins to count anew, as after a lost database: the card says where it is.
    control.set(&format!("subscriber.delete {}", genuine.imsi.unwrap())).await;
    control.subscribe(genuine, &k_of(genuine), "43660000001").await;
    assert_eq!(control.vlr_number(genuine).await, "");
    let air = smsc.air;
    drop(smsc);
    let record = folder.path().join("second.jsonl");
    let smsc = start_smsc(&hlr, air, &record).await;
    wait_for(&record, genuine, Happened::Attached, "43660000001", &log).await;
    let source = genuine.imsi.unwrap().to_string();
    let challenges = entries(&record)
        .iter()
        .filter(|entry| entry.source == source && entry.event == Happened::Challenged)
        .count();
    assert_eq!(challenges, 2, "one more after the card's number was known");
    assert_ne!(control.vlr_number(genuine).await, "");

    // The operator takes the access away.
    wait_for(&record, second, Happened::Attached, "43660000003", &log).await;
    let mut terminal = TcpStream::connect((hlr.address, 4258)).await.unwrap();
    let withdraw = format!("subscriber imsi {} update network-access-mode none", second.imsi.unwrap());
    for (prompt, order) in [(b'>', "enable"), (b'#', &withdraw), (b'#', "exit")] {
        while terminal.read_u8().await.unwrap() != prompt {}
        terminal.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }
    wait_for(&record, second, Happened::Withdrawn, "43660000003", &log).await;
    wait_for(&record, genuine, Happened::Attached, "43660000001", &log).await;
    assert_eq!(smsc.figures().attached, 1);
    fleet.switch_off();
}
