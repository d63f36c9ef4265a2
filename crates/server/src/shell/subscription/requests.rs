//! Who may begin a change: operators by the API, and the card itself; and what cards answer.

use simtide_platform::subscription::{
    CardSays, Change, Event, Evidence, PacketKind, Refusal, Request, Side, Standing, Terms, Way,
    admin_code_failures, admit,
};
use simtide_protocol::ids::{CardId, ChangeId};
use simtide_protocol::personalization::{self as card_says, ConsentWay, Uplink};
use simtide_protocol::scp80::Counter;

use super::commit::NotWritten;
use super::personalization::{Carried, Receiver};
use super::{Changes, Kept};
use crate::shell::core::Operator;
use crate::shell::proofs::{Follower, Proof, Requests};
use crate::store::{
    Answer, Card, CaseKind, CaseRow, Op, OperatorId, Origin, PacketKey, StoreError, TenantId,
};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// IdSC.
    pub card: CardId,
    /// Whose card it must be.
    pub tenant: TenantId,
    /// The operator that the user wants, by its row.
    pub to: OperatorId,
    /// The user's agreement.
    pub evidence: Evidence,
}

/// Why a change does not begin.
#[derive(Debug, thiserror::Error)]
pub enum RequestRefused {
    /// As the platform's rules say.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The wanted operator is not ready.
    #[error("operator {0} has no register: give it one with `simtide operators put`")]
    NoRegister(String),
    /// Nobody is there to send it.
    #[error("no SMPP link is configured: add one under [[smpp.links]]")]
    NoLink,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RequestRefused {
    /// For a device's display.
    fn text(&self) -> &'static str {
        match self {
            RequestRefused::Refused(refusal) => refusal.text(),
            RequestRefused::NoRegister(_) | RequestRefused::NoLink => Refusal::Suspended.text(),
            RequestRefused::Store(_) => Refusal::Replayed.text(),
        }
    }
}

impl Changes {
    /// Begins a change, if it may.
    ///
    /// # Errors
    /// Why it does not begin; nothing was stored.
    pub async fn request(&self, wanted: Wanted) -> Result<Kept, RequestRefused> {
        let card = self.core.store.card(wanted.card).await?;
        let card = card.filter(|card| card.record.tenant == wanted.tenant).ok_or(Refusal::UnknownCard)?;
        let changes = self.of_card(wanted.card).await?;
        self.begin(&card, &changes, wanted.to, wanted.evidence, Vec::new()).await
    }

    /// `changes` are the card's, latest first. `beside` is committed with the change; where the change is refused it is left
    /// to the caller, unless another change turned out to be open at the last moment.
    pub(super) async fn begin(
        &self,
        card: &Card,
        changes: &[Change],
        to: OperatorId,
        evidence: Evidence,
        beside: Vec<Op>,
    ) -> Result<Kept, RequestRefused> {
        if !self.outbox.has_links() {
            return Err(RequestRefused::NoLink);
        }
        let catalogue = self.core.catalogue();
        let to = catalogue.operator(to).ok_or(Refusal::UnknownOperator)?;
        let from = catalogue.operator(card.hot.operator).ok_or(Refusal::NoAgreement)?;
        let profile = catalogue.profile(card.hot.profile);
        let standing = Standing {
            state: card.hot.state,
            operator: from.id.0,
            imsi: card.record.imsi,
            has_admin_code: !card.record.sealed.admin_code.is_empty(),
            can_be_personalized: profile.and_then(|profile| Receiver::of(profile)).is_some(),
            open: changes.iter().find(|change| change.is_open()).map(|change| change.id),
            admin_code_failures: admin_code_failures(changes),
        };
        let agreed = catalogue.agreement(from.id, to.id);
        let imsi = admit(standing, to.id.0, agreed)?;
        let (Some(first), Some(second)) = (&from.settings, &to.settings) else {
            return Err(Refusal::NoAgreement.into());
        };
        if self.registers.of(to.id).is_none() {
            return Err(RequestRefused::NoRegister(to.name.clone()));
        }
        let terms = agreed.map(|agreed| Terms::of(first, second, agreed, evidence.way));
        let request = Request {
            id: ChangeId(u64::from_be_bytes(crate::card_port::random())),
            card: card.record.id,
            from: side(from),
            imsi,
            msisdn: card.record.msisdn,
            to: side(to),
            terms: terms.ok_or(Refusal::NoAgreement)?,
            evidence,
        };
        self.write_first(card, request, beside).await
    }

    async fn write_first(
        &self,
        card: &Card,
        request: Request,
        beside: Vec<Op>,
    ) -> Result<Kept, RequestRefused> {
        let now = self.core.now();
        let row = CaseRow {
            card: request.card,
            kind: CaseKind::Change,
            id: request.id.0,
            tenant: card.record.tenant,
            at: now,
            state: 0,
            open: true,
            due: None,
            version: 0,
            body: Vec::new(),
            sealed: Vec::new(),
        };
        let (change, commands) = Change::begin(now, request);
        let settled = self.settle_from(now, row, None, change, commands, beside).await;
        let (change, effects) = settled.map_err(|error| match error {
            NotWritten::Open(id) => RequestRefused::Refused(Refusal::Open(id)),
            NotWritten::Store(error) => RequestRefused::Store(error),
        })?;
        tracing::info!(change = %change.id, from = change.from.name, to = change.to.name, "a change of operator begins");
        self.carry_out(&change, effects).await;
        Ok(Kept { tenant: card.record.tenant, change })
    }

