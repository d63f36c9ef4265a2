//! KIc and KID octets, key material, key sets.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::ZeroizeOnDrop;

/// ETSI TS 102 225, 5.1.2: KIc, the key index (high nibble) and algorithm (low nibble) for ciphering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Kic(pub u8);

/// ETSI TS 102 225, 5.1.3: KID, the key index (high nibble) and algorithm (low nibble) for RC or CC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Kid(pub u8);

/// What ciphers a packet, always with a zero IV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CipherAlgorithm {
    /// `1`: DES in CBC mode, 8-byte key. Broken; opened and sealed by the codec, refused by the policy.
    DesCbc,
    /// `D`: DES in ECB mode, 8-byte key. Legacy and broken.
    DesEcb,
    /// `5`: triple DES in outer CBC mode, two keys (16 bytes).
    TripleDes2,
    /// `9`: triple DES in outer CBC mode, three keys (24 bytes).
    TripleDes3,
    /// `2`: AES in CBC mode, 128, 192 or 256 bits by the length of the key.
    Aes,
}

/// What computes a cryptographic checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MacAlgorithm {
    /// `1`: DES CBC-MAC, 8-byte key. Broken, as above.
    Des,
    /// `5`: triple-DES CBC-MAC, two keys (16 bytes).
    TripleDes2,
    /// `9`: triple-DES CBC-MAC, three keys (24 bytes).
    TripleDes3,
    /// `2`: AES-CMAC, truncated to [`CmacLength`].
    AesCmac,
}

/// What computes a redundancy check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Crc {
    /// KID nibble `1`: CRC-16/X-25, 2 bytes.
    Crc16,
    /// KID nibble `5`: CRC-32, 4 bytes.
    Crc32,
}

/// How much of an AES-CMAC a packet carries. The wire shows it only through the header length, the key set decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CmacLength {
    /// 4 bytes.
    Four,
    /// 8 bytes, the usual one.
    #[default]
    Eight,
}

/// Why a key does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No algorithm of SCP80 has a key of this length.
    #[error("a key of {0} bytes fits no algorithm: give 8 (DES), 16, 24 or 32 bytes")]
    Length(usize),
    /// The octet names an algorithm that does not exist.
    #[error("{octet} {value:02x} names no algorithm: its low nibble must be one of {allowed}")]
    Algorithm {
        /// `KIc` or `KID`.
        octet: &'static str,
        /// The octet as it came.
        value: u8,
        /// The nibbles that exist there.
        allowed: &'static str,
    },
    /// The key is not in the key set.
    #[error("the {0} key is needed and not given")]
    Missing(&'static str),
    /// The key has a length that the algorithm does not take.
    #[error("{octet} asks for {algorithm}, whose key has {expected} bytes; the one given has {found}")]
    Mismatch {
        /// `KIc` or `KID`.
        octet: &'static str,
        /// The algorithm's name.
        algorithm: &'static str,
        /// The lengths it takes.
        expected: &'static str,
        /// The length of the key.
        found: usize,
    },
}

/// One secret key of 8, 16, 24 or 32 bytes. Wiped when dropped; compared in constant time; never shown.
#[derive(ZeroizeOnDrop)]
pub struct Key {
    bytes: [u8; 32],
    length: u8,
}

/// The keys behind one key index of one card, and what the wire leaves to agreement.
#[derive(Debug, PartialEq, Eq)]
pub struct KeySet {
    /// For ciphering (KIc).
    pub kic: Option<Key>,
    /// For cryptographic checksums (KID).
    pub kid: Option<Key>,
    /// Length of an AES-CMAC.
    pub cmac_length: CmacLength,
    /// What KIc nibble `0` (implicitly known) means.
    pub implicit_cipher: CipherAlgorithm,
    /// What KID nibble `0` means for a CC.
    pub implicit_mac: MacAlgorithm,
    /// What KID nibble `0` means for an RC.
    pub implicit_crc: Crc,
}

impl Kic {
    /// High nibble: the key set; 0 leaves it to agreement.
    pub const fn index(self) -> u8 {
        self.0 >> 4
    }

