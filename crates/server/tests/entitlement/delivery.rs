//! Authentication and delivery by the book.

use simtide_protocol::aka::Sqn;
use simtide_protocol::entitlement::{EapIdentity, OTA_APP_DEFAULT, Request, VOWIFI_APP};
use simtide_protocol::second_layer::{Uplink, UplinkContent, Uplinks, Verdict};
use simtide_server::entitlement::config::Entitlement;

use crate::support::{Reply, card, config, item, ota, world};

#[tokio::test]
async fn a_packet_reaches_the_device_and_its_proof_comes_back() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    device.request.apps.push(VOWIFI_APP);
    world.source.put_waiting(card(1), item("00a1-1", 0x5A, 300));
    let mut unwrapped = item("00a1-2", 0x5B, 20);
    unwrapped.originating_address = None;
    world.source.put_waiting(card(1), unwrapped);
    let document = device.authenticate(&world.client, false).await.unwrap();
    assert_eq!(document.app(VOWIFI_APP).unwrap().parameter("EntitlementStatus"), Some("0"));
    let offered = ota(&document, OTA_APP_DEFAULT);
    assert_eq!((offered.enabled, offered.waiting, offered.next_query_s), (true, 0, 86_400));
    let downlink = device.open(&document).unwrap();
    assert_eq!(downlink.items.len(), 2);
    assert_eq!(
        (downlink.items[0].packet.as_slice(), downlink.items[0].proof_wanted),
        (&[0x5A; 300][..], true)
    );
    // The wrapper is made before the second interface, or behind it.
    assert_eq!(downlink.items[0].originating_address, "1234");
    assert_eq!(downlink.items[1].originating_address, "447000");

    // Without a read receipt they are offered again; with it no more.
    let again = device.exchange(&world.client, &Uplinks::default()).await.unwrap();
    assert_eq!(again.items, downlink.items);
    let ids: Vec<_> = downlink.items.iter().map(|item| item.id.clone()).collect();
    let receipts = Uplinks { fetched: ids.clone(), ..Uplinks::default() };
    let answer = device.exchange(&world.client, &receipts).await.unwrap();
    assert!(answer.items.is_empty());
    assert_eq!(world.source.fetched_items(card(1)), ids);

    // A proof and a message of the card; the same again changes nothing.
    let uplink = vec![
        Uplink {
            n: 1,
            content: UplinkContent::Proof {
                id: Some(ids[0].clone()),
                originating_address: "1234".into(),
                packet: vec![2, 0x71, 0],
            },
        },
        Uplink { n: 2, content: UplinkContent::Submit { tpdu: vec![0x41, 0] } },
    ];
    let uplinks = Uplinks { uplink: uplink.clone(), ..Uplinks::default() };
    for expected in [Verdict::Accepted, Verdict::Repeated] {
        let answer = device.exchange(&world.client, &uplinks).await.unwrap();
        let verdicts: Vec<_> = answer.acknowledged.iter().map(|one| (one.n, one.verdict)).collect();
        assert_eq!(verdicts, [(1, expected), (2, expected)]);
    }
    let taken: Vec<_> = uplink.into_iter().map(|uplink| uplink.content).collect();
    assert_eq!(world.source.uplinks(card(1)), taken);
    assert_eq!(world.server.service.sessions.count(), 0);
}

#[tokio::test]
async fn aka_prime_pseudonyms_and_fast_reauthentication() {
    let world = world(config()).await;
    for (n, aka_prime) in [(1, false), (2, true)] {
        let mut device = world.device(n).await;
        device.aka_prime = aka_prime;
        device.authenticate(&world.client, false).await.unwrap();
        assert!(device.reauth.is_some());
        let first = device.token.clone();
        let vectors = world.server.service.stats.vectors.value();
        let fast = world.server.service.stats.fast.value();
        // Fast: no vector, a new token, new keys.
        for round in 1..=2 {
            device.authenticate(&world.client, true).await.unwrap();
            assert_eq!(world.server.service.stats.vectors.value(), vectors);
            assert_eq!(world.server.service.stats.fast.value(), fast + round);
        }
        assert_ne!(device.token, first);
        device.exchange(&world.client, &Uplinks::default()).await.unwrap();
        // A full one by pseudonym.
        let mut device = world.device(n).await;
        device.aka_prime = aka_prime;
        device.array.accept(Sqn::from_parts(1, 0));
        device.authenticate(&world.client, false).await.unwrap();
        device.reauth = None;
        let pseudonym = device.pseudonym.clone().unwrap();
        assert!(pseudonym.as_str().starts_with(if aka_prime { '7' } else { '2' }));
        device.authenticate(&world.client, false).await.unwrap();
        assert_eq!(world.server.service.stats.vectors.value(), vectors + 2);
    }
}

