//! Changes of operator from the API to the card and back, over real sockets: identities are read on the card and in the
//! registers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod world;

use reqwest::Method;
use serde_json::{Value, json};
use simtide_protocol::ids::{EpochMs, Iccid};
use simtide_protocol::personalization::{Consent, ConsentWay, Request, Uplink};
use simtide_protocol::scp80::{Key, KeySet};
use simtide_server::registers::Register;
use simtide_server::registers::memory::{Fault, Verb};
use world::*;

#[tokio::test]
async fn a_card_changes_its_operator() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    let (status, begun) = world.request("two").await;
    assert_eq!(status, 202, "{begun}");
    let id = begun["id"].as_str().unwrap().to_owned();
    assert_eq!(world.request("three").await.0, 409, "one at a time");
    phone.answers().await;
    world.reaches(&id, "applied").await;
    let second = phone.identity();
    assert!(second.to_string().starts_with("00102"), "{second}");
    assert_eq!(world.let_in(first_imsi()), 1, "until identity 2 was seen");
    assert!(world.registers[1].attach(second));
    let report = json!({ "imsi": second, "card": card() });
    let (status, reported) = world.ask(Method::POST, "/v1/registers/two/attached", report).await;
    assert_eq!((status, &reported["change"]), (200, &begun["id"]), "{reported}");
    world.reaches(&id, "done").await;
    assert_eq!((world.let_in(first_imsi()), world.let_in(second)), (0, 1));
    assert!(world.registers[0].held(first_imsi()).is_none(), "deleted");
    let (_, shown) = world.ask(Method::GET, &format!("/v1/cards/{}", card()), json!({})).await;
    assert_eq!(
        (shown["imsi"].as_str(), shown["operator"].as_str()),
        (Some(&*second.to_string()), Some("two"))
    );
    let were: Vec<_> =
        shown["subscriptions"].as_array().unwrap().iter().map(|one| &one["operator"]).collect();
    assert_eq!(were, ["two", "home"], "{shown}");
    let lines = shown["history"].to_string();
    assert!(lines.contains("done") && lines.contains("requested"), "{lines}");
}

/// The card has taken identity 2 and its device attaches with it: register 2 has seen it.
async fn attaches(world: &World, phone: &mut Phone, register: usize) -> simtide_protocol::ids::Imsi {
    let imsi = phone.identity();
    assert!(world.registers[register].attach(imsi), "{imsi} is not let in");
    let name = ["home", "two", "three"][register];
    let report = json!({ "imsi": imsi, "card": card() });
    let (status, reported) = world.ask(Method::POST, &format!("/v1/registers/{name}/attached"), report).await;
    assert_eq!(status, 200, "{reported}");
    imsi
}

#[tokio::test]
async fn three_changes_among_three_operators_each_over_the_links_of_the_one_that_the_card_is_with() {
    let world = World::new(2).await;
    for (name, number, link) in [("home", 1, "one"), ("two", 2, "two"), ("three", 3, "one")] {
        let (status, answer) = world.put_operator(name, number, json!({ "smpp_links": [link] })).await;
        assert_eq!(status, 200, "{answer}");
    }
    let mut phone = Phone::usual(world.smscs[0].air).await;
    let mut held = vec![first_imsi()];
    for (to, register, next_air) in [("two", 1, 1), ("three", 2, 0), ("home", 0, 0)] {
        let (status, begun) = world.request(to).await;
        assert_eq!(status, 202, "{begun}");
        let id = begun["id"].as_str().unwrap().to_owned();
        phone.answers().await;
        world.reaches(&id, "applied").await;
        held.push(attaches(&world, &mut phone, register).await);
        world.reaches(&id, "done").await;
        for imsi in &held[..held.len() - 1] {
            assert_eq!(world.let_in(*imsi), 0, "{imsi}");
        }
        assert_eq!(world.let_in(held[held.len() - 1]), 1);
        let (_, shown) = world.ask(Method::GET, &format!("/v1/cards/{}", card()), json!({})).await;
        // From now on it is reached by its new number, through the service centre of its operator.
        let number: simtide_protocol::ids::Msisdn = shown["msisdn"].as_str().unwrap().parse().unwrap();
        phone.moves(world.smscs[next_air].air, number).await;
    }
    let (_, list) = world.ask(Method::GET, &format!("/v1/changes?card={}", card()), json!({})).await;
    let states: Vec<_> =
        list["changes"].as_array().unwrap().iter().map(|one| one["state"].as_str()).collect();
    assert_eq!(states, [Some("done"); 3]);
    let (_, shown) = world.ask(Method::GET, &format!("/v1/cards/{}", card()), json!({})).await;
    let were: Vec<_> =
        shown["subscriptions"].as_array().unwrap().iter().map(|one| one["operator"].as_str()).collect();
    assert_eq!(were, [Some("home"), Some("three"), Some("two"), Some("home")]);
}

