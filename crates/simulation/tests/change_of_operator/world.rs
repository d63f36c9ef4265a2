//! The shell in miniature around the real machine, with what lasts, what is lost at a crash, and the world outside.
//!
//! The record of the change is bytes: every event reads it, and one commit writes it with its packets. Between any two
//! steps the process may end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

use simtide_device::{Event as DeviceEvent, UserAction};
use simtide_platform::subscription::{
    Bearer, Change, Command, Event, Evidence, Notice, PacketKind, Request, Side, State, Terms, Verb, Way,
};
use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Iccid, Imsi};
use simtide_protocol::sms::{Limits, Reassembly};

use crate::phone::{Cut, Out, Phone};
use crate::register::{Fault, Register};
use crate::scenarios::{Scenario, User};

pub const MINUTE_MS: i64 = 60_000;
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
pub const DAY_MS: i64 = 24 * HOUR_MS;
const STEPS_MAX: u32 = 20_000;
const BEGAN_AT: i64 = 1_000_000;

pub fn imsi_1() -> Imsi {
    static IMSI: LazyLock<Imsi> = LazyLock::new(|| "001010000000001".parse().unwrap());
    *IMSI
}

pub fn imsi_2() -> Imsi {
    static IMSI: LazyLock<Imsi> = LazyLock::new(|| "001020000000001".parse().unwrap());
    *IMSI
}

pub fn foreign_imsi() -> Imsi {
    "001030000000001".parse().unwrap()
}

pub fn card_id() -> CardId {
    CardId::from("8988211000000000011".parse::<Iccid>().unwrap())
}

pub const CHANGE: ChangeId = ChangeId(0x0102_0304_0506_0708);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    Queued,
    Submitted,
    Lost,
    Abandoned,
    Proven,
}

/// A packet's row.
#[derive(Debug, Clone)]
pub struct Row {
    pub kind: PacketKind,
    pub state: RowState,
    deadline: i64,
}

impl Row {
    fn is_open(&self) -> bool {
        matches!(self.state, RowState::Queued | RowState::Submitted | RowState::Lost)
    }
}

/// What happens outside, at its time.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A short message reaches the phone.
    Message(Vec<u8>),
    /// One of the phone's reaches the platform.
    Said(Vec<u8>),
    /// The network has taken a message of the phone, or not.
    Outcome {
        reference: u32,
        accepted: bool,
    },
    /// The network answers a device that wants to be let in.
    Attach(Imsi),
    User(UserAction),
    PowerOff,
    PowerOn,
    /// The card goes into another device.
    Moves,
    Attack,
    Consent(bool),
    /// A request that a network kept back.
    Late(Verb, Imsi),
    Cancel,
    Resolve,
}

#[derive(Debug)]
enum Effect {
    Command(Command),
    Transmit(u64),
}

/// The process has ended.
#[derive(Debug)]
pub struct Crash;

/// Steps that a failure shows at most.
const TRAIL_MAX: usize = 400;

/// A step, for whoever looks for the cause of a failure.
#[derive(Debug)]
#[allow(dead_code, reason = "shown by Debug")]
pub enum Trace {
    Crash(i64),
    Event(i64, Event, State, State, Vec<Command>),
}

pub struct World {
    pub scenario: Scenario,
    pub(super) fault: Option<Fault>,
    pub(super) fault_used: bool,
    pub(super) now: i64,
    // What lasts.
    body: Vec<u8>,
    pub(super) sealed: Option<Imsi>,
    pub(super) rows: BTreeMap<u64, Row>,
    counter: u64,
    /// Highest counter of what the card has said by itself.
    pub(super) uplink_counter: u64,
    pub operator: u8,
    // What a crash loses.
    pub(super) results: VecDeque<Event>,
    effects: VecDeque<Effect>,
    pub(super) reassembly: Reassembly<()>,
    // Outside.
    agenda: BTreeMap<(i64, u32), Happening>,
    sequence: u32,
    pub phone: Phone,
    /// Whose identity was last read from the card, and of which version of it.
    pub found: u8,
    found_of: (usize, u32, bool),
    pub(super) resets_found: u32,
    /// The last sequence number of a challenge; both registers and the test count on.
    sequence_number: u64,
    /// Messages for a phone that is off.
    pub(super) waiting: Vec<Vec<u8>>,
    /// Messages that were handed to the phone and are not reported.
    pub(super) handed: BTreeMap<u64, Vec<u8>>,
    pub(super) messages: u64,
    pub(super) refused: u32,
    pub(super) questions: u32,
    /// Every packet that has left, as short messages.
    pub(super) on_air: BTreeMap<u64, Vec<Vec<u8>>>,
    /// Every message of the phone.
    pub(super) said: Vec<Vec<u8>>,
    /// Messages of the phone that its network took.
    pub(super) submits: u32,
    pub first: Register,
    pub second: Register,
    pub(super) transmitted: Vec<(u64, PacketKind)>,
    pub(super) proofs_sent: usize,
    consent_asked: bool,
    notices_lost: u32,
    /// Points passed at which the process may end.
    pub points: u32,
    crashes: Vec<u32>,
    pub record_bytes_max: usize,
    /// The record as the process has it in memory.
    change: Option<Change>,
    pub trail: Vec<Trace>,
}

