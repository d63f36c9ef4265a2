//! The write verb: what one group decided at once, and what the store answers.

use simtide_platform::card::CardState;
use simtide_protocol::ids::{Bucket, CardId, EpochMs, Msisdn, Tar};

use super::cases::{CaseRow, SubscriptionChange};
use super::progress::Progress;
use super::types::*;

/// Operations of a batch at most.
pub const BATCH_OPS_MAX: usize = 16_384;
/// Cards of one trigger operation at most.
pub const TRIGGER_CARDS_MAX: usize = 1_000;
/// Campaigns of a tenant whose number may still be open on some card.
pub const CAMPAIGNS_RUNNING_MAX: u32 = 64;
/// Bit in a key set's index that marks the counter of a card's own requests, received, not given.
pub const UPLINK_COUNTER: u8 = 0x80;
/// By how much counters jump after a restore from backup (trust invariant C2).
pub const COUNTER_JUMP: u64 = 1 << 20;

/// Operations that become durable together, applied in their order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// All on rows of the lease's group; another group's row refuses the whole batch.
    pub ops: Vec<Op>,
}

impl From<Vec<Op>> for Batch {
    fn from(ops: Vec<Op>) -> Batch {
        Batch { ops }
    }
}

impl From<Op> for Batch {
    fn from(op: Op) -> Batch {
        Batch { ops: vec![op] }
    }
}

/// One operation of a batch. Card groups first, the platform group's operations last.
#[derive(Debug, Clone)]
pub enum Op {
    /// Takes an alias for a card, in the group of the alias. Outcome: `Done`, `Unchanged` (already this card's) or
    /// `Taken`.
    ClaimAlias {
        /// What is claimed.
        alias: Alias,
        /// For whom.
        card: CardId,
        /// Take it over from this card, which was found not to exist or not to have it any more.
        from: Option<CardId>,
    },
    /// Lets go of an alias, if it is this card's.
    ReleaseAlias {
        /// What is released.
        alias: Alias,
        /// Whose it is.
        card: CardId,
    },
    /// Stores a card that is not there yet: outcome `Done`; a card that is there stays as it is: `Unchanged`.
    PutCard(Box<NewCard>),
    /// Changes one thing of a card. Outcome `Done` or `Missing`.
    ChangeCard {
        /// The card.
        card: CardId,
        /// What changes.
        change: CardChange,
    },
    /// A card has opened a session: its next date is durable before it is told. Outcome `Done` or `Missing`.
    PollBegun {
        /// The card.
        card: CardId,
        /// Now: becomes its `last_update`.
        at: EpochMs,
        /// The date it will be given.
        next_poll: EpochMs,
    },
    /// A step that is not repeatable is about to be sent. Outcome `Done` or `Missing`.
    Attempt {
        /// The card.
        card: CardId,
        /// The campaign.
        campaign: CampaignId,
        /// Step of its content.
        step: u8,
        /// Now.
        at: EpochMs,
    },
    /// A dialogue has ended. Outcome `Done` or `Missing`.
    PollDone(Box<PollDone>),
    /// Takes cards for triggers and moves the cursor. Outcome `Triggered`.
    Trigger(Box<Trigger>),
    /// Reserves one command packet. Outcome `Counter`, `PassedOver` or `Missing`.
    Command(Box<Command>),
    /// Moves a packet on. A packet in a final state stays: `Unchanged`.
    Packet(PacketChange),
    /// Rows for an explicit list, retries, opt-outs.
    Exception(ExceptionChange),
    /// Writes a case; card, tenant and beginning stay as they were first written. Outcome `Done`; otherwise nothing of it
    /// **and nothing after it in the batch** is written, and the operations after it answer `Skipped`: `Conflict` where
    /// the row has another version, `OpenCase` where the card has another open change, `Missing` where there is no such
    /// card.
    PutCase {
        /// The row.
        row: Box<CaseRow>,
        /// The version that it replaces; `None`: it is new.
        version_before: Option<u32>,
    },
    /// Adds lines to a card's history.
    History {
        /// The card.
        card: CardId,
        /// The lines.
        lines: Vec<HistoryLine>,
    },
    /// Adds to a campaign's sums in a bucket.
    Progress {
        /// The bucket.
        bucket: Bucket,
        /// The campaign.
        campaign: CampaignId,
        /// The change.
        change: Progress,
    },
    /// Sets a cursor without a trigger: back to the top, or past cards that are not in the audience.
    Cursor {
        /// The bucket.
        bucket: Bucket,
        /// The campaign.
        campaign: CampaignId,
        /// The operator.
        operator: OperatorId,
        /// The new place.
        cursor: Cursor,
    },
    /// After a restore from backup: every counter of the group jumps by [`COUNTER_JUMP`], but those of cards' own requests
    /// ([`UPLINK_COUNTER`]), which the cards raise.
    JumpCounters,
    /// Deletes closed packets, and history and closed deliveries, older than these times, a bounded number at once. Closed
    /// changes stay: they are what a card has been. Outcome `Count`.
    Purge {
        /// Closed packets whose deadline lies before.
        packets_before: EpochMs,
        /// History lines and deliveries that began before.
        history_before: EpochMs,
    },