    /// Low nibble: the algorithm; `Ok(None)` where it is implicit.
    pub const fn algorithm(self) -> Result<Option<CipherAlgorithm>, KeyError> {
        Ok(Some(match self.0 & 0x0F {
            0x0 => return Ok(None),
            0x1 => CipherAlgorithm::DesCbc,
            0x2 => CipherAlgorithm::Aes,
            0x5 => CipherAlgorithm::TripleDes2,
            0x9 => CipherAlgorithm::TripleDes3,
            0xD => CipherAlgorithm::DesEcb,
            _ => {
                return Err(KeyError::Algorithm {
                    octet: "KIc",
                    value: self.0,
                    allowed: "0 (implicit), 1 (DES-CBC), 2 (AES), 5 (3DES, two keys), 9 (3DES, three keys), d (DES-ECB)",
                });
            }
        }))
    }
}

impl Kid {
    /// High nibble: the key set; 0 leaves it to agreement. Without meaning where no CC is used.
    pub const fn index(self) -> u8 {
        self.0 >> 4
    }

    /// Low nibble read for a CC; `Ok(None)` where the algorithm is implicit.
    pub const fn mac(self) -> Result<Option<MacAlgorithm>, KeyError> {
        Ok(Some(match self.0 & 0x0F {
            0x0 => return Ok(None),
            0x1 => MacAlgorithm::Des,
            0x2 => MacAlgorithm::AesCmac,
            0x5 => MacAlgorithm::TripleDes2,
            0x9 => MacAlgorithm::TripleDes3,
            _ => {
                return Err(KeyError::Algorithm {
                    octet: "KID",
                    value: self.0,
                    allowed: "0 (implicit), 1 (DES), 2 (AES-CMAC), 5 (3DES, two keys), 9 (3DES, three keys) for a CC",
                });
            }
        }))
    }

    /// Low nibble read for an RC; `Ok(None)` where the algorithm is implicit.
    pub const fn crc(self) -> Result<Option<Crc>, KeyError> {
        match self.0 & 0x0F {
            0x0 => Ok(None),
            0x1 => Ok(Some(Crc::Crc16)),
            0x5 => Ok(Some(Crc::Crc32)),
            _ => Err(KeyError::Algorithm {
                octet: "KID",
                value: self.0,
                allowed: "0 (implicit), 1 (CRC-16), 5 (CRC-32) for an RC",
            }),
        }
    }
}

impl CipherAlgorithm {
    /// Size of a block in bytes, to which ciphered data is padded.
    pub const fn block_size(self) -> usize {
        match self {
            CipherAlgorithm::Aes => 16,
            _ => 8,
        }
    }

    /// The name that messages use.
    pub const fn name(self) -> &'static str {
        match self {
            CipherAlgorithm::DesCbc => "DES-CBC",
            CipherAlgorithm::DesEcb => "DES-ECB",
            CipherAlgorithm::TripleDes2 => "3DES with two keys",
            CipherAlgorithm::TripleDes3 => "3DES with three keys",
            CipherAlgorithm::Aes => "AES",
        }
    }
}

impl MacAlgorithm {
    /// The name that messages use.
    pub const fn name(self) -> &'static str {
        match self {
            MacAlgorithm::Des => "DES-MAC",
            MacAlgorithm::TripleDes2 => "3DES-MAC with two keys",
            MacAlgorithm::TripleDes3 => "3DES-MAC with three keys",
            MacAlgorithm::AesCmac => "AES-CMAC",
        }
    }
}

impl CmacLength {
    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            CmacLength::Four => 4,
            CmacLength::Eight => 8,
        }
    }
}

impl Crc {
    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Crc::Crc16 => 2,
            Crc::Crc32 => 4,
        }
    }
}

impl Key {
    /// Takes 8, 16, 24 or 32 bytes. The caller wipes its own copy.
    pub fn new(key: &[u8]) -> Result<Self, KeyError> {
        let length = match key.len() {
            length @ (8 | 16 | 24 | 32) => length as u8,
            length => return Err(KeyError::Length(length)),
        };
        let mut bytes = [0; 32];
        bytes[..key.len()].copy_from_slice(key);
        Ok(Self { bytes, length })
    }

