//! Reads as statements, on the connections of a group's readers.

use rusqlite::{Connection, Row, ToSql, params};
use simtide_platform::card::CardState;
use simtide_protocol::ids::{Bucket, CardId, EpochMs};

use super::apply::{PURGE_HISTORY, PURGE_PACKETS};
use super::codec::*;
use crate::store::rules::{self, Layout};
use crate::store::*;

/// The hot statements, each with what its query plan must say: a search by these columns, no scan, no sorting.
pub(super) fn hot_statements() -> Vec<(&'static str, String, &'static str)> {
    let (next, last) = (Order::NextPoll, Order::LastUpdate);
    let mut all = vec![
        ("card", record_sql(), "SEARCH card USING PRIMARY KEY (bucket=? AND card=?)"),
        ("hot row", hot_sql(), "SEARCH card_hot USING PRIMARY KEY (bucket=? AND card=?)"),
        ("counters", COUNTERS.into(), "SEARCH card_counter USING PRIMARY KEY (bucket=? AND card=?)"),
        ("alias", ALIAS.into(), "SEARCH card_alias USING PRIMARY KEY (kind=? AND alias=?)"),
        (
            "candidates from the top",
            candidates_sql(next, Part::All),
            "SEARCH card_hot USING COVERING INDEX card_by_next_poll (bucket=? AND operator=?)",
        ),
        (
            "candidates with the same key",
            candidates_sql(next, Part::Ties),
            "SEARCH card_hot USING COVERING INDEX card_by_next_poll (bucket=? AND operator=? AND next_poll=? AND card>?)",
        ),
        (
            "candidates below",
            candidates_sql(next, Part::Below),
            "SEARCH card_hot USING COVERING INDEX card_by_next_poll (bucket=? AND operator=? AND next_poll<?)",
        ),
        (
            "candidates by last update",
            candidates_sql(last, Part::Below),
            "SEARCH card_hot USING COVERING INDEX card_by_last_update (bucket=? AND operator=? AND last_update<?)",
        ),
        ("open packets", open_packets_sql(), "SEARCH packet USING INDEX packet_open (bucket=? AND card=?)"),
        (
            "exceptions that are due",
            exceptions_sql(),
            "SEARCH exception USING INDEX exception_due \
             (bucket=? AND campaign=? AND status=? AND (retry_at,card)>(?,?) AND retry_at<?)",
        ),
        ("history", history_sql(), "SEARCH history USING PRIMARY KEY (bucket=? AND card=? AND at<?)"),
        ("packets to delete", PURGE_PACKETS.into(), "USING INDEX packet_closed (deadline<?)"),
        ("history to delete", PURGE_HISTORY.into(), "USING COVERING INDEX history_by_time (at<?)"),
    ];
    all.extend(super::cases::hot_statements());
    all
}

const COUNTERS: &str =
    "SELECT key_set, counter FROM card_counter WHERE bucket = ?1 AND card = ?2 ORDER BY key_set";
const ALIAS: &str = "SELECT card FROM card_alias WHERE kind = ?1 AND alias = ?2";

fn record_sql() -> String {
    format!("SELECT {RECORD_COLUMNS} FROM card WHERE bucket = ?1 AND card = ?2")
}

fn hot_sql() -> String {
    format!("SELECT {HOT_COLUMNS} FROM card_hot WHERE bucket = ?1 AND card = ?2")
}

fn open_packets_sql() -> String {
    format!(
        "SELECT {PACKET_COLUMNS} FROM packet INDEXED BY packet_open WHERE bucket = ?1 AND card = ?2 AND state < 5 \
         ORDER BY key_set, counter"
    )
}

fn history_sql() -> String {
    format!(
        "SELECT {HISTORY_COLUMNS} FROM history WHERE bucket = ?1 AND card = ?2 AND at < ?3 \
         ORDER BY at DESC, sequence DESC LIMIT ?4"
    )
}

fn exceptions_sql() -> String {
    format!(
        "SELECT {EXCEPTION_COLUMNS} FROM exception WHERE bucket = ?1 AND campaign = ?2 AND status = ?3 \
         AND (retry_at, card) > (?4, ?5) AND retry_at <= ?6 ORDER BY retry_at, card LIMIT ?7"
    )
}

/// A page below a place is two searches: the rest of the same key, then the lower keys.
#[derive(Clone, Copy)]
pub(super) enum Part {
    All,
    Ties,
    Below,
}

