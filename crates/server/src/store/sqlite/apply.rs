//! A batch as statements, inside the transaction of the group's writer.

use std::sync::LazyLock;

use rusqlite::{Connection, OptionalExtension, ToSql, params};
use simtide_protocol::ids::{Bucket, CardId};

use super::codec::*;
use crate::store::rules::{self, Layout};
use crate::store::*;

/// Adds a change to a campaign's sums in a bucket: `?1` bucket, `?2` campaign, from `?3` on [`Progress::values`].
static ADD_PROGRESS: LazyLock<String> = LazyLock::new(|| {
    let columns = Progress::COLUMNS.join(", ");
    let places = Progress::COLUMNS.iter().zip(3..);
    let raised = places.clone().map(|(column, place)| format!("{column} = {column} + ?{place}"));
    let raised = raised.collect::<Vec<_>>().join(", ");
    let places = places.map(|(_, place)| format!("?{place}")).collect::<Vec<_>>().join(", ");
    format!(
        "INSERT INTO progress (bucket, campaign, {columns}) VALUES (?1, ?2, {places}) ON CONFLICT DO UPDATE SET {raised}"
    )
});

/// Why a batch was not applied.
pub(super) enum ApplyFault {
    /// The caller's mistake, or a row that cannot be read: this batch only.
    Batch(StoreError),
    /// The engine: nothing may be written any more.
    Engine(rusqlite::Error),
}

impl From<RowFault> for ApplyFault {
    fn from(fault: RowFault) -> ApplyFault {
        match fault {
            RowFault::Engine(error) => ApplyFault::Engine(error),
            fault => ApplyFault::Batch(fault.to_store_error()),
        }
    }
}

impl From<rusqlite::Error> for ApplyFault {
    fn from(error: rusqlite::Error) -> ApplyFault {
        ApplyFault::from(RowFault::from(error))
    }
}

impl From<StoreError> for ApplyFault {
    fn from(error: StoreError) -> ApplyFault {
        ApplyFault::Batch(error)
    }
}

pub(super) type Applied<T> = Result<T, ApplyFault>;

/// The open transaction of a group.
pub(super) struct Apply<'c> {
    pub(super) connection: &'c Connection,
    pub(super) layout: Layout,
}

