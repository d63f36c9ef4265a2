//! The rows of the store as values: what reads return and what a batch carries.

use simtide_platform::card::{Applied, CardState};
use simtide_protocol::ids::{CardId, ChangeId, DeliveryId, Eid, EpochMs, Iccid, Imsi, Msisdn, Tar};

/// Owner of cards and OTA keys; never changes with the operator of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// The mobile network that a card's active subscription belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorId(pub u32);

/// Row number of a card profile; the name is in the [`Directory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileId(pub u16);

/// A campaign from its creation on. Its place among the started ones is its number, given at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CampaignId(pub u32);

/// Unit of writer ownership, of one file and of one lease.
///
/// What belongs to cards lies in the group of the card's bucket, what belongs to the whole platform (campaigns,
/// directory, audit, idempotency, import jobs) in a group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// Campaigns, directory, audit, idempotency, import jobs.
    Platform,
    /// Cards whose bucket modulo the number of groups is this.
    Cards(u16),
}

/// The right to write to a group. A commit with an epoch that is no longer the latest is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// What may be written.
    pub group: Group,
    /// Grows by one with every lease given for the group.
    pub epoch: u64,
}

/// What is in the field of an owner of a card's identity and must be unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Alias {
    /// Integrated circuit card identifier, where the card id is made from the EID.
    Iccid(Iccid),
    /// Identifier of an embedded element, where the card id is made from the ICCID.
    Eid(Eid),
    /// Active subscription.
    Imsi(Imsi),
    /// Telephone number.
    Msisdn(Msisdn),
    /// Identity of the pre-shared key at the card port, at most [`PSK_IDENTITY_BYTES_MAX`] bytes.
    PskIdentity(Vec<u8>),
    /// Keyed fingerprint of a key or an admin code: two cards never share one.
    Fingerprint([u8; FINGERPRINT_BYTES]),
}

/// Bytes of a keyed fingerprint: among 5 * 10^8 keys a chance agreement has a probability below 10^-6.
pub const FINGERPRINT_BYTES: usize = 10;
/// Longest identity of a pre-shared key that is stored.
pub const PSK_IDENTITY_BYTES_MAX: usize = 128;

/// What changes rarely: written at import and at a subscription change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardRecord {
    /// Primary key.
    pub id: CardId,
    /// Owner of the card and of its OTA keys.
    pub tenant: TenantId,
    /// ICCID, also where the card id is made from it.
    pub iccid: Option<Iccid>,
    /// EID, also where the card id is made from it.
    pub eid: Option<Eid>,
    /// Active subscription.
    pub imsi: Option<Imsi>,
    /// Telephone number: where trigger SMS go.
    pub msisdn: Option<Msisdn>,
    /// Identity at the card port; empty: as the profile derives it.
    pub psk_identity: Vec<u8>,
    /// Sealed records, opened by the vault only.
    pub sealed: SealedKeys,
}

/// The sealed records of a card, one per role; empty where the card has none. Opaque to the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealedKeys {
    /// Version of the records, part of what authenticates them.
    pub version: u16,
    /// OTA key sets.
    pub ota: Vec<u8>,
    /// Pre-shared key of the card port.
    pub psk: Vec<u8>,
    /// Ki and OPc.
    pub subscription: Vec<u8>,
    /// Admin code.
    pub admin_code: Vec<u8>,
}

/// What changes with every contact: one narrow row per card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardHot {
    /// Network of the active subscription.
    pub operator: OperatorId,
    /// Card profile.
    pub profile: ProfileId,
    /// Whether campaigns concern the card.
    pub state: CardState,
    /// Code of the device kind, see [`Directory`]; 0: unknown.
    pub device_kind: u8,
    /// One bit per tag of the tenant, see [`Directory`].
    pub tags: u64,
    /// Last contact: set when a poll begins. `None`: never seen.
    pub last_update: Option<EpochMs>,
    /// When the card is expected by itself.
    pub next_poll: EpochMs,
    /// What it has had of the started campaigns.
    pub applied: Applied,
}

