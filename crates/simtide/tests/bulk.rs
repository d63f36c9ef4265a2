//! Many cards change their operator by one campaign: platform, two operators with register and SMSC each, and a fleet, all
//! of them processes. What counts is read from the cards and from the registers.

#![allow(clippy::unwrap_used)]

#[path = "support/api.rs"]
mod api;
#[path = "support/stage/mod.rs"]
mod stage;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use simtide_protocol::card_file::{CardRow, Format};
use simtide_protocol::ids::{EpochMs, Imsi};
use simtide_server::registers::pool::Pool;
use simtide_simulation::reader::Reader;
use simtide_simulation::smsc::{Entry, Happened};
use simtide_simulation::vendor::Order;
use stage::Role;

/// Only so that a hanging test ends.
const PATIENCE: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The first bytes of every USIM's AID (ETSI TS 101 220, annex E).
const USIM: [u8; 7] = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02];
/// Name, MNC.
const OPERATORS: [(&str, &str); 2] = [("one", "01"), ("two", "02")];

/// Register, behind its gateway, and SMSC.
struct Operator {
    name: &'static str,
    mnc: &'static str,
    folder: PathBuf,
    smsc: Role,
    gateway: Role,
}

impl Operator {
    fn start((name, mnc): (&'static str, &'static str), folder: &Path, pool: usize) -> Operator {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let text = |file: &str| folder.join(file).display().to_string();
        let (link, database) = (text("link"), text("pool.db"));
        simtide(&["register-gateway", "certificates", "--folder", &link, "--name", "127.0.0.1"]);
        let (first, number) = (format!("001{mnc}5000000001"), format!("4670{mnc}0000001"));
        let (count, plmn) = (pool.to_string(), format!("001-{mnc}"));
        let stock = [
            ["--database", &database],
            ["--first", &first],
            ["--count", &count],
            ["--msisdn-first", &number],
        ];
        simtide(&[&["register-gateway", "pool"], stock.as_flattened()].concat());
        let gateway = [
            ["--listen", "127.0.0.1:0"],
            ["--backend", "own"],
            ["--gsup", "127.0.0.1:0"],
            ["--database", &database],
            ["--link", &link],
        ];
        let gateway = role("register-gateway", gateway.as_flattened(), &folder);
        let register = format!("gsup:{}", gateway.address("gsup"));
        let smsc = [
            ["--smpp", "127.0.0.1:0"],
            ["--air", "127.0.0.1:0"],
            ["--system-id", "simtide"],
            ["--password", "simtide"],
            ["--register", &register],
            ["--plmn", &plmn],
            ["--record", &text("smsc.jsonl")],
        ];
        let smsc = role("smsc", smsc.as_flattened(), &folder);
        Operator { name, mnc, folder, smsc, gateway }
    }

    fn settings(&self) -> Value {
        let path = |name: &str| self.folder.join("link").join(name).display().to_string();
        let transport = std::fs::read_to_string(path("transport.key")).unwrap();
        json!({
            "id_mno": format!("000{}", self.mnc), "display_name": format!("Operator {}", self.name),
            "mcc": "001", "mnc": self.mnc, "smpp_links": [self.name], "consent": "inform-after",
            "transport_key": transport.trim(),
            "register": {
                "kind": "gateway", "addresses": { "gateway": self.gateway.ready["gateway"] },
                "ca": path("authority.pem"), "certificate": path("platform.pem"), "key": path("platform.key"),
            },
        })
    }

    /// How many identities have attached here so far.
    fn attached(&self) -> usize {
        let record = std::fs::read_to_string(self.folder.join("smsc.jsonl")).unwrap_or_default();
        let entries = record.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let attached = entries.filter(|entry| entry.event == Happened::Attached);
        attached.map(|entry| entry.source).collect::<BTreeSet<_>>().len()
    }

    /// Whether the register lets the identity in.
    fn accepts(&self, imsi: Imsi) -> bool {
        let pool = Pool::open(&self.folder.join("pool.db")).unwrap();
        pool.entry(imsi).unwrap().is_some_and(|entry| entry.access)
    }
}

