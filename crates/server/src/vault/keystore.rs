//! The keystore: a small JSON file with the wrapped data keys and their known answers.

use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::encryption::{KeyEncryption, write_private};
use super::{DATA_KEY_BYTES, DataKey, SEAL_BYTES, VaultError};

/// Data keys in a keystore at most.
pub const KEYSTORE_KEYS_MAX: usize = 256;
/// Largest keystore file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
const FORMAT: u16 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keystore {
    format: u16,
    data_keys: Vec<WrappedKey>,
    fingerprint_key: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedKey {
    version: u16,
    wrapped: String,
    /// Known answer: tells a damaged record from a broken token.
    check: String,
}

pub(super) struct Opened {
    pub(super) data_keys: Vec<DataKey>,
    pub(super) fingerprint_key: Zeroizing<[u8; DATA_KEY_BYTES]>,
}

pub(super) fn open_or_make(encryption: &dyn KeyEncryption, path: &Path) -> Result<Opened, VaultError> {
    let failed = |error| VaultError::File { path: path.display().to_string(), error };
    let content = |reason| VaultError::Content { path: path.display().to_string(), reason };
    if !path.try_exists().map_err(failed)? {
        let text = serde_json::to_vec_pretty(&make(encryption)?)
            .map_err(|_| content("cannot be written as JSON"))?;
        write_private(path, &text)?;
    }
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(content("is too large to be a keystore"));
    }
    let text = std::fs::read(path).map_err(failed)?;
    let keystore: Keystore =
        serde_json::from_slice(&text).map_err(|_| content("is no keystore: restore it from a backup"))?;
    if keystore.format != FORMAT {
        return Err(content("was written by a later version: use that one"));
    }
    if keystore.data_keys.is_empty() || keystore.data_keys.len() > KEYSTORE_KEYS_MAX {
        return Err(content("holds no data key, or too many"));
    }
    let bytes = |text: &str| hex::decode(text).map_err(|_| content("is damaged: restore it from a backup"));
    let mut data_keys = Vec::new();
    for wrapped in &keystore.data_keys {
        let key = encryption.unwrap(&data_key_purpose(wrapped.version), &bytes(&wrapped.wrapped)?)?;
        let check: [u8; SEAL_BYTES] =
            bytes(&wrapped.check)?.try_into().map_err(|_| content("is damaged: restore it from a backup"))?;
        data_keys.push(DataKey::new(wrapped.version, &key, check));
    }
    let fingerprint_key = encryption.unwrap(FINGERPRINT_PURPOSE, &bytes(&keystore.fingerprint_key)?)?;
    Ok(Opened { data_keys, fingerprint_key })
}

const FINGERPRINT_PURPOSE: &[u8] = b"simtide fingerprint key";

fn data_key_purpose(version: u16) -> Vec<u8> {
    [&b"simtide data key"[..], &version.to_be_bytes()].concat()
}

fn make(encryption: &dyn KeyEncryption) -> Result<Keystore, VaultError> {
    let random = || -> Result<Zeroizing<[u8; DATA_KEY_BYTES]>, VaultError> {
        let mut key = Zeroizing::new([0; DATA_KEY_BYTES]);
        getrandom::fill(&mut key[..]).map_err(|_| VaultError::Random)?;
        Ok(key)
    };
    let (version, key) = (1, random()?);
    let data_key = DataKey::new(version, &key, [0; SEAL_BYTES]);
    let check = data_key.seal(&data_key.check_data(), &[])?;
    let wrapped = encryption.wrap(&data_key_purpose(version), &key)?;
    Ok(Keystore {
        format: FORMAT,
        data_keys: vec![WrappedKey { version, wrapped: hex::encode(wrapped), check: hex::encode(check) }],
        fingerprint_key: hex::encode(encryption.wrap(FINGERPRINT_PURPOSE, &*random()?)?),
    })
}
