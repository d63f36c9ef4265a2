//! Changes of operator from the API to the card and back, over real sockets: identities are read on the card and in the
//! registers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod crash;
mod numbers;
#[allow(dead_code, reason = "other tests play whole polls")]
#[path = "../support/polling.rs"]
mod polling;
mod polls;
mod race;
mod sides;
mod world;

use reqwest::Method;
use serde_json::{Value, json};
use simtide_protocol::ids::{EpochMs, Iccid};
use simtide_protocol::personalization::{Consent, ConsentWay, Request, Uplink};
use simtide_protocol::scp80::{Key, KeySet};
use simtide_server::entitlement::source::DeliverySource;
use simtide_server::registers::Register;
use simtide_server::registers::memory::{Fault, Verb};
use simtide_server::shell::subscription::{SIGNATURE_HEADER, signature};
use simtide_server::store::CaseKind;
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

/// What an operator is told at its callback, with a status to answer.
async fn callback(answers: Vec<u16>) -> (String, tokio::sync::mpsc::UnboundedReceiver<(String, Vec<u8>)>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/told", listener.local_addr().unwrap());
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let answers = std::sync::Arc::new(std::sync::Mutex::new(std::collections::VecDeque::from(answers)));
    let route =
        axum::routing::post(move |headers: axum::http::HeaderMap, body: axum::body::Bytes| async move {
            let signature = headers[SIGNATURE_HEADER].to_str().unwrap().to_owned();
            tell.send((signature, body.to_vec())).unwrap();
            let status = answers.lock().unwrap().pop_front().unwrap_or(200);
            axum::http::StatusCode::from_u16(status).unwrap()
        });
    let routes = axum::Router::new().route("/told", route);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, told)
}

/// The body, if the signature is right.
fn verified(secret: &[u8], (signed, body): &(String, Vec<u8>)) -> Value {
    let seconds = signed.strip_prefix("t=").unwrap().split(',').next().unwrap().parse().unwrap();
    assert_eq!(*signed, signature(secret, seconds, body));
    serde_json::from_slice(body).unwrap()
}

#[tokio::test]
async fn operator_1_is_asked_and_told_by_signed_messages_until_it_acknowledges() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    // The question is not taken at first, nor is the report.
    let (url, mut told) = callback(vec![500, 200, 503]).await;
    let secret = [0x5E; 32];
    let more = json!({ "consent": "ask", "callback": { "url": url, "secret": hex::encode(secret) } });
    let (status, shown) = world.put_operator("home", 1, more).await;
    assert_eq!(status, 200, "{shown}");
    assert!(
        shown["callback_secret_set"] == true && !shown.to_string().contains(&hex::encode(secret)),
        "{shown}"
    );
    let (_, begun) = world.request("two").await;
    let id = begun["id"].as_str().unwrap();
    for _ in 0..2 {
        let question = verified(&secret, &told.recv().await.unwrap());
        assert_eq!((&question["type"], &question["change"]), (&json!("consent"), &begun["id"]), "{question}");
        assert_eq!((&question["imsi"], &question["to"]), (&json!(first_imsi()), &json!("OP2")));
    }
    assert_eq!(world.change(id).await["state"], "requested");
    let (status, answer) =
        world.ask(Method::POST, &format!("/v1/changes/{id}/consent"), json!({ "granted": true })).await;
    assert_eq!(status, 202, "{answer}");
    phone.answers().await;
    world.reaches(id, "applied").await;
    attaches(&world, &mut phone, 1).await;
    let mut reports = Vec::new();
    while reports.len() < 2 {
        let report = verified(&secret, &told.recv().await.unwrap());
        if report["type"] == "left" {
            reports.push(report["change"].clone());
        }
    }
    assert_eq!(reports, [begun["id"].clone(), begun["id"].clone()], "repeated until it was acknowledged");
    world.reaches(id, "done").await;
    let again = json!({ "granted": true });
    assert_eq!(world.ask(Method::POST, &format!("/v1/changes/{id}/consent"), again).await.0, 409, "too late");
}

#[tokio::test]
async fn operator_1_says_no() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    assert_eq!(world.put_operator("home", 1, json!({ "consent": "ask" })).await.0, 200);
    phone.says(&wish("OP2"), 1, &keys()).await;
    let list = async || world.ask(Method::GET, "/v1/changes", json!({})).await.1["changes"].clone();
    until(async || list().await.as_array().is_some_and(|list| !list.is_empty())).await;
    let id = list().await[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/changes/{id}/consent");
    assert_eq!(world.ask(Method::POST, &path, json!({ "granted": false })).await.0, 202);
    assert_eq!(phone.is_shown().await, "The change of operator is not possible.");
    let change = world.change(&id).await;
    assert_eq!((&change["state"], &change["reason"]), (&json!("failed"), &json!("consent-denied")));
    assert_eq!(world.registers[1].pool().await.unwrap().free, 100);
}

