//! A delivery from its device's question to its proof, with real devices and cards against the real store: the entitlement
//! server, the secure element manager and the embedded store in this process, over sockets; agents with cards in software
//! on the other end.
//!
//! | what | at most |
//! |---|---|
//! | the server's CPU per delivery: query, both layers, read receipt, proof, three durable commits | 3 times that of the same HTTP exchanges with empty bodies |
//!
//! What devices, cards and their HTTP client spend is not counted. Every proof is in the store, and every effect on its
//! card, before a number is printed.
//!
//! The line after it tells what of that the store takes at least: the reads and the durable batches of a delivery, counted,
//! each at the price of the barest one, measured in the same run with as many at once.
//!
//! `cargo bench -p simtide-server --bench delivery`

#![allow(clippy::unwrap_used, reason = "a benchmark ends by it")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use simtide_agent::entitlement::{IpBearer, Transport};
use simtide_agent::host::{Host, Shown, Surroundings};
use simtide_agent::network::Networks;
use simtide_agent::port::CardPort;
use simtide_agent::port::soft::SoftPort;
use simtide_agent::port::thread::Request;
use simtide_card::secure_channel::NoChannels;
use simtide_card::{Card, KeySetPersonalization, Personalization, Secret as Code};
use simtide_device::client::http::{HttpRequest, Method};
use simtide_device::client::{self, Client, ClientSettings, Reason};
use simtide_device::queues::Queues;
use simtide_device::{Device, Event, Kind, Settings};
use simtide_platform::card::{Applied, CardState};
use simtide_platform::delivery::{Bearer, Urgency};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::{Bucket, CardId, EpochMs, Iccid, Imsi};
use simtide_protocol::personalization::Identity;
use simtide_protocol::profile::{Profile, STANDARD_TEXT};
use simtide_protocol::scp80::{Counter, Key, KeySet, Kic, Kid};
use simtide_server::card_port::Psk;
use simtide_server::clock::Clock;
use simtide_server::config::Config;
use simtide_server::entitlement::config::Entitlement;
use simtide_server::entitlement::vectors::OneRegister;
use simtide_server::entitlement::{Server, Service};
use simtide_server::registers::memory::MemoryRegister;
use simtide_server::registers::{Register, Subscriber};
use simtide_server::shell::Platform;
use simtide_server::shell::delivery::Wanted;
use simtide_server::shell::keyring::{CardKeySet, Keyring, KeyringError};
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_server::store::{
    Alias, Batch, CardChange, CardHot, CardRecord, DirectoryRow, Group, NewCard, Op, OperatorId, ProfileId,
    SealedKeys, Store, TenantId,
};
use tokio::sync::mpsc;

const RATIO_MAX: f64 = 3.0;
/// Devices that ask at the same time; the others wait for their turn.
const ASKING_MAX: usize = 64;
/// Name of the thread of the devices: what it spends is not the server's.
const DEVICES: &str = "devices";
const TENANT: TenantId = TenantId(1);
const K: [u8; 16] = [0x11; 16];
const OPC: [u8; 16] = [0x22; 16];
const BUCKETS: u16 = 64;
const GROUPS: u16 = 4;

fn main() {
    // Run by `cargo test` as well: then small, to see that it works.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let (agents, rounds) = if is_test { (20, 1) } else { (1_000, 5) };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("server")
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings =
        SqliteSettings { directory: folder.path().join("store"), buckets: BUCKETS, groups: GROUPS };
    let store = Arc::new(SqliteStore::open(&settings).unwrap());
    let (platform, server) = runtime.block_on(start(store.clone(), agents));
    let fleet = Fleet::start(agents, server.address());
    fleet.ask();
    let (mut spent, mut exchanges, mut reads, mut batches) = (Duration::ZERO, 0, 0, 0);
    for round in 0..rounds {
        runtime.block_on(request(&platform, agents, round));
        let before = (server_cpu(), server.service.stats.with_token.value(), store.counts());
        fleet.ask();
        spent += server_cpu() - before.0;
        let counts = store.counts();
        (reads, batches) = (reads + counts.0 - before.2.0, batches + counts.1 - before.2.1);
        exchanges += server.service.stats.with_token.value() - before.1;
        assert_eq!(platform.deliveries.open_count(), 0, "every delivery is proven");
        fleet.check(round);
    }
    let count = (agents * rounds) as f64;
    let before = server_cpu();
    fleet.say_nothing(exchanges);
    let empty = server_cpu() - before;
    let per = |spent: Duration| spent.as_secs_f64() * 1e6 / count;
    let ratio = spent.as_secs_f64() / empty.as_secs_f64();
    let each = exchanges as f64 / count;
    println!(
        "delivery to {agents} agents, server CPU against {each:.2} empty exchanges each: {ratio:.2} (at most \
         {RATIO_MAX}): {:.0} us against {:.0} us{}",
        per(spent),
        per(empty),
        if ratio <= RATIO_MAX { "" } else { "  FELL SHORT" }
    );
    let (read, batch) = (bare(&runtime, &platform, agents, false), bare(&runtime, &platform, agents, true));
    let (reads, batches) = (reads as f64 / count, batches as f64 / count);
    let floor = reads * read + batches * batch;
    println!(
        "  of which the store at its barest: {reads:.1} reads of {read:.0} us, {batches:.1} durable batches of \
         {batch:.0} us: {floor:.0} us; exchanges and store together {:.0} us",
        per(empty) + floor
    );
    drop(fleet);
    runtime.block_on(platform.stop());
    if ratio > RATIO_MAX && !is_test {
        std::process::exit(1);
    }
}

