//! kill -9 anywhere: a child commits and reports, is killed at a named point, and what it reported is there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command as Process, Stdio};

use simtide_protocol::ids::{Bucket, CardId};
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_server::store::*;

use crate::world::*;

const DIRECTORY: &str = "SIMTIDE_TEST_DIRECTORY";
const CARDS: usize = 6;

/// Counters on the wire strictly increase over every crash: what was reported before is never given again.
#[test]
fn counters_strictly_increase_over_kills() {
    let directory = tempfile::tempdir().unwrap();
    let mut last: BTreeMap<CardId, u64> = BTreeMap::new();
    let mut kills = 0;
    for round in 0..24_u64 {
        let point = ["commit.before", "commit.after"][round as usize % 2];
        let at = format!("{point}:{}", 2 + round % 7);
        let child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_triggers", "--ignored", "--nocapture"])
            .env("SIMTIDE_KILL_AT", at)
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = child.unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
            let Some(given) = line.split("given ").nth(1) else { continue };
            let (card, counter) = given.split_once(' ').unwrap();
            let (card, counter): (CardId, u64) = (card.parse().unwrap(), counter.parse().unwrap());
            let before = last.insert(card, counter).unwrap_or(0);
            assert!(counter > before, "round {round}: {counter} after {before}");
        }
        let status = child.wait().unwrap();
        kills += usize::from(std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL));
    }
    assert!(kills >= 20, "only {kills} children were killed");
    assert!(last.values().all(|counter| *counter > 20), "too little was given: {last:?}");
}

#[tokio::test]
#[ignore = "run by counters_strictly_increase_over_kills in a process of its own"]
async fn child_that_triggers() {
    let directory = std::env::var(DIRECTORY).unwrap();
    let settings = SqliteSettings { directory: directory.into(), buckets: 8, groups: 2 };
    let store = SqliteStore::open(&settings).unwrap();
    let cards: Vec<_> = (0..CARDS).map(card_of_bucket_0).collect();
    let lease = lease_of(&store, cards[0]).await;
    let mut first: Vec<Op> = cards.iter().map(|card| put(*card, 5)).collect();
    for id in &cards {
        // What an earlier life left open is given up.
        let open = store.open_packets(*id).await.unwrap();
        first.extend(open.into_iter().map(|packet| abandon(packet.key)));
    }
    commit(&store, lease, first).await;
    for _ in 0..12 {
        let op = trigger(cards.iter().map(|card| seen(*card, None)).collect(), Bucket(0));
        let outcomes = commit(&store, lease, vec![Op::Trigger(Box::new(op))]).await;
        let Outcome::Triggered(grants) = &outcomes[0] else { panic!("{outcomes:?}") };
        let mut close = Vec::new();
        for (card, grant) in cards.iter().zip(grants) {
            let counter = grant.unwrap();
            // As the SMSC would see it: written at once, before anything else happens.
            let mut out = std::io::stdout().lock();
            writeln!(out, "given {card} {counter}").unwrap();
            out.flush().unwrap();
            close.push(abandon(PacketKey { card: *card, key_set: 1, counter }));
        }
        commit(&store, lease, close).await;
    }
}

fn abandon(key: PacketKey) -> Op {
    Op::Packet(PacketChange { key, state: PacketState::Abandoned, message_ids: vec![], deadline: None })
}
