//! What every loop of the platform shares: store and leases, the small rows, the clock, and how it ends.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use simtide_platform::card::{CardView, Tags};
use simtide_platform::subscription::{AgreementTerms, OperatorSettings};
use simtide_protocol::ids::{Bucket, CardId, Eid, EpochMs};
use simtide_protocol::profile::{Profile, STANDARD_TEXT};
use tokio::sync::watch;

use super::delivery::operator_keys::OperatorKeys;
use super::keyring::{Keyring, NOBODY};
use crate::clock::Clock;
use crate::config::Config;
use crate::import::Committer;
use crate::store::{
    Answer, Batch, Candidate, Card, Committed, Directory, DirectoryRow, Group, Lease, Op, OperatorId,
    Outcome, ProfileId, Store, StoreError, TenantId,
};

/// What every loop shares.
pub struct Core {
    /// The configuration.
    pub config: Config,
    /// Campaign time.
    pub clock: Clock,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The keys.
    pub keyring: Box<dyn Keyring>,
    /// Keys that stay with their operator.
    pub operator_keys: Option<OperatorKeys>,
    leases: Leases,
    /// The id of no card.
    stranger: Eid,
    catalogue: RwLock<Arc<Catalogue>>,
    fatal: watch::Sender<Option<String>>,
}

/// What a platform begins with: one tenant with one operator, and the standard profile.
fn first_rows() -> Vec<Op> {
    let (tenant, operator) = (TenantId(1), OperatorId(1));
    [
        DirectoryRow::Tenant { id: tenant, name: "default".to_owned() },
        DirectoryRow::Operator { id: operator, tenant, name: "home".to_owned(), settings: String::new() },
        DirectoryRow::Profile {
            id: ProfileId(1),
            name: Profile::standard().name.as_str().to_owned(),
            text: STANDARD_TEXT.to_owned(),
        },
    ]
    .map(Op::PutDirectory)
    .to_vec()
}

/// The leases of this process.
struct Leases {
    platform: Lease,
    cards: Vec<Lease>,
}

impl Core {
    /// Takes every group over and reads the small rows.
    pub async fn open(
        config: Config,
        store: Arc<dyn Store>,
        keyring: Box<dyn Keyring>,
        owner: &str,
    ) -> Result<Core, StoreError> {
        let platform = store.acquire(Group::Platform, owner).await?;
        let mut cards = Vec::new();
        for group in 0..store.groups() {
            cards.push(store.acquire(Group::Cards(group), owner).await?);
        }
        let mut directory = store.directory().await?;
        if directory.rows.is_empty() {
            store.commit(platform, Batch { ops: first_rows() }).await?;
            directory = store.directory().await?;
        }
        let catalogue = Catalogue::new(&directory);
        // A server that cannot be asked is told with every packet; the platform runs without it.
        let operator_keys = OperatorKeys::new(&config.sealing)
            .inspect_err(|error| tracing::error!(%error, "packets of an operator's cards cannot be sealed"))
            .unwrap_or_default();
        Ok(Core {
            operator_keys,
            clock: config.clock(),
            config,
            store,
            keyring,
            leases: Leases { platform, cards },
            stranger: Eid::with_check_digits(NOBODY).map_err(|_| StoreError::Misuse("id of nobody"))?,
            catalogue: RwLock::new(Arc::new(catalogue)),
            fatal: watch::channel(None).0,
        })
    }

    /// The server that keeps a card's OTA keys, where the platform does not.
    pub fn keys_elsewhere(&self, card: &Card) -> Option<&OperatorKeys> {
        let keys = self.operator_keys.as_ref()?;
        keys.keep(self.catalogue().operator_name(card.hot.operator)).then_some(keys)
    }

    /// Campaign time now.
    pub fn now(&self) -> EpochMs {
        self.clock.now()
    }

    /// Bucket of a card.
    pub fn bucket(&self, card: &CardId) -> Bucket {
        Bucket::of(card, self.store.buckets())
    }

    /// Group of a bucket.
    pub fn group(&self, bucket: Bucket) -> Group {
        Group::Cards(bucket.0 % self.store.groups())
    }

    /// Commits operations on rows of one card.
    pub async fn commit_card(&self, card: &CardId, ops: Vec<Op>) -> Result<Committed, StoreError> {
        self.commit(self.group(self.bucket(card)), ops).await
    }

