//! `/v1/audit`: who did what.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::Shared;
use super::problem::Problem;
use super::request::Parameters;
use super::tokens::{Caller, Role};
use crate::store::{AuditRow, rules};

/// Lines of one page.
const PAGE_ROWS: usize = 500;

/// A line of the audit trail.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditLineView {
    /// 1, 2, 3, ... over all tenants.
    pub sequence: u64,
    /// When.
    #[schema(value_type = String)]
    pub at: EpochMs,
    /// Name of the token.
    pub actor: String,
    /// What, as `campaign.start`.
    pub action: String,
    /// To what.
    pub object: String,
    /// More, for people.
    pub detail: String,
    /// SHA-256 over this line and, by the value before it, all earlier ones, in hex: a copy kept elsewhere proves that
    /// nothing was changed since.
    pub chain: String,
}

/// A page of the audit trail, oldest first.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditList {
    /// The lines of the caller's tenant.
    pub lines: Vec<AuditLineView>,
    /// The first line of this page, of whatever tenant, that does not follow from those before it: the trail was changed.
    pub broken_at: Option<u64>,
    /// `after` of the next page; none: this is the last.
    pub next: Option<u64>,
}

/// Which lines a page shows.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct AuditParameters {
    /// Lines with a larger sequence; `next` of the page before.
    #[serde(default)]
    after: u64,
}

/// Lists the audit trail and checks that it is whole.
#[utoipa::path(get, path = "/v1/audit", params(AuditParameters), security(("token" = [])),
    responses((status = 200, body = AuditList), (status = "4XX", body = Problem)))]
pub async fn list(
    State(api): Shared,
    caller: Caller,
    Parameters(AuditParameters { after }): Parameters<AuditParameters>,
) -> Result<Json<AuditList>, Problem> {
    caller.must_be(Role::Admin)?;
    let store = &api.platform.core.store;
    let before = match after.checked_sub(1) {
        Some(sequence) => store.audit(sequence, 1).await?.pop(),
        None => None,
    };
    if before.as_ref().map_or(0, |row| row.sequence) != after {
        return Err(Problem::not_found("the line `after` of the audit trail"));
    }
    let rows = store.audit(after, PAGE_ROWS).await?;
    let next = rows.last().filter(|_| rows.len() == PAGE_ROWS).map(|row| row.sequence);
    let broken_at = broken_at(before.as_ref(), &rows);
    let own = rows.into_iter().filter(|row| row.line.tenant == caller.tenant);
    Ok(Json(AuditList { lines: own.map(view).collect(), broken_at, next }))
}

/// The first row that does not follow from those before it.
fn broken_at(before: Option<&AuditRow>, rows: &[AuditRow]) -> Option<u64> {
    let mut last = before.map_or((0, [0; 32]), |row| (row.sequence, row.chain));
    for row in rows {
        let (sequence, chain) = last;
        if row.sequence != sequence + 1 || row.chain != rules::audit_chain(&chain, row.sequence, &row.line) {
            return Some(row.sequence);
        }
        last = (row.sequence, row.chain);
    }
    None
}

fn view(AuditRow { sequence, chain, line }: AuditRow) -> AuditLineView {
    let (actor, action, object, detail) = (line.actor, line.action, line.object, line.detail);
    AuditLineView { sequence, at: line.at, actor, action, object, detail, chain: hex::encode(chain) }
}
