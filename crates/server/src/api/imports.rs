//! `/v1/imports`: cards from vendor files. The body is the file, streamed to the data folder, checked as a whole and
//! then stored; what it contains never goes through memory at once, and the copy is removed when the import ends.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use simtide_protocol::card_file::{self, Format, Secret, TransportKey};
use simtide_protocol::ids::ProfileName;
use tokio::io::AsyncWriteExt;

use super::problem::Problem;
use super::request::{Parameters, named};
use super::tokens::{Caller, Role};
use super::{Api, Shared};
use crate::import::{ImportError, ImportProgress, ImportReport, ImportSettings, Importer};
use crate::store::{OperatorId, TenantId};

/// Imports that are remembered.
const REMEMBERED_MAX: usize = 100;
/// Refused rows that an answer lists.
const REFUSALS_SHOWN_MAX: usize = 1_000;
/// Header with a transport key: `index:check value:component[,component..]`, all but the index in hex.
const TRANSPORT_KEY_HEADER: &str = "simtide-transport-key";

/// Imports of this process.
#[derive(Debug, Default)]
pub struct Imports {
    known: Mutex<VecDeque<(TenantId, ImportView)>>,
    /// One at a time: two that store the same card would refuse each other's rows.
    running: Arc<tokio::sync::Mutex<()>>,
}

/// An import as shown.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImportView {
    /// By which it is addressed while the platform runs.
    pub id: u64,
    /// File name.
    pub name: String,
    /// checking, storing, finished or failed.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Bytes of the file read in this phase.
    pub bytes: u64,
    /// Bytes of the file.
    pub bytes_total: u64,
    /// Rows settled.
    pub rows: u64,
    /// Cards stored for the first time.
    pub imported: u64,
    /// Cards that were there with the same content.
    pub unchanged: u64,
    /// Rows refused.
    pub refused: u64,
    /// The first of them.
    pub refusals: Vec<RefusalView>,
    /// Columns that mean nothing to the platform.
    pub columns_ignored: Vec<String>,
}

/// A refused row.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RefusalView {
    /// Line in the file, from 1.
    pub line: u64,
    /// Which card, where the row could be read.
    pub card: Option<String>,
    /// Why.
    pub reason: String,
}

/// Imports, latest first.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImportList {
    /// The imports of this process.
    pub imports: Vec<ImportView>,
}

/// What is said beside the file.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ImportQuery {
    /// File name, for people.
    name: Option<String>,
    /// out or csv; found from the first line unless given.
    format: Option<String>,
    /// Profile of rows that name none.
    profile: Option<String>,
    /// Operator of the subscriptions; the tenant's first unless given.
    operator: Option<String>,
    /// Operator whose register gets the subscriptions; the cards are then this operator's.
    register: Option<String>,
    /// Whether keys may stand in the file as plain text.
    plain: Option<bool>,
}

/// Imports a file.
#[utoipa::path(post, path = "/v1/imports", params(ImportQuery), security(("token" = [])),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "the file"),
    responses((status = 202, body = ImportView), (status = "4XX", body = Problem)))]
pub async fn create(
    State(api): Shared,
    caller: Caller,
    Parameters(query): Parameters<ImportQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ImportView>), Problem> {
    caller.must_be(Role::Operator)?;
    let settings = settings(&api, &caller, &query, &headers)?;
    let name = query.name.unwrap_or_else(|| "upload".to_owned());
    let running = api.imports.running.clone().try_lock_owned();
    let running = running.map_err(|_| Problem::conflict("another import runs; wait for its end"))?;
    let id = u64::from(u32::from_le_bytes(crate::card_port::random()));
    let path = receive(&api, id, body).await?;
    api.audit(&caller, "import", &name, &format!("import {id}")).await?;
    let view = ImportView { id, name, state: "checking".to_owned(), ..ImportView::default() };
    api.imports.remember(caller.tenant, view.clone());
    tokio::spawn(async move {
        let outcome = run(&api, id, &path, &settings).await;
        let _ = tokio::fs::remove_file(&path).await;
        drop(running);
        api.imports.change(id, |view| show_end(view, outcome));
    });
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// Lists imports.
#[utoipa::path(get, path = "/v1/imports", security(("token" = [])),
    responses((status = 200, body = ImportList), (status = "4XX", body = Problem)))]
