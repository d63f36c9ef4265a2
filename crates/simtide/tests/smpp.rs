//! The SMPP link against the service centre of the simulation, over real sockets, with each of its faults.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use simtide_agent::clock::Clock;
use simtide_protocol::ids::Msisdn;
use simtide_protocol::sms::{Address as SmsAddress, Deliver, Submit as SmsSubmit, UserData};
use simtide_server::smpp::{
    DeliveryState, Link, LinkConfig, LinkEvent, LinkHandle, Password, Receipt, Refusal, StopReason, Submit,
    Verdict,
};
use simtide_simulation::smsc::{
    Account, Entry, Faults, FromDevice, Happened, Hex, IdStyle, Settings, Smsc, ToDevice,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Only so that a hanging test ends; nothing is measured with it.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(n: u64) -> Msisdn {
    format!("43664{n:07}").parse().unwrap()
}

fn message(token: u64) -> Submit {
    Submit::binary(token, number(token % 10), vec![0x02, 0x70, 0x00, (token >> 8) as u8, token as u8])
}

struct World {
    smsc: Smsc,
    link: LinkHandle,
    events: mpsc::Receiver<LinkEvent>,
    record: tempfile::TempDir,
}

impl World {
    async fn start(settings: Settings, config: LinkConfig) -> World {
        World::with_clock(settings, config, Clock::REAL).await
    }

    async fn with_clock(settings: Settings, config: LinkConfig, clock: Clock) -> World {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let record = tempfile::tempdir().unwrap();
        let path = record.path().join("record");
        let smsc = Smsc::start(settings, any, any, clock, Some(path)).await.unwrap();
        let (sender, events) = mpsc::channel(10_000);
        let config = LinkConfig {
            port: smsc.smpp.port(),
            system_id: "simtide".into(),
            password: Password::new("simtide"),
            ..config
        };
        let link = Link::start(config, sender).unwrap();
        World { smsc, link, events, record }
    }

    async fn event(&mut self) -> LinkEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("nothing happens").unwrap()
    }

    /// The next event that is not about the link itself.
    async fn news(&mut self) -> LinkEvent {
        loop {
            let event = self.event().await;
            if !matches!(event, LinkEvent::Up | LinkEvent::Down | LinkEvent::Throttled { .. }) {
                return event;
            }
        }
    }

    async fn receipt(&mut self) -> Receipt {
        loop {
            if let LinkEvent::Receipt(receipt) = self.news().await {
                return receipt;
            }
        }
    }

    /// Outcomes of so many submits: token by kind.
    async fn outcomes(&mut self, n: usize) -> BTreeMap<&'static str, BTreeSet<u64>> {
        let mut outcomes: BTreeMap<&'static str, BTreeSet<u64>> = BTreeMap::new();
        for _ in 0..n {
            let (kind, token) = loop {
                match self.news().await {
                    LinkEvent::Accepted { token, .. } => break ("accepted", token),
                    LinkEvent::Refused { token, .. } => break ("refused", token),
                    LinkEvent::Unknown { token } => break ("unknown", token),
                    _ => {}
                }
            };
            let before = outcomes.values().any(|tokens| tokens.contains(&token));
            assert!(!before, "{token} has two outcomes");
            outcomes.entry(kind).or_default().insert(token);
        }
        outcomes
    }

    fn recorded(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(self.record.path().join("record")).unwrap();
        // The last line may still be on its way.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn count(&self, event: Happened) -> usize {
        self.recorded().iter().filter(|entry| entry.event == event).count()
    }
}

/// Phones behind one connection to the air interface.
struct Phones {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Phones {
    async fn connect(smsc: &Smsc) -> Phones {
        let (reader, writer) = TcpStream::connect(smsc.air).await.unwrap().into_split();
        Phones { lines: BufReader::new(reader).lines(), writer }
    }

    async fn attached(smsc: &Smsc, n: u64) -> Phones {
        let mut phones = Phones::connect(smsc).await;
        for n in 0..n {
            phones.attach(n).await;
        }
        phones
    }

    async fn attach(&mut self, n: u64) {
        self.say(&FromDevice::Attach { imsi: imsi(n), msisdn: Some(number(n)) }).await;
        assert_eq!(self.hear().await, ToDevice::Attached { imsi: imsi(n) });
    }

