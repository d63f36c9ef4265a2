//! The service centre without sockets and clock: what platforms and devices say in, what to write out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use simtide_protocol::ids::{EpochMs, Imsi, Msisdn};

use super::air::{Hex, ToDevice};
use super::esme::{Delivery, Submission};
use super::receipt::{self, State};
use super::record::{Entry, Happened};
use super::settings::{Faults, Settings};

mod device;
mod platform;
mod visit;

/// How long a reordered message steps aside, in real time.
const REORDER_DELAY: Duration = Duration::from_millis(50);
/// Deliveries that wait for a platform to bind, per account; the oldest is dropped for one more.
const OUTBOX_MAX: usize = 1_000_000;

/// Both times of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Real time since the start: answers, throttling, faults.
    pub real: Duration,
    /// The service centre's clock: validity, retries, dates.
    pub clock: EpochMs,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Write to a platform.
    ToPlatform(u64, Vec<u8>),
    /// Close a platform's connection after what was written.
    ClosePlatform(u64),
    /// Drop a platform's connection at once.
    DropPlatform(u64),
    /// Write a line to a device connection.
    ToDevice(u64, ToDevice),
    /// Hand a GSUP message to the register.
    ToRegister(Vec<u8>),
    /// Add to the record.
    Record(Entry),
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Platforms' connections that are bound.
    pub bound: usize,
    /// Subscribers in coverage.
    pub attached: usize,
    /// Messages stored or on the air.
    pub stored: usize,
    /// submit_sm accepted.
    pub submitted: u64,
    /// submit_sm answered with a throttle.
    pub throttled: u64,
    /// Messages acknowledged by devices.
    pub delivered: u64,
    /// Messages whose validity ended.
    pub expired: u64,
    /// SMS-SUBMIT of devices.
    pub originated: u64,
    /// Attaches that were refused.
    pub rejected: u64,
}

/// A platform's connection.
#[derive(Debug, Default)]
struct Session {
    stream: Vec<u8>,
    out: Vec<u8>,
    bound: Option<Bound>,
    /// deliver_sm without an answer, by sequence_number.
    window: HashMap<u32, Delivery>,
    sequence: u32,
}

#[derive(Debug)]
struct Bound {
    system_id: String,
    sends: bool,
    receives: bool,
}

/// A subscriber that has been seen, or that somebody wrote to.
#[derive(Debug, Default)]
struct Subscriber {
    /// Where it is in coverage.
    at: Option<(u64, Imsi)>,
    /// Messages by number, oldest first.
    queue: VecDeque<u64>,
    /// The message on the air: its id there, and its number.
    on_air: Option<(u64, u64)>,
    /// Not before this time: the device could not take a message.
    again_at: Option<EpochMs>,
    /// Accounts that want to know when it is back.
    awaited_by: BTreeSet<String>,
}

/// Who wrote a message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    /// A platform, and where its answer is still due once the device has answered: connection and sequence_number.
    Platform { system_id: String, answer: Option<(u64, u32)> },
    /// A device, or a second copy: nobody is told.
    Nobody,
}

/// A message that is stored or on the air.
#[derive(Debug, Clone)]
struct Message {
    origin: Origin,
    sm: Submission,
    subscriber: Msisdn,
    submitted: EpochMs,
    expires: EpochMs,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A message leaves the delay that a fault put it into.
    Enqueue(u64),
    /// A message's validity ends.
    Expire(u64),
    /// A device may be tried again.
    Retry(Msisdn),
    /// A device has not answered this delivery.
    ReportMissing(Msisdn, u64),
    /// A platform has not answered this deliver_sm.
    AnswerMissing(u64, u32),
    /// An attach is not through.
    VisitLate(Imsi, u64),
}

/// The service centre.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    faults: Faults,
    random: ChaCha8Rng,
    sessions: BTreeMap<u64, Session>,
    subscribers: HashMap<Msisdn, Subscriber>,
    numbers: HashMap<Imsi, Msisdn>,
    /// Attaches under way.
    visits: HashMap<Imsi, visit::Visit>,
    visits_total: u64,
    register_stands: bool,
    messages: HashMap<u64, Message>,
    /// By id on the air: whose delivery has no report yet.
    on_air: HashMap<u64, Msisdn>,
    /// By account: what waits for a bind that receives.
    outboxes: HashMap<String, VecDeque<Delivery>>,
    by_real: BTreeSet<(Duration, Due)>,
    by_clock: BTreeSet<(EpochMs, Due)>,
    /// Real times of the submits of the last second.
    recent: VecDeque<Duration>,
    commands: VecDeque<Command>,
    figures: Figures,
    submits: u64,
    messages_total: u64,
    deliveries_total: u64,
}

