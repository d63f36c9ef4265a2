//! `/v1/deliveries`: content for a single card, by whichever bearer reaches it, until it is proven.

use axum::Json;
use axum::extract::{Path, State as Api};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use simtide_platform::content::{ANY_PROFILE, Content, HexBytes, Step};
use simtide_platform::delivery::{Bearer, Bearers, Cause, Milestone, State, Urgency};
use simtide_protocol::ids::{CardId, DeliveryId, EpochMs};
use std::collections::BTreeMap;

use super::Shared;
use super::idempotency::once;
use super::problem::Problem;
use super::request::{Body, Parameters, named, next_place, place};
use super::tokens::{Caller, Role};
use crate::shell::delivery::DeliveryRefused;
use crate::shell::delivery::Wanted;
use crate::shell::delivery::create::ListQuery;
use crate::shell::delivery::ready::{HandedIn, ReadyPacket};
use crate::shell::delivery::record::Record;
use crate::store::TenantId;

/// Deliveries of one page.
const PAGE_ROWS: usize = 100;

/// A delivery to be made.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDelivery {
    /// ICCID or EID.
    card: String,
    /// Steps as campaigns have them, in their order; or `packets`.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    steps: Vec<Step>,
    /// Packets that the operator has sealed itself, in their order, carried as they are.
    #[serde(default)]
    packets: Vec<NewPacket>,
    /// Whether executing it twice does no harm; not so unless said.
    #[serde(default)]
    repeatable: bool,
    /// What may carry it: poll, sms, ip; all unless given. Packets: sms, ip.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    bearers: Option<Vec<Bearer>>,
    /// low, normal or high: how much waiting a short message is worth.
    #[serde(default)]
    #[schema(value_type = String)]
    urgency: Urgency,
    /// How long it is tried, in seconds; as configured unless given.
    #[serde(default)]
    validity_s: Option<u32>,
}

/// A packet that is sealed already.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPacket {
    /// The SCP80 command packet from its CPL on, in hex.
    #[schema(value_type = String)]
    packet: HexBytes,
    /// The counter in it.
    counter: u64,
}

/// A delivery and how far it is.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeliveryView {
    /// Names it, 16 hex digits.
    pub id: String,
    /// ICCID or EID.
    pub card: String,
    /// Campaign that it belongs to.
    pub campaign: Option<u32>,
    /// requested, sent, fetched, polling, proven, refused, expired, unproven or cancelled.
    pub state: String,
    /// What carried it, once it is proven: poll, sms or ip.
    pub delivered_by: Option<String>,
    /// Whose turn it is: poll, sms or ip.
    pub turn: Option<String>,
    /// What may carry it.
    pub bearers: Vec<String>,
    /// low, normal or high.
    pub urgency: String,
    /// Whether executing it twice does no harm.
    pub repeatable: bool,
    /// When it was asked for.
    #[schema(value_type = String)]
    pub requested_at: EpochMs,
    /// Until when it is tried.
    #[schema(value_type = String)]
    pub limit: EpochMs,
    /// When its first packet was sealed.
    #[schema(value_type = Option<String>)]
    pub sealed_at: Option<EpochMs>,
    /// When a device said that it has a packet on its disk, last.
    #[schema(value_type = Option<String>)]
    pub fetched_at: Option<EpochMs>,
    /// When the card proved or refused it.
    #[schema(value_type = Option<String>)]
    pub settled_at: Option<EpochMs>,
    /// Packets that are proven; of a list only where it is known.
    pub packets_proven: u16,
    /// Packets that it takes; 0 where that is not known.
    pub packets: u16,
    /// The card's last response status code.
    pub status: Option<u8>,
    /// Status word of the last command that ran.
    pub status_word: Option<String>,
    /// What that means, and what to do about it.
    pub explained: Option<String>,
    /// Everything that has happened, in its order.
    pub milestones: Vec<MilestoneView>,
}

/// One thing that has happened to a delivery.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MilestoneView {
    /// When.
    #[schema(value_type = String)]
    pub at: EpochMs,
    /// requested, waits, sealed, sent, failed, reached, fetched, proof or closed.
    pub what: String,
    /// By what: poll, sms or ip.
    pub by: Option<String>,
    /// Of a proof: the originating address that the card had been given, which it answered to.
    pub to: Option<String>,
    /// In words.
    pub text: String,
}

