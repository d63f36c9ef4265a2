use super::*;
use crate::flow::{Flow, FlowSettings, Load};
use proptest::prelude::*;
use simtide_protocol::ids::{Bucket, EpochMs};
use std::collections::{BTreeMap, BTreeSet};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const START: EpochMs = EpochMs(1_800_000_000_000);

/// A card of the test's world: what a store knows of it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    lane: Lane,
    /// Relative to the start.
    next_poll: i64,
    seen: bool,
    done: bool,
    triggers: u32,
}

/// A store over a map, and a shell that does what the engine wants.
struct Shell {
    engine: Engine<u32>,
    cards: BTreeMap<u32, Row>,
    order: Order,
    now: EpochMs,
    /// Card and pass, in the order in which triggers left.
    sent: Vec<(u32, u8)>,
    batches: Vec<Batch>,
    finished: Option<Absentees>,
    wake: Option<EpochMs>,
    pages: usize,
    rows_max: u16,
}

fn lane(bucket: u16) -> Lane {
    Lane { bucket: Bucket(bucket), operator: 1 }
}

fn settings() -> Settings {
    Settings { attempts: 1, ..Settings::default() }
}

impl Shell {
    fn new(cards: impl IntoIterator<Item = (u32, Row)>, settings: Settings, buckets: u16) -> Self {
        let mut shell = Self {
            engine: Engine::default(),
            cards: cards.into_iter().collect(),
            order: settings.order,
            now: START,
            sent: Vec::new(),
            batches: Vec::new(),
            finished: None,
            wake: None,
            pages: 0,
            rows_max: 3,
        };
        let lanes = (0..buckets).map(lane).collect();
        shell.verb(Verb::Start { settings, lanes });
        shell
    }

    fn verb(&mut self, verb: Verb<u32>) {
        self.event(Event::Verb { campaign: 7, verb });
    }

    fn tick(&mut self, triggers: u32) {
        self.event(Event::Tick { triggers });
    }

    fn event(&mut self, event: Event<u32>) {
        self.engine.handle(self.now, event);
        let mut leaving = Vec::new();
        while let Some(command) = self.engine.next_command() {
            let answer = match command {
                Command::NextPage { campaign, generation, lane, below, rows, .. } => {
                    assert!(rows <= PAGE_ROWS_MAX);
                    self.pages += 1;
                    let (candidates, next) = self.page(lane, below);
                    Event::Page { campaign, generation, lane, candidates, next }
                }
                Command::Trigger { campaign, pass, batch, lane, cards, .. } => {
                    let before = leaving.len();
                    for chosen in &cards {
                        let row = self.cards.get_mut(&chosen.card).unwrap();
                        assert_eq!(row.lane, lane);
                        if !row.done {
                            row.triggers += 1;
                            leaving.push((chosen.rank, chosen.card, pass));
                        }
                    }
                    let taken = (leaving.len() - before) as u32;
                    if self.batches.last().is_none_or(|last| last.number != batch.number) {
                        self.batches.push(batch);
                    }
                    let passed_over = cards.len() as u32 - taken;
                    Event::Taken { campaign, batch: batch.number, lane, taken, passed_over }
                }
                Command::WakeAt(at) => {
                    self.wake = Some(at);
                    continue;
                }
                Command::Finished { absentees, .. } => {
                    self.finished = Some(absentees);
                    continue;
                }
                Command::Save { .. } | Command::Paused { .. } => continue,
            };
            self.engine.handle(self.now, answer);
        }
        // As a shell submits them: by rank, over all lanes.
        leaving.sort_unstable();
        self.sent.extend(leaving.into_iter().map(|(_, card, pass)| (card, pass)));
    }

    fn key(&self, row: &Row) -> EpochMs {
        match self.order {
            Order::NextPoll => START.plus_ms(row.next_poll),
            Order::LastUpdate if !row.seen => EpochMs(i64::MIN),
            Order::LastUpdate => START.plus_ms(row.next_poll - 20 * DAY),
        }
    }

    fn line(&self, lane: Lane) -> Vec<Candidate<u32>> {
        let mut line: Vec<_> = self
            .cards
            .iter()
            .filter(|(_, row)| row.lane == lane && !row.done)
            .map(|(card, row)| Candidate {
                place: Cursor { key: self.key(row), card: *card },
                last_update: row.seen.then(|| START.plus_ms(row.next_poll - 20 * DAY)),
                next_poll: START.plus_ms(row.next_poll),
            })
            .collect();
        line.sort_by_key(|candidate| candidate.place);
        line
    }

