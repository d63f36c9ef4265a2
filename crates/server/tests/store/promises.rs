//! The promises of the boundary, one by one, on every back end.

use simtide_platform::card::{Applied, CardState};
use simtide_protocol::ids::{Bucket, EpochMs};
use simtide_server::store::rules::{COUNTER_MAX, audit_chain};
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_server::store::*;

use crate::world::*;

#[tokio::test]
async fn a_new_owner_fences_the_old_one() {
    for (name, store, _directory) in back_ends() {
        let old = lease_of(&*store, card(1)).await;
        let new = lease_of(&*store, card(1)).await;
        assert!(new.epoch > old.epoch, "{name}");
        let refused = store.commit(old, Batch::from(put(card(1), 10))).await;
        assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{name}: {refused:?}");
        assert_eq!(store.card(card(1)).await.unwrap(), None);
        assert_eq!(commit(&*store, new, vec![put(card(1), 10)]).await, [Outcome::Done], "{name}");
    }
}

#[tokio::test]
async fn import_twice_changes_nothing() {
    for (name, store, _directory) in back_ends() {
        let lease = lease_of(&*store, card(1)).await;
        assert_eq!(commit(&*store, lease, vec![put(card(1), 10)]).await, [Outcome::Done]);
        let before = store.card(card(1)).await.unwrap().unwrap();
        assert_eq!(before.counters, [(1, 10), (2, 5)], "{name}");
        let NewCard { record, hot, .. } = new_card(card(1), 10);
        assert_eq!((&before.record, before.hot), (&record, hot), "{name}");
        assert_eq!(
            commit(&*store, lease, vec![poll(card(1), 5, 77), put(card(1), 10)]).await[1],
            Outcome::Unchanged
        );
        let after = store.card(card(1)).await.unwrap().unwrap();
        assert_eq!(after.hot.next_poll, EpochMs(77), "{name}");
    }
}

#[tokio::test]
async fn aliases_have_one_owner() {
    for (name, store, _directory) in back_ends() {
        let aliases = [
            Alias::Imsi("001010000000001".parse().unwrap()),
            Alias::Msisdn("436640000001".parse().unwrap()),
            Alias::PskIdentity(vec![0, 1, 2]),
            Alias::Fingerprint([7; 10]),
        ];
        for alias in aliases {
            let lease = store.acquire(LAYOUT.alias_group(&alias), "test").await.unwrap();
            let claim = |card, from| Op::ClaimAlias { alias: alias.clone(), card, from };
            let ops = vec![claim(card(1), None), claim(card(1), None), claim(card(2), None)];
            let outcomes = commit(&*store, lease, ops).await;
            assert_eq!(outcomes, [Outcome::Done, Outcome::Unchanged, Outcome::Taken(card(1))], "{name}");
            assert_eq!(store.find(alias.clone()).await.unwrap(), Some(card(1)), "{name}");
            let release = |card| Op::ReleaseAlias { alias: alias.clone(), card };
            let ops = vec![claim(card(2), Some(card(1))), release(card(1)), release(card(2))];
            assert_eq!(
                commit(&*store, lease, ops).await,
                [Outcome::Done, Outcome::Unchanged, Outcome::Done],
                "{name}"
            );
            assert_eq!(store.find(alias.clone()).await.unwrap(), None, "{name}");
        }
    }
}