/// Everything the platform needs to serve one card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// What changes rarely.
    pub record: CardRecord,
    /// What changes with every contact.
    pub hot: CardHot,
    /// Last counter given, per key set, ordered by key set.
    pub counters: Vec<(u8, u64)>,
    /// Rows of campaigns that did not go the usual way on this card.
    pub exceptions: Vec<Exception>,
}

/// A card in a page of candidates: what the audience filter and the order need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The card.
    pub card: CardId,
    /// Its narrow row.
    pub hot: CardHot,
}

/// By what candidates are ordered; always the latest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Furthest own contact first.
    NextPoll,
    /// Most recently updated first; cards never seen come last.
    LastUpdate,
}

impl Order {
    /// The value that this order compares; a card never seen counts as the earliest.
    pub fn key(self, hot: &CardHot) -> EpochMs {
        match self {
            Order::NextPoll => hot.next_poll,
            Order::LastUpdate => hot.last_update.unwrap_or(EpochMs(NEVER_MS)),
        }
    }
}

/// How "never seen" and "not by itself" order and are stored: before every date.
pub const NEVER_MS: i64 = -1;

/// A place in an order: candidates strictly below it follow (lower key, or the same key and a higher card id).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Order key of the last card taken.
    pub key: EpochMs,
    /// The last card taken.
    pub card: CardId,
}

/// Where a campaign stands in one bucket and operator. It only moves down within a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// 1 for the first pass; each further pass starts at the top again.
    pub pass: u8,
    /// `None`: at the top.
    pub position: Option<Position>,
    /// No card is left below in this pass.
    pub exhausted: bool,
}

/// Key of a packet: the counter of a card's key set is given once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketKey {
    /// The card.
    pub card: CardId,
    /// Key set (KIc/KID index).
    pub key_set: u8,
    /// SCP80 counter, 5 bytes on the wire.
    pub counter: u64,
}

/// Why a packet exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Calls the card in for a campaign.
    Trigger(CampaignId),
    /// Carries a script of a campaign by SMS.
    Command(CampaignId),
    /// Asked for by a user, outside of campaigns.
    Request,
    /// Belongs to a change of operator. Without data it carries the personalization, which holds keys and is rebuilt from
    /// the change and its sealed record; with data it asks the card where the change stands.
    Change(ChangeId),
    /// Belongs to a delivery.
    Delivery(DeliveryId),
}

/// Where a packet stands. The last four are final: nothing replaces them, but a card's proof that it was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketState {
    /// Reserved; no byte has left.
    Queued,
    /// Handed to the SMSC, no answer yet.
    Submitted,
    /// The SMSC has taken it.
    Accepted,
    /// A delivery receipt came.
    Delivered,
    /// Nobody can say whether it arrived.
    Unknown,
    /// The card has proven it, with this response status code (00 for a poll that answers a trigger).
    Proven(u8),
    /// Refused for good: by the SMSC (command status) or by the card (response status code).
    Refused(u32),
    /// Its validity has ended.
    Expired,
    /// Given up, or overtaken by a poll.
    Abandoned,
}

impl PacketState {
    /// Whether an effect or an answer is still possible.
    pub fn is_open(self) -> bool {
        use PacketState::*;
        matches!(self, Queued | Submitted | Accepted | Delivered | Unknown)
    }

    /// Whether a row in this state takes that one: an open row every state, a refused, expired or abandoned one a proof.
    pub fn may_become(self, next: PacketState) -> bool {
        self.is_open() || (!matches!(self, PacketState::Proven(_)) && matches!(next, PacketState::Proven(_)))
    }
}

/// One row is outbox, receipt map and proof map at once. The same row always seals to the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Card, key set, counter.
    pub key: PacketKey,
    /// Why it exists.
    pub origin: Origin,
    /// Toolkit application reference: who receives it on the card.
    pub tar: Tar,
    /// Security parameter indicator, both octets (ETSI TS 102 225, 5.1.1).
    pub spi: u16,
    /// Where it stands.
    pub state: PacketState,
    /// When it was reserved.
    pub at: EpochMs,
    /// End of its validity; open packets past it are due.
    pub deadline: EpochMs,
    /// The SMSC's ids, in the order of the parts.
    pub message_ids: Vec<String>,
    /// Plain secured data of a command, kept to send the same bytes again; empty for triggers.
    pub data: Vec<u8>,
}

