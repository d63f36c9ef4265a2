//! From rows to the SMSC and back: sealing, submitting, and what becomes of each packet.
//!
//! | a packet is | when | after a crash |
//! |---|---|---|
//! | Queued | its counter is durable, no byte has left | sealed again, the same bytes, and submitted |
//! | Submitted | durable before the first byte leaves | Unknown: it may have left |
//! | Accepted, Delivered | the SMSC or a receipt said so | waits for its proof |
//! | Unknown | the link was lost with it | a command leaves again, the same bytes: the card's counter makes a copy harmless |
//! | final | proven, refused, expired, abandoned | stays |

mod events;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use simtide_platform::delivery::Evidence;
use simtide_protocol::ids::{EpochMs, Msisdn};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use self::events::card_of;
use self::events::listen;
use super::addressing::{Addressing, Destination};
use super::core::Core;
use super::flight::{Flight, Moved, Waits};
use super::proofs::Proofs;
use super::sealing;
use crate::kill_point;
use crate::smpp::{Address, Figures, Link, LinkHandle, StartError, Submit, SubmitError};
use crate::store::{
    Card, Group, Op, OperatorId, Origin, Outcome, Packet, PacketChange, PacketKey, PacketState, StoreError,
};

/// Batches of packets that wait for the links.
const BATCHES_MAX: usize = 64;
/// Changes of packets that wait to be committed.
const CHANGES_MAX: usize = 16_384;
/// Changes of one commit.
const CHANGES_AT_ONCE: usize = 1_024;
/// Events of all links that wait.
const EVENTS_MAX: usize = 4_096;
/// Messages whose receipts are matched in memory.
const SENT_MAX: usize = 1_000_000;
/// Commands lost with a link that wait to leave again; more than that wait for the next start.
const COPIES_MAX: usize = 4_096;
/// Packets of whose fate in the network their followers are still to be told.
const FATES_MAX: usize = 16_384;
/// Pause before a full link is asked again.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Sends packets.
#[derive(Clone)]
pub struct Outbox {
    batches: mpsc::Sender<Vec<Outgoing>>,
    state: Arc<State>,
    /// One per link; each ends with its link.
    listeners: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

struct State {
    core: Arc<Core>,
    flight: Arc<Flight>,
    links: Vec<LinkHandle>,
    addressing: Addressing,
    next_link: AtomicUsize,
    next_token: AtomicU64,
    /// Submitted messages by token.
    sent: Mutex<HashMap<u64, Part>>,
    changes: mpsc::Sender<Change>,
    /// What became of packets in the network, for who follows them.
    fates: mpsc::Sender<(PacketKey, Origin, Fate)>,
}

/// What became of a packet in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// All its messages have reached the device.
    Reached,
    /// The network has given it up.
    Lost,
}

/// What the loop of changes is told.
enum Change {
    /// Make this durable.
    Packet(PacketChange),
    /// Say when everything before is durable.
    Flush(oneshot::Sender<()>),
}

/// A message that an event may be about.
#[derive(Debug, Clone, Copy)]
struct Part {
    key: PacketKey,
    number: usize,
    parts: usize,
}

/// What a phone sent, with the link that wants an answer.
pub struct Incoming {
    /// The link.
    pub link: LinkHandle,
    /// The message.
    pub message: crate::smpp::Message,
}

