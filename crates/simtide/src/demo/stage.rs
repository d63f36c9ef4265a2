//! The play: who is started, what happens in which order, and what is read at the end.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use simtide_protocol::card_file::{CardRow, Format};
use simtide_protocol::ids::EpochMs;
use simtide_simulation::reader::Reader;
use simtide_simulation::vendor::Order;

use super::Args;
use super::content::{self, Effect};
use super::figure::Cause;
use super::platform::Platform;
use super::process::Role;
use super::report::{Contact, Effects, Figures, Report, figure, inversions};

type Failure = Box<dyn std::error::Error>;

/// The recurring period of the standard profile: seed A's twenty days.
const PERIOD_MS: i64 = 20 * 86_400_000;
const DAY_MS: f64 = 86_400_000.0;
/// From the start of the fleet to its first poll, in real milliseconds, and what every card adds.
const LEAD_MS: i64 = 1_500;
const LEAD_PER_CARD_US: i64 = 500;
/// Round trips of a session that carries the campaign: connection, handshake (2), four scripts, the end.
const ROUND_TRIPS: f64 = 8.0;
/// What a session takes beside its round trips, in milliseconds.
const SESSION_WORK_MS: f64 = 18.0;
/// Part of the session limit that the flow controller plans for; the default of simtide.toml.
const PLAN_MARGIN: f64 = 0.95;
/// How many periods the campaign may take until the demo reads the cards all the same.
const PATIENCE_PERIODS: f64 = 1.6;
/// How often the demo looks at the platform.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Account of the platform at the SMSC of the demo.
const ACCOUNT: &str = "simtide";

/// Plays the demo and reads what came of it.
pub fn play(args: &Args) -> Result<Report, Failure> {
    let begun = Instant::now();
    let world = World::new(args)?;
    let bars = Bars { hidden: args.json };

    let smsc = world.start_smsc()?;
    let server = world.start_platform(&smsc)?;
    let token = fs::read_to_string(args.folder.join("data").join("admin.token"))?;
    let platform = Platform::new(&server.address("api"), &token)?;
    world.import(&server, &token)?;

    let t0 = world.virtual_at(now_ms() + LEAD_MS + i64::from(world.in_field) * LEAD_PER_CARD_US / 1_000);
    let fleet = world.start_fleet(&smsc, &server, t0)?;
    let start = EpochMs(t0.0 + PERIOD_MS);
    world.tide(&platform, &bars, t0, start)?;

    let before = planned_polls(&platform, &world.rows, None)?;
    let campaign = platform.post(
        "/v1/campaigns",
        &json!({ "name": "demo", "content": content::campaign()?, "settings": world.settings() }),
    )?;
    let path = format!("/v1/campaigns/{}", campaign["id"]);
    let started = platform.post(&format!("{path}/start"), &Value::Null)?;
    let started_at = moment(&started["started_at"]).unwrap_or(start);
    // A card that polled between the two looks had its new date when the campaign started.
    let mut planned = planned_polls(&platform, &world.rows, Some(started_at))?;
    before.into_iter().for_each(|(number, date)| {
        planned.entry(number).or_insert(date);
    });
    world.campaign(&platform, &bars, &path)?;

    let door: SocketAddr = fleet.address("door").parse()?;
    if args.spoil {
        world.spoil(door)?;
    }
    let effects = world.effects(door, &bars)?;
    let contacts = world.contacts(&platform, t0, started_at, campaign["id"].as_u64(), &bars)?;
    let detail = platform.get(&path)?;
    let triggers = triggers(&args.folder.join("smsc.jsonl"))?;
    let metrics = platform.metrics()?;
    let metric = |name: &str| metrics.get(name).copied().unwrap_or_default() as u64;
    let figure = figure(contacts, args.batches.into(), PERIOD_MS as f64 / DAY_MS, days(started_at, t0));
    let figures = Figures {
        cards: args.cards,
        never_seen: args.cards - world.in_field,
        done_by_poll: detail["progress"]["done_by_poll"].as_i64().unwrap_or_default(),
        done_by_trigger: detail["progress"]["done_by_trigger"].as_i64().unwrap_or_default(),
        sms: triggers.len() as u64,
        sms_to_never_seen: triggers.iter().filter(|to| !world.is_in_field(to)).count() as u64,
        order_inversions: inversions(&first_pass(&triggers, &planned)),
        batch_order: figure.batch_order(),
        sessions_peak: metric("simtide_sessions_peak"),
        sessions_limit: world.sessions_max,
        demand_peak: metric("simtide_sessions_demand_peak"),
        refused: metric("simtide_sessions_total{outcome=\"no_permit\"}"),
        effects_on_cards: effects,
        wall_s: (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
    };
    drop((fleet, server, smsc));
    Ok(Report { figures, figure })
}

/// What the roles share: the cards, the clock, the folder.
struct World<'a> {
    args: &'a Args,
    rows: Vec<CardRow>,
    in_field: u32,
    sessions_max: u32,
    real_anchor_ms: i64,
    rate: f64,
}

