//! What the card needs from outside: TLS as bytes in and bytes out, and random bytes.

/// Why a secure channel cannot go on. After it, nothing more is read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The peer's bytes broke the protocol, or it refused us: wrong key, alert, garbage.
    #[error("the TLS peer refused or broke the handshake or the connection: {0}")]
    Peer(String),
    /// The channel could not be set up on this side: identity or key do not fit, or the library failed.
    #[error("the TLS channel cannot be used on this side: {0}")]
    Setup(String),
    /// The peer ended the connection in order (close_notify).
    #[error("the TLS peer closed the connection")]
    Closed,
}

/// One TLS connection seen from the card: records in and out on one side, plaintext on the other. It does no I/O;
/// the device carries the records.
// The peer is a party here, not a conversion.
#[allow(clippy::wrong_self_convention)]
pub trait SecureChannel: Send {
    /// Takes bytes that came from the peer, any number, cut anywhere.
    fn from_peer(&mut self, bytes: &[u8]) -> Result<(), ChannelError>;
    /// Gives the bytes that have to go to the peer; empty where there are none.
    fn to_peer(&mut self) -> Vec<u8>;
    /// Gives the plaintext that has arrived; empty where there is none.
    fn read(&mut self) -> Vec<u8>;
    /// Takes plaintext for the peer; before the handshake has ended it waits.
    fn write(&mut self, plaintext: &[u8]) -> Result<(), ChannelError>;
    /// Whether the handshake has ended well.
    fn is_established(&self) -> bool;
}

/// Opens secure channels: the client side of TLS with a pre-shared key.
pub trait SecureChannels: Send + Sync {
    /// Starts a handshake with this identity and key; the first bytes for the peer are ready at once.
    fn open(&self, identity: &[u8], psk: &[u8]) -> Result<Box<dyn SecureChannel>, ChannelError>;
}

/// What a card is lent for one command.
pub struct Environment<'a> {
    /// TLS.
    pub channels: &'a dyn SecureChannels,
    /// Fills a buffer with random bytes.
    pub random: &'a mut dyn FnMut(&mut [u8]),
}

/// No TLS at all: for cards that are only read and written, and for tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoChannels;

impl SecureChannels for NoChannels {
    fn open(&self, _identity: &[u8], _psk: &[u8]) -> Result<Box<dyn SecureChannel>, ChannelError> {
        Err(ChannelError::Setup("this card runs without TLS".into()))
    }
}
