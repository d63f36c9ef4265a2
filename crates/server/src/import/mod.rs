//! Import of card vendor files: checked as a whole, then row by row into the store.
//!
//! A file is read twice. The first reading decides whether it is complete and readable at all, before anything is
//! stored; the second one stores it, in batches whose rows are settled in order, so that an interrupted import goes on
//! where it stopped. The same file again changes nothing. Whatever is refused is reported with its line and reason, and
//! does not keep the other rows out.

mod commit;
mod rows;

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use simtide_protocol::card_file::{self, FileError, Item, Reader, RowError};
use simtide_protocol::ids::{CardId, EpochMs, ProfileName};
use tokio::sync::mpsc;

use crate::registers::{Register, RegisterError};
use crate::store::*;
use crate::vault::{Vault, VaultError};

pub use commit::{Committer, Leased};

/// Rows of a batch.
const ROWS_PER_BATCH: usize = 4_096;
/// Batches that are parsed and sealed ahead of the store.
const BATCHES_AHEAD_MAX: usize = 2;
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1_024;
/// Refused rows that a report lists; more are only counted.
pub const REFUSALS_LISTED_MAX: usize = 10_000;
/// Rows whose ICCIDs are kept to find duplicates in a file; later ones are found in the store.
const DUPLICATES_ROWS_MAX: usize = 4_000_000;

/// What is imported, for whom.
#[derive(Clone)]
pub struct ImportSettings {
    /// Owner of the cards.
    pub tenant: TenantId,
    /// Network of their subscriptions.
    pub operator: OperatorId,
    /// Profile of rows where neither row nor header names one.
    pub profile: Option<ProfileName>,
    /// Date on which a card is expected whose row says nothing.
    pub first_poll: EpochMs,
    /// Campaign time, for the job's row.
    pub now: EpochMs,
    /// Where the subscriptions of the batch are written, with access: the operator's register.
    pub register: Option<Arc<dyn Register>>,
    /// Transport keys, and whether plain text is allowed.
    pub file: card_file::Settings,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImportProgress {
    /// Whether rows are being stored, or the file is still being checked.
    pub storing: bool,
    /// Bytes of the file read in this phase.
    pub bytes: u64,
    /// Bytes of the file.
    pub bytes_total: u64,
    /// Rows settled.
    pub rows: u64,
    /// Cards stored for the first time.
    pub imported: u64,
    /// Cards that were there with the same content.
    pub unchanged: u64,
    /// Rows refused.
    pub refused: u64,
}

/// A row that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Line in the file, from 1.
    pub line: u64,
    /// Which card, where the row could be read.
    pub card: Option<CardId>,
    /// Why.
    pub reason: RefusalReason,
}

/// Why a row was refused. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// The row itself.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The same card stands twice in the file.
    #[error("the same card stands in line {0} already")]
    Twice(u64),
    /// Something that must be unique belongs to another card.
    #[error("{what} belongs to card {owner} already")]
    Taken {
        /// What is shared; a key is named, never shown.
        what: &'static str,
        /// Whose it is.
        owner: CardId,
    },
    /// The card is there with other content.
    #[error(
        "the card is stored with other values: nothing was changed; change it through the API, or remove it first"
    )]
    Differs,
    /// The profile is not known.
    #[error("card profile {0} is not known: register it first")]
    UnknownProfile(String),
    /// No profile at all.
    #[error("no card profile: name one in the row, in the header or with the import")]
    NoProfile,
    /// The tenant has no room for another tag.
    #[error("tag {0} would be the tenant's 65th: use the existing ones")]
    TooManyTags(String),
    /// No room for another kind of device.
    #[error("device kind {0} would be the 256th: use the existing ones")]
    TooManyKinds(String),
    /// The register is to be written, and the row has not what it needs.
    #[error("a register needs IMSI, Ki and OPc of the card: the row has not all of them")]
    NoSubscription,
    /// The register has refused the subscription.
    #[error("the card is stored, its subscription is not in the register: {0}; import the file again then")]
    Register(RegisterError),
}

/// What came of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// SHA-256 of the file, which names the job.
    pub id: [u8; 32],
    /// Rows, refused ones included.
    pub rows: u64,
    /// Cards stored for the first time.
    pub imported: u64,
    /// Cards that were there with the same content.
    pub unchanged: u64,
    /// Rows refused.
    pub refused: u64,
    /// The first [`REFUSALS_LISTED_MAX`] of them, by line; those before a resumed row are in the earlier report.
    pub refusals: Vec<Refusal>,
    /// Columns of the file that mean nothing to us.
    pub columns_ignored: Vec<String>,
    /// Rows that an earlier, interrupted run had settled.
    pub resumed_after: u64,
}

/// Why a whole import failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is refused as a whole; nothing was stored.
    #[error("the file is refused, nothing was stored: {0}")]
    File(#[from] FileError),
    /// The file was changed between checking and storing.
    #[error("the file was changed while it was imported: import it again")]
    Changed,
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The register does not answer.
    #[error("{0}; then start the import again, it goes on where it stopped")]
    Register(RegisterError),
    /// A thread ended early.
    #[error("the import was interrupted: start it again, it goes on where it stopped")]
    Interrupted,
}

/// Imports one file.
pub struct Importer {
    store: Arc<dyn Store>,
    committer: Arc<dyn Committer>,
    vault: Arc<Vault>,
}