#[tokio::test]
async fn pages_give_every_candidate_once_and_in_order() {
    for (name, store, _directory) in back_ends() {
        let cards: Vec<_> = (0..40).map(card_of_bucket_0).collect();
        let lease = lease_of(&*store, cards[0]).await;
        // Five dates only: nearly everything is a tie.
        let ops = cards.iter().enumerate().map(|(n, card)| put(*card, (n % 5) as i64)).collect();
        commit(&*store, lease, ops).await;
        let polled =
            cards.iter().step_by(3).enumerate().map(|(n, card)| poll(*card, n as i64 % 2, 100)).collect();
        commit(&*store, lease, polled).await;
        for order in [Order::NextPoll, Order::LastUpdate] {
            for rows_max in [1, 3, 39, 40, 41] {
                let mut query =
                    CandidateQuery { bucket: Bucket(0), operator: OPERATOR, order, below: None, rows_max };
                let mut found = Vec::new();
                loop {
                    let page = store.candidates(query).await.unwrap();
                    found.extend(page.rows.iter().copied());
                    if page.end {
                        break;
                    }
                    let last = page.rows.last().unwrap();
                    query.below = Some(Position { key: order.key(&last.hot), card: last.card });
                }
                assert_eq!(found.len(), 40, "{name} {order:?} {rows_max}");
                let place = |row: &Candidate| (std::cmp::Reverse(order.key(&row.hot)), row.card);
                assert!(found.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])), "{name} {order:?}");
                if order == Order::LastUpdate {
                    assert!(
                        found[39].hot.last_update.is_none() && found[0].hot.last_update.is_some(),
                        "{name}"
                    );
                }
            }
        }
        let query = CandidateQuery {
            bucket: Bucket(0),
            operator: OperatorId(8),
            order: Order::NextPoll,
            below: None,
            rows_max: 10,
        };
        assert!(store.candidates(query).await.unwrap().rows.is_empty(), "{name}");
        assert!(matches!(
            store.candidates(CandidateQuery { rows_max: 1_001, ..query }).await,
            Err(StoreError::Misuse(_))
        ));
    }
}

#[tokio::test]
async fn triggers_pass_over_who_polled_or_has_an_open_packet() {
    for (name, store, _directory) in back_ends() {
        let cards: Vec<_> = (0..6).map(card_of_bucket_0).collect();
        let lease = lease_of(&*store, cards[0]).await;
        let mut ops: Vec<Op> = cards[..5].iter().map(|card| put(*card, 9)).collect();
        ops.push(poll(cards[1], 40, 90));
        let suspend = CardChange::State(CardState::Suspended);
        ops.push(Op::ChangeCard { card: cards[2], change: suspend });
        ops.push(Op::PollDone(Box::new(done(cards[3], vec![1]))));
        commit(&*store, lease, ops).await;
        let cursor =
            Cursor { pass: 1, position: Some(Position { key: EpochMs(9), card: cards[5] }), exhausted: true };
        let mut op = trigger(cards.iter().map(|card| seen(*card, None)).collect(), Bucket(0));
        op.cursor = Some((OPERATOR, cursor));
        let outcomes = commit(&*store, lease, vec![Op::Trigger(Box::new(op.clone()))]).await;
        let granted = |outcomes: &[Outcome]| match &outcomes[0] {
            Outcome::Triggered(grants) => grants.clone(),
            other => panic!("{other:?}"),
        };
        use PassedOver::*;
        let first = [Ok(11), Err(Polled), Err(NotConcerned), Err(NotConcerned), Ok(11), Err(Unknown)];
        assert_eq!(granted(&outcomes), first, "{name}");
        let again = commit(&*store, lease, vec![Op::Trigger(Box::new(op.clone()))]).await;
        assert_eq!(granted(&again)[0], Err(OpenPacket), "{name}");
        let packet = store.open_packets(cards[0]).await.unwrap().pop().unwrap();
        assert_eq!(
            (packet.key.counter, packet.state, packet.spi),
            (11, PacketState::Queued, 0x1621),
            "{name}"
        );
        assert_eq!(store.cursors(CampaignId(1)).await.unwrap(), [(Bucket(0), OPERATOR, cursor)], "{name}");
        let sums = store.progress(CampaignId(1)).await.unwrap();
        assert_eq!((sums.triggers, sums.passed_over), (2, 2), "{name}");

        let close = |state| {
            Op::Packet(PacketChange {
                key: packet.key,
                state,
                message_ids: vec!["a".into(), "b".into()],
                deadline: None,
            })
        };
        use PacketState::{Abandoned, Accepted, Expired, Proven};
        let ops = [Accepted, Expired, Abandoned, Proven(0), Proven(1), Expired].map(close);
        let outcomes = commit(&*store, lease, ops.into()).await;
        let [done, kept] = [Outcome::Done, Outcome::Unchanged];
        let wanted = [done.clone(), done.clone(), kept.clone(), done, kept.clone(), kept];
        assert_eq!(outcomes, wanted, "{name}: only a proof outweighs a final state");
        let closed = store.packet(packet.key).await.unwrap().unwrap();
        assert_eq!((closed.state, closed.message_ids.len()), (Proven(0), 2), "{name}");
        let third = commit(&*store, lease, vec![Op::Trigger(Box::new(op))]).await;
        assert_eq!(granted(&third)[0], Ok(12), "{name}");
    }
}

