//! PUT KEY (GlobalPlatform Card Specification 2.3, 11.8; ETSI TS 102 226, 8.2.1.5).

use crate::card::Card;
use aes::{Aes128, Aes192, Aes256};
use cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use des::{TdesEde2, TdesEde3};
use sha2::{Digest, Sha256};
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::scp80::{CipherAlgorithm, Key};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Key types (11.1.8).
mod key_type {
    pub(super) const TRIPLE_DES: u8 = 0x80;
    pub(super) const TLS_PSK: u8 = 0x85;
    pub(super) const AES: u8 = 0x88;
}

/// Versions of TLS-PSK keys (GlobalPlatform Amendment B): 40 to 4F.
const PSK_VERSIONS: std::ops::RangeInclusive<u8> = 0x40..=0x4F;

impl Card {
    /// Replaces keys. The version is the index of the key set, or 40 to 4F for the key of TLS.
    pub(super) fn put_key(&mut self, command: &Command<'_>) -> Result<Vec<u8>, StatusWord> {
        let (version, mut rest) = command.data.split_first().ok_or(StatusWord::WRONG_DATA)?;
        if command.p1 != 0 && command.p1 != *version {
            return Err(StatusWord::REFERENCE_NOT_FOUND);
        }
        let first_key_id = command.p2 & 0x7F;
        let is_psk = PSK_VERSIONS.contains(version);
        // Keys of TLS travel under the key-encryption key of the first key set that has one.
        let kek_index =
            if is_psk { self.counters().first().map_or(0, |(index, _)| *index) } else { *version };
        let kek = self.key_encryption_key(kek_index).ok_or(StatusWord::CONDITIONS)?;
        let is_aes = self.is_aes(kek_index);
        let mut keys = Vec::new();
        let mut answer = vec![*version];
        while !rest.is_empty() {
            let (block, after) = KeyBlock::split(rest).ok_or(StatusWord::WRONG_DATA)?;
            rest = after;
            let clear = decrypt(&kek, is_aes, block.encrypted).ok_or(StatusWord::WRONG_DATA)?;
            let key = Key::new(&clear).map_err(|_| StatusWord::WRONG_DATA)?;
            let expected = check_value(block.key_type, &key).ok_or(StatusWord::WRONG_DATA)?;
            if !block.check_value.is_empty() && !bool::from(expected[..].ct_eq(block.check_value)) {
                return Err(StatusWord::WRONG_DATA);
            }
            answer.extend_from_slice(&expected);
            keys.push((block.key_type, key));
        }
        if is_psk {
            let [(key_type::TLS_PSK, key)] = keys.as_slice() else { return Err(StatusWord::WRONG_DATA) };
            let (identity, _) = self.psk().ok_or(StatusWord::REFERENCE_NOT_FOUND)?;
            self.set_psk(&identity, key);
            return Ok(answer);
        }
        let keys: Vec<Key> = keys.into_iter().map(|(_, key)| key).collect();
        let fits = !keys.is_empty() && first_key_id >= 1 && usize::from(first_key_id) + keys.len() <= 4;
        if !fits || !self.replace_keys(*version, first_key_id, &keys) {
            return Err(StatusWord::WRONG_DATA);
        }
        Ok(answer)
    }

    /// Whether the keys of a set are AES keys; otherwise they are for 3DES.
    pub(super) fn is_aes(&self, index: u8) -> bool {
        let algorithm = self.profile.key_set(index).map(|set| set.kic.algorithm());
        matches!(algorithm, Some(Ok(Some(CipherAlgorithm::Aes) | None)))
    }
}

/// One key as the command carries it.
struct KeyBlock<'a> {
    key_type: u8,
    encrypted: &'a [u8],
    check_value: &'a [u8],
}

impl<'a> KeyBlock<'a> {
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (key_type, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (mut encrypted, rest) = rest.split_at_checked((*length).into())?;
        let (length, rest) = rest.split_first()?;
        let (check_value, rest) = rest.split_at_checked((*length).into())?;
        // GlobalPlatform Amendment D: the length of the key in the clear may stand before its blocks.
        if encrypted.len() % 8 == 1 {
            encrypted = &encrypted[1..];
        }
        (!encrypted.is_empty()).then_some((Self { key_type: *key_type, encrypted, check_value }, rest))
    }
}

/// AES in CBC mode with a zero IV, or 3DES in ECB mode; whole blocks.
fn decrypt(kek: &Key, is_aes: bool, encrypted: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut clear = Zeroizing::new(encrypted.to_vec());
    let kek = kek.as_bytes();
    if is_aes {
        match kek.len() {
            16 => cbc_decrypt::<cbc::Decryptor<Aes128>>(kek, &mut clear)?,
            24 => cbc_decrypt::<cbc::Decryptor<Aes192>>(kek, &mut clear)?,
            32 => cbc_decrypt::<cbc::Decryptor<Aes256>>(kek, &mut clear)?,
            _ => return None,
        }
    } else {
        match kek.len() {
            16 => ecb_decrypt::<TdesEde2>(kek, &mut clear)?,
            24 => ecb_decrypt::<TdesEde3>(kek, &mut clear)?,
            _ => return None,
        }
    }
    Some(clear)
}

fn cbc_decrypt<C: KeyIvInit + BlockModeDecrypt>(key: &[u8], bytes: &mut [u8]) -> Option<()> {
    let mut mode = C::new_from_slices(key, &[0; 16]).ok()?;
    let (blocks, rest) = Array::slice_as_chunks_mut(bytes);
    mode.decrypt_blocks(blocks);
    rest.is_empty().then_some(())
}

fn ecb_decrypt<C: KeyInit + BlockCipherDecrypt>(key: &[u8], bytes: &mut [u8]) -> Option<()> {
    let cipher = C::new_from_slice(key).ok()?;
    let (blocks, rest) = Array::slice_as_chunks_mut(bytes);
    cipher.decrypt_blocks(blocks);
    rest.is_empty().then_some(())
}

/// First three bytes of a known block under the key: zeros for 3DES, ones for AES (Amendment D, 4.1.2); of the
/// key's SHA-256 for a key of TLS.
fn check_value(key_type: u8, key: &Key) -> Option<[u8; 3]> {
    let bytes = key.as_bytes();
    let block: Vec<u8> = match (key_type, bytes.len()) {
        (key_type::AES, 16) => encrypt_block::<Aes128>(bytes, 0x01)?,
        (key_type::AES, 24) => encrypt_block::<Aes192>(bytes, 0x01)?,
        (key_type::AES, 32) => encrypt_block::<Aes256>(bytes, 0x01)?,
        (key_type::TRIPLE_DES, 16) => encrypt_block::<TdesEde2>(bytes, 0x00)?,
        (key_type::TRIPLE_DES, 24) => encrypt_block::<TdesEde3>(bytes, 0x00)?,
        (key_type::TLS_PSK, _) => Sha256::digest(bytes).to_vec(),
        _ => return None,
    };
    block.first_chunk().copied()
}

fn encrypt_block<C: KeyInit + BlockCipherEncrypt>(key: &[u8], fill: u8) -> Option<Vec<u8>> {
    let cipher = C::new_from_slice(key).ok()?;
    let mut block = Array::<u8, C::BlockSize>::default();
    block.iter_mut().for_each(|byte| *byte = fill);
    cipher.encrypt_block(&mut block);
    Some(block.to_vec())
}
