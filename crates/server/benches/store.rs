//! The embedded store beside what it stands on: durable polls by group commit against the raw sync rate of the disk,
//! import against the engine's own bulk rate, bytes per card, and a page of candidates while cards poll.
//!
//! Files lie in a folder of the build directory, on the same disk as the raw measurements of the same run.
//! `SIMTIDE_BENCH_CARDS` sets the number of cards. Fails below the limits.
//!
//! `cargo bench -p simtide-server --bench store`

#![allow(clippy::unwrap_used, reason = "a benchmark ends by it")]

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::types::Value;
use simtide_protocol::card_file::{
    self, CardRow, Format, KeyAlgorithm, KeySetRow, Secret, TransportKey, Writer, WriterSettings,
    key_check_value,
};
use simtide_protocol::ids::{CardId, EpochMs, Iccid};
use simtide_server::import::{Committer, ImportSettings, Importer, Leased};
use simtide_server::store::rules::Layout;
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_server::store::*;
use simtide_server::vault::{AlarmLimits, KeyFile, Vault, VaultSettings};

const CARDS_DEFAULT: u32 = 100_000;
/// Clients that wait for their poll to be durable.
const CLIENTS: usize = 256;
/// How long each rate is measured.
const MEASURED: Duration = Duration::from_secs(4);
/// Durable polls against raw syncs, at least.
const GROUP_COMMIT_RATIO_MIN: f64 = 2.5;
/// Import against the engine's bulk rate, at least.
const IMPORT_RATIO_MIN: f64 = 0.5;
/// A page of 1,000 candidates, 99 of 100, at most.
const PAGE_P99_MAX: Duration = Duration::from_millis(1);

/// What a run measures with, and whether it met its limits.
struct Run {
    cards: u32,
    measured: Duration,
    fell_short: bool,
}

fn main() {
    // Run by `cargo test` as well: then small, to see that it works.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let cards = std::env::var("SIMTIDE_BENCH_CARDS").ok().and_then(|text| text.parse().ok());
    let mut run = if is_test {
        Run { cards: 2_000, measured: Duration::from_millis(100), fell_short: false }
    } else {
        Run { cards: cards.unwrap_or(CARDS_DEFAULT), measured: MEASURED, fell_short: false }
    };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let data = directory.path().join("data");
    let import_rate = runtime.block_on(import(directory.path(), &data, run.cards));
    sizes(&data, run.cards);
    let bulk_rate = bulk(&data, &directory.path().join("bulk"), run.cards);
    run.verdict("import", import_rate, "cards/s", bulk_rate, "the engine's bulk rate", IMPORT_RATIO_MIN);
    runtime.block_on(polls(directory.path(), &data, &mut run));
    if run.fell_short && !is_test {
        std::process::exit(1);
    }
}

impl Run {
    fn verdict(&mut self, what: &str, rate: f64, unit: &str, base_rate: f64, base: &str, ratio_min: f64) {
        let ratio = rate / base_rate;
        self.fell_short |= ratio < ratio_min;
        println!("{what}: {rate:.0} {unit}, {base} {base_rate:.0}: ratio {ratio:.2} (at least {ratio_min})");
    }
}

fn row(number: u32) -> CardRow {
    let secret = |role: u32, length: usize| {
        let mut state = u64::from(number) << 8 | u64::from(role);
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect();
        Secret::new(&bytes).unwrap()
    };
    let mut row = CardRow::new(Iccid::with_check_digit(&format!("89882110000{number:07}")).unwrap());
    row.imsi = Some(format!("00101{number:010}").parse().unwrap());
    row.msisdn = Some(format!("43664{number:07}").parse().unwrap());
    row.ki = Some(secret(1, 16));
    row.opc = Some(secret(2, 16));
    row.key_sets = vec![KeySetRow {
        index: 1,
        kic: secret(3, 16),
        kic_algorithm: KeyAlgorithm::Aes,
        kid: secret(4, 16),
        kid_algorithm: KeyAlgorithm::Aes,
        kik: Some(secret(5, 16)),
        counter: 0,
    }];
    row.psk = Some(secret(6, 16));
    row.admin_code = Some(secret(7, 8));
    row.next_poll = Some(EpochMs::from_seconds(
        1_700_000_000 + i64::from(number.wrapping_mul(2_654_435_761) % 1_728_000),
    ));
    row
}

