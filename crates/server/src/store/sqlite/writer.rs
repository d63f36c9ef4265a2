//! The writer of a group: one thread, one connection, one durable transaction for everybody who waits.
//!
//! While a transaction is being made durable, the next batches queue up and share the following one: the disk is
//! asked once for all of them. A failed write or sync is final: nothing is tried again on this file, because what a
//! failed sync has kept is unknown.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::apply::{Apply, ApplyFault, take_lease};
use super::open_connection;
use crate::kill_point;
use crate::store::rules::Layout;
use crate::store::*;

/// Batches that wait for a writer at most; more callers wait for a place.
pub(super) const JOBS_WAITING_MAX: usize = 4_096;
/// Batches in one transaction at most.
const JOBS_PER_TRANSACTION_MAX: usize = 1_024;
/// Operations in one transaction at most, so that a large import does not hold up everyone for long.
const OPS_PER_TRANSACTION_MAX: usize = 32_768;
/// Pages in the write-ahead log after which it is moved into the file, by a thread of its own. What was written meanwhile
/// the writer moves itself, so that the log begins again at its start.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Pages in the write-ahead log after which writer and readers wait for that: the log must not grow without end.
const CHECKPOINT_PAGES_MAX: u32 = 200_000;
/// Prepared statements kept.
const STATEMENTS_MAX: usize = 96;

/// What a writer is asked for.
pub(super) enum Job {
    Commit { lease: Lease, batch: Batch, reply: Reply },
    Acquire { owner: String, reply: oneshot::Sender<Result<Lease, StoreError>> },
    Execute { sql: &'static str, reply: oneshot::Sender<Result<(), StoreError>> },
}

/// Handle of the writer thread; it ends when the handle is dropped, after what was queued.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(path: &Path, group: Group, layout: Layout) -> Result<Writer, StoreError> {
        let failed =
            |error: &dyn std::fmt::Display| StoreError::Failed(format!("{}: {error}", path.display()));
        let connection = open_connection(path).map_err(|error| failed(&error))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let epoch = "SELECT coalesce(max(epoch), 0) FROM lease";
        let epoch: i64 = connection.query_row(epoch, [], |row| row.get(0)).map_err(|error| failed(&error))?;
        let checkpointer = open_connection(path).map_err(|error| failed(&error))?;
        let (jobs, receiver) = mpsc::channel(JOBS_WAITING_MAX);
        let (wake, woken) = std::sync::mpsc::sync_channel(1);
        let nearly_moved = Arc::new(AtomicBool::new(false));
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let path_name: Arc<str> = path.display().to_string().into();
        let state = State {
            connection,
            group,
            layout,
            epoch: epoch.cast_unsigned(),
            failed: None,
            wake,
            nearly_moved: nearly_moved.clone(),
            path: path_name.clone(),
        };
        let writer = std::thread::Builder::new()
            .name(format!("write {name}"))
            .spawn(move || state.run(receiver))
            .map_err(|error| failed(&error))?;
        let checkpointer = std::thread::Builder::new()
            .name(format!("checkpoint {name}"))
            .spawn(move || checkpoints(&checkpointer, &woken, &nearly_moved, &path_name))
            .map_err(|error| failed(&error))?;
        Ok(Writer { jobs: Some(jobs), threads: vec![writer, checkpointer] })
    }

    /// Where jobs are sent.
    pub(super) fn jobs(&self) -> Option<mpsc::Sender<Job>> {
        self.jobs.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; there is nothing left to do with it here.
            let _ = thread.join();
        }
    }
}

struct State {
    connection: Connection,
    group: Group,
    layout: Layout,
    epoch: u64,
    failed: Option<StoreError>,
    wake: std::sync::mpsc::SyncSender<()>,
    /// The log has been moved into the file but for what was written meanwhile.
    nearly_moved: Arc<AtomicBool>,
    path: Arc<str>,
}

type Reply = oneshot::Sender<Result<Committed, StoreError>>;
type Waiting = (Lease, Batch, Reply);

impl State {
    fn run(mut self, mut receiver: mpsc::Receiver<Job>) {
        while let Some(job) = receiver.blocking_recv() {
            let mut waiting = Vec::new();
            let mut ops = 0;
            let mut next = Some(job);
            while let Some(job) = next.take() {
                match job {
                    Job::Commit { lease, batch, reply } => {
                        ops += batch.ops.len();
                        waiting.push((lease, batch, reply));
                    }
                    other => {
                        self.commit(std::mem::take(&mut waiting));
                        self.serve(other);
                    }
                }
                if waiting.len() < JOBS_PER_TRANSACTION_MAX && ops < OPS_PER_TRANSACTION_MAX {
                    next = receiver.try_recv().ok();
                }
            }
            self.commit(waiting);
        }
    }

    fn serve(&mut self, job: Job) {
        let failed = self.failed.clone();
        match job {
            Job::Commit { .. } => {}
            Job::Acquire { owner, reply } => {
                let result = failed.map_or_else(|| self.acquire(&owner), Err);
                let _ = reply.send(result);
            }
            Job::Execute { sql, reply } => {
                let result = failed.map_or_else(
                    || self.connection.execute_batch(sql).map_err(|error| self.fail(&error)),
                    Err,
                );
                let _ = reply.send(result);
            }
        }
    }

