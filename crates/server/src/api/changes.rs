//! `/v1/changes`: changes of operator, and the reports of registers that lead them on.

use axum::Json;
use axum::extract::{Path, State as Api};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use simtide_platform::subscription::{
    AGREED_AHEAD_MS_MAX, Alarm, Change, Evidence, REFERENCE_BYTES_MAX, Raised, Reason, Refusal, SeenBy,
    State, Way,
};
use simtide_protocol::ids::{CardId, ChangeId, EpochMs};

use super::Shared;
use super::idempotency::once;
use super::operators;
use super::problem::Problem;
use super::request::{Body, Parameters, named, next_place, place};
use super::tokens::{Caller, Role};
use crate::registers::AttachReport;
use crate::shell::core::Catalogue;
use crate::shell::subscription::{ChangeRefused, Kept, ListQuery, RequestRefused, Wanted};
use crate::store::{Alias, OperatorId, TenantId};

/// Changes of one page.
const PAGE_ROWS: usize = 100;

/// A change that an operator asks for after its user has agreed.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewChange {
    /// IdSC: ICCID or EID.
    card: String,
    /// Name or IdMNO of the operator that the user wants.
    operator: String,
    /// The user's agreement, kept with the change.
    consent: ConsentBody,
}

/// A user's agreement.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsentBody {
    /// When the user agreed, RFC 3339.
    #[schema(value_type = String)]
    when: EpochMs,
    /// menu, code, contact-center or web-site.
    #[schema(value_type = String)]
    how: Way,
    /// Reference of the operator's own records.
    #[serde(default)]
    reference: String,
}

/// Operator 1's answer.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Yes or no.
    granted: bool,
}

/// A change of operator, as far as the caller may see it.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChangeView {
    /// Names it, 16 hex digits.
    pub id: String,
    /// IdSC.
    pub card: String,
    /// Operator where the card leaves, by the name of its settings.
    pub from: String,
    /// Operator where it goes, likewise.
    pub to: String,
    /// requested, authorised, reserved, armed, sent, unknown, applied, attached, withdrawn, retired, done; refused,
    /// reverted, failed, cancelled.
    pub state: String,
    /// Whether something is still to be done.
    pub open: bool,
    /// Why it ended, or is ending, without success.
    pub reason: Option<String>,
    /// Identity 1; not shown to operator 2.
    pub imsi: Option<String>,
    /// Its number; not shown to operator 2.
    pub msisdn: Option<String>,
    /// Identity 2, once there is one; not shown to operator 1.
    pub new_imsi: Option<String>,
    /// Its number; not shown to operator 1.
    pub new_msisdn: Option<String>,
    /// The user's agreement.
    pub consent: ConsentView,
    /// What operator 1 wants to hear: ask, inform-before, inform-after.
    pub operator_1: String,
    /// Whether the card asks the user.
    pub ask_user: bool,
    /// Seconds after which a guarded card returns; none: not guarded.
    pub guard_s: Option<u32>,
    /// When it entered which state.
    pub steps: Vec<StepView>,
    /// What people have to look at, or had to.
    pub alarms: Vec<AlarmView>,
    /// When something is tried next.
    #[schema(value_type = Option<String>)]
    pub due: Option<EpochMs>,
}

/// Something that people have to look at.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AlarmView {
    /// When it was last raised.
    #[schema(value_type = String)]
    pub at: EpochMs,
    /// identity-taken, identity-lost, register-refuses, not-seen, not-heard, not-acknowledged or wrong-admin-code.
    pub alarm: String,
    /// What it means and what to do.
    pub advice: String,
    /// The card that has the identity already; shown to the service only.
    pub other_card: Option<String>,
}

/// A user's agreement as kept.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConsentView {
    /// When.
    #[schema(value_type = String)]
    pub when: EpochMs,
    /// menu, code, device, contact-center, web-site, campaign or operator.
    #[schema(value_type = String)]
    pub how: Way,
    /// Name of the token that asked; empty where the card did.
    pub token: String,
    /// The campaign that asked.
    pub campaign: Option<u32>,
    /// Counter of the card's request, where the card asked.
    pub uplink_counter: Option<u64>,
    /// Reference of the operator's own records.
    pub reference: String,
}

/// One state that a change has entered.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StepView {
    /// When.
    #[schema(value_type = String)]
    pub at: EpochMs,
    /// Which.
    pub state: String,
}

/// A page of changes.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChangeList {
    /// The changes.
    pub changes: Vec<ChangeView>,
    /// `after` of the next page; none: this is the last.
    pub next: Option<String>,
}

