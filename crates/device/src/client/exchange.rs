//! Exchanges with the server: one at a time.

use simtide_protocol::entitlement::{Document, OtaParameters, RELAY_CONTENT_TYPE};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::second_layer::{
    Content, Downlink, ItemId, UPLINKS_MAX, Uplink, UplinkContent, Uplinks,
};

use super::http::HttpResponse;
use super::session::{Access, EapRun, EapStep};
use super::{Card, Client, ClientNotice, Command, Random, number};
use crate::authenticate::Authentication;
use crate::queues::QueueError;

/// Rounds of one run of EAP; the server allows fewer.
const EAP_ROUNDS_MAX: u8 = 10;
/// Most bytes of answers in one message; the rest goes with the next.
const UPLINK_BYTES_MAX: usize = 96 * 1024;
/// Shortest time after which the server may want to be asked again, in seconds.
const NEXT_QUERY_S_MIN: u32 = 5;

/// What went up with a request.
#[derive(Default)]
pub(super) struct Sent {
    receipts: Vec<ItemId>,
    answers: usize,
}

/// What is under way.
pub(super) enum Exchange {
    Resting,
    Proving { run: Box<EapRun>, request: u32, rounds: u8 },
    WithCard { run: Box<EapRun>, challenge: u64, rounds: u8 },
    Asking { request: u32, sent: Sent },
}

impl Client {
    /// Starts an exchange where there is a reason for one.
    pub(super) fn ask(&mut self, now: EpochMs, random: Random<'_>) {
        let Some(card) = self.card else { return };
        self.schedule.keep_near(now, self.settings.period_s);
        if !matches!(self.exchange, Exchange::Resting) {
            return;
        }
        // A card that waits for an answer does not wait for the end of a pause.
        let card_asks = self.service.as_ref().is_some_and(|service| service.asked);
        if !card_asks && !self.schedule.may_ask(now) {
            return;
        }
        let owes = self.queues.inbound().receipts_of(card.key).next().is_some();
        let answers = self.flush && self.queues.outbound().has_any_of(card.key);
        if !(self.wanted || card_asks || owes || answers || self.schedule.is_due(now)) {
            return;
        }
        self.wanted = false;
        self.flush = false;
        self.last_request = self.last_request.wrapping_add(1);
        match self.access.take().filter(|access| access.is_valid(now, card.imsi)) {
            Some(access) => {
                self.access = Some(access);
                self.query(now, card, random);
            }
            None => self.prove(card, random),
        }
    }

    fn prove(&mut self, card: Card, random: Random<'_>) {
        let mut iv = [0; 16];
        random(&mut iv);
        let names = self.names.take().map(|names| *names).unwrap_or_default();
        let (run, request) =
            EapRun::start(&self.settings, card.imsi, card.mnc_digits, names, iv, self.last_request);
        self.exchange = Exchange::Proving { run: Box::new(run), request: request.id, rounds: 0 };
        self.commands.push_back(Command::Request(request));
    }

    /// One request with the token; receipts and answers travel in the second layer.
    fn query(&mut self, now: EpochMs, card: Card, random: Random<'_>) {
        let receipts = self.queues.inbound().receipts_of(card.key).take(UPLINKS_MAX).cloned().collect();
        let uplink = self.uplinks(card);
        let sent = Sent { receipts, answers: uplink.len() };
        let id = self.last_request;
        let known = self.settings.known.clone();
        let Some(access) = self.access.as_mut() else { return };
        let message = if sent.receipts.is_empty() && uplink.is_empty() && known.is_empty() {
            None
        } else {
            let mut iv = [0; simtide_protocol::second_layer::IV_BYTES];
            random(&mut iv);
            let uplinks = Uplinks { fetched: sent.receipts.clone(), uplink, known };
            match access.channel.seal(iv, Content::Uplinks, &uplinks.to_json()) {
                Ok(message) => Some(message),
                Err(error) => {
                    self.access = None;
                    return self.failed(now, random, None, error.to_string());
                }
            }
        };
        let request = access.query(&self.settings, id, message);
        self.exchange = Exchange::Asking { request: id, sent };
        self.commands.push_back(Command::Request(request));
    }

    /// The oldest answers of the card, as many as one message takes.
    fn uplinks(&self, card: Card) -> Vec<Uplink> {
        let mut bytes = 0;
        let mut own = Vec::new();
        for uplink in self.queues.outbound().of(card.key).take(UPLINKS_MAX) {
            let (UplinkContent::Proof { packet: content, .. } | UplinkContent::Submit { tpdu: content }) =
                &uplink.content;
            bytes += content.len();
            if bytes > UPLINK_BYTES_MAX && !own.is_empty() {
                break;
            }
            own.push(uplink);
        }
        own
    }

