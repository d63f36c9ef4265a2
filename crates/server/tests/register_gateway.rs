//! A register behind a gateway, over mutual TLS on a real socket.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};
use simtide_protocol::aka::{Outcome, SqnArray, authenticate};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::gsup::Domain;
use simtide_protocol::ids::{CardId, ChangeId};
use simtide_server::registers::algorithm::Functions;
use simtide_server::registers::checked::Checked;
use simtide_server::registers::gateway::certificates::{Link, Side, make_link};
use simtide_server::registers::gateway::message::{Ask, Request};
use simtide_server::registers::gateway::{Gateway, Reporter, Served, TransportKey, server};
use simtide_server::registers::memory::{Fault, MemoryRegister, Verb};
use simtide_server::registers::own::{Centre, NoElements};
use simtide_server::registers::pool::{Pool, Stock};
use simtide_server::registers::{
    AttachReport, PoolState, Register, RegisterError, Seen, Subscriber, VectorsWanted, http,
};
use tokio::net::TcpListener;

const TRANSPORT: [u8; 32] = [0x5A; 32];

fn card() -> CardId {
    "8988211000000000011".parse().unwrap()
}

fn link(directory: &tempfile::TempDir) -> Link {
    make_link(&directory.path().join("link"), &["127.0.0.1".to_owned()]).unwrap()
}

async fn serve(link: &Link, register: Arc<dyn Register>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = server::acceptor(&link.authority, &link.gateway.certificate, &link.gateway.key).unwrap();
    let served = Arc::new(Served { register, transport: TransportKey::new(&TRANSPORT) });
    tokio::spawn(server::serve(listener, acceptor, served));
    address
}

fn gateway(address: SocketAddr, authority: &Path, side: &Side, transport: [u8; 32]) -> Gateway {
    let transport = Arc::new(TransportKey::new(&transport));
    Gateway::new(&address.to_string(), authority, &side.certificate, &side.key, transport).unwrap()
}

#[tokio::test]
async fn every_verb_reaches_the_register_and_every_answer_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let link = link(&directory);
    let memory = MemoryRegister::new("two", "00102", 3);
    let address = serve(&link, Arc::new(memory.clone())).await;
    let register = gateway(address, &link.authority, &link.platform, TRANSPORT);
    let identity = register.reserve(ChangeId(1), card()).await.ok().unwrap();
    let imsi = identity.imsi;
    let (k, opc) = memory.keys(imsi).unwrap();
    assert!(identity.k == k && identity.opc == opc && identity.msisdn.is_some());
    assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: false }));
    register.arm(ChangeId(1), imsi).await.unwrap();
    let vectors = register.vectors(imsi, VectorsWanted::plain(5)).await.ok().unwrap();
    assert_eq!(vectors.len(), 5);
    let functions = Functions::new(identity.algorithm, &identity.k, &identity.opc).unwrap();
    let mut array = SqnArray::default();
    for vector in &vectors {
        match authenticate(&functions, &mut array, &vector.rand, &vector.autn) {
            Outcome::Success(answer) => {
                assert_eq!((answer.res, answer.ck, answer.ik), (vector.xres, vector.ck, vector.ik));
            }
            _ => panic!("the card refuses"),
        }
    }
    let again = authenticate(&functions, &mut array, &vectors[0].rand, &vectors[0].autn);
    let Outcome::SynchronisationFailure { auts } = again else { panic!("a replay was accepted") };
    let resynchronisation = Some((vectors[0].rand, auts));
    let wanted = VectorsWanted { resynchronisation, ..VectorsWanted::plain(1) };
    assert!(register.vectors(imsi, wanted).await.is_ok());
    assert!(memory.attach(imsi));
    assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: true }));
    register.withdraw(ChangeId(2), imsi).await.unwrap();
    register.retire(ChangeId(2), imsi).await.unwrap();
    assert_eq!(register.watch(imsi).await, Ok(Seen::default()));
    let second = register.reserve(ChangeId(3), card()).await.ok().unwrap();
    register.release(ChangeId(3), second.imsi).await.unwrap();
    let first = Subscriber {
        card: card(),
        imsi: "001020000000777".parse().unwrap(),
        algorithm: AuthenticationAlgorithm::Milenage,
        k: Secret::new(&[1, 2].repeat(8)).unwrap(),
        opc: Secret::new(&[3, 4].repeat(8)).unwrap(),
        msisdn: None,
    };
    register.provision(first.clone()).await.unwrap();
    assert!(memory.keys(first.imsi).unwrap().0 == first.k);
    let state = PoolState { free: 2, reserved: 0, assigned: 1, retired: 1 };
    assert_eq!(register.pool().await, Ok(state));
}