impl World {
    pub fn new(scenario: &Scenario, fault: Option<Fault>, crashes: &[u32], cut: Option<Cut>) -> World {
        let answer_within_s = match scenario.user {
            User::Yes(_) => u16::MAX,
            _ => 60,
        };
        let mut world = World {
            scenario: scenario.clone(),
            fault,
            fault_used: false,
            now: BEGAN_AT,
            body: Vec::new(),
            sealed: None,
            rows: BTreeMap::new(),
            counter: 10,
            uplink_counter: 0,
            operator: 1,
            results: VecDeque::new(),
            effects: VecDeque::new(),
            reassembly: Reassembly::new(Limits::PLATFORM),
            agenda: BTreeMap::new(),
            sequence: 0,
            phone: Phone::new(scenario.kind, answer_within_s, cut),
            found: 1,
            found_of: Default::default(),
            resets_found: 0,
            sequence_number: 0,
            waiting: Vec::new(),
            handed: BTreeMap::new(),
            messages: 0,
            refused: 0,
            questions: 0,
            on_air: BTreeMap::new(),
            said: Vec::new(),
            submits: 0,
            first: Register::default(),
            second: Register::default(),
            transmitted: Vec::new(),
            proofs_sent: 0,
            consent_asked: false,
            notices_lost: 0,
            points: 0,
            crashes: crashes.to_vec(),
            record_bytes_max: 0,
            change: None,
            trail: Vec::new(),
        };
        let here = crate::register::Entry { change: None, access: true, attached: false };
        world.first.entries.insert(imsi_1(), here);
        world.opens();
        world
    }

    /// The phone is switched on and in network 1, and what is to come has its time.
    fn opens(&mut self) {
        self.device(DeviceEvent::PowerOn);
        if self.phone.is_on() {
            self.agenda.clear();
            let _ = self.happens(Happening::Attach(imsi_1()));
        }
        if self.scenario.locked {
            let attempts = u64::from(crate::phone::profile().personalization.attempts);
            (1..=attempts).for_each(|turn| self.hears_a_wrong_code(turn));
        }
        let scenario = self.scenario.clone();
        let times = [
            (scenario.cancel_at, Happening::Cancel),
            (scenario.resolve_at, Happening::Resolve),
            (scenario.moves_at, Happening::Moves),
            (scenario.off.map(|(from, _)| from), Happening::PowerOff),
            (scenario.off.map(|(_, to)| to), Happening::PowerOn),
        ];
        for (at, what) in times {
            if let Some(at) = at {
                self.later(at, what);
            }
        }
        for at in scenario.attacks_at {
            self.later(*at, Happening::Attack);
        }
    }

    /// Before the change: a message of another one, under a wrong code.
    fn hears_a_wrong_code(&mut self, turn: u64) {
        for tpdu in crate::air::wrong_code(90 + turn, turn) {
            self.phone.handle(self.now, DeviceEvent::Sms { id: 0, service_center: "+43660".into(), tpdu });
        }
        while let Some(out) = self.phone.out.pop_front() {
            if let Out::Submit { reference, .. } = out {
                self.phone.handle(self.now, DeviceEvent::SubmitOutcome { reference, accepted: true });
            }
        }
    }

    pub(super) fn began_at(&self) -> i64 {
        BEGAN_AT
    }

