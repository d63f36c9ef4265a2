//! Telling devices that something waits (GSMA TS.43, 2.6; RCC.14): a short message to port 8095, or a cloud push that
//! an operator's push service sends.
//!
//! A push is handed over signed, as everything that the platform tells an operator, and again where the service was
//! not there or too busy. Where it will not take it, the short message goes instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
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
use crate::shell::subscription::{SIGNATURE_HEADER, signature};
use crate::store::Card;

/// UDH of the message: application ports, 16 bit, destination 8095, originator 0 (3GPP TS 23.040, 9.2.3.24.4).
const UDH: [u8; 7] = [0x06, 0x05, 0x04, 0x1F, 0x9F, 0x00, 0x00];
/// How long the SMSC may keep the message: a device that comes back later asks by itself.
const VALIDITY_S: u32 = 3_600;
/// Pushes under way; for more the short message goes at once.
const PUSHES_MAX: usize = 64;
/// How often a push is handed over at most.
const PUSH_ATTEMPTS_MAX: u32 = 5;
/// Pause before the second attempt; doubled before each further one.
const PUSH_PAUSE: Duration = Duration::from_millis(500);
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
    by_sms: Option<Arc<BySms>>,
    push: Option<Arc<Push>>,
    clock: Clock,
    app: AppId,
    under_way: Arc<Semaphore>,
}

/// The short message to port 8095.
struct BySms {
    outbox: Outbox,
    app: AppId,
}

/// An operator's push service.
struct Push {
    client: reqwest::Client,
    url: String,
    token: Zeroizing<String>,
    /// Key of the signature; empty: none.
    secret: Zeroizing<String>,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushed {
    Taken,
    /// It will not be taken.
    Refused(StatusCode),
    /// It may be taken later.
    Busy,
}

/// Why devices cannot be told by push.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// A file of the settings.
    #[error("entitlement.{key} {path} cannot be read: {source}")]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The client.
    #[error("entitlement.push_url cannot be used: {0}")]
    Client(#[from] reqwest::Error),
}

impl Notifications {
    /// As the settings say.
    ///
    /// # Errors
    /// A file that the settings name cannot be read, or the system gives no HTTP client.
    pub fn new(settings: &Entitlement, clock: Clock, outbox: Outbox) -> Result<Notifications, PushError> {
        let push = if settings.push_url.is_empty() {
            None
        } else {
            let token = read_secret("push_token_file", &settings.push_token_file)?;
            let secret = read_secret("push_secret_file", &settings.push_secret_file)?;
            let (client, url) = (http::plain().build()?, settings.push_url.clone());
            Some(Arc::new(Push { client, url, token, secret }))
        };
        let app = settings.ota_app;
        let by_sms = settings.notify_by_sms.then(|| Arc::new(BySms { outbox, app }));
        Ok(Notifications { by_sms, push, clock, app, under_way: Arc::new(Semaphore::new(PUSHES_MAX)) })
    }
}

impl Notifier for Notifications {
    fn something_waits(&self, card: &Card, address: Option<PushAddress>) {
        let by_sms = self.by_sms.clone();
        let permit = self.under_way.clone().try_acquire_owned();
        if let (Some(push), Some(address), Ok(permit)) = (&self.push, address, permit) {
            let body = push_body(&address, self.app, self.clock.now()).to_string();
            let (push, card) = (push.clone(), card.clone());
            tokio::spawn(async move {
                if !push.hand_over(&body).await
                    && let Some(by_sms) = by_sms
                {
                    by_sms.tell(&card);
                }
                drop(permit);
            });
        } else if let Some(by_sms) = by_sms {
            by_sms.tell(card);
        }
    }
}

impl BySms {
    fn tell(&self, card: &Card) {
        let Some(imsi) = card.record.imsi else { return };
        if !self.outbox.tell_device(card, message(imsi, self.app), VALIDITY_S) {
            tracing::debug!(card = %card.record.id, "no link took a notification; the device asks by itself");
        }
    }
}

impl Push {
    /// Hands a push over, again where the service is away or busy; answers whether it was taken.
    async fn hand_over(&self, body: &str) -> bool {
        for attempt in 1..=PUSH_ATTEMPTS_MAX {
            match self.attempt(body).await {
                Pushed::Taken => return true,
                Pushed::Refused(status) => {
                    tracing::warn!(%status, "the push service refused");
                    return false;
                }
                Pushed::Busy if attempt < PUSH_ATTEMPTS_MAX => {
                    tokio::time::sleep(PUSH_PAUSE * 2_u32.pow(attempt - 1)).await;
                }
                Pushed::Busy => {}
            }
        }
        tracing::warn!(attempts = PUSH_ATTEMPTS_MAX, "the push service does not take a push");
        false
    }

    async fn attempt(&self, body: &str) -> Pushed {
        let mut request = self.client.post(&self.url).header("content-type", "application/json");
        if !self.token.is_empty() {
            request = request.bearer_auth(self.token.as_str());
        }
        if !self.secret.is_empty() {
            // Receivers compare with their own clocks, however fast campaign time passes.
            let unix_s = Clock::REAL.now().seconds();
            let value = signature(self.secret.as_bytes(), unix_s, body.as_bytes());
            request = request.header(SIGNATURE_HEADER, value);
        }
        match http::exchange(request.body(body.to_owned()), ANSWER_BYTES_MAX).await {
            Ok((status, _)) if status.is_success() => Pushed::Taken,
            Ok((StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _)) => Pushed::Busy,
            Ok((status, _)) if status.is_server_error() => Pushed::Busy,
            Ok((status, _)) => Pushed::Refused(status),
            Err(error) => {
                tracing::info!(%error, "the push service does not answer");
                Pushed::Busy
            }
        }
    }
}

fn read_secret(key: &'static str, path: &Path) -> Result<Zeroizing<String>, PushError> {
    if path.as_os_str().is_empty() {
        return Ok(Zeroizing::default());
    }
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|source| PushError::File { key, path: path.to_owned(), source })?;
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
