//! What cards say: proofs of receipt, matched to the commands that they answer, and requests of their own.
//!
//! Every bearer ends here: short messages by the SMSC, and packets that a device brings over IP. A proof names no key
//! set: the latest packets of the card are tried, few by limit. It counts only if its checksum verifies and its TAR and
//! counter are those of one command; what is not authenticated is reported and moves nothing. A request counts only
//! if the card's keys open it and its counter is higher than every one before, which is durable with its first effect.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use simtide_platform::delivery::{self, Bearer, Brought, Change, Evidence};
use simtide_protocol::ids::CardId;
use simtide_protocol::personalization::{Uplink, UplinkHead};
use simtide_protocol::scp80::{self, Counter, Response, ResponseStatus};
use simtide_protocol::second_layer;
use simtide_protocol::sms::{Arrival, Assembled, Element, Limits, Reassembly};
use tokio::sync::mpsc;

use super::core::Core;
use super::flight::{Flight, from_machine, purpose, to_machine};
use super::sealing;
use super::sending::{Incoming, card_of};
use crate::smpp::Verdict;
use crate::store::{
    Answer, Card, CardChange, Cause, HistoryLine, HistoryResult, Op, Origin, Packet, PacketChange, PacketKey,
    PacketState, Standing, StoreError, UPLINK_COUNTER,
};

/// Messages from phones that wait.
pub const INCOMING_MAX: usize = 4_096;
/// Answers of cards that are remembered for those who asked.
const ANSWERS_MAX: usize = 10_000;
/// Packets of a key set, closed ones too, that a proof is tried on.
const LATEST_MAX: usize = 16;
/// Cards of which something is looked at at once.
const TURNS: usize = 64;
/// Incomplete messages from phones.
const LIMITS: Limits = Limits { open_max: 10_000, size_max: 16_384, timeout_ms: 10 * 60_000 };

/// What a card answered to a command.
#[derive(Debug, Clone)]
pub struct CardAnswer {
    /// The command.
    pub key: PacketKey,
    /// Response status code.
    pub status: ResponseStatus,
    /// The application's answer.
    pub data: Vec<u8>,
    /// Whether its checksum was asked for and is right; otherwise it is hearsay and has moved nothing.
    pub authenticated: bool,
}

/// The latest answers of cards. They live with the process: rows hold what became of a command, not what it read.
#[derive(Debug, Default)]
pub struct Answers(Mutex<VecDeque<CardAnswer>>);

impl Answers {
    /// What the card answered to a command; authenticated answers first.
    pub fn find(&self, key: PacketKey) -> Option<CardAnswer> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_command = || answers.iter().rev().filter(|answer| answer.key == key);
        of_command().find(|answer| answer.authenticated).or_else(|| of_command().next()).cloned()
    }

    fn add(&self, answer: CardAnswer) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MAX {
            answers.pop_front();
        }
        answers.push_back(answer);
    }
}

/// What became of a packet from a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// It answers this command; durable.
    Proof(PacketKey, ResponseStatus),
    /// The command was proven before; nothing has changed.
    Repeated(PacketKey),
    /// It answers this command and is not authenticated: reported, and nothing has moved.
    Hearsay(PacketKey),
    /// A request of the card, taken in; durable. What became of it is told to the card.
    Request,
    /// A request that was used before; nothing has changed.
    Replayed,
    /// A part of a message; others are missing.
    Part,
    /// It fits nothing that is open, or cannot be read.
    Refused,
}

impl From<Arrived> for second_layer::Verdict {
    fn from(arrived: Arrived) -> second_layer::Verdict {
        match arrived {
            Arrived::Proof(..) | Arrived::Request | Arrived::Part => second_layer::Verdict::Accepted,
            Arrived::Repeated(_) | Arrived::Replayed => second_layer::Verdict::Repeated,
            Arrived::Hearsay(_) | Arrived::Refused => second_layer::Verdict::Refused,
        }
    }
}

