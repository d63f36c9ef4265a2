//! `/v1/campaigns`: what is urgent and runs against the tide of polls.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use simtide_platform::campaign::{Absentees, Batch};
use simtide_protocol::ids::EpochMs;

use super::idempotency::once;
use super::problem::Problem;
use super::request::{Body, named};
use super::tokens::{Caller, Role};
use super::{Api, Shared};
use crate::shell::campaigns::{CampaignRefused, Definition, Note};
use crate::shell::subscription::bulk::BulkView;
use crate::store::{CampaignId, CampaignRecord, Progress};

/// A campaign to be made.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub struct NewCampaign {
    /// For people.
    name: String,
    /// Content, audience, settings.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    definition: DefinitionBody,
}

/// [`Definition`] beside a name.
#[derive(Debug, Deserialize)]
struct DefinitionBody {
    content: simtide_platform::campaign::CampaignContent,
    #[serde(default)]
    audience: simtide_platform::audience::Audience,
    #[serde(default)]
    settings: simtide_platform::campaign::Settings,
}

/// A campaign in a list.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CampaignSummary {
    /// By which it is addressed.
    pub id: u32,
    /// For people.
    pub name: String,
    /// Place among the started ones; none: a draft, or a change of operator.
    pub number: Option<u32>,
    /// draft, running, paused, stopped or finished.
    pub state: String,
    /// Creation.
    #[schema(value_type = String)]
    pub created_at: EpochMs,
    /// First start.
    #[schema(value_type = Option<String>)]
    pub started_at: Option<EpochMs>,
    /// End.
    #[schema(value_type = Option<String>)]
    pub ended_at: Option<EpochMs>,
}

/// A campaign with its progress.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CampaignDetail {
    /// As in lists.
    #[serde(flatten)]
    pub campaign: CampaignSummary,
    /// How far it is.
    pub progress: ProgressView,
    /// The changes of operator that it began, where that is its content.
    pub changes: Option<ChangesView>,
    /// Who is missing, by reason, once it has finished.
    #[schema(value_type = Option<Object>)]
    pub absentees: Option<Absentees>,
    /// The latest batches of triggers: number, size, time.
    #[schema(value_type = Vec<Object>)]
    pub batches: Vec<Batch>,
    /// As it was made.
    #[schema(value_type = Object)]
    pub definition: serde_json::Value,
}

/// Sums of a campaign.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProgressView {
    /// Done in a poll that came by itself.
    pub done_by_poll: i64,
    /// Done in a poll that a trigger called in.
    pub done_by_trigger: i64,
    /// Done by a command.
    pub done_by_command: i64,
    /// Failed for good.
    pub failed: i64,
    /// Begun and not done: for an operator to look at.
    pub interrupted: i64,
    /// Triggers sent, all attempts.
    pub triggers: i64,
    /// Cards that had polled before their trigger left.
    pub passed_over: i64,
    /// Triggers under way now, over all campaigns.
    pub in_flight: u64,
}

/// The changes of operator of a campaign, and why it does not go on.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChangesView {
    /// Open, with an outcome that is not unknown.
    pub under_way: u64,
    /// Open, and nobody can say yet whether the card took the new identity.
    pub unknown: u64,
    /// Ended with the new identity.
    pub done: u64,
    /// The user has said no, or nothing.
    pub declined: u64,
    /// The card has refused, by a wrong admin code for instance.
    pub refused: u64,
    /// The guarded card has returned to its old identity.
    pub reverted: u64,
    /// Failed with the old identity on the card.
    pub failed: u64,
    /// Cancelled, by a user or because the campaign was stopped.
    pub cancelled: u64,
    /// Cards that cannot change their operator; each has a line in its history.
    pub not_possible: u64,
    /// Every card of the audience was met.
    pub all_met: bool,
    /// Why it has paused by itself: failures or unknown.
    pub paused_for: Option<String>,
    /// What it waits for although it runs.
    pub waits_for: Option<String>,
}

impl From<BulkView> for ChangesView {
    fn from(view: BulkView) -> ChangesView {
        let BulkView { counts, not_possible, all_met, paused_for, waits_for } = view;
        ChangesView {
            under_way: counts.under_way,
            unknown: counts.unknown,
            done: counts.done,
            declined: counts.declined,
            refused: counts.refused,
            reverted: counts.reverted,
            failed: counts.failed,
            cancelled: counts.cancelled,
            not_possible,
            all_met,
            paused_for: paused_for.map(|reason| reason.name().to_owned()),
            waits_for,
        }
    }
}

/// Campaigns, latest first.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CampaignList {
    /// The campaigns.
    pub campaigns: Vec<CampaignSummary>,
}

/// Makes a draft.
#[utoipa::path(post, path = "/v1/campaigns", request_body = NewCampaign, security(("token" = [])),
    responses((status = 201, body = CampaignSummary), (status = "4XX", body = Problem)))]