/// A token that acts for one operator.
async fn token_of(world: &World, operator: &str, role: &str) -> String {
    let body = json!({ "name": format!("{operator}-{role}"), "role": role, "operator": operator });
    let (status, made) = world.ask(Method::POST, "/v1/tokens", body).await;
    assert_eq!(status, 201, "{made}");
    made["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn in_an_independent_service_each_operator_sees_its_cards_and_its_side() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    assert_eq!(world.put_operator("home", 1, json!({ "consent": "ask" })).await.0, 200);
    let (home, two, three) = (
        token_of(&world, "home", "operator").await,
        token_of(&world, "two", "operator").await,
        token_of(&world, "three", "operator").await,
    );
    let shown = format!("/v1/cards/{}", card());
    let get = async |token: &str, path: &str| world.ask_as(token, Method::GET, path, json!({})).await;
    let sees = async |token: &str| {
        let (status, _) = get(token, &shown).await;
        let (_, list) = get(token, "/v1/cards").await;
        assert_eq!(list["cards"].as_array().unwrap().len(), usize::from(status == 200));
        status == 200
    };
    assert!(sees(&home).await && !sees(&two).await && !sees(&three).await);
    // Only operator 2 asks for cards that come to it.
    let consent = json!({ "when": "2026-01-02T03:04:05Z", "how": "web-site", "reference": "T-7" });
    let body = json!({ "card": card(), "operator": "two", "consent": consent });
    let post =
        async |token: &str, path: &str, body: Value| world.ask_as(token, Method::POST, path, body).await;
    for token in [&home, &three] {
        assert_eq!(post(token, "/v1/changes", body.clone()).await.0, 403);
    }
    let (status, begun) = post(&two, "/v1/changes", body).await;
    assert_eq!(status, 202, "{begun}");
    assert_eq!((&begun["imsi"], &begun["consent"]["token"]), (&Value::Null, &json!("two-operator")));
    let path = format!("/v1/changes/{}", begun["id"].as_str().unwrap());
    // Consent is the other one's to give.
    let granted = json!({ "granted": true });
    assert_eq!(post(&three, &format!("{path}/consent"), granted.clone()).await.0, 404);
    assert_eq!(post(&two, &format!("{path}/consent"), granted.clone()).await.0, 403);
    assert_eq!(post(&home, &format!("{path}/consent"), granted).await.0, 202);
    phone.answers().await;
    let id = begun["id"].as_str().unwrap().to_owned();
    world.reaches(&id, "applied").await;
    let second = phone.identity();
    world.registers[1].attach(second);
    let report = json!({ "imsi": second });
    for (token, status) in [(&home, 403), (&three, 403), (&two, 200)] {
        assert_eq!(post(token, "/v1/registers/two/attached", report.clone()).await.0, status);
    }
    let foreign = json!({ "imsi": second, "card": Iccid::with_check_digit("890010000000000777").unwrap() });
    assert_eq!(post(&two, "/v1/registers/two/attached", foreign).await.0, 409);
    world.reaches(&id, "done").await;
    let (_, first_side) = get(&home, &path).await;
    let (_, second_side) = get(&two, &path).await;
    assert_eq!((&first_side["imsi"], &first_side["new_imsi"]), (&json!(first_imsi()), &Value::Null));
    assert_eq!((&second_side["imsi"], &second_side["new_imsi"]), (&Value::Null, &json!(second)));
    assert_eq!(
        (&first_side["consent"]["reference"], &second_side["consent"]["reference"]),
        (&json!(""), &json!("T-7"))
    );
    assert_eq!(get(&three, &path).await.0, 404);
    assert_eq!(get(&three, "/v1/changes").await.1["changes"], json!([]));
    assert!(!sees(&home).await && sees(&two).await);
    let (_, seen) = get(&two, &shown).await;
    assert!(!seen.to_string().contains(&first_imsi().to_string()), "{seen}");
    // The rest of the platform is not theirs.
    for path in ["/v1/campaigns", "/v1/imports", "/v1/tokens", "/v1/deliveries", "/v1/profiles"] {
        assert_eq!(get(&two, path).await.0, 403, "{path}");
    }
    let (_, operators) = get(&two, "/v1/operators").await;
    let home_shown =
        operators["operators"].as_array().unwrap().iter().find(|one| one["name"] == "home").unwrap();
    assert_eq!((&home_shown["id_mno"], &home_shown["callback_url"]), (&json!("OP1"), &Value::Null));
}

#[tokio::test]
async fn on_one_operators_own_platform_the_others_see_their_side_only() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    // The platform is home's own: its tokens see everything; two has one for its side.
    let two = token_of(&world, "two", "admin").await;
    let (status, begun) = world.request("two").await;
    assert_eq!(status, 202);
    assert_eq!(begun["imsi"], json!(first_imsi()));
    let path = format!("/v1/changes/{}", begun["id"].as_str().unwrap());
    let (_, side) = world.ask_as(&two, Method::GET, &path, json!({})).await;
    assert_eq!(side["imsi"], Value::Null);
    // An administrator of two changes two's settings, and nobody else's.
    let settings = json!({ "id_mno": "OP2", "display_name": "Two", "mcc": "001", "mnc": "02" });
    let put = async |path: &str| world.ask_as(&two, Method::PUT, path, settings.clone()).await.0;
    assert_eq!((put("/v1/operators/home").await, put("/v1/operators/new").await), (403, 403));
    assert_eq!(world.ask_as(&two, Method::PUT, "/v1/agreements/home/two", json!({})).await.0, 403);
    assert_eq!(world.ask_as(&two, Method::DELETE, "/v1/operators/home", json!({})).await.0, 403);
    assert_eq!(world.ask(Method::DELETE, "/v1/operators/two", json!({})).await.0, 409, "a change is open");
    phone.answers().await;
    world.reaches(begun["id"].as_str().unwrap(), "applied").await;
    let seen = json!({ "imsi": phone.identity() });
    world.registers[1].attach(phone.identity());
    assert_eq!(world.ask_as(&two, Method::POST, "/v1/registers/two/attached", seen).await.0, 200);
    world.reaches(begun["id"].as_str().unwrap(), "done").await;
    let card = format!("/v1/cards/{}", card());
    assert_eq!(world.ask_as(&two, Method::GET, &card, json!({})).await.0, 200, "its subscriber now");
}

