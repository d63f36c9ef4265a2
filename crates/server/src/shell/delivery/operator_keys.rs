//! Cards whose OTA keys stay with their operator: its own server seals packets, and opens what the cards answer.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST <url>/seal` | `{"card", "key_set", "counter", "spi", "tar", "data"}` | `{"packet"}`: the SCP80 command packet from its CPL on |
//! | `POST <url>/open` | `{"card", "key_set", "counter", "spi", "packet"}` | `{"authenticated", "counter", "status", "data"}`; 404 where the packet is no answer to this command |
//!
//! Bytes are base64, `card` is an ICCID or EID, `spi` and `tar` are hex, `status` is the response status code. The
//! counter is the platform's, and with it the promise that it only rises; the same request must give the same packet,
//! because a copy may be sent again by any bearer. What comes back is held against what was asked for: a packet with
//! less protection, for another application or by another key set does not leave. A proof counts only where the
//! operator's server says that its checksum is right **and** its counter is the command's.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use simtide_protocol::scp80::{CommandHeader, Counter, Response, ResponseHeader, ResponseStatus, Spi};
use zeroize::Zeroizing;

use crate::config::{KeptBy, Sealing};
use crate::store::{Card, Packet};

/// How long the operator's server may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A client of the server that keeps an operator's keys.
pub struct OperatorKeys {
    http: reqwest::Client,
    url: String,
    token: Zeroizing<String>,
    /// Names of operators; empty: all.
    operators: Vec<String>,
}

/// Why the operator's server did not do it.
#[derive(Debug, thiserror::Error)]
pub enum OperatorKeysError {
    /// It is not there, or too slow.
    #[error(
        "the operator's sealing server does not answer: {0}; the packet stays reserved and is tried again"
    )]
    Unreachable(String),
    /// It refused.
    #[error("the operator's sealing server refused with HTTP status {0}: compare its keys with the card")]
    Refused(u16),
    /// Its answer is not understood.
    #[error("the operator's sealing server answered something else than a packet: {0}")]
    Answer(&'static str),
    /// It sealed something else than was asked for.
    #[error("the operator's sealing server changed {0} of a packet: it is not sent")]
    Changed(&'static str),
    /// The client cannot be made.
    #[error("sealing: {0}")]
    Settings(String),
}

impl std::fmt::Debug for OperatorKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OperatorKeys({}, {:?})", self.url, self.operators)
    }
}

#[derive(Deserialize)]
struct Sealed {
    packet: String,
}

#[derive(Deserialize)]
struct Opened {
    authenticated: bool,
    counter: u64,
    status: u8,
    data: String,
}

impl OperatorKeys {
    /// As the configuration says; `None` where the platform keeps all keys itself.
    ///
    /// # Errors
    /// The token or the authority's certificate cannot be read.
    pub fn new(sealing: &Sealing) -> Result<Option<OperatorKeys>, OperatorKeysError> {
        if sealing.by == KeptBy::Own {
            return Ok(None);
        }
        let wrong = |what: &str, error: &dyn std::fmt::Display| {
            OperatorKeysError::Settings(format!("{what}: {error}"))
        };
        let mut builder = reqwest::Client::builder()
            .timeout(ANSWER_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if !sealing.ca_file.as_os_str().is_empty() {
            let pem = std::fs::read(&sealing.ca_file).map_err(|error| wrong("ca_file", &error))?;
            let trusted =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong("ca_file", &error))?;
            builder = builder.tls_certs_only(trusted);
        }
        let token = if sealing.token_file.as_os_str().is_empty() {
            String::new()
        } else {
            std::fs::read_to_string(&sealing.token_file).map_err(|error| wrong("token_file", &error))?
        };
        Ok(Some(OperatorKeys {
            http: builder.build().map_err(|error| wrong("client", &error))?,
            url: sealing.url.trim_end_matches('/').to_owned(),
            token: Zeroizing::new(token.trim().to_owned()),
            operators: sealing.operators.clone(),
        }))
    }

    /// Whether the keys of this operator's cards are there.
    pub fn keep(&self, operator: &str) -> bool {
        self.operators.is_empty() || self.operators.iter().any(|known| known == operator)
    }

    /// Seals a packet there, and holds it against what was asked for.
    pub async fn seal(
        &self,
        card: &Card,
        packet: &Packet,
        data: &[u8],
    ) -> Result<Vec<u8>, OperatorKeysError> {
        let request = json!({
            "card": card.record.id.to_string(),
            "key_set": packet.key.key_set,
            "counter": packet.key.counter,
            "spi": format!("{:04X}", packet.spi),
            "tar": packet.tar.to_string(),
            "data": STANDARD.encode(data),
        });
        let answer = self.ask("seal", &request).await?.ok_or(OperatorKeysError::Refused(404))?;
        let sealed: Sealed = serde_json::from_slice(&answer)
            .map_err(|_| OperatorKeysError::Answer("no JSON with \"packet\""))?;
        let sealed = STANDARD.decode(sealed.packet).map_err(|_| OperatorKeysError::Answer("no base64"))?;
        let (security, tar) =
            CommandHeader::clear_part(&sealed).map_err(|_| OperatorKeysError::Answer("no command packet"))?;
        if security.spi != Spi::from(packet.spi.to_be_bytes()) {
            return Err(OperatorKeysError::Changed("the protection"));
        }
        if tar != packet.tar {
            return Err(OperatorKeysError::Changed("the receiver"));
        }
        let key_set = packet.key.key_set;
        if security.kic.index() != key_set || security.kid.index() != key_set {
            return Err(OperatorKeysError::Changed("the key set"));
        }
        Ok(sealed)
    }

    /// Opens a card's answer to a command there; `None` where it is none.
    pub async fn open(
        &self,
        card: &Card,
        command: &Packet,
        packet: &[u8],
    ) -> Result<Option<Response>, OperatorKeysError> {
        let request = json!({
            "card": card.record.id.to_string(),
            "key_set": command.key.key_set,
            "counter": command.key.counter,
            "spi": format!("{:04X}", command.spi),
            "packet": STANDARD.encode(packet),
        });
        let Some(answer) = self.ask("open", &request).await? else { return Ok(None) };
        let opened: Opened =
            serde_json::from_slice(&answer).map_err(|_| OperatorKeysError::Answer("no JSON of an answer"))?;
        let data = STANDARD.decode(opened.data).map_err(|_| OperatorKeysError::Answer("no base64"))?;
        let status =
            ResponseStatus::try_from(opened.status).map_err(|_| OperatorKeysError::Answer("no status"))?;
        let counter = Counter::new(opened.counter).ok_or(OperatorKeysError::Answer("no counter"))?;
        let header = ResponseHeader { tar: command.tar, counter, status };
        Ok(Some(Response { header, data, authenticated: opened.authenticated }))
    }

    /// The body of the answer; `None` for 404.
    async fn ask(&self, what: &str, body: &Value) -> Result<Option<Vec<u8>>, OperatorKeysError> {
        let unreachable =
            |error: reqwest::Error| OperatorKeysError::Unreachable(error.without_url().to_string());
        let mut request = self.http.post(format!("{}/{what}", self.url)).json(body);
        if !self.token.is_empty() {
            request = request.bearer_auth(self.token.as_str());
        }
        let mut answer = request.send().await.map_err(unreachable)?;
        match answer.status().as_u16() {
            200 => {}
            404 => return Ok(None),
            other => return Err(OperatorKeysError::Refused(other)),
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(OperatorKeysError::Answer("too long"));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }
}
