//! Platform, service centre and fleet as processes on loopback, for tests that break one of them.
//!
//! Campaign time is fast: one period of the cards takes a few real seconds. What counts is read from the cards.

#![allow(dead_code, reason = "each test uses its part")]

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::Method;
use serde_json::{Value, json};
use simtide_protocol::card_file::{CardRow, Format};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::poll_date::PollFile;
use simtide_protocol::profile::STANDARD_TEXT;
use simtide_simulation::reader::Reader;
use simtide_simulation::smsc::Entry;
use simtide_simulation::vendor::Order;

/// The period of these cards: short enough that a whole test is less than the time that settled packets are kept.
const PERIOD_S: u32 = 2 * 86_400;
/// The cyclic file that INCREASE counts in, and the file with the date of the next poll.
pub const COUNTER: [u16; 2] = [0x7F90, 0x6F03];
const POLL_FILE: [u16; 2] = [0x7F90, 0x6F01];
/// The card profile of these tests: more patience with a platform that is away.
const PROFILE: &str = "patient";
/// How long one request to the API may take.
const API_LIMIT: Duration = Duration::from_secs(5);
/// How long a campaign may take, in real time.
const CAMPAIGN_LIMIT: Duration = Duration::from_secs(90);

/// A role of the binary, ended with the test.
pub struct Role {
    child: Child,
    /// Held open: a fleet ends with it.
    _stdin: Option<ChildStdin>,
    pub ready: Value,
}

impl Role {
    /// `None`: it was killed before it was ready.
    pub fn start(arguments: &[String], environment: &[(&str, String)], log: PathBuf) -> Option<Role> {
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_simtide"))
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().and_then(Result::ok).and_then(|line| serde_json::from_str(&line).ok());
        // Whoever prints on must not be stopped by a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let mut role = Role { child, _stdin: stdin, ready: Value::Null };
        match first {
            Some(ready) => role.ready = ready,
            None => {
                role.assert_killed();
                return None;
            }
        }
        Some(role)
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        self.ready[name].as_str().unwrap().parse().unwrap()
    }

    /// Whether it was killed; it must not end by itself.
    pub fn has_ended(&mut self) -> bool {
        let has_ended = self.child.try_wait().unwrap().is_some();
        if has_ended {
            self.assert_killed();
        }
        has_ended
    }

    fn assert_killed(&mut self) {
        let status = self.child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(libc::SIGKILL),
            "{:?} ended by itself: {status}",
            self.ready["ready"]
        );
    }

    /// SIGKILL, as if the power had failed.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is played.
pub struct Plan {
    pub seed: u64,
    pub cards: u32,
    /// The first ones; the others stay in the shop.
    pub in_field: u32,
    /// One period of the cards, in real seconds.
    pub period_s: f64,
    pub sessions_max: u32,
    /// What the network adds to each round trip of a card.
    pub latency_ms: u32,
    /// Settings of the service centre (TOML).
    pub smsc: String,
    /// More lines of the platform's one SMPP link.
    pub link: String,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            seed: 1,
            cards: 60,
            in_field: 60,
            period_s: 30.0,
            sessions_max: 20,
            latency_ms: 0,
            smsc: String::new(),
            link: "rate_per_s = 1000".to_owned(),
        }
    }
}

/// All of them, and the folder where they keep things.
pub struct Stage {
    folder: tempfile::TempDir,
    pub plan: Plan,
    pub rows: Vec<CardRow>,
    anchor_ms: i64,
    smsc: Role,
    fleet: Option<Role>,
    pub server: Option<Role>,
    card_port: u16,
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    /// Most sessions that any of the platforms has said to have had open at once.
    pub sessions_peak: Cell<u64>,
}