fn candidates_sql(order: Order, part: Part) -> String {
    let (column, index) = match order {
        Order::NextPoll => ("next_poll", "card_by_next_poll"),
        Order::LastUpdate => ("last_update", "card_by_last_update"),
    };
    let bound = match part {
        Part::All => String::new(),
        Part::Ties => format!(" AND {column} = ?4 AND card > ?5"),
        Part::Below => format!(" AND {column} < ?4"),
    };
    format!(
        "SELECT card, {HOT_COLUMNS} FROM card_hot INDEXED BY {index} \
         WHERE bucket = ?1 AND operator = ?2{bound} ORDER BY {column} DESC, card LIMIT ?3"
    )
}

/// The index that the order by last update needs.
pub(super) const LAST_UPDATE_INDEX: &str = "CREATE INDEX IF NOT EXISTS card_by_last_update ON card_hot \
     (bucket, operator, last_update DESC, card, profile, state, device_kind, tags, next_poll, applied_base, \
     applied_mask)";

/// Whether it is there.
pub(super) fn has_last_update_index(connection: &Connection) -> Read<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = 'card_by_last_update'";
    Ok(!rows(connection, sql, &[], |_| Ok(()))?.is_empty())
}

/// A group's reading connection.
pub(super) struct Reads<'c> {
    pub(super) connection: &'c Connection,
    pub(super) layout: Layout,
}

/// Everything that is read while it lives is of the same moment.
struct Moment<'c>(&'c Connection);

impl Moment<'_> {
    fn begin(connection: &Connection) -> Read<Moment<'_>> {
        connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(Moment(connection))
    }
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        // A connection that cannot end it says so when the next one begins.
        let _ = self.0.prepare_cached("ROLLBACK").and_then(|mut statement| statement.execute([]));
    }
}

