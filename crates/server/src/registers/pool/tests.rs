//! Every verb twice, every verb too late, and what a crash leaves.

use super::*;

fn card(number: u32) -> CardId {
    CardId::from(simtide_protocol::ids::Iccid::with_check_digit(&format!("89882110000{number:07}")).unwrap())
}

fn pool(directory: &tempfile::TempDir) -> Pool {
    Pool::open(&directory.path().join("pool.db")).unwrap()
}

async fn filled(directory: &tempfile::TempDir, count: u64) -> Pool {
    let pool = pool(directory);
    let first = "001020000000001".parse().unwrap();
    let stock = Stock::range(first, count, Some("43660000001".parse().unwrap()), MILENAGE).unwrap();
    pool.add(stock).await.unwrap();
    pool
}

const MILENAGE: AuthenticationAlgorithm = AuthenticationAlgorithm::Milenage;

fn state(free: u64, reserved: u64, assigned: u64, retired: u64) -> PoolState {
    PoolState { free, reserved, assigned, retired }
}

fn is_conflict<T>(result: &Result<T, RegisterError>) -> bool {
    matches!(result, Err(RegisterError::Conflict(_)))
}

#[tokio::test]
async fn a_change_gets_the_same_identity_and_keys_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let pool_1 = filled(&directory, 3).await;
    let first = pool_1.reserve(ChangeId(u64::MAX), card(1)).await.unwrap();
    assert!(!first.again);
    drop(pool_1);
    let pool = pool(&directory);
    let second = pool.reserve(ChangeId(u64::MAX), card(1)).await.unwrap();
    assert!(second.again && second.entry.imsi == first.entry.imsi);
    assert!(second.entry.keys == first.entry.keys && second.entry.keys.is_some());
    assert_eq!(second.entry.msisdn, Some("43660000001".parse().unwrap()));
    assert!(is_conflict(&pool.reserve(ChangeId(u64::MAX), card(2)).await));
    assert_eq!(pool.state(), Ok(state(2, 1, 0, 0)));
}

#[tokio::test]
async fn a_number_is_one_identity_s() {
    let directory = tempfile::tempdir().unwrap();
    let pool = filled(&directory, 2).await;
    let read = |rows: &str| Stock::read(&format!("imsi,msisdn\n{rows}")).unwrap();
    let again = pool.add(read("001020000000001,43660000001\n")).await.unwrap();
    assert_eq!((again.added, again.known), (0, 1));
    let taken = pool.add(read("001020000000008,43660000009\n001020000000009,43660000002\n")).await;
    assert!(is_conflict(&taken));
    assert_eq!(pool.state(), Ok(state(2, 0, 0, 0)), "nothing of it was added");
    assert_eq!(pool.add(read("001020000000008,\n001020000000009,\n")).await.unwrap().added, 2);
}

#[tokio::test]
async fn keys_lie_nowhere_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let pool = filled(&directory, 1).await;
    let (k, opc) = pool.reserve(ChangeId(1), card(1)).await.unwrap().entry.keys.unwrap();
    drop(pool);
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        for key in [&k, &opc] {
            assert!(!content.windows(16).any(|part| part == key.as_bytes()));
            assert!(!content.windows(32).any(|part| part == hex::encode(key.as_bytes()).as_bytes()));
        }
    }
}

#[tokio::test]
async fn the_whole_life_of_an_identity_with_every_verb_twice() {
    let directory = tempfile::tempdir().unwrap();
    let pool = filled(&directory, 1).await;
    let imsi = pool.reserve(ChangeId(1), card(1)).await.unwrap().entry.imsi;
    assert_eq!(pool.reserve(ChangeId(2), card(2)).await.err(), Some(RegisterError::Exhausted));
    assert!(is_conflict(&pool.arm(ChangeId(2), imsi).await));
    assert!(is_conflict(&pool.withdraw(imsi).await), "no card has it yet");
    for _ in 0..2 {
        assert!(pool.arm(ChangeId(1), imsi).await.is_ok());
        assert_eq!(pool.state(), Ok(state(0, 0, 1, 0)));
    }
    pool.attached(imsi, Domain::PacketSwitched, "sgsn".to_owned()).await.unwrap();
    assert!(is_conflict(&pool.begin_release(ChangeId(1)).await), "a card has it");
    for _ in 0..2 {
        assert_eq!(pool.withdraw(imsi).await, Ok(true));
    }
    assert!(is_conflict(&pool.arm(ChangeId(1), imsi).await), "a late copy must not let it in again");
    for _ in 0..2 {
        assert_eq!(pool.retire(imsi).await, Ok(true));
        assert_eq!(pool.state(), Ok(state(0, 0, 0, 1)));
    }
    assert!(is_conflict(&pool.arm(ChangeId(1), imsi).await));
    assert!(is_conflict(&pool.reserve(ChangeId(1), card(1)).await));
    assert!(pool.entry(imsi).unwrap().unwrap().keys.is_none(), "the keys are forgotten");
    assert_eq!(pool.retire("001020000009999".parse().unwrap()).await, Ok(false));
}