/// A page of deliveries.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeliveryList {
    /// The deliveries.
    pub deliveries: Vec<DeliveryView>,
    /// `after` of the next page; none: this is the last.
    pub next: Option<String>,
}

/// Which deliveries a list shows.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListParameters {
    /// ICCID or EID.
    card: Option<String>,
    /// Only open or only closed ones.
    open: Option<bool>,
    /// `next` of the page before.
    after: Option<String>,
}

/// Asks for a delivery.
#[utoipa::path(post, path = "/v1/deliveries", request_body = NewDelivery, security(("token" = [])),
    responses((status = 202, body = DeliveryView), (status = "4XX", body = Problem)))]
pub async fn create(
    Api(api): Shared,
    caller: Caller,
    headers: HeaderMap,
    Body { value, bytes }: Body<NewDelivery>,
) -> Result<Response, Problem> {
    caller.must_be(Role::Operator)?;
    let card: CardId = named("card", &value.card)?;
    once(&api, &caller, &headers, &[b"delivery", &bytes], async {
        let record = begin(&api, caller.tenant, card, value).await?;
        api.audit(&caller, "delivery.create", record.machine.id, &format!("card {card}")).await?;
        Ok((StatusCode::ACCEPTED, view(&record)))
    })
    .await
}

/// Steps, or packets that are sealed already.
async fn begin(
    api: &super::Api,
    tenant: TenantId,
    card: CardId,
    value: NewDelivery,
) -> Result<Record, Problem> {
    let NewDelivery { steps, packets, repeatable, bearers, urgency, validity_s, .. } = value;
    let deliveries = &api.platform.deliveries;
    if packets.is_empty() {
        let bearers = bearers.map_or(Bearers::ALL, Bearers::from);
        let variants = BTreeMap::from([(ANY_PROFILE.to_owned(), steps)]);
        let content = Content { repeatable, provides: BTreeMap::new(), variants };
        let wanted = Wanted { card, content, bearers, urgency, validity_s };
        return Ok(deliveries.create(tenant, wanted).await?);
    }
    if !steps.is_empty() || repeatable {
        return Err(Problem::unprocessable("packets are sealed already: give neither steps nor repeatable"));
    }
    let bearers = bearers.map_or(Bearers::NONE.with(Bearer::Sms).with(Bearer::Ip), Bearers::from);
    let ready = |one: NewPacket| ReadyPacket { packet: one.packet.0, counter: one.counter };
    let packets = packets.into_iter().map(ready).collect();
    Ok(deliveries.hand_in(tenant, HandedIn { card, packets, bearers, urgency, validity_s }).await?)
}

/// Shows a delivery.
#[utoipa::path(get, path = "/v1/deliveries/{delivery}",
    params(("delivery" = String, Path, description = "16 hex digits")), security(("token" = [])),
    responses((status = 200, body = DeliveryView), (status = "4XX", body = Problem)))]
pub async fn show(
    Api(api): Shared,
    caller: Caller,
    Path(delivery): Path<String>,
) -> Result<Json<DeliveryView>, Problem> {
    let id: DeliveryId = named("delivery", &delivery)?;
    Ok(Json(view(&api.platform.deliveries.show(caller.tenant, id).await?)))
}

/// Lists deliveries: of one card the latest first, else in an order that only pages know.
#[utoipa::path(get, path = "/v1/deliveries", params(ListParameters), security(("token" = [])),
    responses((status = 200, body = DeliveryList), (status = "4XX", body = Problem)))]
pub async fn list(
    Api(api): Shared,
    caller: Caller,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<DeliveryList>, Problem> {
    let card = parameters.card.as_deref().map(|card| named("card", card)).transpose()?;
    let query = ListQuery {
        card,
        open: parameters.open,
        after: place(parameters.after.as_deref())?,
        rows_max: PAGE_ROWS,
    };
    let (records, next) = api.platform.deliveries.list(caller.tenant, query).await?;
    Ok(Json(DeliveryList { deliveries: records.iter().map(view).collect(), next: next_place(next) }))
}

/// Ends a delivery. A copy that has left may still have its effect.
#[utoipa::path(post, path = "/v1/deliveries/{delivery}/cancel",
    params(("delivery" = String, Path, description = "16 hex digits")), security(("token" = [])),
    responses((status = 200, body = DeliveryView), (status = "4XX", body = Problem)))]
