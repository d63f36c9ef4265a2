//! The operator's side: mutual TLS 1.3, the typed verbs, and a register behind them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVerifyMode, SslVersion};
use simtide_protocol::ids::ChangeId;
use tokio::net::TcpListener;

use super::super::{Register, RegisterError, Subscriber, VectorsWanted};
use super::message::{
    Ask, BODY_BYTES_MAX, Reply, Request, Told, algorithm_of, open_keys, seal_keys, seal_vectors,
};
use super::transport::{Direction, Purpose, TransportKey};
use crate::api::tls::TlsListener;

/// What requests are answered from.
pub struct Served {
    /// The register behind the gateway.
    pub register: Arc<dyn Register>,
    /// The agreed transport key.
    pub transport: TransportKey,
}

/// A TLS 1.3 acceptor that lets nobody in without a certificate of this authority. All files are PEM.
///
/// # Errors
/// [`RegisterError::Refused`] with the file that cannot be used.
pub fn acceptor(authority: &Path, certificate: &Path, key: &Path) -> Result<SslAcceptor, RegisterError> {
    let wrong = |path: &Path| {
        let path = path.display().to_string();
        move |error: openssl::error::ErrorStack| {
            RegisterError::Refused(format!(
                "{path} cannot be used ({error}); docs/registers.md shows how to make it"
            ))
        }
    };
    let mut builder = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server()).map_err(wrong(certificate))?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3)).map_err(wrong(certificate))?;
    builder.set_certificate_chain_file(certificate).map_err(wrong(certificate))?;
    builder.set_private_key_file(key, SslFiletype::PEM).map_err(wrong(key))?;
    builder.check_private_key().map_err(wrong(key))?;
    builder.set_ca_file(authority).map_err(wrong(authority))?;
    builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    Ok(builder.build())
}

/// Serves until the future is dropped.
///
/// # Errors
/// Where the listener fails for good.
pub async fn serve(listener: TcpListener, acceptor: SslAcceptor, served: Arc<Served>) -> io::Result<()> {
    axum::serve(TlsListener::with_acceptor(listener, acceptor), routes(served)).await
}

/// The one route, without TLS around it.
pub fn routes(served: Arc<Served>) -> Router {
    Router::new()
        .route("/v1/register", post(asked))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(served)
}

async fn asked(State(served): State<Arc<Served>>, body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<Request>(&body) else {
        let reason = "the body is no request of a platform: docs/registers.md has the protocol";
        let told = Told::error(&RegisterError::Refused(reason.to_owned()));
        return response(StatusCode::BAD_REQUEST, &Reply { request: ChangeId(0), answer: told });
    };
    let id = request.request;
    // The verb goes on when the platform hangs up: half an effect is worse than one that nobody hears of.
    let work = tokio::spawn(async move { answer(&served, id, request.ask).await });
    let answer = work.await.unwrap_or_else(|_| Err(RegisterError::Unknown("the gateway failed".to_owned())));
    match answer {
        Ok(told) => response(StatusCode::OK, &Reply { request: id, answer: told }),
        Err(error) => {
            tracing::info!(%error, "the register did not do what the platform asked for");
            let told = Told::error(&error);
            response(status_of(&error), &Reply { request: id, answer: told })
        }
    }
}

fn response(status: StatusCode, reply: &Reply) -> Response {
    // Replies are plain data: they can always be written.
    let body = serde_json::to_vec(reply).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn status_of(error: &RegisterError) -> StatusCode {
    match error {
        RegisterError::Unreachable(_) | RegisterError::Exhausted => StatusCode::SERVICE_UNAVAILABLE,
        RegisterError::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
        RegisterError::NotFound => StatusCode::NOT_FOUND,
        RegisterError::Conflict(_) => StatusCode::CONFLICT,
        RegisterError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        RegisterError::Invalid(_) => StatusCode::BAD_GATEWAY,
    }
}

async fn answer(served: &Served, request: ChangeId, ask: Ask) -> Result<Told, RegisterError> {
    let Served { register, transport } = served;
    let done = |()| Told::Done {};
    match ask {
        Ask::Reserve { change, card } => {
            let identity = register.reserve(change, card).await?;
            let key = identity.change.to_bytes();
            let purpose = Purpose { direction: Direction::ToPlatform, key: &key, imsi: identity.imsi };
            Ok(Told::Identity {
                change: identity.change,
                imsi: identity.imsi,
                algorithm: identity.algorithm.name().to_owned(),
                keys: seal_keys(transport, purpose, &identity.k, &identity.opc)?,
                msisdn: identity.msisdn,
            })
        }
        Ask::Arm { change, imsi } => register.arm(change, imsi).await.map(done),
        Ask::Vectors { imsi, count, rand, auts, aka_prime } => {
            let resynchronisation = resynchronisation(rand, auts)?;
            let wanted = VectorsWanted { count, resynchronisation, aka_prime };
            let vectors = register.vectors(imsi, wanted).await?;
            let key = request.to_bytes();
            let purpose = Purpose { direction: Direction::ToPlatform, key: &key, imsi };
            Ok(Told::Vectors { imsi, vectors: seal_vectors(transport, purpose, &vectors)? })
        }
        Ask::Watch { imsi } => {
            let seen = register.watch(imsi).await?;
            Ok(Told::Seen { imsi, seen: seen.into() })
        }
        Ask::Withdraw { change, imsi } => register.withdraw(change, imsi).await.map(done),
        Ask::Retire { change, imsi } => register.retire(change, imsi).await.map(done),
        Ask::Release { change, imsi } => register.release(change, imsi).await.map(done),
        Ask::Provision { card, imsi, algorithm, keys, msisdn } => {
            let purpose = Purpose { direction: Direction::ToRegister, key: card.as_bytes(), imsi };
            let (k, opc) = open_keys(transport, purpose, &keys)?;
            let algorithm = algorithm_of(&algorithm)?;
            super::super::checked::check_keys(algorithm, &k, &opc)?;
            register.provision(Subscriber { card, imsi, algorithm, k, opc, msisdn }).await.map(done)
        }
        Ask::Pool {} => Ok(Told::Pool { pool: register.pool().await? }),
    }
}

/// RAND and AUTS of a challenge that the card has refused.
type Resynchronisation = Option<([u8; 16], [u8; 14])>;

fn resynchronisation(rand: Option<String>, auts: Option<String>) -> Result<Resynchronisation, RegisterError> {
    let wrong = || RegisterError::Refused("give rand (16 bytes) and auts (14 bytes), or neither".to_owned());
    let (rand, auts) = match (rand, auts) {
        (None, None) => return Ok(None),
        (Some(rand), Some(auts)) => (rand, auts),
        _ => return Err(wrong()),
    };
    let (mut rand_bytes, mut auts_bytes) = ([0; 16], [0; 14]);
    hex::decode_to_slice(rand, &mut rand_bytes).map_err(|_| wrong())?;
    hex::decode_to_slice(auts, &mut auts_bytes).map_err(|_| wrong())?;
    Ok(Some((rand_bytes, auts_bytes)))
}
