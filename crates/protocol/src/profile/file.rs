//! Files of a profile: where they are, how they are built, what they contain at first.

use crate::ids::Aid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Deepest path, MF included.
const DEPTH_MAX: usize = 6;

/// The file ids from the MF to a file: `3F00/7F90/6F01`. An ADF stands in it with the file id it has below the MF.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Vec<u16>);

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no file path: write file ids of four hex digits from the MF on, like 3F00/7F90/6F01")]
pub struct FilePathError(String);

impl FilePath {
    /// The file id of the MF.
    pub const MF: u16 = 0x3F00;

    /// The MF itself.
    pub fn root() -> Self {
        Self(vec![Self::MF])
    }

    /// The file ids, the MF first.
    pub fn fids(&self) -> &[u16] {
        &self.0
    }

    /// The file's own id.
    pub fn fid(&self) -> u16 {
        self.0.last().copied().unwrap_or(Self::MF)
    }

    /// The directory that holds the file; `None` for the MF.
    pub fn parent(&self) -> Option<Self> {
        match self.0.as_slice() {
            [] | [_] => None,
            [parents @ .., _] => Some(Self(parents.to_vec())),
        }
    }

    /// The file with this id in this directory; `None` where the path would be too deep.
    pub fn child(&self, fid: u16) -> Option<Self> {
        if self.0.len() >= DEPTH_MAX {
            return None;
        }
        let mut fids = self.0.clone();
        fids.push(fid);
        Some(Self(fids))
    }

    /// The data of SELECT by path from the MF (P1 = 08): the ids without the MF's own (ETSI TS 102 221, 11.1.1).
    pub fn to_select_data(&self) -> Vec<u8> {
        self.0.iter().skip(1).flat_map(|fid| fid.to_be_bytes()).collect()
    }
}

impl FromStr for FilePath {
    type Err = FilePathError;

    fn from_str(text: &str) -> Result<Self, FilePathError> {
        let wrong = || FilePathError(text.into());
        let mut fids = Vec::new();
        for part in text.split('/') {
            if part.len() != 4 || fids.len() >= DEPTH_MAX {
                return Err(wrong());
            }
            fids.push(u16::from_str_radix(part, 16).map_err(|_| wrong())?);
        }
        if fids.first() == Some(&Self::MF) { Ok(Self(fids)) } else { Err(wrong()) }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fid) in self.0.iter().enumerate() {
            write!(f, "{}{fid:04X}", if place > 0 { "/" } else { "" })?;
        }
        Ok(())
    }
}

crate::ids::serde_as_text!(FilePath);

/// How a file is built (ETSI TS 102 221, 8.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Structure {
    /// A directory: MF or DF.
    Directory,
    /// The directory of an application.
    Application {
        /// By which it is selected.
        aid: Aid,
    },
    /// A string of bytes.
    Transparent {
        /// Bytes.
        size: u16,
    },
    /// Records of one size.
    LinearFixed {
        /// Bytes of each record.
        record_size: u8,
        /// How many records.
        records: u8,
    },
    /// Records of one size, the newest first, the oldest overwritten.
    Cyclic {
        /// Bytes of each record.
        record_size: u8,
        /// How many records.
        records: u8,
    },
}

impl Structure {
    /// MF, DF or ADF.
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory | Self::Application { .. })
    }

    /// Bytes of content; 0 for directories.
    pub const fn size(&self) -> usize {
        match *self {
            Self::Directory | Self::Application { .. } => 0,
            Self::Transparent { size } => size as usize,
            Self::LinearFixed { record_size, records } | Self::Cyclic { record_size, records } => {
                record_size as usize * records as usize
            }
        }
    }

    /// Size and number of records, where there are records.
    pub const fn records(&self) -> Option<(u8, u8)> {
        match *self {
            Self::LinearFixed { record_size, records } | Self::Cyclic { record_size, records } => {
                Some((record_size, records))
            }
            _ => None,
        }
    }
}

/// What of a single card a file contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// The ICCID.
    Iccid,
    /// The IMSI.
    Imsi,
    /// Access class: the one that the last digit of the IMSI says.
    AccessClass,
    /// The own telephone number, first record.
    Msisdn,
    /// EF.POLL with the settings of the profile.
    Poll,
    /// EF.MARK, nothing marked.
    Mark,
    /// The application templates of EF.DIR.
    Directory,
    /// The access rules as records of EF.ARR.
    AccessRules,
}

/// One file of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FileEntry", into = "FileEntry")]
pub struct FileDefinition {
    /// Where it is.
    pub path: FilePath,
    /// What people call it.
    pub name: String,
    /// How it is built.
    pub structure: Structure,
    /// Short file identifier, 1 to 30.
    pub sfi: Option<u8>,
    /// The name of its access rule.
    pub access: String,
    /// What of the single card it contains.
    pub from: Option<Content>,
    /// First content, or that of the first records; the rest is filled.
    pub content: Vec<Vec<u8>>,
    /// Another file of the profile whose content this one shows.
    pub same_as: Option<FilePath>,
    /// What fills the rest.
    pub fill: u8,
}

