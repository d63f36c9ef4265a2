//! The embedded store: SQLite, one file and one writer per group, any number of readers.
//!
//! Every commit is durable on return (write-ahead log, `synchronous=FULL`), shared by all who wait for it. The
//! directory belongs to one process, by a lock on it.

mod apply;
mod cases;
mod codec;
mod read;
mod writer;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use simtide_protocol::ids::{Bucket, CardId, EpochMs};
use tokio::sync::{Semaphore, oneshot};

use self::codec::Read;
use self::read::Reads;
use self::writer::{Job, Writer};
use super::rules::{self, Layout};
use super::*;

/// Version of the tables; another one is refused.
const SCHEMA_VERSION: i64 = 2;
/// The tables.
const SCHEMA: &str = include_str!("schema.sql");
/// Reading connections per file at most, where the machine has so many processors; at least two. Whoever comes when all
/// are in use waits: a connection that is opened for one read costs many times the read.
const READERS_MAX: usize = 8;
/// Bytes of page cache of each connection, in KiB and negative as the engine wants it.
const CACHE_KIB: i32 = -16_384;

/// Settings of the embedded store.
#[derive(Debug, Clone)]
pub struct SqliteSettings {
    /// Directory of the files; made if it is not there.
    pub directory: PathBuf,
    /// Buckets of a store that is made new, a power of two; an existing store keeps its own.
    pub buckets: u16,
    /// Groups, and so files and writers, of a store that is made new, a power of two.
    pub groups: u16,
}

impl SqliteSettings {
    /// 64 buckets in 4 groups.
    pub fn new(directory: impl Into<PathBuf>) -> SqliteSettings {
        SqliteSettings { directory: directory.into(), buckets: 64, groups: 4 }
    }
}

/// The store. Call it from a Tokio runtime: reads run on its blocking threads, and short ones where they are asked for.
pub struct SqliteStore {
    layout: Layout,
    platform: Arc<GroupFile>,
    groups: Vec<Arc<GroupFile>>,
    short: ShortReads,
    reads: AtomicU64,
    batches: AtomicU64,
    /// Held as long as the store is.
    _lock: File,
}

/// Short reads that run on the runtime's own workers at this moment. One takes less than to wake another thread up, but it
/// may meet a disk that is slow: half of the workers are left to others.
#[derive(Default)]
struct ShortReads(AtomicUsize);

impl ShortReads {
    /// A place on the worker that asks, where one is left. None on a runtime of one thread.
    fn place(&self) -> Option<ShortRead<'_>> {
        let places = tokio::runtime::Handle::current().metrics().num_workers() / 2;
        let taken = self.0.fetch_add(1, Ordering::AcqRel);
        let place = ShortRead(self);
        (taken < places).then_some(place)
    }
}

struct ShortRead<'a>(&'a ShortReads);

impl Drop for ShortRead<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

struct GroupFile {
    path: PathBuf,
    layout: Layout,
    readers: Mutex<Vec<Connection>>,
    places: Arc<Semaphore>,
    writer: Writer,
    has_last_update_index: AtomicBool,
}

impl SqliteStore {
    /// Opens or makes the store.
    pub fn open(settings: &SqliteSettings) -> Result<SqliteStore, StoreError> {
        let directory = &settings.directory;
        let failed =
            |error: &dyn std::fmt::Display| StoreError::Failed(format!("{}: {error}", directory.display()));
        std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
        let lock = lock_directory(directory)?;
        let wanted = Layout::new(settings.buckets, settings.groups)?;
        let platform = directory.join("platform.db");
        let layout = prepare_file(&platform, wanted).map_err(|error| failed(&error))?;
        let layout = Layout::new(layout.buckets, layout.groups)?;
        let platform = GroupFile::open(platform, Group::Platform, layout)?;
        let groups = (0..layout.groups).map(|group| {
            let path = directory.join(format!("cards-{group}.db"));
            let found = prepare_file(&path, layout).map_err(|error| failed(&error))?;
            if found != layout {
                return Err(failed(&format!("{} belongs to another store", path.display())));
            }
            GroupFile::open(path, Group::Cards(group), layout)
        });
        let groups = groups.collect::<Result<_, _>>()?;
        Ok(SqliteStore {
            layout,
            platform,
            groups,
            short: ShortReads::default(),
            reads: AtomicU64::default(),
            batches: AtomicU64::default(),
            _lock: lock,
        })
    }