#[tokio::test]
async fn counters_end_before_they_wrap_and_jump_after_a_restore() {
    for (name, store, _directory) in back_ends() {
        let id = card_of_bucket_0(0);
        let lease = lease_of(&*store, id).await;
        let raise =
            |counter| Op::ChangeCard { card: id, change: CardChange::RaiseCounter { key_set: 1, counter } };
        commit(&*store, lease, vec![put(id, 1), Op::JumpCounters, raise(3)]).await;
        let counters = store.card(id).await.unwrap().unwrap().counters;
        assert_eq!(counters, [(1, 10 + COUNTER_JUMP), (2, 5 + COUNTER_JUMP)], "{name}");
        let command = Command {
            card: id,
            key_set: 1,
            origin: Origin::Request,
            tar: simtide_protocol::ids::Tar([0xB0, 0, 0]),
            spi: 0x1639,
            data: vec![1, 2, 3],
            at: EpochMs(1),
            deadline: EpochMs(2),
        };
        let ask = Op::Command(Box::new(command));
        commit(&*store, lease, vec![raise(COUNTER_MAX - 1)]).await;
        let outcomes = commit(&*store, lease, vec![ask.clone(), ask.clone()]).await;
        let open = Outcome::PassedOver(PassedOver::OpenPacket);
        assert_eq!(outcomes, [Outcome::Counter(COUNTER_MAX), open], "{name}");
        let packet = store.open_packets(id).await.unwrap().remove(0);
        assert_eq!((packet.data.as_slice(), packet.origin), (&[1, 2, 3][..], Origin::Request), "{name}");
        let close = PacketChange {
            key: packet.key,
            state: PacketState::Abandoned,
            message_ids: vec![],
            deadline: None,
        };
        let outcomes = commit(&*store, lease, vec![Op::Packet(close), ask]).await;
        assert_eq!(outcomes[1], Outcome::PassedOver(PassedOver::CounterExhausted), "{name}");
    }
}

/// Restoring yesterday's backup forgets the counters given since; none of them is given again.
#[tokio::test]
async fn a_restored_backup_gives_no_counter_twice() {
    let (store, directory) = sqlite();
    let id = card_of_bucket_0(0);
    let lease = lease_of(&store, id).await;
    commit(&store, lease, vec![put(id, 1)]).await;
    drop(store);
    let backup = tempfile::tempdir().unwrap();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    copy(directory.path(), backup.path());
    let settings = SqliteSettings::new(directory.path());
    let give = async |after_backup: bool| {
        let store = SqliteStore::open(&settings).unwrap();
        if after_backup {
            after_restore(&store, "test").await.unwrap();
        }
        let lease = lease_of(&store, id).await;
        let outcomes =
            commit(&store, lease, vec![Op::Trigger(Box::new(trigger(vec![seen(id, None)], Bucket(0))))])
                .await;
        let Outcome::Triggered(grants) = &outcomes[0] else { panic!("{outcomes:?}") };
        grants[0].unwrap()
    };
    let given = give(false).await;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    copy(backup.path(), directory.path());
    assert_eq!(give(true).await, given + COUNTER_JUMP);
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    for (name, store, _directory) in back_ends() {
        let id = card_of_bucket_0(0);
        let lease = lease_of(&*store, id).await;
        commit(&*store, lease, vec![put(id, 1)]).await;
        let elsewhere = (0..).map(card).find(|card| LAYOUT.group_of(*card) != LAYOUT.group_of(id)).unwrap();
        for bad in [poll(elsewhere, 1, 1), Op::Trigger(Box::new(trigger(vec![seen(id, None)], Bucket(2))))] {
            let batch = Batch::from(vec![poll(id, 8, 99), bad]);
            assert!(matches!(store.commit(lease, batch).await, Err(StoreError::Misuse(_))), "{name}");
        }
        assert_eq!(store.card(id).await.unwrap().unwrap().hot.next_poll, EpochMs(1), "{name}");
    }
}

