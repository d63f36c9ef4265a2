//! The client module: reaches a card without coverage, over IP.
//!
//! It asks the entitlement server, proves with the card's own AUTHENTICATE who it is, opens the second layer, keeps what
//! it fetched in the [inbound queue](crate::inbound), lets the [SAT module](crate::sat) hand it to the card, and sends
//! what the card answers back from the [outbound queue](crate::outbound). Like [`crate::Device`] it is a machine without
//! I/O: [`Client::handle`] takes the time, random bytes and an event, [`Client::next_command`] says what to do.
//!
//! | exchange | what it waits for | accepted | next |
//! |---|---|---|---|
//! | `Resting` | a reason to ask: start, notification, schedule, the card, receipts or answers that are to leave | every event | `Proving` without a token, `Asking` with one |
//! | `Proving` | the server's packet or document | `Response`, `Failed` | `WithCard`, `Proving`, `Resting` |
//! | `WithCard` | AUTHENTICATE | `Authenticated` | `Proving`, `Resting` |
//! | `Asking` | the document | `Response`, `Failed` | `Resting`; `Proving` where the token is not taken |
//!
//! In every state `CardGone` leads to `Resting`: token and keys belong to a card.
//!
//! What changes the queues is on the disk before anything that follows from it leaves: the shell takes
//! [`Client::take_changes`] before commands, and [`Client::stored`] releases them. Only then is an item told as
//! fetched, handed to the card, or forgotten, and only then does the card hear that its message was taken.

pub mod http;
pub mod notification;
pub mod settings;

mod by_sms;
mod exchange;
mod names;
mod schedule;
mod service;
mod session;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use simtide_protocol::apdu::StatusWord;
use simtide_protocol::ids::{EpochMs, Imsi};
use simtide_protocol::second_layer::{ItemId, UplinkContent};

use crate::authenticate::Authentication;
use crate::event::{LinkId, SmsReport};
use crate::inbound::{CardKey, Queued};
use crate::queues::Queues;
use crate::sat::{Part, Progress, Sat};
use crate::startup::CardFiles;
use by_sms::BySms;
pub use by_sms::SMS_RETRY_S_MIN;
use exchange::Exchange;
use http::{HttpRequest, HttpResponse};
use names::Names;
use schedule::Schedule;
pub use schedule::{JITTER_PERCENT, NOTIFIED_S_MIN, RETRY_S_MAX, RETRY_S_MIN};
pub use service::CARD_REQUEST_BYTES_MAX;
use service::{CardRequest, Service};
use session::Access;
pub use settings::ClientSettings;

/// How long a packet waits that the card was too busy to take, in seconds.
pub const HOLD_S: i64 = 10;
/// How often a packet is offered to a card that is too busy before somebody is told; it goes on being offered.
pub const OFFERS_MAX: u8 = 100;

/// Random bytes, as a card's environment gives them.
pub type Random<'r> = &'r mut dyn FnMut(&mut [u8]);

/// Something that happened around the client module.
#[derive(Debug)]
pub enum Event {
    /// The device has started a card, or has read it anew.
    CardStarted(CardFiles),
    /// The card is off or gone.
    CardGone,
    /// Somebody wants to know what waits.
    Query(Reason),
    /// The server has answered.
    Response {
        /// The id of the request.
        id: u32,
        /// Its answer.
        response: HttpResponse,
    },
    /// The request has no answer: no connection, or none in time.
    Failed {
        /// The id of the request.
        id: u32,
    },
    /// The card has answered [`Command::Authenticate`].
    Authenticated {
        /// The id of the command.
        id: u64,
        /// What it said.
        authentication: Authentication,
    },
    /// The device reports on a message of the SAT module.
    Reported {
        /// The id of the message.
        id: u64,
        /// The report.
        report: SmsReport,
    },
    /// The card sends a short message that is not for the network: [`Client::claims`].
    CardSends {
        /// The device's number of it.
        reference: u32,
        /// The SMS-SUBMIT.
        tpdu: Vec<u8>,
    },
    /// The network has registered the device, or has lost it.
    Coverage(bool),
    /// The service centre has taken the message of [`Command::SubmitSms`], or has not.
    Submitted {
        /// The number of the message.
        reference: u32,
        /// Whether it took it.
        accepted: bool,
    },
    /// The device has nothing under way with its card.
    CardIdle,
    /// The card has opened a channel to the second server's address.
    ChannelOpened(LinkId),
    /// The card sends bytes there.
    ChannelData(LinkId, Vec<u8>),
    /// The channel is closed.
    ChannelClosed(LinkId),
    /// The time of [`Client::next_deadline`] has come.
    Deadline,
}