/// A card for which a campaign did not go the usual way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// The campaign.
    pub campaign: CampaignId,
    /// The card.
    pub card: CardId,
    /// What is the matter.
    pub status: ExceptionStatus,
    /// How often it was tried.
    pub attempts: u8,
    /// Step of the content concerned.
    pub step: u8,
    /// When it is due again; `None`: not by itself.
    pub retry_at: Option<EpochMs>,
}

/// What is the matter with a card in a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExceptionStatus {
    /// Named by the explicit list of the campaign, nothing tried yet.
    Listed,
    /// A step that is not repeatable is being sent: if nothing follows, the card's mark decides.
    Begun,
    /// To be tried again at `retry_at`.
    Retry,
    /// Attempts used up, or the content failed.
    Failed,
    /// Begun and not done: never run again by itself.
    Interrupted,
    /// Excluded by the operator or the user.
    OptedOut,
}

/// One line of a card's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    /// When it ended.
    pub at: EpochMs,
    /// How it came to the contact.
    pub cause: Cause,
    /// Campaign concerned.
    pub campaign: Option<CampaignId>,
    /// What came of it.
    pub result: HistoryResult,
    /// Short text for people, at most [`HISTORY_DETAIL_BYTES_MAX`] bytes (longer is cut); no keys, no APDU.
    pub detail: String,
}

/// Longest detail of a history line, in bytes.
pub const HISTORY_DETAIL_BYTES_MAX: usize = 120;

/// How a contact came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The card polled by itself.
    Own,
    /// The card answered a trigger of this key set and counter.
    Trigger {
        /// Key set of the trigger.
        key_set: u8,
        /// Counter of the trigger.
        counter: u64,
    },
    /// An SCP80 command by SMS.
    Command {
        /// Key set of the command.
        key_set: u8,
        /// Counter of the command.
        counter: u64,
    },
    /// An operator of the platform.
    Operator,
}

/// What came of a contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HistoryResult {
    /// There was nothing to do.
    Nothing,
    /// The content was executed.
    Done,
    /// The content failed with this status word.
    Failed(u16),
    /// The dialogue broke before the end.
    Broken,
    /// Begun and not done; see the card's mark.
    Interrupted,
}

/// A campaign: one row over any number of cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignRecord {
    /// Chosen by the writer: one more than the highest.
    pub id: CampaignId,
    /// Whose cards.
    pub tenant: TenantId,
    /// Place among the started campaigns of the tenant; given by the store at start.
    pub number: Option<u32>,
    /// For people.
    pub name: String,
    /// Name of the state (draft, running, paused, ...); the meaning is the platform's.
    pub state: String,
    /// Content, audience and settings, as JSON.
    pub definition: String,
    /// What the platform wants to find after a restart, as JSON.
    pub progress_note: String,
    /// Creation.
    pub created_at: EpochMs,
    /// First start.
    pub started_at: Option<EpochMs>,
    /// End, by success or by an operator.
    pub ended_at: Option<EpochMs>,
}

/// A small row that every part of the platform knows: few thousands at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryRow {
    /// A tenant.
    Tenant {
        /// Key.
        id: TenantId,
        /// Unique name.
        name: String,
    },
    /// A mobile network.
    Operator {
        /// Key.
        id: OperatorId,
        /// Whose operator list it is in.
        tenant: TenantId,
        /// Unique name.
        name: String,
        /// `simtide_platform::subscription::OperatorSettings` as JSON; empty: none.
        settings: String,
    },
    /// What two operators have agreed on.
    Agreement {
        /// One side.
        from: OperatorId,
        /// The other side.
        to: OperatorId,
        /// `simtide_platform::subscription::AgreementTerms` as JSON.
        terms: String,
    },
    /// A card profile.
    Profile {
        /// Key.
        id: ProfileId,
        /// Unique name.
        name: String,
        /// The profile, as TOML.
        text: String,
    },
    /// A tag of a tenant.
    Tag {
        /// Whose tag.
        tenant: TenantId,
        /// Bit in [`CardHot::tags`], 0..64.
        bit: u8,
        /// Unique name within the tenant.
        name: String,
    },
    /// A kind of device.
    DeviceKind {
        /// Code in [`CardHot::device_kind`]; 0 means unknown and has no row.
        code: u8,
        /// Unique name.
        name: String,
    },
}