#[tokio::test]
async fn bad_answers_of_the_register_behind_are_refused_and_errors_keep_their_kind() {
    let directory = tempfile::tempdir().unwrap();
    let link = link(&directory);
    let memory = MemoryRegister::new("two", "00102", 9);
    let address = serve(&link, Arc::new(memory.clone())).await;
    let direct = gateway(address, &link.authority, &link.platform, TRANSPORT);
    let register = Checked::new(Arc::new(direct), Box::new(|imsi| imsi.to_string().starts_with("00102")));
    for (fault, expected) in [
        (Fault::TimeoutBefore, "unknown"),
        (Fault::TimeoutAfter, "unknown"),
        (Fault::Exists, "conflict"),
        (Fault::UnknownSubscriber, "not-found"),
        (Fault::AnotherAnswer, "invalid"),
        (Fault::ImsiOutOfRange, "invalid"),
        (Fault::ShortKey, "invalid"),
        (Fault::ZeroKey, "invalid"),
        (Fault::ErrorBody, "invalid"),
        (Fault::Unreachable, "unreachable"),
    ] {
        memory.fail_next(Verb::Reserve, fault);
        let kind = match register.reserve(ChangeId(1), card()).await.err() {
            Some(RegisterError::Unknown(_)) => "unknown",
            Some(RegisterError::Conflict(_)) => "conflict",
            Some(RegisterError::NotFound) => "not-found",
            Some(RegisterError::Invalid(_)) => "invalid",
            Some(RegisterError::Unreachable(_)) => "unreachable",
            other => panic!("{fault:?}: {other:?}"),
        };
        assert_eq!(kind, expected, "{fault:?}");
    }
    memory.fail_next(Verb::Reserve, Fault::Duplicate);
    assert!(register.reserve(ChangeId(1), card()).await.is_ok());
    assert_eq!(memory.pool().await.unwrap().reserved, 1, "one change, one identity, whatever went wrong");
}

#[tokio::test]
async fn nobody_without_the_link_s_certificate_and_the_transport_key_gets_anything() {
    let directory = tempfile::tempdir().unwrap();
    let link = link(&directory);
    let stranger = make_link(&directory.path().join("stranger"), &["127.0.0.1".to_owned()]).unwrap();
    let memory = MemoryRegister::new("two", "00102", 3);
    let address = serve(&link, Arc::new(memory.clone())).await;
    // Our authority, a stranger's certificate: the gateway refuses it.
    let wrong_client = gateway(address, &link.authority, &stranger.platform, TRANSPORT);
    let refused = wrong_client.reserve(ChangeId(1), card()).await.err();
    assert!(
        matches!(refused, Some(RegisterError::Unknown(_) | RegisterError::Unreachable(_))),
        "{refused:?}"
    );
    // A stranger at the gateway's address: the platform refuses it.
    let wrong_server = gateway(address, &stranger.authority, &link.platform, TRANSPORT);
    let refused = wrong_server.reserve(ChangeId(1), card()).await.err();
    assert!(matches!(refused, Some(RegisterError::Unreachable(_))), "{refused:?}");
    // The gateway's own certificate is no client's.
    let server_side = gateway(address, &link.authority, &link.gateway, TRANSPORT);
    assert!(server_side.reserve(ChangeId(1), card()).await.is_err());
    assert!(memory.calls().is_empty(), "nothing of it came to the register");
    let wrong_key = gateway(address, &link.authority, &link.platform, [1; 32]);
    let refused = wrong_key.reserve(ChangeId(1), card()).await.err();
    assert!(matches!(refused, Some(RegisterError::Invalid(_))), "{refused:?}");
    for address in ["10.0.0.1", "http://127.0.0.1:1", "host/path:1", ""] {
        let transport = Arc::new(TransportKey::new(&TRANSPORT));
        let side = &link.platform;
        assert!(Gateway::new(address, &link.authority, &side.certificate, &side.key, transport).is_err());
    }
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVersion};
    let directory = tempfile::tempdir().unwrap();
    let link = link(&directory);
    let address = serve(&link, Arc::new(MemoryRegister::new("two", "00102", 1))).await;
    let handshake = |version: SslVersion| {
        let link = link.clone();
        tokio::task::spawn_blocking(move || {
            let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
            builder.set_ca_file(&link.authority).unwrap();
            builder.set_certificate_chain_file(&link.platform.certificate).unwrap();
            builder.set_private_key_file(&link.platform.key, SslFiletype::PEM).unwrap();
            builder.set_max_proto_version(Some(version)).unwrap();
            let stream = std::net::TcpStream::connect(address).unwrap();
            builder.build().connect("127.0.0.1", stream).is_ok()
        })
    };
    assert!(handshake(SslVersion::TLS1_3).await.unwrap());
    assert!(!handshake(SslVersion::TLS1_2).await.unwrap());
}