    /// Platform group: creates or changes a campaign (all but its number).
    PutCampaign(Box<CampaignRecord>),
    /// Platform group: gives a campaign its number. Outcome `Number`, `Missing`, or `Full` with
    /// [`CAMPAIGNS_RUNNING_MAX`] open numbers.
    StartCampaign {
        /// The campaign.
        campaign: CampaignId,
        /// Now.
        at: EpochMs,
        /// Name of the state it enters.
        state: String,
    },
    /// Platform group: creates or replaces a small row.
    PutDirectory(DirectoryRow),
    /// Platform group: adds a line to the audit trail.
    Audit(AuditLine),
    /// Platform group: keeps an answer. Outcome `Done`, or `Unchanged` where the key has one.
    Idempotency(Box<IdempotencyRow>),
    /// Platform group: creates or replaces an import job.
    PutImportJob(Box<ImportJob>),
}

/// A card as imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCard {
    /// What changes rarely.
    pub record: CardRecord,
    /// What changes with every contact.
    pub hot: CardHot,
    /// Last counter used, per key set.
    pub counters: Vec<(u8, u64)>,
}

/// One change of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardChange {
    /// Whether campaigns concern it.
    State(CardState),
    /// Tags.
    Tags(u64),
    /// Telephone number; claim and release the aliases beside it.
    Msisdn(Option<Msisdn>),
    /// When it is expected by itself.
    NextPoll(EpochMs),
    /// New sealed records.
    Sealed(SealedKeys),
    /// Another identity, and a line in the card's list of identities. Claim and release the aliases beside it.
    Subscription(Box<SubscriptionChange>),
    /// Raises the last counter given of a key set; a lower value changes nothing.
    RaiseCounter {
        /// Key set.
        key_set: u8,
        /// At least this was used.
        counter: u64,
    },
}

/// The end of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollDone {
    /// The card.
    pub card: CardId,
    /// Campaign numbers executed in it; a poll that broke has none.
    pub applied: Vec<u32>,
    /// All numbers up to this one are settled for the card; 0 leaves it.
    pub settled: u32,
    /// Date that the card now has; `None`: as reserved at the beginning.
    pub next_poll: Option<EpochMs>,
    /// Packets that this answers or overtakes.
    pub packets: Vec<PacketChange>,
    /// Rows to write or to remove.
    pub exceptions: Vec<ExceptionChange>,
    /// What the history says.
    pub history: Vec<HistoryLine>,
    /// Changes of the sums.
    pub progress: Vec<(CampaignId, Progress)>,
}

/// Cards of one bucket to be called in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// The campaign.
    pub campaign: CampaignId,
    /// Its number: cards that have it are passed over.
    pub number: u32,
    /// All cards are in it.
    pub bucket: Bucket,
    /// Whose cards, for the cursor; `None`: retries and explicit lists, which have no cursor.
    pub cursor: Option<(OperatorId, Cursor)>,
    /// The cards, at most [`TRIGGER_CARDS_MAX`], as they were when the page was read.
    pub cards: Vec<TriggerCard>,
    /// Receiver on the card.
    pub tar: Tar,
    /// Security parameter indicator, both octets.
    pub spi: u16,
    /// Now.
    pub at: EpochMs,
    /// End of the validity.
    pub deadline: EpochMs,
}

/// A card to be called in, and what was known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TriggerCard {
    /// The card.
    pub card: CardId,
    /// Key set that seals the trigger.
    pub key_set: u8,
    /// Its last contact when the page was read; another value now means that it has polled.
    pub last_update: Option<EpochMs>,
}

/// One SCP80 command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The card.
    pub card: CardId,
    /// Key set that seals it.
    pub key_set: u8,
    /// Why.
    pub origin: Origin,
    /// Receiver on the card.
    pub tar: Tar,
    /// Security parameter indicator, both octets.
    pub spi: u16,
    /// Plain secured data, kept so that the same bytes can be sent again.
    pub data: Vec<u8>,
    /// Now.
    pub at: EpochMs,
    /// End of the validity.
    pub deadline: EpochMs,
}

/// A step of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketChange {
    /// Which.
    pub key: PacketKey,
    /// Where it stands now.
    pub state: PacketState,
    /// The SMSC's ids; empty leaves those that are stored.
    pub message_ids: Vec<String>,
    /// New end of validity; `None` leaves it.
    pub deadline: Option<EpochMs>,
}

/// A row to write or to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExceptionChange {
    /// Write, replacing.
    Put(Exception),
    /// Remove, if there.
    Remove {
        /// The campaign.
        campaign: CampaignId,
        /// The card.
        card: CardId,
    },
}

/// What a commit answers, one outcome per operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// In the order of the operations.
    pub outcomes: Vec<Outcome>,
}

/// What came of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Written.
    Done,
    /// Already so, or in a final state: nothing was written.
    Unchanged,
    /// A case has moved on since it was read: read it again.
    Conflict,
    /// Another change of the card is open, with this id.
    OpenCase(u64),
    /// A case before it in the batch was not written, so it was not either.
    Skipped,
    /// No such card, campaign or packet: nothing was written.
    Missing,
    /// The alias belongs to this card.
    Taken(CardId),
    /// Per card, in their order: the counter given or why it was passed over.
    Triggered(Vec<Result<u64, PassedOver>>),
    /// Counter given to a command.
    Counter(u64),
    /// No counter was given.
    PassedOver(PassedOver),
    /// Number given to a campaign (the one it has, if it was started before).
    Number(u32),
    /// Too many campaigns run.
    Full,
    /// Rows deleted.
    Count(u64),
}

/// Why a card got no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PassedOver {
    /// It has polled since the page was read.
    Polled,
    /// A packet to it is open: a later counter would kill it (trust invariant C6).
    OpenPacket,
    /// It is not active, or the campaign's number is already done on it.
    NotConcerned,
    /// No such card or key set.
    Unknown,
    /// The counter has reached its maximum, 2^40 - 1.
    CounterExhausted,
}