impl Reads<'_> {
    pub(super) fn card(&self, card: CardId) -> Read<Option<Card>> {
        let _moment = Moment::begin(self.connection)?;
        self.card_rows(card)
    }

    pub(super) fn standing(&self, card: CardId, case: Option<(CaseKind, u64)>) -> Read<Option<Standing>> {
        let _moment = Moment::begin(self.connection)?;
        let Some(found) = self.card_rows(card)? else { return Ok(None) };
        let case = match case {
            Some((kind, id)) => self.case_of(card, kind, id)?,
            None => None,
        };
        Ok(Some(Standing { card: found, open: self.open_packets(card)?, case }))
    }

    fn card_rows(&self, card: CardId) -> Read<Option<Card>> {
        let (bucket, id) = (self.layout.bucket(card).0, card.as_bytes());
        let Some(record) = first(self.connection, &record_sql(), params![bucket, id], record_at)? else {
            return Ok(None);
        };
        let hot = first(self.connection, &hot_sql(), params![bucket, id], |row| hot_at(row, 0))?;
        let hot = hot.ok_or(RowFault::Corrupt("a card without its narrow row"))?;
        let counters = rows(self.connection, COUNTERS, params![bucket, id], |row| {
            Ok((row.get::<_, u8>(0)?, counter_at(row, 1)?))
        })?;
        let sql = format!(
            "SELECT {EXCEPTION_COLUMNS} FROM exception WHERE bucket = ?1 AND card = ?2 ORDER BY campaign"
        );
        let exceptions = rows(self.connection, &sql, params![bucket, id], exception_at)?;
        Ok(Some(Card { record, hot, counters, exceptions }))
    }

    pub(super) fn find(&self, alias: &Alias) -> Read<Option<CardId>> {
        let (kind, value) = rules::alias_key(alias);
        first(self.connection, ALIAS, params![kind, value], |row| card_at(row, 0))
    }

    pub(super) fn candidates(&self, query: &CandidateQuery) -> Read<Page<Candidate>> {
        let (bucket, operator) = (query.bucket.0, query.operator.0);
        // One more than asked for says whether more follow.
        let wanted = query.rows_max + 1;
        let read = |row: &Row<'_>| Ok(Candidate { card: card_at(row, 0)?, hot: hot_at(row, 1)? });
        let mut found = match query.below {
            None => {
                let sql = candidates_sql(query.order, Part::All);
                rows(self.connection, &sql, params![bucket, operator, wanted as i64], read)?
            }
            Some(below) => {
                let _moment = Moment::begin(self.connection)?;
                let (key, card) = (below.key.0, below.card.as_bytes());
                let ties = candidates_sql(query.order, Part::Ties);
                let mut found =
                    rows(self.connection, &ties, params![bucket, operator, wanted as i64, key, card], read)?;
                let rest = wanted - found.len();
                if rest > 0 {
                    let lower = candidates_sql(query.order, Part::Below);
                    found.extend(rows(
                        self.connection,
                        &lower,
                        params![bucket, operator, rest as i64, key],
                        read,
                    )?);
                }
                found
            }
        };
        let end = found.len() <= query.rows_max;
        found.truncate(query.rows_max);
        Ok(Page { rows: found, end })
    }

    pub(super) fn cards(
        &self,
        bucket: Bucket,
        filter: &CardFilter,
        after: Option<CardId>,
        rows_max: usize,
    ) -> Read<(Page<Candidate>, Option<CardId>)> {
        let sql = format!(
            "SELECT card, {HOT_COLUMNS} FROM card_hot WHERE bucket = ?1 AND card > ?2 ORDER BY card LIMIT ?3"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let after = after.as_ref().map_or(&[][..], CardId::as_bytes);
        let mut cursor = statement.query(params![bucket.0, after, rules::CARDS_EXAMINED_MAX as i64])?;
        let (mut found, mut examined, mut last) = (Vec::new(), 0, None);
        while let Some(row) = cursor.next()? {
            let candidate = Candidate { card: card_at(row, 0)?, hot: hot_at(row, 1)? };
            if rules::filter_shows(filter, &candidate.hot) {
                if found.len() == rows_max {
                    let last = found.last().map(|candidate: &Candidate| candidate.card);
                    return Ok((Page { rows: found, end: false }, last));
                }
                found.push(candidate);
            }
            last = Some(candidate.card);
            examined += 1;
        }
        let end = examined < rules::CARDS_EXAMINED_MAX;
        Ok((Page { rows: found, end }, last.filter(|_| !end)))
    }

    pub(super) fn card_counts(&self) -> Read<Vec<(Bucket, OperatorId, u64)>> {
        let sql = "SELECT bucket, operator, count(*) FROM card_hot INDEXED BY card_by_next_poll \
             GROUP BY bucket, operator";
        rows(self.connection, sql, &[], |row| {
            Ok((Bucket(row.get(0)?), OperatorId(row.get(1)?), counter_at(row, 2)?))
        })
    }

    /// Adds to `counts`. One range of the index per bucket and operator.
    pub(super) fn polls_due(
        &self,
        keys: &[(Bucket, OperatorId)],
        from: EpochMs,
        slot_ms: u64,
        counts: &mut [u64],
    ) -> Read<()> {
        let slot = signed(slot_ms);
        let to = from.plus_ms(slot.saturating_mul(counts.len() as i64)).0;
        let sql = "SELECT (next_poll - ?3) / ?4, count(*) FROM card_hot INDEXED BY card_by_next_poll \
             WHERE bucket = ?1 AND operator = ?2 AND next_poll >= ?3 AND next_poll < ?5 AND state != ?6 GROUP BY 1";
        for (bucket, operator) in keys {
            let values = params![bucket.0, operator.0, from.0, slot, to, CardState::Retired.code()];
            let found =
                rows(self.connection, sql, values, |row| Ok((counter_at(row, 0)?, counter_at(row, 1)?)))?;
            for (slot, count) in found {
                if let Some(sum) = usize::try_from(slot).ok().and_then(|slot| counts.get_mut(slot)) {
                    *sum += count;
                }
            }
        }
        Ok(())
    }

    /// Buckets and operators that have cards, by skipping along the index.
    pub(super) fn operators(&self) -> Read<Vec<(Bucket, OperatorId)>> {
        let sql = "SELECT bucket, operator FROM card_hot INDEXED BY card_by_next_poll \
             WHERE (bucket, operator) > (?1, ?2) ORDER BY bucket, operator LIMIT 1";
        let mut found: Vec<(Bucket, OperatorId)> = Vec::new();
        let mut last = (-1_i64, -1_i64);
        while let Some(key) = first(self.connection, sql, params![last.0, last.1], |row| {
            Ok((Bucket(row.get(0)?), OperatorId(row.get(1)?)))
        })? {
            last = (i64::from(key.0.0), i64::from(key.1.0));
            found.push(key);
        }
        Ok(found)
    }

    pub(super) fn exceptions(&self, query: &ExceptionQuery) -> Read<Page<Exception>> {
        let (bucket, campaign, status) = (query.bucket.0, query.campaign.0, status_code(query.status));
        let after = query.after.as_ref();
        // "Not by itself" is stored as -1: below every date, and never due.
        let lowest = if query.due.is_some() { NEVER_MS } else { i64::MIN };
        let (key, card) =
            after.map_or((lowest, &[0xFF_u8; 17][..]), |after| (after.key.0, after.card.as_bytes()));
        let (key, due) = (key.max(lowest), query.due.map_or(i64::MAX, |due| due.0));
        let wanted = query.rows_max as i64 + 1;
        let values = params![bucket, campaign, status, key, card, due, wanted];
        let mut found = rows(self.connection, &exceptions_sql(), values, exception_at)?;
        let end = found.len() <= query.rows_max;
        found.truncate(query.rows_max);
        Ok(Page { rows: found, end })
    }

    pub(super) fn open_packets(&self, card: CardId) -> Read<Vec<Packet>> {
        let values = params![self.layout.bucket(card).0, card.as_bytes()];
        rows(self.connection, &open_packets_sql(), values, packet_at)
    }

    pub(super) fn packet(&self, key: PacketKey) -> Read<Option<Packet>> {
        let sql = format!(
            "SELECT {PACKET_COLUMNS} FROM packet WHERE bucket = ?1 AND card = ?2 AND key_set = ?3 AND counter = ?4"
        );
        let (bucket, counter) = (self.layout.bucket(key.card).0, signed(key.counter));
        first(self.connection, &sql, params![bucket, key.card.as_bytes(), key.key_set, counter], packet_at)
    }

    pub(super) fn packets(
        &self,
        bucket: Bucket,
        due: Option<EpochMs>,
        after: Option<PacketKey>,
        rows_max: usize,
    ) -> Read<Page<Packet>> {
        let sql = format!(
            "SELECT {PACKET_COLUMNS} FROM packet INDEXED BY packet_open WHERE bucket = ?1 AND state < 5 \
             AND (card, key_set, counter) > (?2, ?3, ?4) AND deadline <= ?5 ORDER BY card, key_set, counter LIMIT ?6"
        );
        let card = after.as_ref().map_or(&[][..], |after| after.card.as_bytes());
        let (key_set, counter) = after.map_or((0, 0), |after| (after.key_set, signed(after.counter)));
        let (due, wanted) = (due.map_or(i64::MAX, |due| due.0), rows_max as i64 + 1);
        let values = params![bucket.0, card, key_set, counter, due, wanted];
        let mut found = rows(self.connection, &sql, values, packet_at)?;
        let end = found.len() <= rows_max;
        found.truncate(rows_max);
        Ok(Page { rows: found, end })
    }

    pub(super) fn history(&self, card: CardId, before: EpochMs, rows_max: usize) -> Read<Vec<HistoryLine>> {
        let (bucket, wanted) = (self.layout.bucket(card).0, rows_max.min(PAGE_ROWS_MAX) as i64);
        rows(self.connection, &history_sql(), params![bucket, card.as_bytes(), before.0, wanted], history_at)
    }

    pub(super) fn cursors(&self, campaign: CampaignId) -> Read<Vec<(Bucket, OperatorId, Cursor)>> {
        let sql = "SELECT bucket, operator, pass, order_key, card, exhausted FROM campaign_cursor WHERE campaign = ?1 \
             ORDER BY bucket, operator";
        rows(self.connection, sql, params![campaign.0], |row| {
            let key: Option<i64> = row.get(3)?;
            let position = match key {
                Some(key) => Some(Position { key: EpochMs(key), card: card_at(row, 4)? }),
                None => None,
            };
            let cursor = Cursor { pass: row.get(2)?, position, exhausted: row.get(5)? };
            Ok((Bucket(row.get(0)?), OperatorId(row.get(1)?), cursor))
        })
    }

    pub(super) fn progress(&self, campaign: CampaignId) -> Read<Progress> {
        let sums = Progress::COLUMNS.map(|column| format!("coalesce(sum({column}), 0)")).join(", ");
        let sql = format!("SELECT {sums} FROM progress WHERE campaign = ?1");
        let read = |row: &Row<'_>| {
            let mut values = Progress::default().values();
            for (place, value) in values.iter_mut().enumerate() {
                *value = row.get(place)?;
            }
            Ok(Progress::of(values))
        };
        Ok(first(self.connection, &sql, params![campaign.0], read)?.unwrap_or_default())
    }

    pub(super) fn campaigns(&self) -> Read<Vec<CampaignRecord>> {
        let sql = format!("SELECT {CAMPAIGN_COLUMNS} FROM campaign ORDER BY id");
        rows(self.connection, &sql, &[], campaign_at)
    }

    pub(super) fn directory(&self) -> Read<Directory> {
        let connection = self.connection;
        let mut all = rows(connection, "SELECT id, name FROM tenant ORDER BY id", &[], |row| {
            Ok(DirectoryRow::Tenant { id: TenantId(row.get(0)?), name: row.get(1)? })
        })?;
        all.extend(rows(
            connection,
            "SELECT id, tenant, name, settings FROM operator ORDER BY id",
            &[],
            |row| {
                let (id, tenant) = (OperatorId(row.get(0)?), TenantId(row.get(1)?));
                Ok(DirectoryRow::Operator { id, tenant, name: row.get(2)?, settings: row.get(3)? })
            },
        )?);
        let agreements =
            "SELECT from_operator, to_operator, terms FROM agreement ORDER BY from_operator, to_operator";
        all.extend(rows(connection, agreements, &[], |row| {
            let (from, to) = (OperatorId(row.get(0)?), OperatorId(row.get(1)?));
            Ok(DirectoryRow::Agreement { from, to, terms: row.get(2)? })
        })?);
        all.extend(rows(connection, "SELECT id, name, text FROM profile ORDER BY id", &[], |row| {
            Ok(DirectoryRow::Profile { id: ProfileId(row.get(0)?), name: row.get(1)?, text: row.get(2)? })
        })?);
        all.extend(rows(connection, "SELECT tenant, bit, name FROM tag ORDER BY tenant, bit", &[], |row| {
            Ok(DirectoryRow::Tag { tenant: TenantId(row.get(0)?), bit: row.get(1)?, name: row.get(2)? })
        })?);
        all.extend(rows(connection, "SELECT code, name FROM device_kind ORDER BY code", &[], |row| {
            Ok(DirectoryRow::DeviceKind { code: row.get(0)?, name: row.get(1)? })
        })?);
        Ok(Directory { rows: all })
    }

    pub(super) fn audit(&self, after: u64, rows_max: usize) -> Read<Vec<AuditRow>> {
        let sql = "SELECT sequence, chain, at, tenant, actor, action, object, detail FROM audit WHERE sequence > ?1 \
             ORDER BY sequence LIMIT ?2";
        rows(self.connection, sql, params![signed(after), rows_max.min(PAGE_ROWS_MAX) as i64], |row| {
            let line = AuditLine {
                at: EpochMs(row.get(2)?),
                tenant: TenantId(row.get(3)?),
                actor: row.get(4)?,
                action: row.get(5)?,
                object: row.get(6)?,
                detail: row.get(7)?,
            };
            Ok(AuditRow { sequence: counter_at(row, 0)?, chain: hash_at(row, 1)?, line })
        })
    }

    pub(super) fn idempotency(&self, tenant: TenantId, key: &str) -> Read<Option<IdempotencyRow>> {
        let sql = "SELECT request_hash, status, body, at FROM idempotency WHERE tenant = ?1 AND key = ?2";
        first(self.connection, sql, params![tenant.0, key], |row| {
            Ok(IdempotencyRow {
                tenant,
                key: key.to_owned(),
                request_hash: hash_at(row, 0)?,
                status: row.get(1)?,
                body: row.get(2)?,
                at: EpochMs(row.get(3)?),
            })
        })
    }

    pub(super) fn import_jobs(&self, id: Option<[u8; 32]>, rows_max: usize) -> Read<Vec<ImportJob>> {
        let sql = "SELECT id, tenant, name, rows_settled, imported, unchanged, refused, finished, at FROM import_job \
             WHERE ?1 IS NULL OR id = ?1 ORDER BY at DESC, id LIMIT ?2";
        rows(self.connection, sql, params![id, rows_max.min(PAGE_ROWS_MAX) as i64], |row| {
            Ok(ImportJob {
                id: hash_at(row, 0)?,
                tenant: TenantId(row.get(1)?),
                name: row.get(2)?,
                rows_settled: counter_at(row, 3)?,
                imported: counter_at(row, 4)?,
                unchanged: counter_at(row, 5)?,
                refused: counter_at(row, 6)?,
                finished: row.get(7)?,
                at: EpochMs(row.get(8)?),
            })
        })
    }
}

pub(super) fn rows<T>(
    connection: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
    read: impl Fn(&Row<'_>) -> Read<T>,
) -> Read<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut cursor = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = cursor.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

pub(super) fn first<T>(
    connection: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
    read: impl Fn(&Row<'_>) -> Read<T>,
) -> Read<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut cursor = statement.query(values)?;
    cursor.next()?.map(read).transpose()
}
