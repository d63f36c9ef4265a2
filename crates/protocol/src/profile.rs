//! The card profile: what a kind of card can do, where its things are, and how it behaves.
//!
//! One TOML file per kind of card, read by the card in software and by the platform; `docs/card-profile.md`
//! describes every key. A profile holds no keys and nothing of a single card.

mod access;
mod application;
mod behaviour;
mod file;
mod text_forms;

pub use access::{AccessRule, Authority, Condition, Operation};
pub use application::{Application, ApplicationKind, KeySetDefinition};
pub use behaviour::{
    AdministrationServer, PersonalizationSettings, PinSettings, PorPadding, PskIdentityForm, PskSettings,
    ResponseFraming, RetryTimerCoding, Scp80Behaviour, Scp81Behaviour,
};
pub use file::{Content, FileDefinition, FilePath, FilePathError, Structure};

use crate::ids::{Aid, ProfileName, Tar};
use crate::poll_date::PollFile;
use serde::{Deserialize, Serialize};

/// Most files that a profile may define.
pub const FILES_MAX: usize = 512;
/// Most applications that a profile may define.
pub const APPLICATIONS_MAX: usize = 32;
/// Most access rules that a profile may define: they are records of EF.ARR.
pub const ACCESS_RULES_MAX: usize = 32;

/// The text of the profile that everything uses unless told otherwise.
pub const STANDARD_TEXT: &str = include_str!("../profiles/standard.toml");

/// What a kind of card can do, where its things are, and how it behaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The name by which import, campaigns and cards refer to it.
    pub name: ProfileName,
    /// One line for people.
    pub description: String,
    /// Answer to reset.
    #[serde(with = "text_forms::hex_bytes")]
    pub answer_to_reset: Vec<u8>,
    /// Whether the card keeps response data back and answers `61xx`, as on a T=0 interface.
    #[serde(default)]
    pub keeps_response_data: bool,
    /// The first version of the operating system, replaced by vendor patches.
    #[serde(default)]
    pub os_version: u32,
    /// The second server's address, as the card opens a channel to it: there it fetches by itself what waits for it over
    /// IP, from the client module of its device. Without one the device hands it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<std::net::SocketAddr>,
    /// Dates of contact.
    pub poll: PollSettings,
    /// How the card names itself in TLS.
    pub psk: PskSettings,
    /// Where the card polls, unless it has been told otherwise.
    pub administration: AdministrationServer,
    /// PINs and administrative codes.
    #[serde(default)]
    pub pins: PinSettings,
    /// How the card's receiver of secured packets behaves.
    #[serde(default)]
    pub scp80: Scp80Behaviour,
    /// How the card's administration over HTTPS behaves.
    #[serde(default)]
    pub scp81: Scp81Behaviour,
    /// How a change of operator reaches the card, and how its user asks for one.
    #[serde(default)]
    pub personalization: PersonalizationSettings,
    /// The OTA key sets of each card.
    pub key_sets: Vec<KeySetDefinition>,
    /// What a secured packet or a script can be for.
    pub applications: Vec<Application>,
    /// Rights of files; a rule's place is its record number in EF.ARR, from 1.
    pub access_rules: Vec<AccessRule>,
    /// The files, parents before children; the first is the MF.
    pub files: Vec<FileDefinition>,
}

/// Dates of contact and where the card keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollSettings {
    /// The period of polls in seconds; 0: the card makes none of its own.
    pub period_s: u32,
    /// Pause after a poll that failed, in seconds.
    pub retry_delay_s: u16,
    /// How often a failed poll is tried again.
    pub retries: u8,
    /// EF.POLL: date of the next poll, period, retries.
    pub file: FilePath,
    /// EF.MARK: the last campaign step that is not repeatable.
    pub mark: FilePath,
}

impl PollSettings {
    /// The first content of EF.POLL: these settings, and a date that nobody has planned yet.
    pub fn first_file(&self) -> PollFile {
        let Self { period_s, retry_delay_s, retries, .. } = *self;
        PollFile { next_s: 0, period_s, retry_delay_s, retries }
    }
}

/// Why a text is no card profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The text is no TOML, lacks a key, has an unknown key or a value of the wrong form.
    #[error("card profile: {0}")]
    Text(#[from] Box<toml::de::Error>),
    /// A list is longer than its limit.
    #[error("card profile {profile}: {what} has {found} entries, at most {limit} are allowed")]
    TooMany {
        /// The profile.
        profile: ProfileName,
        /// The list.
        what: &'static str,
        /// How many it has.
        found: usize,
        /// How many it may have.
        limit: usize,
    },
    /// Two parts of the profile do not fit together.
    #[error("card profile {profile}: {problem}")]
    Inconsistent {
        /// The profile.
        profile: ProfileName,
        /// What does not fit, and what to do.
        problem: String,
    },
}

