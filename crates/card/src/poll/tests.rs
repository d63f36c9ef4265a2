//! The agent on a bench: a device that answers its commands, a server that answers its requests, a channel that
//! carries plain text.

use super::host::Psk;
use super::*;
use crate::secure_channel::{ChannelError, SecureChannel};
use crate::toolkit::QueueFull;
use simtide_protocol::ids::{Aid, CardId, Iccid};
use simtide_protocol::profile::Profile;
use simtide_protocol::scp81::{
    ContentType, Framing, Limits, Request, RequestDecoder, Response, ScriptStatus, TargetedApplication,
};
use simtide_protocol::tlv::push_comprehension;
use simtide_protocol::trigger::{Http, Retry, SessionParameters};
use std::sync::Arc;
use zeroize::Zeroizing;

const DAY_S: i64 = 86_400;
const START: EpochMs = EpochMs::from_seconds(1_800_000_000);

/// A "TLS" of one byte each way; what follows is plain text.
struct Plain {
    to_peer: Vec<u8>,
    read: Vec<u8>,
    waiting: Vec<u8>,
    established: bool,
}

impl SecureChannel for Plain {
    fn from_peer(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        let plain = match bytes {
            [b'S', rest @ ..] if !self.established => {
                self.established = true;
                self.to_peer.append(&mut self.waiting);
                rest
            }
            _ if !self.established => return Err(ChannelError::Peer("no hello".into())),
            bytes => bytes,
        };
        self.read.extend_from_slice(plain);
        Ok(())
    }

    fn to_peer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_peer)
    }

    fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read)
    }

    fn write(&mut self, plaintext: &[u8]) -> Result<(), ChannelError> {
        if self.established { &mut self.to_peer } else { &mut self.waiting }.extend_from_slice(plaintext);
        Ok(())
    }

    fn is_established(&self) -> bool {
        self.established
    }
}

struct PlainChannels;

impl SecureChannels for PlainChannels {
    fn open(&self, identity: &[u8], psk: &[u8]) -> Result<Box<dyn SecureChannel>, ChannelError> {
        assert_eq!((identity, psk), (&b"card-1"[..], &[7; 16][..]));
        Ok(Box::new(Plain { to_peer: vec![b'C'], read: vec![], waiting: vec![], established: false }))
    }
}

/// A card that only the agent lives on.
struct TestCard {
    profile: Arc<Profile>,
    file: PollFile,
    memory: Vec<u8>,
    parameters: Vec<u8>,
    queue: VecDeque<(u16, Proactive)>,
    executed: Vec<(Option<Aid>, Vec<u8>)>,
    /// What a script writes into EF.POLL.
    writes_date: Option<u32>,
}

impl Host for TestCard {
    fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }
    fn id(&self) -> Option<CardId> {
        Some(Iccid::with_check_digit("898821100000000001").unwrap().into())
    }
    fn poll_file(&self) -> Option<PollFile> {
        Some(self.file)
    }
    fn write_poll_file(&mut self, file: &PollFile) {
        self.file = *file;
    }
    fn memory(&self) -> Vec<u8> {
        self.memory.clone()
    }
    fn write_memory(&mut self, memory: &[u8]) {
        self.memory = memory.to_vec();
    }
    fn stored_parameters(&self) -> Vec<u8> {
        self.parameters.clone()
    }
    fn psk(&self) -> Option<Psk> {
        Some(Psk { identity: b"card-1".to_vec(), key: Zeroizing::new(vec![7; 16]) })
    }
    fn wants_service_events(&self) -> bool {
        false
    }

    fn execute(
        &mut self,
        application: Option<Aid>,
        _: ContentType,
        script: &[u8],
    ) -> (ScriptStatus, Vec<u8>) {
        self.executed.push((application, script.to_vec()));
        if let Some(next_s) = self.writes_date {
            self.file.next_s = next_s;
        }
        match application {
            None => (ScriptStatus::UnknownApplication, vec![]),
            Some(_) => (ScriptStatus::Ok, vec![0xAB, 0x03, 0x80, 0x01, 0x00]),
        }
    }
    fn enqueue(&mut self, token: u16, command: Proactive) -> Result<(), QueueFull> {
        self.queue.push_back((token, command));
        Ok(())
    }
    fn random(&mut self) -> u32 {
        7
    }
}

