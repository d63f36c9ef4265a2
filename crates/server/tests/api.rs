//! The API against bad input: each case a clear problem, nothing lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "api/deliveries.rs"]
mod deliveries;

use std::sync::Arc;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use simtide_protocol::ids::EpochMs;
use simtide_server::api::imports::Imports;
use simtide_server::api::tokens::{Role, Tokens};
use simtide_server::api::{self, Api};
use simtide_server::config::Config;
use simtide_server::metrics::Metrics;
use simtide_server::shell::Platform;
use simtide_server::shell::keyring::VaultKeyring;
use simtide_server::store::TenantId;
use simtide_server::store::model::ModelStore;
use simtide_server::vault::{AlarmLimits, KeyFile, Vault, VaultSettings};

struct Server {
    base: String,
    http: Client,
    admin: String,
    viewer: String,
    operator: String,
    foreign: String,
    expired: String,
    api: Arc<Api>,
    _folder: tempfile::TempDir,
}

const CSV: &str = "iccid,imsi,msisdn,profile,kic1,kid1,psk,tags\n\
    8988211000000000011,001010000000001,436641000001,standard,00112233445566778899AABBCCDDEE01,\
    00112233445566778899AABBCCDDEE02,00112233445566778899AABBCCDDEE03,lab\n";