/// All small rows, in the order of their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// All of them.
    pub rows: Vec<DirectoryRow>,
}

impl Directory {
    /// Id of a profile by its name.
    pub fn profile(&self, wanted: &str) -> Option<ProfileId> {
        self.rows.iter().find_map(|row| match row {
            DirectoryRow::Profile { id, name, .. } if name == wanted => Some(*id),
            _ => None,
        })
    }

    /// Code of a device kind by its name.
    pub fn device_kind(&self, wanted: &str) -> Option<u8> {
        self.rows.iter().find_map(|row| match row {
            DirectoryRow::DeviceKind { code, name } if name == wanted => Some(*code),
            _ => None,
        })
    }

    /// Bit of a tenant's tag by its name.
    pub fn tag(&self, of: TenantId, wanted: &str) -> Option<u8> {
        self.rows.iter().find_map(|row| match row {
            DirectoryRow::Tag { tenant, bit, name } if *tenant == of && name == wanted => Some(*bit),
            _ => None,
        })
    }
}

/// A line of the audit trail: who did what. The chain value covers the line and all lines before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLine {
    /// When.
    pub at: EpochMs,
    /// Whose data.
    pub tenant: TenantId,
    /// Who: the name of an API token, or a part of the platform.
    pub actor: String,
    /// What, as a verb: `campaign.start`.
    pub action: String,
    /// To what.
    pub object: String,
    /// More, for people; no keys.
    pub detail: String,
}

/// An audit line as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// 1, 2, 3, ... without a gap.
    pub sequence: u64,
    /// SHA-256 over the previous chain value and the line: a copy kept elsewhere proves that nothing was changed.
    pub chain: [u8; 32],
    /// The line.
    pub line: AuditLine,
}

/// The answer once given to an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRow {
    /// Whose key.
    pub tenant: TenantId,
    /// As sent by the client.
    pub key: String,
    /// SHA-256 of the request: the same key with another body is a mistake.
    pub request_hash: [u8; 32],
    /// HTTP status answered.
    pub status: u16,
    /// Body answered.
    pub body: String,
    /// When.
    pub at: EpochMs,
}

/// An import, so that it can be shown and resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportJob {
    /// SHA-256 of the file's first bytes and length: names the file.
    pub id: [u8; 32],
    /// Whose cards.
    pub tenant: TenantId,
    /// File name, for people.
    pub name: String,
    /// Rows that are settled (stored, unchanged or refused), from the start of the file.
    pub rows_settled: u64,
    /// Cards stored for the first time.
    pub imported: u64,
    /// Cards that were there with the same content.
    pub unchanged: u64,
    /// Rows refused.
    pub refused: u64,
    /// The end of the file was reached.
    pub finished: bool,
    /// Last change.
    pub at: EpochMs,
}

/// Kind and key of a small row, by which they are ordered and replaced.
pub(super) fn directory_key(row: &DirectoryRow) -> (u8, u32, u32) {
    match row {
        DirectoryRow::Tenant { id, .. } => (1, id.0, 0),
        DirectoryRow::Operator { id, .. } => (2, id.0, 0),
        DirectoryRow::Agreement { from, to, .. } => (3, from.0, to.0),
        DirectoryRow::Profile { id, .. } => (4, u32::from(id.0), 0),
        DirectoryRow::Tag { tenant, bit, .. } => (5, tenant.0, u32::from(*bit)),
        DirectoryRow::DeviceKind { code, .. } => (6, u32::from(*code), 0),
    }
}