/// Card, device and server.
struct Bench {
    agent: Agent,
    card: TestCard,
    now: EpochMs,
    /// Seconds of the timer that runs.
    timer_s: Option<u32>,
    /// What the server answers, in order; then it is silent.
    answers: VecDeque<Response>,
    requests: Vec<Request>,
    decoder: RequestDecoder,
    /// Bytes that wait in the device for the card.
    waiting: Vec<u8>,
    /// OPEN CHANNEL fails.
    unreachable: bool,
    has_clock: bool,
    /// Types of the commands that the card has given.
    kinds: Vec<&'static str>,
    opened: Vec<TcpChannelSeen>,
}

#[derive(Debug, Clone, PartialEq)]
struct TcpChannelSeen {
    port: u16,
}

fn bench(next: EpochMs) -> Bench {
    let profile = Arc::new(Profile::standard());
    let file = profile.poll.first_file().with_next(next);
    Bench {
        agent: Agent::default(),
        card: TestCard {
            profile,
            file,
            memory: vec![],
            parameters: vec![],
            queue: VecDeque::new(),
            executed: vec![],
            writes_date: None,
        },
        now: START,
        timer_s: None,
        answers: VecDeque::new(),
        requests: vec![],
        decoder: RequestDecoder::new(Limits::default()),
        waiting: vec![],
        unreachable: false,
        has_clock: true,
        kinds: vec![],
        opened: vec![],
    }
}

impl Bench {
    fn power_on(&mut self) {
        self.card.queue.clear();
        self.agent.start(&mut self.card, &PlainChannels);
        self.run();
    }

    /// Answers commands until there are none, and tells of data whenever some wait.
    fn run(&mut self) {
        for _ in 0..10_000 {
            let Some((token, command)) = self.card.queue.pop_front() else {
                if self.waiting.is_empty() || !self.agent.is_in_session() {
                    return;
                }
                let length = self.waiting.len().min(255) as u8;
                self.notice(&event(0x09, &[(0x38, &[0x81, 0x00]), (0x37, &[length])]));
                if self.card.queue.is_empty() {
                    return;
                }
                continue;
            };
            let (result, objects) = self.work(&command);
            let mut body = Vec::new();
            push_comprehension(&mut body, 0x01, true, &[1, 0, 0]);
            push_comprehension(&mut body, 0x02, true, &[0x82, 0x81]);
            push_comprehension(&mut body, 0x03, true, &result);
            for (tag, value) in objects {
                push_comprehension(&mut body, tag, true, &value);
            }
            let response = TerminalResponse::parse(&body).unwrap();
            self.agent.answer(&mut self.card, &PlainChannels, token, &response);
        }
        panic!("the card never rests");
    }

    /// What the device does with a command.
    fn work(&mut self, command: &Proactive) -> (Vec<u8>, Vec<(u16, Vec<u8>)>) {
        let done = |objects| (vec![0x00], objects);
        match command {
            Proactive::SetUpEventList(_) => {
                self.kinds.push("events");
                done(vec![])
            }
            Proactive::ProvideLocalInformation(_) if !self.has_clock => {
                self.kinds.push("time");
                (vec![0x32], vec![])
            }
            Proactive::ProvideLocalInformation(_) => {
                self.kinds.push("time");
                let (year, month, day, hour, minute, second) = self.now.civil();
                let swapped = |number: u8| ((number % 10) << 4) | (number / 10);
                let time = [(year - 2000) as u8, month, day, hour, minute, second].map(swapped);
                done(vec![(0x26, [&time[..], &[0]].concat())])
            }
            Proactive::StartTimer { duration_s, .. } => {
                self.kinds.push("timer");
                self.timer_s = Some(*duration_s);
                done(vec![])
            }
            Proactive::OpenChannel(channel) => {
                self.kinds.push("open");
                self.opened.push(TcpChannelSeen { port: channel.port });
                self.decoder = RequestDecoder::new(Limits::default());
                self.waiting.clear();
                if self.unreachable {
                    (vec![0x3A, 0x01], vec![])
                } else {
                    done(vec![(0x38, vec![0x81, 0x00])])
                }
            }
            Proactive::SendData { data, .. } => {
                self.kinds.push("send");
                self.serve(data);
                done(vec![(0x37, vec![0xFF])])
            }
            Proactive::ReceiveData { length, .. } => {
                self.kinds.push("receive");
                let rest = self.waiting.split_off(self.waiting.len().min(usize::from(*length)));
                let data = std::mem::replace(&mut self.waiting, rest);
                let left = self.waiting.len().min(255) as u8;
                done(vec![(0x36, data), (0x37, vec![left])])
            }
            Proactive::CloseChannel { .. } => {
                self.kinds.push("close");
                done(vec![])
            }
            other => panic!("{other:?}"),
        }
    }

