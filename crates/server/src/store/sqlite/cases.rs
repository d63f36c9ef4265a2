//! Cases and identities as statements.

use rusqlite::{Row, params};
use simtide_protocol::ids::{CardId, ChangeId, EpochMs};

use super::apply::{Applied, Apply};
use super::codec::*;
use super::read::{Reads, first, rows};
use crate::store::rules;
use crate::store::*;

const CASE_COLUMNS: &str = "card, kind, id, tenant, at, state, open, due, version, body, sealed";
const IDENTITY_COLUMNS: &str = "card, sequence, since, imsi, msisdn, operator, change";

/// Closed deliveries that began before, oldest first.
pub(super) const PURGE_DELIVERIES: &str = "DELETE FROM card_case WHERE rowid IN (SELECT rowid FROM card_case \
     INDEXED BY card_case_closed WHERE open = 0 AND kind = 1 AND at < ?1 ORDER BY at LIMIT ?2)";

pub(super) fn hot_statements() -> Vec<(&'static str, String, &'static str)> {
    vec![
        ("a case", case_sql(), "SEARCH card_case USING INDEX card_case_id (kind=? AND id=?)"),
        (
            "open case of a card",
            OPEN_CASE.into(),
            "SEARCH card_case USING INDEX card_case_of_card (bucket=? AND card=? AND kind=?)",
        ),
        ("deliveries to delete", PURGE_DELIVERIES.into(), "USING COVERING INDEX card_case_closed (at<?)"),
    ]
}

/// Asked for changes, of which a card has few.
const OPEN_CASE: &str = "SELECT id FROM card_case INDEXED BY card_case_of_card WHERE bucket = ?1 AND card = ?2 \
     AND kind = ?3 AND open = 1 AND id <> ?4 LIMIT 1";

fn case_sql() -> String {
    format!("SELECT {CASE_COLUMNS} FROM card_case WHERE kind = ?1 AND id = ?2")
}

/// Ids use all 64 bits and keep their order as signed numbers.
fn id_number(id: u64) -> i64 {
    (id ^ (1 << 63)).cast_signed()
}

fn number_id(number: i64) -> u64 {
    number.cast_unsigned() ^ (1 << 63)
}

fn case_at(row: &Row<'_>) -> Read<CaseRow> {
    Ok(CaseRow {
        card: card_at(row, 0)?,
        kind: CaseKind::from_code(row.get(1)?).ok_or(RowFault::Corrupt("case kind"))?,
        id: number_id(row.get(2)?),
        tenant: TenantId(row.get(3)?),
        at: EpochMs(row.get(4)?),
        state: row.get(5)?,
        open: row.get(6)?,
        due: row.get::<_, Option<i64>>(7)?.map(EpochMs),
        version: row.get(8)?,
        body: row.get(9)?,
        sealed: row.get(10)?,
    })
}

fn identity_at(row: &Row<'_>) -> Read<IdentityRow> {
    Ok(IdentityRow {
        card: card_at(row, 0)?,
        sequence: row.get(1)?,
        since: row.get::<_, Option<i64>>(2)?.map(EpochMs),
        imsi: digits_text(row.get(3)?)?,
        msisdn: digits_text(row.get(4)?)?,
        operator: OperatorId(row.get(5)?),
        change: row.get::<_, Option<i64>>(6)?.map(|id| ChangeId(number_id(id))),
    })
}

