//! What a campaign does: steps on the card, or a change of operator.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;
use std::collections::BTreeMap;

use crate::content::{Content, Step};
use crate::subscription::{BulkSettings, BulkSettingsError, REFERENCE_BYTES_MAX};

/// Longest name of an operator in bytes.
pub const OPERATOR_NAME_BYTES_MAX: usize = 200;

/// What a campaign does. The JSON is that of [`Content`], or one key:
///
/// ```json
/// { "change_operator": { "to": "two", "consent": { "when": "2026-11-20T10:00:00Z", "reference": "contract 4711" },
///                        "limits": { "per_minute_max": 600, "canary": 20, "failed_percent_max": 5 } } }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Keys", untagged)]
pub enum CampaignContent {
    /// Steps on the card, offered in its polls.
    Steps(Content),
    /// Every card gets another operator.
    ChangeOperator {
        /// Which, and how.
        change_operator: ChangeOperator,
    },
}

/// Cards that go to another operator, each by a change of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeOperator {
    /// Name or IdMNO of the operator.
    pub to: String,
    /// Whoever uses the cards has agreed; kept with every change.
    pub consent: BulkConsent,
    /// Rate and thresholds.
    #[serde(default)]
    pub limits: BulkSettings,
}

/// The agreement of whoever uses the cards: of a fleet's owner, say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BulkConsent {
    /// When.
    pub when: EpochMs,
    /// Reference of the operator's own records, at most [`REFERENCE_BYTES_MAX`] bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reference: String,
}

/// Why a change of operator is no content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeOperatorError {
    /// The operator.
    #[error("change_operator.to: give the name or the IdMNO of the operator")]
    To,
    /// The reference.
    #[error("change_operator.consent.reference has at most {REFERENCE_BYTES_MAX} bytes")]
    Reference,
    /// Rate or thresholds.
    #[error("change_operator.{0}")]
    Limits(#[from] BulkSettingsError),
}

impl ChangeOperator {
    /// Refuses what cannot work anywhere.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ChangeOperatorError> {
        if self.to.is_empty() || self.to.len() > OPERATOR_NAME_BYTES_MAX {
            return Err(ChangeOperatorError::To);
        }
        if self.consent.reference.len() > REFERENCE_BYTES_MAX {
            return Err(ChangeOperatorError::Reference);
        }
        Ok(self.limits.check()?)
    }
}

impl CampaignContent {
    /// The steps, where it is steps.
    pub fn steps(&self) -> Option<&Content> {
        match self {
            CampaignContent::Steps(content) => Some(content),
            CampaignContent::ChangeOperator { .. } => None,
        }
    }
}

impl From<Content> for CampaignContent {
    fn from(content: Content) -> CampaignContent {
        CampaignContent::Steps(content)
    }
}

impl From<ChangeOperator> for CampaignContent {
    fn from(change_operator: ChangeOperator) -> CampaignContent {
        CampaignContent::ChangeOperator { change_operator }
    }
}

/// All keys that a content may have, so that a wrong one is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    change_operator: Option<ChangeOperator>,
    repeatable: Option<bool>,
    provides: Option<BTreeMap<String, String>>,
    variants: Option<BTreeMap<String, Vec<Step>>>,
}

impl TryFrom<Keys> for CampaignContent {
    type Error = &'static str;

    fn try_from(keys: Keys) -> Result<Self, Self::Error> {
        let Keys { change_operator, repeatable, provides, variants } = keys;
        match (change_operator, variants) {
            (Some(change_operator), None) if repeatable.is_none() && provides.is_none() => {
                Ok(Self::ChangeOperator { change_operator })
            }
            (Some(_), _) => Err("content has either `variants` or `change_operator`: leave one of them out"),
            (None, Some(variants)) => Ok(Self::Steps(Content {
                repeatable: repeatable.unwrap_or_default(),
                provides: provides.unwrap_or_default(),
                variants,
            })),
            (None, None) => Err("content is missing `variants` (or `change_operator`)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CampaignContent, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn json_both_ways() {
        let steps = r#"{"repeatable":true,"variants":{"*":[]}}"#;
        let change = r#"{"change_operator":{"to":"two","consent":{"when":"2026-11-20T10:00:00Z","reference":"4711"},"limits":{"per_minute_max":60,"open_max":100,"canary":5,"failed_percent_max":5,"unknown_max":10}}}"#;
        for text in [steps, change] {
            assert_eq!(serde_json::to_string(&read(text).unwrap()).unwrap(), text);
        }
        assert!(read(steps).unwrap().steps().is_some());
        let short = read(r#"{"change_operator":{"to":"two","consent":{"when":"2026-11-20T10:00:00Z"}}}"#);
        let CampaignContent::ChangeOperator { change_operator } = short.unwrap() else { panic!("steps") };
        assert_eq!(change_operator.limits, BulkSettings::default());
        assert_eq!(change_operator.check(), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let consent = r#""consent":{"when":"2026-11-20T10:00:00Z"}"#;
        for (text, says) in [
            ("{}".to_owned(), "variants"),
            (r#"{"steps":[]}"#.to_owned(), "unknown field `steps`"),
            (format!(r#"{{"change_operator":{{"to":"x",{consent}}},"variants":{{}}}}"#), "either"),
            (format!(r#"{{"change_operator":{{"to":"x",{consent}}},"repeatable":true}}"#), "either"),
            (format!(r#"{{"change_operator":{{{consent}}}}}"#), "missing field `to`"),
            (r#"{"change_operator":{"to":"x"}}"#.to_owned(), "missing field `consent`"),
            (format!(r#"{{"change_operator":{{"to":"x",{consent},"limits":{{"rate":1}}}}}}"#), "rate"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let mut change = ChangeOperator {
            to: String::new(),
            consent: BulkConsent { when: EpochMs(0), reference: "x".repeat(65) },
            limits: BulkSettings { per_minute_max: 0, ..BulkSettings::default() },
        };
        assert_eq!(change.check(), Err(ChangeOperatorError::To));
        change.to = "two".to_owned();
        assert_eq!(change.check(), Err(ChangeOperatorError::Reference));
        change.consent.reference.clear();
        let error = change.check().unwrap_err().to_string();
        assert_eq!(error, "change_operator.limits.per_minute_max is 0: give 1 to 60000");
    }
}
