//! What a secured packet or an administration script can be for, and the keys that protect it.

use super::text_forms::{cmac_bytes, hex_kic, hex_kid, hex_spi};
use super::{Authority, Condition, FilePath};
use crate::ids::{Aid, Tar};
use crate::scp80::{CmacLength, Kic, Kid, Spi};
use serde::{Deserialize, Serialize};

/// What an application does with a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApplicationKind {
    /// Issuer security domain: remote application management (RAM).
    Isd,
    /// Remote file management of the UICC file system.
    RfmUicc,
    /// Remote file management with an ADF USIM as root.
    RfmUsim,
    /// Administration agent: takes the trigger and opens HTTPS sessions.
    AdminAgent,
    /// Replaces the operating system by a vendor's patch script.
    VendorPatch,
    /// Reads and writes the identity of the card under its admin code.
    Personalization,
}

/// One application of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// What it does.
    pub kind: ApplicationKind,
    /// Its identifier; RFM and RAM scripts over HTTPS are targeted by it.
    pub aid: Aid,
    /// Its toolkit application reference.
    pub tar: Tar,
    /// Indexes of the key sets that may address it.
    pub key_sets: Vec<u8>,
    /// Minimum security level of a command: integrity, ciphering and counter of the first octet.
    #[serde(with = "hex_spi")]
    pub minimum_spi: Spi,
    /// Rights in the file system, e.g. `"pin1 or adm1"`: it acts as if these had been presented.
    #[serde(default)]
    pub rights: Condition,
    /// The directory in which its scripts start; the MF unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<FilePath>,
}

impl Application {
    /// The rights of [`Application::rights`] as an authority.
    pub const fn authority(&self) -> Authority {
        match self.rights {
            Condition::Always => Authority::ALL,
            Condition::Never => Authority::NONE,
            Condition::AnyOf(authority) => authority,
        }
    }
}

/// One OTA key set: what each card of the profile holds under an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySetDefinition {
    /// 1 to 15: the high nibble of KIc and KID.
    pub index: u8,
    /// Key version number for PUT KEY, 1 to 127.
    pub version: u8,
    /// KIc as commands carry it: index and algorithm.
    #[serde(with = "hex_kic")]
    pub kic: Kic,
    /// KID as commands carry it: index and algorithm.
    #[serde(with = "hex_kid")]
    pub kid: Kid,
    /// Bytes of an AES-CMAC in a packet: 4 or 8.
    #[serde(with = "cmac_bytes", default)]
    pub cmac_length: CmacLength,
    /// How commands are protected and answered unless told otherwise.
    #[serde(with = "hex_spi")]
    pub spi: Spi,
}
