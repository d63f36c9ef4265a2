//! The machine: events in, commands out.
//!
//! | state | what it waits for | accepted | next |
//! |---|---|---|---|
//! | `Off` | someone switches it on | `PowerOn` | `Resetting` |
//! | `Resetting` | the card's ATR | `CardReset` | `Waiting` (first file), `Failed` |
//! | `Idle` | work: see the priorities | every event | `Waiting`, `Resetting` |
//! | `Waiting` | the card's answer to one command | `CardAnswer` | `Waiting` (61xx, 6Cxx, next command), `Running`, `Idle`, `Resetting` |
//! | `Running` | the world, for one proactive command | channel, user and SMS outcomes, `Deadline` | `Waiting` (terminal response) |
//! | `Failed` | a new start | `PowerOn` | `Resetting` |
//!
//! In every state `PowerOff` leads to `Off` and `CardLost` to `Failed`; messages, data and expired timers are kept
//! until the card can be told. An answer that nobody waits for is dropped.
//!
//! Priorities in `Idle`: 1 a proactive command to fetch, 2 a challenge to answer, 3 data for an open channel, 4 a dropped
//! channel, 5 expired timers, 6 short messages, 7 the location, 8 a menu selection, 9 the device's
//! own application, 10 the poll interval.
//!
//! Deadlines exist where the time belongs to the card or to a person: timers, poll interval, prompts, another attempt
//! after 9300. How long a connection or a submission may take is the shell's to decide, which always answers.

use std::collections::VecDeque;

use simtide_protocol::apdu::StatusWord;
use simtide_protocol::ids::{EpochMs, Imsi};

use crate::application::Application;
use crate::authenticate::Challenges;
use crate::channel::Channel;
use crate::event::{Command, Event, LinkId, Menu, Notice, SmsReport, UserAction};
use crate::inbox::{CAUSE_BUSY, Inbox, Message};
use crate::kind::Settings;
use crate::proactive::{Details, tag};
use crate::registration::Registering;
use crate::response;
use crate::startup::{CardFiles, Step};
use crate::timers::Timers;

/// Most proactive commands that are fetched in a row. A download over a channel takes one for each 230 bytes.
pub const FETCHES_PER_SESSION_MAX: u32 = 20_000;

/// Most GET RESPONSE and corrected lengths for one command.
pub const FOLLOW_UPS_MAX: u8 = 8;

/// How long a message is kept after the card said 9300, in seconds, before it is offered again.
pub const BUSY_RETRY_S: i64 = 2;

/// How often a message is offered to a card that says 9300.
pub const BUSY_ATTEMPTS_MAX: u8 = 30;

/// A device with its card.
#[derive(Debug)]
pub struct Device {
    pub(crate) settings: Settings,
    pub(crate) state: State,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) files: CardFiles,
    pub(crate) attached: Option<Imsi>,
    pub(crate) inbox: Inbox,
    pub(crate) timers: Timers,
    pub(crate) channels: Vec<Channel>,
    /// One bit for each event of the list that the card has set up.
    pub(crate) events: u32,
    pub(crate) menu: Option<Menu>,
    pub(crate) chosen: Option<u8>,
    pub(crate) poll: Option<PollInterval>,
    pub(crate) registering: Registering,
    pub(crate) challenges: Challenges,
    /// The device's own application, while it is used.
    pub(crate) application: Option<Box<Application>>,
    /// The card that was read last, for which the messages of the inbox are.
    pub(crate) last_card: Option<CardFiles>,
    /// How often a card was started or read anew.
    pub(crate) starts: u32,
    fetch: Option<u8>,
    fetches: u32,
    pub(crate) busy_until: Option<EpochMs>,
    pub(crate) next_link: u32,
    pub(crate) next_reference: u32,
}

/// What the device is doing.
#[derive(Debug)]
pub(crate) enum State {
    Off,
    Resetting,
    Idle,
    Waiting(Exchange),
    Running(Running),
    Failed,
}

