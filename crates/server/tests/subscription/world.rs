//! A platform behind its real API, a service centre, cards in software, and registers in memory.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use simtide_agent::clock::Clock as AirClock;
use simtide_card::secure_channel::NoChannels;
use simtide_card::{Card, Environment, KeySetPersonalization, Personalization, Secret};
use simtide_protocol::card_file;
use simtide_protocol::ids::{CardId, Iccid, Imsi, Msisdn};
use simtide_protocol::personalization::{Identity, Uplink};
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::{Counter, Key, KeySet, Kic, Kid};
use simtide_protocol::sms::{Address, PacketKind, Reference, SmsPpDownload, Submit, UserData, segment};
use simtide_protocol::tlv::{Reader, find_comprehension};
use simtide_server::api::imports::Imports;
use simtide_server::api::tokens::Tokens;
use simtide_server::api::{self, Api};
use simtide_server::config::Config;
use simtide_server::metrics::Metrics;
use simtide_server::registers::memory::MemoryRegister;
use simtide_server::registers::{Register, Subscriber};
use simtide_server::shell::Platform;
use simtide_server::shell::keyring::VaultKeyring;
use simtide_server::store::OperatorId;
use simtide_server::store::Store;
use simtide_server::store::model::ModelStore;
use simtide_server::vault::{AlarmLimits, KeyFile, Vault, VaultSettings};
use simtide_simulation::smsc::{Settings, Smsc};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Admin code of every card.
const CODE: [u8; 8] = [3; 8];
/// Where the fast clock and ours were at one.
pub const ANCHOR_MS: i64 = 1_790_000_000_000;
/// Where cards send.
const SOURCE: &str = "500";

pub fn iccid() -> Iccid {
    Iccid::with_check_digit("890010000000000001").unwrap()
}

pub fn card() -> CardId {
    CardId::from(iccid())
}

pub fn first_imsi() -> Imsi {
    "001010000000001".parse().unwrap()
}

pub fn first_msisdn() -> Msisdn {
    "436641000001".parse().unwrap()
}

pub fn keys() -> KeySet {
    KeySet::new(Some(Key::new(&[0x11; 16]).unwrap()), Some(Key::new(&[0x22; 16]).unwrap()))
}

/// Waits; the test's own time limit is the only deadline.
pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    while !condition().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub struct World {
    pub api: Arc<Api>,
    pub base: String,
    pub http: Client,
    /// Of the whole service.
    pub admin: String,
    pub store: Arc<dyn Store>,
    pub registers: [MemoryRegister; 3],
    pub smscs: Vec<Smsc>,
    pub folder: Arc<tempfile::TempDir>,
}

impl World {
    /// Three operators, each with its register; the card is a subscriber of the first. `smscs` service centres, one
    /// link to each, named `one`, `two`, ...
    pub async fn new(smscs: usize) -> World {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut centres = Vec::new();
        for _ in 0..smscs {
            centres.push(Smsc::start(Settings::default(), any, any, AirClock::REAL, None).await.unwrap());
        }
        let registers = ["00101", "00102", "00103"].map(|prefix| MemoryRegister::new(prefix, prefix, 100));
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let store: Arc<dyn Store> = Arc::new(ModelStore::new(4, 2).unwrap());
        let world = World::start(store, registers, centres, folder).await;
        for (place, name) in ["home", "two", "three"].into_iter().enumerate() {
            let (status, answer) = world.put_operator(name, place + 1, json!({})).await;
            assert!(status < 300, "{answer}");
        }
        for from in ["home", "two", "three"] {
            for to in ["home", "two", "three"].into_iter().filter(|to| *to != from) {
                let (status, answer) =
                    world.ask(Method::PUT, &format!("/v1/agreements/{from}/{to}"), json!({})).await;
                assert_eq!(status, 200, "{answer}");
            }
        }
        world.import().await;
        let subscriber = Subscriber {
            card: card(),
            imsi: first_imsi(),
            algorithm: card_file::AuthenticationAlgorithm::Milenage,
            k: card_file::Secret::new(&[1; 16]).unwrap(),
            opc: card_file::Secret::new(&[2; 16]).unwrap(),
            msisdn: Some(first_msisdn()),
        };
        world.registers[0].provision(subscriber).await.unwrap();
        world
    }

