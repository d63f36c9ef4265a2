//! One bind of a link: a connection, its state, and the submits that wait for an answer.
//!
//! | state | accepted | deadline | next |
//! |---|---|---|---|
//! | Pause | - | end of the pause | Connecting |
//! | Connecting | connected, failed | `bind_timeout_s` | Binding, Pause |
//! | Binding | bind answer, enquire_link | `bind_timeout_s` | Bound, Pause, Stopped |
//! | Bound | every PDU | oldest answer, enquire_link | Pause, Unbinding |
//! | Unbinding | unbind answer | [`UNBIND_WAIT`] | Stopped |
//! | Stopped | - | - | - |

use std::collections::VecDeque;
use std::time::Duration;

use rusmpp_core::CommandId;

use super::config::LinkConfig;
use super::event::{Connection, Submit};
use super::wire::{self, Credentials, Frames};

/// How long an unbind may take before the connection is closed anyway.
pub const UNBIND_WAIT: Duration = Duration::from_secs(2);

/// What a bind carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Both directions.
    Transceiver,
    /// Submits.
    Transmitter,
    /// Receipts and messages.
    Receiver,
}

impl Role {
    /// The bind PDU of this role; its answer has the same id with bit 31 set.
    pub fn command(self) -> CommandId {
        match self {
            Role::Transceiver => CommandId::BindTransceiver,
            Role::Transmitter => CommandId::BindTransmitter,
            Role::Receiver => CommandId::BindReceiver,
        }
    }
}

/// State of a bind; the table is in the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits before connecting.
    Pause {
        /// When it connects.
        until: Duration,
    },
    /// TCP and TLS.
    Connecting {
        /// When it gives up.
        until: Duration,
    },
    /// Bind sent.
    Binding {
        /// When it gives up.
        until: Duration,
        /// Its sequence_number.
        sequence: u32,
    },
    /// In service.
    Bound,
    /// Unbind sent.
    Unbinding {
        /// When it closes anyway.
        until: Duration,
    },
    /// Ended for good.
    Stopped,
}

/// A submit that waits to be sent.
#[derive(Debug)]
pub struct Waiting {
    /// The message.
    pub submit: Submit,
    /// Since when.
    pub since: Duration,
}

/// A submit that waits for its answer.
#[derive(Debug)]
pub struct InFlight {
    /// The message.
    pub waiting: Waiting,
    /// When it left.
    pub sent_at: Duration,
}

/// One bind.
#[derive(Debug)]
pub struct Bind {
    /// What it carries.
    pub role: Role,
    /// Where it stands.
    pub state: State,
    /// Counts its connections.
    pub attempt: u32,
    /// Failed attempts since it was last bound.
    pub failures: u32,
    /// What came in, not yet whole PDUs.
    pub frames: Frames,
    /// What goes out with the next write.
    pub out: Vec<u8>,
    /// Submits in the order in which they left, by sequence_number; `None` where the answer has come.
    window: VecDeque<(u32, Option<InFlight>)>,
    in_flight: usize,
    /// Next parts of messages whose part before went here: they go before everything else.
    pub held: VecDeque<Waiting>,
    /// When the last byte came in.
    pub heard_at: Duration,
    /// When an enquire_link without an answer was sent.
    pub asked_at: Option<Duration>,
    sequence: u32,
}

impl Bind {
    /// A bind that connects at once.
    pub fn new(role: Role) -> Self {
        Bind {
            role,
            state: State::Pause { until: Duration::ZERO },
            attempt: 0,
            failures: 0,
            frames: Frames::default(),
            out: Vec::new(),
            window: VecDeque::new(),
            in_flight: 0,
            held: VecDeque::new(),
            heard_at: Duration::ZERO,
            asked_at: None,
            sequence: 0,
        }
    }

    /// Whether submits may go here.
    pub fn can_send(&self) -> bool {
        self.state == State::Bound && self.role != Role::Receiver
    }

    /// Whether a connection is open or being opened.
    pub fn is_connected(&self) -> bool {
        matches!(
            self.state,
            State::Connecting { .. } | State::Binding { .. } | State::Bound | State::Unbinding { .. }
        )
    }

    /// The connection in use.
    pub fn connection(&self, bind: usize) -> Connection {
        Connection { bind, attempt: self.attempt }
    }

