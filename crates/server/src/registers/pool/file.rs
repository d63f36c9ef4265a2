//! The pool's file: one thread that writes, one transaction for everybody who waits, connections to read.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{mpsc, oneshot};

use super::super::RegisterError;
use crate::kill_point;

/// Work that waits for the writer at most; more callers wait for a place.
const JOBS_WAITING_MAX: usize = 4_096;
/// Jobs in one transaction at most.
const JOBS_PER_TRANSACTION_MAX: usize = 512;
/// Reading connections kept.
const READERS_KEPT_MAX: usize = 4;
/// Prepared statements kept.
const STATEMENTS_MAX: usize = 48;

const SCHEMA: &str = include_str!("schema.sql");

/// Runs inside the transaction; what it answers is told once the transaction is durable.
type Job = Box<dyn FnOnce(&Connection) -> Told + Send>;
/// Tells the caller; with a reason where the transaction may not be durable.
type Told = Box<dyn FnOnce(Result<(), String>) + Send>;

pub(super) struct PoolFile {
    path: std::path::PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    readers: Mutex<Vec<Connection>>,
}

/// What failed was rolled back: surely not done, and it may work later, as when the disk has room again.
pub(super) fn failed(error: impl std::fmt::Display) -> RegisterError {
    RegisterError::Unreachable(format!("the pool's file fails: {error}"))
}

impl PoolFile {
    pub(super) fn open(path: &Path) -> Result<PoolFile, RegisterError> {
        let connection = open_connection(path).map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        let (jobs, receiver) = mpsc::channel(JOBS_WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("pool".to_owned())
            .spawn(move || write_all(&connection, receiver))
            .map_err(failed)?;
        Ok(PoolFile {
            path: path.to_owned(),
            jobs: Some(jobs),
            thread: Some(thread),
            readers: Mutex::default(),
        })
    }

    /// Runs `work` in a transaction that is durable before this returns; what fails leaves nothing behind.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, RegisterError> + Send + 'static,
    ) -> Result<T, RegisterError> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = savepoint(connection, work);
            Box::new(move |durable| {
                let told = match durable {
                    Ok(()) => result,
                    Err(reason) => Err(RegisterError::Unknown(reason)),
                };
                // The caller may have gone.
                let _ = sender.send(told);
            })
        });
        let gone = || failed("it could not be made durable before; look at the disk and start again");
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())?
    }

    /// Reads, off the runtime's threads only where the file is slow: rows are few and indexed.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, RegisterError>,
    ) -> Result<T, RegisterError> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match kept {
            Some(connection) => connection,
            None => open_connection(&self.path).map_err(failed)?,
        };
        let result = work(&connection);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS_KEPT_MAX {
            readers.push(connection);
        }
        result
    }
}

impl Drop for PoolFile {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // What was queued is written; a thread that panicked has told nobody.
            let _ = thread.join();
        }
    }
}

fn open_connection(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Keys that were drawn for a change that ended must not stay in free pages.
    connection.pragma_update(None, "secure_delete", "ON")?;
    Ok(connection)
}

fn savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, RegisterError>,
) -> Result<T, RegisterError> {
    connection.execute_batch("SAVEPOINT job").map_err(failed)?;
    let result = work(connection);
    let end = if result.is_ok() { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" };
    connection.execute_batch(end).map_err(failed)?;
    result
}

fn write_all(connection: &Connection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.blocking_recv() {
        let begun = connection.execute_batch("BEGIN IMMEDIATE");
        let mut waiting = vec![first(connection)];
        while waiting.len() < JOBS_PER_TRANSACTION_MAX {
            let Ok(job) = jobs.try_recv() else { break };
            waiting.push(job(connection));
        }
        kill_point::reached("pool.commit.before");
        let durable = begun.and_then(|()| connection.execute_batch("COMMIT"));
        kill_point::reached("pool.commit.after");
        let reason = durable.err().map(|error| format!("the pool's file fails: {error}"));
        for told in waiting {
            told(reason.clone().map_or(Ok(()), Err));
        }
        if let Some(reason) = reason {
            // What a failed sync has kept is unknown: nothing more is written to this file.
            tracing::error!(%reason, "the pool of a register stops: look at its disk, then start again");
            return;
        }
    }
}