#[tokio::test]
async fn keys_cross_only_under_the_transport_key() {
    let directory = tempfile::tempdir().unwrap();
    let memory = MemoryRegister::new("two", "00102", 1);
    // The same route without TLS around it: what is inside the session is seen.
    let served =
        Arc::new(Served { register: Arc::new(memory.clone()), transport: TransportKey::new(&TRANSPORT) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/register", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, server::routes(served)).await });
    let client = http::plain().build().unwrap();
    let ask = |ask: Ask| client.post(&url).json(&Request { request: ChangeId(9), ask });
    let (_, body) =
        http::exchange(ask(Ask::Reserve { change: ChangeId(1), card: card() }), 16_384).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let imsi = memory.identities_of(card())[0].0;
    assert!(text.contains(&imsi.to_string()));
    let (k, opc) = memory.keys(imsi).unwrap();
    for key in [&k, &opc] {
        assert!(!text.to_lowercase().contains(&hex::encode(key.as_bytes())));
    }
    // Bodies that are no requests get an answer and reach nothing.
    for body in ["", "{}", "null", "[[[[", r#"{"request":"0000000000000001","ask":{"verb":"reserve"}}"#] {
        let answer = client.post(&url).body(body.to_owned()).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{body}");
    }
    let large = client.post(&url).body("x".repeat(100_000)).send().await.unwrap();
    assert_eq!(large.status(), 413);
    assert_eq!(memory.calls().len(), 1);
    drop(directory);
}

type Reports = Arc<Mutex<(u32, Vec<AttachReport>)>>;

async fn attached(
    State(reports): State<Reports>,
    headers: HeaderMap,
    Json(report): Json<AttachReport>,
) -> impl IntoResponse {
    let mut reports = reports.lock().unwrap();
    reports.0 += 1;
    if headers["authorization"] != "Bearer token" {
        return StatusCode::UNAUTHORIZED;
    }
    // The first one is lost on the way back.
    if reports.0 == 1 {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    reports.1.push(report);
    StatusCode::NO_CONTENT
}

#[tokio::test]
async fn attaches_are_reported_until_they_are_acknowledged_and_not_again() {
    let directory = tempfile::tempdir().unwrap();
    let reports: Reports = Reports::default();
    let platform =
        Router::new().route("/v1/registers/two/attached", post(attached)).with_state(reports.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, platform).await });

    let pool = Arc::new(Pool::open(&directory.path().join("own.db")).unwrap());
    let first = "001020000000001".parse().unwrap();
    pool.add(Stock::range(first, 2, None, AuthenticationAlgorithm::Milenage).unwrap()).await.unwrap();
    let register = Arc::new(Centre::new(pool.clone(), Arc::new(NoElements)).register());
    let client = || http::plain().build().unwrap();
    let new = |url: &str| {
        let token = zeroize::Zeroizing::new("token".to_owned());
        Reporter::new(url, "two", token, client(), pool.clone(), register.clone())
    };
    assert!(new("http://platform.example.org").is_err(), "not in clear over a network");
    let reporter = new(&url).unwrap();
    let imsi = register.reserve(ChangeId(1), card()).await.ok().unwrap().imsi;
    assert_eq!(reporter.once().await, Ok(0), "it is not armed");
    register.arm(ChangeId(1), imsi).await.unwrap();
    assert_eq!(reporter.once().await, Ok(0), "it has not attached");
    pool.attached(imsi, Domain::CircuitSwitched, "vlr".to_owned()).await.unwrap();
    assert!(reporter.once().await.is_err());
    assert_eq!(reporter.once().await, Ok(1));
    assert_eq!(reporter.once().await, Ok(0));
    assert_eq!(reports.lock().unwrap().1, [AttachReport { imsi, card: Some(card()) }]);
}