pub async fn cancel(
    Api(api): Shared,
    caller: Caller,
    Path(delivery): Path<String>,
) -> Result<Json<DeliveryView>, Problem> {
    caller.must_be(Role::Operator)?;
    let id: DeliveryId = named("delivery", &delivery)?;
    let record = api.platform.deliveries.cancel(caller.tenant, id).await?;
    api.audit(&caller, "delivery.cancel", id, "").await?;
    Ok(Json(view(&record)))
}

/// A delivery as shown.
pub fn view(record: &Record) -> DeliveryView {
    let machine = &record.machine;
    let answer = match machine.state {
        State::Refused { answer } => Some(answer),
        _ => machine.milestones.all().iter().rev().find_map(|(_, milestone)| match milestone {
            Milestone::Proof { answer, .. } => Some(*answer),
            _ => None,
        }),
    };
    let last = |kind: fn(&Milestone) -> bool| machine.milestones.last(kind);
    let first_sealed =
        machine.milestones.all().iter().find(|(_, one)| matches!(one, Milestone::Sealed { .. }));
    let first_sent = machine.milestones.all().iter().find(|(_, one)| matches!(one, Milestone::SentBy { .. }));
    DeliveryView {
        id: machine.id.to_string(),
        card: machine.card.to_string(),
        campaign: match machine.cause {
            Cause::Campaign { campaign, .. } => Some(campaign),
            Cause::Request => None,
        },
        state: machine.state.name().to_owned(),
        delivered_by: match machine.state {
            State::Proven { by } => Some(by.name().to_owned()),
            _ => None,
        },
        turn: machine.turn.map(|(bearer, _)| bearer.name().to_owned()),
        bearers: machine.bearers.iter().map(|bearer| bearer.name().to_owned()).collect(),
        urgency: match machine.urgency {
            Urgency::Low => "low",
            Urgency::Normal => "normal",
            Urgency::High => "high",
        }
        .to_owned(),
        repeatable: machine.repeatable,
        requested_at: machine.at,
        limit: machine.limit,
        sealed_at: first_sealed.or(first_sent).map(|(at, _)| *at),
        fetched_at: last(|one| matches!(one, Milestone::Fetched)),
        settled_at: last(|one| matches!(one, Milestone::Closed { .. })),
        packets_proven: machine.place,
        packets: u16::try_from(machine.portions.len()).unwrap_or(u16::MAX),
        status: answer.map(|answer| answer.status),
        status_word: answer.and_then(|answer| answer.word).map(|word| format!("{word:04X}")),
        explained: answer.map(|answer| answer.explained()),
        milestones: machine.milestones.all().iter().map(|(at, one)| milestone(*at, one)).collect(),
    }
}

fn milestone(at: EpochMs, milestone: &Milestone) -> MilestoneView {
    let to = match milestone {
        Milestone::Proof { to, .. } => to.map(|to| to.to_string()),
        _ => None,
    };
    let (what, by, text) = match milestone {
        Milestone::Requested => ("requested", None, "asked for".to_owned()),
        Milestone::Waits => ("waits", None, "another packet of the card is open".to_owned()),
        Milestone::Sealed { counter } => ("sealed", None, format!("sealed with counter {counter}")),
        Milestone::SentBy { bearer } => ("sent", Some(*bearer), format!("sent by {}", bearer.name())),
        Milestone::FailedBy { bearer } => {
            ("failed", Some(*bearer), format!("{} could not bring it", bearer.name()))
        }
        Milestone::Reached => ("reached", None, "the network has delivered it to the device".to_owned()),
        Milestone::Fetched => ("fetched", Some(Bearer::Ip), "the device has it on its disk".to_owned()),
        Milestone::Proof { by, answer, .. } => {
            let addressed = to.as_ref().map(|to| format!(" to {to}")).unwrap_or_default();
            ("proof", Some(*by), format!("proof by {}{addressed}: {}", by.name(), answer.explained()))
        }
        Milestone::Closed { state } => ("closed", None, state.name().to_owned()),
    };
    MilestoneView { at, what: what.to_owned(), by: by.map(|by| by.name().to_owned()), to, text }
}

impl From<DeliveryRefused> for Problem {
    fn from(refused: DeliveryRefused) -> Problem {
        match refused {
            DeliveryRefused::UnknownCard => Problem::not_found("the card"),
            DeliveryRefused::Unknown => Problem::not_found("the delivery"),
            DeliveryRefused::Store(error) => error.into(),
            DeliveryRefused::TooMany => Problem::conflict(refused.to_string()),
            _ => Problem::unprocessable(refused.to_string()),
        }
    }
}
