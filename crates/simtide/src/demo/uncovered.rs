//! `simtide demo --no-coverage`: a campaign over a fleet of which a part has only Wi-Fi, then a delivery to single
//! cards, then a change of operator. Covered cards are called in by SMS and poll, or get short messages; the others are
//! reached through the entitlement server, and every card gets everything once.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use simtide_protocol::card_file::{AuthenticationAlgorithm, CardRow, Format};
use simtide_protocol::ids::{CardId, EpochMs};
use simtide_server::registers::Subscriber;
use simtide_server::registers::pool::{Pool, Stock};
use simtide_simulation::reader::Reader;
use simtide_simulation::vendor::Order;

use super::Args;
use super::content::{self, Effect};
use super::layers::{Wire, shown};
use super::platform::Platform;
use super::process::Role;
use super::report::Effects;
use super::stage::{make_folder, now_ms, owned};

type Failure = Box<dyn std::error::Error>;

/// Campaign seconds that pass in a real one.
const RATE: f64 = 60.0;
/// When the cards would poll by themselves: long after the end.
const FIRST_POLL_S: i64 = 15 * 86_400;
/// How often a device without coverage asks, in campaign seconds.
const QUERY_S: u32 = 90;
/// Every so many-th card gets a delivery of its own.
const SINGLE_EVERY: usize = 5;
/// Cards without coverage that move to the second operator.
const MOVES_MAX: usize = 3;
/// How long the demo waits for the campaign, and for the single deliveries.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Where the single deliveries write in EF.CONFIGURATION, and what.
const SINGLE_AT: u16 = 48;
const SINGLE: u8 = 0xA5;
/// EF.IMSI of the USIM, by its path from the MF.
const IDENTITY: [u16; 2] = [0x7FF0, 0x6F07];
const ACCOUNT: &str = "simtide";

/// What was delivered by which bearer.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct DeliveredBy {
    /// By a script of a poll.
    pub poll: u64,
    /// By short messages.
    pub sms: u64,
    /// Over IP, through the entitlement server.
    pub ip: u64,
}

/// The figures of a run; their names are the JSON keys.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Cards in the field.
    pub cards: u32,
    /// Cards whose devices have only Wi-Fi.
    pub without_coverage: u32,
    /// Campaign contents and single deliveries, by what carried them.
    pub delivered_by: DeliveredBy,
    /// Read from the cards: campaign and single delivery.
    pub effects_on_cards: Effects,
    /// Proofs of receipt that the cards have given for packets of deliveries.
    pub proofs: u64,
    /// How long the demo took, in seconds.
    pub wall_s: f64,
}

/// Figures, and one message in its layers.
pub struct Report {
    /// The numbers.
    pub figures: Figures,
    /// Cards that have moved to the second operator.
    moved: usize,
    layers: Vec<String>,
}

impl Report {
    /// Whether every card had everything once.
    pub fn is_complete(&self) -> bool {
        self.figures.effects_on_cards.once == self.figures.cards
    }

    /// For people.
    pub fn text(&self) -> String {
        let Figures { cards, without_coverage, delivered_by, effects_on_cards, proofs, wall_s } =
            &self.figures;
        let mut text = format!(
            "{cards} cards, {without_coverage} of them without coverage\n\
             delivered by poll {}, by SMS {}, over IP {}; {proofs} proofs of receipt\n\
             on the cards: {} once, {} never, {} twice; {wall_s} s\n",
            delivered_by.poll,
            delivered_by.sms,
            delivered_by.ip,
            effects_on_cards.once,
            effects_on_cards.never,
            effects_on_cards.twice,
        );
        text += &format!("{} cards without coverage have moved to another operator\n", self.moved);
        if !self.layers.is_empty() {
            text += "\none message to a card without coverage:\n";
            self.layers.iter().for_each(|line| text += &format!("  {line}\n"));
        }
        text
    }
}

