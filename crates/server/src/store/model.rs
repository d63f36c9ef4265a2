//! The store in memory: what the conformance suite measures every back end against, and a store for tests.
//!
//! Plain maps behind one lock, written to be read: no index, no cache.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use simtide_protocol::ids::{Bucket, CardId, EpochMs};

use super::rules::{self, Layout};
use super::*;

/// The model.
pub struct ModelStore {
    layout: Layout,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    epochs: BTreeMap<Group, u64>,
    cards: BTreeMap<CardId, NewCard>,
    aliases: BTreeMap<Alias, CardId>,
    packets: BTreeMap<PacketKey, Packet>,
    exceptions: BTreeMap<(CardId, CampaignId), Exception>,
    history: BTreeMap<CardId, Vec<HistoryLine>>,
    cursors: BTreeMap<(CampaignId, Bucket, OperatorId), Cursor>,
    progress: BTreeMap<(CampaignId, Bucket), Progress>,
    campaigns: BTreeMap<CampaignId, CampaignRecord>,
    directory: BTreeMap<(u8, u32, u32), DirectoryRow>,
    audit: Vec<AuditRow>,
    idempotency: BTreeMap<(TenantId, String), IdempotencyRow>,
    import_jobs: BTreeMap<[u8; 32], ImportJob>,
    cases: BTreeMap<(CaseKind, u64), CaseRow>,
    identities: BTreeMap<CardId, Vec<IdentityRow>>,
}

