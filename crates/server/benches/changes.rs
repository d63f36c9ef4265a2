//! Changes of operator, 10,000 open at once, on the embedded store with registers in memory: durable changes per second
//! beside the group-committed rate of the same run and the raw sync rate of the disk, what one change costs with few and
//! with many open, and what an open change takes on the disk.
//!
//! The real machine and the real store; the shell around them is the shortest that keeps its rule: one durable commit per
//! event, then the effects. `SIMTIDE_BENCH_CHANGES` sets the number. Fails beyond the limits.
//!
//! `cargo bench -p simtide-server --bench changes`

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark ends by it")]

use std::collections::VecDeque;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simtide_platform::card::{Applied, CardState};
use simtide_platform::subscription::{
    Bearer, CardSays, Change, Command as Wanted, ConsentRule, Event, Evidence, Identity, PacketKind, Request,
    SeenBy, Side, State, Terms, Verb, Way,
};
use simtide_protocol::ids::{Bucket, CardId, ChangeId, EpochMs, Iccid, Tar};
use simtide_server::registers::Register;
use simtide_server::registers::memory::MemoryRegister;
use simtide_server::store::rules::Layout;
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_server::store::*;

const CHANGES_DEFAULT: u32 = 10_000;
/// Changes that are led at the same time.
const CLIENTS: u32 = 256;
/// Durable changes against group-committed operations: a change has about ten durable steps.
const RATIO_MIN: f64 = 1.0 / 20.0;
/// A change with all others open against one with none.
const GROWTH_MAX: f64 = 1.5;
/// Bytes of an open change on the disk, with its packet, indexes and history.
const OPEN_BYTES_MAX: u64 = 4_096;
/// A vault's record of identity 2.
const SEALED_BYTES: usize = 110;

fn main() {
    // Run by `cargo test` as well: then small, to see that it works.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let wanted = std::env::var("SIMTIDE_BENCH_CHANGES").ok().and_then(|text| text.parse().ok());
    let changes = wanted.unwrap_or(if is_test { 600 } else { CHANGES_DEFAULT });
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fell_short = runtime.block_on(measure(directory.path(), changes));
    if fell_short && !is_test {
        std::process::exit(1);
    }
}

async fn measure(directory: &Path, changes: u32) -> bool {
    let mut fell_short = false;
    let mut verdict = |what: &str, found: f64, limit: f64, is_most: bool| {
        let wrong = if is_most { found > limit } else { found < limit };
        fell_short |= wrong;
        println!("{what}: {found:.3} (at {} {limit:.3})", if is_most { "most" } else { "least" });
    };
    let stage = Arc::new(Stage::open(&directory.join("data"), 3 * changes).await);
    let raw = raw_syncs(directory);
    let group_rate = stage.group_commits(changes).await;
    println!("raw syncs: {raw:.0}/s; group-committed operations, {CLIENTS} clients: {group_rate:.0}/s");

    // With nothing open: from the request to Done.
    let few = (changes / 5).max(CLIENTS.min(changes));
    let alone = stage.lead(0..few, State::Done).await;
    println!("{few} changes with no other open: {:.0}/s", f64::from(few) / alone.as_secs_f64());
    let before = stage.bytes();
    let opening = stage.lead(changes..2 * changes, State::Applied).await;
    let open = stage.count_open().await;
    assert_eq!(open, u64::from(changes));
    println!("a page of 100 of them took {:?}", stage.open_page().await);
    let open_bytes = stage.bytes().saturating_sub(before) / u64::from(changes);
    println!("{changes} changes opened and left open: {:.0}/s", f64::from(changes) / opening.as_secs_f64());
    let crowded = stage.lead(2 * changes..2 * changes + few, State::Done).await;
    let closing = stage.lead(changes..2 * changes, State::Done).await;
    println!(
        "{changes} open changes brought to their end: {:.0}/s",
        f64::from(changes) / closing.as_secs_f64()
    );
    assert_eq!(stage.count_open().await, 0);

    let whole = f64::from(changes) / (opening + closing).as_secs_f64();
    let steps = stage.commits.load(Ordering::Relaxed) as f64 / f64::from(changes + 2 * few);
    println!("durable changes: {whole:.0}/s, {steps:.1} commits each");
    verdict("durable changes per group-committed operation", whole / group_rate, RATIO_MIN, false);
    let growth = crowded.as_secs_f64() / alone.as_secs_f64();
    verdict(&format!("a change with {changes} open against one with none"), growth, GROWTH_MAX, true);
    verdict("bytes of an open change", open_bytes as f64, OPEN_BYTES_MAX as f64, true);
    fell_short
}