    fn serve(&mut self, data: &[u8]) {
        let plain = match data {
            [b'C', rest @ ..] if self.decoder.is_idle() => {
                self.waiting.push(b'S');
                rest
            }
            data => data,
        };
        if let Some(request) = self.decoder.receive(plain).unwrap() {
            self.requests.push(request);
            if let Some(answer) = self.answers.pop_front() {
                self.waiting.extend(answer.encode(Framing::ContentLength));
            }
        }
    }

    fn notice(&mut self, envelope: &[u8]) {
        let envelope = Envelope::parse(envelope).unwrap();
        self.agent.notice(&mut self.card, &PlainChannels, &envelope);
    }

    /// Lets the running timer expire.
    fn wait(&mut self) {
        let seconds = self.timer_s.take().expect("a timer runs");
        self.now = self.now.plus_s(seconds.into());
        self.notice(&[0xD7, 0x07, 0x82, 0x02, 0x82, 0x81, 0xA4, 0x01, 0x01]);
        self.run();
    }

    fn trigger(&mut self, trigger: &Trigger) {
        let data = trigger.encode(self.card.profile.scp81.retry_timer).unwrap();
        self.agent.trigger(&mut self.card, &PlainChannels, &data).unwrap();
        self.run();
    }

    fn next_day(&self) -> i64 {
        (self.card.file.next().seconds() - START.seconds()) / DAY_S
    }
}

fn event(code: u8, objects: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    push_comprehension(&mut body, 0x19, true, &[code]);
    push_comprehension(&mut body, 0x02, true, &[0x82, 0x81]);
    for (tag, value) in objects {
        push_comprehension(&mut body, *tag, true, value);
    }
    [&[0xD6, body.len() as u8][..], &body].concat()
}

fn script(application: Option<&str>, size: usize) -> Response {
    let application = application.map(|aid| TargetedApplication(aid.parse().unwrap()));
    Response::script("/next?1".parse().unwrap(), application, ContentType::CommandData, vec![0xAA; size])
}

#[test]
fn a_poll_when_its_date_has_come() {
    let mut bench = bench(START);
    bench.answers.push_back(Response::end());
    bench.power_on();
    assert_eq!(
        bench.kinds,
        ["events", "time", "timer", "open", "send", "receive", "send", "receive", "close", "time", "timer"]
    );
    let first = &bench.requests[0];
    assert_eq!(first.target.as_str(), "/poll");
    assert_eq!(first.from.as_ref().unwrap().as_str(), "8988211000000000011");
    assert!(!first.resume && first.body.is_empty());
    assert_eq!(bench.next_day(), 20, "the card keeps its place in the tide");
    assert_eq!(bench.timer_s, Some(86_400));
    assert_eq!(bench.card.memory, [0_u8; 0]);
}

#[test]
fn a_date_far_away_takes_several_timers() {
    let mut bench = bench(START.plus_s(2 * DAY_S + 3_600));
    bench.answers.push_back(Response::end());
    bench.power_on();
    for left in [86_400, 86_400, 3_600] {
        assert!(bench.requests.is_empty());
        assert_eq!(bench.timer_s, Some(left));
        bench.wait();
    }
    assert_eq!(bench.requests.len(), 1);
}

#[test]
fn scripts_are_executed_and_answered_until_the_end() {
    let mut bench = bench(START);
    bench.answers.extend([script(Some("A00000055910100001"), 600), script(None, 10), Response::end()]);
    bench.card.writes_date = Some(START.plus_s(7 * DAY_S).seconds() as u32);
    bench.power_on();
    assert_eq!(bench.card.executed.len(), 2);
    assert_eq!(bench.card.executed[0], (Some("A00000055910100001".parse().unwrap()), vec![0xAA; 600]));
    let [first, answer, refusal] = bench.requests.as_slice() else { panic!() };
    assert_eq!(first.script_status, None);
    assert_eq!(answer.target.as_str(), "/next?1");
    assert_eq!(answer.script_status, Some(ScriptStatus::Ok));
    assert_eq!(answer.content_type, Some(ContentType::ResponseData));
    assert_eq!(answer.body, [0xAB, 0x03, 0x80, 0x01, 0x00]);
    assert_eq!((refusal.script_status, refusal.body.len()), (Some(ScriptStatus::UnknownApplication), 0));
    assert_eq!(bench.next_day(), 7, "a date that was written stays");
}

