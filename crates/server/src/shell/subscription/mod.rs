//! Changes of operator carried out: the loop around [`Change`].
//!
//! | module | does |
//! |---|---|
//! | this one | load, handle, **one durable commit**, then the effects; what comes of each is an event again |
//! | `commit` | the operations of that commit: record, packets, the card's new subscription, history |
//! | `effects` | registers, aliases |
//! | `callback` | what operator 1 is asked and told, signed |
//! | [`personalization`] | the message, and what the card's answers say |
//! | `polls` | what sessions of the card carry for it |
//! | `requests` | who may begin a change: by API and by the card itself |
//! | [`bulk`], `tally` | campaigns of changes, and what has become of theirs |
//! | [`watch`] | what is known of open changes without the store |
//! | `texts` | what users are told on their devices |
//! | `timers` | what is due, and what a process that starts again finds |
//!
//! Everything of one change happens one after the other; effects of different changes overlap, a bounded number at once.

pub mod bulk;
mod callback;
mod commit;
mod effects;
pub mod personalization;
mod polls;
mod requests;
mod tally;
mod texts;
mod timers;
pub mod watch;

use std::sync::{Arc, Weak};

use simtide_platform::subscription::{Change, Command, Event, SeenBy, State};
use simtide_protocol::ids::{Bucket, CardId, ChangeId, Imsi};
use tokio::sync::{Mutex, Semaphore};

use self::callback::Callbacks;
use self::tally::Tally;
use self::texts::Texts;
use self::timers::Timers;
use self::watch::Watch;
use super::core::Core;
use super::flight::Flight;
use super::sending::{Outbox, Outgoing};
use crate::registers::Registers;
use crate::store::{
    Alias, CaseKind, CaseQuery, CaseRow, Op, OperatorId, PAGE_ROWS_MAX, Packet, StoreError, TenantId,
};

pub use callback::{SIGNATURE_HEADER, signature};
pub use polls::Carries;
pub use requests::{RequestRefused, Wanted};

/// Locks that changes are spread over.
const TURNS: usize = 256;
/// Effects that are under way at once: calls to registers and operators.
const EFFECTS_MAX: usize = 256;
/// Changes that one page passes over at most.
pub const LOOKED_AT_MAX: usize = 20_000;
/// Changes of a card that are looked at.
pub const CHANGES_OF_CARD_MAX: usize = 64;

/// Carries out changes of operator.
pub struct Changes {
    core: Arc<Core>,
    flight: Arc<Flight>,
    outbox: Outbox,
    /// The registers of operators; a register that is put here is used from then on.
    pub registers: Registers,
    callbacks: Callbacks,
    turns: [Mutex<()>; TURNS],
    effects: Arc<Semaphore>,
    timers: Timers,
    texts: Texts,
    /// Open changes at a glance.
    pub watch: Watch,
    tally: Tally,
    me: Weak<Changes>,
}

/// A change as kept, with whose it is.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Owner of the card.
    pub tenant: TenantId,
    /// The change.
    pub change: Change,
}

/// Which changes a page shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListQuery {
    /// Only this card's.
    pub card: Option<CardId>,
    /// Only those that this campaign began.
    pub campaign: Option<u32>,
    /// Only open or only closed ones.
    pub open: Option<bool>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only with or only without something that people have to look at.
    pub alarm: Option<bool>,
    /// Bucket and id, as answered with the page before.
    pub after: Option<(u16, u64)>,
    /// At most so many.
    pub rows_max: usize,
}

impl ListQuery {
    fn shows(&self, change: &Change) -> bool {
        self.campaign.is_none_or(|campaign| change.evidence.campaign == Some(campaign))
            && self.open.is_none_or(|open| change.is_open() == open)
            && self.state.is_none_or(|state| change.state == state)
            && self.alarm.is_none_or(|alarm| change.alarms.is_empty() != alarm)
    }

    fn of_bucket(&self, bucket: Bucket, after: Option<u64>) -> CaseQuery {
        let state = self.state.map(State::code);
        CaseQuery {
            open: self.open,
            state,
            after,
            ..CaseQuery::open(CaseKind::Change, bucket, PAGE_ROWS_MAX)
        }
    }
}