    /// Reads and batches since it was opened. For measurements.
    #[doc(hidden)]
    pub fn counts(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.batches.load(Ordering::Relaxed))
    }

    /// Names of the hot statements, the statements, and what the engine plans for each; a scan or a sort among them is
    /// a mistake that shows at millions of cards only.
    pub fn query_plans(&self) -> Result<Vec<(&'static str, String, &'static str)>, StoreError> {
        let Some(file) = self.groups.first() else { return Ok(Vec::new()) };
        let connection =
            open_connection(&file.path).map_err(|error| StoreError::Failed(error.to_string()))?;
        let plan = |sql: &str| -> rusqlite::Result<String> {
            connection.execute_batch(read::LAST_UPDATE_INDEX)?;
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            // Plans do not depend on the values, which stay unset.
            let lines = statement.raw_query().mapped(|row| row.get::<_, String>(3));
            Ok(lines.collect::<Result<Vec<_>, _>>()?.join("; "))
        };
        let failed = |error: rusqlite::Error| StoreError::Failed(error.to_string());
        let statements = read::hot_statements().into_iter();
        statements.map(|(name, sql, wanted)| Ok((name, plan(&sql).map_err(failed)?, wanted))).collect()
    }

    /// Runs a statement on a group's writer. For tests, which limit the pages of a file as a full disk would.
    #[doc(hidden)]
    pub async fn execute(&self, group: Group, sql: &'static str) -> Result<(), StoreError> {
        self.file(group)?.execute(sql).await
    }

    fn file(&self, group: Group) -> Result<&Arc<GroupFile>, StoreError> {
        match group {
            Group::Platform => Some(&self.platform),
            Group::Cards(place) => self.groups.get(usize::from(place)),
        }
        .ok_or(StoreError::Misuse("no such group"))
    }

    fn read<'a, T: Send + 'static>(
        &'a self,
        group: Group,
        work: impl FnOnce(&Reads<'_>) -> Read<T> + Send + 'static,
    ) -> Answer<'a, T> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move { self.file(group)?.clone().read(work).await })
    }

    /// A read of few rows by their keys: on the thread that asks, where that may be.
    fn read_few<'a, T: Send + 'static>(
        &'a self,
        group: Group,
        work: impl FnOnce(&Reads<'_>) -> Read<T> + Send + 'static,
    ) -> Answer<'a, T> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let file = self.file(group)?;
            let place = self.short.place().zip(file.places.clone().try_acquire_owned().ok());
            match place {
                Some(_place) => file.read_here(work),
                None => file.clone().read(work).await,
            }
        })
    }

    /// The same read in all card groups, joined by `join`.
    fn read_all<'a, T: Send + Default + 'static, W>(
        &'a self,
        work: W,
        mut join: impl FnMut(&mut T, T) + Send + 'a,
    ) -> Answer<'a, T>
    where
        W: Fn(&Reads<'_>) -> Read<T> + Send + Sync + 'static,
    {
        let work = Arc::new(work);
        Box::pin(async move {
            let mut sum = T::default();
            for file in &self.groups {
                let work = work.clone();
                join(&mut sum, file.clone().read(move |reads| work(reads)).await?);
            }
            Ok(sum)
        })
    }
}

impl GroupFile {
    fn open(path: PathBuf, group: Group, layout: Layout) -> Result<Arc<GroupFile>, StoreError> {
        let writer = Writer::start(&path, group, layout)?;
        let has_last_update_index = AtomicBool::new(false);
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let places = Arc::new(Semaphore::new(processors.clamp(2, READERS_MAX)));
        let readers = Mutex::default();
        Ok(Arc::new(GroupFile { path, layout, readers, places, writer, has_last_update_index }))
    }