pub async fn list(State(api): Shared, caller: Caller) -> Result<Json<ImportList>, Problem> {
    let known = api.imports.known.lock().unwrap_or_else(PoisonError::into_inner);
    let own = known.iter().rev().filter(|(tenant, _)| *tenant == caller.tenant);
    Ok(Json(ImportList { imports: own.map(|(_, view)| view.clone()).collect() }))
}

/// Shows how far an import is, and what was refused.
#[utoipa::path(get, path = "/v1/imports/{import}", security(("token" = [])),
    params(("import" = u64, Path, description = "id of the import")),
    responses((status = 200, body = ImportView), (status = "4XX", body = Problem)))]
pub async fn show(
    State(api): Shared,
    caller: Caller,
    Path(import): Path<String>,
) -> Result<Json<ImportView>, Problem> {
    let id: u64 = named("import", &import)?;
    let known = api.imports.known.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.iter().find(|(tenant, view)| *tenant == caller.tenant && view.id == id);
    found.map(|(_, view)| Json(view.clone())).ok_or_else(|| Problem::not_found("the import"))
}

impl Imports {
    fn remember(&self, tenant: TenantId, view: ImportView) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.pop_front();
        }
        known.push_back((tenant, view));
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut ImportView)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, view)) = known.iter_mut().find(|(_, view)| view.id == id) {
            change(view);
        }
    }
}

fn settings(
    api: &Api,
    caller: &Caller,
    query: &ImportQuery,
    headers: &HeaderMap,
) -> Result<ImportSettings, Problem> {
    let core = &api.platform.core;
    let catalogue = core.catalogue();
    let mut operators = catalogue.operators(caller.tenant);
    let operator: Option<OperatorId> = match query.operator.as_ref().or(query.register.as_ref()) {
        Some(name) => operators.find(|(_, known)| known == name).map(|(id, _)| id),
        None => operators.next().map(|(id, _)| id),
    };
    let operator = operator.ok_or_else(|| Problem::unprocessable("there is no such operator"))?;
    caller.must_act_for(operator)?;
    let register = match (&query.register, &query.operator) {
        (Some(register), Some(operator)) if register != operator => {
            return Err(Problem::bad_request("cards of one operator do not go to another one's register"));
        }
        (Some(_), _) => {
            let register = api.platform.changes.registers.of(operator);
            Some(register.ok_or_else(|| Problem::unprocessable("the operator has no register: set one"))?)
        }
        (None, _) => None,
    };
    let format = match query.format.as_deref() {
        None => None,
        Some("out") => Some(Format::Out),
        Some("csv") => Some(Format::Csv),
        Some(_) => return Err(Problem::bad_request("format must be out or csv")),
    };
    let profile: Option<ProfileName> =
        query.profile.as_deref().map(|text| named("profile", text)).transpose()?;
    let keys = headers.get_all(TRANSPORT_KEY_HEADER).iter();
    let transport_keys = keys.map(|value| transport_key(value.to_str().unwrap_or_default()));
    let now = core.now();
    Ok(ImportSettings {
        tenant: caller.tenant,
        operator,
        profile,
        first_poll: now,
        now,
        register,
        file: card_file::Settings {
            format,
            transport_keys: transport_keys.collect::<Result<_, _>>()?,
            column_keys: Vec::new(),
            plain_text_allowed: query.plain.unwrap_or(false),
        },
    })
}

