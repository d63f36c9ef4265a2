//! Service entitlement configuration (GSMA TS.43): what a device asks an entitlement server, and what it is answered.
//!
//! | module | holds |
//! |---|---|
//! | [`request`] | GET and POST: who asks for which applications |
//! | [`document`] | the answer, as XML or JSON |
//! | [`identity`] | identities of EAP-AKA: root NAIs, pseudonyms |
//! | [`relay`] | EAP packets inside HTTP |
//!
//! The delivery of sealed packets is an application of its own beside those that TS.43 knows. Its id is a setting
//! ([`OTA_APP_DEFAULT`]); in a document its parameters are [`OtaParameters`], in a POST it is the parameter
//! [`OTA_DATA`]. Both carry messages of [`crate::second_layer`].

pub mod document;
pub mod identity;
mod markup;
pub mod relay;
pub mod request;

use std::fmt;
use std::str::FromStr;

pub use document::{Application, Document, DocumentError, Form, OtaParameters, TokenGrant};
pub use identity::{EapIdentity, IdentityKind};
pub use relay::{RELAY_CONTENT_TYPE, RelayError};
pub use request::{Authentication, Request, RequestError};

/// The id of the delivery application unless a setting says another one: from the range for external use
/// (ap2001 to ap5999), where TS.43 has registered nothing.
pub const OTA_APP_DEFAULT: AppId = AppId(5901);
/// TS.43, 2.4: voice over Wi-Fi.
pub const VOWIFI_APP: AppId = AppId(2004);
/// Parameter of a POST: a message of the second layer from the device (`typ` uplinks).
pub const OTA_DATA: &str = "ota_data";
/// Content types of documents.
pub const XML_CONTENT_TYPE: &str = "text/vnd.wap.connectivity-xml";
/// See [`XML_CONTENT_TYPE`].
pub const JSON_CONTENT_TYPE: &str = "application/json";
/// What a device says it accepts in its first request.
pub const ACCEPT: &str = "application/vnd.gsma.eap-relay.v1.0+json, text/vnd.wap.connectivity-xml";
/// The same for a device that prefers JSON documents.
pub const ACCEPT_JSON: &str = "application/vnd.gsma.eap-relay.v1.0+json, application/json";

/// An application id: `ap` and four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppId(u16);

/// The text is not `ap` and four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an application id is ap and four digits, as in ap2004")]
pub struct AppIdError;

impl FromStr for AppId {
    type Err = AppIdError;

    fn from_str(text: &str) -> Result<AppId, AppIdError> {
        let (prefix, digits) = text.split_at_checked(2).ok_or(AppIdError)?;
        let holds = prefix.eq_ignore_ascii_case("ap")
            && digits.len() == 4
            && digits.bytes().all(|digit| digit.is_ascii_digit());
        if holds { digits.parse().map(AppId).map_err(|_| AppIdError) } else { Err(AppIdError) }
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ap{:04}", self.0)
    }
}

impl serde::Serialize for AppId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for AppId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<AppId, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn application_ids() {
        assert_eq!("AP2004".parse(), Ok(VOWIFI_APP));
        assert_eq!("ap0042".parse::<AppId>().unwrap().to_string(), "ap0042");
        for bad in ["", "ap", "ap200", "ap20045", "xp2004", "ap20a4", "ap+204", "äp2004"] {
            assert_eq!(bad.parse::<AppId>(), Err(AppIdError), "{bad}");
        }
    }
}
