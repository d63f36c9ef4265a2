//! Campaigns of changes carried out: how many begin is [`Bulk`]'s decision, on which cards [`Walk`]'s.
//!
//! | campaign | every tick |
//! |---|---|
//! | Running | changes begin, as many as may; it pauses or finishes by itself |
//! | Paused | nothing begins; what is open goes on |
//! | Stopped | what has not reached its card is cancelled; what has goes on to its end |
//!
//! A card is met after its campaign's earlier change of it was looked for, so a process that ends between a change and the
//! place of the walk begins nothing twice. Counts come from the changes themselves: the open ones were read at the start,
//! the ended ones are sums that the commit of each end has raised.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use simtide_platform::campaign::CampaignState;
use simtide_platform::subscription::{Bulk, BulkCounts, BulkPause, BulkStep, Evidence, Look, Met, Walk, Way};
use simtide_protocol::ids::{CardId, EpochMs};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Changes, RequestRefused, tally};
use crate::shell::campaigns::{Campaigns, OfChanges};
use crate::shell::core::Core;
use crate::store::{
    Candidate, Card, CardFilter, Cause, Exception, ExceptionChange, ExceptionStatus, HistoryLine,
    HistoryResult, Op, PAGE_ROWS_MAX, Progress, StoreError,
};

/// Campaign time between two ticks, in milliseconds.
const TICK_MS: i64 = 500;
/// Ticks are at least so far apart in real time, however fast campaign time passes.
const TICK_MIN: Duration = Duration::from_millis(10);
/// Cards that are met at once.
const AT_ONCE_MAX: usize = 64;
/// Pages of cards that one tick looks at, however few of them belong to the audience.
const PAGES_MAX: usize = 256;
/// Changes of a stopped campaign that one tick cancels.
const CANCELLED_MAX: usize = 256;
/// Time after which the place of a walk is kept again, in milliseconds.
const KEEP_EVERY_MS: i64 = 5_000;

/// Carries out campaigns of changes.
pub struct Bulks {
    core: Arc<Core>,
    campaigns: Arc<Campaigns>,
    changes: Arc<Changes>,
    /// Running campaigns, for people.
    seen: Mutex<HashMap<u32, Seen>>,
}

/// A campaign of changes as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkView {
    /// The changes that it began.
    pub counts: BulkCounts,
    /// Cards that cannot change their operator.
    pub not_possible: u64,
    /// Every card of the audience was met.
    pub all_met: bool,
    /// Why it has paused by itself.
    pub paused_for: Option<BulkPause>,
    /// What it waits for although it runs.
    pub waits_for: Option<String>,
}

/// What people see of a running campaign that its row does not say.
#[derive(Debug, Default)]
struct Seen {
    all_met: bool,
    waits_for: Option<String>,
}

/// A campaign that runs in this process.
struct Run {
    bulk: Bulk,
    walk: Walk,
    kept: Walk,
    kept_at: EpochMs,
    joined: u64,
}

/// A campaign cannot go on for the time being, with any card.
struct Waits(String);

impl From<StoreError> for Waits {
    fn from(error: StoreError) -> Waits {
        Waits(error.to_string())
    }
}

impl Bulks {
    /// Nothing runs before [`Bulks::run`].
    pub fn new(core: Arc<Core>, campaigns: Arc<Campaigns>, changes: Arc<Changes>) -> Arc<Bulks> {
        Arc::new(Bulks { core, campaigns, changes, seen: Mutex::default() })
    }