/// A command that the card has not answered yet.
#[derive(Debug)]
pub(crate) struct Exchange {
    purpose: Purpose,
    command: Vec<u8>,
    /// What came before the last 61xx.
    answer: Vec<u8>,
    follow_ups: u8,
    /// The card said 9Exx: what follows explains a refusal.
    refused: bool,
}

/// Why a command was sent to the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Reading the card; after a REFRESH its details, for the terminal response.
    Start(Step, Option<Details>),
    Fetch,
    Challenge(u64),
    Application,
    Response,
    Data(LinkId),
    Dropped(LinkId),
    Timer(u8),
    Sms,
    Location(u8),
    MenuSelection,
    Status,
}

/// A proactive command that waits for the world.
#[derive(Debug)]
pub(crate) enum Running {
    Connecting { details: Details, link: LinkId, bearer: Vec<u8>, modified: bool },
    Sending { details: Details, link: LinkId },
    Submitting { details: Details, reference: u32 },
    Prompting { details: Details, ask: crate::prompt::Ask, until: EpochMs },
}

/// POLL INTERVAL: how often the card wants to be asked whether it has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PollInterval {
    pub every_ms: i64,
    pub next: EpochMs,
    pub due: bool,
}

impl Exchange {
    /// The challenge that the card is answering.
    pub(crate) fn challenge(&self) -> Option<u64> {
        match self.purpose {
            Purpose::Challenge(id) => Some(id),
            _ => None,
        }
    }
}