    /// A sequence number above all before; the next one is free too.
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence_number += 2;
        self.sequence_number
    }

    /// Reads the card again, where anything has happened to it.
    pub(super) fn look(&mut self) {
        if self.phone.version() != self.found_of {
            let sequence = self.next_sequence();
            self.found = self.phone.whole_identity(sequence, self.scenario.guarded);
            self.found_of = self.phone.version();
        }
    }

    pub fn change(&self) -> &Change {
        self.change.as_ref().unwrap()
    }

    /// From the request to the end of everything that can still happen.
    pub fn run(&mut self) {
        let mut begun = false;
        // A register that fails or keeps silent for ever only makes it longer, unless it is to take identity 2 back.
        let fails_for_ever =
            self.fault.is_some_and(|fault| fault.always && fault.verb != Some(Verb::Release));
        let days = if self.scenario.blind || fails_for_ever { 6 } else { 30 };
        let end = self.now + days * DAY_MS;
        for _ in 0..STEPS_MAX {
            let step = if begun { self.step(end) } else { self.begin().map(|()| true) };
            begun = !self.body.is_empty();
            match step {
                Ok(true) => {}
                Ok(false) => return self.check_end(),
                // A request whose commit was lost is asked for again by whoever asked.
                Err(Crash) if !begun => {}
                Err(Crash) => self.restart(),
            }
            self.check();
        }
        panic!("{}: does not come to rest: {:?}", self.scenario.name, self.trail);
    }

    fn begin(&mut self) -> Result<(), Crash> {
        let side = |operator, name: &str| Side { operator, id_mno: name.into(), name: name.into() };
        let request = Request {
            id: CHANGE,
            card: card_id(),
            from: side(1, "one"),
            imsi: imsi_1(),
            msisdn: Some("43660000001".parse().unwrap()),
            to: side(2, "two"),
            terms: Terms {
                consent: self.scenario.consent,
                consent_within_s: 24 * 3_600,
                ask_user: self.scenario.asks_user(),
                guard_s: self.scenario.guarded.then_some(900),
                eap_aka_counts_as_seen: false,
                bearer: Bearer::Sms,
            },
            evidence: Evidence {
                agreed_at: EpochMs(self.now),
                way: Way::WebSite,
                token: "operator two".into(),
                campaign: None,
                uplink_counter: None,
                reference: String::new(),
            },
        };
        let (change, commands) = Change::begin(EpochMs(self.now), request);
        self.commit(change, commands, None)
    }

    pub(super) fn point(&mut self) -> Result<(), Crash> {
        self.points += 1;
        if self.crashes.contains(&self.points) {
            self.trail.push(Trace::Crash(self.now));
            // What the process knew is gone; the bytes are there.
            self.change = serde_json::from_slice(&self.body).ok();
            return Err(Crash);
        }
        Ok(())
    }

    pub(super) fn later(&mut self, after_ms: i64, what: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + after_ms, self.sequence), what);
    }

    /// One thing: a result, an effect, or what comes next in time. `false`: nothing is left.
    fn step(&mut self, end: i64) -> Result<bool, Crash> {
        if let Some(event) = self.results.pop_front() {
            self.event(event, None)?;
            return Ok(true);
        }
        if let Some(effect) = self.effects.pop_front() {
            self.point()?;
            match effect {
                Effect::Command(command) => self.perform(command),
                Effect::Transmit(counter) => self.transmit(counter)?,
            }
            self.point()?;
            return Ok(true);
        }
        let due = self.change().due().map(|due| due.0.max(self.now));
        let happening = self.agenda.keys().next().copied();
        if due.is_none() && happening.is_none() {
            // Nothing but the device's own timers.
            return Ok(false);
        }
        let row = self.rows.iter().filter(|(_, row)| row.state == RowState::Submitted);
        let deadline = row.map(|(counter, row)| (row.deadline.max(self.now), *counter)).min();
        let device = self.phone.device.next_deadline().map(|due| due.0.max(self.now));
        let times = [due, happening.map(|(at, _)| at), deadline.map(|(at, _)| at), device];
        let Some(next) = times.into_iter().flatten().min().filter(|next| *next < end) else {
            return Ok(false);
        };
        self.now = next;
        if let Some((at, sequence)) = happening.filter(|(at, _)| *at == next) {
            let what = self.agenda[&(at, sequence)].clone();
            self.happens(what)?;
            // What was not taken durably comes again.
            self.agenda.remove(&(at, sequence));
        } else if let Some((_, counter)) = deadline.filter(|(at, _)| *at == next) {
            let kind = self.rows[&counter].kind;
            self.event(Event::Lost { kind, counter }, Some((counter, RowState::Lost)))?;
        } else if device == Some(next) {
            self.device(DeviceEvent::Deadline);
        } else {
            self.event(Event::Tick, None)?;
        }
        Ok(true)
    }

    pub(super) fn event(&mut self, event: Event, row: Option<(u64, RowState)>) -> Result<(), Crash> {
        let mut change = self.change().clone();
        let before = change.state;
        let commands = change.handle(EpochMs(self.now), event.clone());
        if self.trail.len() < TRAIL_MAX {
            let step = Trace::Event(self.now, event, before, change.state, commands.clone());
            self.trail.push(step);
        }
        self.commit(change, commands, row)
    }

    /// One durable step with everything that belongs to it; then the effects wait.
    fn commit(
        &mut self,
        change: Change,
        commands: Vec<Command>,
        row: Option<(u64, RowState)>,
    ) -> Result<(), Crash> {
        self.point()?;
        self.body = serde_json::to_vec(&change).unwrap();
        self.record_bytes_max = self.record_bytes_max.max(self.body.len());
        self.change = Some(change);
        if let Some((counter, state)) = row
            && let Some(row) = self.rows.get_mut(&counter)
            && row.state != RowState::Proven
            && (row.is_open() || state == RowState::Proven)
        {
            row.state = state;
        }
        let mut results = Vec::new();
        let mut effects = Vec::new();
        for command in commands {
            match command {
                Command::SendPersonalization { validity_s, .. } => {
                    results.push(self.reserve(PacketKind::Personalization, validity_s, &mut effects));
                }
                Command::Fence { validity_s, .. } => {
                    self.rows.values_mut().filter(|row| row.is_open()).for_each(|row| {
                        row.state = RowState::Abandoned;
                    });
                    results.push(self.reserve(PacketKind::Fence, validity_s, &mut effects));
                }
                Command::Adopt(identity) => {
                    assert_eq!(Some(identity.imsi), self.sealed, "the keys of what is adopted are there");
                    self.operator = 2;
                }
                other => effects.push(Effect::Command(other)),
            }
        }
        self.point()?;
        self.results.extend(results);
        self.effects.extend(effects);
        Ok(())
    }

    fn reserve(&mut self, kind: PacketKind, validity_s: u32, effects: &mut Vec<Effect>) -> Event {
        let is_busy = self.now < BEGAN_AT + self.scenario.busy_until_ms;
        if is_busy || self.rows.values().any(Row::is_open) {
            return Event::NotQueued { kind };
        }
        self.counter += 1;
        let deadline = self.now + i64::from(validity_s) * 1_000;
        self.rows.insert(self.counter, Row { kind, state: RowState::Queued, deadline });
        effects.push(Effect::Transmit(self.counter));
        Event::Queued { kind, counter: self.counter }
    }

    fn restart(&mut self) {
        self.results.clear();
        self.effects.clear();
        self.reassembly = Reassembly::new(Limits::PLATFORM);
        for (counter, row) in &self.rows {
            if row.state == RowState::Queued {
                self.effects.push_back(Effect::Transmit(*counter));
            }
        }
        if let Some(kind) = self.change().awaits_queue() {
            let latest = self.rows.iter().next_back();
            self.results.push_back(match latest.filter(|(_, row)| row.kind == kind) {
                // Whether it is this one or an older one: the older one was reported long ago.
                Some((counter, row)) if row.is_open() || row.state == RowState::Proven => {
                    Event::Queued { kind, counter: *counter }
                }
                _ => Event::NotQueued { kind },
            });
        }
        self.results.push_back(Event::Restarted);
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::AskConsent => {
                if let Some(granted) = self.scenario.granted
                    && !self.consent_asked
                {
                    self.later(HOUR_MS, Happening::Consent(granted));
                }
                self.consent_asked = true;
            }
            Command::InformOperator1(notice) => {
                if self.notices_lost < self.scenario.notices_lost {
                    self.notices_lost += 1;
                } else {
                    self.results.push_back(Event::Acknowledged(notice));
                }
                assert!(notice == Notice::Before || self.second.has_seen.contains(&imsi_2()));
            }
            Command::Reserve => self.ask(Verb::Reserve, imsi_2()),
            Command::Arm(imsi) => self.ask(Verb::Arm, imsi),
            Command::Withdraw(imsi) => self.ask(Verb::Withdraw, imsi),
            Command::Retire(imsi) => self.ask(Verb::Retire, imsi),
            Command::Release(imsi) => self.ask(Verb::Release, imsi),
            Command::Watch(imsi) => self.watch(imsi),
            Command::ForgetAliases { imsi, .. } => {
                let has = self.card_imsi();
                assert_ne!(imsi, has, "the card's own alias is let go of: {:?}", self.trail);
            }
            Command::Tell(_) | Command::Alarm(_) => {}
            Command::SendPersonalization { .. } | Command::Fence { .. } | Command::Adopt(_) => {
                panic!("{command:?} belongs into the commit")
            }
        }
    }
}
