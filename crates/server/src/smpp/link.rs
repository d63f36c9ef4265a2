//! The machine of one SMPP link: inputs in, commands out, no sockets and no clock.
//!
//! [`Machine::handle`] takes what happened, [`Machine::next_command`] says what to do, and [`Machine::next_deadline`]
//! when to call [`Machine::handle_deadline`]. `now` is the time since the link started. All that one input frees is
//! written at once: a chunk of answers that frees 40 window slots gives one write of 40 submits.
//!
//! A message leaves from, in this order: the next part of a message that has begun on a bind; what the SMSC throttled;
//! the queue. The outcome of a submit is exactly one of Accepted, Refused and Unknown.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::bind::{Bind, Role, State, Waiting};
use super::config::{BindMode, LinkConfig};
use super::event::{
    Answer, Connection, LinkEvent, Receipt, Refusal, SHORT_MESSAGE_BYTES_MAX, StopReason, Submit,
    SubmitError, Verdict,
};
use super::pace::Pace;
use super::receipt::Matcher;

mod incoming;
#[cfg(test)]
mod tests;

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection (with TLS where configured) is open.
    Connected(Connection),
    /// A connection could not be opened, or has ended.
    Lost(Connection),
    /// A connection brought bytes.
    Bytes(Connection, &'a [u8]),
    /// The caller answers a message from a phone.
    Answered(Answer, Verdict),
    /// Finish what has left, then end.
    Shutdown,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Open a connection.
    Connect(Connection),
    /// Write these bytes, in one call.
    Write(Connection, Vec<u8>),
    /// Close a connection after what was written.
    Close(Connection),
    /// Tell the owner of the link.
    Report(LinkEvent),
}

/// Counts since the start of a link, and where it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Binds in service.
    pub bound: usize,
    /// Submits without an answer.
    pub in_flight: usize,
    /// Messages that wait to be sent.
    pub pending: usize,
    /// The rate in force, in short messages per second; `None` without a limit.
    pub rate_per_s: Option<f64>,
    /// Submits written, repetitions after a throttle included.
    pub submitted: u64,
    /// Messages accepted by the SMSC.
    pub accepted: u64,
    /// Messages refused, by whomever.
    pub refused: u64,
    /// Answers that asked for less.
    pub throttled: u64,
    /// Messages whose outcome is unknown.
    pub unknown: u64,
    /// Receipts.
    pub receipts: u64,
    /// Messages from phones.
    pub messages: u64,
    /// Answers to nothing that we asked, PDUs that could not be read, connections lost.
    pub faults: u64,
}

/// One link.
#[derive(Debug)]
pub struct Machine {
    config: LinkConfig,
    binds: Vec<Bind>,
    queue: VecDeque<Waiting>,
    /// What the SMSC throttled, oldest first.
    again: VecDeque<Waiting>,
    /// By group: the parts behind the one that is queued or in flight.
    groups: HashMap<u64, VecDeque<Submit>>,
    /// Messages in `queue`, `again`, `groups` and the binds' `held`.
    pending: usize,
    pace: Pace,
    matcher: Matcher,
    early: Vec<Receipt>,
    commands: VecDeque<Command>,
    figures: Figures,
    up: bool,
    /// Set by a shutdown or a refused bind; `Stopped` is reported when no connection is left.
    stopping: Option<StopReason>,
    stopped: bool,
    /// Where the next round of filling begins, so that no bind starves.
    turn: usize,
}

impl Machine {
    /// A link that connects with the first [`Machine::handle_deadline`].
    pub fn new(config: LinkConfig) -> Self {
        let binds = usize::from(config.binds.max(1));
        let binds = match config.bind_mode {
            BindMode::Transceiver => vec![Role::Transceiver; binds],
            BindMode::TransmitterReceiver => {
                let mut roles = vec![Role::Transmitter; binds];
                roles.push(Role::Receiver);
                roles
            }
        };
        Machine {
            pace: Pace::new(config.rate_per_s),
            binds: binds.into_iter().map(Bind::new).collect(),
            config,
            queue: VecDeque::new(),
            again: VecDeque::new(),
            groups: HashMap::new(),
            pending: 0,
            matcher: Matcher::default(),
            early: Vec::new(),
            commands: VecDeque::new(),
            figures: Figures::default(),
            up: false,
            stopping: None,
            stopped: false,
            turn: 0,
        }
    }

    /// Takes a message into the queue and sends it if there is room. Its outcome comes as an event.
    pub fn submit(&mut self, now: Duration, submit: Submit) -> Result<(), SubmitError> {
        if self.pending >= self.config.queue_max && self.stopping.is_none() {
            return Err(SubmitError::Full);
        }
        self.enqueue(now, submit)?;
        self.fill(now);
        Ok(())
    }

