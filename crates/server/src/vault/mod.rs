//! The vault: keys of cards, sealed at rest and opened one by one.
//!
//! A key-encryption key (a file, later a token) opens a few data keys at start. Each card has one sealed record per
//! role: AES-256-GCM under a data key, bound to tenant, card, role and version, so that no record can stand in for
//! another. Plain keys exist only inside types that wipe themselves and have no `Debug`.
//!
//! Architecture Invariant: nothing outside this module sees a data key, and the store sees sealed records only.

mod encryption;
mod keys;
mod keystore;
mod meter;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use simtide_protocol::card_file::Secret;
use simtide_protocol::ids::CardId;
use zeroize::Zeroizing;

use crate::store::{CardRecord, FINGERPRINT_BYTES, TenantId};

pub use encryption::{KeyEncryption, KeyFile};
pub use keys::{OtaKeySet, OtaKeys, Subscription};
pub use keystore::KEYSTORE_KEYS_MAX;
pub use meter::{AlarmLimits, OpenCounts};

/// Bytes of a data key and of the key-encryption key.
pub const DATA_KEY_BYTES: usize = 32;
/// Bytes that sealing adds: nonce and tag.
pub const SEAL_BYTES: usize = NONCE_BYTES + TAG_BYTES;

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// What a sealed record is for. Opening one role never opens another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// OTA key sets.
    Ota,
    /// Pre-shared key of the card port.
    Psk,
    /// Ki and OPc.
    Subscription,
    /// Admin code.
    AdminCode,
    /// What an operator and the platform share: transport key, key of signatures.
    Operator,
}

impl Role {
    /// All roles, in the order of their codes.
    pub const ALL: [Role; 5] = [Role::Ota, Role::Psk, Role::Subscription, Role::AdminCode, Role::Operator];

    fn code(self) -> u8 {
        match self {
            Role::Ota => 1,
            Role::Psk => 2,
            Role::Subscription => 3,
            Role::AdminCode => 4,
            Role::Operator => 5,
        }
    }

    /// For logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Role::Ota => "ota",
            Role::Psk => "psk",
            Role::Subscription => "subscription",
            Role::AdminCode => "admin-code",
            Role::Operator => "operator",
        }
    }
}

/// Why the vault did not do it. Never contains a key.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A file of the vault cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A file of the vault is not what it should be.
    #[error("{path}: {reason}")]
    Content {
        /// Which.
        path: String,
        /// What is wrong and what to do.
        reason: &'static str,
    },
    /// The key-encryption key does not open the keystore.
    #[error(
        "{0} does not open the keystore: it is the key of another installation, or the keystore was changed"
    )]
    WrongKey(String),
    /// A data key no longer gives the known answer: everything it says is worthless.
    #[error("data key {0} fails its known answer: stop, and check token, memory and keystore")]
    Broken(u16),
    /// This record is damaged or belongs elsewhere, the data key is well: leave the card alone.
    #[error("sealed {role} record of the card is damaged: it is set aside; import the card's keys again", role = .0.name())]
    Quarantined(Role),
    /// The record was sealed under a data key that is not in the keystore.
    #[error("the keystore has no data key {0}: restore the keystore that belongs to this database")]
    UnknownVersion(u16),
    /// The random source failed.
    #[error("the operating system gives no random numbers")]
    Random,
}

/// Where the vault's files are.
#[derive(Debug, Clone)]
pub struct VaultSettings {
    /// Wrapped data keys; made at the first start, only ever readable by its owner.
    pub keystore: std::path::PathBuf,
    /// When many records are opened in a minute.
    pub limits: AlarmLimits,
}

/// The vault, shared by all who need keys.
pub struct Vault {
    data_keys: Vec<DataKey>,
    fingerprint_key: Zeroizing<[u8; DATA_KEY_BYTES]>,
    meter: meter::Meter,
}

struct DataKey {
    version: u16,
    cipher: Aes256Gcm,
    /// The known answer: an empty message sealed when the key was made.
    check: [u8; SEAL_BYTES],
}