/// Which changes a list shows.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListParameters {
    /// ICCID or EID.
    card: Option<String>,
    /// Only those that this campaign began.
    campaign: Option<u32>,
    /// Only open or only closed ones.
    open: Option<bool>,
    /// Only in this state.
    state: Option<String>,
    /// Only those that people have to look at, or only the others.
    alarm: Option<bool>,
    /// `next` of the page before.
    after: Option<String>,
}

/// What became of a report.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reported {
    /// The change that it leads on; none: nobody waits for it.
    pub change: Option<String>,
}

/// Asks for a change of operator.
#[utoipa::path(post, path = "/v1/changes", request_body = NewChange, security(("token" = [])),
    responses((status = 202, body = ChangeView), (status = "4XX", body = Problem)))]
pub async fn create(
    Api(api): Shared,
    caller: Caller,
    headers: HeaderMap,
    Body { value, bytes }: Body<NewChange>,
) -> Result<Response, Problem> {
    caller.must_be(Role::Operator)?;
    let card: CardId = named("card", &value.card)?;
    once(&api, &caller, &headers, &[b"change", &bytes], async {
        let catalogue = api.platform.core.catalogue();
        let to = catalogue.operator_called(caller.tenant, &value.operator);
        let to = to.ok_or(RequestRefused::Refused(Refusal::UnknownOperator))?.id;
        if !caller.acts_for(to) {
            return Err(RequestRefused::Refused(Refusal::Forbidden).into());
        }
        let evidence = evidence(&caller, value.consent, api.platform.core.now())?;
        api.audit(&caller, "change.request", card, catalogue.operator_name(to)).await?;
        let wanted = Wanted { card, tenant: caller.tenant, to, evidence };
        let kept = api.platform.changes.request(wanted).await.map_err(|refused| match refused {
            // Which one it is, is the other operators' business.
            RequestRefused::Refused(Refusal::Open(_)) if caller.operator.is_some() => {
                Problem::conflict("a change of the card is open: try again after its end")
            }
            refused => refused.into(),
        })?;
        Ok((StatusCode::ACCEPTED, view(&kept.change, &caller, &catalogue)))
    })
    .await
}

fn evidence(caller: &Caller, consent: ConsentBody, now: EpochMs) -> Result<Evidence, Problem> {
    if consent.when.ms_since(now) > AGREED_AHEAD_MS_MAX {
        return Err(Problem::unprocessable("consent.when lies in the future: the user has not agreed yet"));
    }
    if !matches!(consent.how, Way::Menu | Way::Code | Way::ContactCenter | Way::WebSite) {
        return Err(Problem::unprocessable("consent.how must be menu, code, contact-center or web-site"));
    }
    if consent.reference.len() > REFERENCE_BYTES_MAX {
        let detail = format!("consent.reference has at most {REFERENCE_BYTES_MAX} bytes");
        return Err(Problem::unprocessable(detail));
    }
    Ok(Evidence {
        agreed_at: consent.when,
        way: consent.how,
        token: caller.name.clone(),
        campaign: None,
        uplink_counter: None,
        reference: consent.reference,
    })
}

/// Lists changes.
#[utoipa::path(get, path = "/v1/changes", params(ListParameters), security(("token" = [])),
    responses((status = 200, body = ChangeList), (status = "4XX", body = Problem)))]
pub async fn list(
    Api(api): Shared,
    caller: Caller,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Json<ChangeList>, Problem> {
    let card = parameters.card.as_deref().map(|card| named("card", card)).transpose()?;
    let state = parameters.state.as_deref().map(|name| {
        let found = State::ALL.into_iter().find(|state| state.name() == name);
        found.ok_or_else(|| Problem::bad_request("state: requested, sent, unknown, done, ..."))
    });
    let query = ListQuery {
        card,
        campaign: parameters.campaign,
        open: parameters.open,
        state: state.transpose()?,
        alarm: parameters.alarm,
        after: place(parameters.after.as_deref())?,
        rows_max: PAGE_ROWS,
    };
    let (kept, next) =
        api.platform.changes.list(query, |kept| may_see(&caller, kept.tenant, &kept.change)).await?;
    let catalogue = api.platform.core.catalogue();
    let changes = kept.iter().map(|kept| view(&kept.change, &caller, &catalogue)).collect();
    Ok(Json(ChangeList { changes, next: next_place(next) }))
}

/// Shows a change.
#[utoipa::path(get, path = "/v1/changes/{change}", params(("change" = String, Path, description = "16 hex digits")),
    security(("token" = [])), responses((status = 200, body = ChangeView), (status = "4XX", body = Problem)))]
