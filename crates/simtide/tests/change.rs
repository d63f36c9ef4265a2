//! Cards that change their operator: against registers that others have written, and as `simtide demo --change` shows it.

#![allow(clippy::unwrap_used)]

#[path = "support/hlr/mod.rs"]
mod hlr;
#[path = "support/stage/mod.rs"]
mod stage;

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

/// An operator with a real register and an SMSC of ours.
struct Operator {
    name: &'static str,
    mnc: &'static str,
    hlr: Hlr,
    smsc: Role,
}

impl Operator {
    async fn start((name, mnc): (&'static str, &'static str), folder: &Path) -> Operator {
        let hlr = Hlr::start().await;
        let text = |file: &str| folder.join(format!("{name}-{file}")).display().to_string();
        let arguments = [
            "smsc",
            "--smpp",
            "127.0.0.1:0",
            "--air",
            "127.0.0.1:0",
            "--system-id",
            "simtide",
            "--password",
            "demo",
            "--register",
            &format!("gsup:{}", hlr.gsup()),
            "--plmn",
            &format!("001-{mnc}"),
            "--record",
            &text("smsc.jsonl"),
        ];
        let smsc = Role::start(&arguments.map(str::to_owned), &[], text("smsc.log").into()).unwrap();
        simtide(&[
            "register-gateway",
            "pool",
            "--database",
            &text("pool.db"),
            "--first",
            &format!("001{mnc}5000000001"),
            "--count",
            "4",
            "--msisdn-first",
            &format!("4670{mnc}00000001"),
        ]);
        Operator { name, mnc, hlr, smsc }
    }

    fn link(&self) -> String {
        let smpp = self.smsc.address("smpp");
        format!(
            "[[smpp.links]]\nname = \"{}\"\nhost = \"{}\"\nport = {}\nsystem_id = \"simtide\"\npassword = \"demo\"\n",
            self.name,
            smpp.ip(),
            smpp.port()
        )
    }

    fn settings(&self, folder: &Path) -> Value {
        json!({
            "id_mno": format!("000{}", self.mnc), "display_name": format!("Operator {}", self.name),
            "mcc": "001", "mnc": self.mnc, "smpp_links": [self.name], "consent": "inform-after",
            "register": {
                "kind": "osmo-hlr", "addresses": { "ctrl": self.hlr.ctrl().to_string() },
                "database": folder.join(format!("{}-pool.db", self.name)).display().to_string(),
            },
        })
    }

    /// Whether the register knows the identity, and at which network element it is.
    async fn knows(&self, imsi: Imsi) -> Option<String> {
        let mut stream = TcpStream::connect(self.hlr.ctrl()).await.unwrap();
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
        let mut request =
            self.http.request(method, format!("{}{path}", self.base)).bearer_auth(self.token.trim());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }
}

fn order() -> Order {
    Order {
        seed: 5,
        cards: 1,
        network: "00101".into(),
        profile: "standard".parse().unwrap(),
        device_kind: "phone".into(),
        dated: 1,
        first_poll: EpochMs(now_ms() + 10 * 86_400_000),
        spread_ms: 1_000,
    }
}

fn now_ms() -> i64 {
    simtide_agent::clock::real_now().0
}

/// EF.IMSI, read from the card itself.
fn imsi_on(card: &CardRow, door: std::net::SocketAddr) -> Imsi {
    let mut reader = Reader::connect(door, card.iccid).unwrap();
    reader.select_application(&USIM).unwrap();
    let select = simtide_protocol::apdu::Command::new(0x00, 0xA4, 0x00, 0x0C).with_data(&[0x6F, 0x07]);
    reader.transmit(select).unwrap();
    let read = simtide_protocol::apdu::Command::new(0x00, 0xB0, 0x00, 0x00).with_le(9);
    Imsi::from_file(&reader.transmit(read).unwrap()).unwrap()
}