/// CPU time of everything in this process but the devices and the thread that waits for them.
fn server_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to a place that is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let all = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
    let main = std::process::id().to_string();
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let others = tasks.filter(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        name.starts_with(DEVICES) || task.file_name().to_string_lossy() == main
    });
    let of = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default())
    };
    all.saturating_sub(others.map(of).sum())
}

/// Server CPU in microseconds of a read of one card, or of a durable batch that writes one row, with as many at once as
/// devices ask.
fn bare(runtime: &tokio::runtime::Runtime, platform: &Platform, cards: usize, durable: bool) -> f64 {
    let each = 10 * cards.div_ceil(ASKING_MAX);
    let before = server_cpu();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..ASKING_MAX {
            let core = platform.core.clone();
            tasks.spawn(async move {
                for n in 0..each {
                    let card = card((task + n * ASKING_MAX) % cards);
                    if durable {
                        let change = CardChange::RaiseCounter { key_set: 2, counter: n as u64 };
                        core.commit_card(&card, vec![Op::ChangeCard { card, change }]).await.unwrap();
                    } else {
                        assert!(core.store.card(card).await.unwrap().is_some());
                    }
                }
            });
        }
        tasks.join_all().await;
    });
    (server_cpu() - before).as_secs_f64() * 1e6 / (each * ASKING_MAX) as f64
}

fn iccid(n: usize) -> Iccid {
    Iccid::with_check_digit(&format!("894470000000{n:06}")).unwrap()
}

fn card(n: usize) -> CardId {
    iccid(n).into()
}

fn imsi(n: usize) -> Imsi {
    format!("0010100000{n:05}").parse().unwrap()
}

fn key(what: u8) -> Key {
    Key::new(&[what; 16]).unwrap()
}

/// The keys of all cards.
struct OneKeySet;

impl Keyring for OneKeySet {
    fn psk(&self, _card: &CardRecord) -> Result<Option<Psk>, KeyringError> {
        Ok(None)
    }

    fn psk_of_nobody(&self) {}

    fn ota_keys(&self, _record: &CardRecord) -> Result<Vec<CardKeySet>, KeyringError> {
        let keys = KeySet::new(Some(key(0x31)), Some(key(0x41)));
        Ok(vec![CardKeySet { index: 1, kic: Kic(0x12), kid: Kid(0x12), keys }])
    }
}

async fn start(store: Arc<dyn Store>, cards: usize) -> (Platform, Server) {
    fill(&*store, cards).await;
    let text = "[card_port]\nlisten = \"127.0.0.1:0\"\n[smpp]\nsource_address = \"500\"\n";
    let config = Config::parse(text).unwrap();
    let platform = Platform::start(config, store, Box::new(OneKeySet), None).await.unwrap();
    let register = MemoryRegister::new("register", "00101", 0);
    for n in 0..cards {
        let subscriber = Subscriber {
            card: card(n),
            imsi: imsi(n),
            algorithm: AuthenticationAlgorithm::Milenage,
            k: Secret::new(&K).unwrap(),
            opc: Secret::new(&OPC).unwrap(),
            msisdn: None,
        };
        register.provision(subscriber).await.unwrap();
    }
    let config = Entitlement {
        listen: "127.0.0.1:0".into(),
        address_burst: 0,
        imsi_burst: 1_000,
        ..Entitlement::default()
    };
    let vectors = Arc::new(OneRegister(Arc::new(register)));
    let service = Service::new(config, Clock::REAL, platform.deliveries.clone(), vectors);
    (platform, Server::start(service).await.unwrap())
}

