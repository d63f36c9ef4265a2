//! Those who mean no good: none gets anything of a card that is not theirs, and none stops the others.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use simtide_protocol::eap::packet::{Packet, Subtype};
use simtide_protocol::eap::peer::{Identities, Peer};
use simtide_protocol::entitlement::{AppId, Authentication, EapIdentity, OTA_APP_DEFAULT, Request};
use simtide_protocol::ids::{CardId, Imsi};
use simtide_protocol::second_layer::{Content, ItemId, Known, UplinkContent, Uplinks, Verdict};
use simtide_server::clock::Clock;
use simtide_server::entitlement::config::Entitlement;
use simtide_server::entitlement::source::{Answer, DeliverySource, MemorySource, PushAddress, Waiting};
use simtide_server::entitlement::{Server, Service};
use simtide_server::registers::memory::{Fault, Verb};
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::support::{Reply, card, config, imsi, item, ota, world};

/// D4: what waits for one card never reaches who has not proven that card.
#[tokio::test]
async fn a_stolen_token_reads_nothing() {
    let world = world(config()).await;
    let (mut victim, mut thief) = (world.device(1).await, world.device(2).await);
    world.source.put_waiting(card(1), item("00a1-1", 0x5A, 100));
    victim.authenticate(&world.client, false).await.unwrap();
    thief.authenticate(&world.client, false).await.unwrap();
    let own = thief.token.clone();
    // In the thief's own terminal the token is none; neither with another IMSI beside it.
    thief.token = victim.token.clone();
    assert_eq!(thief.post(&world.client, &thief.with_token()).await.status(), 511);
    // With everything that the victim's requests show, it gets a message that it cannot open.
    thief.request = victim.request.clone();
    thief.imsi = victim.imsi;
    let Reply::Document(document) = thief.post(&world.client, &thief.with_token()).await else {
        panic!("the token holds")
    };
    let data = ota(&document, OTA_APP_DEFAULT).data.unwrap();
    assert!(thief.channel.as_mut().unwrap().open(Content::Items, &data).is_err());
    assert!(!data.contains("WlpaWlpa"), "the packet does not lie open");
    // It cannot speak for the victim either: its own keys are of another generation.
    assert_eq!(thief.exchange(&world.client, &Uplinks::default()).await.err(), Some(511));
    let receipts = Uplinks { fetched: vec!["00a1-1".parse().unwrap()], ..Uplinks::default() };
    assert_eq!(thief.exchange(&world.client, &receipts).await.err(), Some(511));
    assert!(world.source.fetched_items(card(1)).is_empty());
    // The victim goes on.
    assert_eq!(victim.exchange(&world.client, &receipts).await.unwrap().items.len(), 0);
    assert_ne!(own, victim.token);
}

#[tokio::test]
async fn messages_that_are_repeated_reordered_or_swapped_change_nothing() {
    let world = world(config()).await;
    let (mut device, mut other) = (world.device(1).await, world.device(2).await);
    world.source.put_waiting(card(1), item("00a1-1", 1, 10));
    device.authenticate(&world.client, false).await.unwrap();
    other.authenticate(&world.client, false).await.unwrap();
    let receipts = Uplinks { fetched: vec!["00a1-1".parse().unwrap()], ..Uplinks::default() };
    let channel = device.channel.as_mut().unwrap();
    let first = channel.seal([1; 12], Content::Uplinks, &Uplinks::default().to_json()).unwrap();
    let second = channel.seal([2; 12], Content::Uplinks, &receipts.to_json()).unwrap();
    let with = |message: &str| Request { ota_data: Some(message.to_owned()), ..device.with_token() };
    // Swapped: another card's session gets it.
    let swapped = Request { ota_data: Some(second.clone()), ..other.with_token() };
    assert_eq!(other.post(&world.client, &swapped).await.status(), 511);
    // Damaged.
    let mut damaged = second.clone();
    damaged.replace_range(damaged.len() - 8..damaged.len() - 7, "_");
    assert!([400, 403].contains(&device.post(&world.client, &with(&damaged)).await.status()));
    assert!(world.source.fetched_items(card(1)).is_empty());
    // Reordered: the first comes after the second.
    assert_eq!(device.post(&world.client, &with(&second)).await.status(), 200);
    assert_eq!(device.post(&world.client, &with(&first)).await.status(), 403);
    // Repeated.
    assert_eq!(device.post(&world.client, &with(&second)).await.status(), 403);
    assert_eq!(world.source.fetched_items(card(1)).len(), 1);
    assert_eq!(device.post(&world.client, &with("a.b.c")).await.status(), 400);
    // The device itself goes on.
    device.exchange(&world.client, &Uplinks::default()).await.unwrap();
}

