//! Effects of changes: what registers are asked, aliases.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use simtide_platform::subscription::{Change, Command, Event, Identity, Party, RegisterFault, SeenBy, Verb};
use simtide_protocol::ids::{CardId, Imsi, Msisdn};

use super::Changes;
use super::personalization::{Carried, PersonalizationError};
use crate::kill_point;
use crate::registers::{NewIdentity, RegisterError};
use crate::store::rules::Layout;
use crate::store::{Alias, Card, Op, OperatorId, Outcome, StoreError};

/// How long a register may take for an answer, in real time; afterwards nobody knows what it did.
const REGISTER_LIMIT: Duration = Duration::from_secs(30);

/// What could not be had from register 2.
enum Unusable {
    Register(RegisterError),
    Message(String),
    Store(StoreError),
}

impl From<PersonalizationError> for Unusable {
    fn from(error: PersonalizationError) -> Unusable {
        Unusable::Message(error.to_string())
    }
}

impl From<StoreError> for Unusable {
    fn from(error: StoreError) -> Unusable {
        Unusable::Store(error)
    }
}

/// Where a packet of a change goes that is not to go where its card is now: number and operator.
pub(super) fn destination(change: &Change, over: Option<Party>) -> Option<(Msisdn, OperatorId)> {
    let (number, side) = match over? {
        Party::First => (change.msisdn, &change.from),
        Party::Second => (change.identity.and_then(|identity| identity.msisdn), &change.to),
    };
    Some((number?, OperatorId(side.operator)))
}

