//! What operator 1 is asked and told: signed HTTP requests to its callback, one per command; the change repeats them
//! until they are acknowledged.
//!
//! The body is JSON. The header [`SIGNATURE_HEADER`] says `t=<Unix seconds>,v1=<hex>`: HMAC-SHA-256 under the shared secret
//! over the seconds, a full stop and the body. A receiver checks the signature, refuses old times, and answers 2xx as soon
//! as it has the message durably; the same message may come again.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use simtide_platform::subscription::{Change, Notice, OperatorSettings};

use super::Changes;
use crate::shell::keyring::OperatorSecret;
use crate::store::OperatorId;

/// Header that carries time and signature.
pub const SIGNATURE_HEADER: &str = "simtide-signature";
/// How long operator 1 may take for an answer, in real time.
const CALLBACK_LIMIT: Duration = Duration::from_secs(20);

/// The client of all callbacks.
pub(super) struct Callbacks(Option<reqwest::Client>);

impl Callbacks {
    pub(super) fn new() -> Callbacks {
        let client = reqwest::Client::builder()
            .timeout(CALLBACK_LIMIT)
            // A message about a card does not follow where a stranger points.
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Callbacks(
            client.inspect_err(|error| tracing::error!(%error, "operators cannot be told anything")).ok(),
        )
    }
}

/// The value of [`SIGNATURE_HEADER`] for a body at a time.
pub fn signature(secret: &[u8], unix_s: i64, body: &[u8]) -> String {
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(unix_s.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("t={unix_s},v1={}", hex::encode(mac.finalize().into_bytes()))
}

impl Changes {
    /// Asks operator 1 for its consent; the answer comes by the API.
    pub(super) async fn ask_consent(&self, change: &Change) {
        self.post(change, "consent").await;
    }

    /// Tells operator 1; answers whether it has acknowledged. Without a callback it counts as told.
    pub(super) async fn inform(&self, change: &Change, notice: Notice) -> bool {
        let kind = match notice {
            Notice::Before => "leaving",
            Notice::After => "left",
        };
        self.post(change, kind).await.unwrap_or(true)
    }

    /// `None`: the operator has no callback.
    async fn post(&self, change: &Change, kind: &str) -> Option<bool> {
        let operator = OperatorId(change.from.operator);
        let catalogue = self.core.catalogue();
        let settings: &OperatorSettings = catalogue.operator(operator)?.settings.as_deref()?;
        let callback = settings.callback.as_ref()?;
        let body = json!({
            "type": kind,
            "change": change.id,
            "card": change.card,
            "imsi": change.imsi,
            "msisdn": change.msisdn,
            "from": change.from.id_mno,
            "to": change.to.id_mno,
            "to_name": change.to.name,
            "state": change.state.name(),
            "agreed_at": change.evidence.agreed_at,
            "how": change.evidence.way,
            "campaign": change.evidence.campaign,
            "answer": format!("/v1/changes/{}/consent", change.id),
        })
        .to_string();
        let sealed = hex::decode(&callback.sealed_secret).unwrap_or_default();
        let secret = match self.core.keyring.open_operator(OperatorSecret::Callback(operator), &sealed) {
            Ok(secret) => secret,
            Err(error) => {
                tracing::error!(operator = operator.0, %error, "the secret of a callback cannot be opened: set it again");
                return Some(false);
            }
        };
        // Receivers compare with their own clocks, however fast campaign time passes.
        let unix_s = crate::clock::Clock::REAL.now().seconds();
        let Some(client) = &self.callbacks.0 else { return Some(false) };
        let request = client
            .post(&callback.url)
            .header("content-type", "application/json")
            .header(SIGNATURE_HEADER, signature(&secret, unix_s, body.as_bytes()))
            .body(body);
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Some(true),
            Ok(answer) => {
                tracing::warn!(
                    operator = operator.0,
                    status = answer.status().as_u16(),
                    "a callback was not acknowledged; it is repeated"
                );
                Some(false)
            }
            Err(error) => {
                tracing::warn!(operator = operator.0, error = %error.without_url(), "a callback was not reached; it is repeated");
                Some(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_that_openssl_makes() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            signature(b"secret", 1_700_000_000, br#"{"a":1}"#),
            "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
        assert_ne!(signature(b"secret", 1, b"1"), signature(b"secret", 11, b""));
    }
}