    async fn say(&mut self, line: &FromDevice) {
        let mut text = serde_json::to_vec(line).unwrap();
        text.push(b'\n');
        self.writer.write_all(&text).await.unwrap();
    }

    async fn hear(&mut self) -> ToDevice {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("silence");
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    }

    /// The next message: its id and TPDU.
    async fn deliver(&mut self) -> (u64, Deliver) {
        loop {
            if let ToDevice::Deliver { id, tpdu, .. } = self.hear().await {
                return (id, Deliver::from_bytes(&tpdu.0).unwrap());
            }
        }
    }

    async fn acknowledge(&mut self, id: u64) {
        self.say(&FromDevice::Report { id, ok: true, tpdu: None, cause: None }).await;
    }

    /// Acknowledges so many messages and returns their tokens in order.
    async fn take(&mut self, n: usize) -> Vec<u64> {
        let mut tokens = Vec::new();
        for _ in 0..n {
            let (id, deliver) = self.deliver().await;
            assert_eq!((deliver.pid, deliver.dcs, deliver.has_header), (0x7F, 0xF6, true));
            let user_data = deliver.user_data.octets;
            assert_eq!(user_data[..3], [0x02, 0x70, 0x00]);
            tokens.push(u64::from(user_data[3]) << 8 | u64::from(user_data[4]));
            self.acknowledge(id).await;
        }
        tokens
    }
}

fn imsi(n: u64) -> simtide_protocol::ids::Imsi {
    format!("00101{n:010}").parse().unwrap()
}

fn set(tokens: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    tokens.into_iter().collect()
}

#[tokio::test]
async fn messages_arrive_once_and_receipts_find_them_whatever_the_ids_look_like() {
    for message_ids in
        [IdStyle::Decimal, IdStyle::Hex, IdStyle::HexThenDecimal, IdStyle::Uuid, IdStyle::NotImplemented]
    {
        for receipt_parameters in [true, false] {
            let settings = Settings { message_ids, receipt_parameters, ..Settings::default() };
            let config = LinkConfig { binds: 2, window: 7, ..LinkConfig::default() };
            let mut world = World::start(settings, config).await;
            let mut phones = Phones::attached(&world.smsc, 10).await;
            for token in 0..100 {
                world.link.submit(message(token)).unwrap();
            }
            assert_eq!(set(phones.take(100).await), set(0..100));
            let mut accepted = BTreeSet::new();
            let mut reported = BTreeSet::new();
            while accepted.len() < 100 || reported.len() < 100 {
                match world.news().await {
                    LinkEvent::Accepted { token, .. } => assert!(accepted.insert(token)),
                    LinkEvent::Receipt(receipt) => {
                        assert_eq!(receipt.state, DeliveryState::Delivered);
                        let token = receipt.token.unwrap_or_else(|| panic!("{message_ids:?}: {receipt:?}"));
                        assert!(reported.insert(token));
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(world.link.figures().faults, 0);
        }
    }
}

#[tokio::test]
async fn an_smsc_that_throttles_gets_everything_once_and_slower() {
    for (throttle_status, throttle_by_nack) in [(0x58, false), (0x14, false), (0x58, true)] {
        let faults = Faults {
            throttle_above_per_s: Some(100),
            throttle_status,
            throttle_by_nack,
            ..Faults::default()
        };
        let settings = Settings { faults, ..Settings::default() };
        let mut world = World::start(settings, LinkConfig { window: 20, ..LinkConfig::default() }).await;
        for token in 0..300 {
            world.link.submit(message(token)).unwrap();
        }
        let outcomes = world.outcomes(300).await;
        assert_eq!(outcomes["accepted"], set(0..300));
        assert!(world.link.figures().throttled > 0);
        assert!(world.link.figures().rate_per_s.is_some(), "the link has learned a rate");
        let submitted: Vec<Entry> =
            world.recorded().into_iter().filter(|e| e.event == Happened::Submitted).collect();
        let distinct: BTreeSet<Vec<u8>> = submitted.iter().map(|e| e.user_data.0.clone()).collect();
        assert_eq!((submitted.len(), distinct.len()), (300, 300));
    }
}

#[tokio::test]
async fn a_paced_link_is_not_throttled() {
    let faults = Faults { throttle_above_per_s: Some(110), ..Faults::default() };
    let settings = Settings { faults, ..Settings::default() };
    let mut world = World::start(settings, LinkConfig { rate_per_s: 100, ..LinkConfig::default() }).await;
    for token in 0..250 {
        world.link.submit(message(token)).unwrap();
    }
    assert_eq!(world.outcomes(250).await["accepted"].len(), 250);
    assert_eq!(world.link.figures().throttled, 0);
}

#[tokio::test]
async fn a_link_dropped_with_a_full_window_leaves_exactly_that_window_unknown() {
    for drop_delivers in [false, true] {
        let faults = Faults { drop_at_submit: Some(30), drop_window: 8, drop_delivers, ..Faults::default() };
        let settings = Settings { faults, ..Settings::default() };
        let mut world = World::start(settings, LinkConfig { window: 8, ..LinkConfig::default() }).await;
        let mut phones = Phones::attached(&world.smsc, 10).await;
        for token in 0..50 {
            world.link.submit(message(token)).unwrap();
        }
        let outcomes = world.outcomes(50).await;
        assert_eq!(outcomes["unknown"], set(22..30));
        assert_eq!(outcomes["accepted"].len(), 42);
        let arrive = if drop_delivers { 50 } else { 42 };
        assert_eq!(phones.take(arrive).await.len(), arrive, "what is unknown may have arrived or not");
        assert_eq!(world.count(Happened::Dropped), 8);
    }
}

#[tokio::test]
async fn copies_and_reordering_reach_the_phone_and_receipts_still_match() {
    let faults =
        Faults { duplicate_permille: 300, reorder_permille: 300, delay_ms: 1, seed: 7, ..Faults::default() };
    let settings = Settings { faults, ..Settings::default() };
    let mut world = World::start(settings, LinkConfig::default()).await;
    let mut phones = Phones::attached(&world.smsc, 10).await;
    for token in 0..200 {
        world.link.submit(message(token)).unwrap();
    }
    let mut order = Vec::new();
    let mut reported = BTreeSet::new();
    while reported.len() < 200 {
        tokio::select! {
            tokens = phones.take(1) => order.extend(tokens),
            receipt = world.receipt() => {
                assert!(reported.insert(receipt.token.unwrap()), "one receipt per message");
            }
        }
    }
    assert_eq!(set(order.iter().copied()), set(0..200));
    assert!(order.len() > 200, "no copy was made");
    assert!(!order.is_sorted(), "nothing was overtaken");
}

#[tokio::test]
async fn lost_messages_and_receipts_leave_the_others_alone() {
    let faults = Faults { lose_permille: 200, lose_receipts_permille: 200, seed: 3, ..Faults::default() };
    let settings = Settings { faults, ..Settings::default() };
    let mut world = World::start(settings, LinkConfig::default()).await;
    let mut phones = Phones::attached(&world.smsc, 10).await;
    for token in 0..200 {
        world.link.submit(message(token)).unwrap();
    }
    assert_eq!(world.outcomes(200).await["accepted"].len(), 200);
    // A message that cannot be lost comes last to every phone.
    world.smsc.set_faults(Faults::default()).await;
    for token in 200..210 {
        world.link.submit(message(token)).unwrap();
    }
    let mut arrived = BTreeSet::new();
    while !(200..210).all(|token| arrived.contains(&token)) {
        assert!(arrived.insert(phones.take(1).await[0]), "nothing twice");
    }
    assert!((120..200).contains(&arrived.len()), "{} of 210 arrived", arrived.len());
}

#[tokio::test]
async fn a_receipt_before_its_answer_finds_the_message() {
    let faults = Faults { receipt_before_answer: true, ..Faults::default() };
    let settings = Settings { faults, message_ids: IdStyle::HexThenDecimal, ..Settings::default() };
    let mut world = World::start(settings, LinkConfig::default()).await;
    let mut phones = Phones::attached(&world.smsc, 10).await;
    for token in 0..20 {
        world.link.submit(message(token)).unwrap();
    }
    phones.take(20).await;
    let mut reported = BTreeSet::new();
    while reported.len() < 20 {
        reported.insert(world.receipt().await.token.expect("a receipt without its message"));
    }
}

#[tokio::test]
async fn parts_of_a_message_arrive_in_order() {
    let mut world = World::start(Settings::default(), LinkConfig { binds: 3, ..LinkConfig::default() }).await;
    let mut phones = Phones::attached(&world.smsc, 1).await;
    for group in 0..20 {
        let part = |i| Submit { group: Some(group), ..message((group * 4 + i) * 10) };
        world.link.submit_all((0..4).map(part).collect()).unwrap();
    }
    let mut by_group: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for token in phones.take(80).await {
        by_group.entry(token / 40).or_default().push(token);
    }
    assert!(by_group.values().all(|tokens| tokens.len() == 4 && tokens.is_sorted()), "{by_group:?}");
    assert_eq!(world.outcomes(80).await["accepted"].len(), 80);
}

#[tokio::test]
async fn a_message_from_a_phone_comes_again_until_it_is_taken() {
    let account = Account { addresses: vec!["500".into()], ..Account::default() };
    let settings = Settings { accounts: vec![account], ..Settings::default() };
    let mut world = World::start(settings, LinkConfig::default()).await;
    let mut phones = Phones::attached(&world.smsc, 2).await;
    let user_data = UserData::from_octets(vec![0x02, 0x71, 0x00, 0xAA]).unwrap();
    let to = |number: &str| {
        let submit = SmsSubmit::with_header(9, SmsAddress::number(number).unwrap(), user_data.clone());
        Hex(submit.to_bytes())
    };
    phones.say(&FromDevice::Submit { imsi: imsi(1), reference: 5, tpdu: to("500") }).await;
    assert_eq!(phones.hear().await, ToDevice::Submitted { imsi: imsi(1), reference: 5, ok: true });
    for verdict in [Verdict::Later, Verdict::Later, Verdict::Taken] {
        let LinkEvent::Message(message) = world.news().await else { panic!("no message") };
        assert_eq!(message.source.digits, number(1).to_string());
        assert_eq!(message.destination.digits, "500");
        assert!(message.udhi);
        assert_eq!(message.user_data, user_data.octets);
        world.link.answer(message.answer, verdict);
    }
    // From phone to phone, and to nobody.
    phones.say(&FromDevice::Submit { imsi: imsi(1), reference: 6, tpdu: to("+436640000000") }).await;
    let (id, deliver) = phones.deliver().await;
    assert_eq!(deliver.originator.number, number(1).to_string());
    phones.acknowledge(id).await;
    phones.say(&FromDevice::Submit { imsi: imsi(1), reference: 7, tpdu: to("123") }).await;
    loop {
        if let ToDevice::Submitted { reference: 7, ok, .. } = phones.hear().await {
            assert!(!ok);
            break;
        }
    }
    assert_eq!(world.count(Happened::Taken), 1);
}

#[tokio::test]
async fn an_absent_subscriber_is_announced_when_it_is_back() {
    let mut world = World::start(Settings::default(), LinkConfig::default()).await;
    let stored = Submit { registered_delivery: 0x11, ..message(3) };
    world.link.submit(stored).unwrap();
    let receipt = world.receipt().await;
    assert_eq!((receipt.token, receipt.state), (Some(3), DeliveryState::Enroute));
    // Transaction mode asks whether it is there, and is told at once that it is not.
    world.link.submit(Submit { esm_class: 0x42, ..message(13) }).unwrap();
    let refused = LinkEvent::Refused { token: 13, cause: Refusal::Smsc(0xFE), temporary: true };
    assert_eq!(world.news().await, refused);
    let mut phones = Phones::connect(&world.smsc).await;
    phones.attach(3).await;
    let LinkEvent::Alert { subscriber } = world.news().await else { panic!("no alert") };
    assert_eq!(subscriber.digits, number(3).to_string());
    assert_eq!(phones.take(1).await, [3]);
    assert_eq!(world.receipt().await.state, DeliveryState::Delivered);
    // Now transaction mode is answered by the phone.
    world.link.submit(Submit { esm_class: 0x42, registered_delivery: 0, ..message(13) }).unwrap();
    let (id, _) = phones.deliver().await;
    phones.acknowledge(id).await;
    assert!(matches!(world.news().await, LinkEvent::Accepted { token: 13, .. }));
}

#[tokio::test]
async fn a_busy_phone_is_tried_again_and_a_refusal_is_final() {
    let mut world = World::start(Settings { retry_s: 0, ..Settings::default() }, LinkConfig::default()).await;
    let mut phones = Phones::attached(&world.smsc, 2).await;
    world.link.submit(message(1)).unwrap();
    let (id, _) = phones.deliver().await;
    phones.say(&FromDevice::Report { id, ok: false, tpdu: None, cause: Some(0xD4) }).await;
    let (again, _) = phones.deliver().await;
    assert_ne!(id, again);
    phones.say(&FromDevice::Report { id: again, ok: false, tpdu: None, cause: Some(0xD5) }).await;
    assert_eq!(world.receipt().await.state, DeliveryState::Undeliverable);
    phones.acknowledge(again).await;
    assert!(matches!(phones.hear().await, ToDevice::Error { .. }), "that delivery is closed");
}

#[tokio::test]
async fn validity_ends_on_the_clock_of_the_service_centre() {
    // An hour in a hundredth of a second.
    let clock = Clock { real_anchor_ms: 0, virtual_anchor_ms: 0, rate: 360_000.0 };
    let mut world = World::with_clock(Settings::default(), LinkConfig::default(), clock).await;
    world.link.submit(Submit { validity_s: 3_600, ..message(1) }).unwrap();
    let receipt = world.receipt().await;
    assert_eq!((receipt.token, receipt.state), (Some(1), DeliveryState::Expired));
}

#[tokio::test]
async fn a_wrong_password_ends_the_link() {
    let account = Account { password: "other".into(), ..Account::default() };
    let settings = Settings { accounts: vec![account], ..Settings::default() };
    let mut world = World::start(settings, LinkConfig::default()).await;
    assert_eq!(world.event().await, LinkEvent::Stopped { reason: StopReason::Bind(0x0E) });
    assert!(world.link.submit(message(1)).is_err());
}

#[tokio::test]
async fn a_shutdown_leaves_no_message_without_an_outcome() {
    let mut world =
        World::start(Settings::default(), LinkConfig { window: 4, ..LinkConfig::default() }).await;
    for token in 0..500 {
        world.link.submit(message(token)).unwrap();
    }
    world.link.shutdown();
    let outcomes = world.outcomes(500).await;
    assert!(!outcomes.contains_key("unknown"), "{outcomes:?}");
    while world.event().await != (LinkEvent::Stopped { reason: StopReason::Requested }) {}
}

#[tokio::test]
async fn a_link_without_callers_finishes_what_it_has_begun() {
    let faults = Faults { receipt_before_answer: true, ..Faults::default() };
    let settings = Settings { faults, ..Settings::default() };
    let World { smsc, link, mut events, record: _record } =
        World::start(settings, LinkConfig::default()).await;
    let mut phones = Phones::attached(&smsc, 10).await;
    link.submit(message(1)).unwrap();
    let (id, _) = phones.deliver().await;
    drop(link);
    phones.acknowledge(id).await;
    let mut seen = Vec::new();
    while let Some(event) = tokio::time::timeout(PATIENCE, events.recv()).await.expect("nothing happens") {
        seen.push(event);
    }
    assert!(seen.iter().any(|event| matches!(event, LinkEvent::Accepted { token: 1, .. })), "{seen:?}");
    assert_eq!(seen.last(), Some(&LinkEvent::Stopped { reason: StopReason::Requested }));
}

#[tokio::test]
async fn the_queue_refuses_what_is_too_much() {
    let settings = Settings { accounts: vec![], ..Settings::default() };
    let config = LinkConfig { queue_max: 10, port: 1, ..LinkConfig::default() };
    let world = World::start(settings, config).await;
    let mut taken = 0;
    while world.link.submit(message(taken)).is_ok() {
        taken += 1;
        assert!(taken < 100, "the queue has no end");
    }
    assert!(taken >= 10);
}
