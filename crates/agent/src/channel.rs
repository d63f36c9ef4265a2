//! The card's TLS: OpenSSL as a client that reads and writes memory, for [`simtide_card`]'s secure channel.
//!
//! TLS 1.2 with a pre-shared key: 0x00AE (PSK_WITH_AES_128_CBC_SHA256) as the baseline of GlobalPlatform Amendment B, and
//! 0x00A8 (its GCM sibling) where a profile asks for it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef,
    SslSessionCacheMode, SslStream, SslVersion,
};
use simtide_card::secure_channel::{ChannelError, SecureChannel, SecureChannels};
use zeroize::Zeroizing;

/// Most bytes from the other side that wait to be decrypted: some TLS records.
pub const FROM_PEER_BYTES_MAX: usize = 128 * 1024;

/// Most decrypted bytes that wait to be read.
pub const CLEAR_BYTES_MAX: usize = 64 * 1024;

/// Most bytes that are written before the handshake has ended.
pub const EARLY_BYTES_MAX: usize = 16 * 1024;

/// The cipher suites in the order in which they are offered.
const SUITES: &str = "PSK-AES128-CBC-SHA256:PSK-AES128-GCM-SHA256";

/// Identity and key of one connection; both are wiped when it ends.
struct Credentials {
    identity: Zeroizing<Vec<u8>>,
    psk: Zeroizing<Vec<u8>>,
}

/// Opens TLS connections for any number of cards.
pub struct OpensslChannels {
    context: SslContext,
    credentials: Index<Ssl, Credentials>,
}

impl OpensslChannels {
    /// Prepares what all connections share.
    pub fn new() -> Result<Self, ErrorStack> {
        let credentials = Ssl::new_ex_index::<Credentials>()?;
        let mut context = SslContextBuilder::new(SslMethod::tls_client())?;
        context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        context.set_max_proto_version(Some(SslVersion::TLS1_2))?;
        context.set_cipher_list(SUITES)?;
        context.set_mode(SslMode::RELEASE_BUFFERS);
        context.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION);
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        context.set_psk_client_callback(move |ssl, _hint, identity, psk| {
            Ok(present(ssl, credentials, identity, psk))
        });
        Ok(Self { context: context.build(), credentials })
    }
}

impl std::fmt::Debug for OpensslChannels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpensslChannels")
    }
}

/// Writes identity (ended by NUL) and key where OpenSSL wants them; 0 ends the handshake.
fn present(ssl: &SslRef, credentials: Index<Ssl, Credentials>, identity: &mut [u8], psk: &mut [u8]) -> usize {
    let Some(own) = ssl.ex_data(credentials) else { return 0 };
    if own.identity.len() >= identity.len() || own.psk.len() > psk.len() {
        return 0;
    }
    identity[..own.identity.len()].copy_from_slice(&own.identity);
    identity[own.identity.len()] = 0;
    psk[..own.psk.len()].copy_from_slice(&own.psk);
    own.psk.len()
}

impl SecureChannels for OpensslChannels {
    fn open(&self, identity: &[u8], psk: &[u8]) -> Result<Box<dyn SecureChannel>, ChannelError> {
        if identity.is_empty() || identity.contains(&0) || psk.is_empty() {
            return Err(ChannelError::Setup(
                "identity or key are empty, or the identity contains NUL".to_owned(),
            ));
        }
        let mut ssl = Ssl::new(&self.context).map_err(setup)?;
        let credentials =
            Credentials { identity: Zeroizing::new(identity.to_vec()), psk: Zeroizing::new(psk.to_vec()) };
        ssl.set_ex_data(self.credentials, credentials);
        let stream = SslStream::new(ssl, Pipe::default()).map_err(setup)?;
        let mut channel = OpensslChannel {
            stream,
            established: false,
            early: Zeroizing::default(),
            clear: Zeroizing::default(),
        };
        channel.advance()?;
        Ok(Box::new(channel))
    }
}

fn setup(error: ErrorStack) -> ChannelError {
    ChannelError::Setup(error.to_string())
}

/// The two directions of a connection, in memory.
#[derive(Debug, Default)]
struct Pipe {
    from_peer: VecDeque<u8>,
    to_peer: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.from_peer.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.from_peer.read(into)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to_peer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection.
struct OpensslChannel {
    stream: SslStream<Pipe>,
    established: bool,
    /// What was written before the handshake ended.
    early: Zeroizing<Vec<u8>>,
    /// What has been decrypted and not been read.
    clear: Zeroizing<Vec<u8>>,
}

impl OpensslChannel {
    /// Goes on as far as the bytes at hand allow.
    fn advance(&mut self) -> Result<(), ChannelError> {
        if !self.established {
            match self.stream.connect() {
                Ok(()) => self.established = true,
                Err(error) if waits(&error) => return Ok(()),
                Err(error) => return Err(ChannelError::Peer(error.to_string())),
            }
            let early = std::mem::take(&mut self.early);
            self.write(&early)?;
        }
        self.decrypt()
    }

