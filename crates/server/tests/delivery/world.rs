//! Cards in software, a device that carries packets to them, and a platform that knows their keys.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use simtide_card::secure_channel::NoChannels;
use simtide_card::{Card, Environment, KeySetPersonalization, Personalization, Secret};
use simtide_platform::card::{Applied, CardState};
use simtide_protocol::ids::{Bucket, CardId, DeliveryId, EpochMs, Iccid, Imsi, Msisdn};
use simtide_protocol::personalization::Identity;
use simtide_protocol::profile::{Profile, STANDARD_TEXT};
use simtide_protocol::scp80::{Counter, Key, KeySet, Kic, Kid};
use simtide_protocol::sms::{
    Address, Deliver, PacketKind, Reference, SmsPpDownload, Submit, Timestamp, UserData, segment,
};
use simtide_protocol::tlv::{Reader, find_comprehension};
use simtide_server::card_port::Psk;
use simtide_server::config::Config;
use simtide_server::shell::Platform;
use simtide_server::shell::keyring::{CardKeySet, Keyring, KeyringError};
use simtide_server::store::model::ModelStore;
use simtide_server::store::{
    Alias, Batch, CardHot, CardRecord, DirectoryRow, Group, NewCard, Op, OperatorId, ProfileId, SealedKeys,
    Store, TenantId,
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

pub const TENANT: TenantId = TenantId(1);
pub const SOURCE: &str = "500";
const DAY_MS: i64 = 86_400_000;

pub fn iccid(n: u32) -> Iccid {
    Iccid::with_check_digit(&format!("89001000000000{n:04}")).unwrap()
}

pub fn card(n: u32) -> CardId {
    CardId::from(iccid(n))
}

pub fn imsi(n: u32) -> Imsi {
    format!("00101{n:010}").parse().unwrap()
}

fn msisdn(n: u32) -> Msisdn {
    format!("43664100{n:04}").parse().unwrap()
}

/// Every card has keys of its own.
pub fn key_bytes(n: u32, what: u8) -> [u8; 16] {
    let mut key = [what; 16];
    key[..4].copy_from_slice(&n.to_be_bytes());
    key
}

fn key(n: u32, what: u8) -> Key {
    Key::new(&key_bytes(n, what)).unwrap()
}

pub fn keys(n: u32) -> KeySet {
    KeySet::new(Some(key(n, 0x11)), Some(key(n, 0x22)))
}

/// The keys of all cards, or those of the card port only.
struct TestKeyring {
    has_ota_keys: bool,
}

impl Keyring for TestKeyring {
    fn psk(&self, _card: &CardRecord) -> Result<Option<Psk>, KeyringError> {
        Ok(Some(Psk::new(super::polling::PSK.to_vec())))
    }

    fn psk_of_nobody(&self) {}

    fn ota_keys(&self, record: &CardRecord) -> Result<Vec<CardKeySet>, KeyringError> {
        assert!(self.has_ota_keys, "nobody asks for keys that stay with their operator");
        let n = (0..1_000).find(|n| card(*n) == record.id).unwrap();
        Ok(vec![CardKeySet { index: 1, kic: Kic(0x12), kid: Kid(0x12), keys: keys(n) }])
    }

    fn seal_delivery(&self, _: DeliveryId, _: &CardRecord, plain: &[u8]) -> Result<Vec<u8>, KeyringError> {
        Ok(veiled(plain))
    }

    fn open_delivery(
        &self,
        _: DeliveryId,
        _: &CardRecord,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        Ok(Zeroizing::new(veiled(sealed)))
    }
}

/// Not what is stored in clear.
fn veiled(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0xA5).collect()
}

