//! kill -9 at every named place of a change of operator: the next process goes on, and in the end one register lets the
//! identity on the card in.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use simtide_agent::clock::Clock as AirClock;
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::Imsi;
use simtide_server::api::imports::Imports;
use simtide_server::api::tokens::Tokens;
use simtide_server::api::{self, Api};
use simtide_server::config::Config;
use simtide_server::metrics::Metrics;
use simtide_server::registers::Subscriber;
use simtide_server::registers::pool::{Pool, Stock};
use simtide_server::shell::Platform;
use simtide_server::shell::keyring::VaultKeyring;
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_simulation::smsc::{Settings, Smsc};
use tokio::sync::watch;

use crate::world::*;

const FOLDER: &str = "SIMTIDE_TEST_FOLDER";
const SMPP: &str = "SIMTIDE_TEST_SMPP";
/// Times a place is tried to die at.
const COUNT_MAX: u32 = 14;
/// How long a change may stand still before somebody asks where it is, in real time.
const PATIENCE: Duration = Duration::from_secs(2);

/// A platform in a process of its own.
struct Server {
    child: Child,
    base: String,
    token: String,
    http: Client,
}

impl Server {
    fn start(folder: &Path, smpp: u16, kill_at: Option<&str>) -> Server {
        let mut command = Process::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::child_that_serves", "--ignored", "--nocapture"]);
        command.env(FOLDER, folder).env(SMPP, smpp.to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(kill_at) = kill_at {
            command.env("SIMTIDE_KILL_AT", kill_at);
        }
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let base = lines.find_map(|line| line.split("serves ").nth(1).map(str::to_owned));
        let token = std::fs::read_to_string(folder.join("admin.token")).unwrap_or_default();
        let base = base.unwrap_or_default();
        // The pipe stays open as long as somebody reads.
        std::thread::spawn(move || lines.for_each(drop));
        Server { child, base, token: token.trim().to_owned(), http: Client::new() }
    }

    fn is_dead(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `None`: nobody answers.
    async fn ask(&self, method: Method, path: &str, body: Value) -> Option<(u16, Value)> {
        let request =
            self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(&self.token);
        let request = request.header("Idempotency-Key", format!("{method} {path}"));
        let request = if method == Method::GET { request } else { request.json(&body) };
        let answer = request.timeout(Duration::from_secs(5)).send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, serde_json::from_slice(&answer.bytes().await.ok()?).unwrap_or_default()))
    }
}

