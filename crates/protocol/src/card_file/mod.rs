//! Card vendor files: OUT and CSV, read and written as a stream of [`CardRow`]s.
//!
//! Both formats describe the same cards; `docs/import.md` lists the columns. The [`Reader`] is fed with chunks of any
//! size and gives rows, refused lines and, at the end, the verdict on the whole file. It holds one line at a time.

mod column;
mod lines;
mod reader;
mod row;
mod transport;
mod write;

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::ZeroizeOnDrop;

use crate::ids::{CardId, Eid, EpochMs, Iccid, Imsi, Msisdn, ProfileName};

pub use column::{Column, KEY_SETS_MAX};
pub use lines::LINE_BYTES_MAX;
pub use reader::{FileError, Header, Item, Reader, Settings, Summary};
pub use row::RowError;
pub use transport::{TransportError, TransportKey, key_check_value};
pub use write::{WriteError, Writer, WriterSettings};

/// Longest secret in a card file, in bytes.
pub const SECRET_BYTES_MAX: usize = 64;
/// Tags of one card at most.
pub const TAGS_MAX: usize = 16;
/// Longest PSK identity, in bytes.
pub const PSK_IDENTITY_BYTES_MAX: usize = 128;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Text with a header block and columns separated by blanks, as card vendors send it.
    Out,
    /// Comma-separated values with a line of column names.
    Csv,
}

/// One card, as a vendor describes it and as platform and software card need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardRow {
    /// Integrated circuit card identifier.
    pub iccid: Iccid,
    /// Identifier of an embedded element.
    pub eid: Option<Eid>,
    /// How the element is built in.
    pub form: Form,
    /// Subscription.
    pub imsi: Option<Imsi>,
    /// Telephone number.
    pub msisdn: Option<Msisdn>,
    /// Card profile; from the header's `Profile` where the row has none.
    pub profile: Option<ProfileName>,
    /// Subscriber key, 16 bytes (32 with TUAK).
    pub ki: Option<Secret>,
    /// Operator constant of this card, 16 bytes (32 with TUAK).
    pub opc: Option<Secret>,
    /// Authentication algorithm.
    pub algorithm: AuthenticationAlgorithm,
    /// OTA key sets by rising index.
    pub key_sets: Vec<KeySetRow>,
    /// Identity of the pre-shared key; empty: as the profile derives it.
    pub psk_identity: Vec<u8>,
    /// Pre-shared key of the card port, 16 to 64 bytes.
    pub psk: Option<Secret>,
    /// Admin code: 8 bytes, given as 16 hex digits or as up to 8 decimal digits (ASCII, padded with FF).
    pub admin_code: Option<Secret>,
    /// PIN 1, its digits in ASCII.
    pub pin1: Option<Secret>,
    /// Unblocking code of PIN 1.
    pub puk1: Option<Secret>,
    /// PIN 2.
    pub pin2: Option<Secret>,
    /// Unblocking code of PIN 2.
    pub puk2: Option<Secret>,
    /// What the card is in: phone, vehicle, meter, ...
    pub device_kind: Option<String>,
    /// Free words to find cards by.
    pub tags: Vec<String>,
    /// First date of the recurring poll, where the vendor has personalised one.
    pub next_poll: Option<EpochMs>,
    /// Last contact, for cards that move here from another platform; none: never seen.
    pub last_update: Option<EpochMs>,
}

impl CardRow {
    /// A card of this ICCID that has nothing else yet.
    pub fn new(iccid: Iccid) -> CardRow {
        CardRow {
            iccid,
            eid: None,
            form: Form::Uicc,
            imsi: None,
            msisdn: None,
            profile: None,
            ki: None,
            opc: None,
            algorithm: AuthenticationAlgorithm::Milenage,
            key_sets: Vec::new(),
            psk_identity: Vec::new(),
            psk: None,
            admin_code: None,
            pin1: None,
            puk1: None,
            pin2: None,
            puk2: None,
            device_kind: None,
            tags: Vec::new(),
            next_poll: None,
            last_update: None,
        }
    }

    /// What the platform knows the card by: the EID of a built-in element that has one, else the ICCID.
    pub fn card_id(&self) -> CardId {
        match (self.form, self.eid) {
            (Form::Euicc | Form::Iuicc | Form::Ese, Some(eid)) => CardId::from(eid),
            _ => CardId::from(self.iccid),
        }
    }
}

