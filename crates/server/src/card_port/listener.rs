//! The accept loop of the card port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::SslContext;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::admission::{Admission, Door};
use super::{Sessions, connection, tls};
use crate::config;

/// Pause after a failed accept, which means that the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What has become of the connections so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reset before TLS: no session was free.
    pub refused: AtomicU64,
    /// Handshakes that failed: wrong key, unknown identity, no common suite, not TLS.
    pub handshake_failed: AtomicU64,
    /// Handshakes that did not end in time.
    pub handshake_late: AtomicU64,
    /// Handshakes done.
    pub handshakes: AtomicU64,
    /// Sessions that ended with the final answer.
    pub completed: AtomicU64,
    /// Sessions that the card or the network broke off.
    pub broken: AtomicU64,
    /// Sessions that ended because the card was silent or slow.
    pub late: AtomicU64,
    /// Sessions that ended because a request was not understood.
    pub bad_request: AtomicU64,
    /// Second sessions of a card.
    pub busy: AtomicU64,
    /// X-Admin-From named another card than the PSK identity.
    pub admin_from_mismatch: AtomicU64,
    /// Sessions that ended because the platform stops.
    pub stopped: AtomicU64,
    /// Sessions ended with a refusal: a second session of a card, or X-Admin-From of another one.
    pub refused_sessions: AtomicU64,
    /// Requests answered.
    pub requests: AtomicU64,
}

impl Counters {
    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A running card port.
#[derive(Debug)]
pub struct CardPort {
    address: SocketAddr,
    admission: Arc<Admission>,
    counters: Arc<Counters>,
    stop: watch::Sender<bool>,
    accepting: tokio::task::JoinHandle<()>,
}

/// What every connection needs; one of it for all.
pub(super) struct Shared<S> {
    pub(super) config: config::CardPort,
    pub(super) context: SslContext,
    pub(super) sessions: S,
    pub(super) counters: Arc<Counters>,
    pub(super) stop: watch::Receiver<bool>,
}

/// Why a card port did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("the card port cannot listen on {address}: {source}; choose another card_port.listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// OpenSSL offers no PSK suites.
    #[error("OpenSSL cannot serve TLS-PSK: {0}; it needs TLS 1.2 and PSK-AES128-CBC-SHA256")]
    Tls(#[from] ErrorStack),
}

impl CardPort {
    /// Listens and serves until [`CardPort::stop`].
    pub async fn start<S: Sessions>(config: config::CardPort, sessions: S) -> Result<CardPort, StartError> {
        let failed = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let admission = Admission::new(
            config.sessions_max,
            config.admission_queue_max,
            Duration::from_millis(config.admission_wait_ms),
        );
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = watch::channel(false);
        let context = tls::context(&config)?;
        let shared =
            Arc::new(Shared { config, context, sessions, counters: counters.clone(), stop: stopped });
        let accepting = tokio::spawn(accept(listener, shared, admission.clone()));
        Ok(CardPort { address, admission, counters, stop, accepting })
    }

    /// Where it listens; tells the port where the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sessions open now, handshakes included.
    pub fn open(&self) -> u32 {
        self.admission.open()
    }

    /// The permits, for those who watch the load.
    pub fn admission(&self) -> Arc<Admission> {
        self.admission.clone()
    }

    /// What has become of the connections.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Accepts nothing more, tells sessions to end after their current answer, and waits for them within `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.accepting.abort();
        let _ = self.stop.send(true);
        let all_ended = async {
            while self.admission.open() > 0 {
                tokio::time::sleep(STOP_CHECK).await;
            }
        };
        if tokio::time::timeout(limit, all_ended).await.is_err() {
            tracing::warn!(
                open = self.admission.open(),
                "card sessions were cut off by the end of the platform"
            );
        }
    }
}

/// How often the end of the sessions is looked for while stopping.
const STOP_CHECK: Duration = Duration::from_millis(10);

async fn accept<S: Sessions>(listener: TcpListener, shared: Arc<Shared<S>>, admission: Arc<Admission>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a card's connection could not be accepted; raise the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match admission.knock() {
            Door::Open(permit) => {
                tokio::spawn(connection::serve(stream, shared.clone(), permit));
            }
            Door::Line(line) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    match line.wait().await {
                        Some(permit) => connection::serve(stream, shared, permit).await,
                        None => refuse(stream, &shared.counters),
                    }
                });
            }
            Door::Closed => refuse(stream, &shared.counters),
        }
    }
}

/// A reset instead of a close: nothing lingers, and the card knows at once.
fn refuse(stream: TcpStream, counters: &Counters) {
    Counters::count(&counters.refused);
    let _ = stream.set_zero_linger();
}
