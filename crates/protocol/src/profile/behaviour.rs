//! How a card behaves where standards leave room, or where cards in the field differ.

use crate::ids::Tar;
use crate::personalization::{OperatorEntry, Protection};
use serde::{Deserialize, Serialize};

/// What pads the ciphered part of a proof of receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PorPadding {
    /// `00 00 ..`, as the standard says.
    #[default]
    #[serde(rename = "00")]
    Zeros,
    /// `80 00 ..`, as some AES cards do.
    #[serde(rename = "80")]
    Iso,
}

/// How the card's receiver of secured packets behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scp80Behaviour {
    /// A packet that fails its checks is answered with `62 00` and no proof of receipt at all.
    pub silent_on_security_error: bool,
    /// What pads a ciphered proof of receipt.
    pub por_padding: PorPadding,
    /// Where the proof comes by SMS-SUBMIT, the ENVELOPE is answered with status 0B first instead of `90 00`.
    pub announces_por_by_submit: bool,
    /// Error proofs are sent unprotected, whatever the command asked for.
    pub unprotected_error_por: bool,
    /// The answer to a concatenated command never takes more than one SMS; longer ones are cut (`62 F1`).
    pub single_sms_por: bool,
    /// After files have changed, the card sends REFRESH by itself.
    pub refresh_after_update: bool,
    /// The platform may use single DES with these cards: they know nothing better.
    pub single_des_allowed: bool,
    /// The platform may go below an application's minimum security level.
    pub below_minimum_allowed: bool,
}

/// How the body of a message is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResponseFraming {
    /// Content-Length.
    #[default]
    ContentLength,
    /// Chunks.
    Chunked,
}

/// How the retry timer of a trigger is coded (tag 25 in 86).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryTimerCoding {
    /// Swapped semi-octets (ETSI TS 102 223, 8.38).
    #[default]
    SemiOctets,
    /// Plain binary, as one implementation writes it.
    Binary,
}

/// How the card's administration over HTTPS behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scp81Behaviour {
    /// How the server frames its answers.
    pub response_framing: ResponseFraming,
    /// How the card frames its requests with a body.
    pub request_framing: ResponseFraming,
    /// Whether the server may negotiate encrypt_then_mac; some cards abort when it does.
    pub encrypt_then_mac: bool,
    /// How the retry timer of a trigger is coded.
    pub retry_timer: RetryTimerCoding,
    /// Largest script in one answer, in bytes.
    pub script_bytes_max: u32,
    /// Whether the card tells the server that it resumes a broken dialogue (`X-Admin-Resume`).
    pub resumes: bool,
}

impl Default for Scp81Behaviour {
    fn default() -> Self {
        Self {
            response_framing: ResponseFraming::ContentLength,
            request_framing: ResponseFraming::ContentLength,
            encrypt_then_mac: true,
            retry_timer: RetryTimerCoding::SemiOctets,
            script_bytes_max: 16_384,
            resumes: true,
        }
    }
}

/// What a card calls itself in TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PskIdentityForm {
    /// The digits of the ICCID.
    Iccid,
    /// An eUICC's identity: EID, AID, key id and version as a TLV in hex (GlobalPlatform Amendment B).
    Euicc,
    /// Whatever the import said.
    Imported,
}

/// The pre-shared key of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PskSettings {
    /// What the card calls itself.
    pub identity_form: PskIdentityForm,
    /// Key version, 64 to 79 (`40` to `4F`).
    pub key_version: u8,
    /// Key id, from 1.
    pub key_id: u8,
}

/// Where a card polls unless it has been told otherwise; STORE DATA and triggers overrule it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdministrationServer {
    /// IPv4 or IPv6 address.
    pub address: std::net::IpAddr,
    /// TCP port.
    pub port: u16,
    /// The access point name; empty where the device's default bearer is enough.
    #[serde(default)]
    pub access_point: String,
    /// The name in the Host header.
    pub host: String,
    /// Path and query of the first request.
    pub uri: String,
    /// Bytes that the device should buffer for the channel.
    pub buffer_bytes: u16,
}

/// The personalization application of the profile's cards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PersonalizationSettings {
    /// How the admin code protects a message.
    pub protection: Protection,
    /// Wrong admin codes before the application locks, 1 to 15.
    pub attempts: u8,
    /// What the card's own messages are for; a TAR that none of its applications has.
    pub uplink_tar: Tar,
    /// Where the card's own messages go, digits with or without a plus; empty: it sends none.
    pub service_number: String,
    /// Whether the card offers a menu for changing the operator.
    pub menu: bool,
    /// The operators of the menu until the card has been given others.
    pub operators: Vec<OperatorEntry>,
}

impl Default for PersonalizationSettings {
    fn default() -> Self {
        Self {
            protection: Protection::AdminCode,
            attempts: 5,
            uplink_tar: Tar([0xBF, 0xFF, 0x21]),
            service_number: String::new(),
            menu: false,
            operators: Vec::new(),
        }
    }
}

/// PINs and administrative codes of the profile's cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PinSettings {
    /// Whether PIN 1 is asked for; while it is disabled, its condition counts as met.
    pub pin1_enabled: bool,
    /// Attempts at a PIN before it is blocked, 1 to 15.
    pub attempts: u8,
    /// Attempts at the unblocking code of a PIN, 1 to 15.
    pub unblock_attempts: u8,
    /// Attempts at an administrative code, 1 to 15.
    pub administrative_attempts: u8,
}

impl Default for PinSettings {
    fn default() -> Self {
        Self { pin1_enabled: false, attempts: 3, unblock_attempts: 10, administrative_attempts: 10 }
    }
}
