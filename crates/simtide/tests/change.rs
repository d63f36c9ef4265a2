//! Cards that change their operator: against registers that others have written, and as `simtide demo --change` shows it.

#![allow(clippy::unwrap_used)]

#[path = "support/api.rs"]
mod api;
#[path = "support/hlr/mod.rs"]
mod hlr;
#[path = "support/osmocom/mod.rs"]
mod osmocom;
#[path = "support/stage/mod.rs"]
mod stage;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hlr::Hlr;
use reqwest::Method;
use serde_json::{Value, json};
use simtide_protocol::card_file::{CardRow, Format};
use simtide_protocol::gsup::ipa::Frame;
use simtide_protocol::ids::{EpochMs, Imsi};
use simtide_simulation::reader::Reader;
use simtide_simulation::vendor::Order;
use stage::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Only so that a hanging test ends.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The first bytes of every USIM's AID (ETSI TS 101 220, annex E).
const USIM: [u8; 7] = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02];
/// Name, MNC.
const OPERATORS: [(&str, &str); 3] = [("one", "01"), ("two", "02"), ("three", "03")];

/// An operator with a real register, as the platform and the fleet see it.
#[derive(Clone, Copy)]
struct Operator {
    name: &'static str,
    mnc: &'static str,
    ctrl: SocketAddr,
    smpp: SocketAddr,
    air: SocketAddr,
}

/// A real register with an SMSC of ours.
struct Ours {
    operator: Operator,
    _smsc: Role,
    _hlr: Hlr,
}

impl Ours {
    async fn start((name, mnc): (&'static str, &'static str), folder: &Path) -> Ours {
        let hlr = Hlr::start().await;
        let text = |file: &str| folder.join(format!("{name}-{file}")).display().to_string();
        let (register, plmn) = (format!("gsup:{}", hlr.gsup()), format!("001-{mnc}"));
        let pairs = [
            ["--smpp", "127.0.0.1:0"],
            ["--air", "127.0.0.1:0"],
            ["--system-id", "simtide"],
            ["--password", "simtide"],
            ["--register", &register],
            ["--plmn", &plmn],
            ["--record", &text("smsc.jsonl")],
        ];
        let arguments: Vec<String> =
            ["smsc"].iter().chain(pairs.as_flattened()).map(|&one| one.to_owned()).collect();
        let smsc = Role::start(&arguments, &[], text("smsc.log").into()).unwrap();
        let (smpp, air) = (smsc.address("smpp"), smsc.address("air"));
        Ours { operator: Operator { name, mnc, ctrl: hlr.ctrl(), smpp, air }, _smsc: smsc, _hlr: hlr }
    }
}

impl Operator {
    fn link(&self) -> String {
        format!(
            "[[smpp.links]]\nname = \"{}\"\nhost = \"{}\"\nport = {}\nsystem_id = \"simtide\"\npassword = \"simtide\"\n",
            self.name,
            self.smpp.ip(),
            self.smpp.port()
        )
    }

    fn settings(&self, folder: &Path) -> Value {
        let database = folder.join(format!("{}-pool.db", self.name)).display().to_string();
        let first = format!("001{}5000000001", self.mnc);
        let number = format!("4670{}00000001", self.mnc);
        let pool =
            [["--database", &database], ["--first", &first], ["--count", "4"], ["--msisdn-first", &number]];
        simtide(&[&["register-gateway", "pool"], pool.as_flattened()].concat());
        json!({
            "id_mno": format!("000{}", self.mnc), "display_name": format!("Operator {}", self.name),
            "mcc": "001", "mnc": self.mnc, "smpp_links": [self.name], "consent": "inform-after",
            "register": {
                "kind": "osmo-hlr", "addresses": { "ctrl": self.ctrl.to_string() }, "database": database,
            },
        })
    }

    /// The network element where the register has the identity, empty where it is at none; `None`: it is not known.
    async fn knows(&self, imsi: Imsi) -> Option<String> {
        let mut stream = TcpStream::connect(self.ctrl).await.unwrap();
        let request = format!("GET 1 subscriber.by-imsi-{imsi}.info-all");
        stream.write_all(&Frame::Ctrl(request.into_bytes()).encode()).await.unwrap();
        let mut received = Vec::new();
        loop {
            if let Ok(Some((Frame::Ctrl(answer), _))) = Frame::split(&received) {
                let answer = String::from_utf8(answer).unwrap();
                let vlr = answer.lines().find_map(|line| line.strip_prefix("vlr_number"));
                return answer.starts_with("GET_REPLY").then(|| vlr.unwrap_or_default().trim().to_owned());
            }
            assert!(stream.read_buf(&mut received).await.unwrap() > 0);
        }
    }

    async fn has_attached(&self, imsi: Imsi) -> bool {
        self.knows(imsi).await.is_some_and(|vlr| !vlr.is_empty())
    }
}