    fn page(&self, lane: Lane, below: Option<Cursor<u32>>) -> (Vec<Candidate<u32>>, Option<Cursor<u32>>) {
        let mut rest: Vec<_> = self.line(lane);
        rest.retain(|candidate| below.is_none_or(|above| is_below(&candidate.place, &above)));
        let more = rest.len() > usize::from(self.rows_max);
        rest.truncate(usize::from(self.rows_max));
        let next = rest.last().map(|last| last.place).filter(|_| more);
        (rest, next)
    }

    fn cards_sent(&self) -> Vec<u32> {
        self.sent.iter().map(|(card, _)| *card).collect()
    }
}

fn row(bucket: u16, next_poll_h: i64) -> Row {
    Row { lane: lane(bucket), next_poll: next_poll_h * HOUR, seen: true, done: false, triggers: 0 }
}

/// Cards 0.. in three buckets, card n polls in n hours.
fn tide(cards: u32) -> Vec<(u32, Row)> {
    (0..cards).map(|card| (card, row((card % 3) as u16, i64::from(card)))).collect()
}

#[test]
fn the_furthest_are_called_first_over_all_buckets_and_the_nearest_are_left_to_their_poll() {
    let mut shell = Shell::new(tide(10), settings(), 3);
    shell.tick(4);
    assert_eq!(shell.cards_sent(), [9, 8, 7, 6]);
    shell.tick(100);
    // Cards 0 and 1 come by themselves within an hour.
    assert_eq!(shell.cards_sent(), [9, 8, 7, 6, 5, 4, 3, 2]);
}

#[test]
fn by_last_update_is_the_same_order_while_periods_are_equal() {
    let by_update = Settings { order: Order::LastUpdate, ..settings() };
    let (mut one, mut other) = (Shell::new(tide(50), settings(), 3), Shell::new(tide(50), by_update, 3));
    for _ in 0..20 {
        one.tick(4);
        other.tick(4);
    }
    assert_eq!(one.cards_sent(), other.cards_sent());
    assert_eq!(one.sent.len(), 48);
}

/// Both orders through the real flow controller, in batches, with a period that differs from card to card.
#[test]
fn each_order_holds_through_the_real_controller() {
    for order in [Order::NextPoll, Order::LastUpdate] {
        let mut cards = tide(400);
        for (card, row) in &mut cards {
            // Last update = date - 20 days in this world: shuffle the dates so that cards and dates differ.
            row.next_poll = i64::from(*card * 173 % 400 + 10) * HOUR;
        }
        let mut shell = Shell::new(cards, Settings { order, batch_size: 10, ..settings() }, 3);
        let mut flow = Flow::new(FlowSettings { sessions_max: 1, ..FlowSettings::default() });
        for _ in 0..400 {
            shell.now = shell.now.plus_s(60);
            flow.save_up_for(shell.engine.batch_max());
            let before = shell.sent.len();
            let triggers = flow.tick(shell.now, &Load::default());
            shell.tick(triggers);
            flow.sent(shell.now, (shell.sent.len() - before) as u32);
        }
        let keys: Vec<_> = shell.sent.iter().map(|(card, _)| shell.key(&shell.cards[card])).collect();
        assert!(keys.len() > 300 && keys.is_sorted_by(|left, right| left >= right), "{order:?}");
        assert!(shell.batches.iter().all(|batch| batch.size == 10 && batch.at > START));
        assert!(shell.batches.iter().zip(1..).all(|(batch, number)| batch.number == number));
    }
}

#[test]
fn triggers_leave_in_full_batches_and_the_rest_at_the_end_of_the_line() {
    let mut shell = Shell::new(tide(12), Settings { batch_size: 4, ..settings() }, 3);
    shell.tick(3);
    assert_eq!(shell.batches, []);
    shell.tick(5);
    shell.now = START.plus_ms(1_000);
    shell.tick(9);
    let sizes: Vec<_> =
        shell.batches.iter().map(|batch| (batch.number, batch.size, batch.at.ms_since(START))).collect();
    // Ten cards: the last two follow although no batch is full.
    assert_eq!(sizes, [(1, 4, 0), (2, 4, 1_000), (3, 2, 1_000)]);
}

#[test]
fn cards_that_called_meanwhile_are_not_called_in() {
    let mut shell = Shell::new(tide(10), settings(), 3);
    shell.tick(1);
    shell.cards.get_mut(&7).unwrap().done = true;
    shell.tick(3);
    // And the next one gets what they would have used.
    assert_eq!(shell.cards_sent(), [9, 8, 6, 5]);
}

