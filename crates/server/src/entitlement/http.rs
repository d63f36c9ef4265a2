//! HTTP of the entitlement server: parsing, statuses, forms, compression.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HOST, HeaderMap,
    RETRY_AFTER, SET_COOKIE, VARY,
};
use axum::http::{HeaderValue, Method, Request as HttpRequest, Response, StatusCode};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use simtide_protocol::entitlement::relay::{self, RELAY_BYTES_MAX};
use simtide_protocol::entitlement::request::{BODY_BYTES_MAX, QUERY_BYTES_MAX, RequestError};
use simtide_protocol::entitlement::{Document, Form, RELAY_CONTENT_TYPE, Request};

use super::service::{Answer, Refusal, Service};
use super::sessions::{self, Cookie};

/// Documents shorter than this are not worth compressing.
const GZIP_BYTES_MIN: usize = 512;

/// Who sends a request.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    /// Its address.
    pub address: IpAddr,
    /// Whether the connection is TLS.
    pub is_tls: bool,
}

/// What a response carries.
pub type Reply = Response<Full<Bytes>>;

/// Answers one request. Never fails: what goes wrong is a status.
pub async fn answer<B>(
    service: Arc<Service>,
    sender: Sender,
    request: HttpRequest<B>,
) -> Result<Reply, Infallible>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let limit = Duration::from_secs(service.config.request_deadline_s);
    let handled = tokio::time::timeout(limit, handle(service, sender, request)).await;
    Ok(handled.unwrap_or_else(|_| text(StatusCode::REQUEST_TIMEOUT, "the request took too long")))
}

async fn handle<B>(service: Arc<Service>, sender: Sender, request: HttpRequest<B>) -> Reply
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    if head.uri.path() != service.config.path {
        return text(StatusCode::NOT_FOUND, "there is no such path");
    }
    let Some(server_name) = server_name(&head.headers, &service.config.server_names) else {
        return text(StatusCode::BAD_REQUEST, "Host is missing, or not a name of this server");
    };
    let address = forwarded(&service, &head.headers).filter(|_| sender.address.is_loopback());
    let from = address.unwrap_or(sender.address);
    let answered = match head.method {
        Method::GET => {
            let query = head.uri.query().unwrap_or_default();
            if query.len() > QUERY_BYTES_MAX {
                return text(StatusCode::URI_TOO_LONG, "the query is too long");
            }
            match Request::from_query(query) {
                Ok(request) => asked(&service, request, from, server_name).await,
                Err(error) => Err(refused(&error)),
            }
        }
        Method::POST => {
            let is_relay = is_relay(&head.headers);
            let bytes_max = if is_relay { RELAY_BYTES_MAX } else { BODY_BYTES_MAX };
            match read(body, bytes_max).await {
                Ok(body) if is_relay => relayed(&service, &head.headers, &body).await,
                Ok(body) => match Request::from_json(&body) {
                    Ok(request) => asked(&service, request, from, server_name).await,
                    Err(error) => Err(refused(&error)),
                },
                Err(status) => return text(status, "the body cannot be read"),
            }
        }
        _ => {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "GET and POST are served");
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
            return reply;
        }
    };
    match answered {
        Ok(Answer::Relay(cookie, packet)) => relay_reply(&service, sender, &cookie, &packet),
        Ok(Answer::Document(document)) => document_reply(&head.headers, &document),
        Err(refusal) => refusal_reply(&refusal),
    }
}

fn refused(error: &RequestError) -> Refusal {
    match error {
        RequestError::Identity => Refusal::Forbidden,
        RequestError::Length { .. }
        | RequestError::Syntax(_)
        | RequestError::Missing(_)
        | RequestError::Repeated(_)
        | RequestError::Value { .. } => Refusal::Parameter(error.to_string()),
    }
}

async fn asked(
    service: &Arc<Service>,
    request: Request,
    from: IpAddr,
    server_name: String,
) -> Result<Answer, Refusal> {
    let service = service.clone();
    to_the_end(async move { service.ask(request, from, &server_name).await }).await
}

async fn relayed(service: &Arc<Service>, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Refusal> {
    let packet = relay::from_body(body).map_err(|error| Refusal::Parameter(error.to_string()))?;
    let headers = headers.get_all(COOKIE).iter().filter_map(|header| header.to_str().ok());
    let mut cookies = headers.flat_map(sessions::cookies_in);
    let cookie = cookies.find(|cookie| service.sessions.has(cookie)).ok_or(Refusal::Token)?;
    let service = service.clone();
    to_the_end(async move { service.relay(&cookie, packet).await }).await
}

/// A device that hangs up, or is too late, does not cut in half what was begun for it: what is taken in becomes durable
/// and has its effects.
async fn to_the_end(
    work: impl Future<Output = Result<Answer, Refusal>> + Send + 'static,
) -> Result<Answer, Refusal> {
    let mut work = Box::pin(work);
    // What is answered at once needs no task of its own.
    if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return answer;
    }
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request of a device has failed");
        Err(Refusal::Unavailable)
    })
}

