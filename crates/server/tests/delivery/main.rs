//! Deliveries to cards in software: by short messages through a service centre, over the second interface, by a poll,
//! and by several at once. Effects are counted on the card.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod elsewhere;
mod forgery;
mod lost;
mod notification;
#[path = "../support/polling.rs"]
mod polling;
mod polls;
mod ready;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use simtide_agent::clock::Clock as AirClock;
use simtide_platform::content::Content;
use simtide_platform::delivery::{Bearer, Bearers, Brought, Milestone, State, Urgency};
use simtide_protocol::ids::{DeliveryId, EpochMs};
use simtide_protocol::second_layer::{Known, UplinkContent, Verdict};
use simtide_protocol::sms::Submit;
use simtide_server::clock::Clock;
use simtide_server::entitlement::source::{DeliverySource, Waiting};
use simtide_server::shell::Platform;
use simtide_server::shell::campaigns::Definition;
use simtide_server::shell::delivery::Wanted;
use simtide_server::store::{CaseKind, PacketState, Store};
use simtide_simulation::smsc::{Settings, Smsc};
use world::*;

fn content(repeatable: bool, steps: &[Value]) -> Content {
    serde_json::from_value(json!({ "repeatable": repeatable, "variants": { "*": steps } })).unwrap()
}

fn wanted(n: u32, bearers: &[Bearer], content: Content) -> Wanted {
    let bearers: Bearers = bearers.iter().copied().collect();
    Wanted { card: card(n), content, bearers, urgency: Urgency::Normal, validity_s: None }
}

async fn create(platform: &Platform, wanted: Wanted) -> DeliveryId {
    platform.deliveries.create(TENANT, wanted).await.unwrap().machine.id
}

async fn state(platform: &Platform, id: DeliveryId) -> State {
    platform.deliveries.show(TENANT, id).await.unwrap().machine.state
}

/// What an authenticated device gets.
async fn ask(platform: &Platform, n: u32) -> Vec<Waiting> {
    platform.deliveries.waiting(card(n), &Known::default()).await.unwrap()
}

async fn prove(platform: &Platform, n: u32, submit: &Submit) -> Verdict {
    platform.deliveries.uplink(card(n), UplinkContent::Submit { tpdu: submit.to_bytes() }).await.unwrap()
}

/// The device hands an item to its card and brings back what the card says.
async fn carry(platform: &Platform, holder: &mut Holder, item: &Waiting) -> Vec<Verdict> {
    let n = holder.n();
    platform.deliveries.fetched(card(n), vec![item.id.clone()]).await.unwrap();
    holder.packet(&item.packet, item.originating_address.as_deref().unwrap());
    let mut verdicts = Vec::new();
    for submit in std::mem::take(&mut holder.sent) {
        verdicts.push(prove(platform, n, &submit).await);
    }
    verdicts
}

#[tokio::test]
async fn a_delivery_over_ip_from_its_request_to_its_proof() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let mut holder = Holder::new(0);
    assert_eq!(ask(&platform, 0).await, [], "nothing waits");
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(false, &[counting()]))).await;
    let items = ask(&platform, 0).await;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].id.as_str(), format!("{id}-1"));
    assert!(items[0].proof_wanted && items[0].originating_address.as_deref() == Some(SOURCE));
    assert_eq!(ask(&platform, 0).await, items, "offered again, the same bytes, until it is fetched");
    assert_eq!(carry(&platform, &mut holder, &items[0]).await, [Verdict::Accepted]);
    assert_eq!(holder.effects(), 1);
    assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Ip });
    assert_eq!(ask(&platform, 0).await, []);
    // The device hands the same item over once more: the card refuses it, and that changes nothing.
    let again = carry(&platform, &mut holder, &items[0]).await;
    assert_eq!((again, holder.effects()), (vec![Verdict::Repeated], 1));
    assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Ip });
    platform.stop().await;
}

