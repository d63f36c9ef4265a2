//! `/v1/cards`: what the platform knows of cards.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use simtide_platform::card::{Applied, CardState};
use simtide_protocol::ids::{Bucket, CardId, EpochMs};

use super::Shared;
use super::commands::{PacketView, packet_view};
use super::problem::Problem;
use super::request::{Parameters, named};
use super::tokens::Caller;
use crate::shell::core::Catalogue;
use crate::store::{
    Candidate, CardFilter, CardRecord, Cause, ExceptionStatus, HistoryLine, HistoryResult, IdentityRow,
    OperatorId, TenantId,
};

/// Cards of one answer at most.
pub const LIMIT_MAX: usize = 1_000;
/// Pages that are read for one answer at most: a filter that few cards pass must not read the whole store.
const PAGES_MAX: usize = 200;
/// Identities of one answer.
const SUBSCRIPTIONS_MAX: usize = 100;
/// History lines of one answer.
const HISTORY_ROWS_MAX: usize = 500;

/// A card in a list.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CardSummary {
    /// ICCID or EID, by which it is addressed.
    #[schema(value_type = String)]
    pub id: CardId,
    /// Card profile.
    pub profile: String,
    /// Network of the active subscription.
    pub operator: String,
    /// Kind of device; empty where unknown.
    pub device_kind: String,
    /// active, suspended or retired.
    #[schema(value_type = String)]
    pub state: CardState,
    /// Tags.
    pub tags: Vec<String>,
    /// Last contact; none: never.
    #[schema(value_type = Option<String>)]
    pub last_update: Option<EpochMs>,
    /// When it is expected by itself.
    #[schema(value_type = String)]
    pub next_poll: EpochMs,
    /// What it has had: all campaign numbers up to `base`, and those that the bits of `mask` name.
    #[schema(value_type = Object)]
    pub applied: Applied,
}

/// Some cards.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CardList {
    /// The cards.
    pub cards: Vec<CardSummary>,
    /// Give this as `after` to go on; none: that is all.
    pub next: Option<String>,
}

/// A card with all that is known of it.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CardDetail {
    /// As in lists.
    #[serde(flatten)]
    pub card: CardSummary,
    /// ICCID.
    pub iccid: Option<String>,
    /// EID.
    pub eid: Option<String>,
    /// Active subscription.
    pub imsi: Option<String>,
    /// Telephone number.
    pub msisdn: Option<String>,
    /// What it is and was, latest first; none where it never changed its operator.
    pub subscriptions: Vec<SubscriptionView>,
    /// Campaigns that did not go the usual way.
    pub exceptions: Vec<ExceptionView>,
    /// Packets under way.
    pub packets: Vec<PacketView>,
    /// Contacts and what came of them, latest first.
    pub history: Vec<HistoryView>,
}

/// An identity that a card has or had.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SubscriptionView {
    /// Since when; none: since before its first change of operator.
    #[schema(value_type = Option<String>)]
    pub since: Option<EpochMs>,
    /// IMSI.
    pub imsi: Option<String>,
    /// Telephone number.
    pub msisdn: Option<String>,
    /// Operator.
    pub operator: String,
    /// The change that brought it.
    pub change: Option<String>,
}

/// A campaign that did not go the usual way on a card.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExceptionView {
    /// The campaign.
    pub campaign: u32,
    /// listed, begun, retry, failed, interrupted or opted-out.
    pub status: String,
    /// Attempts so far.
    pub attempts: u8,
    /// Step concerned, from 1.
    pub step: u8,
    /// When it is due again.
    #[schema(value_type = Option<String>)]
    pub retry_at: Option<EpochMs>,
}

/// One contact.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HistoryView {
    /// When it ended.
    #[schema(value_type = String)]
    pub at: EpochMs,
    /// own, trigger, command or operator.
    pub cause: String,
    /// Key set and counter of the trigger or command.
    pub packet: Option<String>,
    /// Campaign concerned.
    pub campaign: Option<u32>,
    /// nothing, done, failed, broken or interrupted.
    pub result: String,
    /// Status word of a failure, four hex digits.
    pub status_word: Option<String>,
    /// For people.
    pub detail: String,
}

/// Which cards a list shows.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Card profile.
    profile: Option<String>,
    /// Operator.
    operator: Option<String>,
    /// active, suspended or retired.
    state: Option<String>,
    /// A tag.
    tag: Option<String>,
    /// Expected before this time (RFC 3339).
    next_poll_before: Option<String>,
    /// Go on after this place, from `next` of the answer before.
    after: Option<String>,
    /// 1 to 1000; 100 unless told otherwise.
    limit: Option<usize>,
}

