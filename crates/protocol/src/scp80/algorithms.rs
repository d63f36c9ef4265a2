//! Ciphers, MACs and CRCs of SCP80, all with a zero IV and zero padding.
//!
//! Keys differ from card to card, so each packet pays for its own key schedules, and for each once only.

use aes::{Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256Dec, Aes256Enc};
use cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, Iv,
    IvSizeUser, KeyInit, consts::U8,
};
use cmac::{Cmac, Mac, block_api::CmacCipher};
use des::{Des, TdesEde2, TdesEde3};
use subtle::ConstantTimeEq;

use super::keys::{CipherAlgorithm, Crc, Key, KeyError, KeySet, Kid, MacAlgorithm};
use super::spi::Integrity;

/// Largest check value that a packet carries, in bytes.
pub(super) const CHECK_SIZE_MAX: usize = 8;

/// CRC-16/X-25, as KID nibble 1 asks for it (ETSI TS 102 225, 5.1.3.2).
pub fn crc16(message: &[u8]) -> u16 {
    CRC16.checksum(message)
}

/// CRC-32 (ISO 3309), as KID nibble 5 asks for it (ETSI TS 102 225, 5.1.3.2).
pub fn crc32(message: &[u8]) -> u32 {
    CRC32.checksum(message)
}

const CRC16: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_IBM_SDLC);
const CRC32: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// What stands in the RC/CC/DS field, ready to be computed.
pub(super) enum Check<'k> {
    None,
    Crc(Crc),
    Mac(MacAlgorithm, &'k Key, usize),
}

/// Why a check value cannot be computed.
pub(super) enum CheckError {
    Key(KeyError),
    DigitalSignature,
}

impl<'k> Check<'k> {
    /// What `integrity` means with this KID and these keys.
    pub(super) fn new(integrity: Integrity, kid: Kid, keys: &'k KeySet) -> Result<Self, CheckError> {
        match integrity {
            Integrity::None => Ok(Check::None),
            Integrity::RedundancyCheck => keys.crc(kid).map(Check::Crc).map_err(CheckError::Key),
            Integrity::CryptographicChecksum => {
                let (algorithm, key) = keys.mac(kid).map_err(CheckError::Key)?;
                let size = match algorithm {
                    MacAlgorithm::AesCmac => keys.cmac_length.bytes(),
                    _ => 8,
                };
                Ok(Check::Mac(algorithm, key, size))
            }
            Integrity::DigitalSignature => Err(CheckError::DigitalSignature),
        }
    }

    /// In bytes.
    pub(super) fn size(&self) -> usize {
        match self {
            Check::None => 0,
            Check::Crc(crc) => crc.bytes(),
            Check::Mac(_, _, size) => *size,
        }
    }

    /// The check value over the parts in their order; the first [`Check::size`] bytes count.
    pub(super) fn compute(&self, parts: &[&[u8]]) -> [u8; CHECK_SIZE_MAX] {
        let mut value = [0; CHECK_SIZE_MAX];
        match *self {
            Check::None => {}
            Check::Crc(Crc::Crc16) => {
                let mut digest = CRC16.digest();
                parts.iter().for_each(|part| digest.update(part));
                value[..2].copy_from_slice(&digest.finalize().to_be_bytes());
            }
            Check::Crc(Crc::Crc32) => {
                let mut digest = CRC32.digest();
                parts.iter().for_each(|part| digest.update(part));
                value[..4].copy_from_slice(&digest.finalize().to_be_bytes());
            }
            Check::Mac(algorithm, key, _) => {
                let key = key.as_bytes();
                value = match (algorithm, key.len()) {
                    (MacAlgorithm::Des, _) => cbc_mac::<Des>(key, parts),
                    (MacAlgorithm::TripleDes2, _) => cbc_mac::<TdesEde2>(key, parts),
                    (MacAlgorithm::TripleDes3, _) => cbc_mac::<TdesEde3>(key, parts),
                    (MacAlgorithm::AesCmac, 16) => aes_cmac::<Aes128Enc>(key, parts),
                    (MacAlgorithm::AesCmac, 24) => aes_cmac::<Aes192Enc>(key, parts),
                    (MacAlgorithm::AesCmac, _) => aes_cmac::<Aes256Enc>(key, parts),
                };
            }
        }
        value
    }

    /// Whether `found` is the check value over the parts; MACs in constant time.
    pub(super) fn verify(&self, parts: &[&[u8]], found: &[u8]) -> bool {
        let expected = self.compute(parts);
        bool::from(expected[..self.size()].ct_eq(found))
    }
}

