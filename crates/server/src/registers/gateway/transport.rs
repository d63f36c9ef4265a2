//! The transport key: what protects keys between platform and register gateway, inside their TLS session.
//!
//! AES-256-GCM with a random nonce. What is authenticated with the keys: the direction, the change (or card) that they
//! are for, and the identity. A record that is copied to another change, another identity or the way back opens
//! nowhere.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use simtide_protocol::ids::Imsi;
use zeroize::Zeroizing;

use super::super::RegisterError;
use crate::store::OperatorId;
use crate::vault::{Role, Vault, VaultError};

/// Bytes of a transport key.
pub const TRANSPORT_KEY_BYTES: usize = 32;
/// Longest record, in bytes: five vectors and the frame around them.
const RECORD_BYTES_MAX: usize = 1_024;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const DOMAIN: &[u8] = b"simtide transport 1";

/// Which way a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the platform to the register.
    ToRegister,
    /// From the register to the platform.
    ToPlatform,
}

/// What a record is for: it opens nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// Which way.
    pub direction: Direction,
    /// The bytes of the change, of the card, or of the request that it belongs to.
    pub key: &'a [u8],
    /// The identity.
    pub imsi: Imsi,
}

/// A transport key. No `Debug`, no `Clone`; the cipher wipes itself.
pub struct TransportKey(Aes256Gcm);

impl TransportKey {
    /// From 32 bytes.
    pub fn new(key: &[u8; TRANSPORT_KEY_BYTES]) -> TransportKey {
        TransportKey(Aes256Gcm::new(key.into()))
    }

    /// From 64 hex digits, as they stand in a key file.
    ///
    /// # Errors
    /// [`RegisterError::Refused`] for anything else; the message does not show it.
    pub fn read(text: &str) -> Result<TransportKey, RegisterError> {
        let mut key = Zeroizing::new([0; TRANSPORT_KEY_BYTES]);
        let wrong = "a transport key is 64 hex digits: make one with `openssl rand -hex 32`".to_owned();
        hex::decode_to_slice(text.trim(), &mut key[..]).map_err(|_| RegisterError::Refused(wrong))?;
        if key.iter().all(|byte| *byte == key[0]) {
            return Err(RegisterError::Refused("a transport key of equal bytes is none".to_owned()));
        }
        Ok(TransportKey::new(&key))
    }

    /// Seals a record, as hex.
    ///
    /// # Errors
    /// [`RegisterError::Refused`] where the system gives no random numbers, or the record is too long.
    pub fn seal(&self, purpose: Purpose<'_>, plain: &[u8]) -> Result<String, RegisterError> {
        let failed = || RegisterError::Refused("a record cannot be sealed".to_owned());
        if plain.len() + NONCE_BYTES + TAG_BYTES > RECORD_BYTES_MAX {
            return Err(failed());
        }
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| failed())?;
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self
            .0
            .encrypt_inout_detached(&Nonce::from(nonce), &associated(purpose), body.as_mut_slice().into())
            .map_err(|_| failed())?;
        Ok(hex::encode([&nonce[..], &body, &tag].concat()))
    }

    /// Opens a record.
    ///
    /// # Errors
    /// [`RegisterError::Invalid`] where it was not sealed with this key for this purpose.
    pub fn open(&self, purpose: Purpose<'_>, sealed: &str) -> Result<Zeroizing<Vec<u8>>, RegisterError> {
        let invalid = || {
            let why = "keys that the transport key does not open: both sides must have the same one";
            RegisterError::Invalid(why.to_owned())
        };
        if sealed.len() > 2 * RECORD_BYTES_MAX {
            return Err(invalid());
        }
        let bytes = hex::decode(sealed).map_err(|_| invalid())?;
        let (nonce, rest) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or_else(invalid)?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or_else(invalid)?;
        let mut plain = Zeroizing::new(body.to_vec());
        let (nonce, tag) = (Nonce::from(*nonce), Tag::from(*tag));
        self.0
            .decrypt_inout_detached(&nonce, &associated(purpose), plain.as_mut_slice().into(), &tag)
            .map_err(|_| invalid())?;
        Ok(plain)
    }
}

