//! The gate in front of OpenSSL: finds the PSK identity in the plaintext handshake and fetches its key.
//!
//! OpenSSL asks for a PSK in a synchronous callback, but keys lie in the store. In TLS 1.2 the identity travels in
//! clear in ClientKeyExchange (RFC 4279, 2), so the gate holds that record back, looks the key up, puts it where the
//! callback finds it, and only then lets OpenSSL see the record. After that it is a plain stream again.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Found as Card;

/// Longest PSK identity that is looked up; OpenSSL refuses longer ones itself (alert 50).
pub const IDENTITY_BYTES_MAX: usize = 256;

/// Most plaintext bytes of one handshake: a ClientHello of the largest record and a ClientKeyExchange.
const PLAINTEXT_BYTES_MAX: usize = 40_000;

/// Bytes read from the socket at once during the handshake.
const READ_BYTES: usize = 2048;

/// Where the gate leaves what was found and the PSK callback and the session find it; set once. An unknown identity
/// leaves `None`.
pub type Slot = Arc<OnceLock<Option<Card>>>;

/// A lookup under way.
pub type Lookup = Pin<Box<dyn Future<Output = Option<Card>> + Send>>;

/// Starts the lookup of an identity.
pub type Look = Box<dyn FnOnce(Vec<u8>) -> Lookup + Send>;

/// A stream that holds ClientKeyExchange until its key is there.
pub struct Gate<S> {
    stream: S,
    /// Present until the key exchange has passed.
    handshake: Option<Box<Handshake>>,
    /// Present once the last answer is written: it leaves together with the end of TLS.
    held: Option<Vec<u8>>,
}

struct Handshake {
    /// Received, not yet handed to OpenSSL.
    bytes: Vec<u8>,
    /// So many of `bytes` may be handed out.
    released: usize,
    /// So many of `bytes` have been parsed.
    parsed: usize,
    seen: usize,
    reader: MessageReader,
    look: Option<Look>,
    lookup: Option<Lookup>,
    slot: Slot,
    done: bool,
}

impl<S> Gate<S> {
    /// Puts a gate before a fresh connection; `look` is called at most once.
    pub fn new(stream: S, slot: Slot, look: Look) -> Self {
        let handshake = Handshake {
            bytes: Vec::new(),
            released: 0,
            parsed: 0,
            seen: 0,
            reader: MessageReader::default(),
            look: Some(look),
            lookup: None,
            slot,
            done: false,
        };
        Gate { stream, handshake: Some(Box::new(handshake)), held: None }
    }

    /// From here on what is written waits for the shutdown, which sends all of it at once and leaves the closing of the
    /// connection to its drop.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }
}

impl Handshake {
    /// Parses whole records as far as they go; stops at the one that completes the key exchange.
    fn advance(&mut self) {
        while !self.done && self.lookup.is_none() {
            let Some(header) = self.bytes.get(self.parsed..self.parsed + 5) else { return };
            let (content, length) = (header[0], usize::from(u16::from_be_bytes([header[3], header[4]])));
            let end = self.parsed + 5 + length;
            if content != RECORD_HANDSHAKE || self.seen > PLAINTEXT_BYTES_MAX {
                self.open();
                return;
            }
            if self.bytes.len() < end {
                // Nothing of a record is handed out before the whole of it has been read; OpenSSL waits anyway.
                if length > RECORD_BYTES_MAX {
                    self.open();
                }
                return;
            }
            let found = self.reader.read(&self.bytes[self.parsed + 5..end]);
            self.parsed = end;
            match found {
                Found::Nothing => self.released = end,
                Found::Held => {}
                Found::Identity(identity) => match self.look.take() {
                    Some(look) => self.lookup = Some(look(identity)),
                    None => self.open(),
                },
                Found::Refusable => self.open(),
            }
        }
    }