    /// A card's user wants another operator.
    async fn asked_by_card(
        &self,
        card: &Card,
        request: card_says::Request,
        counter: Counter,
        raise: Op,
    ) -> Result<(), StoreError> {
        let now = self.core.now();
        let way = match request.consent.way {
            ConsentWay::Menu => Way::Menu,
            ConsentWay::Code => Way::Code,
            ConsentWay::Application => Way::Device,
        };
        let evidence = Evidence {
            agreed_at: request.consent.at.unwrap_or(now),
            way,
            token: String::new(),
            campaign: None,
            uplink_counter: Some(counter.value()),
            reference: String::new(),
        };
        let catalogue = self.core.catalogue();
        let to = catalogue.operator_by_code(card.record.tenant, request.operator.as_str());
        let begun = match to {
            Some(to) => {
                let changes = self.of_card(card.record.id).await?;
                self.begin(card, &changes, to.id, evidence, vec![raise.clone()]).await
            }
            None => Err(Refusal::UnknownOperator.into()),
        };
        let refused = match begun {
            Ok(_) => return Ok(()),
            Err(RequestRefused::Store(error)) => return Err(error),
            Err(refused) => refused,
        };
        tracing::info!(reason = %refused, "a card's request for another operator is refused");
        // Used, whatever came of it: raising it twice changes nothing.
        self.show(card, refused.text(), vec![raise]).await
    }

    /// A card says by itself where a change stands.
    async fn told_by_card(&self, notice: card_says::Notice, raise: Op) -> Result<(), StoreError> {
        let Some(kept) = self.find(notice.change).await? else {
            self.core.commit_card(&notice.card, vec![raise]).await?;
            return Ok(());
        };
        if kept.change.card != notice.card {
            self.core.commit_card(&notice.card, vec![raise]).await?;
            return Ok(());
        }
        let says = CardSays::of_state(notice.state, kept.change.terms.guard_s.is_some());
        self.handle_beside((notice.card, notice.change), Event::Report(says), vec![raise], None).await?;
        Ok(())
    }

    async fn proven_by_card(&self, card: &Card, proof: Proof, ops: Vec<Op>) -> Result<(), StoreError> {
        let Origin::Change(id) = proof.origin else {
            self.core.commit_card(&card.record.id, ops).await?;
            return Ok(());
        };
        let Some(row) = self.core.store.case_of(card.record.id, CaseKind::Change, id.0).await? else {
            self.core.commit_card(&card.record.id, ops).await?;
            return Ok(());
        };
        let change = super::read(&row)?;
        let kind = if proof.has_data { PacketKind::Fence } else { PacketKind::Personalization };
        let second = self.digest_of_second(&change, card, &row.sealed);
        let says = CardSays::of_proof(&change, kind, proof.status, &proof.data, second);
        let counter = proof.key.counter;
        self.handle_beside((card.record.id, id), Event::Proof { kind, counter, says }, ops, None).await?;
        Ok(())
    }

    pub(super) fn digest_of_second(
        &self,
        change: &Change,
        card: &Card,
        sealed: &[u8],
    ) -> Option<[u8; card_says::DIGEST_BYTES]> {
        if sealed.is_empty() {
            return None;
        }
        let plain = self.core.keyring.open_change(change.id, &card.record, sealed).ok()?;
        Some(Carried::from_plain(&plain).ok()?.identity.digest())
    }
}

fn side(operator: &Operator) -> Side {
    let known = operator.settings.as_deref();
    Side {
        operator: operator.id.0,
        id_mno: known.map(|known| known.id_mno.clone()).unwrap_or_default(),
        name: known.map_or_else(|| operator.name.clone(), |known| known.display_name.clone()),
    }
}

impl Follower for Changes {
    fn proven<'a>(&'a self, card: &'a Card, proof: Proof, ops: Vec<Op>) -> Answer<'a, ()> {
        Box::pin(self.proven_by_card(card, proof, ops))
    }

    fn lost(&self, key: PacketKey, origin: Origin) -> Answer<'_, ()> {
        Box::pin(async move {
            let Origin::Change(id) = origin else { return Ok(()) };
            let Some(packet) = self.core.store.packet(key).await? else { return Ok(()) };
            let is_fence = !packet.data.is_empty();
            let kind = if is_fence { PacketKind::Fence } else { PacketKind::Personalization };
            self.handle((key.card, id), Event::Lost { kind, counter: key.counter }).await?;
            Ok(())
        })
    }
}

impl Requests for Changes {
    fn said<'a>(&'a self, card: &'a Card, uplink: Uplink, counter: Counter, raise: Op) -> Answer<'a, ()> {
        Box::pin(async move {
            match uplink {
                Uplink::Request(request) => self.asked_by_card(card, request, counter, raise).await,
                Uplink::Notice(notice) => self.told_by_card(notice, raise).await,
            }
        })
    }
}
