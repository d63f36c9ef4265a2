//! Cards, stores and leases for the tests.

use std::sync::Arc;

use simtide_platform::card::{Applied, CardState};
use simtide_protocol::ids::{Bucket, CardId, EpochMs, Iccid, Tar};
use simtide_server::store::model::ModelStore;
use simtide_server::store::rules::Layout;
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_server::store::*;

pub const LAYOUT: Layout = Layout { buckets: 8, groups: 2 };
pub const OPERATOR: OperatorId = OperatorId(7);
pub const TENANT: TenantId = TenantId(1);

/// A store of each kind, empty, with what must outlive it.
pub fn back_ends() -> Vec<(&'static str, Arc<dyn Store>, Option<tempfile::TempDir>)> {
    let (sqlite, directory) = sqlite();
    let model: Arc<dyn Store> = Arc::new(ModelStore::new(LAYOUT.buckets, LAYOUT.groups).unwrap());
    vec![("model", model, None), ("sqlite", Arc::new(sqlite), Some(directory))]
}

pub fn sqlite() -> (SqliteStore, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let settings = SqliteSettings { directory: directory.path().into(), buckets: 8, groups: 2 };
    (SqliteStore::open(&settings).unwrap(), directory)
}

pub fn card(number: u32) -> CardId {
    CardId::from(Iccid::with_check_digit(&format!("89882110000{number:07}")).unwrap())
}

/// The n-th card of bucket 0.
pub fn card_of_bucket_0(n: usize) -> CardId {
    (0..).map(card).filter(|card| LAYOUT.bucket(*card) == Bucket(0)).nth(n).unwrap()
}

pub fn new_card(id: CardId, next_poll: i64) -> NewCard {
    NewCard {
        record: CardRecord {
            id,
            tenant: TENANT,
            iccid: id.iccid(),
            eid: None,
            imsi: Some("001010000000001".parse().unwrap()),
            msisdn: Some("436640000001".parse().unwrap()),
            psk_identity: vec![0x80, 0x01, 0xFF],
            sealed: SealedKeys { version: 1, ota: vec![1; 40], psk: vec![2; 30], ..SealedKeys::default() },
        },
        hot: CardHot {
            operator: OPERATOR,
            profile: ProfileId(3),
            state: CardState::Active,
            device_kind: 2,
            tags: 1 << 63 | 1,
            last_update: None,
            next_poll: EpochMs(next_poll),
            applied: Applied::default(),
        },
        counters: vec![(2, 5), (1, 10)],
    }
}

pub fn put(id: CardId, next_poll: i64) -> Op {
    Op::PutCard(Box::new(new_card(id, next_poll)))
}

pub fn poll(card: CardId, at: i64, next_poll: i64) -> Op {
    Op::PollBegun { card, at: EpochMs(at), next_poll: EpochMs(next_poll) }
}

pub fn done(card: CardId, applied: Vec<u32>) -> PollDone {
    PollDone {
        card,
        applied,
        settled: 0,
        next_poll: None,
        packets: vec![],
        exceptions: vec![],
        history: vec![],
        progress: vec![],
    }
}

pub fn trigger(cards: Vec<TriggerCard>, bucket: Bucket) -> Trigger {
    Trigger {
        campaign: CampaignId(1),
        number: 1,
        bucket,
        cursor: None,
        cards,
        tar: Tar([0xB2, 0x01, 0x00]),
        spi: 0x1621,
        at: EpochMs(50),
        deadline: EpochMs(1_000),
    }
}

pub fn seen(card: CardId, last_update: Option<i64>) -> TriggerCard {
    TriggerCard { card, key_set: 1, last_update: last_update.map(EpochMs) }
}

pub async fn lease_of(store: &dyn Store, card: CardId) -> Lease {
    store.acquire(LAYOUT.group_of(card), "test").await.unwrap()
}

pub async fn commit(store: &dyn Store, lease: Lease, ops: Vec<Op>) -> Vec<Outcome> {
    store.commit(lease, Batch::from(ops)).await.unwrap().outcomes
}

/// Small, seeded, good enough to wander through histories.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}