impl Vault {
    /// Opens the keystore, or makes one with a new data key.
    pub fn open(encryption: &dyn KeyEncryption, settings: &VaultSettings) -> Result<Vault, VaultError> {
        let opened = keystore::open_or_make(encryption, &settings.keystore)?;
        let vault = Vault {
            data_keys: opened.data_keys,
            fingerprint_key: opened.fingerprint_key,
            meter: meter::Meter::new(settings.limits),
        };
        vault.check()?;
        Ok(vault)
    }

    /// Whether all data keys still give their known answers.
    pub fn check(&self) -> Result<(), VaultError> {
        self.data_keys
            .iter()
            .find(|key| !key.is_well())
            .map_or(Ok(()), |key| Err(VaultError::Broken(key.version)))
    }

    /// Version that new records are sealed under.
    pub fn version(&self) -> u16 {
        self.data_keys.iter().map(|key| key.version).max().unwrap_or(0)
    }

    /// How many records were opened, per role, and how often too many at once.
    pub fn counts(&self) -> OpenCounts {
        self.meter.counts()
    }

    /// Fingerprint of a key: the same key anywhere gives the same value, which says nothing about it.
    pub fn key_fingerprint(&self, key: &Secret) -> [u8; FINGERPRINT_BYTES] {
        self.fingerprint(0x01, key.as_bytes())
    }

    /// Fingerprint of an admin code.
    pub fn admin_code_fingerprint(&self, code: &Secret) -> [u8; FINGERPRINT_BYTES] {
        self.fingerprint(0x02, code.as_bytes())
    }

    fn fingerprint(&self, domain: u8, secret: &[u8]) -> [u8; FINGERPRINT_BYTES] {
        // Any length is a key of HMAC; the branch that is not taken would make all fingerprints the same.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.fingerprint_key[..]) else {
            return [0; FINGERPRINT_BYTES];
        };
        mac.update(&[domain]);
        mac.update(secret);
        let whole = mac.finalize().into_bytes();
        let mut short = [0; FINGERPRINT_BYTES];
        short.copy_from_slice(&whole[..FINGERPRINT_BYTES]);
        short
    }

    /// Seals one record under the latest data key.
    pub fn seal(
        &self,
        tenant: TenantId,
        card: &CardId,
        role: Role,
        plain: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        self.seal_under(self.version(), tenant, card, role, plain)
    }

    /// Seals one record under a data key that is not the latest: all records of a card have one version.
    pub fn seal_under(
        &self,
        version: u16,
        tenant: TenantId,
        card: &CardId,
        role: Role,
        plain: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        let key = self.data_key(version)?;
        key.seal(&associated_data(tenant, card, role, version), plain)
    }

    /// Opens one record. Counts it; many at once raise an alarm.
    pub fn unseal(
        &self,
        tenant: TenantId,
        card: &CardId,
        role: Role,
        version: u16,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.meter.opened(role);
        let key = self.data_key(version)?;
        match key.open(&associated_data(tenant, card, role, version), sealed) {
            Some(plain) => Ok(plain),
            // A broken token or damaged memory would set aside every record: ask for the known answer first.
            None if !key.is_well() => Err(VaultError::Broken(version)),
            None => {
                self.meter.damaged();
                tracing::error!(role = role.name(), "a sealed record is damaged and was set aside");
                Err(VaultError::Quarantined(role))
            }
        }
    }

    /// Seals a record that is no card's: `place` names where it belongs and is authenticated with it. The answer begins
    /// with the version of the data key.
    ///
    /// # Errors
    /// Where no data key works.
    pub fn seal_at(&self, place: &[u8], role: Role, plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let version = self.version();
        let body = self.data_key(version)?.seal(&associated_place(place, role, version), plain)?;
        Ok([&version.to_be_bytes()[..], &body].concat())
    }

    /// Opens a record of [`Vault::seal_at`]. Counts it; many at once raise an alarm.
    ///
    /// # Errors
    /// Where the record is damaged or belongs elsewhere, or its data key is missing or broken.
    pub fn unseal_at(
        &self,
        place: &[u8],
        role: Role,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.meter.opened(role);
        let Some((version, body)) = sealed.split_first_chunk::<2>() else {
            self.meter.damaged();
            return Err(VaultError::Quarantined(role));
        };
        let version = u16::from_be_bytes(*version);
        let key = self.data_key(version)?;
        match key.open(&associated_place(place, role, version), body) {
            Some(plain) => Ok(plain),
            None if !key.is_well() => Err(VaultError::Broken(version)),
            None => {
                self.meter.damaged();
                tracing::error!(role = role.name(), "a sealed record is damaged and was set aside");
                Err(VaultError::Quarantined(role))
            }
        }
    }

    fn unseal_of(&self, card: &CardRecord, role: Role) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let sealed = match role {
            Role::Ota => &card.sealed.ota,
            Role::Psk => &card.sealed.psk,
            Role::Subscription => &card.sealed.subscription,
            Role::AdminCode => &card.sealed.admin_code,
            // No card's.
            Role::Operator => return Ok(None),
        };
        if sealed.is_empty() {
            return Ok(None);
        }
        self.unseal(card.tenant, &card.id, role, card.sealed.version, sealed).map(Some)
    }

    fn data_key(&self, version: u16) -> Result<&DataKey, VaultError> {
        self.data_keys.iter().find(|key| key.version == version).ok_or(VaultError::UnknownVersion(version))
    }
}