#[tokio::test]
async fn a_card_that_has_moved_to_another_subscriber_proves_itself_again() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    device.authenticate(&world.client, false).await.unwrap();
    // The identity is on another card now, for which something waits.
    world.source.put_subscriber(imsi(1), card(9));
    world.source.put_waiting(card(9), item("00b1-1", 1, 10));
    assert_eq!(device.exchange(&world.client, &Uplinks::default()).await.err(), Some(511));
    assert_eq!(world.server.service.tokens.count(), 0);
}

/// D4 for fast re-authentication: the keys of an earlier run are those of the card that made them, not of the subscriber.
#[tokio::test]
async fn a_card_that_has_lost_its_subscriber_does_not_go_on_fast() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    device.authenticate(&world.client, false).await.unwrap();
    let (name, _) = device.reauth.clone().unwrap();
    world.source.put_subscriber(imsi(1), card(9));
    world.source.put_waiting(card(9), item("00b1-1", 1, 10));
    // The name is no longer one: the server asks who it is, instead of going on.
    let Reply::Relay { packet, .. } = device.begin(&world.client, &name).await else {
        panic!("an identity round")
    };
    assert_eq!(Packet::decode(&packet).unwrap().subtype, Subtype::Identity);
    // The old card cannot answer in full: the register has the new card's key.
    device.milenage = simtide_protocol::milenage::Milenage::new(&[9; 16], &[9; 16]);
    assert_eq!(device.authenticate(&world.client, true).await.err(), Some(403));
    assert_eq!(world.server.service.stats.items.value(), 0);
}

/// The identity moves between the challenge and its answer: what waits for the new card stays.
#[tokio::test]
async fn a_subscriber_that_moves_during_an_authentication_is_nobody_here() {
    let world = world(config()).await;
    world.source.put_waiting(card(9), item("00b1-1", 1, 10));
    let mut device = world.device(1).await;
    device.authenticate(&world.client, false).await.unwrap();
    for fast in [true, false] {
        world.source.put_subscriber(imsi(1), card(1));
        let (identities, name) = match device.reauth.take().filter(|_| fast) {
            Some((name, keys)) => {
                let reauth = Some((name.clone(), keys));
                (Identities { permanent: device.identity(), pseudonym: None, reauth }, name)
            }
            None => {
                let identities = Identities { permanent: device.identity(), pseudonym: None, reauth: None };
                (identities, device.identity())
            }
        };
        let mut peer = Peer::new(identities, fast, false, [1; 16], false);
        let Reply::Relay { cookie, packet } = device.begin(&world.client, &name).await else {
            panic!("a challenge")
        };
        let response = device.play(&mut peer, packet);
        world.source.put_subscriber(imsi(1), card(9));
        let tokens = world.server.service.tokens.count();
        assert_eq!(device.relay(&world.client, &cookie, &response).await.status(), 511, "{fast}");
        assert_eq!(world.server.service.tokens.count(), tokens);
    }
    assert_eq!(world.server.service.stats.items.value(), 0);
    assert!(world.source.fetched_items(card(9)).is_empty());
}

#[tokio::test]
async fn who_is_known_cannot_be_found_out() {
    let world = world(config()).await;
    let (known, unknown) = (world.device(1).await, world.stranger(2));
    let mut seen = Vec::new();
    for mut device in [known, unknown] {
        // Somebody without the card: a challenge all the same, and the same refusal of a wrong answer.
        device.milenage = simtide_protocol::milenage::Milenage::new(&[9; 16], &[9; 16]);
        let mut statuses = Vec::new();
        for _ in 0..2 {
            let Reply::Relay { cookie, packet } = device.begin(&world.client, &device.identity()).await
            else {
                panic!("a challenge")
            };
            // Attributes and their lengths are the same; so is AMF.
            let shape: Vec<_> =
                (0..packet.len()).filter(|place| matches!(place, 0..12 | 28..32 | 38..40)).collect();
            let bytes: Vec<u8> = shape.iter().map(|place| packet[*place]).collect();
            let identities = Identities { permanent: device.identity(), pseudonym: None, reauth: None };
            let mut peer = Peer::new(identities, false, false, [1; 16], false);
            let response = device.play(&mut peer, packet.clone());
            statuses.push((
                packet.len(),
                bytes,
                device.relay(&world.client, &cookie, &response).await.status(),
            ));
        }
        // An AUTS that nobody's card has made.
        let Reply::Relay { cookie, .. } = device.begin(&world.client, &device.identity()).await else {
            panic!("a challenge")
        };
        let auts = [&[2, 1, 0, 24, 23, 4, 0, 0, 4, 4][..], &[7; 14]].concat();
        statuses.push((0, Vec::new(), device.relay(&world.client, &cookie, &auts).await.status()));
        seen.push(statuses);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0][2].2, 403);
}