impl Apply<'_> {
    pub(super) fn batch(&self, batch: &Batch) -> Applied<Committed> {
        let mut outcomes = Vec::with_capacity(batch.ops.len());
        for op in &batch.ops {
            let outcome = self.op(op)?;
            let stops = matches!(op, Op::PutCase { .. }) && outcome != Outcome::Done;
            outcomes.push(outcome);
            if stops {
                outcomes.resize(batch.ops.len(), Outcome::Skipped);
                break;
            }
        }
        Ok(Committed { outcomes })
    }

    fn op(&self, op: &Op) -> Applied<Outcome> {
        match op {
            Op::ClaimAlias { alias, card, from } => self.claim(alias, *card, *from),
            Op::ReleaseAlias { alias, card } => {
                let (kind, value) = rules::alias_key(alias);
                let sql = "DELETE FROM card_alias WHERE kind = ?1 AND alias = ?2 AND card = ?3";
                self.changed(sql, params![kind, value, card.as_bytes()], Outcome::Unchanged)
            }
            Op::PutCard(new) => self.put_card(new),
            Op::ChangeCard { card, change } => self.change_card(*card, change),
            Op::PollBegun { card, at, next_poll } => {
                let sql =
                    "UPDATE card_hot SET last_update = ?3, next_poll = ?4 WHERE bucket = ?1 AND card = ?2";
                self.changed(
                    sql,
                    params![self.bucket(*card), card.as_bytes(), at.0, next_poll.0],
                    Outcome::Missing,
                )
            }
            Op::Attempt { card, campaign, step, .. } => self.attempt(*card, *campaign, *step),
            Op::PollDone(done) => self.poll_done(done),
            Op::Trigger(trigger) => self.trigger(trigger),
            Op::Command(command) => self.command(command),
            Op::Packet(change) => self.packet(change),
            Op::Exception(change) => self.exception(change),
            Op::PutCase { row, version_before } => self.put_case(row, *version_before),
            Op::History { card, lines } => {
                lines.iter().try_for_each(|line| self.history_line(*card, line))?;
                Ok(Outcome::Done)
            }
            Op::Progress { bucket, campaign, change } => {
                self.progress(*bucket, *campaign, change)?;
                Ok(Outcome::Done)
            }
            Op::Cursor { bucket, campaign, operator, cursor } => {
                self.cursor(*bucket, *campaign, *operator, cursor)?;
                Ok(Outcome::Done)
            }
            Op::JumpCounters => {
                let sql = "UPDATE card_counter SET counter = min(counter + ?1, ?2) WHERE key_set < ?3";
                self.run(sql, params![signed(COUNTER_JUMP), signed(rules::COUNTER_MAX), UPLINK_COUNTER])?;
                Ok(Outcome::Done)
            }
            Op::Purge { packets_before, history_before } => self.purge(packets_before.0, history_before.0),
            _ => self.platform_op(op),
        }
    }

    pub(super) fn bucket(&self, card: CardId) -> u16 {
        self.layout.bucket(card).0
    }

    pub(super) fn run(&self, sql: &str, values: &[&dyn ToSql]) -> Applied<usize> {
        Ok(self.connection.prepare_cached(sql)?.execute(values)?)
    }

    /// `Done` where a row was changed, else `otherwise`.
    pub(super) fn changed(&self, sql: &str, values: &[&dyn ToSql], otherwise: Outcome) -> Applied<Outcome> {
        Ok(if self.run(sql, values)? > 0 { Outcome::Done } else { otherwise })
    }

    pub(super) fn one<T>(
        &self,
        sql: &str,
        values: &[&dyn ToSql],
        read: impl FnOnce(&rusqlite::Row<'_>) -> Read<T>,
    ) -> Applied<Option<T>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(values)?;
        Ok(rows.next()?.map(read).transpose()?)
    }

    fn claim(&self, alias: &Alias, card: CardId, from: Option<CardId>) -> Applied<Outcome> {
        let (kind, value) = rules::alias_key(alias);
        let insert = "INSERT INTO card_alias (kind, alias, card) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        if self.run(insert, params![kind, value, card.as_bytes()])? > 0 {
            return Ok(Outcome::Done);
        }
        let select = "SELECT card FROM card_alias WHERE kind = ?1 AND alias = ?2";
        let owner = self.one(select, params![kind, value], |row| card_at(row, 0))?;
        match owner {
            Some(owner) if owner == card => Ok(Outcome::Unchanged),
            Some(owner) if Some(owner) != from => Ok(Outcome::Taken(owner)),
            _ => {
                let update = "UPDATE card_alias SET card = ?3 WHERE kind = ?1 AND alias = ?2";
                self.changed(update, params![kind, value, card.as_bytes()], Outcome::Missing)
            }
        }
    }

    fn put_card(&self, new: &NewCard) -> Applied<Outcome> {
        let (record, hot) = (&new.record, &new.hot);
        let (bucket, card) = (self.bucket(record.id), record.id.as_bytes());
        let iccid = record.iccid.map(CardId::from).filter(|id| *id != record.id);
        let eid = record.eid.map(CardId::from).filter(|id| *id != record.id);
        let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| bytes.to_vec());
        let insert = "INSERT INTO card (bucket, card, tenant, iccid, eid, imsi, msisdn, psk_identity, key_version, \
             sealed_ota, sealed_psk, sealed_subscription, sealed_admin_code) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT DO NOTHING";
        let written = self.run(
            insert,
            params![
                bucket,
                card,
                record.tenant.0,
                iccid.as_ref().map(CardId::as_bytes),
                eid.as_ref().map(CardId::as_bytes),
                digits_number(record.imsi.map(|imsi| imsi.to_string())),
                digits_number(record.msisdn.map(|msisdn| msisdn.to_string())),
                some(&record.psk_identity),
                record.sealed.version,
                some(&record.sealed.ota),
                some(&record.sealed.psk),
                some(&record.sealed.subscription),
                some(&record.sealed.admin_code),
            ],
        )?;
        if written == 0 {
            return Ok(Outcome::Unchanged);
        }
        let insert = "INSERT INTO card_hot (bucket, card, operator, profile, state, device_kind, tags, last_update, \
             next_poll, applied_base, applied_mask) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.run(
            insert,
            params![
                bucket,
                card,
                hot.operator.0,
                hot.profile.0,
                hot.state.code(),
                hot.device_kind,
                hot.tags.cast_signed(),
                date_ms(hot.last_update),
                hot.next_poll.0,
                hot.applied.base,
                hot.applied.mask.cast_signed(),
            ],
        )?;
        for (key_set, counter) in &new.counters {
            self.put_counter(record.id, *key_set, *counter)?;
        }
        Ok(Outcome::Done)
    }

    fn put_counter(&self, card: CardId, key_set: u8, counter: u64) -> Applied<()> {
        let sql = "INSERT INTO card_counter (bucket, card, key_set, counter) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT DO UPDATE SET counter = max(counter, excluded.counter)";
        self.run(sql, params![self.bucket(card), card.as_bytes(), key_set, signed(counter)])?;
        Ok(())
    }

    fn change_card(&self, card: CardId, change: &CardChange) -> Applied<Outcome> {
        let (bucket, id) = (self.bucket(card), card.as_bytes());
        let hot = |column: &str| format!("UPDATE card_hot SET {column} = ?3 WHERE bucket = ?1 AND card = ?2");
        match change {
            CardChange::State(state) => {
                self.changed(&hot("state"), params![bucket, id, state.code()], Outcome::Missing)
            }
            CardChange::Tags(tags) => {
                self.changed(&hot("tags"), params![bucket, id, tags.cast_signed()], Outcome::Missing)
            }
            CardChange::NextPoll(date) => {
                self.changed(&hot("next_poll"), params![bucket, id, date.0], Outcome::Missing)
            }
            CardChange::Msisdn(msisdn) => {
                let sql = "UPDATE card SET msisdn = ?3 WHERE bucket = ?1 AND card = ?2";
                let number = digits_number(msisdn.map(|msisdn| msisdn.to_string()));
                self.changed(sql, params![bucket, id, number], Outcome::Missing)
            }
            CardChange::Sealed(sealed) => {
                let sql = "UPDATE card SET key_version = ?3, sealed_ota = ?4, sealed_psk = ?5, \
                     sealed_subscription = ?6, sealed_admin_code = ?7 WHERE bucket = ?1 AND card = ?2";
                let SealedKeys { version, ota, psk, subscription, admin_code } = sealed;
                self.changed(
                    sql,
                    params![bucket, id, version, ota, psk, subscription, admin_code],
                    Outcome::Missing,
                )
            }
            CardChange::Subscription(change) => self.subscription(card, change),
            CardChange::RaiseCounter { key_set, counter } => {
                if self.hot(card)?.is_none() {
                    return Ok(Outcome::Missing);
                }
                self.put_counter(card, *key_set, *counter)?;
                Ok(Outcome::Done)
            }
        }
    }

    pub(super) fn hot(&self, card: CardId) -> Applied<Option<CardHot>> {
        self.one(HOT_ROW, params![self.bucket(card), card.as_bytes()], |row| hot_at(row, 0))
    }

    fn attempt(&self, card: CardId, campaign: CampaignId, step: u8) -> Applied<Outcome> {
        if self.hot(card)?.is_none() {
            return Ok(Outcome::Missing);
        }
        let sql = format!(
            "SELECT {EXCEPTION_COLUMNS} FROM exception WHERE bucket = ?1 AND card = ?2 AND campaign = ?3"
        );
        let values = params![self.bucket(card), card.as_bytes(), campaign.0];
        let before = self.one(&sql, values, exception_at)?;
        let row = rules::attempt_row(before.as_ref(), campaign, card, step);
        self.exception(&ExceptionChange::Put(row))
    }

    fn poll_done(&self, done: &PollDone) -> Applied<Outcome> {
        let Some(mut hot) = self.hot(done.card)? else { return Ok(Outcome::Missing) };
        rules::poll_done(&mut hot, done)?;
        let sql = "UPDATE card_hot SET next_poll = ?3, applied_base = ?4, applied_mask = ?5 \
             WHERE bucket = ?1 AND card = ?2";
        let (bucket, mask) = (self.bucket(done.card), hot.applied.mask.cast_signed());
        self.run(sql, params![bucket, done.card.as_bytes(), hot.next_poll.0, hot.applied.base, mask])?;
        for change in &done.packets {
            self.packet(change)?;
        }
        for change in &done.exceptions {
            self.exception(change)?;
        }
        for line in &done.history {
            self.history_line(done.card, line)?;
        }
        for (campaign, change) in &done.progress {
            self.progress(Bucket(bucket), *campaign, change)?;
        }
        Ok(Outcome::Done)
    }

    fn has_open_packet(&self, card: CardId) -> Applied<bool> {
        let sql = "SELECT 1 FROM packet INDEXED BY packet_open WHERE bucket = ?1 AND card = ?2 AND state < 5 LIMIT 1";
        Ok(self.one(sql, params![self.bucket(card), card.as_bytes()], |_| Ok(()))?.is_some())
    }

    fn counter(&self, card: CardId, key_set: u8) -> Applied<Option<u64>> {
        let sql = "SELECT counter FROM card_counter WHERE bucket = ?1 AND card = ?2 AND key_set = ?3";
        self.one(sql, params![self.bucket(card), card.as_bytes(), key_set], |row| counter_at(row, 0))
    }

    fn reserve(&self, packet: &Packet) -> Applied<()> {
        let PacketKey { card, key_set, counter } = packet.key;
        let bucket = self.bucket(card);
        let raise = "UPDATE card_counter SET counter = ?4 WHERE bucket = ?1 AND card = ?2 AND key_set = ?3";
        self.run(raise, params![bucket, card.as_bytes(), key_set, signed(counter)])?;
        let (origin, origin_id) = origin_code(packet.origin);
        let (state, detail) = packet_state_code(packet.state);
        let insert = "INSERT INTO packet (bucket, card, key_set, counter, origin, origin_id, tar, spi, state, \
             state_detail, at, deadline, message_ids, data) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, NULL, ?13)";
        self.run(
            insert,
            params![
                bucket,
                card.as_bytes(),
                key_set,
                signed(counter),
                origin,
                origin_id,
                tar_number(packet.tar),
                packet.spi,
                state,
                detail,
                packet.at.0,
                packet.deadline.0,
                (!packet.data.is_empty()).then_some(&packet.data),
            ],
        )?;
        Ok(())
    }

    fn trigger(&self, trigger: &Trigger) -> Applied<Outcome> {
        let mut grants = Vec::with_capacity(trigger.cards.len());
        for seen in &trigger.cards {
            let hot = self.hot(seen.card)?;
            let counter = self.counter(seen.card, seen.key_set)?;
            let open = self.has_open_packet(seen.card)?;
            let grant = rules::grant_trigger(hot.as_ref(), seen, trigger.number, open, counter);
            if let Ok(counter) = grant {
                self.reserve(&rules::trigger_packet(trigger, seen, counter))?;
            }
            grants.push(grant);
        }
        self.progress(trigger.bucket, trigger.campaign, &rules::trigger_progress(&grants))?;
        if let Some((operator, cursor)) = &trigger.cursor {
            self.cursor(trigger.bucket, trigger.campaign, *operator, cursor)?;
        }
        Ok(Outcome::Triggered(grants))
    }

    fn command(&self, command: &Command) -> Applied<Outcome> {
        let Some(hot) = self.hot(command.card)? else { return Ok(Outcome::Missing) };
        let counter = self.counter(command.card, command.key_set)?;
        match rules::grant_command(&hot, self.has_open_packet(command.card)?, counter) {
            Ok(counter) => {
                self.reserve(&rules::command_packet(command, counter))?;
                Ok(Outcome::Counter(counter))
            }
            Err(passed_over) => Ok(Outcome::PassedOver(passed_over)),
        }
    }

    fn packet(&self, change: &PacketChange) -> Applied<Outcome> {
        let PacketKey { card, key_set, counter } = change.key;
        let (bucket, counter) = (self.bucket(card), signed(counter));
        let (state, detail) = packet_state_code(change.state);
        let ids = ids_text(&change.message_ids);
        let deadline = change.deadline.map(|deadline| deadline.0);
        let update = "UPDATE packet SET state = ?5, state_detail = ?6, message_ids = coalesce(?7, message_ids), \
             deadline = coalesce(?8, deadline) \
             WHERE bucket = ?1 AND card = ?2 AND key_set = ?3 AND counter = ?4 \
             AND (state < 5 OR (state > 5 AND ?5 = 5))";
        let values = params![bucket, card.as_bytes(), key_set, counter, state, detail, ids, deadline];
        if self.run(update, values)? > 0 {
            return Ok(Outcome::Done);
        }
        let select = "SELECT 1 FROM packet WHERE bucket = ?1 AND card = ?2 AND key_set = ?3 AND counter = ?4";
        let exists = self.one(select, params![bucket, card.as_bytes(), key_set, counter], |_| Ok(()))?;
        Ok(if exists.is_some() { Outcome::Unchanged } else { Outcome::Missing })
    }

    fn exception(&self, change: &ExceptionChange) -> Applied<Outcome> {
        match change {
            ExceptionChange::Put(row) => {
                let sql = "INSERT OR REPLACE INTO exception (bucket, card, campaign, status, attempts, step, retry_at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
                let (status, retry_at) = (status_code(row.status), date_ms(row.retry_at));
                let (bucket, card) = (self.bucket(row.card), row.card.as_bytes());
                let values = params![bucket, card, row.campaign.0, status, row.attempts, row.step, retry_at];
                self.changed(sql, values, Outcome::Missing)
            }
            ExceptionChange::Remove { campaign, card } => {
                let sql = "DELETE FROM exception WHERE bucket = ?1 AND card = ?2 AND campaign = ?3";
                self.changed(sql, params![self.bucket(*card), card.as_bytes(), campaign.0], Outcome::Missing)
            }
        }
    }

    fn history_line(&self, card: CardId, line: &HistoryLine) -> Applied<()> {
        let (cause, key_set, counter) = cause_code(line.cause);
        let (result, status) = result_code(line.result);
        let detail = Some(rules::cut_detail(&line.detail)).filter(|detail| !detail.is_empty());
        let sql = "INSERT INTO history (bucket, card, at, sequence, cause, key_set, counter, campaign, result, status, \
             detail) VALUES (?1, ?2, ?3, (SELECT coalesce(max(sequence) + 1, 0) FROM history \
             WHERE bucket = ?1 AND card = ?2 AND at = ?3), ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let campaign = line.campaign.map(|campaign| campaign.0);
        let (bucket, at) = (self.bucket(card), line.at.0);
        let card = card.as_bytes();
        self.run(sql, params![bucket, card, at, cause, key_set, counter, campaign, result, status, detail])?;
        Ok(())
    }

    fn progress(&self, bucket: Bucket, campaign: CampaignId, change: &Progress) -> Applied<()> {
        if *change == Progress::default() {
            return Ok(());
        }
        let (key, values) = ([i64::from(bucket.0), i64::from(campaign.0)], change.values());
        let all: Vec<&dyn ToSql> = key.iter().chain(&values).map(|value| value as &dyn ToSql).collect();
        self.run(&ADD_PROGRESS, &all)?;
        Ok(())
    }

    fn cursor(
        &self,
        bucket: Bucket,
        campaign: CampaignId,
        operator: OperatorId,
        cursor: &Cursor,
    ) -> Applied<()> {
        let sql = "INSERT OR REPLACE INTO campaign_cursor (bucket, campaign, operator, pass, order_key, card, exhausted) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let key = cursor.position.map(|position| position.key.0);
        let card = cursor.position.as_ref().map(|position| position.card.as_bytes());
        self.run(sql, params![bucket.0, campaign.0, operator.0, cursor.pass, key, card, cursor.exhausted])?;
        Ok(())
    }

    fn purge(&self, packets_before: i64, history_before: i64) -> Applied<Outcome> {
        let limit = rules::PURGE_ROWS_MAX as i64;
        let count = self.run(PURGE_PACKETS, params![packets_before, limit])?
            + self.run(PURGE_HISTORY, params![history_before, limit])?
            + self.run(super::cases::PURGE_DELIVERIES, params![history_before, limit])?;
        Ok(Outcome::Count(count as u64))
    }

    fn platform_op(&self, op: &Op) -> Applied<Outcome> {
        match op {
            Op::PutCampaign(record) => self.put_campaign(record),
            Op::StartCampaign { campaign, at, state } => self.start(*campaign, at.0, state),
            Op::PutDirectory(row) => self.put_directory(row),
            Op::Audit(line) => self.audit(line),
            Op::Idempotency(row) => {
                let sql = "INSERT INTO idempotency (tenant, key, request_hash, status, body, at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
                let IdempotencyRow { tenant, key, request_hash, status, body, at } = row.as_ref();
                self.changed(
                    sql,
                    params![tenant.0, key, request_hash, status, body, at.0],
                    Outcome::Unchanged,
                )
            }
            Op::PutImportJob(job) => {
                let sql = "INSERT OR REPLACE INTO import_job (id, tenant, name, rows_settled, imported, unchanged, \
                     refused, finished, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
                let ImportJob { id, tenant, name, finished, at, .. } = job.as_ref();
                let (settled, imported) = (signed(job.rows_settled), signed(job.imported));
                let (unchanged, refused) = (signed(job.unchanged), signed(job.refused));
                let values =
                    params![id, tenant.0, name, settled, imported, unchanged, refused, finished, at.0];
                self.changed(sql, values, Outcome::Missing)
            }
            _ => Ok(Outcome::Missing),
        }
    }

    fn put_campaign(&self, record: &CampaignRecord) -> Applied<Outcome> {
        let sql = "INSERT INTO campaign (id, tenant, number, name, state, definition, progress_note, created_at, \
             started_at, ended_at) VALUES (?1, ?2, NULL, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO UPDATE SET \
             tenant = ?2, name = ?3, state = ?4, definition = ?5, progress_note = ?6, created_at = ?7, \
             started_at = ?8, ended_at = ?9";
        let CampaignRecord { id, tenant, name, state, definition, progress_note, .. } = record;
        let (started, ended) = (record.started_at.map(|at| at.0), record.ended_at.map(|at| at.0));
        let created = record.created_at.0;
        self.changed(
            sql,
            params![id.0, tenant.0, name, state, definition, progress_note, created, started, ended],
            Outcome::Missing,
        )
    }

    fn start(&self, campaign: CampaignId, at: i64, state: &str) -> Applied<Outcome> {
        let select = "SELECT tenant, number FROM campaign WHERE id = ?1";
        let values = params![campaign.0];
        let row =
            self.one(select, values, |row| Ok((row.get::<_, u32>(0)?, row.get::<_, Option<u32>>(1)?)))?;
        let Some((tenant, number)) = row else { return Ok(Outcome::Missing) };
        if let Some(number) = number {
            self.run("UPDATE campaign SET state = ?2 WHERE id = ?1", params![campaign.0, state])?;
            return Ok(Outcome::Number(number));
        }
        let sums = "SELECT coalesce(max(number), 0) + 1, count(CASE WHEN ended_at IS NULL THEN number END), \
             min(CASE WHEN ended_at IS NULL THEN number END) FROM campaign WHERE tenant = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?, row.get(2)?));
        let sums: Option<(u32, u32, Option<u32>)> = self.one(sums, params![tenant], read)?;
        let (next, open, oldest) = sums.unwrap_or((1, 0, None));
        let distance = oldest.map_or(0, |oldest| next.saturating_sub(oldest));
        if open >= CAMPAIGNS_RUNNING_MAX || distance >= CAMPAIGNS_RUNNING_MAX {
            return Ok(Outcome::Full);
        }
        let update = "UPDATE campaign SET number = ?2, started_at = ?3, state = ?4 WHERE id = ?1";
        self.run(update, params![campaign.0, next, at, state])?;
        Ok(Outcome::Number(next))
    }

    fn put_directory(&self, row: &DirectoryRow) -> Applied<Outcome> {
        let put = |sql: &str, values: &[&dyn ToSql]| self.changed(sql, values, Outcome::Missing);
        match row {
            DirectoryRow::Tenant { id, name } => {
                put("INSERT OR REPLACE INTO tenant (id, name) VALUES (?1, ?2)", params![id.0, name])
            }
            DirectoryRow::Operator { id, tenant, name, settings } => {
                let sql =
                    "INSERT OR REPLACE INTO operator (id, tenant, name, settings) VALUES (?1, ?2, ?3, ?4)";
                put(sql, params![id.0, tenant.0, name, settings])
            }
            DirectoryRow::Agreement { from, to, terms } => {
                let sql = "INSERT OR REPLACE INTO agreement (from_operator, to_operator, terms) VALUES (?1, ?2, ?3)";
                put(sql, params![from.0, to.0, terms])
            }
            DirectoryRow::Profile { id, name, text } => put(
                "INSERT OR REPLACE INTO profile (id, name, text) VALUES (?1, ?2, ?3)",
                params![id.0, name, text],
            ),
            DirectoryRow::Tag { tenant, bit, name } => put(
                "INSERT OR REPLACE INTO tag (tenant, bit, name) VALUES (?1, ?2, ?3)",
                params![tenant.0, bit, name],
            ),
            DirectoryRow::DeviceKind { code, name } => {
                put("INSERT OR REPLACE INTO device_kind (code, name) VALUES (?1, ?2)", params![code, name])
            }
        }
    }

    fn audit(&self, line: &AuditLine) -> Applied<Outcome> {
        let select = "SELECT sequence, chain FROM audit ORDER BY sequence DESC LIMIT 1";
        let last = self.one(select, &[], |row| Ok((counter_at(row, 0)?, hash_at(row, 1)?)))?;
        let (sequence, previous) = last.unwrap_or((0, [0; 32]));
        let sequence = sequence + 1;
        let chain = rules::audit_chain(&previous, sequence, line);
        let sql = "INSERT INTO audit (sequence, chain, at, tenant, actor, action, object, detail) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let AuditLine { at, tenant, actor, action, object, detail } = line;
        let values = params![signed(sequence), chain, at.0, tenant.0, actor, action, object, detail];
        self.changed(sql, values, Outcome::Missing)
    }
}

