//! What users ask for: new deliveries, lists, and the end of one.

use simtide_platform::card::CardState;
use simtide_platform::content::Content;
use simtide_platform::delivery::{Bearer, Bearers, Cause, Delivery, Event, PackError, Urgency, Wish};
use simtide_protocol::ids::{Bucket, CardId, DeliveryId, EpochMs};

use super::ready::{ReadyHead, ReadyRefused};
use super::record::{Record, TooLarge};
use super::steps::{Beside, Loaded};
use super::{Deliveries, ready};
use crate::shell::sealing::{self, SealingError};
use crate::store::{Card, CaseKind, CaseQuery, CaseRow, PAGE_ROWS_MAX, Standing, StoreError, TenantId};

/// Open deliveries of one card at most.
pub const OPEN_PER_CARD_MAX: usize = 64;
/// Longest validity that can be asked for, in seconds.
pub const VALIDITY_S_MAX: u32 = 366 * 86_400;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The card.
    pub card: CardId,
    /// What is to be done on it.
    pub content: Content,
    /// What may carry it.
    pub bearers: Bearers,
    /// How much waiting a short message is worth.
    pub urgency: Urgency,
    /// How long it is tried, in seconds; `None`: as configured.
    pub validity_s: Option<u32>,
}

/// Why a delivery is not taken.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryRefused {
    /// No such card.
    #[error("there is no such card")]
    UnknownCard,
    /// No such delivery.
    #[error("there is no such delivery")]
    Unknown,
    /// Gone for good.
    #[error("the card is retired: nothing is delivered to it")]
    Retired,
    /// No bearer at all.
    #[error("no bearer is given: name at least one of poll, sms and ip")]
    NoBearer,
    /// None of the bearers can reach the card.
    #[error("none of the bearers that are given can reach the card: {0}")]
    Unreachable(&'static str),
    /// How long.
    #[error("validity_s is {0}: give 1 to {VALIDITY_S_MAX}")]
    Validity(u32),
    /// What.
    #[error(transparent)]
    Content(#[from] PackError),
    /// Packets that are sealed already.
    #[error(transparent)]
    Ready(#[from] ReadyRefused),
    /// How much.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Too many.
    #[error("{OPEN_PER_CARD_MAX} deliveries of the card are open: cancel some, or wait")]
    TooMany,
    /// Profile or keys.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which deliveries a list shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListQuery {
    /// Only this card's.
    pub card: Option<CardId>,
    /// Only open or only closed ones.
    pub open: Option<bool>,
    /// After this place: bucket and delivery.
    pub after: Option<(u16, DeliveryId)>,
    /// At most so many.
    pub rows_max: usize,
}

impl Deliveries {
    /// Takes a delivery and begins it. Answers its record as it is durable.
    pub async fn create(&self, tenant: TenantId, wanted: Wanted) -> Result<Record, DeliveryRefused> {
        let Wanted { card, content, bearers, urgency, validity_s } = wanted;
        let receiver = self.receiver(tenant, card, bearers).await?;
        let limit = self.limit(validity_s)?;
        let record = self.new_record(&receiver.card, Cause::Request, content, bearers, urgency, limit)?;
        self.check_keys(&receiver.card, &record)?;
        self.begin(receiver, record).await
    }

    /// The card that something is to go to by these bearers.
    pub(super) async fn receiver(
        &self,
        tenant: TenantId,
        card: CardId,
        bearers: Bearers,
    ) -> Result<Standing, DeliveryRefused> {
        let found = self.core.store.standing(card, None).await?;
        let found = found.filter(|found| found.card.record.tenant == tenant);
        let found = found.ok_or(DeliveryRefused::UnknownCard)?;
        let card = &found.card;
        if card.hot.state == CardState::Retired {
            return Err(DeliveryRefused::Retired);
        }
        self.check_bearers(card, bearers)?;
        if self.open_of(&card.record.id).len() >= OPEN_PER_CARD_MAX {
            return Err(DeliveryRefused::TooMany);
        }
        Ok(found)
    }

    /// Until when something is tried that is asked for now.
    pub(super) fn limit(&self, validity_s: Option<u32>) -> Result<EpochMs, DeliveryRefused> {
        let validity_s = validity_s.unwrap_or(self.core.config.delivery.validity_s);
        if !(1..=VALIDITY_S_MAX).contains(&validity_s) {
            return Err(DeliveryRefused::Validity(validity_s));
        }
        Ok(self.core.now().plus_s(validity_s.into()))
    }

    /// Makes a new delivery durable, and its first step.
    pub(super) async fn begin(&self, receiver: Standing, record: Record) -> Result<Record, DeliveryRefused> {
        record.row()?;
        let Standing { card, open, .. } = receiver;
        let _turn = self.turn(&card.record.id).await;
        let mut loaded = Loaded { card, open, record };
        self.step(&mut loaded, Event::Look, Beside::default()).await?;
        Ok(loaded.record)
    }

    /// A record that is not stored yet.
    pub(super) fn new_record(
        &self,
        card: &Card,
        cause: Cause,
        content: Content,
        bearers: Bearers,
        urgency: Urgency,
        limit: EpochMs,
    ) -> Result<Record, DeliveryRefused> {
        let catalogue = self.core.catalogue();
        let profile = catalogue.profile(card.hot.profile).ok_or(SealingError::Profile)?;
        let mut record = self.blank(card, cause, content.repeatable, bearers, urgency, limit);
        let portions = record.portions(&content, profile, self.core.config.delivery.packet_bytes_max)?;
        record.machine.portions = portions;
        record.content = matches!(cause, Cause::Request).then_some(content);
        Ok(record)
    }

    /// The same for packets that are sealed already. Their counters see to it that each has its effect once.
    pub(super) fn ready_record(
        &self,
        card: &Card,
        ready: Vec<ReadyHead>,
        bearers: Bearers,
        urgency: Urgency,
        limit: EpochMs,
    ) -> Record {
        let mut record = self.blank(card, Cause::Request, false, bearers, urgency, limit);
        record.machine.portions = ready::portions(&ready);
        record.ready = ready;
        record
    }

    fn blank(
        &self,
        card: &Card,
        cause: Cause,
        repeatable: bool,
        bearers: Bearers,
        urgency: Urgency,
        limit: EpochMs,
    ) -> Record {
        let id = DeliveryId(u64::from_be_bytes(crate::card_port::random()));
        let (card, tenant) = (card.record.id, card.record.tenant.0);
        let wish = Wish { id, card, cause, portions: Vec::new(), repeatable, bearers, urgency, limit };
        let machine = Delivery::new(self.core.now(), wish);
        Record {
            machine,
            content: None,
            ready: Vec::new(),
            sealed: Vec::new(),
            tenant,
            version: 0,
            due: None,
        }
    }

    fn check_bearers(&self, card: &Card, bearers: Bearers) -> Result<(), DeliveryRefused> {
        if bearers.is_empty() {
            return Err(DeliveryRefused::NoBearer);
        }
        let by_sms = card.record.msisdn.is_some() && self.outbox.has_links();
        let by_ip = self.core.config.delivery_over_ip();
        let reachable = bearers.iter().any(|bearer| match bearer {
            Bearer::Poll => true,
            Bearer::Sms => by_sms,
            Bearer::Ip => by_ip,
        });
        let why = match card.record.msisdn {
            None => "it has no telephone number, and nothing is offered on the second interface",
            Some(_) => "no SMPP link is configured, and nothing is offered on the second interface",
        };
        if reachable { Ok(()) } else { Err(DeliveryRefused::Unreachable(why)) }
    }

    /// The card has the key sets that its packets need.
    pub(super) fn check_keys(&self, card: &Card, record: &Record) -> Result<(), DeliveryRefused> {
        let catalogue = self.core.catalogue();
        let profile = catalogue.profile(card.hot.profile).ok_or(SealingError::Profile)?;
        let mut checked = None;
        for portion in &record.machine.portions {
            if checked != Some((portion.key_set, portion.spi)) {
                sealing::check(&self.core, card, profile, portion.key_set, portion.spi, portion.tar)?;
                checked = Some((portion.key_set, portion.spi));
            }
        }
        Ok(())
    }

    /// One delivery of a tenant.
    pub async fn show(&self, tenant: TenantId, id: DeliveryId) -> Result<Record, DeliveryRefused> {
        let row = self.core.store.case(CaseKind::Delivery, id.0).await?;
        let row = row.filter(|row| row.tenant == tenant).ok_or(DeliveryRefused::Unknown)?;
        match self.load(row.card, id).await? {
            Some(loaded) => Ok(loaded.record),
            None => Err(DeliveryRefused::Unknown),
        }
    }

    /// Ends a delivery. One that is over stays as it is.
    pub async fn cancel(&self, tenant: TenantId, id: DeliveryId) -> Result<Record, DeliveryRefused> {
        let row = self.core.store.case(CaseKind::Delivery, id.0).await?;
        let row = row.filter(|row| row.tenant == tenant).ok_or(DeliveryRefused::Unknown)?;
        self.event(row.card, id, Event::Cancel).await?;
        self.show(tenant, id).await
    }

    /// Deliveries of a tenant, of one card latest first, else by bucket and id; with the place where to go on.
    pub async fn list(
        &self,
        tenant: TenantId,
        query: ListQuery,
    ) -> Result<(Vec<Record>, Option<(u16, DeliveryId)>), StoreError> {
        let rows_max = query.rows_max.clamp(1, PAGE_ROWS_MAX);
        let shows = |row: &CaseRow| row.tenant == tenant && query.open.is_none_or(|open| row.open == open);
        let mut found: Vec<Record> = Vec::new();
        if let Some(card) = query.card {
            let rows = self.core.store.cases_of(card, CaseKind::Delivery, rows_max).await?;
            for row in rows.iter().filter(|row| shows(row)) {
                found.push(Record::read(row)?);
            }
            return Ok((found, None));
        }
        let (first, mut after) = query.after.map_or((0, None), |(bucket, id)| (bucket, Some(id)));
        for bucket in first..self.core.store.buckets() {
            loop {
                let page = CaseQuery {
                    kind: CaseKind::Delivery,
                    bucket: Bucket(bucket),
                    open: query.open,
                    state: None,
                    after: after.map(|id: DeliveryId| id.0),
                    rows_max,
                };
                let page = self.core.store.cases(page).await?;
                for row in &page.rows {
                    after = Some(DeliveryId(row.id));
                    if shows(row) {
                        found.push(Record::read(row)?);
                    }
                    if found.len() >= rows_max {
                        return Ok((found, Some((bucket, DeliveryId(row.id)))));
                    }
                }
                if page.end {
                    break;
                }
            }
            after = None;
        }
        Ok((found, None))
    }
}
