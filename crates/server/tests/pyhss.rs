//! The connector to PyHSS, against its answers as recorded, over a real socket. `docs/registers.md` has the live steps.
#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test fails by it")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, put};
use serde_json::{Value, json};
use simtide_protocol::aka::{Outcome, Sqn, SqnArray, Vector, authenticate};
use simtide_protocol::card_file::AuthenticationAlgorithm;
use simtide_protocol::ids::{CardId, ChangeId};
use simtide_protocol::milenage::Milenage;
use simtide_server::registers::algorithm::Functions;
use simtide_server::registers::front::Pooled;
use simtide_server::registers::pool::{Pool, Stock};
use simtide_server::registers::pyhss::PyHss;
use simtide_server::registers::{PoolState, Register, RegisterError, Seen, VectorsWanted};
use tokio::net::TcpListener;

const KEY: &str = "provisioning key";

/// Plays PyHSS: rows as it returns them, and its manners.
#[derive(Default)]
struct Recorded {
    auc: Vec<Value>,
    subscribers: Vec<Value>,
    /// The next answer is this one instead: status and body; the request is carried out before, or not.
    instead: Option<(u16, &'static str, bool)>,
    requests: Vec<String>,
}

type Shared = State<Arc<Mutex<Recorded>>>;

/// What every answer begins with; `Err` is the recorded answer instead.
fn enter(
    state: &mut Recorded,
    headers: &HeaderMap,
    what: String,
    changes: bool,
) -> Result<Option<Response>, Response> {
    state.requests.push(what);
    let key = headers.get("provisioning-key").and_then(|key| key.to_str().ok());
    if changes && key != Some(KEY) {
        let body = r#"{"Result": "Unauthorized - Provisioning-Key Invalid"}"#;
        return Err((StatusCode::UNAUTHORIZED, body).into_response());
    }
    match state.instead.take() {
        Some((status, body, after)) => {
            let response = (StatusCode::from_u16(status).unwrap(), body).into_response();
            if after { Ok(Some(response)) } else { Err(response) }
        }
        None => Ok(None),
    }
}

fn created(rows: &mut Vec<Value>, id: &str, body: &[u8], rest: Value) -> (u16, String) {
    let mut row: Value = serde_json::from_slice(body).unwrap();
    if rows.iter().any(|known| known["imsi"] == row["imsi"]) {
        let reason = "A database integrity error occurred: (sqlite3.IntegrityError) UNIQUE constraint failed";
        return (400, json!({"result": "Failed", "reason": reason}).to_string());
    }
    row[id] = json!(rows.len() + 1);
    for (name, value) in rest.as_object().unwrap() {
        row[name] = value.clone();
    }
    rows.push(row.clone());
    (200, row.to_string())
}

async fn put_auc(State(state): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let mut state = state.lock().unwrap();
    let instead = match enter(&mut state, &headers, "PUT auc".to_owned(), true) {
        Ok(instead) => instead,
        Err(response) => return response,
    };
    let rest = json!({"iccid": null, "esim": false, "last_modified": "2026-08-17T10:55:48Z"});
    let (status, text) = created(&mut state.auc, "auc_id", &body, rest);
    instead.unwrap_or_else(|| (StatusCode::from_u16(status).unwrap(), text).into_response())
}

async fn put_subscriber(State(state): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let mut state = state.lock().unwrap();
    let instead = match enter(&mut state, &headers, "PUT subscriber".to_owned(), true) {
        Ok(instead) => instead,
        Err(response) => return response,
    };
    let rest = json!({"serving_mme": null, "serving_msc": null, "serving_vlr": null, "serving_sgsn": null,
        "ue_ambr_dl": 999_999, "nam": 0, "roaming_rule_list": null});
    let (status, text) = created(&mut state.subscribers, "subscriber_id", &body, rest);
    instead.unwrap_or_else(|| (StatusCode::from_u16(status).unwrap(), text).into_response())
}

async fn row_of(
    State(state): Shared,
    headers: HeaderMap,
    Path((kind, imsi)): Path<(String, String)>,
) -> Response {
    let mut state = state.lock().unwrap();
    let instead = match enter(&mut state, &headers, format!("GET {kind}"), false) {
        Ok(instead) => instead,
        Err(response) => return response,
    };
    let rows = if kind == "auc" { &state.auc } else { &state.subscribers };
    let mut found = rows.iter().find(|row| row["imsi"] == imsi.as_str()).cloned().unwrap_or(Value::Null);
    if let Some(row) = found.as_object_mut() {
        // Keys never come back.
        row.remove("ki");
        row.remove("opc");
    }
    instead.unwrap_or_else(|| found.to_string().into_response())
}

async fn change(
    State(state): Shared,
    headers: HeaderMap,
    Path((kind, id)): Path<(String, u64)>,
    body: Bytes,
) -> Response {
    let mut state = state.lock().unwrap();
    let is_delete = body.is_empty();
    let what = if is_delete { format!("DELETE {kind}") } else { format!("PATCH {kind}") };
    let instead = match enter(&mut state, &headers, what, true) {
        Ok(instead) => instead,
        Err(response) => return response,
    };
    let rows = if kind == "auc" { &mut state.auc } else { &mut state.subscribers };
    let name = if kind == "auc" { "auc_id" } else { "subscriber_id" };
    let Some(place) = rows.iter().position(|row| row[name] == id) else {
        // A ValueError that it has no words for.
        return "null".into_response();
    };
    let text = if is_delete {
        rows.remove(place);
        r#"{"Result": "OK"}"#.to_owned()
    } else {
        let fields: Value = serde_json::from_slice(&body).unwrap();
        for (name, value) in fields.as_object().unwrap() {
            rows[place][name] = value.clone();
        }
        rows[place].to_string()
    };
    instead.unwrap_or_else(|| text.into_response())
}

fn milenage(row: &Value) -> Milenage {
    let key = |name: &str| hex::decode(row[name].as_str().unwrap()).unwrap().try_into().unwrap();
    Milenage::new(&key("ki"), &key("opc"))
}

async fn vectors(
    State(state): Shared,
    headers: HeaderMap,
    Path((count, imsi)): Path<(usize, String)>,
) -> Response {
    let mut state = state.lock().unwrap();
    let instead = match enter(&mut state, &headers, "GET vectors".to_owned(), false) {
        Ok(instead) => instead,
        Err(response) => return response,
    };
    let Some(row) = state.auc.iter_mut().find(|row| row["imsi"] == imsi.as_str()) else {
        return "null".into_response();
    };
    let sqn = row["sqn"].as_u64().unwrap();
    row["sqn"] = json!(sqn + 100);
    let vector = Vector::new(&milenage(row), [sqn as u8; 16], Sqn::new(sqn), [0x80, 0]);
    let one = json!({"rand": hex::encode(vector.rand), "autn": hex::encode(vector.autn),
        "xres": hex::encode(vector.xres), "ck": hex::encode(vector.ck), "ik": hex::encode(vector.ik)});
    // The same one, as often as it was asked for.
    instead.unwrap_or_else(|| Value::Array(vec![one; count]).to_string().into_response())
}

async fn stage(directory: &tempfile::TempDir) -> (Pooled, Arc<Mutex<Recorded>>, SocketAddr) {
    let state = Arc::new(Mutex::new(Recorded::default()));
    let routes = Router::new()
        .route("/auc/", put(put_auc))
        .route("/subscriber/", put(put_subscriber))
        .route("/{kind}/imsi/{imsi}", get(row_of))
        .route("/{kind}/{id}", patch(change).delete(change))
        .route("/auc/aka/vector_count/{count}/imsi/{imsi}", get(vectors))
        .with_state(state.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let pool = Arc::new(Pool::open(&directory.path().join("pool.db")).unwrap());
    let first = "001020000000001".parse().unwrap();
    let number = Some("43660000001".parse().unwrap());
    pool.add(Stock::range(first, 3, number, AuthenticationAlgorithm::Milenage).unwrap()).await.unwrap();
    let key = zeroize::Zeroizing::new(KEY.to_owned());
    let backend = PyHss::new(&format!("http://{address}"), Some(key), None).unwrap();
    (Pooled::new(pool, Arc::new(backend)), state, address)
}

fn card() -> CardId {
    "8988211000000000011".parse().unwrap()
}

#[tokio::test]
async fn an_identity_lives_and_leaves_at_pyhss() {
    let directory = tempfile::tempdir().unwrap();
    let (register, state, _) = stage(&directory).await;
    let identity = register.reserve(ChangeId(1), card()).await.ok().unwrap();
    let imsi = identity.imsi;
    assert!(register.reserve(ChangeId(1), card()).await.ok().unwrap().k == identity.k);
    assert!(
        state.lock().unwrap().subscribers.is_empty(),
        "network elements that ask by GSUP would let it in"
    );
    assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: false }));
    for _ in 0..2 {
        register.arm(ChangeId(1), imsi).await.unwrap();
        assert_eq!(state.lock().unwrap().subscribers[0]["enabled"], true);
        assert_eq!(state.lock().unwrap().subscribers[0]["msisdn"], "43660000001");
    }
    assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: false }));

    let functions = Functions::new(identity.algorithm, &identity.k, &identity.opc).unwrap();
    let mut array = SqnArray::default();
    // Its first number is 0, which no card takes: the card's AUTS leads on.
    let first = register.vectors(imsi, VectorsWanted::plain(1)).await.ok().unwrap().remove(0);
    let Outcome::SynchronisationFailure { auts } =
        authenticate(&functions, &mut array, &first.rand, &first.autn)
    else {
        panic!("number 0 was accepted")
    };
    let mut wrong = auts;
    wrong[9] ^= 1;
    let with = |auts, count| VectorsWanted {
        resynchronisation: Some((first.rand, auts)),
        ..VectorsWanted::plain(count)
    };
    assert!(matches!(register.vectors(imsi, with(wrong, 1)).await, Err(RegisterError::Refused(_))));
    assert!(!state.lock().unwrap().requests.contains(&"PATCH auc".to_owned()), "the number has moved");
    let vectors = register.vectors(imsi, with(auts, 3)).await.ok().unwrap();
    assert_eq!(vectors.len(), 3);
    for vector in &vectors {
        let outcome = authenticate(&functions, &mut array, &vector.rand, &vector.autn);
        assert!(matches!(outcome, Outcome::Success(_)), "the same vector twice");
    }
    let prime = VectorsWanted { aka_prime: true, ..VectorsWanted::plain(1) };
    assert_ne!(register.vectors(imsi, prime).await.ok().unwrap()[0].autn[6] & 0x80, 0);

    state.lock().unwrap().subscribers[0]["serving_vlr"] = json!("vlr-1");
    assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: true }));
    for _ in 0..2 {
        register.withdraw(ChangeId(2), imsi).await.unwrap();
        assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: false }));
    }
    let told = ["PATCH subscriber", "DELETE subscriber"].map(str::to_owned);
    assert!(state.lock().unwrap().requests.windows(2).any(|two| two == told), "the MME hears of it first");
    let after = register.vectors(imsi, VectorsWanted::plain(1)).await;
    assert!(matches!(after, Err(RegisterError::Refused(_))), "PyHSS would make some");
    for _ in 0..2 {
        register.retire(ChangeId(2), imsi).await.unwrap();
        assert!(state.lock().unwrap().subscribers.is_empty() && state.lock().unwrap().auc.is_empty());
    }
    assert_eq!(register.watch(imsi).await, Ok(Seen::default()));
    assert_eq!(register.pool().await, Ok(PoolState { free: 2, reserved: 0, assigned: 0, retired: 1 }));
}