/// Platform, one card, and the operators between which it moves.
struct World {
    folder: tempfile::TempDir,
    operators: Vec<Operator>,
    api: Api,
    card: CardRow,
    fleet: Option<Role>,
    server: Role,
}

impl World {
    /// The card is with the first operator, and attached there.
    async fn start(folder: tempfile::TempDir, operators: Vec<Operator>) -> World {
        let first_poll = EpochMs(now_ms() + 10 * 86_400_000);
        let mut world = World::switched_off(folder, operators, first_poll, json!({})).await;
        world.switch_on();
        let (first, imsi) = (world.operators[0], world.card.imsi.unwrap());
        world.wait(async || first.has_attached(imsi).await).await;
        world
    }

    /// The card is with the first operator, and its device is switched off.
    async fn switched_off(
        folder: tempfile::TempDir,
        operators: Vec<Operator>,
        first_poll: EpochMs,
        agreement: Value,
    ) -> World {
        let text = |file: &str| folder.path().join(file).display().to_string();
        let config = format!(
            "[data]\nfolder = {:?}\n[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n{}",
            text("data"),
            operators.iter().map(Operator::link).collect::<String>()
        );
        std::fs::write(text("simtide.toml"), config).unwrap();
        let serve = ["serve", "--config", &text("simtide.toml")].map(str::to_owned);
        let server = Role::start(&serve, &[], text("serve.log").into()).unwrap();
        let token_file = text("data/admin.token");
        let api = Api {
            base: format!("http://{}", server.address("api")),
            token: std::fs::read_to_string(&token_file).unwrap(),
            http: reqwest::Client::new(),
        };
        for operator in &operators {
            let path = format!("/v1/operators/{}", operator.name);
            api.ask(Method::PUT, &path, Some(operator.settings(folder.path()))).await;
        }
        for (from, to) in operators.iter().flat_map(|from| operators.iter().map(move |to| (from, to))) {
            if from.name != to.name {
                let path = format!("/v1/agreements/{}/{}", from.name, to.name);
                api.ask(Method::PUT, &path, Some(agreement.clone())).await;
            }
        }
        let cards = text("cards.out");
        std::fs::write(&cards, order(first_poll).file(Format::Out).unwrap()).unwrap();
        let server_flags = ["--server", &api.base, "--token-file", &token_file];
        let owner = ["--operator", operators[0].name, "--register", operators[0].name];
        let import = [&["import", &cards, "--plain", "--json"], &server_flags[..], &owner].concat();
        simtide(&import);
        let card = order(first_poll).rows().unwrap().remove(0);
        World { folder, operators, api, card, fleet: None, server }
    }

    fn switch_on(&mut self) {
        let text = |file: &str| self.folder.path().join(file).display().to_string();
        let mut fleet = ["fleet", "--door", "127.0.0.1:0", "--status-ms", "0", "--lines", "1"]
            .map(str::to_owned)
            .to_vec();
        let platform = self.server.address("card_port").to_string();
        fleet.extend(["--cards".to_owned(), text("cards.out"), "--platform".to_owned(), platform]);
        for operator in &self.operators {
            let network = format!("001-{}={}", operator.mnc, operator.air);
            fleet.extend(["--network".to_owned(), network]);
        }
        self.fleet = Some(Role::start(&fleet, &[], text("fleet.log").into()).unwrap());
    }

    /// The card moves; what it and the registers hold then is read from them.
    async fn change(&self, to: usize) {
        let before = self.imsi_on_card();
        let change = self.request(to).await;
        self.is_done(&change, before, to).await;
    }

    /// Where the change that begins is shown.
    async fn request(&self, to: usize) -> String {
        let consent = json!({ "when": EpochMs(now_ms()).to_string(), "how": "contact-center" });
        let to = self.operators[to];
        let body = json!({ "card": self.card.iccid.to_string(), "operator": to.name, "consent": consent });
        let change = self.api.ask(Method::POST, "/v1/changes", Some(body)).await;
        format!("/v1/changes/{}", change["id"].as_str().unwrap())
    }

    /// Waits for the end of the change, and looks at the card and at the registers.
    async fn is_done(&self, change: &str, before: Imsi, to: usize) {
        let to = self.operators[to];
        self.wait(async || self.api.ask(Method::GET, change, None).await["open"] == json!(false)).await;
        let change = self.api.ask(Method::GET, change, None).await;
        assert_eq!(change["state"], "done", "{change:#}\n{}", self.logs());
        let after = self.imsi_on_card();
        assert_eq!(after.mnc(2), to.mnc);
        assert_ne!(after, before);
        for operator in &self.operators {
            assert_eq!(operator.knows(before).await, None, "{} still has {before}", operator.name);
            assert_eq!(operator.has_attached(after).await, operator.name == to.name, "{}", operator.name);
        }
    }

