//! One connection: handshake, then requests and answers until the card is done.
//!
//! | state | waits for | deadline |
//! |---|---|---|
//! | handshake | TLS, with the key looked up on the way | `handshake_deadline_s` |
//! | idle | first byte of a request | `idle_deadline_s`, and the session's own |
//! | request | last byte of it | `body_deadline_s`, and the session's own |
//! | answering | the decisions, then the socket | the session's own |
//!
//! The future of a connection is what an idle connection costs beside OpenSSL's own state, so whatever is rare or
//! short-lived is boxed and freed again.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use simtide_protocol::scp81::{Framing, HttpError, Limits, Request, RequestDecoder, Response};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_openssl::SslStream;

use super::admission::Permit;
use super::gate::{Gate, Slot};
use super::listener::{Counters, Shared};
use super::{Answer, CardSession, Found, Sessions, tls};
use crate::{config, kill_point};

type Stream = SslStream<Gate<TcpStream>>;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The final answer was handed to the network.
    Completed,
    /// The card or the network broke off, or the card has come back by another connection.
    Broken,
    /// The card was silent or slow for too long.
    Late,
    /// A request was not understood.
    BadRequest,
    /// X-Admin-From named another card.
    Refused,
    /// The platform stops.
    Stopped,
}

/// Serves one connection; the permit is given back at its end.
pub(super) async fn serve<S: Sessions>(stream: TcpStream, shared: Arc<Shared<S>>, _permit: Permit) {
    let _ = stream.set_nodelay(true);
    let Some((stream, slot)) = Box::pin(handshake(stream, &shared)).await else { return };
    // Without a found card the key was random: a handshake that succeeded all the same is nobody's.
    if slot.get().is_none_or(|found| found.is_none()) {
        Counters::count(&shared.counters.handshake_failed);
        return;
    }
    let mut connection = Connection {
        stream,
        slot,
        decoder: RequestDecoder::new(Limits {
            head_bytes_max: shared.config.head_bytes_max,
            body_bytes_max: shared.config.body_bytes_max,
        }),
        session: None,
        ends_at: Instant::now() + Duration::from_secs(shared.config.session_deadline_s),
        shared,
    };
    let how = connection.run().await;
    Box::pin(connection.finish(how)).await;
}

async fn handshake<S: Sessions>(stream: TcpStream, shared: &Arc<Shared<S>>) -> Option<(Stream, Slot)> {
    let slot = Slot::default();
    let looking = shared.clone();
    let look = Box::new(move |identity| -> super::gate::Lookup {
        Box::pin(async move { looking.sessions.find(identity).await })
    });
    let gate = Gate::new(stream, slot.clone(), look);
    let tls = tls::accept(&shared.context, slot.clone()).and_then(|ssl| SslStream::new(ssl, gate));
    let mut stream = match tls {
        Ok(stream) => stream,
        Err(error) => {
            tracing::error!(%error, "OpenSSL gave no TLS session to a card");
            return None;
        }
    };
    let deadline = Duration::from_secs(shared.config.handshake_deadline_s);
    match tokio::time::timeout(deadline, Pin::new(&mut stream).accept()).await {
        Ok(Ok(())) => {
            Counters::count(&shared.counters.handshakes);
            Some((stream, slot))
        }
        Ok(Err(error)) => {
            Counters::count(&shared.counters.handshake_failed);
            tracing::debug!(%error, "a handshake failed");
            None
        }
        Err(_) => {
            Counters::count(&shared.counters.handshake_late);
            None
        }
    }
}

struct Connection<S: Sessions> {
    stream: Stream,
    slot: Slot,
    decoder: RequestDecoder,
    session: Option<S::Session>,
    ends_at: Instant,
    shared: Arc<Shared<S>>,
}

/// Why no request came.
enum Silence {
    Ended(Ended),
    Http(HttpError),
}

impl<S: Sessions> Connection<S> {
    async fn run(&mut self) -> Ended {
        loop {
            let request = match self.next_request().await {
                Ok(request) => request,
                Err(Silence::Ended(how)) => return how,
                Err(Silence::Http(error)) => return Box::pin(self.refuse(error)).await,
            };
            // A future of its own: it is large, and gone again while the card is silent.
            if let Some(how) = Box::pin(self.answer(request)).await {
                return how;
            }
        }
    }

    /// Waits for a whole request.
    async fn next_request(&mut self) -> Result<Request, Silence> {
        let config = &self.shared.config;
        let mut deadline = self.ends_at.min(Instant::now() + Duration::from_secs(config.idle_deadline_s));
        let mut pending = self.decoder.receive(&[]).map_err(Silence::Http)?;
        let mut stopped = self.shared.stop.clone();
        loop {
            if let Some(request) = pending {
                return Ok(request);
            }
            let idle = self.decoder.is_idle();
            // While stopping, a dialogue under way goes on; a card that waits between dialogues is let go.
            let received = tokio::select! {
                biased;
                received = timeout_at(deadline, receive(&mut self.stream, &mut self.decoder)) => received,
                _ = stopped.wait_for(|stop| *stop), if idle && self.session.is_none() => {
                    return Err(Silence::Ended(Ended::Stopped));
                }
                () = superseded(self.session.as_mut()) => return Err(Silence::Ended(Ended::Broken)),
            };
            pending = match received {
                Ok(Ok(Received::Message(request))) => Some(request),
                Ok(Ok(Received::Part)) => None,
                Ok(Ok(Received::End)) => return Err(Silence::Ended(Ended::Broken)),
                Ok(Err(Failed::Io)) => return Err(Silence::Ended(Ended::Broken)),
                Ok(Err(Failed::Http(error))) => return Err(Silence::Http(error)),
                Err(_) => return Err(Silence::Ended(Ended::Late)),
            };
            if idle {
                let body = Duration::from_secs(config.body_deadline_s);
                deadline = self.ends_at.min(Instant::now() + body);
            }
        }
    }