fn wish(operator: &str) -> Uplink {
    let at = Some(EpochMs::from_seconds(1_767_000_000));
    Uplink::Request(Request {
        card: card(),
        operator: operator.parse().unwrap(),
        consent: Consent { way: ConsentWay::Menu, at },
    })
}

#[tokio::test]
async fn what_a_card_asks_for_begins_once_and_refusals_are_shown_on_its_device() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    let stranger = KeySet::new(Some(Key::new(&[9; 16]).unwrap()), Some(Key::new(&[8; 16]).unwrap()));
    // Forged: nothing moves, not even the counter.
    phone.says(&wish("OP2"), 1_000, &stranger).await;
    phone.says(&wish("NOBODY"), 5, &keys()).await;
    assert_eq!(phone.is_shown().await, "No operator has this code.");
    phone.says(&wish("OP1"), 6, &keys()).await;
    assert_eq!(phone.is_shown().await, "You are with this operator already.");
    // Used before, with whatever content.
    phone.says(&wish("OP2"), 6, &keys()).await;
    phone.says(&wish("OP2"), 3, &keys()).await;
    phone.says(&wish("OP2"), 7, &keys()).await;
    phone.answers().await;
    let (_, list) = world.ask(Method::GET, "/v1/changes", json!({})).await;
    let changes = list["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 1, "{list}");
    assert_eq!(changes[0]["consent"]["how"], "menu");
    assert_eq!(
        (&changes[0]["consent"]["uplink_counter"], &changes[0]["consent"]["token"]),
        (&json!(7), &json!(""))
    );
    assert_eq!(changes[0]["consent"]["when"], EpochMs::from_seconds(1_767_000_000).to_string());
    world.reaches(changes[0]["id"].as_str().unwrap(), "applied").await;
}