/// Why somebody wants a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A notification of the server came.
    Notified,
    /// A person, or a program of the device.
    Asked,
}

/// What the shell has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send this to the entitlement server; [`Event::Response`] or [`Event::Failed`] answers it.
    Request(HttpRequest),
    /// Let the card answer this challenge; [`Event::Authenticated`] answers it.
    Authenticate {
        /// Comes back.
        id: u64,
        /// RAND.
        rand: [u8; 16],
        /// AUTN.
        autn: [u8; 16],
    },
    /// Hand this message to the device as if the network had sent it; [`Event::Reported`] answers it.
    Deliver(Part),
    /// Send this SMS-SUBMIT by the network; [`Event::Submitted`] answers it.
    SubmitSms {
        /// Comes back.
        reference: u32,
        /// The TPDU.
        tpdu: Vec<u8>,
    },
    /// Tell the device that a message of its card was taken, or was not.
    SubmitOutcome {
        /// The device's number of it.
        reference: u32,
        /// Whether it lies in the outbound queue.
        accepted: bool,
    },
    /// Give these bytes to the card on its channel.
    ChannelSend(LinkId, Vec<u8>),
    /// Close the card's channel after what was given to it.
    ChannelClose(LinkId),
    /// Something that the operator of the device should know.
    Notice(ClientNotice),
}

/// Something that the operator of a device should know; logged by the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientNotice {
    /// The card has proven itself to the server.
    Authenticated,
    /// The card does not answer AUTHENTICATE: `9862` it knows another network, `6982` it wants its PIN first.
    CardRefused(StatusWord),
    /// So many packets came and lie in the inbound queue.
    Fetched(usize),
    /// So many packets found no room.
    QueueFull(usize),
    /// The card has answered a packet.
    Answered(ItemId),
    /// The card refused a packet with this cause and said nothing about it.
    Refused(ItemId, u8),
    /// A packet cannot be handed to a card at all.
    Undeliverable(ItemId, String),
    /// So many answers have reached the server.
    Acknowledged(usize),
    /// A service centre has taken the answer with this number: IP is away.
    SentBySms(u64),
    /// The server did not answer as it should; the next attempt follows by itself.
    QueryFailed(String),
    /// The server has no card for this subscriber.
    NotServed,
}

/// The client module of one device.
pub struct Client {
    settings: Arc<ClientSettings>,
    queues: Queues,
    sat: Sat,
    card: Option<Card>,
    access: Option<Box<Access>>,
    /// Of this card, for the next run of EAP; boxed where there are any, as few devices have them.
    names: Option<Box<Names>>,
    exchange: Exchange,
    schedule: Schedule,
    by_sms: BySms,
    service: Option<Box<Service>>,
    commands: VecDeque<Command>,
    /// A query is wanted.
    wanted: bool,
    /// Answers are to leave now.
    flush: bool,
    /// The card has sent something since it was idle.
    kept: bool,
    /// The card was too busy: nothing is handed over before.
    hold_until: Option<EpochMs>,
    offers: u8,
    /// Runs of EAP that began because a token or its keys were not taken, since the last success.
    restarts: u8,
    /// There was no room for what the server offered: it is asked again when there is.
    starved: bool,
    last_request: u32,
    last_challenge: u64,
}

/// The card in the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Card {
    key: CardKey,
    imsi: Imsi,
    mnc_digits: u8,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("queues", &self.queues).finish_non_exhaustive()
    }
}

