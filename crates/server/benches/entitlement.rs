//! The entitlement server beside what it stands on, each ratio from the same run:
//!
//! | what | at least |
//! |---|---|
//! | all server cryptography of a full EAP-AKA | 20 times less CPU than hostapd with its authentication centre |
//! | a full EAP-AKA over HTTP with durable numbers | within 2x of two bare exchanges and one group-committed write |
//! | a delivery: query, both layers, proof | server CPU within 3x of the same exchanges with empty bodies |
//! | an authenticated idle client session | 2 KB |
//!
//! Clients share the machine with the server; where CPU is compared, only the server's threads are counted.
//!
//! `cargo bench -p simtide-server --bench entitlement`

#![allow(clippy::unwrap_used, reason = "a benchmark ends by it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use simtide_platform::subscription::{RegisterKind, RegisterSettings};
use simtide_protocol::aka::{self, AkaFunctions, Sqn, SqnArray, Vector};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::eap::peer::{CardAnswer, Command as Do, Event as Told, Identities, Peer};
use simtide_protocol::eap::server::{Command, Event, Fresh, Session, Settings};
use simtide_protocol::entitlement::{
    Authentication, Document, EapIdentity, OTA_APP_DEFAULT, OtaParameters, Request, relay,
};
use simtide_protocol::ids::{CardId, Iccid, Imsi, Tar};
use simtide_protocol::milenage::Milenage;
use simtide_protocol::scp80::{CommandHeader, Counter, Key, KeySet, Kic, Kid, Security, Spi, open, seal};
use simtide_protocol::second_layer::{
    Channel, Content, Downlink, ItemId, Known, RootKey, Side, Uplink, UplinkContent, Uplinks, Verdict,
};
use simtide_server::clock::Clock;
use simtide_server::entitlement::config::Entitlement;
use simtide_server::entitlement::service::Answer as Served;
use simtide_server::entitlement::source::{Answer, DeliverySource, MemorySource, PushAddress, Waiting};
use simtide_server::entitlement::vectors::OneRegister;
use simtide_server::entitlement::{Server, Service};
use simtide_server::registers::connect::Local;
use simtide_server::registers::memory::MemoryRegister;
use simtide_server::registers::{Register, Subscriber};
use zeroize::Zeroizing;

/// CPU of hostapd with its authentication centre per authentication: the lower end of what was measured elsewhere.
const HOSTAPD_US: f64 = 115.0;
const CRYPTOGRAPHY_RATIO_MIN: f64 = 20.0;
const AUTHENTICATION_RATIO_MAX: f64 = 2.0;
const DELIVERY_RATIO_MAX: f64 = 3.0;
const SESSION_BYTES_MAX: f64 = 2048.0;
/// Clients at the same time.
const CLIENTS: usize = 32;
const K: [u8; 16] = [0x11; 16];
const OPC: [u8; 16] = [0x22; 16];
/// Name of the server's threads.
const THREADS: &str = "entitlement";

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicI64 = AtomicI64::new(0);

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    // Run by `cargo test` as well: then small, to see that it works.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let scale = if is_test { 1 } else { 50 };
    let mut fell_short = false;
    let mut say = |what: &str, found: f64, limit: f64, is_least: bool, detail: String| {
        let holds = if is_least { found >= limit } else { found <= limit };
        fell_short |= !holds;
        let word = if is_least { "at least" } else { "at most" };
        println!("{what}: {found:.2} ({word} {limit}): {detail}{}", if holds { "" } else { "  FELL SHORT" });
    };
    let cpu_us = cryptography(400 * scale);
    let detail =
        format!("{cpu_us:.2} us of CPU against {HOSTAPD_US} us (figure of another run: hostapd is not here)");
    say("cryptography, times less than hostapd", HOSTAPD_US / cpu_us, CRYPTOGRAPHY_RATIO_MIN, true, detail);
    let (full, bare) = authentications(40 * scale);
    let detail = format!("{full:.0} authentications/s against {bare:.0}/s of two exchanges and a write");
    say("authentication over HTTP, ratio", bare / full, AUTHENTICATION_RATIO_MAX, false, detail);
    let agents = if is_test { 50 } else { 1_000 };
    let (delivery_us, empty_us) = deliveries(agents, if is_test { 2 } else { 10 });
    let detail = format!("{agents} devices, {delivery_us:.1} us of CPU against {empty_us:.1} us");
    say("delivery, ratio", delivery_us / empty_us, DELIVERY_RATIO_MAX, false, detail);
    let bytes = memory(if is_test { 200 } else { 20_000 });
    say("idle session, bytes", bytes, SESSION_BYTES_MAX, false, "token, keys, re-authentication".to_owned());
    if fell_short && !is_test {
        std::process::exit(1);
    }
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to a place that is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time of all threads of the server.
fn server_cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let ours = tasks.filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == THREADS)
    });
    ours.map(|task| cpu_of(&std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default())).sum()
}

