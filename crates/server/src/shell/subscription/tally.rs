//! The changes that campaigns have begun, counted: open ones here, ended ones in the campaign's sums, which are written by
//! the commit that ends a change.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use simtide_platform::subscription::{BulkCounts, Change, Fate};
use simtide_protocol::ids::ChangeId;

use crate::store::Progress;

/// The open changes of campaigns, by campaign. At most [`simtide_platform::subscription::BULK_OPEN_MAX`] each.
#[derive(Default)]
pub(super) struct Tally(Mutex<HashMap<u32, BTreeMap<ChangeId, Open>>>);

#[derive(Clone, Copy)]
struct Open {
    fate: Fate,
    may_be_cancelled: bool,
}

impl Tally {
    /// A change is durable as it is now.
    pub(super) fn is_now(&self, change: &Change) {
        let Some(campaign) = change.evidence.campaign else { return };
        let fate = change.fate();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(fate, Fate::UnderWay | Fate::Unknown) {
            let open = Open { fate, may_be_cancelled: change.may_be_cancelled() };
            all.entry(campaign).or_default().insert(change.id, open);
        } else if let Some(open) = all.get_mut(&campaign) {
            open.remove(&change.id);
            if open.is_empty() {
                all.remove(&campaign);
            }
        }
    }

    /// Counts the open changes of a campaign.
    pub(super) fn open(&self, campaign: u32) -> BulkCounts {
        let mut counts = BulkCounts::default();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&campaign).into_iter().flatten().for_each(|(_, open)| counts.add(open.fate));
        counts
    }

    /// Open changes of a campaign that have not reached their cards, some of them.
    pub(super) fn may_be_cancelled(&self, campaign: u32, count_max: usize) -> Vec<ChangeId> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.get(&campaign).into_iter().flatten().filter(|(_, open)| open.may_be_cancelled);
        open.map(|(id, _)| *id).take(count_max).collect()
    }
}

/// What the commit that takes a change from one record to the next adds to the sums of its campaign.
pub(super) fn sums(before: Option<&Change>, after: &Change) -> Option<(u32, Progress)> {
    let campaign = after.evidence.campaign?;
    let (before, after) = (before.map(Change::fate), after.fate());
    if before == Some(after) {
        return None;
    }
    let mut sums = of(after, 1);
    sums.add(&before.map(|fate| of(fate, -1)).unwrap_or_default());
    (sums != Progress::default()).then_some((campaign, sums))
}

fn of(fate: Fate, count: i64) -> Progress {
    let sums = Progress::default();
    match fate {
        Fate::UnderWay | Fate::Unknown => sums,
        Fate::Done => Progress { done_by_change: count, ..sums },
        Fate::Declined => Progress { declined: count, ..sums },
        Fate::Refused => Progress { refused: count, ..sums },
        Fate::Reverted => Progress { reverted: count, ..sums },
        Fate::Failed => Progress { failed: count, ..sums },
        Fate::Cancelled => Progress { cancelled: count, ..sums },
    }
}

/// The ended changes of a campaign, from its sums, beside the open ones.
pub(super) fn with_ended(open: BulkCounts, sums: &Progress) -> BulkCounts {
    let count = |sum: i64| sum.max(0).unsigned_abs();
    BulkCounts {
        done: count(sums.done_by_change),
        declined: count(sums.declined),
        refused: count(sums.refused),
        reverted: count(sums.reverted),
        failed: count(sums.failed),
        cancelled: count(sums.cancelled),
        ..open
    }
}