/// Seals the transport key of an operator for the platform's store, as hex; `text` is 64 hex digits.
///
/// # Errors
/// [`RegisterError::Refused`] where the key is none or the vault fails.
pub fn seal_at_rest(vault: &Vault, operator: OperatorId, text: &str) -> Result<String, RegisterError> {
    TransportKey::read(text)?;
    let sealed = vault.seal_at(&place(operator), Role::Subscription, text.trim().as_bytes());
    sealed.map(hex::encode).map_err(vault_failed)
}

/// Opens the transport key of an operator.
///
/// # Errors
/// [`RegisterError::Refused`] where the record is damaged or another operator's.
pub fn open_at_rest(
    vault: &Vault,
    operator: OperatorId,
    sealed: &str,
) -> Result<TransportKey, RegisterError> {
    let damaged =
        || RegisterError::Refused("the operator's transport key is damaged: set it again".to_owned());
    let sealed = hex::decode(sealed).map_err(|_| damaged())?;
    let text = vault.unseal_at(&place(operator), Role::Subscription, &sealed).map_err(vault_failed)?;
    TransportKey::read(std::str::from_utf8(&text).map_err(|_| damaged())?)
}

fn place(operator: OperatorId) -> Vec<u8> {
    format!("transport key {}", operator.0).into_bytes()
}

fn vault_failed(error: VaultError) -> RegisterError {
    RegisterError::Refused(error.to_string())
}

/// domain | direction | length of key | key | digits of the identity.
fn associated(purpose: Purpose<'_>) -> Vec<u8> {
    let direction = match purpose.direction {
        Direction::ToRegister => 1,
        Direction::ToPlatform => 2,
    };
    // Changes have 8 bytes, cards at most 16.
    let length = purpose.key.len() as u8;
    [DOMAIN, &[direction, length], purpose.key, purpose.imsi.to_string().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_in_its_place_only() {
        let key = TransportKey::new(&[7; 32]);
        let imsi: Imsi = "001020000000001".parse().unwrap();
        let purpose = Purpose { direction: Direction::ToPlatform, key: &[1; 8], imsi };
        let sealed = key.seal(purpose, b"secret").unwrap();
        assert_eq!(*key.open(purpose, &sealed).unwrap(), b"secret");
        for other in [
            Purpose { direction: Direction::ToRegister, ..purpose },
            Purpose { key: &[2; 8], ..purpose },
            Purpose { key: &[1; 10], ..purpose },
            Purpose { imsi: "001020000000002".parse().unwrap(), ..purpose },
        ] {
            assert!(key.open(other, &sealed).is_err());
        }
        assert!(TransportKey::new(&[8; 32]).open(purpose, &sealed).is_err());
        for wrong in ["", "00", "zz", &sealed[..sealed.len() - 2], &"00".repeat(2_000)] {
            assert!(key.open(purpose, wrong).is_err());
        }
        assert_ne!(sealed, key.seal(purpose, b"secret").unwrap(), "another nonce");
    }

    #[test]
    fn at_rest_it_is_one_operator_s() {
        let directory = tempfile::tempdir().unwrap();
        let file = crate::vault::KeyFile::open_or_make(&directory.path().join("key")).unwrap();
        let settings = crate::vault::VaultSettings {
            keystore: directory.path().join("keystore"),
            limits: crate::vault::AlarmLimits::default(),
        };
        let vault = Vault::open(&file, &settings).unwrap();
        let text = format!("{}01\n", "ab".repeat(31));
        let sealed = seal_at_rest(&vault, OperatorId(2), &text).unwrap();
        assert!(!sealed.contains("abab"));
        assert!(open_at_rest(&vault, OperatorId(2), &sealed).is_ok());
        assert!(open_at_rest(&vault, OperatorId(3), &sealed).is_err());
        for wrong in ["", "00", &"00".repeat(32), &"zz".repeat(32)] {
            assert!(seal_at_rest(&vault, OperatorId(2), wrong).is_err());
        }
    }
}