impl<'a> World<'a> {
    /// Makes the folder anew and lets the vendor deliver.
    fn new(args: &'a Args) -> Result<Self, Failure> {
        make_folder(&args.folder)?;
        let in_field = args.cards - args.cards * u32::from(args.never_seen) / 100;
        let order = Order {
            seed: args.seed,
            cards: args.cards,
            network: "00101".to_owned(),
            profile: "standard".parse()?,
            device_kind: "meter".to_owned(),
            dated: 0,
            first_poll: EpochMs(0),
            spread_ms: 0,
        };
        fs::write(args.folder.join("cards.out"), order.file(Format::Out)?)?;
        let polls_per_s = f64::from(in_field) / f64::from(args.period_s);
        let session_s = (f64::from(args.latency_ms) * ROUND_TRIPS + SESSION_WORK_MS) / 1_000.0;
        let balanced = (2.0 * polls_per_s * session_s / PLAN_MARGIN).round().max(4.0) as u32;
        Ok(Self {
            args,
            rows: order.rows()?,
            in_field,
            sessions_max: args.capacity.unwrap_or(balanced),
            real_anchor_ms: now_ms(),
            rate: PERIOD_MS as f64 / (f64::from(args.period_s) * 1_000.0),
        })
    }

    fn virtual_at(&self, real_ms: i64) -> EpochMs {
        EpochMs(self.real_anchor_ms + ((real_ms - self.real_anchor_ms) as f64 * self.rate) as i64)
    }

    /// Seconds of campaign time in this many real milliseconds.
    fn campaign_s(&self, real_ms: f64) -> u64 {
        (real_ms * self.rate / 1_000.0) as u64
    }

    fn clock(&self) -> String {
        format!("{0}:{0}:{1}", self.real_anchor_ms, self.rate)
    }

    fn start_smsc(&self) -> Result<Role, Failure> {
        let record = self.args.folder.join("smsc.jsonl").display().to_string();
        let arguments = [
            ["--smpp", "127.0.0.1:0"],
            ["--air", "127.0.0.1:0"],
            ["--system-id", ACCOUNT],
            ["--password", "demo"],
            ["--record", &record],
            ["--clock", &self.clock()],
        ];
        Ok(Role::start("smsc", &owned(&arguments), &self.args.folder)?)
    }

    fn start_platform(&self, smsc: &Role) -> Result<Role, Failure> {
        let smpp: SocketAddr = smsc.address("smpp").parse()?;
        let link = if self.args.no_smsc {
            String::new()
        } else {
            format!(
                "[[smpp.links]]\nname = \"demo\"\nhost = \"{}\"\nport = {}\nsystem_id = \"{ACCOUNT}\"\npassword = \"demo\"\n",
                smpp.ip(),
                smpp.port()
            )
        };
        // Campaign time in milliseconds that so many real ones are.
        let campaign_ms = |real_ms: f64| (real_ms * self.rate) as u64;
        let config = format!(
            "[data]\nfolder = {folder:?}\n\
             [card_port]\nlisten = \"127.0.0.1:0\"\nsessions_max = {sessions_max}\n\
             [api]\nlisten = \"127.0.0.1:0\"\n\
             [flow]\nplan_margin = {PLAN_MARGIN}\ntick_ms = {tick_ms}\nsession_initial_ms = {session_ms}\n\
             response_initial_ms = {response_ms}\nretry_ms = {retry_ms}\n\
             [clock]\nrate = {rate:?}\nreal_anchor_ms = {anchor_ms}\nvirtual_anchor_ms = {anchor_ms}\n{link}",
            folder = self.args.folder.join("data").display().to_string(),
            sessions_max = self.sessions_max,
            tick_ms = campaign_ms(50.0),
            session_ms = campaign_ms(f64::from(self.args.latency_ms) * ROUND_TRIPS + SESSION_WORK_MS),
            response_ms = campaign_ms(150.0),
            retry_ms = campaign_ms(1_000.0),
            rate = self.rate,
            anchor_ms = self.real_anchor_ms,
        );
        let path = self.args.folder.join("simtide.toml");
        fs::write(&path, config)?;
        let trace = self.args.folder.join("trace.jsonl");
        let arguments =
            owned(&[["--config", &path.display().to_string()], ["--trace", &trace.display().to_string()]]);
        Ok(Role::start("serve", &arguments, &self.args.folder)?)
    }

