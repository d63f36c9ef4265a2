//! What messages of the second layer say, as JSON.
//!
//! To the device: `{"items": [..], "acknowledged": [..]}`. To the server: `{"fetched": [..], "uplink": [..], "known":
//! {..}}`. Bytes are base64.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most items of one message to a device; the rest comes with the next query.
pub const ITEMS_MAX: usize = 32;
/// Most uplinks, and most read receipts, of one message to a server.
pub const UPLINKS_MAX: usize = 64;
/// Longest SCP80 packet, proof or TPDU in bytes.
pub const PACKET_BYTES_MAX: usize = 32 * 1024;
/// Most entries of [`Known`].
const KNOWN_MAX: usize = 64;
/// Longest name, value or address in characters.
const TEXT_BYTES_MAX: usize = 128;

/// What a message holds, and in which version of its form: the `typ` of its header. A message of another version is not
/// opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Content {
    /// A [`Downlink`], from server to device.
    #[serde(rename = "items-1")]
    Items,
    /// [`Uplinks`], from device to server.
    #[serde(rename = "uplinks-1")]
    Uplinks,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Content::Items => "items-1",
            Content::Uplinks => "uplinks-1",
        })
    }
}

/// Names one packet of one delivery: 1 to 64 letters, digits and hyphens (`<delivery in hex>-<n>`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(Box<str>);

/// One sealed packet that waits for a card: the wrapper around the first layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Names it in receipts and proofs.
    pub id: ItemId,
    /// The SCP80 command packet, from its CPL on, without any header of a short message.
    #[serde(with = "bytes")]
    pub packet: Vec<u8>,
    /// TP-OA that the device gives the message, digits with an optional plus: where the card's answer is addressed to.
    pub originating_address: String,
    /// Whether the card answers with a proof of receipt that the server waits for.
    pub proof_wanted: bool,
}

/// From the server to the device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downlink {
    /// What waits, in the order in which the card should get it.
    #[serde(default)]
    pub items: Vec<Item>,
    /// What became of the uplinks of the message before: the device forgets these.
    #[serde(default)]
    pub acknowledged: Vec<Acknowledged>,
}

/// What became of one uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The device's number of the uplink.
    pub n: u64,
    /// What the server made of it.
    pub verdict: Verdict,
}

/// What a server made of an uplink. Each of them ends the uplink: the device never sends it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Durably taken in.
    Accepted,
    /// The same had been taken in before; nothing has changed.
    Repeated,
    /// It fits nothing that is open; nothing has changed.
    Refused,
}

/// From the device to the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplinks {
    /// Read receipts: these items lie in the device's inbound queue, on its disk.
    #[serde(default)]
    pub fetched: Vec<ItemId>,
    /// What the card has sent.
    #[serde(default)]
    pub uplink: Vec<Uplink>,
    /// What the device knows of the card's content.
    #[serde(default, skip_serializing_if = "Known::is_empty")]
    pub known: Known,
}

/// One message of the card on its way up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// The device's number, which comes back in [`Acknowledged`]; unique in its outbound queue.
    pub n: u64,
    /// What it is.
    #[serde(flatten)]
    pub content: UplinkContent,
}

/// What a card can send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkContent {
    /// A proof of receipt as the ENVELOPE's answer gave it.
    Proof {
        /// The item that it answers, where the device knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<ItemId>,
        /// TP-OA that the device had given the packet's messages: where the proof is addressed to, whatever carries it.
        originating_address: String,
        /// The SCP80 response packet, from its UDH on as the answer gave it, or from its RPL on.
        #[serde(with = "bytes")]
        packet: Vec<u8>,
    },
    /// A short message of the card: an SMS-SUBMIT TPDU (3GPP TS 23.040, 9.2.2.2).
    Submit {
        /// The TPDU.
        #[serde(with = "bytes")]
        tpdu: Vec<u8>,
    },
}

/// Versions that a card is known to have, by name (`firmware`, `applet:A0000..`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known(pub BTreeMap<String, String>);

impl Known {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a payload was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not the JSON of this content.
    #[error("the payload is not understood: {0}")]
    Syntax(String),
    /// More of something than allowed.
    #[error("the payload has {found} {what}; at most {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// An item id of other characters or another length.
    #[error("an item id has 1 to 64 letters, digits and hyphens")]
    ItemId,
}

impl Downlink {
    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads JSON and holds it against the limits.
    pub fn from_json(json: &[u8]) -> Result<Downlink, PayloadError> {
        let downlink: Downlink = parse(json)?;
        limit("items", downlink.items.len(), ITEMS_MAX)?;
        limit("acknowledgements", downlink.acknowledged.len(), UPLINKS_MAX)?;
        for item in &downlink.items {
            limit("bytes in a packet", item.packet.len(), PACKET_BYTES_MAX)?;
            limit("characters in an originating address", item.originating_address.len(), TEXT_BYTES_MAX)?;
        }
        Ok(downlink)
    }
}