async fn import(directory: &Path, data: &Path, cards: u32) -> f64 {
    let key = Secret::new(&[7; 16]).unwrap();
    let transport_key = TransportKey::combine(1, std::slice::from_ref(&key), &key_check_value(&key)).unwrap();
    let writer = Writer::new(
        Format::Csv,
        WriterSettings {
            profile: Some("standard".parse().unwrap()),
            quantity: u64::from(cards),
            columns: Writer::all_columns(1),
            transport_key: Some(transport_key.clone()),
            ..WriterSettings::default()
        },
    );
    let path = directory.join("cards.csv");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    file.write_all(writer.header().as_bytes()).unwrap();
    for number in 0..cards {
        file.write_all(writer.row(&row(number)).unwrap().as_bytes()).unwrap();
    }
    file.into_inner().unwrap().sync_all().unwrap();

    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&SqliteSettings::new(data)).unwrap());
    let committer = Arc::new(Leased::take(store.clone(), "bench").await.unwrap());
    let profile = DirectoryRow::Profile { id: ProfileId(1), name: "standard".into(), text: String::new() };
    committer.commit(Group::Platform, vec![Op::PutDirectory(profile)]).await.unwrap();
    let keys = KeyFile::open_or_make(&directory.join("key")).unwrap();
    let keystore = directory.join("keystore.json");
    let vault = Vault::open(&keys, &VaultSettings { keystore, limits: AlarmLimits::default() }).unwrap();
    let settings = ImportSettings {
        tenant: TenantId(1),
        operator: OperatorId(1),
        register: None,
        profile: None,
        first_poll: EpochMs(0),
        now: EpochMs(0),
        file: card_file::Settings { transport_keys: vec![transport_key], ..card_file::Settings::default() },
    };
    let start = Instant::now();
    let importer = Importer::new(store, committer, Arc::new(vault));
    let report = importer.import(&path, &settings, |_| {}).await.unwrap();
    assert_eq!((report.imported, report.refused), (u64::from(cards), 0));
    f64::from(cards) / start.elapsed().as_secs_f64()
}

const TABLES: [&str; 4] = ["card", "card_hot", "card_counter", "card_alias"];

fn card_files(data: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with("cards-") && name.ends_with(".db")
        })
        .collect();
    files.sort();
    files
}

/// Bytes per card, by table; the store is closed, so that everything is in the files.
fn sizes(data: &Path, cards: u32) {
    let mut by_name: std::collections::BTreeMap<String, i64> = std::collections::BTreeMap::new();
    for path in card_files(data) {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        let mut statement = connection.prepare("SELECT name, sum(pgsize) FROM dbstat GROUP BY name").unwrap();
        let rows =
            statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
        for (name, bytes) in rows.map(Result::unwrap) {
            *by_name.entry(name).or_default() += bytes;
        }
    }
    let per_card = |bytes: i64| bytes as f64 / f64::from(cards);
    let total: i64 = by_name.values().sum();
    println!("bytes per card: {:.0}", per_card(total));
    for (name, bytes) in by_name.iter().filter(|(_, bytes)| per_card(**bytes) >= 1.0) {
        println!("  {name}: {:.0}", per_card(*bytes));
    }
}

/// The same rows into the same tables, straight through the engine: a thread per file, 4,096 rows a transaction.
fn bulk(data: &Path, copy: &Path, cards: u32) -> f64 {
    std::fs::create_dir_all(copy).unwrap();
    type Rows = Vec<(usize, Vec<Value>)>;
    let sources: Vec<(std::path::PathBuf, Vec<String>, Rows)> = card_files(data)
        .into_iter()
        .map(|path| {
            let connection = rusqlite::Connection::open(&path).unwrap();
            let mut schema = connection
                .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
                .unwrap();
            let schema = schema.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            let mut rows: Rows = Vec::new();
            for (table, name) in TABLES.iter().enumerate() {
                let mut statement = connection.prepare(&format!("SELECT * FROM {name}")).unwrap();
                let width = statement.column_count();
                let found = statement
                    .query_map([], |row| {
                        (0..width).map(|place| row.get(place)).collect::<Result<Vec<Value>, _>>()
                    })
                    .unwrap();
                rows.extend(found.map(|row| (table, row.unwrap())));
            }
            // As a file brings them: in no order of the keys.
            let mut dice = 1_u64;
            for place in (1..rows.len()).rev() {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                rows.swap(place, (dice >> 33) as usize % (place + 1));
            }
            (copy.join(path.file_name().unwrap()), schema, rows)
        })
        .collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for (path, schema, rows) in &sources {
            scope.spawn(move || {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.pragma_update(None, "journal_mode", "WAL").unwrap();
                connection.pragma_update(None, "synchronous", "FULL").unwrap();
                connection.execute_batch(&schema.join(";")).unwrap();
                for part in rows.chunks(4_096 * 9) {
                    connection.execute_batch("BEGIN").unwrap();
                    for (table, values) in part {
                        let marks = vec!["?"; values.len()].join(",");
                        let sql = format!("INSERT INTO {} VALUES ({marks})", TABLES[*table]);
                        let mut statement = connection.prepare_cached(&sql).unwrap();
                        statement.execute(rusqlite::params_from_iter(values)).unwrap();
                    }
                    connection.execute_batch("COMMIT").unwrap();
                }
            });
        }
    });
    f64::from(cards) / start.elapsed().as_secs_f64()
}