fn cpu_of(schedstat: &str) -> Duration {
    Duration::from_nanos(schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or_default())
}

fn imsi(n: usize) -> Imsi {
    format!("0010100000{n:05}").parse().unwrap()
}

fn card(n: usize) -> CardId {
    Iccid::with_check_digit(&format!("894470000000{n:06}")).unwrap().into()
}

/// Vector, challenge, check of the answer, keys of both layers' second: everything that the server computes.
fn cryptography(rounds: usize) -> f64 {
    let identity = EapIdentity::root(&imsi(1), 2, false);
    let settings = Settings { network: "WLAN".into(), result_indication: false };
    let fresh = || Fresh {
        iv: [1; 16],
        nonce_s: [2; 16],
        notification_iv: [3; 16],
        pseudonym: Some("2a-pseudonym-of-usual-length-for-this-server@realm".into()),
        reauth_id: Some("4a-name-of-usual-length@realm".into()),
    };
    let mut response = None;
    let mut before = thread_cpu();
    for round in 0..=rounds {
        let mut session = Session::new(settings.clone());
        let Command::Draw { .. } = session.handle(Event::Begin(identity.clone())) else { unreachable!() };
        let milenage = Milenage::new(&K, &OPC);
        let vector = Vector::new(&milenage, [7; 16], Sqn::from_parts(9, 3), [0x80, 0]);
        let Command::Send(challenge) = session.handle(Event::Drawn(vector, fresh())) else { unreachable!() };
        // The same every time: made once, before the clock starts.
        let response = response.get_or_insert_with(|| {
            let mut peer = Peer::new(known(&identity), false, false, [1; 16], false);
            peer.handle(Told::Packet(challenge));
            let answer = milenage.f2345(&[7; 16]);
            let answer = CardAnswer::Success {
                res: answer.res.to_vec(),
                ck: Zeroizing::new(answer.ck),
                ik: Zeroizing::new(answer.ik),
            };
            let Do::Send(response) = peer.handle(Told::Card(answer)) else { unreachable!() };
            response
        });
        let Command::Succeed(success) = session.handle(Event::Packet(response.clone())) else {
            unreachable!()
        };
        let root = RootKey::from_emsk(&success.keys.emsk, identity.as_str(), "aes.example");
        std::hint::black_box(Channel::new(&root, Side::Server));
        if round == 0 {
            before = thread_cpu();
        }
    }
    (thread_cpu() - before).as_secs_f64() * 1e6 / rounds as f64
}

fn known(identity: &EapIdentity) -> Identities {
    Identities { permanent: identity.clone(), pseudonym: None, reauth: None }
}

fn config() -> Entitlement {
    Entitlement {
        listen: "127.0.0.1:0".into(),
        address_burst: 0,
        imsi_burst: 1_000_000,
        sessions_per_imsi_max: 1_000,
        ..Entitlement::default()
    }
}

/// A server on threads of its own.
struct Running {
    address: SocketAddr,
    _server: Server,
    _runtime: tokio::runtime::Runtime,
}

fn start(source: Arc<dyn DeliverySource>, register: Arc<dyn Register>) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(THREADS)
        .enable_all()
        .build()
        .unwrap();
    let service = Service::new(config(), Clock::REAL, source, Arc::new(OneRegister(register)));
    let server = runtime.block_on(Server::start(service)).unwrap();
    Running { address: server.address(), _server: server, _runtime: runtime }
}