    async fn read<T: Send + 'static>(
        self: Arc<GroupFile>,
        work: impl FnOnce(&Reads<'_>) -> Read<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|error| StoreError::Failed(error.to_string()))?;
        let join = tokio::task::spawn_blocking(move || {
            let result = self.read_here(work);
            drop(place);
            result
        });
        join.await.map_err(|error| StoreError::Failed(format!("a read ended early: {error}")))?
    }

    /// The caller has one of the places.
    fn read_here<T>(&self, work: impl FnOnce(&Reads<'_>) -> Read<T>) -> Result<T, StoreError> {
        let connection = self.reader()?;
        let result = work(&Reads { connection: &connection, layout: self.layout });
        self.give_back(connection);
        result.map_err(|fault| fault.to_store_error())
    }

    fn reader(&self) -> Result<Connection, StoreError> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.pragma_update(None, "cache_size", CACHE_KIB)?;
            keep_plans(&connection)?;
            connection.set_prepared_statement_cache_capacity(48);
            Ok(connection)
        };
        let failed = |error: rusqlite::Error| StoreError::Failed(format!("{}: {error}", self.path.display()));
        kept.map_or_else(open, Ok).map_err(failed)
    }

    fn give_back(&self, connection: Connection) {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Failed(format!("{}: the writer has ended", self.path.display()));
        let (reply, answer) = oneshot::channel();
        let jobs = self.writer.jobs().ok_or_else(gone)?;
        jobs.send(job(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn execute(&self, sql: &'static str) -> Result<(), StoreError> {
        self.ask(|reply| Job::Execute { sql, reply }).await
    }

    /// The order by last update costs an index that most stores never need.
    async fn ensure_last_update_index(self: &Arc<GroupFile>) -> Result<(), StoreError> {
        if self.has_last_update_index.load(Ordering::Acquire) {
            return Ok(());
        }
        let found = self.clone().read(|reads| read::has_last_update_index(reads.connection)).await?;
        if !found {
            tracing::info!(file = %self.path.display(), "making the index for the order by last update");
            self.execute(read::LAST_UPDATE_INDEX).await?;
        }
        self.has_last_update_index.store(true, Ordering::Release);
        Ok(())
    }
}

impl Store for SqliteStore {
    fn buckets(&self) -> u16 {
        self.layout.buckets
    }

    fn groups(&self) -> u16 {
        self.layout.groups
    }

    fn acquire<'a>(&'a self, group: Group, owner: &'a str) -> Answer<'a, Lease> {
        let owner = owner.to_owned();
        Box::pin(async move { self.file(group)?.ask(|reply| Job::Acquire { owner, reply }).await })
    }

    fn commit(&self, lease: Lease, batch: Batch) -> Answer<'_, Committed> {
        self.batches.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let file = self.file(lease.group)?;
            file.ask(|reply| Job::Commit { lease, batch, reply }).await
        })
    }

    fn card(&self, card: CardId) -> Answer<'_, Option<Card>> {
        self.read_few(self.layout.group_of(card), move |reads| reads.card(card))
    }

    fn standing(&self, card: CardId, case: Option<(CaseKind, u64)>) -> Answer<'_, Option<Standing>> {
        self.read_few(self.layout.group_of(card), move |reads| reads.standing(card, case))
    }

    fn find(&self, alias: Alias) -> Answer<'_, Option<CardId>> {
        self.read_few(self.layout.alias_group(&alias), move |reads| reads.find(&alias))
    }

    fn candidates(&self, query: CandidateQuery) -> Answer<'_, Page<Candidate>> {
        Box::pin(async move {
            rules::check_rows(query.rows_max)?;
            let file = self.file(self.layout.group(query.bucket))?;
            if query.order == Order::LastUpdate {
                file.ensure_last_update_index().await?;
            }
            file.clone().read(move |reads| reads.candidates(&query)).await
        })
    }

    fn cards(
        &self,
        bucket: Bucket,
        filter: CardFilter,
        after: Option<CardId>,
        rows_max: usize,
    ) -> Answer<'_, (Page<Candidate>, Option<CardId>)> {
        if let Err(error) = rules::check_rows(rows_max) {
            return Box::pin(std::future::ready(Err(error)));
        }
        self.read(self.layout.group(bucket), move |reads| reads.cards(bucket, &filter, after, rows_max))
    }

    fn card_counts(&self) -> Answer<'_, Vec<(Bucket, OperatorId, u64)>> {
        self.read_all(
            |reads| reads.card_counts(),
            |all: &mut Vec<_>, part| {
                all.extend(part);
                all.sort_unstable();
            },
        )
    }

    fn polls_due(&self, from: EpochMs, slot_ms: u64, slots: usize) -> Answer<'_, Vec<u64>> {
        if let Err(error) = rules::check_slots(from, slot_ms, slots) {
            return Box::pin(std::future::ready(Err(error)));
        }
        let work = move |reads: &Reads<'_>| {
            let mut counts = vec![0; slots];
            reads.polls_due(&reads.operators()?, from, slot_ms, &mut counts)?;
            Ok(counts)
        };
        self.read_all(work, move |all: &mut Vec<u64>, part| {
            all.resize(slots, 0);
            all.iter_mut().zip(part).for_each(|(sum, count)| *sum += count);
        })
    }

    fn exceptions(&self, query: ExceptionQuery) -> Answer<'_, Page<Exception>> {
        if let Err(error) = rules::check_rows(query.rows_max) {
            return Box::pin(std::future::ready(Err(error)));
        }
        self.read(self.layout.group(query.bucket), move |reads| reads.exceptions(&query))
    }

    fn open_packets(&self, card: CardId) -> Answer<'_, Vec<Packet>> {
        self.read_few(self.layout.group_of(card), move |reads| reads.open_packets(card))
    }

    fn packet(&self, key: PacketKey) -> Answer<'_, Option<Packet>> {
        self.read_few(self.layout.group_of(key.card), move |reads| reads.packet(key))
    }

    fn latest_packets(&self, card: CardId, key_set: u8, rows_max: usize) -> Answer<'_, Vec<Packet>> {
        self.read(self.layout.group_of(card), move |reads| reads.latest_packets(card, key_set, rows_max))
    }

    fn case(&self, kind: CaseKind, id: u64) -> Answer<'_, Option<CaseRow>> {
        Box::pin(async move {
            for group in (0..self.layout.groups).map(Group::Cards) {
                if let Some(row) = self.read_few(group, move |reads| reads.case(kind, id)).await? {
                    return Ok(Some(row));
                }
            }
            Ok(None)
        })
    }

    fn case_of(&self, card: CardId, kind: CaseKind, id: u64) -> Answer<'_, Option<CaseRow>> {
        self.read_few(self.layout.group_of(card), move |reads| reads.case_of(card, kind, id))
    }

    fn cases_of(&self, card: CardId, kind: CaseKind, rows_max: usize) -> Answer<'_, Vec<CaseRow>> {
        self.read(self.layout.group_of(card), move |reads| reads.cases_of(card, kind, rows_max))
    }

    fn cases(&self, query: CaseQuery) -> Answer<'_, Page<CaseRow>> {
        if let Err(error) = rules::check_rows(query.rows_max) {
            return Box::pin(std::future::ready(Err(error)));
        }
        self.read(self.layout.group(query.bucket), move |reads| reads.cases(&query))
    }

    fn identities(&self, card: CardId, rows_max: usize) -> Answer<'_, Vec<IdentityRow>> {
        self.read(self.layout.group_of(card), move |reads| reads.identities(card, rows_max))
    }

    fn packets(
        &self,
        bucket: Bucket,
        due: Option<EpochMs>,
        after: Option<PacketKey>,
        rows_max: usize,
    ) -> Answer<'_, Page<Packet>> {
        if let Err(error) = rules::check_rows(rows_max) {
            return Box::pin(std::future::ready(Err(error)));
        }
        self.read(self.layout.group(bucket), move |reads| reads.packets(bucket, due, after, rows_max))
    }

    fn history(&self, card: CardId, before: EpochMs, rows_max: usize) -> Answer<'_, Vec<HistoryLine>> {
        self.read(self.layout.group_of(card), move |reads| reads.history(card, before, rows_max))
    }

    fn cursors(&self, campaign: CampaignId) -> Answer<'_, Vec<(Bucket, OperatorId, Cursor)>> {
        self.read_all(
            move |reads| reads.cursors(campaign),
            |all: &mut Vec<_>, part| {
                all.extend(part);
                all.sort_by_key(|(bucket, operator, _)| (*bucket, *operator));
            },
        )
    }

    fn progress(&self, campaign: CampaignId) -> Answer<'_, Progress> {
        self.read_all(move |reads| reads.progress(campaign), |sum: &mut Progress, part| sum.add(&part))
    }

    fn campaigns(&self) -> Answer<'_, Vec<CampaignRecord>> {
        self.read(Group::Platform, |reads| reads.campaigns())
    }

    fn directory(&self) -> Answer<'_, Directory> {
        self.read(Group::Platform, |reads| reads.directory())
    }

    fn audit(&self, after: u64, rows_max: usize) -> Answer<'_, Vec<AuditRow>> {
        self.read(Group::Platform, move |reads| reads.audit(after, rows_max))
    }

    fn idempotency<'a>(&'a self, tenant: TenantId, key: &'a str) -> Answer<'a, Option<IdempotencyRow>> {
        let key = key.to_owned();
        self.read(Group::Platform, move |reads| reads.idempotency(tenant, &key))
    }

    fn import_job(&self, id: [u8; 32]) -> Answer<'_, Option<ImportJob>> {
        self.read(Group::Platform, move |reads| Ok(reads.import_jobs(Some(id), 1)?.pop()))
    }

    fn import_jobs(&self, rows_max: usize) -> Answer<'_, Vec<ImportJob>> {
        self.read(Group::Platform, move |reads| reads.import_jobs(None, rows_max))
    }
}

