//! The second interface, in process: what waits for a card is sealed and handed over when its device asks.

use std::collections::BTreeMap;

use simtide_platform::campaign::CampaignState;
use simtide_platform::delivery::{
    Available, Bearer, Bearers, Brought, Cause, Event, Evidence, Known as KnownOf, Urgency, Waiting as Waits,
    versions_on, waiting,
};
use simtide_platform::subscription::SeenBy;
use simtide_protocol::ids::{CardId, DeliveryId, EpochMs, Imsi};
use simtide_protocol::second_layer::{ItemId, Known, UplinkContent, Verdict};
use simtide_protocol::sms::Submit;

use super::record::{Brief, item_id, parse_item};
use super::steps::{Beside, Loaded};
use super::{Deliveries, DeliveryRefused};
use crate::entitlement::source::{Answer, DeliverySource, PushAddress, SourceError, Waiting};
use crate::shell::campaigns::Started;
use crate::shell::{sealing, sessions};
use crate::store::{
    Alias, Card, CaseKind, HistoryResult, Op, Origin, Packet, PacketKey, PacketState, Standing, StoreError,
};

/// Item ids of packets that belong to a change of operator begin so.
const CHANGE_PREFIX: &str = "change-";
/// Lines of a card's history in which it is looked for what it was brought.
const HISTORY_LINES_MAX: usize = 256;

impl DeliverySource for Deliveries {
    fn subscriber(&self, imsi: Imsi) -> Answer<'_, Option<CardId>> {
        Box::pin(async move { Ok(self.core.store.find(Alias::Imsi(imsi)).await?) })
    }

    fn waiting<'a>(&'a self, card: CardId, known: &'a Known) -> Answer<'a, Vec<Waiting>> {
        Box::pin(async move {
            self.sightings.note(card, |sighting| {
                sighting.ip_seen = Some(self.core.now());
                if !known.is_empty() {
                    sighting.known.clone_from(known);
                }
            });
            Ok(self.what_waits(card, known).await?)
        })
    }

    fn fetched(&self, card: CardId, items: Vec<ItemId>) -> Answer<'_, ()> {
        Box::pin(async move {
            for item in items {
                if let Some((delivery, counter)) = parse_item(item.as_str()) {
                    self.item_fetched(card, delivery, counter).await?;
                }
            }
            Ok(())
        })
    }

    fn uplink(&self, card: CardId, uplink: UplinkContent) -> Answer<'_, Verdict> {
        Box::pin(async move {
            let brought = |number: &str| Brought { by: Bearer::Ip, to: number.parse().ok() };
            let arrived = match &uplink {
                UplinkContent::Proof { packet, originating_address, .. } => {
                    self.proofs.packet_arrived(card, from_rpl(packet), brought(originating_address)).await
                }
                UplinkContent::Submit { tpdu } => match Submit::from_bytes(tpdu) {
                    Ok(submit) => {
                        let brought = brought(&submit.destination.number);
                        self.proofs.message_arrived(card, &submit.user_data.octets, brought).await
                    }
                    Err(error) => {
                        tracing::info!(%error, "a short message over IP is not readable");
                        Ok(crate::shell::proofs::Arrived::Refused)
                    }
                },
            };
            Ok(arrived?.into())
        })
    }

    fn authenticated(&self, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async move {
            self.changes.seen(imsi, None, SeenBy::EapAka).await?;
            Ok(())
        })
    }

    fn push_address(&self, card: CardId, address: Option<PushAddress>) -> Answer<'_, ()> {
        Box::pin(async move {
            self.sightings.note(card, |sighting| sighting.push = address);
            Ok(())
        })
    }
}

impl From<StoreError> for SourceError {
    fn from(error: StoreError) -> SourceError {
        SourceError::Unavailable(error.to_string())
    }
}

/// A proof as an ENVELOPE's answer gave it begins with a user data header, which is not part of the packet.
fn from_rpl(packet: &[u8]) -> &[u8] {
    packet.strip_prefix(&simtide_protocol::scp80::RESPONSE_UDH).unwrap_or(packet)
}

