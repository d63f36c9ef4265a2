//! When which device has to go on: one heap for the whole fleet.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use simtide_protocol::ids::EpochMs;
use tokio::sync::Notify;

use super::Fleet;

/// Longest wait without a look at the heap; a fleet that has ended is noticed by then.
const LOOK: Duration = Duration::from_millis(500);

/// How many devices go on before other tasks get their turn.
const TURN: usize = 16;

/// The entries, earliest first. An entry whose device has another one in the meantime is passed over when it comes.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: Mutex<BinaryHeap<Reverse<(EpochMs, u32)>>>,
    earlier: Notify,
}

impl Schedule {
    /// Adds an entry.
    pub fn at(&self, at: EpochMs, index: u32) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = entries.peek().is_none_or(|Reverse((first, _))| at < *first);
        entries.push(Reverse((at, index)));
        drop(entries);
        if earliest {
            self.earlier.notify_one();
        }
    }

    /// The next entry if its time has come, or when that will be.
    fn next(&self, now: EpochMs) -> Result<(EpochMs, u32), Option<EpochMs>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.peek() {
            Some(Reverse((at, _))) if *at <= now => entries.pop().map(|Reverse(entry)| entry).ok_or(None),
            Some(Reverse((at, _))) => Err(Some(*at)),
            None => Err(None),
        }
    }
}

/// Lets devices go on at their time, as long as the fleet lives.
pub(super) async fn run(fleet: Weak<Fleet>) {
    let mut turn = 0;
    loop {
        let Some(fleet) = fleet.upgrade() else { return };
        let now = fleet.clock.now();
        match fleet.schedule.next(now) {
            Ok((at, index)) => {
                fleet.slot(index).due(&fleet, index, at);
                turn += 1;
                if turn % TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(next) => {
                let wait = next.map_or(LOOK, |at| fleet.clock.real(at.ms_since(now)).min(LOOK));
                tokio::select! {
                    () = fleet.schedule.earlier.notified() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}
