//! What every handler asks of a request: who asks, and a body that can be read.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::Api;
use super::problem::Problem;
use super::tokens::{Caller, Role};
use crate::store::OperatorId;

/// What a token that acts for one operator may ask for; each handler shows it that operator's side only.
const OPEN_TO_OPERATORS: [&str; 6] =
    ["/v1/cards", "/v1/changes", "/v1/operators", "/v1/agreements", "/v1/registers", "/v1/openapi.json"];

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Caller, Problem> {
        let said = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = said.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
        // Tokens expire in real time, however fast campaign time passes.
        let now = crate::clock::Clock::REAL.now();
        let refused = |denied: super::tokens::Denied| {
            Problem::new(StatusCode::UNAUTHORIZED, "not-authenticated", denied.to_string())
        };
        let caller = api.tokens.caller(token.trim(), now).map_err(refused)?;
        let path = parts.uri.path();
        if caller.operator.is_some() && !is_open_to_operators(path) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "not-allowed",
                format!(
                    "the token {} acts for one operator: it sees cards, changes, agreements and its own settings",
                    caller.name
                ),
            ));
        }
        Ok(caller)
    }
}

fn is_open_to_operators(path: &str) -> bool {
    let rest = OPEN_TO_OPERATORS.iter().filter_map(|open| path.strip_prefix(open));
    rest.into_iter().any(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Caller {
    /// Whether it may see what belongs to an operator.
    pub fn acts_for(&self, operator: OperatorId) -> bool {
        self.operator.is_none_or(|own| own == operator)
    }

    /// Refuses callers that act for one operator.
    pub fn must_act_for_all(&self) -> Result<(), Problem> {
        if self.operator.is_none() {
            return Ok(());
        }
        let detail =
            format!("the token {} acts for one operator; this needs one of the whole service", self.name);
        Err(Problem::new(StatusCode::FORBIDDEN, "not-allowed", detail))
    }

    /// Refuses callers that act for another operator.
    pub fn must_act_for(&self, operator: OperatorId) -> Result<(), Problem> {
        if self.acts_for(operator) {
            return Ok(());
        }
        let detail = format!("the token {} acts for another operator", self.name);
        Err(Problem::new(StatusCode::FORBIDDEN, "not-allowed", detail))
    }

    /// Refuses callers whose role is below this one.
    pub fn must_be(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        let detail =
            format!("the token {} is a {:?}; this needs a token of role {role:?}", self.name, self.role);
        Err(Problem::new(StatusCode::FORBIDDEN, "not-allowed", detail))
    }
}

/// The query of a request; what is not understood is a problem like every other.
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _api: &Arc<Api>) -> Result<Parameters<T>, Problem> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(value)| Parameters(value))
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

/// A JSON body, with the bytes it came in.
pub struct Body<T> {
    /// What it says.
    pub value: T,
    /// As it came, for the idempotency key.
    pub bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Body<T>, Problem> {
        let bytes = Bytes::from_request(request, api).await.map_err(|rejection| {
            Problem::new(
                rejection.status(),
                "body-not-taken",
                format!("{}; api.body_bytes_max is the limit", rejection.body_text()),
            )
        })?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::bad_request(format!("the body is not what is expected: {error}")))?;
        Ok(Body { value, bytes })
    }
}

/// Where a page of cases begins: the `next` of the page before, `BUCKET-ID`.
pub fn place<I: std::str::FromStr>(after: Option<&str>) -> Result<Option<(u16, I)>, Problem> {
    let Some(after) = after else { return Ok(None) };
    let place = after.split_once('-').and_then(|(bucket, id)| Some((bucket.parse().ok()?, id.parse().ok()?)));
    place.map(Some).ok_or_else(|| Problem::bad_request("after: give the \"next\" of the page before"))
}

/// [`place`] as `next`.
pub fn next_place<I: std::fmt::Display>(next: Option<(u16, I)>) -> Option<String> {
    next.map(|(bucket, id)| format!("{bucket}-{id}"))
}

/// The text of a path segment as what it names.
pub fn named<T: std::str::FromStr>(what: &str, text: &str) -> Result<T, Problem>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error| Problem::bad_request(format!("{what}: {error}")))
}
