//! The second server: an entitlement configuration server (GSMA TS.43) that carries sealed packets to devices over IP.
//!
//! | module | does |
//! |---|---|
//! | [`server`], [`http`] | sockets, TLS 1.3, requests and statuses |
//! | [`service`] | what requests are answered with: authentication, tokens, documents |
//! | [`sessions`] | EAP-AKA under way, by cookie |
//! | [`tokens`] | what an authentication leaves behind, with the keys of the second layer |
//! | [`names`] | pseudonyms and re-authentication identities |
//! | [`limits`] | how often one subscriber or one address may begin |
//! | [`vectors`] | where authentication vectors come from |
//! | `delivery` | the delivery application, inside the second layer |
//! | [`notification`] | telling devices that something waits |
//! | [`remote`] | the second interface over HTTP, where this server is a process of its own |
//! | [`source`] | the second interface: where packets come from and where receipts and proofs go |
//!
//! What this server holds cannot open a packet: OTA keys never come here.

pub mod config;
mod delivery;
pub mod http;
pub mod limits;
pub mod names;
pub mod notification;
mod random;
pub mod remote;
pub mod server;
pub mod service;
pub mod sessions;
pub mod source;
pub mod tokens;
pub mod vectors;

pub use server::{Server, StartError};
pub use service::Service;

/// Bytes as base64 in JSON.
pub(crate) mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}