    /// Takes a message into the queue, whose length the caller watches; it leaves with the next [`Machine::fill`].
    pub fn enqueue(&mut self, now: Duration, submit: Submit) -> Result<(), SubmitError> {
        if self.stopping.is_some() {
            return Err(SubmitError::Stopped);
        }
        if submit.short_message.len() > SHORT_MESSAGE_BYTES_MAX {
            return Err(SubmitError::TooLong);
        }
        self.pending += 1;
        if let Some(group) = submit.group {
            if let Some(begun) = self.groups.get_mut(&group) {
                begun.push_back(submit);
                return Ok(());
            }
            self.groups.insert(group, VecDeque::new());
        }
        self.queue.push_back(Waiting { submit, since: now });
        Ok(())
    }

    /// Takes a message back that waits and is no part of a longer one; one that has left stays where it is.
    pub fn withdraw(&mut self, token: u64) {
        let take = |queue: &mut VecDeque<Waiting>| {
            let waits = |waiting: &Waiting| waiting.submit.token == token && waiting.submit.group.is_none();
            queue.iter().position(waits).and_then(|place| queue.remove(place))
        };
        if let Some(waiting) = take(&mut self.queue).or_else(|| take(&mut self.again)) {
            self.pending -= 1;
            self.refuse(waiting.submit, Refusal::Withdrawn, false);
        }
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Duration, input: Input<'_>) {
        match input {
            Input::Connected(connection) => {
                if let Some(i) = self.current(connection)
                    && let State::Connecting { .. } = self.binds[i].state
                {
                    self.binds[i].bind(now, &self.config);
                }
            }
            Input::Lost(connection) => {
                if let Some(i) = self.current(connection) {
                    self.lost(now, i);
                }
            }
            Input::Bytes(connection, bytes) => {
                if let Some(i) = self.current(connection) {
                    self.read(now, i, bytes);
                }
            }
            Input::Answered(answer, verdict) => self.answer(answer, verdict),
            Input::Shutdown => self.shutdown(now, StopReason::Requested),
        }
        self.fill(now);
    }

    /// Does what is due.
    pub fn handle_deadline(&mut self, now: Duration) {
        for i in 0..self.binds.len() {
            match self.binds[i].state {
                State::Pause { until } if until <= now => {
                    self.binds[i].connect(now + LinkConfig::seconds(self.config.bind_timeout_s));
                    self.commands.push_back(Command::Connect(self.binds[i].connection(i)));
                }
                State::Connecting { until } | State::Binding { until, .. } | State::Unbinding { until }
                    if until <= now =>
                {
                    self.disconnect(now, i);
                }
                State::Bound => self.bound_deadline(now, i),
                _ => {}
            }
        }
        self.refuse_late(now);
        self.fill(now);
    }

