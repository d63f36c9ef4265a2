//! Statuses, forms, compression, TLS.

use std::io::Read;

use simtide_protocol::entitlement::{Document, Request};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::second_layer::Uplinks;
use simtide_server::clock::Clock;
use simtide_server::entitlement::config::Entitlement;
use simtide_server::entitlement::{Server, Service, StartError};
use simtide_server::metrics::Metrics;
use simtide_server::registers::memory::{Fault, Verb};

use crate::support::{Reply, card, config, item, read, with_clock, world};

async fn get(world: &crate::support::World, query: &str) -> u16 {
    let url = format!("http://{}/?{query}", world.server.address());
    world.client.get(url).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn statuses() {
    let world = world(config()).await;
    let device = world.device(1).await;
    let eap = Request {
        authentication: simtide_protocol::entitlement::Authentication::Eap(device.identity()),
        ..device.request.clone()
    };
    let query = eap.to_query();
    assert_eq!(get(&world, &query).await, 200);
    assert_eq!(get(&world, &query.replace("terminal_id", "x")).await, 400);
    assert_eq!(get(&world, &format!("{query}&vers=1")).await, 400);
    assert_eq!(get(&world, &query.replace("=8.0", "=99.0")).await, 406);
    assert_eq!(get(&world, &query.replace("EAP_ID=0", "EAP_ID=9")).await, 403);
    assert_eq!(get(&world, &query.replace("EAP_ID=0", "EAP_ID=0%00")).await, 400);
    assert_eq!(get(&world, &query.replace("EAP_ID=", "EAP_ID=%20")).await, 403);
    let long = "0".repeat(300);
    assert_eq!(get(&world, &query.replace("EAP_ID=0", &format!("EAP_ID={long}"))).await, 400);
    assert_eq!(get(&world, &device.request.to_query()).await, 511);
    assert_eq!(get(&world, &"a".repeat(9_000)).await, 414);
    let url = format!("http://{}/", world.server.address());
    assert_eq!(world.client.put(&url).send().await.unwrap().status(), 405);
    assert_eq!(world.client.post(&url).body("{").send().await.unwrap().status(), 400);
    let large = vec![b' '; 600_000];
    assert_eq!(world.client.post(&url).body(large).send().await.unwrap().status(), 413);
    let answer = world.client.get(format!("{url}?{query}")).header("host", "").send().await.unwrap();
    assert_eq!(answer.status(), 400);
    // POST begins an authentication too.
    let reply = read(world.client.post(&url).body(eap.to_json()).send().await.unwrap()).await;
    assert!(matches!(reply, Reply::Relay { .. }));
}

#[tokio::test]
async fn forms_and_compression() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    world.source.put_waiting(card(1), item("00a1-1", 1, 400));
    device.authenticate(&world.client, false).await.unwrap();
    let url = format!("http://{}/?{}", world.server.address(), device.with_token().to_query());
    let ask = |accept: &'static str, encoding: &'static str| {
        let get = world.client.get(&url).header("accept", accept).header("accept-encoding", encoding);
        async move {
            let answer = get.send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let header = |name: &str| {
                answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
            };
            let (kind, coding) = (header("content-type"), header("content-encoding"));
            (kind, coding, answer.bytes().await.unwrap().to_vec())
        }
    };
    let (kind, coding, xml) = ask("*/*", "identity").await;
    assert_eq!((kind.as_str(), coding.as_str()), ("text/vnd.wap.connectivity-xml", ""));
    assert!(xml.starts_with(b"<?xml"));
    let (kind, coding, packed) = ask("application/json", "gzip, deflate").await;
    assert_eq!((kind.as_str(), coding.as_str()), ("application/json", "gzip"));
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut json).unwrap();
    assert!(json.starts_with(b"{"));
    let (xml, json) = (Document::from_bytes(&xml).unwrap(), Document::from_bytes(&json).unwrap());
    assert_eq!((xml.version, xml.validity_s), (json.version, json.validity_s));
}

