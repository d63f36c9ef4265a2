//! Inputs -> commands, with an SMSC made of bytes.

use super::*;
use crate::smpp::config::Password;
use crate::smpp::event::{DeliveryState, Message};
use crate::smpp::wire;
use rusmpp_core::CommandId;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn config() -> LinkConfig {
    LinkConfig {
        system_id: "esme".into(),
        password: Password::new("canary77"),
        window: 3,
        ..LinkConfig::default()
    }
}

fn message(token: u64) -> Submit {
    Submit::binary(token, "436641234567".parse().unwrap(), vec![0x02, 0x70, 0x00, token as u8])
}

/// A whole PDU with this body.
fn pdu(id: u32, status: u32, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut pdu = Vec::new();
    for word in [16 + body.len() as u32, id, status, sequence] {
        pdu.extend_from_slice(&word.to_be_bytes());
    }
    pdu.extend_from_slice(body);
    pdu
}

fn submit_answer(status: u32, sequence: u32, id: &str) -> Vec<u8> {
    let body = if status == 0 { format!("{id}\0").into_bytes() } else { Vec::new() };
    pdu(0x8000_0004, status, sequence, &body)
}

fn deliver(sequence: u32, esm_class: u8, text: &[u8]) -> Vec<u8> {
    let mut body = b"\0\x01\x01436641234567\0\0\x00500\0".to_vec();
    body.extend_from_slice(&[esm_class, 0x7F, 0, 0, 0, 0, 0, 2, 0, text.len() as u8]);
    body.extend_from_slice(text);
    pdu(5, 0, sequence, &body)
}

/// A PDU that was written: command_id, status, sequence_number, last byte.
type Written = (u32, u32, u32, u8);

/// A machine with what it said: events and PDUs, each PDU as (id, status, sequence, last byte of the message).
struct Bench {
    machine: Machine,
    events: Vec<LinkEvent>,
    connects: Vec<Connection>,
    closed: Vec<Connection>,
    writes: Vec<(Connection, Vec<Written>)>,
}

impl Bench {
    fn new(config: LinkConfig) -> Self {
        let machine = Machine::new(config);
        Bench { machine, events: vec![], connects: vec![], closed: vec![], writes: vec![] }
    }

    /// A machine whose binds are all in service at time 0.
    fn bound(config: LinkConfig) -> Self {
        let mut bench = Bench::new(config);
        bench.deadline(s(0));
        for connection in std::mem::take(&mut bench.connects) {
            bench.bind(s(0), connection);
        }
        assert_eq!(std::mem::take(&mut bench.events), [LinkEvent::Up]);
        bench.writes.clear();
        bench
    }

    fn bind(&mut self, now: Duration, connection: Connection) {
        self.input(now, Input::Connected(connection));
        let (id, _, sequence, _) = self.writes.last().unwrap().1[0];
        self.bytes(now, connection, &pdu(id | 0x8000_0000, 0, sequence, b"smsc\0"));
    }

    fn input(&mut self, now: Duration, input: Input<'_>) {
        self.machine.handle(now, input);
        self.collect();
    }

    fn bytes(&mut self, now: Duration, connection: Connection, bytes: &[u8]) {
        self.input(now, Input::Bytes(connection, bytes));
    }

    fn submit(&mut self, now: Duration, submit: Submit) {
        self.machine.submit(now, submit).unwrap();
        self.collect();
    }

    fn deadline(&mut self, now: Duration) {
        self.machine.handle_deadline(now);
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(command) = self.machine.next_command() {
            match command {
                Command::Connect(connection) => self.connects.push(connection),
                Command::Close(connection) => self.closed.push(connection),
                Command::Report(event) => self.events.push(event),
                Command::Write(connection, bytes) => {
                    let mut frames = wire::Frames::default();
                    frames.push(&bytes);
                    let mut pdus = Vec::new();
                    while let Some(pdu) = frames.next_pdu().unwrap() {
                        let header = wire::Header::of(pdu);
                        // A submit ends with its reference, whose last byte is the token here.
                        pdus.push((header.id.into(), header.status, header.sequence, pdu[pdu.len() - 1]));
                    }
                    self.writes.push((connection, pdus));
                }
            }
        }
    }

