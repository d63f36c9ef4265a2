//! The shell on loopback: cards played by the test, the service centre of the simulation, the store in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "support/polling.rs"]
mod polling;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use simtide_agent::clock::Clock as AirClock;
use simtide_platform::card::{Applied, CardState};
use simtide_protocol::ids::{Bucket, CardId, EpochMs, Iccid, Imsi, Msisdn, Tar};
use simtide_protocol::profile::STANDARD_TEXT;
use simtide_protocol::scp80::{self, Key, KeySet, Kic, Kid};
use simtide_protocol::scp81::{Framing, Limits, ResponseDecoder};
use simtide_server::card_port::Psk;
use simtide_server::clock::Clock;
use simtide_server::config::Config;
use simtide_server::shell::Platform;
use simtide_server::shell::campaigns::Definition;
use simtide_server::shell::commands::{self, Wanted};
use simtide_server::shell::keyring::{CardKeySet, Keyring, KeyringError};
use simtide_server::store::model::ModelStore;
use simtide_server::store::{
    Alias, Batch, CampaignId, CardHot, CardRecord, Command, DirectoryRow, Group, HistoryResult, NewCard, Op,
    OperatorId, Origin, PacketChange, PacketKey, PacketState, ProfileId, SealedKeys, Store, TenantId,
};
use simtide_simulation::smsc::{Settings, Smsc};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

const KIC: [u8; 16] = [0x11; 16];
const KID: [u8; 16] = [0x22; 16];
const TENANT: TenantId = TenantId(1);
const DAY_MS: i64 = 86_400_000;
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The same keys for every card.
struct TestKeyring;

impl Keyring for TestKeyring {
    fn psk(&self, _card: &CardRecord) -> Result<Option<Psk>, KeyringError> {
        Ok(Some(Psk::new(polling::PSK.to_vec())))
    }

    fn psk_of_nobody(&self) {}

    fn ota_keys(&self, _card: &CardRecord) -> Result<Vec<CardKeySet>, KeyringError> {
        let octet = |index: u8| index << 4 | 0x02;
        let set = |index| CardKeySet { index, kic: Kic(octet(index)), kid: Kid(octet(index)), keys: keys() };
        Ok((1..=3).map(set).collect())
    }
}

fn keys() -> KeySet {
    KeySet::new(Key::new(&KIC).ok(), Key::new(&KID).ok())
}

fn iccid(n: u32) -> Iccid {
    Iccid::with_check_digit(&format!("89001000000000{n:04}")).unwrap()
}

fn msisdn(n: u32) -> Msisdn {
    format!("43664100{n:04}").parse().unwrap()
}

/// A store with cards 0 to `cards` - 1; card n polls n+1 days from `now`.
async fn store(cards: u32, now: EpochMs) -> Arc<ModelStore> {
    let store = Arc::new(ModelStore::new(4, 2).unwrap());
    let platform = store.acquire(Group::Platform, "test").await.unwrap();
    let rows = [
        DirectoryRow::Tenant { id: TENANT, name: "tenant".into() },
        DirectoryRow::Operator {
            id: OperatorId(1),
            tenant: TENANT,
            name: "operator".into(),
            settings: String::new(),
        },
        DirectoryRow::Profile { id: ProfileId(1), name: "standard".into(), text: STANDARD_TEXT.into() },
    ];
    let ops: Vec<Op> = rows.into_iter().map(Op::PutDirectory).collect();
    store.commit(platform, Batch { ops }).await.unwrap();
    for n in 0..cards {
        let id = CardId::from(iccid(n));
        let record = CardRecord {
            id,
            tenant: TENANT,
            iccid: Some(iccid(n)),
            eid: None,
            imsi: Some(format!("00101{n:010}").parse::<Imsi>().unwrap()),
            msisdn: Some(msisdn(n)),
            psk_identity: iccid(n).to_string().into_bytes(),
            sealed: SealedKeys::default(),
        };
        let hot = CardHot {
            operator: OperatorId(1),
            profile: ProfileId(1),
            state: CardState::Active,
            device_kind: 0,
            tags: 0,
            last_update: Some(now.plus_ms(-DAY_MS)),
            next_poll: EpochMs::from_seconds(now.plus_ms(DAY_MS * i64::from(n + 1)).seconds()),
            applied: Applied::default(),
        };
        let counters = (1..=3).map(|set| (set, 0)).collect();
        let aliases = [Alias::PskIdentity(record.psk_identity.clone()), Alias::Msisdn(msisdn(n))];
        commit(&store, Bucket::of(&id, 4), Op::PutCard(Box::new(NewCard { record, hot, counters }))).await;
        for alias in aliases {
            // The group of an alias is the store's business: one of the two takes it.
            for group in 0..2 {
                let lease = store.acquire(Group::Cards(group), "test").await.unwrap();
                let claim = Op::ClaimAlias { alias: alias.clone(), card: id, from: None };
                let _ = store.commit(lease, claim.into()).await;
            }
        }
    }
    store
}

