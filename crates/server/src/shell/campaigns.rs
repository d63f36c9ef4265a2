//! The campaigns of the platform: their rows, what users want of them, and what polls and the planner see.

mod of_changes;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use simtide_platform::audience::Audience;
use simtide_platform::campaign::{
    Absentees, Batch, Campaign, CampaignContent, CampaignError, CampaignState, ChangeOperatorError, Lane,
    Saved, Settings, Verb,
};
use simtide_platform::content::{Content, ContentError};
use simtide_platform::poll::StartedCampaign;
use simtide_protocol::ids::{Bucket, CardId, EpochMs};
use simtide_protocol::profile::Profile;
use tokio::sync::mpsc;

use super::core::{Catalogue, Core};
use super::planning::Wish;
use crate::store::{
    CampaignId, CampaignRecord, Exception, ExceptionQuery, ExceptionStatus, Group, NEVER_MS, Op, OperatorId,
    Outcome, PAGE_ROWS_MAX, Position, StoreError, TenantId,
};

pub use of_changes::{BulkNote, OfChanges};

/// Batches whose time and size are remembered, the latest ones.
pub const BATCHES_KEPT: usize = 1_000;
/// Campaigns of a platform, drafts and ended ones included.
pub const CAMPAIGNS_MAX: usize = 10_000;
/// Longest name of a campaign in bytes.
pub const NAME_BYTES_MAX: usize = 200;

/// What a user says about a campaign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// What it does.
    pub content: CampaignContent,
    /// Whom it concerns.
    #[serde(default)]
    pub audience: Audience,
    /// How it runs.
    #[serde(default)]
    pub settings: Settings,
}

/// What the platform wants to find after a restart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// Where the engine was.
    pub saved: Option<Saved<CardId>>,
    /// Who is missing at the end.
    pub absentees: Option<Absentees>,
    /// The latest batches.
    pub batches: Vec<Batch>,
    /// For a campaign of changes of operator, once it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<BulkNote>,
}

/// A started campaign as polls and the planner see it.
#[derive(Debug)]
pub struct Started {
    /// Row.
    pub id: CampaignId,
    /// Place among the started ones of the tenant.
    pub number: u32,
    /// Whose cards.
    pub tenant: TenantId,
    /// What it does on a card.
    pub content: Content,
    /// Whom it concerns.
    pub audience: Audience,
    /// How it runs.
    pub settings: Settings,
    /// Where it stands.
    pub state: CampaignState,
    /// Cards for which it has ended without success, or that take no part.
    excluded: Arc<Mutex<HashSet<CardId>>>,
    /// What polls are offered.
    pub offered: StartedCampaign,
}

impl Started {
    /// Whether it has ended on a card without success.
    pub fn excludes(&self, card: &CardId) -> bool {
        self.excluded.lock().unwrap_or_else(PoisonError::into_inner).contains(card)
    }

    /// It has ended on a card without success.
    pub fn exclude(&self, card: CardId) {
        self.excluded.lock().unwrap_or_else(PoisonError::into_inner).insert(card);
    }
}

