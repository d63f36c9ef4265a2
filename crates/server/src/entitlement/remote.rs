//! The second interface over HTTP: for an entitlement server that runs as a process of its own.
//!
//! Bodies are JSON, both ends share the types here. The platform's end is `crate::api::entitlement`. Sealed packets pass
//! through; vectors do too, so the connection is TLS wherever it leaves the machine, and the token is one of its own.

use std::time::Duration;

use reqwest::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use simtide_protocol::aka::Vector;
use simtide_protocol::ids::{CardId, Imsi};
use simtide_protocol::second_layer::{ItemId, Known, UplinkContent, Verdict};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::source::{Answer, DeliverySource, PushAddress, SourceError, Waiting};
use super::vectors::VectorSource;
use crate::registers::{self, RegisterError, VectorsWanted};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest exchange.
const DEADLINE: Duration = Duration::from_secs(10);

/// Who is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OfSubscriber {
    /// The subscriber.
    #[schema(value_type = String)]
    pub imsi: Imsi,
}

/// The card of a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FoundCard {
    /// ICCID or EID; null: there is none.
    #[schema(value_type = Option<String>)]
    pub card: Option<CardId>,
}

/// What waits for a card is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OfCard {
    /// ICCID or EID.
    #[schema(value_type = String)]
    pub card: CardId,
    /// Versions that the card is known to have.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub known: Known,
}

/// What waits for a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WaitingItems {
    /// In the order in which the card should get it.
    #[schema(value_type = Vec<Object>)]
    pub items: Vec<Waiting>,
}

/// Read receipts of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fetched {
    /// ICCID or EID.
    #[schema(value_type = String)]
    pub card: CardId,
    /// The items that lie on the device's disk.
    #[schema(value_type = Vec<String>)]
    pub items: Vec<ItemId>,
}

/// What a card has sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UplinkOfCard {
    /// ICCID or EID.
    #[schema(value_type = String)]
    pub card: CardId,
    /// `{"proof": {"id", "packet"}}` or `{"submit": {"tpdu"}}`, bytes in base64.
    #[schema(value_type = Object)]
    pub uplink: UplinkContent,
}

/// What became of an uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UplinkVerdict {
    /// accepted, repeated or refused.
    #[schema(value_type = String)]
    pub verdict: Verdict,
}

/// Where a cloud push reaches the device of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PushOfCard {
    /// ICCID or EID.
    #[schema(value_type = String)]
    pub card: CardId,
    /// `{"token", "action"}`; null: the device wants none.
    #[schema(value_type = Option<Object>)]
    pub address: Option<PushAddress>,
}

/// A vector is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VectorQuestion {
    /// The subscriber.
    #[schema(value_type = String)]
    pub imsi: Imsi,
    /// RAND and AUTS in hex, of a challenge that the card has refused.
    #[serde(default)]
    pub resynchronisation: Option<(String, String)>,
    /// For AKA'.
    pub aka_prime: bool,
}

/// An authentication vector, hex. Wiped when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop, utoipa::ToSchema)]
pub struct VectorText {
    /// RAND, AUTN, XRES, CK and IK, one behind the other, in hex.
    vector: String,
}

/// Where a vector ends in its text, in bytes: RAND, AUTN, XRES, CK, IK.
const VECTOR_BYTES: usize = 16 + 16 + 8 + 16 + 16;

impl VectorText {
    /// As text.
    pub fn new(vector: &Vector) -> VectorText {
        let parts: [&[u8]; 5] = [&vector.rand, &vector.autn, &vector.xres, &vector.ck, &vector.ik];
        let bytes = Zeroizing::new(parts.concat());
        VectorText { vector: hex::encode(&*bytes) }
    }

    /// Reads the text.
    pub fn vector(&self) -> Option<Vector> {
        let mut bytes = Zeroizing::new([0; VECTOR_BYTES]);
        hex::decode_to_slice(&self.vector, &mut *bytes).ok()?;
        let part = |from: usize| std::array::from_fn(|place| bytes[from + place]);
        Some(Vector {
            rand: part(0),
            autn: part(16),
            xres: std::array::from_fn(|place| bytes[32 + place]),
            ck: part(40),
            ik: part(56),
        })
    }
}

/// A platform in another process.
pub struct RemotePlatform {
    http: reqwest::Client,
    base: String,
    token: Zeroizing<String>,
}