#[tokio::test]
async fn names_of_another_server_lead_to_the_permanent_identity() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    device.pseudonym = Some(EapIdentity::parse("2unknown@nai.epc.mnc001.mcc001.3gppnetwork.org").unwrap());
    device.authenticate(&world.client, false).await.unwrap();
    device.exchange(&world.client, &Uplinks::default()).await.unwrap();
}

/// Tokens, keys and names live in the process that gave them out. What was not acknowledged is offered and sent again.
#[tokio::test]
async fn after_a_restart_devices_authenticate_again_and_nothing_is_lost() {
    let mut world = world(config()).await;
    let mut device = world.device(1).await;
    world.source.put_waiting(card(1), item("00a1-1", 0x5A, 300));
    let document = device.authenticate(&world.client, false).await.unwrap();
    let offered = device.open(&document).unwrap();
    world.restart(config()).await;
    device.url = format!("http://{}/", world.server.address());
    // The receipt did not arrive in time: it is refused, and sent again after the next authentication.
    let fetched: Vec<_> = offered.items.iter().map(|item| item.id.clone()).collect();
    let receipts = Uplinks { fetched: fetched.clone(), ..Uplinks::default() };
    assert_eq!(device.exchange(&world.client, &receipts).await.err(), Some(511));
    assert!(world.source.fetched_items(card(1)).is_empty());
    // Neither the re-authentication identity nor the pseudonym is known: the permanent one leads on.
    assert!(device.reauth.is_some() && device.pseudonym.is_some());
    let document = device.authenticate(&world.client, true).await.unwrap();
    assert_eq!(device.open(&document).unwrap().items, offered.items);
    assert!(device.exchange(&world.client, &receipts).await.unwrap().items.is_empty());
    assert_eq!(world.source.fetched_items(card(1)), fetched);
    assert_eq!(world.server.service.stats.vectors.value(), 1);
}

#[tokio::test]
async fn a_card_ahead_of_its_register_is_followed() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    // Every place of the card's array is ahead.
    for place in 0..32 {
        assert!(device.array.accept(Sqn::from_parts(90_000, place)));
    }
    device.authenticate(&world.client, false).await.unwrap();
    assert_eq!(world.server.service.stats.vectors.value(), 2);
}

#[tokio::test]
async fn many_items_come_in_several_messages() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    for n in 0..70 {
        world.source.put_waiting(card(1), item(&format!("00a1-{n:02}"), n, 1_000));
    }
    let document = device.authenticate(&world.client, false).await.unwrap();
    assert_eq!(ota(&document, OTA_APP_DEFAULT).waiting, 38);
    let mut downlink = device.open(&document).unwrap();
    let mut all = Vec::new();
    while !downlink.items.is_empty() {
        all.extend(downlink.items.iter().map(|item| item.id.to_string()));
        let fetched = downlink.items.iter().map(|item| item.id.clone()).collect();
        let receipts = Uplinks { fetched, ..Uplinks::default() };
        downlink = device.exchange(&world.client, &receipts).await.unwrap();
    }
    assert_eq!(all, (0..70).map(|n| format!("00a1-{n:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_subscriber_without_a_card_here_gets_a_document_that_says_so() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    let other = world.stranger(2);
    // At the register, but no card of the platform's.
    world.source.put_subscriber(other.imsi, card(2));
    world.source.put_waiting(card(2), item("00a1-1", 1, 10));
    let _ = world.device(3).await;
    device.imsi = crate::support::imsi(1);
    let document = device.authenticate(&world.client, false).await.unwrap();
    assert!(ota(&document, OTA_APP_DEFAULT).enabled);
}

#[tokio::test]
async fn where_a_push_goes_is_passed_on() {
    let world = world(config()).await;
    let mut device = world.device(1).await;
    device.request.notif_action = Some(2);
    device.request.notif_token = Some("push-token".into());
    device.authenticate(&world.client, false).await.unwrap();
    let address = world.source.push_of(card(1)).unwrap();
    assert_eq!((address.token.as_str(), address.action), ("push-token", 2));
    let off = Request { notif_action: Some(0), notif_token: None, ..device.with_token() };
    assert_eq!(device.post(&world.client, &off).await.status(), 200);
    assert_eq!(world.source.push_of(card(1)), None);
}

#[tokio::test]
async fn another_application_id_and_path() {
    let app = "ap3456".parse().unwrap();
    let world = world(Entitlement { ota_app: app, path: "/entitlement".into(), ..config() }).await;
    let mut device = world.device(1).await;
    device.request.apps = vec![app, VOWIFI_APP];
    assert!(matches!(device.begin(&world.client, &device.identity()).await, Reply::Status(404, _)));
    device.url = format!("http://{}/entitlement", world.server.address());
    let document = device.authenticate(&world.client, false).await.unwrap();
    assert!(ota(&document, app).enabled);
}