/// `index:check value:component[,component..]`.
fn transport_key(text: &str) -> Result<TransportKey, Problem> {
    let wrong =
        || Problem::bad_request("a transport key is written index:check value:component[,component..]");
    let [index, check, components] = text.split(':').collect::<Vec<_>>()[..] else { return Err(wrong()) };
    let index = index.trim().parse().map_err(|_| wrong())?;
    let check = hex::decode(check.trim()).map_err(|_| wrong())?;
    let component = |text: &str| {
        let bytes = zeroize::Zeroizing::new(hex::decode(text.trim()).ok()?);
        Secret::new(&bytes)
    };
    let components: Option<Vec<Secret>> = components.split(',').map(component).collect();
    TransportKey::combine(index, &components.ok_or_else(wrong)?, &check)
        .map_err(|error| Problem::unprocessable(error.to_string()))
}

/// Writes the body to a file that only the platform can read.
async fn receive(api: &Api, id: u64, mut body: Body) -> Result<PathBuf, Problem> {
    let config = &api.platform.core.config;
    let path = config.data.folder.join(format!("import-{id}.part"));
    let failed = |error: std::io::Error| {
        Problem::unavailable(format!("the file cannot be kept: {error}; make room in the data folder"))
    };
    let mut file = tokio::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .await
        .map_err(failed)?;
    let received = async {
        let mut bytes = 0_u64;
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|error| Problem::bad_request(format!("the upload broke: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            bytes += data.len() as u64;
            if bytes > config.api.import_bytes_max {
                let limit = config.api.import_bytes_max;
                let detail =
                    format!("the file has more than {limit} bytes; split it, or raise api.import_bytes_max");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-not-taken", detail));
            }
            file.write_all(&data).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)
    };
    match received.await {
        Ok(()) => Ok(path),
        Err(problem) => {
            let _ = tokio::fs::remove_file(&path).await;
            Err(problem)
        }
    }
}

async fn run(
    api: &Api,
    id: u64,
    path: &std::path::Path,
    settings: &ImportSettings,
) -> Result<ImportReport, ImportError> {
    let core = &api.platform.core;
    let importer = Importer::new(core.store.clone(), core.clone(), api.vault.clone());
    let progress = |progress: &ImportProgress| api.imports.change(id, |view| show_progress(view, progress));
    let outcome = importer.import(path, settings, progress).await;
    // What was stored before a failure is there all the same.
    if let Err(error) = api.platform.cards_added().await {
        tracing::error!(%error, "imported cards are not known to campaigns before the next start");
    }
    outcome
}

fn show_end(view: &mut ImportView, outcome: Result<ImportReport, ImportError>) {
    match outcome {
        Ok(report) => show_report(view, report),
        Err(error) => {
            tracing::warn!(%error, "an import failed");
            view.state = "failed".to_owned();
            view.error = Some(error.to_string());
        }
    }
}

fn show_progress(view: &mut ImportView, progress: &ImportProgress) {
    view.state = if progress.storing { "storing" } else { "checking" }.to_owned();
    view.bytes = progress.bytes;
    view.bytes_total = progress.bytes_total;
    view.rows = progress.rows;
    view.imported = progress.imported;
    view.unchanged = progress.unchanged;
    view.refused = progress.refused;
}

fn show_report(view: &mut ImportView, report: ImportReport) {
    tracing::info!(
        imported = report.imported,
        unchanged = report.unchanged,
        refused = report.refused,
        "an import has ended"
    );
    view.state = "finished".to_owned();
    view.rows = report.rows;
    view.imported = report.imported;
    view.unchanged = report.unchanged;
    view.refused = report.refused;
    view.columns_ignored = report.columns_ignored;
    let refusals = report.refusals.into_iter().take(REFUSALS_SHOWN_MAX);
    view.refusals = refusals
        .map(|refusal| RefusalView {
            line: refusal.line,
            card: refusal.card.map(|card| card.to_string()),
            reason: refusal.reason.to_string(),
        })
        .collect();
}