/// What a test plays with.
struct World {
    folder: tempfile::TempDir,
    operators: Vec<Operator>,
    rows: Vec<CardRow>,
    server: Role,
    /// Switched on when the first register knows the cards.
    fleet: Option<Role>,
    http: reqwest::Client,
}

impl World {
    /// The cards are the first operator's. `code_on_card` says what is on a card as its admin code, given what the
    /// platform is told.
    async fn start(cards: u32, code_on_card: impl Fn(&CardRow) -> Option<&'static str>) -> World {
        let folder = tempfile::tempdir().unwrap();
        let text = |file: &str| folder.path().join(file).display().to_string();
        let operators: Vec<Operator> =
            OPERATORS.into_iter().map(|who| Operator::start(who, folder.path(), cards as usize)).collect();
        let link = |one: &Operator| {
            let port = one.smsc.address("smpp").port();
            format!(
                "[[smpp.links]]\nname = \"{}\"\nport = {port}\nsystem_id = \"simtide\"\npassword = \"simtide\"\n",
                one.name
            )
        };
        let config = format!(
            "[data]\nfolder = {:?}\n[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n{}",
            text("data"),
            operators.iter().map(link).collect::<String>()
        );
        std::fs::write(text("simtide.toml"), config).unwrap();
        let order = order(cards);
        let (delivered, built) = (text("cards.csv"), text("built.csv"));
        let rows = order.rows().unwrap();
        let file = order.file(Format::Csv).unwrap();
        std::fs::write(&delivered, &file).unwrap();
        let built_file = rows.iter().fold(file, |file, row| match code_on_card(row) {
            Some(code) => file.replace(&hex::encode_upper(row.admin_code.as_ref().unwrap().as_bytes()), code),
            None => file,
        });
        std::fs::write(&built, built_file).unwrap();
        let server = serve(folder.path());
        let http = reqwest::Client::new();
        let mut world = World { server, fleet: None, operators, rows, http, folder };
        for operator in &world.operators {
            let path = format!("/v1/operators/{}", operator.name);
            world.ask(Method::PUT, &path, Some(operator.settings())).await;
        }
        world.ask(Method::PUT, "/v1/agreements/one/two", Some(json!({}))).await;
        let owner = ["--operator", "one", "--register", "one", "--plain", "--json"];
        world.simtide(&[&["import", &delivered], &owner[..]].concat());
        let mut fleet = vec!["--door", "127.0.0.1:0", "--status-ms", "0", "--lines", "1", "--cards", &built];
        let air = |one: &Operator| format!("001-{}={}", one.mnc, one.smsc.address("air"));
        let networks: Vec<String> = world.operators.iter().map(air).collect();
        networks.iter().for_each(|network| fleet.extend(["--network", network]));
        world.fleet = Some(role("fleet", &fleet, world.folder.path()));
        let began = Instant::now();
        while world.operators[0].attached() < cards as usize {
            assert!(began.elapsed() < PATIENCE, "{} cards are attached", world.operators[0].attached());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        world
    }

    /// A command of the binary that asks the platform.
    fn simtide(&self, arguments: &[&str]) -> String {
        let base = format!("http://{}", self.server.address("api"));
        let token = self.folder.path().join("data/admin.token").display().to_string();
        simtide(&[arguments, &["--server", &base, "--token-file", &token]].concat())
    }

    fn campaign(&self, arguments: &[&str]) -> Value {
        let text = self.simtide(&[&["campaign", "--json"], arguments].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// Creates and starts a campaign that takes all cards to the second operator.
    fn start_campaign(&self, limits: Value) -> String {
        let consent = json!({ "when": EpochMs(now_ms()).to_string(), "reference": "contract 4711" });
        let content = json!({ "change_operator": { "to": "two", "consent": consent, "limits": limits } });
        let file = self.folder.path().join("campaign.json");
        let body =
            json!({ "name": "all to two", "content": content, "audience": { "filter": "operator=2" } });
        // Operators are numbered in the order of their making, behind the one that there is from the first.
        std::fs::write(&file, body.to_string()).unwrap();
        let started = self.campaign(&["create", &file.display().to_string(), "--start"]);
        assert_eq!((&started["state"], &started["number"]), (&json!("running"), &Value::Null), "{started:#}");
        started["id"].to_string()
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let token = std::fs::read_to_string(self.folder.path().join("data/admin.token")).unwrap();
        let base = format!("http://{}", self.server.address("api"));
        api::ask(&self.http, &base, &token, method, path, body).await
    }

    async fn shown(&self, campaign: &str) -> Value {
        self.ask(Method::GET, &format!("/v1/campaigns/{campaign}"), None).await
    }

    async fn changes_of(&self, row: &CardRow) -> Vec<Value> {
        let list = self.ask(Method::GET, &format!("/v1/changes?card={}", row.iccid), None).await;
        list["changes"].as_array().unwrap().clone()
    }

    async fn wait(&self, campaign: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let shown = self.shown(campaign).await;
            if is_so(&shown) {
                return shown;
            }
            let log = || std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "{shown:#}\n{}", log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// EF.IMSI, read from the card itself.
    fn imsi_on(&self, row: &CardRow) -> Imsi {
        let mut reader = Reader::connect(self.fleet.as_ref().unwrap().address("door"), row.iccid).unwrap();
        reader.select_application(&USIM).unwrap();
        let select = simtide_protocol::apdu::Command::new(0x00, 0xA4, 0x00, 0x0C).with_data(&[0x6F, 0x07]);
        reader.transmit(select).unwrap();
        let read = simtide_protocol::apdu::Command::new(0x00, 0xB0, 0x00, 0x00).with_le(9);
        Imsi::from_file(&reader.transmit(read).unwrap()).unwrap()
    }

    /// The operators whose registers let the identity on a card in.
    fn homes(&self, row: &CardRow) -> Vec<&str> {
        let imsi = self.imsi_on(row);
        self.operators.iter().filter(|one| one.accepts(imsi)).map(|one| one.name).collect()
    }

    /// Ends the platform as a power cut does, and starts it again.
    fn kill(&mut self) {
        self.server.kill();
        self.server = serve(self.folder.path());
    }
}

fn serve(folder: &Path) -> Role {
    role("serve", &["--config", &folder.join("simtide.toml").display().to_string()], folder)
}

fn role(name: &str, arguments: &[&str], folder: &Path) -> Role {
    let arguments: Vec<String> = [&[name], arguments].concat().into_iter().map(str::to_owned).collect();
    Role::start(&arguments, &[], folder.join(format!("{name}.log"))).unwrap()
}

fn simtide(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_simtide")).args(arguments).output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {problem}");
    String::from_utf8(output.stdout).unwrap()
}

fn order(cards: u32) -> Order {
    Order {
        seed: 9,
        cards,
        network: "00101".into(),
        profile: "standard".parse().unwrap(),
        device_kind: "meter".into(),
        dated: cards,
        first_poll: EpochMs(now_ms() + 10 * 86_400_000),
        spread_ms: 1_000,
    }
}

fn now_ms() -> i64 {
    simtide_agent::clock::real_now().0
}

fn count(shown: &Value, key: &str) -> u64 {
    shown["changes"][key].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_cards_go_to_another_operator_by_one_campaign_through_two_kills() {
    const CARDS: u64 = 14;
    const CANARY: u64 = 4;
    let mut world = World::start(CARDS as u32, |_| None).await;
    let id = world.start_campaign(json!({ "per_minute_max": 6_000, "open_max": 5, "canary": CANARY }));
    let begun =
        |shown: &Value| ["under_way", "unknown", "done"].iter().map(|key| count(shown, key)).sum::<u64>();
    let in_bounds = |shown: &Value| {
        assert!(count(shown, "under_way") <= 5, "{shown:#}");
        assert!(count(shown, "done") >= CANARY || begun(shown) <= CANARY, "{shown:#}");
    };
    world.wait(&id, |shown| begun(shown) > 0).await;
    world.kill();
    let look = |shown: &Value, least: u64| {
        in_bounds(shown);
        count(shown, "done") >= least
    };
    world.wait(&id, |shown| look(shown, CANARY + 1)).await;
    world.kill();
    // Paused: what is open goes on, nothing begins.
    assert_eq!(world.campaign(&["pause", &id])["state"], "paused");
    let quiet = world.wait(&id, |shown| count(shown, "under_way") + count(shown, "unknown") == 0).await;
    assert!(count(&quiet, "done") < CARDS, "{quiet:#}");
    world.kill();
    assert_eq!(world.shown(&id).await["changes"]["done"], quiet["changes"]["done"]);
    assert_eq!(world.campaign(&["resume", &id])["state"], "running");
    let end = world.wait(&id, |shown| shown["state"] == "finished").await;
    let keys = ["under_way", "unknown", "done", "declined", "refused", "reverted", "failed", "cancelled"];
    assert_eq!(keys.map(|key| count(&end, key)), [0, 0, CARDS, 0, 0, 0, 0, 0], "{end:#}");
    for row in &world.rows {
        assert_eq!(world.imsi_on(row).mnc(2), "02");
        assert_eq!(world.homes(row), ["two"]);
        assert!(!world.operators[0].accepts(row.imsi.unwrap()), "identity 1 is gone");
        let changes = world.changes_of(row).await;
        assert_eq!(changes.len(), 1, "{changes:#?}");
        let consent = &changes[0]["consent"];
        assert_eq!((&consent["how"], consent["campaign"].to_string()), (&json!("campaign"), id.clone()));
        assert_eq!((&consent["reference"], &consent["token"]), (&json!("contract 4711"), &json!("admin")));
        let card = world.ask(Method::GET, &format!("/v1/cards/{}?history=true", row.iccid), None).await;
        assert!(card.to_string().contains("done"), "{card:#}");
    }
    let watched = world.simtide(&["campaign", "watch", &id]);
    assert!(watched.contains("done              14"), "{watched}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cards_that_refuse_stop_a_campaign_before_it_reaches_the_others() {
    const CARDS: u32 = 12;
    const CANARY: u64 = 4;
    // The codes that the vendor told are not those on the cards.
    let world = World::start(CARDS, |_| Some("0102030405060708")).await;
    let id =
        world.start_campaign(json!({ "per_minute_max": 6_000, "canary": CANARY, "failed_percent_max": 25 }));
    let paused = world.wait(&id, |shown| shown["state"] == "paused").await;
    assert_eq!((count(&paused, "refused"), &paused["changes"]["paused_for"]), (CANARY, &json!("failures")));
    let shown = world.simtide(&["campaign", "show", &id]);
    assert!(shown.contains("paused for        failures"), "{shown}");
    let mut changes = 0;
    for row in &world.rows {
        assert_eq!(Some(world.imsi_on(row)), row.imsi, "every card keeps its identity");
        assert_eq!(world.homes(row), ["one"]);
        changes += world.changes_of(row).await.len() as u64;
    }
    assert_eq!(changes, CANARY, "the others were left in peace");
    // A user who has looked and goes on gets another canary.
    world.campaign(&["resume", &id]);
    let again = world.wait(&id, |shown| shown["state"] == "paused").await;
    assert_eq!(count(&again, "refused"), 2 * CANARY, "{again:#}");
    assert_eq!(world.campaign(&["stop", &id])["state"], "stopped");
    let pool = &world.ask(Method::GET, "/v1/operators/two", None).await["pool"];
    assert_eq!(
        (&pool["reserved"], &pool["assigned"]),
        (&json!(0), &json!(0)),
        "identities 2 went back: {pool}"
    );
}