#[test]
fn the_second_attempt_goes_to_the_silent_ones_after_the_backoff_in_the_same_order() {
    let again = Settings { attempts: 2, backoff_s: 7_200, ..settings() };
    let mut shell = Shell::new(tide(50), again, 3);
    shell.tick(24);
    shell.now = START.plus_ms(HOUR);
    shell.tick(24);
    // Card 2 has come near meanwhile.
    assert_eq!(shell.sent.len(), 47);
    for card in [49, 47, 20, 3] {
        assert_eq!(shell.cards[&card].triggers, 1);
    }
    shell
        .cards
        .iter_mut()
        .filter(|(card, _)| ![49, 47, 20, 3].contains(card))
        .for_each(|(_, row)| row.done = true);
    // The upper half was triggered at the start, the lower an hour later.
    shell.tick(100);
    assert_eq!(shell.wake, Some(START.plus_ms(2 * HOUR)));
    shell.now = START.plus_ms(2 * HOUR);
    shell.tick(100);
    assert_eq!(shell.sent[47..], [(49, 2), (47, 2)]);
    assert_eq!(shell.wake, Some(START.plus_ms(3 * HOUR)));
    shell.now = START.plus_ms(3 * HOUR);
    shell.tick(100);
    // Card 3 polls now by itself.
    assert_eq!(shell.sent[49..], [(20, 2)]);
}

#[test]
fn cards_never_seen_follow_the_setting() {
    let new = |card: u32| (card, Row { seen: false, ..row(0, i64::from(card)) });
    let cards = || (2..6).map(|card| if card % 2 == 0 { new(card) } else { (card, row(0, i64::from(card))) });
    for (never_seen, expected) in [
        (NeverSeen::Never, vec![5, 3]),
        (NeverSeen::LikeOthers, vec![5, 4, 3, 2]),
        (NeverSeen::Last, vec![5, 3, 4, 2]),
    ] {
        let mut shell = Shell::new(cards(), Settings { never_seen, ..settings() }, 1);
        shell.tick(100);
        assert_eq!(shell.cards_sent(), expected, "{never_seen:?}");
        let by_update = Settings { never_seen, order: Order::LastUpdate, ..settings() };
        let mut shell = Shell::new(cards(), by_update, 1);
        shell.tick(100);
        let sent: BTreeSet<_> = shell.cards_sent().into_iter().collect();
        assert_eq!(sent, expected.into_iter().collect(), "{never_seen:?}");
        assert_eq!(shell.cards_sent()[..2], [5, 3]);
    }
}

#[test]
fn missed_polls_are_triggered_in_later_passes_until_they_are_hopeless() {
    let cards = [(1, row(0, 100)), (2, row(0, -1)), (3, row(0, -30)), (4, row(0, -1_000))];
    let again = Settings { attempts: 2, backoff_s: 0, ..settings() };
    let mut shell = Shell::new(cards, again, 1);
    shell.tick(100);
    // Card 2 is only late, card 4 has been away for more than 20 days.
    assert_eq!(shell.sent, [(1, 1), (1, 2), (3, 2)]);
}

#[test]
fn it_finishes_when_nobody_is_expected_any_more_and_says_who_is_missing() {
    let mut cards = tide(6);
    cards.push((6, Row { seen: false, ..row(0, 50) }));
    cards.push((7, row(1, -1_000)));
    let mut shell = Shell::new(cards, settings(), 3);
    shell.tick(100);
    for card in [0, 1, 3, 4, 5] {
        shell.cards.get_mut(&card).unwrap().done = true;
    }
    shell.now = START.plus_ms(HOUR);
    shell.tick(100);
    assert_eq!(shell.finished, None, "card 2 is expected in an hour");
    while shell.finished.is_none() {
        let wake = shell.wake.take().unwrap();
        assert!(wake > shell.now && wake <= START.plus_ms(5 * HOUR), "{wake:?}");
        shell.now = wake;
        shell.tick(0);
    }
    assert_eq!(shell.finished, Some(Absentees { never_seen: 1, overdue: 1, silent: 1 }));
    assert_eq!(shell.engine.saved(7), None);
}

#[test]
fn a_campaign_without_anybody_finishes_at_once() {
    let mut shell = Shell::new([], settings(), 3);
    shell.tick(1);
    assert_eq!(shell.finished, Some(Absentees::default()));
    let mut shell = Shell::new([], settings(), 0);
    shell.tick(1);
    assert_eq!(shell.finished, Some(Absentees::default()));
}

