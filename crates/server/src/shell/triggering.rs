//! Triggers: what the planner has decided in one step gets its counters in one commit per group of the store, and then
//! leaves in the order of the line.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use simtide_platform::campaign::{Batch, Chosen, Cursor, Event, Lane};
use simtide_protocol::ids::{CardId, EpochMs, Tar};

use super::campaigns::{Campaigns, Started};
use super::core::Core;
use super::sealing;
use super::sending::{Outbox, Outgoing};
use crate::store::{
    self, Card, Group, Op, OperatorId, Outcome, Packet, PacketKey, PacketState, Position, StoreError,
    TriggerCard,
};

/// [`simtide_platform::campaign::Command::Trigger`] as a value.
pub struct Commanded {
    /// For which campaign.
    pub campaign: u32,
    /// 1 for the first attempt.
    pub pass: u8,
    /// The batch that it belongs to.
    pub batch: Batch,
    /// All cards are in it.
    pub lane: Lane,
    /// The cards, in the order of the line.
    pub cards: Vec<Chosen<CardId>>,
    /// Where the lane stands afterwards.
    pub cursor: Cursor<CardId>,
    /// How long the network may try.
    pub validity_s: u32,
}

/// What came of the triggers of one step.
#[derive(Default)]
pub struct Left {
    /// For the planner, one per command.
    pub events: Vec<Event<CardId>>,
    /// The batches that have left, by campaign.
    pub batches: BTreeMap<u32, Vec<Batch>>,
}

/// A card that is to get a counter.
struct Reserving {
    rank: u64,
    last_update: Option<EpochMs>,
    key_set: u8,
    card: Card,
}

/// The cards of one command that take triggers at the same receiver: one operation of the store.
struct Reservation {
    command: usize,
    tar: Tar,
    cards: Vec<Reserving>,
}

/// What cards of one command have in common.
struct Terms {
    at: EpochMs,
    deadline: EpochMs,
    spi: u16,
}

/// Gives the cards their counters and hands their packets to the outbox, campaign by campaign in the order of its line.
pub async fn leave(
    core: &Arc<Core>,
    campaigns: &Campaigns,
    outbox: &Outbox,
    commands: Vec<Commanded>,
) -> Result<Left, StoreError> {
    let at = core.now();
    let spi = core.config.trigger.spi().map_or(0x1600, u16::from_be_bytes);
    let terms = |command: &Commanded| Terms { at, deadline: at.plus_s(i64::from(command.validity_s)), spi };
    let mut groups: HashMap<Group, (Vec<Op>, Vec<Reservation>)> = HashMap::new();
    for (place, command) in commands.iter().enumerate() {
        let Some(campaign) = campaigns.find(command.campaign) else { continue };
        let (ops, reservations) = groups.entry(core.group(command.lane.bucket)).or_default();
        for reservation in reservations_of(core, place, command).await? {
            let trigger = trigger(&campaign, command, &reservation, &terms(command));
            ops.push(Op::Trigger(Box::new(trigger)));
            reservations.push(reservation);
        }
    }
    let mut taken = vec![0_usize; commands.len()];
    let mut leaving: BTreeMap<u32, Vec<(u64, Outgoing)>> = BTreeMap::new();
    for (reservation, outcome) in commit(core, groups).await? {
        let Outcome::Triggered(counters) = outcome else { continue };
        let command = &commands[reservation.command];
        let line = leaving.entry(command.campaign).or_default();
        for (card, counter) in reservation.cards.into_iter().zip(counters) {
            let Ok(counter) = counter else { continue };
            taken[reservation.command] += 1;
            line.push(outgoing(command, reservation.tar, card, counter, &terms(command)));
        }
    }
    for mut line in leaving.into_values() {
        line.sort_by_key(|(rank, _)| *rank);
        tracing::debug!(size = line.len(), "triggers leave");
        outbox.send(line.into_iter().map(|(_, outgoing)| outgoing).collect()).await;
    }
    Ok(left(&commands, &taken))
}

