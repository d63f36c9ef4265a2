//! Tokens, kinds of cards and the audit trail as an administrator sees them, and what somebody finds who has changed the
//! trail on the disk.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/processes.rs"]
mod processes;

use std::path::Path;

use processes::{Ended, address, client, operator_with_cards, refused, server};
use serde_json::Value;
use simtide_protocol::profile::STANDARD_TEXT;

const CONFIG: &str = "[card_port]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n";

fn start(folder: &Path) -> (Ended, String) {
    let (process, ready) = server(folder, &["serve", "--config", "simtide.toml"]);
    (process, format!("http://{}", address(&ready, "api")))
}

#[test]
fn who_may_ask_and_who_did_what() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    operator_with_cards(path, 9, 1);
    std::fs::write(path.join("simtide.toml"), CONFIG).unwrap();
    let (platform, api) = start(path);
    let run = |arguments: &[&str]| client(path, &api, arguments);
    run(&["operators", "put", "home", "home.toml"]);

    let token = run(&["tokens", "create", "night watch"]);
    run(&["tokens", "create", "home desk", "--role", "operator", "--operator", "home"]);
    let list = run(&["tokens", "list"]);
    let line = |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(line("night watch").contains("viewer") && line("home desk").contains("home"), "{list}");
    assert!(!list.contains(token.trim()), "nobody keeps it");
    let viewer = ["--token", token.trim()];
    run(&[&["cards", "list"], &viewer[..]].concat());
    let text = refused(path, &api, &[&["tokens", "list"], &viewer[..]].concat());
    assert!(text.contains("night watch"), "{text}");
    run(&["tokens", "revoke", "night watch"]);
    refused(path, &api, &[&["cards", "list"], &viewer[..]].concat());
    let text = refused(path, &api, &["tokens", "create", "x", "--role", "king"]);
    assert!(text.contains("viewer, operator or admin"), "{text}");

    let standard = run(&["profiles", "list"]);
    assert!(standard.starts_with("standard"), "{standard}");
    let own = STANDARD_TEXT.replacen("name = \"standard\"", "name = \"own\"", 1);
    std::fs::write(path.join("own.toml"), own).unwrap();
    run(&["profiles", "put", "own.toml"]);
    assert_eq!(run(&["profiles", "list"]).lines().count(), 2);

    let trail = run(&["audit"]);
    let places: Vec<_> = ["operator.put", "token.create", "token.revoke", "profile.put"]
        .map(|action| trail.find(action).unwrap_or_else(|| panic!("{trail}")))
        .into();
    assert!(places.is_sorted() && trail.contains("night watch") && trail.contains("admin"), "{trail}");
    let page: Value = serde_json::from_str(&run(&["audit", "--json", "--after", "1"])).unwrap();
    assert_eq!((&page["lines"][0]["sequence"], &page["broken_at"]), (&2.into(), &Value::Null));
    let text = refused(path, &api, &["audit", "--after", "1000"]);
    assert!(text.contains("after"), "{text}");

    // Somebody who can write the files takes the blame off an administrator.
    drop(platform);
    let store = rusqlite::Connection::open(path.join("simtide-data/store/platform.db")).unwrap();
    let changed = store.execute("UPDATE audit SET actor = 'nobody' WHERE action = 'token.revoke'", []);
    assert_eq!(changed, Ok(1));
    drop(store);
    let (_platform, api) = start(path);
    let text = refused(path, &api, &["audit"]);
    assert!(text.contains("was changed"), "{text}");
}
