//! The agent of recurring polls: it watches the device's clock, opens a channel when the date in EF.POLL has come or
//! a trigger asks for it, and lets itself be administered over TLS and SCP81.
//!
//! | state | accepts | next |
//! |---|---|---|
//! | Off: before TERMINAL PROFILE | TERMINAL PROFILE | Asking; Opening where a trigger waits; Retrying where the power went within a dialogue |
//! | Asking: for date and time | terminal response | Waiting, or Opening where the date has come |
//! | Waiting: a timer of at most 24 h runs, or none | timer expiration: Asking; trigger: Opening | |
//! | Retrying: a timer runs after a session that failed | timer expiration, trigger | Opening |
//! | Opening: OPEN CHANNEL | terminal response | Talking, or Retrying, or Asking when it gives up |
//! | Talking: SEND DATA, RECEIVE DATA, or waiting for data | terminal responses, data available, channel status | Talking, Closing |
//! | Closing: CLOSE CHANNEL | terminal response | Asking after a complete session, Retrying or Asking otherwise |
//!
//! There is one session at a time; a trigger that comes while one is under way is served by it. The device bounds
//! Asking, Opening and Closing; [`SESSION_TIMERS_MAX`] bounds Talking.
//!
//! After a complete dialogue (204) in which nobody wrote another date into EF.POLL, the card moves its date by
//! [`poll_date::following`]: it keeps its place in the tide. After one that failed it tries again, as often and after
//! such a pause as the trigger or EF.POLL says; when it gives up, a date that has come moves on in the same way.

mod dialogue;
mod host;
mod memory;
mod settings;
#[cfg(test)]
mod tests;

pub use dialogue::SessionFailure;
pub(crate) use host::{Host, Psk};

use crate::secure_channel::SecureChannels;
use crate::toolkit::{
    CHANNEL_DATA_MAX, DeviceEvent, Envelope, LocalInformation, Proactive, TerminalResponse,
};
use dialogue::{Dialogue, Progress};
use memory::Memory;
use settings::Settings;
use simtide_protocol::ids::EpochMs;
use simtide_protocol::poll_date::{self, PollFile};
use simtide_protocol::trigger::{Trigger, TriggerError};
use std::collections::VecDeque;

/// Longest timer that is started; longer waits take several.
const TIMER_S_MAX: u32 = 86_400;
/// How long the agent waits before it asks a device without a clock again.
const CLOCK_RETRY_S: u32 = 3_600;
/// Timers of 24 hours that may expire while a session is open; then it is given up. A device reports a channel that
/// it has lost; this bounds the session where it does not.
pub const SESSION_TIMERS_MAX: u8 = 7;
/// Most bytes that one RECEIVE DATA asks for: its terminal response has at most 255.
const RECEIVE_BYTES: u8 = 230;
/// The timer that the agent uses.
const TIMER: u8 = 1;

/// Which of the agent's commands a terminal response answers.
mod token {
    pub(super) const EVENTS: u16 = 0;
    pub(super) const TIME: u16 = 1;
    pub(super) const TIMER: u16 = 2;
    pub(super) const OPEN: u16 = 3;
    pub(super) const SEND: u16 = 4;
    pub(super) const RECEIVE: u16 = 5;
    pub(super) const CLOSE: u16 = 6;
}

/// The agent's volatile state; a reset clears it. What has to survive is in EF.POLL and in the card's storage.
#[derive(Default)]
pub struct Agent {
    state: State,
    /// The session under way.
    session: Option<Box<Session>>,
    /// What the next known time is needed for, besides the next timer.
    date: DateRule,
    /// Whether the timer runs.
    timer: bool,
    /// Seconds waited for on a device that tells no time.
    clockless_s: u32,
    /// Commands for which the toolkit had no room.
    unsent: VecDeque<(u16, Proactive)>,
    last_failure: Option<SessionFailure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Off,
    Asking,
    Waiting,
    Retrying,
    Opening,
    Talking,
    Closing,
}

/// What becomes of the date in EF.POLL when the time is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum DateRule {
    /// It stays.
    #[default]
    Stays,
    /// The card has polled: it moves on, if nobody has written another one than this.
    Polled(u32),
    /// The poll was given up: it moves on, if it has come.
    GivenUp,
}

