//! Campaigns of changes of operator through the real API: what may begin, what stops them, what a restart changes.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[allow(dead_code, reason = "the other tests of changes use the rest")]
#[path = "subscription/world.rs"]
mod world;

use reqwest::Method;
use serde_json::{Value, json};
use simtide_protocol::ids::Iccid;
use simtide_server::registers::Register;
use world::*;

const CONSENT: &str = "2026-01-02T03:04:05Z";

fn iccid_of(number: u32) -> Iccid {
    Iccid::with_check_digit(&format!("89001000000000{number:04}")).unwrap()
}

/// Cards of an operator beside the first one, with these numbers; without an admin code where it is said so.
async fn import(world: &World, operator: &str, numbers: std::ops::Range<u32>, code: bool) {
    let mut file = "iccid,imsi,msisdn,profile,ki,opc,kic1,kid1,psk,admin_code\n".to_owned();
    for number in numbers {
        let key = |kind: u8| format!("{kind:02X}{number:030X}");
        let code = if code { format!("{number:016X}") } else { String::new() };
        file += &format!(
            "{},00101000{number:07},4366410{number:05},standard,{},{},{},{},{},{code}\n",
            iccid_of(number),
            key(1),
            key(2),
            key(3),
            key(4),
            key(5),
        );
    }
    let request = world.http.post(format!("{}/v1/imports?plain=true&operator={operator}", world.base));
    let answer = request.bearer_auth(&world.admin).body(file).send().await.unwrap();
    let view: Value = answer.json().await.unwrap();
    until(async || {
        let (_, view) = world.ask(Method::GET, &format!("/v1/imports/{}", view["id"]), json!({})).await;
        assert_eq!((&view["refused"], view["state"] == "failed"), (&json!(0), false), "{view}");
        view["state"] == "finished"
    })
    .await;
}

fn body(audience: Value, limits: Value) -> Value {
    let content =
        json!({ "to": "OP2", "consent": { "when": CONSENT, "reference": "fleet 9" }, "limits": limits });
    json!({ "name": "to two", "content": { "change_operator": content }, "audience": audience })
}

/// A started campaign to operator two.
async fn start(world: &World, audience: Value, limits: Value) -> u64 {
    let (status, made) = world.ask(Method::POST, "/v1/campaigns", body(audience, limits)).await;
    assert_eq!((status, &made["state"]), (201, &json!("draft")), "{made}");
    let id = made["id"].as_u64().unwrap();
    assert_eq!(turn(world, id, "start").await["state"], "running");
    id
}