#[tokio::test]
async fn bad_answers_change_nothing_and_the_next_attempt_ends_well() {
    let directory = tempfile::tempdir().unwrap();
    let (register, state, _) = stage(&directory).await;
    let other = r#"{"auc_id": 9, "subscriber_id": 9, "imsi": "001020000000999", "enabled": true}"#;
    let failed = r#"{"result": "Failed", "reason": "An internal server error occurred"}"#;
    for (status, body, after, kind) in [
        (200, "null", true, "invalid or unknown"),
        (200, failed, true, "refused"),
        (200, failed, false, "refused"),
        (200, "<html>", false, "invalid"),
        (200, other, true, "invalid"),
        (400, failed, false, "refused"),
        (500, failed, true, "unknown"),
        (500, "", false, "unknown"),
    ] {
        // With what was written before still there, and without it.
        for forgotten in [false, true] {
            if forgotten {
                state.lock().unwrap().auc.clear();
                state.lock().unwrap().subscribers.clear();
            }
            state.lock().unwrap().instead = Some((status, body, after));
            let result = register.reserve(ChangeId(1), card()).await;
            if body == "null" && result.is_ok() {
                continue;
            }
            let error = result.err().unwrap();
            let found = match &error {
                RegisterError::Invalid(_) => "invalid",
                RegisterError::Refused(_) => "refused",
                RegisterError::Unknown(_) => "unknown",
                other => panic!("{other:?}"),
            };
            assert!(kind.contains(found), "{status} {body}: {error:?}");
            assert!(!error.to_string().contains("internal server"), "reasons may repeat keys");
        }
    }
    let identity = register.reserve(ChangeId(1), card()).await.ok().unwrap();
    register.arm(ChangeId(1), identity.imsi).await.unwrap();
    assert_eq!(register.pool().await.unwrap().assigned, 1);
    let rows = state.lock().unwrap();
    assert_eq!((rows.auc.len(), rows.subscribers.len()), (1, 1));
    assert_eq!(rows.auc[0]["ki"], hex::encode(identity.k.as_bytes()));
}