pub async fn create(
    State(api): Shared,
    caller: Caller,
    headers: HeaderMap,
    Body { value, bytes }: Body<NewCampaign>,
) -> Result<Response, Problem> {
    caller.must_be(Role::Operator)?;
    once(&api, &caller, &headers, &[b"campaign", &bytes], async {
        let DefinitionBody { content, audience, settings } = value.definition;
        let definition = Definition { content, audience, settings };
        let record = api.platform.campaigns.create(caller.tenant, &value.name, &definition).await?;
        api.audit(&caller, "campaign.create", record.id.0, &record.name).await?;
        Ok((StatusCode::CREATED, summary(&record)))
    })
    .await
}

/// Lists campaigns.
#[utoipa::path(get, path = "/v1/campaigns", security(("token" = [])),
    responses((status = 200, body = CampaignList), (status = "4XX", body = Problem)))]
pub async fn list(State(api): Shared, caller: Caller) -> Result<Json<CampaignList>, Problem> {
    let campaigns = api.platform.campaigns.list(caller.tenant).await;
    Ok(Json(CampaignList { campaigns: campaigns.iter().map(summary).collect() }))
}

/// Shows a campaign with progress and absentees.
#[utoipa::path(get, path = "/v1/campaigns/{campaign}", security(("token" = [])),
    params(("campaign" = u32, Path, description = "id of the campaign")),
    responses((status = 200, body = CampaignDetail), (status = "4XX", body = Problem)))]
pub async fn show(
    State(api): Shared,
    caller: Caller,
    Path(campaign): Path<String>,
) -> Result<Json<CampaignDetail>, Problem> {
    let id = CampaignId(named("campaign", &campaign)?);
    let record = api.platform.campaigns.show(caller.tenant, id).await?;
    detail(&api, &record).await.map(Json)
}

/// Starts, pauses, resumes or stops a campaign.
#[utoipa::path(post, path = "/v1/campaigns/{campaign}/{verb}", security(("token" = [])),
    params(("campaign" = u32, Path, description = "id of the campaign"),
        ("verb" = String, Path, description = "start, pause, resume or stop")),
    responses((status = 200, body = CampaignDetail), (status = "4XX", body = Problem)))]
pub async fn turn(
    State(api): Shared,
    caller: Caller,
    Path((campaign, verb)): Path<(String, String)>,
) -> Result<Json<CampaignDetail>, Problem> {
    caller.must_be(Role::Operator)?;
    let id = CampaignId(named("campaign", &campaign)?);
    let campaigns = &api.platform.campaigns;
    let record = match verb.as_str() {
        "start" => campaigns.start(caller.tenant, id, &caller.name).await?,
        "pause" => campaigns.pause(caller.tenant, id).await?,
        "resume" => campaigns.resume(caller.tenant, id).await?,
        "stop" => campaigns.stop(caller.tenant, id).await?,
        _ => return Err(Problem::not_found("the verb; start, pause, resume and stop are known: it")),
    };
    api.audit(&caller, &format!("campaign.{verb}"), id.0, &record.name).await?;
    detail(&api, &record).await.map(Json)
}

async fn detail(api: &Api, record: &CampaignRecord) -> Result<CampaignDetail, Problem> {
    let progress = api.platform.core.store.progress(record.id).await?;
    let note: Note = serde_json::from_str(&record.progress_note).unwrap_or_default();
    let Progress {
        done_by_poll,
        done_by_trigger,
        done_by_command,
        failed,
        interrupted,
        triggers,
        passed_over,
        ..
    } = progress;
    let in_flight = api.platform.flight.len() as u64;
    let changes = api.platform.bulks.view(record.id.0).await?.map(ChangesView::from);
    Ok(CampaignDetail {
        campaign: summary(record),
        progress: ProgressView {
            done_by_poll,
            done_by_trigger,
            done_by_command,
            failed,
            interrupted,
            triggers,
            passed_over,
            in_flight,
        },
        changes,
        absentees: note.absentees,
        batches: note.batches,
        definition: serde_json::from_str(&record.definition).unwrap_or_default(),
    })
}

fn summary(record: &CampaignRecord) -> CampaignSummary {
    CampaignSummary {
        id: record.id.0,
        name: record.name.clone(),
        number: record.number,
        state: record.state.clone(),
        created_at: record.created_at,
        started_at: record.started_at,
        ended_at: record.ended_at,
    }
}

impl From<CampaignRefused> for Problem {
    fn from(refused: CampaignRefused) -> Problem {
        match refused {
            CampaignRefused::Unknown => Problem::not_found("the campaign"),
            CampaignRefused::Store(error) => error.into(),
            CampaignRefused::State { .. } | CampaignRefused::TooManyRunning | CampaignRefused::TooMany => {
                Problem::conflict(refused.to_string())
            }
            CampaignRefused::Name(_)
            | CampaignRefused::Content(_)
            | CampaignRefused::ChangeOperator(_)
            | CampaignRefused::Operator(_)
            | CampaignRefused::ConsentAhead
            | CampaignRefused::NotForChanges
            | CampaignRefused::Settings(_) => Problem::unprocessable(refused.to_string()),
        }
    }
}
