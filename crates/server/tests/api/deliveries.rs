//! `/v1/deliveries` against bad input: each case a clear problem, and nothing made of it.

use super::*;

const CARD: &str = "8988211000000000011";

fn update() -> Value {
    json!({ "do": { "file_update": { "path": "3F00/7F90/6F04", "data": "0102" } } })
}

/// A delivery that can be made, with these keys changed.
fn body(changes: Value) -> String {
    let mut body = json!({ "card": CARD, "steps": [update()], "repeatable": true, "bearers": ["ip"] });
    for (key, value) in changes.as_object().unwrap() {
        body[key] = value.clone();
    }
    body.to_string()
}

async fn server() -> Server {
    let server = Server::start().await;
    let import = server.import("format=csv&plain=true", CSV).await;
    assert_eq!(import["imported"], 1, "{import}");
    server
}

impl Server {
    async fn deliveries(&self) -> usize {
        let (status, list) = self.ask(&self.admin, Method::GET, "/v1/deliveries", "").await;
        assert_eq!(status, StatusCode::OK);
        list["deliveries"].as_array().unwrap().len()
    }

    async fn deliver(&self, changes: Value) -> Value {
        let (status, made) = self.ask(&self.operator, Method::POST, "/v1/deliveries", body(changes)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{made}");
        made
    }
}

#[tokio::test]
async fn what_cannot_be_delivered_is_refused_with_its_reason() {
    let server = server().await;
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(40_000));
    let script = |commands: Value, tar: &str| json!({ "steps": [{ "do": { "script": { "commands": commands } }, "tar": tar }] });
    let packet = |packet: &str, counter: Value| {
        json!({ "steps": [], "repeatable": false,
        "packets": [{ "packet": packet, "counter": counter }] })
    };
    let cases = [
        (400, "column", "{".to_owned()),
        (400, "column", format!("{{\"card\":{deep}}}")),
        (413, "body_bytes_max", body(json!({ "card": "9".repeat(150_000) }))),
        (400, "unknown field", body(json!({ "when": "9999-12-31T23:59:59Z" }))),
        (400, "card: ", body(json!({ "card": "8988211000000000012" }))),
        (400, "card: ", body(json!({ "card": "898821100000000001" }))),
        (400, "card: ", body(json!({ "card": "" }))),
        (404, "the card", body(json!({ "card": "8988211000000000029" }))),
        (422, "poll, sms and ip", body(json!({ "bearers": [] }))),
        (400, "pigeon", body(json!({ "bearers": ["ip", "pigeon"] }))),
        (422, "SMPP link", body(json!({ "bearers": ["sms"] }))),
        (400, "soonish", body(json!({ "urgency": "soonish" }))),
        (422, "validity_s is 0", body(json!({ "validity_s": 0 }))),
        (422, "validity_s is 4294967295", body(json!({ "validity_s": u32::MAX }))),
        (400, "-1", body(json!({ "validity_s": -1 }))),
        (422, "nothing for cards", body(json!({ "steps": [] }))),
        (400, "hex", body(script(json!(["00A4080C047F906F0"]), "B00000"))),
        (400, "TAR", body(script(json!(["00A4080C047F906F04"]), "B000"))),
        (422, "", body(script(json!([]), "B00000"))),
        (422, "C-APDU", body(script(json!(["00A4"]), "B00000"))),
        (422, "steps", body(json!({ "packets": [{ "packet": "00", "counter": 1 }] }))),
        (400, "hex", body(packet("0", json!(1)))),
        (400, "-1", body(packet("00", json!(-1)))),
        (422, "packet 1 is no command packet", body(packet("0015", json!(1)))),
        (422, "packet 1 has 5000 bytes", body(packet(&"00".repeat(5_000), json!(1)))),
    ];
    let mut wrong = Vec::new();
    for (status, said, body) in cases {
        let shown: String = body.chars().take(200).collect();
        let (found, detail) = server.refused(Method::POST, "/v1/deliveries", body).await;
        if found != status || !detail.contains(said) {
            wrong.push(format!("{shown}: {found} in place of {status}: {detail}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(server.deliveries().await, 0, "nothing was made of it");
}

#[tokio::test]
async fn only_who_may_sees_and_makes_deliveries() {
    let server = server().await;
    let made = server.deliver(json!({})).await;
    let path = format!("/v1/deliveries/{}", made["id"].as_str().unwrap());
    let cancel = format!("{path}/cancel");
    for token in ["", "simtide_00", server.expired.as_str()] {
        for (method, path) in [(Method::GET, "/v1/deliveries"), (Method::GET, &path), (Method::POST, &cancel)]
        {
            assert_eq!(server.ask(token, method, path, "").await.0, StatusCode::UNAUTHORIZED);
        }
    }
    for (path, body) in [("/v1/deliveries", body(json!({}))), (&cancel, String::new())] {
        assert_eq!(server.ask(&server.viewer, Method::POST, path, body).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(server.ask(&server.viewer, Method::GET, &path, "").await.0, StatusCode::OK);
    // Another tenant's administrator: there is no such card, and no such delivery.
    let (status, _) = server.ask(&server.foreign, Method::POST, "/v1/deliveries", body(json!({}))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    for (method, path) in [(Method::GET, &path), (Method::POST, &cancel)] {
        assert_eq!(server.ask(&server.foreign, method, path, "").await.0, StatusCode::NOT_FOUND);
    }
    let (_, list) = server.ask(&server.foreign, Method::GET, "/v1/deliveries", "").await;
    assert_eq!(list["deliveries"], json!([]));
    let (_, shown) = server.ask(&server.viewer, Method::GET, &path, "").await;
    assert_eq!(shown["state"], "requested", "nobody has ended it");
}

#[tokio::test]
async fn paths_queries_and_repetitions() {
    let server = server().await;
    for (status, path) in [
        (400, "/v1/deliveries/nonsense"),
        (400, "/v1/deliveries/00f3a1c24b5d6e7"),
        (400, "/v1/deliveries/00f3a1c24b5d6e700"),
        (404, "/v1/deliveries/00f3a1c24b5d6e70"),
        (400, "/v1/deliveries?card=8988211000000000012"),
        (400, "/v1/deliveries?after=1"),
        (400, "/v1/deliveries?after=70000-00f3a1c24b5d6e70"),
        (400, "/v1/deliveries?open=perhaps"),
    ] {
        let (found, detail) = server.refused(Method::GET, path, "").await;
        assert_eq!(found, status, "{path}: {detail}");
    }
    let key = Some("one");
    let (_, first) =
        server.ask_with(&server.operator, Method::POST, "/v1/deliveries", body(json!({})), key).await;
    let (status, again) =
        server.ask_with(&server.operator, Method::POST, "/v1/deliveries", body(json!({})), key).await;
    assert_eq!((status, &again), (StatusCode::ACCEPTED, &first));
    let other = body(json!({ "urgency": "high" }));
    let (status, _) = server.ask_with(&server.operator, Method::POST, "/v1/deliveries", other, key).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(server.deliveries().await, 1);
    let cancel = format!("/v1/deliveries/{}/cancel", first["id"].as_str().unwrap());
    for _ in 0..2 {
        let (status, ended) = server.ask(&server.operator, Method::POST, &cancel, "").await;
        assert_eq!((status, &ended["state"]), (StatusCode::OK, &json!("cancelled")));
    }
}

#[tokio::test]
async fn a_card_has_so_many_open_deliveries_and_no_more() {
    use simtide_server::shell::delivery::create::OPEN_PER_CARD_MAX;
    let server = server().await;
    for _ in 0..OPEN_PER_CARD_MAX {
        server.deliver(json!({})).await;
    }
    let (status, detail) = server.refused(Method::POST, "/v1/deliveries", body(json!({}))).await;
    assert_eq!(status, 409, "{detail}");
    assert!(detail.contains("cancel some"), "{detail}");
    let (_, list) =
        server.ask(&server.viewer, Method::GET, &format!("/v1/deliveries?card={CARD}&open=true"), "").await;
    let ids: std::collections::BTreeSet<_> =
        list["deliveries"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), OPEN_PER_CARD_MAX);
    let one = ids.first().unwrap();
    let (status, _) =
        server.ask(&server.operator, Method::POST, &format!("/v1/deliveries/{one}/cancel"), "").await;
    assert_eq!(status, StatusCode::OK);
    server.deliver(json!({})).await;
}