#[tokio::test]
async fn a_long_content_goes_in_packets_that_follow_one_another() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let mut holder = Holder::new(0);
    let code = format!("C4820BB8{}", "AB".repeat(3_000));
    let applet = json!({ "do": { "applet_install": { "load_file": "F0534D54440101",
        "module": "F0534D5444010101", "instance": "F0534D5444010102", "code": code } } });
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(false, &[applet, counting()]))).await;
    let mut packets = 0;
    while let [item] = &ask(&platform, 0).await[..] {
        assert_eq!(state(&platform, id).await, State::Sent);
        let verdicts = carry(&platform, &mut holder, item).await;
        assert!(verdicts.contains(&Verdict::Accepted), "{verdicts:?}");
        packets += 1;
    }
    assert!(packets > 3, "{packets}");
    assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Ip });
    assert_eq!(holder.effects(), 1);
    platform.stop().await;
}

#[tokio::test]
async fn short_messages_carry_it_and_a_copy_over_ip_changes_nothing() {
    let store = store(1, Clock::REAL.now()).await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let smsc = Smsc::start(Settings::default(), any, any, AirClock::REAL, None).await.unwrap();
    let mut air = Air::attach(smsc.air, 0).await;
    let platform = start(&store, Some(smsc.smpp), "").await;
    let mut holder = Holder::new(0);
    let all = [Bearer::Sms, Bearer::Ip];
    let id = create(&platform, wanted(0, &all, content(false, &[counting()]))).await;
    let message = air.message().await;
    // Meanwhile the device has asked too: the same counter, the same bytes.
    let [item] = &ask(&platform, 0).await[..] else { panic!("it is offered on both") };
    assert_eq!(Holder::messages(&item.packet, SOURCE).len(), 1);
    let reached = async || {
        let record = platform.deliveries.show(TENANT, id).await.unwrap();
        record.machine.milestones.all().iter().any(|(_, one)| *one == Milestone::Reached)
    };
    until(reached).await;
    holder.message(&message);
    assert_eq!(holder.effects(), 1);
    for submit in std::mem::take(&mut holder.sent) {
        air.submit(&submit).await;
    }
    until(async || !state(&platform, id).await.is_open()).await;
    assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Sms });
    let verdicts = carry(&platform, &mut holder, item).await;
    assert_eq!((verdicts, holder.effects()), (vec![Verdict::Repeated], 1), "one effect, one proof");
    platform.stop().await;
}

#[tokio::test]
async fn a_card_that_short_messages_do_not_reach_gets_the_same_packet_over_ip() {
    let store = store(1, Clock::REAL.now()).await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let smsc = Smsc::start(Settings::default(), any, any, AirClock::REAL, None).await.unwrap();
    // Nobody is attached, and the short messages live for a second.
    let platform = start(&store, Some(smsc.smpp), "[delivery]\nsms_validity_s = 1\n").await;
    let mut holder = Holder::new(0);
    let all = [Bearer::Sms, Bearer::Ip];
    let id = create(&platform, wanted(0, &all, content(false, &[counting()]))).await;
    let failed = async || platform.deliveries.sightings.of(&card(0)).sms_failed.is_some();
    until(failed).await;
    until(async || {
        let record = platform.deliveries.show(TENANT, id).await.unwrap();
        record.machine.turn.is_none_or(|(bearer, _)| bearer == Bearer::Ip)
    })
    .await;
    let [item] = &ask(&platform, 0).await[..] else { panic!("it waits") };
    assert_eq!(item.id.as_str(), format!("{id}-1"), "the same counter");
    assert_eq!(carry(&platform, &mut holder, item).await, [Verdict::Accepted]);
    assert_eq!(holder.effects(), 1);
    assert!(matches!(state(&platform, id).await, State::Proven { .. }));
    platform.stop().await;
}

