//! Authentications under way: one per cookie, bounded in number, in time, and per subscriber.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use simtide_protocol::eap::server::Session;
use simtide_protocol::entitlement::{EapIdentity, Request};
use simtide_protocol::ids::CardId;

use super::random;

/// Name of the cookie.
pub const COOKIE: &str = "simtide_session";
/// Random bytes of a cookie.
const COOKIE_BYTES: usize = 16;

/// Value of a cookie.
pub type Cookie = [u8; COOKIE_BYTES];

/// One authentication: its EAP session and what was asked.
pub struct Authentication {
    /// The EAP session.
    pub session: Session,
    /// What was asked; answered when the card has proven itself.
    pub request: Request,
    /// `EAP_ID` exactly as it came.
    pub identity: EapIdentity,
    /// How the device calls this server.
    pub server_name: String,
    /// Vectors drawn for it.
    pub drawn: u32,
    /// The card that the subscriber's identity was on when the challenge was made: no other one has proven itself.
    pub card: Option<CardId>,
}

/// All of them.
pub struct Sessions {
    sessions_max: usize,
    per_imsi_max: u16,
    deadline: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: HashMap<Cookie, Open>,
    by_subscriber: HashMap<String, u16>,
}

struct Open {
    /// `None` while a request of it is being answered.
    authentication: Option<Box<Authentication>>,
    subscriber: String,
    ends: Instant,
}

/// No further authentication can begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl Sessions {
    /// None yet.
    pub fn new(sessions_max: usize, per_imsi_max: u16, deadline: Duration) -> Sessions {
        Sessions { sessions_max, per_imsi_max, deadline, inner: Mutex::default() }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.inner().open.len()
    }

    /// Takes a place for a subscriber before anything is done for it.
    pub fn open(&self, subscriber: &str, now: Instant) -> Result<Cookie, Full> {
        let mut inner = self.inner();
        let of_subscriber = inner.by_subscriber.get(subscriber).copied().unwrap_or_default();
        if inner.open.len() >= self.sessions_max || of_subscriber >= self.per_imsi_max {
            inner.forget(now);
        }
        let of_subscriber = inner.by_subscriber.get(subscriber).copied().unwrap_or_default();
        if inner.open.len() >= self.sessions_max || of_subscriber >= self.per_imsi_max {
            return Err(Full);
        }
        let cookie = random::bytes();
        *inner.by_subscriber.entry(subscriber.to_owned()).or_default() += 1;
        let open =
            Open { authentication: None, subscriber: subscriber.to_owned(), ends: now + self.deadline };
        inner.open.insert(cookie, open);
        Ok(cookie)
    }

    /// Lays an authentication back until its next request.
    pub fn put(&self, cookie: &Cookie, authentication: Box<Authentication>) {
        if let Some(open) = self.inner().open.get_mut(cookie) {
            open.authentication = Some(authentication);
        }
    }

    /// Whether an authentication belongs to a cookie.
    pub fn has(&self, cookie: &Cookie) -> bool {
        self.inner().open.contains_key(cookie)
    }

    /// Takes an authentication out for a request; `None`: there is none, it has ended, or a request is being answered.
    pub fn take(&self, cookie: &Cookie, now: Instant) -> Option<Box<Authentication>> {
        let mut inner = self.inner();
        if inner.open.get(cookie).is_some_and(|open| open.ends <= now) {
            inner.close(cookie);
        }
        inner.open.get_mut(cookie)?.authentication.take()
    }

    /// Forgets one.
    pub fn close(&self, cookie: &Cookie) {
        self.inner().close(cookie);
    }

    /// Forgets those whose time is over.
    pub fn forget(&self, now: Instant) {
        self.inner().forget(now);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn close(&mut self, cookie: &Cookie) {
        let Some(open) = self.open.remove(cookie) else { return };
        if let Some(count) = self.by_subscriber.get_mut(&open.subscriber) {
            *count -= 1;
            if *count == 0 {
                self.by_subscriber.remove(&open.subscriber);
            }
        }
    }

    fn forget(&mut self, now: Instant) {
        let over: Vec<Cookie> =
            self.open.iter().filter(|(_, open)| open.ends <= now).map(|(cookie, _)| *cookie).collect();
        over.iter().for_each(|cookie| self.close(cookie));
    }
}

/// The header that sets a cookie.
pub fn set_cookie(cookie: &Cookie, path: &str, is_tls: bool) -> String {
    let secure = if is_tls { "; Secure" } else { "" };
    format!("{COOKIE}={}; Path={path}; HttpOnly{secure}", hex::encode(cookie))
}

/// Our cookies in a header of a device. Some clients send cookies back with their attributes, or several in one header,
/// some one of an earlier session beside the last.
pub fn cookies_in(header: &str) -> impl Iterator<Item = Cookie> {
    header.split([';', ',']).filter_map(|part| {
        let (name, value) = part.split_once('=')?;
        if name.trim() != COOKIE {
            return None;
        }
        let mut cookie = [0; COOKIE_BYTES];
        hex::decode_to_slice(value.trim().trim_matches('"'), &mut cookie).ok().map(|()| cookie)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let sessions = Sessions::new(3, 2, Duration::from_secs(10));
        let now = Instant::now();
        let first = sessions.open("a", now).unwrap();
        sessions.open("a", now).unwrap();
        assert_eq!(sessions.open("a", now), Err(Full));
        sessions.open("b", now).unwrap();
        assert_eq!(sessions.open("c", now), Err(Full));
        sessions.close(&first);
        assert!(sessions.open("a", now).is_ok());
        assert_eq!(sessions.count(), 3);
        let later = now + Duration::from_secs(10);
        assert!(sessions.open("c", later).is_ok());
        assert_eq!(sessions.count(), 1);
        assert!(sessions.inner().by_subscriber.len() == 1);
    }

    #[test]
    fn cookies_come_back_in_many_forms() {
        let cookie = [0xAB; 16];
        let set = set_cookie(&cookie, "/", true);
        assert_eq!(set, "simtide_session=abababababababababababababababab; Path=/; HttpOnly; Secure");
        let plain = set.split(';').next().unwrap();
        for header in [
            set.clone(),
            plain.to_owned(),
            format!("other=1; {plain}"),
            format!("$Version=1, {plain}; $Path=\"/\""),
            format!("{COOKIE}=\"{}\"", hex::encode(cookie)),
        ] {
            assert_eq!(cookies_in(&header).collect::<Vec<_>>(), [cookie], "{header}");
        }
        for header in ["", "simtide_session", "simtide_session=xyz", "simtide_session=abab", "x=abab"] {
            assert_eq!(cookies_in(header).count(), 0, "{header}");
        }
    }
}