    /// Lets the decisions answer; says how the session ended, if it did.
    async fn answer(&mut self, request: Request) -> Option<Ended> {
        let shared = self.shared.clone();
        let found = self.slot.get().and_then(|found| found.clone())?;
        if !self.says_who_it_is(&found, &request) {
            let _ = self.send(&Response::refusal(403)).await;
            return Some(Ended::Refused);
        }
        if self.session.is_none() {
            match shared.sessions.open(found.card).await {
                Ok(session) => self.session = Some(session),
                Err(busy) => {
                    Counters::count(&shared.counters.busy);
                    tracing::debug!(card = %found.card, %busy, "a second session was refused");
                    let _ = self.send(&Response::refusal(503)).await;
                    return Some(Ended::Refused);
                }
            }
        }
        let session = self.session.as_mut()?;
        let answer = match timeout_at(self.ends_at, session.request(request)).await {
            Ok(answer) => answer,
            Err(_) => return Some(Ended::Late),
        };
        Counters::count(&shared.counters.requests);
        let (response, last) = match answer {
            Answer::Continue(response) => (response, false),
            Answer::Finish(response) => (response, true),
        };
        if last {
            self.stream.get_mut().hold();
        }
        match timeout_at(self.ends_at, self.send(&response)).await {
            Ok(Ok(())) if last => Some(Ended::Completed),
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(Ended::Broken),
            Err(_) => Some(Ended::Late),
        }
    }

    fn says_who_it_is(&self, found: &Found, request: &Request) -> bool {
        let Some(said) = request.from.as_ref().and_then(|from| eid_of(from.as_str())) else { return true };
        let known = found.eid.map(|eid| eid.to_string()).unwrap_or_default();
        if said.eq_ignore_ascii_case(&known) {
            return true;
        }
        Counters::count(&self.shared.counters.admin_from_mismatch);
        tracing::warn!("X-Admin-From names another card than the PSK identity; the PSK identity holds");
        tracing::debug!(card = %found.card, said, "X-Admin-From names another card");
        self.shared.config.admin_from_mismatch == config::Mismatch::Log
    }

    async fn refuse(&mut self, error: HttpError) -> Ended {
        tracing::debug!(%error, "a card's request was not understood");
        let _ = timeout_at(self.ends_at, self.send(&Response::refusal(error.status()))).await;
        Ended::BadRequest
    }

    async fn send(&mut self, response: &Response) -> io::Result<()> {
        let framing = match self.shared.config.response_framing {
            config::Framing::Length => Framing::ContentLength,
            config::Framing::Chunked => Framing::Chunked,
        };
        kill_point::reached("answer.before");
        let sent = self.stream.write_all(&response.encode(framing)).await;
        kill_point::reached("answer.after");
        sent
    }

    /// Counts, tells the decisions, and closes.
    async fn finish(mut self, how: Ended) {
        let counters = &self.shared.counters;
        Counters::count(match how {
            Ended::Completed => &counters.completed,
            Ended::Broken => &counters.broken,
            Ended::Late => &counters.late,
            Ended::BadRequest => &counters.bad_request,
            Ended::Refused => &counters.refused_sessions,
            Ended::Stopped => &counters.stopped,
        });
        if let Some(session) = self.session.take() {
            session.ended(how).await;
        }
        if how != Ended::Broken {
            let _ = tokio::time::timeout(CLOSE_WAIT, self.stream.shutdown()).await;
        }
    }
}

/// How long the end of a connection may take to be sent.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The EID in `//se-id/eid/<EID>;...`; plain cards send free text, which says nothing.
fn eid_of(from: &str) -> Option<&str> {
    from.strip_prefix("//se-id/eid/").map(|rest| rest.split(';').next().unwrap_or_default())
}

async fn superseded(session: Option<&mut impl CardSession>) {
    match session {
        Some(session) => session.superseded().await,
        None => std::future::pending().await,
    }
}

/// Bytes taken from OpenSSL at once: a record.
const RECORD_BYTES: usize = 1 << 14;

thread_local! {
    /// Every connection of a thread reads through this: no connection owns a buffer while it waits.
    static SCRATCH: RefCell<Box<[u8; RECORD_BYTES]>> = RefCell::new(Box::new([0; RECORD_BYTES]));
}

enum Received {
    Message(Request),
    Part,
    End,
}

enum Failed {
    Io,
    Http(HttpError),
}

/// Waits for bytes and hands them to the decoder within the same poll.
async fn receive(stream: &mut Stream, decoder: &mut RequestDecoder) -> Result<Received, Failed> {
    poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch[..]);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(_)) => Poll::Ready(Err(Failed::Io)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Ok(Received::End)),
                Poll::Ready(Ok(())) => Poll::Ready(match decoder.receive(buffer.filled()) {
                    Ok(Some(request)) => Ok(Received::Message(request)),
                    Ok(None) => Ok(Received::Part),
                    Err(error) => Err(Failed::Http(error)),
                }),
            }
        })
    })
    .await
}
