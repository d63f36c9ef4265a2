//! Batches of rows into the store: first what must be unique, then the cards.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use simtide_platform::card::{Applied, CardState};
use simtide_protocol::ids::CardId;
use tokio::task::JoinSet;

use super::rows::ReadyRow;
use super::{ImportError, ImportSettings, Importer, Refusal, RefusalReason};
use crate::registers::Subscriber;
use crate::store::rules::Layout;
use crate::store::*;

/// Commits under the leases that somebody holds.
pub trait Committer: Send + Sync {
    /// Commits operations of one group; answers their outcomes in order.
    fn commit(&self, group: Group, ops: Vec<Op>) -> Answer<'_, Vec<Outcome>>;
}

/// Takes all groups of a store over and commits under those leases: for imports without a running platform.
pub struct Leased {
    store: Arc<dyn Store>,
    leases: BTreeMap<Group, Lease>,
}

impl Leased {
    /// Takes every group.
    pub async fn take(store: Arc<dyn Store>, owner: &str) -> Result<Leased, StoreError> {
        let mut leases = BTreeMap::new();
        let cards = (0..store.groups()).map(Group::Cards);
        for group in std::iter::once(Group::Platform).chain(cards) {
            leases.insert(group, store.acquire(group, owner).await?);
        }
        Ok(Leased { store, leases })
    }
}

impl Committer for Leased {
    fn commit(&self, group: Group, ops: Vec<Op>) -> Answer<'_, Vec<Outcome>> {
        Box::pin(async move {
            let lease = self.leases.get(&group).ok_or(StoreError::Misuse("no such group"))?;
            Ok(self.store.commit(*lease, Batch::from(ops)).await?.outcomes)
        })
    }
}

/// Operations sent at once to a group.
const OPS_AT_ONCE: usize = BATCH_OPS_MAX / 2;
/// Device kinds at most: their code is one byte, and 0 is unknown.
const DEVICE_KINDS_MAX: usize = 255;
/// Subscriptions on their way to a register at once.
const SUBSCRIBERS_AT_ONCE: usize = 64;
/// Tags of a tenant at most: one bit each.
const TENANT_TAGS_MAX: usize = 64;

/// Cards of a batch by what came of them.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) imported: u64,
    pub(super) unchanged: u64,
}

/// The storing half of an import.
pub(super) struct Storing<'i> {
    importer: &'i Importer,
    settings: &'i ImportSettings,
    layout: Layout,
    directory: Directory,
    applied: Applied,
}