/// An authenticated answer to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The packet.
    pub key: PacketKey,
    /// Why it exists.
    pub origin: Origin,
    /// Its receiver.
    pub tar: simtide_protocol::ids::Tar,
    /// Whether it carried data of its row.
    pub has_data: bool,
    /// Response status code.
    pub status: ResponseStatus,
    /// The application's answer.
    pub data: Vec<u8>,
    /// What brought it.
    pub brought: Brought,
}

/// The command that a proof is about, and what it says.
struct Answered<'c> {
    command: &'c Packet,
    status: ResponseStatus,
    data: Vec<u8>,
    brought: Brought,
}

/// Who follows packets of its own: changes of operator, deliveries.
pub trait Follower: Send + Sync {
    /// A card has answered one of its packets. `ops` move the packet's row: they are committed together with what
    /// follows from the answer, before this returns.
    fn proven<'a>(&'a self, card: &'a Card, proof: Proof, ops: Vec<Op>) -> Answer<'a, ()>;

    /// A packet's validity has ended without a proof, or the network has given it up. It may still arrive.
    fn lost(&self, key: PacketKey, origin: Origin) -> Answer<'_, ()>;

    /// The network says that all messages of a packet have reached the device.
    fn reached(&self, _key: PacketKey, _origin: Origin) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// Who takes what cards ask for by themselves.
pub trait Requests: Send + Sync {
    /// A card has said something, authenticated, with a counter that is new. `raise` makes the counter used: it is
    /// committed together with what follows, before this returns.
    fn said<'a>(&'a self, card: &'a Card, uplink: Uplink, counter: Counter, raise: Op) -> Answer<'a, ()>;
}

/// Takes in what cards say.
pub struct Proofs {
    core: Arc<Core>,
    flight: Arc<Flight>,
    answers: Arc<Answers>,
    reassembly: Mutex<Reassembly<CardId>>,
    changes: OnceLock<Arc<dyn Follower>>,
    deliveries: OnceLock<Arc<dyn Follower>>,
    requests: OnceLock<Arc<dyn Requests>>,
    /// By a card's hash: what comes by two bearers at once is seen as one.
    turns: [tokio::sync::Mutex<()>; TURNS],
}

/// Takes messages from phones until the links end.
pub async fn listen(proofs: Arc<Proofs>, mut incoming: mpsc::Receiver<Incoming>) {
    while let Some(Incoming { link, message }) = incoming.recv().await {
        let mut verdict = Verdict::Taken;
        if message.udhi {
            let arrived = match card_of(&proofs.core, &message.source).await {
                Ok(Some(card)) => {
                    let brought = Brought { by: Bearer::Sms, to: message.destination.digits.parse().ok() };
                    proofs.message_arrived(card, &message.user_data, brought).await.map(|_| ())
                }
                Ok(None) => {
                    tracing::debug!("a message came from a number that no card has");
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = arrived {
                tracing::error!(%error, "a message from a phone was not stored; the SMSC brings it again");
                verdict = Verdict::Later;
            }
        }
        link.answer(message.answer, verdict);
    }
}

impl Proofs {
    /// Nobody follows yet.
    pub fn new(core: Arc<Core>, flight: Arc<Flight>, answers: Arc<Answers>) -> Proofs {
        Proofs {
            core,
            flight,
            answers,
            reassembly: Mutex::new(Reassembly::new(LIMITS)),
            changes: OnceLock::new(),
            deliveries: OnceLock::new(),
            requests: OnceLock::new(),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
        }
    }

    /// Who follows packets of changes. Once per process.
    pub fn follow_changes(&self, follower: Arc<dyn Follower>) {
        let _ = self.changes.set(follower);
    }

    /// Who follows packets of deliveries. Once per process.
    pub fn follow_deliveries(&self, follower: Arc<dyn Follower>) {
        let _ = self.deliveries.set(follower);
    }

    /// Who takes requests of cards. Once per process.
    pub fn take_requests(&self, requests: Arc<dyn Requests>) {
        let _ = self.requests.set(requests);
    }

    /// Who follows packets of this origin.
    pub fn follower(&self, origin: Origin) -> Option<&Arc<dyn Follower>> {
        match origin {
            Origin::Change(_) => self.changes.get(),
            Origin::Delivery(_) => self.deliveries.get(),
            Origin::Trigger(_) | Origin::Command(_) | Origin::Request => None,
        }
    }

    /// One short message from a card: its user data with header, perhaps one part of several.
    ///
    /// # Errors
    /// Nothing was stored: it has to come again.
    pub async fn message_arrived(
        &self,
        card: CardId,
        user_data: &[u8],
        brought: Brought,
    ) -> Result<Arrived, StoreError> {
        let arrival = {
            let mut reassembly = self.reassembly.lock().unwrap_or_else(PoisonError::into_inner);
            reassembly.accept(self.core.now(), card, user_data)
        };
        match arrival {
            Ok(Arrival::Whole(whole)) => self.whole_arrived(card, &whole, brought).await,
            Ok(Arrival::Waiting | Arrival::Duplicate) => Ok(Arrived::Part),
            Err(error) => {
                tracing::info!(%error, "a message from a card is not readable");
                Ok(Arrived::Refused)
            }
        }
    }

    async fn whole_arrived(
        &self,
        card: CardId,
        whole: &Assembled,
        brought: Brought,
    ) -> Result<Arrived, StoreError> {
        if whole.contains(Element::RESPONSE_PACKET) {
            self.packet_arrived(card, &whole.data, brought).await
        } else if whole.contains(Element::COMMAND_PACKET) {
            self.request_arrived(card, &whole.data).await
        } else {
            Ok(Arrived::Refused)
        }
    }

    /// A response packet (from its RPL on) of a card, by any bearer: finds the command that it answers and makes
    /// durable what it proves.
    ///
    /// # Errors
    /// Nothing was stored: it has to come again.
    pub async fn packet_arrived(
        &self,
        card: CardId,
        packet: &[u8],
        brought: Brought,
    ) -> Result<Arrived, StoreError> {
        let tar = match scp80::response_tar(packet) {
            Ok(tar) => tar,
            Err(error) => {
                tracing::info!(%error, "a response packet is malformed");
                return Ok(Arrived::Refused);
            }
        };
        let _turn = self.turn(&card).await;
        let standing = self.core.store.standing(card, None).await?;
        let Some(Standing { card: row, open, .. }) = standing else { return Ok(Arrived::Refused) };
        let of_tar = |one: &&Packet| one.tar == tar && !matches!(one.origin, Origin::Trigger(_));
        for command in open.iter().filter(of_tar) {
            if let Some(response) = self.response(&row, command, packet).await? {
                return self.answered(&row, command, response, brought, &open).await;
            }
        }
        // It may have been given up.
        for command in self.latest_closed(&row).await?.iter().filter(of_tar) {
            if let Some(response) = self.response(&row, command, packet).await? {
                return self.answered(&row, command, response, brought, &open).await;
            }
        }
        tracing::info!("a proof of receipt matches no command of its card");
        Ok(Arrived::Refused)
    }

    /// What one card says is taken in one after the other.
    async fn turn(&self, card: &CardId) -> tokio::sync::MutexGuard<'_, ()> {
        // There are TURNS of them.
        self.turns[usize::from(self.core.bucket(card).0) % TURNS].lock().await
    }

    /// A card's response to this command.
    async fn answered(
        &self,
        card: &Card,
        command: &Packet,
        response: Response,
        brought: Brought,
        open: &[Packet],
    ) -> Result<Arrived, StoreError> {
        let key = command.key;
        let Response { header, data, authenticated } = response;
        let status = header.status;
        let known = matches!(command.state, PacketState::Proven(_));
        if known && authenticated {
            return Ok(Arrived::Repeated(key));
        }
        self.answers.add(CardAnswer { key, status, data: data.clone(), authenticated });
        if authenticated {
            self.prove(card, Answered { command, status, data, brought }, open).await?;
            return Ok(Arrived::Proof(key, status));
        }
        tracing::info!(%status, "a card answered without authentication; nothing moves");
        Ok(Arrived::Hearsay(key))
    }

    /// The response, where the card's keys open it: here, or where its operator keeps them.
    async fn response(
        &self,
        card: &Card,
        command: &Packet,
        packet: &[u8],
    ) -> Result<Option<Response>, StoreError> {
        let Some(elsewhere) = self.core.keys_elsewhere(card) else {
            return Ok(read(&self.core, card, command, packet));
        };
        match elsewhere.open(card, command, packet).await {
            Ok(response) => Ok(response.filter(|response| names(command, response))),
            // It has to come again.
            Err(error) => Err(StoreError::Elsewhere(error.to_string())),
        }
    }

    /// The latest packets of each key set that are not open.
    async fn latest_closed(&self, card: &Card) -> Result<Vec<Packet>, StoreError> {
        let mut closed = Vec::new();
        for (key_set, _) in card.counters.iter().filter(|(key_set, _)| key_set & UPLINK_COUNTER == 0) {
            let latest = self.core.store.latest_packets(card.record.id, *key_set, LATEST_MAX).await?;
            closed.extend(latest.into_iter().filter(|one| !one.state.is_open()));
        }
        Ok(closed)
    }

    /// The command is proven or refused, or the card has announced its response; older open ones of its key set are
    /// dead.
    async fn prove(&self, card: &Card, answered: Answered<'_>, open: &[Packet]) -> Result<(), StoreError> {
        let Answered { command, status, data, brought } = answered;
        let (now, key) = (self.core.now(), command.key);
        let mut ops = Vec::new();
        ops.extend(self.moved(command, Evidence::Proof { status: status.code() }));
        let fenced =
            open.iter().filter(|other| other.key.key_set == key.key_set && other.key.counter < key.counter);
        for other in fenced {
            ops.extend(self.moved(other, Evidence::Fenced));
        }
        if !is_provisional(status) {
            let result = match status {
                ResponseStatus::PorOk => HistoryResult::Done,
                other => HistoryResult::Failed(u16::from(other.code())),
            };
            let cause = Cause::Command { key_set: key.key_set, counter: key.counter };
            let detail = status.text().to_owned();
            let line = HistoryLine { at: now, cause, campaign: None, result, detail };
            ops.push(Op::History { card: key.card, lines: vec![line] });
            if let Some(follower) = self.follower(command.origin) {
                let (origin, tar, has_data) = (command.origin, command.tar, !command.data.is_empty());
                let proof = Proof { key, origin, tar, has_data, status, data, brought };
                return follower.proven(card, proof, ops).await;
            }
        }
        self.core.commit_card(&key.card, ops).await?;
        Ok(())
    }

    /// What evidence makes of a packet's row, whether it is under way or closed.
    fn moved(&self, packet: &Packet, evidence: Evidence) -> Option<Op> {
        let (key, now) = (packet.key, self.core.now());
        if self.flight.contains(key) {
            let moved = self.flight.evidence(key, now, evidence)?;
            return Some(Op::Packet(moved.change(key)));
        }
        let machine =
            delivery::Packet::reserved(purpose(packet), key.key_set, key.counter, 1, packet.deadline);
        let mut machine = machine.restored(to_machine(packet.state), 1);
        match machine.apply(now, evidence) {
            Change::Nothing => None,
            Change::From(_) | Change::Settled(_) => {
                let state = from_machine(machine.state);
                Some(Op::Packet(PacketChange { key, state, message_ids: Vec::new(), deadline: None }))
            }
        }
    }

    /// A command packet (from its CPL on) that a card has sealed, by any bearer: opened with the card's own keys, its
    /// counter checked, and handed to who takes requests.
    ///
    /// # Errors
    /// Nothing was stored: it has to come again.
    pub async fn request_arrived(&self, card: CardId, packet: &[u8]) -> Result<Arrived, StoreError> {
        let _turn = self.turn(&card).await;
        let Some(row) = self.core.store.card(card).await? else { return Ok(Arrived::Refused) };
        let Some((uplink, key_set, counter)) = open_request(&self.core, &row, packet) else {
            return Ok(Arrived::Refused);
        };
        if uplink.card() != card {
            tracing::warn!("a request names another card than the one that sealed it; nothing moves");
            return Ok(Arrived::Refused);
        }
        let place = key_set | UPLINK_COUNTER;
        let used = row.counters.iter().find(|(known, _)| *known == place).map_or(0, |(_, used)| *used);
        if counter.value() <= used {
            tracing::info!("a card's request was used before; nothing moves");
            return Ok(Arrived::Replayed);
        }
        let change = CardChange::RaiseCounter { key_set: place, counter: counter.value() };
        let raise = Op::ChangeCard { card, change };
        match self.requests.get() {
            Some(requests) => requests.said(&row, uplink, counter, raise).await?,
            None => {
                self.core.commit_card(&card, vec![raise]).await?;
            }
        }
        Ok(Arrived::Request)
    }
}

/// What a card has sealed for the platform, with key set and counter.
fn open_request(core: &Core, card: &Card, packet: &[u8]) -> Option<(Uplink, u8, Counter)> {
    let head = UplinkHead::of(packet)?;
    let catalogue = core.catalogue();
    let profile = catalogue.profile(card.hot.profile)?;
    let tar = profile.personalization.uplink_tar;
    let set = profile.key_set(head.key_index)?;
    let spi = u16::from_be_bytes(set.spi.to_bytes());
    let opened = sealing::protection(core, card, profile, head.key_index, spi)
        .map_err(|error| error.to_string())
        .and_then(|(_, keys)| Uplink::open(packet, tar, &keys).map_err(|error| error.to_string()));
    match opened {
        Ok((uplink, counter)) => Some((uplink, head.key_index, counter)),
        Err(error) => {
            tracing::info!(error, "a card's own message does not open; nothing moves");
            None
        }
    }
}

/// The response, if it opens with the command's keys and names its counter.
fn read(core: &Core, card: &Card, command: &Packet, packet: &[u8]) -> Option<Response> {
    let catalogue = core.catalogue();
    let profile = catalogue.profile(card.hot.profile)?;
    let protection = sealing::protection(core, card, profile, command.key.key_set, command.spi);
    let (security, keys) = protection.ok()?;
    let response = scp80::open_response(packet, &security, &keys).ok()?;
    names(command, &response).then_some(response)
}

/// Whether a response is about this command.
fn names(command: &Packet, response: &Response) -> bool {
    let same = Counter::new(command.key.counter) == Some(response.header.counter);
    // The counter in these may be the card's own. One below the command's cannot be why the card finds that too low: it
    // is about an older packet, whose copy came late or whose answer is brought once more.
    let about_counters = match response.header.status {
        ResponseStatus::CounterLow => response.header.counter.value() > command.key.counter,
        ResponseStatus::CounterHigh | ResponseStatus::CounterBlocked => true,
        _ => false,
    };
    same || (about_counters && command.state.is_open())
}

/// Whether the response proper is still to come: the command stays open for it.
fn is_provisional(status: ResponseStatus) -> bool {
    matches!(
        status,
        ResponseStatus::ResponseFollows | ResponseStatus::ResponseFollowsUssd | ResponseStatus::MoreTime
    )
}
