//! The boundary to the vault: what the shell needs of keys.

use simtide_protocol::card_file::Secret;
use simtide_protocol::ids::{ChangeId, DeliveryId, Eid};
use simtide_protocol::personalization::Identity;
use simtide_protocol::scp80::{KeySet, Kic, Kid};

use crate::card_port::Psk;
use crate::store::{CardRecord, OperatorId, SealedKeys, TenantId};
use crate::vault::{Role, Vault, VaultError};
use zeroize::Zeroizing;

/// Opens the sealed keys of cards.
pub trait Keyring: Send + Sync {
    /// The key of the card port; `None` where the card has none.
    fn psk(&self, card: &CardRecord) -> Result<Option<Psk>, KeyringError>;
    /// As much work as [`Keyring::psk`], for nobody.
    fn psk_of_nobody(&self);
    /// The OTA key sets.
    fn ota_keys(&self, card: &CardRecord) -> Result<Vec<CardKeySet>, KeyringError>;

    /// The admin code; `None` where the card has none.
    fn admin_code(&self, _card: &CardRecord) -> Result<Option<Secret>, KeyringError> {
        Ok(None)
    }

    /// Ki and OPc of the active subscription; `None` where they are not known.
    fn identity(&self, _card: &CardRecord) -> Result<Option<Identity>, KeyringError> {
        Ok(None)
    }

    /// Seals the keys of an identity that a card has now.
    fn seal_identity(&self, _card: &CardRecord, _identity: &Identity) -> Result<Vec<u8>, KeyringError> {
        Err(KeyringError::seals_nothing())
    }

    /// Seals what a change carries: identity and message.
    fn seal_change(
        &self,
        _change: ChangeId,
        _card: &CardRecord,
        _plain: &[u8],
    ) -> Result<Vec<u8>, KeyringError> {
        Err(KeyringError::seals_nothing())
    }

    /// Opens a record of [`Keyring::seal_change`].
    fn open_change(
        &self,
        _change: ChangeId,
        _card: &CardRecord,
        _sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        Err(KeyringError::seals_nothing())
    }

    /// Seals packets that wait for a card as they were handed in.
    fn seal_delivery(
        &self,
        _delivery: DeliveryId,
        _card: &CardRecord,
        _plain: &[u8],
    ) -> Result<Vec<u8>, KeyringError> {
        Err(KeyringError::seals_nothing())
    }

    /// Opens a record of [`Keyring::seal_delivery`].
    fn open_delivery(
        &self,
        _delivery: DeliveryId,
        _card: &CardRecord,
        _sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        Err(KeyringError::seals_nothing())
    }

    /// Seals what an operator and the platform share.
    fn seal_operator(&self, _place: OperatorSecret, _plain: &[u8]) -> Result<Vec<u8>, KeyringError> {
        Err(KeyringError::seals_nothing())
    }

    /// Opens a record of [`Keyring::seal_operator`].
    fn open_operator(
        &self,
        _place: OperatorSecret,
        _sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        Err(KeyringError::seals_nothing())
    }
}

/// What an operator and the platform share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorSecret {
    /// Key that signs what it is told.
    Callback(OperatorId),
}

impl OperatorSecret {
    fn place(self) -> Vec<u8> {
        let (what, operator) = match self {
            OperatorSecret::Callback(operator) => (&b"callback"[..], operator),
        };
        [b"operator ", what, &operator.0.to_be_bytes()].concat()
    }
}

/// One OTA key set of one card.
pub struct CardKeySet {
    /// Index, 1 to 15.
    pub index: u8,
    /// KIc as commands carry it.
    pub kic: Kic,
    /// KID as commands carry it.
    pub kid: Kid,
    /// The keys.
    pub keys: KeySet,
}

/// Why keys cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the keys of the card cannot be opened: {0}")]
pub struct KeyringError(pub String);

impl KeyringError {
    fn seals_nothing() -> KeyringError {
        KeyringError("this keyring seals nothing: use the vault".to_owned())
    }
}

impl From<VaultError> for KeyringError {
    fn from(error: VaultError) -> KeyringError {
        KeyringError(error.to_string())
    }
}

/// The vault as a keyring.
pub struct VaultKeyring {
    vault: std::sync::Arc<Vault>,
    /// A card that does not exist, with a sealed key.
    nobody: CardRecord,
}

/// The EID of no card: its issuer does not exist.
pub const NOBODY: &str = "000000000000000000000000000000";

