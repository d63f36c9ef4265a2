//! The shell in miniature around the real machine, with what lasts, what is lost at a crash, and the world outside.
//!
//! The record of the change is bytes: every event reads it, and one commit writes it with its packets. Between any two
//! steps the process may end.

use std::collections::{BTreeMap, VecDeque};

use simtide_platform::subscription::{
    CardSays, Change, Command, Event, Evidence, Notice, PacketKind, Request, Side, State, Terms, Verb, Way,
};
use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Iccid, Imsi};

use crate::card::{Card, Mood};
use crate::register::{Fault, Register};
use crate::scenarios::{Air, Scenario};

pub const MINUTE_MS: i64 = 60_000;
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
pub const DAY_MS: i64 = 24 * HOUR_MS;
const STEPS_MAX: u32 = 20_000;

pub fn imsi_1() -> Imsi {
    "001010000000001".parse().unwrap()
}

pub fn imsi_2() -> Imsi {
    "001020000000001".parse().unwrap()
}

pub fn foreign_imsi() -> Imsi {
    "001030000000001".parse().unwrap()
}

pub fn card_id() -> CardId {
    CardId::from("8988211000000000011".parse::<Iccid>().unwrap())
}

pub const CHANGE: ChangeId = ChangeId(0x0102_0304_0506_0708);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowState {
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
    state: RowState,
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
    Packet {
        counter: u64,
        kind: PacketKind,
    },
    Proof {
        counter: u64,
        kind: PacketKind,
        says: CardSays,
    },
    Report(CardSays),
    UserAgrees,
    Reset,
    Attach,
    GuardEnds,
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
    now: i64,
    // What lasts.
    body: Vec<u8>,
    pub(super) sealed: Option<Imsi>,
    pub(super) rows: BTreeMap<u64, Row>,
    counter: u64,
    pub operator: u8,
    // What a crash loses.
    pub(super) results: VecDeque<Event>,
    effects: VecDeque<Effect>,
    // Outside.
    agenda: BTreeMap<(i64, u32), Happening>,
    sequence: u32,
    pub card: Card,
    pub first: Register,
    pub second: Register,
    pub(super) transmitted: Vec<(u64, PacketKind)>,
    proofs_sent: usize,
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
    pub fn new(scenario: &Scenario, fault: Option<Fault>, crashes: &[u32]) -> World {
        let mut world = World {
            scenario: scenario.clone(),
            fault,
            fault_used: false,
            now: 1_000_000,
            body: Vec::new(),
            sealed: None,
            rows: BTreeMap::new(),
            counter: 10,
            operator: 1,
            results: VecDeque::new(),
            effects: VecDeque::new(),
            agenda: BTreeMap::new(),
            sequence: 0,
            card: Card::new(scenario.mood, scenario.guarded),
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
        let here = crate::register::Entry { change: None, access: true, attached: true };
        world.first.entries.insert(imsi_1(), here);
        for (at, what) in [(scenario.cancel_at, Happening::Cancel), (scenario.resolve_at, Happening::Resolve)]
        {
            if let Some(at) = at {
                world.later(at, what);
            }
        }
        world
    }

    pub fn change(&self) -> &Change {
        self.change.as_ref().unwrap()
    }

    /// From the request to the end of everything that can still happen.
    pub fn run(&mut self) {
        let mut begun = false;
        // A register that fails for ever only makes it longer.
        let days = if self.fault.is_some_and(|fault| fault.always) { 6 } else { 30 };
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
                ask_user: false,
                guard_s: self.scenario.guarded.then_some(900),
                eap_aka_counts_as_seen: false,
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

    fn point(&mut self) -> Result<(), Crash> {
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
        let row = self.rows.iter().filter(|(_, row)| row.state == RowState::Submitted);
        let deadline = row.map(|(counter, row)| (row.deadline.max(self.now), *counter)).min();
        let times = [due, happening.map(|(at, _)| at), deadline.map(|(at, _)| at)];
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
        } else {
            self.event(Event::Tick, None)?;
        }
        Ok(true)
    }

    fn event(&mut self, event: Event, row: Option<(u64, RowState)>) -> Result<(), Crash> {
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
        let is_busy = self.now < 1_000_000 + self.scenario.busy_until_ms;
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

    /// The message leaves; then its row says so. A crash in between sends it twice.
    fn transmit(&mut self, counter: u64) -> Result<(), Crash> {
        let Some(row) = self.rows.get(&counter).filter(|row| row.state == RowState::Queued) else {
            return Ok(());
        };
        let kind = row.kind;
        let rules = match kind {
            PacketKind::Personalization => &self.scenario.messages,
            PacketKind::Fence => &self.scenario.fences,
        };
        let sent_before = self.transmitted.iter().filter(|(_, sent)| *sent == kind).count();
        let rule = *rules.get(sent_before).or(rules.last()).unwrap();
        self.transmitted.push((counter, kind));
        let packet = Happening::Packet { counter, kind };
        match rule {
            Air::Arrives => self.later(5_000, packet),
            Air::Lost => {}
            Air::Late(by) => self.later(5_000 + by, packet),
            Air::Twice(by) => {
                self.later(5_000, packet.clone());
                self.later(5_000 + by, packet);
            }
        }
        self.check();
        self.point()?;
        if let Some(row) = self.rows.get_mut(&counter).filter(|row| row.state == RowState::Queued) {
            row.state = RowState::Submitted;
        }
        Ok(())
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
                let has = if self.card.identity == 1 { imsi_1() } else { imsi_2() };
                assert_ne!(imsi, has, "the card's own alias is let go of: {:?}", self.trail);
            }
            Command::Tell(_) | Command::Alarm(_) => {}
            Command::SendPersonalization { .. } | Command::Fence { .. } | Command::Adopt(_) => {
                panic!("{command:?} belongs into the commit")
            }
        }
    }

    fn happens(&mut self, what: Happening) -> Result<(), Crash> {
        let off = self.scenario.off.map(|(from, to)| (1_000_000 + from, 1_000_000 + to));
        let is_device = !matches!(
            what,
            Happening::Consent(_)
                | Happening::Late(..)
                | Happening::Cancel
                | Happening::Resolve
                | Happening::Proof { .. }
                | Happening::Report(_)
        );
        if let Some((_, on)) = off.filter(|(from, to)| is_device && (*from..*to).contains(&self.now)) {
            self.later(on - self.now, what);
            return Ok(());
        }
        match what {
            Happening::Packet { counter, kind } => self.card_gets(counter, kind),
            Happening::Proof { counter, kind, says } => {
                return self.event(Event::Proof { kind, counter, says }, Some((counter, RowState::Proven)));
            }
            Happening::Report(says) => return self.event(Event::Report(says), None),
            Happening::Consent(granted) => return self.event(Event::Consent { granted }, None),
            Happening::Cancel => return self.event(Event::Cancel, None),
            Happening::Resolve => return self.event(Event::Resolve, None),
            Happening::Late(verb, imsi) => drop(self.carry_out(verb, imsi)),
            Happening::UserAgrees => {
                if self.card.agreed() {
                    self.later(self.scenario.reset_ms, Happening::Reset);
                }
            }
            Happening::Reset => {
                let was = self.card.identity;
                self.card.reset();
                if was != self.card.identity {
                    self.later(5_000, Happening::Attach);
                    if self.scenario.guarded {
                        self.later(900_000, Happening::GuardEnds);
                    }
                }
            }
            Happening::Attach => self.attach(),
            Happening::GuardEnds => {
                if let Some(says) = self.card.guard_ends() {
                    self.later(5_000, Happening::Attach);
                    self.proof_leaves(Happening::Report(says));
                }
            }
        }
        Ok(())
    }

    fn card_gets(&mut self, counter: u64, kind: PacketKind) {
        let reply = self.card.packet(counter, kind);
        self.proof_leaves(Happening::Proof { counter, kind, says: reply.says });
        if reply.reset {
            self.later(self.scenario.reset_ms, Happening::Reset);
        }
        match self.scenario.mood {
            Mood::Thinks(ms) if reply.says == CardSays::Asking => self.later(ms, Happening::UserAgrees),
            Mood::ThinksAndReset if reply.says == CardSays::Asking => {
                self.later(2 * HOUR_MS, Happening::Reset);
            }
            _ => {}
        }
    }

    fn attach(&mut self) {
        let is_shut = self.now < 1_000_000 + self.scenario.shut_until_ms;
        if self.card.identity == 1 {
            self.first.attach(imsi_1());
        } else if !is_shut && self.second.accepts(imsi_2()) {
            self.second.attach(imsi_2());
            if !self.scenario.forgets_commit
                && let Some(says) = self.card.authenticated()
            {
                self.proof_leaves(Happening::Report(says));
            }
        } else {
            // The device tries again as long as it is not let in.
            self.later(10 * MINUTE_MS, Happening::Attach);
        }
    }

    fn proof_leaves(&mut self, proof: Happening) {
        let rules = &self.scenario.proofs;
        let rule = *rules.get(self.proofs_sent).or(rules.last()).unwrap();
        self.proofs_sent += 1;
        match rule {
            Air::Arrives => self.later(3_000, proof),
            Air::Lost => {}
            Air::Late(by) => self.later(3_000 + by, proof),
            Air::Twice(by) => {
                self.later(3_000, proof.clone());
                self.later(3_000 + by, proof);
            }
        }
    }
}