impl Outbox {
    /// Starts the links and the loops behind them. Messages from phones go to `incoming`.
    pub fn start(
        core: Arc<Core>,
        flight: Arc<Flight>,
        proofs: Arc<Proofs>,
        incoming: mpsc::Sender<Incoming>,
    ) -> Result<Outbox, StartError> {
        let (fates, told) = mpsc::channel(FATES_MAX);
        tokio::spawn(tell_fates(proofs, told));
        let (changes, changed) = mpsc::channel(CHANGES_MAX);
        let mut links = Vec::new();
        let mut events = Vec::new();
        for config in &core.config.smpp.links {
            let (report, reported) = mpsc::channel(EVENTS_MAX);
            links.push(Link::start(config.clone(), report)?);
            events.push((config.name.clone(), reported));
        }
        let state = Arc::new(State {
            core,
            flight,
            links,
            addressing: Addressing::default(),
            next_link: AtomicUsize::new(0),
            // Tokens of different runs differ, so that a late event of an old one is not mistaken.
            next_token: AtomicU64::new(u64::from(u32::from_le_bytes(crate::card_port::random())) << 20),
            sent: Mutex::new(HashMap::new()),
            changes,
            fates,
        });
        tokio::spawn(commit_changes(state.core.clone(), changed));
        let (batches, waiting) = mpsc::channel(BATCHES_MAX);
        let (again, lost) = mpsc::channel(COPIES_MAX);
        let listen = |(place, (name, reported))| {
            tokio::spawn(listen(state.clone(), place, name, reported, incoming.clone(), again.clone()))
        };
        let listeners = Arc::new(Mutex::new(events.into_iter().enumerate().map(listen).collect()));
        let (withdraw, withdrawn) = mpsc::unbounded_channel();
        state.flight.withdraws_at(withdraw);
        tokio::spawn(withdraw_all(state.clone(), withdrawn));
        tokio::spawn(send_batches(state.clone(), waiting));
        tokio::spawn(send_again(state.clone(), lost, batches.clone()));
        Ok(Outbox { batches, state, listeners })
    }

    /// Whether there is any link to send on.
    pub fn has_links(&self) -> bool {
        !self.state.links.is_empty()
    }

    /// The links by name, and where each stands.
    pub fn links(&self) -> Vec<(&str, Figures)> {
        let names = self.state.core.config.smpp.links.iter().map(|config| config.name.as_str());
        names.zip(self.state.links.iter().map(LinkHandle::figures)).collect()
    }

    /// This packet is to go to a number of an operator, wherever its card is.
    pub fn address(&self, key: PacketKey, msisdn: Msisdn, operator: OperatorId) {
        self.state.addressing.set(key, msisdn, operator);
    }

    /// Sends packets that are durable as Queued, in this order. Waits while too many batches wait.
    pub async fn send(&self, packets: Vec<Outgoing>) {
        // The loop ends with the process only.
        let _ = self.batches.send(packets).await;
    }

    /// Takes evidence about a packet in; its row follows soon. Answers what it became.
    pub async fn evidence(&self, key: PacketKey, evidence: Evidence) -> Option<Moved> {
        self.state.evidence(key, evidence).await
    }

    /// A message to the device around a card, not to the card: best effort, once, without receipt. `user_data` begins
    /// with its UDH. Answers whether a link took it.
    pub fn tell_device(&self, card: &Card, user_data: Vec<u8>, validity_s: u32) -> bool {
        let state = &self.state;
        let Some(msisdn) = card.record.msisdn else { return false };
        let smpp = &state.core.config.smpp;
        let token = state.next_token.fetch_add(1, Ordering::Relaxed);
        let submit = Submit {
            source: Address::new(smpp.source_ton, smpp.source_npi, &smpp.source_address),
            protocol_id: 0,
            // 8-bit data for whoever listens at the port.
            data_coding: 0x04,
            registered_delivery: 0,
            validity_s,
            ..Submit::binary(token, msisdn, user_data)
        };
        let links = super::addressing::links(&state.core, card.hot.operator);
        links.into_iter().any(|place| state.links[place].submit(submit.clone()).is_ok())
    }

    /// Looks after packets whose validity has ended.
    pub async fn expire(&self) {
        for key in self.state.flight.due(self.state.core.now()) {
            let origin = self.state.flight.origin(key);
            if self.state.evidence(key, Evidence::Deadline).await.is_none()
                && let Some(origin) = origin
            {
                // It was unknown before; now it is also late.
                self.state.tell(key, origin, Fate::Lost);
            }
        }
    }