#[tokio::test]
async fn a_poll_records_what_it_did() {
    for (name, store, _directory) in back_ends() {
        let id = card_of_bucket_0(0);
        let lease = lease_of(&*store, id).await;
        let campaign = CampaignId(1);
        let line = |at: i64, detail: &str| HistoryLine {
            at: EpochMs(at),
            cause: Cause::Trigger { key_set: 1, counter: 11 },
            campaign: Some(campaign),
            result: HistoryResult::Failed(0x6A82),
            detail: detail.to_owned(),
        };
        let attempt = Op::Attempt { card: id, campaign, step: 2, at: EpochMs(5) };
        commit(&*store, lease, vec![put(id, 1), poll(id, 5, 500), attempt.clone(), attempt]).await;
        let begun = store.card(id).await.unwrap().unwrap().exceptions.remove(0);
        assert_eq!((begun.status, begun.attempts, begun.step), (ExceptionStatus::Begun, 2, 2), "{name}");
        let mut end = done(id, vec![2, 4]);
        end.settled = 1;
        end.exceptions = vec![ExceptionChange::Remove { campaign, card: id }];
        let long = "ä".repeat(100);
        end.history = vec![line(9, "first"), line(9, "second"), line(8, &long)];
        end.progress = vec![(campaign, Progress { done_by_trigger: 1, ..Progress::default() })];
        assert_eq!(
            commit(&*store, lease, vec![Op::PollDone(Box::new(end))]).await,
            [Outcome::Done],
            "{name}"
        );
        let found = store.card(id).await.unwrap().unwrap();
        assert_eq!(found.hot.applied, Applied { base: 2, mask: 0b10 }, "{name}");
        assert_eq!((found.hot.next_poll, found.exceptions.len()), (EpochMs(500), 0), "{name}");
        let history = store.history(id, EpochMs(100), 10).await.unwrap();
        let details: Vec<&str> = history.iter().map(|line| line.detail.as_str()).collect();
        assert_eq!(details, ["second", "first", &long[..120]], "{name}");
        assert_eq!(history[0], line(9, "second"), "{name}");
        assert_eq!(store.history(id, EpochMs(9), 10).await.unwrap().len(), 1, "{name}");
        assert_eq!(store.progress(campaign).await.unwrap().done_by_trigger, 1, "{name}");
        assert_eq!(
            commit(&*store, lease, vec![Op::PollDone(Box::new(done(card_of_bucket_0(1), vec![])))]).await,
            [Outcome::Missing],
            "{name}"
        );
        let far = Batch::from(Op::PollDone(Box::new(done(id, vec![2 + 65]))));
        assert!(matches!(store.commit(lease, far).await, Err(StoreError::Misuse(_))), "{name}");
    }
}

#[tokio::test]
async fn campaign_numbers_are_given_at_start_and_bounded() {
    for (name, store, _directory) in back_ends() {
        let lease = store.acquire(Group::Platform, "test").await.unwrap();
        let campaign = |id: u32| CampaignRecord {
            id: CampaignId(id),
            tenant: TENANT,
            number: Some(999),
            name: format!("campaign {id}"),
            state: "draft".into(),
            definition: "{}".into(),
            progress_note: String::new(),
            created_at: EpochMs(1),
            started_at: None,
            ended_at: None,
        };
        let start =
            |id: u32| Op::StartCampaign { campaign: CampaignId(id), at: EpochMs(9), state: "running".into() };
        for id in 1..=64 {
            let ops = vec![Op::PutCampaign(Box::new(campaign(id))), start(id)];
            assert_eq!(commit(&*store, lease, ops).await[1], Outcome::Number(id), "{name}");
        }
        let ops = vec![Op::PutCampaign(Box::new(campaign(65))), start(65), start(3), start(99)];
        let outcomes = commit(&*store, lease, ops).await;
        assert_eq!(outcomes[1..], [Outcome::Full, Outcome::Number(3), Outcome::Missing], "{name}");
        // A late one may end; as long as the first is open, no number beyond its 64 can be noted on a card.
        let end = |id: u32| CampaignRecord { ended_at: Some(EpochMs(20)), ..campaign(id) };
        let ops =
            vec![Op::PutCampaign(Box::new(end(2))), start(65), Op::PutCampaign(Box::new(end(1))), start(65)];
        let outcomes = commit(&*store, lease, ops).await;
        assert_eq!((&outcomes[1], &outcomes[3]), (&Outcome::Full, &Outcome::Number(65)), "{name}");
        let all = store.campaigns().await.unwrap();
        assert_eq!((all.len(), all[2].number, all[2].state.as_str()), (65, Some(3), "running"), "{name}");
    }
}

