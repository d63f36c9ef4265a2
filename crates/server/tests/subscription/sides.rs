//! What each operator sees and may do, and what people have to look at.

use simtide_server::shell::subscription::ListQuery;

use super::*;

/// More cards as the vendor delivers them: number n of `count` has the identity `prefix` with n.
async fn import(world: &World, operator: &str, prefix: &str, count: usize) -> Vec<Iccid> {
    let iccids: Vec<Iccid> =
        (0..count).map(|n| Iccid::with_check_digit(&format!("8900100000001{n:05}")).unwrap()).collect();
    let mut file = "iccid,imsi,profile,ki,opc,kic1,kid1,admin_code\n".to_owned();
    for (n, iccid) in iccids.iter().enumerate() {
        let keys = [0x30, 0x40, 0x50, 0x60].map(|kind| hex::encode([kind + n as u8; 16])).join(",");
        let admin_code = hex::encode([0x70 + n as u8; 8]);
        file += &format!("{iccid},{prefix}{n:02},standard,{keys},{admin_code}\n");
    }
    let url = format!("{}/v1/imports?plain=true&operator={operator}", world.base);
    let answer = world.http.post(url).bearer_auth(&world.admin).body(file).send().await.unwrap();
    let view: Value = answer.json().await.unwrap();
    until(async || {
        let (_, view) = world.ask(Method::GET, &format!("/v1/imports/{}", view["id"]), json!({})).await;
        assert_eq!((&view["refused"], view["state"] == "failed"), (&json!(0), false), "{view}");
        view["state"] == "finished"
    })
    .await;
    iccids
}

async fn begin(world: &World, card: Iccid, to: &str) -> Value {
    let consent = json!({ "when": "2026-01-02T03:04:05Z", "how": "web-site" });
    let body = json!({ "card": card, "operator": to, "consent": consent });
    let (status, begun) = world.ask(Method::POST, "/v1/changes", body).await;
    assert_eq!(status, 202, "{begun}");
    begun
}