/// How often this disk can be asked to keep 4 KiB.
fn raw_syncs(directory: &Path, measured: Duration) -> f64 {
    use std::os::fd::AsRawFd;
    let path = directory.join("raw");
    let mut file = std::fs::File::create(&path).unwrap();
    // Written once before, as a log that is used again is.
    file.write_all(&vec![0; 4_096 * 1_024]).unwrap();
    file.sync_all().unwrap();
    let (start, mut count) = (Instant::now(), 0_u64);
    while start.elapsed() < measured / 2 {
        file.seek(SeekFrom::Start(count % 1_024 * 4_096)).unwrap();
        file.write_all(&[count as u8; 4_096]).unwrap();
        // SAFETY: a system call on a descriptor that is open.
        assert_eq!(unsafe { libc::fdatasync(file.as_raw_fd()) }, 0);
        count += 1;
    }
    count as f64 / start.elapsed().as_secs_f64()
}

async fn polls(directory: &Path, data: &Path, run: &mut Run) {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&SqliteSettings::new(data)).unwrap());
    let layout = Layout { buckets: store.buckets(), groups: store.groups() };
    let mut leases = Vec::new();
    for group in layout.card_groups() {
        leases.push(store.acquire(group, "bench").await.unwrap());
    }
    let (cards, measured) = (run.cards, run.measured);
    let before = raw_syncs(directory, measured);
    let (count, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (store, count, leases) = (store.clone(), count.clone(), leases.clone());
        clients.spawn(async move {
            let mut number = client as u32;
            while start.elapsed() < measured {
                let card = CardId::from(
                    Iccid::with_check_digit(&format!("89882110000{:07}", number % cards)).unwrap(),
                );
                number = number.wrapping_add(CLIENTS as u32);
                let lease = leases.iter().find(|lease| lease.group == layout.group_of(card)).unwrap();
                let at = EpochMs::from_seconds(1_700_000_000 + i64::from(number));
                let op = Op::PollBegun { card, at, next_poll: at.plus_s(1_728_000) };
                let committed = store.commit(*lease, Batch::from(op)).await.unwrap();
                assert_eq!(committed.outcomes, [Outcome::Done]);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut pages = pages(&*store, layout, start, measured).await;
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let rate = count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    let raw = (before + raw_syncs(directory, measured)) / 2.0;
    let what = format!("durable polls, {CLIENTS} clients");
    run.verdict(&what, rate, "polls/s", raw, "raw syncs/s", GROUP_COMMIT_RATIO_MIN);
    pages.sort_unstable();
    let (median, p99) = (pages[pages.len() / 2], pages[pages.len() * 99 / 100]);
    run.fell_short |= p99 > PAGE_P99_MAX;
    println!(
        "page of 1,000 candidates during these polls: {median:?}, p99 {p99:?}, at most {PAGE_P99_MAX:?}"
    );
}

async fn pages(store: &dyn Store, layout: Layout, start: Instant, measured: Duration) -> Vec<Duration> {
    let mut took = Vec::new();
    let mut below = None;
    let mut bucket = 0;
    while start.elapsed() < measured {
        let query = CandidateQuery {
            bucket: simtide_protocol::ids::Bucket(bucket),
            operator: OperatorId(1),
            order: Order::NextPoll,
            below,
            rows_max: PAGE_ROWS_MAX,
        };
        let begun = Instant::now();
        let page = store.candidates(query).await.unwrap();
        took.push(begun.elapsed());
        let last = page.rows.last().map(|last| Position { key: last.hot.next_poll, card: last.card });
        below = last.filter(|_| !page.end);
        if below.is_none() {
            bucket = (bucket + 1) % layout.buckets;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took
}
