//! Tokens: what an authentication leaves behind, with the keys of its second layer.
//!
//! A token is 32 random bytes; only its hash is kept. There is one per subscriber, terminal, applications and program:
//! the next authentication of the same takes its place. Tokens and keys live in memory: after a restart devices
//! authenticate again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use simtide_protocol::entitlement::{AppId, Request};
use simtide_protocol::ids::{CardId, EpochMs, Imsi};
use simtide_protocol::second_layer::Channel;
use zeroize::Zeroizing;

use super::random;

/// A clock that has gone back by more than this ends tokens: their age is not known any more.
const CLOCK_BACK_MAX_MS: i64 = 60_000;

/// How long something holds, in campaign time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it began.
    pub created: EpochMs,
    /// When it ends.
    pub expires: EpochMs,
}

impl Life {
    /// Whether it still holds. Where the clock has gone back its age is not known, and it has ended.
    pub fn holds(&self, now: EpochMs) -> bool {
        now < self.expires && now.ms_since(self.created) > -CLOCK_BACK_MAX_MS
    }
}

/// What is known of a token.
pub struct Grant {
    /// Who has authenticated.
    pub imsi: Imsi,
    /// The card of that subscriber at that time; `None`: there is none here.
    pub card: Option<CardId>,
    terminal_id: Box<str>,
    app_name: Option<Box<str>>,
    apps: Box<[AppId]>,
    life: Life,
    channel: Mutex<Channel>,
}