/// One commit per group, all at once.
async fn commit(
    core: &Arc<Core>,
    groups: HashMap<Group, (Vec<Op>, Vec<Reservation>)>,
) -> Result<Vec<(Reservation, Outcome)>, StoreError> {
    let commits: Vec<_> = groups
        .into_iter()
        .filter(|(_, (ops, _))| !ops.is_empty())
        .map(|(group, (ops, reservations))| {
            let core = core.clone();
            let commit = tokio::spawn(async move { core.commit(group, ops).await });
            (commit, reservations)
        })
        .collect();
    let mut reserved = Vec::new();
    for (commit, reservations) in commits {
        let committed = commit.await.map_err(|error| StoreError::Failed(error.to_string()))??;
        reserved.extend(reservations.into_iter().zip(committed.outcomes));
    }
    Ok(reserved)
}

async fn reservations_of(
    core: &Core,
    place: usize,
    command: &Commanded,
) -> Result<Vec<Reservation>, StoreError> {
    let catalogue = core.catalogue();
    let mut reservations: Vec<Reservation> = Vec::new();
    for chosen in &command.cards {
        let Some(card) = core.store.card(chosen.card).await? else { continue };
        let profile = catalogue.profile(card.hot.profile);
        let Some((tar, key_set)) = profile.and_then(|profile| sealing::trigger_receiver(profile)) else {
            continue;
        };
        let reserving = Reserving { rank: chosen.rank, last_update: chosen.last_update, key_set, card };
        match reservations.iter_mut().find(|reservation| reservation.tar == tar) {
            Some(reservation) => reservation.cards.push(reserving),
            None => reservations.push(Reservation { command: place, tar, cards: vec![reserving] }),
        }
    }
    Ok(reservations)
}

fn trigger(campaign: &Started, command: &Commanded, of: &Reservation, terms: &Terms) -> store::Trigger {
    let position = Some(Position { key: command.cursor.key, card: command.cursor.card });
    let cursor = store::Cursor { pass: command.pass, position, exhausted: false };
    let asked = |card: &Reserving| TriggerCard {
        card: card.card.record.id,
        key_set: card.key_set,
        last_update: card.last_update,
    };
    store::Trigger {
        campaign: campaign.id,
        number: campaign.number,
        bucket: command.lane.bucket,
        cursor: Some((OperatorId(command.lane.operator), cursor)),
        cards: of.cards.iter().map(asked).collect(),
        tar: of.tar,
        spi: terms.spi,
        at: terms.at,
        deadline: terms.deadline,
    }
}

fn outgoing(
    command: &Commanded,
    tar: Tar,
    reserved: Reserving,
    counter: u64,
    terms: &Terms,
) -> (u64, Outgoing) {
    let packet = Packet {
        key: PacketKey { card: reserved.card.record.id, key_set: reserved.key_set, counter },
        origin: store::Origin::Trigger(store::CampaignId(command.campaign)),
        tar,
        spi: terms.spi,
        state: PacketState::Queued,
        at: terms.at,
        deadline: terms.deadline,
        message_ids: Vec::new(),
        data: Vec::new(),
    };
    (reserved.rank, Outgoing { packet, card: Some(Box::new(reserved.card)) })
}

fn left(commands: &[Commanded], taken: &[usize]) -> Left {
    let mut left = Left::default();
    for (command, taken) in commands.iter().zip(taken.iter().copied()) {
        left.events.push(Event::Taken {
            campaign: command.campaign,
            batch: command.batch.number,
            lane: command.lane,
            // At most as many as the command named, which are few thousands.
            taken: taken as u32,
            passed_over: (command.cards.len() - taken) as u32,
        });
        let batches = left.batches.entry(command.campaign).or_default();
        match batches.last_mut() {
            Some(last) if last.number == command.batch.number => last.size += taken as u32,
            _ => batches.push(Batch { size: taken as u32, ..command.batch }),
        }
    }
    left
}
