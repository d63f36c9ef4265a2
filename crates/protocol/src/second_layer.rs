//! The second layer: what an entitlement server and a device exchange about a card, keyed by the card itself.
//!
//! A server's certificate says nothing about the card, so sealed packets travel inside a layer of their own. EAP-AKA
//! with the card's keys yields an EMSK, from it comes one root key ([`RootKey`], RFC 5295), and from that one key per
//! direction. Messages are JWE in compact form (RFC 7516, `alg: dir`, `enc: A256GCM`) whose protected header carries
//! the generation of the keys (`kid`), a sequence number that strictly rises in its direction (`seq`), and what the
//! content is (`typ`). The keys are independent of the card's OTA keys by construction: they come from another secret.
//!
//! | module | holds |
//! |---|---|
//! | [`keys`] | root key, keys of the directions, generation |
//! | [`message`] | sealing and opening of messages |
//! | [`payload`] | what messages say: items down; receipts, proofs and short messages up |

pub mod keys;
pub mod message;
pub mod payload;

pub use keys::{DirectionKey, RootKey, Side};
pub use message::{Channel, Header, IV_BYTES, MESSAGE_BYTES_MAX, OpenError, SealError};
pub use payload::{
    Acknowledged, Content, Downlink, ITEMS_MAX, Item, ItemId, Known, PayloadError, UPLINKS_MAX, Uplink,
    UplinkContent, Uplinks, Verdict,
};