async fn commit(store: &ModelStore, bucket: Bucket, op: Op) {
    let lease = store.acquire(Group::Cards(bucket.0 % 2), "test").await.unwrap();
    store.commit(lease, op.into()).await.unwrap();
}

async fn start(store: &Arc<ModelStore>, smsc: Option<SocketAddr>) -> Platform {
    let mut text = "[card_port]\nlisten = \"127.0.0.1:0\"\n[flow]\ntick_ms = 20\nsession_initial_ms = 20\n\
                    response_initial_ms = 20\n"
        .to_owned();
    if let Some(address) = smsc {
        text += &format!(
            "[smpp]\nsource_address = \"500\"\n[[smpp.links]]\nport = {}\nsystem_id = \"simtide\"\n\
             password = \"simtide\"\nreconnect_s_min = 1\n",
            address.port()
        );
    }
    let config = Config::parse(&text).unwrap();
    Platform::start(config, store.clone(), Box::new(TestKeyring), None).await.unwrap()
}

fn file_update(repeatable: bool) -> Definition {
    serde_json::from_value(json!({
        "content": { "repeatable": repeatable, "variants": { "*": [
            { "do": { "file_update": { "path": "3F00/7F90/6F04", "data": "0102" } } },
        ] } },
        "settings": { "never_seen": "like-others", "leave_to_poll_s": 60 },
    }))
    .unwrap()
}

/// A started campaign over all cards.
async fn campaign(platform: &Platform, repeatable: bool) -> CampaignId {
    let draft = platform.campaigns.create(TENANT, "update", &file_update(repeatable)).await.unwrap();
    platform.campaigns.start(TENANT, draft.id, "test").await.unwrap();
    draft.id
}

/// A store with so many cards, and a platform on it without any service centre.
async fn polled(cards: u32) -> (Arc<ModelStore>, Platform) {
    let store = store(cards, Clock::REAL.now()).await;
    let platform = start(&store, None).await;
    (store, platform)
}

/// A service centre, and the device of card n attached to it.
async fn served(settings: Settings, n: u32) -> (Smsc, Device) {
    let smsc = Smsc::start(settings, ANY, ANY, AirClock::REAL, None).await.unwrap();
    let device = Device::attach(smsc.air, n).await;
    (smsc, device)
}

/// A store with so many cards, a platform on it, a service centre, and the device of the last card.
async fn reached(cards: u32) -> (Arc<ModelStore>, Platform, Smsc, Device) {
    let store = store(cards, Clock::REAL.now()).await;
    let (smsc, device) = served(Settings::default(), cards - 1).await;
    let platform = start(&store, Some(smsc.smpp)).await;
    (store, platform, smsc, device)
}

/// A dialogue of card 0 that goes as far as its first script; the connection stays open.
async fn half_a_dialogue(platform: &Platform) -> (SslStream<TcpStream>, Vec<u8>) {
    let mut stream = polling::connect(platform.port.address(), iccid(0)).await;
    let script = script_after_first_request(&mut stream).await;
    (stream, script)
}

