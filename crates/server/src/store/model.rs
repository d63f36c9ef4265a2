//! The store in memory: what the conformance suite measures every back end against, and a store for tests.
//!
//! Plain maps behind one lock, written to be read: no index, no cache.

mod apply;

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

impl State {
    fn card(&self, card: CardId) -> Option<Card> {
        let new = self.cards.get(&card)?;
        let exceptions = self.exceptions.values().filter(|row| row.card == card).cloned().collect();
        Some(Card { record: new.record.clone(), hot: new.hot, counters: new.counters.clone(), exceptions })
    }

    fn open_packets(&self, card: CardId) -> Vec<Packet> {
        let open = self.packets.values().filter(|packet| packet.key.card == card && packet.state.is_open());
        open.cloned().collect()
    }
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
        now(Ok(self.state().card(card)))
    }

    fn standing(&self, card: CardId, case: Option<(CaseKind, u64)>) -> Answer<'_, Option<Standing>> {
        let state = self.state();
        now(Ok(state.card(card).map(|found| Standing {
            card: found,
            open: state.open_packets(card),
            case: case.and_then(|key| state.cases.get(&key)).filter(|row| row.card == card).cloned(),
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
        now(Ok(self.state().open_packets(card)))
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

    fn case_of(&self, card: CardId, kind: CaseKind, id: u64) -> Answer<'_, Option<CaseRow>> {
        now(Ok(self.state().cases.get(&(kind, id)).filter(|row| row.card == card).cloned()))
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
        rows.sort_by_key(|row| row.id);
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