#[tokio::test]
async fn a_successful_eap_aka_counts_as_the_attach_where_operator_2_says_so() {
    for counts in [false, true] {
        let world = World::new(1).await;
        let mut phone = Phone::usual(world.smscs[0].air).await;
        assert_eq!(world.put_operator("two", 2, json!({ "eap_aka_counts_as_seen": counts })).await.0, 200);
        let (_, begun) = world.request("two").await;
        let id = begun["id"].as_str().unwrap();
        phone.answers().await;
        world.reaches(id, "applied").await;
        world.api.platform.deliveries.authenticated(phone.identity()).await.unwrap();
        if counts {
            world.reaches(id, "done").await;
        } else {
            assert_eq!(world.change(id).await["state"], "applied");
        }
        assert_eq!(world.let_in(first_imsi()), usize::from(!counts));
    }
}

#[tokio::test]
async fn keys_of_identity_2_lie_nowhere_in_the_store_in_clear() {
    let world = World::new(1).await;
    let (_, begun) = world.request("two").await;
    let id = begun["id"].as_str().unwrap().to_owned();
    world.reaches(&id, "sent").await;
    let imsi: simtide_protocol::ids::Imsi =
        world.change(&id).await["new_imsi"].as_str().unwrap().parse().unwrap();
    let (k, opc) = world.registers[1].keys(imsi).unwrap();
    let change: simtide_protocol::ids::ChangeId = id.parse().unwrap();
    let row = world.store.case(CaseKind::Change, change.0).await.unwrap().unwrap();
    assert!(!row.sealed.is_empty() && row.body.len() + row.sealed.len() < 4_096, "an open change is small");
    let packets = world.store.latest_packets(card(), 1, 10).await.unwrap();
    assert!(
        packets.iter().any(|packet| packet.data.is_empty()),
        "the personalization has no data of its own"
    );
    let (_, shown) = world.ask(Method::GET, &format!("/v1/cards/{}", card()), json!({})).await;
    let texts = [
        shown.to_string(),
        world.change(&id).await.to_string(),
        String::from_utf8_lossy(&row.body).into_owned(),
    ];
    let holds = |bytes: &[u8], secret: &[u8]| bytes.windows(secret.len()).any(|part| part == secret);
    for secret in [k.as_bytes(), opc.as_bytes(), &[3; 8]] {
        assert!(!holds(&row.sealed, secret) && !packets.iter().any(|packet| holds(&packet.data, secret)));
        let (upper, lower) = (hex::encode_upper(secret), hex::encode(secret));
        assert!(!texts.iter().any(|text| text.contains(&upper) || text.contains(&lower)));
    }
}