impl Changes {
    /// Carries out one command that is no operation of the commit; what comes of it is an event.
    pub(super) fn effect(
        self: Arc<Self>,
        change: Change,
        command: Command,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { self.carry_out_one(change, command).await })
    }

    async fn carry_out_one(&self, change: Change, command: Command) {
        // The semaphore lives as long as self.
        let _permit = self.effects.acquire().await;
        kill_point::reached("change.effect.before");
        let event = match command {
            Command::Reserve => {
                self.reserve(&change).await;
                None
            }
            Command::Arm(imsi) => Some(self.ask(&change, Verb::Arm, imsi).await),
            Command::Withdraw(imsi) => Some(self.ask(&change, Verb::Withdraw, imsi).await),
            Command::Retire(imsi) => Some(self.ask(&change, Verb::Retire, imsi).await),
            Command::Release(imsi) => Some(self.ask(&change, Verb::Release, imsi).await),
            Command::Watch(imsi) => self.watch(&change, imsi).await,
            Command::AskConsent => {
                self.ask_consent(&change).await;
                None
            }
            Command::InformOperator1(notice) => {
                self.inform(&change, notice).await.then_some(Event::Acknowledged(notice))
            }
            Command::ForgetAliases { imsi, msisdn } => {
                if let Err(error) = self.forget(change.card, imsi, msisdn).await {
                    tracing::error!(%error, "the aliases of an old identity stay taken");
                }
                None
            }
            // Operations of the commit, and what carry_out does itself.
            Command::SendPersonalization { .. }
            | Command::Fence { .. }
            | Command::Adopt(_)
            | Command::Tell(_)
            | Command::Alarm(_) => None,
        };
        kill_point::reached("change.effect.after");
        if let Some(event) = event {
            self.came((change.card, change.id), event).await;
        }
    }

    async fn ask(&self, change: &Change, verb: Verb, imsi: Imsi) -> Event {
        let side = match verb {
            Verb::Withdraw | Verb::Retire => &change.from,
            Verb::Reserve | Verb::Arm | Verb::Release => &change.to,
        };
        let Some(register) = self.registers.of(OperatorId(side.operator)) else {
            let catalogue = self.core.catalogue();
            let known = catalogue.operator(OperatorId(side.operator)).and_then(|one| one.settings.as_ref());
            let none_is_set = known.is_some_and(|settings| settings.register.is_none());
            return match verb {
                // It has no connector: it is told, and does it by itself.
                Verb::Withdraw | Verb::Retire if none_is_set => Event::Did { verb, imsi },
                _ => Event::DidNot { verb, fault: RegisterFault::Unreachable },
            };
        };
        let asked = async {
            match verb {
                Verb::Arm => register.arm(change.id, imsi).await,
                Verb::Withdraw => register.withdraw(change.id, imsi).await,
                Verb::Retire => register.retire(change.id, imsi).await,
                Verb::Release => register.release(change.id, imsi).await,
                Verb::Reserve => Ok(()),
            }
        };
        match within_limit(asked).await {
            Ok(()) => Event::Did { verb, imsi },
            Err(error) => {
                tracing::warn!(change = %change.id, register = register.name(), ?verb, %error, "a register has not done it");
                Event::DidNot { verb, fault: fault(&error) }
            }
        }
    }

    async fn watch(&self, change: &Change, imsi: Imsi) -> Option<Event> {
        let register = self.registers.of(OperatorId(change.to.operator))?;
        let by = SeenBy::Register;
        match within_limit(register.watch(imsi)).await {
            Ok(seen) => Some(Event::Seen { imsi, known: seen.known, attached: seen.attached, by }),
            Err(RegisterError::NotFound) => Some(Event::Seen { imsi, known: false, attached: false, by }),
            Err(error) => {
                tracing::info!(change = %change.id, register = register.name(), %error, "a register was not watched");
                None
            }
        }
    }

    /// Asks register 2 for an identity and takes the answer in, with the message sealed beside it.
    async fn reserve(&self, change: &Change) {
        let verb = Verb::Reserve;
        let (event, sealed) = match self.reserved(change).await {
            Ok((event, sealed)) => (event, sealed),
            Err(Unusable::Register(error)) => {
                tracing::warn!(change = %change.id, %error, "register 2 has given no identity");
                (Event::DidNot { verb, fault: fault(&error) }, None)
            }
            Err(Unusable::Message(error)) => {
                tracing::error!(change = %change.id, error, "no personalization message can be made");
                (Event::DidNot { verb, fault: RegisterFault::Invalid }, None)
            }
            Err(Unusable::Store(error)) => {
                tracing::error!(%error, "an identity was not taken in; it is asked for again");
                return;
            }
        };
        if let Err(error) = self.handle_beside((change.card, change.id), event, Vec::new(), sealed).await {
            tracing::error!(%error, "an identity was not stored; it is asked for again");
        }
    }

    async fn reserved(&self, change: &Change) -> Result<(Event, Option<Vec<u8>>), Unusable> {
        let to = OperatorId(change.to.operator);
        let unreachable = |what: &str| Unusable::Register(RegisterError::Unreachable(what.to_owned()));
        let register = self.registers.of(to).ok_or_else(|| unreachable("the operator has no register"))?;
        let answer = within_limit(register.reserve(change.id, change.card)).await;
        let given = answer.map_err(Unusable::Register)?;
        given.check(change.id).map_err(Unusable::Register)?;
        let catalogue = self.core.catalogue();
        let settings = catalogue.operator(to).and_then(|operator| operator.settings.clone());
        let settings = settings.ok_or_else(|| unreachable("the operator has no settings"))?;
        let owned = settings.owns(given.imsi);
        let identity = Identity { imsi: given.imsi, msisdn: given.msisdn };
        let event =
            |taken_by| Event::Reserved { change: given.change, card: None, identity, owned, taken_by };
        if !owned {
            return Ok((event(None), None));
        }
        if let Some(by) = self.claim(change, identity).await? {
            return Ok((event(Some(by)), None));
        }
        let sealed = self.sealed(change, &given, &settings).await?;
        Ok((event(None), Some(sealed)))
    }

    async fn sealed(
        &self,
        change: &Change,
        given: &NewIdentity,
        settings: &simtide_platform::subscription::OperatorSettings,
    ) -> Result<Vec<u8>, Unusable> {
        let message = |what: &str| Unusable::Message(what.to_owned());
        let card = self.core.store.card(change.card).await?.ok_or_else(|| message("the card is gone"))?;
        let catalogue = self.core.catalogue();
        let profile = catalogue.profile(card.hot.profile).ok_or_else(|| message("the profile is gone"))?;
        let keyring = &self.core.keyring;
        let code = keyring.admin_code(&card.record).map_err(|error| Unusable::Message(error.to_string()))?;
        let code = code.ok_or_else(|| message("the card's admin code is not known"))?;
        let protection = profile.personalization.protection;
        let number = settings.service_number.or_else(|| self.core.config.smpp.international_source());
        let plain = Carried::new(change, given, settings, number, protection, &code)?.to_plain()?;
        let sealed = keyring.seal_change(change.id, &card.record, &plain);
        sealed.map_err(|error| Unusable::Message(error.to_string()))
    }

    /// Takes IMSI and number for the card; answers another card that has one of them.
    async fn claim(&self, change: &Change, identity: Identity) -> Result<Option<CardId>, StoreError> {
        let number = identity.msisdn.map(Alias::Msisdn);
        for alias in std::iter::once(Alias::Imsi(identity.imsi)).chain(number) {
            if let Some(other) = self.claim_alias(change.card, alias, None).await? {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    async fn claim_alias(
        &self,
        card: CardId,
        alias: Alias,
        from: Option<CardId>,
    ) -> Result<Option<CardId>, StoreError> {
        let layout = Layout::new(self.core.store.buckets(), self.core.store.groups())?;
        let group = layout.alias_group(&alias);
        let op = Op::ClaimAlias { alias: alias.clone(), card, from };
        let outcomes = self.core.commit(group, vec![op]).await?.outcomes;
        let Some(Outcome::Taken(other)) = outcomes.first() else { return Ok(None) };
        if from.is_none() && !self.has(*other, &alias).await? {
            // Left behind by a process that ended between two commits.
            return Box::pin(self.claim_alias(card, alias, Some(*other))).await;
        }
        Ok(Some(*other))
    }

    /// Whether a card has an identity or number, or is about to get it.
    async fn has(&self, card: CardId, alias: &Alias) -> Result<bool, StoreError> {
        let Some(row) = self.core.store.card(card).await? else { return Ok(false) };
        let is_of = |imsi: Option<Imsi>, msisdn: Option<Msisdn>| match alias {
            Alias::Imsi(wanted) => imsi == Some(*wanted),
            Alias::Msisdn(wanted) => msisdn == Some(*wanted),
            _ => false,
        };
        if is_of(row.record.imsi, row.record.msisdn) {
            return Ok(true);
        }
        let open = self.open_of(card).await?;
        Ok(open.is_some_and(|change| {
            is_of(Some(change.imsi), change.msisdn)
                || change.identity.is_some_and(|identity| is_of(Some(identity.imsi), identity.msisdn))
        }))
    }

    /// Frees aliases that the card has no longer.
    async fn forget(&self, card: CardId, imsi: Imsi, msisdn: Option<Msisdn>) -> Result<(), StoreError> {
        let layout = Layout::new(self.core.store.buckets(), self.core.store.groups())?;
        let row: Option<Card> = self.core.store.card(card).await?;
        let record = row.map(|row| row.record);
        let kept = |alias: &Alias| match (alias, &record) {
            (Alias::Imsi(imsi), Some(record)) => record.imsi == Some(*imsi),
            (Alias::Msisdn(msisdn), Some(record)) => record.msisdn == Some(*msisdn),
            _ => false,
        };
        let aliases = std::iter::once(Alias::Imsi(imsi)).chain(msisdn.map(Alias::Msisdn));
        for alias in aliases.filter(|alias| !kept(alias)) {
            let group = layout.alias_group(&alias);
            self.core.commit(group, vec![Op::ReleaseAlias { alias, card }]).await?;
        }
        Ok(())
    }
}

async fn within_limit<T>(asked: impl Future<Output = Result<T, RegisterError>>) -> Result<T, RegisterError> {
    let late = || RegisterError::Unknown("it has not answered in time".to_owned());
    tokio::time::timeout(REGISTER_LIMIT, asked).await.unwrap_or_else(|_| Err(late()))
}

fn fault(error: &RegisterError) -> RegisterFault {
    match error {
        RegisterError::Unreachable(_) => RegisterFault::Unreachable,
        RegisterError::Unknown(_) => RegisterFault::Unknown,
        RegisterError::NotFound => RegisterFault::NotFound,
        RegisterError::Conflict(_) => RegisterFault::Conflict,
        RegisterError::Exhausted => RegisterFault::Exhausted,
        RegisterError::Refused(_) => RegisterFault::Refused,
        RegisterError::Invalid(_) => RegisterFault::Invalid,
    }
}
