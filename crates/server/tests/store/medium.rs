//! The medium: a full disk, a failing sync, two processes, plans of the hot statements, the group commit.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use simtide_protocol::ids::CardId;
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_server::store::*;

use crate::world::*;

#[tokio::test]
async fn hot_statements_search_and_never_scan_or_sort() {
    let (store, _directory) = sqlite();
    for (name, plan, wanted) in store.query_plans().unwrap() {
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{name}: {plan}");
        assert!(plan.contains(wanted), "{name}: {plan}");
    }
}

#[tokio::test]
async fn a_full_disk_is_final_and_loses_nothing() {
    let (store, directory) = sqlite();
    let id = card(1);
    let group = LAYOUT.group_of(id);
    let lease = lease_of(&store, id).await;
    commit(&store, lease, vec![put(id, 5)]).await;
    store.execute(group, "PRAGMA max_page_count = 1").await.ok();
    let mut failed = None;
    for number in 2..5_000 {
        let id = card(number);
        if LAYOUT.group_of(id) == group {
            failed = store.commit(lease, Batch::from(put(id, 5))).await.err();
        }
        if failed.is_some() {
            break;
        }
    }
    assert!(matches!(&failed, Some(StoreError::Failed(reason)) if reason.contains("full")), "{failed:?}");
    // Even what would fit is not written any more.
    let again = store.commit(lease, Batch::from(poll(id, 6, 7))).await;
    assert!(matches!(again, Err(StoreError::Failed(_))), "{again:?}");
    drop(store);
    let settings = SqliteSettings::new(directory.path());
    let store = SqliteStore::open(&settings).unwrap();
    assert_eq!(store.card(id).await.unwrap().unwrap().hot.next_poll, simtide_protocol::ids::EpochMs(5));
}

/// Set while syncs of the process fail. The engine is linked into this program, so that these two stand in for the C
/// library's.
static SYNC_FAILS: AtomicBool = AtomicBool::new(false);

fn sync(fd: libc::c_int) -> libc::c_int {
    if SYNC_FAILS.load(Ordering::SeqCst) {
        // SAFETY: the location of this thread's errno.
        unsafe { *libc::__errno_location() = libc::EIO };
        return -1;
    }
    // SAFETY: a plain system call.
    unsafe { libc::syscall(libc::SYS_fdatasync, fd) as libc::c_int }
}

#[unsafe(no_mangle)]
extern "C" fn fsync(fd: libc::c_int) -> libc::c_int {
    sync(fd)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: libc::c_int) -> libc::c_int {
    sync(fd)
}

/// In a process of its own: other tests sync too.
#[test]
fn a_failed_sync_is_final() {
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new(program)
        .args(["--exact", "medium::child_whose_sync_fails", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "run by a_failed_sync_is_final in a process of its own"]
async fn child_whose_sync_fails() {
    let (store, _directory) = sqlite();
    let lease = lease_of(&store, card(1)).await;
    commit(&store, lease, vec![put(card(1), 5)]).await;
    SYNC_FAILS.store(true, Ordering::SeqCst);
    let failed = store.commit(lease, Batch::from(poll(card(1), 6, 7))).await;
    assert!(matches!(&failed, Err(StoreError::Failed(_))), "{failed:?}");
    SYNC_FAILS.store(false, Ordering::SeqCst);
    // The disk is well again, but nobody knows what it kept.
    let again = store.commit(lease, Batch::from(poll(card(1), 8, 9))).await;
    assert_eq!(again, Err(failed.unwrap_err()));
}

#[tokio::test]
async fn one_process_per_store_and_its_layout_stays() {
    let (store, directory) = sqlite();
    let settings = SqliteSettings::new(directory.path());
    let second = SqliteStore::open(&settings).err();
    assert!(
        matches!(&second, Some(StoreError::Failed(reason)) if reason.contains("another process")),
        "{second:?}"
    );
    let old = lease_of(&store, card(1)).await;
    drop(store);
    let store = SqliteStore::open(&settings).unwrap();
    assert_eq!((store.buckets(), store.groups()), (8, 2), "not the defaults");
    assert!(lease_of(&store, card(1)).await.epoch > old.epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_commits_and_one_mistake_hurts_one() {
    let (store, _directory) = sqlite();
    let store: Arc<dyn Store> = Arc::new(store);
    let mut leases = Vec::new();
    for group in LAYOUT.card_groups() {
        leases.push(store.acquire(group, "test").await.unwrap());
    }
    let lease = |id| leases.iter().find(|lease| lease.group == LAYOUT.group_of(id)).copied().unwrap();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..200 {
        let (store, id, lease) = (store.clone(), card(number), lease(card(number)));
        clients.spawn(async move {
            let far = Op::PollDone(Box::new(done(id, vec![1_000])));
            let mut ops = vec![put(id, 5), poll(id, 6, 7)];
            if number % 50 == 7 {
                ops.push(far);
            }
            (number, store.commit(lease, Batch::from(ops)).await)
        });
    }
    while let Some(joined) = clients.join_next().await {
        let (number, result) = joined.unwrap();
        let exists = store.card(card(number)).await.unwrap().is_some();
        assert_eq!((result.is_ok(), exists), (number % 50 != 7, number % 50 != 7), "{number}: {result:?}");
    }
}

/// Without a pause between its transactions, a writer would leave no moment at which all of its log is in the file.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_begins_again_while_commits_go_on() {
    const ROUNDS_MAX: usize = 400;
    let (store, directory) = sqlite();
    let store = Arc::new(store);
    let group = LAYOUT.group_of(card(0));
    let cards: Arc<[CardId]> = (0..16_000).map(card).filter(|card| LAYOUT.group_of(*card) == group).collect();
    let lease = lease_of(&*store, card(0)).await;
    commit(&*store, lease, cards.iter().map(|card| put(*card, 5)).collect()).await;
    let Group::Cards(place) = group else { panic!("a group of cards") };
    let log = directory.path().join(format!("cards-{place}.db-wal"));
    // SQLite, file format, 4.1: two salts in the head of the log are new whenever it begins again.
    let salts = || {
        let mut salts = [0; 8];
        std::fs::File::open(&log).unwrap().read_exact_at(&mut salts, 16).unwrap();
        salts
    };
    let polls = move |round: usize| -> Vec<Op> {
        let spread = (0..100).map(|n| cards[(n * 79 + round * 7) % cards.len()]);
        spread.map(|card| poll(card, 6, 7 + round as i64)).collect()
    };
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..4 {
        let (store, polls) = (store.clone(), polls.clone());
        clients.spawn(async move {
            for round in client.. {
                commit(&*store, lease, polls(round)).await;
            }
        });
    }
    let first = salts();
    for round in 0..ROUNDS_MAX {
        commit(&*store, lease, polls(round)).await;
        if salts() != first {
            return;
        }
    }
    panic!("the log has only grown");
}