impl DataKey {
    fn new(version: u16, key: &[u8; DATA_KEY_BYTES], check: [u8; SEAL_BYTES]) -> DataKey {
        DataKey { version, cipher: Aes256Gcm::new(key.into()), check }
    }

    fn is_well(&self) -> bool {
        self.open(&self.check_data(), &self.check).is_some()
    }

    fn check_data(&self) -> Vec<u8> {
        [&b"simtide known answer"[..], &self.version.to_be_bytes()].concat()
    }

    fn seal(&self, associated: &[u8], plain: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut sealed = Vec::with_capacity(plain.len() + SEAL_BYTES);
        sealed.resize(NONCE_BYTES, 0);
        getrandom::fill(&mut sealed).map_err(|_| VaultError::Random)?;
        sealed.extend_from_slice(plain);
        let (nonce, body) = sealed.split_at_mut(NONCE_BYTES);
        let nonce: [u8; NONCE_BYTES] = (&*nonce).try_into().map_err(|_| VaultError::Random)?;
        let tag = self
            .cipher
            .encrypt_inout_detached(&Nonce::from(nonce), associated, body.into())
            .map_err(|_| VaultError::Broken(self.version))?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// `None`: not sealed by this key for this place.
    fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
        let mut plain = Zeroizing::new(body.to_vec());
        let (nonce, tag) = (Nonce::from(*nonce), Tag::from(*tag));
        self.cipher.decrypt_inout_detached(&nonce, associated, plain.as_mut_slice().into(), &tag).ok()?;
        Some(plain)
    }
}

/// No card's record begins so: the length of a card id is never 255.
const PLACE_MARK: [u8; 5] = [0xFF; 5];

/// mark | role | version | place.
fn associated_place(place: &[u8], role: Role, version: u16) -> Vec<u8> {
    [&PLACE_MARK[..], &[role.code()], &version.to_be_bytes(), place].concat()
}

/// tenant | card id | role | version, the card id with its length.
fn associated_data(tenant: TenantId, card: &CardId, role: Role, version: u16) -> Vec<u8> {
    let id = card.as_bytes();
    let mut data = Vec::with_capacity(32);
    data.extend_from_slice(&tenant.0.to_be_bytes());
    // Card ids have at most 16 bytes.
    data.push(id.len() as u8);
    data.extend_from_slice(id);
    data.push(role.code());
    data.extend_from_slice(&version.to_be_bytes());
    data
}

#[cfg(test)]
mod tests;