/// Nor by what it costs: head and length of the answers, questions to the register, and what happens when that is away.
#[tokio::test]
async fn known_and_unknown_subscribers_cost_the_same() {
    let world = world(config()).await;
    let (known, unknown) = (world.device(1).await, world.stranger(2));
    let mut seen = Vec::new();
    for device in [known, unknown] {
        let mut of_device = Vec::new();
        for (aka_prime, fault) in [
            (false, None),
            (true, None),
            (false, Some(Fault::Unreachable)),
            (false, Some(Fault::TimeoutBefore)),
        ] {
            let identity = EapIdentity::root(&device.imsi, 2, aka_prime);
            let authentication = Authentication::Eap(identity);
            let request = Request { authentication, ..device.request.clone() };
            let url = format!("{}?{}", device.url, request.to_query());
            if let Some(fault) = fault {
                world.register.fail_next(Verb::Vectors, fault);
            }
            let before = world.register.calls().len();
            let answer = world.client.get(url).send().await.unwrap();
            let asked = world.register.calls()[before..].to_vec();
            let status = answer.status().as_u16();
            let mut head: Vec<_> = answer
                .headers()
                .iter()
                .filter(|(name, _)| name.as_str() != "date")
                .map(|(name, value)| (name.to_string(), value.len()))
                .collect();
            head.sort();
            of_device.push((status, head, answer.bytes().await.unwrap().len(), asked));
        }
        seen.push(of_device);
    }
    assert_eq!(seen[0], seen[1]);
    let statuses: Vec<u16> = seen[0].iter().map(|one| one.0).collect();
    assert_eq!(statuses, [200, 200, 503, 503]);
    assert!(seen[0].iter().all(|one| one.3 == [(Verb::Vectors, None)]), "one question each");
}

/// An EAP_ID costs a sequence number: a thousand sessions for one subscriber cost a handful.
#[tokio::test]
async fn a_thousand_sessions_for_one_subscriber() {
    for known in [true, false] {
        let world = world(Entitlement { imsi_burst: 5, sessions_per_imsi_max: 4, ..config() }).await;
        let device = if known { world.device(1).await } else { world.stranger(1) };
        let mut statuses: Vec<u16> = Vec::new();
        for _ in 0..1_000 {
            statuses.push(device.begin(&world.client, &device.identity()).await.status());
        }
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 4);
        assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 996);
        assert_eq!(world.server.service.stats.vectors.value(), 4);
        assert_eq!(world.server.service.sessions.count(), 4);
        // Others are served.
        let mut other = world.device(2).await;
        other.authenticate(&world.client, false).await.unwrap();
    }
}

/// The limit holds for whom the vector is, whatever name the session began with.
#[tokio::test]
async fn a_detour_by_a_pseudonym_does_not_widen_the_limit() {
    let world = world(Entitlement { imsi_burst: 2, ..config() }).await;
    let device = world.device(1).await;
    let mut statuses = Vec::new();
    for n in 0..10 {
        let name = EapIdentity::parse(&format!("2name{n}@x")).unwrap();
        let Reply::Relay { cookie, packet } = device.begin(&world.client, &name).await else {
            panic!("an identity round")
        };
        let identity = device.identity();
        let text = identity.as_str().as_bytes();
        let words = 1 + text.len().div_ceil(4);
        let mut response = vec![2, packet[1], 0, 0, 23, 5, 0, 0, 14, words as u8, 0, text.len() as u8];
        response.extend(text);
        response.resize(8 + 4 * words, 0);
        response[3] = response.len() as u8;
        statuses.push(device.relay(&world.client, &cookie, &response).await.status());
    }
    assert_eq!(statuses, [200, 200, 503, 503, 503, 503, 503, 503, 503, 503]);
    assert_eq!(world.server.service.stats.vectors.value(), 2);
}

