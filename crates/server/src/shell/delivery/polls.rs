//! Polls that carry deliveries, or must leave alone what a delivery has on its way.

use simtide_platform::delivery::{Cause, Event, Polled, ScriptAnswer, State};
use simtide_platform::poll::{CardRow, CardRowStatus, Offer, Outcome, Work};
use simtide_protocol::ids::{CardId, DeliveryId};
use std::sync::Arc;

use super::Deliveries;
use super::record::{Record, is_delivery, number_of};
use super::steps::{Beside, Loaded};
use crate::store::{Card, ExceptionStatus, StoreError};

/// The deliveries that a session of a card carries: each ends with the session.
#[derive(Debug, Default)]
pub struct Polling {
    /// Delivery, and under which campaign's id its outcome comes.
    under_way: Vec<(DeliveryId, u32)>,
}

impl Deliveries {
    /// A poll begins: takes out of its offer what is on its way to the card by another bearer, and adds what it may
    /// carry.
    pub async fn poll_begins(
        &self,
        card: &Card,
        rows: &[CardRow],
        offer: &mut Offer,
    ) -> Result<Polling, StoreError> {
        let mut polling = Polling::default();
        if self.open_of(&card.record.id).is_empty() {
            return Ok(polling);
        }
        let _turn = self.turn(&card.record.id).await;
        for brief in self.open_of(&card.record.id) {
            let Some(mut loaded) = self.load(card.record.id, brief.id).await? else {
                // It is just being made, and steps back.
                self.withhold(offer, brief.cause);
                continue;
            };
            let Loaded { card, record, .. } = &loaded;
            let now = self.core.now();
            let runs = match brief.cause {
                Cause::Campaign { campaign, .. } => offer.work.iter().any(|work| work.campaign == campaign),
                Cause::Request => record.content.is_some(),
            };
            if !record.machine.may_poll(now) {
                if record.machine.keeps_from_polls(now) {
                    self.withhold(offer, brief.cause);
                }
                continue;
            }
            if !runs {
                continue;
            }
            let work = match brief.cause {
                Cause::Campaign { .. } => None,
                Cause::Request => match self.work(card, record, rows) {
                    Some(work) => Some(work),
                    None => continue,
                },
            };
            self.step(&mut loaded, Event::PollOpened, Beside::default()).await?;
            if loaded.record.machine.state == State::Polling {
                polling.under_way.push((brief.id, loaded.record.campaign().0));
                offer.work.extend(work);
            }
        }
        Ok(polling)
    }

    /// What a poll makes of one of its campaigns, where that is a delivery: `true`, and nothing of a campaign is to be
    /// noted.
    pub fn is_delivery(campaign: u32) -> bool {
        is_delivery(campaign)
    }

    /// What came of a campaign or delivery in a session; after the commit that says so.
    pub async fn poll_told(
        &self,
        card: CardId,
        polling: &mut Polling,
        campaign: u32,
        outcome: Outcome,
    ) -> Result<(), StoreError> {
        let Some(place) = polling.under_way.iter().position(|(_, known)| *known == campaign) else {
            return Ok(());
        };
        let (id, _) = polling.under_way.remove(place);
        let outcome = match outcome {
            Outcome::Done(_) | Outcome::Nothing => Polled::Done,
            Outcome::Failed(failure, _) => Polled::Failed(ScriptAnswer::failed_with(failure.status_word().0)),
            Outcome::Interrupted { .. } => Polled::Failed(ScriptAnswer::failed_with(0)),
        };
        self.event(card, id, Event::PollEnded { outcome }).await?;
        Ok(())
    }

    /// The session is over: what it has not brought to an end goes on by itself.
    pub async fn poll_ended(&self, card: CardId, polling: Polling) -> Result<(), StoreError> {
        let _turn = self.turn(&card).await;
        for (id, _) in polling.under_way {
            self.poll_broke(card, id).await?;
        }
        Ok(())
    }

    /// A poll that carried a delivery has ended without an outcome for it. The caller has the card's turn.
    pub(super) async fn poll_broke(&self, card: CardId, id: DeliveryId) -> Result<(), StoreError> {
        let Some(mut loaded) = self.load(card, id).await? else { return Ok(()) };
        let Loaded { card, record, .. } = &loaded;
        let campaign = record.campaign();
        let settled = match record.machine.cause {
            Cause::Campaign { number, .. } => card.hot.applied.has(number),
            Cause::Request => false,
        };
        let begun = card
            .exceptions
            .iter()
            .any(|row| row.campaign == campaign && row.status == ExceptionStatus::Begun);
        let outcome = if settled { Polled::Done } else { Polled::Broken { marked: begun } };
        self.step(&mut loaded, Event::PollEnded { outcome }, Beside::default()).await?;
        Ok(())
    }

    fn withhold(&self, offer: &mut Offer, cause: Cause) {
        if let Cause::Campaign { campaign, .. } = cause {
            offer.work.retain(|work| work.campaign != campaign);
            offer.left_over.push(campaign);
        }
    }

    /// A delivery as a poll runs it.
    fn work(&self, card: &Card, record: &Record, rows: &[CardRow]) -> Option<Work> {
        let catalogue = self.core.catalogue();
        let profile = catalogue.profile(card.hot.profile)?;
        let content = record.content.as_ref()?.prepare(profile).ok()??;
        let number = number_of(record.machine.id);
        let unanswered = rows.iter().find(|row| row.campaign == number).and_then(|row| match row.status {
            CardRowStatus::Begun { step } => Some(step),
            CardRowStatus::Closed => None,
        });
        Some(Work { campaign: number, number, content: Arc::new(content), unanswered, runs: true })
    }
}
