//! The delivery application: receipts and uplinks come in, what waits goes out, all inside the second layer.

use simtide_protocol::entitlement::OtaParameters;
use simtide_protocol::ids::{CardId, EpochMs};
use simtide_protocol::second_layer::{
    Acknowledged, Channel, Content, Downlink, ITEMS_MAX, Item, Known, OpenError, Uplinks,
};

use super::random;
use super::service::{Refusal, Service};
use super::source::Waiting;
use super::tokens::Grant;

/// Bytes of packets in one message at most; the rest comes with the next query.
const PACKETS_BYTES_MAX: usize = 192 * 1024;

/// Answers the delivery application for the card of a grant: takes in what the device sends, then offers what waits.
/// Nothing is acknowledged that is not durable at the source.
pub(super) async fn answer(
    service: &Service,
    grant: &Grant,
    message: Option<&str>,
    now: EpochMs,
) -> Result<OtaParameters, Refusal> {
    let next_query_s = service.config.next_query_s;
    let Some(card) = grant.card else {
        return Ok(OtaParameters { enabled: false, next_query_s, ..OtaParameters::default() });
    };
    let uplinks = match message {
        Some(message) => open(&mut grant.channel(), message)?,
        None => Uplinks::default(),
    };
    let acknowledged = take_in(service, card, &uplinks).await?;
    let (items, left) = offered(service, card, &uplinks.known).await?;
    if items.is_empty() && message.is_none() {
        return Ok(OtaParameters { enabled: true, next_query_s, ..OtaParameters::default() });
    }
    service.stats.items.add(items.len() as u64);
    let downlink = Downlink { items, acknowledged };
    let sealed = grant.channel().seal(random::bytes(), Content::Items, &downlink.to_json());
    let data = sealed.map_err(|error| {
        tracing::error!(%error, at = %now, "a message of the second layer cannot be sealed");
        Refusal::Unavailable
    })?;
    Ok(OtaParameters { enabled: true, data: Some(data), waiting: left, next_query_s })
}

/// A message with other keys ends the token; one that was changed, repeated or overtaken changes nothing.
fn open(channel: &mut Channel, message: &str) -> Result<Uplinks, Refusal> {
    let payload = channel.open(Content::Uplinks, message).map_err(|error| match error {
        OpenError::Generation => Refusal::Token,
        OpenError::Length(_) | OpenError::Syntax(_) => Refusal::Parameter(error.to_string()),
        OpenError::Forged | OpenError::Replayed { .. } | OpenError::Content(_) => Refusal::Forbidden,
    })?;
    Uplinks::from_json(&payload).map_err(|error| Refusal::Parameter(error.to_string()))
}

async fn take_in(service: &Service, card: CardId, uplinks: &Uplinks) -> Result<Vec<Acknowledged>, Refusal> {
    if !uplinks.fetched.is_empty() {
        service.source.fetched(card, uplinks.fetched.clone()).await?;
    }
    let mut acknowledged = Vec::with_capacity(uplinks.uplink.len());
    for uplink in &uplinks.uplink {
        let verdict = service.source.uplink(card, uplink.content.clone()).await?;
        service.stats.uplinks.add(1);
        acknowledged.push(Acknowledged { n: uplink.n, verdict });
    }
    Ok(acknowledged)
}

/// What fits into one message, and how many are left.
async fn offered(service: &Service, card: CardId, known: &Known) -> Result<(Vec<Item>, u32), Refusal> {
    let waiting = service.source.waiting(card, known).await?;
    let mut bytes = 0;
    let fitting = waiting
        .iter()
        .take(ITEMS_MAX)
        .take_while(|item| {
            bytes += item.packet.len();
            bytes <= PACKETS_BYTES_MAX
        })
        .count();
    let left = u32::try_from(waiting.len() - fitting).unwrap_or(u32::MAX);
    let address = &service.config.originating_address;
    let items = waiting.into_iter().take(fitting).map(|item| wrap(item, address)).collect();
    Ok((items, left))
}

/// The wrapper, where it is not made before the second interface.
fn wrap(waiting: Waiting, address: &str) -> Item {
    let Waiting { id, packet, originating_address, proof_wanted } = waiting;
    let originating_address = originating_address.unwrap_or_else(|| address.to_owned());
    Item { id, packet, originating_address, proof_wanted }
}
