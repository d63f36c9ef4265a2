//! Random histories: the back end answers what the model answers, after every batch.

use simtide_platform::card::CardState;
use simtide_protocol::ids::{Bucket, ChangeId, EpochMs, Tar};
use simtide_server::store::*;

use crate::world::*;

const CARDS: u32 = 24;
const BATCHES: usize = 60;

struct History {
    dice: Dice,
    now: i64,
    packets: Vec<PacketKey>,
    seen: Vec<Candidate>,
}

impl History {
    fn card(&mut self) -> simtide_protocol::ids::CardId {
        card(self.dice.roll(u64::from(CARDS)) as u32)
    }

    fn campaign(&mut self) -> CampaignId {
        CampaignId(1 + self.dice.roll(3) as u32)
    }

    fn date(&mut self) -> EpochMs {
        // Few values, so that ties are common.
        EpochMs(self.now + self.dice.roll(6) as i64 * 10)
    }

    fn packet_change(&mut self) -> PacketChange {
        use PacketState::*;
        let states =
            [Submitted, Accepted, Delivered, Unknown, Proven(0), Proven(9), Refused(88), Expired, Abandoned];
        let state = states[self.dice.roll(states.len() as u64) as usize];
        let key = match self.packets.len() as u64 {
            0 => PacketKey { card: self.card(), key_set: 1, counter: 1 },
            count => self.packets[self.dice.roll(count) as usize],
        };
        let message_ids = vec!["id".to_owned(); self.dice.roll(3) as usize];
        let deadline = (self.dice.roll(4) == 0).then(|| self.date());
        PacketChange { key, state, message_ids, deadline }
    }

    fn exception_change(&mut self) -> ExceptionChange {
        use ExceptionStatus::*;
        let (campaign, card) = (self.campaign(), self.card());
        if self.dice.roll(4) == 0 {
            return ExceptionChange::Remove { campaign, card };
        }
        let status = [Listed, Begun, Retry, Failed, Interrupted, OptedOut][self.dice.roll(6) as usize];
        let retry_at = (self.dice.roll(2) == 0).then(|| self.date());
        ExceptionChange::Put(Exception { campaign, card, status, attempts: 1, step: 3, retry_at })
    }

    fn history_line(&mut self) -> HistoryLine {
        let cause = match self.dice.roll(4) {
            0 => Cause::Own,
            1 => Cause::Trigger { key_set: 1, counter: self.dice.roll(100) },
            2 => Cause::Command { key_set: 2, counter: self.dice.roll(100) },
            _ => Cause::Operator,
        };
        let result = match self.dice.roll(5) {
            0 => HistoryResult::Nothing,
            1 => HistoryResult::Done,
            2 => HistoryResult::Failed(0x6982),
            3 => HistoryResult::Broken,
            _ => HistoryResult::Interrupted,
        };
        let campaign = (self.dice.roll(2) == 0).then(|| self.campaign());
        HistoryLine {
            at: self.date(),
            cause,
            campaign,
            result,
            detail: "x".repeat(self.dice.roll(3) as usize),
        }
    }

    fn poll_done(&mut self) -> PollDone {
        let card = self.card();
        let mut end = done(card, (0..self.dice.roll(3)).map(|_| 1 + self.dice.roll(12) as u32).collect());
        end.settled = self.dice.roll(3) as u32;
        end.next_poll = (self.dice.roll(2) == 0).then(|| self.date());
        end.packets = (0..self.dice.roll(2)).map(|_| self.packet_change()).collect();
        end.packets.retain(|change| LAYOUT.group_of(change.key.card) == LAYOUT.group_of(card));
        end.history = (0..self.dice.roll(3)).map(|_| self.history_line()).collect();
        let change = Progress { done_by_poll: 1, ..Progress::default() };
        end.progress = vec![(self.campaign(), change)];
        end
    }

    fn trigger(&mut self) -> Trigger {
        let bucket = Bucket(self.dice.roll(u64::from(LAYOUT.buckets)) as u16);
        let of_bucket = self.seen.iter().filter(|row| LAYOUT.bucket(row.card) == bucket);
        let cards = of_bucket
            .map(|row| TriggerCard { card: row.card, key_set: 1, last_update: row.hot.last_update })
            .collect();
        let mut op = trigger(cards, bucket);
        op.campaign = self.campaign();
        op.number = op.campaign.0;
        op.at = EpochMs(self.now);
        op.deadline = self.date();
        let position = (self.dice.roll(2) == 0).then(|| Position { key: self.date(), card: self.card() });
        op.cursor =
            (self.dice.roll(2) == 0).then_some((OPERATOR, Cursor { pass: 1, position, exhausted: false }));
        op
    }