    /// The secret itself, for ciphers and for sealing at rest.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl KeySet {
    /// AES in all that is implicit, CMAC of 8 bytes, CRC-32.
    pub fn new(kic: Option<Key>, kid: Option<Key>) -> Self {
        Self {
            kic,
            kid,
            cmac_length: CmacLength::Eight,
            implicit_cipher: CipherAlgorithm::Aes,
            implicit_mac: MacAlgorithm::AesCmac,
            implicit_crc: Crc::Crc32,
        }
    }

    /// The cipher that `kic` names, and its key.
    pub fn cipher(&self, kic: Kic) -> Result<(CipherAlgorithm, &Key), KeyError> {
        let algorithm = kic.algorithm()?.unwrap_or(self.implicit_cipher);
        let key = self.kic.as_ref().ok_or(KeyError::Missing("KIc"))?;
        let expected = match (algorithm, key.length) {
            (CipherAlgorithm::DesCbc | CipherAlgorithm::DesEcb, 8)
            | (CipherAlgorithm::TripleDes2, 16)
            | (CipherAlgorithm::TripleDes3, 24)
            | (CipherAlgorithm::Aes, 16 | 24 | 32) => return Ok((algorithm, key)),
            (CipherAlgorithm::DesCbc | CipherAlgorithm::DesEcb, _) => "8",
            (CipherAlgorithm::TripleDes2, _) => "16",
            (CipherAlgorithm::TripleDes3, _) => "24",
            (CipherAlgorithm::Aes, _) => "16, 24 or 32",
        };
        Err(KeyError::Mismatch {
            octet: "KIc",
            algorithm: algorithm.name(),
            expected,
            found: key.length.into(),
        })
    }

    /// The MAC that `kid` names, and its key.
    pub fn mac(&self, kid: Kid) -> Result<(MacAlgorithm, &Key), KeyError> {
        let algorithm = kid.mac()?.unwrap_or(self.implicit_mac);
        let key = self.kid.as_ref().ok_or(KeyError::Missing("KID"))?;
        let expected = match (algorithm, key.length) {
            (MacAlgorithm::Des, 8)
            | (MacAlgorithm::TripleDes2, 16)
            | (MacAlgorithm::TripleDes3, 24)
            | (MacAlgorithm::AesCmac, 16 | 24 | 32) => return Ok((algorithm, key)),
            (MacAlgorithm::Des, _) => "8",
            (MacAlgorithm::TripleDes2, _) => "16",
            (MacAlgorithm::TripleDes3, _) => "24",
            (MacAlgorithm::AesCmac, _) => "16, 24 or 32",
        };
        Err(KeyError::Mismatch {
            octet: "KID",
            algorithm: algorithm.name(),
            expected,
            found: key.length.into(),
        })
    }

    /// The CRC that `kid` names.
    pub fn crc(&self, kid: Kid) -> Result<Crc, KeyError> {
        Ok(kid.crc()?.unwrap_or(self.implicit_crc))
    }
}

/// In constant time.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length && bool::from(self.bytes.ct_eq(&other.bytes))
    }
}

impl Eq for Key {}

/// Shows that there is a key, never which.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let keys = KeySet::new(Some(Key::new(&[0xA5; 16]).unwrap()), None);
        let shown = format!("{keys:?}");
        assert!(shown.contains("Key(..)") && !shown.contains("165") && !shown.to_lowercase().contains("a5"));
    }

    #[test]
    fn a_key_that_does_not_fit_is_named_with_what_would() {
        assert_eq!(Key::new(&[0; 15]), Err(KeyError::Length(15)));
        let keys = KeySet::new(Some(Key::new(&[0; 8]).unwrap()), None);
        let error = keys.cipher(Kic(0x15)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "KIc asks for 3DES with two keys, whose key has 16 bytes; the one given has 8"
        );
        assert_eq!(keys.mac(Kid(0x15)), Err(KeyError::Missing("KID")));
        assert!(matches!(Kid(0x12).crc(), Err(KeyError::Algorithm { .. })));
        assert!(matches!(Kic(0x13).algorithm(), Err(KeyError::Algorithm { .. })));
    }
}
