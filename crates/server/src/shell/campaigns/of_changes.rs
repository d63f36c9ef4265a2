//! Campaigns whose content is a change of operator: their rows. They take no place among the numbers that cards carry, and
//! polls know nothing of them; [`crate::shell::subscription::bulk`] carries them out.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use simtide_platform::audience::Audience;
use simtide_platform::campaign::{CampaignContent, CampaignState, ChangeOperator, Settings};
use simtide_platform::subscription::{AGREED_AHEAD_MS_MAX, BulkCounts, BulkPause, Walk};

use super::{CampaignRefused, Campaigns, Definition, Note};
use crate::store::{CampaignId, CampaignRecord, StoreError, TenantId};

/// Such campaigns that run at once.
pub const RUNNING_MAX: usize = 64;

/// What the platform wants to find after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BulkNote {
    /// Name of the token that has started it.
    pub asked_by: String,
    /// Where it is among its cards, as of now and then.
    pub walk: Walk,
    /// What a user had seen when it was last started; `None`: what there is when it goes on.
    pub accepted: Option<BulkCounts>,
    /// Why it has paused by itself.
    pub paused_for: Option<BulkPause>,
}

/// A started campaign of changes.
#[derive(Debug)]
pub struct OfChanges {
    /// Row.
    pub id: CampaignId,
    /// Whose cards.
    pub tenant: TenantId,
    /// Whom it concerns.
    pub audience: Audience,
    /// Where the cards go, and how.
    pub content: ChangeOperator,
    /// Where it stands.
    pub state: CampaignState,
    /// As of its last start, pause or end.
    pub note: BulkNote,
}

impl Campaigns {
    /// Campaigns of changes that were started, by id; stopped ones too: what they have begun may be open.
    pub fn of_changes(&self) -> Arc<Vec<Arc<OfChanges>>> {
        self.of_changes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether one of them runs.
    pub fn runs_changes(&self, id: CampaignId) -> bool {
        let all = self.of_changes();
        all.iter().any(|one| one.id == id && one.state == CampaignState::Running)
    }

    /// How often cards have joined since the start of the process.
    pub fn joined(&self) -> u64 {
        self.joined.load(Ordering::Relaxed)
    }

    /// Keeps where it is among its cards: nothing that anybody is told.
    ///
    /// # Errors
    /// The store failed.
    pub async fn keep_walk(&self, id: CampaignId, walk: Walk) -> Result<(), StoreError> {
        self.amend(id.0, |_, note| note.changes.get_or_insert_default().walk = walk).await
    }

    /// Keeps what has come of it and, where it still runs, that it has paused or finished by itself.
    ///
    /// # Errors
    /// The store failed.
    pub async fn keep_changes(
        &self,
        id: CampaignId,
        by_itself: Option<CampaignState>,
        change: impl FnOnce(&mut BulkNote),
    ) -> Result<(), StoreError> {
        let at = self.core.now();
        self.amend(id.0, |record, note| {
            change(note.changes.get_or_insert_default());
            if let Some(state) = by_itself.filter(|_| record.state == CampaignState::Running.name()) {
                record.state = state.name().to_owned();
                record.ended_at = (state == CampaignState::Finished).then_some(at);
            }
        })
        .await?;
        self.publish(&*self.records.lock().await);
        Ok(())
    }

    /// Refuses what cannot work here.
    pub(super) fn check_change_operator(
        &self,
        tenant: TenantId,
        content: &ChangeOperator,
        settings: &Settings,
    ) -> Result<(), CampaignRefused> {
        content.check()?;
        if *settings != Settings::default() {
            return Err(CampaignRefused::NotForChanges);
        }
        if content.consent.when.ms_since(self.core.now()) > AGREED_AHEAD_MS_MAX {
            return Err(CampaignRefused::ConsentAhead);
        }
        let catalogue = self.core.catalogue();
        let operator = catalogue.operator_called(tenant, &content.to);
        let takes_part = operator.is_some_and(|operator| operator.settings.is_some());
        if takes_part { Ok(()) } else { Err(CampaignRefused::Operator(content.to.clone())) }
    }

    pub(super) async fn start_changes(
        &self,
        records: &mut BTreeMap<CampaignId, CampaignRecord>,
        mut record: CampaignRecord,
        by: &str,
    ) -> Result<CampaignRecord, CampaignRefused> {
        let running = self.of_changes().iter().filter(|one| one.state == CampaignState::Running).count();
        if running >= RUNNING_MAX {
            return Err(CampaignRefused::TooManyRunning);
        }
        let note = BulkNote { asked_by: by.to_owned(), ..BulkNote::default() };
        record.progress_note =
            serde_json::to_string(&Note { changes: Some(note), ..Note::default() }).unwrap_or_default();
        record.state = CampaignState::Running.name().to_owned();
        record.started_at = Some(self.core.now());
        self.put(records, record.clone()).await?;
        self.publish(records);
        Ok(record)
    }
}

/// A user has turned a campaign; answers whether it is one of changes. One that goes on has been looked at.
pub(super) fn turned(record: &mut CampaignRecord, to: CampaignState) -> bool {
    let mut note: Note = serde_json::from_str(&record.progress_note).unwrap_or_default();
    let is_draft_of_changes = || {
        serde_json::from_str::<Definition>(&record.definition).is_ok_and(|one| one.content.steps().is_none())
    };
    let Some(changes) = &mut note.changes else { return is_draft_of_changes() };
    if to == CampaignState::Running {
        (changes.accepted, changes.paused_for) = (None, None);
        record.progress_note = serde_json::to_string(&note).unwrap_or_default();
    }
    true
}

/// The started ones among all rows.
pub(super) fn read_all(records: &BTreeMap<CampaignId, CampaignRecord>) -> Vec<Arc<OfChanges>> {
    records.values().filter_map(read).map(Arc::new).collect()
}

fn read(record: &CampaignRecord) -> Option<OfChanges> {
    let note: Note = serde_json::from_str(&record.progress_note).ok()?;
    let note = note.changes?;
    let state = CampaignState::from_name(&record.state)?;
    let definition: Definition = serde_json::from_str(&record.definition)
        .inspect_err(
            |error| tracing::error!(campaign = record.id.0, %error, "a campaign's row is not usable"),
        )
        .ok()?;
    let Definition {
        content: CampaignContent::ChangeOperator { change_operator: content }, audience, ..
    } = definition
    else {
        return None;
    };
    Some(OfChanges { id: record.id, tenant: record.tenant, audience, content, state, note })
}