    fn start_fleet(&self, smsc: &Role, server: &Role, t0: EpochMs) -> Result<Role, Failure> {
        let arguments = [
            ["--cards", &self.args.folder.join("cards.out").display().to_string()],
            ["--count", &self.in_field.to_string()],
            ["--smsc", &smsc.address("air")],
            ["--door", "127.0.0.1:0"],
            ["--platform", &server.address("card_port")],
            ["--clock", &self.clock()],
            ["--latency-ms", &self.args.latency_ms.to_string()],
            ["--power-on-spread-ms", "500"],
            ["--first-poll", "spread"],
            ["--first-poll-from-ms", &t0.0.to_string()],
        ];
        Ok(Role::start("fleet", &owned(&arguments), &self.args.folder)?)
    }
}

impl World<'_> {
    /// The platform imports what the vendor has delivered, as a user would do it.
    fn import(&self, server: &Role, token: &str) -> Result<(), Failure> {
        import(&self.args.folder, server, token)
    }

    /// One period in which the cards come by themselves.
    fn tide(&self, platform: &Platform, bars: &Bars, t0: EpochMs, start: EpochMs) -> Result<(), Failure> {
        let bar = bars.bar("the tide before the start", self.in_field.into());
        let end = self.real_at(start);
        while now_ms() < end {
            let left = (end - now_ms()).max(0) as u64;
            std::thread::sleep(LOOK_EVERY.min(Duration::from_millis(left)));
            let share = (self.virtual_at(now_ms()).0 - t0.0) as f64 / PERIOD_MS as f64;
            let sessions = platform.metrics()?.get("simtide_handshakes_total").copied();
            bar.set_position(sessions.unwrap_or(share * f64::from(self.in_field)).max(0.0) as u64);
        }
        bar.finish();
        Ok(())
    }

    /// Settings of the campaign: hours of campaign time are milliseconds here.
    fn settings(&self) -> Value {
        json!({
            "attempts": 3,
            "batch_size": 1,
            "backoff_s": self.campaign_s(1_500.0),
            "validity_s": self.campaign_s(3_000.0).clamp(60, 7 * 86_400),
            "leave_to_poll_s": self.campaign_s(300.0),
            "poll_grace_s": self.campaign_s(1_000.0),
        })
    }

    /// Waits until every card in the field is done, or patience ends.
    fn campaign(&self, platform: &Platform, bars: &Bars, path: &str) -> Result<(), Failure> {
        let bar = bars.bar("the campaign against it", self.in_field.into());
        let patience = Duration::from_secs_f64(f64::from(self.args.period_s) * PATIENCE_PERIODS);
        let begun = Instant::now();
        loop {
            let progress = &platform.get(path)?["progress"];
            let sum = |key: &str| progress[key].as_i64().unwrap_or_default();
            let done = sum("done_by_poll") + sum("done_by_trigger");
            let ended = done + sum("failed") + sum("interrupted");
            bar.set_position(done.max(0) as u64);
            bar.set_message(format!(
                "{} by trigger, {} by own poll",
                sum("done_by_trigger"),
                sum("done_by_poll")
            ));
            if ended >= i64::from(self.in_field) || begun.elapsed() >= patience {
                bar.finish();
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Reads every card that has been in the field, each through its own port.
    fn effects(&self, door: SocketAddr, bars: &Bars) -> Result<Effects, Failure> {
        let bar = bars.bar("reading the cards", self.in_field.into());
        let mut effects = Effects::default();
        for row in &self.rows[..self.in_field as usize] {
            let count = match content::effect(&mut Reader::connect(door, row.iccid)?)? {
                Effect::Once => &mut effects.once,
                Effect::Never => &mut effects.never,
                Effect::Twice => &mut effects.twice,
            };
            *count += 1;
            bar.inc(1);
        }
        bar.finish();
        Ok(effects)
    }

    fn spoil(&self, door: SocketAddr) -> Result<(), Failure> {
        let row = self.rows.first().ok_or("there is no card")?;
        let code = row.admin_code.as_ref().ok_or("the card has no administrative code")?;
        Ok(content::spoil(&mut Reader::connect(door, row.iccid)?, code.as_bytes())?)
    }

    /// When every card polled before the start and was done after it, as the platform's history has it.
    fn contacts(
        &self,
        platform: &Platform,
        t0: EpochMs,
        started_at: EpochMs,
        campaign: Option<u64>,
        bars: &Bars,
    ) -> Result<Vec<Contact>, Failure> {
        let bar = bars.bar("reading the history", self.in_field.into());
        let mut contacts = Vec::new();
        for row in &self.rows[..self.in_field as usize] {
            bar.inc(1);
            let card = platform.get(&format!("/v1/cards/{}", row.iccid))?;
            let history = card["history"].as_array().cloned().unwrap_or_default();
            let before =
                history.iter().filter_map(|line| moment(&line["at"])).filter(|at| *at < started_at).max();
            let done = history.iter().find(|line| {
                line["campaign"].as_u64() == campaign && line["result"].as_str() == Some("done")
            });
            let cause = |line: &Value| match line["cause"].as_str() {
                Some("trigger") => Cause::Trigger,
                _ => Cause::Poll,
            };
            let Some(before) = before else { continue };
            contacts.push(Contact {
                before_days: days(before, t0),
                done: done.and_then(|line| Some((days(moment(&line["at"])?, t0), cause(line)))),
            });
        }
        bar.finish();
        Ok(contacts)
    }

    fn real_at(&self, at: EpochMs) -> i64 {
        self.real_anchor_ms + ((at.0 - self.real_anchor_ms) as f64 / self.rate) as i64
    }

    fn is_in_field(&self, msisdn: &str) -> bool {
        let mut field = self.rows[..self.in_field as usize].iter();
        field.any(|row| row.msisdn.is_some_and(|number| same_number(&number.to_string(), msisdn)))
    }
}

/// Imports the vendor's file as a user would do it.
pub fn import(folder: &Path, server: &Role, token: &str) -> Result<(), Failure> {
    let outcome = std::process::Command::new(std::env::current_exe()?)
        .arg("import")
        .arg(folder.join("cards.out"))
        .args(["--plain", "--json", "--server", &format!("http://{}", server.address("api"))])
        .env("SIMTIDE_TOKEN", token.trim())
        .output()?;
    if outcome.status.success() {
        return Ok(());
    }
    let problem = [outcome.stdout, outcome.stderr].concat();
    Err(format!("the import failed: {}", String::from_utf8_lossy(&problem)).into())
}

/// Progress bars, unless the output is for a program.
struct Bars {
    hidden: bool,
}

impl Bars {
    fn bar(&self, what: &str, length: u64) -> ProgressBar {
        let bar = ProgressBar::new(length);
        if self.hidden {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let style = ProgressStyle::with_template("{prefix:<26} [{bar:40}] {pos}/{len} {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_owned());
        bar
    }
}

/// When the platform expects each card by itself, by telephone number: the order of the campaign. Only cards whose
/// last contact lies before `contact_before`, where that is given.
fn planned_polls(
    platform: &Platform,
    rows: &[CardRow],
    contact_before: Option<EpochMs>,
) -> Result<HashMap<String, i64>, Failure> {
    let cards = platform.cards()?;
    let counts = |card: &Value| {
        let contact = moment(&card["last_update"]);
        contact_before.is_none_or(|before| contact.is_none_or(|contact| contact < before))
    };
    let planned: HashMap<&str, i64> = cards
        .iter()
        .filter(|card| counts(card))
        .filter_map(|card| Some((card["id"].as_str()?, moment(&card["next_poll"])?.0)))
        .collect();
    let by_number = rows
        .iter()
        .filter_map(|row| Some((row.msisdn?.to_string(), *planned.get(row.iccid.to_string().as_str())?)));
    Ok(by_number.collect())
}

/// Destinations of the messages that the platform submitted, in their order on the wire.
fn triggers(record: &Path) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(record)?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let submitted = lines.filter(|line| line["event"] == "submitted");
    Ok(submitted.filter_map(|line| line["destination"].as_str().map(str::to_owned)).collect())
}

/// The planned dates of the first trigger of each card.
fn first_pass(triggers: &[String], planned: &HashMap<String, i64>) -> Vec<i64> {
    let mut seen = std::collections::HashSet::new();
    let first = triggers.iter().filter(|number| seen.insert(number.trim_start_matches('+')));
    first.filter_map(|number| planned.get(number.trim_start_matches('+')).copied()).collect()
}

fn same_number(a: &str, b: &str) -> bool {
    a.trim_start_matches('+') == b.trim_start_matches('+')
}

fn days(at: EpochMs, t0: EpochMs) -> f64 {
    (at.0 - t0.0) as f64 / DAY_MS
}

fn moment(value: &Value) -> Option<EpochMs> {
    value.as_str()?.parse().ok()
}

/// Real epoch milliseconds.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Flags with their values, as arguments.
pub fn owned(arguments: &[[&str; 2]]) -> Vec<String> {
    arguments.iter().flatten().map(|argument| (*argument).to_owned()).collect()
}

/// Makes the folder anew, but never deletes a folder that is not the demo's.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    let mark = folder.join(".simtide-demo");
    if folder.exists() {
        let is_empty = fs::read_dir(folder)?.next().is_none();
        if !mark.exists() && !is_empty {
            let problem =
                format!("{} is not empty and not of a demo: give another --folder", folder.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    fs::write(mark, "")
}