/// Says the first request of a dialogue, and receives the script that answers it.
async fn script_after_first_request(stream: &mut SslStream<TcpStream>) -> Vec<u8> {
    let first = polling::first_request();
    stream.write_all(&first.encode(Framing::ContentLength)).await.unwrap();
    let response = polling::receive(stream, &mut ResponseDecoder::new(Limits::default())).await;
    assert_eq!(response.status, 200);
    response.body
}

/// A poll of card n; answers how many scripts it got.
async fn poll(address: SocketAddr, n: u32) -> usize {
    polling::poll(address, iccid(n)).await.len()
}

/// Waits; the test's own time limit is the only deadline.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_poll_gets_what_runs_and_is_recorded() {
    let now = Clock::REAL.now();
    let (store, platform) = polled(2).await;
    let address = platform.port.address();
    assert_eq!(poll(address, 0).await, 0, "nothing runs");
    let campaign = campaign(&platform, false).await;
    assert_eq!(poll(address, 0).await, 1);
    assert_eq!(poll(address, 0).await, 0, "once");
    let id = CardId::from(iccid(0));
    let card = store.card(id).await.unwrap().unwrap();
    assert!(card.hot.applied.has(1) && card.exceptions.is_empty());
    assert!(card.hot.last_update.unwrap() >= now);
    let history = store.history(id, EpochMs(i64::MAX), 10).await.unwrap();
    let history: Vec<_> = history.iter().map(|line| (line.campaign, line.result)).collect();
    let nothing = (None, HistoryResult::Nothing);
    assert_eq!(history, [nothing, (Some(CampaignId(1)), HistoryResult::Done), nothing]);
    assert_eq!(store.progress(CampaignId(1)).await.unwrap().done_by_poll, 1);
    platform.campaigns.pause(TENANT, campaign).await.unwrap();
    assert_eq!(poll(address, 1).await, 0, "paused");
    platform.campaigns.resume(TENANT, campaign).await.unwrap();
    assert_eq!(poll(address, 1).await, 1);
    platform.stop().await;
}

#[tokio::test]
async fn a_dialogue_that_breaks_marks_nothing_and_the_mark_is_read_first() {
    let (store, platform) = polled(1).await;
    campaign(&platform, false).await;
    drop(half_a_dialogue(&platform).await);
    until(async || platform.port.open() == 0).await;
    let id = CardId::from(iccid(0));
    let card = store.card(id).await.unwrap().unwrap();
    assert!(!card.hot.applied.has(1));
    assert_eq!(card.exceptions.len(), 1);
    // A card that answers 9000 without data to the reading of its mark has not got one that can be read.
    poll(platform.port.address(), 0).await;
    assert!(!store.card(id).await.unwrap().unwrap().hot.applied.has(1));
    platform.stop().await;
}

#[tokio::test]
async fn a_card_that_comes_back_does_not_wait_for_the_session_that_it_has_left() {
    let (store, platform) = polled(1).await;
    campaign(&platform, true).await;
    // Switched off with a script in its hands: the connection stays open, and nothing says that it is dead.
    let (mut left, _) = half_a_dialogue(&platform).await;
    assert_eq!(poll(platform.port.address(), 0).await, 1);
    assert!(store.card(CardId::from(iccid(0))).await.unwrap().unwrap().hot.applied.has(1));
    let mut rest = Vec::new();
    let _ = left.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "the session that was left has ended without another word");
    platform.stop().await;
}

#[tokio::test]
async fn a_request_that_says_nothing_of_the_script_before_begins_anew() {
    let (store, platform) = polled(1).await;
    campaign(&platform, true).await;
    let (mut stream, script) = half_a_dialogue(&platform).await;
    assert_eq!(script_after_first_request(&mut stream).await, script);
    let card = store.card(CardId::from(iccid(0))).await.unwrap().unwrap();
    assert!(!card.hot.applied.has(1), "nobody has said that the script ran");
    // The platform lets sessions end before it stops.
    drop(stream);
    platform.stop().await;
}

/// A device at the air interface that answers deliveries; gives the user data of each.
struct Device {
    lines: tokio::io::Lines<BufReader<tokio::net::tcp::OwnedReadHalf>>,
    write: tokio::net::tcp::OwnedWriteHalf,
}