impl Deliveries {
    /// What waits for the card, sealed. One packet of a card is open at a time, so there is one at most; the next
    /// follows its proof.
    async fn what_waits(&self, card: CardId, known: &Known) -> Result<Vec<Waiting>, StoreError> {
        let _turn = self.turn(&card).await;
        let briefs = self.open_of(&card);
        // Most cards have one at most.
        let oldest = briefs.first().map(|one| (CaseKind::Delivery, one.id.0));
        let standing = self.core.store.standing(card, oldest).await?;
        let Some(Standing { card, open, mut case }) = standing else { return Ok(Vec::new()) };
        if let Some(item) = self.change_packet(&card, &open).await {
            return Ok(vec![item]);
        }
        // A packet that has left holds every later counter back: it is offered first.
        let of_packet = open.iter().find_map(|packet| match packet.origin {
            Origin::Delivery(id) => Some(id),
            _ => None,
        });
        let versions = self.versions_on(&card, known).await?;
        for waits in self.compare(&card, &briefs, of_packet, &versions) {
            if of_packet.is_some_and(|first| waits != Waits::Delivery(first)) {
                break;
            }
            let offered = match waits {
                Waits::Delivery(id) => {
                    let read = case.take().filter(|row| row.id == id.0);
                    let loaded = match read {
                        Some(row) => Some(self.loaded(card.clone(), open.clone(), &row).await?),
                        None => self.load(card.record.id, id).await?,
                    };
                    let Some(mut loaded) = loaded else { continue };
                    let beside = Beside { instead_of_triggers: true, ..Beside::default() };
                    self.step(&mut loaded, Event::Asked, beside).await?.offered
                }
                Waits::Campaign { campaign, .. } => self.offer_campaign(&card, &open, campaign).await?,
                // Its packet would have been open.
                Waits::Change(_) => None,
            };
            if let Some(packet) = offered {
                let Origin::Delivery(id) = packet.origin else { continue };
                return Ok(self
                    .wrap(&card, &packet, item_id(id, packet.key.counter))
                    .await
                    .into_iter()
                    .collect());
            }
        }
        Ok(Vec::new())
    }

    /// Versions that the card has: as its device says, else as campaigns have brought them, by the card's history.
    pub(super) async fn versions_on(
        &self,
        card: &Card,
        known: &Known,
    ) -> Result<BTreeMap<String, String>, StoreError> {
        let started = self.campaigns.started();
        let may_have_brought: Vec<_> = started
            .iter()
            .filter(|one| one.tenant == card.record.tenant && card.hot.applied.has(one.number))
            .filter(|one| !one.content.provides.is_empty())
            .collect();
        if may_have_brought.is_empty() {
            return Ok(known.0.clone());
        }
        // What counts as settled may also have concerned the card never.
        let history = self.core.store.history(card.record.id, EpochMs(i64::MAX), HISTORY_LINES_MAX).await?;
        let brought = may_have_brought.iter().filter(|one| {
            history.iter().any(|line| line.campaign == Some(one.id) && line.result == HistoryResult::Done)
        });
        Ok(versions_on(&known.0, brought.map(|one| &one.content.provides)))
    }

    /// What the card is known to have, against what there is.
    pub(super) fn compare(
        &self,
        card: &Card,
        briefs: &[Brief],
        first: Option<DeliveryId>,
        versions: &BTreeMap<String, String>,
    ) -> Vec<Waits> {
        let catalogue = self.core.catalogue();
        let view = catalogue.view_of(card);
        let started = self.campaigns.started();
        // A campaign that is paused lets nothing leave, not again either.
        let paused = |cause| match cause {
            Cause::Campaign { campaign, .. } => {
                started.iter().any(|one| one.id.0 == campaign && one.state == CampaignState::Paused)
            }
            Cause::Request => false,
        };
        let mut deliveries: Vec<DeliveryId> =
            briefs.iter().filter(|one| !paused(one.cause)).map(|one| one.id).collect();
        deliveries.sort_by_key(|id| Some(*id) != first);
        let delivered = |campaign: &Started| {
            briefs
                .iter()
                .any(|one| matches!(one.cause, Cause::Campaign { number, .. } if number == campaign.number))
        };
        let offers = self.core.config.second_interface.campaigns;
        let campaigns: Vec<_> = started
            .iter()
            .filter(|campaign| offers && !delivered(campaign))
            .map(|campaign| (&campaign.offered, &campaign.content.provides))
            .collect();
        let known = KnownOf {
            card: &view,
            tenant: card.record.tenant.0,
            rows: &sessions::rows(card),
            imsi: card.record.imsi,
            versions,
        };
        waiting(&known, &Available { change: None, deliveries: &deliveries, campaigns: &campaigns })
    }