/// A session under way.
struct Session {
    dialogue: Dialogue,
    settings: Settings,
    /// The date in EF.POLL when it began.
    planned_s: u32,
    channel: u8,
    /// Bytes for the peer.
    outbox: Vec<u8>,
    /// Bytes that the device holds back since it was last told to send.
    collected: usize,
    /// A SEND DATA or RECEIVE DATA is with the device.
    busy: bool,
    /// The device has data for us.
    data_waits: bool,
    /// How it ended.
    outcome: Option<Result<(), SessionFailure>>,
    timers: u8,
}

impl Agent {
    /// Why the last session failed; none after one that was complete.
    pub fn last_failure(&self) -> Option<SessionFailure> {
        self.last_failure
    }

    /// Whether a session is under way.
    pub fn is_in_session(&self) -> bool {
        self.session.is_some()
    }

    /// TERMINAL PROFILE: the device is ready.
    pub(crate) fn start(&mut self, host: &mut dyn Host, channels: &dyn SecureChannels) {
        *self = Self::default();
        let mut events = vec![DeviceEvent::DataAvailable, DeviceEvent::ChannelStatus];
        if host.wants_service_events() {
            events.push(DeviceEvent::LocationStatus);
        }
        self.enqueue(host, token::EVENTS, Proactive::SetUpEventList(events));
        let memory = Memory::load(host);
        if memory.open {
            // The power went within a dialogue, perhaps after the next date had been written.
            self.failed(host, None, SessionFailure::ChannelLost);
        } else if memory.wanted.is_some() {
            self.open_session(host, channels);
        } else {
            self.ask_time(host);
        }
    }

    /// A trigger: a session is opened at once, unless one is under way, which serves it too. Before TERMINAL PROFILE
    /// it waits; it survives power loss.
    ///
    /// # Errors
    /// The data are no trigger; nothing happens.
    pub(crate) fn trigger(
        &mut self,
        host: &mut dyn Host,
        channels: &dyn SecureChannels,
        data: &[u8],
    ) -> Result<(), TriggerError> {
        self.flush(host);
        let coding = host.profile().scp81.retry_timer;
        let parameters = match Trigger::decode(data, coding)? {
            Trigger::Stored => Default::default(),
            Trigger::With(parameters) => *parameters,
        };
        if self.session.is_some() {
            return Ok(());
        }
        let mut memory = Memory::load(host);
        memory.wanted = Some(parameters);
        memory.failures = 0;
        memory.save(host);
        match self.state {
            // It is opened as soon as the device is ready.
            State::Off => (),
            State::Asking | State::Waiting | State::Retrying => self.open_session(host, channels),
            State::Opening | State::Talking | State::Closing => (),
        }
        Ok(())
    }

    /// A terminal response to one of the agent's commands.
    pub(crate) fn answer(
        &mut self,
        host: &mut dyn Host,
        channels: &dyn SecureChannels,
        token: u16,
        response: &TerminalResponse<'_>,
    ) {
        self.flush(host);
        match (token, self.state) {
            (token::TIME, State::Asking) => self.time(host, channels, response.date_time()),
            (token::OPEN, State::Opening) => self.opened(host, response),
            (token::SEND, State::Talking) => self.sent(host, response),
            (token::RECEIVE, State::Talking) => self.received(host, response),
            (token::CLOSE, State::Closing) => self.closed(host),
            // An answer that came too late, or one that changes nothing.
            _ => (),
        }
    }

    /// An event or timer expiration.
    pub(crate) fn notice(
        &mut self,
        host: &mut dyn Host,
        channels: &dyn SecureChannels,
        envelope: &Envelope<'_>,
    ) {
        self.flush(host);
        if let Some((channel, length)) = envelope.data_available() {
            if let Some(session) = self.session.as_mut().filter(|session| session.channel == channel) {
                session.data_waits |= length > 0;
                self.pump(host);
            }
        } else if let Some((channel, false)) = envelope.channel_status() {
            if self.state == State::Talking
                && self.session.as_ref().is_some_and(|session| session.channel == channel)
            {
                self.hang_up(host, Err(SessionFailure::ChannelLost));
            }
        } else if matches!(envelope, Envelope::TimerExpired { timer: TIMER }) {
            self.timer = false;
            self.timer_expired(host, channels);
        }
    }

