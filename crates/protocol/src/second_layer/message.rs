//! Messages: JWE in compact form, direct encryption with AES-256-GCM (RFC 7516, 7.1; RFC 7518, 4.5 and 5.3).

use std::fmt;

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::keys::{DirectionKey, RootKey, Side};
use super::payload::Content;

/// Longest message in characters, either direction: what a document or a POST carries.
pub const MESSAGE_BYTES_MAX: usize = 512 * 1024;
/// Bytes of an initialisation vector: fresh random bytes for every message.
pub const IV_BYTES: usize = 12;
/// Bytes of the tag (RFC 7518, 5.3).
const TAG_BYTES: usize = 16;
/// Longest protected header in characters.
const HEADER_BYTES_MAX: usize = 512;

/// The protected header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    alg: Algorithm,
    enc: Encryption,
    /// The generation of the keys.
    pub kid: String,
    /// Strictly rising in its direction, from 1.
    pub seq: u64,
    /// What the content is.
    pub typ: Content,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Algorithm {
    #[serde(rename = "dir")]
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Encryption {
    A256GCM,
}

/// One end of a second layer: the keys of both directions and how far their numbers have come. About 150 bytes. It
/// holds secrets: no `Clone`, no `Serialize`, and `Debug` shows the numbers only.
pub struct Channel {
    seals: DirectionKey,
    opens: DirectionKey,
    kid: [u8; KID_BYTES],
    sent: u64,
    received: u64,
}

/// Characters of a `kid`.
const KID_BYTES: usize = super::keys::GENERATION_BYTES / 3 * 4;

/// Why a message was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The content is too long.
    #[error("a message of {found} bytes is longer than {MESSAGE_BYTES_MAX}: send fewer items at once")]
    Length {
        /// Its length in bytes.
        found: usize,
    },
    /// The sequence numbers are used up.
    #[error("the sequence numbers of this channel are used up: authenticate again")]
    Exhausted,
}

/// Why a message was not opened. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("a message of {0} bytes is longer than {MESSAGE_BYTES_MAX}")]
    Length(usize),
    /// Not five parts of base64url with a header that we know.
    #[error("the message is no JWE in compact form with alg dir and enc A256GCM: {0}")]
    Syntax(&'static str),
    /// Sealed with keys of another EAP run.
    #[error("the message belongs to other keys: authenticate again and seal it anew")]
    Generation,
    /// The tag is wrong: changed on its way, of the other direction, or of another card.
    #[error("the message was not sealed with these keys")]
    Forged,
    /// The number is not higher than the last: a repeated or overtaken message.
    #[error("message {found} comes after {last}: it is repeated or late")]
    Replayed {
        /// The number of this message.
        found: u64,
        /// The highest so far.
        last: u64,
    },
    /// The content is of another kind than expected.
    #[error("the message holds {0}, which is not expected here")]
    Content(Content),
}

impl Channel {
    /// The channel of one EAP run at one end.
    pub fn new(root: &RootKey, side: Side) -> Channel {
        let (seals, opens) = match side {
            Side::Server => (root.down(), root.up()),
            Side::Device => (root.up(), root.down()),
        };
        let mut kid = [0; KID_BYTES];
        let _ = URL_SAFE_NO_PAD.encode_slice(root.generation(), &mut kid);
        Channel { seals, opens, kid, sent: 0, received: 0 }
    }

    /// The generation of the keys, as messages carry it.
    pub fn kid(&self) -> &str {
        std::str::from_utf8(&self.kid).unwrap_or_default()
    }

    /// Number of the last message sealed here.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Number of the last message opened here.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Seals a message with the next number. `iv` must be fresh random bytes.
    pub fn seal(&mut self, iv: [u8; IV_BYTES], typ: Content, payload: &[u8]) -> Result<String, SealError> {
        if payload.len() > MESSAGE_BYTES_MAX * 3 / 4 - HEADER_BYTES_MAX {
            return Err(SealError::Length { found: payload.len() });
        }
        let seq = self.sent.checked_add(1).ok_or(SealError::Exhausted)?;
        let header =
            Header { alg: Algorithm::Direct, enc: Encryption::A256GCM, kid: self.kid().to_owned(), seq, typ };
        let header = serde_json::to_vec(&header).unwrap_or_default();
        let mut message = URL_SAFE_NO_PAD.encode(header);
        let mut text = payload.to_vec();
        // RFC 7516, 5.1, 14: the additional data is the header as it travels.
        let tag = cipher(&self.seals)
            .encrypt_inout_detached(&Nonce::from(iv), message.as_bytes(), text.as_mut_slice().into())
            .map_err(|_| SealError::Length { found: payload.len() })?;
        // RFC 7518, 4.5: with direct encryption the second part is empty.
        message.push_str("..");
        URL_SAFE_NO_PAD.encode_string(iv, &mut message);
        message.push('.');
        URL_SAFE_NO_PAD.encode_string(&text, &mut message);
        message.push('.');
        URL_SAFE_NO_PAD.encode_string(tag, &mut message);
        self.sent = seq;
        Ok(message)
    }

