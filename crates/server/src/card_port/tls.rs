//! TLS-PSK of the card port: TLS 1.2, TLS_PSK_WITH_AES_128_CBC_SHA256, one key per identity.

use std::sync::OnceLock;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode, SslVersion,
};

use super::Psk;
use super::gate::Slot;
use crate::config::CardPort;

/// `SSL_OP_NO_ENCRYPT_THEN_MAC`; the crate does not name it.
const NO_ENCRYPT_THEN_MAC: u32 = 1 << 19;

/// 0x00AE, the baseline of GlobalPlatform Amendment B. Suites without encryption are never offered.
const BASELINE: &str = "PSK-AES128-CBC-SHA256";
/// 0x00A8 in front of it, where the configuration says so.
const WITH_GCM: &str = "PSK-AES128-GCM-SHA256:PSK-AES128-CBC-SHA256";

/// The context of all card sessions: no tickets, no cache, no renegotiation, buffers given back while idle.
pub fn context(config: &CardPort) -> Result<SslContext, ErrorStack> {
    let index = slot_index()?;
    let mut builder = SslContextBuilder::new(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_2))?;
    builder.set_cipher_list(if config.gcm { WITH_GCM } else { BASELINE })?;
    builder.set_options(SslOptions::NO_TICKET | SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION);
    if !config.encrypt_then_mac {
        builder.set_options(SslOptions::from_bits_retain(NO_ENCRYPT_THEN_MAC.into()));
    }
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    // One read per record instead of two: header and body together.
    builder.set_read_ahead(true);
    builder.set_psk_server_callback(move |ssl, _identity, key| {
        // The gate has read the identity itself, whole; here it may be cut at a NUL. An unknown identity and a key
        // exchange that the gate did not understand get a random key, so that they end like every other wrong key.
        let unknown = Psk::random();
        let found = ssl.ex_data(index).and_then(|slot| slot.get()).and_then(|found| found.as_ref());
        let bytes = found.map_or(&unknown, |found| &found.psk).bytes();
        key[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    });
    Ok(builder.build())
}

/// A new server side whose PSK callback reads `slot`.
pub fn accept(context: &SslContext, slot: Slot) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    ssl.set_ex_data(slot_index()?, slot);
    Ok(ssl)
}

fn slot_index() -> Result<Index<Ssl, Slot>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, Slot>> = OnceLock::new();
    if let Some(index) = INDEX.get() {
        return Ok(*index);
    }
    let index = Ssl::new_ex_index()?;
    Ok(*INDEX.get_or_init(|| index))
}