#[tokio::test]
async fn what_cannot_begin_says_why() {
    let world = World::new(1).await;
    let consent = json!({ "when": "2026-01-02T03:04:05Z", "how": "web-site" });
    let ask = async |body: Value| world.ask(Method::POST, "/v1/changes", body).await;
    let other = Iccid::with_check_digit("890010000000000777").unwrap();
    for (body, status, says) in [
        (json!({ "card": other, "operator": "two", "consent": consent }), 404, "not there"),
        (json!({ "card": card(), "operator": "nobody", "consent": consent }), 422, "IdMNO"),
        (json!({ "card": card(), "operator": "home", "consent": consent }), 422, "already"),
        (json!({ "card": card(), "operator": "two" }), 400, "consent"),
        (
            json!({ "card": card(), "operator": "two", "consent": { "when": "2026-01-02T03:04:05Z", "how": "campaign" } }),
            422,
            "web-site",
        ),
        (
            json!({ "card": card(), "operator": "two", "consent": { "when": "9000-01-02T03:04:05Z", "how": "code" } }),
            422,
            "future",
        ),
    ] {
        let (found, answer) = ask(body).await;
        assert_eq!(found, status, "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains(says), "{answer}");
    }
    assert_eq!(world.ask(Method::DELETE, "/v1/agreements/home/two", json!({})).await.0, 204);
    let (status, answer) = world.request("two").await;
    assert_eq!(status, 422);
    assert!(answer["detail"].as_str().unwrap().contains("no agreement"), "{answer}");
    let terms = json!({ "suspended": true });
    assert_eq!(world.ask(Method::PUT, "/v1/agreements/home/two", terms).await.0, 200);
    let (_, answer) = world.request("two").await;
    assert!(answer["detail"].as_str().unwrap().contains("suspended"), "{answer}");
    let (_, list) = world.ask(Method::GET, "/v1/changes", json!({})).await;
    assert_eq!(list["changes"], json!([]));
}

#[tokio::test]
async fn a_wrong_admin_code_ends_a_change_and_three_lock_the_card() {
    let world = World::new(1).await;
    let mut phone = Phone::new(world.smscs[0].air, [4; 8]).await;
    for _ in 0..3 {
        let (status, begun) = world.request("two").await;
        assert_eq!(status, 202, "{begun}");
        let id = begun["id"].as_str().unwrap();
        phone.answers().await;
        until(async || world.change(id).await["open"] == false).await;
        let change = world.change(id).await;
        assert_eq!((&change["state"], &change["reason"]), (&json!("refused"), &json!("card: wrong-code")));
    }
    let (status, answer) = world.request("two").await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("locked"), "{answer}");
    assert_eq!(phone.identity(), first_imsi());
    assert_eq!(world.let_in(first_imsi()), 1);
    let pool = world.registers[1].pool().await.unwrap();
    assert_eq!((pool.free, pool.reserved, pool.assigned), (100, 0, 0), "identity 2 went back each time");
}

#[tokio::test]
async fn a_process_that_starts_again_goes_on_wherever_it_was() {
    let mut world = World::new(1).await;
    let air = world.smscs[0].air;
    let (status, begun) = world.request("two").await;
    assert_eq!(status, 202, "{begun}");
    let id = begun["id"].as_str().unwrap().to_owned();
    world = world.restart().await;
    world.reaches(&id, "sent").await;
    world = world.restart().await;
    let mut phone = Phone::usual(air).await;
    phone.answers().await;
    world.reaches(&id, "applied").await;
    let seen = phone.identity();
    assert!(world.registers[1].attach(seen));
    // Nobody reports: the next process asks register 2 by itself.
    world = world.restart().await;
    world.reaches(&id, "done").await;
    assert_eq!((world.let_in(first_imsi()), world.let_in(seen)), (0, 1));
}

#[tokio::test]
async fn registers_that_fail_in_every_way_are_asked_again() {
    for fault in Fault::ALL {
        let world = World::new(1).await;
        let mut phone = Phone::usual(world.smscs[0].air).await;
        for verb in [Verb::Reserve, Verb::Arm, Verb::Watch] {
            world.registers[1].fail_next(verb, fault);
        }
        let (status, begun) = world.request("two").await;
        assert_eq!(status, 202, "{begun}");
        let id = begun["id"].as_str().unwrap().to_owned();
        let ended = async || {
            let change = world.change(&id).await;
            (change["state"] == "sent" || change["state"] == "failed", change)
        };
        until(async || ended().await.0).await;
        let (_, change) = ended().await;
        if change["state"] == "failed" {
            until(async || world.change(&id).await["open"] == false).await;
            assert_eq!(phone.identity(), first_imsi(), "{fault:?}");
            assert_eq!(world.let_in(first_imsi()), 1, "{fault:?}");
            continue;
        }
        phone.answers().await;
        world.reaches(&id, "applied").await;
        world.registers[1].attach(phone.identity());
        world.reaches(&id, "done").await;
        assert_eq!(world.let_in(phone.identity()), 1, "{fault:?}");
    }
}