    fn timer_expired(&mut self, host: &mut dyn Host, channels: &dyn SecureChannels) {
        match self.state {
            State::Waiting => self.ask_time(host),
            State::Retrying => self.open_session(host, channels),
            State::Off | State::Asking | State::Closing => (),
            State::Opening | State::Talking => {
                let Some(session) = self.session.as_mut() else { return };
                session.timers += 1;
                if session.timers < SESSION_TIMERS_MAX {
                    self.start_timer(host, TIMER_S_MAX);
                } else if self.state == State::Talking {
                    self.hang_up(host, Err(SessionFailure::TooLong));
                }
            }
        }
    }

    fn enqueue(&mut self, host: &mut dyn Host, token: u16, command: Proactive) {
        self.unsent.push_back((token, command));
        self.flush(host);
    }

    /// Hands over what the toolkit has room for. At most a handful of commands ever wait: the agent asks for the next
    /// one when the last is answered.
    fn flush(&mut self, host: &mut dyn Host) {
        while let Some((token, command)) = self.unsent.pop_front() {
            if host.enqueue(token, command.clone()).is_err() {
                self.unsent.push_front((token, command));
                return;
            }
        }
    }

    fn ask_time(&mut self, host: &mut dyn Host) {
        let own_polls = host.poll_file().is_some_and(|file| file.period_s > 0);
        if !own_polls {
            self.date = DateRule::Stays;
            self.state = State::Waiting;
            return;
        }
        self.state = State::Asking;
        self.enqueue(host, token::TIME, Proactive::ProvideLocalInformation(LocalInformation::DateTime));
    }

    fn start_timer(&mut self, host: &mut dyn Host, duration_s: u32) {
        self.timer = true;
        let duration_s = duration_s.clamp(1, TIMER_S_MAX);
        self.enqueue(host, token::TIMER, Proactive::StartTimer { timer: TIMER, duration_s });
    }

    /// The device has told the time, or that it knows none.
    fn time(&mut self, host: &mut dyn Host, channels: &dyn SecureChannels, now: Option<EpochMs>) {
        self.state = State::Waiting;
        let Some(mut file) = host.poll_file() else { return };
        let Some(now) = now else {
            // By its timers alone the card keeps its period, counted from the start of the device.
            if self.clockless_s >= file.period_s {
                self.clockless_s = 0;
                return self.open_session(host, channels);
            }
            self.clockless_s = self.clockless_s.saturating_add(CLOCK_RETRY_S);
            return self.start_timer(host, CLOCK_RETRY_S);
        };
        let moves_on = match self.date {
            DateRule::Stays => false,
            DateRule::Polled(planned_s) => file.next_s == planned_s,
            DateRule::GivenUp => file.next() <= now,
        };
        if moves_on {
            file = file.with_next(poll_date::following(file.next(), file.period_s, now));
            host.write_poll_file(&file);
        }
        self.date = DateRule::Stays;
        let left_s = file.next().seconds().saturating_sub(now.seconds());
        match u32::try_from(left_s) {
            Ok(left_s) if left_s > 0 => self.start_timer(host, left_s),
            _ => self.open_session(host, channels),
        }
    }

    fn open_session(&mut self, host: &mut dyn Host, channels: &dyn SecureChannels) {
        let memory = Memory::load(host);
        let opened = Settings::resolve(host, memory.wanted.as_ref()).and_then(|settings| {
            let dialogue = Dialogue::open(host, channels, &settings, memory.resume)?;
            Ok((settings, dialogue))
        });
        let (settings, dialogue) = match opened {
            Ok(opened) => opened,
            Err(failure) => return self.failed(host, None, failure),
        };
        if !self.timer {
            self.start_timer(host, TIMER_S_MAX);
        }
        self.state = State::Opening;
        let channel = settings.channel.clone();
        self.session = Some(Box::new(Session {
            dialogue,
            settings,
            planned_s: host.poll_file().map_or(0, |file| file.next_s),
            channel: 0,
            outbox: Vec::new(),
            collected: 0,
            busy: false,
            data_waits: false,
            outcome: None,
            timers: 0,
        }));
        self.enqueue(host, token::OPEN, Proactive::OpenChannel(channel));
    }

    /// The device has answered OPEN CHANNEL.
    fn opened(&mut self, host: &mut dyn Host, response: &TerminalResponse<'_>) {
        let channel = response.channel().filter(|_| response.is_done());
        match (channel, self.session.as_mut()) {
            (Some(channel), Some(session)) => {
                session.channel = channel;
                self.state = State::Talking;
                self.pump(host);
            }
            _ => {
                let session = self.session.take();
                self.failed(host, session.map(|session| session.settings), SessionFailure::NoChannel);
            }
        }
    }

