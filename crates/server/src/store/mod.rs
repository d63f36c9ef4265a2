//! The store boundary: reads are pages, and there is one write verb.
//!
//! The trait is batch-first and bucket-first and has no SQL in its signatures, so that an embedded engine, a database
//! server and an in-memory model stand behind it alike and pass the same conformance suite.
//!
//! Architecture Invariant: cryptography and decisions stay outside. The store gives counters, keeps order and
//! answers what it found; what follows is decided by `simtide_platform`.

pub mod batch;
pub mod cases;
pub mod model;
mod progress;
pub mod rules;
pub mod sqlite;
pub mod types;

use std::future::Future;
use std::pin::Pin;

use simtide_platform::card::CardState;
use simtide_protocol::ids::{Bucket, CardId, EpochMs};

pub use batch::*;
pub use cases::*;
pub use progress::Progress;
pub use types::*;

/// Rows of a page at most.
pub const PAGE_ROWS_MAX: usize = 1_000;
/// Buckets at most.
pub const BUCKETS_MAX: u16 = 4_096;

/// What every call of the store returns.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another owner holds the group now. This process must stop deciding for it.
    #[error("lease of {group:?} is no longer ours (epoch {epoch}): another server has taken it over")]
    Fenced {
        /// The group.
        group: Group,
        /// The epoch that was offered.
        epoch: u64,
    },
    /// A row of another group in the batch, or a limit exceeded: a mistake of the caller.
    #[error("batch refused: {0}")]
    Misuse(&'static str),
    /// The medium failed. Nothing is written any more; the process must end and be started again after repair.
    #[error(
        "store failed, nothing is written any more: {0}; repair the medium (space, disk) and start again"
    )]
    Failed(String),
    /// Something that is not kept here did not answer.
    #[error("not possible now: {0}")]
    Elsewhere(String),
    /// A row cannot be read.
    #[error("row cannot be read: {0}; the card is left alone, restore it from a backup")]
    Corrupt(String),
}

/// Candidates of one bucket and operator, latest first, below a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CandidateQuery {
    /// The bucket.
    pub bucket: Bucket,
    /// The operator.
    pub operator: OperatorId,
    /// The order.
    pub order: Order,
    /// `None`: from the top.
    pub below: Option<Position>,
    /// At most so many, 1..=[`PAGE_ROWS_MAX`].
    pub rows_max: usize,
}

/// Some rows, and whether more follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Nothing follows.
    pub end: bool,
}

/// Where a card stands at one moment: what every step on it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The card.
    pub card: Card,
    /// Its open packets, oldest counter first.
    pub open: Vec<Packet>,
    /// The case that was asked for, if it is there and this card's.
    pub case: Option<CaseRow>,
}

/// Which cards a list shows; `None` and 0 do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CardFilter {
    /// Network of the active subscription.
    pub operator: Option<OperatorId>,
    /// Card profile.
    pub profile: Option<ProfileId>,
    /// State.
    pub state: Option<CardState>,
    /// All of these tags.
    pub tags: u64,
    /// Expected before this time.
    pub next_poll_before: Option<EpochMs>,
}

/// Bounds of a bucket's exceptions that are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExceptionQuery {
    /// The bucket.
    pub bucket: Bucket,
    /// The campaign.
    pub campaign: CampaignId,
    /// Only rows in this status.
    pub status: ExceptionStatus,
    /// Only rows with `retry_at` up to this time; `None`: all of the status.
    pub due: Option<EpochMs>,
    /// Only rows after this (`retry_at`, card); a row without `retry_at` has the key [`NEVER_MS`].
    pub after: Option<Position>,
    /// At most so many, 1..=[`PAGE_ROWS_MAX`].
    pub rows_max: usize,
}

/// The store. All reads see what was committed before they began.
pub trait Store: Send + Sync {
    /// Number of buckets, a power of two fixed at creation.
    fn buckets(&self) -> u16;
    /// Number of card groups; bucket b is in `Group::Cards(b % groups)`.
    fn groups(&self) -> u16;
    /// Takes the group over: every lease given before is fenced off from now on.
    fn acquire<'a>(&'a self, group: Group, owner: &'a str) -> Answer<'a, Lease>;
    /// Writes; durable on return, all or nothing.
    fn commit(&self, lease: Lease, batch: Batch) -> Answer<'_, Committed>;

