//! Rows and values: how types stand in columns, and back.

use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError};
use simtide_platform::card::{Applied, CardState};
use simtide_protocol::ids::{CardId, ChangeId, DeliveryId, EpochMs, Tar};

use crate::store::*;

/// Why a row could not be read.
#[derive(Debug)]
pub(super) enum RowFault {
    /// The medium or the engine.
    Engine(rusqlite::Error),
    /// The content.
    Corrupt(&'static str),
}

impl From<rusqlite::Error> for RowFault {
    fn from(error: rusqlite::Error) -> RowFault {
        match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => RowFault::Corrupt("a column has another type"),
            error => RowFault::Engine(error),
        }
    }
}

impl RowFault {
    pub(super) fn to_store_error(&self) -> StoreError {
        match self {
            RowFault::Engine(error) => StoreError::Failed(error.to_string()),
            RowFault::Corrupt(what) => StoreError::Corrupt((*what).to_owned()),
        }
    }
}

pub(super) type Read<T> = Result<T, RowFault>;

fn column<T: FromSql>(row: &Row<'_>, place: usize) -> Read<T> {
    Ok(row.get(place)?)
}

pub(super) fn date(ms: i64) -> Option<EpochMs> {
    (ms != NEVER_MS).then_some(EpochMs(ms))
}

pub(super) fn date_ms(date: Option<EpochMs>) -> i64 {
    date.map_or(NEVER_MS, |date| date.0)
}

pub(super) fn card_at(row: &Row<'_>, place: usize) -> Read<CardId> {
    let bytes = row.get_ref(place)?.as_blob().map_err(|_: FromSqlError| RowFault::Corrupt("card id"))?;
    CardId::try_from(bytes).map_err(|_| RowFault::Corrupt("card id"))
}

/// Digits as a number with a 1 in front.
pub(super) fn digits_number(digits: Option<String>) -> Option<i64> {
    format!("1{}", digits?).parse().ok()
}

pub(super) fn digits_text<T: std::str::FromStr>(number: Option<i64>) -> Read<Option<T>> {
    let Some(number) = number else { return Ok(None) };
    let text = number.to_string();
    let digits = text.strip_prefix('1').and_then(|digits| digits.parse().ok());
    digits.map(Some).ok_or(RowFault::Corrupt("imsi or msisdn"))
}

/// Columns of `card_hot` in the order that [`hot_at`] reads them.
pub(super) const HOT_COLUMNS: &str =
    "operator, profile, state, device_kind, tags, last_update, next_poll, applied_base, applied_mask";

pub(super) fn hot_at(row: &Row<'_>, first: usize) -> Read<CardHot> {
    let state = CardState::from_code(column(row, first + 2)?).ok_or(RowFault::Corrupt("card state"))?;
    Ok(CardHot {
        operator: OperatorId(column(row, first)?),
        profile: ProfileId(column(row, first + 1)?),
        state,
        device_kind: column(row, first + 3)?,
        tags: column::<i64>(row, first + 4)?.cast_unsigned(),
        last_update: date(column(row, first + 5)?),
        next_poll: EpochMs(column(row, first + 6)?),
        applied: Applied {
            base: column(row, first + 7)?,
            mask: column::<i64>(row, first + 8)?.cast_unsigned(),
        },
    })
}

pub(super) fn packet_state_code(state: PacketState) -> (u8, u32) {
    match state {
        PacketState::Queued => (0, 0),
        PacketState::Submitted => (1, 0),
        PacketState::Accepted => (2, 0),
        PacketState::Delivered => (3, 0),
        PacketState::Unknown => (4, 0),
        PacketState::Proven(status) => (5, u32::from(status)),
        PacketState::Refused(status) => (6, status),
        PacketState::Expired => (7, 0),
        PacketState::Abandoned => (8, 0),
    }
}

fn packet_state(code: u8, detail: u32) -> Read<PacketState> {
    Ok(match code {
        0 => PacketState::Queued,
        1 => PacketState::Submitted,
        2 => PacketState::Accepted,
        3 => PacketState::Delivered,
        4 => PacketState::Unknown,
        // One octet of the response packet.
        5 => PacketState::Proven(detail as u8),
        6 => PacketState::Refused(detail),
        7 => PacketState::Expired,
        8 => PacketState::Abandoned,
        _ => return Err(RowFault::Corrupt("packet state")),
    })
}