    /// Asks the device for the next thing to do on the channel: send first, then receive, else wait for data.
    fn pump(&mut self, host: &mut dyn Host) {
        let Some(session) = self.session.as_mut() else { return };
        if session.busy || self.state != State::Talking {
            return;
        }
        session.outbox.append(&mut session.dialogue.outgoing());
        let channel = session.channel;
        if !session.outbox.is_empty() {
            let rest = session.outbox.split_off(session.outbox.len().min(CHANNEL_DATA_MAX));
            let data = std::mem::replace(&mut session.outbox, rest);
            session.collected += data.len();
            // The device collects until the message is whole or its buffer is full.
            let next = session.outbox.len().min(CHANNEL_DATA_MAX);
            let immediate = next == 0 || session.collected + next > session.settings.buffer_bytes();
            if immediate {
                session.collected = 0;
            }
            session.busy = true;
            self.enqueue(host, token::SEND, Proactive::SendData { channel, data, immediate });
        } else if session.data_waits {
            session.data_waits = false;
            session.busy = true;
            self.enqueue(host, token::RECEIVE, Proactive::ReceiveData { channel, length: RECEIVE_BYTES });
        }
    }

    /// The device has answered SEND DATA.
    fn sent(&mut self, host: &mut dyn Host, response: &TerminalResponse<'_>) {
        if let Some(session) = self.session.as_mut() {
            session.busy = false;
        }
        if response.is_done() {
            self.pump(host)
        } else {
            self.hang_up(host, Err(SessionFailure::ChannelLost))
        }
    }

    /// The device has answered RECEIVE DATA.
    fn received(&mut self, host: &mut dyn Host, response: &TerminalResponse<'_>) {
        let Some(session) = self.session.as_mut() else { return };
        session.busy = false;
        session.data_waits |= response.channel_data_length().is_some_and(|length| length > 0);
        if !response.is_done() {
            return self.hang_up(host, Err(SessionFailure::ChannelLost));
        }
        match session.dialogue.received(host, response.channel_data().unwrap_or_default()) {
            Progress::Goes => self.pump(host),
            Progress::Complete => self.hang_up(host, Ok(())),
            Progress::Failed(failure) => self.hang_up(host, Err(failure)),
        }
    }

    /// Closes the channel; what follows depends on how the session ended.
    fn hang_up(&mut self, host: &mut dyn Host, outcome: Result<(), SessionFailure>) {
        let Some(session) = self.session.as_mut() else { return };
        session.outcome = Some(outcome);
        self.state = State::Closing;
        let channel = session.channel;
        self.enqueue(host, token::CLOSE, Proactive::CloseChannel { channel });
    }

    /// The channel is closed, or was lost before.
    fn closed(&mut self, host: &mut dyn Host) {
        let Some(session) = self.session.take() else { return };
        match session.outcome {
            Some(Ok(())) => {
                Memory::default().save(host);
                self.last_failure = None;
                self.clockless_s = 0;
                self.date = DateRule::Polled(session.planned_s);
                self.ask_time(host);
            }
            Some(Err(failure)) => self.failed(host, Some(session.settings), failure),
            None => self.failed(host, Some(session.settings), SessionFailure::ChannelLost),
        }
    }

    /// A session has failed: it is tried again after a pause, or given up.
    fn failed(&mut self, host: &mut dyn Host, settings: Option<Settings>, failure: SessionFailure) {
        self.last_failure = Some(failure);
        let file =
            host.poll_file().unwrap_or(PollFile { next_s: 0, period_s: 0, retry_delay_s: 0, retries: 0 });
        let (retries, delay_s) = settings
            .map_or((u16::from(file.retries), u32::from(file.retry_delay_s)), |settings| {
                settings.retry(&file)
            });
        let mut memory = Memory::load(host);
        memory.open = false;
        if u16::from(memory.failures) < retries {
            memory.failures += 1;
            memory.save(host);
            self.state = State::Retrying;
            // Cards that failed together do not come back together.
            let spread_s = delay_s / 2;
            let jitter_s = if spread_s > 0 { host.random() % spread_s } else { 0 };
            return self.start_timer(host, delay_s.saturating_add(jitter_s));
        }
        memory.failures = 0;
        memory.wanted = None;
        memory.save(host);
        self.date = DateRule::GivenUp;
        self.ask_time(host);
    }
}