    /// The next sequence_number: 1 to 7FFFFFFF (SMPP 3.4, 3.2).
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = if self.sequence >= 0x7FFF_FFFF { 1 } else { self.sequence + 1 };
        self.sequence
    }

    /// Starts a connection: nothing of the one before is left.
    pub fn connect(&mut self, until: Duration) {
        self.attempt = self.attempt.wrapping_add(1);
        self.frames = Frames::default();
        self.out.clear();
        self.sequence = 0;
        self.asked_at = None;
        self.state = State::Connecting { until };
    }

    /// Sends the bind.
    pub fn bind(&mut self, now: Duration, config: &LinkConfig) {
        let sequence = self.next_sequence();
        self.heard_at = now;
        self.state = State::Binding { until: now + LinkConfig::seconds(config.bind_timeout_s), sequence };
        let credentials = Credentials {
            id: self.role.command(),
            system_id: &config.system_id,
            password: config.password.reveal(),
            system_type: &config.system_type,
        };
        wire::write_bind(&mut self.out, sequence, &credentials);
    }

    /// Sends one submit.
    pub fn submit(&mut self, now: Duration, waiting: Waiting) {
        let sequence = self.next_sequence();
        wire::write_submit(&mut self.out, sequence, &waiting.submit);
        self.window.push_back((sequence, Some(InFlight { waiting, sent_at: now })));
        self.in_flight += 1;
    }

    /// Submits without an answer.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The submits without an answer.
    pub fn window(&self) -> impl Iterator<Item = &InFlight> {
        self.window.iter().filter_map(|(_, in_flight)| in_flight.as_ref())
    }

    /// Takes the submit that an answer is about out of the window.
    pub fn answered(&mut self, sequence: u32) -> Option<InFlight> {
        // Sequence numbers rise within a connection; after 7FFFFFFF the few from before the turn are searched.
        let at = match self.window.binary_search_by_key(&sequence, |(sequence, _)| *sequence) {
            Ok(at) => at,
            Err(_) => self.window.iter().position(|(found, _)| *found == sequence)?,
        };
        let answered = self.window[at].1.take()?;
        self.in_flight -= 1;
        while let Some((_, None)) = self.window.front() {
            self.window.pop_front();
        }
        Some(answered)
    }

    /// The oldest submit without an answer: when it left, and its sequence_number.
    pub fn oldest(&self) -> Option<(Duration, u32)> {
        let (sequence, in_flight) = self.window.front()?;
        in_flight.as_ref().map(|in_flight| (in_flight.sent_at, *sequence))
    }

    /// Empties the window, in the order in which the submits left.
    pub fn take_window(&mut self) -> Vec<InFlight> {
        self.in_flight = 0;
        std::mem::take(&mut self.window).into_iter().filter_map(|(_, in_flight)| in_flight).collect()
    }

    /// Sends an unbind.
    pub fn unbind(&mut self, now: Duration) {
        let sequence = self.next_sequence();
        wire::write_header(&mut self.out, CommandId::Unbind, 0, sequence);
        self.state = State::Unbinding { until: now + UNBIND_WAIT };
    }

    /// Asks whether the SMSC is there.
    pub fn enquire(&mut self, now: Duration) {
        let sequence = self.next_sequence();
        wire::write_header(&mut self.out, CommandId::EnquireLink, 0, sequence);
        self.asked_at = Some(now);
    }

    /// When this bind wants to be woken, apart from the pace of the link.
    pub fn deadline(&self, config: &LinkConfig) -> Option<Duration> {
        match self.state {
            State::Pause { until }
            | State::Connecting { until }
            | State::Binding { until, .. }
            | State::Unbinding { until } => Some(until),
            State::Bound => {
                let timeout = LinkConfig::seconds(config.response_timeout_s);
                let silence = match self.asked_at {
                    Some(asked_at) => asked_at + timeout,
                    None => self.heard_at + LinkConfig::seconds(config.enquire_link_s),
                };
                let answer = self.oldest().map(|(sent_at, _)| sent_at + timeout);
                Some(answer.map_or(silence, |answer| answer.min(silence)))
            }
            State::Stopped => None,
        }
    }
}
