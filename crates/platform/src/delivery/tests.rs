//! The machine of a delivery: events to commands, and what holds for every order of events.

use proptest::prelude::*;
use simtide_protocol::ids::{CardId, DeliveryId, EpochMs, Iccid};
use simtide_protocol::poll_date::{MarkFile, MarkPhase};
use simtide_protocol::profile::Profile;

use super::*;
use crate::content::Content;

const NOW: EpochMs = EpochMs(1_000_000_000);

fn card() -> CardId {
    CardId::from("8988211000000000011".parse::<Iccid>().unwrap())
}

fn content(repeatable: bool, steps: &str) -> Content {
    serde_json::from_str(&format!(r#"{{"repeatable": {repeatable}, "variants": {{"*": [{steps}]}}}}"#))
        .unwrap()
}

const SMALL: &str = r#"{"do": {"file_update": {"path": "3F00/7F90/6F04", "data": "0102"}}}"#;

fn portions(repeatable: bool, steps: &str) -> Vec<Portion> {
    pack(&content(repeatable, steps), &Profile::standard(), 0x8000_0001, 1_024).unwrap()
}

fn delivery(portions: Vec<Portion>, repeatable: bool, urgency: Urgency) -> Delivery {
    Delivery::new(
        NOW,
        Wish {
            id: DeliveryId(7),
            card: card(),
            cause: Cause::Request,
            portions,
            repeatable,
            bearers: Bearers::ALL,
            urgency,
            limit: NOW.plus_s(86_400),
        },
    )
}

/// A card with a number, and with a second interface to ask on.
fn covered() -> Presence {
    Presence { sms: true, ip: true, ..Presence::default() }
}

/// The same without coverage, seen on the second interface.
fn wifi_only() -> Presence {
    Presence { sms_failed: Some(NOW), ip_seen: Some(NOW), ..covered() }
}

struct Run {
    machine: Delivery,
    presence: Presence,
    settings: Settings,
}

impl Run {
    fn new(machine: Delivery, presence: Presence) -> Run {
        Run { machine, presence, settings: Settings::default() }
    }

    fn at(&mut self, s: i64, event: Event) -> Vec<Command> {
        self.machine.handle(NOW.plus_s(s), event, &self.presence, &self.settings)
    }
}

fn proof(by: Bearer) -> Event {
    Event::Proof { by: by.into(), answer: ScriptAnswer::OK }
}

#[test]
fn short_messages_first_and_the_same_packet_over_ip_when_they_fail() {
    let mut run = Run::new(delivery(portions(true, SMALL), true, Urgency::Normal), covered());
    let until = NOW.plus_s(900);
    assert_eq!(
        run.at(0, Event::Look),
        [Command::Reserve, Command::SubmitSms { until }, Command::WakeAt(until)]
    );
    assert_eq!(run.at(0, Event::Reserved { counter: 5 }), []);
    run.presence = Presence { sms_failed: Some(NOW.plus_s(60)), ..run.presence };
    let until = NOW.plus_s(60 + 300);
    assert_eq!(run.at(60, Event::Failed { bearer: Bearer::Sms }), [Command::Notify, Command::WakeAt(until)]);
    assert_eq!(run.at(70, Event::Asked)[0], Command::Offer, "no second counter");
    assert_eq!(run.machine.under_way.as_ref().unwrap().counter, Some(5));
    run.at(71, Event::Fetched);
    assert_eq!(run.machine.state, State::Fetched);
    assert_eq!(run.at(72, proof(Bearer::Ip)), [Command::Abandon, Command::Closed][1..]);
    assert_eq!(run.machine.state, State::Proven { by: Bearer::Ip });
    for event in [proof(Bearer::Sms), Event::Cancel, Event::Look, Event::Asked] {
        assert_eq!(run.at(80, event), [], "success absorbs");
    }
}

#[test]
fn a_device_without_coverage_is_served_when_it_asks_and_not_before() {
    let mut run = Run::new(delivery(portions(true, SMALL), true, Urgency::Normal), wifi_only());
    let wake = Command::WakeAt(NOW.plus_s(300));
    assert_eq!(run.at(0, Event::Look), [Command::Notify, wake]);
    assert_eq!(run.machine.state, State::Requested, "the key set stays free until then");
    assert_eq!(run.at(10, Event::Asked)[..2], [Command::Reserve, Command::Offer]);
    run.at(10, Event::Reserved { counter: 1 });
    assert_eq!(run.at(11, Event::Asked)[0], Command::Offer, "offered again until it is fetched");
    run.at(12, proof(Bearer::Ip));
    assert_eq!(run.machine.state, State::Proven { by: Bearer::Ip });
}

#[test]
fn what_is_told_stands_in_the_order_in_which_it_was() {
    let mut run = Run::new(delivery(portions(true, SMALL), true, Urgency::Normal), covered());
    run.at(0, Event::Look);
    run.at(0, Event::Reserved { counter: 5 });
    run.at(9, Event::Reached);
    let told: Vec<_> = run.machine.milestones.all().iter().map(|(_, one)| *one).collect();
    let sent = Milestone::SentBy { bearer: Bearer::Sms };
    assert_eq!(told, [Milestone::Requested, Milestone::Sealed { counter: 5 }, sent, Milestone::Reached]);
}

#[test]
fn every_bearer_has_its_turn_and_then_the_round_begins_again_after_a_pause() {
    let mut run = Run::new(delivery(portions(true, SMALL), true, Urgency::Normal), covered());
    run.at(0, Event::Look);
    run.at(0, Event::Reserved { counter: 1 });
    assert_eq!(run.at(900, Event::Look)[0], Command::Notify, "over IP");
    assert_eq!(run.at(1_200, Event::Look), [Command::WakeAt(NOW.plus_s(1_800))], "a pause");
    let second = run.at(1_800, Event::Look);
    assert_eq!(second[0], Command::SubmitSms { until: NOW.plus_s(2_700) }, "the same bytes again");
    assert_eq!(run.machine.under_way.as_ref().unwrap().sms_copies, 2);
    for round in 0..20 {
        let after = 2_700 + round * 3_600;
        if after < 86_400 {
            run.at(after, Event::Look);
        }
    }
    assert!(run.machine.under_way.as_ref().unwrap().sms_copies <= run.settings.sms_attempts_max);
    assert_eq!(run.at(86_400, Event::Look), [Command::Abandon, Command::Closed]);
    assert_eq!(run.machine.state, State::Unproven, "nobody knows");
    assert_eq!(run.at(90_000, proof(Bearer::Sms)), [Command::Closed], "a late proof settles it");
    assert_eq!(run.machine.state, State::Proven { by: Bearer::Sms });
}

#[test]
fn nothing_left_means_expired_and_not_unknown() {
    let mut run = Run::new(delivery(portions(true, SMALL), true, Urgency::Normal), Presence::default());
    assert_eq!(run.at(0, Event::Look), [Command::WakeAt(NOW.plus_s(600))]);
    assert_eq!(run.at(86_400, Event::Look), [Command::Closed]);
    assert_eq!(run.machine.state, State::Expired);
}

#[test]
fn packets_follow_one_another_and_each_waits_for_the_proof_before_it() {
    let steps =
        format!(r#"{SMALL}, {{"do": {{"script": {{"commands": ["00A40004023F00"]}}}}, "tar": "B00000"}}"#);
    let mut run = Run::new(delivery(portions(true, &steps), true, Urgency::Normal), covered());
    assert_eq!(run.machine.portions.len(), 2);
    run.at(0, Event::Look);
    run.at(0, Event::Reserved { counter: 1 });
    let next = run.at(5, proof(Bearer::Sms));
    assert_eq!(next[0], Command::Reserve, "the second one at once");
    run.at(5, Event::Reserved { counter: 2 });
    run.at(9, proof(Bearer::Sms));
    assert_eq!(run.machine.state, State::Proven { by: Bearer::Sms });
}

#[test]
fn a_failed_command_ends_it_goes_on_or_is_undone_as_the_step_says() {
    let failed = Event::Proof {
        by: Bearer::Sms.into(),
        answer: ScriptAnswer { status: 0, executed: Some(2), word: Some(0x6982) },
    };
    let step = |failing: &str| {
        format!(r#"{{"do": {{"file_update": {{"path": "3F00/7F90/6F04", "data": "01"}}}}{failing}}}"#)
    };
    let mut run = Run::new(delivery(portions(true, &step("")), true, Urgency::Normal), covered());
    run.at(0, Event::Look);
    assert_eq!(run.at(1, failed), [Command::Closed]);
    assert!(matches!(run.machine.state, State::Refused { answer } if answer.explained().contains("6982")));

    let steps = format!(r#"{}, {SMALL}"#, step(r#", "on_failure": "go_on""#));
    let mut run = Run::new(delivery(portions(true, &steps), true, Urgency::Normal), covered());
    run.at(0, Event::Look);
    assert_eq!(run.at(1, failed)[0], Command::Reserve);
    assert_eq!(run.machine.place, 1);

    let undo = step(r#", "on_failure": {"undo": ["00A40004023F00"]}"#);
    let mut run =
        Run::new(delivery(portions(true, &format!("{undo}, {SMALL}")), true, Urgency::Normal), covered());
    run.at(0, Event::Look);
    assert_eq!(run.at(1, failed)[0], Command::Reserve);
    assert_eq!(run.machine.portion().unwrap().commands, 1);
    assert_eq!(run.at(2, proof(Bearer::Sms)), [Command::Closed]);
    assert!(matches!(run.machine.state, State::Refused { .. }), "undone, and failed all the same");
}

#[test]
fn a_poll_replaces_no_copy_that_may_still_have_its_effect() {
    let mut run = Run::new(delivery(portions(false, SMALL), false, Urgency::Normal), covered());
    run.at(0, Event::Look);
    assert!(!run.machine.may_poll(NOW.plus_s(1)) && run.machine.keeps_from_polls(NOW.plus_s(1)));
    assert!(run.machine.may_poll(NOW.plus_s(900)), "its validity is over, and the mark tells");
    assert_eq!(run.at(900, Event::PollOpened), [Command::Abandon]);
    assert_eq!(run.at(901, Event::Asked), [], "one operation at a time");
    run.at(902, Event::PollEnded { outcome: Polled::Done });
    assert_eq!(run.machine.state, State::Proven { by: Bearer::Poll });

    let mut run = Run::new(delivery(portions(false, SMALL), false, Urgency::Normal), wifi_only());
    run.at(0, Event::Asked);
    assert!(!run.machine.may_poll(NOW.plus_s(80_000)), "a device may keep it for as long as it likes");
    let mut run = Run::new(delivery(portions(true, SMALL), true, Urgency::Normal), wifi_only());
    run.at(0, Event::Asked);
    assert!(run.machine.may_poll(NOW.plus_s(1)), "twice does no harm");
}

#[test]
fn after_a_broken_poll_only_the_mark_can_tell() {
    let mut run = Run::new(delivery(portions(false, SMALL), false, Urgency::Low), covered());
    run.presence.next_poll = Some(NOW.plus_s(100));
    run.at(0, Event::Look);
    assert_eq!(run.at(100, Event::PollOpened), []);
    run.at(101, Event::PollEnded { outcome: Polled::Broken { marked: true } });
    assert_eq!(run.machine.bearers, Bearers::NONE.with(Bearer::Poll));
    assert_eq!(run.at(200, Event::Asked), []);
}

#[test]
fn an_urgent_one_goes_both_ways_with_the_same_bytes() {
    let mut run = Run::new(delivery(portions(true, SMALL), true, Urgency::High), covered());
    let commands = run.at(0, Event::Look);
    assert!(commands.contains(&Command::Notify) && commands.contains(&Command::Reserve));
    run.at(0, Event::Reserved { counter: 1 });
    assert_eq!(run.at(1, Event::Asked), [Command::Offer]);
    run.at(2, proof(Bearer::Sms));
    assert_eq!(run.machine.state, State::Proven { by: Bearer::Sms }, "the proof tells where both had it");
}

#[test]
fn another_open_packet_of_the_card_is_waited_for() {
    let mut run = Run::new(delivery(portions(true, SMALL), true, Urgency::Normal), covered());
    run.at(0, Event::Look);
    assert_eq!(run.at(0, Event::PassedOver), [Command::WakeAt(NOW.plus_s(30))]);
    assert_eq!((run.machine.state, run.machine.under_way.is_none()), (State::Requested, true));
    assert_eq!(run.at(30, Event::Look)[0], Command::Reserve);
}

const LOW: ScriptAnswer = ScriptAnswer::COUNTER_LOW;

fn marked(number: u32, step: u8, phase: MarkPhase) -> Event {
    Event::Marked { by: Bearer::Ip.into(), mark: Some(MarkFile { campaign: number, step, phase }) }
}

/// Runs until the device has the first packet and the card says that it had it before.
fn had_before(repeatable: bool, steps: &str) -> (Run, Vec<Command>) {
    let mut run = Run::new(delivery(portions(repeatable, steps), repeatable, Urgency::Normal), wifi_only());
    run.at(0, Event::Asked);
    run.at(0, Event::Reserved { counter: 1 });
    run.at(1, Event::Fetched);
    let commands = run.at(2, Event::Proof { by: Bearer::Ip.into(), answer: LOW });
    (run, commands)
}

#[test]
fn a_lost_answer_costs_another_packet_and_no_refusal() {
    let (mut run, commands) = had_before(true, SMALL);
    assert_eq!(commands[0], Command::Abandon);
    assert_eq!((run.machine.state, run.machine.asking), (State::Requested, false));
    assert_eq!(run.at(3, Event::Asked)[..2], [Command::Reserve, Command::Offer]);
    run.at(4, proof(Bearer::Ip));
    assert_eq!(run.machine.state, State::Proven { by: Bearer::Ip });
}

#[test]
fn the_mark_tells_what_became_of_a_lost_answer() {
    let two = format!("{SMALL}, {SMALL}");
    let number = 0x8000_0001;
    let after = |mark: Event| {
        let (mut run, commands) = had_before(false, &two);
        assert_eq!(commands[0], Command::Abandon);
        assert!(run.machine.asking);
        run.at(3, Event::Asked);
        let asked = run.machine.sending().unwrap().clone();
        assert_ne!(Some(&asked), run.machine.portion());
        run.at(3, Event::Reserved { counter: 2 });
        run.at(4, mark);
        assert!(run.machine.under_way.is_none() && !run.machine.asking);
        (run.machine.state, run.machine.place)
    };
    assert_eq!(after(marked(number, 0, MarkPhase::Done)), (State::Requested, 1), "it was done");
    assert_eq!(after(marked(number, 0, MarkPhase::None)), (State::Requested, 0), "it never began");
    assert_eq!(after(marked(7, 0, MarkPhase::Done)), (State::Requested, 0), "the mark of another campaign");
    let refused = State::Refused { answer: ScriptAnswer::INTERRUPTED };
    assert_eq!(after(marked(number, 0, MarkPhase::Begun)).0, refused);
    assert_eq!(after(Event::Marked { by: Bearer::Ip.into(), mark: None }).0, refused);
    assert_eq!(after(proof(Bearer::Ip)).0, refused, "the question itself is refused");
}

#[test]
fn a_proof_that_may_still_come_by_short_message_is_waited_for() {
    let run = || {
        let mut run = Run::new(delivery(portions(true, SMALL), true, Urgency::Normal), covered());
        run.at(0, Event::Look);
        run.at(0, Event::Reserved { counter: 1 });
        run.at(5, Event::Asked);
        let waits = run.at(6, Event::Proof { by: Bearer::Ip.into(), answer: LOW });
        assert_eq!(waits, [Command::WakeAt(NOW.plus_s(900))]);
        assert_eq!(run.at(7, Event::Asked), [], "the card would refuse it again");
        run
    };
    let mut proven = run();
    proven.at(20, proof(Bearer::Sms));
    assert_eq!(proven.machine.state, State::Proven { by: Bearer::Sms });
    let mut lost = run();
    assert_eq!(lost.at(900, Event::Look)[..2], [Command::Abandon, Command::Reserve]);
}

#[test]
fn a_counter_that_stays_behind_ends_it() {
    let (mut run, _) = had_before(false, SMALL);
    for n in 0..8 {
        run.at(10 + n, Event::Asked);
        run.at(10 + n, Event::Proof { by: Bearer::Ip.into(), answer: LOW });
    }
    assert_eq!(run.machine.state, State::Refused { answer: LOW });
}

#[test]
fn packets_are_cut_marked_and_never_weak() {
    let long = format!(
        r#"{{"do": {{"applet_install": {{"load_file": "A0000000010203", "module": "A000000001020301",
        "instance": "A000000001020302", "code": "{}"}}}}}}"#,
        "AB".repeat(4_000)
    );
    let packets = portions(false, &long);
    assert!(packets.len() > 3 && packets.iter().all(|one| one.data.0.len() <= 1_024 + 128));
    let marks = |portion: &Portion| portion.data.0.windows(4).filter(|four| *four == [0x80, 0, 0, 1]).count();
    assert_eq!((marks(&packets[0]), marks(&packets[1]), marks(packets.last().unwrap())), (1, 0, 1));
    let unmarked = portions(true, SMALL);
    assert_eq!(marks(&unmarked[0]), 0);
    let mut weak = Profile::standard();
    for spi in [[0x02, 0x39], [0x16, 0x31], [0x16, 0x00], [0x15, 0x39], [0x06, 0x39]] {
        weak.key_sets[0].spi = spi.into();
        let refused = pack(&content(true, SMALL), &weak, 1, 1_024);
        assert!(matches!(refused, Err(PackError::Weak(..))), "{spi:02X?}");
    }
}