    /// Tokens of the submits written since the last call, write by write.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let submits = |pdus: Vec<Written>| pdus.iter().filter(|p| p.0 == 4).map(|p| p.3).collect();
        std::mem::take(&mut self.writes)
            .into_iter()
            .map(|(_, pdus)| submits(pdus))
            .filter(|w: &Vec<u8>| !w.is_empty())
            .collect()
    }

    fn events(&mut self) -> Vec<LinkEvent> {
        std::mem::take(&mut self.events)
    }
}

const FIRST: Connection = Connection { bind: 0, attempt: 1 };

fn accepted(token: u64, id: &str) -> LinkEvent {
    LinkEvent::Accepted { token, message_id: id.to_owned() }
}

fn refused(token: u64, cause: Refusal, temporary: bool) -> LinkEvent {
    LinkEvent::Refused { token, cause, temporary }
}

#[test]
fn what_waits_can_be_withdrawn_and_what_has_left_cannot() {
    let mut bench = Bench::bound(LinkConfig { window: 1, ..config() });
    for token in 1..=3 {
        bench.machine.submit(s(1), message(token)).unwrap();
    }
    for token in [1, 2, 9] {
        bench.machine.withdraw(token);
    }
    assert_eq!(bench.machine.pending(), 1);
    let reports: Vec<_> = std::iter::from_fn(|| bench.machine.next_command())
        .filter_map(|command| match command {
            Command::Report(event) => Some(event),
            _ => None,
        })
        .collect();
    assert_eq!(reports, [refused(2, Refusal::Withdrawn, false)]);
}

#[test]
fn the_window_fills_in_one_write_and_answers_free_it_in_one_write() {
    let mut bench = Bench::bound(config());
    for token in 1..=7 {
        bench.machine.enqueue(s(1), message(token)).unwrap();
    }
    bench.machine.fill(s(1));
    bench.collect();
    assert_eq!(bench.sent(), [[1, 2, 3]]);
    let answers = [submit_answer(0, 3, "b"), submit_answer(0, 2, "a")].concat();
    bench.bytes(s(1), FIRST, &answers);
    assert_eq!(bench.events(), [accepted(2, "b"), accepted(1, "a")]);
    assert_eq!(bench.sent(), [[4, 5]]);
    assert_eq!((bench.machine.figures().in_flight, bench.machine.pending()), (3, 2));
}

#[test]
fn bytes_split_anywhere_say_the_same() {
    let stream = [
        submit_answer(0, 2, "a"),
        deliver(9, 0x04, b"id:a stat:DELIVRD"),
        pdu(0x15, 0, 10, b""),
        deliver(11, 0x41, b"\x02\x71\x00x"),
        submit_answer(0x0B, 3, ""),
    ]
    .concat();
    let run = |cut: usize| {
        let mut bench = Bench::bound(config());
        bench.submit(s(1), message(1));
        bench.submit(s(1), message(2));
        bench.bytes(s(1), FIRST, &stream[..cut]);
        bench.bytes(s(1), FIRST, &stream[cut..]);
        let pdus: Vec<_> = bench.writes.into_iter().flat_map(|(_, pdus)| pdus).collect();
        (bench.events, pdus)
    };
    let whole = run(stream.len());
    assert_eq!(whole.0.len(), 4);
    for cut in 0..stream.len() {
        assert_eq!(run(cut), whole, "cut at {cut}");
    }
}

