//! What is due, and what a process that starts again finds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use simtide_platform::subscription::{Change, Event, PacketKind, State};
use simtide_protocol::ids::{Bucket, CardId, ChangeId, EpochMs};
use tokio::sync::{Notify, watch};

use super::personalization::Receiver;
use super::{Changes, EFFECTS_MAX, read};
use crate::store::{CaseKind, CaseQuery, Origin, PAGE_ROWS_MAX, StoreError};

/// Changes that are due and handled at once.
const DUE_MAX: usize = 256;
/// The longest sleep: a clock that was set is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Pause after the store has not taken an event.
const PAUSE: Duration = Duration::from_millis(200);
/// Packets of a card in which the one of a change is looked for.
const PACKETS_MAX: usize = 32;

/// When which change is due.
#[derive(Default)]
pub(super) struct Timers {
    due: Mutex<Due>,
    sooner: Notify,
}

#[derive(Default)]
struct Due {
    by_time: BTreeSet<(EpochMs, ChangeId)>,
    by_change: BTreeMap<ChangeId, (EpochMs, CardId)>,
}

impl Timers {
    /// The change is due then; `None`: never.
    pub(super) fn set(&self, (card, id): (CardId, ChangeId), at: Option<EpochMs>) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, _)) = due.by_change.remove(&id) {
            due.by_time.remove(&(before, id));
        }
        if let Some(at) = at {
            let is_first = due.by_time.first().is_none_or(|(first, _)| at < *first);
            due.by_time.insert((at, id));
            due.by_change.insert(id, (at, card));
            if is_first {
                self.sooner.notify_one();
            }
        }
    }

    /// What is due now, taken out; and when the next one is.
    fn take(&self, now: EpochMs) -> (Vec<(CardId, ChangeId)>, Option<EpochMs>) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        while taken.len() < DUE_MAX {
            let Some((at, id)) = due.by_time.first().copied().filter(|(at, _)| *at <= now) else { break };
            due.by_time.remove(&(at, id));
            taken.extend(due.by_change.remove(&id).map(|(_, card)| (card, id)));
        }
        (taken, due.by_time.first().map(|(at, _)| *at))
    }
}

impl Changes {
    /// Finds what was open when the last process ended, and begins to look after what is due.
    ///
    /// # Errors
    /// The store failed.
    pub async fn start(self: &Arc<Self>, stop: watch::Receiver<bool>) -> Result<(), StoreError> {
        let mut open = Vec::new();
        for bucket in 0..self.core.store.buckets() {
            let mut query = CaseQuery::open(CaseKind::Change, Bucket(bucket), PAGE_ROWS_MAX);
            loop {
                let page = self.core.store.cases(query).await?;
                query.after = page.rows.last().map(|row| row.id).or(query.after);
                for row in &page.rows {
                    let change = read(row)?;
                    self.tally.is_now(&change);
                    self.watch.is_now(&change);
                    open.push(change);
                }
                if page.end {
                    break;
                }
            }
        }
        if !open.is_empty() {
            tracing::info!(changes = open.len(), "open changes of operator go on");
        }
        let me = self.clone();
        tokio::spawn(async move { me.run(open, stop).await });
        Ok(())
    }

    async fn run(self: Arc<Self>, open: Vec<Change>, mut stop: watch::Receiver<bool>) {
        for change in open {
            if *stop.borrow() {
                return;
            }
            if let Err(error) = self.go_on(change).await {
                tracing::error!(%error, "a change does not go on; it does at the next start");
            }
        }
        loop {
            let (due, next) = self.timers.take(self.core.now());
            let some = !due.is_empty();
            for of in due {
                self.tick(of).await;
            }
            if some {
                continue;
            }
            let sleep = next.map_or(SLEEP_MAX, |next| self.core.clock.until(next).min(SLEEP_MAX));
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.timers.sooner.notified() => {}
                stopped = stop.wait_for(|stop| *stop) => {
                    let _ = stopped;
                    return;
                }
            }
        }
    }

    async fn tick(&self, of: (CardId, ChangeId)) {
        // As many as effects: a tick makes at most a few of them.
        while self.effects.available_permits() == 0 {
            tokio::time::sleep(PAUSE / EFFECTS_MAX as u32).await;
        }
        if let Err(error) = self.handle(of, Event::Tick).await {
            tracing::error!(%error, "a change that is due was not stored; it is asked again");
            tokio::time::sleep(PAUSE).await;
            self.timers.set(of, Some(self.core.now().plus_ms(1_000)));
        }
    }

    /// What the last process left: whether a packet was reserved, then everything that may not have been carried out.
    async fn go_on(&self, change: Change) -> Result<(), StoreError> {
        let of = (change.card, change.id);
        if let Some(kind) = change.awaits_queue() {
            let event = match self.reserved_packet(&change, kind).await? {
                Some(counter) => Event::Queued { kind, counter },
                None => Event::NotQueued { kind },
            };
            self.handle(of, event).await?;
        }
        self.handle(of, Event::Restarted).await?;
        Ok(())
    }

    /// The counter of the packet that the change's last commit reserved, if it did.
    async fn reserved_packet(&self, change: &Change, kind: PacketKind) -> Result<Option<u64>, StoreError> {
        let Some(card) = self.core.store.card(change.card).await? else { return Ok(None) };
        let catalogue = self.core.catalogue();
        let receiver = catalogue.profile(card.hot.profile).and_then(|profile| Receiver::of(profile));
        let Some(receiver) = receiver else { return Ok(None) };
        let packets = self.core.store.latest_packets(change.card, receiver.key_set, PACKETS_MAX).await?;
        let sent_at = change.steps.iter().rev().find(|(_, state)| *state == State::Sent).map(|(at, _)| *at);
        let found = packets.iter().find(|packet| {
            let is_kind = packet.data.is_empty() == (kind == PacketKind::Personalization);
            let is_last = match kind {
                // Packet and state were written by the same commit.
                PacketKind::Personalization => Some(packet.at) == sent_at,
                // The commit that reserves a fence has given up the one before.
                PacketKind::Fence => packet.state.is_open(),
            };
            packet.origin == Origin::Change(change.id) && is_kind && is_last
        });
        Ok(found.map(|packet| packet.key.counter))
    }
}

#[cfg(test)]
mod tests {
    use simtide_protocol::ids::Iccid;

    use super::*;

    #[test]
    fn the_earliest_comes_first_and_each_change_once() {
        let timers = Timers::default();
        let card = CardId::from(Iccid::with_check_digit("890010000000000001").unwrap());
        let of = |id| (card, ChangeId(id));
        timers.set(of(1), Some(EpochMs(30)));
        timers.set(of(2), Some(EpochMs(20)));
        timers.set(of(1), Some(EpochMs(10)));
        timers.set(of(3), Some(EpochMs(10)));
        timers.set(of(3), None);
        assert_eq!(timers.take(EpochMs(9)), (vec![], Some(EpochMs(10))));
        assert_eq!(timers.take(EpochMs(20)), (vec![of(1), of(2)], None));
    }
}