impl Uplinks {
    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads JSON and holds it against the limits.
    pub fn from_json(json: &[u8]) -> Result<Uplinks, PayloadError> {
        let uplinks: Uplinks = parse(json)?;
        limit("read receipts", uplinks.fetched.len(), UPLINKS_MAX)?;
        limit("uplinks", uplinks.uplink.len(), UPLINKS_MAX)?;
        limit("known versions", uplinks.known.0.len(), KNOWN_MAX)?;
        for (name, value) in &uplinks.known.0 {
            limit("characters in a known version", name.len().max(value.len()), TEXT_BYTES_MAX)?;
        }
        for uplink in &uplinks.uplink {
            let (UplinkContent::Proof { packet: bytes, .. } | UplinkContent::Submit { tpdu: bytes }) =
                &uplink.content;
            limit("bytes in an uplink", bytes.len(), PACKET_BYTES_MAX)?;
            if let UplinkContent::Proof { originating_address, .. } = &uplink.content {
                limit("characters in an originating address", originating_address.len(), TEXT_BYTES_MAX)?;
            }
        }
        Ok(uplinks)
    }
}

impl ItemId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ItemId {
    type Err = PayloadError;

    fn from_str(text: &str) -> Result<ItemId, PayloadError> {
        let holds = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if holds { Ok(ItemId(text.into())) } else { Err(PayloadError::ItemId) }
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ItemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ItemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ItemId, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Bytes as base64 in JSON.
mod bytes {
    use super::{Deserialize, Deserializer, Engine, STANDARD, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

fn parse<'j, T: Deserialize<'j>>(json: &'j [u8]) -> Result<T, PayloadError> {
    serde_json::from_slice(json).map_err(|error| PayloadError::Syntax(error.to_string()))
}

fn limit(what: &'static str, found: usize, max: usize) -> Result<(), PayloadError> {
    if found > max { Err(PayloadError::TooMany { what, found, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ItemId {
        text.parse().unwrap()
    }

    /// The form that docs/entitlement.md shows.
    #[test]
    fn the_documented_form() {
        let downlink = Downlink {
            items: vec![Item {
                id: id("00000000000000a1-1"),
                packet: vec![0x00, 0x15],
                originating_address: "1234".into(),
                proof_wanted: true,
            }],
            acknowledged: vec![Acknowledged { n: 7, verdict: Verdict::Accepted }],
        };
        let text = concat!(
            r#"{"items":[{"id":"00000000000000a1-1","packet":"ABU=","originating_address":"1234","#,
            r#""proof_wanted":true}],"acknowledged":[{"n":7,"verdict":"accepted"}]}"#
        );
        assert_eq!(String::from_utf8(downlink.to_json()).unwrap(), text);
        assert_eq!(Downlink::from_json(text.as_bytes()), Ok(downlink));

        let uplinks = Uplinks {
            fetched: vec![id("00000000000000a1-1")],
            uplink: vec![
                Uplink {
                    n: 7,
                    content: UplinkContent::Proof {
                        id: Some(id("00000000000000a1-1")),
                        originating_address: "1234".into(),
                        packet: vec![2, 0x71, 0],
                    },
                },
                Uplink { n: 8, content: UplinkContent::Submit { tpdu: vec![0x41] } },
            ],
            known: Known::default(),
        };
        let text = concat!(
            r#"{"fetched":["00000000000000a1-1"],"uplink":[{"n":7,"proof":{"id":"00000000000000a1-1","#,
            r#""originating_address":"1234","packet":"AnEA"}},{"n":8,"submit":{"tpdu":"QQ=="}}]}"#
        );
        assert_eq!(String::from_utf8(uplinks.to_json()).unwrap(), text);
        assert_eq!(Uplinks::from_json(text.as_bytes()), Ok(uplinks));
    }

    #[test]
    fn limits_hold() {
        let many = Uplinks { fetched: vec![id("a"); UPLINKS_MAX + 1], ..Uplinks::default() };
        assert!(matches!(Uplinks::from_json(&many.to_json()), Err(PayloadError::TooMany { .. })));
        let full = Uplinks { fetched: vec![id("a"); UPLINKS_MAX], ..Uplinks::default() };
        assert_eq!(Uplinks::from_json(&full.to_json()), Ok(full));
        for bad in ["", &"a".repeat(65), "a b", "ä"] {
            assert_eq!(bad.parse::<ItemId>(), Err(PayloadError::ItemId));
        }
        assert!(Downlink::from_json(br#"{"items":[{"id":"","packet":""}]}"#).is_err());
        let proof = |address: &str| {
            let text = format!(
                r#"{{"uplink":[{{"n":1,"proof":{{"originating_address":"{address}","packet":"AnEA"}}}}]}}"#
            );
            Uplinks::from_json(text.as_bytes())
        };
        assert!(proof("+43660500").is_ok());
        assert!(matches!(proof(&"1".repeat(TEXT_BYTES_MAX + 1)), Err(PayloadError::TooMany { .. })));
        assert!(Uplinks::from_json(br#"{"uplink":[{"n":1,"proof":{"packet":"AnEA"}}]}"#).is_err());
    }
}