/// Ciphers whole blocks in place.
pub(super) fn encrypt(algorithm: CipherAlgorithm, key: &Key, blocks: &mut [u8]) {
    let key = key.as_bytes();
    match (algorithm, key.len()) {
        (CipherAlgorithm::DesCbc, _) => cbc_encrypt::<Des>(key, blocks),
        (CipherAlgorithm::DesEcb, _) => {
            let cipher = schedule::<Des>(key);
            cipher.encrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
        }
        (CipherAlgorithm::TripleDes2, _) => cbc_encrypt::<TdesEde2>(key, blocks),
        (CipherAlgorithm::TripleDes3, _) => cbc_encrypt::<TdesEde3>(key, blocks),
        (CipherAlgorithm::Aes, 16) => cbc_encrypt::<Aes128Enc>(key, blocks),
        (CipherAlgorithm::Aes, 24) => cbc_encrypt::<Aes192Enc>(key, blocks),
        (CipherAlgorithm::Aes, _) => cbc_encrypt::<Aes256Enc>(key, blocks),
    }
}

/// Deciphers whole blocks in place.
pub(super) fn decrypt(algorithm: CipherAlgorithm, key: &Key, blocks: &mut [u8]) {
    let key = key.as_bytes();
    match (algorithm, key.len()) {
        (CipherAlgorithm::DesCbc, _) => cbc_decrypt::<Des>(key, blocks),
        (CipherAlgorithm::DesEcb, _) => {
            let cipher = schedule::<Des>(key);
            cipher.decrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
        }
        (CipherAlgorithm::TripleDes2, _) => cbc_decrypt::<TdesEde2>(key, blocks),
        (CipherAlgorithm::TripleDes3, _) => cbc_decrypt::<TdesEde3>(key, blocks),
        (CipherAlgorithm::Aes, 16) => cbc_decrypt::<Aes128Dec>(key, blocks),
        (CipherAlgorithm::Aes, 24) => cbc_decrypt::<Aes192Dec>(key, blocks),
        (CipherAlgorithm::Aes, _) => cbc_decrypt::<Aes256Dec>(key, blocks),
    }
}

/// Key sets hand out a key only for an algorithm that takes its length ([`KeySet::cipher`], [`KeySet::mac`]).
#[expect(clippy::expect_used, reason = "lengths were checked where the key met its algorithm")]
fn schedule<C: KeyInit>(key: &[u8]) -> C {
    C::new_from_slice(key).expect("a key of the algorithm's length")
}

fn cbc_encrypt<C: BlockCipherEncrypt + KeyInit>(key: &[u8], blocks: &mut [u8])
where
    cbc::Encryptor<C>: IvSizeUser + InnerIvInit<Inner = C> + BlockModeEncrypt,
{
    let mut mode = cbc::Encryptor::inner_iv_init(schedule(key), &Iv::<cbc::Encryptor<C>>::default());
    mode.encrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
}

fn cbc_decrypt<C: BlockCipherDecrypt + KeyInit>(key: &[u8], blocks: &mut [u8])
where
    cbc::Decryptor<C>: IvSizeUser + InnerIvInit<Inner = C> + BlockModeDecrypt,
{
    let mut mode = cbc::Decryptor::inner_iv_init(schedule(key), &Iv::<cbc::Decryptor<C>>::default());
    mode.decrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
}

/// CBC-MAC over the message padded with zeros, the whole last block.
fn cbc_mac<C: BlockCipherEncrypt<BlockSize = U8> + KeyInit>(
    key: &[u8],
    parts: &[&[u8]],
) -> [u8; CHECK_SIZE_MAX] {
    let cipher: C = schedule(key);
    let mut state = Array::<u8, U8>::default();
    let mut filled = 0;
    for byte in parts.iter().copied().flatten() {
        state[filled] ^= byte;
        filled += 1;
        if filled == state.len() {
            cipher.encrypt_block(&mut state);
            filled = 0;
        }
    }
    if filled > 0 {
        cipher.encrypt_block(&mut state);
    }
    state.into()
}

fn aes_cmac<C: CmacCipher + KeyInit>(key: &[u8], parts: &[&[u8]]) -> [u8; CHECK_SIZE_MAX]
where
    Cmac<C>: Mac + KeyInit,
{
    let mut mac: Cmac<C> = schedule(key);
    parts.iter().for_each(|part| mac.update(part));
    let whole = mac.finalize().into_bytes();
    let mut truncated = [0; CHECK_SIZE_MAX];
    truncated.copy_from_slice(&whole[..CHECK_SIZE_MAX]);
    truncated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crcs_match_their_known_answers() {
        assert_eq!(Check::Crc(Crc::Crc16).compute(&[&[1, 2, 3, 4, 5]])[..2], [0x22, 0xEC]);
        assert_eq!(Check::Crc(Crc::Crc32).compute(&[&[1, 2], &[3, 4, 5]])[..4], [0x47, 0x0B, 0x99, 0xF4]);
    }

    #[test]
    fn cmac_matches_its_known_answers() {
        let key = Key::new(&hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap()).unwrap();
        let check = Check::Mac(MacAlgorithm::AesCmac, &key, 8);
        assert_eq!(hex::encode(check.compute(&[])), "bb1d6929e9593728");
        let message = hex::decode("6bc1bee22e409f96e93d7e117393172a").unwrap();
        assert_eq!(hex::encode(check.compute(&[&message])), "070a16b46b4d4144");
        assert_eq!(hex::encode(check.compute(&[&message[..5], &message[5..]])), "070a16b46b4d4144");
    }
}