impl Core {
    /// A service centre without connections.
    pub fn new(settings: Settings) -> Self {
        let faults = settings.faults.clone();
        Core {
            random: ChaCha8Rng::seed_from_u64(faults.seed),
            faults,
            settings,
            sessions: BTreeMap::new(),
            subscribers: HashMap::new(),
            numbers: HashMap::new(),
            visits: HashMap::new(),
            visits_total: 0,
            register_stands: false,
            messages: HashMap::new(),
            on_air: HashMap::new(),
            outboxes: HashMap::new(),
            by_real: BTreeSet::new(),
            by_clock: BTreeSet::new(),
            recent: VecDeque::new(),
            commands: VecDeque::new(),
            figures: Figures::default(),
            submits: 0,
            messages_total: 0,
            deliveries_total: 0,
        }
    }

    /// Changes the faults; `drop_at_submit` counts from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.submits = 0;
        self.faults = faults;
    }

    /// Counts.
    pub fn figures(&self) -> Figures {
        Figures {
            bound: self.sessions.values().filter(|session| session.bound.is_some()).count(),
            attached: self.numbers.len(),
            stored: self.messages.len(),
            ..self.figures
        }
    }

    /// The next thing to do.
    pub fn next_command(&mut self) -> Option<Command> {
        if let Some(command) = self.commands.pop_front() {
            return Some(command);
        }
        let (&id, session) = self.sessions.iter_mut().find(|(_, session)| !session.out.is_empty())?;
        Some(Command::ToPlatform(id, std::mem::take(&mut session.out)))
    }

    /// When [`Core::handle_deadline`] is due: in real time, and on the clock.
    pub fn next_deadline(&self) -> (Option<Duration>, Option<EpochMs>) {
        (self.by_real.first().map(|(at, _)| *at), self.by_clock.first().map(|(at, _)| *at))
    }

    /// Does what is due.
    pub fn handle_deadline(&mut self, now: Moment) {
        while let Some((at, _)) = self.by_real.first()
            && *at <= now.real
        {
            let Some((_, due)) = self.by_real.pop_first() else { break };
            self.due(now, due);
        }
        while let Some((at, _)) = self.by_clock.first()
            && *at <= now.clock
        {
            let Some((_, due)) = self.by_clock.pop_first() else { break };
            self.due(now, due);
        }
    }

    fn due(&mut self, now: Moment, due: Due) {
        match due {
            Due::Enqueue(number) => self.enqueue(now, number),
            Due::Expire(number) => self.expire(now, number),
            Due::Retry(subscriber) => {
                if let Some(known) = self.subscribers.get_mut(&subscriber) {
                    known.again_at = None;
                }
                self.deliver_next(now, subscriber);
            }
            Due::ReportMissing(subscriber, id) => {
                if self.on_air.contains_key(&id) {
                    self.not_now(now, subscriber);
                }
            }
            Due::AnswerMissing(session, sequence) => self.deliver_answered(now, session, sequence, false),
            Due::VisitLate(imsi, number) => self.visit_late(now, imsi, number),
        }
    }

    fn chance(&mut self, permille: u32) -> bool {
        permille > 0 && self.random.random_range(0..1_000) < permille
    }

    fn record(&mut self, now: Moment, event: Happened, id: u64, sm: &Submission) {
        self.commands.push_back(Command::Record(Entry {
            time: now.clock,
            event,
            id,
            source: sm.source.clone(),
            destination: sm.destination.clone(),
            user_data: Hex(sm.user_data.clone()),
        }));
    }

    /// Stores a message and tries to deliver it, as far as the faults let it.
    fn store(&mut self, now: Moment, message: Message) -> u64 {
        self.messages_total += 1;
        let number = self.messages_total;
        self.by_clock.insert((message.expires, Due::Expire(number)));
        let copy = self.chance(self.faults.duplicate_permille).then(|| message.clone());
        let lost = self.chance(self.faults.lose_permille);
        let origin = if lost { Origin::Nobody } else { message.origin.clone() };
        self.messages.insert(number, Message { origin, ..message });
        if !lost {
            let mut delay = Duration::from_millis(self.faults.delay_ms.into());
            if self.chance(self.faults.reorder_permille) {
                delay += REORDER_DELAY;
            }
            if delay.is_zero() {
                self.enqueue(now, number);
            } else {
                self.by_real.insert((now.real + delay, Due::Enqueue(number)));
            }
        }
        if let Some(copy) = copy {
            self.messages_total += 1;
            let second = self.messages_total;
            self.by_clock.insert((copy.expires, Due::Expire(second)));
            self.messages.insert(second, Message { origin: Origin::Nobody, ..copy });
            self.enqueue(now, second);
        }
        number
    }

    fn enqueue(&mut self, now: Moment, number: u64) {
        let Some(message) = self.messages.get(&number) else { return };
        let subscriber = message.subscriber;
        let wants_to_know = match &message.origin {
            Origin::Platform { system_id, .. } => Some((system_id.clone(), message.sm.registered_delivery)),
            Origin::Nobody => None,
        };
        let known = self.subscribers.entry(subscriber).or_default();
        known.queue.push_back(number);
        if known.at.is_none()
            && let Some((system_id, registered)) = wants_to_know
        {
            known.awaited_by.insert(system_id);
            // registered_delivery bit 5: also an intermediate notification (SMPP 3.4, 5.2.17).
            if registered & 0x10 != 0 {
                self.notify(now, number, State::Enroute);
            }
        }
        self.deliver_next(now, subscriber);
    }

    fn expire(&mut self, now: Moment, number: u64) {
        let Some(message) = self.messages.get(&number) else { return };
        let subscriber = message.subscriber;
        let known = self.subscribers.entry(subscriber).or_default();
        if known.on_air.is_some_and(|(_, on_air)| on_air == number) {
            // The device has it; its report decides. A device that never reports is found by ReportMissing.
            return;
        }
        known.queue.retain(|&queued| queued != number);
        self.figures.expired += 1;
        self.finish(now, number, State::Expired);
    }

    /// A message has its final state.
    fn finish(&mut self, now: Moment, number: u64, state: State) {
        let event = match state {
            State::Delivered => Happened::Acknowledged,
            State::Expired => Happened::Expired,
            State::Undeliverable | State::Enroute => Happened::Failed,
        };
        if self.faults.receipt_before_answer {
            self.notify(now, number, state);
            self.answer_transaction(number, state == State::Delivered);
        } else {
            self.answer_transaction(number, state == State::Delivered);
            self.notify(now, number, state);
        }
        if let Some(message) = self.messages.remove(&number) {
            self.by_clock.remove(&(message.expires, Due::Expire(number)));
            self.record(now, event, number, &message.sm);
        }
    }

    /// Queues a receipt, where one was asked for.
    fn notify(&mut self, now: Moment, number: u64, state: State) {
        let Some(message) = self.messages.get(&number) else { return };
        let Origin::Platform { system_id, .. } = &message.origin else { return };
        let wanted = matches!(
            (state, message.sm.registered_delivery & 0x03),
            (State::Enroute, _) | (_, 1) | (State::Delivered, 3) | (State::Expired | State::Undeliverable, 2)
        );
        let (system_id, message) = (system_id.clone(), message.clone());
        if !wanted || self.chance(self.faults.lose_receipts_permille) {
            return;
        }
        let style = self.settings.message_ids;
        let id = receipt::id_in_receipt(style, number);
        let text = receipt::text(id.as_deref(), state, message.submitted, now.clock);
        let parameters = self.settings.receipt_parameters;
        // Where there is no id, what is left of the reference has to do.
        let reference = match id {
            Some(_) => message.sm.reference,
            None => message.sm.reference.map(|reference| reference & 0xFF),
        };
        self.record(now, Happened::Receipt, number, &message.sm);
        let delivery = Delivery {
            source: (1, 1, message.sm.destination.clone()),
            destination: (message.sm.source_ton, message.sm.source_npi, message.sm.source.clone()),
            esm_class: if state == State::Enroute { 0x20 } else { 0x04 },
            protocol_id: 0,
            data_coding: 0,
            user_data: text.into_bytes(),
            receipted_message_id: id.filter(|_| parameters),
            message_state: parameters.then(|| state.number()),
            reference,
        };
        self.send(now, &system_id, delivery);
    }
}