fn provision(register: &dyn Register, n: usize) {
    let subscriber = Subscriber {
        card: card(n),
        imsi: imsi(n),
        algorithm: AuthenticationAlgorithm::Milenage,
        k: Secret::new(&K).unwrap(),
        opc: Secret::new(&OPC).unwrap(),
        msisdn: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(register.provision(subscriber)).unwrap();
}

/// A kept connection that speaks as little HTTP as possible.
struct Line(TcpStream);

impl Line {
    fn new(address: SocketAddr) -> Line {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Line(stream)
    }

    fn get(&mut self, query: &str) -> (String, Vec<u8>) {
        self.exchange(format!("GET /?{query} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes())
    }

    fn post(&mut self, kind: &str, cookie: &str, body: &[u8]) -> (String, Vec<u8>) {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncookie: {cookie}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.exchange([head.as_bytes(), body].concat())
    }

    fn exchange(&mut self, request: Vec<u8>) -> (String, Vec<u8>) {
        self.0.write_all(&request).unwrap();
        let mut bytes = Vec::new();
        let mut buffer = [0; 16_384];
        loop {
            let count = self.0.read(&mut buffer).unwrap();
            assert!(count > 0, "the server has closed the connection");
            bytes.extend_from_slice(&buffer[..count]);
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length: usize = header(&head, "content-length").parse().unwrap();
            if bytes.len() >= end + 4 + length {
                return (head, bytes.split_off(end + 4));
            }
        }
    }
}

fn header<'h>(head: &'h str, name: &str) -> &'h str {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_default()
}

/// A device with its card.
struct Device {
    request: Request,
    identity: EapIdentity,
    array: SqnArray,
    token: String,
    channel: Option<Channel>,
}

impl Device {
    fn new(n: usize) -> Device {
        let query = format!(
            "terminal_id=35000000000{n:05}&entitlement_version=8.0&terminal_vendor=v&terminal_model=m&\
             terminal_sw_version=s&app={OTA_APP_DEFAULT}&vers=0"
        );
        Device {
            request: Request::from_query(&query).unwrap(),
            identity: EapIdentity::root(&imsi(n), 2, false),
            array: SqnArray::default(),
            token: String::new(),
            channel: None,
        }
    }

    fn query(&self) -> String {
        let authentication = Authentication::Eap(self.identity.clone());
        Request { authentication, ..self.request.clone() }.to_query()
    }

    fn play(&mut self, peer: &mut Peer, packet: Vec<u8>) -> Vec<u8> {
        let Do::Authenticate { rand, autn } = peer.handle(Told::Packet(packet)) else {
            panic!("a challenge")
        };
        let milenage = Milenage::new(&K, &OPC);
        let aka::Outcome::Success(found) = aka::authenticate(&milenage, &mut self.array, &rand, &autn) else {
            panic!("a fresh number")
        };
        let (ck, ik) = (Zeroizing::new(found.ck), Zeroizing::new(found.ik));
        let answer = CardAnswer::Success { res: found.res.to_vec(), ck, ik };
        let Do::Send(response) = peer.handle(Told::Card(answer)) else { panic!("a response") };
        response
    }

    fn authenticate(&mut self, line: &mut Line) {
        let mut peer = Peer::new(known(&self.identity), false, false, [1; 16], false);
        let (head, body) = line.get(&self.query());
        let response = self.play(&mut peer, relay::from_body(&body).unwrap_or_else(|_| panic!("{head}")));
        let body = relay::to_body(&response);
        let kind = simtide_protocol::entitlement::RELAY_CONTENT_TYPE;
        let (head, body) = line.post(kind, header(&head, "set-cookie"), &body);
        let document = Document::from_bytes(&body).unwrap_or_else(|_| panic!("{head}"));
        self.authenticated(peer, &document);
    }

    fn authenticated(&mut self, peer: Peer, document: &Document) {
        let keys = peer.finish().unwrap().keys;
        let root = RootKey::from_emsk(&keys.emsk, self.identity.as_str(), "localhost");
        self.channel = Some(Channel::new(&root, Side::Device));
        self.token = document.token.as_ref().unwrap().token.clone();
    }

    fn exchange(&mut self, line: &mut Line, uplinks: &Uplinks) -> Downlink {
        let channel = self.channel.as_mut().unwrap();
        let message = channel.seal([9; 12], Content::Uplinks, &uplinks.to_json()).unwrap();
        let request = Request {
            authentication: Authentication::Token { token: self.token.clone(), imsi: None },
            ota_data: Some(message),
            ..self.request.clone()
        };
        let (head, body) = line.post("application/json", "", &request.to_json());
        let document = Document::from_bytes(&body).unwrap_or_else(|_| panic!("{head}"));
        let ota = OtaParameters::from_application(document.app(OTA_APP_DEFAULT).unwrap()).unwrap();
        let payload = self.channel.as_mut().unwrap().open(Content::Items, &ota.data.unwrap()).unwrap();
        Downlink::from_json(&payload).unwrap()
    }
}

/// Runs something on many connections at once; answers how often per second.
fn rate(address: SocketAddr, each: usize, work: impl Fn(usize, &mut Line) + Sync) -> f64 {
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let work = &work;
            scope.spawn(move || {
                let mut line = Line::new(address);
                (0..each).for_each(|round| work(client * each + round, &mut line));
            });
        }
    });
    (CLIENTS * each) as f64 / begun.elapsed().as_secs_f64()
}