impl Client {
    /// A client module with what its journal held.
    pub fn new(settings: Arc<ClientSettings>, queues: Queues) -> Self {
        Self {
            settings,
            queues,
            sat: Sat::default(),
            card: None,
            access: None,
            names: None,
            exchange: Exchange::Resting,
            schedule: Schedule::default(),
            by_sms: BySms::default(),
            service: None,
            commands: VecDeque::new(),
            wanted: false,
            flush: false,
            kept: false,
            hold_until: None,
            offers: 0,
            restarts: 0,
            starved: false,
            last_request: 0,
            last_challenge: 0,
        }
    }

    /// The queues.
    pub fn queues(&self) -> &Queues {
        &self.queues
    }

    /// Whether this device is not asking, delivering or sending.
    pub fn is_resting(&self) -> bool {
        matches!(self.exchange, Exchange::Resting) && self.sat.is_resting() && self.commands.is_empty()
    }

    /// What is to be appended to the journal before any command is taken; [`Self::stored`] follows.
    pub fn take_changes(&mut self) -> Option<Vec<u8>> {
        self.queues.take_changes()
    }

    /// What was taken is on the disk.
    pub fn stored(&mut self, now: EpochMs, random: Random<'_>) {
        self.queues.stored();
        self.proceed(now, random);
    }

    /// The next thing to do; none while changes are not on the disk.
    pub fn next_command(&mut self) -> Option<Command> {
        if !self.queues.is_durable() {
            return None;
        }
        let command = self.commands.pop_front();
        if self.commands.is_empty() {
            // A device at rest holds no buffers.
            self.commands = VecDeque::new();
        }
        command
    }

    /// When the client module wants [`Event::Deadline`], if nothing happens before.
    pub fn next_deadline(&self) -> Option<EpochMs> {
        self.card?;
        let query = if matches!(self.exchange, Exchange::Resting) { self.schedule.next() } else { None };
        query.into_iter().chain(self.hold_until).chain(self.next_message_at()).min()
    }

    /// Whether a message of the card is for this bearer: there is no coverage, or it goes where the packet came from that
    /// was delivered here.
    pub fn claims(&self, submit: &[u8], covered: bool) -> bool {
        self.card.is_some() && (!covered || self.sat.is_addressed(submit))
    }

    /// Whether a message from the network is the server's notification for this card.
    pub fn is_notification(&self, tpdu: &[u8]) -> bool {
        self.card.is_some_and(|card| notification::is_notification(tpdu, card.imsi, self.settings.app))
    }

    /// Takes an event.
    pub fn handle(&mut self, now: EpochMs, random: Random<'_>, event: Event) {
        match event {
            Event::CardStarted(files) => self.card_started(now, &files),
            Event::CardGone => self.card_gone(),
            Event::Query(Reason::Notified) => self.wanted |= self.schedule.notified(now),
            Event::Query(Reason::Asked) => self.wanted = true,
            Event::Response { id, response } => self.response(now, random, id, &response),
            Event::Failed { id } => self.request_failed(now, random, id),
            Event::Authenticated { id, authentication } => {
                self.authenticated(now, random, id, authentication);
            }
            Event::Reported { id, report } => self.reported(now, id, &report),
            Event::CardSends { reference, tpdu } => self.card_sends(reference, tpdu),
            Event::Coverage(covered) => self.coverage(covered),
            Event::Submitted { reference, accepted } => self.submitted(now, random, reference, accepted),
            Event::CardIdle => self.card_idle(),
            Event::ChannelOpened(link) => self.channel_opened(link),
            Event::ChannelData(link, bytes) => self.channel_data(link, &bytes),
            Event::ChannelClosed(link) => self.channel_closed(link),
            Event::Deadline => {}
        }
        self.proceed(now, random);
    }

