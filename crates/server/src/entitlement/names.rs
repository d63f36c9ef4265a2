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
use simtide_protocol::eap::server::Fresh;
use simtide_protocol::entitlement::{EapIdentity, IdentityKind};
use simtide_protocol::ids::{CardId, EpochMs, Imsi};

use super::random;
use super::tokens::Life;

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

/// What a name that was given out stands for.
pub enum Name {
    /// A pseudonym of this subscriber.
    Pseudonym(Imsi),
    /// An earlier run, to go on from once.
    Reauthentication(Box<Kept>),
    /// This server does not know it (any more).
    Unknown,
}

/// What is kept of a run for the next.
pub struct Kept {
    /// The subscriber.
    pub imsi: Imsi,
    /// The card that has proven itself: no other card of the subscriber may go on from here.
    pub card: Option<CardId>,
    /// What both ends go on from.
    pub keys: ReauthKeys,
    /// As long as the token beside it.
    pub life: Life,
}

impl Names {
    /// No names yet, and a new key.
    pub fn new(pseudonyms: bool, reauthentications_max: u16) -> Names {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        random::fill(&mut *key);
        let cipher = Aes256Gcm::new(&(*key).into());
        Names { cipher, pseudonyms, reauthentications_max, kept: Mutex::default() }
    }

    /// Random bytes and names for a challenge to this identity. A pseudonym is a user name, to which the peer adds its
    /// realm (RFC 4187, 10.11); a re-authentication identity has its realm with it (10.12).
    pub fn fresh(&self, identity: &EapIdentity, imsi: Option<Imsi>) -> Fresh {
        let realm = identity.realm();
        let at = if realm.is_empty() { "" } else { "@" };
        let pseudonym = imsi.filter(|_| self.pseudonyms).map(|imsi| {
            let first = if identity.aka_prime { '7' } else { '2' };
            format!("{first}{}", self.pseudonym(imsi))
        });
        let reauth_id = (self.reauthentications_max > 0).then(|| {
            let first = if identity.aka_prime { '8' } else { '4' };
            format!("{first}{}{at}{realm}", URL_SAFE_NO_PAD.encode(random::bytes::<18>()))
        });
        let (iv, nonce_s, notification_iv) = (random::bytes(), random::bytes(), random::bytes());
        Fresh { iv, nonce_s, notification_iv, pseudonym, reauth_id }
    }

    /// What an identity that was given out stands for. A re-authentication identity is forgotten by that.
    pub fn resolve(&self, identity: &EapIdentity, now: EpochMs) -> Name {
        match identity.kind {
            IdentityKind::Pseudonym => {
                let imsi = identity.user().get(1..).and_then(|name| self.imsi(name));
                imsi.map_or(Name::Unknown, Name::Pseudonym)
            }
            IdentityKind::Reauthentication => {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                let found = kept.remove(identity.as_str()).filter(|kept| kept.life.holds(now));
                found.map_or(Name::Unknown, |kept| Name::Reauthentication(Box::new(kept)))
            }
            IdentityKind::Permanent(_) | IdentityKind::Unknown => Name::Unknown,
        }
    }

    /// Keeps what a run left for the next.
    pub fn keep(&self, name: String, run: Kept) {
        if run.keys.counter >= self.reauthentications_max {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= REAUTHENTICATIONS_KEPT_MAX {
            kept.retain(|_, one| one.life.holds(run.life.created));
        }
        if kept.len() < REAUTHENTICATIONS_KEPT_MAX {
            kept.insert(name.into(), run);
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
        let user = fresh.pseudonym.unwrap();
        assert!(!user.contains('@'), "the peer adds its realm");
        let pseudonym = identity(&format!("{user}@realm"));
        let resolve = |name: &str, at: i64| names.resolve(&identity(name), EpochMs(at));
        assert!(matches!(resolve(pseudonym.as_str(), 0), Name::Pseudonym(found) if found == imsi));
        // Another server's pseudonym, and a changed one.
        assert!(matches!(Names::new(true, 2).resolve(&pseudonym, EpochMs(0)), Name::Unknown));
        let changed = pseudonym.as_str().replace('2', "2A");
        assert!(matches!(resolve(&changed, 0), Name::Unknown));

        let name = fresh.reauth_id.unwrap();
        let keep = |counter| {
            let keys = SessionKeys::aka("x", &[1; 16], &[2; 16]).reauth_keys(counter);
            let life = Life { created: EpochMs(0), expires: EpochMs(10) };
            names.keep(name.clone(), Kept { imsi, card: None, keys, life });
        };
        keep(0);
        assert!(matches!(resolve(&name, 5), Name::Reauthentication(_)));
        assert!(matches!(resolve(&name, 5), Name::Unknown), "once");
        keep(1);
        assert!(matches!(resolve(&name, 10), Name::Unknown), "expired");
        keep(1);
        assert!(matches!(resolve(&name, -60_000), Name::Unknown), "the clock has gone back");
        keep(2);
        assert!(matches!(resolve(&name, 5), Name::Unknown), "too many");
    }
}