impl Device {
    async fn attach(air: SocketAddr, n: u32) -> Device {
        let (read, write) = TcpStream::connect(air).await.unwrap().into_split();
        let mut device = Device { lines: BufReader::new(read).lines(), write };
        let imsi = format!("00101{n:010}");
        device.say(json!({ "type": "attach", "imsi": imsi, "msisdn": msisdn(n).to_string() })).await;
        assert_eq!(device.hear("attached").await["imsi"], imsi);
        device
    }

    async fn say(&mut self, line: Value) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self, kind: &str) -> Value {
        loop {
            let line = self.lines.next_line().await.unwrap().unwrap();
            let value: Value = serde_json::from_str(&line).unwrap();
            assert_ne!(value["type"], "error", "{line}");
            if value["type"] == kind {
                return value;
            }
        }
    }

    /// The secured packet of one message, after its header.
    async fn message(&mut self) -> Vec<u8> {
        let delivery = self.hear("deliver").await;
        self.say(json!({ "type": "report", "id": delivery["id"], "ok": true })).await;
        let tpdu = hex::decode(delivery["tpdu"].as_str().unwrap()).unwrap();
        let message = simtide_protocol::sms::Deliver::from_bytes(&tpdu).unwrap();
        message.user_data.octets[3..].to_vec()
    }

    /// Sends card n's proof of receipt for a command.
    async fn prove(
        &mut self,
        n: u32,
        command: &scp80::CommandHeader,
        status: scp80::ResponseStatus,
        data: &[u8],
    ) {
        let header = scp80::ResponseHeader { tar: command.tar, counter: command.counter, status };
        let answer =
            scp80::seal_response(&header, &command.security, &keys(), data, Default::default()).unwrap();
        let parts = simtide_protocol::sms::segment(
            &answer,
            simtide_protocol::sms::PacketKind::Response,
            simtide_protocol::sms::Reference::after(0),
        );
        for (reference, part) in parts.unwrap().into_iter().enumerate() {
            let to = simtide_protocol::sms::Address::number("500").unwrap();
            let length = part.len() as u8;
            let user_data = simtide_protocol::sms::UserData { length, octets: part };
            let submit = simtide_protocol::sms::Submit::with_header(reference as u8, to, user_data);
            let tpdu = hex::encode(submit.to_bytes());
            let imsi = format!("00101{n:010}");
            self.say(json!({ "type": "submit", "imsi": imsi, "ref": reference, "tpdu": tpdu })).await;
        }
    }
}

#[tokio::test]
async fn a_trigger_calls_a_card_in_and_the_session_proves_it() {
    let (store, platform, _smsc, mut device) = reached(3).await;
    let campaign = campaign(&platform, true).await;
    let packet = device.message().await;
    let opened = scp80::open(&packet, &keys()).unwrap();
    assert_eq!(opened.data, [0x81, 0x00]);
    let id = CardId::from(iccid(2));
    let open = async || store.open_packets(id).await.unwrap();
    until(async || open().await.first().is_some_and(|packet| packet.state == PacketState::Delivered)).await;
    assert_eq!(poll(platform.port.address(), 2).await, 1);
    assert_eq!(open().await, []);
    let progress = store.progress(campaign).await.unwrap();
    assert_eq!((progress.done_by_poll, progress.done_by_trigger), (0, 1));
    let packet = store.packet(simtide_server::store::PacketKey { card: id, key_set: 1, counter: 1 });
    assert_eq!(packet.await.unwrap().unwrap().state, PacketState::Proven(0));
    platform.stop().await;
}

/// A command to card 0 with so many bytes for the file system.
fn wanted(length: usize) -> Wanted {
    Wanted {
        card: CardId::from(iccid(0)),
        tar: Tar([0xB0, 0x00, 0x00]),
        data: vec![0xA5; length],
        spi: Some(0x1639),
        key_set: None,
        validity_s: 600,
    }
}

