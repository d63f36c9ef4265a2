//! Devices are told that something waits: by a real service centre, and by a push service on its own socket.

use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use simtide_protocol::sms::{Deliver, UserDataHeader};
use simtide_server::entitlement::config::Entitlement;
use simtide_server::entitlement::notification::Notifications;
use simtide_server::entitlement::source::PushAddress;
use simtide_server::shell::subscription::{SIGNATURE_HEADER, signature};

use super::*;

const SECRET: &str = "key of the signature";

/// A push service that answers as it is told, and what it was sent.
#[derive(Default)]
struct PushService {
    /// Statuses of the next answers; then 200.
    answers: Mutex<Vec<StatusCode>>,
    came: Mutex<Vec<(HeaderMap, String)>>,
}

impl PushService {
    fn count(&self) -> usize {
        self.came.lock().unwrap().len()
    }
}

async fn take(Shared(service): Shared<Arc<PushService>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    service.came.lock().unwrap().push((headers, String::from_utf8(body.to_vec()).unwrap()));
    service.answers.lock().unwrap().pop().unwrap_or(StatusCode::OK)
}

/// A platform that tells devices, its push service, and the air of its service centre.
struct Told {
    platform: Arc<Platform>,
    service: Arc<PushService>,
    air: Air,
    _smsc: Smsc,
    _folder: tempfile::TempDir,
}

impl Told {
    async fn start(cards: u32) -> Told {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let smsc = Smsc::start(Settings::default(), any, any, AirClock::REAL, None).await.unwrap();
        let air = Air::attach(smsc.air, 0).await;
        let store = store(cards, Clock::REAL.now()).await;
        let platform = start(&store, Some(smsc.smpp), "").await;
        let service = Arc::new(PushService::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let push_url = format!("http://{}/push", listener.local_addr().unwrap());
        let routes = Router::new().route("/push", post(take)).with_state(service.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("{text}\n")).unwrap();
            path
        };
        let settings = Entitlement {
            push_url,
            push_token_file: file("token", "bearer"),
            push_secret_file: file("secret", SECRET),
            ..Entitlement::default()
        };
        let notifications = Notifications::new(&settings, Clock::REAL, platform.outbox.clone()).unwrap();
        platform.deliveries.notify_by(Arc::new(notifications));
        Told { platform, service, air, _smsc: smsc, _folder: folder }
    }

    async fn wants_push(&self, n: u32) {
        let address = PushAddress { token: format!("device-{n}"), action: 2 };
        self.platform.deliveries.push_address(card(n), Some(address)).await.unwrap();
    }

    async fn deliver(&self) -> DeliveryId {
        create(&self.platform, wanted(0, &[Bearer::Ip], content(true, &[counting()]))).await
    }
}

/// What the text of a notification to port 8095 says.
fn text_to_port_8095(tpdu: &[u8]) -> String {
    let deliver = Deliver::from_bytes(tpdu).unwrap();
    assert!(deliver.has_header && !deliver.is_for_card(), "for the device, not for its card");
    let (header, text) = UserDataHeader::split(&deliver.user_data.octets).unwrap();
    assert!(header.elements.iter().any(|one| one.id == 0x05 && one.data == [0x1F, 0x9F, 0, 0]), "{header:?}");
    String::from_utf8(text.to_vec()).unwrap()
}

#[tokio::test]
async fn a_device_is_told_by_sms_through_the_service_centre() {
    let mut told = Told::start(1).await;
    told.deliver().await;
    assert_eq!(text_to_port_8095(&told.air.message().await), format!("{}-aescfg,ap5901", imsi(0)));
    assert_eq!(told.service.count(), 0, "it has asked for no push");
    told.platform.stop().await;
}

#[tokio::test]
async fn a_push_is_signed_and_handed_over_again_until_it_is_taken() {
    let told = Told::start(1).await;
    *told.service.answers.lock().unwrap() =
        vec![StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    told.wants_push(0).await;
    told.deliver().await;
    until(async || told.service.count() == 3).await;
    for (headers, body) in told.service.came.lock().unwrap().iter() {
        assert_eq!(headers["authorization"], "Bearer bearer");
        let signed = headers[SIGNATURE_HEADER].to_str().unwrap();
        let (time, _) = signed.strip_prefix("t=").unwrap().split_once(',').unwrap();
        assert_eq!(signed, signature(SECRET.as_bytes(), time.parse().unwrap(), body.as_bytes()));
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["notif_token"], &body["notif_action"]), (&json!("device-0"), &json!(2)));
        assert_eq!(body["data"]["app"], json!(["ap5901"]));
        assert!(body["data"]["timestamp"].is_string());
    }
    told.platform.stop().await;
}