#[tokio::test]
#[ignore = "run by a_change_survives_every_place_of_death in a process of its own"]
async fn child_that_serves() {
    let folder = std::path::PathBuf::from(std::env::var(FOLDER).unwrap());
    let config = format!(
        "[clock]\nrate = 100.0\nreal_anchor_ms = {ANCHOR_MS}\nvirtual_anchor_ms = {ANCHOR_MS}\n\
         [data]\nfolder = {folder:?}\n[card_port]\nlisten = \"127.0.0.1:0\"\n[flow]\ntick_ms = 2000\n\
         [smpp]\nsource_address = \"500\"\n[[smpp.links]]\nport = {}\nsystem_id = \"simtide\"\n\
         password = \"simtide\"\nreconnect_s_min = 1\n",
        std::env::var(SMPP).unwrap()
    );
    let config = Config::parse(&config).unwrap();
    let vault = vault(&config, &folder);
    let keyring = Box::new(VaultKeyring::new(vault.clone()).unwrap());
    let settings = SqliteSettings { buckets: 4, groups: 2, ..SqliteSettings::new(folder.join("store")) };
    let store = Arc::new(SqliteStore::open(&settings).unwrap());
    let (tokens, _) = Tokens::open(&folder).unwrap();
    let platform = Arc::new(Platform::start(config, store, keyring, None).await.unwrap());
    platform.connect_registers(&vault);
    let metrics = Metrics::new(platform.clone());
    let api = Arc::new(Api { platform, tokens, metrics, vault, imports: Imports::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("serves http://{}", listener.local_addr().unwrap());
    axum::serve(listener, api::routes(api)).await.unwrap();
}

/// A folder with operators, pools and a card, from which every run begins.
async fn first_folder(smpp: u16) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let first = Pool::open(&folder.path().join("register-1.db")).unwrap();
    let subscriber = Subscriber {
        card: card(),
        imsi: first_imsi(),
        algorithm: AuthenticationAlgorithm::Milenage,
        k: Secret::new(&[1; 16]).unwrap(),
        opc: Secret::new(&[2; 16]).unwrap(),
        msisdn: Some(first_msisdn()),
    };
    first.provision(subscriber).await.unwrap();
    let second = Pool::open(&folder.path().join("register-2.db")).unwrap();
    let numbers = Some("4670990001".parse().unwrap());
    let imsi = "001020000000001".parse().unwrap();
    second.add(Stock::range(imsi, 10, numbers, AuthenticationAlgorithm::Milenage).unwrap()).await.unwrap();
    drop((first, second));
    let server = Server::start(folder.path(), smpp, None);
    for (name, number) in [("home", 1), ("two", 2)] {
        let body = json!({
            "id_mno": format!("OP{number}"), "display_name": name, "mcc": "001", "mnc": format!("0{number}"),
            "register": { "kind": "own" },
        });
        let (status, answer) = server.ask(Method::PUT, &format!("/v1/operators/{name}"), body).await.unwrap();
        assert!(status < 300, "{answer}");
    }
    let agreed = server.ask(Method::PUT, "/v1/agreements/home/two", json!({})).await.unwrap();
    assert_eq!(agreed.0, 200, "{}", agreed.1);
    let request = server.http.post(format!("{}/v1/imports?plain=true&operator=home", server.base));
    let answer = request.bearer_auth(&server.token).body(csv()).send().await.unwrap();
    let view: Value = answer.json().await.unwrap();
    let path = format!("/v1/imports/{}", view["id"]);
    until(async || {
        let (_, view) = server.ask(Method::GET, &path, json!({})).await.unwrap();
        assert_eq!(view["refused"], 0, "{view}");
        view["state"] == "finished"
    })
    .await;
    server.end();
    folder
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The phone, until the test ends; tells which identity is on its card.
async fn carry(mut phone: Phone, identity: watch::Sender<Imsi>) {
    loop {
        identity.send_replace(phone.identity());
        phone.takes_one().await;
    }
}

/// Leads a change to its end, with a process that dies at a place; answers whether it did.
async fn change_once(first: &Path, kill_at: &str) -> bool {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = Settings { retry_s: 1, ..Settings::default() };
    let smsc = Smsc::start(settings, any, any, AirClock::REAL, None).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    copy(first, folder.path());
    let phone = Phone::usual(smsc.air).await;
    let (identity, seen) = watch::channel(first_imsi());
    let carrier = tokio::spawn(carry(phone, identity));
    let mut server = Server::start(folder.path(), smsc.smpp.port(), Some(kill_at));
    let mut died = false;
    let mut last = (String::new(), tokio::time::Instant::now());
    let second = loop {
        if server.is_dead() {
            assert!(!died, "{kill_at}: only the armed process dies");
            died = true;
            server = Server::start(folder.path(), smsc.smpp.port(), None);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Some((_, list)) = server.ask(Method::GET, "/v1/changes", json!({})).await else { continue };
        let Some(change) = list["changes"].get(0) else {
            let consent = json!({ "when": "2026-01-02T03:04:05Z", "how": "web-site" });
            let body = json!({ "card": card(), "operator": "two", "consent": consent });
            let _ = server.ask(Method::POST, "/v1/changes", body).await;
            continue;
        };
        let state = change["state"].as_str().unwrap_or_default().to_owned();
        let on_card = *seen.borrow();
        match state.as_str() {
            "done" => break on_card,
            "refused" | "failed" | "cancelled" | "reverted" => panic!("{kill_at}: {change}"),
            _ => {}
        }
        if on_card != first_imsi() {
            let _ = server.ask(Method::POST, "/v1/registers/two/attached", json!({ "imsi": on_card })).await;
        }
        if state != last.0 {
            last = (state, tokio::time::Instant::now());
        } else if last.1.elapsed() > PATIENCE {
            let path = format!("/v1/changes/{}/resolve", change["id"].as_str().unwrap_or_default());
            // Without a key: it may be asked again.
            let request = server.http.post(format!("{}{path}", server.base)).bearer_auth(&server.token);
            let _ = request.send().await;
            last.1 = tokio::time::Instant::now();
        }
    };
    server.end();
    carrier.abort();
    let registers =
        [1, 2].map(|number| Pool::open(&folder.path().join(format!("register-{number}.db"))).unwrap());
    let let_in = |imsi| {
        let entries = registers.iter().map(|one| one.entry(imsi).unwrap());
        entries.filter(|entry| entry.as_ref().is_some_and(|entry| entry.access)).count()
    };
    assert!(second.to_string().starts_with("00102"), "{kill_at}: {second} is on the card");
    assert_eq!((let_in(first_imsi()), let_in(second)), (0, 1), "{kill_at}");
    let pool = registers[1].state().unwrap();
    assert_eq!((pool.free, pool.reserved, pool.assigned), (9, 0, 1), "{kill_at}: one identity was used");
    died
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_survives_every_place_of_death() {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let smsc = Smsc::start(Settings::default(), any, any, AirClock::REAL, None).await.unwrap();
    let first = first_folder(smsc.smpp.port()).await;
    drop(smsc);
    let mut deaths = 0;
    for place in [
        "change.commit.before",
        "change.commit.after",
        "change.effect.before",
        "change.effect.after",
        "submit.before",
        "submit.after",
    ] {
        for count in 1..=COUNT_MAX {
            if !change_once(first.path(), &format!("{place}:{count}")).await {
                break;
            }
            deaths += 1;
        }
    }
    println!("{deaths} processes were killed, each at another place of a change");
    assert!(deaths >= 20, "only {deaths} were killed");
}