    /// Decrypts what is there. The end of the connection is an error only once everything before it has been read:
    /// servers send their last answer and the end together.
    fn decrypt(&mut self) -> Result<(), ChannelError> {
        let mut piece = [0; 1024];
        while self.clear.len() < CLEAR_BYTES_MAX {
            match self.stream.ssl_read(&mut piece) {
                Ok(count) => self.clear.extend_from_slice(&piece[..count]),
                Err(error) if waits(&error) => return Ok(()),
                Err(_) if !self.clear.is_empty() => return Ok(()),
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => return Err(ChannelError::Closed),
                Err(error) => return Err(ChannelError::Peer(error.to_string())),
            }
        }
        Ok(())
    }
}

fn waits(error: &openssl::ssl::Error) -> bool {
    error.code() == ErrorCode::WANT_READ || error.code() == ErrorCode::WANT_WRITE
}

impl SecureChannel for OpensslChannel {
    fn from_peer(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        let waiting = &mut self.stream.get_mut().from_peer;
        if waiting.len() + bytes.len() > FROM_PEER_BYTES_MAX {
            return Err(ChannelError::Setup("more records wait than are allowed: read first".to_owned()));
        }
        waiting.extend(bytes);
        self.advance()
    }

    fn to_peer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.stream.get_mut().to_peer)
    }

    fn read(&mut self) -> Vec<u8> {
        let clear = std::mem::take(&mut *self.clear);
        // What did not fit before; its faults show at the next `from_peer`.
        if self.established {
            let _ = self.decrypt();
        }
        clear
    }

    fn write(&mut self, plaintext: &[u8]) -> Result<(), ChannelError> {
        if !self.established {
            if self.early.len() + plaintext.len() > EARLY_BYTES_MAX {
                return Err(ChannelError::Setup("more is written than waits for a handshake".to_owned()));
            }
            self.early.extend_from_slice(plaintext);
            return Ok(());
        }
        // The pipe takes everything, so one call suffices; an empty write would be an error to OpenSSL.
        match plaintext {
            [] => Ok(()),
            bytes => self
                .stream
                .ssl_write(bytes)
                .map(|_| ())
                .map_err(|error| ChannelError::Peer(error.to_string())),
        }
    }

    fn is_established(&self) -> bool {
        self.established
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &[u8] = b"8001028110890490";
    const PSK: [u8; 16] = [0x42; 16];

    /// A server in memory that knows one key.
    fn server(suites: &str) -> SslStream<Pipe> {
        let mut context = SslContextBuilder::new(SslMethod::tls_server()).unwrap();
        context.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
        context.set_cipher_list(suites).unwrap();
        context.set_psk_server_callback(|_, identity, psk| {
            psk[..PSK.len()].copy_from_slice(&PSK);
            Ok(if identity == Some(IDENTITY) { PSK.len() } else { 0 })
        });
        SslStream::new(Ssl::new(&context.build()).unwrap(), Pipe::default()).unwrap()
    }

    /// Carries bytes between the two until nothing moves.
    fn carry(card: &mut dyn SecureChannel, server: &mut SslStream<Pipe>) -> Result<(), ChannelError> {
        loop {
            let up = card.to_peer();
            server.get_mut().from_peer.extend(&up);
            if !server.ssl().is_init_finished() {
                let _ = server.accept();
            }
            let down = std::mem::take(&mut server.get_mut().to_peer);
            if up.is_empty() && down.is_empty() {
                return Ok(());
            }
            // Cut anywhere: byte by byte.
            for byte in down {
                card.from_peer(&[byte])?;
            }
        }
    }

    #[test]
    fn both_suites_carry_data_both_ways() {
        for suite in ["PSK-AES128-CBC-SHA256", "PSK-AES128-GCM-SHA256"] {
            let channels = OpensslChannels::new().unwrap();
            let mut server = server(suite);
            let mut card = channels.open(IDENTITY, &PSK).unwrap();
            card.write(b"POST early").unwrap();
            carry(card.as_mut(), &mut server).unwrap();
            assert!(card.is_established(), "{suite}");
            assert_eq!(server.ssl().current_cipher().unwrap().name(), suite);
            let mut heard = [0; 64];
            let count = server.ssl_read(&mut heard).unwrap();
            assert_eq!(&heard[..count], b"POST early");
            server.ssl_write(b"204").unwrap();
            server.shutdown().unwrap();
            let down = std::mem::take(&mut server.get_mut().to_peer);
            card.from_peer(&down).unwrap();
            assert_eq!(card.read(), b"204");
            assert_eq!(card.from_peer(&[]), Err(ChannelError::Closed));
        }
    }

    #[test]
    fn a_wrong_key_ends_the_handshake() {
        let channels = OpensslChannels::new().unwrap();
        for (identity, psk) in [(IDENTITY, [0x43; 16]), (&b"unknown"[..], PSK)] {
            let mut card = channels.open(identity, &psk).unwrap();
            let outcome = carry(card.as_mut(), &mut server("PSK-AES128-CBC-SHA256"));
            assert!(matches!(outcome, Err(ChannelError::Peer(_))), "{outcome:?}");
            assert!(!card.is_established());
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let channels = OpensslChannels::new().unwrap();
        assert!(channels.open(b"", &PSK).is_err());
        assert!(channels.open(b"a\0b", &PSK).is_err());
        assert!(channels.open(IDENTITY, &[]).is_err());
        let mut card = channels.open(IDENTITY, &PSK).unwrap();
        assert!(card.write(&[0; EARLY_BYTES_MAX + 1]).is_err());
        assert!(card.from_peer(&[0x16; FROM_PEER_BYTES_MAX + 1]).is_err());
        assert!(card.from_peer(b"HTTP/1.1 400 Bad Request").is_err());
    }
}