#[test]
fn what_waits_is_held_against_what_the_card_has() {
    use std::collections::BTreeMap;
    let versions = |text: &str| BTreeMap::from([("firmware".to_owned(), text.to_owned())]);
    assert!(has_all(&versions("1.10"), &versions("1.9")) && has_all(&versions("2"), &versions("2.0")));
    assert!(!has_all(&versions("1.9"), &versions("1.10")) && !has_all(&versions("1"), &BTreeMap::new()));
    assert!(!has_all(&BTreeMap::new(), &versions("1")));
}

fn event() -> impl Strategy<Value = Event> {
    let bearer = prop_oneof![Just(Bearer::Poll), Just(Bearer::Sms), Just(Bearer::Ip)];
    let answer = prop_oneof![
        Just(ScriptAnswer::OK),
        Just(ScriptAnswer { status: 0, executed: Some(1), word: Some(0x6982) }),
        Just(ScriptAnswer { status: 0x0B, executed: None, word: None }),
        Just(ScriptAnswer { status: 0x09, executed: None, word: None }),
        Just(ScriptAnswer::COUNTER_LOW),
    ];
    let mark = proptest::option::of((0u8..4, any::<bool>()).prop_map(|(step, done)| MarkFile {
        campaign: 0x8000_0001,
        step,
        phase: if done { MarkPhase::Done } else { MarkPhase::Begun },
    }));
    prop_oneof![
        4 => Just(Event::Look),
        3 => Just(Event::Asked),
        2 => Just(Event::Fetched),
        2 => Just(Event::Reached),
        2 => Just(Event::PassedOver),
        2 => (1u64..9).prop_map(|counter| Event::Reserved { counter }),
        2 => bearer.clone().prop_map(|bearer| Event::Failed { bearer }),
        3 => (bearer, answer).prop_map(|(by, answer)| Event::Proof { by: by.into(), answer }),
        2 => mark.prop_map(|mark| Event::Marked { by: Bearer::Ip.into(), mark }),
        1 => Just(Event::PollOpened),
        1 => Just(Event::PollEnded { outcome: Polled::Done }),
        1 => Just(Event::PollEnded { outcome: Polled::Broken { marked: true } }),
        1 => Just(Event::Cancel),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_happens_one_packet_is_open_at_a_time_and_the_end_is_the_end(
        events in proptest::collection::vec((0i64..4_000, event()), 1..60),
        repeatable in any::<bool>(),
    ) {
        let steps = format!("{SMALL}, {SMALL}, {SMALL}");
        let mut run = Run::new(delivery(portions(repeatable, &steps), repeatable, Urgency::Normal), covered());
        let (mut now, mut reserved) = (0, false);
        for (pause, event) in events {
            now += pause;
            let before = run.machine.clone();
            let commands = run.at(now, event);
            let says = |wanted: Command| commands.contains(&wanted);
            let answered = matches!(event, Event::Proof { .. } | Event::Marked { .. } | Event::PassedOver);
            let is_over = run.machine.under_way.is_none() || says(Command::Reserve);
            if reserved && answered && is_over && !says(Command::Abandon) {
                reserved = false;
            }
            if says(Command::Abandon) {
                prop_assert!(reserved, "what is given up was reserved");
                reserved = false;
            }
            if says(Command::Reserve) {
                prop_assert!(!reserved, "one packet at a time");
                reserved = true;
            }
            if says(Command::Offer) || commands.iter().any(|one| matches!(one, Command::SubmitSms { .. })) {
                prop_assert!(run.machine.under_way.is_some());
                prop_assert!(run.machine.state.is_open());
            }
            let closed = commands.iter().filter(|one| **one == Command::Closed).count();
            prop_assert_eq!(closed > 0, run.machine.state != before.state && !run.machine.state.is_open());
            if !before.state.is_open() && before.state != State::Unproven {
                prop_assert_eq!(&run.machine, &before);
            }
            prop_assert!(usize::from(run.machine.place) <= run.machine.portions.len());
            let body = serde_json::to_vec(&run.machine).unwrap();
            let mut read = serde_json::from_slice::<Delivery>(&body).unwrap();
            read.resume(portions(repeatable, &steps));
            prop_assert_eq!(&read, &run.machine);
        }
    }
}