#[tokio::test]
async fn small_rows_audit_and_answers_are_kept() {
    for (name, store, _directory) in back_ends() {
        let lease = store.acquire(Group::Platform, "test").await.unwrap();
        let rows = vec![
            DirectoryRow::Tenant { id: TENANT, name: "Example".into() },
            DirectoryRow::Operator {
                id: OPERATOR,
                tenant: TENANT,
                name: "Example Mobile".into(),
                settings: "{}".into(),
            },
            DirectoryRow::Agreement { from: OPERATOR, to: OperatorId(9), terms: "{}".into() },
            DirectoryRow::Profile {
                id: ProfileId(3),
                name: "standard".into(),
                text: "name = \"standard\"".into(),
            },
            DirectoryRow::Tag { tenant: TENANT, bit: 63, name: "north".into() },
            DirectoryRow::DeviceKind { code: 2, name: "meter".into() },
        ];
        commit(&*store, lease, rows.iter().rev().cloned().map(Op::PutDirectory).collect()).await;
        let directory = store.directory().await.unwrap();
        assert_eq!(directory.rows, rows, "{name}");
        assert_eq!(directory.profile("standard"), Some(ProfileId(3)));
        assert_eq!((directory.tag(TENANT, "north"), directory.device_kind("meter")), (Some(63), Some(2)));

        let line = |n: i64| AuditLine {
            at: EpochMs(n),
            tenant: TENANT,
            actor: "token demo".into(),
            action: "campaign.start".into(),
            object: format!("campaign {n}"),
            detail: String::new(),
        };
        commit(&*store, lease, (1..=3).map(|n| Op::Audit(line(n))).collect()).await;
        let trail = store.audit(0, 10).await.unwrap();
        let mut chain = [0; 32];
        for (place, row) in trail.iter().enumerate() {
            chain = audit_chain(&chain, place as u64 + 1, &line(place as i64 + 1));
            assert_eq!((row.sequence, row.chain), (place as u64 + 1, chain), "{name}");
        }
        assert_eq!(store.audit(1, 1).await.unwrap(), trail[1..2], "{name}");

        let answer = IdempotencyRow {
            tenant: TENANT,
            key: "k".into(),
            request_hash: [1; 32],
            status: 201,
            body: "{}".into(),
            at: EpochMs(1),
        };
        let other = IdempotencyRow { body: "other".into(), ..answer.clone() };
        let ops = vec![Op::Idempotency(Box::new(answer.clone())), Op::Idempotency(Box::new(other))];
        assert_eq!(commit(&*store, lease, ops).await, [Outcome::Done, Outcome::Unchanged], "{name}");
        assert_eq!(store.idempotency(TENANT, "k").await.unwrap(), Some(answer), "{name}");
        assert_eq!(store.idempotency(TenantId(2), "k").await.unwrap(), None, "{name}");

        let job = ImportJob {
            id: [4; 32],
            tenant: TENANT,
            name: "cards.out".into(),
            rows_settled: 10,
            imported: 8,
            unchanged: 1,
            refused: 1,
            finished: false,
            at: EpochMs(3),
        };
        let later = ImportJob { id: [5; 32], at: EpochMs(4), finished: true, ..job.clone() };
        commit(&*store, lease, [&job, &later].map(|job| Op::PutImportJob(Box::new(job.clone()))).into())
            .await;
        assert_eq!(store.import_job([4; 32]).await.unwrap(), Some(job.clone()), "{name}");
        assert_eq!(store.import_jobs(5).await.unwrap(), [later, job], "{name}");
    }
}