    /// Ends the links, takes in the answers that still come within `limit`, and makes everything durable. What was not
    /// sent stays in the rows.
    pub async fn stop(&self, limit: Duration) {
        for link in &self.state.links {
            link.shutdown();
        }
        let listeners = std::mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        let all_ended = async {
            for listener in listeners {
                let _ = listener.await;
            }
        };
        if tokio::time::timeout(limit, all_ended).await.is_err() {
            tracing::warn!("an SMSC did not answer everything before the end; the rest is unknown");
        }
        let (flushed, done) = oneshot::channel();
        if self.state.changes.send(Change::Flush(flushed)).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// A packet to be sent, with its card where that has just been read.
#[derive(Debug)]
pub struct Outgoing {
    /// The row.
    pub packet: Packet,
    /// The card.
    pub card: Option<Box<Card>>,
}

impl State {
    async fn evidence(&self, key: PacketKey, evidence: Evidence) -> Option<Moved> {
        let delivered = matches!(self.flight.origin(key), Some(Origin::Delivery(_)));
        let evidence = match evidence {
            // What the short messages could not do another bearer may: the packet stays open.
            Evidence::Abandon | Evidence::RefusedBySmsc { .. } if delivered => Evidence::Undeliverable,
            other => other,
        };
        let moved = self.flight.evidence(key, self.core.now(), evidence)?;
        // The loop ends with the process only.
        let _ = self.changes.send(Change::Packet(moved.clone().change(key))).await;
        if is_given_up(evidence, moved.state) {
            self.tell(key, moved.origin, Fate::Lost);
        } else if matches!(evidence, Evidence::Delivered { .. }) && moved.state == PacketState::Delivered {
            self.tell(key, moved.origin, Fate::Reached);
        }
        Some(moved)
    }

    /// Tells who follows the packet, where somebody does.
    fn tell(&self, key: PacketKey, origin: Origin, fate: Fate) {
        let followed = matches!(origin, Origin::Change(_) | Origin::Delivery(_));
        if followed && self.fates.try_send((key, origin, fate)).is_err() {
            tracing::warn!("too many packets end at once; those who wait for them ask by themselves");
        }
    }

    fn part(&self, token: u64) -> Option<Part> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).get(&token).copied()
    }

    fn forget(&self, token: u64) -> Option<Part> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&token)
    }
}

/// Whether the network will not deliver the packet any more, as far as anybody can say.
fn is_given_up(evidence: Evidence, state: PacketState) -> bool {
    match evidence {
        Evidence::Deadline | Evidence::Undeliverable => true,
        Evidence::RefusedBySmsc { .. } | Evidence::Abandon => !state.is_open(),
        _ => false,
    }
}

/// Tells who follows them what became of packets in the network.
async fn tell_fates(proofs: Arc<Proofs>, mut fates: mpsc::Receiver<(PacketKey, Origin, Fate)>) {
    while let Some((key, origin, fate)) = fates.recv().await {
        let Some(follower) = proofs.follower(origin) else { continue };
        let told = match fate {
            Fate::Reached => follower.reached(key, origin).await,
            Fate::Lost => follower.lost(key, origin).await,
        };
        if let Err(error) = told {
            tracing::error!(%error, "what became of a packet was not taken in");
        }
    }
}

/// Commits changes of packets as they come, as many as wait at once.
async fn commit_changes(core: Arc<Core>, mut changed: mpsc::Receiver<Change>) {
    let mut waiting = Vec::with_capacity(CHANGES_AT_ONCE);
    while changed.recv_many(&mut waiting, CHANGES_AT_ONCE).await > 0 {
        let mut flushes = Vec::new();
        let packets = waiting.drain(..).filter_map(|change| match change {
            Change::Packet(change) => Some((change, ())),
            Change::Flush(flushed) => {
                flushes.push(flushed);
                None
            }
        });
        for (group, (ops, _)) in by_group(&core, packets) {
            if let Err(error) = core.commit(group, ops).await {
                tracing::error!(%error, "changes of packets were not stored");
            }
        }
        for flushed in flushes {
            // Whoever has gone does not wait.
            let _ = flushed.send(());
        }
    }
}

