//! The key-encryption key: what opens the data keys at start.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{DATA_KEY_BYTES, DataKey, SEAL_BYTES, VaultError};

/// Wraps and unwraps data keys. A file holds the key today; a PKCS#11 token does the same without giving it out.
pub trait KeyEncryption: Send + Sync {
    /// For messages: which key this is.
    fn name(&self) -> String;
    /// Wraps a data key; `purpose` is authenticated with it.
    fn wrap(&self, purpose: &[u8], key: &[u8; DATA_KEY_BYTES]) -> Result<Vec<u8>, VaultError>;
    /// Opens a wrapped data key.
    fn unwrap(&self, purpose: &[u8], wrapped: &[u8]) -> Result<Zeroizing<[u8; DATA_KEY_BYTES]>, VaultError>;
}

/// A key-encryption key in a file of 32 bytes that only its owner can read.
pub struct KeyFile {
    path: PathBuf,
    key: DataKey,
}

impl KeyFile {
    /// Reads the file; makes it with a random key where there is none.
    pub fn open_or_make(path: &Path) -> Result<KeyFile, VaultError> {
        let failed = |error| VaultError::File { path: path.display().to_string(), error };
        if !path.try_exists().map_err(failed)? {
            let mut key = Zeroizing::new([0; DATA_KEY_BYTES]);
            getrandom::fill(&mut key[..]).map_err(|_| VaultError::Random)?;
            write_private(path, &key[..])?;
        }
        let content = |reason| VaultError::Content { path: path.display().to_string(), reason };
        let mut file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(content("others can read the key file: chmod 600, and think about new keys"));
        }
        // One byte more than a key shows a file that is too long.
        let mut key = Zeroizing::new([0; DATA_KEY_BYTES + 1]);
        let mut length = 0;
        while length < key.len() {
            match file.read(&mut key[length..]).map_err(failed)? {
                0 => break,
                read => length += read,
            }
        }
        if length != DATA_KEY_BYTES {
            return Err(content("a key file has exactly 32 bytes"));
        }
        let mut exact = Zeroizing::new([0; DATA_KEY_BYTES]);
        exact.copy_from_slice(&key[..DATA_KEY_BYTES]);
        Ok(KeyFile { path: path.to_owned(), key: DataKey::new(0, &exact, [0; SEAL_BYTES]) })
    }
}

impl KeyEncryption for KeyFile {
    fn name(&self) -> String {
        format!("key file {}", self.path.display())
    }

    fn wrap(&self, purpose: &[u8], key: &[u8; DATA_KEY_BYTES]) -> Result<Vec<u8>, VaultError> {
        self.key.seal(purpose, key)
    }

    fn unwrap(&self, purpose: &[u8], wrapped: &[u8]) -> Result<Zeroizing<[u8; DATA_KEY_BYTES]>, VaultError> {
        let wrong = || VaultError::WrongKey(self.name());
        let plain = self.key.open(purpose, wrapped).ok_or_else(wrong)?;
        let mut key = Zeroizing::new([0; DATA_KEY_BYTES]);
        if plain.len() != DATA_KEY_BYTES {
            return Err(wrong());
        }
        key.copy_from_slice(&plain);
        Ok(key)
    }
}

/// Writes a file that is whole or not there, and that nobody else may read.
pub(super) fn write_private(path: &Path, content: &[u8]) -> Result<(), VaultError> {
    let failed = |error| VaultError::File { path: path.display().to_string(), error };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(failed)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = directory.join(format!(".{name}.draft"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(failed)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}
