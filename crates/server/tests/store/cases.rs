//! Cases: one open change per card, nothing after a conflict, pages, and the identities of a card.

use simtide_protocol::ids::{Bucket, CardId, ChangeId, EpochMs, Tar};
use simtide_server::store::*;

use crate::world::*;

pub fn case(card: CardId, kind: CaseKind, id: u64) -> CaseRow {
    CaseRow {
        card,
        kind,
        id,
        tenant: TENANT,
        at: EpochMs(100),
        state: 3,
        open: true,
        due: Some(EpochMs(500)),
        version: 1,
        body: b"{\"a\":1}".to_vec(),
        sealed: vec![9; 60],
    }
}

fn put_case(row: CaseRow, version_before: Option<u32>) -> Op {
    Op::PutCase { row: Box::new(row), version_before }
}

fn packet_of(card: CardId, origin: Origin) -> Op {
    Op::Command(Box::new(Command {
        card,
        key_set: 1,
        origin,
        tar: Tar([0xB2, 0, 1]),
        spi: 0x1639,
        data: vec![],
        at: EpochMs(1),
        deadline: EpochMs(2),
    }))
}

#[tokio::test]
async fn a_card_has_one_open_change_and_any_number_of_deliveries() {
    for (name, store, _directory) in back_ends() {
        let id = card_of_bucket_0(0);
        let lease = lease_of(&*store, id).await;
        let first = case(id, CaseKind::Change, u64::MAX);
        assert_eq!(
            commit(&*store, lease, vec![put_case(first.clone(), None)]).await,
            [Outcome::Missing],
            "{name}: no such card"
        );
        commit(&*store, lease, vec![put(id, 5)]).await;
        assert_eq!(commit(&*store, lease, vec![put_case(first.clone(), None)]).await, [Outcome::Done]);
        assert_eq!(store.case(CaseKind::Change, u64::MAX).await.unwrap(), Some(first.clone()), "{name}");
        assert_eq!(store.case(CaseKind::Delivery, u64::MAX).await.unwrap(), None);
        let stranger = card_of_bucket_0(1);
        commit(&*store, lease, vec![put(stranger, 5)]).await;
        let asked = Some((CaseKind::Change, u64::MAX));
        assert_eq!(store.standing(id, asked).await.unwrap().unwrap().case, Some(first.clone()), "{name}");
        let of_stranger = store.standing(stranger, asked).await.unwrap().unwrap();
        assert_eq!((of_stranger.card.record.id, of_stranger.case), (stranger, None), "{name}");
        let second = case(id, CaseKind::Change, 7);
        let ops = vec![put_case(second.clone(), None), packet_of(id, Origin::Change(ChangeId(7)))];
        let outcomes = commit(&*store, lease, ops).await;
        assert_eq!(outcomes, [Outcome::OpenCase(u64::MAX), Outcome::Skipped], "{name}");
        assert_eq!(store.open_packets(id).await.unwrap(), [], "{name}: nothing after it is written");
        let deliveries = vec![
            put_case(case(id, CaseKind::Delivery, 7), None),
            put_case(case(id, CaseKind::Delivery, 8), None),
        ];
        assert_eq!(commit(&*store, lease, deliveries).await, [Outcome::Done, Outcome::Done], "{name}");
        let closed = CaseRow { open: false, due: None, version: 2, ..first };
        let ops = vec![put_case(closed, Some(1)), put_case(second, None)];
        assert_eq!(commit(&*store, lease, ops).await, [Outcome::Done, Outcome::Done], "{name}");
        let ids: Vec<u64> =
            store.cases_of(id, CaseKind::Change, 10).await.unwrap().iter().map(|row| row.id).collect();
        assert_eq!(ids, [u64::MAX, 7], "{name}: of the same time the higher id first");
    }
}

#[tokio::test]
async fn a_case_that_moved_on_stops_the_batch() {
    for (name, store, _directory) in back_ends() {
        let id = card_of_bucket_0(0);
        let lease = lease_of(&*store, id).await;
        let row = case(id, CaseKind::Change, 1);
        let reserve = packet_of(id, Origin::Change(ChangeId(1)));
        let ops = vec![put(id, 5), put_case(row.clone(), None), reserve.clone()];
        assert_eq!(commit(&*store, lease, ops).await, [Outcome::Done, Outcome::Done, Outcome::Counter(11)]);
        let packet = store.latest_packets(id, 1, 10).await.unwrap().remove(0);
        assert_eq!((packet.origin, packet.data.len()), (Origin::Change(ChangeId(1)), 0), "{name}");
        for stale in [None, Some(0), Some(2)] {
            let abandon = Op::Packet(PacketChange {
                key: packet.key,
                state: PacketState::Abandoned,
                message_ids: vec![],
                deadline: None,
            });
            let next = CaseRow { version: 9, ..row.clone() };
            let outcomes = commit(&*store, lease, vec![put_case(next, stale), abandon]).await;
            assert_eq!(outcomes, [Outcome::Conflict, Outcome::Skipped], "{name}");
        }
        assert!(store.packet(packet.key).await.unwrap().unwrap().state.is_open(), "{name}");
        let large = CaseRow { body: vec![b' '; CASE_BODY_BYTES_MAX + 1], ..row };
        let refused = store.commit(lease, Batch::from(put_case(large, Some(1)))).await;
        assert!(matches!(refused, Err(StoreError::Misuse(_))), "{name}");
    }
}

