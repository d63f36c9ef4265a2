//! Telling devices that something waits (GSMA TS.43, 2.6; RCC.14): a short message to port 8095, or a cloud push that
//! an operator's push service sends.

use std::path::Path;
use std::sync::Arc;

use simtide_protocol::entitlement::AppId;
use simtide_protocol::ids::{EpochMs, Imsi};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::config::Entitlement;
use super::source::PushAddress;
use crate::clock::Clock;
use crate::registers::http;
use crate::shell::delivery::Notifier;
use crate::shell::sending::Outbox;
use crate::store::Card;

/// UDH of the message: application ports, 16 bit, destination 8095, originator 0 (3GPP TS 23.040, 9.2.3.24.4).
const UDH: [u8; 7] = [0x06, 0x05, 0x04, 0x1F, 0x9F, 0x00, 0x00];
/// How long the SMSC may keep the message: a device that comes back later asks by itself.
const VALIDITY_S: u32 = 3_600;
/// Pushes under way; more are left out, devices ask by themselves.
const PUSHES_MAX: usize = 64;
/// Longest answer of a push service that is read.
const ANSWER_BYTES_MAX: usize = 4_096;

/// The user data of a notification: UDH, then `<IMSI>-aescfg,<app>` in 8 bits.
pub fn message(imsi: Imsi, app: AppId) -> Vec<u8> {
    [&UDH[..], format!("{imsi}-aescfg,{app}").as_bytes()].concat()
}

/// What is handed to `push_url`: where to, and what the device gets.
pub fn push_body(address: &PushAddress, app: AppId, now: EpochMs) -> serde_json::Value {
    serde_json::json!({
        "notif_token": address.token,
        "notif_action": address.action,
        "data": { "app": [app.to_string()], "timestamp": now.to_string() },
    })
}

/// Tells devices by push where they have asked for it, else by SMS.
pub struct Notifications {
    outbox: Outbox,
    clock: Clock,
    app: AppId,
    by_sms: bool,
    push: Option<Push>,
    under_way: Arc<Semaphore>,
}

struct Push {
    client: reqwest::Client,
    url: String,
    token: Zeroizing<String>,
}

/// Why devices cannot be told by push.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The token file.
    #[error("entitlement.push_token_file {path} cannot be read: {source}")]
    Token {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The client.
    #[error("entitlement.push_url cannot be used: {0}")]
    Client(#[from] reqwest::Error),
}

impl Notifications {
    /// As the settings say.
    pub fn new(settings: &Entitlement, clock: Clock, outbox: Outbox) -> Result<Notifications, PushError> {
        let push = if settings.push_url.is_empty() {
            None
        } else {
            let token = read_token(&settings.push_token_file)?;
            Some(Push { client: http::plain().build()?, url: settings.push_url.clone(), token })
        };
        Ok(Notifications {
            outbox,
            clock,
            app: settings.ota_app,
            by_sms: settings.notify_by_sms,
            push,
            under_way: Arc::new(Semaphore::new(PUSHES_MAX)),
        })
    }

    fn push(&self, push: &Push, address: &PushAddress) {
        let Ok(permit) = self.under_way.clone().try_acquire_owned() else { return };
        let body = push_body(address, self.app, self.clock.now());
        let request = push.client.post(&push.url).bearer_auth(push.token.as_str()).json(&body);
        tokio::spawn(async move {
            match http::exchange(request, ANSWER_BYTES_MAX).await {
                Ok((status, _)) if status.is_success() => {}
                Ok((status, _)) => tracing::warn!(%status, "the push service refused"),
                Err(error) => tracing::warn!(%error, "the push service does not answer"),
            }
            drop(permit);
        });
    }
}

impl Notifier for Notifications {
    fn something_waits(&self, card: &Card, address: Option<PushAddress>) {
        match (&self.push, address) {
            (Some(push), Some(address)) => self.push(push, &address),
            (None | Some(_), None) | (None, Some(_)) => {
                let Some(imsi) = card.record.imsi.filter(|_| self.by_sms) else { return };
                self.outbox.tell_device(card, message(imsi, self.app), VALIDITY_S);
            }
        }
    }
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, PushError> {
    if path.as_os_str().is_empty() {
        return Ok(Zeroizing::default());
    }
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|source| PushError::Token { path: path.to_owned(), source })?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use simtide_protocol::entitlement::OTA_APP_DEFAULT;

    #[test]
    fn the_message_that_wakes_a_client() {
        let text = message("001010000000001".parse().unwrap(), OTA_APP_DEFAULT);
        assert_eq!(hex::encode(&text[..7]), "0605041f9f0000");
        assert_eq!(&text[7..], b"001010000000001-aescfg,ap5901");
    }

    #[test]
    fn what_a_push_service_gets() {
        let address = PushAddress { token: "t".into(), action: 2 };
        let body = push_body(&address, OTA_APP_DEFAULT, EpochMs(0));
        assert_eq!(
            body,
            serde_json::json!({
                "notif_token": "t",
                "notif_action": 2,
                "data": {"app": ["ap5901"], "timestamp": "1970-01-01T00:00:00Z"},
            })
        );
    }
}
