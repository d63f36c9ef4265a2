//! `/v1/entitlement/..`: the second interface, for an entitlement server that runs as a process of its own.
//!
//! Vectors go out here: a token of role admin, for the whole service, asks. Cards of other tenants are not there.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use simtide_protocol::ids::CardId;

use super::problem::Problem;
use super::request::Body;
use super::tokens::{Caller, Role};
use super::{Api, Shared};
use crate::entitlement::remote::{
    Fetched, FoundCard, OfCard, OfSubscriber, PushOfCard, Taken, UplinkOfCard, UplinkVerdict, VectorQuestion,
    VectorText, WaitingItems,
};
use crate::entitlement::source::{DeliverySource, SourceError};
use crate::entitlement::vectors::VectorSource;
use crate::registers::{RegisterError, VectorsWanted};
use crate::shell::delivery::vectors::OfOperators;

/// The card of a subscriber.
#[utoipa::path(post, path = "/v1/entitlement/subscriber", request_body = OfSubscriber,
    security(("token" = [])),
    responses((status = 200, body = FoundCard), (status = "4XX", body = Problem)))]
pub async fn subscriber(
    State(api): Shared,
    caller: Caller,
    body: Body<OfSubscriber>,
) -> Result<Json<FoundCard>, Problem> {
    may_ask(&caller)?;
    let card = api.platform.deliveries.subscriber(body.value.imsi).await?;
    let card = match card {
        Some(card) if own(&api, &caller, card).await.is_ok() => Some(card),
        Some(_) | None => None,
    };
    Ok(Json(FoundCard { card }))
}

/// What waits for a card, sealed.
#[utoipa::path(post, path = "/v1/entitlement/waiting", request_body = OfCard,
    security(("token" = [])),
    responses((status = 200, body = WaitingItems), (status = "4XX", body = Problem)))]
pub async fn waiting(
    State(api): Shared,
    caller: Caller,
    body: Body<OfCard>,
) -> Result<Json<WaitingItems>, Problem> {
    may_ask(&caller)?;
    let OfCard { card, known } = body.value;
    own(&api, &caller, card).await?;
    let items = api.platform.deliveries.waiting(card, &known).await?;
    Ok(Json(WaitingItems { items }))
}

/// Read receipts of a device.
#[utoipa::path(post, path = "/v1/entitlement/fetched", request_body = Fetched,
    security(("token" = [])),
    responses((status = 200, body = Taken), (status = "4XX", body = Problem)))]
pub async fn fetched(
    State(api): Shared,
    caller: Caller,
    body: Body<Fetched>,
) -> Result<Json<Taken>, Problem> {
    may_ask(&caller)?;
    let Fetched { card, items } = body.value;
    own(&api, &caller, card).await?;
    api.platform.deliveries.fetched(card, items).await?;
    Ok(Json(Taken {}))
}

/// A proof of receipt or a short message of a card.
#[utoipa::path(post, path = "/v1/entitlement/uplink", request_body = UplinkOfCard,
    security(("token" = [])),
    responses((status = 200, body = UplinkVerdict), (status = "4XX", body = Problem)))]
pub async fn uplink(
    State(api): Shared,
    caller: Caller,
    body: Body<UplinkOfCard>,
) -> Result<Json<UplinkVerdict>, Problem> {
    may_ask(&caller)?;
    let UplinkOfCard { card, uplink } = body.value;
    own(&api, &caller, card).await?;
    let verdict = api.platform.deliveries.uplink(card, uplink).await?;
    Ok(Json(UplinkVerdict { verdict }))
}

/// Where a cloud push reaches the device of a card.
#[utoipa::path(post, path = "/v1/entitlement/push", request_body = PushOfCard,
    security(("token" = [])),
    responses((status = 200, body = Taken), (status = "4XX", body = Problem)))]
pub async fn push(
    State(api): Shared,
    caller: Caller,
    body: Body<PushOfCard>,
) -> Result<Json<Taken>, Problem> {
    may_ask(&caller)?;
    let PushOfCard { card, address } = body.value;
    own(&api, &caller, card).await?;
    api.platform.deliveries.push_address(card, address).await?;
    Ok(Json(Taken {}))
}

/// The card of a subscriber has proven itself to its register's vector.
#[utoipa::path(post, path = "/v1/entitlement/authenticated", request_body = OfSubscriber,
    security(("token" = [])),
    responses((status = 200, body = Taken), (status = "4XX", body = Problem)))]
pub async fn authenticated(
    State(api): Shared,
    caller: Caller,
    body: Body<OfSubscriber>,
) -> Result<Json<Taken>, Problem> {
    may_ask(&caller)?;
    api.platform.deliveries.authenticated(body.value.imsi).await?;
    Ok(Json(Taken {}))
}

/// An authentication vector from the register of the subscriber's operator, one of the token's tenant.
#[utoipa::path(post, path = "/v1/entitlement/vectors", request_body = VectorQuestion,
    security(("token" = [])),
    responses((status = 200, body = VectorText), (status = "4XX", body = Problem)))]
pub async fn vectors(
    State(api): Shared,
    caller: Caller,
    body: Body<VectorQuestion>,
) -> Result<Json<VectorText>, Problem> {
    may_ask(&caller)?;
    let VectorQuestion { imsi, resynchronisation, aka_prime } = body.value;
    let resynchronisation = match resynchronisation {
        None => None,
        Some((rand, auts)) => Some((bytes("rand", &rand)?, bytes("auts", &auts)?)),
    };
    let wanted = VectorsWanted { count: 1, resynchronisation, aka_prime };
    let registers = OfOperators { platform: api.platform.clone(), tenant: Some(caller.tenant) };
    let vectors = registers.vectors(imsi, wanted).await;
    let vectors = vectors.map_err(|error| match error {
        RegisterError::NotFound => Problem::not_found("the subscriber"),
        RegisterError::Refused(_) | RegisterError::Conflict(_) => Problem::unprocessable(error.to_string()),
        RegisterError::Unreachable(_)
        | RegisterError::Unknown(_)
        | RegisterError::Exhausted
        | RegisterError::Invalid(_) => Problem::unavailable(error.to_string()),
    })?;
    let vector = vectors.first().ok_or_else(|| Problem::not_found("the subscriber"))?;
    Ok(Json(VectorText::new(vector)))
}

fn may_ask(caller: &Caller) -> Result<(), Problem> {
    caller.must_be(Role::Admin)?;
    caller.must_act_for_all()
}

/// The card must be one of the caller's tenant.
async fn own(api: &Arc<Api>, caller: &Caller, card: CardId) -> Result<(), Problem> {
    let found = api.platform.core.store.card(card).await?;
    match found {
        Some(found) if found.record.tenant == caller.tenant => Ok(()),
        Some(_) | None => Err(Problem::not_found("the card")),
    }
}

fn bytes<const N: usize>(name: &str, text: &str) -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes)
        .map_err(|_| Problem::bad_request(format!("{name} is {N} bytes in hex")))?;
    Ok(bytes)
}

impl From<SourceError> for Problem {
    fn from(error: SourceError) -> Problem {
        match error {
            SourceError::Unavailable(_) => Problem::unavailable(error.to_string()),
            SourceError::Refused(_) => {
                Problem::new(StatusCode::BAD_GATEWAY, "second-interface", error.to_string())
            }
        }
    }
}
