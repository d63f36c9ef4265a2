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
    content: simtide_platform::content::Content,
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
    /// Place among the started ones; none: a draft.
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
        "start" => campaigns.start(caller.tenant, id).await?,
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
            CampaignRefused::Name(_) | CampaignRefused::Content(_) | CampaignRefused::Settings(_) => {
                Problem::unprocessable(refused.to_string())
            }
        }
    }
}