    pub(super) fn response(&mut self, now: EpochMs, random: Random<'_>, id: u32, response: &HttpResponse) {
        match std::mem::replace(&mut self.exchange, Exchange::Resting) {
            Exchange::Proving { run, request, rounds } if request == id => {
                self.proving(now, random, run, rounds, response);
            }
            Exchange::Asking { request, sent } if request == id => {
                self.asked(now, random, sent, response);
            }
            // The answer to a request of another card, or of before.
            other => self.exchange = other,
        }
    }

    fn proving(
        &mut self,
        now: EpochMs,
        random: Random<'_>,
        mut run: Box<EapRun>,
        rounds: u8,
        response: &HttpResponse,
    ) {
        if response.status != 200 {
            if run.by_name && matches!(response.status, 400 | 403 | 511) {
                // The server does not take what it gave out, or takes it for another's: the card itself is asked.
                self.wanted = true;
                self.flush = true;
                return;
            }
            let why = format!("the server answers {} to the authentication", response.status);
            return self.failed(now, random, response.retry_after_s, why);
        }
        if is_relay(&response.content_type) {
            if rounds == EAP_ROUNDS_MAX {
                return self.failed(now, random, None, "the server asks again and again".to_owned());
            }
            let step = run.packet(self.last_request, response);
            return self.step(now, random, run, rounds + 1, step);
        }
        let Some(card) = self.card else { return };
        let document = match Document::from_bytes(&response.body) {
            Ok(document) => document,
            Err(error) => return self.failed(now, random, None, error.to_string()),
        };
        match run.finish(&self.settings, card.imsi, document.token.as_ref(), now) {
            Some((access, names)) => {
                self.access = Some(Box::new(access));
                self.names = names.has_any().then(|| Box::new(names));
                self.commands.push_back(Command::Notice(ClientNotice::Authenticated));
                // What waited for keys goes with the next request.
                self.flush = true;
                self.document(now, random, card, Sent::default(), &document);
            }
            None => {
                let why = "the server gave a document before the card had proven anything";
                self.failed(now, random, None, why.to_owned());
            }
        }
    }

    fn step(&mut self, now: EpochMs, random: Random<'_>, run: Box<EapRun>, rounds: u8, step: EapStep) {
        match step {
            EapStep::Post(mut post) => {
                self.last_request = self.last_request.wrapping_add(1);
                post.id = self.last_request;
                self.exchange = Exchange::Proving { run, request: post.id, rounds };
                self.commands.push_back(Command::Request(post));
            }
            EapStep::Ask { rand, autn } => {
                self.last_challenge += 1;
                let challenge = self.last_challenge;
                self.exchange = Exchange::WithCard { run, challenge, rounds };
                self.commands.push_back(Command::Authenticate { id: challenge, rand, autn });
            }
            EapStep::Failed(why) => self.failed(now, random, None, why),
        }
    }

    pub(super) fn authenticated(
        &mut self,
        now: EpochMs,
        random: Random<'_>,
        id: u64,
        authentication: Authentication,
    ) {
        match std::mem::replace(&mut self.exchange, Exchange::Resting) {
            Exchange::WithCard { mut run, challenge, rounds } if challenge == id => {
                if let Authentication::Refused(status) = authentication {
                    self.commands.push_back(Command::Notice(ClientNotice::CardRefused(status)));
                }
                let step = run.card(self.last_request, authentication);
                self.step(now, random, run, rounds, step);
            }
            other => self.exchange = other,
        }
    }

    pub(super) fn request_failed(&mut self, now: EpochMs, random: Random<'_>, id: u32) {
        let awaited = match &self.exchange {
            Exchange::Proving { request, .. } | Exchange::Asking { request, .. } => Some(*request),
            Exchange::Resting | Exchange::WithCard { .. } => None,
        };
        if awaited == Some(id) {
            self.exchange = Exchange::Resting;
            self.failed(now, random, None, "the server cannot be reached".to_owned());
        }
    }

    fn asked(&mut self, now: EpochMs, random: Random<'_>, sent: Sent, response: &HttpResponse) {
        let Some(card) = self.card else { return };
        match response.status {
            200 => match Document::from_bytes(&response.body) {
                Ok(document) => self.document(now, random, card, sent, &document),
                Err(error) => self.failed(now, random, None, error.to_string()),
            },
            // The token is not taken: the card proves itself anew, and what was to leave goes with new keys.
            401 | 403 | 511 => self.begin_anew(now, random, "the server does not take the token"),
            status => {
                let why = format!("the server answers {status}");
                self.failed(now, random, response.retry_after_s, why);
            }
        }
    }