fn by_group<T>(core: &Core, changes: impl Iterator<Item = (PacketChange, T)>) -> HashMap<Group, Grouped<T>> {
    let mut groups: HashMap<Group, Grouped<T>> = HashMap::new();
    for (change, with) in changes {
        let (ops, beside) = groups.entry(core.group(core.bucket(&change.key.card))).or_default();
        ops.push(Op::Packet(change));
        beside.push(with);
    }
    groups
}

/// Operations of one commit, and what belongs to each.
type Grouped<T> = (Vec<Op>, Vec<T>);

async fn send_batches(state: Arc<State>, mut waiting: mpsc::Receiver<Vec<Outgoing>>) {
    while let Some(packets) = waiting.recv().await {
        if let Err(error) = send_batch(&state, packets).await {
            tracing::error!(%error, "packets were not sent; they are sent when the platform starts again");
        }
    }
}

/// Seals, makes Submitted durable, submits. In this order: what is still Queued after a crash has not left.
async fn send_batch(state: &Arc<State>, packets: Vec<Outgoing>) -> Result<(), StoreError> {
    let mut ready = Vec::with_capacity(packets.len());
    let mut changes = Vec::with_capacity(packets.len());
    for Outgoing { packet, card } in packets {
        let submits = prepare(state, &packet, card).await?;
        let parts = submits.as_ref().map_or(1, |(submits, _)| submits.len());
        let parts = u8::try_from(parts).unwrap_or(u8::MAX);
        state.flight.takes_off(&packet, parts);
        let evidence = if submits.is_some() { Evidence::Submitting } else { Evidence::Abandon };
        if let Some(moved) = state.flight.evidence(packet.key, state.core.now(), evidence) {
            let Moved { state, message_ids, .. } = moved;
            let change = PacketChange { key: packet.key, state, message_ids, deadline: None };
            changes.push((change, packet.key));
        }
        ready.extend(submits.map(|(submits, links)| (packet.key, submits, links)));
    }
    let mut settled = HashSet::new();
    for (group, (ops, keys)) in by_group(&state.core, changes.into_iter()) {
        let outcomes = state.core.commit(group, ops).await?.outcomes;
        let written = keys.into_iter().zip(outcomes);
        settled.extend(written.filter(|(_, outcome)| *outcome != Outcome::Done).map(|(key, _)| key));
    }
    for (key, submits, links) in ready {
        if settled.contains(&key) {
            state.flight.forget(key);
        }
        if !state.flight.contains(key) {
            // Its card has polled in the meantime.
            continue;
        }
        kill_point::reached("submit.before");
        submit(state, key, submits, &links).await;
        kill_point::reached("submit.after");
    }
    Ok(())
}

/// The messages of a packet, and the links that may carry them; `None` where it cannot be sent, which is logged once here.
async fn prepare(
    state: &State,
    packet: &Packet,
    card: Option<Box<Card>>,
) -> Result<Option<(Vec<Submit>, Vec<usize>)>, StoreError> {
    let card = match card {
        Some(card) => card,
        None => match state.core.store.card(packet.key.card).await? {
            Some(card) => Box::new(card),
            None => return Ok(None),
        },
    };
    let Destination { msisdn, links } = state.addressing.destination(&state.core, &card, packet.key);
    let Some(msisdn) = msisdn else {
        tracing::warn!("a card without a telephone number gets no SMS; import it with one");
        return Ok(None);
    };
    match sealing::seal(&state.core, &card, packet).await {
        Ok(parts) => Ok(Some((messages(state, packet, msisdn, parts), links))),
        Err(error) => {
            tracing::warn!(%error, "a packet cannot be sealed and is given up");
            tracing::debug!(card = %packet.key.card, "the packet's card");
            Ok(None)
        }
    }
}