impl Stage {
    /// Starts all of them; the platform has imported the cards and waits for a campaign.
    pub fn start(plan: Plan) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let order = Order {
            seed: plan.seed,
            cards: plan.cards,
            network: "00101".to_owned(),
            profile: PROFILE.parse().unwrap(),
            device_kind: "meter".to_owned(),
            dated: 0,
            first_poll: EpochMs(0),
            spread_ms: 0,
        };
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("cards.out"), order.file(Format::Out).unwrap()).unwrap();
        fs::write(path("profile.toml"), profile_text(&plan)).unwrap();
        fs::write(path("smsc.toml"), &plan.smsc).unwrap();
        let anchor_ms = now_ms();
        let smsc = {
            let clock = format!("{anchor_ms}:{anchor_ms}:{}", rate(&plan));
            let (settings, record) = (path("smsc.toml"), path("smsc.jsonl"));
            let arguments = owned(&[
                "smsc",
                "--smpp",
                "127.0.0.1:0",
                "--air",
                "127.0.0.1:0",
                "--settings",
                &settings,
                "--record",
                &record,
                "--clock",
                &clock,
            ]);
            Role::start(&arguments, &[], folder.path().join("smsc.log")).unwrap()
        };
        let mut stage = Stage {
            plan,
            rows: order.rows().unwrap(),
            anchor_ms,
            smsc,
            fleet: None,
            server: None,
            card_port: free_port(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            http: reqwest::Client::builder().timeout(API_LIMIT).pool_max_idle_per_host(0).build().unwrap(),
            sessions_peak: Cell::new(0),
            folder,
        };
        assert!(stage.serve(None), "the platform does not start");
        stage.import();
        stage.start_fleet();
        stage
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn rate(&self) -> f64 {
        rate(&self.plan)
    }

    /// Campaign time at a real time.
    pub fn virtual_at(&self, real_ms: i64) -> EpochMs {
        EpochMs(self.anchor_ms + ((real_ms - self.anchor_ms) as f64 * self.rate()) as i64)
    }

    /// Real milliseconds in seconds of campaign time.
    pub fn campaign_s(&self, real_ms: f64) -> u64 {
        (real_ms * self.rate() / 1_000.0) as u64
    }

    /// Starts the platform, always at the same card port; says whether it became ready.
    pub fn serve(&mut self, kill_at: Option<&str>) -> bool {
        self.server = None;
        fs::write(self.path("simtide.toml"), self.config()).unwrap();
        let arguments = owned(&["serve", "--config", &self.path("simtide.toml")]);
        let mut environment = vec![("SIMTIDE_LOG", "warn".to_owned())];
        environment.extend(kill_at.map(|place| ("SIMTIDE_KILL_AT", place.to_owned())));
        self.server = Role::start(&arguments, &environment, self.folder.path().join("serve.log"));
        self.server.is_some()
    }

    fn config(&self) -> String {
        let smpp = self.smsc.address("smpp");
        let campaign_ms = |real_ms: f64| (real_ms * self.rate()) as u64;
        format!(
            "[data]\nfolder = {folder:?}\nbuckets = 8\n\
             [card_port]\nlisten = \"127.0.0.1:{card_port}\"\nsessions_max = {sessions_max}\n\
             [api]\nlisten = \"127.0.0.1:0\"\n\
             [flow]\ntick_ms = {tick_ms}\nsession_initial_ms = {session_ms}\n\
             response_initial_ms = {response_ms}\nretry_ms = {retry_ms}\n\
             [clock]\nrate = {rate:?}\nreal_anchor_ms = {anchor}\nvirtual_anchor_ms = {anchor}\n\
             [[smpp.links]]\nname = \"smsc\"\nhost = \"{host}\"\nport = {port}\nsystem_id = \"simtide\"\n\
             password = \"simtide\"\n{link}\n",
            folder = self.path("data"),
            card_port = self.card_port,
            sessions_max = self.plan.sessions_max,
            tick_ms = campaign_ms(20.0),
            session_ms = campaign_ms(50.0 + 9.0 * f64::from(self.plan.latency_ms)),
            response_ms = campaign_ms(100.0),
            retry_ms = campaign_ms(500.0),
            rate = self.rate(),
            anchor = self.anchor_ms,
            host = smpp.ip(),
            port = smpp.port(),
            link = self.plan.link,
        )
    }

    fn import(&self) {
        let (status, _) = self
            .ask(Method::POST, "/v1/profiles", |request| request.body(profile_text(&self.plan)))
            .expect("the API answers");
        assert_eq!(status, 201, "the profile is taken");
        let api = self.server.as_ref().unwrap().address("api");
        let outcome = Command::new(env!("CARGO_BIN_EXE_simtide"))
            .args([
                "import",
                &self.path("cards.out"),
                "--plain",
                "--json",
                "--server",
                &format!("http://{api}"),
            ])
            .env("SIMTIDE_TOKEN", self.token())
            .output()
            .unwrap();
        assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    }

    fn start_fleet(&mut self) {
        let arguments = owned(&[
            "fleet",
            "--cards",
            &self.path("cards.out"),
            "--profile",
            &self.path("profile.toml"),
            "--count",
            &self.plan.in_field.to_string(),
            "--smsc",
            &self.smsc.address("air").to_string(),
            "--door",
            "127.0.0.1:0",
            "--platform",
            &format!("127.0.0.1:{}", self.card_port),
            "--clock",
            &format!("{0}:{0}:{1}", self.anchor_ms, self.rate()),
            "--latency-ms",
            &self.plan.latency_ms.to_string(),
            "--power-on-spread-ms",
            "200",
            "--first-poll",
            "spread",
            "--first-poll-from-ms",
            &self.virtual_at(now_ms() + 500).0.to_string(),
            "--status-ms",
            "0",
            "--until-stdin-closes",
        ]);
        self.fleet = Role::start(&arguments, &[], self.folder.path().join("fleet.log"));
        assert!(self.fleet.is_some(), "the fleet does not start");
    }

    fn token(&self) -> String {
        fs::read_to_string(self.path("data/admin.token")).unwrap().trim().to_owned()
    }

    /// What the API answers; `None` where nobody is there to answer.
    fn ask(
        &self,
        method: Method,
        path: &str,
        with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Option<(u16, String)> {
        let api = self.server.as_ref()?.address("api");
        let request = self.http.request(method, format!("http://{api}{path}")).bearer_auth(self.token());
        self.runtime.block_on(async {
            let answer = with(request).send().await.ok()?;
            Some((answer.status().as_u16(), answer.text().await.ok()?))
        })
    }

    /// GET as JSON.
    pub fn get(&self, path: &str) -> Option<Value> {
        let (status, body) = self.ask(Method::GET, path, |request| request)?;
        assert_eq!(status, 200, "GET {path}: {body}");
        serde_json::from_str(&body).ok()
    }

    /// POST of JSON: status and answer.
    pub fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let (status, text) = self.ask(Method::POST, path, |request| request.json(body))?;
        Some((status, serde_json::from_str(&text).unwrap_or_default()))
    }

    /// Notes the peak of open sessions; a platform that was killed has taken its own with it.
    pub fn note_sessions(&self) {
        let Some((200, text)) = self.ask(Method::GET, "/metrics", |request| request) else { return };
        let line = text.lines().find_map(|line| line.strip_prefix("simtide_sessions_peak "));
        let peak = line.and_then(|value| value.parse().ok()).unwrap_or_default();
        self.sessions_peak.set(self.sessions_peak.get().max(peak));
    }

    /// A campaign that must run once on every card, with patience measured in real time.
    pub fn campaign(&self, name: &str) -> Value {
        json!({
            "name": name,
            "content": { "repeatable": false, "variants": { "*": [{
                "do": { "script": { "commands": ["00A4080C047F906F03", "8032000003000001"] } },
                "tar": "B00000" }] } },
            "settings": {
                "attempts": 16,
                "backoff_s": self.campaign_s(100.0),
                "validity_s": self.campaign_s(700.0),
                "leave_to_poll_s": self.campaign_s(100.0),
                "poll_grace_s": self.campaign_s(300.0),
            },
        })
    }

    /// Waits until every card in the field has polled by itself: who was never seen gets no trigger.
    pub fn meet_all_cards(&self) {
        let begun = Instant::now();
        loop {
            let list = self.get("/v1/cards?limit=1000").expect("the platform answers");
            let cards = list["cards"].as_array().unwrap();
            let met = cards.iter().filter(|card| !card["last_update"].is_null()).count();
            if met >= self.plan.in_field as usize {
                return;
            }
            assert!(begun.elapsed() < CAMPAIGN_LIMIT, "{met} cards have polled\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// How many cards have had a campaign, failed and were interrupted.
    pub fn progress(&self, id: u64) -> Option<[i64; 3]> {
        let progress = &self.get(&format!("/v1/campaigns/{id}"))?["progress"];
        let sum = |key: &str| progress[key].as_i64().unwrap_or_default();
        Some([sum("done_by_poll") + sum("done_by_trigger"), sum("failed"), sum("interrupted")])
    }

    /// Runs a campaign to its end on every card in the field.
    pub fn run_campaign(&self, name: &str) -> u64 {
        let (status, created) = self.post("/v1/campaigns", &self.campaign(name)).unwrap();
        assert_eq!(status, 201, "{created}");
        let id = created["id"].as_u64().unwrap();
        let (status, started) = self.post(&format!("/v1/campaigns/{id}/start"), &json!({})).unwrap();
        assert_eq!(status, 200, "{started}");
        self.finish_campaign(id);
        id
    }

    /// Waits for the end of a campaign on every card in the field.
    pub fn finish_campaign(&self, id: u64) {
        let begun = Instant::now();
        loop {
            let [done, failed, interrupted] = self.progress(id).expect("the platform answers");
            assert_eq!([failed, interrupted], [0, 0], "campaign {id}");
            if done >= i64::from(self.plan.in_field) {
                assert_eq!(done, i64::from(self.plan.in_field), "campaign {id} counts a card twice");
                return;
            }
            assert!(
                begun.elapsed() < CAMPAIGN_LIMIT,
                "campaign {id} does not end: {done} of {}; {:?}",
                self.plan.in_field,
                self.get(&format!("/v1/campaigns/{id}"))
            );
            self.note_sessions();
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// The cards that are in the field.
    pub fn in_field(&self) -> &[CardRow] {
        &self.rows[..self.plan.in_field as usize]
    }

    /// Reads a card through its own port.
    pub fn reader(&self, row: &CardRow) -> Reader {
        Reader::connect(self.fleet.as_ref().unwrap().address("door"), row.iccid).unwrap()
    }

    /// What a card's counter shows.
    pub fn counter(&self, row: &CardRow, file: &[u16; 2]) -> u32 {
        let record = self.reader(row).read_record(file, 1, 4).unwrap();
        record.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
    }

    /// The date of the next poll, as the card has it.
    pub fn next_poll(&self, row: &CardRow) -> EpochMs {
        let file = self.reader(row).read_binary(&POLL_FILE, 16).unwrap();
        PollFile::decode(&file).unwrap().next()
    }

    /// What the platform knows of a card.
    pub fn card(&self, row: &CardRow) -> Value {
        self.get(&format!("/v1/cards/{}", row.iccid)).unwrap()
    }

    /// What the service centre has recorded.
    pub fn record(&self) -> Vec<Entry> {
        let text = fs::read_to_string(self.path("smsc.jsonl")).unwrap();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The platform's log, for a failure that has to be understood.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }
}

/// The standard profile with more patience.
fn profile_text(plan: &Plan) -> String {
    let delay_s = (rate(plan) * 0.3).min(65_000.0) as u32;
    let text = STANDARD_TEXT
        .replace("name = \"standard\"", &format!("name = \"{PROFILE}\""))
        .replace("retry_delay_s = 600", &format!("retry_delay_s = {delay_s}"))
        .replace("retries = 3", "retries = 20")
        .replace("period_s = 1728000", &format!("period_s = {PERIOD_S}"));
    assert!(
        text.contains("retries = 20") && text.contains(&PERIOD_S.to_string()),
        "the standard profile has changed"
    );
    text
}

fn rate(plan: &Plan) -> f64 {
    f64::from(PERIOD_S) / plan.period_s
}

/// A free port that no outgoing connection takes while the platform is away, another one for each stage.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 9_000) as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (0..1_000).map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed)).find(is_free).unwrap()
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}