impl Grant {
    /// The second layer.
    pub fn channel(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SHA-256 of a token.
type TokenHash = [u8; 32];
/// The first half of SHA-256 over who and what a token is for.
type Purpose = [u8; 16];

/// All tokens.
pub struct Tokens {
    tokens_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    grants: HashMap<TokenHash, Arc<Grant>>,
    by_purpose: HashMap<Purpose, TokenHash>,
}

/// There are as many tokens as the setting allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are entitlement.tokens_max tokens: raise it, or shorten entitlement.token_validity_s")]
pub struct TooMany;

impl Tokens {
    /// None yet.
    pub fn new(tokens_max: usize) -> Tokens {
        Tokens { tokens_max, inner: Mutex::default() }
    }

    /// How many there are, expired ones included.
    pub fn count(&self) -> usize {
        self.inner().grants.len()
    }

    /// Gives out a token for what was asked.
    pub fn grant(
        &self,
        request: &Request,
        imsi: Imsi,
        card: Option<CardId>,
        channel: Channel,
        life: Life,
    ) -> Result<(Zeroizing<String>, Arc<Grant>), TooMany> {
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(Zeroizing::new(random::bytes::<32>()).as_slice()));
        let hash: TokenHash = Sha256::digest(token.as_bytes()).into();
        let mut apps: Vec<AppId> = request.apps.clone();
        apps.sort_unstable();
        let grant = Arc::new(Grant {
            imsi,
            card,
            terminal_id: request.terminal_id.to_ascii_lowercase().into(),
            app_name: request.app_name.as_deref().map(Into::into),
            apps: apps.into(),
            life,
            channel: Mutex::new(channel),
        });
        let mut inner = self.inner();
        let purpose = purpose(&grant);
        if let Some(before) = inner.by_purpose.remove(&purpose) {
            inner.grants.remove(&before);
        }
        if inner.grants.len() >= self.tokens_max {
            inner.forget_ended(life.created);
            if inner.grants.len() >= self.tokens_max {
                return Err(TooMany);
            }
        }
        inner.by_purpose.insert(purpose, hash);
        inner.grants.insert(hash, grant.clone());
        Ok((token, grant))
    }

    /// The grant of a token, where it fits the request: same terminal, same program, no other applications, and the IMSI
    /// where one is given. `None` whatever is wrong.
    pub fn find(
        &self,
        token: &str,
        imsi: Option<&str>,
        request: &Request,
        now: EpochMs,
    ) -> Option<Arc<Grant>> {
        let hash: TokenHash = Sha256::digest(token.as_bytes()).into();
        let grant = self.inner().grants.get(&hash).cloned()?;
        if !grant.life.holds(now) {
            self.revoke(&grant, &hash);
            return None;
        }
        let fits = grant.terminal_id.eq_ignore_ascii_case(&request.terminal_id)
            && grant.app_name.as_deref() == request.app_name.as_deref()
            && request.apps.iter().all(|app| grant.apps.contains(app))
            && imsi.is_none_or(|imsi| imsi == grant.imsi.to_string());
        fits.then_some(grant)
    }

    /// Ends a token: its subscriber is on another card now.
    pub fn end(&self, token: &str, grant: &Grant) {
        self.revoke(grant, &Sha256::digest(token.as_bytes()).into());
    }

    fn revoke(&self, grant: &Grant, hash: &TokenHash) {
        let mut inner = self.inner();
        inner.grants.remove(hash);
        let purpose = purpose(grant);
        if inner.by_purpose.get(&purpose) == Some(hash) {
            inner.by_purpose.remove(&purpose);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget_ended(&mut self, now: EpochMs) {
        self.grants.retain(|_, grant| grant.life.holds(now));
        let grants = &self.grants;
        self.by_purpose.retain(|_, hash| grants.contains_key(hash));
    }
}

fn purpose(grant: &Grant) -> Purpose {
    let mut hash = Sha256::new();
    hash.update(grant.imsi.to_string());
    hash.update([0]);
    hash.update(grant.terminal_id.as_bytes());
    hash.update([0]);
    if let Some(name) = &grant.app_name {
        hash.update([1]);
        hash.update(name.as_bytes());
    }
    hash.update([0]);
    for app in &grant.apps {
        hash.update(app.to_string());
    }
    let whole: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|place| whole[place])
}

#[cfg(test)]
mod tests {
    use super::*;
    use simtide_protocol::second_layer::{RootKey, Side};

    fn request(terminal: &str, app: &str) -> Request {
        let query = format!(
            "terminal_id={terminal}&entitlement_version=2.0&terminal_vendor=v&terminal_model=m&\
             terminal_sw_version=s&app={app}&vers=0"
        );
        Request::from_query(&query).unwrap()
    }

    fn channel() -> Channel {
        Channel::new(&RootKey::from_emsk(&[1; 64], "id", "host"), Side::Server)
    }

    fn life(created: i64, expires: i64) -> Life {
        Life { created: EpochMs(created), expires: EpochMs(expires) }
    }

    fn imsi() -> Imsi {
        "001010000000001".parse().unwrap()
    }

    #[test]
    fn a_token_fits_what_it_was_given_out_for() {
        let tokens = Tokens::new(10);
        let asked = request("ABC-1", "ap5901");
        let (token, _) = tokens.grant(&asked, imsi(), None, channel(), life(100, 1_000)).unwrap();
        let now = EpochMs(500);
        assert!(tokens.find(&token, None, &request("abc-1", "ap5901"), now).is_some());
        assert!(tokens.find(&token, Some("001010000000001"), &asked, now).is_some());
        assert!(tokens.find(&token, Some("001010000000002"), &asked, now).is_none());
        assert!(tokens.find(&token, None, &request("other", "ap5901"), now).is_none());
        assert!(tokens.find(&token, None, &request("ABC-1", "ap2004"), now).is_none());
        assert!(tokens.find(&token[1..], None, &asked, now).is_none());
        let named = Request { app_name: Some("x".into()), ..asked.clone() };
        assert!(tokens.find(&token, None, &named, now).is_none());
        // The next one of the same takes its place.
        let (second, _) = tokens.grant(&asked, imsi(), None, channel(), life(100, 1_000)).unwrap();
        assert!(tokens.find(&token, None, &asked, now).is_none());
        assert!(tokens.find(&second, None, &asked, now).is_some());
        assert_eq!(tokens.count(), 1);
        assert!(tokens.find(&second, None, &asked, EpochMs(1_000)).is_none());
        assert_eq!(tokens.count(), 0);
    }

    #[test]
    fn a_clock_that_jumps_ends_tokens() {
        let tokens = Tokens::new(10);
        let asked = request("t", "ap5901");
        let day = 86_400_000;
        let grant = |now: i64| tokens.grant(&asked, imsi(), None, channel(), life(now, now + day)).unwrap().0;
        let token = grant(10 * day);
        assert!(tokens.find(&token, None, &asked, EpochMs(12 * day)).is_none());
        let token = grant(10 * day);
        assert!(tokens.find(&token, None, &asked, EpochMs(9 * day)).is_none());
        let token = grant(10 * day);
        assert!(tokens.find(&token, None, &asked, EpochMs(10 * day - 1_000)).is_some());
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let tokens = Tokens::new(2);
        let ask = |terminal: &str, now: i64| {
            tokens.grant(&request(terminal, "ap5901"), imsi(), None, channel(), life(now, now + 10))
        };
        assert!(ask("a", 0).is_ok() && ask("b", 5).is_ok());
        assert_eq!(ask("c", 6).err(), Some(TooMany));
        assert!(ask("b", 6).is_ok(), "the same again");
        assert!(ask("c", 10).is_ok(), "an expired one makes room");
    }
}