/// Plays the demo and reads what came of it.
pub fn play(args: &Args) -> Result<Report, Failure> {
    let begun = Instant::now();
    make_folder(&args.folder)?;
    let world = World::new(args)?;
    let smsc = world.start_smsc()?;
    let server = world.start_platform(&smsc)?;
    let token = fs::read_to_string(args.folder.join("data").join("admin.token"))?;
    let platform = Platform::new(&server.address("api"), &token)?;
    super::stage::import(&args.folder, &server, &token)?;
    world.provision()?;
    operators(&platform)?;
    let wire = Wire::lay(server.address("entitlement").parse()?)?;
    let fleet = world.start_fleet(&smsc, &server, &wire)?;

    let made = platform.post(
        "/v1/campaigns",
        &json!({ "name": "demo", "content": content::campaign()?, "settings": settings() }),
    )?;
    let path = format!("/v1/campaigns/{}", made["id"]);
    platform.post(&format!("{path}/start"), &Value::Null)?;
    let campaign = world.campaign(&platform, &path)?;
    let single = world.single(&platform)?;
    let moved = world.moves(&platform)?;

    let effects = world.effects(fleet.address("door").parse()?, &moved)?;
    let layers = shown(&wire, world.first_uncovered(), &args.folder.join("apdus.jsonl"));
    let sum = |key: &str| campaign[key].as_u64().unwrap_or_default();
    let by = |bearer: &str| single.iter().filter(|one| one["delivered_by"] == bearer).count() as u64;
    // What campaigns deliver over IP are deliveries too.
    let delivered_by = DeliveredBy {
        poll: sum("done_by_poll") + sum("done_by_trigger") + by("poll"),
        sms: by("sms"),
        ip: by("ip") + moved.iter().flatten().count() as u64,
    };
    let is_proof = |milestone: &&Value| milestone["what"] == "proof";
    let proofs =
        |one: &Value| one["milestones"].as_array().map_or(0, |all| all.iter().filter(is_proof).count());
    let figures = Figures {
        cards: args.cards,
        without_coverage: world.without_coverage,
        delivered_by,
        effects_on_cards: effects,
        proofs: single.iter().map(proofs).sum::<usize>() as u64,
        wall_s: (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
    };
    drop((fleet, server, smsc));
    Ok(Report { figures, moved: moved.iter().flatten().count(), layers })
}

/// Two operators, each with an authentication centre of its own. A successful EAP-AKA counts as an attach: there is no
/// other network where these cards are.
fn operators(platform: &Platform) -> Result<(), Failure> {
    for (name, mnc) in [("home", "01"), ("away", "02")] {
        let settings = json!({
            "id_mno": name.to_uppercase(), "display_name": name, "mcc": "001", "mnc": mnc,
            "register": { "kind": "own", "database": format!("{name}.db") }, "eap_aka_counts_as_seen": true,
        });
        platform.put(&format!("/v1/operators/{name}"), &settings)?;
    }
    platform.put("/v1/agreements/home/away", &json!({}))?;
    Ok(())
}

/// Settings of the campaign, in campaign time.
fn settings() -> Value {
    json!({
        "never_seen": "like-others", "attempts": 8, "backoff_s": 600, "validity_s": 300, "leave_to_poll_s": 60,
    })
}

struct World<'a> {
    args: &'a Args,
    rows: Vec<CardRow>,
    without_coverage: u32,
    anchor_ms: i64,
}

impl<'a> World<'a> {
    fn new(args: &'a Args) -> Result<Self, Failure> {
        let order = Order {
            seed: args.seed,
            cards: args.cards,
            network: "00101".to_owned(),
            profile: "standard".parse()?,
            device_kind: "phone".to_owned(),
            dated: 0,
            first_poll: EpochMs(0),
            spread_ms: 0,
        };
        fs::write(args.folder.join("cards.out"), order.file(Format::Out)?)?;
        let without_coverage = (args.cards * u32::from(args.without_coverage) / 100).max(1);
        Ok(Self { args, rows: order.rows()?, without_coverage, anchor_ms: now_ms() })
    }

    fn clock(&self) -> String {
        format!("{0}:{0}:{RATE}", self.anchor_ms)
    }

    fn first_uncovered(&self) -> &CardRow {
        // There is at least one, and no more than there are cards.
        &self.rows[self.rows.len() - self.without_coverage as usize]
    }

    fn start_smsc(&self) -> Result<Role, Failure> {
        let arguments = [
            ["--smpp", "127.0.0.1:0"],
            ["--air", "127.0.0.1:0"],
            ["--system-id", ACCOUNT],
            ["--password", "demo"],
            ["--clock", &self.clock()],
        ];
        Ok(Role::start("smsc", &owned(&arguments), &self.args.folder)?)
    }