pub async fn show(
    Api(api): Shared,
    caller: Caller,
    Path(change): Path<String>,
) -> Result<Json<ChangeView>, Problem> {
    let kept = find(&api, &caller, &change).await?;
    Ok(Json(view(&kept.change, &caller, &api.platform.core.catalogue())))
}

/// retry: tries at once what is waited for, or asks again where the change has ended without success; resolve: asks the
/// card and the registers where it stands; cancel: stops it, at once or as soon as it is certain that the card has not
/// taken the new identity. retry and cancel belong to the operator that asked; operator 1 has its consent.
#[utoipa::path(post, path = "/v1/changes/{change}/{verb}",
    params(("change" = String, Path, description = "16 hex digits"),
        ("verb" = String, Path, description = "retry, resolve or cancel")),
    security(("token" = [])), responses((status = 202, body = ChangeView), (status = "4XX", body = Problem)))]
pub async fn turn(
    Api(api): Shared,
    caller: Caller,
    Path((change, verb)): Path<(String, String)>,
) -> Result<(StatusCode, Json<ChangeView>), Problem> {
    caller.must_be(Role::Operator)?;
    let kept = find(&api, &caller, &change).await?;
    let changes = &api.platform.changes;
    let (id, is_open) = (kept.change.id, kept.change.is_open());
    if !["retry", "resolve", "cancel"].contains(&verb.as_str()) {
        return Err(Problem::not_found(&format!("the verb {verb}")));
    }
    let to = OperatorId(kept.change.to.operator);
    if verb != "resolve" && !caller.acts_for(to) {
        return Err(RequestRefused::Refused(Refusal::Forbidden).into());
    }
    api.audit(&caller, &format!("change.{verb}"), id, "").await?;
    let change = match verb.as_str() {
        "cancel" => changes.cancel(id).await?,
        "retry" if !is_open && kept.change.state != State::Done => {
            // A user asks now: the campaign has counted its own change.
            let evidence = Evidence { campaign: None, ..kept.change.evidence.clone() };
            let wanted = Wanted { card: kept.change.card, tenant: kept.tenant, to, evidence };
            changes.request(wanted).await?.change
        }
        _ => changes.resolve(id).await?,
    };
    Ok((StatusCode::ACCEPTED, Json(view(&change, &caller, &api.platform.core.catalogue()))))
}

/// Operator 1's answer to the question whether its card may leave.
#[utoipa::path(post, path = "/v1/changes/{change}/consent", request_body = Answer,
    params(("change" = String, Path, description = "16 hex digits")),
    security(("token" = [])), responses((status = 202, body = ChangeView), (status = "4XX", body = Problem)))]
pub async fn consent(
    Api(api): Shared,
    caller: Caller,
    Path(change): Path<String>,
    Body { value, .. }: Body<Answer>,
) -> Result<(StatusCode, Json<ChangeView>), Problem> {
    caller.must_be(Role::Operator)?;
    let kept = find(&api, &caller, &change).await?;
    caller.must_act_for(OperatorId(kept.change.from.operator))?;
    let said = if value.granted { "granted" } else { "denied" };
    api.audit(&caller, "change.consent", kept.change.id, said).await?;
    let change = api.platform.changes.consent(kept.change.id, value.granted).await?;
    Ok((StatusCode::ACCEPTED, Json(view(&change, &caller, &api.platform.core.catalogue()))))
}

/// A register reports that an identity has attached.
#[utoipa::path(post, path = "/v1/registers/{operator}/attached", request_body = AttachReport,
    params(("operator" = String, Path, description = "name of the operator")),
    security(("token" = [])), responses((status = 200, body = Reported), (status = "4XX", body = Problem)))]
pub async fn attached(
    Api(api): Shared,
    caller: Caller,
    Path(operator): Path<String>,
    Body { value, .. }: Body<AttachReport>,
) -> Result<Json<Reported>, Problem> {
    caller.must_be(Role::Operator)?;
    let core = &api.platform.core;
    let catalogue = core.catalogue();
    let operator = operators::named(&catalogue, caller.tenant, &operator)?;
    caller.must_act_for(operator.id)?;
    let owns = operator.settings.as_ref().is_some_and(|settings| settings.owns(value.imsi));
    let card = core.store.find(Alias::Imsi(value.imsi)).await?.filter(|_| owns);
    let card = card.ok_or_else(|| Problem::not_found("the identity among this operator's"))?;
    if value.card.is_some_and(|said| said != card) {
        return Err(Problem::conflict("the identity belongs to another card than the report says"));
    }
    let changes = &api.platform.changes;
    let awaited = changes.open_of(card).await?.filter(|change| change.to.operator == operator.id.0);
    if awaited.is_none() {
        return Ok(Json(Reported { change: None }));
    }
    let change = changes.seen(value.imsi, value.card, SeenBy::Register).await?;
    Ok(Json(Reported { change: change.map(|change| change.id.to_string()) }))
}

