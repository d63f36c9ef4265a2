//! What the client module is given when it is built.

use simtide_protocol::entitlement::{AppId, OTA_APP_DEFAULT};
use simtide_protocol::second_layer::Known;

/// The usual [`ClientSettings::sms_after_s`]: a lift, a tunnel or a restart of the server costs no messages.
pub const SMS_AFTER_S: u32 = 900;

/// Settings of the client module; a fleet shares one for many devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Host of the server's URL, without port: goes into the keys of the second layer.
    pub server_name: String,
    /// The application that packets are delivered by.
    pub app: AppId,
    /// IMEI or UUID.
    pub terminal_id: String,
    /// Maker, at most four characters.
    pub terminal_vendor: String,
    /// Model, at most ten characters.
    pub terminal_model: String,
    /// AKA' instead of AKA.
    pub aka_prime: bool,
    /// Use pseudonyms that the server gives out: the IMSI travels the first time only.
    pub pseudonyms: bool,
    /// Use identities for fast re-authentication that the server gives out: the card is not asked then.
    pub fast_reauthentication: bool,
    /// Time between two queries when nothing happens, in seconds; the server may ask for less.
    pub period_s: u32,
    /// How long the server may be out of reach before answers leave by short message, in seconds; 0: they never do.
    pub sms_after_s: u32,
    /// Where a cloud push reaches this device, where one does.
    pub push: Option<Push>,
    /// Versions that the card is known to have.
    pub known: Known,
}

/// Where a cloud push goes (GSMA TS.43, 2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// `notif_token`: what the push service knows the device by.
    pub token: String,
    /// `notif_action`, which service: 1 GCM, 2 FCM, 3 WNS, 4 APNS.
    pub action: u8,
}

impl ClientSettings {
    /// Everything that goes without saying for a server of this name and a device with this IMEI.
    pub fn of(server_name: &str, imei: &[u8; 15]) -> Self {
        Self {
            server_name: server_name.to_ascii_lowercase(),
            app: OTA_APP_DEFAULT,
            terminal_id: imei.iter().map(|digit| char::from(*digit)).collect(),
            terminal_vendor: "SMTD".to_owned(),
            terminal_model: "device".to_owned(),
            aka_prime: false,
            pseudonyms: false,
            fast_reauthentication: false,
            period_s: 86_400,
            sms_after_s: SMS_AFTER_S,
            push: None,
            known: Known::default(),
        }
    }
}
