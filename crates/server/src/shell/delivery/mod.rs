//! The secure element manager: what waits for a card is sealed with the card's OTA keys and handed to the SMS server,
//! to the second interface, or to the card's next poll, until the card has proven it.
//!
//! | module | does |
//! |---|---|
//! | [`record`] | a delivery's row, and the machine in it |
//! | `lookout` | what is there for cards before anybody asks, and campaigns that have ended |
//! | [`create`] | what users ask for, and lists |
//! | `steps` | load, decide, one commit, effects |
//! | [`source`] | the second interface, in process |
//! | `polls` | polls that carry deliveries, or must leave them alone |
//! | [`operator_keys`] | the boundary to operators that keep the OTA keys of their cards |
//! | [`vectors`] | vectors for the second server, from the registers of operators |
//! | [`ready`] | packets that an operator has sealed itself and hands in |
//! | [`presence`] | where cards can be reached |
//!
//! What is decided is [`simtide_platform::delivery::Delivery`]'s. Events of one card are handled one after the other.
//! The new state, the packet that it needs and what a proof changes elsewhere become durable in one commit; then
//! bytes leave. The same row always gives the same bytes, so nobody needs to know which copy a card has taken.

pub mod create;
mod lookout;
pub mod operator_keys;
mod polls;
pub mod presence;
pub mod ready;
pub mod record;
pub mod source;
mod steps;
pub mod vectors;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use simtide_platform::delivery::{Event, State};
use simtide_protocol::ids::{Bucket, CardId, DeliveryId, EpochMs};
use tokio::sync::{Notify, watch};

use self::presence::Sightings;
use self::record::{Brief, Record};
use super::campaigns::Campaigns;
use super::core::Core;
use super::flight::Flight;
use super::planning::Results;
use super::proofs::{Follower, Proof, Proofs};
use super::sending::Outbox;
use super::subscription::Changes;
use crate::entitlement::source::PushAddress;
use crate::store::{Answer, Card, CaseKind, CaseQuery, Op, Origin, PAGE_ROWS_MAX, PacketKey, StoreError};

pub use create::{DeliveryRefused, Wanted};
pub use polls::Polling;

/// Cards whose events are handled at the same time.
const TURNS: usize = 64;
/// Deliveries that are looked at in one round.
const DUE_MAX: usize = 1_000;
/// Longest sleep of the loop, in real time: a clock that jumps is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Tells a device, by whatever reaches it, that something waits on the second interface.
pub trait Notifier: Send + Sync {
    /// Something waits for this card. Best effort: a device also asks by itself.
    fn something_waits(&self, card: &Card, push: Option<PushAddress>);
}

/// All deliveries.
pub struct Deliveries {
    core: Arc<Core>,
    flight: Arc<Flight>,
    outbox: Outbox,
    campaigns: Arc<Campaigns>,
    results: Arc<Results>,
    proofs: Arc<Proofs>,
    changes: Arc<Changes>,
    /// What has been seen of cards.
    pub sightings: Arc<Sightings>,
    /// Open deliveries by card.
    open: Mutex<HashMap<CardId, Vec<Brief>>>,
    agenda: Mutex<BTreeSet<(EpochMs, CardId, DeliveryId)>>,
    agenda_changed: Notify,
    turns: [tokio::sync::Mutex<()>; TURNS],
    in_session: OnceLock<InSession>,
    notifier: OnceLock<Arc<dyn Notifier>>,
}

/// Whether a card has a session at the card port.
type InSession = Box<dyn Fn(&CardId) -> bool + Send + Sync>;

/// What the manager works with.
pub struct Parts {
    /// Shared by all loops.
    pub core: Arc<Core>,
    /// Packets under way.
    pub flight: Arc<Flight>,
    /// The SMS server.
    pub outbox: Outbox,
    /// What campaigns have for cards.
    pub campaigns: Arc<Campaigns>,
    /// For the thresholds of campaigns.
    pub results: Arc<Results>,
    /// Where everything ends that cards say.
    pub proofs: Arc<Proofs>,
    /// Changes of operator: an authentication may be what they wait for.
    pub changes: Arc<Changes>,
}

impl Deliveries {
    /// Reads the open deliveries; [`Deliveries::run`] goes on with them.
    pub async fn open(parts: Parts) -> Result<Arc<Deliveries>, StoreError> {
        let Parts { core, flight, outbox, campaigns, results, proofs, changes } = parts;
        let sightings = flight.sightings.clone();
        let deliveries = Arc::new(Deliveries {
            core,
            flight,
            outbox,
            campaigns,
            results,
            proofs: proofs.clone(),
            changes,
            sightings,
            open: Mutex::default(),
            agenda: Mutex::default(),
            agenda_changed: Notify::new(),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            in_session: OnceLock::new(),
            notifier: OnceLock::new(),
        });
        proofs.follow_deliveries(deliveries.clone());
        deliveries.restore().await?;
        Ok(deliveries)
    }

    /// How to know whether a card is in a session. Once per process.
    pub fn sessions_are(&self, in_session: InSession) {
        let _ = self.in_session.set(in_session);
    }

    /// Who tells devices that something waits. Once per process.
    pub fn notify_by(&self, notifier: Arc<dyn Notifier>) {
        let _ = self.notifier.set(notifier);
    }

    /// How many deliveries are open.
    pub fn open_count(&self) -> usize {
        self.briefs().values().map(Vec::len).sum()
    }

