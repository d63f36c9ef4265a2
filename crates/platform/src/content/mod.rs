//! What a campaign does on a card: ordered steps, one variant per card profile.
//!
//! The types are the JSON of the API and of campaign files:
//!
//! ```json
//! {
//!   "repeatable": false,
//!   "variants": {
//!     "*": [
//!       { "do": { "file_update": { "path": "3F00/7F90/6F04", "offset": 0, "data": "01 02 03" } } },
//!       { "do": { "applet_replace": { "load_file": "A0000000010203", "module": "A000000001020301",
//!                                     "instance": "A000000001020302", "code": "DECAFFED.." } },
//!         "on_failure": "go_on" },
//!       { "do": { "os_patch": { "commands": ["80E2..", ".."] } }, "tar": "BFFF10" },
//!       { "do": { "script": { "commands": ["00A4080C047F906F04", "00D600000101"] } }, "tar": "B00000",
//!         "on_failure": { "undo": ["00A4080C047F906F04", "00D600000100"] } }
//!     ],
//!     "meter-2": []
//!   }
//! }
//! ```
//!
//! A card takes the variant of its profile, else the one named `*`; without either, or with an empty one, there is
//! nothing to do for it. [`Content::check`] refuses what cannot run, [`Content::prepare`] makes the C-APDUs.

mod error;
mod hex_bytes;
mod prepare;
#[cfg(test)]
mod tests;

pub use error::{ContentError, StepError};
pub use hex_bytes::{HexBytes, HexError};
pub use prepare::{Failing, Prepared, PreparedStep, RESERVED_BYTES};

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{Aid, Tar};
use simtide_protocol::profile::FilePath;
use std::collections::BTreeMap;

/// Most steps of a variant.
pub const STEPS_MAX: usize = 64;
/// Most variants.
pub const VARIANTS_MAX: usize = 64;
/// Most commands of one step, as written or as expanded.
pub const COMMANDS_MAX: usize = 1024;
/// Most bytes of a content, all variants together.
pub const CONTENT_BYTES_MAX: usize = 1024 * 1024;
/// The name of the variant for profiles that have none of their own.
pub const ANY_PROFILE: &str = "*";

/// What a campaign does on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Whether running it twice does no harm. What is not repeatable leaves marks on the card, and is never run
    /// again where it may have run. Not repeatable unless said otherwise.
    #[serde(default)]
    pub repeatable: bool,
    /// What a card has afterwards, by name and version: `{"applet:A0000000010203": "1.4"}`. A card that is known to
    /// have all of it, in these versions or later ones, is not given it by a delivery.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub provides: BTreeMap<String, String>,
    /// Steps by name of the card profile, or `*`.
    pub variants: BTreeMap<String, Vec<Step>>,
}

/// One step: a script for one application on the card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is done.
    #[serde(rename = "do")]
    pub action: Action,
    /// For which application. Not needed where the action says it: files belong to remote file management, applets
    /// to the issuer security domain, patches to the vendor's patch application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tar: Option<Tar>,
    /// What follows when a command of it fails.
    #[serde(default, skip_serializing_if = "OnFailure::is_stop")]
    pub on_failure: OnFailure,
}

/// What follows a failure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The campaign has failed on this card.
    #[default]
    Stop,
    /// The next step runs; the campaign is done with what could be done.
    GoOn,
    /// These C-APDUs run, for the same application; then the campaign has failed on this card.
    Undo(Vec<HexBytes>),
}

impl OnFailure {
    fn is_stop(&self) -> bool {
        matches!(self, Self::Stop)
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Writes bytes into a file, or a record.
    FileUpdate(FileUpdate),
    /// Loads a load file and installs an instance of its module.
    AppletInstall(Applet),
    /// Deletes the load file with all its instances, then loads and installs it again.
    AppletReplace(Applet),
    /// Deletes an instance or a load file.
    AppletDelete(AppletDelete),
    /// Replaces the operating system by a vendor's script.
    OsPatch(Commands),
    /// Any C-APDUs, as one script.
    Script(Commands),
}

/// Bytes for a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileUpdate {
    /// Path from the MF: `3F00/7F90/6F04`.
    pub path: FilePath,
    /// Where the data begin in a transparent file.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub offset: u16,
    /// Which record the data replace, 1 to 254, in a file of records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<u8>,
    /// What is written.
    pub data: HexBytes,
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// An application with its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Applet {
    /// Identifier of the load file (package).
    pub load_file: Aid,
    /// Identifier of the module (class) in it.
    pub module: Aid,
    /// Identifier under which the instance is selected.
    pub instance: Aid,
    /// The load file data block.
    pub code: HexBytes,
    /// Privileges of the instance, 1 or 3 bytes.
    #[serde(default = "no_privileges")]
    pub privileges: HexBytes,
    /// Parameters of the load (`EF ..`).
    #[serde(default)]
    pub load_parameters: HexBytes,
    /// Parameters of the installation (`C9 ..`, `EA ..`).
    #[serde(default)]
    pub install_parameters: HexBytes,
}

fn no_privileges() -> HexBytes {
    HexBytes(vec![0x00])
}

/// An application to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppletDelete {
    /// The instance or load file.
    pub aid: Aid,
    /// For a load file: with all its instances.
    #[serde(default)]
    pub related: bool,
}

/// C-APDUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commands {
    /// In their order.
    pub commands: Vec<HexBytes>,
}

impl Content {
    /// The steps for a card of this profile; none where there is nothing to do for it.
    pub fn steps(&self, profile: &str) -> &[Step] {
        let variant = self.variants.get(profile).or_else(|| self.variants.get(ANY_PROFILE));
        variant.map_or(&[], Vec::as_slice)
    }
}