/// Full authentications per second; and pairs of bare exchanges with a group-committed write each.
fn authentications(each: usize) -> (f64, f64) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let own = RegisterSettings { kind: RegisterKind::Own, ..RegisterSettings::default() };
    let centre = Local::open(&own, &folder.path().join("centre.db")).unwrap();
    (1..=CLIENTS).for_each(|n| provision(&*centre.register, n));
    let source = Arc::new(MemorySource::default());
    (1..=CLIENTS).for_each(|n| source.put_subscriber(imsi(n), card(n)));
    let running = start(source, centre.register.clone());
    let devices: Vec<_> = (1..=CLIENTS).map(|n| std::sync::Mutex::new(Device::new(n))).collect();
    let full = rate(running.address, each, |n, line| {
        devices[n / each].lock().unwrap().authenticate(line);
    });
    let commit = group_commit(&folder.path().join("log"));
    let bare = rate(running.address, each, |_, line| {
        assert!(line.get("").0.contains(" 400 "));
        assert!(line.post("application/json", "", b"{}").0.contains(" 400 "));
        let (done, told) = mpsc::channel();
        commit.send(done).unwrap();
        told.recv().unwrap();
    });
    (full, bare)
}

/// One writer: what waits is written and synced together, then everybody is told.
fn group_commit(path: &std::path::Path) -> mpsc::Sender<mpsc::Sender<()>> {
    let (wish, wishes) = mpsc::channel::<mpsc::Sender<()>>();
    let mut file = std::fs::File::create(path).unwrap();
    std::thread::spawn(move || {
        while let Ok(first) = wishes.recv() {
            let batch: Vec<_> = std::iter::once(first).chain(wishes.try_iter()).collect();
            file.write_all(&vec![0; 64 * batch.len()]).unwrap();
            file.sync_data().unwrap();
            batch.iter().for_each(|told| told.send(()).unwrap_or_default());
        }
    });
    wish
}

/// Seals when asked, as the secure element manager does, and opens what comes back.
struct Sealing {
    inner: MemorySource,
    keys: KeySet,
}

impl Sealing {
    fn header(counter: u64) -> CommandHeader {
        CommandHeader {
            security: Security { spi: Spi::new(0x16, 0x39), kic: Kic(0x12), kid: Kid(0x12) },
            tar: Tar([0xB0, 0, 0x10]),
            counter: Counter::new(counter).unwrap(),
        }
    }
}