    fn start_platform(&self, smsc: &Role) -> Result<Role, Failure> {
        let smpp: std::net::SocketAddr = smsc.address("smpp").parse()?;
        let config = format!(
            "[data]\nfolder = {folder:?}\n\
             [card_port]\nlisten = \"127.0.0.1:0\"\nsessions_max = 32\n\
             [api]\nlisten = \"127.0.0.1:0\"\n\
             [flow]\ntick_ms = 6000\nsession_initial_ms = 15000\nresponse_initial_ms = 15000\nretry_ms = 60000\n\
             [entitlement]\nlisten = \"127.0.0.1:0\"\nnext_query_s = {QUERY_S}\naddress_burst = 0\n\
             [delivery]\nsms_validity_s = 300\nip_wait_s = 300\nround_pause_s = 60\n\
             [clock]\nrate = {RATE:?}\nreal_anchor_ms = {anchor}\nvirtual_anchor_ms = {anchor}\n\
             [[smpp.links]]\nname = \"demo\"\nhost = \"{host}\"\nport = {port}\nsystem_id = \"{ACCOUNT}\"\n\
             password = \"demo\"\n",
            folder = self.args.folder.join("data").display().to_string(),
            anchor = self.anchor_ms,
            host = smpp.ip(),
            port = smpp.port(),
        );
        let path = self.args.folder.join("simtide.toml");
        fs::write(&path, config)?;
        Ok(Role::start("serve", &owned(&[["--config", &path.display().to_string()]]), &self.args.folder)?)
    }

    /// The authentication centre of the operator gets the subscriptions that the vendor has put on the cards.
    fn provision(&self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let folder = self.args.folder.join("data");
        let pool = Pool::open(&folder.join("home.db"))?;
        let first = "001025000000001".parse()?;
        let stock = Stock::range(first, MOVES_MAX as u64, None, AuthenticationAlgorithm::Milenage)?;
        let away = Pool::open(&folder.join("away.db"))?;
        runtime.block_on(async {
            away.add(stock).await?;
            for row in &self.rows {
                let (Some(imsi), Some(k), Some(opc)) = (row.imsi, row.ki.clone(), row.opc.clone()) else {
                    continue;
                };
                let (card, algorithm) = (CardId::from(row.iccid), row.algorithm);
                pool.provision(Subscriber { card, imsi, algorithm, k, opc, msisdn: row.msisdn }).await?;
            }
            Ok(())
        })
    }

    fn start_fleet(&self, smsc: &Role, server: &Role, wire: &Wire) -> Result<Role, Failure> {
        let first_poll = self.anchor_ms + FIRST_POLL_S * 1_000;
        let arguments = [
            ["--cards", &self.args.folder.join("cards.out").display().to_string()],
            ["--smsc", &smsc.address("air")],
            ["--door", "127.0.0.1:0"],
            ["--platform", &server.address("card_port")],
            ["--clock", &self.clock()],
            ["--power-on-spread-ms", "1000"],
            ["--first-poll", "spread"],
            ["--first-poll-from-ms", &first_poll.to_string()],
            ["--entitlement", &format!("http://{}/", wire.address)],
            ["--without-coverage", &self.without_coverage.to_string()],
            ["--entitlement-period-s", &QUERY_S.to_string()],
            ["--apdu-log", &self.first_uncovered().iccid.to_string()],
            ["--apdu-log-file", &self.args.folder.join("apdus.jsonl").display().to_string()],
        ];
        Ok(Role::start("fleet", &owned(&arguments), &self.args.folder)?)
    }