impl ModelStore {
    /// An empty store.
    pub fn new(buckets: u16, groups: u16) -> Result<ModelStore, StoreError> {
        Ok(ModelStore { layout: Layout::new(buckets, groups)?, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now<'a, T: Send + 'a>(result: Result<T, StoreError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Store for ModelStore {
    fn buckets(&self) -> u16 {
        self.layout.buckets
    }

    fn groups(&self) -> u16 {
        self.layout.groups
    }

    fn acquire<'a>(&'a self, group: Group, _owner: &'a str) -> Answer<'a, Lease> {
        let mut state = self.state();
        let epoch = state.epochs.entry(group).or_default();
        *epoch += 1;
        now(Ok(Lease { group, epoch: *epoch }))
    }

    fn commit(&self, lease: Lease, batch: Batch) -> Answer<'_, Committed> {
        let mut state = self.state();
        if state.epochs.get(&lease.group) != Some(&lease.epoch) {
            return now(Err(StoreError::Fenced { group: lease.group, epoch: lease.epoch }));
        }
        now(self
            .layout
            .check(lease.group, &batch)
            .and_then(|()| state.apply_all(self.layout, lease.group, &batch)))
    }

    fn card(&self, card: CardId) -> Answer<'_, Option<Card>> {
        let state = self.state();
        now(Ok(state.cards.get(&card).map(|new| Card {
            record: new.record.clone(),
            hot: new.hot,
            counters: new.counters.clone(),
            exceptions: state.exceptions.values().filter(|row| row.card == card).cloned().collect(),
        })))
    }

    fn find(&self, alias: Alias) -> Answer<'_, Option<CardId>> {
        now(Ok(self.state().aliases.get(&alias).copied()))
    }

    fn candidates(&self, query: CandidateQuery) -> Answer<'_, Page<Candidate>> {
        if let Err(error) = rules::check_rows(query.rows_max) {
            return now(Err(error));
        }
        let state = self.state();
        let mut rows: Vec<Candidate> = state
            .cards
            .values()
            .filter(|new| {
                self.layout.bucket(new.record.id) == query.bucket && new.hot.operator == query.operator
            })
            .map(|new| Candidate { card: new.record.id, hot: new.hot })
            .filter(|row| {
                let key = query.order.key(&row.hot);
                query.below.is_none_or(|below| key < below.key || (key == below.key && row.card > below.card))
            })
            .collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(query.order.key(&row.hot)), row.card));
        now(Ok(cut(rows, query.rows_max)))
    }

    fn cards(
        &self,
        bucket: Bucket,
        filter: CardFilter,
        after: Option<CardId>,
        rows_max: usize,
    ) -> Answer<'_, (Page<Candidate>, Option<CardId>)> {
        if let Err(error) = rules::check_rows(rows_max) {
            return now(Err(error));
        }
        let state = self.state();
        let mut rows: Vec<Candidate> = state
            .cards
            .values()
            .filter(|new| self.layout.bucket(new.record.id) == bucket && Some(new.record.id) > after)
            .filter(|new| rules::filter_shows(&filter, &new.hot))
            .map(|new| Candidate { card: new.record.id, hot: new.hot })
            .collect();
        let end = rows.len() <= rows_max;
        rows.truncate(rows_max);
        let last = if end { None } else { rows.last().map(|row| row.card) };
        now(Ok((Page { rows, end }, last)))
    }

    fn card_counts(&self) -> Answer<'_, Vec<(Bucket, OperatorId, u64)>> {
        let mut counts = BTreeMap::new();
        for new in self.state().cards.values() {
            *counts.entry((self.layout.bucket(new.record.id), new.hot.operator)).or_insert(0_u64) += 1;
        }
        now(Ok(counts.into_iter().map(|((bucket, operator), count)| (bucket, operator, count)).collect()))
    }

    fn polls_due(&self, from: EpochMs, slot_ms: u64, slots: usize) -> Answer<'_, Vec<u64>> {
        if let Err(error) = rules::check_slots(from, slot_ms, slots) {
            return now(Err(error));
        }
        let mut counts = vec![0; slots];
        for new in self.state().cards.values() {
            let ahead = u64::try_from(new.hot.next_poll.ms_since(from)).ok();
            let slot = ahead.and_then(|ahead| counts.get_mut(usize::try_from(ahead / slot_ms).ok()?));
            if let Some(count) = slot.filter(|_| new.hot.state != CardState::Retired) {
                *count += 1;
            }
        }
        now(Ok(counts))
    }

    fn exceptions(&self, query: ExceptionQuery) -> Answer<'_, Page<Exception>> {
        if let Err(error) = rules::check_rows(query.rows_max) {
            return now(Err(error));
        }
        let state = self.state();
        let place = |row: &Exception| (row.retry_at.map_or(NEVER_MS, |at| at.0), row.card);
        let rows = state.exceptions.values().filter(|row| {
            self.layout.bucket(row.card) == query.bucket
                && row.campaign == query.campaign
                && row.status == query.status
                && query.due.is_none_or(|due| row.retry_at.is_some_and(|at| at <= due))
                && query.after.is_none_or(|after| place(row) > (after.key.0, after.card))
        });
        let mut rows: Vec<Exception> = rows.cloned().collect();
        rows.sort_by_key(place);
        now(Ok(cut(rows, query.rows_max)))
    }

    fn open_packets(&self, card: CardId) -> Answer<'_, Vec<Packet>> {
        let state = self.state();
        let open = state.packets.values().filter(|packet| packet.key.card == card && packet.state.is_open());
        now(Ok(open.cloned().collect()))
    }

    fn packet(&self, key: PacketKey) -> Answer<'_, Option<Packet>> {
        now(Ok(self.state().packets.get(&key).cloned()))
    }

    fn latest_packets(&self, card: CardId, key_set: u8, rows_max: usize) -> Answer<'_, Vec<Packet>> {
        let state = self.state();
        let of_set = |packet: &&Packet| packet.key.card == card && packet.key.key_set == key_set;
        let rows = state.packets.values().rev().filter(of_set).take(rows_max.min(PAGE_ROWS_MAX));
        now(Ok(rows.cloned().collect()))
    }

    fn case(&self, kind: CaseKind, id: u64) -> Answer<'_, Option<CaseRow>> {
        now(Ok(self.state().cases.get(&(kind, id)).cloned()))
    }

    fn cases_of(&self, card: CardId, kind: CaseKind, rows_max: usize) -> Answer<'_, Vec<CaseRow>> {
        let state = self.state();
        let of_card = state.cases.values().filter(|row| row.card == card && row.kind == kind);
        let mut rows: Vec<CaseRow> = of_card.cloned().collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.at, row.id)));
        rows.truncate(rows_max.min(PAGE_ROWS_MAX));
        now(Ok(rows))
    }

    fn cases(&self, query: CaseQuery) -> Answer<'_, Page<CaseRow>> {
        if let Err(error) = rules::check_rows(query.rows_max) {
            return now(Err(error));
        }
        let state = self.state();
        let of_bucket = state.cases.values().filter(|row| self.layout.bucket(row.card) == query.bucket);
        let mut rows: Vec<CaseRow> = of_bucket.filter(|row| query.shows(row)).cloned().collect();
        rows.sort_by_key(|row| (query.due_until.and(row.due), row.id));
        now(Ok(cut(rows, query.rows_max)))
    }

    fn identities(&self, card: CardId, rows_max: usize) -> Answer<'_, Vec<IdentityRow>> {
        let state = self.state();
        let rows = state.identities.get(&card).into_iter().flatten().rev();
        now(Ok(rows.take(rows_max.min(PAGE_ROWS_MAX)).copied().collect()))
    }

    fn packets(
        &self,
        bucket: Bucket,
        due: Option<EpochMs>,
        after: Option<PacketKey>,
        rows_max: usize,
    ) -> Answer<'_, Page<Packet>> {
        if let Err(error) = rules::check_rows(rows_max) {
            return now(Err(error));
        }
        let state = self.state();
        let rows = state.packets.values().filter(|packet| {
            self.layout.bucket(packet.key.card) == bucket
                && packet.state.is_open()
                && due.is_none_or(|due| packet.deadline <= due)
                && Some(packet.key) > after
        });
        now(Ok(cut(rows.cloned().collect(), rows_max)))
    }

    fn history(&self, card: CardId, before: EpochMs, rows_max: usize) -> Answer<'_, Vec<HistoryLine>> {
        let state = self.state();
        let mut lines: Vec<HistoryLine> = state.history.get(&card).cloned().unwrap_or_default();
        lines.retain(|line| line.at < before);
        // Stable: of two lines of the same time the later one stands first.
        lines.reverse();
        lines.sort_by_key(|line| std::cmp::Reverse(line.at));
        lines.truncate(rows_max.min(PAGE_ROWS_MAX));
        now(Ok(lines))
    }

    fn cursors(&self, campaign: CampaignId) -> Answer<'_, Vec<(Bucket, OperatorId, Cursor)>> {
        let state = self.state();
        let of_campaign = state.cursors.iter().filter(|((id, ..), _)| *id == campaign);
        now(Ok(of_campaign.map(|((_, bucket, operator), cursor)| (*bucket, *operator, *cursor)).collect()))
    }

    fn progress(&self, campaign: CampaignId) -> Answer<'_, Progress> {
        let mut sum = Progress::default();
        let state = self.state();
        state.progress.iter().filter(|((id, _), _)| *id == campaign).for_each(|(_, change)| sum.add(change));
        now(Ok(sum))
    }

    fn campaigns(&self) -> Answer<'_, Vec<CampaignRecord>> {
        now(Ok(self.state().campaigns.values().cloned().collect()))
    }

    fn directory(&self) -> Answer<'_, Directory> {
        now(Ok(Directory { rows: self.state().directory.values().cloned().collect() }))
    }

    fn audit(&self, after: u64, rows_max: usize) -> Answer<'_, Vec<AuditRow>> {
        let state = self.state();
        let rows = state.audit.iter().filter(|row| row.sequence > after).take(rows_max.min(PAGE_ROWS_MAX));
        now(Ok(rows.cloned().collect()))
    }

    fn idempotency<'a>(&'a self, tenant: TenantId, key: &'a str) -> Answer<'a, Option<IdempotencyRow>> {
        now(Ok(self.state().idempotency.get(&(tenant, key.to_owned())).cloned()))
    }

    fn import_job(&self, id: [u8; 32]) -> Answer<'_, Option<ImportJob>> {
        now(Ok(self.state().import_jobs.get(&id).cloned()))
    }

    fn import_jobs(&self, rows_max: usize) -> Answer<'_, Vec<ImportJob>> {
        let mut jobs: Vec<ImportJob> = self.state().import_jobs.values().cloned().collect();
        jobs.sort_by_key(|job| (std::cmp::Reverse(job.at), job.id));
        jobs.truncate(rows_max.min(PAGE_ROWS_MAX));
        now(Ok(jobs))
    }
}