/// The store, the registers, and who asks them.
struct Stage {
    store: Arc<SqliteStore>,
    directory: std::path::PathBuf,
    layout: Layout,
    leases: Vec<Lease>,
    first: MemoryRegister,
    second: MemoryRegister,
    commits: AtomicU64,
}

fn card(number: u32) -> CardId {
    CardId::from(Iccid::with_check_digit(&format!("89882110000{number:07}")).unwrap())
}

impl Stage {
    async fn open(directory: &Path, cards: u32) -> Stage {
        let store = Arc::new(SqliteStore::open(&SqliteSettings::new(directory)).unwrap());
        let layout = Layout { buckets: store.buckets(), groups: store.groups() };
        let mut leases = Vec::new();
        for group in layout.card_groups() {
            let lease = store.acquire(group, "bench").await.unwrap();
            let of_group = (0..cards).map(card).filter(|card| layout.group_of(*card) == group);
            let ops: Vec<Op> = of_group.map(|id| Op::PutCard(Box::new(new_card(id)))).collect();
            for part in ops.chunks(BATCH_OPS_MAX) {
                store.commit(lease, Batch::from(part.to_vec())).await.unwrap();
            }
            leases.push(lease);
        }
        let (first, second) = registers(cards);
        let directory = directory.to_owned();
        Stage { store, directory, layout, leases, first, second, commits: AtomicU64::new(0) }
    }

    fn lease(&self, card: CardId) -> Lease {
        let group = self.layout.group_of(card);
        *self.leases.iter().find(|lease| lease.group == group).unwrap()
    }