    /// EF.IMSI, read from the card itself.
    fn imsi_on_card(&self) -> Imsi {
        let mut reader =
            Reader::connect(self.fleet.as_ref().unwrap().address("door"), self.card.iccid).unwrap();
        reader.select_application(&USIM).unwrap();
        let select = simtide_protocol::apdu::Command::new(0x00, 0xA4, 0x00, 0x0C).with_data(&[0x6F, 0x07]);
        reader.transmit(select).unwrap();
        let read = simtide_protocol::apdu::Command::new(0x00, 0xB0, 0x00, 0x00).with_le(9);
        Imsi::from_file(&reader.transmit(read).unwrap()).unwrap()
    }

    async fn wait(&self, mut is_so: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !is_so().await {
            assert!(began.elapsed() < PATIENCE, "{}", self.logs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn logs(&self) -> String {
        let names = ["serve.log", "fleet.log", "one-smsc.jsonl", "two-smsc.jsonl", "three-smsc.jsonl"];
        let tail = |name: &str| {
            let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(25).collect();
            format!("-- {name}\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
        };
        names.map(tail).join("\n")
    }
}

fn simtide(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_simtide")).args(arguments).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

struct Api {
    base: String,
    token: String,
    http: reqwest::Client,
}

impl Api {
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        api::ask(&self.http, &self.base, &self.token, method, path, body).await
    }
}

fn order(first_poll: EpochMs) -> Order {
    Order {
        seed: 5,
        cards: 1,
        network: "00101".into(),
        profile: "standard".parse().unwrap(),
        device_kind: "phone".into(),
        dated: 1,
        first_poll,
        spread_ms: 1_000,
    }
}

fn now_ms() -> i64 {
    simtide_agent::clock::real_now().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_card_changes_three_times_among_three_operators_with_osmo_hlr() {
    if let Some(missing) = hlr::missing() {
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut ours = Vec::new();
    for who in OPERATORS {
        ours.push(Ours::start(who, folder.path()).await);
    }
    let world = World::start(folder, ours.iter().map(|one| one.operator).collect()).await;
    for to in [1, 2, 0] {
        world.change(to).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_gets_its_new_identity_by_its_next_poll_and_no_short_message_is_sent() {
    if let Some(missing) = hlr::missing() {
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut ours = Vec::new();
    for who in [OPERATORS[0], OPERATORS[1]] {
        ours.push(Ours::start(who, folder.path()).await);
    }
    let operators = ours.iter().map(|one| one.operator).collect();
    let overdue = EpochMs(now_ms() - 86_400_000);
    let mut world = World::switched_off(folder, operators, overdue, json!({ "bearer": "poll" })).await;
    let before = world.card.imsi.unwrap();
    let change = world.request(1).await;
    world.wait(async || world.api.ask(Method::GET, &change, None).await["state"] == "armed").await;
    // Its date has come: it polls as soon as it is in service.
    world.switch_on();
    world.is_done(&change, before, 1).await;
    for name in ["one", "two"] {
        let record = std::fs::read_to_string(world.folder.path().join(format!("{name}-smsc.jsonl"))).unwrap();
        assert!(!record.contains("\"submitted\""), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_leaves_a_real_network_and_comes_back() {
    if let Some(missing) = osmocom::missing() {
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let network = osmocom::Network::start().await;
    let radio = osmocom::radio::Radio::start(network.mme().await, network.address).await;
    let real = Operator {
        name: "one",
        mnc: "01",
        ctrl: SocketAddr::from((network.address, osmocom::HLR_CONTROL)),
        smpp: SocketAddr::from((network.address, osmocom::SMPP)),
        air: radio.air,
    };
    let ours = Ours::start(OPERATORS[1], folder.path()).await;
    let world = World::start(folder, vec![real, ours.operator]).await;
    for to in [1, 0] {
        world.change(to).await;
    }
}

#[test]
fn the_demo_moves_cards_back_and_forth() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("demo").display().to_string();
    let output = simtide(&["demo", "--change", "--json", "--cards", "2", "--folder", &text]);
    let figures: Value = serde_json::from_str(&output).unwrap();
    let keys: Vec<&str> = figures.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "changes",
        "done",
        "refused",
        "unknown",
        "cards_with_one_identity",
        "cards_stranded",
        "registered_by_operator",
        "wall_s",
    ];
    expected.sort_unstable();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    let numbers = ["changes", "done", "refused", "unknown", "cards_with_one_identity", "cards_stranded"];
    assert_eq!(numbers.map(|key| figures[key].as_u64().unwrap()), [4, 4, 0, 0, 2, 0], "{figures:#}");
    assert_eq!(figures["registered_by_operator"], json!({ "one": 2, "two": 0 }));
}