/// Why a campaign cannot be had or changed.
#[derive(Debug, thiserror::Error)]
pub enum CampaignRefused {
    /// There is none, or it is another tenant's.
    #[error("there is no such campaign")]
    Unknown,
    /// The name is empty or too long.
    #[error("the name has {0} bytes: give 1 to {NAME_BYTES_MAX}")]
    Name(usize),
    /// The content is not possible.
    #[error("content: {0}")]
    Content(#[from] ContentError),
    /// A change of operator is not possible.
    #[error("content: {0}")]
    ChangeOperator(#[from] ChangeOperatorError),
    /// The operator that the cards are to go to.
    #[error(
        "content: change_operator.to: there is no operator {0} that takes part: make it with `simtide operators put`"
    )]
    Operator(String),
    /// The consent has not been given.
    #[error("content: change_operator.consent.when lies in the future: nobody has agreed yet")]
    ConsentAhead,
    /// Settings of triggers and polls for a change of operator.
    #[error("a change of operator has no `settings`: rate and thresholds are change_operator.limits")]
    NotForChanges,
    /// Settings or audience are not possible.
    #[error("{0}")]
    Settings(#[from] CampaignError),
    /// Not in this state.
    #[error("the campaign is {state}: {advice}")]
    State {
        /// Where it stands.
        state: &'static str,
        /// What is possible.
        advice: &'static str,
    },
    /// Too many run.
    #[error("64 campaigns are open: stop some that are not needed any more")]
    TooManyRunning,
    /// Too many are kept.
    #[error("{CAMPAIGNS_MAX} campaigns are kept: that is the limit")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All campaigns.
pub struct Campaigns {
    core: Arc<Core>,
    planner: mpsc::Sender<Wish>,
    records: tokio::sync::Mutex<BTreeMap<CampaignId, CampaignRecord>>,
    started: RwLock<Arc<Vec<Arc<Started>>>>,
    of_changes: RwLock<Arc<Vec<Arc<OfChanges>>>>,
    /// How often cards have joined.
    joined: AtomicU64,
}

impl Campaigns {
    /// Reads all campaigns. [`Campaigns::restore`] makes the planner go on with them.
    pub async fn open(core: Arc<Core>, planner: mpsc::Sender<Wish>) -> Result<Campaigns, StoreError> {
        let records: BTreeMap<_, _> =
            core.store.campaigns().await?.into_iter().map(|record| (record.id, record)).collect();
        let mut started = Vec::new();
        let catalogue = core.catalogue();
        for record in records.values() {
            if let Some(mut campaign) = read_started(&catalogue, record) {
                campaign.excluded = Arc::new(Mutex::new(excluded(&core, campaign.id).await?));
                started.push(Arc::new(campaign));
            }
        }
        started.sort_by_key(|campaign| (campaign.tenant, campaign.number));
        Ok(Campaigns {
            core,
            planner,
            started: RwLock::new(Arc::new(started)),
            of_changes: RwLock::new(Arc::new(of_changes::read_all(&records))),
            joined: AtomicU64::new(0),
            records: tokio::sync::Mutex::new(records),
        })
    }

    /// Tells the planner what was running when the process ended.
    pub async fn restore(&self) {
        for record in self.records.lock().await.values() {
            let state = CampaignState::from_name(&record.state);
            if !matches!(state, Some(CampaignState::Running | CampaignState::Paused)) {
                continue;
            }
            let Some(campaign) = read_started(&self.core.catalogue(), record) else { continue };
            let lanes = match self.lanes(campaign.tenant, &campaign.audience).await {
                Ok(lanes) => lanes,
                Err(error) => {
                    tracing::error!(campaign = record.id.0, %error, "a campaign cannot go on");
                    continue;
                }
            };
            let note: Note = serde_json::from_str(&record.progress_note).unwrap_or_default();
            let verb = match note.saved {
                Some(mut saved) => {
                    saved.paused = state == Some(CampaignState::Paused);
                    saved.widen(&lanes);
                    Verb::Restore(Box::new(saved))
                }
                None => Verb::Start { settings: campaign.settings, lanes },
            };
            self.tell(record.id, verb).await;
        }
    }

    /// Started campaigns that are not stopped, by number.
    pub fn started(&self) -> Arc<Vec<Arc<Started>>> {
        self.started.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of them.
    pub fn find(&self, id: u32) -> Option<Arc<Started>> {
        self.started().iter().find(|campaign| campaign.id.0 == id).cloned()
    }

    /// A new draft.
    pub async fn create(
        &self,
        tenant: TenantId,
        name: &str,
        definition: &Definition,
    ) -> Result<CampaignRecord, CampaignRefused> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(CampaignRefused::Name(name.len()));
        }
        definition.settings.check()?;
        definition.audience.check().map_err(CampaignError::from)?;
        match &definition.content {
            CampaignContent::Steps(content) => check_content(&self.core.catalogue(), content)?,
            CampaignContent::ChangeOperator { change_operator } => {
                self.check_change_operator(tenant, change_operator, &definition.settings)?;
            }
        }
        let mut records = self.records.lock().await;
        if records.len() >= CAMPAIGNS_MAX {
            return Err(CampaignRefused::TooMany);
        }
        let id = CampaignId(records.keys().next_back().map_or(1, |last| last.0 + 1));
        let record = CampaignRecord {
            id,
            tenant,
            number: None,
            name: name.to_owned(),
            state: CampaignState::Draft.name().to_owned(),
            definition: serde_json::to_string(definition).unwrap_or_default(),
            progress_note: String::new(),
            created_at: self.core.now(),
            started_at: None,
            ended_at: None,
        };
        self.put(&mut records, record.clone()).await?;
        Ok(record)
    }

    /// The campaigns of a tenant, latest first.
    pub async fn list(&self, tenant: TenantId) -> Vec<CampaignRecord> {
        let records = self.records.lock().await;
        records.values().rev().filter(|record| record.tenant == tenant).cloned().collect()
    }

    /// One campaign of a tenant.
    pub async fn show(&self, tenant: TenantId, id: CampaignId) -> Result<CampaignRecord, CampaignRefused> {
        let records = self.records.lock().await;
        let record = records.get(&id).filter(|record| record.tenant == tenant);
        record.cloned().ok_or(CampaignRefused::Unknown)
    }

    /// Begins a draft, for whoever is named. Repeated, it answers what runs already.
    pub async fn start(
        &self,
        tenant: TenantId,
        id: CampaignId,
        by: &str,
    ) -> Result<CampaignRecord, CampaignRefused> {
        let mut records = self.records.lock().await;
        let record = records.get(&id).filter(|record| record.tenant == tenant);
        let mut record = record.cloned().ok_or(CampaignRefused::Unknown)?;
        match CampaignState::from_name(&record.state) {
            Some(CampaignState::Draft) => {}
            Some(CampaignState::Running) => return Ok(record),
            _ => return Err(wrong_state(&record, "only a draft can be started; resume a paused one")),
        }
        let definition: Definition =
            serde_json::from_str(&record.definition).map_err(|_| CampaignRefused::Unknown)?;
        if let CampaignContent::ChangeOperator { change_operator } = &definition.content {
            self.check_change_operator(tenant, change_operator, &definition.settings)?;
            return self.start_changes(&mut records, record, by).await;
        }
        let lanes = self.lanes(tenant, &definition.audience).await?;
        let at = self.core.now();
        let state = CampaignState::Running.name().to_owned();
        let start = Op::StartCampaign { campaign: id, at, state: state.clone() };
        let committed = self.core.commit(Group::Platform, vec![start]).await?;
        match committed.outcomes.first() {
            Some(Outcome::Number(number)) => record.number = Some(*number),
            Some(Outcome::Full) => return Err(CampaignRefused::TooManyRunning),
            _ => return Err(CampaignRefused::Unknown),
        }
        record.state = state;
        record.started_at = Some(at);
        records.insert(id, record.clone());
        self.publish(&records);
        self.tell(id, Verb::Start { settings: definition.settings, lanes }).await;
        Ok(record)
    }

    /// Lets nothing leave until further notice.
    pub async fn pause(&self, tenant: TenantId, id: CampaignId) -> Result<CampaignRecord, CampaignRefused> {
        use CampaignState::{Paused, Running};
        self.turn(tenant, id, &[Running], Paused, Verb::Pause, "only a running one can be paused").await
    }

    /// Goes on.
    pub async fn resume(&self, tenant: TenantId, id: CampaignId) -> Result<CampaignRecord, CampaignRefused> {
        use CampaignState::{Paused, Running};
        self.turn(tenant, id, &[Paused], Running, Verb::Resume, "only a paused one can be resumed").await
    }

    /// Ends it.
    pub async fn stop(&self, tenant: TenantId, id: CampaignId) -> Result<CampaignRecord, CampaignRefused> {
        use CampaignState::{Draft, Finished, Paused, Running, Stopped};
        let from = [Draft, Running, Paused, Finished];
        self.turn(tenant, id, &from, Stopped, Verb::Stop, "it has ended").await
    }

    async fn turn(
        &self,
        tenant: TenantId,
        id: CampaignId,
        from: &[CampaignState],
        to: CampaignState,
        verb: Verb<CardId>,
        advice: &'static str,
    ) -> Result<CampaignRecord, CampaignRefused> {
        let mut records = self.records.lock().await;
        let record = records.get(&id).filter(|record| record.tenant == tenant);
        let mut record = record.cloned().ok_or(CampaignRefused::Unknown)?;
        if record.state == to.name() {
            return Ok(record);
        }
        if !CampaignState::from_name(&record.state).is_some_and(|state| from.contains(&state)) {
            return Err(wrong_state(&record, advice));
        }
        record.state = to.name().to_owned();
        if to == CampaignState::Stopped {
            record.ended_at = Some(self.core.now());
        }
        let is_of_changes = of_changes::turned(&mut record, to);
        self.put(&mut records, record.clone()).await?;
        self.publish(&records);
        if !is_of_changes {
            self.tell(id, verb).await;
        }
        Ok(record)
    }

    /// The engine has paused or finished a campaign by itself.
    pub async fn by_itself(
        &self,
        id: u32,
        state: CampaignState,
        absentees: Option<Absentees>,
    ) -> Result<(), StoreError> {
        let at = self.core.now();
        self.amend(id, |record, note| {
            record.state = state.name().to_owned();
            if state == CampaignState::Finished {
                record.ended_at = Some(at);
            }
            note.absentees = absentees.or(note.absentees);
        })
        .await?;
        self.publish(&*self.records.lock().await);
        Ok(())
    }

    /// Keeps where the engine is, and the batches that have left since.
    pub async fn keep(
        &self,
        id: u32,
        saved: Option<Saved<CardId>>,
        batches: Vec<Batch>,
    ) -> Result<(), StoreError> {
        self.amend(id, |_, note| {
            note.saved = saved.or_else(|| note.saved.take());
            note.batches.extend(batches);
            let surplus = note.batches.len().saturating_sub(BATCHES_KEPT);
            note.batches.drain(..surplus);
        })
        .await
    }

    /// Cards or profiles have been added: contents are made ready anew, and the lanes of running campaigns are looked
    /// at from the top.
    pub async fn audience_grew(&self) {
        self.publish(&*self.records.lock().await);
        self.joined.fetch_add(1, Ordering::Relaxed);
        for campaign in self.started().iter().filter(|one| one.state == CampaignState::Running) {
            match self.lanes(campaign.tenant, &campaign.audience).await {
                Ok(lanes) => self.tell(campaign.id, Verb::AudienceGrew { lanes }).await,
                Err(error) => tracing::error!(%error, "a campaign does not see the cards that have joined"),
            }
        }
    }

    async fn amend(
        &self,
        id: u32,
        change: impl FnOnce(&mut CampaignRecord, &mut Note),
    ) -> Result<(), StoreError> {
        let mut records = self.records.lock().await;
        let Some(mut record) = records.get(&CampaignId(id)).cloned() else { return Ok(()) };
        let mut note: Note = serde_json::from_str(&record.progress_note).unwrap_or_default();
        change(&mut record, &mut note);
        record.progress_note = serde_json::to_string(&note).unwrap_or_default();
        self.put(&mut records, record).await
    }

    async fn put(
        &self,
        records: &mut BTreeMap<CampaignId, CampaignRecord>,
        record: CampaignRecord,
    ) -> Result<(), StoreError> {
        self.core.commit(Group::Platform, vec![Op::PutCampaign(Box::new(record.clone()))]).await?;
        records.insert(record.id, record);
        Ok(())
    }

    fn publish(&self, records: &BTreeMap<CampaignId, CampaignRecord>) {
        let known = self.started();
        let catalogue = self.core.catalogue();
        let mut started: Vec<_> = records
            .values()
            .filter_map(|record| read_started(&catalogue, record))
            .map(|mut campaign| {
                if let Some(before) = known.iter().find(|before| before.id == campaign.id) {
                    campaign.excluded = before.excluded.clone();
                }
                Arc::new(campaign)
            })
            .collect();
        started.sort_by_key(|campaign| (campaign.tenant, campaign.number));
        *self.started.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(started);
        let of_changes = Arc::new(of_changes::read_all(records));
        *self.of_changes.write().unwrap_or_else(PoisonError::into_inner) = of_changes;
    }

    async fn tell(&self, id: CampaignId, verb: Verb<CardId>) {
        // The planner ends with the process only.
        let _ = self.planner.send(Wish { campaign: id.0, verb }).await;
    }

    /// The lanes in which cards of the audience can stand.
    async fn lanes(&self, tenant: TenantId, audience: &Audience) -> Result<Vec<Lane>, StoreError> {
        let of_tenant: HashSet<OperatorId> =
            self.core.catalogue().operators(tenant).map(|(operator, _)| operator).collect();
        let wanted = audience.operators();
        let mut lanes: Vec<Lane> = Vec::new();
        for operator in of_tenant {
            if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&operator.0)) {
                continue;
            }
            let buckets = 0..self.core.store.buckets();
            lanes.extend(buckets.map(|bucket| Lane { bucket: Bucket(bucket), operator: operator.0 }));
        }
        lanes.sort_unstable();
        Ok(lanes)
    }
}