fn is_relay(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(RELAY_CONTENT_TYPE))
}

/// The host that the device calls, without port: it goes into the keys of the second layer.
fn server_name(headers: &HeaderMap, allowed: &[String]) -> Option<String> {
    let host = headers.get(HOST)?.to_str().ok()?.trim().to_ascii_lowercase();
    let name = match host.rsplit_once(':') {
        // An IPv6 address has colons inside its brackets.
        Some((name, port)) if !port.contains(']') => name,
        Some(_) | None => &host,
    };
    let is_allowed = allowed.is_empty() || allowed.iter().any(|one| one.eq_ignore_ascii_case(name));
    (!name.is_empty() && is_allowed).then(|| name.to_owned())
}

/// The last address that the front server has added.
fn forwarded(service: &Service, headers: &HeaderMap) -> Option<IpAddr> {
    let name = service.config.forwarded_header.as_str();
    if name.is_empty() {
        return None;
    }
    headers.get_all(name).iter().next_back()?.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
}

async fn read<B>(body: B, bytes_max: usize) -> Result<Bytes, StatusCode>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}

fn relay_reply(service: &Service, sender: Sender, cookie: &Cookie, packet: &[u8]) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(relay::to_body(packet))));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(RELAY_CONTENT_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let cookie = sessions::set_cookie(cookie, &service.config.path, sender.is_tls);
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.insert(SET_COOKIE, cookie);
    }
    reply
}

fn document_reply(asked: &HeaderMap, document: &Document) -> Reply {
    let header =
        |name| asked.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let form = Form::accepted(header(ACCEPT));
    let bytes = document.to_bytes(form);
    let compressed = (bytes.len() >= GZIP_BYTES_MIN && accepts_gzip(header(ACCEPT_ENCODING)))
        .then(|| gzip(&bytes))
        .flatten();
    let is_compressed = compressed.is_some();
    let mut reply = Response::new(Full::new(Bytes::from(compressed.unwrap_or(bytes))));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if is_compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    reply
}

/// RFC 9110, 12.5.3: a coding with a weight of 0 is refused, in whatever form the 0 is written.
fn accepts_gzip(header: &str) -> bool {
    header.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        is_gzip && !parts.filter_map(weight).any(|weight| weight == 0.0)
    })
}

/// The number behind `q=`; none where that is not what stands there.
fn weight(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().ok()).flatten()
}

fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len()), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

fn refusal_reply(refusal: &Refusal) -> Reply {
    let status = match refusal {
        Refusal::Parameter(_) => StatusCode::BAD_REQUEST,
        Refusal::Forbidden => StatusCode::FORBIDDEN,
        Refusal::Version => StatusCode::NOT_ACCEPTABLE,
        Refusal::Limited(_) | Refusal::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Token => StatusCode::NETWORK_AUTHENTICATION_REQUIRED,
    };
    let mut reply = text(status, &refusal.to_string());
    if let Some(wait) = refusal.retry_after() {
        let seconds = wait.as_millis().div_ceil(1_000).to_string();
        if let Ok(seconds) = HeaderValue::from_str(&seconds) {
            reply.headers_mut().insert(RETRY_AFTER, seconds);
        }
    }
    reply
}

fn text(status: StatusCode, words: &str) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(format!("{words}\n"))));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_server() {
        let name = |host: &str, allowed: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_str(host).unwrap());
            let allowed: Vec<String> = allowed.iter().map(|&one| one.to_owned()).collect();
            server_name(&headers, &allowed)
        };
        assert_eq!(name("AES.example:8443", &[]).as_deref(), Some("aes.example"));
        assert_eq!(name("[::1]:8443", &[]).as_deref(), Some("[::1]"));
        assert_eq!(name("[::1]", &[]).as_deref(), Some("[::1]"));
        assert_eq!(name("aes.example", &["AES.example"]).as_deref(), Some("aes.example"));
        assert_eq!(name("evil.example", &["aes.example"]), None);
        assert_eq!(name(":80", &[]), None);
        assert_eq!(server_name(&HeaderMap::new(), &[]), None);
    }

    #[test]
    fn compression_as_accepted() {
        assert!(accepts_gzip("gzip") && accepts_gzip("deflate, GZIP;q=0.5"));
        assert!(!accepts_gzip("") && !accepts_gzip("deflate") && !accepts_gzip("gzip; q=0"));
        assert!(!accepts_gzip("gzip;Q=0.000") && accepts_gzip("gzip;q=0.001, br"));
    }
}