    fn card_started(&mut self, now: EpochMs, files: &CardFiles) {
        let card = files.imsi.map(|imsi| Card {
            key: files.iccid.map_or(CardKey::Imsi(imsi), CardKey::Iccid),
            imsi,
            // Without EF.AD two digits are the usual length.
            mnc_digits: files.mnc_digits.unwrap_or(2),
        });
        if card == self.card {
            return;
        }
        self.card_gone();
        self.card = card;
        self.schedule.forget();
        self.schedule.succeeded(now, self.settings.period_s, 0);
        self.wanted = card.is_some();
    }

    /// Token, keys and names belong to a card; so does what is under way.
    fn card_gone(&mut self) {
        self.card = None;
        self.access = None;
        self.names = None;
        self.exchange = Exchange::Resting;
        self.sat.card_gone();
        // What has not been carried out yet must not meet the next card.
        self.commands.retain(|command| {
            !matches!(
                command,
                Command::Request(_)
                    | Command::Authenticate { .. }
                    | Command::Deliver(_)
                    | Command::SubmitSms { .. }
            )
        });
        self.forget_messages();
        if let Some(service) = self.service.take() {
            self.commands.push_back(Command::ChannelClose(service.link));
        }
        (self.wanted, self.flush, self.kept) = (false, false, false);
        self.hold_until = None;
        self.offers = 0;
        self.restarts = 0;
    }

    /// The device says what became of a part.
    fn reported(&mut self, now: EpochMs, id: u64, report: &SmsReport) {
        let proof_wanted = self.sat.current().is_some_and(|handed| {
            let mut own = self.queues.inbound().of(handed.card);
            own.any(|queued| queued.item.id == handed.item && queued.item.proof_wanted)
        });
        match self.sat.reported(id, report, proof_wanted) {
            Progress::Foreign | Progress::Settling => {}
            Progress::Next(part) => self.commands.push_back(Command::Deliver(part)),
            Progress::Answered(handed, answer) => self.answered(handed.card, handed.item, answer),
            Progress::Waits(_) => {
                self.offers = self.offers.saturating_add(1);
                self.hold_until = Some(now.plus_s(HOLD_S));
            }
            Progress::Refused(handed, cause) => {
                self.commands.push_back(Command::Notice(ClientNotice::Refused(handed.item.clone(), cause)));
                self.forget(handed.card, handed.item, None);
            }
        }
    }

    /// The card has answered an item, with what it said.
    fn answered(&mut self, card: CardKey, item: ItemId, answer: Vec<u8>) {
        self.commands.push_back(Command::Notice(ClientNotice::Answered(item.clone())));
        let answered = |queued: &&Queued| queued.item.id == item && !answer.is_empty();
        let proof = self.queues.inbound().of(card).find(answered).map(|queued| UplinkContent::Proof {
            id: Some(item.clone()),
            originating_address: queued.item.originating_address.clone(),
            packet: answer.clone(),
        });
        self.forget(card, item, proof);
    }

    /// The item leaves the queue, in the same record in which its answer enters the other one. With the last packet of a
    /// delivery the answers of all of them leave at once.
    fn forget(&mut self, card: CardKey, item: ItemId, content: Option<UplinkContent>) {
        self.offers = 0;
        self.hold_until = None;
        self.wanted |= std::mem::take(&mut self.starved);
        self.flush |= !self.queues.inbound().has_more_of_delivery(card, &item);
        self.queues.answered(card, item, content);
    }

    fn card_sends(&mut self, reference: u32, tpdu: Vec<u8>) {
        let kept =
            self.card.is_some_and(|card| self.queues.keep(card.key, UplinkContent::Submit { tpdu }).is_ok());
        self.kept |= kept;
        self.commands.push_back(Command::SubmitOutcome { reference, accepted: kept });
    }

    /// What the card wanted to say about a packet it has said.
    fn card_idle(&mut self) {
        if let Some(handed) = self.sat.idle() {
            self.kept = false;
            self.answered(handed.card, handed.item, Vec::new());
        } else if self.sat.is_resting() && std::mem::take(&mut self.kept) {
            self.flush = true;
        }
    }