    fn acquire(&mut self, owner: &str) -> Result<Lease, StoreError> {
        self.epoch = take_lease(&self.connection, owner).map_err(|error| self.fail(&error))?;
        Ok(Lease { group: self.group, epoch: self.epoch })
    }

    /// One transaction for all of them. A batch that is refused leaves, and the others start again without it.
    fn commit(&mut self, asked: Vec<Waiting>) {
        let mut waiting = Vec::with_capacity(asked.len());
        for (lease, batch, reply) in asked {
            match self.admit(lease, &batch) {
                Ok(()) => waiting.push((batch, reply)),
                Err(error) => answer(reply, Err(error)),
            }
        }
        while !waiting.is_empty() {
            match self.transaction(&waiting) {
                Ok(committed) => {
                    for ((_, reply), committed) in waiting.into_iter().zip(committed) {
                        answer(reply, Ok(committed));
                    }
                    self.keep_log_short();
                    return;
                }
                Err((Some(place), error)) => answer(waiting.remove(place).1, Err(error)),
                Err((None, error)) => {
                    for (_, reply) in waiting {
                        answer(reply, Err(error.clone()));
                    }
                    return;
                }
            }
        }
    }

    fn admit(&self, lease: Lease, batch: &Batch) -> Result<(), StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if lease.group != self.group || lease.epoch != self.epoch {
            return Err(StoreError::Fenced { group: lease.group, epoch: lease.epoch });
        }
        self.layout.check(self.group, batch)
    }

    /// Answers of all batches, or the error with the place of the batch whose fault it is.
    fn transaction(
        &mut self,
        waiting: &[(Batch, Reply)],
    ) -> Result<Vec<Committed>, (Option<usize>, StoreError)> {
        self.execute("BEGIN IMMEDIATE").map_err(|error| (None, error))?;
        let mut answers = Vec::with_capacity(waiting.len());
        for (place, (batch, _)) in waiting.iter().enumerate() {
            let applied = Apply { connection: &self.connection, layout: self.layout }.batch(batch);
            match applied {
                Ok(committed) => answers.push(committed),
                Err(ApplyFault::Batch(error)) => {
                    self.execute("ROLLBACK").map_err(|error| (None, error))?;
                    return Err((Some(place), error));
                }
                Err(ApplyFault::Engine(error)) => {
                    let error = self.fail(&error);
                    // Best effort: after a failure the file is not written any more, with or without this.
                    let _ = self.connection.execute_batch("ROLLBACK");
                    return Err((None, error));
                }
            }
        }
        kill_point::reached("commit.before");
        self.execute("COMMIT").map_err(|error| (None, error))?;
        kill_point::reached("commit.after");
        Ok(answers)
    }

    /// Between two transactions: a log that is moved as a whole begins again at its start, and its pages are written over.
    fn keep_log_short(&self) {
        if self.nearly_moved.swap(false, Ordering::AcqRel)
            && let Err(error) = checkpoint(&self.connection, "PASSIVE")
        {
            // The next transaction finds out whether the medium still takes it.
            tracing::warn!(file = %self.path, %error, "the log does not begin again");
        }
        // Full only while a checkpoint is already asked for.
        let _ = self.wake.try_send(());
    }

    fn execute(&mut self, sql: &str) -> Result<(), StoreError> {
        let result = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        result.map(|_| ()).map_err(|error| self.fail(&error))
    }

    fn fail(&mut self, error: &rusqlite::Error) -> StoreError {
        let error = StoreError::Failed(format!("{}: {error}", self.path));
        tracing::error!(file = %self.path, %error, "store failed; this server must end");
        self.failed.get_or_insert(error).clone()
    }
}

fn answer(reply: Reply, result: Result<Committed, StoreError>) {
    // Whoever asked may have gone; the commit stands.
    let _ = reply.send(result);
}

/// Moves the log into the file whenever it has grown, away from the writer.
fn checkpoints(
    connection: &Connection,
    woken: &std::sync::mpsc::Receiver<()>,
    nearly_moved: &AtomicBool,
    path: &str,
) {
    const PAUSE: Duration = Duration::from_millis(50);
    while woken.recv().is_ok() {
        match move_log(connection) {
            Ok(has_moved) => nearly_moved.store(has_moved, Ordering::Release),
            // The writer finds out by itself whether the medium still takes its commits.
            Err(error) => {
                tracing::warn!(file = %path, %error, "checkpoint failed, tried again after the next commit")
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether the log was long enough to be moved.
fn move_log(connection: &Connection) -> rusqlite::Result<bool> {
    let (in_log, _) = checkpoint(connection, "NOOP")?;
    if in_log < CHECKPOINT_PAGES {
        return Ok(false);
    }
    let (in_log, moved) = checkpoint(connection, "PASSIVE")?;
    if in_log > CHECKPOINT_PAGES_MAX && moved < in_log {
        checkpoint(connection, "RESTART")?;
    }
    Ok(true)
}

/// Pages in the log, and how many of them are in the file as well.
fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<(u32, u32)> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        // -1 while there is no log.
        let count = |place| row.get::<_, i64>(place).map(|count| u32::try_from(count).unwrap_or(0));
        Ok((count(1)?, count(2)?))
    })
}