    /// At once the first time; a server that never takes what it has granted is asked less and less often.
    fn begin_anew(&mut self, now: EpochMs, random: Random<'_>, why: &str) {
        self.access = None;
        self.flush = true;
        if self.restarts == 0 {
            self.restarts = 1;
            self.wanted = true;
        } else {
            self.failed(now, random, None, why.to_owned());
        }
    }

    fn document(&mut self, now: EpochMs, random: Random<'_>, card: Card, sent: Sent, document: &Document) {
        if let (Some(access), Some(grant)) = (self.access.as_mut(), &document.token) {
            access.renew(grant, now);
        }
        let parameters = match document.app(self.settings.app).map(OtaParameters::from_application) {
            Some(Ok(parameters)) => parameters,
            Some(Err(error)) => return self.failed(now, random, None, error.to_string()),
            None => return self.failed(now, random, None, "the application is not served".to_owned()),
        };
        let downlink = match parameters.data.as_deref().map(|message| self.open(message)) {
            None => Downlink::default(),
            Some(Some(downlink)) => downlink,
            Some(None) => {
                return self.begin_anew(now, random, "a message of the second layer cannot be opened");
            }
        };
        self.restarts = 0;
        if !parameters.enabled {
            self.commands.push_back(Command::Notice(ClientNotice::NotServed));
        }
        // A server that has a receipt and offers the item all the same, or that takes no answer, would be asked without end.
        let repeats = downlink.items.iter().any(|item| sent.receipts.contains(&item.id))
            || (sent.answers > 0 && downlink.acknowledged.is_empty());
        self.queues.receipted(card.key, sent.receipts);
        let fetched = self.take_downlink(now, card, downlink);
        // What goes on without bringing anything waits for the schedule.
        self.wanted |= parameters.waiting > 0 && fetched > 0 && !self.starved;
        // Answers that did not fit, or that came meanwhile, when nothing is to be waited for.
        self.flush |= self.sat.is_resting() && self.queues.inbound().of(card.key).next().is_none();
        let period_s = match parameters.next_query_s {
            0 => self.settings.period_s,
            asked_s => self.settings.period_s.min(asked_s.max(NEXT_QUERY_S_MIN)),
        };
        match repeats {
            false => {
                self.ip_is_back();
                self.schedule.succeeded(now, period_s, number(random));
            }
            true => self.schedule.failed(now, None, number(random)),
        }
        self.tell_card();
    }

    /// Opens a message: `None` where it is not one for these keys.
    fn open(&mut self, message: &str) -> Option<Downlink> {
        let access: &mut Access = self.access.as_mut()?;
        let payload = access.channel.open(Content::Items, message).ok()?;
        Downlink::from_json(&payload).ok()
    }

    /// Gives how many items were new.
    fn take_downlink(&mut self, now: EpochMs, card: Card, downlink: Downlink) -> usize {
        let before = self.queues.outbound().len();
        self.queues.acknowledged(card.key, &downlink.acknowledged);
        let acknowledged = before - self.queues.outbound().len();
        if acknowledged > 0 {
            self.commands.push_back(Command::Notice(ClientNotice::Acknowledged(acknowledged)));
        }
        let (mut fetched, mut full) = (0, 0);
        for item in downlink.items {
            match self.queues.fetch(card.key, item, now) {
                Ok(()) => fetched += 1,
                Err(QueueError::Full) => full += 1,
                Err(QueueError::Known) => {}
            }
        }
        for (count, notice) in
            [(fetched, ClientNotice::Fetched(fetched)), (full, ClientNotice::QueueFull(full))]
        {
            if count > 0 {
                self.commands.push_back(Command::Notice(notice));
            }
        }
        self.starved = full > 0;
        fetched
    }

    /// Nothing came of it: a pause, and then everything that still waits is tried again.
    fn failed(&mut self, now: EpochMs, random: Random<'_>, retry_after_s: Option<u32>, why: String) {
        self.exchange = Exchange::Resting;
        self.flush = true;
        self.schedule.failed(now, retry_after_s, number(random));
        self.ip_is_away(now, number(random));
        self.commands.push_back(Command::Notice(ClientNotice::QueryFailed(why)));
        self.tell_card();
    }
}

/// A relay packet, whatever parameters its content type has.
fn is_relay(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case(RELAY_CONTENT_TYPE)
}
