//! Upkeep: rows that nobody needs any more are deleted, a bounded number at once.

use std::sync::Arc;
use std::time::Duration;

use simtide_protocol::ids::EpochMs;
use tokio::sync::watch;

use super::core::Core;
use crate::store::{Group, Op, Outcome, StoreError};

/// How often is looked after rows, in real time.
const EVERY: Duration = Duration::from_secs(600);
/// How long closed packets are kept, in days: late receipts and proofs are still recognised.
const PACKETS_KEPT_DAYS: u32 = 30;
/// Commits per group and round: the writers belong to the cards.
const COMMITS_MAX: usize = 100;
const DAY_MS: i64 = 86_400_000;

/// Runs until `stop` says so.
pub async fn run(core: Arc<Core>, mut stop: watch::Receiver<bool>) {
    let mut rounds = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            _ = rounds.tick() => {}
        }
        for group in 0..core.store.groups() {
            if let Err(error) = purge(&core, Group::Cards(group)).await {
                tracing::error!(%error, "old rows were not deleted");
            }
        }
    }
}

/// Deletes what is too old in a group; answers how many rows.
pub async fn purge(core: &Core, group: Group) -> Result<u64, StoreError> {
    let now = core.now();
    let before = |days: u32| EpochMs(now.0.saturating_sub(i64::from(days) * DAY_MS));
    let purge = Op::Purge {
        packets_before: before(PACKETS_KEPT_DAYS),
        history_before: before(core.config.data.history_retention_days),
    };
    let mut deleted = 0;
    for _ in 0..COMMITS_MAX {
        let committed = core.commit(group, vec![purge.clone()]).await?;
        match committed.outcomes.first() {
            Some(Outcome::Count(count)) if *count > 0 => deleted += count,
            _ => break,
        }
    }
    if deleted > 0 {
        tracing::info!(rows = deleted, "old rows were deleted");
    }
    Ok(deleted)
}
