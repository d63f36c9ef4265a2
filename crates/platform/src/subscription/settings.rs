//! What the platform knows of an operator, and what two operators have agreed on: the JSON of their directory rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{Imsi, Msisdn};

use crate::content::HexBytes;

/// IMSI ranges of an operator at most.
pub const IMSI_RANGES_MAX: usize = 64;
/// Characters of the code that users enter at most.
pub const ID_MNO_CHARS_MAX: usize = 16;
/// Characters of the name that users see at most: it stands in a menu and in a question on a small display.
pub const DISPLAY_NAME_CHARS_MAX: usize = 32;
/// Bytes of a file's new content at most; all files of a personalization share its message.
pub const FILE_BYTES_MAX: usize = 255;

/// Everything about an operator that is not its row: stored as JSON, no secret but sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OperatorSettings {
    /// IdMNO: the code of the operator's leaflet, unique. Letters and digits, at most [`ID_MNO_CHARS_MAX`].
    pub id_mno: String,
    /// As users see it.
    pub display_name: String,
    /// Mobile country code, three digits.
    pub mcc: String,
    /// Mobile network code, two or three digits.
    pub mnc: String,
    /// Identities that are this operator's; empty: all that begin with MCC and MNC.
    pub imsi_ranges: Vec<ImsiRange>,
    /// Where its subscribers are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub register: Option<RegisterSettings>,
    /// Names of the SMPP links that reach its subscribers; empty: all links.
    pub smpp_links: Vec<String>,
    /// What it wants to hear before one of its cards leaves.
    pub consent: ConsentRule,
    /// Where it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback: Option<Callback>,
    /// The user is asked on the device before the card takes this operator's identity.
    pub confirm_by_user: bool,
    /// The card keeps its old identity until this operator's identity has authenticated.
    pub guarded_swap: bool,
    /// A successful EAP-AKA against this operator's register counts as its attach.
    pub eap_aka_counts_as_seen: bool,
    /// By which bearer its new subscribers get their identity.
    pub bearer: Bearer,
    /// Where its cards send: the platform's number in its network. `None`: as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_number: Option<Msisdn>,
    /// Transport key for identities from this operator, a record of the vault as hex; empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sealed_transport_key: String,
    /// New content of the files that change with the operator, by the names of `docs/card-profile.md`: `acc`, `ad`,
    /// `smsp`, `spn`, `ehplmn`, ...
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, HexBytes>,
}

/// What operator 1 wants to hear before one of its cards leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsentRule {
    /// Nothing leaves before it has said yes.
    Ask,
    /// Nothing leaves before it has acknowledged that it was told.
    InformBefore,
    /// It is told when the card has left.
    #[default]
    InformAfter,
}

/// By which bearer the personalization message goes. Whatever is set, a poll takes a message that has not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bearer {
    /// Short messages, at once.
    #[default]
    Sms,
    /// The card's next poll; short messages where none comes in [`super::POLL_WITHIN_S`].
    Poll,
}

/// Identities from first to last, both with the same number of digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImsiRange {
    /// The first.
    pub first: Imsi,
    /// The last.
    pub last: Imsi,
}

impl ImsiRange {
    /// Whether it is one of them.
    pub fn contains(&self, imsi: Imsi) -> bool {
        let (first, last, wanted) = (self.first.to_string(), self.last.to_string(), imsi.to_string());
        // Digits of the same length compare as numbers do.
        wanted.len() == first.len() && wanted.len() == last.len() && first <= wanted && wanted <= last
    }
}

/// Which register, and how it is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegisterSettings {
    /// What speaks there.
    pub kind: RegisterKind,
    /// Addresses by protocol: `gateway`, `ctrl`, `gsup`, `rest`; plain protocols to loopback only.
    pub addresses: BTreeMap<String, String>,
    /// PEM file with the authority that signs the register's certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca: String,
    /// PEM file with our certificate towards it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// PEM file with the key of our certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Database of our own authentication centre or of the pool that the platform keeps itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub database: String,
}

/// Back ends of the register boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegisterKind {
    /// OsmoHLR by CTRL and GSUP.
    OsmoHlr,
    /// PyHSS by REST.
    Pyhss,
    /// Our own authentication centre.
    Own,
    /// A register gateway in the operator's network.
    #[default]
    Gateway,
}

/// Where an operator is told, by signed HTTP requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Callback {
    /// `https://...`, or `http://` to loopback.
    pub url: String,
    /// Key of the signature, a record of the vault as hex.
    pub sealed_secret: String,
}

/// What two operators have agreed on for cards that go from one to the other; what is not said is as the operators'
/// own settings say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgreementTerms {
    /// Instead of operator 1's rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent: Option<ConsentRule>,
    /// Instead of operator 2's rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_by_user: Option<bool>,
    /// Instead of operator 2's rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guarded_swap: Option<bool>,
    /// Instead of operator 2's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer: Option<Bearer>,
    /// No new changes for the time being; open ones go on.
    pub suspended: bool,
    /// Until when operator 1 may answer, in seconds; `None`: [`super::CONSENT_WITHIN_S`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consent_within_s: Option<u32>,
}

/// What is wrong with an operator's settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The code.
    #[error("id_mno must be 1 to {ID_MNO_CHARS_MAX} letters or digits: users enter it")]
    IdMno,
    /// The name.
    #[error("display_name must be 1 to {DISPLAY_NAME_CHARS_MAX} characters: users see it")]
    DisplayName,
    /// MCC or MNC.
    #[error("give mcc as three digits and mnc as two or three")]
    Plmn,
    /// A range.
    #[error(
        "imsi_ranges: range {0} must begin with mcc and mnc, first before last, with the same number of digits"
    )]
    Range(usize),
    /// Too many ranges.
    #[error("imsi_ranges: at most {IMSI_RANGES_MAX}, join them")]
    RangesMax,
    /// The callback.
    #[error("callback.url must begin with https://, or with http:// and a loopback address")]
    Callback,
    /// A file.
    #[error("files.{0} is longer than {FILE_BYTES_MAX} bytes: shorten it")]
    File(String),
}