#[tokio::test]
async fn a_command_in_two_parts_is_proven_by_its_receipt() {
    let (store, platform, _smsc, mut device) = reached(1).await;
    let packet = commands::send(&platform, TENANT, wanted(150)).await.unwrap();
    assert!(matches!(
        commands::send(&platform, TENANT, wanted(150)).await,
        Err(commands::CommandRefused::OpenPacket)
    ));
    let (first, second) = (device.message().await, device.message().await);
    // 07 00 03 ref 02 01 70 00, then 05 00 03 ref 02 02: three octets of each are cut off already.
    let sealed = [&first[5..], &second[3..]].concat();
    let opened = scp80::open(&sealed, &keys()).unwrap();
    assert_eq!(opened.data, vec![0xA5; 150]);
    device.prove(0, &opened.header, scp80::ResponseStatus::PorOk, &[1, 0x90, 0x00]).await;
    let state = async || store.packet(packet.key).await.unwrap().unwrap().state;
    until(async || state().await == PacketState::Proven(0)).await;
    let answer = platform.answers.find(packet.key).unwrap();
    assert_eq!((answer.data.as_slice(), answer.authenticated), (&[1, 0x90, 0x00][..], true));
    platform.stop().await;
}

#[tokio::test]
async fn an_abandoned_command_makes_way_and_its_late_proof_still_counts() {
    let (store, platform, _smsc, mut device) = reached(1).await;
    let packet = commands::send(&platform, TENANT, wanted(10)).await.unwrap();
    let opened = scp80::open(&device.message().await, &keys()).unwrap();
    for _ in 0..2 {
        let given_up = commands::abandon(&platform, packet.key).await.unwrap();
        assert_eq!(given_up.state, PacketState::Abandoned);
    }
    let next = commands::send(&platform, TENANT, wanted(10)).await.unwrap();
    assert_eq!(next.key.counter, packet.key.counter + 1);
    device.prove(0, &opened.header, scp80::ResponseStatus::PorOk, &[1, 0x90, 0x00]).await;
    let state = async |key| store.packet(key).await.unwrap().unwrap().state;
    until(async || state(packet.key).await == PacketState::Proven(0)).await;
    assert!(state(next.key).await.is_open());
    let proven = commands::abandon(&platform, packet.key).await.unwrap();
    assert_eq!(proven.state, PacketState::Proven(0));
    let nobody = simtide_server::store::PacketKey { counter: 99, ..packet.key };
    assert!(matches!(commands::abandon(&platform, nobody).await, Err(commands::NotAbandoned::Unknown)));
    platform.stop().await;
}

#[tokio::test]
async fn a_command_whose_response_was_announced_stays_open_until_it_comes() {
    let (store, platform, _smsc, mut device) = reached(1).await;
    let card = CardId::from(iccid(0));
    let packet = commands::send(&platform, TENANT, wanted(10)).await.unwrap();
    let opened = scp80::open(&device.message().await, &keys()).unwrap();
    let answered = async |status: scp80::ResponseStatus| {
        until(async || platform.answers.find(packet.key).is_some_and(|answer| answer.status == status)).await;
    };
    let announcement = scp80::ResponseStatus::ResponseFollows;
    device.prove(0, &opened.header, announcement, &[]).await;
    answered(announcement).await;
    let open = store.open_packets(card).await.unwrap();
    assert_eq!(open.len(), 1, "the command waits for its response");
    assert_eq!(store.history(card, EpochMs(i64::MAX), 10).await.unwrap(), []);
    device.prove(0, &opened.header, scp80::ResponseStatus::PorOk, &[1, 0x90, 0x00]).await;
    answered(scp80::ResponseStatus::PorOk).await;
    let state = async || store.packet(packet.key).await.unwrap().unwrap().state;
    until(async || state().await == PacketState::Proven(0)).await;
    assert_eq!(platform.answers.find(packet.key).unwrap().data, [1, 0x90, 0x00]);
    platform.stop().await;
}

/// The card answers to what it got, and the command is proven.
async fn proves(device: &mut Device, store: &ModelStore, key: PacketKey) {
    let opened = scp80::open(&device.message().await, &keys()).unwrap();
    assert_eq!(opened.data, [0xA5; 10]);
    assert_eq!(opened.header.counter.value(), key.counter, "the same packet again");
    device.prove(0, &opened.header, scp80::ResponseStatus::PorOk, &[1, 0x90, 0x00]).await;
    until(async || store.packet(key).await.unwrap().unwrap().state == PacketState::Proven(0)).await;
}