async fn find(api: &super::Api, caller: &Caller, text: &str) -> Result<Kept, Problem> {
    let id: ChangeId = named("change", text)?;
    let kept = api.platform.changes.find(id).await?;
    kept.filter(|kept| may_see(caller, kept.tenant, &kept.change))
        .ok_or_else(|| Problem::not_found("the change"))
}

fn may_see(caller: &Caller, tenant: TenantId, change: &Change) -> bool {
    let sides = [change.from.operator, change.to.operator].map(OperatorId);
    tenant == caller.tenant && sides.into_iter().any(|side| caller.acts_for(side))
}

/// A change as this caller sees it: an operator does not see the other's identity of the card.
pub fn view(change: &Change, caller: &Caller, catalogue: &Catalogue) -> ChangeView {
    let first = caller.acts_for(OperatorId(change.from.operator));
    let second = caller.acts_for(OperatorId(change.to.operator));
    let identity = change.identity.filter(|_| second);
    let step = |(at, state): &(EpochMs, State)| StepView { at: *at, state: state.name().to_owned() };
    ChangeView {
        id: change.id.to_string(),
        card: change.card.to_string(),
        from: catalogue.operator_name(OperatorId(change.from.operator)).to_owned(),
        to: catalogue.operator_name(OperatorId(change.to.operator)).to_owned(),
        state: change.state.name().to_owned(),
        open: change.is_open(),
        reason: change.reason.map(reason),
        imsi: first.then(|| change.imsi.to_string()),
        msisdn: change.msisdn.filter(|_| first).map(|msisdn| msisdn.to_string()),
        new_imsi: identity.map(|identity| identity.imsi.to_string()),
        new_msisdn: identity.and_then(|identity| identity.msisdn).map(|msisdn| msisdn.to_string()),
        consent: ConsentView {
            when: change.evidence.agreed_at,
            how: change.evidence.way,
            token: if second { change.evidence.token.clone() } else { String::new() },
            campaign: change.evidence.campaign,
            uplink_counter: change.evidence.uplink_counter,
            reference: if second { change.evidence.reference.clone() } else { String::new() },
        },
        operator_1: name(&change.terms.consent),
        ask_user: change.terms.ask_user,
        guard_s: change.terms.guard_s,
        steps: change.steps.iter().map(step).collect(),
        alarms: change.alarms.iter().map(|raised| alarm(raised, caller)).collect(),
        due: change.due(),
    }
}

fn alarm(raised: &Raised, caller: &Caller) -> AlarmView {
    let other = match raised.alarm {
        Alarm::IdentityTaken { by, .. } => Some(by).filter(|_| caller.operator.is_none()),
        _ => None,
    };
    AlarmView {
        at: raised.at,
        alarm: raised.alarm.name().to_owned(),
        advice: raised.alarm.advice().to_owned(),
        other_card: other.map(|card| card.to_string()),
    }
}

fn reason(reason: Reason) -> String {
    match reason {
        Reason::Card(refusal) => format!("card: {}", name(&refusal)),
        other => name(&other),
    }
}

/// The name that JSON has for a value without fields.
fn name(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

impl From<RequestRefused> for Problem {
    fn from(refused: RequestRefused) -> Problem {
        let detail = refused.to_string();
        match refused {
            RequestRefused::Store(error) => error.into(),
            RequestRefused::NoLink => Problem::unavailable(detail),
            RequestRefused::NoRegister(_) => Problem::unprocessable(detail),
            RequestRefused::Refused(refusal) => match refusal {
                Refusal::UnknownCard => Problem::not_found("the card"),
                Refusal::Open(_) | Refusal::Replayed => Problem::conflict(detail),
                Refusal::Forbidden => Problem::new(StatusCode::FORBIDDEN, "not-allowed", detail),
                _ => Problem::unprocessable(detail),
            },
        }
    }
}

impl From<ChangeRefused> for Problem {
    fn from(refused: ChangeRefused) -> Problem {
        match refused {
            ChangeRefused::Unknown => Problem::not_found("the change"),
            ChangeRefused::State(..) => Problem::conflict(refused.to_string()),
            ChangeRefused::Store(error) => error.into(),
        }
    }
}