#[tokio::test]
async fn what_the_push_service_refuses_goes_by_sms() {
    let mut told = Told::start(1).await;
    *told.service.answers.lock().unwrap() = vec![StatusCode::GONE];
    told.wants_push(0).await;
    told.deliver().await;
    assert_eq!(text_to_port_8095(&told.air.message().await), format!("{}-aescfg,ap5901", imsi(0)));
    assert_eq!(told.service.count(), 1, "a refusal is final");
    told.platform.stop().await;
}

fn providing(version: &str) -> Definition {
    serde_json::from_value(json!({
        "content": {
            "repeatable": false,
            "provides": { "firmware": version },
            "variants": { "*": [counting()] },
        },
        "settings": { "never_seen": "like-others" },
    }))
    .unwrap()
}

async fn campaign(platform: &Platform, version: &str) -> simtide_server::store::CampaignId {
    let campaign = platform.campaigns.create(TENANT, version, &providing(version)).await.unwrap();
    platform.campaigns.start(TENANT, campaign.id, "test").await.unwrap();
    campaign.id
}

#[tokio::test]
async fn what_becomes_available_is_told_without_being_asked_to_cards_that_do_not_have_it() {
    let told = Told::start(3).await;
    // Card 0 has asked before; card 1 has the version already; card 2 has given no address.
    for n in [0, 1] {
        told.wants_push(n).await;
    }
    let has = |version: &str| Known([("firmware".to_owned(), version.to_owned())].into());
    assert_eq!(told.platform.deliveries.waiting(card(1), &has("1.10")).await.unwrap(), []);
    campaign(&told.platform, "1.9").await;
    until(async || told.service.count() == 1).await;
    assert!(told.service.came.lock().unwrap()[0].1.contains("device-0"));
    // The device fetches, and the card proves.
    let mut holder = Holder::new(0);
    let [item] = &ask(&told.platform, 0).await[..] else { panic!("the campaign waits") };
    assert_eq!(carry(&told.platform, &mut holder, item).await, [Verdict::Accepted]);
    // What it was brought it is known to have: an older version is not for it, a newer one is.
    let older = campaign(&told.platform, "1.8").await;
    assert_eq!(ask(&told.platform, 0).await, []);
    assert_eq!(told.platform.deliveries.waiting(card(1), &has("1.10")).await.unwrap(), []);
    campaign(&told.platform, "1.10").await;
    until(async || told.service.count() == 2).await;
    assert!(told.service.came.lock().unwrap()[1].1.contains("device-0"), "card 1 has that one too");
    assert_eq!(ask(&told.platform, 0).await.len(), 1);
    assert_eq!(ask(&told.platform, 2).await.len(), 1, "whoever asks gets what there is");
    assert_eq!(told.platform.campaigns.show(TENANT, older).await.unwrap().state, "running");
    told.platform.stop().await;
}

#[tokio::test]
async fn a_campaign_that_is_paused_lets_nothing_leave_and_one_that_is_stopped_leaves_nothing_open() {
    let store = store(2, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let id = campaign(&platform, "1").await;
    let [item] = &ask(&platform, 0).await[..] else { panic!("the campaign waits") };
    platform.campaigns.pause(TENANT, id).await.unwrap();
    assert_eq!(ask(&platform, 0).await, [], "not again either");
    assert_eq!(ask(&platform, 1).await, [], "nor for the first time");
    platform.campaigns.resume(TENANT, id).await.unwrap();
    assert_eq!(ask(&platform, 0).await, std::slice::from_ref(item));
    assert_eq!(platform.deliveries.open_count(), 1);
    platform.campaigns.stop(TENANT, id).await.unwrap();
    until(async || platform.deliveries.open_count() == 0).await;
    let delivery: DeliveryId = item.id.as_str().split_once('-').unwrap().0.parse().unwrap();
    assert_eq!(state(&platform, delivery).await, State::Cancelled);
    assert_eq!(store.open_packets(card(0)).await.unwrap(), [], "its key set is free");
    platform.stop().await;
}
