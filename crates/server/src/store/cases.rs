//! Rows of what lasts on one card, a change of operator or a delivery, and of the identities that a card has had.

use simtide_protocol::ids::{Bucket, CardId, ChangeId, EpochMs, Imsi, Msisdn};

use super::types::{OperatorId, TenantId};

/// Bytes of a case's body at most: a delivery carries its content; an open change costs less than 4 KB with everything around it.
pub const CASE_BODY_BYTES_MAX: usize = 65_536;
/// Bytes of a case's sealed record at most.
pub const CASE_SEALED_BYTES_MAX: usize = 65_536;

/// What a case is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CaseKind {
    /// A change of operator: one open per card.
    Change,
    /// A delivery of data to the card: any number open.
    Delivery,
}

impl CaseKind {
    /// Code in rows.
    pub const fn code(self) -> u8 {
        match self {
            CaseKind::Change => 0,
            CaseKind::Delivery => 1,
        }
    }

    /// Kind of a code.
    pub fn from_code(code: u8) -> Option<CaseKind> {
        [CaseKind::Change, CaseKind::Delivery].get(usize::from(code)).copied()
    }
}

/// A long-lived affair of one card: the record of a machine that the store does not understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseRow {
    /// The card; the row lies in its group.
    pub card: CardId,
    /// What it is about.
    pub kind: CaseKind,
    /// Names it among its kind, on all cards.
    pub id: u64,
    /// Whose.
    pub tenant: TenantId,
    /// When it began.
    pub at: EpochMs,
    /// Code of the machine's state, for lists.
    pub state: u8,
    /// Whether something is still to be done.
    pub open: bool,
    /// When the machine wants to be asked next.
    pub due: Option<EpochMs>,
    /// Grows by one with every write; the first is 1.
    pub version: u32,
    /// The machine's record, JSON, at most [`CASE_BODY_BYTES_MAX`]; never a secret.
    pub body: Vec<u8>,
    /// A record of the vault, at most [`CASE_SEALED_BYTES_MAX`]; may be empty.
    pub sealed: Vec<u8>,
}

/// Which cases of a bucket, in pages by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaseQuery {
    /// What they are about.
    pub kind: CaseKind,
    /// The bucket.
    pub bucket: Bucket,
    /// Only open or only closed ones.
    pub open: Option<bool>,
    /// Only in this state.
    pub state: Option<u8>,
    /// Only after this one.
    pub after: Option<u64>,
    /// At most so many, 1..=[`super::PAGE_ROWS_MAX`].
    pub rows_max: usize,
}

impl CaseQuery {
    /// All open cases of a bucket: what a server reads at its start.
    pub fn open(kind: CaseKind, bucket: Bucket, rows_max: usize) -> CaseQuery {
        CaseQuery { kind, bucket, open: Some(true), state: None, after: None, rows_max }
    }

    /// Whether a page shows a row of its bucket.
    pub(super) fn shows(&self, row: &CaseRow) -> bool {
        row.kind == self.kind
            && self.open.is_none_or(|open| row.open == open)
            && self.state.is_none_or(|state| row.state == state)
            && self.after.is_none_or(|after| row.id > after)
    }
}

/// An identity that a card has or had. Written by [`super::CardChange::Subscription`]; the card's record says which one
/// it has now, and where there are no rows, it has had no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentityRow {
    /// The card.
    pub card: CardId,
    /// 0 for the identity of the import, then 1, 2, 3, ...
    pub sequence: u32,
    /// Since when; `None`: since before the first change.
    pub since: Option<EpochMs>,
    /// IMSI.
    pub imsi: Option<Imsi>,
    /// Number.
    pub msisdn: Option<Msisdn>,
    /// Operator.
    pub operator: OperatorId,
    /// The change that brought it.
    pub change: Option<ChangeId>,
}

/// The identity that a change puts in the place of the card's present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// IMSI.
    pub imsi: Imsi,
    /// Number.
    pub msisdn: Option<Msisdn>,
    /// Operator.
    pub operator: OperatorId,
    /// Keys, sealed under the version of the card's other records.
    pub sealed_subscription: Vec<u8>,
    /// Since when.
    pub at: EpochMs,
    /// The change that brings it; one that has brought it already changes nothing.
    pub change: ChangeId,
}