fn cut<T>(mut rows: Vec<T>, rows_max: usize) -> Page<T> {
    let end = rows.len() <= rows_max;
    rows.truncate(rows_max);
    Page { rows, end }
}

impl State {
    fn apply_all(&mut self, layout: Layout, group: Group, batch: &Batch) -> Result<Committed, StoreError> {
        let mut outcomes = Vec::with_capacity(batch.ops.len());
        for op in &batch.ops {
            let outcome = self.apply(layout, group, op)?;
            let stops = matches!(op, Op::PutCase { .. }) && outcome != Outcome::Done;
            outcomes.push(outcome);
            if stops {
                outcomes.resize(batch.ops.len(), Outcome::Skipped);
                break;
            }
        }
        Ok(Committed { outcomes })
    }

    fn apply(&mut self, layout: Layout, group: Group, op: &Op) -> Result<Outcome, StoreError> {
        Ok(match op {
            Op::ClaimAlias { alias, card, from } => self.claim(alias, *card, *from),
            Op::ReleaseAlias { alias, card } => {
                let is_theirs = self.aliases.get(alias) == Some(card);
                if is_theirs {
                    self.aliases.remove(alias);
                }
                if is_theirs { Outcome::Done } else { Outcome::Unchanged }
            }
            Op::PutCard(new) => {
                if self.cards.contains_key(&new.record.id) {
                    return Ok(Outcome::Unchanged);
                }
                let mut new = new.as_ref().clone();
                new.counters.sort_unstable();
                self.cards.insert(new.record.id, new);
                Outcome::Done
            }
            Op::ChangeCard { card, change: CardChange::Subscription(change) } => {
                self.subscription(*card, change)
            }
            Op::PutCase { row, version_before } => self.put_case(row, *version_before),
            Op::ChangeCard { card, change } => self.on_card(*card, |new| {
                rules::change_card(&mut new.record, &mut new.hot, &mut new.counters, change);
            }),
            Op::PollBegun { card, at, next_poll } => self.on_card(*card, |new| {
                new.hot.last_update = Some(*at);
                new.hot.next_poll = *next_poll;
            }),
            Op::Attempt { card, campaign, step, .. } => {
                if !self.cards.contains_key(card) {
                    return Ok(Outcome::Missing);
                }
                let before = self.exceptions.get(&(*card, *campaign));
                let row = rules::attempt_row(before, *campaign, *card, *step);
                self.exceptions.insert((*card, *campaign), row);
                Outcome::Done
            }
            Op::PollDone(done) => self.poll_done(layout, done)?,
            Op::Trigger(trigger) => self.trigger(trigger),
            Op::Command(command) => self.command(command),
            Op::Packet(change) => self.packet(change),
            Op::Exception(change) => self.exception(change),
            Op::History { card, lines } => {
                lines.iter().for_each(|line| self.history_line(*card, line));
                Outcome::Done
            }
            Op::Progress { bucket, campaign, change } => {
                self.progress.entry((*campaign, *bucket)).or_default().add(change);
                Outcome::Done
            }
            Op::Cursor { bucket, campaign, operator, cursor } => {
                self.cursors.insert((*campaign, *bucket, *operator), *cursor);
                Outcome::Done
            }
            Op::JumpCounters => {
                let cards = self.cards.values_mut().filter(|new| layout.group_of(new.record.id) == group);
                let counters = cards.flat_map(|new| new.counters.iter_mut());
                for (_, counter) in counters.filter(|(key_set, _)| key_set & UPLINK_COUNTER == 0) {
                    *counter = (*counter + COUNTER_JUMP).min(rules::COUNTER_MAX);
                }
                Outcome::Done
            }
            Op::Purge { packets_before, history_before } => {
                self.purge(layout, group, *packets_before, *history_before)
            }
            _ => self.apply_platform(op),
        })
    }

