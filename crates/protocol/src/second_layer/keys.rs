//! From the EMSK to one key per direction.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// RFC 5295, 3.1: the label of the root key, in our own domain.
const LABEL: &[u8] = b"second-layer@simtide.org";
/// The label where only an MSK arrives, because the operator's own AAA ends EAP.
const LABEL_MSK: &[u8] = b"second-layer-msk@simtide.org";
/// Bytes of every key here.
const KEY_BYTES: usize = 32;
/// RFC 5869, 2.3: what each expansion is for.
const INFO_DOWN: &[u8] = b"simtide second layer: to the device";
const INFO_UP: &[u8] = b"simtide second layer: to the server";
const INFO_GENERATION: &[u8] = b"simtide second layer: generation";
/// Bytes of a generation before it is written as base64url.
pub(super) const GENERATION_BYTES: usize = 9;

/// The usage-specific root key of one EAP run (RFC 5295). Wiped when dropped, never shown.
#[derive(ZeroizeOnDrop)]
pub struct RootKey([u8; KEY_BYTES]);

/// The key of one direction: AES-256-GCM. Wiped when dropped, never shown.
#[derive(ZeroizeOnDrop)]
pub struct DirectionKey(pub(super) [u8; KEY_BYTES]);

/// Which end a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The entitlement server: seals what goes down.
    Server,
    /// The device: seals what goes up.
    Device,
}

impl RootKey {
    /// From the EMSK of an EAP run (64 bytes), the identity exactly as it stood in `EAP_ID`, and the server's host name
    /// as the device called it: a server of another name that passes messages on shares no key with the device.
    pub fn from_emsk(emsk: &[u8; 64], eap_id: &str, server_name: &str) -> RootKey {
        derive(emsk, LABEL, eap_id, server_name)
    }

    /// The same from an MSK, where an operator's AAA ends EAP and hands out nothing else.
    pub fn from_msk(msk: &[u8; 64], eap_id: &str, server_name: &str) -> RootKey {
        derive(msk, LABEL_MSK, eap_id, server_name)
    }

    /// The key of messages to the device.
    pub fn down(&self) -> DirectionKey {
        DirectionKey(expand(&self.0, INFO_DOWN))
    }

    /// The key of messages to the server.
    pub fn up(&self) -> DirectionKey {
        DirectionKey(expand(&self.0, INFO_UP))
    }

    /// The generation: names the keys without telling them.
    pub(super) fn generation(&self) -> [u8; GENERATION_BYTES] {
        let mut whole = expand(&self.0, INFO_GENERATION);
        let generation = std::array::from_fn(|place| whole[place]);
        whole.zeroize();
        generation
    }
}

/// RFC 5295, 3.1: `T1 = HMAC-SHA-256(secret, label | 00 | optional data | length (2 bytes) | 01)`. The optional data is
/// the identity, a zero byte and the server's name in lower case.
fn derive(secret: &[u8; 64], label: &[u8], eap_id: &str, server_name: &str) -> RootKey {
    let mut mac = hmac(secret);
    mac.update(label);
    mac.update(&[0]);
    mac.update(eap_id.as_bytes());
    mac.update(&[0]);
    mac.update(server_name.to_ascii_lowercase().as_bytes());
    mac.update(&(KEY_BYTES as u16).to_be_bytes());
    mac.update(&[1]);
    RootKey(mac.finalize().into_bytes().into())
}

/// RFC 5869, 2.3, first block: `T(1) = HMAC-SHA-256(key, info | 01)`.
fn expand(key: &[u8; KEY_BYTES], info: &[u8]) -> [u8; KEY_BYTES] {
    let mut mac = hmac(key);
    mac.update(info);
    mac.update(&[1]);
    mac.finalize().into_bytes().into()
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, A.1, whose PRK and info are expanded to more than one block: the first block is ours.
    #[test]
    fn the_expansion_is_that_of_rfc_5869() {
        let prk: [u8; 32] = hex::decode("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
            .unwrap()
            .try_into()
            .unwrap();
        let info = hex::decode("f0f1f2f3f4f5f6f7f8f9").unwrap();
        assert_eq!(
            hex::encode(expand(&prk, &info)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        );
    }

    #[test]
    fn every_input_changes_the_root() {
        let of = |secret: u8, id: &str, name: &str| RootKey::from_emsk(&[secret; 64], id, name).0;
        let root = of(1, "0001@x", "aes.example");
        assert_eq!(root, of(1, "0001@x", "AES.example"));
        for other in [
            of(2, "0001@x", "aes.example"),
            of(1, "0002@x", "aes.example"),
            of(1, "0001@x", "other.example"),
            RootKey::from_msk(&[1; 64], "0001@x", "aes.example").0,
        ] {
            assert_ne!(root, other);
        }
        let root = RootKey::from_emsk(&[1; 64], "0001@x", "aes.example");
        assert_ne!(root.down().0, root.up().0);
        assert_ne!(root.down().0, root.0);
    }
}
