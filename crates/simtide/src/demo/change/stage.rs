//! The play: operators, platform and cards are started, the cards move, then everything is read.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use simtide_protocol::card_file::{CardRow, Format};
use simtide_protocol::ids::{EpochMs, Imsi};
use simtide_simulation::smsc::Happened;
use simtide_simulation::vendor::Order;

use super::super::Args;
use super::super::platform::Platform;
use super::super::process::Role;
use super::super::stage::{make_folder, now_ms, owned};
use super::messages::Follower;
use super::opened::{Opener, Story};
use super::operator::{OPERATORS, Operator, run};
use super::reading::{Card, Register};
use super::{Figures, Report};

type Failure = Box<dyn std::error::Error>;

/// How often the demo looks at records and changes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long all cards together may take for their first attach, and for one move each beside [`PER_CHANGE`].
const PATIENCE: Duration = Duration::from_secs(60);
/// What every change adds to it.
const PER_CHANGE: Duration = Duration::from_millis(500);
/// The first own poll of the cards lies behind the demo.
const FIRST_POLL_MS: i64 = 10 * 86_400_000;

/// Plays the demo and reads what came of it.
pub fn play(args: &Args) -> Result<Report, Failure> {
    let begun = Instant::now();
    make_folder(&args.folder)?;
    let mut world = World::new(args)?;
    world.attach_all()?;
    for turn in 0..args.moves {
        world.move_all(usize::from(turn + 1) % OPERATORS.len())?;
    }
    let mut report = world.read()?;
    report.figures.wall_s = (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    Ok(report)
}

/// Everything that runs.
struct World {
    rows: Vec<CardRow>,
    is_quiet: bool,
    platform: Platform,
    followers: Vec<Follower>,
    opener: Opener,
    changes: Vec<String>,
    // In this order: devices, platform, networks.
    fleet: Role,
    _server: Role,
    operators: Vec<Operator>,
}

impl World {
    fn new(args: &Args) -> Result<Self, Failure> {
        let cards = args.cards;
        let order = Order {
            seed: args.seed,
            cards,
            network: format!("{}{}", OPERATORS[0].mcc, OPERATORS[0].mnc),
            profile: "standard".parse()?,
            device_kind: "phone".to_owned(),
            dated: cards,
            first_poll: EpochMs(now_ms() + FIRST_POLL_MS),
            spread_ms: 1_000,
        };
        let path = args.folder.join("cards.out").display().to_string();
        fs::write(&path, order.file(Format::Out)?)?;
        // Every move takes an identity that is never used again.
        let pool = u64::from(cards) * (u64::from(args.moves) + 1);
        let operators = OPERATORS
            .iter()
            .map(|who| Operator::start(who, &args.folder, pool))
            .collect::<Result<Vec<_>, _>>()?;
        let server = start_platform(&args.folder, &operators)?;
        let token = fs::read_to_string(args.folder.join("data").join("admin.token"))?;
        let platform = Platform::new(&server.address("api"), &token)?;
        agree(&platform, &operators)?;
        let first = OPERATORS[0].name;
        let api = format!("http://{}", server.address("api"));
        let token_file = args.folder.join("data").join("admin.token").display().to_string();
        let import =
            ["--server", &api, "--token-file", &token_file, "--operator", first, "--register", first];
        run(&[&["import", &path, "--plain", "--json"], &import[..]].concat())?;
        let followers = operators.iter().map(|one| Follower::open(one.identity.name, &one.record()));
        let followers = followers.collect::<Result<Vec<_>, _>>()?;
        let [one, two] = [operators[0].network(), operators[1].network()];
        let fleet = [
            ["--cards", &path],
            ["--network", &one],
            ["--network", &two],
            ["--door", "127.0.0.1:0"],
            ["--platform", &server.address("card_port")],
            ["--power-on-spread-ms", "500"],
        ];
        let fleet = Role::start("fleet", &owned(&fleet), &args.folder)?;
        let rows = order.rows()?;
        let opener = Opener::new(&rows);
        let is_quiet = args.json;
        Ok(Self {
            rows,
            is_quiet,
            platform,
            followers,
            opener,
            changes: Vec::new(),
            fleet,
            _server: server,
            operators,
        })
    }

    /// Waits until every card has proved itself to the first operator.
    fn attach_all(&mut self) -> Result<(), Failure> {
        self.say("-- the cards attach to operator one");
        let wanted: BTreeSet<String> =
            self.rows.iter().filter_map(|row| row.imsi.map(|imsi| imsi.to_string())).collect();
        let mut attached = BTreeSet::new();
        let patience = self.patience();
        let begun = Instant::now();
        while !wanted.is_subset(&attached) {
            attached.extend(self.look());
            if begun.elapsed() > patience {
                return Err(format!("{} of {} cards are attached", attached.len(), wanted.len()).into());
            }
        }
        Ok(())
    }

    /// Asks for the move of every card, and waits for the ends.
    fn move_all(&mut self, to: usize) -> Result<(), Failure> {
        let to = &OPERATORS[to];
        self.say(&format!("-- every card moves to {}", to.display_name));
        let mut open = Vec::new();
        for row in &self.rows {
            let consent = json!({ "when": EpochMs(now_ms()).to_string(), "how": "web-site" });
            let body = json!({ "card": row.iccid.to_string(), "operator": to.name, "consent": consent });
            let change = self.platform.post("/v1/changes", &body)?;
            let id = change["id"].as_str().ok_or("the platform names no change")?.to_owned();
            open.push(Followed { id: id.clone(), told: 0 });
            self.changes.push(id);
        }
        let patience = self.patience();
        let begun = Instant::now();
        while !open.is_empty() && begun.elapsed() < patience {
            std::thread::sleep(LOOK_EVERY);
            let mut story = Story::default();
            self.listen(&mut story);
            let mut still = Vec::new();
            for mut followed in open {
                let change = self.platform.get(&format!("/v1/changes/{}", followed.id))?;
                followed.tell(&change, &mut story);
                if change["open"].as_bool().unwrap_or(true) {
                    still.push(followed);
                }
            }
            open = still;
            self.say_all(story);
        }
        self.look();
        Ok(())
    }

    fn patience(&self) -> Duration {
        PATIENCE + PER_CHANGE * u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// Shows what was on the air meanwhile; the identities that were attached.
    fn look(&mut self) -> Vec<String> {
        std::thread::sleep(LOOK_EVERY);
        let mut story = Story::default();
        let attached = self.listen(&mut story);
        self.say_all(story);
        attached
    }

    /// What both networks carried meanwhile, and what is inside; the identities that were attached.
    fn listen(&mut self, story: &mut Story) -> Vec<String> {
        let mut attached = Vec::new();
        for follower in &mut self.followers {
            for entry in follower.entries() {
                if !self.is_quiet
                    && let Some(line) = follower.describe(&entry)
                {
                    story.tell(entry.time, line, self.opener.open(&entry));
                }
                if entry.event == Happened::Attached {
                    attached.push(entry.source);
                }
            }
        }
        attached
    }

    fn say_all(&self, story: Story) {
        story.lines().iter().for_each(|line| self.say(line));
    }

    fn say(&self, line: &str) {
        if !self.is_quiet {
            println!("{line}");
        }
    }

    /// Reads the cards and asks the registers.
    fn read(&mut self) -> Result<Report, Failure> {
        let mut figures = Figures {
            changes: self.changes.len() as u64,
            done: 0,
            refused: 0,
            unknown: 0,
            cards_with_one_identity: 0,
            cards_stranded: 0,
            registered_by_operator: OPERATORS.iter().map(|one| (one.name.to_owned(), 0)).collect(),
            wall_s: 0.0,
        };
        let mut left = BTreeSet::new();
        for id in &self.changes {
            let change = self.platform.get(&format!("/v1/changes/{id}"))?;
            match (change["state"].as_str(), change["open"].as_bool()) {
                (Some("done"), _) => figures.done += 1,
                (_, Some(false)) => figures.refused += 1,
                _ => figures.unknown += 1,
            }
            left.extend(
                [&change["imsi"], &change["new_imsi"]]
                    .iter()
                    .filter_map(|imsi| imsi.as_str()?.parse::<Imsi>().ok()),
            );
        }
        let addresses = self.operators.iter().map(Operator::gsup).collect::<Result<Vec<_>, _>>()?;
        let mut registers = addresses.into_iter().map(Register::connect).collect::<Result<Vec<_>, _>>()?;
        let door: SocketAddr = self.fleet.address("door").parse()?;
        let mut card_lines = Vec::new();
        for row in &self.rows {
            let mut card = Card::read(door, row.iccid)?;
            let mut homes = Vec::new();
            for (operator, register) in OPERATORS.iter().zip(&mut registers) {
                if card.is_at_home_in(register)? {
                    homes.push(operator.name);
                }
            }
            left.remove(&card.imsi);
            figures.cards_with_one_identity += u64::from(homes.len() == 1);
            figures.cards_stranded += u64::from(homes.is_empty());
            for home in &homes {
                *figures.registered_by_operator.entry((*home).to_owned()).or_default() += 1;
            }
            let home = if homes.is_empty() { "no register".to_owned() } else { homes.join(" and ") };
            card_lines.push(format!("{}: IMSI {}, K ****, proves itself to {home}", row.iccid, card.imsi));
        }
        let left_behind = left_behind(&left, &mut registers)?;
        let register_lines = self.register_lines(&figures)?;
        Ok(Report { figures, cards: self.rows.len() as u64, card_lines, register_lines, left_behind })
    }

    fn register_lines(&self, figures: &Figures) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        for operator in &OPERATORS {
            let shown = self.platform.get(&format!("/v1/operators/{}", operator.name))?;
            let pool = |key: &str| shown["pool"][key].as_u64().unwrap_or_default();
            lines.push(format!(
                "{}: accepts {} of the cards; pool: {} free, {} reserved, {} assigned, {} retired",
                operator.name,
                figures.registered_by_operator.get(operator.name).copied().unwrap_or_default(),
                pool("free"),
                pool("reserved"),
                pool("assigned"),
                pool("retired"),
            ));
        }
        Ok(lines)
    }
}

/// Identities that cards have left and that a register still accepts.
fn left_behind(identities: &BTreeSet<Imsi>, registers: &mut [Register]) -> Result<u64, Failure> {
    let mut count = 0;
    for imsi in identities {
        for register in registers.iter_mut() {
            count += u64::from(register.accepts(*imsi)?);
        }
    }
    Ok(count)
}

/// A change, and how many of its steps were told.
struct Followed {
    id: String,
    told: usize,
}

impl Followed {
    /// Tells the steps that the change has made meanwhile.
    fn tell(&mut self, change: &Value, story: &mut Story) {
        let text = |key: &str| change[key].as_str().unwrap_or("-").to_owned();
        let steps = change["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
        for step in steps.iter().skip(self.told) {
            let at = serde_json::from_value(step["at"].clone()).unwrap_or(EpochMs(0));
            let state = step["state"].as_str().unwrap_or("-");
            let (from, to) = (text("from"), text("to"));
            let what = match state {
                "requested" => format!("card {} to {to}, agreed by the user", text("card")),
                "reserved" => format!("register {to} gives {}, K2 and OPc2 ****", text("new_imsi")),
                "armed" => format!("register {to} lets it in"),
                "sent" => "the personalization message is sealed and leaves".to_owned(),
                "applied" => "the card has proven that it took identity 2".to_owned(),
                "attached" => format!("register {to} has seen it"),
                "withdrawn" => format!("register {from} lets {} in no more", text("imsi")),
                "retired" => format!("register {from} has deleted {}", text("imsi")),
                _ => String::new(),
            };
            let colon = if what.is_empty() { "" } else { ": " };
            story.tell(at, format!("platform     change {} {state}{colon}{what}", self.id), Vec::new());
        }
        self.told = steps.len();
    }
}

fn start_platform(folder: &Path, operators: &[Operator]) -> Result<Role, Failure> {
    let links = operators.iter().map(Operator::link).collect::<Result<String, _>>()?;
    let config = format!(
        "[data]\nfolder = {folder:?}\n\
         [card_port]\nlisten = \"127.0.0.1:0\"\n\
         [api]\nlisten = \"127.0.0.1:0\"\n{links}",
        folder = folder.join("data").display().to_string(),
    );
    let path = folder.join("simtide.toml");
    fs::write(&path, config)?;
    Ok(Role::start("serve", &owned(&[["--config", &path.display().to_string()]]), folder)?)
}

/// Tells the platform who takes part, and that cards may go both ways.
fn agree(platform: &Platform, operators: &[Operator]) -> Result<(), Failure> {
    for operator in operators {
        platform.put(&format!("/v1/operators/{}", operator.identity.name), &operator.settings()?)?;
    }
    for (from, to) in [(0, 1), (1, 0)] {
        let path = format!("/v1/agreements/{}/{}", OPERATORS[from].name, OPERATORS[to].name);
        platform.put(&path, &json!({}))?;
    }
    Ok(())
}