#[test]
fn what_is_throttled_goes_first_again_and_slower() {
    for nack in [false, true] {
        let mut bench = Bench::bound(LinkConfig { rate_per_s: 1_000, window: 10, ..config() });
        for token in 1..=4 {
            bench.submit(s(1) + Duration::from_millis(token), message(token));
        }
        assert_eq!(bench.sent().concat(), [1, 2, 3, 4]);
        let no = |code, sequence| {
            if nack { pdu(0x8000_0000, code, sequence, b"") } else { submit_answer(code, sequence, "") }
        };
        bench.bytes(
            s(1) + Duration::from_millis(10),
            FIRST,
            &[no(0x58, 3), no(0x14, 4), no(0x58, 5)].concat(),
        );
        assert_eq!(bench.events(), [LinkEvent::Throttled { rate_per_s: 500.0 }]);
        assert_eq!(bench.sent(), Vec::<Vec<u8>>::new());
        bench.submit(s(1) + Duration::from_millis(20), message(5));
        let mut order = Vec::new();
        let mut now = s(1) + Duration::from_millis(20);
        while order.len() < 4 {
            now = bench.machine.next_deadline(now).unwrap();
            bench.deadline(now);
            order.extend(bench.sent().concat());
        }
        assert_eq!(order, [2, 3, 4, 5]);
        assert_eq!(now, s(2) + Duration::from_millis(16), "a second of silence, then one every 2 ms");
        assert_eq!(bench.events(), [], "a throttle is no outcome");
    }
}

#[test]
fn a_lost_link_leaves_its_window_unknown_and_comes_back_with_growing_pauses() {
    let mut bench = Bench::bound(config());
    for token in 1..=4 {
        bench.submit(s(1), message(token));
    }
    bench.sent();
    bench.input(s(2), Input::Lost(FIRST));
    let unknown = |token| LinkEvent::Unknown { token };
    assert_eq!(bench.events(), [unknown(1), unknown(2), unknown(3), LinkEvent::Down]);
    bench.bytes(s(2), FIRST, &submit_answer(0, 2, "late"));
    assert_eq!(bench.events(), [], "bytes of an earlier connection");
    let mut now = s(2);
    for (attempt, pause) in [(2, 1), (3, 2), (4, 4), (5, 8), (6, 16), (7, 32), (8, 60), (9, 60)] {
        assert_eq!(bench.machine.next_deadline(now), Some(now + s(pause)));
        now += s(pause);
        bench.deadline(now);
        assert_eq!(bench.connects, [Connection { bind: 0, attempt }]);
        bench.connects.clear();
        bench.input(now, Input::Lost(Connection { bind: 0, attempt }));
    }
    now += s(60);
    bench.deadline(now);
    bench.bind(now, Connection { bind: 0, attempt: 10 });
    assert_eq!(bench.events(), [LinkEvent::Up]);
    assert_eq!(bench.sent(), [[4]], "what had not left goes on");
}

#[test]
fn refused_binds_end_the_link_and_others_do_not() {
    for (code, stops) in [(0x0D, true), (0x0E, true), (0x0F, true), (0x08, false), (0x05, false)] {
        let mut bench = Bench::new(config());
        bench.submit(s(0), message(1));
        bench.deadline(s(0));
        bench.input(s(0), Input::Connected(FIRST));
        bench.bytes(s(0), FIRST, &pdu(0x8000_0009, code, 1, b""));
        assert_eq!(bench.closed, [FIRST]);
        if stops {
            let stopped = LinkEvent::Stopped { reason: StopReason::Bind(code) };
            assert_eq!(bench.events(), [refused(1, Refusal::Stopped, true), stopped]);
            assert_eq!(bench.machine.next_deadline(s(0)), None);
            assert_eq!(bench.machine.submit(s(0), message(2)), Err(SubmitError::Stopped));
        } else {
            assert_eq!(bench.events(), []);
            assert_eq!(bench.machine.next_deadline(s(0)), Some(s(1)));
        }
    }
}

#[test]
fn an_account_that_allows_fewer_binds_keeps_those_it_has() {
    let mut bench = Bench::new(LinkConfig { binds: 2, ..config() });
    bench.deadline(s(0));
    bench.bind(s(0), FIRST);
    let second = Connection { bind: 1, attempt: 1 };
    bench.input(s(0), Input::Connected(second));
    bench.bytes(s(0), second, &pdu(0x8000_0009, 0x0D, 1, b""));
    assert_eq!((bench.events(), bench.closed), (vec![LinkEvent::Up], vec![second]));
    assert_eq!(bench.machine.figures().bound, 1);
}

fn part(token: u64) -> Submit {
    Submit { group: Some(77), ..message(token) }
}