impl Importer {
    /// An importer that commits through `committer`, who holds the leases.
    pub fn new(store: Arc<dyn Store>, committer: Arc<dyn Committer>, vault: Arc<Vault>) -> Importer {
        Importer { store, committer, vault }
    }

    /// Checks the file, then stores its cards. `progress` is called after each step.
    ///
    /// One import at a time: two that store the same card at once would refuse each other's rows.
    pub async fn import(
        &self,
        path: &Path,
        settings: &ImportSettings,
        mut progress: impl FnMut(&ImportProgress),
    ) -> Result<ImportReport, ImportError> {
        let (id, bytes_total, columns_ignored) = self.check(path, settings, &mut progress).await?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fresh = ImportJob {
            id,
            tenant: settings.tenant,
            name,
            rows_settled: 0,
            imported: 0,
            unchanged: 0,
            refused: 0,
            finished: false,
            at: settings.now,
        };
        let job = self.store.import_job(id).await?.filter(|job| !job.finished).unwrap_or(fresh);
        let mut report =
            ImportReport { id, columns_ignored, resumed_after: job.rows_settled, ..ImportReport::default() };
        let (job, refusals) = self.store_rows(path, settings, job, bytes_total, &mut progress).await?;
        report.rows = job.rows_settled;
        report.imported = job.imported;
        report.unchanged = job.unchanged;
        report.refused = job.refused;
        report.refusals = refusals;
        Ok(report)
    }

    /// First reading: the whole file, nothing stored. Answers its hash, its length and the columns without meaning.
    async fn check(
        &self,
        path: &Path,
        settings: &ImportSettings,
        progress: &mut impl FnMut(&ImportProgress),
    ) -> Result<([u8; 32], u64, Vec<String>), ImportError> {
        let (sender, mut receiver) = mpsc::channel(16);
        let (path, file_settings) = (path.to_owned(), settings.file.clone());
        let work = tokio::task::spawn_blocking(move || {
            let mut reader = Reader::new(file_settings);
            let mut hash = Sha256::new();
            let mut state = ImportProgress::default();
            each_chunk(&path, |chunk, bytes_total| {
                hash.update(chunk);
                reader.feed(chunk);
                while let Some(item) = reader.next_item()? {
                    state.rows += 1;
                    state.refused += u64::from(matches!(item, Item::Refused { .. }));
                }
                state.bytes += chunk.len() as u64;
                state.bytes_total = bytes_total;
                // Progress is for people: one that nobody has taken is not missed.
                let _ = sender.try_send(state);
                Ok(())
            })?;
            reader.finish()?;
            let columns = reader.header().columns_ignored.clone();
            Ok::<_, ImportError>((hash.finalize().into(), state.bytes_total, columns))
        });
        while let Some(state) = receiver.recv().await {
            progress(&state);
        }
        work.await.map_err(|_| ImportError::Interrupted)?
    }

    /// Second reading: parsed and sealed on a thread, stored here.
    async fn store_rows(
        &self,
        path: &Path,
        settings: &ImportSettings,
        mut job: ImportJob,
        bytes_total: u64,
        progress: &mut impl FnMut(&ImportProgress),
    ) -> Result<(ImportJob, Vec<Refusal>), ImportError> {
        let (sender, mut receiver) = mpsc::channel(BATCHES_AHEAD_MAX);
        let parser = rows::Parser {
            vault: self.vault.clone(),
            tenant: settings.tenant,
            skip: job.rows_settled,
            with_subscriber: settings.register.is_some(),
            seen: HashMap::new(),
            items: 0,
        };
        let (file, file_settings, id) = (path.to_owned(), settings.file.clone(), job.id);
        let parsing = tokio::task::spawn_blocking(move || parser.run(&file, file_settings, id, &sender));
        let mut storing = commit::Storing::start(self, settings).await?;
        let mut refusals = Vec::new();
        while let Some(batch) = receiver.recv().await {
            let (rows, bytes) = (batch.rows.len() + batch.refusals.len(), batch.bytes);
            let mut refused = batch.refusals;
            let sums = storing.batch(batch.rows, &mut refused).await?;
            job.rows_settled += rows as u64;
            job.imported += sums.imported;
            job.unchanged += sums.unchanged;
            job.refused += refused.len() as u64;
            self.committer.commit(Group::Platform, vec![Op::PutImportJob(Box::new(job.clone()))]).await?;
            refused.sort_by_key(|refusal| refusal.line);
            refused.truncate(REFUSALS_LISTED_MAX.saturating_sub(refusals.len()));
            refusals.extend(refused);
            progress(&ImportProgress {
                storing: true,
                bytes,
                bytes_total,
                rows: job.rows_settled,
                imported: job.imported,
                unchanged: job.unchanged,
                refused: job.refused,
            });
        }
        parsing.await.map_err(|_| ImportError::Interrupted)??;
        job.finished = true;
        self.committer.commit(Group::Platform, vec![Op::PutImportJob(Box::new(job.clone()))]).await?;
        Ok((job, refusals))
    }
}

/// Reads a file in chunks; the second argument is its length.
fn each_chunk(
    path: &Path,
    mut work: impl FnMut(&[u8], u64) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let failed = |error| ImportError::Read { path: path.to_owned(), error };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    // The buffer has held keys.
    let mut buffer = zeroize::Zeroizing::new(vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(()),
            read => work(&buffer[..read], length)?,
        }
    }
}