impl VaultKeyring {
    /// Seals a key for nobody, so that lookups of strangers can open one too.
    pub fn new(vault: std::sync::Arc<Vault>) -> Result<VaultKeyring, KeyringError> {
        let eid = Eid::with_check_digits(NOBODY).map_err(|error| KeyringError(error.to_string()))?;
        let (tenant, id) = (TenantId(0), eid.into());
        let psk = vault.seal(tenant, &id, Role::Psk, &crate::card_port::random::<16>())?;
        let sealed = SealedKeys { version: vault.version(), psk, ..SealedKeys::default() };
        let nobody = CardRecord {
            id,
            tenant,
            iccid: None,
            eid: Some(eid),
            imsi: None,
            msisdn: None,
            psk_identity: Vec::new(),
            sealed,
        };
        Ok(VaultKeyring { vault, nobody })
    }
}

impl Keyring for VaultKeyring {
    fn psk(&self, card: &CardRecord) -> Result<Option<Psk>, KeyringError> {
        let psk = self.vault.psk(card)?;
        Ok(psk.map(|psk| Psk::new(psk.as_bytes().to_vec())))
    }

    fn psk_of_nobody(&self) {
        let _ = self.psk(&self.nobody);
    }

    fn ota_keys(&self, card: &CardRecord) -> Result<Vec<CardKeySet>, KeyringError> {
        let opened = self.vault.ota_keys(card)?;
        let set = |set: &crate::vault::OtaKeySet| CardKeySet {
            index: set.index,
            kic: set.kic,
            kid: set.kid,
            keys: set.key_set(),
        };
        Ok(opened.sets.iter().map(set).collect())
    }

    fn admin_code(&self, card: &CardRecord) -> Result<Option<Secret>, KeyringError> {
        Ok(self.vault.admin_code(card)?)
    }

    fn identity(&self, card: &CardRecord) -> Result<Option<Identity>, KeyringError> {
        let (Some(subscription), Some(imsi)) = (self.vault.subscription(card)?, card.imsi) else {
            return Ok(None);
        };
        let Some(opc) = subscription.opc else { return Ok(None) };
        Ok(Identity::new(imsi, subscription.algorithm, subscription.ki, opc).ok())
    }

    fn seal_identity(&self, card: &CardRecord, identity: &Identity) -> Result<Vec<u8>, KeyringError> {
        Ok(self.vault.seal_identity(card, identity)?)
    }

    fn seal_change(
        &self,
        change: ChangeId,
        card: &CardRecord,
        plain: &[u8],
    ) -> Result<Vec<u8>, KeyringError> {
        Ok(self.vault.seal_at(&change_place(change, card), Role::Subscription, plain)?)
    }

    fn open_change(
        &self,
        change: ChangeId,
        card: &CardRecord,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        Ok(self.vault.unseal_at(&change_place(change, card), Role::Subscription, sealed)?)
    }

    fn seal_delivery(
        &self,
        delivery: DeliveryId,
        card: &CardRecord,
        plain: &[u8],
    ) -> Result<Vec<u8>, KeyringError> {
        Ok(self.vault.seal_at(&delivery_place(delivery, card), Role::Ota, plain)?)
    }

    fn open_delivery(
        &self,
        delivery: DeliveryId,
        card: &CardRecord,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        Ok(self.vault.unseal_at(&delivery_place(delivery, card), Role::Ota, sealed)?)
    }

    fn seal_operator(&self, place: OperatorSecret, plain: &[u8]) -> Result<Vec<u8>, KeyringError> {
        Ok(self.vault.seal_at(&place.place(), Role::Operator, plain)?)
    }

    fn open_operator(
        &self,
        place: OperatorSecret,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        Ok(self.vault.unseal_at(&place.place(), Role::Operator, sealed)?)
    }
}

/// Where the record of a change belongs: to this change of this card.
fn change_place(change: ChangeId, card: &CardRecord) -> Vec<u8> {
    [b"change ", &card.tenant.0.to_be_bytes()[..], &change.to_bytes(), card.id.as_bytes()].concat()
}

/// Where the packets of a delivery belong: to this delivery to this card.
fn delivery_place(delivery: DeliveryId, card: &CardRecord) -> Vec<u8> {
    let tenant = card.tenant.0.to_be_bytes();
    [b"delivery ", &tenant[..], &delivery.0.to_be_bytes(), card.id.as_bytes()].concat()
}