impl<'i> Storing<'i> {
    pub(super) async fn start(
        importer: &'i Importer,
        settings: &'i ImportSettings,
    ) -> Result<Storing<'i>, ImportError> {
        let layout = Layout::new(importer.store.buckets(), importer.store.groups())?;
        let directory = importer.store.directory().await?;
        let campaigns = importer.store.campaigns().await?;
        let of_tenant = campaigns.iter().filter(|campaign| campaign.tenant == settings.tenant);
        // What has ended before the card came is settled for it; what runs, it joins.
        let (mut last, mut oldest_open) = (0, None::<u32>);
        for (number, has_ended) in of_tenant.filter_map(|c| Some((c.number?, c.ended_at.is_some()))) {
            last = last.max(number);
            if !has_ended {
                oldest_open = Some(oldest_open.map_or(number, |oldest| oldest.min(number)));
            }
        }
        let applied = Applied::up_to(oldest_open.map_or(last, |oldest| oldest - 1));
        Ok(Storing { importer, settings, layout, directory, applied })
    }

    /// Stores what can be stored; the rest is added to the refusals.
    pub(super) async fn batch(
        &mut self,
        rows: Vec<ReadyRow>,
        refusals: &mut Vec<Refusal>,
    ) -> Result<Sums, ImportError> {
        self.name_all(&rows).await?;
        let mut cards = Vec::with_capacity(rows.len());
        for row in rows {
            match self.card(&row) {
                Ok(card) => cards.push((row, card)),
                Err(reason) => refusals.push(Refusal { line: row.line, card: Some(row.record.id), reason }),
            }
        }
        let claimed = self.claim(&cards).await?;
        let mut stored = Vec::with_capacity(cards.len());
        let mut releases = Vec::new();
        for ((row, card), claims) in cards.into_iter().zip(claimed) {
            match claims.taken {
                Some((what, owner)) => {
                    releases.extend(claims.fresh.into_iter().map(|alias| (alias, row.record.id)));
                    let reason = RefusalReason::Taken { what, owner };
                    refusals.push(Refusal { line: row.line, card: Some(row.record.id), reason });
                }
                None => stored.push((row, card, claims.fresh)),
            }
        }
        let puts = stored
            .iter()
            .map(|(row, card, _)| (self.layout.group_of(row.record.id), Op::PutCard(Box::new(card.clone()))));
        let outcomes = self.commit_grouped(puts.collect()).await?;
        let mut sums = Sums::default();
        let mut subscribers = Vec::new();
        for ((row, card, fresh), outcome) in stored.into_iter().zip(outcomes) {
            let is_new = outcome == Outcome::Done;
            if is_new || fresh.is_empty() && self.is_same(&card).await? {
                *(if is_new { &mut sums.imported } else { &mut sums.unchanged }) += 1;
                subscribers.extend(row.subscriber.map(|subscriber| (row.line, is_new, subscriber)));
            } else {
                releases.extend(fresh.into_iter().map(|alias| (alias, row.record.id)));
                let reason = RefusalReason::Differs;
                refusals.push(Refusal { line: row.line, card: Some(row.record.id), reason });
            }
        }
        let releases = releases
            .into_iter()
            .map(|(alias, card)| (self.layout.alias_group(&alias), Op::ReleaseAlias { alias, card }));
        self.commit_grouped(releases.collect()).await?;
        self.provision(subscribers, &mut sums, refusals).await?;
        Ok(sums)
    }

    /// Writes subscriptions to the register, also those of cards that were stored before: an import that ended early
    /// may not have come to them.
    async fn provision(
        &self,
        subscribers: Vec<(u64, bool, Subscriber)>,
        sums: &mut Sums,
        refusals: &mut Vec<Refusal>,
    ) -> Result<(), ImportError> {
        let Some(register) = &self.settings.register else { return Ok(()) };
        let mut waiting = subscribers.into_iter();
        let mut tasks = JoinSet::new();
        loop {
            while tasks.len() < SUBSCRIBERS_AT_ONCE {
                let Some((line, is_new, subscriber)) = waiting.next() else { break };
                let register = register.clone();
                tasks.spawn(async move {
                    let card = subscriber.card;
                    (line, is_new, card, register.provision(subscriber).await)
                });
            }
            let Some(joined) = tasks.join_next().await else { return Ok(()) };
            let (line, is_new, card, result) = joined.map_err(|_| ImportError::Interrupted)?;
            match result {
                Ok(()) => {}
                Err(error) if error.is_passing() => return Err(ImportError::Register(error)),
                Err(error) => {
                    *(if is_new { &mut sums.imported } else { &mut sums.unchanged }) -= 1;
                    refusals.push(Refusal { line, card: Some(card), reason: RefusalReason::Register(error) });
                }
            }
        }
    }

    /// Gives numbers to tags and device kinds that are new.
    async fn name_all(&mut self, rows: &[ReadyRow]) -> Result<(), ImportError> {
        let tenant = self.settings.tenant;
        let mut fresh = Vec::new();
        for tag in rows.iter().flat_map(|row| &row.tags) {
            if self.directory.tag(tenant, tag).is_some() {
                continue;
            }
            let of_tenant =
                |row: &&DirectoryRow| matches!(row, DirectoryRow::Tag { tenant: of, .. } if *of == tenant);
            let count = self.directory.rows.iter().filter(of_tenant).count();
            if count < TENANT_TAGS_MAX {
                // Bits are given in order and never taken back.
                let row = DirectoryRow::Tag { tenant, bit: count as u8, name: tag.clone() };
                self.directory.rows.push(row.clone());
                fresh.push(row);
            }
        }
        for kind in rows.iter().filter_map(|row| row.device_kind.as_ref()) {
            if self.directory.device_kind(kind).is_some() {
                continue;
            }
            let is_kind = |row: &&DirectoryRow| matches!(row, DirectoryRow::DeviceKind { .. });
            let count = self.directory.rows.iter().filter(is_kind).count();
            if count < DEVICE_KINDS_MAX {
                let row = DirectoryRow::DeviceKind { code: count as u8 + 1, name: kind.clone() };
                self.directory.rows.push(row.clone());
                fresh.push(row);
            }
        }
        if !fresh.is_empty() {
            let ops = fresh.into_iter().map(Op::PutDirectory).collect();
            self.importer.committer.commit(Group::Platform, ops).await?;
        }
        Ok(())
    }

    fn card(&self, row: &ReadyRow) -> Result<NewCard, RefusalReason> {
        let name = row.profile.as_ref().or(self.settings.profile.as_ref()).ok_or(RefusalReason::NoProfile)?;
        let profile = self.directory.profile(name.as_str());
        let profile = profile.ok_or_else(|| RefusalReason::UnknownProfile(name.to_string()))?;
        let mut tags = 0;
        for tag in &row.tags {
            let bit = self.directory.tag(self.settings.tenant, tag);
            tags |= 1_u64 << bit.ok_or_else(|| RefusalReason::TooManyTags(tag.clone()))?;
        }
        let kind = row.device_kind.as_ref();
        let kind = kind.map(|kind| {
            self.directory.device_kind(kind).ok_or_else(|| RefusalReason::TooManyKinds(kind.clone()))
        });
        Ok(NewCard {
            record: row.record.clone(),
            hot: CardHot {
                operator: self.settings.operator,
                profile,
                state: CardState::Active,
                device_kind: kind.transpose()?.unwrap_or(0),
                tags,
                last_update: row.last_update,
                next_poll: row.next_poll.unwrap_or(self.settings.first_poll),
                applied: self.applied,
            },
            counters: row.counters.clone(),
        })
    }

    async fn claim(&self, cards: &[(ReadyRow, NewCard)]) -> Result<Vec<Claimed>, ImportError> {
        let in_batch: HashSet<CardId> = cards.iter().map(|(row, _)| row.record.id).collect();
        let claim = |alias: &Alias, card, from| {
            (self.layout.alias_group(alias), Op::ClaimAlias { alias: alias.clone(), card, from })
        };
        let all =
            cards.iter().flat_map(|(row, _)| row.claims.iter().map(|(alias, _)| (alias, row.record.id)));
        let outcomes =
            self.commit_grouped(all.map(|(alias, card)| claim(alias, card, None)).collect()).await?;
        let mut outcomes = outcomes.into_iter();
        let mut claimed = Vec::with_capacity(cards.len());
        for (row, _) in cards {
            let mut result = Claimed::default();
            for (alias, what) in &row.claims {
                let mut outcome = outcomes.next().unwrap_or(Outcome::Missing);
                if let Outcome::Taken(owner) = outcome
                    && !in_batch.contains(&owner)
                    && self.importer.store.card(owner).await?.is_none()
                {
                    // An import that ended early has claimed it for a card that never came.
                    let (group, op) = claim(alias, row.record.id, Some(owner));
                    let again = self.importer.committer.commit(group, vec![op]).await?;
                    outcome = again.into_iter().next().unwrap_or(Outcome::Missing);
                }
                match outcome {
                    Outcome::Taken(owner) => result.taken = result.taken.or(Some((*what, owner))),
                    Outcome::Done => result.fresh.push(alias.clone()),
                    _ => {}
                }
            }
            claimed.push(result);
        }
        Ok(claimed)
    }

    /// Whether the stored card has the same content; its keys have been compared by their fingerprints.
    async fn is_same(&self, new: &NewCard) -> Result<bool, ImportError> {
        let Some(stored) = self.importer.store.card(new.record.id).await? else { return Ok(false) };
        let plain = |record: &CardRecord| CardRecord { sealed: SealedKeys::default(), ..record.clone() };
        let roles = |sealed: &SealedKeys| {
            [&sealed.ota, &sealed.psk, &sealed.subscription, &sealed.admin_code].map(|record| record.len())
        };
        Ok(plain(&stored.record) == plain(&new.record)
            && roles(&stored.record.sealed) == roles(&new.record.sealed)
            && stored.hot.profile == new.hot.profile)
    }

    /// Commits operations of any groups side by side; answers their outcomes in the order of the operations.
    async fn commit_grouped(&self, ops: Vec<(Group, Op)>) -> Result<Vec<Outcome>, ImportError> {
        let mut outcomes = vec![Outcome::Missing; ops.len()];
        let mut grouped: BTreeMap<Group, Vec<(usize, Op)>> = BTreeMap::new();
        for (place, (group, op)) in ops.into_iter().enumerate() {
            grouped.entry(group).or_default().push((place, op));
        }
        let mut tasks = JoinSet::new();
        for (group, ops) in grouped {
            let committer = self.importer.committer.clone();
            tasks.spawn(async move {
                let mut answers = Vec::with_capacity(ops.len());
                let mut ops = ops.into_iter().peekable();
                while ops.peek().is_some() {
                    let (places, part): (Vec<usize>, Vec<Op>) = ops.by_ref().take(OPS_AT_ONCE).unzip();
                    answers.extend(places.into_iter().zip(committer.commit(group, part).await?));
                }
                Ok::<_, StoreError>(answers)
            });
        }
        while let Some(joined) = tasks.join_next().await {
            for (place, outcome) in joined.map_err(|_| ImportError::Interrupted)?? {
                outcomes[place] = outcome;
            }
        }
        Ok(outcomes)
    }
}

/// What came of one row's claims.
#[derive(Default)]
struct Claimed {
    /// New in the store: released again where the row is refused.
    fresh: Vec<Alias>,
    /// The first that belongs to another card.
    taken: Option<(&'static str, CardId)>,
}
