//! EAP-AKA (RFC 4187) and EAP-AKA' (RFC 9048): both ends, pure.
//!
//! | module | holds |
//! |---|---|
//! | [`packet`] | packets and their attributes |
//! | [`keys`] | key derivation, AT_MAC, keys of a fast re-authentication |
//! | [`encrypted`] | AT_ENCR_DATA |
//! | [`server`] | the server's session |
//! | [`peer`] | the device's end; the card does AUTHENTICATE |
//!
//! There is no EAP-Success and no EAP-Failure: what carries the packets says how it ended (GSMA TS.43, 2.8).

pub mod encrypted;
pub mod keys;
pub mod packet;
pub mod peer;
pub mod server;

/// The two methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// RFC 4187: EAP type 23, SHA-1.
    Aka,
    /// RFC 9048: EAP type 50, SHA-256, keys bound to the name of the network.
    AkaPrime,
}

impl Method {
    /// The EAP type.
    pub const fn eap_type(self) -> u8 {
        match self {
            Method::Aka => 23,
            Method::AkaPrime => 50,
        }
    }
}