    fn apply_platform(&mut self, op: &Op) -> Outcome {
        match op {
            Op::PutCampaign(record) => {
                let number = self.campaigns.get(&record.id).and_then(|before| before.number);
                self.campaigns.insert(record.id, CampaignRecord { number, ..record.as_ref().clone() });
                Outcome::Done
            }
            Op::StartCampaign { campaign, at, state } => self.start(*campaign, *at, state),
            Op::PutDirectory(row) => {
                self.directory.insert(types::directory_key(row), row.clone());
                Outcome::Done
            }
            Op::Audit(line) => {
                let sequence = self.audit.len() as u64 + 1;
                let previous = self.audit.last().map_or([0; 32], |row| row.chain);
                let chain = rules::audit_chain(&previous, sequence, line);
                self.audit.push(AuditRow { sequence, chain, line: line.clone() });
                Outcome::Done
            }
            Op::Idempotency(row) => {
                let key = (row.tenant, row.key.clone());
                if self.idempotency.contains_key(&key) {
                    return Outcome::Unchanged;
                }
                self.idempotency.insert(key, row.as_ref().clone());
                Outcome::Done
            }
            Op::PutImportJob(job) => {
                self.import_jobs.insert(job.id, job.as_ref().clone());
                Outcome::Done
            }
            _ => Outcome::Missing,
        }
    }