/// Lists cards.
#[utoipa::path(get, path = "/v1/cards", params(ListQuery), security(("token" = [])),
    responses((status = 200, body = CardList), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): Shared,
    caller: Caller,
    Parameters(query): Parameters<ListQuery>,
) -> Result<Json<CardList>, Problem> {
    let core = &api.platform.core;
    let catalogue = core.catalogue();
    let limit = query.limit.unwrap_or(100);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!("limit must be 1 to {LIMIT_MAX}")));
    }
    let mut filter = filter(&catalogue, caller.tenant, &query)?;
    if let Some(own) = caller.operator {
        if filter.operator.is_some_and(|wanted| wanted != own) {
            return Ok(Json(CardList { cards: Vec::new(), next: None }));
        }
        // Pages are full of its own cards, however many there are of others.
        filter.operator = Some(own);
    }
    let own = catalogue.operators(caller.tenant).map(|(operator, _)| operator);
    let own: Vec<OperatorId> = own.filter(|operator| caller.acts_for(*operator)).collect();
    let (mut bucket, mut after) = place(query.after.as_deref(), core.store.buckets())?;
    let mut cards = Vec::new();
    for _ in 0..PAGES_MAX {
        let rows_max = limit - cards.len();
        let (page, last) = core.store.cards(Bucket(bucket), filter.clone(), after, rows_max).await?;
        let of_tenant = page.rows.iter().filter(|row| own.contains(&row.hot.operator));
        cards.extend(of_tenant.map(|row| summary(&catalogue, caller.tenant, row)));
        after = last;
        if page.end {
            bucket += 1;
            after = None;
            if bucket >= core.store.buckets() {
                return Ok(Json(CardList { cards, next: None }));
            }
        }
        if cards.len() >= limit {
            break;
        }
    }
    let next = Some(match after {
        Some(card) => format!("{bucket}:{card}"),
        None => format!("{bucket}:"),
    });
    Ok(Json(CardList { cards, next }))
}

/// Shows a card with its history.
#[utoipa::path(get, path = "/v1/cards/{card}", params(("card" = String, Path, description = "ICCID or EID")),
    security(("token" = [])),
    responses((status = 200, body = CardDetail), (status = "4XX", body = Problem)))]
pub async fn show(
    State(api): Shared,
    caller: Caller,
    Path(card): Path<String>,
) -> Result<Json<CardDetail>, Problem> {
    let id: CardId = named("card", &card)?;
    let core = &api.platform.core;
    let row = core.store.card(id).await?;
    let row = row.filter(|row| row.record.tenant == caller.tenant && caller.acts_for(row.hot.operator));
    let row = row.ok_or_else(|| Problem::not_found("the card"))?;
    let catalogue = core.catalogue();
    let mut history = core.store.history(id, EpochMs(i64::MAX), HISTORY_ROWS_MAX).await?;
    let mut identities = core.store.identities(id, SUBSCRIPTIONS_MAX).await?;
    if caller.operator.is_some() {
        // What the card was before it came is the other operators'.
        let since = identities.first().and_then(|latest| latest.since).unwrap_or(EpochMs(i64::MIN));
        history.retain(|line| line.at >= since);
        identities.retain(|one| caller.acts_for(one.operator));
    }
    let packets = core.store.open_packets(id).await?;
    let CardRecord { iccid, eid, imsi, msisdn, .. } = &row.record;
    let exceptions = row.exceptions.iter().map(|exception| ExceptionView {
        campaign: exception.campaign.0,
        status: exception_name(exception.status).to_owned(),
        attempts: exception.attempts,
        step: exception.step.saturating_add(1),
        retry_at: exception.retry_at,
    });
    Ok(Json(CardDetail {
        card: summary(&catalogue, caller.tenant, &Candidate { card: id, hot: row.hot }),
        iccid: iccid.map(|id| id.to_string()),
        eid: eid.map(|id| id.to_string()),
        imsi: imsi.map(|id| id.to_string()),
        msisdn: msisdn.map(|id| id.to_string()),
        subscriptions: identities.iter().map(|one| subscription_view(&catalogue, one)).collect(),
        exceptions: exceptions.collect(),
        packets: packets.iter().map(packet_view).collect(),
        history: history.iter().map(history_view).collect(),
    }))
}