    fn put_case(&mut self) -> Op {
        let kind = [CaseKind::Change, CaseKind::Delivery][self.dice.roll(2) as usize];
        // Ids are random and never meet in two groups.
        let card = self.card();
        let group = u64::from(LAYOUT.group_of(card) == Group::Cards(1));
        let mut row = crate::cases::case(card, kind, self.dice.roll(6) * 2 + group);
        row.at = self.date();
        row.open = self.dice.roll(3) > 0;
        row.due = (self.dice.roll(3) > 0).then(|| self.date());
        row.state = self.dice.roll(3) as u8;
        row.version = 1 + self.dice.roll(3) as u32;
        let version_before = Some(self.dice.roll(3) as u32).filter(|version| *version > 0);
        Op::PutCase { row: Box::new(row), version_before }
    }

    fn subscription(&mut self) -> Op {
        let number = self.dice.roll(5);
        let change = SubscriptionChange {
            imsi: format!("00101000000000{number}").parse().unwrap(),
            msisdn: None,
            operator: OperatorId(7 + self.dice.roll(2) as u32),
            sealed_subscription: vec![1; number as usize],
            at: self.date(),
            change: ChangeId(number),
        };
        Op::ChangeCard { card: self.card(), change: CardChange::Subscription(Box::new(change)) }
    }

    fn op(&mut self) -> Op {
        match self.dice.roll(19) {
            16 | 17 => self.put_case(),
            18 => self.subscription(),
            0..=2 => {
                let (card, date) = (self.card(), self.date());
                put(card, date.0)
            }
            3 | 4 => Op::PollBegun { card: self.card(), at: EpochMs(self.now), next_poll: self.date() },
            5 | 6 => Op::PollDone(Box::new(self.poll_done())),
            7 | 8 => Op::Trigger(Box::new(self.trigger())),
            9 => Op::Command(Box::new(Command {
                card: self.card(),
                key_set: 1 + self.dice.roll(3) as u8,
                origin: Origin::Command(self.campaign()),
                tar: Tar([1, 2, 3]),
                spi: 0x1639,
                data: vec![9; 20],
                at: EpochMs(self.now),
                deadline: self.date(),
            })),
            10 | 11 => Op::Packet(self.packet_change()),
            12 => Op::Exception(self.exception_change()),
            13 => {
                Op::Attempt { card: self.card(), campaign: self.campaign(), step: 1, at: EpochMs(self.now) }
            }
            14 => {
                let changes = [
                    CardChange::State([CardState::Active, CardState::Suspended][self.dice.roll(2) as usize]),
                    CardChange::Tags(self.dice.roll(4)),
                    CardChange::Msisdn(None),
                    CardChange::NextPoll(self.date()),
                    CardChange::RaiseCounter { key_set: 1, counter: self.dice.roll(200) },
                ];
                let change = changes[self.dice.roll(5) as usize].clone();
                Op::ChangeCard { card: self.card(), change }
            }
            _ => Op::History { card: self.card(), lines: vec![self.history_line()] },
        }
    }
}