/// Columns of `packet` in the order that [`packet_at`] reads them.
pub(super) const PACKET_COLUMNS: &str = "card, key_set, counter, origin, origin_id, tar, spi, state, state_detail, at, deadline, message_ids, data";

pub(super) fn packet_at(row: &Row<'_>) -> Read<Packet> {
    let id: Option<i64> = column(row, 4)?;
    let campaign = id.and_then(|id| u32::try_from(id).ok()).map(CampaignId);
    let origin = match (column::<u8>(row, 3)?, id, campaign) {
        (0, _, Some(campaign)) => Origin::Trigger(campaign),
        (1, _, Some(campaign)) => Origin::Command(campaign),
        (2, None, _) => Origin::Request,
        (3, Some(id), _) => Origin::Change(ChangeId(id.cast_unsigned())),
        (4, Some(id), _) => Origin::Delivery(DeliveryId(id.cast_unsigned())),
        _ => return Err(RowFault::Corrupt("packet origin")),
    };
    let [_, tar @ ..] = column::<u32>(row, 5)?.to_be_bytes();
    let ids: Option<String> = column(row, 11)?;
    Ok(Packet {
        key: PacketKey { card: card_at(row, 0)?, key_set: column(row, 1)?, counter: counter_at(row, 2)? },
        origin,
        tar: Tar(tar),
        spi: column(row, 6)?,
        state: packet_state(column(row, 7)?, column(row, 8)?)?,
        at: EpochMs(column(row, 9)?),
        deadline: EpochMs(column(row, 10)?),
        message_ids: ids.map(|ids| ids.split('\n').map(str::to_owned).collect()).unwrap_or_default(),
        data: column::<Option<Vec<u8>>>(row, 12)?.unwrap_or_default(),
    })
}

pub(super) fn counter_at(row: &Row<'_>, place: usize) -> Read<u64> {
    u64::try_from(column::<i64>(row, place)?).map_err(|_| RowFault::Corrupt("counter"))
}

/// Counters have 40 bits and epoch, sums and sequence numbers never come near the limit.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn origin_code(origin: Origin) -> (u8, Option<i64>) {
    match origin {
        Origin::Trigger(campaign) => (0, Some(i64::from(campaign.0))),
        Origin::Command(campaign) => (1, Some(i64::from(campaign.0))),
        Origin::Request => (2, None),
        Origin::Change(id) => (3, Some(id.0.cast_signed())),
        Origin::Delivery(id) => (4, Some(id.0.cast_signed())),
    }
}

pub(super) fn tar_number(tar: Tar) -> u32 {
    let [a, b, c] = tar.0;
    u32::from_be_bytes([0, a, b, c])
}

pub(super) fn ids_text(ids: &[String]) -> Option<String> {
    (!ids.is_empty()).then(|| ids.join("\n"))
}

pub(super) fn status_code(status: ExceptionStatus) -> u8 {
    match status {
        ExceptionStatus::Listed => 0,
        ExceptionStatus::Begun => 1,
        ExceptionStatus::Retry => 2,
        ExceptionStatus::Failed => 3,
        ExceptionStatus::Interrupted => 4,
        ExceptionStatus::OptedOut => 5,
    }
}

/// Columns of `exception` in the order that [`exception_at`] reads them.
pub(super) const EXCEPTION_COLUMNS: &str = "card, campaign, status, attempts, step, retry_at";

pub(super) fn exception_at(row: &Row<'_>) -> Read<Exception> {
    use ExceptionStatus::*;
    let status = [Listed, Begun, Retry, Failed, Interrupted, OptedOut];
    let code: u8 = column(row, 2)?;
    Ok(Exception {
        card: card_at(row, 0)?,
        campaign: CampaignId(column(row, 1)?),
        status: *status.get(usize::from(code)).ok_or(RowFault::Corrupt("exception status"))?,
        attempts: column(row, 3)?,
        step: column(row, 4)?,
        retry_at: date(column(row, 5)?),
    })
}

pub(super) fn cause_code(cause: Cause) -> (u8, Option<u8>, Option<i64>) {
    match cause {
        Cause::Own => (0, None, None),
        Cause::Trigger { key_set, counter } => (1, Some(key_set), Some(signed(counter))),
        Cause::Command { key_set, counter } => (2, Some(key_set), Some(signed(counter))),
        Cause::Operator => (3, None, None),
    }
}