    fn claim(&mut self, alias: &Alias, card: CardId, from: Option<CardId>) -> Outcome {
        match self.aliases.get(alias) {
            Some(owner) if *owner == card => Outcome::Unchanged,
            Some(owner) if Some(*owner) != from => Outcome::Taken(*owner),
            _ => {
                self.aliases.insert(alias.clone(), card);
                Outcome::Done
            }
        }
    }

    fn on_card(&mut self, card: CardId, change: impl FnOnce(&mut NewCard)) -> Outcome {
        let Some(new) = self.cards.get_mut(&card) else { return Outcome::Missing };
        change(new);
        Outcome::Done
    }

    fn put_case(&mut self, row: &CaseRow, version_before: Option<u32>) -> Outcome {
        if !self.cards.contains_key(&row.card) {
            return Outcome::Missing;
        }
        let found = self.cases.get(&(row.kind, row.id)).map(|row| row.version);
        let other = self.cases.values().find(|other| {
            other.card == row.card && other.kind == row.kind && other.open && other.id != row.id
        });
        match rules::grant_case(row, version_before, found, other.map(|other| other.id)) {
            Ok(()) => {
                let key = (row.kind, row.id);
                let row = match self.cases.remove(&key) {
                    Some(CaseRow { card, tenant, at, .. }) => CaseRow { card, tenant, at, ..row.clone() },
                    None => row.clone(),
                };
                self.cases.insert(key, row);
                Outcome::Done
            }
            Err(outcome) => outcome,
        }
    }

    fn subscription(&mut self, card: CardId, change: &SubscriptionChange) -> Outcome {
        let Some(new) = self.cards.get_mut(&card) else { return Outcome::Missing };
        let identities = self.identities.entry(card).or_default();
        let added = rules::identity_rows(&new.record, new.hot.operator, identities.last(), change);
        if added.is_empty() {
            return Outcome::Unchanged;
        }
        identities.extend(added);
        let change = CardChange::Subscription(Box::new(change.clone()));
        rules::change_card(&mut new.record, &mut new.hot, &mut new.counters, &change);
        Outcome::Done
    }

    fn poll_done(&mut self, layout: Layout, done: &PollDone) -> Result<Outcome, StoreError> {
        let Some(new) = self.cards.get_mut(&done.card) else { return Ok(Outcome::Missing) };
        rules::poll_done(&mut new.hot, done)?;
        done.packets.iter().for_each(|change| {
            self.packet(change);
        });
        done.exceptions.iter().for_each(|change| {
            self.exception(change);
        });
        done.history.iter().for_each(|line| self.history_line(done.card, line));
        for (campaign, change) in &done.progress {
            self.progress.entry((*campaign, layout.bucket(done.card))).or_default().add(change);
        }
        Ok(Outcome::Done)
    }

    fn has_open_packet(&self, card: CardId) -> bool {
        self.packets.values().any(|packet| packet.key.card == card && packet.state.is_open())
    }

    fn counter(&self, card: CardId, key_set: u8) -> Option<u64> {
        let counters = &self.cards.get(&card)?.counters;
        counters.iter().find(|(index, _)| *index == key_set).map(|(_, counter)| *counter)
    }

    fn reserve(&mut self, packet: Packet) {
        let key = packet.key;
        if let Some(new) = self.cards.get_mut(&key.card) {
            new.counters
                .iter_mut()
                .filter(|(index, _)| *index == key.key_set)
                .for_each(|(_, last)| *last = key.counter);
        }
        self.packets.insert(key, packet);
    }