impl Server {
    async fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "[data]\nfolder = {:?}\n[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nbody_bytes_max = 100000\n\
             import_bytes_max = 200000\n",
            folder.path()
        );
        let config = Config::parse(&config).unwrap();
        let key = KeyFile::open_or_make(&config.key_file()).unwrap();
        let settings =
            VaultSettings { keystore: folder.path().join("keystore.json"), limits: AlarmLimits::default() };
        let vault = Arc::new(Vault::open(&key, &settings).unwrap());
        let keyring = Box::new(VaultKeyring::new(vault.clone()).unwrap());
        let store = Arc::new(ModelStore::new(4, 2).unwrap());
        let platform = Arc::new(Platform::start(config, store, keyring, None).await.unwrap());
        let (tokens, file) = Tokens::open(folder.path()).unwrap();
        let admin = std::fs::read_to_string(file.unwrap()).unwrap().trim().to_owned();
        let token =
            |name, tenant, role, expires| tokens.create(name, TenantId(tenant), role, expires).unwrap();
        let viewer = token("viewer", 1, Role::Viewer, None);
        let operator = token("operator", 1, Role::Operator, None);
        let foreign = token("foreign", 2, Role::Admin, None);
        let expired = token("expired", 1, Role::Admin, Some(EpochMs(1)));
        let metrics = Metrics::new(platform.clone());
        let api = Arc::new(Api { platform, tokens, metrics, vault, imports: Imports::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let routes = api::routes(api.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let http = Client::new();
        Server { base, http, admin, viewer, operator, foreign, expired, api, _folder: folder }
    }

    async fn ask(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> (StatusCode, Value) {
        self.ask_with(token, method, path, body, None).await
    }

    async fn ask_with(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: impl Into<Vec<u8>>,
        key: Option<&str>,
    ) -> (StatusCode, Value) {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(token);
        let request = key.into_iter().fold(request, |request, key| request.header("Idempotency-Key", key));
        let answer = request.body(body.into()).send().await.unwrap();
        let status = answer.status();
        let problem = answer.headers().get("content-type").cloned();
        let value: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default();
        if status.is_client_error() || status.is_server_error() {
            assert_eq!(problem.unwrap(), "application/problem+json", "{path}: {value}");
            assert!(value["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{value}");
            assert_eq!(value["status"], status.as_u16());
        }
        (status, value)
    }

    /// Status and detail of a request that is to be refused.
    async fn refused(&self, method: Method, path: &str, body: impl Into<Vec<u8>>) -> (u16, String) {
        let (status, value) = self.ask(&self.admin, method, path, body).await;
        (status.as_u16(), value["detail"].as_str().unwrap_or_default().to_owned())
    }

    async fn import(&self, query: &str, file: &str) -> Value {
        let path = format!("/v1/imports?{query}");
        let (status, view) = self.ask(&self.operator, Method::POST, &path, file).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{view}");
        loop {
            let path = format!("/v1/imports/{}", view["id"]);
            let (_, view) = self.ask(&self.operator, Method::GET, &path, "").await;
            if view["state"] == "finished" || view["state"] == "failed" {
                return view;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn campaign() -> Value {
    json!({ "name": "update", "content": { "repeatable": true, "variants": { "*": [
        { "do": { "file_update": { "path": "3F00/7F90/6F04", "data": "0102" } } } ] } } })
}

#[tokio::test]
async fn tokens_missing_unknown_expired_foreign_and_too_weak() {
    let server = Server::start().await;
    for token in ["", "simtide_00", server.expired.as_str()] {
        let (status, _) = server.ask(token, Method::GET, "/v1/cards", "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let body = campaign().to_string();
    let (status, _) = server.ask(&server.viewer, Method::POST, "/v1/campaigns", body.clone()).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = server.ask(&server.operator, Method::GET, "/v1/tokens", "").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, made) = server.ask(&server.operator, Method::POST, "/v1/campaigns", body).await;
    assert_eq!(status, StatusCode::CREATED);
    server.import("plain=true", CSV).await;
    for path in [format!("/v1/campaigns/{}", made["id"]), "/v1/cards/8988211000000000011".to_owned()] {
        assert_eq!(server.ask(&server.viewer, Method::GET, &path, "").await.0, StatusCode::OK);
        assert_eq!(server.ask(&server.foreign, Method::GET, &path, "").await.0, StatusCode::NOT_FOUND);
    }
    let (_, cards) = server.ask(&server.foreign, Method::GET, "/v1/cards", "").await;
    assert_eq!(cards["cards"], json!([]));
}

#[tokio::test]
async fn made_tokens_work_until_they_are_revoked() {
    let server = Server::start().await;
    let body = json!({ "name": "ci", "role": "viewer" }).to_string();
    let (status, made) = server.ask(&server.admin, Method::POST, "/v1/tokens", body.clone()).await;
    assert_eq!(status, StatusCode::CREATED);
    let token = made["token"].as_str().unwrap();
    assert_eq!(server.ask(token, Method::GET, "/v1/cards", "").await.0, StatusCode::OK);
    assert_eq!(server.refused(Method::POST, "/v1/tokens", body).await.0, 409);
    let (status, _) = server.ask(&server.admin, Method::DELETE, "/v1/tokens/ci", "").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(server.ask(token, Method::GET, "/v1/cards", "").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_with_its_reason() {
    let server = Server::start().await;
    server.import("plain=true", CSV).await;
    let card = "/v1/cards/8988211000000000011";
    let deep = format!("{{\"name\":\"x\",\"content\":{}{}}}", "[".repeat(40_000), "]".repeat(40_000));
    let mut many = campaign();
    many["audience"] = json!({ "cards": [] });
    let mut odd = campaign();
    odd["content"]["variants"]["*"][0]["do"]["file_update"]["data"] = json!("012");
    let mut nothing = campaign();
    nothing["content"]["variants"] = json!({});
    let mut settings = campaign();
    settings["settings"] = json!({ "attempts": 99 });
    let mut unknown = campaign();
    unknown["settings"] = json!({ "atempts": 3 });
    let post = |path: &str, body: String| (Method::POST, path.to_owned(), body);
    let get = |path: &str| (Method::GET, path.to_owned(), String::new());
    let cases = [
        (get("/v1/cards/8988211000000000012"), 400, "mistyped"),
        (get("/v1/cards/898821100000000"), 400, "digits"),
        (get("/v1/cards/8988211000000000029"), 404, "not there"),
        (get("/v1/cards?limit=0"), 400, "1 to 1000"),
        (get("/v1/cards?after=9999:1"), 400, "next"),
        (get("/v1/cards?next_poll_before=10000-01-01"), 400, "9999"),
        (get("/v1/cards?state=lost"), 400, "active"),
        (get("/v1/cards?colour=red"), 400, "colour"),
        (get("/v1/campaigns/x"), 400, "campaign"),
        (get("/v1/campaigns/7"), 404, "not there"),
        (get("/v1/nothing"), 404, "openapi"),
        ((Method::PUT, "/v1/cards".to_owned(), String::new()), 405, "openapi"),
        (post("/v1/campaigns", deep), 400, "recursion"),
        (post("/v1/campaigns", "x".repeat(200_000)), 413, "body_bytes_max"),
        (post("/v1/campaigns", "{".to_owned()), 400, "EOF"),
        (post("/v1/campaigns", odd.to_string()), 400, "even number"),
        (post("/v1/campaigns", nothing.to_string()), 422, "step"),
        (post("/v1/campaigns", many.to_string()), 422, "card"),
        (post("/v1/campaigns", settings.to_string()), 422, "1 to 16"),
        (post("/v1/campaigns", unknown.to_string()), 400, "atempts"),
        (post("/v1/campaigns/7/start", String::new()), 404, "not there"),
        (post(&format!("{card}/commands"), json!({ "tar": "B000", "data": "00" }).to_string()), 400, "TAR"),
        (post(&format!("{card}/commands"), json!({ "tar": "B00000", "data": "0" }).to_string()), 400, "even"),
        (post(&format!("{card}/commands"), json!({ "tar": "B00000" }).to_string()), 400, "apdus"),
        (
            post(&format!("{card}/commands"), json!({ "tar": "B00000", "data": "00" }).to_string()),
            503,
            "smpp.links",
        ),
        (get(&format!("{card}/commands/1-x")), 400, "1-42"),
        (get(&format!("{card}/commands/1-42")), 404, "not there"),
        (post(&format!("{card}/commands/1-x/abandon"), String::new()), 400, "1-42"),
        (post(&format!("{card}/commands/1-42/abandon"), String::new()), 404, "not there"),
        (post("/v1/imports?format=xls", String::new()), 400, "csv"),
        (post("/v1/imports?operator=nobody", String::new()), 422, "operator"),
        (post("/v1/imports", "x".repeat(300_000)), 413, "import_bytes_max"),
        (post("/v1/profiles", "name = 1".to_owned()), 422, "profile"),
    ];
    for ((method, path, body), status, says) in cases {
        let (found, detail) = server.refused(method, &path, body).await;
        assert_eq!(found, status, "{path}: {detail}");
        assert!(detail.contains(says), "{path}: {detail}");
    }
    assert_eq!(server.ask(&server.viewer, Method::GET, card, "").await.0, StatusCode::OK, "nothing lost");
    let left = std::fs::read_dir(&server.api.platform.core.config.data.folder).unwrap();
    let uploads = left.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("import-"))
    });
    assert_eq!(uploads.count(), 0, "no upload is left behind");
}

#[tokio::test]
async fn verbs_follow_the_state_and_may_be_repeated() {
    let server = Server::start().await;
    server.import("plain=true", CSV).await;
    // Somebody it waits for: without a link nobody can be called in, and it does not finish by itself.
    let mut body = campaign();
    body["settings"] = json!({ "never_seen": "like-others" });
    let (_, made) = server.ask(&server.operator, Method::POST, "/v1/campaigns", body.to_string()).await;
    let path = format!("/v1/campaigns/{}", made["id"]);
    let turn = async |verb: &str| {
        let (status, value) = server.ask(&server.operator, Method::POST, &format!("{path}/{verb}"), "").await;
        (status.as_u16(), value["state"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(turn("pause").await.0, 409);
    assert_eq!(turn("resume").await.0, 409);
    assert_eq!(turn("start").await, (200, "running".to_owned()));
    assert_eq!(turn("start").await, (200, "running".to_owned()), "repeated");
    assert_eq!(turn("pause").await, (200, "paused".to_owned()));
    assert_eq!(turn("start").await.0, 409);
    assert_eq!(turn("resume").await, (200, "running".to_owned()));
    assert_eq!(turn("stop").await, (200, "stopped".to_owned()));
    assert_eq!(turn("stop").await, (200, "stopped".to_owned()));
    assert_eq!(turn("resume").await.0, 409);
    assert_eq!(turn("fly").await.0, 404);
}

#[tokio::test]
async fn an_idempotency_key_answers_once_and_refuses_another_body() {
    let server = Server::start().await;
    let body = campaign().to_string();
    let ask = async |body: String, key: &str| {
        server.ask_with(&server.operator, Method::POST, "/v1/campaigns", body, Some(key)).await
    };
    let (status, first) = ask(body.clone(), "key-1").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(ask(body.clone(), "key-1").await, (StatusCode::CREATED, first.clone()));
    assert_ne!(ask(body.clone(), "key-2").await.1["id"], first["id"]);
    assert_eq!(
        ask(body.replace("\"name\":\"update\"", "\"name\":\"other\""), "key-1").await.0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_eq!(ask(body, &"k".repeat(300)).await.0, StatusCode::BAD_REQUEST);
    let (_, list) = server.ask(&server.viewer, Method::GET, "/v1/campaigns", "").await;
    assert_eq!(list["campaigns"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn imports_report_what_was_refused_and_keep_keys_out_of_answers() {
    let server = Server::start().await;
    let plain = server.import("", CSV).await;
    assert_eq!((plain["state"].as_str(), plain["imported"].as_u64()), (Some("failed"), Some(0)), "{plain}");
    let good = server.import("plain=true&name=first", CSV).await;
    assert_eq!(good["imported"], 1, "{good}");
    let again = server.import("plain=true", CSV).await;
    assert_eq!((again["imported"].as_u64(), again["unchanged"].as_u64()), (Some(0), Some(1)));
    let other = CSV.replace("8988211000000000011", "8988211000000000029");
    let refused = server.import("plain=true", &other).await;
    assert_eq!(refused["refused"], 1, "{refused}");
    assert!(!refused.to_string().contains("AABBCCDDEE"), "{refused}");
    let (_, card) = server.ask(&server.viewer, Method::GET, "/v1/cards/8988211000000000011", "").await;
    assert_eq!(card["tags"], json!(["lab"]));
    assert!(!card.to_string().to_uppercase().contains("AABBCCDDEE"), "{card}");
    let (_, listed) = server.ask(&server.viewer, Method::GET, "/v1/cards?tag=lab&profile=standard", "").await;
    assert_eq!(listed["cards"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn metrics_and_health_need_no_token() {
    let server = Server::start().await;
    let text = |path: &str| server.http.get(format!("{}{path}", server.base)).send();
    let metrics = text("/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains("simtide_sessions_open 0\n") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert_eq!(text("/healthz").await.unwrap().text().await.unwrap(), "ok\n");
}

/// The second interface from another process: what the platform's own entitlement server would get, for its own tenant.
#[tokio::test]
async fn an_entitlement_server_in_another_process_asks_by_the_api() {
    use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
    use simtide_protocol::second_layer::{Known, UplinkContent, Verdict};
    use simtide_server::entitlement::remote::RemotePlatform;
    use simtide_server::entitlement::source::{DeliverySource, PushAddress, SourceError};
    use simtide_server::entitlement::vectors::VectorSource;
    use simtide_server::registers::memory::{Fault, MemoryRegister, Verb};
    use simtide_server::registers::{Register, RegisterError, Subscriber, VectorsWanted};

    let server = Server::start().await;
    server.import("plain=true", CSV).await;
    let remote = |token: &str| RemotePlatform::new(&server.base, token.to_owned().into(), None).unwrap();
    let (own, foreign) = (remote(&server.admin), remote(&server.foreign));
    let imsi = "001010000000001".parse().unwrap();
    let card: simtide_protocol::ids::CardId = "8988211000000000011".parse().unwrap();
    assert_eq!(own.subscriber(imsi).await, Ok(Some(card)));
    assert_eq!(own.subscriber("001010000000099".parse().unwrap()).await, Ok(None));
    assert_eq!(own.waiting(card, &Known::default()).await, Ok(Vec::new()));
    assert_eq!(own.fetched(card, vec!["00a1-1".parse().unwrap()]).await, Ok(()));
    let proof = UplinkContent::Proof {
        id: None,
        originating_address: "1234".into(),
        packet: vec![0, 4, 0xB0, 0, 0x10, 0],
    };
    assert_eq!(own.uplink(card, proof).await, Ok(Verdict::Refused));
    let address = PushAddress { token: "t".into(), action: 2 };
    assert_eq!(own.push_address(card, Some(address)).await, Ok(()));
    assert_eq!(own.authenticated(imsi).await, Ok(()));

    // Vectors: none without a register, then those of the card's operator.
    let plain = || VectorsWanted::plain(1);
    assert_eq!(own.vectors(imsi, plain()).await.err(), Some(RegisterError::NotFound));
    let register = MemoryRegister::new("register", "00101", 0);
    let (k, opc) = (Secret::new(&[1; 16]).unwrap(), Secret::new(&[2; 16]).unwrap());
    let algorithm = AuthenticationAlgorithm::Milenage;
    register.provision(Subscriber { card, imsi, algorithm, k, opc, msisdn: None }).await.unwrap();
    let operator = server.api.platform.core.store.card(card).await.unwrap().unwrap().hot.operator;
    server.api.platform.changes.registers.put(operator, Arc::new(register.clone()));
    let vectors = own.vectors(imsi, plain()).await.ok().unwrap();
    let milenage = simtide_protocol::milenage::Milenage::new(&[1; 16], &[2; 16]);
    let mut array = simtide_protocol::aka::SqnArray::default();
    let outcome =
        simtide_protocol::aka::authenticate(&milenage, &mut array, &vectors[0].rand, &vectors[0].autn);
    let simtide_protocol::aka::Outcome::Success(answer) = outcome else { panic!("the card refuses") };
    assert_eq!((answer.res, answer.ck, answer.ik), (vectors[0].xres, vectors[0].ck, vectors[0].ik));
    let forged = VectorsWanted { resynchronisation: Some(([1; 16], [2; 14])), ..plain() };
    assert!(matches!(own.vectors(imsi, forged).await.err(), Some(RegisterError::Refused(_))));

    // With its range in the settings the register is asked for who is nobody's card too, and its absence is told alike.
    let settings = json!({ "id_mno": "HOME", "display_name": "Home", "mcc": "001", "mnc": "01" }).to_string();
    let path = format!("/v1/operators/{}", operator_name(&server, operator));
    let (status, view) = server.ask(&server.admin, Method::PUT, &path, settings).await;
    assert!(status.is_success(), "{view}");
    server.api.platform.changes.registers.put(operator, Arc::new(register.clone()));
    let nobody = "001010000000099".parse().unwrap();
    for (asked, expected) in [(imsi, None), (nobody, Some(RegisterError::NotFound))] {
        let before = register.calls().len();
        assert_eq!(own.vectors(asked, plain()).await.err(), expected);
        assert_eq!(register.calls()[before..], [(Verb::Vectors, None)]);
        register.fail_next(Verb::Vectors, Fault::Unreachable);
        assert!(matches!(own.vectors(asked, plain()).await.err(), Some(RegisterError::Unknown(_))));
    }

    // Another tenant, a lower role, no token.
    assert_eq!(foreign.subscriber(imsi).await, Ok(None));
    assert!(matches!(foreign.waiting(card, &Known::default()).await, Err(SourceError::Refused(_))));
    assert_eq!(foreign.vectors(imsi, plain()).await.err(), Some(RegisterError::NotFound));
    for token in [&server.operator, &server.viewer, &server.expired, "no token"] {
        assert!(matches!(remote(token).subscriber(imsi).await, Err(SourceError::Refused(_))));
    }
    // Vectors do not travel in clear beyond this machine.
    assert!(RemotePlatform::new("http://192.0.2.1:8080", String::new().into(), None).is_err());
}

fn operator_name(server: &Server, operator: simtide_server::store::OperatorId) -> String {
    server.api.platform.core.catalogue().operator(operator).unwrap().name.clone()
}

/// Rewritten with `UPDATE_OPENAPI=1 cargo test -p simtide-server --test api`.
#[test]
fn the_description_is_the_one_that_is_kept() {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let now = api::description() + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(kept, &now).unwrap();
    }
    let is_kept = std::fs::read_to_string(kept).unwrap_or_default() == now;
    assert!(is_kept, "docs/openapi.json has to be rewritten");
}