    /// Commits operations of one group. A store that fails or a lease that is lost ends the platform: what is not
    /// durable must not be acted on.
    pub async fn commit(&self, group: Group, ops: Vec<Op>) -> Result<Committed, StoreError> {
        let lease = match group {
            Group::Platform => self.leases.platform,
            // Groups of the store are those that were acquired.
            Group::Cards(group) => {
                *self.leases.cards.get(usize::from(group)).ok_or(StoreError::Misuse("unknown group"))?
            }
        };
        let committed = self.store.commit(lease, Batch { ops }).await;
        if let Err(error @ (StoreError::Failed(_) | StoreError::Fenced { .. })) = &committed {
            self.end(error.to_string());
        }
        committed
    }

    /// The id of no card.
    pub fn stranger(&self) -> Eid {
        self.stranger
    }

    /// Profiles, tags, operators and tenants.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        self.catalogue.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the small rows again, after an import or a change of profiles.
    pub async fn refresh_catalogue(&self) -> Result<(), StoreError> {
        let catalogue = Arc::new(Catalogue::new(&self.store.directory().await?));
        *self.catalogue.write().unwrap_or_else(PoisonError::into_inner) = catalogue;
        Ok(())
    }

    /// Ends the platform for a reason that nobody here can repair.
    pub fn end(&self, reason: String) {
        self.fatal.send_if_modified(|known| match known {
            Some(_) => false,
            None => {
                tracing::error!(reason, "the platform ends");
                *known = Some(reason);
                true
            }
        });
    }

    /// Waits for [`Core::end`].
    pub async fn ended(&self) -> String {
        let mut fatal = self.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender lives as long as self.
            Err(_) => String::new(),
        }
    }
}

impl Committer for Core {
    fn commit(&self, group: Group, ops: Vec<Op>) -> Answer<'_, Vec<Outcome>> {
        Box::pin(async move { Ok(Core::commit(self, group, ops).await?.outcomes) })
    }
}

/// An operator: its row and what is known of it.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Key.
    pub id: OperatorId,
    /// Whose operator list it is in.
    pub tenant: TenantId,
    /// Unique name.
    pub name: String,
    /// What a change of operator needs; `None`: it takes no part in any.
    pub settings: Option<Arc<OperatorSettings>>,
}

/// JSON of a row; `None` where there is none, or it cannot be read, which is logged.
fn read_json<T: serde::de::DeserializeOwned>(text: &str, name: &str) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    serde_json::from_str(text)
        .inspect_err(|error| tracing::error!(name, %error, "stored settings are not readable"))
        .ok()
}

/// The small rows, by key and by name.
#[derive(Debug, Default)]
pub struct Catalogue {
    profiles: HashMap<ProfileId, Arc<Profile>>,
    tags: HashMap<TenantId, Vec<String>>,
    operators: Vec<Operator>,
    agreements: HashMap<(OperatorId, OperatorId), AgreementTerms>,
    device_kinds: HashMap<u8, String>,
}

impl Catalogue {
    fn new(directory: &Directory) -> Catalogue {
        let mut catalogue = Catalogue::default();
        for row in &directory.rows {
            match row {
                DirectoryRow::Profile { id, name, text } => match Profile::parse(text) {
                    Ok(profile) => {
                        catalogue.profiles.insert(*id, Arc::new(profile));
                    }
                    Err(error) => {
                        tracing::error!(profile = name, %error, "a stored card profile is not readable")
                    }
                },
                DirectoryRow::Tag { tenant, bit, name } => {
                    let names = catalogue.tags.entry(*tenant).or_default();
                    let bit = usize::from(*bit);
                    if names.len() <= bit {
                        names.resize(bit + 1, String::new());
                    }
                    names[bit].clone_from(name);
                }
                DirectoryRow::Operator { id, tenant, name, settings } => {
                    let settings = read_json(settings, name).map(Arc::new);
                    catalogue.operators.push(Operator {
                        id: *id,
                        tenant: *tenant,
                        name: name.clone(),
                        settings,
                    });
                }
                DirectoryRow::DeviceKind { code, name } => {
                    catalogue.device_kinds.insert(*code, name.clone());
                }
                DirectoryRow::Agreement { from, to, terms } => {
                    if let Some(terms) = read_json(terms, "an agreement") {
                        catalogue.agreements.insert((*from, *to), terms);
                    }
                }
                DirectoryRow::Tenant { .. } => {}
            }
        }
        catalogue
    }

