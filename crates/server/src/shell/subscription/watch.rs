//! What is known of open changes without asking the store: which card has one, how many are in which state, what people
//! have to look at.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use simtide_platform::subscription::{Alarm, Change, State};
use simtide_protocol::ids::{CardId, ChangeId};

/// Open changes by card, and alarms since the start of the process.
#[derive(Default)]
pub struct Watch {
    /// As many as changes that are open.
    open: Mutex<HashMap<CardId, Open>>,
    alarms: [AtomicU64; Alarm::NAMES.len()],
}

#[derive(Clone, Copy)]
struct Open {
    id: ChangeId,
    state: State,
    has_alarm: bool,
}

impl Watch {
    /// What the last commit has made of the change.
    pub(super) fn is_now(&self, change: &Change) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if change.is_open() {
            let now = Open { id: change.id, state: change.state, has_alarm: !change.alarms.is_empty() };
            open.insert(change.card, now);
        } else if open.get(&change.card).is_some_and(|known| known.id == change.id) {
            open.remove(&change.card);
        }
    }

    /// The open change of a card.
    pub(super) fn change_of(&self, card: &CardId) -> Option<ChangeId> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(card).map(|open| open.id)
    }

    /// Tells people.
    pub(super) fn alarm(&self, change: &Change, alarm: Alarm) {
        tracing::error!(change = %change.id, ?alarm, "{}", alarm.advice());
        if let Some(count) = self.alarms.get(alarm.kind()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many changes are open in each state, and how many of all people have to look at.
    pub fn open(&self) -> ([(&'static str, u32); State::ALL.len()], u32) {
        let mut states = State::ALL.map(|state| (state.name(), 0));
        let mut with_alarm = 0;
        for open in self.open.lock().unwrap_or_else(PoisonError::into_inner).values() {
            states[usize::from(open.state.code())].1 += 1;
            with_alarm += u32::from(open.has_alarm);
        }
        (states, with_alarm)
    }

    /// Alarms since the start, by kind.
    pub fn alarms(&self) -> [(&'static str, u64); Alarm::NAMES.len()] {
        std::array::from_fn(|kind| (Alarm::NAMES[kind], self.alarms[kind].load(Ordering::Relaxed)))
    }
}