    /// A campaign's content for a card that its polls do not reach, as a delivery of its own.
    async fn offer_campaign(
        &self,
        card: &Card,
        open: &[Packet],
        campaign: u32,
    ) -> Result<Option<Packet>, StoreError> {
        let Some(started) = self.campaigns.find(campaign) else { return Ok(None) };
        let cause = Cause::Campaign { campaign, number: started.number };
        let bearers = Bearers::NONE.with(Bearer::Ip).with(Bearer::Poll);
        let limit = self.core.now().plus_s(self.core.config.delivery.validity_s.into());
        let content = started.content.clone();
        let record = self.new_record(card, cause, content, bearers, Urgency::Normal, limit);
        let record = match record {
            Ok(record) => record,
            Err(DeliveryRefused::Store(error)) => return Err(error),
            Err(error) => {
                tracing::info!(campaign, %error, "a campaign's content stays with the polls of a card");
                return Ok(None);
            }
        };
        // Known to polls before it is looked whether there is one: of two that begin at once, one at least steps back.
        self.remember(&record);
        let mut loaded = Loaded { card: card.clone(), open: open.to_vec(), record };
        let in_session = self.in_session.get().is_some_and(|in_session| in_session(&card.record.id));
        let stepped = if in_session {
            Ok(None)
        } else {
            let beside = Beside { instead_of_triggers: true, ..Beside::default() };
            self.step(&mut loaded, Event::Asked, beside).await.map(|stepped| stepped.offered)
        };
        if loaded.record.version == 0 {
            self.forget(&loaded.record);
        }
        stepped
    }

    /// An open packet of the card's change of operator: it may go by this bearer too, the same bytes.
    async fn change_packet(&self, card: &Card, open: &[Packet]) -> Option<Waiting> {
        let packet = open.iter().find(|packet| matches!(packet.origin, Origin::Change(_)))?;
        let Origin::Change(change) = packet.origin else { return None };
        if packet.state == PacketState::Queued && !self.flight.contains(packet.key) {
            self.flight.takes_off(packet, 1);
        }
        let item = self.wrap(card, packet, format!("{CHANGE_PREFIX}{change}-{}", packet.key.counter)).await;
        if item.is_some() {
            // Another copy: the answer "counter low" to one of them says nothing about the other.
            self.flight.evidence(packet.key, self.core.now(), Evidence::Submitting);
        }
        item
    }

    /// The first layer, and the wrapper around it where it is made on this side.
    async fn wrap(&self, card: &Card, packet: &Packet, id: String) -> Option<Waiting> {
        let sealed = sealing::sealed(&self.core, card, packet).await;
        let sealed = sealed.inspect_err(|error| tracing::warn!(%error, "a packet cannot be sealed")).ok()?;
        let ours = self.core.config.second_interface.wrapper == crate::config::Wrapper::Platform;
        let originating_address = ours.then(|| self.core.config.originating_address().to_owned());
        Some(Waiting { id: id.parse().ok()?, packet: sealed, originating_address, proof_wanted: true })
    }

    async fn item_fetched(&self, card: CardId, id: DeliveryId, counter: u64) -> Result<(), StoreError> {
        let _turn = self.turn(&card).await;
        let Some(mut loaded) = self.load(card, id).await? else { return Ok(()) };
        let Some(under_way) = &loaded.record.machine.under_way else { return Ok(()) };
        if under_way.counter.is_some_and(|known| known != counter) || counter <= under_way.counter_before {
            return Ok(());
        }
        let key = PacketKey { card, key_set: under_way.key_set, counter };
        let accepted = self.flight.evidence(key, self.core.now(), Evidence::Accepted { part: 0 });
        let change = accepted.map(|moved| moved.change(key));
        let beside = Beside { ops: change.map(Op::Packet).into_iter().collect(), ..Beside::default() };
        self.step(&mut loaded, Event::Fetched, beside).await?;
        Ok(())
    }
}