    /// A platform on what is there.
    pub async fn start(
        store: Arc<dyn Store>,
        registers: [MemoryRegister; 3],
        smscs: Vec<Smsc>,
        folder: Arc<tempfile::TempDir>,
    ) -> World {
        // Pauses between tries pass faster than on our clocks. The anchor is the same for every start.
        let anchor = ANCHOR_MS;
        let mut text = format!(
            "[clock]\nrate = 20.0\nreal_anchor_ms = {anchor}\nvirtual_anchor_ms = {anchor}\n\
             [data]\nfolder = {:?}\n[card_port]\nlisten = \"127.0.0.1:0\"\n[flow]\ntick_ms = 20\n\
             [smpp]\nsource_address = \"{SOURCE}\"\n",
            folder.path()
        );
        for (smsc, name) in smscs.iter().zip(["one", "two"]) {
            text += &format!(
                "[[smpp.links]]\nname = \"{name}\"\nport = {}\nsystem_id = \"simtide\"\npassword = \"simtide\"\n\
                 reconnect_s_min = 1\n",
                smsc.smpp.port()
            );
        }
        let config = Config::parse(&text).unwrap();
        let vault = vault(&config, folder.path());
        let keyring = Box::new(VaultKeyring::new(vault.clone()).unwrap());
        let platform = Platform::start(config, store.clone(), keyring, None).await.unwrap();
        let platform = Arc::new(platform);
        let (tokens, _) = Tokens::open(folder.path()).unwrap();
        let admin = std::fs::read_to_string(folder.path().join("admin.token")).unwrap().trim().to_owned();
        let metrics = Metrics::new(platform.clone());
        let api = Arc::new(Api { platform, tokens, metrics, vault, imports: Imports::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let routes = api::routes(api.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let world = World { api, base, http: Client::new(), admin, store, registers, smscs, folder };
        world.connect();
        world
    }

    fn connect(&self) {
        for (operator, register) in (1..).zip(&self.registers) {
            self.api.platform.changes.registers.put(OperatorId(operator), Arc::new(register.clone()));
        }
    }

    /// The platform ends and another process takes over.
    pub async fn restart(self) -> World {
        let World { api, store, registers, smscs, folder, .. } = self;
        api.platform.stop().await;
        drop(api);
        World::start(store, registers, smscs, folder).await
    }

    /// Settings of an operator, with more of them.
    pub async fn put_operator(&self, name: &str, number: usize, more: Value) -> (u16, Value) {
        let mut body = json!({
            "id_mno": format!("OP{number}"), "display_name": format!("Operator {number}"), "mcc": "001",
            "mnc": format!("0{number}"),
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let answer = self.ask(Method::PUT, &format!("/v1/operators/{name}"), body).await;
        // The settings name no register: the test's own stays.
        self.connect();
        answer
    }

    async fn import(&self) {
        let request = self.http.post(format!("{}/v1/imports?plain=true&operator=home", self.base));
        let answer = request.bearer_auth(&self.admin).body(csv()).send().await.unwrap();
        let view: Value = answer.json().await.unwrap();
        until(async || {
            let (_, view) = self.ask(Method::GET, &format!("/v1/imports/{}", view["id"]), json!({})).await;
            assert_ne!(view["state"], "failed", "{view}");
            assert_eq!(view["refused"], 0, "{view}");
            view["state"] == "finished"
        })
        .await;
    }

    pub async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.ask_as(&self.admin, method, path, body).await
    }

    pub async fn ask_as(&self, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(token);
        let request = if method == Method::GET { request } else { request.json(&body) };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    /// Operator 2 asks for its new subscriber.
    pub async fn request(&self, operator: &str) -> (u16, Value) {
        let consent = json!({ "when": "2026-01-02T03:04:05Z", "how": "contact-center", "reference": "T-7" });
        let body = json!({ "card": card(), "operator": operator, "consent": consent });
        self.ask(Method::POST, "/v1/changes", body).await
    }

    pub async fn change(&self, id: &str) -> Value {
        self.ask(Method::GET, &format!("/v1/changes/{id}"), json!({})).await.1
    }

    pub async fn reaches(&self, id: &str, state: &str) {
        until(async || self.change(id).await["state"] == state).await;
    }

    /// The registers that let this identity in.
    pub fn let_in(&self, imsi: Imsi) -> usize {
        self.registers.iter().filter(|one| one.held(imsi).is_some_and(|held| held.access)).count()
    }
}

pub fn vault(config: &Config, folder: &Path) -> Arc<Vault> {
    let key = KeyFile::open_or_make(&config.key_file()).unwrap();
    let settings = VaultSettings { keystore: folder.join("keystore.json"), limits: AlarmLimits::default() };
    Arc::new(Vault::open(&key, &settings).unwrap())
}

/// The card as its vendor delivers it.
pub fn csv() -> String {
    format!(
        "iccid,imsi,msisdn,profile,ki,opc,kic1,kid1,psk,admin_code\n{},{},{},standard,{},{},{},{},{},{}\n",
        iccid(),
        first_imsi(),
        first_msisdn(),
        hex::encode([1; 16]),
        hex::encode([2; 16]),
        hex::encode([0x11; 16]),
        hex::encode([0x22; 16]),
        hex::encode([0x42; 16]),
        hex::encode(CODE),
    )
}

/// A card in a device that is at the air interface of a service centre.
pub struct Phone {
    card: Card,
    /// What the card has sent and nobody has taken.
    sent: Vec<Submit>,
    /// Every message that the card was given, and every one that it has sent, for whoever replays them.
    heard: Vec<Vec<u8>>,
    said: Vec<Submit>,
    /// Texts that the user has seen.
    pub shown: Vec<String>,
    /// The card wants a reset.
    wants_reset: bool,
    lines: tokio::io::Lines<BufReader<tokio::net::tcp::OwnedReadHalf>>,
    write: tokio::net::tcp::OwnedWriteHalf,
    imsi: Imsi,
    reference: u8,
}

impl Phone {
    pub async fn new(air: SocketAddr, code: [u8; 8]) -> Phone {
        let personalization = Personalization {
            iccid: iccid(),
            eid: None,
            identity: Identity::milenage(first_imsi(), &[1; 16], &[2; 16]).unwrap(),
            msisdn: None,
            key_sets: vec![KeySetPersonalization {
                index: 1,
                kic: Key::new(&[0x11; 16]).unwrap(),
                kid: Key::new(&[0x22; 16]).unwrap(),
                kik: None,
                counter: Counter::ZERO,
            }],
            psk: None,
            adm1: Secret::new(code),
            pin1: None,
            puk1: None,
            files: Vec::new(),
        };
        let card = Card::personalised(Arc::new(Profile::standard()), &personalization);
        let (lines, write) = connect(air).await;
        let mut phone = Phone {
            card,
            sent: Vec::new(),
            heard: Vec::new(),
            said: Vec::new(),
            shown: Vec::new(),
            wants_reset: false,
            lines,
            write,
            imsi: first_imsi(),
            reference: 0,
        };
        phone.reset();
        phone.attach(first_msisdn()).await;
        phone
    }

    /// A phone with the card's own admin code.
    pub async fn usual(air: SocketAddr) -> Phone {
        Phone::new(air, CODE).await
    }

    fn reset(&mut self) {
        let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
        self.card.reset(&mut Environment { channels: &NoChannels, random: &mut random });
        self.wants_reset = false;
        let answer = self.transmit(&[&[0x80, 0x10, 0x00, 0x00, 0x14][..], &[0xFF; 20]].concat());
        self.serve_toolkit(answer);
    }

    /// One command to the card.
    pub fn transmit(&mut self, command: &[u8]) -> Vec<u8> {
        let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
        let mut environment = Environment { channels: &NoChannels, random: &mut random };
        self.card.transmit(&mut environment, command)
    }

    fn serve_toolkit(&mut self, mut answer: Vec<u8>) {
        while let [.., 0x91, length] = answer[..] {
            let mut fetched = self.transmit(&[0x80, 0x12, 0x00, 0x00, length]);
            fetched.truncate(fetched.len() - 2);
            let body = Reader::new(&fetched).next().unwrap().unwrap().value.to_vec();
            let details = find_comprehension(&body, 0x01).unwrap().to_vec();
            match details[1] {
                0x01 => self.wants_reset = true,
                0x13 => self.sent.push(Submit::from_bytes(find_comprehension(&body, 0x0B).unwrap()).unwrap()),
                0x21 => self.shown.push(text(find_comprehension(&body, 0x0D).unwrap())),
                _ => {}
            }
            let response =
                [&[0x81, 0x03], &details[..], &[0x82, 0x02, 0x82, 0x81, 0x83, 0x01, 0x00]].concat();
            answer =
                self.transmit(&[&[0x80, 0x14, 0x00, 0x00, response.len() as u8], &response[..]].concat());
        }
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

    /// The device attaches with the identity that is on its card.
    pub async fn attach(&mut self, msisdn: Msisdn) {
        self.imsi = self.identity();
        let attach = json!({ "type": "attach", "imsi": self.imsi, "msisdn": msisdn.to_string() });
        self.say(attach).await;
        self.hear("attached").await;
    }

    /// The device is in the network of its card's new operator now.
    pub async fn moves(&mut self, air: SocketAddr, msisdn: Msisdn) {
        (self.lines, self.write) = connect(air).await;
        self.attach(msisdn).await;
    }

    /// EF.IMSI.
    pub fn identity(&mut self) -> Imsi {
        let aid = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02];
        let select = [&[0x00, 0xA4, 0x04, 0x0C, aid.len() as u8][..], &aid].concat();
        assert_eq!(self.transmit(&select), [0x90, 0x00]);
        assert_eq!(self.transmit(&[0x00, 0xA4, 0x00, 0x0C, 0x02, 0x6F, 0x07]), [0x90, 0x00]);
        let content = self.transmit(&[0x00, 0xB0, 0x00, 0x00, 0x09]);
        Imsi::from_file(&content[..9]).unwrap()
    }

    /// Takes one message from the service centre and gives it to the card.
    pub async fn take(&mut self) {
        let delivery = self.hear("deliver").await;
        self.say(json!({ "type": "report", "id": delivery["id"], "ok": true })).await;
        let tpdu = hex::decode(delivery["tpdu"].as_str().unwrap()).unwrap();
        let service_centre = Some(Address::number("+4917000000").unwrap());
        let data = SmsPpDownload { service_centre, tpdu }.to_bytes();
        let envelope = [&[0x80, 0xC2, 0x00, 0x00, data.len() as u8], &data[..], &[0x00]].concat();
        let answer = self.transmit(&envelope);
        self.heard.push(envelope);
        self.serve_toolkit(answer);
    }

    /// Somebody replays, to the card and to the platform, whatever was said before.
    pub async fn hears_it_all_again(&mut self) {
        for envelope in self.heard.clone() {
            let answer = self.transmit(&envelope);
            self.serve_toolkit(answer);
        }
        for submit in self.said.clone() {
            self.submit(&submit).await;
        }
        self.send_all().await;
        assert!(!self.wants_reset, "what was used moves nothing");
    }

    /// Sends what the card wants sent.
    pub async fn send_all(&mut self) {
        for submit in std::mem::take(&mut self.sent) {
            self.submit(&submit).await;
            self.said.push(submit);
        }
    }

    pub async fn submit(&mut self, submit: &Submit) {
        self.reference = self.reference.wrapping_add(1);
        let tpdu = hex::encode(submit.to_bytes());
        let (imsi, reference) = (self.imsi, self.reference);
        self.say(json!({ "type": "submit", "imsi": imsi, "ref": reference, "tpdu": tpdu })).await;
    }

    /// Takes messages until the card has something to send; sends it, and follows the card's wish for a reset.
    pub async fn answers(&mut self) {
        while self.sent.is_empty() {
            self.take().await;
        }
        self.send_all().await;
        if self.wants_reset {
            self.reset();
        }
    }

    /// Takes one message, sends what the card answers, and follows its wish for a reset.
    pub async fn takes_one(&mut self) {
        self.take().await;
        self.send_all().await;
        if self.wants_reset {
            self.reset();
        }
    }

    /// Takes messages until the user sees a text.
    pub async fn is_shown(&mut self) -> String {
        while self.shown.is_empty() {
            self.take().await;
        }
        self.send_all().await;
        self.shown.remove(0)
    }

    /// Sends what a card seals by itself.
    pub async fn says(&mut self, uplink: &Uplink, counter: u64, keys: &KeySet) {
        let tar = Profile::standard().personalization.uplink_tar;
        let counter = Counter::new(counter).unwrap();
        let packet = uplink.seal(tar, Kic(0x12), Kid(0x12), counter, keys).unwrap();
        for part in segment(&packet, PacketKind::Command, Reference::after(9)).unwrap() {
            let user_data = UserData::from_octets(part).unwrap();
            let submit = Submit::with_header(0, Address::number(SOURCE).unwrap(), user_data);
            self.submit(&submit).await;
        }
    }
}

async fn connect(
    air: SocketAddr,
) -> (tokio::io::Lines<BufReader<tokio::net::tcp::OwnedReadHalf>>, tokio::net::tcp::OwnedWriteHalf) {
    let (read, write) = TcpStream::connect(air).await.unwrap().into_split();
    (BufReader::new(read).lines(), write)
}

/// A text string of the toolkit: the coding, then the text.
fn text(value: &[u8]) -> String {
    match value.split_first() {
        Some((0x08, ucs2)) => {
            let units: Vec<u16> = ucs2.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        Some((_, rest)) => String::from_utf8_lossy(rest).into_owned(),
        None => String::new(),
    }
}
