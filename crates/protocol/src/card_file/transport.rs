//! Transport keys: what encrypts the secret columns between vendor and operator.
//!
//! Cells are AES in CBC mode with a zero IV (one block: the same as ECB). A secret whose length is not a multiple of
//! 16 bytes is 8 bytes longer than one and is padded with `80 00 00 00 00 00 00 00`.

use aes::{Aes128, Aes192, Aes256};
use cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{SECRET_BYTES_MAX, Secret};

const BLOCK: usize = 16;
const PADDING: [u8; 8] = [0x80, 0, 0, 0, 0, 0, 0, 0];

/// Why components make no transport key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// None, or of different lengths.
    #[error(
        "components of a transport key must be two or more of 16, 24 or 32 bytes each, or the key itself"
    )]
    Components,
    /// The check value says otherwise.
    #[error(
        "key check value is {found}, expected {expected}: a component is mistyped or belongs to another key"
    )]
    CheckValue {
        /// What the combined key has.
        found: String,
        /// What was given.
        expected: String,
    },
    /// The check value is not three bytes.
    #[error("a key check value has 3 bytes, 6 hex digits")]
    CheckValueLength,
}

/// A transport key with the index that files name it by. Wiped when dropped.
#[derive(Clone)]
pub struct TransportKey {
    index: u32,
    key: Secret,
}

impl TransportKey {
    /// Combines components by exclusive or and checks the result.
    ///
    /// `index` is what a file's `Transport_key` says; `check_value` the first three bytes of a block of zeros encrypted.
    pub fn combine(
        index: u32,
        components: &[Secret],
        check_value: &[u8],
    ) -> Result<TransportKey, TransportError> {
        let length = components.first().map_or(0, |first| first.as_bytes().len());
        if !matches!(length, 16 | 24 | 32) || components.iter().any(|part| part.as_bytes().len() != length) {
            return Err(TransportError::Components);
        }
        if check_value.len() != 3 {
            return Err(TransportError::CheckValueLength);
        }
        let mut combined = Zeroizing::new([0_u8; 32]);
        for component in components {
            for (sum, byte) in combined.iter_mut().zip(component.as_bytes()) {
                *sum ^= byte;
            }
        }
        let key = Secret::new(&combined[..length]).ok_or(TransportError::Components)?;
        let found = key_check_value(&key);
        if !bool::from(found.ct_eq(check_value)) {
            let expected = hex::encode_upper(check_value);
            return Err(TransportError::CheckValue { found: hex::encode_upper(found), expected });
        }
        Ok(TransportKey { index, key })
    }

    /// The index that files name it by.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its check value, three bytes.
    pub fn check_value(&self) -> [u8; 3] {
        key_check_value(&self.key)
    }

    /// Encrypts one cell; `None` for lengths that the format cannot carry.
    pub(super) fn encrypt(&self, secret: &Secret) -> Option<Vec<u8>> {
        let mut cell = secret.as_bytes().to_vec();
        match cell.len() % BLOCK {
            0 => {}
            8 => cell.extend_from_slice(&PADDING),
            _ => return None,
        }
        let mut previous = [0_u8; BLOCK];
        for block in cell.chunks_exact_mut(BLOCK) {
            block.iter_mut().zip(previous).for_each(|(byte, other)| *byte ^= other);
            encrypt_block(&self.key, block);
            previous.copy_from_slice(block);
        }
        Some(cell)
    }

    /// Decrypts one cell; `None` for what is no whole number of blocks, or too long.
    pub(super) fn decrypt(&self, cell: &[u8]) -> Option<Secret> {
        if cell.is_empty() || !cell.len().is_multiple_of(BLOCK) || cell.len() > SECRET_BYTES_MAX {
            return None;
        }
        let mut plain = Zeroizing::new([0_u8; SECRET_BYTES_MAX]);
        let plain = &mut plain[..cell.len()];
        plain.copy_from_slice(cell);
        let mut previous = [0_u8; BLOCK];
        for (block, sealed) in plain.chunks_exact_mut(BLOCK).zip(cell.chunks_exact(BLOCK)) {
            decrypt_block(&self.key, block);
            block.iter_mut().zip(previous).for_each(|(byte, other)| *byte ^= other);
            previous.copy_from_slice(sealed);
        }
        let secret = Secret::new(plain.strip_suffix(&PADDING[..]).unwrap_or(plain));
        plain.zeroize();
        secret
    }
}