    /// One card with everything that serving it needs.
    fn card(&self, card: CardId) -> Answer<'_, Option<Card>>;
    /// One card with its open packets and one of its cases, all of the same moment.
    fn standing(&self, card: CardId, case: Option<(CaseKind, u64)>) -> Answer<'_, Option<Standing>>;
    /// Whose alias it is.
    fn find(&self, alias: Alias) -> Answer<'_, Option<CardId>>;
    /// Next candidates of a campaign.
    fn candidates(&self, query: CandidateQuery) -> Answer<'_, Page<Candidate>>;
    /// Cards in the order of their ids within a bucket, after a card. A page may hold fewer rows than asked for, even
    /// none, before the end: the number of cards examined per call is bounded; `Page::end` says, and the last element
    /// answers where to go on.
    fn cards(
        &self,
        bucket: Bucket,
        filter: CardFilter,
        after: Option<CardId>,
        rows_max: usize,
    ) -> Answer<'_, (Page<Candidate>, Option<CardId>)>;
    /// Number of cards per (bucket, operator); read at start, not for every request.
    fn card_counts(&self) -> Answer<'_, Vec<(Bucket, OperatorId, u64)>>;
    /// How many cards are expected per slot of `slot_ms` from `from` on, `slots` of them, over all buckets.
    fn polls_due(&self, from: EpochMs, slot_ms: u64, slots: usize) -> Answer<'_, Vec<u64>>;
    /// Exceptions of a campaign in a bucket, by rising `retry_at` and card.
    fn exceptions(&self, query: ExceptionQuery) -> Answer<'_, Page<Exception>>;
    /// Open packets of a card, oldest counter first.
    fn open_packets(&self, card: CardId) -> Answer<'_, Vec<Packet>>;
    /// One packet.
    fn packet(&self, key: PacketKey) -> Answer<'_, Option<Packet>>;
    /// The packets of a card with the highest counters of a key set, highest first, closed ones too: a proof may come for a
    /// packet that was given up.
    fn latest_packets(&self, card: CardId, key_set: u8, rows_max: usize) -> Answer<'_, Vec<Packet>>;
    /// One case, whatever its card.
    fn case(&self, kind: CaseKind, id: u64) -> Answer<'_, Option<CaseRow>>;
    /// One case of this card.
    fn case_of(&self, card: CardId, kind: CaseKind, id: u64) -> Answer<'_, Option<CaseRow>>;
    /// Cases of a card, latest first.
    fn cases_of(&self, card: CardId, kind: CaseKind, rows_max: usize) -> Answer<'_, Vec<CaseRow>>;
    /// Cases of a bucket.
    fn cases(&self, query: CaseQuery) -> Answer<'_, Page<CaseRow>>;
    /// Identities that a card has and had, latest first; none where it never changed.
    fn identities(&self, card: CardId, rows_max: usize) -> Answer<'_, Vec<IdentityRow>>;
    /// Open packets of a bucket whose deadline is over (`due`), or all of them (`None`, after a restart), after a key.
    fn packets(
        &self,
        bucket: Bucket,
        due: Option<EpochMs>,
        after: Option<PacketKey>,
        rows_max: usize,
    ) -> Answer<'_, Page<Packet>>;
    /// History of a card, latest first, lines before a time.
    fn history(&self, card: CardId, before: EpochMs, rows_max: usize) -> Answer<'_, Vec<HistoryLine>>;
    /// Where a campaign stands, per bucket and operator.
    fn cursors(&self, campaign: CampaignId) -> Answer<'_, Vec<(Bucket, OperatorId, Cursor)>>;
    /// Sums of a campaign over all buckets.
    fn progress(&self, campaign: CampaignId) -> Answer<'_, Progress>;
    /// All campaigns, by id.
    fn campaigns(&self) -> Answer<'_, Vec<CampaignRecord>>;
    /// All small rows.
    fn directory(&self) -> Answer<'_, Directory>;
    /// Audit trail after a sequence number, oldest first.
    fn audit(&self, after: u64, rows_max: usize) -> Answer<'_, Vec<AuditRow>>;
    /// The answer once given to an idempotency key.
    fn idempotency<'a>(&'a self, tenant: TenantId, key: &'a str) -> Answer<'a, Option<IdempotencyRow>>;
    /// An import, by the id of its file.
    fn import_job(&self, id: [u8; 32]) -> Answer<'_, Option<ImportJob>>;
    /// Imports, latest first.
    fn import_jobs(&self, rows_max: usize) -> Answer<'_, Vec<ImportJob>>;
}

/// After a restore from backup, before anything is sent: every counter jumps, because those given since the backup have
/// been on the wire and must not be given again. Takes all card groups over.
pub async fn after_restore(store: &dyn Store, owner: &str) -> Result<(), StoreError> {
    for group in (0..store.groups()).map(Group::Cards) {
        let lease = store.acquire(group, owner).await?;
        store.commit(lease, Batch::from(Op::JumpCounters)).await?;
    }
    Ok(())
}