#[tokio::test]
async fn a_released_identity_is_free_with_other_keys_and_late_copies_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let pool = filled(&directory, 1).await;
    let before = pool.reserve(ChangeId(1), card(1)).await.unwrap().entry;
    pool.arm(ChangeId(1), before.imsi).await.unwrap();
    assert_eq!(pool.begin_release(ChangeId(1)).await, Ok(Some(before.imsi)));
    // Between the halves nobody else gets it, and the change gets nothing either.
    assert_eq!(pool.reserve(ChangeId(2), card(2)).await.err(), Some(RegisterError::Exhausted));
    assert!(is_conflict(&pool.reserve(ChangeId(1), card(1)).await));
    assert!(is_conflict(&pool.arm(ChangeId(1), before.imsi).await));
    assert_eq!(pool.begin_release(ChangeId(1)).await, Ok(Some(before.imsi)));
    pool.end_release(ChangeId(1), before.imsi).await.unwrap();
    let after = pool.reserve(ChangeId(2), card(2)).await.unwrap().entry;
    assert!(after.imsi == before.imsi && after.keys != before.keys);
    // A late copy of the old release does not touch the new owner.
    assert_eq!(pool.begin_release(ChangeId(1)).await, Ok(None));
    pool.end_release(ChangeId(1), before.imsi).await.unwrap();
    assert_eq!(pool.state(), Ok(state(0, 1, 0, 0)));
    // A release that overtook its reservation.
    assert_eq!(pool.begin_release(ChangeId(3)).await, Ok(None));
    assert!(is_conflict(&pool.reserve(ChangeId(3), card(3)).await));
}

#[tokio::test]
async fn a_first_subscription_is_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let pool = filled(&directory, 2).await;
    let subscriber = Subscriber {
        card: card(1),
        imsi: "001020000000001".parse().unwrap(),
        algorithm: MILENAGE,
        k: Secret::new(&[1; 16]).unwrap(),
        opc: Secret::new(&[2; 16]).unwrap(),
        msisdn: None,
    };
    for _ in 0..2 {
        assert_eq!(pool.provision(subscriber.clone()).await, Ok(()));
    }
    assert_eq!(pool.state(), Ok(state(1, 0, 1, 0)));
    let other = Subscriber { k: Secret::new(&[3; 16]).unwrap(), ..subscriber.clone() };
    assert!(is_conflict(&pool.provision(other).await));
    assert!(is_conflict(&pool.provision(Subscriber { card: card(2), ..subscriber.clone() }).await));
    assert_ne!(pool.reserve(ChangeId(1), card(3)).await.unwrap().entry.imsi, subscriber.imsi);
    pool.withdraw(subscriber.imsi).await.unwrap();
    assert!(is_conflict(&pool.provision(subscriber).await), "a late copy must not let it in again");
}

#[tokio::test]
async fn sequence_numbers_never_come_twice_and_users_have_their_own_index() {
    let directory = tempfile::tempdir().unwrap();
    let imsi = "001020000000001".parse().unwrap();
    let first = filled(&directory, 1).await;
    assert_eq!(first.raise_seq(imsi, 0, 32).await, Ok(0));
    assert_eq!(first.raise_seq(imsi, 0, 32).await, Ok(32));
    assert_eq!(first.raise_seq(imsi, 1_000, 32).await, Ok(1_000));
    assert_eq!(first.vector_user("vlr".to_owned(), 1, 3).await, Ok(1));
    assert_eq!(first.vector_user("sgsn".to_owned(), 1, 3).await, Ok(2));
    drop(first);
    let again = pool(&directory);
    assert_eq!(again.raise_seq(imsi, 0, 32).await, Ok(1_032));
    assert_eq!(again.vector_user("vlr".to_owned(), 1, 3).await, Ok(1));
    assert_eq!(again.vector_user("mme".to_owned(), 1, 3).await, Ok(3));
    assert_eq!(again.vector_user("other".to_owned(), 1, 3).await, Ok(3));
    let missing = again.raise_seq("001020000000009".parse().unwrap(), 0, 1).await;
    assert_eq!(missing, Err(RegisterError::NotFound));
}

#[tokio::test]
async fn a_thousand_reservations_at_once_get_a_thousand_identities() {
    let directory = tempfile::tempdir().unwrap();
    let pool = Arc::new(filled(&directory, 1_000).await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let pool = pool.clone();
        tasks.spawn(async move {
            pool.reserve(ChangeId(u64::from(number)), card(number)).await.unwrap().entry.imsi
        });
    }
    let found: std::collections::BTreeSet<Imsi> = tasks.join_all().await.into_iter().collect();
    assert_eq!(found.len(), 1_000);
    assert_eq!(pool.state(), Ok(state(0, 1_000, 0, 0)));
}

/// With another key file nothing is known of a subscriber: that is no refusal, which would look like a stranger.
#[tokio::test]
async fn another_key_file_is_a_fault_and_no_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let pool_1 = filled(&directory, 1).await;
    let reserved = pool_1.reserve(ChangeId(1), card(1)).await.unwrap().entry.imsi;
    drop(pool_1);
    for ending in ["key", "keystore"] {
        std::fs::remove_file(directory.path().join("pool").with_extension(ending)).unwrap();
    }
    let pool = pool(&directory);
    assert!(matches!(pool.entry(reserved), Err(RegisterError::Unreachable(_))));
}