#[test]
fn parts_go_in_order_on_one_bind_each_after_the_one_before() {
    let mut bench = Bench::bound(LinkConfig { binds: 2, ..config() });
    for token in 1..=3 {
        bench.submit(s(1), part(token));
    }
    let first = bench.writes[0].0;
    assert_eq!(bench.sent(), [[1]]);
    bench.bytes(s(1), first, &submit_answer(0x58, 2, ""));
    bench.submit(s(1), message(9));
    bench.deadline(s(3));
    let (connection, pdus) = bench.writes.iter().find(|(_, pdus)| pdus[0].3 == 1).cloned().unwrap();
    assert_eq!(connection, first, "a throttled part is repeated where it was");
    bench.bytes(s(3), first, &submit_answer(0, pdus[0].2, "a"));
    bench.deadline(s(6));
    let (connection, pdus) = bench.writes.iter().find(|(_, pdus)| pdus[0].3 == 2).cloned().unwrap();
    assert_eq!(connection, first);
    bench.events.clear();
    bench.bytes(s(6), first, &submit_answer(0x0B, pdus[0].2, ""));
    assert_eq!(bench.events(), [refused(2, Refusal::Smsc(0x0B), false), refused(3, Refusal::Group, false)]);
    assert!(bench.machine.groups.is_empty());
}

#[test]
fn after_an_unknown_part_the_rest_is_not_sent() {
    let mut bench = Bench::bound(config());
    bench.submit(s(1), part(1));
    bench.submit(s(1), part(2));
    bench.input(s(1), Input::Lost(FIRST));
    let expected = [LinkEvent::Unknown { token: 1 }, refused(2, Refusal::Group, true), LinkEvent::Down];
    assert_eq!(bench.events(), expected);
    assert_eq!(bench.machine.pending(), 0);
}

#[test]
fn a_silent_smsc_makes_an_unknown_outcome_and_a_late_answer_changes_nothing() {
    let mut bench = Bench::bound(config());
    bench.submit(s(1), message(1));
    bench.bytes(s(29), FIRST, &pdu(0x15, 0, 1, b""));
    bench.deadline(s(31));
    assert_eq!(bench.events(), [LinkEvent::Unknown { token: 1 }]);
    bench.bytes(s(32), FIRST, &submit_answer(0, 2, "a"));
    bench.bytes(s(32), FIRST, &submit_answer(0, 2, "a"));
    bench.bytes(s(32), FIRST, &submit_answer(0, 4_711, "a"));
    bench.bytes(s(32), FIRST, &pdu(0x8000_0000, 3, 0, b""));
    assert_eq!(bench.events(), []);
    assert_eq!(bench.machine.figures().faults, 4);
}

#[test]
fn a_dead_connection_is_found_by_enquire_link() {
    let mut bench = Bench::bound(config());
    assert_eq!(bench.machine.next_deadline(s(0)), Some(s(30)));
    bench.deadline(s(30));
    assert_eq!(bench.writes[0].1[0].0, 0x15);
    bench.bytes(s(31), FIRST, &pdu(0x8000_0015, 0, bench.writes[0].1[0].2, b""));
    assert_eq!(bench.machine.next_deadline(s(31)), Some(s(61)));
    bench.deadline(s(61));
    assert_eq!(bench.machine.next_deadline(s(61)), Some(s(91)));
    bench.deadline(s(91));
    assert_eq!((bench.closed.clone(), bench.events()), (vec![FIRST], vec![LinkEvent::Down]));
}

#[test]
fn impossible_lengths_get_a_nack_and_a_new_connection() {
    for length in [0_u32, 15, u32::MAX] {
        let mut bench = Bench::bound(config());
        bench.submit(s(1), message(1));
        bench.writes.clear();
        bench.bytes(s(1), FIRST, &[&length.to_be_bytes()[..], &[0; 30]].concat());
        assert_eq!(bench.writes[0].1[0].0, 0x8000_0000);
        assert_eq!(bench.writes[0].1[0].1, 0x02);
        assert_eq!(bench.closed, [FIRST]);
        assert_eq!(bench.events(), [LinkEvent::Unknown { token: 1 }, LinkEvent::Down]);
    }
}