    /// Opens a message whose content must be of the given kind. The number counts only once the tag is right.
    pub fn open(&mut self, typ: Content, message: &str) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let parts = Parts::of(message)?;
        let header = parts.header()?;
        if header.kid != self.kid() {
            return Err(OpenError::Generation);
        }
        let mut text = Zeroizing::new(decode(parts.text, "its text is no base64url")?);
        let iv: [u8; IV_BYTES] = exactly(parts.iv, "its iv is not 12 bytes of base64url")?;
        let tag: [u8; TAG_BYTES] = exactly(parts.tag, "its tag is not 16 bytes of base64url")?;
        cipher(&self.opens)
            .decrypt_inout_detached(
                &Nonce::from(iv),
                parts.header.as_bytes(),
                text.as_mut_slice().into(),
                &Tag::from(tag),
            )
            .map_err(|_| OpenError::Forged)?;
        if header.seq <= self.received {
            return Err(OpenError::Replayed { found: header.seq, last: self.received });
        }
        if header.typ != typ {
            return Err(OpenError::Content(header.typ));
        }
        self.received = header.seq;
        Ok(text)
    }

    /// The generation that a message names, unchecked: to find the channel it belongs to.
    pub fn kid_of(message: &str) -> Result<String, OpenError> {
        Ok(Parts::of(message)?.header()?.kid)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel {{ sent: {}, received: {} }}", self.sent, self.received)
    }
}

/// A message cut at its dots.
struct Parts<'m> {
    header: &'m str,
    iv: &'m str,
    text: &'m str,
    tag: &'m str,
}

impl<'m> Parts<'m> {
    fn of(message: &'m str) -> Result<Parts<'m>, OpenError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(OpenError::Length(message.len()));
        }
        let mut parts = message.splitn(6, '.');
        let mut next = || parts.next().ok_or(OpenError::Syntax("it has fewer than five parts"));
        let (header, key, iv, text, tag) = (next()?, next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(OpenError::Syntax("it has more than five parts"));
        }
        if !key.is_empty() {
            return Err(OpenError::Syntax("direct encryption has no encrypted key"));
        }
        if header.len() > HEADER_BYTES_MAX {
            return Err(OpenError::Syntax("its header is too long"));
        }
        Ok(Parts { header, iv, text, tag })
    }

    fn header(&self) -> Result<Header, OpenError> {
        let header = decode(self.header, "its header is no base64url")?;
        serde_json::from_slice(&header).map_err(|_| OpenError::Syntax("its header is not ours"))
    }
}

fn decode(text: &str, otherwise: &'static str) -> Result<Vec<u8>, OpenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| OpenError::Syntax(otherwise))
}

fn exactly<const N: usize>(text: &str, otherwise: &'static str) -> Result<[u8; N], OpenError> {
    decode(text, otherwise)?.try_into().map_err(|_| OpenError::Syntax(otherwise))
}