impl DeliverySource for Sealing {
    fn subscriber(&self, imsi: Imsi) -> Answer<'_, Option<CardId>> {
        self.inner.subscriber(imsi)
    }

    fn waiting<'a>(&'a self, card: CardId, known: &'a Known) -> Answer<'a, Vec<Waiting>> {
        Box::pin(async move {
            let mut items = self.inner.waiting(card, known).await?;
            for item in &mut items {
                item.packet = seal(&Sealing::header(7), &self.keys, &item.packet).unwrap();
            }
            Ok(items)
        })
    }

    fn fetched(&self, card: CardId, items: Vec<ItemId>) -> Answer<'_, ()> {
        self.inner.fetched(card, items)
    }

    fn uplink(&self, card: CardId, uplink: UplinkContent) -> Answer<'_, Verdict> {
        if let UplinkContent::Proof { packet, .. } = &uplink {
            assert!(open(packet, &self.keys).is_ok(), "the proof opens");
        }
        self.inner.uplink(card, uplink)
    }

    fn push_address(&self, card: CardId, address: Option<PushAddress>) -> Answer<'_, ()> {
        self.inner.push_address(card, address)
    }
}

/// Server CPU of a delivery, and of as many exchanges with empty bodies, in microseconds.
fn deliveries(devices: usize, rounds: usize) -> (f64, f64) {
    let key = || Key::new(&[0x5A; 16]).ok();
    let keys = || KeySet::new(key(), key());
    let source = Arc::new(Sealing { inner: MemorySource::default(), keys: keys() });
    let register = MemoryRegister::new("register", "00101", 0);
    for n in 1..=devices {
        provision(&register, n);
        source.inner.put_subscriber(imsi(n), card(n));
    }
    let running = start(source.clone(), Arc::new(register));
    let mut line = Line::new(running.address);
    let mut all: Vec<Device> = (1..=devices).map(Device::new).collect();
    all.iter_mut().for_each(|device| device.authenticate(&mut line));
    let proof = |n: usize| seal(&Sealing::header(8 + n as u64), &keys(), &[0; 4]).unwrap();
    let mut spent = Duration::ZERO;
    for round in 0..rounds {
        let id: ItemId = format!("{round:016x}-1").parse().unwrap();
        for n in 1..=devices {
            let packet = vec![0x80; 200];
            let item = Waiting { id: id.clone(), packet, originating_address: None, proof_wanted: true };
            source.inner.put_waiting(card(n), item);
        }
        let before = server_cpu();
        for (n, device) in all.iter_mut().enumerate() {
            let items = device.exchange(&mut line, &Uplinks::default()).items;
            assert_eq!(items.len(), 1);
            let packet = proof(n + round * devices);
            let content =
                UplinkContent::Proof { id: Some(id.clone()), originating_address: "1234".into(), packet };
            let uplink = vec![Uplink { n: round as u64, content }];
            let answer = device
                .exchange(&mut line, &Uplinks { fetched: vec![id.clone()], uplink, ..Uplinks::default() });
            assert_eq!(answer.acknowledged[0].verdict, Verdict::Accepted);
        }
        spent += server_cpu() - before;
    }
    let count = (devices * rounds) as f64;
    let before = server_cpu();
    for _ in 0..devices * rounds {
        line.post("application/json", "", b"");
        line.post("application/json", "", b"");
    }
    let empty = server_cpu() - before;
    (spent.as_secs_f64() * 1e6 / count, empty.as_secs_f64() * 1e6 / count)
}

/// Bytes that a server keeps for a client that has authenticated and is silent.
fn memory(clients: usize) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let register = MemoryRegister::new("register", "00101", 0);
    let source = Arc::new(MemorySource::default());
    for n in 1..=clients {
        provision(&register, n);
        source.put_subscriber(imsi(n), card(n));
    }
    let service = Service::new(config(), Clock::REAL, source, Arc::new(OneRegister(Arc::new(register))));
    let before = ALLOCATED.load(Ordering::Relaxed);
    runtime.block_on(async {
        for n in 1..=clients {
            let mut device = Device::new(n);
            let mut peer = Peer::new(known(&device.identity), false, false, [1; 16], false);
            let request = Request::from_query(&device.query()).unwrap();
            let from = SocketAddr::from(([127, 0, 0, 1], 1)).ip();
            let Ok(Served::Relay(cookie, packet)) = service.ask(request, from, "localhost").await else {
                panic!("a challenge")
            };
            let response = device.play(&mut peer, packet);
            let Ok(Served::Document(_)) = service.relay(&cookie, response).await else {
                panic!("a document")
            };
        }
    });
    assert_eq!(service.tokens.count(), clients);
    (ALLOCATED.load(Ordering::Relaxed) - before) as f64 / clients as f64
}