#[test]
fn unknown_requests_are_refused_and_broken_messages_have_their_status() {
    let mut bench = Bench::bound(config());
    let broken = [deliver(3, 0x41, b"hi"), b"\x04\x27\x00\x09\x02".to_vec()].concat();
    let mut broken = broken;
    let length = broken.len() as u32;
    broken[..4].copy_from_slice(&length.to_be_bytes());
    bench.bytes(s(1), FIRST, &[pdu(0x99, 0, 1, b"x"), pdu(0x103, 0, 2, b""), broken].concat());
    let said: Vec<_> =
        bench.writes.iter().flat_map(|(_, pdus)| pdus.iter().map(|p| (p.0, p.1, p.2))).collect();
    assert_eq!(said, [(0x8000_0000, 3, 1), (0x8000_0103, 2, 2), (0x8000_0005, 0xC0, 3)]);
    assert_eq!((bench.events(), bench.closed.len()), (vec![], 0));
}

#[test]
fn a_receipt_that_overtakes_the_answer_finds_its_message() {
    let mut bench = Bench::bound(config());
    bench.submit(s(1), message(1));
    bench.bytes(s(1), FIRST, &deliver(1, 0x04, b"id:00167 stat:DELIVRD"));
    assert_eq!(bench.events(), [], "waits for the answer to the submit");
    bench.bytes(s(1), FIRST, &submit_answer(0, 2, "A7"));
    let events = bench.events();
    assert_eq!(events[0], accepted(1, "A7"));
    let LinkEvent::Receipt(receipt) = &events[1] else { panic!("{events:?}") };
    assert_eq!((receipt.token, receipt.state), (Some(1), DeliveryState::Delivered));
    bench.bytes(s(1), FIRST, &deliver(2, 0x04, b"id:00167 stat:DELIVRD"));
    let events = bench.events();
    let LinkEvent::Receipt(again) = &events[0] else { panic!("{events:?}") };
    assert_eq!(again.token, None, "the second copy names nothing any more");
    assert_eq!(again.ids, ["167", "a7", "359"]);
}

#[test]
fn a_message_from_a_phone_is_answered_when_it_is_stored() {
    let mut bench = Bench::bound(config());
    bench.bytes(s(1), FIRST, &deliver(8, 0x41, b"\x02\x71\x00"));
    assert!(bench.writes.is_empty(), "not before");
    let events = bench.events();
    let LinkEvent::Message(Message { answer, udhi, user_data, data_coding, .. }) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!((*udhi, user_data.as_slice(), *data_coding), (true, &b"\x02\x71\x00"[..], 2));
    bench.input(s(2), Input::Answered(*answer, Verdict::Later));
    assert_eq!(bench.writes[0].1[0], (0x8000_0005, 0x64, 8, 0));
    bench.writes.clear();
    bench.input(s(3), Input::Lost(FIRST));
    bench.input(s(3), Input::Answered(*answer, Verdict::Taken));
    assert!(bench.writes.is_empty(), "that connection is gone");
}

#[test]
fn a_data_sm_is_a_message_or_a_receipt_too_and_has_its_own_answer() {
    let mut bench = Bench::bound(config());
    let data = |sequence, esm_class: u8, tlvs: &[u8]| {
        let mut body = b"\0\x01\x01436641234567\0\0\x00500\0".to_vec();
        body.extend_from_slice(&[esm_class, 0, 4]);
        body.extend_from_slice(tlvs);
        pdu(0x103, 0, sequence, &body)
    };
    bench.bytes(s(1), FIRST, &data(8, 0x40, b"\x04\x24\x00\x03\x02\x71\x00"));
    let events = bench.events();
    let LinkEvent::Message(Message { answer, udhi: true, user_data, .. }) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(user_data, b"\x02\x71\x00");
    bench.input(s(2), Input::Answered(*answer, Verdict::Taken));
    assert_eq!(bench.writes[0].1[0], (0x8000_0103, 0, 8, 0));
    bench.writes.clear();
    bench.bytes(s(2), FIRST, &data(9, 0x04, b"\x00\x1e\x00\x02a\0\x04\x27\x00\x01\x02"));
    assert_eq!(bench.writes[0].1[0], (0x8000_0103, 0, 9, 0));
    assert!(matches!(&bench.events()[0], LinkEvent::Receipt(receipt) if receipt.ids[0] == "a"));
}