impl RemotePlatform {
    /// A platform by the URL of its API. Plain HTTP goes to loopback only.
    ///
    /// # Errors
    /// [`SourceError::Refused`] for a URL that cannot be used.
    pub fn new(
        url: &str,
        token: Zeroizing<String>,
        authority: Option<&[u8]>,
    ) -> Result<RemotePlatform, SourceError> {
        let refused = |error: String| SourceError::Refused(error);
        let parsed = reqwest::Url::parse(url).map_err(|error| refused(format!("{url}: {error}")))?;
        let is_loopback = parsed.host_str().is_some_and(|host| {
            host == "localhost"
                || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        });
        if parsed.scheme() != "https" && !is_loopback {
            return Err(refused(format!("{url}: vectors travel over https, or to this machine")));
        }
        let mut builder = registers::http::plain().timeout(DEADLINE);
        if let Some(pem) = authority {
            let certificates = reqwest::Certificate::from_pem_bundle(pem);
            let certificates = certificates.map_err(|error| refused(error.to_string()))?;
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|error| refused(error.to_string()))?;
        Ok(RemotePlatform { http, base: url.trim_end_matches('/').to_owned(), token })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &impl Serialize,
    ) -> Result<T, (Option<StatusCode>, String)> {
        let url = format!("{}/v1/entitlement/{verb}", self.base);
        let request = self.http.post(url).bearer_auth(self.token.as_str()).json(body);
        let (status, answer) = registers::http::exchange(request, ANSWER_BYTES_MAX)
            .await
            .map_err(|error| (None, error.to_string()))?;
        if !status.is_success() {
            let detail = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
            return Err((Some(status), detail));
        }
        serde_json::from_slice(&answer).map_err(|error| (Some(status), error.to_string()))
    }

    async fn ask<T: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> Result<T, SourceError> {
        self.call(verb, body).await.map_err(|(status, detail)| match status {
            None => SourceError::Unavailable(detail),
            Some(status) if status.is_server_error() => SourceError::Unavailable(detail),
            Some(_) => SourceError::Refused(detail),
        })
    }
}

/// An answer without content.
#[derive(Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Taken {}

impl DeliverySource for RemotePlatform {
    fn subscriber(&self, imsi: Imsi) -> Answer<'_, Option<CardId>> {
        Box::pin(async move {
            let found: FoundCard = self.ask("subscriber", &OfSubscriber { imsi }).await?;
            Ok(found.card)
        })
    }

    fn waiting<'a>(&'a self, card: CardId, known: &'a Known) -> Answer<'a, Vec<Waiting>> {
        Box::pin(async move {
            let question = OfCard { card, known: known.clone() };
            let waiting: WaitingItems = self.ask("waiting", &question).await?;
            Ok(waiting.items)
        })
    }

    fn fetched(&self, card: CardId, items: Vec<ItemId>) -> Answer<'_, ()> {
        Box::pin(async move { self.ask::<Taken>("fetched", &Fetched { card, items }).await.map(|_| ()) })
    }

    fn uplink(&self, card: CardId, uplink: UplinkContent) -> Answer<'_, Verdict> {
        Box::pin(async move {
            let verdict: UplinkVerdict = self.ask("uplink", &UplinkOfCard { card, uplink }).await?;
            Ok(verdict.verdict)
        })
    }

    fn authenticated(&self, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async move { self.ask::<Taken>("authenticated", &OfSubscriber { imsi }).await.map(|_| ()) })
    }

    fn push_address(&self, card: CardId, address: Option<PushAddress>) -> Answer<'_, ()> {
        Box::pin(async move { self.ask::<Taken>("push", &PushOfCard { card, address }).await.map(|_| ()) })
    }
}

impl VectorSource for RemotePlatform {
    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> registers::Answer<'_, Vec<Vector>> {
        Box::pin(async move {
            let resynchronisation =
                wanted.resynchronisation.map(|(rand, auts)| (hex::encode(rand), hex::encode(auts)));
            let question = VectorQuestion { imsi, resynchronisation, aka_prime: wanted.aka_prime };
            let answer: Result<VectorText, _> = self.call("vectors", &question).await;
            match answer {
                Ok(text) => {
                    let vector = text.vector();
                    vector
                        .map(|vector| vec![vector])
                        .ok_or_else(|| RegisterError::Invalid("no vector".into()))
                }
                Err((Some(StatusCode::NOT_FOUND), _)) => Err(RegisterError::NotFound),
                Err((Some(StatusCode::UNPROCESSABLE_ENTITY), detail)) => Err(RegisterError::Refused(detail)),
                Err((_, detail)) => Err(RegisterError::Unknown(detail)),
            }
        })
    }
}