pub(super) fn result_code(result: HistoryResult) -> (u8, Option<u16>) {
    match result {
        HistoryResult::Nothing => (0, None),
        HistoryResult::Done => (1, None),
        HistoryResult::Failed(status) => (2, Some(status)),
        HistoryResult::Broken => (3, None),
        HistoryResult::Interrupted => (4, None),
    }
}

/// Columns of `history` in the order that [`history_at`] reads them.
pub(super) const HISTORY_COLUMNS: &str = "at, cause, key_set, counter, campaign, result, status, detail";

pub(super) fn history_at(row: &Row<'_>) -> Read<HistoryLine> {
    let (key_set, counter) = (column::<Option<u8>>(row, 2)?, column::<Option<i64>>(row, 3)?);
    let packet = key_set.zip(counter.and_then(|counter| u64::try_from(counter).ok()));
    let cause = match (column::<u8>(row, 1)?, packet) {
        (0, None) => Cause::Own,
        (1, Some((key_set, counter))) => Cause::Trigger { key_set, counter },
        (2, Some((key_set, counter))) => Cause::Command { key_set, counter },
        (3, None) => Cause::Operator,
        _ => return Err(RowFault::Corrupt("history cause")),
    };
    let result = match (column::<u8>(row, 5)?, column::<Option<u16>>(row, 6)?) {
        (0, None) => HistoryResult::Nothing,
        (1, None) => HistoryResult::Done,
        (2, Some(status)) => HistoryResult::Failed(status),
        (3, None) => HistoryResult::Broken,
        (4, None) => HistoryResult::Interrupted,
        _ => return Err(RowFault::Corrupt("history result")),
    };
    Ok(HistoryLine {
        at: EpochMs(column(row, 0)?),
        cause,
        campaign: column::<Option<u32>>(row, 4)?.map(CampaignId),
        result,
        detail: column::<Option<String>>(row, 7)?.unwrap_or_default(),
    })
}

/// Columns of `card` in the order that [`record_at`] reads them.
pub(super) const RECORD_COLUMNS: &str = "card, tenant, iccid, eid, imsi, msisdn, psk_identity, key_version, sealed_ota, \
     sealed_psk, sealed_subscription, sealed_admin_code";

pub(super) fn record_at(row: &Row<'_>) -> Read<CardRecord> {
    let id = card_at(row, 0)?;
    let other = |place: usize| -> Read<Option<CardId>> {
        let bytes: Option<Vec<u8>> = column(row, place)?;
        let id = bytes.map(|bytes| CardId::try_from(bytes.as_slice()));
        id.transpose().map_err(|_| RowFault::Corrupt("iccid or eid"))
    };
    let blob =
        |place: usize| -> Read<Vec<u8>> { Ok(column::<Option<Vec<u8>>>(row, place)?.unwrap_or_default()) };
    Ok(CardRecord {
        id,
        tenant: TenantId(column(row, 1)?),
        iccid: id.iccid().or(other(2)?.and_then(|other| other.iccid())),
        eid: id.eid().or(other(3)?.and_then(|other| other.eid())),
        imsi: digits_text(column(row, 4)?)?,
        msisdn: digits_text(column(row, 5)?)?,
        psk_identity: blob(6)?,
        sealed: SealedKeys {
            version: column(row, 7)?,
            ota: blob(8)?,
            psk: blob(9)?,
            subscription: blob(10)?,
            admin_code: blob(11)?,
        },
    })
}

/// Columns of `campaign` in the order that [`campaign_at`] reads them.
pub(super) const CAMPAIGN_COLUMNS: &str =
    "id, tenant, number, name, state, definition, progress_note, created_at, started_at, ended_at";

pub(super) fn campaign_at(row: &Row<'_>) -> Read<CampaignRecord> {
    Ok(CampaignRecord {
        id: CampaignId(column(row, 0)?),
        tenant: TenantId(column(row, 1)?),
        number: column(row, 2)?,
        name: column(row, 3)?,
        state: column(row, 4)?,
        definition: column(row, 5)?,
        progress_note: column(row, 6)?,
        created_at: EpochMs(column(row, 7)?),
        started_at: column::<Option<i64>>(row, 8)?.map(EpochMs),
        ended_at: column::<Option<i64>>(row, 9)?.map(EpochMs),
    })
}

pub(super) fn hash_at(row: &Row<'_>, place: usize) -> Read<[u8; 32]> {
    let bytes: Vec<u8> = column(row, place)?;
    bytes.try_into().map_err(|_| RowFault::Corrupt("a hash"))
}