/// Why an operation on a change was not possible.
#[derive(Debug, thiserror::Error)]
pub enum ChangeRefused {
    /// There is none.
    #[error("there is no such change")]
    Unknown,
    /// Not in this state.
    #[error("the change is {state}: {reason}", state = .0.name(), reason = .1)]
    State(State, &'static str),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is to happen after a commit.
pub(super) enum Effect {
    /// A command of the change.
    Command(Command),
    /// A packet that is reserved.
    Send(Box<Packet>, Option<simtide_platform::subscription::Party>),
}

impl Changes {
    /// Nothing is under way yet; [`Changes::start`] finds what was.
    pub fn new(core: Arc<Core>, flight: Arc<Flight>, outbox: Outbox, registers: Registers) -> Arc<Changes> {
        Arc::new_cyclic(|me| Changes {
            core,
            flight,
            outbox,
            registers,
            callbacks: Callbacks::new(),
            turns: std::array::from_fn(|_| Mutex::new(())),
            effects: Arc::new(Semaphore::new(EFFECTS_MAX)),
            timers: Timers::default(),
            texts: Texts::default(),
            watch: Watch::default(),
            tally: Tally::default(),
            me: me.clone(),
        })
    }

    /// One change.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find(&self, id: ChangeId) -> Result<Option<Kept>, StoreError> {
        match self.core.store.case(CaseKind::Change, id.0).await? {
            Some(row) => Ok(Some(Kept { tenant: row.tenant, change: read(&row)? })),
            None => Ok(None),
        }
    }

    /// The changes of a card, latest first.
    ///
    /// # Errors
    /// The store failed.
    pub async fn of_card(&self, card: CardId) -> Result<Vec<Change>, StoreError> {
        let rows = self.core.store.cases_of(card, CaseKind::Change, CHANGES_OF_CARD_MAX).await?;
        rows.iter().map(read).collect()
    }

    /// The change of a card that is open.
    ///
    /// # Errors
    /// The store failed.
    pub async fn open_of(&self, card: CardId) -> Result<Option<Change>, StoreError> {
        Ok(self.of_card(card).await?.into_iter().find(Change::is_open))
    }

    /// A page of changes that `shown` lets through, and where the next one begins. A page holds fewer than asked for only
    /// at the end, and where [`LOOKED_AT_MAX`] changes had to be passed over.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list(
        &self,
        query: ListQuery,
        shown: impl Fn(&Kept) -> bool,
    ) -> Result<(Vec<Kept>, Option<(u16, u64)>), StoreError> {
        let kept = |row: &CaseRow| Ok(Kept { tenant: row.tenant, change: read(row)? });
        let wanted = |one: &Kept| query.shows(&one.change) && shown(one);
        if let Some(card) = query.card {
            let rows = self.core.store.cases_of(card, CaseKind::Change, CHANGES_OF_CARD_MAX).await?;
            let all: Vec<Kept> = rows.iter().map(kept).collect::<Result<_, StoreError>>()?;
            return Ok((all.into_iter().filter(wanted).collect(), None));
        }
        let (mut bucket, mut after) = query.after.map_or((0, None), |(bucket, id)| (bucket, Some(id)));
        let (mut found, mut looked_at) = (Vec::new(), 0);
        while bucket < self.core.store.buckets() {
            let page = self.core.store.cases(query.of_bucket(Bucket(bucket), after)).await?;
            for row in &page.rows {
                if found.len() >= query.rows_max || looked_at >= LOOKED_AT_MAX {
                    return Ok((found, Some((bucket, after.unwrap_or_default()))));
                }
                after = Some(row.id);
                looked_at += 1;
                found.extend(Some(kept(row)?).filter(wanted));
            }
            if page.end {
                bucket += 1;
                after = None;
            }
        }
        Ok((found, None))
    }

