//! What makes one card out of a profile.

use simtide_protocol::ids::{Eid, Iccid, Msisdn};
use simtide_protocol::personalization::Identity;
use simtide_protocol::profile::FilePath;
use simtide_protocol::scp80::{Counter, Key};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret of fixed size. Wiped when dropped, never shown.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes the bytes; the caller wipes its own copy.
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// The secret itself.
    pub const fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> std::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The OTA keys of one key set.
#[derive(Debug)]
pub struct KeySetPersonalization {
    /// 1 to 15.
    pub index: u8,
    /// For ciphering.
    pub kic: Key,
    /// For checksums.
    pub kid: Key,
    /// For keys in PUT KEY.
    pub kik: Option<Key>,
    /// The highest counter that counts as accepted.
    pub counter: Counter,
}

/// Identity and key of TLS.
#[derive(Debug)]
pub struct PskPersonalization {
    /// Sent in clear; opaque bytes.
    pub identity: Vec<u8>,
    /// 16 bytes or more.
    pub key: Key,
}

/// What makes one card out of a profile. Holds secrets.
#[derive(Debug)]
pub struct Personalization {
    /// Stands in EF.ICCID.
    pub iccid: Iccid,
    /// Where the element is embedded.
    pub eid: Option<Eid>,
    /// The first subscription: EF.IMSI, algorithm, keys.
    pub identity: Identity,
    /// Stands in EF.MSISDN.
    pub msisdn: Option<Msisdn>,
    /// OTA keys.
    pub key_sets: Vec<KeySetPersonalization>,
    /// Identity and key of TLS; without it the card makes no polls.
    pub psk: Option<PskPersonalization>,
    /// The admin code: presented as ADM 1, and what a change of operator is protected by; eight bytes.
    pub adm1: Secret<8>,
    /// PIN 1: four to eight digits; without it `0000`.
    pub pin1: Option<Secret<8>>,
    /// Unblocks PIN 1; without it `00000000`.
    pub puk1: Option<Secret<8>>,
    /// Content of further files of this card, by path.
    pub files: Vec<(FilePath, Vec<u8>)>,
}

/// A PIN as VERIFY carries it: ASCII digits, filled with FF (ETSI TS 102 221, 9.5.1).
///
/// `None` where it is not four to eight digits.
pub fn pin(digits: &str) -> Option<Secret<8>> {
    if !(4..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut bytes = [0xFF; 8];
    bytes[..digits.len()].copy_from_slice(digits.as_bytes());
    Some(Secret::new(bytes))
}