    /// A started campaign of changes as it is now; `None`: it is none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn view(&self, campaign: u32) -> Result<Option<BulkView>, StoreError> {
        let of_changes = self.campaigns.of_changes();
        let Some(found) = of_changes.iter().find(|one| one.id.0 == campaign) else { return Ok(None) };
        let (counts, sums) = self.counts(found).await?;
        let all_seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all_seen.get(&campaign).filter(|_| found.state == CampaignState::Running);
        Ok(Some(BulkView {
            counts,
            not_possible: sums.not_possible.max(0).unsigned_abs(),
            all_met: seen.map_or(found.note.walk.has_ended(), |seen| seen.all_met),
            paused_for: found.note.paused_for,
            waits_for: seen.and_then(|seen| seen.waits_for.clone()),
        }))
    }

    /// Runs until `stop` says so.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut runs = HashMap::new();
        let tick = self.core.clock.real(TICK_MS).max(TICK_MIN);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(tick) => {}
            }
            for campaign in self.campaigns.of_changes().iter() {
                if let Err(Waits(reason)) = self.tick(campaign, &mut runs).await {
                    self.is_seen(campaign, None, Some(reason));
                }
            }
        }
    }

    async fn tick(
        self: &Arc<Self>,
        campaign: &Arc<OfChanges>,
        runs: &mut HashMap<u32, Run>,
    ) -> Result<(), Waits> {
        let id = campaign.id.0;
        match campaign.state {
            CampaignState::Running => {
                // A user has started it, perhaps once more since the last tick.
                if campaign.note.accepted.is_none() || !runs.contains_key(&id) {
                    runs.insert(id, self.go_on(campaign).await?);
                }
                let Some(run) = runs.get_mut(&id) else { return Ok(()) };
                self.tick_running(campaign, run).await
            }
            state => {
                if let Some(run) = runs.remove(&id) {
                    self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    self.campaigns.keep_changes(campaign.id, None, |note| note.walk = run.walk).await?;
                }
                if state == CampaignState::Stopped {
                    self.cancel(id).await;
                }
                Ok(())
            }
        }
    }

    /// What a campaign begins with in this process, or after a pause.
    async fn go_on(&self, campaign: &OfChanges) -> Result<Run, Waits> {
        let now = self.core.now();
        let (counts, _) = self.counts(campaign).await?;
        let accepted = campaign.note.accepted.unwrap_or(counts);
        if campaign.note.accepted.is_none() {
            self.campaigns.keep_changes(campaign.id, None, |note| note.accepted = Some(accepted)).await?;
        }
        let mut walk = campaign.note.walk;
        if walk != Walk::default() {
            // Nobody has counted who joined meanwhile.
            walk.again();
        }
        let bulk = Bulk::new(now, campaign.content.limits, accepted);
        Ok(Run { bulk, walk, kept: walk, kept_at: now, joined: self.campaigns.joined() })
    }

    async fn counts(&self, campaign: &OfChanges) -> Result<(BulkCounts, Progress), StoreError> {
        // In this order: what ends meanwhile counts twice for a moment, and nothing is overlooked.
        let open = self.changes.tally.open(campaign.id.0);
        let sums = self.core.store.progress(campaign.id).await?;
        Ok((tally::with_ended(open, &sums), sums))
    }

    async fn tick_running(self: &Arc<Self>, campaign: &Arc<OfChanges>, run: &mut Run) -> Result<(), Waits> {
        let now = self.core.now();
        let joined = self.campaigns.joined();
        if run.joined != joined {
            run.joined = joined;
            run.walk.again();
        }
        let (counts, _) = self.counts(campaign).await?;
        match run.bulk.tick(now, &counts) {
            BulkStep::Pause(reason) => {
                tracing::warn!(
                    campaign = campaign.id.0,
                    reason = reason.name(),
                    "a campaign has paused itself"
                );
                let walk = run.walk;
                let paused = Some(CampaignState::Paused);
                let keep = self.campaigns.keep_changes(campaign.id, paused, |note| {
                    (note.walk, note.paused_for) = (walk, Some(reason));
                });
                keep.await?;
                return Ok(());
            }
            BulkStep::Begin(count) => {
                let (begun, waits) = self.begin(campaign, run, count as usize).await;
                run.bulk.begun(now, begun);
                self.is_seen(campaign, Some(run.walk), waits.map(|Waits(reason)| reason));
            }
        }
        if run.walk.has_ended() && self.changes.tally.open(campaign.id.0).open() == 0 {
            tracing::info!(campaign = campaign.id.0, "a campaign has finished");
            let walk = run.walk;
            let finished = Some(CampaignState::Finished);
            self.campaigns.keep_changes(campaign.id, finished, |note| note.walk = walk).await?;
        } else if run.walk != run.kept && now.ms_since(run.kept_at) >= KEEP_EVERY_MS {
            (run.kept, run.kept_at) = (run.walk, now);
            self.campaigns.keep_walk(campaign.id, run.walk).await?;
        }
        Ok(())
    }

    fn is_seen(&self, campaign: &OfChanges, walk: Option<Walk>, waits_for: Option<String>) {
        // One that a user has just turned waits for nothing.
        let waits_for = waits_for.filter(|_| self.campaigns.runs_changes(campaign.id));
        let mut all_seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all_seen.entry(campaign.id.0).or_default();
        seen.all_met = walk.map_or(seen.all_met, |walk| walk.has_ended());
        if let Some(reason) = waits_for.as_ref().filter(|_| seen.waits_for != waits_for) {
            tracing::warn!(campaign = campaign.id.0, reason, "a campaign waits");
        }
        seen.waits_for = waits_for;
    }

    /// Begins at most `count` changes; answers how many, and what keeps it from more.
    async fn begin(
        self: &Arc<Self>,
        campaign: &Arc<OfChanges>,
        run: &mut Run,
        count: usize,
    ) -> (u32, Option<Waits>) {
        let mut begun = 0;
        for _ in 0..PAGES_MAX {
            let rest = count.saturating_sub(begun as usize);
            if rest == 0 {
                break;
            }
            let page = match self.look(campaign, run, rest.min(AT_ONCE_MAX)).await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                Err(waits) => return (begun, Some(waits)),
            };
            let (met, waits) = self.meet_all(campaign, &page.cards).await;
            for (card, met) in met {
                begun += u32::from(met == Met::Begun);
                run.walk.met(card, met);
            }
            if waits.is_some() {
                return (begun, waits);
            }
            let now = self.core.now();
            match page.passed {
                Some(card) => run.walk.passed(card),
                None if page.is_last => {
                    run.walk.end_of_bucket(now, &campaign.audience, self.core.store.buckets());
                }
                None => {}
            }
        }
        (begun, None)
    }

    /// The next cards of the audience, at most `cards_max`; `None`: there are none now.
    async fn look(&self, campaign: &OfChanges, run: &Run, cards_max: usize) -> Result<Option<Page>, Waits> {
        let (bucket, after) = match run.walk.next(self.core.now(), &campaign.audience, cards_max) {
            Look::Wait | Look::End => return Ok(None),
            Look::Cards(cards) => {
                return Ok(Some(Page { is_last: cards.len() < cards_max, cards, passed: None }));
            }
            Look::Page { bucket, after } => (bucket, after),
        };
        let filter = CardFilter::default();
        let (page, last) = self.core.store.cards(bucket, filter, after, PAGE_ROWS_MAX).await?;
        let catalogue = self.core.catalogue();
        // Numbers are looked at when the card is met.
        let by_number = campaign.audience.asks_for_numbers();
        let is_of =
            |row: &&Candidate| by_number || campaign.audience.matches(&catalogue.view(campaign.tenant, row));
        let mut cards: Vec<CardId> = page.rows.iter().filter(is_of).map(|row| row.card).collect();
        if cards.len() > cards_max {
            cards.truncate(cards_max);
            return Ok(Some(Page { cards, passed: None, is_last: false }));
        }
        let last = last.or_else(|| page.rows.last().map(|row| row.card)).filter(|_| !page.end);
        Ok(Some(Page { cards, passed: last, is_last: page.end }))
    }

    /// Meets cards at the same time; answers them in their order, up to the first that has to wait.
    async fn meet_all(
        self: &Arc<Self>,
        campaign: &Arc<OfChanges>,
        cards: &[CardId],
    ) -> (Vec<(CardId, Met)>, Option<Waits>) {
        let mut meeting = JoinSet::new();
        for (place, card) in cards.iter().copied().enumerate() {
            let (me, campaign) = (self.clone(), campaign.clone());
            meeting.spawn(async move { (place, me.meet(&campaign, card).await) });
        }
        let mut results: Vec<Option<Result<Met, Waits>>> = cards.iter().map(|_| None).collect();
        while let Some(joined) = meeting.join_next().await {
            if let Ok((place, result)) = joined {
                results[place] = Some(result);
            }
        }
        let mut met = Vec::with_capacity(cards.len());
        for (card, result) in cards.iter().zip(results) {
            match result {
                Some(Ok(one)) => met.push((*card, one)),
                Some(Err(waits)) => return (met, Some(waits)),
                None => return (met, Some(Waits("a card could not be met".to_owned()))),
            }
        }
        (met, None)
    }

    /// Begins the change of one card, if it is to have one.
    async fn meet(&self, campaign: &OfChanges, card: CardId) -> Result<Met, Waits> {
        if !self.campaigns.runs_changes(campaign.id) {
            return Err(Waits("it does not run".to_owned()));
        }
        let Some(card) = self.core.store.card(card).await? else { return Ok(Met::Settled) };
        let catalogue = self.core.catalogue();
        let had = |row: &Exception| row.campaign == campaign.id;
        if card.record.tenant != campaign.tenant
            || !campaign.audience.matches(&catalogue.view_of(&card))
            || card.exceptions.iter().any(had)
        {
            return Ok(Met::Settled);
        }
        let Some(to) = catalogue.operator_called(campaign.tenant, &campaign.content.to) else {
            return Err(Waits(format!("operator {}: there is none of this name", campaign.content.to)));
        };
        let changes = self.changes.of_card(card.record.id).await?;
        if changes.iter().any(|change| change.evidence.campaign == Some(campaign.id.0)) {
            return Ok(Met::Settled);
        }
        let evidence = Evidence {
            agreed_at: campaign.content.consent.when,
            way: Way::Campaign,
            token: campaign.note.asked_by.clone(),
            campaign: Some(campaign.id.0),
            uplink_counter: None,
            reference: campaign.content.consent.reference.clone(),
        };
        match self.changes.begin(&card, &changes, to.id, evidence, Vec::new()).await {
            Ok(_) => Ok(Met::Begun),
            Err(RequestRefused::Refused(refusal)) => {
                if refusal.met() == Met::NotPossible {
                    self.keep_refused(campaign, &card, &refusal.to_string()).await?;
                }
                Ok(refusal.met())
            }
            Err(waits) => Err(Waits(waits.to_string())),
        }
    }

    /// A card cannot change its operator: in its history, in the sums, and never tried again.
    async fn keep_refused(&self, campaign: &OfChanges, card: &Card, reason: &str) -> Result<(), StoreError> {
        let (id, now) = (card.record.id, self.core.now());
        let exception = Exception {
            campaign: campaign.id,
            card: id,
            status: ExceptionStatus::Failed,
            attempts: 1,
            step: 0,
            retry_at: None,
        };
        let line = HistoryLine {
            at: now,
            cause: Cause::Operator,
            campaign: Some(campaign.id),
            result: HistoryResult::Interrupted,
            detail: format!("no change to {}: {reason}", campaign.content.to),
        };
        let change = Progress { not_possible: 1, ..Progress::default() };
        let ops = vec![
            Op::Exception(ExceptionChange::Put(exception)),
            Op::History { card: id, lines: vec![line] },
            Op::Progress { bucket: self.core.bucket(&id), campaign: campaign.id, change },
        ];
        self.core.commit_card(&id, ops).await?;
        Ok(())
    }

    /// Cancels what a stopped campaign has begun and no card has heard of.
    async fn cancel(&self, campaign: u32) {
        for id in self.changes.tally.may_be_cancelled(campaign, CANCELLED_MAX) {
            if let Err(error) = self.changes.cancel(id).await {
                tracing::info!(change = %id, %error, "a change of a stopped campaign goes on");
            }
        }
    }
}

/// Cards to be met.
struct Page {
    cards: Vec<CardId>,
    /// Everything up to this card was looked at.
    passed: Option<CardId>,
    /// Nothing follows in the bucket, or in the list.
    is_last: bool,
}