#[tokio::test]
async fn a_command_that_may_have_left_before_a_crash_leaves_again() {
    let now = Clock::REAL.now();
    let store = store(1, now).await;
    let (smsc, mut device) = served(Settings::default(), 0).await;
    let card = CardId::from(iccid(0));
    let command = |deadline| Command {
        card,
        key_set: 1,
        origin: Origin::Request,
        tar: Tar([0xB0, 0x00, 0x00]),
        spi: 0x1639,
        data: vec![0xA5; 10],
        at: now,
        deadline,
    };
    let bucket = Bucket::of(&card, store.buckets());
    let key = PacketKey { card, key_set: 1, counter: 1 };
    // What a process leaves that dies between the commit and the answer of the service centre.
    commit(&store, bucket, Op::Command(Box::new(command(now.plus_s(600))))).await;
    let submitted =
        PacketChange { key, state: PacketState::Submitted, message_ids: Vec::new(), deadline: None };
    commit(&store, bucket, Op::Packet(submitted)).await;
    let platform = start(&store, Some(smsc.smpp)).await;
    proves(&mut device, &store, key).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_command_that_is_lost_with_its_link_leaves_again() {
    let now = Clock::REAL.now();
    let store = store(1, now).await;
    let mut settings = Settings::default();
    settings.faults.drop_at_submit = Some(1);
    let (smsc, mut device) = served(settings, 0).await;
    let platform = start(&store, Some(smsc.smpp)).await;
    let packet = commands::send(&platform, TENANT, wanted(10)).await.unwrap();
    proves(&mut device, &store, packet.key).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_trigger_that_waits_for_its_link_does_not_leave_once_its_card_has_polled() {
    let now = Clock::REAL.now();
    let store = store(1, now).await;
    // Nobody listens there yet.
    let smpp = std::net::TcpListener::bind(ANY).unwrap().local_addr().unwrap();
    let platform = start(&store, Some(smpp)).await;
    campaign(&platform, true).await;
    let card = CardId::from(iccid(0));
    let open = async || store.open_packets(card).await.unwrap();
    until(async || open().await.first().is_some_and(|packet| packet.state == PacketState::Submitted)).await;
    assert_eq!(poll(platform.port.address(), 0).await, 1);
    assert_eq!(open().await, []);
    let packet = commands::send(&platform, TENANT, wanted(10)).await.unwrap();
    let smsc = Smsc::start(Settings::default(), smpp, ANY, AirClock::REAL, None).await.unwrap();
    let mut device = Device::attach(smsc.air, 0).await;
    // A link keeps the order of what it is given: the first message is not the trigger.
    proves(&mut device, &store, packet.key).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_waiver_of_the_profile_lets_weaker_commands_leave() {
    let (_store, platform, _smsc, mut device) = reached(1).await;
    let wanted = Wanted {
        card: CardId::from(iccid(0)),
        tar: Tar([0xB0, 0x00, 0x00]),
        data: vec![0xA5; 10],
        // Not ciphered, where the application asks for 1600.
        spi: Some(0x1200),
        key_set: None,
        validity_s: 600,
    };
    let refused = commands::send(&platform, TENANT, wanted.clone()).await;
    assert!(matches!(refused, Err(commands::CommandRefused::Policy(_))));
    let text = STANDARD_TEXT.replace("below_minimum_allowed = false", "below_minimum_allowed = true");
    let profile = DirectoryRow::Profile { id: ProfileId(1), name: "standard".into(), text };
    platform.core.commit(Group::Platform, vec![Op::PutDirectory(profile)]).await.unwrap();
    platform.cards_added().await.unwrap();
    commands::send(&platform, TENANT, wanted).await.unwrap();
    let opened = scp80::open(&device.message().await, &keys()).unwrap();
    assert_eq!(opened.data, vec![0xA5; 10]);
    platform.stop().await;
}