#[tokio::test]
async fn a_foreign_subscriber_and_a_wrong_provisioning_key() {
    let directory = tempfile::tempdir().unwrap();
    let (register, state, address) = stage(&directory).await;
    state
        .lock()
        .unwrap()
        .auc
        .push(json!({"auc_id": 1, "imsi": "001020000000001", "ki": "00", "misc1": "CRM"}));
    let refused = register.reserve(ChangeId(1), card()).await;
    assert!(matches!(refused.err(), Some(RegisterError::Conflict(_))));
    assert_eq!(state.lock().unwrap().auc[0]["ki"], "00");

    let other = tempfile::tempdir().unwrap();
    let pool = Arc::new(Pool::open(&other.path().join("pool.db")).unwrap());
    let first = "001020000000002".parse().unwrap();
    pool.add(Stock::range(first, 1, None, AuthenticationAlgorithm::Milenage).unwrap()).await.unwrap();
    let keyless = PyHss::new(&format!("http://{address}"), None, None).unwrap();
    let refused = Pooled::new(pool, Arc::new(keyless)).reserve(ChangeId(1), card()).await.err().unwrap();
    assert!(refused.to_string().contains("provisioning key"), "{refused}");
    for base in ["http://10.0.0.1:8080", "http://hss.example.org", "ftp://127.0.0.1", "127.0.0.1:8080", ""] {
        assert!(PyHss::new(base, None, None).is_err(), "{base}");
    }
    assert!(PyHss::new("https://hss.example.org", None, None).is_ok());
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = PyHss::new(&format!("http://{nobody}"), None, None).unwrap();
    let pool = Arc::new(Pool::open(&other.path().join("gone.db")).unwrap());
    let gone = Pooled::new(pool, Arc::new(gone)).watch("001020000000001".parse().unwrap()).await;
    assert!(matches!(gone, Err(RegisterError::Unreachable(_))));
}