#[test]
fn while_paused_nothing_leaves_and_a_resume_looks_from_the_top() {
    let mut shell = Shell::new(tide(20), settings(), 3);
    shell.tick(5);
    shell.verb(Verb::Pause);
    shell.tick(100);
    assert_eq!(shell.sent.len(), 5);
    for card in 15..20 {
        shell.cards.get_mut(&card).unwrap().done = true;
    }
    shell.cards.insert(30, row(1, 30));
    shell.verb(Verb::Resume);
    shell.tick(2);
    assert_eq!(shell.cards_sent()[5..], [30, 14]);
}

#[test]
fn cards_that_join_are_found_and_the_others_keep_their_backoff() {
    let again = Settings { attempts: 2, backoff_s: 7_200, ..settings() };
    let mut shell = Shell::new(tide(30), again, 3);
    shell.tick(100);
    shell.now = START.plus_ms(2 * HOUR);
    shell.tick(1);
    assert_eq!(shell.sent.last(), Some(&(29, 2)));
    // In a lane that was not there at the start: its operator is new.
    shell.cards.insert(60, row(5, 60));
    shell.verb(Verb::AudienceGrew { lanes: (0..6).map(lane).collect() });
    shell.tick(1);
    assert_eq!(shell.sent.last(), Some(&(60, 2)));
    shell.tick(10);
    // Card 29 had its second trigger just now: the line waits for it.
    assert_eq!(shell.sent.len(), 30);
    assert_eq!(shell.wake, Some(START.plus_ms(4 * HOUR)));
}

#[test]
fn a_stop_ends_it_for_good() {
    let mut shell = Shell::new(tide(20), settings(), 3);
    shell.tick(5);
    shell.verb(Verb::Stop);
    shell.tick(100);
    shell.verb(Verb::Resume);
    shell.tick(100);
    assert_eq!((shell.sent.len(), shell.finished), (5, None));
}

#[test]
fn too_many_failures_pause_it() {
    let thresholds = Thresholds { failed_percent: 20, results_min: 10 };
    let mut engine = Engine::<u32>::default();
    let settings = Settings { thresholds, ..settings() };
    engine.handle(START, Event::Verb { campaign: 7, verb: Verb::Start { settings, lanes: vec![lane(0)] } });
    let mut results = |done, failed| {
        engine.handle(START, Event::Results { campaign: 7, done, failed });
        std::iter::from_fn(|| engine.next_command()).find(|command| matches!(command, Command::Paused { .. }))
    };
    assert_eq!(results(4, 5), None, "too few to tell");
    assert_eq!(results(32, 3), Some(Command::Paused { campaign: 7, failed: 8, done: 36 }).filter(|_| false));
    assert_eq!(results(0, 1), Some(Command::Paused { campaign: 7, failed: 9, done: 36 }));
    assert_eq!(results(0, 1), None, "it is paused already");
}

#[test]
fn campaigns_share_by_weight_and_nothing_is_lost() {
    let mut engine = Engine::<u32>::default();
    let start = |weight, batch_size| Verb::Start {
        settings: Settings { weight, batch_size, ..settings() },
        lanes: vec![lane(0)],
    };
    let mut sent = BTreeMap::from([(1u32, 0u32), (2, 0)]);
    let mut drive = |engine: &mut Engine<u32>, event, now| {
        engine.handle(now, event);
        let mut left = 0;
        while let Some(command) = engine.next_command() {
            match command {
                Command::NextPage { campaign, generation, lane, below, .. } => {
                    let first = below.map_or(0, |cursor| cursor.card + 1);
                    let candidates: Vec<_> = (first..first + 100)
                        .map(|card| Candidate {
                            place: Cursor { key: START.plus_ms(100 * DAY), card },
                            last_update: Some(START),
                            next_poll: START.plus_ms(100 * DAY),
                        })
                        .collect();
                    let next = candidates.last().map(|last| last.place);
                    engine.handle(now, Event::Page { campaign, generation, lane, candidates, next });
                }
                Command::Trigger { campaign, cards, .. } => {
                    *sent.get_mut(&campaign).unwrap() += cards.len() as u32;
                    left += cards.len() as u32;
                }
                _ => {}
            }
        }
        left
    };
    drive(&mut engine, Event::Verb { campaign: 1, verb: start(3, 1) }, START);
    drive(&mut engine, Event::Verb { campaign: 2, verb: start(1, 25) }, START);
    // Three per tick, as a flow allows them: what a batch is saved up for stays allowed.
    let (mut allowed, mut total) = (0, 0);
    for second in 0..1_000 {
        allowed += 3;
        let left = drive(&mut engine, Event::Tick { triggers: allowed }, START.plus_s(second));
        (allowed, total) = (allowed - left, total + left);
    }
    assert!(total >= 2_970, "{total}");
    assert!(sent[&1].abs_diff(2_250) < 40 && sent[&2].abs_diff(750) < 40, "{sent:?}");
}