fn wrong_state(record: &CampaignRecord, advice: &'static str) -> CampaignRefused {
    let state = CampaignState::from_name(&record.state).map_or("in an unknown state", CampaignState::name);
    CampaignRefused::State { state, advice }
}

fn check_content(catalogue: &Catalogue, content: &Content) -> Result<(), ContentError> {
    let profiles: Vec<&Profile> = catalogue.profiles().map(|(_, profile)| profile.as_ref()).collect();
    content.check(&profiles)
}

/// A row as a started campaign; `None` for drafts, stopped ones, and rows that cannot be read.
fn read_started(catalogue: &Catalogue, record: &CampaignRecord) -> Option<Started> {
    let state = CampaignState::from_name(&record.state)?;
    if matches!(state, CampaignState::Draft | CampaignState::Stopped) {
        return None;
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        tracing::error!(campaign = record.id.0, %error, "a campaign's row is not usable");
    };
    let definition: Definition =
        serde_json::from_str(&record.definition).inspect_err(|error| unreadable(error)).ok()?;
    let Definition { content: CampaignContent::Steps(content), audience, settings } = definition else {
        return None;
    };
    let number = record.number?;
    let campaign = Campaign {
        id: record.id.0,
        number: Some(number),
        tenant: record.tenant.0,
        name: record.name.clone(),
        audience: audience.clone(),
        settings: settings.clone(),
        state,
    };
    let profiles: Vec<&Profile> = catalogue.profiles().map(|(_, profile)| profile.as_ref()).collect();
    let offered = StartedCampaign::new(&campaign, number, &content, &profiles)
        .inspect_err(|error| unreadable(error))
        .ok()?;
    let (id, tenant) = (record.id, record.tenant);
    Some(Started {
        id,
        number,
        tenant,
        content,
        audience,
        settings,
        state,
        excluded: Arc::default(),
        offered,
    })
}

/// The cards on which a campaign has ended without success.
async fn excluded(core: &Core, campaign: CampaignId) -> Result<HashSet<CardId>, StoreError> {
    let mut cards = HashSet::new();
    for bucket in 0..core.store.buckets() {
        for status in [ExceptionStatus::Failed, ExceptionStatus::Interrupted, ExceptionStatus::OptedOut] {
            let mut after = None;
            loop {
                let bucket = Bucket(bucket);
                let query =
                    ExceptionQuery { bucket, campaign, status, due: None, after, rows_max: PAGE_ROWS_MAX };
                let page = core.store.exceptions(query).await?;
                let place = |row: &Exception| Position {
                    key: row.retry_at.unwrap_or(EpochMs(NEVER_MS)),
                    card: row.card,
                };
                after = page.rows.last().map(place).or(after);
                cards.extend(page.rows.iter().map(|row| row.card));
                if page.end {
                    break;
                }
            }
        }
    }
    Ok(cards)
}