#[test]
fn the_queue_is_bounded_and_nothing_waits_for_ever() {
    let mut bench = Bench::bound(LinkConfig { queue_max: 2, queue_wait_s: 60, ..config() });
    for token in 1..=5 {
        bench.submit(s(1), message(token));
    }
    assert_eq!(bench.machine.submit(s(1), message(6)), Err(SubmitError::Full));
    let long = Submit { short_message: vec![0; 141], ..message(6) };
    bench.bytes(s(29), FIRST, &pdu(0x15, 0, 1, b""));
    bench.bytes(s(30), FIRST, &submit_answer(0, 2, "a"));
    assert_eq!(bench.machine.submit(s(30), long), Err(SubmitError::TooLong));
    bench.events();
    bench.input(s(30), Input::Lost(FIRST));
    bench.events();
    bench.deadline(s(61));
    assert_eq!(bench.events(), [refused(5, Refusal::Waited, true)]);
}

#[test]
fn a_shutdown_waits_for_what_has_left() {
    let mut bench = Bench::bound(config());
    for token in 1..=4 {
        bench.submit(s(1), message(token));
    }
    bench.submit(s(1), part(5));
    bench.submit(s(1), part(6));
    bench.writes.clear();
    bench.input(s(2), Input::Shutdown);
    let gone = [(4, Refusal::Stopped), (5, Refusal::Stopped), (6, Refusal::Group)];
    assert_eq!(bench.events(), gone.map(|(token, cause)| refused(token, cause, true)));
    assert!(bench.writes.is_empty());
    bench.bytes(s(3), FIRST, &[submit_answer(0, 2, "a"), submit_answer(0x58, 3, "")].concat());
    assert_eq!(bench.events(), [accepted(1, "a"), refused(2, Refusal::Smsc(0x58), true)]);
    bench.bytes(s(3), FIRST, &submit_answer(0, 4, "c"));
    assert_eq!(bench.writes[0].1[0].0, 6, "unbind");
    bench.events();
    bench.bytes(s(3), FIRST, &pdu(0x8000_0006, 0, bench.writes[0].1[0].2, b""));
    assert_eq!(bench.events(), [LinkEvent::Down, LinkEvent::Stopped { reason: StopReason::Requested }]);
    assert_eq!(bench.closed, [FIRST]);
}

#[test]
fn transmitters_submit_and_the_receiver_receives() {
    let mut bench = Bench::bound(LinkConfig {
        bind_mode: BindMode::TransmitterReceiver,
        binds: 2,
        window: 1,
        ..config()
    });
    for token in 1..=3 {
        bench.submit(s(1), message(token));
    }
    let binds: Vec<_> = bench.writes.iter().map(|(connection, _)| connection.bind).collect();
    assert_eq!(binds.len(), 2);
    assert!(!binds.contains(&2) && binds[0] != binds[1], "{binds:?}");
    bench.bytes(
        s(1),
        Connection { bind: 2, attempt: 1 },
        &pdu(0x102, 0, 5, b"\x01\x01436641234567\0\0\x00500\0"),
    );
    let subscriber = crate::smpp::Address::new(1, 1, "436641234567");
    assert_eq!(bench.events(), [LinkEvent::Alert { subscriber }]);
}

#[test]
fn an_unbind_of_the_smsc_is_answered_and_left() {
    let mut bench = Bench::bound(config());
    bench.bytes(s(1), FIRST, &pdu(6, 0, 5, b""));
    assert_eq!(bench.writes[0].1[0].0, u32::from(CommandId::UnbindResp));
    assert_eq!((bench.closed, bench.events), (vec![FIRST], vec![LinkEvent::Down]));
}

#[test]
fn the_password_is_in_the_bind_and_nowhere_else() {
    let mut bench = Bench::new(config());
    bench.deadline(s(0));
    bench.machine.handle(s(0), Input::Connected(FIRST));
    let Some(Command::Write(_, bytes)) = bench.machine.next_command() else { panic!("no bind") };
    assert!(bytes.windows(8).any(|w| w == b"canary77"));
    assert!(!format!("{:?}", bench.machine).contains("canary77"));
}
