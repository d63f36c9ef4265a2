//! What the secure element manager does without being asked: deliveries of campaigns that have ended are closed, and
//! devices that a push reaches are told of what has become available for their cards.
//!
//! Cards with coverage are called in by the planner and their own polls, and a short message does not reach the others:
//! only a push costs nothing and arrives. Whoever has none asks by itself, every `entitlement.next_query_s`.

use std::sync::Arc;

use simtide_platform::delivery::{Cause, Event, Waiting as Waits};
use simtide_protocol::ids::{CardId, EpochMs};

use super::Deliveries;
use crate::shell::campaigns::Started;
use crate::store::{Origin, StoreError};

/// Cards that are looked at in one turn of the loop.
const CARDS_PER_TURN_MAX: usize = 100;

/// How far the platform has looked.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    /// The campaigns that it has last seen: another list means that something has changed.
    campaigns: Option<Arc<Vec<Arc<Started>>>>,
    /// A round is under way, and this was its last card.
    round: Option<Option<CardId>>,
    /// When the next round begins by itself.
    next: EpochMs,
}

impl Deliveries {
    /// One turn: ends what has lost its cause, and looks at some cards.
    pub(super) async fn look_out(&self, lookout: &mut Lookout) -> Result<(), StoreError> {
        let now = self.core.now();
        let campaigns = self.campaigns.started();
        let changed = lookout.campaigns.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &campaigns));
        if changed {
            self.close_what_has_ended(&campaigns).await?;
            lookout.campaigns = Some(campaigns);
        }
        if changed || now >= lookout.next {
            lookout.round = Some(None);
            lookout.next = now.plus_s(i64::from(self.core.config.delivery.look_every_s.max(1)));
        }
        let Some(after) = lookout.round else { return Ok(()) };
        let cards = self.sightings.pushable(after, CARDS_PER_TURN_MAX);
        lookout.round = cards.last().map(|last| Some(*last));
        for card in cards {
            self.look_at_card(card).await?;
        }
        Ok(())
    }

    /// Deliveries of campaigns that were stopped: nobody wants them any more.
    async fn close_what_has_ended(&self, campaigns: &[Arc<Started>]) -> Result<(), StoreError> {
        let runs = |cause| match cause {
            Cause::Campaign { campaign, .. } => campaigns.iter().any(|one| one.id.0 == campaign),
            Cause::Request => true,
        };
        let ended: Vec<_> = self
            .briefs()
            .iter()
            .flat_map(|(card, all)| all.iter().map(|one| (*card, *one)))
            .filter(|(_, one)| !runs(one.cause))
            .collect();
        for (card, one) in ended {
            self.event(card, one.id, Event::Cancel).await?;
        }
        Ok(())
    }

    /// Tells the device of a card of what waits, once for each campaign and each packet of a change.
    async fn look_at_card(&self, id: CardId) -> Result<(), StoreError> {
        let Some(card) = self.core.store.card(id).await? else { return Ok(()) };
        let sighting = self.sightings.of(&id);
        let open = self.core.store.open_packets(id).await?;
        let of_change = open.iter().any(|packet| matches!(packet.origin, Origin::Change(_)));
        let versions = self.versions_on(&card, &sighting.known).await?;
        let campaign = self.compare(&card, &[], None, &versions).into_iter().find_map(|waits| match waits {
            Waits::Campaign { number, .. } if number > sighting.told_of => Some(number),
            _ => None,
        });
        if let Some(number) = campaign {
            self.sightings.note(id, |sighting| sighting.told_of = number);
        }
        if let Some(notifier) = self.notifier.get().filter(|_| of_change || campaign.is_some()) {
            notifier.something_waits(&card, sighting.push);
        }
        Ok(())
    }
}