#[tokio::test]
async fn an_address_that_asks_too_often_waits() {
    let limits = Entitlement {
        address_burst: 3,
        address_interval_ms: 600_000,
        forwarded_header: "x-forwarded-for".into(),
        ..config()
    };
    let world = world(limits).await;
    for n in 1..=3 {
        world.device(n).await.authenticate(&world.client, false).await.unwrap();
    }
    let mut device = world.device(4).await;
    let reply = device.begin(&world.client, &device.identity()).await;
    assert!(matches!(reply, Reply::Status(503, Some(599..=600))));
    // A token needs no limit: who has one is known.
    let mut known = world.device(5).await;
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert("x-forwarded-for", "203.0.113.9, 198.51.100.7".parse().unwrap());
    let behind = reqwest::Client::builder().no_proxy().default_headers(headers).build().unwrap();
    known.authenticate(&behind, false).await.unwrap();
    known.exchange(&world.client, &Uplinks::default()).await.unwrap();
    assert_eq!(device.authenticate(&world.client, false).await.err(), Some(503));
}

/// Clients that open sessions and vanish: their places come back, the others are served.
#[tokio::test]
async fn a_thousand_clients_that_vanish() {
    let limits = Entitlement { sessions_max: 200, session_deadline_s: 1, connections_max: 400, ..config() };
    let world = world(limits).await;
    let address = world.server.address();
    let mut silent = Vec::new();
    // Some send half a head and stay, some begin an authentication and go.
    for n in 0..1_000 {
        if n % 5 == 0 && silent.len() < 100 {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.writable().await.unwrap();
            let _ = stream.try_write(b"GET /?EAP_ID=0001");
            silent.push(stream);
        } else {
            let device = world.stranger(1_000 + n);
            let status = device.begin(&world.client, &device.identity()).await.status();
            assert!([200, 503].contains(&status), "{status}");
        }
        assert!(world.server.service.sessions.count() <= 200);
    }
    // After their deadline the places are free again.
    let mut device = world.device(1).await;
    let served = async {
        while device.authenticate(&world.client, false).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), served).await.unwrap();
    let emptied = async {
        while world.server.service.sessions.count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), emptied).await.unwrap();
}

/// A source that takes its time, and a note of what came of it.
struct Slow {
    inner: Arc<MemorySource>,
    begun: Semaphore,
    may_end: Semaphore,
    ended: Semaphore,
}

impl DeliverySource for Slow {
    fn subscriber(&self, imsi: Imsi) -> Answer<'_, Option<CardId>> {
        self.inner.subscriber(imsi)
    }

    fn waiting<'a>(&'a self, card: CardId, known: &'a Known) -> Answer<'a, Vec<Waiting>> {
        self.inner.waiting(card, known)
    }

    fn fetched(&self, card: CardId, items: Vec<ItemId>) -> Answer<'_, ()> {
        Box::pin(async move {
            self.begun.add_permits(1);
            self.may_end.acquire().await.unwrap().forget();
            self.inner.fetched(card, items).await?;
            self.ended.add_permits(1);
            Ok(())
        })
    }

    fn uplink(&self, card: CardId, uplink: UplinkContent) -> Answer<'_, Verdict> {
        self.inner.uplink(card, uplink)
    }

    fn push_address(&self, card: CardId, address: Option<PushAddress>) -> Answer<'_, ()> {
        self.inner.push_address(card, address)
    }
}

