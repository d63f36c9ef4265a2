//! Changes of operator from the API to the card and back, over real sockets: identities are read on the card and in the
//! registers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod world;

use reqwest::Method;
use serde_json::json;
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
