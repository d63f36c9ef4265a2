//! Pseudonyms and re-authentication identities that the server gives out.
//!
//! A pseudonym is the IMSI, sealed with a key of this process: nothing has to be kept for it. A re-authentication
//! identity is a random name with the keys of its run behind it, used once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use simtide_protocol::eap::keys::ReauthKeys;
use simtide_protocol::eap::server::{Fresh, Resolution};
use simtide_protocol::entitlement::{EapIdentity, IdentityKind};
use simtide_protocol::ids::{EpochMs, Imsi};

use super::random;

/// What is kept for re-authentications at most; beyond it clients get no new identity and authenticate in full.
const REAUTHENTICATIONS_KEPT_MAX: usize = 500_000;
/// Bytes of an IMSI inside a pseudonym, filled with blanks.
const IMSI_BYTES: usize = 15;

/// The names of one server.
pub struct Names {
    cipher: Aes256Gcm,
    pseudonyms: bool,
    reauthentications_max: u16,
    kept: Mutex<HashMap<Box<str>, Kept>>,
}

struct Kept {
    imsi: Imsi,
    keys: ReauthKeys,
    expires: EpochMs,
}

impl Names {
    /// No names yet, and a new key.
    pub fn new(pseudonyms: bool, reauthentications_max: u16) -> Names {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        random::fill(&mut *key);
        let cipher = Aes256Gcm::new(&(*key).into());
        Names { cipher, pseudonyms, reauthentications_max, kept: Mutex::default() }
    }

    /// Random bytes and names for a challenge to this identity.
    pub fn fresh(&self, identity: &EapIdentity, imsi: Option<Imsi>) -> Fresh {
        let realm = identity.realm();
        let at = if realm.is_empty() { "" } else { "@" };
        let pseudonym = imsi.filter(|_| self.pseudonyms).map(|imsi| {
            let first = if identity.aka_prime { '7' } else { '2' };
            format!("{first}{}{at}{realm}", self.pseudonym(imsi))
        });
        let reauth_id = (self.reauthentications_max > 0).then(|| {
            let first = if identity.aka_prime { '8' } else { '4' };
            format!("{first}{}{at}{realm}", URL_SAFE_NO_PAD.encode(random::bytes::<18>()))
        });
        let (iv, nonce_s, notification_iv) = (random::bytes(), random::bytes(), random::bytes());
        Fresh { iv, nonce_s, notification_iv, pseudonym, reauth_id }
    }

    /// What an identity that was given out stands for.
    pub fn resolve(&self, identity: &EapIdentity, now: EpochMs) -> Resolution {
        match identity.kind {
            IdentityKind::Pseudonym => {
                let imsi = identity.user().get(1..).and_then(|name| self.imsi(name));
                imsi.map_or(Resolution::Unknown, Resolution::Subscriber)
            }
            IdentityKind::Reauthentication => {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                match kept.remove(identity.as_str()) {
                    Some(Kept { imsi, keys, expires }) if now < expires => {
                        Resolution::Reauthentication(imsi, Box::new(keys))
                    }
                    Some(_) | None => Resolution::Unknown,
                }
            }
            IdentityKind::Permanent(_) | IdentityKind::Unknown => Resolution::Unknown,
        }
    }

    /// Keeps what a run left for the next.
    pub fn keep(&self, name: String, imsi: Imsi, keys: ReauthKeys, now: EpochMs, expires: EpochMs) {
        if keys.counter >= self.reauthentications_max {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= REAUTHENTICATIONS_KEPT_MAX {
            kept.retain(|_, one| now < one.expires);
        }
        if kept.len() < REAUTHENTICATIONS_KEPT_MAX {
            kept.insert(name.into(), Kept { imsi, keys, expires });
        }
    }

    fn pseudonym(&self, imsi: Imsi) -> String {
        let nonce = random::bytes::<12>();
        let mut text = format!("{:<1$}", imsi.to_string(), IMSI_BYTES).into_bytes();
        let mut sealed = nonce.to_vec();
        let tag = self.cipher.encrypt_inout_detached(&Nonce::from(nonce), &[], text.as_mut_slice().into());
        sealed.extend(&text);
        sealed.extend(tag.unwrap_or_default());
        URL_SAFE_NO_PAD.encode(sealed)
    }

    fn imsi(&self, name: &str) -> Option<Imsi> {
        let sealed = URL_SAFE_NO_PAD.decode(name).ok()?;
        let (nonce, rest) = sealed.split_first_chunk::<12>()?;
        let (text, tag) = rest.split_last_chunk::<16>()?;
        let mut text = text.to_vec();
        self.cipher
            .decrypt_inout_detached(&Nonce::from(*nonce), &[], text.as_mut_slice().into(), &Tag::from(*tag))
            .ok()?;
        std::str::from_utf8(&text).ok()?.trim_end().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simtide_protocol::eap::keys::SessionKeys;

    fn identity(text: &str) -> EapIdentity {
        EapIdentity::parse(text).unwrap()
    }

    #[test]
    fn names_stand_for_what_they_were_given_out_for() {
        let names = Names::new(true, 2);
        let imsi: Imsi = "001010000000001".parse().unwrap();
        let fresh = names.fresh(&identity("0001010000000001@realm"), Some(imsi));
        let pseudonym = identity(&fresh.pseudonym.unwrap());
        assert!(
            matches!(names.resolve(&pseudonym, EpochMs(0)), Resolution::Subscriber(found) if found == imsi)
        );
        // Another server's pseudonym, and a changed one.
        assert!(matches!(Names::new(true, 2).resolve(&pseudonym, EpochMs(0)), Resolution::Unknown));
        let changed = pseudonym.as_str().replace('2', "2A");
        assert!(matches!(names.resolve(&identity(&changed), EpochMs(0)), Resolution::Unknown));

        let keys = |counter| SessionKeys::aka("x", &[1; 16], &[2; 16]).reauth_keys(counter);
        let name = fresh.reauth_id.unwrap();
        names.keep(name.clone(), imsi, keys(0), EpochMs(0), EpochMs(10));
        assert!(matches!(names.resolve(&identity(&name), EpochMs(5)), Resolution::Reauthentication(..)));
        assert!(matches!(names.resolve(&identity(&name), EpochMs(5)), Resolution::Unknown), "once");
        names.keep(name.clone(), imsi, keys(1), EpochMs(0), EpochMs(10));
        assert!(matches!(names.resolve(&identity(&name), EpochMs(10)), Resolution::Unknown), "expired");
        names.keep(name.clone(), imsi, keys(2), EpochMs(0), EpochMs(10));
        assert!(matches!(names.resolve(&identity(&name), EpochMs(5)), Resolution::Unknown), "too many");
    }
}