#[tokio::test]
async fn pages_of_open_and_closed_ones_and_of_all() {
    for (name, store, _directory) in back_ends() {
        let cards: Vec<CardId> = (0..12).map(card_of_bucket_0).collect();
        let lease = lease_of(&*store, cards[0]).await;
        let mut ops: Vec<Op> = cards.iter().map(|card| put(*card, 1)).collect();
        for (n, card) in cards.iter().enumerate() {
            let mut row = case(*card, CaseKind::Change, u64::MAX / 12 * n as u64);
            row.open = n != 4;
            row.state = n as u8 % 2;
            ops.push(put_case(row, None));
        }
        commit(&*store, lease, ops).await;
        let all = |query: CaseQuery| {
            let store = store.clone();
            async move {
                let mut found = Vec::new();
                let mut query = query;
                loop {
                    let page = store.cases(query).await.unwrap();
                    found.extend(page.rows);
                    if page.end {
                        return found;
                    }
                    query.after = found.last().map(|row| row.id);
                }
            }
        };
        for rows_max in [1, 2, 5, 20] {
            let open = all(CaseQuery::open(CaseKind::Change, Bucket(0), rows_max)).await;
            assert_eq!(open.len(), 11, "{name} {rows_max}");
            assert!(open.windows(2).all(|pair| pair[0].id < pair[1].id), "{name} {rows_max}");
            let query =
                CaseQuery { open: Some(false), ..CaseQuery::open(CaseKind::Change, Bucket(0), rows_max) };
            assert_eq!(all(query).await.len(), 1, "{name} {rows_max}");
            let query = CaseQuery { open: None, state: Some(1), ..query };
            assert_eq!(all(query).await.len(), 6, "{name} {rows_max}");
            assert_eq!(all(CaseQuery { bucket: Bucket(1), ..query }).await.len(), 0, "{name}");
        }
    }
}

#[tokio::test]
async fn a_card_keeps_the_list_of_its_identities() {
    for (name, store, _directory) in back_ends() {
        let id = card_of_bucket_0(0);
        let lease = lease_of(&*store, id).await;
        commit(&*store, lease, vec![put(id, 5)]).await;
        assert_eq!(store.identities(id, 10).await.unwrap(), [], "{name}");
        let becomes = |number: i64, operator: u32| {
            let change = SubscriptionChange {
                imsi: format!("00102000000000{number}").parse().unwrap(),
                msisdn: (number != 2).then(|| format!("43660000000{number}").parse().unwrap()),
                operator: OperatorId(operator),
                sealed_subscription: vec![number as u8; 50],
                at: EpochMs(number * 100),
                change: ChangeId(number as u64),
            };
            Op::ChangeCard { card: id, change: CardChange::Subscription(Box::new(change)) }
        };
        let ops = vec![becomes(1, 8), becomes(1, 8), becomes(2, 9), becomes(3, 7)];
        let outcomes = commit(&*store, lease, ops).await;
        let [done, same] = [Outcome::Done, Outcome::Unchanged];
        assert_eq!(outcomes, [done.clone(), same, done.clone(), done], "{name}");
        let card = store.card(id).await.unwrap().unwrap();
        assert_eq!(card.record.imsi.unwrap().to_string(), "001020000000003", "{name}");
        assert_eq!((card.hot.operator, card.record.sealed.subscription.len()), (OPERATOR, 50), "{name}");
        assert_eq!(card.record.sealed.ota, vec![1; 40], "{name}: the other records stay");
        let rows = store.identities(id, 10).await.unwrap();
        let seen: Vec<_> = rows
            .iter()
            .map(|row| (row.sequence, row.since.map(|at| at.0), row.operator.0, row.msisdn.is_some()))
            .collect();
        let wanted =
            [(3, Some(300), 7, true), (2, Some(200), 9, false), (1, Some(100), 8, true), (0, None, 7, true)];
        assert_eq!(seen, wanted, "{name}");
        assert_eq!(rows[3].imsi.unwrap().to_string(), "001010000000001", "{name}");
        assert_eq!((rows[0].change, rows[3].change), (Some(ChangeId(3)), None), "{name}");
        assert_eq!(store.identities(id, 2).await.unwrap().len(), 2, "{name}");
    }
}

#[tokio::test]
async fn uplink_counters_do_not_jump_and_closed_deliveries_go() {
    for (name, store, _directory) in back_ends() {
        let id = card_of_bucket_0(0);
        let lease = lease_of(&*store, id).await;
        let raise = CardChange::RaiseCounter { key_set: UPLINK_COUNTER | 1, counter: 40 };
        let closed = |kind, number| CaseRow { open: false, due: None, ..case(id, kind, number) };
        let ops = vec![
            put(id, 5),
            Op::ChangeCard { card: id, change: raise },
            Op::JumpCounters,
            put_case(closed(CaseKind::Change, 1), None),
            put_case(closed(CaseKind::Delivery, 2), None),
            put_case(case(id, CaseKind::Delivery, 3), None),
            Op::Purge { packets_before: EpochMs(0), history_before: EpochMs(101) },
        ];
        let outcomes = commit(&*store, lease, ops).await;
        assert_eq!(outcomes[6], Outcome::Count(1), "{name}");
        let counters = store.card(id).await.unwrap().unwrap().counters;
        let wanted = [(1, 10 + COUNTER_JUMP), (2, 5 + COUNTER_JUMP), (UPLINK_COUNTER | 1, 40)];
        assert_eq!(counters, wanted, "{name}");
        assert!(store.case(CaseKind::Change, 1).await.unwrap().is_some(), "{name}: what a card has been");
        assert!(store.case(CaseKind::Delivery, 2).await.unwrap().is_none(), "{name}");
        assert!(store.case(CaseKind::Delivery, 3).await.unwrap().is_some(), "{name}");
    }
}