    /// Goes on with what has waited.
    fn proceed(&mut self, now: EpochMs, random: Random<'_>) {
        if !self.queues.is_durable() {
            // `stored` comes back here.
            return;
        }
        if self.hold_until.is_some_and(|until| until <= now || until > now.plus_s(2 * HOLD_S)) {
            self.hold_until = None;
        }
        self.deliver(now);
        if self.queues.is_durable() {
            self.ask(now, random);
            self.send_by_sms(now);
        }
    }

    /// Hands the next packet to the card, unless the card fetches by itself.
    fn deliver(&mut self, now: EpochMs) {
        while self.sat.is_resting() && self.service.is_none() && self.hold_until.is_none() {
            let Some(card) = self.card else { return };
            let next = self.queues.inbound().of(card.key).next().map(|queued| queued.item.clone());
            let Some(item) = next else { return };
            if self.offers >= OFFERS_MAX {
                // A card that is busy for ever is told from one that is busy now by nobody else.
                self.offers = 0;
                self.commands.push_back(Command::Notice(ClientNotice::Undeliverable(
                    item.id.clone(),
                    "the card was busy at every attempt".to_owned(),
                )));
            }
            match self.sat.deliver(now, card.key, &item) {
                Ok(part) => self.commands.push_back(Command::Deliver(part)),
                Err(error) => {
                    self.commands.push_back(Command::Notice(ClientNotice::Undeliverable(
                        item.id.clone(),
                        error.to_string(),
                    )));
                    self.forget(card.key, item.id, None);
                }
            }
        }
    }

    fn channel_opened(&mut self, link: LinkId) {
        if let Some(before) = self.service.replace(Box::new(Service::new(link))) {
            self.commands.push_back(Command::ChannelClose(before.link));
        }
    }

    fn channel_closed(&mut self, link: LinkId) {
        if self.service.as_ref().is_some_and(|service| service.link == link) {
            self.service = None;
            // What the card has left goes the other way.
            self.flush |= self.card.is_some_and(|card| self.queues.outbound().has_any_of(card.key));
        }
    }

    fn channel_data(&mut self, link: LinkId, bytes: &[u8]) {
        let Some(service) = self.service.as_mut().filter(|service| service.link == link) else { return };
        service.take(bytes);
        while let Some(request) = self.service.as_mut().and_then(|service| service.next()) {
            self.card_request(link, request);
        }
    }

    fn card_request(&mut self, link: LinkId, request: CardRequest) {
        let Some(card) = self.card else { return };
        let handed = self.sat.current().map(|handed| handed.item.clone());
        let answer = match request {
            CardRequest::Waiting => {
                self.wanted = true;
                if let Some(service) = self.service.as_mut() {
                    service.asked = true;
                }
                return;
            }
            CardRequest::Packet => {
                let mut own = self.queues.inbound().of(card.key);
                match own.find(|queued| Some(&queued.item.id) != handed.as_ref()) {
                    Some(queued) => service::packet(&queued.item),
                    None => service::status("204 No Content"),
                }
            }
            CardRequest::Answer { item, packet } => {
                if self.queues.inbound().contains(card.key, &item) && handed.as_ref() != Some(&item) {
                    self.answered(card.key, item, packet);
                    service::status("204 No Content")
                } else {
                    service::status("404 Not Found")
                }
            }
            CardRequest::Bad => {
                self.commands.push_back(Command::ChannelSend(link, service::status("400 Bad Request")));
                self.commands.push_back(Command::ChannelClose(link));
                self.service = None;
                return;
            }
        };
        self.commands.push_back(Command::ChannelSend(link, answer));
    }

    /// A query is over, well or not: the card that waits for it hears how much there is.
    fn tell_card(&mut self) {
        let Some(card) = self.card else { return };
        let count = self.queues.inbound().of(card.key).count();
        if let Some(service) = self.service.as_mut().filter(|service| service.asked) {
            service.asked = false;
            self.commands.push_back(Command::ChannelSend(service.link, service::waiting(count)));
        }
    }
}

fn number(random: Random<'_>) -> u32 {
    let mut bytes = [0; 4];
    random(&mut bytes);
    u32::from_be_bytes(bytes)
}