fn subscription_view(catalogue: &Catalogue, row: &IdentityRow) -> SubscriptionView {
    SubscriptionView {
        since: row.since,
        imsi: row.imsi.map(|imsi| imsi.to_string()),
        msisdn: row.msisdn.map(|msisdn| msisdn.to_string()),
        operator: catalogue.operator_name(row.operator).to_owned(),
        change: row.change.map(|change| change.to_string()),
    }
}

fn summary(catalogue: &Catalogue, tenant: TenantId, row: &Candidate) -> CardSummary {
    let names = catalogue.tags(tenant).iter().enumerate();
    let tags = names.filter(|(bit, _)| *bit < 64 && row.hot.tags >> bit & 1 == 1);
    CardSummary {
        id: row.card,
        profile: catalogue.profile_name(row.hot.profile).to_owned(),
        operator: catalogue.operator_name(row.hot.operator).to_owned(),
        device_kind: catalogue.device_kind(row.hot.device_kind).to_owned(),
        state: row.hot.state,
        tags: tags.map(|(_, name)| name.clone()).collect(),
        last_update: row.hot.last_update,
        next_poll: row.hot.next_poll,
        applied: row.hot.applied,
    }
}

fn filter(catalogue: &Catalogue, tenant: TenantId, query: &ListQuery) -> Result<CardFilter, Problem> {
    let unknown = |what: &str, name: &str| Problem::bad_request(format!("there is no {what} named {name}"));
    let profile = query.profile.as_deref().map(|name| {
        let found = catalogue.profiles().find(|(_, profile)| profile.name.as_str() == name);
        found.map(|(id, _)| id).ok_or_else(|| unknown("profile", name))
    });
    let operator = query.operator.as_deref().map(|name| {
        let found = catalogue.operators(tenant).find(|(_, known)| *known == name);
        found.map(|(id, _)| id).ok_or_else(|| unknown("operator", name))
    });
    let state = query.state.as_deref().map(|name| {
        serde_json::from_value(serde_json::Value::from(name))
            .map_err(|_| Problem::bad_request("state must be active, suspended or retired"))
    });
    let tag = query.tag.as_deref().map(|name| {
        let bit = catalogue.tags(tenant).iter().position(|known| known == name);
        bit.map(|bit| 1 << bit).ok_or_else(|| unknown("tag", name))
    });
    let before = query.next_poll_before.as_deref().map(|text| named("next_poll_before", text));
    Ok(CardFilter {
        operator: operator.transpose()?,
        profile: profile.transpose()?,
        state: state.transpose()?,
        tags: tag.transpose()?.unwrap_or(0),
        next_poll_before: before.transpose()?,
    })
}

/// `bucket:card`, as answered in `next`.
fn place(after: Option<&str>, buckets: u16) -> Result<(u16, Option<CardId>), Problem> {
    let Some(text) = after else { return Ok((0, None)) };
    let wrong = || Problem::bad_request("after must be the text that `next` of an earlier answer gave");
    let (bucket, card) = text.split_once(':').ok_or_else(wrong)?;
    let bucket = bucket.parse().ok().filter(|bucket| *bucket < buckets).ok_or_else(wrong)?;
    let card = if card.is_empty() { None } else { Some(card.parse().map_err(|_| wrong())?) };
    Ok((bucket, card))
}

fn history_view(line: &HistoryLine) -> HistoryView {
    let (cause, packet) = match line.cause {
        Cause::Own => ("own", None),
        Cause::Trigger { key_set, counter } => ("trigger", Some(format!("{key_set}-{counter}"))),
        Cause::Command { key_set, counter } => ("command", Some(format!("{key_set}-{counter}"))),
        Cause::Operator => ("operator", None),
    };
    let (result, status_word) = match line.result {
        HistoryResult::Nothing => ("nothing", None),
        HistoryResult::Done => ("done", None),
        HistoryResult::Failed(word) => ("failed", Some(format!("{word:04X}"))),
        HistoryResult::Broken => ("broken", None),
        HistoryResult::Interrupted => ("interrupted", None),
    };
    HistoryView {
        at: line.at,
        cause: cause.to_owned(),
        packet,
        campaign: line.campaign.map(|campaign| campaign.0),
        result: result.to_owned(),
        status_word,
        detail: line.detail.clone(),
    }
}

fn exception_name(status: ExceptionStatus) -> &'static str {
    match status {
        ExceptionStatus::Listed => "listed",
        ExceptionStatus::Begun => "begun",
        ExceptionStatus::Retry => "retry",
        ExceptionStatus::Failed => "failed",
        ExceptionStatus::Interrupted => "interrupted",
        ExceptionStatus::OptedOut => "opted-out",
    }
}