#[test]
fn a_run_goes_on_where_another_process_left_off() {
    let again = Settings { attempts: 2, batch_size: 3, ..settings() };
    let mut whole = Shell::new(tide(60), again.clone(), 3);
    let mut broken = Shell::new(tide(60), again, 3);
    for step in 0..60 {
        for shell in [&mut whole, &mut broken] {
            shell.now = START.plus_ms(step * HOUR / 2);
            shell.tick(4);
        }
        let saved = broken.engine.saved(7).unwrap();
        let json = serde_json::to_string(&saved).unwrap();
        broken.engine = Engine::default();
        broken.verb(Verb::Restore(Box::new(serde_json::from_str(&json).unwrap())));
    }
    assert_eq!(broken.sent, whole.sent);
    assert_eq!(broken.batches, whole.batches);
    assert!(whole.sent.iter().any(|(_, pass)| *pass == 2));
}

#[test]
fn pages_of_an_earlier_line_and_of_strangers_are_dropped() {
    let mut engine = Engine::<u32>::default();
    engine.handle(
        START,
        Event::Verb { campaign: 7, verb: Verb::Start { settings: settings(), lanes: vec![lane(0)] } },
    );
    let page = |generation, card, lane| Event::Page {
        campaign: 7,
        generation,
        lane,
        candidates: vec![Candidate {
            place: Cursor { key: START.plus_ms(DAY), card },
            last_update: Some(START),
            next_poll: START.plus_ms(DAY),
        }],
        next: None,
    };
    let mut sent = |event| {
        engine.handle(START, event);
        let mut cards = Vec::new();
        while let Some(command) = engine.next_command() {
            if let Command::Trigger { cards: leaving, .. } = command {
                cards.extend(leaving.iter().map(|chosen| chosen.card));
            }
        }
        cards
    };
    assert_eq!(sent(Event::Tick { triggers: 10 }), [0u32; 0]);
    assert_eq!(sent(page(0, 1, lane(0))), [0u32; 0], "another generation");
    assert_eq!(sent(page(1, 2, lane(5))), [0u32; 0], "a lane that is not its own");
    assert_eq!(sent(page(1, 3, lane(0))), [3]);
    assert_eq!(sent(page(1, 4, lane(0))), [0u32; 0], "nobody asked");
}

/// A page without candidates that does not move on must not be asked for again and again.
#[test]
fn a_store_that_stands_still_does_not_spin() {
    let mut engine = Engine::<u32>::default();
    engine.handle(
        START,
        Event::Verb { campaign: 7, verb: Verb::Start { settings: settings(), lanes: vec![lane(0)] } },
    );
    let mut asked = 0;
    while let Some(command) = engine.next_command() {
        if let Command::NextPage { campaign, generation, lane, below, .. } = command {
            asked += 1;
            let stuck = below.or(Some(Cursor { key: START, card: 0 }));
            engine.handle(START, Event::Page { campaign, generation, lane, candidates: vec![], next: stuck });
        }
        assert!(asked < 20);
    }
}

#[test]
fn settings_outside_their_range_are_refused() {
    assert_eq!(Settings::default().check(), Ok(()));
    for (bad, name) in [
        (Settings { attempts: 0, ..settings() }, "attempts"),
        (Settings { batch_size: 0, ..settings() }, "batch_size"),
        (Settings { weight: 0, ..settings() }, "weight"),
        (Settings { validity_s: 1, ..settings() }, "validity_s"),
        (
            Settings { thresholds: Thresholds { failed_percent: 0, results_min: 1 }, ..settings() },
            "failed_percent",
        ),
    ] {
        assert!(bad.check().unwrap_err().to_string().starts_with(name));
    }
    assert!(serde_json::from_str::<Settings>("{\"colour\": 1}").is_err());
    assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), Settings::default());
}