/// How a secure element is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Removable card.
    Uicc,
    /// Soldered element.
    Euicc,
    /// Part of a chip.
    Iuicc,
    /// Another embedded secure element.
    Ese,
}

impl Form {
    /// All forms with their names in files.
    pub const NAMES: [(Form, &str); 4] =
        [(Form::Uicc, "uicc"), (Form::Euicc, "euicc"), (Form::Iuicc, "iuicc"), (Form::Ese, "ese")];

    /// Name in files.
    pub fn name(self) -> &'static str {
        name_of(&Form::NAMES, self)
    }
}

/// How a subscription authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthenticationAlgorithm {
    /// 3GPP TS 35.206.
    Milenage,
    /// 3GPP TS 35.231.
    Tuak,
}

impl AuthenticationAlgorithm {
    /// All algorithms with their names in files.
    pub const NAMES: [(AuthenticationAlgorithm, &str); 2] =
        [(AuthenticationAlgorithm::Milenage, "milenage"), (AuthenticationAlgorithm::Tuak, "tuak")];

    /// Name in files.
    pub fn name(self) -> &'static str {
        name_of(&AuthenticationAlgorithm::NAMES, self)
    }
}

/// Cipher family of an OTA key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// AES, 16, 24 or 32 bytes.
    Aes,
    /// Triple DES with two (16 bytes) or three keys (24 bytes).
    TripleDes,
}

impl KeyAlgorithm {
    /// All families with their names in files.
    pub const NAMES: [(KeyAlgorithm, &str); 2] =
        [(KeyAlgorithm::Aes, "aes"), (KeyAlgorithm::TripleDes, "3des")];

    /// Name in files.
    pub fn name(self) -> &'static str {
        name_of(&KeyAlgorithm::NAMES, self)
    }

    /// Low nibble of KIc and of KID for a key of this length (ETSI TS 102 225, 5.1.2 and 5.1.3).
    pub fn nibble(self, key_bytes: usize) -> u8 {
        match (self, key_bytes) {
            (KeyAlgorithm::Aes, _) => 0x2,
            (KeyAlgorithm::TripleDes, 24) => 0x9,
            (KeyAlgorithm::TripleDes, _) => 0x5,
        }
    }

    /// Whether the family has keys of this length.
    pub fn takes(self, key_bytes: usize) -> bool {
        match self {
            KeyAlgorithm::Aes => matches!(key_bytes, 16 | 24 | 32),
            KeyAlgorithm::TripleDes => matches!(key_bytes, 16 | 24),
        }
    }
}

/// One OTA key set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySetRow {
    /// Index, 1 to 15: high nibble of KIc and KID.
    pub index: u8,
    /// Ciphering key.
    pub kic: Secret,
    /// Its family.
    pub kic_algorithm: KeyAlgorithm,
    /// Checksum key.
    pub kid: Secret,
    /// Its family.
    pub kid_algorithm: KeyAlgorithm,
    /// Key that protects keys (DEK).
    pub kik: Option<Secret>,
    /// Last counter used, 0 for a fresh card; at most 2^40 - 1.
    pub counter: u64,
}

/// A secret of 1 to [`SECRET_BYTES_MAX`] bytes: wiped when dropped, compared in constant time, never shown.
#[derive(Clone, ZeroizeOnDrop)]
pub struct Secret {
    bytes: [u8; SECRET_BYTES_MAX],
    length: u8,
}

impl Secret {
    /// Takes the bytes; `None` for none or too many. The caller wipes its own copy.
    pub fn new(secret: &[u8]) -> Option<Secret> {
        let length = u8::try_from(secret.len()).ok().filter(|length| *length > 0)?;
        let mut bytes = [0; SECRET_BYTES_MAX];
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(Secret { bytes, length })
    }

    /// The secret itself.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Secret) -> bool {
        bool::from(self.bytes.ct_eq(&other.bytes)) && self.length == other.length
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn name_of<T: Copy + PartialEq>(names: &[(T, &'static str)], wanted: T) -> &'static str {
    names.iter().find(|(value, _)| *value == wanted).map_or("", |(_, name)| name)
}

fn value_of<T: Copy>(names: &[(T, &str)], text: &str) -> Option<T> {
    names.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(value, _)| *value)
}