    /// A profile.
    pub fn profile(&self, id: ProfileId) -> Option<&Arc<Profile>> {
        self.profiles.get(&id)
    }

    /// All profiles.
    pub fn profiles(&self) -> impl Iterator<Item = (ProfileId, &Arc<Profile>)> {
        self.profiles.iter().map(|(id, profile)| (*id, profile))
    }

    /// Name of a profile, empty for an unknown one.
    pub fn profile_name(&self, id: ProfileId) -> &str {
        self.profiles.get(&id).map_or("", |profile| profile.name.as_str())
    }

    /// Names of a tenant's tags, by bit.
    pub fn tags(&self, tenant: TenantId) -> &[String] {
        self.tags.get(&tenant).map_or(&[], Vec::as_slice)
    }

    /// The operators of a tenant.
    pub fn operators(&self, tenant: TenantId) -> impl Iterator<Item = (OperatorId, &str)> {
        self.all_operators().filter(move |one| one.tenant == tenant).map(|one| (one.id, one.name.as_str()))
    }

    /// All operators.
    pub fn all_operators(&self) -> impl Iterator<Item = &Operator> {
        self.operators.iter()
    }

    /// An operator.
    pub fn operator(&self, id: OperatorId) -> Option<&Operator> {
        self.operators.iter().find(|one| one.id == id)
    }

    /// An operator of a tenant by its name.
    pub fn operator_named(&self, tenant: TenantId, name: &str) -> Option<&Operator> {
        self.operators.iter().find(|one| one.tenant == tenant && one.name == name)
    }

    /// An operator of a tenant by the code that users enter.
    pub fn operator_by_code(&self, tenant: TenantId, id_mno: &str) -> Option<&Operator> {
        self.operators.iter().find(|one| {
            one.tenant == tenant
                && one.settings.as_ref().is_some_and(|known| known.id_mno.eq_ignore_ascii_case(id_mno))
        })
    }

    /// An operator of a tenant by its name, or else by its code.
    pub fn operator_called(&self, tenant: TenantId, text: &str) -> Option<&Operator> {
        self.operator_named(tenant, text).or_else(|| self.operator_by_code(tenant, text))
    }

    /// What two operators have agreed on.
    pub fn agreement(&self, from: OperatorId, to: OperatorId) -> Option<&AgreementTerms> {
        self.agreements.get(&(from, to))
    }

    /// All agreements.
    pub fn agreements(&self) -> impl Iterator<Item = (OperatorId, OperatorId, &AgreementTerms)> {
        self.agreements.iter().map(|((from, to), terms)| (*from, *to, terms))
    }

    /// Name of an operator, empty for an unknown one.
    pub fn operator_name(&self, id: OperatorId) -> &str {
        self.operator(id).map_or("", |one| one.name.as_str())
    }

    /// Name of a device kind by its code in rows, empty for an unknown one.
    pub fn device_kind(&self, code: u8) -> &str {
        self.device_kinds.get(&code).map_or("", String::as_str)
    }

    /// What filters and offers see of a card, its numbers too.
    pub fn view_of<'a>(&'a self, card: &Card) -> CardView<'a> {
        let candidate = Candidate { card: card.record.id, hot: card.hot };
        let view = self.view(card.record.tenant, &candidate);
        CardView { iccid: card.record.iccid.or(view.iccid), imsi: card.record.imsi, ..view }
    }

    /// What filters and offers see of a candidate.
    pub fn view<'a>(&'a self, tenant: TenantId, candidate: &Candidate) -> CardView<'a> {
        let hot = &candidate.hot;
        CardView {
            id: candidate.card,
            operator: hot.operator.0,
            profile: self.profile_name(hot.profile),
            kind: self.device_kind(hot.device_kind),
            tags: Tags { bits: hot.tags, names: self.tags(tenant) },
            iccid: candidate.card.iccid(),
            imsi: None,
            last_update: hot.last_update,
            next_poll: hot.next_poll,
            applied: hot.applied,
            state: hot.state,
        }
    }
}