async fn fill(store: &dyn Store, cards: usize) {
    let operator = DirectoryRow::Operator {
        id: OperatorId(1),
        tenant: TENANT,
        name: "operator".into(),
        settings: String::new(),
    };
    let rows = [
        DirectoryRow::Tenant { id: TENANT, name: "tenant".into() },
        operator,
        DirectoryRow::Profile { id: ProfileId(1), name: "standard".into(), text: STANDARD_TEXT.into() },
    ];
    let platform = store.acquire(Group::Platform, "bench").await.unwrap();
    store.commit(platform, Batch { ops: rows.into_iter().map(Op::PutDirectory).collect() }).await.unwrap();
    let now = Clock::REAL.now();
    for n in 0..cards {
        let id = card(n);
        let record = CardRecord {
            id,
            tenant: TENANT,
            iccid: Some(iccid(n)),
            eid: None,
            imsi: Some(imsi(n)),
            msisdn: None,
            psk_identity: iccid(n).to_string().into_bytes(),
            sealed: SealedKeys::default(),
        };
        let hot = CardHot {
            operator: OperatorId(1),
            profile: ProfileId(1),
            state: CardState::Active,
            device_kind: 0,
            tags: 0,
            last_update: Some(now),
            next_poll: EpochMs::from_seconds(now.seconds() + 86_400),
            applied: Applied::default(),
        };
        let put = Op::PutCard(Box::new(NewCard { record, hot, counters: vec![(1, 0)] }));
        let group = Group::Cards(Bucket::of(&id, BUCKETS).0 % GROUPS);
        let lease = store.acquire(group, "bench").await.unwrap();
        store.commit(lease, put.into()).await.unwrap();
        // The group of an alias is the store's business: one of them takes it.
        for group in (0..GROUPS).map(Group::Cards) {
            let lease = store.acquire(group, "bench").await.unwrap();
            let claim = Op::ClaimAlias { alias: Alias::Imsi(imsi(n)), card: id, from: None };
            let _ = store.commit(lease, claim.into()).await;
        }
    }
}

/// What the round writes into EF.CONFIGURATION.
fn written(round: usize) -> String {
    format!("{:02x}", round + 1).repeat(32)
}

/// A delivery for every card.
async fn request(platform: &Platform, cards: usize, round: usize) {
    let step =
        format!(r#"{{"do":{{"file_update":{{"path":"3F00/7F90/6F04","data":"{}"}}}}}}"#, written(round));
    let content = format!(r#"{{"repeatable":true,"variants":{{"*":[{step}]}}}}"#);
    for n in 0..cards {
        let wanted = Wanted {
            card: card(n),
            content: serde_json::from_str(&content).unwrap(),
            bearers: [Bearer::Ip].into_iter().collect(),
            urgency: Urgency::Normal,
            validity_s: None,
        };
        platform.deliveries.create(TENANT, wanted).await.unwrap();
    }
}

/// What the devices are to do; each is answered when all have done it.
enum Do {
    /// Ask what waits, and deal with it.
    Ask,
    /// So many exchanges with empty bodies.
    Nothing(u64),
    /// Look whether every card has what this round wrote.
    Check(usize),
}

/// All devices, on a thread of their own.
struct Fleet {
    wishes: mpsc::UnboundedSender<Do>,
    done: std::sync::mpsc::Receiver<()>,
}

impl Fleet {
    fn start(agents: usize, address: SocketAddr) -> Fleet {
        let (wishes, mut wanted) = mpsc::unbounded_channel();
        let (tell, done) = std::sync::mpsc::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut devices = Devices::new(agents, address);
                while let Some(wish) = wanted.recv().await {
                    match wish {
                        Do::Ask => devices.ask().await,
                        Do::Nothing(count) => devices.say_nothing(count).await,
                        Do::Check(round) => devices.check(round),
                    }
                    tell.send(()).unwrap();
                }
            });
        };
        std::thread::Builder::new().name(DEVICES.to_owned()).spawn(run).unwrap();
        Fleet { wishes, done }
    }

    fn wish(&self, wish: Do) {
        assert!(self.wishes.send(wish).is_ok());
        self.done.recv().unwrap();
    }

    fn ask(&self) {
        self.wish(Do::Ask);
    }

    fn say_nothing(&self, count: u64) {
        self.wish(Do::Nothing(count));
    }

    fn check(&self, round: usize) {
        self.wish(Do::Check(round));
    }
}

struct Around {
    n: usize,
    tell: mpsc::UnboundedSender<(usize, client::Event)>,
    networks: Networks,
}

impl Surroundings for Around {
    fn teller(&self) -> impl Fn(Event) + Send + Sync + 'static {
        |_| ()
    }

    fn networks(&self) -> &Networks {
        &self.networks
    }

    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn client_teller(&self) -> impl Fn(client::Event) + Send + Sync + 'static {
        let (n, tell) = (self.n, self.tell.clone());
        move |event| drop(tell.send((n, event)))
    }

    fn show(&self, _shown: Shown) {}
}

struct Agent {
    host: Host,
    card: SoftPort,
    around: Around,
}