impl OperatorSettings {
    /// MCC and MNC.
    pub fn plmn(&self) -> String {
        format!("{}{}", self.mcc, self.mnc)
    }

    /// Whether an identity is this operator's.
    pub fn owns(&self, imsi: Imsi) -> bool {
        imsi.to_string().starts_with(&self.plmn())
            && (self.imsi_ranges.is_empty() || self.imsi_ranges.iter().any(|range| range.contains(imsi)))
    }

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), SettingsError> {
        let count = self.id_mno.chars().count();
        if !(1..=ID_MNO_CHARS_MAX).contains(&count)
            || !self.id_mno.chars().all(|one| one.is_ascii_alphanumeric())
        {
            return Err(SettingsError::IdMno);
        }
        let shown = self.display_name.chars();
        if !(1..=DISPLAY_NAME_CHARS_MAX).contains(&shown.clone().count())
            || shown.into_iter().any(char::is_control)
        {
            return Err(SettingsError::DisplayName);
        }
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if self.mcc.len() != 3 || !(2..=3).contains(&self.mnc.len()) || !digits(&self.plmn()) {
            return Err(SettingsError::Plmn);
        }
        if self.imsi_ranges.len() > IMSI_RANGES_MAX {
            return Err(SettingsError::RangesMax);
        }
        for (place, range) in self.imsi_ranges.iter().enumerate() {
            let ends = [range.first.to_string(), range.last.to_string()];
            if !ends.iter().all(|end| end.starts_with(&self.plmn())) || !range.contains(range.first) {
                return Err(SettingsError::Range(place));
            }
        }
        if self.callback.as_ref().is_some_and(|callback| !is_safe_url(&callback.url)) {
            return Err(SettingsError::Callback);
        }
        let long = self.files.iter().find(|(_, content)| content.0.len() > FILE_BYTES_MAX);
        long.map_or(Ok(()), |(name, _)| Err(SettingsError::File(name.clone())))
    }
}

/// Reports name cards and identities: nothing of it crosses a network in clear.
fn is_safe_url(url: &str) -> bool {
    let host = |rest: &str| rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
    match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => !host(rest).is_empty(),
        (None, Some(rest)) => {
            let host = host(rest);
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
            name == "127.0.0.1" || name == "localhost" || name == "[::1]"
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator() -> OperatorSettings {
        OperatorSettings {
            id_mno: "26201".into(),
            display_name: "Example Two".into(),
            mcc: "001".into(),
            mnc: "02".into(),
            imsi_ranges: vec![ImsiRange {
                first: "001020000000100".parse().unwrap(),
                last: "001020000000199".parse().unwrap(),
            }],
            ..OperatorSettings::default()
        }
    }

    #[test]
    fn ranges_own_identities() {
        let settings = operator();
        assert_eq!(settings.check(), Ok(()));
        for (imsi, owned) in [
            ("001020000000100", true),
            ("001020000000199", true),
            ("001020000000200", false),
            ("00102000000015", false),
            ("001010000000150", false),
        ] {
            assert_eq!(settings.owns(imsi.parse().unwrap()), owned, "{imsi}");
        }
        let all = OperatorSettings { imsi_ranges: vec![], ..settings };
        assert!(all.owns("001020000000200".parse().unwrap()));
        assert!(!all.owns("001010000000200".parse().unwrap()));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let wrong = |change: fn(&mut OperatorSettings)| {
            let mut settings = operator();
            change(&mut settings);
            settings.check()
        };
        assert_eq!(wrong(|settings| settings.id_mno = "2 6".into()), Err(SettingsError::IdMno));
        assert_eq!(wrong(|settings| settings.id_mno.clear()), Err(SettingsError::IdMno));
        assert_eq!(wrong(|settings| settings.display_name = "x".repeat(33)), Err(SettingsError::DisplayName));
        assert_eq!(wrong(|settings| settings.mnc = "2".into()), Err(SettingsError::Plmn));
        assert_eq!(wrong(|settings| settings.mcc = "26a".into()), Err(SettingsError::Plmn));
        let swapped = wrong(|settings| {
            let range = &mut settings.imsi_ranges[0];
            std::mem::swap(&mut range.first, &mut range.last);
        });
        assert_eq!(swapped, Err(SettingsError::Range(0)));
        for url in ["ftp://x", "http://example.org/", "https://", "http://127.0.0.1.example.org/"] {
            let mut settings = operator();
            settings.callback = Some(Callback { url: url.into(), ..Callback::default() });
            assert_eq!(settings.check(), Err(SettingsError::Callback), "{url}");
        }
        let mut settings = operator();
        settings.callback = Some(Callback { url: "http://127.0.0.1:9/x".into(), ..Callback::default() });
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn json_both_ways_and_no_unknown_keys() {
        let settings = operator();
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<OperatorSettings>(&text).unwrap(), settings);
        assert_eq!(serde_json::from_str::<OperatorSettings>("{}").unwrap(), OperatorSettings::default());
        assert!(serde_json::from_str::<OperatorSettings>(r#"{"id_mnx":"1"}"#).is_err());
        assert!(serde_json::from_str::<AgreementTerms>(r#"{"consent":"ask"}"#).is_ok());
    }
}