impl Device {
    /// A device that is switched off.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: State::Off,
            commands: VecDeque::new(),
            files: CardFiles::default(),
            attached: None,
            inbox: Inbox::default(),
            timers: Timers::default(),
            channels: Vec::new(),
            events: 0,
            menu: None,
            chosen: None,
            poll: None,
            registering: Registering::default(),
            challenges: Challenges::default(),
            application: None,
            last_card: None,
            starts: 0,
            fetch: None,
            fetches: 0,
            busy_until: None,
            next_link: 0,
            next_reference: 0,
        }
    }

    /// What the device has read from its card.
    pub fn files(&self) -> &CardFiles {
        &self.files
    }

    /// How often a card was started or read anew: when this has changed, so may have [`Self::files`].
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// The card's menu, as it stands.
    pub fn menu(&self) -> Option<&Menu> {
        self.menu.as_ref()
    }

    /// Whether a channel is open or being opened.
    pub fn has_channel(&self) -> bool {
        !self.channels.is_empty()
    }

    /// Whether the device is started and nothing is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether there is no card to speak to: switched off, lost, or not usable.
    pub fn has_no_card(&self) -> bool {
        matches!(self.state, State::Off | State::Failed)
    }

    /// Whether the card was lost or cannot be used: [`Event::PowerOn`] tries again.
    pub fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed)
    }

    /// The next thing that the shell has to do.
    pub fn next_command(&mut self) -> Option<Command> {
        let command = self.commands.pop_front();
        if self.commands.is_empty() {
            // A device at rest holds no buffers.
            self.commands = VecDeque::new();
        }
        command
    }

    /// When the device wants [`Event::Deadline`], if nothing happens before.
    pub fn next_deadline(&self) -> Option<EpochMs> {
        let prompt = match &self.state {
            State::Running(Running::Prompting { until, .. }) => Some(*until),
            State::Off | State::Failed => return None,
            _ => None,
        };
        let poll = self.poll.filter(|poll| !poll.due).map(|poll| poll.next);
        [prompt, poll, self.busy_until, self.timers.next(), self.registering.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes an event.
    pub fn handle(&mut self, now: EpochMs, event: Event) {
        match event {
            Event::PowerOn => self.power_on(),
            Event::PowerOff => self.power_off(State::Off),
            Event::CardLost if !matches!(self.state, State::Off) => {
                self.power_off(State::Failed);
                self.commands.push_back(Command::Notice(Notice::CardUnusable));
            }
            Event::CardLost => {}
            Event::CardReset(atr) => self.card_reset(&atr),
            Event::CardAnswer(answer) => self.card_answer(now, &answer),
            Event::Authenticate { id, rand, autn } => self.challenge(id, rand, autn),
            Event::Attached => self.accepted(),
            Event::AttachRefused { cause } => self.refused(now, cause),
            Event::Coverage(is_there) => self.coverage(is_there),
            Event::Sms { id, service_center, tpdu } => self.sms(Message::new(id, service_center, tpdu)),
            Event::SubmitOutcome { reference, accepted } => self.submit_outcome(reference, accepted),
            Event::ChannelConnected(link) => self.channel_connected(link),
            Event::ChannelFailed(link) => self.channel_failed(link),
            Event::ChannelData(link, bytes) => self.channel_data(link, &bytes),
            Event::ChannelSent(link, count) => self.channel_sent(link, count),
            Event::ChannelClosed(link) => self.channel_closed(link),
            Event::User(action) => self.user(now, action),
            Event::Deadline => self.deadline(now),
        }
        self.proceed(now);
    }

    fn power_on(&mut self) {
        if matches!(self.state, State::Off | State::Failed) {
            self.state = State::Resetting;
            self.commands.push_back(Command::Reset);
        }
    }

    /// Everything that belongs to a card session ends.
    fn power_off(&mut self, state: State) {
        self.end_session();
        for message in self.inbox.take() {
            self.report(message.id, SmsReport::Refused { cause: CAUSE_BUSY, data: Vec::new() });
        }
        self.files = CardFiles::default();
        self.state = state;
    }

    /// Resets the card, as REFRESH with UICC reset asks for; messages from the network are kept.
    pub(crate) fn restart(&mut self) {
        self.end_session();
        self.state = State::Resetting;
        self.commands.push_back(Command::Reset);
    }

    fn end_session(&mut self) {
        self.give_up_challenges();
        self.application = None;
        for channel in self.channels.drain(..) {
            self.commands.push_back(Command::CloseChannel { link: channel.link });
        }
        if matches!(self.state, State::Running(Running::Prompting { .. })) {
            self.commands.push_back(Command::Clear);
        }
        if self.menu.take().is_some() {
            self.commands.push_back(Command::MenuChanged(None));
        }
        self.leave();
        self.channels = Vec::new();
        self.timers = Timers::default();
        self.events = 0;
        self.chosen = None;
        self.poll = None;
        self.fetch = None;
        self.fetches = 0;
        self.busy_until = None;
    }

    fn card_reset(&mut self, atr: &[u8]) {
        if !matches!(self.state, State::Resetting) {
            return;
        }
        if atr.is_empty() {
            self.power_off(State::Failed);
            self.commands.push_back(Command::Notice(Notice::CardUnusable));
            return;
        }
        self.files = CardFiles::default();
        self.start(Step::SelectMaster, None);
    }

    /// Reads the card again; the terminal response to `refresh` follows.
    pub(crate) fn reread(&mut self, refresh: Details) {
        self.start(Step::SelectMaster, Some(refresh));
    }

    fn start(&mut self, step: Step, refresh: Option<Details>) {
        let mut next = Some(step);
        while let Some(step) = next {
            // A card session that goes on has its terminal profile.
            let skipped = step == Step::Profile && refresh.is_some();
            if let Some(command) = step.command(&self.settings).filter(|_| !skipped) {
                return self.exchange(command, Purpose::Start(step, refresh));
            }
            next = step.next(true);
        }
        self.started(refresh);
    }

    fn started(&mut self, refresh: Option<Details>) {
        self.state = State::Idle;
        self.keep_inbox_to_its_card();
        self.register();
        if let Some(details) = refresh {
            self.respond(details, response::result::OK, &[]);
        }
    }

    /// Sends a command to the card and waits for its answer.
    pub(crate) fn exchange(&mut self, command: Vec<u8>, purpose: Purpose) {
        self.commands.push_back(Command::Transmit(command.clone()));
        self.state =
            State::Waiting(Exchange { purpose, command, answer: Vec::new(), follow_ups: 0, refused: false });
    }

    fn card_answer(&mut self, now: EpochMs, bytes: &[u8]) {
        let mut exchange = match std::mem::replace(&mut self.state, State::Idle) {
            State::Waiting(exchange) => exchange,
            other => {
                self.state = other;
                return;
            }
        };
        let [data @ .., sw1, sw2] = bytes else {
            self.power_off(State::Failed);
            self.commands.push_back(Command::Notice(Notice::CardUnusable));
            return;
        };
        exchange.answer.extend_from_slice(data);
        let follow_up = match sw1 {
            // 9Exx and 9Fxx are the forms of GSM cards.
            0x61 | 0x9E | 0x9F => Some(vec![exchange.command[0] & 0x03, 0xC0, 0x00, 0x00, *sw2]),
            0x6C if exchange.command.len() <= 5 => {
                let mut command = exchange.command.clone();
                command.truncate(4);
                command.push(*sw2);
                Some(command)
            }
            _ => None,
        };
        exchange.refused |= *sw1 == 0x9E;
        exchange.follow_ups += 1;
        match follow_up {
            Some(command) if exchange.follow_ups <= FOLLOW_UPS_MAX => {
                self.commands.push_back(Command::Transmit(command.clone()));
                exchange.command = command;
                self.state = State::Waiting(exchange);
            }
            _ => self.answered(now, exchange, StatusWord(u16::from_be_bytes([*sw1, *sw2]))),
        }
    }

    /// A command has its whole answer.
    fn answered(&mut self, now: EpochMs, exchange: Exchange, status: StatusWord) {
        let [sw1, sw2] = status.0.to_be_bytes();
        if sw1 == 0x91 {
            self.fetch = Some(sw2);
        }
        let succeeded = matches!(sw1, 0x90 | 0x91);
        let busy = status == StatusWord::TOOLKIT_BUSY;
        match exchange.purpose {
            Purpose::Start(step, refresh) => {
                self.files.keep(step, &exchange.answer, status);
                match step.next(succeeded) {
                    Some(next) => self.start(next, refresh),
                    None => self.started(refresh),
                }
            }
            Purpose::Fetch => self.fetched(now, &exchange.answer, succeeded),
            Purpose::Challenge(id) => self.challenge_answered(id, &exchange.answer, status),
            Purpose::Application => self.application_answered(&exchange.answer, status),
            Purpose::Sms => self.sms_answered(now, exchange.answer, status, exchange.refused),
            // What a busy card could not take is offered again.
            Purpose::Data(link) if busy => self.with_channel(link, |channel| channel.tell_data = true),
            Purpose::Dropped(link) if busy => self.with_channel(link, |channel| channel.tell_dropped = true),
            Purpose::Timer(timer) if busy => self.timers.expire_again(timer),
            Purpose::Location(status) if busy => self.tell_location_again(status),
            _ => {}
        }
        if busy {
            self.busy_until = Some(now.plus_s(BUSY_RETRY_S));
        }
    }

    fn with_channel(&mut self, link: LinkId, change: impl FnOnce(&mut Channel)) {
        if let Some(channel) = self.channels.iter_mut().find(|channel| channel.link == link) {
            change(channel);
        }
    }

    /// Goes on with what has waited, as far as the card is free.
    fn proceed(&mut self, now: EpochMs) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        if let Some(length) = self.fetch.take() {
            self.fetches += 1;
            if self.fetches <= FETCHES_PER_SESSION_MAX {
                return self.exchange(vec![0x80, 0x12, 0x00, 0x00, length], Purpose::Fetch);
            }
            self.commands.push_back(Command::Notice(Notice::FetchLimit));
        }
        self.fetches = 0;
        if self.busy_until.is_some_and(|until| until > now) {
            return;
        }
        self.busy_until = None;
        if self.offer_challenge() {
            return;
        }
        if let Some((envelope, purpose)) = self.next_envelope(now) {
            return self.exchange(envelope, purpose);
        }
        if self.offer_application() {
            return;
        }
        if let Some(poll) = self.poll.as_mut().filter(|poll| poll.due) {
            poll.due = false;
            poll.next = now.plus_ms(poll.every_ms);
            // STATUS without data (ETSI TS 102 221, 11.1.2).
            self.exchange(vec![0x80, 0xF2, 0x00, 0x0C], Purpose::Status);
        }
    }

    /// The first of what the card is to be told, in the order of the priorities.
    fn next_envelope(&mut self, now: EpochMs) -> Option<(Vec<u8>, Purpose)> {
        let (data, status) = (self.wants(EVENT_DATA_AVAILABLE), self.wants(EVENT_CHANNEL_STATUS));
        for channel in &mut self.channels {
            if std::mem::take(&mut channel.tell_data) && data {
                let (state, waiting) = (channel.status(), channel.waiting());
                let envelope = response::event_envelope(EVENT_DATA_AVAILABLE, |body| {
                    push(body, tag::CHANNEL_STATUS, &state);
                    push(body, tag::CHANNEL_DATA_LENGTH, &[waiting]);
                });
                return Some((envelope, Purpose::Data(channel.link)));
            }
        }
        for channel in &mut self.channels {
            if std::mem::take(&mut channel.tell_dropped) && status {
                let state = channel.status();
                let envelope = response::event_envelope(EVENT_CHANNEL_STATUS, |body| {
                    push(body, tag::CHANNEL_STATUS, &state)
                });
                return Some((envelope, Purpose::Dropped(channel.link)));
            }
        }
        if let Some((timer, elapsed_s)) = self.timers.take_expired(now) {
            let envelope = response::envelope(0xD7, 0x82, |body| {
                push(body, tag::TIMER_IDENTIFIER, &[timer]);
                push(body, tag::TIMER_VALUE, &response::timer_value(elapsed_s));
            });
            return Some((envelope, Purpose::Timer(timer)));
        }
        if let Some(message) = self.inbox.offer() {
            return Some((response::sms_envelope(&message.service_center, &message.tpdu), Purpose::Sms));
        }
        if let Some(location) = self.location_envelope() {
            return Some(location);
        }
        let item = self.chosen.take()?;
        let envelope = response::envelope(0xD3, 0x01, |body| push(body, tag::ITEM_IDENTIFIER, &[item]));
        Some((envelope, Purpose::MenuSelection))
    }

    /// Whether the card has asked for an event.
    pub(crate) fn wants(&self, event: u8) -> bool {
        self.events >> event & 1 == 1
    }

    fn deadline(&mut self, now: EpochMs) {
        self.timers.expire(now);
        self.attach_again(now);
        if let Some(poll) = self.poll.as_mut().filter(|poll| poll.next <= now) {
            poll.due = true;
        }
        match &self.state {
            State::Running(Running::Prompting { details, until, .. }) if *until <= now => {
                let details = *details;
                self.commands.push_back(Command::Clear);
                self.respond(details, response::result::NO_ANSWER, &[]);
            }
            _ => {}
        }
    }

    fn user(&mut self, now: EpochMs, action: UserAction) {
        let Some(action) = self.application_user(now, action) else { return };
        match action {
            UserAction::Operators => self.open_application(),
            UserAction::Menu(item) => {
                let known =
                    self.menu.as_ref().is_some_and(|menu| menu.items.iter().any(|(id, _)| *id == item));
                if known {
                    self.chosen = Some(item);
                }
            }
            answer => self.user_answer(now, answer),
        }
    }
}

/// Events of a card's list (ETSI TS 102 223, 8.25).
pub(crate) const EVENT_LOCATION_STATUS: u8 = 0x03;
pub(crate) const EVENT_DATA_AVAILABLE: u8 = 0x09;
pub(crate) const EVENT_CHANNEL_STATUS: u8 = 0x0A;

pub(crate) fn push(body: &mut Vec<u8>, tag: u16, value: &[u8]) {
    simtide_protocol::tlv::push_comprehension(body, tag, true, value);
}
