//! A delivery's row, and the machine in it.

use serde::{Deserialize, Serialize};
use simtide_platform::content::Content;
use simtide_platform::delivery::{Cause, Delivery, PackError, Portion, pack};
use simtide_protocol::ids::{CardId, DeliveryId, EpochMs};
use simtide_protocol::profile::Profile;

use super::ready::ReadyHead;
use crate::store::{CASE_BODY_BYTES_MAX, CampaignId, CaseKind, CaseRow, StoreError, TenantId};

/// Numbers from here on stand for deliveries where polls and marks name campaigns.
const NUMBERS_OF_DELIVERIES: u32 = 0x8000_0000;

/// What the body of a delivery's case holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The machine.
    pub machine: Delivery,
    /// What is delivered; `None`: what its campaign does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// Packets that were handed in, in place of content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ready: Vec<ReadyHead>,
    /// Their bytes, a record of the vault.
    #[serde(skip)]
    pub sealed: Vec<u8>,
    /// Owner.
    #[serde(skip)]
    pub tenant: u32,
    /// Version of the row that it was read from; 0: none yet.
    #[serde(skip)]
    pub version: u32,
    /// When the machine wants to look next.
    #[serde(skip)]
    pub due: Option<EpochMs>,
}

/// Why a delivery cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the content takes {0} bytes with all that is noted beside it: give at most {CASE_BODY_BYTES_MAX}, or make it a campaign"
)]
pub struct TooLarge(pub usize);

impl Record {
    /// Reads a row; the portions are made with [`Record::portions`].
    pub fn read(row: &CaseRow) -> Result<Record, StoreError> {
        let record: Record = serde_json::from_slice(&row.body)
            .map_err(|error| StoreError::Corrupt(format!("delivery {:016x}: {error}", row.id)))?;
        let sealed = row.sealed.clone();
        Ok(Record { sealed, tenant: row.tenant.0, version: row.version, due: row.due, ..record })
    }

    /// The row as it is to be written.
    pub fn row(&self) -> Result<CaseRow, TooLarge> {
        // A record is numbers, names and hex: it can always be written.
        let body = serde_json::to_vec(self).unwrap_or_default();
        if body.len() > CASE_BODY_BYTES_MAX {
            return Err(TooLarge(body.len()));
        }
        let Delivery { id, card, at, state, .. } = &self.machine;
        Ok(CaseRow {
            card: *card,
            kind: CaseKind::Delivery,
            id: id.0,
            tenant: TenantId(self.tenant),
            at: *at,
            state: state.code(),
            open: state.is_open(),
            due: self.due,
            version: self.version + 1,
            body,
            sealed: self.sealed.clone(),
        })
    }

    /// Makes the portions from the content.
    pub fn portions(
        &self,
        content: &Content,
        profile: &Profile,
        packet_bytes_max: u32,
    ) -> Result<Vec<Portion>, PackError> {
        pack(content, profile, self.number(), packet_bytes_max)
    }

    /// The number that marks carry.
    pub fn number(&self) -> u32 {
        match self.machine.cause {
            Cause::Campaign { number, .. } => number,
            Cause::Request => number_of(self.machine.id),
        }
    }

    /// Under what its exceptions are written.
    pub fn campaign(&self) -> CampaignId {
        match self.machine.cause {
            Cause::Campaign { campaign, .. } => CampaignId(campaign),
            Cause::Request => CampaignId(number_of(self.machine.id)),
        }
    }
}

/// What a delivery that is no campaign's is called where polls and marks name campaigns.
pub fn number_of(delivery: DeliveryId) -> u32 {
    NUMBERS_OF_DELIVERIES | (delivery.0 as u32 & 0x7FFF_FFFF)
}

/// Whether a campaign's id stands for a delivery.
pub fn is_delivery(campaign: u32) -> bool {
    campaign >= NUMBERS_OF_DELIVERIES
}

/// An open delivery, as far as every poll of its card wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brief {
    /// Names it.
    pub id: DeliveryId,
    /// Orders them.
    pub at: EpochMs,
    /// Why.
    pub cause: Cause,
}

/// The text of an item's id: the delivery in hex and the counter of its packet.
pub fn item_id(delivery: DeliveryId, counter: u64) -> String {
    format!("{delivery}-{counter}")
}

/// The delivery and the counter of an item's id.
pub fn parse_item(id: &str) -> Option<(DeliveryId, u64)> {
    let (delivery, counter) = id.split_once('-')?;
    Some((delivery.parse().ok()?, counter.parse().ok()?))
}

/// Which card and delivery something is about.
pub type Place = (CardId, DeliveryId);