impl Apply<'_> {
    pub(super) fn put_case(&self, row: &CaseRow, version_before: Option<u32>) -> Applied<Outcome> {
        let (bucket, card, kind, id) =
            (self.bucket(row.card), row.card.as_bytes(), row.kind.code(), id_number(row.id));
        let sql = "SELECT rowid, version, open FROM card_case WHERE kind = ?1 AND id = ?2";
        let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?, row.get::<_, bool>(2)?));
        let found = self.one(sql, params![kind, id], read)?;
        // One that is there has its card.
        if found.is_none() && !self.has_card(row.card)? {
            return Ok(Outcome::Missing);
        }
        let is_open = found.is_some_and(|(.., open)| open);
        // One that is open already is the only one.
        let other = if row.kind == CaseKind::Change && row.open && !is_open {
            self.one(OPEN_CASE, params![bucket, card, kind, id], |row| Ok(number_id(row.get(0)?)))?
        } else {
            None
        };
        let version_found = found.map(|(_, version, _)| version);
        if let Err(outcome) = rules::grant_case(row, version_before, version_found, other) {
            return Ok(outcome);
        }
        let due = row.due.map(|due| due.0);
        let CaseRow { tenant, at, state, open, version, body, sealed, .. } = row;
        // Columns that stay are not named: their indexes are left alone.
        match found {
            Some((place, ..)) if is_open == *open => {
                let sql = "UPDATE card_case SET state = ?2, due = ?3, version = ?4, body = ?5, sealed = ?6 \
                     WHERE rowid = ?1";
                self.changed(sql, params![place, state, due, version, body, sealed], Outcome::Missing)
            }
            Some((place, ..)) => {
                let sql = "UPDATE card_case SET state = ?2, due = ?3, version = ?4, body = ?5, sealed = ?6, open = ?7 \
                     WHERE rowid = ?1";
                self.changed(sql, params![place, state, due, version, body, sealed, open], Outcome::Missing)
            }
            None => {
                let sql = "INSERT INTO card_case (bucket, card, kind, id, tenant, at, state, open, due, version, body, \
                     sealed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
                let values =
                    params![bucket, card, kind, id, tenant.0, at.0, state, open, due, version, body, sealed];
                self.changed(sql, values, Outcome::Missing)
            }
        }
    }

    fn has_card(&self, card: CardId) -> Applied<bool> {
        let sql = "SELECT 1 FROM card_hot WHERE bucket = ?1 AND card = ?2";
        Ok(self.one(sql, params![self.bucket(card), card.as_bytes()], |_| Ok(()))?.is_some())
    }

    pub(super) fn subscription(&self, card: CardId, change: &SubscriptionChange) -> Applied<Outcome> {
        let (bucket, id) = (self.bucket(card), card.as_bytes());
        let Some(hot) = self.hot(card)? else { return Ok(Outcome::Missing) };
        let sql = format!("SELECT {RECORD_COLUMNS} FROM card WHERE bucket = ?1 AND card = ?2");
        let Some(record) = self.one(&sql, params![bucket, id], record_at)? else {
            return Ok(Outcome::Missing);
        };
        let latest = self.one(&identities_sql(), params![bucket, id, 1], identity_at)?;
        let added = rules::identity_rows(&record, hot.operator, latest.as_ref(), change);
        if added.is_empty() {
            return Ok(Outcome::Unchanged);
        }
        for row in added {
            self.identity(&row)?;
        }
        let sql = "UPDATE card SET imsi = ?3, msisdn = ?4, sealed_subscription = ?5 WHERE bucket = ?1 AND card = ?2";
        let (imsi, msisdn) = numbers(Some(change.imsi), change.msisdn);
        self.run(sql, params![bucket, id, imsi, msisdn, change.sealed_subscription])?;
        let sql = "UPDATE card_hot SET operator = ?3 WHERE bucket = ?1 AND card = ?2";
        self.changed(sql, params![bucket, id, change.operator.0], Outcome::Missing)
    }

    fn identity(&self, row: &IdentityRow) -> Applied<()> {
        let sql = "INSERT INTO card_identity (bucket, card, sequence, since, imsi, msisdn, operator, change) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let (imsi, msisdn) = numbers(row.imsi, row.msisdn);
        let (since, change) = (row.since.map(|at| at.0), row.change.map(|change| id_number(change.0)));
        let (bucket, card) = (self.bucket(row.card), row.card.as_bytes());
        self.run(sql, params![bucket, card, row.sequence, since, imsi, msisdn, row.operator.0, change])?;
        Ok(())
    }
}