/// The first three bytes of a block of zeros encrypted with an AES key.
pub fn key_check_value(key: &Secret) -> [u8; 3] {
    let mut block = [0; BLOCK];
    encrypt_block(key, &mut block);
    [block[0], block[1], block[2]]
}

fn encrypt_block(key: &Secret, block: &mut [u8]) {
    each(key, block, |cipher, block| match cipher {
        Cipher::Short(cipher) => cipher.encrypt_block(block),
        Cipher::Middle(cipher) => cipher.encrypt_block(block),
        Cipher::Long(cipher) => cipher.encrypt_block(block),
    });
}

fn decrypt_block(key: &Secret, block: &mut [u8]) {
    each(key, block, |cipher, block| match cipher {
        Cipher::Short(cipher) => cipher.decrypt_block(block),
        Cipher::Middle(cipher) => cipher.decrypt_block(block),
        Cipher::Long(cipher) => cipher.decrypt_block(block),
    });
}

enum Cipher {
    Short(Aes128),
    Middle(Aes192),
    Long(Aes256),
}

fn each(key: &Secret, block: &mut [u8], work: impl Fn(&Cipher, &mut Array<u8, cipher::consts::U16>)) {
    let key = key.as_bytes();
    let cipher = match key.len() {
        16 => Aes128::new_from_slice(key).ok().map(Cipher::Short),
        24 => Aes192::new_from_slice(key).ok().map(Cipher::Middle),
        _ => Aes256::new_from_slice(key).ok().map(Cipher::Long),
    };
    // Lengths are checked where a key is made; a wrong one would leave the check value at zero.
    if let (Some(cipher), Ok(block)) = (cipher, <&mut Array<u8, _>>::try_from(block)) {
        work(&cipher, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(hex_text: &str) -> Secret {
        Secret::new(&hex::decode(hex_text).unwrap()).unwrap()
    }

    #[test]
    fn check_value_of_known_keys() {
        // AES-128 of a zero block under a zero key: 66E94BD4 EF8A2C3B 884CFA59 CA342B2E.
        assert_eq!(hex::encode(key_check_value(&secret(&"00".repeat(16)))), "66e94b");
        // AES-256 likewise: DC95C078 A2408989 AD48A214 92842087.
        assert_eq!(hex::encode(key_check_value(&secret(&"00".repeat(32)))), "dc95c0");
    }

    #[test]
    fn components_combine_and_mistakes_show() {
        let (one, two) = (secret(&"5a".repeat(16)), secret(&"5a".repeat(16)));
        let key = TransportKey::combine(3, &[one.clone(), two.clone()], &[0x66, 0xE9, 0x4B]).unwrap();
        assert_eq!((key.index(), key.check_value()), (3, [0x66, 0xE9, 0x4B]));
        let wrong = TransportKey::combine(3, &[one.clone(), secret(&"5b".repeat(16))], &[0x66, 0xE9, 0x4B]);
        assert!(matches!(wrong, Err(TransportError::CheckValue { .. })));
        assert!(matches!(TransportKey::combine(3, &[], &[0; 3]), Err(TransportError::Components)));
        let mixed = TransportKey::combine(3, &[one.clone(), secret(&"5b".repeat(32))], &[0; 3]);
        assert!(matches!(mixed, Err(TransportError::Components)));
        assert!(matches!(TransportKey::combine(3, &[one], &[0; 2]), Err(TransportError::CheckValueLength)));
    }

    #[test]
    fn cells_of_every_length_come_back() {
        let key = TransportKey::combine(1, &[secret(&"00".repeat(32))], &[0xDC, 0x95, 0xC0]).unwrap();
        for length in [8, 16, 24, 32, 40, 48] {
            let plain = Secret::new(&(0..length).collect::<Vec<u8>>()).unwrap();
            let cell = key.encrypt(&plain).unwrap();
            assert_eq!(cell.len() % 16, 0);
            assert_eq!(key.decrypt(&cell).unwrap(), plain);
        }
        assert!(key.encrypt(&Secret::new(&[1; 7]).unwrap()).is_none());
        assert!(
            key.decrypt(&[0; 15]).is_none() && key.decrypt(&[]).is_none() && key.decrypt(&[0; 80]).is_none()
        );
    }
}