impl Profile {
    /// Reads and checks a profile.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(Box::new)?;
        profile.checked()
    }

    /// The profile that everything uses unless told otherwise.
    pub fn standard() -> Self {
        // Invariant: the embedded text is a valid profile; a test holds it.
        #[allow(clippy::expect_used)]
        Self::parse(STANDARD_TEXT).expect("the embedded profile is valid")
    }

    /// The application that a secured packet with this TAR is for.
    pub fn application_by_tar(&self, tar: Tar) -> Option<&Application> {
        self.applications.iter().find(|application| application.tar == tar)
    }

    /// The application with this AID.
    pub fn application_by_aid(&self, aid: &Aid) -> Option<&Application> {
        self.applications.iter().find(|application| application.aid == *aid)
    }

    /// The first application of a kind.
    pub fn application(&self, kind: ApplicationKind) -> Option<&Application> {
        self.applications.iter().find(|application| application.kind == kind)
    }

    /// The key set with this index (1 to 15).
    pub fn key_set(&self, index: u8) -> Option<&KeySetDefinition> {
        self.key_sets.iter().find(|set| set.index == index)
    }

    /// The definition of the file at a path.
    pub fn file(&self, path: &FilePath) -> Option<&FileDefinition> {
        self.files.iter().find(|file| file.path == *path)
    }

    /// The access rule with this name and its record number in EF.ARR, from 1.
    pub fn access_rule(&self, name: &str) -> Option<(u8, &AccessRule)> {
        (1..).zip(&self.access_rules).find(|(_, rule)| rule.name == name)
    }

    fn checked(self) -> Result<Self, ProfileError> {
        let lists = [
            ("files", self.files.len(), FILES_MAX),
            ("applications", self.applications.len(), APPLICATIONS_MAX),
            ("access_rules", self.access_rules.len(), ACCESS_RULES_MAX),
            ("key_sets", self.key_sets.len(), 15),
        ];
        for (what, found, limit) in lists {
            if found > limit {
                return Err(ProfileError::TooMany { profile: self.name, what, found, limit });
            }
        }
        match self.inconsistency() {
            Some(problem) => Err(ProfileError::Inconsistent { profile: self.name, problem }),
            None => Ok(self),
        }
    }

    fn inconsistency(&self) -> Option<String> {
        self.files_inconsistency().or_else(|| self.applications_inconsistency()).or_else(|| {
            [(&self.poll.file, 16), (&self.poll.mark, 8)].into_iter().find_map(|(path, size)| {
                let fits =
                    matches!(self.file(path)?.structure, Structure::Transparent { size: has } if has == size);
                (!fits).then(|| format!("file {path} has to be transparent with {size} bytes"))
            })
        })
    }

    fn files_inconsistency(&self) -> Option<String> {
        if self.files.first().map(|file| file.path.fids()) != Some(&[FilePath::MF]) {
            return Some("the first of files has to be the MF, path 3F00".into());
        }
        for (place, file) in self.files.iter().enumerate() {
            let before = &self.files[..place];
            if before.iter().any(|other| other.path == file.path) {
                return Some(format!("file {} is defined twice", file.path));
            }
            if let Some(parent) = file.path.parent() {
                let known = before.iter().find(|other| other.path == parent);
                if !known.is_some_and(|parent| parent.structure.is_directory()) {
                    return Some(format!("file {}: define its directory {parent} before it", file.path));
                }
            }
            if self.access_rule(&file.access).is_none() {
                return Some(format!("file {}: no access_rules entry is named {}", file.path, file.access));
            }
            if let Some(other) = &file.same_as
                && !before.iter().any(|before| before.path == *other && before.structure == file.structure)
            {
                return Some(format!(
                    "file {}: define {other} before it, with the same structure",
                    file.path
                ));
            }
            if let Some(problem) = file.content_problem() {
                return Some(format!("file {}: {problem}", file.path));
            }
        }
        [&self.poll.file, &self.poll.mark]
            .into_iter()
            .find(|path| self.file(path).is_none())
            .map(|path| format!("poll: file {path} is not defined"))
    }

    fn applications_inconsistency(&self) -> Option<String> {
        let uplink = self.personalization.uplink_tar;
        if self.application_by_tar(uplink).is_some() {
            // A card's own message that came back to it would be a command.
            return Some(format!("personalization: uplink_tar {uplink} belongs to an application"));
        }
        for (place, application) in self.applications.iter().enumerate() {
            let before = &self.applications[..place];
            if before.iter().any(|other| other.tar == application.tar) {
                return Some(format!("TAR {} belongs to two applications", application.tar));
            }
            if before.iter().any(|other| other.aid == application.aid) {
                return Some(format!("AID {} belongs to two applications", application.aid));
            }
            if let Some(index) = application.key_sets.iter().find(|index| self.key_set(**index).is_none()) {
                return Some(format!("application {}: there is no key set {index}", application.tar));
            }
            if let Some(root) = &application.root
                && self.file(root).is_none()
            {
                return Some(format!("application {}: its root {root} is not defined", application.tar));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_profile_holds_together() {
        let profile = Profile::standard();
        assert_eq!(profile.name.as_str(), "standard");
        assert_eq!(profile.application(ApplicationKind::Isd).map(|isd| isd.tar), Some(Tar([0, 0, 0])));
        assert_eq!(
            profile.application_by_tar(Tar([0xB0, 0, 0x10])).map(|rfm| rfm.kind),
            Some(ApplicationKind::RfmUsim)
        );
        assert!(profile.file(&profile.poll.file).is_some());
    }

    #[test]
    fn a_profile_written_as_toml_reads_back() {
        let profile = Profile::standard();
        let text = toml::to_string(&profile).unwrap();
        assert_eq!(Profile::parse(&text).unwrap(), profile);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (from, to, expected) in [
            ("name = \"standard\"", "name = \"Standard\"", "profile name"),
            ("period_s =", "period_days =", "period_days"),
            ("access = \"public\"", "access = \"nobody\"", "nobody"),
            ("transparent = 16,", "transparent = 15,", "16 bytes"),
            ("tar = \"B00010\"", "tar = \"B00000\"", "two applications"),
            ("path = \"3F00/7F90\"", "path = \"3F00/7F91\"", "7F90"),
            ("key_sets = [1]", "key_sets = [9]", "key set 9"),
        ] {
            assert!(STANDARD_TEXT.contains(from), "{from}");
            let message = Profile::parse(&STANDARD_TEXT.replace(from, to)).unwrap_err().to_string();
            assert!(message.contains(expected), "{expected} not in: {message}");
        }
    }
}