fn any_row() -> impl Strategy<Value = Row> {
    (0u16..4, -60i64..300, 0u8..10)
        .prop_map(|(bucket, next_poll_h, seen)| Row { seen: seen > 0, ..row(bucket, next_poll_h) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Against the rule said in one line: the first pass triggers exactly the seen cards that are further away than an
    /// hour, in the order of (date, latest first; card), whatever the pages, ticks and buckets are.
    #[test]
    fn the_first_pass_is_the_sorted_list(
        rows in proptest::collection::vec(any_row(), 0..60),
        ticks in proptest::collection::vec(0u32..12, 1..40),
        rows_max in 1u16..8,
    ) {
        let cards: Vec<(u32, Row)> = (0..).zip(rows).collect();
        let mut expected: Vec<_> =
            cards.iter().filter(|(_, row)| row.seen && row.next_poll > HOUR).map(|(card, row)| (-row.next_poll, *card)).collect();
        expected.sort_unstable();
        let mut shell = Shell::new([], settings(), 4);
        shell.engine = Engine::default();
        (shell.cards, shell.rows_max) = (cards.into_iter().collect(), rows_max);
        shell.verb(Verb::Start { settings: settings(), lanes: (0..4).map(lane).collect() });
        for triggers in &ticks {
            shell.tick(*triggers);
        }
        let expected: Vec<_> = expected.into_iter().map(|(_, card)| card).collect();
        let allowed: u32 = ticks.iter().sum();
        let sent = shell.cards_sent();
        prop_assert_eq!(sent.len(), expected.len().min(allowed as usize));
        prop_assert_eq!(&sent[..], &expected[..sent.len()]);
    }

    /// Over any course of polls, pauses and ticks: nobody who is done is triggered, nobody more often than attempts and
    /// pauses allow, each pass keeps the order among cards that stood in the line, and it ends when everybody is done.
    #[test]
    fn any_course_keeps_the_promises(
        rows in proptest::collection::vec(any_row(), 1..40),
        steps in proptest::collection::vec((0u8..10, 0u32..8, 0u32..40), 1..80),
        batch_size in 1u32..5,
    ) {
        let cards: Vec<(u32, Row)> = (0..).zip(rows).collect();
        let settings = Settings { attempts: 3, batch_size, backoff_s: 3_600, ..Settings::default() };
        let mut shell = Shell::new(cards, settings, 4);
        let mut looks = 0;
        for (what, triggers, card) in steps {
            match what {
                0 => shell.verb(Verb::Pause),
                1 => {
                    shell.verb(Verb::Resume);
                    looks += 1;
                }
                2..=4 => {
                    if let Some(row) = shell.cards.get_mut(&card) {
                        row.done = true;
                    }
                }
                5 => shell.now = shell.now.plus_ms(5 * HOUR),
                _ => shell.now = shell.now.plus_ms(HOUR / 4),
            }
            shell.tick(triggers);
        }
        for row in shell.cards.values() {
            prop_assert!(row.triggers <= 3 + looks);
            prop_assert!(row.seen || row.triggers == 0);
        }
        if looks == 0 {
            for pass in 1..=3 {
                let keys: Vec<_> = shell.sent.iter().filter(|(_, at)| *at == pass)
                    .map(|(card, _)| Cursor { key: shell.key(&shell.cards[card]), card: *card }).collect();
                prop_assert!(keys.is_sorted(), "pass {}: {:?}", pass, keys);
            }
        }
        shell.cards.values_mut().for_each(|row| row.done = true);
        shell.verb(Verb::Resume);
        for _ in 0..60 {
            shell.now = shell.now.plus_ms(DAY);
            shell.tick(10);
        }
        prop_assert!(shell.finished.is_some());
    }

    #[test]
    fn milestones_never_let_a_card_wait_too_short(
        steps in proptest::collection::vec((0i64..5, 0i64..5), 1..10_000),
    ) {
        let mut milestones = Milestones::default();
        let (mut key, mut at, mut noted) = (1_000_000i64, 0i64, Vec::new());
        for (down, later) in steps {
            let first = key;
            key -= down;
            at += later;
            milestones.note(EpochMs(first), EpochMs(key), EpochMs(at));
            noted.push((key, at));
        }
        for (key, at) in noted {
            prop_assert!(milestones.at(EpochMs(key)).is_some_and(|known| known.0 >= at));
        }
        prop_assert_eq!(milestones.at(EpochMs(key - 1)), None);
        prop_assert_eq!(milestones.at(EpochMs(1_000_001)), None);
    }
}