    /// A change that is open with an operator on either side.
    ///
    /// # Errors
    /// The store failed.
    pub async fn open_with(&self, operator: OperatorId) -> Result<Option<ChangeId>, StoreError> {
        for bucket in 0..self.core.store.buckets() {
            let mut query = CaseQuery::open(CaseKind::Change, Bucket(bucket), PAGE_ROWS_MAX);
            loop {
                let page = self.core.store.cases(query).await?;
                for row in &page.rows {
                    let change = read(row)?;
                    if change.from.operator == operator.0 || change.to.operator == operator.0 {
                        return Ok(Some(change.id));
                    }
                }
                query.after = page.rows.last().map(|row| row.id).or(query.after);
                if page.end {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// Takes an event in and carries out what follows.
    ///
    /// # Errors
    /// Nothing was stored.
    pub async fn handle(&self, of: (CardId, ChangeId), event: Event) -> Result<Option<Change>, StoreError> {
        self.handle_beside(of, event, Vec::new(), None).await
    }

    /// The same, with operations and a sealed record that become durable together with the change.
    pub(super) async fn handle_beside(
        &self,
        (card, id): (CardId, ChangeId),
        event: Event,
        beside: Vec<Op>,
        sealed: Option<Vec<u8>>,
    ) -> Result<Option<Change>, StoreError> {
        let (change, effects) = {
            // There are TURNS of them.
            let _turn = self.turns[id.0 as usize % TURNS].lock().await;
            let Some(row) = self.core.store.case_of(card, CaseKind::Change, id.0).await? else {
                // They belong to no change after all.
                if !beside.is_empty() {
                    self.core.commit_card(&card, beside).await?;
                }
                return Ok(None);
            };
            self.settle(row, event, beside, sealed).await?
        };
        self.carry_out(&change, effects).await;
        Ok(Some(change))
    }

    /// Operator 1 has answered.
    ///
    /// # Errors
    /// There is no such change, or it does not wait for an answer.
    pub async fn consent(&self, id: ChangeId, granted: bool) -> Result<Change, ChangeRefused> {
        let kept = self.find(id).await?.ok_or(ChangeRefused::Unknown)?;
        if kept.change.state != State::Requested {
            return Err(ChangeRefused::State(kept.change.state, "it does not wait for a consent any more"));
        }
        self.handle((kept.change.card, id), Event::Consent { granted }).await?.ok_or(ChangeRefused::Unknown)
    }

    /// Everything that is waited for is asked for at once.
    ///
    /// # Errors
    /// There is no such change, or it has ended.
    pub async fn resolve(&self, id: ChangeId) -> Result<Change, ChangeRefused> {
        let change = self.open(id).await?;
        self.handle((change.card, id), Event::Resolve).await?.ok_or(ChangeRefused::Unknown)
    }

    /// Stops a change that has not reached the card; one that perhaps has is stopped as soon as it is certain that it
    /// has not.
    ///
    /// # Errors
    /// There is no such change, or it is too late.
    pub async fn cancel(&self, id: ChangeId) -> Result<Change, ChangeRefused> {
        let change = self.open(id).await?;
        if !change.may_be_cancelled() && !matches!(change.state, State::Sent | State::Unknown) {
            return Err(ChangeRefused::State(change.state, "the card has the new identity already"));
        }
        self.handle((change.card, id), Event::Cancel).await?.ok_or(ChangeRefused::Unknown)
    }

    async fn open(&self, id: ChangeId) -> Result<Change, ChangeRefused> {
        let kept = self.find(id).await?.ok_or(ChangeRefused::Unknown)?;
        if kept.change.is_open() {
            Ok(kept.change)
        } else {
            Err(ChangeRefused::State(kept.change.state, "it has ended"))
        }
    }

    /// An identity was seen in the network: by its register's report, or by a successful EAP-AKA. Answers the change
    /// that waits for it; `None`: nobody does. A report that names a card counts only for that card.
    ///
    /// # Errors
    /// The store failed.
    pub async fn seen(
        &self,
        imsi: Imsi,
        card: Option<CardId>,
        by: SeenBy,
    ) -> Result<Option<Change>, StoreError> {
        let Some(owner) = self.core.store.find(Alias::Imsi(imsi)).await? else { return Ok(None) };
        let Some(change) = self.open_of(owner).await? else { return Ok(None) };
        if change.identity.is_none_or(|identity| identity.imsi != imsi) {
            return Ok(None);
        }
        if card.is_some_and(|card| card != owner) {
            tracing::warn!("a register reports an identity with another card than the one of its change");
            return Ok(None);
        }
        self.handle((owner, change.id), Event::Seen { imsi, known: true, attached: true, by }).await
    }

    /// Sends what is reserved and begins the effects; they come back as events.
    async fn carry_out(&self, change: &Change, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(packet, over) => {
                    if let Some((number, operator)) = effects::destination(change, over) {
                        self.outbox.address(packet.key, number, operator);
                    }
                    self.outbox.send(vec![Outgoing { packet: *packet, card: None }]).await;
                }
                Effect::Command(Command::Alarm(alarm)) => self.watch.alarm(change, alarm),
                Effect::Command(command) => {
                    let Some(me) = self.me.upgrade() else { return };
                    let change = change.clone();
                    tokio::spawn(me.effect(change, command));
                }
            }
        }
    }

    /// Takes in what came of an effect.
    async fn came(&self, of: (CardId, ChangeId), event: Event) {
        if let Err(error) = self.handle(of, event).await {
            tracing::error!(%error, "an event of a change was not stored; it is asked again");
        }
    }
}

/// The record of a case.
pub(super) fn read(row: &CaseRow) -> Result<Change, StoreError> {
    serde_json::from_slice(&row.body)
        .map_err(|error| StoreError::Corrupt(format!("change {:016x}: {error}", row.id)))
}