#[tokio::test]
async fn a_campaign_reaches_a_card_without_coverage_once_and_no_poll_repeats_it() {
    let store = store(2, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let definition: Definition = serde_json::from_value(json!({
        "content": { "repeatable": false, "variants": { "*": [counting(), counting()] } },
        "settings": { "never_seen": "like-others" },
    }))
    .unwrap();
    let campaign = platform.campaigns.create(TENANT, "count", &definition).await.unwrap();
    assert_eq!(ask(&platform, 0).await, [], "a draft concerns nobody");
    platform.campaigns.start(TENANT, campaign.id, "test").await.unwrap();
    let mut holder = Holder::new(0);
    let [first] = &ask(&platform, 0).await[..] else { panic!("the first step waits") };
    carry(&platform, &mut holder, first).await;
    let row = store.card(card(0)).await.unwrap().unwrap();
    assert!(!row.hot.applied.has(1), "half of it");
    let [second] = &ask(&platform, 0).await[..] else { panic!("the second step waits") };
    carry(&platform, &mut holder, second).await;
    assert_eq!(holder.effects(), 2, "each step once");
    let row = store.card(card(0)).await.unwrap().unwrap();
    assert!(row.hot.applied.has(1) && row.exceptions.is_empty());
    assert_eq!(ask(&platform, 0).await, []);
    let progress = store.progress(campaign.id).await.unwrap();
    assert_eq!((progress.done_by_command, progress.failed), (1, 0));
    // What the card is known to have is not sent again.
    platform.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_with_the_same_bytes() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(false, &[counting()]))).await;
    let before = ask(&platform, 0).await;
    platform.stop().await;
    drop(platform);
    let platform = start(&store, None, "").await;
    assert_eq!(platform.deliveries.open_count(), 1);
    assert_eq!(ask(&platform, 0).await, before);
    let mut holder = Holder::new(0);
    assert_eq!(carry(&platform, &mut holder, &before[0]).await, [Verdict::Accepted]);
    assert_eq!((state(&platform, id).await, holder.effects()), (State::Proven { by: Bearer::Ip }, 1));
    platform.stop().await;
}

#[tokio::test]
async fn a_failed_command_is_refused_and_explained() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let wrong = json!({ "do": { "script": { "commands": ["00A4080C047F906FAA"] } }, "tar": "B00000" });
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(true, &[wrong, counting()]))).await;
    let mut holder = Holder::new(0);
    let [item] = &ask(&platform, 0).await[..] else { panic!("it waits") };
    carry(&platform, &mut holder, item).await;
    let State::Refused { answer } = state(&platform, id).await else { panic!("it failed") };
    assert_eq!(answer.word, Some(0x6A82));
    assert!(answer.explained().contains("not there"), "{}", answer.explained());
    assert_eq!((ask(&platform, 0).await, holder.effects()), (vec![], 0));
    platform.stop().await;
}

#[tokio::test]
async fn what_is_cancelled_is_not_offered_and_frees_the_card() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let first = create(&platform, wanted(0, &[Bearer::Ip], content(true, &[counting()]))).await;
    assert_eq!(ask(&platform, 0).await.len(), 1);
    let second = create(&platform, wanted(0, &[Bearer::Ip], content(true, &[counting()]))).await;
    let offered = ask(&platform, 0).await;
    assert_eq!(offered[0].id.as_str(), format!("{first}-1"), "one packet of a card is open at a time");
    platform.deliveries.cancel(TENANT, first).await.unwrap();
    assert_eq!(state(&platform, first).await, State::Cancelled);
    let offered = ask(&platform, 0).await;
    assert_eq!(offered[0].id.as_str(), format!("{second}-2"), "with a higher counter: the first is dead");
    let mut holder = Holder::new(0);
    carry(&platform, &mut holder, &offered[0]).await;
    assert_eq!(holder.effects(), 1);
    let open = store.open_packets(card(0)).await.unwrap();
    assert!(open.iter().all(|packet| !matches!(packet.state, PacketState::Queued)) && open.is_empty());
    assert_eq!(store.cases_of(card(0), CaseKind::Delivery, 10).await.unwrap().len(), 2);
    platform.stop().await;
}

/// The platform, and a delivery that its device has been given.
async fn offered(store_cards: u32) -> (Arc<Platform>, DeliveryId, Waiting) {
    let store = store(store_cards, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(true, &[counting()]))).await;
    let item = ask(&platform, 0).await.remove(0);
    (platform, id, item)
}
