//! `/v1/tokens`: who may ask.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::Shared;
use super::problem::Problem;
use super::request::Body;
use super::tokens::{Caller, Role, TokenEntry, TokenError};
use crate::store::OperatorId;

/// A token to be made.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Name, unique within the platform.
    name: String,
    /// What it may do.
    role: Role,
    /// Name of the operator that it acts for: it sees that operator's cards and its side of changes; none: the whole
    /// service.
    #[serde(default)]
    operator: Option<String>,
    /// RFC 3339; without it the token does not expire.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    expires_at: Option<EpochMs>,
}

/// A token just made: it is shown this once.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
pub struct MadeToken {
    /// Its name.
    pub name: String,
    /// The token itself.
    pub token: String,
}

/// A token as listed.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenView {
    /// Name, unique within the platform.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Name of the operator that it acts for; none: the whole service.
    pub operator: Option<String>,
    /// RFC 3339; without it the token does not expire.
    #[schema(value_type = Option<String>)]
    pub expires_at: Option<EpochMs>,
}

/// Tokens of the tenant.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenList {
    /// Without the tokens themselves, which nobody keeps.
    pub tokens: Vec<TokenView>,
}

/// Lists tokens.
#[utoipa::path(get, path = "/v1/tokens", security(("token" = [])),
    responses((status = 200, body = TokenList), (status = "4XX", body = Problem)))]
pub async fn list(State(api): Shared, caller: Caller) -> Result<Json<TokenList>, Problem> {
    caller.must_be(Role::Admin)?;
    let catalogue = api.platform.core.catalogue();
    let view = |TokenEntry { name, role, operator, expires_at }| {
        let operator = operator.map(|operator| catalogue.operator_name(OperatorId(operator)).to_owned());
        TokenView { name, role, operator, expires_at }
    };
    Ok(Json(TokenList { tokens: api.tokens.list(caller.tenant).into_iter().map(view).collect() }))
}

/// Makes a token.
#[utoipa::path(post, path = "/v1/tokens", request_body = NewToken, security(("token" = [])),
    responses((status = 201, body = MadeToken), (status = "4XX", body = Problem)))]
pub async fn create(
    State(api): Shared,
    caller: Caller,
    Body { value, .. }: Body<NewToken>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    caller.must_be(Role::Admin)?;
    let NewToken { name, role, operator, expires_at } = value;
    if name.is_empty() || name.len() > 100 {
        return Err(Problem::unprocessable("the name must have 1 to 100 bytes"));
    }
    let catalogue = api.platform.core.catalogue();
    let bound = match &operator {
        Some(operator) => {
            let known = catalogue.operator_named(caller.tenant, operator);
            Some(known.ok_or_else(|| Problem::not_found("the operator"))?.id)
        }
        None => None,
    };
    api.audit(&caller, "token.create", &name, &format!("{role:?}")).await?;
    let token = api.tokens.create_for(&name, caller.tenant, role, bound, expires_at)?;
    Ok((StatusCode::CREATED, Json(MadeToken { name, token })))
}

/// Ends a token.
#[utoipa::path(delete, path = "/v1/tokens/{name}", security(("token" = [])),
    params(("name" = String, Path, description = "name of the token")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn revoke(
    State(api): Shared,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.must_be(Role::Admin)?;
    api.audit(&caller, "token.revoke", &name, "").await?;
    api.tokens.revoke(&name, caller.tenant)?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Problem {
        match error {
            TokenError::Unknown(_) => Problem::not_found("the token"),
            TokenError::Name(_) | TokenError::TooMany => Problem::conflict(error.to_string()),
            TokenError::File { .. } | TokenError::Damaged { .. } => Problem::unavailable(error.to_string()),
        }
    }
}