fn numbers(
    imsi: Option<simtide_protocol::ids::Imsi>,
    msisdn: Option<simtide_protocol::ids::Msisdn>,
) -> (Option<i64>, Option<i64>) {
    let text = |number: Option<String>| digits_number(number);
    (text(imsi.map(|imsi| imsi.to_string())), text(msisdn.map(|msisdn| msisdn.to_string())))
}

fn identities_sql() -> String {
    format!(
        "SELECT {IDENTITY_COLUMNS} FROM card_identity WHERE bucket = ?1 AND card = ?2 ORDER BY sequence DESC LIMIT ?3"
    )
}

impl Reads<'_> {
    pub(super) fn case(&self, kind: CaseKind, id: u64) -> Read<Option<CaseRow>> {
        first(self.connection, &case_sql(), params![kind.code(), id_number(id)], case_at)
    }

    pub(super) fn case_of(&self, card: CardId, kind: CaseKind, id: u64) -> Read<Option<CaseRow>> {
        Ok(self.case(kind, id)?.filter(|row| row.card == card))
    }

    pub(super) fn cases_of(&self, card: CardId, kind: CaseKind, rows_max: usize) -> Read<Vec<CaseRow>> {
        let sql = format!(
            "SELECT {CASE_COLUMNS} FROM card_case WHERE bucket = ?1 AND card = ?2 AND kind = ?3 \
             ORDER BY at DESC, id DESC LIMIT ?4"
        );
        let wanted = rows_max.min(PAGE_ROWS_MAX) as i64;
        let values = params![self.layout.bucket(card).0, card.as_bytes(), kind.code(), wanted];
        rows(self.connection, &sql, values, case_at)
    }

    pub(super) fn cases(&self, query: &CaseQuery) -> Read<Page<CaseRow>> {
        let (kind, bucket, wanted) = (query.kind.code(), query.bucket.0, query.rows_max as i64 + 1);
        let (index, bound) = match query.open {
            Some(true) => ("card_case_open_by_id", " AND open = 1"),
            Some(false) => ("card_case_by_id", " AND open = 0"),
            None => ("card_case_by_id", ""),
        };
        let from = if query.after.is_some() { " AND id > ?3" } else { " AND id >= ?3" };
        let sql = format!(
            "SELECT {CASE_COLUMNS} FROM card_case INDEXED BY {index} WHERE kind = ?1 AND bucket = ?2{bound}{from} \
             AND (?4 IS NULL OR state = ?4) ORDER BY id LIMIT ?5"
        );
        let id = query.after.map_or(i64::MIN, id_number);
        let mut found = rows(self.connection, &sql, params![kind, bucket, id, query.state, wanted], case_at)?;
        let end = found.len() <= query.rows_max;
        found.truncate(query.rows_max);
        Ok(Page { rows: found, end })
    }

    pub(super) fn identities(&self, card: CardId, rows_max: usize) -> Read<Vec<IdentityRow>> {
        let wanted = rows_max.min(PAGE_ROWS_MAX) as i64;
        let values = params![self.layout.bucket(card).0, card.as_bytes(), wanted];
        rows(self.connection, &identities_sql(), values, identity_at)
    }

    pub(super) fn latest_packets(&self, card: CardId, key_set: u8, rows_max: usize) -> Read<Vec<Packet>> {
        let sql = format!(
            "SELECT {PACKET_COLUMNS} FROM packet WHERE bucket = ?1 AND card = ?2 AND key_set = ?3 \
             ORDER BY counter DESC LIMIT ?4"
        );
        let wanted = rows_max.min(PAGE_ROWS_MAX) as i64;
        let values = params![self.layout.bucket(card).0, card.as_bytes(), key_set, wanted];
        rows(self.connection, &sql, values, packet_at)
    }
}