    /// One small operation per commit, as many clients.
    async fn group_commits(self: &Arc<Stage>, changes: u32) -> f64 {
        let each = (changes * 10 / CLIENTS).max(4);
        let start = Instant::now();
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let stage = self.clone();
            clients.spawn(async move {
                for n in 0..each {
                    let card = card((client * each + n) % (3 * changes));
                    let at = EpochMs::from_seconds(1_700_000_000 + i64::from(n));
                    let op = Op::PollBegun { card, at, next_poll: at.plus_s(1_728_000) };
                    stage.store.commit(stage.lease(card), Batch::from(op)).await.unwrap();
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        f64::from(each * CLIENTS) / start.elapsed().as_secs_f64()
    }

    /// Leads the changes of these cards until they are in this state.
    async fn lead(self: &Arc<Stage>, cards: std::ops::Range<u32>, until: State) -> Duration {
        let start = Instant::now();
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let (stage, cards) = (self.clone(), cards.clone());
            clients.spawn(async move {
                for number in cards.skip(client as usize).step_by(CLIENTS as usize) {
                    stage.lead_one(number, until).await;
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        start.elapsed()
    }

    async fn lead_one(&self, number: u32, until: State) {
        let id = ChangeId(u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let now = EpochMs::from_seconds(1_700_000_000);
        let mut events: VecDeque<Event> = VecDeque::new();
        let mut row = match self.store.case(CaseKind::Change, id.0).await.unwrap() {
            // It was left open: the clock goes on.
            Some(row) => {
                events.push_back(Event::Tick);
                row
            }
            None => {
                let (change, commands) = Change::begin(now, request(number, id, now));
                let mut row = case_row(&change);
                self.commit(&mut row, &change, None, &commands, &mut events).await;
                self.effects(number, &change, commands, &mut events).await;
                row
            }
        };
        while let Some(event) = events.pop_front() {
            let mut change: Change = serde_json::from_slice(&row.body).unwrap();
            if change.state == until && until != State::Done {
                return;
            }
            // What waited is due.
            let now = if event == Event::Tick { change.due().unwrap_or(now) } else { now };
            let commands = change.handle(now, event);
            let version = row.version;
            self.commit(&mut row, &change, Some(version), &commands, &mut events).await;
            self.effects(number, &change, commands, &mut events).await;
        }
        let change: Change = serde_json::from_slice(&row.body).unwrap();
        assert_eq!(change.state, until, "{change:?}");
    }

    async fn commit(
        &self,
        row: &mut CaseRow,
        change: &Change,
        version_before: Option<u32>,
        commands: &[Wanted],
        events: &mut VecDeque<Event>,
    ) {
        row.version = version_before.unwrap_or(0) + 1;
        row.body = serde_json::to_vec(change).unwrap();
        (row.state, row.open, row.due) = (change.state.code(), change.is_open(), change.due());
        if change.identity.is_some() && row.sealed.is_empty() {
            row.sealed = vec![7; SEALED_BYTES];
        }
        let mut ops = vec![Op::PutCase { row: Box::new(row.clone()), version_before }];
        for command in commands {
            ops.extend(in_commit(change, command, &row.sealed));
        }
        let outcomes = self.store.commit(self.lease(row.card), Batch::from(ops)).await.unwrap().outcomes;
        self.commits.fetch_add(1, Ordering::Relaxed);
        assert_eq!(outcomes[0], Outcome::Done);
        for outcome in &outcomes[1..] {
            match outcome {
                Outcome::Counter(counter) => {
                    events.push_back(Event::Queued { kind: PacketKind::Personalization, counter: *counter });
                    let (kind, counter) = (PacketKind::Personalization, *counter);
                    events.push_back(Event::Proof { kind, counter, says: CardSays::Staged });
                }
                Outcome::Done => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn effects(
        &self,
        number: u32,
        change: &Change,
        commands: Vec<Wanted>,
        events: &mut VecDeque<Event>,
    ) {
        for command in commands {
            match command {
                Wanted::Reserve => {
                    let found = self.second.reserve(change.id, change.card).await.unwrap();
                    let identity = Identity { imsi: found.imsi, msisdn: found.msisdn };
                    let (change, card) = (found.change, None);
                    events.push_back(Event::Reserved { change, card, identity, owned: true, taken_by: None });
                }
                Wanted::Arm(imsi) => {
                    self.second.arm(change.id, imsi).await.unwrap();
                    events.push_back(Event::Did { verb: Verb::Arm, imsi });
                }
                Wanted::Watch(imsi) => {
                    let (known, attached) = (true, true);
                    events.push_back(Event::Seen { imsi, known, attached, by: SeenBy::Register });
                }
                Wanted::Withdraw(imsi) => {
                    self.first.withdraw(change.id, imsi).await.unwrap();
                    events.push_back(Event::Did { verb: Verb::Withdraw, imsi });
                }
                Wanted::Retire(imsi) => {
                    self.first.retire(change.id, imsi).await.unwrap();
                    events.push_back(Event::Did { verb: Verb::Retire, imsi });
                }
                Wanted::InformOperator1(notice) => events.push_back(Event::Acknowledged(notice)),
                command if command.is_in_commit() => {}
                Wanted::ForgetAliases { .. } => {}
                other => panic!("card {number}: {other:?}"),
            }
        }
    }

    async fn count_open(&self) -> u64 {
        let mut count = 0;
        for bucket in (0..self.layout.buckets).map(Bucket) {
            let mut query = CaseQuery::open(CaseKind::Change, bucket, PAGE_ROWS_MAX);
            loop {
                let page = self.store.cases(query).await.unwrap();
                count += page.rows.len() as u64;
                query.after = page.rows.last().map(|row| row.id);
                if page.end {
                    break;
                }
            }
        }
        count
    }

    async fn open_page(&self) -> Duration {
        let start = Instant::now();
        let query = CaseQuery::open(CaseKind::Change, Bucket(0), 100);
        self.store.cases(query).await.unwrap();
        start.elapsed()
    }

    /// Bytes of all files, after everything in the logs has been moved into them.
    fn bytes(&self) -> u64 {
        let files = std::fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path());
        let databases = files.filter(|path| path.extension().is_some_and(|extension| extension == "db"));
        databases
            .map(|path| {
                let connection = rusqlite::Connection::open(&path).unwrap();
                connection.busy_timeout(Duration::from_secs(10)).unwrap();
                let used = "SELECT (SELECT page_count FROM pragma_page_count) - \
                     (SELECT freelist_count FROM pragma_freelist_count)";
                let pages: i64 = connection.query_row(used, [], |row| row.get(0)).unwrap();
                let size: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
                (pages * size).cast_unsigned()
            })
            .sum()
    }
}

fn registers(cards: u32) -> (MemoryRegister, MemoryRegister) {
    (MemoryRegister::new("one", "00101", 0), MemoryRegister::new("two", "00102", cards))
}

fn in_commit(change: &Change, command: &Wanted, sealed: &[u8]) -> Option<Op> {
    let at = change.steps.last().map_or(EpochMs(0), |(at, _)| *at);
    match command {
        Wanted::SendPersonalization { validity_s, .. } => Some(Op::Command(Box::new(Command {
            card: change.card,
            key_set: 1,
            origin: Origin::Change(change.id),
            tar: Tar([0xB2, 0, 1]),
            spi: 0x1639,
            data: Vec::new(),
            at,
            deadline: at.plus_s(i64::from(*validity_s)),
        }))),
        Wanted::Adopt(identity) => {
            let subscription = SubscriptionChange {
                imsi: identity.imsi,
                msisdn: identity.msisdn,
                operator: OperatorId(change.to.operator),
                sealed_subscription: sealed.to_vec(),
                at,
                change: change.id,
            };
            let change_of_card = CardChange::Subscription(Box::new(subscription));
            Some(Op::ChangeCard { card: change.card, change: change_of_card })
        }
        _ => None,
    }
}

fn case_row(change: &Change) -> CaseRow {
    CaseRow {
        card: change.card,
        kind: CaseKind::Change,
        id: change.id.0,
        tenant: TenantId(1),
        at: change.began_at(),
        state: 0,
        open: true,
        due: None,
        version: 0,
        body: Vec::new(),
        sealed: Vec::new(),
    }
}

fn imsi_1(number: u32) -> simtide_protocol::ids::Imsi {
    format!("00101{number:010}").parse().unwrap()
}

fn request(number: u32, id: ChangeId, now: EpochMs) -> Request {
    let side = |operator: u32, name: &str| Side { operator, id_mno: name.into(), name: name.into() };
    Request {
        id,
        card: card(number),
        from: side(1, "Example One"),
        imsi: imsi_1(number),
        msisdn: Some(format!("43664{number:07}").parse().unwrap()),
        to: side(2, "Example Two"),
        terms: Terms {
            consent: ConsentRule::InformAfter,
            consent_within_s: 3_600,
            ask_user: false,
            guard_s: None,
            eap_aka_counts_as_seen: false,
            bearer: Bearer::Sms,
        },
        evidence: Evidence {
            agreed_at: now,
            way: Way::WebSite,
            token: "web site of operator two".into(),
            campaign: None,
            uplink_counter: None,
            reference: "contract 123456789".into(),
        },
    }
}

fn new_card(id: CardId) -> NewCard {
    let hot = CardHot {
        operator: OperatorId(1),
        profile: ProfileId(1),
        state: CardState::Active,
        device_kind: 0,
        tags: 0,
        last_update: None,
        next_poll: EpochMs::from_seconds(1_700_000_000),
        applied: Applied::default(),
    };
    let record = CardRecord {
        id,
        tenant: TenantId(1),
        iccid: id.iccid(),
        eid: None,
        imsi: None,
        msisdn: None,
        psk_identity: Vec::new(),
        sealed: SealedKeys { version: 1, ota: vec![1; 132], ..SealedKeys::default() },
    };
    NewCard { record, hot, counters: vec![(1, 0)] }
}

/// How often this disk can be asked to keep 4 KiB.
fn raw_syncs(directory: &Path) -> f64 {
    use std::os::fd::AsRawFd;
    let mut file = std::fs::File::create(directory.join("raw")).unwrap();
    file.write_all(&vec![0; 4_096 * 1_024]).unwrap();
    file.sync_all().unwrap();
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < Duration::from_secs(1) {
        file.seek(SeekFrom::Start(count % 1_024 * 4_096)).unwrap();
        file.write_all(&[count as u8; 4_096]).unwrap();
        // SAFETY: a system call on a descriptor that is open.
        assert_eq!(unsafe { libc::fdatasync(file.as_raw_fd()) }, 0);
        count += 1;
    }
    count as f64 / start.elapsed().as_secs_f64()
}
