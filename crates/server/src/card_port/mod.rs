//! The card port: where cards connect over TLS-PSK and speak SCP81 (GlobalPlatform Amendment B).
//!
//! A connection takes a permit before TLS ([`admission`]), its key is fetched while ClientKeyExchange is held back
//! (`gate`, `tls`), then requests and answers alternate until the decisions say that the card is done
//! (`connection`). What a card is told is not decided here: [`Sessions`] is the boundary. While a card is silent
//! its connection holds no buffer.

pub mod admission;
mod connection;
pub mod gate;
mod listener;
mod tls;

use std::future::Future;

use simtide_protocol::ids::{CardId, Eid};
use simtide_protocol::scp81::{Request, Response};
use zeroize::Zeroizing;

pub use connection::Ended;
pub use listener::{CardPort, Counters, StartError};

/// Longest PSK that OpenSSL takes.
pub const PSK_BYTES_MAX: usize = 64;

/// A pre-shared key. It is wiped when dropped and never shown.
#[derive(Clone)]
pub struct Psk(Zeroizing<Vec<u8>>);

impl Psk {
    /// Takes a key of 1 to [`PSK_BYTES_MAX`] bytes; any other length becomes a random key, which fails the
    /// handshake as a wrong key does.
    pub fn new(key: Vec<u8>) -> Self {
        let key = Zeroizing::new(key);
        if (1..=PSK_BYTES_MAX).contains(&key.len()) { Psk(key) } else { Psk::random() }
    }

    /// A key that no card has.
    pub fn random() -> Self {
        Psk(Zeroizing::new(random::<16>().to_vec()))
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Psk(..)")
    }
}

/// What a lookup found: the card of an identity and its key.
#[derive(Debug, Clone)]
pub struct Found {
    /// The card.
    pub card: CardId,
    /// Its EID, if it has one: what X-Admin-From must agree with.
    pub eid: Option<Eid>,
    /// Its key for this identity.
    pub psk: Psk,
}

/// The decisions behind the card port.
pub trait Sessions: Send + Sync + 'static {
    /// The session of one card.
    type Session: CardSession;

    /// Finds the card and key of a PSK identity. Must take the same time whether the identity is known or not.
    fn find(&self, identity: Vec<u8>) -> impl Future<Output = Option<Found>> + Send;

    /// A card has completed its handshake and sent its first request. Another session of the card is told to end
    /// ([`CardSession::superseded`]): the card itself has given it up. `Err(Busy)` where that does not end in time.
    fn open(&self, card: CardId) -> impl Future<Output = Result<Self::Session, Busy>> + Send;
}

/// The card has a session already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the card has another session open, which does not end; it is served when that one has ended")]
pub struct Busy;

/// One session of one card: requests in, answers out.
pub trait CardSession: Send + 'static {
    /// Answers a request; [`Answer::Finish`] ends the session after the answer has left.
    fn request(&mut self, request: Request) -> impl Future<Output = Answer> + Send;

    /// Comes when the card has opened another session. Asked for only while the card is silent.
    fn superseded(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The session is over, for whatever reason. Called once.
    fn ended(self, how: Ended) -> impl Future<Output = ()> + Send;
}

/// What the decisions make of a request.
#[derive(Debug)]
pub enum Answer {
    /// Send this and wait for the next request.
    Continue(Response),
    /// Send this and close.
    Finish(Response),
}

/// Random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The operating system's generator does not fail once it has been seeded; a platform without one cannot run.
    getrandom::fill(&mut bytes)
        .unwrap_or_else(|error| panic!("no randomness from the operating system: {error}"));
    bytes
}