async fn with_alarm(world: &World) -> Vec<Value> {
    let (status, list) = world.ask(Method::GET, "/v1/changes?alarm=true", json!({})).await;
    assert_eq!(status, 200, "{list}");
    list["changes"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_card_that_refuses_its_admin_code_is_an_alarm() {
    let world = World::new(1).await;
    let mut phone = Phone::new(world.smscs[0].air, [9; 8]).await;
    assert_eq!(with_alarm(&world).await, [] as [Value; 0]);
    let (_, begun) = world.request("two").await;
    phone.answers().await;
    world.reaches(begun["id"].as_str().unwrap(), "refused").await;
    let [change] = &with_alarm(&world).await[..] else { panic!("one change") };
    assert_eq!((&change["id"], &change["alarms"][0]["alarm"]), (&begun["id"], &json!("wrong-admin-code")));
    assert!(change["alarms"][0]["advice"].as_str().unwrap().contains("vendor's file"), "{change}");
    let (_, without) = world.ask(Method::GET, "/v1/changes?alarm=false", json!({})).await;
    assert_eq!(without["changes"], json!([]));
    let metrics = world.http.get(format!("{}/metrics", world.base)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("simtide_change_alarms_total{alarm=\"wrong-admin-code\"} 1\n"), "{metrics}");
    assert!(metrics.contains("simtide_changes_open{state=\"sent\"} 0\n"), "{metrics}");
    // Its message has left over the link, in more than one part, and the proof has come in.
    let value = async |name: &str| {
        let metrics =
            world.http.get(format!("{}/metrics", world.base)).send().await.unwrap().text().await.unwrap();
        let start = format!("{name}{{link=\"one\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse::<u64>().ok())
    };
    until(async || value("simtide_smpp_messages_total").await == Some(1)).await;
    assert!(value("simtide_smpp_submitted_total").await > Some(1));
    assert!(value("simtide_smpp_binds").await > Some(0));
    assert_eq!(value("simtide_smpp_pending").await, Some(0));
}

/// One IMSI on two cards: nothing is sent, the identity goes back, and people are told which card has it.
#[tokio::test]
async fn an_identity_that_another_card_has_is_an_alarm() {
    let world = World::new(1).await;
    let taken = import(&world, "two", "0010200000000", 3).await;
    let (_, begun) = world.request("two").await;
    let id = begun["id"].as_str().unwrap().to_owned();
    world.reaches(&id, "failed").await;
    let change = world.change(&id).await;
    assert_eq!(change["reason"], "identity-taken", "{change}");
    assert_eq!(change["alarms"][0]["alarm"], "identity-taken");
    let other = change["alarms"][0]["other_card"].as_str().unwrap().to_owned();
    assert!(taken.iter().any(|iccid| iccid.to_string() == other), "{other}");
    // Whose card it is, is not told to operators.
    let home = token_of(&world, "home", "viewer").await;
    let (_, seen) = world.ask_as(&home, Method::GET, &format!("/v1/changes/{id}"), json!({})).await;
    assert_eq!(
        (&seen["alarms"][0]["alarm"], &seen["alarms"][0]["other_card"]),
        (&json!("identity-taken"), &Value::Null)
    );
    assert_eq!(world.let_in(first_imsi()), 1);
}

#[tokio::test]
async fn pages_are_full_of_what_the_caller_may_see() {
    let world = World::new(1).await;
    let cards = import(&world, "home", "0010100000007", 7).await;
    for (place, card) in cards.iter().enumerate() {
        begin(&world, *card, if place % 2 == 0 { "two" } else { "three" }).await;
    }
    let changes = &world.api.platform.changes;
    let two = world
        .api
        .platform
        .core
        .catalogue()
        .operator_called(simtide_server::store::TenantId(1), "two")
        .unwrap()
        .id
        .0;
    let (mut after, mut pages, mut seen) = (None, Vec::new(), std::collections::BTreeSet::new());
    loop {
        let query = ListQuery { open: Some(true), after, rows_max: 2, ..ListQuery::default() };
        let (page, next) = changes.list(query, |kept| kept.change.to.operator == two).await.unwrap();
        pages.push(page.len());
        seen.extend(page.iter().map(|kept| kept.change.card));
        after = next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(pages.iter().take(2).collect::<Vec<_>>(), [&2, &2], "{pages:?}");
    let token = token_of(&world, "home", "viewer").await;
    let (_, list) = world.ask_as(&token, Method::GET, "/v1/cards?limit=8", json!({})).await;
    assert_eq!(list["cards"].as_array().unwrap().len(), 8);
    let (_, list) = world.ask_as(&token, Method::GET, "/v1/cards?operator=two", json!({})).await;
    assert_eq!(list["cards"], json!([]));
}

#[tokio::test]
async fn an_operator_changes_its_own_manners_and_not_what_the_service_gave_it() {
    let world = World::new(1).await;
    let two = token_of(&world, "two", "admin").await;
    let usual = json!({ "id_mno": "OP2", "display_name": "Two", "mcc": "001", "mnc": "02" });
    let put = async |more: Value| {
        let mut body = usual.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.ask_as(&two, Method::PUT, "/v1/operators/two", body).await
    };
    let (status, shown) =
        put(json!({ "confirm_by_user": true, "bearer": "poll", "service_number": "4670123" })).await;
    assert_eq!(status, 200, "{shown}");
    assert_eq!((&shown["bearer"], &shown["service_number"]), (&json!("poll"), &json!("4670123")));
    let own = json!({ "kind": "own", "database": "/var/lib/one/pool.db" });
    for foreign in [
        json!({ "mnc": "01" }),
        json!({ "id_mno": "OP9" }),
        json!({ "register": own }),
        json!({ "smpp_links": ["one"] }),
        json!({ "imsi_ranges": [{ "first": "001020000000001", "last": "001020000000009" }] }),
    ] {
        let (status, problem) = put(foreign).await;
        assert_eq!(status, 403, "{problem}");
    }
    // Of the others it sees name and codes.
    let (_, operators) = world.ask_as(&two, Method::GET, "/v1/operators", json!({})).await;
    let shown = |name: &str| {
        operators["operators"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
    };
    assert_eq!(world.put_operator("home", 1, json!({ "guarded_swap": true, "consent": "ask" })).await.0, 200);
    assert_eq!(
        (&shown("home")["id_mno"], &shown("home")["consent"]),
        (&json!("OP1"), &json!("inform-after"))
    );
    assert_eq!(
        (&shown("home")["guarded_swap"], &shown("two")["confirm_by_user"]),
        (&json!(false), &json!(true))
    );
    // No path that begins like an open one.
    for path in ["/v1/cardsets", "/v1/changes-of-others"] {
        assert_eq!(world.ask_as(&two, Method::GET, path, json!({})).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn what_was_sent_before_a_card_came_is_not_shown_to_its_new_operator() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    let (home, two) = (token_of(&world, "home", "operator").await, token_of(&world, "two", "operator").await);
    let three = token_of(&world, "three", "operator").await;
    let commands = format!("/v1/cards/{}/commands", card());
    let status = json!({ "tar": "BFFF20", "data": "80CADF6000" });
    assert_eq!(world.ask_as(&two, Method::POST, &commands, status.clone()).await.0, 404, "not its card");
    let (code, sent) = world.ask_as(&home, Method::POST, &commands, status).await;
    assert_eq!(code, 202, "{sent}");
    let command = format!("{commands}/{}", sent["id"].as_str().unwrap());
    phone.answers().await;
    until(async || world.ask_as(&home, Method::GET, &command, json!({})).await.1["state"] == "proven").await;
    let (_, begun) = world.request("two").await;
    // Who may not see it hears that something is open, and not what.
    let consent = json!({ "when": "2026-01-02T03:04:05Z", "how": "web-site" });
    let wish = json!({ "card": card(), "operator": "three", "consent": consent });
    let (code, problem) = world.ask_as(&three, Method::POST, "/v1/changes", wish).await;
    assert_eq!(code, 409);
    assert!(!problem.to_string().contains(begun["id"].as_str().unwrap()), "{problem}");
    let id = begun["id"].as_str().unwrap().to_owned();
    // Operator 1 has its consent, and does not cancel what another one has asked for.
    let cancel = format!("/v1/changes/{id}/cancel");
    assert_eq!(world.ask_as(&home, Method::POST, &cancel, json!({})).await.0, 403);
    phone.answers().await;
    world.reaches(&id, "applied").await;
    let second = phone.identity();
    world.registers[1].attach(second);
    // A register that is not the one of the change moves nothing, even where it claims the identity.
    assert_eq!(world.put_operator("three", 3, json!({ "mnc": "02" })).await.0, 200);
    let report = json!({ "imsi": second });
    let (code, reported) =
        world.ask_as(&three, Method::POST, "/v1/registers/three/attached", report.clone()).await;
    assert_eq!((code, &reported["change"]), (200, &Value::Null), "{reported}");
    assert_eq!(world.ask_as(&two, Method::POST, "/v1/registers/two/attached", report).await.0, 200);
    world.reaches(&id, "done").await;
    for (token, code) in [(&home, 404), (&two, 404)] {
        assert_eq!(world.ask_as(token, Method::GET, &command, json!({})).await.0, code);
    }
    let (_, shown) = world.ask(Method::GET, &command, json!({})).await;
    assert_eq!(shown["state"], "proven", "the service sees it");
}

#[tokio::test]
async fn idempotency_keys_of_operators_are_their_own() {
    let world = World::new(1).await;
    let cards = import(&world, "home", "0010100000007", 2).await;
    let (two, three) =
        (token_of(&world, "two", "operator").await, token_of(&world, "three", "operator").await);
    let ask = async |token: &str, to: &str, card: Iccid| {
        let consent = json!({ "when": "2026-01-02T03:04:05Z", "how": "web-site" });
        let body = json!({ "card": card, "operator": to, "consent": consent });
        let request = world.http.post(format!("{}/v1/changes", world.base)).bearer_auth(token);
        let answer = request.header("Idempotency-Key", "1").json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (status, first) = ask(&two, "two", cards[0]).await;
    assert_eq!(status, 202, "{first}");
    assert_eq!(ask(&two, "two", cards[0]).await.1["id"], first["id"], "the first answer again");
    let (status, other) = ask(&three, "three", cards[1]).await;
    assert_eq!(status, 202, "{other}");
    assert_eq!(ask(&three, "two", cards[0]).await.0, 422, "another request with its own key");
}