/// Closed packets whose deadline lies before, oldest first.
pub(super) const PURGE_PACKETS: &str = "DELETE FROM packet WHERE (bucket, card, key_set, counter) IN (SELECT bucket, \
     card, key_set, counter FROM packet INDEXED BY packet_closed WHERE state >= 5 AND deadline < ?1 \
     ORDER BY deadline LIMIT ?2)";

/// History lines before, oldest first.
pub(super) const PURGE_HISTORY: &str = "DELETE FROM history WHERE (bucket, card, at, sequence) IN (SELECT bucket, \
     card, at, sequence FROM history INDEXED BY history_by_time WHERE at < ?1 ORDER BY at LIMIT ?2)";

const HOT_ROW: &str = "SELECT operator, profile, state, device_kind, tags, last_update, next_poll, applied_base, \
     applied_mask FROM card_hot WHERE bucket = ?1 AND card = ?2";

/// The lease of a file: its epoch grows with every owner.
pub(super) fn take_lease(connection: &Connection, owner: &str) -> rusqlite::Result<u64> {
    let sql = "INSERT INTO lease (one, owner, epoch) VALUES (1, ?1, 1) \
         ON CONFLICT DO UPDATE SET owner = ?1, epoch = epoch + 1 RETURNING epoch";
    let epoch: Option<i64> = connection.query_row(sql, params![owner], |row| row.get(0)).optional()?;
    Ok(epoch.unwrap_or_default().cast_unsigned())
}