async fn turn(world: &World, id: u64, verb: &str) -> Value {
    let (status, answer) = world.ask(Method::POST, &format!("/v1/campaigns/{id}/{verb}"), json!({})).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn shown(world: &World, id: u64) -> Value {
    world.ask(Method::GET, &format!("/v1/campaigns/{id}"), json!({})).await.1
}

async fn counts(world: &World, id: u64, key: &str, count: u64) {
    until(async || shown(world, id).await["changes"][key] == count).await;
}

/// The open changes of all cards.
async fn open(world: &World) -> Vec<Value> {
    let (_, list) = world.ask(Method::GET, "/v1/changes?open=true", json!({})).await;
    list["changes"].as_array().unwrap().clone()
}

/// Operator 1 says no to whatever it is asked; answers how often.
async fn deny_all(world: &World) -> u64 {
    let asked = open(world).await;
    for change in &asked {
        let path = format!("/v1/changes/{}/consent", change["id"].as_str().unwrap());
        let (status, answer) = world.ask(Method::POST, &path, json!({ "granted": false })).await;
        assert_eq!(status, 202, "{answer}");
    }
    asked.len() as u64
}

async fn ask_first(world: &World) {
    let (status, answer) = world.put_operator("home", 1, json!({ "consent": "ask" })).await;
    assert!(status < 300, "{answer}");
}

#[tokio::test]
async fn failures_pause_it_a_user_goes_on_and_a_stop_cancels_what_has_not_left() {
    let world = World::new(1).await;
    ask_first(&world).await;
    import(&world, "home", 100..112, true).await;
    let limits = json!({ "per_minute_max": 60_000, "canary": 4, "failed_percent_max": 25 });
    let id = start(&world, json!("everyone"), limits).await;
    counts(&world, id, "under_way", 4).await;
    let canary = open(&world).await;
    assert_eq!(canary.len(), 4, "nobody else begins before the canary has ended");
    for change in &canary {
        assert_eq!(change["consent"]["campaign"], id);
    }
    assert_eq!(deny_all(&world).await, 4);
    until(async || shown(&world, id).await["state"] == "paused").await;
    let paused = shown(&world, id).await;
    assert_eq!(
        (&paused["changes"]["failed"], &paused["changes"]["paused_for"]),
        (&json!(4), &json!("failures"))
    );
    assert!(open(&world).await.is_empty());
    let world = world.restart().await;
    assert_eq!(shown(&world, id).await["changes"], paused["changes"]);

    assert_eq!(turn(&world, id, "resume").await["changes"]["paused_for"], Value::Null);
    counts(&world, id, "under_way", 4).await;
    let others = open(&world).await;
    let met_before = |change: &&Value| canary.iter().any(|one| one["card"] == change["card"]);
    assert_eq!(others.iter().filter(met_before).count(), 0, "no card is asked twice");
    assert_eq!(turn(&world, id, "stop").await["state"], "stopped");
    counts(&world, id, "cancelled", 4).await;
    assert!(open(&world).await.is_empty());
    let pool = world.registers[1].pool().await.unwrap();
    assert_eq!((pool.free, pool.reserved), (100, 0));
}

#[tokio::test]
async fn restarts_in_the_middle_begin_nothing_twice_and_leave_nobody_out() {
    let world = World::new(1).await;
    ask_first(&world).await;
    import(&world, "home", 100..140, true).await;
    let limits = json!({ "per_minute_max": 120, "canary": 0, "failed_percent_max": 100 });
    let id = start(&world, json!({ "filter": "operator=1 and imsi=00101..00101" }), limits).await;
    until(async || open(&world).await.len() >= 5).await;
    // What has ended is not in the way of another change: only the campaign's own memory is.
    let denied = deny_all(&world).await;
    let world = world.restart().await;
    let still = shown(&world, id).await["changes"].clone();
    assert!(still["failed"].as_u64().unwrap() >= denied && still["all_met"] == false, "{still}");
    until(async || open(&world).await.len() >= 5).await;
    let world = world.restart().await;
    until(async || shown(&world, id).await["changes"]["all_met"] == true).await;
    deny_all(&world).await;
    until(async || shown(&world, id).await["state"] == "finished").await;
    assert_eq!(shown(&world, id).await["changes"]["failed"], 41);
    let (_, list) = world.ask(Method::GET, "/v1/changes", json!({})).await;
    let all = list["changes"].as_array().unwrap();
    let cards: std::collections::BTreeSet<_> = all.iter().map(|one| one["card"].to_string()).collect();
    assert_eq!((all.len(), cards.len(), &list["next"]), (41, 41, &Value::Null));
    let of = async |campaign: u64| {
        let path = format!("/v1/changes?campaign={campaign}");
        world.ask(Method::GET, &path, json!({})).await.1["changes"].as_array().unwrap().len()
    };
    assert_eq!((of(id).await, of(id + 1).await), (41, 0));
}

#[tokio::test]
async fn without_a_line_to_any_network_it_waits_and_says_so() {
    let world = World::new(0).await;
    let id = start(&world, json!("everyone"), json!({})).await;
    let waits = async || shown(&world, id).await["changes"]["waits_for"].as_str().map(str::to_owned);
    until(async || waits().await.is_some()).await;
    let reason = waits().await.unwrap();
    assert!(reason.contains("SMPP link"), "{reason}");
    assert_eq!(shown(&world, id).await["state"], "running");
    assert_eq!(turn(&world, id, "pause").await["changes"]["waits_for"], Value::Null);
}

#[tokio::test]
async fn a_card_that_cannot_change_is_told_once_and_one_that_is_busy_is_met_again() {
    let world = World::new(1).await;
    ask_first(&world).await;
    import(&world, "home", 200..201, false).await;
    import(&world, "two", 300..301, true).await;
    let cards = [iccid_of(200), iccid_of(300)];
    let listed = json!({ "cards": cards });
    let id = start(&world, listed, json!({})).await;
    until(async || shown(&world, id).await["state"] == "finished").await;
    let end = shown(&world, id).await;
    assert_eq!((&end["changes"]["not_possible"], &end["changes"]["done"]), (&json!(1), &json!(0)), "{end}");
    let (_, shown_card) = world.ask(Method::GET, &format!("/v1/cards/{}", iccid_of(200)), json!({})).await;
    let line = &shown_card["history"][0];
    assert_eq!((&line["campaign"], &line["result"]), (&json!(id), &json!("interrupted")), "{shown_card}");
    assert!(line["detail"].as_str().unwrap().contains("admin code"), "{line}");

    // A change that somebody else has asked for is in the way.
    let (status, other) = world.request("three").await;
    assert_eq!(status, 202, "{other}");
    let id = start(&world, json!("everyone"), json!({})).await;
    counts(&world, id, "not_possible", 1).await;
    let path = format!("/v1/changes/{}/cancel", other["id"].as_str().unwrap());
    assert_eq!(world.ask(Method::POST, &path, json!({})).await.0, 202);
    // Cards that join make it look again; otherwise it does so after a while.
    import(&world, "home", 201..202, true).await;
    counts(&world, id, "under_way", 2).await;
    assert_eq!(shown(&world, id).await["changes"]["not_possible"], 1, "asked once");
    let of_campaign = open(&world).await.into_iter().filter(|one| one["consent"]["campaign"] == id).count();
    assert_eq!(of_campaign, 2);
}

#[tokio::test]
async fn what_is_no_campaign_of_changes_says_why() {
    let world = World::new(1).await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = body(json!("everyone"), json!({}));
        change(&mut body);
        body
    };
    let content = |key: &'static str, value: Value| {
        with(&move |body| body["content"]["change_operator"][key] = value.clone())
    };
    for (body, status, says) in [
        (content("to", json!("nobody")), 422, "no operator nobody"),
        (content("to", json!("")), 422, "IdMNO"),
        (content("limits", json!({ "per_minute_max": 0 })), 422, "limits.per_minute_max is 0"),
        (content("limits", json!({ "canary": 10_001 })), 422, "limits.canary"),
        (content("limits", json!({ "rate": 1 })), 400, "rate"),
        (content("consent", json!({ "when": "9999-01-01T00:00:00Z" })), 422, "future"),
        (content("consent", json!({ "when": CONSENT, "reference": "x".repeat(65) })), 422, "64 bytes"),
        (with(&|body| body["content"]["variants"] = json!({})), 400, "either"),
        (with(&|body| body["settings"] = json!({ "attempts": 2 })), 422, "change_operator.limits"),
        (with(&|body| body["audience"] = json!({ "cards": [] })), 422, "empty"),
    ] {
        let (found, answer) = world.ask(Method::POST, "/v1/campaigns", body).await;
        let detail = answer["detail"].as_str().unwrap_or_default();
        assert_eq!((found, detail.contains(says)), (status, true), "{says}: {answer}");
    }
    let (_, list) = world.ask(Method::GET, "/v1/campaigns", json!({})).await;
    assert_eq!(list["campaigns"], json!([]));
}