    /// Waits until the campaign has ended on every card, or patience ends; answers its sums.
    fn campaign(&self, platform: &Platform, path: &str) -> Result<Value, Failure> {
        let begun = Instant::now();
        loop {
            let progress = platform.get(path)?["progress"].clone();
            let keys = ["done_by_poll", "done_by_trigger", "done_by_command", "failed", "interrupted"];
            let ended: u64 = keys.iter().filter_map(|key| progress[*key].as_u64()).sum();
            if ended >= u64::from(self.args.cards) || begun.elapsed() >= PATIENCE {
                return Ok(progress);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// A delivery of its own to every so many-th card, by whichever bearer reaches it. Answers all deliveries when they
    /// are over, the campaign's among them.
    fn single(&self, platform: &Platform) -> Result<Vec<Value>, Failure> {
        let steps = json!([{ "do": { "file_update": {
            "path": "3F00/7F90/6F04", "offset": SINGLE_AT, "data": format!("{SINGLE:02X}") } } }]);
        for row in self.rows.iter().step_by(SINGLE_EVERY) {
            let body = json!({ "card": row.iccid, "steps": steps, "bearers": ["sms", "ip"] });
            platform.post("/v1/deliveries", &body)?;
        }
        let begun = Instant::now();
        loop {
            let open = platform.get("/v1/deliveries?open=true")?;
            if open["deliveries"].as_array().is_some_and(Vec::is_empty) || begun.elapsed() >= PATIENCE {
                break;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = platform.get(&format!("/v1/deliveries?{after}"))?;
            all.extend(page["deliveries"].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => after = format!("after={next}"),
                None => return Ok(all),
            }
        }
    }

    /// Some cards without coverage move to the second operator. Answers their new identities in the order of the
    /// cards, none where the change has not come to its end.
    fn moves(&self, platform: &Platform) -> Result<Vec<Option<String>>, Failure> {
        let uncovered = self.rows.iter().skip(self.rows.len() - self.without_coverage as usize);
        let mut changes = Vec::new();
        for row in uncovered.take(MOVES_MAX) {
            let when = EpochMs(self.anchor_ms).to_string();
            let consent = json!({ "when": when, "how": "web-site" });
            let body = json!({ "card": row.iccid, "operator": "away", "consent": consent });
            changes.push(platform.post("/v1/changes", &body)?["id"].as_str().unwrap_or_default().to_owned());
        }
        let begun = Instant::now();
        loop {
            let views = changes.iter().map(|id| platform.get(&format!("/v1/changes/{id}")));
            let views = views.collect::<Result<Vec<_>, _>>()?;
            let over = views.iter().all(|view| view["open"] == false);
            if over || begun.elapsed() >= PATIENCE {
                let identity = |view: &Value| {
                    let is_done = view["state"] == "done";
                    is_done.then(|| view["new_imsi"].as_str().unwrap_or_default().to_owned())
                };
                return Ok(views.iter().map(identity).collect());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Reads every card through its own port.
    fn effects(&self, door: std::net::SocketAddr, moved: &[Option<String>]) -> Result<Effects, Failure> {
        let mut effects = Effects::default();
        for (place, row) in self.rows.iter().enumerate() {
            let mut reader = Reader::connect(door, row.iccid)?;
            let effect = content::effect(&mut reader)?;
            let wanted = if place % SINGLE_EVERY == 0 { SINGLE } else { 0xFF };
            let single = Reader::connect(door, row.iccid)?
                .read_binary(&content::CONFIGURATION, SINGLE_AT as u8 + 1)?;
            let first = self.rows.len() - self.without_coverage as usize;
            let identity = match place.checked_sub(first).and_then(|nth| moved.get(nth)) {
                None => row.imsi.map(|imsi| imsi.to_string()),
                Some(moved) => moved.clone(),
            };
            let found = Reader::connect(door, row.iccid)?.read_binary(&IDENTITY, 9)?;
            let is_right = identity.is_some_and(|imsi| says(&found, &imsi));
            let count = match effect {
                Effect::Once if is_right && single.last() == Some(&wanted) => &mut effects.once,
                Effect::Twice => &mut effects.twice,
                Effect::Once | Effect::Never => &mut effects.never,
            };
            *count += 1;
        }
        Ok(effects)
    }
}

/// Whether EF.IMSI (3GPP TS 31.102, 4.2.2) holds this identity.
fn says(file: &[u8], imsi: &str) -> bool {
    let digits = file.iter().skip(1).flat_map(|byte| [byte & 0x0F, byte >> 4]);
    let digits: String = digits.map(|digit| format!("{digit:X}")).collect();
    digits.get(1..=imsi.len()) == Some(imsi)
}

/// Where the demo leaves its files, for who reads the report.
pub fn folder_line(folder: &Path) -> String {
    format!("files and logs: {}\n", folder.display())
}
