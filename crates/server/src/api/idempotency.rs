//! `Idempotency-Key`: a request that is repeated because its answer was lost gets the first answer again.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Api;
use super::problem::Problem;
use super::tokens::Caller;
use crate::store::{Group, IdempotencyRow, Op};

/// Longest key in bytes.
pub const KEY_BYTES_MAX: usize = 200;

/// Does `work` unless this key has been answered before. The same key with another request is a mistake.
pub async fn once<T: Serialize>(
    api: &Api,
    caller: &Caller,
    headers: &HeaderMap,
    request: &[&[u8]],
    work: impl Future<Output = Result<(StatusCode, T), Problem>>,
) -> Result<Response, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        let (status, answer) = work.await?;
        return Ok(json(status, serde_json::to_string(&answer).unwrap_or_default()));
    };
    let key = key.to_str().ok().filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
    let key = key.ok_or_else(|| {
        Problem::bad_request(format!(
            "Idempotency-Key must have 1 to {KEY_BYTES_MAX} visible ASCII characters"
        ))
    })?;
    // Operators choose their keys without knowing of each other. No key has the separator.
    let key = caller.operator.map_or_else(|| key.to_owned(), |operator| format!("{}\u{1F}{key}", operator.0));
    let mut hash = Sha256::new();
    for part in request {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let request_hash: [u8; 32] = hash.finalize().into();
    let core = &api.platform.core;
    if let Some(known) = core.store.idempotency(caller.tenant, &key).await? {
        if known.request_hash != request_hash {
            return Err(Problem::unprocessable(
                "this Idempotency-Key was used for another request; use a new key for a new request",
            ));
        }
        return Ok(json(StatusCode::from_u16(known.status).unwrap_or(StatusCode::OK), known.body));
    }
    let (status, answer) = work.await?;
    let body = serde_json::to_string(&answer).unwrap_or_default();
    let row = IdempotencyRow {
        tenant: caller.tenant,
        key,
        request_hash,
        status: status.as_u16(),
        body: body.clone(),
        at: core.now(),
    };
    core.commit(Group::Platform, vec![Op::Idempotency(Box::new(row))]).await?;
    Ok(json(status, body))
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