#[tokio::test]
async fn what_is_measured() {
    let world = world(Entitlement { imsi_burst: 3, ..config() }).await;
    let mut device = world.device(1).await;
    world.source.put_waiting(card(1), item("00a1-1", 1, 400));
    device.authenticate(&world.client, false).await.unwrap();
    device.authenticate(&world.client, true).await.unwrap();
    device.exchange(&world.client, &Uplinks::default()).await.unwrap();
    device.token = Some("none of ours".into());
    assert_eq!(device.post(&world.client, &device.with_token()).await.status(), 511);
    for expected in [200, 200, 200, 503] {
        assert_eq!(device.begin(&world.client, &device.identity()).await.status(), expected);
    }
    let text = Metrics::of_entitlement(world.server.service.clone()).text().unwrap();
    for line in [
        "simtide_entitlement_sessions_open 3",
        "simtide_entitlement_tokens 1",
        "simtide_entitlement_vectors_total 4",
        "simtide_entitlement_authentications_total{kind=\"full\"} 1",
        "simtide_entitlement_authentications_total{kind=\"fast\"} 1",
        "simtide_entitlement_refusals_total{reason=\"limit\"} 1",
        "simtide_entitlement_refusals_total{reason=\"not_proven\"} 1",
        "simtide_entitlement_token_requests_total 1",
        "simtide_entitlement_items_total 3",
        "simtide_entitlement_uplinks_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_token_ends_with_the_clock_whichever_way_it_jumps() {
    let day = 86_400_000;
    let config = || Entitlement { token_validity_s: 3_600, ..config() };
    // The clock of the platform runs a million times faster: the token is an hour old at once.
    let fast = Clock { real_anchor_ms: 0, virtual_anchor_ms: 0, rate: 1e6 };
    let world = with_clock(config(), fast).await;
    let mut device = world.device(1).await;
    device.authenticate(&world.client, false).await.unwrap();
    let begun = fast.now();
    while fast.now() < EpochMs(begun.0 + 3_600_000) {
        tokio::task::yield_now().await;
    }
    assert_eq!(device.post(&world.client, &device.with_token()).await.status(), 511);
    assert!(begun.0 > day);
    // And by a full authentication it goes on.
    device.authenticate(&world.client, true).await.unwrap();
}

#[tokio::test]
async fn a_register_that_is_away_is_told_with_a_time() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    for fault in [Fault::Unreachable, Fault::TimeoutAfter] {
        world.register.fail_next(Verb::Vectors, fault);
        let reply = device.begin(&world.client, &device.identity()).await;
        assert!(matches!(reply, Reply::Status(503, Some(1..))), "{fault:?}");
        assert_eq!(world.server.service.sessions.count(), 0);
    }
    device.authenticate(&world.client, false).await.unwrap();
}

#[tokio::test]
async fn beyond_loopback_there_is_no_plain_http() {
    let world = world(config()).await;
    let service = Service::new(
        Entitlement { listen: "0.0.0.0:0".into(), ..config() },
        Clock::REAL,
        world.source.clone(),
        world.server.service.vectors.clone(),
    );
    assert!(matches!(Server::start(service).await, Err(StartError::Plain(_))));
}

#[tokio::test]
async fn tls_1_3_and_nothing_older() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    let (pem, private) = self_signed();
    std::fs::write(&certificate, &pem).unwrap();
    std::fs::write(&key, private).unwrap();
    let world = world(Entitlement { tls_certificate: certificate, tls_key: key, ..config() }).await;
    let mut device = world.device(1).await;
    device.url = format!("https://127.0.0.1:{}/", world.server.address().port());
    let client = |version| {
        reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
            .tls_version_max(version)
            .build()
            .unwrap()
    };
    let old = client(reqwest::tls::Version::TLS_1_2);
    assert!(old.get(&device.url).send().await.is_err());
    let client = client(reqwest::tls::Version::TLS_1_3);
    let Reply::Relay { cookie, .. } = device.begin(&client, &device.identity()).await else {
        panic!("a packet")
    };
    assert!(cookie.ends_with("; Secure"));
    device.authenticate(&client, false).await.unwrap();
}

/// A certificate for 127.0.0.1 and its key.
fn self_signed() -> (Vec<u8>, Vec<u8>) {
    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
    use openssl::x509::{X509, X509Name};
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "entitlement").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    let names =
        SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(names).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    (builder.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap())
}