    /// When [`Machine::handle_deadline`] is due; `None` once stopped.
    pub fn next_deadline(&self, now: Duration) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut earlier = |at: Duration| next = Some(next.map_or(at, |next| next.min(at)));
        for bind in &self.binds {
            bind.deadline(&self.config).into_iter().for_each(&mut earlier);
        }
        let wait = LinkConfig::seconds(self.config.queue_wait_s);
        for queue in [&self.queue, &self.again] {
            queue.front().map(|first| first.since + wait).into_iter().for_each(&mut earlier);
        }
        let window = usize::from(self.config.window);
        let ready = self.binds.iter().any(|bind| {
            let something = !(bind.held.is_empty() && self.again.is_empty() && self.queue.is_empty());
            bind.can_send() && bind.in_flight() < window && something
        });
        if ready {
            self.pace.next_at(now).into_iter().for_each(&mut earlier);
        }
        next
    }

    /// The next thing to do.
    pub fn next_command(&mut self) -> Option<Command> {
        if let Some(command) = self.commands.pop_front() {
            return Some(command);
        }
        let (i, bind) = self.binds.iter_mut().enumerate().find(|(_, bind)| !bind.out.is_empty())?;
        Some(Command::Write(bind.connection(i), std::mem::take(&mut bind.out)))
    }

    /// Messages that wait to be sent.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Whether [`LinkEvent::Stopped`] was reported.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Counts, and where the link stands.
    pub fn figures(&self) -> Figures {
        Figures {
            bound: self.binds.iter().filter(|bind| bind.state == State::Bound).count(),
            in_flight: self.binds.iter().map(Bind::in_flight).sum(),
            pending: self.pending,
            rate_per_s: self.pace.rate_per_s(),
            ..self.figures
        }
    }

    /// Sends what window and pace allow.
    pub fn fill(&mut self, now: Duration) {
        if self.pending == 0 {
            return;
        }
        let window = usize::from(self.config.window);
        let mut allowed = self.pace.allowed(now);
        let mut sent = 0;
        self.turn = self.turn.wrapping_add(1);
        for begun_only in [true, false] {
            for k in 0..self.binds.len() {
                let i = (self.turn + k) % self.binds.len();
                while allowed > 0 && self.binds[i].can_send() && self.binds[i].in_flight() < window {
                    let next = match self.binds[i].held.pop_front() {
                        None if begun_only => break,
                        None => self.again.pop_front().or_else(|| self.queue.pop_front()),
                        held => held,
                    };
                    let Some(next) = next else { break };
                    self.binds[i].submit(now, next);
                    allowed -= 1;
                    sent += 1;
                }
            }
        }
        self.pending -= sent;
        self.figures.submitted += sent as u64;
        self.pace.sent(sent);
    }

    pub(super) fn report(&mut self, event: LinkEvent) {
        self.commands.push_back(Command::Report(event));
    }

    fn bound_deadline(&mut self, now: Duration, i: usize) {
        let timeout = LinkConfig::seconds(self.config.response_timeout_s);
        while let Some((sent_at, sequence)) = self.binds[i].oldest() {
            if sent_at + timeout > now {
                break;
            }
            if let Some(in_flight) = self.binds[i].answered(sequence) {
                self.unknown(in_flight.waiting.submit);
            }
        }
        match self.binds[i].asked_at {
            Some(asked_at) if asked_at + timeout <= now => self.disconnect(now, i),
            None if self.binds[i].heard_at + LinkConfig::seconds(self.config.enquire_link_s) <= now => {
                self.binds[i].enquire(now);
            }
            _ => {}
        }
        self.maybe_unbind(now, i);
    }

    /// Refuses what has waited too long; both queues are in order of arrival.
    fn refuse_late(&mut self, now: Duration) {
        let wait = LinkConfig::seconds(self.config.queue_wait_s);
        loop {
            let late =
                |queue: &VecDeque<Waiting>| queue.front().is_some_and(|first| first.since + wait <= now);
            let first = if late(&self.again) {
                self.again.pop_front()
            } else if late(&self.queue) {
                self.queue.pop_front()
            } else {
                return;
            };
            let Some(first) = first else { return };
            self.pending -= 1;
            self.refuse(first.submit, Refusal::Waited, true);
        }
    }

    /// Closes a connection from our side.
    pub(super) fn disconnect(&mut self, now: Duration, i: usize) {
        let connection = self.binds[i].connection(i);
        let out = std::mem::take(&mut self.binds[i].out);
        if !out.is_empty() {
            self.commands.push_back(Command::Write(connection, out));
        }
        self.commands.push_back(Command::Close(connection));
        self.lost(now, i);
    }

    /// A connection is gone.
    pub(super) fn lost(&mut self, now: Duration, i: usize) {
        if self.stopping.is_none() {
            self.figures.faults += 1;
        }
        let pause = self.pause(i);
        let bind = &mut self.binds[i];
        bind.out.clear();
        bind.failures = bind.failures.saturating_add(1);
        bind.state =
            if self.stopping.is_some() { State::Stopped } else { State::Pause { until: now + pause } };
        let held = std::mem::take(&mut bind.held);
        for in_flight in bind.take_window() {
            self.unknown(in_flight.waiting.submit);
        }
        // Next parts of messages whose earlier parts were accepted: any bind will do.
        self.again.extend(held);
        if self.up && !self.binds.iter().any(Bind::can_send) {
            self.up = false;
            self.report(LinkEvent::Down);
        }
        self.maybe_stopped();
    }

    /// The pause before the next attempt: doubles with every failure, and differs a little between binds.
    fn pause(&self, i: usize) -> Duration {
        let doublings = self.binds[i].failures.min(16);
        let longest = LinkConfig::seconds(self.config.reconnect_s_max);
        let pause =
            LinkConfig::seconds(self.config.reconnect_s_min).saturating_mul(1 << doublings).min(longest);
        pause + pause.mul_f64(0.05 * i as f64)
    }

    pub(super) fn shutdown(&mut self, now: Duration, reason: StopReason) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(reason);
        let mut waiting: Vec<Waiting> = self.again.drain(..).chain(self.queue.drain(..)).collect();
        waiting.extend(self.binds.iter_mut().flat_map(|bind| bind.held.drain(..)));
        for waiting in waiting {
            self.pending -= 1;
            self.refuse(waiting.submit, Refusal::Stopped, true);
        }
        // What is in flight is waited for; parts behind it are not sent any more.
        for group in std::mem::take(&mut self.groups).into_values() {
            for part in group {
                self.pending -= 1;
                self.figures.refused += 1;
                let cause = Refusal::Stopped;
                self.report(LinkEvent::Refused { token: part.token, cause, temporary: true });
            }
        }
        for i in 0..self.binds.len() {
            match self.binds[i].state {
                State::Bound => self.maybe_unbind(now, i),
                State::Connecting { .. } | State::Binding { .. } => self.disconnect(now, i),
                State::Pause { .. } => self.binds[i].state = State::Stopped,
                State::Unbinding { .. } | State::Stopped => {}
            }
        }
        self.maybe_stopped();
    }

    /// While stopping: a bind with an empty window leaves.
    pub(super) fn maybe_unbind(&mut self, now: Duration, i: usize) {
        let bind = &mut self.binds[i];
        if self.stopping.is_some() && bind.state == State::Bound && bind.in_flight() == 0 {
            bind.unbind(now);
        }
    }

    fn maybe_stopped(&mut self) {
        let Some(reason) = self.stopping else { return };
        if self.stopped || self.binds.iter().any(|bind| bind.state != State::Stopped) {
            return;
        }
        self.stopped = true;
        for receipt in std::mem::take(&mut self.early) {
            self.report(LinkEvent::Receipt(receipt));
        }
        self.report(LinkEvent::Stopped { reason });
    }
}