fn messages(state: &State, packet: &Packet, msisdn: Msisdn, parts: Vec<Vec<u8>>) -> Vec<Submit> {
    let smpp = &state.core.config.smpp;
    // In campaign time: an SMSC of a demonstration keeps the same fast clock.
    let left_s = packet.deadline.ms_since(state.core.now()) / 1_000;
    let first = state.next_token.fetch_add(parts.len() as u64, Ordering::Relaxed);
    let several = parts.len() > 1;
    (first..)
        .zip(parts)
        .map(|(token, part)| Submit {
            source: Address::new(smpp.source_ton, smpp.source_npi, &smpp.source_address),
            // At least a second: 0 leaves the validity to the SMSC.
            validity_s: left_s.clamp(1, VALIDITY_MAX_S) as u32,
            registered_delivery: smpp.registered_delivery,
            user_message_reference: packet.key.counter as u16,
            group: several.then_some(first),
            ..Submit::binary(token, msisdn, part)
        })
        .collect()
}

/// The longest relative validity period that SMPP 3.4 can say, about.
const VALIDITY_MAX_S: i64 = 98 * 86_400;

/// Hands a packet to a link; waits while the link is full. Without a link that lives it is given up.
async fn submit(state: &State, key: PacketKey, submits: Vec<Submit>, links: &[usize]) {
    let parts = submits.len();
    {
        let mut sent = state.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.len() >= SENT_MAX {
            // Receipts that never came: later ones are looked up in the rows.
            sent.clear();
        }
        for (number, submit) in submits.iter().enumerate() {
            sent.insert(submit.token, Part { key, number, parts });
        }
    }
    loop {
        let mut full = false;
        for _ in 0..links.len() {
            let place = links[state.next_link.fetch_add(1, Ordering::Relaxed) % links.len()];
            match state.links[place].submit_all(submits.clone()) {
                Ok(()) => {
                    if let [submit] = &submits[..] {
                        state.flight.waits(key, Waits { link: place, token: submit.token });
                        if !state.flight.contains(key) {
                            state.links[place].withdraw(submit.token);
                        }
                    }
                    return;
                }
                Err(SubmitError::Full) => full = true,
                Err(error @ (SubmitError::Stopped | SubmitError::TooLong)) => {
                    tracing::debug!(%error, "a link did not take a packet");
                }
            }
        }
        if !full {
            break;
        }
        tokio::time::sleep(FULL_PAUSE).await;
    }
    for submit in &submits {
        state.forget(submit.token);
    }
    state.evidence(key, Evidence::Abandon).await;
}

/// Whether nobody knows if this packet has left, and a copy of it would still be of use.
///
/// A trigger is not repeated: the campaign's next pass finds the card again.
pub fn may_leave_again(packet: &Packet, now: EpochMs) -> bool {
    let trigger = matches!(packet.origin, Origin::Trigger(_));
    packet.state == PacketState::Unknown && !trigger && packet.deadline > now
}

/// Takes back from the links what must not leave any more.
async fn withdraw_all(state: Arc<State>, mut withdrawn: mpsc::UnboundedReceiver<Waits>) {
    while let Some(Waits { link, token }) = withdrawn.recv().await {
        if let Some(link) = state.links.get(link) {
            link.withdraw(token);
        }
    }
}

/// Commands that were lost with a link leave again.
async fn send_again(
    state: Arc<State>,
    mut lost: mpsc::Receiver<PacketKey>,
    batches: mpsc::Sender<Vec<Outgoing>>,
) {
    while let Some(key) = lost.recv().await {
        let packet = match state.core.store.packet(key).await {
            Ok(Some(packet)) => packet,
            Ok(None) => continue,
            Err(error) => {
                tracing::error!(%error, "a lost command cannot be read; it leaves at the next start");
                continue;
            }
        };
        // The row follows soon; what counts is known here.
        let packet = Packet { state: PacketState::Unknown, ..packet };
        if may_leave_again(&packet, state.core.now()) {
            tracing::info!("a command that was lost with its link leaves again");
            let _ = batches.send(vec![Outgoing { packet, card: None }]).await;
        }
    }
}
