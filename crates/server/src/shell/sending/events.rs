//! What links say: answers of the SMSC, receipts, messages from phones.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use simtide_platform::delivery::Evidence;
use simtide_protocol::ids::{CardId, Msisdn};
use tokio::sync::mpsc;

use super::{Incoming, Part, State};
use crate::shell::core::Core;
use crate::smpp::{Address, DeliveryState, LinkEvent, Receipt, Refusal};
use crate::store::{Alias, PacketKey, StoreError};

/// Takes what happens on a link.
pub(super) async fn listen(
    state: Arc<State>,
    place: usize,
    name: String,
    mut reported: mpsc::Receiver<LinkEvent>,
    incoming: mpsc::Sender<Incoming>,
    again: mpsc::Sender<PacketKey>,
) {
    while let Some(event) = reported.recv().await {
        match event {
            LinkEvent::Accepted { token, message_id } => accepted(&state, token, message_id).await,
            LinkEvent::Refused { token, cause, .. } => refused(&state, token, cause).await,
            LinkEvent::Unknown { token } => {
                if let Some(part) = state.forget(token)
                    && state.evidence(part.key, Evidence::LinkLost).await.is_some()
                    && again.try_send(part.key).is_err()
                {
                    tracing::warn!(
                        "too many commands were lost with their links; some leave at the next start"
                    );
                }
            }
            LinkEvent::Throttled { rate_per_s } => {
                state.flight.throttled.fetch_add(1, Ordering::Relaxed);
                tracing::info!(link = name, rate_per_s, "the SMSC throttles; the link has slowed down");
            }
            LinkEvent::Receipt(receipt) => {
                if let Err(error) = receipt_came(&state, &receipt).await {
                    tracing::error!(%error, "a receipt was not taken in");
                }
            }
            LinkEvent::Message(message) => {
                let link = state.links[place].clone();
                let _ = incoming.send(Incoming { link, message }).await;
            }
            LinkEvent::Alert { subscriber } => match card_of(&state.core, &subscriber).await {
                // Short messages are worth trying again before other bearers.
                Ok(Some(card)) => state.flight.sightings.reached(&card, state.core.now()),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "that a subscriber is back was not taken in"),
            },
            LinkEvent::Up => tracing::info!(link = name, "the SMPP link is up"),
            LinkEvent::Down => tracing::warn!(link = name, "the SMPP link is down; it reconnects"),
            LinkEvent::Stopped { reason } => {
                tracing::warn!(link = name, %reason, "the SMPP link has stopped")
            }
        }
    }
}

async fn accepted(state: &State, token: u64, message_id: String) {
    let Some(part) = state.part(token) else { return };
    state.flight.message_id(part.key, part.number, part.parts, message_id);
    state.evidence(part.key, Evidence::Accepted { part: part.number as u8 }).await;
}

async fn refused(state: &State, token: u64, cause: Refusal) {
    let Some(part) = state.forget(token) else { return };
    tracing::info!(%cause, "a message was not taken");
    let evidence = match cause {
        Refusal::Smsc(status) => Evidence::RefusedBySmsc { status },
        Refusal::Waited | Refusal::Group => Evidence::Abandon,
        // The platform ends: the row says Submitted, and the next start takes it as unknown.
        Refusal::Stopped => return,
        // What withdrew it has settled it.
        Refusal::Withdrawn => return,
    };
    state.evidence(part.key, evidence).await;
}

async fn receipt_came(state: &State, receipt: &Receipt) -> Result<(), StoreError> {
    let part = match receipt.token.and_then(|token| state.part(token).map(|part| (token, part))) {
        Some((token, part)) => {
            if receipt.state.is_final() {
                state.forget(token);
            }
            Some(part)
        }
        None => look_up(state, receipt).await?.map(|key| Part { key, number: 0, parts: 1 }),
    };
    let Some(Part { key, number, .. }) = part else { return Ok(()) };
    let evidence = match receipt.state {
        DeliveryState::Enroute => {
            state.flight.stored(key);
            return Ok(());
        }
        DeliveryState::Delivered | DeliveryState::Accepted => Evidence::Delivered { part: number as u8 },
        DeliveryState::Expired
        | DeliveryState::Deleted
        | DeliveryState::Undeliverable
        | DeliveryState::Rejected => Evidence::Undeliverable,
        DeliveryState::Unknown => return Ok(()),
    };
    state.evidence(key, evidence).await;
    Ok(())
}

/// A receipt about a message of an earlier run: by the SMSC's id, else by subscriber and reference modulo 256.
async fn look_up(state: &State, receipt: &Receipt) -> Result<Option<PacketKey>, StoreError> {
    let Some(card) = card_of(&state.core, &receipt.subscriber).await? else { return Ok(None) };
    let open = state.core.store.open_packets(card).await?;
    let by_id = open.iter().find(|packet| {
        packet.message_ids.iter().any(|id| receipt.ids.iter().any(|other| other.eq_ignore_ascii_case(id)))
    });
    let by_reference = || {
        let reference = receipt.reference?;
        open.iter().find(|packet| packet.key.counter as u8 == reference as u8)
    };
    Ok(by_id.or_else(by_reference).map(|packet| packet.key))
}

/// The card behind a telephone number, with or without its plus.
pub async fn card_of(core: &Core, address: &Address) -> Result<Option<CardId>, StoreError> {
    match address.digits.trim_start_matches('+').parse::<Msisdn>() {
        Ok(msisdn) => core.store.find(Alias::Msisdn(msisdn)).await,
        Err(_) => Ok(None),
    }
}