/// What a device has sent is taken in to its end, although the device hangs up in the middle.
#[tokio::test]
async fn a_device_that_hangs_up_cuts_nothing_in_half() {
    let mut world = world(config()).await;
    world.source.put_waiting(card(1), item("00a1-1", 1, 10));
    let slow = Arc::new(Slow {
        inner: world.source.clone(),
        begun: Semaphore::new(0),
        may_end: Semaphore::new(0),
        ended: Semaphore::new(0),
    });
    let vectors = world.server.service.vectors.clone();
    let service = Service::new(config(), Clock::REAL, slow.clone(), vectors);
    world.server = Server::start(service).await.unwrap();
    let mut device = world.device(1).await;
    device.authenticate(&world.client, false).await.unwrap();
    let receipts = Uplinks { fetched: vec!["00a1-1".parse().unwrap()], ..Uplinks::default() };
    let message = device.channel.as_mut().unwrap().seal([1; 12], Content::Uplinks, &receipts.to_json());
    let body = Request { ota_data: message.ok(), ..device.with_token() }.to_json();
    let mut line = tokio::net::TcpStream::connect(world.server.address()).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    line.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let limit = Duration::from_secs(20);
    timeout(limit, slow.begun.acquire()).await.unwrap().unwrap().forget();
    drop(line);
    // The server has seen the line end: it has taken other requests since.
    for _ in 0..20 {
        device.begin(&world.client, &device.identity()).await;
    }
    slow.may_end.add_permits(1);
    timeout(limit, slow.ended.acquire()).await.unwrap().unwrap().forget();
    assert_eq!(world.source.fetched_items(card(1)).len(), 1);
}

#[tokio::test]
async fn bad_packets_and_foreign_cookies_end_in_a_status() {
    let world = world(config()).await;
    let device = world.device(1).await;
    let begin = || async {
        match device.begin(&world.client, &device.identity()).await {
            Reply::Relay { cookie, packet } => (cookie, packet[1]),
            _ => panic!("a challenge"),
        }
    };
    let bad: [&[u8]; 8] = [
        // Length unlike the body, attribute length 0, two MACs, RES of 0 and of 17 bytes, AUTS of 13 bytes, no EAP.
        &[2, 1, 0, 9, 23, 1, 0, 0],
        &[2, 1, 0, 12, 23, 1, 0, 0, 3, 0, 0, 0],
        &[&[2, 1, 0, 48, 23, 1, 0, 0][..], &[11, 5, 0, 0][..], &[0; 16], &[11, 5, 0, 0], &[0; 16]].concat(),
        &[2, 1, 0, 12, 23, 1, 0, 0, 3, 1, 0, 0],
        &[&[2, 1, 0, 32, 23, 1, 0, 0, 3, 6, 0, 136][..], &[0; 20]].concat(),
        &[&[2, 1, 0, 23, 23, 4, 0, 0, 4, 4][..], &[0; 13]].concat(),
        &[],
        &[0xFF; 100],
    ];
    for packet in bad {
        let (cookie, _) = begin().await;
        assert_eq!(device.relay(&world.client, &cookie, packet).await.status(), 400, "{packet:02x?}");
        assert_eq!(device.relay(&world.client, &cookie, packet).await.status(), 511, "the session is over");
    }
    // A cookie of another session: its challenge was another one.
    let (first, _) = begin().await;
    let mut other = world.device(2).await;
    let Reply::Relay { packet, .. } = other.begin(&world.client, &other.identity()).await else {
        panic!("a challenge")
    };
    let identities = Identities { permanent: other.identity(), pseudonym: None, reauth: None };
    let mut peer = Peer::new(identities, false, false, [1; 16], false);
    let response = other.play(&mut peer, packet);
    assert_eq!(other.relay(&world.client, &first, &response).await.status(), 403);
    // One of an earlier session beside the right one, as some clients keep them.
    let (right, _) = match device.begin(&world.client, &device.identity()).await {
        Reply::Relay { cookie, packet } => (cookie, packet),
        _ => panic!("a challenge"),
    };
    let both = format!("simtide_session={}; {right}", "0".repeat(32));
    assert_eq!(
        device.relay(&world.client, &both, &response).await.status(),
        403,
        "the right session is found"
    );
    for cookie in ["", "simtide_session=00", "simtide_session=00000000000000000000000000000000"] {
        assert_eq!(device.relay(&world.client, cookie, &response).await.status(), 511);
    }
}

/// Cookies and tokens are never the same twice; a token opens only the applications it was given out for.
#[tokio::test]
async fn tokens_are_narrow_and_never_the_same() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    let mut tokens = HashSet::new();
    for _ in 0..5 {
        device.authenticate(&world.client, false).await.unwrap();
        assert!(tokens.insert(device.token.clone().unwrap()));
    }
    assert_eq!(world.server.service.tokens.count(), 1);
    let wider = Request { apps: vec!["ap2004".parse::<AppId>().unwrap()], ..device.with_token() };
    assert_eq!(device.post(&world.client, &wider).await.status(), 511);
    let named = Request { app_name: Some("other".into()), ..device.with_token() };
    assert_eq!(device.post(&world.client, &named).await.status(), 511);
}