impl Agent {
    /// Everything that there is to do until an answer is waited for.
    fn run(&mut self) {
        loop {
            let now = Clock::REAL.now();
            let Some(request) = self.host.next_request(now, &self.around) else { return };
            let event = match request {
                Request::Reset => self.card.reset().map(Event::CardReset),
                Request::Transmit(command) => {
                    let mut response = Vec::new();
                    self.card.transmit(&command, &mut response).map(|()| Event::CardAnswer(response))
                }
            };
            self.host.handle(now, event.unwrap());
        }
    }

    fn is_resting(&self) -> bool {
        let client = self.host.ip().unwrap().client();
        client.is_resting() && client.queues().inbound().is_empty() && client.queues().outbound().is_empty()
    }

    fn read(&mut self, command: &str) -> Vec<u8> {
        let mut response = Vec::new();
        self.card.transmit(&hex::decode(command).unwrap(), &mut response).unwrap();
        response
    }
}

struct Devices {
    agents: Vec<Agent>,
    told: mpsc::UnboundedReceiver<(usize, client::Event)>,
    transport: Transport,
}

impl Devices {
    fn new(count: usize, address: SocketAddr) -> Devices {
        let (tell, told) = mpsc::unbounded_channel();
        let transport = Transport::http(&format!("http://{address}/"), None).unwrap();
        let profile = Arc::new(Profile::standard());
        let agent = |n: usize| {
            let settings = Settings::of(Kind::Meter);
            let client_settings = ClientSettings {
                terminal_id: format!("35000000000{n:04}"),
                ..ClientSettings::of("127.0.0.1", &settings.imei)
            };
            let client = Client::new(Arc::new(client_settings), Queues::default());
            let ip = IpBearer::new(client, None, transport.clone(), Vec::new());
            let host = Host::new(Device::new(settings)).with_ip(ip);
            let card = Card::personalised(profile.clone(), &personalization(n));
            let card = SoftPort::volatile(card, Arc::new(NoChannels));
            Agent { host, card, around: Around { n, tell: tell.clone(), networks: Networks::default() } }
        };
        let agents = (0..count).map(agent).collect();
        Devices { agents, told, transport }
    }

    /// Every device asks, as many at a time as may, and is done when nothing is left in its queues.
    async fn ask(&mut self) {
        let mut waiting: VecDeque<usize> = (0..self.agents.len()).collect();
        let mut asking = 0;
        loop {
            while asking < ASKING_MAX
                && let Some(n) = waiting.pop_front()
            {
                self.begin(n);
                asking += 1;
            }
            if asking == 0 {
                return;
            }
            let (n, event) = self.told.recv().await.unwrap();
            assert!(!matches!(event, client::Event::Failed { .. }), "the server answers");
            let agent = &mut self.agents[n];
            agent.host.client(Clock::REAL.now(), event);
            agent.run();
            asking -= usize::from(agent.is_resting());
        }
    }

    fn begin(&mut self, n: usize) {
        let agent = &mut self.agents[n];
        let now = Clock::REAL.now();
        if agent.host.device().has_no_card() {
            // It asks when its card has started.
            agent.host.handle(now, Event::PowerOn);
        } else {
            agent.host.client(now, client::Event::Query(Reason::Asked));
        }
        agent.run();
    }

    async fn say_nothing(&mut self, count: u64) {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..ASKING_MAX as u64 {
            let transport = self.transport.clone();
            let own = count / ASKING_MAX as u64 + u64::from(task < count % ASKING_MAX as u64);
            tasks.spawn(async move {
                for _ in 0..own {
                    let request = HttpRequest {
                        id: 0,
                        method: Method::Post,
                        query: String::new(),
                        accept: "*/*",
                        content_type: "application/json",
                        cookie: None,
                        body: Vec::new(),
                    };
                    assert_eq!(transport.exchange(request).await.unwrap().status, 400);
                }
            });
        }
        tasks.join_all().await;
    }

    fn check(&mut self, round: usize) {
        for agent in &mut self.agents {
            let opened = agent.read("0070000001");
            let channel = opened[0];
            agent.read(&format!("0{channel}a4080c047f906f04"));
            let content = agent.read(&format!("0{channel}b0000020"));
            assert_eq!(hex::encode(&content[..32]), written(round));
            agent.read(&format!("007080{channel:02x}00"));
        }
    }
}

fn personalization(n: usize) -> Personalization {
    Personalization {
        iccid: iccid(n),
        eid: None,
        identity: Identity::milenage(imsi(n), &K, &OPC).unwrap(),
        msisdn: None,
        key_sets: vec![KeySetPersonalization {
            index: 1,
            kic: key(0x31),
            kid: key(0x41),
            kik: None,
            counter: Counter::ZERO,
        }],
        psk: None,
        adm1: Code::new([3; 8]),
        pin1: None,
        puk1: None,
        files: Vec::new(),
    }
}