#[tokio::test]
async fn due_rows_come_by_date_and_the_histogram_counts_them() {
    for (name, store, _directory) in back_ends() {
        let cards: Vec<_> = (0..6).map(card_of_bucket_0).collect();
        let lease = lease_of(&*store, cards[0]).await;
        let mut ops: Vec<Op> =
            cards.iter().enumerate().map(|(n, card)| put(*card, 100 + 10 * n as i64)).collect();
        ops.push(Op::ChangeCard { card: cards[5], change: CardChange::State(CardState::Retired) });
        for (n, card) in cards.iter().enumerate() {
            let retry_at = (n > 0).then(|| EpochMs(60 - 10 * n as i64));
            let status = ExceptionStatus::Retry;
            let row =
                Exception { campaign: CampaignId(1), card: *card, status, attempts: 1, step: 0, retry_at };
            ops.push(Op::Exception(ExceptionChange::Put(row)));
        }
        commit(&*store, lease, ops).await;
        let mut query = ExceptionQuery {
            bucket: Bucket(0),
            campaign: CampaignId(1),
            status: ExceptionStatus::Retry,
            due: Some(EpochMs(40)),
            after: None,
            rows_max: 3,
        };
        let page = store.exceptions(query).await.unwrap();
        let found: Vec<_> = page.rows.iter().map(|row| row.card).collect();
        assert_eq!((found, page.end), (vec![cards[5], cards[4], cards[3]], false), "{name}");
        query.after = Some(Position { key: EpochMs(30), card: cards[3] });
        let page = store.exceptions(query).await.unwrap();
        assert_eq!((page.rows.len(), page.rows[0].card, page.end), (1, cards[2], true), "{name}");
        let all = ExceptionQuery { due: None, after: None, rows_max: 10, ..query };
        let all = store.exceptions(all).await.unwrap();
        assert_eq!((all.rows.len(), all.rows[0].card), (6, cards[0]), "{name}: without a date first");

        // 100 | 110 120 | 130 140 | (150 is retired)
        assert_eq!(store.polls_due(EpochMs(110), 20, 3).await.unwrap(), [2, 2, 0], "{name}");
        assert_eq!(store.card_counts().await.unwrap(), [(Bucket(0), OPERATOR, 6)], "{name}");
        assert!(store.polls_due(EpochMs(0), 0, 3).await.is_err(), "{name}");

        let filter = CardFilter { state: Some(CardState::Active), tags: 1, ..CardFilter::default() };
        let (page, more) = store.cards(Bucket(0), filter.clone(), None, 3).await.unwrap();
        assert_eq!(
            (page.rows.len(), page.end, more),
            (3, false, page.rows.last().map(|row| row.card)),
            "{name}"
        );
        let (rest, more) = store.cards(Bucket(0), filter, more, 10).await.unwrap();
        assert_eq!((rest.rows.len(), rest.end, more), (2, true, None), "{name}");
    }
}

#[tokio::test]
async fn purge_takes_what_is_closed_and_old() {
    for (name, store, _directory) in back_ends() {
        let cards: Vec<_> = (0..2).map(card_of_bucket_0).collect();
        let lease = lease_of(&*store, cards[0]).await;
        let grant = trigger(cards.iter().map(|card| seen(*card, None)).collect(), Bucket(0));
        let line = HistoryLine {
            at: EpochMs(5),
            cause: Cause::Own,
            campaign: None,
            result: HistoryResult::Nothing,
            detail: String::new(),
        };
        let ops = vec![
            put(cards[0], 1),
            put(cards[1], 1),
            Op::Trigger(Box::new(grant)),
            Op::Packet(PacketChange {
                key: PacketKey { card: cards[0], key_set: 1, counter: 11 },
                state: PacketState::Proven(0),
                message_ids: vec![],
                deadline: Some(EpochMs(20)),
            }),
            Op::History {
                card: cards[0],
                lines: vec![line.clone(), HistoryLine { at: EpochMs(30), ..line }],
            },
            Op::Purge { packets_before: EpochMs(5_000), history_before: EpochMs(10) },
        ];
        assert_eq!(commit(&*store, lease, ops).await[5], Outcome::Count(2), "{name}");
        assert_eq!(store.open_packets(cards[1]).await.unwrap().len(), 1, "{name}");
        assert_eq!(store.history(cards[0], EpochMs(99), 9).await.unwrap().len(), 1, "{name}");
    }
}