/// One process per directory: two writers on one file would each believe in their own epoch.
fn lock_directory(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("lock");
    let failed = |error: &dyn std::fmt::Display| StoreError::Failed(format!("{}: {error}", path.display()));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| failed(&error))?;
    // SAFETY: a system call on a descriptor that is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(failed(&"another process uses this store: stop it first"));
    }
    Ok(file)
}

/// Makes the tables where they are missing; answers the layout that the file was made with.
fn prepare_file(path: &Path, layout: Layout) -> rusqlite::Result<Layout> {
    let connection = open_connection(path)?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    connection.execute_batch(SCHEMA)?;
    let meta = |name: &str, value: i64| -> rusqlite::Result<i64> {
        connection
            .execute("INSERT OR IGNORE INTO meta (name, value) VALUES (?1, ?2)", params![name, value])?;
        connection.query_row("SELECT value FROM meta WHERE name = ?1", params![name], |row| row.get(0))
    };
    let version = meta("schema", SCHEMA_VERSION)?;
    let buckets = meta("buckets", i64::from(layout.buckets))?;
    let groups = meta("groups", i64::from(layout.groups))?;
    connection.execute_batch("COMMIT")?;
    let number =
        |value: i64| u16::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, value));
    if version != SCHEMA_VERSION {
        return Err(rusqlite::Error::IntegralValueOutOfRange(0, version));
    }
    Ok(Layout { buckets: number(buckets)?, groups: number(groups)? })
}

/// A connection that writes.
fn open_connection(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(30))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Checkpoints run in a thread of their own.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    keep_plans(&connection)?;
    Ok(connection)
}

/// Statements are planned once, not again for every value that is bound to them.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn half_of_the_workers_are_left_to_others() {
        let short = ShortReads::default();
        let (first, second) = (short.place(), short.place());
        assert!(first.is_some() && second.is_some() && short.place().is_none());
        drop(first);
        assert!(short.place().is_some());
    }

    #[tokio::test]
    async fn the_only_thread_of_a_runtime_reads_nothing_itself() {
        assert!(ShortReads::default().place().is_none());
    }
}
