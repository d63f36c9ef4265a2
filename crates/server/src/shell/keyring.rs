//! The boundary to the vault: what the shell needs of keys.

use simtide_protocol::ids::Eid;
use simtide_protocol::scp80::{KeySet, Kic, Kid};

use crate::card_port::Psk;
use crate::store::{CardRecord, SealedKeys, TenantId};
use crate::vault::{Role, Vault, VaultError};

/// Opens the sealed keys of cards.
pub trait Keyring: Send + Sync {
    /// The key of the card port; `None` where the card has none.
    fn psk(&self, card: &CardRecord) -> Result<Option<Psk>, KeyringError>;
    /// As much work as [`Keyring::psk`], for nobody.
    fn psk_of_nobody(&self);
    /// The OTA key sets.
    fn ota_keys(&self, card: &CardRecord) -> Result<Vec<CardKeySet>, KeyringError>;
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
}