fn logs(folder: &Path) -> String {
    let names = ["serve.log", "fleet.log", "one-smsc.jsonl", "two-smsc.jsonl", "three-smsc.jsonl"];
    let tail = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(25).collect();
        format!("-- {name}\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    };
    names.map(tail).join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_card_changes_three_times_among_three_operators_with_osmo_hlr() {
    if let Some(missing) = hlr::missing() {
        eprintln!("SKIPPED: {missing}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut operators = Vec::new();
    for who in OPERATORS {
        operators.push(Operator::start(who, folder).await);
    }
    let text = |file: &str| folder.join(file).display().to_string();
    let config = format!(
        "[data]\nfolder = {:?}\n[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n{}",
        text("data"),
        operators.iter().map(Operator::link).collect::<String>()
    );
    std::fs::write(folder.join("simtide.toml"), config).unwrap();
    let serve = ["serve", "--config", &text("simtide.toml")].map(str::to_owned);
    let server = Role::start(&serve, &[], folder.join("serve.log")).unwrap();
    let token_file = text("data/admin.token");
    let api = Api {
        base: format!("http://{}", server.address("api")),
        token: std::fs::read_to_string(&token_file).unwrap(),
        http: reqwest::Client::new(),
    };
    for operator in &operators {
        let path = format!("/v1/operators/{}", operator.name);
        api.ask(Method::PUT, &path, Some(operator.settings(folder))).await;
    }
    for (from, to) in [("one", "two"), ("two", "three"), ("three", "one")] {
        api.ask(Method::PUT, &format!("/v1/agreements/{from}/{to}"), Some(json!({}))).await;
    }
    std::fs::write(folder.join("cards.out"), order().file(Format::Out).unwrap()).unwrap();
    simtide(&[
        "import",
        &text("cards.out"),
        "--plain",
        "--json",
        "--server",
        &api.base,
        "--token-file",
        &token_file,
        "--operator",
        "one",
        "--register",
        "one",
    ]);
    let mut fleet = ["fleet", "--door", "127.0.0.1:0", "--status-ms", "0"].map(str::to_owned).to_vec();
    fleet.extend(["--cards".to_owned(), text("cards.out")]);
    for operator in &operators {
        let network = format!("001-{}={}", operator.mnc, operator.smsc.address("air"));
        fleet.extend(["--network".to_owned(), network]);
    }
    let fleet = Role::start(&fleet, &[], folder.join("fleet.log")).unwrap();
    let door = fleet.address("door");
    let card = order().rows().unwrap().remove(0);

    let mut before = card.imsi.unwrap();
    wait(folder, async || operators[0].knows(before).await.is_some_and(|vlr| !vlr.is_empty())).await;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let consent = json!({ "when": EpochMs(now_ms()).to_string(), "how": "contact-center" });
        let body =
            json!({ "card": card.iccid.to_string(), "operator": operators[to].name, "consent": consent });
        let change = api.ask(Method::POST, "/v1/changes", Some(body)).await;
        let path = format!("/v1/changes/{}", change["id"].as_str().unwrap());
        wait(folder, async || api.ask(Method::GET, &path, None).await["open"] == json!(false)).await;
        let change = api.ask(Method::GET, &path, None).await;
        assert_eq!(change["state"], "done", "{change:#}\n{}", logs(folder));
        // What the card and the registers hold, not what the platform says of them.
        let after = imsi_on(&card, door);
        assert_eq!(after.mnc(2), operators[to].mnc);
        assert_ne!(after, before);
        for (place, operator) in operators.iter().enumerate() {
            assert_eq!(operator.knows(before).await, None, "{} still has {before}", operator.name);
            let attached = operator.knows(after).await.is_some_and(|vlr| !vlr.is_empty());
            assert_eq!(attached, place == to, "{} from {from}", operator.name);
        }
        before = after;
    }
}

async fn wait(folder: &Path, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "{}", logs(folder));
        tokio::time::sleep(LOOK_EVERY).await;
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