    fn trigger(&mut self, trigger: &Trigger) -> Outcome {
        let mut grants = Vec::with_capacity(trigger.cards.len());
        for seen in &trigger.cards {
            let hot = self.cards.get(&seen.card).map(|new| &new.hot);
            let counter = self.counter(seen.card, seen.key_set);
            let grant =
                rules::grant_trigger(hot, seen, trigger.number, self.has_open_packet(seen.card), counter);
            if let Ok(counter) = grant {
                self.reserve(rules::trigger_packet(trigger, seen, counter));
            }
            grants.push(grant);
        }
        let sums = self.progress.entry((trigger.campaign, trigger.bucket)).or_default();
        sums.add(&rules::trigger_progress(&grants));
        if let Some((operator, cursor)) = trigger.cursor {
            self.cursors.insert((trigger.campaign, trigger.bucket, operator), cursor);
        }
        Outcome::Triggered(grants)
    }

    fn command(&mut self, command: &Command) -> Outcome {
        let Some(new) = self.cards.get(&command.card) else { return Outcome::Missing };
        let counter = self.counter(command.card, command.key_set);
        match rules::grant_command(&new.hot, self.has_open_packet(command.card), counter) {
            Ok(counter) => {
                self.reserve(rules::command_packet(command, counter));
                Outcome::Counter(counter)
            }
            Err(passed_over) => Outcome::PassedOver(passed_over),
        }
    }

    fn packet(&mut self, change: &PacketChange) -> Outcome {
        let Some(packet) = self.packets.get_mut(&change.key) else { return Outcome::Missing };
        if !packet.state.may_become(change.state) {
            return Outcome::Unchanged;
        }
        packet.state = change.state;
        packet.deadline = change.deadline.unwrap_or(packet.deadline);
        if !change.message_ids.is_empty() {
            packet.message_ids.clone_from(&change.message_ids);
        }
        Outcome::Done
    }

    fn exception(&mut self, change: &ExceptionChange) -> Outcome {
        match change {
            ExceptionChange::Put(row) => {
                self.exceptions.insert((row.card, row.campaign), row.clone());
                Outcome::Done
            }
            ExceptionChange::Remove { campaign, card } => match self.exceptions.remove(&(*card, *campaign)) {
                Some(_) => Outcome::Done,
                None => Outcome::Missing,
            },
        }
    }

    fn history_line(&mut self, card: CardId, line: &HistoryLine) {
        let detail = rules::cut_detail(&line.detail).to_owned();
        self.history.entry(card).or_default().push(HistoryLine { detail, ..line.clone() });
    }

    fn purge(
        &mut self,
        layout: Layout,
        group: Group,
        packets_before: EpochMs,
        history_before: EpochMs,
    ) -> Outcome {
        let mut count = 0;
        self.packets.retain(|key, packet| {
            let old = !packet.state.is_open() && packet.deadline < packets_before;
            let gone = old && layout.group_of(key.card) == group;
            count += u64::from(gone);
            !gone
        });
        self.cases.retain(|_, row| {
            let old = row.kind == CaseKind::Delivery && !row.open && row.at < history_before;
            let gone = old && layout.group_of(row.card) == group;
            count += u64::from(gone);
            !gone
        });
        for (card, lines) in &mut self.history {
            let before = lines.len();
            lines.retain(|line| layout.group_of(*card) != group || line.at >= history_before);
            count += (before - lines.len()) as u64;
        }
        Outcome::Count(count)
    }

    fn start(&mut self, campaign: CampaignId, at: EpochMs, state: &str) -> Outcome {
        let Some(tenant) = self.campaigns.get(&campaign).map(|record| record.tenant) else {
            return Outcome::Missing;
        };
        let of_tenant = || self.campaigns.values().filter(|record| record.tenant == tenant);
        let open = of_tenant().filter(|record| record.number.is_some() && record.ended_at.is_none()).count();
        let next = of_tenant().filter_map(|record| record.number).max().unwrap_or(0) + 1;
        let oldest_open =
            of_tenant().filter(|record| record.ended_at.is_none()).filter_map(|record| record.number).min();
        let Some(record) = self.campaigns.get_mut(&campaign) else { return Outcome::Missing };
        if let Some(number) = record.number {
            record.state = state.to_owned();
            return Outcome::Number(number);
        }
        if open as u32 >= CAMPAIGNS_RUNNING_MAX
            || oldest_open.is_some_and(|oldest| next - oldest >= CAMPAIGNS_RUNNING_MAX)
        {
            return Outcome::Full;
        }
        record.number = Some(next);
        record.started_at = Some(at);
        record.state = state.to_owned();
        Outcome::Number(next)
    }
}
