//! The tide: the polls that the cards' own dates let expect, kept up to date with every date that is given.

use std::sync::{Mutex, PoisonError};

use simtide_platform::forecast::{Forecast, ForecastSettings, next_date};
use simtide_protocol::ids::{CardId, EpochMs};

use crate::store::{CardHot, Store, StoreError};

/// The forecast, shared by the planner and the sessions.
#[derive(Debug)]
pub struct Tide(Mutex<Forecast>);

impl Tide {
    /// Counts all cards once.
    pub async fn open(store: &dyn Store, now: EpochMs) -> Result<Tide, StoreError> {
        Ok(Tide(Mutex::new(count(store, now).await?)))
    }

    /// Counts again, after an import.
    pub async fn refresh(&self, store: &dyn Store, now: EpochMs) -> Result<(), StoreError> {
        let counted = count(store, now).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counted;
        Ok(())
    }

    /// Polls expected from now on for a time, as a rate per day.
    pub fn due_per_day(&self, now: EpochMs, length_ms: i64) -> u64 {
        let mut forecast = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        forecast.advance(now);
        forecast.due_per_day(now, length_ms)
    }

    /// The next date of a card that calls now; it is expected then, and no longer at the old date. What is planned for
    /// a card that was never seen says nothing about its place.
    pub fn give_date(&self, card: &CardId, hot: &CardHot, period_s: u32, now: EpochMs) -> EpochMs {
        let planned = hot.last_update.map(|_| hot.next_poll);
        let mut forecast = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seed = card.as_bytes().iter().fold(0_u64, |seed, byte| seed.rotate_left(8) ^ u64::from(*byte));
        // Cards know whole seconds.
        let date = EpochMs::from_seconds(next_date(&forecast, planned, period_s, now, seed).seconds());
        forecast.moved(hot.next_poll, date);
        date
    }
}

async fn count(store: &dyn Store, now: EpochMs) -> Result<Forecast, StoreError> {
    let mut forecast = Forecast::new(ForecastSettings::default(), now);
    let (from, slot_ms, slots) = forecast.extent();
    forecast.fill(&store.polls_due(from, slot_ms, slots).await?);
    Ok(forecast)
}