impl FileDefinition {
    /// The first content of the file, the same for all cards of the profile; a card's own parts are filled.
    pub fn first_content(&self) -> Vec<u8> {
        let mut bytes = vec![self.fill; self.structure.size()];
        let step = self.structure.records().map_or(bytes.len(), |(record_size, _)| usize::from(record_size));
        for (place, part) in bytes.chunks_mut(step.max(1)).zip(&self.content) {
            let length = part.len().min(place.len());
            place[..length].copy_from_slice(&part[..length]);
        }
        bytes
    }

    pub(super) fn content_problem(&self) -> Option<String> {
        let (size, parts) = match self.structure.records() {
            Some((record_size, records)) => (usize::from(record_size), usize::from(records)),
            None => (self.structure.size(), 1),
        };
        if self.structure.is_directory() {
            return (!self.content.is_empty()).then(|| "a directory has no content".into());
        }
        if size == 0 || parts == 0 {
            return Some("its size has to be at least 1 byte and 1 record".into());
        }
        if self.content.len() > parts || self.content.iter().any(|part| part.len() > size) {
            return Some(format!("its content does not fit {parts} x {size} bytes"));
        }
        self.sfi.filter(|sfi| !(1..=30).contains(sfi)).map(|sfi| format!("sfi {sfi} is not in 1 to 30"))
    }
}

/// A file as it stands in the text: exactly one of the five structures is given.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    path: FilePath,
    name: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    directory: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    application: Option<Aid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transparent: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    linear_fixed: Option<Records>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cyclic: Option<Records>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sfi: Option<u8>,
    access: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Content>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    content: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    same_as: Option<FilePath>,
    #[serde(default = "all_ones")]
    fill: u8,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Records {
    records: u8,
    size: u8,
}

const fn all_ones() -> u8 {
    0xFF
}

impl TryFrom<FileEntry> for FileDefinition {
    type Error = String;

    fn try_from(entry: FileEntry) -> Result<Self, String> {
        let FileEntry { path, name, directory, application, transparent, linear_fixed, cyclic, .. } = entry;
        let given = [
            directory.then_some(Structure::Directory),
            application.map(|aid| Structure::Application { aid }),
            transparent.map(|size| Structure::Transparent { size }),
            linear_fixed
                .map(|Records { records, size }| Structure::LinearFixed { record_size: size, records }),
            cyclic.map(|Records { records, size }| Structure::Cyclic { record_size: size, records }),
        ];
        let mut given = given.into_iter().flatten();
        let (Some(structure), None) = (given.next(), given.next()) else {
            return Err(format!(
                "file {path}: give exactly one of directory, application, transparent, linear_fixed, cyclic"
            ));
        };
        let decode =
            |text: &String| hex::decode(text).map_err(|_| format!("file {path}: its content is no hex"));
        let content = entry.content.iter().map(decode).collect::<Result<_, _>>()?;
        let FileEntry { sfi, access, from, same_as, fill, .. } = entry;
        Ok(Self { path, name, structure, sfi, access, from, content, same_as, fill })
    }
}

impl From<FileDefinition> for FileEntry {
    fn from(file: FileDefinition) -> Self {
        let mut entry = Self {
            path: file.path,
            name: file.name,
            directory: false,
            application: None,
            transparent: None,
            linear_fixed: None,
            cyclic: None,
            sfi: file.sfi,
            access: file.access,
            from: file.from,
            content: file.content.iter().map(hex::encode_upper).collect(),
            same_as: file.same_as,
            fill: file.fill,
        };
        match file.structure {
            Structure::Directory => entry.directory = true,
            Structure::Application { aid } => entry.application = Some(aid),
            Structure::Transparent { size } => entry.transparent = Some(size),
            Structure::LinearFixed { record_size, records } => {
                entry.linear_fixed = Some(Records { records, size: record_size });
            }
            Structure::Cyclic { record_size, records } => {
                entry.cyclic = Some(Records { records, size: record_size });
            }
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let path: FilePath = "3F00/7F90/6F01".parse().unwrap();
        assert_eq!(path.to_string(), "3F00/7F90/6F01");
        assert_eq!(path.to_select_data(), [0x7F, 0x90, 0x6F, 0x01]);
        assert_eq!(path.parent().unwrap().child(0x6F01), Some(path));
        for wrong in
            ["", "7F90", "3F00/", "3F00/7F9", "3F00/XXXX", "3F00/1/2", "3F00/0001/0002/0003/0004/0005/0006"]
        {
            assert!(wrong.parse::<FilePath>().is_err(), "{wrong}");
        }
    }
}
