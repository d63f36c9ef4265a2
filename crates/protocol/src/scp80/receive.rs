//! What a card says to a command packet.

use crate::ids::Tar;

use super::command::{CommandHeader, OpenError, Opened, Security, open};
use super::counter::Counter;
use super::keys::KeySet;
use super::response::ResponseStatus;
use super::spi::{CounterMode, Integrity, Spi};

/// What the card holds behind one key index.
#[derive(Debug, Clone, Copy)]
pub struct StoredKeySet<'c> {
    /// The keys.
    pub keys: &'c KeySet,
    /// The highest counter that was accepted.
    pub counter: Counter,
}

/// What a card looks up to judge a packet.
pub trait Holdings {
    /// The minimum protection that the application with this TAR asks for; `None` where there is no such
    /// application.
    fn minimum_level(&self, tar: Tar) -> Option<Spi>;
    /// The key set with this index; index 0 asks for the one that is implicitly known.
    fn key_set(&self, index: u8) -> Option<StoredKeySet<'_>>;
}

/// A command for an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The header as it came.
    pub header: CommandHeader,
    /// The secured data for the application.
    pub data: Vec<u8>,
    /// The key set that was used.
    pub key_index: u8,
    /// The counter to store for it, before the application sees anything; `None` where no counter is checked.
    pub counter: Option<Counter>,
}

/// A command that no application gets to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// What the proof of receipt says.
    pub status: ResponseStatus,
    /// How the command was protected, and where it went.
    pub security: Security,
    /// As it came.
    pub tar: Tar,
    /// As it came; zero where it could not be read.
    pub counter: Counter,
    /// The key set to protect the answer with: only where the command had proven that it comes from somebody who
    /// has the keys. Anything else is answered in the clear, or cards would sign what strangers ask them to.
    pub answer_with: Option<u8>,
}

/// Judges a packet (ETSI TS 102 225, 5.1 and 5.2): lengths, TAR, security level, keys, ciphering, check value,
/// counter, in this order.
///
/// # Errors
/// The outer error is a packet whose head cannot be read, to which there is no proof of receipt.
pub fn receive(packet: &[u8], card: &impl Holdings) -> Result<Result<Accepted, Refused>, OpenError> {
    let (security, tar) = CommandHeader::clear_part(packet)?;
    let refused = |status| Refused { status, security, tar, counter: Counter::ZERO, answer_with: None };
    let Some(minimum) = card.minimum_level(tar) else {
        return Ok(Err(refused(ResponseStatus::TarUnknown)));
    };
    if !security.spi.meets(minimum) {
        return Ok(Err(refused(ResponseStatus::SecurityLevel)));
    }
    let Some(key_index) = key_index(&security) else {
        return Ok(Err(refused(ResponseStatus::SecurityError)));
    };
    let no_keys = KeySet::new(None, None);
    let stored = match card.key_set(key_index) {
        Some(stored) => stored,
        // Nothing is checked that a key set would be needed for: the index means nothing.
        None if is_unprotected(security.spi) => StoredKeySet { keys: &no_keys, counter: Counter::ZERO },
        None => return Ok(Err(refused(ResponseStatus::SecurityError))),
    };
    let Opened { header, data } = match open(packet, stored.keys) {
        Ok(opened) => opened,
        Err(error) => return Ok(Err(refused(status_of(&error)))),
    };
    let authenticated = security.spi.integrity() == Integrity::CryptographicChecksum;
    match next_counter(security.spi.counter_mode(), header.counter, stored.counter) {
        Ok(counter) => Ok(Ok(Accepted { header, data, key_index, counter })),
        Err(status) => Ok(Err(Refused {
            status,
            security,
            tar,
            counter: header.counter,
            answer_with: authenticated.then_some(key_index),
        })),
    }
}

/// The key set that a command names: KIc and KID must agree where both keys are used; with no CC the index in KID
/// means nothing.
fn key_index(security: &Security) -> Option<u8> {
    let with_mac = security.spi.integrity() == Integrity::CryptographicChecksum;
    match (security.spi.ciphered(), with_mac) {
        (true, true) => (security.kic.index() == security.kid.index()).then_some(security.kic.index()),
        (false, true) => Some(security.kid.index()),
        (_, false) => Some(security.kic.index()),
    }
}

fn is_unprotected(spi: Spi) -> bool {
    let checks_counter = matches!(spi.counter_mode(), CounterMode::Higher | CounterMode::ExactlyOneHigher);
    !spi.ciphered() && spi.integrity() != Integrity::CryptographicChecksum && !checks_counter
}

fn status_of(error: &OpenError) -> ResponseStatus {
    match error {
        OpenError::RedundancyCheck | OpenError::CryptographicChecksum | OpenError::HeaderLength { .. } => {
            ResponseStatus::CheckFailed
        }
        OpenError::Ciphering { .. } | OpenError::Padding { .. } => ResponseStatus::CipheringError,
        _ => ResponseStatus::SecurityError,
    }
}

/// The counter to store, or what is wrong with the one that came.
fn next_counter(
    mode: CounterMode,
    received: Counter,
    stored: Counter,
) -> Result<Option<Counter>, ResponseStatus> {
    if matches!(mode, CounterMode::None | CounterMode::Unchecked) {
        return Ok(None);
    }
    if stored.is_blocked() {
        return Err(ResponseStatus::CounterBlocked);
    }
    if received <= stored {
        return Err(ResponseStatus::CounterLow);
    }
    if mode == CounterMode::ExactlyOneHigher && received.value() != stored.value() + 1 {
        return Err(ResponseStatus::CounterHigh);
    }
    Ok(Some(received))
}