fn cipher(key: &DirectionKey) -> Aes256Gcm {
    Aes256Gcm::new(&key.0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(secret: u8) -> (Channel, Channel) {
        let root = RootKey::from_emsk(&[secret; 64], "0001010000000001@nai.epc", "aes.example");
        (Channel::new(&root, Side::Server), Channel::new(&root, Side::Device))
    }

    /// The example of docs/entitlement.md, computed by another implementation from the EMSK of RFC 9048, D, case 1; a
    /// JOSE library opens the message.
    #[test]
    fn the_documented_example() {
        let emsk: [u8; 64] = hex::decode(concat!(
            "f861703cd775590e16c7679ea3874ada866311de290764d760cf76df647ea01c",
            "313f69924bdd7650ca9bac141ea075c4ef9e8029c0e290cdbad5638b63bc23fb"
        ))
        .unwrap()
        .try_into()
        .unwrap();
        let root = RootKey::from_emsk(&emsk, "0555444333222111", "AES.example");
        assert_eq!(
            hex::encode(root.down().0),
            "a7c79c0ffdbda5580efbd2ae71cd66378ba02d0b2de5205fb12ada842dbbf23a"
        );
        assert_eq!(
            hex::encode(root.up().0),
            "6ab38bd174db89ca5d2fd542ea4b83425374476b752c8dfce602f1b850ebd677"
        );
        let mut device = Channel::new(&root, Side::Device);
        assert_eq!(device.kid(), "QjAP6bLWTgqB");
        let payload = br#"{"fetched":["00000000000000a1-1"]}"#;
        let iv = std::array::from_fn(|place| place as u8);
        let message = device.seal(iv, Content::Uplinks, payload).unwrap();
        assert_eq!(
            message,
            concat!(
                "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwia2lkIjoiUWpBUDZiTFdUZ3FCIiwic2VxIjoxLCJ0eXAiOiJ1cGxpbmtzLTEifQ..",
                "AAECAwQFBgcICQoL.uYuMtRUjuBOUJBLtX6aOM8DjuoOIASCJ04UO-NEQzbFeCg.7Zs1c7XZ2cCLkodLmEb42A"
            )
        );
        let mut server = Channel::new(&root, Side::Server);
        assert_eq!(server.open(Content::Uplinks, &message).unwrap().as_slice(), payload);
    }

    #[test]
    fn both_directions_open_at_the_other_end() {
        let (mut server, mut device) = pair(7);
        for turn in 1..=3_u8 {
            let message = server.seal([turn; 12], Content::Items, &[turn; 40]).unwrap();
            assert_eq!(device.open(Content::Items, &message).unwrap().as_slice(), [turn; 40]);
            let message = device.seal([turn; 12], Content::Uplinks, b"").unwrap();
            assert_eq!(server.open(Content::Uplinks, &message).unwrap().as_slice(), b"");
        }
        assert_eq!((server.sent(), server.received()), (3, 3));
        assert_eq!(
            Channel::kid_of(&server.seal([0; 12], Content::Items, b"x").unwrap()).unwrap(),
            device.kid()
        );
    }

    #[test]
    fn repeated_reordered_turned_and_foreign_messages_open_nothing() {
        let (mut server, mut device) = pair(7);
        let first = server.seal([1; 12], Content::Items, b"first").unwrap();
        let second = server.seal([2; 12], Content::Items, b"second").unwrap();
        // A message is not taken by the end that has sealed it.
        assert_eq!(server.open(Content::Items, &first), Err(OpenError::Forged));
        assert_eq!(device.open(Content::Uplinks, &first), Err(OpenError::Content(Content::Items)));
        device.open(Content::Items, &second).unwrap();
        assert_eq!(device.open(Content::Items, &second), Err(OpenError::Replayed { found: 2, last: 2 }));
        assert_eq!(device.open(Content::Items, &first), Err(OpenError::Replayed { found: 1, last: 2 }));
        let (_, mut other) = pair(8);
        assert_eq!(other.open(Content::Items, &first), Err(OpenError::Generation));
        // Even where the generation is made to fit.
        other.kid = device.kid;
        assert_eq!(other.open(Content::Items, &first), Err(OpenError::Forged));
    }

    #[test]
    fn no_character_of_a_message_can_change() {
        let (mut server, mut device) = pair(7);
        let message = server.seal([1; 12], Content::Items, b"packet").unwrap();
        for place in 0..message.len() {
            let mut changed = message.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(device.open(Content::Items, &changed).is_err(), "{place}");
        }
        // Parts of two messages put together.
        let other = server.seal([2; 12], Content::Items, b"PACKET").unwrap();
        let (ours, theirs): (Vec<_>, Vec<_>) = (message.split('.').collect(), other.split('.').collect());
        let mixed = [theirs[0], "", ours[2], ours[3], ours[4]].join(".");
        assert_eq!(device.open(Content::Items, &mixed), Err(OpenError::Forged));
        assert_eq!(device.received(), 0);
        assert!(device.open(Content::Items, &message).is_ok());
    }

    #[test]
    fn other_forms_are_refused() {
        let (mut server, mut device) = pair(7);
        let message = server.seal([1; 12], Content::Items, b"packet").unwrap();
        let parts: Vec<_> = message.split('.').collect();
        let with =
            |header: &str| [&URL_SAFE_NO_PAD.encode(header), "", parts[2], parts[3], parts[4]].join(".");
        for bad in [
            String::new(),
            "....".to_owned(),
            format!("{message}.x"),
            [parts[0], "AA", parts[2], parts[3], parts[4]].join("."),
            with(r#"{"alg":"none","enc":"A256GCM","kid":"x","seq":1,"typ":"items-1"}"#),
            with(r#"{"alg":"dir","enc":"A128GCM","kid":"x","seq":1,"typ":"items-1"}"#),
            with(r#"{"alg":"dir","enc":"A256GCM","kid":"x","seq":-1,"typ":"items-1"}"#),
            with(r#"{"alg":"dir","enc":"A256GCM","kid":"x","seq":1,"typ":"items-1","zip":"DEF"}"#),
            with(r#"{"alg":"dir","enc":"A256GCM","kid":"x","seq":1,"typ":"items-2"}"#),
        ] {
            assert!(matches!(device.open(Content::Items, &bad), Err(OpenError::Syntax(_))), "{bad}");
        }
        let long = "A".repeat(MESSAGE_BYTES_MAX + 1);
        assert_eq!(device.open(Content::Items, &long), Err(OpenError::Length(MESSAGE_BYTES_MAX + 1)));
        assert!(matches!(
            server.seal([1; 12], Content::Items, &vec![0; MESSAGE_BYTES_MAX]),
            Err(SealError::Length { .. })
        ));
    }
}