#[test]
fn an_end_with_a_next_uri_keeps_the_session() {
    let mut bench = bench(START);
    let goes_on = Response { next_uri: Some("/more".parse().unwrap()), ..Response::end() };
    bench.answers.extend([goes_on.clone(), script(Some("A00000055910100001"), 10), Response::end()]);
    bench.power_on();
    assert_eq!(bench.requests.len(), 3);
    assert_eq!((bench.requests[1].target.as_str(), bench.requests[1].script_status), ("/more", None));
    assert_eq!((bench.opened.len(), bench.next_day()), (1, 20));
    // Not for ever.
    let mut bench = self::bench(START);
    bench.answers.extend(std::iter::repeat_n(goes_on, 1_025));
    bench.power_on();
    assert_eq!((bench.requests.len(), bench.agent.last_failure()), (1_025, Some(SessionFailure::TooLong)));
}

#[test]
fn a_session_that_breaks_is_resumed_after_a_pause() {
    let mut bench = bench(START);
    bench.answers.push_back(script(Some("A00000055910100001"), 10));
    bench.power_on();
    // The server is silent after the script; the device loses the channel.
    assert!(bench.agent.is_in_session());
    bench.notice(&event(0x0A, &[(0x38, &[0x01, 0x05])]));
    bench.run();
    assert_eq!(bench.agent.last_failure(), Some(SessionFailure::ChannelLost));
    assert_eq!(bench.timer_s, Some(607), "the delay of EF.POLL, spread");
    bench.answers.push_back(Response::end());
    bench.wait();
    assert!(bench.requests[2].resume);
    assert_eq!((bench.agent.last_failure(), bench.next_day()), (None, 20));
}

#[test]
fn a_dialogue_that_the_power_ended_is_resumed_whatever_date_was_written() {
    let mut bench = bench(START);
    bench.answers.push_back(script(Some("A00000055910100001"), 10));
    bench.card.writes_date = Some(START.plus_s(7 * DAY_S).seconds() as u32);
    bench.power_on();
    bench.power_on();
    assert_eq!((bench.timer_s, bench.next_day(), bench.agent.is_in_session()), (Some(607), 7, false));
    bench.answers.push_back(Response::end());
    bench.card.writes_date = None;
    bench.wait();
    assert!(bench.requests[2].resume);
    assert_eq!((bench.next_day(), bench.card.memory.len()), (27, 0));
}

#[test]
fn what_stays_unreachable_is_given_up_until_the_next_period() {
    let mut bench = bench(START);
    bench.unreachable = true;
    bench.power_on();
    for _ in 0..3 {
        assert_eq!((bench.timer_s, bench.next_day()), (Some(607), 0));
        bench.wait();
    }
    assert_eq!(bench.kinds.iter().filter(|kind| **kind == "open").count(), 4);
    assert_eq!((bench.timer_s, bench.next_day()), (Some(86_400), 20));
    assert_eq!(bench.agent.last_failure(), Some(SessionFailure::NoChannel));
}

#[test]
fn a_trigger_opens_a_session_at_once_and_one_at_a_time() {
    let mut bench = bench(START.plus_s(15 * DAY_S));
    bench.power_on();
    assert!(bench.requests.is_empty());
    bench.trigger(&Trigger::Stored);
    assert_eq!(bench.requests.len(), 1);
    // Another one during the session is served by it.
    bench.trigger(&Trigger::Stored);
    assert_eq!(bench.opened.len(), 1);
    bench.waiting.extend(Response::end().encode(Framing::ContentLength));
    bench.run();
    assert_eq!((bench.agent.is_in_session(), bench.opened.len(), bench.next_day()), (false, 1, 15));
    // Near its date the card moves on by a period: it has just been here.
    bench.now = bench.now.plus_s(10 * DAY_S);
    bench.answers.push_back(Response::end());
    bench.trigger(&Trigger::Stored);
    assert_eq!(bench.next_day(), 35);
}