    /// Reads what the last process has left open. A poll that was under way has broken with it.
    async fn restore(&self) -> Result<(), StoreError> {
        let mut found = 0;
        for bucket in 0..self.core.store.buckets() {
            let mut query = CaseQuery::open(CaseKind::Delivery, Bucket(bucket), PAGE_ROWS_MAX);
            loop {
                let page = self.core.store.cases(query).await?;
                query.after = page.rows.last().map(|row| row.id).or(query.after);
                for row in &page.rows {
                    match Record::read(row) {
                        Ok(record) => {
                            found += 1;
                            let at = record.due.unwrap_or_else(|| self.core.now());
                            self.remember(&record);
                            self.schedule(None, at, &record);
                        }
                        Err(error) => tracing::error!(%error, "a delivery is left alone"),
                    }
                }
                if page.end {
                    break;
                }
            }
        }
        if found > 0 {
            tracing::info!(deliveries = found, "open deliveries go on");
        }
        Ok(())
    }

    /// Looks at deliveries when they want it, until `stop` says so.
    pub async fn run(self: Arc<Deliveries>, mut stop: watch::Receiver<bool>) {
        self.end_broken_polls().await;
        let mut lookout = lookout::Lookout::default();
        loop {
            let next = self.agenda().first().map(|(at, _, _)| self.core.clock.until(*at));
            let pause = next.unwrap_or(SLEEP_MAX).min(SLEEP_MAX);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.agenda_changed.notified() => continue,
                () = tokio::time::sleep(pause) => {}
            }
            self.look_at_due().await;
            if let Err(error) = self.look_out(&mut lookout).await {
                tracing::error!(%error, "what waits for cards is looked for later");
            }
        }
    }

    /// Looks at everything that is due now.
    pub async fn look_at_due(&self) {
        let now = self.core.now();
        let due: Vec<_> = {
            let mut agenda = self.agenda();
            let due: Vec<_> =
                agenda.iter().take_while(|(at, _, _)| *at <= now).take(DUE_MAX).copied().collect();
            due.iter().for_each(|entry| {
                agenda.remove(entry);
            });
            due
        };
        for (_, card, delivery) in due {
            if let Err(error) = self.event(card, delivery, Event::Look).await {
                tracing::error!(%error, "a delivery waits for the store");
            }
        }
    }

    /// Polls that were under way when the last process ended.
    async fn end_broken_polls(&self) {
        let open: Vec<_> =
            self.briefs().iter().flat_map(|(card, all)| all.iter().map(|one| (*card, one.id))).collect();
        for (card, delivery) in open {
            let _turn = self.turn(&card).await;
            let polling = match self.load(card, delivery).await {
                Ok(Some(loaded)) => loaded.record.machine.state == State::Polling,
                Ok(None) => false,
                Err(error) => {
                    tracing::error!(%error, "a delivery waits for the store");
                    false
                }
            };
            if polling && let Err(error) = self.poll_broke(card, delivery).await {
                tracing::error!(%error, "a delivery waits for the store");
            }
        }
    }

    /// Waits until no other event of the card is being handled.
    async fn turn(&self, card: &CardId) -> tokio::sync::MutexGuard<'_, ()> {
        // There are TURNS of them.
        self.turns[usize::from(self.core.bucket(card).0) % TURNS].lock().await
    }

    /// Deliveries of a card that are open, oldest first.
    pub fn open_of(&self, card: &CardId) -> Vec<Brief> {
        self.briefs().get(card).cloned().unwrap_or_default()
    }

    fn remember(&self, record: &Record) {
        let machine = &record.machine;
        let mut open = self.briefs();
        if machine.state.is_open() {
            let of_card = open.entry(machine.card).or_default();
            if !of_card.iter().any(|one| one.id == machine.id) {
                of_card.push(Brief { id: machine.id, at: machine.at, cause: machine.cause });
                of_card.sort_by_key(|one| (one.at, one.id));
            }
        } else if let Some(of_card) = open.get_mut(&machine.card) {
            of_card.retain(|one| one.id != machine.id);
            if of_card.is_empty() {
                open.remove(&machine.card);
            }
        }
    }

    /// It was never stored.
    fn forget(&self, record: &Record) {
        if let Some(of_card) = self.briefs().get_mut(&record.machine.card) {
            of_card.retain(|one| one.id != record.machine.id);
        }
    }

    fn schedule(&self, before: Option<EpochMs>, at: EpochMs, record: &Record) {
        let (card, id) = (record.machine.card, record.machine.id);
        let mut agenda = self.agenda();
        if let Some(before) = before {
            agenda.remove(&(before, card, id));
        }
        agenda.insert((at, card, id));
        // What is due later than others changes nothing for who sleeps until those.
        let is_next = agenda.first() == Some(&(at, card, id));
        drop(agenda);
        if is_next {
            self.agenda_changed.notify_one();
        }
    }

    fn briefs(&self) -> MutexGuard<'_, HashMap<CardId, Vec<Brief>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agenda(&self) -> MutexGuard<'_, BTreeSet<(EpochMs, CardId, DeliveryId)>> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower for Deliveries {
    fn proven<'a>(&'a self, card: &'a Card, proof: Proof, ops: Vec<Op>) -> Answer<'a, ()> {
        Box::pin(self.proof_came(card, proof, ops))
    }

    fn lost(&self, key: PacketKey, origin: Origin) -> Answer<'_, ()> {
        Box::pin(async move {
            match origin {
                Origin::Delivery(delivery) => self.sms_failed(key, delivery).await,
                _ => Ok(()),
            }
        })
    }

    fn reached(&self, key: PacketKey, origin: Origin) -> Answer<'_, ()> {
        Box::pin(async move {
            match origin {
                Origin::Delivery(delivery) => self.sms_reached(key, delivery).await,
                _ => Ok(()),
            }
        })
    }
}