/// A store with cards 0 to `cards` - 1, none of which polls by itself for a day and more.
pub async fn store(cards: u32, now: EpochMs) -> Arc<ModelStore> {
    let store = Arc::new(ModelStore::new(4, 2).unwrap());
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
    let platform = store.acquire(Group::Platform, "test").await.unwrap();
    let ops: Vec<Op> = rows.into_iter().map(Op::PutDirectory).collect();
    store.commit(platform, Batch { ops }).await.unwrap();
    let leases = [0, 1].map(Group::Cards);
    for n in 0..cards {
        let id = card(n);
        let record = CardRecord {
            id,
            tenant: TENANT,
            iccid: Some(iccid(n)),
            eid: None,
            imsi: Some(imsi(n)),
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
        let aliases =
            [Alias::PskIdentity(record.psk_identity.clone()), Alias::Msisdn(msisdn(n)), Alias::Imsi(imsi(n))];
        let put = Op::PutCard(Box::new(NewCard { record, hot, counters: vec![(1, 0)] }));
        let group = Group::Cards(Bucket::of(&id, 4).0 % 2);
        let lease = store.acquire(group, "test").await.unwrap();
        store.commit(lease, put.into()).await.unwrap();
        for alias in aliases {
            // The group of an alias is the store's business: one of the two takes it.
            for group in leases {
                let lease = store.acquire(group, "test").await.unwrap();
                let claim = Op::ClaimAlias { alias: alias.clone(), card: id, from: None };
                let _ = store.commit(lease, claim.into()).await;
            }
        }
    }
    store
}

/// A platform on the store, with more of a configuration.
pub async fn start(store: &Arc<ModelStore>, smsc: Option<SocketAddr>, more: &str) -> Arc<Platform> {
    start_with(store, smsc, more, TestKeyring { has_ota_keys: true }).await
}

/// A platform that knows no OTA key.
pub async fn start_without_keys(store: &Arc<ModelStore>, more: &str) -> Arc<Platform> {
    start_with(store, None, more, TestKeyring { has_ota_keys: false }).await
}

async fn start_with(
    store: &Arc<ModelStore>,
    smsc: Option<SocketAddr>,
    more: &str,
    keyring: TestKeyring,
) -> Arc<Platform> {
    let mut text = format!(
        "[card_port]\nlisten = \"127.0.0.1:0\"\n[flow]\ntick_ms = 20\nsession_initial_ms = 20\n\
         response_initial_ms = 20\n{more}\n[smpp]\nsource_address = \"{SOURCE}\"\n"
    );
    if let Some(address) = smsc {
        text += &format!(
            "[[smpp.links]]\nport = {}\nsystem_id = \"simtide\"\npassword = \"simtide\"\nreconnect_s_min = 1\n",
            address.port()
        );
    }
    let config = Config::parse(&text).unwrap();
    Arc::new(Platform::start(config, store.clone(), Box::new(keyring), None).await.unwrap())
}

/// Waits; the test's own time limit is the only deadline.
pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A card in a device that hands it messages and carries what it sends.
pub struct Holder {
    n: u32,
    card: Card,
    /// What the card has sent and nobody has taken.
    pub sent: Vec<Submit>,
}

impl Holder {
    pub fn new(n: u32) -> Holder {
        Holder::ahead(n, 0)
    }

    /// The same with a card that has had counters up to this one.
    pub fn ahead(n: u32, counter: u64) -> Holder {
        let personalization = Personalization {
            iccid: iccid(n),
            eid: None,
            identity: Identity::milenage(imsi(n), &[1; 16], &[2; 16]).unwrap(),
            msisdn: None,
            key_sets: vec![KeySetPersonalization {
                index: 1,
                kic: key(n, 0x11),
                kid: key(n, 0x22),
                kik: None,
                counter: Counter::new(counter).unwrap(),
            }],
            psk: None,
            adm1: Secret::new([3; 8]),
            pin1: None,
            puk1: None,
            files: Vec::new(),
        };
        let card = Card::personalised(Arc::new(Profile::standard()), &personalization);
        let mut holder = Holder { n, card, sent: Vec::new() };
        let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
        holder.card.reset(&mut Environment { channels: &NoChannels, random: &mut random });
        let answer = holder.transmit(&[&[0x80, 0x10, 0x00, 0x00, 0x14][..], &[0xFF; 20]].concat());
        holder.serve_toolkit(answer);
        holder
    }

    fn transmit(&mut self, command: &[u8]) -> Vec<u8> {
        let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
        let mut environment = Environment { channels: &NoChannels, random: &mut random };
        self.card.transmit(&mut environment, command)
    }

    fn serve_toolkit(&mut self, mut answer: Vec<u8>) {
        while let [.., 0x91, length] = answer[..] {
            let mut fetched = self.transmit(&[0x80, 0x12, 0x00, 0x00, length]);
            fetched.truncate(fetched.len() - 2);
            let body = Reader::new(&fetched).next().unwrap().unwrap().value.to_vec();
            if let Some(tpdu) = find_comprehension(&body, 0x0B) {
                self.sent.push(Submit::from_bytes(tpdu).unwrap());
            }
            let details = find_comprehension(&body, 0x01).unwrap();
            let response = [&[0x81, 0x03], details, &[0x82, 0x02, 0x82, 0x81, 0x83, 0x01, 0x00]].concat();
            answer =
                self.transmit(&[&[0x80, 0x14, 0x00, 0x00, response.len() as u8], &response[..]].concat());
        }
    }

    /// One short message.
    pub fn message(&mut self, tpdu: &[u8]) {
        let service_centre = Some(Address::number("+4917000000").unwrap());
        let data = SmsPpDownload { service_centre, tpdu: tpdu.to_vec() }.to_bytes();
        let answer =
            self.transmit(&[&[0x80, 0xC2, 0x00, 0x00, data.len() as u8], &data[..], &[0x00]].concat());
        self.serve_toolkit(answer);
    }

    /// The messages of a sealed packet, as the device makes them.
    pub fn messages(packet: &[u8], from: &str) -> Vec<Vec<u8>> {
        let parts = segment(packet, PacketKind::Command, Reference::after(7)).unwrap();
        let message = |part| {
            let user_data = UserData::from_octets(part).unwrap();
            let sender = Address::number(from).unwrap();
            Deliver::data_download(sender, Timestamp([0x22; 7]), user_data).to_bytes()
        };
        parts.into_iter().map(message).collect()
    }

    /// A sealed packet that came over IP.
    pub fn packet(&mut self, packet: &[u8], from: &str) {
        for message in Holder::messages(packet, from) {
            self.message(&message);
        }
    }

    /// How often the content of [`counting`] has run, read from the card's own file.
    pub fn effects(&mut self) -> u32 {
        for fid in [[0x3F, 0x00], [0x7F, 0x90], [0x6F, 0x03]] {
            assert_eq!(self.transmit(&[&[0x00, 0xA4, 0x00, 0x0C, 0x02], &fid[..]].concat()), [0x90, 0x00]);
        }
        let record = self.transmit(&[0x00, 0xB2, 0x01, 0x04, 0x04]);
        record[..record.len() - 2].iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
    }

    /// EF.CONFIGURATION.
    pub fn configuration(&mut self) -> Vec<u8> {
        for fid in [[0x3F, 0x00], [0x7F, 0x90], [0x6F, 0x04]] {
            assert_eq!(self.transmit(&[&[0x00, 0xA4, 0x00, 0x0C, 0x02], &fid[..]].concat()), [0x90, 0x00]);
        }
        let mut content = self.transmit(&[0x00, 0xB0, 0x00, 0x00, 0x40]);
        content.truncate(64);
        content
    }

    pub fn n(&self) -> u32 {
        self.n
    }
}

/// A step that counts on the card how often it ran.
pub fn counting() -> Value {
    json!({ "do": { "script": { "commands": ["00A4080C047F906F03", "8032000003000001"] } }, "tar": "B00000" })
}

/// The air interface of a service centre.
pub struct Air {
    lines: tokio::io::Lines<BufReader<tokio::net::tcp::OwnedReadHalf>>,
    write: tokio::net::tcp::OwnedWriteHalf,
    n: u32,
    reference: u8,
}

impl Air {
    pub async fn attach(air: SocketAddr, n: u32) -> Air {
        let (read, write) = TcpStream::connect(air).await.unwrap().into_split();
        let mut air = Air { lines: BufReader::new(read).lines(), write, n, reference: 0 };
        let attach = json!({ "type": "attach", "imsi": imsi(n), "msisdn": msisdn(n).to_string() });
        air.say(attach).await;
        air.hear("attached").await;
        air
    }

    async fn say(&mut self, line: Value) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn hear(&mut self, kind: &str) -> Value {
        loop {
            let line = self.lines.next_line().await.unwrap().unwrap();
            let value: Value = serde_json::from_str(&line).unwrap();
            if value["type"] == kind {
                return value;
            }
        }
    }

    /// The TPDU of the next message.
    pub async fn message(&mut self) -> Vec<u8> {
        let delivery = self.hear("deliver").await;
        self.say(json!({ "type": "report", "id": delivery["id"], "ok": true })).await;
        hex::decode(delivery["tpdu"].as_str().unwrap()).unwrap()
    }

    /// Sends what the card wants sent.
    pub async fn submit(&mut self, submit: &Submit) {
        self.reference = self.reference.wrapping_add(1);
        let tpdu = hex::encode(submit.to_bytes());
        let (n, reference) = (self.n, self.reference);
        self.say(json!({ "type": "submit", "imsi": imsi(n), "ref": reference, "tpdu": tpdu })).await;
    }
}
