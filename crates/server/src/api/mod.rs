//! The REST interface under `/v1`: cards, imports, campaigns, commands, deliveries, tokens, audit trail; beside it `/metrics` and `/healthz`.
//!
//! Who asks is told by a bearer token, which has a tenant and a role; another tenant's cards and campaigns are not
//! there. Errors are problems that say what to do. A request that changes something may carry `Idempotency-Key`:
//! repeated with the same body it gets the first answer again.

pub mod audit;
pub mod campaigns;
pub mod cards;
pub mod changes;
pub mod commands;
pub mod deliveries;
pub mod entitlement;
mod idempotency;
pub mod imports;
mod openapi;
pub mod operators;
pub mod problem;
pub mod profiles;
mod request;
pub mod tls;
pub mod token_routes;
pub mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};

use self::problem::Problem;
use self::tokens::{Caller, Tokens};
use crate::metrics::Metrics;
use crate::shell::Platform;
use crate::store::{AuditLine, Group, Op};
use crate::vault::Vault;

pub use openapi::description;

/// What requests are answered from.
pub struct Api {
    /// The platform.
    pub platform: Arc<Platform>,
    /// Who may ask.
    pub tokens: Tokens,
    /// What is measured.
    pub metrics: Metrics,
    /// Seals what is imported.
    pub vault: Arc<Vault>,
    /// Imports of this process.
    pub imports: imports::Imports,
}

/// What handlers get.
pub type Shared = State<Arc<Api>>;

/// All routes of the API.
pub fn routes(api: Arc<Api>) -> Router {
    let body_bytes_max = api.platform.core.config.api.body_bytes_max;
    Router::new()
        .route("/v1/cards", get(cards::list))
        .route("/v1/cards/{card}", get(cards::show))
        .route("/v1/cards/{card}/commands", post(commands::send))
        .route("/v1/cards/{card}/commands/{command}", get(commands::show))
        .route("/v1/cards/{card}/commands/{command}/abandon", post(commands::abandon))
        .route("/v1/campaigns", get(campaigns::list).post(campaigns::create))
        .route("/v1/campaigns/{campaign}", get(campaigns::show))
        .route("/v1/campaigns/{campaign}/{verb}", post(campaigns::turn))
        .route("/v1/operators", get(operators::list))
        .route("/v1/operators/{name}", get(operators::show).put(operators::put).delete(operators::remove))
        .route("/v1/agreements", get(operators::agreements))
        .route("/v1/agreements/{from}/{to}", put(operators::agree).delete(operators::disagree))
        .route("/v1/changes", get(changes::list).post(changes::create))
        .route("/v1/changes/{change}", get(changes::show))
        .route("/v1/changes/{change}/consent", post(changes::consent))
        .route("/v1/changes/{change}/{verb}", post(changes::turn))
        .route("/v1/registers/{operator}/attached", post(changes::attached))
        .route("/v1/deliveries", get(deliveries::list).post(deliveries::create))
        .route("/v1/deliveries/{delivery}", get(deliveries::show))
        .route("/v1/deliveries/{delivery}/cancel", post(deliveries::cancel))
        .route("/v1/entitlement/subscriber", post(entitlement::subscriber))
        .route("/v1/entitlement/waiting", post(entitlement::waiting))
        .route("/v1/entitlement/fetched", post(entitlement::fetched))
        .route("/v1/entitlement/uplink", post(entitlement::uplink))
        .route("/v1/entitlement/push", post(entitlement::push))
        .route("/v1/entitlement/authenticated", post(entitlement::authenticated))
        .route("/v1/entitlement/vectors", post(entitlement::vectors))
        .route("/v1/imports", get(imports::list).post(imports::create))
        .route("/v1/imports/{import}", get(imports::show))
        .route("/v1/profiles", get(profiles::list).post(profiles::create))
        .route("/v1/tokens", get(token_routes::list).post(token_routes::create))
        .route("/v1/tokens/{name}", delete(token_routes::revoke))
        .route("/v1/audit", get(audit::list))
        .route("/v1/openapi.json", get(openapi))
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(middleware::from_fn(to_the_end))
        .merge(observed(&api))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

/// `/metrics` and `/healthz`, for a listener of their own.
pub fn observation(api: Arc<Api>) -> Router {
    api.metrics.routes().fallback(nowhere).with_state(api)
}

/// The same beside the API, unless they have a listener of their own.
fn observed(api: &Arc<Api>) -> Router<Arc<Api>> {
    if api.platform.core.config.api.metrics_listen.is_empty() { api.metrics.routes() } else { Router::new() }
}

/// A caller that hangs up does not cut in half what was begun: what was committed has its effects.
async fn to_the_end(request: Request, next: Next) -> Response {
    tokio::spawn(next.run(request)).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request to the API has failed");
        let detail =
            "the request has failed inside the platform, whose log says why; look before it is repeated";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
    })
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], description())
}

async fn nowhere() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        "there is no such path; /v1/openapi.json lists all of them",
    )
}

async fn wrong_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "this path does not know the method; /v1/openapi.json lists all of them",
    )
}

impl Api {
    /// Notes in the audit trail who did what.
    pub(crate) async fn audit(
        &self,
        caller: &Caller,
        action: &str,
        object: impl ToString,
        detail: &str,
    ) -> Result<(), Problem> {
        let line = AuditLine {
            at: self.platform.core.now(),
            tenant: caller.tenant,
            actor: caller.name.clone(),
            action: action.to_owned(),
            object: object.to_string(),
            detail: detail.to_owned(),
        };
        self.platform.core.commit(Group::Platform, vec![Op::Audit(line)]).await?;
        Ok(())
    }
}