#[test]
fn a_trigger_says_where_and_how_often() {
    let mut bench = bench(START.plus_s(15 * DAY_S));
    bench.power_on();
    bench.unreachable = true;
    let connection =
        simtide_protocol::trigger::Connection { transport: Some((2, 4433)), ..Default::default() };
    let parameters = SessionParameters {
        connection: Some(connection),
        retry: Some(Retry { counter: 1, delay_s: Some(100), failure_report: None }),
        http: Some(Http { host: "other".into(), agent: "me".into(), uri: "https://other/x?y".into() }),
        ..SessionParameters::default()
    };
    bench.trigger(&Trigger::With(Box::new(parameters)));
    assert_eq!(bench.opened, [TcpChannelSeen { port: 4433 }]);
    assert_eq!(bench.timer_s, Some(107));
    // Switched off and on meanwhile: the trigger is not lost.
    bench.unreachable = false;
    bench.answers.push_back(Response::end());
    bench.power_on();
    assert_eq!(bench.opened.len(), 2);
    let request = &bench.requests[0];
    assert_eq!((request.target.as_str(), request.host.as_ref().unwrap().as_str()), ("/x?y", "other"));
    assert_eq!(request.from.as_ref().unwrap().as_str(), "me");
    assert_eq!(bench.card.memory, [0_u8; 0]);
    assert_eq!(bench.next_day(), 15);
}

#[test]
fn a_trigger_that_fails_leaves_the_own_date() {
    let mut bench = bench(START.plus_s(3 * DAY_S));
    bench.power_on();
    bench.unreachable = true;
    bench.trigger(&Trigger::Stored);
    (0..3).for_each(|_| bench.wait());
    assert_eq!((bench.next_day(), bench.card.memory.len()), (3, 0));
}

#[test]
fn parameters_stored_on_the_card_count_where_the_trigger_says_nothing() {
    let mut bench = bench(START.plus_s(15 * DAY_S));
    let http = Http { host: "stored".into(), agent: String::new(), uri: "/stored".into() };
    let stored = SessionParameters { http: Some(http), ..SessionParameters::default() };
    bench.card.parameters = stored.encode(bench.card.profile.scp81.retry_timer).unwrap();
    bench.power_on();
    bench.trigger(&Trigger::Stored);
    assert_eq!(bench.requests[0].target.as_str(), "/stored");
    assert!(bench.agent.trigger(&mut bench.card, &PlainChannels, &[0x81]).is_err());
}

#[test]
fn refusals_and_nonsense_are_failures() {
    for (answer, failure) in [
        (&b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"[..], SessionFailure::Refused(503)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", SessionFailure::Http),
        (b"SSH-2.0-nonsense\r\n\r\n", SessionFailure::Http),
    ] {
        let mut bench = bench(START);
        bench.power_on();
        bench.waiting.extend_from_slice(answer);
        bench.run();
        assert_eq!(bench.agent.last_failure(), Some(failure));
        assert_eq!(bench.timer_s, Some(607));
    }
}

#[test]
fn a_device_without_a_clock_keeps_the_period_by_its_timers() {
    let mut bench = bench(START.plus_s(DAY_S));
    bench.has_clock = false;
    bench.power_on();
    for _ in 0..480 {
        assert!(bench.requests.is_empty());
        assert_eq!(bench.timer_s, Some(3_600));
        bench.wait();
    }
    assert_eq!(bench.requests.len(), 1);
}

#[test]
fn a_card_without_a_period_waits_for_triggers() {
    let mut bench = bench(START);
    bench.card.file.period_s = 0;
    bench.power_on();
    assert_eq!(bench.kinds, ["events"]);
    bench.answers.push_back(Response::end());
    bench.trigger(&Trigger::Stored);
    assert_eq!((bench.requests.len(), bench.agent.is_in_session()), (1, false));
}

#[test]
fn a_session_without_end_is_given_up() {
    let mut bench = bench(START);
    bench.power_on();
    for _ in 0..SESSION_TIMERS_MAX {
        assert!(bench.agent.is_in_session());
        bench.wait();
    }
    assert_eq!((bench.agent.last_failure(), bench.timer_s), (Some(SessionFailure::TooLong), Some(607)));
}