    /// From here on everything passes.
    fn open(&mut self) {
        self.done = true;
        self.released = self.bytes.len();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        loop {
            let Some(handshake) = gate.handshake.as_deref_mut() else {
                return Pin::new(&mut gate.stream).poll_read(cx, buf);
            };
            if let Some(lookup) = &mut handshake.lookup {
                let found = ready!(lookup.as_mut().poll(cx));
                // The slot is filled once: look is taken at most once.
                let _ = handshake.slot.set(found);
                handshake.lookup = None;
                handshake.open();
            }
            if handshake.released > 0 {
                let count = handshake.released.min(buf.remaining());
                buf.put_slice(&handshake.bytes[..count]);
                handshake.bytes.drain(..count);
                handshake.released -= count;
                handshake.parsed = handshake.parsed.saturating_sub(count);
                return Poll::Ready(Ok(()));
            }
            if handshake.done {
                gate.handshake = None;
                continue;
            }
            let mut chunk = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut gate.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            handshake.seen += read.filled().len();
            handshake.bytes.extend_from_slice(read.filled());
            handshake.advance();
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(held) = &mut self.held {
            held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        let Some(held) = &mut gate.held else { return Pin::new(&mut gate.stream).poll_shutdown(cx) };
        while !held.is_empty() {
            match ready!(Pin::new(&mut gate.stream).poll_write(cx, held))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(held.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// TLS record content type: handshake.
const RECORD_HANDSHAKE: u8 = 22;
/// Largest plaintext record (RFC 5246, 6.2.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Handshake message type: ClientKeyExchange.
const CLIENT_KEY_EXCHANGE: u8 = 16;

/// What a piece of handshake data contained.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nothing to wait for.
    Nothing,
    /// The beginning of a ClientKeyExchange; the rest is in a later record.
    Held,
    /// A complete ClientKeyExchange of the PSK form.
    Identity(Vec<u8>),
    /// A ClientKeyExchange that OpenSSL will refuse: too long or not of the PSK form.
    Refusable,
}

/// Walks handshake messages, whatever records they are cut into; keeps only a ClientKeyExchange.
#[derive(Debug, Default)]
struct MessageReader {
    header: Vec<u8>,
    skip: usize,
    exchange: Option<(usize, Vec<u8>)>,
}

impl MessageReader {
    fn read(&mut self, mut data: &[u8]) -> Found {
        loop {
            if let Some((length, body)) = &mut self.exchange {
                let count = data.len().min(*length - body.len());
                body.extend_from_slice(&data[..count]);
                if body.len() < *length {
                    return Found::Held;
                }
                return match identity(body) {
                    Some(identity) => Found::Identity(identity.to_vec()),
                    None => Found::Refusable,
                };
            }
            let count = data.len().min(self.skip);
            self.skip -= count;
            data = &data[count..];
            if data.is_empty() {
                return Found::Nothing;
            }
            let count = data.len().min(4 - self.header.len());
            self.header.extend_from_slice(&data[..count]);
            data = &data[count..];
            let &[kind, high, middle, low] = self.header.as_slice() else { return Found::Nothing };
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            self.header.clear();
            if kind != CLIENT_KEY_EXCHANGE {
                self.skip = length;
            } else if length > 2 + IDENTITY_BYTES_MAX {
                return Found::Refusable;
            } else {
                self.exchange = Some((length, Vec::with_capacity(length)));
            }
        }
    }
}

/// ClientKeyExchange of plain PSK: u16 length and identity (RFC 4279, 2), nothing behind it.
fn identity(body: &[u8]) -> Option<&[u8]> {
    let (length, identity) = body.split_first_chunk::<2>()?;
    (usize::from(u16::from_be_bytes(*length)) == identity.len()).then_some(identity)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn record(content: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![content, 3, 3];
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32).to_be_bytes();
        [&[kind, length[1], length[2], length[3]], body].concat()
    }

    fn exchange(identity: &[u8]) -> Vec<u8> {
        message(CLIENT_KEY_EXCHANGE, &[&(identity.len() as u16).to_be_bytes(), identity].concat())
    }

    /// Feeds the gate in pieces of `size` and returns what came through and what was looked up.
    async fn pass(bytes: &[u8], size: usize) -> (Vec<u8>, Vec<Vec<u8>>, bool) {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let slot = Slot::default();
        let looked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = looked.clone();
        let look: Look = Box::new(move |identity| {
            seen.lock().unwrap().push(identity);
            Box::pin(async {
                tokio::task::yield_now().await;
                None
            })
        });
        let mut gate = Gate::new(server, slot.clone(), look);
        let pieces: Vec<Vec<u8>> = bytes.chunks(size).map(<[u8]>::to_vec).collect();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut through = Vec::new();
        gate.read_to_end(&mut through).await.unwrap();
        writer.await.unwrap();
        let looked = looked.lock().unwrap().clone();
        (through, looked, slot.get().is_some())
    }

    #[tokio::test]
    async fn the_identity_is_found_however_the_bytes_are_cut() {
        let hello = record(22, &message(1, &[9; 300]));
        let key = exchange(b"8001028110");
        let whole = [hello.clone(), record(22, &key), record(20, &[1]), record(22, &[5; 64])].concat();
        let split = [hello, record(22, &key[..3]), record(22, &key[3..9]), record(22, &key[9..])].concat();
        for bytes in [whole, split] {
            for size in [1, 2, 7, 300, 5000] {
                let (through, looked, filled) = pass(&bytes, size).await;
                assert_eq!(through, bytes);
                assert_eq!(looked, [b"8001028110".to_vec()]);
                assert!(filled);
            }
        }
    }

    #[tokio::test]
    async fn odd_identities_pass_unharmed() {
        let hello = record(22, &message(1, &[9; 40]));
        for (identity, asked) in
            [(vec![], true), (b"a\0b".to_vec(), true), (vec![b'x'; 256], true), (vec![b'x'; 257], false)]
        {
            let bytes = [hello.clone(), record(22, &exchange(&identity))].concat();
            let (through, looked, _) = pass(&bytes, 64).await;
            assert_eq!(through, bytes);
            assert_eq!(looked, if asked { vec![identity] } else { vec![] });
        }
        let mut long = hello.clone();
        for piece in exchange(&vec![b'x'; 65_535]).chunks(16_384) {
            long.extend(record(22, piece));
        }
        let (through, looked, filled) = pass(&long, 1000).await;
        assert_eq!((through.len(), looked.len(), filled), (long.len(), 0, false));
    }

    #[tokio::test]
    async fn what_is_not_tls_passes_to_be_refused() {
        for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 10_000], vec![22, 3, 3, 0xFF, 0xFF, 1]] {
            let (through, looked, _) = pass(&bytes, 100).await;
            assert_eq!((through, looked.len()), (bytes, 0));
        }
        let wrong_length = record(22, &message(CLIENT_KEY_EXCHANGE, &[0, 9, 1, 2]));
        let (through, looked, _) = pass(&wrong_length, 3).await;
        assert_eq!((through, looked.len()), (wrong_length, 0));
    }
}