async fn same_reads(model: &dyn Store, other: &dyn Store, history: &mut History) {
    for number in 0..CARDS {
        let card = card(number);
        assert_eq!(model.card(card).await, other.card(card).await);
        assert_eq!(model.open_packets(card).await, other.open_packets(card).await);
        let before = EpochMs(history.now);
        assert_eq!(model.history(card, before, 5).await, other.history(card, before, 5).await);
        assert_eq!(model.identities(card, 3).await, other.identities(card, 3).await);
        assert_eq!(model.latest_packets(card, 1, 3).await, other.latest_packets(card, 1, 3).await);
        for kind in [CaseKind::Change, CaseKind::Delivery] {
            let cases = model.cases_of(card, kind, 3).await;
            assert_eq!(cases, other.cases_of(card, kind, 3).await);
            let latest = cases.unwrap().first().map(|row| (kind, row.id));
            let standing = model.standing(card, latest).await;
            assert_eq!(standing, other.standing(card, latest).await);
            let same = standing.unwrap().map(|one| (one.card, one.open));
            let (apart, open) = (model.card(card).await.unwrap(), model.open_packets(card).await.unwrap());
            assert_eq!(same, apart.map(|card| (card, open)));
        }
    }
    let filter = CardFilter {
        tags: history.dice.roll(2),
        next_poll_before: Some(history.date()),
        ..CardFilter::default()
    };
    history.seen.clear();
    for bucket in (0..LAYOUT.buckets).map(Bucket) {
        let order = [Order::NextPoll, Order::LastUpdate][history.dice.roll(2) as usize];
        let below =
            (history.dice.roll(2) == 0).then(|| Position { key: history.date(), card: history.card() });
        let rows_max = 1 + history.dice.roll(4) as usize;
        let query = CandidateQuery { bucket, operator: OPERATOR, order, below, rows_max };
        let page = model.candidates(query).await;
        assert_eq!(page, other.candidates(query).await);
        history.seen.extend(page.unwrap().rows);
        let due = (history.dice.roll(2) == 0).then(|| history.date());
        let after = history.packets.first().copied().filter(|_| history.dice.roll(2) == 0);
        assert_eq!(model.packets(bucket, due, after, 3).await, other.packets(bucket, due, after, 3).await);
        let status = [ExceptionStatus::Retry, ExceptionStatus::Begun][history.dice.roll(2) as usize];
        let after =
            (history.dice.roll(2) == 0).then(|| Position { key: history.date(), card: history.card() });
        let query = ExceptionQuery { bucket, campaign: CampaignId(1), status, due, after, rows_max };
        assert_eq!(model.exceptions(query).await, other.exceptions(query).await);
        let mut cases = CaseQuery::open(CaseKind::Change, bucket, rows_max);
        cases.open = [None, Some(true), Some(false)][history.dice.roll(3) as usize];
        cases.state = (history.dice.roll(3) == 0).then_some(1);
        cases.after = (history.dice.roll(2) == 0).then(|| history.dice.roll(12));
        assert_eq!(model.cases(cases).await, other.cases(cases).await, "{cases:?}");
        let (filter, after) = (filter.clone(), Some(history.card()));
        let listed = model.cards(bucket, filter.clone(), after, rows_max).await;
        assert_eq!(listed, other.cards(bucket, filter, after, rows_max).await);
    }
    let from = EpochMs(history.now - 20);
    assert_eq!(model.polls_due(from, 7, 12).await, other.polls_due(from, 7, 12).await);
    assert_eq!(model.card_counts().await, other.card_counts().await);
    for campaign in [1, 2, 3].map(CampaignId) {
        assert_eq!(model.progress(campaign).await, other.progress(campaign).await);
        assert_eq!(model.cursors(campaign).await, other.cursors(campaign).await);
    }
}

/// Also keeps the record of every counter given: per card and key set they strictly increase.
async fn run(seed: u64) {
    let mut stores = back_ends();
    let (_, sqlite, _directory) = stores.pop().unwrap();
    let (_, model, _) = stores.pop().unwrap();
    let mut leases = Vec::new();
    for group in LAYOUT.card_groups() {
        let pair =
            (model.acquire(group, "test").await.unwrap(), sqlite.acquire(group, "test").await.unwrap());
        assert_eq!(pair.0, pair.1);
        leases.push(pair.0);
    }
    let mut history = History { dice: Dice(seed), now: 1_000, packets: vec![], seen: vec![] };
    let mut last = std::collections::BTreeMap::new();
    for batch_number in 0..BATCHES {
        history.now += history.dice.roll(30) as i64;
        let lease = leases[history.dice.roll(2) as usize];
        let count = 1 + history.dice.roll(12);
        let mut ops: Vec<Op> = (0..count).map(|_| history.op()).collect();
        ops.retain(|op| LAYOUT.check(lease.group, &Batch::from(op.clone())).is_ok());
        let expected = model.commit(lease, Batch::from(ops.clone())).await;
        let found = sqlite.commit(lease, Batch::from(ops.clone())).await;
        assert_eq!(expected, found, "seed {seed}, batch {batch_number}");
        let Ok(committed) = expected else { continue };
        for (op, outcome) in ops.iter().zip(&committed.outcomes) {
            let given: Vec<PacketKey> = match (op, outcome) {
                (Op::Trigger(trigger), Outcome::Triggered(grants)) => {
                    let granted = trigger.cards.iter().zip(grants);
                    granted
                        .filter_map(|(seen, grant)| Some((seen, (*grant).ok()?)))
                        .map(|(seen, counter)| PacketKey { card: seen.card, key_set: seen.key_set, counter })
                        .collect()
                }
                (Op::Command(command), Outcome::Counter(counter)) => {
                    vec![PacketKey { card: command.card, key_set: command.key_set, counter: *counter }]
                }
                _ => vec![],
            };
            for key in given {
                let before = last.insert((key.card, key.key_set), key.counter).unwrap_or(0);
                assert!(key.counter > before, "seed {seed}");
                history.packets.push(key);
            }
        }
        same_reads(&*model, &*sqlite, &mut history).await;
    }
    assert!(history.packets.len() > 3, "seed {seed}: a history without packets shows nothing");
}

#[tokio::test]
async fn back_ends_agree_with_the_model_over_random_histories() {
    for seed in 1..=12 {
        run(seed).await;
    }
}
