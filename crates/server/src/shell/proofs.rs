//! Messages from phones: proofs of receipt, matched to the open commands of their card.
//!
//! A proof names no key set: the open packets of the card are tried, few by limit. It counts only if its checksum
//! verifies and its TAR and counter are those of one open command; what is not authenticated is reported and moves
//! nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use simtide_platform::delivery::Evidence;
use simtide_protocol::ids::CardId;
use simtide_protocol::scp80::{self, Counter, Response, ResponseStatus};
use simtide_protocol::sms::{Arrival, Element, Limits, Reassembly};
use tokio::sync::mpsc;

use super::core::Core;
use super::flight::{Flight, Moved};
use super::sealing;
use super::sending::{Incoming, card_of};
use crate::smpp::Verdict;
use crate::store::{
    Card, Cause, HistoryLine, HistoryResult, Op, Origin, Packet, PacketChange, PacketKey, StoreError,
};

/// Messages from phones that wait.
pub const INCOMING_MAX: usize = 4_096;
/// Answers of cards that are remembered for those who asked.
const ANSWERS_MAX: usize = 10_000;
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

/// Takes messages from phones until the links end.
pub async fn listen(
    core: Arc<Core>,
    flight: Arc<Flight>,
    answers: Arc<Answers>,
    mut incoming: mpsc::Receiver<Incoming>,
) {
    let mut reassembly = Reassembly::new(LIMITS);
    while let Some(Incoming { link, message }) = incoming.recv().await {
        let mut verdict = Verdict::Taken;
        if message.udhi {
            match card_of(&core, &message.source).await {
                Ok(Some(card)) => match reassembly.accept(core.now(), card, &message.user_data) {
                    Ok(Arrival::Whole(whole)) if whole.contains(Element::RESPONSE_PACKET) => {
                        if let Err(error) = proof(&core, &flight, &answers, card, &whole.data).await {
                            tracing::error!(%error, "a proof of receipt was not stored; the SMSC brings it again");
                            verdict = Verdict::Later;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => tracing::info!(%error, "a message from a phone is not readable"),
                },
                Ok(None) => tracing::debug!("a message came from a number that no card has"),
                Err(error) => {
                    tracing::error!(%error, "a message from a phone waits for the store");
                    verdict = Verdict::Later;
                }
            }
        }
        link.answer(message.answer, verdict);
    }
}

/// Finds the command that a response packet answers and makes durable what it proves.
async fn proof(
    core: &Core,
    flight: &Flight,
    answers: &Answers,
    card: CardId,
    packet: &[u8],
) -> Result<(), StoreError> {
    let tar = match scp80::response_tar(packet) {
        Ok(tar) => tar,
        Err(error) => {
            tracing::info!(%error, "a response packet is malformed");
            return Ok(());
        }
    };
    let Some(row) = core.store.card(card).await? else { return Ok(()) };
    let open = core.store.open_packets(card).await?;
    let commands = open.iter().filter(|one| one.tar == tar && !matches!(one.origin, Origin::Trigger(_)));
    for command in commands {
        let Some(response) = read(core, &row, command, packet) else { continue };
        let key = command.key;
        let Response { header, data, authenticated } = response;
        answers.add(CardAnswer { key, status: header.status, data, authenticated });
        if authenticated {
            return prove(core, flight, key, header.status, &open).await;
        }
        tracing::info!(status = %header.status, "a card answered without authentication; nothing moves");
        return Ok(());
    }
    tracing::info!("a proof of receipt matches no open command of its card");
    Ok(())
}

/// The response, if it opens with the command's keys and names its counter.
fn read(core: &Core, card: &Card, command: &Packet, packet: &[u8]) -> Option<Response> {
    let catalogue = core.catalogue();
    let profile = catalogue.profile(card.hot.profile)?;
    let protection = sealing::protection(core, card, profile, command.key.key_set, command.spi);
    let (security, keys) = protection.ok()?;
    let response = scp80::open_response(packet, &security, &keys).ok()?;
    let same = Counter::new(command.key.counter) == Some(response.header.counter);
    // The counter in these may be the card's own.
    let about_counters = matches!(
        response.header.status,
        ResponseStatus::CounterLow | ResponseStatus::CounterHigh | ResponseStatus::CounterBlocked
    );
    (same || about_counters).then_some(response)
}

/// Whether the response proper is still to come: the command stays open for it.
fn is_provisional(status: ResponseStatus) -> bool {
    matches!(
        status,
        ResponseStatus::ResponseFollows | ResponseStatus::ResponseFollowsUssd | ResponseStatus::MoreTime
    )
}

/// The command is proven or refused, or the card has announced its response; older open ones of its key set are dead.
async fn prove(
    core: &Core,
    flight: &Flight,
    key: PacketKey,
    status: ResponseStatus,
    open: &[Packet],
) -> Result<(), StoreError> {
    let now = core.now();
    let mut ops = Vec::new();
    let mut change = |key: PacketKey, moved: Option<Moved>| {
        if let Some(Moved { state, message_ids, .. }) = moved {
            ops.push(Op::Packet(PacketChange { key, state, message_ids, deadline: None }));
        }
    };
    change(key, flight.evidence(key, now, Evidence::Proof { status: status.code() }));
    let fenced = open.iter().filter(|other| {
        other.key.key_set == key.key_set && other.key.counter < key.counter && other.state.is_open()
    });
    for other in fenced {
        change(other.key, flight.evidence(other.key, now, Evidence::Fenced));
    }
    if !is_provisional(status) {
        let result = match status {
            ResponseStatus::PorOk => HistoryResult::Done,
            other => HistoryResult::Failed(u16::from(other.code())),
        };
        let cause = Cause::Command { key_set: key.key_set, counter: key.counter };
        let line = HistoryLine { at: now, cause, campaign: None, result, detail: status.text().to_owned() };
        ops.push(Op::History { card: key.card, lines: vec![line] });
    }
    core.commit_card(&key.card, ops).await?;
    Ok(())
}
